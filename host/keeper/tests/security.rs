//! Attacks: each hole that container runtimes had, tried on this one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_imports,
    reason = "a test that fails panics"
)]

mod rig;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rig::*;
use wharf_kernel::{fs, mount, seccomp};
use wharf_plan::run::*;

const CAPS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";

fn exec_plan(container: &str, id: &str, script: &str) -> ExecPlan {
    ExecPlan {
        id: id.into(),
        container: container.into(),
        ids: None,
        process: process(&["/bin/sh", "-c", script]),
        hold: Vec::new(),
        foreign: None,
    }
}

/// A running container, to join it.
async fn sleeper(rig: &Rig) -> String {
    let mut plan = rig.plan("echo ready; sleep 1000");
    let (_, pipe) = rig.start(&mut plan).await.unwrap();
    read_until(&pipe, "ready");
    plan.run.id
}

async fn end(rig: &mut Rig, id: &str) {
    rig.keeper.signal(id, libc::SIGKILL).await.unwrap();
    rig.exit(id).await;
    rig.clean(id).await;
}

async fn exec_text(
    rig: &mut Rig,
    container: &str,
    script: &str,
    change: impl FnOnce(&mut Process),
) -> String {
    let mut plan = exec_plan(container, "exec", script);
    change(&mut plan.process);
    let (_, pipe) = rig.exec(&mut plan).await.unwrap();
    let text = read(pipe).await;
    rig.exit("exec").await;
    rig.keeper.forget("exec").await.unwrap();
    text
}

/// CVE-2022-24769 and kin: inheritable sets are empty; the bounding set is what was asked for; a user has none.
#[tokio::test]
async fn capability_sets() {
    let mut rig = Rig::new().await;
    let root = "CapInh:0000000000000000 CapPrm:00000000a80425fb CapEff:00000000a80425fb \
        CapBnd:00000000a80425fb CapAmb:0000000000000000 NoNewPrivs:0 Seccomp:2 ";
    let user = "CapInh:0000000000000000 CapPrm:0000000000000000 CapEff:0000000000000000 \
        CapBnd:00000000a80425fb CapAmb:0000000000000000 NoNewPrivs:0 Seccomp:2 ";
    assert_eq!(rig.sh(CAPS).await.text, root);
    let as_user = |p: &mut Process| {
        p.user.uid = 1000;
        p.capabilities.effective = 0;
        p.capabilities.permitted = 0;
    };
    let mut plan = rig.plan(CAPS);
    as_user(&mut plan.run.process);
    assert_eq!(rig.output(&mut plan).await.text, user);
    let mut plan = rig.plan(CAPS);
    plan.run.process.no_new_privs = true;
    plan.run.process.capabilities = Capabilities::default();
    plan.run.process.seccomp.clear();
    let none = "CapInh:0000000000000000 CapPrm:0000000000000000 CapEff:0000000000000000 \
        CapBnd:0000000000000000 CapAmb:0000000000000000 NoNewPrivs:1 Seccomp:0 ";
    assert_eq!(rig.output(&mut plan).await.text, none);
    let container = sleeper(&rig).await;
    assert_eq!(exec_text(&mut rig, &container, CAPS, |_| {}).await, root);
    assert_eq!(exec_text(&mut rig, &container, CAPS, as_user).await, user);
    end(&mut rig, &container).await;
    rig.finish().await;
}

#[tokio::test]
async fn no_new_privileges_defeats_set_user_id() {
    let mut rig = Rig::new().await;
    for (no_new_privs, wanted) in [(false, "0\n"), (true, "1000\n")] {
        let root = rootfs(&[]);
        let files = fs::Root::new(root.try_clone().unwrap());
        files.write("id", &std::fs::read("/usr/bin/id").unwrap(), 0o755).unwrap();
        let mut plan = rig.plan_in("/id -u", root);
        let id = files.resolve("id").unwrap();
        wharf_kernel::sys::file::fchmodat(files.as_fd(), c"id", 0o4755).unwrap();
        drop(id);
        plan.run.process.user.uid = 1000;
        plan.run.process.no_new_privs = no_new_privs;
        assert_eq!(rig.output(&mut plan).await.text, wanted);
    }
    rig.finish().await;
}

