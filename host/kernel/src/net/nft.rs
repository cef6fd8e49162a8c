//! nftables messages and expressions, as far as the host's own table needs them.
//!
//! All numbers on this wire are big endian, except what is compared with a register.

use std::sync::Arc;

use super::Error;
use super::wire::{ACK, Batch, CREATE, DUMP, Socket, attribute};

const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM + 1;
const DELTABLE: u16 = SUBSYSTEM + 2;
const NEWCHAIN: u16 = SUBSYSTEM + 3;
const GETCHAIN: u16 = SUBSYSTEM + 4;
const NEWRULE: u16 = SUBSYSTEM + 6;
const DELRULE: u16 = SUBSYSTEM + 8;
const NEWSET: u16 = SUBSYSTEM + 9;
const NEWSETELEM: u16 = SUBSYSTEM + 12;
const DELSETELEM: u16 = SUBSYSTEM + 14;
const BEGIN: u16 = 0x10;
const END: u16 = 0x11;
/// `inet`: both IP families in one table.
const INET: u8 = 1;

/// Flags of a set.
pub(super) const INTERVAL: u32 = 4;
pub(super) const MAP: u32 = 8;
pub(super) const CONCAT: u32 = 0x80;
/// Type of data that is a verdict.
pub(super) const VERDICT: u32 = 0xffff_ff00;

/// Types of keys, for those who list the table.
pub(super) const TYPE_IPV4: u32 = 7;
pub(super) const TYPE_IPV6: u32 = 8;
pub(super) const TYPE_PROTOCOL: u32 = 12;
pub(super) const TYPE_PORT: u32 = 13;
pub(super) const TYPE_IFNAME: u32 = 41;

/// Keys of `meta`.
pub(super) const META_IIF: u32 = 4;
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const META_OIFNAME: u32 = 7;
pub(super) const META_IIFGROUP: u32 = 21;
pub(super) const META_OIFGROUP: u32 = 22;
pub(super) const META_NFPROTO: u32 = 15;
pub(super) const META_L4PROTO: u32 = 16;

/// The first 4-byte register; keys are put together from here on.
pub(super) const REG: u32 = 8;

pub(super) const IPV4: u8 = 2;
pub(super) const IPV6: u8 = 10;

/// Opens a transaction on a table.
pub(super) fn begin(table: &Arc<str>) -> Batch {
    let mut batch = Batch::of(table);
    batch.message(BEGIN, 0, "begin", &[0, 0, 0, 10], |_| {});
    batch
}

/// Closes a transaction and commits it: all of it or nothing.
pub(super) fn commit(socket: &mut Socket, mut batch: Batch) -> Result<(), super::wire::Failure> {
    let broken = |error| super::wire::Failure { number: 0, errno: libc::EIO, error };
    // Only the last message is acknowledged, and no kernel before 6.10 acknowledges the end of a transaction. A
    // question that changes nothing (the table itself, made if missing) is that last message.
    table(&mut batch);
    let mut failures = end(socket, batch).map_err(broken)?;
    if failures.is_empty() { Ok(()) } else { Err(failures.swap_remove(0)) }
}

/// As [`commit`], of a transaction that leaves no table to make: the refused messages.
pub(super) fn end(socket: &mut Socket, mut batch: Batch) -> Result<Vec<super::wire::Failure>, Error> {
    batch.acknowledge_last();
    let last = batch.len() - 1;
    batch.message(END, 0, "commit", &[0, 0, 0, 10], |_| {});
    socket.exchange_until(&batch, last)
}

/// Asks for all tables.
pub(super) fn list_tables(batch: &mut Batch) {
    batch.message(GETTABLE, DUMP, "list the filter's tables", &fixed(), |_| {});
}

fn fixed() -> [u8; 4] {
    [INET, 0, 0, 0]
}

pub(super) fn table(batch: &mut Batch) {
    batch.message(NEWTABLE, CREATE, "make the filter's table", &fixed(), |batch| {
        batch.own_table();
        batch.be32(2, 0);
    });
}

pub(super) fn delete_table(batch: &mut Batch) {
    batch.message(DELTABLE, 0, "remove the filter's table", &fixed(), Batch::own_table);
}

