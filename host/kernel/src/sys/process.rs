//! Processes: making them, what they may do, and how they end.

use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{check, check_fd};
use crate::error::{Error, Result};

/// New mount namespace.
pub const CLONE_NEWNS: u64 = 0x0002_0000;
/// New cgroup namespace.
pub const CLONE_NEWCGROUP: u64 = 0x0200_0000;
/// New UTS namespace.
pub const CLONE_NEWUTS: u64 = 0x0400_0000;
/// New IPC namespace.
pub const CLONE_NEWIPC: u64 = 0x0800_0000;
/// New user namespace.
pub const CLONE_NEWUSER: u64 = 0x1000_0000;
/// A new time namespace.
pub const CLONE_NEWTIME: u64 = 0x0000_0080;
/// New pid namespace.
pub const CLONE_NEWPID: u64 = 0x2000_0000;
/// New network namespace.
pub const CLONE_NEWNET: u64 = 0x4000_0000;
/// The child has the caller's table of descriptors, not a copy of it, until it calls [`unshare_all_but`].
pub const CLONE_FILES: u64 = 0x400;
/// Root and working directory, which a thread must have of its own to join a mount namespace.
pub const CLONE_FS: u64 = 0x200;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of a fork one is on.
#[derive(Debug)]
pub enum Side {
    /// The new process.
    Child,
    /// The old one, with the new one's pid and pidfd.
    Parent(i32, OwnedFd),
}

/// Forks with `clone3`: new namespaces by `flags`, into the cgroup v2 directory where one is given, all signal
/// handlers at their default.
///
/// The caller must be single-threaded (the keeper is): otherwise the child could find a lock of the allocator held.
/// The child must end by [`execve`], [`execveat`] or [`exit`], never by returning.
pub fn clone_process(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
    let mut pidfd: i32 = -1;
    #[allow(clippy::cast_sign_loss, reason = "descriptors are not negative")]
    let args = CloneArgs {
        flags: flags
            | CLONE_PIDFD
            | CLONE_CLEAR_SIGHAND
            | if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |c| c.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM the child runs on a copy of everything, as after fork(); `args` and `pidfd` outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&args), size_of::<CloneArgs>()) };
    let pid = check(result, || format!("clone3({:#x})", args.flags))?;
    if pid == 0 {
        return Ok(Side::Child);
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Side::Parent(i32::try_from(pid).unwrap_or(0), pidfd))
}

/// `setns`.
pub fn setns(namespace: BorrowedFd<'_>, kinds: u64) -> Result<()> {
    let fd = namespace.as_raw_fd();
    #[allow(clippy::cast_possible_truncation, reason = "namespace flags fit in an int")]
    let flags = kinds as i32;
    // SAFETY: plain numbers.
    let result = unsafe { libc::setns(fd, flags) };
    check(result.into(), || format!("setns({fd}, {flags:#x})")).map(drop)
}

/// `unshare`.
pub fn unshare(kinds: u64) -> Result<()> {
    #[allow(clippy::cast_possible_truncation, reason = "namespace flags fit in an int")]
    let flags = kinds as i32;
    // SAFETY: plain number.
    let result = unsafe { libc::unshare(flags) };
    check(result.into(), || format!("unshare({flags:#x})")).map(drop)
}

/// Strings as `execve` wants them: made before a fork, used after it.
#[derive(Debug)]
pub struct CStrings {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    /// Takes the strings.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Self { strings, pointers }
    }

    /// The strings.
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// `execve`; returns only on failure.
pub fn execve(path: &CStr, args: &CStrings, env: &CStrings) -> Error {
    // SAFETY: the arrays end with a null pointer and point to C strings that live as long as they do.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    Error::last(format!("execve({path:?})"))
}

/// `execveat` of an open program; returns only on failure.
pub fn execveat(program: BorrowedFd<'_>, args: &CStrings, env: &CStrings) -> Error {
    let fd = program.as_raw_fd();
    // SAFETY: the arrays end with a null pointer and point to C strings that live as long as they do.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd,
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Error::last(format!("execveat({fd}, \"\", AT_EMPTY_PATH)"))
}

/// Ends the process at once, running nothing.
pub fn exit(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// A descriptor of a process.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    check_fd(result, || format!("pidfd_open({pid})"))
}

/// Sends a signal; 0 only asks whether the process is there.
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: i32) -> Result<()> {
    let fd = process.as_raw_fd();
    // SAFETY: plain numbers, no siginfo.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    check(result, || format!("pidfd_send_signal({fd}, {signal})")).map(drop)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
}

