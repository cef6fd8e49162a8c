//! The threads that move output from pipes into spools.
//!
//! A pipe is registered once and costs nothing until it has bytes. Threads do no more than move bytes and wake readers:
//! no client, plugin or async task can hold one up. A disk can: then the streams of that spool are left to the thread that hangs, and
//! another goes on with all others (`watch`).

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use slab::Slab;

use crate::ring::Ring;
use crate::spool::{Moved, Source, Spool, Stream};
use crate::sys::{self, lock};
use crate::watch::{Place, Post, Watch};

/// Bytes taken from one pipe before others have their turn.
const TURN: usize = 256 << 10;
/// Spools whose files a thread leaves open; more are closed when they are quiet.
const OPEN_FILES: usize = 256;
/// Bytes of a turn that are worth a turn.
const WORTH: usize = 16 << 10;
/// Small turns of one stream that follow each other faster than this are a storm of small writes...
const STORM: u64 = 1000;
/// ...in which the thread waits so long, so that one turn takes hundreds of writes.
const NAP: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// The token of the wake descriptor.
const WAKE: u64 = u64::MAX;

/// Where the bytes go.
#[derive(Debug, Clone)]
enum Sink {
    Spool(Arc<Spool>, Stream),
    /// A queue in memory, which another thread writes to the spool.
    Ring(Arc<Ring>, Stream),
    /// An exec whose client went.
    Nowhere,
}

/// One pipe or terminal.
#[derive(Debug)]
struct Feed {
    fd: OwnedFd,
    terminal: bool,
    sink: Sink,
    /// The process is gone: what is in the pipe is all that counts.
    last: AtomicBool,
    /// Taken out of epoll until a reader moves.
    held: AtomicBool,
    /// A thread hangs with it, or with another of its spool; taken out of epoll until that thread is back.
    stuck: AtomicBool,
    /// A terminal that nobody has open: reported once, until somebody opens it again and writes.
    hung: AtomicBool,
    /// Microseconds of the process's clock at the last turn.
    turned: AtomicU64,
}

impl Feed {
    fn new(fd: OwnedFd, terminal: bool, sink: Sink) -> Self {
        let no = || AtomicBool::new(false);
        Self {
            fd,
            terminal,
            sink,
            last: no(),
            held: no(),
            stuck: no(),
            hung: no(),
            turned: AtomicU64::new(0),
        }
    }
}

/// What a thread is asked for between events.
#[derive(Debug)]
enum Request {
    /// The key may be another stream's by now.
    Finish(usize, Weak<Feed>),
    Look,
    Stop,
}

/// What one thread serves at a time. The thread may be replaced by another, so all that lasts is here.
#[derive(Debug)]
struct Worker {
    name: String,
    epoll: OwnedFd,
    wake: OwnedFd,
    feeds: Mutex<Slab<Arc<Feed>>>,
    requests: Mutex<VecDeque<Request>>,
    /// Streams that wait for a reader, with the time to look again.
    holds: Mutex<Vec<(usize, Instant)>>,
    /// Streams whose spools' files may be open, the latest at the end.
    recent: Mutex<Vec<usize>>,
    watch: Watch,
}

impl Worker {
    /// A thread for it.
    fn begin(self: &Arc<Self>) -> io::Result<()> {
        let weak: Weak<Self> = Arc::downgrade(self);
        let post = self.watch.post(weak);
        let thread = Thread::new(Arc::clone(self), post);
        std::thread::Builder::new().name(self.name.clone()).spawn(move || thread.run()).map(drop)
    }

    /// The streams of a spool, with their keys.
    fn streams_of(&self, spool: &Arc<Spool>) -> Vec<(usize, Arc<Feed>)> {
        let is_of = |feed: &Feed| matches!(&feed.sink, Sink::Spool(other, _) if Arc::ptr_eq(other, spool));
        lock(&self.feeds)
            .iter()
            .filter(|(_, feed)| is_of(feed))
            .map(|(key, feed)| (key, feed.clone()))
            .collect()
    }

    /// A thread that hung with a spool is back: the streams are served again.
    fn come_back(&self, spool: &Arc<Spool>) {
        for (key, feed) in self.streams_of(spool) {
            if !feed.stuck.swap(false, Ordering::SeqCst) {
                continue;
            }
            feed.hung.store(false, Ordering::SeqCst);
            if !feed.held.load(Ordering::SeqCst) {
                // It is not there, so it can be added.
                let _ = epoll::add(&self.epoll, &feed.fd, EventData::new_u64(key as u64), EventFlags::IN);
            }
            if feed.last.load(Ordering::SeqCst) {
                self.request(Request::Finish(key, Arc::downgrade(&feed)));
            }
        }
    }

