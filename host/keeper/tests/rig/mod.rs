//! A keeper of its own for every test, containers made of the host's /usr, and a look for leftovers at the end.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use wharf_keeper::{Keeper, Started, connect};
use wharf_kernel::cgroup::Cgroups;
use wharf_kernel::{caps, fs, mount, netns, seccomp};
use wharf_plan::run::*;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_wharf-keeper");

pub(crate) struct Rig {
    /// First, so that it goes while the directory with the socket is still there.
    guard: Guard,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) keeper: Keeper,
    pub(crate) exits: tokio::sync::mpsc::UnboundedReceiver<(String, ExitStatus)>,
    pub(crate) cgroups: Cgroups,
    pub(crate) parent: String,
    next: AtomicU32,
}

/// Takes everything down when a test fails in the middle.
struct Guard {
    exec_root: PathBuf,
    parent: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let cgroups = Cgroups::detect().unwrap();
        let _ = cgroups.kill(&self.parent);
        if let Ok(socket) = wharf_kernel::sys::socket::connect(&wharf_keeper::socket_path(&self.exec_root)) {
            let pid = wharf_kernel::sys::socket::peer(socket.as_fd()).unwrap().pid;
            let pidfd = wharf_kernel::sys::process::pidfd_open(pid).unwrap();
            let _ = wharf_kernel::sys::process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
        }
        let _ = cgroups.remove(&self.parent, Duration::from_secs(5));
    }
}

/// A plan with its descriptors.
pub(crate) struct Plan {
    pub(crate) run: RunPlan,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Plan {
    pub(crate) fn fd(&mut self, fd: OwnedFd) -> Fd {
        self.fds.push(fd);
        u32::try_from(self.fds.len() - 1).unwrap()
    }
}

pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) text: String,
}

/// The keeper's pid: the owner of its socket.
pub(crate) fn keeper_pid(exec_root: &Path) -> i32 {
    let socket = wharf_kernel::sys::socket::connect(&wharf_keeper::socket_path(exec_root)).unwrap();
    wharf_kernel::sys::socket::peer(socket.as_fd()).unwrap().pid
}

/// Waits for the end of a process, which must come.
pub(crate) fn wait_pidfd(pidfd: &OwnedFd) {
    let mut polls = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut polls, 20_000u16).unwrap(), 1, "the process does not end");
}

impl Rig {
    pub(crate) async fn new() -> Self {
        static RIGS: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("wharf-keeper-").tempdir().unwrap();
        let keeper = connect(dir.path(), Path::new(PROGRAM)).await.unwrap();
        let exits = keeper.exits();
        let rig = RIGS.fetch_add(1, Ordering::Relaxed);
        let parent = format!("/wharf-keeper-test-{}-{rig}", std::process::id());
        let guard = Guard { exec_root: dir.path().to_owned(), parent: parent.clone() };
        Self {
            dir,
            keeper,
            exits,
            cgroups: Cgroups::detect().unwrap(),
            parent,
            next: AtomicU32::new(0),
            guard,
        }
    }

