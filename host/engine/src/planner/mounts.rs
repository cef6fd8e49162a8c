//! What a container mounts: `-v`, `--mount`, `--tmpfs`, volumes of the image, other containers' volumes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::models::{ContainerConfig, HostConfig, Mount, MountBindOptionsPropagationEnum, MountType};
use crate::planner::names;

/// What kind of mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
    /// An image's files, read-only.
    Image,
}

/// One mount, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Kind.
    pub kind: Kind,
    /// Host path of a bind, reference of an image, name of a volume (empty until one is made up for an anonymous one).
    #[serde(default)]
    pub source: String,
    /// Absolute path inside.
    pub destination: String,
    /// No writing.
    #[serde(default)]
    pub read_only: bool,
    /// As given: `ro,z`.
    #[serde(default)]
    pub mode: String,
    /// `rprivate` and so on; empty for volumes and tmpfs.
    #[serde(default)]
    pub propagation: String,
    /// With the mounts below.
    #[serde(default = "yes")]
    pub recursive: bool,
    /// Read-only for the mounts below too, where the kernel can.
    #[serde(default)]
    pub read_only_recursive: bool,
    /// A kernel that cannot is an error.
    #[serde(default)]
    pub read_only_forced: bool,
    /// A bind whose ids are translated to those of the container's user namespace.
    #[serde(default)]
    pub id_mapped: bool,
    /// Make the host directory where it is missing.
    #[serde(default)]
    pub create_source: bool,
    /// Do not fill a new volume with the image's content.
    #[serde(default)]
    pub no_copy: bool,
    /// Name was made up; goes with the container when asked.
    #[serde(default)]
    pub anonymous: bool,
    /// Volume driver.
    #[serde(default)]
    pub driver: String,
    /// Options for a new volume.
    #[serde(default)]
    pub driver_options: BTreeMap<String, String>,
    /// Labels for a new volume.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Directory of the volume to show instead of its top.
    #[serde(default)]
    pub sub_path: Option<String>,
    /// Options of a tmpfs, `size=1m`.
    #[serde(default)]
    pub options: Vec<String>,
}

fn yes() -> bool {
    true
}

impl MountSpec {
    fn new(kind: Kind, source: &str, destination: &str) -> Self {
        Self {
            kind,
            source: source.to_owned(),
            destination: destination.to_owned(),
            read_only: false,
            mode: String::new(),
            propagation: if kind == Kind::Bind { "rprivate".into() } else { String::new() },
            recursive: true,
            read_only_recursive: true,
            read_only_forced: false,
            id_mapped: false,
            create_source: false,
            no_copy: false,
            anonymous: kind == Kind::Volume && source.is_empty(),
            driver: if kind == Kind::Volume { "local".into() } else { String::new() },
            driver_options: BTreeMap::new(),
            labels: BTreeMap::new(),
            sub_path: None,
            options: Vec::new(),
        }
    }
}

/// An absolute path without `.`, `..`, doubled and trailing slashes.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Files of /proc that may be covered, as LXCFS does.
const PROC_FILES: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

fn destination(path: &str) -> Result<String> {
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("invalid mount path: '{path}' mount path must be absolute")));
    }
    if path.contains('\0') || path.len() > 4095 {
        return Err(Error::invalid("invalid mount path: it contains a NUL byte or is too long"));
    }
    let clean = clean(path);
    if clean == "/" {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    // A fake /proc would take writes meant for the kernel (CVE-2019-16884).
    if (clean == "/proc" || clean.starts_with("/proc/")) && !PROC_FILES.contains(&clean.as_str()) {
        return Err(Error::invalid(format!("\"{clean}\" cannot be mounted because it is inside /proc")));
    }
    Ok(clean)
}

