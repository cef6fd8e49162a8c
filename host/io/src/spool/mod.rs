//! The spool: everything a container printed, on disk, before anybody else sees it.
//!
//! # Form
//! A directory of segments, each a data file (the bytes, nothing else: `cat *.data` is the output) and an index of
//! fixed-size [records](Record). A record is written *before* the bytes it describes are moved, and has no length: it ends where the
//! next begins. So a daemon killed between any two instructions leaves either bytes with their record, or a record
//! without bytes, which the next daemon drops. The kernel takes bytes out of the pipe only as it writes them to
//! the file, so none is lost or doubled either. Nothing is made before the first byte.
//!
//! # Limits, and slow readers
//! Segments are dropped from the old end when all of them together are larger than [`Limits::total`]. Readers hold a
//! claim at their position:
//! - a follower of `logs` or a log driver holds back dropping up to twice the limit, and while it reads up to
//!   [`Limits::follower`]. Then it loses what it did not read, and is told how much ([`Fill::Gap`]). It never slows the container.
//! - an attached client stands for a pipe (`docker run image dump | gzip`), in which a hole would be damage. It holds back dropping up
//!   to [`Limits::attached`]; then the container is held back as by a pipe, but only while that client
//!   reads: one that took nothing for [`GRACE`] is stuck, loses its claim and is told of the gap when it reads again.
//!
//! A disk that is full costs output, never a standing container: what cannot be kept is counted in the next record.

mod cursor;
mod record;
mod segment;
mod tail;
mod write;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Notify, Semaphore};

use crate::sys::{Wait, milliseconds};

pub(crate) use cursor::{Cursor, Fill, Run};
pub use record::{Record, Stream};
use segment::{Files, Segment};
pub(crate) use tail::Start;
pub(crate) use write::{Moved, Source, discard};

/// An attached client that took nothing for so long does not hold the container back any more.
pub const GRACE: Duration = Duration::from_secs(10);

/// How much a spool may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after which a new segment begins.
    pub segment: u64,
    /// Bytes of all segments after which old ones go.
    pub total: u64,
    /// Bytes up to which a follower that reads holds back dropping: one that is only a moment behind loses nothing, however small
    /// the files are.
    pub follower: u64,
    /// Bytes up to which an attached client that reads holds back dropping.
    pub attached: u64,
}

impl Limits {
    /// From a driver's `max-size` and `max-file`.
    pub fn of(max_size: u64, max_file: u32) -> Self {
        let total = max_size.saturating_mul(u64::from(max_file)).clamp(64 << 10, 1 << 40);
        Self {
            segment: (total / u64::from(max_file.clamp(2, 5))).max(16 << 10),
            total,
            follower: (total * 2).max(total + (64 << 20)),
            attached: total + (1 << 30),
        }
    }
}

/// Who reads, and how far; keeps segments from being dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    position: AtomicU64,
    /// Milliseconds of the process's clock at the last progress.
    progress: AtomicU64,
    attached: bool,
}

/// So many readers' threads may wait for the disk of one spool.
const WAITING: usize = 4;

type Deed = Box<dyn FnOnce(&Spool) + Send>;

/// What is to be done by a thread that nobody waits for, and whether there is one.
#[derive(Default)]
struct Later(Mutex<(VecDeque<Deed>, bool)>);

struct Waits {
    /// So many threads may wait at a time, on behalf of readers.
    gate: Arc<Semaphore>,
    later: Later,
}

impl Later {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<Deed>, bool)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True: a thread has to be started.
    fn push(&self, deed: Deed) -> bool {
        let mut held = self.lock();
        held.0.push_back(deed);
        !std::mem::replace(&mut held.1, true)
    }

    /// For that thread; None: it is not needed any more.
    fn pop(&self) -> Option<Deed> {
        let mut held = self.lock();
        let deed = held.0.pop_front();
        held.1 = deed.is_some();
        deed
    }
}

/// Bytes of all segments.
fn total(state: &State) -> u64 {
    state.segments.iter().map(|segment| segment.size()).sum()
}

#[derive(Debug, Default)]
struct State {
    loaded: bool,
    removed: bool,
    segments: VecDeque<Arc<Segment>>,
    /// Files of a removed spool that somebody still reads.
    pinned: Vec<Arc<Files>>,
}

