//! What of published ports a program of the host has to carry, because the kernel's translation of addresses cannot.
//!
//! The kernel translates addresses within a family, and takes no answer to `::1` or to a link-local address from a bridge.
//! Nothing here does input or output.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Protocol, Publish};

/// Who carries what comes to a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// The kernel alone.
    Kernel,
    /// The kernel, but for clients at the host's `::1` and link-local addresses: those a program has to serve.
    Both,
    /// A program alone: the families differ.
    Program,
    /// Nobody can: there is no translation from IPv4 to IPv6, and no program for SCTP.
    Nobody,
}

/// Who carries what comes to `host` for `container`.
pub fn carrier(protocol: Protocol, host: IpAddr, container: IpAddr) -> Carrier {
    match (host, container) {
        (IpAddr::V4(_), IpAddr::V6(_)) => Carrier::Nobody,
        (IpAddr::V4(_), IpAddr::V4(_)) => Carrier::Kernel,
        (IpAddr::V6(_), IpAddr::V4(_)) if protocol == Protocol::Sctp => Carrier::Nobody,
        (IpAddr::V6(_), IpAddr::V4(_)) => Carrier::Program,
        (IpAddr::V6(_), IpAddr::V6(_)) if protocol == Protocol::Sctp => Carrier::Kernel,
        (IpAddr::V6(host), IpAddr::V6(_)) => {
            let unreachable = host.is_unspecified() || host.is_loopback() || host.is_unicast_link_local();
            if unreachable { Carrier::Both } else { Carrier::Kernel }
        }
    }
}

/// One port that a program listens on, and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Forward {
    /// Not SCTP.
    pub protocol: Protocol,
    /// The host's side.
    pub host: SocketAddr,
    /// The container's side.
    pub container: SocketAddr,
}

impl Forward {
    /// The forward for one port, if a program has any part in it.
    pub fn of(protocol: Protocol, host: SocketAddr, container: SocketAddr) -> Option<Self> {
        match carrier(protocol, host.ip(), container.ip()) {
            Carrier::Both | Carrier::Program => Some(Self { protocol, host, container }),
            Carrier::Kernel | Carrier::Nobody => None,
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.container, self.protocol)
    }
}

/// All forwards that follow from applied entries, each with a chosen port and an address on both sides. What is not
/// an address, and what is beyond the last port, has no forward: such entries are never applied.
pub fn forwards(publishes: &[Publish]) -> BTreeSet<Forward> {
    publishes.iter().flat_map(of_entry).collect()
}

fn of_entry(publish: &Publish) -> Vec<Forward> {
    let container: Option<IpAddr> = publish.container_ip.parse().ok();
    let host: Option<IpAddr> = publish.host_ip.as_deref().and_then(|text| text.parse().ok());
    let (Some(host), Some(container)) = (host, container) else { return Vec::new() };
    (0..publish.count)
        .filter_map(|number| {
            let outside = publish.host_port.checked_add(number).filter(|port| *port != 0)?;
            let inside = publish.container_port.checked_add(number)?;
            Forward::of(publish.protocol, SocketAddr::new(host, outside), SocketAddr::new(container, inside))
        })
        .collect()
}

/// A forward and the endpoint that it belongs to.
pub type Owned = (String, Forward);

/// The way from one set of forwards to another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// To be given up first: a port may go from one endpoint to another.
    pub remove: Vec<Owned>,
    /// To be listened on then.
    pub add: Vec<Owned>,
}

impl Change {
    /// What leads from `have` to `want`. What is in both is not touched: its connections go on.
    pub fn plan(have: &BTreeSet<Owned>, want: &BTreeSet<Owned>) -> Self {
        Self {
            remove: have.difference(want).cloned().collect(),
            add: want.difference(have).cloned().collect(),
        }
    }
}

#[cfg(test)]
impl Change {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// The way back.
    #[must_use]
    pub fn undo(&self) -> Self {
        Self { remove: self.add.clone(), add: self.remove.clone() }
    }