    fn request(&self, request: Request) {
        lock(&self.requests).push_back(request);
        // Fails only when the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Place for Worker {
    fn relieve(self: Arc<Self>, post: &Arc<Post>) {
        let current = lock(&post.spool).take();
        if let Some(spool) = current {
            tracing::warn!(?spool, "the disk of a container's log does not answer; other containers' go on");
            for (_, feed) in self.streams_of(&spool) {
                feed.stuck.store(true, Ordering::SeqCst);
                if !feed.held.load(Ordering::SeqCst) {
                    let _ = epoll::delete(&self.epoll, &feed.fd);
                }
            }
        }
        // What the other thread was told of terminals that nobody had open it may not have come to.
        for (key, feed) in &*lock(&self.feeds) {
            if feed.hung.load(Ordering::SeqCst) && !feed.stuck.load(Ordering::SeqCst) {
                let data = EventData::new_u64(key as u64);
                let _ = epoll::modify(&self.epoll, &feed.fd, data, EventFlags::IN | EventFlags::ET);
            }
        }
        if let Err(error) = self.begin() {
            tracing::error!(%error, "no thread to go on with other containers' output");
        }
        // What the other thread was woken for it may not have come to either.
        self.request(Request::Look);
    }
}

/// A registered pipe.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    worker: Arc<Worker>,
    key: usize,
    feed: Weak<Feed>,
}

impl Handle {
    /// The process is gone: reads what is there now and closes, even if other processes hold the pipe.
    pub(crate) fn finish(&self) {
        self.worker.request(Request::Finish(self.key, Weak::clone(&self.feed)));
    }
}

/// All pump threads.
#[derive(Debug)]
pub(crate) struct Pump {
    workers: Vec<Arc<Worker>>,
    /// One that never touches a disk, for what must not wait for any.
    diskless: Arc<Worker>,
    next: AtomicUsize,
}

impl Drop for Pump {
    fn drop(&mut self) {
        for worker in self.workers.iter().chain([&self.diskless]) {
            worker.request(Request::Stop);
        }
    }
}

impl Pump {
    pub(crate) fn new(threads: usize, watch: &Watch) -> io::Result<Self> {
        let mut workers = Vec::new();
        for number in 0..=threads.max(1) {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
            let worker = Arc::new(Worker {
                name: format!("output-{number}"),
                epoll,
                wake,
                feeds: Mutex::default(),
                requests: Mutex::default(),
                holds: Mutex::default(),
                recent: Mutex::default(),
                watch: watch.clone(),
            });
            worker.begin()?;
            workers.push(worker);
        }
        let diskless = workers.pop().ok_or_else(|| io::Error::other("no pump thread"))?;
        Ok(Self { workers, diskless, next: AtomicUsize::new(0) })
    }

    /// A thread for a container; all its streams go to the same.
    pub(crate) fn choose(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Pumps a stream of a run into its spool, which counts the stream as open already.
    pub(crate) fn feed(
        &self,
        thread: usize,
        fd: OwnedFd,
        terminal: bool,
        spool: Arc<Spool>,
        stream: Stream,
    ) -> io::Result<Handle> {
        Self::add(self.worker(thread)?, Feed::new(fd, terminal, Sink::Spool(spool, stream)))
    }

    /// Pumps a stream of a run into memory.
    pub(crate) fn feed_ring(
        &self,
        fd: OwnedFd,
        terminal: bool,
        ring: Arc<Ring>,
        stream: Stream,
    ) -> io::Result<Handle> {
        Self::add(Arc::clone(&self.diskless), Feed::new(fd, terminal, Sink::Ring(ring, stream)))
    }

    fn worker(&self, thread: usize) -> io::Result<Arc<Worker>> {
        let worker = self.workers.get(thread % self.workers.len().max(1)).cloned();
        worker.ok_or_else(|| io::Error::other("no pump thread"))
    }

    /// Reads a stream to its end and throws it away.
    pub(crate) fn discard(&self, fd: OwnedFd, terminal: bool) -> io::Result<()> {
        let worker = self.worker(self.choose())?;
        Self::add(worker, Feed::new(fd, terminal, Sink::Nowhere)).map(|_| ())
    }

    fn add(worker: Arc<Worker>, feed: Feed) -> io::Result<Handle> {
        sys::nonblocking(&feed.fd)?;
        if let Sink::Spool(spool, _) = &feed.sink {
            let waker = Arc::downgrade(&worker);
            spool.on_release(Arc::new(move || {
                if let Some(worker) = waker.upgrade() {
                    worker.request(Request::Look);
                }
            }));
        }
        let feed = Arc::new(feed);
        let mut feeds = lock(&worker.feeds);
        let key = feeds.insert(feed.clone());
        if let Err(error) =
            epoll::add(&worker.epoll, &feed.fd, EventData::new_u64(key as u64), EventFlags::IN)
        {
            feeds.remove(key);
            return Err(error.into());
        }
        drop(feeds);
        Ok(Handle { worker, key, feed: Arc::downgrade(&feed) })
    }
}

/// What became of a stream's turn.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    More,
    Empty,
    End,
    /// A terminal that no process has open; another may open it while the container lives.
    HungUp,
    Hold(Duration),
}

