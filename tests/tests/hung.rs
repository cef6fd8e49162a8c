//! File systems that never answer, set-ups that stand still, cgroups that somebody else froze: who has to do with them gets an answer
//! in bounded time, nobody else notices, and nothing is left when they come back.

#![cfg(test)]

use std::fs;
use std::io::{BufReader, Write};
use std::path::PathBuf;

use wharf_tests::fuse::{Hangs, Hung};
use wharf_tests::leftovers::remove_cgroup_parent;
use wharf_tests::pace::{check, within};
use wharf_tests::{Daemon, eventually};

fn daemon() -> (Daemon, String) {
    let daemon = Daemon::start();
    daemon.import_busybox();
    let other = daemon.docker(&["run", "-dt", "--network", "none", "busybox", "sleep", "1000"]).ok();
    (daemon, other)
}

fn hung(daemon: &Daemon, hangs: Hangs) -> (Hung, String) {
    let dir = daemon.path("hung");
    fs::create_dir(&dir).unwrap();
    (Hung::mount(&dir, hangs), dir.display().to_string())
}

fn state(daemon: &Daemon, id: &str) -> String {
    daemon.docker(&["inspect", "-f", "{{.State.Status}}", id]).ok()
}

/// A request that is not waited for.
fn begin(daemon: &Daemon, method: &str, path: &str) -> std::thread::JoinHandle<(u16, String)> {
    let (socket, method, path) = (daemon.socket(), method.to_owned(), path.to_owned());
    std::thread::spawn(move || {
        // Without a limit of its own: how long it takes is the test's to say.
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        match wharf_tests::http::read_response(&mut BufReader::new(stream), false) {
            Ok(answer) => (answer.status, answer.text()),
            Err(error) => (0, error.to_string()),
        }
    })
}

#[test]
fn a_bind_source_that_never_answers_is_told_and_hurts_nobody() {
    let (daemon, other) = daemon();
    let (mut fs, dir) = hung(&daemon, Hangs::Everywhere);
    // At create, where Docker looks whether the source is there; as often as one likes.
    let mount = format!("type=bind,source={dir},target=/m");
    let first = daemon.docker_command(&["create", "--mount", &mount, "busybox", "true"]).spawn().unwrap();
    eventually("the file system to be asked", || (fs.waiting() > 0).then_some(()));
    check(&daemon, &other, "a create that looks at a hung mount");
    assert!(!{ first }.wait().unwrap().success());
    let again = within(5, "a create on a place that is known to hang", || {
        daemon.docker(&["create", "--mount", &mount, "busybox", "true"])
    });
    again.fails(1, &format!("{dir} does not answer"));
    // At start, where the tree is taken.
    let id =
        daemon.docker(&["create", "--network", "none", "-v", &format!("{dir}:/m"), "busybox", "true"]).ok();
    for _ in 0..40 {
        let start = daemon.api("POST", &format!("/containers/{id}/start"), "");
        assert_eq!(start.status, 503, "{}", start.text());
        assert!(start.message().contains("does not answer"), "{}", start.text());
    }
    let copy = within(5, "a copy", || daemon.docker(&["cp", &format!("{id}:/etc/passwd"), "-"]));
    copy.fails(1, "does not answer");
    check(&daemon, &other, "starts on a hung mount");
    within(15, "removal", || daemon.docker(&["rm", "-f", &id]).ok());
    // It comes back as an error, and the place can be used again.
    fs.release();
    let ran = eventually("the place to be free", || {
        let ran = daemon.docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            &format!("{dir}:/m"),
            "busybox",
            "ls",
            "/m",
        ]);
        (ran.code == 0).then_some(ran)
    });
    assert_eq!(ran.ok(), "");
    assert_eq!(daemon.docker(&["ps", "-aq"]).ok().lines().count(), 1, "nothing but the other one is there");
}

