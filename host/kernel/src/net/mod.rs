//! Networks: links, addresses and routes by rtnetlink, packet filter by nftables over netlink.
//!
//! One [`Net`] acts in the network namespace in which it was opened (the host's, in the daemon). Whatever it makes
//! carries the id of its network or endpoint, so that [`Net::sweep`] finds what has no record.
//!
//! All functions block, and enter containers' namespaces for a moment: they belong on threads meant for such work, in
//! the namespace in which the [`Net`] was opened, never on those of an async runtime.

mod filter;
mod flows;
mod forwarding;
mod links;
mod locks;
mod names;
mod nft;
mod ports;
mod route;
mod scope;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wharf_plan::net::{Desired, Forward, Item, LinkName, LinkRef, Protocol, Publish, diff, items};

use filter::Filter;
use links::Worker;
pub use locks::remove_tables;
pub use names::{NAME_SERVER, NameSockets};
use scope::{dies, endpoint, forget, network, restore, sweep_links};
pub use watch::Watch;

/// Why a change of the network did not happen. Whatever had been done of it is undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A process of the host, or another engine, has the port.
    #[error("failed to bind host port for {0}: {1}")]
    Bind(Endpoints, String),
    /// Another container of ours has the port.
    #[error("Bind for {address}:{port} failed: port is already allocated")]
    Allocated {
        /// The address, in brackets if it is an IPv6 one.
        address: String,
        /// The port.
        port: u16,
    },
    /// The plan holds something that this host cannot do.
    #[error("{0} is not supported by this host")]
    Unsupported(String),
    /// The kernel lacks what is needed.
    #[error("this kernel lacks {0}")]
    Missing(String),
    /// The kernel refused.
    #[error("{what}: {source}{detail}")]
    System {
        /// What was tried, with what.
        what: String,
        /// The kernel's own words, after a colon; often empty.
        detail: String,
        /// Its error number.
        source: std::io::Error,
    },
    /// The program that carries what the kernel cannot is missing or refused.
    #[error("failed to start userland proxy for port mapping {0}: {1}")]
    Carry(String, String),
    /// The plan is wrong in a way that validation should have found.
    #[error("{0}")]
    Plan(String),
}

/// Both sides of a published port, written as Docker does: `0.0.0.0:8080:172.17.0.2:80/tcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// The host's side.
    pub host: std::net::SocketAddr,
    /// The container's side.
    pub container: std::net::SocketAddr,
    /// tcp, udp or sctp.
    pub protocol: Protocol,
}

impl std::fmt::Display for Endpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.container, self.protocol)
    }
}

/// What came of a network's plan.
#[derive(Debug, Default)]
pub struct AppliedNetwork {
    /// Names of its links on the host, in the plan's order.
    pub links: Vec<String>,
    /// What the administrator should know, such as that forwarding was switched on.
    pub notes: Vec<String>,
}

/// What came of an endpoint's plan.
#[derive(Debug, Default)]
pub struct AppliedEndpoint {
    /// The published ports as they are now: one entry per port, none of them 0.
    pub publishes: Vec<Publish>,
    /// Bound sockets that keep host processes off those ports; hold them for as long as the endpoint lives.
    pub holders: Vec<OwnedFd>,
    /// Listeners for what the kernel cannot carry, each with where it leads: for a program that does.
    pub carried: Vec<(Forward, OwnedFd)>,
    /// Names of the links inside the container, in the plan's order.
    pub interfaces: Vec<String>,
    /// Hardware addresses of those links.
    pub macs: Vec<String>,
    /// What the administrator should know.
    pub notes: Vec<String>,
}

/// What to do with the links of an endpoint that goes.
#[derive(Debug, Clone, Copy)]
pub enum Links<'a> {
    /// The container's namespace is about to vanish, and they with it. Deleting them first would cost 20 ms.
    DieWithNamespace,
    /// The container lives on: delete them. The namespace is theirs.
    Delete(BorrowedFd<'a>),
}

/// A network or endpoint as the engine has it on record.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its state as applied.
    pub desired: &'a Desired,
    /// Its ports as applied; empty for networks.
    pub publishes: &'a [Publish],
}

