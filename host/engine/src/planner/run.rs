//! The value that the keeper carries out.

use wharf_plan::run::{
    Capabilities, Cgroup, Device, DeviceRule, ExecPlan, Fd, Ids, Mount, MountSource, Namespace, Namespaces,
    Process, Rlimit, RunPlan, TimeNamespace, UserNamespace,
};

use crate::error::{Error, Result};
use crate::models::{ContainerConfig, ExecConfig, HostConfig};
use crate::planner::limits::{self, Limits};
use crate::planner::mounts::{self, Kind, MountSpec};
use crate::planner::security::{self, Seccomp};
use crate::planner::user::Account;
use crate::planner::{Facts, caps, config, files, modes, ports};

/// What of a container's plan follows from its configuration alone; made at create, used at every start.
#[derive(Debug, Clone, PartialEq)]
pub struct Blueprint {
    /// argv.
    pub args: Vec<String>,
    /// Capability bounding set.
    pub capabilities: u64,
    /// Limits.
    pub limits: Limits,
    /// Process limits.
    pub rlimits: Vec<Rlimit>,
    /// Security options.
    pub security: security::Options,
    /// Whether the process may gain privileges is switched off.
    pub no_new_privs: bool,
    /// Network.
    pub network: modes::NetworkMode,
    /// IPC.
    pub ipc: modes::Ipc,
    /// Process ids.
    pub pid: modes::Mode,
    /// Host name.
    pub uts: modes::Mode,
    /// The cgroup namespace is the host's.
    pub host_cgroupns: bool,
    /// Hidden paths.
    pub masked: Vec<String>,
    /// Read-only paths.
    pub readonly: Vec<String>,
    /// Kernel parameters.
    pub sysctls: Vec<(String, String)>,
    /// `--device-cgroup-rule`.
    pub device_rules: Vec<DeviceRule>,
    /// Ports to publish.
    pub ports: Vec<ports::Binding>,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// Name resolution as asked for.
    pub resolver: files::Resolver,
    /// Run with an init.
    pub init: bool,
    /// Everything is allowed.
    pub privileged: bool,
    /// Bytes of /dev/shm.
    pub shm_size: i64,
    /// Warnings for the answer to create.
    pub warnings: Vec<String>,
}