#[tokio::test]
async fn filter_blocks() {
    let mut rig = Rig::new().await;
    let out = rig.sh("unshare -m true 2>&1; mount -t tmpfs x /tmp 2>&1; echo done").await;
    assert!(out.text.contains("unshare failed: Operation not permitted"), "{}", out.text);
    assert!(out.text.ends_with("done\n"), "{}", out.text);
    // A user's profile, also for a user without rights and without no_new_privs, and the one that kills.
    for (action, uid, wanted) in
        [("SCMP_ACT_ERRNO", 1000, 1), ("SCMP_ACT_KILL_PROCESS", 0, 128 + libc::SIGSYS)]
    {
        let profile = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["mkdir", "mkdirat"], "action": "{action}"}}]}}"#
        );
        let mut plan = rig.plan("");
        plan.run.process.args = ["/bin/mkdir", "/tmp/x"].map(str::to_owned).to_vec();
        plan.run.process.user.uid = uid;
        plan.run.process.seccomp = seccomp::from_profile(&profile, 0).unwrap();
        assert_eq!(rig.output(&mut plan).await.status.code, wanted, "{action}");
    }
    let mut plan = rig.plan("true");
    plan.run.process.seccomp = vec![vec![1, 2, 3]];
    let error = rig.refused(&mut plan).await;
    assert_eq!((error.stage, error.errno), (Stage::Security, libc::EINVAL));
    rig.finish().await;
}

/// Masked files are the null device, masked directories empty, read-only parts of /proc read-only.
#[tokio::test]
async fn masked_and_read_only_paths() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan(
        "wc -c < /proc/interrupts; wc -c < /proc/keys; ls /sys/firmware | wc -l; \
         stat -c '%t:%T' /proc/interrupts /proc/keys; \
         echo 1 > /proc/sys/kernel/hostname; echo b > /proc/sysrq-trigger; touch /sys/x; echo x > /proc/irq/0/smp_affinity; \
         touch /sys/fs/cgroup/x; echo x > /etc/ok && cat /etc/ok",
    );
    plan.run.masked_paths.push("/nothere/at/all".into());
    plan.run.masked_paths.push("/etc/passwd/x".into());
    let text = rig.output(&mut plan).await.text;
    assert!(text.starts_with("0\n0\n0\n1:3\n1:3\n"), "{text}");
    for (path, there) in [
        ("/proc/sys/kernel/hostname", true),
        ("/proc/sysrq-trigger", Path::new("/proc/sysrq-trigger").exists()),
        ("'/sys/x'", true),
        ("'/sys/fs/cgroup/x'", true),
    ] {
        if !there {
            continue;
        }
        assert!(
            text.lines().any(|l| l.contains(path) && l.contains("Read-only file system")),
            "{path} can be written:\n{text}"
        );
    }
    assert!(text.ends_with("x\n"), "{text}");
    rig.finish().await;
}

/// CVE-2025-31133: the null device that hides files is the host's, whatever the image or a volume has at /dev/null.
#[tokio::test]
async fn a_false_null_device() {
    let mut rig = Rig::new().await;
    let root = rootfs(&[]);
    let files = fs::Root::new(root.try_clone().unwrap());
    files.symlink("/proc/sys/kernel/core_pattern", "dev/null").unwrap();
    let mut plan = rig.plan_in(
        "stat -c '%t:%T' /proc/interrupts; cat /proc/sys/kernel/core_pattern | wc -l; cat /proc/self/fd/0 | wc -c",
        root,
    );
    // No /dev of the plan's own: the image's is used as it is.
    plan.run.mounts.retain(|m| !m.target.starts_with("/dev"));
    plan.run.devices.clear();
    plan.run.masked_paths.push("/proc/sys/kernel/core_pattern".into());
    assert_eq!(rig.output(&mut plan).await.text, "1:3\n0\n0\n");
    rig.finish().await;
}

#[tokio::test]
async fn read_only_root() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan("touch /x; touch /etc/x; touch /dev/shm/fine && echo fine; pwd");
    plan.run.rootfs_read_only = true;
    plan.run.process.cwd = "/new/dir".into();
    let text = rig.output(&mut plan).await.text;
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert!(text.ends_with("fine\n/new/dir\n"), "{text}");
    rig.finish().await;
}

