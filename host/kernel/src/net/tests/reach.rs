//! Who reaches whom, and who must not.

use super::*;

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
