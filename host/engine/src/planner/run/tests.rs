use super::*;
use crate::Kind as ErrorKind;
use crate::models::{DeviceMapping, PortBinding, RestartPolicy, RestartPolicyNameEnum};

fn facts() -> Facts {
    Facts { cpus: 2, memory: 4 << 30, cgroup_version: 1, log_driver: "json-file".into(), ..Facts::default() }
}

fn config() -> ContainerConfig {
    ContainerConfig { cmd: Some(vec!["true".into()]), ..ContainerConfig::default() }
}

fn refused(host: &HostConfig) -> String {
    let e = blueprint(&config(), host, &facts()).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Invalid);
    e.message
}

#[allow(clippy::unnecessary_wraps, reason = "the models' fields are options")]
fn s(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|s| (*s).to_owned()).collect())
}

#[test]
fn refusals() {
    let d = HostConfig::default;
    let policy = |name, count| Some(RestartPolicy { name: Some(name), maximum_retry_count: Some(count) });
    let bound = Some([("80/tcp".to_owned(), Some(vec![PortBinding::default()]))].into());
    let cases: Vec<(HostConfig, &str)> = vec![
        (HostConfig { ipc_mode: Some("x".into()), ..d() }, "invalid IPC mode: x"),
        (HostConfig { cap_add: s(&["FOO"]), ..d() }, "invalid CapAdd: unknown capability: \"CAP_FOO\""),
        (
            HostConfig { oom_score_adj: Some(1001), ..d() },
            "Invalid value 1001, range for oom score adj is [-1000, 1000]",
        ),
        (
            HostConfig { restart_policy: policy(RestartPolicyNameEnum::ALWAYS, 3), ..d() },
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            HostConfig { restart_policy: policy(RestartPolicyNameEnum::ON_FAILURE, -1), ..d() },
            "invalid restart policy: maximum retry count cannot be negative",
        ),
        (
            HostConfig {
                auto_remove: Some(true),
                restart_policy: policy(RestartPolicyNameEnum::ALWAYS, 0),
                ..d()
            },
            "can't create 'AutoRemove' container with restart policy",
        ),
        (HostConfig { shm_size: Some(-1), ..d() }, "SHM size can not be less than 0"),
        (
            HostConfig { network_mode: Some("container:a".into()), port_bindings: bound, ..d() },
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            HostConfig { network_mode: Some("container:a".into()), dns: s(&["1.1.1.1"]), ..d() },
            "conflicting options: dns and the network mode",
        ),
        (
            HostConfig { sysctls: Some([("kernel.sysrq".into(), "1".into())].into()), ..d() },
            "sysctl \"kernel.sysrq\" is not in a separate kernel namespace",
        ),
        (HostConfig { device_cgroup_rules: s(&["x"]), ..d() }, "invalid device cgroup rule format: 'x'"),
        (
            HostConfig {
                devices: Some(vec![DeviceMapping {
                    cgroup_permissions: Some("q".into()),
                    ..DeviceMapping::default()
                }]),
                ..d()
            },
            "invalid device mode: q",
        ),
        (HostConfig { cgroup_parent: Some("/a/../..".into()), ..d() }, "invalid cgroup parent \"/a/../..\""),
        (HostConfig { extra_hosts: s(&["x"]), ..d() }, "bad format for add-host: \"x\""),
        (HostConfig { dns: s(&["x"]), ..d() }, "invalid DNS server address: \"x\" is not an ip address"),
        (HostConfig { security_opt: s(&["x"]), ..d() }, "invalid --security-opt 1: \"x\""),
    ];
    for (host, text) in cases {
        assert_eq!(refused(&host), text);
    }
    let host = HostConfig { runtime: Some("kata".into()), ..d() };
    let error = check_runtime(&host, &Facts::default()).unwrap_err();
    assert_eq!(error.message, "unknown or invalid runtime name: kata");
    assert!(check_runtime(&HostConfig { runtime: Some("runc".into()), ..d() }, &Facts::default()).is_ok());
}

fn planned(host: &HostConfig, specs: &[(MountSpec, bool)], start: Start<'_>) -> RunPlan {
    let c = config();
    let b = blueprint(&c, host, &facts()).unwrap();
    plan("0123456789abcdef", &c, host, &b, &facts(), specs, start)
}

