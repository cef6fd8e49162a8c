//! `wharf oci` with bundles, as containerd, podman and people use a runtime.

#![cfg(test)]

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use wharf_tests::bundle::{Place, args, text};
use wharf_tests::{bin_dir, eventually};

#[test]
fn limits_that_this_machine_does_not_allow_become_as_high_as_it_does() {
    let place = Place::default();
    let bundle = place.bundle("b", |c| {
        args(c, "ulimit -n");
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 1_048_576, "hard": 1_048_576}]);
        c["process"]["oomScoreAdj"] = (-900).into();
    });
    let said: u64 = place.ok(&["run", "--bundle", text(&bundle), "one"]).parse().unwrap();
    assert!(said > 0 && said <= 1_048_576, "{said}");
}

#[test]
fn the_life_of_a_bundle() {
    let place = Place::default();
    let bundle = place.bundle("b", |c| {
        args(c, "echo here > /out; while :; do sleep 1; done");
        c["root"]["readonly"] = false.into();
        c["annotations"] = json!({"a": "1"});
    });
    let pid_file = place.path("pid");
    place.ok(&["create", "--bundle", text(&bundle), "--pid-file", text(&pid_file), "one"]);
    assert_eq!(place.status("one"), "created");
    // Its program has not been executed.
    assert!(!bundle.join("rootfs/out").exists());
    let state: Value = serde_json::from_str(&place.ok(&["state", "one"])).unwrap();
    assert_eq!((&state["bundle"], &state["annotations"]["a"]), (&json!(text(&bundle)), &json!("1")));
    assert_eq!(state["pid"].to_string(), std::fs::read_to_string(&pid_file).unwrap());
    place.fails(&["create", "--bundle", text(&bundle), "one"], "container with given ID already exists");
    place.fails(&["delete", "one"], "cannot delete container one that is not stopped: created");
    place.ok(&["start", "one"]);
    eventually("the program", || bundle.join("rootfs/out").exists().then_some(()));
    assert_eq!(place.status("one"), "running");
    place.fails(&["start", "one"], "cannot start an already running container");
    let pids: Vec<i32> = serde_json::from_str(&place.ok(&["ps", "--format", "json", "one"])).unwrap();
    assert!(pids.contains(&i32::try_from(state["pid"].as_i64().unwrap()).unwrap()), "{pids:?}");
    assert!(place.ok(&["ps", "one"]).contains("PID"));
    let list: Value = serde_json::from_str(&place.ok(&["list", "--format", "json"])).unwrap();
    assert_eq!((&list[0]["id"], &list[0]["status"]), (&json!("one"), &json!("running")));
    assert!(place.ok(&["list"]).contains("running"));
    place.ok(&["pause", "one"]);
    assert_eq!(place.status("one"), "paused");
    place.fails(&["exec", "one", "true"], "cannot exec in a paused container");
    place.fails(&["pause", "one"], "container not running or created: paused");
    place.ok(&["resume", "one"]);
    assert_eq!(place.status("one"), "running");
    assert_eq!(
        place.ok(&["exec", "--cwd", "/etc", "-e", "X=y", "one", "sh", "-c", "pwd; echo $X; id -u; hostname"]),
        "/etc\ny\n0\nwharf"
    );
    let failed = place.oci(&["exec", "--user", "7:8", "one", "sh", "-c", "id -u; id -g; exit 9"]);
    assert_eq!((failed.status.code(), failed.stdout.as_slice()), (Some(9), &b"7\n8\n"[..]));
    place.fails(&["exec", "one", "nonsense"], "executable file not found in $PATH");
    place.ok(&["kill", "one", "KILL"]);
    eventually("the end", || (place.status("one") == "stopped").then_some(()));
    place.fails(&["kill", "one", "TERM"], "container not running");
    place.ok(&["delete", "one"]);
    place.fails(&["state", "one"], "does not exist");
    place.ok(&["delete", "--force", "one"]);
}