/// All output of one container.
pub(crate) struct Spool {
    dir: Box<Path>,
    limits: Limits,
    /// Held while files are opened and removed, so only by threads that may wait for a disk.
    state: Mutex<State>,
    /// Never held while a disk is waited for.
    claims: Mutex<Slab<Arc<Claim>>>,
    writer: Mutex<write::Writer>,
    /// For those who may have to wait for its disk; made for the first.
    waits: OnceLock<Box<Waits>>,
    /// Told after every change that a reader may wait for.
    changed: Notify,
    /// The container is removed; known without the lock, which a hung disk may hold.
    gone: AtomicBool,
    /// The pump waits until a reader moves on.
    held: AtomicBool,
    /// Wakes the pump that waits.
    release: OnceLock<Arc<dyn Fn() + Send + Sync>>,
    /// Called after bytes arrived: the log driver.
    arrived: OnceLock<Arc<dyn Fn() + Send + Sync>>,
    started: AtomicU32,
    ended: AtomicU32,
    open: AtomicU32,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Spool {
    /// Touches no file.
    pub(crate) fn new(dir: PathBuf, limits: Limits) -> Self {
        Self {
            dir: dir.into_boxed_path(),
            limits,
            state: Mutex::default(),
            claims: Mutex::default(),
            writer: Mutex::default(),
            waits: OnceLock::new(),
            changed: Notify::new(),
            gone: AtomicBool::new(false),
            held: AtomicBool::new(false),
            release: OnceLock::new(),
            arrived: OnceLock::new(),
            started: AtomicU32::new(0),
            ended: AtomicU32::new(0),
            open: AtomicU32::new(0),
        }
    }

    pub(crate) fn on_arrival(&self, hook: Arc<dyn Fn() + Send + Sync>) {
        let _ = self.arrived.set(hook);
    }

    pub(crate) fn on_release(&self, hook: Arc<dyn Fn() + Send + Sync>) {
        let _ = self.release.set(hook);
    }

    /// A run with so many streams begins.
    pub(crate) fn begin(&self, streams: u32) {
        self.open.store(streams, Ordering::SeqCst);
        self.started.fetch_add(1, Ordering::SeqCst);
        if streams == 0 {
            self.end_run();
        }
    }

    /// One stream of the run is at its end.
    pub(crate) fn stream_ended(&self) {
        if self.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.end_run();
        }
    }

    fn end_run(&self) {
        self.ended.store(self.started.load(Ordering::SeqCst), Ordering::SeqCst);
        // Whoever has it closes the files some other time.
        self.close_files();
        self.changed.notify_waiters();
        if let Some(hook) = self.arrived.get() {
            hook();
        }
    }

    /// Runs that began.
    pub(crate) fn runs(&self) -> u32 {
        self.started.load(Ordering::SeqCst)
    }

    /// Whether a run's output goes on.
    pub(crate) fn running(&self) -> bool {
        self.started.load(Ordering::SeqCst) != self.ended.load(Ordering::SeqCst)
    }

    /// Whether nothing comes any more for readers of this run.
    pub(crate) fn ended(&self, run: u32) -> bool {
        self.ended.load(Ordering::SeqCst) >= run || self.gone.load(Ordering::SeqCst)
    }

    /// Whether the pump waits for a reader.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Waited for with `enable` before looking.
    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Knows the segments on disk; the first call looks.
    fn loaded(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if !state.loaded {
            let bases = Segment::list(&self.dir)?;
            for base in bases {
                let segment = Segment::recover(&self.dir, base)?;
                if let Some(last) = state.segments.back()
                    && last.extent().end > base
                {
                    tracing::warn!(dir = %self.dir.display(), base, "spool segments overlap; the later one is ignored");
                    continue;
                }
                state.segments.push_back(Arc::new(segment));
            }
            state.loaded = true;
        }
        Ok(state)
    }

