//! Log drivers: consumers of spools that write a file in a plugin's format.
//!
//! A few threads serve all containers. A driver that fails (its plugin traps, hangs, or the disk is full) concerns its container's file alone: the spool
//! goes on, `logs` reads it, and encoding goes on where it stopped when it works again.

mod file;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use wharf_plan::logs::{Chunk, Format, Source};

use crate::codec::{Codec, CodecError, CodecFuture, Codecs};
use crate::container::StreamSpec;
use crate::error::{Error, Result};
use crate::lines::{Line, Splitter};
use crate::options::LogOptions;
use crate::spool::{Cursor, Fill, Run, Spool, Stream};
use crate::sys::{self, Wait, lock};
use crate::watch::{Place, Post, Watch};
use file::{LogFile, Mark};

/// Bytes of output in one call of a codec.
const BATCH: usize = 256 << 10;
/// A container that prints little is looked at again after this time, so that its lines come in batches.
const PAUSE: Duration = Duration::from_millis(20);
/// A codec that failed twice in a row rests so long.
const REST: Duration = Duration::from_secs(30);
/// The plugin host has its own, much shorter deadlines; this is for a call that it forgot.
const DEADLINE: Duration = Duration::from_secs(10);

/// Marks of a record, as of the contract.
const STDERR: u8 = 1;
const PARTIAL: u8 = 2;
const LAST: u8 = 4;
const TRUNCATED: u8 = 8;

/// Drivers with something to do.
#[derive(Default)]
struct Queue {
    now: VecDeque<Arc<Driver>>,
    /// All wait equally long, so the first is the next.
    later: VecDeque<(Instant, Arc<Driver>)>,
    stop: bool,
}

struct Shared {
    codecs: Arc<dyn Codecs>,
    runtime: Handle,
    queue: Mutex<Queue>,
    filled: Condvar,
    watch: Watch,
}

/// All log drivers of the host.
pub(crate) struct Drivers {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Drivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drivers").finish_non_exhaustive()
    }
}

impl Drop for Drivers {
    fn drop(&mut self) {
        lock(&self.shared.queue).stop = true;
        self.shared.filled.notify_all();
    }
}

impl Drivers {
    pub(crate) fn open(
        codecs: Arc<dyn Codecs>,
        runtime: Handle,
        threads: usize,
        watch: Watch,
    ) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { codecs, runtime, queue: Mutex::default(), filled: Condvar::new(), watch });
        for _ in 0..threads.max(1) {
            shared.begin()?;
        }
        Ok(Self { shared })
    }

    /// Whether there is such a driver; Docker's text otherwise.
    pub(crate) fn known(&self, driver: &str) -> Result<()> {
        match self.shared.codecs.codec(driver) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::invalid(format!("logger: no log driver named '{driver}' is registered"))),
        }
    }

    /// The driver of a container; it works when output arrives.
    pub(crate) fn add(&self, spec: &StreamSpec, options: LogOptions, spool: &Arc<Spool>) -> Arc<Driver> {
        let path = match spec.log_driver.as_str() {
            "local" => spec.dir.join("container.log"),
            "json-file" => spec.dir.join(format!("{}-json.log", spec.id)),
            other => spec.dir.join(format!("{}-{}.log", spec.id, other.replace(['/', ':'], "-"))),
        };
        let driver = Arc::new(Driver {
            name: spec.log_driver.clone().into(),
            path: path.into(),
            cursor: spec.dir.join("log.cursor").into(),
            options,
            source: spec.source.clone(),
            spool: spool.clone(),
            shared: self.shared.clone(),
            queued: AtomicBool::new(false),
            again: AtomicBool::new(false),
            work: Mutex::default(),
            files: Mutex::new(()),
            removed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            flushed: AtomicU32::new(0),
            changed: Notify::new(),
        });
        let weak = Arc::downgrade(&driver);
        spool.on_arrival(Arc::new(move || {
            if let Some(driver) = weak.upgrade() {
                driver.wake();
            }
        }));
        driver
    }
}

