//! Facts about this machine.

use std::path::Path;

use crate::planner::Facts;
use crate::settings::Settings;

/// What does not change while the daemon lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    pub(crate) kernel: String,
    pub(crate) os: String,
    pub(crate) os_version: String,
    pub(crate) name: String,
    pub(crate) architecture: String,
    /// Changes with every boot.
    pub(crate) boot: String,
    /// The kernel has `AppArmor`.
    pub(crate) apparmor: bool,
    pub(crate) cpus: u32,
    pub(crate) memory: u64,
    /// Most open files that a process can be given; 0 where that can be raised.
    pub(crate) most_files: u64,
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Without `CAP_SYS_RESOURCE` no limit goes above this process's own.
fn most_files() -> u64 {
    const SYS_RESOURCE: u32 = 24;
    if wharf_kernel::caps::available_once() & wharf_kernel::caps::bit(SYS_RESOURCE) != 0 {
        return 0;
    }
    read("/proc/self/limits")
        .lines()
        .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

impl Host {
    /// Looks.
    pub(crate) fn detect() -> Self {
        let release = read("/etc/os-release");
        let field = |key: &str| {
            release
                .lines()
                .find_map(|l| l.strip_prefix(key))
                .map(|v| v.trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        let memory = read("/proc/meminfo")
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:"))
            .and_then(|v| v.trim().strip_suffix("kB"))
            .and_then(|v| v.trim().parse::<u64>().ok())
            .unwrap_or(0)
            * 1024;
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            os: field("PRETTY_NAME="),
            os_version: field("VERSION_ID="),
            name: read("/proc/sys/kernel/hostname").trim().to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            boot: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            apparmor: wharf_kernel::apparmor::enabled(),
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
            memory,
            most_files: most_files(),
        }
    }

    /// What the planner wants to know.
    pub(crate) fn facts(&self, settings: &Settings, cgroup_version: u8) -> Facts {
        Facts {
            cpus: self.cpus,
            memory: self.memory,
            cgroup_version,
            cpu_realtime: cgroup_version == 1
                && ["cpu", "cpu,cpuacct"]
                    .iter()
                    .any(|name| Path::new("/sys/fs/cgroup").join(name).join("cpu.rt_runtime_us").exists()),
            log_driver: settings.log_driver.clone(),
            log_options: settings.log_options.clone(),
            storage_driver: settings.storage_driver.clone(),
            init: settings.init,
            no_new_privileges: settings.no_new_privileges,
            cgroup_parent: settings.cgroup_parent.clone(),
            systemd_cgroups: settings.systemd_cgroups,
            ulimits: settings.ulimits.clone(),
            shm_size: settings.shm_size,
            ipc_mode: settings.ipc_mode.clone(),
            cgroupns_mode: settings.cgroupns_mode.clone(),
            seccomp: settings.seccomp.clone(),
            most_files: self.most_files,
            cdi: settings.cdi,
            remap: settings.remap.clone(),
            runtimes: settings.runtimes.keys().cloned().collect(),
            default_runtime: settings.default_runtime.clone(),
        }
    }
}