/// Checks a merged configuration and works out what follows from it.
pub fn blueprint(config: &ContainerConfig, host: &HostConfig, facts: &Facts) -> Result<Blueprint> {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let list = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
    let privileged = host.privileged == Some(true);
    let limits = Limits::from(host);
    let mut warnings = limits::check(&limits, facts, false)?;
    let mut security = security::options(&list(&host.security_opt))?;
    if security.seccomp == Seccomp::Default {
        security.seccomp = facts.seccomp.clone();
    }
    let mut network = modes::network(&text(&host.network_mode))?;
    if config.network_disabled == Some(true) && matches!(network, modes::NetworkMode::Network(_)) {
        network = modes::NetworkMode::None;
    }
    let ipc = modes::ipc(&text(&host.ipc_mode))?;
    let pid = modes::pid(&text(&host.pid_mode))?;
    let uts = modes::uts(&text(&host.uts_mode))?;
    super::userns::mode(&text(&host.userns_mode))?;
    check_conflicts(config, host, &network, &uts)?;
    check_rest(host, facts)?;
    let files = host.ulimits.iter().flatten().find(|u| u.name.as_deref() == Some("nofile"));
    if let Some(hard) = files.and_then(|u| u.hard).filter(|_| facts.most_files > 0)
        && u64::try_from(hard).map_or(true, |hard| hard > facts.most_files)
    {
        warnings.push(format!(
            "This machine does not allow more than {} open files (no CAP_SYS_RESOURCE). The limit is lowered to that.",
            facts.most_files
        ));
    }
    let own_net = !matches!(network, modes::NetworkMode::Host | modes::NetworkMode::Container(_));
    let own_ipc = matches!(ipc, modes::Ipc::Private { .. } | modes::Ipc::None);
    let mut sysctls: Vec<(String, String)> =
        host.sysctls.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    sysctls.sort();
    for (key, value) in &sysctls {
        security::sysctl(key, value, own_ipc, own_net, uts == modes::Mode::Private)?;
    }
    if own_net && network != modes::NetworkMode::None {
        // Docker's own defaults: unprivileged ping and low ports.
        for (key, value) in
            [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")]
        {
            if !sysctls.iter().any(|(k, _)| k == key) {
                sysctls.push((key.to_owned(), value.to_owned()));
            }
        }
    }
    let unconfined = privileged || security.unconfined_paths;
    let paths = |own: &Option<Vec<String>>, default: &[&str]| match own {
        _ if unconfined => Vec::new(),
        Some(own) => own.clone(),
        None => default.iter().map(|s| (*s).to_owned()).collect(),
    };
    let exposed = list(&config.exposed_ports);
    for port in &exposed {
        ports::expose(port)?;
    }
    let ports = ports::wanted(host, &exposed)?;
    if !ports.is_empty() && matches!(network, modes::NetworkMode::Host | modes::NetworkMode::None) {
        let mode = if network == modes::NetworkMode::Host { "host" } else { "none" };
        if mode == "host" {
            warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
    }
    let resolver = files::Resolver {
        servers: list(&host.dns),
        search: list(&host.dns_search),
        options: list(&host.dns_options),
    };
    for server in &resolver.servers {
        files::check_dns(server)?;
    }
    files::check_words(&resolver.search, "DNS search domain")?;
    files::check_words(&resolver.options, "DNS option")?;
    let mut extra_hosts = Vec::new();
    for entry in host.extra_hosts.iter().flatten() {
        let (name, address) = files::extra_host(entry)?;
        extra_hosts.push((name.to_owned(), address.to_owned()));
    }
    let shm_size = host.shm_size.filter(|s| *s != 0).unwrap_or(shm_default(facts));
    if shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    Ok(Blueprint {
        args: config::command(config),
        capabilities: caps::bounding(&list(&host.cap_add), &list(&host.cap_drop), privileged)?,
        rlimits: limits::rlimits(&limits::ulimits(
            host.ulimits.as_deref().unwrap_or_default(),
            &facts.ulimits,
        ))?,
        no_new_privs: security.no_new_privileges.unwrap_or(facts.no_new_privileges),
        host_cgroupns: host.cgroupns_mode == Some(crate::models::HostConfigCgroupnsModeEnum::HOST),
        masked: paths(&host.masked_paths, security::MASKED),
        readonly: paths(&host.readonly_paths, security::READONLY),
        device_rules: host
            .device_cgroup_rules
            .iter()
            .flatten()
            .map(|r| security::rule(r))
            .collect::<Result<_>>()?,
        init: host.init.unwrap_or(facts.init),
        limits,
        security,
        network,
        ipc,
        pid,
        uts,
        sysctls,
        ports,
        extra_hosts,
        resolver,
        privileged,
        shm_size,
        warnings,
    })
}

fn check_conflicts(
    config: &ContainerConfig,
    host: &HostConfig,
    network: &modes::NetworkMode,
    uts: &modes::Mode,
) -> Result<()> {
    let some = |l: &Option<Vec<String>>| l.as_ref().is_some_and(|l| !l.is_empty());
    let invalid = |text: &str| Err(Error::invalid(text));
    let hostname = config.hostname.as_deref().is_some_and(|h| !h.is_empty());
    if matches!(network, modes::NetworkMode::Container(_)) {
        if hostname {
            return invalid("conflicting options: hostname and the network mode");
        }
        if some(&host.links) {
            return invalid(
                "conflicting options: container type network can't be used with links. This would result in \
                 undefined behavior",
            );
        }
        if some(&host.dns) {
            return invalid("conflicting options: dns and the network mode");
        }
        if some(&host.extra_hosts) {
            return invalid("conflicting options: custom host-to-IP mapping and the network mode");
        }
        if host.port_bindings.as_ref().is_some_and(|p| !p.is_empty()) || host.publish_all_ports == Some(true)
        {
            return invalid("conflicting options: port publishing and the container type network mode");
        }
        if some(&config.exposed_ports) {
            return invalid("conflicting options: port exposing and the container type network mode");
        }
    }
    if *network == modes::NetworkMode::Host && some(&host.links) {
        return invalid(
            "conflicting options: host type networking can't be used with links. This would result in undefined \
             behavior",
        );
    }
    if *uts == modes::Mode::Host && hostname {
        return invalid("conflicting options: hostname and the UTS mode");
    }
    Ok(())
}

fn check_rest(host: &HostConfig, facts: &Facts) -> Result<()> {
    use crate::models::RestartPolicyNameEnum as Name;
    if let Some(adj) = host.oom_score_adj
        && !(-1000..=1000).contains(&adj)
    {
        return Err(Error::invalid(format!("Invalid value {adj}, range for oom score adj is [-1000, 1000]")));
    }
    if let Some(policy) = &host.restart_policy {
        let count = policy.maximum_retry_count.unwrap_or(0);
        let name = policy.name.unwrap_or(Name::EMPTY);
        if name == Name::ON_FAILURE {
            if count < 0 {
                return Err(Error::invalid("invalid restart policy: maximum retry count cannot be negative"));
            }
        } else if count != 0 && name != Name::EMPTY {
            let more = if count < 0 { " and cannot be negative" } else { "" };
            return Err(Error::invalid(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'{more}"
            )));
        }
        if host.auto_remove == Some(true) && !matches!(name, Name::EMPTY | Name::NO) {
            return Err(Error::invalid("can't create 'AutoRemove' container with restart policy"));
        }
    }
    if host.isolation.is_some_and(|i| {
        !matches!(
            i,
            crate::models::HostConfigIsolationEnum::EMPTY | crate::models::HostConfigIsolationEnum::DEFAULT
        )
    }) {
        return Err(Error::invalid("invalid isolation: only 'default' is supported on linux"));
    }
    for (value, what) in
        [(host.io_maximum_bandwidth, "maximum bandwidth"), (host.io_maximum_iops, "maximum IOPs")]
    {
        if value.is_some_and(|v| v != 0) {
            return Err(Error::invalid(format!(
                "invalid option: QoS {what} configuration is not supported on linux"
            )));
        }
    }
    if host.annotations.as_ref().is_some_and(|notes| notes.contains_key("")) {
        return Err(Error::invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    check_block_limits(host)?;
    for request in host.device_requests.iter().flatten() {
        let driver = request.driver.as_deref().unwrap_or("");
        if driver != "cdi" || !facts.cdi {
            let capabilities = request.capabilities.clone().unwrap_or_default();
            let words: Vec<String> = capabilities.iter().map(|all| format!("[{}]", all.join(" "))).collect();
            return Err(Error::invalid(format!(
                "could not select device driver {driver:?} with capabilities: [{}]",
                words.join(" ")
            )));
        }
    }
    for path in host.masked_paths.iter().chain(&host.readonly_paths).flatten() {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(Error::invalid(format!(
                "invalid masked or read-only path {path:?}: it must be absolute"
            )));
        }
    }
    for device in host.devices.iter().flatten() {
        security::device_access(device.cgroup_permissions.as_deref().unwrap_or(""))?;
        for path in [&device.path_on_host, &device.path_in_container] {
            if path.as_deref().is_some_and(|p| p.contains('\0') || p.split('/').any(|s| s == "..")) {
                return Err(Error::invalid("invalid device path: it must not contain '..'"));
            }
        }
    }
    super::cgroup::check(facts, host.cgroup_parent.as_deref().unwrap_or(""))
}

/// Weights and rates of single block devices; whether the devices are there is the start's question.
fn check_block_limits(host: &HostConfig) -> Result<()> {
    for weight in host.blkio_weight_device.iter().flatten() {
        if !weight.weight.is_some_and(|w| (10..=1000).contains(&w)) {
            return Err(Error::invalid(format!(
                "invalid weight for device {}: it goes from 10 to 1000",
                weight.path.as_deref().unwrap_or("")
            )));
        }
    }
    let lists = [
        &host.blkio_device_read_bps,
        &host.blkio_device_write_bps,
        &host.blkio_device_read_iops,
        &host.blkio_device_write_iops,
    ];
    for limit in lists.into_iter().flatten().flatten() {
        if limit.rate.is_none_or(|rate| rate < 0) {
            return Err(Error::invalid(format!(
                "invalid rate for device {}: it must be 0 or more",
                limit.path.as_deref().unwrap_or("")
            )));
        }
    }
    Ok(())
}

/// The engine's own runtime, under the name that clients expect to be there.
pub const NATIVE: &str = "runc";

/// Names of the engine's own runtime.
pub fn is_native(name: &str) -> bool {
    matches!(name, "" | "wharf" | NATIVE | "io.containerd.runc.v2")
}

/// Refuses a runtime that is not configured. Asked at create alone: a container outlives its runtime's configuration.
pub fn check_runtime(host: &HostConfig, facts: &Facts) -> Result<()> {
    match host.runtime.as_deref().unwrap_or("") {
        name if is_native(name) || facts.runtimes.contains(name) => Ok(()),
        // Whether its program is there is seen at the start, as with Docker.
        other if crate::shims::is_shim(other) => Ok(()),
        other => Err(crate::runtimes::unknown(other)),
    }
}

fn shm_default(facts: &Facts) -> i64 {
    if facts.shm_size > 0 { facts.shm_size } else { 64 << 20 }
}

/// Fills in what Docker's `inspect` shows for settings that were not given.
pub fn defaults(host: &mut HostConfig, facts: &Facts) -> Result<()> {
    use crate::models::{
        HostConfigCgroupnsModeEnum, HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum,
    };
    let text = |t: &mut Option<String>, default: &str| {
        if t.as_deref().unwrap_or("").is_empty() {
            *t = Some(default.to_owned());
        }
    };
    if matches!(host.network_mode.as_deref(), None | Some("" | "default")) {
        host.network_mode = Some("bridge".into());
    }
    let or = |own: &str, usual: &str| if own.is_empty() { usual.to_owned() } else { own.to_owned() };
    text(&mut host.ipc_mode, &or(&facts.ipc_mode, "private"));
    text(&mut host.runtime, &or(&facts.default_runtime, NATIVE));
    if host.cgroupns_mode.is_none_or(|m| m == HostConfigCgroupnsModeEnum::EMPTY) {
        let host_mode = match facts.cgroupns_mode.as_str() {
            "host" => true,
            "private" => false,
            _ => host.privileged == Some(true) && facts.cgroup_version == 1,
        };
        host.cgroupns_mode = Some(if host_mode {
            HostConfigCgroupnsModeEnum::HOST
        } else {
            HostConfigCgroupnsModeEnum::PRIVATE
        });
    }
    let log = host.log_config.get_or_insert_with(HostConfigLogConfig::default);
    if log.typ.as_deref().unwrap_or("").is_empty() {
        log.typ = Some(facts.log_driver.clone());
        let options = log.config.get_or_insert_default();
        for (key, value) in &facts.log_options {
            options.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    log.config.get_or_insert_default();
    if host.restart_policy.as_ref().is_none_or(|p| p.name.is_none_or(|n| n == RestartPolicyNameEnum::EMPTY)) {
        host.restart_policy =
            Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: Some(0) });
    }
    if host.shm_size.unwrap_or(0) == 0 {
        host.shm_size = Some(shm_default(facts));
    }
    if host.console_size.is_none() {
        host.console_size = Some(vec![0, 0]);
    }
    let unconfined = host.privileged == Some(true)
        || host
            .security_opt
            .iter()
            .flatten()
            .any(|o| o == "systempaths=unconfined" || o == "systempaths:unconfined");
    let own = |list: &[&str]| {
        if unconfined { Vec::new() } else { list.iter().map(|s| (*s).to_owned()).collect() }
    };
    host.masked_paths.get_or_insert_with(|| own(security::MASKED));
    host.readonly_paths.get_or_insert_with(|| own(security::READONLY));
    // They stay as they were written: what compares a container with what was asked for (Ansible) expects it so.
    for (names, field) in [(&host.cap_add, "CapAdd"), (&host.cap_drop, "CapDrop")] {
        for name in names.iter().flatten() {
            caps::normalize(name).map_err(|e| e.context(format_args!("invalid {field}")))?;
        }
    }
    if host.memory.unwrap_or(0) > 0 && host.memory_swap.unwrap_or(0) == 0 {
        host.memory_swap = host.memory.and_then(|m| m.checked_mul(2));
    }
    Ok(())
}

/// A device of the host that was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// The node to make.
    pub node: Device,
    /// Access letters for the device cgroup.
    pub access: String,
}

/// What is known only when a container starts.
#[derive(Debug, Default)]
pub struct Start<'a> {
    /// Who.
    pub account: Account,
    /// The root file system.
    pub rootfs: Fd,
    /// Files of the container's own directory: target and tree.
    pub files: Vec<(&'static str, Fd)>,
    /// Trees of the binds and volumes, in the order of the specification's mounts; None for tmpfs.
    pub trees: Vec<Option<Fd>>,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Tree for /dev/shm when IPC is shared.
    pub shm: Option<Fd>,
    /// Devices from the host.
    pub devices: Vec<HostDevice>,
    /// Seccomp programs.
    pub seccomp: Vec<Vec<u8>>,
    /// `AppArmor` profile.
    pub apparmor: Option<String>,
    /// Standard streams.
    pub stdio: [Option<Fd>; 3],
    /// Size of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// Below each hierarchy's root.
    pub cgroup_path: String,
    /// What the keeper holds.
    pub hold: Vec<(String, Fd)>,
    /// Host name.
    pub hostname: &'a str,
    /// User namespace.
    pub user: Option<UserNamespace>,
}

fn virtual_mount(target: &str, fstype: &str, options: &[&str], read_only: bool, no_exec: bool) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::New {
            fstype: fstype.to_owned(),
            options: options.iter().map(|s| (*s).to_owned()).collect(),
        },
        file: false,
        read_only,
        no_suid: true,
        no_dev: !matches!(target, "/dev" | "/dev/pts"),
        no_exec,
        propagation: String::new(),
    }
}

