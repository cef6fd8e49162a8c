//! From requests to plans: values in, values out, no input or output.

pub mod caps;
pub mod cgroup;
pub mod config;
pub mod endpoint;
pub mod files;
pub mod health;
pub mod limits;
pub mod modes;
pub mod mounts;
pub mod names;
pub mod paths;
pub mod ports;
pub(crate) mod report;
pub(crate) mod resolution;
pub mod run;
pub mod security;
pub mod signals;
pub mod usage;
pub mod user;
pub mod userns;

/// What the planner must know about the machine and the engine's settings.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Cgroups share out real-time processor time.
    pub cpu_realtime: bool,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// Its options.
    pub log_options: std::collections::BTreeMap<String, String>,
    /// Storage driver in use.
    pub storage_driver: String,
    /// Init by default.
    pub init: bool,
    /// `no_new_privs` by default.
    pub no_new_privileges: bool,
    /// Parent of cgroups.
    pub cgroup_parent: String,
    /// Cgroups laid out as systemd does.
    pub systemd_cgroups: bool,
    /// Process limits of containers that do not set them.
    pub ulimits: Vec<crate::models::ResourcesUlimits>,
    /// Bytes of /dev/shm where nothing is said; 0 is Docker's 64 MiB.
    pub shm_size: i64,
    /// IPC mode where nothing is said; empty is private.
    pub ipc_mode: String,
    /// Cgroup namespace mode where nothing is said.
    pub cgroupns_mode: String,
    /// Seccomp rules of containers that name none.
    pub seccomp: security::Seccomp,
    /// Most open files that a process can be given, where nobody may raise that; 0 is no bound.
    pub most_files: u64,
    /// Devices may be asked for by their CDI names.
    pub cdi: bool,
    /// User namespace of containers that name none.
    pub remap: userns::Remap,
    /// Names of other runtimes.
    pub runtimes: std::collections::BTreeSet<String>,
    /// Runtime of containers that name none; empty is the engine itself.
    pub default_runtime: String,
}
