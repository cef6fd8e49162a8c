//! `events`: figures of a container at intervals, and that the kernel killed for lack of memory, as lines of JSON.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value, json};
use wharf_kernel::cgroup::{BlkioEntry, Cgroups, OomWatch, Stats};

use crate::args::EventsArgs;
use crate::state::{Status, Store};
use crate::{Error, Result};

/// A kill is counted a moment after it was told: so often and so long it is looked for.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(100);

pub(crate) fn events(store: &Store, args: &EventsArgs) -> Result<u8> {
    let interval = duration(&args.interval)?;
    if interval.is_zero() {
        return Err("duration interval must be greater than 0".into());
    }
    let entry = store.open(&args.id)?;
    if entry.status() == Status::Stopped {
        return Err(Error(format!("container with id {} is not running", args.id)));
    }
    let process = entry.process().ok_or("container not running")?;
    let path = entry.record.cgroup.clone().ok_or("the container has no cgroup")?;
    // Others may look at it, change it and end it meanwhile.
    drop(entry);
    let cgroups = Cgroups::detect()?;
    let line = |kind: &str, data: Option<Value>| {
        // In runc's order, which some callers look for in the text.
        let id = Value::from(args.id.as_str());
        match data {
            Some(data) => format!("{{\"type\":\"{kind}\",\"id\":{id},\"data\":{data}}}"),
            None => format!("{{\"type\":\"{kind}\",\"id\":{id}}}"),
        }
    };
    let stats = || -> Result<String> { Ok(line("stats", Some(figures(&cgroups, &path)?))) };
    if args.stats {
        say(&stats()?)?;
        return Ok(0);
    }
    let watch = cgroups.watch_oom(&path).ok();
    let mut kills = cgroups.oom_kills(&path).unwrap_or(0);
    let too_long = || Error::from("duration interval is longer than this machine can count");
    let mut next = Instant::now().checked_add(interval).ok_or_else(too_long)?;
    let mut looks = 0;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let wait = if looks > 0 { LOOK.min(left) } else { left };
        let (ended, told) = wait_for(&process, watch.as_ref(), wait)?;
        looks = if told { LOOKS } else { looks.saturating_sub(1) };
        let found = cgroups.oom_kills(&path).unwrap_or(kills);
        if found > kills {
            (kills, looks) = (found, 0);
            say(&line("oom", None))?;
        }
        if ended {
            return Ok(0);
        }
        if Instant::now() >= next {
            next = next.checked_add(interval).ok_or_else(too_long)?;
            match stats() {
                Ok(text) => say(&text)?,
                // It is just going away.
                Err(error) => crate::log::debug(error.0),
            }
        }
    }
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Waits for the end of the container or for a kill; whether it is the one, and the other.
fn wait_for(process: &OwnedFd, watch: Option<&OomWatch>, longest: Duration) -> Result<(bool, bool)> {
    let watched: Option<(BorrowedFd<'_>, PollFlags)> = watch.map(|watch| match watch {
        OomWatch::Counter(fd) => (fd.as_fd(), PollFlags::POLLIN),
        OomWatch::File(fd) => (fd.as_fd(), PollFlags::POLLPRI),
    });
    let mut polls = vec![PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    polls.extend(watched.map(|(fd, flags)| PollFd::new(fd, flags)));
    match poll(&mut polls, PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX)) {
        Err(nix::errno::Errno::EINTR) => return Ok((false, false)),
        result => result?,
    };
    let ready = |n: usize| polls.get(n).and_then(PollFd::revents).is_some_and(|r| !r.is_empty());
    let (ended, told) = (ready(0), ready(1));
    if let (true, Some((fd, _))) = (told, watched) {
        // To be read empty, or from its beginning; what it says does not matter.
        let mut text = [0_u8; 512];
        let _ = nix::sys::uio::pread(fd, &mut text, 0).or_else(|_| nix::unistd::read(fd, &mut text));
    }
    Ok((ended, told))
}

