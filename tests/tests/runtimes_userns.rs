//! User namespaces of containers that other runtimes make, seen from inside and attacked from there. What holds for the engine's own
//! containers (`userns.rs`) holds for these.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::{Value, json};
use wharf_tests::runtimes::{RUNTIMES, Using, config, no_traces, path_with_shim};
use wharf_tests::{Daemon, Options, eventually, image};

/// First id of the daemon's one range, and of those that containers have for themselves.
const FIXED: u32 = 3_200_000;
const OWN: u32 = 4_000_000;

fn daemon(remap: &str, config: &Value) -> Daemon {
    let subids = format!("dockremap:{FIXED}:65536\ncontainers:{OWN}:1000000\n");
    let daemon = Daemon::with(Options {
        args: vec!["--userns-remap".into(), remap.into()],
        config: Some(config.to_string()),
        env: vec![("PATH".into(), path_with_shim())],
        etc: wharf_tests::userns::etc(&subids, &subids),
        ..Options::default()
    });
    daemon.import_busybox();
    daemon
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn each(daemon: &Daemon, body: impl Fn(&Using<'_>)) {
    for runtime in RUNTIMES {
        body(&Using { daemon, runtime });
        // No runtime gives the host's own device away.
        let null = fs::metadata("/dev/null").unwrap();
        assert_eq!((null.uid(), null.gid()), (0, 0), "/dev/null after {runtime}");
    }
    for id in daemon.docker(&["ps", "-aq"]).ok().split_whitespace() {
        daemon.docker(&["rm", "-f", id]).ok();
    }
    no_traces(daemon);
}

/// A line of `/proc/<pid>/status` by its name.
fn status(pid: &str, name: &str) -> Vec<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    words(line).into_iter().map(str::to_owned).collect()
}

#[test]
fn root_inside_is_nobody_outside() {
    let d = daemon("default", &config());
    each(&d, |u| {
        let map = u.sh(&[], "cat /proc/self/uid_map /proc/self/gid_map");
        let expected = format!("0 {FIXED} 65536 0 {FIXED} 65536");
        assert_eq!(words(&map).join(" "), expected);
        // Images and volumes have the ids of inside, whoever looks.
        assert_eq!(u.sh(&[], "stat -c %u:%g /bin/busybox /etc/passwd / /etc/hosts"), "0:0\n0:0\n0:0\n0:0");
        for kind in ["user", "mnt", "net", "ipc", "uts", "cgroup"] {
            let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
            assert_ne!(u.sh(&[], &format!("readlink /proc/self/ns/{kind}")), host, "{kind}");
        }
        // As the host sees it, an exec included, and one of another user.
        let id = u.stay(&["--network", "none"]);
        assert_eq!(status(&u.pid(&id), "Uid:"), vec![FIXED.to_string(); 4]);
        assert_eq!(status(&u.pid(&id), "CapInh:"), ["0000000000000000"]);
        let exec = |args: &[&str], script: &str| {
            u.daemon.docker(&[&["exec"], args, &[&id, "sh", "-c", script]].concat()).ok()
        };
        assert_eq!(
            words(&exec(&[], "cat /proc/self/uid_map; id -u")).join(" "),
            format!("0 {FIXED} 65536 0")
        );
        u.daemon.docker(&["exec", "-d", "-u", "7:8", &id, "sleep", "2000"]).ok();
        let seven = eventually("the exec's process", || {
            let top = u.daemon.docker(&["top", &id, "-o", "pid,args"]).out;
            top.lines()
                .find(|l| l.contains("sleep 2000"))
                .and_then(|l| l.split_whitespace().next())
                .map(str::to_owned)
        });
        assert_eq!(status(&seven, "Uid:"), vec![(FIXED + 7).to_string(); 4]);
        assert_eq!(status(&seven, "Gid:"), vec![(FIXED + 8).to_string(); 4]);
        // What it wrote is on disk with the ids of inside, so the image that becomes of it fits every container.
        exec(&[], "echo x > /made; echo x > /five; chown 5:6 /five");
        assert!(u.daemon.docker(&["diff", &id]).ok().contains("A /five"));
        u.daemon.docker(&["commit", &id, "made"]).ok();
        for more in [&[][..], &["--userns", "host"], &["--user", "77"]] {
            let look =
                [&["--rm", "--network", "none"], more, &["made", "stat", "-c", "%u:%g", "/five", "/made"]];
            assert_eq!(u.run(&look.concat()).ok(), "5:6\n0:0");
        }
        // Copies, in and out, of running and stopped containers.
        let tar = u.daemon.docker(&["cp", &format!("{id}:/five"), "-"]).ok();
        assert!(
            tar.get(108..124).is_some_and(|ids| ids.starts_with("0000005") && ids.contains("0000006")),
            "{tar:?}"
        );
        let file = u.daemon.path("copied");
        fs::write(&file, "of the host").unwrap();
        u.daemon.docker(&["cp", &file.display().to_string(), &format!("{id}:/copied")]).ok();
        assert_eq!(exec(&[], "stat -c %u /copied; cat /copied"), "0\nof the host");
        u.daemon.docker(&["restart", "-t", "0", &id]).ok();
        assert_eq!(
            exec(&[], "stat -c %u:%g /five /copied; head -1 /proc/self/uid_map | tr -s ' '"),
            format!("5:6\n0:0\n 0 {FIXED} 65536")
        );
        u.daemon.docker(&["kill", &id]).ok();
        // Without all that, where it is asked for.
        let host = u.sh(&["--userns", "host"], "cat /proc/self/uid_map");
        assert_eq!(words(&host), ["0", "0", "4294967295"]);
    });
}

#[test]
fn the_host_is_out_of_reach() {
    let d = daemon("default", &config());
    let dir = d.path("host");
    fs::create_dir(&dir).unwrap();
    let (public, secret) = (dir.join("public"), dir.join("secret"));
    fs::write(&secret, "secret").unwrap();
    fs::write(&public, "public").unwrap();
    let bind = format!("{}:/h", dir.display());
    let mapped = format!("{bind}:idmap");
    each(&d, |u| {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let all = ["-v", &bind, "--cap-add", "ALL", "--security-opt", "seccomp=unconfined"];
        // With every capability there is, of its own namespace.
        let attack = "cat /h/public; cat /h/secret; echo x > /h/public; touch /h/new; chown 0 /h/public; chmod 777 /h; \
                      rm /h/public; mknod /dev/own b 8 0; mknod /own c 1 1; \
                      mount -o remount,rw /proc/sys 2>/dev/null; echo 1 > /proc/sys/vm/drop_caches; \
                      echo x > /proc/sys/kernel/core_pattern; echo b > /proc/sysrq-trigger; \
                      echo 1 > /sys/kernel/mm/transparent_hugepage/enabled; kill -9 1 2>/dev/null; \
                      cat /proc/1/environ | tr '\\0' '\\n' | grep -c WHARF; hostname changed && hostname";
        let ran =
            u.run(&[&["--rm", "--network", "none"], &all[..], &["busybox", "sh", "-c", attack]].concat());
        assert!(ran.out.starts_with("public"), "{ran:?}");
        assert!(ran.out.trim_end().ends_with("0\nchanged"), "its own host name is its own: {ran:?}");
        assert!(!ran.out.contains("secret"), "{ran:?}");
        let refused = |l: &&str| ["denied", "not permitted", "Read-only"].iter().any(|w| l.contains(w));
        assert!(ran.err.lines().filter(refused).count() >= 10, "{}", ran.err);
        assert_eq!(fs::read_to_string(&public).unwrap(), "public");
        assert_eq!(
            (fs::metadata(&public).unwrap().uid(), fs::metadata(&dir).unwrap().mode() & 0o777),
            (0, 0o755)
        );
        assert!(!dir.join("new").exists());
        // Owners of a bind are what they are: nobody inside. What is everybody's is written under the mapped id.
        assert_eq!(u.sh(&["-v", &bind], "stat -c %u /h/public"), "65534");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        u.sh(&["-v", &bind, "--user", "7"], "echo x > /h/theirs");
        assert_eq!(fs::metadata(dir.join("theirs")).unwrap().uid(), FIXED + 7);
        fs::remove_file(dir.join("theirs")).unwrap();
        // A program with the set-user-id bit that root inside leaves behind makes nobody the host's root.
        u.sh(&["-v", &bind], "cp /bin/busybox /h/su; chmod 4755 /h/su");
        let left = fs::metadata(dir.join("su")).unwrap();
        assert_eq!((left.uid(), left.mode() & 0o7777), (FIXED, 0o4755));
        fs::remove_file(dir.join("su")).unwrap();
        // Asked for, the owners are translated like those of the image.
        let own = "stat -c %u /h/public; cat /h/secret; echo y > /h/mine; chown 5 /h/mine";
        assert_eq!(u.sh(&["-v", &mapped], own), "0\nsecret");
        assert_eq!(fs::metadata(dir.join("mine")).unwrap().uid(), 5);
        fs::remove_file(dir.join("mine")).unwrap();
        // A volume has the ids of inside on disk: containers of any map and runtime share it.
        let volume = format!("v-{}", u.runtime);
        let named = format!("{volume}:/v");
        u.sh(&["-v", &named], "touch /v/root /v/other; chown 7:8 /v/other");
        let place = u.daemon.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", &volume]).ok();
        let owner = |name: &str| fs::metadata(format!("{place}/{name}")).map(|m| (m.uid(), m.gid())).unwrap();
        assert_eq!((owner("root"), owner("other")), ((0, 0), (7, 8)));
        let other = u.daemon.docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            &named,
            "busybox",
            "stat",
            "-c",
            "%u",
            "/v/other",
        ]);
        assert_eq!(other.ok(), "7");
        // Nothing outside the container's own mounts is on its way in.
        assert_eq!(u.sh(&[], "grep -c -e wharf-test -e exec/oci /proc/mounts; true"), "0");
    });
}

