//! From a plan to a running process.
//!
//! [`run`] and [`exec`] are called by the keeper, which has one thread and little memory. They turn the plan into C
//! strings and numbers ([`prepare`]), fork with `clone3`, and return at once; the child sets itself up ([`setup`],
//! [`process`]) and executes the program. How that went comes back over a socket that is closed by the exec
//! ([`Report`]), so the caller waits for nobody: a child that hangs while it is set up hangs alone.

mod copyup;
mod pivot;
mod prepare;
mod process;
mod report;
mod setup;
mod terminal;
mod userns;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use wharf_plan::run::{ExecPlan, Namespace, RunPlan, Stage, StartError};

use crate::cgroup::{Cgroups, Version};
use crate::error::{Error, Result};
use crate::sys::process::Side;
use crate::sys::{file, process as sys, socket};

pub(crate) use process::own;
pub use report::{Report, read_report};

/// What is the same for every container, opened once by the keeper.
#[derive(Debug)]
pub struct Host {
    cgroups: Option<Cgroups>,
    pid_namespace: OwnedFd,
    init: OwnedFd,
    open_files: Option<(u64, u64)>,
    lends: bool,
}

impl Host {
    /// `init` is the program for process 1 of containers that ask for one.
    ///
    /// A host without any cgroup file system can still run processes that are not put into one.
    pub fn new(init: &[u8]) -> Result<Self> {
        Ok(Self {
            cgroups: Cgroups::detect().ok(),
            pid_namespace: file::openat(None, c"/proc/self/ns/pid", libc::O_RDONLY, 0)?,
            init: file::memfd(c"wharf-init", init, true)?,
            open_files: None,
            lends: false,
        })
    }

    /// Children begin with the caller's own table of descriptors instead of a copy of it, which is a great deal cheaper for a
    /// caller that has thousands. In return the caller must leave the descriptors that it passes to [`run`] and [`exec`], the
    /// target's pidfd among them, open until [`Report::Own`] or the child's end; and what it holds for long should have higher numbers than those.
    pub fn lend_descriptors(&mut self) {
        self.lends = true;
    }

    /// The limit of open files that processes get whose plan says nothing about it, where the caller raised its own.
    pub fn set_open_files(&mut self, soft: u64, hard: u64) {
        self.open_files = Some((soft, hard));
    }

    /// What was set by [`set_open_files`](Self::set_open_files), else zeroes.
    pub fn open_files(&self) -> (u64, u64) {
        self.open_files.unwrap_or_default()
    }

    /// What a child needs of it.
    fn fds(&self) -> Vec<i32> {
        let hierarchies = self.cgroups.iter().flat_map(Cgroups::hierarchies).map(|h| h.root().as_raw_fd());
        hierarchies.chain([self.init.as_raw_fd()]).collect()
    }

    /// The program for process 1.
    pub(crate) fn init(&self) -> BorrowedFd<'_> {
        self.init.as_fd()
    }

    /// The cgroup file systems.
    pub fn cgroups(&self) -> Option<&Cgroups> {
        self.cgroups.as_ref()
    }
}

/// A process on its way: forked, not yet known to have executed its program.
#[derive(Debug)]
pub struct Spawned {
    /// As the caller sees it.
    pub pid: i32,
    /// Descriptor of it.
    pub pidfd: OwnedFd,
    /// Becomes readable with reports, see [`read_report`].
    pub report: OwnedFd,
    /// With [lent](Host::lend_descriptors) descriptors: the child's end of the report, which is to be closed with them.
    pub lent: Option<OwnedFd>,
}

/// The process that an exec joins.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The container's first process.
    pub pidfd: BorrowedFd<'a>,
    /// Its pid, as the caller sees it.
    pub pid: i32,
    /// Its cgroup, as in the container's plan.
    pub cgroup: Option<&'a str>,
    /// Where below that cgroup the process goes, by controller (an empty name is all of them); None is where it can.
    pub below: Option<&'a [(String, String)]>,
}

/// A failure with the step it belongs to.
pub(crate) fn failed(stage: Stage, what: &str, error: &Error) -> StartError {
    StartError { stage, errno: error.errno(), what: format!("{what}: {}", describe(error)) }
}

/// The call without the error number, which the [`StartError`] prints itself.
fn describe(error: &Error) -> String {
    let text = error.to_string();
    match text.split_once(" = -1 ") {
        Some((call, rest)) => match rest.split_once("): ") {
            Some((_, note)) => format!("{call}: {note}"),
            None => call.to_owned(),
        },
        None => text,
    }
}

