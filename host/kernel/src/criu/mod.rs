//! Checkpoints of the engine's own containers, by CRIU: [`dump`] is the daemon's, [`restore`] the keeper's.
//!
//! CRIU runs as the host's root and reads what processes of the container say about themselves (through /proc, and by code that
//! it puts into them); it is trusted to cope with hostile ones, as it is with every other runtime. It is not called unless
//! somebody asks for a checkpoint. What it is not left to: mounts that come from outside, the cgroup, the network
//! namespace and the streams are the plan's, as for any start, and merely named to it.

mod log;
mod mounts;
mod places;
mod restore;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::program::{self, End};
use crate::runtime::{apart, private_mounts};
use crate::sys::process as sys;

pub use places::{Found, bind_in, look};
pub use restore::restore;

/// What the names of the tables begin with by which CRIU shuts a network.
const LOCKS: &str = "CRIU-";
/// The name by which images refer to the container's network namespace.
const NET: &str = "wharf-net";

/// Is this machine one that CRIU can work on?
const CHECKING: Duration = Duration::from_secs(30);

/// What a checkpoint is made of.
#[derive(Debug)]
pub struct Dump<'a> {
    /// The CRIU program.
    pub program: &'a Path,
    /// Directory for the images; exists, root's alone.
    pub images: &'a Path,
    /// Directory for the log; exists.
    pub work: &'a Path,
    /// The container's first process, as this process sees it. It must not have been reaped.
    pub pid: i32,
    /// Paths inside whose mounts come from outside, see [`look`].
    pub external: &'a [String],
    /// Inode of the container's network namespace, if it has one of its own that is not to be written.
    pub net: Option<u64>,
    /// The IPC namespace of another container that this one is in; it is not written.
    pub ipc: Option<&'a OwnedFd>,
    /// What becomes of the processes.
    pub after: After,
    /// Further options of CRIU's command line, for example [`FILE_LOCKS`].
    pub options: &'a [String],
}

/// What becomes of the processes when their state is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// They end.
    End,
    /// They run on.
    Run,
    /// They run on, and only their memory is written, for a later dump that has this one as its parent.
    Memory,
}

/// Locks of files are of the container's own processes only.
pub const FILE_LOCKS: &str = "--file-locks";
/// Files that were removed while they are open get a name for the time until the restore.
pub const LINK_REMAP: &str = "--link-remap";
/// Connections go on, where their addresses are still the container's.
pub const TCP_ESTABLISHED: &str = "--tcp-established";
/// Connections are found closed.
pub const TCP_CLOSE: &str = "--tcp-close";

/// A call of CRIU, its log in `work`.
fn command(program: &Path, verb: &str, images: &Path, work: &Path, log: &str, options: &[String]) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", program::PATH).current_dir(work);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.arg(verb).arg("--images-dir").arg(images).arg("--work-dir").arg(work);
    command.args(["--log-file", log, "-v2"]);
    // The cgroup is ours, and so is whoever is in it.
    command.arg("--manage-cgroups=ignore").args(options);
    command
}

/// How CRIU failed.
enum Failure {
    /// It said why, and put back what it had changed.
    Told(String),
    /// It was killed in the middle of its work.
    Cut(String),
}

impl Failure {
    fn text(self) -> String {
        match self {
            Self::Told(text) | Self::Cut(text) => text,
        }
    }
}

/// Waits for CRIU; the error is what it logged.
fn finish(mut command: Command, patience: Duration, log: &Path) -> Result<(), Failure> {
    use std::os::unix::process::ExitStatusExt;
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(|e| Failure::Told(format!("{name}: {e}")))?;
    // Copies of streams that stayed here would keep them open.
    drop(command);
    match program::wait(&mut child, patience).map_err(|e| Failure::Told(format!("{name}: {e}")))? {
        End::Status(status) if status.success() => Ok(()),
        End::Status(status) => match status.signal() {
            Some(signal) => Err(Failure::Cut(format!("it was killed by signal {signal}"))),
            None => Err(Failure::Told(
                log::errors(log).unwrap_or_else(|| format!("{status}, and it did not say why")),
            )),
        },
        End::Late => {
            Err(Failure::Cut(format!("it did not end within {} seconds and was killed", patience.as_secs())))
        }
    }
}

