//! What the keeper has a runtime do: make a container or an exec, and become the parent of what was made.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use wharf_plan::run::{ExecPlan, Foreign, Process, RunPlan, Stage, StartError};

use super::{MAKING, Scratch, bundle, command, finish, private_mounts};
use crate::container::{Conductor, Host, Spawned, conduct};
use crate::sys::{process as sys, socket};

/// How long a terminal may take to arrive once the process is there.
const TERMINAL: Duration = Duration::from_secs(5);
/// For taking down what was made in vain.
const UNDO: Duration = Duration::from_secs(10);

pub(crate) fn failed(what: impl Into<String>) -> StartError {
    StartError { stage: Stage::Runtime, errno: 0, what: what.into() }
}

/// Starts a container by its plan's runtime. The process that comes back is the one that calls the runtime; the
/// container's own follows as [`Report::Adopt`](crate::container::Report::Adopt).
///
/// The caller must be single-threaded, and a subreaper, or it will not become the container's parent.
pub fn run(host: &Host, plan: &RunPlan, fds: &[OwnedFd]) -> Result<Spawned, StartError> {
    let foreign = foreign(plan.foreign.as_deref())?;
    conduct(host, fds, |conductor| {
        open_bundle(host, plan, foreign, fds)?;
        let verb: &[&str] = match &foreign.restore {
            None => &["create", "--bundle", "."],
            // What is restored runs when the call ends.
            Some(image) => {
                &["restore", "--detach", "--bundle", ".", "--image-path", image, "--work-path", "."]
            }
        };
        let made = make(foreign, &plan.process, fds, "container", verb, &plan.id)?;
        conductor.adopt(made.pid).map_err(|e| failed(e.to_string()))?;
        let checked = super::check_user(plan, &foreign.runtime, made.pid);
        let told = checked.and_then(|()| tell_terminal(&made, conductor));
        let started = told.and_then(|()| match foreign.restore {
            None => call(foreign, &["start", &plan.id], MAKING),
            Some(_) => Ok(()),
        });
        if let Err(reason) = started {
            // What was made is taken down whether the runtime manages or not.
            let _ = call(foreign, &["delete", "--force", &plan.id], UNDO);
            if let Ok(pidfd) = sys::pidfd_open(made.pid) {
                let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            }
            return Err(failed(reason));
        }
        Ok(())
    })
}

/// Starts a further process in a container of a runtime.
pub fn exec(host: &Host, plan: &ExecPlan, fds: &[OwnedFd]) -> Result<Spawned, StartError> {
    let foreign = foreign(plan.foreign.as_deref())?;
    conduct(host, fds, |conductor| {
        prepare(host)?;
        if plan.ids.is_some() {
            own_null()?;
        }
        let dir = Path::new(&foreign.runtime.bundle);
        bundle::directory(dir).map_err(failed)?;
        enter(dir)?;
        if let Some(ids) = &plan.ids {
            super::mapped::own_streams(&plan.process, ids, fds).map_err(failed)?;
        }
        let document = format!("exec-{}.json", plan.id);
        bundle::document(&dir.join(&document), foreign.document.as_bytes(), 0o600).map_err(failed)?;
        let arguments = ["exec", "--detach", "--process", &document];
        let made = make(foreign, &plan.process, fds, &plan.id, &arguments, &plan.container);
        // It was read, or never will be.
        let _ = std::fs::remove_file(dir.join(&document));
        let made = made?;
        conductor.adopt(made.pid).map_err(|e| failed(e.to_string()))?;
        tell_terminal(&made, conductor).map_err(failed)
    })
}

/// Makes the bundle in a mount namespace of the caller's own, and goes there. For a child that a keeper has forked.
pub fn open_bundle(
    host: &Host,
    plan: &RunPlan,
    foreign: &Foreign,
    fds: &[OwnedFd],
) -> Result<(), StartError> {
    prepare(host)?;
    if plan.user.is_some() {
        own_null()?;
    }
    let dir = Path::new(&foreign.runtime.bundle);
    bundle::make(plan, foreign, fds).map_err(failed)?;
    if plan.init {
        bundle::init(host.init(), dir).map_err(failed)?;
    }
    enter(dir)
}

/// The runtime of a plan, which must name it by absolute paths.
pub fn foreign(foreign: Option<&Foreign>) -> Result<&Foreign, StartError> {
    foreign.filter(|f| f.runtime.program.starts_with('/') && f.runtime.bundle.starts_with('/')).ok_or_else(
        || StartError {
            stage: Stage::Request,
            errno: libc::EINVAL,
            what: "the plan names no runtime by an absolute path".into(),
        },
    )
}

/// In a child that a keeper has forked, before anything is called: a session, a mount namespace, limits of its own.
pub fn prepare(host: &Host) -> Result<(), StartError> {
    let prepare = || -> crate::Result<()> {
        // A group of its own, so that a signal to a start that hangs reaches what it called, too.
        sys::setsid()?;
        sys::unblock_signals()?;
        sys::umask(0o022);
        sys::close_on_exec_from(3)?;
        let (soft, hard) = host.open_files();
        if hard > 0 {
            sys::setrlimit(libc::RLIMIT_NOFILE, soft, hard)?;
        }
        private_mounts()
    };
    prepare().map_err(|e| failed(format!("preparing to call another program: {e}")))
}

/// A null device of the container's own: a runtime may give its streams to the container's user, and the host's `/dev/null` is
/// nobody's to have: who owns it may take it from all others.
fn null(bundle: &Path) -> std::io::Result<Stdio> {
    let node = bundle.join(format!("null-{}", sys::own_pid()));
    let _ = std::fs::remove_file(&node);
    make_null(&node)?;
    let opened = std::fs::File::options().read(true).write(true).open(&node);
    let _ = std::fs::remove_file(&node);
    // Where the bundle lies on a file system without devices.
    Ok(opened.map_or_else(|_| Stdio::null(), Stdio::from))
}

