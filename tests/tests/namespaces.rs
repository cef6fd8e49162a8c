//! Namespaces, security options and limits, seen from inside.

#![cfg(test)]

use serde_json::{Value, json};
use wharf_tests::{Daemon, Options};

fn with(args: &[&str]) -> Daemon {
    let daemon =
        Daemon::with(Options { args: args.iter().map(|a| (*a).to_owned()).collect(), ..Options::default() });
    daemon.import_busybox();
    daemon
}

/// A command in a container without networks, by `docker run`.
fn run(daemon: &Daemon, args: &[&str]) -> String {
    daemon.docker(&[&["run", "--rm", "--network", "none"], args].concat()).ok()
}

fn own(kind: &str, of: &str) -> String {
    std::fs::read_link(format!("/proc/{of}/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn each_namespace_is_private_the_hosts_or_anothers() {
    let daemon = with(&[]);
    let inside = |args: &[&str], kind: &str| {
        run(&daemon, &[args, &["busybox", "readlink", &format!("/proc/self/ns/{kind}")]].concat())
    };
    let anchor = daemon
        .docker(&["run", "-d", "--network", "none", "--ipc", "shareable", "busybox", "sleep", "1000"])
        .ok();
    let pid = daemon.docker(&["inspect", "-f", "{{.State.Pid}}", &anchor]).ok();
    let of = format!("container:{anchor}");
    for (kind, flag, host, joins) in [
        ("ipc", "--ipc", true, true),
        ("pid", "--pid", true, true),
        ("uts", "--uts", true, false),
        ("cgroup", "--cgroupns", true, false),
    ] {
        let private = inside(&[], kind);
        assert_ne!(private, own(kind, "self"), "{kind}");
        if host {
            assert_eq!(inside(&[flag, "host"], kind), own(kind, "self"), "{kind}");
        }
        if joins {
            assert_eq!(inside(&[flag, &of], kind), own(kind, &pid), "{kind}");
        }
    }
    let joined =
        daemon.docker(&["run", "--rm", "--network", &of, "busybox", "readlink", "/proc/self/ns/net"]).ok();
    assert_eq!(joined, own("net", &pid));
    // The shared memory of a joined container is the same.
    daemon.docker(&["exec", &anchor, "sh", "-c", "echo shared > /dev/shm/f"]).ok();
    assert_eq!(run(&daemon, &["--ipc", &of, "busybox", "cat", "/dev/shm/f"]), "shared");
    for (flag, value, text) in [
        ("--ipc", "nonsense", "invalid IPC mode"),
        ("--pid", "nonsense", "--pid: invalid PID mode"),
        ("--userns", "nonsense", "--userns: invalid USER mode"),
        ("--ipc", "container:nobody", "No such container: nobody"),
    ] {
        daemon.docker(&["run", "--rm", flag, value, "busybox", "true"]).fails(125, text);
    }
    // Straight to the API, where no client looks first.
    for (host, text) in [
        (json!({"PidMode": "x"}), "invalid PID mode: x"),
        (json!({"UTSMode": "x"}), "invalid UTS mode: x"),
        (json!({"UsernsMode": "x"}), "invalid USER mode: x"),
    ] {
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host});
        let refused = daemon.api("POST", "/containers/create", &body.to_string());
        assert_eq!((refused.status, refused.message().as_str()), (400, text));
    }
}

