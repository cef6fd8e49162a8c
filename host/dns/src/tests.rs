//! Names, views and messages without a socket.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;

use crate::message::{Decision, Question, Said, Transport, decide};
use crate::{Found, HostServers, Names, Place, Presence, Record, Zone};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn record(names: &[&str], addresses: &[&str]) -> Record {
    Record {
        names: names.iter().map(|n| (*n).to_owned()).collect(),
        addresses: addresses.iter().map(|a| ip(a)).collect(),
        ttl: 600,
    }
}

fn place(network: &str, records: &[Record], links: &[(&str, &str)]) -> Place {
    Place {
        network: format!("{}-id", network.to_lowercase()),
        name: network.to_owned(),
        records: records.to_vec(),
        links: links.iter().map(|(a, n)| ((*a).to_owned(), (*n).to_owned())).collect(),
    }
}

fn at(places: &[Place]) -> Presence {
    Presence { places: places.to_vec(), outside: true, ..Presence::default() }
}

fn names() -> Names {
    Names::new(HostServers::new(Box::new(|| None)))
}

fn found(names: &Names, who: &str, name: &str) -> Vec<String> {
    match names.view(who).unwrap().name(name) {
        Found::Name(all, _) => all.iter().map(ToString::to_string).collect(),
        Found::Nothing => vec!["nothing".to_owned()],
    }
}

#[test]
fn each_sees_the_names_of_its_own_networks() {
    let all = names();
    all.publish("web", at(&[place("Front", &[record(&["web", "www"], &["10.0.0.2", "fd00::2"])], &[])]));
    all.publish(
        "proxy",
        at(&[
            place("front", &[record(&["proxy"], &["10.0.0.3"])], &[]),
            place("back", &[record(&["proxy"], &["10.1.0.3"])], &[("store", "DB")]),
        ]),
    );
    all.publish("db", at(&[place("back", &[record(&["db"], &["10.1.0.2"])], &[])]));
    assert_eq!(found(&all, "proxy", "www"), ["10.0.0.2", "fd00::2"]);
    assert_eq!(found(&all, "proxy", "db"), ["10.1.0.2"]);
    assert_eq!(found(&all, "db", "web"), ["nothing"]);
    assert_eq!(found(&all, "web", "db"), ["nothing"]);
    // The network's own name behind it, whatever its case.
    assert_eq!(found(&all, "proxy", "db.back"), ["10.1.0.2"]);
    assert_eq!(found(&all, "web", "web.front"), ["10.0.0.2", "fd00::2"]);
    assert_eq!(found(&all, "proxy", "db.front"), ["nothing"]);
    // In two networks: the one that comes first.
    assert_eq!(found(&all, "proxy", "proxy"), ["10.0.0.3"]);
    assert_eq!(found(&all, "proxy", "proxy.back"), ["10.1.0.3"]);
    // A link is for who has it.
    assert_eq!(found(&all, "proxy", "store"), ["10.1.0.2"]);
    assert_eq!(found(&all, "db", "store"), ["nothing"]);
    let reverse =
        |who: &str, address: &str| all.view(who).unwrap().address(ip(address)).map(|(name, _)| name);
    assert_eq!(reverse("proxy", "10.0.0.2").as_deref(), Some("web.front"));
    assert_eq!(reverse("proxy", "fd00::2").as_deref(), Some("web.front"));
    assert_eq!(reverse("db", "10.0.0.2"), None);
}

#[test]
fn changes_are_seen_at_once() {
    let all = names();
    let net = |records: &[Record]| at(&[place("net", records, &[])]);
    all.publish("a", net(&[record(&["a", "both"], &["10.0.0.2"])]));
    all.publish("b", net(&[record(&["b", "both"], &["10.0.0.3"])]));
    assert_eq!(found(&all, "a", "both"), ["10.0.0.2", "10.0.0.3"]);
    // Another name, another address.
    all.publish("b", net(&[record(&["c"], &["10.0.0.4"])]));
    assert_eq!(found(&all, "a", "both"), ["10.0.0.2"]);
    assert_eq!(found(&all, "a", "b"), ["nothing"]);
    assert_eq!(found(&all, "a", "c"), ["10.0.0.4"]);
    let before = all.view("a").unwrap();
    all.withdraw("b");
    assert_eq!(found(&all, "a", "c"), ["nothing"]);
    assert_eq!(before.name("c"), Found::Nothing, "a view follows its networks");
    // Out of the network, into another.
    all.publish("a", at(&[place("other", &[record(&["a"], &["10.9.0.2"])], &[])]));
    all.publish("d", net(&[record(&["d"], &["10.0.0.5"])]));
    assert_eq!(found(&all, "d", "a"), ["nothing"]);
    assert_eq!(found(&all, "a", "d"), ["nothing"]);
    for who in ["a", "d"] {
        all.withdraw(who);
    }
    assert!(all.is_empty() && all.view("a").is_none());
}

