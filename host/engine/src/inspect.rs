//! `GET /containers/{id}/json`: Docker's shape to the letter, null where Docker has null.

use serde_json::{Map, Value, json};

use crate::Engine;
use crate::error::Result;
use crate::models::EndpointSettings;
use crate::planner::modes::NetworkMode;
use crate::planner::mounts::Kind as MountKind;
use crate::planner::ports;
use crate::record::{Definition, Status, rfc3339};
use crate::registry::Now;

/// Docker's `HostConfig` when nothing is set; what is set lies on top.
fn host_template() -> Value {
    json!({
        "Binds": null, "ContainerIDFile": "", "LogConfig": {"Type": "", "Config": {}}, "NetworkMode": "bridge",
        "PortBindings": {}, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": false,
        "VolumeDriver": "", "VolumesFrom": null, "ConsoleSize": [0, 0], "CapAdd": null, "CapDrop": null,
        "CgroupnsMode": "private", "Dns": [], "DnsOptions": [], "DnsSearch": [], "ExtraHosts": null,
        "GroupAdd": null, "IpcMode": "private", "Cgroup": "", "Links": null, "OomScoreAdj": 0, "PidMode": "",
        "Privileged": false, "PublishAllPorts": false, "ReadonlyRootfs": false, "SecurityOpt": null, "UTSMode": "",
        "UsernsMode": "", "ShmSize": 67_108_864, "Runtime": "runc", "Isolation": "", "CpuShares": 0, "Memory": 0,
        "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0, "BlkioWeightDevice": [], "BlkioDeviceReadBps": [],
        "BlkioDeviceWriteBps": [], "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "CpuPeriod": 0,
        "CpuQuota": 0, "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "",
        "Devices": [], "DeviceCgroupRules": null, "DeviceRequests": null, "MemoryReservation": 0, "MemorySwap": 0,
        "MemorySwappiness": null, "OomKillDisable": null, "PidsLimit": null, "Ulimits": [], "CpuCount": 0,
        "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0, "MaskedPaths": [], "ReadonlyPaths": [],
    })
}

fn config_template() -> Value {
    json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
        "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Env": [], "Cmd": null,
        "Image": "", "Volumes": null, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
    })
}

/// Puts the fields of `over` that are there on top of `base`.
fn overlay(mut base: Value, over: Value) -> Value {
    if let (Value::Object(base), Value::Object(over)) = (&mut base, over) {
        for (key, value) in over {
            if !value.is_null() {
                base.insert(key, value);
            }
        }
    }
    base
}

/// One network of a container, as asked for and as it is.
pub(crate) fn endpoint_settings(engine: &Engine, now: &Now, name: &str, asked: &EndpointSettings) -> Value {
    let network = engine.inner.networks.find(name).map(|n| n.record().id.clone()).unwrap_or_default();
    let endpoint = now.state.endpoints.get(name);
    let address = |v6: bool| endpoint.and_then(|e| e.address(v6)).unwrap_or(("", 0));
    let predefined = matches!(name, "bridge" | "host" | "none");
    let mut dns: Vec<String> = Vec::new();
    if !predefined {
        dns.push(now.def.name.clone());
        dns.extend(asked.aliases.clone().unwrap_or_default());
        dns.push(crate::planner::names::short(&now.def.id).to_owned());
        dns.push(crate::planner::config::hostname(&now.def.config, &now.def.id));
        let mut seen = std::collections::HashSet::new();
        dns.retain(|n| seen.insert(n.clone()));
    }
    let ipam = asked.ipam_config.as_ref().and_then(|c| serde_json::to_value(c).ok()).unwrap_or(Value::Null);
    let mac = endpoint.and_then(|e| e.mac.clone()).or_else(|| asked.mac_address.clone()).unwrap_or_default();
    json!({
        "IPAMConfig": ipam, "Links": asked.links, "Aliases": asked.aliases,
        "MacAddress": mac, "DriverOpts": asked.driver_opts, "GwPriority": asked.gw_priority.unwrap_or(0),
        "NetworkID": network, "EndpointID": endpoint.map_or("", |e| e.id.as_str()),
        "Gateway": endpoint.and_then(|e| e.gateway_v4.clone()).unwrap_or_default(),
        "IPAddress": address(false).0, "IPPrefixLen": address(false).1,
        "IPv6Gateway": endpoint.and_then(|e| e.gateway_v6.clone()).unwrap_or_default(),
        "GlobalIPv6Address": address(true).0, "GlobalIPv6PrefixLen": address(true).1,
        "DNSNames": if predefined { Value::Null } else { json!(dns) },
    })
}

/// `Mounts` of inspect and list.
pub(crate) fn mount_points(engine: &Engine, def: &Definition) -> Vec<Value> {
    def.mounts
        .iter()
        .map(|m| {
            let mut map = Map::new();
            let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
            match m.kind {
                MountKind::Bind => {
                    set("Type", json!("bind"));
                    set("Source", json!(m.source));
                }
                MountKind::Volume => {
                    set("Type", json!("volume"));
                    set("Name", json!(m.source));
                    let source = engine
                        .inner
                        .volumes
                        .get(&m.source)
                        .map(|v| engine.volume_mountpoint(&v))
                        .unwrap_or_default();
                    set("Source", json!(source));
                    set("Driver", json!(m.driver));
                }
                MountKind::Image => {
                    set("Type", json!("image"));
                    set("Name", json!(m.source));
                    set("Source", json!(m.source));
                }
                MountKind::Tmpfs => {
                    set("Type", json!("tmpfs"));
                    set("Source", json!(""));
                }
            }
            set("Destination", json!(m.destination));
            set("Mode", json!(m.mode));
            set("RW", json!(!m.read_only));
            set("Propagation", json!(m.propagation));
            Value::Object(map)
        })
        .collect()
}