/// CVE-2018-18837, CVE-2024-45310, CVE-2026-41579: links in the image lead mounts, devices, links and directories
/// nowhere but inside.
#[tokio::test]
async fn links_in_the_image() {
    let mut rig = Rig::new().await;
    let host = tempfile::tempdir().unwrap();
    let victim = host.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    let root = rootfs(&[]);
    let files = fs::Root::new(root.try_clone().unwrap());
    files.symlink(&victim, "vol").unwrap();
    files.symlink("../../../../../..", "up").unwrap();
    files.symlink(host.path().join("new"), "cwd").unwrap();
    files.mkdir_all(victim.strip_prefix("/").unwrap(), 0o755).unwrap();
    let mut plan =
        rig.plan_in("ls /vol; grep -c ' /up' /proc/self/mountinfo; ls /up/deep /devices; pwd", root);
    plan.run.mounts.push(new_mount("/vol/a/b", "tmpfs", &[], ""));
    plan.run.mounts.push(new_mount("/up/deep/x", "tmpfs", &[], ""));
    plan.run.devices.push(Device { path: "/up/devices/null".into(), ..plan.run.devices[0].clone() });
    plan.run.links.push(("/vol/link".into(), "/etc/passwd".into()));
    plan.run.process.cwd = "/vol/c/d".into();
    let out = rig.output(&mut plan).await;
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0, "something was made on the host");
    assert!(out.text.starts_with("a\nc\nlink\n"), "{}", out.text);
    assert!(out.text.contains("/deep:\nx\n") || out.text.contains("/up/deep:\nx\n"), "{}", out.text);
    // A link to something that is not inside fails, and makes nothing outside either.
    let root = rootfs(&[]);
    fs::Root::new(root.try_clone().unwrap()).symlink(host.path().join("new"), "cwd").unwrap();
    let mut plan = rig.plan_in("true", root);
    plan.run.process.cwd = "/cwd/x".into();
    assert_eq!(rig.refused(&mut plan).await.stage, Stage::Cwd);
    assert!(!host.path().join("new").exists());
    // The whole /dev as a link upwards.
    let root = rootfs(&[]);
    let files = fs::Root::new(root.try_clone().unwrap());
    files.remove_dir("dev").unwrap();
    files.symlink("../../..", "dev").unwrap();
    let before = std::fs::read_dir("/dev").unwrap().count();
    let mut plan = rig.plan_in("true", root);
    // It may start or not (its root is covered then); the host is as before.
    if let Ok((_, pipe)) = rig.start(&mut plan).await {
        read(pipe).await;
        rig.exit(&plan.run.id).await;
        rig.clean(&plan.run.id).await;
    }
    assert_eq!(std::fs::read_dir("/dev").unwrap().count(), before);
    rig.finish().await;
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: nothing takes the place of /proc or of its parts.
#[tokio::test]
async fn a_false_proc() {
    let rig = Rig::new().await;
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(host.path().join("self/attr")).unwrap();
    std::fs::write(host.path().join("file"), "false\n").unwrap();
    // A volume on it, before and after proc is mounted, by its name and by others.
    for (target, first) in [
        ("/proc", false),
        ("/proc", true),
        ("/proc/sys", false),
        ("/proc/self/attr", false),
        ("/etc/../proc/", false),
        ("/innocent", false),
    ] {
        let root = rootfs(&[]);
        fs::Root::new(root.try_clone().unwrap()).symlink("proc/sys", "innocent").unwrap();
        let mut plan = rig.plan_in("true", root);
        let fd = plan.fd(mount::bind_path(host.path(), false).unwrap());
        let at = if first { 0 } else { plan.run.mounts.len() };
        plan.run.mounts.insert(at, tree_mount(target, fd));
        let error = rig.refused(&mut plan).await;
        assert_eq!((error.stage, error.errno), (Stage::Mount, libc::EPERM), "{target}: {error}");
    }
    // A tmpfs too.
    let mut plan = rig.plan("true");
    plan.run.mounts.push(new_mount("/proc/sys", "tmpfs", &[], ""));
    assert_eq!(rig.refused(&mut plan).await.errno, libc::EPERM);
    // /proc or /sys as a link.
    for name in ["proc", "sys"] {
        let root = rootfs(&[]);
        let files = fs::Root::new(root.try_clone().unwrap());
        files.remove_dir(name).unwrap();
        files.mkdir_all("elsewhere", 0o755).unwrap();
        files.symlink("/elsewhere", name).unwrap();
        let mut plan = rig.plan_in("true", root);
        let error = rig.refused(&mut plan).await;
        assert_eq!((error.stage, error.errno), (Stage::Mount, libc::ELOOP), "{error}");
    }
    let mut rig = rig;
    // What lxcfs does is fine.
    let mut plan = rig.plan("cat /proc/cpuinfo");
    let fd = plan.fd(mount::bind_path(&host.path().join("file"), false).unwrap());
    plan.run.mounts.push(Mount { file: true, ..tree_mount("/proc/cpuinfo", fd) });
    assert_eq!(rig.output(&mut plan).await.text, "false\n");
    rig.finish().await;
}