#[test]
fn names_with_dots() {
    let all = names();
    all.publish(
        "a",
        at(&[
            place("c.d", &[record(&["a.b"], &["10.0.0.1"])], &[]),
            place("b.c.d", &[record(&["a"], &["10.0.0.2"])], &[]),
        ]),
    );
    assert_eq!(found(&all, "a", "a.b"), ["10.0.0.1"]);
    assert_eq!(found(&all, "a", "a.b.c.d"), ["10.0.0.2"], "the shorter name first");
    assert_eq!(found(&all, "a", ".c.d"), ["nothing"]);
}

fn ask(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn decided(all: &Names, who: &str, message: &Message, transport: Transport) -> Decision {
    decide(&all.view(who).unwrap(), &message.to_vec().unwrap(), transport)
}

fn answered(decision: &Decision) -> Message {
    let Decision::Reply(reply) = decision else { panic!("{decision:?}") };
    Message::from_vec(reply).unwrap()
}

fn some() -> Names {
    let all = names();
    all.publish("web", at(&[place("net", &[record(&["web", "my_web"], &["10.0.0.2"])], &[])]));
    all.publish("two", at(&[place("net", &[record(&["two", "web"], &["10.0.0.3"])], &[])]));
    all
}

#[test]
fn answers() {
    let all = some();
    let reply = answered(&decided(&all, "two", &ask("WeB.", RecordType::A), Transport::Udp));
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (0x1234, MessageType::Response));
    assert!(reply.metadata.recursion_available && reply.metadata.recursion_desired);
    assert!(!reply.metadata.truncation && reply.metadata.response_code == ResponseCode::NoError);
    let mut all_data: Vec<String> = reply.answers.iter().map(|r| r.data.to_string()).collect();
    all_data.sort();
    assert_eq!(all_data, ["10.0.0.2", "10.0.0.3"]);
    assert!(reply.answers.iter().all(|r| r.ttl == 600 && r.name.to_ascii() == "WeB."));
    // The name is known, and has no such data: nobody else is asked.
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::TXT, RecordType::HTTPS, RecordType::SRV] {
        let reply = answered(&decided(&all, "two", &ask("web.", kind), Transport::Udp));
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{kind}");
        assert!(reply.answers.is_empty());
    }
    let reply = answered(&decided(&all, "two", &ask("my_web.net.", RecordType::ANY), Transport::Udp));
    assert_eq!(reply.answers.len(), 1);
    let reply =
        answered(&decided(&all, "two", &ask("2.0.0.10.in-addr.arpa.", RecordType::PTR), Transport::Udp));
    assert_eq!(reply.answers[0].data.to_string(), "web.net.");
    // All else is others' matter.
    for (name, kind) in [
        ("nosuch.", RecordType::A),
        ("web.example.", RecordType::A),
        ("9.9.9.9.in-addr.arpa.", RecordType::PTR),
        ("web.in-addr.arpa.", RecordType::PTR),
        (".", RecordType::NS),
    ] {
        let decision = decided(&all, "two", &ask(name, kind), Transport::Udp);
        assert!(matches!(decision, Decision::Forward(_)), "{name} {kind}: {decision:?}");
    }
    let mut chaos = ask("web.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert!(matches!(decided(&all, "two", &chaos, Transport::Udp), Decision::Forward(_)));
}

#[test]
fn answers_go_round() {
    let all = some();
    let first = || {
        let reply = answered(&decided(&all, "two", &ask("web.", RecordType::A), Transport::Udp));
        reply.answers[0].data.to_string()
    };
    let firsts: std::collections::BTreeSet<String> = (0..100).map(|_| first()).collect();
    assert_eq!(firsts.len(), 2);
}

