//! The storage driver `overlay2`: every snapshot is a directory, and a container sees them stacked.
//!
//! On disk, below the plugin's own directory: `<name>/diff` holds what a snapshot adds to its ancestors, `<name>/work`
//! is overlay's scratch space while a snapshot can be written. Names are short forms of the host's ids.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::files::{MountAttributes, Op, Place, Quota, data, dir_name, make_dir};
use wharf_plugin_sdk::storage::{
    ApplyMode, Capabilities, DiffMode, Driver, Features, HostFacts, Kind, Layered, PrepareRequest, Prepared,
    Purpose, Remembered, Snapshot, Stack, strays,
};
use wharf_plugin_sdk::types::{Cookie, Labels};
use wharf_plugin_sdk::{Error, Host, Result};

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
        let cookie = Remembered::cookie(&request.id_maps, request.mount_label.as_deref());
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
        let mut stack = Layered::new("overlay2", Remembered::read("overlay2", &snapshot.cookie)?);
        let name = dir_name(&snapshot.id);
        let mut lower: Vec<String> = lineage.iter().map(|ancestor| dir_name(&ancestor.id)).collect();
        let writable = snapshot.kind == Kind::Active && purpose != Purpose::ReadOnlyInspect;
        if !writable && (snapshot.kind != Kind::View || lineage.is_empty()) {
            lower.insert(0, name.clone());
        }
        let upper = writable.then(|| diff(&name));
        match (writable, lower.as_slice()) {
            // Nothing below, or nothing but one directory: no overlay is needed.
            (true, []) => stack.only_directory(diff(&name), MountAttributes::empty()),
            (false, [only]) => stack.only_directory(diff(only), MountAttributes::READ_ONLY),
            _ => {
                let both = if writable { Some(stack.upper(data(name))) } else { None };
                let lower = lower.iter().map(|name| stack.directory(diff(name))).collect();
                stack.overlay(lower, both)?;
            }
        }
        Ok(Stack { mounts: stack.finish(), upper })
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
        Ok(strays(live, found, Op::RemoveTree))
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

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(storage: Overlay);
