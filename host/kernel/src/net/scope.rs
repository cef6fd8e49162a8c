//! Networks and endpoints as wholes: filter, links and ports together, and back again on failure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wharf_plan::net::{Change, Desired, Item, Kind, LinkState, Publish, Site, diff, items};

use super::filter::{Filter, Part, Port};
use super::forwarding::forward;
use super::links::Worker;
use super::ports::Wanted;
use super::{
    ALIAS, AppliedEndpoint, AppliedNetwork, Error, Record, Shared, Swept, flows, hash, host_name, links,
    lock, ports, route, wire,
};

/// Whether what this step removes vanishes with the container's namespace.
pub(super) fn dies(change: &Change) -> bool {
    let Change::Remove(item) = change else { return false };
    match item {
        Item::Link(LinkState { kind: Kind::Veth { peer }, .. }) => peer.site == Site::Container,
        Item::Link(link) => link.link.site == Site::Container,
        Item::Route(route) => route.site == Site::Container,
        other => other.depends_on().is_some_and(|link| link.site == Site::Container),
    }
}

pub(super) fn forget(shared: &Shared, id: &str) -> Result<(), Error> {
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
    add: &[(Port, SocketAddr)],
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

pub(super) fn network(
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

pub(super) fn endpoint(
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
        ports::reserve(filter.as_ref(), shared.carry.load(Ordering::Relaxed), &wanted)?
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
            let (mut holders, mut carried) = (Vec::new(), Vec::new());
            for held in &mut held {
                let Some(socket) = held.socket.take() else { continue };
                match held.carried {
                    Some(forward) => carried.push((forward, socket)),
                    None => holders.push(socket),
                }
            }
            Ok(AppliedEndpoint { publishes, holders, carried, interfaces, macs, notes })
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

pub(super) fn restore(
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

pub(super) fn sweep_links(worker: &mut Worker, alive: &BTreeSet<&str>) -> Result<Vec<String>, Error> {
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
