//! User namespaces, seen from inside and attacked from there.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use serde_json::{Value, json};
use wharf_tests::{Daemon, Options};

/// First id of the daemon's one range, and of those that containers have for themselves.
const FIXED: u32 = 1_200_000;
const OWN: u32 = 2_000_000;

fn daemon(args: &[&str]) -> Daemon {
    let subids = format!("dockremap:{FIXED}:65536\ncontainers:{OWN}:1000000\n");
    with_subids(args, &subids, &subids)
}

fn with_subids(args: &[&str], subuid: &str, subgid: &str) -> Daemon {
    let daemon = Daemon::with(Options {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        etc: wharf_tests::userns::etc(subuid, subgid),
        ..Options::default()
    });
    daemon.import_busybox();
    daemon
}

fn remapped() -> Daemon {
    daemon(&["--userns-remap", "default"])
}

/// A script in a container without networks.
fn sh(daemon: &Daemon, args: &[&str], script: &str) -> String {
    let head = ["run", "--rm", "--network", "none"];
    daemon.docker(&[&head[..], args, &["busybox", "sh", "-c", script]].concat()).ok()
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn host_ns(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
}

#[test]
fn root_inside_is_nobody_outside() {
    let d = remapped();
    assert!(d.docker(&["info", "-f", "{{.SecurityOptions}}"]).ok().contains("name=userns"));
    let map = sh(&d, &[], "cat /proc/self/uid_map /proc/self/gid_map");
    assert_eq!(words(&map), ["0", &FIXED.to_string(), "65536", "0", &FIXED.to_string(), "65536"]);
    // Nothing of the image is copied or changed for it: root's files are root's, seen from either side.
    assert_eq!(sh(&d, &[], "stat -c %u:%g /bin/busybox /etc/passwd /"), "0:0\n0:0\n0:0");
    assert_eq!(
        sh(&d, &["--userns", "host"], "stat -c %u:%g /bin/busybox; cat /proc/self/uid_map | tr -s ' '"),
        "0:0\n 0 0 4294967295"
    );
    for (kind, own) in
        [("user", true), ("mnt", true), ("net", true), ("ipc", true), ("uts", true), ("cgroup", true)]
    {
        let inside = sh(&d, &[], &format!("readlink /proc/self/ns/{kind}"));
        assert_eq!(inside != host_ns(kind), own, "{kind}");
    }
    // As the host sees it.
    let id = d.docker(&["run", "-d", "--network", "none", "busybox", "sleep", "1000"]).ok();
    let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", &id]).ok();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uids = status.lines().find(|l| l.starts_with("Uid:")).unwrap();
    assert_eq!(words(uids)[1..], vec![FIXED.to_string(); 4]);
    let inherited = status.lines().find(|l| l.starts_with("CapInh:")).unwrap();
    assert!(inherited.ends_with("0000000000000000"));
    // All of it again after the daemon's death; then a start from what it wrote down.
    let mut d = d;
    d.crash();
    d.restart();
    let map = format!("0 {FIXED} 65536");
    let exec = d
        .docker(&[
            "exec",
            &id,
            "sh",
            "-c",
            "cat /proc/self/uid_map; id -u; echo $$ > /made; stat -c %u /made",
        ])
        .ok();
    assert_eq!(words(&exec), [&words(&map)[..], &["0", "0"]].concat());
    d.docker(&["restart", "-t", "0", &id]).ok();
    let exec = d.docker(&["exec", &id, "sh", "-c", "cat /proc/self/uid_map; stat -c %u /made"]).ok();
    assert_eq!(words(&exec), [&words(&map)[..], &["0"]].concat());
    // What it wrote is on disk with the ids of inside, so that the image that becomes of it fits every container.
    d.docker(&["exec", &id, "sh", "-c", "echo x > /five && chown 5:6 /five"]).ok();
    d.docker(&["commit", &id, "made"]).ok();
    let of = |args: &[&str]| {
        let head = ["run", "--rm", "--network", "none"];
        d.docker(&[&head[..], args, &["made", "stat", "-c", "%u:%g", "/five", "/made"]].concat()).ok()
    };
    assert_eq!(of(&[]), "5:6\n0:0");
    assert_eq!(of(&["--userns", "host"]), "5:6\n0:0");
    assert_eq!(of(&["--user", "77"]), "5:6\n0:0");
}

/// As dockerd has it: nothing says that the user's ids and the group's have the same numbers, or are as many.
#[test]
fn users_and_groups_may_have_different_ranges() {
    const GROUPS: u32 = 1_500_000;
    let d = with_subids(
        &["--userns-remap", "default"],
        &format!("dockremap:{FIXED}:65536\n"),
        &format!("dockremap:{GROUPS}:1000\ndockremap:1600000:64536\n"),
    );
    let map = sh(&d, &[], "cat /proc/self/uid_map /proc/self/gid_map");
    let expected = format!("0 {FIXED} 65536 0 {GROUPS} 1000 1000 1600000 64536");
    assert_eq!(words(&map).join(" "), expected);
    let make = "touch /vol/root; touch /vol/other; chown 7:1005 /vol/other; stat -c %u:%g /bin/busybox /vol/root /vol/other; \
                stat -c %u:%g /dev/shm";
    let made = sh(&d, &["-v", "vol:/vol", "--ipc", "shareable"], make);
    assert_eq!(words(&made), ["0:0", "0:0", "7:1005", "0:0"]);
    // On disk ids are those of inside.
    let volume = d.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", "vol"]).ok();
    let owner = |name: &str| {
        let meta = fs::metadata(format!("{volume}/{name}")).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!((owner("root"), owner("other")), ((0, 0), (7, 1005)));
    d.docker(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "none",
        "-u",
        "3:1004",
        "-v",
        "vol:/vol",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", "box"]).ok();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!((line("Uid:"), line("Gid:")), ((FIXED + 3).to_string(), 1_600_004.to_string()));
    assert_eq!(d.docker(&["exec", "-u", "5:6", "box", "id"]).ok(), "uid=5 gid=6 groups=6");
    // Copies have the owners of inside, both ways.
    let tar = d.docker(&["cp", "box:/vol/other", "-"]);
    let archive = String::from_utf8_lossy(tar.ok().as_bytes()).into_owned();
    // Owner and group of the header, in octal digits.
    assert!(
        archive.get(108..124).is_some_and(|ids| ids.starts_with("0000007") && ids.contains("0001755")),
        "{archive:?}"
    );
    d.docker(&["rm", "-f", "box"]).ok();
    // An id that only one of both has.
    d.docker(&["run", "--rm", "--network", "none", "-u", "0:65535", "busybox", "true"]).ok();
    d.docker(&["run", "--rm", "--network", "none", "-u", "65536:0", "busybox", "true"])
        .fails(125, "id 65536 has no place in the container's user namespace");
    d.docker(&["volume", "rm", "vol"]).ok();
}

#[test]
fn the_host_is_out_of_reach() {
    let d = remapped();
    let dir = d.path("host");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("secret"), "secret").unwrap();
    fs::set_permissions(dir.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(dir.join("public"), "public").unwrap();
    let bind = format!("{}:/h", dir.display());
    let all = ["-v", &bind, "--cap-add", "ALL", "--security-opt", "seccomp=unconfined"];
    // With every capability there is, of its own namespace.
    let attack = "cat /h/public; cat /h/secret; echo x > /h/public; touch /h/new; chown 0 /h/public; chmod 777 /h; \
                  rm /h/public; ln /h/secret /tmp/l; mknod /dev/own b 8 0; mknod /own c 1 1; \
                  mount -o remount,rw /proc/sys 2>/dev/null; echo 1 > /proc/sys/vm/drop_caches; \
                  echo x > /proc/sys/kernel/core_pattern; echo b > /proc/sysrq-trigger; \
                  echo 1 > /sys/kernel/mm/transparent_hugepage/enabled; \
                  hostname changed && hostname";
    let head = ["run", "--rm", "--network", "none"];
    let ran = d.docker(&[&head[..], &all, &["busybox", "sh", "-c", attack]].concat());
    assert!(ran.out.starts_with("public"), "{ran:?}");
    assert!(ran.out.trim_end().ends_with("changed"), "its own host name is its own: {ran:?}");
    assert!(!ran.out.contains("secret"), "{ran:?}");
    let refused =
        ran.err.lines().filter(|l| ["denied", "not permitted", "Read-only"].iter().any(|w| l.contains(w)));
    assert!(refused.count() >= 11, "{}", ran.err);
    assert_eq!(fs::read_to_string(dir.join("public")).unwrap(), "public");
    assert_eq!(fs::metadata(dir.join("public")).unwrap().uid(), 0);
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o755);
    assert!(!dir.join("new").exists());
    // Owners of a bind are what they are: nobody inside. What is everybody's is written under the mapped id.
    assert_eq!(sh(&d, &["-v", &bind], "stat -c %u /h/public"), "65534");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    sh(&d, &["-v", &bind, "--user", "7"], "echo x > /h/theirs");
    assert_eq!(fs::metadata(dir.join("theirs")).unwrap().uid(), FIXED + 7);
    // Asked for, the owners are translated like those of the image.
    let mapped = format!("{}:/h:idmap", dir.display());
    assert_eq!(
        sh(&d, &["-v", &mapped], "stat -c %u /h/public; cat /h/secret; echo y > /h/mine; chown 5 /h/mine"),
        "0\nsecret"
    );
    assert_eq!(fs::metadata(dir.join("mine")).unwrap().uid(), 5);
}

#[test]
fn capabilities_count_inside_and_nowhere_else() {
    let d = remapped();
    // The network namespace is its own: with the capability its root does with it what it likes.
    let script = "ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu; ping -c 1 -W 2 127.0.0.1 > /dev/null && echo pong; \
                  nc -l -p 80 -w 1 > /dev/null 2>&1; echo $?";
    let out = d.docker(&["run", "--rm", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", script]).ok();
    assert!(out.starts_with("1400\npong"), "{out}");
    // Ping sockets are for all of its groups.
    let range = d.docker(&["run", "--rm", "busybox", "cat", "/proc/sys/net/ipv4/ping_group_range"]).ok();
    assert_eq!(words(&range), ["0", "65535"]);
    // A low port of its own, and networks as ever.
    let id = d
        .docker(&[
            "run",
            "-d",
            "-p",
            "127.0.0.1:0:80",
            "busybox",
            "sh",
            "-c",
            "mkdir /w; echo hi > /w/index.html; httpd -f -p 80 -h /w",
        ])
        .ok();
    let port = d.docker(&["port", &id, "80"]).ok();
    wharf_tests::eventually("an answer", || {
        let mut get = d.in_namespace("busybox");
        get.args(["wget", "-q", "-O", "-", &format!("http://{port}/")]);
        Some(d.run_with_input(get, b"")).filter(|ran| ran.code == 0 && ran.out == "hi\n")
    });
    // Mounting is possible inside, with the capability, and stays inside.
    let mounted = sh(
        &d,
        &["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"],
        "mkdir /m && mount -t tmpfs x /m && touch /m/f && ls /m; mount --bind /m /mnt 2>&1; mount -t ext4 /dev/zero /m 2>&1 | grep -c -i -e permi -e invalid -e block",
    );
    assert!(mounted.starts_with('f'), "{mounted}");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(" /m "), "{table}");
    // Of a container without capabilities, an exec with all of them has them inside.
    let caps = d.docker(&[
        "exec",
        "--privileged",
        &id,
        "sh",
        "-c",
        "grep CapEff /proc/self/status; echo x > /proc/sys/kernel/core_pattern",
    ]);
    assert!(
        caps.err.contains("denied") || caps.err.contains("Read-only") || caps.err.contains("not permitted"),
        "{caps:?}"
    );
}

#[test]
fn files_of_all_kinds_have_their_owners() {
    let d = remapped();
    let out = sh(
        &d,
        &[
            "--tmpfs",
            "/t:uid=5",
            "--mount",
            "type=tmpfs,target=/u",
            "-v",
            "named:/v",
            "-v",
            "/anon",
            "--ipc",
            "shareable",
        ],
        "stat -c '%u %n' /dev /dev/null /dev/pts /dev/shm /dev/mqueue /t /u /v /anon /etc/hosts /etc/resolv.conf; \
         echo x > /dev/null && head -c 1 /dev/zero | wc -c; for f in /dev/shm /dev/mqueue /t /u /v /anon /tmp /; do touch $f/x || echo $f; done; \
         echo more >> /etc/hosts; stat -c %u /v/x",
    );
    let expected = "0 /dev\n0 /dev/null\n0 /dev/pts\n0 /dev/shm\n0 /dev/mqueue\n5 /t\n0 /u\n0 /v\n0 /anon\n0 /etc/hosts\n0 /etc/resolv.conf\n1\n0";
    assert_eq!(out, expected, "{out}");
    // A volume has the ids of inside on disk: containers of any map share it.
    assert_eq!(sh(&d, &["-v", "named:/v", "--userns", "host"], "stat -c %u /v/x; chown 9 /v/x"), "0");
    assert_eq!(sh(&d, &["-v", "named:/v"], "stat -c %u /v/x"), "9");
    // The image's content comes into a new volume with its owners.
    d.docker(&[
        "run",
        "--name",
        "base",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "mkdir /data && echo 1 > /data/f && chown 5:6 /data/f && chown 7 /data",
    ])
    .ok();
    d.docker(&["commit", "base", "withdata"]).ok();
    let head = ["run", "--rm", "--network", "none", "-v", "filled:/data", "withdata"];
    assert_eq!(
        d.docker(&[&head[..], &["stat", "-c", "%u:%g", "/data", "/data/f"]].concat()).ok(),
        "7:0\n5:6"
    );
    // An image mount too.
    assert_eq!(
        sh(
            &d,
            &["--mount", "type=image,source=withdata,target=/img"],
            "stat -c %u:%g /img/data/f /img/bin/busybox"
        ),
        "5:6\n0:0"
    );
    // A file of the image is changed, deleted, linked: what overlay does behind the scenes works as well.
    assert_eq!(
        sh(
            &d,
            &[],
            "echo more >> /etc/passwd; rm /etc/group; mkdir /etc/new; rm -r /bin; stat -c %u /etc/passwd 2>/dev/null; echo done"
        ),
        "0\ndone"
    );
    // The terminal and the standard streams are the user's.
    let out = sh(&d, &["--user", "1234"], "echo via > /dev/stdout; echo err > /dev/stderr; id -u");
    assert_eq!(out, "via\n1234");
    let tty = d
        .docker(&[
            "run",
            "--rm",
            "-t",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "tty; stat -c %u $(tty); stat -c %u /dev/console",
        ])
        .ok();
    assert_eq!(words(&tty), ["/dev/pts/0", "0", "0"]);
}

#[test]
fn what_is_copied_in_and_out_keeps_its_owner() {
    let d = remapped();
    let id = d
        .docker(&[
            "run",
            "-d",
            "--network",
            "none",
            "-v",
            "vol:/vol",
            "busybox",
            "sh",
            "-c",
            "echo x > /made; chown 5:6 /made; mkdir /d; sleep 1000",
        ])
        .ok();
    wharf_tests::eventually("the directory", || {
        (d.docker(&["exec", &id, "ls", "/d"]).code == 0).then_some(())
    });
    for running in [true, false] {
        if !running {
            d.docker(&["stop", "-t", "0", &id]).ok();
        }
        let tar = d.docker(&["cp", "-a", &format!("{id}:/made"), "-"]);
        assert_eq!(tar.code, 0);
        let ids = |tar: &str| (tar[108..116].to_owned(), tar[116..124].to_owned());
        assert_eq!(ids(&tar.out), ("0000005\0".into(), "0000006\0".into()), "running: {running}");
        // Into the root file system and into a volume.
        let source = d.path("up");
        fs::write(&source, "up").unwrap();
        chown(&source, Some(7), Some(8)).unwrap();
        for place in ["/d/up", "/vol/up"] {
            d.docker(&["cp", "-a", source.to_str().unwrap(), &format!("{id}:{place}")]).ok();
            d.docker(&["cp", source.to_str().unwrap(), &format!("{id}:{place}2")]).ok();
        }
        d.docker(&["start", &id]).ok();
        let seen =
            d.docker(&["exec", &id, "stat", "-c", "%u:%g", "/d/up", "/vol/up", "/d/up2", "/vol/up2"]).ok();
        assert_eq!(words(&seen), ["7:8"; 4], "running: {running}");
    }
    // An id that has no place there is the archive's fault, and leaves nothing.
    let mut tar = Vec::new();
    wharf_tests::image::entry(&mut tar, "far", b'0', 0o644, "", b"x");
    tar[108..116].copy_from_slice(b"0400000\0");
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|b| u32::from(*b)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    wharf_tests::image::finish(&mut tar);
    d.docker_with_input(&["cp", "-a", "-", &format!("{id}:/d")], &tar)
        .fails(1, "Container ID 131072 cannot be mapped to a host ID");
    let changes = d.docker(&["diff", &id]).ok();
    assert!(changes.contains("A /made") && changes.contains("A /d/up"), "{changes}");
}

#[test]
fn what_docker_refuses_is_refused_in_its_words() {
    let d = remapped();
    for (args, text) in [
        (
            &["--privileged"][..],
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ),
        (
            &["--network", "host"],
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (&["--pid", "host"], "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        let line = [&["run", "--rm"][..], args, &["busybox", "true"]].concat();
        d.docker(&line).fails(125, text);
        let line = [&["run", "--rm", "--userns", "host"][..], args, &["busybox", "true"]].concat();
        d.docker(&line).ok();
    }
    let create = |userns: &str| {
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"UsernsMode": userns}});
        let answer = d.api("POST", "/containers/create", &body.to_string());
        (answer.status, answer.message())
    };
    for bad in ["keep-id", "auto:size=0", "auto:size=4294967296", "container:x"] {
        let (status, text) = create(bad);
        assert_eq!(status, 400, "{bad}: {text}");
        assert!(text.starts_with("invalid USER mode: "), "{text}");
    }
    assert_eq!(create("auto:size=900000000").0, 503);
    // An id beyond the range, also one that would wrap around.
    for user in ["65536", "70000:0", "0:70000"] {
        let ran = d.docker(&["run", "--rm", "--network", "none", "--user", user, "busybox", "true"]);
        assert!(
            ran.code != 0 && ran.err.contains("has no place in the container's user namespace"),
            "{ran:?}"
        );
    }
    d.docker(&["run", "--rm", "--user", "4294967296", "busybox", "true"])
        .fails(125, "uids and gids must be in range 0-2147483647");
    assert_eq!(
        d.docker(&["ps", "-aq"]).ok().lines().filter(|l| !l.is_empty()).count(),
        0,
        "nothing is left of what was refused"
    );
}

#[test]
fn ranges_of_their_own() {
    let d = daemon(&["--userns-remap", "auto"]);
    let start = |args: &[&str]| {
        d.docker(&[&["run", "-d", "--network", "none"][..], args, &["busybox", "sleep", "1000"]].concat())
            .ok()
    };
    let map = |id: &str| -> Vec<u32> {
        words(&d.docker(&["exec", id, "cat", "/proc/self/uid_map"]).ok())
            .iter()
            .map(|n| n.parse().unwrap())
            .collect()
    };
    let (one, two) = (start(&["-v", "shared:/v"]), start(&["-v", "shared:/v"]));
    assert_eq!((map(&one), map(&two)), (vec![0, OWN, 65_536], vec![0, OWN + 65_536, 65_536]));
    // The same image, the same volume, no copy: a file of one is root's in the other.
    d.docker(&["exec", &one, "touch", "/v/f"]).ok();
    assert_eq!(d.docker(&["exec", &two, "stat", "-c", "%u", "/v/f"]).ok(), "0");
    // Without the volume they have nothing in common: another's process cannot even be signalled from a shared pid namespace
    // of the host's making, as its ids are not there.
    let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", &one]).ok();
    let uid = fs::metadata(format!("/proc/{pid}")).unwrap().uid();
    assert_eq!(uid, OWN);
    d.docker(&["rm", "-f", &one]).ok();
    let three = start(&[]);
    assert_eq!(map(&three), [0, OWN, 65_536], "a range that is free is given again");
    // Said by one container alone.
    let body = json!({"Image": "busybox", "Cmd": ["cat", "/proc/self/uid_map"], "HostConfig": {"NetworkMode": "none", "UsernsMode": "auto:size=2000"}});
    let made: Value = d.api("POST", "/containers/create?name=small", &body.to_string()).json();
    assert!(made["Id"].is_string(), "{made}");
    assert_eq!(words(&d.docker(&["start", "-a", "small"]).ok())[2], "2000");
    assert_eq!(d.docker(&["inspect", "-f", "{{.HostConfig.UsernsMode}}", "small"]).ok(), "auto:size=2000");
    // Many at once get many ranges.
    let ids: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..6).map(|_| scope.spawn(|| start(&[]))).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut firsts: Vec<u32> = ids.iter().map(|id| map(id)[1]).collect();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), 6);
}

