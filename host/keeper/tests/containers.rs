//! Containers from start to end: codes, signals, streams, terminals, users, limits, exec, init.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_imports,
    reason = "a test that fails panics"
)]

mod rig;

use std::io::Write;
use std::os::fd::AsFd;

use rig::*;
use wharf_kernel::{mount, sys};
use wharf_plan::run::*;

fn exec_plan(container: &str, id: &str, script: &str) -> ExecPlan {
    ExecPlan {
        id: id.into(),
        container: container.into(),
        ids: None,
        process: process(&["/bin/sh", "-c", script]),
        hold: Vec::new(),
    }
}

#[tokio::test]
async fn runs_and_ends() {
    let mut rig = Rig::new().await;
    let out = rig.sh("echo hello; hostname; cat /proc/sys/kernel/ostype; exit 7").await;
    assert_eq!((out.text.as_str(), out.status.code, out.status.signal), ("hello\nbox\nLinux\n", 7, None));
    // Process 1 cannot kill itself with a signal that it does not handle.
    let out = rig.sh("kill -9 $$; echo here").await;
    assert_eq!((out.text.as_str(), out.status.code), ("here\n", 0));
    let before = sys::realtime_nanos();
    let out = rig.sh("true").await;
    assert!(out.status.at >= before && out.status.at <= sys::realtime_nanos());
    rig.finish().await;
}

#[tokio::test]
async fn a_signal_ends_it() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan("trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 1 & wait; done");
    let (_, pipe) = rig.start(&mut plan).await.unwrap();
    read_until(&pipe, "ready");
    rig.keeper.signal(&plan.run.id, libc::SIGTERM).await.unwrap();
    assert_eq!(rig.exit(&plan.run.id).await.code, 4);
    rig.clean(&plan.run.id).await;
    let mut plan = rig.plan("echo ready; sleep 1000");
    let (started, pipe) = rig.start(&mut plan).await.unwrap();
    read_until(&pipe, "ready");
    assert!(rig.keeper.forget(&plan.run.id).await.unwrap_err().to_string().contains("still running"));
    sys::process::pidfd_send_signal(started.pidfd.as_fd(), libc::SIGKILL).unwrap();
    let status = rig.exit(&plan.run.id).await;
    assert_eq!((status.code, status.signal, status.oom_killed), (137, Some(9), false));
    rig.clean(&plan.run.id).await;
    rig.finish().await;
}

#[tokio::test]
async fn what_cannot_be_executed() {
    let rig = Rig::new().await;
    let cases: [(&[&str], i32, &str); 8] = [
        (&["nothere"], libc::ENOENT, "exec: \"nothere\": executable file not found in $PATH"),
        (&["/nothere"], libc::ENOENT, "exec: \"/nothere\": stat /nothere: no such file or directory"),
        (&["/etc/passwd"], libc::EACCES, "exec: \"/etc/passwd\": permission denied"),
        (&["/etc"], libc::EACCES, "exec: \"/etc\": permission denied"),
        (&["/script"], libc::ENOENT, "exec: \"/script\": stat /script: no such file or directory"),
        (&["/garbage"], libc::ENOEXEC, "exec /garbage"),
        (&[""], libc::ENOENT, "exec: \"\": executable file not found in $PATH"),
        (&["/proc/self/fd/1"], libc::EACCES, ""),
    ];
    for (args, errno, text) in cases {
        let root = rootfs(&[("script", "#!/no/interpreter\n"), ("garbage", "garbage")]);
        wharf_kernel::fs::Root::new(root.try_clone().unwrap()).write("etc/passwd", b"x", 0o644).unwrap();
        let mut plan = rig.plan_in("", root);
        plan.run.process.args = args.iter().map(|a| (*a).to_owned()).collect();
        let error = rig.refused(&mut plan).await;
        assert_eq!((error.stage, error.errno), (Stage::Exec, errno), "{args:?}: {error}");
        assert!(error.what.contains(text), "{error}");
    }
    let mut plan = rig.plan("");
    plan.run.process.args.clear();
    assert_eq!(rig.refused(&mut plan).await.stage, Stage::Request);
    rig.finish().await;
}

#[tokio::test]
async fn users_and_directories() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan("id -u; id -g; id -G; pwd; echo $HOME; umask");
    plan.run.process.user = User { uid: 1000, gid: 1001, groups: vec![1001, 7, 8] };
    plan.run.process.cwd = "/made/for/it".into();
    plan.run.process.env.push("HOME=/nowhere".into());
    let out = rig.output(&mut plan).await;
    assert_eq!(out.text, "1000\n1001\n1001 7 8\n/made/for/it\n/nowhere\n0022\n");
    // None of the keeper's groups comes along.
    let mut plan = rig.plan("id -G");
    plan.run.process.user = User { uid: 5, gid: 5, groups: Vec::new() };
    assert_eq!(rig.output(&mut plan).await.text, "5\n");
    // A directory that is closed to the user but not to root can still be the working directory.
    let mut plan = rig.plan("pwd");
    plan.run.process.user.uid = 1000;
    plan.run.process.cwd = "/root".into();
    assert_eq!(rig.output(&mut plan).await.text, "/root\n");
    rig.finish().await;
}

