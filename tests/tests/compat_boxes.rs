//! Boxes of the list of what real clients rely on that no other test of this directory ticks: lists that are empty, filters of
//! events, figures of statistics, the socket's rights, and the command lines of kind, dev containers and GitHub's runner.

#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use serde_json::{Value, json};
use wharf_tests::{Daemon, connect, eventually, http, image};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

/// Typed clients break on `null` where Docker has `[]`, and the other way round.
#[test]
fn empty_lists_and_maps_are_what_dockers_are() {
    let d = daemon();
    d.docker(&["create", "--name", "bare", "--network", "none", "busybox", "true"]).ok();
    d.docker_with_input(&["import", "-"], &image::busybox_tar()).ok();
    for version in ["1.24", "1.32", "1.41", "1.47", "1.51", "1.55"] {
        let get = |path: &str| d.api("GET", &format!("/v{version}{path}"), "").json();
        let c = get("/containers/bare/json");
        for (pointer, wanted) in [
            ("/Mounts", json!([])),
            ("/Args", json!([])),
            ("/ExecIDs", Value::Null),
            ("/HostConfig/Binds", Value::Null),
            ("/HostConfig/PortBindings", json!({})),
            ("/HostConfig/CapAdd", Value::Null),
            ("/HostConfig/Links", Value::Null),
            ("/HostConfig/LogConfig/Config", json!({})),
            ("/Config/Labels", json!({})),
            ("/Config/Volumes", Value::Null),
            ("/Config/Entrypoint", Value::Null),
            ("/Config/OnBuild", Value::Null),
            ("/NetworkSettings/Ports", json!({})),
        ] {
            let found = c.pointer(pointer).unwrap_or(&Value::Null);
            assert_eq!(found, &wanted, "{version} {pointer}");
        }
        assert!(c["NetworkSettings"]["Networks"]["none"].is_object(), "{version}");
        assert!(c["State"].get("Health").is_none(), "{version}");
        let listed = get("/containers/json?all=1");
        for (pointer, wanted) in [("/0/Ports", json!([])), ("/0/Mounts", json!([])), ("/0/Labels", json!({}))]
        {
            assert_eq!(listed.pointer(pointer), Some(&wanted), "{version} {pointer}");
        }
        assert_eq!(get("/containers/json"), json!([]), "{version}");
        let images = get("/images/json?all=1");
        let nameless = images.as_array().unwrap().iter().find(|i| i["RepoTags"] == json!([]));
        // Before 1.43 a nameless image had a name all the same.
        let old = images.as_array().unwrap().iter().find(|i| i["RepoTags"] == json!(["<none>:<none>"]));
        let image = nameless.or(old).unwrap_or_else(|| panic!("{version}: {images}"));
        assert!(image["RepoDigests"].is_array(), "{version}: {image}");
        let id = image["Id"].as_str().unwrap();
        let inspected = get(&format!("/images/{id}/json"));
        assert_eq!(inspected["RepoTags"], json!([]), "{version}");
        let volumes = get("/volumes");
        assert!(volumes["Volumes"].is_array() && volumes["Warnings"].is_null(), "{version}: {volumes}");
        let net = get("/networks/none");
        for (pointer, wanted) in [("/Options", json!({})), ("/Labels", json!({})), ("/Containers", json!({}))]
        {
            assert_eq!(net.pointer(pointer), Some(&wanted), "{version} {pointer}");
        }
    }
    for (path, key) in [
        ("/containers/prune", "ContainersDeleted"),
        ("/images/prune?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D", "ImagesDeleted"),
        ("/networks/prune", "NetworksDeleted"),
        ("/volumes/prune", "VolumesDeleted"),
    ] {
        d.api("POST", path, "");
        let again = d.api("POST", path, "");
        assert_eq!((again.status, &again.json()[key]), (200, &json!([])), "{path}: {}", again.text());
    }
}

