//! The keeper itself: daemons that come and go, its own death, its replacement, children that hang.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_imports,
    reason = "a test that fails panics"
)]

mod rig;

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rig::*;
use wharf_keeper::{KeeperError, connect};
use wharf_kernel::sys::process::{pidfd_open, pidfd_send_signal};
use wharf_plan::run::*;

const PATIENCE: Duration = Duration::from_secs(20);

async fn sleeper(rig: &Rig, script: &str) -> (String, i32, std::os::fd::OwnedFd) {
    let mut plan = rig.plan(script);
    let (started, pipe) = rig.start(&mut plan).await.unwrap();
    read_until(&pipe, "ready");
    (plan.run.id, started.pid, pipe)
}

/// A child that stands still while it is set up holds nobody else up.
#[tokio::test]
async fn a_hanging_child_hangs_alone() {
    let mut rig = Rig::new().await;
    let mut stuck = rig.plan("echo here; exit 3");
    let path = stuck.run.cgroup.as_ref().unwrap().path.clone();
    rig.cgroups.create(&path, &Resources::default()).unwrap();
    // Whoever joins a frozen cgroup stands still.
    rig.cgroups.freeze(&path).unwrap();
    let starting = rig.keeper.clone();
    let (run, fds) = (stuck.run.clone(), std::mem::take(&mut stuck.fds));
    let start = tokio::spawn(async move { starting.run(run, fds).await });
    for _ in 0..3 {
        assert_eq!(rig.sh("echo other").await.text, "other\n");
    }
    assert!(!start.is_finished());
    // It is listed, cannot be joined yet, and its id is taken.
    let id = stuck.run.id.clone();
    assert!(rig.keeper.list().await.unwrap().iter().any(|e| e.id == id && e.exit.is_none()));
    let exec = ExecPlan {
        id: "e".into(),
        container: id.clone(),
        process: process(&["true"]),
        ..ExecPlan::default()
    };
    assert_eq!(rig.keeper.exec(exec, Vec::new()).await.unwrap_err().errno, libc::EAGAIN);
    let mut again = rig.plan("true");
    again.run.id.clone_from(&id);
    assert_eq!(rig.keeper.run(again.run, again.fds).await.unwrap_err().errno, libc::EEXIST);
    rig.cgroups.thaw(&path).unwrap();
    start.await.unwrap().unwrap();
    assert_eq!(rig.exit(&id).await.code, 3);
    rig.clean(&id).await;

    // One that never comes back can be killed.
    let mut stuck = rig.plan("true");
    let path = stuck.run.cgroup.as_ref().unwrap().path.clone();
    rig.cgroups.create(&path, &Resources::default()).unwrap();
    rig.cgroups.freeze(&path).unwrap();
    let starting = rig.keeper.clone();
    let id = stuck.run.id.clone();
    let (run, fds) = (stuck.run.clone(), std::mem::take(&mut stuck.fds));
    let start = tokio::spawn(async move { starting.run(run, fds).await });
    while !rig.keeper.list().await.unwrap().iter().any(|e| e.id == id) {
        tokio::task::yield_now().await;
    }
    rig.keeper.signal(&id, libc::SIGKILL).await.unwrap();
    rig.cgroups.thaw(&path).unwrap();
    assert!(tokio::time::timeout(PATIENCE, start).await.unwrap().is_ok());
    assert_eq!(rig.exit(&id).await.code, 137);
    rig.clean(&id).await;
    rig.finish().await;
}

