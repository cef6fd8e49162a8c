//! Bodies of requests as chance makes them, of the words that the API has: whatever is read is read or refused as the
//! client's fault, in what memory the body itself takes; and what was read is planned or refused so, too.
//!
//! `PROPTEST_CASES` tries more of them.
#![allow(clippy::default_trait_access, reason = "the type is of a crate that this one does not know")]

use hyper::StatusCode;
use proptest::prelude::*;
use proptest::sample::select;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value, json};
use wharf_engine::models::{
    ContainerConfig, ContainerCreateBody, ContainerUpdateBody, ExecConfig, ExecStartConfig, HostConfig,
    NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest, VolumeCreateRequest,
};
use wharf_engine::planner::{Facts, config, endpoint, limits, run};

use super::{document, read};

/// Names of fields, as Docker's reference has them.
const WORDS: &str = "Image Cmd Env Entrypoint User WorkingDir Labels Volumes ExposedPorts Healthcheck Test Interval Timeout Retries \
    StartPeriod StartInterval StopSignal StopTimeout Shell Tty OpenStdin StdinOnce AttachStdin AttachStdout AttachStderr Hostname \
    Domainname NetworkDisabled MacAddress OnBuild ArgsEscaped HostConfig NetworkingConfig EndpointsConfig Binds Mounts Type Source \
    Target ReadOnly Consistency BindOptions Propagation NonRecursive CreateMountpoint ReadOnlyNonRecursive ReadOnlyForceRecursive \
    VolumeOptions NoCopy Subpath DriverConfig Name Options TmpfsOptions SizeBytes Mode ImageOptions PortBindings HostIp HostPort \
    PublishAllPorts Links NetworkMode RestartPolicy MaximumRetryCount AutoRemove VolumeDriver VolumesFrom CapAdd CapDrop \
    CgroupnsMode Dns DnsOptions DnsSearch ExtraHosts GroupAdd IpcMode Cgroup OomScoreAdj PidMode Privileged ReadonlyRootfs \
    SecurityOpt StorageOpt Tmpfs UTSMode UsernsMode ShmSize Sysctls Runtime ConsoleSize Isolation MaskedPaths ReadonlyPaths \
    CpuShares Memory CgroupParent BlkioWeight BlkioWeightDevice Path Weight BlkioDeviceReadBps Rate BlkioDeviceWriteBps \
    BlkioDeviceReadIOps BlkioDeviceWriteIOps CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus CpusetMems Devices \
    PathOnHost PathInContainer CgroupPermissions DeviceCgroupRules DeviceRequests Driver Count DeviceIDs Capabilities KernelMemory \
    KernelMemoryTCP MemoryReservation MemorySwap MemorySwappiness NanoCpus OomKillDisable Init PidsLimit Ulimits Soft Hard CpuCount \
    CpuPercent IOMaximumIOps IOMaximumBandwidth LogConfig Config ContainerIDFile Annotations IPAMConfig IPv4Address IPv6Address \
    LinkLocalIPs Aliases DriverOpts GwPriority NetworkID EndpointID Gateway DNSNames Container EndpointConfig Force Internal \
    Attachable Ingress IPAM Subnet IPRange AuxiliaryAddresses EnableIPv6 EnableIPv4 CheckDuplicate Scope ConfigOnly ConfigFrom \
    Network ClusterVolumeSpec Group AccessMode DetachKeys Detach ExecIDs 80/tcp 1-65535/udp 99999/x /a net.ipv4.ip_forward size \
    bridge host none container:x subnet max-size";

/// Texts that mean something somewhere, or nearly.
const TEXTS: &str = "|0|1|-1|true|none|host|bridge|private|shareable|container:|container:x|ns:/x|always|on-failure|unless-stopped|\
    no|/|/a:/b|/a:/b:ro,z|a:b:c:d|..|../x|/a/../b|80|80/tcp|1-2/udp|2-1/tcp|0.0.0.0|::|127.0.0.1|10.0.0.0/8|fe80::1/129|999.1.1.1|\
    02:42:ac:11:00:02|A=b|=|A|seccomp=unconfined|seccomp={}|apparmor=x|label=disable|no-new-privileges:maybe|systempaths=unconfined|\
    ALL|CAP_SYS_ADMIN|cap_nothing|SIGKILL|SIGRTMIN+3|9|999|0-3,5|3-0|0-99999999|c 1:3 rwm|a *:* rwm|b x|/dev/null|rslave|tmpfs|bind|volume|\
    image|size=10%|size=-1|mode=9999|10g|18446744073709551616|CMD|CMD-SHELL|NONE|x\u{0}y|\u{202e}|\u{10ffff}|a b|a\nb";

