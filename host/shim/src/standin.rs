//! The stand-in of a container, or of an exec in one: a child of the keeper with one thread, which ends as what it stands for
//! does.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_shim_protos::api;
use containerd_shim_protos::ttrpc::proto::MESSAGE_TYPE_RESPONSE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use wharf_kernel::container::{Conductor, Host, Spawned, conduct};
use wharf_kernel::runtime as kernel;
use wharf_kernel::sys::process as sys;
use wharf_plan::run::{ExecPlan, Foreign, RunPlan, Runtime, Stage, StartError};

use crate::bootstrap::Started;
use crate::events::Events;
use crate::record::{self, Record};
use crate::streams::{self, Io};
use crate::task::Task;
use crate::wire::{self, Failure, Until};
use crate::{family, launch};

/// The signal that has a stand-in end what it stands for by force: with the shim, or without it.
pub const END: i32 = libc::SIGTERM;

/// A shim that has not made its container by then never will.
const MAKING: Duration = Duration::from_secs(50);
/// For the small messages that nobody waits to be answered.
const SEND: Duration = Duration::from_millis(500);
/// A shim may take so long to put away an ended process, its last output included.
const DELETE: Duration = Duration::from_secs(15);
/// For output that is still under way when the shim is done.
const DRAIN: Duration = Duration::from_secs(2);
/// For the shim's own end.
const SHUTDOWN: Duration = Duration::from_secs(3);
/// For processes that were killed.
const DEATH: Duration = Duration::from_secs(2);
/// For an exec that is ended by its shim.
const EXEC_DEATH: Duration = Duration::from_secs(5);
/// So much of a shim's log is kept, for what it says last.
const LOG: usize = 4096;

/// How a process ends that was ended by force.
const KILLED: u32 = 137;

fn failed(what: impl Into<String>) -> StartError {
    StartError { stage: Stage::Runtime, errno: 0, what: what.into() }
}

/// Starts a container by its plan's shim. The process that comes back is the container's stand-in.
///
/// The caller must be single-threaded.
pub fn run(host: &Host, plan: &RunPlan, fds: &[OwnedFd]) -> Result<Spawned, StartError> {
    let foreign = kernel::foreign(plan.foreign.as_deref())?;
    conduct(host, fds, |conductor| {
        kernel::open_bundle(host, plan, foreign, fds)?;
        let container = Container { host, plan, runtime: &foreign.runtime, conductor };
        let (mut stand_in, first) = container.prepare(fds)?;
        match container.make(&mut stand_in, foreign, &first) {
            Ok(()) => sys::exit(container.stand_in(stand_in)),
            Err(reason) => {
                container.take_down();
                // What has come by now is the reason of its failure, or of no interest.
                drop(stand_in);
                Err(failed(reason))
            }
        }
    })
}

/// Starts a further process in a container of a shim.
pub fn exec(host: &Host, plan: &ExecPlan, fds: &[OwnedFd]) -> Result<Spawned, StartError> {
    let foreign = kernel::foreign(plan.foreign.as_deref())?;
    conduct(host, fds, |conductor| {
        kernel::prepare(host)?;
        if plan.ids.is_some() {
            kernel::own_null()?;
        }
        let stand_in = exec_begins(host, plan, foreign, fds, conductor).map_err(failed)?;
        sys::exit(exec_goes_on(stand_in))
    })
}

/// What there is of a process that is stood in for.
struct StandIn {
    task: Option<Task>,
    /// Empty for the container's first process.
    exec: String,
    bundle: PathBuf,
    signals: SignalFd,
    io: Io,
    events: Option<Events>,
    log: Option<(std::fs::File, Vec<u8>)>,
    /// The request whose response tells of the end.
    waited: Option<u32>,
}

/// What a stand-in has learned while it waited.
#[derive(Debug, PartialEq, Eq)]
enum Learned {
    /// The response of this number.
    Response(u32, Vec<u8>),
    /// The shim is no more.
    Gone,
    /// The time is up.
    Late,
    /// All output has arrived.
    Drained,
    /// To be ended by force.
    End,
}