#[test]
fn containers_that_join_others_share_their_user_namespace() {
    let d = daemon(&["--userns-remap", "auto"]);
    let donor =
        d.docker(&["run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sleep", "1000"]).ok();
    let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", &donor]).ok();
    let of = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
    for (flag, kind) in [("--network", "net"), ("--pid", "pid"), ("--ipc", "ipc")] {
        let script = format!("readlink /proc/self/ns/user; readlink /proc/self/ns/{kind}");
        let args = ["run", "--rm", flag, "container:donor", "busybox", "sh", "-c", &script];
        assert_eq!(words(&d.docker(&args).ok()), [of("user"), of(kind)], "{kind}");
    }
    // With rights there, as the namespace is its own.
    d.docker(&[
        "run",
        "--rm",
        "--network",
        "container:donor",
        "--cap-add",
        "NET_ADMIN",
        "busybox",
        "ip",
        "link",
        "set",
        "lo",
        "mtu",
        "1300",
    ])
    .ok();
    assert_eq!(d.docker(&["exec", "donor", "cat", "/sys/class/net/lo/mtu"]).ok(), "1300");
    d.docker(&["run", "-d", "--name", "other", "--network", "none", "busybox", "sleep", "1000"]).ok();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "plain",
        "--userns",
        "host",
        "--network",
        "none",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    d.docker(&["run", "--rm", "--network", "container:donor", "--pid", "container:other", "busybox", "true"])
        .fails(125, "cannot join namespaces of donor and other: they are in different user namespaces");
    d.docker(&["run", "--rm", "--userns", "host", "--network", "container:donor", "busybox", "true"])
        .fails(125, "it is in a user namespace of its own");
    // One of the host's user namespace is joined as one of the host's.
    let joined = d
        .docker(&[
            "run",
            "--rm",
            "--pid",
            "container:plain",
            "--network",
            "none",
            "busybox",
            "readlink",
            "/proc/self/ns/user",
        ])
        .ok();
    assert_eq!(joined, host_ns("user"));
}

