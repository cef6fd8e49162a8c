//! Counters of a container, and its processes.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wharf_kernel::cgroup::Stats;

use crate::Engine;
use crate::error::{Context, Error, Result};
use crate::models::{
    ContainerBlkioStatEntry, ContainerBlkioStats, ContainerCpuStats, ContainerCpuUsage, ContainerMemoryStats,
    ContainerNetworkStats, ContainerPidsStats, ContainerStatsResponse, ContainerThrottlingData,
    ContainerTopResponse,
};
use crate::record::{now as clock, rfc3339};

/// At most so many processes are listed.
const PROCESSES: usize = 32_768;

/// So long one look at the host's processor time serves all containers that are looked at together.
const TOGETHER: Duration = Duration::from_millis(20);

/// The host's processor time so far, in nanoseconds.
fn system_time() -> u64 {
    static LAST: Mutex<Option<(Instant, u64)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match *last {
        Some((at, time)) if at.elapsed() < TOGETHER => time,
        _ => {
            let time = read_system_time();
            *last = Some((Instant::now(), time));
            time
        }
    }
}

/// What `/proc/stat` says; the kernel writes all of its many lines for the first one.
fn read_system_time() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    let ticks: u64 =
        first.split_ascii_whitespace().skip(1).take(8).filter_map(|n| n.parse::<u64>().ok()).sum();
    // The kernel's ticks of user space are hundredths of a second on every architecture we run on.
    ticks * 10_000_000
}

/// Counters of the interfaces that a process sees; the loopback does not count.
fn interfaces(pid: i32) -> HashMap<String, ContainerNetworkStats> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let n: Vec<u64> = rest.split_ascii_whitespace().filter_map(|w| w.parse().ok()).collect();
            let at = |i: usize| n.get(i).copied();
            let stats = ContainerNetworkStats {
                rx_bytes: at(0),
                rx_packets: at(1),
                rx_errors: at(2),
                rx_dropped: at(3),
                tx_bytes: at(8),
                tx_packets: at(9),
                tx_errors: at(10),
                tx_dropped: at(11),
                ..ContainerNetworkStats::default()
            };
            (name.trim() != "lo").then(|| (name.trim().to_owned(), stats))
        })
        .collect()
}

fn cpu(stats: &Stats, cpus: u32) -> ContainerCpuStats {
    let c = &stats.cpu;
    ContainerCpuStats {
        cpu_usage: Some(ContainerCpuUsage {
            total_usage: Some(c.total),
            percpu_usage: (!c.per_cpu.is_empty()).then(|| c.per_cpu.clone()),
            usage_in_kernelmode: Some(c.system),
            usage_in_usermode: Some(c.user),
        }),
        system_cpu_usage: Some(system_time()),
        online_cpus: Some(cpus),
        throttling_data: Some(ContainerThrottlingData {
            periods: Some(c.periods),
            throttled_periods: Some(c.throttled_periods),
            throttled_time: Some(c.throttled_time),
        }),
    }
}

fn memory(stats: &Stats, host: u64, v2: bool) -> ContainerMemoryStats {
    let m = &stats.memory;
    ContainerMemoryStats {
        usage: Some(m.usage),
        max_usage: (!v2 && m.max_usage > 0).then_some(m.max_usage),
        stats: Some(m.stat.iter().cloned().collect()),
        failcnt: (!v2).then_some(m.failures),
        // No container has more than the machine.
        limit: Some(m.limit.map_or(host, |l| l.min(host))),
        ..ContainerMemoryStats::default()
    }
}

fn blkio(stats: &Stats) -> ContainerBlkioStats {
    let entries = |list: &[wharf_kernel::cgroup::BlkioEntry]| {
        Some(
            list.iter()
                .map(|e| ContainerBlkioStatEntry {
                    major: Some(e.major),
                    minor: Some(e.minor),
                    op: Some(e.operation.clone()),
                    value: Some(e.value),
                })
                .collect::<Vec<_>>(),
        )
    };
    ContainerBlkioStats {
        io_service_bytes_recursive: entries(&stats.blkio.bytes),
        io_serviced_recursive: entries(&stats.blkio.operations),
        // What no kernel counts any more; clients go through the lists without asking whether they are there.
        io_queue_recursive: Some(Vec::new()),
        io_service_time_recursive: Some(Vec::new()),
        io_wait_time_recursive: Some(Vec::new()),
        io_merged_recursive: Some(Vec::new()),
        io_time_recursive: Some(Vec::new()),
        sectors_recursive: Some(Vec::new()),
    }
}

