//! Programs that are told of a container's life: on the host, in its mounts, or in the container itself.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use oci_spec::runtime::{Hook, Spec};
use wharf_kernel::mount;
use wharf_kernel::sys::process::{self as sys, CLONE_FS, CLONE_NEWNS, Ended};
use wharf_plan::run::Process;

use crate::state::Entry;
use crate::{Doing, Error, Result, convert, create, exec, notify};

const TOO_LONG: &str = "it took too long";

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl When {
    const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// Its name in the specification.
    fn word(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

fn list(spec: &Spec, when: When) -> Vec<Hook> {
    let Some(hooks) = spec.hooks() else { return Vec::new() };
    match when {
        When::Prestart => hooks.prestart(),
        When::CreateRuntime => hooks.create_runtime(),
        When::CreateContainer => hooks.create_container(),
        When::StartContainer => hooks.start_container(),
        When::Poststart => hooks.poststart(),
        When::Poststop => hooks.poststop(),
    }
    .clone()
    .unwrap_or_default()
}

/// Whether there are hooks for one of these moments.
pub(crate) fn any(spec: &Spec, moments: &[When]) -> bool {
    moments.iter().any(|when| !list(spec, *when).is_empty())
}

/// Refuses hooks that cannot be run.
pub(crate) fn check(spec: &Spec) -> Result<()> {
    for hook in When::ALL.iter().flat_map(|when| list(spec, *when)) {
        if !hook.path().is_absolute() {
            return Err(Error(format!("the path of a hook must be absolute: {}", hook.path().display())));
        }
    }
    Ok(())
}

/// Runs all hooks of a moment by `one`. The first that fails ends it.
fn all(spec: &Spec, when: When, one: impl Fn(&Hook) -> Result<()>) -> Result<()> {
    for (number, hook) in list(spec, when).iter().enumerate() {
        let word = when.word();
        crate::log::debug(format!("running {word} hook #{number}: {}", hook.path().display()));
        one(hook).doing(format_args!("error running {word} hook #{number}: {}", hook.path().display()))?;
    }
    Ok(())
}

/// Runs all hooks of a moment on the host, with the state on their standard input.
pub(crate) fn run(spec: &Spec, when: When, state: &serde_json::Value) -> Result<()> {
    all(spec, when, |hook| on_host(hook, state))
}

/// Runs the hooks `createContainer`: programs of the host that see what is mounted in the container, below `rootfs`. What they
/// mount themselves is gone after them.
pub(crate) fn run_in_mounts(spec: &Spec, pid: i32, rootfs: &Path, state: &serde_json::Value) -> Result<()> {
    if !any(spec, &[When::CreateContainer]) {
        return Ok(());
    }
    // A thread can have another mount namespace than its process.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("hooks".into()).spawn_scoped(scope, || {
            let theirs = File::open(format!("/proc/{pid}/ns/mnt"))?;
            let ours = File::open("/proc/thread-self/ns/mnt")?;
            sys::unshare(CLONE_FS)?;
            sys::setns(theirs.as_fd(), CLONE_NEWNS)?;
            let tree = mount::bind_path(Path::new("/"), true);
            sys::setns(ours.as_fd(), CLONE_NEWNS)?;
            sys::unshare(CLONE_NEWNS)?;
            mount::attach_alone(tree?.as_fd(), rootfs)?;
            run(spec, When::CreateContainer, state)
        })?;
        thread.join().unwrap_or_else(|_| Err("the thread of the hooks ended".into()))
    })
}

/// Runs the hooks `startContainer`: programs of the container, as its process will run, before that does.
pub(crate) fn run_inside(entry: &Entry, spec: &Spec, value: &serde_json::Value) -> Result<()> {
    if !any(spec, &[When::StartContainer]) {
        return Ok(());
    }
    let described = spec.process().as_ref().ok_or("the configuration has no process")?;
    let mut base = convert::process(described)?;
    let agent = notify::filters(value, &mut base)?;
    crate::home::environment(&mut base.env, base.user.uid, || crate::home::passwd_of(entry.record.pid));
    let state = entry.json(crate::state::Status::Created);
    all(spec, When::StartContainer, |hook| inside(hook, &base, entry, &state, agent.as_ref()))
}

