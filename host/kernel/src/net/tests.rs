//! Every test has a network namespace of its own as its host, and others as containers and as the world outside.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use wharf_plan::net::{
    Action, Address, Bridge, Hook, Link, LinkKind, Masquerade, Name, Route, Rule, Scope, validate,
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

#[test]
fn two_containers_speak() {
    lab(|net| {
        let wire = network("docker0", "172.17.0", None);
        let applied = net.apply_network(N, None, &wire).unwrap();
        assert_eq!(applied.links, ["docker0"]);
        assert_eq!(applied.notes, ["switched on IPv4 forwarding; only traffic of containers is forwarded"]);
        let a = start(net, A, &wire, endpoint("docker0", "172.17.0", 2, None)).unwrap();
        let b = start(net, B, &wire, endpoint("docker0", "172.17.0", 3, None)).unwrap();
        assert_eq!(a.applied.interfaces, ["eth0"]);
        assert_eq!(a.applied.macs.first().map(String::len), Some(17));
        serve(Some(&b.namespace), "172.17.0.3:80");
        assert_eq!(reach(&a.namespace, "172.17.0.3:80"), "172.17.0.2");
        serve(None, "172.17.0.1:81");
        assert_eq!(reach(&a.namespace, "172.17.0.1:81"), "172.17.0.2");
        // No IPv6 where none was asked for.
        let v6 = inside(&a.namespace, || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
        assert!(!v6.contains("eth0"), "{v6}");
    });
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        let wire = network("docker0", "172.17.0", Some("fd00:17:"));
        net.apply_network(N, None, &wire).unwrap();
        let mut desired = endpoint("docker0", "172.17.0", 2, Some("fd00:17:"));
        desired.publishes =
            vec![publish(None, 8080, "172.17.0.2", 80), publish(None, 8080, "fd00:17::2", 80)];
        let a = start(net, A, &wire, desired).unwrap();
        let b = start(net, B, &wire, endpoint("docker0", "172.17.0", 3, Some("fd00:17:"))).unwrap();
        assert_eq!(a.applied.holders.len(), 2);
        serve(Some(&a.namespace), "[::]:80");
        // From outside, with the address it has there.
        assert_eq!(reach(&world, "192.0.2.1:8080"), "::ffff:192.0.2.2");
        assert_eq!(reach(&world, "[2001:db8::1]:8080"), "2001:db8::2");
        // From this host, through each of its addresses.
        for to in
            ["127.0.0.1:8080", "192.0.2.1:8080", "172.17.0.1:8080", "[fd00:17::1]:8080", "[2001:db8::1]:8080"]
        {
            call(to, LONG).unwrap_or_else(|error| panic!("{to}: {error}\n{}", ruleset()));
        }
        // IPv6 has no such thing as route_localnet: a refusal at once, so that clients go on to 127.0.0.1.
        assert_eq!(call("[::1]:8080", LONG).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        // From another container and from itself, out and back in.
        assert_eq!(reach(&b.namespace, "192.0.2.1:8080"), "::ffff:172.17.0.1");
        assert_eq!(reach(&a.namespace, "192.0.2.1:8080"), "::ffff:172.17.0.1");
        assert_eq!(reach(&b.namespace, "[2001:db8::1]:8080"), "fd00:17::1");
        net.remove_endpoint(A, &a.desired, Links::Delete(a.namespace.as_fd())).unwrap();
        cannot_reach(&world, "192.0.2.1:8080");
        assert!(!ruleset().contains("8080"));
    });
}

#[test]
fn only_what_is_published_is_reached_from_outside() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        let wire = network("docker0", "172.17.0", Some("fd00:17:"));
        net.apply_network(N, None, &wire).unwrap();
        let mut desired = endpoint("docker0", "172.17.0", 2, Some("fd00:17:"));
        desired.publishes =
            vec![publish(Some("127.0.0.1"), 8080, "172.17.0.2", 80), publish(None, 8081, "172.17.0.2", 80)];
        let a = start(net, A, &wire, desired).unwrap();
        serve(Some(&a.namespace), "[::]:80");
        serve(Some(&a.namespace), "[::]:443");
        call("127.0.0.1:8080", LONG).unwrap();
        reach(&world, "192.0.2.1:8081");
        cannot_reach(&world, "192.0.2.1:8080");
        // Straight to the container, with this host as a router: neither a closed port nor the published one.
        cannot_reach(&world, "172.17.0.2:443");
        cannot_reach(&world, "172.17.0.2:80");
        cannot_reach(&world, "[fd00:17::2]:443");
        // The same packets do arrive without the filter, so it is the filter that stops them.
        let mut socket = wire::Socket::open(libc::NETLINK_NETFILTER).unwrap();
        let mut batch = nft::begin(&net.shared.table);
        nft::clear(&mut batch, "forward");
        nft::clear(&mut batch, "router4");
        nft::clear(&mut batch, "router6");
        nft::commit(&mut socket, batch).map_err(|failure| failure.error).unwrap();
        reach(&world, "172.17.0.2:443");
        reach(&world, "[fd00:17::2]:443");
        net.resync().unwrap();
        cannot_reach(&world, "172.17.0.2:443");
    });
}

