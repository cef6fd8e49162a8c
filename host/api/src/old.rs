//! What requests of older API versions mean: fields that were not there yet are forgotten, those that moved go to their
//! new places, and defaults are the ones of that time (Docker's API changelog, versions 1.24 to 1.55).

use std::collections::HashMap;

use wharf_engine::CreateOptions;
use wharf_engine::models::{
    ContainerCreateBody, ContainerUpdateBody, EndpointSettings, HostConfig, Mount, MountType, PortBinding,
};

use crate::error::Failure;
use crate::version::Version;

/// The option that carries kernel parameters of one interface.
const ENDPOINT_SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// Fields of create bodies that today's model has no more.
#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct OldCreate {
    /// Before 1.44: the address of the one network that a container could have.
    #[serde(rename = "MacAddress")]
    mac_address: Option<String>,
}

/// Brings the body of `POST /containers/create` to the newest version's meaning. Answers warnings.
pub(crate) fn create(
    body: &mut ContainerCreateBody,
    old: OldCreate,
    options: &mut CreateOptions,
    version: Version,
) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    if version < Version(41) {
        options.platform = None;
        options.cgroupns_host = true;
    }
    if version < Version(44)
        && let Some(health) = &mut body.healthcheck
    {
        health.start_interval = None;
    }
    let endpoints = body.networking_config.as_ref().and_then(|n| n.endpoints_config.as_ref());
    if version < Version(44)
        && let Some(map) = endpoints.filter(|map| map.len() > 1)
    {
        let mut names: Vec<&str> = map.keys().map(String::as_str).collect();
        names.sort_unstable();
        return Err(Failure::invalid(format!(
            "Container cannot be created with multiple network endpoints: {}",
            names.join(", ")
        )));
    }
    host_config(body.host_config.get_or_insert_default(), version, &mut warnings)?;
    if version < Version(48) {
        for endpoint in body.networking_config.iter_mut().flat_map(|n| &mut n.endpoints_config).flatten() {
            endpoint.1.gw_priority = None;
        }
    }
    warnings.extend(mac_address(body, old, version)?);
    warnings.extend(sysctls(body, version)?);
    Ok(warnings)
}

fn host_config(host: &mut HostConfig, version: Version, warnings: &mut Vec<String>) -> Result<(), Failure> {
    if version < Version(25) {
        // The client removed its containers then.
        host.auto_remove = None;
    }
    if version < Version(40) && host.ipc_mode.as_deref().unwrap_or("").is_empty() {
        host.ipc_mode = Some("shareable".into());
    }
    if version < Version(42) {
        host.console_size = None;
    }
    if version < Version(43) {
        host.annotations = None;
    }
    for mount in host.mounts.iter_mut().flatten() {
        old_mount(mount, version)?;
    }
    if version >= Version(48)
        && host.volume_driver.as_deref().is_some_and(|d| !d.is_empty())
        && host.mounts.iter().flatten().any(without_driver)
    {
        warnings.push(
            "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. \
             Use '--mount type=volume,volume-driver=...' instead"
                .into(),
        );
    }
    if host.pids_limit.is_some_and(|limit| limit <= 0) {
        host.pids_limit = None;
    }
    if let Some(ports) = &mut host.port_bindings {
        let mut empty: Vec<String> = Vec::new();
        for (port, bindings) in ports.iter_mut() {
            if bindings.as_ref().is_none_or(Vec::is_empty) {
                empty.push(port.clone());
                if version <= Version(52) {
                    let any = PortBinding { host_ip: Some(String::new()), host_port: Some(String::new()) };
                    *bindings = Some(vec![any]);
                }
            }
        }
        empty.sort_unstable();
        if version > Version(52) {
            ports.retain(|port, _| !empty.contains(port));
        } else if version == Version(52) && !empty.is_empty() {
            warnings.push(format!(
                "Following container port(s) have an empty list of port-bindings: {}. Starting with API 1.53, such \
                 bindings will be discarded.",
                empty.join(", ")
            ));
        }
    }
    Ok(())
}

