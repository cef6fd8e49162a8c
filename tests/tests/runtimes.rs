//! `--runtime`: other runtimes through the same keeper. One body for the engine's own, runc, crun and `wharf oci`, and runc and crun
//! behind containerd's shim.

#![cfg(test)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use wharf_tests::runtimes::{RUNTIMES, Using, config, no_traces, path_with_shim};
use wharf_tests::{Daemon, Options, bin_dir, eventually};

fn with(config: &Value) -> Daemon {
    let daemon = Daemon::with(Options {
        config: Some(config.to_string()),
        env: vec![("PATH".into(), path_with_shim())],
        ..Options::default()
    });
    daemon.import_busybox();
    daemon
}

fn each(body: impl Fn(&Using<'_>)) {
    let daemon = with(&config());
    for runtime in RUNTIMES {
        body(&Using { daemon: &daemon, runtime });
    }
    for id in daemon.docker(&["ps", "-aq"]).ok().split_whitespace() {
        daemon.docker(&["rm", "-f", id]).ok();
    }
    no_traces(&daemon);
}

#[test]
fn a_container_is_as_it_was_asked_for() {
    each(|u| {
        assert_eq!(u.once(&["busybox", "echo", "hello"]), "hello");
        u.run(&["--rm", "--network", "none", "busybox", "sh", "-c", "exit 7"]).fails(7, "");
        let piped = u.daemon.docker_with_input(
            &["run", "--rm", "-i", "--runtime", u.runtime, "--network", "none", "busybox", "cat"],
            b"through",
        );
        assert_eq!(piped.ok(), "through");
        let script = "id -u; id -g; pwd; echo $VAR; hostname; ulimit -n; grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status";
        let of = |runtime: &str| {
            let args = [
                "run",
                "--rm",
                "--runtime",
                runtime,
                "--network",
                "none",
                "--user",
                "5:6",
                "--workdir",
                "/tmp/w",
                "-e",
                "VAR=x",
                "--hostname",
                "h",
                "--ulimit",
                "nofile=100:200",
                "--cap-add",
                "NET_ADMIN",
                "--security-opt",
                "no-new-privileges",
                "busybox",
                "sh",
                "-c",
                script,
            ];
            u.daemon.docker(&args).ok()
        };
        assert_eq!(of(u.runtime), of("runc"));
        // Limits, as the container sees its own cgroup.
        let limits = u.once(&[
            "--memory", "64m", "--pids-limit", "50", "--cpu-shares", "300", "busybox", "sh", "-c",
            "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes pids/pids.max cpu/cpu.shares 2>/dev/null || cat memory.max pids.max",
        ]);
        assert!(limits.starts_with("67108864\n50"), "{limits}");
        assert_eq!(u.once(&["--read-only", "busybox", "sh", "-c", "touch /x 2>/dev/null; echo $?"]), "1");
        assert_eq!(u.once(&["--init", "busybox", "sh", "-c", "test $$ != 1 && echo own"]), "own");
        assert_eq!(
            u.once(&[
                "--device",
                "/dev/null:/dev/mine",
                "busybox",
                "sh",
                "-c",
                "echo x > /dev/mine; echo $?"
            ]),
            "0"
        );
        let privileged = u.once(&["--privileged", "busybox", "grep", "Seccomp:", "/proc/self/status"]);
        assert!(privileged.ends_with('0'), "{privileged}");
        assert!(
            u.once(&["busybox", "sh", "-c", "cat /proc/keys | wc -c; ls -ld /proc/sys"]).starts_with('0')
        );
        // Nothing of the host's file system, and no descriptor, came in.
        let look = [
            "run",
            "--rm",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "grep -c wharf-test /proc/mounts; ls /proc/self/fd | wc -l",
        ];
        let inside = u.once(&look[4..]);
        assert_eq!(inside, u.daemon.docker(&look).ok());
        let shown = u.run(&["-d", "--network", "none", "busybox", "true"]).ok();
        assert_eq!(u.daemon.docker(&["inspect", "-f", "{{.HostConfig.Runtime}}", &shown]).ok(), u.runtime);
    });
}

#[test]
fn volumes_and_terminals() {
    let work = tempfile::tempdir().unwrap();
    std::fs::write(work.path().join("f"), "of the host\n").unwrap();
    let bind = format!("{}:/b:ro", work.path().display());
    let file = format!("{}/f:/one", work.path().display());
    each(|u| {
        let volume = format!("v-{}", u.runtime);
        let mounts = ["-v", &bind, "-v", &file, "-v", &format!("{volume}:/v"), "--tmpfs", "/t:size=1m"];
        let text = u.once(
            &[
                &mounts[..],
                &[
                    "busybox",
                    "sh",
                    "-c",
                    "cat /b/f /one; touch /b/x 2>/dev/null; echo $?; echo kept > /v/f; df /t | tail -1",
                ],
            ]
            .concat(),
        );
        assert!(text.starts_with("of the host\nof the host\n1\n") && text.contains(" 1024 "), "{text}");
        assert_eq!(u.once(&["-v", &format!("{volume}:/v"), "busybox", "cat", "/v/f"]), "kept");
        // The mounts are nowhere in the host's table while it runs.
        let id = u
            .run(&[
                "-d",
                "-t",
                "--network",
                "none",
                "-v",
                &bind,
                "busybox",
                "sh",
                "-c",
                "tty; stty size; sleep 1000",
            ])
            .ok();
        let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!host.contains(&id) && !host.contains("exec/oci"), "{host}");
        eventually("the terminal's output", || {
            u.daemon.docker(&["logs", &id]).out.contains("/dev/").then_some(())
        });
        let resized = u.daemon.api("POST", &format!("/containers/{id}/resize?h=33&w=77"), "");
        assert_eq!(resized.status, 200, "{}", resized.message());
        let size = || {
            u.daemon
                .docker(&["exec", &id, "sh", "-c", "stty size < /dev/console || stty size < /proc/1/fd/0"])
                .out
        };
        eventually("the terminal's new size", || size().contains("33 77").then_some(()));
        u.daemon.docker(&["rm", "-f", &id]).ok();
        u.daemon.docker(&["volume", "rm", &volume]).ok();
    });
}