/// The signals that are waited for, not delivered.
fn signals() -> Result<SignalFd, String> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGHUP, Signal::SIGPIPE] {
        set.add(signal);
    }
    set.thread_block().map_err(|e| format!("signals: {e}"))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|e| format!("signals: {e}"))
}

/// A descriptor that becomes readable only at the order to end; while the container is made nothing else is of interest.
fn order_to_end() -> Result<SignalFd, String> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|e| format!("signals: {e}"))
}

impl StandIn {
    /// Moves streams, takes events, and waits for one thing worth knowing.
    fn learn(&mut self, end: Option<Instant>, until_drained: bool) -> Learned {
        #[derive(Clone, Copy)]
        enum What {
            Signals,
            Task,
            Stream(usize),
            Log,
            Event,
        }
        loop {
            if until_drained && self.io.is_drained() {
                return Learned::Drained;
            }
            // What has been read along with an earlier message.
            match self.task.as_mut().map(|task| task.connection.receive()) {
                Some(Ok(Some((header, body)))) => {
                    if header.type_ == MESSAGE_TYPE_RESPONSE {
                        return Learned::Response(header.stream_id, body);
                    }
                    continue;
                }
                Some(Err(_)) => return Learned::Gone,
                Some(Ok(None)) | None => {}
            }
            let mut whats = vec![What::Signals];
            let mut polls = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            if let Some(task) = &self.task {
                whats.push(What::Task);
                polls.push(PollFd::new(task.connection.fd(), PollFlags::POLLIN));
            }
            for (number, fd, flags) in self.io.waits() {
                whats.push(What::Stream(number));
                polls.push(PollFd::new(fd, flags));
            }
            if let Some((log, _)) = &self.log {
                whats.push(What::Log);
                polls.push(PollFd::new(log.as_fd(), PollFlags::POLLIN));
            }
            for fd in self.events.iter().flat_map(Events::waits) {
                whats.push(What::Event);
                polls.push(PollFd::new(fd, PollFlags::POLLIN));
            }
            let timeout = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => return Learned::Late,
                Some(left) => {
                    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
                }
                None => PollTimeout::NONE,
            };
            // Interrupted, or for want of memory: it is asked again.
            let _ = poll(&mut polls, timeout);
            let ready: Vec<What> = polls
                .iter()
                .zip(whats)
                .filter(|(poll, _)| poll.revents().is_some_and(|revents| !revents.is_empty()))
                .map(|(_, what)| what)
                .collect();
            drop(polls);
            for what in ready {
                match what {
                    What::Signals => {
                        if self.take_signals() {
                            return Learned::End;
                        }
                    }
                    What::Stream(number) => {
                        if self.io.step(number) {
                            let exec = self.exec.clone();
                            self.tell(|task, until| task.send_close_stdin(&exec, until));
                        }
                    }
                    What::Log => self.take_log(),
                    What::Event => {
                        if self.events.as_mut().is_some_and(Events::take) {
                            record::mark_lack_of_memory(&self.bundle);
                        }
                    }
                    What::Task => {}
                }
            }
        }
    }

    /// Sends a message whose answer is of no interest; a shim that does not take it will be noticed otherwise.
    fn tell(&mut self, message: impl FnOnce(&mut Task, &Until<'_>) -> Result<u32, Failure>) -> Option<u32> {
        let sent = message(self.task.as_mut()?, &Until::after(SEND, None));
        sent.ok()
    }

    /// True for the order to end.
    fn take_signals(&mut self) -> bool {
        let mut end = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(i32::try_from(signal.ssi_signo).unwrap_or(0)) {
                Ok(Signal::SIGTERM) => end = true,
                Ok(Signal::SIGCHLD) => family::reap(),
                Ok(Signal::SIGWINCH) => self.resize(),
                _ => {}
            }
        }
        end
    }

    fn resize(&mut self) {
        if let Some(size) = self.io.new_size() {
            let exec = self.exec.clone();
            self.tell(|task, until| task.send_resize(&exec, size, until));
        }
    }

    fn take_log(&mut self) {
        use std::io::Read;
        let Some((log, kept)) = &mut self.log else { return };
        let mut buffer = [0; LOG];
        if let Ok(n) = log.read(&mut buffer) {
            kept.extend_from_slice(buffer.get(..n).unwrap_or_default());
            let surplus = kept.len().saturating_sub(LOG);
            kept.drain(..surplus);
        }
    }

    /// Waits for the process's end: its exit code, or None where it was ended by force or with its shim, or did not come in
    /// time.
    fn wait_for_end(&mut self, until: Option<Instant>) -> Option<u32> {
        let exec = self.exec.clone();
        let waited = match self.waited {
            Some(waited) => waited,
            None => self.tell(|task, until| task.send_wait(&exec, until))?,
        };
        self.waited = Some(waited);
        loop {
            match self.learn(until, false) {
                Learned::Response(number, body) if number == waited => {
                    return wire::answer::<api::WaitResponse>(&body).ok().map(|answer| answer.exit_status);
                }
                Learned::Gone | Learned::End | Learned::Late => return None,
                Learned::Response(..) | Learned::Drained => {}
            }
        }
    }

    /// Has the shim put the ended process away, and takes the rest of its output. False where the shim did not.
    fn put_away(&mut self) -> bool {
        let exec = self.exec.clone();
        let end = Instant::now() + DELETE;
        let asked = self.tell(|task, until| task.send_delete(&exec, until));
        let mut done = false;
        while let Some(number) = asked {
            match self.learn(Some(end), false) {
                Learned::Response(told, body) if told == number => {
                    done = wire::answer::<api::DeleteResponse>(&body).is_ok();
                    break;
                }
                Learned::Response(..) | Learned::Drained => {}
                Learned::Gone | Learned::Late | Learned::End => break,
            }
        }
        self.drain();
        done
    }

    fn drain(&mut self) {
        self.io.close();
        self.io.remove();
        // Nobody is listened to any more but the streams.
        let end = Instant::now() + DRAIN;
        while !matches!(self.learn(Some(end), true), Learned::Drained | Learned::Late) {
            self.task = None;
        }
    }
}

