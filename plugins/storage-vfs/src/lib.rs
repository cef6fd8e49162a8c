//! The storage driver `vfs`: every snapshot is a full copy of its parent, shared blocks where the file system can.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::files::{MountAttributes, Op, Quota, TreeCopy, data, dir_name, make_dir};
use wharf_plugin_sdk::storage::{
    ApplyMode, Capabilities, DiffMode, Driver, Features, HostFacts, Kind, Layered, PrepareRequest, Prepared,
    Purpose, Remembered, Snapshot, Stack, strays,
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
        let mut features = Features::ID_MAPPED;
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
        let cookie = Remembered::cookie(&request.id_maps, None);
        Ok(Prepared { ops, cookie })
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
        let mut stack = Layered::new("vfs", Remembered::read("vfs", &snapshot.cookie)?);
        let attributes = if writable { MountAttributes::empty() } else { MountAttributes::READ_ONLY };
        stack.only_directory(place.clone(), attributes);
        Ok(Stack { mounts: stack.finish(), upper: writable.then_some(place) })
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
