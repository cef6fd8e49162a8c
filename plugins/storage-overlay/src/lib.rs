//! The storage driver `overlay2`: every snapshot is a directory, and a container sees them stacked.
//!
//! On disk, below the plugin's own directory: `<name>/diff` holds what a snapshot adds to its ancestors, `<name>/work`
//! is overlay's scratch space while a snapshot can be written. Names are short forms of the host's ids.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::files::{
    Mount, MountAttributes, Op, OptionValue, Place, Quota, data, dir_name, make_dir, mounted,
};
use wharf_plugin_sdk::storage::{
    ApplyMode, Capabilities, DiffMode, Driver, Features, HostFacts, Kind, PrepareRequest, Prepared, Purpose,
    Snapshot, Stack,
};
use wharf_plugin_sdk::types::{Cookie, IdMap, Labels};
use wharf_plugin_sdk::{Error, Host, Result};

/// The kernel takes 500 lower layers; some are kept back for the bottom of a taller stack.
const LOWER_LAYERS: usize = 490;

/// File systems that cannot hold an overlay's upper directory.
const UNFIT: [&str; 6] = ["overlay", "overlayfs", "nfs", "nfs4", "ecryptfs", "aufs"];

/// The driver.
#[derive(Debug, Default)]
pub struct Overlay;

impl Driver for Overlay {
    fn probe(&self, _host: &dyn Host, facts: &HostFacts, options: &Labels) -> Result<Capabilities> {
        for (name, _) in options {
            let short =
                name.strip_prefix("overlay2.").or_else(|| name.strip_prefix("overlay.")).unwrap_or(name);
            if !matches!(short, "size" | "override_kernel_check") {
                return Err(Error::invalid(format!("overlay2: unknown option {name}")));
            }
        }
        if !facts.filesystems.iter().any(|name| name == "overlay") {
            return Err(Error::unsupported("overlay2: this kernel has no overlay file system"));
        }
        let backing = facts.backing_filesystem.as_str();
        if UNFIT.contains(&backing) {
            return Err(Error::unsupported(format!(
                "overlay2: a data directory on {backing} cannot hold layers; use another one or the driver vfs"
            )));
        }
        if facts.user_namespace {
            return Err(Error::unsupported("overlay2: not in a user namespace; use the driver vfs"));
        }
        let mut features = Features::REBASE_ON_COMMIT | Features::ID_MAPPED | Features::EXACT_DIFFS;
        if facts.features.iter().any(|feature| feature == "project-quota") {
            features |= Features::SIZE_LIMIT;
        }
        let shown = if matches!(backing, "ext2" | "ext3" | "ext4") { "extfs" } else { backing };
        let status = [
            ("Backing Filesystem", shown),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        ];
        Ok(Capabilities {
            apply: ApplyMode::Unpack,
            diff: DiffMode::OverlayUpper,
            features,
            status: status.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
        })
    }

    fn prepare(&self, _host: &dyn Host, request: &PrepareRequest) -> Result<Prepared> {
        let name = dir_name(&request.id);
        let cookie = cookie(&request.id_maps, request.mount_label.as_deref());
        // A view of something needs no place of its own.
        if request.kind == Kind::View && !request.lineage.is_empty() {
            return Ok(Prepared { ops: Vec::new(), cookie });
        }
        let mut ops = vec![
            make_dir(data(name.clone()), 0o710),
            // On disk, ids stay as they are inside: the layers are idmapped when they are mounted.
            make_dir(diff(&name), 0o755),
        ];
        if request.kind == Kind::Active {
            ops.push(make_dir(work(&name), 0o700));
        }
        if request.size_limit.is_some() {
            ops.push(Op::SetQuota(Quota { at: data(name), bytes: request.size_limit, inodes: None }));
        }
        Ok(Prepared { ops, cookie })
    }

    fn mounts(
        &self,
        _host: &dyn Host,
        snapshot: &Snapshot,
        lineage: &[Snapshot],
        purpose: Purpose,
    ) -> Result<Stack> {
        let facts = Facts::read(&snapshot.cookie)?;
        let mut stack = Builder { mounts: Vec::new(), maps: facts.maps };
        let name = dir_name(&snapshot.id);
        let mut lower: Vec<String> = lineage.iter().map(|ancestor| dir_name(&ancestor.id)).collect();
        let writable = snapshot.kind == Kind::Active && purpose != Purpose::ReadOnlyInspect;
        if !writable && (snapshot.kind != Kind::View || lineage.is_empty()) {
            lower.insert(0, name.clone());
        }
        let upper = writable.then(|| diff(&name));
        match (writable, lower.as_slice()) {
            // Nothing below, or nothing but one directory: no overlay is needed.
            (true, []) => stack.bind(&name, MountAttributes::empty()),
            (false, [only]) => stack.bind(only, MountAttributes::READ_ONLY),
            _ => {
                let upper = if writable { Some(stack.upper(&name)) } else { None };
                let lower = stack.lower(&lower)?;
                stack.overlay(lower, upper, facts.label);
            }
        }
        Ok(Stack { mounts: stack.mounts, upper })
    }

    fn commit(
        &self,
        _host: &dyn Host,
        active: &Snapshot,
        name: &str,
        _lineage: &[Snapshot],
    ) -> Result<Prepared> {
        let (from, to) = (dir_name(&active.id), dir_name(name));
        let mut ops = Vec::new();
        if from != to {
            ops.push(Op::Rename((data(from), data(to.clone()))));
        }
        ops.push(Op::RemoveTree(work(&to)));
        Ok(Prepared { ops, cookie: Cookie::new() })
    }

    fn remove(&self, _host: &dyn Host, snapshot: &Snapshot) -> Result<Vec<Op>> {
        Ok(vec![Op::RemoveTree(data(dir_name(&snapshot.id)))])
    }

