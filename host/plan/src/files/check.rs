//! What a file plan may say, given what its plugin was granted.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Device, Mount, Op, OptionValue, Place, Root, Source};

/// What the administrator lets a plugin's file plans do. Empty sets grant nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct FileGrants {
    /// Operations by their name in the contract: `make-dir`, `remove-tree`... Those inside `other` by their `kind`.
    pub ops: BTreeSet<String>,
    /// Types of file systems that may be mounted: `overlay`, `bind`, `tmpfs`.
    pub filesystems: BTreeSet<String>,
    /// Names of directories from outside the plugin's own trees.
    pub granted: BTreeSet<String>,
    /// Directories that a user gave to the object of this one call: a bind mount may show them, nothing else may touch them.
    #[serde(skip)]
    pub shown: BTreeSet<String>,
    /// Names of block devices; `loop`, `verity` and `by-id` grant these ways to get one.
    pub devices: BTreeSet<String>,
    /// Secrets that a mount option may name.
    pub secrets: BTreeSet<String>,
}

/// A plan that goes beyond the grants or makes no sense. Nothing of it was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {reason}")]
pub struct Refused {
    /// Which part of the plan: `operation 3 (make-dir)`.
    pub at: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Operations in one plan.
pub const MAX_OPS: usize = 4096;
/// Mounts in one plan.
pub const MAX_MOUNTS: usize = 1024;
/// Options of one mount, and places of one option.
pub const MAX_OPTIONS: usize = 1024;
/// Bytes of a path.
pub const MAX_PATH: usize = 4095;
/// Bytes of one component of a path.
pub const MAX_NAME: usize = 255;
/// Bytes of a file written by a plan.
pub const MAX_CONTENT: usize = 1 << 20;
/// Bytes of an extended attribute (the kernel's own limit).
pub const MAX_XATTR: usize = 65_536;
/// Bytes of a sparse file.
pub const MAX_SPARSE: u64 = 64 << 40;
/// Bytes of any other text.
pub const MAX_TEXT: usize = 4096;
/// Ranges of an id map (the kernel's own limit).
pub const MAX_ID_MAPS: usize = 340;

/// Start of the names of extended attributes with which the host marks its own files; no plan may set one.
pub const OWN_XATTRS: &str = "trusted.wharf.";

/// Host directory that holds removed trees until they are deleted; no plan may name it.
pub const TRASH: &str = ".trash";

/// Host directory that holds the images of a plugin's `data`, each at the path of its place; no plan may name it. So what
/// a container can write is never what is mounted as an image, however a plan moves, links, binds or gives away files.
pub const IMAGES: &str = ".images";

impl Op {
    /// Its name in the contract.
    pub fn kind(&self) -> &str {
        match self {
            Self::MakeDir(_) => "make-dir",
            Self::WriteFile(_) => "write-file",
            Self::MakeSparse(_) => "make-sparse",
            Self::CopyTree(_) => "copy-tree",
            Self::Rename(_) => "rename",
            Self::SetOwner(_) => "set-owner",
            Self::SetXattr(_) => "set-xattr",
            Self::SetQuota(_) => "set-quota",
            Self::RemoveTree(_) => "remove-tree",
            Self::SubvolumeCreate(_) => "subvolume-create",
            Self::SubvolumeClone(_) => "subvolume-clone",
            Self::SubvolumeRemove(_) => "subvolume-remove",
            Self::DatasetCreate(_) => "dataset-create",
            Self::DatasetSnapshot(_) => "dataset-snapshot",
            Self::DatasetRemove(_) => "dataset-remove",
            Self::OpenDevice(_) => "open-device",
            Self::Format(_) => "format",
            Self::Other(extension) => &extension.kind,
        }
    }
}

/// Checks a plan against the grants. Pure: places are sets of names here, nothing is looked up.
pub fn validate(ops: &[Op], mounts: &[Mount], grants: &FileGrants) -> Result<(), Refused> {
    if ops.len() > MAX_OPS {
        return Err(Refused { at: "plan".into(), reason: format!("more than {MAX_OPS} operations") });
    }
    if mounts.len() > MAX_MOUNTS {
        return Err(Refused { at: "plan".into(), reason: format!("more than {MAX_MOUNTS} mounts") });
    }
    let mut devices = 0;
    for (index, op) in ops.iter().enumerate() {
        operation(op, devices, grants).map_err(|reason| Refused {
            at: match op {
                Op::Other(_) => format!("operation {} ({})", index + 1, printable(op.kind())),
                _ => format!("operation {} ({})", index + 1, op.kind()),
            },
            reason,
        })?;
        if matches!(op, Op::OpenDevice(_)) {
            devices += 1;
        }
    }
    for (index, one) in mounts.iter().enumerate() {
        mount(one, index, devices, grants).map_err(|reason| Refused {
            at: format!("mount {} ({})", index + 1, printable(&one.fstype)),
            reason,
        })?;
    }
    Ok(())
}

type Check = Result<(), String>;

fn operation(op: &Op, devices: usize, grants: &FileGrants) -> Check {
    if !grants.ops.contains(op.kind()) {
        return Err("the plugin was not granted this operation".into());
    }
    // Mounts come after operations, so no operation has a mount to refer to.
    let place = |p: &Place| place(p, 0, grants);
    // Objects that come and go need a name of their own.
    let below = |p: &Place| {
        place(p)?;
        if p.path.is_empty() { Err("names a whole root".to_owned()) } else { Ok(()) }
    };
    match op {
        Op::MakeDir(o) => below(&o.at).and_then(|()| mode(o.mode)),
        Op::SetOwner(o) => place(&o.at).and_then(|()| mode(o.mode)),
        Op::WriteFile(f) => {
            below(&f.at)?;
            mode(f.mode)?;
            if f.content.len() > MAX_CONTENT {
                return Err(format!("content of more than {MAX_CONTENT} bytes"));
            }
            Ok(())
        }
        Op::MakeSparse(s) => {
            below(&s.at)?;
            if s.size > MAX_SPARSE { Err(format!("larger than {MAX_SPARSE} bytes")) } else { Ok(()) }
        }
        Op::CopyTree(c) => {
            place(&c.source)?;
            below(&c.target)?;
            if inside(&c.target, &c.source) {
                return Err("the target lies inside the source".into());
            }
            Ok(())
        }
        Op::Rename((from, to)) => {
            below(from)?;
            below(to)?;
            if inside(to, from) { Err("the target lies inside the source".into()) } else { Ok(()) }
        }
        Op::SetXattr(x) => {
            place(&x.at)?;
            if x.name.is_empty() || x.name.len() > MAX_NAME || x.name.contains('\0') {
                return Err("bad name of an extended attribute".into());
            }
            if x.name.starts_with(OWN_XATTRS) {
                return Err(format!("attributes {OWN_XATTRS}* are the host's own"));
            }
            if x.value.len() > MAX_XATTR {
                return Err(format!("value of more than {MAX_XATTR} bytes"));
            }
            Ok(())
        }
        Op::SetQuota(q) => place(&q.at),
        Op::RemoveTree(p) | Op::SubvolumeCreate(p) | Op::SubvolumeRemove(p) => below(p),
        Op::SubvolumeClone(c) => {
            below(&c.source)?;
            below(&c.target)
        }
        Op::DatasetCreate(d) => {
            dataset(&d.name)?;
            if let Some(origin) = &d.origin {
                dataset(origin)?;
            }
            if d.properties.len() > MAX_OPTIONS {
                return Err(format!("more than {MAX_OPTIONS} properties"));
            }
            d.properties.iter().try_for_each(|(k, v)| text(k).and_then(|()| text(v)))
        }
        Op::DatasetSnapshot(name) | Op::DatasetRemove(name) => dataset(name),
        Op::OpenDevice(d) => device(d, devices, grants),
        Op::Format(f) => {
            index(f.device, devices, "device")?;
            if !grants.filesystems.contains(&f.fstype) {
                return Err(format!("the plugin was not granted file system {}", printable(&f.fstype)));
            }
            text(&f.label)?;
            if f.options.len() > MAX_OPTIONS {
                return Err(format!("more than {MAX_OPTIONS} options"));
            }
            f.options.iter().try_for_each(|o| text(o))
        }
        Op::Other(e) => options(&e.parameters, 0, grants),
    }
}

fn device(device: &Device, devices: usize, grants: &FileGrants) -> Check {
    let granted = |name: &str| {
        if grants.devices.contains(name) {
            Ok(())
        } else {
            Err(format!("the plugin was not granted device {}", printable(name)))
        }
    };
    match device {
        Device::Loop(p) => granted("loop").and_then(|()| place(p, 0, grants)),
        Device::Verity(v) => {
            granted("verity")?;
            index(v.data, devices, "device")?;
            index(v.hash, devices, "device")?;
            if v.root_hash.is_empty()
                || v.root_hash.len() > 128
                || !v.root_hash.bytes().all(|b| b.is_ascii_hexdigit())
            {
                return Err("root hash is not hexadecimal".into());
            }
            Ok(())
        }
        Device::Granted(name) => granted(name),
        Device::ById(name) => {
            granted("by-id")?;
            component(name)
        }
    }
}

fn mount(mount: &Mount, position: usize, devices: usize, grants: &FileGrants) -> Check {
    if mount.fstype.is_empty() || !grants.filesystems.contains(&mount.fstype) {
        return Err("the plugin was not granted this file system".into());
    }
    if mount.fstype == "erofs" {
        image(mount)?;
    }
    match &mount.source {
        Source::None => {}
        Source::Place(p) => match &p.root {
            Root::Granted(name) if mount.fstype == "bind" && grants.shown.contains(name) => path(&p.path)?,
            _ => place(p, position, grants).and_then(|()| part(p))?,
        },
        Source::Device(d) => index(*d, devices, "device")?,
        Source::Remote(name) => text(name)?,
    }
    options(&mount.options, position, grants)?;
    if mount.id_maps.len() > MAX_ID_MAPS {
        return Err(format!("more than {MAX_ID_MAPS} id ranges"));
    }
    for map in &mount.id_maps {
        if map.size == 0
            || map.inside.checked_add(map.size).is_none()
            || map.outside.checked_add(map.size).is_none()
        {
            return Err("an id range is empty or wraps around".into());
        }
    }
    Ok(())
}

/// An image is one that the host wrote at this place, and is mounted as the host likes.
fn image(mount: &Mount) -> Check {
    match &mount.source {
        Source::Place(p) if p.root == Root::Data && !p.path.is_empty() => {}
        _ => return Err("an image is mounted from its place in the plugin's own data only".into()),
    }
    match mount.options.first() {
        Some((name, _)) => Err(format!("an image has no option {}", printable(name))),
        None => Ok(()),
    }
}

/// A mount shows part of the plugin's own trees, never a whole one: the host's own directories are in there, and the mount
/// may be a container's to write.
fn part(place: &Place) -> Check {
    match place.root {
        Root::Data | Root::Run if place.path.is_empty() => {
            Err("a whole root cannot be mounted, only what is in it".into())
        }
        _ => Ok(()),
    }
}

fn options(options: &[(String, OptionValue)], mounts: usize, grants: &FileGrants) -> Check {
    if options.len() > MAX_OPTIONS {
        return Err(format!("more than {MAX_OPTIONS} options"));
    }
    for (name, value) in options {
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'.');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(word) {
            return Err(format!("bad option name {}", printable(name)));
        }
        match value {
            OptionValue::Flag => {}
            // An option that is a path must come as a place, or the plugin would name host files.
            OptionValue::Text(t) if t.starts_with('/') || t.contains("..") => {
                return Err(format!("option {name} names a host path"));
            }
            OptionValue::Text(t) => text(t)?,
            OptionValue::Place(p) => place(p, mounts, grants).and_then(|()| part(p))?,
            OptionValue::Places(list) => {
                if list.len() > MAX_OPTIONS {
                    return Err(format!("more than {MAX_OPTIONS} places in option {name}"));
                }
                list.iter().try_for_each(|p| place(p, mounts, grants).and_then(|()| part(p)))?;
            }
            OptionValue::Secret(name) => {
                if !grants.secrets.contains(name) {
                    return Err(format!("the plugin was not granted secret {}", printable(name)));
                }
            }
        }
    }
    Ok(())
}

