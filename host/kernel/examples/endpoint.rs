//! What an endpoint costs, beside the least that the kernel asks for the same: a veth pair with one end in a bridge
//! and the other in a ready namespace, an address, up, and a default route.
//!
//! `cargo run --release -p wharf-kernel --example endpoint -- [ROUNDS]`, as root; everything happens in a network
//! namespace of its own and is gone at the end. Rounds of both alternate, so that noise hits both alike.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use wharf_kernel::net::{Links, Net};
use wharf_kernel::netns;
use wharf_kernel::sys::net_device::loopback_up;
use wharf_kernel::sys::process::{CLONE_NEWNET, setns, unshare};
use wharf_plan::net::{
    Address, Bridge, Desired, Link, LinkKind, Masquerade, Name, Protocol, Publish, Route, Site,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(300);
    unshare(CLONE_NEWNET)?;
    loopback_up()?;
    let home = netns::current()?;
    let net = Net::open("bench")?;
    let network = network();
    net.apply_network("bench-network", None, &network)?;
    let host = Netlink::open()?;
    let bridge = host.index("docker0")?;

    let (mut floor, mut ours, mut published, mut removed) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Held to the end: their removal in the background would disturb what is measured.
    let mut spaces: Vec<OwnedFd> = Vec::new();
    for round in 0..rounds {
        let [low, high] = u16::try_from(round % 60000 + 2)?.to_le_bytes();
        let ip = format!("172.17.{high}.{low}");

        let space = netns::create()?;
        let start = Instant::now();
        host.veth(&format!("fl{round}"), bridge, &space)?;
        setns(space.as_fd(), CLONE_NEWNET)?;
        let inside = Netlink::open()?;
        setns(home.as_fd(), CLONE_NEWNET)?;
        let eth0 = inside.index("eth0")?;
        inside.address(eth0, [172, 17, high, low])?;
        inside.up(eth0)?;
        inside.default_route([172, 17, 0, 1])?;
        floor.push(start.elapsed());
        spaces.push(space);

        let id = format!("bench-endpoint-{round}");
        let space = netns::create()?;
        let plain = endpoint(&ip, None);
        let start = Instant::now();
        net.apply_endpoint(&id, None, &plain, space.as_fd())?;
        ours.push(start.elapsed());
        spaces.push(space);

        let id = format!("bench-published-{round}");
        let space = netns::create()?;
        let plan = endpoint(&ip, Some(0));
        let start = Instant::now();
        let applied = net.apply_endpoint(&id, None, &plan, space.as_fd())?;
        published.push(start.elapsed());
        let start = Instant::now();
        net.remove_endpoint(&id, &plan, Links::DieWithNamespace)?;
        removed.push(start.elapsed());
        drop(applied);
        spaces.push(space);
    }
    show("floor: veth, address, up, route", &mut floor);
    show("endpoint", &mut ours);
    show("endpoint with a published port", &mut published);
    show("its removal, but for the link", &mut removed);
    Ok(())
}

fn show(what: &str, times: &mut [std::time::Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
    println!(
        "{what:34} p10 {:>9.1?}  p50 {:>9.1?}  p90 {:>9.1?}  p99 {:>9.1?}",
        at(10),
        at(50),
        at(90),
        at(99)
    );
}

fn link(kind: LinkKind, name: Name, site: Site) -> Link {
    Link {
        kind,
        name,
        site,
        up: true,
        mtu: None,
        mac: None,
        controller: None,
        port: Vec::new(),
        sysctls: Vec::new(),
    }
}

fn network() -> Desired {
    let kind = LinkKind::Bridge(Bridge { vlan_filtering: false, stp: false, multicast_snooping: true });
    Desired {
        links: vec![link(kind, Name::Exact("docker0".into()), Site::Host)],
        addresses: vec![Address { link: 0, cidr: "172.17.0.1/16".into(), no_dad: false }],
        masquerades: vec![Masquerade { from_cidr: "172.17.0.0/16".into(), out: None, to_source: None }],
        ..Desired::default()
    }
}

fn endpoint(ip: &str, port: Option<u16>) -> Desired {
    let veth =
        Link { controller: Some(0), ..link(LinkKind::Veth, Name::Generated("veth".into()), Site::Host) };
    let publish = |host_port| Publish {
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port,
        count: 1,
        container_ip: ip.into(),
        container_port: 80,
    };
    Desired {
        links: vec![
            link(LinkKind::Granted("docker0".into()), Name::Exact("docker0".into()), Site::Host),
            veth,
            Link {
                mac: Some(format!("02:42:ac:11:{:02x}:00", ip.len())),
                ..link(LinkKind::VethPeer, Name::Generated("eth".into()), Site::Container)
            },
        ],
        addresses: vec![Address { link: 2, cidr: format!("{ip}/16"), no_dad: false }],
        routes: vec![Route {
            site: Site::Container,
            destination: "0.0.0.0/0".into(),
            via: Some("172.17.0.1".into()),
            link: Some(2),
            metric: None,
            table: None,
            source: None,
        }],
        publishes: port.map(publish).into_iter().collect(),
        ..Desired::default()
    }
}

/// Netlink as it would be written by hand for this one purpose: one message, one answer.
struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?))
    }

    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<u8>> {
        let mut message = u32::try_from(16 + body.len())?.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((flags | 1).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(self.0.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answer = vec![0; 8192];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        match (answer.get(4..6), answer.get(16..20)) {
            (Some([2, 0]), Some(code)) if code != [0; 4] => {
                let code = i32::from_ne_bytes(code.try_into()?);
                Err(std::io::Error::from_raw_os_error(-code).into())
            }
            _ => Ok(answer),
        }
    }

    fn index(&self, name: &str) -> Result<u32> {
        let mut body = vec![0; 16];
        body.extend(attribute(3, &[name.as_bytes(), &[0]].concat()));
        let answer = self.ask(18, 0, &body)?;
        Ok(u32::from_ne_bytes(answer.get(20..24).ok_or("short answer")?.try_into()?))
    }

    fn veth(&self, name: &str, bridge: u32, space: &OwnedFd) -> Result<()> {
        let mut peer = vec![0; 16];
        peer.extend(attribute(3, b"eth0\0"));
        peer.extend(attribute(28, &space.as_raw_fd().to_ne_bytes()));
        let data = attribute(2, &attribute(1, &peer));
        let mut body = vec![0; 8];
        body.extend(1_u32.to_ne_bytes());
        body.extend(1_u32.to_ne_bytes());
        body.extend(attribute(3, &[name.as_bytes(), &[0]].concat()));
        body.extend(attribute(10, &bridge.to_ne_bytes()));
        body.extend(attribute(18, &[attribute(1, b"veth"), data].concat()));
        self.ask(16, 0x604, &body).map(drop)
    }

    fn address(&self, index: u32, ip: [u8; 4]) -> Result<()> {
        let mut body = vec![2, 16, 0, 0];
        body.extend(index.to_ne_bytes());
        body.extend(attribute(2, &ip));
        body.extend(attribute(1, &ip));
        self.ask(20, 0x404, &body).map(drop)
    }

    fn up(&self, index: u32) -> Result<()> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(1_u32.to_ne_bytes());
        body.extend(1_u32.to_ne_bytes());
        self.ask(16, 4, &body).map(drop)
    }

    fn default_route(&self, via: [u8; 4]) -> Result<()> {
        let mut body = vec![2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        body.extend(attribute(5, &via));
        self.ask(24, 0x404, &body).map(drop)
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
