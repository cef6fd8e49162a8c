//! `docker run` of the stock CLI with the flags that people use.

use wharf_tests::{Daemon, eventually};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn run(d: &Daemon, args: &[&str]) -> wharf_tests::Ran {
    d.docker(&[&["run", "--rm", "--network", "none"], args].concat())
}

#[test]
fn foreground_output_and_exit_codes() {
    let d = daemon();
    let ran = run(&d, &["busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, "out\n", "err\n"));
    // Process 1 cannot kill itself; its child can.
    run(&d, &["--init", "busybox", "sh", "-c", "kill -9 $$"]).fails(137, "");
    run(&d, &["busybox", "nothing-here"]).fails(127, "executable file not found in $PATH");
    run(&d, &["busybox", "/nothing/here"]).fails(127, "no such file or directory");
    run(&d, &["busybox", "/etc/passwd"]).fails(126, "permission denied");
    assert_eq!(d.docker(&["ps", "-aq"]).ok(), "", "--rm also removes what did not start");
    run(&d, &["no-such-image"]).fails(125, "no-such-image");
}

#[test]
fn piped_stdin_reaches_the_process_and_ends() {
    let d = daemon();
    let big: Vec<u8> = (0..3_000_000u32).map(|i| b'a' + (i % 26) as u8).collect();
    let ran = d.docker_with_input(&["run", "--rm", "-i", "--network", "none", "busybox", "wc", "-c"], &big);
    assert_eq!(ran.ok(), "3000000");
    let ran = d.docker_with_input(&["run", "--rm", "-i", "--network", "none", "busybox", "cat"], &big);
    assert!(ran.out.as_bytes() == big, "{} bytes came back", ran.out.len());
    // Without -i the process sees an empty input at once.
    assert_eq!(run(&d, &["busybox", "wc", "-c"]).ok(), "0");
}

#[test]
fn environment_user_directory_and_names() {
    let d = daemon();
    let script = "echo $A:$B; pwd; id -u; id -g; id -G; hostname";
    let args = [
        "-e",
        "A=1",
        "-e",
        "B=x y",
        "-w",
        "/made/here",
        "-u",
        "user",
        "--hostname",
        "box",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    assert_eq!(run(&d, &args).ok(), "1:x y\n/made/here\n1000\n1000\n1000 50\nbox");
    assert_eq!(run(&d, &["-u", "12:34", "busybox", "id"]).ok(), "uid=12 gid=34 groups=34");
    assert_eq!(run(&d, &["-u", "0:staff", "busybox", "id", "-g"]).ok(), "50");
    run(&d, &["-u", "nobody-here", "busybox", "true"])
        .fails(125, "unable to find user nobody-here: no matching entries in passwd file");
    let name = run(&d, &["busybox", "hostname"]).ok();
    assert_eq!(name.len(), 12, "the short id: {name}");
    assert_eq!(run(&d, &["--entrypoint", "/bin/echo", "busybox", "a", "b"]).ok(), "a b");
}

#[test]
fn volumes_bind_mounts_and_tmpfs() {
    let d = daemon();
    let dir = d.path("bind");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("f"), "host").unwrap();
    let bind = format!("{}:/mnt", dir.display());
    assert_eq!(run(&d, &["-v", &bind, "busybox", "sh", "-c", "cat /mnt/f; echo new > /mnt/g"]).ok(), "host");
    assert_eq!(std::fs::read_to_string(dir.join("g")).unwrap(), "new\n");
    let ran = run(&d, &["-v", &format!("{bind}:ro"), "busybox", "touch", "/mnt/h"]);
    ran.fails(1, "Read-only file system");
    assert!(!dir.join("h").exists());

    run(&d, &["-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/x"]).ok();
    assert_eq!(run(&d, &["-v", "data:/data", "busybox", "cat", "/data/x"]).ok(), "kept");
    // A new named volume is filled with what the image has there.
    assert!(run(&d, &["-v", "copy:/etc", "busybox", "ls", "/etc"]).ok().contains("passwd"));
    assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), "copy\ndata");

    let made = d.path("made-by-v");
    run(&d, &["-v", &format!("{}:/x", made.display()), "busybox", "true"]).ok();
    assert!(made.is_dir(), "-v makes the missing source");
    let missing = d.path("missing");
    let mount = format!("type=bind,source={},target=/x", missing.display());
    let text = format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {}",
        missing.display()
    );
    run(&d, &["--mount", &mount, "busybox", "true"]).fails(125, &text);
    assert!(!missing.exists());

    let out = run(
        &d,
        &[
            "--tmpfs",
            "/scratch:size=1m,mode=1770",
            "busybox",
            "sh",
            "-c",
            "grep ' /scratch ' /proc/mounts; stat -c %a /scratch",
        ],
    )
    .ok();
    assert!(out.contains("tmpfs") && out.contains("size=1024k") && out.ends_with("1770"), "{out}");
}