/// Adds step and subject to an error.
pub(crate) trait At<T> {
    /// The subject is made on failure only.
    fn at<S: AsRef<str>>(self, stage: Stage, what: impl FnOnce() -> S) -> Result<T, StartError>;
}

impl<T> At<T> for Result<T> {
    fn at<S: AsRef<str>>(self, stage: Stage, what: impl FnOnce() -> S) -> Result<T, StartError> {
        self.map_err(|error| failed(stage, what().as_ref(), &error))
    }
}

/// A descriptor of the plan by its number.
fn fd(fds: &[OwnedFd], index: u32) -> Result<BorrowedFd<'_>, StartError> {
    usize::try_from(index).ok().and_then(|i| fds.get(i)).map(AsFd::as_fd).ok_or_else(|| StartError {
        stage: Stage::Request,
        errno: libc::EBADF,
        what: format!("the plan names descriptor {index}, but {} came with it", fds.len()),
    })
}

/// Starts a container. `fds` are what the plan's numbers mean; they can be closed when this returns, unless they are
/// [lent](Host::lend_descriptors).
pub fn run(host: &Host, plan: &RunPlan, fds: &[OwnedFd]) -> Result<Spawned, StartError> {
    let job = prepare::Run::new(host, plan, fds)?;
    let spaces = plan.namespaces;
    let mut flags = if spaces.pid == Namespace::New { sys::CLONE_NEWPID } else { 0 };
    // Those of a container with a user namespace are made in there, so that they belong to it.
    if plan.user.is_none() {
        flags |= sys::CLONE_NEWNS;
        for (namespace, flag) in [
            (spaces.ipc, sys::CLONE_NEWIPC),
            (spaces.uts, sys::CLONE_NEWUTS),
            (spaces.net, sys::CLONE_NEWNET),
        ] {
            if namespace == Namespace::New {
                flags |= flag;
            }
        }
    }
    let pid_namespace = match spaces.pid {
        Namespace::Join(number) => Some(fd(fds, number)?),
        _ => None,
    };
    let cgroup = match (&plan.cgroup, host.cgroups()) {
        (Some(cgroup), Some(cgroups)) if cgroups.version() == Version::V2 => {
            Some(cgroups.open(&cgroup.path).at(Stage::Cgroup, || format!("opening {}", cgroup.path))?)
        }
        _ => None,
    };
    let keep = fds.iter().map(AsRawFd::as_raw_fd).collect();
    spawn(host, flags, pid_namespace, cgroup.as_ref().map(AsFd::as_fd), keep, |report| {
        setup::run(host, &job, report)
    })
}

/// Starts a further process in a running container.
pub fn exec(
    host: &Host,
    plan: &ExecPlan,
    fds: &[OwnedFd],
    target: Target<'_>,
) -> Result<Spawned, StartError> {
    let job = prepare::Exec::new(host, plan, fds, target)?;
    let cgroup = match (target.cgroup, host.cgroups()) {
        (Some(path), Some(cgroups)) if cgroups.version() == Version::V2 => {
            let path = prepare::below(path, target.below, str::is_empty);
            Some(cgroups.open(&path).at(Stage::Cgroup, || format!("opening {path}"))?)
        }
        _ => None,
    };
    let start = |cgroup: Option<BorrowedFd<'_>>| {
        let keep = fds.iter().map(AsRawFd::as_raw_fd).chain([target.pidfd.as_raw_fd()]).collect();
        spawn(host, 0, Some(target.pidfd), cgroup, keep, |report| setup::exec(host, &job, report))
    };
    match (start(cgroup.as_ref().map(AsFd::as_fd)), host.cgroups(), target.cgroup) {
        // Something in the container manages cgroups of its own: then the container's has no processes of its own
        // and takes none. Where its first process is, another one can be.
        (Err(e), Some(cgroups), Some(path))
            if e.errno == libc::EBUSY && cgroups.version() == Version::V2 && target.below.is_none() =>
        {
            let inner =
                cgroups.open_of(target.pid, path).at(Stage::Cgroup, || "opening the cgroup of process 1")?;
            start(Some(inner.as_fd()))
        }
        (result, ..) => result,
    }
}

/// What a conductor tells the keeper.
#[derive(Debug, Clone, Copy)]
pub struct Conductor<'a>(BorrowedFd<'a>);