/// CVE-2020-8558 and its kin: a neighbour sends packets for 127.0.0.1.
#[test]
fn loopback_is_not_reached_from_outside() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let mut desired = endpoint("docker0", "172.17.0", 2, None);
        desired.publishes = vec![publish(Some("127.0.0.1"), 8080, "172.17.0.2", 80)];
        let a = start(net, A, &wire, desired).unwrap();
        serve(Some(&a.namespace), "0.0.0.0:80");
        // A service of the host that trusts its loopback.
        serve(None, "127.0.0.1:9000");
        let b = start(net, B, &wire, endpoint("docker0", "172.17.0", 3, None)).unwrap();
        for (attacker, gateway) in [(&world, "192.0.2.1"), (&b.namespace, "172.17.0.1")] {
            // It has no loopback of its own in the way, and sends 127.0.0.1 to us.
            inside(attacker, || {
                links::write_sysctl("eth0", "ipv4.route_localnet", "1").unwrap();
                let mut socket = wire::Socket::open(libc::NETLINK_ROUTE).unwrap();
                let mut batch = wire::Batch::default();
                route::address(&mut batch, false, 1, &"127.0.0.1/8".parse().unwrap(), false);
                let to = wharf_plan::net::RouteState {
                    site: Site::Container,
                    destination: "127.0.0.1/32".to_owned(),
                    via: Some(gateway.to_owned()),
                    link: None,
                    metric: None,
                    table: None,
                    source: None,
                };
                route::route(&mut batch, true, &to, None).unwrap();
                socket.all(&batch).unwrap();
            });
            cannot_reach(attacker, "127.0.0.1:8080");
            cannot_reach(attacker, "127.0.0.1:9000");
        }
        // Without the guard the attack works: the test is able to fail.
        let mut socket = wire::Socket::open(libc::NETLINK_NETFILTER).unwrap();
        let mut batch = nft::begin(&net.shared.table);
        nft::clear(&mut batch, "guard");
        nft::commit(&mut socket, batch).map_err(|failure| failure.error).unwrap();
        reach(&world, "127.0.0.1:8080");
        reach(&b.namespace, "127.0.0.1:9000");
    });
}

/// CVE-2025-67499: a published port must not catch what only passes through.
#[test]
fn traffic_for_others_is_not_caught() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let mut desired = endpoint("docker0", "172.17.0", 2, None);
        desired.publishes = vec![publish(None, 8080, "172.17.0.2", 80)];
        let a = start(net, A, &wire, desired).unwrap();
        let b = start(net, B, &wire, endpoint("docker0", "172.17.0", 3, None)).unwrap();
        serve(Some(&a.namespace), "0.0.0.0:80");
        serve(Some(&world), "192.0.2.2:8080");
        // The world's own service at the same port, seen with this host's address: masqueraded.
        assert_eq!(reach(&b.namespace, "192.0.2.2:8080"), "192.0.2.1");
        assert_eq!(call("192.0.2.2:8080", LONG).unwrap(), "192.0.2.1");
    });
}

#[test]
fn networks_are_isolated() {
    lab(|net| {
        let one = network("docker0", "172.17.0", Some("fd00:17:"));
        let mut two = network("br-two", "172.18.0", Some("fd00:18:"));
        net.apply_network(N, None, &one).unwrap();
        net.apply_network(M, None, &two).unwrap();
        let mut desired = endpoint("docker0", "172.17.0", 2, Some("fd00:17:"));
        desired.publishes = vec![publish(None, 8080, "172.17.0.2", 80)];
        let a = start(net, A, &one, desired).unwrap();
        let b = start(net, B, &two, endpoint("br-two", "172.18.0", 2, Some("fd00:18:"))).unwrap();
        serve(Some(&a.namespace), "[::]:80");
        cannot_reach(&b.namespace, "172.17.0.2:80");
        cannot_reach(&b.namespace, "[fd00:17::2]:80");
        // What is published is so for everybody.
        assert_eq!(reach(&b.namespace, "172.18.0.1:8080"), "::ffff:172.17.0.1");
        // Until the network is internal: nothing in, nothing out.
        let old = two.clone();
        for (in_link, out_link) in [(Some(0), None), (None, Some(0))] {
            two.rules.push(Rule { in_link, out_link, ..rule(Action::Drop) });
        }
        validate(&two, Scope::Network, &NetGrants::bridge_driver()).unwrap();
        net.apply_network(M, Some(&old), &two).unwrap();
        cannot_reach(&b.namespace, "172.18.0.1:8080");
        let c = start(net, C, &two, endpoint("br-two", "172.18.0", 3, None)).unwrap();
        serve(Some(&c.namespace), "172.18.0.3:80");
        assert_eq!(reach(&b.namespace, "172.18.0.3:80"), "172.18.0.2");
        // Containers without a way to each other, too.
        let old = two.clone();
        two.rules = vec![Rule { in_link: Some(0), out_link: Some(0), ..rule(Action::Drop) }];
        net.apply_network(M, Some(&old), &two).unwrap();
        assert!(ruleset().contains("\"br-two\" . \"br-two\" : goto closed"), "{}", ruleset());
        assert!(ruleset().contains("elements = { \"br-two\",\n\t\t\t     \"docker0\" }"), "{}", ruleset());
        reach(&b.namespace, "172.18.0.1:8080");
    });
}

