//! What survives the keeper itself: a small file per process, from which the next keeper adopts it; and the whole
//! table, handed over when the keeper replaces itself.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};
use wharf_kernel::sys::{file, process as sys};
use wharf_kernel::{Error, Result, fs};
use wharf_plan::run::{ExitStatus, StartError};

use super::start::Settings;
use super::table::{Process, Table};

const PIDFS_MAGIC: i64 = 0x5049_4446;
const LONGEST: usize = 64 << 10;

/// What a process is told by besides its number, which is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Identity {
    /// Number of the pidfd's inode, unique until the next boot (Linux 6.9).
    Inode(u64),
    /// Clock ticks between boot and its start.
    StartTime(u64),
    Unknown,
}

impl Identity {
    pub(super) fn of(pidfd: &OwnedFd, pid: i32) -> Self {
        #[allow(clippy::useless_conversion, reason = "the field's type differs between architectures")]
        let pidfs = file::fstatfs(pidfd.as_fd()).is_ok_and(|stat| i64::from(stat.f_type) == PIDFS_MAGIC);
        if pidfs && let Ok(stat) = file::fstatat(pidfd.as_fd(), c"") {
            return Self::Inode(stat.st_ino);
        }
        // The command's name may contain spaces and brackets; fields are counted from the last one.
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .ok()
            .and_then(|text| text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok())
            .map_or(Self::Unknown, Self::StartTime)
    }
}

/// The small file.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// The machine's boot, as nothing of it survives one.
    boot: String,
    id: String,
    container: Option<String>,
    cgroup: Option<String>,
    pid: i32,
    identity: Identity,
    started_at: u64,
    exit: Option<ExitStatus>,
    /// Another runtime made it.
    foreign: bool,
    /// For whom it stands in.
    behind: Option<i32>,
}

/// Best effort: without it the process still runs and is watched, only a death of the keeper would lose it.
pub(super) fn write(settings: &Settings, process: &Process) {
    let saved = Saved {
        boot: settings.boot.clone(),
        id: process.id.clone(),
        container: process.container.clone(),
        cgroup: process.cgroup.clone(),
        pid: process.pid,
        identity: process.identity,
        started_at: process.started_at,
        exit: process.exit,
        foreign: process.foreign.is_some(),
        behind: process.behind.as_ref().map(|b| b.pid),
    };
    if let Ok(bytes) = postcard::to_stdvec(&saved) {
        // A reader of a file cut short ignores it, so there is no need for a rename; the next keeper is not there yet.
        let _ = std::fs::write(settings.state().join(&process.id), bytes);
    }
}

pub(super) fn remove(settings: &Settings, id: &str) {
    // The file may never have been written.
    let _ = std::fs::remove_file(settings.state().join(id));
}

/// Takes over what an earlier keeper left when it died.
pub(super) fn adopt(settings: &Settings) -> Result<Table> {
    let mut table = Table::default();
    let root = fs::Root::open(&settings.state())?;
    for (name, _) in root.list(".")? {
        let saved =
            root.read_limited(&name, LONGEST).ok().and_then(|b| postcard::from_bytes::<Saved>(&b).ok());
        let Some(saved) = saved.filter(|s| s.boot == settings.boot && name.to_str() == Some(s.id.as_str()))
        else {
            let _ = root.remove_file(&name);
            continue;
        };
        // First the descriptor, then the comparison: from then on the number cannot be another's.
        let pidfd = sys::pidfd_open(saved.pid)
            .ok()
            .filter(|fd| saved.exit.is_none() && Identity::of(fd, saved.pid) == saved.identity);
        let lost = ExitStatus {
            code: super::table::LOST,
            signal: None,
            oom_killed: false,
            at: wharf_kernel::sys::realtime_nanos(),
        };
        let exit = saved.exit.or_else(|| pidfd.is_none().then_some(lost));
        table.insert(Process {
            id: saved.id,
            container: saved.container,
            cgroup: saved.cgroup,
            pid: saved.pid,
            identity: saved.identity,
            started_at: saved.started_at,
            pidfd: pidfd.map(super::table::aside),
            child: false,
            report: None,
            waiting: None,
            failure: None,
            exit,
            held: Vec::new(),
            lent: Vec::new(),
            foreign: saved.foreign.then_some(match saved.behind {
                Some(_) => super::foreign::Stage::StandIn,
                None => super::foreign::Stage::Made,
            }),
            ended_early: false,
            behind: saved.behind.map(super::foreign::Behind::of),
        });
    }
    Ok(table)
}

