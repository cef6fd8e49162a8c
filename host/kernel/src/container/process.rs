//! The last steps, common to a container's first process and to an exec: streams, ids, capabilities, filter, exec.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use wharf_plan::run::{Stage, StartError};

use super::prepare::Process;
use super::terminal::Terminal;
use super::{At, pivot, report};
use crate::caps::{self, bit};
use crate::error::{Error, Result};
use crate::mount::{Flags, Prepared as Filesystem};
use crate::sys::file::{self, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV};
use crate::sys::process::{self as sys, CStrings};
use crate::sys::{listener, sched, tty};

/// Signals that end a process which waits at its gate.
const WAITING: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// What setting a scheduler is called in errors.
pub(super) const SCHEDULER: &str = "setting the scheduler";

/// Never returns but with the reason why the program was not executed.
pub(super) fn finish(
    job: &Process<'_>,
    root: BorrowedFd<'_>,
    terminal: Option<Terminal>,
    init: Option<BorrowedFd<'_>>,
    proc: Option<OwnedFd>,
    report: BorrowedFd<'_>,
) -> StartError {
    match steps(job, root, terminal, init, proc, report) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

enum Never {}

fn steps(
    job: &Process<'_>,
    root: BorrowedFd<'_>,
    terminal: Option<Terminal>,
    init: Option<BorrowedFd<'_>>,
    mut proc: Option<OwnedFd>,
    report: BorrowedFd<'_>,
) -> Result<Never, StartError> {
    let plan = job.plan;
    sys::setsid().at(Stage::Stdio, || "a new session")?;
    streams(job, root, terminal, report)?;
    match sys::new_session_keyring() {
        // No keyrings in this kernel, or a host that forbids them: then there is none to leak either.
        Err(e) if e.is_unsupported() || e.is(libc::EPERM) || e.is(libc::EDQUOT) => {}
        result => result.at(Stage::Credentials, || "a new session keyring")?,
    }
    sys::umask(plan.umask.unwrap_or(0o022));
    for (resource, soft, hard) in &job.rlimits {
        limit(*resource, *soft, *hard).at(Stage::Credentials, || "setting a resource limit")?;
    }
    tune(job)?;
    if let Some(label) = &job.apparmor {
        apparmor(label, proc.take()).at(Stage::Security, || {
            let name = label.strip_prefix(b"exec ").unwrap_or(label);
            format!("the AppArmor profile {:?}", String::from_utf8_lossy(name))
        })?;
    }
    drop(proc);
    // As root first: a working directory may be closed to the user but open to the container's root.
    let entered = match chdir(root, job) {
        Err(e) if e.is(libc::EACCES) || e.is(libc::EPERM) => false,
        result => result.map(|()| true).map_err(|e| cwd_failed(job, &e))?,
    };
    credentials(job)?;
    if !entered {
        chdir(root, job).map_err(|e| cwd_failed(job, &e))?;
    }
    verify_cwd().map_err(|e| cwd_failed(job, &e))?;
    let program = find(job)?;
    if let (Some(gate), true, [.., last]) = (job.gate, plan.listener, plan.seccomp.as_slice()) {
        return listened(job, &program, gate, report, last);
    }
    if let Some(gate) = job.gate {
        // It may wait for long, and needs none but these any more.
        let needed = [report, gate].into_iter().chain(init).chain(job.more_fds.iter().copied());
        let mut needed: Vec<i32> = needed.map(|fd| fd.as_raw_fd()).collect();
        needed.sort_unstable();
        sys::close_all_but(&needed).at(Stage::Stdio, || "closing descriptors")?;
        // Who waits to be started can be told not to wait, as runc's can.
        sys::end_by(&WAITING).at(Stage::Exec, || "signals that end the waiting")?;
        report::send_ready(report).at(Stage::Exec, || "telling of being ready")?;
        wait_for_byte(gate).at(Stage::Exec, || "waiting at the gate")?;
    }
    sys::close_on_exec_from(3).at(Stage::Stdio, || "closing descriptors")?;
    keep_more(job).at(Stage::Stdio, || "handing descriptors on")?;
    sys::unblock_signals().at(Stage::Security, || "unblocking signals")?;
    if plan.no_new_privs {
        sys::set_no_new_privs().at(Stage::Security, || "no_new_privs")?;
    }
    // What init is called with, made before the filter, which may forbid to ask for memory.
    let wrapped = init.map(|init| {
        let mut args = vec![c"wharf-init".into(), program.clone()];
        args.extend(job.args.strings().iter().cloned());
        (init, CStrings::new(args))
    });
    for filter in &plan.seccomp {
        sys::install_seccomp(filter).at(Stage::Security, || "installing the seccomp filter")?;
    }
    let error = match &wrapped {
        Some((init, args)) => sys::execveat(*init, args, &job.env),
        None => sys::execve(&program, &job.args, &job.env),
    };
    Err(not_executed(job, &program, &error))
}

fn not_executed(job: &Process<'_>, program: &CStr, error: &Error) -> StartError {
    if job.gate.is_some() {
        // Nobody listens to the report any more.
        let name = program.to_string_lossy();
        let errno = nix::errno::Errno::from_raw(error.errno());
        let text = format!("exec {name}: {}\n", errno.desc().to_lowercase());
        let _ = nix::unistd::write(std::io::stderr(), text.as_bytes());
    }
    exec_failed(job, error.errno())
}

/// The last steps with a filter that has a listener. It is installed before the gate, as whoever made this process has to fetch
/// the listener's descriptor meanwhile; and everything else comes before it, as any call may then wait for the listener's
/// answer. So there are only two behind it: to wait, and to execute.
fn listened(
    job: &Process<'_>,
    program: &CStr,
    gate: BorrowedFd<'_>,
    report: BorrowedFd<'_>,
    filter: &[u8],
) -> Result<Never, StartError> {
    let needed = [report, gate].into_iter().chain(job.more_fds.iter().copied());
    let mut needed: Vec<i32> = needed.map(|fd| fd.as_raw_fd()).collect();
    needed.sort_unstable();
    let at = || "descriptors before the filter";
    sys::close_all_but(&needed).at(Stage::Stdio, at)?;
    // Above the places that the program's own go to.
    let above = 3 + i32::try_from(job.more_fds.len()).unwrap_or(0);
    let gate = sys::dup_above(gate, above).at(Stage::Stdio, at)?;
    let report = sys::dup_above(report, above).at(Stage::Stdio, at)?;
    sys::close_on_exec_from(3).at(Stage::Stdio, at)?;
    keep_more(job).at(Stage::Stdio, || "handing descriptors on")?;
    sys::unblock_signals().at(Stage::Security, || "unblocking signals")?;
    if job.plan.no_new_privs {
        sys::set_no_new_privs().at(Stage::Security, || "no_new_privs")?;
    }
    let others = job.plan.seccomp.len().saturating_sub(1);
    for other in job.plan.seccomp.iter().take(others) {
        sys::install_seccomp(other).at(Stage::Security, || "installing the seccomp filter")?;
    }
    sys::end_by(&WAITING).at(Stage::Exec, || "signals that end the waiting")?;
    let number = sys::next_descriptor(gate.as_fd()).at(Stage::Security, || "the listener's number")?;
    report::send_listener(report.as_fd(), number).at(Stage::Security, || "telling of the listener")?;
    let listener = listener::install(filter).at(Stage::Security, || "installing the seccomp filter")?;
    let waited = wait_for_byte(gate.as_fd()).at(Stage::Exec, || "waiting at the gate");
    // Closed by the exec, not before it: that would be a call more.
    std::mem::forget((listener, gate, report));
    waited?;
    let error = sys::execve(program, &job.args, &job.env);
    Err(not_executed(job, program, &error))
}

/// What the plan says of scheduling. As root, so that it may be raised too.
fn tune(job: &Process<'_>) -> Result<(), StartError> {
    let Some(tuning) = &job.plan.tuning else { return Ok(()) };
    if let Some(scheduler) = &tuning.scheduler {
        sched::set_scheduler(scheduler).at(Stage::Credentials, || SCHEDULER)?;
    }
    if let Some(value) = tuning.io_priority {
        sched::set_io_priority(value).at(Stage::Credentials, || "setting the I/O priority")?;
    }
    if let Some(domain) = tuning.personality {
        sched::set_personality(domain).at(Stage::Credentials, || "setting the personality")?;
    }
    Ok(())
}

/// Sets a limit. Where this machine's root may not raise it (no `CAP_SYS_RESOURCE`), it becomes as high as it can be.
fn limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    match sys::setrlimit(resource, soft, hard) {
        Err(e) if e.is(libc::EPERM) => {
            let most = sys::getrlimit(resource)?.1;
            sys::setrlimit(resource, soft.min(most), hard.min(most))
        }
        result => result,
    }
}