/// The same bridge without the filter's help: ports that the bridge itself keeps apart.
#[test]
fn isolated_ports_do_not_speak() {
    lab(|net| {
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let isolated = |host| {
            let mut desired = endpoint("docker0", "172.17.0", host, None);
            desired.links[1].port = vec![("isolated".to_owned(), "1".to_owned())];
            desired
        };
        let a = start(net, A, &wire, isolated(2)).unwrap();
        let b = start(net, B, &wire, isolated(3)).unwrap();
        serve(Some(&a.namespace), "0.0.0.0:80");
        serve(None, "172.17.0.1:81");
        cannot_reach(&b.namespace, "172.17.0.2:80");
        reach(&b.namespace, "172.17.0.1:81");
        let open = endpoint("docker0", "172.17.0", 2, None);
        net.apply_endpoint(A, Some(&a.desired), &open, a.namespace.as_fd()).unwrap();
        reach(&b.namespace, "172.17.0.2:80");
    });
}

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

#[test]
fn plans_have_rules_of_their_own() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        let mut wire = network("docker0", "172.17.0", None);
        let open = Rule {
            out_link: Some(0),
            protocol: Some(Protocol::Tcp),
            source: Some("192.0.2.0/24".to_owned()),
            ports: vec![(80, 80), (90, 99)],
            comment: "routed".to_owned(),
            ..rule(Action::Accept)
        };
        let no_host = Rule {
            hook: Hook::Input,
            in_link: Some(0),
            protocol: Some(Protocol::Tcp),
            ports: vec![(22, 22)],
            ..rule(Action::Reject)
        };
        wire.rules = vec![open, no_host];
        validate(&wire, Scope::Network, &NetGrants::bridge_driver()).unwrap();
        net.apply_network(N, None, &wire).unwrap();
        let a = start(net, A, &wire, endpoint("docker0", "172.17.0", 2, None)).unwrap();
        for port in [80, 95, 100] {
            serve(Some(&a.namespace), &format!("0.0.0.0:{port}"));
        }
        serve(None, "172.17.0.1:22");
        serve(None, "172.17.0.1:23");
        reach(&world, "172.17.0.2:80");
        reach(&world, "172.17.0.2:95");
        cannot_reach(&world, "172.17.0.2:100");
        reach(&a.namespace, "172.17.0.1:23");
        cannot_reach(&a.namespace, "172.17.0.1:22");
        let old = wire.clone();
        wire.rules.clear();
        net.apply_network(N, Some(&old), &wire).unwrap();
        cannot_reach(&world, "172.17.0.2:80");
        reach(&a.namespace, "172.17.0.1:22");
    });
}

#[test]
fn datagrams_are_published() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let mut desired = endpoint("docker0", "172.17.0", 2, None);
        desired.publishes =
            vec![Publish { protocol: Protocol::Udp, ..publish(None, 5300, "172.17.0.2", 53) }];
        let a = start(net, A, &wire, desired).unwrap();
        let server = inside(&a.namespace, || UdpSocket::bind("0.0.0.0:53").unwrap());
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        let there = inside(&world, || UdpSocket::bind("0.0.0.0:0").unwrap());
        for (client, to) in [(&there, "192.0.2.1:5300"), (&here, "127.0.0.1:5300")] {
            for socket in [client, &server] {
                socket.set_read_timeout(Some(LONG)).unwrap();
            }
            let mut buffer = [0; 16];
            client.send_to(b"question", to).unwrap();
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"question");
            server.send_to(b"answer", from).unwrap();
            let (length, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&b"answer"[..], to.parse().unwrap()));
        }
        assert_eq!(UdpSocket::bind("0.0.0.0:5300").unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    });
}

/// One client socket, so one flow: it must not be caught in what its port was before.
#[test]
fn old_flows_follow_their_port() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let client = inside(&world, || UdpSocket::bind("0.0.0.0:0").unwrap());
        let arrives = |at: &UdpSocket| {
            client.send_to(b"x", "192.0.2.1:5300").unwrap();
            at.set_read_timeout(Some(LONG)).unwrap();
            let (_, from) = at.recv_from(&mut [0; 4]).unwrap();
            // An answer makes the flow an assured one.
            at.send_to(b"y", from).unwrap();
            client.set_read_timeout(Some(LONG)).unwrap();
            client.recv_from(&mut [0; 4]).unwrap();
        };
        // First the host itself has the port.
        let host = UdpSocket::bind("0.0.0.0:5300").unwrap();
        arrives(&host);
        drop(host);
        for (id, number) in [(A, 2), (B, 3)] {
            let ip = format!("172.17.0.{number}");
            let mut desired = endpoint("docker0", "172.17.0", number, None);
            desired.publishes = vec![Publish { protocol: Protocol::Udp, ..publish(None, 5300, &ip, 53) }];
            let container = start(net, id, &wire, desired).unwrap();
            arrives(&inside(&container.namespace, || UdpSocket::bind("0.0.0.0:53").unwrap()));
            net.remove_endpoint(id, &container.desired, Links::DieWithNamespace).unwrap();
        }
    });
}