#[test]
fn devices_streams_and_networks() {
    let d = daemon("default", &config());
    each(&d, |u| {
        let out = u.sh(
            &["--tmpfs", "/t:uid=5", "-v", "/anon", "--ipc", "shareable"],
            "echo x > /dev/null && head -c 1 /dev/zero | wc -c; stat -c '%u %n' /t /dev/shm /anon; \
             for f in /dev/shm /dev/mqueue /t /anon /tmp /; do touch $f/x || echo $f; done; echo more >> /etc/hosts; \
             test -e /dev/pts/ptmx && echo pts",
        );
        assert_eq!(out, "1\n5 /t\n0 /dev/shm\n0 /anon\npts", "{}", u.runtime);
        // Streams can be opened again by their names, by root and by others.
        for user in ["0", "7"] {
            let script = "echo one > /dev/stdout; echo two > /proc/self/fd/1; echo three >&2";
            let ran = u.run(&["--rm", "--network", "none", "-u", user, "busybox", "sh", "-c", script]);
            assert_eq!((ran.ok().as_str(), ran.err.trim_end()), ("one\ntwo", "three"));
        }
        let terminal =
            u.run(&["-d", "-t", "--network", "none", "busybox", "sh", "-c", "tty; id -u; exec sleep 1000"]);
        let terminal = terminal.ok();
        eventually("the terminal's output", || {
            u.daemon.docker(&["logs", &terminal]).out.contains("/dev/pts/0\r\n0").then_some(())
        });
        let exec =
            ["exec", "-u", "7", &terminal, "sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr"];
        let ran = u.daemon.docker(&exec);
        assert_eq!((ran.ok().as_str(), ran.err.trim_end()), ("out", "err"));
        assert_eq!(u.daemon.docker_with_input(&["exec", "-i", &terminal, "cat"], b"in").ok(), "in");
        u.daemon.docker(&["rm", "-f", &terminal]).ok();
        // Its network namespace is its own.
        let script = "ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu; ping -c 1 -W 2 127.0.0.1 > /dev/null && echo pong; \
                      cat /proc/sys/net/ipv4/ping_group_range";
        let own = u.run(&["--rm", "--cap-add", "NET_ADMIN", "busybox", "sh", "-c", script]).ok();
        assert_eq!(words(&own), ["1400", "pong", "0", "65535"]);
        let serve = "while :; do echo page | nc -l -p 80; done";
        let one = u.run(&["-d", "--init", "busybox", "sh", "-c", serve]).ok();
        let address = "{{.NetworkSettings.Networks.bridge.IPAddress}}";
        let address = u.daemon.docker(&["inspect", "-f", address, &one]).ok();
        let page = || u.run(&["--rm", "busybox", "nc", "-w", "5", &address, "80"]);
        eventually("a page from one container to the other", || (page().out.trim() == "page").then_some(()));
        let of = format!("container:{one}");
        let joined = u.run(&[
            "--rm",
            "--network",
            &of,
            "busybox",
            "sh",
            "-c",
            "nc -w 5 127.0.0.1 80; cat /proc/self/uid_map",
        ]);
        assert_eq!(words(&joined.ok()), ["page", "0", &FIXED.to_string(), "65536"]);
        // Limits hold, and raising one needs no right inside.
        let limits = u.sh(
            &["--memory", "64m", "--ulimit", "nofile=100:15000", "-u", "9"],
            "ulimit -n; ulimit -Hn; cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max",
        );
        assert_eq!(words(&limits), ["100", "15000", "67108864"]);
        u.daemon.docker(&["rm", "-f", &one]).ok();
    });
}

