//! Version 2: one directory, and limits in the words of the kernel's `cgroup-v2` document.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use wharf_plan::run::{BlockKind, Resources};

use super::devices;
use super::files::Dir;
use crate::error::{Error, Result};
use crate::sys::{bpf, file as sys};

/// What the cgroups above pass on, as far as the kernel has it.
const PASSED_ON: [&str; 6] = ["cpu", "io", "memory", "pids", "cpuset", "hugetlb"];

const FREEZE_PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn create(dir: Dir<'_>, path: &str, resources: &Resources) -> Result<()> {
    pass_on(dir, "")?;
    let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
    for end in ends {
        let above = path.get(..end).unwrap_or(path);
        match dir.mkdir(above) {
            Ok(()) => {}
            Err(e) if e.is_exists() => {}
            Err(e) => return Err(e),
        }
        pass_on(dir, above)?;
    }
    dir.mkdir(path)?;
    apply(dir, path, resources)
}

/// Hands the controllers down. One that is missing shows when a limit of it is set.
fn pass_on(dir: Dir<'_>, path: &str) -> Result<()> {
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    let there = dir.read(&format!("{prefix}cgroup.controllers"))?;
    let enabled = dir.read(&format!("{prefix}cgroup.subtree_control"))?;
    let has = |text: &str, name: &str| text.split_whitespace().any(|word| word == name);
    for controller in PASSED_ON {
        if has(&there, controller) && !has(&enabled, controller) {
            match dir.write(&format!("{prefix}cgroup.subtree_control"), &format!("+{controller}")) {
                // cpu cannot be handed down while real-time processes are elsewhere (EINVAL), and nothing from a
                // cgroup that has processes itself (EBUSY).
                Err(e)
                    if matches!(e.errno(), libc::EINVAL | libc::EBUSY | libc::ENOENT | libc::EOPNOTSUPP) =>
                {
                    tracing::debug!(error = %e, controller, path, "a controller cannot be handed down");
                }
                result => result?,
            }
        }
    }
    Ok(())
}

