//! Giving up every right that carrying bytes does not need.

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use wharf_kernel::caps;
use wharf_kernel::sys::process as sys;

/// User and group "nobody" wherever Linux has one.
const NOBODY: u32 = 65534;

/// After this the process can take connections and datagrams from the sockets that it is given, connect to other addresses,
/// and carry bytes between them.
pub(super) fn confine() -> Result<(), String> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|e| format!("resource limits: {e}"))?;
    setrlimit(Resource::RLIMIT_FSIZE, 0, 0).map_err(|e| format!("resource limits: {e}"))?;
    let user = |e: nix::errno::Errno| format!("giving up the user: {e}");
    if geteuid().is_root() {
        for capability in (0..).take(caps::NAMES.len()) {
            // One that this kernel does not know cannot be given up either.
            let _ = sys::drop_bounding(capability);
        }
        setgroups(&[]).map_err(user)?;
        setgid(Gid::from_raw(NOBODY)).map_err(user)?;
        setuid(Uid::from_raw(NOBODY)).map_err(user)?;
    }
    sys::capset(0, 0, 0).map_err(|e| format!("capabilities: {e}"))?;
    sys::set_no_new_privs().map_err(|e| format!("no_new_privs: {e}"))?;
    // Other processes of this user may neither look into this one nor at its descriptors.
    sys::set_dumpable(false).map_err(|e| format!("dumpable: {e}"))?;
    landlock().map_err(|e| format!("landlock: {e}"))?;
    seccomp().map_err(|e| format!("seccomp: {e}"))
}

/// No path can be opened, made or removed, no port bound, no process outside signalled. Kernels without landlock have the
/// system call filter alone.
fn landlock() -> Result<(), landlock::RulesetError> {
    let abi = ABI::V6;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(())
}

/// What a single-threaded program that moves bytes between sockets asks the kernel for. Anything else is refused.
fn seccomp() -> Result<(), seccompiler::Error> {
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().map(|call| (*call, Vec::new())).collect();
    // Sockets of the internet alone.
    let family = |family: i32| {
        let is = SeccompCmpOp::Eq;
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, is, u64::try_from(family).unwrap_or(0))
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    rules.insert(libc::SYS_socket, vec![family(libc::AF_INET)?, family(libc::AF_INET6)?]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or(1)),
        SeccompAction::Allow,
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?;
    seccompiler::apply_filter(&BpfProgram::try_from(filter)?)
}

const CALLS: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpeername,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_ioctl,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_pipe2,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_splice,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];
