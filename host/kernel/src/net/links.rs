//! Takes the steps of a plan that concern links, addresses, routes and neighbours.
//!
//! Everything of the host's side goes to the kernel in one or two messages, everything of the container's side too,
//! through a socket that was opened inside its namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use wharf_plan::net::{
    Change, Desired, Item, Kind, LinkName, LinkRef, LinkState, Prefix, Site, items, parse_mac,
};

use super::route::{self, Known, NewLink, SetLink};
use super::wire::{Batch, Socket};
use super::{ALIAS, Error, hash, host_name};
use crate::netns;
use crate::sys::process::{CLONE_NEWNET, setns};

/// A thread's means: its own namespace, and a socket there.
#[derive(Debug)]
pub(super) struct Worker {
    home: OwnedFd,
    pub(super) route: Socket,
    /// Of the links that this daemon makes.
    pub(super) group: u32,
}

/// What came of the links.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) host: Vec<String>,
    /// Name and hardware address of each link inside the container.
    pub(super) inside: Vec<(String, String)>,
}

impl Worker {
    /// For the namespace of the calling thread.
    pub(super) fn new(group: u32) -> Result<Self, Error> {
        let home = netns::current()
            .map_err(|error| super::wire::system("hold the own network namespace", &error))?;
        Ok(Self { home, route: Socket::open(libc::NETLINK_ROUTE)?, group })
    }

    /// Runs `work` inside a namespace.
    pub(super) fn inside<T>(
        &self,
        namespace: BorrowedFd<'_>,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let enter = |to| setns(to, CLONE_NEWNET);
        enter(namespace)
            .map_err(|error| super::wire::system("enter the container's network namespace", &error))?;
        let result = work();
        if let Err(error) = enter(self.home.as_fd()) {
            // The descriptor is good and entering needs no memory, so this does not happen. If it did, whatever this
            // thread did next would be done to the container's network instead of the host's.
            tracing::error!(%error, "a thread cannot leave a container's network namespace and stops here");
            loop {
                std::thread::park();
            }
        }
        result
    }

    /// Takes the steps. On failure some may have been taken: the caller goes back by the opposite difference, for
    /// which nothing is an error that is there already or gone already.
    pub(super) fn apply(
        &mut self,
        id: &str,
        old: Option<&Desired>,
        new: &Desired,
        changes: &[Change],
        container: Option<BorrowedFd<'_>>,
    ) -> Result<Made, Error> {
        let mut plan = Plan::new(id, self.group, old, new);
        let mut made = Made::default();
        let concerns_container = changes.iter().any(|change| site_of(change) == Some(Site::Container));
        let inner = match container.filter(|_| concerns_container) {
            Some(namespace) => Some((namespace, self.inside(namespace, || plan.choose_names(changes))?)),
            None => None,
        };
        let mut stage = Stage::new(&mut self.route);
        for change in changes {
            plan.host(&mut stage, change, container)?;
        }
        stage.flush()?;
        let again = std::mem::take(&mut stage.existing);
        for link in again {
            plan.adopt(&mut stage, &link, container)?;
        }
        stage.flush()?;
        plan.host_after(&mut stage, changes)?;
        stage.flush()?;
        for item in items(new) {
            if let Item::Link(LinkState { link, kind, .. }) = item
                && link.site == Site::Host
                && !matches!(kind, Kind::Granted(_))
            {
                made.host.push(host_name(id, &link));
            }
        }
        let Some((namespace, mut socket)) = inner else {
            // Without a namespace: it goes, and with it all that would be removed there.
            let removal = |change: &Change| matches!(change, Change::Remove(_));
            let only_removals = |change| site_of(change) != Some(Site::Container) || removal(change);
            return if changes.iter().all(only_removals) { Ok(made) } else { Err(no_container()) };
        };
        plan.find_peers(&mut self.route)?;
        made.inside = self.inside(namespace, || plan.inside(&mut Stage::new(&mut socket), changes))?;
        Ok(made)
    }
}

fn no_container() -> Error {
    Error::Plan("the plan has links inside a container, but there is none".to_owned())
}

fn site_of(change: &Change) -> Option<Site> {
    let item = match change {
        Change::Add(item) | Change::Remove(item) => item,
        Change::Set { to, .. } => return Some(to.link.site),
    };
    match item {
        Item::Link(link) => Some(link.link.site),
        Item::Route(route) => Some(route.site),
        other => other.depends_on().map(|link| link.site),
    }
}

