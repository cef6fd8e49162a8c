//! Coming and going: failures, restarts, sweeps, and what is left.

use super::*;

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