#[test]
fn limits_and_devices_hold() {
    let d = remapped();
    let id = d
        .docker(&[
            "run",
            "-d",
            "--network",
            "none",
            "--memory",
            "64m",
            "--pids-limit",
            "20",
            "--ulimit",
            "nofile=2048:1048576",
            "--device",
            "/dev/zero:/dev/deep/er/x",
            "--device",
            "/dev/kmsg:/dev/deep/k:r",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", &id]).ok();
    // Every process of it, and of an exec, is in the limited cgroup.
    for of in [pid, d.docker(&["exec", &id, "sh", "-c", "exec sleep 0; echo"]).ok()]
        .iter()
        .filter(|p| !p.is_empty())
    {
        let groups = fs::read_to_string(format!("/proc/{of}/cgroup")).unwrap();
        for line in groups.lines().filter(|l| ["memory", "pids", "devices"].iter().any(|c| l.contains(c))) {
            assert!(line.contains(&id), "{line}");
        }
    }
    // Of a machine whose root may not raise limits, the host's own is what there is.
    let soft = d.docker(&["exec", &id, "sh", "-c", "ulimit -n"]).ok();
    assert_eq!(soft, "2048");
    let device = d.docker(&["exec", &id, "sh", "-c", "head -c 2 /dev/deep/er/x | wc -c; stat -c %u /dev/deep /dev/deep/er/x /dev/deep/k; exec 3> /dev/deep/k"]);
    assert!(device.out.starts_with("2\n0\n0\n0") && device.err.contains("not permitted"), "{device:?}");
    let bomb = d.docker(&[
        "exec",
        &id,
        "sh",
        "-c",
        "i=0; while [ $i -lt 60 ]; do sleep 1 & i=$((i+1)); done; echo $i",
    ]);
    assert!(bomb.err.contains("can't fork"), "{bomb:?}");
    let out = d.docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--memory",
        "32m",
        "--memory-swap",
        "32m",
        "busybox",
        "sh",
        "-c",
        "head -c 200m /dev/zero | tail",
    ]);
    assert_eq!(out.code, 137, "{out:?}");
}

