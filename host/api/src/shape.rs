//! What older clients expect an answer to look like. The engine answers in the newest shape together with the fields
//! that older ones have; here the newest lose what is not theirs.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use wharf_engine::models::ContainerStatsResponse;

use crate::error::Failure;
use crate::version::Version;

/// `GET /containers/{}/json`.
pub(crate) fn container(value: &mut Value, version: Version) {
    let Some(container) = value.as_object_mut() else { return };
    nulls(container, &["ExecIDs"]);
    if let Some(host) = container.get_mut("HostConfig").and_then(Value::as_object_mut) {
        nulls(
            host,
            &[
                "Binds",
                "CapAdd",
                "CapDrop",
                "ExtraHosts",
                "GroupAdd",
                "Links",
                "SecurityOpt",
                "VolumesFrom",
                "DeviceCgroupRules",
                "DeviceRequests",
                "Devices",
                "Ulimits",
                "OomKillDisable",
                "PidsLimit",
            ],
        );
    }
    if let Some(config) = container.get_mut("Config").and_then(Value::as_object_mut) {
        nulls(config, &["Cmd", "Entrypoint", "Volumes", "OnBuild"]);
        if config.get("Volumes").and_then(Value::as_object).is_some_and(Map::is_empty) {
            config.insert("Volumes".into(), Value::Null);
        }
        if config.get("ExposedPorts").and_then(Value::as_object).is_some_and(Map::is_empty) {
            config.remove("ExposedPorts");
        }
    }
    if let Some(network) = container.get_mut("NetworkSettings").and_then(Value::as_object_mut) {
        network.entry("Networks").or_insert_with(|| json!({}));
        network.entry("Ports").or_insert_with(|| json!({}));
        if version < Version(52) {
            legacy_network_settings(network);
        } else {
            for key in LEGACY_NETWORK {
                network.remove(*key);
            }
        }
        if version < Version(45) {
            short_id_aliases(container);
        }
    }
    let wide = container.remove("DesiredMacAddress");
    if version < Version(52)
        && let (Some(mac), Some(config)) = (wide, container.get_mut("Config").and_then(Value::as_object_mut))
    {
        config.insert("MacAddress".into(), mac);
    }
    if version < Version(48) {
        remove(value, &["ImageManifestDescriptor"]);
    }
}

/// `GET /containers/json`: annotations came with 1.46.
pub(crate) fn containers(list: Bytes, version: Version) -> Result<Bytes, Failure> {
    // Nearly no container has any; the list as it is costs nothing.
    if version >= Version(46) || memchr::memmem::find(&list, b"\"Annotations\"").is_none() {
        return Ok(list);
    }
    let failed = |e: serde_json::Error| Failure::internal(format!("the list cannot be written: {e}"));
    let mut value: Value = serde_json::from_slice(&list).map_err(failed)?;
    for host in value.as_array_mut().into_iter().flatten().filter_map(|c| c.get_mut("HostConfig")) {
        remove(host, &["Annotations"]);
    }
    Ok(serde_json::to_vec(&value).map_err(failed)?.into())
}

/// Of the default network, at the top of `NetworkSettings`.
const LEGACY_NETWORK: &[&str] = &[
    "Bridge",
    "HairpinMode",
    "LinkLocalIPv6Address",
    "LinkLocalIPv6PrefixLen",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
];

fn legacy_network_settings(network: &mut Map<String, Value>) {
    let bridge = network.get("Networks").and_then(|n| n.get("bridge")).cloned().unwrap_or(Value::Null);
    for (key, none) in [
        ("EndpointID", json!("")),
        ("Gateway", json!("")),
        ("GlobalIPv6Address", json!("")),
        ("GlobalIPv6PrefixLen", json!(0)),
        ("IPAddress", json!("")),
        ("IPPrefixLen", json!(0)),
        ("IPv6Gateway", json!("")),
        ("MacAddress", json!("")),
    ] {
        let value = bridge.get(key).filter(|v| !v.is_null()).cloned().unwrap_or(none);
        network.entry(key).or_insert(value);
    }
    for (key, value) in [
        ("Bridge", json!("")),
        ("HairpinMode", json!(false)),
        ("LinkLocalIPv6Address", json!("")),
        ("LinkLocalIPv6PrefixLen", json!(0)),
        ("SecondaryIPAddresses", Value::Null),
        ("SecondaryIPv6Addresses", Value::Null),
    ] {
        network.entry(key).or_insert(value);
    }
}