/// Whether a chain is there.
pub(super) fn has_chain(socket: &mut Socket, table: &Arc<str>, name: &str) -> Result<bool, Error> {
    let mut batch = Batch::of(table);
    batch.message(GETCHAIN, ACK, "look for a chain", &fixed(), |batch| {
        batch.own_table();
        batch.text(3, name);
    });
    match socket.ask(&batch, |_, _| {}) {
        Ok(()) => Ok(true),
        Err(failure) if failure.errno == libc::ENOENT => Ok(false),
        Err(failure) => Err(failure.error),
    }
}

/// Where a base chain sits.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) kind: &'static str,
    /// 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub(super) hook: u32,
    pub(super) priority: i32,
}

pub(super) fn chain(batch: &mut Batch, name: &str, at: Option<At>) {
    batch.message(NEWCHAIN, CREATE, format!("make chain {name}"), &fixed(), |batch| {
        batch.own_table();
        batch.text(3, name);
        if let Some(at) = at {
            batch.nested(4, |batch| {
                batch.be32(1, at.hook);
                batch.be32(2, at.priority.cast_unsigned());
            });
            batch.be32(5, 1);
            batch.text(7, at.kind);
        }
    });
}

/// Adds a rule at the end of a chain.
pub(super) fn rule(batch: &mut Batch, chain: &str, comment: &str, expressions: impl FnOnce(&mut Rule<'_>)) {
    batch.message(
        NEWRULE,
        CREATE | super::wire::APPEND,
        format!("add a rule to {chain}"),
        &fixed(),
        |batch| {
            batch.own_table();
            batch.text(2, chain);
            batch.nested(4, |batch| expressions(&mut Rule(batch)));
            if !comment.is_empty() {
                // As `nft` writes comments: type 0, length, text with its end.
                let mut data = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
                data.extend(comment.bytes().take(254));
                data.push(0);
                batch.attr(7, &data);
            }
        },
    );
}

/// Removes all rules of a chain.
pub(super) fn clear(batch: &mut Batch, chain: &str) {
    batch.message(DELRULE, 0, format!("clear {chain}"), &fixed(), |batch| {
        batch.own_table();
        batch.text(2, chain);
    });
}

/// What a set or map holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// Type and length of each part of the key.
    pub(super) key: &'static [(u32, u32)],
    pub(super) interval: bool,
    /// Type and length of the data of a map.
    pub(super) data: Option<(u32, u32)>,
}

/// Makes a set or map. `number` tells those of one transaction apart.
pub(super) fn set(batch: &mut Batch, shape: &Shape, number: u32) {
    batch.message(NEWSET, CREATE, format!("make set {}", shape.name), &fixed(), |batch| {
        let concat = shape.interval && shape.key.len() > 1;
        let flags = if shape.interval { INTERVAL } else { 0 }
            | if concat { CONCAT } else { 0 }
            | if shape.data.is_some() { MAP } else { 0 };
        batch.own_table();
        batch.text(2, shape.name);
        batch.be32(3, flags);
        batch.be32(4, shape.key.iter().fold(0, |all, (kind, _)| all << 6 | kind));
        batch.be32(5, shape.key.iter().map(|(_, length)| length.next_multiple_of(4)).sum());
        if let Some((kind, length)) = shape.data {
            batch.be32(6, kind);
            // The length of a verdict is the kernel's own matter.
            batch.be32(7, if kind == VERDICT { 0 } else { length });
        }
        if concat {
            batch.nested(9, |batch| {
                batch.nested(2, |batch| {
                    for (_, length) in shape.key {
                        batch.nested(1, |batch| batch.be32(1, *length));
                    }
                });
            });
        }
        batch.be32(10, number);
        if shape.key == [(TYPE_IFNAME, 16)] {
            // For those who list the set: the key (0) is in the host's byte order (1).
            let order = 1_u32.to_ne_bytes();
            batch.attr(13, &[&[0, 4], order.as_slice()].concat());
        }
    });
}

/// What an element of a map leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    None,
    Bytes(Vec<u8>),
    Verdict(i32, &'static str),
}

pub(super) const DROP: Data = Data::Verdict(0, "");
pub(super) const ACCEPT: Data = Data::Verdict(1, "");
const JUMP: i32 = -3;
const GOTO: i32 = -4;

pub(super) const fn goto(chain: &'static str) -> Data {
    Data::Verdict(GOTO, chain)
}

