//! `create`, `start`, `run`.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::Spec;
use wharf_kernel::cgroup::Version;
use wharf_kernel::container::{self, Host, Report, Spawned, read_report};
use wharf_kernel::mount::{self, Flags, Value};
use wharf_kernel::sys::process as sys;
use wharf_kernel::userns;
use wharf_plan::run::{Fd, Ids, MountSource, Process, RunPlan, StartError};

use crate::args::CreateArgs;
use crate::attributes::Attributes;
use crate::convert::{self, Open, Restrict};
use crate::hooks::{self, When};
use crate::state::{self, Entry, Status, Store};
use crate::user::User;
use crate::{Doing, Error, Result, handover, notify, signals, terminal, tuning};

/// Makes a container up to the point where only its program is missing.
pub(crate) fn create(store: &Store, args: &CreateArgs, systemd: bool) -> Result<()> {
    make(store, args, systemd, Console::Socket(args.console_socket.as_deref())).map(drop)
}

/// What becomes of a terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Console<'a> {
    /// It is sent over a socket; there must be one.
    Socket(Option<&'a Path>),
    /// This process is between it and its own.
    Here,
}

/// `run`: all of it, in one.
pub(crate) fn run(store: &Store, args: &CreateArgs, systemd: bool) -> Result<u8> {
    let console = if args.detach || args.console_socket.is_some() {
        Console::Socket(args.console_socket.as_deref())
    } else {
        Console::Here
    };
    // From here on signals are for the container.
    let signals = if args.detach { None } else { Some(signals::Signals::block()?) };
    let made = make(store, args, systemd, console)?;
    let started = start_entry(&made.entry);
    let Made { entry, pidfd, master } = made;
    if let Err(error) = started {
        crate::manage::destroy(entry, true)?;
        return Err(error);
    }
    let Some(signals) = signals else { return Ok(0) };
    let id = entry.record.id.clone();
    // Others may look at it and stop it meanwhile.
    drop(entry);
    let code = signals.wait(&pidfd, master)?;
    if !args.keep {
        match store.open(&id) {
            Ok(entry) => crate::manage::destroy(entry, true)?,
            // Somebody else deleted it.
            Err(_) => return Ok(code),
        }
    }
    Ok(code)
}

struct Made {
    entry: Entry,
    pidfd: OwnedFd,
    master: Option<OwnedFd>,
}

/// The bundle as an absolute path, and its configuration.
pub(crate) fn configuration(bundle: Option<&Path>) -> Result<(PathBuf, String)> {
    let bundle = bundle.unwrap_or(Path::new("."));
    let bundle = std::fs::canonicalize(bundle).doing(format_args!("bundle {}", bundle.display()))?;
    let path = bundle.join("config.json");
    let meta = std::fs::metadata(&path)
        .map_err(|e| Error(format!("JSON specification file {} not found: {e}", path.display())))?;
    if !meta.is_file() || meta.len() > state::LARGEST {
        return Err(Error(format!("{} is no file of at most 16 MiB", path.display())));
    }
    let text = std::fs::read_to_string(&path)?;
    Ok((bundle, text))
}

/// Opens what the plan refers to.
pub(crate) fn open_all(plan: &mut RunPlan, open: &[Open], user: &User) -> Result<Vec<OwnedFd>> {
    let mut fds = Vec::new();
    for (what, number) in open.iter().zip(0..) {
        let (fd, file) = open_one(what, user, &fds)?;
        // Whether a target that is missing becomes a file or a directory.
        for mount in &mut plan.mounts {
            if matches!(mount.source, MountSource::Tree(n) if n == number) {
                mount.file = file;
            }
        }
        fds.push(fd);
    }
    Ok(fds)
}

/// Makes the plan's cgroup, or gives one that the caller made its limits.
pub(crate) fn make_cgroup(host: &Host, plan: &RunPlan) -> Result<()> {
    let (Some(cgroup), Some(cgroups)) = (&plan.cgroup, host.cgroups()) else { return Ok(()) };
    // The container's first process would stand still in it before anybody could be told.
    if cgroups.frozen(&cgroup.path).doing("unable to apply cgroup configuration")? {
        return Err(Error(format!(
            "container's cgroup unexpectedly frozen: {} (let it go on, or choose another one)",
            cgroup.path
        )));
    }
    if cgroups.version() == Version::V1 && !cgroup.resources.unified.is_empty() {
        return Err(
            "unable to apply cgroup configuration: invalid configuration: cannot use unified on cgroup v1"
                .into(),
        );
    }
    match cgroups.create(&cgroup.path, &cgroup.resources) {
        Err(e) if e.is_exists() => {
            let inside = cgroups.pids(&cgroup.path).map_or(0, |pids| pids.len());
            if inside > 0 {
                return Err(Error(format!(
                    "unable to apply cgroup configuration: container's cgroup is not empty: {inside} process(es) found in {}",
                    cgroup.path
                )));
            }
            cgroups.complete(&cgroup.path, &cgroup.resources)
        }
        result => result,
    }
    .doing("unable to apply cgroup configuration")
}

