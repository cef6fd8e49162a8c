//! Checkpoints of the engine's own containers, with a real CRIU.

#![cfg(test)]

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use wharf_tests::criu::{COUNTER, criu};
use wharf_tests::{Daemon, Options, eventually};

/// None where CRIU does not work.
fn daemon() -> Option<Daemon> {
    let config = json!({"experimental": true, "criu": criu()?});
    let ids = "containers:2147483647:2147483648\n";
    let etc = ["subuid", "subgid"].map(|name| (name.to_owned(), ids.to_owned())).to_vec();
    let daemon = Daemon::with(Options { config: Some(config.to_string()), etc, ..Options::default() });
    daemon.import_busybox();
    Some(daemon)
}

fn status(d: &Daemon, name: &str) -> String {
    d.docker(&["inspect", "-f", "{{.State.Status}}", name]).ok()
}

fn ended(d: &Daemon, name: &str) {
    eventually("its end", || (status(d, name) == "exited").then_some(()));
}

fn count(d: &Daemon, name: &str) -> u64 {
    eventually("a number", || d.docker(&["exec", name, "cat", "/data/n"]).out.trim().parse().ok())
}

/// Sees that it counts, and on from there.
fn counts_on(d: &Daemon, name: &str, from: u64) {
    let first = count(d, name);
    // A fresh start counts from 1.
    assert!(first >= from, "{first} after {from}");
    eventually("more numbers", || (count(d, name) > first).then_some(()));
}

fn lines(d: &Daemon, name: &str) -> Vec<String> {
    d.docker(&["logs", name]).ok().lines().map(str::to_owned).collect()
}

/// Restores, and sees that the first thing it then says is a number from where it was: a fresh start counts from 1.
fn restore(d: &Daemon, name: &str, checkpoint: &str, from: u64) {
    let said = lines(d, name).len();
    assert_eq!(d.wharf(&["start", "--checkpoint", checkpoint, name]).ok(), name);
    let first = eventually("a number", || lines(d, name).get(said).cloned());
    let first: u64 = first.strip_prefix("count ").unwrap().parse().unwrap();
    assert!(first >= from, "{first} after {from}");
    eventually("more numbers", || (lines(d, name).len() > said + 3).then_some(()));
}

fn run(d: &Daemon, name: &str, options: &[&str], script: &str) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(options);
    args.extend(["busybox", "sh", "-c", script]);
    d.docker(&args).ok();
}

#[test]
fn a_counter_goes_on_from_where_it_was() {
    let Some(mut d) = daemon() else { return };
    run(&d, "cc", &["-v", "vol:/data", "-m", "64m", "--pids-limit", "50", "--tmpfs", "/t"], COUNTER);
    eventually("some counting", || (count(&d, "cc") > 20).then_some(()));
    d.docker(&["exec", "cc", "sh", "-c", "echo kept >/t/x; echo layer >/y"]).ok();
    let before = d.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "cc"]).ok();

    // It runs on.
    d.docker(&["checkpoint", "create", "--leave-running", "cc", "first"]).ok();
    assert_eq!(status(&d, "cc"), "running");
    counts_on(&d, "cc", 20);
    let id = d.docker(&["inspect", "-f", "{{.Id}}", "cc"]).ok();
    let kept = d.path("data/containers").join(&id).join("checkpoints");
    assert_eq!(std::fs::metadata(kept.join("first")).unwrap().permissions().mode() & 0o777, 0o700);
    d.docker(&["checkpoint", "create", "cc", "first"])
        .fails(1, "checkpoint with name first already exists for container");

    // It ends with it, and no restart policy or user's order is taken for that.
    let at = count(&d, "cc");
    d.docker(&["checkpoint", "create", "cc", "second"]).ok();
    ended(&d, "cc");
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.ExitCode}}", "cc"]).ok(), "137");
    restore(&d, "cc", "second", at);
    counts_on(&d, "cc", at);
    assert_eq!(d.docker(&["exec", "cc", "cat", "/t/x", "/y"]).ok(), "kept\nlayer");
    let logs = d.docker(&["logs", "cc"]).ok();
    let numbers: Vec<u64> =
        logs.lines().map(|line| line.strip_prefix("count ").unwrap().parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:?}");
    // Its limits, its network, its keeper.
    let pid: i32 = d.docker(&["inspect", "-f", "{{.State.Pid}}", "cc"]).ok().parse().unwrap();
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(
        cgroups.lines().any(|line| line.contains("memory") && line.contains(&id))
            || cgroups.contains(&format!("0::/wharf/{id}")),
        "{cgroups}"
    );
    let inside = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null";
    assert_eq!(d.docker(&["exec", "cc", "sh", "-c", inside]).out.trim(), "67108864");
    let address = d.docker(&["exec", "cc", "ip", "-4", "addr", "show", "eth0"]).ok();
    let now = d.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "cc"]).ok();
    assert!(address.contains(&now) && !before.is_empty(), "{address} {now}");
    let capabilities = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let lines =
            text.lines().filter(|l| ["Cap", "Seccomp:", "NoNewPrivs"].iter().any(|k| l.starts_with(k)));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let restored = capabilities(pid);

    // The daemon dies; the container does not, and its end is told.
    d.crash();
    d.restart();
    counts_on(&d, "cc", at);
    d.docker(&["stop", "-t", "10", "cc"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.ExitCode}}", "cc"]).ok(), "7");

    // A new run begins anew, with the very rights that the restored one had; and the older checkpoint is still good.
    let said = lines(&d, "cc").len();
    d.docker(&["start", "cc"]).ok();
    assert_eq!(eventually("a number", || lines(&d, "cc").get(said).cloned()), "count 1");
    let pid: i32 = d.docker(&["inspect", "-f", "{{.State.Pid}}", "cc"]).ok().parse().unwrap();
    assert_eq!(capabilities(pid), restored);
    d.docker(&["kill", "cc"]).ok();
    restore(&d, "cc", "first", 20);
    // What was restored can be saved again.
    d.docker(&["checkpoint", "create", "cc", "third"]).ok();
    ended(&d, "cc");
    let listed = d.wharf(&["checkpoint", "ls", "cc"]).ok();
    let listed: Vec<&str> = listed.lines().map(str::trim).collect();
    assert_eq!(listed, ["CHECKPOINT NAME", "first", "second", "third"]);
    d.wharf(&["checkpoint", "rm", "cc", "second"]).ok();
    restore(&d, "cc", "third", 20);
    assert_eq!(std::fs::read_dir(d.path("exec/restore")).map_or(0, Iterator::count), 0);
    d.docker(&["rm", "-f", "cc"]).ok();
    eventually("its checkpoints to go with it", || (!kept.exists()).then_some(()));
}

