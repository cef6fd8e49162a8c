//! Images whose configuration or files are made to mislead the engine: nothing of the host is read, written or run.

use std::path::Path;

use serde_json::{Value, json};
use wharf_tests::{Daemon, eventually, image};

/// Loads an image of these layers with this `config` object.
#[track_caller]
fn load(d: &Daemon, name: &str, config: Value, layers: &[Vec<u8>]) {
    let diff_ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", image::sha256(l))).collect();
    let file =
        json!({"os": "linux", "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "config": config, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string();
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}.tar")).collect();
    let mut out = Vec::new();
    for (name, layer) in names.iter().zip(layers) {
        image::entry(&mut out, name, b'0', 0o644, "", layer);
    }
    image::entry(&mut out, "config.json", b'0', 0o644, "", file.as_bytes());
    let table = json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]).to_string();
    image::entry(&mut out, "manifest.json", b'0', 0o644, "", table.as_bytes());
    image::finish(&mut out);
    let path = image::save(&d.path("hostile.tar"), &out);
    d.docker(&["load", "-q", "-i", &path]).ok();
}

fn layer(entries: &[(&str, u8, &str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, kind, link, data) in entries {
        image::entry(&mut out, name, *kind, if *kind == b'5' { 0o755 } else { 0o644 }, link, data);
    }
    image::finish(&mut out);
    out
}

/// Memory of the daemon in bytes.
fn memory(d: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", d.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

/// A directory of the host that images try to reach; `secret` is in it.
fn victim(d: &Daemon) -> std::path::PathBuf {
    let dir = d.path("victim");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("secret"), "host secret").unwrap();
    dir
}

#[track_caller]
fn untouched(dir: &Path) {
    let names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
    assert_eq!(std::fs::read_to_string(dir.join("secret")).unwrap(), "host secret");
}

#[test]
fn users_that_are_no_users_never_become_root() {
    let d = Daemon::start();
    let base = image::busybox_tar();
    for user in [
        "4294967296",
        "-1",
        "4294967295",
        "2147483648",
        "18446744073709551616",
        "0x0",
        "0:4294967296",
        "nobody-there",
        "1000:no-group",
        "\u{0}",
    ] {
        load(&d, "hostile:1", json!({"User": user, "Env": ["PATH=/bin"]}), std::slice::from_ref(&base));
        let ran = d.docker(&["run", "--rm", "--network", "none", "hostile:1", "id", "-u"]);
        assert!(ran.code != 0 && !ran.out.contains('0'), "USER {user:?}: {ran:?}");
        assert!(!ran.err.trim().is_empty(), "USER {user:?}");
        assert_eq!(d.docker(&["ps", "-aq"]).ok(), "", "USER {user:?}");
    }
    // A number is a number, whatever passwd calls by it (CVE-2026-46680).
    let passwd = b"root:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\nzero:x:0:0::/:/bin/sh\nbig:x:4294967296:1::/:/bin/sh\nminus:x:-1:1::/:/bin/sh\n";
    let lying = layer(&[
        ("etc/passwd", b'0', "", passwd),
        ("etc/group", b'0', "", b"root:x:0:\n1000:x:0:\nbig:x:4294967296:\n"),
    ]);
    let id = |user: &str| {
        load(&d, "hostile:1", json!({"User": user, "Env": ["PATH=/bin"]}), &[base.clone(), lying.clone()]);
        d.docker(&["run", "--rm", "--network", "none", "hostile:1", "sh", "-c", "echo $(id -u):$(id -g)"])
    };
    assert!(id("1000").ok().starts_with("1000:"), "{:?}", id("1000"));
    assert_eq!(id("1000:1000").ok(), "1000:1000");
    assert_eq!(id("zero").ok(), "0:0");
    for user in ["big", "minus", "1000:big"] {
        let ran = id(user);
        assert!(ran.code != 0 && !ran.out.contains("0:"), "{user}: {ran:?}");
    }
}

#[test]
fn user_files_without_end_or_that_are_no_files_cost_nothing() {
    let d = Daemon::start();
    let victim = victim(&d);
    let base = image::busybox_tar();
    d.import_busybox();
    d.docker(&["run", "--rm", "--network", "none", "busybox", "true"]).ok();
    let before = memory(&d);
    // A gigabyte, as a sparse file in GNU's form.
    let mut sparse = Vec::new();
    for name in ["etc/passwd", "etc/group"] {
        let from = sparse.len();
        image::entry(&mut sparse, name, b'S', 0o644, "", b"");
        let head = &mut sparse[from..from + 512];
        head[257..265].copy_from_slice(b"ustar  \0");
        head[386..398].copy_from_slice(b"00000000000\0");
        head[398..410].copy_from_slice(b"00000000000\0");
        head[483..495].copy_from_slice(b"10000000000\0");
        head[148..156].copy_from_slice(b"        ");
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    image::finish(&mut sparse);
    let lines: Vec<u8> = b"u:x:5:5:u:/:/bin/sh\n".repeat(1_000_000);
    let secret = victim.join("secret").display().to_string();
    let layers: [(&str, Vec<u8>); 7] = [
        ("sparse", sparse),
        ("a million lines", layer(&[("etc/passwd", b'0', "", &lines), ("etc/group", b'0', "", &lines)])),
        ("a line of a megabyte", layer(&[("etc/passwd", b'0', "", &vec![b'x'; 20 << 20])])),
        ("a pipe", layer(&[("etc/passwd", b'6', "", b""), ("etc/group", b'6', "", b"")])),
        ("a directory", layer(&[("etc/passwd", b'5', "", b""), ("etc/group", b'5', "", b"")])),
        (
            "a link out",
            layer(&[
                ("etc/passwd", b'2', &secret, b""),
                ("etc/group", b'2', "../../../../../../../../etc/group", b""),
            ]),
        ),
        (
            "a link to itself",
            layer(&[("etc/passwd", b'2', "passwd", b""), ("etc/group", b'2', "/etc/group", b"")]),
        ),
    ];
    for (what, hostile) in layers {
        for user in ["nobody-there", "root", "7", "7:nogroup"] {
            load(
                &d,
                "hostile:1",
                json!({"User": user, "Env": ["PATH=/bin"]}),
                &[base.clone(), hostile.clone()],
            );
            // Whether it runs is not the question; that it answers, and soon, is (the harness ends what hangs).
            // The container's own programs would read these files too, so none that does is asked.
            let own =
                "while read -r key id rest; do [ $key = Uid: ] && echo $id; done </proc/self/status; exit 0";
            let ran = d.docker(&["run", "--rm", "--network", "none", "hostile:1", "sh", "-c", own]);
            assert!(!ran.err.contains("host secret") && !ran.out.contains("host secret"), "{what}: {ran:?}");
            if ran.code == 0 {
                let expected = if user == "root" { "0" } else { "7" };
                assert_eq!(ran.out.trim(), expected, "{what}, {user}");
            }
        }
        let used = memory(&d) - before;
        assert!(used < 300 << 20, "{what}: {} MiB more", used >> 20);
    }
    untouched(&victim);
    assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
}

#[test]
fn volumes_and_working_directories_stay_inside() {
    let d = Daemon::start();
    let victim = victim(&d);
    let out = victim.display().to_string();
    let up = format!("{}{out}", "/..".repeat(12));
    let base = image::busybox_tar();
    let relative = format!("{}{out}", "../".repeat(12));
    let links = layer(&[
        ("abs", b'2', &out, b""),
        ("rel", b'2', &relative, b""),
        ("procroot", b'2', "/proc/self/root", b""),
        ("cwd", b'2', "/proc/self/cwd", b""),
        ("fd", b'2', "/proc/self/fd", b""),
    ]);
    let layers = [base, links];
    // What an image declares as a volume is filled from the image, never from the host (CVE-2022-23648).
    for volume in
        [up.as_str(), "/abs", "/rel", "/abs/new", "/procroot/x", "/cwd", &format!("/../..{out}"), "/fd/3"]
    {
        load(&d, "hostile:1", json!({"Volumes": {volume: {}}, "Env": ["PATH=/bin"]}), &layers);
        let ran = d.docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "hostile:1",
            "sh",
            "-c",
            "find / -name secret -not -path '/proc/*' -exec cat {} \\; 2>/dev/null; exit 0",
        ]);
        assert!(!ran.out.contains("host secret"), "VOLUME {volume}: {ran:?}");
        untouched(&victim);
    }
    // Nor is it an argument of `-v`: with a colon it is a path with a colon. A named volume is someone else's, too.
    load(&d, "plain:1", json!({"Env": ["PATH=/bin"]}), &layers);
    d.docker(&["run", "--rm", "-v", "others:/o", "plain:1", "sh", "-c", "echo host secret >/o/secret"]).ok();
    for volume in [format!("{out}:/x"), format!("{out}:/x:rw"), "others:/x".into(), "others:/x:nocopy".into()]
    {
        load(&d, "hostile:1", json!({"Volumes": {&volume: {}}, "Env": ["PATH=/bin"]}), &layers);
        let script = "find / -name secret -not -path '/proc/*' -exec cat {} \\; 2>/dev/null; \
                      echo x >/x/file; test ! -e /x && echo nothing there";
        let ran = d.docker(&["run", "--rm", "--network", "none", "hostile:1", "sh", "-c", script]);
        assert_eq!(ran.ok(), "nothing there", "VOLUME {volume}");
        untouched(&victim);
    }
    // Over what the engine itself mounts (CVE-2019-16884): refused, or without effect.
    for volume in ["/proc", "/proc/self", "/sys", "/dev/pts", "/", "/proc/../proc"] {
        load(&d, "hostile:1", json!({"Volumes": {volume: {}}, "Env": ["PATH=/bin"]}), &layers);
        let check = "grep -q ' /proc proc ' /proc/mounts && [ -e /proc/self/stat ] && ! echo x >/proc/sys/kernel/domainname";
        let ran = d.docker(&["run", "--rm", "--network", "none", "hostile:1", "sh", "-c", check]);
        assert!(ran.code == 0 || (ran.code >= 125 && !ran.err.is_empty()), "VOLUME {volume}: {ran:?}");
    }
    for directory in (3..16).map(|n| format!("/proc/self/fd/{n}")).chain([
        "/fd/7/../../..".to_owned(),
        "/abs".into(),
        "/rel/../..".into(),
        up.clone(),
        "/procroot/../..".into(),
        "/cwd".into(),
        "relative".into(),
    ]) {
        load(&d, "hostile:1", json!({"WorkingDir": directory, "Env": ["PATH=/bin"]}), &layers);
        let script = format!(
            "cat {}{out}/secret secret ../secret 2>/dev/null; echo \"[$(ls -di /proc/self/cwd/. | head -c 0)]\"",
            "../".repeat(12)
        );
        let ran = d.docker(&["run", "--rm", "--network", "none", "hostile:1", "sh", "-c", &script]);
        assert!(!ran.out.contains("host secret"), "WORKDIR {directory}: {ran:?}");
        // At exec too.
        let name = d.docker(&["run", "-d", "--network", "none", "-w", "/", "hostile:1", "sleep", "60"]).ok();
        let ran = d.docker(&["exec", "-w", &directory, &name, "sh", "-c", &script]);
        assert!(!ran.out.contains("host secret"), "exec -w {directory}: {ran:?}");
        d.docker(&["rm", "-f", &name]).ok();
        untouched(&victim);
    }
    d.docker(&["volume", "prune", "-af"]).ok();
}

