//! The `wharf` command line does what the docker CLI does, over the same API.

use wharf_tests::{Daemon, bin_dir, eventually, image};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

#[test]
fn images() {
    let d = Daemon::start();
    let file = image::save(&d.path("busybox.tar"), &image::busybox_tar());
    let id = d.wharf(&["import", &file, "busybox"]).ok();
    assert!(id.starts_with("sha256:"), "{id}");
    d.wharf(&["tag", "busybox", "other:tag"]).ok();
    let list = d.wharf(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    let mut names: Vec<&str> = list.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["busybox:latest", "other:tag"]);
    assert!(d.wharf(&["images"]).ok().starts_with("REPOSITORY"));
    assert_eq!(d.wharf(&["rmi", "other:tag"]).ok(), "Untagged: other:tag");
    assert_eq!(d.wharf(&["inspect", "-f", "{{.Os}}", "busybox"]).ok(), "linux");
    assert!(d.wharf(&["history", "busybox"]).ok().starts_with("IMAGE"));
}

#[test]
fn run_in_all_its_ways() {
    let d = daemon();
    let ran = d.wharf(&[
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, "out\n", "err\n"));
    let mut c = std::process::Command::new(bin_dir().join("wharf"));
    c.env("WHARF_HOST", d.host()).args(["run", "--rm", "-i", "--network", "none", "busybox", "wc", "-c"]);
    assert_eq!(d.run_with_input(c, &vec![b'x'; 1_000_000]).ok(), "1000000");
    d.wharf(&["run", "--rm", "busybox", "nothing-here"]).fails(127, "nothing-here");
    d.wharf(&["run", "--rm", "busybox", "/etc/passwd"]).fails(126, "permission denied");
    d.wharf(&["run", "--rm", "--no-such-flag", "busybox"]).fails(125, "--no-such-flag");
    let id = d
        .wharf(&[
            "run",
            "-d",
            "--name",
            "bg",
            "-e",
            "A=b",
            "-p",
            "8081:80",
            "busybox",
            "sh",
            "-c",
            "echo $A; sleep 600",
        ])
        .ok();
    assert_eq!(id.len(), 64);
    eventually("the output", || (d.wharf(&["logs", "bg"]).out == "b\n").then_some(()));
    assert_eq!(d.wharf(&["port", "bg", "80"]).ok().lines().next(), Some("0.0.0.0:8081"));
    assert_eq!(d.wharf(&["ps", "--format", "{{.Names}} {{.State}}"]).ok(), "bg running");
    assert_eq!(d.wharf(&["exec", "-w", "/tmp", "bg", "pwd"]).ok(), "/tmp");
    d.wharf(&["exec", "bg", "sh", "-c", "exit 9"]).fails(9, "");
    assert!(d.wharf(&["top", "bg"]).ok().contains("sleep 600"));
    d.wharf(&["stop", "-t", "0", "bg"]).ok();
    assert_eq!(d.wharf(&["wait", "bg"]).ok(), "137");
    assert_eq!(d.wharf(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "bg"]).ok(), "exited 137");
    assert_eq!(d.wharf(&["rm", "bg"]).ok(), "bg");
    d.wharf(&["rm", "bg"]).fails(1, "No such container: bg");
}

#[test]
fn start_attach_events_networks_and_volumes() {
    let d = daemon();
    d.wharf(&["create", "-i", "--name", "cat", "--network", "none", "busybox", "cat"]).ok();
    let mut c = std::process::Command::new(bin_dir().join("wharf"));
    c.env("DOCKER_HOST", d.host()).args(["start", "-a", "-i", "cat"]);
    assert_eq!(d.run_with_input(c, b"hello\n").out, "hello\n");
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let events =
        d.wharf(&["events", "--since", "10m", "--until", &until.to_string(), "--format", "{{.Action}}"]).ok();
    assert!(events.contains("start") && events.contains("die"), "{events}");
    d.wharf(&["volume", "create", "--label", "a=b", "vol"]).ok();
    assert_eq!(d.wharf(&["volume", "ls", "-q"]).ok(), "vol");
    assert_eq!(d.wharf(&["volume", "inspect", "-f", "{{.Labels.a}}", "vol"]).ok(), "b");
    assert_eq!(d.wharf(&["volume", "rm", "vol"]).ok(), "vol");
    let networks = d.wharf(&["network", "ls", "--format", "{{.Name}}"]).ok();
    for name in ["bridge", "host", "none"] {
        assert!(networks.lines().any(|n| n == name), "{networks}");
    }
    assert!(d.wharf(&["version"]).ok().contains("Server:"));
    assert!(d.wharf(&["info"]).ok().contains("Storage Driver"));
}

#[test]
fn a_daemon_that_is_not_there_is_named() {
    let out = std::process::Command::new(bin_dir().join("wharf"))
        .args(["--host", "unix:///nowhere/x.sock", "ps"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("unix:///nowhere/x.sock") && text.contains("wharf daemon"), "{text}");
}
