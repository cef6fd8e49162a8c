//! From the daemon's configuration to the engine's settings.

use std::path::{Path, PathBuf};

use serde_json::json;
use wharf_engine::models::ResourcesUlimits;
use wharf_engine::planner::security::Seccomp;
use wharf_engine::settings::RegistrySettings;
use wharf_engine::{Packing, Settings};

use super::config::Config;
use super::{subids, values};

/// A seccomp profile of more bytes than this is none.
const PROFILE_LIMIT: u64 = 1 << 20;

/// Everything that the engine is told. Reads files that the configuration names.
pub(crate) fn settings(config: &Config) -> Result<Settings, String> {
    let mut settings = Settings::new(&config.data_root, &config.exec_root);
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (text.clone(), String::new()),
    };
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    settings.storage_driver.clone_from(&config.storage_driver);
    settings.storage_options = config.storage_opts.iter().map(pair).collect();
    settings.log_driver.clone_from(&config.log_driver);
    settings.log_options.clone_from(&config.log_opts);
    settings.labels.clone_from(&config.labels);
    settings.plugin_dirs = plugin_dirs(config);
    settings.plugin_config = config.plugins.iter().map(|(name, v)| (name.clone(), v.to_string())).collect();
    if !config.default_address_pools.is_empty() {
        let pools = json!({"default-address-pools": config.default_address_pools}).to_string();
        if settings.plugin_config.insert("ipam-pool".into(), pools).is_some() {
            return Err(
                "the plugin ipam-pool is configured under \"plugins\" and by default-address-pools: say it \
                        once"
                    .into(),
            );
        }
    }
    if let Ok(program) = std::env::current_exe() {
        settings.compiler = program.with_file_name("wharf-compile");
        settings.program = program;
    }
    settings.debug = config.debug;
    settings.cgroup_parent.clone_from(&config.cgroup_parent);
    settings.systemd_cgroups = config.exec_opts.iter().any(|o| o == "native.cgroupdriver=systemd");
    settings.live_restore = config.live_restore;
    if !config.criu.is_empty() {
        if !config.criu.starts_with('/') {
            return Err(format!("criu: {:?} is not an absolute path", config.criu));
        }
        settings.criu.clone_from(&config.criu);
    }
    settings.dns.clone_from(&config.dns);
    settings.dns_search.clone_from(&config.dns_search);
    settings.dns_options.clone_from(&config.dns_opts);
    settings.host_gateways.clone_from(&config.host_gateway_ips);
    settings.bridge_address = given(&config.bip);
    settings.bridge_name = given(&config.bridge);
    settings.bridge_range = given(&config.fixed_cidr);
    settings.bridge_range_v6 = given(&config.fixed_cidr_v6);
    settings.bridge_gateway = given(&config.default_gateway);
    settings.bridge_gateway_v6 = given(&config.default_gateway_v6);
    settings.bridge_ipv6 = config.ipv6;
    settings.icc = config.icc;
    settings.userland_proxy = config.userland_proxy;
    settings.masquerade = config.ip_masq;
    settings.publish_address.clone_from(&config.ip);
    settings.network_options.clone_from(&config.default_network_opts);
    settings.mtu = u32::try_from(config.mtu).unwrap_or(0);
    // -1 is forever, which a year is for a daemon that ends.
    settings.shutdown_timeout = u64::try_from(config.shutdown_timeout).unwrap_or(365 * 24 * 3600);
    settings.cpu_rt_period = config.cpu_rt_period;
    settings.cpu_rt_runtime = config.cpu_rt_runtime;
    settings.init = config.init;
    settings.no_new_privileges = config.no_new_privileges;
    settings.ulimits = config
        .default_ulimits
        .iter()
        .map(|(name, limit)| ResourcesUlimits {
            name: Some(if limit.name.is_empty() { name.clone() } else { limit.name.clone() }),
            soft: Some(limit.soft),
            hard: Some(limit.hard),
        })
        .collect();
    settings.shm_size = values::size(&config.default_shm_size)?;
    settings.ipc_mode.clone_from(&config.default_ipc_mode);
    settings.cgroupns_mode.clone_from(&config.default_cgroupns_mode);
    settings.seccomp = seccomp(&config.seccomp_profile)?;
    settings.seccomp_name = match config.seccomp_profile.as_str() {
        "" => "builtin".to_owned(),
        other => other.to_owned(),
    };
    (settings.remap, settings.own_ids) = subids::remap(&config.userns_remap, Path::new("/etc"))?;
    settings.cdi = config.features.get("cdi").copied().unwrap_or(true);
    settings.cdi_dirs.clone_from(&config.cdi_spec_dirs);
    settings.registry = registry(config);
    settings.image_gc = config.image_gc.settings()?;
    settings.experimental = config.experimental;
    settings.runtimes = super::check::runtimes(config)?;
    settings.default_runtime = match config.default_runtime.as_str() {
        name if wharf_engine::planner::run::is_native(name) => wharf_engine::planner::run::NATIVE.into(),
        name => name.to_owned(),
    };
    if let Some(config) = credentials() {
        settings.plugin_config.entry("registry-environment".into()).or_insert(config);
    }
    Ok(settings)
}

