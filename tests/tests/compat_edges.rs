//! What a sceptical user tries: inputs that are over before anything runs, ends that nobody waited for, many hands at one
//! container, archives from elsewhere.

#![cfg(test)]

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};

use serde_json::{Value, json};
use wharf_tests::server::{Body, Reply, Server};
use wharf_tests::{Daemon, connect, eventually, http, image};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn create(d: &Daemon, name: &str, script: &str, more: Value) {
    let mut body =
        json!({"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    let made = d.api("POST", &format!("/v1.47/containers/create?name={name}"), &body.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
}

#[test]
fn input_that_is_over_before_the_start_is_the_end_of_the_processs_input() {
    let mut d = daemon();
    let run = ["run", "--rm", "-i", "--network", "none", "busybox", "cat"];
    assert_eq!(d.docker_with_input(&run, b"").ok(), "");
    assert_eq!(d.docker_with_input(&run, b"words").ok(), "words");
    // In later runs as in the first.
    d.docker(&["create", "-i", "--name", "again", "--network", "none", "busybox", "cat"]).ok();
    for text in ["", "one", "", "two"] {
        assert_eq!(d.docker_with_input(&["start", "-ai", "again"], text.as_bytes()).ok(), text);
    }
    // And where the daemon that started it is another by now: what is left of the input is for the next client.
    d.docker(&["start", "again"]).ok();
    d.crash();
    d.restart();
    assert_eq!(d.docker_with_input(&["attach", "again"], b"after").ok(), "after");
    eventually("the end", || {
        (d.docker(&["inspect", "-f", "{{.State.Status}}", "again"]).ok() == "exited").then_some(())
    });
}

/// A process that ends does not break the connection of a client that still sends.
#[test]
fn a_client_that_still_sends_reads_the_end_of_the_stream() {
    let d = daemon();
    create(&d, "box", "sleep 600", json!({}));
    assert_eq!(d.api("POST", "/containers/box/start", "").status, 204);
    for round in 0..20 {
        let exec =
            r#"{"Cmd": ["sh", "-c", "head -c 1; echo done"], "AttachStdin": true, "AttachStdout": true}"#;
        let exec = d.api("POST", "/containers/box/exec", exec).json()["Id"].as_str().unwrap().to_owned();
        let mut s = connect(&d.socket());
        write!(s, "POST /v1.40/exec/{exec}/start HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
        let mut reader = BufReader::new(s.try_clone().unwrap());
        assert_eq!(http::read_head(&mut reader).unwrap().0, 101);
        let sender = std::thread::spawn(move || {
            // Until nobody takes any more.
            while s.write_all(&[b'y'; 8192]).is_ok() {}
        });
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(&all[8..], b"ydone\n", "round {round}");
        drop(reader);
        sender.join().unwrap();
    }
}

#[test]
fn a_kill_that_comes_when_it_has_just_ended_is_no_fault() {
    let d = daemon();
    let mut told = BTreeMap::new();
    for round in 0..40 {
        let name = format!("short{round}");
        create(&d, &name, "true", json!({}));
        assert_eq!(d.api("POST", &format!("/containers/{name}/start"), "").status, 204);
        std::thread::sleep(std::time::Duration::from_millis(round % 10));
        let killed = d.api("POST", &format!("/containers/{name}/kill"), "");
        match killed.status {
            204 => {}
            409 => assert!(killed.message().ends_with("is not running"), "{}", killed.text()),
            _ => panic!("{}: {}", killed.status, killed.text()),
        }
        *told.entry(killed.status).or_insert(0) += 1;
    }
    assert!(told.contains_key(&409), "{told:?}");
}

#[test]
fn restarts_by_many_at_once_all_come_to_their_end() {
    let d = daemon();
    create(&d, "box", "trap 'exit 0' TERM; while :; do sleep 0.05; done", json!({}));
    assert_eq!(d.api("POST", "/containers/box/start", "").status, 204);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let answer = d.api("POST", "/containers/box/restart?t=0", "");
                    assert_eq!(answer.status, 204, "{}", answer.text());
                }
            });
        }
    });
    let state = d.api("GET", "/containers/box/json", "").json()["State"]["Status"].clone();
    assert_eq!(state, "running");
    // Its last run may be as short as it likes: with `--rm` it is gone then, restarted or not.
    let script = "if [ -e /once ]; then exit 0; fi; touch /once; exec sleep 600";
    for round in 0..5 {
        let name = format!("auto{round}");
        create(&d, &name, script, json!({"HostConfig": {"NetworkMode": "none", "AutoRemove": true}}));
        assert_eq!(d.api("POST", &format!("/containers/{name}/start"), "").status, 204);
        eventually("its mark", || {
            (d.api("HEAD", &format!("/containers/{name}/archive?path=/once"), "").status == 200).then_some(())
        });
        assert_eq!(d.api("POST", &format!("/containers/{name}/restart?t=0"), "").status, 204);
        eventually("the removal", || {
            (d.api("GET", &format!("/containers/{name}/json"), "").status == 404).then_some(())
        });
    }
}