#[test]
fn roots_with_links_where_the_engine_mounts_stay_inside() {
    let d = Daemon::start();
    let victim = victim(&d);
    let out = victim.display().to_string();
    let up = format!("{}{out}", "../".repeat(12));
    let busybox = image::busybox_tar();
    // Each alone, absolute and relative (CVE-2026-41579, CVE-2023-28642).
    let places = [
        "dev",
        "proc",
        "sys",
        "etc/hosts",
        "etc/resolv.conf",
        "etc/hostname",
        "dev/pts",
        "dev/shm",
        "dev/mqueue",
        "dev/console",
        "dev/null",
    ];
    for place in places {
        for target in [out.as_str(), &up, &format!("{out}/secret"), "/proc", "/etc", "loop"] {
            let link = if target == "loop" { place.rsplit('/').next().unwrap() } else { target };
            let hostile = layer(&[(place, b'2', link, b"")]);
            load(&d, "hostile:1", json!({"Env": ["PATH=/bin"]}), &[busybox.clone(), hostile]);
            let script = "cat /dev/secret /proc/secret /sys/secret /etc/hosts /etc/hostname /etc/resolv.conf 2>/dev/null; echo x >/dev/null; exit 0";
            let ran = d.docker(&["run", "--rm", "hostile:1", "sh", "-c", script]);
            assert!(!ran.out.contains("host secret"), "{place} -> {target}: {ran:?}");
            assert!(ran.code == 0 || !ran.err.trim().is_empty(), "{place} -> {target}: {ran:?}");
            untouched(&victim);
        }
    }
    assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
}