#[test]
fn run_stands_in_for_the_process() {
    let place = Place::default();
    let bundle = place.bundle("b", |c| args(c, "read line; echo got $line; echo err >&2; exit 42"));
    let mut child = place
        .command(&["run", "--bundle", text(&bundle), "one"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(42));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"got hello\n"[..], &b"err\n"[..]));
    assert_eq!(place.ok(&["list", "-q"]), "");
    // Signals go to the process.
    let bundle =
        place.bundle("c", |c| args(c, "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"));
    let mut child =
        place.command(&["run", "--bundle", text(&bundle), "two"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn what_the_configuration_says_holds() {
    let place = Place::default();
    let shared = place.path("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("f"), "of the host").unwrap();
    let bundle = place.bundle("b", |c| {
        args(c, "set -e; cat /m/f; echo; ! echo x > /m/g 2>/dev/null; ! echo x > /new 2>/dev/null; \
                 grep -q NoNewPrivs.*1 /proc/self/status; grep CapBnd /proc/self/status; ulimit -n; umask; id; \
                 cat /proc/sys/net/ipv4/ping_group_range; test -c /dev/extra; \
                 ! mkdir /tmp/x 2>/dev/null; ! cat /proc/keys | grep -q .; cat /proc/uptime");
        c["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/m", "type": "bind", "source": text(&shared), "options": ["bind", "ro"]}),
            json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}),
        ]);
        c["process"]["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o77});
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}]);
        c["linux"]["sysctl"] = json!({"net.ipv4.ping_group_range": "3 4"});
        c["linux"]["devices"] = json!([{"path": "/dev/extra", "type": "c", "major": 1, "minor": 3, "fileMode": 438}]);
        c["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
        });
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 10_000_000}});
    });
    let said = place.ok(&["run", "--bundle", text(&bundle), "one"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "of the host");
    assert_eq!(lines[1], "CapBnd:\t0000000020000420");
    assert_eq!(&lines[2..5], ["99", "0077", "uid=5 gid=6 groups=7"], "{said}");
    assert_eq!(lines[5], "3\t4");
    let uptime: f64 = lines[6].split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 10_000_000.0, "{said}");
}