#[test]
fn read_only_root_and_masked_paths() {
    let d = daemon();
    run(&d, &["--read-only", "busybox", "touch", "/x"]).fails(1, "Read-only file system");
    run(&d, &["--read-only", "--tmpfs", "/tmp", "busybox", "touch", "/tmp/x"]).ok();
    assert_eq!(
        run(
            &d,
            &[
                "busybox",
                "sh",
                "-c",
                "cat /proc/kcore 2>/dev/null | wc -c; ls /proc/acpi /sys/firmware 2>/dev/null | grep -v : | wc -w"
            ]
        )
        .ok(),
        "0\n0"
    );
    run(&d, &["busybox", "sh", "-c", "echo 1 > /proc/sys/kernel/hostname"]).fails(1, "Read-only file system");
    let trigger = "[ -e /proc/sysrq-trigger ] || exit 1; echo b > /proc/sysrq-trigger";
    assert_eq!(run(&d, &["busybox", "sh", "-c", trigger]).code, 1);
    run(&d, &["busybox", "mkdir", "/sys/fs/cgroup/x"]).fails(1, "Read-only file system");
}

#[test]
fn capabilities_seccomp_and_no_new_privileges() {
    let d = daemon();
    let caps = |args: &[&str]| {
        run(&d, &[args, &["busybox", "grep", "-E", "Cap(Inh|Eff|Bnd|Amb)", "/proc/self/status"]].concat())
            .ok()
    };
    let set = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    // Docker's default fourteen.
    let normal = caps(&[]);
    assert_eq!(set(&normal, "CapEff"), 0xa804_25fb);
    assert_eq!(set(&normal, "CapInh"), 0, "CVE-2022-24769");
    assert_eq!(set(&caps(&["--cap-drop", "ALL"]), "CapBnd"), 0);
    assert_eq!(set(&caps(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"]), "CapEff"), 1 << 12);
    let user = caps(&["-u", "1000"]);
    assert_eq!(set(&user, "CapEff"), 0);
    assert_eq!(set(&user, "CapBnd"), 0xa804_25fb);
    run(&d, &["--cap-add", "NONSENSE", "busybox", "true"]).fails(125, "NONSENSE");
    // A new mount namespace needs what neither capabilities nor seccomp give.
    assert_ne!(run(&d, &["busybox", "unshare", "-m", "true"]).code, 0);
    assert_eq!(
        run(&d, &["busybox", "grep", "Seccomp:", "/proc/self/status"]).ok().split_whitespace().last(),
        Some("2")
    );
    let args = ["--security-opt", "no-new-privileges", "busybox", "grep", "NoNewPrivs", "/proc/self/status"];
    assert_eq!(run(&d, &args).ok().split_whitespace().last(), Some("1"));
    let args = ["--security-opt", "seccomp=unconfined", "busybox", "grep", "Seccomp:", "/proc/self/status"];
    assert_eq!(run(&d, &args).ok().split_whitespace().last(), Some("0"));
}

#[test]
fn limits_are_set_and_kept() {
    let d = daemon();
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max; \
                  cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max; \
                  cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";
    let out =
        run(&d, &["--memory", "64m", "--pids-limit", "20", "--cpus", "0.5", "busybox", "sh", "-c", script])
            .ok();
    assert_eq!(out, "67108864\n20\n50000");
    let forks = "for i in $(seq 40); do sleep 5 & done 2>&1; wait";
    let ran = run(&d, &["--pids-limit", "5", "busybox", "sh", "-c", forks]);
    assert!(ran.out.contains("can't fork"), "{} {}", ran.out, ran.err);
    run(&d, &["--memory", "1m", "busybox", "true"]).fails(125, "Minimum memory limit allowed is 6MB");
    assert_eq!(
        run(&d, &["--ulimit", "nofile=77:99", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn"]).ok(),
        "77\n99"
    );
    assert_eq!(
        run(&d, &["--shm-size", "3m", "busybox", "sh", "-c", "df -k /dev/shm | tail -1 | awk '{print $2}'"])
            .ok(),
        "3072"
    );
    assert_eq!(
        run(&d, &["--sysctl", "net.ipv4.ip_forward=1", "busybox", "cat", "/proc/sys/net/ipv4/ip_forward"])
            .ok(),
        "1"
    );
}

#[test]
fn out_of_memory_is_137_and_said() {
    let d = daemon();
    let eat = "x=a; while true; do x=$x$x; done";
    let ran = d.docker(&[
        "run",
        "--name",
        "eater",
        "--network",
        "none",
        "--memory",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "sh",
        "-c",
        eat,
    ]);
    assert_eq!(ran.code, 137, "{}{}", ran.out, ran.err);
    assert_eq!(
        d.docker(&["inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", "eater"]).ok(),
        "true 137"
    );
}

#[test]
fn init_reaps_and_forwards() {
    let d = daemon();
    // An orphan that ends must not stay a zombie, and process 1 is the init.
    let script = "(sleep 0.1 &) ; sleep 0.5; ps -o stat,comm | grep -c '^Z'; cat /proc/1/comm";
    let out = d.docker(&["run", "--rm", "--init", "--network", "none", "busybox", "sh", "-c", script]).out;
    assert!(out.starts_with("0\n"), "{out}");
    assert!(!out.contains("sh\n"), "process 1 is not the shell: {out}");
    let args = [
        "run",
        "-d",
        "--init",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 9' TERM; while :; do sleep 0.05; done",
    ];
    let id = d.docker(&args).ok();
    d.docker(&["kill", "-s", "TERM", &id]).ok();
    assert_eq!(d.docker(&["wait", &id]).ok(), "9");
    assert_eq!(run(&d, &["--init", "busybox", "sh", "-c", "exit 5"]).code, 5);
}

#[test]
fn network_modes() {
    let d = daemon();
    assert_eq!(run(&d, &["busybox", "ls", "/sys/class/net"]).ok(), "lo");
    let host = d.docker(&["run", "--rm", "--network", "host", "busybox", "ls", "/sys/class/net"]).ok();
    assert!(host.contains("lo") && host.contains("docker0"), "{host}");
    let addr = d.docker(&["run", "--rm", "busybox", "ip", "-4", "-o", "addr", "show", "eth0"]).ok();
    assert!(addr.contains("172.17.0."), "{addr}");
    let id = d.docker(&["run", "-d", "--name", "owner", "busybox", "sleep", "600"]).ok();
    let ip = d.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", &id]).ok();
    let joined = d
        .docker(&[
            "run",
            "--rm",
            "--network",
            "container:owner",
            "busybox",
            "ip",
            "-4",
            "-o",
            "addr",
            "show",
            "eth0",
        ])
        .ok();
    assert!(joined.contains(&ip), "{joined} has {ip}");
    // Two containers on the bridge reach each other.
    d.docker(&["run", "--rm", "busybox", "ping", "-c1", "-W5", &ip]).ok();
    d.docker(&["run", "--rm", "--network", "no-such", "busybox", "true"])
        .fails(125, "network no-such not found");
    assert!(d.docker(&["exec", "owner", "cat", "/etc/hosts"]).ok().contains(&ip));
}

#[test]
fn published_ports() {
    let d = daemon();
    let serve = "while true; do echo -e 'HTTP/1.0 200 OK\\r\\n\\r\\nhi' | nc -l -p 80 >/dev/null; done";
    d.docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "8080:80",
        "-p",
        "127.0.0.1::81/udp",
        "busybox",
        "sh",
        "-c",
        serve,
    ])
    .ok();
    let fetch = |url: &str| {
        let mut c = d.in_namespace("curl");
        c.args(["-sS", "--max-time", "5", "--http0.9", url]);
        d.run_with_input(c, b"")
    };
    for url in ["http://127.0.0.1:8080/", "http://172.17.0.1:8080/"] {
        eventually(url, || (fetch(url).out == "hi\n").then_some(()));
    }
    assert_eq!(d.docker(&["port", "web", "80"]).ok().lines().next(), Some("0.0.0.0:8080"));
    let udp = d.docker(&["port", "web", "81/udp"]).ok();
    let port: u16 = udp.strip_prefix("127.0.0.1:").unwrap_or_else(|| panic!("{udp}")).parse().unwrap();
    assert!(port >= 1024, "{port}");
    let ran = d.docker(&["run", "-d", "--name", "second", "-p", "8080:80", "busybox", "true"]);
    ran.fails(125, "port is already allocated");
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", "second"]).ok(), "created");
    d.docker(&["run", "--rm", "-p", "99999:80", "busybox", "true"]).fails(125, "invalid");
    d.docker(&["rm", "-f", "web"]).ok();
    // The port is free again at once.
    d.docker(&["run", "--rm", "-p", "8080:80", "busybox", "true"]).ok();
}

#[test]
fn privileged_is_refused_by_the_bundled_policy_when_configured() {
    let d = Daemon::start();
    d.import_busybox();
    // Without the policy configured, privileged containers work as with Docker.
    let out = d
        .docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--privileged",
            "busybox",
            "grep",
            "CapEff",
            "/proc/self/status",
        ])
        .ok();
    assert!(out.ends_with("1fffeffffff") || out.ends_with("1ffffffffff"), "{out}");
}