/// What does not change while a container is made and stood in for.
struct Container<'a> {
    host: &'a Host,
    plan: &'a RunPlan,
    runtime: &'a Runtime,
    conductor: Conductor<'a>,
}

impl Container<'_> {
    fn bundle(&self) -> &Path {
        Path::new(&self.runtime.bundle)
    }

    /// Everything before the shim is called. Answers also the descriptor by which the rest is interrupted.
    fn prepare(&self, fds: &[OwnedFd]) -> Result<(StandIn, SignalFd), StartError> {
        let work = || -> Result<(StandIn, SignalFd), String> {
            let bundle = self.bundle();
            launch::own_state(bundle)?;
            let stdio = streams::standard(&self.plan.process, fds);
            let keep = streams::numbers(&stdio);
            self.conductor.keep_only(self.host, &keep).map_err(|e| e.to_string())?;
            nix::sys::prctl::set_child_subreaper(true).map_err(|e| format!("PR_SET_CHILD_SUBREAPER: {e}"))?;
            let signals = signals()?;
            let order = order_to_end()?;
            let io = Io::new(bundle, "init", &self.plan.process, stdio, self.conductor)?;
            let events = Events::listen(launch::EVENTS).map_err(|e| format!("{}: {e}", launch::EVENTS))?;
            let stand_in = StandIn {
                task: None,
                exec: String::new(),
                bundle: bundle.into(),
                signals,
                io,
                events: Some(events),
                log: Some((log(bundle).map_err(|e| format!("the shim's log: {e}"))?, Vec::new())),
                waited: None,
            };
            Ok((stand_in, order))
        };
        work().map_err(failed)
    }

    /// Starts the shim and has it make the container and start it.
    fn make(&self, stand_in: &mut StandIn, foreign: &Foreign, order: &SignalFd) -> Result<(), String> {
        let (id, runtime) = (self.plan.id.as_str(), self.runtime);
        let until = Until::after(MAKING, Some(order.as_fd()));
        let started = launch::start(runtime, id, MAKING, order.as_fd())?;
        let mut record = Record { started: started.clone(), family: family::own(), elsewhere: false };
        record.write(self.bundle()).map_err(|e| format!("a record of the shim: {e}"))?;
        let mut task = open(&started, id, &until)?;
        let options = runtime.shim.as_ref().and_then(|shim| shim.options.as_ref());
        let pid = task
            .create(&runtime.bundle, &stand_in.io.named, options, foreign.restore.as_deref(), &until)
            .map_err(|e| said(stand_in, e))?;
        // One that is restored from a checkpoint has a process only when it is started.
        let restored = pid == 0 && foreign.restore.is_some();
        if !restored {
            self.has_process(pid, &mut record)?;
        }
        if let Some(size) = stand_in.io.first_size() {
            let _ = task.send_resize("", size, &until).map_err(|e| said(stand_in, e))?;
        }
        let begun = task.start("", &until).map_err(|e| said(stand_in, e))?;
        if restored {
            self.has_process(begun, &mut record)?;
        }
        stand_in.task = Some(task);
        self.conductor.runs().map_err(|e| e.to_string())
    }

    /// The container's process is there.
    fn has_process(&self, pid: i32, record: &mut Record) -> Result<(), String> {
        // Nobody but a process of its own is ever to be signalled, or looked into, for this container.
        if !family::is_below(pid, sys::own_pid()) {
            return Err(format!(
                "the shim named process {pid} as the container's, which is not of its making"
            ));
        }
        kernel::check_user(self.plan, self.runtime, pid)?;
        let mounts = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        record.family = family::own();
        record.elsewhere = mounts(pid) == mounts(sys::own_pid());
        record.write(self.bundle()).map_err(|e| format!("a record of the shim: {e}"))?;
        self.conductor.stands_in(pid).map_err(|e| e.to_string())
    }

    /// Waits for the container's end and clears up; the exit code.
    fn stand_in(&self, mut stand_in: StandIn) -> i32 {
        let code = stand_in.wait_for_end(None);
        let path = self.plan.cgroup.as_ref().map(|cgroup| cgroup.path.as_str());
        // Before the shim removes the cgroup, and with it the count.
        if let Some((path, cgroups)) = path.zip(self.host.cgroups())
            && cgroups.oom_kills(path).is_ok_and(|count| count > 0)
        {
            record::mark_lack_of_memory(self.bundle());
        }
        if code.is_some() && stand_in.put_away() {
            let asked = Task::at(self.bundle(), &self.plan.id)
                .and_then(|mut task| task.send_shutdown(&Until::after(SEND, None)).map(|_| task));
            // Its connection stays open until then, or the request might be lost with it.
            if family::ends_by_itself(SHUTDOWN) {
                drop(asked);
                Record::remove(self.bundle());
                return exit_code(code);
            }
        }
        self.take_down();
        stand_in.drain();
        exit_code(code)
    }

    /// Ends the shim and everything of it, and has its program clear up.
    fn take_down(&self) {
        family::end_own(DEATH);
        if Record::read(self.bundle()).is_some() {
            // The daemon will, where this does not.
            if launch::delete(self.runtime, &self.plan.id).is_ok() {
                Record::remove(self.bundle());
            }
            family::end_own(DEATH);
        }
    }
}