/// A duration in Go's words: `5s`, `100ms`, `1m30s`.
fn duration(text: &str) -> Result<Duration> {
    let bad =
        || Error(format!("invalid value {text:?} for flag -interval: a duration is wanted, as 5s or 100ms"));
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let total = wharf_plan::duration::nanoseconds(text).ok_or_else(bad)?;
    Duration::try_from_secs_f64(total / 1e9).map_err(|_| bad())
}

/// The figures in runc's form.
fn figures(cgroups: &Cgroups, path: &str) -> Result<Value> {
    let stats = cgroups.stats(path)?;
    let number = |name: &str| cgroups.figure(path, name);
    let mut memory = json!({
        "cache": cache(&stats),
        "usage": {
            // Without a limit runc has the largest number that there is.
            "limit": stats.memory.limit.unwrap_or(u64::MAX), "usage": stats.memory.usage,
            "max": stats.memory.max_usage, "failcnt": stats.memory.failures,
        },
    });
    for (key, names) in [
        (
            "swap",
            [
                "memory.memsw.usage_in_bytes",
                "memory.memsw.max_usage_in_bytes",
                "memory.memsw.limit_in_bytes",
                "memory.memsw.failcnt",
            ],
        ),
        (
            "kernel",
            [
                "memory.kmem.usage_in_bytes",
                "memory.kmem.max_usage_in_bytes",
                "memory.kmem.limit_in_bytes",
                "memory.kmem.failcnt",
            ],
        ),
        (
            "kernelTCP",
            [
                "memory.kmem.tcp.usage_in_bytes",
                "memory.kmem.tcp.max_usage_in_bytes",
                "memory.kmem.tcp.limit_in_bytes",
                "memory.kmem.tcp.failcnt",
            ],
        ),
        ("swap", ["memory.swap.current", "memory.swap.peak", "memory.swap.max", ""]),
    ] {
        let values: Map<String, Value> = ["usage", "max", "limit", "failcnt"]
            .into_iter()
            .zip(names)
            .filter_map(|(word, name)| Some((word.to_owned(), number(name)?.into())))
            .collect();
        if !values.is_empty() {
            put(&mut memory, key, Value::Object(values));
        }
    }
    let raw: Map<String, Value> = stats.memory.stat.iter().map(|(k, v)| (k.clone(), (*v).into())).collect();
    put(&mut memory, "raw", Value::Object(raw));
    let mut usage = json!({"total": stats.cpu.total, "kernel": stats.cpu.system, "user": stats.cpu.user});
    if !stats.cpu.per_cpu.is_empty() {
        put(&mut usage, "percpu", json!(stats.cpu.per_cpu));
    }
    Ok(json!({
        "cpu": {
            "usage": usage,
            "throttling": {
                "periods": stats.cpu.periods, "throttledPeriods": stats.cpu.throttled_periods,
                "throttledTime": stats.cpu.throttled_time,
            },
        },
        "memory": memory,
        "pids": {"current": stats.pids_current, "limit": stats.pids_limit.unwrap_or(0)},
        "blkio": {
            "ioServiceBytesRecursive": entries(&stats.blkio.bytes),
            "ioServicedRecursive": entries(&stats.blkio.operations),
        },
    }))
}

fn put(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(map) = object {
        map.insert(key.to_owned(), value);
    }
}

/// What of the memory is a cache of files, by the name that the kernel's version has for it.
fn cache(stats: &Stats) -> u64 {
    let of = |name: &str| stats.memory.stat.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    of("cache").or_else(|| of("file")).unwrap_or(0)
}

fn entries(list: &[BlkioEntry]) -> Vec<Value> {
    let one =
        |e: &BlkioEntry| json!({"major": e.major, "minor": e.minor, "op": e.operation, "value": e.value});
    list.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go() {
        for (text, millis) in
            [("5s", 5000), ("100ms", 100), ("1m30s", 90_000), ("1.5h", 5_400_000), ("0", 0), ("0s", 0)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "5x", "1e99h", "99999999999999999999h", "1s5", "1..5s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
