//! Version 1: one directory per hierarchy.

use std::os::fd::AsFd;

use wharf_plan::run::{BlockKind, Resources};

use super::files::Dir;
use super::{Hierarchy, devices};
use crate::error::{Error, Result};
use crate::sys::file as sys;

/// How often a freezing cgroup is asked whether it stands still, each time after a millisecond.
const FREEZE_ROUNDS: u32 = 2000;

pub(super) fn wants_cpuset(resources: &Resources) -> bool {
    resources.cpuset_cpus.is_some() || resources.cpuset_mems.is_some()
}

fn wanted(hierarchy: &Hierarchy, resources: &Resources) -> bool {
    hierarchy.required()
        || (hierarchy.has("cpuset") && wants_cpuset(resources))
        || (hierarchy.has("hugetlb") && !resources.hugepages.is_empty())
}

/// As [`create`], of what may be there in some hierarchies.
pub(super) fn complete(hierarchies: &[Hierarchy], path: &str, resources: &Resources) -> Result<()> {
    for hierarchy in hierarchies.iter().filter(|h| wanted(h, resources)) {
        match make(hierarchy, path) {
            Err(e) if !e.is_exists() => {
                return Err(e.note(format!("making the {} cgroup", hierarchy.name())));
            }
            _ => {}
        }
    }
    apply(hierarchies, path, resources)
}

/// Makes the cgroup where there are processors to be said, with these processes in it.
pub(super) fn with_cpuset(hierarchies: &[Hierarchy], path: &str, pids: &[i32]) -> Result<()> {
    let Some(hierarchy) = hierarchies.iter().find(|h| h.has("cpuset")) else { return Ok(()) };
    match make(hierarchy, path) {
        Err(e) if e.is_exists() => return Ok(()),
        result => result?,
    }
    for pid in pids {
        match hierarchy.dir().write(&format!("{path}/cgroup.procs"), &pid.to_string()) {
            // It has ended meanwhile.
            Err(e) if e.is(libc::ESRCH) => {}
            result => result?,
        }
    }
    Ok(())
}

pub(super) fn create(hierarchies: &[Hierarchy], path: &str, resources: &Resources) -> Result<()> {
    for hierarchy in hierarchies.iter().filter(|h| wanted(h, resources)) {
        make(hierarchy, path).map_err(|e| e.note(format!("making the {} cgroup", hierarchy.name())))?;
    }
    apply(hierarchies, path, resources)
}

fn make(hierarchy: &Hierarchy, path: &str) -> Result<()> {
    let dir = hierarchy.dir();
    match dir.mkdir(path) {
        Ok(()) => return if hierarchy.has("cpuset") { inherit_cpuset(dir, path) } else { Ok(()) },
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e),
    }
    // Something above is missing.
    let mut ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
    ends.push(path.len());
    for end in ends {
        let part = path.get(..end).unwrap_or(path);
        match dir.mkdir(part) {
            Ok(()) => {}
            Err(e) if e.is_exists() && end < path.len() => {}
            Err(e) => return Err(e),
        }
        if hierarchy.has("cpuset") {
            inherit_cpuset(dir, part)?;
        }
    }
    Ok(())
}

/// A new cpuset is empty and takes no process before it has processors and memory nodes.
fn inherit_cpuset(dir: Dir<'_>, path: &str) -> Result<()> {
    let above = path.rsplit_once('/').map_or(String::new(), |(above, _)| format!("{above}/"));
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if dir.read(&format!("{path}/{file}"))?.trim().is_empty() {
            let value = dir.read(&format!("{above}{file}"))?;
            dir.write(&format!("{path}/{file}"), value.trim())?;
        }
    }
    Ok(())
}

