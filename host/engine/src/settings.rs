//! How an engine is set up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Packing;
use crate::models::ResourcesUlimits;
use crate::planner::security::Seccomp;
use crate::planner::userns::Remap;

/// What the registry client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Hosts (`name:port`) and networks (`10.0.0.0/8`) that may be spoken to without verified TLS, or without any.
    pub insecure: Vec<String>,
    /// Mirrors of the Docker Hub, in the order in which they are asked.
    pub mirrors: Vec<String>,
    /// Layers fetched at a time.
    pub concurrent_downloads: usize,
    /// Layers sent at a time.
    pub concurrent_uploads: usize,
    /// How layers are compressed that are sent.
    pub packing: Packing,
    /// Attempts for each layer.
    pub download_attempts: usize,
    /// Proxy for plain HTTP; empty is none.
    pub http_proxy: String,
    /// Proxy for HTTPS; empty is none.
    pub https_proxy: String,
    /// Hosts that are reached without a proxy, comma separated.
    pub no_proxy: String,
    /// Directories with `hosts.toml` and certificates per registry.
    pub directories: Vec<PathBuf>,
    /// Seconds in which a transfer has to bring something.
    pub stall: u64,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            concurrent_downloads: 3,
            concurrent_uploads: 5,
            packing: Packing::default(),
            download_attempts: 5,
            http_proxy: String::new(),
            https_proxy: String::new(),
            no_proxy: String::new(),
            directories: Vec::new(),
            stall: 60,
        }
    }
}

/// Another runtime that containers may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// Absolute path of a program with runc's command line. With `shim` it stands in where the shim is not installed, if it is not empty.
    pub path: String,
    /// Arguments before all others.
    pub arguments: Vec<String>,
    /// A shim of containerd's kind instead.
    pub shim: Option<ShimSettings>,
}

/// A shim that containers may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShimSettings {
    /// Its type, for example `io.containerd.kata.v2`, or the absolute path of its program.
    pub kind: String,
    /// What it is configured with.
    pub options: Option<wharf_plan::run::ShimOptions>,
}

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
    /// The program that makes and restores checkpoints: an absolute path, or a name to be found where systems have programs.
    pub criu: String,
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
    /// Part of the default network's subnet that addresses are given from.
    pub bridge_range: Option<String>,
    /// Subnet of IPv6 addresses of the default network.
    pub bridge_range_v6: Option<String>,
    /// The default network's gateway, if it is not the bridge itself.
    pub bridge_gateway: Option<String>,
    /// The same for IPv6.
    pub bridge_gateway_v6: Option<String>,
    /// The default network has IPv6.
    pub bridge_ipv6: bool,
    /// Containers of the default network reach each other.
    pub icc: bool,
    /// Containers of the default network reach the outside under the host's address.
    pub masquerade: bool,
    /// Address that ports of the default network are published on where none is said.
    pub publish_address: String,
    /// A program carries to containers what comes to published ports on addresses of IPv6 from which the kernel cannot lead on.
    pub userland_proxy: bool,
    /// Options of networks that are made, by driver.
    pub network_options: BTreeMap<String, BTreeMap<String, String>>,
    /// What `host-gateway` of `--add-host` stands for; empty takes the bridge's gateway.
    pub host_gateways: Vec<String>,
    /// Process limits of containers that do not set them.
    pub ulimits: Vec<ResourcesUlimits>,
    /// Bytes of /dev/shm where nothing is said; 0 is Docker's 64 MiB.
    pub shm_size: i64,
    /// Real-time budget of the cgroups above containers, which these share: microseconds of each period, and the period; 0 leaves
    /// the kernel's.
    pub cpu_rt_runtime: i64,
    /// Microseconds.
    pub cpu_rt_period: i64,
    /// `private` or `shareable`.
    pub ipc_mode: String,
    /// `private` or `host`; empty is the kernel version's usual one.
    pub cgroupns_mode: String,
    /// Seccomp rules of containers that name none.
    pub seccomp: Seccomp,
    /// How `info` shows those.
    pub seccomp_name: String,
    /// Cgroups laid out as systemd does.
    pub systemd_cgroups: bool,
    /// Devices may be asked for by their CDI names.
    pub cdi: bool,
    /// Where their descriptions are.
    pub cdi_dirs: Vec<PathBuf>,
    /// User namespace of containers that name none.
    pub remap: Remap,
    /// Ids that ranges of containers' own are made of: first and count.
    pub own_ids: Vec<(u32, u32)>,
    /// For the registry client.
    pub registry: RegistrySettings,
    /// Garbage collection of images.
    pub image_gc: crate::image_gc::ImageGc,
    /// Other runtimes, by name.
    pub runtimes: BTreeMap<String, RuntimeSettings>,
    /// Runtime of containers that name none; `runc` is the engine itself.
    pub default_runtime: String,
    /// Experimental features (checkpoints) are there.
    pub experimental: bool,
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
            criu: "criu".into(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            bridge_address: None,
            bridge_name: None,
            shutdown_timeout: 15,
            init: false,
            no_new_privileges: false,
            mtu: 0,
            bridge_range: None,
            bridge_range_v6: None,
            bridge_gateway: None,
            bridge_gateway_v6: None,
            bridge_ipv6: false,
            icc: true,
            masquerade: true,
            publish_address: "0.0.0.0".into(),
            userland_proxy: true,
            network_options: BTreeMap::new(),
            host_gateways: Vec::new(),
            ulimits: Vec::new(),
            shm_size: 0,
            cpu_rt_runtime: 0,
            cpu_rt_period: 0,
            ipc_mode: "private".into(),
            cgroupns_mode: String::new(),
            seccomp: Seccomp::Builtin,
            seccomp_name: "builtin".into(),
            systemd_cgroups: false,
            cdi: true,
            cdi_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            remap: Remap::Off,
            own_ids: Vec::new(),
            registry: RegistrySettings::default(),
            image_gc: crate::image_gc::ImageGc::default(),
            runtimes: BTreeMap::new(),
            default_runtime: crate::planner::run::NATIVE.into(),
            experimental: false,
        }
    }
}

/// `new` with what cannot change under a running engine as it is in `old`: directories, drivers, the default network's
/// shape, the layout of cgroups and their real-time budget, which only opening checks against the kernel.
pub(crate) fn reloaded(old: &Settings, new: Settings) -> Settings {
    let keep = old.clone();
    Settings {
        data_root: keep.data_root,
        exec_root: keep.exec_root,
        storage_driver: keep.storage_driver,
        storage_options: keep.storage_options,
        plugin_dirs: keep.plugin_dirs,
        plugin_cache: keep.plugin_cache,
        plugin_config: keep.plugin_config,
        compiler: keep.compiler,
        program: keep.program,
        cgroup_parent: keep.cgroup_parent,
        cpu_rt_runtime: keep.cpu_rt_runtime,
        cpu_rt_period: keep.cpu_rt_period,
        bridge_address: keep.bridge_address,
        bridge_name: keep.bridge_name,
        mtu: keep.mtu,
        bridge_range: keep.bridge_range,
        bridge_range_v6: keep.bridge_range_v6,
        bridge_gateway: keep.bridge_gateway,
        bridge_gateway_v6: keep.bridge_gateway_v6,
        bridge_ipv6: keep.bridge_ipv6,
        icc: keep.icc,
        masquerade: keep.masquerade,
        publish_address: keep.publish_address,
        userland_proxy: keep.userland_proxy,
        systemd_cgroups: keep.systemd_cgroups,
        remap: keep.remap,
        ..new
    }
}