#[test]
fn a_life_from_start_to_end() {
    each(|u| {
        let d = u.daemon;
        let id = u
            .run(&[
                "-d",
                "--network",
                "none",
                "--memory",
                "64m",
                "--health-cmd",
                "test -e /healthy",
                "--health-interval",
                "100ms",
                "busybox",
                "sh",
                "-c",
                "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done",
            ])
            .ok();
        eventually("its output", || d.docker(&["logs", &id]).out.contains("up").then_some(()));
        assert_eq!(
            d.docker(&["exec", "-e", "A=b", "-u", "7", &id, "sh", "-c", "echo $A $(id -u); exit 4"])
                .fails(4, "b 7")
                .code,
            4
        );
        d.docker(&["exec", &id, "nosuch"]).fails(127, "nosuch");
        assert_eq!(d.docker_with_input(&["exec", "-i", &id, "cat"], b"in").ok(), "in");
        d.docker(&["exec", &id, "touch", "/healthy"]).ok();
        eventually("health", || {
            (d.docker(&["inspect", "-f", "{{.State.Health.Status}}", &id]).out.trim() == "healthy")
                .then_some(())
        });
        assert!(d.docker(&["top", &id]).ok().contains("sleep 0.1"));
        d.docker(&["pause", &id]).ok();
        d.docker(&["exec", &id, "true"]).fails(1, "is paused");
        assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", &id]).ok(), "paused");
        d.docker(&["unpause", &id]).ok();
        d.docker(&["update", "--memory", "96m", "--memory-swap", "96m", &id]).ok();
        let limit =
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
        assert_eq!(d.docker(&["exec", &id, "sh", "-c", limit]).ok(), (96 << 20).to_string());
        let stats: Value =
            serde_json::from_str(&d.docker(&["stats", "--no-stream", "--format", "{{json .}}", &id]).ok())
                .unwrap();
        assert_eq!(stats["MemUsage"].as_str().unwrap().rsplit(' ').next(), Some("96MiB"));
        d.docker(&["stop", "-t", "20", &id]).ok();
        assert_eq!(d.docker(&["inspect", "-f", "{{.State.ExitCode}}", &id]).ok(), "3");
        // The same container again, and an end by force, also of a paused one.
        d.docker(&["start", &id]).ok();
        d.docker(&["restart", "-t", "20", &id]).ok();
        d.docker(&["pause", &id]).ok();
        d.docker(&["kill", &id]).ok();
        assert_eq!(d.docker(&["wait", &id]).ok(), "137");
        let again = u
            .run(&["-d", "--network", "none", "--restart", "on-failure:2", "busybox", "sh", "-c", "exit 5"])
            .ok();
        eventually("two restarts", || {
            let shown = d
                .docker(&["inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", &again])
                .out;
            (shown.trim() == "2 exited 5").then_some(())
        });
    });
}

