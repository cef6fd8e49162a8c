//! Containers of user networks find each other by name, as with Docker: asked from inside with busybox, driven with the docker CLI.

#![cfg(test)]

#[path = "../../host/plugins/tests/common/guest.rs"]
mod guest;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guest::Guest;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::{Value, json};
use wharf_tests::{Daemon, Options, PATIENCE, Ran, eventually, in_network};

/// A name server of the host, where the host's resolv.conf says it is.
const RESOLVER: &str = "127.0.0.153";

fn daemon_with(args: &[&str], resolv: &str) -> Daemon {
    let daemon = Daemon::with(Options {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        etc: vec![("resolv.conf".into(), resolv.into())],
        ..Options::default()
    });
    daemon.import_busybox();
    daemon
}

fn daemon() -> Daemon {
    // No search list: busybox asks for nothing else then.
    daemon_with(&[], &format!("nameserver {RESOLVER}\noptions edns0\n"))
}

fn namespace_of(d: &Daemon, container: &str) -> std::path::PathBuf {
    let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", container]).ok();
    format!("/proc/{pid}/ns/net").into()
}

/// A name server: `*.example` is 192.0.2.1 and so on by its first label's length, anything else is nothing. Its log is what it was asked.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Vec<String>>>);

impl Server {
    fn start(namespace: &Path, address: &str) -> Self {
        let server = Self::default();
        let address: SocketAddr = SocketAddr::new(address.parse().unwrap(), 53);
        let socket = in_network(namespace, || UdpSocket::bind(address).unwrap());
        let log = Arc::clone(&server.0);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let name = question.queries[0].name().clone();
                log.lock().unwrap().push(name.to_ascii());
                let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
                reply.metadata.recursion_available = true;
                reply.add_query(question.queries[0].clone());
                if !name.to_ascii().ends_with(".example.") {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                } else if question.queries[0].query_type() == RecordType::A {
                    let last = u8::try_from(name.iter().next().unwrap().len()).unwrap();
                    let data = RData::A(std::net::Ipv4Addr::new(192, 0, 2, last).into());
                    reply.add_answer(Record::from_rdata(name, 5, data));
                }
                let _ = socket.send_to(&reply.to_vec().unwrap(), from);
            }
        });
        server
    }

    fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

fn nslookup(d: &Daemon, container: &str, kind: &str, name: &str) -> Ran {
    d.docker(&["exec", container, "nslookup", &format!("-type={kind}"), name])
}

/// The addresses that a name has inside, or what is said instead.
fn addresses(d: &Daemon, container: &str, name: &str) -> BTreeSet<String> {
    let ran = nslookup(d, container, "a", name);
    let all = format!("{}{}", ran.out, ran.err);
    let mut found: BTreeSet<String> = all
        .lines()
        .skip_while(|line| !line.starts_with("Name:"))
        .filter_map(|line| line.strip_prefix("Address: ").map(|a| a.trim().to_owned()))
        .collect();
    if found.is_empty() {
        let said = ["NXDOMAIN", "SERVFAIL", "REFUSED"].into_iter().find(|word| all.contains(word));
        found.insert(said.map_or_else(|| "no data".to_owned(), str::to_owned));
    }
    found
}

#[track_caller]
fn finds(d: &Daemon, container: &str, name: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
    assert_eq!(addresses(d, container, name), wanted, "{name} in {container}");
}

fn ip(d: &Daemon, container: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    d.docker(&["inspect", "-f", &format, container]).ok()
}

fn run(d: &Daemon, name: &str, args: &[&str]) -> String {
    let line = [&["run", "-d", "--name", name], args, &["busybox", "sleep", "100000"]].concat();
    d.docker(&line).ok()
}

fn conf(d: &Daemon, container: &str) -> String {
    d.docker(&["exec", container, "cat", "/etc/resolv.conf"]).ok()
}

