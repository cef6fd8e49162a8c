//! A shim's processes. Whoever stands in for a container is a subreaper, so all that its shim starts stays below it.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use wharf_kernel::sys::process as sys;

/// At most so many processes are looked at in one go.
const MOST: usize = 100_000;
/// Between two looks at processes that are to die.
const PAUSE: Duration = Duration::from_millis(5);

/// A process that may be looked for when its number could be another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pid: i32,
    /// Clock ticks between boot and its start.
    since: u64,
}

/// Field of `/proc/<pid>/stat`, counted from the state, which is 0.
fn stat(pid: i32, field: usize) -> Option<u64> {
    // The command's name may contain spaces and brackets; fields are counted from the last one.
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(field)?.parse().ok()
}

fn children(pid: i32) -> Vec<i32> {
    let mut all = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(list.split_whitespace().filter_map(|n| n.parse::<i32>().ok()));
    }
    all
}

/// Everything below a process, itself not among it.
pub(crate) fn below(pid: i32) -> BTreeSet<i32> {
    let (mut all, mut look) = (BTreeSet::new(), vec![pid]);
    while let Some(next) = look.pop() {
        for child in children(next) {
            if all.len() < MOST && all.insert(child) {
                look.push(child);
            }
        }
    }
    all
}

/// Whether a process is below another.
pub(crate) fn is_below(pid: i32, ancestor: i32) -> bool {
    let mut at = pid;
    for _ in 0..1000 {
        match stat(at, 1).and_then(|parent| i32::try_from(parent).ok()) {
            Some(parent) if parent == ancestor => return true,
            Some(parent) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    false
}

impl Member {
    fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, since: stat(pid, 19)? })
    }

    fn kill(self) {
        // First the descriptor, then the comparison: from then on the number cannot be another's.
        if let Ok(pidfd) = sys::pidfd_open(self.pid)
            && stat(self.pid, 19) == Some(self.since)
        {
            let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
    }
}

/// The caller's whole family, as it is now.
pub(crate) fn own() -> Vec<Member> {
    below(sys::own_pid()).into_iter().filter_map(Member::of).collect()
}

/// Takes the statuses of children that have ended.
pub(crate) fn reap() {
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Kills everything below the caller and waits for it to be gone, as long as that may take. What a kill orphans becomes the
/// caller's child and is next.
pub(crate) fn end_own(patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        reap();
        let family = own();
        if family.is_empty() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        family.into_iter().for_each(Member::kill);
        std::thread::sleep(PAUSE);
    }
}

/// Waits for everything below the caller to end by itself.
pub(crate) fn ends_by_itself(patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        reap();
        if children(sys::own_pid()).is_empty() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Kills a family whose head is gone, with all that is below it by now.
pub(crate) fn end(family: &[Member]) {
    let alive: Vec<Member> = family.iter().copied().filter(|m| stat(m.pid, 19) == Some(m.since)).collect();
    let more: Vec<Member> = alive.iter().flat_map(|m| below(m.pid)).filter_map(Member::of).collect();
    alive.into_iter().chain(more).for_each(Member::kill);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_family_is_what_is_below() {
        let mut child = Command::new("/bin/sh").args(["-c", "sleep 1000 & wait"]).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let own = sys::own_pid();
        let grandchild = loop {
            if let Some(pid) = below(pid).into_iter().next() {
                break pid;
            }
        };
        assert!(below(own).contains(&grandchild));
        assert!(is_below(grandchild, pid) && is_below(grandchild, own));
        assert!(!is_below(own, pid) && !is_below(1, own) && !is_below(0, own) && !is_below(-5, own));
        let head = Member::of(pid).unwrap();
        // A number that is another's by now is left alone.
        end(&[Member { since: head.since + 1, ..head }]);
        assert!(stat(grandchild, 0).is_none() && std::fs::exists(format!("/proc/{grandchild}")).unwrap());
        assert!(child.try_wait().unwrap().is_none());
        end(&[head]);
        child.wait().unwrap();
        let gone = Instant::now() + Duration::from_secs(20);
        while Member::of(grandchild).is_some_and(|_| !is_zombie(grandchild)) {
            assert!(Instant::now() < gone, "the grandchild lives");
            std::thread::sleep(PAUSE);
        }
    }

    fn is_zombie(pid: i32) -> bool {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        text.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    }
}
