//! The life of containers through the stock docker CLI.

use wharf_tests::{Daemon, eventually};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn detached(d: &Daemon, name: &str, args: &[&str]) -> String {
    d.docker(&[&["run", "-d", "--name", name, "--network", "none"], args].concat()).ok()
}

#[test]
fn ps_lists_and_filters() {
    let d = daemon();
    let id = detached(&d, "one", &["--label", "team=blue", "busybox", "sleep", "600"]);
    detached(&d, "two", &["busybox", "true"]);
    d.docker(&["wait", "two"]).ok();
    let names = |args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--format", "{{.Names}}"]);
        d.docker(&all).ok()
    };
    assert_eq!(names(&["ps"]), "one");
    assert_eq!(names(&["ps", "-a"]), "two\none");
    assert_eq!(names(&["ps", "-a", "--filter", "label=team=blue"]), "one");
    assert_eq!(names(&["ps", "-a", "--filter", "status=exited"]), "two");
    assert_eq!(names(&["ps", "-a", "--filter", "name=^tw"]), "two");
    assert_eq!(names(&["ps", "-a", "--filter", "exited=0"]), "two");
    assert_eq!(names(&["ps", "-a", "--filter", &format!("id={}", &id[..8])]), "one");
    assert_eq!(names(&["ps", "-a", "--filter", "ancestor=busybox"]), "two\none");
    assert_eq!(names(&["ps", "-n", "1"]), "two");
    let line =
        d.docker(&["ps", "--no-trunc", "--format", "{{.ID}} {{.Image}} {{.Command}} {{.Status}}"]).ok();
    assert!(line.starts_with(&format!("{id} busybox \"sleep 600\" Up")), "{line}");
    d.docker(&["ps", "--filter", "nonsense=1"]).fails(1, "invalid filter 'nonsense'");
}

#[test]
fn logs_tail_since_timestamps_and_follow() {
    let d = daemon();
    detached(
        &d,
        "talk",
        &[
            "busybox",
            "sh",
            "-c",
            "for i in 1 2 3 4 5; do echo line $i; done; sleep 0.3; echo problem >&2; sleep 0.3; echo -n end",
        ],
    );
    d.docker(&["wait", "talk"]).ok();
    let ran = d.docker(&["logs", "talk"]);
    assert_eq!(ran.out, "line 1\nline 2\nline 3\nline 4\nline 5\nend");
    assert_eq!(ran.err, "problem\n");
    let tail = d.docker(&["logs", "--tail", "2", "talk"]);
    assert_eq!(format!("{}{}", tail.err, tail.out), "problem\nend");
    let stamped = d.docker(&["logs", "-t", "--tail", "1", "talk"]).out;
    let (time, text) = stamped.split_once(' ').unwrap();
    assert!(
        time.ends_with('Z') && time.len() == "2024-01-01T00:00:00.000000000Z".len() && text == "end",
        "{stamped}"
    );
    assert_eq!(d.docker(&["logs", "--since", "1h", "--tail", "all", "talk"]).out.lines().count(), 6);
    assert_eq!(d.docker(&["logs", "--until", "1h", "talk"]).out, "");
    // Following a container that ends, ends.
    detached(&d, "slow", &["busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done"]);
    assert_eq!(d.docker(&["logs", "-f", "slow"]).out, "1\n2\n3\n");
    d.docker(&["logs", "nobody"]).fails(1, "No such container: nobody");
}

