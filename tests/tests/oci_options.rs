//! `wharf oci`: what newer versions of the runtime specification and of runc's command line have, used and attacked.

#![cfg(test)]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_tests::bundle::{Place, args, text};
use wharf_tests::eventually;

fn state(place: &Place, id: &str) -> Value {
    serde_json::from_str(&place.ok(&["state", id])).unwrap()
}

/// A container that sleeps.
fn sleeper(place: &Place, id: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let bundle = place.bundle(id, |c| {
        args(c, "sleep 1000");
        change(c);
    });
    place.ok(&["run", "--detach", "--bundle", text(&bundle), id]);
    bundle
}

fn mount(config: &mut Value, value: Value) {
    config["mounts"].as_array_mut().unwrap().push(value);
}

#[test]
fn events_tell_figures_and_kills_for_lack_of_memory() {
    let place = Place::default();
    place.fails(&["events", "--stats", "one"], "does not exist");
    sleeper(&place, "one", |c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 33_554_432, "swap": 33_554_432});
        c["linux"]["resources"]["pids"] = json!({"limit": 77});
    });
    let said = place.ok(&["events", "--stats", "one"]);
    assert!(said.starts_with(r#"{"type":"stats","id":"one","data":{"#), "{said}");
    let stats: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 33_554_432);
    assert!(stats["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{stats}");
    assert_eq!((&stats["data"]["pids"]["current"], &stats["data"]["pids"]["limit"]), (&json!(1), &json!(77)));
    assert!(stats["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{stats}");

    for (interval, said) in
        [("0", "greater than 0"), ("x", "a duration is wanted"), ("-1s", "a duration is wanted")]
    {
        place.fails(&["events", &format!("--interval={interval}"), "one"], said);
    }
    let mut child =
        place.command(&["events", "--interval", "100ms", "one"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    for _ in 0..2 {
        assert!(lines.next().unwrap().starts_with(r#"{"type":"stats""#));
    }
    // Others can do with the container what they like meanwhile.
    place.oci(&["exec", "one", "sh", "-c", "test=$(dd if=/dev/urandom ibs=5120k count=20)"]);
    assert!(lines.any(|line| line == r#"{"type":"oom","id":"one"}"#), "a kill for lack of memory is told");
    place.ok(&["kill", "one", "KILL"]);
    assert!(child.wait().unwrap().success(), "it ends with the container");
    eventually("the end", || (place.status("one") == "stopped").then_some(()));
    place.fails(&["events", "one"], "is not running");
    place.ok(&["delete", "one"]);
}

/// The cgroups of a container in all hierarchies of this machine.
fn cgroups_of(id: &str) -> Vec<PathBuf> {
    let end = format!("wharf-oci-test/{}-{id}", std::process::id());
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "4", "-path", &format!("*/{end}")])
        .output();
    String::from_utf8_lossy(&found.unwrap().stdout).lines().map(PathBuf::from).collect()
}

#[test]
fn an_exec_goes_into_a_cgroup_below_and_nowhere_else() {
    let place = Place::default();
    sleeper(&place, "one", |_| {});
    let cgroup = place.ok(&["exec", "one", "cat", "/proc/self/cgroup"]);
    for (said, why) in [
        ("..", ".. is not a sub cgroup path"),
        ("a/../../..", "is not a sub cgroup path"),
        ("/../../wharf", "is not a sub cgroup path"),
        ("nonexistent", "/nonexistent/cgroup.procs: no such file"),
        ("whaaat:/", "unknown controller whaaat"),
        ("a:b:c", "invalid --cgroup argument"),
    ] {
        place.fails(&["exec", "--cgroup", said, "one", "true"], why);
    }
    let all = cgroups_of("one");
    assert!(!all.is_empty());
    for dir in &all {
        std::fs::create_dir(dir.join("sub")).unwrap();
        // Nothing runs in a cgroup of cpuset's without processors.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = std::fs::read(dir.join(file)) {
                let _ = std::fs::write(dir.join("sub").join(file), value);
            }
        }
    }
    let below = place.ok(&["exec", "--cgroup", "sub", "one", "cat", "/proc/self/cgroup"]);
    let in_sub = |text: &str| text.lines().filter(|line| line.ends_with("/sub")).count();
    assert_eq!((in_sub(&cgroup), in_sub(&below) >= all.len().min(2)), (0, true), "{below}");
    if all.len() > 1 {
        let one = place.ok(&["exec", "--cgroup", "pids:sub", "one", "cat", "/proc/self/cgroup"]);
        assert_eq!(in_sub(&one), 1, "{one}");
    }
    assert_eq!(place.ok(&["exec", "--cgroup", "/", "one", "cat", "/proc/self/cgroup"]), cgroup);
    place.ok(&["delete", "--force", "one"]);
}

#[test]
fn a_tmpfs_begins_with_what_it_covers_and_nothing_of_the_host() {
    let place = Place::default();
    let secret = place.path("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let prepared = |bundle: &Path| {
        let dir = bundle.join("rootfs/dir");
        std::fs::create_dir_all(dir.join("deep")).unwrap();
        std::fs::set_permissions(dir.join("deep"), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(dir.join("deep/file"), "of the image").unwrap();
        std::os::unix::fs::symlink(&secret, dir.join("absolute")).unwrap();
        std::os::unix::fs::symlink(format!("../../../../../../..{}", secret.display()), dir.join("climbing"))
            .unwrap();
        std::os::unix::fs::symlink(secret.parent().unwrap(), dir.join("out")).unwrap();
        nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        // The place itself is a link out.
        std::os::unix::fs::symlink(secret.parent().unwrap(), bundle.join("rootfs/link")).unwrap();
    };
    let tmpfs = |target: &str, more: &str| json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", more]});
    let bundle = place.bundle("one", |c| {
        c["root"]["readonly"] = false.into();
        mount(c, tmpfs("/dir", "size=1m"));
        mount(c, tmpfs("/link", "size=1m"));
        mount(c, tmpfs("/new", "size=1m"));
        args(c, "stat -c %a /dir/deep; cat /dir/deep/file; echo; cat /dir/absolute /dir/climbing /dir/out/secret; ls -A /link /new; ls /dir; echo own > /dir/own");
    });
    prepared(&bundle);
    let out = place.oci(&["run", "--bundle", text(&bundle), "one"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(said.starts_with("777\nof the image\n") && !said.contains("of the host"), "{said}");
    assert!(said.contains("pipe") && said.contains("climbing"), "{said}");
    assert!(!bundle.join("rootfs/dir/own").exists(), "what is written stays in the tmpfs");
    // More than it may hold.
    let bundle = place.bundle("two", |c| {
        c["root"]["readonly"] = false.into();
        mount(c, tmpfs("/dir", "size=64k"));
    });
    prepared(&bundle);
    std::fs::write(bundle.join("rootfs/dir/large"), vec![b'x'; 1 << 20]).unwrap();
    place.fails(&["run", "--bundle", text(&bundle), "two"], "tmpcopyup of /dir");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "of the host");
}

/// The agent of runc's own tests in our words: directories get a suffix, modes stay.
fn agent(place: &Place) -> (PathBuf, Agent) {
    let (script, socket) = (place.path("agent"), place.path("agent.sock"));
    std::fs::write(&script, include_str!("../clients/runc-suite/seccompagent")).unwrap();
    let child = Command::new("python3")
        .arg(&script)
        .arg(format!("-socketfile={}", socket.display()))
        .spawn()
        .unwrap();
    eventually("the agent", || socket.exists().then_some(()));
    (socket, Agent(child))
}

/// Ends with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have been ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn notify(config: &mut Value, socket: &Path, calls: &Value) {
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": socket, "listenerMetadata": "bar",
        "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [{"names": calls, "action": "SCMP_ACT_NOTIFY"}],
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn an_agent_answers_for_a_filter() {
    let place = Place::default();
    let (socket, agent) = agent(&place);
    for (name, no_new_privileges) in [("one", false), ("three", true)] {
        let bundle = place.bundle(name, |c| {
            notify(c, &socket, &json!(["mkdir", "chmod", "execve", "close", "read", "openat", "fcntl"]));
            c["process"]["noNewPrivileges"] = no_new_privileges.into();
            args(c, "mkdir /dev/shm/foo && stat /dev/shm/foo-bar && ls /proc/self/fd | wc -l && chmod 700 /dev/shm/foo-bar");
        });
        let out = place.oci(&["run", "--bundle", text(&bundle), name]);
        let said =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(said.contains("No medium found"), "{said}");
        assert!(said.lines().any(|line| line == "4"), "no descriptor is left in the program: {said}");
    }
    sleeper(&place, "two", |c| notify(c, &socket, &json!(["mkdir"])));
    place.ok(&["exec", "two", "sh", "-c", "mkdir /dev/shm/foo && stat /dev/shm/foo-bar"]);
    // Without whoever answers, a call fails: none is let through.
    drop(agent);
    place.fails(&["exec", "two", "true"], "failed to connect with seccomp agent");
    place.ok(&["delete", "--force", "two"]);
    // What cannot work is said, and nothing is left.
    let bad = |name: &str, said: &str, change: &dyn Fn(&mut Value)| {
        let bundle = place.bundle(name, |c| {
            notify(c, &socket, &json!(["mkdir"]));
            change(c);
        });
        place.fails(&["run", "--bundle", text(&bundle), name], said);
        place.fails(&["state", name], "does not exist");
    };
    bad("b1", "failed to connect with seccomp agent", &|c| {
        c["linux"]["seccomp"]["listenerPath"] = "@none".into()
    });
    bad("b2", "listenerPath must be set", &|c| c["linux"]["seccomp"]["listenerPath"] = "".into());
    bad("b3", "cannot be used for the write syscall", &|c| {
        c["linux"]["seccomp"]["syscalls"][0]["names"] = json!(["write"]);
    });
    bad("b4", "cannot be used as default action", &|c| {
        c["linux"]["seccomp"]["defaultAction"] = "SCMP_ACT_NOTIFY".into();
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn an_agent_that_never_answers_holds_up_its_own_container_only() {
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
    };
    use std::os::fd::AsRawFd;
    let place = Place::default();
    let path = place.path("deaf.sock");
    let deaf = UnixListener::bind(&path).unwrap();
    let bundle = place.bundle("one", |c| {
        notify(c, &path, &json!(["mkdir", "execve", "read"]));
        args(c, "mkdir /dev/shm/x");
    });
    // It is made, as the agent may come later; then it waits for the agent. It can be looked at and ended all the same.
    place.ok(&["create", "--bundle", text(&bundle), "one"]);
    assert_eq!(place.status("one"), "created");
    place.ok(&["start", "one"]);
    assert_eq!(place.status("one"), "running");
    place.ok(&["delete", "--force", "one"]);
    drop(deaf);
    // One that takes no more connections is given up.
    let path = place.path("full.sock");
    let stream = |flags| socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    let full = stream(SockFlag::empty());
    let address = UnixAddr::new(&path).unwrap();
    bind(full.as_raw_fd(), &address).unwrap();
    listen(&full, Backlog::new(0).unwrap()).unwrap();
    let mut waiting = Vec::new();
    loop {
        let one = stream(SockFlag::SOCK_NONBLOCK);
        let connected = connect(one.as_raw_fd(), &address);
        waiting.push(one);
        if connected.is_err() {
            break;
        }
    }
    let bundle = place.bundle("two", |c| notify(c, &path, &json!(["mkdir"])));
    let begun = Instant::now();
    place.fails(&["create", "--bundle", text(&bundle), "two"], "failed to connect with seccomp agent");
    assert!(begun.elapsed() < Duration::from_secs(40), "it took {:?}", begun.elapsed());
    place.fails(&["state", "two"], "does not exist");
}

#[test]
fn processes_are_scheduled_as_said() {
    const ASK: &str = "import os, sys; p = int(sys.argv[1]); print(os.sched_getscheduler(p), os.getpriority(os.PRIO_PROCESS, p))";
    let place = Place::default();
    sleeper(&place, "one", |c| {
        c["process"]["scheduler"] =
            json!({"policy": "SCHED_BATCH", "nice": 7, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
        c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
        c["linux"]["personality"] = json!({"domain": "LINUX32"});
    });
    let pid = state(&place, "one")["pid"].to_string();
    let asked = Command::new("python3").args(["-c", ASK, &pid]).output().unwrap();
    // SCHED_BATCH is 3, and the flag is shown in bit 30.
    assert_eq!(String::from_utf8_lossy(&asked.stdout).trim(), format!("{} 7", 3 | 0x4000_0000));
    let ionice = Command::new("ionice").args(["-p", &pid]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ionice.stdout).trim(), "best-effort: prio 6");
    if cfg!(target_arch = "x86_64") {
        assert!(place.ok(&["exec", "one", "uname", "-m"]).contains("i686"), "a further process has it, too");
    }
    let exec = |process: &Value| {
        let file = place.path("process.json");
        std::fs::write(&file, process.to_string()).unwrap();
        place.oci(&["exec", "--process", text(&file), "one"])
    };
    let said = |process: &Value| {
        let out = exec(process);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let list = json!(["grep", "Cpus_allowed_list", "/proc/self/status"]);
    let bound = said(
        &json!({"args": list, "cwd": "/", "env": ["PATH=/bin"], "execCPUAffinity": {"initial": "0", "final": "0"}}),
    );
    assert_eq!(bound, "Cpus_allowed_list:\t0");
    let idle = said(
        &json!({"args": ["ionice"], "cwd": "/", "env": ["PATH=/bin"], "ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}),
    );
    assert!(idle.starts_with("idle"), "{idle}");
    for (process, why) in [
        (json!({"scheduler": {"policy": "SCHED_FIFO", "priority": 100}}), "invalid scheduler.priority: 100"),
        (json!({"scheduler": {"policy": "SCHED_OTHER", "nice": -99}}), "invalid scheduler.nice"),
        (
            json!({"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 9}}),
            "invalid ioPriority.Priority: 9",
        ),
        (json!({"execCPUAffinity": {"final": "0-99999"}}), "invalid CPU affinity"),
        (json!({"execCPUAffinity": {"final": "1023"}}), "execCPUAffinity"),
    ] {
        let mut whole = json!({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"]});
        whole.as_object_mut().unwrap().extend(process.as_object().unwrap().clone());
        let out = exec(&whole);
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && err.contains(why), "{process}: {err}");
    }
    place.ok(&["delete", "--force", "one"]);
    for (name, process, why) in [
        (
            "b1",
            json!({"scheduler": {"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 1, "period": 1}}),
            "the scheduler",
        ),
        ("b2", json!({"scheduler": {"policy": "SCHED_NONE"}}), "invalid scheduler policy"),
        ("b3", json!({"ioPriority": {"class": "x"}}), "invalid ioPriority.Class"),
    ] {
        let bundle = place.bundle(name, |c| {
            c["process"].as_object_mut().unwrap().extend(process.as_object().unwrap().clone())
        });
        place.fails(&["run", "--bundle", text(&bundle), name], why);
        place.fails(&["state", name], "does not exist");
    }
}

/// Takes a descriptor of a process and prints its number.
const PIDFD: &str = r#"
import array, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(1)
connection, _ = listener.accept()
message, control, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
fds = array.array("i", control[0][2])
for line in open(f"/proc/self/fdinfo/{fds[0]}"):
    if line.startswith("Pid:"):
        print(message.decode(), line.split()[1])
"#;

#[test]
fn a_descriptor_of_the_process_is_sent() {
    let place = Place::default();
    let taken = |run: &dyn Fn(&str)| {
        let socket = place.path("pidfd");
        let _ = std::fs::remove_file(&socket);
        let mut other = Command::new("python3")
            .args(["-c", PIDFD, text(&socket)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        eventually("the socket", || socket.exists().then_some(()));
        std::thread::sleep(Duration::from_millis(100));
        run(text(&socket));
        let mut said = String::new();
        other.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(other.wait().unwrap().success());
        said.trim().to_owned()
    };
    let bundle = place.bundle("one", |c| args(c, "sleep 1000"));
    let told = taken(&|socket| {
        place.ok(&["create", "--pidfd-socket", socket, "--bundle", text(&bundle), "one"]);
    });
    assert_eq!(told, format!("standard {}", state(&place, "one")["pid"]));
    place.ok(&["start", "one"]);
    let file = place.path("pid");
    let told = taken(&|socket| {
        place.ok(&[
            "exec",
            "--detach",
            "--pid-file",
            text(&file),
            "--pidfd-socket",
            socket,
            "one",
            "sleep",
            "1000",
        ]);
    });
    assert_eq!(told, format!("setns {}", std::fs::read_to_string(&file).unwrap()));
    // Nobody there: the process that nobody could hold on to is ended again.
    let other = place.path("other");
    place.fails(
        &[
            "exec",
            "--detach",
            "--pidfd-socket",
            "/nowhere/socket",
            "--pid-file",
            text(&other),
            "one",
            "sleep",
            "1000",
        ],
        "pidfd socket",
    );
    assert!(!other.exists());
    assert_eq!(place.ok(&["ps", "--format", "json", "one"]).matches(',').count(), 1, "two processes");
    place.ok(&["delete", "--force", "one"]);
    let bundle = place.bundle("two", |_| {});
    place.fails(
        &["create", "--pidfd-socket", "/nowhere/socket", "--bundle", text(&bundle), "two"],
        "pidfd socket",
    );
    place.fails(&["state", "two"], "does not exist");
}

#[test]
fn mounts_of_mounts_and_their_attributes() {
    let place = Place::default();
    let source = place.path("source");
    std::fs::create_dir_all(source.join("deep")).unwrap();
    std::fs::write(source.join("deep/file"), "found").unwrap();
    let bundle = place.bundle("one", |c| {
        c["root"]["readonly"] = false.into();
        let rootfs = place.path("one").join("rootfs");
        mount(c, json!({"destination": "/first", "type": "bind", "source": source, "options": ["rbind"]}));
        // Of what the first one shows, read from the host's side of the root file system.
        mount(c, json!({"destination": "/second", "type": "bind", "source": rootfs.join("first/deep"),
            "options": ["rbind", "rro", "rnoexec", "rnoatime"]}));
        mount(c, json!({"destination": rootfs.join("third"), "type": "bind", "source": rootfs.join("first"),
            "options": ["bind", "nosuid"]}));
        mount(c, json!({"destination": "relative/place", "type": "tmpfs", "source": "tmpfs", "options": ["rro", "nodev"]}));
        // Through links to nothing.
        mount(c, json!({"destination": "/dangling", "type": "bind", "source": source, "options": ["bind"]}));
        args(c, "cat /second/file /third/deep/file /etc/real/place/deep/file; grep -E ' /(second|third|relative/place|etc/real/place) ' /proc/mounts; echo x > /second/file");
    });
    std::os::unix::fs::symlink("/jump/place", bundle.join("rootfs/dangling")).unwrap();
    std::os::unix::fs::symlink("../../../../etc/real", bundle.join("rootfs/jump")).unwrap();
    let out = place.oci(&["run", "--bundle", text(&bundle), "one"]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.starts_with("foundfoundfound"), "{said}{err}");
    let options = |place: &str| {
        let line = said
            .lines()
            .find(|l| l.contains(&format!(" {place} ")))
            .unwrap_or_else(|| panic!("{place}: {said}"));
        line.split(' ').nth(3).unwrap().to_owned()
    };
    let has = |place: &str, word: &str| options(place).split(',').any(|o| o == word);
    for word in ["ro", "noexec", "noatime"] {
        assert!(has("/second", word), "{word}: {said}");
    }
    assert!(has("/third", "nosuid") && has("/third", "rw"), "{said}");
    assert!(has("/relative/place", "ro") && has("/relative/place", "nodev"), "{said}");
    assert!(err.contains("Read-only file system"), "{err}");
    assert_eq!(std::fs::read_to_string(source.join("deep/file")).unwrap(), "found");
    assert!(!Path::new("/etc/real").exists(), "nothing was made on the host");
}

#[test]
fn what_is_claimed_is_true() {
    let place = Place::default();
    let features: Value = serde_json::from_str(&place.ok(&["features"])).unwrap();
    // Every option that is claimed is taken; one that is not is the file system's business, and refused by it.
    let all = features["mountOptions"].as_array().unwrap();
    for option in
        all.iter().map(|o| o.as_str().unwrap()).filter(|o| !o.contains("idmap") && !o.contains("bind"))
    {
        let bundle = place.bundle("one", |c| {
            c["root"]["readonly"] = false.into();
            mount(c, json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": [option]}));
            mount(
                c,
                json!({"destination": "/b", "type": "bind", "source": "/etc", "options": ["bind", option]}),
            );
            args(c, "true");
        });
        place.ok(&["run", "--bundle", text(&bundle), "one"]);
        std::fs::remove_dir_all(bundle).unwrap();
    }
    let bundle = place.bundle("two", |c| {
        mount(c, json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["rnonsense"]}));
    });
    place.fails(&["run", "--bundle", text(&bundle), "two"], "mount");
    assert!(features["linux"]["seccomp"]["actions"].as_array().unwrap().contains(&json!("SCMP_ACT_NOTIFY")));
}