/// Each is saved with its end, restored, and goes on.
#[test]
fn containers_of_all_kinds() {
    let Some(d) = daemon() else { return };
    let given = tempfile::tempdir().unwrap();
    std::fs::write(given.path().join("file"), "given").unwrap();
    let bind = format!("{}:/given:ro", given.path().display());
    let file = format!("{}:/one file", given.path().join("file").display());
    d.docker(&["network", "create", "net"]).ok();
    // An image in which the way to a mount leads through a link, as /var/run does in most.
    d.docker(&[
        "run",
        "--name",
        "made",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "mkdir /real && ln -s real /link",
    ])
    .ok();
    d.docker(&["commit", "made", "linked"]).ok();
    d.docker(&["rm", "made"]).ok();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "donor",
        "--network",
        "none",
        "--ipc",
        "shareable",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let kinds: [(&str, &[&str]); 17] = [
        ("none", &["--network", "none"]),
        ("host", &["--network", "host"]),
        ("named", &["--network", "net", "--hostname", "its-name"]),
        ("joined", &["--network", "container:none"]),
        ("binds", &["-v", &bind, "-v", &file]),
        ("nested", &["-v", "inner:/data/inner"]),
        ("sealed", &["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]),
        ("open", &["--privileged"]),
        ("unfiltered", &["--security-opt", "seccomp=unconfined", "--device", "/dev/full:/dev/mine"]),
        ("uts", &["--uts", "host", "--cgroupns", "host"]),
        ("ipc", &["--ipc", "host"]),
        ("stdin", &["-i", "--sysctl", "net.ipv4.ip_forward=1"]),
        ("init", &["--network", "none", "--init"]),
        ("shareable", &["--network", "none", "--ipc", "shareable"]),
        ("joined-ipc", &["--network", "none", "--ipc", "container:donor"]),
        ("pid", &["--network", "none", "--pid", "host"]),
        ("linked", &["--network", "none", "-v", "linked-more:/link/more"]),
    ];
    for (name, options) in kinds {
        let own = format!("{name}-data:/data");
        let mut options = options.to_vec();
        options.extend(["-v", &own]);
        let image = if name == "linked" { "linked" } else { "busybox" };
        let mut args = vec!["run", "-d", "--name", name];
        args.extend(options);
        args.extend([image, "sh", "-c", COUNTER]);
        d.docker(&args).ok();
    }
    d.docker(&["exec", "linked", "sh", "-c", "echo more >/link/more/x"]).ok();
    d.docker(&["exec", "donor", "sh", "-c", "echo given >/dev/shm/x"]).ok();
    d.docker(&["exec", "shareable", "sh", "-c", "echo own >/dev/shm/x"]).ok();
    for (name, _) in kinds {
        let at = eventually("some counting", || Some(count(&d, name)).filter(|n| *n > 5));
        d.docker(&["checkpoint", "create", name, "cp"]).ok();
        ended(&d, name);
        restore(&d, name, "cp", at);
    }
    assert_eq!(d.docker(&["exec", "named", "hostname"]).ok(), "its-name");
    assert_eq!(d.docker(&["exec", "linked", "cat", "/real/more/x"]).ok(), "more");
    assert_eq!(d.docker(&["exec", "init", "cat", "/proc/1/comm"]).ok(), "wharf-init");
    // Shared memory is still shared, from both sides.
    assert_eq!(d.docker(&["exec", "joined-ipc", "cat", "/dev/shm/x"]).ok(), "given");
    let ipc = |name: &str| {
        let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", name]).ok();
        std::fs::read_link(format!("/proc/{pid}/ns/ipc")).unwrap()
    };
    assert_eq!(ipc("joined-ipc"), ipc("donor"));
    let with = |script: &str| {
        let ipc = "container:shareable";
        d.docker(&["run", "--rm", "--network", "none", "--ipc", ipc, "busybox", "sh", "-c", script]).ok()
    };
    assert_eq!(with("cat /dev/shm/x; echo seen >/dev/shm/y"), "own");
    assert_eq!(d.docker(&["exec", "shareable", "cat", "/dev/shm/y"]).ok(), "seen");
    assert_eq!(d.docker(&["exec", "binds", "cat", "/given/file", "/one file"]).ok(), "givengiven");
    d.docker(&["exec", "binds", "touch", "/given/x"]).fails(1, "Read-only file system");
    d.docker(&["exec", "sealed", "touch", "/x"]).fails(1, "Read-only file system");
    for (name, _) in kinds {
        d.docker(&["stop", "-t", "10", name]).ok();
        assert_eq!(d.docker(&["inspect", "-f", "{{.State.ExitCode}}", name]).ok(), "7", "{name}");
        d.docker(&["rm", name]).ok();
    }
    d.docker(&["rm", "-f", "donor"]).ok();
    d.docker(&["network", "rm", "net"]).ok();
}

#[test]
fn who_listens_is_still_there() {
    let Some(d) = daemon() else { return };
    d.docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1:8080:80",
        "busybox",
        "nc",
        "-ll",
        "-p",
        "80",
        "-e",
        "echo",
        "hello",
    ])
    .ok();
    let asks = || {
        let output = d.in_namespace("busybox").args(["nc", "-w", "5", "127.0.0.1", "8080"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("hello").then_some(())
    };
    eventually("an answer", asks);
    let made = d.docker(&["checkpoint", "create", "web", "cp"]);
    // CRIU before 4.2 on Linux 6.16 and newer.
    if made.err.contains("Can't get 1:16 opt: Operation not supported") {
        eprintln!("skipped: this CRIU knows no listeners of this kernel");
        d.docker(&["rm", "-f", "web"]).ok();
        return;
    }
    made.ok();
    ended(&d, "web");
    d.docker(&["start", "--checkpoint", "cp", "web"]).ok();
    eventually("an answer after the restore", asks);
    d.docker(&["rm", "-f", "web"]).ok();
}

#[test]
fn what_cannot_be_saved_or_restored_is_told() {
    let Some(d) = daemon() else { return };
    d.docker(&["run", "-d", "--network", "none", "--name", "first", "busybox", "sleep", "1000"]).ok();
    for (name, options, why) in [
        ("tty", &["-t"][..], "checkpoint not support on containers with tty"),
        ("pid", &["--pid", "container:first"], "it is in another container's pid namespace"),
        ("user", &["--userns", "auto"], "it has a user namespace"),
    ] {
        let mut args = vec!["run", "-d", "--network", "none", "--name", name];
        args.extend(options);
        args.extend(["busybox", "sleep", "1000"]);
        // The stock client knows no such user namespaces.
        d.wharf(&args).ok();
        d.docker(&["checkpoint", "create", name, "cp"]).fails(1, why);
        let made = d.api("POST", &format!("/containers/{name}/checkpoints"), r#"{"CheckpointID": "cp"}"#);
        assert_eq!(made.status, if name == "tty" { 400 } else { 500 }, "{}", made.message());
        assert_eq!(status(&d, name), "running");
        assert_eq!(d.docker(&["checkpoint", "ls", name]).ok().lines().count(), 1);
        d.docker(&["rm", "-f", name]).ok();
    }
    d.docker(&["rm", "-f", "first"]).ok();
    // A file system that the container mounted itself, and has no right to name.
    run(
        &d,
        "mounter",
        &["--privileged", "--network", "none"],
        "mkdir /a /b /m && mount -t overlay -o lowerdir=/a:/b x /m && sleep 1000",
    );
    eventually("the mount", || {
        d.docker(&["exec", "mounter", "grep", " /m ", "/proc/mounts"]).out.contains("/m").then_some(())
    });
    d.docker(&["checkpoint", "create", "mounter", "cp"])
        .fails(1, "/m (overlay) was mounted inside the container");
    assert_eq!(status(&d, "mounter"), "running");
    d.docker(&["rm", "-f", "mounter"]).ok();

    // A checkpoint that was damaged fails the start, and leaves nothing.
    run(&d, "cc", &["-v", "vol:/data", "--network", "none"], COUNTER);
    eventually("some counting", || (count(&d, "cc") > 5).then_some(()));
    d.docker(&["checkpoint", "create", "cc", "cp"]).ok();
    ended(&d, "cc");
    let id = d.docker(&["inspect", "-f", "{{.Id}}", "cc"]).ok();
    let image = d.path("data/containers").join(&id).join("checkpoints/cp");
    std::fs::write(image.join("pstree.img"), "damaged").unwrap();
    d.docker(&["start", "--checkpoint", "cp", "cc"]).fails(1, "criu failed: ");
    assert_eq!(status(&d, "cc"), "exited");
    assert_eq!(std::fs::read_dir(d.path("exec/restore")).map_or(0, Iterator::count), 0);
    // It starts as ever.
    d.docker(&["start", "cc"]).ok();
    d.docker(&["kill", "cc"]).ok();
    // A checkpoint that was not finished is none, and gone after the next start of the daemon.
    std::fs::remove_file(image.join("config.json")).unwrap();
    d.docker(&["start", "--checkpoint", "cp", "cc"]).fails(1, "");
    assert_eq!(status(&d, "cc"), "exited");
    let mut d = d;
    d.crash();
    d.restart();
    assert!(!image.exists());
    d.docker(&["rm", "-f", "cc"]).ok();
}

/// While a checkpoint lies there the container's files are its own: a link where a mount was leads nowhere.
#[test]
fn a_link_in_the_place_of_a_mount_is_not_followed() {
    let Some(d) = daemon() else { return };
    let outside = tempfile::tempdir().unwrap();
    std::fs::create_dir(outside.path().join("data")).unwrap();
    // What is given to it, and what it has in memory, which CRIU makes anew and fills.
    for (name, options) in [("given", ["-v", "vol:/dir/data"]), ("memory", ["--tmpfs", "/dir/data"])] {
        let options = [&options[..], &["--network", "none"]].concat();
        run(&d, name, &options, "while :; do sleep 0.1; done");
        d.docker(&["exec", name, "touch", "/dir/data/mine"]).ok();
        d.docker(&["checkpoint", "create", "--leave-running", name, "cp"]).ok();
        let swap = format!("mv /dir /old && ln -s {} /dir", outside.path().display());
        d.docker(&["exec", name, "sh", "-c", &swap]).ok();
        d.docker(&["kill", name]).ok();
        d.docker(&["start", "--checkpoint", "cp", name]).fails(1, "the place for a mount at /dir/data");
        assert_eq!(status(&d, name), "exited");
        assert_eq!(std::fs::read_dir(outside.path().join("data")).unwrap().count(), 0);
        d.docker(&["rm", "-f", name]).ok();
    }
}

#[test]
fn without_criu_or_with_one_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("criu");
    let script = "#!/bin/sh\necho \"Error (x.c:1): no kernel like this\" >&2\n\
        while [ $# -gt 0 ]; do [ \"$1\" = --work-dir ] && work=$2; shift; done\n\
        [ -z \"$work\" ] || echo \"Error (x.c:1): nothing works\" > \"$work/dump.log\"\nexit 1\n";
    std::fs::write(&broken, script).unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (program, text) in [
        (dir.path().join("none"), "executable file not found in $PATH"),
        (broken, "criu does not work on this machine (criu check: no kernel like this): nothing works"),
    ] {
        let config = json!({"experimental": true, "criu": program});
        let d = Daemon::with(Options { config: Some(config.to_string()), ..Options::default() });
        d.import_busybox();
        run(&d, "cc", &["--network", "none"], "while :; do sleep 0.1; done");
        d.docker(&["checkpoint", "create", "cc", "cp"])
            .fails(1, "Cannot checkpoint container cc: ")
            .fails(1, text);
        assert_eq!(status(&d, "cc"), "running");
        assert_eq!(d.docker(&["checkpoint", "ls", "cc"]).ok().lines().count(), 1);
        let id = d.docker(&["inspect", "-f", "{{.Id}}", "cc"]).ok();
        let kept = d.path("data/containers").join(&id).join("checkpoints");
        assert_eq!(std::fs::read_dir(kept).map_or(0, Iterator::count), 0);
        d.docker(&["rm", "-f", "cc"]).ok();
    }
}
