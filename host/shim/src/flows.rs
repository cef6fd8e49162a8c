//! A container's streams between what the daemon and the keeper hold and the named pipes that its shim opens.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rustix::pipe::{SpliceFlags, splice};

/// Bytes that are moved in one go.
const CHUNK: usize = 64 << 10;

/// One direction of a stream. Nothing is taken in that has nowhere to go.
pub(crate) struct Flow {
    from: File,
    to: File,
    /// Pages move from pipe to pipe without being looked at; a terminal needs a buffer.
    pipes: bool,
    buffer: Vec<u8>,
    blocked: bool,
    ended: bool,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    More,
    /// The source has come to its end, and all has arrived.
    Ended,
}

impl Flow {
    pub(crate) fn new(from: OwnedFd, to: OwnedFd, pipes: bool) -> Self {
        Self { from: from.into(), to: to.into(), pipes, buffer: Vec::new(), blocked: false, ended: false }
    }

    /// What to wait for; None at the end.
    pub(crate) fn waits(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match (self.ended, self.blocked) {
            (true, _) => None,
            (_, true) => Some((self.to.as_fd(), PollFlags::POLLOUT)),
            _ => Some((self.from.as_fd(), PollFlags::POLLIN)),
        }
    }

    /// Moves what there is.
    pub(crate) fn step(&mut self) -> Step {
        if self.ended {
            return Step::Ended;
        }
        let result = if self.pipes { self.splice() } else { self.copy() };
        match result {
            Ok(Step::More) => {}
            // A source that broke off has no more. A target that is gone takes nothing: what comes is thrown away, so that the
            // container does not stop at it.
            Err(Errno::EPIPE) => match OpenOptions::new().write(true).open("/dev/null") {
                Ok(null) => {
                    self.to = null;
                    self.blocked = false;
                }
                Err(_) => self.ended = true,
            },
            Ok(Step::Ended) | Err(_) => self.ended = true,
        }
        if self.ended { Step::Ended } else { Step::More }
    }

    fn splice(&mut self) -> Result<Step, Errno> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let moved = splice(&self.from, None, &self.to, None, 16 * CHUNK, flags);
        match moved.map_err(|e| Errno::from_raw(e.raw_os_error())) {
            Ok(0) => Ok(Step::Ended),
            Ok(_) => {
                self.blocked = false;
                Ok(Step::More)
            }
            // It came because one of the two is ready, so it is for the other.
            Err(Errno::EAGAIN) => {
                self.blocked = !self.blocked;
                Ok(Step::More)
            }
            Err(Errno::EINTR) => Ok(Step::More),
            // Not between these two: with a buffer then.
            Err(Errno::EINVAL) => {
                self.pipes = false;
                self.copy()
            }
            Err(e) => Err(e),
        }
    }

    fn copy(&mut self) -> Result<Step, Errno> {
        let errno = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
        if self.buffer.is_empty() {
            self.buffer.resize(CHUNK, 0);
            match self.from.read(&mut self.buffer).map_err(errno) {
                Ok(n) => self.buffer.truncate(n),
                Err(e) => {
                    self.buffer.clear();
                    self.blocked = false;
                    return if matches!(e, Errno::EAGAIN | Errno::EINTR) { Ok(Step::More) } else { Err(e) };
                }
            }
            if self.buffer.is_empty() {
                return Ok(Step::Ended);
            }
        }
        match self.to.write(&self.buffer).map_err(errno) {
            Ok(n) => {
                self.buffer.drain(..n);
                self.blocked = !self.buffer.is_empty();
                Ok(Step::More)
            }
            Err(Errno::EAGAIN) => {
                self.blocked = true;
                Ok(Step::More)
            }
            Err(Errno::EINTR) => Ok(Step::More),
            Err(_) => {
                self.buffer.clear();
                Err(Errno::EPIPE)
            }
        }
    }
}

/// A named pipe for the shim to open. The other end is kept from closing for as long as `other` is there, so that the shim may
/// open it when it likes.
pub(crate) struct Named {
    pub(crate) path: PathBuf,
    /// The end that is not the shim's.
    pub(crate) end: OwnedFd,
    /// Both ends.
    pub(crate) other: OwnedFd,
}

impl Named {
    /// `input` is a pipe that the shim reads.
    pub(crate) fn new(dir: &Path, name: &str, input: bool) -> std::io::Result<Self> {
        let path = dir.join(name);
        // Of an earlier run.
        let _ = std::fs::remove_file(&path);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let open = |read: bool, write: bool| {
            let mut options = OpenOptions::new();
            options.read(read).write(write).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(&path)
        };
        let other = open(true, true)?.into();
        let end = open(!input, input)?.into();
        Ok(Self { path, end, other })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(flow: &mut Flow) {
        for _ in 0..100 {
            if flow.step() == Step::Ended {
                return;
            }
        }
    }

    #[test]
    fn nothing_is_lost_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        for pipes in [true, false] {
            let named = Named::new(dir.path(), "out", false).unwrap();
            let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
            let mut flow = Flow::new(named.end, write, pipes);
            let mut shim = OpenOptions::new().write(true).open(&named.path).unwrap();
            drop(named.other);
            let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
            let copy = sent.clone();
            let writer = std::thread::spawn(move || shim.write_all(&copy));
            let mut got = Vec::new();
            let mut reader = File::from(read);
            let mut buffer = vec![0; 10_000];
            while got.len() < sent.len() {
                let _ = flow.step();
                while let Ok(n) = reader.read(&mut buffer) {
                    got.extend_from_slice(&buffer[..n]);
                    if n == 0 {
                        break;
                    }
                }
            }
            writer.join().unwrap().unwrap();
            assert!(got == sent);
            settle(&mut flow);
            assert_eq!(flow.waits().map(|(_, flags)| flags), None, "the end of the source is the end");
        }
    }

    #[test]
    fn a_target_that_is_gone_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let named = Named::new(dir.path(), "out", false).unwrap();
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        drop(read);
        let mut flow = Flow::new(named.end, write, true);
        let mut shim = OpenOptions::new().write(true).open(&named.path).unwrap();
        let writer = std::thread::spawn(move || shim.write_all(&vec![0; 1 << 20]));
        while !writer.is_finished() {
            assert_eq!(flow.step(), Step::More);
        }
        writer.join().unwrap().unwrap();
    }
}