fn without_driver(mount: &Mount) -> bool {
    mount.typ == Some(MountType::VOLUME)
        && mount
            .volume_options
            .as_ref()
            .and_then(|o| o.driver_config.as_ref()?.name.as_deref())
            .is_none_or(str::is_empty)
}

fn old_mount(mount: &mut Mount, version: Version) -> Result<(), Failure> {
    let kind = mount.typ;
    if let Some(options) = &mut mount.bind_options {
        if version < Version(40) {
            options.non_recursive = None;
        }
        if version < Version(42) {
            options.create_mountpoint = None;
        }
        if version < Version(44) && options.read_only_force_recursive == Some(true) {
            return Err(Failure::invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"));
        }
    }
    if version < Version(44) && kind == Some(MountType::BIND) && mount.read_only == Some(true) {
        mount.bind_options.get_or_insert_default().read_only_non_recursive = Some(true);
    }
    if version < Version(45)
        && mount.volume_options.as_ref().and_then(|o| o.subpath.as_deref()).is_some_and(|p| !p.is_empty())
    {
        return Err(Failure::invalid("VolumeOptions.Subpath needs API v1.45 or newer"));
    }
    if version < Version(48) && kind == Some(MountType::IMAGE) {
        return Err(Failure::invalid("Mount type \"Image\" needs API v1.48 or newer"));
    }
    if version < Version(42) {
        // Options of another kind of mount were not looked at.
        if kind != Some(MountType::VOLUME) {
            mount.volume_options = None;
        }
        if kind != Some(MountType::TMPFS) {
            mount.tmpfs_options = None;
        }
    }
    Ok(())
}

/// The network that a container's mode names, and how its endpoint is keyed; None where there is none of its own.
fn main_network(body: &ContainerCreateBody) -> Option<String> {
    match body.host_config.as_ref().and_then(|h| h.network_mode.as_deref()).unwrap_or_default() {
        "" | "default" => Some("bridge".to_owned()),
        "host" | "none" => None,
        mode if mode.starts_with("container:") => None,
        mode => Some(mode.to_owned()),
    }
}

/// The endpoint of the main network, made where there is none.
fn main_endpoint<'a>(body: &'a mut ContainerCreateBody, network: &str) -> &'a mut EndpointSettings {
    let endpoints: &mut HashMap<String, EndpointSettings> =
        body.networking_config.get_or_insert_default().endpoints_config.get_or_insert_default();
    let key = if network == "bridge" && endpoints.contains_key("default") { "default" } else { network };
    endpoints.entry(key.to_owned()).or_default()
}

/// The container-wide hardware address becomes that of the main network's endpoint.
fn mac_address(
    body: &mut ContainerCreateBody,
    old: OldCreate,
    version: Version,
) -> Result<Option<String>, Failure> {
    let wide = old.mac_address.filter(|mac| !mac.is_empty());
    let network = main_network(body);
    if version < Version(44) {
        let Some(mac) = wide else {
            // Endpoints had none of their own.
            for endpoint in body.networking_config.iter_mut().flat_map(|n| &mut n.endpoints_config).flatten()
            {
                endpoint.1.mac_address = None;
            }
            return Ok(None);
        };
        let Some(network) = network else {
            return Err(Failure::invalid("conflicting options: mac-address and the network mode"));
        };
        main_endpoint(body, &network).mac_address = Some(mac);
        return Ok(None);
    }
    let Some(mac) = wide else { return Ok(None) };
    if let Some(network) = network {
        let endpoint = main_endpoint(body, &network);
        match endpoint.mac_address.as_deref() {
            Some(own) if !own.is_empty() && own != mac => {
                return Err(Failure::invalid(
                    "the container-wide MAC address must match the endpoint-specific MAC address for the main network, \
                     or be left empty",
                ));
            }
            _ => endpoint.mac_address = Some(mac),
        }
    }
    Ok(Some(
        "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
            .into(),
    ))
}

