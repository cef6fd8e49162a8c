//! Checkpoints and restores that are cut short: CRIU, the daemon or the keeper killed, a full disk. The container runs on or has
//! clearly ended, and no half of a checkpoint is left. And what happens beside a checkpoint: health checks, execs, connections.

#![cfg(test)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use wharf_tests::criu::{COUNTER, criu};
use wharf_tests::{Daemon, Options, eventually, leftovers};

/// A daemon whose CRIU can be held at one of its steps.
struct Held {
    d: Daemon,
    dir: tempfile::TempDir,
}

impl Held {
    /// None where CRIU does not work.
    fn new(options: Options) -> Option<Self> {
        let real = criu()?.display();
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().display();
        // CRIU calls the hook at each step; the process that CRIU is, is the hook's parent.
        let wrapper = format!(
            "#!/bin/sh\n[ -e {place}/stage ] && [ \"$1\" != check ] || exec {real} \"$@\"\n\
             exec {real} \"$@\" --action-script {place}/hook\n"
        );
        let hook = format!(
            "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = \"$(cat {place}/stage)\" ] || exit 0\n\
             echo $PPID >{place}/new && mv {place}/new {place}/at\n\
             while [ -e {place}/stage ]; do sleep 0.05; done\n"
        );
        for (name, text) in [("criu", wrapper), ("hook", hook)] {
            std::fs::write(dir.path().join(name), text).unwrap();
            std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let config = json!({"experimental": true, "criu": dir.path().join("criu")});
        let d = Daemon::with(Options { config: Some(config.to_string()), ..options });
        d.import_busybox();
        Some(Self { d, dir })
    }

    fn hold(&self, stage: &str) {
        std::fs::write(self.dir.path().join("stage"), stage).unwrap();
    }

    /// The id of the CRIU that has come to that step.
    fn held(&self) -> Pid {
        let at = self.dir.path().join("at");
        let pid = eventually("CRIU to come to that step", || std::fs::read_to_string(&at).ok());
        std::fs::remove_file(at).unwrap();
        Pid::from_raw(pid.trim().parse().unwrap())
    }

    fn release(&self) {
        // None where nothing is held any more.
        let _ = std::fs::remove_file(self.dir.path().join("stage"));
    }

    fn call(&self, args: &[&str]) -> Child {
        self.d.docker_command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn run(&self, name: &str, options: &[&str]) {
        let volume = format!("{name}-data:/data");
        let mut args = vec!["run", "-d", "--name", name, "-v", &volume];
        args.extend(options);
        args.extend(["busybox", "sh", "-c", COUNTER]);
        self.d.docker(&args).ok();
        eventually("some counting", || (self.count(name) > 3).then_some(()));
    }

    fn status(&self, name: &str) -> String {
        self.d.docker(&["inspect", "-f", "{{.State.Status}}", name]).ok()
    }

    fn count(&self, name: &str) -> u64 {
        eventually("a number", || self.d.docker(&["exec", name, "cat", "/data/n"]).out.trim().parse().ok())
    }

    fn counts_on(&self, name: &str) {
        let first = self.count(name);
        eventually("more numbers", || (self.count(name) > first).then_some(()));
    }

    /// No checkpoint is listed or half there.
    fn nothing_made(&self, name: &str) {
        assert_eq!(self.d.docker(&["checkpoint", "ls", name]).ok().lines().count(), 1);
        let kept = self.checkpoints(name);
        eventually("nothing of it to be left", || {
            (std::fs::read_dir(&kept).map_or(0, Iterator::count) == 0).then_some(())
        });
    }

    fn checkpoints(&self, name: &str) -> PathBuf {
        let id = self.d.docker(&["inspect", "-f", "{{.Id}}", name]).ok();
        self.d.path("data/containers").join(id).join("checkpoints")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Its network was shut at that moment, and its processes stood still.
#[test]
fn criu_killed_while_it_saves() {
    let Some(held) = Held::new(Options::default()) else { return };
    held.run("cc", &[]);
    for (stage, leave) in [("network-lock", true), ("network-lock", false), ("post-dump", true)] {
        held.hold(stage);
        let mut args = vec!["checkpoint", "create", "cc", "cp"];
        if leave {
            args.insert(2, "--leave-running");
        }
        let call = held.call(&args);
        let criu = held.held();
        kill(criu, Signal::SIGKILL).unwrap();
        let output = call.wait_with_output().unwrap();
        held.release();
        assert!(!output.status.success());
        assert!(said(&output).contains("it was killed by signal 9"), "{}", said(&output));
        held.nothing_made("cc");
        assert_eq!(held.status("cc"), "running", "{stage}");
        held.counts_on("cc");
        // Its network is open again.
        held.d.docker(&["exec", "cc", "ping", "-c", "1", "-W", "5", "127.0.0.1"]).ok();
        let pid = held.d.docker(&["inspect", "-f", "{{.State.Pid}}", "cc"]).ok();
        let tables = std::process::Command::new("nsenter")
            .args(["-n", "-t", &pid, "nft", "list", "tables"])
            .output()
            .unwrap();
        assert!(!String::from_utf8_lossy(&tables.stdout).contains("CRIU"), "{tables:?}");
    }
    // And it can be saved.
    held.d.docker(&["checkpoint", "create", "cc", "cp"]).ok();
    held.d.docker(&["start", "--checkpoint", "cp", "cc"]).ok();
    held.counts_on("cc");
    held.d.docker(&["rm", "-f", "cc"]).ok();
}

#[test]
fn the_daemon_killed_while_it_saves() {
    let Some(mut held) = Held::new(Options::default()) else { return };
    held.run("cc", &[]);
    for (leave, first) in [(true, true), (false, true), (false, false)] {
        held.hold("network-lock");
        let mut args = vec!["checkpoint", "create", "cc", "cp"];
        if leave {
            args.insert(2, "--leave-running");
        }
        let mut call = held.call(&args);
        let criu = held.held();
        held.d.crash();
        assert!(!call.wait().unwrap().success());
        // CRIU goes on before or after the next daemon comes.
        if first {
            held.release();
            eventually("CRIU's end", || kill(criu, None).is_err().then_some(()));
        }
        held.d.restart();
        held.release();
        held.nothing_made("cc");
        eventually("CRIU's end", || kill(criu, None).is_err().then_some(()));
        if held.status("cc") == "running" {
            held.counts_on("cc");
            held.d.docker(&["exec", "cc", "ping", "-c", "1", "-W", "5", "127.0.0.1"]).ok();
        } else {
            assert_eq!(held.status("cc"), "exited");
            held.d.docker(&["start", "cc"]).ok();
            held.counts_on("cc");
        }
        held.nothing_made("cc");
    }
    held.d.docker(&["rm", "-f", "cc"]).ok();
}

#[test]
fn the_keeper_killed_while_it_restores() {
    let Some(held) = Held::new(Options::default()) else { return };
    held.run("cc", &["--network", "none"]);
    held.d.docker(&["checkpoint", "create", "cc", "cp"]).ok();
    eventually("its end", || (held.status("cc") == "exited").then_some(()));
    held.hold("post-restore");
    let call = held.call(&["start", "--checkpoint", "cp", "cc"]);
    let criu = held.held();
    let processes = leftovers::processes(held.d.path("").as_path());
    let keeper = processes.into_iter().find(|(_, line)| line.contains(" keeper ")).expect("a keeper");
    kill(Pid::from_raw(keeper.0), Signal::SIGKILL).unwrap();
    let output = call.wait_with_output().unwrap();
    held.release();
    eventually("CRIU's end", || kill(criu, None).is_err().then_some(()));
    // One or the other, and it is so.
    if output.status.success() {
        held.counts_on("cc");
        held.d.docker(&["kill", "cc"]).ok();
    } else {
        eventually("its end", || (held.status("cc") == "exited").then_some(()));
        let id = held.d.docker(&["inspect", "-f", "{{.Id}}", "cc"]).ok();
        eventually("its processes to end", || in_cgroups(&id).is_empty().then_some(()));
    }
    // The checkpoint is as good as before.
    assert!(held.d.docker(&["checkpoint", "ls", "cc"]).ok().contains("cp"));
    eventually("a start", || (held.d.docker(&["start", "--checkpoint", "cp", "cc"]).code == 0).then_some(()));
    held.counts_on("cc");
    held.d.docker(&["rm", "-f", "cc"]).ok();
}

/// Processes in cgroups of this name.
fn in_cgroups(id: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.map(|entry| entry.path()).filter(|path| path.join("cgroup").exists());
    let inside = |path: &PathBuf| {
        std::fs::read_to_string(path.join("cgroup")).is_ok_and(|cgroups| cgroups.contains(id))
    };
    pids.filter(inside).map(|path| path.display().to_string()).collect()
}

#[test]
fn criu_killed_while_it_restores() {
    let Some(held) = Held::new(Options::default()) else { return };
    held.run("cc", &["--network", "none"]);
    held.d.docker(&["checkpoint", "create", "cc", "cp"]).ok();
    eventually("its end", || (held.status("cc") == "exited").then_some(()));
    for stage in ["pre-restore", "post-setup-namespaces", "post-restore"] {
        held.hold(stage);
        let call = held.call(&["start", "--checkpoint", "cp", "cc"]);
        kill(held.held(), Signal::SIGKILL).unwrap();
        let output = call.wait_with_output().unwrap();
        held.release();
        assert!(!output.status.success(), "{stage}");
        assert!(said(&output).contains("it was killed by signal 9"), "{}", said(&output));
        assert_eq!(held.status("cc"), "exited");
        let id = held.d.docker(&["inspect", "-f", "{{.Id}}", "cc"]).ok();
        eventually("its processes to end", || in_cgroups(&id).is_empty().then_some(()));
        assert_eq!(std::fs::read_dir(held.d.path("exec/restore")).map_or(0, Iterator::count), 0);
    }
    held.d.docker(&["start", "--checkpoint", "cp", "cc"]).ok();
    held.counts_on("cc");
    held.d.docker(&["rm", "-f", "cc"]).ok();
}

/// The directory is a small file system of its own.
#[test]
fn a_full_disk() {
    let Some(held) = Held::new(Options { data_size: Some(96 << 20), ..Options::default() }) else { return };
    let script = format!("x=$(head -c 120000000 /dev/zero | tr '\\0' x); {COUNTER}");
    held.d
        .docker(&[
            "run",
            "-d",
            "--name",
            "cc",
            "--network",
            "none",
            "-v",
            "vol:/data",
            "busybox",
            "sh",
            "-c",
            &script,
        ])
        .ok();
    eventually("some counting", || (held.count("cc") > 3).then_some(()));
    for leave in [&["--leave-running"][..], &[]] {
        let args = [&["checkpoint", "create"], leave, &["cc", "cp"]].concat();
        held.d.docker(&args).fails(1, "Cannot checkpoint container cc: criu failed: ");
        assert_eq!(held.status("cc"), "running");
        held.nothing_made("cc");
        held.counts_on("cc");
    }
    held.d.docker(&["rm", "-f", "cc"]).ok();
}

/// Whoever may write where a checkpoint is to be made gets neither its memory nor the daemon's hand.
#[test]
fn a_directory_that_others_may_write_to() {
    let Some(held) = Held::new(Options::default()) else { return };
    held.run("cc", &["--network", "none"]);
    let place = held.dir.path().join("place");
    let victim = held.dir.path().join("victim");
    for dir in [&place, &victim] {
        std::fs::create_dir(dir).unwrap();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    std::fs::write(victim.join("config.json"), "precious").unwrap();
    held.hold("pre-dump");
    let call = held.call(&[
        "checkpoint",
        "create",
        "--leave-running",
        "--checkpoint-dir",
        place.to_str().unwrap(),
        "cc",
        "cp",
    ]);
    held.held();
    let mode = std::fs::metadata(place.join("cp")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    // In the middle of it the directory is moved away, and a link laid in its place.
    std::fs::rename(place.join("cp"), place.join("moved")).unwrap();
    std::os::unix::fs::symlink(&victim, place.join("cp")).unwrap();
    held.release();
    assert!(call.wait_with_output().unwrap().status.success());
    assert_eq!(std::fs::read_to_string(victim.join("config.json")).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 1);
    assert!(place.join("moved/config.json").exists() && place.join("moved/pstree.img").exists());
    let dir = place.to_str().unwrap();
    // What was laid there is neither listed, nor removed, nor started from.
    let listed = held.d.docker(&["checkpoint", "ls", "--checkpoint-dir", dir, "cc"]).ok();
    assert!(!listed.contains("cp") && listed.contains("moved"), "{listed}");
    held.d.docker(&["checkpoint", "rm", "--checkpoint-dir", dir, "cc", "cp"]).fails(1, "is not a directory");
    assert!(victim.join("config.json").exists());
    held.d
        .docker(&["start", "--checkpoint-dir", dir, "--checkpoint", "moved", "cc"])
        .fails(1, "custom checkpointdir is not supported");
    for (name, place) in [("a\\u0000b", dir), ("good", "/x\\u0000y"), ("good", "/proc/self/cwd/../x")] {
        let body = format!(r#"{{"CheckpointID": "{name}", "CheckpointDir": "{place}"}}"#);
        let answer = held.d.api("POST", "/containers/cc/checkpoints", &body);
        assert_eq!(answer.status, 400, "{name} {place}: {}", answer.message());
    }
    held.d.docker(&["checkpoint", "rm", "--checkpoint-dir", dir, "cc", "moved"]).ok();
    assert!(!Path::new(dir).join("moved").exists());
    held.d.docker(&["rm", "-f", "cc"]).ok();
}

#[test]
fn health_policies_and_execs() {
    let Some(held) = Held::new(Options::default()) else { return };
    held.run(
        "cc",
        &[
            "--network",
            "none",
            "--restart",
            "always",
            "--health-cmd",
            "test -e /data/n",
            "--health-interval",
            "200ms",
        ],
    );
    let health = |text: &str| {
        eventually("its health", || {
            (held.d.docker(&["inspect", "-f", "{{.State.Health.Status}}", "cc"]).ok() == text).then_some(())
        });
    };
    health("healthy");
    // An exec is no child of its first process: it runs on with it, ends with it, and does not come back, as with runc.
    held.d.docker(&["exec", "-d", "cc", "sleep", "4321"]).ok();
    let mut attached = held.call(&["exec", "cc", "sleep", "1234"]);
    let sleeps = || -> u32 {
        let script = "ps | grep -v grep | grep -c -E 'sleep (4321|1234)'";
        held.d.docker(&["exec", "cc", "sh", "-c", script]).out.trim().parse().unwrap()
    };
    eventually("both execs", || (sleeps() >= 2).then_some(()));
    held.d.docker(&["checkpoint", "create", "--leave-running", "cc", "first"]).ok();
    assert!(sleeps() >= 2);
    health("healthy");
    held.d.docker(&["checkpoint", "create", "cc", "second"]).ok();
    eventually("its end", || (held.status("cc") == "exited").then_some(()));
    assert!(!attached.wait().unwrap().success());
    // It was the user who wanted its end, whatever the policy.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(held.status("cc"), "exited");
    held.d.docker(&["start", "--checkpoint", "second", "cc"]).ok();
    held.counts_on("cc");
    assert_eq!(sleeps(), 0);
    health("healthy");
    // Restored, it has its policy again.
    let pid: i32 = held.d.docker(&["inspect", "-f", "{{.State.Pid}}", "cc"]).ok().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    eventually("its restart", || {
        (held.d.docker(&["inspect", "-f", "{{.RestartCount}}", "cc"]).ok() == "1").then_some(())
    });
    health("healthy");
    held.d.docker(&["rm", "-f", "cc"]).ok();
    // With --rm a checkpoint that ends it takes it, and itself, away.
    held.run("once", &["--network", "none", "--rm"]);
    held.d.docker(&["checkpoint", "create", "--leave-running", "once", "first"]).ok();
    let kept = held.checkpoints("once");
    held.d.docker(&["checkpoint", "create", "once", "last"]).ok();
    eventually("its removal", || (held.d.docker(&["inspect", "once"]).code != 0).then_some(()));
    eventually("its checkpoints to go", || (!kept.exists()).then_some(()));
}

/// A connection goes on if the address is still the container's; if not, it is closed, and the container goes on all the same.
#[test]
fn connections_of_a_container() {
    let Some(held) = Held::new(Options::default()) else { return };
    let d = &held.d;
    d.docker(&["network", "create", "net"]).ok();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "server",
        "--network",
        "net",
        "busybox",
        "nc",
        "-ll",
        "-p",
        "80",
        "-e",
        "cat",
    ])
    .ok();
    let address =
        |name: &str| d.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.net.IPAddress}}", name]).ok();
    let server = address("server");
    // What is written into the pipe comes back by the connection.
    let script = format!("mkfifo /in; nc {server} 80 </in >/out & exec 3>/in; {COUNTER}");
    d.docker(&[
        "run",
        "-d",
        "--name",
        "cc",
        "--network",
        "net",
        "-v",
        "vol:/data",
        "busybox",
        "sh",
        "-c",
        &script,
    ])
    .ok();
    eventually("some counting", || (held.count("cc") > 3).then_some(()));
    let echo = |word: &str| {
        d.docker(&["exec", "cc", "sh", "-c", &format!("echo {word} >/in")]).ok();
        eventually("its answer", || {
            d.docker(&["exec", "cc", "cat", "/out"]).ok().contains(word).then_some(())
        });
    };
    echo("before");
    let made = d.docker(&["checkpoint", "create", "--leave-running", "cc", "first"]);
    // CRIU before 4.2 on Linux 6.16 and newer.
    if made.err.contains("Operation not supported") {
        eprintln!("skipped: this CRIU knows no sockets of this kernel");
        d.docker(&["rm", "-f", "cc", "server"]).ok();
        return;
    }
    made.ok();
    echo("meanwhile");
    let was = address("cc");
    d.docker(&["checkpoint", "create", "cc", "second"]).ok();
    eventually("its end", || (held.status("cc") == "exited").then_some(()));
    d.docker(&["start", "--checkpoint", "second", "cc"]).ok();
    held.counts_on("cc");
    assert_eq!(address("cc"), was);
    echo("after");
    // Somebody else has its address now.
    d.docker(&["checkpoint", "create", "cc", "third"]).ok();
    eventually("its end", || (held.status("cc") == "exited").then_some(()));
    for n in 0..3 {
        d.docker(&[
            "run",
            "-d",
            "--name",
            &format!("other{n}"),
            "--network",
            "net",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    }
    d.docker(&["start", "--checkpoint", "third", "cc"]).ok();
    held.counts_on("cc");
    d.docker(&["rm", "-f", "cc", "server", "other0", "other1", "other2"]).ok();
    d.docker(&["network", "rm", "net"]).ok();
}
