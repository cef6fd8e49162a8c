//! The calls of well-known tools, in their order, over raw HTTP; and tools themselves where they can be had.

#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use wharf_tests::compose::{self, compose};
use wharf_tests::{Daemon, connect, eventually, http};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

/// A request that has to succeed with this status; its JSON, or null.
#[track_caller]
fn ok(d: &Daemon, method: &str, path: &str, body: Value, status: u16) -> Value {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = d.api(method, path, &text);
    assert_eq!(answer.status, status, "{method} {path} {text}: {}", answer.text());
    if answer.body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
    }
}

fn filters(filters: &Value) -> String {
    http::encoded(&filters.to_string())
}

fn open(d: &Daemon, method: &str, path: &str, headers: &str) -> (u16, BufReader<UnixStream>) {
    let mut stream = connect(&d.socket());
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let (status, _) = http::read_head(&mut reader).unwrap();
    (status, reader)
}

fn chunk(reader: &mut impl BufRead) -> Value {
    let mut size = String::new();
    reader.read_line(&mut size).unwrap();
    let n = usize::from_str_radix(size.trim(), 16).unwrap();
    let mut data = vec![0; n + 2];
    reader.read_exact(&mut data).unwrap();
    serde_json::from_slice(&data[..n]).unwrap()
}

/// Both streams of a multiplexed connection up to its end.
fn streams(reader: &mut impl Read) -> [String; 2] {
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    let mut found = [String::new(), String::new()];
    let mut rest = all.as_slice();
    while let [kind, _, _, _, a, b, c, d, more @ ..] = rest {
        let n = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        found[usize::from(*kind == 2)] += &String::from_utf8_lossy(&more[..n]);
        rest = &more[n..];
    }
    found
}