fn place(place: &Place, mounts: usize, grants: &FileGrants) -> Check {
    match &place.root {
        Root::Data | Root::Run => {}
        Root::Granted(name) => {
            if !grants.granted.contains(name) {
                return Err(format!("the plugin was not granted directory {}", printable(name)));
            }
        }
        Root::Object(id) => component(id)?,
        Root::Mount(n) => index(*n, mounts, "mount")?,
    }
    path(&place.path)
}

/// Whether a place is one in a plugin's own trees, for the host to write, walk and remove: nothing that is the host's.
pub fn is_own(place: &Place) -> bool {
    let owned = matches!(place.root, Root::Data | Root::Run | Root::Object(_));
    owned && !place.path.is_empty() && path(&place.path).is_ok()
}

/// A path is empty (the root itself) or `a/b/c`: relative, with no empty, `.` or `..` component.
fn path(path: &str) -> Check {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > MAX_PATH {
        return Err(format!("path of more than {MAX_PATH} bytes"));
    }
    if path.starts_with('/') {
        return Err(format!("path {} is absolute", printable(path)));
    }
    path.split('/').try_for_each(component)
}

fn component(name: &str) -> Check {
    if name.is_empty() || name.len() > MAX_NAME || name.contains(['\0', '/']) {
        return Err(format!("bad name {} in a path", printable(name)));
    }
    if name == "." || name == ".." || name == TRASH || name == IMAGES {
        return Err(format!("{name} is not allowed in a path"));
    }
    Ok(())
}