#[test]
fn what_is_refused_is_refused_in_dockers_words() {
    let d = daemon("default", &config());
    each(&d, |u| {
        let run = |args: &[&str]| u.run(&[&["--rm"], args, &["busybox", "true"]].concat());
        run(&["--privileged"]).fails(125, "privileged mode is incompatible with user namespaces");
        run(&["--network", "host"])
            .fails(125, "cannot share the host's network namespace when user namespaces are enabled");
        run(&["--pid", "host"])
            .fails(125, "cannot share the host PID namespace when user namespaces are enabled");
        run(&["--network", "none", "-u", "65536"])
            .fails(125, "id 65536 has no place in the container's user namespace");
        u.run(&["--rm", "--network", "none", "busybox", "nosuch"]).fails(127, "nosuch");
    });
}

#[test]
fn containers_with_ranges_of_their_own() {
    let mut d = daemon("auto", &config());
    let mut first = Vec::new();
    for runtime in RUNTIMES {
        let u = Using { daemon: &d, runtime };
        let id = u.stay(&["--network", "none"]);
        let uid: u32 = status(&u.pid(&id), "Uid:")[0].parse().unwrap();
        assert!((OWN..OWN + 1_000_000).contains(&uid), "{uid}");
        first.push((id, uid));
        // What stock clients cannot say.
        let host = json!({"NetworkMode": "none", "UsernsMode": "auto:size=2000", "Runtime": runtime});
        let body = json!({"Image": "busybox", "Cmd": ["cat", "/proc/self/gid_map"], "HostConfig": host});
        let path = format!("/containers/create?name=small-{runtime}");
        assert_eq!(d.api("POST", &path, &body.to_string()).status, 201);
        let map = d.docker(&["start", "-a", &format!("small-{runtime}")]).ok();
        assert_eq!(words(&map)[2], "2000");
        d.docker(&["rm", &format!("small-{runtime}")]).ok();
        let host = u.sh(&["--userns", "host"], "cat /proc/self/uid_map");
        assert_eq!(words(&host), ["0", "0", "4294967295"]);
    }
    let mut starts: Vec<u32> = first.iter().map(|(_, uid)| *uid).collect();
    starts.sort_unstable();
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= 65_536), "{starts:?}");
    // The range stays through the daemon's death, and so does what an exec gets.
    d.crash();
    d.restart();
    for (id, uid) in &first {
        let map = d.docker(&["exec", id, "cat", "/proc/self/uid_map"]).ok();
        assert_eq!(words(&map), ["0", &uid.to_string(), "65536"]);
        d.docker(&["restart", "-t", "0", id]).ok();
        let map = d.docker(&["exec", id, "cat", "/proc/self/uid_map"]).ok();
        assert_eq!(words(&map), ["0", &uid.to_string(), "65536"]);
        d.docker(&["rm", "-f", id]).ok();
    }
    no_traces(&d);
}

