//! Real sockets: containers are network namespaces, name servers are threads of the test. Every test has a network namespace of
//! its own as its host.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record as Data, RecordType};
use wharf_dns::{HostServers, Names, Place, Presence, Record, Servers, Upstream};
use wharf_kernel::net::{NAME_SERVER, Net};
use wharf_kernel::netns;
use wharf_kernel::sys::net_device::loopback_up;
use wharf_kernel::sys::process::{CLONE_NEWNET, setns, unshare};

/// What must come comes long before.
const LONG: Duration = Duration::from_mins(1);

fn lab(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CLONE_NEWNET).and_then(|()| loopback_up()).unwrap();
            test();
        });
        thread.join().unwrap();
    });
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

/// What a server does with a question: the answers to send, as (bytes).
type Behaviour = Arc<dyn Fn(&Message) -> Vec<Vec<u8>> + Send + Sync>;

/// A name server on port 53 of an address of the calling thread's namespace.
struct Server {
    asked: Arc<Mutex<Vec<(Message, u16)>>>,
}

impl Server {
    fn start(address: [u8; 4], behaviour: Behaviour) -> Self {
        let address = IpAddr::from(address);
        let udp = UdpSocket::bind((address, 53)).unwrap();
        let tcp = TcpListener::bind((address, 53)).unwrap();
        let asked: Arc<Mutex<Vec<_>>> = Arc::default();
        let (log, by_datagram) = (Arc::clone(&asked), Arc::clone(&behaviour));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                for reply in by_datagram(&question) {
                    udp.send_to(&reply, from).unwrap();
                }
                log.lock().unwrap().push((question, from.port()));
            }
        });
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let question = read(&mut stream);
                // On a connection whatever is said is said in full.
                let mut reply = answer(&question, "192.0.2.99");
                if behaviour(&question).is_empty() {
                    continue;
                }
                reply.metadata.id = question.metadata.id;
                write(&mut stream, &reply);
                log.lock().unwrap().push((question, 0));
            }
        });
        Self { asked }
    }

    fn asked(&self) -> Vec<(Message, u16)> {
        self.asked.lock().unwrap().clone()
    }
}

fn read(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes).unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn write(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&bytes).unwrap();
}

fn answer(question: &Message, address: &str) -> Message {
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.add_query(question.queries[0].clone());
    let data = RData::A(address.parse().unwrap());
    reply.add_answer(Data::from_rdata(question.queries[0].name().clone(), 5, data));
    reply
}

fn says(address: &'static str) -> Behaviour {
    Arc::new(move |question| vec![answer(question, address).to_vec().unwrap()])
}

fn silent() -> Behaviour {
    Arc::new(|_| Vec::new())
}

fn question(name: &str) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

struct Container {
    id: String,
    namespace: OwnedFd,
}

struct Host {
    names: Names,
    net: Net,
}

impl Host {
    fn new(servers: &[[u8; 4]]) -> Self {
        let servers: Vec<_> = servers.iter().map(|ip| (IpAddr::from(*ip), 53).into()).collect();
        let given = AtomicUsize::new(0);
        let look = move || (given.fetch_add(1, Ordering::Relaxed) == 0).then(|| servers.clone());
        Self { names: Names::new(HostServers::new(Box::new(look))), net: Net::open("names").unwrap() }
    }

    fn container(&self, id: &str, upstream: Upstream, outside: bool) -> Container {
        let namespace = netns::create().unwrap();
        let address = IpAddr::from([10, 0, 0, u8::try_from(self.names.len() + 2).unwrap()]);
        let records =
            vec![Record { names: vec![id.into(), "all".into()], addresses: vec![address], ttl: 600 }];
        let place = Place { network: "n".into(), name: "net".into(), records, links: Vec::new() };
        let presence = Presence { places: vec![place], upstream, outside, keep_single: false };
        self.names.publish(id, presence);
        self.names.serve(id, self.net.open_names(namespace.as_fd()).unwrap()).unwrap();
        Container { id: id.to_owned(), namespace }
    }
}

impl Container {
    /// Asks by datagram.
    fn ask(&self, message: &Message) -> Message {
        inside(&self.namespace, || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect((NAME_SERVER, 53)).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            socket.send(&message.to_vec().unwrap()).unwrap();
            let mut buffer = vec![0; 65_535];
            let length = socket.recv(&mut buffer).unwrap();
            let reply = Message::from_vec(&buffer[..length]).unwrap();
            assert_eq!(reply.metadata.id, message.metadata.id);
            reply
        })
    }

    fn find(&self, name: &str) -> String {
        let reply = self.ask(&question(name));
        match reply.answers.first() {
            Some(first) => first.data.to_string(),
            None => reply.metadata.response_code.to_string(),
        }
    }

    /// Asks on one connection.
    fn converse(&self, messages: &[Message]) -> Vec<Message> {
        inside(&self.namespace, || {
            let mut stream = TcpStream::connect((NAME_SERVER, 53)).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            for message in messages {
                write(&mut stream, message);
            }
            messages.iter().map(|_| read(&mut stream)).collect()
        })
    }
}

