//! Ports on IPv6 of the host that lead to containers which have only IPv4, and the loopback `::1`: with the docker CLI.

#![cfg(test)]

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use wharf_tests::{Daemon, Options, eventually, in_network, leftovers};

fn daemon_with(args: &[&str]) -> Daemon {
    let args = args.iter().map(|a| (*a).to_owned()).collect();
    let daemon = Daemon::with(Options { args, ..Options::default() });
    daemon.import_busybox();
    daemon
}

fn ports(d: &Daemon, container: &str) -> Value {
    let text = d.docker(&["inspect", "-f", "{{json .NetworkSettings.Ports}}", container]).ok();
    serde_json::from_str(&text).unwrap()
}

/// Both families' entries of one port.
fn both(port: &str) -> Value {
    json!([{"HostIp": "0.0.0.0", "HostPort": port}, {"HostIp": "::", "HostPort": port}])
}

/// A container that echoes what comes on TCP port 7.
fn echo(d: &Daemon, name: &str, args: &[&str]) -> wharf_tests::Ran {
    let command = ["busybox", "nc", "-ll", "-p", "7", "-e", "cat"];
    d.docker(&[&["run", "-d", "--name", name], args, command.as_slice()].concat())
}

fn connect(d: &Daemon, to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    let stream = in_network(&d.namespace(), || TcpStream::connect_timeout(&to, Duration::from_secs(20)))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn said(stream: &mut TcpStream, words: &str) -> std::io::Result<()> {
    stream.write_all(words.as_bytes())?;
    let mut heard = vec![0; words.len()];
    stream.read_exact(&mut heard)?;
    assert_eq!(heard, words.as_bytes());
    Ok(())
}

/// The container's program may take a moment to listen.
#[track_caller]
fn answers(d: &Daemon, to: &str) -> TcpStream {
    eventually(to, || {
        let mut stream = connect(d, to).ok()?;
        said(&mut stream, "hello").ok()?;
        Some(stream)
    })
}

/// A process of the host takes a port, which nobody may have.
#[track_caller]
fn listens(d: &Daemon, at: &str) -> TcpListener {
    in_network(&d.namespace(), || TcpListener::bind(at)).unwrap_or_else(|e| {
        let sockets = d.in_namespace("ss").arg("-lntp").output().unwrap();
        panic!("{at}: {e}: {}", String::from_utf8_lossy(&sockets.stdout))
    })
}

fn forwarder(d: &Daemon) -> Option<i32> {
    let all = leftovers::processes(&d.path("exec"));
    let mut all = all.into_iter().filter(|(_, line)| line.contains(" forward "));
    let found = all.next().map(|(pid, _)| pid);
    assert!(all.next().is_none(), "more than one");
    found
}

#[track_caller]
fn in_namespace(d: &Daemon, line: &[&str]) {
    let mut command = d.in_namespace(line[0]);
    command.args(&line[1..]);
    d.run_with_input(command, b"").ok();
}

#[test]
fn both_families_of_the_host_lead_to_a_container() {
    let d = daemon_with(&[]);
    in_namespace(&d, &["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"]);
    in_namespace(&d, &["ip", "link", "set", "up0", "up"]);
    in_namespace(&d, &["ip", "-6", "addr", "add", "2001:db8:7::1/64", "dev", "up0", "nodad"]);
    assert_eq!(forwarder(&d), None, "it costs nothing where it has nothing to do");
    d.docker(&["run", "-d", "--name", "none", "-p", "127.0.0.1:8090:7", "busybox", "sleep", "100000"]).ok();
    assert_eq!(forwarder(&d), None, "the kernel does that alone");
    echo(&d, "web", &["-p", "8080:7", "-p", "7"]).ok();
    let found = ports(&d, "web")["7/tcp"].as_array().unwrap().clone();
    assert_eq!(found.len(), 4, "{found:?}");
    let chosen = found.iter().map(|b| b["HostPort"].as_str().unwrap()).find(|p| *p != "8080").unwrap();
    for host in ["0.0.0.0", "::"] {
        for port in ["8080", chosen] {
            assert!(found.contains(&json!({"HostIp": host, "HostPort": port})), "{host} {port}: {found:?}");
        }
    }
    let shown = d.docker(&["port", "web", "7"]).ok();
    for line in ["0.0.0.0:8080", "[::]:8080"] {
        assert!(shown.lines().any(|l| l == line), "{shown}");
    }
    let listed = d.docker(&["ps", "--filter", "name=web", "--format", "{{.Ports}}"]).ok();
    assert!(listed.contains("[::]:8080->7/tcp") && listed.contains("0.0.0.0:8080->7/tcp"), "{listed}");
    for host in ["127.0.0.1", "[::1]", "[2001:db8:7::1]"] {
        drop(answers(&d, &format!("{host}:8080")));
        drop(answers(&d, &format!("{host}:{chosen}")));
    }
    // Loopback alone is loopback alone.
    echo(&d, "local", &["-p", "[::1]:8081:7"]).ok();
    assert_eq!(ports(&d, "local")["7/tcp"], json!([{"HostIp": "::1", "HostPort": "8081"}]));
    drop(answers(&d, "[::1]:8081"));
    for closed in ["[2001:db8:7::1]:8081", "127.0.0.1:8081"] {
        assert!(connect(&d, closed).is_err(), "{closed}");
    }
    // A container reaches a port of the host that leads back to itself.
    let gateway = d.docker(&["inspect", "-f", "{{.NetworkSettings.Gateway}}", "web"]).ok();
    let hairpin = d.docker(&["exec", "web", "sh", "-c", &format!("echo around | nc -w 5 {gateway} 8080")]);
    assert_eq!(hairpin.ok(), "around");
    // SCTP is nobody's to carry; the kernel translates IPv4 only.
    d.docker(&["run", "-d", "--name", "sctp", "-p", "8082:80/sctp", "busybox", "sleep", "100000"]).ok();
    assert_eq!(ports(&d, "sctp")["80/sctp"], json!([{"HostIp": "0.0.0.0", "HostPort": "8082"}]));
}

#[test]
fn datagrams_too() {
    let d = daemon_with(&[]);
    d.docker(&["run", "-d", "--name", "udp", "-p", "5353:53/udp", "busybox", "sleep", "100000"]).ok();
    let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", "udp"]).ok();
    let inside =
        in_network(Path::new(&format!("/proc/{pid}/ns/net")), || UdpSocket::bind("0.0.0.0:53").unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = inside.recv_from(&mut buffer) {
            let _ = inside.send_to(&buffer[..length], from);
        }
    });
    assert_eq!(ports(&d, "udp")["53/udp"], both("5353"));
    let socket = in_network(&d.namespace(), || UdpSocket::bind("[::1]:0").unwrap());
    socket.connect("[::1]:5353").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    eventually("an answer", || {
        socket.send(b"datagram").ok()?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).ok()?;
        (&buffer[..length] == b"datagram").then_some(())
    });
}