fn text() -> impl Strategy<Value = String> {
    let known: Vec<String> = TEXTS.split('|').map(str::to_owned).collect();
    prop_oneof![6 => select(known), 1 => "\\PC{0,40}", 1 => Just("x".repeat(70_000))]
}

fn number() -> impl Strategy<Value = Number> {
    let edges = [0i64, 1, -1, 2, 100, 1024, 65_535, 65_536, 1 << 31, i64::MAX, i64::MIN];
    prop_oneof![
        4 => select(edges.to_vec()).prop_map(Number::from),
        1 => any::<i64>().prop_map(Number::from),
        1 => Just(Number::from(u64::MAX)),
        1 => any::<f64>().prop_filter_map("a number", Number::from_f64),
    ]
}

fn words() -> Vec<String> {
    WORDS.split_whitespace().map(str::to_owned).collect()
}

/// A name of a field, in whatever case.
fn key() -> impl Strategy<Value = String> {
    (select(words()), 0..12u8).prop_map(|(word, how)| match how {
        0 => word.to_lowercase(),
        1 => word.to_uppercase(),
        _ => word,
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        2 => Just(Value::Null),
        2 => any::<bool>().prop_map(Value::Bool),
        4 => number().prop_map(Value::Number),
        5 => text().prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        prop_oneof![
            2 => prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            5 => prop::collection::vec((key(), inner), 0..10).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// A value that a field of this name would have, mostly: what a model takes has to be deep to reach its rules.
fn fitting(name: &str) -> BoxedStrategy<Value> {
    let list = || prop::collection::vec(text().prop_map(Value::String), 0..4).prop_map(Value::Array);
    let map = |of: BoxedStrategy<Value>| {
        prop::collection::vec((prop_oneof![text(), key()], of), 0..4)
            .prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
    };
    let texts = || text().prop_map(Value::String).boxed();
    let numbers = || number().prop_map(Value::Number).boxed();
    let object = |names: &'static [&'static str]| fields(names).boxed();
    match name {
        "Cmd" | "Entrypoint" | "Env" | "Shell" | "OnBuild" | "Binds" | "Links" | "VolumesFrom" | "CapAdd"
        | "CapDrop" | "Dns" | "DnsOptions" | "DnsSearch" | "ExtraHosts" | "GroupAdd" | "SecurityOpt"
        | "MaskedPaths" | "ReadonlyPaths" | "DeviceCgroupRules" | "Aliases" | "LinkLocalIPs" | "Test" => {
            list().boxed()
        }
        "Labels" | "Sysctls" | "Tmpfs" | "StorageOpt" | "DriverOpts" | "Options" | "Annotations"
        | "AuxiliaryAddresses" => map(texts()).boxed(),
        "Volumes" | "ExposedPorts" => map(Just(json!({})).boxed()).boxed(),
        "PortBindings" => {
            map(prop::collection::vec(object(&["HostIp", "HostPort"]), 0..3).prop_map(Value::Array).boxed())
                .boxed()
        }
        "Mounts" => prop::collection::vec(
            object(&["Type", "Source", "Target", "ReadOnly", "BindOptions", "VolumeOptions", "TmpfsOptions"]),
            0..3,
        )
        .prop_map(Value::Array)
        .boxed(),
        "Devices" => {
            prop::collection::vec(object(&["PathOnHost", "PathInContainer", "CgroupPermissions"]), 0..3)
                .prop_map(Value::Array)
                .boxed()
        }
        "Ulimits" => {
            prop::collection::vec(object(&["Name", "Soft", "Hard"]), 0..3).prop_map(Value::Array).boxed()
        }
        "DeviceRequests" => prop::collection::vec(object(&["Driver", "Count", "Options"]), 0..2)
            .prop_map(Value::Array)
            .boxed(),
        "Healthcheck" => object(&["Test", "Interval", "Timeout", "Retries", "StartPeriod"]),
        "RestartPolicy" => object(&["Name", "MaximumRetryCount"]),
        "LogConfig" => object(&["Type"]),
        "BindOptions" => object(&["Propagation", "NonRecursive", "CreateMountpoint"]),
        "VolumeOptions" => object(&["NoCopy", "Labels", "Subpath"]),
        "TmpfsOptions" => object(&["SizeBytes", "Mode"]),
        "HostConfig" => object(HOST),
        "NetworkingConfig" => object(&["EndpointsConfig"]),
        "EndpointsConfig" => map(object(ENDPOINT)).boxed(),
        "EndpointConfig" => object(ENDPOINT),
        "IPAMConfig" => object(&["IPv4Address", "IPv6Address", "LinkLocalIPs"]),
        "IPAM" => object(&["Driver", "Options"]),
        name if name.ends_with("Bps") || name.ends_with("IOps") => {
            prop::collection::vec(object(&["Path", "Rate"]), 0..3).prop_map(Value::Array).boxed()
        }
        name if NUMBERS.split(' ').any(|n| n == name) => numbers(),
        name if FLAGS.split(' ').any(|n| n == name) => any::<bool>().prop_map(Value::Bool).boxed(),
        _ => texts(),
    }
}

const HOST: &[&str] = &[
    "Binds",
    "Mounts",
    "PortBindings",
    "NetworkMode",
    "RestartPolicy",
    "AutoRemove",
    "VolumesFrom",
    "CapAdd",
    "CapDrop",
    "CgroupnsMode",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "IpcMode",
    "OomScoreAdj",
    "PidMode",
    "Privileged",
    "ReadonlyRootfs",
    "SecurityOpt",
    "StorageOpt",
    "Tmpfs",
    "UTSMode",
    "UsernsMode",
    "ShmSize",
    "Sysctls",
    "Runtime",
    "CpuShares",
    "Memory",
    "MemorySwap",
    "MemorySwappiness",
    "MemoryReservation",
    "NanoCpus",
    "CpuPeriod",
    "CpuQuota",
    "CpusetCpus",
    "CpusetMems",
    "PidsLimit",
    "Ulimits",
    "Devices",
    "DeviceCgroupRules",
    "DeviceRequests",
    "BlkioWeight",
    "BlkioDeviceReadBps",
    "LogConfig",
    "Init",
    "MaskedPaths",
    "ReadonlyPaths",
    "Annotations",
    "CgroupParent",
];
const CONFIG: &[&str] = &[
    "Image",
    "Cmd",
    "Env",
    "Entrypoint",
    "User",
    "WorkingDir",
    "Labels",
    "Volumes",
    "ExposedPorts",
    "Healthcheck",
    "StopSignal",
    "StopTimeout",
    "Shell",
    "Tty",
    "OpenStdin",
    "Hostname",
    "Domainname",
    "NetworkDisabled",
    "HostConfig",
    "NetworkingConfig",
];
const ENDPOINT: &[&str] = &["IPAMConfig", "Links", "Aliases", "DriverOpts", "MacAddress", "GwPriority"];
const NUMBERS: &str = "Interval Timeout Retries StartPeriod StopTimeout MaximumRetryCount OomScoreAdj ShmSize CpuShares Memory MemorySwap \
    MemorySwappiness MemoryReservation NanoCpus CpuPeriod CpuQuota PidsLimit Soft Hard BlkioWeight Rate Count SizeBytes Mode GwPriority";
const FLAGS: &str = "Tty OpenStdin NetworkDisabled AutoRemove Privileged ReadonlyRootfs Init ReadOnly NonRecursive CreateMountpoint NoCopy \
    Internal Attachable EnableIPv6 Force Detach AttachStdin AttachStdout";

/// An object of some of these fields; now and then one has a value of another kind.
fn fields(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let field = select(names.to_vec()).prop_flat_map(|name| {
        prop_oneof![14 => fitting(name), 1 => value().boxed()].prop_map(move |value| (name.to_owned(), value))
    });
    prop::collection::vec(field, 0..7)
        .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>()))
}

/// Reads a body. What does not fit is told as the client's fault, shortly; what does is the same when written and read again.
fn whole<T: DeserializeOwned + Serialize>(body: &[u8]) -> Option<T> {
    match read::<T>(body) {
        Ok(model) => {
            let written = document(&model).unwrap();
            let text = written.to_string();
            assert!(text.len() <= 64 * body.len() + 65_536, "{} bytes out of {}", text.len(), body.len());
            // Of documents, as some models keep sets as lists in any order.
            assert_eq!(document(&read::<T>(text.as_bytes()).unwrap()).unwrap(), written);
            Some(model)
        }
        Err(failure) => {
            assert_eq!(failure.status, StatusCode::BAD_REQUEST, "{failure:?}");
            assert!(
                failure.message.len() <= 2 * body.len() + 4096,
                "{} bytes of a text",
                failure.message.len()
            );
            None
        }
    }
}

fn is_clients_fault<T>(result: Result<T, wharf_engine::Error>) -> bool {
    match result {
        Ok(_) => true,
        Err(e) => {
            let status = crate::error::Failure::from(e.clone()).status;
            assert!(!status.is_server_error() || status == StatusCode::NOT_IMPLEMENTED, "{status}: {e}");
            false
        }
    }
}

fn facts(version: u8) -> Facts {
    Facts {
        cpus: 2,
        memory: 4 << 30,
        cgroup_version: version,
        log_driver: "json-file".into(),
        ..Facts::default()
    }
}

/// Every model of every body.
fn all(body: &[u8]) {
    if let Some(create) = whole::<ContainerCreateBody>(body) {
        let request = config::Request::from(create);
        if let Ok(merged) = config::merge(request.config, &Default::default()) {
            for version in [1, 2] {
                let facts = facts(version);
                let mut host = request.host.clone();
                is_clients_fault(run::blueprint(&merged, &host, &facts));
                is_clients_fault(run::defaults(&mut host, &facts));
            }
        }
        for settings in request.networking.endpoints_config.unwrap_or_default().values() {
            is_clients_fault(endpoint::check(settings));
        }
    }
    if let Some(update) = whole::<ContainerUpdateBody>(body) {
        let host = limits::updated(&HostConfig::default(), &update);
        is_clients_fault(limits::check(&(&host).into(), &facts(2), true));
    }
    if let Some(connect) = whole::<NetworkConnectRequest>(body)
        && let Some(settings) = &connect.endpoint_config
    {
        is_clients_fault(endpoint::check(settings));
    }
    whole::<ContainerConfig>(body);
    whole::<ExecConfig>(body);
    whole::<ExecStartConfig>(body);
    whole::<NetworkCreateRequest>(body);
    whole::<NetworkDisconnectRequest>(body);
    whole::<VolumeCreateRequest>(body);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bodies_of_the_apis_words(body in value()) {
        all(body.to_string().as_bytes());
    }

    #[test]
    fn bodies_that_nearly_fit(body in fields(CONFIG)) {
        all(body.to_string().as_bytes());
    }

    #[test]
    fn bodies_with_a_byte_changed(body in fields(CONFIG), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = body.to_string().into_bytes();
        let at = at.index(text.len());
        if let Some(slot) = text.get_mut(at) {
            *slot = byte;
        }
        all(&text);
        all(text.get(..at).unwrap_or_default());
    }
}

/// Most of what nearly fits does: a generator whose bodies are all refused would test nothing.
#[test]
fn many_of_them_are_read_and_some_are_planned() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = fields(CONFIG);
    let (mut read_well, mut planned) = (0, 0);
    for _ in 0..300 {
        let body = strategy.new_tree(&mut runner).unwrap().current().to_string();
        let Some(create) = whole::<ContainerCreateBody>(body.as_bytes()) else { continue };
        read_well += 1;
        let request = config::Request::from(create);
        let Ok(merged) = config::merge(request.config, &Default::default()) else {
            continue;
        };
        planned += u32::from(run::blueprint(&merged, &request.host, &facts(1)).is_ok());
    }
    assert!(read_well > 100 && planned > 10, "{read_well} read, {planned} planned");
}

#[test]
fn depth_is_bounded() {
    for open in ["[", "{\"HostConfig\":"] {
        let deep = open.repeat(200_000);
        all(deep.as_bytes());
    }
}
