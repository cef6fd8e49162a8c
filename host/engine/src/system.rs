//! Operations on the engine as a whole.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::Engine;
use crate::error::Result;
use crate::models::{
    LocalNodeState, PluginsInfo, RegistryServiceConfig, SwarmInfo, SystemInfo, SystemInfoCgroupDriverEnum,
    SystemInfoCgroupVersionEnum, SystemInfoDefaultAddressPools, SystemVersion, SystemVersionPlatform,
};
use crate::planner::mounts::Kind as MountKind;
use crate::record::{Status, now as clock, rfc3339};

/// Docker's name for an architecture.
fn go_arch(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Engine {
    /// `GET /info`.
    pub async fn info(&self) -> Result<SystemInfo> {
        let inner = &self.inner;
        let (mut running, mut paused, mut stopped) = (0, 0, 0);
        let containers = inner.registry.all();
        for container in &containers {
            match container.now().state.status {
                Status::Running => running += 1,
                Status::Paused => paused += 1,
                _ => stopped += 1,
            }
        }
        let kinds = |kind: wharf_plugins::Kind| -> Vec<String> {
            let mut names: Vec<String> = inner
                .plugins
                .list()
                .into_iter()
                .filter(|p| p.kinds.contains(&kind) && p.state == wharf_plugins::State::Ready)
                // Of the words that a driver answers to, the one that users write.
                .map(|p| p.drivers.into_iter().min_by_key(String::len).unwrap_or_else(|| p.name.to_string()))
                .collect();
            names.sort();
            names.dedup();
            names
        };
        let mut network: Vec<String> = kinds(wharf_plugins::Kind::Network);
        for name in &mut network {
            if name == "none" {
                "null".clone_into(name);
            }
        }
        let driver_status = inner.images.status().into_iter().map(|(k, v)| vec![k, v]).collect();
        let settings = inner.settings();
        let mut security = vec![format!("name=seccomp,profile={}", settings.seccomp_name)];
        let missing = inner.profiles.missing();
        if inner.host.apparmor && missing.is_none() {
            security.insert(0, "name=apparmor".into());
        }
        security.push("name=cgroupns".into());
        if settings.remap != crate::planner::userns::Remap::Off {
            security.push("name=userns".into());
        }
        if settings.no_new_privileges {
            security.push("name=no-new-privileges".into());
        }
        let v2 = inner.facts().cgroup_version == 2;
        let dirs = if settings.cdi { settings.cdi_dirs.clone() } else { Vec::new() };
        let devices = inner.pool.run(move || crate::cdi::discovered(&dirs)).await?;
        let devices = devices
            .into_iter()
            .map(|id| crate::models::DeviceInfo { source: Some("cdi".into()), id: Some(id) })
            .collect();
        std::future::ready(Ok(SystemInfo {
            id: Some(inner.id.clone()),
            containers: i64::try_from(containers.len()).ok(),
            containers_running: Some(running),
            containers_paused: Some(paused),
            containers_stopped: Some(stopped),
            images: i64::try_from(inner.images.list().len()).ok(),
            driver: Some(inner.images.driver().to_owned()),
            driver_status: Some(driver_status),
            docker_root_dir: Some(inner.settings().data_root.display().to_string()),
            plugins: Some(PluginsInfo {
                volume: Some(kinds(wharf_plugins::Kind::Volume)),
                network: Some(network),
                authorization: Some(
                    inner.plugins.authorizers().iter().map(|a| a.plugin().to_string()).collect(),
                ),
                log: Some(kinds(wharf_plugins::Kind::Codec)),
            }),
            memory_limit: Some(true),
            swap_limit: Some(true),
            cpu_cfs_period: Some(true),
            cpu_cfs_quota: Some(true),
            cpu_shares: Some(true),
            cpu_set: Some(true),
            pids_limit: Some(true),
            oom_kill_disable: Some(!v2),
            ipv4_forwarding: Some(
                std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|t| t.starts_with('1')),
            ),
            debug: Some(inner.settings().debug),
            nfd: std::fs::read_dir("/proc/self/fd").ok().and_then(|d| i64::try_from(d.count()).ok()),
            n_goroutines: std::fs::read_dir("/proc/self/task")
                .ok()
                .and_then(|d| i64::try_from(d.count()).ok()),
            system_time: Some(rfc3339(clock())),
            logging_driver: Some(inner.settings().log_driver.clone()),
            cgroup_driver: Some(if settings.systemd_cgroups {
                SystemInfoCgroupDriverEnum::SYSTEMD
            } else {
                SystemInfoCgroupDriverEnum::CGROUPFS
            }),
            cgroup_version: Some(if v2 {
                SystemInfoCgroupVersionEnum::_2
            } else {
                SystemInfoCgroupVersionEnum::_1
            }),
            n_events_listener: Some(0),
            kernel_version: Some(inner.host.kernel.clone()),
            operating_system: Some(inner.host.os.clone()),
            os_version: Some(inner.host.os_version.clone()),
            os_type: Some("linux".into()),
            architecture: Some(inner.host.architecture.clone()),
            ncpu: Some(inner.host.cpus.into()),
            mem_total: i64::try_from(inner.host.memory).ok(),
            index_server_address: Some("https://index.docker.io/v1/".into()),
            registry_config: Some(RegistryServiceConfig {
                insecure_registry_cidrs: Some(
                    settings
                        .registry
                        .insecure
                        .iter()
                        .filter(|r| r.contains('/'))
                        .cloned()
                        .chain(["::1/128".to_owned(), "127.0.0.0/8".to_owned()])
                        .collect(),
                ),
                index_configs: Some(registry_index(&settings.registry)),
                mirrors: Some(settings.registry.mirrors.clone()),
            }),
            generic_resources: None,
            http_proxy: Some(settings.registry.http_proxy.clone()),
            https_proxy: Some(settings.registry.https_proxy.clone()),
            no_proxy: Some(settings.registry.no_proxy.clone()),
            name: Some(inner.host.name.clone()),
            labels: Some(inner.settings().labels.clone()),
            experimental_build: Some(self.experimental()),
            server_version: Some(crate::VERSION.into()),
            runtimes: Some(self.runtimes_info()),
            default_runtime: Some(settings.default_runtime.clone()),
            swarm: Some(SwarmInfo {
                node_id: Some(String::new()),
                node_addr: Some(String::new()),
                local_node_state: Some(LocalNodeState::INACTIVE),
                control_available: Some(false),
                error: Some(String::new()),
                ..SwarmInfo::default()
            }),
            live_restore_enabled: Some(inner.settings().live_restore),
            init_binary: Some("wharf".into()),
            security_options: Some(security),
            product_license: Some(String::new()),
            default_address_pools: Some(address_pools(&settings)),
            firewall_backend: Some(crate::models::FirewallInfo {
                driver: Some("nftables".into()),
                ..crate::models::FirewallInfo::default()
            }),
            warnings: missing.map(|why| {
                let what =
                    "WARNING: AppArmor is enabled, but containers run without the profile docker-default";
                vec![format!("{what}: {why}")]
            }),
            // Docker's word where a part is not there: clients of older versions look for the fields.
            containerd_commit: commit(),
            runc_commit: commit(),
            init_commit: commit(),
            discovered_devices: Some(devices),
            cdi_spec_dirs: Some(if settings.cdi {
                settings.cdi_dirs.iter().map(|d| d.display().to_string()).collect()
            } else {
                Vec::new()
            }),
            ..SystemInfo::default()
        }))
        .await
    }

    /// `GET /version`; the caller fills in which API versions it speaks.
    pub fn version(&self) -> SystemVersion {
        SystemVersion {
            platform: Some(SystemVersionPlatform { name: "Wharf".into() }),
            version: Some(crate::VERSION.into()),
            experimental: self.experimental().then_some(true),
            os: Some("linux".into()),
            arch: Some(go_arch(&self.inner.host.architecture).into()),
            kernel_version: Some(self.inner.host.kernel.clone()),
            git_commit: Some(String::new()),
            go_version: Some("rust".into()),
            build_time: Some(String::new()),
            ..SystemVersion::default()
        }
    }

    /// `GET /system/df`: the older flat shape together with the newer usage objects.
    pub async fn system_df(&self, kinds: &[String], verbose: bool) -> Result<Value> {
        let wanted = |kind: &str| kinds.is_empty() || kinds.iter().any(|k| k == kind);
        let mut answer = serde_json::Map::new();
        if wanted("image") {
            let options = crate::variants::ImageListOptions { shared_size: true, ..Default::default() };
            let images = self.image_list(options, &crate::Filters::default()).await?;
            let usage = self.inner.images.usage();
            let used: std::collections::BTreeSet<String> =
                self.inner.registry.all().iter().map(|c| c.now().def.image.clone()).collect();
            let in_use = |id: &str| {
                used.contains(id) || self.inner.images.companions(id).iter().any(|one| used.contains(one))
            };
            let active = images
                .iter()
                .filter_map(|i| i.get("Id").and_then(Value::as_str))
                .filter(|id| in_use(id))
                .count();
            let reclaimable: u64 =
                usage.images.iter().filter(|(id, _)| !in_use(id)).map(|(_, u)| u.unique).sum();
            answer.insert("LayersSize".into(), json!(usage.layers_size));
            answer.insert("Images".into(), json!(images));
            answer.insert(
                "ImageUsage".into(),
                json!({
                    "ActiveCount": active, "TotalCount": images.len(), "Reclaimable": reclaimable,
                    "TotalSize": usage.layers_size, "Items": if verbose { json!(images) } else { Value::Null },
                }),
            );
        }
        if wanted("container") {
            let options = crate::ListOptions { all: true, size: true, ..crate::ListOptions::default() };
            let list: Vec<Value> = serde_json::from_slice(&self.container_list(&options).await?)?;
            let size = |v: &Value| v.get("SizeRw").and_then(Value::as_u64).unwrap_or(0);
            let alive = |v: &Value| {
                matches!(v.get("State").and_then(Value::as_str), Some("running" | "paused" | "restarting"))
            };
            let total: u64 = list.iter().map(size).sum();
            let reclaimable: u64 = list.iter().filter(|v| !alive(v)).map(size).sum();
            let active = list.iter().filter(|v| alive(v)).count();
            answer.insert(
                "ContainerUsage".into(),
                json!({
                    "ActiveCount": active, "TotalCount": list.len(), "Reclaimable": reclaimable, "TotalSize": total,
                    "Items": if verbose { json!(list) } else { Value::Null },
                }),
            );
            answer.insert("Containers".into(), json!(list));
        }
        if wanted("volume") {
            let mut volumes = self.volume_list(&crate::Filters::default()).await?.volumes.unwrap_or_default();
            let containers: Vec<_> = self.inner.registry.all().iter().map(|c| c.now()).collect();
            for volume in &mut volumes {
                let users = containers
                    .iter()
                    .filter(|n| {
                        n.def.mounts.iter().any(|m| m.kind == MountKind::Volume && m.source == volume.name)
                    })
                    .count();
                let path = std::path::PathBuf::from(&volume.mountpoint);
                // One that does not answer has no size, and holds up nothing but this answer.
                let place = format!("volume {}", volume.name);
                let size = self.inner.foreign.run(&[&place], move |_| tree_size(&path)).await.unwrap_or(0);
                volume.usage_data = Some(crate::models::VolumeUsageData {
                    size: i64::try_from(size).unwrap_or(-1),
                    ref_count: i64::try_from(users).unwrap_or(-1),
                });
            }
            let size = |v: &crate::models::Volume| v.usage_data.as_ref().map_or(0, |u| u.size);
            let unused = |v: &&crate::models::Volume| v.usage_data.as_ref().is_some_and(|u| u.ref_count == 0);
            let total: i64 = volumes.iter().map(size).sum();
            let reclaimable: i64 = volumes.iter().filter(unused).map(size).sum();
            let active = volumes.iter().filter(|v| !unused(v)).count();
            answer.insert(
                "VolumeUsage".into(),
                json!({
                    "ActiveCount": active, "TotalCount": volumes.len(), "Reclaimable": reclaimable, "TotalSize": total,
                    "Items": if verbose { json!(volumes) } else { Value::Null },
                }),
            );
            answer.insert("Volumes".into(), json!(volumes));
        }
        if wanted("build-cache") {
            let records = self.cache_records().await?;
            let size = |r: &Value| r.get("Size").and_then(Value::as_u64).unwrap_or(0);
            let in_use = |r: &&Value| r.get("InUse").and_then(Value::as_bool) == Some(true);
            let total: u64 = records.iter().map(size).sum();
            let reclaimable: u64 = records.iter().filter(|r| !in_use(r)).map(size).sum();
            let active = records.iter().filter(in_use).count();
            answer.insert(
                "BuildCacheUsage".into(),
                json!({
                    "ActiveCount": active, "TotalCount": records.len(), "Reclaimable": reclaimable, "TotalSize": total,
                    "Items": if verbose { json!(records) } else { json!([]) },
                }),
            );
            answer.insert("BuilderSize".into(), json!(total));
            answer.insert("BuildCache".into(), json!(records));
        }
        Ok(Value::Object(answer))
    }

    /// `GET /plugins` of the engine itself: name, version, kinds, state, counters.
    pub async fn plugin_list(&self) -> Result<Value> {
        let list: Vec<Value> = self
            .inner
            .plugins
            .list()
            .iter()
            .map(|p| {
                let (state, why) = match &p.state {
                    wharf_plugins::State::Ready => ("ready", String::new()),
                    wharf_plugins::State::Quarantined => ("quarantined", String::new()),
                    wharf_plugins::State::Failed(text) => ("failed", text.clone()),
                };
                let c = p.counters;
                json!({
                    "Name": p.name, "Version": p.version, "Drivers": p.drivers, "Digest": p.digest,
                    "Interfaces": p.kinds.iter().map(|k| k.interface()).collect::<Vec<_>>(),
                    "State": state, "Error": why,
                    "Counters": {
                        "Calls": c.calls, "Refusals": c.refusals, "Traps": c.traps, "Timeouts": c.timeouts,
                        "Memory": c.memory, "Denied": c.denied, "Nanoseconds": c.nanoseconds,
                        "Histogram": c.histogram,
                    },
                })
            })
            .collect();
        std::future::ready(Ok(Value::Array(list))).await
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the models' fields are options")]
fn commit() -> Option<crate::models::Commit> {
    Some(crate::models::Commit { id: Some("N/A".into()) })
}

/// The indexes of registries as `info` shows them: the Hub, and those that are trusted without TLS.
fn registry_index(registry: &crate::settings::RegistrySettings) -> HashMap<String, crate::models::IndexInfo> {
    let one = |name: &str, mirrors: &[String], official| {
        let info = crate::models::IndexInfo {
            name: Some(name.to_owned()),
            mirrors: Some(mirrors.to_vec()),
            secure: Some(official),
            official: Some(official),
        };
        (name.to_owned(), info)
    };
    let insecure = registry.insecure.iter().filter(|r| !r.contains('/')).map(|name| one(name, &[], false));
    insecure.chain([one("docker.io", &registry.mirrors, true)]).collect()
}

/// Those of the address manager's configuration, else the ones that it has by itself.
fn address_pools(settings: &crate::Settings) -> Vec<SystemInfoDefaultAddressPools> {
    let config = settings.plugin_config.get("ipam-pool").and_then(|c| serde_json::from_str::<Value>(c).ok());
    let own: Vec<_> = config
        .as_ref()
        .and_then(|c| c.get("default-address-pools")?.as_array())
        .into_iter()
        .flatten()
        .map(|pool| SystemInfoDefaultAddressPools {
            base: pool.get("base").and_then(Value::as_str).map(str::to_owned),
            size: pool.get("size").and_then(Value::as_i64),
        })
        .collect();
    if !own.is_empty() {
        return own;
    }
    [("172.17.0.0/12", 16), ("192.168.0.0/16", 20)]
        .into_iter()
        .map(|(base, size)| SystemInfoDefaultAddressPools { base: Some(base.into()), size: Some(size) })
        .collect()
}

/// Bytes below a directory; links are not followed, and at most a million entries are looked at.
fn tree_size(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let (mut total, mut seen) = (0, 0_u32);
    let mut stack = vec![path.to_owned()];
    while let Some(dir) = stack.pop() {
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            seen += 1;
            if seen > 1_000_000 {
                return total;
            }
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                stack.push(entry.path());
            } else {
                total += meta.blocks() * 512;
            }
        }
    }
    total
}
