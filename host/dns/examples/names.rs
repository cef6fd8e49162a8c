//! What names cost: questions a second and processor time of each, beside a bare echo of the same datagrams.
//!
//! `cargo run --release -p wharf-dns --example names`, as root. Everything happens in network namespaces that it makes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measurement may end with an error"
)]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record as Data, RecordType};
use wharf_dns::{HostServers, Names, Place, Presence, Record, Upstream};
use wharf_kernel::net::{NAME_SERVER, Net};
use wharf_kernel::netns;
use wharf_kernel::sys::net_device::loopback_up;
use wharf_kernel::sys::process::{CLONE_NEWNET, setns, unshare};

/// Nanoseconds of processor time of this process's threads of this name.
fn cpu(thread: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == thread)
        })
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace.as_fd(), CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn presence(n: u32, outside: bool) -> Presence {
    let name = format!("container{n}");
    let records = vec![Record {
        names: vec![name, format!("{n:012x}"), "service".into()],
        addresses: vec![IpAddr::from((0x0a00_0002 + n).to_be_bytes())],
        ttl: 600,
    }];
    let places = vec![Place { network: "n".into(), name: "net".into(), records, links: Vec::new() }];
    Presence { places, upstream: Upstream::Host, outside, keep_single: false }
}

/// Asks with so many questions under way, for a time; questions a second, and their number.
fn ask(namespace: &OwnedFd, to: SocketAddr, packet: &[u8], window: usize) -> (f64, u64) {
    inside(namespace, || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let (start, mut count) = (Instant::now(), 0_u64);
        let mut buffer = [0; 4096];
        for _ in 0..window {
            socket.send(packet).unwrap();
        }
        while start.elapsed() < Duration::from_secs(3) {
            for _ in 0..64 {
                // One that is lost is asked again.
                if socket.recv(&mut buffer).is_ok() {
                    count += 1;
                }
                socket.send(packet).unwrap();
            }
        }
        (count as f64 / start.elapsed().as_secs_f64(), count)
    })
}

fn report(what: &str, thread: &str, namespace: &OwnedFd, to: SocketAddr, packet: &[u8], window: usize) {
    let before = cpu(thread);
    let (rate, count) = ask(namespace, to, packet, window);
    let each = (cpu(thread) - before) as f64 / count as f64 / 1000.0;
    println!("{what:<58} {window:>3} at once: {rate:>9.0}/s, {each:>6.2} us of CPU each");
}

fn main() {
    unshare(CLONE_NEWNET).and_then(|()| loopback_up()).unwrap();
    measure();
}

fn measure() {
    let resolver: SocketAddr = "127.0.0.53:53".parse().unwrap();
    let server = UdpSocket::bind(resolver).unwrap();
    std::thread::Builder::new()
        .name("server".into())
        .spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
                reply.add_query(asked.queries[0].clone());
                let data = RData::A("192.0.2.1".parse().unwrap());
                reply.add_answer(Data::from_rdata(asked.queries[0].name().clone(), 5, data));
                let _ = server.send_to(&reply.to_vec().unwrap(), from);
            }
        })
        .unwrap();
    let first = std::sync::atomic::AtomicBool::new(true);
    let look = move || first.swap(false, std::sync::atomic::Ordering::Relaxed).then(|| vec![resolver]);
    let names = Names::new(HostServers::new(Box::new(look)));
    let net = Net::open("measure").unwrap();
    let namespace = netns::create().unwrap();
    let to = SocketAddr::new(NAME_SERVER.into(), 53);

    let echo: SocketAddr = "127.0.0.1:5353".parse().unwrap();
    let socket = inside(&namespace, || UdpSocket::bind(echo).unwrap());
    std::thread::Builder::new()
        .name("echo".into())
        .spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        })
        .unwrap();

    let start = Instant::now();
    let sockets = net.open_names(namespace.as_fd()).unwrap();
    println!("sockets and rules of a container: {:.0} us", start.elapsed().as_secs_f64() * 1e6);
    names.publish("c0", presence(0, true));
    names.serve("c0", sockets).unwrap();
    let mut there = 1;
    let name = question("container0.", RecordType::A);
    for many in [1, 100, 1000, 10_000] {
        while there < many {
            names.publish(&format!("c{there}"), presence(there, true));
            there += 1;
        }
        let start = Instant::now();
        for n in 0..100 {
            names.publish("new", presence(100_000 + n, true));
            names.withdraw("new");
        }
        let each = start.elapsed().as_secs_f64() * 1e6 / 100.0;
        println!("-- {many} containers in the network; one that comes and goes: {each:.0} us");
        for window in [1, 32] {
            report("bare echo", "echo", &namespace, echo, &name, window);
            report("a container's name", "names", &namespace, to, &name, window);
        }
        let none = question("container0.", RecordType::AAAA);
        report("a name without such an address", "names", &namespace, to, &none, 32);
        let back = question("2.0.0.10.in-addr.arpa.", RecordType::PTR);
        report("an address's name", "names", &namespace, to, &back, 32);
        report("a name of all of them", "names", &namespace, to, &question("service.", RecordType::A), 32);
    }
    let other = question("example.org.", RecordType::A);
    for window in [1, 32] {
        report("a name that a server of the host knows", "names", &namespace, to, &other, window);
    }
}
