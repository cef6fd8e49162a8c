//! SIGHUP: the configuration file is read again, and all that can change under a running engine does.

use serde_json::{Value, json};
use tokio::signal::unix::Signal;
use wharf_api::Tls;
use wharf_distribution::Handle;
use wharf_engine::Engine;

use super::config::{Config, RegistryServe, Stop};
use super::{Level, Loaded, filter, load, notify};

/// Keys of the configuration that take effect at the next start only.
fn waits(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut keys = Vec::new();
    macro_rules! compare {
        ($($field:ident $key:literal),* $(,)?) => {
            $(if old.$field != new.$field {
                keys.push($key);
            })*
        };
    }
    compare!(
        hosts "hosts", data_root "data-root", exec_root "exec-root", pidfile "pidfile", group "group",
        storage_driver "storage-driver", storage_opts "storage-opts", plugin_dirs "plugin-dirs", plugins "plugins",
        default_address_pools "default-address-pools", allow_insecure_tcp "allow-insecure-tcp", bridge "bridge",
        bip "bip", mtu "mtu", fixed_cidr "fixed-cidr", fixed_cidr_v6 "fixed-cidr-v6",
        default_gateway "default-gateway", default_gateway_v6 "default-gateway-v6", ipv6 "ipv6", icc "icc",
        userland_proxy "userland-proxy", ip "ip", ip_masq "ip-masq", cgroup_parent "cgroup-parent", exec_opts "exec-opts",
        cpu_rt_period "cpu-rt-period", cpu_rt_runtime "cpu-rt-runtime",
        metrics_addr "metrics-addr", log_format "log-format", tls "tls",
        tlsverify "tlsverify", tlscacert "tlscacert", tlscert "tlscert", tlskey "tlskey",
        oom_score_adjust "oom-score-adjust", selinux_enabled "selinux-enabled",
    );
    let registry = |config: &Config| config.registry_serve.as_ref().map(RegistryServe::fixed);
    if registry(old) != registry(new) {
        keys.push("registry-serve");
    }
    keys
}

/// Every authorization plugin that the configuration names must be there.
pub(crate) fn check_authorizers(engine: &Engine, config: &Config) -> Result<(), String> {
    let there = engine.authorizer_names();
    match config.authorization_plugins.iter().find(|wanted| {
        !there.iter().any(|name| name == *wanted || name.rsplit('/').next() == Some(wanted.as_str()))
    }) {
        None => Ok(()),
        Some(missing) => Err(format!(
            "authorization plugin {missing} is not there: put its component into a plugin directory (there are: {})",
            there.join(", ")
        )),
    }
}

/// Reads the configuration file again at each SIGHUP; says what has to wait for the next start.
pub(crate) async fn run(
    mut loaded: Loaded,
    level: Level,
    engine: Engine,
    tls: Option<Tls>,
    registry: Option<Handle>,
    mut hangup: Signal,
) {
    while hangup.recv().await.is_some() {
        notify::reloading();
        if let Err(text) = once(&mut loaded, &level, &engine, tls.as_ref(), registry.as_ref()).await {
            tracing::error!("the configuration was not reloaded: {text}");
        }
        notify::tell("READY=1");
    }
}

async fn once(
    loaded: &mut Loaded,
    level: &Level,
    engine: &Engine,
    tls: Option<&Tls>,
    registry: Option<&Handle>,
) -> Result<(), String> {
    let (name, given) = (loaded.name, loaded.given.clone());
    let (new, settings) = match tokio::task::spawn_blocking(move || load(name, &given)).await {
        Ok(Ok(read)) => read,
        Ok(Err(Stop::Usage(text) | Stop::Help(text))) => return Err(text),
        Err(e) => return Err(e.to_string()),
    };
    check_authorizers(engine, &new)?;
    let limits = new.registry_serve.as_ref().map(super::registry::limits).transpose()?;
    // Certificates are renewed under the same names.
    if let Some(tls) = tls {
        let tls = tls.clone();
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(result) => result?,
            Err(e) => return Err(e.to_string()),
        }
    }
    if let Err(e) = level.reload(filter(&new)) {
        tracing::error!("the log level stays: {e}");
    }
    let waiting = waits(&loaded.config, &new);
    if !waiting.is_empty() {
        tracing::warn!("these changes of the configuration need a restart: {}", waiting.join(", "));
    }
    engine.reload(settings);
    if let (Some(registry), Some(limits)) = (registry, limits) {
        registry.set(limits);
    }
    engine.events().publish("daemon", "reload", engine.id(), attributes(loaded.name, engine, &new));
    tracing::info!(debug = new.debug, level = %new.log_level, "configuration reloaded");
    // What waits is compared with what runs at the next reload too.
    loaded.config = keep_waiting(&loaded.config, new);
    Ok(())
}