fn number(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

pub(super) fn apply(dir: Dir<'_>, path: &str, resources: &Resources) -> Result<()> {
    let set = |name: &str, value: &str| dir.write(&format!("{path}/{name}"), value);
    memory(dir, path, resources)?;
    if let Some(pids) = resources.pids {
        set("pids.max", &if pids > 0 { pids.to_string() } else { "max".into() })?;
    }
    if let Some(shares) = resources.cpu_shares.filter(|s| *s > 0) {
        set("cpu.weight", &cpu_weight(shares).to_string())?;
    }
    match (resources.cpu_quota, resources.cpu_period) {
        (None, None) => {}
        (quota, period) => {
            let quota = quota.filter(|q| *q > 0).map_or("max".into(), |q| q.to_string());
            let period = period.filter(|p| *p > 0).unwrap_or(100_000);
            set("cpu.max", &format!("{quota} {period}"))?;
        }
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        set("cpuset.cpus", cpus)?;
    }
    if let Some(mems) = &resources.cpuset_mems {
        set("cpuset.mems", mems)?;
    }
    if let Some(weight) = resources.blkio_weight {
        // The scheduler's own scale where it is BFQ, which is the old one.
        match set("io.bfq.weight", &weight.to_string()) {
            Err(e) if e.is_not_found() => set("io.weight", &io_weight(weight).to_string())?,
            result => result?,
        }
    }
    for limit in &resources.block {
        let device = format!("{}:{}", limit.major, limit.minor);
        let key = match limit.kind {
            BlockKind::ReadBytes => "rbps",
            BlockKind::WriteBytes => "wbps",
            BlockKind::ReadOperations => "riops",
            BlockKind::WriteOperations => "wiops",
            BlockKind::Weight => {
                dir.write_if_there(&format!("{path}/io.bfq.weight"), &format!("{device} {}", limit.value))?;
                continue;
            }
        };
        let value = if limit.value == 0 { "max".to_owned() } else { limit.value.to_string() };
        set("io.max", &format!("{device} {key}={value}"))?;
    }
    for (size, bytes) in &resources.hugepages {
        set(&format!("hugetlb.{size}.max"), &bytes.to_string())?;
    }
    if let Some(idle) = resources.cpu_idle {
        dir.write_if_there(&format!("{path}/cpu.idle"), &idle.to_string())?;
    }
    if let Some(burst) = resources.cpu_burst {
        dir.write_if_there(&format!("{path}/cpu.max.burst"), &burst.to_string())?;
    }
    for (name, value) in &resources.unified {
        if name.contains('/') || !name.contains('.') {
            return Err(Error::refused(name.clone(), libc::EINVAL, "not a file of a cgroup"));
        }
        set(name, value)?;
    }
    if resources.devices.is_empty() { Ok(()) } else { device_program(dir, path, resources) }
}

fn memory(dir: Dir<'_>, path: &str, resources: &Resources) -> Result<()> {
    let set = |name: &str, value: &str| dir.write(&format!("{path}/{name}"), value);
    // Version 2 limits swap alone, the plan memory and swap together.
    let swap = match (resources.memory, resources.memory_swap) {
        (_, Some(swap)) if swap < 0 => Some(-1),
        (Some(memory), Some(swap)) if memory >= 0 => Some(swap.saturating_sub(memory).max(0)),
        (_, Some(swap)) => {
            let current = dir.read(&format!("{path}/memory.max"))?;
            let memory = super::files::limit(&current).and_then(|m| i64::try_from(m).ok()).unwrap_or(0);
            Some(swap.saturating_sub(memory).max(0))
        }
        (_, None) => None,
    };
    if let Some(memory) = resources.memory {
        set("memory.max", &number(memory))?;
    }
    if let Some(swap) = swap {
        dir.write_if_there(&format!("{path}/memory.swap.max"), &number(swap))?;
    }
    if let Some(reservation) = resources.memory_reservation {
        set("memory.low", &number(reservation))?;
    }
    Ok(())
}

/// 2 to 262144 becomes 1 to 10000 such that both ends and the defaults (1024, 100) meet: a straight line between
/// logarithms would miss the defaults, so it is a parabola through all three points.
pub(super) fn cpu_weight(shares: i64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    #[allow(clippy::cast_precision_loss, reason = "at most 262144")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10000")]
    let weight = 10f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

/// 10 to 1000 becomes 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

/// Puts the new program in before the old one goes, so that there is no moment without any.
fn device_program(dir: Dir<'_>, path: &str, resources: &Resources) -> Result<()> {
    let cgroup = dir.open(path)?;
    let old = bpf::device_programs(cgroup.as_fd())?;
    let program = bpf::load_device_program(&devices::program(&resources.devices)?)?;
    bpf::attach_device_program(cgroup.as_fd(), program.as_fd())?;
    old.iter().try_for_each(|program| bpf::detach_device_program(cgroup.as_fd(), program.as_fd()))
}

pub(super) fn freeze(dir: Dir<'_>, path: &str) -> Result<()> {
    let events = format!("{path}/cgroup.events");
    dir.write(&format!("{path}/cgroup.freeze"), "1")?;
    let until = Instant::now() + FREEZE_PATIENCE;
    loop {
        // The file is opened before it is read, so that a change after the reading wakes the poll.
        let fd = sys::openat2(
            dir.open(path)?.as_fd(),
            c"cgroup.events",
            libc::O_RDONLY,
            0,
            sys::RESOLVE_BENEATH | sys::RESOLVE_NO_SYMLINKS,
        )?;
        let text = crate::fs::read_limited(&std::fs::File::from(fd.try_clone()?), 4096)?;
        if super::files::value_of(&String::from_utf8_lossy(&text), "frozen") == Some(1) {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            dir.write(&format!("{path}/cgroup.freeze"), "0")?;
            return Err(Error::refused(events, libc::ETIMEDOUT, "the processes do not stand still"));
        }
        let mut polls = [nix::poll::PollFd::new(fd.as_fd(), nix::poll::PollFlags::POLLPRI)];
        let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX).max(1);
        // Whatever it says, the loop looks again.
        let _ = nix::poll::poll(&mut polls, millis);
    }
}
