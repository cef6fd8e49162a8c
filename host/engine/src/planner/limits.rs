//! Resource limits: checks, defaults, and the values for the kernel.

use wharf_plan::run::{DeviceRule, RLIMITS, Resources, Rlimit};

use crate::error::{Error, Result};
use crate::models::{ContainerUpdateBody, HostConfig, ResourcesUlimits};
use crate::planner::Facts;

const MINIMUM_MEMORY: i64 = 6 << 20;

/// The fields that create and update share.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// Bytes.
    pub memory: i64,
    /// Memory and swap; -1 is unlimited, 0 is unset.
    pub memory_swap: i64,
    /// Soft limit.
    pub memory_reservation: i64,
    /// None or -1 is the kernel's default.
    pub swappiness: Option<i64>,
    /// v1 only.
    pub oom_kill_disable: bool,
    /// Billionths of a processor.
    pub nano_cpus: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds.
    pub cpu_quota: i64,
    /// Microseconds; 0 is unset.
    pub cpu_rt_period: i64,
    /// Microseconds; 0 is unset.
    pub cpu_rt_runtime: i64,
    /// Relative weight.
    pub cpu_shares: i64,
    /// For example `0-3`.
    pub cpuset_cpus: String,
    /// For example `0`.
    pub cpuset_mems: String,
    /// Processes; 0 and -1 are unlimited.
    pub pids: Option<i64>,
    /// 10 to 1000, 0 is unset.
    pub blkio_weight: u16,
}

impl From<&HostConfig> for Limits {
    fn from(h: &HostConfig) -> Self {
        Self {
            memory: h.memory.unwrap_or(0),
            memory_swap: h.memory_swap.unwrap_or(0),
            memory_reservation: h.memory_reservation.unwrap_or(0),
            swappiness: h.memory_swappiness,
            oom_kill_disable: h.oom_kill_disable.unwrap_or(false),
            nano_cpus: h.nano_cpus.unwrap_or(0),
            cpu_period: h.cpu_period.unwrap_or(0),
            cpu_quota: h.cpu_quota.unwrap_or(0),
            cpu_rt_period: h.cpu_realtime_period.unwrap_or(0),
            cpu_rt_runtime: h.cpu_realtime_runtime.unwrap_or(0),
            cpu_shares: h.cpu_shares.unwrap_or(0),
            cpuset_cpus: h.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: h.cpuset_mems.clone().unwrap_or_default(),
            pids: h.pids_limit,
            blkio_weight: h.blkio_weight.unwrap_or(0),
        }
    }
}

/// The host configuration after an update; fields that are absent or zero stay.
pub fn updated(host: &HostConfig, body: &ContainerUpdateBody) -> HostConfig {
    let mut new = host.clone();
    let number = |to: &mut Option<i64>, from: Option<i64>| {
        if from.is_some_and(|v| v != 0) {
            *to = from;
        }
    };
    if body.nano_cpus.unwrap_or(0) != 0 {
        (new.cpu_period, new.cpu_quota) = (Some(0), Some(0));
    }
    if body.cpu_period.unwrap_or(0) != 0 || body.cpu_quota.unwrap_or(0) != 0 {
        new.nano_cpus = Some(0);
    }
    number(&mut new.memory, body.memory);
    number(&mut new.memory_swap, body.memory_swap);
    number(&mut new.memory_reservation, body.memory_reservation);
    number(&mut new.nano_cpus, body.nano_cpus);
    number(&mut new.cpu_period, body.cpu_period);
    number(&mut new.cpu_quota, body.cpu_quota);
    number(&mut new.cpu_realtime_period, body.cpu_realtime_period);
    number(&mut new.cpu_realtime_runtime, body.cpu_realtime_runtime);
    number(&mut new.cpu_shares, body.cpu_shares);
    if body.pids_limit.is_some() {
        new.pids_limit = body.pids_limit;
    }
    if body.blkio_weight.is_some_and(|w| w != 0) {
        new.blkio_weight = body.blkio_weight;
    }
    // Since API 1.55; a list that is there takes the place of the old one.
    if body.blkio_weight_device.is_some() {
        new.blkio_weight_device.clone_from(&body.blkio_weight_device);
    }
    for (to, from) in [
        (&mut new.blkio_device_read_bps, &body.blkio_device_read_bps),
        (&mut new.blkio_device_write_bps, &body.blkio_device_write_bps),
        (&mut new.blkio_device_read_iops, &body.blkio_device_read_iops),
        (&mut new.blkio_device_write_iops, &body.blkio_device_write_iops),
    ] {
        if from.is_some() {
            to.clone_from(from);
        }
    }
    for (to, from) in [(&mut new.cpuset_cpus, &body.cpuset_cpus), (&mut new.cpuset_mems, &body.cpuset_mems)] {
        if from.as_deref().is_some_and(|f| !f.is_empty()) {
            to.clone_from(from);
        }
    }
    if let Some(policy) = &body.restart_policy
        && policy.name.is_some_and(|n| n != crate::models::RestartPolicyNameEnum::EMPTY)
    {
        new.restart_policy = Some(policy.clone());
    }
    new
}

