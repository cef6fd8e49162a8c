//! What clients rely on of attach, exec, logs, web sockets and events, box by box: bytes as they are on the wire.

#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

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

fn shell(d: &Daemon, name: &str, script: &str, more: Value) -> String {
    let mut all = json!({"Cmd": ["sh", "-c", script]});
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    create(d, name, all)
}

fn post(d: &Daemon, path: &str) {
    let answer = d.api("POST", path, "");
    assert!(answer.status < 300, "{path}: {} {}", answer.status, answer.text());
}

fn make_exec(d: &Daemon, name: &str, body: Value) -> String {
    let made = d.api("POST", &format!("/v1.47/containers/{name}/exec"), &body.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["Id"].as_str().unwrap().to_owned()
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\n";

/// Sends these very bytes and reads the head of the answer.
fn raw(d: &Daemon, bytes: &[u8]) -> (u16, Vec<(String, String)>, BufReader<UnixStream>) {
    let mut stream = connect(&d.socket());
    stream.write_all(bytes).unwrap();
    let mut reader = BufReader::new(stream);
    let (status, head) = http::read_head(&mut reader).unwrap();
    (status, head, reader)
}

fn open(d: &Daemon, path: &str, headers: &str) -> (u16, Vec<(String, String)>, BufReader<UnixStream>) {
    raw(d, format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes())
}

fn header<'a>(head: &'a [(String, String)], name: &str) -> Option<&'a str> {
    head.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// One frame: stream and bytes; None at the end.
fn frame(reader: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 8];
    if reader.read(&mut head[..1]).unwrap() == 0 {
        return None;
    }
    reader.read_exact(&mut head[1..]).unwrap();
    let mut data = vec![0; u32::from_be_bytes(head[4..].try_into().unwrap()) as usize];
    reader.read_exact(&mut data).unwrap();
    Some((head[0], data))
}

/// All of one stream until the end.
fn rest_of(reader: &mut impl Read, stream: u8) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some((from, data)) = frame(reader) {
        if from == stream {
            all.extend(data);
        }
    }
    all
}

fn text_of(reader: &mut impl Read, stream: u8) -> String {
    String::from_utf8(rest_of(reader, stream)).unwrap()
}

#[test]
fn a_body_is_consumed_before_what_follows_is_input() {
    let d = daemon();
    create(&d, "box", json!({}));
    post(&d, "/containers/box/start");
    let body = r#"{"Detach":false,"Tty":false}"#;
    let exec = || make_exec(&d, "box", json!({"Cmd": ["cat"], "AttachStdin": true, "AttachStdout": true}));
    // Body and input in one breath, by length and in chunks.
    let by_length = format!(
        "POST /v1.47/exec/{}/start HTTP/1.1\r\nHost: x\r\n{UPGRADE}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}first words",
        exec(),
        body.len()
    );
    let (first, second) = body.split_at(7);
    let chunked = format!(
        "POST /v1.47/exec/{}/start HTTP/1.1\r\nHost: x\r\n{UPGRADE}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\nfirst words",
        exec(),
        first.len(),
        second.len()
    );
    for request in [by_length, chunked] {
        let (status, _, mut reader) = raw(&d, request.as_bytes());
        assert_eq!(status, 101);
        reader.get_ref().write_all(b", and more").unwrap();
        reader.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(text_of(&mut reader, 1), "first words, and more");
    }
    // Attach has no body, but clients send an empty object along.
    shell(&d, "reader", "cat", json!({"OpenStdin": true, "StdinOnce": true, "AttachStdin": true}));
    let (status, _, mut reader) = raw(
        &d,
        format!(
            "POST /v1.47/containers/reader/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n{UPGRADE}Content-Length: 2\r\n\r\n{{}}words"
        )
        .as_bytes(),
    );
    assert_eq!(status, 101);
    post(&d, "/containers/reader/start");
    reader.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(text_of(&mut reader, 1), "words");
}

