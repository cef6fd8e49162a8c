//! Shims of containerd's kind behind `--runtime`: one that is a virtual machine, and all kinds that go wrong. What runs through the
//! real shim of runc is in `runtimes.rs`.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use wharf_tests::{Daemon, Options, eventually};

/// A daemon with shims of these behaviours on its `PATH`.
struct Shims {
    daemon: Daemon,
    place: tempfile::TempDir,
}

impl Shims {
    fn new(behaviours: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        for behaviour in behaviours {
            let link = place.path().join(format!("containerd-shim-{behaviour}-v2"));
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fake-shim"), link).unwrap();
        }
        let path = format!("{}:{}", place.path().display(), std::env::var("PATH").unwrap());
        let configured = json!({"runtimes": {"configured": {
            "runtimeType": "io.containerd.machine.v2",
            "options": {"TypeUrl": "the.type", "ConfigPath": "/etc/machine.toml", "ConfigBody": "[x]"},
        }}});
        let daemon = Daemon::with(Options {
            env: vec![("PATH".into(), path)],
            config: Some(configured.to_string()),
            ..Options::default()
        });
        daemon.import_busybox();
        Self { daemon, place }
    }

    fn run(&self, behaviour: &str, args: &[&str]) -> wharf_tests::Ran {
        let runtime = format!("io.containerd.{behaviour}.v2");
        let first = ["run", "--runtime", &runtime, "--network", "none"];
        let ran = self.daemon.docker(&[&first, args].concat());
        eprintln!("{behaviour}: {:?} {:?} {}", ran.out, ran.err, ran.code);
        ran
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.daemon.path("exec/oci").join(id)
    }

    /// Processes of the shims of this test.
    fn processes(&self) -> Vec<String> {
        let place = self.place.path().display().to_string();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|p| std::fs::read_to_string(p.path().join("cmdline")).ok());
        lines.filter(|line| line.starts_with(&place)).collect()
    }

    fn no_traces(&self) {
        eventually("shims and bundles to be gone", || {
            let bundles = std::fs::read_dir(self.daemon.path("exec/oci")).into_iter().flatten().count();
            (bundles == 0 && self.processes().is_empty()).then_some(())
        });
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("/run/containerd") && !mounts.contains("exec/oci"), "{mounts}");
    }

    /// A call that has nothing to do with any shim is answered as ever.
    fn others_are_unharmed(&self) {
        let begun = Instant::now();
        self.daemon.docker(&["run", "--rm", "--network", "none", "busybox", "true"]).ok();
        eprintln!("another container meanwhile: {:?}", begun.elapsed());
        assert_eq!(self.daemon.api("GET", "/containers/json", "").status, 200);
    }
}

#[test]
fn a_virtual_machine() {
    let shims = Shims::new(&["machine", "oom"]);
    let d = &shims.daemon;
    let mut create = vec!["-d", "-i", "--memory", "64m", "--name", "machine", "busybox", "sleep", "1000"];
    let id = shims.run("machine", &create).ok();
    let bundle = shims.bundle(&id);
    eventually("its output", || (d.docker(&["logs", &id]).out.trim() == "from the machine").then_some(()));
    let config: Value = serde_json::from_slice(&std::fs::read(bundle.join("config-seen")).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], json!(["sleep", "1000"]));
    assert_eq!(config["root"]["path"], "rootfs");
    // Without options none are sent.
    assert_eq!(std::fs::read(bundle.join("options-seen")).unwrap(), b"");
    // Its figures and processes are the shim's.
    let stats = d.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", &id]).ok();
    assert_eq!(stats, "12MiB / 64MiB 7");
    assert!(d.docker(&["top", &id]).ok().contains("sleep 1000"));
    d.docker(&["pause", &id]).fails(1, "does not implement");
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", &id]).ok(), "running");
    // Accounts are those of the container's files, not of the host's, on which its process has its eyes.
    let users = d.docker_with_input(&["cp", "-", "machine:/"], &passwd("inside:x:77:78::/:/bin/sh\n"));
    users.ok();
    d.docker(&["exec", "-u", "inside", &id, "true"]).fails(126, "does not implement");
    let seen: Value = serde_json::from_slice(&std::fs::read(bundle.join("exec-seen")).unwrap()).unwrap();
    assert_eq!((seen["user"]["uid"].as_u64(), seen["user"]["gid"].as_u64()), (Some(77), Some(78)));
    d.docker(&["update", "--memory", "96m", "--memory-swap", "96m", &id]).ok();
    let seen: Value = serde_json::from_slice(&std::fs::read(bundle.join("update-seen")).unwrap()).unwrap();
    assert_eq!(seen["memory"]["limit"], 96 << 20);
    d.docker(&["stop", "-t", "20", &id]).ok();
    assert_eq!(
        d.docker(&["inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", &id]).ok(),
        "143 false"
    );
    d.docker(&["rm", &id]).ok();
    // A lack of memory inside is told by the shim alone.
    let id = shims.run("oom", &["-d", "busybox", "sleep", "1000"]).ok();
    eventually("the event of the shim", || shims.bundle(&id).join("oom").exists().then_some(()));
    d.docker(&["kill", &id]).ok();
    assert_eq!(
        d.docker(&["inspect", "-f", "{{.State.ExitCode}} {{.State.OOMKilled}}", &id]).ok(),
        "137 true"
    );
    d.docker(&["rm", &id]).ok();
    // Options of the configuration, as the message that shims understand.
    create.retain(|a| *a != "--name" && *a != "machine");
    let id = d.docker(&[&["run", "--runtime", "configured", "--network", "none"], &create[..]].concat()).ok();
    let options = std::fs::read(shims.bundle(&id).join("options-seen")).unwrap();
    let text = String::from_utf8_lossy(&options);
    for part in ["runtimeoptions.v1.Options", "the.type", "/etc/machine.toml", "[x]"] {
        assert!(text.contains(part), "{text:?}");
    }
    d.docker(&["rm", "-f", &id]).ok();
    shims.no_traces();
}