#[test]
fn ports_are_given_once() {
    lab(|net| {
        let wire = network("docker0", "172.17.0", Some("fd00:17:"));
        net.apply_network(N, None, &wire).unwrap();
        let with = |host: u8, publishes: Vec<Publish>| Desired {
            publishes,
            ..endpoint("docker0", "172.17.0", host, Some("fd00:17:"))
        };
        let a = start(net, A, &wire, with(2, vec![publish(None, 8080, "172.17.0.2", 80)])).unwrap();
        // No process of the host gets it, in whatever way it asks.
        assert_eq!(TcpListener::bind("0.0.0.0:8080").unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        assert_eq!(TcpListener::bind("127.0.0.1:8080").unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        let before = ruleset();
        let refused = |desired| start(net, B, &wire, desired).err().map(|error| error.to_string());
        assert_eq!(
            refused(with(3, vec![publish(None, 8080, "172.17.0.3", 80)])).unwrap(),
            "Bind for 0.0.0.0:8080 failed: port is already allocated"
        );
        assert_eq!(
            refused(with(3, vec![publish(Some("127.0.0.1"), 8080, "172.17.0.3", 80)])).unwrap(),
            "Bind for 127.0.0.1:8080 failed: port is already allocated"
        );
        let taken = TcpListener::bind("0.0.0.0:9090").unwrap();
        let both = vec![publish(None, 9091, "172.17.0.3", 81), publish(None, 9090, "172.17.0.3", 80)];
        assert_eq!(
            refused(with(3, both.clone())).unwrap(),
            "failed to bind host port for 0.0.0.0:9090:172.17.0.3:80/tcp: address already in use"
        );
        let text = refused(with(3, vec![publish(Some("203.0.113.9"), 80, "172.17.0.3", 80)])).unwrap();
        assert_eq!(
            text,
            "failed to bind host port for 203.0.113.9:80:172.17.0.3:80/tcp: cannot assign requested address"
        );
        let v6 = TcpListener::bind("[::]:9092").unwrap();
        assert_eq!(
            refused(with(3, vec![publish(None, 9092, "fd00:17::3", 80)])).unwrap(),
            "failed to bind host port for [::]:9092:[fd00:17::3]:80/tcp: address already in use"
        );
        drop((taken, v6));
        // Nothing is left of the failures, and the good one of two ports is free.
        assert_eq!(ruleset(), before);
        assert_eq!(links_of_ours().len(), 2);
        let b = start(net, B, &wire, with(3, both)).unwrap();
        // A holder that goes makes the port free again.
        net.remove_endpoint(A, &a.desired, Links::DieWithNamespace).unwrap();
        drop(a);
        TcpListener::bind("0.0.0.0:8080").unwrap();
        drop(b);
    });
}

#[test]
fn connections_that_linger_do_not_keep_a_port() {
    lab(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        let (server, _) = listener.accept().unwrap();
        // The side that closes first waits with the port.
        drop((server, listener));
        assert_eq!((&client).read(&mut [0]).unwrap(), 0);
        drop(client);
        let any = SocketAddr::new(IpAddr::from([0; 4]), at.port());
        let (held, port) = crate::sys::netlink::hold_port(crate::sys::netlink::Hold::Tcp, any).unwrap();
        assert_eq!(port, at.port());
        assert_eq!(TcpListener::bind(any).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        // Nobody is answered by the socket that only holds the port.
        assert_eq!(TcpStream::connect(at).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        drop(held);
        TcpListener::bind(any).unwrap();
    });
}

#[test]
fn free_ports_are_found() {
    lab(|net| {
        let wire = network("docker0", "172.17.0", Some("fd00:17:"));
        net.apply_network(N, None, &wire).unwrap();
        let mut desired = endpoint("docker0", "172.17.0", 2, Some("fd00:17:"));
        desired.publishes = vec![
            Publish { count: 3, ..publish(None, 0, "172.17.0.2", 80) },
            Publish { count: 3, ..publish(None, 0, "fd00:17::2", 80) },
            publish(None, 7000, "172.17.0.2", 80),
        ];
        let a = start(net, A, &wire, desired).unwrap();
        let ports = |applied: &AppliedEndpoint, ip: &str| -> BTreeMap<u16, u16> {
            let chosen =
                applied.publishes.iter().filter(|one| one.container_ip == ip && one.host_port != 7000);
            chosen.map(|one| (one.container_port, one.host_port)).collect()
        };
        let v4 = ports(&a.applied, "172.17.0.2");
        assert_eq!(v4.keys().copied().collect::<Vec<_>>(), [80, 81, 82]);
        assert!(v4.values().all(|port| *port >= 32768), "{v4:?}");
        assert_eq!(v4, ports(&a.applied, "fd00:17::2"), "both families have the same");
        serve(Some(&a.namespace), "[::]:81");
        call(&format!("127.0.0.1:{}", v4[&81]), LONG).unwrap();
        // One port less, one more: the others stay as they are, and need no new holder.
        let mut new = a.desired.clone();
        new.publishes[2] = publish(None, 7001, "172.17.0.2", 81);
        let again = net.apply_endpoint(A, Some(&a.desired), &new, a.namespace.as_fd()).unwrap();
        assert_eq!(ports(&again, "172.17.0.2").values().filter(|port| **port > 7001).count(), 3);
        assert_eq!(again.holders.len(), 1);
        assert_eq!(again.publishes.len(), 7);
        call("127.0.0.1:7001", LONG).unwrap();
        // Everything goes, although the plan names none of the chosen ports.
        net.remove_endpoint(A, &new, Links::DieWithNamespace).unwrap();
        assert!(!ruleset().contains(&v4[&80].to_string()));
    });
}

#[test]
fn a_flushed_filter_is_restored() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let mut desired = endpoint("docker0", "172.17.0", 2, None);
        desired.publishes = vec![publish(None, 8080, "172.17.0.2", 80)];
        let a = start(net, A, &wire, desired).unwrap();
        serve(Some(&a.namespace), "0.0.0.0:80");
        let before = ruleset();
        let flush = || {
            let mut socket = wire::Socket::open(libc::NETLINK_NETFILTER).unwrap();
            let mut batch = nft::begin(&net.shared.table);
            nft::table(&mut batch);
            nft::delete_table(&mut batch);
            nft::commit(&mut socket, batch).map_err(|failure| failure.error).unwrap();
        };
        flush();
        cannot_reach(&world, "192.0.2.1:8080");
        net.resync().unwrap();
        reach(&world, "192.0.2.1:8080");
        assert_eq!(ruleset(), before);
        // Any change finds out, too.
        flush();
        let mut more = endpoint("docker0", "172.17.0", 3, None);
        more.publishes = vec![publish(None, 8081, "172.17.0.3", 80)];
        let b = start(net, B, &wire, more).unwrap();
        reach(&world, "192.0.2.1:8080");
        net.remove_endpoint(B, &b.desired, Links::DieWithNamespace).unwrap();
        assert_eq!(ruleset(), before);
    });
}

