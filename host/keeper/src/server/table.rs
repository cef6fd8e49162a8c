//! What the keeper has, and what it does about requests and exits.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::epoll::EpollFlags;
use wharf_kernel::container::{self, Report, Spawned, Target};
use wharf_kernel::sys::process::{self as sys, Ended};
use wharf_kernel::sys::realtime_nanos;
use wharf_plan::run::{ExitStatus, Fd, StartError};

use super::foreign::{self, Stage};
use super::state::{self, Identity};
use super::{End, Server};
use crate::Entry;
use crate::wire::{Answer, Request};

/// Exit code of a process whose real one nobody can know.
pub(super) const LOST: i32 = 255;

/// Epoll tokens: the slot, and in the lowest bit which of the two descriptors.
const REPORT: u64 = 1;

pub(super) fn token(slot: u64) -> u64 {
    slot << 1
}

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: String,
    pub(super) container: Option<String>,
    pub(super) cgroup: Option<String>,
    pub(super) pid: i32,
    pub(super) identity: Identity,
    pub(super) started_at: u64,
    /// Until it has ended.
    pub(super) pidfd: Option<OwnedFd>,
    /// Ours to reap, or adopted from a keeper that died.
    pub(super) child: bool,
    /// Until the program runs.
    pub(super) report: Option<OwnedFd>,
    /// The request that waits for the program to run.
    pub(super) waiting: Option<u64>,
    pub(super) failure: Option<StartError>,
    pub(super) exit: Option<ExitStatus>,
    pub(super) held: Vec<(String, OwnedFd)>,
    /// What the child may still use of our table of descriptors, until it has its own.
    pub(super) lent: Vec<OwnedFd>,
    /// Where another runtime makes it, how far that is.
    pub(super) foreign: Option<Stage>,
    /// It ended before the runtime had told of its start.
    pub(super) ended_early: bool,
    /// The process that this one stands in for: the one that the world outside is to see.
    pub(super) behind: Option<foreign::Behind>,
}

/// What is held for as long as containers live has numbers from here on. Below is what comes and goes, which is all that a
/// child being set up has to look at.
const HELD: i32 = 256;

/// A descriptor to be kept for long, out of the way.
pub(super) fn aside(fd: OwnedFd) -> OwnedFd {
    if fd.as_raw_fd() >= HELD {
        return fd;
    }
    // Without a free number above it is as good where it is, only slower.
    sys::dup_above(fd.as_fd(), HELD).unwrap_or(fd)
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    next: u64,
    slots: HashMap<u64, Process>,
    ids: HashMap<String, u64>,
}

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn insert(&mut self, process: Process) -> u64 {
        // 0 and 1 as tokens are the listener and the daemon.
        self.next = self.next.max(1) + 1;
        self.ids.insert(process.id.clone(), self.next);
        self.slots.insert(self.next, process);
        self.next
    }

    fn remove(&mut self, slot: u64) -> Option<Process> {
        let process = self.slots.remove(&slot)?;
        self.ids.remove(&process.id);
        Some(process)
    }

    fn get(&mut self, id: &str) -> Option<&mut Process> {
        self.slots.get_mut(self.ids.get(id)?)
    }

    pub(super) fn slot(&mut self, slot: u64) -> Option<&mut Process> {
        self.slots.get_mut(&slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&u64, &Process)> {
        self.slots.iter()
    }

    /// Nobody waits any more: the daemon that asked is gone.
    pub(super) fn forget_waiting(&mut self) {
        for process in self.slots.values_mut() {
            process.waiting = None;
        }
    }
}

impl Process {
    fn entry(&self) -> Entry {
        let mut held: Vec<String> = self.held.iter().map(|(name, _)| name.clone()).collect();
        if self.pidfd.is_some() {
            held.push("pidfd".into());
        }
        Entry {
            id: self.id.clone(),
            container: self.container.clone(),
            // Of one that a runtime is still making, nobody knows it.
            pid: match (self.foreign, &self.behind) {
                (Some(Stage::Making), _) | (Some(Stage::StandIn), None) => 0,
                (_, Some(behind)) => behind.pid,
                _ => self.pid,
            },
            started_at: self.started_at,
            exit: self.exit,
            held,
        }
    }