/// A process that is frozen while it is made holds up runc's shim, which then does not resume it either.
#[test]
fn pauses_while_execs_are_made() {
    each(|u| {
        let d = u.daemon;
        let id = u.run(&["-d", "--network", "none", "busybox", "sleep", "1000"]).ok();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::SeqCst) {
                        let ran = d.docker(&["exec", &id, "true"]);
                        assert!(
                            ran.code == 0
                                || ["is paused", "received 409"].iter().any(|t| ran.err.contains(t)),
                            "{ran:?}"
                        );
                    }
                });
            }
            for _ in 0..10 {
                d.docker(&["pause", &id]).ok();
                d.docker(&["unpause", &id]).ok();
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        assert_eq!(d.docker(&["exec", &id, "echo", "still"]).ok(), "still");
        d.docker(&["rm", "-f", &id]).ok();
    });
}

/// The daemon ends in order, and the keeper with it, while all of them are paused.
#[test]
fn an_end_in_order_with_paused_containers_leaves_nothing() {
    let mut daemon = with(&config());
    let mut paused = Vec::new();
    for runtime in RUNTIMES {
        let args = [
            "run",
            "-d",
            "--runtime",
            runtime,
            "--network",
            "none",
            "--stop-timeout",
            "1",
            "busybox",
            "sleep",
            "1000",
        ];
        let id = daemon.docker(&args).ok();
        daemon.docker(&["pause", &id]).ok();
        paused.push(id);
    }
    daemon.stop();
    no_traces(&daemon);
    let processes = || -> Vec<String> {
        let lines = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = lines.filter_map(|p| std::fs::read_to_string(p.path().join("cmdline")).ok());
        lines.filter(|line| paused.iter().any(|id| line.contains(id.as_str()))).collect()
    };
    eventually("shims to be gone", || processes().is_empty().then_some(()));
    for controller in ["freezer", "memory", "pids", ""] {
        for id in &paused {
            let cgroup = format!("/sys/fs/cgroup/{controller}/wharf/{id}");
            assert!(!std::path::Path::new(&cgroup).exists(), "{cgroup}");
        }
    }
    daemon.restart();
    for id in &paused {
        assert_eq!(
            daemon.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id]).ok(),
            "exited 137"
        );
        daemon.docker(&["start", id]).ok();
        daemon.docker(&["rm", "-f", id]).ok();
    }
}

#[test]
fn networks() {
    each(|u| {
        let d = u.daemon;
        let serve = "while :; do echo page | nc -l -p 80; done";
        let one = u.run(&["-d", "busybox", "sh", "-c", serve]).ok();
        let format = "{{.NetworkSettings.Networks.bridge.IPAddress}}";
        let address = d.docker(&["inspect", "-f", format, &one]).ok();
        let page = || u.run(&["--rm", "busybox", "nc", "-w", "5", &address, "80"]);
        eventually("a page from one container to the other", || (page().out.trim() == "page").then_some(()));
        let of = format!("container:{one}");
        let look = "nc -w 5 127.0.0.1 80; grep -c 'nc -l' /proc/1/cmdline";
        let joined = u.run(&["--rm", "--network", &of, "--pid", &of, "busybox", "sh", "-c", look]).ok();
        assert_eq!(joined, "page\n1");
        d.docker(&["rm", "-f", &one]).ok();
    });
}