/// Before 1.45 a container's short id and its host name were among the aliases that it has in user networks.
fn short_id_aliases(container: &mut Map<String, Value>) {
    let Some(short) =
        container.get("Id").and_then(Value::as_str).and_then(|id| id.get(..12)).map(str::to_owned)
    else {
        return;
    };
    let hostname = container
        .get("Config")
        .and_then(|c| c.get("Hostname"))
        .and_then(Value::as_str)
        .filter(|h| !h.is_empty())
        .map(str::to_owned);
    let networks = container
        .get_mut("NetworkSettings")
        .and_then(|n| n.get_mut("Networks"))
        .and_then(Value::as_object_mut);
    for (name, endpoint) in networks.into_iter().flatten() {
        if matches!(name.as_str(), "bridge" | "host" | "none") {
            continue;
        }
        let Some(endpoint) = endpoint.as_object_mut() else { continue };
        // It is one only once it is connected.
        if endpoint.get("EndpointID").and_then(Value::as_str).is_none_or(str::is_empty) {
            continue;
        }
        let aliases = endpoint.entry("Aliases").or_insert_with(|| json!([]));
        if aliases.is_null() {
            *aliases = json!([]);
        }
        let Some(list) = aliases.as_array_mut() else { continue };
        for name in [Some(&short), hostname.as_ref()].into_iter().flatten() {
            if !list.iter().any(|a| a == name) {
                list.push(Value::String(name.clone()));
            }
        }
    }
}

/// `GET /images/{}/json`.
pub(crate) fn image(value: &mut Value, version: Version) {
    let Some(image) = value.as_object_mut() else { return };
    for key in ["RepoTags", "RepoDigests"] {
        let list = image.entry(key).or_insert_with(|| json!([]));
        if list.is_null() {
            *list = json!([]);
        }
    }
    if version < Version(45) {
        image.entry("Container").or_insert_with(|| json!(""));
        let config = image.get("Config").cloned().unwrap_or(Value::Null);
        image.entry("ContainerConfig").or_insert(config);
    } else {
        remove(value, &["Container", "ContainerConfig"]);
    }
    if version < Version(48) {
        remove(value, &["Descriptor"]);
    }
    if version < Version(53) {
        remove(value, &["Identity"]);
    }
    virtual_size(value, version);
}

/// `GET /images/json`.
pub(crate) fn images(list: &mut Value, version: Version) {
    for image in list.as_array_mut().into_iter().flatten() {
        let Some(entry) = image.as_object_mut() else { continue };
        for (key, none) in [
            ("RepoTags", json!([])),
            ("RepoDigests", json!([])),
            ("Labels", Value::Null),
            ("ParentId", json!("")),
        ] {
            entry.entry(key).or_insert(none);
        }
        virtual_size(image, version);
        if version < Version(48) {
            remove(image, &["Descriptor"]);
        }
    }
}

fn virtual_size(image: &mut Value, version: Version) {
    let Some(image) = image.as_object_mut() else { return };
    if version < Version(44) {
        let size = image.get("Size").cloned().unwrap_or(json!(0));
        image.entry("VirtualSize").or_insert(size);
    } else {
        image.remove("VirtualSize");
    }
}

/// `GET /system/df`: the flat lists of before 1.52 or the usage objects of after. In 1.52 both stand side by side, unless
/// the client says whether it wants the single objects.
pub(crate) fn disk_usage(value: &mut Value, version: Version, verbose: Option<bool>) {
    if version < Version(52) {
        remove(value, &["ImageUsage", "ContainerUsage", "VolumeUsage", "BuildCacheUsage"]);
    }
    if version >= Version(53) || (version == Version(52) && verbose.is_some()) {
        remove(value, &["LayersSize", "Images", "Containers", "Volumes", "BuildCache", "BuilderSize"]);
    }
    if version < Version(52) {
        for container in value.get_mut("Containers").and_then(Value::as_array_mut).into_iter().flatten() {
            remove(container, &["Health"]);
        }
    }
    // Removed with the classic builder's cache.
    if version >= Version(42) {
        remove(value, &["BuilderSize"]);
    }
}

/// `GET /containers/{}/stats`.
pub(crate) fn stats(stats: &mut ContainerStatsResponse, version: Version) {
    if version < Version(52) {
        stats.os_type = None;
    }
}

