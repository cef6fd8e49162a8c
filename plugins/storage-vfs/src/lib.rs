//! The storage driver `vfs`: every snapshot is a full copy of its parent, shared blocks where the file system can.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::files::{Mount, MountAttributes, Op, Quota, TreeCopy, data, dir_name, make_dir};
use wharf_plugin_sdk::storage::{
    ApplyMode, Capabilities, DiffMode, Driver, Features, HostFacts, Kind, PrepareRequest, Prepared, Purpose,
    Snapshot, Stack,
};
use wharf_plugin_sdk::types::{Cookie, Labels};
use wharf_plugin_sdk::{Error, Host, Result};

/// The driver.
#[derive(Debug, Default)]
pub struct Vfs;

impl Driver for Vfs {
    fn probe(&self, _host: &dyn Host, facts: &HostFacts, options: &Labels) -> Result<Capabilities> {
        if let Some((name, _)) = options.iter().find(|(name, _)| name != "size" && name != "vfs.size") {
            return Err(Error::invalid(format!("vfs: unknown option {name}")));
        }
        let mut features = Features::empty();
        if facts.features.iter().any(|feature| feature == "project-quota") {
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
        if !request.id_maps.is_empty() {
            return Err(Error::unsupported("vfs: snapshots cannot be mapped to other users; use overlay2"));
        }
        let target = data(dir_name(&request.id));
        let mut ops = Vec::new();
        match request.lineage.first() {
            // A view is the parent itself, mounted read-only.
            Some(_) if request.kind == Kind::View => {}
            Some(parent) => ops.push(Op::CopyTree(TreeCopy {
                source: data(dir_name(&parent.id)),
                target: target.clone(),
                reflink: true,
            })),
            None => ops.push(make_dir(target.clone(), 0o755)),
        }
        if request.size_limit.is_some() {
            ops.push(Op::SetQuota(Quota { at: target, bytes: request.size_limit, inodes: None }));
        }
        Ok(Prepared { ops, cookie: Cookie::new() })
    }

    fn mounts(
        &self,
        _host: &dyn Host,
        snapshot: &Snapshot,
        lineage: &[Snapshot],
        purpose: Purpose,
    ) -> Result<Stack> {
        let shown = match (snapshot.kind, lineage.first()) {
            (Kind::View, Some(parent)) => parent,
            _ => snapshot,
        };
        let place = data(dir_name(&shown.id));
        let writable = snapshot.kind == Kind::Active && purpose != Purpose::ReadOnlyInspect;
        let mount = Mount::bind(place.clone());
        let mount = if writable { mount } else { mount.with(MountAttributes::READ_ONLY) };
        Ok(Stack { mounts: vec![mount], upper: writable.then_some(place) })
    }

    fn commit(
        &self,
        _host: &dyn Host,
        active: &Snapshot,
        name: &str,
        _lineage: &[Snapshot],
    ) -> Result<Prepared> {
        let (from, to) = (dir_name(&active.id), dir_name(name));
        let ops = if from == to { Vec::new() } else { vec![Op::Rename((data(from), data(to)))] };
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
