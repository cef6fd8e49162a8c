//! Published ports: given once, found, and released.

use super::*;

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
