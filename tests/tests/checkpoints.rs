//! Checkpoints. CRIU does not work on every kernel, so that the runtime here is runc with two verbs of its own; that a real
//! CRIU is called, and quoted where it fails, is seen with runc itself.

#![cfg(test)]

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use wharf_tests::{Daemon, Options, eventually};

/// `checkpoint` keeps what the container has in /state, `restore` starts it with that.
const SCRIPT: &str = r#"#!/bin/sh
all="$*"; first="$1 $2 $3 $4 $5 $6"; log="$4"; shift 6; verb="$1"
for id; do :; done
case "$verb" in
checkpoint)
    image=$(echo " $all" | sed -n 's/.*--image-path \([^ ]*\).*/\1/p')
    /usr/sbin/runc $first exec "$id" cat /state > "$image/memory" || exit 1
    case "$all" in *--leave-running*) ;; *) /usr/sbin/runc $first kill "$id" 9 ;; esac ;;
restore)
    image=$(echo " $all" | sed -n 's/.*--image-path \([^ ]*\).*/\1/p')
    pid=$(echo " $all" | sed -n 's/.*--pid-file \([^ ]*\).*/\1/p')
    if ! test -e "$image/memory"; then
        echo '{"level":"error","msg":"criu failed: no image"}' > "$log"; exit 1
    fi
    cp "$image/memory" rootfs/restored
    /usr/sbin/runc $first create --bundle . --pid-file "$pid" "$id" && /usr/sbin/runc $first start "$id" ;;
*) exec /usr/sbin/runc $first "$@" ;;
esac
"#;

fn with(experimental: bool, dir: &tempfile::TempDir) -> Daemon {
    let script = dir.path().join("runtime");
    std::fs::write(&script, SCRIPT).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = json!({
        "experimental": experimental,
        "runtimes": {"saving": {"path": script}, "debian-runc": {"path": "/usr/sbin/runc"}},
    });
    let daemon = Daemon::with(Options { config: Some(config.to_string()), ..Options::default() });
    daemon.import_busybox();
    daemon
}

fn start(d: &Daemon, runtime: &str, name: &str) {
    let script =
        "test -e /restored && cp /restored /state || echo fresh > /state; while :; do sleep 0.1; done";
    d.docker(&[
        "run",
        "-d",
        "--name",
        name,
        "--runtime",
        runtime,
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    eventually("its state", || (d.docker(&["exec", name, "cat", "/state"]).code == 0).then_some(()));
}

#[test]
fn a_container_goes_on_from_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut d = with(true, &dir);
    start(&d, "saving", "cc");
    d.docker(&["exec", "cc", "sh", "-c", "echo worked > /state"]).ok();
    d.docker(&["checkpoint", "create", "--leave-running", "cc", "first"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", "cc"]).ok(), "running");
    d.docker(&["checkpoint", "create", "cc", "first"])
        .fails(1, "checkpoint with name first already exists for container");
    d.docker(&["exec", "cc", "sh", "-c", "echo more > /state"]).ok();
    d.docker(&["checkpoint", "create", "cc", "second"]).ok();
    eventually("its end", || {
        (d.docker(&["inspect", "-f", "{{.State.Status}}", "cc"]).ok() == "exited").then_some(())
    });
    let names = d.docker(&["checkpoint", "ls", "cc"]).ok();
    assert!(names.contains("first") && names.contains("second"), "{names}");
    // Only root sees the memory of a container.
    let id = d.docker(&["inspect", "-f", "{{.Id}}", "cc"]).ok();
    let kept = d.path("data/containers").join(&id).join("checkpoints/first");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o700);
    for (checkpoint, state) in [("first", "worked"), ("second", "more")] {
        d.docker(&["start", "--checkpoint", checkpoint, "cc"]).ok();
        eventually("the state of then", || {
            (d.docker(&["exec", "cc", "cat", "/state"]).out.trim() == state).then_some(())
        });
        if checkpoint == "first" {
            d.crash();
            d.restart();
            assert_eq!(d.docker(&["exec", "cc", "cat", "/state"]).ok(), state);
        }
        d.docker(&["kill", "cc"]).ok();
    }
    d.docker(&["start", "--checkpoint", "third", "cc"])
        .fails(1, "checkpoint third does not exist for container");
    d.docker(&["start", "--checkpoint-dir", "/tmp", "--checkpoint", "first", "cc"])
        .fails(1, "custom checkpointdir is not supported");
    d.docker(&["checkpoint", "rm", "cc", "first"]).ok();
    d.docker(&["checkpoint", "rm", "cc", "first"]).fails(1, "checkpoint first does not exist for container");
    assert!(!d.docker(&["checkpoint", "ls", "cc"]).ok().contains("first"));
    // One that is broken fails the start and leaves nothing.
    std::fs::remove_file(kept.with_file_name("second").join("memory")).unwrap();
    d.docker(&["start", "--checkpoint", "second", "cc"]).fails(1, "criu failed: no image");
    d.docker(&["rm", "cc"]).ok();
    eventually("its checkpoints to go with it", || (!kept.parent().unwrap().exists()).then_some(()));
}

#[test]
fn names_and_directories_lead_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let d = with(true, &dir);
    start(&d, "saving", "cc");
    let create = |body: serde_json::Value| {
        let answer = d.api("POST", "/containers/cc/checkpoints", &body.to_string());
        (answer.status, answer.message())
    };
    for name in ["", "..", "../x", "/etc", "a/b", ".hidden", "x"] {
        let (status, text) = create(json!({"CheckpointID": name}));
        assert!(status == 400 && text.starts_with("Invalid checkpoint ID"), "{name}: {status} {text}");
    }
    for place in ["relative", "/a/../b"] {
        assert_eq!(create(json!({"CheckpointID": "good", "CheckpointDir": place})).0, 400);
    }
    // Deleting takes checkpoints only, wherever it is told that they are.
    let victim = dir.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("precious"), "x").unwrap();
    let place = dir.path().display();
    let answer = d.api("DELETE", &format!("/containers/cc/checkpoints/victim?dir={place}"), "");
    assert_eq!(answer.status, 404, "{}", answer.message());
    std::os::unix::fs::symlink(&victim, dir.path().join("link")).unwrap();
    assert_ne!(d.api("DELETE", &format!("/containers/cc/checkpoints/link?dir={place}"), "").status, 204);
    assert!(victim.join("precious").exists());
    let elsewhere = dir.path().join("elsewhere");
    let body = json!({"CheckpointID": "good", "CheckpointDir": elsewhere});
    assert_eq!(d.api("POST", "/containers/cc/checkpoints", &body.to_string()).status, 201);
    let list = d.api("GET", &format!("/containers/cc/checkpoints?dir={}", elsewhere.display()), "");
    assert_eq!(list.json(), json!([{"Name": "good"}]));
    assert_eq!(
        d.api("DELETE", &format!("/containers/cc/checkpoints/good?dir={}", elsewhere.display()), "").status,
        204
    );
    assert!(!elsewhere.join("good").exists());
    d.docker(&["rm", "-f", "cc"]).ok();
}