#[test]
fn inspect_has_the_shapes_that_clients_rely_on() {
    let d = daemon();
    let id = detached(&d, "seen", &["-e", "A=b", "--label", "l=m", "busybox", "sleep", "600"]);
    let all: serde_json::Value = serde_json::from_str(&d.docker(&["inspect", "seen"]).ok()).unwrap();
    let c = &all[0];
    assert_eq!(c["Id"], id.as_str());
    assert_eq!(c["Name"], "/seen");
    assert_eq!(c["State"]["Status"], "running");
    assert_eq!(c["State"]["FinishedAt"], "0001-01-01T00:00:00Z");
    assert!(c["State"]["Pid"].as_i64().unwrap() > 1);
    assert!(c["State"].get("Health").is_none_or(serde_json::Value::is_null));
    assert_eq!(c["Config"]["Cmd"], serde_json::json!(["sleep", "600"]));
    assert_eq!(c["Config"]["Image"], "busybox");
    assert!(c["Image"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(c["HostConfig"]["NetworkMode"], "none");
    assert_eq!(c["HostConfig"]["RestartPolicy"], serde_json::json!({"Name": "no", "MaximumRetryCount": 0}));
    assert_eq!(c["HostConfig"]["LogConfig"]["Type"], "json-file");
    assert_eq!(c["HostConfig"]["ShmSize"], 67_108_864);
    assert_eq!(c["HostConfig"]["IpcMode"], "private");
    assert_eq!(c["Mounts"], serde_json::json!([]));
    assert!(c["NetworkSettings"]["Networks"]["none"].is_object());
    assert!(c["NetworkSettings"]["Ports"].is_object());
    assert!(c["Config"]["Env"].as_array().unwrap().iter().any(|e| e == "A=b"));
    d.docker(&["inspect", "nobody"]).fails(1, "No such object: nobody");
}

#[test]
fn exec_runs_in_the_container() {
    let d = daemon();
    detached(&d, "box", &["-e", "FROM=container", "busybox", "sh", "-c", "touch /made; sleep 600"]);
    eventually("the file", || (d.docker(&["exec", "box", "ls", "/made"]).code == 0).then_some(()));
    assert_eq!(d.docker(&["exec", "box", "sh", "-c", "echo $FROM"]).ok(), "container");
    assert_eq!(
        d.docker(&[
            "exec",
            "-e",
            "X=1",
            "-w",
            "/tmp",
            "-u",
            "user",
            "box",
            "sh",
            "-c",
            "echo $X $PWD $(id -u)"
        ])
        .ok(),
        "1 /tmp 1000"
    );
    d.docker(&["exec", "box", "sh", "-c", "exit 42"]).fails(42, "");
    let ran = d.docker(&["exec", "box", "sh", "-c", "echo o; echo e >&2"]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("o\n", "e\n"));
    assert_eq!(d.docker_with_input(&["exec", "-i", "box", "tr", "a-z", "A-Z"], b"shout").ok(), "SHOUT");
    d.docker(&["exec", "box", "nothing-here"]).fails(127, "executable file not found in $PATH");
    d.docker(&["exec", "-d", "box", "sh", "-c", "echo detached > /d"]).ok();
    eventually("the detached exec", || {
        (d.docker(&["exec", "box", "cat", "/d"]).out == "detached\n").then_some(())
    });
    let mine = d.docker(&["exec", "box", "sh", "-c", "readlink /proc/1/ns/pid; readlink /proc/self/ns/pid; grep Seccomp: /proc/self/status; grep CapEff /proc/self/status"]).ok();
    let lines: Vec<&str> = mine.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert!(lines[2].ends_with('2') && lines[3].ends_with("a80425fb"), "{mine}");
    d.docker(&["stop", "-t", "0", "box"]).ok();
    d.docker(&["exec", "box", "true"]).fails(1, "is not running");
}

#[test]
fn stop_kill_wait_restart_and_rm() {
    let d = daemon();
    let trap = "trap 'echo bye; exit 3' TERM; trap 'exit 4' INT; echo up; while :; do sleep 0.05; done";
    let start = |name: &str, more: &[&str]| {
        detached(&d, name, &[more, &["busybox", "sh", "-c", trap]].concat());
        eventually("it is up", || d.docker(&["logs", name]).out.contains("up").then_some(()));
    };
    let code = |name: &str| d.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name]).ok();
    start("aa", &[]);
    d.docker(&["stop", "aa"]).ok();
    assert_eq!(code("aa"), "exited 3");
    assert_eq!(d.docker(&["logs", "aa"]).out, "up\nbye\n");
    start("bb", &["--stop-signal", "INT"]);
    d.docker(&["stop", "bb"]).ok();
    assert_eq!(code("bb"), "exited 4");
    detached(&d, "cc", &["busybox", "sleep", "600"]);
    d.docker(&["stop", "-t", "0", "cc"]).ok();
    assert_eq!(code("cc"), "exited 137");
    d.docker(&["kill", "cc"]).fails(1, "is not running");
    d.docker(&["start", "cc"]).ok();
    d.docker(&["start", "cc"]).ok();
    d.docker(&["restart", "-t", "0", "cc"]).ok();
    assert_eq!(code("cc"), "running 0");
    d.docker(&["rm", "cc"])
        .fails(1, "container is running: stop the container before removing or force remove");
    d.docker(&["kill", "-s", "NONSENSE", "cc"]).fails(1, "nvalid signal: NONSENSE");
    d.docker(&["rm", "-f", "cc"]).ok();
    d.docker(&["rm", "cc"]).fails(1, "No such container: cc");
    d.docker(&["rename", "aa", "zz"]).ok();
    assert_eq!(code("zz"), "exited 3");
    d.docker(&["rename", "zz", "bb"]).fails(1, "is already in use by container");
}