#[test]
fn names_of_one_word_are_kept() {
    let all = names();
    let mut presence = at(&[place("net", &[record(&["web"], &["10.0.0.2"])], &[])]);
    presence.keep_single = true;
    all.publish("web", presence);
    let reply = answered(&decided(&all, "web", &ask("nosuch.", RecordType::A), Transport::Udp));
    assert!(reply.answers.is_empty() && reply.metadata.response_code == ResponseCode::NoError);
    for (name, kind) in [("a.b.", RecordType::A), ("nosuch.", RecordType::MX)] {
        assert!(matches!(decided(&all, "web", &ask(name, kind), Transport::Udp), Decision::Forward(_)));
    }
}

#[test]
fn long_answers_are_cut() {
    let all = names();
    for n in 0..2000_u32 {
        let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        let records = [Record { names: vec!["many".into()], addresses: vec![address], ttl: 5 }];
        all.publish(&n.to_string(), at(&[place("net", &records, &[])]));
    }
    let sizes = [(None, 512), (Some(512), 512), (Some(100), 512), (Some(1232), 1232), (Some(4096), 4096)];
    for (payload, most) in sizes {
        let mut message = ask("many.", RecordType::A);
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let decision = decided(&all, "7", &message, Transport::Udp);
        let Decision::Reply(bytes) = &decision else { panic!() };
        let reply = answered(&decision);
        assert!(bytes.len() <= most && bytes.len() * 2 > most, "{payload:?}: {}", bytes.len());
        assert!(reply.metadata.truncation);
        assert_eq!(reply.edns.is_some(), payload.is_some());
    }
    let reply = answered(&decided(&all, "7", &ask("many.", RecordType::A), Transport::Tcp));
    assert_eq!(reply.answers.len(), 2000);
    assert!(!reply.metadata.truncation && reply.answers[0].ttl == 5);
}