/// `GET /info`: lists that clients read without asking whether they are there.
pub(crate) fn info(value: &mut Value, version: Version) {
    let Some(info) = value.as_object_mut() else { return };
    nulls(info, &["Warnings", "DriverStatus", "GenericResources", "Labels"]);
    // Of the standalone Swarm, gone with 1.44's minimum.
    if version < Version(44) {
        nulls(info, &["SystemStatus"]);
    }
    if info.get("Labels").is_some_and(Value::is_null) {
        info.insert("Labels".into(), json!([]));
    }
    if version < Version(44) {
        for runtime in info.get_mut("Runtimes").and_then(Value::as_object_mut).into_iter().flatten() {
            remove(runtime.1, &["status"]);
        }
    }
    if version < Version(47)
        && let Some(registry) = info.get_mut("RegistryConfig").and_then(Value::as_object_mut)
    {
        nulls(registry, &["AllowNondistributableArtifactsCIDRs", "AllowNondistributableArtifactsHostnames"]);
    }
    if version < Version(49) {
        for key in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            let Some(commit) = info.get_mut(key).and_then(Value::as_object_mut) else { continue };
            let id = commit.get("ID").cloned().unwrap_or(json!(""));
            commit.entry("Expected").or_insert(id);
        }
    }
    if version < Version(50) {
        for key in ["BridgeNfIptables", "BridgeNfIp6tables"] {
            info.insert(key.into(), json!(false));
        }
    }
    if version < Version(53) {
        info.remove("NRI");
    }
    if version < Version(50) {
        info.remove("DiscoveredDevices");
    }
    if version < Version(49) {
        info.remove("FirewallBackend");
    }
    if version < Version(46) {
        info.remove("Containerd");
    }
}

fn remove(value: &mut Value, keys: &[&str]) {
    if let Some(map) = value.as_object_mut() {
        for key in keys {
            map.remove(*key);
        }
    }
}

/// Fields that Docker writes as null where the models leave them out.
fn nulls(map: &mut Map<String, Value>, keys: &[&str]) {
    for key in keys {
        map.entry(*key).or_insert(Value::Null);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{container, disk_usage, image, images};
    use crate::version::Version;

    #[test]
    fn network_settings_lose_or_keep_the_old_fields() {
        let value = json!({"Id": "0123456789abcdef", "NetworkSettings": {"Networks": {
            "bridge": {"IPAddress": "172.17.0.2", "Gateway": "172.17.0.1"}, "n": {"Aliases": null, "EndpointID": "e"}, "idle": {"Aliases": null, "EndpointID": ""}}}});
        let mut old = value.clone();
        container(&mut old, Version(51));
        assert_eq!(old["NetworkSettings"]["IPAddress"], "172.17.0.2");
        assert_eq!(old["NetworkSettings"]["IPPrefixLen"], 0);
        assert!(old["NetworkSettings"]["Networks"]["n"]["Aliases"].is_null());
        let mut new = old.clone();
        container(&mut new, Version(52));
        assert!(new["NetworkSettings"].get("IPAddress").is_none());
        let mut oldest = value;
        container(&mut oldest, Version(44));
        assert_eq!(oldest["NetworkSettings"]["Networks"]["n"]["Aliases"], json!(["0123456789ab"]));
        assert!(oldest["NetworkSettings"]["Networks"]["idle"]["Aliases"].is_null());
        assert!(oldest["NetworkSettings"]["Networks"]["bridge"].get("Aliases").is_none());
    }

    #[test]
    fn images_by_version() {
        let mut old = json!({"Size": 5, "Config": {"Cmd": ["a"]}, "RepoTags": null});
        let mut new = old.clone();
        image(&mut old, Version(43));
        assert_eq!((&old["VirtualSize"], &old["ContainerConfig"]["Cmd"]), (&json!(5), &json!(["a"])));
        image(&mut new, Version(45));
        assert!(new.get("VirtualSize").is_none() && new.get("ContainerConfig").is_none());
        assert_eq!(new["RepoTags"], json!([]));
        let mut list = json!([{"Size": 1}]);
        images(&mut list, Version(43));
        assert_eq!((&list[0]["VirtualSize"], &list[0]["RepoDigests"]), (&json!(1), &json!([])));
    }

    #[test]
    fn disk_usage_by_version() {
        let value = json!({"Images": [], "ImageUsage": {}});
        for (version, old, new) in [(51, true, false), (52, true, true), (53, false, true)] {
            let mut value = value.clone();
            disk_usage(&mut value, Version(version), None);
            assert_eq!((value.get("Images").is_some(), value.get("ImageUsage").is_some()), (old, new));
        }
    }
}