/// Kernel parameters of an interface belong to its endpoint since 1.46; until 1.47 those of `eth0` are moved there.
fn sysctls(body: &mut ContainerCreateBody, version: Version) -> Result<Option<String>, Failure> {
    let Some(network) = main_network(body) else { return Ok(None) };
    let Some(all) = body.host_config.as_mut().and_then(|h| h.sysctls.as_mut()) else { return Ok(None) };
    let mut moved: Vec<(String, String)> = Vec::new();
    for (key, value) in all.iter() {
        let mut parts = key.splitn(5, '.');
        let (Some("net"), Some(family), Some(kind), Some(interface), Some(rest)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if !interface.starts_with("eth") {
            continue;
        }
        if version > Version(47) {
            return Err(Failure::invalid(format!(
                "interface specific sysctl setting {key:?} must be supplied using driver option '{ENDPOINT_SYSCTLS}'"
            )));
        }
        if interface != "eth0" {
            return Err(Failure::invalid(format!(
                "unable to determine network endpoint for sysctl {key}, use driver option '{ENDPOINT_SYSCTLS}' to set \
                 per-interface sysctls"
            )));
        }
        moved.push((key.clone(), format!("net.{family}.{kind}.IFNAME.{rest}={value}")));
    }
    if moved.is_empty() {
        return Ok(None);
    }
    moved.sort();
    for (key, _) in &moved {
        all.remove(key);
    }
    let list =
        |pick: &dyn Fn(&(String, String)) -> String| moved.iter().map(pick).collect::<Vec<_>>().join(",");
    let (keys, mut value) = (list(&|m| m.0.clone()), list(&|m| m.1.clone()));
    let warning = format!("Migrated sysctl {keys:?} to DriverOpts{{{ENDPOINT_SYSCTLS:?}:{value:?}}}.");
    let options = main_endpoint(body, &network).driver_opts.get_or_insert_default();
    if let Some(own) = options.get(ENDPOINT_SYSCTLS) {
        value = format!("{value},{own}");
    }
    options.insert(ENDPOINT_SYSCTLS.to_owned(), value);
    Ok(Some(warning))
}

/// Brings the body of `POST /containers/{}/update` to the newest version's meaning.
pub(crate) fn update(body: &mut ContainerUpdateBody, version: Version) {
    if version < Version(40) {
        body.pids_limit = None;
    }
    if version < Version(55) {
        // Limits of single devices could be given, and nothing came of them.
        body.blkio_weight_device = None;
        body.blkio_device_read_bps = None;
        body.blkio_device_write_bps = None;
        body.blkio_device_read_iops = None;
        body.blkio_device_write_iops = None;
    }
    if body.pids_limit.is_some_and(|limit| limit < 0) {
        body.pids_limit = Some(0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wharf_engine::CreateOptions;
    use wharf_engine::models::ContainerCreateBody;

    use super::{OldCreate, create};
    use crate::version::Version;

    fn at(minor: u32, body: serde_json::Value) -> Result<(ContainerCreateBody, Vec<String>), String> {
        let old: OldCreate = serde_json::from_value(body.clone()).unwrap();
        let mut body: ContainerCreateBody = serde_json::from_value(body).unwrap();
        let mut options = CreateOptions::default();
        let warnings = create(&mut body, old, &mut options, Version(minor)).map_err(|e| e.message)?;
        Ok((body, warnings))
    }

    #[test]
    fn what_did_not_exist_is_forgotten() {
        let body = json!({"Healthcheck": {"StartInterval": 5_000_000}, "HostConfig": {"AutoRemove": true,
            "Annotations": {"a": "b"}, "ConsoleSize": [1, 2], "PidsLimit": -1}});
        for (minor, remove, annotations, console, interval) in [
            (24, false, false, false, false),
            (25, true, false, false, false),
            (42, true, false, true, false),
            (43, true, true, true, false),
            (44, true, true, true, true),
        ] {
            let (body, _) = at(minor, body.clone()).unwrap();
            let host = body.host_config.unwrap();
            let found = (
                host.auto_remove == Some(true),
                host.annotations.is_some(),
                host.console_size.is_some(),
                body.healthcheck.unwrap().start_interval.is_some(),
            );
            assert_eq!(found, (remove, annotations, console, interval), "{minor}");
            assert_eq!(host.pids_limit, None);
            let shareable = host.ipc_mode.as_deref() == Some("shareable");
            assert_eq!(shareable, minor < 40, "{minor}");
        }
    }

    #[test]
    fn what_older_versions_have_no_words_for_is_refused() {
        let mount = |mount: serde_json::Value| json!({"HostConfig": {"Mounts": [mount]}});
        for (last, body, text) in [
            (
                43,
                json!({"NetworkingConfig": {"EndpointsConfig": {"b": {}, "a": {}}}}),
                "multiple network endpoints: a, b",
            ),
            (
                43,
                mount(json!({"Type": "bind", "BindOptions": {"ReadOnlyForceRecursive": true}})),
                "needs API v1.44",
            ),
            (
                44,
                mount(json!({"Type": "volume", "VolumeOptions": {"Subpath": "x"}})),
                "Subpath needs API v1.45",
            ),
            (47, mount(json!({"Type": "image"})), "needs API v1.48"),
        ] {
            let refused = at(last, body.clone()).unwrap_err();
            assert!(refused.contains(text), "{refused}");
            assert!(at(last + 1, body).is_ok(), "{text}");
        }
        let foreign = mount(json!({"Type": "bind", "VolumeOptions": {}}));
        assert!(
            at(41, foreign.clone()).unwrap().0.host_config.unwrap().mounts.unwrap()[0]
                .volume_options
                .is_none()
        );
        let kept = at(42, foreign).unwrap().0.host_config.unwrap().mounts.unwrap();
        assert!(kept[0].volume_options.is_some(), "the engine refuses it");
    }

    #[test]
    fn ports_without_bindings() {
        let body = json!({"HostConfig": {"PortBindings": {"80/tcp": [], "81/tcp": [{"HostPort": "8081"}]}}});
        for (minor, bindings, warned) in [(51, 2, false), (52, 2, true), (53, 1, false)] {
            let (body, warnings) = at(minor, body.clone()).unwrap();
            assert_eq!(body.host_config.unwrap().port_bindings.unwrap().len(), bindings, "{minor}");
            assert_eq!(warnings.iter().any(|w| w.contains("80/tcp")), warned, "{minor}");
        }
    }

    #[test]
    fn addresses_and_kernel_parameters_move_to_the_endpoint() {
        let mac = json!({"MacAddress": "02:42:00:00:00:05", "HostConfig": {"NetworkMode": "net"}});
        for (minor, warned) in [(43, 0), (44, 1)] {
            let (body, warnings) = at(minor, mac.clone()).unwrap();
            let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
            assert_eq!(endpoints["net"].mac_address.as_deref(), Some("02:42:00:00:00:05"));
            assert_eq!(warnings.len(), warned);
        }
        let host = json!({"MacAddress": "02:42:00:00:00:05", "HostConfig": {"NetworkMode": "host"}});
        assert_eq!(
            at(43, host.clone()).unwrap_err(),
            "conflicting options: mac-address and the network mode"
        );
        assert!(at(44, host).is_ok());
        let other = json!({"MacAddress": "02:42:00:00:00:05",
            "NetworkingConfig": {"EndpointsConfig": {"default": {"MacAddress": "02:42:00:00:00:06"}}}});
        assert!(at(50, other).unwrap_err().contains("must match the endpoint-specific"));
        let sysctl = json!({"HostConfig": {"Sysctls": {"net.ipv4.conf.eth0.forwarding": "1", "net.core.somaxconn": "5"}}});
        let (body, warnings) = at(47, sysctl.clone()).unwrap();
        let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
        let options = endpoints["bridge"].driver_opts.as_ref().unwrap();
        assert_eq!(options["com.docker.network.endpoint.sysctls"], "net.ipv4.conf.IFNAME.forwarding=1");
        assert_eq!(body.host_config.unwrap().sysctls.unwrap().len(), 1);
        assert!(warnings[0].starts_with("Migrated sysctl"));
        assert!(at(48, sysctl).unwrap_err().contains("must be supplied using driver option"));
        let eth1 = json!({"HostConfig": {"Sysctls": {"net.ipv4.conf.eth1.forwarding": "1"}}});
        assert!(at(46, eth1).unwrap_err().contains("unable to determine network endpoint"));
    }
}