/// CVE-2025-52881: parameters of the kernel are written through a proc file system of our own, whatever is mounted.
#[tokio::test]
async fn sysctl_with_covered_proc() {
    let mut rig = Rig::new().await;
    // Without any /proc in the container it works all the same, so it does not go through the container's.
    let mut plan = rig.plan("ls /proc | wc -l");
    plan.run.mounts.retain(|m| m.target != "/proc");
    plan.run.masked_paths.clear();
    plan.run.readonly_paths.clear();
    plan.run.sysctls = vec![("kernel.shmmni".into(), "78".into())];
    assert_eq!(rig.output(&mut plan).await.text, "0\n");
    rig.finish().await;
}

/// CVE-2024-21626: no descriptor of the host comes along, and none can be the working directory.
#[tokio::test]
async fn no_descriptor_leaks() {
    let mut rig = Rig::new().await;
    // Two of the shell's own: the pipe of the substitution is not there, only what ls opens itself.
    let list = "for f in /proc/self/fd/*; do readlink $f; done; ls /proc/self/fd | tr '\\n' ' '";
    let text = rig.sh(list).await.text;
    assert!(text.ends_with("0 1 2 3 "), "{text}");
    assert!(!text.contains("wharf") && !text.contains("socket:") && !text.contains("cgroup"), "{text}");
    let container = sleeper(&rig).await;
    let text = exec_text(&mut rig, &container, list, |_| {}).await;
    assert!(text.ends_with("0 1 2 3 "), "{text}");
    for number in 0..40 {
        for cwd in [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/../../../tmp")] {
            let mut plan = rig.plan("pwd; ls");
            plan.run.process.cwd.clone_from(&cwd);
            assert_eq!(rig.refused(&mut plan).await.stage, Stage::Cwd, "{cwd}");
            let mut plan = exec_plan(&container, "exec", "pwd");
            plan.process.cwd.clone_from(&cwd);
            assert_eq!(rig.exec(&mut plan).await.unwrap_err().stage, Stage::Cwd, "{cwd}");
        }
    }
    for cwd in ["/proc/1/root", "/proc/self/cwd", "/proc/1/cwd/tmp"] {
        let mut plan = exec_plan(&container, "exec", "pwd");
        plan.process.cwd = cwd.into();
        assert_eq!(rig.exec(&mut plan).await.unwrap_err().stage, Stage::Cwd, "{cwd}");
    }
    end(&mut rig, &container).await;
    rig.finish().await;
}

/// CVE-2019-5736: the program that a container sees behind /proc/<pid>/exe, or runs as `#!/proc/self/exe`, is on a
/// read-only mount or in sealed memory. Tried as root with every capability and no filter.
#[tokio::test]
async fn programs_of_ours_cannot_be_written() {
    let mut rig = Rig::new().await;
    let exe = format!("/proc/{}/exe", keeper_pid(rig.dir.path()));
    std::fs::File::options().append(true).open(&exe).unwrap_err();
    // That would also be said of any running program; this one is out of reach when it no longer runs, too.
    let flags = nix::sys::statvfs::statvfs(exe.as_str()).unwrap().flags();
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    let powerful = |p: &mut Process| {
        let all = wharf_kernel::caps::available();
        p.capabilities =
            Capabilities { bounding: all, effective: all, permitted: all, ..Capabilities::default() };
        p.seccomp.clear();
    };
    let mut plan = rig.plan("for i in 1 2 3; do echo x >> /proc/1/exe; echo x > /proc/1/exe; done; head -c4 /proc/1/exe | tail -c3");
    plan.run.init = true;
    powerful(&mut plan.run.process);
    let text = rig.output(&mut plan).await.text;
    assert_eq!(text.matches("cannot create /proc/1/exe").count(), 6, "{text}");
    assert!(text.ends_with("ELF"), "{text}");
    // The image's shell is a script for whoever joins: what runs then is not the keeper.
    let mut plan = rig.plan_in("", rootfs(&[("evil", "#!/proc/self/exe\n")]));
    plan.run.process.args = vec!["/evil".into()];
    powerful(&mut plan.run.process);
    let before = std::fs::read(PROGRAM).unwrap();
    match rig.start(&mut plan).await {
        Ok((_, pipe)) => {
            read(pipe).await;
            rig.exit(&plan.run.id).await;
            rig.clean(&plan.run.id).await;
        }
        Err(error) => assert_eq!(error.stage, Stage::Exec),
    }
    assert_eq!(std::fs::read(PROGRAM).unwrap(), before);
    rig.finish().await;
}