#[test]
fn attached_before_the_start_nothing_is_lost_and_the_end_follows_the_last_byte() {
    let d = daemon();
    for round in 0..3 {
        let name = format!("loud{round}");
        // It ends at once, and a child of it keeps the pipe.
        shell(&d, &name, "seq 1 200000; sleep 600 & exit 3", json!({}));
        let (status, _, mut reader) =
            open(&d, &format!("/containers/{name}/attach?stream=1&stdout=1&stderr=1"), UPGRADE);
        assert_eq!(status, 101);
        post(&d, &format!("/containers/{name}/start"));
        let all = text_of(&mut reader, 1);
        assert_eq!(all.lines().count(), 200_000);
        assert!(all.starts_with("1\n2\n") && all.ends_with("\n200000\n"));
    }
    // A slow reader gets everything after the process has long gone.
    shell(&d, "slow", "seq 1 500000", json!({}));
    let (_, _, mut reader) = open(&d, "/containers/slow/attach?stream=1&stdout=1", UPGRADE);
    post(&d, "/containers/slow/start");
    post(&d, "/containers/slow/wait");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(text_of(&mut reader, 1).lines().count(), 500_000);
}

#[test]
fn what_was_said_comes_first_and_then_what_is_said_without_a_seam() {
    let d = daemon();
    // Whoever comes after its end waits for its next start, so it does not end before the last one is there.
    let script =
        "i=0; while [ $i -lt 30000 ]; do echo $i; i=$((i+1)); done; until [ -e /go ]; do sleep 0.02; done";
    shell(&d, "count", script, json!({}));
    post(&d, "/containers/count/start");
    let mut readers = Vec::new();
    for _ in 0..5 {
        readers.push(open(&d, "/containers/count/attach?logs=1&stream=1&stdout=1&stderr=1", UPGRADE).2);
        std::thread::sleep(Duration::from_millis(15));
    }
    d.docker(&["exec", "count", "touch", "/go"]).ok();
    for mut reader in readers {
        let all = text_of(&mut reader, 1);
        assert!(all.lines().map(|l| l.parse::<u32>().unwrap()).eq(0..30_000));
    }
}