    /// As [`loaded`](Self::loaded). Without waiting for a disk it is `WouldBlock` where somebody has it who may, or where
    /// nobody has looked yet.
    fn loaded_if(&self, wait: Wait) -> io::Result<MutexGuard<'_, State>> {
        if wait == Wait::Yes {
            return self.loaded();
        }
        match self.state.try_lock() {
            Ok(state) if state.loaded => Ok(state),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn waits(&self) -> &Waits {
        self.waits.get_or_init(|| {
            Box::new(Waits { gate: Arc::new(Semaphore::new(WAITING)), later: Later::default() })
        })
    }

    /// Does something on a thread that may wait for the disk. Where the disk hangs, so do a few such threads, and whoever comes
    /// later waits without one; who gives up leaves nothing but that.
    pub(crate) async fn apart<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = self.waits().gate.clone().acquire_owned().await.map_err(io::Error::other)?;
        let spool = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&spool);
            drop(permit);
            done
        });
        done.await.map_err(io::Error::other)?
    }

    /// Does something that may wait for the disk and that nobody waits for: on one other thread for all such things.
    pub(super) fn later(self: &Arc<Self>, work: impl FnOnce(&Self) + Send + 'static) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // A thread of its own, which may wait.
            work(self);
            return;
        };
        if self.waits().later.push(Box::new(work)) {
            let spool = self.clone();
            runtime.spawn_blocking(move || {
                while let Some(work) = spool.waits().later.pop() {
                    work(&spool);
                }
            });
        }
    }

    /// Position after the last byte, or of the first one, and without waiting for a disk where that is known.
    pub(crate) async fn position(self: &Arc<Self>, first: bool) -> io::Result<u64> {
        let of = move |state: &State| {
            if first {
                state.segments.front().map_or(0, |segment| segment.base)
            } else {
                state.segments.back().map_or(0, |segment| segment.extent().end)
            }
        };
        if let Ok(state) = self.loaded_if(Wait::No) {
            return Ok(of(&state));
        }
        let look = move |spool: &Self| {
            let state = spool.loaded()?;
            Ok(of(&state))
        };
        self.apart(look).await
    }

    /// Position after the last byte.
    pub(crate) fn end(&self) -> io::Result<u64> {
        Ok(self.loaded()?.segments.back().map_or(0, |segment| segment.extent().end))
    }

    /// Position of the first byte that is still there.
    pub(crate) fn begin_position(&self) -> io::Result<u64> {
        Ok(self.loaded()?.segments.front().map_or(0, |segment| segment.base))
    }

    fn claim(&self, position: u64, attached: bool) -> (usize, Arc<Claim>) {
        let claim = Arc::new(Claim { position: position.into(), progress: milliseconds().into(), attached });
        (self.claims().insert(claim.clone()), claim)
    }

    fn claims(&self) -> MutexGuard<'_, Slab<Arc<Claim>>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many read.
    pub(crate) fn readers(&self) -> usize {
        self.claims().len()
    }

    fn unclaim(self: &Arc<Self>, key: usize) {
        self.claims().try_remove(key);
        let small = self.loaded_if(Wait::No).is_ok_and(|state| total(&state) <= self.limits.total);
        if !small {
            self.later(|spool| spool.trim(&mut spool.lock(), spool.limits.total));
        }
        self.moved_on();
    }

    /// A reader left a segment: a pump that waits for it looks again.
    fn moved_on(&self) {
        if self.held.swap(false, Ordering::SeqCst)
            && let Some(release) = self.release.get()
        {
            release();
        }
    }

    /// Drops old segments as the claims allow.
    fn trim(&self, state: &mut State, limit: u64) {
        let mut total = total(state);
        while total > limit && state.segments.len() > 1 {
            let Some(oldest) = state.segments.front() else { break };
            if total <= self.held_back(oldest.extent().end).0 {
                break;
            }
            total -= oldest.size();
            oldest.unlink(&self.dir);
            state.segments.pop_front();
        }
    }

    /// Up to how many bytes readers that are before `end` hold back dropping, and for how long an attached one does.
    fn held_back(&self, end: u64) -> (u64, Option<Duration>) {
        let (mut bytes, mut wait) = (0, None);
        let now = milliseconds();
        for (_, claim) in &*self.claims() {
            if claim.position.load(Ordering::SeqCst) >= end {
                continue;
            }
            let idle = Duration::from_millis(now.saturating_sub(claim.progress.load(Ordering::Relaxed)));
            bytes = bytes.max(self.limits.total.saturating_mul(2));
            if idle < GRACE {
                bytes = bytes.max(self.limits.follower);
            }
            if claim.attached && idle < GRACE {
                // The pump looks only when a segment is full: what may be there beyond the limit stays too.
                let beyond = self.limits.segment.saturating_mul(2).saturating_add(1 << 20);
                bytes = bytes.max(self.limits.attached.saturating_add(beyond));
                wait = wait.max(Some(GRACE.saturating_sub(idle)));
            }
        }
        (bytes, wait)
    }

    /// The container is removed and its directory goes: whoever reads reads on from open files, then sees the end.
    pub(crate) fn remove(&self) {
        self.gone.store(true, Ordering::SeqCst);
        let mut state = self.lock();
        state.removed = true;
        if self.readers() > 0 {
            let files = state.segments.iter().filter_map(|segment| segment.files(&self.dir).ok()).collect();
            state.pinned = files;
        }
        drop(state);
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).close();
        self.changed.notify_waiters();
        self.moved_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: [u8; 1024] = [b'k'; 1024];

    fn spool(dir: &tempfile::TempDir, attached: u64) -> Arc<Spool> {
        let limits = Limits { segment: 4 << 10, total: 16 << 10, follower: 64 << 10, attached };
        Arc::new(Spool::new(dir.path().join("spool"), limits))
    }

    fn print(spool: &Spool, kib: usize) {
        for _ in 0..kib {
            spool.append(Stream::Stdout, Source::Bytes(&KIB), 1024).unwrap();
        }
    }

    fn read(cursor: &mut Cursor) -> (u64, u64) {
        let (mut bytes, mut gap, mut data, mut runs) = (0, 0, Vec::new(), Vec::new());
        loop {
            match cursor.fill([true; 2], &mut data, &mut runs, 64 << 10, Wait::Yes).unwrap() {
                Fill::Data => bytes += data.len() as u64,
                Fill::Gap(lost) => gap += lost,
                Fill::Nothing => return (bytes, gap),
            }
        }
    }

    fn on_disk(dir: &tempfile::TempDir) -> u64 {
        let entries = std::fs::read_dir(dir.path().join("spool")).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn a_follower_holds_twice_the_limit_and_is_told_what_it_missed() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir, 1 << 20);
        let mut slow = Cursor::new(spool.clone(), 0, false);
        print(&spool, 28);
        assert_eq!(read(&mut slow), (28 << 10, 0), "within twice the limit nothing is lost");
        print(&spool, 60);
        assert_eq!(read(&mut slow), (60 << 10, 0), "one that reads is waited for a little longer");
        print(&spool, 500);
        assert!(on_disk(&dir) <= 72 << 10, "{}", on_disk(&dir));
        // It does not read for a while, and twice the limit is all that is kept for it.
        for (_, claim) in &*spool.claims() {
            let before = milliseconds().saturating_sub(u64::try_from(GRACE.as_millis()).unwrap());
            claim.progress.store(before, Ordering::Relaxed);
        }
        print(&spool, 40);
        let (bytes, gap) = read(&mut slow);
        assert!(gap > 0 && bytes + gap == 540 << 10, "{bytes} and {gap}");
        assert!(on_disk(&dir) <= 40 << 10, "{}", on_disk(&dir));
        drop(slow);
        assert!(on_disk(&dir) <= 20 << 10, "{}", on_disk(&dir));
    }

    #[test]
    fn an_attached_client_that_reads_holds_the_container_and_a_stuck_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir, 32 << 10);
        let mut client = Cursor::new(spool.clone(), 0, true);
        print(&spool, 40);
        assert!(spool.hold().unwrap().is_some_and(|wait| wait <= GRACE));
        let released = Arc::new(AtomicU32::new(0));
        let counter = released.clone();
        spool.on_release(Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        assert_eq!(read(&mut client), (40 << 10, 0));
        assert_eq!(released.load(Ordering::SeqCst), 1, "reading on lets the container go on");
        assert_eq!(spool.hold().unwrap(), None);
        // The client stops reading, and the time of grace goes by.
        print(&spool, 40);
        for (_, claim) in &*spool.claims() {
            let before = milliseconds().saturating_sub(u64::try_from(GRACE.as_millis()).unwrap());
            claim.progress.store(before, Ordering::Relaxed);
        }
        assert_eq!(spool.hold().unwrap(), None, "a stuck client holds nothing");
        print(&spool, 100);
        let (bytes, gap) = read(&mut client);
        assert!(gap > 0 && bytes + gap == 140 << 10, "{bytes} and {gap}");
    }

    #[test]
    fn what_a_disk_did_not_take_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(&dir, 1 << 20);
        print(&spool, 1);
        // The directory cannot be written to: it is a file.
        spool.close_files();
        let path = dir.path().join("spool");
        let (aside, state) = (dir.path().join("aside"), spool.lock().segments.clone());
        std::fs::rename(&path, &aside).unwrap();
        std::fs::write(&path, b"").unwrap();
        print(&spool, 3);
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        print(&spool, 2);
        drop(state);
        assert_eq!(read(&mut Cursor::new(spool.clone(), 0, false)), (3 << 10, 3 << 10));
    }
}
