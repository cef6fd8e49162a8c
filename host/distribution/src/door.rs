//! How many connections there may be: descriptors are not the registry's alone.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{Resource, getrlimit};

/// Connections that there are, by the address that they come from.
type Open = HashMap<IpAddr, usize>;

/// Counts connections.
pub(crate) struct Door {
    open: Arc<Mutex<Open>>,
    /// All together.
    most: usize,
}

/// The place of one connection, given back when this is dropped.
pub(crate) struct Place {
    open: Arc<Mutex<Open>>,
    from: IpAddr,
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Descriptors that the process may have.
pub(crate) fn descriptors() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX)
}

impl Door {
    /// One for a quarter of the descriptors that the process may have.
    pub(crate) fn new() -> Self {
        Self::of((descriptors() / 4).clamp(64, 16_384))
    }

    fn of(most: usize) -> Self {
        Self { open: Arc::default(), most }
    }

    /// A place for a connection from an address; none if there are too many. One address gets at most half of them.
    pub(crate) fn enter(&self, from: IpAddr) -> Option<Place> {
        let mut open = lock(&self.open);
        let all: usize = open.values().sum();
        let own = open.get(&from).copied().unwrap_or_default();
        if all >= self.most || own >= self.most / 2 {
            return None;
        }
        open.insert(from, own + 1);
        drop(open);
        Some(Place { open: Arc::clone(&self.open), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        match open.get_mut(&self.from) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_half_to_others() {
        let door = Door::of(8);
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut held: Vec<Place> = (0..4).map(|_| door.enter(one).unwrap()).collect();
        assert!(door.enter(one).is_none());
        let others: Vec<Place> = (0..4).map(|_| door.enter(two).unwrap()).collect();
        assert!(door.enter(IpAddr::from([192, 0, 2, 3])).is_none(), "there are no more");
        held.pop();
        assert!(door.enter(one).is_some());
        drop((held, others));
        assert!(lock(&door.open).is_empty(), "and nothing is kept of who is gone");
    }
}
