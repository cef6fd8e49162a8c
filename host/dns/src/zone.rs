//! The names of one network: a value that does not change. A change makes the next value, which shares most of its parts
//! with the last.
//!
//! Input and output have no part in it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

/// Parts of a table. A change copies one of them, not all of the table.
const PARTS: usize = 64;

/// Names of one container in a network, with the addresses they lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The first one is what its addresses are called; all lead to them. Compared without regard to case.
    pub names: Vec<String>,
    /// Of either family.
    pub addresses: Vec<IpAddr>,
    /// How long clients may remember the answer, in seconds.
    pub ttl: u32,
}

/// Where one name leads, of one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    owner: Arc<str>,
    /// Of either family.
    pub addresses: Arc<[IpAddr]>,
    /// In seconds.
    pub ttl: u32,
}

/// What an address is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    owner: Arc<str>,
    /// In lower case, without the network.
    pub name: Arc<str>,
    /// In seconds.
    pub ttl: u32,
}

type Part<K, V> = Arc<HashMap<K, Vec<V>>>;

/// A table whose copy costs little.
#[derive(Debug, Clone)]
struct Table<K, V> {
    parts: Vec<Part<K, V>>,
    /// Keys come from hostile containers: which part one falls into is nobody's to choose.
    state: RandomState,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { parts: (0..PARTS).map(|_| Arc::clone(&empty)).collect(), state: RandomState::new() }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Table<K, V> {
    fn place<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        usize::try_from(self.state.hash_one(key) % PARTS as u64).unwrap_or(0)
    }

    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> &[V]
    where
        K: std::borrow::Borrow<Q>,
    {
        let part = self.parts.get(self.place(key));
        part.and_then(|part| part.get(key)).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, key: K, value: V) {
        let place = self.place(&key);
        if let Some(part) = self.parts.get_mut(place) {
            Arc::make_mut(part).entry(key).or_default().push(value);
        }
    }

    fn retain(&mut self, key: &K, keep: impl Fn(&V) -> bool) {
        let place = self.place(key);
        let Some(part) = self.parts.get_mut(place) else { return };
        if !part.contains_key(key) {
            return;
        }
        let part = Arc::make_mut(part);
        if let Some(values) = part.get_mut(key) {
            values.retain(keep);
            if values.is_empty() {
                part.remove(key);
            }
        }
    }
}

/// The names of one network.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    names: Table<Box<str>, Target>,
    addresses: Table<IpAddr, Called>,
}

/// As names are compared: in lower case (RFC 4343), without the dot at the end.
pub fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl Zone {
    /// This zone, and what `records` say of `owner`.
    #[must_use]
    pub fn with(&self, owner: &Arc<str>, records: &[Record]) -> Self {
        let mut next = self.clone();
        for record in records {
            let addresses: Arc<[IpAddr]> = record.addresses.clone().into();
            let mut names: Vec<String> = Vec::with_capacity(record.names.len());
            for name in record.names.iter().map(|name| key(name)) {
                if name.is_empty() || names.contains(&name) {
                    continue;
                }
                let target =
                    Target { owner: Arc::clone(owner), addresses: Arc::clone(&addresses), ttl: record.ttl };
                next.names.add(name.as_str().into(), target);
                names.push(name);
            }
            let Some(first) = names.first() else { continue };
            let name: Arc<str> = first.as_str().into();
            for address in &record.addresses {
                let called = Called { owner: Arc::clone(owner), name: Arc::clone(&name), ttl: record.ttl };
                next.addresses.add(*address, called);
            }
        }
        next
    }

    /// This zone without what `records` say of `owner`.
    #[must_use]
    pub fn without(&self, owner: &str, records: &[Record]) -> Self {
        let mut next = self.clone();
        for record in records {
            for name in &record.names {
                next.names.retain(&key(name).into(), |target| *target.owner != *owner);
            }
            for address in &record.addresses {
                next.addresses.retain(address, |called| *called.owner != *owner);
            }
        }
        next
    }

    /// Where a name, given as [`key`] gives it, leads. Empty: there is no such name.
    pub fn targets(&self, key: &str) -> &[Target] {
        self.names.get(key)
    }

    /// What an address is called: of several names the one that came first.
    pub fn called(&self, address: IpAddr) -> Option<&Called> {
        self.addresses.get(&address).first()
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.parts.iter().map(|part| part.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.parts.iter().all(|part| part.is_empty())
    }
}