#[test]
fn what_cannot_be_started_says_so_and_leaves_nothing() {
    each(|u| {
        let run = |program: &str| u.run(&["--name", "failing", "--network", "none", "busybox", program]);
        run("nosuch").fails(127, "nosuch");
        u.daemon.docker(&["rm", "failing"]).ok();
        run("/etc/hostname").fails(126, "ermission denied");
        u.daemon.docker(&["rm", "failing"]).ok();
        u.run(&["--init", "--rm", "--network", "none", "busybox", "nosuch"]).fails(127, "");
    });
}

#[test]
fn kill_9_of_the_daemon_loses_nothing() {
    let mut daemon = with(&config());
    let mut running = Vec::new();
    for runtime in RUNTIMES {
        let script = "echo up; while ! test -e /go; do sleep 0.05; done; echo down; exit 9";
        let id = daemon
            .docker(&["run", "-d", "--runtime", runtime, "--network", "none", "busybox", "sh", "-c", script])
            .ok();
        running.push(id);
    }
    daemon.crash();
    daemon.restart();
    for id in &running {
        assert_eq!(daemon.docker(&["inspect", "-f", "{{.State.Status}}", id]).ok(), "running");
        daemon.docker(&["exec", id, "touch", "/go"]).ok();
        assert_eq!(daemon.docker(&["wait", id]).ok(), "9");
        assert_eq!(daemon.docker(&["logs", id]).ok(), "up\ndown");
        daemon.docker(&["start", id]).ok();
    }
    // They end while nobody is there to see it.
    daemon.crash();
    std::thread::sleep(std::time::Duration::from_millis(500));
    daemon.restart();
    for id in &running {
        assert_eq!(daemon.docker(&["wait", id]).ok(), "9");
        daemon.docker(&["rm", id]).ok();
    }
    no_traces(&daemon);
}

#[test]
fn processes_that_lose_their_parent_are_reaped() {
    let daemon = with(&config());
    daemon.docker(&["run", "--rm", "--runtime", "debian-runc", "--network", "none", "busybox", "true"]).ok();
    // In the host's pid namespace an orphan becomes the keeper's.
    daemon
        .docker(&[
            "run",
            "--rm",
            "--pid",
            "host",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "(sleep 0.2 &) ; sleep 0.1",
        ])
        .ok();
    let keeper = daemon_keeper(&daemon);
    eventually("no zombies of the keeper", || zombies(keeper).is_empty().then_some(()));
}

/// The keeper of this daemon's directory.
fn daemon_keeper(daemon: &Daemon) -> i32 {
    let exec = daemon.path("exec").display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
    let mut keepers = pids.filter(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("\0keeper\0") && line.contains(&exec)
    });
    keepers.next().expect("a keeper")
}

fn zombies(parent: i32) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        fields.first() == Some(&"Z") && fields.get(1) == Some(&parent.to_string().as_str())
    })
    .collect()
}

