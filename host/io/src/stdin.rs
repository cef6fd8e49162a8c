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

/// The input of a container or exec: at most one descriptor at a time, shared by all clients of its run.
#[derive(Debug, Default)]
pub(crate) struct Input {
    slot: Mutex<Slot>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Slot {
    phase: Phase,
    /// The last run, the present one included; 0 before the first.
    run: u64,
    /// A client of the coming run closed it already: the process sees the end at once.
    ahead: bool,
    /// No run will come.
    over: bool,
}

#[derive(Debug, Default)]
enum Phase {
    /// No run, or its input is not there yet.
    #[default]
    Idle,
    /// Before the first async use.
    New(OwnedFd),
    Open(Arc<AsyncFd<OwnedFd>>),
    /// A client closed it; the process may run on.
    Closed,
}

impl Slot {
    /// The run that a client who comes now is a client of: the present one, or else the next.
    fn of_clients(&self) -> u64 {
        self.run + u64::from(matches!(self.phase, Phase::Idle))
    }
}

impl Input {
    fn lock(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Slot)) {
        change(&mut self.lock());
        self.changed.notify_waiters();
    }

    /// The descriptor of a new run.
    pub(crate) fn open(&self, fd: OwnedFd) -> io::Result<()> {
        sys::nonblocking(&fd)?;
        self.change(|slot| {
            slot.run += 1;
            let closed = std::mem::take(&mut slot.ahead) || slot.over;
            slot.phase = if closed { Phase::Closed } else { Phase::New(fd) };
        });
        Ok(())
    }

    /// A run whose input was closed before this daemon came.
    pub(crate) fn adopt_closed(&self) {
        self.change(|slot| {
            slot.run += 1;
            slot.phase = Phase::Closed;
        });
    }

    /// The run is over. Its clients' input goes nowhere from now on; those who come now are the next run's.
    pub(crate) fn end(&self) {
        self.change(|slot| slot.phase = Phase::Idle);
    }

    /// A run that was to come does not: its clients' input goes nowhere.
    pub(crate) fn skip(&self) {
        self.change(|slot| {
            *slot = Slot { run: slot.of_clients(), over: slot.over, ..Slot::default() };
        });
    }

    /// No further run will come.
    pub(crate) fn finish(&self) {
        self.change(|slot| *slot = Slot { run: slot.run, over: true, ..Slot::default() });
    }

    /// A client of a run closes its input for good, which may be before it starts.
    fn close(&self, run: u64) {
        self.change(|slot| match slot.phase {
            Phase::Idle => slot.ahead |= run == slot.run + 1,
            _ if run == slot.run => slot.phase = Phase::Closed,
            _ => {}
        });
    }

    /// Resolves when the present run's input was closed by a client (true), or the run is over (false).
    pub(crate) async fn closed(&self) -> bool {
        let mut run = None;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let slot = self.lock();
                match slot.phase {
                    _ if *run.get_or_insert(slot.run) != slot.run => return false,
                    Phase::Idle => return false,
                    Phase::Closed => return true,
                    Phase::New(_) | Phase::Open(_) => {}
                }
            }
            changed.await;
        }
    }

    /// The descriptor of a run, once there is one; None when there will be none.
    async fn get(&self, run: u64) -> io::Result<Option<Arc<AsyncFd<OwnedFd>>>> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut slot = self.lock();
                let coming = matches!(slot.phase, Phase::Idle) && run == slot.run + 1;
                if slot.over || !(coming || run == slot.run) {
                    return Ok(None);
                }
                if matches!(slot.phase, Phase::New(_))
                    && let Phase::New(fd) = std::mem::replace(&mut slot.phase, Phase::Closed)
                {
                    // Closed, should this fail.
                    slot.phase = Phase::Open(Arc::new(sys::watch(fd, tokio::io::Interest::WRITABLE)?));
                }
                match &slot.phase {
                    Phase::Open(shared) => return Ok(Some(shared.clone())),
                    Phase::Idle if coming && !slot.ahead => {}
                    // Closed, or its run is over.
                    _ => return Ok(None),
                }
            }
            changed.await;
        }
    }

    /// Writes all, unless the process closed its end or the input is closed meanwhile.
    async fn write(&self, run: u64, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let Some(fd) = self.get(run).await? else { return Ok(()) };
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let here = {
                let slot = self.lock();
                slot.run == run && matches!(slot.phase, Phase::Open(_))
            };
            if !here {
                continue;
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
    /// Which run it is for: a process that is started later gets nothing of it.
    run: u64,
    /// Only a terminal has detach keys.
    scanner: Option<Scanner>,
    /// The client's end closes the input for good.
    once: bool,
    open: bool,
}

impl Stdin {
    pub(crate) fn new(input: Arc<Input>, keys: Option<&[u8]>, once: bool) -> Self {
        let run = input.lock().of_clients();
        Self { input, run, scanner: keys.map(Scanner::new), once, open: true }
    }

    /// Writes all of it, waiting while the process does not read (or does not run yet).
    pub async fn write(&mut self, data: &[u8]) -> Result<Written> {
        let failed = |error| Error::host("writing to the container's input", error);
        let Some(scanner) = &mut self.scanner else {
            self.input.write(self.run, data).await.map_err(failed)?;
            return Ok(Written::All);
        };
        let mut out = Vec::with_capacity(data.len() + 8);
        let detached = scanner.feed(data, &mut out);
        self.input.write(self.run, &out).await.map_err(failed)?;
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
            if self.input.write(self.run, &held).await.is_err() {
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
        self.input.close(self.run);
        true
    }
}

impl Drop for Stdin {
    fn drop(&mut self) {
        self.end();
    }
}