/// A mount of a tree that was made.
pub(crate) fn tree_mount(target: &str, fd: Fd, file: bool, read_only: bool, propagation: &str) -> Mount {
    Mount {
        target: target.to_owned(),
        source: MountSource::Tree(fd),
        file,
        read_only,
        no_suid: false,
        no_dev: false,
        no_exec: false,
        propagation: propagation.to_owned(),
    }
}

/// The mounts of a container in the order in which they are made.
fn mount_list(b: &Blueprint, specs: &[(MountSpec, bool)], start: &Start<'_>) -> Vec<Mount> {
    let covered = |path: &str| specs.iter().any(|(s, _)| s.destination == path);
    let mut list = Vec::with_capacity(8 + specs.len());
    let mut system = |mount: Mount| {
        if !covered(&mount.target) {
            list.push(mount);
        }
    };
    system(virtual_mount("/proc", "proc", &[], false, true));
    system(virtual_mount("/dev", "tmpfs", &["mode=755", "size=65536k"], false, false));
    system(virtual_mount(
        "/dev/pts",
        "devpts",
        &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        false,
        true,
    ));
    system(virtual_mount("/sys", "sysfs", &[], !b.privileged, true));
    let fixed_cgroups = !(b.privileged || b.security.writable_cgroups);
    system(virtual_mount("/sys/fs/cgroup", "cgroup", &[], fixed_cgroups, true));
    match &b.ipc {
        modes::Ipc::Private { .. } | modes::Ipc::None => {
            system(virtual_mount("/dev/mqueue", "mqueue", &[], false, true));
        }
        modes::Ipc::Host | modes::Ipc::Container(_) => {}
    }
    match (&b.ipc, start.shm) {
        // Without IPC there is no /dev/shm, and a joined one has none of its own.
        (modes::Ipc::None, _) | (modes::Ipc::Host | modes::Ipc::Container(_), None) => {}
        (_, Some(fd)) => {
            let mut mount = tree_mount("/dev/shm", fd, false, false, "");
            (mount.no_suid, mount.no_dev, mount.no_exec) = (true, true, true);
            system(mount);
        }
        (modes::Ipc::Private { .. }, None) => {
            let size = format!("size={}", b.shm_size);
            system(virtual_mount("/dev/shm", "tmpfs", &["mode=1777", &size], false, true));
        }
    }
    for (target, fd) in &start.files {
        if !covered(target) {
            list.push(tree_mount(target, *fd, true, false, "rprivate"));
        }
    }
    for ((spec, is_file), tree) in specs.iter().zip(&start.trees) {
        match (spec.kind, tree) {
            (Kind::Tmpfs, _) => {
                let (options, no_suid, no_dev, no_exec) = mounts::tmpfs_flags(spec);
                list.push(Mount {
                    target: spec.destination.clone(),
                    source: MountSource::New { fstype: "tmpfs".into(), options },
                    file: false,
                    read_only: spec.read_only,
                    no_suid,
                    no_dev,
                    no_exec,
                    propagation: String::new(),
                });
            }
            (_, Some(fd)) => {
                list.push(tree_mount(&spec.destination, *fd, *is_file, spec.read_only, &spec.propagation));
            }
            (_, None) => {}
        }
    }
    list
}