#[test]
fn what_is_no_question() {
    let all = some();
    let view = all.view("web").unwrap();
    let said = |packet: &[u8]| match decide(&view, packet, Transport::Udp) {
        Decision::Drop => "drop".to_owned(),
        Decision::Forward(_) => "forward".to_owned(),
        Decision::Reply(reply) => Message::from_vec(&reply).unwrap().metadata.response_code.to_string(),
    };
    let good = ask("nosuch.", RecordType::A).to_vec().unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    assert_eq!(said(&good), "forward");
    assert_eq!(said(&[]), "drop");
    assert_eq!(said(&good[..11]), "drop");
    // An answer is not answered.
    assert_eq!(said(&with(2, &[0x81])), "drop");
    // Another operation: update.
    assert_eq!(said(&with(2, &[0x28])), ResponseCode::NotImp.to_string());
    let malformed = ResponseCode::FormErr.to_string();
    // No question, two, 65535 of them, or answers.
    for counts in [[0, 0, 0, 0], [0, 2, 0, 0], [0xff, 0xff, 0, 0], [0, 1, 0, 1], [0, 1, 0xff, 0xff]] {
        assert_eq!(said(&with(4, &counts)), malformed, "{counts:?}");
    }
    assert_eq!(said(&with(10, &[0xff, 0xff])), malformed);
    // A name that refers to itself, and one that ends nowhere.
    assert_eq!(said(&with(12, &[0xc0, 12])), malformed);
    assert_eq!(said(&good[..good.len() - 1]), malformed);
    let mut newer = ask("web.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    let packet = newer.to_vec().unwrap();
    let Decision::Reply(reply) = decide(&view, &packet, Transport::Udp) else { panic!() };
    // 16 also has another name.
    let code = u16::from(Message::from_vec(&reply).unwrap().metadata.response_code);
    assert_eq!(code, u16::from(ResponseCode::BADVERS));
}

fn forwarded(name: &str) -> Question {
    let all = some();
    match decided(&all, "web", &ask(name, RecordType::A), Transport::Udp) {
        Decision::Forward(question) => *question,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_answer_to_the_question_is_one() {
    let question = forwarded("example.org.");
    let reply = |id: u16, name: &str, code: ResponseCode| {
        let mut reply = ask(name, RecordType::A).into_response();
        reply.metadata.id = id;
        reply.metadata.response_code = code;
        reply
    };
    let judged = |reply: &Message| question.answered_by(7, &reply.to_vec().unwrap());
    assert_eq!(judged(&reply(7, "EXAMPLE.org.", ResponseCode::NoError)), Some(Said::Answer));
    assert_eq!(judged(&reply(7, "example.org.", ResponseCode::NXDomain)), Some(Said::Answer));
    assert_eq!(judged(&reply(7, "example.org.", ResponseCode::ServFail)), Some(Said::Failure));
    assert_eq!(judged(&reply(7, "example.org.", ResponseCode::Refused)), Some(Said::Failure));
    assert_eq!(judged(&reply(8, "example.org.", ResponseCode::NoError)), None);
    assert_eq!(judged(&reply(7, "evil.org.", ResponseCode::NoError)), None);
    let mut other = reply(7, "example.org.", ResponseCode::NoError);
    other.queries[0].set_query_type(RecordType::AAAA);
    assert_eq!(judged(&other), None);
    let mut bare = reply(7, "example.org.", ResponseCode::NoError);
    bare.queries.clear();
    assert_eq!(judged(&bare), None, "without the question nothing is believed");
    bare.metadata.response_code = ResponseCode::Refused;
    assert_eq!(judged(&bare), Some(Said::Failure));
    assert_eq!(judged(&ask("example.org.", RecordType::A)), None, "a question is no answer");
    assert_eq!(question.answered_by(7, b"x"), None);
}

#[test]
fn answers_are_passed_on_as_long_as_clients_take_them() {
    let question = forwarded("example.org.");
    let mut reply = ask("example.org.", RecordType::A).into_response();
    reply.metadata.id = 7;
    reply.metadata.response_code = ResponseCode::NXDomain;
    let short = reply.to_vec().unwrap();
    let passed = question.passed_on(short.clone());
    assert_eq!(passed[..2], [0x12, 0x34]);
    assert_eq!(passed[2..], short[2..]);
    for _ in 0..100 {
        let name = Name::from_ascii("example.org.").unwrap();
        let data = RData::A("192.0.2.1".parse().unwrap());
        reply.add_answer(hickory_proto::rr::Record::from_rdata(name, 5, data));
    }
    let cut = question.passed_on(reply.to_vec().unwrap());
    assert!(cut.len() <= 512);
    let cut = Message::from_vec(&cut).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty() && cut.queries.len() == 1);
    assert_eq!((cut.metadata.id, cut.metadata.response_code), (0x1234, ResponseCode::NXDomain));
    let failure = Message::from_vec(&question.failure()).unwrap();
    assert_eq!((failure.metadata.id, failure.metadata.response_code), (0x1234, ResponseCode::ServFail));
}

type Step = (u8, Option<Vec<(Vec<u8>, Vec<u8>)>>);

/// A container, and its records: names out of few, so that they meet.
fn step() -> impl Strategy<Value = Step> {
    let few = || prop::collection::vec(0_u8..6, 0..4);
    let records = prop::collection::vec((few(), few()), 0..3);
    (0_u8..5, prop::option::weighted(0.7, records))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// After any changes a zone is what all records that are still there make, whatever was there before.
    #[test]
    fn zones_are_what_their_records_say(steps in prop::collection::vec(step(), 0..40)) {
        let owner = |n: u8| -> Arc<str> { n.to_string().into() };
        let mut zone = Zone::default();
        let mut model: BTreeMap<u8, Vec<Record>> = BTreeMap::new();
        for (who, records) in steps {
            let records: Vec<Record> = records
                .unwrap_or_default()
                .iter()
                .map(|(names, addresses)| Record {
                    names: names.iter().map(|n| format!("N{n}")).collect(),
                    addresses: addresses.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect(),
                    ttl: 1,
                })
                .collect();
            let old = model.insert(who, records.clone()).unwrap_or_default();
            let last = zone.clone();
            zone = zone.without(&owner(who), &old).with(&owner(who), &records);
            // The value before is not touched.
            let _ = last;
        }
        for n in 0..6 {
            let mut wanted: Vec<IpAddr> = model
                .values()
                .flatten()
                .filter(|record| record.names.contains(&format!("N{n}")))
                .flat_map(|record| record.addresses.iter().copied())
                .collect();
            let mut found: Vec<IpAddr> =
                zone.targets(&format!("n{n}")).iter().flat_map(|t| t.addresses.iter().copied()).collect();
            wanted.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, wanted);
            let address = IpAddr::from([10, 0, 0, n]);
            let has_name = model.values().flatten().any(|r| r.addresses.contains(&address) && !r.names.is_empty());
            prop_assert_eq!(zone.called(address).is_some(), has_name);
        }
        for (who, records) in &model {
            zone = zone.without(&owner(*who), records);
        }
        prop_assert!(zone.is_empty());
    }
}
