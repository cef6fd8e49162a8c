//! What real clients rely on of containers, box by box: requests and answers as bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use wharf_tests::{Daemon, connect, eventually, http};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn create(d: &Daemon, name: &str, more: Value) -> String {
    let mut body =
        json!({"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    let made = d.api("POST", &format!("/v1.47/containers/create?name={name}"), &body.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["Id"].as_str().unwrap().to_owned()
}

fn start(d: &Daemon, name: &str) {
    assert_eq!(d.api("POST", &format!("/containers/{name}/start"), "").status, 204);
}

/// A request whose answer's head is read and whose body is left to the caller.
fn open(
    d: &Daemon,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, Vec<(String, String)>, BufReader<UnixStream>) {
    let mut stream = connect(&d.socket());
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n{body}").unwrap();
    let mut reader = BufReader::new(stream);
    let (status, head) = http::read_head(&mut reader).unwrap();
    (status, head, reader)
}

fn header<'a>(head: &'a [(String, String)], name: &str) -> Option<&'a str> {
    head.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// The next line of a chunked body of lines.
fn chunk_line(reader: &mut impl BufRead) -> String {
    let mut size = String::new();
    reader.read_line(&mut size).unwrap();
    let n = usize::from_str_radix(size.trim(), 16).unwrap();
    let mut data = vec![0; n + 2];
    reader.read_exact(&mut data).unwrap();
    String::from_utf8_lossy(&data[..n]).into_owned()
}

