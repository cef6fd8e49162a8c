//! The storage driver `erofs`: a layer is one immutable image that the kernel mounts, and a container sees its layers
//! stacked by overlay. A layer's files are never made one by one.
//!
//! On disk, below the plugin's own directory: `<name>/layer.erofs` is the image of a layer; `<name>/diff` and
//! `<name>/work` are what a container writes to. Names are short forms of the host's ids.
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
pub struct Erofs;

impl Driver for Erofs {
    fn probe(&self, _host: &dyn Host, facts: &HostFacts, options: &Labels) -> Result<Capabilities> {
        if let Some((name, _)) = options.iter().find(|(name, _)| name != "size" && name != "erofs.size") {
            return Err(Error::invalid(format!("erofs: unknown option {name}")));
        }
        for name in ["overlay", "erofs"] {
            if !facts.filesystems.iter().any(|known| known == name) {
                return Err(Error::unsupported(format!("erofs: this kernel has no {name} file system")));
            }
        }
        let backing = facts.backing_filesystem.as_str();
        if UNFIT.contains(&backing) {
            return Err(Error::unsupported(format!(
                "erofs: a data directory on {backing} cannot hold containers; use another one or the driver vfs"
            )));
        }
        if facts.user_namespace {
            return Err(Error::unsupported("erofs: not in a user namespace; use the driver vfs"));
        }
        if !facts.features.iter().any(|feature| feature == "erofs-images") {
            return Err(Error::unsupported(format!(
                "erofs: Linux {} on {backing} cannot mount images and stack them: 6.15 and later can out of files of ext4, \
                 xfs and btrfs, earlier ones with loop devices (/dev/loop-control); use the driver overlay2",
                facts.kernel
            )));
        }
        let mut features = Features::REBASE_ON_COMMIT | Features::ID_MAPPED | Features::EXACT_DIFFS;
        if facts.features.iter().any(|feature| feature == "project-quota") {
            features |= Features::SIZE_LIMIT;
        }
        let shown = if matches!(backing, "ext2" | "ext3" | "ext4") { "extfs" } else { backing };
        let status =
            [("Backing Filesystem", shown), ("Layers", "EROFS images"), ("Native Overlay Diff", "true")];
        Ok(Capabilities {
            apply: ApplyMode::ErofsImage,
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
        let mut ops = vec![make_dir(data(name.clone()), 0o710), make_dir(diff(&name), 0o755)];
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
        let name = dir_name(&snapshot.id);
        if snapshot.kind == Kind::Active && purpose == Purpose::UnpackLayer {
            return Ok(Stack { mounts: Vec::new(), upper: Some(image(&name)) });
        }
        let mut stack = Layered::new("erofs", Remembered::read("erofs", &snapshot.cookie)?);
        let mut images: Vec<Place> = lineage.iter().map(|ancestor| image(&dir_name(&ancestor.id))).collect();
        if snapshot.kind == Kind::Committed {
            images.insert(0, image(&name));
        }
        let writable = snapshot.kind == Kind::Active && purpose != Purpose::ReadOnlyInspect;
        // What a container wrote is the only layer that is a directory; of a view of nothing it is all there is.
        let own = !writable && (snapshot.kind == Kind::Active || images.is_empty());
        let upper = writable.then(|| diff(&name));
        match (writable, own, images.as_slice()) {
            (true, _, []) => stack.only_directory(diff(&name), MountAttributes::empty()),
            (false, true, []) => stack.only_directory(diff(&name), MountAttributes::READ_ONLY),
            (false, false, [only]) => stack.only_image(only.clone()),
            _ => {
                let both = if writable { Some(stack.upper(data(name.clone()))) } else { None };
                let mut lower: Vec<Place> = Vec::new();
                if own {
                    lower.push(stack.directory(diff(&name)));
                }
                lower.extend(images.into_iter().map(|place| stack.image(place)));
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
        ops.extend([Op::RemoveTree(work(&to)), Op::RemoveTree(diff(&to))]);
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
            format!(r#"{{"Image":"{name}/layer.erofs"}}"#)
        })
    }
}

fn image(name: &str) -> Place {
    data(format!("{name}/layer.erofs"))
}

fn diff(name: &str) -> Place {
    data(format!("{name}/diff"))
}

fn work(name: &str) -> Place {
    data(format!("{name}/work"))
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(storage: Erofs);