/// Firewall reloads take rules away (CVE-2025-54388, CVE-2025-54410).
#[test]
fn a_watched_filter_restores_itself() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let mut desired = endpoint("docker0", "172.17.0", 2, None);
        desired.publishes = vec![publish(Some("127.0.0.1"), 8080, "172.17.0.2", 80)];
        let a = start(net, A, &wire, desired).unwrap();
        serve(Some(&a.namespace), "0.0.0.0:80");
        let before = ruleset();
        let _watch = net.watch().unwrap();
        // Ends with the first answer of the table that is whole again; this one is asked by netlink events alone.
        let events = wire::Socket::open(libc::NETLINK_NETFILTER).unwrap();
        crate::sys::netlink::join(events.fd().as_fd(), 7).unwrap();
        let mut events = events;
        for (what, arguments) in [
            ("all", vec!["flush", "ruleset"]),
            ("the rules", vec!["flush", "table", "inet", &net.shared.table]),
            ("a chain", vec!["flush", "chain", "inet", &net.shared.table, "guard"]),
        ] {
            let done = std::process::Command::new("nft").args(&arguments).status().unwrap();
            assert!(done.success(), "{what}");
            while ruleset() != before {
                events.receive(true).unwrap();
            }
            call("127.0.0.1:8080", LONG).unwrap();
            cannot_reach(&world, "172.17.0.2:80");
        }
    });
}

#[test]
fn a_new_daemon_takes_over() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        let wire = network("docker0", "172.17.0", None);
        let other = network("br-two", "172.18.0", None);
        net.apply_network(N, None, &wire).unwrap();
        net.apply_network(M, None, &other).unwrap();
        let with = |host: u8, port| Desired {
            publishes: vec![publish(None, port, &format!("172.17.0.{host}"), 80)],
            ..endpoint("docker0", "172.17.0", host, None)
        };
        let a = start(net, A, &wire, with(2, 8080)).unwrap();
        serve(Some(&a.namespace), "0.0.0.0:80");
        let before = ruleset();
        let b = start(net, B, &wire, with(3, 8081)).unwrap();
        assert_eq!(links_of_ours().len(), 4);
        // The daemon ends without a word; one endpoint and one network never reached its records.
        let again = Net::open("test").unwrap();
        let record = |id, desired, publishes| Record { id, desired, publishes };
        let networks = [record(N, &wire, &[])];
        let swept = again.restore(&networks, &[record(A, &a.desired, &a.applied.publishes)]).unwrap();
        let mut links = swept.links;
        links.sort();
        assert_eq!(links.len(), 2);
        assert_eq!(links[0], "br-two");
        assert_eq!(links_of_ours().len(), 2);
        reach(&world, "192.0.2.1:8080");
        let without_two: String = before.lines().filter(|line| !line.contains("br-two")).collect();
        assert!(!ruleset().contains("8081") && !ruleset().contains("br-two"));
        assert!(without_two.contains("8080"));
        assert_eq!(
            again.sweep(&BTreeSet::from([N.to_owned()]), &BTreeSet::from([A.to_owned()])).unwrap(),
            Swept::default()
        );
        // A bridge that went missing is made again.
        let mut worker = Worker::new(net.shared.group).unwrap();
        let bridge = route::find(&mut worker.route, "docker0").unwrap().unwrap();
        links::delete_many(&mut worker, &[bridge]).unwrap();
        again.restore(&networks, &[]).unwrap();
        assert_eq!(links_of_ours().into_iter().filter(|name| name == "docker0").count(), 1);
        drop(b);
    });
}