#[test]
fn connections_outlive_the_daemon_and_ports_come_back() {
    let mut d = daemon_with(&[]);
    echo(&d, "web", &["-p", "8080:7"]).ok();
    let mut stream = answers(&d, "[::1]:8080");
    let pid = forwarder(&d).unwrap();
    for _ in 0..3 {
        d.crash();
        said(&mut stream, "nobody there").unwrap();
        drop(answers(&d, "[::1]:8080"));
        d.restart();
        said(&mut stream, "somebody again").unwrap();
        assert_eq!(ports(&d, "web")["7/tcp"], both("8080"));
    }
    assert_eq!(forwarder(&d), Some(pid), "the same one all along");
    // The forwarder itself dies: at once there is another.
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    drop(answers(&d, "[::1]:8080"));
    let next = eventually("another forwarder", || forwarder(&d).filter(|next| *next != pid));
    // Both die, and the container ends while nobody looks: nothing stays.
    d.crash();
    kill(Pid::from_raw(next), Signal::SIGKILL).unwrap();
    eventually("the end of the forwarder", || (forwarder(&d) != Some(next)).then_some(()));
    d.restart();
    drop(answers(&d, "[::1]:8080"));
    // A port is free as soon as its container has ended, and taken again by its next start.
    d.docker(&["stop", "-t", "0", "web"]).ok();
    let taken = listens(&d, "[::1]:8080");
    // What is taken in one family is not published in the other.
    d.docker(&["start", "web"]).fails(1, "address already in use");
    drop(listens(&d, "0.0.0.0:8080"));
    drop(taken);
    d.docker(&["start", "web"]).ok();
    drop(answers(&d, "[::1]:8080"));
    echo(&d, "second", &["-p", "8080:7"]).fails(125, "port is already allocated");
    echo(&d, "third", &["-p", "[::1]:8080:7"]).fails(125, "port is already allocated");
    d.docker(&["rm", "-f", "web"]).ok();
    d.docker(&["start", "second"]).ok();
    drop(answers(&d, "[::1]:8080"));
    d.docker(&["rm", "-f", "second"]).ok();
    drop(listens(&d, "[::]:8080"));
}

/// The keeper alone dies: what is carried goes on, and its port is nobody else's.
#[test]
fn the_keepers_death_concerns_no_port() {
    let d = daemon_with(&[]);
    echo(&d, "web", &["-p", "8080:7"]).ok();
    let mut stream = answers(&d, "[::1]:8080");
    let carrier = forwarder(&d).unwrap();
    let keeper = || {
        let all = leftovers::processes(&d.path("exec"));
        all.into_iter().find(|(_, line)| line.contains(" keeper ")).map(|(pid, _)| pid)
    };
    for _ in 0..2 {
        let pid = keeper().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        said(&mut stream, "nobody there").unwrap();
        drop(answers(&d, "[::1]:8080"));
        drop(answers(&d, "127.0.0.1:8080"));
        eventually("another keeper", || keeper().filter(|next| *next != pid));
    }
    assert_eq!(forwarder(&d), Some(carrier));
    assert!(in_network(&d.namespace(), || TcpListener::bind("[::1]:8080")).is_err());
    echo(&d, "second", &["-p", "8080:7"]).fails(125, "port is already allocated");
    d.docker(&["rm", "-f", "second"]).ok();
    d.docker(&["stop", "-t", "0", "web"]).ok();
    drop(listens(&d, "[::]:8080"));
    d.docker(&["start", "web"]).ok();
    drop(answers(&d, "[::1]:8080"));
}