fn inside(
    hook: &Hook,
    base: &Process,
    entry: &Entry,
    state: &serde_json::Value,
    agent: Option<&notify::Agent>,
) -> Result<()> {
    let path = hook.path().display().to_string();
    let args = hook.args().clone().filter(|args| !args.is_empty()).unwrap_or_else(|| vec![path.clone()]);
    let env = hook.env().clone().unwrap_or_else(|| base.env.clone());
    let mut process = Process {
        args,
        env,
        program: Some(path),
        tty: false,
        console_size: None,
        gate: None,
        ..base.clone()
    };
    let mut fds: Vec<OwnedFd> = Vec::new();
    create::streams(&mut process, &mut fds, 0)?;
    let (theirs, ours) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    process.stdio[0] = Some(create::add(&mut fds, theirs));
    let pidfd = entry.process().ok_or("the container has stopped")?;
    let gate = agent.map(|_| notify::gate(&mut process, &mut fds)).transpose()?;
    let spawned = exec::enter(entry, &pidfd, process, &fds, None)?;
    drop(fds);
    let told = create::follow(&spawned, |report| agent.map_or(Ok(()), |a| a.told(report, &spawned, state)));
    told.inspect_err(|_| create::end(&spawned))?;
    if let Some(mut gate) = gate {
        gate.write_all(b"s")?;
    }
    // A hook that does not want to know is free not to read.
    let _ = File::from(ours).write_all(state.to_string().as_bytes());
    if !in_time(hook, spawned.pidfd.as_fd())? {
        sys::pidfd_send_signal(spawned.pidfd.as_fd(), nix::libc::SIGKILL)?;
        create::wait_readable(&spawned.pidfd);
        sys::wait_child(spawned.pidfd.as_fd())?;
        return Err(TOO_LONG.into());
    }
    match sys::wait_child(spawned.pidfd.as_fd())? {
        Some(Ended::Exited(0)) => Ok(()),
        Some(Ended::Exited(code)) => Err(Error(format!("exit status {code}"))),
        Some(Ended::Signaled(number)) => Err(Error(format!("signal: {}", described_signal(number)))),
        None => Err("its end was not told".into()),
    }
}

/// The words that runc has for the signals that end hooks most often.
fn described_signal(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(Signal::SIGSYS) => "bad system call".to_owned(),
        Ok(Signal::SIGKILL) => "killed".to_owned(),
        Ok(Signal::SIGSEGV) => "segmentation fault".to_owned(),
        Ok(Signal::SIGABRT) => "aborted".to_owned(),
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => number.to_string(),
    }
}

/// Waits for the end of a hook's process. False: it took longer than it may.
fn in_time(hook: &Hook, process: BorrowedFd<'_>) -> Result<bool> {
    let limit =
        hook.timeout().and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).map(Duration::from_secs);
    let until = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(process, PollFlags::POLLIN)], left) {
            Ok(0) if until.is_some_and(|until| Instant::now() >= until) => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

fn on_host(hook: &Hook, state: &serde_json::Value) -> Result<()> {
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    for (key, value) in hook.env().iter().flatten().filter_map(|entry| entry.split_once('=')) {
        command.env(key, value);
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::inherit()).stderr(Stdio::inherit()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A hook that does not want to know is free not to read.
        let _ = input.write_all(state.to_string().as_bytes());
    }
    let process = sys::pidfd_open(i32::try_from(child.id()).unwrap_or(0))?;
    if !in_time(hook, process.as_fd())? {
        child.kill()?;
        child.wait()?;
        return Err(TOO_LONG.into());
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(Error(status.to_string())) }
}
