//! ttrpc: ten bytes of header and a protobuf message, over a stream socket that never blocks.
//!
//! The messages are containerd's own definitions; what is done here is the waiting, as every wait for a shim must end: at a
//! time, or when whoever waits is told to stop.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::{
    MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_RESPONSE,
};
use containerd_shim_protos::ttrpc::{MessageHeader, Request, Response};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bootstrap::Address;

/// Why a call of a shim did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The shim's own answer: a gRPC status code, and its words.
    #[error("{1}")]
    Status(i32, String),
    /// No answer in time.
    #[error("the shim does not answer ({0})")]
    Late(&'static str),
    /// The connection is gone, or what came over it is no ttrpc.
    #[error("the shim is gone ({0})")]
    Gone(String),
    /// Whoever waited was told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// gRPC's code of what a service does not have.
pub(crate) const UNIMPLEMENTED: i32 = 12;
/// Of what is not there.
pub(crate) const NOT_FOUND: i32 = 5;

impl Failure {
    /// The shim has no such call.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Status(UNIMPLEMENTED, _))
    }

    /// The shim knows no such container or process.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status(NOT_FOUND, _))
    }
}

fn gone(error: impl std::fmt::Display) -> Failure {
    Failure::Gone(error.to_string())
}

/// Until when to wait, and what else ends the wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until<'a> {
    pub(crate) end: Instant,
    /// Readable when the wait is to be given up.
    pub(crate) stop: Option<BorrowedFd<'a>>,
}

impl<'a> Until<'a> {
    pub(crate) fn after(patience: Duration, stop: Option<BorrowedFd<'a>>) -> Self {
        Self { end: Instant::now() + patience, stop }
    }

    /// Waits for a descriptor.
    pub(crate) fn ready(
        &self,
        fd: BorrowedFd<'_>,
        flags: PollFlags,
        what: &'static str,
    ) -> Result<(), Failure> {
        loop {
            let left = self.end.saturating_duration_since(Instant::now());
            // Rounded up, or the last millisecond would be spent asking.
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let stop = self.stop.unwrap_or(fd);
            let mut polls = [PollFd::new(fd, flags), PollFd::new(stop, PollFlags::POLLIN)];
            let count = if self.stop.is_some() { 2 } else { 1 };
            match poll(polls.get_mut(..count).unwrap_or_default(), timeout) {
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(gone(e)),
                Ok(_) => {}
            }
            let told = |poll: Option<&PollFd<'_>>| {
                poll.and_then(PollFd::revents).is_some_and(|revents| !revents.is_empty())
            };
            if self.stop.is_some() && told(polls.get(1)) {
                return Err(Failure::Interrupted);
            }
            if told(polls.first()) {
                return Ok(());
            }
            if left.is_zero() {
                return Err(Failure::Late(what));
            }
        }
    }
}

/// Longest path that a socket's address takes.
const SUN_PATH: usize = 107;

/// The address of a socket file whose path may be longer than an address; the descriptor keeps the way there open.
fn file_address(path: &Path) -> std::io::Result<(SocketAddr, Option<OwnedFd>)> {
    if path.as_os_str().len() <= SUN_PATH {
        return Ok((SocketAddr::from_pathname(path)?, None));
    }
    let invalid = || std::io::Error::from(ErrorKind::InvalidInput);
    let (dir, name) = path.parent().zip(path.file_name()).ok_or_else(invalid)?;
    let dir: OwnedFd = std::fs::File::open(dir)?.into();
    let short = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir))).join(name);
    Ok((SocketAddr::from_pathname(short)?, Some(dir)))
}

/// A connection to a shim.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    next: u32,
}

