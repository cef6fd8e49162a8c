//! Bad input gets Docker's status and text, changes nothing and leaves nothing.

use std::io::{BufReader, Write};

use wharf_tests::{Daemon, connect, http};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

#[track_caller]
fn refuses(d: &Daemon, method: &str, path: &str, body: &str, status: u16, text: &str) {
    let r = d.api(method, path, body);
    assert_eq!(r.status, status, "{method} {path} {body}: {}", r.text());
    let message = r.message();
    assert!(message.contains(text), "{method} {path} {body}: should say {text:?}, says {message:?}");
    assert!(r.header("content-type").unwrap_or_default().starts_with("application/json"), "{:?}", r.headers);
}

#[test]
fn versions_and_routes() {
    let d = Daemon::start();
    refuses(
        &d,
        "GET",
        "/v1.10/info",
        "",
        400,
        "client version 1.10 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
    );
    refuses(
        &d,
        "GET",
        "/v1.99/info",
        "",
        400,
        "client version 1.99 is too new. Maximum supported API version is 1.55",
    );
    refuses(&d, "GET", "/no/such/route", "", 404, "page not found");
    refuses(&d, "GET", "/v1.43/no-such", "", 404, "page not found");
    let ping = d.api("GET", "/_ping", "");
    assert_eq!((ping.status, ping.text().as_str()), (200, "OK"));
    for (name, value) in [
        ("api-version", "1.55"),
        ("ostype", "linux"),
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("swarm", "inactive"),
    ] {
        assert_eq!(ping.header(name), Some(value), "{name}");
    }
    let head = d.api("HEAD", "/_ping", "");
    assert_eq!((head.status, head.header("content-length")), (200, Some("0")));
    assert!(d.api("GET", "/nope", "").header("api-version").is_some(), "errors carry the headers too");
    refuses(
        &d,
        "GET",
        "/swarm",
        "",
        503,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
    );
}

#[test]
fn bodies_that_are_not_what_they_should_be() {
    let d = daemon();
    for (body, text) in [
        ("{", ""),
        ("nonsense", ""),
        ("[]", ""),
        ("{\"Image\": 5}", ""),
        ("{\"Image\":\"busybox\",\"HostConfig\":{\"Memory\":\"much\"}}", ""),
        ("{\"Image\":\"busybox\",\"Env\":{}}", ""),
        ("{\"Image\":\"busybox\",\"HostConfig\":[]}", ""),
        ("{\"Image\":\"\"}", ""),
    ] {
        refuses(&d, "POST", "/containers/create", body, 400, text);
    }
    refuses(&d, "POST", "/containers/create", "", 400, "");
    // Nulls stand for nothing; unknown members are ignored; names are matched whatever their case.
    let body = "{\"image\":\"busybox\",\"CMD\":[\"true\"],\"Env\":null,\"HostConfig\":null,\"Unknown\":{\"a\":1},\"Volumes\":null}";
    let r = d.api("POST", "/containers/create?name=odd", body);
    assert_eq!(r.status, 201, "{}", r.text());
    assert_eq!(d.docker(&["inspect", "-f", "{{.Config.Cmd}}", "odd"]).ok(), "[true]");
    let deep = "[".repeat(100_000);
    assert_eq!(d.api("POST", "/containers/create", &deep).status, 400);
    let huge = format!("{{\"Image\":\"busybox\",\"Labels\":{{\"a\":\"{}\"}}}}", "x".repeat(32 << 20));
    let r = http::request(&d.socket(), "POST", "/containers/create", &huge);
    // Either the answer or, as the daemon need not read 32 MiB, a closed connection.
    assert!(r.is_err() || (400..500).contains(&r.as_ref().unwrap().status), "{r:?}");
    assert_eq!(d.docker(&["ps", "-aq"]).ok().lines().count(), 1);
}

#[test]
fn names_images_and_references() {
    let d = daemon();
    refuses(
        &d,
        "POST",
        "/containers/create?name=xx",
        "{\"Image\":\"nope\",\"Cmd\":[\"x\"]}",
        404,
        "No such image: nope:latest",
    );
    refuses(
        &d,
        "POST",
        "/containers/create?name=a/b",
        "{\"Image\":\"busybox\",\"Cmd\":[\"true\"]}",
        400,
        "Invalid container name (a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
    );
    let id = d.docker(&["create", "--name", "taken", "busybox", "true"]).ok();
    refuses(
        &d,
        "POST",
        "/containers/create?name=taken",
        "{\"Image\":\"busybox\",\"Cmd\":[\"true\"]}",
        409,
        &format!(
            "Conflict. The container name \"/taken\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
        ),
    );
    refuses(&d, "GET", "/containers/none/json", "", 404, "No such container: none");
    refuses(&d, "POST", "/containers/none/start", "", 404, "No such container: none");
    refuses(&d, "GET", "/images/none/json", "", 404, "No such image: none");
    refuses(&d, "GET", "/exec/none/json", "", 404, "No such exec instance: none");
    refuses(&d, "POST", "/images/busybox/tag?repo=UPPER", "", 400, "invalid reference format");
    refuses(&d, "GET", "/networks/none-such", "", 404, "network none-such not found");
    refuses(&d, "GET", "/volumes/none", "", 404, "no such volume");
    assert_eq!(d.docker(&["ps", "-aq"]).ok().lines().count(), 1);
}