#[test]
fn containers_of_a_network_find_each_other() {
    let d = daemon();
    let server = Server::start(&d.namespace(), RESOLVER);
    d.docker(&["network", "create", "net"]).ok();
    d.docker(&["network", "create", "other"]).ok();
    let id = run(&d, "web", &["--network", "net", "--network-alias", "www", "-h", "webhost"]);
    run(&d, "client", &["--network", "net", "--link", "web:linked"]);
    run(&d, "stranger", &["--network", "other"]);
    run(&d, "legacy", &[]);
    let web = ip(&d, "web", "net");
    for name in ["web", "WEB", "www", "webhost", &id[..12], "web.net", "linked"] {
        finds(&d, "client", name, &[&web]);
    }
    finds(&d, "web", "web", &[&web]);
    // Programs too: a ping, and the C library's resolver.
    d.docker(&["exec", "client", "ping", "-c", "1", "-W", "20", "web"]).ok();
    let shown = d.docker(&["inspect", "-f", "{{json .NetworkSettings.Networks.net.DNSNames}}", "web"]).ok();
    assert_eq!(shown, json!(["web", "www", &id[..12], "webhost"]).to_string());
    // Backwards, to the name in the network.
    let reversed: Vec<&str> = web.rsplit('.').collect();
    let ran = nslookup(&d, "client", "ptr", &format!("{}.in-addr.arpa", reversed.join(".")));
    assert!(ran.out.contains("name = web.net"), "{ran:?}");
    // No address of the other family is not "no such name", and nobody else is asked for it.
    let ran = nslookup(&d, "client", "aaaa", "web");
    assert!(!format!("{}{}", ran.out, ran.err).contains("NXDOMAIN"), "{ran:?}");
    assert!(server.asked().is_empty(), "{:?}", server.asked());
    // What is in no network of its own is nobody's name.
    for name in ["web", "stranger.net", "linked"] {
        finds(&d, "stranger", name, &["NXDOMAIN"]);
    }
    finds(&d, "web", "linked", &["NXDOMAIN"]);
    let text = conf(&d, "client");
    assert!(text.starts_with("nameserver 127.0.0.11\noptions edns0 ndots:0\n"), "{text}");
    assert!(!conf(&d, "legacy").contains("127.0.0.11"), "{}", conf(&d, "legacy"));
    assert!(!conf(&d, "legacy").contains(RESOLVER));
    let host = d.docker(&["run", "--rm", "--network", "host", "busybox", "cat", "/etc/resolv.conf"]).ok();
    assert!(host.starts_with(&format!("nameserver {RESOLVER}\noptions edns0")), "{host}");
    // One that shares the network of another sees what that one sees.
    let shared = d.docker(&["run", "--rm", "--network", "container:client", "busybox", "nslookup", "web"]);
    assert!(shared.out.contains(&web), "{shared:?}");
    // A name server of the container's own is not in the way.
    let listens = "nc -l -p 53 & sleep 1; netstat -ltn | grep -c ':::53 '; nslookup web";
    let own = d.docker(&["exec", "client", "sh", "-c", listens]);
    assert!(own.out.starts_with("1\n") && own.out.contains(&web), "{own:?}");
}

#[test]
fn a_name_of_many_goes_round() {
    let d = daemon();
    d.docker(&["network", "create", "net"]).ok();
    let all: Vec<String> = (0..3)
        .map(|n| {
            let name = format!("app{n}");
            run(&d, &name, &["--network", "net", "--network-alias", "app"]);
            ip(&d, &name, "net")
        })
        .collect();
    let wanted: Vec<&str> = all.iter().map(String::as_str).collect();
    finds(&d, "app0", "app", &wanted);
    let firsts: BTreeSet<String> = (0..40)
        .filter_map(|_| {
            let ran = nslookup(&d, "app0", "a", "app");
            let mut lines = ran.out.lines().skip_while(|line| !line.starts_with("Name:"));
            lines.find_map(|line| line.strip_prefix("Address: ").map(str::to_owned))
        })
        .collect();
    assert!(firsts.len() > 1, "{firsts:?}");
    d.docker(&["stop", "-t", "0", "app1"]).ok();
    finds(&d, "app0", "app", &[&all[0], &all[2]]);
}