#[test]
fn detach_keys_leave_the_process_and_are_told() {
    let d = daemon();
    shell(&d, "tty", "cat", json!({"Tty": true, "OpenStdin": true}));
    post(&d, "/containers/tty/start");
    let query = "stream=1&stdin=1&stdout=1&stderr=1";
    let exec = |keys: Value| {
        let exec = make_exec(
            &d,
            "tty",
            json!({"Cmd": ["cat"], "AttachStdin": true, "AttachStdout": true, "Tty": true, "DetachKeys": keys}),
        );
        let request = format!(
            "POST /exec/{exec}/start HTTP/1.1\r\nHost: x\r\n{UPGRADE}Content-Length: 12\r\n\r\n{{\"Tty\":true}}"
        );
        (raw(&d, request.as_bytes()).2, exec)
    };
    for (keys, typed) in
        [("", &b"\x10\x11"[..]), ("&detachKeys=ctrl-x,q", b"\x18q"), ("&detachKeys=a,b,c", b"abc")]
    {
        let (status, head, mut reader) =
            open(&d, &format!("/v1.47/containers/tty/attach?{query}{keys}"), UPGRADE);
        assert_eq!((status, header(&head, "content-type")), (101, Some("application/vnd.docker.raw-stream")));
        // The first of the keys alone is input; then all of them end the session.
        reader.get_ref().write_all(b"x\n").unwrap();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), "x");
        for key in typed {
            reader.get_ref().write_all(&[*key]).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        reader.read_to_end(&mut Vec::new()).unwrap();
    }
    let (mut reader, id) = exec(json!("ctrl-a"));
    reader.get_ref().write_all(b"\x01").unwrap();
    reader.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(d.api("GET", &format!("/exec/{id}/json"), "").json()["Running"], true);
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Running}}", "tty"]).ok(), "true");
    let bad = d.api("POST", &format!("/containers/tty/attach?{query}&detachKeys=ctrl-nonsense"), "");
    assert_eq!(bad.status, 400, "{}", bad.text());
    let events = replay(&d, r#"{"event":["detach","exec_detach"]}"#);
    let actions: Vec<&str> = events.iter().map(|e| e["Action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["detach", "detach", "detach", "exec_detach"]);
    assert_eq!(events[3]["Actor"]["Attributes"]["execID"], id.as_str());
}

/// What the daemon remembers of events.
fn replay(d: &Daemon, filters: &str) -> Vec<Value> {
    let filters = wharf_tests::http::encoded(filters);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let answer = d.api("GET", &format!("/v1.52/events?since=0&until={now}.5&filters={filters}"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_terminals_size_before_and_after_the_start() {
    let d = daemon();
    shell(&d, "tty", "stty size; read x; stty size", json!({"Tty": true, "OpenStdin": true}));
    // Clients send it as soon as they can, which may be too soon.
    let early = d.api("POST", "/containers/tty/resize?h=41&w=101", "").status;
    assert!(matches!(early, 200 | 409), "{early}");
    let (_, _, mut reader) = open(&d, "/containers/tty/attach?stream=1&stdin=1&stdout=1", UPGRADE);
    post(&d, "/containers/tty/start");
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "41 101");
    post(&d, "/containers/tty/resize?h=12&w=34");
    reader.get_ref().write_all(b"\n").unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("12 34\r\n"), "{rest:?}");
    assert_eq!(d.api("POST", "/containers/tty/resize?h=x&w=1", "").status, 400);
    assert_eq!(d.api("POST", "/containers/none/resize?h=1&w=1", "").status, 404);
}

#[test]
fn input_that_stays_open_takes_one_client_after_the_other() {
    let d = daemon();
    shell(&d, "open", "cat", json!({"OpenStdin": true}));
    post(&d, "/containers/open/start");
    for word in ["one", "two"] {
        let (_, _, mut reader) = open(&d, "/containers/open/attach?stream=1&stdin=1&stdout=1", UPGRADE);
        reader.get_ref().write_all(word.as_bytes()).unwrap();
        assert_eq!(frame(&mut reader), Some((1, word.as_bytes().to_vec())));
    }
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Running}}", "open"]).ok(), "true");
    // Once: the first client's end is the process's.
    shell(&d, "once", "cat; echo end", json!({"OpenStdin": true, "StdinOnce": true}));
    let (_, _, reader) = open(&d, "/containers/once/attach?stream=1&stdin=1", UPGRADE);
    post(&d, "/containers/once/start");
    drop(reader);
    assert_eq!(d.api("POST", "/containers/once/wait", "").json()["StatusCode"], 0);
    assert_eq!(d.docker(&["logs", "once"]).ok(), "end");
}

#[test]
fn a_client_that_goes_while_nobody_takes_its_input_leaves_nothing() {
    let d = daemon();
    create(&d, "box", json!({}));
    post(&d, "/containers/box/start");
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", d.pid())).unwrap().count();
    let before = fds();
    for _ in 0..20 {
        let exec =
            make_exec(&d, "box", json!({"Cmd": ["sleep", "600"], "AttachStdin": true, "AttachStdout": true}));
        let request =
            format!("POST /exec/{exec}/start HTTP/1.1\r\nHost: x\r\n{UPGRADE}Content-Length: 2\r\n\r\n{{}}");
        let (_, _, reader) = raw(&d, request.as_bytes());
        reader.get_ref().set_nonblocking(true).unwrap();
        // As much as goes into the pipe and both sockets.
        for _ in 0..2 {
            while matches!(reader.get_ref().write(&[0; 65536]), Ok(n) if n > 0) {}
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    // What is left of each is the pipe that the running process has.
    eventually("the connections to be closed", || (fds() <= before + 20 * 2 + 4).then_some(()));
}

#[test]
fn execs_that_cannot_be_started() {
    let d = daemon();
    create(&d, "box", json!({}));
    let stopped = d.api("POST", "/containers/box/exec", r#"{"Cmd": ["true"]}"#);
    assert_eq!(stopped.status, 409);
    assert!(stopped.message().ends_with("is not running"), "{}", stopped.text());
    post(&d, "/containers/box/start");
    let exec = make_exec(&d, "box", json!({"Cmd": ["true"]}));
    post(&d, "/containers/box/stop?t=0");
    let late = d.api("POST", &format!("/exec/{exec}/start"), "{}");
    assert_eq!(late.status, 409, "{}", late.text());
    assert_eq!(d.api("POST", "/exec/nosuch/start", "{}").status, 404);
    post(&d, "/containers/box/start");
    let exec = make_exec(&d, "box", json!({"Cmd": ["sh", "-c", "exit 4"], "AttachStdout": true}));
    let (_, _, mut reader) = open(&d, &format!("/exec/{exec}/start"), "Content-Length: 0\r\n");
    assert_eq!(text_of(&mut reader, 1), "");
    let seen = d.api("GET", &format!("/exec/{exec}/json"), "").json();
    assert_eq!(
        (&seen["ExitCode"], &seen["Running"]),
        (&json!(4), &json!(false)),
        "known as soon as the stream ends"
    );
    let again = d.api("POST", &format!("/exec/{exec}/start"), "{}");
    assert_eq!((again.status, again.message()), (409, format!("exec {exec} has already run")));
    // One that does not exist: the stream says so and the exit code is the shell's.
    let exec = make_exec(&d, "box", json!({"Cmd": ["/nosuch"], "AttachStdout": true}));
    let (_, _, mut reader) = open(&d, &format!("/exec/{exec}/start"), UPGRADE);
    assert!(text_of(&mut reader, 1).contains("no such file or directory"));
    assert_eq!(d.api("GET", &format!("/exec/{exec}/json"), "").json()["ExitCode"], 127);
    assert_eq!(d.api("GET", "/containers/box/json", "").json()["ExecIDs"], Value::Null);
}

/// A client frame of a web socket: masked, as the protocol wants.
fn masked(opcode: u8, data: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut out = vec![0x80 | opcode, 0x80 | u8::try_from(data.len()).unwrap()];
    out.extend(mask);
    out.extend(data.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    out
}

/// A server frame: opcode and data.
fn unmasked(reader: &mut impl Read) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    reader.read_exact(&mut head).unwrap();
    assert_eq!(head[1] & 0x80, 0, "a server does not mask");
    let length = match head[1] {
        126 => {
            let mut n = [0; 2];
            reader.read_exact(&mut n).unwrap();
            usize::from(u16::from_be_bytes(n))
        }
        127 => {
            let mut n = [0; 8];
            reader.read_exact(&mut n).unwrap();
            usize::try_from(u64::from_be_bytes(n)).unwrap()
        }
        n => usize::from(n),
    };
    let mut data = vec![0; length];
    reader.read_exact(&mut data).unwrap();
    (head[0] & 0x0f, data)
}

#[test]
fn a_web_socket_carries_binary_frames_both_ways_and_ends() {
    let d = daemon();
    shell(
        &d,
        "ws",
        "head -c 5; echo; seq 1 20000; echo err >&2; exit 2",
        json!({"OpenStdin": true, "StdinOnce": true}),
    );
    let request = "GET /v1.47/containers/ws/attach/ws?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://localhost\r\n\r\n";
    let (status, head, mut reader) = raw(&d, request.as_bytes());
    assert_eq!(status, 101);
    // The example of RFC 6455.
    assert_eq!(header(&head, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    post(&d, "/containers/ws/start");
    reader.get_ref().write_all(&masked(2, b"\x00\xffab")).unwrap();
    reader.get_ref().write_all(&masked(9, b"there?")).unwrap();
    reader.get_ref().write_all(&masked(1, b"c")).unwrap();
    let (mut all, mut pong) = (Vec::new(), false);
    loop {
        match unmasked(&mut reader) {
            (2, data) => all.extend(data),
            (10, data) => pong = data == b"there?",
            (8, _) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(pong);
    let numbers: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    let mut wanted = b"\x00\xffabc\n".to_vec();
    wanted.extend(numbers.bytes());
    // Both streams, in no certain order.
    let text: Vec<u8> = all
        .windows(4)
        .position(|w| w == b"err\n")
        .map_or(all.clone(), |at| [&all[..at], &all[at + 4..]].concat());
    assert!(text == wanted && all.len() == wanted.len() + 4, "{} of {}", all.len(), wanted.len() + 4);
    assert_eq!(d.api("GET", "/containers/ws/attach/ws?stream=1", "").status, 400, "no web socket client");
}

#[test]
fn events_in_every_form_at_once() {
    let d = daemon();
    let mut readers = Vec::new();
    for (accept, kind) in [
        ("", "application/json"),
        ("Accept: application/x-ndjson\r\n", "application/x-ndjson"),
        ("Accept: application/jsonl\r\n", "application/jsonl"),
        ("Accept: application/json-seq\r\n", "application/json-seq"),
        ("Accept: text/plain, application/json-seq;q=0.9, */*\r\n", "application/json-seq"),
    ] {
        let request = format!(
            "GET /v1.52/events?filters=%7B%22event%22%3A%5B%22start%22%5D%7D HTTP/1.1\r\nHost: x\r\n{accept}\r\n"
        );
        // The head is there though nothing happens.
        let (status, head, reader) = raw(&d, request.as_bytes());
        assert_eq!((status, header(&head, "content-type")), (200, Some(kind)), "{accept}");
        readers.push((kind, reader));
    }
    let id = create(&d, "one", json!({}));
    post(&d, "/containers/one/start");
    for (kind, mut reader) in readers {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap()];
        reader.read_exact(&mut chunk).unwrap();
        assert_eq!(chunk[0] == 0x1e, kind == "application/json-seq");
        assert_eq!(chunk.last(), Some(&b'\n'));
        let event: Value = serde_json::from_slice(chunk.strip_prefix(b"\x1e").unwrap_or(&chunk)).unwrap();
        assert_eq!((&event["Action"], &event["Actor"]["ID"]), (&json!("start"), &json!(id)));
    }
}

/// Where each of these actions is among those that happened; fails where one is missing.
#[track_caller]
fn in_order(events: &[Value], wanted: &[(&str, &str)]) {
    let mut rest = events.iter();
    for (kind, action) in wanted {
        assert!(
            rest.any(|e| e["Type"] == *kind && e["Action"] == *action),
            "{kind} {action} is not where it should be in {:#?}",
            events.iter().map(|e| format!("{} {}", e["Type"], e["Action"])).collect::<Vec<_>>()
        );
    }
}

#[test]
fn the_order_of_a_life() {
    let d = daemon();
    d.docker(&["network", "create", "lan"]).ok();
    create(
        &d,
        "life",
        json!({"HostConfig": {"NetworkMode": "lan", "Binds": ["data:/data"]}, "StopSignal": "SIGKILL"}),
    );
    post(&d, "/containers/life/start");
    post(&d, "/containers/life/stop?t=5");
    post(&d, "/containers/life/restart?t=0");
    d.docker(&["rm", "-f", "-v", "life"]).ok();
    let events = replay(&d, r#"{"type":["container","network","volume"]}"#);
    let (c, n, v) = ("container", "network", "volume");
    in_order(
        &events,
        &[
            (n, "create"),
            (c, "create"),
            (v, "mount"),
            (n, "connect"),
            (c, "start"),
            (c, "kill"),
            (c, "die"),
            (n, "disconnect"),
            (v, "unmount"),
            (c, "stop"),
            (n, "connect"),
            (c, "start"),
            (c, "restart"),
            (c, "kill"),
            (c, "die"),
            (c, "destroy"),
        ],
    );
    let of = |kind: &str, action: &str| {
        events.iter().find(|e| e["Type"] == kind && e["Action"] == action).unwrap()
    };
    assert_eq!(of(c, "kill")["Actor"]["Attributes"]["signal"], "9");
    assert_eq!(of(c, "die")["Actor"]["Attributes"]["exitCode"], "137");
    let (mount, unmount) = (of(v, "mount"), of(v, "unmount"));
    assert_eq!(mount["Actor"]["Attributes"]["destination"], "/data");
    assert_eq!(mount["Actor"]["Attributes"]["container"], unmount["Actor"]["Attributes"]["container"]);
}

#[test]
fn every_action_has_its_event() {
    let d = daemon();
    let health = json!({"Healthcheck": {"Test": ["CMD", "true"], "Interval": 1_000_000_000_i64}});
    create(&d, "first", health);
    post(&d, "/containers/first/start");
    post(&d, "/containers/first/pause");
    post(&d, "/containers/first/unpause");
    post(&d, "/containers/first/resize?h=1&w=1");
    post(&d, "/containers/first/rename?name=second");
    d.docker(&["update", "--restart", "no", "second"]).ok();
    d.docker(&["top", "second"]).ok();
    d.docker(&["exec", "second", "true"]).ok();
    d.docker(&["cp", "second:/etc/passwd", "-"]).ok();
    d.docker_with_input(&["cp", "-", "second:/tmp"], &wharf_tests::image::busybox_tar()).ok();
    let exported = d.path("exported.tar").display().to_string();
    d.docker(&["export", "-o", &exported, "second"]).ok();
    d.docker(&["commit", "second", "committed"]).ok();
    d.docker(&["tag", "committed", "other:tag"]).ok();
    let saved = d.path("saved.tar").display().to_string();
    d.docker(&["save", "-o", &saved, "other:tag"]).ok();
    d.docker(&["rmi", "other:tag", "committed"]).ok();
    d.docker(&["load", "-i", &saved]).ok();
    d.docker(&["volume", "create", "vol"]).ok();
    d.docker(&["volume", "rm", "vol"]).ok();
    d.docker(&["network", "create", "lan"]).ok();
    d.docker(&["network", "rm", "lan"]).ok();
    let (status, _, reader) = open(&d, "/containers/second/attach?stream=1&stdout=1", UPGRADE);
    assert_eq!(status, 101);
    drop(reader);
    eventually("a health check", || {
        (d.docker(&["inspect", "-f", "{{.State.Health.Status}}", "second"]).ok() == "healthy").then_some(())
    });
    post(&d, "/containers/second/kill?signal=USR1");
    post(&d, "/containers/second/stop?t=0");
    for what in ["container", "image", "network", "volume"] {
        d.docker(&[what, "prune", "-f"]).ok();
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(d.pid()), nix::sys::signal::Signal::SIGHUP).unwrap();
    eventually("the reload", || (!replay(&d, r#"{"type":["daemon"]}"#).is_empty()).then_some(()));
    let events = replay(&d, "{}");
    for (kind, actions) in [
        (
            "container",
            "create start pause unpause resize rename update top exec_create: exec_start: exec_die archive-path \
             extract-to-dir export commit attach health_status: kill die stop destroy prune",
        ),
        ("image", "import tag save untag delete load prune"),
        ("volume", "create destroy prune"),
        ("network", "create destroy prune"),
        ("daemon", "reload"),
    ] {
        for action in actions.split_whitespace() {
            let there = |e: &&Value| {
                let has = e["Action"].as_str().unwrap();
                e["Type"] == kind
                    && if action.ends_with(':') { has.starts_with(action) } else { has == action }
            };
            assert!(events.iter().any(|e| there(&e)), "no event {kind} {action}");
        }
    }
    let exec = events.iter().find(|e| e["Action"] == "exec_create: true").unwrap();
    assert!(exec["Actor"]["Attributes"]["execID"].is_string());
    assert_eq!(
        events.iter().find(|e| e["Action"] == "exec_die").unwrap()["Actor"]["Attributes"]["exitCode"],
        "0"
    );
    for event in &events {
        assert_eq!(event["scope"], "local", "{event}");
        assert!(event["timeNano"].as_u64().unwrap() / 1_000_000_000 == event["time"].as_u64().unwrap());
    }
    // One kind of action by its beginning, for one container.
    let some = replay(&d, r#"{"event":["health_status"],"container":["second"]}"#);
    assert!(!some.is_empty() && some.iter().all(|e| e["Action"] == "health_status: healthy"), "{some:?}");
}

#[test]
fn old_events_are_remembered() {
    let d = daemon();
    for n in 0..300 {
        d.api("POST", "/volumes/create", &json!({"Name": format!("v{n}")}).to_string());
    }
    let seen = replay(&d, r#"{"type":["volume"]}"#);
    assert!(seen.len() >= 256, "{}", seen.len());
    assert_eq!(seen.last().unwrap()["Actor"]["ID"], "v299");
    let at = |e: &Value| e["timeNano"].as_u64().unwrap();
    let (from, to) = (at(&seen[seen.len() - 20]), at(&seen[seen.len() - 10]));
    let stamp = |t: u64| format!("{}.{:09}", t / 1_000_000_000, t % 1_000_000_000);
    let part = d.api("GET", &format!("/events?since={}&until={}", stamp(from), stamp(to)), "");
    assert_eq!(part.text().lines().count(), 11);
    let since = Instant::now();
    let quiet = d.api("GET", &format!("/events?until={}", stamp(to)), "");
    assert!(
        quiet.text().is_empty() && since.elapsed() < Duration::from_secs(10),
        "a time that is over ends at once"
    );
}

#[test]
fn an_operation_goes_to_its_end_without_its_client() {
    let d = daemon();
    let leave = |method: &str, path: &str, after: u64| {
        let mut stream = connect(&d.socket());
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(after));
    };
    for after in [0, 1, 2, 4, 8, 16, 32, 64] {
        let name = format!("left{after}");
        create(&d, &name, json!({"HostConfig": {"NetworkMode": "bridge"}}));
        leave("POST", &format!("/containers/{name}/start"), after);
        eventually("the start to come to its end", || {
            (d.docker(&["inspect", "-f", "{{.State.Status}}", &name]).ok() == "running").then_some(())
        });
        leave("POST", &format!("/containers/{name}/stop?t=0"), after);
        eventually("the stop to come to its end", || {
            (d.docker(&["inspect", "-f", "{{.State.Status}}", &name]).ok() == "exited").then_some(())
        });
        // And it can be started as any other.
        post(&d, &format!("/containers/{name}/start"));
        leave("DELETE", &format!("/containers/{name}?force=1"), after);
        eventually("the removal", || {
            (d.api("GET", &format!("/containers/{name}/json"), "").status == 404).then_some(())
        });
    }
}

#[test]
fn a_tcp_client_is_asked_whether_it_lives() {
    let mut d = daemon();
    d.stop();
    d.set_args(&["--host", "tcp://127.0.0.1:2377"]);
    d.restart();
    let mut client = d.in_namespace("busybox");
    let mut client = client
        .args(["nc", "127.0.0.1", "2377"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.as_mut().unwrap().write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut head = [0; 15];
    client.stdout.as_mut().unwrap().read_exact(&mut head).unwrap();
    let mut look = d.in_namespace("cat");
    look.arg("/proc/net/tcp");
    let table = d.run_with_input(look, b"").ok();
    client.kill().unwrap();
    client.wait().unwrap();
    // The server's end of the connection: its port is 2377 (0949), and it has a timer of kind 2, keep-alive.
    let line = table
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>())
        .find(|l| l.get(1).is_some_and(|a| a.ends_with(":0949")) && l.get(3) == Some(&"01"))
        .unwrap_or_else(|| panic!("{table}"));
    let (kind, left) = line[5].split_once(':').unwrap();
    let ticks = u64::from_str_radix(left, 16).unwrap();
    assert!(kind == "02" && ticks <= 1500, "{line:?}");
}
