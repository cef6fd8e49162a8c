//! One container's standard streams over all its runs.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::codec::Codecs;
use crate::driver::{Driver, Drivers};
use crate::error::{Error, Result};
use crate::exec::{ExecIo, ExecSpec};
use crate::keys;
use crate::options::{self, LogOptions};
use crate::pump::{Handle, Pump};
use crate::reader::{LineView, Output, View};
use crate::ring::Ring;
use crate::spool::{Limits, Spool, Start, Stream};
use crate::stdin::{Input, Stdin};
use crate::sys;
use crate::watch::Watch;

/// What does not change while a container lives.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    /// Container id.
    pub id: String,
    /// The container's own directory (0700, made by the caller).
    pub dir: PathBuf,
    /// A terminal rather than three pipes.
    pub tty: bool,
    /// Keep stdin open; otherwise it is /dev/null.
    pub open_stdin: bool,
    /// Close stdin when the first attached client goes.
    pub stdin_once: bool,
    /// Log driver.
    pub log_driver: String,
    /// Its options.
    pub log_options: BTreeMap<String, String>,
    /// Image reference, image id, command, environment, labels and creation time, for codecs and `details`.
    pub source: Arc<wharf_plan::logs::Source>,
}

/// What a new process gets, and what the keeper holds for later daemons.
#[derive(Debug, Default)]
pub struct ChildStdio {
    /// 0, 1 and 2; None is /dev/null. All None with a terminal.
    pub child: [Option<OwnedFd>; 3],
    /// Duplicates of the daemon's ends under the keeper's names `stdin`, `stdout`, `stderr`.
    pub hold: Vec<(String, OwnedFd)>,
}

/// How many lines from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tail {
    /// All lines.
    #[default]
    All,
    /// The last so many.
    Lines(u64),
}

impl Tail {
    /// Docker's `tail` parameter: empty, `all` and what is no number mean all lines.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or(Self::All, Self::Lines)
    }
}

/// What `logs` shall return.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Wait for more until the run ends.
    pub follow: bool,
    /// Lines of stdout.
    pub stdout: bool,
    /// Lines of stderr.
    pub stderr: bool,
    /// Lines at or after this time, in nanoseconds since 1970.
    pub since: Option<u64>,
    /// Lines at or before this time.
    pub until: Option<u64>,
    /// How many from the end.
    pub tail: Tail,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// Each line begins with the attributes that the log options select.
    pub details: bool,
}

/// What `attach` shall do.
#[derive(Debug, Clone, Default)]
pub struct AttachQuery {
    /// Replay what is there.
    pub logs: bool,
    /// Follow what comes.
    pub stream: bool,
    /// Write stdin.
    pub stdin: bool,
    /// Output of stdout (the terminal's output counts as stdout).
    pub stdout: bool,
    /// Output of stderr.
    pub stderr: bool,
    /// Keys that detach; None takes the default.
    pub detach_keys: Option<String>,
}

/// Both directions of an attached client.
#[derive(Debug)]
pub struct Attached {
    /// What the container prints. Ends with the run.
    pub output: Output,
    /// What the container reads, if it was asked for and the container's stdin is open.
    pub stdin: Option<Stdin>,
}

/// The host-wide part: pump threads, log drivers.
#[derive(Debug, Clone)]
pub struct Streams {
    pump: Arc<Pump>,
    drivers: Arc<Drivers>,
}

