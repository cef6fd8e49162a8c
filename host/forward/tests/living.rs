//! How the forwarder lives: over daemons, over its own death, with few rights, and with clients that want too much.

#![cfg(test)]
#![allow(clippy::disallowed_methods, reason = "tests wait")]

mod rig;

use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use rig::{Rig, at, echo, eventually, inside, said, spoken};
use wharf_plan::net::Protocol;

#[test]
fn connections_outlive_daemons() {
    let mut rig = Rig::new();
    echo(80);
    let port = rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    let gone = rig.publish("b", Protocol::Tcp, at("::1", 0), 80);
    let mut stream = spoken(port.host);
    let pid = rig.pid();
    rig.forwarder = None;
    said(&mut stream, b"without a daemon");
    let mut other = spoken(port.host);
    rig.next_daemon(&[("a", port)]);
    assert_eq!(rig.pid(), pid, "the same forwarder");
    said(&mut stream, b"with another daemon");
    said(&mut other, b"as well");
    let counts = rig.counts();
    assert_eq!((counts.listeners, counts.connections), (1, 2));
    // What the next daemon does not want is gone, and what it wants beyond is there.
    TcpListener::bind(gone.host).unwrap();
    drop(stream);
    drop(other);
    rig.end();
}

#[test]
fn ports_are_free_when_they_are_given_up() {
    let rig = Rig::new();
    echo(80);
    let mut kept = Vec::new();
    for _ in 0..20 {
        let port = rig.publish("a", Protocol::Tcp, at("::", 0), 80);
        let udp = rig.publish("a", Protocol::Udp, at("::", port.host.port()), 80);
        kept.push(spoken(at("::1", port.host.port())));
        rig.daemon().remove("a");
        let (_, bound) = wharf_kernel::sys::netlink::hold_port(
            wharf_kernel::sys::netlink::Hold::Tcp,
            at("::", port.host.port()),
        )
        .unwrap();
        assert_eq!(bound, port.host.port());
        std::net::UdpSocket::bind(udp.host).unwrap();
    }
    eventually("no connection", || rig.counts().connections == 0);
    rig.end();
}

#[test]
fn a_killed_forwarder_is_replaced_at_once() {
    let mut rig = Rig::new();
    echo(80);
    let one = rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    let two = rig.publish("b", Protocol::Tcp, at("::1", 0), 80);
    for _ in 0..5 {
        let pid = rig.pid();
        Rig::signal(pid, libc::SIGKILL);
        // The daemon has the listeners: who comes now waits, and is not refused.
        said(&mut spoken(one.host), b"one");
        said(&mut spoken(two.host), b"two");
        assert_ne!(rig.pid(), pid);
    }
    // With the daemon dead as well, the next one makes it right.
    let pid = rig.pid();
    rig.forwarder = None;
    Rig::signal(pid, libc::SIGKILL);
    eventually("nobody listens", || TcpStream::connect(one.host).is_err());
    rig.next_daemon(&[("a", one), ("b", two)]);
    said(&mut spoken(one.host), b"one");
    said(&mut spoken(two.host), b"two");
    // What that daemon listened on itself survives the same.
    Rig::signal(rig.pid(), libc::SIGKILL);
    said(&mut spoken(one.host), b"one");
    rig.end();
}

#[test]
fn one_that_hangs_is_replaced() {
    let rig = Rig::new();
    echo(80);
    let one = rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    let pid = rig.pid();
    Rig::signal(pid, libc::SIGSTOP);
    let begin = Instant::now();
    let two = rig.publish("b", Protocol::Tcp, at("::1", 0), 80);
    assert!(begin.elapsed() < Duration::from_secs(30));
    said(&mut spoken(one.host), b"one");
    said(&mut spoken(two.host), b"two");
    assert_ne!(rig.pid(), pid);
    rig.end();
}

/// Whoever finds out that it hangs need not be the one who wants ports: all of them come back.
#[test]
fn one_that_is_found_hanging_is_replaced_with_all_that_it_carried() {
    let rig = Rig::new();
    echo(80);
    let one = rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    let pid = rig.pid();
    Rig::signal(pid, libc::SIGSTOP);
    rig.daemon().counts().unwrap_err();
    eventually("another one", || !rig.processes().iter().any(|(known, _)| *known == pid));
    said(&mut spoken(one.host), b"one");
    assert_ne!(rig.pid(), pid);
    rig.end();
}

#[test]
fn a_taken_port_changes_nothing() {
    let mut rig = Rig::new();
    echo(80);
    let port = rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    let taken = TcpListener::bind(at("::1", 0)).unwrap();
    let other = wharf_plan::net::Forward { host: taken.local_addr().unwrap(), ..port };
    rig.forwarder = Some(Rig::client(rig.dir.path()));
    let wanted = [("a".to_owned(), port), ("b".to_owned(), other)].into();
    assert_eq!(rig.daemon().adopt(wanted), [other], "it is named, and the rest goes on");
    said(&mut spoken(port.host), b"one");
    rig.end();
}

