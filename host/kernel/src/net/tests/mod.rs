//! Every test has a network namespace of its own as its host, and others as containers and as the world outside.

mod life;
mod names;
mod ports;
mod reach;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use wharf_plan::net::{
    Action, Address, Bridge, Hook, Link, LinkKind, Masquerade, Name, Route, Rule, Scope, Site, validate,
};
use wharf_plan::net::{NetGrants, Protocol};

use super::*;
use crate::netns;
use crate::sys::net_device::loopback_up;
use crate::sys::process::{CLONE_NEWNET, setns, unshare};

/// What must come comes long before; what must not come is waited for no longer than this.
const NEVER: Duration = Duration::from_millis(400);
const LONG: Duration = Duration::from_secs(20);

/// Runs a test in a new network namespace.
fn lab(test: impl FnOnce(&Net) + Send) {
    let done = netns::within(|| {
        unshare(CLONE_NEWNET)?;
        loopback_up()?;
        let net = Net::open("test").unwrap();
        test(&net);
        Ok(())
    });
    done.unwrap();
}

fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    netns::within(|| {
        setns(namespace.as_fd(), CLONE_NEWNET)?;
        Ok(work())
    })
    .unwrap()
}

fn link(kind: LinkKind, name: &str, site: Site) -> Link {
    Link {
        kind,
        name: Name::Exact(name.to_owned()),
        site,
        up: true,
        mtu: None,
        mac: None,
        controller: None,
        port: Vec::new(),
        sysctls: Vec::new(),
    }
}

fn address(link: u32, cidr: &str) -> Address {
    Address { link, cidr: cidr.to_owned(), no_dad: true }
}

fn default_route(via: &str, link: u32) -> Route {
    Route {
        site: Site::Container,
        destination: if via.contains(':') { "::/0" } else { "0.0.0.0/0" }.to_owned(),
        via: Some(via.to_owned()),
        link: Some(link),
        metric: None,
        table: None,
        source: None,
    }
}

/// A bridge with the first address of each subnet, such as `172.17.0` and `fd00:17:`.
fn network(bridge: &str, v4: &str, v6: Option<&str>) -> Desired {
    let kind = LinkKind::Bridge(Bridge { vlan_filtering: false, stp: false, multicast_snooping: true });
    let masquerade = |from: String| Masquerade { from_cidr: from, out: None, to_source: None };
    let mut desired = Desired {
        links: vec![link(kind, bridge, Site::Host)],
        addresses: vec![address(0, &format!("{v4}.1/24"))],
        masquerades: vec![masquerade(format!("{v4}.0/24"))],
        ..Desired::default()
    };
    if let Some(v6) = v6 {
        desired.addresses.push(address(0, &format!("{v6}:1/64")));
        desired.masquerades.push(masquerade(format!("{v6}:/64")));
    }
    desired
}

fn endpoint(bridge: &str, v4: &str, host: u8, v6: Option<&str>) -> Desired {
    let mut veth = link(LinkKind::Veth, "", Site::Host);
    veth.name = Name::Generated("veth".to_owned());
    veth.controller = Some(0);
    let mut desired = Desired {
        links: vec![
            link(LinkKind::Granted(bridge.to_owned()), bridge, Site::Host),
            veth,
            link(LinkKind::VethPeer, "eth0", Site::Container),
        ],
        addresses: vec![address(2, &format!("{v4}.{host}/24"))],
        routes: vec![default_route(&format!("{v4}.1"), 2)],
        ..Desired::default()
    };
    if let Some(v6) = v6 {
        desired.addresses.push(address(2, &format!("{v6}:{host:x}/64")));
        desired.routes.push(default_route(&format!("{v6}:1"), 2));
    }
    desired
}

fn publish(host_ip: Option<&str>, host_port: u16, to: &str, container_port: u16) -> Publish {
    Publish {
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(str::to_owned),
        host_port,
        count: 1,
        container_ip: to.to_owned(),
        container_port,
    }
}

/// A container of a network: its namespace, and what was applied.
struct Container {
    namespace: OwnedFd,
    applied: AppliedEndpoint,
    desired: Desired,
}

fn start(net: &Net, id: &str, network: &Desired, desired: Desired) -> Result<Container, Error> {
    validate(&desired, Scope::Endpoint { network }, &NetGrants::bridge_driver()).unwrap();
    let namespace = netns::create().unwrap();
    let applied = net.apply_endpoint(id, None, &desired, namespace.as_fd())?;
    Ok(Container { namespace, applied, desired })
}

/// The world outside: another host on a wire to this one. It has 192.0.2.2, this host 192.0.2.1.
fn outside(id: &str, subnet: &str, v6: &str) -> OwnedFd {
    let namespace = netns::create().unwrap();
    let name = format!("up-{id}");
    let desired = Desired {
        links: vec![
            link(LinkKind::Veth, &name, Site::Host),
            link(LinkKind::VethPeer, "eth0", Site::Container),
        ],
        addresses: vec![
            address(0, &format!("{subnet}.1/24")),
            address(1, &format!("{subnet}.2/24")),
            address(0, &format!("{v6}:1/64")),
            address(1, &format!("{v6}:2/64")),
        ],
        routes: vec![default_route(&format!("{subnet}.1"), 1), default_route(&format!("{v6}:1"), 1)],
        ..Desired::default()
    };
    let changes = diff(None, &desired);
    let mut worker = Worker::new(0).unwrap();
    worker.apply(id, None, &desired, &changes, Some(namespace.as_fd())).unwrap();
    namespace
}

/// A server that answers every connection with the address it came from.
fn serve(namespace: Option<&OwnedFd>, at: &str) {
    let at: SocketAddr = at.parse().unwrap();
    let bind = move || TcpListener::bind(at).unwrap();
    let listener = namespace.map_or_else(bind, |namespace| inside(namespace, bind));
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            drop(stream.write_all(from.ip().to_string().as_bytes()));
        }
    });
}

fn call(to: &str, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to.parse().unwrap(), patience)?;
    stream.set_read_timeout(Some(LONG))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[track_caller]
fn reach(from: &OwnedFd, to: &str) -> String {
    match inside(from, || call(to, LONG)) {
        Ok(seen) => seen,
        Err(error) => panic!("{to}: {error}"),
    }
}

#[track_caller]
fn cannot_reach(from: &OwnedFd, to: &str) {
    let got = inside(from, || call(to, NEVER));
    assert!(got.is_err(), "{to} was reached and saw {got:?}");
}

fn links_of_ours() -> Vec<String> {
    let mut socket = wire::Socket::open(libc::NETLINK_ROUTE).unwrap();
    let ours = |link: &route::Known| link.group & route::GROUP_MASK == route::GROUP;
    route::links(&mut socket).unwrap().into_iter().filter(ours).map(|link| link.name).collect()
}

fn ruleset() -> String {
    let output = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const A: &str = "a0000000000000000000000000000000000000000000000000000000000000aa";
const B: &str = "b0000000000000000000000000000000000000000000000000000000000000bb";
const C: &str = "c0000000000000000000000000000000000000000000000000000000000000cc";
const N: &str = "n1";
const M: &str = "n2";

fn rule(action: Action) -> Rule {
    Rule {
        hook: Hook::Forward,
        priority: 0,
        action,
        protocol: None,
        source: None,
        destination: None,
        in_link: None,
        out_link: None,
        ports: Vec::new(),
        established_only: false,
        comment: String::new(),
    }
}