/// Raises what a limit may be set to, leaving the limit as it is: in a user namespace nobody may any more.
pub(super) fn raise(resource: u32, hard: u64) -> Result<()> {
    let (soft, most) = sys::getrlimit(resource)?;
    if hard <= most {
        return Ok(());
    }
    match sys::setrlimit(resource, soft, hard) {
        Err(e) if e.is(libc::EPERM) => Ok(()),
        result => result,
    }
}

/// Waits until somebody writes; the end of all writers counts as that too.
pub(super) fn wait_for_byte(from: BorrowedFd<'_>) -> Result<()> {
    let mut byte = [0_u8; 1];
    loop {
        match nix::unistd::read(from, &mut byte) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => {
                let mut polls = [nix::poll::PollFd::new(from, nix::poll::PollFlags::POLLIN)];
                let _ = nix::poll::poll(&mut polls, nix::poll::PollTimeout::NONE);
            }
            Err(e) => return Err(Error::new("read(gate)", e as i32)),
        }
    }
}

/// Puts the descriptors that the program shall have at 3 and up. First all of them above the places that they go to, as one
/// may lie where another one goes.
fn keep_more(job: &Process<'_>) -> Result<()> {
    let first = 3_i32;
    let above = first + i32::try_from(job.more_fds.len()).unwrap_or(0);
    let copies = job.more_fds.iter().map(|fd| sys::dup_above(*fd, above)).collect::<Result<Vec<_>>>()?;
    for (number, copy) in (first..).zip(&copies) {
        sys::dup_to(copy.as_fd(), number)?;
    }
    Ok(())
}