/// Takes the exit status of a child; None while it runs.
pub fn wait_child(process: BorrowedFd<'_>) -> Result<Option<Ended>> {
    let fd = process.as_raw_fd();
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    #[allow(clippy::cast_sign_loss, reason = "descriptors are not negative")]
    // SAFETY: `info` has room for the result.
    let result =
        unsafe { libc::waitid(libc::P_PIDFD, fd as u32, info.as_mut_ptr(), libc::WEXITED | libc::WNOHANG) };
    check(result.into(), || format!("waitid(P_PIDFD, {fd}, WEXITED|WNOHANG)"))?;
    // SAFETY: it was zeroed, then filled where there was something to report.
    let (pid, status, code) = unsafe {
        let info = info.assume_init();
        (info.si_pid(), info.si_status(), info.si_code)
    };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(if code == libc::CLD_EXITED { Ended::Exited(status) } else { Ended::Signaled(status) }))
}

/// `struct pidfd_info` up to the fields of Linux 6.15.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;

fn pidfd_info(process: BorrowedFd<'_>) -> Option<PidfdInfo> {
    // _IOWR(0xFF, 11, struct pidfd_info): the size in the number tells the kernel how much it may fill.
    #[allow(clippy::cast_possible_truncation, reason = "the structure is 64 bytes")]
    let request = (3u32 << 30) | ((size_of::<PidfdInfo>() as u32) << 16) | (0xff << 8) | 0xb;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel fills at most the size that the request says.
    let result = unsafe { libc::ioctl(process.as_raw_fd(), request.into(), std::ptr::from_mut(&mut info)) };
    (result >= 0).then_some(info)
}

/// The wait status that the kernel keeps with a pidfd (Linux 6.15), also of a process that was not our child.
/// None where the process has not been reaped or the kernel does not tell.
pub fn pidfd_exit(process: BorrowedFd<'_>) -> Option<Ended> {
    let info = pidfd_info(process).filter(|info| info.mask & PIDFD_INFO_EXIT != 0)?;
    let status = info.exit_code;
    Some(if libc::WIFSIGNALED(status) {
        Ended::Signaled(libc::WTERMSIG(status))
    } else {
        Ended::Exited(libc::WEXITSTATUS(status))
    })
}

/// Whether [`pidfd_exit`] will tell anything on this kernel: 6.15, which also reports the reaping as a hang-up.
pub fn pidfd_tells_exit() -> bool {
    nix::sys::utsname::uname().is_ok_and(|name| {
        let release = name.release().to_string_lossy().into_owned();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
    })
}

/// `prctl` with numbers only.
fn prctl(what: i32, name: &'static str, a: u64, b: u64) -> Result<()> {
    // SAFETY: only options whose arguments are numbers are passed by the callers in this module.
    let result = unsafe { libc::prctl(what, a, b, 0u64, 0u64) };
    check(result.into(), || format!("prctl({name}, {a}, {b})")).map(drop)
}

/// `PR_SET_NO_NEW_PRIVS`.
pub fn set_no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS", 1, 0)
}

/// `PR_SET_DUMPABLE`.
pub fn set_dumpable(on: bool) -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, "PR_SET_DUMPABLE", on.into(), 0)
}

/// `PR_SET_KEEPCAPS`.
pub fn set_keepcaps(on: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS", on.into(), 0)
}

/// `PR_CAPBSET_DROP`.
pub fn drop_bounding(capability: u32) -> Result<()> {
    prctl(libc::PR_CAPBSET_DROP, "PR_CAPBSET_DROP", capability.into(), 0)
}

/// Whether the bounding set has the capability; EINVAL where the kernel does not know it.
pub fn has_bounding(capability: u32) -> Result<bool> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_READ, u64::from(capability), 0u64, 0u64, 0u64) };
    check(result.into(), || format!("prctl(PR_CAPBSET_READ, {capability})")).map(|v| v == 1)
}

/// `PR_CAP_AMBIENT_CLEAR_ALL`.
pub fn clear_ambient() -> Result<()> {
    #[allow(clippy::cast_sign_loss, reason = "a constant")]
    prctl(libc::PR_CAP_AMBIENT, "PR_CAP_AMBIENT", libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)
}

/// `PR_CAP_AMBIENT_RAISE`.
pub fn raise_ambient(capability: u32) -> Result<()> {
    #[allow(clippy::cast_sign_loss, reason = "a constant")]
    prctl(libc::PR_CAP_AMBIENT, "PR_CAP_AMBIENT", libc::PR_CAP_AMBIENT_RAISE as u64, capability.into())
}

