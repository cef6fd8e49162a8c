//! Counters.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use super::Hierarchy;
use super::files::{Dir, limit, value_of};
use crate::error::{Error, Result};
use crate::sys::file as sys;

/// Counters of one cgroup; what the kernel does not tell is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Memory.
    pub memory: MemoryStats,
    /// Processor time.
    pub cpu: CpuStats,
    /// Processes now.
    pub pids_current: u64,
    /// Limit of processes; None is unlimited.
    pub pids_limit: Option<u64>,
    /// Block input and output, one entry per device and operation.
    pub blkio: BlkioStats,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// In use, caches included.
    pub usage: u64,
    /// Highest use so far, where the kernel keeps it.
    pub max_usage: u64,
    /// The limit; None is unlimited.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// The lines of `memory.stat` with their kernel names.
    pub stat: Vec<(String, u64)>,
}

/// Processor time, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// All of it.
    pub total: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// By processor (v1 only).
    pub per_cpu: Vec<u64>,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Of them throttled.
    pub throttled_periods: u64,
    /// Time spent throttled.
    pub throttled_time: u64,
}

/// One number about one block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkioEntry {
    /// Major device number.
    pub major: u64,
    /// Minor device number.
    pub minor: u64,
    /// `Read`, `Write` and so on in v1; `read` and `write` in v2.
    pub operation: String,
    /// Bytes or operations.
    pub value: u64,
}

/// Block device counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlkioStats {
    /// Bytes.
    pub bytes: Vec<BlkioEntry>,
    /// Operations.
    pub operations: Vec<BlkioEntry>,
}

/// Nanoseconds per tick of `cpuacct.stat`: `USER_HZ` is 100 on every architecture that is supported.
const TICK: u64 = 10_000_000;

/// The files of one cgroup, whose directory is looked up once. A file that this kernel does not have reads as empty.
struct Reader {
    dir: OwnedFd,
}

/// More than any of the files has, but `memory.stat` of some kernels.
const USUAL: usize = 4096;