/// Where a configuration's root file system is.
pub(crate) fn rootfs_of(open: &[Open], bundle: &Path) -> PathBuf {
    match open.first() {
        Some(Open::Rootfs(path)) => path.clone(),
        _ => bundle.join("rootfs"),
    }
}

fn make(store: &Store, args: &CreateArgs, systemd: bool, console: Console<'_>) -> Result<Made> {
    let (bundle, text) = configuration(args.bundle.as_deref())?;
    let (spec, value) = state::parse(&text)?;
    let mut converted = convert::convert(&spec, &args.id, &bundle, systemd)?;
    (converted.plan.process.tuning, _) = tuning::read(&value, None, false)?;
    hooks::check(&spec)?;
    if !converted.plan.process.tty && args.console_socket.is_some() {
        return Err("cannot use console socket if the process has no terminal".into());
    }
    if converted.plan.process.tty && matches!(console, Console::Socket(None)) {
        return Err("cannot allocate tty if runc will detach without setting console socket".into());
    }
    let dir = store.reserve(&args.id, &value.to_string())?;
    let made = build(store, args, &spec, &value, converted, &bundle, &dir, console);
    made.inspect_err(|_| store.discard(&args.id))
}

#[allow(clippy::too_many_arguments, reason = "all that was read by the one caller")]
fn build(
    store: &Store,
    args: &CreateArgs,
    spec: &Spec,
    value: &serde_json::Value,
    converted: convert::Converted,
    bundle: &Path,
    dir: &Path,
    console: Console<'_>,
) -> Result<Made> {
    let convert::Converted { mut plan, open, user, own_pids } = converted;
    let mut fds = open_all(&mut plan, &open, &user)?;
    crate::user::make(&user, &mut plan, &mut fds)?;
    let agent = notify::filters(value, &mut plan.process)?;
    // Open in both directions, so that it neither blocks nor ends before the byte.
    let gate = std::fs::OpenOptions::new().read(true).write(true).open(dir.join(state::GATE))?;
    plan.process.gate = Some(add(&mut fds, gate.into()));
    streams(&mut plan.process, &mut fds, args.preserve_fds)?;
    let hooked = hooks::any(spec, &[When::Prestart, When::CreateRuntime]);
    let resume = if hooked {
        let (theirs, ours) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        plan.pause = Some(add(&mut fds, theirs));
        Some(File::from(ours))
    } else {
        None
    };
    let host = Host::new(wharf_programs::INIT)?;
    let cgroup = plan.cgroup.clone();
    make_cgroup(&host, &plan)?;
    let rootfs = rootfs_of(&open, bundle);
    let uid = plan.process.user.uid;
    crate::home::environment(&mut plan.process.env, uid, || {
        crate::home::passwd_of_bundle(spec, bundle, &rootfs)
    });
    let undo = |error: Error| -> Error {
        if let (Some(cgroup), Some(cgroups)) = (&cgroup, host.cgroups()) {
            // The first error is the one to report.
            let _ = cgroups.remove(&cgroup.path, Duration::from_secs(2));
        }
        error
    };
    let bound = plan.cgroup.as_ref().is_some_and(|c| c.resources.cpuset_cpus.is_some());
    let spawned = container::run(&host, &plan, &fds).map_err(|e| undo(failure(&e)))?;
    drop(fds);
    let born = || -> Result<(Entry, Option<OwnedFd>)> {
        let mut record = state::record(&args.id, spawned.pid, bundle.to_owned(), rootfs.clone(), spec);
        record.cgroup = cgroup.as_ref().map(|c| c.path.clone());
        record.own_pids = own_pids;
        let mut entry = None;
        let state = serde_json::json!({
            "ociVersion": record.oci_version, "id": record.id, "pid": record.pid, "status": "creating",
            "bundle": record.bundle, "annotations": record.annotations,
        });
        crate::log::debug(format!("process {} sets the container up", spawned.pid));
        let master = follow(&spawned, |report| {
            if matches!(report, Report::Paused) {
                hooks::run(spec, When::Prestart, &state)?;
                hooks::run(spec, When::CreateRuntime, &state)?;
                if let Some(mut resume) = resume.as_ref() {
                    resume.write_all(b"g")?;
                }
            }
            agent.as_ref().map_or(Ok(()), |agent| agent.told(report, &spawned, &state))
        })?;
        hooks::run_in_mounts(spec, spawned.pid, &rootfs, &state)?;
        crate::log::debug("the container is set up, and its process waits to be started");
        let master = match (master, console) {
            (Some(master), Console::Socket(Some(socket))) => {
                terminal::send(socket, &master)?;
                None
            }
            (Some(master), Console::Here) => {
                terminal::plain(&master)?;
                Some(master)
            }
            (master, Console::Socket(None)) => master,
            (None, _) => None,
        };
        if let Some(socket) = &args.pidfd_socket {
            handover::send(socket, b"standard", spawned.pidfd.as_fd(), "pidfd socket")?;
        }
        entry = Some(store.put(record.clone())?).or(entry);
        if let Some(path) = &args.pid_file {
            pid_file(path, spawned.pid)?;
        }
        entry.ok_or_else(|| Error("no state".into())).map(|e| (e, master))
    };
    match born() {
        Ok((entry, master)) => Ok(Made { entry, pidfd: spawned.pidfd, master }),
        Err(error) => {
            end(&spawned);
            Err(undo(tuning::explain(error, bound)))
        }
    }
}