#[test]
fn namespaces_of_other_runtimes_containers() {
    let d = daemon("default", &config());
    for donor in ["runc", "debian-runc", "crun"] {
        let one = Using { daemon: &d, runtime: donor };
        let id = one.stay(&["--ipc", "shareable"]);
        let of = format!("container:{id}");
        for runtime in RUNTIMES {
            let u = Using { daemon: &d, runtime };
            let look = "tr '\\0' ' ' < /proc/1/cmdline; cat /proc/self/uid_map";
            let join = |more: &[&str]| {
                u.run(
                    &[&["--rm", "--network", &of, "--ipc", &of], more, &["busybox", "sh", "-c", look]]
                        .concat(),
                )
            };
            let all = join(&["--pid", &of]);
            // What the engine's own keeper made is the host's, which this version of runc cannot join from inside.
            if donor == "runc" && matches!(runtime, "debian-runc" | "shim-runc") && all.code != 0 {
                all.fails(125, "use runc 1.3 or newer, crun, or the same runtime for both");
                assert_eq!(words(&join(&[]).ok()).last(), Some(&"65536"));
                continue;
            }
            assert_eq!(words(&all.ok()), ["sleep", "1000", "0", &FIXED.to_string(), "65536"]);
        }
        d.docker(&["rm", "-f", &id]).ok();
    }
    no_traces(&d);
}