    /// Pid and descriptor of the process as the world outside is to see it.
    fn seen(&self) -> (i32, Option<&OwnedFd>) {
        match &self.behind {
            Some(behind) => (behind.pid, behind.pidfd.as_ref().or(self.pidfd.as_ref())),
            None => (self.pid, self.pidfd.as_ref()),
        }
    }

    fn hold(&mut self, name: String, fd: OwnedFd) {
        let fd = aside(fd);
        match self.held.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = fd,
            None => self.held.push((name, fd)),
        }
    }
}

/// How far another runtime is when its start begins.
fn stage(foreign: Option<&wharf_plan::run::Foreign>) -> Option<Stage> {
    foreign.map(|f| if f.runtime.shim.is_some() { Stage::StandIn } else { Stage::Making })
}

/// Ids become file names.
fn usable(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 128
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

pub(super) fn refused(errno: i32, what: String) -> StartError {
    StartError { stage: wharf_plan::run::Stage::Request, errno, what }
}

/// The descriptors that the keeper keeps, out of those that came with a plan.
fn held(hold: &[(String, Fd)], fds: &[OwnedFd]) -> Result<Vec<(String, OwnedFd)>, StartError> {
    hold.iter()
        .map(|(name, number)| {
            usize::try_from(*number)
                .ok()
                .and_then(|index| fds.get(index))
                .and_then(|fd| sys::dup_above(fd.as_fd(), HELD).or_else(|_| fd.try_clone()).ok())
                .map(|fd| (name.clone(), fd))
                .ok_or_else(|| refused(libc::EBADF, format!("cannot hold descriptor {number} as {name}")))
        })
        .collect()
}

impl Server {
    pub(super) fn handle(&mut self, sequence: u64, request: Request, fds: Vec<OwnedFd>) -> Option<End> {
        let answer = match request {
            Request::Run(plan) => {
                let cgroup = plan.cgroup.as_ref().map(|c| c.path.clone());
                let spawned = self
                    .usable(&plan.id)
                    .and_then(|()| held(&plan.hold, &fds))
                    .and_then(|held| Ok((self.spawn(&plan, &fds)?, held)));
                // CRIU makes its container as another runtime does.
                let restored = plan.restore.is_some().then_some(Stage::Making);
                let stage = stage(plan.foreign.as_deref()).or(restored);
                match spawned
                    .and_then(|(s, held)| self.add(sequence, plan.id, None, cgroup, s, held, fds, stage))
                {
                    Ok(()) => return None,
                    Err(error) => Answer::Failed(error),
                }
            }
            Request::Exec(plan) => {
                let mut fds = fds;
                let stage = stage(plan.foreign.as_deref());
                match self.exec(&plan, &mut fds).and_then(|(s, held, cgroup)| {
                    self.add(sequence, plan.id, Some(plan.container), cgroup, s, held, fds, stage)
                }) {
                    Ok(()) => return None,
                    Err(error) => Answer::Failed(error),
                }
            }
            Request::List => Answer::Entries(
                self.table.slots.values().filter(|p| p.failure.is_none()).map(Process::entry).collect(),
            ),
            Request::Fetch(id) => {
                if let Some((names, fds)) = self.fetch(&id) {
                    self.answer(sequence, &Answer::Held(names), fds);
                    return None;
                }
                Answer::Unknown(id)
            }
            Request::Hold(id, names) => match self.table.get(&id) {
                Some(process) if names.len() == fds.len() => {
                    for (name, fd) in names.into_iter().zip(fds) {
                        process.hold(name, fd);
                    }
                    Answer::Done
                }
                Some(_) => Answer::Refused("as many names as descriptors are needed".into()),
                None => Answer::Unknown(id),
            },
            Request::Release(id, names) => match self.table.get(&id) {
                Some(process) => {
                    process.held.retain(|(name, _)| !names.contains(name));
                    Answer::Done
                }
                None => Answer::Unknown(id),
            },
            Request::Signal(id, signal) => match self.table.get(&id) {
                Some(Process { pidfd: Some(_), foreign: Some(Stage::Making), pid, .. }) => {
                    foreign::interrupt(*pid, signal)
                }
                Some(Process { pidfd: Some(pidfd), foreign: Some(Stage::StandIn), .. }) => {
                    foreign::end_stand_in(pidfd, signal)
                }
                Some(Process { pidfd: Some(pidfd), .. }) => {
                    match sys::pidfd_send_signal(pidfd.as_fd(), signal) {
                        Ok(()) => Answer::Done,
                        Err(error) => Answer::Refused(error.to_string()),
                    }
                }
                Some(_) => Answer::Refused("the process has ended".into()),
                None => Answer::Unknown(id),
            },
            Request::Forget(id) => match self.table.ids.get(&id).copied() {
                Some(slot) if self.table.slots.get(&slot).is_some_and(|p| p.exit.is_some()) => {
                    self.drop_entry(slot);
                    Answer::Done
                }
                Some(_) => Answer::Refused(format!("{id} is still running")),
                None => Answer::Unknown(id),
            },
            Request::Reload(program) => return Some(End::Reload { program, sequence }),
            Request::Shutdown => {
                self.answer(sequence, &Answer::Done, Vec::new());
                return Some(End::Shutdown);
            }
        };
        self.answer(sequence, &answer, Vec::new());
        None
    }

    fn usable(&self, id: &str) -> Result<(), StartError> {
        if !usable(id) {
            return Err(refused(libc::EINVAL, format!("{id:?} cannot be an id")));
        }
        if self.table.ids.contains_key(id) {
            return Err(refused(libc::EEXIST, format!("{id} is there already")));
        }
        Ok(())
    }

    #[allow(clippy::type_complexity, reason = "used once, just below")]
    fn exec(
        &mut self,
        plan: &wharf_plan::run::ExecPlan,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<(Spawned, Vec<(String, OwnedFd)>, Option<String>), StartError> {
        self.usable(&plan.id)?;
        let held = held(&plan.hold, fds)?;
        let gone = || refused(libc::ESRCH, format!("container {} is not running", plan.container));
        let container = self.table.ids.get(&plan.container).and_then(|slot| self.table.slots.get(slot));
        let container = container.filter(|c| c.container.is_none()).ok_or_else(gone)?;
        let pidfd = container.pidfd.as_ref().ok_or_else(gone)?;
        if container.report.is_some() {
            return Err(refused(libc::EAGAIN, format!("container {} is being set up", plan.container)));
        }
        // A copy with a low number, which lives as long as what is lent with it.
        let pidfd = pidfd.try_clone().map_err(|e| {
            refused(e.raw_os_error().unwrap_or(libc::EMFILE), format!("copying a pidfd: {e}"))
        })?;
        let target = Target {
            pidfd: pidfd.as_fd(),
            pid: container.pid,
            cgroup: container.cgroup.as_deref(),
            below: None,
        };
        let cgroup = container.cgroup.clone();
        if let Some(foreign) = &plan.foreign {
            self.take_children().map_err(|e| refused(e.errno(), e.to_string()))?;
            let exec =
                if foreign.runtime.shim.is_some() { wharf_shim::exec } else { wharf_kernel::runtime::exec };
            return Ok((exec(&self.host, plan, fds)?, held, cgroup));
        }
        let spawned = container::exec(&self.host, plan, fds, target)?;
        fds.push(pidfd);
        Ok((spawned, held, cgroup))
    }

    /// Starts a container, or what has another runtime or CRIU make it.
    fn spawn(&mut self, plan: &wharf_plan::run::RunPlan, fds: &[OwnedFd]) -> Result<Spawned, StartError> {
        if plan.restore.is_some() {
            self.take_children().map_err(|e| refused(e.errno(), e.to_string()))?;
            return wharf_kernel::criu::restore(&self.host, plan, fds);
        }
        let Some(foreign) = &plan.foreign else {
            return container::run(&self.host, plan, fds);
        };
        self.take_children().map_err(|e| refused(e.errno(), e.to_string()))?;
        let run = if foreign.runtime.shim.is_some() { wharf_shim::run } else { wharf_kernel::runtime::run };
        run(&self.host, plan, fds)
    }

    /// Enters a process that was forked.
    #[allow(clippy::too_many_arguments, reason = "the columns of the table")]
    fn add(
        &mut self,
        sequence: u64,
        id: String,
        container: Option<String>,
        cgroup: Option<String>,
        spawned: Spawned,
        held: Vec<(String, OwnedFd)>,
        mut lent: Vec<OwnedFd>,
        foreign: Option<Stage>,
    ) -> Result<(), StartError> {
        let Spawned { pid, pidfd, report, lent: theirs } = spawned;
        lent.extend(theirs);
        let pidfd = aside(pidfd);
        let identity = Identity::of(&pidfd, pid);
        let process = Process {
            id,
            container,
            cgroup,
            pid,
            identity,
            started_at: realtime_nanos(),
            pidfd: Some(pidfd),
            child: true,
            report: Some(report),
            waiting: Some(sequence),
            failure: None,
            exit: None,
            held,
            lent,
            foreign,
            ended_early: false,
            behind: None,
        };
        state::write(&self.settings, &process);
        let slot = self.table.insert(process);
        let watched = self.watch_process(slot);
        if let Err(error) = watched {
            // No descriptor or no memory left: better no container than one that nobody watches.
            if let Some(process) = self.table.remove(slot) {
                state::remove(&self.settings, &process.id);
                if let Some(pidfd) = process.pidfd {
                    let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                }
            }
            return Err(refused(error.errno(), format!("watching the process: {error}")));
        }
        Ok(())
    }

    pub(super) fn watch_process(&self, slot: u64) -> wharf_kernel::Result<()> {
        let Some(process) = self.table.slots.get(&slot) else { return Ok(()) };
        if let Some(report) = &process.report {
            self.watch(report, token(slot) | REPORT, EpollFlags::EPOLLIN)?;
        }
        match &process.pidfd {
            Some(pidfd) => self.watch(pidfd, token(slot), EpollFlags::EPOLLIN),
            None => Ok(()),
        }
    }

    fn fetch(&mut self, id: &str) -> Option<(Vec<String>, Vec<OwnedFd>)> {
        let process = self.table.get(id)?;
        let (mut names, mut fds) = (Vec::new(), Vec::new());
        let pidfd = process.seen().1.map(|fd| ("pidfd", fd));
        for (name, fd) in process.held.iter().map(|(name, fd)| (name.as_str(), fd)).chain(pidfd) {
            // Out of descriptors: what cannot be copied is missing from the answer, not the answer itself.
            if let Ok(copy) = fd.try_clone() {
                names.push(name.to_owned());
                fds.push(copy);
            }
        }
        Some((names, fds))
    }

    fn drop_entry(&mut self, slot: u64) {
        if let Some(process) = self.table.remove(slot) {
            state::remove(&self.settings, &process.id);
        }
    }

    pub(super) fn process_event(&mut self, token: u64, flags: EpollFlags) {
        let slot = token >> 1;
        self.read_report(slot);
        let early = self.table.slots.get(&slot).is_some_and(|p| p.ended_early && p.report.is_none());
        if token & REPORT == 0 || early {
            self.read_exit(slot, flags);
        }
    }

    fn read_report(&mut self, slot: u64) {
        loop {
            let Some(process) = self.table.slots.get_mut(&slot) else { return };
            let Some(report) = &process.report else { return };
            match container::read_report(report.as_fd()) {
                Ok(Report::Pending) => return,
                // The daemon's plans wait for nobody.
                Ok(Report::Paused | Report::Ready | Report::Listener(_)) => {}
                Ok(Report::Own) => process.lent = Vec::new(),
                Ok(Report::Terminal(master)) => process.hold("pty".into(), master),
                Ok(Report::Adopt(pid)) => self.adopt(slot, pid),
                Ok(Report::StandsIn(pid)) => self.stands_in(slot, pid),
                Ok(Report::Runs) => {
                    process.report = None;
                    process.lent = Vec::new();
                    break;
                }
                Ok(Report::Failed(error)) => process.failure = Some(error),
                Ok(Report::Closed) => break,
                Err(error) => {
                    process.failure = Some(refused(error.errno(), format!("the child's report: {error}")));
                    break;
                }
            }
        }
        self.report_over(slot);
    }

    /// A child has said all that it will: who waits for its start is answered.
    fn report_over(&mut self, slot: u64) {
        let Some(process) = self.table.slots.get_mut(&slot) else { return };
        // A stand-in says when the program runs; one that ends before was ended.
        let cut_short = process.foreign == Some(Stage::StandIn) && process.report.is_some();
        process.report = None;
        if (cut_short || process.foreign == Some(Stage::Making)) && process.failure.is_none() {
            process.failure = Some(refused(libc::ESRCH, "the call of the runtime was ended".into()));
        }
        // A failure is answered when the child is gone, so that its cgroup can be removed at once.
        if process.failure.is_some() {
            return;
        }
        let Some(sequence) = process.waiting.take() else { return };
        let ((pid, pidfd), started_at) = (process.seen(), process.started_at);
        let pty = process.held.iter().find(|(name, _)| name == "pty").map(|(_, fd)| fd);
        let pty_there = pty.is_some();
        let copies: Option<Vec<OwnedFd>> =
            pidfd.into_iter().chain(pty).map(|fd| fd.try_clone().ok()).collect();
        if let Some(fds) = copies {
            self.answer(sequence, &Answer::Started { pid, started_at, pty: pty_there }, fds);
        } else {
            if let Some(pidfd) = &process.pidfd {
                // It has ended already where this fails.
                let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
            process.failure = Some(refused(libc::EMFILE, "the keeper has no descriptors left".into()));
            process.waiting = Some(sequence);
        }
    }

    fn read_exit(&mut self, slot: u64, flags: EpollFlags) {
        let Some(process) = self.table.slots.get_mut(&slot) else { return };
        let Some(pidfd) = &process.pidfd else { return };
        if process.foreign == Some(Stage::Made) && process.report.is_some() {
            // Whether it was started at all is still to be told.
            let _ = self.epoll.delete(pidfd);
            process.ended_early = true;
            return;
        }
        let ended = if process.child {
            match sys::wait_child(pidfd.as_fd()) {
                Ok(None) => return,
                Ok(Some(ended)) => Some(ended),
                Err(_) => None,
            }
        } else {
            match sys::pidfd_exit(pidfd.as_fd()) {
                Some(ended) => Some(ended),
                // The kernel tells the status once the process has been reaped, and reports that as a hang-up.
                None if sys::pidfd_tells_exit() && !flags.contains(EpollFlags::EPOLLHUP) => {
                    let mut event = nix::sys::epoll::EpollEvent::new(EpollFlags::empty(), token(slot));
                    if self.epoll.modify(pidfd, &mut event).is_ok() {
                        return;
                    }
                    None
                }
                None => None,
            }
        };
        if process.report.is_some() {
            // A child cannot say anything after its end, but a copy of its report in another child, which is just being set up,
            // keeps it open: without this nobody would ever answer who waits for this start.
            self.report_over(slot);
        }
        let Some(process) = self.table.slots.get_mut(&slot) else { return };
        let Some(pidfd) = &process.pidfd else { return };
        let oom_killed = process.container.is_none()
            && process
                .cgroup
                .as_ref()
                .zip(self.host.cgroups())
                .is_some_and(|(path, cgroups)| cgroups.oom_kills(path).is_ok_and(|count| count > 0));
        let (code, signal) = match ended {
            Some(Ended::Exited(code)) => (code, None),
            Some(Ended::Signaled(signal)) => (128 + signal, Some(signal)),
            None => (LOST, None),
        };
        let status = ExitStatus { code, signal, oom_killed, at: realtime_nanos() };
        // Copies in children that are being set up would keep it in the epoll set.
        let _ = self.epoll.delete(pidfd);
        process.pidfd = None;
        process.lent = Vec::new();
        process.exit = Some(status);
        // Where the daemon that asked is gone, the next one may have adopted this start already: to it, this is an exit.
        if let Some((error, sequence)) = process.failure.take().zip(process.waiting.take()) {
            self.drop_entry(slot);
            self.answer(sequence, &Answer::Failed(error), Vec::new());
            return;
        }
        let id = process.id.clone();
        if self.daemon.is_none() {
            // Nobody to tell: should this process die too, the next keeper still knows.
            state::write(&self.settings, process);
        }
        self.answer(0, &Answer::Exit(id, status), Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names() {
        for good in ["a", "0123456789abcdef", "x-1_2.y"] {
            assert!(usable(good));
        }
        for bad in ["", ".", "..", ".x", "a/b", "a b", "ä", &"x".repeat(129)] {
            assert!(!usable(bad), "{bad}");
        }
    }
}