/// Limits and device rules of a container's cgroup.
pub fn resources(b: &Blueprint, facts: &Facts, devices: &[HostDevice]) -> wharf_plan::run::Resources {
    let rules = if b.privileged {
        Vec::new()
    } else {
        let mut rules = security::base_rules();
        rules.extend(devices.iter().map(|d| DeviceRule {
            allow: true,
            kind: d.node.kind,
            major: Some(d.node.major),
            minor: Some(d.node.minor),
            access: d.access.clone(),
        }));
        rules.extend(b.device_rules.iter().cloned());
        rules
    };
    limits::resources(&b.limits, facts, rules)
}

fn capabilities(bounding: u64) -> Capabilities {
    Capabilities { bounding, effective: bounding, permitted: bounding, inheritable: 0, ambient: 0 }
}

/// Puts everything together. `specs` says for each mount whether its source is a file.
pub fn plan(
    id: &str,
    config: &ContainerConfig,
    host: &HostConfig,
    b: &Blueprint,
    facts: &Facts,
    specs: &[(MountSpec, bool)],
    start: Start<'_>,
) -> RunPlan {
    let tty = config.tty == Some(true);
    let mut devices = wharf_plan::run::base_devices();
    devices.extend(start.devices.iter().map(|d| d.node.clone()));
    let own_uts = start.namespaces.uts == Namespace::New;
    RunPlan {
        id: id.to_owned(),
        process: Process {
            program: None,
            args: b.args.clone(),
            env: config::process_env(config, start.hostname, &start.account.home),
            cwd: config.working_dir.clone().filter(|d| !d.is_empty()).unwrap_or_else(|| "/".into()),
            user: start.account.user.clone(),
            capabilities: capabilities(b.capabilities),
            no_new_privs: b.no_new_privs,
            seccomp: start.seccomp.clone(),
            apparmor: start.apparmor.clone(),
            rlimits: b.rlimits.clone(),
            oom_score_adj: Some(host.oom_score_adj.and_then(|v| i32::try_from(v).ok()).unwrap_or(0)),
            tty,
            console_size: start.console_size,
            stdio: start.stdio,
            gate: None,
            more_fds: Vec::new(),
            umask: None,
            tuning: None,
            listener: false,
        },
        rootfs: start.rootfs,
        rootfs_read_only: host.readonly_rootfs == Some(true),
        rootfs_propagation: "rprivate".into(),
        namespaces: start.namespaces,
        user: start.user.clone(),
        time: TimeNamespace::Host,
        pause: None,
        hostname: own_uts.then(|| start.hostname.to_owned()),
        domainname: config.domainname.clone().filter(|d| own_uts && !d.is_empty()),
        mounts: mount_list(b, specs, &start),
        devices,
        links: [
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
            ("/dev/ptmx", "pts/ptmx"),
            ("/dev/core", "/proc/kcore"),
        ]
        .into_iter()
        .map(|(link, target)| (link.to_owned(), target.to_owned()))
        .collect(),
        masked_paths: b.masked.clone(),
        readonly_paths: b.readonly.clone(),
        sysctls: sysctls(b, host, start.user.as_ref()),
        cgroup: Some(Cgroup {
            path: start.cgroup_path.clone(),
            resources: resources(b, facts, &start.devices),
        }),
        init: b.init,
        init_tree: None,
        hold: start.hold,
        foreign: None,
        restore: None,
    }
}