#[test]
fn what_is_no_containers_name_is_asked_of_the_hosts_servers() {
    lab(|| {
        let server = Server::start([127, 0, 0, 53], says("192.0.2.1"));
        let host = Host::new(&[[127, 0, 0, 53]]);
        let web = host.container("web", Upstream::Host, true);
        assert_eq!(web.find("web."), "10.0.0.2");
        assert_eq!(server.asked().len(), 0, "names of containers are nobody else's matter");
        let mut asked = question("example.org.");
        let mut edns = Edns::new();
        edns.set_max_payload(1400).set_dnssec_ok(true);
        asked.set_edns(edns);
        assert_eq!(web.ask(&asked).answers[0].data.to_string(), "192.0.2.1");
        let (seen, _) = server.asked().remove(0);
        assert_eq!(seen.queries, asked.queries);
        let edns = seen.edns.unwrap();
        assert!(edns.max_payload() == 1400 && edns.flags().dnssec_ok);
        for _ in 0..20 {
            web.find("example.org.");
        }
        // Who would answer in the server's place has to guess both.
        let asked = server.asked();
        let ports: std::collections::BTreeSet<u16> = asked.iter().map(|(_, port)| *port).collect();
        let ids: std::collections::BTreeSet<u16> = asked.iter().map(|(m, _)| m.metadata.id).collect();
        assert!(ports.len() > 15 && ids.len() > 15, "{ports:?} {ids:?}");
    });
}

#[test]
fn long_answers_come_on_connections() {
    lab(|| {
        let cut: Behaviour = Arc::new(|question| {
            let mut reply = answer(question, "192.0.2.1");
            reply.answers.clear();
            reply.metadata.truncation = true;
            vec![reply.to_vec().unwrap()]
        });
        let server = Server::start([127, 0, 0, 53], cut);
        let host = Host::new(&[[127, 0, 0, 53]]);
        let web = host.container("web", Upstream::Host, true);
        assert!(web.ask(&question("example.org.")).metadata.truncation);
        let replies =
            web.converse(&[question("example.org."), question("web."), question("nosuch.example.")]);
        assert_eq!(replies[0].answers[0].data.to_string(), "192.0.2.99");
        assert_eq!(replies[1].answers[0].data.to_string(), "10.0.0.2");
        assert_eq!(server.asked().iter().filter(|(_, port)| *port == 0).count(), 2);
    });
}

#[test]
fn one_server_that_is_silent_is_no_obstacle() {
    lab(|| {
        let (_one, two) =
            (Server::start([127, 0, 0, 51], silent()), Server::start([127, 0, 0, 52], says("192.0.2.2")));
        // Nobody is at the first one.
        let host = Host::new(&[[127, 0, 0, 50], [127, 0, 0, 51], [127, 0, 0, 52]]);
        let web = host.container("web", Upstream::Host, true);
        assert_eq!(web.find("example.org."), "192.0.2.2");
        assert_eq!(web.converse(&[question("b.example.")])[0].answers[0].data.to_string(), "192.0.2.99");
        assert_eq!(two.asked().len(), 2);
        // All silent: a clear answer, and names of containers meanwhile.
        let host = Host::new(&[[127, 0, 0, 51]]);
        let db = host.container("db", Upstream::Host, true);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| db.find("example.org."));
            assert_eq!(db.find("db."), "10.0.0.2");
            assert_eq!(waiting.join().unwrap(), ResponseCode::ServFail.to_string());
        });
    });
}

#[test]
fn refusals_lead_to_the_next_server() {
    lab(|| {
        let refuse: Behaviour = Arc::new(|question| {
            let mut reply = answer(question, "192.0.2.1");
            reply.answers.clear();
            reply.metadata.response_code = ResponseCode::Refused;
            vec![reply.to_vec().unwrap()]
        });
        let _one = Server::start([127, 0, 0, 51], Arc::clone(&refuse));
        let two = Server::start([127, 0, 0, 52], says("192.0.2.2"));
        let host = Host::new(&[[127, 0, 0, 51], [127, 0, 0, 52]]);
        let web = host.container("web", Upstream::Host, true);
        assert_eq!(web.find("example.org."), "192.0.2.2");
        assert_eq!(two.asked().len(), 1);
        let host = Host::new(&[[127, 0, 0, 51]]);
        let db = host.container("db", Upstream::Host, true);
        assert_eq!(db.find("example.org."), ResponseCode::Refused.to_string());
    });
}

#[test]
fn forged_answers_are_not_taken() {
    lab(|| {
        let forged: Behaviour = Arc::new(|question| {
            let mut other_id = answer(question, "6.6.6.6");
            other_id.metadata.id = question.metadata.id.wrapping_add(1);
            let mut other_name = answer(question, "6.6.6.6");
            other_name.queries[0].set_name(Name::from_ascii("evil.example.").unwrap());
            let mut no_question = answer(question, "6.6.6.6");
            no_question.queries.clear();
            let mut bytes: Vec<Vec<u8>> =
                [other_id, other_name, no_question].iter().map(|m| m.to_vec().unwrap()).collect();
            bytes.push(b"noise".to_vec());
            bytes.push(answer(question, "192.0.2.1").to_vec().unwrap());
            bytes
        });
        let _server = Server::start([127, 0, 0, 53], forged);
        let host = Host::new(&[[127, 0, 0, 53]]);
        let web = host.container("web", Upstream::Host, true);
        assert_eq!(web.find("example.org."), "192.0.2.1");
    });
}