impl Engine {
    /// One sample of `GET /containers/{id}/stats`; `previous` becomes its `precpu_stats`.
    pub async fn container_stats(
        &self,
        reference: &str,
        previous: Option<&ContainerStatsResponse>,
    ) -> Result<ContainerStatsResponse> {
        let container = self.inner.registry.find(reference)?;
        let now = container.now();
        let mut answer = ContainerStatsResponse {
            id: Some(now.def.id.clone()),
            name: Some(format!("/{}", now.def.name)),
            os_type: Some("linux".into()),
            read: Some(rfc3339(0)),
            preread: Some(rfc3339(0)),
            cpu_stats: Some(ContainerCpuStats::default()),
            memory_stats: Some(ContainerMemoryStats::default()),
            precpu_stats: Some(ContainerCpuStats::default()),
            pids_stats: Some(ContainerPidsStats::default()),
            blkio_stats: Some(ContainerBlkioStats::default()),
            num_procs: Some(0),
            ..ContainerStatsResponse::default()
        };
        // As Docker does, one that does not run has empty figures.
        if !now.state.status.is_alive() {
            return Ok(answer);
        }
        let (cgroups, path, pid) = (self.inner.cgroups.clone(), now.state.cgroup.clone(), now.state.pid);
        let networked = !now.state.endpoints.is_empty();
        // A shim of a virtual machine, or None.
        let told = self.counters(&now).await?;
        let look = move || {
            let stats = told.map_or_else(|| cgroups.stats(&path), Ok);
            (stats, networked.then(|| interfaces(pid)))
        };
        let (stats, networks) = self.inner.pool.run(look).await?;
        let stats = stats.doing("cannot read the counters")?;
        let v2 = self.inner.facts().cgroup_version == 2;
        answer.read = Some(rfc3339(clock()));
        answer.cpu_stats = Some(cpu(&stats, self.inner.host.cpus));
        answer.memory_stats = Some(memory(&stats, self.inner.host.memory, v2));
        answer.blkio_stats = Some(blkio(&stats));
        answer.pids_stats =
            Some(ContainerPidsStats { current: Some(stats.pids_current), limit: stats.pids_limit });
        answer.networks = networks;
        if let Some(previous) = previous {
            answer.preread.clone_from(&previous.read);
            answer.precpu_stats.clone_from(&previous.cpu_stats);
        }
        Ok(answer)
    }

    /// `GET /containers/{id}/top`.
    pub async fn container_top(&self, reference: &str, ps_args: &str) -> Result<ContainerTopResponse> {
        let container = self.inner.registry.find(reference)?;
        let now = container.now();
        if !now.state.status.is_alive() {
            return Err(Error::conflict(format!("container {} is not running", now.def.id)));
        }
        let columns = columns(ps_args)?;
        let (cgroups, path) = (self.inner.cgroups.clone(), now.state.cgroup.clone());
        let told = self.pids_by_shim(&now).await?;
        let titles = columns.iter().map(|c| c.title().to_owned()).collect();
        // A command line is in a process's own memory, which a file system that hangs may have to page in.
        let place = format!("the list of processes of container {}", now.def.id);
        let processes = self
            .inner
            .foreign
            .run(&[&place], move |_| -> Result<Vec<Vec<String>>> {
                let boot = boot_time();
                let mut pids = told.map_or_else(|| cgroups.pids(&path), Ok)?;
                pids.sort_unstable();
                pids.dedup();
                Ok(pids
                    .into_iter()
                    .take(PROCESSES)
                    .filter_map(|pid| Process::read(pid, boot))
                    .map(|p| columns.iter().map(|c| p.column(*c)).collect())
                    .collect())
            })
            .await??;
        self.container_event(&now, "top", &[]);
        Ok(ContainerTopResponse { titles: Some(titles), processes: Some(processes) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Uid,
    User,
    Pid,
    Ppid,
    C,
    Stime,
    Tty,
    Time,
    Cmd,
    Command,
    Comm,
    Rss,
    Vsz,
    Stat,
    Pcpu,
    Pmem,
    Start,
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Uid => "UID",
            Self::User => "USER",
            Self::Pid => "PID",
            Self::Ppid => "PPID",
            Self::C => "C",
            Self::Stime => "STIME",
            Self::Tty => "TTY",
            Self::Time => "TIME",
            Self::Cmd => "CMD",
            Self::Command | Self::Comm => "COMMAND",
            Self::Rss => "RSS",
            Self::Vsz => "VSZ",
            Self::Stat => "STAT",
            Self::Pcpu => "%CPU",
            Self::Pmem => "%MEM",
            Self::Start => "START",
        }
    }
}

/// The columns that `ps`'s arguments ask for; no program is run, so only its common forms are known.
fn columns(arguments: &str) -> Result<Vec<Column>> {
    use Column as C;
    let words: Vec<&str> = arguments.split_ascii_whitespace().collect();
    let unknown = |what: &str| {
        Error::invalid(format!(
            "ps arguments {what:?} are not supported: use -ef, aux or -o with a list of columns"
        ))
    };
    match words.as_slice() {
        [] | ["-ef" | "-fe" | "ef" | "-f"] => {
            Ok(vec![C::Uid, C::Pid, C::Ppid, C::C, C::Stime, C::Tty, C::Time, C::Cmd])
        }
        ["aux" | "-aux" | "axu" | "u" | "-u"] => {
            let first = [C::User, C::Pid, C::Pcpu, C::Pmem, C::Vsz, C::Rss];
            Ok([&first[..], &[C::Tty, C::Stat, C::Start, C::Time, C::Command]].concat())
        }
        [flags @ .., list] if flags.last().is_some_and(|f| f.ends_with('o')) => list
            .split(',')
            .map(|name| {
                Ok(match name {
                    "uid" => C::Uid,
                    "user" | "euser" => C::User,
                    "pid" => C::Pid,
                    "ppid" => C::Ppid,
                    "c" => C::C,
                    "stime" => C::Stime,
                    "start" | "start_time" => C::Start,
                    "pcpu" | "%cpu" => C::Pcpu,
                    "pmem" | "%mem" => C::Pmem,
                    "tty" | "tt" => C::Tty,
                    "time" => C::Time,
                    "cmd" => C::Cmd,
                    "args" | "command" => C::Command,
                    "comm" => C::Comm,
                    "rss" => C::Rss,
                    "vsz" => C::Vsz,
                    "stat" | "s" | "state" => C::Stat,
                    other => return Err(unknown(other)),
                })
            })
            .collect(),
        _ => Err(unknown(arguments)),
    }
}

fn boot_time() -> i64 {
    std::fs::read_to_string("/proc/stat")
        .unwrap_or_default()
        .lines()
        .find_map(|l| l.strip_prefix("btime "))
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0)
}