    pub(crate) fn id(&self) -> String {
        format!("c{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn cgroup(&self, id: &str) -> String {
        format!("{}/{id}", self.parent)
    }

    /// A container as Docker would make it, running a shell script.
    pub(crate) fn plan(&self, script: &str) -> Plan {
        self.plan_in(script, rootfs(&[]))
    }

    pub(crate) fn plan_in(&self, script: &str, root: OwnedFd) -> Plan {
        let id = self.id();
        let mut plan = Plan { run: RunPlan::default(), fds: vec![root] };
        plan.run.process = process(&["/bin/sh", "-c", script]);
        plan.run.rootfs_propagation = "rprivate".into();
        let net = plan.fd(netns::create().unwrap());
        plan.run.namespaces.net = Namespace::Join(net);
        plan.run.hostname = Some("box".into());
        for name in ["usr", "bin", "sbin", "lib", "lib64"] {
            let host = Path::new("/").join(name);
            if !host.is_dir() || (host.is_symlink() && name != "usr") {
                continue;
            }
            let tree = mount::bind_path(&host, true).unwrap();
            let read_only = mount::Flags { read_only: true, ..mount::Flags::default() };
            mount::set_attr(tree.as_fd(), read_only, true).unwrap();
            let fd = plan.fd(tree);
            plan.run.mounts.push(tree_mount(&format!("/{name}"), fd));
        }
        plan.run.mounts.extend(docker_mounts());
        plan.run.devices = docker_devices();
        plan.run.links = [
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
            ("/dev/ptmx", "pts/ptmx"),
        ]
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .to_vec();
        plan.run.masked_paths = [
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/timer_list",
            "/proc/interrupts",
            "/proc/scsi",
            "/sys/firmware",
        ]
        .map(str::to_owned)
        .to_vec();
        plan.run.readonly_paths = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
            .map(str::to_owned)
            .to_vec();
        plan.run.cgroup = Some(Cgroup { path: self.cgroup(&id), resources: Resources::default() });
        plan.run.id = id;
        plan
    }

    /// Makes the cgroup and starts it with both output streams in one pipe.
    pub(crate) async fn start(&self, plan: &mut Plan) -> Result<(Started, OwnedFd), StartError> {
        let (ours, theirs) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        if !plan.run.process.tty {
            let fd = plan.fd(theirs);
            plan.run.process.stdio[1] = Some(fd);
            plan.run.process.stdio[2] = Some(fd);
        }
        if let Some(cgroup) = &plan.run.cgroup {
            match self.cgroups.create(&cgroup.path, &cgroup.resources) {
                Err(e) if !e.is_exists() => panic!("{e}"),
                _ => {}
            }
        }
        let started = self.keeper.run(plan.run.clone(), std::mem::take(&mut plan.fds)).await;
        if started.is_err()
            && let Some(cgroup) = &plan.run.cgroup
        {
            self.cgroups.remove(&cgroup.path, Duration::from_secs(5)).unwrap();
        }
        started.map(|started| (started, ours))
    }

    pub(crate) async fn exec(&self, plan: &mut ExecPlan) -> Result<(Started, OwnedFd), StartError> {
        let (ours, theirs) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let mut fds = Vec::new();
        if !plan.process.tty {
            fds.push(theirs);
            plan.process.stdio[1] = Some(0);
            plan.process.stdio[2] = Some(0);
        }
        self.keeper.exec(plan.clone(), fds).await.map(|started| (started, ours))
    }

    /// The next exit must be this one.
    pub(crate) async fn exit(&mut self, id: &str) -> ExitStatus {
        let (got, status) =
            tokio::time::timeout(Duration::from_secs(20), self.exits.recv()).await.expect("no exit").unwrap();
        assert_eq!(got, id);
        status
    }

    /// Forgets the entry and removes the cgroup.
    pub(crate) async fn clean(&self, id: &str) {
        self.keeper.forget(id).await.unwrap();
        self.cgroups.remove(&self.cgroup(id), Duration::from_secs(5)).unwrap();
    }

    pub(crate) async fn output(&mut self, plan: &mut Plan) -> Output {
        let (_, pipe) = self.start(plan).await.unwrap();
        let text = read(pipe).await;
        let status = self.exit(&plan.run.id).await;
        self.clean(&plan.run.id).await;
        Output { status, text }
    }

    /// Output and code of a script in a default container.
    pub(crate) async fn sh(&mut self, script: &str) -> Output {
        let mut plan = self.plan(script);
        self.output(&mut plan).await
    }

    /// The error of a start that must fail.
    pub(crate) async fn refused(&self, plan: &mut Plan) -> StartError {
        match self.start(plan).await {
            Ok((started, _)) => panic!("it started as {}", started.pid),
            Err(error) => {
                assert!(
                    self.keeper.list().await.unwrap().iter().all(|e| e.id != plan.run.id),
                    "an entry is left"
                );
                error
            }
        }
    }

    /// Ends the keeper and looks for leftovers.
    pub(crate) async fn finish(self) {
        assert_eq!(self.keeper.list().await.unwrap(), [], "entries are left");
        let pid = keeper_pid(self.dir.path());
        let pidfd = wharf_kernel::sys::process::pidfd_open(pid).unwrap();
        self.keeper.shutdown().await.unwrap();
        wait_pidfd(&pidfd);
        let left: Vec<_> =
            std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "left in the exec root: {left:?}");
        assert_eq!(self.cgroups.list(&self.parent).unwrap(), Vec::<String>::new(), "cgroups are left");
        self.cgroups.remove(&self.parent, Duration::from_secs(1)).unwrap();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("wharf-keeper-"), "mounts are left:\n{mounts}");
    }
}

