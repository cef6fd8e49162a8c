//! Netlink messages: written into one buffer, read without a copy, and the socket that exchanges them.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::Error;
use crate::sys::netlink;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const EXCL: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
/// Room for one datagram of answers: dumps come in pieces of at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// Messages that go to the kernel together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// What each message is for, by its number in this batch, for error texts.
    what: Vec<String>,
    open: usize,
    /// The table of the packet filter that the messages are about.
    table: Arc<str>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.what.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.what.len()
    }

    /// For messages about a table of the packet filter.
    pub(super) fn of(table: &Arc<str>) -> Self {
        Self { table: Arc::clone(table), ..Self::default() }
    }

    /// The table's name: the first attribute of all such messages.
    pub(super) fn own_table(&mut self) {
        let table = Arc::clone(&self.table);
        self.text(1, &table);
    }

    /// Adds a message: its type, flags, what it is for, its fixed part, and its attributes.
    pub(super) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        what: impl Into<String>,
        fixed: &[u8],
        attributes: impl FnOnce(&mut Self),
    ) {
        self.pad();
        self.open = self.bytes.len();
        let number = u32::try_from(self.what.len()).unwrap_or(u32::MAX);
        self.what.push(what.into());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(number.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(fixed);
        attributes(self);
        let length = u32::try_from(self.bytes.len() - self.open).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(self.open..self.open + 4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }

    /// Asks for an answer to the last message.
    pub(super) fn acknowledge_last(&mut self) {
        if let Some([low, _]) = self.bytes.get_mut(self.open + 6..self.open + 8) {
            *low |= 4;
        }
    }

    /// Bytes within an attribute that has a fixed part of its own.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    pub(super) fn attr(&mut self, kind: u16, value: &[u8]) {
        self.attr_with(kind, |batch| batch.bytes.extend(value));
    }

    pub(super) fn attr_with(&mut self, kind: u16, value: impl FnOnce(&mut Self)) {
        self.pad();
        let start = self.bytes.len();
        self.bytes.extend(0_u16.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        value(self);
        // Whatever can be longer than 64 KiB is split by its writer.
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.pad();
    }

    pub(super) fn nested(&mut self, kind: u16, value: impl FnOnce(&mut Self)) {
        self.attr_with(kind | NESTED, value);
    }

    pub(super) fn u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    pub(super) fn u16(&mut self, kind: u16, value: u16) {
        self.attr(kind, &value.to_ne_bytes());
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attr_with(kind, |batch| {
            batch.bytes.extend(value.as_bytes());
            batch.bytes.push(0);
        });
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// One message from the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

/// The messages of a datagram.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let kind = u16_at(bytes, 4)?;
        let sequence = u32_at(bytes, 8)?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, body })
    })
}

/// The attributes in `bytes`, with their types.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a type.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(other, _)| *other == kind).map(|(_, value)| value)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Text that ends with a zero byte.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// A netlink socket and its buffer.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    port: u32,
    buffer: Vec<u8>,
}

/// A message that the kernel refused.
#[derive(Debug)]
pub(super) struct Failure {
    /// Which message of the batch.
    pub(super) number: usize,
    pub(super) errno: i32,
    pub(super) error: Error,
}

