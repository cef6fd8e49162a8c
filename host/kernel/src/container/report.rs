//! What a child tells the keeper between fork and exec.

use std::os::fd::{BorrowedFd, OwnedFd};

use wharf_plan::run::{Stage, StartError};

use crate::error::{Error, Result};
use crate::sys::socket;

/// A message is cut here; the longest are paths.
const LONGEST: usize = 4096;

const TERMINAL: u8 = 1;
const FAILURE: u8 = 2;
const PAUSED: u8 = 3;
const READY: u8 = 4;
const OWN: u8 = 5;
const ADOPT: u8 = 6;
const STANDS_IN: u8 = 7;
const RUNS: u8 = 8;
const LISTENER: u8 = 9;

const STAGES: [Stage; 11] = [
    Stage::Request,
    Stage::Namespace,
    Stage::Cgroup,
    Stage::Mount,
    Stage::Sysctl,
    Stage::Stdio,
    Stage::Cwd,
    Stage::Credentials,
    Stage::Security,
    Stage::Exec,
    Stage::Runtime,
];

/// One message of a child.
#[derive(Debug)]
pub enum Report {
    /// Nothing yet.
    Pending,
    /// The master of its terminal.
    Terminal(OwnedFd),
    /// Its namespaces are there, and it waits as its plan says ([`pause`](wharf_plan::run::RunPlan::pause)).
    Paused,
    /// It waits at its gate, and only the program is missing.
    Ready,
    /// It has a table of descriptors of its own: what was [lent](super::Host::lend_descriptors) to it can be closed.
    Own,
    /// Another runtime made the process; it is the caller's child from now on (see [`conduct`](super::conduct)).
    Adopt(i32),
    /// The child stays and stands in for a process that is not the caller's child: it passes streams, and ends as that one does.
    StandsIn(i32),
    /// The program runs, and the child has nothing more to tell. As [`Closed`](Self::Closed), by a child that stays.
    Runs,
    /// It is about to install a filter with a listener, whose descriptor will have this number there, and then waits at its gate.
    /// As [`Ready`](Self::Ready), with one step left of which no message can tell: the listener may have it wait for anything.
    Listener(i32),
    /// It gave up and ends.
    Failed(StartError),
    /// The socket was closed: the program runs, or the child was killed before.
    Closed,
}

/// The next message, without waiting.
pub fn read_report(report: BorrowedFd<'_>) -> Result<Report> {
    let mut buffer = [0u8; LONGEST];
    let mut fds = Vec::new();
    let length = match socket::receive(report, &mut buffer, &mut fds) {
        Err(e) if e.is(libc::EAGAIN) => return Ok(Report::Pending),
        // The child died with messages of ours unread; we send none, but be sure.
        Err(e) if e.is(libc::ECONNRESET) => return Ok(Report::Closed),
        result => result?,
    };
    match (buffer.get(..length).unwrap_or_default(), fds.pop()) {
        ([], _) => Ok(Report::Closed),
        ([TERMINAL], Some(master)) => Ok(Report::Terminal(master)),
        ([PAUSED], _) => Ok(Report::Paused),
        ([READY], _) => Ok(Report::Ready),
        ([OWN], _) => Ok(Report::Own),
        ([ADOPT, a, b, c, d], _) => Ok(Report::Adopt(i32::from_le_bytes([*a, *b, *c, *d]))),
        ([STANDS_IN, a, b, c, d], _) => Ok(Report::StandsIn(i32::from_le_bytes([*a, *b, *c, *d]))),
        ([RUNS], _) => Ok(Report::Runs),
        ([LISTENER, a, b, c, d], _) => Ok(Report::Listener(i32::from_le_bytes([*a, *b, *c, *d]))),
        ([FAILURE, stage, a, b, c, d, what @ ..], _) => Ok(Report::Failed(StartError {
            stage: STAGES.get(usize::from(*stage)).copied().unwrap_or(Stage::Request),
            errno: i32::from_le_bytes([*a, *b, *c, *d]),
            what: String::from_utf8_lossy(what).into_owned(),
        })),
        _ => Err(Error::refused("report", libc::EPROTO, "not a message of a child")),
    }
}