#[test]
fn mounts_come_in_and_do_not_go_out() {
    let d = remapped();
    let dir = d.path("shared");
    fs::create_dir(&dir).unwrap();
    let text = dir.display().to_string();
    // Where the daemon lives.
    let host = |line: &str| {
        let mut command = std::process::Command::new("nsenter");
        command.args(["-t", &d.pid().to_string(), "-m", "sh", "-c", line]);
        d.run_with_input(command, b"")
    };
    host(&format!("mount -t tmpfs t {text} && mount --make-shared {text} && mkdir {text}/in {text}/out && chmod 777 {text}/out")).ok();
    let mount = format!("type=bind,source={text},target=/b,bind-propagation=rshared");
    let id = d
        .docker(&[
            "run",
            "-d",
            "--network",
            "none",
            "--cap-add",
            "SYS_ADMIN",
            "--mount",
            &mount,
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    host(&format!("mount -t tmpfs later {text}/in && touch {text}/in/f")).ok();
    assert_eq!(d.docker(&["exec", &id, "ls", "/b/in"]).ok(), "f");
    d.docker(&["exec", &id, "sh", "-c", "mount -t tmpfs inner /b/out && touch /b/out/g && ls /b/out/g"]).ok();
    assert_eq!(host(&format!("ls {text}/out")).ok(), "");
    // Nor can what came be taken off for the host.
    d.docker(&["exec", &id, "umount", "/b/in"]);
    assert_eq!(host(&format!("ls {text}/in")).ok(), "f");
    d.docker(&["rm", "-f", &id]).ok();
    host(&format!("umount -R -l {text}")).ok();
}