/// Reads `0-3,5`. At most 4096 numbers, each below 4096.
fn set(text: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let number = |t: &str| t.trim().parse::<u32>().ok();
        let (low, high) = match part.split_once('-') {
            Some((low, high)) => number(low).zip(number(high)),
            None => number(part).map(|one| (one, one)),
        }?;
        if low > high || high >= 4096 {
            return None;
        }
        all.extend(low..=high);
    }
    Some(all)
}

fn two_decimals(cpus: u32) -> String {
    format!("{cpus}.00")
}

/// Checks limits against each other and the machine; answers warnings.
pub fn check(l: &Limits, facts: &Facts, updating: bool) -> Result<Vec<String>> {
    let invalid = |text: &str| Err(Error::invalid(text));
    let mut warnings = Vec::new();
    if l.memory < 0 || (l.memory > 0 && l.memory < MINIMUM_MEMORY) {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if l.memory > 0 && l.memory_swap > 0 && l.memory_swap < l.memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if l.memory == 0 && l.memory_swap > 0 && !updating {
        return invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if let Some(value) = l.swappiness
        && !(-1..=100).contains(&value)
    {
        return Err(Error::invalid(format!(
            "Invalid value: {value}, valid memory swappiness range is 0-100"
        )));
    }
    if l.memory_reservation < 0 || (l.memory_reservation > 0 && l.memory_reservation < MINIMUM_MEMORY) {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if l.memory > 0 && l.memory_reservation > 0 && l.memory < l.memory_reservation {
        return invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if l.nano_cpus > 0 && l.cpu_period > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set.");
    }
    if l.nano_cpus > 0 && l.cpu_quota > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set.");
    }
    // Nothing below a hundredth of a processor, and not more than there are.
    if l.nano_cpus < 0
        || (l.nano_cpus > 0 && l.nano_cpus < 10_000_000)
        || l.nano_cpus > i64::from(facts.cpus) * 1_000_000_000
    {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {}, as there are only {} CPUs available",
            two_decimals(facts.cpus),
            facts.cpus
        )));
    }
    if l.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            l.cpu_shares
        )));
    }
    if l.cpu_period != 0 && !(1000..=1_000_000).contains(&l.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if (l.cpu_rt_period != 0 || l.cpu_rt_runtime != 0) && !facts.cpu_realtime {
        return invalid("kernel does not support CPU real-time scheduler");
    }
    if l.cpu_rt_period != 0 && l.cpu_rt_runtime > l.cpu_rt_period {
        return invalid("cpu real-time runtime cannot be higher than cpu real-time period");
    }
    if l.cpu_quota > 0 && l.cpu_quota < 1000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    for (text, name, limit) in [(&l.cpuset_cpus, "cpus", facts.cpus), (&l.cpuset_mems, "mems", 1)] {
        if text.is_empty() {
            continue;
        }
        let Some(list) = set(text) else {
            return Err(Error::invalid(format!("Invalid value {text} for cpuset {name}")));
        };
        if name == "cpus" && list.iter().any(|n| *n >= limit) {
            let top = limit.saturating_sub(1);
            let available = if top == 0 { "0".to_owned() } else { format!("0-{top}") };
            return Err(Error::invalid(format!(
                "Requested CPUs are not available - requested {text}, available: {available}"
            )));
        }
    }
    if l.blkio_weight > 0 && !(10..=1000).contains(&l.blkio_weight) {
        return invalid("Range of blkio weight is from 10 to 1000");
    }
    if l.pids.is_some_and(|p| p < -1) {
        return invalid("Invalid PidsLimit: use -1 for an unlimited number of processes");
    }
    if facts.cgroup_version == 2 {
        if l.oom_kill_disable {
            warnings
                .push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
        }
        if l.swappiness.is_some_and(|v| v >= 0) {
            warnings.push(
                "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory \
                 swappiness discarded."
                    .to_owned(),
            );
        }
    } else if l.oom_kill_disable && l.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources."
                .to_owned(),
        );
    }
    Ok(warnings)
}

