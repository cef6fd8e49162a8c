//! The packet filter: one table, one set or map per purpose, no rule per container.
//!
//! ```text
//! guard        prerouting, raw      127.0.0.0/8 to or from anything but the loopback is dropped
//! prerouting   prerouting, dstnat   what is for this host goes through `published`
//! output       output, dstnat       so does what this host sends to itself
//! published                         ports to containers, by map: first those of one address, then those of all
//! postrouting  postrouting, srcnat  hairpin, loopback, masquerade
//! forward      forward, filter      between bridges and from outside: only what answers or was published
//! ```
//!
//! What is in the kernel is known here, so that a change is the difference, in one transaction. If somebody flushed
//! the table, the change fails as a whole and the table is written anew.

mod sets;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use wharf_plan::net::Protocol;

use super::Error;
use super::nft::{self, Element};
use super::wire::Socket;
pub(super) use sets::Part;
use sets::{Small, small};
use table::{ROUTERS, SETS, chains, rules, write_plans, write_ports};

/// A published port: protocol and the host's side. The unspecified address stands for all of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) protocol: Protocol,
    pub(super) number: u16,
    pub(super) host: IpAddr,
}

/// The table, as it is in the kernel.
#[derive(Debug)]
pub(super) struct Filter {
    socket: Socket,
    table: Arc<str>,
    there: bool,
    parts: BTreeMap<Arc<str>, Part>,
    ports: BTreeMap<Port, (SocketAddr, Arc<str>)>,
    owned: BTreeMap<Arc<str>, BTreeSet<Port>>,
    written: Small,
    /// Families whose forwarding Wharf switched on: other traffic than that of containers is not routed.
    closed: BTreeSet<u8>,
}