/// One element: a key, or the first and last key of an interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    pub(super) last: Option<Vec<u8>>,
    pub(super) data: Data,
}

/// Elements of one message: an attribute ends at 64 KiB.
const ELEMENTS: usize = 256;

/// Adds or removes elements.
pub(super) fn elements(batch: &mut Batch, add: bool, shape: &Shape, elements: &[Element]) {
    let (kind, flags, verb) = if add { (NEWSETELEM, CREATE, "to") } else { (DELSETELEM, 0, "from") };
    for part in elements.chunks(ELEMENTS) {
        let verb = if add { format!("add {} elements {verb}", part.len()) } else { format!("remove {verb}") };
        batch.message(kind, flags, format!("{verb} {}", shape.name), &fixed(), |batch| {
            batch.own_table();
            batch.text(2, shape.name);
            batch.nested(3, |batch| {
                for one in part {
                    element(batch, shape, one);
                }
            });
        });
    }
}

fn element(batch: &mut Batch, shape: &Shape, one: &Element) {
    let single = shape.interval && shape.key.len() == 1;
    batch.nested(1, |batch| {
        batch.nested(1, |batch| batch.attr(1, &one.key));
        if let Some(last) = one.last.as_ref().filter(|_| !single) {
            batch.nested(10, |batch| batch.attr(1, last));
        }
        data(batch, 2, &one.data);
    });
    // With one field an interval is two elements, the second of them the first key after it.
    if let Some(after) = one.last.as_deref().filter(|_| single).and_then(successor) {
        batch.nested(1, |batch| {
            batch.nested(1, |batch| batch.attr(1, &after));
            batch.be32(3, 1);
        });
    }
}

fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return Some(next);
        }
    }
    None
}

fn data(batch: &mut Batch, kind: u16, data: &Data) {
    match data {
        Data::None => {}
        Data::Bytes(bytes) => batch.nested(kind, |batch| batch.attr(1, bytes)),
        Data::Verdict(code, chain) => batch.nested(kind, |batch| verdict(batch, *code, chain)),
    }
}

fn verdict(batch: &mut Batch, code: i32, chain: &str) {
    batch.nested(2, |batch| {
        batch.be32(1, code.cast_unsigned());
        if !chain.is_empty() {
            batch.text(2, chain);
        }
    });
}

/// A name of a link as the kernel compares it.
pub(super) fn ifname(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    bytes
}

/// The expressions of a rule. Each either passes, fills a register, or ends the rule.
#[derive(Debug)]
pub(super) struct Rule<'a>(&'a mut Batch);