/// An archive with an `/etc/passwd`.
fn passwd(content: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "etc/passwd", content.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

#[test]
fn what_is_not_there_is_said() {
    let shims = Shims::new(&[]);
    let missing = "failed to start shim: failed to resolve runtime path: runtime \"io.containerd.nosuch.v2\" binary not installed \
                   \"containerd-shim-nosuch-v2\": file does not exist";
    shims.run("nosuch", &["busybox", "true"]).fails(125, missing);
    // A request names no program by its path.
    for name in ["/bin/sh", "../x.v2", "a/b.v2", "plain"] {
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Runtime": name}});
        let refused = shims.daemon.api("POST", "/containers/create", &body.to_string());
        let text = format!("unknown or invalid runtime name: {name}");
        assert_eq!((refused.status, refused.message()), (400, text));
    }
    shims.no_traces();
}

#[test]
fn a_start_that_goes_wrong_leaves_nothing() {
    let cases = [
        ("fail-start", "no room on the moon"),
        ("garbage", "printed no address"),
        ("endless", "printed without end"),
        ("nobody", "nobody listens at the address"),
        ("die-create", "the shim is gone"),
        ("fail-create", "OCI runtime create failed: the moon is wrong"),
        ("lie-pid", "named process 1 as the container's"),
        ("huge-answer", "the shim is gone"),
        ("die-task-start", "the shim is gone"),
    ];
    let shims = Shims::new(&cases.map(|(behaviour, _)| behaviour));
    for (behaviour, text) in cases {
        let ran = shims.run(behaviour, &["--rm", "busybox", "true"]);
        ran.fails(125, text);
        shims.no_traces();
    }
    shims.others_are_unharmed();
}

#[test]
fn a_start_that_hangs_can_be_ended() {
    let behaviours = ["hang-start", "hang-create", "hang-task-start"];
    let shims = Shims::new(&behaviours);
    for behaviour in behaviours {
        let runtime = format!("io.containerd.{behaviour}.v2");
        let args = ["create", "--runtime", &runtime, "--network", "none", "busybox", "true"];
        let id = shims.daemon.docker(&args).ok();
        std::thread::scope(|scope| {
            let start = scope.spawn(|| shims.daemon.docker(&["start", &id]));
            eventually("the shim's program", || (!shims.processes().is_empty()).then_some(()));
            shims.others_are_unharmed();
            shims.daemon.docker(&["rm", "-f", &id]).ok();
            let started = start.join().unwrap();
            assert_ne!(started.code, 0, "{}", started.out);
        });
        shims.no_traces();
    }
}

#[test]
fn a_shim_that_goes_wrong_later_ends_with_its_container() {
    let behaviours = ["die-running", "hang-running", "lie-kill", "hang-delete", "hang-shutdown"];
    let shims = Shims::new(&behaviours);
    let d = &shims.daemon;
    // It dies: the container with it, as with containerd.
    let id = shims.run("die-running", &["-d", "busybox", "sleep", "1000"]).ok();
    assert_eq!(d.docker(&["wait", &id]).ok(), "137");
    d.docker(&["rm", &id]).ok();
    shims.no_traces();
    // It stops answering: everything that needs it says so, everybody else is unharmed.
    let id = shims.run("hang-running", &["-d", "busybox", "sleep", "1000"]).ok();
    std::thread::scope(|scope| {
        let calls = [
            scope.spawn(|| d.docker(&["pause", &id])),
            scope.spawn(|| d.docker(&["stats", "--no-stream", &id])),
            scope.spawn(|| d.docker(&["kill", "-s", "USR1", &id])),
        ];
        shims.others_are_unharmed();
        for call in calls {
            let ran = call.join().unwrap();
            assert!(ran.err.contains("does not answer") || ran.out.contains("--"), "{} {}", ran.out, ran.err);
        }
    });
    d.docker(&["kill", &id]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", &id]).ok(), "exited 137");
    d.docker(&["rm", &id]).ok();
    for behaviour in ["lie-kill", "hang-delete", "hang-shutdown"] {
        let id = shims.run(behaviour, &["-d", "busybox", "sleep", "1000"]).ok();
        d.docker(&["rm", "-f", &id]).ok();
        shims.no_traces();
    }
}

/// The daemon lets a container go on past a shim that waits for just that.
#[test]
fn a_paused_container_goes_on_though_its_shim_is_stuck() {
    let mut shims = Shims::new(&["stuck-resume", "hang-resume"]);
    let stuck = shims.run("stuck-resume", &["-d", "busybox", "sleep", "1000"]).ok();
    let hung = shims.run("hang-resume", &["-d", "busybox", "sleep", "1000"]).ok();
    let d = &shims.daemon;
    let status = |id: &str| d.docker(&["inspect", "-f", "{{.State.Status}}", id]).ok();
    let state = |id: &str| {
        let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", id]).ok();
        let path = format!("wharf/{id}");
        let v1 = std::fs::read_to_string(format!("/sys/fs/cgroup/freezer/{path}/freezer.state"));
        let frozen = match v1 {
            Ok(state) => state.trim() != "THAWED",
            Err(_) => {
                std::fs::read_to_string(format!("/sys/fs/cgroup/{path}/cgroup.freeze")).unwrap().trim() == "1"
            }
        };
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        frozen
    };
    d.docker(&["pause", &stuck]).ok();
    assert!(state(&stuck));
    d.docker(&["unpause", &stuck]).ok();
    assert!(!state(&stuck));
    assert_eq!(status(&stuck), "running");
    // One that never answers: it stays as it was, and says so.
    d.docker(&["pause", &hung]).ok();
    d.docker(&["unpause", &hung]).fails(1, "the shim does not answer (Resume)");
    assert!(state(&hung));
    assert_eq!(status(&hung), "paused");
    shims.others_are_unharmed();
    // Both are stopped all the same: one by a user, one by the daemon's own end.
    d.docker(&["stop", "-t", "1", &hung]).ok();
    assert_eq!(status(&hung), "exited");
    d.docker(&["start", &hung]).ok();
    d.docker(&["pause", &hung]).ok();
    d.docker(&["pause", &stuck]).ok();
    shims.daemon.stop();
    shims.no_traces();
    for id in [&stuck, &hung] {
        assert!(!Path::new(&format!("/sys/fs/cgroup/freezer/wharf/{id}")).exists());
        assert!(!Path::new(&format!("/sys/fs/cgroup/wharf/{id}")).exists());
    }
    shims.daemon.restart();
    for id in [&stuck, &hung] {
        let shown = shims.daemon.docker(&["inspect", "-f", "{{.State.Status}} {{.State.Pid}}", id]).ok();
        assert_eq!(shown, "exited 0");
        shims.daemon.docker(&["rm", id]).ok();
    }
}

#[test]
fn daemon_and_keeper_may_die() {
    let mut shims = Shims::new(&["machine"]);
    let id = shims.run("machine", &["-d", "--name", "machine", "busybox", "sleep", "1000"]).ok();
    shims.daemon.crash();
    shims.daemon.restart();
    assert_eq!(shims.daemon.docker(&["inspect", "-f", "{{.State.Status}}", &id]).ok(), "running");
    shims.daemon.docker(&["kill", "-s", "HUP", &id]).ok();
    assert_eq!(shims.daemon.docker(&["wait", &id]).ok(), "129");
    // Its stand-in dies, which nobody but an administrator can make it: what it stood in for goes too.
    shims.daemon.docker(&["start", &id]).ok();
    let record = shims.bundle(&id).join("shim.json");
    assert!(record.exists());
    let shim = shims.processes().len();
    assert_eq!(shim, 1);
    let stand_in = parent_of(&shims.place.path().display().to_string());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stand_in), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(shims.daemon.docker(&["wait", &id]).ok(), "137");
    shims.daemon.docker(&["rm", &id]).ok();
    shims.no_traces();
}

/// The parent of the process whose command line begins so.
fn parent_of(beginning: &str) -> i32 {
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if line.starts_with(beginning) {
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap();
            let parent = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().to_owned();
            assert!(Path::new(&format!("/proc/{parent}")).exists());
            return parent.parse().unwrap();
        }
    }
    panic!("no process {beginning}");
}