#[test]
fn a_container_that_hangs_in_its_file_system() {
    let (daemon, other) = daemon();
    let (mut fs, dir) = hung(&daemon, Hangs::Inside);
    let bind = format!("{dir}:/m");
    // The program itself hangs, and with it whoever looks into the container.
    let id = daemon
        .docker(&[
            "run",
            "-d",
            "--network",
            "none",
            "-v",
            &bind,
            "busybox",
            "sh",
            "-c",
            "cat /m/x; sleep 1000",
        ])
        .ok();
    eventually("the program to hang", || (fs.waiting() > 0).then_some(()));
    let execs: Vec<_> = (0..40)
        .map(|_| {
            let made = daemon.api(
                "POST",
                &format!("/containers/{id}/exec"),
                r#"{"Cmd": ["ls", "/m/y"], "AttachStdout": true}"#,
            );
            begin(&daemon, "POST", &format!("/exec/{}/start", made.json()["Id"].as_str().unwrap()))
        })
        .collect();
    let copies: Vec<_> =
        (0..40).map(|_| begin(&daemon, "GET", &format!("/containers/{id}/archive?path=/m/z"))).collect();
    check(&daemon, &other, "a program, execs and copies in a hung mount");
    assert_eq!(state(&daemon, &id), "running");
    // It does not even react to SIGKILL: a clear answer instead of none.
    let removal = within(30, "removal of what cannot be killed", || {
        daemon.api("DELETE", &format!("/containers/{id}?force=1"), "")
    });
    assert_eq!(removal.status, 500);
    assert!(
        removal.message().contains("tried to kill container, but did not receive an exit event"),
        "{}",
        removal.text()
    );
    check(&daemon, &other, "a container that cannot be killed");
    fs.release();
    eventually("the end", || (state(&daemon, &id) == "exited").then_some(()));
    assert_eq!(daemon.docker(&["inspect", "-f", "{{.State.ExitCode}}", &id]).ok(), "137");
    daemon.docker(&["rm", &id]).ok();
    for one in execs.into_iter().chain(copies) {
        let (status, text) = one.join().unwrap();
        assert!(status != 0, "everybody gets an answer: {text}");
    }
}

#[test]
fn a_set_up_that_hangs_in_the_kernel() {
    let (daemon, other) = daemon();
    let (mut fs, dir) = hung(&daemon, Hangs::Inside);
    let bind = format!("{dir}:/m");
    // The keeper's child looks for the place of the second mount inside the first.
    let second = daemon.path("second");
    fs::create_dir(&second).unwrap();
    let inner = format!("{}:/m/inner", second.display());
    let id =
        daemon.docker(&["create", "--network", "none", "-v", &bind, "-v", &inner, "busybox", "true"]).ok();
    let start = begin(&daemon, "POST", &format!("/containers/{id}/start"));
    eventually("the set-up to hang", || (fs.waiting() > 0).then_some(()));
    check(&daemon, &other, "a set-up that hangs");
    let removal = within(30, "removal", || daemon.api("DELETE", &format!("/containers/{id}?force=1"), ""));
    assert_eq!(removal.status, 500);
    assert!(
        removal.message().contains("is being set up and does not even react to SIGKILL"),
        "{}",
        removal.text()
    );
    check(&daemon, &other, "a set-up that cannot be killed");
    fs.release();
    let (status, text) = within(30, "the start's answer", || start.join().unwrap());
    assert!(status >= 400 || status == 204, "{status} {text}");
    within(15, "removal", || daemon.docker(&["rm", "-f", &id]).ok());
}

/// A cgroup above containers that is frozen: whoever is put into it stands still.
struct Frozen(Vec<PathBuf>);

impl Frozen {
    fn below(name: &str) -> Self {
        let v1 = PathBuf::from("/sys/fs/cgroup/freezer");
        let dir = if v1.is_dir() { v1.join(name) } else { PathBuf::from("/sys/fs/cgroup").join(name) };
        fs::create_dir_all(&dir).unwrap();
        let this = Self(vec![dir]);
        this.set(true);
        this
    }