/// The log driver of one container.
pub(crate) struct Driver {
    name: Box<str>,
    path: Box<Path>,
    cursor: Box<Path>,
    options: LogOptions,
    source: Arc<Source>,
    spool: Arc<Spool>,
    shared: Arc<Shared>,
    queued: AtomicBool,
    /// Whoever works for it is to look once more.
    again: AtomicBool,
    work: Mutex<Work>,
    /// Held while files of the directory are made or moved, so that it can be removed after [`Driver::remove`].
    files: Mutex<()>,
    removed: AtomicBool,
    failed: AtomicBool,
    /// The last run whose end is in the file.
    flushed: AtomicU32,
    changed: Notify,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Work {
    running: Option<Box<Running>>,
    failures: u32,
    retry: Option<Instant>,
}

/// A stream that is being encoded; only while its container runs.
struct Running {
    codec: Arc<dyn Codec>,
    format: Format,
    file: LogFile,
    cursor: Cursor,
    splitter: Splitter,
    mark: Mark,
    data: Vec<u8>,
    runs: Vec<Run>,
}

/// Why encoding stopped.
enum Failure {
    Codec(CodecError),
    Files(std::io::Error),
    Removed,
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Files(error)
    }
}

impl Place for Shared {
    fn relieve(self: Arc<Self>, _: &Arc<Post>) {
        if let Err(error) = self.begin() {
            tracing::error!(%error, "no thread to go on with other containers' logs");
        }
    }
}

impl Shared {
    /// A thread that serves.
    fn begin(self: &Arc<Self>) -> std::io::Result<()> {
        let weak: Weak<Self> = Arc::downgrade(self);
        let (shared, post) = (Arc::clone(self), self.watch.post(weak));
        std::thread::Builder::new().name("logs".into()).spawn(move || shared.serve(&post)).map(drop)
    }

    fn serve(&self, post: &Arc<Post>) {
        while let Some(driver) = self.take() {
            driver.queued.store(false, Ordering::SeqCst);
            self.watch.begin(post);
            let little = driver.work_alone();
            let in_time = Watch::end(post);
            driver.changed.notify_waiters();
            if little {
                // What comes in the next moment is collected.
                if !driver.queued.swap(true, Ordering::SeqCst) {
                    lock(&self.queue).later.push_back((Instant::now() + PAUSE, driver));
                    self.filled.notify_one();
                }
            }
            if !in_time {
                // Another serves in this one's place.
                return;
            }
        }
    }

    fn take(&self) -> Option<Arc<Driver>> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.stop {
                return None;
            }
            let now = Instant::now();
            let due = queue.later.front().map(|(at, _)| *at);
            if due.is_some_and(|due| due <= now) {
                return queue.later.pop_front().map(|(_, driver)| driver);
            }
            if let Some(driver) = queue.now.pop_front() {
                return Some(driver);
            }
            queue = match due {
                Some(due) => {
                    self.filled.wait_timeout(queue, due - now).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn call<T>(&self, future: CodecFuture<'_, T>) -> std::result::Result<T, CodecError> {
        self.runtime.block_on(async {
            tokio::time::timeout(DEADLINE, future)
                .await
                .unwrap_or_else(|_| Err(CodecError("the plugin did not answer".to_owned())))
        })
    }
}

impl Driver {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// There may be something to do.
    pub(crate) fn wake(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            lock(&self.shared.queue).now.push_back(self.clone());
            self.shared.filled.notify_one();
        }
    }

    /// No file of the container's directory is touched after this.
    pub(crate) fn remove(&self) {
        self.removed.store(true, Ordering::SeqCst);
        drop(lock(&self.files));
        self.changed.notify_waiters();
    }

    /// Waits until the file has the output of all ended runs, or cannot have it.
    pub(crate) async fn idle(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let done = !self.spool.running() && self.flushed.load(Ordering::SeqCst) >= self.spool.runs();
            if done || self.removed.load(Ordering::SeqCst) || self.failed.load(Ordering::SeqCst) {
                return;
            }
            changed.await;
        }
    }

