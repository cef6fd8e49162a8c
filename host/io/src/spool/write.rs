//! The one writer of a spool: a pump thread.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::Duration;

use super::record::{self, Record, Stream};
use super::segment::{Files, Segment};
use super::{Spool, State, total};
use crate::sys;

/// Bytes of one stream that arrive so soon after each other share a record, and so a time stamp.
const SAME_TIME: u64 = 100_000;

#[derive(Debug, Default)]
pub(super) struct Writer {
    active: Option<Box<Active>>,
    /// Bytes that could not be kept since the last record.
    lost: u64,
}

#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    files: Arc<Files>,
    /// The last published record.
    last: Option<Record>,
    records: u64,
    end: u64,
}

impl Writer {
    /// Closes the files; the next byte opens them again.
    pub(super) fn close(&mut self) {
        self.active = None;
    }
}

/// Where bytes come from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A pipe: moved by the kernel.
    Pipe(BorrowedFd<'a>),
    /// Read already.
    Bytes(&'a [u8]),
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// So many bytes are in the spool (or, on a broken disk, are counted as lost).
    Bytes(usize),
    /// The pipe is empty.
    Empty,
    /// The pipe is at its end.
    End,
    /// An attached reader is too far behind; look again when it moved, or after this time.
    Hold(Duration),
}

impl Spool {
    /// Takes up to `max` bytes of a stream.
    pub(crate) fn append(&self, stream: Stream, source: Source<'_>, max: usize) -> io::Result<Moved> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = match self.try_append(&mut writer, stream, source, max) {
            Ok(moved) => moved,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Moved::Empty,
            Err(error) => {
                // The disk, not the pipe: reading the pipe has no other failures.
                if writer.lost == 0 {
                    tracing::error!(dir = %self.dir.display(), %error, "container output cannot be kept and is dropped");
                }
                writer.close();
                if error.kind() == io::ErrorKind::StorageFull {
                    self.trim(&mut self.lock(), 0);
                }
                let dropped = match source {
                    Source::Bytes(bytes) => bytes.len(),
                    Source::Pipe(pipe) => match discard(pipe, max) {
                        Ok(0) => return Ok(Moved::End),
                        Ok(n) => n,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Moved::Empty),
                        Err(error) => return Err(error),
                    },
                };
                writer.lost += dropped as u64;
                return Ok(Moved::Bytes(dropped));
            }
        };
        drop(writer);
        if let Moved::Bytes(_) = moved {
            self.changed.notify_waiters();
            if let Some(hook) = self.arrived.get() {
                hook();
            }
        }
        Ok(moved)
    }

    fn try_append(
        &self,
        writer: &mut Writer,
        stream: Stream,
        source: Source<'_>,
        max: usize,
    ) -> io::Result<Moved> {
        if writer.active.as_ref().is_none_or(|active| active.segment.size() >= self.limits.segment) {
            let mut state = self.loaded()?;
            if state.removed {
                return Err(io::Error::other("the container is removed"));
            }
            if let Source::Pipe(_) = source
                && let Some(wait) = self.must_hold(&state)
            {
                return Ok(Moved::Hold(wait));
            }
            writer.active = Some(Box::new(self.activate(&mut state)?));
        }
        let lost = writer.lost;
        let Some(active) = writer.active.as_mut() else { return Ok(Moved::Empty) };
        let time = sys::now();
        let same = active.last.is_some_and(|last| {
            last.stream == stream && time.wrapping_sub(last.time) < SAME_TIME && lost == 0
        });
        let record = Record { offset: active.end, time, lost, stream };
        if !same {
            // The intent. It counts for readers only when bytes followed.
            sys::write_at(&active.files.index, &record.encode(), active.records * record::SIZE)?;
        }
        let moved = match source {
            Source::Pipe(pipe) => {
                let offset = active.end - active.segment.base;
                let moved = match sys::splice(pipe, &active.files.data, Some(offset), max) {
                    // A file system without splice.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        let mut buffer = vec![0; max.min(64 << 10)];
                        let n = rustix::io::read(pipe, &mut *buffer)?;
                        sys::write_at(&active.files.data, buffer.get(..n).unwrap_or_default(), offset)?;
                        n
                    }
                    other => other?,
                };
                if moved == 0 {
                    return Ok(Moved::End);
                }
                moved
            }
            Source::Bytes(bytes) => {
                sys::write_at(&active.files.data, bytes, active.end - active.segment.base)?;
                bytes.len()
            }
        };
        active.end += moved as u64;
        if !same {
            active.records += 1;
            active.segment.will_have(stream);
            active.last = Some(record);
            writer.lost = 0;
        }
        active.segment.publish(active.records, active.end);
        Ok(Moved::Bytes(moved))
    }

    /// Bytes were dropped before they came here: the next record tells of them.
    pub(crate) fn note_lost(&self, lost: u64) {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).lost += lost;
    }

    /// Makes whoever writes wait, as for a disk that hangs.
    #[cfg(test)]
    pub(crate) fn hang(&self) -> impl Drop + '_ {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the container has to wait before more is read from it.
    pub(crate) fn hold(&self) -> io::Result<Option<Duration>> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.active.as_ref().is_some_and(|active| active.segment.size() < self.limits.segment) {
            return Ok(None);
        }
        let state = self.loaded()?;
        Ok(self.must_hold(&state))
    }

    /// The segment to write to: the newest, or a new one if that is full.
    fn activate(&self, state: &mut State) -> io::Result<Active> {
        if let Some(segment) = state.segments.back()
            && segment.size() < self.limits.segment
        {
            let files = segment.files(&self.dir)?;
            let extent = segment.extent();
            let from = extent.records.saturating_sub(1);
            let last = record::read(&files.index, from, extent.records, sys::Wait::Yes)?.pop();
            let segment = segment.clone();
            return Ok(Active { segment, files, last, records: extent.records, end: extent.end });
        }
        if state.segments.is_empty() {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        }
        let base = state.segments.back().map_or(0, |segment| segment.extent().end);
        let (segment, files) = Segment::create(&self.dir, base)?;
        state.segments.push_back(segment.clone());
        self.trim(state, self.limits.total);
        Ok(Active { segment, files, last: None, records: 0, end: base })
    }

    /// Whether the container has to wait for an attached reader, and how long at most.
    fn must_hold(&self, state: &State) -> Option<Duration> {
        let oldest = state.segments.front()?;
        if total(state) < self.limits.attached {
            return None;
        }
        // Said before looking: a reader that moves on after this look wakes the pump.
        self.held.store(true, Ordering::SeqCst);
        let (_, wait) = self.held_back(oldest.extent().end);
        if wait.is_none() {
            self.held.store(false, Ordering::SeqCst);
        }
        wait
    }

    /// Closes the files of a spool that was quiet; the pump does it when many are open. Not while somebody writes.
    pub(crate) fn close_files(&self) {
        match self.writer.try_lock() {
            Ok(mut writer) => writer.close(),
            Err(TryLockError::Poisoned(writer)) => writer.into_inner().close(),
            Err(TryLockError::WouldBlock) => {}
        }
    }
}

/// Throws bytes of a pipe away without looking at them.
pub(crate) fn discard(pipe: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
    use std::fs::File;
    use std::sync::OnceLock;
    static NULL: OnceLock<File> = OnceLock::new();
    let null = if let Some(null) = NULL.get() {
        null
    } else {
        let file = File::options().write(true).open("/dev/null")?;
        NULL.get_or_init(|| file)
    };
    sys::splice(pipe, null, None, max)
}