    fn set(&self, frozen: bool) {
        for dir in &self.0 {
            if dir.join("freezer.state").exists() {
                fs::write(dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" }).unwrap();
            } else {
                fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }).unwrap();
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.set(false);
        for dir in &self.0 {
            let _ = fs::remove_dir(dir.join("wharf"));
            let _ = fs::remove_dir(dir);
        }
    }
}

#[test]
fn a_child_that_stands_still_before_its_program_runs() {
    let (daemon, other) = daemon();
    let parent = format!("wharf-test-{}", std::process::id());
    let frozen = Frozen::below(&parent);
    let create = |n: u32| {
        let name = format!("still{n}");
        daemon
            .docker(&[
                "create",
                "--name",
                &name,
                "--network",
                "none",
                "--cgroup-parent",
                &format!("/{parent}"),
                "busybox",
                "sleep",
                "1000",
            ])
            .ok()
    };
    let ids: Vec<String> = (0..3).map(create).collect();
    let starts: Vec<_> =
        ids.iter().map(|id| begin(&daemon, "POST", &format!("/containers/{id}/start"))).collect();
    // The keeper has made the process, and it is in its cgroup.
    eventually("the children to stand still", || {
        // Below the parent the daemon has a directory of its own.
        let entries = fs::read_dir(frozen.0[0].join("wharf")).ok()?;
        let count = entries
            .flatten()
            .filter(|e| fs::read_to_string(e.path().join("cgroup.procs")).is_ok_and(|text| !text.is_empty()));
        (count.count() == 3).then_some(())
    });
    check(&daemon, &other, "set-ups that stand still");
    let removal = within(30, "removal of what stands still", || {
        daemon.api("DELETE", &format!("/containers/{}?force=1", ids[0]), "")
    });
    // With cgroup v2 a frozen process can be killed.
    assert!(matches!(removal.status, 204 | 500), "{} {}", removal.status, removal.text());
    frozen.set(false);
    // The others go on as if nothing had been.
    let answers: Vec<u16> = starts.into_iter().map(|start| start.join().unwrap().0).collect();
    assert_eq!(answers[1..], [204, 204]);
    for id in &ids[1..] {
        assert_eq!(state(&daemon, id), "running");
    }
    for id in &ids {
        within(15, "removal", || daemon.docker(&["rm", "-f", id]).code);
    }
    drop(frozen);
    eventually("the cgroups to be gone", || {
        remove_cgroup_parent(&parent);
        let top = PathBuf::from("/sys/fs/cgroup");
        let left = fs::read_dir(&top).unwrap().flatten().filter(|e| e.path().join(&parent).exists()).count();
        (left == 0 && !top.join(&parent).exists()).then_some(())
    });
}

#[test]
fn a_cgroup_that_somebody_else_froze_is_thawed_to_die() {
    let (daemon, other) = daemon();
    let ids: Vec<String> = (0..2)
        .map(|_| daemon.docker(&["run", "-d", "--network", "none", "busybox", "sleep", "1000"]).ok())
        .collect();
    for id in &ids {
        let pid = daemon.docker(&["inspect", "-f", "{{.State.Pid}}", id]).ok();
        freezer_of(&pid)(true);
    }
    let waiting = begin(&daemon, "POST", &format!("/containers/{}/stop?t=1", ids[0]));
    check(&daemon, &other, "a container frozen by somebody else");
    assert_eq!(waiting.join().unwrap().0, 204);
    within(10, "removal", || daemon.docker(&["rm", "-f", &ids[1]]).ok());
    daemon.docker(&["rm", &ids[0]]).ok();
}

#[test]
fn a_log_whose_disk_hangs_does_not_stop_a_container_that_is_not_to_wait() {
    let (daemon, other) = daemon();
    let script = "yes | head -c 20000000; exit 7";
    let args = ["--network", "none", "--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=64k"];
    let id = daemon.docker(&[&["create"], &args[..], &["busybox", "sh", "-c", script]].concat()).ok();
    let spool = daemon.path("data/containers").join(&id).join("spool");
    fs::create_dir_all(&spool).unwrap();
    let mut hung = Hung::mount(&spool, Hangs::Inside);
    daemon.docker(&["start", &id]).ok();
    let code = within(60, "the end of a container", || daemon.docker(&["wait", &id]).ok());
    assert_eq!(code, "7");
    assert!(hung.waiting() > 0, "its log is where nothing answers");
    check(&daemon, &other, "a log whose disk hangs");
    hung.release();
    daemon.docker(&["rm", "-f", &id]).ok();
    // With a disk that answers nothing is lost that fits.
    let lines = "for i in $(seq 100); do echo $i; done";
    let id = daemon.docker(&[&["run", "-d"], &args[..], &["-t", "busybox", "sh", "-c", lines]].concat()).ok();
    daemon.docker(&["wait", &id]).ok();
    let logs = daemon.docker(&["logs", &id]).ok();
    let wanted: Vec<String> = (1..=100).map(|n| n.to_string()).collect();
    assert_eq!(logs.lines().map(str::trim_end).collect::<Vec<_>>(), wanted);
    daemon.docker(&["rm", "-f", &id]).ok();
}

/// The end of a container is told in bounded time, also where the last of its output cannot be stored; whoever wants it to be
/// gone is answered.
#[test]
fn the_end_of_a_container_whose_log_hangs() {
    let (daemon, other) = daemon();
    let create = |more: &[&str], script: &str| {
        let args = [&["create", "--network", "none"], more, &["busybox", "sh", "-c", script]];
        let id = daemon.docker(&args.concat()).ok();
        let spool = daemon.path("data/containers").join(&id).join("spool");
        fs::create_dir_all(&spool).unwrap();
        (Hung::mount(&spool, Hangs::Inside), id)
    };
    let (mut ends, ended) = create(&[], "echo one; exit 7");
    let (mut kills, killed) = create(&[], "echo one; sleep 1000");
    let (mut goes, gone) = create(&["--rm"], "echo one; sleep 1000");
    for id in [&ended, &killed, &gone] {
        daemon.docker(&["start", id]).ok();
    }
    eventually("all of them to hang", || {
        [&ends, &kills, &goes].iter().all(|hung| hung.waiting() > 0).then_some(())
    });
    let code = within(30, "the end of a container", || daemon.docker(&["wait", &ended]).ok());
    assert_eq!(code, "7");
    assert_eq!(state(&daemon, &ended), "exited");
    within(30, "a kill", || daemon.docker(&["kill", &killed]).ok());
    assert_eq!(within(30, "its end", || daemon.docker(&["wait", &killed]).ok()), "137");
    within(30, "the end of one that goes with it", || daemon.docker(&["kill", &gone]).code);
    // Where its output goes nowhere there is no further run: that is told, and not waited for without end.
    let again = within(30, "another start", || daemon.api("POST", &format!("/containers/{ended}/start"), ""));
    assert_eq!(again.status, 500, "{}", again.text());
    assert!(again.message().contains("its disk does not answer"), "{}", again.text());
    let removal =
        within(30, "a removal", || daemon.api("DELETE", &format!("/containers/{killed}?force=1"), ""));
    assert!(matches!(removal.status, 204 | 500 | 503), "{} {}", removal.status, removal.text());
    check(&daemon, &other, "ends of containers whose logs hang");
    for hung in [&mut ends, &mut kills, &mut goes] {
        hung.release();
    }
    // `--rm` is made up for by itself, and the others are as usable as ever.
    eventually("the removal", || (daemon.docker(&["inspect", &gone]).code != 0).then_some(()));
    drop((ends, kills, goes));
    eventually("another start", || {
        (daemon.api("POST", &format!("/containers/{ended}/start"), "").status == 204).then_some(())
    });
    assert_eq!(within(30, "its end", || daemon.docker(&["wait", &ended]).ok()), "7");
    assert!(daemon.docker(&["logs", &ended]).ok().contains("one"));
    for id in [&ended, &killed] {
        eventually("the removal", || (daemon.docker(&["rm", "-f", id]).code == 0).then_some(()));
    }
    assert_eq!(daemon.docker(&["ps", "-aq"]).ok().lines().count(), 1, "nothing but the other one is there");
}

/// An exec whose process stands still before its program runs is given up, and told of.
#[test]
fn an_exec_that_stands_still_is_given_up() {
    let (daemon, other) = daemon();
    let id = daemon.docker(&["run", "-d", "--network", "none", "busybox", "sleep", "1000"]).ok();
    let pid = daemon.docker(&["inspect", "-f", "{{.State.Pid}}", &id]).ok();
    let set = freezer_of(&pid);
    set(true);
    let exec =
        daemon.docker_command(&["exec", &id, "true"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    check(&daemon, &other, "an exec that stands still");
    let ran = within(60, "the answer to an exec", || exec.wait_with_output().unwrap());
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert_eq!(ran.status.code(), Some(126), "{said}");
    set(false);
    assert_eq!(within(15, "an exec", || daemon.docker(&["exec", &id, "echo", "well"]).ok()), "well");
    within(15, "removal", || daemon.docker(&["rm", "-f", &id]).ok());
}

/// What freezes and thaws the cgroup of a process past the daemon.
fn freezer_of(pid: &str) -> impl Fn(bool) {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let v1 = groups.lines().find_map(|l| l.split_once(":freezer:").map(|(_, path)| path.to_owned()));
    let v2 = groups.lines().find_map(|l| l.strip_prefix("0::").map(str::to_owned));
    move |frozen| match (&v1, &v2) {
        (Some(path), _) => {
            let file = format!("/sys/fs/cgroup/freezer{path}/freezer.state");
            fs::write(file, if frozen { "FROZEN" } else { "THAWED" }).unwrap();
        }
        (None, Some(path)) => {
            fs::write(format!("/sys/fs/cgroup{path}/cgroup.freeze"), if frozen { "1" } else { "0" }).unwrap();
        }
        (None, None) => panic!("{groups}"),
    }
}

/// Threads and descriptors of a process.
fn size_of(pid: i32) -> (usize, usize) {
    let count = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).unwrap().count();
    (count("task"), count("fd"))
}

/// A request whose answer is not read; the client goes when it is dropped.
fn client(daemon: &Daemon, method: &str, path: &str) -> std::os::unix::net::UnixStream {
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0";
    let headers = if method == "POST" { upgrade } else { "Connection: keep-alive" };
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n").unwrap();
    stream
}

#[test]
fn logs_whose_disks_hang_are_nobody_elses_matter() {
    let (daemon, other) = daemon();
    let tick = "n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.05; done";
    // As many as there are threads that move output, and more: each has others' containers to serve as well.
    let run =
        |script: &str| daemon.docker(&["run", "-d", "--network", "none", "busybox", "sh", "-c", script]).ok();
    let create = |script: &str| {
        let id = daemon.docker(&["create", "--network", "none", "busybox", "sh", "-c", script]).ok();
        let spool = daemon.path("data/containers").join(&id).join("spool");
        fs::create_dir_all(&spool).unwrap();
        (Hung::mount(&spool, Hangs::Inside), id)
    };
    let healthy: Vec<String> = (0..5).map(|_| run(tick)).collect();
    let (threads, descriptors) = size_of(daemon.pid());
    let mut wedged: Vec<(Hung, String)> =
        (0..5).map(|_| create("echo one; echo two >&2; sleep 1000")).collect();
    for (_, id) in &wedged {
        daemon.docker(&["start", id]).ok();
    }
    eventually("all of them to hang", || wedged.iter().all(|(hung, _)| hung.waiting() > 0).then_some(()));
    // Others print on, to logs, followers, attached clients and files.
    let last = |id: &str| -> u64 {
        let line = daemon.docker(&["logs", "--tail", "1", id]).ok();
        line.rsplit(' ').next().unwrap_or("").parse().unwrap_or(0)
    };
    let goes_on = |stage: &str| {
        for id in &healthy {
            let before = last(id);
            eventually("more output of another container", || (last(id) > before + 2).then_some(()));
        }
        let follow = daemon.docker(&["run", "--rm", "--network", "none", "busybox", "seq", "1000"]).ok();
        assert_eq!(follow.lines().count(), 1000, "{stage}");
        check(&daemon, &other, stage);
    };
    goes_on("logs whose disks hang");
    let path = daemon.docker(&["inspect", "-f", "{{.LogPath}}", &healthy[0]]).ok();
    let length = fs::metadata(&path).unwrap().len();
    eventually("another container's log file", || {
        (fs::metadata(&path).unwrap().len() > length).then_some(())
    });
    // Clients that ask for the hung ones, more than the daemon has threads of any kind.
    let mut clients = Vec::new();
    for (_, id) in &wedged {
        for n in 0..150 {
            clients.push(match n % 5 {
                0 => client(&daemon, "GET", &format!("/containers/{id}/logs?stdout=1&stderr=1")),
                1 => client(&daemon, "GET", &format!("/containers/{id}/logs?stdout=1&follow=1")),
                2 => client(&daemon, "GET", &format!("/containers/{id}/logs?stdout=1&tail=5&timestamps=1")),
                3 => client(&daemon, "POST", &format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1")),
                _ => client(&daemon, "POST", &format!("/containers/{id}/attach?stream=1&logs=1&stdout=1")),
            });
        }
    }
    goes_on("clients of logs whose disks hang");
    // They go, and leave no more than a few threads for each disk.
    drop(clients);
    eventually("the clients' connections to be gone", || {
        let (_, now) = size_of(daemon.pid());
        (now < descriptors + 60).then_some(())
    });
    // What waits for a disk is bounded; idle threads of the pool go by themselves.
    eventually("the clients' threads to be gone", || (size_of(daemon.pid()).0 < threads + 60).then_some(()));
    // One is to be removed: that is answered, whatever comes of it, and concerns nobody else.
    let removed = begin(&daemon, "DELETE", &format!("/containers/{}?force=1", wedged[0].1));
    goes_on("removal of a container whose log's disk hangs");
    within(60, "the answer to a removal", || removed.join().unwrap());
    // The disks answer again, with an error: output goes on and is told of as missing.
    for (hung, _) in &mut wedged {
        hung.release();
    }
    for (_, id) in &wedged {
        eventually("the removal", || (daemon.docker(&["rm", "-f", id]).code == 0).then_some(()));
    }
    drop(wedged);
    goes_on("disks that answer again");
    for id in &healthy {
        daemon.docker(&["rm", "-f", id]).ok();
    }
}