impl Connection {
    /// Connects without waiting: a shim whose queue of connections is full does not answer.
    pub(crate) fn open(address: &Address) -> Result<Self, Failure> {
        let (address, _way) = match address {
            Address::File(path) => file_address(path).map_err(gone)?,
            Address::Abstract(name) => (SocketAddr::from_abstract_name(name).map_err(gone)?, None),
        };
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC | nix::sys::socket::SockFlag::SOCK_NONBLOCK,
            None,
        )
        .map_err(gone)?;
        let to = match (address.as_pathname(), address.as_abstract_name()) {
            (Some(path), _) => nix::sys::socket::UnixAddr::new(path),
            (None, Some(name)) => nix::sys::socket::UnixAddr::new_abstract(name),
            (None, None) => return Err(gone("it has no address")),
        };
        nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &to.map_err(gone)?).map_err(
            |e| match e {
                nix::errno::Errno::EAGAIN => Failure::Late("connection"),
                other => gone(other),
            },
        )?;
        Ok(Self::over(socket.into()))
    }

    /// Over a stream that does not block.
    pub(crate) fn over(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), next: 1 }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Sends a request; answers the number that its response will have.
    pub(crate) fn send(
        &mut self,
        service: &str,
        method: &'static str,
        message: &impl Message,
        until: &Until<'_>,
    ) -> Result<u32, Failure> {
        let mut request = Request::new();
        service.clone_into(&mut request.service);
        method.clone_into(&mut request.method);
        request.payload = message.write_to_bytes().map_err(gone)?;
        let left = until.end.saturating_duration_since(Instant::now());
        request.timeout_nano = i64::try_from(left.as_nanos()).unwrap_or(i64::MAX);
        let body = request.write_to_bytes().map_err(gone)?;
        let id = self.next;
        self.next = self.next.wrapping_add(2);
        self.write(MessageHeader::new_request, id, &body, method, until)?;
        Ok(id)
    }

    /// Answers a request of the other side.
    pub(crate) fn respond(&mut self, id: u32, until: &Until<'_>) -> Result<(), Failure> {
        let body = Response::new().write_to_bytes().map_err(gone)?;
        self.write(MessageHeader::new_response, id, &body, "an answer", until)
    }

    fn write(
        &mut self,
        header: fn(u32, u32) -> MessageHeader,
        id: u32,
        body: &[u8],
        what: &'static str,
        until: &Until<'_>,
    ) -> Result<(), Failure> {
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MESSAGE_LENGTH_MAX);
        let length = length.ok_or_else(|| gone(format!("a message of {} bytes is too long", body.len())))?;
        let mut bytes = Vec::from(header(id, length));
        bytes.extend_from_slice(body);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Err(gone("it takes nothing")),
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    until.ready(self.stream.as_fd(), PollFlags::POLLOUT, what)?;
                }
                Err(e) => return Err(gone(e)),
            }
        }
        Ok(())
    }

    /// The next message that has come as a whole; None if there is none yet.
    pub(crate) fn receive(&mut self) -> Result<Option<(MessageHeader, Vec<u8>)>, Failure> {
        let mut buffer = [0; 8192];
        loop {
            if let Some(header) = self.received.get(..MESSAGE_HEADER_LENGTH) {
                let header = MessageHeader::from(header);
                let length = usize::try_from(header.length).unwrap_or(usize::MAX);
                if length > MESSAGE_LENGTH_MAX {
                    return Err(gone(format!("it announces a message of {length} bytes")));
                }
                let end = MESSAGE_HEADER_LENGTH + length;
                if let Some(body) = self.received.get(MESSAGE_HEADER_LENGTH..end) {
                    let body = body.to_vec();
                    self.received.drain(..end);
                    return Ok(Some((header, body)));
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(gone("it closed the connection")),
                Ok(n) => self.received.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) => return Err(gone(e)),
            }
        }
    }

    /// Sends a request and waits for its response. Responses to others that come meanwhile are dropped.
    pub(crate) fn call<Answer: Message>(
        &mut self,
        service: &str,
        method: &'static str,
        message: &impl Message,
        until: &Until<'_>,
    ) -> Result<Answer, Failure> {
        let id = self.send(service, method, message, until)?;
        self.answer_to(id, method, until)
    }

    /// Waits for the response to a request that was sent.
    pub(crate) fn answer_to<Answer: Message>(
        &mut self,
        id: u32,
        method: &'static str,
        until: &Until<'_>,
    ) -> Result<Answer, Failure> {
        loop {
            while let Some((header, body)) = self.receive()? {
                if header.stream_id == id && header.type_ == MESSAGE_TYPE_RESPONSE {
                    return answer(&body);
                }
            }
            until.ready(self.stream.as_fd(), PollFlags::POLLIN, method)?;
        }
    }
}

/// A response's message, or the shim's error.
pub(crate) fn answer<Answer: Message>(body: &[u8]) -> Result<Answer, Failure> {
    let response = Response::parse_from_bytes(body).map_err(gone)?;
    if let Some(status) = response.status.as_ref() {
        let code = status.code.value();
        if code != 0 {
            // Long enough for any honest one.
            return Err(Failure::Status(code, status.message.chars().take(16 << 10).collect()));
        }
    }
    Answer::parse_from_bytes(&response.payload).map_err(gone)
}

/// A request of the other side.
pub(crate) fn request(body: &[u8]) -> Option<Request> {
    Request::parse_from_bytes(body).ok()
}
