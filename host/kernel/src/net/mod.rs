//! Networks: links, addresses and routes by rtnetlink, packet filter by nftables over netlink.
//!
//! One [`Net`] acts in the network namespace in which it was opened (the host's, in the daemon). Whatever it makes
//! carries the id of its network or endpoint, so that [`Net::sweep`] finds what has no record.
//!
//! All functions block, and enter containers' namespaces for a moment: they belong on threads meant for such work, in
//! the namespace in which the [`Net`] was opened, never on those of an async runtime.

mod filter;
mod flows;
mod links;
mod nft;
mod ports;
mod route;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wharf_plan::net::{
    Change, Desired, Item, Kind, LinkName, LinkRef, LinkState, Protocol, Publish, Site, diff, items,
};

use filter::{Filter, Part, Port};
use links::Worker;
use ports::Wanted;
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
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{}:{}/{protocol}", self.host, self.container)
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

/// Whether what this step removes vanishes with the container's namespace.
fn dies(change: &Change) -> bool {
    let Change::Remove(item) = change else { return false };
    match item {
        Item::Link(LinkState { kind: Kind::Veth { peer }, .. }) => peer.site == Site::Container,
        Item::Link(link) => link.link.site == Site::Container,
        Item::Route(route) => route.site == Site::Container,
        other => other.depends_on().is_some_and(|link| link.site == Site::Container),
    }
}

fn forget(shared: &Shared, id: &str) -> Result<(), Error> {
    match &mut *lock(&shared.filter) {
        Some(filter) => {
            let ports: Vec<Port> = filter.ports_of(id).into_iter().map(|(port, _)| port).collect();
            change(filter, id, None, &ports, &[])
        }
        None => Ok(()),
    }
}

/// [`Filter::change`], and no flow keeps to what was before.
fn change(
    filter: &mut Filter,
    id: &str,
    part: Option<Part>,
    remove: &[Port],
    add: &[(Port, std::net::SocketAddr)],
) -> Result<(), Error> {
    let mut removed = filter.ports_of(id);
    removed.retain(|(port, _)| remove.contains(port));
    filter.change(id, part, remove, add)?;
    // The ports are as they shall be: a flow that cannot be forgotten ends by itself some time.
    if let Err(error) = flows::forget(add, &removed) {
        tracing::warn!(id, %error, "old flows to published UDP ports may linger");
    }
    Ok(())
}

fn network(
    worker: &mut Worker,
    shared: &Shared,
    id: &str,
    old: Option<&Desired>,
    new: &Desired,
) -> Result<AppliedNetwork, Error> {
    let changes = diff(old, new);
    let part = Part::of(id, new);
    let mut notes = Vec::new();
    // The filter first: it goes by names, and no moment shall be without it.
    let filtered = if part.is_empty() && lock(&shared.filter).is_none() {
        Ok(())
    } else {
        shared.filter(|filter| filter.change(id, Some(part), &[], &[]))
    };
    let result = filtered.and_then(|()| worker.apply(id, old, new, &changes, None)).and_then(|made| {
        for masquerade in &new.masquerades {
            forward(shared, !masquerade.from_cidr.contains(':'), &mut notes)?;
        }
        Ok(made)
    });
    match result {
        Ok(made) => Ok(AppliedNetwork { links: made.host, notes }),
        Err(error) => {
            go_back(worker, shared, id, old, new, None);
            Err(error)
        }
    }
}

/// After a failure on the way from `old` to `new`.
fn go_back(
    worker: &mut Worker,
    shared: &Shared,
    id: &str,
    old: Option<&Desired>,
    new: &Desired,
    container: Option<BorrowedFd<'_>>,
) {
    let none = Desired::default();
    let target = old.unwrap_or(&none);
    let changes = diff(Some(new), target);
    if let Err(error) = worker.apply(id, Some(new), target, &changes, container) {
        tracing::warn!(id, %error, "a failed change of the network could not be undone");
    }
    let part = Part::of(id, target);
    let result = match &mut *lock(&shared.filter) {
        Some(filter) => filter.change(id, Some(part), &[], &[]),
        None => Ok(()),
    };
    if let Err(error) = result {
        tracing::warn!(id, %error, "a failed change of the packet filter could not be undone");
    }
}

