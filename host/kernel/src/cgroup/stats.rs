//! Counters.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::files::{Dir, LONGEST, limit, value_of};
use super::{Hierarchy, Version};
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

/// More than any of the files has, but `memory.stat` of some kernels.
const USUAL: usize = 4096;

/// The files of one cgroup in one hierarchy. Each is opened when it is read first and kept: to read it again costs a fifth of
/// opening, reading and closing it. A file that this kernel does not have reads as empty.
#[derive(Debug)]
struct Reader {
    /// Until every file was read once.
    dir: Option<OwnedFd>,
    files: Vec<(&'static str, File)>,
    buffer: Vec<u8>,
}

impl Reader {
    /// None where there is no such cgroup.
    fn open(dir: Dir<'_>, path: &str) -> Result<Option<Self>> {
        match dir.open(path) {
            Ok(dir) => Ok(Some(Self { dir: Some(dir), files: Vec::new(), buffer: vec![0; USUAL] })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn text(&mut self, name: &'static str) -> Result<&str> {
        let length = match self.read(name) {
            Ok(length) => length,
            // ENODEV: the cgroup is going away.
            Err(e) if e.is_not_found() || e.is_unsupported() || e.is(libc::ENODEV) => 0,
            Err(e) => return Err(e),
        };
        // The kernel writes ASCII here.
        Ok(self.buffer.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default())
    }

    /// How much of the buffer is this file; nothing where there is no such file.
    fn read(&mut self, name: &'static str) -> Result<usize> {
        if !self.files.iter().any(|(known, _)| *known == name) {
            let Some(dir) = &self.dir else { return Ok(0) };
            let flags = libc::O_RDONLY | libc::O_NOFOLLOW;
            let opened = sys::openat(Some(dir.as_fd()), &sys::cstring(name)?, flags, 0)?;
            self.files.push((name, File::from(opened)));
        }
        let Some((_, file)) = self.files.iter().find(|(known, _)| *known == name) else { return Ok(0) };
        // These files give all that they have, or all that fits, in one read.
        loop {
            let length = file.read_at(&mut self.buffer, 0)?;
            if length < self.buffer.len() || length >= LONGEST {
                return Ok(length);
            }
            self.buffer.resize(length * 2, 0);
        }
    }

    fn number(&mut self, name: &'static str) -> Result<u64> {
        Ok(self.text(name)?.trim().parse().unwrap_or(0))
    }
}

/// The counters of one cgroup, whose files stay open while this lives: for who reads them again and again.
///
/// A cgroup can be removed meanwhile; its counters are zero then.
#[derive(Debug)]
pub struct Counters {
    version: Version,
    /// With the controllers that are read in it; one without any for v2.
    readers: Vec<(Vec<&'static str>, Reader)>,
}

/// The controllers whose counters are read on v1.
const READ: [&str; 5] = ["memory", "cpuacct", "cpu", "pids", "blkio"];

impl Counters {
    pub(super) fn v1(hierarchies: &[Hierarchy], path: &str) -> Result<Self> {
        let mut readers = Vec::new();
        for hierarchy in hierarchies {
            let controllers: Vec<_> = READ.into_iter().filter(|c| hierarchy.has(c)).collect();
            if controllers.is_empty() {
                continue;
            }
            if let Some(reader) = Reader::open(hierarchy.dir(), path)? {
                readers.push((controllers, reader));
            }
        }
        if readers.is_empty() { Err(gone(path)) } else { Ok(Self { version: Version::V1, readers }) }
    }

    pub(super) fn v2(dir: Dir<'_>, path: &str) -> Result<Self> {
        let reader = Reader::open(dir, path)?.ok_or_else(|| gone(path))?;
        Ok(Self { version: Version::V2, readers: vec![(Vec::new(), reader)] })
    }

    /// How many descriptors this holds.
    pub fn descriptors(&self) -> u64 {
        self.readers.iter().flat_map(|(_, reader)| &reader.files).map(|_| 1).sum()
    }

    /// What they say now.
    pub fn read(&mut self) -> Result<Stats> {
        let mut stats = Stats::default();
        for (controllers, reader) in &mut self.readers {
            match self.version {
                Version::V1 => {
                    for controller in controllers {
                        v1(&mut stats, reader, controller)?;
                    }
                }
                Version::V2 => stats = v2(reader)?,
            }
            reader.dir = None;
        }
        Ok(stats)
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

fn v1(stats: &mut Stats, read: &mut Reader, controller: &str) -> Result<()> {
    match controller {
        "memory" => {
            stats.memory = MemoryStats {
                usage: read.number("memory.usage_in_bytes")?,
                max_usage: read.number("memory.max_usage_in_bytes")?,
                // Unlimited is the largest multiple of the page size that fits.
                limit: limit(read.text("memory.limit_in_bytes")?).filter(|l| *l < 1 << 62),
                failures: read.number("memory.failcnt")?,
                stat: pairs(read.text("memory.stat")?),
            };
        }
        "cpuacct" => {
            stats.cpu.total = read.number("cpuacct.usage")?;
            let ticks = read.text("cpuacct.stat")?;
            stats.cpu.user = value_of(ticks, "user").unwrap_or(0).saturating_mul(TICK);
            stats.cpu.system = value_of(ticks, "system").unwrap_or(0).saturating_mul(TICK);
            let per_cpu = read.text("cpuacct.usage_percpu")?;
            stats.cpu.per_cpu = per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        }
        "cpu" => {
            let text = read.text("cpu.stat")?;
            stats.cpu.periods = value_of(text, "nr_periods").unwrap_or(0);
            stats.cpu.throttled_periods = value_of(text, "nr_throttled").unwrap_or(0);
            stats.cpu.throttled_time = value_of(text, "throttled_time").unwrap_or(0);
        }
        "pids" => {
            stats.pids_current = read.number("pids.current")?;
            stats.pids_limit = limit(read.text("pids.max")?);
        }
        "blkio" => {
            stats.blkio.bytes = first_blkio(read, &BYTES)?;
            stats.blkio.operations = first_blkio(read, &OPERATIONS)?;
        }
        _ => {}
    }
    Ok(())
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

fn first_blkio(read: &mut Reader, names: &[&'static str]) -> Result<Vec<BlkioEntry>> {
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

fn v2(read: &mut Reader) -> Result<Stats> {
    let cpu = read.text("cpu.stat")?;
    let micros = |key| value_of(cpu, key).unwrap_or(0).saturating_mul(1000);
    let cpu = CpuStats {
        total: micros("usage_usec"),
        user: micros("user_usec"),
        system: micros("system_usec"),
        per_cpu: Vec::new(),
        periods: value_of(cpu, "nr_periods").unwrap_or(0),
        throttled_periods: value_of(cpu, "nr_throttled").unwrap_or(0),
        throttled_time: micros("throttled_usec"),
    };
    let (bytes, operations) = io_stat(read.text("io.stat")?);
    Ok(Stats {
        memory: MemoryStats {
            usage: read.number("memory.current")?,
            max_usage: read.number("memory.peak")?,
            limit: limit(read.text("memory.max")?),
            failures: value_of(read.text("memory.events")?, "max").unwrap_or(0),
            stat: pairs(read.text("memory.stat")?),
        },
        cpu,
        pids_current: read.number("pids.current")?,
        pids_limit: limit(read.text("pids.max")?),
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