/// A child that hangs has no copy of what belongs to another container: its end of file still comes.
#[tokio::test]
async fn a_hanging_child_keeps_nothing_open() {
    let mut rig = Rig::new().await;
    let mut reader = rig.plan("cat; echo end");
    let (read_end, write_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let fd = reader.fd(read_end);
    reader.run.process.stdio[0] = Some(fd);
    let held = reader.fd(write_end);
    reader.run.hold = vec![("stdin".into(), held)];
    let (_, pipe) = rig.start(&mut reader).await.unwrap();
    let mut stuck = rig.plan("true");
    let path = stuck.run.cgroup.as_ref().unwrap().path.clone();
    rig.cgroups.create(&path, &Resources::default()).unwrap();
    rig.cgroups.freeze(&path).unwrap();
    let starting = rig.keeper.clone();
    let (run, fds) = (stuck.run.clone(), std::mem::take(&mut stuck.fds));
    let start = tokio::spawn(async move { starting.run(run, fds).await });
    // It is in its cgroup when it stands still, and its descriptors were closed before.
    while rig.cgroups.pids(&path).unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    rig.keeper.release(&reader.run.id, vec!["stdin".into()]).await.unwrap();
    assert_eq!(read(pipe).await, "end\n");
    rig.exit(&reader.run.id).await;
    rig.clean(&reader.run.id).await;
    rig.cgroups.thaw(&path).unwrap();
    start.await.unwrap().unwrap();
    rig.exit(&stuck.run.id).await;
    rig.clean(&stuck.run.id).await;
    rig.finish().await;
}

#[tokio::test]
async fn the_daemon_dies() {
    let mut rig = Rig::new().await;
    let (running, pid, _pipe) = sleeper(&rig, "echo ready; sleep 1000").await;
    let (read_end, write_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    let mut plan = rig.plan("echo last words; exit 9");
    let fd = plan.fd(write_end);
    plan.run.process.stdio = [None, Some(fd), Some(fd)];
    let held = plan.fd(read_end);
    plan.run.hold = vec![("stdout".into(), held)];
    let path = plan.run.cgroup.as_ref().unwrap().path.clone();
    rig.cgroups.create(&path, &Resources::default()).unwrap();
    let started = rig.keeper.run(plan.run.clone(), std::mem::take(&mut plan.fds)).await.unwrap();
    // Every handle of this daemon goes away, before the exit is looked at.
    let nobody = tokio::sync::mpsc::unbounded_channel().1;
    drop(std::mem::replace(&mut rig.exits, nobody));
    let keeper = keeper_pid(rig.dir.path());
    let old = std::mem::replace(&mut rig.keeper, {
        // A second daemon is refused while the first one lives.
        match connect(rig.dir.path(), Path::new(PROGRAM)).await {
            Err(KeeperError::Unreachable(text)) => assert!(text.contains("another daemon"), "{text}"),
            other => panic!("{other:?}"),
        }
        let other = tempfile::tempdir().unwrap();
        connect(other.path(), Path::new(PROGRAM)).await.unwrap()
    });
    let unused = std::mem::replace(&mut rig.keeper, old);
    unused.shutdown().await.unwrap();
    let dir = rig.dir.path().to_owned();
    drop(std::mem::replace(&mut rig.keeper, unused));
    wait_pidfd(&started.pidfd);
    // The connection of a task that was aborted closes when the runtime drops it.
    rig.keeper = tokio::time::timeout(PATIENCE, async {
        loop {
            match connect(&dir, Path::new(PROGRAM)).await {
                Ok(keeper) => break keeper,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await
    .unwrap();
    rig.exits = rig.keeper.exits();
    assert_eq!(keeper_pid(&dir), keeper, "it is the same keeper");
    let list = rig.keeper.list().await.unwrap();
    let entry = |id: &str| list.iter().find(|e| e.id == id).unwrap();
    assert_eq!((entry(&running).pid, entry(&running).exit), (pid, None));
    assert_eq!(entry(&plan.run.id).exit.unwrap().code, 9);
    let mut fds = rig.keeper.fetch(&plan.run.id).await.unwrap();
    let (name, stdout) = fds.pop().unwrap();
    assert_eq!(name, "stdout");
    // The keeper holds the reading end only; the writing one went with the container.
    assert_eq!(read(stdout).await, "last words\n");
    rig.clean(&plan.run.id).await;
    rig.keeper.signal(&running, libc::SIGTERM).await.unwrap();
    rig.keeper.signal(&running, libc::SIGKILL).await.unwrap();
    assert_eq!(rig.exit(&running).await.code, 137);
    rig.clean(&running).await;
    rig.finish().await;
}

#[tokio::test]
async fn the_keeper_dies() {
    let mut rig = Rig::new().await;
    let (one, pid, pipe) =
        sleeper(&rig, "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 1 & wait; done").await;
    let (two, ..) = sleeper(&rig, "echo ready; sleep 1000").await;
    let mut restarts = rig.keeper.restarts();
    let keeper = keeper_pid(rig.dir.path());
    pidfd_send_signal(pidfd_open(keeper).unwrap().as_fd(), libc::SIGKILL).unwrap();
    // Containers run on, and the next keeper adopts them.
    tokio::time::timeout(PATIENCE, restarts.changed()).await.unwrap().unwrap();
    assert_ne!(keeper_pid(rig.dir.path()), keeper);
    let list = rig.keeper.list().await.unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list.iter().find(|e| e.id == one).unwrap().pid, pid);
    // Joining, and a limit of the container that it joined, still work.
    let exec = ExecPlan {
        id: "e".into(),
        container: one.clone(),
        process: process(&["true"]),
        ..ExecPlan::default()
    };
    rig.keeper.exec(exec, Vec::new()).await.unwrap();
    assert_eq!(rig.exit("e").await.code, 0);
    rig.keeper.forget("e").await.unwrap();
    rig.keeper.signal(&one, libc::SIGTERM).await.unwrap();
    read_until(&pipe, "bye");
    // From Linux 6.15 on the kernel tells the code also to who is not the parent.
    let wanted = if wharf_kernel::sys::process::pidfd_tells_exit() { 5 } else { 255 };
    assert_eq!(rig.exit(&one).await.code, wanted);
    rig.clean(&one).await;

    // One that ends while there is no keeper: known to have ended; its code only if it was not reaped meanwhile.
    let entries = rig.keeper.list().await.unwrap();
    let target = pidfd_open(entries[0].pid).unwrap();
    let keeper = pidfd_open(keeper_pid(rig.dir.path())).unwrap();
    pidfd_send_signal(keeper.as_fd(), libc::SIGSTOP).unwrap();
    pidfd_send_signal(target.as_fd(), libc::SIGKILL).unwrap();
    wait_pidfd(&target);
    restarts.borrow_and_update();
    pidfd_send_signal(keeper.as_fd(), libc::SIGKILL).unwrap();
    tokio::time::timeout(PATIENCE, restarts.changed()).await.unwrap().unwrap();
    let code = rig.exit(&two).await.code;
    assert!(code == 137 || code == 255, "{code}");
    rig.clean(&two).await;
    rig.finish().await;
}

/// An end that a daemon was told of and did not come to write down is known to the next one, though the keeper dies as well.
#[tokio::test]
async fn both_die_before_an_end_is_written_down() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan("exit 9");
    let (_, _pipe) = rig.start(&mut plan).await.unwrap();
    assert_eq!(rig.exit(&plan.run.id).await.code, 9);
    let dir = rig.dir.path().to_owned();
    let keeper = pidfd_open(keeper_pid(&dir)).unwrap();
    let saved = || std::fs::read(dir.join("keeper").join(&plan.run.id)).unwrap();
    let before = saved();
    let other = tempfile::tempdir().unwrap();
    let unused = connect(other.path(), Path::new(PROGRAM)).await.unwrap();
    drop(std::mem::replace(&mut rig.keeper, unused.clone()));
    let told = tokio::time::timeout(PATIENCE, async {
        while saved() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    told.await.expect("the keeper writes the end down when its daemon goes");
    pidfd_send_signal(keeper.as_fd(), libc::SIGKILL).unwrap();
    wait_pidfd(&keeper);
    rig.keeper = connect(&dir, Path::new(PROGRAM)).await.unwrap();
    let list = rig.keeper.list().await.unwrap();
    assert_eq!(list.iter().map(|e| e.exit.unwrap().code).collect::<Vec<_>>(), [9]);
    unused.shutdown().await.unwrap();
    rig.clean(&plan.run.id).await;
    rig.finish().await;
}

#[tokio::test]
async fn replaced_in_place() {
    let mut rig = Rig::new().await;
    let (one, pid, _pipe) =
        sleeper(&rig, "trap 'exit 6' TERM; echo ready; while :; do sleep 1 & wait; done").await;
    let (read_end, write_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    rig.keeper.hold(&one, vec![("pipe".into(), read_end)]).await.unwrap();
    let mut done = rig.plan("exit 8");
    rig.start(&mut done).await.unwrap();
    rig.exit(&done.run.id).await;
    let before = keeper_pid(rig.dir.path());
    for _ in 0..3 {
        rig.keeper.reload(Path::new(PROGRAM)).await.unwrap();
    }
    assert_eq!(keeper_pid(rig.dir.path()), before, "the same process");
    let arguments = std::fs::read_to_string(format!("/proc/{before}/cmdline")).unwrap();
    assert!(arguments.contains("--resume"), "{arguments}");
    let flags = nix::sys::statvfs::statvfs(format!("/proc/{before}/exe").as_str()).unwrap().flags();
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    let list = rig.keeper.list().await.unwrap();
    assert_eq!(list.iter().find(|e| e.id == one).unwrap().pid, pid);
    assert_eq!(list.iter().find(|e| e.id == done.run.id).unwrap().exit.unwrap().code, 8);
    // What it held is still held, and it still is the parent: the code is exact.
    let pipe = rig.keeper.fetch(&one).await.unwrap().into_iter().find(|(n, _)| n == "pipe").unwrap().1;
    nix::unistd::write(&write_end, b"through").unwrap();
    assert_eq!(read_until(&pipe, "through"), "through");
    assert_eq!(rig.sh("echo new").await.text, "new\n");
    // A program that cannot be one leaves all as it was.
    let error = rig.keeper.reload(Path::new("/nothere")).await.unwrap_err();
    assert!(matches!(&error, KeeperError::Refused(text) if text.contains("ENOENT")), "{error}");
    let error = rig.keeper.reload(Path::new("/etc/passwd")).await.unwrap_err();
    assert!(matches!(&error, KeeperError::Refused(text) if text.contains("EACCES")), "{error}");
    assert_eq!(rig.sh("echo newer").await.text, "newer\n");
    rig.keeper.signal(&one, libc::SIGTERM).await.unwrap();
    assert_eq!(rig.exit(&one).await.code, 6);
    rig.clean(&one).await;
    rig.clean(&done.run.id).await;
    rig.finish().await;
}

/// Descriptors of one container are not in another's, whatever is going on at the same time.
#[tokio::test]
async fn many_at_once() {
    let mut rig = Rig::new().await;
    let mut waiting = std::collections::BTreeMap::new();
    for number in 0..40 {
        let mut plan = rig.plan(&format!("ls /proc/self/fd | wc -l; exit {number}"));
        let (_, pipe) = rig.start(&mut plan).await.unwrap();
        waiting.insert(plan.run.id, (number, pipe));
    }
    while !waiting.is_empty() {
        let (id, status) = tokio::time::timeout(PATIENCE, rig.exits.recv()).await.unwrap().unwrap();
        let (number, pipe) = waiting.remove(&id).unwrap();
        assert_eq!(status.code, number);
        assert_eq!(read(pipe).await, "4\n");
        rig.clean(&id).await;
    }
    rig.finish().await;
}

#[tokio::test]
async fn it_ends_when_nobody_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = connect(dir.path(), Path::new(PROGRAM)).await.unwrap();
    let pidfd = pidfd_open(keeper_pid(dir.path())).unwrap();
    assert!(matches!(keeper.signal("none", 9).await, Err(KeeperError::Unknown(id)) if id == "none"));
    assert!(matches!(keeper.forget("none").await, Err(KeeperError::Unknown(_))));
    assert!(matches!(keeper.fetch("none").await, Err(KeeperError::Unknown(_))));
    drop(keeper);
    tokio::task::spawn_blocking(move || wait_pidfd(&pidfd)).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn programs_that_are_no_keeper() {
    let dir = tempfile::tempdir().unwrap();
    for program in ["/nothere", "/bin/false", "/bin/true"] {
        let error = connect(dir.path(), Path::new(program)).await.unwrap_err();
        assert!(matches!(error, KeeperError::Unreachable(_)), "{program}: {error}");
    }
    // What goes wrong before it serves is said.
    let long = dir.path().join("x".repeat(100));
    let error = connect(&long, Path::new(PROGRAM)).await.unwrap_err().to_string();
    assert!(error.contains("107 bytes"), "{error}");
}

/// Only the keeper's own user may talk to it, whatever the modes of the files say.
#[tokio::test]
async fn other_users_are_turned_away() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let rig = Rig::new().await;
    let socket = wharf_keeper::socket_path(rig.dir.path());
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    drop(rig.keeper);
    for path in [rig.dir.path(), &socket] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let copy =
        tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = copy.path().join("attacker");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = std::process::Command::new(program)
        .args(["attacker", "--exact", "--nocapture"])
        .env("ATTACK", &socket)
        .uid(65534)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("turned away"));
    let pidfd = pidfd_open(keeper_pid(rig.dir.path())).unwrap();
    tokio::task::spawn_blocking(move || wait_pidfd(&pidfd)).await.unwrap();
}

/// The other user of the test above; by itself it has nothing to do.
#[test]
fn attacker() {
    let Some(path) = std::env::var_os("ATTACK") else { return };
    let socket = wharf_kernel::sys::socket::connect(Path::new(&path)).unwrap();
    let mut polls = [nix::poll::PollFd::new(socket.as_fd(), nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut polls, 20_000u16).unwrap();
    let got = wharf_kernel::sys::socket::receive(socket.as_fd(), &mut [0; 100], &mut Vec::new());
    assert!(matches!(got, Ok(0)), "{got:?}");
    println!("turned away");
}