#[test]
fn only_the_administrator_names_runtimes() {
    let mut own = config();
    let daemon = with(&own);
    for name in ["nosuch", "/bin/sh", "../../bin/sh"] {
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Runtime": name}});
        let refused = daemon.api("POST", "/containers/create", &body.to_string());
        let text = format!("unknown or invalid runtime name: {name}");
        assert_eq!((refused.status, refused.message()), (400, text));
    }
    let info: Value = serde_json::from_str(&daemon.api("GET", "/info", "").text()).unwrap();
    assert_eq!(info["DefaultRuntime"], "runc");
    assert_eq!(info["Runtimes"]["crun"]["path"], "/usr/bin/crun");
    assert_eq!(info["Runtimes"]["wharf-oci"]["runtimeArgs"], json!(["oci"]));
    assert_eq!(info["Runtimes"]["shim-runc"], json!({}));
    eventually("what a runtime can do", || {
        let info: Value = serde_json::from_str(&daemon.api("GET", "/info", "").text()).unwrap();
        let status = info["Runtimes"]["debian-runc"]["status"]["org.opencontainers.runtime-spec.features"]
            .as_str()?
            .to_owned();
        let features: Value = serde_json::from_str(&status).ok()?;
        features["linux"]["namespaces"].as_array().map(drop)
    });
    // Live: another default, one runtime less. A container of that one runs on and can be ended.
    let id = daemon
        .docker(&["run", "-d", "--runtime", "crun", "--network", "none", "busybox", "sleep", "1000"])
        .ok();
    own["default-runtime"] = json!("debian-runc");
    own["runtimes"].as_object_mut().unwrap().remove("crun");
    std::fs::write(daemon.path("daemon.json"), own.to_string()).unwrap();
    kill(Pid::from_raw(daemon.pid()), Signal::SIGHUP).unwrap();
    eventually("the reload", || {
        (daemon.docker(&["info", "-f", "{{.DefaultRuntime}}"]).out.trim() == "debian-runc").then_some(())
    });
    let other = daemon.docker(&["run", "-d", "--network", "none", "busybox", "sleep", "1000"]).ok();
    assert_eq!(daemon.docker(&["inspect", "-f", "{{.HostConfig.Runtime}}", &other]).ok(), "debian-runc");
    assert_eq!(daemon.docker(&["exec", &id, "echo", "still"]).ok(), "still");
    daemon.docker(&["kill", &id]).ok();
    daemon.docker(&["start", &id]).fails(1, "unknown or invalid runtime name: crun");
    daemon.docker(&["rm", "-f", &id, &other]).ok();
    no_traces(&daemon);
}

#[test]
fn a_runtime_that_fails_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("broken");
    std::fs::write(
        &script,
        "#!/bin/sh\necho '{\"level\":\"error\",\"msg\":\"the moon is wrong\"}' > \"$4\"\nexit 1\n",
    )
    .unwrap();
    std::process::Command::new("chmod").arg("755").arg(&script).status().unwrap();
    let daemon =
        with(&json!({"runtimes": {"broken": {"path": script}, "absent": {"path": "/nonexistent/runtime"}}}));
    let run = |runtime: &str| {
        daemon.docker(&["run", "--rm", "--runtime", runtime, "--network", "none", "busybox", "true"])
    };
    run("broken").fails(125, "OCI runtime create failed: the moon is wrong");
    run("absent").fails(127, "/nonexistent/runtime: no such file or directory");
    no_traces(&daemon);
    // What is wrong with a configuration is said before anything starts.
    for (runtimes, text) in [
        (json!({"x": {}}), "runtime x: either a runtimeType or a path must be configured"),
        (json!({"x": {"path": "/x", "runtimeType": "y"}}), "cannot configure both path and runtimeType"),
        (
            json!({"x": {"runtimeType": "io.containerd.kata.v2", "options": {"Path": "x"}}}),
            "runtime x: unknown option Path",
        ),
        (json!({"x": {"runtimeType": "nonsense"}}), "runtime x: invalid runtime type: nonsense"),
        (
            json!({"x": {"runtimeType": "io.containerd.kata.v2", "runtimeArgs": ["x"]}}),
            "args cannot be used with a runtimeType runtime",
        ),
        (json!({"x": {"path": "/x", "options": {"a": 1}}}), "options cannot be used with a path runtime"),
    ] {
        let file = dir.path().join("daemon.json");
        std::fs::write(&file, json!({"runtimes": runtimes}).to_string()).unwrap();
        let mut command = std::process::Command::new(bin_dir().join("wharf"));
        command.args(["daemon", "--validate", "--config-file"]).arg(&file);
        daemon.run_with_input(command, b"").fails(125, text);
    }
}