fn mode(spec: &mut MountSpec, text: &str) -> Result<()> {
    let bad = || Error::invalid(format!("invalid mode: {text}"));
    let (mut access, mut copy, mut label, mut propagation) = (0, 0, 0, 0);
    for word in text.split(',') {
        match word {
            "rw" => access += 1,
            "ro" => {
                access += 1;
                spec.read_only = true;
            }
            "z" | "Z" => label += 1,
            "nocopy" if spec.kind == Kind::Volume => {
                copy += 1;
                spec.no_copy = true;
            }
            "copy" if spec.kind == Kind::Volume => copy += 1,
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" if spec.kind == Kind::Bind => {
                propagation += 1;
                word.clone_into(&mut spec.propagation);
            }
            "consistent" | "cached" | "delegated" => {}
            // As podman has it: the files' owners are those that the container knows.
            "idmap" if spec.kind == Kind::Bind => spec.id_mapped = true,
            _ => return Err(bad()),
        }
    }
    if access > 1 || copy > 1 || label > 1 || propagation > 1 {
        return Err(bad());
    }
    text.clone_into(&mut spec.mode);
    Ok(())
}

/// Reads `-v`'s `source:destination[:mode]`.
pub fn bind(text: &str, volume_driver: &str) -> Result<MountSpec> {
    let bad = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, dest, flags) = match parts.as_slice() {
        [dest] => ("", *dest, None),
        [source, dest] => (*source, *dest, None),
        [source, dest, flags] => (*source, *dest, Some(*flags)),
        _ => return Err(bad()),
    };
    if dest.is_empty() || (parts.len() > 1 && source.is_empty()) || flags == Some("") {
        return Err(bad());
    }
    let dest =
        destination(dest).map_err(|e| e.context(format_args!("invalid volume specification: '{text}'")))?;
    let mut spec = if source.starts_with('/') {
        let mut spec = MountSpec::new(Kind::Bind, &clean(source), &dest);
        spec.create_source = true;
        spec
    } else {
        if !source.is_empty() {
            names::volume(source)?;
        }
        let mut spec = MountSpec::new(Kind::Volume, source, &dest);
        if !volume_driver.is_empty() {
            volume_driver.clone_into(&mut spec.driver);
        }
        spec
    };
    if let Some(flags) = flags {
        mode(&mut spec, flags)?;
    }
    Ok(spec)
}

/// A place of `Config.Volumes`: a path and nothing else, as images name them too. What looks like `source:destination` is
/// a path with a colon, so that no image has the host's directories mounted. One that is not absolute begins at the root.
fn anonymous(path: &str, volume_driver: &str) -> Result<MountSpec> {
    let bad = || format!("invalid volume specification: '{path}'");
    if path.is_empty() {
        return Err(Error::invalid(bad()));
    }
    let rooted = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let dest = destination(&rooted).map_err(|e| e.context(bad()))?;
    let mut spec = MountSpec::new(Kind::Volume, "", &dest);
    if !volume_driver.is_empty() {
        volume_driver.clone_into(&mut spec.driver);
    }
    Ok(spec)
}