/// All frames until the end of a stream: stream and text.
fn frames(reader: &mut impl Read) -> Vec<(u8, String)> {
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    let mut rest = all.as_slice();
    let mut found: Vec<(u8, String)> = Vec::new();
    while !rest.is_empty() {
        let n = u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
        found.push((rest[0], String::from_utf8_lossy(&rest[8..8 + n]).into_owned()));
        rest = &rest[8 + n..];
    }
    found
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\n";

#[test]
fn create_answers_and_fills_in_what_inspect_shows() {
    let d = daemon();
    let made = d.api(
        "POST",
        "/v1.47/containers/create?name=one",
        r#"{"image": "busybox", "cmd": ["sleep", "600"], "nosuchfield": 1}"#,
    );
    assert_eq!(made.status, 201);
    let (id, warnings) = (made.json()["Id"].as_str().unwrap().to_owned(), made.json()["Warnings"].clone());
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!(warnings, json!([]));
    let missing = d.api("POST", "/containers/create", r#"{"Image": "nosuch"}"#);
    assert_eq!((missing.status, missing.message()), (404, "No such image: nosuch:latest".into()));
    let taken = d.api("POST", "/containers/create?name=one", r#"{"Image": "busybox", "Cmd": ["a"]}"#);
    assert_eq!(taken.status, 409);
    assert_eq!(
        taken.message(),
        format!(
            "Conflict. The container name \"/one\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
        )
    );
    let c = d.api("GET", "/v1.47/containers/one/json", "").json();
    let h = &c["HostConfig"];
    assert_eq!(h["LogConfig"]["Type"], "json-file");
    assert!(h["LogConfig"]["Config"].is_object());
    assert_eq!(h["RestartPolicy"], json!({"Name": "no", "MaximumRetryCount": 0}));
    assert_eq!(
        (&h["ShmSize"], &h["IpcMode"], &h["CgroupnsMode"]),
        (&json!(67_108_864), &json!("private"), &json!("private"))
    );
    assert!(
        h["MaskedPaths"].as_array().unwrap().len() > 5 && h["ReadonlyPaths"].as_array().unwrap().len() > 3
    );
    assert_eq!((&h["ConsoleSize"], &h["Binds"]), (&json!([0, 0]), &Value::Null));
    assert!(c["Created"].as_str().unwrap().ends_with('Z'));
    assert!(c["Image"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!((&c["Config"]["Image"], &c["State"]["Status"]), (&json!("busybox"), &json!("created")));
    for key in ["StartedAt", "FinishedAt"] {
        assert_eq!(c["State"][key], "0001-01-01T00:00:00Z");
    }
    assert!(c["State"].get("Health").is_none() && c.get("SizeRw").is_none());
    assert!(c["NetworkSettings"]["Networks"]["bridge"].is_object());
    for key in [
        "Platform",
        "Driver",
        "LogPath",
        "ResolvConfPath",
        "HostnamePath",
        "HostsPath",
        "Path",
        "Args",
        "Mounts",
    ] {
        assert!(!c[key].is_null(), "{key}");
    }
    assert!(d.api("GET", "/containers/one/json?size=1", "").json()["SizeRootFs"].as_i64().unwrap() > 100_000);
    assert!(
        d.api("GET", "/v1.51/containers/one/json", "").json()["NetworkSettings"].get("IPAddress").is_some()
    );
    assert!(
        d.api("GET", "/v1.52/containers/one/json", "").json()["NetworkSettings"].get("IPAddress").is_none()
    );
    // Found by name with and without a slash and by the start of its id.
    for reference in ["/one", &id, &id[..12], &id[..4]] {
        assert_eq!(d.api("GET", &format!("/containers/{reference}/json"), "").json()["Id"], id.as_str());
    }
}

#[test]
fn several_networks_at_once_and_what_was_inspected_makes_the_same_again() {
    let d = daemon();
    for net in ["net-a", "net-b"] {
        d.docker(&["network", "create", net]).ok();
    }
    let body = json!({
        "Image": "busybox", "Cmd": ["sleep", "600"], "Env": ["A=b"], "Labels": {"l": "m"}, "WorkingDir": "/tmp",
        "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/anon": {}}, "StopSignal": "SIGINT", "Hostname": "myhost",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000_i64},
        "HostConfig": {"NetworkMode": "net-a", "Memory": 67_108_864, "PidsLimit": 50, "CapAdd": ["SYS_TIME"],
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}, "Binds": ["vol:/v:ro"],
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "Tmpfs": {"/t": "size=1m"},
            "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}], "ExtraHosts": ["x:10.0.0.1"]},
        "NetworkingConfig": {"EndpointsConfig": {"net-a": {"Aliases": ["first"]}, "net-b": {"Aliases": ["second"]}}},
    });
    let made = d.api("POST", "/v1.47/containers/create?name=origin", &body.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    start(&d, "origin");
    let c = d.api("GET", "/v1.47/containers/origin/json", "").json();
    let networks = &c["NetworkSettings"]["Networks"];
    for (net, alias) in [("net-a", "first"), ("net-b", "second")] {
        assert!(!networks[net]["IPAddress"].as_str().unwrap().is_empty(), "{networks}");
        assert_eq!(networks[net]["Aliases"], json!([alias]));
        assert!(networks[net]["DNSNames"].as_array().unwrap().contains(&json!("origin")));
    }
    let port = c["NetworkSettings"]["Ports"]["80/tcp"][0].clone();
    assert_eq!(port["HostIp"], "127.0.0.1");
    assert!(port["HostPort"].as_str().unwrap().parse::<u16>().unwrap() > 1023);
    // As Watchtower does it.
    let mut again = c["Config"].clone();
    again["HostConfig"] = c["HostConfig"].clone();
    again["NetworkingConfig"] = json!({"EndpointsConfig": networks});
    d.docker(&["rm", "-f", "origin"]).ok();
    let made = d.api("POST", "/v1.47/containers/create?name=copy", &again.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    start(&d, "copy");
    let copy = d.api("GET", "/v1.47/containers/copy/json", "").json();
    // The address that the first one happened to have was asked for by the second.
    let mut config = copy["Config"].clone();
    let mac = config.as_object_mut().unwrap().remove("MacAddress");
    assert_eq!(mac.as_ref(), Some(&networks["net-a"]["MacAddress"]));
    assert_eq!(config, c["Config"]);
    assert_eq!(copy["HostConfig"], c["HostConfig"]);
    assert_eq!(copy["NetworkSettings"]["Networks"]["net-b"]["IPAddress"], networks["net-b"]["IPAddress"]);
}

#[test]
fn lists_filter_in_both_forms_and_have_their_fields() {
    let d = daemon();
    let id = create(&d, "web-1", json!({"Labels": {"a": "b", "c": "d"}, "ExposedPorts": {"80/tcp": {}}}));
    create(&d, "db-1", json!({"HostConfig": {"NetworkMode": "none", "Binds": ["data:/data"]}}));
    start(&d, "web-1");
    let list = |filters: &str| -> Vec<String> {
        let encoded = http::encoded(filters);
        let answer = d.api("GET", &format!("/v1.47/containers/json?all=1&filters={encoded}"), "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json().as_array().unwrap().iter().map(|c| c["Names"][0].as_str().unwrap().to_owned()).collect()
    };
    for (filters, wanted) in [
        (r#"{"label":["a=b"]}"#, vec!["/web-1"]),
        (r#"{"label":{"a=b":true}}"#, vec!["/web-1"]),
        (r#"{"label":["a","c=d"]}"#, vec!["/web-1"]),
        (r#"{"label":["a=x"]}"#, vec![]),
        (r#"{"name":["^/web"]}"#, vec!["/web-1"]),
        (r#"{"name":["web-1$"]}"#, vec!["/web-1"]),
        (r#"{"name":["b-1"]}"#, vec!["/db-1", "/web-1"]),
        (r#"{"name":["(web|db)-[0-9]"]}"#, vec!["/db-1", "/web-1"]),
        (r#"{"status":["running"]}"#, vec!["/web-1"]),
        (r#"{"status":["created","running"]}"#, vec!["/db-1", "/web-1"]),
        (r#"{"volume":["data"]}"#, vec!["/db-1"]),
        (r#"{"volume":["/data"]}"#, vec!["/db-1"]),
        (r#"{"ancestor":["busybox"]}"#, vec!["/db-1", "/web-1"]),
        (r#"{"expose":["80"]}"#, vec!["/web-1"]),
        (r#"{"before":["db-1"]}"#, vec!["/web-1"]),
        (r#"{"since":["web-1"]}"#, vec!["/db-1"]),
        (r#"{"health":["none"]}"#, vec!["/db-1", "/web-1"]),
        (r#"{"is-task":["true"]}"#, vec![]),
        (r#"{"network":["none"]}"#, vec!["/db-1", "/web-1"]),
    ] {
        assert_eq!(list(filters), wanted, "{filters}");
    }
    assert_eq!(list(&format!(r#"{{"id":["{}"]}}"#, &id[..10])), ["/web-1"]);
    for (filters, text) in [
        (r#"{"nonsense":["x"]}"#, "invalid filter 'nonsense'"),
        (r#"{"status":["x"]}"#, "invalid filter 'status=x'"),
        (r#"{"exited":["x"]}"#, "invalid filter 'exited=x'"),
    ] {
        let encoded = http::encoded(filters);
        let answer = d.api("GET", &format!("/containers/json?filters={encoded}"), "");
        assert_eq!((answer.status, answer.message().as_str()), (400, text));
    }
    let all = d.api("GET", "/v1.47/containers/json", "").json();
    assert_eq!(all.as_array().unwrap().len(), 1);
    let c = &all[0];
    assert_eq!(c["Id"], id.as_str());
    assert!(c["ImageID"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(
        (&c["Command"], &c["State"], &c["Ports"]),
        (&json!("sleep 600"), &json!("running"), &json!([{"PrivatePort": 80, "Type": "tcp"}]))
    );
    assert!(c["Created"].is_i64() && c["Status"].as_str().unwrap().starts_with("Up "));
    assert_eq!(c["HostConfig"]["NetworkMode"], "none");
    assert!(c["Mounts"].is_array() && c["NetworkSettings"]["Networks"].is_object());
    let sized = d.api("GET", "/containers/json?size=1&limit=1", "").json();
    assert!(sized[0]["SizeRootFs"].is_i64(), "{sized}");
}

#[test]
fn waits_answer_their_head_at_once_and_miss_nothing() {
    let d = daemon();
    for (name, condition) in [("next", "next-exit"), ("gone", "removed")] {
        create(
            &d,
            name,
            json!({"Cmd": ["sh", "-c", "exit 7"], "HostConfig": {"NetworkMode": "none", "AutoRemove": true}}),
        );
        let (status, head, mut reader) =
            open(&d, "POST", &format!("/v1.47/containers/{name}/wait?condition={condition}"), "", "");
        // The head is here, and the container has not even been started.
        assert_eq!((status, header(&head, "content-type")), (200, Some("application/json")));
        start(&d, name);
        assert_eq!(chunk_line(&mut reader).trim(), r#"{"StatusCode":7}"#);
        if condition == "removed" {
            assert_eq!(d.api("GET", &format!("/containers/{name}/json"), "").status, 404);
        }
    }
    create(&d, "idle", json!({}));
    let answer = d.api("POST", "/containers/idle/wait", "");
    assert_eq!(answer.json()["StatusCode"], 0);
    let bad = d.api("POST", "/containers/idle/wait?condition=nonsense", "");
    assert_eq!((bad.status, bad.message()), (400, "invalid condition: \"nonsense\"".into()));
    assert_eq!(d.api("POST", "/containers/nobody/wait", "").status, 404);
}

#[test]
fn states_that_are_there_already_and_signals_that_are_none() {
    let d = daemon();
    create(&d, "box", json!({}));
    let post = |path: &str| d.api("POST", &format!("/containers/box/{path}"), "");
    assert_eq!(post("stop").status, 304);
    assert_eq!(post("kill").status, 409);
    assert_eq!(post("pause").status, 409);
    assert_eq!(post("start").status, 204);
    assert_eq!((post("start").status, post("start").body.len()), (304, 0));
    let bad = post("kill?signal=NONSENSE");
    assert_eq!((bad.status, bad.message()), (400, "invalid signal: NONSENSE".into()));
    assert_eq!(post("kill?signal=SIGUSR1").status, 204);
    assert_eq!(post("pause").status, 204);
    assert_eq!(post("pause").status, 409);
    assert_eq!(post("unpause").status, 204);
    assert_eq!(post("unpause").status, 409);
    let running = d.api("DELETE", "/containers/box", "");
    assert_eq!(running.status, 409);
    assert_eq!(
        running.message(),
        "cannot remove container \"box\": container is running: stop the container before removing or force remove"
    );
    assert_eq!(post("rename?name=").status, 400);
    assert_eq!(post("rename?name=other").status, 204);
    assert_eq!(d.api("GET", "/containers/box/json", "").status, 404);
    let updated = d.api(
        "POST",
        "/containers/other/update",
        r#"{"Memory": 134217728, "MemorySwap": 268435456, "RestartPolicy": {"Name": "always"}}"#,
    );
    assert_eq!(updated.status, 200, "{}", updated.text());
    assert!(updated.json().get("Warnings").is_some());
    let c = d.api("GET", "/containers/other/json", "").json();
    assert_eq!(
        (&c["HostConfig"]["Memory"], &c["HostConfig"]["RestartPolicy"]["Name"]),
        (&json!(134_217_728), &json!("always"))
    );
    let top = d.api("GET", "/containers/other/top", "").json();
    assert_eq!(top["Titles"][0], "UID");
    assert_eq!(top["Processes"][0].as_array().unwrap().last().unwrap(), "sleep 600");
    let top = d.api("GET", "/containers/other/top?ps_args=-o%20pid,comm", "").json();
    assert_eq!((&top["Titles"], &top["Processes"][0][1]), (&json!(["PID", "COMMAND"]), &json!("sleep")));
    assert_eq!(d.api("POST", "/containers/other/stop?t=0", "").status, 204);
    let pruned = d.api("POST", "/containers/prune", "").json();
    assert_eq!(pruned["ContainersDeleted"].as_array().unwrap().len(), 1);
    assert!(pruned["SpaceReclaimed"].is_i64());
    assert_eq!(d.api("POST", "/containers/prune", "").json()["ContainersDeleted"], json!([]));
}

#[test]
fn statistics_stream_once_and_at_once() {
    let d = daemon();
    create(
        &d,
        "box",
        json!({"Cmd": ["sh", "-c", "while :; do :; done"], "HostConfig": {"NetworkMode": "bridge"}}),
    );
    start(&d, "box");
    let one = d.api("GET", "/v1.47/containers/box/stats?stream=false&one-shot=true", "").json();
    assert!(one["id"].is_string() && one["name"] == "/box", "{one}");
    assert!(
        one["cpu_stats"]["online_cpus"].as_i64().unwrap() > 0
            && one["cpu_stats"]["system_cpu_usage"].is_i64()
    );
    assert!(one["memory_stats"]["limit"].as_u64().unwrap() > 1 << 20);
    assert!(one["networks"]["eth0"]["rx_bytes"].is_i64(), "{one}");
    assert!(one["pids_stats"]["current"].as_i64().unwrap() >= 1);
    let two = d.api("GET", "/containers/box/stats?stream=false", "").json();
    let total = |at: &str| two[at]["cpu_usage"]["total_usage"].as_u64().unwrap();
    assert!(total("precpu_stats") > 0 && total("cpu_stats") > total("precpu_stats"), "{two}");
    let (status, head, mut reader) = open(&d, "GET", "/containers/box/stats", "", "");
    assert_eq!((status, header(&head, "content-type")), (200, Some("application/json")));
    for _ in 0..2 {
        let line: Value = serde_json::from_str(&chunk_line(&mut reader)).unwrap();
        assert_eq!(line["name"], "/box");
    }
    assert_eq!(d.api("GET", "/containers/box/stats?stream=1&one-shot=1", "").status, 400);
}

#[test]
fn attached_before_the_start_hears_the_first_byte_and_ends_with_the_process() {
    let d = daemon();
    let speak = json!({"Cmd": ["sh", "-c", "echo out; echo err >&2; cat; echo end"], "OpenStdin": true, "StdinOnce": true,
        "AttachStdin": true});
    create(&d, "new", speak.clone());
    let query = "stream=1&stdin=1&stdout=1&stderr=1";
    let (status, head, mut reader) =
        open(&d, "POST", &format!("/v1.47/containers/new/attach?{query}"), UPGRADE, "");
    assert_eq!(status, 101);
    assert_eq!(header(&head, "content-type"), Some("application/vnd.docker.multiplexed-stream"));
    assert_eq!((header(&head, "upgrade"), header(&head, "connection")), (Some("tcp"), Some("Upgrade")));
    start(&d, "new");
    reader.get_mut().write_all(b"typed\n").unwrap();
    // The end of the client's input is the end of the process's; its output still comes.
    reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let all = frames(&mut reader);
    let of =
        |stream: u8| all.iter().filter(|(s, _)| *s == stream).map(|(_, t)| t.as_str()).collect::<String>();
    assert_eq!((of(1).as_str(), of(2).as_str()), ("out\ntyped\nend\n", "err\n"));
    // Without an upgrade, as old clients do, and for older versions: another type, the same bytes.
    create(&d, "old", speak);
    let (status, head, mut reader) =
        open(&d, "POST", &format!("/v1.41/containers/old/attach?{query}"), "", "");
    assert_eq!((status, header(&head, "content-type")), (200, Some("application/vnd.docker.raw-stream")));
    start(&d, "old");
    reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(
        frames(&mut reader).iter().filter(|(s, _)| *s == 1).map(|(_, t)| t.as_str()).collect::<String>(),
        "out\nend\n"
    );
    // What was said before, and then what is said.
    let (_, _, mut reader) = open(&d, "POST", "/containers/old/attach?logs=1&stdout=1", UPGRADE, "");
    assert_eq!(frames(&mut reader)[0].1.lines().next(), Some("out"));
}

#[test]
fn execs_take_their_body_and_tell_their_end() {
    let d = daemon();
    let id = create(&d, "box", json!({}));
    start(&d, "box");
    let make = |body: Value| -> String {
        let made = d.api("POST", "/v1.47/containers/box/exec", &body.to_string());
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["Id"].as_str().unwrap().to_owned()
    };
    let exec = make(
        json!({"Cmd": ["sh", "-c", "cat; exit 5"], "AttachStdin": true, "AttachStdout": true, "AttachStderr": true}),
    );
    let before = d.api("GET", &format!("/exec/{exec}/json"), "").json();
    assert_eq!(
        (&before["ExitCode"], &before["Running"], &before["ContainerID"]),
        (&Value::Null, &json!(false), &json!(id))
    );
    // The body is the request's, not the process's input.
    let (status, _, mut reader) =
        open(&d, "POST", &format!("/v1.47/exec/{exec}/start"), UPGRADE, r#"{"Detach":false,"Tty":false}"#);
    assert_eq!(status, 101);
    let running = eventually("the exec to run", || {
        Some(d.api("GET", &format!("/exec/{exec}/json"), "").json()).filter(|e| e["Pid"].as_i64() > Some(0))
    });
    assert_eq!(running["Running"], true);
    let listed = d.api("GET", "/containers/box/json", "").json()["ExecIDs"].clone();
    assert_eq!(listed, json!([exec]));
    reader.get_mut().write_all(b"input").unwrap();
    reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(frames(&mut reader), [(1, "input".to_owned())]);
    let after = d.api("GET", &format!("/exec/{exec}/json"), "").json();
    assert_eq!((&after["ExitCode"], &after["Running"]), (&json!(5), &json!(false)));
    assert_eq!(d.api("POST", &format!("/exec/{exec}/start"), "{}").status, 409);
    // With an empty body, detached, with a terminal.
    let exec = make(json!({"Cmd": ["echo", "hi"], "AttachStdout": true}));
    let (status, _, mut reader) =
        open(&d, "POST", &format!("/exec/{exec}/start"), "Content-Length: 0\r\n", "");
    assert_eq!((status, frames(&mut reader)), (200, vec![(1, "hi\n".to_owned())]));
    let exec = make(json!({"Cmd": ["true"]}));
    assert_eq!(d.api("POST", &format!("/exec/{exec}/start"), r#"{"Detach": true}"#).status, 200);
    let exec = make(
        json!({"Cmd": ["sh", "-c", "stty size; echo $X; id -u; pwd"], "AttachStdout": true, "Tty": true, "Env": ["X=y"], "User": "1000", "WorkingDir": "/tmp", "ConsoleSize": [33, 77]}),
    );
    let (_, head, mut reader) = open(
        &d,
        "POST",
        &format!("/v1.47/exec/{exec}/start"),
        UPGRADE,
        r#"{"Tty": true, "ConsoleSize": [33, 77]}"#,
    );
    assert_eq!(header(&head, "content-type"), Some("application/vnd.docker.raw-stream"));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "33 77\r\ny\r\n1000\r\n/tmp\r\n");
    assert_eq!(d.api("GET", "/exec/nosuch/json", "").message(), "No such exec instance: nosuch");
    assert_eq!(
        d.api("POST", "/containers/box/exec", r#"{"Cmd": []}"#).message(),
        "No exec command specified"
    );
    // The stream ends though a child of the exec still has its output.
    let exec = make(json!({"Cmd": ["sh", "-c", "sleep 600 & echo done"], "AttachStdout": true}));
    let (_, _, mut reader) = open(&d, "POST", &format!("/exec/{exec}/start"), UPGRADE, "{}");
    assert_eq!(frames(&mut reader), [(1, "done\n".to_owned())]);
    // And though the process itself goes on without it.
    let exec = make(
        json!({"Cmd": ["sh", "-c", "echo bye; exec >/dev/null 2>&1; sleep 600"], "AttachStdout": true, "AttachStderr": true}),
    );
    let (_, _, mut reader) = open(&d, "POST", &format!("/exec/{exec}/start"), UPGRADE, "{}");
    assert_eq!(frames(&mut reader), [(1, "bye\n".to_owned())]);
    assert_eq!(d.api("GET", &format!("/exec/{exec}/json"), "").json()["Running"], true);
    d.docker(&["stop", "-t", "0", "box"]).ok();
    assert_eq!(d.api("POST", "/containers/box/exec", r#"{"Cmd": ["true"]}"#).status, 409);
}

#[test]
fn logs_by_stream_time_and_tail() {
    let d = daemon();
    create(&d, "box", json!({"Cmd": ["sh", "-c", "echo one; echo two >&2; printf three"]}));
    start(&d, "box");
    d.api("POST", "/containers/box/wait", "");
    let logs = |query: &str| {
        let (status, head, mut reader) =
            open(&d, "GET", &format!("/v1.47/containers/box/logs?{query}"), "Connection: close\r\n", "");
        assert_eq!(status, 200, "{query}");
        let body = http_body(&head, &mut reader);
        frames(&mut body.as_slice())
    };
    assert_eq!(logs("stdout=1&stderr=1").len(), 3);
    assert_eq!(logs("stdout=1"), [(1, "one\n".to_owned()), (1, "three".to_owned())]);
    assert_eq!(logs("stderr=1"), [(2, "two\n".to_owned())]);
    assert_eq!(logs("stdout=1&tail=1"), [(1, "three".to_owned())]);
    assert_eq!(logs("stdout=1&tail=0"), []);
    assert_eq!(logs("stdout=1&tail=all&follow=1").len(), 2);
    let stamped = logs("stdout=1&timestamps=1");
    let (time, rest) = stamped[0].1.split_once(' ').unwrap();
    assert!(rest == "one\n" && time.len() == 30 && time.ends_with('Z'), "{time}");
    assert_eq!(logs("stdout=1&since=99999999999.5"), []);
    assert_eq!(logs("stdout=1&until=1.5"), []);
    let none = d.api("GET", "/containers/box/logs", "");
    assert_eq!(
        (none.status, none.message()),
        (400, "Bad parameters: you must choose at least one stream".into())
    );
    let (_, head, _) = open(&d, "GET", "/v1.47/containers/box/logs?stdout=1", "", "");
    assert_eq!(header(&head, "content-type"), Some("application/vnd.docker.multiplexed-stream"));
}

/// A body whose head was read already.
fn http_body(head: &[(String, String)], reader: &mut impl BufRead) -> Vec<u8> {
    let mut all = Vec::new();
    if header(head, "transfer-encoding").is_none() {
        reader.read_to_end(&mut all).unwrap();
        return all;
    }
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let n = usize::from_str_radix(size.trim(), 16).unwrap();
        let start = all.len();
        all.resize(start + n, 0);
        reader.read_exact(&mut all[start..]).unwrap();
        reader.read_line(&mut String::new()).unwrap();
        if n == 0 {
            return all;
        }
    }
}

#[test]
fn events_come_at_once_in_order_and_again() {
    let d = daemon();
    let filter = http::encoded;
    let only = filter(r#"{"container":["story"],"type":["container"]}"#);
    // The head comes though nothing has happened yet.
    let (status, head, mut reader) =
        open(&d, "GET", &format!("/v1.52/events?filters={only}"), "Accept: application/x-ndjson\r\n", "");
    assert_eq!((status, header(&head, "content-type")), (200, Some("application/x-ndjson")));
    create(
        &d,
        "story",
        json!({"Labels": {"team": "blue"}, "Cmd": ["sh", "-c", "exit 3"], "HostConfig": {"NetworkMode": "none"}}),
    );
    start(&d, "story");
    d.api("POST", "/containers/story/wait", "");
    d.api("POST", "/containers/story/rename?name=story2", "");
    d.api("DELETE", "/containers/story2", "");
    let mut seen = Vec::new();
    for wanted in ["create", "start", "die", "rename", "destroy"] {
        let event: Value = serde_json::from_str(&chunk_line(&mut reader)).unwrap();
        assert_eq!(event["Action"], wanted, "{event}");
        assert_eq!((&event["Type"], &event["scope"]), (&json!("container"), &json!("local")));
        assert_eq!(event["Actor"]["Attributes"]["team"], "blue");
        assert!(
            event.get("status").is_none()
                && event["timeNano"].as_u64().unwrap() / 1_000_000_000 == event["time"].as_u64().unwrap()
        );
        if wanted == "die" {
            assert_eq!(event["Actor"]["Attributes"]["exitCode"], "3");
            assert!(event["Actor"]["Attributes"]["execDuration"].is_string());
        }
        seen.push(event);
    }
    // Once more, from memory, between two times, for an old client.
    let time = |event: &Value| {
        let nanos = event["timeNano"].as_u64().unwrap();
        format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
    };
    let path = format!(
        "/v1.47/events?since={}&until={}&filters={}",
        time(&seen[0]),
        time(&seen[4]),
        filter(r#"{"event":["die","start"],"type":["container"]}"#)
    );
    let replay = d.api("GET", &path, "");
    assert_eq!(replay.header("content-type"), Some("application/json"));
    let lines: Vec<Value> = replay.text().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let short: Vec<&str> = lines.iter().map(|e| e["status"].as_str().unwrap()).collect();
    assert_eq!(short, ["start", "die"]);
    assert_eq!((&lines[0]["from"], &lines[0]["id"]), (&json!("busybox"), &seen[0]["Actor"]["ID"]));
    let sequence = open(&d, "GET", "/events", "Accept: application/json-seq\r\n", "");
    assert_eq!(header(&sequence.1, "content-type"), Some("application/json-seq"));
    assert_eq!(d.api("GET", "/events?since=5&until=1", "").status, 400);
}