/// `PR_SET_NAME`.
pub fn set_name(name: &CStr) -> Result<()> {
    // SAFETY: the kernel copies at most 16 bytes up to the end of the string.
    let result = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    check(result.into(), || format!("prctl(PR_SET_NAME, {name:?})")).map(drop)
}

/// Sets the three classic capability sets of this process.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    #[allow(clippy::cast_possible_truncation, reason = "the two halves are meant")]
    let half = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let header = Header { version: 0x2008_0522, pid: 0 };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two data structures.
    let result = unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), data.as_ptr()) };
    check(result, || format!("capset({effective:#x}, {permitted:#x}, {inheritable:#x})")).map(drop)
}

/// `setgroups`.
pub fn setgroups(groups: &[u32]) -> Result<()> {
    // SAFETY: the slice is as long as said. The raw call changes this thread only, and there is only this one.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(result, || format!("setgroups({}, …)", groups.len())).map(drop)
}

/// All three group ids.
pub fn setresgid(gid: u32) -> Result<()> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    check(result, || format!("setresgid({gid}, {gid}, {gid})")).map(drop)
}

/// All three user ids.
pub fn setresuid(uid: u32) -> Result<()> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    check(result, || format!("setresuid({uid}, {uid}, {uid})")).map(drop)
}

/// This thread's ids for files alone; its other ids stay.
pub fn set_file_ids(uid: u32, gid: u32) -> Result<()> {
    for (call, name, id) in [(libc::SYS_setfsgid, "setfsgid", gid), (libc::SYS_setfsuid, "setfsuid", uid)] {
        // SAFETY: plain numbers. The raw call changes this thread only.
        unsafe { libc::syscall(call, id) };
        // It answers the id from before, whether it did anything or not; -1 changes nothing and tells.
        // SAFETY: as above.
        let now = unsafe { libc::syscall(call, u32::MAX) };
        if now != i64::from(id) {
            return Err(Error::new(format!("{name}({id})"), libc::EPERM));
        }
    }
    Ok(())
}

/// From now on this thread keeps its capabilities over changes of ids (`SECBIT_NO_SETUID_FIXUP`).
pub fn keep_capabilities_of_files() -> Result<()> {
    const SECBIT_NO_SETUID_FIXUP: u64 = 1 << 2;
    prctl(libc::PR_SET_SECUREBITS, "PR_SET_SECUREBITS", SECBIT_NO_SETUID_FIXUP, 0)
}

/// The user namespace that a namespace belongs to (`NS_GET_USERNS`).
pub fn owner_of(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    let fd = namespace.as_raw_fd();
    // SAFETY: the ioctl takes no argument and answers a new descriptor.
    let result = unsafe { libc::ioctl(fd, NS_GET_USERNS) };
    check_fd(result.into(), || format!("ioctl({fd}, NS_GET_USERNS)"))
}