fn exit_code(code: Option<u32>) -> i32 {
    i32::try_from(code.unwrap_or(KILLED) & 0xff).unwrap_or(255)
}

/// A shim may print its address a moment before it listens there.
fn open(started: &Started, id: &str, until: &Until<'_>) -> Result<Task, String> {
    let mut wait = Duration::from_millis(2);
    for _ in 0..10 {
        match Task::open(started, id) {
            Ok(task) => return Ok(task),
            Err(_) if Instant::now() < until.end => std::thread::sleep(wait),
            Err(e) => return Err(e.to_string()),
        }
        wait *= 2;
    }
    // Not in the kernel's words: those of a missing file would be taken for the container's program.
    Task::open(started, id).map_err(|_| "nobody listens at the address that the shim printed".into())
}

/// The pipe that a shim writes its log to, in the place where it looks for one.
fn log(bundle: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = bundle.join("log");
    // Of an earlier run.
    let _ = std::fs::remove_file(&path);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
    // Both ways, so that it has no end while the shim has not opened it yet.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    std::fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// A shim's error, in its own words as far as it has any; what died without any may have said it in its log.
fn said(stand_in: &mut StandIn, failure: Failure) -> String {
    match failure {
        Failure::Status(..) if failure.is_unimplemented() => {
            format!("the container's runtime does not implement this: {failure}")
        }
        Failure::Status(_, words) => {
            let words = words.trim_end_matches(": unknown");
            let heads =
                ["OCI runtime create failed: ", "OCI runtime exec failed: ", "failed to create shim task: "];
            heads.iter().fold(words, |words, head| words.strip_prefix(head).unwrap_or(words)).to_owned()
        }
        Failure::Interrupted => "the start was ended".into(),
        Failure::Gone(_) => {
            stand_in.take_log();
            let log = stand_in.log.as_ref().map(|(_, kept)| String::from_utf8_lossy(kept).into_owned());
            match log.as_deref().map(str::trim).filter(|log| !log.is_empty()) {
                Some(log) => format!("{failure}; it said last: {}", log.lines().last().unwrap_or_default()),
                None => failure.to_string(),
            }
        }
        Failure::Late(_) => failure.to_string(),
    }
}

/// Makes the exec and starts it.
fn exec_begins(
    host: &Host,
    plan: &ExecPlan,
    foreign: &Foreign,
    fds: &[OwnedFd],
    conductor: Conductor<'_>,
) -> Result<StandIn, String> {
    let bundle = Path::new(&foreign.runtime.bundle);
    let stdio = streams::standard(&plan.process, fds);
    conductor.keep_only(host, &streams::numbers(&stdio)).map_err(|e| e.to_string())?;
    let signals = signals()?;
    let order = order_to_end()?;
    let until = Until::after(MAKING, Some(order.as_fd()));
    let io = Io::new(bundle, &plan.id, &plan.process, stdio, conductor)?;
    let mut stand_in = StandIn {
        task: None,
        exec: plan.id.clone(),
        bundle: bundle.into(),
        signals,
        io,
        events: None,
        log: None,
        waited: None,
    };
    let begun = (|| -> Result<Task, Failure> {
        let mut task = Task::at(bundle, &plan.container)?;
        task.exec(&plan.id, &stand_in.io.named, &foreign.document, &until)?;
        let started = task.start(&plan.id, &until).and_then(|pid| {
            if let Some(size) = stand_in.io.first_size() {
                let _ = task.send_resize(&plan.id, size, &until)?;
            }
            Ok(pid)
        });
        match started {
            Ok(pid) => {
                conductor
                    .stands_in(pid)
                    .and_then(|()| conductor.runs())
                    .map_err(|e| Failure::Gone(e.to_string()))?;
                Ok(task)
            }
            Err(failure) => {
                // What did not start is put away, or the shim would keep it for ever.
                let _ = task.send_delete(&plan.id, &Until::after(SEND, None));
                Err(failure)
            }
        }
    })();
    match begun {
        Ok(task) => {
            stand_in.task = Some(task);
            Ok(stand_in)
        }
        Err(failure) => {
            stand_in.io.remove();
            Err(said(&mut stand_in, failure))
        }
    }
}

/// Waits for the exec's end; the exit code.
fn exec_goes_on(mut stand_in: StandIn) -> i32 {
    let code = stand_in.wait_for_end(None);
    if code.is_some() {
        stand_in.put_away();
        return exit_code(code);
    }
    // Ended by force, which is the shim's to do; or the shim is gone, and with it the container.
    let exec = stand_in.exec.clone();
    if stand_in.tell(|task, until| task.send_kill(&exec, 9, until)).is_some()
        && stand_in.wait_for_end(Some(Instant::now() + EXEC_DEATH)).is_some()
    {
        stand_in.put_away();
    } else {
        stand_in.drain();
    }
    exit_code(None)
}