#[test]
fn without_a_way_outside_the_hosts_servers_are_not_asked() {
    lab(|| {
        let server = Server::start([127, 0, 0, 53], says("192.0.2.1"));
        let host = Host::new(&[[127, 0, 0, 53]]);
        let web = host.container("web", Upstream::Host, false);
        assert_eq!(web.find("secret.example.org."), ResponseCode::ServFail.to_string());
        let reply = web.converse(&[question("secret.example.org.")]).remove(0);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(web.find("all."), "10.0.0.2");
        assert_eq!(server.asked().len(), 0);
    });
}

#[test]
fn a_containers_own_servers_are_asked_in_its_network() {
    lab(|| {
        let hosts = Server::start([127, 0, 0, 77], says("192.0.2.1"));
        let host = Host::new(&[]);
        let own = Upstream::Own(Servers::new([IpAddr::from([127, 0, 0, 77])]));
        let web = host.container("web", own.clone(), false);
        // The same address, inside: what is there is asked.
        let its = inside(&web.namespace, || Server::start([127, 0, 0, 77], says("192.0.2.7")));
        assert_eq!(web.find("example.org."), "192.0.2.7");
        assert_eq!(web.converse(&[question("b.example.")])[0].answers.len(), 1);
        assert_eq!((its.asked().len(), hosts.asked().len()), (2, 0));
        // Another container has its own loopback, where nobody is.
        let db = host.container("db", own, false);
        assert_eq!(db.find("example.org."), ResponseCode::ServFail.to_string());
    });
}

#[test]
fn a_flood_takes_nothing_from_others() {
    lab(|| {
        let _server = Server::start([127, 0, 0, 53], silent());
        let host = Host::new(&[[127, 0, 0, 53]]);
        let evil = host.container("evil", Upstream::Host, true);
        let good = host.container("good", Upstream::Host, true);
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = descriptors();
        let most = AtomicUsize::new(0);
        inside(&evil.namespace, || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect((NAME_SERVER, 53)).unwrap();
            socket.set_nonblocking(true).unwrap();
            let mut connections = Vec::new();
            for round in 0..60 {
                for n in 0..500 {
                    let asked = question(&format!("x{round}-{n}.example.")).to_vec().unwrap();
                    // Full: as it should be.
                    let _ = socket.send(&asked);
                    let _ = socket.send(&asked[..asked.len() / 2]);
                }
                // Connections that say that much comes, and stay.
                if let Ok(mut stream) = TcpStream::connect((NAME_SERVER, 53)) {
                    let _ = stream.write_all(&[0xff, 0xff, 0]);
                    connections.push(stream);
                }
                if round % 10 == 9 {
                    assert!(matches!(good.find("all.").as_str(), "10.0.0.2" | "10.0.0.3"));
                    assert_eq!(
                        good.converse(&[question("good.")])[0].answers[0].data.to_string(),
                        "10.0.0.3"
                    );
                }
                most.fetch_max(descriptors(), Ordering::Relaxed);
            }
        });
        let most = most.into_inner() - before;
        // 256 questions with three sockets each, 32 connections on both sides, and what the test itself has open.
        assert!(most < 256 * 3 + 200, "{most} descriptors");
        // Its end is the end of all that it began.
        host.names.withdraw(&evil.id);
        let end = std::time::Instant::now() + LONG;
        while descriptors() > before {
            assert!(std::time::Instant::now() < end, "{} descriptors", descriptors() - before);
            good.find("good.");
        }
    });
}

#[test]
fn sockets_are_taken_over() {
    lab(|| {
        let host = Host::new(&[]);
        let namespace = netns::create().unwrap();
        let sockets = host.net.open_names(namespace.as_fd()).unwrap();
        let copies = wharf_kernel::net::NameSockets {
            udp: sockets.udp.try_clone().unwrap(),
            tcp: sockets.tcp.try_clone().unwrap(),
        };
        let record =
            Record { names: vec!["web".into()], addresses: vec![Ipv4Addr::LOCALHOST.into()], ttl: 1 };
        let place = Place { network: "n".into(), name: "net".into(), records: vec![record], links: vec![] };
        let presence = Presence { places: vec![place], ..Presence::default() };
        // The first one never serves: as a daemon that dies.
        drop(sockets);
        let web = Container { id: "web".into(), namespace };
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| web.find("web."));
            let connected = scope.spawn(|| web.converse(&[question("web.")]).remove(0));
            let next = Host::new(&[]);
            next.names.publish(&web.id, presence);
            next.names.serve(&web.id, copies).unwrap();
            assert!(next.names.is_served("web"));
            assert_eq!(waiting.join().unwrap(), "127.0.0.1");
            assert_eq!(connected.join().unwrap().answers.len(), 1);
        });
    });
}
