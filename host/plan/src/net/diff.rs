//! From one desired state to another in the fewest steps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::state::{Item, Kind, LinkRef, LinkState, items};
use super::{Desired, Site};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "changes are few and short-lived; a box each would cost more")]
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

/// The steps from `old` (nothing, if none) to `new`, in an order in which they can be taken. The undo of a scope is
/// `diff(Some(new), &Desired::default())`.
pub fn diff(old: Option<&Desired>, new: &Desired) -> Vec<Change> {
    let old = old.map(items).unwrap_or_default();
    let new = items(new);
    let old_links = links(&old);
    let new_links = links(&new);
    let gone = gone(&old, &old_links, &new_links);
    let kept = |item: &Item| match item {
        Item::Link(link) => !gone.contains(&link.link),
        other => other.depends_on().is_none_or(|link| !gone.contains(link)),
    };

    // The kernel removes what depends on a link that goes, but a granted link only leaves the plan.
    let vanishes = |link: &LinkRef| {
        gone.contains(link) && !matches!(old_links.get(link), Some(LinkState { kind: Kind::Granted(_), .. }))
    };

    let new_set: BTreeSet<&Item> = new.iter().collect();
    let old_set: BTreeSet<&Item> = old.iter().filter(|item| kept(item)).collect();
    let mut changes = Vec::new();
    // What the kernel may drop on its own along the way is said again: routes when an address or a link goes.
    let mut shaken = BTreeSet::<Site>::new();
    for item in old.iter().rev() {
        match item {
            Item::Link(link) if gone.contains(&link.link) => {
                if !link.kind.parent().is_some_and(vanishes) {
                    changes.push(Change::Remove(item.clone()));
                }
                shaken.insert(link.link.site);
            }
            Item::Link(_) => {}
            _ if item.depends_on().is_some_and(vanishes) || (kept(item) && new_set.contains(item)) => {}
            _ => {
                if let Item::Address { link, .. } = item {
                    shaken.insert(link.site);
                }
                changes.push(Change::Remove(item.clone()));
            }
        }
    }
    for item in &new {
        if let Item::Link(to) = item {
            match old_links.get(&to.link).filter(|from| !gone.contains(&from.link)) {
                Some(from) => {
                    let released = to.controller.as_ref().is_some_and(|controller| gone.contains(controller));
                    if *from != to || released {
                        if !from.up && to.up {
                            shaken.insert(to.link.site);
                        }
                        changes.push(Change::Set { from: (*from).clone(), to: to.clone() });
                    }
                }
                None => changes.push(Change::Add(item.clone())),
            }
        } else if !old_set.contains(item)
            || matches!(item, Item::Route(route) if shaken.contains(&route.site))
        {
            changes.push(Change::Add(item.clone()));
        }
    }
    changes
}

fn links(items: &[Item]) -> BTreeMap<LinkRef, &LinkState> {
    items
        .iter()
        .filter_map(|item| match item {
            Item::Link(link) => Some((link.link.clone(), link)),
            _ => None,
        })
        .collect()
}

/// Links of the old state that do not survive: not wanted, of another kind, or on top of such a one.
fn gone(
    old: &[Item],
    old_links: &BTreeMap<LinkRef, &LinkState>,
    new_links: &BTreeMap<LinkRef, &LinkState>,
) -> BTreeSet<LinkRef> {
    let mut gone = BTreeSet::new();
    for (link, state) in old_links {
        if new_links.get(link).is_none_or(|new| new.kind != state.kind) {
            gone.insert(link.clone());
        }
    }
    loop {
        let before = gone.len();
        for item in old {
            let Item::Link(link) = item else { continue };
            let lost_parent = link.kind.parent().is_some_and(|parent| gone.contains(parent));
            let lost_peer = matches!(&link.kind, Kind::Veth { peer } if gone.contains(peer));
            if lost_parent || lost_peer {
                gone.insert(link.link.clone());
            }
        }
        if gone.len() == before {
            return gone;
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Add(item) => write!(f, "+ {item}"),
            Change::Remove(item) => write!(f, "- {item}"),
            Change::Set { to, .. } => write!(f, "~ {}", Item::Link(to.clone())),
        }
    }
}