pub(crate) async fn read(pipe: OwnedFd) -> String {
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        // A terminal's master ends with EIO.
        let _ = File::from(pipe).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
    .await
    .unwrap()
}

/// Reads until the text has come.
pub(crate) fn read_until(fd: &OwnedFd, wanted: &str) -> String {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut polls = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut polls, 20_000u16).unwrap(), 1, "{wanted:?} does not come: {text:?}");
        let mut buffer = [0; 4096];
        let count = nix::unistd::read(fd, &mut buffer).unwrap();
        assert!(count > 0, "{wanted:?} did not come: {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

/// A detached root file system: a tmpfs with the links of the host's root and some files.
pub(crate) fn rootfs(files: &[(&str, &str)]) -> OwnedFd {
    let tree = mount::tmpfs(&["mode=755"], mount::Flags::default()).unwrap();
    let root = fs::Root::new(tree.try_clone().unwrap());
    for name in ["usr", "etc", "proc", "sys", "dev", "tmp", "root"] {
        root.mkdir_all(name, 0o755).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        if let Ok(target) = std::fs::read_link(Path::new("/").join(name)) {
            root.symlink(target, name).unwrap();
        }
    }
    root.write("etc/passwd", b"root:x:0:0::/root:/bin/sh\n", 0o644).unwrap();
    for (path, text) in files {
        if let Some(above) = PathBuf::from(path).parent() {
            root.mkdir_all(above, 0o755).unwrap();
        }
        root.write(path, text.as_bytes(), 0o755).unwrap();
    }
    tree
}

pub(crate) fn process(args: &[&str]) -> Process {
    let all = caps::DOCKER_DEFAULT;
    Process {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()],
        cwd: "/".into(),
        capabilities: Capabilities {
            bounding: all,
            effective: all,
            permitted: all,
            ..Capabilities::default()
        },
        seccomp: seccomp::docker_default(all),
        ..Process::default()
    }
}

pub(crate) fn tree_mount(target: &str, fd: Fd) -> Mount {
    Mount {
        target: target.into(),
        source: MountSource::Tree(fd),
        file: false,
        read_only: false,
        no_suid: false,
        no_dev: false,
        no_exec: false,
        propagation: String::new(),
    }
}

pub(crate) fn new_mount(target: &str, fstype: &str, options: &[&str], flags: &str) -> Mount {
    Mount {
        target: target.into(),
        source: MountSource::New {
            fstype: fstype.into(),
            options: options.iter().map(|o| (*o).to_owned()).collect(),
        },
        file: false,
        read_only: flags.contains("ro"),
        no_suid: flags.contains("nosuid"),
        no_dev: flags.contains("nodev"),
        no_exec: flags.contains("noexec"),
        propagation: String::new(),
    }
}

pub(crate) fn docker_mounts() -> Vec<Mount> {
    vec![
        new_mount("/proc", "proc", &[], "nosuid,nodev,noexec"),
        new_mount("/dev", "tmpfs", &["mode=755", "size=65536k"], "nosuid"),
        new_mount(
            "/dev/pts",
            "devpts",
            &["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            "nosuid,noexec",
        ),
        new_mount("/sys", "sysfs", &[], "ro,nosuid,nodev,noexec"),
        new_mount("/sys/fs/cgroup", "cgroup", &[], "ro,nosuid,nodev,noexec"),
        new_mount("/dev/mqueue", "mqueue", &[], "nosuid,nodev,noexec"),
        new_mount("/dev/shm", "tmpfs", &["mode=1777", "size=64m"], "nosuid,nodev,noexec"),
    ]
}

pub(crate) fn docker_devices() -> Vec<Device> {
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
        .map(|(name, major, minor)| Device {
            path: format!("/dev/{name}"),
            kind: 'c',
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .to_vec()
}
