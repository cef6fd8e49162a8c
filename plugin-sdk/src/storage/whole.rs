//! Snapshots that are whole trees, each in a place of its own: what drivers of that kind have in common.

use super::{Kind, Layered, PrepareRequest, Prepared, Purpose, Remembered, Snapshot, Stack, renamed};
use crate::Result;
use crate::files::{MountAttributes, Op, Place, Quota, data, dir_name};
use crate::types::Cookie;

/// A driver whose snapshots are trees called by [`dir_name`]: its name in errors, what makes an empty tree at a place, and
/// what makes one that is like another.
#[derive(Debug, Clone, Copy)]
pub struct Whole {
    /// Name of the driver.
    pub driver: &'static str,
    /// Makes an empty tree.
    pub empty: fn(Place) -> Op,
    /// Makes a copy: of the first place, at the second.
    pub copy: fn(Place, Place) -> Op,
}

impl Whole {
    /// A new tree, like its parent's. A view of something is the parent itself, and needs nothing.
    pub fn prepare(&self, request: &PrepareRequest) -> Prepared {
        let target = data(dir_name(&request.id));
        let mut ops = match request.lineage.first() {
            Some(_) if request.kind == Kind::View => Vec::new(),
            Some(parent) => vec![(self.copy)(data(dir_name(&parent.id)), target.clone())],
            None => vec![(self.empty)(target.clone())],
        };
        if request.size_limit.is_some() {
            ops.push(Op::SetQuota(Quota { at: target, bytes: request.size_limit, inodes: None }));
        }
        Prepared { ops, cookie: Remembered::cookie(&request.id_maps, None) }
    }

    /// The tree, or its parent's for a view; read-only unless it is one to write.
    pub fn mounts(&self, snapshot: &Snapshot, lineage: &[Snapshot], purpose: Purpose) -> Result<Stack> {
        let shown = match (snapshot.kind, lineage.first()) {
            (Kind::View, Some(parent)) => parent,
            _ => snapshot,
        };
        let place = data(dir_name(&shown.id));
        let writable = snapshot.kind == Kind::Active && purpose != Purpose::ReadOnlyInspect;
        let mut stack = Layered::new(self.driver, Remembered::read(self.driver, &snapshot.cookie)?);
        let attributes = if writable { MountAttributes::empty() } else { MountAttributes::READ_ONLY };
        stack.only_directory(place.clone(), attributes);
        Ok(Stack { mounts: stack.finish(), upper: writable.then_some(place) })
    }

    /// The tree under its lasting name.
    pub fn commit(&self, active: &Snapshot, name: &str) -> Prepared {
        Prepared { ops: renamed(active, name), cookie: Cookie::new() }
    }
}
