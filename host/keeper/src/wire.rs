//! What travels between daemon and keeper: packets of a SEQPACKET socket, put together to messages.
//!
//! A packet is a flag byte, the number of the request (little endian), and the payload in postcard. Payloads that are
//! too long for a packet travel in a sealed memory file, and descriptors beyond what one packet takes go ahead in
//! packets of their own.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wharf_kernel::sys::{file, socket};
use wharf_kernel::{Error, Result};
use wharf_plan::run::{ExecPlan, ExitStatus, RunPlan, StartError};

use crate::Entry;

/// Both ends must speak the same; a keeper of another version is replaced in place.
pub(crate) const VERSION: u32 = 6;

/// The longest packet.
pub(crate) const PACKET: usize = 64 * 1024;
const HEAD: usize = 9;
const MORE: u8 = 1;
const IN_FILE: u8 = 2;
/// A few less than the kernel takes, as one is needed for the memory file.
const FDS: usize = socket::MAX_FDS - 3;
const MOST_FDS: usize = 4096;
const LONGEST: usize = 32 << 20;

/// From the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Run(Box<RunPlan>),
    Exec(Box<ExecPlan>),
    List,
    Fetch(String),
    Hold(String, Vec<String>),
    Release(String, Vec<String>),
    Signal(String, i32),
    Forget(String),
    Reload(String),
    Shutdown,
}

/// From the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The first message of a connection.
    Hello(u32),
    /// Instead of it: another daemon is connected.
    Busy,
    /// With the pidfd and, if so, the terminal.
    Started {
        pid: i32,
        started_at: u64,
        pty: bool,
    },
    Failed(StartError),
    Entries(Vec<Entry>),
    /// With the descriptors in this order.
    Held(Vec<String>),
    Done,
    Unknown(String),
    Refused(String),
    /// Not an answer: something ended.
    Exit(String, ExitStatus),
}

/// One packet, ready to be sent.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Packet {
    pub(crate) fn send(&self, socket: BorrowedFd<'_>) -> Result<()> {
        let fds: Vec<_> = self.fds.iter().map(AsFd::as_fd).collect();
        socket::send(socket, &self.bytes, &fds)
    }
}

fn packet(flags: u8, sequence: u64, payload: &[u8], fds: Vec<OwnedFd>) -> Packet {
    let mut bytes = Vec::with_capacity(HEAD + payload.len());
    bytes.push(flags);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(payload);
    Packet { bytes, fds }
}

/// A message as packets.
pub(crate) fn encode(sequence: u64, message: &impl Serialize, mut fds: Vec<OwnedFd>) -> Result<Vec<Packet>> {
    let payload =
        postcard::to_stdvec(message).map_err(|e| Error::refused("encode", libc::EINVAL, e.to_string()))?;
    if payload.len() > LONGEST || fds.len() > MOST_FDS {
        return Err(Error::refused("encode", libc::EMSGSIZE, "the message is too long"));
    }
    let mut packets = Vec::with_capacity(1);
    while fds.len() > FDS {
        let rest = fds.split_off(FDS);
        packets.push(packet(MORE, sequence, &[], fds));
        fds = rest;
    }
    if payload.len() + HEAD > PACKET {
        fds.push(file::memfd(c"wharf-message", &payload, false)?);
        packets.push(packet(IN_FILE, sequence, &[], fds));
    } else {
        packets.push(packet(0, sequence, &payload, fds));
    }
    Ok(packets)
}

/// Puts packets together.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    fds: Vec<OwnedFd>,
}

/// A whole message.
#[derive(Debug)]
pub(crate) struct Message<T> {
    pub(crate) sequence: u64,
    pub(crate) body: T,
    pub(crate) fds: Vec<OwnedFd>,
}

/// What a look at the socket gave.
#[derive(Debug)]
pub(crate) enum Received<T> {
    Message(Message<T>),
    /// Part of a message; look again.
    Part,
    /// Nothing there now.
    Nothing,
    /// The other end is gone.
    End,
}

impl Assembler {
    /// Takes one packet from a non-blocking socket.
    pub(crate) fn receive<T: DeserializeOwned>(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
    ) -> Result<Received<T>> {
        let length = match socket::receive(socket, buffer, &mut self.fds) {
            Err(e) if e.is(libc::EAGAIN) => return Ok(Received::Nothing),
            Err(e) if e.is(libc::ECONNRESET) => return Ok(Received::End),
            result => result?,
        };
        let bad = |why: &str| Error::refused("decode", libc::EPROTO, why.to_owned());
        let (flags, sequence, payload) = match buffer.get(..length).unwrap_or_default() {
            [] => return Ok(Received::End),
            [flags, rest @ ..] => {
                let (sequence, payload) =
                    rest.split_first_chunk().ok_or_else(|| bad("a packet is cut off"))?;
                (*flags, u64::from_le_bytes(*sequence), payload)
            }
        };
        if self.fds.len() > MOST_FDS + 1 {
            return Err(bad("too many descriptors"));
        }
        let long;
        let payload = match flags {
            MORE => return Ok(Received::Part),
            IN_FILE => {
                let file = self.fds.pop().ok_or_else(|| bad("the memory file is missing"))?;
                long = wharf_kernel::fs::read_limited(&File::from(file), LONGEST)?;
                &long
            }
            0 => payload,
            _ => return Err(bad("unknown flags")),
        };
        let body = postcard::from_bytes(payload).map_err(|e| bad(&e.to_string()))?;
        Ok(Received::Message(Message { sequence, body, fds: std::mem::take(&mut self.fds) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(request: &Request, fds: usize) -> Message<Request> {
        let (ours, theirs) = socket::pair(true).unwrap();
        let null = || File::open("/dev/null").unwrap().into();
        let packets = encode(42, request, (0..fds).map(|_| null()).collect()).unwrap();
        let mut assembler = Assembler::default();
        let mut buffer = vec![0; PACKET];
        for (index, packet) in packets.iter().enumerate() {
            packet.send(ours.as_fd()).unwrap();
            match assembler.receive::<Request>(theirs.as_fd(), &mut buffer).unwrap() {
                Received::Message(message) => {
                    assert_eq!(index, packets.len() - 1);
                    return message;
                }
                other => assert!(matches!(other, Received::Part), "{other:?}"),
            }
        }
        panic!("no message");
    }

    #[test]
    fn long_messages_and_many_descriptors() {
        let message = through(&Request::List, 0);
        assert!(matches!(message.body, Request::List));
        assert_eq!(message.sequence, 42);
        assert_eq!(through(&Request::List, 600).fds.len(), 600);
        let mut plan = RunPlan::default();
        plan.process.args = vec!["x".repeat(1000); 500];
        let message = through(&Request::Run(Box::new(plan.clone())), 251);
        assert_eq!(message.fds.len(), 251);
        assert!(matches!(message.body, Request::Run(got) if *got == plan));
    }

    #[test]
    fn nonsense_is_refused() {
        let (ours, theirs) = socket::pair(true).unwrap();
        let mut buffer = vec![0; PACKET];
        for bytes in [
            &b"short"[..],
            &[0; 9],
            &[9, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            &[2, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xff; 40],
        ] {
            socket::send(ours.as_fd(), bytes, &[]).unwrap();
            let got = Assembler::default().receive::<Request>(theirs.as_fd(), &mut buffer);
            assert!(got.is_err(), "{bytes:?}: {got:?}");
        }
        drop(ours);
        let got = Assembler::default().receive::<Request>(theirs.as_fd(), &mut buffer);
        assert!(matches!(got, Ok(Received::End)));
    }
}
