//! How an engine is set up.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Everything the daemon's command line and `daemon.json` decide for the engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is kept over a reboot: metadata, images, snapshots, volumes, logs.
    pub data_root: PathBuf,
    /// What is not: the keeper's socket, plugins' run directories.
    pub exec_root: PathBuf,
    /// Name of the storage driver; `overlay2` unless told.
    pub storage_driver: String,
    /// Its options, `key=value`.
    pub storage_options: Vec<(String, String)>,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// Its options.
    pub log_options: BTreeMap<String, String>,
    /// Labels of this daemon, `key=value`.
    pub labels: Vec<String>,
    /// Directories with components, searched in order.
    pub plugin_dirs: Vec<PathBuf>,
    /// Where compiled components are kept; None is below the data root.
    pub plugin_cache: Option<PathBuf>,
    /// Configuration of plugins: name to JSON text.
    pub plugin_config: BTreeMap<String, String>,
    /// The program that compiles components.
    pub compiler: PathBuf,
    /// The `wharf` program itself, started as `wharf keeper`.
    pub program: PathBuf,
    /// Verbose logs were asked for; shown by `info`.
    pub debug: bool,
    /// Parent of all containers' cgroups; empty is the root.
    pub cgroup_parent: String,
    /// Leave containers running when the daemon ends in an orderly way.
    pub live_restore: bool,
    /// DNS servers for containers that name none; empty takes the host's.
    pub dns: Vec<String>,
    /// DNS search domains for containers that name none.
    pub dns_search: Vec<String>,
    /// DNS options for containers that name none.
    pub dns_options: Vec<String>,
    /// Subnet of the predefined network `bridge` in the form of its gateway, for example `172.17.0.1/16`.
    pub bridge_address: Option<String>,
    /// Name of the predefined network's bridge; `docker0` unless told.
    pub bridge_name: Option<String>,
    /// Seconds that containers get to end when the daemon ends.
    pub shutdown_timeout: u64,
    /// Run every container with an init unless it says no.
    pub init: bool,
    /// `no_new_privs` for every container unless it says no.
    pub no_new_privileges: bool,
    /// MTU of the default network; 0 is the driver's choice.
    pub mtu: u32,
}

impl Settings {
    /// Docker's defaults below the given directories.
    pub fn new(data_root: impl Into<PathBuf>, exec_root: impl Into<PathBuf>) -> Self {
        Self {
            data_root: data_root.into(),
            exec_root: exec_root.into(),
            storage_driver: "overlay2".into(),
            storage_options: Vec::new(),
            log_driver: "json-file".into(),
            log_options: BTreeMap::new(),
            labels: Vec::new(),
            plugin_dirs: Vec::new(),
            plugin_cache: None,
            plugin_config: BTreeMap::new(),
            compiler: PathBuf::from("wharf-compile"),
            program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("wharf")),
            debug: false,
            cgroup_parent: String::new(),
            live_restore: false,
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            bridge_address: None,
            bridge_name: None,
            shutdown_timeout: 15,
            init: false,
            no_new_privileges: false,
            mtu: 0,
        }
    }
}