/// Kills a process that was made and takes its status.
pub(crate) fn end(spawned: &Spawned) {
    // It may have ended by itself.
    let _ = sys::pidfd_send_signal(spawned.pidfd.as_fd(), nix::libc::SIGKILL);
    wait_readable(&spawned.pidfd);
    let _ = sys::wait_child(spawned.pidfd.as_fd());
}

pub(crate) fn wait_readable(fd: &OwnedFd) {
    loop {
        let mut polls = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polls, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            _ => return,
        }
    }
}

/// Follows a child's reports to where it waits at its gate, or to its exec where it has none.
pub(crate) fn follow(
    spawned: &Spawned,
    mut told: impl FnMut(&Report) -> Result<()>,
) -> Result<Option<OwnedFd>> {
    let mut master = None;
    loop {
        wait_readable(&spawned.report);
        match read_report(spawned.report.as_fd())? {
            Report::Pending | Report::Own | Report::StandsIn(_) | Report::Runs => {}
            Report::Terminal(fd) => master = Some(fd),
            Report::Failed(error) => {
                wait_readable(&spawned.pidfd);
                let _ = sys::wait_child(spawned.pidfd.as_fd());
                return Err(failure(&error));
            }
            Report::Ready => return Ok(master),
            Report::Closed => {
                // The program runs, or the process was killed while it was set up: then there is no use in it.
                return Ok(master);
            }
            report @ (Report::Paused | Report::Adopt(_)) => told(&report)?,
            report @ Report::Listener(_) => {
                told(&report)?;
                return Ok(master);
            }
        }
    }
}

/// In runc's words, which containerd and podman know.
pub(crate) fn failure(error: &StartError) -> Error {
    if error.what.starts_with("exec: ") {
        // It says why by itself.
        return Error(format!("unable to start container process: {}", error.what));
    }
    Error(format!("unable to start container process: {error}"))
}

/// Adds a descriptor to those of a plan; its number there.
pub(crate) fn add(fds: &mut Vec<OwnedFd>, fd: OwnedFd) -> Fd {
    fds.push(fd);
    Fd::try_from(fds.len() - 1).unwrap_or(Fd::MAX)
}

/// Standard streams are this process's own, and so are descriptors that it was told to hand on.
pub(crate) fn streams(process: &mut Process, fds: &mut Vec<OwnedFd>, preserve: u32) -> Result<()> {
    if !process.tty {
        let own = [
            std::io::stdin().as_fd().try_clone_to_owned(),
            std::io::stdout().as_fd().try_clone_to_owned(),
            std::io::stderr().as_fd().try_clone_to_owned(),
        ];
        for (slot, fd) in process.stdio.iter_mut().zip(own) {
            // One that is closed becomes /dev/null.
            *slot = fd.ok().map(|fd| add(fds, fd));
        }
    }
    let activated = std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
    if activated > 0 {
        process.env.push(format!("LISTEN_FDS={activated}"));
        process.env.push("LISTEN_PID=1".into());
    }
    for number in 3..3 + preserve.max(activated).min(1024) {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        let fd = sys::inherited(number).doing(format_args!("preserving descriptor {number}"))?;
        process.more_fds.push(add(fds, fd));
    }
    Ok(())
}

