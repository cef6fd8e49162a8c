//! What takes a file plan back.

use super::{Op, Place};

/// The operations that undo `ops`, in the order to do them, derived before `ops` are applied.
///
/// `exists` says which places are already there now: what a plan merely finds is not removed by its undo. Changes to
/// things that exist (owner, attributes, quota) and removals are not undone by a plan; the host, while applying,
/// remembers the old values itself.
pub fn undo(ops: &[Op], exists: impl Fn(&Place) -> bool) -> Vec<Op> {
    // Places made so far in this plan: a second operation on them has nothing more to take back.
    let mut made: Vec<&Place> = Vec::new();
    let mut back = Vec::new();
    for op in ops {
        match op {
            Op::MakeDir(o) => fresh(&o.at, &mut made, &mut back, &exists),
            Op::WriteFile(f) => fresh(&f.at, &mut made, &mut back, &exists),
            Op::MakeSparse(s) => fresh(&s.at, &mut made, &mut back, &exists),
            Op::CopyTree(c) => fresh(&c.target, &mut made, &mut back, &exists),
            Op::Rename((from, to)) => {
                // Of a thing made here, the undo of its making must follow it to its first name: moving back does.
                back.push(Op::Rename((to.clone(), from.clone())));
            }
            Op::SubvolumeCreate(p) => back.push(Op::SubvolumeRemove(p.clone())),
            Op::SubvolumeClone(c) => back.push(Op::SubvolumeRemove(c.target.clone())),
            Op::DatasetCreate(d) => back.push(Op::DatasetRemove(d.name.clone())),
            Op::DatasetSnapshot(name) => back.push(Op::DatasetRemove(name.clone())),
            Op::SetOwner(_)
            | Op::SetXattr(_)
            | Op::SetQuota(_)
            | Op::RemoveTree(_)
            | Op::SubvolumeRemove(_)
            | Op::DatasetRemove(_)
            | Op::OpenDevice(_)
            | Op::Format(_)
            | Op::Other(_) => {}
        }
    }
    back.reverse();
    back
}

fn fresh<'a>(
    place: &'a Place,
    made: &mut Vec<&'a Place>,
    back: &mut Vec<Op>,
    exists: &impl Fn(&Place) -> bool,
) {
    if !made.contains(&place) && !exists(place) {
        made.push(place);
        back.push(Op::RemoveTree(place.clone()));
    }
}