#[test]
fn values_out_of_range() {
    let d = daemon();
    for (body, status, text) in [
        (
            r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"Memory":1048576}}"#,
            400,
            "Minimum memory limit allowed is 6MB",
        ),
        (r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"NanoCpus":-1}}"#, 400, ""),
        (r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"CapAdd":["CAP_FLY"]}}"#, 400, "CAP_FLY"),
        (
            r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"RestartPolicy":{"Name":"often"}}}"#,
            400,
            "often",
        ),
        (
            r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"RestartPolicy":{"Name":"always"},"AutoRemove":true}}"#,
            400,
            "AutoRemove",
        ),
        (r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"PortBindings":{"80/foo":[{}]}}}"#, 400, ""),
        (
            r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"70000"}]}}}"#,
            400,
            "",
        ),
        (r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"Binds":["relative:/x:ro:rw:z"]}}"#, 400, ""),
        (r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"Binds":["/tmp:relative"]}}"#, 400, ""),
        (
            r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"LogConfig":{"Type":"nowhere"}}}"#,
            400,
            "nowhere",
        ),
        (r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"IpcMode":"strange"}}"#, 400, ""),
        (r#"{"Image":"busybox","Cmd":["true"],"StopSignal":"SIGFOO"}"#, 400, ""),
        (r#"{"Image":"busybox","Cmd":["true"],"HostConfig":{"SecurityOpt":["unknown=1"]}}"#, 400, ""),
    ] {
        let r = d.api("POST", "/containers/create", body);
        assert_eq!(r.status, status, "{body}: {}", r.text());
        assert!(r.message().contains(text), "{body}: {}", r.message());
    }
    assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
    let containers = d.path("data/containers");
    let left = std::fs::read_dir(containers).map_or(0, Iterator::count);
    assert_eq!(left, 0, "no directory of a refused container stays");
}

#[test]
fn garbage_on_the_socket_disturbs_nobody() {
    let d = daemon();
    for bytes in [
        &b"\0\0\0\0"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        &[0xff; 70_000],
        b"POST /containers/create HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{",
    ] {
        let mut s = connect(&d.socket());
        let _ = s.write_all(bytes);
    }
    let many: String = (0..5000).map(|i| format!("X-H{i}: {}\r\n", "v".repeat(100))).collect();
    let mut s = connect(&d.socket());
    let _ = s.write_all(format!("GET /_ping HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes());
    // Slow clients hold nothing that others need.
    let mut slow: Vec<_> = (0..200).map(|_| connect(&d.socket())).collect();
    for s in &mut slow {
        s.write_all(b"GET /containers/json HTTP/1.1\r\nHo").unwrap();
    }
    assert_eq!(d.docker(&["run", "--rm", "--network", "none", "busybox", "echo", "fine"]).ok(), "fine");
}

#[test]
fn expect_continue_and_keep_alive() {
    let d = daemon();
    let mut s = connect(&d.socket());
    let body = "{\"Image\":\"busybox\",\"Cmd\":[\"true\"]}";
    write!(s, "POST /containers/create HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
    let mut reader = BufReader::new(s.try_clone().unwrap());
    let (status, _) = http::read_head(&mut reader).unwrap();
    assert_eq!(status, 100);
    s.write_all(body.as_bytes()).unwrap();
    let created = http::read_response(&mut reader, false).unwrap();
    assert_eq!(created.status, 201, "{}", created.text());
    let id = created.json()["Id"].as_str().unwrap().to_owned();
    write!(s, "DELETE /containers/{id} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(http::read_response(&mut reader, false).unwrap().status, 204);
    // A request may come without a body and without its length.
    write!(s, "POST /containers/none/start HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(http::read_response(&mut reader, false).unwrap().status, 404);
}

#[test]
fn daemon_flags() {
    let run = |args: &[&str]| {
        std::process::Command::new(wharf_tests::bin_dir().join("wharf"))
            .arg("daemon")
            .args(args)
            .output()
            .unwrap()
    };
    let out = run(&["--no-such-flag"]);
    assert!(!out.status.success());
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("--no-such-flag"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let out = run(&["--host", "tcp://0.0.0.0:2375"]);
    assert!(!out.status.success());
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("0.0.0.0"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("daemon.json");
    std::fs::write(&config, "{\"no-such-key\": true}").unwrap();
    let out = run(&["--config-file", config.to_str().unwrap()]);
    assert!(!out.status.success());
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("no-such-key"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}
