//! What a shim says that its container uses: metrics of cgroup v1 or v2, which shims of virtual machines fill in as well.

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::{cgroups, cgroups_v2};

/// The figures that Docker shows, as far as the shim told them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Nanoseconds of processor time: all, in user mode, in kernel mode.
    pub cpu: (u64, u64, u64),
    /// Bytes of memory in use, and the limit; no limit is `u64::MAX`.
    pub memory: (u64, u64),
    /// Most memory that was in use, in bytes.
    pub memory_most: u64,
    /// Processes, and their limit; none is 0.
    pub pids: (u64, u64),
    /// Reads and writes of block devices: major, minor, operation, bytes.
    pub io: Vec<(u64, u64, String, u64)>,
}

/// Reads the message of this type; None where it is none that is known.
pub(crate) fn read(type_url: &str, value: &[u8]) -> Option<Metrics> {
    match type_url.rsplit('/').next()? {
        "io.containerd.cgroups.v1.Metrics" => version1(value),
        "io.containerd.cgroups.v2.Metrics" => version2(value),
        _ => None,
    }
}

fn version1(value: &[u8]) -> Option<Metrics> {
    let told = cgroups::metrics::Metrics::parse_from_bytes(value).ok()?;
    let mut all = Metrics::default();
    if let Some(usage) = told.cpu.as_ref().and_then(|cpu| cpu.usage.as_ref()) {
        all.cpu = (usage.total, usage.user, usage.kernel);
    }
    if let Some(usage) = told.memory.as_ref().and_then(|memory| memory.usage.as_ref()) {
        all.memory = (usage.usage, usage.limit);
        all.memory_most = usage.max;
    }
    if let Some(pids) = told.pids.as_ref() {
        all.pids = (pids.current, pids.limit);
    }
    let blkio = told.blkio.as_ref().map(|b| b.io_service_bytes_recursive.as_slice()).unwrap_or_default();
    all.io = blkio.iter().map(|e| (e.major, e.minor, e.op.to_lowercase(), e.value)).collect();
    Some(all)
}

fn version2(value: &[u8]) -> Option<Metrics> {
    let told = cgroups_v2::metrics::Metrics::parse_from_bytes(value).ok()?;
    let mut all = Metrics::default();
    if let Some(cpu) = told.cpu.as_ref() {
        let nanos = |micros: u64| micros.saturating_mul(1000);
        all.cpu = (nanos(cpu.usage_usec), nanos(cpu.user_usec), nanos(cpu.system_usec));
    }
    if let Some(memory) = told.memory.as_ref() {
        all.memory = (memory.usage, memory.usage_limit);
    }
    if let Some(pids) = told.pids.as_ref() {
        all.pids = (pids.current, pids.limit);
    }
    for entry in told.io.as_ref().map(|io| io.usage.as_slice()).unwrap_or_default() {
        all.io.push((entry.major, entry.minor, "read".into(), entry.rbytes));
        all.io.push((entry.major, entry.minor, "write".into(), entry.wbytes));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_and_nonsense() {
        let mut one = cgroups::metrics::Metrics::new();
        one.mut_cpu().mut_usage().total = 7;
        one.mut_memory().mut_usage().usage = 8;
        one.mut_pids().current = 9;
        let read_one = read("io.containerd.cgroups.v1.Metrics", &one.write_to_bytes().unwrap()).unwrap();
        assert_eq!((read_one.cpu.0, read_one.memory.0, read_one.pids.0), (7, 8, 9));
        let mut two = cgroups_v2::metrics::Metrics::new();
        two.mut_cpu().usage_usec = 7;
        two.mut_memory().usage = 8;
        let bytes = two.write_to_bytes().unwrap();
        let read_two = read("type.googleapis.com/io.containerd.cgroups.v2.Metrics", &bytes).unwrap();
        assert_eq!((read_two.cpu.0, read_two.memory.0), (7000, 8));
        assert_eq!(read("something.else", &bytes), None);
        assert_eq!(read("io.containerd.cgroups.v1.Metrics", &[0xff; 9]), None);
    }
}