/// Reads one of `--mount`.
pub fn mount(m: &Mount) -> Result<MountSpec> {
    let kind_name = m.typ.map_or_else(|| "volume".to_owned(), |t| t.to_string());
    let bad = |text: &str| Error::invalid(format!("invalid mount config for type {kind_name:?}: {text}"));
    let target = m.target.as_deref().unwrap_or("");
    let source = m.source.as_deref().unwrap_or("");
    if target.is_empty() {
        return Err(bad("field Target must not be empty"));
    }
    let dest = destination(target).map_err(|e| bad(&e.message))?;
    let foreign = |present: bool, field: &str| {
        if present { Err(bad(&format!("field {field} must not be specified"))) } else { Ok(()) }
    };
    let mut spec = match m.typ {
        Some(MountType::BIND) => {
            if source.is_empty() {
                return Err(bad("field Source must not be empty"));
            }
            if !source.starts_with('/') || source.contains('\0') {
                return Err(bad(&format!("invalid mount path: '{source}' mount path must be absolute")));
            }
            foreign(m.volume_options.is_some(), "VolumeOptions")?;
            foreign(m.tmpfs_options.is_some(), "TmpfsOptions")?;
            foreign(m.image_options.is_some(), "ImageOptions")?;
            let mut spec = MountSpec::new(Kind::Bind, &clean(source), &dest);
            if let Some(o) = &m.bind_options {
                if let Some(p) = o.propagation.filter(|p| *p != MountBindOptionsPropagationEnum::EMPTY) {
                    spec.propagation = p.to_string();
                }
                spec.recursive = o.non_recursive != Some(true);
                spec.create_source = o.create_mountpoint == Some(true);
                let (only_top, forced) =
                    (o.read_only_non_recursive == Some(true), o.read_only_force_recursive == Some(true));
                let conflict = match (m.read_only == Some(true), only_top, forced) {
                    (false, true, _) => Some("!ReadOnly && BindOptions.ReadOnlyNonRecursive"),
                    (false, _, true) => Some("!ReadOnly && BindOptions.ReadOnlyForceRecursive"),
                    (_, true, true) => Some("ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive"),
                    _ => None,
                };
                if let Some(conflict) = conflict {
                    return Err(Error::invalid(format!("mount options conflict: {conflict}")));
                }
                (spec.read_only_recursive, spec.read_only_forced) = (!only_top, forced);
            }
            spec
        }
        Some(MountType::VOLUME) | None => {
            foreign(m.bind_options.is_some(), "BindOptions")?;
            foreign(m.tmpfs_options.is_some(), "TmpfsOptions")?;
            foreign(m.image_options.is_some(), "ImageOptions")?;
            if !source.is_empty() {
                names::volume(source).map_err(|e| bad(&e.message))?;
            }
            let mut spec = MountSpec::new(Kind::Volume, source, &dest);
            if let Some(o) = &m.volume_options {
                spec.no_copy = o.no_copy == Some(true);
                spec.labels = o.labels.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
                spec.sub_path = o.subpath.clone().filter(|p| !p.is_empty());
                if let Some(p) = &spec.sub_path
                    && (p.starts_with('/') || p.split('/').any(|s| s == ".."))
                {
                    return Err(bad("subpath must be a relative path within the volume"));
                }
                if let Some(d) = &o.driver_config {
                    if let Some(name) = d.name.as_deref().filter(|n| !n.is_empty()) {
                        name.clone_into(&mut spec.driver);
                    }
                    spec.driver_options =
                        d.options.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
                }
            }
            if spec.anonymous && spec.sub_path.is_some() {
                return Err(bad("must not set Subpath when using anonymous volumes"));
            }
            if spec.anonymous && m.read_only == Some(true) {
                return Err(bad("must not set ReadOnly mode when using anonymous volumes"));
            }
            spec
        }
        Some(MountType::TMPFS) => {
            if !source.is_empty() {
                return Err(bad("field Source must not be specified"));
            }
            foreign(m.bind_options.is_some(), "BindOptions")?;
            foreign(m.volume_options.is_some(), "VolumeOptions")?;
            foreign(m.image_options.is_some(), "ImageOptions")?;
            let mut spec = MountSpec::new(Kind::Tmpfs, "", &dest);
            if let Some(o) = &m.tmpfs_options {
                if let Some(size) = o.size_bytes {
                    if size < 0 {
                        return Err(bad("negative size"));
                    }
                    spec.options.push(format!("size={size}"));
                }
                if let Some(mode) = o.mode {
                    if !(0..=0o7777).contains(&mode) {
                        return Err(bad(&format!("invalid mode {mode:o}")));
                    }
                    spec.options.push(format!("mode={mode:o}"));
                }
                for option in o.options.iter().flatten() {
                    tmpfs_option(&mut spec, &option.join("=")).map_err(|e| bad(&e.message))?;
                }
            }
            spec
        }
        Some(MountType::IMAGE) => {
            if source.is_empty() {
                return Err(bad("field Source must not be empty"));
            }
            foreign(m.bind_options.is_some(), "BindOptions")?;
            foreign(m.volume_options.is_some(), "VolumeOptions")?;
            foreign(m.tmpfs_options.is_some(), "TmpfsOptions")?;
            let mut spec = MountSpec::new(Kind::Image, source, &dest);
            spec.read_only = true;
            spec.sub_path =
                m.image_options.as_ref().and_then(|o| o.subpath.clone()).filter(|p| !p.is_empty());
            if let Some(p) = &spec.sub_path
                && (p.starts_with('/') || p.contains('\0') || p.split('/').any(|s| s == ".."))
            {
                return Err(bad("subpath must be a relative path within the image"));
            }
            spec
        }
        Some(_) => return Err(bad("this mount type is not supported by this engine")),
    };
    if m.read_only == Some(true) {
        spec.read_only = true;
    }
    Ok(spec)
}