#[test]
fn security_options() {
    let daemon = with(&[]);
    let status = |args: &[&str], field: &str| {
        run(&daemon, &[args, &["busybox", "grep", field, "/proc/self/status"]].concat())
    };
    assert!(status(&[], "Seccomp:").ends_with('2'));
    assert!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp:").ends_with('0'));
    assert!(status(&["--privileged"], "Seccomp:").ends_with('0'));
    assert!(status(&[], "NoNewPrivs").ends_with('0'));
    assert!(status(&["--security-opt", "no-new-privileges"], "NoNewPrivs").ends_with('1'));
    assert!(status(&["--security-opt", "no-new-privileges=false"], "NoNewPrivs").ends_with('0'));
    let tight = daemon.docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "touch /proc/sys/kernel/hostname 2>&1; ls /proc/keys; cat /proc/keys | wc -c",
    ]);
    assert!(
        tight.out.contains("Read-only file system") && tight.out.trim_end().ends_with('0'),
        "{}",
        tight.out
    );
    let loose = run(
        &daemon,
        &[
            "--security-opt",
            "systempaths=unconfined",
            "busybox",
            "sh",
            "-c",
            "grep -c ' /proc/' /proc/mounts || true",
        ],
    );
    assert_eq!(loose, "0");
    assert!(run(&daemon, &["busybox", "grep", " /sys/fs/cgroup ", "/proc/mounts"]).contains("ro,"));
    assert!(
        run(
            &daemon,
            &[
                "--security-opt",
                "writable-cgroups=true",
                "busybox",
                "grep",
                " /sys/fs/cgroup ",
                "/proc/mounts"
            ]
        )
        .contains("rw,")
    );
    // Labels mean nothing without SELinux, and are no error.
    run(&daemon, &["--security-opt", "label=disable", "--security-opt", "label=type:x_t", "busybox", "true"]);
    daemon
        .docker(&["run", "--rm", "--security-opt", "nonsense=1", "busybox", "true"])
        .fails(125, "invalid --security-opt 2: \"nonsense=1\"");
    daemon
        .docker(&["run", "--rm", "--security-opt", "seccomp=/nonexistent", "busybox", "true"])
        .fails(125, "opening seccomp profile");
}

#[test]
fn devices_and_their_rules() {
    let daemon = with(&[]);
    let try_read =
        "dd if=/dev/x of=/dev/null bs=1 count=1 2>&1 | grep -q permitted && echo denied || echo read";
    // A node that the container makes itself is closed, unless it is on the list.
    let made = format!("mknod /dev/x c 1 1; {try_read}");
    assert_eq!(run(&daemon, &["busybox", "sh", "-c", &made]), "denied");
    assert_eq!(
        run(
            &daemon,
            &["--device-cgroup-rule", "c 1:1 r", "--cap-add", "SYS_RAWIO", "busybox", "sh", "-c", &made]
        ),
        "read"
    );
    let asked = ["--cap-add", "SYSLOG", "--device", "/dev/kmsg:/dev/nothing:r", "busybox", "sh", "-c"];
    let script = "exec 3< /dev/nothing && echo opened; (echo x > /dev/nothing) 2>/dev/null || echo read-only";
    assert_eq!(run(&daemon, &[&asked[..], &[script]].concat()), "opened\nread-only");
    daemon.docker(&["run", "--rm", "--device", "/dev/no-such", "busybox", "true"]).fails(127, "error gathering device information while adding custom device \"/dev/no-such\": no such file or directory");
    daemon
        .docker(&["run", "--rm", "--device-cgroup-rule", "c 1:1", "busybox", "true"])
        .fails(125, "invalid device cgroup format");
    let bad = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"DeviceCgroupRules": ["x"]}});
    let refused = daemon.api("POST", "/containers/create", &bad.to_string());
    assert_eq!(refused.status, 400, "{}", refused.text());
}

#[test]
fn devices_by_their_cdi_names() {
    let specs = tempfile::tempdir().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "of the vendor").unwrap();
    std::fs::write(
        specs.path().join("v.json"),
        json!({
            "cdiVersion": "0.6.0", "kind": "vendor.test/thing", "containerEdits": {"env": ["VENDOR=yes"]},
            "devices": [{"name": "a", "containerEdits": {
                "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero", "permissions": "r"}],
                "mounts": [{"hostPath": file.path(), "containerPath": "/opt/thing", "options": ["ro", "bind"]}],
            }}],
        })
        .to_string(),
    )
    .unwrap();
    let daemon = with(&["--cdi-spec-dir", specs.path().to_str().unwrap()]);
    let body = |device: &str| {
        json!({"Image": "busybox", "Cmd": ["sh", "-c", "echo $VENDOR; cat /opt/thing; echo; head -c 3 /dev/thing | wc -c; echo x > /opt/thing"],
               "HostConfig": {"NetworkMode": "none", "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [device]}]}})
        .to_string()
    };
    let made: Value = daemon.api("POST", "/containers/create?name=one", &body("vendor.test/thing=a")).json();
    assert!(made["Id"].is_string(), "{made}");
    daemon.docker(&["start", "-a", "one"]).fails(1, "Read-only file system");
    assert!(daemon.docker(&["logs", "one"]).out.starts_with("yes\nof the vendor\n3\n"));
    daemon.api("POST", "/containers/create?name=two", &body("vendor.test/thing=b"));
    daemon
        .docker(&["start", "two"])
        .fails(1, "CDI device injection failed: unresolvable CDI devices vendor.test/thing=b");
    let other = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"DeviceRequests": [{"Driver": "", "Count": -1, "Capabilities": [["gpu"]]}]}});
    let refused = daemon.api("POST", "/containers/create", &other.to_string());
    assert_eq!(
        (refused.status, refused.message().as_str()),
        (400, "could not select device driver \"\" with capabilities: [[gpu]]")
    );
}