/// What was taken over, on top of what still runs as it was started.
fn keep_waiting(old: &Config, new: Config) -> Config {
    let old = old.clone();
    Config {
        hosts: old.hosts,
        data_root: old.data_root,
        exec_root: old.exec_root,
        pidfile: old.pidfile,
        group: old.group,
        storage_driver: old.storage_driver,
        storage_opts: old.storage_opts,
        plugin_dirs: old.plugin_dirs,
        plugins: old.plugins,
        default_address_pools: old.default_address_pools,
        allow_insecure_tcp: old.allow_insecure_tcp,
        bridge: old.bridge,
        bip: old.bip,
        mtu: old.mtu,
        fixed_cidr: old.fixed_cidr,
        fixed_cidr_v6: old.fixed_cidr_v6,
        default_gateway: old.default_gateway,
        default_gateway_v6: old.default_gateway_v6,
        ipv6: old.ipv6,
        icc: old.icc,
        userland_proxy: old.userland_proxy,
        ip: old.ip,
        ip_masq: old.ip_masq,
        cgroup_parent: old.cgroup_parent,
        cpu_rt_period: old.cpu_rt_period,
        cpu_rt_runtime: old.cpu_rt_runtime,
        exec_opts: old.exec_opts,
        metrics_addr: old.metrics_addr,
        log_format: old.log_format,
        tls: old.tls,
        tlsverify: old.tlsverify,
        tlscacert: old.tlscacert,
        tlscert: old.tlscert,
        tlskey: old.tlskey,
        oom_score_adjust: old.oom_score_adjust,
        selinux_enabled: old.selinux_enabled,
        registry_serve: kept_registry(old.registry_serve, new.registry_serve.as_ref()),
        ..new
    }
}

/// What a running registry was started with, and the bounds that it has taken over since.
fn kept_registry(old: Option<RegistryServe>, new: Option<&RegistryServe>) -> Option<RegistryServe> {
    let (Some(old), Some(new)) = (&old, new) else { return old };
    Some(RegistryServe {
        max_upload: new.max_upload.clone(),
        pull_through_keep: new.pull_through_keep.clone(),
        pull_through_size: new.pull_through_size.clone(),
        upload_idle_timeout: new.upload_idle_timeout.clone(),
        ..old.clone()
    })
}

/// Docker's attributes of the event, with its names and forms.
fn attributes(name: &str, engine: &Engine, config: &Config) -> Vec<(String, String)> {
    let list = |values: &[String]| json!(values).to_string();
    let number = |value: Option<i64>, usual: i64| value.unwrap_or(usual).to_string();
    let features: Value = json!(config.features);
    let runtimes = engine.runtime_names();
    [
        ("name", engine.host_name()),
        ("program", name.to_owned()),
        ("debug", config.debug.to_string()),
        ("labels", list(&config.labels)),
        ("live-restore", config.live_restore.to_string()),
        ("max-concurrent-downloads", number(config.max_concurrent_downloads, 3)),
        ("max-concurrent-uploads", number(config.max_concurrent_uploads, 5)),
        ("max-download-attempts", number(config.max_download_attempts, 5)),
        ("shutdown-timeout", config.shutdown_timeout.to_string()),
        ("default-runtime", runtimes.1),
        ("runtimes", runtimes.0.join(" ")),
        ("authorization-plugins", list(&config.authorization_plugins)),
        ("insecure-registries", list(&config.insecure_registries)),
        ("registry-mirrors", list(&config.registry_mirrors)),
        ("features", features.to_string()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}
