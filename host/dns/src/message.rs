//! What a question says, and what is answered: bytes in, bytes out.
//!
//! Bytes come from hostile containers and from servers that somebody else runs. Whatever they hold is read piece by piece, so
//! that what a header promises costs nothing before it has been seen.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use rand::seq::SliceRandom;

use crate::view::{Found, View};

/// What every client of datagrams takes (RFC 1035).
const DATAGRAM: usize = 512;
/// Records beside the question that a question may have: OPT, a signature, a little more.
const BESIDE: u16 = 4;
/// Bytes that we say we take in a datagram.
const PAYLOAD: u16 = 1232;

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// A question that was understood.
#[derive(Debug, Clone)]
pub struct Question {
    header: Header,
    query: Query,
    /// The client speaks EDNS, and wants DNSSEC's records or not.
    edns: Option<bool>,
    /// Bytes that the client takes.
    limit: usize,
}

/// What is to be done with a question.
#[derive(Debug)]
pub enum Decision {
    /// Nothing: it is none.
    Drop,
    /// This is the answer.
    Reply(Vec<u8>),
    /// It is about none of the names here.
    Forward(Box<Question>),
}

/// What a name server said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Something, be it that there is no such name.
    Answer,
    /// That it cannot or will not say: another one may.
    Failure,
}

/// Decides on a question from what a container sees.
pub fn decide(view: &View, packet: &[u8], transport: Transport) -> Decision {
    let mut decoder = BinDecoder::new(packet);
    let Ok(header) = Header::read(&mut decoder) else { return Decision::Drop };
    // To answer an answer would make circles.
    if header.message_type == MessageType::Response {
        return Decision::Drop;
    }
    if header.op_code != OpCode::Query {
        return Decision::Reply(bare(&header, ResponseCode::NotImp));
    }
    let question = match read(header, &mut decoder, transport) {
        Ok(question) => question,
        Err(code) => return Decision::Reply(bare(&header, code)),
    };
    answer(view, question)
}

/// The question and what belongs to it.
fn read(
    header: Header,
    decoder: &mut BinDecoder<'_>,
    transport: Transport,
) -> Result<Question, ResponseCode> {
    let counts = header.counts;
    if counts.queries != 1 || counts.answers != 0 || counts.authorities > 1 || counts.additionals > BESIDE {
        return Err(ResponseCode::FormErr);
    }
    let malformed = |_| ResponseCode::FormErr;
    let query = Query::read(decoder).map_err(malformed)?;
    Message::read_records(decoder, counts.authorities.into(), false, header.op_code).map_err(malformed)?;
    let (_, edns, _) =
        Message::read_records(decoder, counts.additionals.into(), true, header.op_code).map_err(malformed)?;
    if edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Err(ResponseCode::BADVERS);
    }
    let limit = match (transport, &edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => DATAGRAM,
        (Transport::Udp, Some(edns)) => usize::from(edns.max_payload()).max(DATAGRAM),
    };
    Ok(Question { header, query, edns: edns.map(|edns| edns.flags().dnssec_ok), limit })
}

fn answer(view: &View, question: Question) -> Decision {
    let class = question.query.query_class();
    if !matches!(class, DNSClass::IN | DNSClass::ANY) {
        return Decision::Forward(Box::new(question));
    }
    let kind = question.query.query_type();
    if kind == RecordType::PTR {
        let known = address_of(question.query.name()).and_then(|address| view.address(address));
        return match known.and_then(|(name, ttl)| Some((fully(&name)?, ttl))) {
            Some((name, ttl)) => Decision::Reply(question.reply(vec![(RData::PTR(PTR(name)), ttl)])),
            None => Decision::Forward(Box::new(question)),
        };
    }
    let Some(name) = text(question.query.name()) else { return Decision::Forward(Box::new(question)) };
    match view.name(&name) {
        Found::Name(mut addresses, ttl) => {
            addresses.retain(|address| match kind {
                RecordType::A => address.is_ipv4(),
                RecordType::AAAA => address.is_ipv6(),
                RecordType::ANY => true,
                // There is such a name, and it has nothing else: others are not asked, who would deny it.
                _ => false,
            });
            addresses.shuffle(&mut rand::rng());
            let data = addresses.into_iter().map(|address| match address {
                IpAddr::V4(ip) => (RData::A(A(ip)), ttl),
                IpAddr::V6(ip) => (RData::AAAA(AAAA(ip)), ttl),
            });
            Decision::Reply(question.reply(data.collect()))
        }
        Found::Nothing => {
            let address = matches!(kind, RecordType::A | RecordType::AAAA);
            if view.keep_single && address && !name.contains('.') {
                return Decision::Reply(question.reply(Vec::new()));
            }
            Decision::Forward(Box::new(question))
        }
    }
}

