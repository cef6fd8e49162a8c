//! What the types of a configuration do not say, in dockerd's words where it has some.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use wharf_engine::Packing;

use super::config::{Config, Stop};
use super::values;

/// Refuses what cannot be carried out.
pub(crate) fn all(config: &Config) -> Result<(), Stop> {
    for part in [daemon, network, containers, registries] {
        part(config).map_err(Stop::Usage)?;
    }
    runtimes(config).map(drop).map_err(Stop::Usage)
}

fn daemon(config: &Config) -> Result<(), String> {
    if !["debug", "info", "warn", "error", "fatal", "panic", "trace"].contains(&config.log_level.as_str()) {
        return Err(format!("invalid logging level: {}", config.log_level));
    }
    if !["text", "json"].contains(&config.log_format.as_str()) {
        return Err(format!("invalid log format: {}", config.log_format));
    }
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for label in &config.labels {
        let (key, value) = label
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("bad attribute format: {label}: a label is key=value"))?;
        if let Some(other) = seen.insert(key, value)
            && other != value
        {
            return Err(format!("conflict labels for {key}={other} and {key}={value}"));
        }
    }
    for option in &config.storage_opts {
        if !option.contains('=') {
            return Err(format!("unable to parse storage-opt {option:?}: key=value is needed"));
        }
    }
    for (name, path) in [("data-root", &config.data_root), ("exec-root", &config.exec_root)] {
        if !path.is_absolute() {
            return Err(format!("--{name} must be an absolute path, not {:?}", path.display()));
        }
    }
    if config.shutdown_timeout < -1 {
        return Err(format!("invalid shutdown timeout: {}", config.shutdown_timeout));
    }
    for (name, value) in [("cpu-rt-period", config.cpu_rt_period), ("cpu-rt-runtime", config.cpu_rt_runtime)]
    {
        if value < 0 {
            return Err(format!("invalid --{name}: {value}: microseconds are needed"));
        }
    }
    if !(-1000..=1000).contains(&config.oom_score_adjust) {
        return Err(format!("invalid --oom-score-adjust: {}", config.oom_score_adjust));
    }
    if let Some(text) = config.metrics_addr.as_deref().filter(|t| !t.is_empty()) {
        let address: SocketAddr = text.parse().map_err(|_| {
            format!("invalid metrics address {text:?}: an IP address and a port are needed, 127.0.0.1:9323")
        })?;
        if !address.ip().is_loopback() && !config.allow_insecure_tcp {
            return Err(format!(
                "refusing to serve metrics on {text}: everyone who can reach it could read them. Use 127.0.0.1, or \
                 say --allow-insecure-tcp if the network is trusted"
            ));
        }
    }
    Ok(())
}

fn network(config: &Config) -> Result<(), String> {
    for server in config.dns.iter().chain(&config.host_gateway_ips) {
        if server.parse::<IpAddr>().is_err() {
            return Err(format!("{server} is not an ip address"));
        }
    }
    if !(0..=65_535).contains(&config.mtu) {
        return Err(format!("invalid default MTU: {}", config.mtu));
    }
    if config.bridge.as_deref() == Some("none") {
        return Err("--bridge none is not supported: the default network is always there".into());
    }
    if config.bridge.as_deref().is_some_and(|b| !b.is_empty()) && config.bip.is_some() {
        return Err("You specified -b & --bip, mutually exclusive options. Please specify only one".into());
    }
    for text in [&config.bip, &config.fixed_cidr, &config.fixed_cidr_v6].into_iter().flatten() {
        values::cidr(text)?;
    }
    for text in [&config.default_gateway, &config.default_gateway_v6, &Some(config.ip.clone())] {
        if let Some(text) = text.as_deref().filter(|t| !t.is_empty())
            && text.parse::<IpAddr>().is_err()
        {
            return Err(format!("{text} is not an ip address"));
        }
    }
    config.default_address_pools.iter().try_for_each(|pool| values::check_pool(&pool.base, pool.size))
}

fn containers(config: &Config) -> Result<(), String> {
    for option in &config.exec_opts {
        match option.split_once('=') {
            Some(("native.cgroupdriver", "cgroupfs" | "systemd")) => {}
            Some(("native.cgroupdriver", other)) => {
                return Err(format!(
                    "exec-opt native.cgroupdriver={other} is not supported: cgroupfs and systemd are"
                ));
            }
            _ => return Err(format!("invalid exec-opt {option:?}")),
        }
    }
    for (name, limit) in &config.default_ulimits {
        let own = if limit.name.is_empty() { name } else { &limit.name };
        values::check_ulimit(own, limit.soft, limit.hard)?;
    }
    values::size(&config.default_shm_size)?;
    if !["private", "shareable"].contains(&config.default_ipc_mode.as_str()) {
        return Err(format!("ipc mode {:?} is not supported as default value", config.default_ipc_mode));
    }
    if !["", "private", "host"].contains(&config.default_cgroupns_mode.as_str()) {
        return Err(format!("cgroup mode {:?} is not supported", config.default_cgroupns_mode));
    }
    if !matches!(config.seccomp_profile.as_str(), "" | "builtin" | "unconfined") {
        super::settings::seccomp(&config.seccomp_profile)?;
    }
    for name in config.features.keys() {
        if !["cdi", "containerd-snapshotter", "buildkit", "windows-dns-proxy"].contains(&name.as_str()) {
            tracing::debug!(name, "unknown feature");
        }
    }
    Ok(())
}