#[test]
fn answers_follow_what_happens() {
    let d = daemon();
    let _server = Server::start(&d.namespace(), RESOLVER);
    d.docker(&["network", "create", "net"]).ok();
    d.docker(&["network", "create", "second"]).ok();
    run(&d, "client", &["--network", "net"]);
    run(&d, "web", &["--network", "net", "--network-alias", "www"]);
    let first = ip(&d, "web", "net");
    finds(&d, "client", "web", &[&first]);
    d.docker(&["rename", "web", "renamed"]).ok();
    finds(&d, "client", "renamed", &[&first]);
    finds(&d, "client", "www", &[&first]);
    finds(&d, "client", "web", &["NXDOMAIN"]);
    d.docker(&["stop", "-t", "0", "renamed"]).ok();
    finds(&d, "client", "renamed", &["NXDOMAIN"]);
    finds(&d, "client", "www", &["NXDOMAIN"]);
    // Somebody takes its address; it comes back with another one.
    run(&d, "between", &["--network", "net"]);
    d.docker(&["start", "renamed"]).ok();
    let second = ip(&d, "renamed", "net");
    assert_ne!(first, second);
    finds(&d, "client", "renamed", &[&second]);
    finds(&d, "client", "between", &[&first]);
    d.docker(&["restart", "-t", "0", "renamed"]).ok();
    finds(&d, "client", "renamed", &[&ip(&d, "renamed", "net")]);
    d.docker(&["pause", "renamed"]).ok();
    finds(&d, "client", "renamed", &[&ip(&d, "renamed", "net")]);
    d.docker(&["unpause", "renamed"]).ok();
    // Networks come and go while it runs.
    run(&d, "far", &["--network", "second"]);
    finds(&d, "client", "far", &["NXDOMAIN"]);
    d.docker(&["network", "connect", "--alias", "visitor", "second", "client"]).ok();
    finds(&d, "client", "far", &[&ip(&d, "far", "second")]);
    finds(&d, "far", "visitor", &[&ip(&d, "client", "second")]);
    finds(&d, "client", "renamed", &[&ip(&d, "renamed", "net")]);
    d.docker(&["network", "disconnect", "second", "client"]).ok();
    finds(&d, "client", "far", &["NXDOMAIN"]);
    finds(&d, "far", "visitor", &["NXDOMAIN"]);
    // One of the default network turns to names when it comes into one that has them, unless its file is its own.
    for name in ["legacy", "stubborn"] {
        run(&d, name, &[]);
    }
    d.docker(&["exec", "stubborn", "sh", "-c", "echo '# mine' >> /etc/resolv.conf"]).ok();
    for name in ["legacy", "stubborn"] {
        d.docker(&["network", "connect", "net", name]).ok();
    }
    finds(&d, "legacy", "renamed", &[&ip(&d, "renamed", "net")]);
    finds(&d, "client", "legacy", &[&ip(&d, "legacy", "net")]);
    assert!(conf(&d, "legacy").starts_with("nameserver 127.0.0.11\n"));
    assert!(conf(&d, "stubborn").ends_with("# mine") && !conf(&d, "stubborn").contains("127.0.0.11"));
    d.docker(&["rm", "-f", "renamed"]).ok();
    finds(&d, "legacy", "renamed", &["NXDOMAIN"]);
    // A start that fails leaves no name.
    d.docker(&["run", "-d", "--name", "broken", "--network", "net", "busybox", "/nosuch"])
        .fails(127, "nosuch");
    finds(&d, "client", "broken", &["NXDOMAIN"]);
}