pub(super) fn apply(hierarchies: &[Hierarchy], path: &str, resources: &Resources) -> Result<()> {
    if let Some((file, _)) = resources.unified.first() {
        return Err(Error::refused(file.clone(), libc::EINVAL, "unified limits need cgroup v2"));
    }
    for hierarchy in hierarchies {
        let dir = hierarchy.dir();
        let file = |name: &str| format!("{path}/{name}");
        if hierarchy.has("memory") {
            memory(dir, path, resources)?;
        }
        if hierarchy.has("pids")
            && let Some(pids) = resources.pids
        {
            dir.write(&file("pids.max"), &if pids > 0 { pids.to_string() } else { "max".into() })?;
        }
        if hierarchy.has("cpu") {
            cpu(dir, path, resources)?;
        }
        if hierarchy.has("devices") && !resources.devices.is_empty() {
            device_rules(dir, path, resources)?;
        }
        if hierarchy.has("blkio")
            && let Some(weight) = resources.blkio_weight
        {
            dir.write_if_there(&file("blkio.weight"), &weight.to_string())?;
            dir.write_if_there(&file("blkio.bfq.weight"), &weight.to_string())?;
        }
        if hierarchy.has("blkio") {
            block(dir, path, resources)?;
        }
        if hierarchy.has("hugetlb") {
            for (size, bytes) in &resources.hugepages {
                dir.write(&file(&format!("hugetlb.{size}.limit_in_bytes")), &bytes.to_string())
                    .map_err(|e| e.note("limiting huge pages"))?;
            }
        }
        if hierarchy.has("cpuset") && wants_cpuset(resources) {
            // An update may be the first to ask for it; the processes stay where they are then, so it is refused there.
            if let Some(cpus) = &resources.cpuset_cpus {
                dir.write(&file("cpuset.cpus"), cpus)?;
            }
            if let Some(mems) = &resources.cpuset_mems {
                dir.write(&file("cpuset.mems"), mems)?;
            }
        }
    }
    Ok(())
}

/// Limits of single devices. Shares are for schedulers that know them; others have no such file.
fn block(dir: Dir<'_>, path: &str, resources: &Resources) -> Result<()> {
    for limit in &resources.block {
        let line = format!("{}:{} {}", limit.major, limit.minor, limit.value);
        let file = match limit.kind {
            BlockKind::ReadBytes => "blkio.throttle.read_bps_device",
            BlockKind::WriteBytes => "blkio.throttle.write_bps_device",
            BlockKind::ReadOperations => "blkio.throttle.read_iops_device",
            BlockKind::WriteOperations => "blkio.throttle.write_iops_device",
            BlockKind::Weight => {
                for name in ["blkio.weight_device", "blkio.bfq.weight_device"] {
                    dir.write_if_there(&format!("{path}/{name}"), &line)?;
                }
                continue;
            }
        };
        dir.write(&format!("{path}/{file}"), &line).map_err(|e| e.note("limiting a block device"))?;
    }
    Ok(())
}

fn memory(dir: Dir<'_>, path: &str, resources: &Resources) -> Result<()> {
    let set = |name: &str, value: i64| dir.write(&format!("{path}/{name}"), &value.to_string());
    let with_swap = |value: i64| match set("memory.memsw.limit_in_bytes", value) {
        // A kernel without swap accounting.
        Err(e) if e.is_not_found() => Ok(()),
        result => result,
    };
    match (resources.memory, resources.memory_swap) {
        (Some(memory), Some(swap)) => match set("memory.limit_in_bytes", memory) {
            Ok(()) => with_swap(swap)?,
            // The kernel keeps the limit with swap at or above the other one: raise that first.
            Err(e) if e.is(libc::EINVAL) => {
                with_swap(swap)?;
                set("memory.limit_in_bytes", memory)?;
            }
            Err(e) => return Err(e),
        },
        (Some(memory), None) => {
            // What has no limit has none with swap either, and the kernel keeps the one below the other.
            if memory < 0 {
                with_swap(-1)?;
            }
            set("memory.limit_in_bytes", memory)?;
        }
        (None, Some(swap)) => with_swap(swap)?,
        (None, None) => {}
    }
    if let Some(reservation) = resources.memory_reservation {
        set("memory.soft_limit_in_bytes", reservation)?;
    }
    if let Some(swappiness) = resources.swappiness {
        set("memory.swappiness", swappiness)?;
    }
    if resources.oom_kill_disable {
        set("memory.oom_control", 1)?;
    }
    Ok(())
}

/// The period first: a share of it is checked against the parent's.
fn realtime(dir: Dir<'_>, path: &str, period: Option<i64>, runtime: Option<i64>) -> Result<()> {
    for (name, value) in [("cpu.rt_period_us", period), ("cpu.rt_runtime_us", runtime)] {
        let Some(value) = value else { continue };
        dir.write(&format!("{path}/{name}"), &value.to_string()).map_err(|e| {
            if e.is(libc::EINVAL) {
                e.note(
                    "the cgroups above have no such real-time budget left: give them one with the daemon's --cpu-rt-runtime",
                )
            } else {
                e
            }
        })?;
    }
    Ok(())
}