fn flags(restrict: Restrict) -> Flags {
    Flags {
        read_only: restrict.read_only,
        no_suid: restrict.no_suid,
        no_dev: restrict.no_dev,
        no_exec: restrict.no_exec,
    }
}

/// Gives a bind its attributes.
fn restrict_bind(tree: &OwnedFd, restrict: Restrict, locked: bool) -> Result<()> {
    let own = if restrict.said { restrict.flags().exact(locked) } else { Attributes::default() };
    change(tree, own, false)?;
    change(tree, restrict.all, true)
}

fn change(tree: &OwnedFd, attributes: Attributes, recursive: bool) -> Result<()> {
    if attributes == Attributes::default() {
        return Ok(());
    }
    Ok(mount::change_attr(tree.as_fd(), &attributes.change(), recursive)?)
}

/// The ids of a mount; where the configuration only says that they are the container's, those of the namespace that it joins.
fn ids_of_mount(ids: &Ids, user: &User, fds: &[OwnedFd]) -> Result<Ids> {
    match user {
        User::Join(number, _) if *ids == Ids::default() => {
            let joined = usize::try_from(*number).ok().and_then(|n| fds.get(n));
            let joined = joined.ok_or("no user namespace was opened")?;
            userns::ids_of(joined.as_fd()).doing("user namespace")
        }
        _ => Ok(ids.clone()),
    }
}

fn open_one(what: &Open, user: &User, fds: &[OwnedFd]) -> Result<(OwnedFd, bool)> {
    match what {
        Open::Rootfs(path) => {
            if !path.is_dir() {
                return Err(Error(format!("rootfs ({}) does not exist", path.display())));
            }
            Ok((mount::bind_path(path, true).doing("root file system")?, false))
        }
        Open::Bind { source, recursive, restrict, ids } => {
            let file =
                !std::fs::metadata(source).doing(format_args!("mount source {}", source.display()))?.is_dir();
            let tree = mount::bind_path(source, *recursive)?;
            restrict_bind(&tree, *restrict, *user != User::Host)?;
            if let Some((ids, below)) = ids {
                userns::map_mount_by(tree.as_fd(), &ids_of_mount(ids, user, fds)?, *below)
                    .doing(format_args!("mount source {}", source.display()))?;
            }
            Ok((tree, file))
        }
        Open::Other { fstype, source, options, restrict } => {
            let mut all = vec![("source", Value::Text(source))];
            all.extend(options.iter().map(|o| mount::split_option(o)));
            let made = mount::filesystem(fstype, &all, flags(*restrict))?;
            change(&made, restrict.own, false)?;
            change(&made, restrict.all, true)?;
            Ok((made, false))
        }
        Open::Ids(ids) => {
            Ok((userns::create(&ids_of_mount(ids, user, fds)?).doing("user namespace of a mount")?, false))
        }
        Open::Namespace(path) => {
            Ok((File::open(path).doing(format_args!("namespace {}", path.display()))?.into(), false))
        }
    }
}

/// Written whole or not at all: whoever waits for the file reads it at once.
pub(crate) fn pid_file(path: &Path, pid: i32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let new = path.with_file_name(format!(".{name}.new"));
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
    write!(file, "{pid}")?;
    Ok(std::fs::rename(new, path)?)
}

/// `start`.
pub(crate) fn start(store: &Store, id: &str) -> Result<()> {
    start_entry(&store.open(id)?)
}

fn start_entry(entry: &Entry) -> Result<()> {
    match entry.status() {
        Status::Created => {}
        Status::Stopped => return Err("cannot start a container that has stopped".into()),
        Status::Running | Status::Paused => {
            return Err("cannot start an already running container".into());
        }
    }
    let (spec, value) = entry.spec()?;
    hooks::run_inside(entry, &spec, &value)?;
    let mut gate = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(entry.gate())
        .map_err(|_| Error::from("cannot start a container that has stopped"))?;
    gate.write_all(b"s")?;
    std::fs::remove_file(entry.gate())?;
    crate::log::debug("the container's process was started");
    hooks::run(&spec, When::Poststart, &entry.json(Status::Running))
}