impl Filter {
    pub(super) fn open(table: Arc<str>) -> Result<Self, Error> {
        let mut socket = Socket::open(libc::NETLINK_NETFILTER)?;
        // 65536 ports of one batch need some 8 MiB.
        crate::sys::netlink::set_buffers(std::os::fd::AsFd::as_fd(socket.fd()), 16 << 20)
            .map_err(|error| super::wire::system("make room for the packet filter's messages", &error))?;
        let mut closed = BTreeSet::new();
        for (family, chain) in ROUTERS {
            match nft::has_chain(&mut socket, &table, chain) {
                Ok(true) => drop(closed.insert(family)),
                Ok(false) => {}
                Err(Error::System { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return Err(Error::Missing(
                        "nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)".to_owned(),
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            socket,
            table,
            there: false,
            parts: BTreeMap::new(),
            ports: BTreeMap::new(),
            owned: BTreeMap::new(),
            written: Small::default(),
            closed,
        })
    }

    /// The netlink port of the socket that makes all changes.
    pub(super) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Who has this port, or one that includes it or that it includes.
    pub(super) fn holder(&self, port: &Port) -> Option<&Arc<str>> {
        let any = |ip: &IpAddr| ip.is_unspecified();
        let first = Port { host: IpAddr::from([0; 4]), ..*port };
        self.ports
            .range(first..)
            .take_while(|(other, _)| (other.protocol, other.number) == (port.protocol, port.number))
            .find(|(other, _)| {
                other.host.is_ipv4() == port.host.is_ipv4()
                    && (other.host == port.host || any(&other.host) || any(&port.host))
            })
            .map(|(_, (_, owner))| owner)
    }

    /// Switches other forwarding of this family off, from the next change on.
    pub(super) fn close(&mut self, family: u8) -> Result<(), Error> {
        if self.closed.insert(family) { self.rewrite() } else { Ok(()) }
    }

    /// Replaces what is known of a scope, removes ports of it and adds some. All or nothing.
    pub(super) fn change(
        &mut self,
        id: &str,
        part: Option<Part>,
        remove: &[Port],
        add: &[(Port, SocketAddr)],
    ) -> Result<(), Error> {
        let owner: Arc<str> = Arc::from(id);
        let part = part.unwrap_or_default();
        let old = self.parts.get(id).cloned().unwrap_or_default();
        self.know(&owner, part.clone());
        let small = (old != part).then(|| small(&self.parts));
        // Only ports that this scope owns: a record that is out of date removes nobody else's.
        let mut removed = Vec::new();
        for port in remove {
            if self.ports.get(port).is_some_and(|(_, holder)| **holder == *id) {
                removed.extend(self.take(port).map(|to| (*port, to)));
            }
        }
        for (port, to) in add {
            self.put(*port, *to, owner.clone());
        }
        let result = if self.there {
            self.write(small.as_ref(), &removed, add)
        } else if self.parts.is_empty() && self.ports.is_empty() {
            Ok(())
        } else {
            self.rewrite()
        };
        match result {
            Ok(()) => Ok(()),
            Err(error) => {
                for (port, _) in add {
                    self.take(port);
                }
                for (port, to) in removed {
                    self.put(port, to, owner.clone());
                }
                self.know(&owner, old);
                Err(error)
            }
        }
    }

    fn know(&mut self, id: &Arc<str>, part: Part) {
        if part.is_empty() {
            self.parts.remove(id);
        } else {
            self.parts.insert(id.clone(), part);
        }
    }

    fn put(&mut self, port: Port, to: SocketAddr, owner: Arc<str>) {
        self.ports.insert(port, (to, owner.clone()));
        self.owned.entry(owner).or_default().insert(port);
    }

    fn take(&mut self, port: &Port) -> Option<SocketAddr> {
        let (to, owner) = self.ports.remove(port)?;
        if let Some(owned) = self.owned.get_mut(&owner) {
            owned.remove(port);
            if owned.is_empty() {
                self.owned.remove(&owner);
            }
        }
        Some(to)
    }

    /// The difference, or if that does not fit what is in the kernel, everything.
    fn write(
        &mut self,
        small: Option<&Small>,
        remove: &[(Port, SocketAddr)],
        add: &[(Port, SocketAddr)],
    ) -> Result<(), Error> {
        let mut batch = nft::begin(&self.table);
        let empty = batch.len();
        write_ports(&mut batch, false, remove.iter().copied());
        if let Some((sets, rules)) = small {
            let (old, old_rules) = &self.written;
            for shape in SETS {
                let none = Vec::new();
                let before = old.get(shape.name).unwrap_or(&none);
                let after = sets.get(shape.name).unwrap_or(&none);
                let only = |these: &[Element], others: &[Element]| -> Vec<Element> {
                    these.iter().filter(|one| !others.contains(one)).cloned().collect()
                };
                nft::elements(&mut batch, false, shape, &only(before, after));
                nft::elements(&mut batch, true, shape, &only(after, before));
            }
            if rules != old_rules {
                write_plans(&mut batch, rules);
            }
        }
        write_ports(&mut batch, true, add.iter().copied());
        if batch.len() == empty {
            return Ok(());
        }
        match nft::commit(&mut self.socket, batch) {
            Ok(()) => {
                if let Some(small) = small {
                    self.written = small.clone();
                }
                Ok(())
            }
            Err(failure) if matches!(failure.errno, libc::ENOENT | libc::EEXIST) => {
                tracing::warn!(error = %failure.error, "the packet filter was changed by somebody else; writing it anew");
                self.rewrite()
            }
            Err(failure) => Err(named(failure.error)),
        }
    }

    /// Writes the whole table, in one transaction, from what is known.
    pub(super) fn rewrite(&mut self) -> Result<(), Error> {
        let small = small(&self.parts);
        let mut batch = nft::begin(&self.table);
        nft::table(&mut batch);
        nft::delete_table(&mut batch);
        if self.parts.is_empty() && self.ports.is_empty() && self.closed.is_empty() {
            nft::commit(&mut self.socket, batch).map_err(|failure| named(failure.error))?;
            (self.there, self.written) = (false, small);
            return Ok(());
        }
        nft::table(&mut batch);
        chains(&mut batch, &self.closed);
        for (number, shape) in (1..).zip(SETS) {
            nft::set(&mut batch, shape, number);
        }
        let (sets, planned) = &small;
        for shape in SETS {
            nft::elements(&mut batch, true, shape, sets.get(shape.name).map_or(&[], Vec::as_slice));
        }
        write_ports(&mut batch, true, self.ports.iter().map(|(port, (to, _))| (*port, *to)));
        rules(&mut batch, &self.closed);
        write_plans(&mut batch, planned);
        nft::commit(&mut self.socket, batch).map_err(|failure| named(failure.error))?;
        (self.there, self.written) = (true, small);
        Ok(())
    }

    /// Forgets everything and takes this instead, then writes the table. The result says how many elements of what was
    /// known before are gone.
    pub(super) fn replace(
        &mut self,
        parts: BTreeMap<Arc<str>, Part>,
        ports: BTreeMap<Port, (SocketAddr, Arc<str>)>,
    ) -> Result<usize, Error> {
        let gone = self.ports.keys().filter(|port| !ports.contains_key(port)).count();
        self.parts = parts.into_iter().filter(|(_, part)| !part.is_empty()).collect();
        (self.ports, self.owned) = (BTreeMap::new(), BTreeMap::new());
        for (port, (to, owner)) in ports {
            self.put(port, to, owner);
        }
        self.rewrite()?;
        Ok(gone)
    }

    /// Drops scopes that are not alive.
    pub(super) fn retain(&mut self, alive: impl Fn(&str) -> bool) -> Result<usize, Error> {
        let parts = self
            .parts
            .iter()
            .filter(|(id, _)| alive(id))
            .map(|(id, part)| (id.clone(), part.clone()))
            .collect();
        let ports =
            self.ports.iter().filter(|(_, (_, id))| alive(id)).map(|(k, v)| (*k, v.clone())).collect();
        if self.parts == parts && self.ports == ports { Ok(0) } else { self.replace(parts, ports) }
    }

    /// The ports of a scope, and where they lead.
    pub(super) fn ports_of(&self, id: &str) -> Vec<(Port, SocketAddr)> {
        let owned = self.owned.get(id).into_iter().flatten();
        owned.filter_map(|port| self.ports.get(port).map(|(to, _)| (*port, *to))).collect()
    }
}

/// What the kernel says when an expression or a kind of set is not built in.
fn named(error: Error) -> Error {
    match &error {
        Error::System { what, source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Error::Missing(format!(
                "a part of nftables that is needed to {what} (CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_FIB_INET, CONFIG_NFT_CT)"
            ))
        }
        _ => error,
    }
}