/// The whole table, with the numbers of descriptors that stay open over the exec.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handover {
    pub(super) version: u32,
    pub(super) listener: RawFd,
    pub(super) lock: RawFd,
    pub(super) daemon: Option<RawFd>,
    pub(super) nofile: (u64, u64),
    /// Of the request to reload, answered by the new instance.
    pub(super) sequence: u64,
    pub(super) processes: Vec<Handed>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handed {
    id: String,
    container: Option<String>,
    cgroup: Option<String>,
    pid: i32,
    identity: Identity,
    started_at: u64,
    pidfd: Option<RawFd>,
    child: bool,
    report: Option<RawFd>,
    waiting: Option<u64>,
    failure: Option<StartError>,
    exit: Option<ExitStatus>,
    held: Vec<(String, RawFd)>,
    foreign: Option<super::foreign::Stage>,
    ended_early: bool,
    behind: Option<(i32, Option<RawFd>)>,
}

pub(super) const HANDOVER: u32 = 3;

impl Handed {
    pub(super) fn of(process: &Process) -> Self {
        let raw = |fd: &Option<OwnedFd>| fd.as_ref().map(AsRawFd::as_raw_fd);
        Self {
            id: process.id.clone(),
            container: process.container.clone(),
            cgroup: process.cgroup.clone(),
            pid: process.pid,
            identity: process.identity,
            started_at: process.started_at,
            pidfd: raw(&process.pidfd),
            child: process.child,
            report: raw(&process.report),
            waiting: process.waiting,
            failure: process.failure.clone(),
            exit: process.exit,
            held: process.held.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect(),
            foreign: process.foreign,
            ended_early: process.ended_early,
            behind: process.behind.as_ref().map(|b| (b.pid, raw(&b.pidfd))),
        }
    }

    pub(super) fn take(self) -> Result<Process> {
        Ok(Process {
            id: self.id,
            container: self.container,
            cgroup: self.cgroup,
            pid: self.pid,
            identity: self.identity,
            started_at: self.started_at,
            pidfd: self.pidfd.map(sys::inherited).transpose()?,
            child: self.child,
            report: self.report.map(sys::inherited).transpose()?,
            waiting: self.waiting,
            failure: self.failure,
            exit: self.exit,
            held: self
                .held
                .into_iter()
                .map(|(name, fd)| Ok((name, sys::inherited(fd)?)))
                .collect::<Result<_>>()?,
            // A child that is still being set up has the table of before the exec.
            lent: Vec::new(),
            foreign: self.foreign,
            ended_early: self.ended_early,
            behind: match self.behind {
                Some((pid, pidfd)) => {
                    Some(super::foreign::Behind { pid, pidfd: pidfd.map(sys::inherited).transpose()? })
                }
                None => None,
            },
        })
    }
}

/// Every descriptor that must stay open, flag set for the exec or taken back after a failed one.
pub(super) fn keep_open<'a>(fds: impl Iterator<Item = &'a OwnedFd>, open: bool) -> Result<()> {
    for fd in fds {
        sys::set_cloexec(fd.as_fd(), !open)?;
    }
    Ok(())
}

pub(super) fn encode(handover: &Handover) -> Result<OwnedFd> {
    let bytes =
        postcard::to_stdvec(handover).map_err(|e| Error::refused("handover", libc::EINVAL, e.to_string()))?;
    file::memfd(c"wharf-keeper", &bytes, false)
}

pub(super) fn decode(fd: RawFd) -> Result<Handover> {
    let file = std::fs::File::from(sys::inherited(fd)?);
    let bytes = fs::read_limited(&file, 256 << 20)?;
    let handover: Handover =
        postcard::from_bytes(&bytes).map_err(|e| Error::refused("handover", libc::EPROTO, e.to_string()))?;
    if handover.version == HANDOVER {
        Ok(handover)
    } else {
        Err(Error::refused("handover", libc::EPROTO, "from a keeper of another kind"))
    }
}