/// Sets both values of one resource limit.
pub fn setrlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` lives for the call, no old value is asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::from_ref(&limit),
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    check(result, || format!("prlimit64(0, {resource}, {{{soft}, {hard}}})")).map(drop)
}

/// Both values of one resource limit.
pub fn getrlimit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives for the call, no new value is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit64>(),
            std::ptr::from_mut(&mut limit),
        )
    };
    check(result, || format!("prlimit64(0, {resource})")).map(|_| (limit.rlim_cur, limit.rlim_max))
}

/// `sethostname`.
pub fn sethostname(name: &[u8]) -> Result<()> {
    // SAFETY: the slice is as long as said.
    let result = unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) };
    check(result.into(), || format!("sethostname({:?})", String::from_utf8_lossy(name))).map(drop)
}

/// `setdomainname`.
pub fn setdomainname(name: &[u8]) -> Result<()> {
    // SAFETY: the slice is as long as said.
    let result = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    check(result.into(), || format!("setdomainname({:?})", String::from_utf8_lossy(name))).map(drop)
}

/// A new session keyring, so that the keeper's is not the container's.
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name means an anonymous keyring.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<c_char>()) };
    check(result, || "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL)".into()).map(drop)
}

/// Blocks no signal.
pub fn unblock_signals() -> Result<()> {
    let none = 0u64;
    // SAFETY: the kernel's signal set is 8 bytes; no old one is asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            std::ptr::from_ref(&none),
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
    check(result, || "rt_sigprocmask(SIG_SETMASK, [])".into()).map(drop)
}

/// Marks every descriptor from `first` on as closed at exec.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: plain numbers; nothing is closed now.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    check(result, || format!("close_range({first}, ~0, CLOSE_RANGE_CLOEXEC)")).map(drop)
}

/// Closes every descriptor from 3 on but those in `keep`, which is sorted.
///
/// For a child that will execute or exit: whoever owned the others in the parent must not touch them again here.
pub fn close_all_but(keep: &[i32]) -> Result<()> {
    let mut first = 3u32;
    for next in keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).chain([u32::MAX]) {
        if first < next {
            let last = if next == u32::MAX { next } else { next - 1 };
            // SAFETY: plain numbers; the contract above says that nobody uses what is closed.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            check(result, || format!("close_range({first}, {last}, 0)"))?;
        }
        first = first.max(next.saturating_add(1));
    }
    Ok(())
}

/// [`close_all_but`] for a child that was made with [`CLONE_FILES`]: it gets a table of its own, into which nothing above the last
/// of `keep` is even copied. With thousands of descriptors there, that is what costs.
pub fn unshare_all_but(keep: &[i32]) -> Result<()> {
    const CLOSE_RANGE_UNSHARE: u32 = 2;
    let last = keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).max().unwrap_or(2).max(2);
    let first = last.saturating_add(1);
    // SAFETY: plain numbers. The table becomes this process's own before anything in it is closed.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_UNSHARE) };
    check(result, || format!("close_range({first}, ~0, CLOSE_RANGE_UNSHARE)"))?;
    close_all_but(keep)
}

/// The number of the process that a pidfd is of, as seen from here: not positive once it has been reaped or where it is not to
/// be seen. None where the descriptor is no pidfd (`proc_pid_fdinfo(5)`).
pub fn pid_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}

/// Whether the descriptor is closed at exec.
pub fn set_cloexec(fd: BorrowedFd<'_>, on: bool) -> Result<()> {
    let raw = fd.as_raw_fd();
    // SAFETY: plain numbers.
    let result = unsafe { libc::fcntl(raw, libc::F_SETFD, if on { libc::FD_CLOEXEC } else { 0 }) };
    check(result.into(), || format!("fcntl({raw}, F_SETFD, {on})")).map(drop)
}

/// Takes ownership of a descriptor that was handed over by number through an exec.
///
/// Fails where no such descriptor is open. The caller must know that nothing else in the process owns it.
pub fn inherited(fd: i32) -> Result<OwnedFd> {
    // SAFETY: plain numbers.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    check(result.into(), || format!("fcntl({fd}, F_SETFD, FD_CLOEXEC)"))?;
    // SAFETY: it is open, and the contract of this function says that nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a copy of `fd` at a number that must not be closed at exec (0, 1, 2).
pub fn dup_to(fd: BorrowedFd<'_>, number: i32) -> Result<()> {
    let raw = fd.as_raw_fd();
    // SAFETY: only the standard streams are replaced, which Rust owns nowhere.
    let result = unsafe { libc::dup2(raw, number) };
    check(result.into(), || format!("dup2({raw}, {number})"))?;
    if raw == number {
        // dup2 onto itself leaves the flag as it was.
        return set_cloexec(fd, false);
    }
    Ok(())
}

/// A copy with a number of at least `least`, closed at exec.
pub fn dup_above(fd: BorrowedFd<'_>, least: i32) -> Result<OwnedFd> {
    let raw = fd.as_raw_fd();
    // SAFETY: plain numbers.
    let result = unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, least) };
    check_fd(result.into(), || format!("fcntl({raw}, F_DUPFD_CLOEXEC, {least})"))
}

/// The number that the next descriptor of this process will have.
pub fn next_descriptor(any: BorrowedFd<'_>) -> Result<i32> {
    dup_above(any, 0).map(|copy| copy.as_raw_fd())
}

/// From now on these signals end this process, also where it is the first of a pid namespace, whom they would not concern. The
/// program that is executed has them at their default again.
pub fn end_by(signals: &[i32]) -> Result<()> {
    extern "C" fn end(signal: i32) {
        exit(128 + signal);
    }
    for signal in signals {
        // SAFETY: all zeroes are a valid structure: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = end as extern "C" fn(i32) as usize;
        // SAFETY: the handler calls nothing but _exit, which may be called at any moment.
        let result = unsafe { libc::sigaction(*signal, std::ptr::from_ref(&action), std::ptr::null_mut()) };
        check(result.into(), || format!("sigaction({signal})"))?;
    }
    Ok(())
}

/// `setsid`.
pub fn setsid() -> Result<()> {
    // SAFETY: no arguments.
    let result = unsafe { libc::setsid() };
    check(result.into(), || "setsid()".into()).map(drop)
}

/// `umask`.
pub fn umask(mask: u32) {
    // SAFETY: plain number; cannot fail.
    unsafe { libc::umask(mask) };
}

/// A classic BPF program as the kernel takes it; it points to the bytes given.
pub(super) fn sock_fprog(program: &[u8]) -> Result<libc::sock_fprog> {
    let instructions = program.len() / size_of::<libc::sock_filter>();
    let Ok(len) = u16::try_from(instructions) else {
        return Err(Error::refused("seccomp", libc::EINVAL, "the filter is too long"));
    };
    if len == 0 || !program.len().is_multiple_of(size_of::<libc::sock_filter>()) {
        return Err(Error::refused("seccomp", libc::EINVAL, "the filter is cut off"));
    }
    // The kernel copies the program; a pointer of any alignment does.
    Ok(libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() })
}

/// Installs one classic BPF program as a seccomp filter of this thread.
pub fn install_seccomp(program: &[u8]) -> Result<()> {
    let filter = sock_fprog(program)?;
    // SAFETY: `filter` describes valid memory of the length said.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&filter))
    };
    check(result, || format!("seccomp(SECCOMP_SET_MODE_FILTER, {} instructions)", filter.len)).map(drop)
}

/// Goes into the background: a grandchild in a session of its own goes on, with the descriptor over which it tells
/// the caller's process, by [`daemon_ready`], that it serves. That process waits for it, prints what went wrong, and ends
/// with code 0 or 1.
///
/// To be called while the process has one thread.
pub fn daemonize() -> Result<OwnedFd> {
    let (ours, theirs) = super::socket::pair(false)?;
    for first in [true, false] {
        // SAFETY: single-threaded by contract, so the child may go on as the parent would have.
        let pid = unsafe { libc::fork() };
        if check(pid.into(), || "fork()".into())? > 0 {
            if !first {
                exit(0);
            }
            drop(theirs);
            let mut text = [0u8; 4096];
            let length = super::socket::receive(ours.as_fd(), &mut text, &mut Vec::new()).unwrap_or(0);
            match text.get(..length).unwrap_or_default() {
                [b'+', ..] => exit(0),
                [] => exit(1),
                [_, message @ ..] => {
                    // The message is all that is left to do; who does not read it does without.
                    let _ = std::io::Write::write_all(&mut std::io::stderr(), message);
                    exit(1);
                }
            }
        }
        if first {
            setsid()?;
            std::env::set_current_dir("/")?;
        }
    }
    drop(ours);
    Ok(theirs)
}

/// Ends the waiting of [`daemonize`]; an empty text is success.
pub fn daemon_ready(ready: &OwnedFd, failure: &str) {
    let mark = if failure.is_empty() { '+' } else { '-' };
    // If the one who waits was killed, nobody needs to know.
    let _ = super::socket::send(ready.as_fd(), format!("{mark}{failure}").as_bytes(), &[]);
}

/// Takes the record lock of a whole file for this process; false where another process has it.
pub fn lock_file(file: BorrowedFd<'_>) -> Result<bool> {
    let raw = file.as_raw_fd();
    // SAFETY: all zeroes are a valid description: from the start, to the end.
    let mut lock: libc::flock = unsafe { MaybeUninit::zeroed().assume_init() };
    #[allow(clippy::cast_possible_truncation, reason = "small constants")]
    {
        lock.l_type = libc::F_WRLCK as i16;
        lock.l_whence = libc::SEEK_SET as i16;
    }
    // SAFETY: the structure lives for the call.
    let result = unsafe { libc::fcntl(raw, libc::F_SETLK, std::ptr::from_ref(&lock)) };
    match check(result.into(), || format!("fcntl({raw}, F_SETLK, F_WRLCK)")) {
        Ok(_) => Ok(true),
        Err(e) if e.is(libc::EAGAIN) || e.is(libc::EACCES) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The caller's pid.
pub fn own_pid() -> i32 {
    // SAFETY: no arguments. The raw call, as libc may remember the pid of before a fork.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) };
    i32::try_from(pid).unwrap_or(0)
}

/// Redirects the standard streams to /dev/null.
pub fn null_stdio(numbers: &[i32]) -> Result<()> {
    let null = super::file::openat(None, c"/dev/null", libc::O_RDWR, 0)?;
    for number in numbers {
        dup_to(null.as_fd(), *number)?;
    }
    Ok(())
}
