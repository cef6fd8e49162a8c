//! Devices by name, as the Container Device Interface describes them (its specification 0.8): files of vendors say what a
//! container with a device gets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wharf_plan::run::Device;

use crate::error::{Error, Result};
use crate::models::HostConfig;
use crate::planner::run::HostDevice;

/// A description that is larger than this is none.
const LARGEST: u64 = 4 << 20;
/// So many files are looked at.
const MOST_FILES: usize = 1000;

/// What devices add to a container.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Edits {
    pub(crate) env: Vec<String>,
    pub(crate) devices: Vec<HostDevice>,
    /// Source on the host, target, read-only.
    pub(crate) mounts: Vec<(PathBuf, String, bool)>,
    pub(crate) groups: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    kind: String,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default)]
    container_edits: Described,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    name: String,
    #[serde(default)]
    container_edits: Described,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Described {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<serde_json::Value>,
    intel_rdt: Option<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
    #[serde(rename = "additionalGIDs", alias = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: u32,
    minor: u32,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    host_path: PathBuf,
    container_path: String,
    options: Vec<String>,
}

/// The names of CDI devices that a container asks for.
pub(crate) fn wanted(host: &HostConfig) -> Vec<String> {
    let requests = host.device_requests.iter().flatten();
    requests
        .filter(|r| r.driver.as_deref() == Some("cdi"))
        .flat_map(|r| r.device_ids.clone().unwrap_or_default())
        .collect()
}

/// Works out what the devices add, looking at the descriptions as they are now.
pub(crate) fn edits(dirs: &[PathBuf], names: &[String]) -> Result<Edits> {
    let mut edits = Edits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    let specs = load(dirs);
    let missing: Vec<&str> =
        names.iter().filter(|name| find(&specs, name).is_none()).map(String::as_str).collect();
    if !missing.is_empty() {
        return Err(Error::invalid(format!(
            "CDI device injection failed: unresolvable CDI devices {}",
            missing.join(", ")
        )));
    }
    let mut seen = BTreeSet::new();
    for (spec, device) in names.iter().filter_map(|name| find(&specs, name)) {
        // What all devices of a kind need is added once.
        if seen.insert(spec.kind.clone()) {
            apply(&mut edits, &spec.container_edits)?;
        }
        if seen.insert(format!("{}={}", spec.kind, device.name)) {
            apply(&mut edits, &device.container_edits)?;
        }
    }
    Ok(edits)
}

fn load(dirs: &[PathBuf]) -> Vec<Spec> {
    let mut files: BTreeMap<(usize, PathBuf), PathBuf> = BTreeMap::new();
    for (order, dir) in dirs.iter().enumerate() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten().take(MOST_FILES) {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml") {
                files.insert((order, path.clone()), path);
            }
        }
    }
    // Directories further back have the last word.
    files.into_values().rev().filter_map(|path| read(&path)).collect()
}

fn read(path: &Path) -> Option<Spec> {
    let meta = std::fs::metadata(path).ok()?;
    if !meta.is_file() || meta.len() > LARGEST {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    let json = path.extension().is_some_and(|e| e == "json");
    let spec = if json {
        serde_json::from_str(&text).map_err(|e| e.to_string())
    } else {
        // Its own limits stop documents that grow as they are read.
        serde_saphyr::from_str(&text).map_err(|e| e.to_string())
    };
    match spec {
        Ok(spec) => Some(spec),
        Err(error) => {
            tracing::warn!(error, path = %path.display(), "a CDI description cannot be used");
            None
        }
    }
}

/// The names of all devices that are described now, sorted.
pub(crate) fn discovered(dirs: &[PathBuf]) -> Vec<String> {
    let specs = load(dirs);
    let names: BTreeSet<String> =
        specs.iter().flat_map(|s| s.devices.iter().map(|d| format!("{}={}", s.kind, d.name))).collect();
    names.into_iter().collect()
}

fn find<'a>(specs: &'a [Spec], name: &str) -> Option<(&'a Spec, &'a Named)> {
    let (kind, device) = name.split_once('=')?;
    specs
        .iter()
        .filter(|spec| spec.kind == kind)
        .find_map(|spec| spec.devices.iter().find(|d| d.name == device).map(|d| (spec, d)))
}

fn apply(edits: &mut Edits, described: &Described) -> Result<()> {
    let refused = |what: String| Err(Error::invalid(format!("CDI device injection failed: {what}")));
    if !described.hooks.is_empty() {
        return refused("the description asks for hooks, which are not run".into());
    }
    if described.intel_rdt.is_some() || !described.net_devices.is_empty() {
        return refused("the description asks for intelRdt or netDevices, which are not supported".into());
    }
    for entry in &described.env {
        if entry.split_once('=').is_none_or(|(name, _)| name.is_empty()) || entry.contains('\0') {
            return refused(format!("invalid environment variable {entry:?}"));
        }
    }
    edits.env.extend(described.env.iter().cloned());
    for node in &described.device_nodes {
        edits.devices.push(device(node)?);
    }
    for mount in &described.mounts {
        let inside = &mount.container_path;
        if !inside.starts_with('/') || inside.split('/').any(|part| part == "..") || inside.contains('\0') {
            return refused(format!("invalid mount target {inside:?}"));
        }
        let read_only = mount.options.iter().any(|o| o == "ro");
        edits.mounts.push((mount.host_path.clone(), inside.clone(), read_only));
    }
    edits.groups.extend(&described.additional_gids);
    Ok(())
}