/// What is no error for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tolerate {
    Nothing,
    /// It is gone already.
    Missing,
    /// A link of that name is there already: it may be ours.
    Existing(LinkRef),
}

/// Messages for one namespace that wait to be sent together.
#[derive(Debug)]
struct Stage<'a> {
    socket: &'a mut Socket,
    batch: Batch,
    tolerate: Vec<Tolerate>,
    /// Links that were to be made and are there.
    existing: Vec<LinkRef>,
    indices: BTreeMap<String, u32>,
}

/// More messages than this in one go, and the answers would not fit the socket.
const MESSAGES: usize = 64;

impl<'a> Stage<'a> {
    fn new(socket: &'a mut Socket) -> Self {
        Self {
            socket,
            batch: Batch::default(),
            tolerate: Vec::new(),
            existing: Vec::new(),
            indices: BTreeMap::new(),
        }
    }

    fn add(&mut self, tolerate: Tolerate, message: impl FnOnce(&mut Batch)) -> Result<(), Error> {
        message(&mut self.batch);
        self.tolerate.resize(self.batch.len(), tolerate);
        if self.batch.len() >= MESSAGES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let tolerate = std::mem::take(&mut self.tolerate);
        for failure in self.socket.exchange(&batch)? {
            match (tolerate.get(failure.number), failure.errno) {
                (
                    Some(Tolerate::Missing),
                    libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL | libc::EINVAL,
                ) => {}
                (Some(Tolerate::Existing(link)), libc::EEXIST) => self.existing.push(link.clone()),
                _ => return Err(missing(failure.error, failure.errno)),
            }
        }
        Ok(())
    }

    fn find(&mut self, name: &str) -> Result<Option<Known>, Error> {
        self.flush()?;
        let known = route::find(self.socket, name)?;
        if let Some(known) = &known {
            self.indices.insert(name.to_owned(), known.index);
        }
        Ok(known)
    }

    fn index(&mut self, name: &str) -> Result<u32, Error> {
        if let Some(index) = self.indices.get(name) {
            return Ok(*index);
        }
        self.flush()?;
        let index = number(name).ok_or_else(|| gone(name))?;
        self.indices.insert(name.to_owned(), index);
        Ok(index)
    }
}

/// The number of a link in the calling thread's namespace, without the lock that netlink takes.
fn number(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

fn gone(name: &str) -> Error {
    Error::System {
        what: format!("find link {name}"),
        detail: String::new(),
        source: std::io::Error::from_raw_os_error(libc::ENODEV),
    }
}

/// What the kernel says of a kind of link that is not built in.
fn missing(error: Error, errno: i32) -> Error {
    match &error {
        Error::System { what, .. } if errno == libc::EOPNOTSUPP && what.starts_with("make ") => {
            let kind = what.split(' ').nth(1).unwrap_or("such");
            let option = match kind {
                "vlan" => "VLAN_8021Q".to_owned(),
                "vrf" => "NET_VRF".to_owned(),
                kind => kind.to_uppercase(),
            };
            Error::Missing(format!("{kind} links (CONFIG_{option})"))
        }
        Error::System { what, .. } if errno == libc::EXFULL => Error::System {
            what: what.clone(),
            detail: " (a bridge has 1023 ports at most: use a second network)".to_owned(),
            source: std::io::Error::from_raw_os_error(errno),
        },
        _ => error,
    }
}

#[derive(Debug)]
struct Plan<'a> {
    id: &'a str,
    group: u32,
    alias: String,
    states: BTreeMap<LinkRef, LinkState>,
    /// Names of links that are about to be made inside the container.
    chosen: BTreeMap<LinkRef, String>,
    /// Numbers of links with generated names inside the container, by the other ends of their pairs.
    peers: BTreeMap<LinkRef, u32>,
    /// Links inside the container, once known.
    inside: BTreeMap<LinkRef, Known>,
    ipv6: BTreeSet<LinkRef>,
}

impl<'a> Plan<'a> {
    fn new(id: &'a str, group: u32, old: Option<&Desired>, new: &Desired) -> Self {
        let mut states = BTreeMap::new();
        let mut ipv6 = BTreeSet::new();
        for item in old.map(items).unwrap_or_default().into_iter().chain(items(new)) {
            match item {
                Item::Link(link) => drop(states.insert(link.link.clone(), link)),
                Item::Address { link, cidr, .. } if cidr.contains(':') => drop(ipv6.insert(link)),
                _ => {}
            }
        }
        Self {
            id,
            group,
            alias: format!("{ALIAS}{id}"),
            states,
            chosen: BTreeMap::new(),
            peers: BTreeMap::new(),
            inside: BTreeMap::new(),
            ipv6,
        }
    }