    fn collect(&self, _host: &dyn Host, live: &[String], found: &[String]) -> Result<Vec<Op>> {
        let live: std::collections::BTreeSet<String> = live.iter().map(|id| dir_name(id)).collect();
        Ok(found
            .iter()
            .filter(|name| !live.contains(*name))
            .map(|name| Op::RemoveTree(data(name.clone())))
            .collect())
    }

    fn describe(&self, _host: &dyn Host, snapshot: &Snapshot) -> Result<String> {
        let name = dir_name(&snapshot.id);
        Ok(if snapshot.kind == Kind::Active {
            format!(r#"{{"UpperDir":"{name}/diff","WorkDir":"{name}/work"}}"#)
        } else {
            format!(r#"{{"UpperDir":"{name}/diff"}}"#)
        })
    }
}

fn diff(name: &str) -> Place {
    data(format!("{name}/diff"))
}

fn work(name: &str) -> Place {
    data(format!("{name}/work"))
}

/// Collects the mounts of a stack, idmapped ones where a user namespace asks for them.
struct Builder {
    mounts: Vec<Mount>,
    maps: Vec<IdMap>,
}

impl Builder {
    fn push(&mut self, mount: Mount) -> u32 {
        self.mounts.push(mount);
        u32::try_from(self.mounts.len() - 1).unwrap_or(u32::MAX)
    }

    fn bind(&mut self, name: &str, attributes: MountAttributes) {
        let mut mount = Mount::bind(diff(name)).with(attributes);
        mount.id_maps.clone_from(&self.maps);
        self.push(mount);
    }

    /// Overlay cannot be idmapped itself, but its layers can.
    fn layer(&mut self, name: &str) -> Place {
        if self.maps.is_empty() {
            return diff(name);
        }
        let mut mount = Mount::bind(diff(name));
        mount.id_maps.clone_from(&self.maps);
        mounted(self.push(mount), "")
    }

    fn upper(&mut self, name: &str) -> (Place, Place) {
        if self.maps.is_empty() {
            return (diff(name), work(name));
        }
        // Both must come from one mount.
        let mut mount = Mount::bind(data(name));
        mount.id_maps.clone_from(&self.maps);
        let index = self.push(mount);
        (mounted(index, "diff"), mounted(index, "work"))
    }

    /// A stack taller than overlay takes becomes two: the bottom is mounted first and is one layer of the top. It can
    /// only be the bottom, as an overlay hides the whiteouts of its own layers.
    fn lower(&mut self, names: &[String]) -> Result<Vec<Place>> {
        if names.len() <= LOWER_LAYERS {
            return Ok(names.iter().map(|name| self.layer(name)).collect());
        }
        let (top, bottom) = names.split_at(LOWER_LAYERS);
        if bottom.len() > LOWER_LAYERS {
            return Err(Error::exhausted(format!(
                "overlay2: {} layers; this driver takes {}",
                names.len(),
                2 * LOWER_LAYERS
            )));
        }
        let bottom: Vec<Place> = bottom.iter().map(|name| self.layer(name)).collect();
        let bottom = if let [only] = bottom.as_slice() {
            only.clone()
        } else {
            let mount = Mount::overlay(bottom, None).with(MountAttributes::READ_ONLY);
            mounted(self.push(mount), "")
        };
        let mut places: Vec<Place> = top.iter().map(|name| self.layer(name)).collect();
        places.push(bottom);
        Ok(places)
    }

    fn overlay(&mut self, lower: Vec<Place>, upper: Option<(Place, Place)>, label: Option<String>) {
        let writable = upper.is_some();
        // With these two off the upper directory alone is the difference.
        let mut mount = Mount::overlay(lower, upper).text("redirect_dir", "off").text("metacopy", "off");
        if writable {
            // Layers are shared between containers, which an index would refuse.
            mount = mount.text("index", "off");
        } else {
            mount = mount.with(MountAttributes::READ_ONLY);
        }
        if let Some(label) = label {
            mount = mount.option("context", OptionValue::Text(label));
        }
        self.push(mount);
    }
}

/// What a snapshot must remember: nothing, for most.
#[derive(Debug, Default, PartialEq)]
struct Facts {
    maps: Vec<IdMap>,
    label: Option<String>,
}

/// Twelve bytes per range, after their count; then the label.
fn cookie(maps: &[IdMap], label: Option<&str>) -> Cookie {
    if maps.is_empty() && label.is_none() {
        return Cookie::new();
    }
    let mut cookie = u32::try_from(maps.len()).unwrap_or(0).to_le_bytes().to_vec();
    for map in maps {
        for number in [map.inside, map.outside, map.size] {
            cookie.extend_from_slice(&number.to_le_bytes());
        }
    }
    cookie.extend_from_slice(label.unwrap_or_default().as_bytes());
    cookie
}

impl Facts {
    fn read(cookie: &[u8]) -> Result<Self> {
        if cookie.is_empty() {
            return Ok(Self::default());
        }
        let damaged = || Error::internal("overlay2: the snapshot's cookie is damaged");
        let (count, mut rest) = number(cookie).ok_or_else(damaged)?;
        let mut maps = Vec::new();
        for _ in 0..count {
            let mut numbers = [0; 3];
            for slot in &mut numbers {
                (*slot, rest) = number(rest).ok_or_else(damaged)?;
            }
            let [inside, outside, size] = numbers;
            maps.push(IdMap { inside, outside, size });
        }
        let label = std::str::from_utf8(rest).map_err(|_| damaged())?;
        Ok(Self { maps, label: (!label.is_empty()).then(|| label.to_owned()) })
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(storage: Overlay);