/// The parameters to set. All groups of a user namespace are as many as it has: that is what "everybody may ping" means there.
fn sysctls(b: &Blueprint, host: &HostConfig, user: Option<&UserNamespace>) -> Vec<(String, String)> {
    const PING: &str = "net.ipv4.ping_group_range";
    let mut all = b.sysctls.clone();
    if let Some(user) = user
        && !host.sysctls.as_ref().is_some_and(|own| own.contains_key(PING))
        && let Some((_, value)) = all.iter_mut().find(|(key, _)| key == PING)
    {
        let first = user.ids.gids.iter().find(|m| m.inside == 0).map_or(1, |m| m.size);
        *value = format!("0 {}", first.saturating_sub(1));
    }
    all
}

/// Whether seccomp rules apply, and which.
pub fn seccomp(b: &Blueprint) -> &Seccomp {
    static NONE: Seccomp = Seccomp::Unconfined;
    if b.privileged { &NONE } else { &b.security.seccomp }
}

/// What an exec needs besides its own configuration.
#[derive(Debug)]
pub struct ExecStart {
    /// Id of the exec.
    pub id: String,
    /// Container.
    pub container: String,
    /// Who.
    pub account: Account,
    /// Seccomp programs of the container.
    pub seccomp: Vec<Vec<u8>>,
    /// `AppArmor` profile of the container.
    pub apparmor: Option<String>,
    /// Standard streams.
    pub stdio: [Option<Fd>; 3],
    /// Size of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// Host name inside.
    pub hostname: String,
    /// Ranges of the container's user namespace.
    pub ids: Option<Ids>,
}

