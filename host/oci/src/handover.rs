//! Descriptors that are sent over a unix socket to somebody who may never take them.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};

use crate::{Doing, Result};

/// Who does not take a descriptor by then never will.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the socket at `path`; one that begins with `@` has no file.
fn connection(path: &Path, until: Instant) -> nix::Result<OwnedFd> {
    let address = match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(path)?,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    loop {
        match connect(made.as_raw_fd(), &address) {
            // As many wait already as the listener wants to have waiting.
            Err(Errno::EAGAIN) if Instant::now() < until => {
                // Of that nobody is told.
                let _ = poll(&mut [], 10_u8);
            }
            Err(Errno::EAGAIN) => return Err(Errno::ETIMEDOUT),
            Err(Errno::EINTR) => {}
            result => return result.map(|()| made),
        }
    }
}

/// Sends `message` with one descriptor, in one message as far as it fits. Fails with a text that begins with `what` where there
/// is no such socket, or nobody takes it within ten seconds.
pub(crate) fn send(path: &Path, message: &[u8], fd: BorrowedFd<'_>, what: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let socket = connection(path, until).doing(format_args!("{what} {}", path.display()))?;
    let fds = [fd.as_raw_fd()];
    let mut left = message;
    let mut first = true;
    while first || !left.is_empty() {
        let carried = [ControlMessage::ScmRights(&fds)];
        let carried = if first { &carried[..] } else { &[] };
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(left)], carried, flags, None) {
            Ok(count) => {
                first = false;
                left = left.get(count..).unwrap_or_default();
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait(&socket, until).doing(what)?,
            Err(error) => return Err(error).doing(format_args!("{what} {}", path.display())),
        }
    }
    Ok(())
}

fn wait(socket: &OwnedFd, until: Instant) -> nix::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Errno::ETIMEDOUT);
    }
    let mut polls = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut polls, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
        Err(Errno::EINTR) => Ok(()),
        result => result.map(drop),
    }
}