fn tmpfs_option(spec: &mut MountSpec, option: &str) -> Result<()> {
    let bad = || Error::invalid(format!("invalid tmpfs option {option:?}"));
    match option {
        "" | "defaults" | "rw" | "nosuid" | "nodev" | "noexec" | "suid" | "dev" | "exec" | "async"
        | "sync" | "dirsync" | "atime" | "noatime" | "diratime" | "nodiratime" | "relatime"
        | "norelatime" | "strictatime" | "nostrictatime" | "mand" | "nomand" | "private" | "rprivate"
        | "shared" | "rshared" | "slave" | "rslave" => {
            if matches!(option, "suid" | "dev" | "exec") {
                spec.options.push(option.to_owned());
            }
            Ok(())
        }
        "ro" => {
            spec.read_only = true;
            Ok(())
        }
        _ => {
            let (key, value) = option.split_once('=').ok_or_else(bad)?;
            let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
            let good = match key {
                "size" | "nr_blocks" | "nr_inodes" => {
                    digits(value.trim_end_matches(['k', 'm', 'g', 'K', 'M', 'G', '%']))
                }
                "mode" => {
                    value.len() <= 5 && !value.is_empty() && value.bytes().all(|b| (b'0'..=b'7').contains(&b))
                }
                "uid" | "gid" => digits(value),
                "mpol" | "huge" => value.bytes().all(|b| b.is_ascii_alphanumeric() || b":-=,_".contains(&b)),
                _ => false,
            };
            if !good {
                return Err(bad());
            }
            spec.options.push(option.to_owned());
            Ok(())
        }
    }
}

/// Reads one of `--tmpfs`.
pub fn tmpfs(path: &str, options: &str) -> Result<MountSpec> {
    let mut spec = MountSpec::new(Kind::Tmpfs, "", &destination(path)?);
    for option in options.split(',') {
        tmpfs_option(&mut spec, option)?;
    }
    Ok(spec)
}

/// Reads `--volumes-from`'s `container[:mode]`.
pub fn volumes_from(text: &str) -> Result<(&str, bool)> {
    let bad = || Error::invalid(format!("invalid volumes-from specification: {text:?}"));
    match text.split_once(':') {
        None if !text.is_empty() => Ok((text, false)),
        Some((name, "" | "rw" | "z" | "Z")) if !name.is_empty() => Ok((name, false)),
        Some((name, "ro")) if !name.is_empty() => Ok((name, true)),
        _ => Err(bad()),
    }
}

/// Everything that a container mounts, parents before children. `others` has the mounts of the containers that
/// `--volumes-from` names, in its order.
pub fn all(
    config: &ContainerConfig,
    host: &HostConfig,
    others: &[(Vec<MountSpec>, bool)],
) -> Result<Vec<MountSpec>> {
    let driver = host.volume_driver.as_deref().unwrap_or("");
    let mut by_place: BTreeMap<String, (MountSpec, bool)> = BTreeMap::new();
    let entries = host.binds.as_ref().map_or(0, Vec::len) + host.mounts.as_ref().map_or(0, Vec::len);
    if entries > 1000 {
        return Err(Error::invalid("more than 1000 mounts"));
    }
    for (list, read_only) in others {
        for spec in list.iter().filter(|s| s.kind != Kind::Tmpfs) {
            let mut spec = spec.clone();
            spec.read_only |= read_only;
            spec.no_copy = true;
            by_place.insert(spec.destination.clone(), (spec, false));
        }
    }
    let mut own = Vec::new();
    for text in host.binds.iter().flatten() {
        own.push(bind(text, driver)?);
    }
    for m in host.mounts.iter().flatten() {
        own.push(mount(m)?);
    }
    for (path, options) in host.tmpfs.iter().flatten() {
        own.push(tmpfs(path, options)?);
    }
    for spec in own {
        let place = spec.destination.clone();
        if let Some((_, true)) = by_place.insert(place.clone(), (spec, true)) {
            return Err(Error::invalid(format!("Duplicate mount point: {place}")));
        }
    }
    for path in config.volumes.iter().flatten() {
        let spec = anonymous(path, driver)?;
        by_place.entry(spec.destination.clone()).or_insert((spec, false));
    }
    let mut list: Vec<MountSpec> = by_place.into_values().map(|(spec, _)| spec).collect();
    list.sort_by_key(|s| s.destination.matches('/').count());
    Ok(list)
}

