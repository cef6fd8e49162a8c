//! How containers end and begin again: out of memory, restart policies with their pauses, `--rm` without anybody there.

#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use wharf_tests::{Daemon, connect, eventually, http};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn inspect(d: &Daemon, name: &str, format: &str) -> String {
    d.docker(&["inspect", "-f", format, name]).ok()
}

/// What happened to one container so far: action, nanoseconds, attributes.
fn story(d: &Daemon, name: &str) -> Vec<(String, u64, Value)> {
    let filters = wharf_tests::http::encoded(&format!(r#"{{"type":["container"],"container":["{name}"]}}"#));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1;
    let all = d.api("GET", &format!("/v1.52/events?since=0&until={now}&filters={filters}"), "").text();
    all.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|e| {
            (
                e["Action"].as_str().unwrap().to_owned(),
                e["timeNano"].as_u64().unwrap(),
                e["Actor"]["Attributes"].clone(),
            )
        })
        .collect()
}

/// Milliseconds between each end and the next start.
fn pauses(story: &[(String, u64, Value)]) -> Vec<u64> {
    let mut died = None;
    let mut all = Vec::new();
    for (action, at, _) in story {
        match (action.as_str(), died) {
            ("die", _) => died = Some(*at),
            ("start", Some(then)) => all.push((at - then) / 1_000_000),
            _ => {}
        }
    }
    all
}

#[test]
fn out_of_memory_is_told() {
    let d = daemon();
    let eat = "x=a; while :; do x=$x$x; done";
    let limits = ["run", "--network", "none", "--memory", "16m", "--memory-swap", "16m"];
    let run = |name: &str, script: &str| {
        let args: Vec<&str> =
            limits.iter().copied().chain(["--name", name, "busybox", "sh", "-c", script]).collect();
        d.docker(&args)
    };
    // The program itself, and a child of one that goes on.
    assert_eq!(run("self", eat).code, 137);
    let once = format!("[ -e /ran ] && exit 6; touch /ran; ({eat}); echo on; exit 5");
    assert_eq!(run("child", &once).code, 5);
    assert_eq!(run("fine", "true").code, 0);
    for (name, killed) in [("self", "true"), ("child", "true"), ("fine", "false")] {
        assert_eq!(inspect(&d, name, "{{.State.OOMKilled}}"), killed, "{name}");
        let story = story(&d, name);
        let place = |action: &str| story.iter().position(|(a, ..)| a == action);
        assert_eq!(place("oom").is_some(), killed == "true", "{name}: {story:?}");
        assert!(place("oom") <= place("die"), "{story:?}");
    }
    // The next run is a new one.
    d.docker(&["start", "-a", "child"]).fails(6, "");
    assert_eq!(inspect(&d, "child", "{{.State.OOMKilled}}"), "false");
}

#[test]
fn pauses_before_restarts_double_and_a_steady_run_makes_them_short_again() {
    let d = daemon();
    // Five quick failures, one run that is long enough, one more.
    let script = "echo x >> /n; n=$(wc -l < /n); [ $n -eq 6 ] && sleep 11; [ $n -ge 8 ] && sleep 600; exit 1";
    d.docker(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "none",
        "--restart",
        "always",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    eventually("eight runs", || (pauses(&story(&d, "box")).len() == 7).then_some(()));
    let seen = pauses(&story(&d, "box"));
    for (pause, least) in seen.iter().zip([100, 200, 400, 800, 1600, 100, 200]) {
        assert!(*pause >= least, "{seen:?}");
    }
    // What a start itself takes comes on top, on a busy machine more than the pauses differ.
    assert!(seen[5] < seen[4] && seen[6] < seen[4], "{seen:?}");
    assert_eq!(inspect(&d, "box", "{{.RestartCount}}"), "7");
    assert_eq!(inspect(&d, "box", "{{.State.Status}}"), "running");
    d.docker(&["rm", "-f", "box"]).ok();
}

#[test]
fn a_pending_restart_can_be_stopped_removed_and_made_now() {
    let d = daemon();
    let start = |name: &str| {
        d.docker(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            "--restart",
            "always",
            "busybox",
            "false",
        ])
        .ok();
        // After some runs the pause is long.
        eventually("some restarts", || {
            let seen = inspect(&d, name, "{{.RestartCount}} {{.State.Status}}");
            let (count, status) = seen.split_once(' ').unwrap();
            (count.parse::<u32>().unwrap() >= 4 && status == "restarting").then_some(())
        });
    };
    start("stopped");
    d.docker(&["stop", "stopped"]).ok();
    let runs = inspect(&d, "stopped", "{{.RestartCount}}");
    assert_eq!(inspect(&d, "stopped", "{{.State.Status}}"), "exited");
    start("removed");
    d.docker(&["rm", "-f", "removed"]).ok();
    start("again");
    let before = pauses(&story(&d, "again")).len();
    d.docker(&["restart", "-t", "0", "again"]).ok();
    let all = eventually("two more pauses", || {
        let all = pauses(&story(&d, "again"));
        (all.len() >= before + 3).then_some(all)
    });
    // By hand it begins anew, with a short pause.
    assert!(all[before + 1] < all[before - 1], "{before}: {all:?}");
    assert_eq!(inspect(&d, "stopped", "{{.State.Status}} {{.RestartCount}}"), format!("exited {runs}"));
    assert_eq!(d.api("GET", "/containers/removed/json", "").status, 404);
    d.docker(&["rm", "-f", "again"]).ok();
}

#[test]
fn policies_over_the_daemons_own_end() {
    let mut d = daemon();
    for policy in ["no", "always", "unless-stopped", "on-failure"] {
        for stopped in ["", "-stopped"] {
            let name = format!("{policy}{stopped}");
            d.docker(&[
                "run",
                "-d",
                "--name",
                &name,
                "--network",
                "none",
                "--restart",
                policy,
                "busybox",
                "sleep",
                "600",
            ])
            .ok();
            if !stopped.is_empty() {
                d.docker(&["stop", "-t", "0", &name]).ok();
            }
        }
    }
    d.stop();
    d.restart();
    let state = |name: &str| inspect(&d, name, "{{.State.Status}}");
    for (name, wanted) in [
        ("always", "running"),
        ("always-stopped", "running"),
        ("unless-stopped", "running"),
        ("unless-stopped-stopped", "exited"),
        ("no", "exited"),
        ("no-stopped", "exited"),
        ("on-failure-stopped", "exited"),
    ] {
        eventually(name, || (state(name) == wanted).then_some(()));
    }
}

#[test]
fn removed_by_the_daemon_whoever_has_died() {
    let mut d = daemon();
    // Many who wait for the removal get the code, however short the life was.
    let id = d
        .docker(&["create", "--rm", "--name", "short", "--network", "none", "busybox", "sh", "-c", "exit 9"])
        .ok();
    let waiting: Vec<_> = (0..50)
        .map(|n| {
            let condition = ["removed", "next-exit"][n % 2];
            let mut stream = connect(&d.socket());
            write!(stream, "POST /containers/{id}/wait?condition={condition} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut reader = BufReader::new(stream);
            http::read_head(&mut reader).unwrap();
            reader
        })
        .collect();
    d.docker(&["start", &id]).ok();
    for mut reader in waiting {
        let mut size = String::new();
        reader.read_line(&mut size).unwrap();
        let mut body = vec![0; usize::from_str_radix(size.trim(), 16).unwrap()];
        reader.read_exact(&mut body).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["StatusCode"], 9);
    }
    assert_eq!(d.api("GET", &format!("/containers/{id}/json"), "").status, 404);
    assert_eq!(d.api("POST", &format!("/containers/{id}/wait"), "").status, 404);
    // The client dies.
    let mut client = d
        .docker_command(&[
            "run",
            "--rm",
            "--name",
            "orphan",
            "-v",
            "/anonymous",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "sleep 2",
        ])
        .spawn()
        .unwrap();
    eventually("the container", || {
        (d.docker(&["inspect", "-f", "{{.State.Running}}", "orphan"]).out.trim() == "true").then_some(())
    });
    kill(Pid::from_raw(i32::try_from(client.id()).unwrap()), Signal::SIGKILL).unwrap();
    client.wait().unwrap();
    eventually("its removal", || (d.docker(&["ps", "-aq"]).ok().is_empty()).then_some(()));
    assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), "", "its anonymous volume went with it");
    // The daemon dies, and the container ends while there is none.
    d.docker(&["run", "-d", "--rm", "--name", "alone", "--network", "none", "busybox", "sleep", "1"]).ok();
    let pid: i32 = inspect(&d, "alone", "{{.State.Pid}}").parse().unwrap();
    d.crash();
    eventually("its end", || kill(Pid::from_raw(pid), None).is_err().then_some(()));
    d.restart();
    eventually("its removal", || (d.docker(&["ps", "-aq"]).ok().is_empty()).then_some(()));
}