impl Rule<'_> {
    fn expression(&mut self, name: &str, body: impl FnOnce(&mut Batch)) -> &mut Self {
        self.0.nested(1, |batch| {
            batch.text(1, name);
            batch.nested(2, body);
        });
        self
    }

    pub(super) fn meta(&mut self, key: u32, register: u32) -> &mut Self {
        self.expression("meta", |batch| {
            batch.be32(2, key);
            batch.be32(1, register);
        })
    }

    /// Bytes of the network (1) or transport (2) header.
    pub(super) fn payload(&mut self, base: u32, offset: u32, length: u32, register: u32) -> &mut Self {
        self.expression("payload", |batch| {
            batch.be32(1, register);
            batch.be32(2, base);
            batch.be32(3, offset);
            batch.be32(4, length);
        })
    }

    /// Writes a register over bytes of the transport header, whose checksum (at `checksum`) is put right.
    pub(super) fn rewrite_transport(&mut self, offset: u32, length: u32, register: u32, checksum: u32) {
        self.expression("payload", |batch| {
            batch.be32(5, register);
            batch.be32(2, 2);
            batch.be32(3, offset);
            batch.be32(4, length);
            batch.be32(6, 1);
            batch.be32(7, checksum);
        });
    }

    /// Fills a register.
    pub(super) fn load(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.expression("immediate", |batch| {
            batch.be32(1, register);
            batch.nested(2, |batch| batch.attr(1, value));
        })
    }

    fn compare(&mut self, operation: u32, register: u32, value: &[u8]) -> &mut Self {
        self.expression("cmp", |batch| {
            batch.be32(1, register);
            batch.be32(2, operation);
            batch.nested(3, |batch| batch.attr(1, value));
        })
    }

    pub(super) fn equals(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.compare(0, register, value)
    }

    pub(super) fn differs(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.compare(1, register, value)
    }

    pub(super) fn within(&mut self, register: u32, first: &[u8], last: &[u8]) -> &mut Self {
        self.compare(5, register, first).compare(3, register, last)
    }

    /// Keeps the bits of `mask`.
    pub(super) fn mask(&mut self, register: u32, mask: &[u8]) -> &mut Self {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        self.expression("bitwise", |batch| {
            batch.be32(1, register);
            batch.be32(2, register);
            batch.be32(3, length);
            batch.nested(4, |batch| batch.attr(1, mask));
            batch.nested(5, |batch| batch.attr_with(1, |batch| batch.raw(&vec![0; mask.len()])));
        })
    }

    /// IPv4 (2) or IPv6 (10).
    pub(super) fn family(&mut self, family: u8) -> &mut Self {
        self.meta(META_NFPROTO, REG).equals(REG, &[family])
    }

    /// Passes when the destination is an address of this host.
    pub(super) fn destination_is_local(&mut self) -> &mut Self {
        self.expression("fib", |batch| {
            batch.be32(1, REG);
            batch.be32(2, 3);
            batch.be32(3, 2);
        })
        .equals(REG, &2_u32.to_ne_bytes())
    }

    /// The state (key 0) or status (key 2) of the connection has one of these bits.
    fn connection(&mut self, key: u32, bits: u32) -> &mut Self {
        self.expression("ct", |batch| {
            batch.be32(2, key);
            batch.be32(1, REG);
        })
        .mask(REG, &bits.to_ne_bytes())
        .differs(REG, &[0; 4])
    }

    pub(super) fn established(&mut self) -> &mut Self {
        self.connection(0, 6)
    }

    /// The connection came through a published port.
    pub(super) fn published(&mut self) -> &mut Self {
        self.connection(2, 1 << 5)
    }

    /// Passes when the key that begins at the first register is in the set.
    pub(super) fn is_in(&mut self, set: &str) -> &mut Self {
        self.lookup(set, None)
    }

    /// Passes when the key is in the map, and loads what it leads to into a register (0: follows the verdict).
    pub(super) fn map(&mut self, set: &str, to: u32) -> &mut Self {
        self.lookup(set, Some(to))
    }

    fn lookup(&mut self, set: &str, to: Option<u32>) -> &mut Self {
        self.expression("lookup", |batch| {
            batch.text(1, set);
            batch.be32(2, REG);
            if let Some(to) = to {
                batch.be32(3, to);
            }
        })
    }

    fn verdict(&mut self, code: i32, chain: &str) -> &mut Self {
        self.expression("immediate", |batch| {
            batch.be32(1, 0);
            batch.nested(2, |batch| verdict(batch, code, chain));
        })
    }

    pub(super) fn drop(&mut self) {
        self.verdict(0, "");
    }

    pub(super) fn accept(&mut self) {
        self.verdict(1, "");
    }

    pub(super) fn jump(&mut self, chain: &str) {
        self.verdict(JUMP, chain);
    }

    pub(super) fn reject(&mut self) {
        // Whatever the family: administratively prohibited.
        self.expression("reject", |batch| {
            batch.be32(1, 2);
            batch.u8(2, 3);
        });
    }

    /// New destination: address in the first register, port in the one behind the address.
    pub(super) fn dnat(&mut self, family: u8, port: u32) {
        self.expression("nat", |batch| {
            batch.be32(1, 1);
            batch.be32(2, family.into());
            batch.be32(3, REG);
            batch.be32(5, port);
        });
    }

    /// New source: address in the first register.
    pub(super) fn snat(&mut self, family: u8) {
        self.expression("nat", |batch| {
            batch.be32(1, 0);
            batch.be32(2, family.into());
            batch.be32(3, REG);
        });
    }

    pub(super) fn masquerade(&mut self) {
        self.expression("masq", |_| {});
    }
}

/// The table that a notification is about.
pub(super) fn table_of(body: &[u8]) -> Option<String> {
    // Tables, chains, rules and sets all have it as their first attribute.
    attribute(body.get(4..)?, 1).map(super::wire::text)
}