/// In the words that clients of Docker know.
fn cwd_failed(job: &Process<'_>, error: &Error) -> StartError {
    let what = format!("chdir to cwd ({:?}) set in config.json failed", job.plan.cwd);
    StartError { stage: Stage::Cwd, errno: error.errno(), what }
}

/// Terminal or plain streams onto 0, 1 and 2.
fn streams(
    job: &Process<'_>,
    root: BorrowedFd<'_>,
    terminal: Option<Terminal>,
    report: BorrowedFd<'_>,
) -> Result<(), StartError> {
    let uid = job.plan.user.uid;
    if let Some(Terminal { master, slave }) = terminal {
        report::send_terminal(report, master.as_fd()).at(Stage::Stdio, || "handing the terminal over")?;
        tty::make_controlling(slave.as_fd()).at(Stage::Stdio, || "the controlling terminal")?;
        own(slave.as_fd(), uid).at(Stage::Stdio, || "owning the terminal")?;
        for number in 0..3 {
            sys::dup_to(slave.as_fd(), number).at(Stage::Stdio, || "standard streams")?;
        }
        return Ok(());
    }
    // The container's own null device where it has one; the host's is another file of another mount.
    let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    let null =
        file::openat2(root, c"dev/null", libc::O_RDWR | libc::O_NOFOLLOW | libc::O_NONBLOCK, 0, resolve)
            .and_then(|null| pivot::verify_null(null.as_fd()).map(|()| null))
            .ok();
    for (number, fd) in (0..3).zip(job.stdio) {
        match (fd, &null) {
            (Some(fd), _) => {
                own(fd, uid).at(Stage::Stdio, || "owning the standard streams")?;
                sys::dup_to(fd, number).at(Stage::Stdio, || "standard streams")?;
            }
            (None, Some(null)) => {
                sys::dup_to(null.as_fd(), number).at(Stage::Stdio, || "standard streams")?;
            }
            // What the keeper has there is the host's /dev/null.
            (None, None) => {}
        }
    }
    Ok(())
}

/// Gives a stream to the user, so that a program may open /dev/stdout again.
pub(crate) fn own(stream: BorrowedFd<'_>, uid: u32) -> Result<()> {
    let stat = file::fstatat(stream, c"")?;
    if stat.st_uid == uid
        || (stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3))
    {
        return Ok(());
    }
    match file::fchownat(stream, c"", uid, u32::MAX) {
        // A read-only file system, or a file of somebody else's: usable all the same.
        Err(e) if matches!(e.errno(), libc::EINVAL | libc::EPERM | libc::EROFS | libc::ENOSYS) => Ok(()),
        result => result,
    }
}

fn chdir(root: BorrowedFd<'_>, job: &Process<'_>) -> Result<()> {
    let relative = job.cwd.to_bytes();
    let relative = file::cstring(match relative.iter().position(|b| *b != b'/') {
        Some(start) => relative.get(start..).unwrap_or_default(),
        None => b".",
    })?;
    // /proc/self/fd/N as working directory is a magic link, and refused (CVE-2024-21626).
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let dir = file::openat2(root, &relative, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)?;
    file::fchdir(dir.as_fd())
}

fn verify_cwd() -> Result<()> {
    if file::getcwd()?.first() == Some(&b'/') {
        Ok(())
    } else {
        Err(Error::refused("getcwd()", libc::EXDEV, "the working directory is outside the container's root"))
    }
}