/// Flags and options of a tmpfs: Docker's defaults unless told otherwise.
pub fn tmpfs_flags(spec: &MountSpec) -> (Vec<String>, bool, bool, bool) {
    let has = |word: &str| spec.options.iter().any(|o| o == word);
    let options =
        spec.options.iter().filter(|o| !matches!(o.as_str(), "suid" | "dev" | "exec")).cloned().collect();
    (options, !has("suid"), !has("dev"), !has("exec"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{MountBindOptions, MountTmpfsOptions, MountVolumeOptions};

    #[test]
    fn binds() {
        let b = bind("/a/../b:/x/:ro,rslave", "").unwrap();
        assert_eq!((b.kind, b.source.as_str(), b.destination.as_str()), (Kind::Bind, "/b", "/x"));
        assert!(b.read_only && b.create_source);
        assert_eq!(b.propagation, "rslave");
        let v = bind("data:/x:nocopy", "").unwrap();
        assert!(v.kind == Kind::Volume && v.no_copy && !v.anonymous);
        assert!(bind("/x", "").unwrap().anonymous);
        let cases = [
            ("a:b:c:d", "invalid volume specification: 'a:b:c:d'"),
            (":/x", "invalid volume specification: ':/x'"),
            ("/a:", "invalid volume specification: '/a:'"),
            ("/a:/b:", "invalid volume specification: '/a:/b:'"),
            ("/a:/b:foo", "invalid mode: foo"),
            ("/a:/b:ro,rw", "invalid mode: ro,rw"),
            ("vv:/b:rslave", "invalid mode: rslave"),
            (
                "/a:rel",
                "invalid volume specification: '/a:rel': invalid mount path: 'rel' mount path must be absolute",
            ),
            ("/a:/", "invalid volume specification: '/a:/': invalid specification: destination can't be '/'"),
            (
                "/a:/b/../proc/x",
                "invalid volume specification: '/a:/b/../proc/x': \"/proc/x\" cannot be mounted because it is inside /proc",
            ),
        ];
        for (text, message) in cases {
            let e = bind(text, "").unwrap_err();
            assert_eq!((e.kind, e.message.as_str()), (crate::Kind::Invalid, message));
        }
        assert!(
            bind("../etc:/x", "")
                .unwrap_err()
                .message
                .contains("includes invalid characters for a local volume name")
        );
    }

    fn m(typ: MountType, source: &str, target: &str) -> Mount {
        Mount { typ: Some(typ), source: Some(source.into()), target: Some(target.into()), ..Mount::default() }
    }

    #[test]
    fn mounts() {
        let spec = mount(&m(MountType::BIND, "/a", "/b")).unwrap();
        assert!(!spec.create_source && spec.recursive);
        let cases = [
            (
                m(MountType::BIND, "/a", ""),
                "invalid mount config for type \"bind\": field Target must not be empty",
            ),
            (
                m(MountType::BIND, "", "/b"),
                "invalid mount config for type \"bind\": field Source must not be empty",
            ),
            (
                m(MountType::BIND, "a", "/b"),
                "invalid mount config for type \"bind\": invalid mount path: 'a' mount path must be absolute",
            ),
            (
                m(MountType::TMPFS, "/a", "/b"),
                "invalid mount config for type \"tmpfs\": field Source must not be specified",
            ),
            (
                Mount { bind_options: Some(MountBindOptions::default()), ..m(MountType::VOLUME, "a1", "/b") },
                "invalid mount config for type \"volume\": field BindOptions must not be specified",
            ),
            (
                Mount {
                    volume_options: Some(MountVolumeOptions {
                        subpath: Some("a/../../b".into()),
                        ..MountVolumeOptions::default()
                    }),
                    ..m(MountType::VOLUME, "a1", "/b")
                },
                "invalid mount config for type \"volume\": subpath must be a relative path within the volume",
            ),
            (
                Mount {
                    tmpfs_options: Some(MountTmpfsOptions {
                        mode: Some(0o10000),
                        ..MountTmpfsOptions::default()
                    }),
                    ..m(MountType::TMPFS, "", "/b")
                },
                "invalid mount config for type \"tmpfs\": invalid mode 10000",
            ),
        ];
        for (mount_config, message) in cases {
            assert_eq!(mount(&mount_config).unwrap_err().message, message);
        }
    }

    #[test]
    fn read_only_goes_down_unless_told_otherwise() {
        let with = |read_only, only_top, forced| {
            mount(&Mount {
                read_only: Some(read_only),
                bind_options: Some(MountBindOptions {
                    read_only_non_recursive: Some(only_top),
                    read_only_force_recursive: Some(forced),
                    ..MountBindOptions::default()
                }),
                ..m(MountType::BIND, "/a", "/b")
            })
        };
        let shape = |s: MountSpec| (s.read_only, s.read_only_recursive, s.read_only_forced);
        assert_eq!(shape(with(true, false, false).unwrap()), (true, true, false));
        assert_eq!(shape(with(true, true, false).unwrap()), (true, false, false));
        assert_eq!(shape(with(true, false, true).unwrap()), (true, true, true));
        assert!(bind("/a:/b:ro", "").unwrap().read_only_recursive);
        for (read_only, only_top, forced, text) in [
            (false, true, false, "!ReadOnly && BindOptions.ReadOnlyNonRecursive"),
            (false, false, true, "!ReadOnly && BindOptions.ReadOnlyForceRecursive"),
            (true, true, true, "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive"),
        ] {
            let e = with(read_only, only_top, forced).unwrap_err();
            assert_eq!(e.message, format!("mount options conflict: {text}"));
        }
        let anonymous = Mount { read_only: Some(true), ..m(MountType::VOLUME, "", "/b") };
        assert_eq!(
            mount(&anonymous).unwrap_err().message,
            "invalid mount config for type \"volume\": must not set ReadOnly mode when using anonymous volumes"
        );
        assert!(bind("/a:/b:idmap", "").unwrap().id_mapped);
        assert_eq!(bind("vol:/b:idmap", "").unwrap_err().message, "invalid mode: idmap");
    }

    #[test]
    fn tmpfs_options() {
        let spec = tmpfs("/run", "size=64m,mode=755,exec,ro").unwrap();
        let (options, nosuid, nodev, noexec) = tmpfs_flags(&spec);
        assert_eq!(options, ["size=64m", "mode=755"]);
        assert!(nosuid && nodev && !noexec && spec.read_only);
        for bad in ["size=x", "mode=9", "foo", "foo=1", "size=", "uid=-1"] {
            assert!(tmpfs("/run", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn order_and_duplicates() {
        let config = ContainerConfig {
            volumes: Some(vec!["/a/b".into(), "/data".into()]),
            ..ContainerConfig::default()
        };
        let host =
            HostConfig { binds: Some(vec!["/x:/a/b/c".into(), "v1:/data".into()]), ..HostConfig::default() };
        let list = all(&config, &host, &[]).unwrap();
        let places: Vec<_> = list.iter().map(|s| s.destination.as_str()).collect();
        assert_eq!(places, ["/data", "/a/b", "/a/b/c"]);
        assert_eq!(list[0].source, "v1");
        // A declared volume is a path, whatever it looks like.
        for (text, place) in
            [("/etc:/x", "/etc:/x"), ("v1:/x:ro", "/v1:/x:ro"), ("/a:rw", "/a:rw"), ("data", "/data")]
        {
            let config = ContainerConfig { volumes: Some(vec![text.into()]), ..ContainerConfig::default() };
            let list = all(&config, &HostConfig::default(), &[]).unwrap();
            assert_eq!((list[0].kind, list[0].source.as_str()), (Kind::Volume, ""), "{text}");
            assert_eq!((list[0].destination.as_str(), list[0].read_only), (place, false));
        }
        let host = HostConfig { binds: Some(vec!["/x:/a".into(), "/y:/a/".into()]), ..HostConfig::default() };
        assert_eq!(all(&config, &host, &[]).unwrap_err().message, "Duplicate mount point: /a");
        let from = vec![(vec![bind("v9:/data", "").unwrap()], true)];
        let list = all(&config, &HostConfig::default(), &from).unwrap();
        assert!(list.iter().any(|s| s.source == "v9" && s.read_only && s.no_copy));
    }
}
