//! Counters of a container.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wharf_kernel::cgroup::{BlkioEntry, BlkioStats, Counters, MemoryStats, Stats};

use crate::Engine;
use crate::error::{Context, Result};
use crate::models::{
    ContainerBlkioStatEntry, ContainerBlkioStats, ContainerCpuStats, ContainerCpuUsage, ContainerMemoryStats,
    ContainerNetworkStats, ContainerPidsStats, ContainerStatsResponse, ContainerStorageStats,
    ContainerThrottlingData,
};
use crate::record::{now as clock, rfc3339};

/// So long one look at the host's processor time serves all containers that are looked at together.
const TOGETHER: Duration = Duration::from_millis(20);

/// One answer, and what makes the next one of the same container cheap.
#[derive(Debug)]
pub struct Sample {
    /// What the client is told.
    pub stats: ContainerStatsResponse,
    kept: Option<Kept>,
}

impl From<ContainerStatsResponse> for Sample {
    fn from(stats: ContainerStatsResponse) -> Self {
        Self { stats, kept: None }
    }
}

/// Descriptors that all samples together keep open.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Counters of one run of a container that stay open for the next sample.
#[derive(Debug)]
struct Kept {
    counters: Counters,
    run: u64,
}

impl Kept {
    /// None when all of them together would hold more than a quarter of the files that the daemon may have open.
    fn new(counters: Counters, run: u64, most: u64) -> Option<Self> {
        let held = KEPT.fetch_add(counters.descriptors(), Ordering::Relaxed);
        let kept = Self { counters, run };
        // Dropped, it gives back what it was counted for.
        (held < most / 4).then_some(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.counters.descriptors(), Ordering::Relaxed);
    }
}

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

fn memory(m: MemoryStats, host: u64, v2: bool) -> ContainerMemoryStats {
    ContainerMemoryStats {
        usage: Some(m.usage),
        max_usage: (!v2 && m.max_usage > 0).then_some(m.max_usage),
        stats: Some(m.stat.into_iter().collect()),
        failcnt: (!v2).then_some(m.failures),
        // No container has more than the machine.
        limit: Some(m.limit.map_or(host, |l| l.min(host))),
        ..ContainerMemoryStats::default()
    }
}

fn blkio(stats: BlkioStats) -> ContainerBlkioStats {
    let entries = |list: Vec<BlkioEntry>| {
        Some(
            list.into_iter()
                .map(|e| ContainerBlkioStatEntry {
                    major: Some(e.major),
                    minor: Some(e.minor),
                    op: Some(e.operation),
                    value: Some(e.value),
                })
                .collect::<Vec<_>>(),
        )
    };
    ContainerBlkioStats {
        io_service_bytes_recursive: entries(stats.bytes),
        io_serviced_recursive: entries(stats.operations),
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
    pub async fn container_stats(&self, reference: &str, previous: Option<Sample>) -> Result<Sample> {
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
            storage_stats: Some(ContainerStorageStats::default()),
            ..ContainerStatsResponse::default()
        };
        // As Docker does, one that does not run has empty figures.
        if !now.state.status.is_alive() {
            return Ok(answer.into());
        }
        let (previous, kept) = match previous {
            Some(previous) => (Some(previous.stats), previous.kept.filter(|kept| kept.run == now.state.run)),
            None => (None, None),
        };
        let (cgroups, path, pid) = (self.inner.cgroups.clone(), now.state.cgroup.clone(), now.state.pid);
        let (run, most) = (now.state.run, self.inner.host.most_files);
        let networked = !now.state.endpoints.is_empty();
        // Of a virtual machine only its shim knows, and its counters cannot be kept open.
        let told = self.counters(&now).await?;
        let look = move || -> wharf_kernel::Result<_> {
            if let Some(told) = told {
                return Ok((told, None, networked.then(|| interfaces(pid))));
            }
            let (stats, kept) = match kept {
                Some(mut kept) => (kept.counters.read()?, Some(kept)),
                None => {
                    let mut counters = cgroups.counters(&path)?;
                    (counters.read()?, Kept::new(counters, run, most))
                }
            };
            Ok((stats, kept, networked.then(|| interfaces(pid))))
        };
        let (stats, kept, networks) = self.inner.looks.run(look).await?.doing("cannot read the counters")?;
        let v2 = self.inner.facts().cgroup_version == 2;
        answer.read = Some(rfc3339(clock()));
        answer.cpu_stats = Some(cpu(&stats, self.inner.host.cpus));
        answer.memory_stats = Some(memory(stats.memory, self.inner.host.memory, v2));
        answer.blkio_stats = Some(blkio(stats.blkio));
        answer.pids_stats =
            Some(ContainerPidsStats { current: Some(stats.pids_current), limit: stats.pids_limit });
        answer.networks = networks;
        if let Some(previous) = previous {
            answer.preread = previous.read;
            answer.precpu_stats = previous.cpu_stats;
        }
        Ok(Sample { stats: answer, kept })
    }
}