#[test]
fn events_are_filtered_by_what_they_are_about() {
    let d = daemon();
    d.docker(&["network", "create", "--label", "team=blue", "lan"]).ok();
    d.docker(&["tag", "busybox", "other:1"]).ok();
    for (name, label, image) in [("one", "team=blue", "busybox"), ("two", "team=red", "other:1")] {
        let volume = format!("{name}-data:/data");
        d.docker(&[
            "run",
            "-d",
            "--name",
            name,
            "-l",
            label,
            "--network",
            "lan",
            "-v",
            &volume,
            image,
            "sleep",
            "600",
        ])
        .ok();
        d.docker(&["rm", "-f", name]).ok();
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(d.pid()), nix::sys::signal::Signal::SIGHUP).unwrap();
    let replay = |filters: Value| -> Vec<String> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let filters = wharf_tests::http::encoded(&filters.to_string());
        let answer = d.api("GET", &format!("/v1.47/events?since=0&until={now:.9}&filters={filters}"), "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
            .text()
            .lines()
            .map(|line| {
                let e: Value = serde_json::from_str(line).unwrap();
                let of = &e["Actor"]["Attributes"];
                let name = of["name"].as_str().or(e["Actor"]["ID"].as_str()).unwrap().to_owned();
                format!("{} {} {name}", e["Type"].as_str().unwrap(), e["Action"].as_str().unwrap())
            })
            .collect()
    };
    let one_life = [
        "container create one",
        "container start one",
        "container kill one",
        "container die one",
        "container destroy one",
    ];
    assert_eq!(replay(json!({"container": ["one"], "type": ["container"]})), one_life);
    assert_eq!(replay(json!({"label": ["team=blue"], "type": ["container"]})), one_life);
    assert_eq!(replay(json!({"image": ["busybox"], "type": ["container"]})), one_life);
    assert_eq!(replay(json!({"image": ["other"], "event": ["start"]})), ["container start two"]);
    assert_eq!(replay(json!({"label": ["team"], "event": ["start", "die"]})).len(), 4);
    assert_eq!(replay(json!({"label": ["team=green"]})), [] as [&str; 0]);
    assert_eq!(
        replay(json!({"network": ["lan"]})),
        [
            "network create lan",
            "network connect lan",
            "network disconnect lan",
            "network connect lan",
            "network disconnect lan"
        ]
    );
    let of_volume = replay(json!({"volume": ["one-data"]}));
    assert_eq!(of_volume, ["volume create one-data", "volume mount one-data", "volume unmount one-data"]);
    assert_eq!(replay(json!({"scope": ["swarm"]})), [] as [&str; 0]);
    assert!(replay(json!({"scope": ["local"]})).len() > 12);
    eventually("the reload", || {
        let daemon = replay(json!({"type": ["daemon"]}));
        (daemon.len() == 1 && daemon[0].starts_with("daemon reload ")).then_some(())
    });
    assert_eq!(replay(json!({"daemon": ["nobody"]})), [] as [&str; 0]);
    let bad = d.api("GET", "/events?filters=%7B%22colour%22%3A%5B%22red%22%5D%7D", "");
    assert_eq!((bad.status, bad.message().as_str()), (400, "invalid filter 'colour'"));
}