#[test]
fn labels_and_odd_values_of_an_image_steer_nothing() {
    let d = Daemon::start();
    let victim = victim(&d);
    let base = [image::busybox_tar()];
    let touch = format!("binary:///bin/sh?-c&touch+{}/made", victim.display());
    load(
        &d,
        "hostile:1",
        json!({"Env": ["PATH=/bin"], "Labels": {
        "containerd.io/restart.loguri": touch, "io.containerd.image.name": "other:1", "wharf.volume": "/etc",
        "com.docker.network.bridge.name": "x", "io.kubernetes.container.logpath": "/etc/shadow", "": "empty",
        "desktop.docker.io/binds/0/Source": "/etc", "log-driver": "syslog", "maintainer": "x\ny\u{0}z"}}),
        &base,
    );
    d.docker(&["run", "--rm", "--network", "none", "hostile:1", "true"]).ok();
    let mounts = d.docker(&["run", "--rm", "--network", "none", "hostile:1", "cat", "/proc/mounts"]).ok();
    assert!(!mounts.contains("shadow"), "{mounts}");
    untouched(&victim);
    // Values that are none: an error that says so, or nothing happens; the daemon is well and nothing stays.
    let long = "x".repeat(3 << 20);
    let many: Vec<String> = (0..200_000).map(|n| n.to_string()).collect();
    for config in [
        json!({"StopSignal": "NOSUCH"}),
        json!({"StopSignal": "99999999999999999999"}),
        json!({"ExposedPorts": {"99999/tcp": {}, "x/y": {}, "": {}, "80-1/tcp": {}}}),
        json!({"Env": ["=", "", "NOVALUE", "A=\u{0}", format!("LONG={long}")]}),
        json!({"Entrypoint": ["", ""]}),
        json!({"Entrypoint": many}),
        json!({"Cmd": [long]}),
        json!({"StopTimeout": -5}),
        json!({"StopTimeout": i64::MAX}),
        json!({"Healthcheck": {"Test": ["CMD-SHELL", "exit 1"], "Interval": -1, "Timeout": -1, "Retries": -1}}),
        json!({"Healthcheck": {"Test": ["NOSUCH"], "Interval": 1}}),
        json!({"Volumes": {"": {}, ".": {}, "..": {}, "a\u{0}b": {}}}),
        json!({"WorkingDir": "x".repeat(5000)}),
        json!({"WorkingDir": "a\u{0}b"}),
    ] {
        let shown: String = config.to_string().chars().take(80).collect();
        let mut config = config;
        config["Cmd"] = if config["Cmd"].is_null() { json!(["true"]) } else { config["Cmd"].clone() };
        load(&d, "hostile:1", config, &base);
        let ran = d.docker(&["run", "--rm", "--network", "none", "hostile:1"]);
        assert!(ran.code == 0 || !ran.err.trim().is_empty(), "{shown}: {ran:?}");
        assert!(!ran.err.contains("panicked"), "{shown}: {ran:?}");
        eventually("nothing to be left", || d.docker(&["ps", "-aq"]).ok().is_empty().then_some(()));
    }
    assert!(!d.log().contains("panicked"), "{}", d.log());
    untouched(&victim);
    d.docker(&["volume", "prune", "-af"]).ok();
}