/// The whole of what one endpoint may publish, and of what a host full of containers does.
#[test]
fn a_large_record_is_restored() {
    lab(|net| {
        let wire = network("docker0", "172.17.0", Some("fd00:17:"));
        let ids: Vec<String> = (0..1000).map(|number| format!("{number:064x}")).collect();
        let plain = endpoint("docker0", "172.17.0", 2, None);
        let mut publishes: Vec<Vec<Publish>> = (0..999)
            .map(|number| vec![publish(Some("127.0.0.1"), 10000 + number, "172.17.0.2", 80)])
            .collect();
        publishes.push(vec![Publish { count: 60000, ..publish(None, 1, "fd00:17::2", 1) }]);
        let endpoints: Vec<Record<'_>> = ids
            .iter()
            .zip(&publishes)
            .map(|(id, publishes)| Record { id, desired: &plain, publishes })
            .collect();
        let networks = [Record { id: N, desired: &wire, publishes: &[] }];
        assert_eq!(net.restore(&networks, &endpoints).unwrap(), Swept::default());
        let text = ruleset();
        assert_eq!(text.matches(" : 172.17.0.2 . 80").count(), 999);
        assert_eq!(text.matches(" : fd00:17::2 . ").count(), 60000);
        // Nobody who is not on record is left after a restore, whoever was.
        let swept = net.restore(&networks, &endpoints[..10]).unwrap();
        assert_eq!(swept, Swept { links: Vec::new(), elements: 989 + 60000 });
        assert_eq!(ruleset().matches(" : 172.17.0.2 . 80").count(), 10);
    });
}

#[test]
fn many_start_at_once() {
    lab(|net| {
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let bare = ruleset();
        std::thread::scope(|scope| {
            for thread in 0..8_u8 {
                let wire = &wire;
                scope.spawn(move || {
                    for round in 0..6_u8 {
                        let number = 2 + thread * 6 + round;
                        let (id, ip) = (format!("{number:064x}"), format!("172.17.0.{number}"));
                        let mut desired = endpoint("docker0", "172.17.0", number, None);
                        desired.publishes = vec![publish(None, 0, &ip, 80)];
                        let one = start(net, &id, wire, desired).unwrap();
                        serve(Some(&one.namespace), "0.0.0.0:80");
                        call(&format!("127.0.0.1:{}", one.applied.publishes[0].host_port), LONG).unwrap();
                        net.remove_endpoint(&id, &one.desired, Links::Delete(one.namespace.as_fd())).unwrap();
                    }
                });
            }
        });
        assert_eq!(links_of_ours(), ["docker0"]);
        assert_eq!(ruleset(), bare);
    });
}

/// What an interrupted start has left is in the way of nobody.
#[test]
fn an_interrupted_start_is_begun_again() {
    lab(|net| {
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let desired = endpoint("docker0", "172.17.0", 2, None);
        let first = start(net, A, &wire, desired.clone()).unwrap();
        let again = Net::open("test").unwrap();
        again.apply_network(N, None, &wire).unwrap();
        let second = start(&again, A, &wire, desired).unwrap();
        serve(Some(&second.namespace), "0.0.0.0:80");
        call("172.17.0.2:80", LONG).unwrap();
        assert_eq!(links_of_ours().len(), 2);
        drop(first);
    });
}

#[test]
fn nothing_is_left() {
    lab(|net| {
        let wire = network("docker0", "172.17.0", Some("fd00:17:"));
        net.apply_network(N, None, &wire).unwrap();
        let bare = ruleset();
        let mut all = Vec::new();
        for (number, id) in (2..).zip([A, B, C]) {
            let mut desired = endpoint("docker0", "172.17.0", number, Some("fd00:17:"));
            desired.publishes =
                vec![publish(None, 8000 + u16::from(number), &format!("172.17.0.{number}"), 80)];
            all.push((id, start(net, id, &wire, desired).unwrap()));
        }
        assert_eq!(links_of_ours().len(), 4);
        for (id, container) in &all {
            net.remove_endpoint(id, &container.desired, Links::Delete(container.namespace.as_fd())).unwrap();
            // Twice is no error.
            net.remove_endpoint(id, &container.desired, Links::Delete(container.namespace.as_fd())).unwrap();
            let left = inside(&container.namespace, || {
                let mut socket = wire::Socket::open(libc::NETLINK_ROUTE).unwrap();
                route::links(&mut socket).unwrap().into_iter().any(|link| link.name == "eth0")
            });
            assert!(!left);
        }
        assert_eq!(ruleset(), bare);
        assert_eq!(links_of_ours(), ["docker0"]);
        net.remove_network(N, &wire).unwrap();
        net.remove_network(N, &wire).unwrap();
        assert_eq!(links_of_ours(), Vec::<String>::new());
    });
}