#[tokio::test]
async fn standard_streams() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan("cat; echo to-stdout > /dev/stdout; echo $?");
    let (theirs, ours) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let fd = plan.fd(theirs);
    plan.run.process.stdio[0] = Some(fd);
    plan.run.process.user.uid = 1000;
    let (_, pipe) = rig.start(&mut plan).await.unwrap();
    std::fs::File::from(ours).write_all(b"from stdin\n").unwrap();
    assert_eq!(read(pipe).await, "from stdin\nto-stdout\n0\n");
    rig.exit(&plan.run.id).await;
    rig.clean(&plan.run.id).await;
    // Streams that are not given are the container's own null device.
    let out = rig.sh("stat -Lc '%t:%T %d' /proc/self/fd/0 /dev/null").await;
    let lines: Vec<_> = out.text.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert!(lines[0].starts_with("1:3 "));
    rig.finish().await;
}

#[tokio::test]
async fn out_of_memory() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan("exec tail /dev/zero");
    let limit = Some(24 << 20);
    plan.run.cgroup.as_mut().unwrap().resources =
        Resources { memory: limit, memory_swap: limit, ..Resources::default() };
    let out = rig.output(&mut plan).await;
    assert_eq!((out.status.code, out.status.signal, out.status.oom_killed), (137, Some(9), true));
    rig.finish().await;
}

#[tokio::test]
async fn limit_of_processes() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done 2>&1; echo not-reached");
    plan.run.cgroup.as_mut().unwrap().resources.pids = Some(4);
    let out = rig.output(&mut plan).await;
    assert!(out.text.contains("fork"), "{}", out.text);
    rig.finish().await;
}

#[tokio::test]
async fn terminal() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan("tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo three; read x; echo got-$x; stat -c %u /dev/pts/0; echo console > /dev/console; ls -l /proc/self/fd | wc -l");
    plan.run.process.tty = true;
    plan.run.process.console_size = Some((33, 111));
    plan.run.process.user.uid = 1000;
    let (started, _) = rig.start(&mut plan).await.unwrap();
    let master = started.pty.unwrap();
    let text = read_until(&master, "three");
    assert!(text.contains("/dev/pts/0\r\n33 111\r\n"), "{text:?}");
    let held: Vec<String> =
        rig.keeper.fetch(&plan.run.id).await.unwrap().into_iter().map(|(n, _)| n).collect();
    assert_eq!(held, ["pty", "pidfd"]);
    nix::unistd::write(&master, b"typed\n").unwrap();
    let text = read(master).await;
    assert!(text.contains("got-typed\r\n1000\r\nconsole\r\n"), "{text:?}");
    rig.exit(&plan.run.id).await;
    rig.clean(&plan.run.id).await;
    rig.finish().await;
}

#[tokio::test]
async fn terminal_is_resized_and_interrupts() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan(
        "trap 'stty size' WINCH; trap 'echo int; exit 9' INT; echo ready; while :; do sleep 0.05; done",
    );
    plan.run.process.tty = true;
    let (started, _) = rig.start(&mut plan).await.unwrap();
    let master = started.pty.unwrap();
    read_until(&master, "ready");
    sys::tty::set_size(master.as_fd(), 10, 20).unwrap();
    read_until(&master, "10 20");
    nix::unistd::write(&master, b"\x03").unwrap();
    read_until(&master, "int");
    drop(master);
    assert_eq!(rig.exit(&plan.run.id).await.code, 9);
    rig.clean(&plan.run.id).await;
    rig.finish().await;
}

#[tokio::test]
async fn init_as_first_process() {
    let mut rig = Rig::new().await;
    let mut plan = rig
        .plan("cat /proc/1/comm; echo $$; (sleep 0.05 &) ; sleep 0.2; grep -l Z /proc/[0-9]*/stat; exit 6");
    plan.run.init = true;
    let out = rig.output(&mut plan).await;
    // Only the shell itself and no zombie of the orphan.
    assert_eq!((out.text.as_str(), out.status.code), ("wharf-init\n2\n", 6));
    let mut plan = rig.plan("trap 'exit 3' TERM; echo ready; while :; do sleep 1 & wait; done");
    plan.run.init = true;
    let (_, pipe) = rig.start(&mut plan).await.unwrap();
    read_until(&pipe, "ready");
    rig.keeper.signal(&plan.run.id, libc::SIGTERM).await.unwrap();
    assert_eq!(rig.exit(&plan.run.id).await.code, 3);
    rig.clean(&plan.run.id).await;
    // A missing program is found before init runs.
    let mut plan = rig.plan("");
    plan.run.init = true;
    plan.run.process.args = vec!["nothere".into()];
    let error = rig.refused(&mut plan).await;
    assert_eq!((error.stage, error.errno), (Stage::Exec, libc::ENOENT));
    rig.finish().await;
}