    fn name(&self, link: &LinkRef) -> String {
        match (self.inside.get(link), &link.name, link.site) {
            (Some(known), ..) => known.name.clone(),
            (None, LinkName::Generated { prefix, .. }, Site::Container) => {
                self.chosen.get(link).unwrap_or(prefix).clone()
            }
            _ => host_name(self.id, link),
        }
    }

    /// Inside the container's namespace: opens a socket, and takes the first free number after each prefix.
    fn choose_names(&mut self, changes: &[Change]) -> Result<Socket, Error> {
        let socket = Socket::open(libc::NETLINK_ROUTE)?;
        let mut taken: BTreeSet<String> = self
            .states
            .keys()
            .filter(|link| link.site == Site::Container)
            .map(|link| self.name(link))
            .collect();
        for change in changes {
            let Change::Add(Item::Link(LinkState { link, .. })) = change else { continue };
            let LinkRef { site: Site::Container, name: LinkName::Generated { prefix, .. } } = link else {
                continue;
            };
            let free = |name: &String| !taken.contains(name) && number(name).is_none();
            let name = (0..u16::MAX).map(|number| format!("{prefix}{number}")).find(free);
            let name = name.unwrap_or_else(|| prefix.clone());
            taken.insert(name.clone());
            self.chosen.insert(link.clone(), name);
        }
        Ok(socket)
    }

    /// The host's part of one step.
    fn host(
        &self,
        stage: &mut Stage<'_>,
        change: &Change,
        container: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        match change {
            Change::Add(Item::Link(state)) => self.make(stage, state, container),
            Change::Remove(Item::Link(state)) if state.link.site == Site::Host => match state.kind {
                Kind::Granted(_) => Ok(()),
                _ => self.delete(stage, &self.name(&state.link)),
            },
            Change::Remove(item) if site_of(change) == Some(Site::Host) => self.item(stage, item, false),
            _ => Ok(()),
        }
    }