impl Streams {
    /// Called once, inside the async runtime.
    pub fn open(codecs: Arc<dyn Codecs>) -> Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4);
        let failed = |error| Error::host("starting the output threads", error);
        let watch = Watch::start().map_err(failed)?;
        let pump = Pump::new(threads, &watch).map_err(failed)?;
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|error| Error::host("log drivers", error))?;
        let drivers = Drivers::open(codecs, runtime, threads.min(2), watch).map_err(failed)?;
        Ok(Self { pump: Arc::new(pump), drivers: Arc::new(drivers) })
    }

    /// Checks driver and options at container create: Docker's texts, nothing changed.
    pub fn check(&self, driver: &str, options: &BTreeMap<String, String>) -> Result<()> {
        LogOptions::parse(driver, options)?;
        if driver != NONE {
            self.drivers.known(driver)?;
        }
        Ok(())
    }

    /// The handle of one container, new or known from the store. Does no input or output.
    pub fn container(&self, mut spec: StreamSpec) -> Arc<ContainerIo> {
        // Neither plugins nor log files get more of the environment than the options select.
        let environment = options::environment(&spec.log_options, &spec.source.environment);
        if environment != spec.source.environment {
            spec.source = Arc::new(wharf_plan::logs::Source { environment, ..(*spec.source).clone() });
        }
        // Checked when the container was made; what cannot be read any more gets the defaults.
        let options = LogOptions::parse(&spec.log_driver, &spec.log_options).unwrap_or_default();
        let limits = if spec.log_driver == NONE {
            Limits { segment: 1 << 20, total: 4 << 20, follower: 8 << 20, attached: 1 << 30 }
        } else {
            Limits::of(options.max_size, options.max_file)
        };
        let spool = Arc::new(Spool::new(spec.dir.join("spool"), limits));
        let ring = options
            .buffer
            .map(|most| Arc::new(Ring::new(Arc::clone(&spool), usize::try_from(most).unwrap_or(usize::MAX))));
        let driver = (spec.log_driver != NONE).then(|| self.drivers.add(&spec, options, &spool));
        Arc::new(ContainerIo {
            thread: self.pump.choose(),
            pump: self.pump.clone(),
            _drivers: self.drivers.clone(),
            spec,
            spool,
            ring,
            driver,
            input: Arc::default(),
            slot: Mutex::default(),
        })
    }

    /// The streams of one exec.
    pub fn exec(&self, spec: ExecSpec) -> Result<ExecIo> {
        ExecIo::new(spec, self.pump.clone())
    }
}

/// How long the end of a container, or its next start, waits for its last output.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// The driver that keeps nothing.
const NONE: &str = "none";

#[derive(Debug, Default)]
struct Slot {
    /// Our ends, from `start` to `started`.
    pipes: [Option<OwnedFd>; 2],
    /// What is pumped.
    handles: Vec<Handle>,
    /// A duplicate of the terminal's master, for resizing.
    pty: Option<OwnedFd>,
    size: Option<(u16, u16)>,
    /// A run was announced by `start` and has not begun.
    starting: bool,
}

/// One container's streams over all its runs.
#[derive(Debug)]
pub struct ContainerIo {
    spec: StreamSpec,
    pump: Arc<Pump>,
    /// Its threads run while there is a container.
    _drivers: Arc<Drivers>,
    thread: usize,
    spool: Arc<Spool>,
    /// Where output waits that is not to wait for a disk.
    ring: Option<Arc<Ring>>,
    driver: Option<Arc<Driver>>,
    input: Arc<Input>,
    slot: Mutex<Slot>,
}

