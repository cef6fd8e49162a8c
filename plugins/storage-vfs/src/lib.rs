//! The storage driver `vfs`: every snapshot is a full copy of its parent, shared blocks where the file system can.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::files::{Op, TreeCopy, data, dir_name, make_dir};
use wharf_plugin_sdk::storage::{
    ApplyMode, Capabilities, DiffMode, Driver, Features, HostFacts, PrepareRequest, Prepared, Purpose,
    Snapshot, Stack, Whole, has_feature, only_options, strays,
};
use wharf_plugin_sdk::types::Labels;
use wharf_plugin_sdk::{Host, Result};

/// The driver.
#[derive(Debug, Default)]
pub struct Vfs;

/// Every snapshot is a directory.
const WHOLE: Whole = Whole {
    driver: "vfs",
    empty: |place| make_dir(place, 0o755),
    copy: |source, target| Op::CopyTree(TreeCopy { source, target, reflink: true }),
};

impl Driver for Vfs {
    fn probe(&self, _host: &dyn Host, facts: &HostFacts, options: &Labels) -> Result<Capabilities> {
        only_options("vfs", options, &["size"])?;
        let mut features = Features::ID_MAPPED;
        if has_feature(facts, "project-quota") {
            features |= Features::SIZE_LIMIT;
        }
        Ok(Capabilities {
            apply: ApplyMode::Unpack,
            diff: DiffMode::DoubleWalk,
            features,
            status: Vec::new(),
        })
    }

    fn prepare(&self, _host: &dyn Host, request: &PrepareRequest) -> Result<Prepared> {
        Ok(WHOLE.prepare(request))
    }

    fn mounts(
        &self,
        _host: &dyn Host,
        snapshot: &Snapshot,
        lineage: &[Snapshot],
        purpose: Purpose,
    ) -> Result<Stack> {
        WHOLE.mounts(snapshot, lineage, purpose)
    }

    fn commit(
        &self,
        _host: &dyn Host,
        active: &Snapshot,
        name: &str,
        _lineage: &[Snapshot],
    ) -> Result<Prepared> {
        Ok(WHOLE.commit(active, name))
    }

    fn remove(&self, _host: &dyn Host, snapshot: &Snapshot) -> Result<Vec<Op>> {
        Ok(vec![Op::RemoveTree(data(dir_name(&snapshot.id)))])
    }

    fn collect(&self, _host: &dyn Host, live: &[String], found: &[String]) -> Result<Vec<Op>> {
        Ok(strays(live, found, Op::RemoveTree))
    }
}

#[cfg(test)]
mod tests {
    use wharf_plugin_sdk::conformance::{self, Subject};

    use super::*;

    #[test]
    fn conforms() {
        conformance::storage(&Subject::<dyn Driver>::new(|| Box::new(Vfs)));
    }
}

wharf_plugin_sdk::export!(storage: Vfs);