/// Other runtimes, as the engine takes them.
pub(crate) fn runtimes(
    config: &Config,
) -> Result<BTreeMap<String, wharf_engine::settings::RuntimeSettings>, String> {
    let mut all = BTreeMap::new();
    for (name, runtime) in &config.runtimes {
        // It becomes the name of a directory.
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.starts_with('.') || name.len() > 64 || !name.chars().all(good) {
            return Err(format!("invalid runtime name: {name}"));
        }
        if wharf_engine::planner::run::is_native(name) {
            return Err(format!("runtime name '{name}' is reserved"));
        }
        let (path, typ) = (runtime.path.as_str(), runtime.kind.as_str());
        let shim = match (path, typ) {
            ("", "") => {
                return Err(format!("runtime {name}: either a runtimeType or a path must be configured"));
            }
            (_, "") if runtime.options.is_empty() => None,
            (_, "") => return Err(format!("runtime {name}: options cannot be used with a path runtime")),
            ("", _) if !runtime.args.is_empty() => {
                return Err(format!("runtime {name}: args cannot be used with a runtimeType runtime"));
            }
            ("", typ) if typ.starts_with('/') || wharf_shim::program_name(typ).is_some() => Some(
                wharf_shim::options(typ, &runtime.options).map_err(|why| format!("runtime {name}: {why}"))?,
            ),
            ("", typ) => return Err(format!("runtime {name}: invalid runtime type: {typ}")),
            _ => {
                return Err(format!(
                    "runtime {name}: cannot configure both path and runtimeType for the same runtime"
                ));
            }
        };
        let settings = match shim {
            Some(options) => {
                let shim = wharf_engine::settings::ShimSettings { kind: typ.to_owned(), options };
                // The one shim that can be done without: what it calls is called here as well.
                let binary = runtime.options.get("BinaryName").and_then(serde_json::Value::as_str);
                let path = binary.filter(|_| typ == "io.containerd.runc.v2").map(program_path).transpose();
                let path = path.map_err(|why| format!("runtime {name}: {why}"))?.unwrap_or_default();
                wharf_engine::settings::RuntimeSettings { path, arguments: Vec::new(), shim: Some(shim) }
            }
            None => {
                let path = program_path(path).map_err(|why| format!("runtime {name}: {why}"))?;
                let arguments = runtime.args.clone();
                wharf_engine::settings::RuntimeSettings { path, arguments, shim: None }
            }
        };
        all.insert(name.clone(), settings);
    }
    let default = config.default_runtime.as_str();
    if !wharf_engine::planner::run::is_native(default) && !all.contains_key(default) {
        return Err(format!("specified default runtime '{default}' does not exist"));
    }
    Ok(all)
}

/// A program by its absolute path, or by a name that is looked for once, now.
fn program_path(program: &str) -> Result<String, String> {
    if program.starts_with('/') {
        return Ok(program.to_owned());
    }
    if program.contains('/') {
        return Err(format!("{program:?} is not an absolute path"));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .filter(|dir| dir.starts_with('/'))
        .map(|dir| format!("{}/{program}", dir.trim_end_matches('/')))
        .find(|candidate| std::path::Path::new(candidate).is_file())
        .ok_or_else(|| format!("executable {program:?} not found in $PATH"))
}

fn registries(config: &Config) -> Result<(), String> {
    for (value, what, least) in [
        (config.max_concurrent_downloads, "max concurrent downloads", 0),
        (config.max_concurrent_uploads, "max concurrent uploads", 0),
        (config.max_download_attempts, "max download attempts", 1),
        (config.registry_stall_timeout, "registry stall timeout", 1),
    ] {
        if let Some(value) = value.filter(|v| *v < least) {
            return Err(format!("invalid {what}: {value}"));
        }
    }
    Packing::parse(&config.registry_push_compression, config.registry_push_compression_level)?;
    for mirror in &config.registry_mirrors {
        let rest = mirror.strip_prefix("https://").or_else(|| mirror.strip_prefix("http://"));
        let Some(rest) = rest.map(|r| r.trim_end_matches('/')).filter(|r| !r.is_empty()) else {
            return Err(format!("invalid mirror: {mirror:?} is not a valid URI: use https://name"));
        };
        if rest.contains(['?', '#', '@']) {
            return Err(format!("invalid mirror: query, fragment and user are not allowed in {mirror:?}"));
        }
        if rest.contains('/') {
            return Err(format!("invalid mirror: path is not allowed in {mirror:?}"));
        }
    }
    for registry in &config.insecure_registries {
        if registry.contains("://") {
            return Err(format!("insecure registry {registry} should not contain '://'"));
        }
        if registry.is_empty() || registry.starts_with('-') || registry.ends_with('-') {
            return Err(format!("insecure registry {registry} is not valid: invalid host {registry:?}"));
        }
        if registry.contains('/') {
            values::cidr(registry).map_err(|_| {
                format!("insecure registry {registry} is not valid: invalid host {registry:?}")
            })?;
        }
    }
    Ok(())
}