#[test]
fn statistics_that_clients_compute_with() {
    let d = daemon();
    d.docker(&["network", "create", "lan"]).ok();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "box",
        "busybox",
        "sh",
        "-c",
        "head -c 3000000 /bin/busybox > /f; cat /f > /dev/null; exec sleep 600",
    ])
    .ok();
    d.docker(&["network", "connect", "lan", "box"]).ok();
    d.docker(&["run", "-d", "--name", "small", "-m", "64m", "--network", "none", "busybox", "sleep", "600"])
        .ok();
    let stats = |name: &str| d.api("GET", &format!("/v1.47/containers/{name}/stats?stream=false"), "").json();
    let total = d.api("GET", "/info", "").json()["MemTotal"].as_u64().unwrap();
    let (big, small) = (stats("box"), stats("small"));
    // Without a limit it is the machine's memory, not a number that overflows.
    assert_eq!(big["memory_stats"]["limit"].as_u64().unwrap(), total);
    assert_eq!(small["memory_stats"]["limit"], 64 << 20);
    for key in ["inactive_file", "active_file"] {
        let there = big["memory_stats"]["stats"]
            .get(key)
            .or(big["memory_stats"]["stats"].get(format!("total_{key}")));
        assert!(there.is_some_and(Value::is_u64), "{key}: {}", big["memory_stats"]);
    }
    let interfaces: Vec<&String> = big["networks"].as_object().unwrap().keys().collect();
    assert_eq!(interfaces, ["eth0", "eth1"]);
    for key in [
        "rx_bytes",
        "rx_packets",
        "rx_errors",
        "rx_dropped",
        "tx_bytes",
        "tx_packets",
        "tx_errors",
        "tx_dropped",
    ] {
        assert!(big["networks"]["eth0"][key].is_u64(), "{key}");
    }
    assert!(small.get("networks").is_none_or(|n| n.as_object().is_none_or(|n| !n.contains_key("eth0"))));
    let cpus = d.api("GET", "/info", "").json()["NCPU"].as_u64().unwrap();
    for part in ["cpu_stats", "precpu_stats"] {
        assert_eq!(big[part]["online_cpus"].as_u64().unwrap(), cpus, "{part}");
        assert!(big[part]["system_cpu_usage"].as_u64().unwrap() > 0, "{part}");
    }
    assert!(big["cpu_stats"]["system_cpu_usage"].as_u64() > big["precpu_stats"]["system_cpu_usage"].as_u64());
    assert!(big["pids_stats"]["current"].as_u64() == Some(1) && big["blkio_stats"].is_object());
    assert_eq!((&big["name"], big["id"].as_str().unwrap().len()), (&json!("/box"), 64));
}

#[test]
fn the_socket_is_roots_and_dockers() {
    let d = Daemon::start();
    let meta = std::fs::metadata(d.socket()).unwrap();
    assert_eq!((meta.permissions().mode() & 0o777, meta.uid()), (0o660, 0));
    let group = std::fs::read_to_string("/etc/group").unwrap();
    let docker =
        group.lines().find_map(|line| line.strip_prefix("docker:x:")?.split(':').next()?.parse().ok());
    assert_eq!(meta.gid(), docker.unwrap_or(0), "the group docker where there is one");
}

