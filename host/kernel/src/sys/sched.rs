//! When a process runs: scheduling policy, priority of its input and output, execution domain.

use wharf_plan::run::Scheduler;

use super::check;
use crate::error::{Error, Result};

/// `struct sched_attr` as of Linux 3.14; later kernels take it with this size.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// `sched_setattr` of the calling thread.
pub fn set_scheduler(wanted: &Scheduler) -> Result<()> {
    #[allow(clippy::cast_possible_truncation, reason = "the structure is 48 bytes")]
    let attributes = Attributes {
        size: size_of::<Attributes>() as u32,
        policy: wanted.policy,
        flags: wanted.flags,
        nice: wanted.nice,
        priority: wanted.priority,
        runtime: wanted.runtime,
        deadline: wanted.deadline,
        period: wanted.period,
    };
    // SAFETY: the structure is as long as its first field says and lives for the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attributes), 0) };
    check(result, || format!("sched_setattr(0, {wanted:?}, 0)")).map(drop)
}

/// `ioprio_set` of the calling thread: the class from bit 13 on, the level below.
pub fn set_io_priority(value: u16) -> Result<()> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, i32::from(value)) };
    check(result, || format!("ioprio_set(IOPRIO_WHO_PROCESS, 0, {value:#x})")).map(drop)
}

/// `personality` of the calling thread.
pub fn set_personality(domain: u32) -> Result<()> {
    // SAFETY: plain number.
    let result = unsafe { libc::personality(domain.into()) };
    check(result.into(), || format!("personality({domain:#x})")).map(drop)
}

/// The processors that the calling thread may run on, by their numbers. EINVAL where none of them is there or allowed.
pub fn set_processors(numbers: &[u32]) -> Result<()> {
    let refused = |e: nix::errno::Errno| Error::new(format!("sched_setaffinity(0, {numbers:?})"), e as i32);
    let mut set = nix::sched::CpuSet::new();
    for number in numbers {
        set.set(usize::try_from(*number).unwrap_or(usize::MAX)).map_err(refused)?;
    }
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).map_err(refused)
}
