//! One container that hangs, at whatever stage, holds up nobody else; and lists are quick with many containers.

#![cfg(test)]

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use wharf_tests::pace::check;
use wharf_tests::{Daemon, connect, eventually, http};

#[test]
fn other_calls_go_on_while_a_container_is_wedged() {
    let daemon = Daemon::start();
    daemon.import_busybox();
    let other = daemon.docker(&["run", "-dt", "--network", "none", "busybox", "sleep", "1000"]).ok();
    let run =
        |script: &str| daemon.docker(&["run", "-d", "--network", "none", "busybox", "sh", "-c", script]).ok();

    // A process that stands still, with a stop and an exec that wait for it.
    let stopped = run("trap '' TERM; sleep 1000");
    let pid: i32 = daemon.docker(&["inspect", "-f", "{{.State.Pid}}", &stopped]).ok().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let mut stopping = connect(&daemon.socket());
    write!(stopping, "POST /containers/{stopped}/stop?t=30 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut waiting = connect(&daemon.socket());
    write!(waiting, "POST /containers/{stopped}/wait HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut removing = connect(&daemon.socket());
    write!(removing, "POST /containers/{stopped}/restart HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    check(&daemon, &other, "a stopped process");
    drop((stopping, waiting, removing));
    daemon.docker(&["kill", "-s", "KILL", &stopped]).ok();

    // A client that follows output and never reads it.
    let loud = run("while :; do head -c 1000000 /dev/zero | tr '\\0' x; echo; done");
    let mut deaf = Vec::new();
    for path in [
        format!("/containers/{loud}/logs?follow=1&stdout=1&stderr=1"),
        format!("/containers/{loud}/attach?stream=1&stdout=1&logs=1"),
    ] {
        let method = if path.contains("attach") { "POST" } else { "GET" };
        let mut stream = connect(&daemon.socket());
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        deaf.push(stream);
    }
    daemon.docker(&["pause", &loud]).ok();
    check(&daemon, &other, "readers of output that do not read");
    daemon.docker(&["rm", "-f", &loud]).ok();
    drop(deaf);

    // One that is frozen while somebody wants to run something in it.
    let frozen = run("sleep 1000");
    let exec: Value = daemon
        .api("POST", &format!("/containers/{frozen}/exec"), r#"{"Cmd": ["true"], "AttachStdout": true}"#)
        .json();
    let pid: i32 = daemon.docker(&["inspect", "-f", "{{.State.Pid}}", &frozen]).ok().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let mut hanging = connect(&daemon.socket());
    let body = r#"{"Detach": false}"#;
    write!(
        hanging,
        "POST /exec/{}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        exec["Id"].as_str().unwrap(),
        body.len()
    )
    .unwrap();
    check(&daemon, &other, "a process that stands still under an exec");
    drop(hanging);
    daemon.docker(&["rm", "-f", &frozen]).ok();
}

/// A program that waits in the kernel for a FIFO that nobody writes to, and many who wait for its end.
#[test]
fn many_who_wait_for_one_container_are_alone() {
    let daemon = Daemon::start();
    daemon.import_busybox();
    let other = daemon.docker(&["run", "-dt", "--network", "none", "busybox", "sleep", "1000"]).ok();
    let dir = daemon.path("shared");
    std::fs::create_dir(&dir).unwrap();
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let bind = format!("{}:/m", dir.display());
    let id = daemon
        .docker(&["create", "--network", "none", "-v", &bind, "busybox", "sh", "-c", "read x < /m/fifo"])
        .ok();
    daemon.docker(&["start", &id]).ok();
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(&daemon.socket());
        write!(stream, "POST /containers/{id}/stop?t=20 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        streams.push(stream);
    }
    check(&daemon, &other, "twenty requests that wait for one container");
    drop(streams);
    daemon.docker(&["kill", &id]).ok();
    eventually("the end", || {
        (daemon.docker(&["inspect", "-f", "{{.State.Running}}", &id]).ok() == "false").then_some(())
    });
}

#[test]
fn a_list_of_a_thousand_is_quick() {
    let daemon = Daemon::start();
    daemon.import_busybox();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let daemon = &daemon;
            scope.spawn(move || {
                for n in 0..250 {
                    let body =
                        r#"{"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}"#;
                    let made = http::request(
                        &daemon.socket(),
                        "POST",
                        &format!("/containers/create?name=c{part}-{n}"),
                        body,
                    )
                    .unwrap();
                    assert_eq!(made.status, 201, "{}", made.text());
                }
            });
        }
    });
    let mut all: Vec<Duration> = (0..20)
        .map(|_| {
            let since = Instant::now();
            let list = daemon.api("GET", "/containers/json?all=1", "");
            let passed = since.elapsed();
            assert_eq!(list.json().as_array().unwrap().len(), 1000);
            passed
        })
        .collect();
    all.sort();
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 5 });
    assert!(all[10] <= limit, "the median of listing a thousand containers is {:?}", all[10]);
    let ids: Vec<String> = daemon.docker(&["ps", "-aq"]).ok().lines().map(str::to_owned).collect();
    for part in ids.chunks(200) {
        let args: Vec<&str> = ["rm"].into_iter().chain(part.iter().map(String::as_str)).collect();
        daemon.docker(&args).ok();
    }
}