#[test]
fn limits_beyond_the_machine_come_with_a_warning() {
    let daemon = with(&[]);
    let body = json!({"Image": "busybox", "Cmd": ["sh", "-c", "ulimit -n"], "HostConfig": {
        "NetworkMode": "none", "Ulimits": [{"Name": "nofile", "Soft": 10_000_000, "Hard": 10_000_000}]}});
    let made: Value = daemon.api("POST", "/containers/create?name=one", &body.to_string()).json();
    let said = daemon.docker(&["start", "-a", "one"]).ok();
    let files: u64 = said.parse().unwrap();
    if files < 10_000_000 {
        assert!(made["Warnings"].to_string().contains("does not allow more than"), "{made}");
    }
}

#[test]
fn block_devices_are_limited_one_by_one() {
    let daemon = with(&[]);
    let Some(device) = std::fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap())
        .find(|n| n.starts_with("vd") || n.starts_with("sd") || n.starts_with("nvme"))
    else {
        return;
    };
    let device = format!("/dev/{device}");
    let id = daemon
        .docker(&[
            "run",
            "-d",
            "--network",
            "none",
            "--device-read-bps",
            &format!("{device}:1mb"),
            "--device-write-iops",
            &format!("{device}:77"),
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    let read = |name: &str| {
        let found = std::process::Command::new("find")
            .args(["/sys/fs/cgroup", "-path", &format!("*{id}/{name}")])
            .output()
            .unwrap();
        String::from_utf8_lossy(&found.stdout)
            .lines()
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect::<String>()
    };
    let all =
        read("blkio.throttle.read_bps_device") + &read("blkio.throttle.write_iops_device") + &read("io.max");
    assert!(all.contains("1048576") && all.contains("77"), "{all}");
    daemon.docker(&["create", "--device-read-bps", "/dev/null:1mb", "--name", "bad", "busybox", "true"]).ok();
    daemon.docker(&["start", "bad"]).fails(1, "/dev/null is not a block device");
}

#[test]
fn checkpoints_are_experimental() {
    let daemon = with(&[]);
    daemon.docker(&["create", "--name", "one", "busybox", "true"]).ok();
    let refused = daemon.api("GET", "/containers/one/checkpoints", "");
    assert_eq!(refused.status, 501);
    assert!(refused.message().starts_with("This experimental feature is disabled by default"));
}

#[test]
fn a_seccomp_profile_of_ones_own_and_ipc_that_is_not_shared() {
    let daemon = with(&[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let rule = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95});
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    std::fs::write(file.path(), profile.to_string()).unwrap();
    let option = format!("seccomp={}", file.path().display());
    let refused = daemon.docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--security-opt",
        &option,
        "busybox",
        "mkdir",
        "/new",
    ]);
    refused.fails(1, "Operation not supported");
    assert_eq!(run(&daemon, &["busybox", "sh", "-c", "mkdir /new && echo made"]), "made");
    std::fs::write(file.path(), "{").unwrap();
    daemon
        .docker(&["run", "--rm", "--security-opt", &option, "busybox", "true"])
        .fails(125, "seccomp profile");
    // Without IPC there is no shared memory; one's own is nobody else's unless it says so.
    assert_eq!(
        run(&daemon, &["--ipc", "none", "busybox", "sh", "-c", "ls -d /dev/shm 2>/dev/null; echo none"]),
        "none"
    );
    let id =
        daemon.docker(&["run", "-d", "--name", "own", "--network", "none", "busybox", "sleep", "1000"]).ok();
    daemon
        .docker(&["run", "--rm", "--ipc", "container:own", "busybox", "true"])
        .fails(125, &format!("cannot join IPC of a container {id}: non-shareable IPC"));
    for (mode, own_root) in [("private", true), ("host", false)] {
        let shown = run(&daemon, &["--cgroupns", mode, "busybox", "cat", "/proc/self/cgroup"]);
        let roots = shown.lines().filter(|l| l.ends_with(":/")).count();
        assert_eq!(roots == shown.lines().count(), own_root, "{mode}: {shown}");
    }
}