fn dataset(name: &str) -> Check {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':' | b'/' | b'@');
    let bad = name.is_empty()
        || name.len() > MAX_NAME
        || !name.bytes().all(word)
        || name.split('/').any(|c| c.is_empty() || c == "." || c == "..");
    if bad { Err(format!("bad dataset name {}", printable(name))) } else { Ok(()) }
}

fn text(text: &str) -> Check {
    if text.len() > MAX_TEXT || text.contains('\0') {
        return Err("a text is too long or contains a NUL".into());
    }
    Ok(())
}

fn mode(mode: u32) -> Check {
    if mode & !0o7777 != 0 { Err(format!("mode {mode:o} has more than permission bits")) } else { Ok(()) }
}

fn index(index: u32, count: usize, what: &str) -> Check {
    if usize::try_from(index).is_ok_and(|i| i < count) {
        Ok(())
    } else {
        Err(format!("refers to {what} {index}, which does not come before it"))
    }
}

/// Whether `inner` is `outer` or lies beneath it.
fn inside(inner: &Place, outer: &Place) -> bool {
    inner.root == outer.root
        && (outer.path.is_empty()
            || inner.path == outer.path
            || inner.path.strip_prefix(&outer.path).is_some_and(|rest| rest.starts_with('/')))
}

/// A plugin's text, safe to show and not too long.
fn printable(text: &str) -> String {
    let mut short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() {
        short.push('…');
    }
    format!("'{short}'")
}