impl Reader {
    /// None where there is no such cgroup.
    fn open(dir: Dir<'_>, path: &str) -> Result<Option<Self>> {
        match dir.open(path) {
            Ok(dir) => Ok(Some(Self { dir })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn text(&self, name: &str) -> Result<String> {
        match self.read(name) {
            // ENODEV: the cgroup is going away.
            Err(e) if e.is_not_found() || e.is_unsupported() || e.is(libc::ENODEV) => Ok(String::new()),
            result => result,
        }
    }

    fn read(&self, name: &str) -> Result<String> {
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW;
        let mut file = File::from(sys::openat(Some(self.dir.as_fd()), &sys::cstring(name)?, flags, 0)?);
        let mut bytes = vec![0; USUAL];
        let n = file.read(&mut bytes)?;
        bytes.truncate(n);
        // These files give all that they have, or all that fits, in one read.
        if n == USUAL {
            bytes.extend(crate::fs::read_limited(&file, 1 << 20)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn number(&self, name: &str) -> Result<u64> {
        Ok(self.text(name)?.trim().parse().unwrap_or(0))
    }
}

fn pairs(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

fn gone(path: &str) -> Error {
    Error::refused(format!("cgroup {path:?}"), libc::ENOENT, "there is no such cgroup")
}

pub(super) fn v1(hierarchies: &[Hierarchy], path: &str) -> Result<Stats> {
    let mut stats = Stats::default();
    let mut found = false;
    for hierarchy in hierarchies.iter().filter(|h| h.required()) {
        let Some(read) = Reader::open(hierarchy.dir(), path)? else { continue };
        found = true;
        if hierarchy.has("memory") {
            stats.memory = MemoryStats {
                usage: read.number("memory.usage_in_bytes")?,
                max_usage: read.number("memory.max_usage_in_bytes")?,
                // Unlimited is the largest multiple of the page size that fits.
                limit: Some(read.number("memory.limit_in_bytes")?).filter(|l| *l < 1 << 62),
                failures: read.number("memory.failcnt")?,
                stat: pairs(&read.text("memory.stat")?),
            };
        }
        if hierarchy.has("cpuacct") {
            stats.cpu.total = read.number("cpuacct.usage")?;
            let ticks = read.text("cpuacct.stat")?;
            stats.cpu.user = value_of(&ticks, "user").unwrap_or(0).saturating_mul(TICK);
            stats.cpu.system = value_of(&ticks, "system").unwrap_or(0).saturating_mul(TICK);
            let per_cpu = read.text("cpuacct.usage_percpu")?;
            stats.cpu.per_cpu = per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        }
        if hierarchy.has("cpu") {
            let text = read.text("cpu.stat")?;
            stats.cpu.periods = value_of(&text, "nr_periods").unwrap_or(0);
            stats.cpu.throttled_periods = value_of(&text, "nr_throttled").unwrap_or(0);
            stats.cpu.throttled_time = value_of(&text, "throttled_time").unwrap_or(0);
        }
        if hierarchy.has("pids") {
            stats.pids_current = read.number("pids.current")?;
            stats.pids_limit = limit(&read.text("pids.max")?);
        }
        if hierarchy.has("blkio") {
            stats.blkio.bytes = first_blkio(&read, &BYTES)?;
            stats.blkio.operations = first_blkio(&read, &OPERATIONS)?;
        }
    }
    if found { Ok(stats) } else { Err(gone(path)) }
}

// The scheduler that does the work counts; the throttle files count where none of them is in use.
const BYTES: [&str; 3] = [
    "blkio.bfq.io_service_bytes_recursive",
    "blkio.io_service_bytes_recursive",
    "blkio.throttle.io_service_bytes_recursive",
];
const OPERATIONS: [&str; 3] = [
    "blkio.bfq.io_serviced_recursive",
    "blkio.io_serviced_recursive",
    "blkio.throttle.io_serviced_recursive",
];

fn first_blkio(read: &Reader, names: &[&str]) -> Result<Vec<BlkioEntry>> {
    for name in names {
        let entries: Vec<_> = read.text(name)?.lines().filter_map(blkio_line).collect();
        if !entries.is_empty() {
            return Ok(entries);
        }
    }
    Ok(Vec::new())
}

/// `8:0 Read 4096`.
fn blkio_line(line: &str) -> Option<BlkioEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let operation = words.next()?.to_owned();
    Some(BlkioEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        operation,
        value: words.next()?.parse().ok()?,
    })
}

pub(super) fn v2(dir: Dir<'_>, path: &str) -> Result<Stats> {
    let read = Reader::open(dir, path)?.ok_or_else(|| gone(path))?;
    let cpu = read.text("cpu.stat")?;
    let micros = |key| value_of(&cpu, key).unwrap_or(0).saturating_mul(1000);
    let (bytes, operations) = io_stat(&read.text("io.stat")?);
    Ok(Stats {
        memory: MemoryStats {
            usage: read.number("memory.current")?,
            max_usage: read.number("memory.peak")?,
            limit: limit(&read.text("memory.max")?),
            failures: value_of(&read.text("memory.events")?, "max").unwrap_or(0),
            stat: pairs(&read.text("memory.stat")?),
        },
        cpu: CpuStats {
            total: micros("usage_usec"),
            user: micros("user_usec"),
            system: micros("system_usec"),
            per_cpu: Vec::new(),
            periods: value_of(&cpu, "nr_periods").unwrap_or(0),
            throttled_periods: value_of(&cpu, "nr_throttled").unwrap_or(0),
            throttled_time: micros("throttled_usec"),
        },
        pids_current: read.number("pids.current")?,
        pids_limit: limit(&read.text("pids.max")?),
        blkio: BlkioStats { bytes, operations },
    })
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io_stat(text: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for word in words {
            let Some((key, value)) = word.split_once('=') else { continue };
            let Ok(value) = value.parse() else { continue };
            let entry = |operation: &str| BlkioEntry { major, minor, operation: operation.into(), value };
            match key {
                "rbytes" => bytes.push(entry("read")),
                "wbytes" => bytes.push(entry("write")),
                "rios" => operations.push(entry("read")),
                "wios" => operations.push(entry("write")),
                _ => {}
            }
        }
    }
    (bytes, operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let entry = blkio_line("253:16 Write 512").unwrap();
        assert_eq!(
            (entry.major, entry.minor, entry.operation.as_str(), entry.value),
            (253, 16, "Write", 512)
        );
        assert_eq!(blkio_line("Total 0"), None);
        let (bytes, operations) = io_stat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nnonsense\n");
        assert_eq!(bytes.iter().map(|e| e.value).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(operations.iter().map(|e| e.value).collect::<Vec<_>>(), [3, 4]);
    }
}