/// A runtime that knows nothing of user namespaces would make the host's root of the container's.
#[test]
fn a_runtime_that_leaves_the_user_namespace_out_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("lazy");
    let lazy = "#!/bin/sh\nfor a; do test \"$before\" = --bundle && cd \"$a\"; before=$a; done\nsed -i -E -e 's/\\{\"path\":\"[^\"]*\",\"type\":\"user\"\\},?//' \
                -e 's/,?\"[ug]idMappings\":\\[[^]]*\\]//g' config.json 2>/dev/null\nexec /usr/sbin/runc \"$@\"\n";
    fs::write(&script, lazy).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let runtimes = json!({"runtimes": {
        "lazy": {"path": script},
        "lazy-shim": {"runtimeType": "io.containerd.runc.v2", "options": {"BinaryName": script}},
    }});
    let d = daemon("default", &runtimes);
    // An image with all places of mounts: to make one the host's root has no id there, which would stop it early.
    let mut places = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    for (names, kind, mode) in [
        (&["proc", "dev", "sys", "etc", "p"][..], tar::EntryType::Directory, 0o755),
        (&["etc/hosts", "etc/hostname", "etc/resolv.conf"][..], tar::EntryType::Regular, 0o644),
    ] {
        header.set_entry_type(kind);
        header.set_mode(mode);
        for name in names {
            places.append_data(&mut header, name, std::io::empty()).unwrap();
        }
    }
    let file = dir.path().join("full.tar");
    let layers = [image::busybox_tar(), places.into_inner().unwrap()];
    image::save(&file, &image::docker_archive("full:1", &layers));
    d.docker(&["load", "-q", "-i", &file.display().to_string()]).ok();
    for runtime in ["lazy", "lazy-shim"] {
        let u = Using { daemon: &d, runtime };
        let ran =
            u.run(&["--name", "never", "--network", "none", "-v", "proof:/p", "full:1", "touch", "/p/ran"]);
        ran.fails(125, "made the container without the user namespace that it is to have");
        let looked = d.docker(&["run", "--rm", "--network", "none", "-v", "proof:/p", "busybox", "ls", "/p"]);
        assert_eq!(looked.ok(), "");
        d.docker(&["rm", "never"]).ok();
        // It is not that it cannot make any.
        u.sh(&["--userns", "host"], "true");
    }
    no_traces(&d);
}

#[test]
fn a_checkpoint_of_a_user_namespace_is_refused() {
    let mut config = config();
    config["experimental"] = json!(true);
    let d = daemon("default", &config);
    for runtime in ["debian-runc", "shim-runc"] {
        let u = Using { daemon: &d, runtime };
        let id = u.stay(&["--network", "none"]);
        d.docker(&["checkpoint", "create", &id, "cp1"])
            .fails(1, "checkpoints of such a container are not possible: it has a user namespace");
        d.docker(&["rm", "-f", &id]).ok();
    }
    no_traces(&d);
}
