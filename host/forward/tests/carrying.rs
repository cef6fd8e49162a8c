//! What the forwarder carries: both ways, to the end of each, from the address that was spoken to.

#![cfg(test)]
#![allow(clippy::disallowed_methods, reason = "tests wait")]

mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use rig::{Rig, at, echo, eventually, inside, said, spoken};
use wharf_kernel::sys::carry;
use wharf_plan::net::Protocol;

const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes that tell their place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

#[test]
fn each_direction_has_its_own_end() {
    let rig = Rig::new();
    let listener = TcpListener::bind(inside(80)).unwrap();
    let port = rig.publish("a", Protocol::Tcp, at("::", 0), 80);
    for length in [0, 5, 70_000, 32 << 20] {
        let data = pattern(length);
        let container = std::thread::spawn({
            let (listener, back) =
                (listener.try_clone().unwrap(), data.iter().rev().copied().collect::<Vec<_>>());
            move || {
                let (mut stream, from) = listener.accept().unwrap();
                assert!(from.ip().is_loopback());
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                // The client has ended, and still hears everything.
                stream.write_all(&back).unwrap();
                got
            }
        });
        let mut client = TcpStream::connect(at("::1", port.host.port())).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&data).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert!(container.join().unwrap() == data, "{length} bytes in");
        heard.reverse();
        assert!(heard == data, "{length} bytes out");
    }
    // The other way round: the container ends first.
    let mut client = TcpStream::connect(at("::1", port.host.port())).unwrap();
    let (mut inside, _) = listener.accept().unwrap();
    inside.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    client.write_all(b"still").unwrap();
    let mut heard = [0; 5];
    inside.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still");
    drop((client, inside));
    eventually("no connection", || rig.counts().connections == 0);
    rig.end();
}

#[test]
fn what_breaks_off_is_no_end() {
    let rig = Rig::new();
    let listener = TcpListener::bind(inside(80)).unwrap();
    let port = rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    let mut client = TcpStream::connect(port.host).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (stream, _) = listener.accept().unwrap();
    carry::reset_at_close(stream.as_fd()).unwrap();
    drop(stream);
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    // Nobody listens there any more: that is told at once, too.
    drop(listener);
    let mut client = TcpStream::connect(port.host).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop(client);
    rig.end();
}

#[test]
fn many_connections_at_once_each_its_own_bytes() {
    let rig = Rig::new();
    echo(80);
    let port = rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    // More than there are pipes, all with much to say.
    std::thread::scope(|scope| {
        for n in 0..96_usize {
            scope.spawn(move || {
                let mut reader = spoken(port.host);
                let mut writer = reader.try_clone().unwrap();
                let data: Vec<u8> =
                    pattern(1 << 20).into_iter().map(|byte| byte ^ n.to_le_bytes()[0]).collect();
                let sent = data.clone();
                let writing = std::thread::spawn(move || {
                    writer.write_all(&sent).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let mut heard = Vec::new();
                reader.read_to_end(&mut heard).unwrap();
                writing.join().unwrap();
                assert!(heard == data, "connection {n}");
            });
        }
    });
    eventually("no connection", || rig.counts().connections == 0);
    rig.end();
}

/// A client's socket that hears from `to` alone.
fn client(from: &str, to: std::net::SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(at(from, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[track_caller]
fn answered(socket: &UdpSocket, words: &[u8]) {
    let mut buffer = vec![0; 65_536];
    socket.send(words).unwrap();
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], words);
}

#[test]
fn datagrams_come_back_from_where_they_were_sent_to() {
    let rig = Rig::new();
    let status = std::process::Command::new("ip")
        .args(["addr", "add", "fd00:1::1/128", "dev", "lo"])
        .status()
        .unwrap();
    assert!(status.success());
    let container = UdpSocket::bind(inside(53)).unwrap();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let log = std::sync::Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = container.recv_from(&mut buffer) {
            log.lock().unwrap().insert(from);
            let _ = container.send_to(&buffer[..length], from);
        }
    });
    let port = rig.publish("a", Protocol::Udp, at("::", 0), 53).host.port();
    let clients = [
        client("::1", at("::1", port)),
        client("::1", at("::1", port)),
        client("::1", at("fd00:1::1", port)),
    ];
    for (n, client) in clients.iter().enumerate() {
        for length in [1, 0, 1000, 60_000] {
            answered(client, &vec![u8::try_from(n).unwrap(); length]);
        }
    }
    assert_eq!(seen.lock().unwrap().len(), 3, "the container tells them apart");
    assert_eq!(rig.counts().sessions, 3);
    rig.daemon().remove("a");
    assert_eq!(rig.counts().sessions, 0);
    UdpSocket::bind(at("::", port)).unwrap();
    rig.end();
}

#[test]
fn a_udp_port_waits_for_its_container() {
    let rig = Rig::new();
    let port = rig.publish("a", Protocol::Udp, at("::1", 0), 53);
    let client = client("::1", port.host);
    for _ in 0..10 {
        client.send(b"too early").unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    let container = UdpSocket::bind(inside(53)).unwrap();
    container.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send(b"now").unwrap();
    let mut buffer = [0; 64];
    let (length, from) = container.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"now");
    container.send_to(b"yes", from).unwrap();
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"yes");
    // Somebody else is no part of that talk.
    let stranger = UdpSocket::bind(inside(0)).unwrap();
    stranger.send_to(b"forged", from).unwrap();
    container.send_to(b"true", from).unwrap();
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"true");
    rig.end();
}

#[test]
fn a_link_that_stands_still_holds_up_nobody() {
    let rig = Rig::new();
    echo(80);
    let port = rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    // Clients that send and never read what comes back, until nothing moves any more.
    let stuck: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = spoken(port.host);
            stream.set_nonblocking(true).unwrap();
            let data = vec![1; 256 << 10];
            let mut idle = 0;
            while idle < 20 {
                // How much goes in says nothing; nothing going in any more does.
                match stream.write(&data) {
                    Ok(1..) => idle = 0,
                    Ok(0) | Err(_) => {
                        idle += 1;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
            stream
        })
        .collect();
    let mut other = spoken(port.host);
    for length in [1, 1000, 1 << 20] {
        let mut writer = other.try_clone().unwrap();
        let data = pattern(length);
        let sent = data.clone();
        let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut heard = vec![0; length];
        other.read_exact(&mut heard).unwrap();
        writing.join().unwrap();
        assert!(heard == data);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.pid())).unwrap();
    let resident: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap();
    assert!(resident < 96 << 10, "{resident} KiB");
    said(&mut other, b"still there");
    drop((stuck, other));
    rig.end();
}