#[test]
fn other_names_are_asked_of_others() {
    let d = daemon();
    let host = Server::start(&d.namespace(), RESOLVER);
    d.docker(&["network", "create", "net"]).ok();
    d.docker(&["network", "create", "--internal", "inner"]).ok();
    run(&d, "client", &["--network", "net"]);
    finds(&d, "client", "abc.example", &["192.0.2.3"]);
    finds(&d, "client", "nosuch", &["NXDOMAIN"]);
    assert!(host.asked().contains(&"abc.example.".to_owned()));
    // A server that the user names is asked in the container's own network, be it a container.
    run(&d, "ns", &["--network", "net"]);
    let ns = ip(&d, "ns", "net");
    let own = Server::start(&namespace_of(&d, "ns"), &ns);
    run(&d, "picky", &["--network", "net", "--dns", &ns, "--dns-search", "a.test", "--dns-opt", "timeout:3"]);
    finds(&d, "picky", "abcd.example", &["192.0.2.4"]);
    assert_eq!(own.asked(), ["abcd.example."]);
    assert!(!host.asked().contains(&"abcd.example.".to_owned()));
    let text = conf(&d, "picky");
    assert!(text.starts_with("nameserver 127.0.0.11\nsearch a.test\noptions timeout:3 ndots:0\n"), "{text}");
    assert!(text.contains(&format!("ExtServers: [{ns}]")), "{text}");
    finds(&d, "picky", "client.net", &[&ip(&d, "client", "net")]);
    // With `ndots` names of one word are nobody else's.
    run(&d, "dotted", &["--network", "net", "--dns-opt", "ndots:2"]);
    let before = host.asked().len();
    finds(&d, "dotted", "nosuch", &["no data"]);
    finds(&d, "dotted", "client", &[&ip(&d, "client", "net")]);
    assert_eq!(host.asked().len(), before);
    // An internal network leads to nobody outside (CVE-2024-29018), be it by UDP or TCP.
    run(&d, "closed", &["--network", "inner"]);
    finds(&d, "closed", "closed", &[&ip(&d, "closed", "inner")]);
    finds(&d, "closed", "secret.example", &["SERVFAIL"]);
    // Attached to another one as well it has a way; without it, none.
    d.docker(&["network", "connect", "net", "closed"]).ok();
    finds(&d, "closed", "abcde.example", &["192.0.2.5"]);
    d.docker(&["network", "disconnect", "net", "closed"]).ok();
    finds(&d, "closed", "secret.example", &["SERVFAIL"]);
    assert!(!host.asked().contains(&"secret.example.".to_owned()), "{:?}", host.asked());
    // The host changes: containers that run follow.
    let moved = "127.0.0.154";
    let new = Server::start(&d.namespace(), moved);
    let file = format!("/proc/{}/root/etc/resolv.conf", d.pid());
    File::create(file).unwrap().write_all(format!("nameserver {moved}\n").as_bytes()).unwrap();
    eventually("the new server to be asked", || {
        finds(&d, "client", "abc.example", &["192.0.2.3"]);
        new.asked().contains(&"abc.example.".to_owned()).then_some(())
    });
}

#[test]
fn the_daemons_own_settings() {
    let mut d = daemon_with(&[], "nameserver 192.0.2.53\nsearch corp.test\noptions ndots:3\n");
    d.docker(&["network", "create", "net"]).ok();
    let print = ["run", "--rm", "--network", "net", "busybox", "cat", "/etc/resolv.conf"];
    let text = d.docker(&print).ok();
    assert!(text.starts_with("nameserver 127.0.0.11\nsearch corp.test\noptions ndots:3\n"), "{text}");
    assert!(text.contains("ExtServers: [host(192.0.2.53)]"), "{text}");
    d.stop();
    let config = json!({"dns": ["127.0.0.1"], "dns-search": ["d.test"], "dns-opts": ["timeout:7"]});
    d.configure(&config.to_string());
    d.restart();
    run(&d, "client", &["--network", "net", "--add-host", "host.docker.internal:host-gateway"]);
    let text = conf(&d, "client");
    assert!(text.starts_with("nameserver 127.0.0.11\nsearch d.test\noptions timeout:7 ndots:0\n"), "{text}");
    // Its own loopback: as with Docker such a server is the container's.
    let server = Server::start(&namespace_of(&d, "client"), "127.0.0.1");
    finds(&d, "client", "ab.example", &["192.0.2.2"]);
    assert_eq!(server.asked(), ["ab.example."]);
    let hosts = d.docker(&["exec", "client", "cat", "/etc/hosts"]).ok();
    let gateway = d.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "net"]).ok();
    assert!(hosts.contains(&format!("{gateway}\thost.docker.internal")), "{hosts}");
}