#[tokio::test]
async fn exec_joins() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan("mkdir /tmp/here; echo ready; sleep 1000");
    let (_, pipe) = rig.start(&mut plan).await.unwrap();
    read_until(&pipe, "ready");
    let container = plan.run.id.clone();
    let script = "for n in mnt pid ipc uts net cgroup; do \
        [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] && echo $n; done; \
        diff /proc/self/cgroup /proc/1/cgroup && echo same; hostname; pwd; exit 5";
    let mut exec = exec_plan(&container, "e1", script);
    exec.process.cwd = "/tmp/here".into();
    let (_, pipe) = rig.exec(&mut exec).await.unwrap();
    assert_eq!(read(pipe).await, "mnt\npid\nipc\nuts\nnet\ncgroup\nsame\nbox\n/tmp/here\n");
    assert_eq!(rig.exit("e1").await.code, 5);
    let entry = rig.keeper.list().await.unwrap().into_iter().find(|e| e.id == "e1").unwrap();
    assert_eq!(entry.container.as_deref(), Some(container.as_str()));
    rig.keeper.forget("e1").await.unwrap();

    // With a terminal of the container's.
    let mut exec = exec_plan(&container, "e2", "tty; stty size");
    exec.process.tty = true;
    exec.process.console_size = Some((5, 6));
    let (started, _) = rig.exec(&mut exec).await.unwrap();
    assert!(read(started.pty.unwrap()).await.contains("/dev/pts/0\r\n5 6\r\n"));
    rig.exit("e2").await;
    rig.keeper.forget("e2").await.unwrap();

    // Failures say why, and leave nothing.
    let mut exec = exec_plan(&container, "e3", "");
    exec.process.args = vec!["nothere".into()];
    let error = rig.exec(&mut exec).await.unwrap_err();
    assert_eq!((error.stage, error.errno), (Stage::Exec, libc::ENOENT));
    let mut exec = exec_plan(&container, "e4", "true");
    exec.process.cwd = "/not/there".into();
    let error = rig.exec(&mut exec).await.unwrap_err();
    assert_eq!((error.stage, error.errno), (Stage::Cwd, libc::ENOENT));
    let error = rig.exec(&mut exec_plan("other", "e5", "true")).await.unwrap_err();
    assert_eq!((error.stage, error.errno), (Stage::Request, libc::ESRCH));
    assert_eq!(rig.keeper.list().await.unwrap().len(), 1);

    rig.keeper.signal(&container, libc::SIGKILL).await.unwrap();
    rig.exit(&container).await;
    let error = rig.exec(&mut exec_plan(&container, "e6", "true")).await.unwrap_err();
    assert_eq!(error.errno, libc::ESRCH);
    rig.clean(&container).await;
    rig.finish().await;
}

#[tokio::test]
async fn namespaces_of_others() {
    let mut rig = Rig::new().await;
    let mut first = rig.plan("echo ready; sleep 1000");
    let (started, pipe) = rig.start(&mut first).await.unwrap();
    read_until(&pipe, "ready");
    // --pid, --ipc and --uts of another container, given as its pidfd.
    let mut second = rig.plan(
        "until [ \"$(cat /proc/2/comm)\" = sleep ]; do :; done 2>/dev/null; cat /proc/1/comm; hostname; echo $$",
    );
    let pidfd = second.fd(started.pidfd.try_clone().unwrap());
    second.run.namespaces.pid = Namespace::Join(pidfd);
    second.run.namespaces.uts = Namespace::Join(pidfd);
    second.run.namespaces.ipc = Namespace::Join(pidfd);
    second.run.hostname = None;
    let out = rig.output(&mut second).await;
    assert!(out.text.starts_with("sh\nbox\n"), "{}", out.text);
    // The keeper's own pid namespace is as before: a new container has its own first process.
    assert_eq!(rig.sh("echo $$").await.text, "1\n");
    let mut host = rig.plan("readlink /proc/self/ns/pid /proc/self/ns/uts");
    host.run.namespaces.pid = Namespace::Host;
    host.run.namespaces.uts = Namespace::Host;
    host.run.hostname = None;
    let own = |n: &str| std::fs::read_link(format!("/proc/self/ns/{n}")).unwrap().display().to_string();
    assert_eq!(rig.output(&mut host).await.text, format!("{}\n{}\n", own("pid"), own("uts")));
    rig.keeper.signal(&first.run.id, libc::SIGKILL).await.unwrap();
    rig.exit(&first.run.id).await;
    rig.clean(&first.run.id).await;
    rig.finish().await;
}