fn registry(config: &Config) -> RegistrySettings {
    let usual = RegistrySettings::default();
    let count = |value: Option<i64>, usual: usize| match value {
        // 0 is "as many as there are".
        Some(0) => usize::MAX,
        Some(n) => usize::try_from(n).unwrap_or(usual),
        None => usual,
    };
    let proxy = |own: &String, nested: &String, names: [&str; 2]| {
        [own, nested]
            .into_iter()
            .find(|p| !p.is_empty())
            .cloned()
            .or_else(|| names.iter().find_map(|name| std::env::var(name).ok()))
            .unwrap_or_default()
    };
    RegistrySettings {
        insecure: config.insecure_registries.clone(),
        mirrors: config
            .registry_mirrors
            .iter()
            .map(|mirror| format!("{}/", mirror.trim_end_matches('/')))
            .collect(),
        concurrent_downloads: count(config.max_concurrent_downloads, usual.concurrent_downloads),
        concurrent_uploads: count(config.max_concurrent_uploads, usual.concurrent_uploads),
        // What cannot be parsed was refused before.
        packing: Packing::parse(&config.registry_push_compression, config.registry_push_compression_level)
            .unwrap_or_default(),
        download_attempts: count(config.max_download_attempts, usual.download_attempts),
        http_proxy: proxy(&config.http_proxy, &config.proxies.http_proxy, ["HTTP_PROXY", "http_proxy"]),
        https_proxy: proxy(&config.https_proxy, &config.proxies.https_proxy, ["HTTPS_PROXY", "https_proxy"]),
        no_proxy: proxy(&config.no_proxy, &config.proxies.no_proxy, ["NO_PROXY", "no_proxy"]),
        directories: config
            .registry_config_dirs
            .iter()
            .cloned()
            .chain(["/etc/wharf/certs.d", "/etc/docker/certs.d"].map(PathBuf::from))
            .collect(),
        stall: config.registry_stall_timeout.and_then(|n| u64::try_from(n).ok()).unwrap_or(usual.stall),
    }
}

/// What the plugin `registry-environment` gets to see of the environment.
const VARIABLES: [&str; 4] =
    ["DOCKER_AUTH_CONFIG", "REGISTRY_HOST", "REGISTRY_USERNAME", "REGISTRY_PASSWORD"];

/// Those variables, as that plugin's configuration.
fn credentials() -> Option<String> {
    let variables: serde_json::Map<String, serde_json::Value> = VARIABLES
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?.into())))
        .collect();
    (!variables.is_empty()).then(|| serde_json::json!({"variables": variables}).to_string())
}

/// `builtin`, `unconfined`, or the profile in a file.
pub(crate) fn seccomp(text: &str) -> Result<Seccomp, String> {
    match text {
        "" | "builtin" => return Ok(Seccomp::Builtin),
        "unconfined" => return Ok(Seccomp::Unconfined),
        _ => {}
    }
    let failed = |why: String| format!("opening seccomp profile ({text}) failed: {why}");
    let meta = std::fs::metadata(text).map_err(|e| failed(e.to_string()))?;
    if !meta.is_file() || meta.len() > PROFILE_LIMIT {
        return Err(failed("it is no file of at most 1 MiB".into()));
    }
    let profile = std::fs::read_to_string(text).map_err(|e| failed(e.to_string()))?;
    wharf_engine::check_seccomp(&profile)
        .map_err(|e| format!("Decoding seccomp profile ({text}) failed: {e}"))?;
    Ok(Seccomp::Profile(profile))
}

/// Those that were named, the administrator's, and those that came with this program.
fn plugin_dirs(config: &Config) -> Vec<PathBuf> {
    let mut dirs = config.plugin_dirs.clone();
    dirs.push("/etc/wharf/plugins".into());
    if let Ok(program) = std::env::current_exe()
        && let Some(dir) = program.parent()
    {
        dirs.push(dir.join("plugins"));
        dirs.push(dir.join("../lib/wharf/plugins"));
    }
    dirs.retain(|dir: &PathBuf| Path::is_dir(dir));
    dirs
}
