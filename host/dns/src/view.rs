//! What one container sees of all names.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::upstream::Upstream;
use crate::zone::{Zone, key};

/// The names of one network as they are at this moment.
pub(crate) type Cell = Arc<ArcSwap<Zone>>;

/// A network that a container is in.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name, in lower case: what follows a container's name in the long form.
    pub(crate) name: Box<str>,
    pub(crate) zone: Cell,
    /// Names that only this container has for others of the network: alias and name, both as [`key`] gives them.
    pub(crate) links: Vec<(Box<str>, Box<str>)>,
}

/// What one container sees, and whom it may ask for the rest.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The network that is asked first comes first.
    pub(crate) members: Vec<Member>,
    pub(crate) upstream: Upstream,
    /// One of its networks leads outside: the host's name servers may be asked for it.
    pub(crate) outside: bool,
    /// Names of a single word are the search list's matter, and not for others to know (`ndots` above 0).
    pub(crate) keep_single: bool,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// There is such a name; the addresses it leads to, of both families, and the shortest time to remember them.
    Name(Vec<IpAddr>, u32),
    /// There is none.
    Nothing,
}

impl Member {
    fn find(&self, name: &str, links: bool) -> Option<Found> {
        let wanted = if links {
            self.links.iter().find(|(alias, _)| **alias == *name).map(|(_, name)| &**name)?
        } else {
            name
        };
        let zone = self.zone.load();
        let targets = zone.targets(wanted);
        let ttl = targets.iter().map(|target| target.ttl).min()?;
        let mut addresses: Vec<IpAddr> = Vec::with_capacity(targets.len());
        addresses.extend(targets.iter().flat_map(|target| target.addresses.iter().copied()));
        // Two containers have an address twice only while one of them goes.
        addresses.sort_unstable();
        addresses.dedup();
        Some(Found::Name(addresses, ttl))
    }
}

impl View {
    /// Looks a name up, in lower case and without the dot at its end: as it is in every network, then as `name.network`,
    /// where either part may have dots of its own.
    pub fn name(&self, name: &str) -> Found {
        let found = |name: &str, network: Option<&str>| {
            // Links first: they are this container's own.
            [true, false].into_iter().find_map(|links| {
                let among = |member: &&Member| network.is_none_or(|network| *member.name == *network);
                self.members.iter().filter(among).find_map(|member| member.find(name, links))
            })
        };
        if let Some(found) = found(name, None) {
            return found;
        }
        let dots = name.bytes().enumerate().filter(|(_, byte)| *byte == b'.').map(|(at, _)| at);
        for at in dots {
            let (short, network) = (name.get(..at).unwrap_or(""), name.get(at + 1..).unwrap_or(""));
            if self.members.iter().any(|member| *member.name == *network)
                && let Some(found) = found(short, Some(network))
            {
                return found;
            }
        }
        Found::Nothing
    }

    /// What an address is called, in the long form, and how long that may be remembered.
    pub fn address(&self, address: IpAddr) -> Option<(String, u32)> {
        self.members.iter().find_map(|member| {
            let zone = member.zone.load();
            let called = zone.called(address)?;
            Some((format!("{}.{}", called.name, member.name), called.ttl))
        })
    }
}

/// Links as they are looked up.
pub(crate) fn links(links: &[(String, String)]) -> Vec<(Box<str>, Box<str>)> {
    links.iter().map(|(alias, name)| (key(alias).into(), key(name).into())).collect()
}