#[test]
fn exit_codes_of_what_did_not_start() {
    let d = daemon();
    d.docker(&["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "600"]).ok();
    for (args, code, text) in [
        (&["exec", "box", "nosuch"][..], 127, "executable file not found in $PATH"),
        (&["exec", "box", "/bin"], 126, "permission denied"),
        (&["exec", "-w", "/nope", "box", "true"], 127, "no such file or directory"),
        (&["exec", "-u", "nobody-here", "box", "true"], 126, "unable to find user nobody-here"),
        (&["exec", "-d", "box", "nosuch"], 1, "executable file not found in $PATH"),
        (
            &["run", "--rm", "--device-read-bps", "/dev/nope:1mb", "busybox", "true"],
            127,
            "stat /dev/nope: no such file or directory",
        ),
        (
            &["run", "--rm", "--mount", "type=volume,src=vol,dst=/x,volume-subpath=nope", "busybox", "true"],
            127,
            "no such file or directory",
        ),
        (
            &["run", "--rm", "--network", "host", "--ip", "1.2.3.4", "busybox", "true"],
            125,
            "invalid config for network host: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only",
        ),
        (
            &["run", "--rm", "--network", "none", "--ip", "1.2.3.4", "busybox", "true"],
            125,
            "user specified IP address is supported on user defined networks only",
        ),
    ] {
        let ran = d.docker(args);
        ran.fails(code, text);
        assert!(!ran.err.contains("(os error"), "{}", ran.err);
    }
    assert_eq!(d.docker(&["ps", "-aq"]).ok().lines().count(), 1);
}

#[test]
fn archives_are_imported_from_web_servers() {
    let d = Daemon::start();
    let tar = image::busybox_tar();
    let served = tar.clone();
    let server = Server::start(&d, 5080, move |request| match request.path.as_str() {
        "/root.tar" => Reply::new(200, served.clone()),
        "/moved" => Reply::new(302, "").with("Location", "/root.tar"),
        "/away" => Reply::new(302, "").with("Location", "file:///etc/passwd"),
        "/cut" => Reply::new(200, "").body(Body::Cut(served.len() as u64, served[..5000].to_vec())),
        "/text" => Reply::new(200, "no archive at all"),
        _ => Reply::new(404, "nothing here"),
    });
    let url = |path: &str| format!("http://{}{path}", server.address);
    let said = d.docker(&["import", "-c", "CMD [\"true\"]", &url("/root.tar"), "got:1"]).ok();
    assert!(said.contains(&format!("Downloading from {}", url("/root.tar"))), "{said}");
    assert_eq!(d.docker(&["run", "--rm", "--network", "none", "got:1", "echo", "ran"]).ok(), "ran");
    assert_eq!(
        d.docker(&["history", "--format", "{{.Comment}}", "got:1"]).ok(),
        format!("Imported from {}", url("/root.tar"))
    );
    // Without a scheme, and by a redirect; `wharf` as well.
    d.docker(&["import", &url("/moved"), "got:2"]).ok();
    d.wharf(&["import", &url("/root.tar"), "got:3"]).ok();
    d.docker_with_input(&["import", "-", "got:4"], &tar).ok();
    assert_eq!(d.docker(&["history", "--format", "{{.Comment}}", "got:4"]).ok(), "Imported from -");
    for name in ["got:2", "got:3"] {
        assert_eq!(d.docker(&["run", "--rm", "--network", "none", name, "echo", "ran"]).ok(), "ran");
    }
    let before = d.docker(&["images", "-aq", "--no-trunc"]).ok();
    for (source, text) in [
        (url("/none"), "404"),
        (url("/away"), "redirect"),
        (url("/cut"), "/cut"),
        (url("/text"), "archive"),
        ("http://127.0.0.1:1/x".to_owned(), "connection refused"),
        ("file:///etc/passwd".to_owned(), "invalid source"),
        ("ftp://127.0.0.1/x".to_owned(), "invalid source"),
    ] {
        let path: String = source.bytes().map(|b| format!("%{b:02x}")).collect();
        let answer = d.api("POST", &format!("/images/create?fromSrc={path}&repo=bad&tag=1"), "");
        let text_of = answer.text();
        assert!(answer.status >= 400 || text_of.contains("errorDetail"), "{source}: {text_of}");
        assert!(text_of.contains(text), "{source}: should say {text:?}: {text_of}");
    }
    assert_eq!(d.docker(&["images", "-aq", "--no-trunc"]).ok(), before, "nothing has become an image");
}