/// A network that was made before its driver could publish across families does so with the driver of now.
#[test]
fn networks_of_earlier_builds() {
    let mut d = daemon_with(&[]);
    d.docker(&["network", "create", "old"]).ok();
    d.crash();
    let script = "import json, sqlite3, sys\n\
                  db = sqlite3.connect(sys.argv[1])\n\
                  for key, value in db.execute(\"select key, value from entries where tbl = 'networks'\").fetchall():\n\
                  \x20   record = json.loads(value)\n\
                  \x20   record['features'] = [f for f in record['features'] if f != 'publish-across']\n\
                  \x20   text = json.dumps(record).encode()\n\
                  \x20   db.execute(\"update entries set value = ? where tbl = 'networks' and key = ?\", (text, key))\n\
                  db.commit()";
    let database = d.path("data/metadata.db");
    let changed = std::process::Command::new("python3").args(["-c", script]).arg(database).output().unwrap();
    assert!(changed.status.success(), "{}", String::from_utf8_lossy(&changed.stderr));
    d.restart();
    echo(&d, "web", &["-p", "8080:7", "--network", "old"]).ok();
    assert_eq!(ports(&d, "web")["7/tcp"], both("8080"));
    drop(answers(&d, "[::1]:8080"));
}

#[test]
fn a_container_that_ends_while_nobody_looks_gives_its_ports_back() {
    let mut d = daemon_with(&[]);
    echo(&d, "web", &["-p", "8080:7"]).ok();
    drop(answers(&d, "[::1]:8080"));
    let pid: i32 = d.docker(&["inspect", "-f", "{{.State.Pid}}", "web"]).ok().parse().unwrap();
    d.crash();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    d.restart();
    eventually("the port", || {
        in_network(&d.namespace(), || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080)).ok()).map(drop)
    });
}

#[test]
fn without_the_proxy_only_what_the_kernel_does() {
    let d = daemon_with(&["--userland-proxy=false"]);
    echo(&d, "web", &["-p", "8080:7"]).ok();
    assert_eq!(ports(&d, "web")["7/tcp"], json!([{"HostIp": "0.0.0.0", "HostPort": "8080"}]));
    drop(answers(&d, "127.0.0.1:8080"));
    assert!(connect(&d, "[::1]:8080").is_err());
    d.docker(&["run", "-d", "--name", "six", "-p", "[::1]:8081:7", "busybox", "sleep", "100000"]).ok();
    assert!(ports(&d, "six")["7/tcp"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(forwarder(&d), None);
}

#[test]
fn a_host_without_ipv6_has_one_family() {
    let d = daemon_with(&[]);
    in_namespace(&d, &["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]);
    echo(&d, "web", &["-p", "8080:7", "-p", "7"]).ok();
    let found = ports(&d, "web")["7/tcp"].as_array().unwrap().clone();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|b| b["HostIp"] == "0.0.0.0"), "{found:?}");
    drop(answers(&d, "127.0.0.1:8080"));
    assert_eq!(forwarder(&d), None);
    // What is asked for by name is an error that says so.
    d.docker(&["run", "-d", "--name", "six", "-p", "[::1]:8081:7", "busybox", "sleep", "100000"])
        .fails(125, "failed to bind host port for [::1]:8081");
}

#[test]
fn loopback_and_link_local_reach_a_container_with_both_families() {
    let d = daemon_with(&[]);
    d.docker(&["network", "create", "--ipv6", "--subnet", "fd00:78::/64", "dual"]).ok();
    echo(&d, "web", &["--network", "dual", "-p", "8080:7"]).ok();
    assert_eq!(ports(&d, "web")["7/tcp"], both("8080"));
    in_namespace(&d, &["ip", "-6", "addr", "add", "2001:db8:8::1/64", "dev", "lo"]);
    // The kernel translates what it can; the rest goes through the program.
    for host in ["127.0.0.1", "[::1]", "[2001:db8:8::1]"] {
        drop(answers(&d, &format!("{host}:8080")));
    }
    // Nor does the kernel lead anybody from a link-local address across a bridge.
    in_namespace(&d, &["ip", "link", "add", "near0", "type", "veth", "peer", "name", "far0"]);
    in_namespace(&d, &["ip", "link", "set", "far0", "up"]);
    in_namespace(&d, &["ip", "link", "set", "near0", "up"]);
    let mut command = d.in_namespace("ip");
    command.args(["-6", "-o", "addr", "show", "dev", "near0"]);
    let listed = eventually("a link-local address", || {
        let listed = command.output().ok()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        (listed.contains("fe80:") && !listed.contains("tentative")).then_some(listed)
    });
    let number = listed.split(':').next().unwrap();
    let near =
        listed.split_whitespace().find_map(|word| word.split('/').next().filter(|a| a.starts_with("fe80:")));
    drop(answers(&d, &format!("[{}%{number}]:8080", near.unwrap())));
}