/// The kernel's values; the device rules come in ready.
pub fn resources(l: &Limits, facts: &Facts, devices: Vec<DeviceRule>) -> Resources {
    let set = |v: i64| (v != 0).then_some(v);
    let v2 = facts.cgroup_version == 2;
    let (period, quota) = if l.nano_cpus > 0 {
        (Some(100_000), Some(l.nano_cpus / 10_000))
    } else {
        (set(l.cpu_period), set(l.cpu_quota))
    };
    let memory_swap = match (l.memory, l.memory_swap) {
        // As much swap as memory, Docker's default.
        (memory, 0) if memory > 0 => memory.checked_mul(2),
        (_, swap) => set(swap),
    };
    Resources {
        memory: set(l.memory),
        memory_swap,
        memory_reservation: set(l.memory_reservation),
        swappiness: l.swappiness.filter(|v| *v >= 0 && !v2),
        oom_kill_disable: l.oom_kill_disable && !v2,
        cpu_quota: quota,
        cpu_period: period,
        cpu_shares: set(l.cpu_shares).map(|s| s.clamp(2, 262_144)),
        cpu_rt_period: set(l.cpu_rt_period),
        cpu_rt_runtime: set(l.cpu_rt_runtime),
        cpuset_cpus: (!l.cpuset_cpus.is_empty()).then(|| l.cpuset_cpus.clone()),
        cpuset_mems: (!l.cpuset_mems.is_empty()).then(|| l.cpuset_mems.clone()),
        pids: l.pids.map(|p| if p <= 0 { -1 } else { p }),
        blkio_weight: (l.blkio_weight > 0).then_some(l.blkio_weight),
        devices,
        ..Resources::default()
    }
}

/// The container's own limits, and of the engine's those that it does not set.
pub fn ulimits(own: &[ResourcesUlimits], engine: &[ResourcesUlimits]) -> Vec<ResourcesUlimits> {
    let mut all = own.to_vec();
    all.extend(engine.iter().filter(|e| !own.iter().any(|o| o.name == e.name)).cloned());
    all
}