pub(super) fn send_terminal(report: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<()> {
    socket::send(report, &[TERMINAL], &[master])
}

pub(super) fn send_paused(report: BorrowedFd<'_>) -> Result<()> {
    socket::send(report, &[PAUSED], &[])
}

pub(super) fn send_ready(report: BorrowedFd<'_>) -> Result<()> {
    socket::send(report, &[READY], &[])
}

pub(super) fn send_own(report: BorrowedFd<'_>) -> Result<()> {
    socket::send(report, &[OWN], &[])
}

pub(super) fn send_adopt(report: BorrowedFd<'_>, pid: i32) -> Result<()> {
    let [a, b, c, d] = pid.to_le_bytes();
    socket::send(report, &[ADOPT, a, b, c, d], &[])
}

pub(super) fn send_stands_in(report: BorrowedFd<'_>, pid: i32) -> Result<()> {
    let [a, b, c, d] = pid.to_le_bytes();
    socket::send(report, &[STANDS_IN, a, b, c, d], &[])
}

pub(super) fn send_runs(report: BorrowedFd<'_>) -> Result<()> {
    socket::send(report, &[RUNS], &[])
}

pub(super) fn send_listener(report: BorrowedFd<'_>, number: i32) -> Result<()> {
    let [a, b, c, d] = number.to_le_bytes();
    socket::send(report, &[LISTENER, a, b, c, d], &[])
}

pub(super) fn send_failure(report: BorrowedFd<'_>, error: &StartError) {
    let stage = STAGES.iter().position(|s| *s == error.stage).and_then(|s| u8::try_from(s).ok()).unwrap_or(0);
    let mut message = vec![FAILURE, stage];
    message.extend_from_slice(&error.errno.to_le_bytes());
    message.extend_from_slice(error.what.as_bytes());
    message.truncate(LONGEST);
    // Nobody is left to hear of a failure here; the keeper sees that the process ended.
    let _ = socket::send(report, &message, &[]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn failures_survive_the_way() {
        let (ours, theirs) = socket::pair(true).unwrap();
        assert!(matches!(read_report(ours.as_fd()).unwrap(), Report::Pending));
        for stage in STAGES {
            let sent = StartError { stage, errno: libc::ENOENT, what: "mount proc on /proc".into() };
            send_failure(theirs.as_fd(), &sent);
            let Report::Failed(got) = read_report(ours.as_fd()).unwrap() else { panic!("{stage:?}") };
            assert_eq!(got, sent);
        }
        let long = StartError { stage: Stage::Exec, errno: 1, what: "x".repeat(100_000) };
        send_failure(theirs.as_fd(), &long);
        assert!(matches!(read_report(ours.as_fd()).unwrap(), Report::Failed(_)));
        send_adopt(theirs.as_fd(), 70_000).unwrap();
        assert!(matches!(read_report(ours.as_fd()).unwrap(), Report::Adopt(70_000)));
        send_stands_in(theirs.as_fd(), 70_001).unwrap();
        assert!(matches!(read_report(ours.as_fd()).unwrap(), Report::StandsIn(70_001)));
        send_listener(theirs.as_fd(), 300).unwrap();
        assert!(matches!(read_report(ours.as_fd()).unwrap(), Report::Listener(300)));
        send_runs(theirs.as_fd()).unwrap();
        assert!(matches!(read_report(ours.as_fd()).unwrap(), Report::Runs));
        send_terminal(theirs.as_fd(), theirs.as_fd()).unwrap();
        assert!(matches!(read_report(ours.as_fd()).unwrap(), Report::Terminal(_)));
        drop(theirs);
        assert!(matches!(read_report(ours.as_fd()).unwrap(), Report::Closed));
    }
}
