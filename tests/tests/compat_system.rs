//! `/info`, `/version`, `/_ping`, `/auth`, `/system/df`, volumes: box by box; and every field of the reference's answers.

#![cfg(test)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wharf_tests::{Daemon, Options, reference};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

#[test]
fn ping_and_version_are_what_clients_negotiate_by() {
    let d = Daemon::start();
    for path in ["/_ping", "/v1.24/_ping", "/v1.55/_ping"] {
        for method in ["GET", "HEAD"] {
            let ping = d.api(method, path, "");
            assert_eq!((ping.status, ping.text().as_str()), (200, if method == "GET" { "OK" } else { "" }));
            for (name, value) in [
                ("api-version", "1.55"),
                ("ostype", "linux"),
                ("swarm", "inactive"),
                ("docker-experimental", "false"),
                ("cache-control", "no-cache, no-store, must-revalidate"),
                ("pragma", "no-cache"),
            ] {
                assert_eq!(ping.header(name), Some(value), "{method} {path} {name}");
            }
            assert!(matches!(ping.header("builder-version"), Some("1" | "2")));
            assert!(ping.header("content-type").unwrap().starts_with("text/plain"));
        }
    }
    assert_eq!(d.api("HEAD", "/_ping", "").header("content-length"), Some("0"));
    let version = d.api("GET", "/version", "").json();
    assert_eq!((&version["ApiVersion"], &version["MinAPIVersion"]), (&json!("1.55"), &json!("1.24")));
    for key in ["Version", "Os", "Arch", "KernelVersion", "GitCommit", "GoVersion", "BuildTime"] {
        assert!(version[key].is_string(), "{key}: {version}");
    }
    assert!(!version["Platform"]["Name"].as_str().unwrap().is_empty());
    let engine = &version["Components"][0];
    assert_eq!((&engine["Name"], &engine["Version"]), (&json!("Engine"), &version["Version"]));
    for key in [
        "ApiVersion",
        "MinAPIVersion",
        "Arch",
        "BuildTime",
        "Experimental",
        "GitCommit",
        "GoVersion",
        "KernelVersion",
        "Os",
    ] {
        assert!(engine["Details"][key].is_string(), "{key}: {engine}");
    }
    let out = d
        .docker(&["version", "--format", "{{.Server.APIVersion}} {{.Server.Version}} {{.Client.APIVersion}}"])
        .ok();
    assert!(out.starts_with("1.55 "), "{out}");
}

#[test]
fn info_counts_and_describes() {
    let d = Daemon::with(Options {
        config: Some(r#"{"labels": ["zone=a"], "insecure-registries": ["10.1.0.0/16", "plain.test:5000"], "registry-mirrors": ["https://mirror.test/"]}"#.into()),
        ..Options::default()
    });
    d.import_busybox();
    for (name, args) in [("one", &["sleep", "600"][..]), ("two", &["sleep", "600"]), ("three", &["true"])] {
        let mut line = vec!["run", "-d", "--name", name, "--network", "none", "busybox"];
        line.extend(args);
        d.docker(&line).ok();
    }
    d.docker(&["pause", "two"]).ok();
    d.docker(&["wait", "three"]).ok();
    let info = d.api("GET", "/info", "").json();
    for (key, wanted) in [
        ("Containers", json!(3)),
        ("ContainersRunning", json!(1)),
        ("ContainersPaused", json!(1)),
        ("ContainersStopped", json!(1)),
        ("Images", json!(1)),
        ("OSType", json!("linux")),
        ("IndexServerAddress", json!("https://index.docker.io/v1/")),
        ("DefaultRuntime", json!("runc")),
        ("Labels", json!(["zone=a"])),
        ("LiveRestoreEnabled", json!(false)),
        ("Warnings", Value::Null),
        ("LoggingDriver", json!("json-file")),
    ] {
        assert_eq!(info[key], wanted, "{key}");
    }
    assert!(info["NCPU"].as_i64() > Some(0) && info["MemTotal"].as_i64() > Some(1 << 28));
    assert!(info["ID"].as_str().is_some_and(|id| !id.is_empty()));
    let registry = &info["RegistryConfig"];
    for cidr in ["10.1.0.0/16", "127.0.0.0/8", "::1/128"] {
        assert!(registry["InsecureRegistryCIDRs"].as_array().unwrap().contains(&json!(cidr)), "{registry}");
    }
    assert_eq!(registry["IndexConfigs"]["docker.io"]["Official"], true);
    assert_eq!(registry["IndexConfigs"]["plain.test:5000"]["Secure"], false);
    assert_eq!(registry["Mirrors"], json!(["https://mirror.test/"]));
    assert!(info["SecurityOptions"].as_array().unwrap().contains(&json!("name=seccomp,profile=builtin")));
    assert!(!info["DefaultAddressPools"].as_array().unwrap().is_empty());
    assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
    // docker's own reading of it has no complaint.
    let out = d.docker(&["info"]);
    assert!(out.code == 0 && !out.err.contains("ERROR"), "{}{}", out.out, out.err);
}

#[test]
fn devices_of_vendors_are_discovered() {
    let cdi = tempfile::tempdir().unwrap();
    std::fs::write(
        cdi.path().join("v.yaml"),
        "cdiVersion: 0.6.0\nkind: vendor.test/thing\ndevices:\n- name: a\n  containerEdits:\n    env: [THING=a]\n    deviceNodes:\n    - {path: /dev/thing, hostPath: /dev/null}\n",
    )
    .unwrap();
    let d = Daemon::with(Options {
        config: Some(json!({"cdi-spec-dirs": [cdi.path()]}).to_string()),
        ..Options::default()
    });
    d.import_busybox();
    let info = d.api("GET", "/info", "").json();
    assert_eq!(info["DiscoveredDevices"], json!([{"Source": "cdi", "ID": "vendor.test/thing=a"}]));
    let seen = d
        .docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--device",
            "vendor.test/thing=a",
            "busybox",
            "sh",
            "-c",
            "echo $THING; test -c /dev/thing && echo node",
        ])
        .ok();
    assert_eq!(seen, "a\nnode");
    let refused = d.docker(&["run", "--rm", "--device", "vendor.test/thing=b", "busybox", "true"]);
    assert!(
        refused.code != 0 && refused.err.contains("unresolvable CDI devices vendor.test/thing=b"),
        "{}",
        refused.err
    );
}