fn endpoint(
    worker: &mut Worker,
    shared: &Shared,
    id: &str,
    old: Option<&Desired>,
    new: &Desired,
    container: BorrowedFd<'_>,
) -> Result<AppliedEndpoint, Error> {
    let changes = diff(old, new);
    let mut wanted = Vec::new();
    let mut unwanted = Vec::new();
    for change in &changes {
        match change {
            Change::Add(Item::Publish(publish)) => wanted.extend(ports::expand(publish)?),
            Change::Remove(Item::Publish(publish)) => unwanted.extend(ports::expand(publish)?),
            _ => {}
        }
    }
    let mut held = {
        let filter = lock(&shared.filter);
        ports::reserve(filter.as_ref(), &wanted)?
    };
    let mut notes = Vec::new();
    let result = worker.apply(id, old, new, &changes, Some(container)).and_then(|made| {
        let part = Part::of(id, new);
        let changed = part != old.map(|old| Part::of(id, old)).unwrap_or_default();
        if held.is_empty() && unwanted.is_empty() && !changed {
            return Ok(made);
        }
        let add: Vec<_> = held.iter().map(|held| (held.port, held.to)).collect();
        let named = named(old, new)?;
        shared.filter(|filter| {
            let remove = applied(filter, id, &unwanted, &named);
            change(filter, id, Some(part), &remove, &add)
        })?;
        for held in &held {
            forward(shared, held.to.is_ipv4(), &mut notes)?;
        }
        prepare_bridges(worker, shared, id, new, &held)?;
        Ok(made)
    });
    match result {
        Ok(made) => {
            let mut publishes: Vec<Publish> = held.iter().map(|held| held.publish.clone()).collect();
            publishes.extend(kept(shared, id, old, new)?);
            publishes.sort();
            publishes.dedup();
            let (interfaces, macs) = made.inside.into_iter().unzip();
            let holders = held.iter_mut().filter_map(|held| held.socket.take()).collect();
            Ok(AppliedEndpoint { publishes, holders, interfaces, macs, notes })
        }
        Err(error) => {
            let ports: Vec<Port> = held.iter().map(|held| held.port).collect();
            if let Some(filter) = &mut *lock(&shared.filter)
                && let Err(error) = filter.change(id, None, &ports, &[])
            {
                tracing::warn!(id, %error, "published ports could not be taken back");
            }
            go_back(worker, shared, id, old, new, Some(container));
            Err(error)
        }
    }
}

/// The ports that plans call by their number.
fn named(old: Option<&Desired>, new: &Desired) -> Result<BTreeSet<Port>, Error> {
    let mut named = BTreeSet::new();
    for publish in old.into_iter().chain([new]).flat_map(|plan| &plan.publishes) {
        if publish.host_port != 0 {
            named.extend(ports::expand(publish)?.iter().map(Wanted::port));
        }
    }
    Ok(named)
}

/// The ports that stand for these entries of an applied plan; where any port was wanted, the one that was chosen.
fn applied(filter: &Filter, id: &str, entries: &[Wanted], named: &BTreeSet<Port>) -> Vec<Port> {
    let stands = |port: &Port, to, wanted: &Wanted| {
        if wanted.host.port() == 0 {
            let same = port.protocol == wanted.protocol && to == wanted.to && port.host == wanted.host.ip();
            same && !named.contains(port)
        } else {
            *port == wanted.port()
        }
    };
    filter
        .ports_of(id)
        .into_iter()
        .filter(|(port, to)| entries.iter().any(|wanted| stands(port, *to, wanted)))
        .map(|(port, _)| port)
        .collect()
}

/// Ports that were published before and still are.
fn kept(shared: &Shared, id: &str, old: Option<&Desired>, new: &Desired) -> Result<Vec<Publish>, Error> {
    let Some(old) = old else { return Ok(Vec::new()) };
    let named = named(Some(old), new)?;
    let filter = lock(&shared.filter);
    let mut kept = Vec::new();
    for publish in new.publishes.iter().filter(|publish| old.publishes.contains(publish)) {
        for wanted in ports::expand(publish)? {
            let port = match &*filter {
                Some(filter) => applied(filter, id, std::slice::from_ref(&wanted), &named).first().copied(),
                None => None,
            };
            kept.extend(port.map(|port| wanted.published(port.number)));
        }
    }
    Ok(kept)
}

/// What published ports ask of bridges: the host reaches them through 127.0.0.1 too, so packets from there may leave
/// through the bridge; and a container reaches its own, for which the bridge must send a frame back where it came from
/// (where `bridge-nf-call-iptables` has the bridge itself translate addresses).
fn prepare_bridges(
    worker: &mut Worker,
    shared: &Shared,
    id: &str,
    new: &Desired,
    held: &[ports::Held],
) -> Result<(), Error> {
    if held.is_empty() {
        return Ok(());
    }
    let mut batch = wire::Batch::default();
    for item in items(new) {
        let Item::Link(LinkState { controller: Some(controller), link, port, .. }) = item else { continue };
        if link.site != Site::Host {
            continue;
        }
        if !port.iter().any(|(key, _)| key == "hairpin") {
            route::set_port(&mut batch, &host_name(id, &link), &[("hairpin".to_owned(), "1".to_owned())]);
        }
        let bridge = host_name(id, &controller);
        let v4 = held.iter().any(|held| held.to.is_ipv4());
        if v4 && lock(&shared.switched).0.insert(bridge.clone()) {
            links::write_sysctl(&bridge, "ipv4.route_localnet", "1")?;
        }
    }
    worker.route.all(&batch)
}

