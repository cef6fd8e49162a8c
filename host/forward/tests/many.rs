//! Very many ports and connections: what the forwarder and the daemon need for them is bounded, and given back.

#![cfg(test)]
#![allow(clippy::disallowed_methods, reason = "tests wait")]

mod rig;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rig::{Rig, at, echo, eventually, inside, said, spoken};
use wharf_plan::net::{Forward, Protocol};

/// This process needs both ends of everything.
fn with_many_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Kilobytes in memory.
fn memory(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn copies_of_listeners_are_few_however_they_came_about() {
    with_many_files();
    let mut rig = Rig::new();
    echo(80);
    let own = i32::try_from(std::process::id()).unwrap();
    let before = descriptors(own);
    let many: Vec<(&str, Forward)> = (20_000..22_000)
        .map(|port| {
            let host = at("::1", port);
            ("a", Forward { protocol: Protocol::Tcp, host, container: inside(80) })
        })
        .collect();
    rig.next_daemon(&many);
    assert_eq!(rig.counts().listeners, many.len());
    let kept = descriptors(own) - before;
    assert!((1024..1100).contains(&kept), "{kept}");
    // The next one has all of them again, and the daemon no more than before.
    Rig::signal(rig.pid(), libc::SIGKILL);
    eventually("all of them", || rig.daemon().counts().is_ok_and(|counts| counts.listeners == many.len()));
    for (_, forward) in [many[0], many[many.len() - 1]] {
        said(&mut spoken(forward.host), b"again");
    }
    let kept = descriptors(own) - before;
    assert!(kept < 1100, "{kept}");
    rig.daemon().remove("a");
    assert!(descriptors(own) < before + 20, "{}", descriptors(own));
    rig.end();
}

#[test]
fn a_thousand_connections_that_stand_still() {
    with_many_files();
    let rig = Rig::new();
    echo(80);
    // A container that says as much as it can and reads nothing, and keeps what it has.
    let listener = TcpListener::bind(inside(81)).unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let words = vec![b'x'; 64 << 10];
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nonblocking(true).unwrap();
            while stream.write(&words).is_ok() {}
            kept.push(stream);
        }
    });
    let echoes = rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    let floods = rig.publish("b", Protocol::Tcp, at("::1", 0), 81);
    drop(spoken(echoes.host));
    let pid = rig.pid();
    eventually("no connection", || rig.counts().connections == 0);
    let (files, kilobytes) = (descriptors(pid), memory(pid));
    let mut clients = Vec::new();
    for number in 0..1000 {
        match number % 3 {
            // Idle.
            0 => clients.push(spoken(echoes.host)),
            // With a reader that does not read.
            1 => clients.push(TcpStream::connect(floods.host).unwrap()),
            // Half closed; the other half goes on without end.
            _ => {
                let mut stream = TcpStream::connect(floods.host).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                stream.read_exact(&mut [0; 10]).unwrap();
                clients.push(stream);
            }
        }
    }
    eventually("all of them", || rig.counts().connections == 1000);
    assert_eq!(rig.counts().refused, 0);
    // Two for each, and a few pipes, which do not grow with them.
    let used = descriptors(pid) - files;
    assert!((2000..=2000 + 2 * 64 + 8).contains(&used), "{used}");
    let grown = memory(pid).saturating_sub(kilobytes);
    assert!(grown < 48 << 10, "{grown} KiB");
    // Somebody else is served as ever.
    said(&mut spoken(echoes.host), b"anybody");
    let idle: Vec<&mut TcpStream> = clients.iter_mut().step_by(3).take(20).collect();
    for stream in idle {
        said(stream, b"still there");
    }
    drop(clients);
    eventually("no connection", || rig.counts().connections == 0);
    eventually("no descriptor", || descriptors(pid) <= files + 2 * 64);
    rig.end();
}
