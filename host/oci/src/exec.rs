//! `exec`.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Process as OciProcess;
use serde::Deserialize;
use wharf_kernel::container::{self, Host, Report, Spawned, Target};
use wharf_kernel::sys::sched;
use wharf_plan::run::{ExecPlan, Process, User};

use crate::args::ExecArgs;
use crate::state::{Entry, LARGEST, Status, Store};
use crate::{Doing, Error, Result, convert, create, handover, notify, signals, subcgroup, terminal, tuning};

pub(crate) fn exec(store: &Store, args: &ExecArgs) -> Result<u8> {
    let entry = store.open(&args.id)?;
    match entry.status() {
        Status::Running | Status::Created => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => {
            return Err("cannot exec in a paused container (use --ignore-paused to override)".into());
        }
        Status::Stopped => return Err("cannot exec in a stopped container".into()),
    }
    let pidfd = entry.process().ok_or("cannot exec in a stopped container")?;
    let (spec, value) = entry.spec()?;
    let base = spec.process().as_ref().ok_or("the configuration has no process")?;
    let mut document = None;
    let mut process = match &args.process {
        Some(path) => {
            let meta = std::fs::metadata(path)?;
            if meta.len() > LARGEST {
                return Err(Error(format!("{} is too large", path.display())));
            }
            let mut given: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(path)?).doing("process")?;
            crate::state::known_capabilities(&mut given);
            if let Some(given) = given.as_object_mut() {
                given.entry("user").or_insert_with(|| serde_json::json!({"uid": 0, "gid": 0}));
            }
            let rest = tuning::without(&given);
            let typed = OciProcess::deserialize(rest.as_ref().unwrap_or(&given)).doing("process")?;
            document = Some(given);
            convert::process(&typed)?
        }
        None => from_flags(convert::process(base)?, args)?,
    };
    let pid = entry.record.pid;
    crate::home::environment(&mut process.env, process.user.uid, || crate::home::passwd_of(pid));
    let agent = notify::filters(&value, &mut process)?;
    let first;
    (process.tuning, first) = tuning::read(&value, document.as_ref(), true)?;
    let subs = subcgroup::subs(&args.cgroup)?;
    subcgroup::check(subs.as_deref(), entry.record.cgroup.as_deref())?;
    if args.console_socket.is_some() && !process.tty {
        return Err("cannot use console socket if the process has no terminal".into());
    }
    if process.tty && args.detach && args.console_socket.is_none() {
        return Err("cannot allocate tty if runc will detach without setting console socket".into());
    }
    let mut fds = Vec::new();
    create::streams(&mut process, &mut fds, args.preserve_fds)?;
    // What is to be done before the program runs.
    let waits = agent.is_some() || (process.tty && args.console_socket.is_none());
    let gate = if waits { Some(notify::gate(&mut process, &mut fds)?) } else { None };
    let state = entry.json(entry.status());
    let signals = if args.detach { None } else { Some(signals::Signals::block()?) };
    if !first.is_empty() {
        sched::set_processors(&first).doing("execCPUAffinity")?;
    }
    let spawned = enter(&entry, &pidfd, process, &fds, subs.as_deref())?;
    // Others may look at the container from here on, and let a paused one go on, without which this process never runs.
    drop((entry, fds));
    crate::log::debug(format!("process {} enters the container", spawned.pid));
    let told = |report: &Report| agent.as_ref().map_or(Ok(()), |agent| agent.told(report, &spawned, &state));
    let mut master = create::follow(&spawned, told).inspect_err(|_| create::end(&spawned))?;
    if let Some(socket) = &args.pidfd_socket {
        handover::send(socket, b"setns", spawned.pidfd.as_fd(), "pidfd socket")
            .inspect_err(|_| create::end(&spawned))?;
    }
    if let Some(master) = &master {
        terminal::plain(master)?;
    }
    if let Some(mut gate) = gate {
        gate.write_all(b"s")?;
    }
    if let Some(socket) = &args.console_socket
        && let Some(master) = master.take()
    {
        terminal::send(socket, &master)?;
    }
    if let Some(path) = &args.pid_file {
        create::pid_file(path, spawned.pid)?;
    }
    match signals {
        Some(signals) => signals.wait(&spawned.pidfd, master),
        None => Ok(0),
    }
}

/// Starts a process in a container, whose first one `pidfd` is of. `subs` is where below the container's cgroup, by controller.
pub(crate) fn enter(
    entry: &Entry,
    pidfd: &OwnedFd,
    process: Process,
    fds: &[OwnedFd],
    subs: Option<&[(String, String)]>,
) -> Result<Spawned> {
    let record = &entry.record;
    let host = Host::new(wharf_programs::INIT)?;
    let plan = ExecPlan {
        id: format!("{}-exec", record.id),
        container: record.id.clone(),
        ids: crate::user::of_process(record.pid)?,
        process,
        hold: Vec::new(),
        foreign: None,
    };
    let target =
        Target { pidfd: pidfd.as_fd(), pid: record.pid, cgroup: record.cgroup.as_deref(), below: subs };
    container::exec(&host, &plan, fds, target).map_err(|e| subcgroup::explain(create::failure(&e), &target))
}

/// The container's own process with what the command line says.
fn from_flags(base: Process, args: &ExecArgs) -> Result<Process> {
    if args.args.is_empty() {
        return Err("process args cannot be empty".into());
    }
    let mut process = Process { args: args.args.clone(), tty: args.tty, console_size: None, ..base };
    process.env.extend(args.env.iter().cloned());
    if let Some(cwd) = &args.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(user) = &args.user {
        let number =
            |text: &str| text.parse::<u32>().doing(format_args!("parsing {text:?} as a number of a user"));
        process.user = match user.split_once(':') {
            Some((uid, gid)) => User { uid: number(uid)?, gid: number(gid)?, groups: Vec::new() },
            None => User { uid: number(user)?, ..process.user },
        };
    }
    process.user.groups.extend(&args.additional_gids);
    for name in &args.cap {
        let bit = convert::capability(name);
        if bit == 0 {
            return Err(Error(format!("unknown capability {name:?}")));
        }
        let sets = &mut process.capabilities;
        sets.bounding |= bit;
        sets.effective |= bit;
        sets.permitted |= bit;
        // As far as the configuration lets programs inherit it.
        sets.ambient |= bit & sets.inheritable;
    }
    process.no_new_privs |= args.no_new_privs;
    if args.apparmor.is_some() {
        process.apparmor.clone_from(&args.apparmor);
    }
    Ok(process)
}
