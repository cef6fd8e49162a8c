//! The storage driver `erofs`: a layer is one immutable image that the kernel mounts, and a container sees its layers
//! stacked by overlay. A layer's files are never made one by one.
//!
//! On disk, below the plugin's own directory: `<name>/layer.erofs` is the image of a layer; `<name>/diff` and
//! `<name>/work` are what a container writes to. Names are short forms of the host's ids.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::files::{MountAttributes, Op, Place, data, dir_name};
use wharf_plugin_sdk::storage::{
    ApplyMode, Capabilities, DiffMode, Driver, HostFacts, Kind, Layered, PrepareRequest, Prepared, Purpose,
    Remembered, Snapshot, Stack, has_feature, only_options, strays,
};
use wharf_plugin_sdk::types::Labels;
use wharf_plugin_sdk::{Error, Host, Result};

/// The driver.
#[derive(Debug, Default)]
pub struct Erofs;

impl Driver for Erofs {
    fn probe(&self, _host: &dyn Host, facts: &HostFacts, options: &Labels) -> Result<Capabilities> {
        only_options("erofs", options, &["size"])?;
        let (features, shown) = Layered::probe("erofs", facts, &["overlay", "erofs"])?;
        if !has_feature(facts, "erofs-images") {
            return Err(Error::unsupported(format!(
                "erofs: Linux {} on {} cannot mount images and stack them: 6.15 and later can out of files of ext4, \
                 xfs and btrfs, earlier ones with loop devices (/dev/loop-control); use the driver overlay2",
                facts.kernel, facts.backing_filesystem
            )));
        }
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
        Ok(Layered::prepare(request))
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
        let writable = Layered::is_written(snapshot, purpose);
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
        Ok(Layered::commit(active, name, &["work", "diff"]))
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

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(storage: Erofs);
