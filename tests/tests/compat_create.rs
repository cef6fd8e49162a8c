//! Everything that the reference lets a client say when it makes a container: what comes of each field; none is silently
//! dropped. And what inspect shows makes the same container again.

#![cfg(test)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wharf_tests::{Daemon, reference};

/// What comes of a field.
enum Fate {
    /// Inspect shows it as it was given.
    Shown,
    /// A shell inside prints this; inspect shows what was given.
    Inside(&'static str, String),
    /// Refused with this text.
    Refused(&'static str),
    /// Docker's own daemon does nothing with it, and neither does this one.
    Ignored,
}
use Fate::{Ignored, Inside, Refused, Shown};

/// Path of the field in the request, the parts of the request that give it a value, what comes of it.
type Row = (&'static str, Value, Fate);

fn unified() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A shell's look at a cgroup file: where it is in v1, and in v2.
fn cgroup(v1: &'static str, one: &str, v2: &'static str, two: &str) -> Fate {
    if unified() { Inside(v2, two.to_owned()) } else { Inside(v1, one.to_owned()) }
}

fn inside(script: &'static str, output: &str) -> Fate {
    Inside(script, output.to_owned())
}

fn namespace(kind: &str) -> String {
    std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

fn config() -> Vec<Row> {
    vec![
        ("Hostname", json!({"Hostname": "myhost"}), inside("hostname", "myhost")),
        (
            "Domainname",
            json!({"Domainname": "dom.test"}),
            inside("cat /proc/sys/kernel/domainname", "dom.test"),
        ),
        ("User", json!({"User": "12:34"}), inside("id -u; id -g", "12\n34")),
        ("AttachStdin", json!({"AttachStdin": true}), Shown),
        ("AttachStdout", json!({"AttachStdout": true}), Shown),
        ("AttachStderr", json!({"AttachStderr": true}), Shown),
        ("ExposedPorts", json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}), Shown),
        ("Tty", json!({"Tty": true}), inside("tty", "/dev/pts/0")),
        ("OpenStdin", json!({"OpenStdin": true}), Shown),
        ("StdinOnce", json!({"StdinOnce": true}), Shown),
        ("Env", json!({"Env": ["A=b c", "EMPTY="]}), inside("echo \"$A[$EMPTY]\"", "b c[]")),
        ("Cmd", json!({"Cmd": ["sh", "-c", "true", "x"]}), Shown),
        (
            "Healthcheck",
            json!({"Healthcheck": {"Test": ["CMD", "true"], "Interval": 2_000_000_000_i64, "Timeout": 3_000_000_000_i64,
                "Retries": 4, "StartPeriod": 5_000_000_000_i64, "StartInterval": 1_000_000_000_i64}}),
            Shown,
        ),
        ("ArgsEscaped", json!({"ArgsEscaped": true}), Shown),
        ("Image", json!({"Image": "busybox:latest"}), Shown),
        ("Volumes", json!({"Volumes": {"/anon": {}}}), inside("grep -c ' /anon ' /proc/mounts", "1")),
        ("WorkingDir", json!({"WorkingDir": "/tmp/new"}), inside("pwd", "/tmp/new")),
        ("Entrypoint", json!({"Entrypoint": ["env", "-i"]}), Shown),
        (
            "NetworkDisabled",
            json!({"NetworkDisabled": true, "HostConfig": {"NetworkMode": "bridge"}}),
            inside("ls /sys/class/net", "lo"),
        ),
        ("OnBuild", json!({"OnBuild": ["RUN true"]}), Shown),
        ("Labels", json!({"Labels": {"a.b": "c", "empty": ""}}), Shown),
        ("StopSignal", json!({"StopSignal": "SIGUSR1"}), Shown),
        ("StopTimeout", json!({"StopTimeout": 7}), Shown),
        ("Shell", json!({"Shell": ["/bin/ash", "-c"]}), Shown),
    ]
}

fn host() -> Vec<Row> {
    let realtime = std::path::Path::new("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists();
    let real =
        |fate: Fate| if realtime { fate } else { Refused("kernel does not support CPU real-time scheduler") };
    let host = |value: Value| json!({"HostConfig": value});
    vec![
        (
            "CpuShares",
            host(json!({"CpuShares": 512})),
            cgroup("cat /sys/fs/cgroup/cpu/cpu.shares", "512", "cat /sys/fs/cgroup/cpu.weight", "20"),
        ),
        (
            "Memory",
            host(json!({"Memory": 67_108_864})),
            cgroup(
                "cat /sys/fs/cgroup/memory/memory.limit_in_bytes",
                "67108864",
                "cat /sys/fs/cgroup/memory.max",
                "67108864",
            ),
        ),
        ("CgroupParent", host(json!({"CgroupParent": "/some-parent"})), Shown),
        ("BlkioWeight", host(json!({"BlkioWeight": 300})), Shown),
        (
            "BlkioWeightDevice",
            host(json!({"BlkioWeightDevice": [{"Path": "/dev/loop0", "Weight": 200}]})),
            Shown,
        ),
        (
            "BlkioDeviceReadBps",
            host(json!({"BlkioDeviceReadBps": [{"Path": "/dev/loop0", "Rate": 1024}]})),
            Shown,
        ),
        (
            "BlkioDeviceWriteBps",
            host(json!({"BlkioDeviceWriteBps": [{"Path": "/dev/loop0", "Rate": 1024}]})),
            Shown,
        ),
        (
            "BlkioDeviceReadIOps",
            host(json!({"BlkioDeviceReadIOps": [{"Path": "/dev/loop0", "Rate": 10}]})),
            Shown,
        ),
        (
            "BlkioDeviceWriteIOps",
            host(json!({"BlkioDeviceWriteIOps": [{"Path": "/dev/loop0", "Rate": 10}]})),
            Shown,
        ),
        (
            "CpuPeriod",
            host(json!({"CpuPeriod": 50_000, "CpuQuota": 20_000})),
            cgroup(
                "cat /sys/fs/cgroup/cpu/cpu.cfs_period_us",
                "50000",
                "cat /sys/fs/cgroup/cpu.max",
                "20000 50000",
            ),
        ),
        (
            "CpuQuota",
            host(json!({"CpuPeriod": 50_000, "CpuQuota": 20_000})),
            cgroup(
                "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                "20000",
                "cat /sys/fs/cgroup/cpu.max",
                "20000 50000",
            ),
        ),
        ("CpuRealtimePeriod", host(json!({"CpuRealtimePeriod": 1_000_000})), real(Shown)),
        (
            "CpuRealtimeRuntime",
            host(json!({"CpuRealtimeRuntime": 1000, "CpuRealtimePeriod": 1_000_000})),
            real(Shown),
        ),
        (
            "CpusetCpus",
            host(json!({"CpusetCpus": "0"})),
            inside("grep Cpus_allowed_list /proc/self/status | cut -f2", "0"),
        ),
        (
            "CpusetMems",
            host(json!({"CpusetMems": "0"})),
            inside("grep Mems_allowed_list /proc/self/status | cut -f2", "0"),
        ),
        (
            "Devices",
            host(
                json!({"Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/mine", "CgroupPermissions": "rw"}]}),
            ),
            inside("test -c /dev/mine && echo x > /dev/mine && echo ok", "ok"),
        ),
        ("DeviceCgroupRules", host(json!({"DeviceCgroupRules": ["c 1:3 rw"]})), Shown),
        (
            "DeviceRequests",
            host(json!({"DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]})),
            Refused("could not select device driver \"\" with capabilities: [[gpu]]"),
        ),
        (
            "MemoryReservation",
            host(json!({"MemoryReservation": 33_554_432})),
            cgroup(
                "cat /sys/fs/cgroup/memory/memory.soft_limit_in_bytes",
                "33554432",
                "cat /sys/fs/cgroup/memory.low",
                "33554432",
            ),
        ),
        ("MemorySwap", host(json!({"Memory": 67_108_864, "MemorySwap": 100_663_296})), Shown),
        ("MemorySwappiness", host(json!({"MemorySwappiness": 10})), Shown),
        (
            "NanoCpus",
            host(json!({"NanoCpus": 500_000_000})),
            cgroup(
                "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us",
                "50000",
                "cat /sys/fs/cgroup/cpu.max",
                "50000 100000",
            ),
        ),
        ("OomKillDisable", host(json!({"OomKillDisable": true, "Memory": 67_108_864})), Shown),
        ("Init", host(json!({"Init": true})), inside("test $$ != 1 && echo second", "second")),
        (
            "PidsLimit",
            host(json!({"PidsLimit": 50})),
            cgroup("cat /sys/fs/cgroup/pids/pids.max", "50", "cat /sys/fs/cgroup/pids.max", "50"),
        ),
        (
            "Ulimits",
            host(json!({"Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}]})),
            inside("ulimit -Sn; ulimit -Hn", "100\n200"),
        ),
        ("CpuCount", host(json!({"CpuCount": 2})), Shown),
        ("CpuPercent", host(json!({"CpuPercent": 5})), Shown),
        (
            "IOMaximumIOps",
            host(json!({"IOMaximumIOps": 5})),
            Refused("invalid option: QoS maximum IOPs configuration is not supported on linux"),
        ),
        (
            "IOMaximumBandwidth",
            host(json!({"IOMaximumBandwidth": 5})),
            Refused("invalid option: QoS maximum bandwidth configuration is not supported on linux"),
        ),
        (
            "Binds",
            host(json!({"Binds": ["/tmp:/bound:ro", "named:/named"]})),
            inside("grep -c -E ' /(bound|named) ' /proc/mounts", "2"),
        ),
        ("ContainerIDFile", host(json!({"ContainerIDFile": "/tmp/id"})), Shown),
        (
            "LogConfig",
            host(json!({"LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}})),
            Shown,
        ),
        ("NetworkMode", host(json!({"NetworkMode": "host"})), Shown),
        (
            "PortBindings",
            host(
                json!({"NetworkMode": "bridge", "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}),
            ),
            Shown,
        ),
        (
            "RestartPolicy",
            host(json!({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}})),
            Shown,
        ),
        ("AutoRemove", host(json!({"AutoRemove": true})), Shown),
        ("VolumeDriver", host(json!({"VolumeDriver": "local", "Binds": ["driven:/d"]})), Shown),
        (
            "VolumesFrom",
            host(json!({"VolumesFrom": ["donor:ro"]})),
            inside("cat /given/file; touch /given/x 2>/dev/null || echo fixed", "from the donor\nfixed"),
        ),
        (
            "Mounts",
            host(json!({"Mounts": [
                {"Type": "tmpfs", "Target": "/mem", "TmpfsOptions": {"SizeBytes": 1_048_576, "Mode": 0o700, "Options": [["noexec"]]}},
                {"Type": "volume", "Source": "mounted", "Target": "/vol", "VolumeOptions": {"NoCopy": true, "Labels": {"l": "m"}, "DriverConfig": {"Name": "local"}}},
                {"Type": "bind", "Source": "/tmp", "Target": "/host", "ReadOnly": true, "Consistency": "cached",
                    "BindOptions": {"Propagation": "private", "NonRecursive": true, "CreateMountpoint": true, "ReadOnlyNonRecursive": true}},
                {"Type": "image", "Source": "busybox", "Target": "/img", "ImageOptions": {"Subpath": "bin"}},
            ]})),
            inside(
                "grep -c -E ' /(mem|vol|host|img) ' /proc/mounts; stat -c %a /mem; test -e /img/busybox && echo image",
                "4\n700\nimage",
            ),
        ),
        ("ConsoleSize", host(json!({"ConsoleSize": [30, 90]})), Shown),
        ("Annotations", host(json!({"Annotations": {"io.test/note": "x"}})), Shown),
        ("CapAdd", host(json!({"CapAdd": ["sys_time", "CAP_NET_ADMIN"]})), Shown),
        (
            "CapDrop",
            host(json!({"CapDrop": ["ALL"]})),
            inside("grep CapEff /proc/self/status | cut -f2", "0000000000000000"),
        ),
        (
            "CgroupnsMode",
            host(json!({"CgroupnsMode": "host"})),
            inside("readlink /proc/self/ns/cgroup", &namespace("cgroup")),
        ),
        (
            "Dns",
            host(json!({"NetworkMode": "bridge", "Dns": ["10.9.8.7"]})),
            inside("grep -c 'nameserver 10.9.8.7' /etc/resolv.conf", "1"),
        ),
        (
            "DnsOptions",
            host(json!({"NetworkMode": "bridge", "DnsOptions": ["timeout:3"]})),
            inside("grep -c 'options.*timeout:3' /etc/resolv.conf", "1"),
        ),
        (
            "DnsSearch",
            host(json!({"NetworkMode": "bridge", "DnsSearch": ["look.test"]})),
            inside("grep -c 'search look.test' /etc/resolv.conf", "1"),
        ),
        (
            "ExtraHosts",
            host(json!({"ExtraHosts": ["other.test:10.1.2.3"]})),
            inside("grep -c '10.1.2.3.*other.test' /etc/hosts", "1"),
        ),
        (
            "GroupAdd",
            host(json!({"GroupAdd": ["1234"]})),
            inside("id -G | tr ' ' '\\n' | grep -x 1234", "1234"),
        ),
        (
            "IpcMode",
            host(json!({"IpcMode": "host"})),
            inside("readlink /proc/self/ns/ipc", &namespace("ipc")),
        ),
        ("Cgroup", host(json!({"Cgroup": ""})), Ignored),
        ("Links", host(json!({"Links": []})), Ignored),
        ("OomScoreAdj", host(json!({"OomScoreAdj": 321})), inside("cat /proc/self/oom_score_adj", "321")),
        (
            "PidMode",
            host(json!({"PidMode": "host"})),
            inside("readlink /proc/self/ns/pid", &namespace("pid")),
        ),
        (
            "Privileged",
            host(json!({"Privileged": true})),
            inside("test -w /sys && grep -c Seccomp:.0 /proc/self/status", "1"),
        ),
        ("PublishAllPorts", host(json!({"PublishAllPorts": true})), Shown),
        (
            "ReadonlyRootfs",
            host(json!({"ReadonlyRootfs": true})),
            inside("touch /x 2>/dev/null || echo fixed", "fixed"),
        ),
        (
            "SecurityOpt",
            host(json!({"SecurityOpt": ["no-new-privileges"]})),
            inside("grep NoNewPrivs /proc/self/status | cut -f2", "1"),
        ),
        ("StorageOpt", host(json!({"StorageOpt": {"nonsense": "1"}})), Refused("nonsense")),
        ("Tmpfs", host(json!({"Tmpfs": {"/t": "size=1m,mode=1770"}})), inside("stat -c %a /t", "1770")),
        (
            "UTSMode",
            host(json!({"UTSMode": "host"})),
            inside("readlink /proc/self/ns/uts", &namespace("uts")),
        ),
        ("UsernsMode", host(json!({"UsernsMode": "host"})), Shown),
        (
            "ShmSize",
            host(json!({"ShmSize": 1_048_576})),
            inside("df -k /dev/shm | tail -1 | awk '{print $2}'", "1024"),
        ),
        (
            "Sysctls",
            host(json!({"Sysctls": {"kernel.msgmax": "9999"}})),
            inside("cat /proc/sys/kernel/msgmax", "9999"),
        ),
        ("Runtime", host(json!({"Runtime": "runc"})), Shown),
        ("Isolation", host(json!({"Isolation": "default"})), Shown),
        ("MaskedPaths", host(json!({"MaskedPaths": ["/proc/keys"]})), inside("cat /proc/keys | wc -c", "0")),
        (
            "ReadonlyPaths",
            host(json!({"ReadonlyPaths": ["/proc/sys"]})),
            inside("echo 1 2>/dev/null > /proc/sys/kernel/msgmax || echo fixed", "fixed"),
        ),
    ]
}

/// Of one endpoint, in a network `own` with the subnet 10.77.0.0/24.
fn endpoint() -> Vec<Row> {
    let own = |value: Value| json!({"HostConfig": {"NetworkMode": "own"}, "NetworkingConfig": {"EndpointsConfig": {"own": value}}});
    vec![
        (
            "IPAMConfig",
            own(json!({"IPAMConfig": {"IPv4Address": "10.77.0.50", "LinkLocalIPs": ["169.254.9.9"]}})),
            inside("ip addr show eth0 | grep -c -E 'inet (10.77.0.50/24|169.254.9.9/16)'", "2"),
        ),
        ("Links", own(json!({"Links": []})), Ignored),
        (
            "MacAddress",
            own(json!({"MacAddress": "02:42:0a:4d:00:99"})),
            inside("cat /sys/class/net/eth0/address", "02:42:0a:4d:00:99"),
        ),
        ("Aliases", own(json!({"Aliases": ["second"]})), Shown),
        (
            "DriverOpts",
            own(
                json!({"DriverOpts": {"com.docker.network.endpoint.ifname": "lan0", "com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.arp_filter=1"}}),
            ),
            inside("cat /proc/sys/net/ipv4/conf/lan0/arp_filter", "1"),
        ),
        ("GwPriority", own(json!({"GwPriority": 5})), Shown),
        // What the engine gives: words of a client about it are not heard, so that inspect's answer can be sent as it is.
        ("NetworkID", own(json!({"NetworkID": "nonsense"})), Ignored),
        ("EndpointID", own(json!({"EndpointID": "nonsense"})), Ignored),
        ("Gateway", own(json!({"Gateway": "1.2.3.4"})), Ignored),
        ("IPAddress", own(json!({"IPAddress": "1.2.3.4"})), Ignored),
        ("IPPrefixLen", own(json!({"IPPrefixLen": 3})), Ignored),
        ("IPv6Gateway", own(json!({"IPv6Gateway": "fe80::1"})), Ignored),
        ("GlobalIPv6Address", own(json!({"GlobalIPv6Address": "fd00::1"})), Ignored),
        ("GlobalIPv6PrefixLen", own(json!({"GlobalIPv6PrefixLen": 3})), Ignored),
        ("DNSNames", own(json!({"DNSNames": ["x"]})), Ignored),
    ]
}

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d.docker(&["network", "create", "--subnet", "10.77.0.0/24", "own"]).ok();
    d.docker(&[
        "run",
        "--name",
        "donor",
        "-v",
        "given:/given",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo from the donor > /given/file",
    ])
    .ok();
    d
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => into.clone_from(more),
    }
}

/// The value that a request has at the place of the table's path.
fn at<'a>(request: &'a Value, part: &str, field: &str) -> &'a Value {
    match part {
        "Config" => &request[field],
        "HostConfig" => &request["HostConfig"][field],
        _ => &request["NetworkingConfig"]["EndpointsConfig"]["own"][field],
    }
}

fn shown<'a>(inspected: &'a Value, part: &str, field: &str) -> &'a Value {
    match part {
        "Endpoint" => &inspected["NetworkSettings"]["Networks"]["own"][field],
        part => &inspected[part][field],
    }
}

/// Everything that was given is there; maps may have more.
fn contains(there: &Value, given: &Value) -> bool {
    match (there, given) {
        (Value::Object(there), Value::Object(given)) => {
            given.iter().all(|(k, v)| there.get(k).is_some_and(|t| contains(t, v)) || v.is_null())
        }
        (Value::Array(there), Value::Array(given)) if there.len() == given.len() => {
            there.iter().zip(given).all(|(t, g)| contains(t, g))
        }
        (Value::Array(there), Value::Array(given)) => given.iter().all(|g| there.contains(g)),
        (there, given) => there == given,
    }
}

fn check(d: &Daemon, part: &str, row: &Row) {
    let (field, parts, fate) = row;
    let name = format!("{part}.{field}");
    let mut request = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}});
    merge(&mut request, parts);
    if let Inside(script, _) = fate {
        request["Cmd"] = json!(["sh", "-c", script]);
    }
    let made = d.api("POST", "/v1.55/containers/create?name=probe", &request.to_string());
    if let Refused(text) = fate {
        assert_eq!(made.status, 400, "{name}: {}", made.text());
        assert!(made.message().contains(text), "{name}: {}", made.message());
        return;
    }
    assert_eq!(made.status, 201, "{name}: {}", made.text());
    let inspected = d.api("GET", "/v1.55/containers/probe/json", "").json();
    let (given, found) = (at(&request, part, field), shown(&inspected, part, field));
    match fate {
        Ignored => assert!(part != "Endpoint" || found != given || given == &json!([]), "{name}: {found}"),
        Shown | Inside(..) => assert!(contains(found, given), "{name}: {given} became {found}"),
        Refused(_) => {}
    }
    if let Inside(_, wanted) = fate {
        let started = d.api("POST", "/containers/probe/start", "");
        assert_eq!(started.status, 204, "{name}: {}", started.text());
        d.api("POST", "/containers/probe/wait", "");
        let said = d.docker(&["logs", "probe"]);
        assert_eq!(said.out.replace('\r', "").trim_end(), wanted, "{name}: {}", said.err);
    }
    assert_eq!(d.api("DELETE", "/containers/probe?v=1&force=1", "").status, 204, "{name}");
}

#[test]
fn every_field_of_config() {
    let d = daemon();
    for row in &config() {
        check(&d, "Config", row);
    }
}

#[test]
fn every_field_of_host_config() {
    let d = daemon();
    for row in &host() {
        check(&d, "HostConfig", row);
    }
}

#[test]
fn every_field_of_an_endpoint() {
    let d = daemon();
    for row in &endpoint() {
        check(&d, "Endpoint", row);
    }
}

/// The tables know every field of the reference, and nothing that is not there.
#[test]
fn the_tables_are_those_of_the_reference() {
    let Some(schema) = reference::schema() else { return };
    for (definition, rows) in
        [("ContainerConfig", config()), ("HostConfig", host()), ("EndpointSettings", endpoint())]
    {
        let known: BTreeSet<String> = rows.iter().map(|row| row.0.to_owned()).collect();
        let said = reference::fields(&schema, definition);
        assert!(said.len() > 10, "{definition}: {said:?}");
        assert_eq!(known, said, "{definition}");
    }
}

/// As Watchtower and Portainer do it: what inspect shows of one container makes another, which inspect shows the same.
#[test]
fn what_inspect_shows_makes_the_same_container() {
    let d = daemon();
    let rows: Vec<(String, Value)> = [("Config", config()), ("HostConfig", host()), ("Endpoint", endpoint())]
        .into_iter()
        .flat_map(|(part, rows)| rows.into_iter().map(move |row| (part, row)))
        .filter(|(_, row)| !matches!(row.2, Refused(_)))
        // Those exclude each other with most others; they have their own cases above.
        .filter(|(_, row)| !matches!(row.0, "NetworkMode" | "UTSMode" | "AutoRemove" | "NetworkDisabled"))
        .map(|(part, row)| (format!("{part}.{}", row.0), row.1))
        .collect();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |limit: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % limit as u64).unwrap()
    };
    let (mut made, mut refused) = (0, 0);
    for round in 0..120 {
        let mut request = json!({"Image": "busybox", "Cmd": ["sleep", "600"]});
        let mut names = Vec::new();
        for _ in 0..=next(12) {
            let (name, parts) = &rows[next(rows.len())];
            names.push(name.clone());
            merge(&mut request, parts);
        }
        let first = d.api("POST", "/v1.55/containers/create?name=first", &request.to_string());
        if first.status == 400 {
            // Two fields that exclude each other.
            refused += 1;
            continue;
        }
        assert_eq!(first.status, 201, "{names:?}: {}", first.text());
        // From the oldest version that knows all of these fields.
        let version = ["1.48", "1.50", "1.55"][round % 3];
        let one = d.api("GET", &format!("/v{version}/containers/first/json"), "").json();
        let mut again = one["Config"].clone();
        again["HostConfig"] = one["HostConfig"].clone();
        again["NetworkingConfig"] = json!({"EndpointsConfig": one["NetworkSettings"]["Networks"]});
        let second = d.api("POST", &format!("/v{version}/containers/create?name=second"), &again.to_string());
        assert_eq!(second.status, 201, "{names:?} {version}: {}", second.text());
        let two = d.api("GET", &format!("/v{version}/containers/second/json"), "").json();
        let bare = |c: &Value| {
            let mut config = c["Config"].clone();
            // The host name is the id where none was given.
            if config["Hostname"]
                .as_str()
                .is_some_and(|h| c["Id"].as_str().unwrap().starts_with(h) && h.len() == 12)
            {
                config["Hostname"] = json!("");
            }
            config
        };
        let (mut left, mut right) = (bare(&one), bare(&two));
        if left["Hostname"] == "" {
            // The copy took the first one's short id for a name that was given.
            (left["Hostname"], right["Hostname"]) = (Value::Null, Value::Null);
        }
        assert_eq!(left, right, "{names:?} {version}");
        assert_eq!(one["HostConfig"], two["HostConfig"], "{names:?} {version}");
        for (network, asked) in one["NetworkSettings"]["Networks"].as_object().unwrap() {
            let other = &two["NetworkSettings"]["Networks"][network];
            for key in ["IPAMConfig", "MacAddress", "DriverOpts", "GwPriority", "NetworkID"] {
                assert_eq!(asked[key], other[key], "{names:?} {version} {network} {key}");
            }
        }
        let targets = |c: &Value| -> BTreeSet<String> {
            c["Mounts"].as_array().unwrap().iter().map(|m| m["Destination"].to_string()).collect()
        };
        assert_eq!(targets(&one), targets(&two), "{names:?}");
        for name in ["first", "second"] {
            assert_eq!(d.api("DELETE", &format!("/containers/{name}?v=1"), "").status, 204);
        }
        made += 1;
    }
    assert!(made >= 60, "{made} made, {refused} refused");
}
