//! Questions to 127.0.0.11 reach the sockets, whatever else the container does with port 53.

use super::*;
use crate::netns::Visitor;

/// Answers one question of either kind with the question itself, backwards.
fn serve(sockets: NameSockets) -> std::thread::JoinHandle<()> {
    let udp = UdpSocket::from(sockets.udp);
    let tcp = TcpListener::from(sockets.tcp);
    for set in [udp.set_nonblocking(false), tcp.set_nonblocking(false), udp.set_read_timeout(Some(LONG))] {
        set.unwrap();
    }
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let (length, from) = udp.recv_from(&mut buffer).unwrap();
        buffer[..length].reverse();
        udp.send_to(&buffer[..length], from).unwrap();
        let (mut stream, _) = tcp.accept().unwrap();
        stream.read_exact(&mut buffer[..5]).unwrap();
        buffer[..5].reverse();
        stream.write_all(&buffer[..5]).unwrap();
    })
}

fn ask(namespace: &OwnedFd) {
    inside(namespace, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((NAME_SERVER, 53)).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.send(b"hello").unwrap();
        let mut buffer = [0; 64];
        // A connected socket takes no answer from another port.
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"olleh");
        let mut stream = TcpStream::connect((NAME_SERVER, 53)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut buffer[..5]).unwrap();
        assert_eq!(&buffer[..5], b"olleh");
    });
}

#[test]
fn questions_reach_the_sockets() {
    lab(|net| {
        let container = netns::create().unwrap();
        let serving = serve(net.open_names(container.as_fd()).unwrap());
        ask(&container);
        serving.join().unwrap();
        // A second time: the new sockets are asked.
        let serving = serve(net.open_names(container.as_fd()).unwrap());
        ask(&container);
        serving.join().unwrap();
    });
}

#[test]
fn a_container_has_a_name_server_of_its_own() {
    lab(|net| {
        let container = netns::create().unwrap();
        let sockets = net.open_names(container.as_fd()).unwrap();
        inside(&container, || {
            let udp = UdpSocket::bind("0.0.0.0:53").unwrap();
            let tcp = TcpListener::bind("0.0.0.0:53").unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"own", "127.0.0.1:53").unwrap();
            udp.set_read_timeout(Some(LONG)).unwrap();
            let mut buffer = [0; 8];
            assert_eq!(udp.recv(&mut buffer).unwrap(), 3);
            TcpStream::connect("127.0.0.1:53").unwrap();
            tcp.accept().unwrap();
        });
        let serving = serve(sockets);
        ask(&container);
        serving.join().unwrap();
    });
}

#[test]
fn a_stateful_filter_inside_lets_answers_pass() {
    lab(|net| {
        let container = netns::create().unwrap();
        let serving = serve(net.open_names(container.as_fd()).unwrap());
        let rules = "table inet own { chain input { type filter hook input priority 0; policy drop; \
                     ct state established accept; ct state new meta l4proto { tcp, udp } accept; }; \
                     chain output { type filter hook output priority 0; policy drop; ct state { new, established } accept; }; }";
        inside(&container, || {
            let ran = std::process::Command::new("nft").arg(rules).output().unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        });
        ask(&container);
        serving.join().unwrap();
    });
}

#[test]
fn a_visitor_comes_back() {
    let container = netns::create().unwrap();
    let socket = inside(&container, || UdpSocket::bind("127.0.0.1:0").unwrap());
    netns::within(|| {
        let id = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let home = id();
        let visitor = Visitor::new()?;
        let there = visitor.beside(socket.as_fd(), id)?;
        assert_ne!(there, home);
        assert_eq!(id(), home);
        // Made there, it stays there.
        let other = visitor.beside(socket.as_fd(), || UdpSocket::bind("127.0.0.1:0").unwrap())?;
        assert_eq!(visitor.beside(other.as_fd(), id)?, there);
        Ok(())
    })
    .unwrap();
}
