//! The streams of one exec: no spool. What nobody takes stays in the pipe and holds the process back, so that an exec
//! whose client does not read costs no memory; when the client goes, the rest is thrown away.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::container::ChildStdio;
use crate::error::{Error, Result};
use crate::frame;
use crate::keys;
use crate::pump::Pump;
use crate::reader::Output;
use crate::spool::Stream;
use crate::stdin::{Input, Stdin};
use crate::sys;

/// Bytes of one read, and so of one frame; what Docker sends at most.
const READ: usize = 32 << 10;

/// What the client asked for.
#[derive(Debug, Clone, Default)]
pub struct ExecSpec {
    /// A terminal rather than pipes.
    pub tty: bool,
    /// Attach stdin.
    pub stdin: bool,
    /// Attach stdout.
    pub stdout: bool,
    /// Attach stderr.
    pub stderr: bool,
    /// Keys that detach; None takes the default.
    pub detach_keys: Option<String>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Our ends, from `start` to `started`.
    pipes: [Option<OwnedFd>; 2],
    /// A duplicate of the terminal's master, for resizing.
    pty: Option<OwnedFd>,
    size: Option<(u16, u16)>,
}

#[derive(Debug, Default)]
struct Exit {
    exited: AtomicBool,
    changed: Notify,
}

/// The streams of one exec.
#[derive(Debug)]
pub struct ExecIo {
    spec: ExecSpec,
    keys: Vec<u8>,
    pump: Arc<Pump>,
    slot: Mutex<Slot>,
    input: Arc<Input>,
    exit: Arc<Exit>,
}

impl ExecIo {
    pub(crate) fn new(spec: ExecSpec, pump: Arc<Pump>) -> Result<Self> {
        let keys = keys::of(spec.detach_keys.as_deref())?;
        Ok(Self { spec, keys, pump, slot: Mutex::default(), input: Arc::default(), exit: Arc::default() })
    }

    /// What it was made from.
    pub fn spec(&self) -> &ExecSpec {
        &self.spec
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptors of the process (`hold` is empty: an exec's streams end with the daemon).
    pub fn start(&self) -> Result<ChildStdio> {
        let mut stdio = ChildStdio::default();
        if self.spec.tty {
            return Ok(stdio);
        }
        let failed = |error| Error::host("making a pipe for an exec", error);
        let [stdin, stdout, stderr] = &mut stdio.child;
        if self.spec.stdin {
            let (read, write) = sys::pipe().map_err(failed)?;
            self.input.open(write).map_err(failed)?;
            *stdin = Some(read);
        }
        let mut slot = self.lock();
        let wanted = [(self.spec.stdout, stdout), (self.spec.stderr, stderr)];
        for (ours, (wanted, theirs)) in slot.pipes.iter_mut().zip(wanted) {
            if wanted {
                let (read, write) = sys::pipe().map_err(failed)?;
                sys::nonblocking(&read).map_err(failed)?;
                (*ours, *theirs) = (Some(read), Some(write));
            }
        }
        Ok(stdio)
    }

    /// The process runs: both directions for the client. If the client goes early, drop them: what the process
    /// still prints is thrown away then, so that it does not wait for ever.
    pub fn started(&self, pty: Option<OwnedFd>) -> Result<(Output, Option<Stdin>)> {
        let failed = |error| Error::host("preparing the terminal of an exec", error);
        let mut slot = self.lock();
        let mut feeds = std::mem::take(&mut slot.pipes);
        let terminal = pty.is_some();
        if let Some(pty) = pty {
            sys::nonblocking(&pty).map_err(failed)?;
            if let Some((rows, columns)) = slot.size {
                sys::resize(&pty, rows, columns).map_err(failed)?;
            }
            if self.spec.stdin {
                self.input.open(pty.try_clone().map_err(failed)?).map_err(failed)?;
            }
            slot.pty = Some(pty.try_clone().map_err(failed)?);
            feeds = [Some(pty), None];
        }
        drop(slot);
        let reader = ExecReader {
            feeds: feeds.map(|fd| fd.map(Feed::New)),
            terminal,
            turn: 0,
            exit: self.exit.clone(),
            left: None,
            pump: self.pump.clone(),
        };
        let stdin = self
            .spec
            .stdin
            .then(|| Stdin::new(self.input.clone(), terminal.then_some(&*self.keys), !terminal));
        Ok((Output::exec(reader, !self.spec.tty), stdin))
    }

    /// Tells the terminal its size; remembered when there is none yet.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let mut slot = self.lock();
        slot.size = Some((rows, columns));
        match &slot.pty {
            Some(pty) => {
                sys::resize(pty, rows, columns).map_err(|error| Error::host("resizing the terminal", error))
            }
            None => Ok(()),
        }
    }

    /// Rows and columns wanted before the start.
    pub fn size(&self) -> Option<(u16, u16)> {
        self.lock().size
    }

    /// The process ended: output ends after what is in the pipe now, even if other processes still hold it.
    pub fn exited(&self) {
        self.lock().pty = None;
        self.input.finish();
        self.exit.exited.store(true, Ordering::SeqCst);
        self.exit.changed.notify_waiters();
    }
}

#[derive(Debug)]
enum Feed {
    /// Before the first async use.
    New(OwnedFd),
    Open(AsyncFd<OwnedFd>),
}

/// Reads an exec's pipes.
#[derive(Debug)]
pub(crate) struct ExecReader {
    feeds: [Option<Feed>; 2],
    terminal: bool,
    /// Which stream is looked at first: both have their turn.
    turn: usize,
    exit: Arc<Exit>,
    /// Bytes still to read after the exit.
    left: Option<usize>,
    pump: Arc<Pump>,
}

impl Drop for ExecReader {
    fn drop(&mut self) {
        for feed in self.feeds.iter_mut().filter_map(Option::take) {
            let fd = match feed {
                Feed::New(fd) => fd,
                Feed::Open(fd) => fd.into_inner(),
            };
            if !self.exit.exited.load(Ordering::SeqCst)
                && let Err(error) = self.pump.discard(fd, self.terminal)
            {
                tracing::warn!(%error, "the rest of an exec's output cannot be read");
            }
        }
    }
}

impl ExecReader {
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let failed = |error| Error::host("reading the output of an exec", error);
        loop {
            let exit = self.exit.clone();
            let mut changed = pin!(exit.changed.notified());
            changed.as_mut().enable();
            let exited = exit.exited.load(Ordering::SeqCst);
            if exited && self.left.is_none() {
                self.left = Some(self.in_pipes());
            }
            if let Some(bytes) = self.read().map_err(failed)? {
                return Ok(Some(bytes));
            }
            if exited || self.feeds.iter().all(Option::is_none) {
                self.feeds = [None, None];
                return Ok(None);
            }
            let [out, err] = &self.feeds;
            tokio::select! {
                ready = readable(out.as_ref()) => ready.map_err(failed)?,
                ready = readable(err.as_ref()) => ready.map_err(failed)?,
                () = changed => {}
            }
        }
    }