#[test]
fn names_that_are_taken_and_streams_that_say_who_speaks() {
    let d = daemon();
    d.docker(&["network", "create", "lan"]).ok();
    let again = d.api("POST", "/networks/create", r#"{"Name": "lan"}"#);
    assert_eq!((again.status, again.message().as_str()), (409, "network with name lan already exists"));
    d.docker(&["run", "-d", "--name", "box", "--network", "lan", "busybox", "sleep", "600"]).ok();
    let busy = d.api("DELETE", "/networks/lan", "");
    assert_eq!(busy.status, 403);
    assert!(
        busy.message()
            .contains("error while removing network: network lan has active endpoints (name:\"box\" id:"),
        "{}",
        busy.message()
    );
    // The head of an upgraded connection has the engine's headers too.
    let mut s = connect(&d.socket());
    write!(s, "POST /v1.47/containers/box/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").unwrap();
    let (status, head) = http::read_head(&mut BufReader::new(s)).unwrap();
    let header = |name: &str| head.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!((status, header("api-version"), header("ostype")), (101, Some("1.55"), Some("linux")));
    assert!(header("server").is_some_and(|s| s.starts_with("Docker/")), "{head:?}");
    assert_eq!((header("connection"), header("upgrade")), (Some("Upgrade"), Some("tcp")));
}

/// What `kind create cluster` runs, with its odd flags, and how it talks to a node afterwards.
#[test]
fn the_command_lines_of_kind() {
    let d = daemon();
    d.docker(&[
        "network",
        "create",
        "-d=bridge",
        "-o",
        "com.docker.network.bridge.enable_ip_masquerade=true",
        "-o",
        "com.docker.network.driver.mtu=1500",
        "--subnet",
        "10.89.0.0/16",
        "kind",
    ])
    .ok();
    let filter = d.docker(&["network", "ls", "--filter=name=^kind$", "--format={{.ID}}"]).ok();
    assert_eq!(filter.len(), 12);
    d.docker(&[
        "run",
        "--name",
        "kind-control-plane",
        "--hostname",
        "kind-control-plane",
        "--label",
        "io.x-k8s.kind.role=control-plane",
        "--privileged",
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "apparmor=unconfined",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/run",
        "--volume",
        "/var",
        "--volume",
        "/lib/modules:/lib/modules:ro",
        "-e",
        "KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER",
        "--detach",
        "--tty",
        "--label",
        "io.x-k8s.kind.cluster=kind",
        "--net",
        "kind",
        "--restart=on-failure:1",
        "--init=false",
        "--cgroupns=private",
        "--volume",
        "/dev/mapper:/dev/mapper",
        "--publish=127.0.0.1:36443:6443/TCP",
        "-e",
        "KUBECONFIG=/etc/kubernetes/admin.conf",
        "busybox",
        "sh",
        "-c",
        "echo Reached target; exec sleep 600",
    ])
    .ok();
    let name = "kind-control-plane";
    let ask = |template: &str| d.docker(&["inspect", "-f", template, name]).ok();
    assert!(
        ask("{{range .NetworkSettings.Networks}}{{.IPAddress}},{{.GlobalIPv6Address}}{{end}}")
            .starts_with("10.89.0.2")
    );
    assert_eq!(ask("{{ index .Config.Labels \"io.x-k8s.kind.role\"}}"), "control-plane");
    assert_eq!(
        ask(
            "{{ with (index (index .NetworkSettings.Ports \"6443/tcp\") 0) }}{{ printf \"%s\t%s\" .HostIp .HostPort }}{{ end }}"
        ),
        "127.0.0.1\t36443"
    );
    let list = d
        .docker(&[
            "ps",
            "-a",
            "--filter",
            "label=io.x-k8s.kind.cluster",
            "--format",
            "{{.Label \"io.x-k8s.kind.cluster\"}} {{.Names}}",
        ])
        .ok();
    assert_eq!(list, format!("kind {name}"));
    assert!(d.docker(&["logs", name]).ok().contains("Reached target"));
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let write = d.docker_with_input(
        &["exec", "--privileged", "-i", name, "cp", "/dev/stdin", "/var/image.tar"],
        &sent,
    );
    write.ok();
    assert_eq!(
        d.docker(&["exec", "--privileged", name, "stat", "-c", "%s", "/var/image.tar"]).ok(),
        "3000000"
    );
    let inside = d
        .docker(&[
            "exec",
            name,
            "sh",
            "-c",
            "mount | grep -E -c ' /(tmp|run|var|lib/modules) '; cat /proc/1/cgroup | grep -c wharf; hostname",
        ])
        .ok();
    assert!(inside.starts_with("4\n0\n") && inside.ends_with(name), "{inside}");
    d.docker(&["rm", "-f", "-v", name]).ok();
    assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), "");
}

