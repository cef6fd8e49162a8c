//! Control groups, versions 1 and 2.

use std::time::Duration;

use wharf_plan::run::Resources;

use crate::error::{Error, Result};

/// Which of the two interfaces the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// One for all.
    V2,
}

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
    /// The limit; `u64::MAX` is none.
    pub limit: u64,
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
    /// `Read`, `Write` and so on as v1 spells them; v2's are given v1's words.
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

/// The host's cgroup file systems. Paths given to its methods start below each hierarchy's root (`/wharf/<id>`).
#[derive(Debug, Clone)]
pub struct Cgroups;

impl Cgroups {
    /// Finds what is mounted.
    pub fn detect() -> Result<Self> {
        Err(unsupported())
    }
    /// Which interface.
    pub fn version(&self) -> Version {
        Version::V1
    }
    /// Makes the cgroup with its limits; on failure nothing is left.
    pub fn create(&self, _path: &str, _resources: &Resources) -> Result<()> {
        Err(unsupported())
    }
    /// Changes what is Some in `resources`; device rules are left alone when the list is empty.
    pub fn update(&self, _path: &str, _resources: &Resources) -> Result<()> {
        Err(unsupported())
    }
    /// Removes it and those below. Waits up to `patience` for processes that are ending; nothing there is success.
    pub fn remove(&self, _path: &str, _patience: Duration) -> Result<()> {
        Err(unsupported())
    }
    /// Kills every process in it and below.
    pub fn kill(&self, _path: &str) -> Result<()> {
        Err(unsupported())
    }
    /// Stops every process; returns when they stand still.
    pub fn freeze(&self, _path: &str) -> Result<()> {
        Err(unsupported())
    }
    /// Lets them go on.
    pub fn thaw(&self, _path: &str) -> Result<()> {
        Err(unsupported())
    }
    /// The processes in it and below, as seen from here.
    pub fn pids(&self, _path: &str) -> Result<Vec<i32>> {
        Err(unsupported())
    }
    /// Reads the counters.
    pub fn stats(&self, _path: &str) -> Result<Stats> {
        Err(unsupported())
    }
    /// How often the kernel killed for lack of memory.
    pub fn oom_kills(&self, _path: &str) -> Result<u64> {
        Err(unsupported())
    }
    /// Names of the cgroups directly below `path`, of all hierarchies.
    pub fn list(&self, _path: &str) -> Result<Vec<String>> {
        Err(unsupported())
    }
}

fn unsupported() -> Error {
    Error::refused("cgroup", libc::ENOSYS, "not supported yet")
}
