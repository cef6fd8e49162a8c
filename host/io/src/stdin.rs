//! What clients write to a container.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::keys::Scanner;
use crate::sys;

/// What the end of a client's input means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinEnd {
    /// The process sees the end of its input; its output goes on.
    Closed,
    /// The input stays open for others; as in Docker the client's session ends.
    SessionEnds,
}

/// The result of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// All is with the process (or it closed its input and does not want more).
    All,
    /// The client typed the detach keys: end the session, the process runs on.
    Detached,
}

/// The input of a container or exec: at most one descriptor at a time, shared by all clients.
#[derive(Debug, Default)]
pub(crate) struct Input {
    slot: Mutex<Slot>,
    changed: Notify,
    closed: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    /// Before the first async use.
    fd: Option<OwnedFd>,
    shared: Option<Arc<AsyncFd<OwnedFd>>>,
    /// Counts descriptors.
    run: u64,
    /// Closed for good by a client, or no run will come.
    closed: bool,
}

impl Input {
    fn lock(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor of a new run.
    pub(crate) fn open(&self, fd: OwnedFd) -> io::Result<()> {
        sys::nonblocking(&fd)?;
        let mut slot = self.lock();
        *slot = Slot { fd: Some(fd), shared: None, run: slot.run + 1, closed: false };
        drop(slot);
        self.changed.notify_waiters();
        Ok(())
    }

    /// A clean slate before a run: what a client of the last run closed is open again.
    pub(crate) fn reset(&self) {
        let mut slot = self.lock();
        let run = slot.run;
        *slot = Slot { run, ..Slot::default() };
    }

    /// The end of the process's input.
    pub(crate) fn close(&self) {
        let mut slot = self.lock();
        let run = slot.run;
        *slot = Slot { closed: true, run, ..Slot::default() };
        drop(slot);
        self.changed.notify_waiters();
        self.closed.notify_waiters();
    }

    /// Resolves when a client closed the input.
    pub(crate) async fn closed(&self) {
        loop {
            let mut closed = pin!(self.closed.notified());
            closed.as_mut().enable();
            if self.lock().closed {
                return;
            }
            closed.await;
        }
    }

    /// The descriptor, once there is one; None when there will be none.
    async fn get(&self) -> io::Result<Option<Arc<AsyncFd<OwnedFd>>>> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut slot = self.lock();
                if slot.closed {
                    return Ok(None);
                }
                if let Some(fd) = slot.fd.take() {
                    slot.shared = Some(Arc::new(sys::watch(fd, tokio::io::Interest::WRITABLE)?));
                }
                if let Some(shared) = &slot.shared {
                    return Ok(Some(shared.clone()));
                }
            }
            changed.await;
        }
    }

    /// Writes all, unless the process closed its end or the input is closed meanwhile.
    async fn write(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let Some(fd) = self.get().await? else { return Ok(()) };
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.lock().closed {
                return Ok(());
            }
            let mut ready = tokio::select! {
                ready = fd.writable() => ready?,
                () = changed => continue,
            };
            match ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?)) {
                Ok(Ok(n)) => data = data.get(n..).unwrap_or_default(),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // The process does not read any more, or its terminal is gone: its output goes on.
                Ok(Err(error))
                    if matches!(error.kind(), io::ErrorKind::BrokenPipe)
                        || error.raw_os_error() == Some(5) =>
                {
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
        Ok(())
    }
}

/// A client's way to the process's input. Dropping it is a client that went away.
#[derive(Debug)]
pub struct Stdin {
    input: Arc<Input>,
    /// Only a terminal has detach keys.
    scanner: Option<Scanner>,
    /// The client's end closes the input for good.
    once: bool,
    open: bool,
}

impl Stdin {
    pub(crate) fn new(input: Arc<Input>, keys: Option<&[u8]>, once: bool) -> Self {
        Self { input, scanner: keys.map(Scanner::new), once, open: true }
    }

    /// Writes all of it, waiting while the process does not read (or does not run yet).
    pub async fn write(&mut self, data: &[u8]) -> Result<Written> {
        let failed = |error| Error::host("writing to the container's input", error);
        let Some(scanner) = &mut self.scanner else {
            self.input.write(data).await.map_err(failed)?;
            return Ok(Written::All);
        };
        let mut out = Vec::with_capacity(data.len() + 8);
        let detached = scanner.feed(data, &mut out);
        self.input.write(&out).await.map_err(failed)?;
        Ok(if detached {
            // The container's input outlives a client that detaches.
            self.open = false;
            Written::Detached
        } else {
            Written::All
        })
    }

    /// The client's input is at its end.
    pub async fn close(mut self) -> StdinEnd {
        if let Some(scanner) = &mut self.scanner {
            let held = scanner.finish().to_vec();
            if self.input.write(&held).await.is_err() {
                return StdinEnd::SessionEnds;
            }
        }
        if self.end() { StdinEnd::Closed } else { StdinEnd::SessionEnds }
    }

    /// True if the process now sees the end of its input.
    fn end(&mut self) -> bool {
        if !std::mem::replace(&mut self.open, false) || !self.once {
            return false;
        }
        self.input.close();
        true
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.end();
    }
}
