//! From requests to plans: values in, values out, no input or output.

pub mod caps;
pub mod config;
pub mod files;
pub mod health;
pub mod limits;
pub mod modes;
pub mod mounts;
pub mod names;
pub mod paths;
pub mod ports;
pub(crate) mod report;
pub mod run;
pub mod security;
pub mod signals;
pub mod user;

/// What the planner must know about the machine and the engine's settings.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// The kernel has `AppArmor`.
    pub apparmor: bool,
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
}
