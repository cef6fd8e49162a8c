//! What answers and requests look like from API version to version, 1.24 to 1.55, over raw HTTP; and what of the
//! protocol old and odd clients need.

#![cfg(test)]

use std::io::{BufReader, Read, Write};

use serde_json::{Value, json};
use wharf_tests::{Daemon, connect, eventually, http};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn has(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).is_some()
}

/// One field of one answer: there from a version on, or until one.
enum Rule {
    Since(u32),
    Until(u32),
    Always,
}

impl Rule {
    fn holds(&self, version: u32) -> bool {
        match self {
            Self::Since(first) => version >= *first,
            Self::Until(last) => version <= *last,
            Self::Always => true,
        }
    }
}

#[test]
fn every_field_that_depends_on_the_version() {
    let d = daemon();
    let body = json!({
        "Image": "busybox", "Cmd": ["sleep", "600"], "Labels": {"a": "b"},
        "Healthcheck": {"Test": ["CMD", "true"]},
        "HostConfig": {"Annotations": {"note": "x"}, "Binds": ["vol:/v"]},
        "NetworkingConfig": {"EndpointsConfig": {"bridge": {"MacAddress": "02:42:ac:11:00:77"}}},
    });
    let made = d.api("POST", "/v1.55/containers/create?name=box", &body.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    d.docker(&["network", "create", "own"]).ok();
    d.docker(&["network", "connect", "--alias", "other", "own", "box"]).ok();
    d.docker(&["start", "box"]).ok();
    use Rule::{Always, Since, Until};
    let table: &[(&str, &[(&str, Rule)])] = &[
        (
            "/containers/box/json",
            &[
                ("/NetworkSettings/IPAddress", Until(51)),
                ("/NetworkSettings/Gateway", Until(51)),
                ("/NetworkSettings/IPPrefixLen", Until(51)),
                ("/NetworkSettings/MacAddress", Until(51)),
                ("/NetworkSettings/EndpointID", Until(51)),
                ("/NetworkSettings/GlobalIPv6Address", Until(51)),
                ("/NetworkSettings/Ports", Always),
                ("/NetworkSettings/SandboxID", Always),
                ("/NetworkSettings/Networks/bridge/IPAddress", Always),
                ("/NetworkSettings/Networks/own/DNSNames", Always),
                ("/Config/MacAddress", Until(51)),
                ("/State/Health/Status", Always),
                ("/HostConfig/Annotations/note", Always),
            ],
        ),
        (
            "/containers/json",
            &[
                ("/0/HostConfig/NetworkMode", Always),
                ("/0/HostConfig/Annotations", Since(46)),
                ("/0/Health", Since(52)),
                ("/0/NetworkSettings/Networks/bridge", Always),
            ],
        ),
        (
            "/containers/json?all=1&size=1",
            &[("/0/Health", Since(52)), ("/0/SizeRootFs", Always), ("/0/HostConfig/Annotations", Since(46))],
        ),
        (
            "/containers/json?all=1&filters=%7B%22name%22%3A%5B%22box%22%5D%7D",
            &[("/0/Health", Since(52)), ("/0/HostConfig/Annotations", Since(46))],
        ),
        (
            "/containers/box/stats?stream=false&one-shot=true",
            &[("/os_type", Since(52)), ("/cpu_stats", Always)],
        ),
        (
            "/images/busybox/json",
            &[
                ("/VirtualSize", Until(43)),
                ("/Container", Until(44)),
                ("/ContainerConfig", Until(44)),
                ("/RepoTags/0", Always),
                ("/Config", Always),
            ],
        ),
        ("/images/json", &[("/0/VirtualSize", Until(43)), ("/0/Size", Always), ("/0/RepoTags", Always)]),
        (
            "/info",
            &[
                ("/NRI", Since(99)),
                ("/DiscoveredDevices", Since(50)),
                ("/FirewallBackend", Since(49)),
                ("/BridgeNfIptables", Until(49)),
                ("/BridgeNfIp6tables", Until(49)),
                ("/RuncCommit/ID", Always),
                ("/RuncCommit/Expected", Until(48)),
                ("/ContainerdCommit/Expected", Until(48)),
                ("/InitCommit/Expected", Until(48)),
                ("/RegistryConfig/AllowNondistributableArtifactsCIDRs", Until(46)),
                ("/RegistryConfig/IndexConfigs/docker.io", Always),
                ("/Swarm/LocalNodeState", Always),
            ],
        ),
        (
            "/system/df",
            &[
                ("/Images", Until(52)),
                ("/Containers", Until(52)),
                ("/Volumes", Until(52)),
                ("/BuildCache", Until(52)),
                ("/LayersSize", Until(52)),
                ("/BuilderSize", Until(41)),
                ("/ImageUsage/TotalSize", Since(52)),
                ("/ContainerUsage/ActiveCount", Since(52)),
                ("/VolumeUsage/TotalCount", Since(52)),
                ("/BuildCacheUsage/Reclaimable", Since(52)),
                ("/Containers/0/Health", Rule::Since(99)),
            ],
        ),
        (
            "/networks/own",
            &[("/Status/IPAM/Subnets", Since(52)), ("/Containers", Always), ("/IPAM/Config", Always)],
        ),
        (
            "/version",
            &[("/ApiVersion", Always), ("/MinAPIVersion", Always), ("/Components/0/Details", Always)],
        ),
    ];
    for version in 24..=55 {
        for (path, rules) in table {
            let answer = d.api("GET", &format!("/v1.{version}{path}"), "");
            assert_eq!(answer.status, 200, "{version} {path}: {}", answer.text());
            let value = answer.json();
            for (pointer, rule) in *rules {
                // In 1.52 the containers of `df` are as in the list.
                if *pointer == "/Containers/0/Health" && version == 52 {
                    continue;
                }
                assert_eq!(
                    has(&value, pointer),
                    rule.holds(version),
                    "version 1.{version}: {path} {pointer}: {}",
                    answer.text()
                );
            }
            assert_eq!(answer.header("api-version"), Some("1.55"));
            assert_eq!(answer.header("ostype"), Some("linux"));
            assert!(answer.header("server").is_some_and(|s| s.contains("(linux)")), "{:?}", answer.headers);
        }
        // Names that a container answers to in a network of one's own.
        let c = d.api("GET", &format!("/v1.{version}/containers/box/json"), "").json();
        let aliases = c["NetworkSettings"]["Networks"]["own"]["Aliases"].as_array().unwrap();
        let short = &c["Id"].as_str().unwrap()[..12];
        assert!(aliases.iter().any(|a| a == "other"));
        assert_eq!(aliases.iter().any(|a| a == short), version < 45, "{version}: {aliases:?}");
    }
}

#[test]
fn requests_mean_what_they_meant_in_their_version() {
    let d = daemon();
    let create = |version: u32, body: Value| {
        let mut whole = json!({"Image": "busybox", "Cmd": ["sleep", "600"]});
        for (key, value) in body.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let made = d.api("POST", &format!("/v1.{version}/containers/create"), &whole.to_string());
        if made.status != 201 {
            return Err((made.status, made.message()));
        }
        let id = made.json()["Id"].as_str().unwrap().to_owned();
        let c = d.api("GET", &format!("/v1.51/containers/{id}/json"), "").json();
        assert_eq!(d.api("DELETE", &format!("/containers/{id}"), "").status, 204);
        Ok((c, made.json()["Warnings"].clone()))
    };
    let host = |host: Value| json!({"HostConfig": host});
    let v1 = std::path::Path::new("/sys/fs/cgroup/memory").exists();
    for (version, body, pointer, wanted) in [
        (24, host(json!({"AutoRemove": true})), "/HostConfig/AutoRemove", json!(false)),
        (25, host(json!({"AutoRemove": true})), "/HostConfig/AutoRemove", json!(true)),
        (39, json!({}), "/HostConfig/IpcMode", json!("shareable")),
        (40, json!({}), "/HostConfig/IpcMode", json!("private")),
        (40, json!({}), "/HostConfig/CgroupnsMode", json!(if v1 { "host" } else { "private" })),
        (41, json!({}), "/HostConfig/CgroupnsMode", json!("private")),
        (41, host(json!({"ConsoleSize": [5, 6]})), "/HostConfig/ConsoleSize", json!([0, 0])),
        (42, host(json!({"ConsoleSize": [5, 6]})), "/HostConfig/ConsoleSize", json!([5, 6])),
        (42, host(json!({"Annotations": {"a": "b"}})), "/HostConfig/Annotations", Value::Null),
        (43, host(json!({"Annotations": {"a": "b"}})), "/HostConfig/Annotations", json!({"a": "b"})),
        (47, host(json!({"PidsLimit": -1})), "/HostConfig/PidsLimit", Value::Null),
        (47, host(json!({"PidsLimit": 7})), "/HostConfig/PidsLimit", json!(7)),
        (
            43,
            json!({"Healthcheck": {"Test": ["CMD", "x"], "StartInterval": 5_000_000}}),
            "/Config/Healthcheck/StartInterval",
            Value::Null,
        ),
        (
            44,
            json!({"Healthcheck": {"Test": ["CMD", "x"], "StartInterval": 5_000_000}}),
            "/Config/Healthcheck/StartInterval",
            json!(5_000_000),
        ),
        (
            43,
            json!({"MacAddress": "02:42:ac:11:00:31"}),
            "/NetworkSettings/Networks/bridge/MacAddress",
            json!("02:42:ac:11:00:31"),
        ),
        (43, json!({"MacAddress": "02:42:ac:11:00:31"}), "/Config/MacAddress", json!("02:42:ac:11:00:31")),
        (
            51,
            host(json!({"PortBindings": {"80/tcp": []}})),
            "/HostConfig/PortBindings/80~1tcp/0/HostPort",
            json!(""),
        ),
        (53, host(json!({"PortBindings": {"80/tcp": []}})), "/HostConfig/PortBindings", json!({})),
        (
            47,
            host(json!({"Sysctls": {"net.ipv4.conf.eth0.forwarding": "1"}})),
            "/NetworkSettings/Networks/bridge/DriverOpts/com.docker.network.endpoint.sysctls",
            json!("net.ipv4.conf.IFNAME.forwarding=1"),
        ),
    ] {
        let (c, _) = create(version, body.clone()).unwrap();
        assert_eq!(
            c.pointer(pointer).cloned().unwrap_or(Value::Null),
            wanted,
            "1.{version} {body} {pointer}"
        );
    }
    for (version, body, text) in [
        (
            43,
            json!({"NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}}),
            "multiple network endpoints: a, b",
        ),
        (
            43,
            host(
                json!({"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/x", "BindOptions": {"ReadOnlyForceRecursive": true}}]}),
            ),
            "needs API v1.44",
        ),
        (
            44,
            host(
                json!({"Mounts": [{"Type": "volume", "Source": "vol", "Target": "/x", "VolumeOptions": {"Subpath": "a"}}]}),
            ),
            "needs API v1.45",
        ),
        (
            47,
            host(json!({"Mounts": [{"Type": "image", "Source": "busybox", "Target": "/x"}]})),
            "needs API v1.48",
        ),
        (
            42,
            host(
                json!({"Mounts": [{"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {}}]}),
            ),
            "field VolumeOptions must not be specified",
        ),
        (
            43,
            json!({"MacAddress": "02:42:ac:11:00:31", "HostConfig": {"NetworkMode": "host"}}),
            "mac-address and the network mode",
        ),
        (
            48,
            host(json!({"Sysctls": {"net.ipv4.conf.eth0.forwarding": "1"}})),
            "must be supplied using driver option",
        ),
    ] {
        let (status, said) = create(version, body.clone()).unwrap_err();
        assert!(status == 400 && said.contains(text), "1.{version} {body}: {status} {said}");
    }
    let (_, warnings) = create(52, host(json!({"PortBindings": {"80/tcp": []}}))).unwrap();
    assert!(warnings[0].as_str().unwrap().contains("80/tcp"), "{warnings}");
    let (_, warnings) = create(44, json!({"MacAddress": "02:42:ac:11:00:31"})).unwrap();
    assert!(warnings[0].as_str().unwrap().contains("deprecated"), "{warnings}");
    assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
}

#[test]
fn parameters_that_came_later_are_not_heard_before() {
    let d = daemon();
    d.docker(&["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "600"]).ok();
    // `signal` of stop came with 1.42: nonsense in it is not even looked at before.
    assert_eq!(d.api("POST", "/v1.42/containers/box/stop?t=0&signal=NONSENSE", "").status, 400);
    assert_eq!(d.api("POST", "/v1.41/containers/box/stop?t=0&signal=NONSENSE", "").status, 204);
    // `condition` of wait came with 1.30.
    assert_eq!(d.api("POST", "/v1.30/containers/box/wait?condition=nonsense", "").status, 400);
    assert_eq!(d.api("POST", "/v1.29/containers/box/wait?condition=nonsense", "").json()["StatusCode"], 137);
    // `type` of df came with 1.42, `verbose` with 1.52.
    assert_eq!(d.api("GET", "/v1.42/system/df?type=nonsense", "").status, 400);
    assert!(d.api("GET", "/v1.41/system/df?type=nonsense", "").json()["Images"].is_array());
    let only = d.api("GET", "/v1.51/system/df?type=volume&type=image", "").json();
    assert!(
        only["Volumes"].is_array() && only["Images"].is_array() && only.get("Containers").is_none(),
        "{only}"
    );
    let terse = d.api("GET", "/v1.52/system/df?verbose=0", "").json();
    assert!(terse.get("Images").is_none() && terse["ImageUsage"]["Items"].is_null(), "{terse}");
    let verbose = d.api("GET", "/v1.55/system/df?verbose=true", "").json();
    assert_eq!(verbose["ImageUsage"]["Items"][0]["RepoTags"][0], "busybox:latest");
    assert_eq!(verbose["ContainerUsage"]["Items"][0]["Names"][0], "/box");
    assert_eq!(
        d.api("GET", "/v1.52/system/df?verbose=maybe", "").message(),
        "invalid value for verbose: maybe"
    );
    // Limits of single devices are updated since 1.55 only; older ones say nothing of it and do nothing.
    let body = r#"{"BlkioDeviceReadBps": [{"Path": "/no/such/device", "Rate": 1000}]}"#;
    assert_eq!(d.api("POST", "/v1.54/containers/box/update", body).status, 200);
    assert_eq!(d.api("POST", "/v1.55/containers/box/update", body).status, 400);
    let body = r#"{"PidsLimit": 9}"#;
    let limit = || d.api("GET", "/containers/box/json", "").json()["HostConfig"]["PidsLimit"].clone();
    assert_eq!(d.api("POST", "/v1.39/containers/box/update", body).status, 200);
    assert_eq!(limit(), Value::Null);
    assert_eq!(d.api("POST", "/v1.40/containers/box/update", body).status, 200);
    assert_eq!(limit(), 9);
}

#[test]
fn booleans_names_and_encodings_as_clients_write_them() {
    let d = daemon();
    d.docker(&["create", "--name", "box", "--network", "none", "busybox", "true"]).ok();
    let count = |query: &str| {
        d.api("GET", &format!("/v1.40/containers/json?{query}"), "").json().as_array().unwrap().len()
    };
    for (query, found) in [
        ("all=1", 1),
        ("all=true", 1),
        ("all=True", 1),
        ("all=t", 1),
        ("all=yes", 1),
        ("all=", 0),
        ("all", 0),
        ("all=0", 0),
        ("all=false", 0),
        ("all=False", 0),
        ("all=no", 0),
        ("all=none", 0),
        ("", 0),
        ("ALL=1", 0),
    ] {
        assert_eq!(count(query), found, "{query:?}");
    }
    // Names with slashes and colons, encoded or not; ids with their algorithm.
    d.docker(&["tag", "busybox", "registry.test:5000/a/b:c"]).ok();
    let id = d.api("GET", "/images/busybox/json", "").json()["Id"].as_str().unwrap().to_owned();
    for name in [
        "registry.test:5000/a/b:c",
        "registry.test%3A5000%2Fa%2Fb%3Ac",
        "docker.io/library/busybox",
        "library/busybox:latest",
        &id,
        &id["sha256:".len()..],
        &id["sha256:".len()..][..12],
    ] {
        assert_eq!(d.api("GET", &format!("/images/{name}/json"), "").json()["Id"], id.as_str(), "{name}");
    }
    for name in ["box", "/box", "%2Fbox"] {
        assert_eq!(d.api("GET", &format!("/v1.30/containers/{name}/json"), "").status, 200, "{name}");
    }
    // Bodies of any type or none, in any case; members that nobody knows; nulls; nothing at all.
    for (headers, body, status) in [
        ("Content-Type: text/plain\r\n", r#"{"IMAGE": "busybox", "cMd": ["true"], "zzz": {"a": [1]}}"#, 201),
        ("", r#"{"Image": "busybox", "Cmd": "true", "Env": null, "HostConfig": null, "Labels": null}"#, 201),
        (
            "Content-Type: application/json; charset=utf-8\r\n",
            r#"{"Image": "busybox", "Cmd": ["true"]}"#,
            201,
        ),
        (
            "Content-Type: application/x-www-form-urlencoded\r\n",
            r#"{"Image": "busybox", "Cmd": ["true"]}"#,
            201,
        ),
    ] {
        let mut s = connect(&d.socket());
        write!(
            s,
            "POST /v1.40/containers/create HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let answer = http::read_response(&mut BufReader::new(s), false).unwrap();
        assert_eq!(answer.status, status, "{headers}{body}: {}", answer.text());
    }
    for path in [
        "/containers/box/start",
        "/containers/box/wait",
        "/containers/box/restart?t=0",
        "/containers/prune",
        "/networks/prune",
        "/volumes/create",
        "/containers/box/kill",
    ] {
        let mut s = connect(&d.socket());
        write!(s, "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\r\n").unwrap();
        let answer = http::read_response(&mut BufReader::new(s), false).unwrap();
        assert!(answer.status < 500 && answer.status != 400, "{path}: {} {}", answer.status, answer.text());
    }
}

#[test]
fn every_error_is_json_with_the_engines_headers() {
    let d = daemon();
    for (method, path, body, status) in [
        ("GET", "/no/such", "", 404),
        ("GET", "/v1.30/containers/none/json", "", 404),
        ("GET", "/v1.12/info", "", 400),
        ("GET", "/v1.99/info", "", 400),
        ("POST", "/containers/create", "{", 400),
        ("GET", "/containers/json?filters=nonsense", "", 400),
        ("GET", "/containers/json?filters=%7B%22a%22%3A%5B%22b%22%5D%7D", "", 400),
        ("GET", "/containers/json?limit=x", "", 400),
        ("GET", "/containers/json?a=%zz", "", 400),
        ("GET", "/swarm", "", 503),
        ("GET", "/services", "", 503),
        ("GET", "/nodes", "", 503),
        ("PATCH", "/containers/json", "", 404),
        ("DELETE", "/images/none", "", 404),
        ("POST", "/images/none/tag?repo=a", "", 404),
        ("GET", "/exec/none/json", "", 404),
        ("DELETE", "/networks/bridge", "", 403),
    ] {
        let answer = d.api(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert!(
            answer.header("content-type").is_some_and(|t| t.starts_with("application/json")),
            "{path}: {:?}",
            answer.headers
        );
        assert!(!answer.message().is_empty());
        for (name, value) in [("api-version", "1.55"), ("ostype", "linux")] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        assert!(answer.header("server").unwrap().contains("(linux)"));
    }
}

/// HTTP/2 frames by hand: what a client that knows the other side speaks it sends first.
#[test]
fn h2c_with_prior_knowledge_on_the_same_socket() {
    let d = daemon();
    let mut s = connect(&d.socket());
    // HPACK from the static table: :method GET, :scheme http; path and authority as literals.
    let mut block = vec![0x82, 0x86];
    for (index, text) in [(4_u8, "/_ping"), (1, "localhost")] {
        block.extend([index, u8::try_from(text.len()).unwrap()]);
        block.extend(text.as_bytes());
    }
    s.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    s.write_all(&http::frame(4, 0, 0, &[])).unwrap();
    s.write_all(&http::frame(1, 0x5, 1, &block)).unwrap();
    let mut data = Vec::new();
    let mut headers = 0;
    loop {
        let mut head = [0; 9];
        s.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        s.read_exact(&mut payload).unwrap();
        let (kind, flags, stream) = (head[3], head[4], u32::from_be_bytes(head[5..9].try_into().unwrap()));
        match (kind, stream) {
            (4, 0) if flags & 1 == 0 => s.write_all(&http::frame(4, 1, 0, &[])).unwrap(),
            (0, 1) => data.extend(payload),
            (1, 1) => headers += 1,
            (3 | 7, _) => panic!("refused: {payload:?}"),
            _ => {}
        }
        if stream == 1 && flags & 1 == 1 && matches!(kind, 0 | 1) {
            break;
        }
    }
    assert_eq!((headers, data.as_slice()), (1, b"OK".as_slice()));
    // The same socket still speaks HTTP/1.1 with everybody else.
    assert_eq!(d.api("GET", "/_ping", "").text(), "OK");
}

#[test]
fn half_close_reaches_the_process_and_ends_nothing_else() {
    let d = daemon();
    let body = r#"{"Image": "busybox", "Cmd": ["sh", "-c", "wc -c; echo after"], "OpenStdin": true, "StdinOnce": true, "HostConfig": {"NetworkMode": "none"}}"#;
    assert_eq!(d.api("POST", "/containers/create?name=box", body).status, 201);
    let mut s = connect(&d.socket());
    write!(s, "POST /v1.40/containers/box/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").unwrap();
    let mut reader = BufReader::new(s.try_clone().unwrap());
    assert_eq!(http::read_head(&mut reader).unwrap().0, 101);
    assert_eq!(d.api("POST", "/containers/box/start", "").status, 204);
    s.write_all(&[b'x'; 5000]).unwrap();
    s.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    let text = String::from_utf8_lossy(&all);
    assert!(text.contains("5000\n") && text.contains("after\n"), "{text}");
    // A client that closes its half of a plain request still gets the answer.
    let mut s = connect(&d.socket());
    write!(s, "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    s.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("OK"), "{text}");
    eventually("the container's end", || {
        (d.api("GET", "/containers/box/json", "").json()["State"]["Status"] == "exited").then_some(())
    });
}

#[test]
fn many_requests_on_one_connection_and_pipelined() {
    let d = daemon();
    let mut s = connect(&d.socket());
    let mut reader = BufReader::new(s.try_clone().unwrap());
    write!(s, "{}", "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50)).unwrap();
    for _ in 0..50 {
        let answer = http::read_response(&mut reader, false).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "OK"));
    }
    // An error ends no connection.
    write!(s, "GET /containers/none/json HTTP/1.1\r\nHost: x\r\n\r\nGET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert_eq!(http::read_response(&mut reader, false).unwrap().status, 404);
    assert_eq!(http::read_response(&mut reader, false).unwrap().status, 200);
    // Chunked bodies.
    let body = r#"{"Image": "busybox", "Cmd": ["true"]}"#;
    let (a, b) = body.split_at(10);
    write!(
        s,
        "POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n\r\n",
        a.len(),
        b.len()
    )
    .unwrap();
    assert_eq!(http::read_response(&mut reader, false).unwrap().status, 201);
}