#[test]
fn wait_never_misses_a_fast_exit() {
    let d = daemon();
    for i in 0..20 {
        let name = format!("fast{i}");
        detached(&d, &name, &["busybox", "sh", "-c", &format!("exit {i}")]);
        assert_eq!(d.docker(&["wait", &name]).ok(), i.to_string());
    }
}

#[test]
fn restart_policies() {
    let d = daemon();
    detached(&d, "fails", &["--restart", "on-failure:2", "busybox", "sh", "-c", "echo try; exit 1"]);
    let state = "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}";
    eventually("two restarts", || {
        (d.docker(&["inspect", "-f", state, "fails"]).ok() == "exited 2 1").then_some(())
    });
    assert_eq!(d.docker(&["logs", "fails"]).out, "try\ntry\ntry\n");
    detached(&d, "always", &["--restart", "always", "busybox", "sh", "-c", "echo again"]);
    eventually("a few runs", || (d.docker(&["logs", "always"]).out.lines().count() >= 3).then_some(()));
    d.docker(&["stop", "always"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", "always"]).ok(), "exited");
    let lines = d.docker(&["logs", "always"]).out.lines().count();
    detached(&d, "good", &["--restart", "on-failure", "busybox", "true"]);
    d.docker(&["wait", "good"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", state, "good"]).ok(), "exited 0 0");
    assert_eq!(d.docker(&["logs", "always"]).out.lines().count(), lines, "a stopped one stays stopped");
    d.docker(&["run", "--restart", "sometimes", "busybox"]).fails(125, "sometimes");
}

#[test]
fn events_tell_the_story_in_order() {
    let d = daemon();
    let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() - 1;
    detached(&d, "story", &["--label", "k=v", "busybox", "sh", "-c", "exit 6"]);
    d.docker(&["wait", "story"]).ok();
    d.docker(&["rm", "story"]).ok();
    let since = start.to_string();
    let until = (start + 30).to_string();
    let mut command = d.docker_command(&[
        "events",
        "--since",
        &since,
        "--until",
        &until,
        "--filter",
        "container=story",
        "--format",
        "{{.Action}}",
    ]);
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut seen = Vec::new();
    while !seen.iter().any(|a| a == "destroy") {
        seen.push(lines.next().expect("more events").unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let order: Vec<usize> = ["create", "start", "die", "destroy"]
        .iter()
        .map(|a| seen.iter().position(|s| s == a).unwrap_or_else(|| panic!("{a} in {seen:?}")))
        .collect();
    assert!(order.is_sorted(), "{seen:?}");
}

#[test]
fn attach_sees_output_and_gives_input() {
    let d = daemon();
    let id = d.docker(&["create", "-i", "--name", "echo", "--network", "none", "busybox", "cat"]).ok();
    let ran = d.docker_with_input(&["start", "-a", "-i", "echo"], b"through attach\n");
    assert_eq!(ran.ok(), "through attach");
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.ExitCode}}", &id]).ok(), "0");
}

#[test]
fn pause_top_and_update() {
    let d = daemon();
    detached(&d, "pp", &["busybox", "sleep", "600"]);
    d.docker(&["pause", "pp"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}} {{.State.Paused}}", "pp"]).ok(), "paused true");
    d.docker(&["unpause", "pp"]).ok();
    assert!(d.docker(&["top", "pp"]).ok().contains("sleep 600"));
    d.docker(&["update", "--memory", "50m", "--memory-swap", "50m", "pp"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.HostConfig.Memory}}", "pp"]).ok(), "52428800");
    let limit = d.docker(&[
        "exec",
        "pp",
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max",
    ]);
    assert_eq!(limit.ok(), "52428800");
}