fn state(now: &Now) -> Value {
    let s = &now.state;
    let status = s.status;
    let mut value = json!({
        "Status": status.word(),
        "Running": status.is_alive() || status == Status::Restarting,
        "Paused": status == Status::Paused,
        "Restarting": status == Status::Restarting,
        "OOMKilled": s.oom_killed,
        "Dead": status == Status::Dead,
        "Pid": s.pid,
        "ExitCode": s.exit_code,
        "Error": s.error,
        "StartedAt": rfc3339(s.started_at),
        "FinishedAt": rfc3339(s.finished_at),
    });
    if let (Some(health), Some(map)) = (&s.health, value.as_object_mut()) {
        map.insert("Health".into(), crate::health::inspect(health));
    }
    value
}

impl Engine {
    /// `GET /containers/{id}/json`, in the shape of the newest API version plus the fields that older ones have.
    pub async fn container_inspect(&self, reference: &str, size: bool) -> Result<Value> {
        let container = self.inner.registry.find(reference)?;
        let now = container.now();
        let def = &now.def;
        let dir = self.inner.dirs.container(&def.id);
        let file = |name: &str| dir.join(name).display().to_string();
        let mut args = now.blueprint.args.iter();
        let path = args.next().cloned().unwrap_or_default();
        let image = self.inner.images.resolve(&def.image).ok();
        let mut config = overlay(config_template(), serde_json::to_value(&def.config)?);
        let mut host = overlay(host_template(), serde_json::to_value(&def.host)?);
        if let Some(map) = config.as_object_mut() {
            map.insert("Image".into(), json!(def.image_name));
        }
        if let Some(map) = host.as_object_mut() {
            map.insert("Links".into(), json!(self.links_shown(def)));
            // A list of names in the model, an object in Docker's answer.
            for key in ["Dns", "DnsOptions", "DnsSearch"] {
                map.entry(key).or_insert(json!([]));
            }
        }
        let graph: Map<String, Value> = self
            .inner
            .images
            .snapshots()
            .describe(&def.id)
            .await
            .unwrap_or_default()
            .into_iter()
            .map(|(k, v)| (k, Value::String(v)))
            .collect();
        let mut value = json!({
            "Id": def.id,
            "Created": rfc3339(def.created),
            "Path": path,
            "Args": args.collect::<Vec<_>>(),
            "State": state(&now),
            "Image": def.image,
            "ResolvConfPath": file("resolv.conf"),
            "HostnamePath": file("hostname"),
            "HostsPath": file("hosts"),
            "LogPath": container.io.log_path(),
            "Name": format!("/{}", def.name),
            "RestartCount": now.state.restarts,
            "Driver": def.driver,
            "Platform": image.as_ref().map_or("linux", |i| i.os.as_str()),
            "ImageManifestDescriptor": image.as_ref().and_then(|i| self.manifest_descriptor(i)),
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": self.profile_shown(&now.blueprint, &now.state),
            "ExecIDs": self.exec_ids(&container.exec_ids()),
            "HostConfig": host,
            "GraphDriver": {"Name": def.driver, "Data": if graph.is_empty() { Value::Null } else { Value::Object(graph) }},
            "Mounts": mount_points(self, def),
            "Config": config,
            "NetworkSettings": self.network_settings(&now),
        });
        // The address that was asked for in the main network; older clients find it in `Config`.
        let main = def.host.network_mode.as_deref().unwrap_or("");
        let mac = def.networks.get(main).and_then(|e| e.mac_address.clone()).filter(|m| !m.is_empty());
        if let (Some(mac), Some(map)) = (mac, value.as_object_mut()) {
            map.insert("DesiredMacAddress".into(), json!(mac));
        }
        if size && let Some(map) = value.as_object_mut() {
            let (rw, root) = self.sizes(&now).await;
            map.insert("SizeRw".into(), json!(rw));
            map.insert("SizeRootFs".into(), json!(root));
        }
        Ok(value)
    }

    fn network_settings(&self, now: &Now) -> Value {
        let def = &now.def;
        let alive = now.state.status.is_alive();
        let networks = self.shown_networks(now);
        let published: Vec<_> = now.state.endpoints.values().flat_map(|e| e.publishes.clone()).collect();
        let exposed = def.config.exposed_ports.clone().unwrap_or_default();
        let port_map =
            if alive { ports::port_map(&exposed, &published) } else { crate::models::PortMap::new() };
        let first = networks.get("bridge").cloned().unwrap_or(Value::Null);
        let legacy = |key: &str, empty: Value| first.get(key).cloned().unwrap_or(empty);
        // The other container's is not this one's to tell.
        let sandbox = alive && !matches!(now.blueprint.network, NetworkMode::Container(_));
        let key = if sandbox && now.state.pid > 0 {
            format!("/proc/{}/ns/net", now.state.pid)
        } else {
            String::new()
        };
        json!({
            "Bridge": "",
            "SandboxID": if sandbox { def.id.as_str() } else { "" },
            "SandboxKey": key,
            "Ports": port_map,
            "HairpinMode": false,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": null,
            "SecondaryIPv6Addresses": null,
            "EndpointID": legacy("EndpointID", json!("")),
            "Gateway": legacy("Gateway", json!("")),
            "GlobalIPv6Address": legacy("GlobalIPv6Address", json!("")),
            "GlobalIPv6PrefixLen": legacy("GlobalIPv6PrefixLen", json!(0)),
            "IPAddress": legacy("IPAddress", json!("")),
            "IPPrefixLen": legacy("IPPrefixLen", json!(0)),
            "IPv6Gateway": legacy("IPv6Gateway", json!("")),
            "MacAddress": legacy("MacAddress", json!("")),
            "Networks": networks,
        })
    }
}
