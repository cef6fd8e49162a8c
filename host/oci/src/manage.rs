//! `state`, `kill`, `delete`, `ps`, `pause`, `resume`, `update`, `list`.

use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use oci_spec::runtime::LinuxResources;
use wharf_kernel::cgroup::Cgroups;
use wharf_plan::run::Resources;

use crate::args::{DeleteArgs, KillArgs, ListArgs, PsArgs, UpdateArgs};
use crate::convert;
use crate::hooks::{self, When};
use crate::state::{Entry, LARGEST, Status, Store};
use crate::{Doing, Error, Result};

/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

fn print(value: &impl serde::Serialize) -> Result<u8> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(0)
}

pub(crate) fn state(store: &Store, id: &str) -> Result<u8> {
    let entry = store.open(id)?;
    print(&entry.shown())
}

/// A signal by name or number.
fn signal(text: &str) -> Result<i32> {
    let unknown = || Error(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse::<Signal>().map(|s| s as i32).map_err(|_| unknown())
}

pub(crate) fn kill(store: &Store, args: &KillArgs) -> Result<u8> {
    let number = signal(&args.signal)?;
    let entry = store.open(&args.id)?;
    if args.all
        && let Some(path) = &entry.record.cgroup
    {
        let cgroups = Cgroups::detect()?;
        if number == Signal::SIGKILL as i32 {
            cgroups.kill(path)?;
            return Ok(0);
        }
        for pid in cgroups.pids(path)? {
            // Whoever has ended meanwhile needs none.
            if let Ok(process) = wharf_kernel::sys::process::pidfd_open(pid) {
                let _ = wharf_kernel::sys::process::pidfd_send_signal(process.as_fd(), number);
            }
        }
        return Ok(0);
    }
    // Without a pid namespace of its own, the others do not end with the first one, which may have ended already.
    if number == Signal::SIGKILL as i32
        && !entry.record.own_pids
        && let Some(path) = &entry.record.cgroup
    {
        let cgroups = Cgroups::detect()?;
        if cgroups.pids(path).is_ok_and(|pids| !pids.is_empty()) {
            cgroups.kill(path)?;
            return Ok(0);
        }
    }
    entry.signal(number)?;
    // A process that stands still takes no signal but this one, and that only when it goes on.
    if number == Signal::SIGKILL as i32
        && entry.record.paused
        && let Some(path) = &entry.record.cgroup
    {
        Cgroups::detect()?.thaw(path)?;
    }
    Ok(0)
}

/// Ends what still runs, if `force`, and removes everything that the container has.
pub(crate) fn destroy(entry: Entry, force: bool) -> Result<()> {
    let status = entry.status();
    if status != Status::Stopped {
        if !force {
            return Err(Error(format!(
                "cannot delete container {} that is not stopped: {}",
                entry.record.id,
                status.word()
            )));
        }
        if let Some(process) = entry.process() {
            entry.signal(Signal::SIGKILL as i32)?;
            if entry.record.paused
                && let Some(path) = &entry.record.cgroup
            {
                Cgroups::detect()?.thaw(path)?;
            }
            let mut polls = [nix::poll::PollFd::new(process.as_fd(), nix::poll::PollFlags::POLLIN)];
            let longest = u16::try_from(PATIENCE.as_millis()).unwrap_or(u16::MAX);
            nix::poll::poll(&mut polls, longest)?;
            // Ours to reap where we are the parent (`run`).
            let _ = wharf_kernel::sys::process::wait_child(process.as_fd());
        }
    }
    if let Some(path) = entry.record.cgroup.clone() {
        let cgroups = Cgroups::detect()?;
        // Without a pid namespace of its own, others of the container may have outlived the first process.
        if !entry.record.own_pids {
            cgroups.kill(&path)?;
        }
        cgroups.remove(&path, PATIENCE).doing("removing the cgroup")?;
    }
    let (spec, _) = entry.spec()?;
    let state = entry.json(Status::Stopped);
    entry.remove()?;
    if let Err(error) = hooks::run(&spec, When::Poststop, &state) {
        // The container is gone; the specification asks to go on.
        crate::log::warn(error.0);
    }
    Ok(())
}

pub(crate) fn delete(store: &Store, args: &DeleteArgs) -> Result<u8> {
    match store.open(&args.id) {
        Ok(entry) => destroy(entry, args.force).map(|()| 0),
        Err(error) if args.force && error.0.contains("does not exist") => {
            // One that was cut short while it was made.
            store.discard(&args.id);
            Ok(0)
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn ps(store: &Store, args: &PsArgs) -> Result<u8> {
    let entry = store.open(&args.id)?;
    let path = entry.record.cgroup.as_ref().ok_or("the container has no cgroup")?;
    let pids = Cgroups::detect()?.pids(path)?;
    match args.format.as_str() {
        "json" => {
            println!("{}", serde_json::to_string(&pids)?);
            return Ok(0);
        }
        "table" => {}
        other => return Err(Error(format!("invalid format option {other:?}"))),
    }
    let options = if args.options.is_empty() { vec!["-ef".to_owned()] } else { args.options.clone() };
    let output = std::process::Command::new("ps").args(&options).output().doing("ps")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or("couldn't find PID field in ps output")?;
    println!("{header}");
    for line in lines {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            println!("{line}");
        }
    }
    Ok(0)
}

pub(crate) fn freeze(store: &Store, id: &str, stop: bool) -> Result<u8> {
    let mut entry = store.open(id)?;
    let wanted = if stop { Status::Running } else { Status::Paused };
    let status = entry.status();
    if status != wanted && !(stop && status == Status::Created) {
        let word = if stop { "running or created" } else { "paused" };
        return Err(Error(format!("container not {word}: {}", status.word())));
    }
    let path = entry.record.cgroup.clone().ok_or("the container has no cgroup")?;
    let cgroups = Cgroups::detect()?;
    if stop {
        cgroups.freeze(&path)?;
    } else {
        cgroups.thaw(&path)?;
    }
    entry.record.paused = stop;
    entry.save()?;
    Ok(0)
}

/// A number of bytes with an optional unit; -1 is unlimited.
fn bytes(text: &str) -> Result<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let bare = lower.strip_suffix('b').unwrap_or(&lower);
    let (digits, shift) = match bare.as_bytes().last() {
        Some(b'k') => (bare.trim_end_matches('k'), 10),
        Some(b'm') => (bare.trim_end_matches('m'), 20),
        Some(b'g') => (bare.trim_end_matches('g'), 30),
        _ => (bare, 0),
    };
    let number = digits.parse::<i64>().ok().and_then(|n| n.checked_mul(1 << shift));
    number.ok_or_else(|| Error(format!("invalid value for memory: {text:?}")))
}

pub(crate) fn update(store: &Store, args: &UpdateArgs) -> Result<u8> {
    let entry = store.open(&args.id)?;
    if entry.status() == Status::Stopped {
        return Err("container not running".into());
    }
    let resources = if let Some(path) = &args.resources {
        let mut text = String::new();
        if path.as_os_str() == "-" {
            std::io::stdin().take(LARGEST).read_to_string(&mut text)?;
        } else {
            std::fs::File::open(path)?.take(LARGEST).read_to_string(&mut text)?;
        }
        let given: LinuxResources = serde_json::from_str(&text).doing("resources")?;
        convert::resources(&given, false)?
    } else {
        let signed = |v: Option<u64>| v.and_then(|v| i64::try_from(v).ok());
        Resources {
            memory: args.memory.as_deref().map(bytes).transpose()?,
            memory_swap: args.memory_swap.as_deref().map(bytes).transpose()?,
            memory_reservation: args.memory_reservation.as_deref().map(bytes).transpose()?,
            cpu_period: signed(args.cpu_period),
            cpu_quota: args.cpu_quota,
            cpu_shares: signed(args.cpu_shares),
            cpu_burst: args.cpu_burst,
            cpu_idle: args.cpu_idle,
            cpu_rt_period: signed(args.cpu_rt_period),
            cpu_rt_runtime: args.cpu_rt_runtime,
            cpuset_cpus: args.cpuset_cpus.clone(),
            cpuset_mems: args.cpuset_mems.clone(),
            pids: args.pids_limit,
            blkio_weight: args.blkio_weight,
            ..Resources::default()
        }
    };
    let path = entry.record.cgroup.as_ref().ok_or("the container has no cgroup")?;
    if args.kernel_memory.is_some() || args.kernel_memory_tcp.is_some() {
        crate::log::warn("Kernel memory settings are ignored and will be removed");
    }
    let cgroups = Cgroups::detect()?;
    cgroups.with_cpuset(path, &resources)?;
    cgroups.update(path, &resources)?;
    Ok(0)
}

pub(crate) fn list(store: &Store, args: &ListArgs) -> Result<u8> {
    let all = store.all();
    if args.quiet {
        for (record, _) in &all {
            println!("{}", record.id);
        }
        return Ok(0);
    }
    match args.format.as_str() {
        "json" => {
            let list: Vec<_> = all.iter().map(|(record, status)| record.shown(*status, "root")).collect();
            println!("{}", serde_json::to_string(&list)?);
        }
        "table" => {
            println!("{:<25} {:<10} {:<10} {:<40} {:<32} OWNER", "ID", "PID", "STATUS", "BUNDLE", "CREATED");
            for (r, status) in &all {
                let shown = r.shown(*status, "root");
                println!(
                    "{:<25} {:<10} {:<10} {:<40} {:<32} root",
                    r.id,
                    shown.pid,
                    shown.status,
                    r.bundle.display(),
                    r.created
                );
            }
        }
        other => return Err(Error(format!("invalid format option {other:?}"))),
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::{bytes, signal};

    #[test]
    fn signals_and_sizes() {
        for (text, number) in [("TERM", 15), ("SIGKILL", 9), ("kill", 9), ("9", 9), ("0", 0)] {
            assert_eq!(signal(text), Ok(number), "{text}");
        }
        assert!(signal("NOPE").is_err() && signal("65").is_err() && signal("-1").is_err());
        assert_eq!((bytes("-1"), bytes("5"), bytes("2m")), (Ok(-1), Ok(5), Ok(2 << 20)));
        assert!(bytes("x").is_err() && bytes("").is_err());
    }
}