    /// As [`work`](Self::work), by one thread at a time: were another to wait for one that hangs, it would hang as well.
    fn work_alone(&self) -> bool {
        self.again.store(true, Ordering::SeqCst);
        let mut little = false;
        while self.again.load(Ordering::SeqCst) {
            let mut work = match self.work.try_lock() {
                Ok(work) => work,
                Err(TryLockError::Poisoned(work)) => work.into_inner(),
                // Who has it looks again.
                Err(TryLockError::WouldBlock) => return false,
            };
            self.again.store(false, Ordering::SeqCst);
            little = self.work(&mut work);
        }
        little
    }

    /// Encodes what there is. True: it was something, but little.
    fn work(&self, work: &mut Work) -> bool {
        if self.removed.load(Ordering::SeqCst) {
            work.running = None;
            return false;
        }
        if work.retry.is_some_and(|retry| retry > Instant::now()) {
            return false;
        }
        let mut bytes = 0;
        loop {
            match self.step(work) {
                Ok(Some(n)) => {
                    work.failures = 0;
                    work.retry = None;
                    self.failed.store(false, Ordering::SeqCst);
                    bytes += n;
                }
                Ok(None) => return bytes > 0 && bytes < BATCH && self.spool.running(),
                Err(Failure::Removed) => {
                    work.running = None;
                    return false;
                }
                Err(failure) => {
                    // What was done is in the cursor; a new instance goes on from there.
                    work.running = None;
                    work.failures += 1;
                    let error = match failure {
                        Failure::Codec(error) => error.to_string(),
                        Failure::Files(error) => error.to_string(),
                        Failure::Removed => return false,
                    };
                    tracing::warn!(
                        container = self.source.container.id,
                        driver = &*self.name,
                        error,
                        "the log driver failed; output is kept and `logs` works"
                    );
                    if work.failures >= 2 {
                        work.retry = Some(Instant::now() + REST);
                        self.failed.store(true, Ordering::SeqCst);
                        return false;
                    }
                }
            }
        }
    }