/// VS Code's dev containers wait for the start on `docker events`, and keep the container by its own output.
#[test]
fn the_command_lines_of_dev_containers() {
    let d = daemon();
    assert_eq!(d.docker(&["version", "--format", "{{.Server.APIVersion}}"]).ok(), "1.55");
    let mut events = d.docker_command(&["events", "--format", "{{json .}}", "--filter", "event=start"]);
    let mut events = events.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    // So that the listener is there: it has no other way to say so.
    std::thread::sleep(Duration::from_millis(500));
    let run = [
        "run",
        "--sig-proxy=false",
        "-a",
        "STDOUT",
        "-a",
        "STDERR",
        "--name",
        "dev",
        "--mount",
        "source=/tmp,target=/workspaces/x,type=bind",
        "-l",
        "devcontainer.local_folder=/x",
        "--cap-add=SYS_PTRACE",
        "--security-opt",
        "seccomp=unconfined",
        "--network",
        "none",
        "--entrypoint",
        "/bin/sh",
        "busybox",
        "-c",
        "echo Container started; trap \"exit 0\" 15; while sleep 1 & wait $!; do :; done",
        "-",
    ];
    let mut client = d.docker_command(&run);
    let mut client = client.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "Container started\n");
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(event["Actor"]["Attributes"]["devcontainer.local_folder"], "/x");
    // A signal to the client is not the container's, which would end by this one. The client itself gives up at the third.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(client.id()).unwrap());
    eventually("the client's end", || {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        client.try_wait().unwrap()
    });
    let found = d.docker(&["ps", "-q", "-a", "--filter", "label=devcontainer.local_folder=/x"]).ok();
    let seen = d.docker(&["inspect", "--type", "container", &found]).ok();
    assert_eq!(serde_json::from_str::<Value>(&seen).unwrap()[0]["State"]["Running"], true);
    // Its shell server: one that lives on pipes.
    let shell = d.docker_with_input(
        &["exec", "-i", "-u", "root", "-e", "VSCODE=1", "dev", "/bin/sh"],
        b"echo -n S; echo $VSCODE; cat /proc/sys/kernel/ostype; exit 4\n",
    );
    assert_eq!((shell.code, shell.out.as_str()), (4, "S1\nLinux\n"));
    let stopped = d.docker(&["stop", "dev"]).ok();
    assert_eq!(
        (stopped.as_str(), d.docker(&["inspect", "-f", "{{.State.ExitCode}}", "dev"]).ok()),
        ("dev", "0".to_owned())
    );
    events.kill().unwrap();
    events.wait().unwrap();
}

/// GitHub's runner: a network for the job, services with names and health, the engine's socket inside a container.
#[test]
fn the_command_lines_of_githubs_runner() {
    let d = daemon();
    d.docker(&["network", "create", "--label", "f7ebc9", "github_network_1"]).ok();
    let service = d
        .docker(&[
            "create",
            "--name",
            "svc",
            "--label",
            "f7ebc9",
            "--network",
            "github_network_1",
            "--network-alias",
            "db",
            "--health-cmd",
            "test -e /ready",
            "--health-interval",
            "1s",
            "-e",
            "GITHUB_ACTIONS=true",
            "-e",
            "CI=true",
            "busybox",
            "sh",
            "-c",
            "sleep 1; touch /ready; exec sleep 600",
        ])
        .ok();
    d.docker(&["start", &service]).ok();
    assert_eq!(
        d.docker(&[
            "ps",
            "--all",
            "--filter",
            &format!("id={service}"),
            "--filter",
            "status=running",
            "--no-trunc",
            "--format",
            "{{.ID}} {{.Status}}"
        ])
        .ok()
        .split(' ')
        .next(),
        Some(service.as_str())
    );
    let health = "{{if .Config.Healthcheck}}{{print .State.Health.Status}}{{end}}";
    assert!(matches!(
        d.docker(&["inspect", "--format", health, &service]).ok().as_str(),
        "starting" | "healthy"
    ));
    eventually("the service's health", || {
        (d.docker(&["inspect", "--format", health, &service]).ok() == "healthy").then_some(())
    });
    let directory = d.socket().parent().unwrap().display().to_string();
    // A client inside, with this machine's own program and libraries.
    let job = d
        .docker(&[
            "create",
            "--name",
            "job",
            "--label",
            "f7ebc9",
            "--workdir",
            "/__w",
            "--network",
            "github_network_1",
            "-v",
            &format!("{directory}:/engine"),
            "-v",
            "/usr:/usr:ro",
            "-v",
            "/lib:/lib:ro",
            "-v",
            "/lib64:/lib64:ro",
            "--entrypoint",
            "tail",
            "busybox",
            "-f",
            "/dev/null",
        ])
        .ok();
    d.docker(&["start", &job]).ok();
    let step =
        ["exec", "-i", "--workdir", "/__w", "-e", "DOCKER_HOST=unix:///engine/wharf.sock", &job, "sh", "-e"];
    let ran = d.docker_with_input(&step, b"ping -c 1 -W 5 db > /dev/null && echo found\npwd\ndocker ps -q --no-trunc --filter label=f7ebc9 | wc -l\nexit 3\n");
    assert_eq!((ran.code, ran.out.as_str()), (3, "found\n/__w\n2\n"), "{}", ran.err);
    d.docker(&["rm", "--force", &job, &service]).ok();
    d.docker(&["network", "prune", "--force", "--filter", "label=f7ebc9"]).ok();
    assert_eq!(d.docker(&["network", "ls", "-q", "--filter", "label=f7ebc9"]).ok(), "");
}

