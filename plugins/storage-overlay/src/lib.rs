//! The storage driver `overlay2`: every snapshot is a directory, and a container sees them stacked.
//!
//! On disk, below the plugin's own directory: `<name>/diff` holds what a snapshot adds to its ancestors, `<name>/work`
//! is overlay's scratch space while a snapshot can be written. Names are short forms of the host's ids.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::files::{MountAttributes, Op, Place, data, dir_name};
use wharf_plugin_sdk::storage::{
    ApplyMode, Capabilities, DiffMode, Driver, HostFacts, Kind, Layered, PrepareRequest, Prepared, Purpose,
    Remembered, Snapshot, Stack, only_options, strays,
};
use wharf_plugin_sdk::types::Labels;
use wharf_plugin_sdk::{Host, Result};

/// The driver.
#[derive(Debug, Default)]
pub struct Overlay;

impl Driver for Overlay {
    fn probe(&self, _host: &dyn Host, facts: &HostFacts, options: &Labels) -> Result<Capabilities> {
        only_options("overlay2", options, &["size", "override_kernel_check"])?;
        let (features, shown) = Layered::probe("overlay2", facts, &["overlay"])?;
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
        Ok(Layered::prepare(request))
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
        let writable = Layered::is_written(snapshot, purpose);
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
        Ok(Layered::commit(active, name, &["work"]))
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

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(storage: Overlay);