    /// What needs the links of the first part.
    fn host_after(&self, stage: &mut Stage<'_>, changes: &[Change]) -> Result<(), Error> {
        for change in changes {
            match change {
                Change::Add(Item::Link(state)) if state.link.site == Site::Host => {
                    self.finish(stage, state)?;
                }
                Change::Set { from, to } if to.link.site == Site::Host => self.set(stage, from, to)?,
                Change::Add(item) if site_of(change) == Some(Site::Host) => self.item(stage, item, true)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn make(
        &self,
        stage: &mut Stage<'_>,
        state: &LinkState,
        container: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let name = self.name(&state.link);
        let outside = |link: &LinkRef| match link.site {
            Site::Container => container.map(Some).ok_or_else(no_container),
            _ => Ok(None),
        };
        let peer_state = match &state.kind {
            Kind::Granted(_) | Kind::VethPeer { .. } => return Ok(()),
            Kind::Veth { peer } => self.states.get(peer),
            _ => None,
        };
        let peer_name = peer_state.map(|peer| self.name(&peer.link)).unwrap_or_default();
        let peer = match peer_state {
            Some(peer) => Some((peer, peer_name.as_str(), outside(&peer.link)?)),
            None => None,
        };
        let controller = match &state.controller {
            Some(link) if state.link.site == Site::Host => Some(stage.index(&self.name(link))?),
            _ => None,
        };
        let parent = match state.kind.parent() {
            Some(link) => Some(stage.index(&self.name(link))?),
            None => None,
        };
        let with_mac = steady(self.id, state);
        let new = NewLink {
            state: with_mac.as_ref().unwrap_or(state),
            name: &name,
            group: self.group,
            up: state.up && !Self::finishes(state),
            controller,
            parent,
            namespace: outside(&state.link)?,
            peer,
        };
        let mut result = Ok(());
        stage.add(Tolerate::Existing(state.link.clone()), |batch| result = route::add_link(batch, &new))?;
        result
    }

    /// Whether something has to be done between making a link and setting it up.
    fn finishes(state: &LinkState) -> bool {
        state.link.site != Site::Host || !state.sysctls.is_empty() || !state.port.is_empty()
    }

    fn finish(&self, stage: &mut Stage<'_>, state: &LinkState) -> Result<(), Error> {
        if matches!(state.kind, Kind::Granted(_)) {
            return Ok(());
        }
        let name = self.name(&state.link);
        // A generated name says already whose it is.
        if matches!(state.link.name, LinkName::Exact(_)) {
            stage.add(Tolerate::Nothing, |batch| route::set_alias(batch, &name, &self.alias))?;
        }
        if !Self::finishes(state) {
            return Ok(());
        }
        stage.flush()?;
        write_sysctls(&name, &state.sysctls)?;
        if !state.port.is_empty() {
            stage.add(Tolerate::Nothing, |batch| route::set_port(batch, &name, &state.port))?;
        }
        if state.up {
            let index = stage.index(&name)?;
            let up = SetLink { up: Some(true), ..SetLink::default() };
            stage.add(Tolerate::Nothing, |batch| route::set_link(batch, index, &name, &up))?;
        }
        Ok(())
    }

    /// A link is there already. If it is this scope's, what an interrupted run has left, it is taken over.
    fn adopt(
        &self,
        stage: &mut Stage<'_>,
        link: &LinkRef,
        container: Option<BorrowedFd<'_>>,
    ) -> Result<(), Error> {
        let name = self.name(link);
        let Some(state) = self.states.get(link) else { return Ok(()) };
        let taken = |why: &str| Error::System {
            what: format!("make link {name}"),
            detail: format!(" ({why})"),
            source: std::io::Error::from_raw_os_error(libc::EEXIST),
        };
        let known = match stage.find(&name)? {
            Some(known) if link.site == Site::Host && self.owns(&known) => known,
            Some(_) if link.site == Site::Host => {
                return Err(taken("it is there and belongs to somebody else"));
            }
            _ => return Err(taken("its name, or that of its other end, is taken inside the container")),
        };
        if matches!(state.kind, Kind::Veth { .. }) {
            // Its other end may be in a namespace that nobody uses any more.
            stage.add(Tolerate::Missing, |batch| route::delete_link(batch, known.index, &name))?;
            stage.flush()?;
            stage.indices.remove(&name);
            return self.make(stage, state, container);
        }
        let controller = match &state.controller {
            Some(link) => Some(stage.index(&self.name(link))?),
            None => None,
        };
        let set = SetLink { up: Some(state.up), mtu: state.mtu, mac: None, controller, rename: None };
        stage.add(Tolerate::Nothing, |batch| route::set_link(batch, known.index, &name, &set))
    }

    /// Whether a link was made for this scope. The group is there from the first moment, the alias soon after, and only
    /// for names that do not say themselves whose they are.
    fn owns(&self, known: &Known) -> bool {
        known.group == self.group && (known.alias.is_empty() || known.alias == self.alias)
    }

    fn set(&self, stage: &mut Stage<'_>, from: &LinkState, to: &LinkState) -> Result<(), Error> {
        if matches!(to.kind, Kind::Granted(_)) {
            return Ok(());
        }
        let (name, index) = self.place(stage, &to.link)?;
        let sysctls: Vec<_> = to.sysctls.iter().filter(|one| !from.sysctls.contains(one)).cloned().collect();
        write_sysctls(&name, &sysctls)?;
        let controller = match (&to.controller, &from.controller) {
            (Some(link), _) => Some(stage.index(&self.name(link))?),
            (None, Some(_)) => Some(0),
            (None, None) => None,
        };
        let set = SetLink {
            up: Some(to.up),
            mtu: to.mtu.filter(|_| to.mtu != from.mtu),
            mac: to.mac.as_deref().filter(|_| to.mac != from.mac).and_then(parse_mac),
            controller,
            rename: None,
        };
        stage.add(Tolerate::Nothing, |batch| route::set_link(batch, index, &name, &set))?;
        if to.port != from.port {
            // What is no longer said goes back to the kernel's default.
            let defaults = [("isolated", "0"), ("hairpin", "0"), ("learning", "1"), ("flood", "1")];
            let options: Vec<(String, String)> = defaults
                .iter()
                .map(|(key, default)| {
                    let value =
                        to.port.iter().find(|(other, _)| other == key).map_or(*default, |(_, value)| value);
                    ((*key).to_owned(), value.to_owned())
                })
                .collect();
            stage.add(Tolerate::Nothing, |batch| route::set_port(batch, &name, &options))?;
        }
        Ok(())
    }

    /// Deletes a link of the host, if it is this scope's.
    fn delete(&self, stage: &mut Stage<'_>, name: &str) -> Result<(), Error> {
        match stage.find(name)? {
            Some(known) if self.owns(&known) => {
                stage.indices.remove(name);
                stage.add(Tolerate::Missing, |batch| route::delete_link(batch, known.index, name))
            }
            _ => Ok(()),
        }
    }

    /// Name and number of a link where the stage is.
    fn place(&self, stage: &mut Stage<'_>, link: &LinkRef) -> Result<(String, u32), Error> {
        if link.site == Site::Container {
            let found = self.inside.get(link).map(|known| (known.name.clone(), known.index));
            return found.ok_or_else(|| gone(&self.name(link)));
        }
        let name = self.name(link);
        let index = stage.index(&name)?;
        Ok((name, index))
    }

    /// Anything but a link.
    fn item(&self, stage: &mut Stage<'_>, item: &Item, add: bool) -> Result<(), Error> {
        let tolerate = if add { Tolerate::Nothing } else { Tolerate::Missing };
        let index = match item.depends_on() {
            Some(link) => match self.place(stage, link) {
                Ok((name, index)) => Some((name, index)),
                // To be removed from a link that is gone.
                Err(_) if !add => return Ok(()),
                Err(error) => return Err(error),
            },
            None => None,
        };
        let mut result = Ok(());
        match (item, index) {
            (Item::Address { cidr, no_dad, .. }, Some((_, index))) => {
                let prefix: Prefix =
                    cidr.parse().map_err(|_| Error::Plan(format!("{cidr}: not an address")))?;
                stage.add(tolerate, |batch| route::address(batch, add, index, &prefix, *no_dad))?;
            }
            (Item::Route(one), index) => {
                let index = index.map(|(_, index)| index);
                stage.add(tolerate, |batch| result = route::route(batch, add, one, index))?;
            }
            (Item::Neighbor { ip, mac, .. }, Some((_, index))) => {
                stage.add(tolerate, |batch| result = route::neighbor(batch, add, index, mac, ip, false))?;
            }
            (Item::Fdb { mac, destination, .. }, Some((_, index))) => {
                stage.add(tolerate, |batch| {
                    result = route::neighbor(batch, add, index, mac, destination, true);
                })?;
            }
            (Item::Shape { shape, .. }, Some((name, index))) => {
                stage.add(tolerate, |batch| route::shape(batch, add, index, &name, shape))?;
            }
            (Item::Dynamic { .. }, _) if add => {
                return Err(Error::Unsupported("a DHCP or SLAAC client".to_owned()));
            }
            _ => {}
        }
        result
    }

    /// Where links inside the container with generated names are, by the other ends of their pairs.
    fn find_peers(&mut self, socket: &mut Socket) -> Result<(), Error> {
        for (link, state) in &self.states {
            let generated =
                matches!(link.name, LinkName::Generated { .. }) && !self.chosen.contains_key(link);
            if let (Site::Container, true, Kind::VethPeer { of }) = (link.site, generated, &state.kind)
                && let Some(known) = route::find(socket, &self.name(of))?
            {
                self.peers.insert(link.clone(), known.peer);
            }
        }
        Ok(())
    }

    /// The container's part, run inside its namespace.
    fn inside(&mut self, stage: &mut Stage<'_>, changes: &[Change]) -> Result<Vec<(String, String)>, Error> {
        for (link, state) in self.states.iter().filter(|(link, _)| link.site == Site::Container) {
            let known = match (self.peers.get(link), &state.mac) {
                (Some(index), _) => route::find_index(stage.socket, *index)?,
                // Its number is all that is missing, and costs no lock.
                (None, Some(_)) => {
                    let name = self.name(link);
                    number(&name).map(|index| Known { index, name, ..Known::default() })
                }
                (None, None) => route::find(stage.socket, &self.name(link))?,
            };
            self.inside.extend(known.map(|known| (link.clone(), known)));
        }
        let mut up: Vec<(String, u32)> = Vec::new();
        for change in changes.iter().filter(|change| site_of(change) == Some(Site::Container)) {
            match change {
                Change::Add(Item::Link(state)) => {
                    let (name, index) = self.place(stage, &state.link)?;
                    write_sysctls(&name, &state.sysctls)?;
                    self.ipv6_defaults(&name, state)?;
                    if state.up {
                        up.push((name, index));
                    }
                }
                Change::Set { from, to } => self.set(stage, from, to)?,
                // The other end's removal took it along, unless it has none.
                Change::Remove(Item::Link(state)) => {
                    if let Ok((name, index)) = self.place(stage, &state.link) {
                        stage.add(Tolerate::Missing, |batch| route::delete_link(batch, index, &name))?;
                    }
                }
                Change::Remove(item) => self.item(stage, item, false)?,
                Change::Add(item) => {
                    // Addresses come first: a link that is up without them would invent its own.
                    if !matches!(item, Item::Address { .. }) {
                        Self::bring_up(stage, &mut up)?;
                    }
                    self.item(stage, item, true)?;
                }
            }
        }
        Self::bring_up(stage, &mut up)?;
        stage.flush()?;
        let mut all = Vec::new();
        for (link, state) in &self.states {
            if link.site == Site::Container && changes.iter().any(|change| is_add_or_set(change, link)) {
                let Some(known) = self.inside.get(link) else { continue };
                let mac = state.mac.clone().unwrap_or_else(|| show_mac(&known.mac));
                all.push((known.name.clone(), mac));
            }
        }
        Ok(all)
    }

    fn bring_up(stage: &mut Stage<'_>, up: &mut Vec<(String, u32)>) -> Result<(), Error> {
        for (name, index) in up.drain(..) {
            let set = SetLink { up: Some(true), ..SetLink::default() };
            stage.add(Tolerate::Nothing, |batch| route::set_link(batch, index, &name, &set))?;
        }
        Ok(())
    }

    /// No IPv6 where no IPv6 was asked for (CVE-2024-32473), and no router but the plan's.
    fn ipv6_defaults(&self, name: &str, state: &LinkState) -> Result<(), Error> {
        let said = |key: &str| state.sysctls.iter().any(|(other, _)| other == key);
        let wanted = self.ipv6.contains(&state.link);
        let settings = [("ipv6.disable_ipv6", if wanted { "0" } else { "1" }), ("ipv6.accept_ra", "0")];
        for (key, value) in settings {
            if said(key) || (!wanted && key == "ipv6.accept_ra") {
                continue;
            }
            match write_sysctl(name, key, value) {
                // A kernel without IPv6 has it switched off.
                Err(Error::System { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound && !wanted => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn is_add_or_set(change: &Change, link: &LinkRef) -> bool {
    match change {
        Change::Add(Item::Link(state)) => state.link == *link,
        Change::Set { to, .. } => to.link == *link,
        _ => false,
    }
}

/// A bridge without a hardware address takes its ports' lowest one, which changes whenever a container comes or goes,
/// and breaks what others remember of it. So it gets one that stays.
fn steady(id: &str, state: &LinkState) -> Option<LinkState> {
    if !matches!(state.kind, Kind::Bridge(_)) || state.mac.is_some() {
        return None;
    }
    let [a, b, c, d, ..] = hash(id, 0).to_be_bytes();
    Some(LinkState { mac: Some(format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")), ..state.clone() })
}

pub(super) fn show_mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn write_sysctls(link: &str, sysctls: &[(String, String)]) -> Result<(), Error> {
    sysctls.iter().try_for_each(|(key, value)| write_sysctl(link, key, value))
}

/// Writes `ipv4.NAME` or `ipv6.NAME` of a link in the calling thread's namespace.
pub(super) fn write_sysctl(link: &str, key: &str, value: &str) -> Result<(), Error> {
    let (family, name) = key.split_once('.').unwrap_or(("ipv4", key));
    let path = format!("/proc/sys/net/{family}/conf/{link}/{name}");
    write_proc(&path, value)
}

pub(super) fn write_proc(path: &str, value: &str) -> Result<(), Error> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| Error::System {
            what: format!("write {value} to {path}"),
            detail: String::new(),
            source,
        })
}

/// Deletes links in one go: one by one, each would wait for the whole machine.
pub(super) fn delete_many(worker: &mut Worker, links: &[Known]) -> Result<(), Error> {
    let (socket, doomed) = (&mut worker.route, worker.group | route::DOOMED);
    if links.is_empty() {
        return Ok(());
    }
    for part in links.chunks(MESSAGES) {
        let mut batch = Batch::default();
        for link in part {
            route::set_group(&mut batch, link.index, &link.name, doomed);
        }
        for failure in socket.exchange(&batch)? {
            if failure.errno != libc::ENODEV {
                return Err(failure.error);
            }
        }
    }
    let mut batch = Batch::default();
    route::delete_group(&mut batch, doomed);
    match socket.exchange(&batch)?.into_iter().next() {
        Some(failure) if failure.errno != libc::ENODEV => Err(failure.error),
        _ => Ok(()),
    }
}