#[test]
fn it_has_no_rights() {
    let rig = Rig::new();
    rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    let pid = rig.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Uid:"), "65534 65534 65534 65534");
    assert_eq!(field("Gid:"), "65534 65534 65534 65534");
    assert_eq!(field("Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    // Nothing of the daemon's is open in it: its own sockets, its lock, and what waits for events.
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap();
        let target = target.to_string_lossy();
        let own = ["socket:", "anon_inode:", "pipe:", "/dev/null"].iter().any(|p| target.starts_with(p));
        assert!(own || target.ends_with("forward.lock"), "{target}");
    }
    rig.end();
}

#[test]
fn nobody_but_the_daemon_gives_orders() {
    let rig = Rig::new();
    echo(80);
    let port = rig.publish("a", Protocol::Tcp, at("::1", 0), 80);
    let path = wharf_forward::socket_path(rig.dir.path());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // Even where the file could be reached: who asks is told by the kernel, not by the file.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(rig.dir.path(), open).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&path, open).unwrap();
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\ns.connect('{}')\ns.settimeout(20)\n\
         try:\n  s.send(bytes([0]))\nexcept OSError:\n  pass\n\
         try:\n  print(len(s.recv(100)))\nexcept ConnectionResetError:\n  print(0)",
        path.display()
    );
    let said =
        std::process::Command::new("python3").args(["-c", &script]).uid(12_345).gid(12_345).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "0\n", "{}", String::from_utf8_lossy(&said.stderr));
    self::said(&mut spoken(port.host), b"unmoved");
    assert_eq!(rig.counts().listeners, 1);
    rig.end();
}

#[test]
fn who_wants_everything_leaves_something() {
    let rig = Rig::with_files(700);
    for address in ["fd00:1::1/128", "fd00:2::1/128"] {
        let added =
            std::process::Command::new("ip").args(["addr", "add", address, "dev", "lo"]).status().unwrap();
        assert!(added.success());
    }
    echo(80);
    let [flooded, other] =
        ["a", "b"].map(|owner| rig.publish(owner, Protocol::Tcp, at("::", 0), 80).host.port());
    // A client that opens what it can, until it is turned away again and again.
    let mut greedy = Vec::new();
    while rig.counts().refused < 50 {
        greedy.extend((0..10).filter_map(|_| TcpStream::connect(at("::1", flooded)).ok()));
        assert!(greedy.len() < 1000, "no bound in sight: {:?}", rig.counts());
    }
    let counts = rig.counts();
    assert!(counts.connections < 350, "{counts:?}");
    // Another client of that port, and anybody at another port.
    let from = |address: &str, port: u16| {
        let any = std::net::SocketAddr::new(address.parse().unwrap(), port);
        let mut stream = TcpStream::connect(any).unwrap();
        said(&mut stream, b"let me in");
        stream
    };
    // (To an address of its own the kernel speaks from that address.)
    drop(from("fd00:1::1", flooded));
    drop(from("::1", other));
    drop(greedy);
    eventually("no connection", || rig.counts().connections == 0);
    drop(from("::1", flooded));
    rig.end();
}

#[test]
fn clients_that_are_never_answered_make_room() {
    let rig = Rig::new();
    let container = std::net::UdpSocket::bind(inside(53)).unwrap();
    let port = rig.publish("a", Protocol::Udp, at("::1", 0), 53);
    let client = std::net::UdpSocket::bind(at("::1", 0)).unwrap();
    client.connect(port.host).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    container.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.send(b"first").unwrap();
    let mut buffer = [0; 16];
    let (_, inside) = container.recv_from(&mut buffer).unwrap();
    container.send_to(b"answer", inside).unwrap();
    client.recv(&mut buffer).unwrap();
    // Very many others from as many ports, none of them answered.
    for _ in 0..8000 {
        let flood = std::net::UdpSocket::bind(at("::1", 0)).unwrap();
        flood.send_to(b"flood", port.host).unwrap();
    }
    eventually("room for all", || rig.counts().sessions > 2000);
    assert!(rig.counts().sessions <= 4096, "{:?}", rig.counts());
    // Whoever was answered is still known under the same port, and somebody new gets in.
    container.send_to(b"again", inside).unwrap();
    client.recv(&mut buffer).unwrap();
    container.set_nonblocking(true).unwrap();
    while container.recv_from(&mut buffer).is_ok() {}
    let late = std::net::UdpSocket::bind(at("::1", 0)).unwrap();
    eventually("somebody new", || {
        late.send_to(b"late", port.host).unwrap();
        while let Ok((length, _)) = container.recv_from(&mut buffer) {
            if &buffer[..length] == b"late" {
                return true;
            }
        }
        false
    });
    rig.end();
}