impl Socket {
    /// In the network namespace of the calling thread.
    pub(super) fn open(protocol: i32) -> Result<Self, Error> {
        let (fd, port) = netlink::open(protocol).map_err(|error| system("open a netlink socket", &error))?;
        Ok(Self { fd, port, buffer: vec![0; BUFFER] })
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends the batch and gives the refused messages.
    pub(super) fn exchange(&mut self, batch: &Batch) -> Result<Vec<Failure>, Error> {
        self.exchange_until(batch, batch.len().saturating_sub(1))
    }

    /// Sends the batch and gives the refused messages. The message `last` must be acknowledged: if it is not,
    /// something went wrong as a whole.
    pub(super) fn exchange_until(&mut self, batch: &Batch, last: usize) -> Result<Vec<Failure>, Error> {
        self.send(batch)?;
        let mut failures = Vec::new();
        let mut answered = false;
        while let Some(bytes) = self.receive(false)? {
            for message in messages(bytes).filter(|message| message.kind == NLMSG_ERROR) {
                let number = usize::try_from(message.sequence).unwrap_or(usize::MAX);
                answered |= number == last;
                failures.extend(failure(batch, number, message.body));
            }
        }
        if answered || !failures.is_empty() || batch.is_empty() {
            Ok(failures)
        } else {
            Err(Error::Plan("the kernel did not answer".to_owned()))
        }
    }

    /// Sends the batch; the first refusal is the error.
    pub(super) fn all(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        match self.exchange(batch)?.into_iter().next() {
            Some(failure) => Err(failure.error),
            None => Ok(()),
        }
    }

    /// Sends one question and gives all parts of the answer.
    pub(super) fn ask(&mut self, batch: &Batch, mut each: impl FnMut(u16, &[u8])) -> Result<(), Failure> {
        let broken = |error| Failure { number: 0, errno: libc::EIO, error };
        self.send(batch).map_err(broken)?;
        // An acknowledged question ends with the acknowledgement, a dump with DONE.
        loop {
            let Some(bytes) = self.receive(true).map_err(broken)? else { continue };
            for message in messages(bytes) {
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let number = usize::try_from(message.sequence).unwrap_or(usize::MAX);
                        return match failure(batch, number, message.body) {
                            Some(failure) => Err(failure),
                            None => Ok(()),
                        };
                    }
                    kind => each(kind, message.body),
                }
            }
        }
    }

    fn send(&self, batch: &Batch) -> Result<(), Error> {
        netlink::send(self.fd.as_fd(), &batch.bytes).map_err(|error| {
            let what = batch.what.first().map_or("speak to the kernel", String::as_str);
            system(what, &error)
        })
    }

    /// The next datagram.
    pub(super) fn receive(&mut self, wait: bool) -> Result<Option<&[u8]>, Error> {
        let length = netlink::receive(self.fd.as_fd(), &mut self.buffer, wait)
            .map_err(|error| system("hear from the kernel", &error))?;
        match length {
            None => Ok(None),
            Some(length) => match self.buffer.get(..length) {
                Some(bytes) => Ok(Some(bytes)),
                None => Err(Error::Plan(format!("the kernel's answer of {length} bytes was cut off"))),
            },
        }
    }
}

fn failure(batch: &Batch, number: usize, body: &[u8]) -> Option<Failure> {
    let errno = u32_at(body, 0).map_or(0, |code| code.cast_signed().wrapping_neg());
    if errno == 0 {
        return None;
    }
    // Behind the header of the request stand attributes; 1 is a text.
    let detail = attribute(body.get(4 + HEADER..).unwrap_or_default(), 1)
        .map(|words| format!(" ({})", text(words)))
        .unwrap_or_default();
    let what = batch.what.get(number).cloned().unwrap_or_else(|| "commit".to_owned());
    let source = std::io::Error::from_raw_os_error(errno);
    Some(Failure { number, errno, error: Error::System { what, detail, source } })
}

pub(super) fn system(what: impl Into<String>, error: &crate::Error) -> Error {
    Error::System {
        what: what.into(),
        detail: String::new(),
        source: std::io::Error::from_raw_os_error(error.errno()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut batch = Batch::default();
        batch.message(16, CREATE, "first", &[1, 2, 3, 4], |batch| {
            batch.text(3, "eth0");
            batch.nested(18, |batch| {
                batch.text(1, "veth");
                batch.u16(2, 7);
            });
            batch.u32(4, 1500);
        });
        batch.message(20, 0, "second", &[9; 3], |_| {});
        batch.acknowledge_last();
        let read: Vec<Message<'_>> = messages(&batch.bytes).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].sequence), (16, 0));
        let attrs = &read[0].body[4..];
        assert_eq!(text(attribute(attrs, 3).unwrap()), "eth0");
        assert_eq!(u16_at(attribute(attribute(attrs, 18).unwrap(), 2).unwrap(), 0), Some(7));
        assert_eq!(u32_at(attribute(attrs, 4).unwrap(), 0), Some(1500));
        assert_eq!((read[1].kind, read[1].sequence, read[1].body), (20, 1, &[9, 9, 9][..]));
    }

    proptest! {
        /// The kernel is trusted, but a parser that can panic would be a way to end the daemon.
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                for (_, value) in attributes(message.body) {
                    let _ = text(value);
                }
                let _ = failure(&Batch::default(), 0, message.body);
            }
        }
    }
}