#[test]
fn a_killed_daemon_loses_no_question() {
    let mut d = daemon();
    let _server = Server::start(&d.namespace(), RESOLVER);
    d.docker(&["network", "create", "net"]).ok();
    run(&d, "web", &["--network", "net", "--network-alias", "www"]);
    run(&d, "short", &["--network", "net"]);
    run(&d, "client", &["--network", "net"]);
    d.docker(&["rename", "web", "renamed"]).ok();
    let (web, namespace) = (ip(&d, "renamed", "net"), namespace_of(&d, "client"));
    let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", "short"]).ok();
    d.crash();
    // Asked while there is no daemon.
    let socket = in_network(&namespace, || UdpSocket::bind("127.0.0.1:0").unwrap());
    socket.connect("127.0.0.11:53").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut question = Message::new(9, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii("renamed.").unwrap(), RecordType::A));
    socket.send(&question.to_vec().unwrap()).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.parse().unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    d.restart();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!((reply.metadata.id, reply.answers[0].data.to_string()), (9, web.clone()));
    finds(&d, "client", "www", &[&web]);
    finds(&d, "client", "web", &["NXDOMAIN"]);
    // What ended meanwhile is no more.
    eventually("the end of what was killed", || {
        addresses(&d, "client", "short").contains("NXDOMAIN").then_some(())
    });
    run(&d, "late", &["--network", "net"]);
    finds(&d, "client", "late", &[&ip(&d, "late", "net")]);
    finds(&d, "late", "renamed", &[&web]);
    // The keeper killed, and then the daemon: the sockets are gone with both, and made anew.
    let keeper = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains("keeper") && line.contains(&d.path("exec").display().to_string())
        })
        .expect("the keeper");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), nix::sys::signal::Signal::SIGKILL).unwrap();
    d.crash();
    d.restart();
    finds(&d, "client", "renamed", &[&web]);
}

#[test]
fn in_a_user_namespace() {
    let ids = "containers:2000000:1000000\n".to_owned();
    let d = Daemon::with(Options {
        args: vec!["--userns-remap".into(), "auto".into()],
        etc: vec![
            ("resolv.conf".into(), format!("nameserver {RESOLVER}\n")),
            ("subuid".into(), ids.clone()),
            ("subgid".into(), ids),
        ],
        ..Options::default()
    });
    d.import_busybox();
    let _server = Server::start(&d.namespace(), RESOLVER);
    d.docker(&["network", "create", "net"]).ok();
    run(&d, "web", &["--network", "net"]);
    run(&d, "client", &["--network", "net"]);
    finds(&d, "client", "web", &[&ip(&d, "web", "net")]);
    finds(&d, "client", "abc.example", &["192.0.2.3"]);
}

#[test]
fn with_another_runtime() {
    let d = daemon_with(&["--add-runtime", "other=/usr/sbin/runc"], &format!("nameserver {RESOLVER}\n"));
    d.docker(&["network", "create", "net"]).ok();
    run(&d, "web", &["--network", "net"]);
    run(&d, "client", &["--network", "net", "--runtime", "other"]);
    finds(&d, "client", "web", &[&ip(&d, "web", "net")]);
    finds(&d, "web", "client", &[&ip(&d, "client", "net")]);
}