/// GitLab's runner: a helper with a volume, services by label, then for each script: attach, wait, start, write the script
/// to standard input, read to the end, take the exit code from the wait that was registered first.
#[test]
fn gitlab_runner() {
    let d = daemon();
    let labels = json!({"com.gitlab.gitlab-runner.job.id": "7", "com.gitlab.gitlab-runner.managed": "true"});
    let id = ok(&d, "GET", "/v1.44/images/busybox:latest/json", Value::Null, 200)["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    ok(&d, "GET", &format!("/v1.44/images/{id}/json"), Value::Null, 200);
    let network =
        ok(&d, "POST", "/v1.44/networks/create", json!({"Name": "runner-net", "Labels": labels}), 201)["Id"]
            .as_str()
            .unwrap()
            .to_owned();
    ok(&d, "POST", "/v1.44/volumes/create", json!({"Name": "runner-cache", "Labels": labels}), 201);
    let service = ok(
        &d,
        "POST",
        "/v1.44/containers/create?name=runner-svc-0",
        json!({"Image": id, "Cmd": ["sh", "-c", "echo served; exec nc -ll -p 80 -e echo hello"], "Labels": labels, "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {"NetworkMode": network}, "NetworkingConfig": {"EndpointsConfig": {"runner-net": {"Aliases": ["svc"]}}}}),
        201,
    );
    let service = service["Id"].as_str().unwrap();
    ok(&d, "POST", &format!("/v1.44/containers/{service}/start"), Value::Null, 204);
    let inspected = ok(&d, "GET", &format!("/v1.44/containers/{service}/json"), Value::Null, 200);
    let ip = inspected["NetworkSettings"]["Networks"]["runner-net"]["IPAddress"].as_str().unwrap().to_owned();
    let reach = format!("until nc {ip} 80 </dev/null; do sleep 0.1; done\n");
    for (script, code, out, err) in [
        ("echo build; echo warn >&2; test -d /builds\n", 0, "build\n", "warn\n"),
        ("exit 42\n", 42, "", ""),
        (reach.as_str(), 0, "hello\n", ""),
        (
            "cat /builds/made || { echo once > /builds/made; }\n",
            0,
            "",
            "cat: can't open '/builds/made': No such file or directory\n",
        ),
        ("cat /builds/made\n", 0, "once\n", ""),
    ] {
        let body = json!({"Image": id, "Cmd": ["sh"], "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
            "OpenStdin": true, "StdinOnce": true, "Labels": labels,
            "HostConfig": {"Binds": ["runner-cache:/builds"], "NetworkMode": network, "RestartPolicy": {"Name": "no"}}});
        let made = ok(&d, "POST", "/v1.44/containers/create?name=runner-build", body, 201)["Id"]
            .as_str()
            .unwrap()
            .to_owned();
        let attach = format!("/v1.44/containers/{made}/attach?stdin=1&stdout=1&stderr=1&stream=1");
        let (status, mut attached) = open(&d, "POST", &attach, "Connection: Upgrade\r\nUpgrade: tcp\r\n");
        assert_eq!(status, 101);
        let (status, mut waiting) = open(
            &d,
            "POST",
            &format!("/v1.44/containers/{made}/wait?condition=next-exit"),
            "Content-Length: 0\r\n",
        );
        assert_eq!(status, 200);
        ok(&d, "POST", &format!("/v1.44/containers/{made}/start"), Value::Null, 204);
        attached.get_mut().write_all(script.as_bytes()).unwrap();
        attached.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        let [said, mut warned] = streams(&mut attached);
        if script == reach {
            // The service may have been slower than the script.
            warned.clear();
        }
        assert_eq!([said, warned], [out, err], "{script}");
        assert_eq!(chunk(&mut waiting)["StatusCode"], code, "{script}");
        ok(&d, "DELETE", &format!("/v1.44/containers/{made}?force=1&v=1"), Value::Null, 204);
    }
    let managed = filters(&json!({"label": ["com.gitlab.gitlab-runner.managed=true"]}));
    let left = ok(&d, "GET", &format!("/v1.44/containers/json?all=1&filters={managed}"), Value::Null, 200);
    assert_eq!(left.as_array().unwrap().len(), 1);
    ok(&d, "DELETE", "/v1.44/containers/runner-svc-0?force=1&v=1", Value::Null, 204);
    ok(&d, "DELETE", &format!("/v1.44/networks/{network}"), Value::Null, 204);
    ok(&d, "DELETE", "/v1.44/volumes/runner-cache?force=1", Value::Null, 204);
}

/// Nomad's driver: the fingerprint, a task with limits and labels, its conflict handling, statistics, an exec, signals.
#[test]
fn nomad() {
    let d = daemon();
    assert_eq!(d.api("GET", "/_ping", "").text(), "OK");
    let version = ok(&d, "GET", "/version", Value::Null, 200);
    assert!(version["Version"].as_str().unwrap().split('.').count() >= 3, "{version}");
    let info = ok(&d, "GET", "/v1.44/info", Value::Null, 200);
    assert!(
        info["OSType"] == "linux"
            && info["Runtimes"]["runc"].is_object()
            && info["CgroupVersion"].is_string()
    );
    let bridge = ok(&d, "GET", "/v1.44/networks/bridge", Value::Null, 200);
    assert!(
        bridge["IPAM"]["Config"][0]["Gateway"].as_str().unwrap().parse::<std::net::Ipv4Addr>().is_ok(),
        "{bridge}"
    );
    let pause = json!({"Image": "busybox", "Cmd": ["sleep", "600"], "Hostname": "alloc", "Labels": {"com.hashicorp.nomad.alloc_id": "a1"},
        "HostConfig": {"NetworkMode": "none", "RestartPolicy": {"Name": "unless-stopped"}}});
    ok(&d, "POST", "/v1.44/containers/create?name=nomad_init_a1", pause, 201);
    ok(&d, "POST", "/v1.44/containers/nomad_init_a1/start", Value::Null, 204);
    let sandbox = ok(&d, "GET", "/v1.44/containers/nomad_init_a1/json", Value::Null, 200);
    assert!(
        sandbox["NetworkSettings"]["SandboxKey"].is_string() && sandbox["State"]["Pid"].as_i64().unwrap() > 0
    );
    let task = json!({"Image": "busybox", "Cmd": ["sh", "-c", "trap 'echo got; exit 5' USR1; echo up; while :; do sleep 0.05; done"],
        "Labels": {"com.hashicorp.nomad.alloc_id": "a1"}, "Env": ["NOMAD_TASK_NAME=web"],
        "HostConfig": {"NetworkMode": "container:nomad_init_a1", "Memory": 67_108_864, "MemorySwap": 67_108_864, "CpuShares": 100,
            "PidsLimit": 100, "LogConfig": {"Type": "json-file", "Config": {"max-file": "2", "max-size": "2m"}}}});
    let id = ok(&d, "POST", "/v1.44/containers/create?name=web-a1", task.clone(), 201)["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    // Taken: it looks for the holder by name and purges it.
    let taken = d.api("POST", "/v1.44/containers/create?name=web-a1", &task.to_string());
    assert!(
        taken.status == 409
            && taken
                .message()
                .contains("Conflict. The container name \"/web-a1\" is already in use by container")
    );
    let named = filters(&json!({"name": ["web-a1"]}));
    assert_eq!(
        ok(&d, "GET", &format!("/v1.44/containers/json?all=1&filters={named}"), Value::Null, 200)[0]["Id"],
        id.as_str()
    );
    ok(&d, "POST", &format!("/v1.44/containers/{id}/start"), Value::Null, 204);
    let (status, mut numbers) = open(&d, "GET", &format!("/v1.44/containers/{id}/stats?stream=1"), "");
    assert_eq!(status, 200);
    for _ in 0..2 {
        let sample = chunk(&mut numbers);
        assert_eq!(sample["memory_stats"]["limit"], 67_108_864, "{sample}");
        assert!(sample["cpu_stats"]["cpu_usage"]["total_usage"].is_u64());
    }
    let exec = ok(
        &d,
        "POST",
        &format!("/v1.44/containers/{id}/exec"),
        json!({"Cmd": ["sh", "-c", "exit 3"], "AttachStdout": true}),
        201,
    );
    let exec = exec["Id"].as_str().unwrap();
    let (_, mut reader) =
        open(&d, "POST", &format!("/v1.44/exec/{exec}/start"), "Connection: Upgrade\r\nUpgrade: tcp\r\n");
    reader.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(ok(&d, "GET", &format!("/v1.44/exec/{exec}/json"), Value::Null, 200)["ExitCode"], 3);
    let (_, mut waiting) = open(
        &d,
        "POST",
        &format!("/v1.44/containers/{id}/wait?condition=not-running"),
        "Content-Length: 0\r\n",
    );
    ok(&d, "POST", &format!("/v1.44/containers/{id}/kill?signal=SIGUSR1"), Value::Null, 204);
    assert_eq!(chunk(&mut waiting)["StatusCode"], 5);
    let dead = ok(&d, "GET", &format!("/v1.44/containers/{id}/json"), Value::Null, 200);
    assert!(
        dead["State"]["OOMKilled"] == false
            && dead["State"]["ExitCode"] == 5
            && dead["State"]["FinishedAt"] != "0001-01-01T00:00:00Z"
    );
    // Dangling containers are found by label, removed, and a second removal is told apart.
    ok(&d, "DELETE", &format!("/v1.44/containers/{id}?v=1&force=1"), Value::Null, 204);
    let gone = d.api("DELETE", &format!("/v1.44/containers/{id}?v=1&force=1"), "");
    assert_eq!((gone.status, gone.message()), (404, format!("No such container: {id}")));
    let kill = d.api("POST", &format!("/v1.44/containers/{id}/kill"), "");
    assert_eq!(kill.status, 404);
}

/// Portainer: snapshots of everything, the swarm probe, a console through exec, logs, the recreation of a container.
#[test]
fn portainer() {
    let d = daemon();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "app",
        "-p",
        "8080:80",
        "-v",
        "data:/data",
        "--label",
        "a=b",
        "busybox",
        "sleep",
        "600",
    ])
    .ok();
    for prefix in ["", "/v1.41"] {
        let info = ok(&d, "GET", &format!("{prefix}/info"), Value::Null, 200);
        assert_eq!(
            (&info["Swarm"]["LocalNodeState"], &info["Swarm"]["ControlAvailable"]),
            (&json!("inactive"), &json!(false))
        );
        for kind in ["Volume", "Network", "Log"] {
            assert!(!info["Plugins"][kind].as_array().unwrap().is_empty(), "{kind}: {}", info["Plugins"]);
        }
        assert!(info["Plugins"]["Network"].as_array().unwrap().contains(&json!("bridge")));
        assert!(info["Plugins"]["Volume"].as_array().unwrap().contains(&json!("local")));
        for path in ["/swarm", "/nodes", "/services", "/tasks"] {
            let probe = d.api("GET", &format!("{prefix}{path}"), "");
            assert!(
                probe.status == 503 && probe.message().starts_with("This node is not a swarm manager."),
                "{path}"
            );
        }
        let list = ok(&d, "GET", &format!("{prefix}/containers/json?all=1&size=0"), Value::Null, 200);
        assert!(list[0]["Ports"].as_array().unwrap().iter().any(|p| p["PublicPort"] == 8080), "{list}");
        let volumes = ok(
            &d,
            "GET",
            &format!("{prefix}/volumes?filters={}", filters(&json!({"dangling": ["false"]}))),
            Value::Null,
            200,
        );
        assert_eq!(volumes["Volumes"][0]["Name"], "data");
        assert!(
            volumes["Volumes"][0]["CreatedAt"].is_string() && volumes["Volumes"][0]["Mountpoint"].is_string()
        );
        assert!(
            ok(&d, "GET", &format!("{prefix}/images/json?all=1"), Value::Null, 200)[0]["RepoTags"].is_array()
        );
        assert!(
            ok(&d, "GET", &format!("{prefix}/networks"), Value::Null, 200).as_array().unwrap().len() >= 3
        );
        assert!(ok(&d, "GET", &format!("{prefix}/plugins"), Value::Null, 200).is_array());
    }
    let df = ok(&d, "GET", "/v1.41/system/df", Value::Null, 200);
    assert_eq!(df["Volumes"][0]["UsageData"]["RefCount"], 1);
    let exec = ok(
        &d,
        "POST",
        "/v1.41/containers/app/exec",
        json!({"Cmd": ["sh"], "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": true, "User": ""}),
        201,
    );
    let exec = exec["Id"].as_str().unwrap();
    let mut stream = connect(&d.socket());
    let body = r#"{"Tty": true, "Detach": false}"#;
    write!(stream, "POST /v1.41/exec/{exec}/start HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert_eq!(http::read_head(&mut reader).unwrap().0, 101);
    let resized = d.api("POST", &format!("/v1.41/exec/{exec}/resize?h=40&w=120"), "");
    assert!(resized.status < 300, "{}", resized.text());
    stream.write_all(b"stty size; exit\n").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.contains("40 120"), "{text}");
    // Recreation: rename, create, disconnect and connect, start, remove the old one.
    let old = ok(&d, "GET", "/v1.41/containers/app/json", Value::Null, 200);
    ok(&d, "POST", "/v1.41/containers/app/rename?name=app-old", Value::Null, 204);
    ok(&d, "POST", "/v1.41/containers/app-old/stop", Value::Null, 204);
    let mut body = old["Config"].clone();
    body["HostConfig"] = old["HostConfig"].clone();
    let new =
        ok(&d, "POST", "/v1.41/containers/create?name=app", body, 201)["Id"].as_str().unwrap().to_owned();
    ok(&d, "POST", &format!("/v1.41/containers/{new}/start"), Value::Null, 204);
    ok(&d, "DELETE", "/v1.41/containers/app-old?force=true", Value::Null, 204);
    let new = ok(&d, "GET", "/v1.41/containers/app/json", Value::Null, 200);
    assert_eq!(new["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"], "8080");
}

/// Traefik and its like: an event stream, and for each start the list and an inspect: labels, addresses, ports, health.
#[test]
fn traefik() {
    let d = daemon();
    d.docker(&["network", "create", "web"]).ok();
    let only = filters(&json!({"type": {"container": true}}));
    let (status, mut events) = open(&d, "GET", &format!("/v1.24/events?filters={only}"), "");
    assert_eq!(status, 200);
    d.docker(&[
        "run",
        "-d",
        "--name",
        "site",
        "--network",
        "web",
        "--network-alias",
        "www",
        "--expose",
        "8000",
        "--health-cmd",
        "true",
        "--health-interval",
        "100ms",
        "--label",
        "traefik.enable=true",
        "--label",
        "traefik.http.routers.r.rule=Host(`a.test`)",
        "busybox",
        "sleep",
        "600",
    ])
    .ok();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|action: &String| action != "health_status: healthy") {
        let event = chunk(&mut events);
        assert_eq!(event["Actor"]["Attributes"]["traefik.enable"], "true", "{event}");
        assert_eq!((&event["status"], &event["from"]), (&event["Action"], &json!("busybox")));
        seen.push(event["Action"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen[..2], ["create", "start"], "{seen:?}");
    let running = ok(&d, "GET", "/v1.24/containers/json", Value::Null, 200);
    assert!(running[0]["Status"].as_str().unwrap().contains("(healthy)"), "{running}");
    let site = ok(&d, "GET", "/v1.24/containers/site/json", Value::Null, 200);
    assert_eq!(site["State"]["Health"]["Status"], "healthy");
    assert!(
        site["NetworkSettings"]["Networks"]["web"]["IPAddress"]
            .as_str()
            .unwrap()
            .parse::<std::net::Ipv4Addr>()
            .is_ok()
    );
    assert!(
        site["NetworkSettings"]["Ports"]["8000/tcp"].is_null()
            && site["NetworkSettings"]["Ports"].as_object().unwrap().contains_key("8000/tcp")
    );
    assert_eq!(site["Config"]["Labels"]["traefik.http.routers.r.rule"], "Host(`a.test`)");
    d.docker(&["stop", "-t", "0", "site"]).ok();
    let mut last = String::new();
    while last != "stop" {
        last = chunk(&mut events)["Action"].as_str().unwrap().to_owned();
        seen.push(last.clone());
    }
    let place = |wanted: &str| seen.iter().position(|a| a == wanted).unwrap();
    assert!(place("kill") < place("die") && place("die") < place("stop"), "{seen:?}");
    assert_eq!(ok(&d, "GET", "/v1.24/containers/json", Value::Null, 200), json!([]));
}

/// Watchtower: a newer image under the same name; the container is stopped, removed and made anew from what was inspected,
/// with its network connected afterwards as older APIs want it.
#[test]
fn watchtower() {
    let d = daemon();
    d.docker(&["network", "create", "n1"]).ok();
    d.docker(&["network", "create", "n2"]).ok();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "app",
        "--network",
        "n1",
        "--network-alias",
        "one",
        "--label",
        "com.centurylinklabs.watchtower.enable=true",
        "-e",
        "KEY=value",
        "-v",
        "state:/state",
        "--restart",
        "unless-stopped",
        "busybox",
        "sleep",
        "600",
    ])
    .ok();
    d.docker(&["network", "connect", "--alias", "two", "n2", "app"]).ok();
    let old_image = ok(&d, "GET", "/v1.43/images/busybox/json", Value::Null, 200);
    assert!(old_image["RepoDigests"].is_array());
    let mut tar = wharf_tests::image::busybox_tar();
    tar.truncate(tar.len() - 1024);
    wharf_tests::image::entry(&mut tar, "new", b'0', 0o644, "", b"new");
    wharf_tests::image::finish(&mut tar);
    d.docker_with_input(&["import", "-", "busybox:latest"], &tar).ok();
    let labelled =
        filters(&json!({"status": ["running"], "label": ["com.centurylinklabs.watchtower.enable=true"]}));
    let found = ok(&d, "GET", &format!("/v1.43/containers/json?filters={labelled}"), Value::Null, 200);
    let id = found[0]["Id"].as_str().unwrap();
    let c = ok(&d, "GET", &format!("/v1.43/containers/{id}/json"), Value::Null, 200);
    assert_eq!(c["Image"], old_image["Id"]);
    ok(&d, "POST", &format!("/v1.43/containers/{id}/kill?signal=SIGKILL"), Value::Null, 204);
    eventually("the container's end", || {
        (d.api("GET", &format!("/containers/{id}/json"), "").json()["State"]["Running"] == false)
            .then_some(())
    });
    ok(&d, "DELETE", &format!("/v1.43/containers/{id}?force=1"), Value::Null, 204);
    let networks = c["NetworkSettings"]["Networks"].as_object().unwrap();
    let mut body = c["Config"].clone();
    body["HostConfig"] = c["HostConfig"].clone();
    body["NetworkingConfig"] = json!({"EndpointsConfig": {"n1": networks["n1"]}});
    let new =
        ok(&d, "POST", "/v1.43/containers/create?name=app", body, 201)["Id"].as_str().unwrap().to_owned();
    for (name, endpoint) in networks {
        d.api(
            "POST",
            &format!("/v1.43/networks/{name}/disconnect"),
            &json!({"Container": new, "Force": true}).to_string(),
        );
        ok(
            &d,
            "POST",
            &format!("/v1.43/networks/{name}/connect"),
            json!({"Container": new, "EndpointConfig": endpoint}),
            200,
        );
    }
    ok(&d, "POST", &format!("/v1.43/containers/{new}/start"), Value::Null, 204);
    let after = ok(&d, "GET", "/v1.43/containers/app/json", Value::Null, 200);
    assert_ne!(after["Image"], old_image["Id"]);
    assert_eq!(after["Config"]["Env"], c["Config"]["Env"]);
    assert_eq!(after["Mounts"][0]["Name"], "state");
    for (name, alias) in [("n1", "one"), ("n2", "two")] {
        let aliases = after["NetworkSettings"]["Networks"][name]["Aliases"].as_array().unwrap();
        assert!(aliases.contains(&json!(alias)), "{name}: {aliases:?}");
    }
    // The old image is nobody's now and goes.
    ok(
        &d,
        "DELETE",
        &format!("/v1.43/images/{}?force=1", old_image["Id"].as_str().unwrap()),
        Value::Null,
        200,
    );
}

#[test]
fn compose_brings_a_project_up_and_down() {
    let d = daemon();
    let Some(program) = compose(&d) else { return };
    let dir = d.path("project");
    std::fs::create_dir_all(dir.join("site")).unwrap();
    std::fs::write(dir.join("site/index"), "from the host").unwrap();
    std::fs::write(
        dir.join("compose.yaml"),
        r#"
name: demo
services:
  db:
    image: busybox
    command: ["sh", "-c", "mkdir -p /up; echo ready > /up/state; echo db says hello; exec nc -ll -p 5432 -e echo answer"]
    healthcheck: {test: ["CMD", "grep", "ready", "/up/state"], interval: 200ms, retries: 50}
    volumes: ["store:/store"]
    networks: {back: {aliases: [database]}}
  web:
    image: busybox
    command: ["sh", "-c", "trap 'exit 0' TERM; echo web begins; while :; do sleep 0.1; done"]
    depends_on: {db: {condition: service_healthy}}
    environment: {GREETING: "hi there"}
    ports: ["127.0.0.1::80"]
    volumes: ["./site:/site:ro", {type: tmpfs, target: /scratch}]
    networks: [back, front]
    labels: {role: front}
    configs: [{source: motd, target: /etc/motd}]
    ulimits: {nofile: {soft: 100, hard: 200}}
    deploy: {resources: {limits: {memory: 64M, pids: 50}}}
    stop_grace_period: 5s
configs:
  motd: {content: "words of the day"}
networks:
  back: {}
  front: {ipam: {config: [{subnet: 10.78.0.0/24}]}}
volumes:
  store: {}
"#,
    )
    .unwrap();
    let run = |args: &[&str]| compose::run(&d, &program, &dir, args);
    run(&["config", "-q"]).ok();
    run(&["up", "-d", "--wait"]).ok();
    let list = run(&["ps", "--format", "{{.Service}} {{.State}} {{.Health}}"]).ok();
    let mut lines: Vec<&str> = list.lines().map(str::trim).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["db running healthy", "web running"]);
    assert!(run(&["logs", "--no-log-prefix", "db"]).ok().contains("db says hello"));
    assert!(run(&["port", "web", "80"]).ok().starts_with("127.0.0.1:"));
    let ip = d
        .docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "demo-db-1"])
        .ok();
    let script =
        format!("cat /etc/motd /site/index; echo; echo $GREETING; ulimit -n; nc {ip} 5432 </dev/null");
    assert_eq!(
        run(&["exec", "-T", "web", "sh", "-c", &script]).ok(),
        "words of the dayfrom the host\nhi there\n100\nanswer"
    );
    std::fs::write(dir.join("copied"), "copied in").unwrap();
    run(&["cp", "copied", "web:/scratch-file"]).ok();
    run(&["cp", "web:/scratch-file", "back"]).ok();
    assert_eq!(std::fs::read_to_string(dir.join("back")).unwrap(), "copied in");
    assert!(run(&["top", "web"]).ok().contains("sleep"));
    assert!(run(&["images"]).ok().contains("busybox"));
    // Nothing changes: nothing is made anew. Something changes: that one service is.
    let id = run(&["ps", "-q", "web"]).ok();
    run(&["up", "-d", "--wait"]).ok();
    assert_eq!(run(&["ps", "-q", "web"]).ok(), id);
    let text = std::fs::read_to_string(dir.join("compose.yaml")).unwrap();
    std::fs::write(dir.join("compose.yaml"), text.replace("hi there", "changed")).unwrap();
    run(&["up", "-d", "--wait"]).ok();
    assert_ne!(run(&["ps", "-q", "web"]).ok(), id);
    assert_eq!(run(&["exec", "-T", "web", "sh", "-c", "echo $GREETING"]).ok(), "changed");
    run(&["restart", "-t", "1", "web"]).ok();
    run(&["pause", "web"]).ok();
    run(&["unpause", "web"]).ok();
    run(&["up", "-d", "--scale", "web=2", "--wait"]).ok();
    assert_eq!(run(&["ps", "-q", "web"]).ok().lines().count(), 2);
    assert_eq!(
        run(&["run", "--rm", "-T", "--no-deps", "web", "echo", "one off"]).ok().lines().last(),
        Some("one off")
    );
    run(&["stop", "-t", "1"]).ok();
    run(&["start"]).ok();
    run(&["kill", "web"]).ok();
    run(&["rm", "-f", "web"]).ok();
    run(&["down", "-v", "-t", "1"]).ok();
    assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
    assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), "");
    assert_eq!(d.docker(&["network", "ls", "-q", "--filter", "label=com.docker.compose.project"]).ok(), "");
}