/// What a sweep removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Links, by name.
    pub links: Vec<String>,
    /// Elements of the packet filter's sets and maps.
    pub elements: usize,
}

/// What the alias of every link of ours begins with; the id follows.
const ALIAS: &str = "wharf:";

/// The name of a link on the host.
fn host_name(id: &str, link: &LinkRef) -> String {
    match &link.name {
        LinkName::Exact(name) => name.clone(),
        LinkName::Generated { prefix, ordinal } => {
            let mut name = format!("{prefix}{:016x}", hash(id, *ordinal));
            name.truncate(15);
            name
        }
    }
}

/// FNV-1a. Ids are random and of the host's own making: nobody gains by a collision, which is an error, no more.
fn hash(id: &str, number: u32) -> u64 {
    id.bytes()
        .chain(number.to_be_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

struct Shared {
    /// Name of the table, group of the links: both tell this daemon's from another's.
    table: Arc<str>,
    group: u32,
    /// Idle ones, each with its socket.
    workers: Mutex<Vec<Worker>>,
    /// Opened when something first needs it: a host without nftables can still run containers without ports.
    filter: Mutex<Option<Filter>>,
    /// Bridges through which the host reaches containers from its loopback, and families that are forwarded.
    switched: Mutex<(BTreeSet<String>, BTreeSet<bool>)>,
    /// Whether a program carries what the kernel cannot.
    carry: AtomicBool,
}

impl Shared {
    fn filter<T>(&self, work: impl FnOnce(&mut Filter) -> Result<T, Error>) -> Result<T, Error> {
        let mut filter = lock(&self.filter);
        if filter.is_none() {
            *filter = Some(Filter::open(self.table.clone())?);
        }
        match filter.as_mut() {
            Some(filter) => work(filter),
            None => Err(Error::Missing("nftables".to_owned())),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards is put right again after every failure, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The networks of one host.
#[derive(Clone)]
pub struct Net {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Net")
    }
}

impl Net {
    /// Opens it for the network namespace of the calling thread. `instance` tells this daemon from others on the same
    /// host, also after it was started again: the place of its data, for instance.
    ///
    /// After a start of the daemon [`Net::restore`] comes first: the first change of the packet filter writes the
    /// whole of it from what this knows.
    pub fn open(instance: &str) -> Result<Self, Error> {
        let number = hash(instance, 0);
        let low = u32::try_from(number & u64::from(route::DOOMED - 1)).unwrap_or(0);
        let group = route::GROUP | low;
        let shared = Shared {
            table: Arc::from(format!("wharf-{:08x}", number >> 32)),
            group,
            workers: Mutex::new(vec![Worker::new(group)?]),
            filter: Mutex::default(),
            switched: Mutex::default(),
            carry: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn run<T>(&self, work: impl FnOnce(&mut Worker, &Shared) -> Result<T, Error>) -> Result<T, Error> {
        let idle = lock(&self.shared.workers).pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => Worker::new(self.shared.group)?,
        };
        let result = work(&mut worker, &self.shared);
        lock(&self.shared.workers).push(worker);
        result
    }

    /// Makes a network what `new` says, from what `old` says that it is.
    pub fn apply_network(
        &self,
        id: &str,
        old: Option<&Desired>,
        new: &Desired,
    ) -> Result<AppliedNetwork, Error> {
        self.run(|worker, shared| network(worker, shared, id, old, new))
    }

    /// Removes a network. Removing what is not there is no error.
    pub fn remove_network(&self, id: &str, desired: &Desired) -> Result<(), Error> {
        self.run(|worker, shared| {
            let none = Desired::default();
            let changes = diff(Some(desired), &none);
            for item in items(desired) {
                if let Item::Link(link) = item {
                    lock(&shared.switched).0.remove(&host_name(id, &link.link));
                }
            }
            worker.apply(id, Some(desired), &none, &changes, None)?;
            forget(shared, id)
        })
    }

    /// Makes an endpoint what `new` says. Ports that stay published keep their holders; new ones are returned.
    pub fn apply_endpoint(
        &self,
        id: &str,
        old: Option<&Desired>,
        new: &Desired,
        container: BorrowedFd<'_>,
    ) -> Result<AppliedEndpoint, Error> {
        self.run(|worker, shared| endpoint(worker, shared, id, old, new, container))
    }

    /// The first port of a range that nobody has on any of these addresses of the host, and that is not among `taken`. It is
    /// not kept: until an endpoint with it is applied, somebody else may take it.
    pub fn first_free_port(
        &self,
        protocol: Protocol,
        hosts: &[std::net::IpAddr],
        range: std::ops::RangeInclusive<u16>,
        taken: &[u16],
    ) -> Option<u16> {
        let filter = lock(&self.shared.filter);
        ports::first_free(filter.as_ref(), protocol, hosts, range, taken)
    }

    /// Whether there is a program that carries what the kernel cannot ([`wharf_plan::net::carrier`]): endpoints that are applied from
    /// now on get listeners for it, in [`AppliedEndpoint::carried`]. Without it their ports are only held.
    pub fn set_carry(&self, carry: bool) {
        self.shared.carry.store(carry, Ordering::Relaxed);
    }

    /// Another listener for what a program carries, where the last one is lost.
    pub fn listen(&self, forward: &Forward) -> Result<OwnedFd, Error> {
        ports::listen(forward)
    }

    /// Whether this host has IPv6 at all; no more than an answer of the moment.
    pub fn has_ipv6(&self) -> bool {
        crate::sys::netlink::has_ipv6()
    }

    /// Opens the sockets on which the names of a container's networks are asked for, inside its namespace: whoever asks
    /// [`NAME_SERVER`] there reaches them. Done once more, the new sockets take the place of the old ones.
    pub fn open_names(&self, container: BorrowedFd<'_>) -> Result<NameSockets, Error> {
        self.run(|worker, _| worker.inside(container, names::open))
    }

    /// Removes an endpoint. Removing what is not there is no error.
    pub fn remove_endpoint(&self, id: &str, desired: &Desired, links: Links<'_>) -> Result<(), Error> {
        self.run(|worker, shared| {
            forget(shared, id)?;
            let none = Desired::default();
            let mut changes = diff(Some(desired), &none);
            let container = match links {
                Links::DieWithNamespace => {
                    changes.retain(|change| !dies(change));
                    None
                }
                Links::Delete(container) => Some(container),
            };
            worker.apply(id, Some(desired), &none, &changes, container).map(drop)
        })
    }

    /// After a start of the daemon: takes over what is on record, makes again what is missing of it on the host, and
    /// writes the packet filter anew in one step, so that it holds exactly what is on record. Links without a record
    /// are removed.
    pub fn restore(&self, networks: &[Record<'_>], endpoints: &[Record<'_>]) -> Result<Swept, Error> {
        self.run(|worker, shared| restore(worker, shared, networks, endpoints))
    }

    /// Writes the packet filter anew from what is known, for instance after somebody flushed it.
    pub fn resync(&self) -> Result<(), Error> {
        self.run(|_, shared| shared.filter(Filter::rewrite))
    }

    /// Watches the packet filter from now on, for as long as the result lives: whatever somebody else does to the table,
    /// such as flushing it or reloading a firewall, is put right at once.
    pub fn watch(&self) -> Result<Watch, Error> {
        let port = self.shared.filter(|filter| Ok(filter.port()))?;
        Watch::start(&self.shared, port)
    }

    /// Removes links and filter elements of networks and endpoints that are not named here.
    pub fn sweep(&self, networks: &BTreeSet<String>, endpoints: &BTreeSet<String>) -> Result<Swept, Error> {
        let alive: BTreeSet<&str> = networks.union(endpoints).map(String::as_str).collect();
        self.run(|worker, shared| {
            let links = sweep_links(worker, &alive)?;
            let filter = &mut *lock(&shared.filter);
            let elements = match filter {
                Some(filter) => filter.retain(|id| alive.contains(id))?,
                None => 0,
            };
            Ok(Swept { links, elements })
        })
    }
}