impl ContainerIo {
    /// What it was made from.
    pub fn spec(&self) -> &StreamSpec {
        &self.spec
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the descriptors of a new run; an error while output of the last run is still under way. Attach clients registered before see everything from the first byte.
    pub fn start(&self) -> Result<ChildStdio> {
        let failed = |error| Error::host("making the container's pipes", error);
        let mut stdio = ChildStdio::default();
        if self.spool.running() {
            return Err(Error::host(
                "starting a run",
                std::io::Error::other(
                    "the output of the last one is not in its log yet: its disk does not answer; see to it, then start it again",
                ),
            ));
        }
        let mut slot = self.lock();
        slot.starting = true;
        if self.spec.tty {
            return Ok(stdio);
        }
        let [stdin, stdout, stderr] = &mut stdio.child;
        let mut hold = |name: &str, fd: &OwnedFd| -> std::io::Result<()> {
            stdio.hold.push((name.to_owned(), fd.try_clone()?));
            Ok(())
        };
        if self.spec.open_stdin {
            let (read, write) = sys::pipe().map_err(failed)?;
            hold("stdin", &write).map_err(failed)?;
            self.input.open(write).map_err(failed)?;
            *stdin = Some(read);
        }
        for (ours, (name, theirs)) in slot.pipes.iter_mut().zip([("stdout", stdout), ("stderr", stderr)]) {
            let (read, write) = sys::pipe().map_err(failed)?;
            hold(name, &read).map_err(failed)?;
            (*ours, *theirs) = (Some(read), Some(write));
        }
        Ok(stdio)
    }

    /// The process runs; pumping begins. `pty` is the terminal's master.
    pub fn started(&self, pty: Option<OwnedFd>) {
        let mut slot = self.lock();
        let pipes = std::mem::take(&mut slot.pipes);
        self.run(&mut slot, pipes, pty);
    }

    fn run(&self, slot: &mut Slot, pipes: [Option<OwnedFd>; 2], pty: Option<OwnedFd>) {
        slot.starting = false;
        slot.handles.clear();
        let mut feeds = pipes;
        let terminal = pty.is_some();
        if let Some(pty) = pty {
            let prepared = (|| {
                if let Some((rows, columns)) = slot.size {
                    sys::resize(&pty, rows, columns)?;
                }
                if self.spec.open_stdin {
                    self.input.open(pty.try_clone()?)?;
                }
                slot.pty = Some(pty.try_clone()?);
                std::io::Result::Ok(())
            })();
            if let Err(error) = prepared {
                tracing::warn!(container = self.spec.id, %error, "the container's terminal is not complete");
            }
            feeds = [Some(pty), None];
        }
        self.spool.begin(u32::try_from(feeds.iter().flatten().count()).unwrap_or(0));
        for (fd, stream) in feeds.into_iter().zip([Stream::Stdout, Stream::Stderr]) {
            let Some(fd) = fd else { continue };
            let fed = match &self.ring {
                Some(ring) => self.pump.feed_ring(fd, terminal, Arc::clone(ring), stream),
                None => self.pump.feed(self.thread, fd, terminal, self.spool.clone(), stream),
            };
            match fed {
                Ok(handle) => slot.handles.push(handle),
                Err(error) => {
                    tracing::error!(container = self.spec.id, %error, "the container's output cannot be read");
                    self.spool.stream_ended();
                }
            }
        }
    }

    /// The start failed after [`ContainerIo::start`]; the run's descriptors go and attached clients see the end.
    pub fn abandoned(&self) {
        let mut slot = self.lock();
        slot.pipes = [None, None];
        if std::mem::take(&mut slot.starting) {
            self.input.skip();
            self.spool.begin(0);
        }
    }

    /// A daemon that died had started it: these are what the keeper holds (`stdin`, `stdout`, `stderr`, `pty`).
    /// Called too for a container that ended meanwhile, so that its last output is read.
    pub fn adopt(&self, held: Vec<(String, OwnedFd)>) {
        let mut slot = self.lock();
        let (mut pipes, mut pty) = ([None, None], None);
        if self.spec.open_stdin && !self.spec.tty && held.iter().all(|(name, _)| name != "stdin") {
            self.input.adopt_closed();
        }
        for (name, fd) in held {
            let [stdout, stderr] = &mut pipes;
            match name.as_str() {
                "stdin" => {
                    if let Err(error) = self.input.open(fd) {
                        tracing::warn!(container = self.spec.id, %error, "the container's input cannot be used");
                    }
                }
                "stdout" => *stdout = Some(fd),
                "stderr" => *stderr = Some(fd),
                "pty" => pty = Some(fd),
                _ => {}
            }
        }
        self.run(&mut slot, pipes, pty);
        // The last daemon may have died between output and log file.
        if let Some(driver) = &self.driver {
            driver.wake();
        }
    }

    /// After the process ended: returns when everything that it wrote is in the spool, or after a while where that is not to be
    /// had, as the disk hangs: the end of a container is not its disk's to keep from anybody.
    /// What other processes that hold the pipe write later is not waited for. Attached clients see the end when all is there.
    pub async fn finished(&self) {
        {
            let mut slot = self.lock();
            slot.pty = None;
            slot.handles.drain(..).for_each(|handle| handle.finish());
        }
        self.input.end();
        if !self.settled().await {
            tracing::warn!(
                container = self.spec.id,
                "a container has ended, and its last output is not in its log yet"
            );
        }
    }

    /// Waits a while for the output of the last run to be in the spool; false: it is not. Before that there is no further run.
    /// An attached client that is behind, and reads, is waited for: to it this is a pipe.
    pub async fn settled(&self) -> bool {
        let run = self.spool.runs();
        loop {
            if tokio::time::timeout(PATIENCE, self.written(run)).await.is_ok() {
                return true;
            }
            if !self.spool.is_held() {
                return false;
            }
        }
    }

    /// Returns when all output of a run is in the spool.
    async fn written(&self, run: u32) {
        loop {
            let mut changed = pin!(self.spool.changed().notified());
            changed.as_mut().enable();
            if self.spool.ended(run) {
                return;
            }
            changed.await;
        }
    }

    /// Resolves when a client closed the present run's stdin for good (`StdinOnce`): the keeper shall drop its `stdin` too.
    /// False: the run is over, or has none.
    pub async fn stdin_closed(&self) -> bool {
        self.input.closed().await
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

    /// The container is removed: attached clients and followers read what is there and see the end. Call before the
    /// directory is deleted; files need not be deleted one by one.
    pub fn removed(&self) {
        self.input.finish();
        if let Some(driver) = &self.driver {
            driver.remove();
        }
        self.spool.remove();
    }

    /// `LogPath` of inspect; empty if the driver has no file.
    pub fn log_path(&self) -> String {
        self.driver.as_ref().map_or_else(String::new, |driver| driver.path().to_string_lossy().into_owned())
    }

    /// Resolves when the log driver's file has all output of ended runs (or the driver failed).
    pub async fn logged(&self) {
        if let Some(driver) = &self.driver {
            driver.idle().await;
        }
    }

    /// How many clients read, and the log driver.
    pub fn readers(&self) -> usize {
        self.spool.readers()
    }

    /// The lines of the log.
    pub async fn logs(&self, query: LogQuery) -> Result<Output> {
        if !query.stdout && !query.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        if self.spec.log_driver == NONE {
            return Err(Error::unsupported("configured logging driver does not support reading"));
        }
        let want = [query.stdout, query.stderr];
        let spool = self.spool.clone();
        let follow = (query.follow && spool.running()).then(|| spool.runs());
        let find = move |spool: &Spool| {
            let start = match (query.tail, query.since) {
                (Tail::Lines(lines), _) => spool.tail(want, lines)?,
                (Tail::All, Some(since)) => spool.since(want, since)?,
                (Tail::All, None) => Start::at(spool.begin_position()?),
            };
            Ok((start, if follow.is_some() { u64::MAX } else { spool.end()? }))
        };
        let (start, end) =
            spool.apart(find).await.map_err(|error| Error::host("reading the container's log", error))?;
        let details = query.details.then(|| {
            options::details(
                &self.spec.log_options,
                &self.spec.source.container.labels,
                &self.spec.source.environment,
            )
        });
        let lines =
            LineView { timestamps: query.timestamps, details, since: query.since, until: query.until };
        let view = View {
            start,
            end,
            want,
            follow,
            multiplexed: !self.spec.tty,
            attached: false,
            lines: Some(lines),
        };
        Ok(Output::spool(&self.spool, view))
    }

    /// A client at the container's streams.
    pub async fn attach(&self, query: AttachQuery) -> Result<Attached> {
        let keys = keys::of(query.detach_keys.as_deref())?;
        let failed = |error| Error::host("reading the container's output", error);
        let multiplexed = !self.spec.tty;
        let want = [query.stdout, query.stderr];
        let output = if want == [false; 2] && !query.stdin || !query.logs && !query.stream {
            Output::empty(multiplexed)
        } else {
            let spool = &self.spool;
            let start = spool.position(query.logs).await.map_err(failed)?;
            let end = if query.stream { u64::MAX } else { spool.position(false).await.map_err(failed)? };
            let follow = query.stream.then(|| if spool.running() { spool.runs() } else { spool.runs() + 1 });
            let view =
                View { start: Start::at(start), end, want, follow, multiplexed, attached: true, lines: None };
            Output::spool(spool, view)
        };
        let stdin = (query.stdin && query.stream && self.spec.open_stdin).then(|| {
            let terminal = self.spec.tty;
            Stdin::new(self.input.clone(), terminal.then_some(&*keys), self.spec.stdin_once && !terminal)
        });
        Ok(Attached { output, stdin })
    }
}