fn make_null(node: &Path) -> nix::Result<()> {
    use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, makedev, mknod};
    let mode = Mode::from_bits_truncate(0o666);
    mknod(node, SFlag::S_IFCHR, mode, makedev(1, 3))?;
    fchmodat(nix::fcntl::AT_FDCWD, node, mode, FchmodatFlags::FollowSymlink)
}

/// The same for what a program opens itself, or binds into a container: puts a null device over this mount namespace's
/// `/dev/null`. For containers with a user namespace alone: CRIU, which has none of those, knows masked files by the host's device.
pub fn own_null() -> Result<(), StartError> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    // A directory that every machine has; it is covered for this moment, and here alone.
    const PLACE: &str = "/sys";
    const NODE: &str = "/sys/null";
    let none = None::<&str>;
    let cover = || {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
        mount(Some("null"), PLACE, Some("tmpfs"), flags, Some("size=4k,nr_inodes=4"))?;
        let bind = || mount(Some(NODE), "/dev/null", none, MsFlags::MS_BIND, none);
        let made = make_null(Path::new(NODE)).and_then(|()| bind());
        // What was bound stays.
        umount2(PLACE, MntFlags::MNT_DETACH)?;
        made
    };
    match cover() {
        // In a user namespace, where nobody can give the host's device away either.
        Err(nix::errno::Errno::EPERM) => Ok(()),
        result => result.map_err(|e| failed(format!("a null device for another program: {e}"))),
    }
}

fn enter(dir: &Path) -> Result<(), StartError> {
    std::env::set_current_dir(dir).map_err(|e| failed(format!("bundle {}: {e}", dir.display())))
}

/// A process that a runtime has made.
struct Made {
    pid: i32,
    console: Option<UnixListener>,
}

/// Calls the runtime for a process whose name in the bundle is `name`. Paths are relative to the bundle, as those of sockets
/// must be short.
fn make(
    foreign: &Foreign,
    process: &Process,
    fds: &[OwnedFd],
    name: &str,
    arguments: &[&str],
    id: &str,
) -> Result<Made, StartError> {
    let short: String = name.chars().take(16).collect();
    let (pid_file, socket) = (format!("{name}.pid"), format!("{short}.sock"));
    for left in [&pid_file, &socket] {
        // Of an earlier run.
        let _ = std::fs::remove_file(left);
    }
    let scratch = Scratch::new(Path::new(&foreign.runtime.bundle));
    let mut command = command(&foreign.runtime, &scratch.log);
    command.args(arguments).args(["--pid-file", &pid_file]);
    let console = if process.tty {
        let listener = UnixListener::bind(&socket).map_err(|e| failed(format!("console socket: {e}")))?;
        command.args(["--console-socket", &socket]).stderr(scratch.stderr());
        Some(listener)
    } else {
        let stream = |index: usize| -> Result<Stdio, StartError> {
            let Some(number) = process.stdio.get(index).copied().flatten() else {
                return null(Path::new(&foreign.runtime.bundle))
                    .map_err(|e| failed(format!("null device: {e}")));
            };
            let fd = usize::try_from(number).ok().and_then(|n| fds.get(n));
            let fd =
                fd.ok_or_else(|| failed(format!("the plan names descriptor {number}, which did not come")))?;
            fd.try_clone().map(Stdio::from).map_err(|e| failed(format!("standard streams: {e}")))
        };
        command.stdin(stream(0)?).stdout(stream(1)?).stderr(stream(2)?);
        None
    };
    command.arg(id);
    let child = command.spawn().map_err(|e| failed(format!("{}: {e}", foreign.runtime.program)))?;
    // Copies of a container's streams that stayed here would keep them open.
    drop(command);
    let result = finish(child, MAKING, &scratch, &foreign.runtime.name).map_err(failed);
    let pid = std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
    for left in [&pid_file, &socket] {
        let _ = std::fs::remove_file(left);
    }
    result?;
    let pid = pid.filter(|pid| *pid > 0).ok_or_else(|| failed("the runtime told no process id"))?;
    Ok(Made { pid, console })
}

/// Hands on the terminal, which the runtime has sent by now.
fn tell_terminal(made: &Made, conductor: Conductor<'_>) -> Result<(), String> {
    let Some(listener) = &made.console else { return Ok(()) };
    let receive = || -> std::io::Result<Option<OwnedFd>> {
        super::readable(listener.as_fd(), TERMINAL)?;
        listener.set_nonblocking(true)?;
        let (connection, _) = listener.accept()?;
        super::readable(connection.as_fd(), TERMINAL)?;
        let (mut buffer, mut fds) = ([0_u8; 4096], Vec::new());
        socket::receive(connection.as_fd(), &mut buffer, &mut fds)?;
        Ok(fds.pop())
    };
    match receive() {
        Ok(Some(master)) => conductor.terminal(master.as_fd()).map_err(|e| e.to_string()),
        Ok(None) => Err("the runtime sent no terminal".into()),
        Err(e) => Err(format!("the terminal: {e}")),
    }
}

/// A further call for the same container.
fn call(foreign: &Foreign, arguments: &[&str], patience: Duration) -> Result<(), String> {
    let scratch = Scratch::new(Path::new(&foreign.runtime.bundle));
    let mut command = command(&foreign.runtime, &scratch.log);
    command.args(arguments).stderr(scratch.stderr());
    let child = command.spawn().map_err(|e| format!("{}: {e}", foreign.runtime.program))?;
    finish(child, patience, &scratch, &foreign.runtime.name)
}