struct Thread {
    worker: Arc<Worker>,
    post: Arc<Post>,
    /// A spool whose files were closed in this turn.
    closed: Option<Arc<Spool>>,
    buffer: Vec<u8>,
    /// Bytes moved in this turn.
    moved: usize,
    /// In this round a stream came again too soon...
    storm: bool,
    /// ...and none had much.
    worth: bool,
}

impl Thread {
    fn new(worker: Arc<Worker>, post: Arc<Post>) -> Self {
        Self { worker, post, closed: None, buffer: vec![0; 64 << 10], moved: 0, storm: false, worth: false }
    }

    fn run(mut self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(128);
        loop {
            events.clear();
            let timeout = self.timeout();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.worker.epoll, spare, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the output thread cannot wait for output");
                    return;
                }
            }
            (self.storm, self.worth) = (false, false);
            for event in &events {
                let token = event.data.u64();
                if token == WAKE {
                    let mut count = [0; 8];
                    let _ = rustix::io::read(&self.worker.wake, &mut count);
                } else if let Ok(key) = usize::try_from(token) {
                    // A key stays what it is until this thread removes it, which it does in that key's own turn.
                    let Some(feed) = self.feed(key) else { continue };
                    if !self.with(&feed, |this| this.turn(key, &feed, event.flags)) {
                        return;
                    }
                }
            }
            if !self.requests() {
                return;
            }
            self.look_at_holds();
            if self.storm && !self.worth {
                // A process that writes each line by itself would cost a turn for each line. Requests end the wait.
                let wake = rustix::event::PollFd::new(&self.worker.wake, rustix::event::PollFlags::IN);
                let _ = rustix::event::poll(&mut [wake], Some(&NAP));
            }
        }
    }

    /// Does something for a stream that may hang with its spool's disk. False: another thread is in this one's place.
    fn with(&mut self, feed: &Feed, work: impl FnOnce(&mut Self)) -> bool {
        let Sink::Spool(spool, _) = &feed.sink else {
            work(self);
            return true;
        };
        *lock(&self.post.spool) = Some(Arc::clone(spool));
        self.worker.watch.begin(&self.post);
        work(self);
        let in_time = Watch::end(&self.post);
        if in_time {
            *lock(&self.post.spool) = None;
            self.closed = None;
        } else {
            let closed = self.closed.take();
            closed.iter().chain([spool]).for_each(|spool| self.worker.come_back(spool));
        }
        in_time
    }

    fn timeout(&self) -> Option<Timespec> {
        let next = lock(&self.worker.holds).iter().map(|(_, at)| *at).min()?;
        let wait = next.saturating_duration_since(Instant::now());
        Some(Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        })
    }

    /// False: stop.
    fn requests(&mut self) -> bool {
        loop {
            // One by one: the rest is another thread's should this one hang.
            let request = lock(&self.worker.requests).pop_front();
            let Some(request) = request else { return true };
            match request {
                Request::Finish(key, feed) => {
                    let now = self.feed(key);
                    let Some(now) = now.filter(|now| std::ptr::eq(Arc::as_ptr(now), feed.as_ptr())) else {
                        continue;
                    };
                    if !self.with(&now, |this| this.finish(key, &now)) {
                        return false;
                    }
                }
                Request::Look => {
                    let now = Instant::now();
                    lock(&self.worker.holds).iter_mut().for_each(|(_, at)| *at = now);
                }
                Request::Stop => return false,
            }
        }
    }

    fn look_at_holds(&mut self) {
        let due: Vec<(usize, Instant)> = {
            let mut holds = lock(&self.worker.holds);
            if holds.is_empty() {
                return;
            }
            let now = Instant::now();
            let (due, rest) = std::mem::take(&mut *holds).into_iter().partition(|(_, at)| *at <= now);
            *holds = rest;
            due
        };
        for (key, _) in due {
            let Some(feed) = self.feed(key) else { continue };
            if feed.held.swap(false, Ordering::SeqCst)
                && !feed.stuck.load(Ordering::SeqCst)
                && let Err(error) =
                    epoll::add(&self.worker.epoll, &feed.fd, EventData::new_u64(key as u64), EventFlags::IN)
            {
                tracing::error!(%error, "a container's output cannot be waited for");
                self.remove(key);
            }
        }
    }

    fn feed(&self, key: usize) -> Option<Arc<Feed>> {
        lock(&self.worker.feeds).get(key).cloned()
    }

    fn turn(&mut self, key: usize, feed: &Feed, flags: EventFlags) {
        if feed.held.load(Ordering::SeqCst) || feed.stuck.load(Ordering::SeqCst) {
            return;
        }
        if !feed.terminal && flags.contains(EventFlags::HUP) && !flags.contains(EventFlags::IN) {
            // At its end and empty. Nothing is made for a process that printed nothing.
            self.remove(key);
            return;
        }
        self.moved = 0;
        let turn = self.pump(feed, TURN);
        if self.moved > 0 {
            let now = u64::try_from(sys::uptime().as_micros()).unwrap_or(u64::MAX);
            let last = feed.turned.swap(now, Ordering::Relaxed);
            self.worth |= self.moved >= WORTH;
            self.storm |= last > 0 && now.saturating_sub(last) < STORM && self.moved < WORTH;
        }
        match turn {
            Turn::More if feed.terminal => {
                if feed.hung.swap(false, Ordering::SeqCst) {
                    // Edge-triggered, the rest would not be reported.
                    self.watch(feed, key, EventFlags::IN);
                }
            }
            Turn::Empty if feed.last.load(Ordering::SeqCst) => self.remove(key),
            Turn::More | Turn::Empty => {}
            Turn::End => self.remove(key),
            Turn::HungUp => {
                if feed.last.load(Ordering::SeqCst) {
                    self.remove(key);
                } else if !feed.hung.swap(true, Ordering::SeqCst) {
                    // Level-triggered it would be reported for ever, and so it would when set anew each time.
                    self.watch(feed, key, EventFlags::IN | EventFlags::ET);
                }
            }
            Turn::Hold(wait) => {
                feed.held.store(true, Ordering::SeqCst);
                let _ = epoll::delete(&self.worker.epoll, &feed.fd);
                lock(&self.worker.holds).push((key, Instant::now() + wait));
            }
        }
        if let Sink::Spool(..) = feed.sink
            && lock(&self.worker.recent).last() != Some(&key)
        {
            self.remember(key);
        }
    }

    fn watch(&self, feed: &Feed, key: usize, flags: EventFlags) {
        // Only a descriptor that is not there could fail, and then there is nothing to watch.
        let _ = epoll::modify(&self.worker.epoll, &feed.fd, EventData::new_u64(key as u64), flags);
    }

    /// The process is gone. What it wrote is in the pipe, so at most what a pipe holds is read.
    fn finish(&mut self, key: usize, feed: &Feed) {
        feed.last.store(true, Ordering::SeqCst);
        if feed.stuck.load(Ordering::SeqCst) {
            // The thread that hangs with it sees to it.
            return;
        }
        let mut left = rustix::pipe::fcntl_getpipe_size(&feed.fd).unwrap_or(64 << 10);
        if let Ok(now) = rustix::io::ioctl_fionread(&feed.fd)
            && !feed.terminal
        {
            left = usize::try_from(now).unwrap_or(left);
        }
        while left > 0 {
            match self.pump(feed, left.min(TURN)) {
                // A terminal gives as much as it has; a pipe what was counted.
                Turn::More => left = left.saturating_sub(TURN),
                Turn::Empty | Turn::End | Turn::HungUp => break,
                Turn::Hold(wait) => {
                    // Its reader is alive and behind: the rest comes when it moved.
                    if !feed.held.swap(true, Ordering::SeqCst) {
                        let _ = epoll::delete(&self.worker.epoll, &feed.fd);
                        lock(&self.worker.holds).push((key, Instant::now() + wait));
                    }
                    return;
                }
            }
        }
        self.remove(key);
    }

    fn remove(&mut self, key: usize) {
        let feed = lock(&self.worker.feeds).try_remove(key);
        let Some(feed) = feed else { return };
        if !feed.held.load(Ordering::SeqCst) {
            let _ = epoll::delete(&self.worker.epoll, &feed.fd);
        }
        lock(&self.worker.holds).retain(|(held, _)| *held != key);
        lock(&self.worker.recent).retain(|recent| *recent != key);
        match &feed.sink {
            Sink::Spool(spool, _) => spool.stream_ended(),
            Sink::Ring(ring, _) => ring.end(),
            Sink::Nowhere => {}
        }
    }

    /// Closes files of quiet spools, so that thousands of containers that once printed do not hold thousands of files.
    fn remember(&mut self, key: usize) {
        if self.post.is_given_up() {
            return;
        }
        let oldest = {
            let mut recent = lock(&self.worker.recent);
            recent.retain(|recent| *recent != key);
            recent.push(key);
            if recent.len() <= OPEN_FILES {
                return;
            }
            recent.remove(0)
        };
        if let Some(feed) = self.feed(oldest)
            && let Sink::Spool(spool, _) = &feed.sink
        {
            // Should closing hang, it is this one that does.
            *lock(&self.post.spool) = Some(Arc::clone(spool));
            spool.close_files();
            self.closed = Some(Arc::clone(spool));
        }
    }

    fn pump(&mut self, feed: &Feed, max: usize) -> Turn {
        match self.try_pump(feed, max) {
            Ok(turn) => turn,
            Err(error) => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::AGAIN) => Turn::Empty,
                Some(rustix::io::Errno::IO) if feed.terminal => Turn::HungUp,
                _ => {
                    tracing::error!(%error, "a container's output cannot be read");
                    Turn::End
                }
            },
        }
    }

    fn try_pump(&mut self, feed: &Feed, max: usize) -> io::Result<Turn> {
        if !feed.terminal {
            return match &feed.sink {
                Sink::Nowhere => Ok(match crate::spool::discard(feed.fd.as_fd(), max)? {
                    0 => Turn::End,
                    n => {
                        if n < max {
                            Turn::Empty
                        } else {
                            Turn::More
                        }
                    }
                }),
                Sink::Spool(spool, stream) => {
                    Ok(match spool.append(*stream, Source::Pipe(feed.fd.as_fd()), max)? {
                        Moved::Bytes(n) => {
                            self.moved += n;
                            if n < max { Turn::Empty } else { Turn::More }
                        }
                        Moved::Empty => Turn::Empty,
                        Moved::End => Turn::End,
                        Moved::Hold(wait) => Turn::Hold(wait),
                    })
                }
                Sink::Ring(ring, stream) => {
                    let room = self.buffer.len().min(max);
                    let n = rustix::io::read(&feed.fd, self.buffer.get_mut(..room).unwrap_or_default())?;
                    if n == 0 {
                        return Ok(Turn::End);
                    }
                    self.moved += n;
                    ring.push(*stream, self.buffer.get(..n).unwrap_or_default());
                    Ok(if n < room { Turn::Empty } else { Turn::More })
                }
            };
        }
        // A terminal gives a few kilobytes at most in one read, and cannot be spliced.
        if let Sink::Spool(spool, _) = &feed.sink
            && let Some(wait) = spool.hold()?
        {
            return Ok(Turn::Hold(wait));
        }
        let mut filled = 0;
        let end = loop {
            let Some(rest) = self.buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) else {
                break Ok(Turn::More);
            };
            match rustix::io::read(&feed.fd, rest) {
                Ok(0) => break Ok(Turn::End),
                Ok(n) => filled += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => break Err(error.into()),
            }
        };
        if let Some(bytes) = self.buffer.get(..filled).filter(|bytes| !bytes.is_empty()) {
            match &feed.sink {
                Sink::Spool(spool, stream) => {
                    spool.append(*stream, Source::Bytes(bytes), filled)?;
                }
                Sink::Ring(ring, stream) => ring.push(*stream, bytes),
                Sink::Nowhere => {}
            }
            self.moved += filled;
        }
        end
    }
}
