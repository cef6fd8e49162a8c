//! Containers that another program makes: anything with runc's command line.
//!
//! The program runs in a mount namespace of its own, in which the bundle's trees are mounted and nothing of which reaches the
//! host's. It gets a clean environment and no descriptor but the three standard ones. [`run`] and [`exec`] are the keeper's;
//! [`invoke`] is for everything that makes no process.

pub(crate) mod bundle;
pub(crate) mod conduct;
mod mapped;
mod shadow;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;
use wharf_plan::run::Runtime;

use crate::error::{Error, Result};
use crate::program::{self, End, PATH};
use crate::sys::mount as sys_mount;
use crate::sys::process as sys;

pub use conduct::{exec, foreign, open_bundle, own_null, prepare, run};
pub use mapped::check_user;
pub use shadow::with_directory;

/// A runtime that has not made its container by then never will.
const MAKING: Duration = Duration::from_mins(2);

/// File of a bundle that says whose it is, as JSON of [`Runtime`].
pub const RECORD: &str = "runtime.json";

/// So much of a log or an error text is read.
const LONGEST: usize = 256 << 10;

/// A mount namespace for this thread alone, in which what is mounted stays, while the host's own changes still arrive: a file
/// system that the host unmounts is not kept busy.
pub fn private_mounts() -> Result<()> {
    sys::unshare(sys::CLONE_NEWNS)?;
    sys_mount::set_root_propagation(libc::MS_SLAVE)?;
    // Some runtimes refuse a machine that has both versions of cgroups. The first is the one with the controllers there.
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.join("cgroup.procs").exists() && !Path::new("/sys/fs/cgroup/cgroup.procs").exists() {
        // Not a mount of its own, or busy: then the runtime says itself what it thinks of it.
        let _ = nix::mount::umount2(unified, nix::mount::MntFlags::MNT_DETACH);
    }
    Ok(())
}

/// A call of the runtime, its log in `log`.
fn command(runtime: &Runtime, log: &Path) -> Command {
    let mut command = Command::new(&runtime.program);
    command.env_clear().env("PATH", PATH).args(&runtime.args);
    command.arg("--root").arg(&runtime.root).arg("--log").arg(log).args(["--log-format", "json"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Files of one call in the bundle; they are gone when this is.
struct Scratch {
    log: PathBuf,
    errors: PathBuf,
}

impl Scratch {
    fn new(bundle: &Path) -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        let name = format!("call-{}-{number}", sys::own_pid());
        Self { log: bundle.join(format!("{name}.log")), errors: bundle.join(format!("{name}.err")) }
    }

    /// Standard error of a call that shares it with no container.
    fn stderr(&self) -> Stdio {
        std::fs::File::create(&self.errors).map_or_else(|_| Stdio::null(), Stdio::from)
    }

    /// What the runtime said of its failure.
    fn reason(&self) -> Option<String> {
        let read = |path: &Path| {
            std::fs::File::open(path).ok().and_then(|file| crate::fs::read_limited(&file, LONGEST).ok())
        };
        let log = read(&self.log).unwrap_or_default();
        last_error(&String::from_utf8_lossy(&log)).or_else(|| {
            let errors = read(&self.errors).unwrap_or_default();
            let text = String::from_utf8_lossy(&errors).trim().to_owned();
            (!text.is_empty()).then_some(text)
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for path in [&self.log, &self.errors] {
            // It may never have been made.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The last error of a log in lines of JSON, which is what runc and its like write.
fn last_error(log: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        #[serde(default)]
        msg: String,
    }
    let lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut errors = lines.filter(|l| matches!(l.level.as_str(), "error" | "fatal") && !l.msg.is_empty());
    errors.next().map(|line| line.msg)
}

/// Waits for a call's end; one that takes too long is killed.
fn finish(mut child: Child, patience: Duration, scratch: &Scratch, name: &str) -> Result<(), String> {
    let status = match program::wait(&mut child, patience).map_err(|e| format!("{name}: {e}"))? {
        End::Status(status) => status,
        End::Late => {
            return Err(format!("{name} did not end within {} seconds and was killed", patience.as_secs()));
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(scratch.reason().unwrap_or_else(|| format!("{name} failed ({status}) and did not say why")))
}

/// Calls a runtime with `arguments` and waits for its end, at most `patience`. The error is the runtime's own text.
///
/// It is for calls that make no process; whatever the runtime leaves behind becomes a child of the init of the machine.
pub fn invoke(runtime: &Runtime, arguments: &[&str], patience: Duration) -> Result<(), String> {
    let work = || -> Result<(), String> {
        private_mounts().map_err(|e| format!("a mount namespace for {}: {e}", runtime.name))?;
        // Whatever this process was started with is not the runtime's either.
        sys::close_on_exec_from(3).map_err(about("closing descriptors"))?;
        let bundle = PathBuf::from(&runtime.bundle);
        // Never where others could lay a link for the log to follow.
        let dir = if bundle.is_dir() { bundle } else { PathBuf::from(&runtime.root) };
        bundle::directory(&dir)?;
        let scratch = Scratch::new(&dir);
        let mut command = command(runtime, &scratch.log);
        command.args(arguments).current_dir(&dir).stderr(scratch.stderr());
        let child = command.spawn().map_err(|e| format!("{}: {e}", runtime.program))?;
        finish(child, patience, &scratch, &runtime.name)
    };
    apart(work).unwrap_or_else(|| Err("no thread to call the runtime from".into()))
}

/// What a runtime says it can do (`features`), as its own JSON; None where it does not say.
pub fn features(program: &str, arguments: &[String], patience: Duration) -> Option<String> {
    use std::io::Read;
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).args(arguments).arg("features").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    apart(move || {
        private_mounts().ok()?;
        sys::close_on_exec_from(3).ok()?;
        let mut child = command.spawn().ok()?;
        let output = child.stdout.take()?;
        let reader = std::thread::Builder::new().name("runtime".into()).spawn(move || {
            let mut text = String::new();
            let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX);
            output.take(limit).read_to_string(&mut text).ok().map(|_| text)
        });
        let nowhere = Scratch::new(Path::new("/nonexistent"));
        finish(child, patience, &nowhere, program).ok()?;
        let text = reader.ok()?.join().ok()??;
        let value: serde_json::Value = serde_json::from_str(&text).ok()?;
        value.is_object().then(|| value.to_string())
    })
    .flatten()
}

/// Waits until a descriptor can be read.
fn readable(fd: std::os::fd::BorrowedFd<'_>, patience: Duration) -> std::io::Result<()> {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut polls = [PollFd::new(fd, PollFlags::POLLIN)];
        match poll(&mut polls, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(0) if left.is_zero() => return Err(std::io::ErrorKind::TimedOut.into()),
            Ok(0) => {}
            Ok(_) => return Ok(()),
        }
    }
}

/// Runs something on a thread of its own, which may leave the namespaces of the others.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("runtime".into()).spawn_scoped(scope, work);
        thread.ok().and_then(|thread| thread.join().ok())
    })
}

/// An error as a text with what it was about.
fn about(what: impl std::fmt::Display) -> impl FnOnce(Error) -> String {
    move |error| format!("{what}: {error}")
}

#[cfg(test)]
mod tests;
