//! Containers that another runtime makes. A child of ours calls it ([`wharf_kernel::runtime`]); what it made becomes our child
//! when it ends, as this process is a subreaper from then on. So does whatever else loses its parent, and is reaped.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use wharf_kernel::sys::process as sys;
use wharf_kernel::{Error, Result};

use super::state::{self, Identity};
use super::table::{refused, token};
use super::{CHILDREN, Server, errno};
use crate::wire::Answer;

/// How far a runtime is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Our child is the one that calls it.
    Making,
    /// The process is there, and known.
    Made,
    /// Our child stays, and stands in for a process that a shim makes and has.
    StandIn,
}

/// The process that a child of ours stands in for.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) pid: i32,
    /// None where it has ended.
    pub(super) pidfd: Option<OwnedFd>,
}

impl Behind {
    pub(super) fn of(pid: i32) -> Self {
        let pidfd = if pid > 0 { sys::pidfd_open(pid).ok() } else { None };
        Self { pid, pidfd: pidfd.map(super::table::aside) }
    }
}

/// At most so many ended processes are looked at in one go.
const BATCH: usize = 10_000;

/// A signal to a start under way: only one that ends it makes sense, and it is for all that was called.
pub(super) fn interrupt(pid: i32, signal: i32) -> Answer {
    if signal != libc::SIGKILL {
        return Answer::Refused("the runtime has not made the process yet".into());
    }
    match killpg(Pid::from_raw(pid), Signal::SIGKILL) {
        Ok(()) => Answer::Done,
        Err(e) => Answer::Refused(format!("killpg({pid}, SIGKILL): {e}")),
    }
}

/// A signal to a process that a child of ours stands in for. Others than the last one are the shim's to send.
pub(super) fn end_stand_in(pidfd: &OwnedFd, signal: i32) -> Answer {
    if signal != libc::SIGKILL {
        return Answer::Refused("signals are sent by the container's shim".into());
    }
    match sys::pidfd_send_signal(pidfd.as_fd(), wharf_shim::END) {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Refused(error.to_string()),
    }
}

impl Server {
    /// Becomes the parent of all that loses its own. Before the first runtime is called.
    pub(super) fn take_children(&mut self) -> Result<()> {
        if self.children.is_some() {
            return Ok(());
        }
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        set.thread_block().map_err(errno("sigprocmask(SIG_BLOCK, SIGCHLD)"))?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(errno("signalfd(SIGCHLD)"))?;
        nix::sys::prctl::set_child_subreaper(true).map_err(errno("prctl(PR_SET_CHILD_SUBREAPER)"))?;
        self.children = Some(fd);
        self.watch_children()
    }

    pub(super) fn watch_children(&self) -> Result<()> {
        let Some(fd) = &self.children else { return Ok(()) };
        self.epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, CHILDREN))
            .map_err(errno("epoll_ctl(EPOLL_CTL_ADD)"))
    }

    pub(super) fn children_event(&mut self) {
        if let Some(fd) = &self.children {
            // One signal may stand for many.
            while let Ok(Some(_)) = fd.read_signal() {}
        }
        self.reap();
    }

    /// Takes the statuses of children that nobody knows. While a runtime is at work there may be one whose number is only
    /// about to be told.
    pub(super) fn reap(&mut self) {
        if self.children.is_none()
            || self.table.iter().any(|(_, p)| p.foreign.is_some() && p.report.is_some())
        {
            return;
        }
        for _ in 0..BATCH {
            let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
            let pid = match waitid(Id::All, peek) {
                Err(Errno::EINTR) => continue,
                Ok(status) => status.pid(),
                Err(_) => None,
            };
            let Some(pid) = pid else { return };
            let known =
                self.table.iter().find(|(_, p)| p.child && p.pidfd.is_some() && p.pid == pid.as_raw());
            if let Some(slot) = known.map(|(slot, _)| *slot) {
                self.process_event(token(slot), EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP);
            } else {
                // Only its entry in the process table is left of it.
                let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
            }
        }
    }

    /// Notes for which process a child of ours stands in.
    pub(super) fn stands_in(&mut self, slot: u64, pid: i32) {
        let Some(process) = self.table.slot(slot) else { return };
        process.behind = Some(Behind::of(pid));
        if let Some((_, process)) = self.table.iter().find(|(known, _)| **known == slot) {
            state::write(&self.settings, process);
        }
    }

    /// Puts the process that a runtime made in the place of the one that called it.
    pub(super) fn adopt(&mut self, slot: u64, pid: i32) {
        let opened =
            if pid > 0 { sys::pidfd_open(pid) } else { Err(Error::new("pidfd_open()", libc::EINVAL)) };
        let Some(process) = self.table.slot(slot) else { return };
        let pidfd = match opened {
            Ok(pidfd) => pidfd,
            Err(error) => {
                process.failure =
                    Some(refused(error.errno(), format!("the runtime's process {pid}: {error}")));
                return;
            }
        };
        process.pid = pid;
        process.identity = Identity::of(&pidfd, pid);
        process.foreign = Some(Stage::Made);
        let caller = process.pidfd.replace(pidfd);
        if let Some(caller) = &caller {
            let _ = self.epoll.delete(caller);
        }
        let Some(process) = self.table.slot(slot) else { return };
        let watched = match &process.pidfd {
            Some(pidfd) => self
                .epoll
                .add(pidfd, EpollEvent::new(EpollFlags::EPOLLIN, token(slot)))
                .map_err(errno("epoll_ctl(EPOLL_CTL_ADD)")),
            None => Ok(()),
        };
        if let Err(error) = watched {
            if let Some(pidfd) = &process.pidfd {
                let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
            process.failure = Some(refused(error.errno(), format!("watching the process: {error}")));
        }
        if let Some((_, process)) = self.table.iter().find(|(known, _)| **known == slot) {
            state::write(&self.settings, process);
        }
    }
}