/// How CRIU shuts a container's network while it saves it; a restore does it in the same way. Without being told it calls iptables, which systems with nftables alone
/// do not have, and whose rules only iptables could take away again if CRIU died.
fn network_lock(program: &Path) -> Option<[&'static str; 2]> {
    let feature = ["check", "--feature", "network_lock_nftables"];
    let has_iptables = || program::find("iptables-restore").is_some();
    // Some versions can, and do not answer that question.
    let by_tables = program::call(program, &feature, b"", CHECKING).is_ok() || !has_iptables();
    by_tables.then_some(["--network-lock", "nftables"])
}

/// Opens the network again that a CRIU which died had shut; the host's own it never shuts.
fn unlock_network(pid: i32) {
    let open = || -> Result<usize, String> {
        use std::os::unix::fs::MetadataExt;
        let open = |path: &str| std::fs::File::open(path).map_err(|e| e.to_string());
        let inode = |file: &std::fs::File| file.metadata().map(|meta| meta.ino()).map_err(|e| e.to_string());
        let (namespace, own) = (open(&format!("/proc/{pid}/ns/net"))?, open("/proc/thread-self/ns/net")?);
        if inode(&namespace)? == inode(&own)? {
            return Ok(0);
        }
        sys::setns(namespace.as_fd(), sys::CLONE_NEWNET).map_err(|e| e.to_string())?;
        crate::net::remove_tables(LOCKS).map_err(|e| e.to_string())
    };
    // The container may have ended with it.
    if let Err(error) = open() {
        tracing::warn!(
            pid,
            error,
            "the network of a container is perhaps still shut by a CRIU that was killed"
        );
    }
}

/// Writes the state of a container's processes into files, and ends them unless they are to run on. Where it fails they
/// run on.
///
/// # Errors
/// CRIU's own words.
pub fn dump(dump: &Dump<'_>, patience: Duration) -> Result<(), String> {
    const LOG: &str = "dump.log";
    let work = || -> Result<(), String> {
        private_mounts().map_err(|e| format!("a mount namespace for CRIU: {e}"))?;
        sys::close_on_exec_from(3).map_err(|e| e.to_string())?;
        if let Some(ipc) = dump.ipc {
            // What CRIU itself is in, it leaves alone.
            sys::setns(ipc.as_fd(), sys::CLONE_NEWIPC).map_err(|e| format!("the IPC namespace: {e}"))?;
        }
        let verb = if dump.after == After::Memory { "pre-dump" } else { "dump" };
        let mut command = command(dump.program, verb, dump.images, dump.work, LOG, dump.options);
        command.arg("--tree").arg(dump.pid.to_string());
        for path in dump.external {
            command.arg("--external").arg(format!("mnt[{path}]:{path}"));
        }
        if let Some(inode) = dump.net {
            command.arg("--external").arg(format!("net[{inode}]:{NET}"));
        }
        if dump.after != After::Memory {
            command.args(network_lock(dump.program).into_iter().flatten());
        }
        match dump.after {
            After::End => {}
            After::Run => drop(command.arg("--leave-running")),
            After::Memory => drop(command.arg("--track-mem")),
        }
        finish(command, patience, &dump.work.join(LOG)).map_err(|failure| {
            if matches!(failure, Failure::Cut(_)) {
                unlock_network(dump.pid);
            }
            failure.text()
        })
    };
    apart(work).unwrap_or_else(|| Err("no thread to call CRIU from".into()))
}

/// Whether CRIU can work on this machine at all.
///
/// # Errors
/// What it says is missing.
pub fn check(program: &Path) -> Result<(), String> {
    let work = || -> Result<(), String> {
        sys::close_on_exec_from(3).map_err(|e| e.to_string())?;
        program::call(program, &["check"], b"", CHECKING)
    };
    apart(work)
        .unwrap_or_else(|| Err("no thread to call CRIU from".into()))
        .map_err(|text| log::causes(&text).unwrap_or(text))
}
