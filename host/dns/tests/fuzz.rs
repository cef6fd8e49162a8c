//! What containers and name servers send, by chance: half well-formed, half damaged. `PROPTEST_CASES` sets how many of each; a
//! case that fails is made small and printed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, Record as Data, RecordType};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use wharf_dns::message::{Decision, Question, Transport, decide};
use wharf_dns::{HostServers, Names, Place, Presence, Record, View};

fn runner(cases: u32) -> TestRunner {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    TestRunner::new(Config { cases: asked.unwrap_or(cases), failure_persistence: None, ..Config::default() })
}

/// Names that exist, some that do not, and some that are odd.
fn name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "web",
        "WEB.net",
        "web.net.",
        "a.b",
        "2.0.0.10.in-addr.arpa",
        "example.org",
        "",
        "x.ip6.arpa",
    ]);
    prop_oneof![known.prop_map(str::to_owned), "[a-zA-Z0-9_.\\-]{0,80}"]
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(1_u16), Just(28), Just(12), Just(255), any::<u16>()];
    let parts = (any::<u16>(), name(), kind, prop::option::of(any::<u16>()), any::<bool>(), 0..3_usize);
    parts.prop_map(|(id, name, kind, payload, answer, records)| {
        let kind_of = if answer { MessageType::Response } else { MessageType::Query };
        let mut message = Message::new(id, kind_of, OpCode::Query);
        let name = Name::from_ascii(name).unwrap_or_default();
        message.add_query(Query::query(name.clone(), RecordType::from(kind)));
        for _ in 0..records {
            if answer {
                let data = RData::A("192.0.2.1".parse().unwrap());
                message.add_answer(Data::from_rdata(name.clone(), 1, data));
            }
        }
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message.to_vec().unwrap_or_default()
    })
}

/// Bytes put in, taken out, or changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (0_u8..4, any::<prop::sample::Index>(), any::<u8>());
    let damage = prop_oneof![1 => Just(Vec::new()), 3 => vec(change, 1..8)];
    prop_oneof![
        4 => (message(), damage).prop_map(|(mut bytes, damage)| {
            for (what, at, with) in damage {
                if bytes.is_empty() {
                    break;
                }
                let at = at.index(bytes.len());
                match what {
                    0 => bytes.truncate(at),
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, with),
                    _ => bytes[at] = with,
                }
            }
            bytes
        }),
        1 => vec(any::<u8>(), 0..600),
    ]
}

fn view() -> std::sync::Arc<View> {
    let names = Names::new(HostServers::new(Box::new(|| None)));
    let records = vec![Record {
        names: vec!["web".into(), "a.b".into()],
        addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        ttl: 600,
    }];
    let places = vec![Place { network: "n".into(), name: "net".into(), records, links: Vec::new() }];
    names.publish("c", Presence { places, outside: true, ..Presence::default() });
    names.view("c").unwrap()
}

#[test]
fn questions() {
    let view = view();
    let transport = prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)];
    runner(20_000)
        .run(&(damaged(), transport), |(packet, transport)| {
            match decide(&view, &packet, transport) {
                Decision::Drop => {}
                Decision::Reply(reply) => {
                    let read = Message::from_vec(&reply).expect("what is answered can be read");
                    assert_eq!(read.metadata.message_type, MessageType::Response);
                    assert_eq!(reply[..2], packet[..2], "under the client's number");
                    assert!(transport == Transport::Tcp || reply.len() <= 512 || read.edns.is_some());
                }
                Decision::Forward(question) => {
                    let failure = Message::from_vec(&question.failure()).expect("a failure can be read");
                    assert_eq!(failure.queries.len(), 1);
                    // Our own answers are none to the same question.
                    assert!(question.answered_by(question.id(), &packet).is_none());
                }
            }
            Ok(())
        })
        .unwrap();
}

fn forwarded() -> Question {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("example.org.").unwrap(), RecordType::A));
    match decide(&view(), &message.to_vec().unwrap(), Transport::Udp) {
        Decision::Forward(question) => *question,
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_of_servers() {
    let question = forwarded();
    runner(20_000)
        .run(&(damaged(), any::<u16>()), |(packet, id)| {
            let _ = question.answered_by(id, &packet);
            let length = packet.len();
            let passed = question.passed_on(packet);
            assert!(passed.len() <= 512 && (length > 512 || passed.len() == length));
            Ok(())
        })
        .unwrap();
}