fn device(node: &Node) -> Result<HostDevice> {
    let refused = |what: String| Error::invalid(format!("CDI device injection failed: {what}"));
    if !node.path.starts_with("/dev/") || node.path.split('/').any(|part| part == "..") {
        return Err(refused(format!("the device node {:?} is not below /dev", node.path)));
    }
    let on_host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let found = crate::start::device(Path::new(on_host), &node.path);
    let mut made = match (found, node.kind.as_str()) {
        (Ok(Some(found)), _) => found,
        // A description may know more than the file system does.
        (_, "b" | "c" | "u") if node.major != 0 => Device {
            path: node.path.clone(),
            kind: if node.kind == "b" { 'b' } else { 'c' },
            major: node.major,
            minor: node.minor,
            mode: 0o600,
            uid: 0,
            gid: 0,
        },
        (Ok(None), _) => return Err(refused(format!("{on_host} is not a device node"))),
        (Err(e), _) => return Err(refused(format!("{on_host}: {e}"))),
    };
    if let Some(mode) = node.file_mode {
        made.mode = mode & 0o777;
    }
    made.uid = node.uid.unwrap_or(made.uid);
    made.gid = node.gid.unwrap_or(made.gid);
    let access = crate::planner::security::device_access(&node.permissions)?.to_owned();
    Ok(HostDevice { node: made, access })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_and_add_what_they_say() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let spec = |value: &str| {
            format!(
                r#"{{"cdiVersion": "0.6.0", "kind": "v.test/gpu", "containerEdits": {{"env": ["ALL=1"]}},
                    "devices": [{{"name": "0", "containerEdits": {{"env": ["ONE={value}"],
                    "deviceNodes": [{{"path": "/dev/gpu0", "hostPath": "/dev/null", "permissions": "rw"}}],
                    "mounts": [{{"hostPath": "/etc", "containerPath": "/mnt/x", "options": ["ro"]}}]}}}}]}}"#
            )
        };
        std::fs::write(one.path().join("a.json"), spec("old")).unwrap();
        std::fs::write(two.path().join("a.json"), spec("new")).unwrap();
        std::fs::write(two.path().join("broken.json"), "{").unwrap();
        let dirs = [one.path().to_owned(), two.path().to_owned()];
        let names = ["v.test/gpu=0".to_owned(), "v.test/gpu=0".to_owned()];
        let found = edits(&dirs, &names).unwrap();
        assert_eq!(found.env, ["ALL=1", "ONE=new"]);
        assert_eq!((found.devices.len(), found.devices[0].access.as_str()), (1, "rw"));
        assert_eq!((found.devices[0].node.path.as_str(), found.devices[0].node.minor), ("/dev/gpu0", 3));
        assert_eq!(found.mounts, [(PathBuf::from("/etc"), "/mnt/x".to_owned(), true)]);
        let e = edits(&dirs, &["v.test/gpu=1".to_owned(), "nonsense".to_owned()]).unwrap_err();
        assert_eq!(e.message, "CDI device injection failed: unresolvable CDI devices v.test/gpu=1, nonsense");
    }

    #[test]
    fn yaml_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let text = "cdiVersion: \"0.6.0\"\nkind: v.test/net\ncontainerEdits:\n  env: [A=1]\ndevices:\n\
                    - name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/n0\n      hostPath: /dev/null\n";
        std::fs::write(dir.path().join("a.yaml"), text).unwrap();
        std::fs::write(dir.path().join("b.yml"), "kind: v.test/other\ndevices: [{name: x}]\n").unwrap();
        let bomb = (1..20)
            .map(|n| format!("l{n}: &l{n} [{}]\n", vec![format!("*l{}", n - 1); 20].join(", ")))
            .collect::<Vec<_>>()
            .concat();
        std::fs::write(dir.path().join("bomb.yaml"), format!("l0: &l0 [x]\n{bomb}kind: v.test/bomb\n"))
            .unwrap();
        std::fs::write(dir.path().join("broken.yaml"), "kind: [").unwrap();
        let dirs = [dir.path().to_owned()];
        assert_eq!(discovered(&dirs), ["v.test/net=0", "v.test/other=x"]);
        let found = edits(&dirs, &["v.test/net=0".to_owned()]).unwrap();
        assert_eq!((found.env.as_slice(), found.devices.len()), (["A=1".to_owned()].as_slice(), 1));
    }

    #[test]
    fn hostile_descriptions() {
        for edit in [
            r#"{"deviceNodes": [{"path": "/etc/passwd"}]}"#,
            r#"{"deviceNodes": [{"path": "/dev/../etc/passwd"}]}"#,
            r#"{"deviceNodes": [{"path": "/dev/x", "hostPath": "/etc/passwd"}]}"#,
            r#"{"mounts": [{"hostPath": "/", "containerPath": "/../x"}]}"#,
            r#"{"env": ["=x"]}"#,
            r#"{"intelRdt": {"closID": "x"}}"#,
            r#"{"netDevices": [{"hostInterfaceName": "eth0"}]}"#,
            r#"{"hooks": [{"hookName": "createContainer", "path": "/bin/sh"}]}"#,
        ] {
            let described: Described = serde_json::from_str(edit).unwrap();
            assert!(apply(&mut Edits::default(), &described).is_err(), "{edit}");
        }
    }
}