    /// What a set is afterwards.
    pub fn apply(&self, set: &mut BTreeSet<Owned>) {
        for one in &self.remove {
            set.remove(one);
        }
        set.extend(self.add.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn publish(protocol: Protocol, host: &str, container: &str, count: u16) -> Publish {
        Publish {
            protocol,
            host_ip: Some(host.to_owned()),
            host_port: 8080,
            count,
            container_ip: container.to_owned(),
            container_port: 80,
        }
    }

    #[test]
    fn only_what_the_kernel_cannot_do() {
        use Carrier::{Both, Kernel, Nobody, Program};
        let (four, six) = ("172.17.0.2", "fd00::2");
        for (protocol, host, container, wanted) in [
            (Protocol::Tcp, "0.0.0.0", four, Kernel),
            (Protocol::Tcp, "127.0.0.1", four, Kernel),
            (Protocol::Udp, "192.0.2.1", four, Kernel),
            (Protocol::Tcp, "::", four, Program),
            (Protocol::Udp, "::1", four, Program),
            (Protocol::Udp, "2001:db8::1", four, Program),
            (Protocol::Sctp, "::", four, Nobody),
            (Protocol::Tcp, "::", six, Both),
            (Protocol::Udp, "::1", six, Both),
            (Protocol::Tcp, "fe80::1", six, Both),
            (Protocol::Tcp, "2001:db8::1", six, Kernel),
            (Protocol::Sctp, "::", six, Kernel),
            (Protocol::Tcp, "0.0.0.0", six, Nobody),
        ] {
            let said = carrier(protocol, host.parse().unwrap(), container.parse().unwrap());
            assert_eq!(said, wanted, "{protocol:?} {host} {container}");
        }
    }

    #[test]
    fn entries_are_taken_apart() {
        let all = forwards(&[
            publish(Protocol::Tcp, "0.0.0.0", "172.17.0.2", 1),
            publish(Protocol::Tcp, "::", "172.17.0.2", 2),
            publish(Protocol::Sctp, "::", "172.17.0.2", 1),
        ]);
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["[::]:8080:172.17.0.2:80/tcp", "[::]:8081:172.17.0.2:81/tcp"]);
        // Where no port is chosen yet, where nothing is an address, and beyond the last port.
        let unchosen = Publish { host_port: 0, ..publish(Protocol::Tcp, "::", "172.17.0.2", 1) };
        let last = Publish { host_port: u16::MAX, ..publish(Protocol::Tcp, "::", "172.17.0.2", 3) };
        let nowhere = Publish { host_ip: None, ..publish(Protocol::Tcp, "::", "172.17.0.2", 1) };
        assert!(forwards(&[unchosen, nowhere, publish(Protocol::Tcp, "::", "x", 1)]).is_empty());
        assert_eq!(forwards(&[last]).len(), 1);
    }

    fn sets() -> impl Strategy<Value = BTreeSet<Owned>> {
        let one = (0_u8..4, 1_u16..6, any::<bool>()).prop_map(|(owner, port, tcp)| {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let host = SocketAddr::new(IpAddr::from([0_u8; 16]), port);
            let container = SocketAddr::new(IpAddr::from([10, 0, 0, owner]), port);
            (format!("endpoint{owner}"), Forward { protocol, host, container })
        });
        proptest::collection::btree_set(one, 0..12)
    }

    proptest! {
        #[test]
        fn done_and_undone_is_nothing(have in sets(), want in sets()) {
            let change = Change::plan(&have, &want);
            let mut now = have.clone();
            change.apply(&mut now);
            prop_assert_eq!(&now, &want);
            prop_assert!(Change::plan(&now, &want).is_empty(), "a second plan has nothing to do");
            change.undo().apply(&mut now);
            prop_assert_eq!(&now, &have);
            // What stays is not touched.
            for stays in have.intersection(&want) {
                prop_assert!(!change.remove.contains(stays) && !change.add.contains(stays));
            }
        }
    }
}