impl Conductor<'_> {
    /// Hands the master of the process's terminal over.
    pub fn terminal(&self, master: BorrowedFd<'_>) -> Result<()> {
        report::send_terminal(self.0, master)
    }

    /// The process that was made. Its own parent has ended, so that the keeper, as subreaper, is it now.
    pub fn adopt(&self, pid: i32) -> Result<()> {
        report::send_adopt(self.0, pid)
    }

    /// The process that this one stands in for, see [`Report::StandsIn`].
    pub fn stands_in(&self, pid: i32) -> Result<()> {
        report::send_stands_in(self.0, pid)
    }

    /// The program runs, and there is nothing more to tell.
    pub fn runs(&self) -> Result<()> {
        report::send_runs(self.0)
    }

    /// Closes every descriptor but those of `host`, the report, the standard ones and `keep`: what came with a plan is not to
    /// stay open in a process that stays. None of the others may be used any more.
    pub fn keep_only(&self, host: &Host, keep: &[i32]) -> Result<()> {
        let mut all: Vec<i32> = keep.iter().copied().chain(host.fds()).collect();
        all.extend([0, 1, 2, self.0.as_raw_fd()]);
        all.sort_unstable();
        all.dedup();
        sys::close_all_but(&all)
    }
}

/// Forks a child that has another program make a process: `job` runs in it, with the descriptors `keep` and no others,
/// and ends with what it has told. An error is reported as the start's.
///
/// The caller must be single-threaded.
pub fn conduct(
    host: &Host,
    keep: &[OwnedFd],
    job: impl FnOnce(Conductor<'_>) -> Result<(), StartError>,
) -> Result<Spawned, StartError> {
    let keep = keep.iter().map(AsRawFd::as_raw_fd).collect();
    spawn(host, 0, None, None, keep, |report| match job(Conductor(report)) {
        // The end of the process closes the report, which is how success is told.
        Ok(()) => sys::exit(0),
        Err(error) => error,
    })
}

/// Puts the calling process into the plan's cgroup. Where the plan says so, that is the root of what
/// it sees of cgroups from then on.
pub(crate) fn join_cgroup(host: &Host, plan: &RunPlan) -> Result<(), StartError> {
    setup::join_planned(host, plan)?;
    if plan.namespaces.cgroup == Namespace::New {
        sys::unshare(sys::CLONE_NEWCGROUP).at(Stage::Namespace, || "a new cgroup namespace")?;
    }
    Ok(())
}

/// Forks; `child` gets the report's socket and returns only when the set-up failed. Of the caller's descriptors it has
/// those in `keep`: a copy of any other one in a child that hangs would keep a pipe or connection of somebody else open.
fn spawn(
    host: &Host,
    flags: u64,
    pid_namespace: Option<BorrowedFd<'_>>,
    cgroup: Option<BorrowedFd<'_>>,
    mut keep: Vec<i32>,
    child: impl FnOnce(BorrowedFd<'_>) -> StartError,
) -> Result<Spawned, StartError> {
    // Both ends never block: the child's few small messages fit, and the keeper must not wait.
    let (ours, theirs) = socket::pair(true).at(Stage::Request, || "the report's socket")?;
    keep.extend(host.fds());
    keep.push(theirs.as_raw_fd());
    keep.sort_unstable();
    if let Some(namespace) = pid_namespace {
        sys::setns(namespace, sys::CLONE_NEWPID).at(Stage::Namespace, || "joining the pid namespace")?;
    }
    let lent = if host.lends { sys::CLONE_FILES } else { 0 };
    let side = sys::clone_process(flags | lent, cgroup);
    if let Ok(Side::Child) = side {
        // Whoever shares namespaces with it may not reach its descriptors, some of which lead to the host, by /proc (CVE-2016-9962).
        // The program that it becomes can be looked at again.
        let hidden = sys::set_dumpable(false);
        let own = if host.lends {
            sys::unshare_all_but(&keep).and_then(|()| report::send_own(theirs.as_fd()))
        } else {
            sys::close_all_but(&keep)
        };
        let error = match hidden.and(own).at(Stage::Stdio, || "closing descriptors") {
            Ok(()) => child(theirs.as_fd()),
            Err(error) => error,
        };
        report::send_failure(theirs.as_fd(), &error);
        sys::exit(255);
    }
    if pid_namespace.is_some() {
        // Only where children go was changed. Going back cannot fail: it is our own active namespace.
        sys::setns(host.pid_namespace.as_fd(), sys::CLONE_NEWPID)
            .at(Stage::Namespace, || "going back to the own pid namespace")?;
    }
    match side
        .at(if cgroup.is_some() { Stage::Cgroup } else { Stage::Namespace }, || "starting the process")?
    {
        Side::Parent(pid, pidfd) => {
            Ok(Spawned { pid, pidfd, report: ours, lent: host.lends.then_some(theirs) })
        }
        Side::Child => sys::exit(255),
    }
}