/// A further process in a running container.
pub fn exec_plan(
    exec: &ExecConfig,
    config: &ContainerConfig,
    host: &HostConfig,
    b: &Blueprint,
    start: ExecStart,
) -> ExecPlan {
    let privileged = exec.privileged == Some(true);
    let env = ContainerConfig {
        env: Some(config::merge_env(
            config.env.as_deref().unwrap_or_default(),
            exec.env.as_deref().unwrap_or_default(),
        )),
        tty: exec.tty,
        ..ContainerConfig::default()
    };
    let pick = |own: &Option<String>, other: &Option<String>| {
        own.clone().filter(|d| !d.is_empty()).or_else(|| other.clone().filter(|d| !d.is_empty()))
    };
    ExecPlan {
        id: start.id,
        container: start.container,
        ids: start.ids,
        process: Process {
            program: None,
            args: exec.cmd.clone().unwrap_or_default(),
            env: config::process_env(&env, &start.hostname, &start.account.home),
            cwd: pick(&exec.working_dir, &config.working_dir).unwrap_or_else(|| "/".into()),
            user: start.account.user,
            capabilities: capabilities(if privileged { caps::all() } else { b.capabilities }),
            no_new_privs: b.no_new_privs,
            seccomp: if privileged { Vec::new() } else { start.seccomp },
            // Also of a privileged exec: with Docker the profile is the container's own.
            apparmor: start.apparmor,
            rlimits: b.rlimits.clone(),
            oom_score_adj: Some(host.oom_score_adj.and_then(|v| i32::try_from(v).ok()).unwrap_or(0)),
            tty: exec.tty == Some(true),
            console_size: start.console_size,
            stdio: start.stdio,
            gate: None,
            more_fds: Vec::new(),
            umask: None,
            tuning: None,
            listener: false,
        },
        hold: Vec::new(),
        foreign: None,
    }
}

#[cfg(test)]
mod tests;