#[test]
fn an_ordinary_container_is_confined() {
    let p = planned(&HostConfig::default(), &[], Start { hostname: "h", ..Start::default() });
    assert_eq!(p.process.capabilities.inheritable, 0);
    assert_eq!(p.process.capabilities.ambient, 0);
    assert_eq!(p.process.capabilities.bounding, caps::default_set());
    assert!(p.masked_paths.iter().any(|m| m == "/sys/devices/virtual/powercap"));
    let places: Vec<_> = p.mounts.iter().map(|m| m.target.as_str()).collect();
    assert_eq!(places, ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm"]);
    let sys = p.mounts.iter().find(|m| m.target == "/sys").unwrap();
    assert!(sys.read_only && sys.no_suid && sys.no_exec && sys.no_dev);
    let rules = p.cgroup.unwrap().resources.devices;
    assert!(!rules[0].allow);
    assert_eq!(p.hostname.as_deref(), Some("h"));
}

#[test]
fn a_privileged_one_is_not() {
    let host = HostConfig { privileged: Some(true), ..HostConfig::default() };
    let p = planned(&host, &[], Start::default());
    assert_eq!(p.process.capabilities.bounding, caps::all());
    assert!(p.masked_paths.is_empty() && p.readonly_paths.is_empty());
    assert!(p.cgroup.unwrap().resources.devices.is_empty());
    assert!(!p.mounts.iter().find(|m| m.target == "/sys").unwrap().read_only);
}

#[test]
fn mounts_replace_the_standard_ones() {
    let specs = [
        (mounts::tmpfs("/dev/shm", "size=1m").unwrap(), false),
        (mounts::bind("/x:/etc/hosts:ro", "").unwrap(), true),
    ];
    let start = Start {
        files: vec![("/etc/hosts", 5), ("/etc/hostname", 6)],
        trees: vec![None, Some(9)],
        ..Start::default()
    };
    let p = planned(&HostConfig::default(), &specs, start);
    assert_eq!(p.mounts.iter().filter(|m| m.target == "/dev/shm").count(), 1);
    let hosts: Vec<_> = p.mounts.iter().filter(|m| m.target == "/etc/hosts").collect();
    assert_eq!(hosts.len(), 1);
    assert!(hosts[0].read_only && hosts[0].file && hosts[0].source == MountSource::Tree(9));
}

#[test]
fn joined_namespaces() {
    let host =
        HostConfig { ipc_mode: Some("host".into()), uts_mode: Some("host".into()), ..HostConfig::default() };
    let start = Start {
        namespaces: Namespaces { uts: Namespace::Host, ipc: Namespace::Host, ..Namespaces::default() },
        shm: Some(3),
        hostname: "h",
        ..Start::default()
    };
    let p = planned(&host, &[], start);
    assert_eq!(p.hostname, None);
    assert!(!p.mounts.iter().any(|m| m.target == "/dev/mqueue"));
    assert!(p.mounts.iter().any(|m| m.target == "/dev/shm" && m.source == MountSource::Tree(3)));
}

#[test]
fn defaults_are_filled_in() {
    let mut host = HostConfig {
        cap_add: s(&["net_admin", "CAP_NET_ADMIN"]),
        memory: Some(64 << 20),
        ..HostConfig::default()
    };
    defaults(&mut host, &facts()).unwrap();
    assert_eq!(host.network_mode.as_deref(), Some("bridge"));
    assert_eq!(host.shm_size, Some(64 << 20));
    assert_eq!(host.log_config.unwrap().typ.as_deref(), Some("json-file"));
    assert_eq!(host.cap_add, s(&["net_admin", "CAP_NET_ADMIN"]));
    let mut dropped = HostConfig { cap_drop: s(&["none"]), ..HostConfig::default() };
    let message = defaults(&mut dropped, &facts()).unwrap_err().message;
    assert_eq!(message, "invalid CapDrop: unknown capability: \"CAP_NONE\"");
    assert_eq!(host.memory_swap, Some(128 << 20));
    assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
}

#[test]
fn an_exec_has_no_more_than_its_container() {
    let host = HostConfig {
        cap_drop: s(&["ALL"]),
        security_opt: s(&["no-new-privileges"]),
        ..HostConfig::default()
    };
    let c = ContainerConfig { env: s(&["A=1", "B=1"]), working_dir: Some("/w".into()), ..config() };
    let b = blueprint(&c, &host, &facts()).unwrap();
    let start = || ExecStart {
        id: "e".into(),
        container: "c".into(),
        account: Account::default(),
        seccomp: vec![vec![1]],
        apparmor: None,
        stdio: [None; 3],
        console_size: None,
        hostname: "h".into(),
        ids: None,
    };
    let exec = ExecConfig { cmd: s(&["id"]), env: s(&["A=2"]), ..ExecConfig::default() };
    let p = exec_plan(&exec, &c, &host, &b, start());
    assert_eq!(p.process.capabilities.bounding, 0);
    assert!(p.process.no_new_privs && p.process.seccomp == [vec![1]]);
    assert_eq!(p.process.cwd, "/w");
    assert!(p.process.env.contains(&"A=2".to_owned()) && p.process.env.contains(&"B=1".to_owned()));
    let privileged = ExecConfig { privileged: Some(true), ..exec };
    assert_eq!(exec_plan(&privileged, &c, &host, &b, start()).process.capabilities.bounding, caps::all());
}