fn credentials(job: &Process<'_>) -> Result<(), StartError> {
    let plan = job.plan;
    let at = || "setting user and capabilities";
    let sets = plan.capabilities;
    sys::set_keepcaps(true).at(Stage::Credentials, at)?;
    for number in 0..64 {
        if sets.bounding & bit(number) == 0 {
            match sys::drop_bounding(number) {
                // The first number that the kernel does not know ends the list.
                Err(e) if e.is(libc::EINVAL) => break,
                result => result.at(Stage::Credentials, at)?,
            }
        }
    }
    sys::setgroups(&plan.user.groups).at(Stage::Credentials, at)?;
    sys::setresgid(plan.user.gid).at(Stage::Credentials, at)?;
    sys::setresuid(plan.user.uid).at(Stage::Credentials, at)?;
    sys::set_keepcaps(false).at(Stage::Credentials, at)?;
    // The filter goes in last. Where that takes CAP_SYS_ADMIN, it is kept until the exec, which computes the sets
    // anew from the bounding set (root) or the ambient one (anybody else) and so drops it.
    let extra = if job.needs_admin_for_seccomp() { bit(caps::SYS_ADMIN) } else { 0 };
    // "All capabilities" means all that this machine lets its root have.
    let held = job.available;
    sys::capset((sets.effective | extra) & held, (sets.permitted | extra) & held, sets.inheritable & held)
        .at(Stage::Credentials, at)?;
    sys::clear_ambient().at(Stage::Credentials, at)?;
    for number in 0..64 {
        if sets.ambient & held & bit(number) != 0 {
            sys::raise_ambient(number).at(Stage::Credentials, at)?;
        }
    }
    Ok(())
}

/// The program's path, found with the rights it will have.
fn find(job: &Process<'_>) -> Result<CString, StartError> {
    let mut denied = false;
    for candidate in &job.candidates {
        match executable(candidate) {
            Ok(()) => return Ok(candidate.clone()),
            Err(e) if e.is(libc::EACCES) || e.is(libc::EISDIR) => denied = true,
            Err(_) => {}
        }
    }
    Err(exec_failed(job, if denied { libc::EACCES } else { libc::ENOENT }))
}

fn executable(path: &CString) -> Result<()> {
    let program = file::openat(None, path, libc::O_PATH, 0)?;
    if file::fstatat(program.as_fd(), c"")?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Error::new(format!("{path:?}"), libc::EACCES));
    }
    drop(program);
    file::eaccess(None, path, libc::X_OK)
}

/// The texts that clients of Docker know.
fn exec_failed(job: &Process<'_>, errno: i32) -> StartError {
    let name = job.plan.program.as_ref().or(job.plan.args.first()).map_or("", String::as_str);
    let what = match (errno, name.contains('/')) {
        (libc::ENOENT, false) => format!("exec: {name:?}: executable file not found in $PATH"),
        (libc::ENOENT, true) => format!("exec: {name:?}: stat {name}: no such file or directory"),
        (libc::EACCES, _) => format!("exec: {name:?}: permission denied"),
        _ => format!("exec {name}"),
    };
    StartError { stage: Stage::Exec, errno, what }
}

/// Writes `exec PROFILE` where the security module reads it, on a proc file system of our own making: one in the
/// container could be anything (CVE-2019-16884, CVE-2019-19921).
fn apparmor(label: &[u8], proc: Option<OwnedFd>) -> Result<()> {
    let proc = match proc {
        Some(proc) => proc,
        None => own_proc()?,
    };
    let resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
    let open = |path| file::openat2(proc.as_fd(), path, libc::O_WRONLY, 0, resolve);
    let attribute = match open(c"thread-self/attr/apparmor/exec") {
        Err(e) if e.is_not_found() => open(c"thread-self/attr/exec"),
        result => result,
    };
    match attribute {
        // A kernel without any security module of the kind.
        Err(e) if e.is_not_found() => Ok(()),
        Ok(attribute) => match file::write_once(attribute.as_fd(), label) {
            Err(e) if e.is(libc::EINVAL) && !apparmor_enabled() => Ok(()),
            result => result,
        },
        Err(e) => Err(e),
    }
}

/// Without the module the attribute file is there but takes nothing.
fn apparmor_enabled() -> bool {
    file::openat(None, c"/sys/module/apparmor/parameters/enabled", libc::O_RDONLY, 0).is_ok_and(|f| {
        crate::fs::read_limited(&std::fs::File::from(f), 16).is_ok_and(|text| text.first() == Some(&b'Y'))
    })
}

/// A detached proc file system of this pid namespace.
pub(super) fn own_proc() -> Result<OwnedFd> {
    Filesystem::new("proc", &[], Flags::default())?.make()
}
