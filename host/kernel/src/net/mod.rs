//! Networks: links, addresses and routes by rtnetlink, packet filter by nftables over netlink.
//!
//! One [`Net`] acts in the network namespace in which it was opened (the host's, in the daemon). Whatever it makes
//! carries the id of its network or endpoint, so that [`Net::sweep`] finds what has no record.
//!
//! All functions block and may be called from several threads, but not from an async one.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};

use wharf_plan::net::{Desired, Protocol, Publish};

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

/// The networks of one host.
#[derive(Debug, Clone)]
pub struct Net;

impl Net {
    /// Opens it for the network namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        Err(Error::Unsupported("networking".to_owned()))
    }

    /// Makes a network what `new` says, from what `old` says that it is.
    pub fn apply_network(
        &self,
        id: &str,
        old: Option<&Desired>,
        new: &Desired,
    ) -> Result<AppliedNetwork, Error> {
        let _ = (id, old, new);
        Err(Error::Unsupported("networking".to_owned()))
    }

    /// Removes a network. Removing what is not there is no error.
    pub fn remove_network(&self, id: &str, desired: &Desired) -> Result<(), Error> {
        let _ = (id, desired);
        Err(Error::Unsupported("networking".to_owned()))
    }

    /// Makes an endpoint what `new` says. Ports that stay published keep their holders; new ones are returned.
    pub fn apply_endpoint(
        &self,
        id: &str,
        old: Option<&Desired>,
        new: &Desired,
        container: BorrowedFd<'_>,
    ) -> Result<AppliedEndpoint, Error> {
        let _ = (id, old, new, container);
        Err(Error::Unsupported("networking".to_owned()))
    }

    /// Removes an endpoint. Removing what is not there is no error.
    pub fn remove_endpoint(&self, id: &str, desired: &Desired, links: Links<'_>) -> Result<(), Error> {
        let _ = (id, desired, links);
        Err(Error::Unsupported("networking".to_owned()))
    }

    /// After a start of the daemon: takes over what is on record, makes again what is missing of it on the host, and
    /// writes the packet filter anew in one step, so that it holds exactly what is on record.
    pub fn restore(&self, networks: &[Record<'_>], endpoints: &[Record<'_>]) -> Result<Swept, Error> {
        let _ = (networks, endpoints);
        Err(Error::Unsupported("networking".to_owned()))
    }

    /// Writes the packet filter anew from what is known, for instance after somebody flushed it.
    pub fn resync(&self) -> Result<(), Error> {
        Err(Error::Unsupported("networking".to_owned()))
    }

    /// Removes links and filter elements of networks and endpoints that are not named here.
    pub fn sweep(&self, networks: &BTreeSet<String>, endpoints: &BTreeSet<String>) -> Result<Swept, Error> {
        let _ = (networks, endpoints);
        Err(Error::Unsupported("networking".to_owned()))
    }
}