#[test]
fn logins_are_answered_in_dockers_shapes() {
    let d = Daemon::start();
    let registry = wharf_tests::registry::Registry::start(
        &d,
        5000,
        wharf_tests::registry::Setup { password: true, ..Default::default() },
    );
    let good = d.api(
        "POST",
        "/auth",
        &json!({"username": "me", "password": "secret", "serveraddress": registry.address}).to_string(),
    );
    assert_eq!((good.status, good.json()), (200, json!({"Status": "Login Succeeded", "IdentityToken": ""})));
    let bad = d.api(
        "POST",
        "/auth",
        &json!({"username": "me", "password": "wrong", "serveraddress": registry.address}).to_string(),
    );
    assert_eq!(bad.status, 401, "{}", bad.text());
    assert!(!bad.message().contains("wrong"), "{}", bad.message());
    // Nobody listens there.
    let gone =
        d.api("POST", "/auth", r#"{"username": "me", "password": "x", "serveraddress": "127.0.0.1:1"}"#);
    assert!(gone.status >= 400 && gone.message().contains("127.0.0.1:1"), "{}", gone.text());
}

#[test]
fn volumes_are_made_used_and_pruned_as_docker_does() {
    let d = daemon();
    let made = d.api("POST", "/volumes/create", r#"{"Name": "named", "Labels": {"a": "b"}, "DriverOpts": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}}"#);
    assert_eq!(made.status, 201, "{}", made.text());
    let volume = made.json();
    assert_eq!(
        (&volume["Driver"], &volume["Scope"], &volume["Labels"]),
        (&json!("local"), &json!("local"), &json!({"a": "b"}))
    );
    assert!(
        volume["CreatedAt"].as_str().unwrap().contains('T')
            && volume["Mountpoint"].as_str().unwrap().starts_with('/')
    );
    // The same again is no error and makes no second one; another driver is.
    assert_eq!(d.api("POST", "/volumes/create", r#"{"Name": "named"}"#).status, 201);
    let anonymous = d.api("POST", "/volumes/create", "{}").json();
    assert_eq!(anonymous["Name"].as_str().unwrap().len(), 64);
    assert!(anonymous["Labels"].get("com.docker.volume.anonymous").is_some(), "{anonymous}");
    assert_eq!(d.api("POST", "/volumes/create", r#"{"Name": "a"}"#).status, 400);
    d.docker(&[
        "run",
        "-d",
        "--name",
        "user",
        "--network",
        "none",
        "-v",
        "used:/used",
        "-v",
        "/anon",
        "busybox",
        "sleep",
        "600",
    ])
    .ok();
    let busy = d.api("DELETE", "/volumes/used", "");
    assert_eq!(busy.status, 409);
    assert!(busy.message().starts_with("remove used: volume is in use - ["), "{}", busy.message());
    assert_eq!(d.api("DELETE", "/volumes/nobody", "").status, 404);
    assert_eq!(d.api("DELETE", "/volumes/nobody?force=1", "").status, 204);
    let names = |filters: &str| -> BTreeSet<String> {
        let encoded = wharf_tests::http::encoded(filters);
        let list = d.api("GET", &format!("/volumes?filters={encoded}"), "").json();
        list["Volumes"].as_array().unwrap().iter().map(|v| v["Name"].as_str().unwrap().to_owned()).collect()
    };
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(names(r#"{"label":["a=b"]}"#), set(&["named"]));
    assert_eq!(names(r#"{"name":["use"]}"#), set(&["used"]));
    assert_eq!(names(r#"{"dangling":["true"]}"#), set(&["named", anonymous["Name"].as_str().unwrap()]));
    assert_eq!(names(r#"{"driver":["local"]}"#).len(), 4);
    assert_eq!(d.api("GET", "/volumes?filters=%7B%22x%22%3A%5B%22y%22%5D%7D", "").status, 400);
    let df = d.api("GET", "/v1.47/system/df?type=volume", "").json();
    let usage = |name: &str| {
        df["Volumes"].as_array().unwrap().iter().find(|v| v["Name"] == name).unwrap()["UsageData"].clone()
    };
    assert_eq!((&usage("used")["RefCount"], &usage("named")["RefCount"]), (&json!(1), &json!(0)));
    // Only what has no name goes, since 1.42; before, all that nobody uses.
    let pruned = d.api("POST", "/volumes/prune", "").json();
    assert_eq!(pruned["VolumesDeleted"], json!([anonymous["Name"]]));
    assert!(pruned["SpaceReclaimed"].is_i64());
    let pruned = d.api("POST", "/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D", "").json();
    assert_eq!(pruned["VolumesDeleted"], json!(["named"]));
    assert_eq!(d.api("POST", "/volumes/prune", "").json()["VolumesDeleted"], json!([]));
    assert_eq!(d.api("POST", "/volumes/create", r#"{"Name": "again"}"#).status, 201);
    assert_eq!(d.api("POST", "/v1.41/volumes/prune", "").json()["VolumesDeleted"], json!(["again"]));
}

#[test]
fn commits_changes_exports_and_tops_in_dockers_shapes() {
    let d = daemon();
    d.docker(&["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "600"]).ok();
    assert_eq!(d.api("GET", "/containers/box/changes", "").json(), Value::Null);
    d.docker(&["exec", "box", "sh", "-c", "echo x > /new; rm /bin/yes; chmod 700 /bin/sh"]).ok();
    let changes = d.api("GET", "/containers/box/changes", "").json();
    let kind = |path: &str| {
        changes.as_array().unwrap().iter().find(|c| c["Path"] == path).map(|c| c["Kind"].clone())
    };
    assert_eq!(
        (kind("/new"), kind("/bin/yes"), kind("/bin")),
        (Some(json!(1)), Some(json!(2)), Some(json!(0)))
    );
    let commit = d.api(
        "POST",
        "/commit?container=box&repo=made&tag=v1&author=me&comment=why&changes=ENV%20A%3Db&changes=CMD%20%5B%22sh%22%5D&pause=0",
        r#"{"Labels": {"from": "commit"}}"#,
    );
    assert_eq!(commit.status, 201, "{}", commit.text());
    let id = commit.json()["Id"].as_str().unwrap().to_owned();
    let image = d.api("GET", "/images/made:v1/json", "").json();
    assert_eq!(
        (&image["Id"], &image["Author"], &image["Comment"]),
        (&json!(id), &json!("me"), &json!("why"))
    );
    assert!(image["Config"]["Env"].as_array().unwrap().contains(&json!("A=b")));
    assert_eq!(image["Config"]["Cmd"], json!(["sh"]));
    assert_eq!(d.api("POST", "/commit?container=nobody", "").status, 404);
    let export = d.api("GET", "/containers/box/export", "");
    assert!(export.status == 200 && export.body.windows(3).any(|w| w == b"new"));
    for (query, first) in
        [("", "UID"), ("?ps_args=aux", "USER"), ("?ps_args=-ef", "UID"), ("?ps_args=-o%20pid%2Cargs", "PID")]
    {
        let top = d.api("GET", &format!("/containers/box/top{query}"), "").json();
        assert_eq!(top["Titles"][0], first, "{query}");
        assert!(
            top["Processes"][0].as_array().unwrap().iter().any(|c| c.as_str().unwrap().contains("sleep")),
            "{top}"
        );
    }
    assert_eq!(d.api("GET", "/containers/made/top", "").status, 404);
    d.docker(&["stop", "-t", "0", "box"]).ok();
    assert_eq!(d.api("GET", "/containers/box/top", "").status, 409);
}

/// A wait that was there before a very short life hears of its end, each time, under every condition.
#[test]
fn no_exit_is_too_fast_to_be_heard() {
    let d = daemon();
    for round in 0..20 {
        let condition = ["next-exit", "not-running", "removed"][round % 3];
        let auto = condition == "removed";
        let body = json!({"Image": "busybox", "Cmd": ["sh", "-c", format!("exit {round}")], "HostConfig": {"NetworkMode": "none", "AutoRemove": auto}});
        assert_eq!(d.api("POST", "/containers/create?name=quick", &body.to_string()).status, 201);
        let socket = d.socket();
        let path = format!("/v1.47/containers/quick/wait?condition={condition}");
        if condition == "not-running" {
            // That one is true already before the start.
            assert_eq!(d.api("POST", &path, "").json()["StatusCode"], 0);
            assert_eq!(d.api("POST", "/containers/quick/start", "").status, 204);
            assert_eq!(d.api("POST", &path, "").json()["StatusCode"], round);
        } else {
            let (ready, is_ready) = std::sync::mpsc::channel();
            let waiter = std::thread::spawn(move || {
                use std::io::{BufRead, BufReader, Read, Write};
                let mut s = wharf_tests::connect(&socket);
                write!(
                    s,
                    "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
                .unwrap();
                let mut reader = BufReader::new(s);
                wharf_tests::http::read_head(&mut reader).unwrap();
                ready.send(()).unwrap();
                let mut size = String::new();
                reader.read_line(&mut size).unwrap();
                let mut all = String::new();
                reader.read_to_string(&mut all).unwrap();
                serde_json::from_str::<Value>(all.lines().next().unwrap()).unwrap()["StatusCode"].clone()
            });
            is_ready.recv().unwrap();
            assert_eq!(d.api("POST", "/containers/quick/start", "").status, 204);
            assert_eq!(waiter.join().unwrap(), round, "{condition}");
        }
        if !auto {
            assert_eq!(d.api("DELETE", "/containers/quick", "").status, 204);
        }
    }
}

/// Fields that Docker leaves out too: of Windows, of swarm, of what was not asked for, of what is not set.
const ABSENT: [(&str, &[&str]); 14] = [
    ("SystemInfo", &["Containerd", "Isolation", "NRI"]),
    ("SystemVersion", &["Experimental"]),
    ("ContainerInspectResponse", &["Storage"]),
    ("ContainerState", &[]),
    ("ContainerSummary", &["ImageManifestDescriptor"]),
    ("EndpointSettings", &[]),
    ("MountPoint", &[]),
    ("Volume", &["ClusterVolume", "Status", "UsageData"]),
    ("Network", &["Peers"]),
    ("NetworkSettings", &[]),
    ("ContainerCPUStats", &[]),
    ("ContainerMemoryStats", &["commitbytes", "commitpeakbytes", "privateworkingset"]),
    ("ContainerBlkioStats", &[]),
    ("PluginsInfo", &[]),
];

#[test]
fn answers_have_every_field_of_the_reference() {
    let Some(schema) = reference::schema() else { return };
    let d = daemon();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "box",
        "-v",
        "vol:/v",
        "-p",
        "80",
        "--health-cmd",
        "true",
        "busybox",
        "sleep",
        "600",
    ])
    .ok();
    let get = |path: &str| d.api("GET", path, "").json();
    let c = get("/v1.55/containers/box/json?size=1");
    let stats = get("/containers/box/stats?stream=false&one-shot=1");
    let info = get("/info");
    for (definition, absent) in ABSENT {
        let value = match definition {
            "SystemInfo" => info.clone(),
            "SystemVersion" => get("/version"),
            "ContainerInspectResponse" => c.clone(),
            "ContainerState" => c["State"].clone(),
            "ContainerSummary" => get("/containers/json?size=1")[0].clone(),
            "EndpointSettings" => c["NetworkSettings"]["Networks"]["bridge"].clone(),
            "MountPoint" => c["Mounts"][0].clone(),
            "Volume" => get("/volumes/vol"),
            "Network" => get("/networks/bridge"),
            "NetworkSettings" => c["NetworkSettings"].clone(),
            "ContainerCPUStats" => stats["cpu_stats"].clone(),
            "ContainerMemoryStats" => stats["memory_stats"].clone(),
            "ContainerBlkioStats" => stats["blkio_stats"].clone(),
            _ => info["Plugins"].clone(),
        };
        let there: BTreeSet<String> = value.as_object().unwrap().keys().cloned().collect();
        let missing: Vec<String> =
            reference::fields(&schema, definition).difference(&there).cloned().collect();
        assert_eq!(missing, absent, "{definition}: {value}");
    }
}