#[test]
fn kill_9_of_the_keeper_loses_no_container() {
    let mut daemon = with(&config());
    let mut running = Vec::new();
    for runtime in RUNTIMES {
        let script = "echo up; while ! test -e /go; do sleep 0.05; done; echo down; exit 9";
        let args = ["run", "-d", "--runtime", runtime, "--network", "none", "busybox", "sh", "-c", script];
        let id = daemon.docker(&args).ok();
        let pid = daemon.docker(&["inspect", "-f", "{{.State.Pid}}", &id]).ok();
        running.push((id, pid));
    }
    kill(Pid::from_raw(daemon_keeper(&daemon)), Signal::SIGKILL).unwrap();
    daemon.crash();
    daemon.restart();
    for (id, pid) in &running {
        let shown = daemon.docker(&["inspect", "-f", "{{.State.Status}} {{.State.Pid}}", id]).ok();
        assert_eq!(shown, format!("running {pid}"));
        assert_eq!(daemon.docker(&["exec", id, "echo", "still"]).ok(), "still");
        daemon.docker(&["exec", id, "touch", "/go"]).ok();
        eventually("its end", || {
            (daemon.docker(&["inspect", "-f", "{{.State.Status}}", id]).ok() == "exited").then_some(())
        });
        // And one that is to be ended by force.
        daemon.docker(&["start", id]).ok();
        daemon.docker(&["rm", "-f", id]).ok();
    }
    no_traces(&daemon);
}

/// Whether the kernel tells how a process has ended that is nobody's child here (Linux 6.15).
fn ends_are_told() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|n| n.trim().parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
}

/// The daemon lives, so it has another keeper at once, which finds what the last one had.
#[test]
fn kill_9_of_the_keeper_alone() {
    let daemon = with(&config());
    let script = "trap 'exit 5' TERM; echo up; while ! test -e /go; do sleep 0.05; done; echo down; exit 9";
    let mut running = Vec::new();
    for runtime in RUNTIMES {
        let run = |more: &[&str]| {
            let first = ["run", "-d", "--runtime", runtime, "--network", "none"];
            daemon.docker(&[&first, more, &["busybox", "sh", "-c", script]].concat()).ok()
        };
        running.push((
            runtime,
            run(&[]),
            run(&["--stop-timeout", "20"]),
            run(&["--restart", "on-failure:1"]),
        ));
    }
    let old = daemon_keeper(&daemon);
    // An exec under way, too.
    let under_way =
        daemon.docker_command(&["exec", &running[1].1, "sh", "-c", "sleep 1; exit 3"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    eventually("another keeper", || {
        let exec = daemon.docker(&["exec", &running[0].1, "echo", "still"]);
        (exec.code == 0 && exec.out.trim() == "still").then_some(())
    });
    assert_ne!(daemon_keeper(&daemon), old);
    // It comes to an end, whatever its client is told of that.
    drop(under_way.wait_with_output().unwrap());
    let told = ends_are_told();
    for (runtime, ends, stopped, again) in &running {
        let state = |id: &str| {
            daemon
                .docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}", id])
                .ok()
        };
        for id in [ends, stopped, again] {
            assert_eq!(state(id), "running 0 0", "{runtime}");
            assert_eq!(daemon.docker(&["exec", id, "echo", "still"]).ok(), "still", "{runtime}");
        }
        for id in [ends, again] {
            // The container may end before the exec does.
            daemon.docker(&["exec", id, "touch", "/go"]);
        }
        let code = daemon.docker(&["wait", ends]).ok();
        if told {
            assert_eq!(code, "9", "{runtime}");
        }
        assert_eq!(daemon.docker(&["logs", ends]).ok(), "up\ndown", "{runtime}");
        // The policy brings it back once: it finds /go and ends again.
        eventually("an end after a restart", || (state(again) == "exited 9 1").then_some(()));
        daemon.docker(&["stop", stopped]).ok();
        let shown = state(stopped);
        assert!(shown.starts_with("exited") && (!told || shown == "exited 5 0"), "{runtime}: {shown}");
        // All of them can be started anew, and removed by force.
        daemon.docker(&["start", stopped]).ok();
        daemon.docker(&["rm", "-f", ends, stopped, again]).ok();
    }
    no_traces(&daemon);
    let keeper = daemon_keeper(&daemon);
    eventually("no zombies of the keeper", || zombies(keeper).is_empty().then_some(()));
}