/// KiB of this machine's memory.
fn machine_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    total.and_then(|l| l.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A share in percent with one digit behind the point.
fn percent(part: u128, whole: u128) -> String {
    let tenths = part.saturating_mul(1000).checked_div(whole).unwrap_or(0);
    format!("{}.{}", tenths / 10, tenths % 10)
}

struct Process {
    pid: i32,
    uid: String,
    ppid: String,
    tty: String,
    time: u64,
    started: i64,
    command: String,
    comm: String,
    rss: u64,
    vsz: u64,
    state: String,
}

impl Process {
    fn read(pid: i32, boot: i64) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may hold anything.
        let (head, rest) = stat.rsplit_once(')')?;
        let comm = head.split_once('(')?.1.to_owned();
        let f: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |i: usize| f.get(i).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uid = status
            .lines()
            .find_map(|l| l.strip_prefix("Uid:"))
            .and_then(|l| l.split_ascii_whitespace().next().map(str::to_owned))
            .unwrap_or_default();
        let mut line = Vec::new();
        if let Ok(file) = std::fs::File::open(format!("/proc/{pid}/cmdline")) {
            // A process may make this as long as it likes.
            let _ = file.take(65_536).read_to_end(&mut line);
        }
        let command = String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ");
        let tty = match number(4) {
            0 => "?".to_owned(),
            device => format!("pts/{}", (device & 0xff) | ((device >> 12) & 0xf_ff00)),
        };
        Some(Self {
            pid,
            uid,
            ppid: number(1).to_string(),
            tty,
            time: (number(11) + number(12)) / 100,
            started: boot + i64::try_from(number(19) / 100).unwrap_or(0),
            command: if command.is_empty() { format!("[{comm}]") } else { command },
            comm,
            rss: number(21) * 4,
            vsz: number(20) / 1024,
            state: f.first().map(|s| (*s).to_owned()).unwrap_or_default(),
        })
    }

    /// Seconds since it began.
    fn age(&self) -> u128 {
        let now = i64::try_from(crate::record::now() / 1_000_000_000).unwrap_or(0);
        u128::try_from(now - self.started).unwrap_or(0)
    }

    fn column(&self, column: Column) -> String {
        match column {
            // Names are the host's matter; numbers are always right.
            Column::Uid | Column::User => {
                if self.uid == "0" {
                    "root".into()
                } else {
                    self.uid.clone()
                }
            }
            Column::Pid => self.pid.to_string(),
            Column::Ppid => self.ppid.clone(),
            Column::C => "0".into(),
            Column::Pcpu => percent(u128::from(self.time), self.age()),
            Column::Pmem => percent(u128::from(self.rss), u128::from(machine_memory())),
            Column::Stime | Column::Start => jiff::Timestamp::from_second(self.started)
                .map(|t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M").to_string())
                .unwrap_or_default(),
            Column::Tty => self.tty.clone(),
            Column::Time => {
                format!("{:02}:{:02}:{:02}", self.time / 3600, self.time / 60 % 60, self.time % 60)
            }
            Column::Cmd | Column::Command => self.command.clone(),
            Column::Comm => self.comm.clone(),
            Column::Rss => self.rss.to_string(),
            Column::Vsz => self.vsz.to_string(),
            Column::Stat => self.state.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_arguments() {
        assert_eq!(columns("").unwrap().len(), 8);
        let aux: Vec<&str> = columns("aux").unwrap().iter().map(|c| c.title()).collect();
        assert_eq!(aux.join(" "), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        assert_eq!([percent(1, 8), percent(0, 0), percent(3, 2)], ["12.5", "0.0", "150.0"]);
        assert_eq!(columns("-eo pid,comm").unwrap(), [Column::Pid, Column::Comm]);
        for bad in ["-o foo", "--version", "-ef; rm"] {
            assert_eq!(columns(bad).unwrap_err().kind, crate::Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn own_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let p = Process::read(pid, boot_time()).unwrap();
        assert_eq!(p.pid, pid);
        assert!(!p.command.is_empty());
        assert!(p.started > 1_000_000_000);
    }
}