#[tokio::test]
async fn volumes_and_files() {
    let mut rig = Rig::new().await;
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("file"), "content\n").unwrap();
    let mut plan = rig.plan(
        "cat /vol/deep/dir/file /etc/resolv.conf; echo w > /vol/deep/dir/new; echo w > /ro/new; touch /shm/x; \
         grep ' /shm ' /proc/self/mountinfo | cut -d' ' -f6",
    );
    let dir = plan.fd(mount::bind_path(host.path(), false).unwrap());
    plan.run.mounts.push(tree_mount("/vol/deep/dir", dir));
    let file = plan.fd(mount::bind_path(&host.path().join("file"), false).unwrap());
    plan.run.mounts.push(Mount { file: true, ..tree_mount("/etc/resolv.conf", file) });
    let read_only = plan.fd(mount::bind_path(host.path(), false).unwrap());
    plan.run.mounts.push(Mount { read_only: true, ..tree_mount("/ro", read_only) });
    plan.run.mounts.push(new_mount("/shm", "tmpfs", &["size=64k,noexec", "mode=1777"], "nosuid"));
    let out = rig.output(&mut plan).await;
    assert!(out.text.starts_with("content\ncontent\n"), "{}", out.text);
    assert!(out.text.contains("/ro/new: Read-only file system"), "{}", out.text);
    assert!(out.text.contains("rw,nosuid,noexec"), "{}", out.text);
    assert_eq!(std::fs::read_to_string(host.path().join("new")).unwrap(), "w\n");
    rig.finish().await;
}

#[tokio::test]
async fn kernel_parameters_and_limits() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan("cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_forward; ulimit -n; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj; cat /proc/sys/kernel/domainname");
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    plan.run.sysctls = vec![pair("kernel.shmmni", "77"), pair("net.ipv4.ip_forward", "1")];
    let limit = |kind: &str, soft, hard| Rlimit { kind: kind.into(), soft, hard };
    plan.run.process.rlimits = vec![limit("RLIMIT_NOFILE", 100, 200), limit("core", 0, 0)];
    plan.run.process.oom_score_adj = Some(321);
    plan.run.domainname = Some("dom".into());
    assert_eq!(rig.output(&mut plan).await.text, "77\n1\n100\n200\n0\n321\ndom\n");
    // Without a limit of its own a container has the one that the keeper was started with, not its raised one.
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(rig.sh("ulimit -n; ulimit -Hn").await.text, format!("{soft}\n{hard}\n"));
    for (key, errno) in
        [("kernel.nothere", libc::ENOENT), ("../../etc/passwd", libc::EINVAL), ("a..b", libc::EINVAL)]
    {
        let mut plan = rig.plan("");
        plan.run.sysctls = vec![pair(key, "1")];
        let error = rig.refused(&mut plan).await;
        assert_eq!((error.stage, error.errno), (Stage::Sysctl, errno), "{error}");
    }
    rig.finish().await;
}

#[tokio::test]
async fn what_a_plan_must_not_say() {
    type Change = fn(&mut RunPlan);
    let rig = Rig::new().await;
    let changes: [(&str, Change); 8] = [
        ("descriptor 99", |p| p.rootfs = 99),
        ("cannot hold", |p| p.hold = vec![("x".into(), 77)]),
        ("cannot be an id", |p| p.id = "../escape".into()),
        ("not absolute", |p| p.process.cwd = "relative".into()),
        ("NUL", |p| p.process.args.push("a\0b".into())),
        ("ambient", |p| p.process.capabilities.ambient = 1),
        ("inside a container", |p| p.mounts.push(new_mount("/x", "ext4", &[], ""))),
        ("not a path of a cgroup", |p| p.cgroup.as_mut().unwrap().path = "/../x".into()),
    ];
    for (text, change) in changes {
        let mut plan = rig.plan("true");
        let cgroup = plan.run.cgroup.clone().unwrap();
        rig.cgroups.create(&cgroup.path, &cgroup.resources).unwrap();
        change(&mut plan.run);
        let error = rig.keeper.run(plan.run, plan.fds).await.unwrap_err();
        assert!(error.to_string().contains(text), "{text}: {error}");
        rig.cgroups.remove(&cgroup.path, std::time::Duration::from_secs(1)).unwrap();
    }
    rig.finish().await;
}
