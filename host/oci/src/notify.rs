//! Filters whose answers come from an agent (`SCMP_ACT_NOTIFY`): the listener's descriptor is sent to the socket that the
//! configuration names, with the container's state, as the runtime specification has it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use serde_json::{Value, json};
use wharf_kernel::container::{Report, Spawned};
use wharf_kernel::seccomp;
use wharf_kernel::sys::listener;
use wharf_plan::run::Process;

use crate::{Doing, Error, Result, create, handover};

/// Between telling of the filter and its being there lies one system call.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who answers.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: PathBuf,
    metadata: String,
}

/// Gives the process the filters of its configuration, and says who answers for them, if anybody is to.
pub(crate) fn filters(config: &Value, process: &mut Process) -> Result<Option<Agent>> {
    let Some(profile) = config.pointer("/linux/seccomp").filter(|p| !p.is_null()) else { return Ok(None) };
    let (program, notifies) =
        seccomp::from_configuration(&profile.to_string(), process.capabilities.bounding).doing("seccomp")?;
    process.seccomp = vec![program];
    process.listener = notifies;
    if !notifies {
        return Ok(None);
    }
    let text = |key: &str| profile.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let socket = text("listenerPath");
    if socket.is_empty() {
        return Err("seccomp: listenerPath must be set where a rule has the action SCMP_ACT_NOTIFY".into());
    }
    Ok(Some(Agent { socket: socket.into(), metadata: text("listenerMetadata") }))
}

/// A gate for a process that would have none: it opens when something is written to the file.
pub(crate) fn gate(process: &mut Process, fds: &mut Vec<OwnedFd>) -> Result<File> {
    let (theirs, ours) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    process.gate = Some(create::add(fds, theirs));
    Ok(File::from(ours))
}

impl Agent {
    /// What is to be done for a report: for that of the listener, it is fetched and sent. `state` is the container's.
    pub(crate) fn told(&self, report: &Report, spawned: &Spawned, state: &Value) -> Result<()> {
        let Report::Listener(number) = report else { return Ok(()) };
        let listener = fetch(spawned, *number).doing("the seccomp listener")?;
        let message = json!({
            "ociVersion": crate::spec::VERSION, "fds": ["seccompFd"], "pid": spawned.pid,
            "metadata": self.metadata, "state": state,
        });
        let what = "failed to connect with seccomp agent specified in the seccomp profile";
        handover::send(&self.socket, message.to_string().as_bytes(), listener.as_fd(), what)
    }
}

/// Takes the listener out of the process, which can hand it over by no call of its own: the filter may be for that one.
fn fetch(spawned: &Spawned, number: i32) -> Result<OwnedFd> {
    let until = Instant::now() + PATIENCE;
    loop {
        match listener::fetch(spawned.pidfd.as_fd(), number) {
            Err(e) if e.errno() == Errno::EBADF as i32 => {}
            found => {
                let found = found?;
                let kind = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
                if kind.as_os_str() != "anon_inode:seccomp notify" {
                    return Err(Error(format!("descriptor {number} is {}", kind.display())));
                }
                return Ok(found);
            }
        }
        let mut polls = [PollFd::new(spawned.report.as_fd(), PollFlags::POLLIN)];
        // Anything more that it tells is why there is no filter.
        if poll(&mut polls, 1_u8)? > 0 {
            create::follow(spawned, |_| Ok(()))?;
            return Err("the process ended before its filter was there".into());
        }
        if Instant::now() > until {
            return Err("it was not there in time".into());
        }
    }
}