#[test]
fn a_failed_endpoint_leaves_nothing() {
    lab(|net| {
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let bare = ruleset();
        // The last step cannot be done: a route through a router that no address leads to.
        let mut desired = endpoint("docker0", "172.17.0", 2, None);
        desired.publishes = vec![publish(None, 8080, "172.17.0.2", 80)];
        desired
            .routes
            .push(Route { destination: "10.0.0.0/8".to_owned(), ..default_route("192.168.77.1", 2) });
        let namespace = netns::create().unwrap();
        let error = net.apply_endpoint(A, None, &desired, namespace.as_fd()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "add route to 10.0.0.0/8: Network is unreachable (os error 101) (Nexthop has invalid gateway)"
        );
        assert_eq!(links_of_ours(), ["docker0"]);
        assert_eq!(ruleset(), bare);
        TcpListener::bind("0.0.0.0:8080").unwrap();
        // A bridge of somebody else is neither used nor removed.
        let theirs = Desired { links: wire.links.clone(), ..Desired::default() };
        let error = net.apply_network(M, None, &theirs).unwrap_err();
        assert_eq!(
            error.to_string(),
            "make link docker0: File exists (os error 17) (it is there and belongs to somebody else)"
        );
        net.remove_network(M, &theirs).unwrap();
        assert_eq!(links_of_ours(), ["docker0"]);
    });
}

#[test]
fn a_container_joins_a_second_network() {
    lab(|net| {
        let one = network("docker0", "172.17.0", None);
        let two = network("br-two", "172.18.0", None);
        net.apply_network(N, None, &one).unwrap();
        net.apply_network(M, None, &two).unwrap();
        let generated = |bridge: &str, subnet: &str| {
            let mut desired = endpoint(bridge, subnet, 2, None);
            desired.links[2].name = Name::Generated("eth".to_owned());
            desired
        };
        let a = start(net, A, &one, generated("docker0", "172.17.0")).unwrap();
        assert_eq!(a.applied.interfaces, ["eth0"]);
        let mut second = generated("br-two", "172.18.0");
        second.routes.clear();
        let applied = net.apply_endpoint(B, None, &second, a.namespace.as_fd()).unwrap();
        assert_eq!(applied.interfaces, ["eth1"]);
        serve(Some(&a.namespace), "0.0.0.0:80");
        call("172.18.0.2:80", LONG).unwrap();
        // The way out moves over, with another address, while the container runs.
        let mut third = second.clone();
        third.addresses[0].cidr = "172.18.0.7/24".to_owned();
        third.routes = vec![Route { metric: Some(5), ..default_route("172.18.0.1", 2) }];
        let applied = net.apply_endpoint(B, Some(&second), &third, a.namespace.as_fd()).unwrap();
        assert_eq!(applied.interfaces, Vec::<String>::new());
        call("172.18.0.7:80", LONG).unwrap();
        net.remove_endpoint(B, &third, Links::Delete(a.namespace.as_fd())).unwrap();
        call("172.17.0.2:80", LONG).unwrap();
        assert_eq!(links_of_ours().len(), 3);
    });
}

#[test]
fn a_host_that_was_no_router_routes_for_containers_alone() {
    lab(|net| {
        let one = outside("w", "192.0.2", "2001:db8:");
        let two = outside("v", "198.51.100", "2001:db8:1:");
        serve(Some(&two), "[::]:80");
        let wire = network("docker0", "172.17.0", Some("fd00:17:"));
        let notes = net.apply_network(N, None, &wire).unwrap().notes;
        assert_eq!(notes.len(), 2, "{notes:?}");
        cannot_reach(&one, "198.51.100.2:80");
        cannot_reach(&one, "[2001:db8:1::2]:80");
        let a = start(net, A, &wire, endpoint("docker0", "172.17.0", 2, Some("fd00:17:"))).unwrap();
        assert_eq!(reach(&a.namespace, "198.51.100.2:80"), "::ffff:198.51.100.1");
        assert_eq!(reach(&a.namespace, "[2001:db8:1::2]:80"), "2001:db8:1::1");
        // Also after another daemon took over, which cannot know who switched it on.
        let again = Net::open("test").unwrap();
        again.restore(&[Record { id: N, desired: &wire, publishes: &[] }], &[]).unwrap();
        cannot_reach(&one, "198.51.100.2:80");
    });
}

#[test]
fn a_thousand_ports_are_one_change() {
    lab(|net| {
        let wire = network("docker0", "172.17.0", None);
        net.apply_network(N, None, &wire).unwrap();
        let rules = |text: &str| text.lines().filter(|line| line.contains("comment")).count();
        let before = rules(&ruleset());
        let mut desired = endpoint("docker0", "172.17.0", 2, None);
        desired.publishes = vec![Publish { count: 1000, ..publish(None, 20000, "172.17.0.2", 20000) }];
        let a = start(net, A, &wire, desired).unwrap();
        assert_eq!(a.applied.holders.len(), 1000);
        assert_eq!(rules(&ruleset()), before, "no rule per port");
        serve(Some(&a.namespace), "0.0.0.0:20999");
        call("127.0.0.1:20999", LONG).unwrap();
        net.remove_endpoint(A, &a.desired, Links::DieWithNamespace).unwrap();
        assert!(!ruleset().contains("20500"));
    });
}