/// Bytes of memory of a process.
fn memory(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn a_hostile_flood() {
    let d = daemon();
    // A server that hears and never answers.
    let mute =
        in_network(&d.namespace(), || UdpSocket::bind((RESOLVER.parse::<IpAddr>().unwrap(), 53)).unwrap());
    d.docker(&["network", "create", "net"]).ok();
    run(&d, "evil", &["--network", "net"]);
    run(&d, "good", &["--network", "net"]);
    let (before, open) = (memory(d.pid()), descriptors(d.pid()));
    let namespace = namespace_of(&d, "evil");
    /// Also where the test fails.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let end = AtomicBool::new(false);
    let (mut most, mut most_open) = (0, 0);
    std::thread::scope(|scope| {
        let ending = End(&end);
        let flood = scope.spawn(|| {
            in_network(&namespace, || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect("127.0.0.11:53").unwrap();
                socket.set_nonblocking(true).unwrap();
                let mut connections = Vec::new();
                let mut sent = 0_u64;
                while !end.load(Ordering::Relaxed) {
                    for n in 0..200_u32 {
                        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
                        let name = Name::from_ascii(format!("x{sent}-{n}.example.")).unwrap();
                        question.add_query(Query::query(name, RecordType::A));
                        let mut bytes = question.to_vec().unwrap();
                        if n % 3 == 0 {
                            bytes.truncate(bytes.len() / 2);
                        }
                        sent += u64::from(socket.send(&bytes).is_ok());
                    }
                    if connections.len() < 200
                        && let Ok(stream) = std::net::TcpStream::connect("127.0.0.11:53")
                    {
                        let _ = (&stream).write_all(&[0xff, 0xff, 0, 0]);
                        connections.push(stream);
                    }
                }
                sent
            })
        });
        for _ in 0..12 {
            finds(&d, "good", "evil", &[&ip(&d, "evil", "net")]);
            most = most.max(memory(d.pid()));
            most_open = most_open.max(descriptors(d.pid()));
        }
        drop(ending);
        assert!(flood.join().unwrap() > 10_000);
    });
    assert!(most < before + (64 << 20), "{before} before, {most} under the flood");
    assert!(most_open < open + 256 * 3 + 200, "{open} before, {most_open} under the flood");
    // What it asked got out only as far as it may.
    mute.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    d.docker(&["rm", "-f", "evil"]).ok();
    eventually("what it began to end", || (descriptors(d.pid()) < open + 20).then_some(()));
    finds(&d, "good", "good", &[&ip(&d, "good", "net")]);
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// What Compose sends: a network with labels, and services whose containers have their service's name as an alias.
#[test]
fn services_as_compose_makes_them() {
    let d = daemon();
    let labels = json!({"com.docker.compose.network": "default", "com.docker.compose.project": "shop"});
    let body = json!({"Name": "shop_default", "Driver": "bridge", "Labels": labels}).to_string();
    assert_eq!(d.api("POST", "/networks/create", &body).status, 201);
    for (service, number) in [("web", 1), ("db", 1), ("db", 2)] {
        let name = format!("shop-{service}-{number}");
        let body = json!({
            "Image": "busybox", "Cmd": ["sleep", "100000"],
            "HostConfig": {"NetworkMode": "shop_default"},
            "NetworkingConfig": {"EndpointsConfig": {"shop_default": {"Aliases": [name, service]}}},
        });
        let made = d.api("POST", &format!("/containers/create?name={name}"), &body.to_string());
        assert_eq!(made.status, 201, "{}", made.text());
        assert_eq!(d.api("POST", &format!("/containers/{name}/start"), "").status, 204);
    }
    let dbs = [ip(&d, "shop-db-1", "shop_default"), ip(&d, "shop-db-2", "shop_default")];
    finds(&d, "shop-web-1", "db", &[&dbs[0], &dbs[1]]);
    finds(&d, "shop-web-1", "shop-db-2", &[&dbs[1]]);
    finds(&d, "shop-db-1", "web.shop_default", &[&ip(&d, "shop-web-1", "shop_default")]);
    let network: Value = d.api("GET", "/networks/shop_default", "").json();
    assert_eq!(network["Containers"].as_object().unwrap().len(), 3);
    // A service that is asked for by its name from its very first moment.
    let script = "nslookup -type=a web && nslookup -type=a first";
    let ran = d.docker(&[
        "run",
        "--rm",
        "--network",
        "shop_default",
        "--name",
        "first",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    ran.ok();
}

#[test]
fn a_rename_that_cannot_be_followed_changes_nothing() {
    let mut d = daemon();
    let _server = Server::start(&d.namespace(), RESOLVER);
    d.docker(&["network", "create", "net"]).ok();
    run(&d, "one", &["--network", "net"]);
    run(&d, "two", &["--network", "net"]);
    let address = ip(&d, "one", "net");
    // The driver is broken from now on: another plugin of its name crashes whenever it is asked.
    d.crash();
    let plugins = d.path("broken");
    std::fs::create_dir_all(&plugins).unwrap();
    Guest::new("wharf/network-bridge", &["wharf:network/driver@0.1.0"]).install(&plugins);
    d.set_args(&["--plugin-dir", plugins.to_str().unwrap()]);
    d.restart();
    d.docker(&["rename", "one", "three"]).fails(1, "cannot rename container");
    assert_eq!(d.docker(&["ps", "--format", "{{.Names}}", "--filter", "name=one"]).ok(), "one");
    finds(&d, "two", "one", &[&address]);
    finds(&d, "two", "three", &["NXDOMAIN"]);
    // The new name is free at once.
    d.docker(&["create", "--name", "three", "--network", "none", "busybox", "true"]).ok();
    d.docker(&["rm", "three"]).ok();
    // What does not run, or has no names, needs no driver for it.
    d.docker(&["stop", "-t", "0", "one"]).ok();
    d.docker(&["rename", "one", "three"]).ok();
    assert_eq!(d.docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", "name=three"]).ok(), "three");
    d.crash();
    d.set_args(&[]);
    d.restart();
    d.docker(&["start", "three"]).ok();
    d.docker(&["rename", "three", "four"]).ok();
    let address = ip(&d, "four", "net");
    finds(&d, "two", "four", &[&address]);
}
