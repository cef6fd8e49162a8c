//! What takes a file plan back.

use super::{Op, Place};

/// What a step of a plan does to names.
enum Step<'a> {
    Made(&'a Place),
    Moved(&'a Place, &'a Place),
    Copied(&'a Place, &'a Place),
    Removed(&'a Place),
}

/// The operations that undo `ops`, in the order to do them, derived before `ops` are applied.
///
/// `exists` says which places are there now: what a plan merely finds is not removed by its undo. Changes to things
/// that exist (owner, attributes, quota) and removals are not undone by a plan; the host, while applying, remembers
/// the old values itself.
pub fn undo(ops: &[Op], exists: impl Fn(&Place) -> bool) -> Vec<Op> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut back = Vec::new();
    for op in ops {
        let (step, reverse) = match op {
            Op::MakeDir(o) if there(&steps, &o.at, &exists) => continue,
            Op::WriteFile(f) if there(&steps, &f.at, &exists) => continue,
            Op::MakeDir(o) => (Step::Made(&o.at), Op::RemoveTree(o.at.clone())),
            Op::WriteFile(f) => (Step::Made(&f.at), Op::RemoveTree(f.at.clone())),
            // These two fail on what exists, so what is there afterwards is theirs.
            Op::MakeSparse(s) if there(&steps, &s.at, &exists) => continue,
            Op::MakeSparse(s) => (Step::Made(&s.at), Op::RemoveTree(s.at.clone())),
            Op::CopyTree(c) if there(&steps, &c.target, &exists) => continue,
            Op::CopyTree(c) => (Step::Copied(&c.source, &c.target), Op::RemoveTree(c.target.clone())),
            Op::Rename((from, to)) => (Step::Moved(from, to), Op::Rename((to.clone(), from.clone()))),
            // As with `make-dir` and `copy-tree`.
            Op::SubvolumeCreate(p) if there(&steps, p, &exists) => continue,
            Op::SubvolumeClone(c) if there(&steps, &c.target, &exists) => continue,
            Op::SubvolumeCreate(p) => (Step::Made(p), Op::SubvolumeRemove(p.clone())),
            Op::SubvolumeClone(c) => {
                (Step::Copied(&c.source, &c.target), Op::SubvolumeRemove(c.target.clone()))
            }
            Op::DatasetCreate(d) => {
                back.push(Op::DatasetRemove(d.name.clone()));
                continue;
            }
            Op::DatasetSnapshot(name) => {
                back.push(Op::DatasetRemove(name.clone()));
                continue;
            }
            Op::RemoveTree(p) | Op::SubvolumeRemove(p) => {
                steps.push(Step::Removed(p));
                continue;
            }
            Op::SetOwner(_)
            | Op::SetXattr(_)
            | Op::SetQuota(_)
            | Op::DatasetRemove(_)
            | Op::OpenDevice(_)
            | Op::Format(_)
            | Op::Other(_) => continue,
        };
        steps.push(step);
        back.push(reverse);
    }
    back.reverse();
    back
}

/// Whether something is at `place` after these steps.
fn there(steps: &[Step<'_>], place: &Place, exists: &impl Fn(&Place) -> bool) -> bool {
    let mut place = place.clone();
    for step in steps.iter().rev() {
        match step {
            Step::Made(made) => {
                if let Some(rest) = beneath(&place, made) {
                    // A new directory is empty; what came into it later was met before.
                    return rest.is_empty();
                }
            }
            Step::Moved(from, to) => {
                if let Some(rest) = beneath(&place, to) {
                    place = Place { root: from.root.clone(), path: format!("{}{rest}", from.path) };
                } else if beneath(&place, from).is_some() {
                    return false;
                }
            }
            Step::Copied(from, to) => {
                if let Some(rest) = beneath(&place, to) {
                    place = Place { root: from.root.clone(), path: format!("{}{rest}", from.path) };
                }
            }
            Step::Removed(gone) => {
                if beneath(&place, gone).is_some() {
                    return false;
                }
            }
        }
    }
    exists(&place)
}

/// What of `place` follows `top`: empty for the same, `/x` for something beneath.
fn beneath<'a>(place: &'a Place, top: &Place) -> Option<&'a str> {
    if place.root != top.root {
        return None;
    }
    place.path.strip_prefix(&top.path).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}