#[test]
fn links_of_other_kinds() {
    lab(|net| {
        let world = outside("w", "192.0.2", "2001:db8:");
        serve(Some(&world), "192.0.2.2:80");
        // A link of its own on the host's wire.
        let child = wharf_plan::net::Child { parent: 0, mode: "bridge".to_owned() };
        let mut direct = Desired {
            links: vec![
                link(LinkKind::Granted("up-w".to_owned()), "up-w", Site::Host),
                link(LinkKind::Macvlan(child), "eth0", Site::Container),
            ],
            addresses: vec![address(1, "192.0.2.7/24")],
            ..Desired::default()
        };
        direct.links[1].mac = Some("02:42:00:00:00:07".to_owned());
        let namespace = netns::create().unwrap();
        let applied = net.apply_endpoint(A, None, &direct, namespace.as_fd()).unwrap();
        assert_eq!(
            (applied.interfaces, applied.macs),
            (vec!["eth0".to_owned()], vec!["02:42:00:00:00:07".to_owned()])
        );
        assert_eq!(reach(&namespace, "192.0.2.2:80"), "192.0.2.7");
        net.remove_endpoint(A, &direct, Links::Delete(namespace.as_fd())).unwrap();
        cannot_reach(&namespace, "192.0.2.2:80");
        // No filter was needed for any of it.
        assert!(!ruleset().contains("wharf"));

        // A tunnel in a bridge, with what is known of its other end, and a limit.
        let mut wire = network("br-far", "10.9.0", None);
        let far = wharf_plan::net::Vxlan {
            vni: 4097,
            port: 4789,
            local: Some("192.0.2.1".to_owned()),
            learning: false,
        };
        wire.links.push(Link {
            controller: Some(0),
            mtu: Some(1450),
            ..link(LinkKind::Vxlan(far), "vx-far", Site::Host)
        });
        wire.fdb = vec![
            wharf_plan::net::Fdb {
                link: 1,
                mac: "00:00:00:00:00:00".to_owned(),
                destination: "192.0.2.2".to_owned(),
            },
            wharf_plan::net::Fdb {
                link: 1,
                mac: "02:42:0a:09:00:02".to_owned(),
                destination: "192.0.2.2".to_owned(),
            },
        ];
        wire.neighbors = vec![wharf_plan::net::Neighbor {
            link: 0,
            ip: "10.9.0.2".to_owned(),
            mac: "02:42:0a:09:00:02".to_owned(),
        }];
        wire.shapes =
            vec![wharf_plan::net::Shape { link: 1, rate_bps: 1_000_000, burst: 20_000, ceil_bps: None }];
        wire.links[0].sysctls = vec![("ipv4.arp_filter".to_owned(), "1".to_owned())];
        net.apply_network(N, None, &wire).unwrap();
        let show = |arguments: &[&str]| {
            let output =
                std::process::Command::new("/bin/sh").arg("-c").arg(arguments.join(" ")).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let tunnel = show(&["ip", "-d", "link", "show", "vx-far"]);
        for part in [
            "vxlan id 4097",
            "local 192.0.2.1",
            "dstport 4789",
            "nolearning",
            "mtu 1450",
            "master br-far",
            "UP",
        ] {
            assert!(tunnel.contains(part), "{part}: {tunnel}");
        }
        let entries = show(&["bridge", "fdb", "show", "dev", "vx-far"]);
        assert!(entries.contains("00:00:00:00:00:00 dst 192.0.2.2 self permanent"), "{entries}");
        assert!(entries.contains("02:42:0a:09:00:02 dst 192.0.2.2 self permanent"), "{entries}");
        assert!(show(&["ip", "neigh", "show", "dev", "br-far"]).contains("02:42:0a:09:00:02"));
        assert!(
            show(&["tc", "qdisc", "show", "dev", "vx-far"]).contains("tbf"),
            "{}",
            show(&["tc", "qdisc"])
        );
        let filter = std::fs::read_to_string("/proc/sys/net/ipv4/conf/br-far/arp_filter").unwrap();
        assert_eq!(filter.trim(), "1");
        // One entry moves, the limit ends; the tunnel stays the same link.
        let index = |name| route::find(&mut Worker::new(0).unwrap().route, name).unwrap().unwrap().index;
        let before = index("vx-far");
        let mut new = wire.clone();
        new.fdb[1].destination = "192.0.2.9".to_owned();
        new.shapes.clear();
        new.links[1].mtu = Some(1400);
        net.apply_network(N, Some(&wire), &new).unwrap();
        let entries = show(&["bridge", "fdb", "show", "dev", "vx-far"]);
        assert!(entries.contains("02:42:0a:09:00:02 dst 192.0.2.9 self permanent"), "{entries}");
        assert!(!show(&["tc", "qdisc", "show", "dev", "vx-far"]).contains("tbf"));
        assert_eq!(index("vx-far"), before);
        net.remove_network(N, &new).unwrap();
        assert_eq!(links_of_ours(), Vec::<String>::new());
    });
}

#[test]
fn what_the_kernel_lacks_is_named() {
    lab(|net| {
        let only = |kind| Desired { links: vec![link(kind, "x", Site::Container)], ..Desired::default() };
        let namespace = netns::create().unwrap();
        let apply = |desired: &Desired| net.apply_endpoint(A, None, desired, namespace.as_fd());
        // Which kinds are missing differs from machine to machine: one that none has stands for them.
        let error = apply(&only(LinkKind::Tap)).unwrap_err();
        assert_eq!(error.to_string(), "a link of kind tap is not supported by this host");
        match apply(&only(LinkKind::Dummy)) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.to_string(), "this kernel lacks dummy links (CONFIG_DUMMY)"),
        }
    });
}