/// Has packets of a family forwarded, in this thread's namespace alone.
fn forward(shared: &Shared, v4: bool, notes: &mut Vec<String>) -> Result<(), Error> {
    if !lock(&shared.switched).1.insert(v4) {
        return Ok(());
    }
    let path = if v4 { "/proc/sys/net/ipv4/ip_forward" } else { "/proc/sys/net/ipv6/conf/all/forwarding" };
    let now = std::fs::read_to_string(path).unwrap_or_default();
    if now.trim() == "1" {
        return Ok(());
    }
    let result = (|| {
        // This host was no router; it shall be one for its containers alone.
        shared.filter(|filter| filter.close(if v4 { nft::IPV4 } else { nft::IPV6 }))?;
        if !v4 {
            keep_router_advertisements()?;
        }
        links::write_proc(path, "1")
    })();
    match result {
        Ok(()) => {
            let family = if v4 { "IPv4" } else { "IPv6" };
            notes.push(format!("switched on {family} forwarding; only traffic of containers is forwarded"));
            Ok(())
        }
        Err(error) => {
            lock(&shared.switched).1.remove(&v4);
            Err(error)
        }
    }
}

/// A host that forwards IPv6 no longer listens to routers, unless told to: it would lose its own way out.
fn keep_router_advertisements() -> Result<(), Error> {
    let unreadable = |source| Error::System {
        what: "list /proc/sys/net/ipv6/conf".to_owned(),
        detail: String::new(),
        source,
    };
    for entry in std::fs::read_dir("/proc/sys/net/ipv6/conf").map_err(unreadable)? {
        let link = entry.map_err(unreadable)?.file_name();
        let link = link.to_string_lossy();
        let read = |name| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{link}/{name}"));
        let listens = read("accept_ra").is_ok_and(|value| value.trim() == "1");
        if listens
            && read("forwarding").is_ok_and(|value| value.trim() == "0")
            && link != "all"
            && link != "default"
        {
            links::write_sysctl(&link, "ipv6.accept_ra", "2")?;
        }
    }
    Ok(())
}

fn restore(
    worker: &mut Worker,
    shared: &Shared,
    networks: &[Record<'_>],
    endpoints: &[Record<'_>],
) -> Result<Swept, Error> {
    let alive = networks.iter().chain(endpoints).map(|record| record.id).collect();
    let links = sweep_links(worker, &alive)?;
    let mut parts = BTreeMap::new();
    let mut held = BTreeMap::new();
    let mut first = None;
    for Record { id, desired, .. } in networks {
        // One network that cannot be made must not keep the others down.
        if let Err(error) = worker.apply(id, None, desired, &diff(None, desired), None) {
            tracing::error!(id, %error, "a network could not be restored");
            first.get_or_insert(error);
        }
        parts.insert(Arc::from(*id), Part::of(id, desired));
    }
    for Record { id, desired, publishes } in endpoints {
        let owner: Arc<str> = Arc::from(*id);
        parts.insert(owner.clone(), Part::of(id, desired));
        for publish in *publishes {
            for wanted in ports::expand(publish)? {
                held.insert(
                    Port { protocol: wanted.protocol, number: wanted.host.port(), host: wanted.host.ip() },
                    (wanted.to, owner.clone()),
                );
            }
        }
    }
    let v4 = |cidr: &str| !cidr.contains(':');
    let families: BTreeSet<bool> = networks
        .iter()
        .flat_map(|record| record.desired.masquerades.iter().map(|masquerade| v4(&masquerade.from_cidr)))
        .chain(held.values().map(|(to, _)| to.is_ipv4()))
        .collect();
    let elements = shared.filter(|filter| filter.replace(parts, held))?;
    for family in families {
        forward(shared, family, &mut Vec::new())?;
    }
    match first {
        Some(error) => Err(error),
        None => Ok(Swept { links, elements }),
    }
}

fn sweep_links(worker: &mut Worker, alive: &BTreeSet<&str>) -> Result<Vec<String>, Error> {
    /// As many links as one plan may have.
    const ORDINALS: u32 = 64;
    let letters: BTreeSet<String> = alive
        .iter()
        .flat_map(|id| (0..ORDINALS).map(move |ordinal| format!("{:016x}", hash(id, ordinal))))
        .collect();
    // What follows the prefix in a generated name, six letters at least, is how a living one's letters begin.
    let generated = |name: &str| {
        (1..=9).filter_map(|at| name.get(at..)).any(|rest| {
            name.len() == 15
                && letters.range(rest.to_owned()..).next().is_some_and(|one| one.starts_with(rest))
        })
    };
    let group = worker.group;
    let dead = |link: &route::Known| {
        let lives = match link.alias.strip_prefix(ALIAS) {
            Some(id) => alive.contains(id),
            None => generated(&link.name),
        };
        link.group == group && !lives
    };
    let doomed: Vec<route::Known> = route::links(&mut worker.route)?.into_iter().filter(dead).collect();
    links::delete_many(worker, &doomed)?;
    Ok(doomed.into_iter().map(|link| link.name).collect())
}