#[test]
fn limits_are_set_and_changed() {
    let place = Place::default();
    let bundle = place.bundle("b", |c| {
        args(c, "sleep 1000");
        c["linux"]["resources"]["memory"] = json!({"limit": 50 << 20});
        c["linux"]["resources"]["pids"] = json!({"limit": 20});
    });
    place.ok(&["create", "--bundle", text(&bundle), "one"]);
    place.ok(&["start", "one"]);
    let read = |names: [&str; 2]| {
        let name = format!("{}-b", std::process::id());
        let found = Command::new("find")
            .args(["/sys/fs/cgroup", "-path", &format!("*wharf-oci-test/{name}/*")])
            .output()
            .unwrap();
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        let path = found
            .lines()
            .find(|l| names.iter().any(|n| l.ends_with(n)))
            .unwrap_or_else(|| panic!("{names:?} in {found}"));
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    let memory = ["/memory.limit_in_bytes", "/memory.max"];
    assert_eq!(read(memory), (50 << 20).to_string());
    place.ok(&["update", "--memory", "64m", "--memory-swap", "128m", "--pids-limit", "33", "one"]);
    assert_eq!((read(memory), read(["/pids.max", "/pids.max"])), ((64 << 20).to_string(), "33".to_owned()));
    let mut child = place.command(&["update", "-r", "-", "one"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(br#"{"pids": {"limit": 44}}"#).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(read(["/pids.max", "/pids.max"]), "44");
    place.fails(&["update", "--memory", "lots", "one"], "invalid value for memory");
    place.ok(&["delete", "--force", "one"]);
}

/// The other end of a console socket: takes the terminal, reads and types.
const CONSOLE: &str = r#"
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".new")
listener.listen(1)
os.rename(sys.argv[1] + ".new", sys.argv[1])
peer, _ = listener.accept()
_, fds, _, _ = socket.recv_fds(peer, 64, 1)
said = b""
while b"33 77" not in said:
    said += os.read(fds[0], 512)
os.write(fds[0], b"typed\n")
while b"got typed" not in said:
    said += os.read(fds[0], 512)
print(said.decode())
"#;

#[test]
fn a_terminal_is_sent_over_the_socket() {
    let place = Place::default();
    let bundle = place.bundle("b", |c| {
        args(c, "tty; stty size; read x; echo got $x; exit 5");
        c["process"]["terminal"] = true.into();
        c["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    });
    let socket = place.path("console");
    place.fails(&["create", "--bundle", text(&bundle), "one"], "without setting console socket");
    let mut other =
        Command::new("python3").args(["-c", CONSOLE, text(&socket)]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the console socket", || socket.exists().then_some(()));
    place.ok(&["create", "--bundle", text(&bundle), "--console-socket", text(&socket), "one"]);
    place.ok(&["start", "one"]);
    let mut said = String::new();
    other.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(other.wait().unwrap().success());
    assert!(said.contains("33 77") && said.contains("got typed"), "{said}");
    assert!(said.contains("/dev/pts/0") || said.contains("/dev/console"), "{said}");
    eventually("the end", || (place.status("one") == "stopped").then_some(()));
    place.ok(&["delete", "one"]);
}

#[test]
fn hooks_are_told_and_can_refuse() {
    let place = Place::default();
    let log = place.path("log");
    let hook = |name: &str, code: i32| {
        json!({"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >> {}; cat >> {}; echo >> {}; exit {code}", text(&log), text(&log), text(&log))],
               "env": ["PATH=/usr/bin:/bin"]})
    };
    let bundle = place.bundle("b", |c| {
        args(c, "true");
        c["hooks"] = json!({"prestart": [hook("prestart", 0)], "createRuntime": [hook("createRuntime", 0)],
                            "poststart": [hook("poststart", 0)], "poststop": [hook("poststop", 0)]});
    });
    place.ok(&["run", "--bundle", text(&bundle), "one"]);
    let told = std::fs::read_to_string(&log).unwrap();
    let order: Vec<&str> = told.lines().filter(|l| !l.starts_with('{') && !l.is_empty()).collect();
    assert_eq!(order, ["prestart", "createRuntime", "poststart", "poststop"], "{told}");
    let states: Vec<Value> =
        told.lines().filter(|l| l.starts_with('{')).map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&states[0]["status"], &states[3]["status"]), (&json!("creating"), &json!("stopped")));
    assert!(states[0]["pid"].as_i64().unwrap() > 0);
    let bundle = place.bundle("c", |c| {
        args(c, "true");
        c["hooks"] = json!({"createRuntime": [hook("no", 3)]});
    });
    place
        .fails(&["create", "--bundle", text(&bundle), "two"], "error running createRuntime hook #0: /bin/sh");
    assert_eq!(place.ok(&["list", "-q"]), "");
    let bundle = place.bundle("d", |c| {
        args(c, "true");
        c["hooks"] = json!({"prestart": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]});
    });
    place.fails(&["create", "--bundle", text(&bundle), "three"], "it took too long");
}

#[test]
fn bad_bundles_change_nothing() {
    let place = Place::default();
    place.fails(&["create", "--bundle", "/nonexistent", "one"], "bundle /nonexistent");
    place.fails(&["create", "--bundle", text(&place.path("")), "one"], "not found");
    for (n, (change, said)) in [
        ((|c| c["root"]["path"] = "missing".into()) as fn(&mut Value), "does not exist"),
        (|c| c["process"]["args"] = json!(["/no/such"]), "no such file or directory"),
        (|c| c["process"]["cwd"] = "rel".into(), "must be an absolute path"),
        (
            |c| {
                c["mounts"][0] =
                    json!({"destination": "/proc", "type": "bind", "source": "/etc", "options": ["bind"]})
            },
            "nothing may be mounted over this part of /proc",
        ),
        (|c| c["linux"]["seccomp"] = json!({"defaultAction": "NOPE"}), "unknown variant `NOPE`"),
        (|c| c["linux"]["namespaces"][1]["path"] = "/nonexistent/ns".into(), "namespace /nonexistent/ns"),
        (|c| c["ociVersion"] = "9.9".into(), "unsupported version"),
    ]
    .into_iter()
    .enumerate()
    {
        let bundle = place.bundle(&format!("b{n}"), change);
        place.fails(&["run", "--bundle", text(&bundle), "one"], said);
        assert_eq!(place.ok(&["list", "-q"]), "", "{said}");
    }
    let bundle = place.bundle("good", |_| {});
    for id in ["../x", "a/b", "", "."] {
        place.fails(&["create", "--bundle", text(&bundle), id], "invalid container ID format");
    }
    // Callers find the reason in the log.
    let log = place.path("log.json");
    let failed = place.oci(&["--log", text(&log), "--log-format", "json", "start", "nobody"]);
    assert!(!failed.status.success());
    let line: Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(
        (&line["level"], &line["msg"]),
        (&json!("error"), &json!("container \"nobody\" does not exist"))
    );
}

#[test]
fn a_created_container_whose_creator_is_gone_can_be_killed() {
    let place = Place::default();
    let bundle = place.bundle("b", |c| args(c, "sleep 100"));
    place.ok(&["create", "--bundle", text(&bundle), "one"]);
    place.ok(&["kill", "one", "9"]);
    eventually("the end", || (place.status("one") == "stopped").then_some(()));
    place.fails(&["start", "one"], "cannot start a container that has stopped");
    place.ok(&["delete", "one"]);
}

/// Its descriptors lead to the host: with one of a cgroup's directory in hand, all of its hierarchy could be reached.
#[test]
fn a_process_that_waits_to_be_started_cannot_be_looked_into() {
    let place = Place::default();
    let bundle = place.bundle("b", |c| args(c, "sleep 100"));
    place.ok(&["create", "--bundle", text(&bundle), "one"]);
    for look in
        ["ls -l /proc/1/fd", "ls /proc/1/fd/0/", "ls /proc/1/root/", "ls /proc/1/cwd/", "cat /proc/1/environ"]
    {
        let out = place.oci(&["exec", "one", "sh", "-c", look]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let shown = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(said.contains("Permission denied") && !shown.contains(" -> "), "{look}: {shown}{said}");
    }
    // Nor has it more than it needs.
    let state: Value = serde_json::from_str(&place.ok(&["state", "one"])).unwrap();
    let open: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", state["pid"]))
        .unwrap()
        .filter_map(|fd| Some(std::fs::read_link(fd.ok()?.path()).ok()?.display().to_string()))
        .collect();
    assert!(!open.iter().any(|path| path.starts_with("/sys") || path.contains("memfd")), "{open:?}");
    place.ok(&["start", "one"]);
    // It is a program as any other now.
    eventually("the program", || {
        place.oci(&["exec", "one", "ls", "/proc/1/root/"]).status.success().then_some(())
    });
    place.ok(&["delete", "--force", "one"]);
}

/// What holds a paused container's exec must not keep it from being let go on.
#[test]
fn an_exec_into_a_paused_container_runs_when_that_goes_on() {
    let place = Place::default();
    let bundle = place.bundle("b", |c| args(c, "sleep 100"));
    place.ok(&["create", "--bundle", text(&bundle), "one"]);
    place.ok(&["start", "one"]);
    place.ok(&["pause", "one"]);
    let exec = place
        .command(&["exec", "--ignore-paused", "one", "echo", "entered"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It is in the cgroup, and stands still there.
    eventually("the process", || {
        let pids: Vec<i32> = serde_json::from_str(&place.ok(&["ps", "--format", "json", "one"])).unwrap();
        (pids.len() > 1).then_some(())
    });
    place.ok(&["resume", "one"]);
    assert_eq!(exec.wait_with_output().unwrap().stdout, b"entered\n");
    place.ok(&["delete", "--force", "one"]);
}

/// Hooks that see the container's mounts from the host's side, and hooks that are the container's own programs.
#[test]
fn hooks_in_the_containers_mounts_and_in_the_container() {
    let place = Place::default();
    let seen = place.path("seen");
    let bundle = place.bundle("b", |c| {
        args(c, "cat /mnt/of-the-hook; echo $HOME");
        c["mounts"].as_array_mut().unwrap().push(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}));
        let script = format!(
            "read -r state; b=$(echo \"$state\" | sed 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/'); stat -f -c %T \"$b/rootfs/mnt\" > {0}; \
             echo by-a-hook > \"$b/rootfs/mnt/of-the-hook\"",
            text(&seen)
        );
        c["hooks"] = json!({
            "createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}],
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "read -r s; echo $s > /mnt/state; test $PPID = 0"]}],
        });
    });
    let out = place.ok(&["run", "--bundle", text(&bundle), "one"]);
    assert_eq!(out, "by-a-hook\n/root");
    assert_eq!(std::fs::read_to_string(&seen).unwrap().trim(), "tmpfs");
    // Nothing of it is mounted on the host.
    assert!(!bundle.join("rootfs/mnt/of-the-hook").exists());
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(text(&bundle)));

    for (moment, why) in [("createContainer", "exit status: 3"), ("startContainer", "exit status 3")] {
        let bundle = place.bundle(moment, |c| {
            args(c, "echo never");
            c["hooks"] = json!({(moment): [
                {"path": "/bin/true"},
                {"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]},
            ]});
        });
        let name = format!("of-{moment}");
        place.fails(&["run", "--bundle", text(&bundle), &name], &format!("error running {moment} hook #1"));
        place.fails(&["run", "--bundle", text(&bundle), &name], why);
        place.fails(&["state", &name], "does not exist");
    }
    let bundle = place.bundle("slow", |c| {
        c["hooks"] =
            json!({"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}]});
    });
    place.fails(&["run", "--bundle", text(&bundle), "slow"], "it took too long");
}

/// The file and its lines are what containerd and podman read.
#[test]
fn warnings_and_steps_are_logged() {
    let place = Place::default();
    let log = place.path("log");
    let bundle = place.bundle("b", |c| {
        args(c, "true");
        for set in ["bounding", "effective", "permitted", "ambient"] {
            c["process"]["capabilities"][set] = json!(["CAP_NEVER", "CAP_CHOWN"]);
        }
        c["process"]["capabilities"]["inheritable"] = json!([]);
    });
    place.ok(&[
        "--debug",
        "--log",
        text(&log),
        "--log-format",
        "json",
        "run",
        "--bundle",
        text(&bundle),
        "one",
    ]);
    let lines: Vec<Value> =
        std::fs::read_to_string(&log).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let has = |level: &str, text: &str| {
        lines.iter().any(|l| l["level"] == level && l["msg"].as_str().is_some_and(|m| m.contains(text)))
    };
    assert!(
        has("warning", "CAP_NEVER") && has("warning", "can't raise ambient capability CAP_CHOWN"),
        "{lines:?}"
    );
    assert!(has("debug", "sets the container up"), "{lines:?}");
    // Once, and not by every command from then on.
    assert_eq!(lines.iter().filter(|l| l.to_string().contains("CAP_NEVER")).count(), 1, "{lines:?}");
}

#[test]
fn features_and_version() {
    let place = Place::default();
    let features: Value = serde_json::from_str(&place.ok(&["features"])).unwrap();
    assert_eq!(features["ociVersionMax"], "1.2.1");
    assert!(features["linux"]["namespaces"].as_array().unwrap().contains(&json!("time")));
    assert!(place.ok(&["--version"]).contains("wharf"));
}

/// podman with this runtime.
#[test]
fn podman_runs_a_container_with_it() {
    let place = Place::default();
    let link = place.path("wharf-oci");
    std::os::unix::fs::symlink(bin_dir().join("wharf"), &link).unwrap();
    let bundle = place.bundle("b", |_| {});
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(place.path("podman")).arg("--runroot").arg(place.path("podman-run"));
        command
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime"])
            .arg(&link)
            .args(args);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let rootfs = bundle.join("rootfs");
    let (code, out, err) = podman(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--rootfs",
        text(&rootfs),
        "sh",
        "-c",
        "echo inside; exit 4",
    ]);
    assert_eq!((code, out.as_str()), (Some(4), "inside\n"), "{err}");

    // One that stays: entered, paused, changed, stopped.
    let ok = |args: &[&str]| {
        let (code, out, err) = podman(args);
        assert_eq!(code, Some(0), "{args:?}: {out}{err}");
        out.trim().to_owned()
    };
    ok(&[
        "run",
        "-d",
        "--name",
        "stays",
        "--network",
        "none",
        "--memory",
        "64m",
        "--rootfs",
        text(&rootfs),
        "sleep",
        "1000",
    ]);
    assert_eq!(ok(&["exec", "-e", "A=b", "stays", "sh", "-c", "echo $A $HOME"]), "b /root");
    let (code, _, err) = podman(&["exec", "stays", "no-such-program"]);
    assert_eq!(code, Some(127), "{err}");
    ok(&["pause", "stays"]);
    assert_eq!(ok(&["inspect", "--format", "{{.State.Status}}", "stays"]), "paused");
    ok(&["unpause", "stays"]);
    ok(&["stop", "-t", "0", "stays"]);
    assert_eq!(ok(&["inspect", "--format", "{{.State.ExitCode}}", "stays"]), "137");
    ok(&["rm", "stays"]);
    assert_eq!(ok(&["ps", "-aq"]), "");
}

#[test]
fn user_namespaces_and_mapped_mounts() {
    const FIRST: u32 = 1_500_000;
    let place = Place::default();
    let volume = place.path("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("f"), "f").unwrap();
    std::os::unix::fs::chown(volume.join("f"), Some(5), Some(6)).unwrap();
    let own = |config: &mut Value| {
        let map = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    };
    let bundle = place.bundle("one", |config| {
        own(config);
        config["process"]["capabilities"]["bounding"] = json!(["CAP_NET_ADMIN"]);
        config["process"]["capabilities"]["effective"] = json!(["CAP_NET_ADMIN"]);
        config["process"]["capabilities"]["permitted"] = json!(["CAP_NET_ADMIN"]);
        let source = volume.display().to_string();
        for (target, options) in [("/plain", json!(["bind"])), ("/mapped", json!(["bind", "idmap"]))] {
            let mount = json!({"destination": target, "type": "bind", "source": source, "options": options});
            config["mounts"].as_array_mut().unwrap().push(mount);
        }
        let other = json!([{"containerID": 5, "hostID": FIRST + 77, "size": 1}]);
        config["mounts"].as_array_mut().unwrap().push(json!({"destination": "/other", "type": "bind", "source": source,
            "options": ["rbind"], "uidMappings": other, "gidMappings": [{"containerID": 6, "hostID": FIRST + 78, "size": 1}]}));
        args(
            config,
            "cat /proc/self/uid_map; stat -c %u:%g /plain/f /mapped/f /other/f /dev/null; ip link set lo mtu 1300 && cat /sys/class/net/lo/mtu; \
             cat /proc/1/cgroup | wc -l; echo x > /proc/sys/kernel/core_pattern",
        );
    });
    // The root file system is whose the caller says, as with every runtime.
    let chowned =
        Command::new("chown").args(["-R", &format!("{FIRST}:{FIRST}")]).arg(bundle.join("rootfs")).status();
    assert!(chowned.unwrap().success());
    let out = place.oci(&["run", "--bundle", text(&bundle), "one"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(
        words.get(..8),
        Some(&["0", "1500000", "65536", "65534:65534", "5:6", "77:78", "0:0", "1300"][..]),
        "{said}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(!out.status.success(), "the host's core pattern is out of reach");
    // One that runs is joined with its user namespace.
    let bundle = place.bundle("two", |config| {
        own(config);
        args(config, "sleep 1000");
    });
    let chowned =
        Command::new("chown").args(["-R", &format!("{FIRST}:{FIRST}")]).arg(bundle.join("rootfs")).status();
    assert!(chowned.unwrap().success());
    place.ok(&["run", "--detach", "--bundle", text(&bundle), "two"]);
    let inside = place.ok(&["exec", "two", "sh", "-c", "cat /proc/self/uid_map; id -u"]);
    assert_eq!(inside.split_whitespace().collect::<Vec<_>>(), ["0", "1500000", "65536", "0"]);
    let state: Value = serde_json::from_str(&place.ok(&["state", "two"])).unwrap();
    // Another one joins the namespace by its path.
    let path = format!("/proc/{}/ns/user", state["pid"]);
    let bundle = place.bundle("three", |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user", "path": path}));
        args(config, "readlink /proc/self/ns/user");
    });
    let chowned =
        Command::new("chown").args(["-R", &format!("{FIRST}:{FIRST}")]).arg(bundle.join("rootfs")).status();
    assert!(chowned.unwrap().success());
    let joined = place.ok(&["run", "--bundle", text(&bundle), "three"]);
    assert_eq!(joined, std::fs::read_link(&path).unwrap().display().to_string());
    // What makes no sense is said before anything is made.
    let bad = |name: &str, change: &dyn Fn(&mut Value), said: &str| {
        let bundle = place.bundle(name, |config| change(config));
        place.fails(&["run", "--bundle", text(&bundle), name], said);
    };
    bad(
        "b1",
        &|c| c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 1}]),
        "user namespace isn't enabled",
    );
    bad(
        "b2",
        &|c| c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"})),
        "mappings have no place for uid 0",
    );
    bad(
        "b3",
        &|c| {
            c["mounts"].as_array_mut().unwrap().push(
                json!({"destination": "/x", "type": "bind", "source": "/tmp", "options": ["bind", "idmap"]}),
            );
        },
        "idmap without mappings needs a user namespace",
    );
}