#[test]
fn what_cannot_be_saved_runs_on() {
    let dir = tempfile::tempdir().unwrap();
    let d = with(true, &dir);
    // This kernel's CRIU may work or not: either there is a checkpoint, or its failure is quoted and nothing is left of it.
    start(&d, "debian-runc", "real");
    let made = d.docker(&["checkpoint", "create", "--leave-running", "real", "cp"]);
    eprintln!("{made:?}");
    assert_eq!(d.docker(&["exec", "real", "cat", "/state"]).ok(), "fresh");
    let listed = d.docker(&["checkpoint", "ls", "real"]).ok();
    assert_eq!(listed.contains("cp"), made.code == 0);
    if made.code != 0 {
        made.fails(1, "Cannot checkpoint container real: ").fails(1, "criu");
    }
    d.docker(&["run", "-d", "--name", "own", "--network", "none", "busybox", "sleep", "1000"]).ok();
    d.docker(&[
        "run",
        "-dt",
        "--name",
        "tty",
        "--runtime",
        "saving",
        "--network",
        "none",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    d.docker(&["checkpoint", "create", "tty", "cp"])
        .fails(1, "checkpoint not support on containers with tty");
    d.docker(&["stop", "-t", "0", "own"]).ok();
    d.docker(&["checkpoint", "create", "own", "cp"]).fails(1, "Container own not running");
    for name in ["real", "own", "tty"] {
        d.docker(&["rm", "-f", name]).ok();
    }
}

#[test]
fn without_experimental_mode_there_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let d = with(false, &dir);
    d.docker(&["create", "--name", "cc", "busybox", "true"]).ok();
    for (method, path, body) in [
        ("GET", "/containers/cc/checkpoints", ""),
        ("POST", "/containers/cc/checkpoints", "{\"CheckpointID\": \"cp\"}"),
        ("DELETE", "/containers/cc/checkpoints/cp", ""),
        ("POST", "/containers/cc/start?checkpoint=cp", ""),
    ] {
        let answer = d.api(method, path, body);
        assert_eq!(answer.status, 501, "{method} {path}: {}", answer.message());
        assert!(answer.message().starts_with("This experimental feature is disabled by default."));
    }
    assert_eq!(d.api("GET", "/_ping", "").header("docker-experimental"), Some("false"));
}