    /// What the pipes hold now. The process is gone, so nothing of its own comes later.
    fn in_pipes(&self) -> usize {
        if self.terminal {
            return 64 << 10;
        }
        let bytes = self.feeds.iter().flatten().map(|feed| match feed {
            Feed::New(fd) => rustix::io::ioctl_fionread(fd).unwrap_or(0),
            Feed::Open(fd) => rustix::io::ioctl_fionread(fd.get_ref()).unwrap_or(0),
        });
        usize::try_from(bytes.sum::<u64>()).unwrap_or(usize::MAX)
    }

    /// One read, if there is something.
    fn read(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == Some(0) {
            return Ok(None);
        }
        self.turn ^= 1;
        for slot in [self.turn, self.turn ^ 1] {
            let Some(feed) = self.feeds.get_mut(slot) else { continue };
            if let Some(Feed::New(_)) = feed
                && let Some(Feed::New(fd)) = feed.take()
            {
                *feed = Some(Feed::Open(sys::watch(fd, Interest::READABLE)?));
            }
            let Some(Feed::Open(fd)) = feed else { continue };
            let skip = if self.terminal { 0 } else { frame::HEADER };
            let mut out = BytesMut::zeroed(skip + READ.min(self.left.unwrap_or(READ)));
            let target = out.get_mut(skip..).unwrap_or_default();
            let n = match rustix::io::read(fd.get_ref(), target) {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
                // A terminal that nobody has open.
                Err(rustix::io::Errno::IO) if self.terminal => 0,
                other => other?,
            };
            if n == 0 {
                *feed = None;
                continue;
            }
            self.left = self.left.map(|left| left.saturating_sub(n));
            out.truncate(skip + n);
            if skip > 0 {
                let stream = if slot == 0 { Stream::Stdout } else { Stream::Stderr };
                if let Some(mut header) = out.get_mut(..skip) {
                    header.put_slice(&frame::header(stream, n));
                }
            }
            return Ok(Some(out.freeze()));
        }
        Ok(None)
    }
}

/// Waits until a stream has something. A stream that is not there never has.
async fn readable(feed: Option<&Feed>) -> io::Result<()> {
    match feed {
        Some(Feed::Open(fd)) => {
            // The read itself was tried before and said that nothing is there.
            let mut ready = fd.readable().await?;
            ready.clear_ready();
            Ok(())
        }
        _ => std::future::pending().await,
    }
}