/// Frames of HTTP/2 that are made to cost more than they do: the daemon ends such a connection or lives with it.
#[test]
fn floods_of_http2_frames_take_nothing_from_others() {
    let d = daemon();
    let request = |path: &str| {
        let mut block = vec![0x82, 0x86];
        for (index, text) in [(4_u8, path), (1, "localhost")] {
            block.extend([index, u8::try_from(text.len()).unwrap()]);
            block.extend(text.as_bytes());
        }
        block
    };
    let memory = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", d.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (block, events) = (request("/_ping"), request("/events"));
    // Each attack is a piece that is sent again and again, numbered by streams where it needs one.
    type Attack<'a> = (&'a str, Box<dyn Fn(u32) -> Vec<u8> + 'a>);
    let attacks: [Attack; 8] = [
        ("settings", Box::new(|_| http::frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]))),
        ("pings", Box::new(|_| http::frame(6, 0, 0, &[0; 8]))),
        (
            "requests that are taken back",
            Box::new(|n| {
                [http::frame(1, 0x5, 2 * n + 1, &events), http::frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])]
                    .concat()
            }),
        ),
        (
            "heads without end",
            Box::new(|n| {
                if n == 0 {
                    http::frame(1, 0x1, 1, &block)
                } else {
                    http::frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(2000))
                }
            }),
        ),
        (
            "an answer that nobody takes",
            Box::new(|n| {
                if n == 0 {
                    [http::frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]), http::frame(1, 0x5, 1, &block)].concat()
                } else {
                    http::frame(1, 0x5, 2 * n + 1, &block)
                }
            }),
        ),
        (
            "empty data",
            Box::new(|n| if n == 0 { http::frame(1, 0x4, 1, &block) } else { http::frame(0, 0, 1, &[]) }),
        ),
        (
            "table sizes",
            Box::new(|n| http::frame(1, 0x5, 2 * n + 1, &[&[0x3f, 0xe1, 0x1f, 0x20][..], &block].concat())),
        ),
        ("priorities", Box::new(|n| http::frame(2, 0, 2 * n + 1, &[0, 0, 0, 0, 16]))),
    ];
    let before = memory();
    for (what, piece) in &attacks {
        let mut s = connect(&d.socket());
        s.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut reader = s.try_clone().unwrap();
        // What the daemon says is read, or not, as an attacker likes.
        let deaf = *what == "an answer that nobody takes";
        let listener = (!deaf).then(|| {
            std::thread::spawn(move || while matches!(reader.read(&mut [0; 65536]), Ok(n) if n > 0) {})
        });
        s.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        s.write_all(&http::frame(4, 0, 0, &[])).unwrap();
        let mut sent = 0_u32;
        while sent < 20_000 && s.write_all(&piece(sent)).is_ok() {
            sent += 1;
        }
        // Others are served meanwhile.
        assert_eq!(d.api("GET", "/_ping", "").text(), "OK", "{what} after {sent}");
        let _ = s.shutdown(std::net::Shutdown::Both);
        drop(s);
        if let Some(listener) = listener {
            listener.join().unwrap();
        }
        let now = memory();
        assert!(now < before + (96 << 10), "{what}: {before} became {now} KiB after {sent}");
    }
    assert_eq!(d.docker(&["run", "--rm", "--network", "none", "busybox", "echo", "fine"]).ok(), "fine");
}