    /// One batch. None: nothing to do.
    fn step(&self, work: &mut Work) -> std::result::Result<Option<usize>, Failure> {
        let run = self.spool.runs();
        let ended = !self.spool.running();
        let running = match &mut work.running {
            Some(running) => running,
            None if ended && self.flushed.load(Ordering::SeqCst) >= run => return Ok(None),
            None => work.running.insert(self.open()?),
        };
        let batch = usize::try_from(self.options.max_size / 8).unwrap_or(BATCH).clamp(1 << 10, BATCH);
        let Running { cursor, splitter, mark, data, runs, format, .. } = &mut **running;
        let mut chunk = Chunk {
            cookie: format.cookie.clone(),
            sequence: mark.sequence,
            times: Vec::new(),
            ends: Vec::new(),
            marks: Vec::new(),
            data: Vec::with_capacity(batch),
        };
        let most = if format.max_record == 0 { u32::MAX } else { format.max_record };
        let (mut read, mut finished) = (0, false);
        let mut to = *mark;
        match cursor.fill([true; 2], data, runs, batch, Wait::Yes)? {
            Fill::Gap(bytes) => {
                let text = format!("wharf: {bytes} bytes of output are missing here");
                let time = sys::now();
                let line = Line {
                    stream: Stream::Stderr,
                    time,
                    bytes: text.as_bytes(),
                    first: true,
                    ended: true,
                    end: 0,
                };
                put(&mut chunk, line, most);
            }
            Fill::Data => {
                for part in runs.iter() {
                    let bytes = data.get(part.range.clone()).unwrap_or_default();
                    read += bytes.len();
                    let slot = part.stream.slot();
                    let Some(position) = to.positions.get_mut(slot) else { continue };
                    // What is in the file already: the other stream was behind.
                    let skip = position.saturating_sub(part.position);
                    let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
                    let bytes = bytes.get(skip..).unwrap_or_default();
                    let from = part.position + skip as u64;
                    let _ = splitter.feed(part.stream, part.time, from, bytes, |line| {
                        *position = line.end;
                        put(&mut chunk, line, most);
                        ControlFlow::Continue(())
                    });
                }
            }
            Fill::Nothing if ended => {
                splitter.finish(|line| put(&mut chunk, line, most));
                finished = true;
                to.positions = [cursor.position(); 2];
            }
            Fill::Nothing => {
                cursor.rest();
                (*data, *runs) = (Vec::new(), Vec::new());
                return Ok(None);
            }
        }
        for (time, stream) in to.times.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            *time = splitter.long(stream).unwrap_or(0);
        }
        if !splitter.has_pending() {
            // After a restart one stream may be ahead of the cursor.
            to.positions = to.positions.map(|position| position.max(cursor.position()));
        }
        to.sequence += chunk.ends.len() as u64;
        if chunk.ends.is_empty() {
            *mark = to;
        } else {
            let encoded = self.shared.call(running.codec.encode(vec![chunk])).map_err(Failure::Codec)?;
            let files = lock(&self.files);
            if self.removed.load(Ordering::SeqCst) {
                return Err(Failure::Removed);
            }
            let compress = running.file.append(&encoded.concat(), to)?;
            running.mark = to;
            drop(files);
            if let Some(compress) = compress {
                compress.run(|| {
                    let files = lock(&self.files);
                    (!self.removed.load(Ordering::SeqCst)).then_some(files)
                })?;
            }
        }
        if finished {
            // The end of the run is in the file. Unless another run began meanwhile there is nothing left to hold.
            self.flushed.store(run, Ordering::SeqCst);
            work.running = None;
        }
        Ok(Some(read))
    }

    fn open(&self) -> std::result::Result<Box<Running>, Failure> {
        let codec = self.shared.codecs.codec(&self.name).map_err(|text| Failure::Codec(CodecError(text)))?;
        let format = self.shared.call(codec.open((*self.source).clone())).map_err(Failure::Codec)?;
        let (file, mark) = {
            let _files = lock(&self.files);
            if self.removed.load(Ordering::SeqCst) {
                return Err(Failure::Removed);
            }
            LogFile::open(&self.path, &self.cursor, self.options)?
        };
        let begin = self.spool.begin_position()?;
        let mark = mark.unwrap_or(Mark::at(begin));
        let mut splitter = Splitter::default();
        for (time, stream) in mark.times.into_iter().zip([Stream::Stdout, Stream::Stderr]) {
            splitter.resume(stream, (time != 0).then_some(time));
        }
        let position = mark.positions.into_iter().min().unwrap_or(begin);
        let cursor = Cursor::new(self.spool.clone(), position, false);
        let (data, runs) = (Vec::new(), Vec::new());
        Ok(Box::new(Running { codec, format, file, cursor, splitter, mark, data, runs }))
    }
}

/// Adds a record. Newlines are the codec's: a record has none unless it is in the middle.
fn put(chunk: &mut Chunk, line: Line<'_>, most: u32) {
    let mut marks = if line.stream == Stream::Stderr { STDERR } else { 0 };
    if !line.first || !line.ended {
        marks |= PARTIAL;
        if line.ended {
            marks |= LAST;
        }
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let bytes = if line.bytes.len() > most {
        marks |= TRUNCATED;
        line.bytes.get(..most).unwrap_or_default()
    } else {
        line.bytes
    };
    chunk.data.extend_from_slice(bytes);
    chunk.ends.push(u32::try_from(chunk.data.len()).unwrap_or(u32::MAX));
    chunk.times.push(line.time);
    chunk.marks.push(marks);
}