/// Gives every cgroup above a path, made where it is missing, a real-time budget that those below share.
pub(super) fn realtime_above(
    hierarchies: &[Hierarchy],
    path: &str,
    period: Option<i64>,
    runtime: Option<i64>,
) -> Result<()> {
    let Some(hierarchy) = hierarchies.iter().find(|h| h.has("cpu")) else { return Ok(()) };
    for (end, _) in path.match_indices('/') {
        let part = path.get(..end).unwrap_or(path);
        match hierarchy.dir().mkdir(part) {
            Err(e) if !e.is_exists() => return Err(e),
            _ => {}
        }
        realtime(hierarchy.dir(), part, period, runtime)?;
    }
    Ok(())
}

fn cpu(dir: Dir<'_>, path: &str, resources: &Resources) -> Result<()> {
    let set = |name: &str, value: i64| dir.write(&format!("{path}/{name}"), &value.to_string());
    if let Some(shares) = resources.cpu_shares {
        set("cpu.shares", shares)?;
    }
    if let Some(idle) = resources.cpu_idle {
        dir.write_if_there(&format!("{path}/cpu.idle"), &idle.to_string())?;
    }
    if let Some(burst) = resources.cpu_burst {
        dir.write_if_there(&format!("{path}/cpu.cfs_burst_us"), &burst.to_string())?;
    }
    realtime(dir, path, resources.cpu_rt_period, resources.cpu_rt_runtime)?;
    match (resources.cpu_period, resources.cpu_quota) {
        (Some(period), Some(quota)) => {
            // With the old quota the new period may be impossible, so clear it first.
            set("cpu.cfs_quota_us", -1)?;
            set("cpu.cfs_period_us", period)?;
            set("cpu.cfs_quota_us", quota)
        }
        (Some(period), None) => set("cpu.cfs_period_us", period),
        (None, Some(quota)) => set("cpu.cfs_quota_us", quota),
        (None, None) => Ok(()),
    }
}

/// Nothing is allowed but what the rules say: the list always starts by denying all.
fn device_rules(dir: Dir<'_>, path: &str, resources: &Resources) -> Result<()> {
    let deny = dir.open_write(&format!("{path}/devices.deny"))?;
    let allow = dir.open_write(&format!("{path}/devices.allow"))?;
    sys::write_once(deny.as_fd(), b"a")?;
    for rule in &resources.devices {
        let line = devices::v1_line(rule)?;
        let file = if rule.allow { &allow } else { &deny };
        sys::write_once(file.as_fd(), line.as_bytes()).map_err(|e| e.note("device rule"))?;
    }
    Ok(())
}

fn freezer(hierarchies: &[Hierarchy]) -> Result<Dir<'_>> {
    hierarchies
        .iter()
        .find(|h| h.has("freezer"))
        .map(Hierarchy::dir)
        .ok_or_else(|| Error::refused("freezer", libc::EOPNOTSUPP, "this host has no freezer cgroup"))
}

pub(super) fn freeze(hierarchies: &[Hierarchy], path: &str) -> Result<()> {
    let dir = freezer(hierarchies)?;
    let file = format!("{path}/freezer.state");
    for _ in 0..FREEZE_ROUNDS {
        // Written anew each time: a process that was forked meanwhile is asked by that too.
        dir.write(&file, "FROZEN")?;
        if dir.read(&file)?.trim() == "FROZEN" {
            return Ok(());
        }
        // The v1 freezer notifies nobody.
        let _ = nix::poll::poll(&mut [], 1u8);
    }
    // Rather running than half frozen.
    dir.write(&file, "THAWED")?;
    Err(Error::refused(file, libc::ETIMEDOUT, "the processes do not stand still"))
}

pub(super) fn freezer_state(hierarchies: &[Hierarchy], path: &str) -> Result<String> {
    freezer(hierarchies)?.read(&format!("{path}/freezer.state"))
}

pub(super) fn thaw(hierarchies: &[Hierarchy], path: &str) -> Result<()> {
    freezer(hierarchies)?.write(&format!("{path}/freezer.state"), "THAWED")
}
