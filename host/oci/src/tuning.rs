//! How a process shall be scheduled: `scheduler`, `ioPriority`, `execCPUAffinity` of a process, `linux.personality`.
//!
//! They are read from the document itself: the types of the crate that reads everything else have other names for some flags,
//! and no texts of runc's for what is refused.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wharf_plan::run::{Scheduler, Tuning};

use crate::{Doing, Error, Result};

/// Keys of a process that are read here.
const KEYS: [&str; 3] = ["scheduler", "ioPriority", "execCPUAffinity"];

const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];
const FIFO: u32 = 1;
const RR: u32 = 2;
const DEADLINE: u32 = 6;

const FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

const CLASSES: [(&str, u16); 3] = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

/// More processors than any machine has that this kernel interface is for.
const PROCESSORS: u32 = 1024;

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Described {
    policy: String,
    nice: i32,
    priority: i32,
    flags: Vec<String>,
    runtime: u64,
    deadline: u64,
    period: u64,
}

#[derive(Deserialize)]
struct IoPriority {
    class: String,
    #[serde(default)]
    priority: i32,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Affinity {
    initial: String,
    r#final: String,
}

/// What of a process is read here is taken out, for those who read the rest. None where there is nothing.
pub(crate) fn without(process: &Value) -> Option<Value> {
    let process = process.as_object().filter(|p| KEYS.iter().any(|key| p.contains_key(*key)))?;
    let mut rest = process.clone();
    for key in KEYS {
        rest.remove(key);
    }
    Some(Value::Object(rest))
}

/// What a process has of it, and what the configuration says for all its processes.
///
/// `exec`: a further process, described by `process` or, where that says nothing, as the configuration's own. The second value
/// is the processors that it begins on, before it is in its container.
pub(crate) fn read(
    config: &Value,
    process: Option<&Value>,
    exec: bool,
) -> Result<(Option<Box<Tuning>>, Vec<u32>)> {
    let own = config.get("process");
    let find = |key: &str| process.and_then(|p| said(p, key)).or_else(|| own.and_then(|p| said(p, key)));
    let mut tuning = Tuning {
        scheduler: find("scheduler").map(scheduler).transpose()?,
        io_priority: find("ioPriority").map(io_priority).transpose()?,
        personality: config
            .pointer("/linux/personality")
            .filter(|p| !p.is_null())
            .map(personality)
            .transpose()?,
        processors: None,
    };
    let mut first = Vec::new();
    if let Some(affinity) = find("execCPUAffinity") {
        let affinity: Affinity = typed(affinity, "execCPUAffinity")?;
        let (initial, last) = (processors(&affinity.initial)?, processors(&affinity.r#final)?);
        if exec && !(initial.is_empty() && last.is_empty()) {
            (first, tuning.processors) = (initial, Some(last));
        }
    }
    Ok(((tuning != Tuning::default()).then(|| Box::new(tuning)), first))
}

/// Says what the kernel means by refusing a scheduler to who may not run everywhere; `bound` is whether a cgroup's limit is why.
pub(crate) fn explain(error: Error, bound: bool) -> Error {
    let refused = error.0.contains("setting the scheduler") && error.0.contains("not permitted");
    if bound && refused {
        return Error(format!("{error}: process scheduler can't be used together with AllowedCPUs"));
    }
    error
}

fn said<'a>(process: &'a Value, key: &str) -> Option<&'a Value> {
    process.get(key).filter(|value| !value.is_null())
}

fn typed<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T> {
    T::deserialize(value).doing(what)
}

fn number_of<T: Copy>(list: &[(&str, T)], name: &str) -> Option<T> {
    list.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn scheduler(value: &Value) -> Result<Scheduler> {
    let given: Described = typed(value, "scheduler")?;
    if given.policy.is_empty() {
        return Err("scheduler policy is required".into());
    }
    let policy = number_of(&POLICIES, &given.policy)
        .ok_or_else(|| Error(format!("invalid scheduler policy: {}", given.policy)))?;
    if !(-20..=19).contains(&given.nice) {
        return Err(Error(format!("invalid scheduler.nice: {}, it must be between -20 and 19", given.nice)));
    }
    if given.priority != 0 && policy != FIFO && policy != RR {
        return Err("scheduler.priority can only be specified for SchedFIFO or SchedRR policy".into());
    }
    let priority = u32::try_from(given.priority).ok().filter(|p| *p <= 99).ok_or_else(|| {
        Error(format!("invalid scheduler.priority: {}, it must be at most 99", given.priority))
    })?;
    if policy != DEADLINE && (given.runtime, given.deadline, given.period) != (0, 0, 0) {
        return Err("scheduler runtime/deadline/period can only be specified for SchedDeadline policy".into());
    }
    let flags = given.flags.iter().try_fold(0, |all, name| {
        let flag = number_of(&FLAGS, name).ok_or_else(|| Error(format!("invalid scheduler flag: {name}")));
        flag.map(|flag| all | flag)
    })?;
    Ok(Scheduler {
        policy,
        flags,
        nice: given.nice,
        priority,
        runtime: given.runtime,
        deadline: given.deadline,
        period: given.period,
    })
}

fn io_priority(value: &Value) -> Result<u16> {
    let given: IoPriority = typed(value, "ioPriority")?;
    let class = number_of(&CLASSES, &given.class)
        .ok_or_else(|| Error(format!("invalid ioPriority.Class: {}", given.class)))?;
    let level = u16::try_from(given.priority)
        .ok()
        .filter(|level| *level <= 7)
        .ok_or_else(|| Error(format!("invalid ioPriority.Priority: {}", given.priority)))?;
    Ok((class << 13) | level)
}

fn personality(value: &Value) -> Result<u32> {
    if value.get("flags").and_then(Value::as_array).is_some_and(|flags| !flags.is_empty()) {
        crate::log::warn("ignoring unsupported personality flags: the specification names none");
    }
    match value.get("domain").and_then(Value::as_str) {
        Some("LINUX") => Ok(0),
        Some("LINUX32") => Ok(8),
        other => Err(Error(format!("unsupported personality domain: {}", other.unwrap_or_default()))),
    }
}

/// `0-3,7` as numbers.
fn processors(list: &str) -> Result<Vec<u32>> {
    let bad =
        || Error(format!("invalid CPU affinity {list:?}: a list of numbers and ranges is wanted, as 0-3,7"));
    let mut all = Vec::new();
    for part in list.split(',').map(str::trim).filter(|_| !list.trim().is_empty()) {
        let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n < PROCESSORS).ok_or_else(bad);
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(bad());
        }
        all.extend(first..=last);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(process: &Value) -> Result<Tuning> {
        read(&json!({"process": process}), None, false).map(|(tuning, _)| *tuning.unwrap_or_default())
    }

    #[test]
    fn schedulers_and_priorities() {
        let all = of(&json!({
            "scheduler": {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_DL_OVERRUN"],
                "runtime": 42_000, "deadline": 100_000, "period": 1_000_000},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4}}))
        .unwrap();
        let scheduler = all.scheduler.unwrap();
        assert_eq!((scheduler.policy, scheduler.flags, scheduler.runtime), (6, 5, 42_000));
        assert_eq!(all.io_priority, Some(2 << 13 | 4));
        assert_eq!(
            of(&json!({"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}})).unwrap().io_priority,
            Some(3 << 13)
        );
        assert_eq!(of(&json!({"scheduler": null})).unwrap(), Tuning::default());
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        for (process, said) in [
            (json!({"scheduler": {"nice": 3}}), "policy is required"),
            (json!({"scheduler": {"policy": "SCHED_FASTEST"}}), "invalid scheduler policy: SCHED_FASTEST"),
            (json!({"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}), "invalid scheduler.nice: 20"),
            (json!({"scheduler": {"policy": "SCHED_OTHER", "nice": -21}}), "invalid scheduler.nice: -21"),
            (json!({"scheduler": {"policy": "SCHED_BATCH", "priority": 1}}), "SchedFIFO or SchedRR"),
            (json!({"scheduler": {"policy": "SCHED_FIFO", "priority": 100}}), "scheduler.priority: 100"),
            (json!({"scheduler": {"policy": "SCHED_FIFO", "priority": -1}}), "scheduler.priority: -1"),
            (json!({"scheduler": {"policy": "SCHED_RR", "runtime": 5}}), "SchedDeadline"),
            (json!({"scheduler": {"policy": "SCHED_RR", "flags": ["X"]}}), "invalid scheduler flag: X"),
            (json!({"scheduler": {"policy": "SCHED_RR", "runtime": -5}}), "scheduler: "),
            (json!({"ioPriority": {"class": "IOPRIO_CLASS_NONE"}}), "ioPriority.Class: IOPRIO_CLASS_NONE"),
            (json!({"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 8}}), "ioPriority.Priority: 8"),
            (json!({"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": -1}}), "ioPriority.Priority: -1"),
            (json!({"execCPUAffinity": {"final": "3-1"}}), "invalid CPU affinity"),
            (json!({"execCPUAffinity": {"initial": "1,,2"}}), "invalid CPU affinity"),
            (json!({"execCPUAffinity": {"initial": "0-4294967295"}}), "invalid CPU affinity"),
        ] {
            let error = of(&process).unwrap_err();
            assert!(error.0.contains(said), "{process}: {error}");
        }
        let error = read(&json!({"linux": {"personality": {"domain": "BSD"}}}), None, false).unwrap_err();
        assert!(error.0.contains("BSD"), "{error}");
    }

    #[test]
    fn an_exec_has_its_own_or_the_configurations() {
        let config = json!({"process": {
            "scheduler": {"policy": "SCHED_BATCH"}, "execCPUAffinity": {"initial": "0", "final": "1-2,5"}},
            "linux": {"personality": {"domain": "LINUX32"}}});
        let (tuning, first) = read(&config, None, false).unwrap();
        assert_eq!((tuning.unwrap().processors, first), (None, vec![]));
        let (tuning, first) = read(&config, None, true).unwrap();
        assert_eq!((tuning.unwrap().processors, first), (Some(vec![1, 2, 5]), vec![0]));
        let process = json!({"scheduler": {"policy": "SCHED_IDLE"}, "execCPUAffinity": {"initial": "3"}});
        let (tuning, first) = read(&config, Some(&process), true).unwrap();
        let tuning = tuning.unwrap();
        assert_eq!((tuning.scheduler.unwrap().policy, tuning.personality), (5, Some(8)));
        assert_eq!((tuning.processors, first), (Some(vec![]), vec![3]));
        assert!(without(&process).unwrap().as_object().unwrap().is_empty());
        assert_eq!(without(&json!({"args": []})), None);
    }
}