/// CVE-2021-30465 and kin: a container that swaps a directory of a shared volume for a link while another one that
/// mounts there is started.
#[tokio::test(flavor = "multi_thread")]
async fn swapped_mount_targets() {
    let mut rig = Rig::new().await;
    let volume = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let (dir, link) = (volume.path().join("dir"), volume.path().join("link"));
    std::fs::create_dir(&dir).unwrap();
    symlink(outside.path(), &link).unwrap();
    let stop = AtomicBool::new(false);
    let swaps = || {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        while !stop.load(Ordering::Relaxed) {
            renameat2(AT_FDCWD, &dir, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
        }
    };
    std::thread::scope(|scope| {
        let attacker = scope.spawn(swaps);
        let started = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut started = 0;
                for round in 0..60 {
                    let mut plan = rig.plan("cat /proc/self/mountinfo");
                    let fd = plan.fd(mount::bind_path(volume.path(), false).unwrap());
                    plan.run.mounts.push(tree_mount("/vol", fd));
                    plan.run.mounts.push(new_mount(&format!("/vol/dir/{round}/x"), "tmpfs", &[], ""));
                    plan.run.process.cwd = format!("/vol/dir/cwd{round}");
                    // Whether it starts depends on who is faster.
                    if let Ok((_, pipe)) = rig.start(&mut plan).await {
                        let text = read(pipe).await;
                        // The link's text is a path of the container, where something may be mounted; nothing of the host's
                        // directory of that name is.
                        for line in text.lines() {
                            let root = line.split(' ').nth(3).unwrap();
                            assert!(!root.contains(outside.path().to_str().unwrap()), "{text}");
                        }
                        rig.exit(&plan.run.id).await;
                        rig.clean(&plan.run.id).await;
                        started += 1;
                    }
                }
                started
            })
        });
        stop.store(true, Ordering::Relaxed);
        attacker.join().unwrap();
        assert!(started > 0, "the race was never lost, so nothing was tried");
    });
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "something was made on the host");
    rig.finish().await;
}

#[tokio::test]
async fn devices_are_an_allow_list() {
    let mut rig = Rig::new().await;
    let mut plan = rig.plan(
        "head -c1 /dev/zero | wc -c; mknod /tmp/kmsg c 1 11 && head -c1 /tmp/kmsg; mknod /tmp/full c 1 7 && head -c1 /tmp/full | wc -c",
    );
    let rule = |allow, kind, major, minor, access: &str| DeviceRule {
        allow,
        kind,
        major,
        minor,
        access: access.to_owned(),
    };
    plan.run.cgroup.as_mut().unwrap().resources.devices = vec![
        rule(false, 'a', None, None, "rwm"),
        rule(true, 'c', None, None, "m"),
        rule(true, 'c', Some(1), Some(5), "rwm"),
        rule(true, 'c', Some(1), Some(3), "rwm"),
        rule(true, 'c', Some(1), Some(7), "rwm"),
    ];
    let text = rig.output(&mut plan).await.text;
    assert!(text.starts_with("1\n"), "{text}");
    assert!(text.contains("'/tmp/kmsg' for reading: Operation not permitted"), "{text}");
    assert!(text.ends_with("1\n"), "{text}");
    rig.finish().await;
}

/// Host mounts do not come along: the container sees its own only.
#[tokio::test]
async fn only_its_own_mounts() {
    let mut rig = Rig::new().await;
    let text =
        rig.sh("cut -d' ' -f5 /proc/self/mountinfo | sort | tr '\\n' ' '; ls /proc/1/root/").await.text;
    assert!(text.starts_with("/ /dev /dev/mqueue /dev/pts /dev/shm /proc "), "{text}");
    assert!(!text.contains("/oldroot") && !text.contains("wharf-keeper"), "{text}");
    assert!(!Path::new("/proc/1/root/tmp/here").exists());
    rig.finish().await;
}