/// The process's own limits; -1 is unlimited.
pub fn rlimits(list: &[ResourcesUlimits]) -> Result<Vec<Rlimit>> {
    list.iter()
        .map(|u| {
            let name = u.name.as_deref().unwrap_or("").to_ascii_lowercase();
            if !RLIMITS.contains(&name.as_str()) {
                return Err(Error::invalid(format!("invalid ulimit type: {name}")));
            }
            let (soft, hard) = (u.soft.unwrap_or(0), u.hard.unwrap_or(0));
            if hard != -1 && (soft == -1 || soft > hard) {
                return Err(Error::invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
                )));
            }
            let value = |v: i64| if v == -1 { Ok(u64::MAX) } else { u64::try_from(v) };
            let bad =
                |_| Error::invalid(format!("invalid ulimit value for {name}: -1 is the only negative one"));
            Ok(Rlimit {
                kind: format!("RLIMIT_{}", name.to_ascii_uppercase()),
                soft: value(soft).map_err(bad)?,
                hard: value(hard).map_err(bad)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts { cpus: 4, memory: 8 << 30, cgroup_version: 1, ..Facts::default() }
    }

    #[test]
    fn refusals() {
        let mb = 1 << 20;
        let d = Limits::default;
        let cases: Vec<(Limits, &str)> = vec![
            (Limits { memory: 4096, ..d() }, "Minimum memory limit allowed is 6MB"),
            (Limits { memory: -1, ..d() }, "Minimum memory limit allowed is 6MB"),
            (
                Limits { memory: 20 * mb, memory_swap: 10 * mb, ..d() },
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                Limits { memory_swap: 10 * mb, ..d() },
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (
                Limits { swappiness: Some(101), ..d() },
                "Invalid value: 101, valid memory swappiness range is 0-100",
            ),
            (
                Limits { memory: 10 * mb, memory_reservation: 20 * mb, ..d() },
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            ),
            (
                Limits { nano_cpus: 5_000_000_000, ..d() },
                "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available",
            ),
            (
                Limits { nano_cpus: 1, ..d() },
                "range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available",
            ),
            (
                Limits { nano_cpus: 1_000_000_000, cpu_quota: 5000, ..d() },
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set.",
            ),
            (
                Limits { cpu_period: 10, ..d() },
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            ),
            (Limits { cpu_quota: 10, ..d() }, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
            (Limits { cpuset_cpus: "x".into(), ..d() }, "Invalid value x for cpuset cpus"),
            (
                Limits { cpuset_cpus: "0-4294967295".into(), ..d() },
                "Invalid value 0-4294967295 for cpuset cpus",
            ),
            (
                Limits { cpuset_cpus: "0-7".into(), ..d() },
                "Requested CPUs are not available - requested 0-7, available: 0-3",
            ),
            (Limits { cpu_rt_period: 1000, ..d() }, "kernel does not support CPU real-time scheduler"),
            (Limits { cpu_rt_runtime: 1000, ..d() }, "kernel does not support CPU real-time scheduler"),
            (Limits { blkio_weight: 5, ..d() }, "Range of blkio weight is from 10 to 1000"),
        ];
        for (limits, text) in cases {
            let e = check(&limits, &facts(), false).unwrap_err();
            assert_eq!((e.kind, e.message.as_str()), (crate::Kind::Invalid, text));
        }
        assert!(check(&d(), &facts(), false).unwrap().is_empty());
        let real = Facts { cpu_realtime: true, ..facts() };
        let share = |period, runtime| Limits { cpu_rt_period: period, cpu_rt_runtime: runtime, ..d() };
        assert_eq!(
            check(&share(1000, 2000), &real, false).unwrap_err().message,
            "cpu real-time runtime cannot be higher than cpu real-time period"
        );
        assert!(check(&share(2000, 1000), &real, false).is_ok());
        let r = resources(&share(2000, 1000), &real, Vec::new());
        assert_eq!((r.cpu_rt_period, r.cpu_rt_runtime), (Some(2000), Some(1000)));
    }

    #[test]
    fn values_for_the_kernel() {
        let l = Limits { memory: 64 << 20, nano_cpus: 1_500_000_000, pids: Some(0), ..Limits::default() };
        let r = resources(&l, &facts(), Vec::new());
        assert_eq!((r.memory, r.memory_swap), (Some(64 << 20), Some(128 << 20)));
        assert_eq!((r.cpu_period, r.cpu_quota), (Some(100_000), Some(150_000)));
        assert_eq!(r.pids, Some(-1));
        let unlimited = Limits { memory: 64 << 20, memory_swap: -1, ..Limits::default() };
        assert_eq!(resources(&unlimited, &facts(), Vec::new()).memory_swap, Some(-1));
    }

    #[test]
    fn ulimits() {
        let u = |name: &str, soft, hard| ResourcesUlimits {
            name: Some(name.into()),
            soft: Some(soft),
            hard: Some(hard),
        };
        let good = rlimits(&[u("nofile", 10, 20), u("core", -1, -1)]).unwrap();
        assert_eq!(good[0], Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 10, hard: 20 });
        assert_eq!(good[1].hard, u64::MAX);
        for bad in [u("foo", 1, 1), u("nofile", 2, 1), u("nofile", -1, 1), u("nofile", -5, -1)] {
            assert_eq!(rlimits(&[bad]).unwrap_err().kind, crate::Kind::Invalid);
        }
    }

    #[test]
    fn update_keeps_what_is_not_named() {
        let host = HostConfig { memory: Some(10 << 20), cpu_quota: Some(5000), ..HostConfig::default() };
        let body = ContainerUpdateBody { nano_cpus: Some(1_000_000_000), ..ContainerUpdateBody::default() };
        let new = updated(&host, &body);
        assert_eq!(
            (new.memory, new.nano_cpus, new.cpu_quota),
            (Some(10 << 20), Some(1_000_000_000), Some(0))
        );
    }
}