/// A name as it is looked up; None where it holds what no container's name does.
fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(64);
    for label in name {
        if !text.is_empty() {
            text.push('.');
        }
        let label = std::str::from_utf8(label).ok().filter(|label| !label.contains('.'))?;
        text.extend(label.chars().map(|c| c.to_ascii_lowercase()));
    }
    (!text.is_empty()).then_some(text)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` is about.
fn address_of(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

/// A name for an answer. Container names may hold what host names may not, such as underscores.
fn fully(name: &str) -> Option<Name> {
    let mut made = Name::from_labels(name.split('.').map(str::as_bytes)).ok()?;
    made.set_fqdn(true);
    Some(made)
}

fn response(header: &Header, code: ResponseCode) -> Message {
    let mut message = Message::error_msg(header.id, header.op_code, code);
    message.metadata.recursion_desired = header.recursion_desired;
    message.metadata.checking_disabled = header.checking_disabled;
    message.metadata.recursion_available = true;
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    // What is written was read before or is short; nothing would be sent if it could not be.
    message.to_vec().unwrap_or_default()
}

/// An answer to what could not be read as a question.
fn bare(header: &Header, code: ResponseCode) -> Vec<u8> {
    let mut message = response(header, code);
    if code.high() != 0 {
        message.set_edns(our_edns(false));
    }
    bytes(&message)
}

fn our_edns(dnssec: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_version(0).set_dnssec_ok(dnssec);
    edns
}

impl Question {
    /// The client's number for it.
    pub fn id(&self) -> u16 {
        self.header.id
    }

    /// What is asked, for logs.
    pub fn query(&self) -> &Query {
        &self.query
    }

    fn message(&self, code: ResponseCode) -> Message {
        let mut message = response(&self.header, code);
        message.add_query(self.query.clone());
        if let Some(dnssec) = self.edns {
            message.set_edns(our_edns(dnssec));
        }
        message
    }

    /// An answer with these records, as many as the client takes.
    fn reply(&self, data: Vec<(RData, u32)>) -> Vec<u8> {
        let mut message = self.message(ResponseCode::NoError);
        let record = |(data, ttl)| Record::from_rdata(self.query.name().clone(), ttl, data);
        message.add_answers(data.into_iter().map(record));
        loop {
            let written = bytes(&message);
            let count = message.answers.len();
            if written.len() <= self.limit || count == 0 {
                return written;
            }
            // As many as their share of the bytes; the writer may have shortened the first ones' names more than the last.
            message.metadata.truncation = true;
            message.answers.truncate((count * self.limit / written.len()).min(count - 1));
        }
    }

    /// That no answer could be had.
    pub fn failure(&self) -> Vec<u8> {
        bytes(&self.message(ResponseCode::ServFail))
    }

    /// Whether a packet with this number is an answer to this question, and of what kind.
    pub fn answered_by(&self, id: u16, packet: &[u8]) -> Option<Said> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).ok()?;
        if header.id != id || header.message_type != MessageType::Response || header.op_code != OpCode::Query
        {
            return None;
        }
        let failure = matches!(header.response_code, ResponseCode::ServFail | ResponseCode::Refused);
        match header.counts.queries {
            1 => {
                let query = Query::read(&mut decoder).ok()?;
                let same = query.name() == self.query.name()
                    && query.query_type() == self.query.query_type()
                    && query.query_class() == self.query.query_class();
                same.then_some(if failure { Said::Failure } else { Said::Answer })
            }
            // Some servers refuse without repeating the question. More than that is not believed without it.
            0 => (header.response_code != ResponseCode::NoError).then_some(Said::Failure),
            _ => None,
        }
    }

    /// A server's answer, for the client: under its number, and no longer than it takes.
    pub fn passed_on(&self, mut packet: Vec<u8>) -> Vec<u8> {
        if packet.len() > self.limit {
            let mut decoder = BinDecoder::new(&packet);
            let code =
                Header::read(&mut decoder).map_or(ResponseCode::ServFail, |header| header.response_code);
            let mut message = self.message(code);
            message.metadata.truncation = true;
            return bytes(&message);
        }
        renumber(&mut packet, self.header.id);
        packet
    }
}

/// Puts a number into a message.
pub(crate) fn renumber(packet: &mut [u8], id: u16) {
    for (to, from) in packet.iter_mut().zip(id.to_be_bytes()) {
        *to = from;
    }
}