/// Mounts in a container whose root or volume is a copy of a shared mount stay in the container.
#[tokio::test]
async fn mounts_do_not_spread_to_the_host() {
    use nix::mount::{MntFlags, MsFlags};
    use wharf_kernel::sys::process::{CLONE_NEWNS, unshare};
    let mut rig = Rig::new().await;
    let dir = tempfile::tempdir().unwrap();
    let host = dir.path().to_owned();
    let (trees_in, trees_out) = std::sync::mpsc::channel();
    let (ended, wait) = std::sync::mpsc::channel::<()>();
    // A thread with a mount namespace of its own plays the host, on which everything is shared.
    let thread = std::thread::spawn(move || {
        unshare(CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        nix::mount::mount(Some("x"), &host, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        nix::mount::mount(none, &host, none, MsFlags::MS_SHARED, none).unwrap();
        for name in ["root/usr", "root/proc", "root/sys", "root/dev", "root/etc", "volume/sub"] {
            std::fs::create_dir_all(host.join(name)).unwrap();
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            if let Ok(target) = std::fs::read_link(Path::new("/").join(name)) {
                symlink(target, host.join("root").join(name)).unwrap();
            }
        }
        let tree = |name: &str| mount::bind_path(&host.join(name), false).unwrap();
        trees_in.send((tree("root"), tree("volume"))).unwrap();
        wait.recv().unwrap();
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        nix::mount::umount2(&host, MntFlags::MNT_DETACH).unwrap();
        mounts.lines().filter(|l| l.contains(host.to_str().unwrap())).count()
    });
    let (root, volume) = trees_out.recv().unwrap();
    let mut plan = rig.plan_in("echo ready; sleep 1000", root);
    let fd = plan.fd(volume);
    plan.run.mounts.push(tree_mount("/vol", fd));
    plan.run.mounts.push(new_mount("/vol/sub", "tmpfs", &[], ""));
    let (_, pipe) = rig.start(&mut plan).await.unwrap();
    read_until(&pipe, "ready");
    ended.send(()).unwrap();
    assert_eq!(thread.join().unwrap(), 1, "mounts of the container are on the host");
    end(&mut rig, &plan.run.id).await;
    rig.finish().await;
}

/// Where there is `AppArmor` a profile that is not loaded ends the start; where there is none, none can be set.
#[tokio::test]
async fn apparmor_profile() {
    let mut rig = Rig::new().await;
    let enabled =
        std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with('Y'));
    let mut plan = rig.plan("cat /proc/self/attr/apparmor/current 2>/dev/null; echo ran");
    plan.run.process.apparmor = Some("unconfined".into());
    let text = rig.output(&mut plan).await.text;
    assert_eq!(text, if enabled { "unconfined\nran\n" } else { "ran\n" });
    let mut plan = rig.plan("true");
    plan.run.process.apparmor = Some("wharf-test-not-loaded".into());
    if enabled {
        let error = rig.refused(&mut plan).await;
        assert_eq!((error.stage, error.errno), (Stage::Security, libc::ENOENT), "{error}");
    } else {
        rig.output(&mut plan).await;
    }
    rig.finish().await;
}

/// Keys of the keeper's session are not the container's.
#[tokio::test]
async fn session_keyring_is_new() {
    let mut rig = Rig::new().await;
    let program = std::env::current_exe().unwrap();
    let mut plan = rig.plan("ATTACK=keyring /attacker keyring --exact --nocapture | grep ^serial; ATTACK=keyring /attacker keyring --exact --nocapture | grep ^serial");
    let fd = plan.fd(mount::bind_path(&program, false).unwrap());
    plan.run.mounts.push(Mount { file: true, ..tree_mount("/attacker", fd) });
    plan.run.process.seccomp.clear();
    let text = rig.output(&mut plan).await.text;
    let serials: Vec<&str> = text.lines().collect();
    assert_eq!(serials.len(), 2, "{text}");
    assert_eq!(serials[0], serials[1], "one keyring for the whole container");
    assert_ne!(serials[0], format!("serial {}", session_keyring()));
    rig.finish().await;
}

fn session_keyring() -> i64 {
    // KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, do not make one.
    // SAFETY: plain numbers.
    unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) }
}

/// Run in the container of the test above; by itself it has nothing to do.
#[test]
fn keyring() {
    if std::env::var_os("ATTACK").is_some() {
        println!("\nserial {}", session_keyring());
    }
}
