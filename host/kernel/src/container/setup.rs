//! The child's way from the fork to the last steps: namespaces, root, mounts, devices.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use wharf_plan::run::{Namespace, RunPlan, Stage, StartError};

use super::prepare::{Device, Exec, Inside, Joined, Mount, Run, Source};
use super::terminal;
use super::{At, Host, copyup, pivot, process, userns};
use crate::cgroup::Version;
use crate::error::{Error, Result};
use crate::mount::Flags;
use crate::sys::file::{
    self, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV,
};
use crate::sys::mount::{self as sys, MountAttr, attr};
use crate::sys::process as proc_sys;
use crate::sys::{net_device, process::unshare};

const PROC_MAGIC: libc::c_long = 0x9fa0;

/// How a path of the plan is resolved: the kernel treats the container's root as the root of everything.
const IN_ROOT: u64 = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;

/// Files of /proc that a plan may cover with its own (as `lxcfs` does). Anything else of /proc is what programs and
/// security modules trust, and is refused (CVE-2019-16884, CVE-2019-19921).
const COVERABLE: [&str; 13] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
    "net/dev",
    "sys/kernel/hostname",
    "sys/kernel/domainname",
];

/// The child of a new container; returns only on failure.
pub(super) fn run(host: &Host, job: &Run<'_>, report: BorrowedFd<'_>) -> StartError {
    match build(job, report) {
        Ok(Built { root, terminal, proc }) => {
            let init = job.plan.init.then(|| job.init.unwrap_or_else(|| host.init.as_fd()));
            let error = process::finish(&job.process, root.as_fd(), terminal, init, proc, report);
            // It may be closed already; this process ends anyway.
            std::mem::forget(root);
            error
        }
        Err(error) => error,
    }
}

/// The child of an exec; returns only on failure.
pub(super) fn exec(_host: &Host, job: &Exec<'_>, report: BorrowedFd<'_>) -> StartError {
    use proc_sys::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS};
    let join = || -> Result<Built, StartError> {
        oom_score(job.process.oom_score_adj.as_deref())?;
        join_cgroups(&job.cgroups)?;
        processors(job.process.plan)?;
        let mut spaces = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP;
        let mut proc = None;
        if let Some(ids) = job.ids {
            userns::privileged(&job.process, ids)?;
            if job.process.apparmor.is_some() {
                proc = Some(process::own_proc().at(Stage::Security, || "a proc file system")?);
            }
            spaces |= CLONE_NEWUSER;
        }
        if job.own_clocks {
            spaces |= proc_sys::CLONE_NEWTIME;
        }
        proc_sys::setns(job.target.pidfd, spaces).at(Stage::Namespace, || "joining the container")?;
        if job.ids.is_some() {
            userns::become_root()?;
        }
        // Joining a mount namespace puts root and working directory onto the container's root.
        let root = open_root()?;
        let terminal = if job.process.plan.tty {
            Some(terminal::open(root.as_fd(), None, job.process.plan.console_size)?)
        } else {
            None
        };
        Ok(Built { root, terminal, proc })
    };
    match join() {
        Ok(Built { root, terminal, proc }) => {
            let error = process::finish(&job.process, root.as_fd(), terminal, None, proc, report);
            // As above.
            std::mem::forget(root);
            error
        }
        Err(error) => error,
    }
}

fn open_root() -> Result<OwnedFd, StartError> {
    file::openat(None, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).at(Stage::Mount, || "opening the root")
}

fn oom_score(score: Option<&str>) -> Result<(), StartError> {
    let Some(score) = score else { return Ok(()) };
    // Still the host's /proc.
    let file = file::openat(None, c"/proc/self/oom_score_adj", libc::O_WRONLY, 0);
    let written = file.and_then(|f| file::write_once(f.as_fd(), score.as_bytes()));
    // Only whoever has CAP_SYS_RESOURCE may lower it; without it the machine's own score holds.
    let written = match written {
        Err(e) if e.is(libc::EACCES) && score.starts_with('-') => Ok(()),
        result => result,
    };
    written.at(Stage::Credentials, || format!("setting oom_score_adj to {score}"))
}

/// The processors that a container may use are its cgroup's, whatever those are that its maker was bound to.
fn any_processor() {
    let mut all = nix::sched::CpuSet::new();
    for number in 0..nix::sched::CpuSet::count() {
        let _ = all.set(number);
    }
    // A host that forbids it has bound the container on purpose.
    let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &all);
}

/// The processors of an exec: as planned, or all.
fn processors(plan: &wharf_plan::run::Process) -> Result<(), StartError> {
    match plan.tuning.as_ref().and_then(|tuning| tuning.processors.as_deref()) {
        None => any_processor(),
        Some([]) => {}
        Some(list) => crate::sys::sched::set_processors(list)
            .at(Stage::Credentials, || "setting the processors of execCPUAffinity")?,
    }
    Ok(())
}

/// Puts this process into a plan's cgroup, where it was not cloned into it.
pub(super) fn join_planned(host: &Host, plan: &RunPlan) -> Result<(), StartError> {
    let Some(cgroup) = &plan.cgroup else { return Ok(()) };
    join_cgroups(&super::prepare::joined(host, Some(&cgroup.path))?)?;
    if let Some(cgroups) = host.cgroups().filter(|c| c.version() == Version::V2) {
        cgroups
            .open(&cgroup.path)
            .and_then(|dir| file::openat2(dir.as_fd(), c"cgroup.procs", libc::O_WRONLY, 0, RESOLVE_BENEATH))
            .and_then(|procs| file::write_once(procs.as_fd(), b"0"))
            .at(Stage::Cgroup, || format!("joining {}", cgroup.path))?;
    }
    Ok(())
}

/// A single-threaded process that writes `0` to `tasks` itself spares the grace period which another one's write to
/// `cgroup.procs` waits for.
fn join_cgroups(cgroups: &[Joined<'_>]) -> Result<(), StartError> {
    for joined in cgroups {
        let tasks = file::openat2(
            joined.hierarchy.root(),
            &joined.tasks,
            libc::O_WRONLY,
            0,
            RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
        );
        match tasks {
            // Only cpuset is made on demand; being in none of the others would mean to have no limit.
            Err(e) if e.is_not_found() && !joined.hierarchy.required() => {}
            result => result
                .and_then(|t| file::write_once(t.as_fd(), b"0"))
                .at(Stage::Cgroup, || format!("joining the {} cgroup", joined.hierarchy.name()))?,
        }
    }
    Ok(())
}

/// Where the process begins.
struct Built {
    root: OwnedFd,
    terminal: Option<terminal::Terminal>,
    /// For writes to its own attributes, where it could not make one any more.
    proc: Option<OwnedFd>,
}

/// Everything up to the process itself.
fn build(job: &Run<'_>, report: BorrowedFd<'_>) -> Result<Built, StartError> {
    let plan = job.plan;
    oom_score(job.process.oom_score_adj.as_deref())?;
    join_cgroups(&job.cgroups)?;
    any_processor();
    for (namespace, kind) in &job.joins {
        proc_sys::setns(*namespace, *kind).at(Stage::Namespace, || "joining a namespace")?;
    }
    let mut early = userns::Early::default();
    let mut hierarchies = Vec::new();
    if let Some((namespace, ids)) = job.user {
        early = userns::prepare(job, ids)?;
        if job.binds_hierarchies() {
            hierarchies = bind_hierarchies(&job.cgroups)?;
        }
        userns::enter(job, namespace)?;
    } else if plan.namespaces.net == Namespace::New {
        net_device::loopback_up().at(Stage::Namespace, || "bringing the loopback device up")?;
    }
    // After joining the cgroup: it becomes the root of the namespace.
    if plan.namespaces.cgroup == Namespace::New {
        unshare(proc_sys::CLONE_NEWCGROUP).at(Stage::Namespace, || "a new cgroup namespace")?;
    }
    if let Some(clocks) = &job.clocks {
        // The program enters it by being executed; until then the offsets can be set.
        unshare(proc_sys::CLONE_NEWTIME).at(Stage::Namespace, || "a new time namespace")?;
        if !clocks.is_empty() {
            // The file is its owner's, which a process that is hidden is not.
            proc_sys::set_dumpable(true).at(Stage::Namespace, || "setting the clocks")?;
            file::openat(None, c"/proc/self/timens_offsets", libc::O_WRONLY, 0)
                .and_then(|f| file::write_once(f.as_fd(), clocks.as_bytes()))
                .and_then(|()| proc_sys::set_dumpable(false))
                .at(Stage::Namespace, || "setting the clocks")?;
        }
    }
    if let Some(pause) = job.pause {
        super::report::send_paused(report).at(Stage::Namespace, || "telling of the namespaces")?;
        process::wait_for_byte(pause).at(Stage::Namespace, || "waiting to go on")?;
    }
    // Nothing that happens here may reach the host's mounts.
    sys::set_root_propagation(libc::MS_PRIVATE).at(Stage::Mount, || "making the mounts private")?;
    if job.user.is_none() && job.binds_hierarchies() {
        hierarchies = bind_hierarchies(&job.cgroups)?;
    }
    let null = if job.masked.is_empty() { None } else { Some(pivot::null_tree()?) };
    pivot::enter(job.rootfs)?;
    let root = open_root()?;
    // A tree that is a copy of a shared mount would hand every mount below on to the host.
    let (propagation, recursive) = job.root_propagation;
    let shared = propagation == libc::MS_SHARED;
    let first = if propagation == libc::MS_SLAVE { libc::MS_SLAVE } else { libc::MS_PRIVATE };
    let change = MountAttr { propagation: first, ..MountAttr::default() };
    sys::mount_setattr(root.as_fd(), true, &change).at(Stage::Mount, || "the root's propagation")?;

    let mut made = Made::default();
    for (number, mount) in job.mounts.iter().enumerate() {
        add_mount(root.as_fd(), mount, early.take(number), job, &hierarchies, &mut made)?;
    }
    let left = |device: &&Device<'_>| !(early.devices && below_dev(device));
    for device in job.devices.iter().filter(left) {
        make_device(root.as_fd(), device)
            .at(Stage::Mount, || format!("making the device {}", device.name))?;
    }
    for (dir, name, target) in &job.links {
        make_link(root.as_fd(), dir, name, target).at(Stage::Mount, || format!("linking {name:?}"))?;
    }
    let terminal = if plan.process.tty {
        let devpts = made.devpts.as_ref().map(AsFd::as_fd);
        let terminal = terminal::open(root.as_fd(), devpts, plan.process.console_size)?;
        terminal::bind_console(root.as_fd(), terminal.slave.as_fd())
            .at(Stage::Stdio, || "binding /dev/console")?;
        Some(terminal)
    } else {
        None
    };
    make_cwd(root.as_fd(), &job.process.cwd).at(Stage::Cwd, || format!("making {:?}", plan.process.cwd))?;
    names(job)?;
    sysctls(job, made.proc.as_ref())?;
    for path in &job.readonly {
        make_readonly(root.as_fd(), path).at(Stage::Mount, || format!("making {path:?} read-only"))?;
    }
    mask(root.as_fd(), job, null)?;
    let read_only = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
    for tree in &made.read_only {
        sys::mount_setattr(tree.as_fd(), false, &read_only)
            .at(Stage::Mount, || "making a mount read-only")?;
    }
    if plan.rootfs_read_only {
        sys::mount_setattr(root.as_fd(), false, &read_only)
            .at(Stage::Mount, || "making the root read-only")?;
    }
    if shared {
        let change = MountAttr { propagation, ..MountAttr::default() };
        sys::mount_setattr(root.as_fd(), recursive, &change).at(Stage::Mount, || "the root's propagation")?;
    }
    Ok(Built { root, terminal, proc: early.proc })
}

/// Mounts that later steps go back to.
#[derive(Default)]
struct Made {
    proc: Option<OwnedFd>,
    devpts: Option<OwnedFd>,
    /// What becomes read-only when all that comes below is there.
    read_only: Vec<OwnedFd>,
}

fn add_mount(
    root: BorrowedFd<'_>,
    mount: &Mount<'_>,
    ready: Option<OwnedFd>,
    job: &Run<'_>,
    hierarchies: &[(&CStr, OwnedFd)],
    made: &mut Made,
) -> Result<(), StartError> {
    let kind = match &mount.source {
        Source::Tree(_) | Source::Inside(_) => "bind",
        Source::New(fs) => fs.fstype.to_str().unwrap_or("?"),
        Source::Hierarchies(_) => "cgroup",
    };
    let at = || format!("mount {kind} on {}", mount.name);
    let shown = match &mount.source {
        Source::Inside(inside) => Some(copy_inside(root, inside).at(Stage::Mount, at)?),
        _ => None,
    };
    let file = shown.as_ref().map_or(mount.file, |(_, file)| *file);
    let (target, found) = match mount_target(root, mount, file) {
        Err(e) if mount.strict && e.is(libc::ELOOP) => Err(Error::refused(
            format!("filesystem {kind:?}"),
            libc::ELOOP,
            "it must be mounted on ordinary directory",
        )),
        result => result,
    }
    .at(Stage::Mount, at)?;
    let (tree, owned) = match &mount.source {
        Source::Tree(tree) => (*tree, None),
        Source::Inside(_) => (job.rootfs, shown.map(|(tree, _)| tree)),
        Source::New(fs) | Source::Hierarchies(fs) => {
            let made = match ready {
                Some(made) => made,
                None if found && mount.inherits_mode => {
                    let mode = file::fstatat(target.as_fd(), c"").at(Stage::Mount, at)?.st_mode & 0o7777;
                    let mode = file::cstring(format!("{mode:o}")).at(Stage::Mount, at)?;
                    fs.make_with(&[(c"mode", &mode)]).at(Stage::Mount, at)?
                }
                None => fs.make().at(Stage::Mount, at)?,
            };
            (job.rootfs, Some(made))
        }
    };
    let tree = owned.as_ref().map_or(tree, AsFd::as_fd);
    if mount.copies_up && found {
        copyup::copy(target.as_fd(), tree).at(Stage::Mount, || format!("tmpcopyup of {}", mount.name))?;
    }
    check_proc(mount, tree, target.as_fd()).at(Stage::Mount, at)?;
    if matches!(mount.source, Source::Tree(_)) && mount.flags != Flags::default() {
        crate::mount::set_attr(tree, mount.flags, false).at(Stage::Mount, at)?;
    }
    if job.user.is_some() && matches!(mount.source, Source::Tree(_) | Source::Inside(_)) {
        // What is mounted in a user namespace never reaches the host, whatever is asked for: it may only come from there.
        let change = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
        sys::mount_setattr(tree, true, &change).at(Stage::Mount, at)?;
    }
    sys::move_mount(tree, target.as_fd()).at(Stage::Mount, at)?;
    if let Some((propagation, recursive)) = mount.propagation {
        let change = MountAttr { propagation, ..MountAttr::default() };
        sys::mount_setattr(tree, recursive, &change).at(Stage::Mount, at)?;
    }
    if let Source::Hierarchies(_) = mount.source {
        fill_hierarchies(tree, mount, job, hierarchies).at(Stage::Mount, at)?;
    }
    if let (Some(owned), Source::New(fs)) = (owned, &mount.source) {
        match fs.fstype.to_bytes() {
            b"proc" => made.proc = Some(owned),
            b"devpts" => made.devpts = Some(owned),
            _ if mount.read_only_at_last => made.read_only.push(owned),
            _ => {}
        }
    }
    Ok(())
}

/// A detached copy of what lies at a path of the container by now, and whether that is a file.
fn copy_inside(root: BorrowedFd<'_>, inside: &Inside<'_>) -> Result<(OwnedFd, bool)> {
    let place = file::openat2(root, &inside.path, libc::O_PATH, 0, IN_ROOT)?;
    let file = file::fstatat(place.as_fd(), c"")?.st_mode & libc::S_IFMT != libc::S_IFDIR;
    let flags = sys::OPEN_TREE_CLONE | if inside.recursive { sys::AT_RECURSIVE } else { 0 };
    let tree = sys::open_tree(Some(place.as_fd()), c"", flags)?;
    for (change, below) in &inside.changes {
        sys::mount_setattr(tree.as_fd(), *below, change)?;
    }
    if let Some((namespace, below)) = inside.ids {
        #[allow(clippy::cast_sign_loss, reason = "descriptors are not negative")]
        let userns_fd = namespace.as_raw_fd() as u64;
        sys::mount_setattr(
            tree.as_fd(),
            below,
            &MountAttr { set: attr::IDMAP, userns_fd, ..MountAttr::default() },
        )?;
    }
    Ok((tree, file))
}

/// The place for a mount, made when missing, and whether it was there.
fn mount_target(root: BorrowedFd<'_>, mount: &Mount<'_>, file: bool) -> Result<(OwnedFd, bool)> {
    let resolve = IN_ROOT | if mount.strict { RESOLVE_NO_SYMLINKS } else { 0 };
    match file::openat2(root, &mount.target, libc::O_PATH, 0, resolve) {
        Err(e) if e.is_not_found() => {}
        result => return result.map(|found| (found, true)),
    }
    match make_target(root, mount, file, resolve) {
        // A link on the way leads to what is not there: that is made, inside.
        Err(e) if e.is_not_found() && !mount.strict => {
            crate::fs::make_place(root, &mount.target, file).map(|made| (made, false))
        }
        result => result,
    }
}

fn make_target(
    root: BorrowedFd<'_>,
    mount: &Mount<'_>,
    is_file: bool,
    resolve: u64,
) -> Result<(OwnedFd, bool)> {
    if !is_file {
        return crate::fs::mkdir_all(root, &mount.target, 0o755, resolve).map(|made| (made, false));
    }
    let bytes = mount.target.to_bytes();
    let split = bytes.iter().rposition(|b| *b == b'/');
    let dir = split.and_then(|at| bytes.get(..at)).unwrap_or(b".");
    drop(crate::fs::mkdir_all(root, &file::cstring(dir)?, 0o755, resolve)?);
    // Through the whole path again: a link at its end leads to a place inside, which is made there.
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    drop(file::openat2(root, &mount.target, flags, 0o644, resolve)?);
    file::openat2(root, &mount.target, libc::O_PATH, 0, resolve).map(|made| (made, false))
}

fn is_proc(fd: BorrowedFd<'_>) -> Result<bool> {
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between architectures")]
    let magic = file::fstatfs(fd)?.f_type as libc::c_long;
    Ok(magic == PROC_MAGIC)
}

/// Nothing but a proc file system goes onto /proc, and onto few of its files only.
fn check_proc(mount: &Mount<'_>, tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let refuse =
        || Err(Error::refused(mount.name, libc::EPERM, "nothing may be mounted over this part of /proc"));
    match mount.below_proc.as_deref() {
        Some("") if is_proc(tree)? => Ok(()),
        Some("") => refuse(),
        Some(rest) if is_proc(target)? && COVERABLE.contains(&rest) => Ok(()),
        // Also where a link led there.
        _ if is_proc(target)? => refuse(),
        _ => Ok(()),
    }
}

/// On a host whose hierarchies are shown as they are: the container's own part of each.
fn bind_hierarchies<'a>(cgroups: &'a [Joined<'_>]) -> Result<Vec<(&'a CStr, OwnedFd)>, StartError> {
    let mut trees = Vec::with_capacity(cgroups.len());
    for joined in cgroups {
        match sys::open_tree(Some(joined.hierarchy.root()), &joined.dir, sys::OPEN_TREE_CLONE) {
            Ok(tree) => trees.push((joined.hierarchy.directory(), tree)),
            Err(e) if e.is_not_found() => {}
            // The keeper opened the hierarchy in its own mount namespace; kernels before 6.15 copy from there no more
            // once this process has another. The path leads to the same place in ours.
            Err(e) if e.is(libc::EINVAL) => {
                let tree = sys::open_tree(None, joined.hierarchy.path(), 0)
                    .and_then(|top| sys::open_tree(Some(top.as_fd()), &joined.dir, sys::OPEN_TREE_CLONE));
                match tree {
                    Ok(tree) => trees.push((joined.hierarchy.directory(), tree)),
                    Err(e) if e.is_not_found() => {}
                    Err(e) => return Err(super::failed(Stage::Mount, "binding a cgroup", &e)),
                }
            }
            Err(e) => return Err(super::failed(Stage::Mount, "binding a cgroup", &e)),
        }
    }
    Ok(trees)
}

/// The v1 hierarchies below their tmpfs.
fn fill_hierarchies(
    tmpfs: BorrowedFd<'_>,
    mount: &Mount<'_>,
    job: &Run<'_>,
    bound: &[(&CStr, OwnedFd)],
) -> Result<()> {
    let place = |name: &CStr| -> Result<OwnedFd> {
        file::mkdirat(tmpfs, name, 0o755)?;
        file::openat(Some(tmpfs), name, libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)
    };
    for (name, tree) in bound {
        crate::mount::set_attr(tree.as_fd(), mount.flags, false)?;
        sys::move_mount(tree.as_fd(), place(name)?.as_fd())?;
    }
    for joined in &job.cgroups {
        let hierarchy = joined.hierarchy;
        if bound.is_empty() && !job.binds_hierarchies() {
            let tree = hierarchy.mount_again(mount.flags)?;
            sys::move_mount(tree.as_fd(), place(hierarchy.directory())?.as_fd())?;
        }
        for link in hierarchy.links() {
            file::symlinkat(hierarchy.directory(), tmpfs, link)?;
        }
    }
    if mount.flags.read_only {
        sys::mount_setattr(tmpfs, false, &MountAttr { set: attr::RDONLY, ..MountAttr::default() })?;
    }
    Ok(())
}

fn below_dev(device: &Device<'_>) -> bool {
    let dir = device.dir.to_bytes();
    dir == b"dev" || dir.starts_with(b"dev/")
}

fn make_device(root: BorrowedFd<'_>, device: &Device<'_>) -> Result<()> {
    let dir = crate::fs::mkdir_all(root, &device.dir, 0o755, IN_ROOT)?;
    match file::mknodat(dir.as_fd(), &device.file, device.mode, device.number) {
        Ok(()) => {}
        Err(e) if e.is_exists() => {
            // A bound /dev has it already, and it is not ours to change. Anything else of that name is.
            let stat = file::fstatat(dir.as_fd(), &device.file)?;
            let same =
                stat.st_mode & libc::S_IFMT == device.mode & libc::S_IFMT && stat.st_rdev == device.number;
            return if same { Ok(()) } else { Err(e) };
        }
        Err(e) => return Err(e),
    }
    // The umask took bits away.
    file::fchmodat(dir.as_fd(), &device.file, device.mode & 0o7777)?;
    if (device.uid, device.gid) == (0, 0) {
        Ok(())
    } else {
        file::fchownat(dir.as_fd(), &device.file, device.uid, device.gid)
    }
}

fn make_link(root: BorrowedFd<'_>, dir: &CString, name: &CStr, target: &CStr) -> Result<()> {
    let dir = crate::fs::mkdir_all(root, dir, 0o755, IN_ROOT)?;
    match file::symlinkat(target, dir.as_fd(), name) {
        Err(e) if e.is_exists() => Ok(()),
        result => result,
    }
}

fn make_cwd(root: BorrowedFd<'_>, cwd: &CString) -> Result<()> {
    let bytes = cwd.as_bytes();
    let Some(start) = bytes.iter().position(|b| *b != b'/') else { return Ok(()) };
    let relative = file::cstring(bytes.get(start..).unwrap_or_default())?;
    crate::fs::mkdir_all(root, &relative, 0o755, IN_ROOT).map(drop)
}

fn names(job: &Run<'_>) -> Result<(), StartError> {
    if let Some(name) = &job.plan.hostname {
        proc_sys::sethostname(name.as_bytes()).at(Stage::Sysctl, || "setting the host name")?;
    }
    if let Some(name) = &job.plan.domainname {
        proc_sys::setdomainname(name.as_bytes()).at(Stage::Sysctl, || "setting the domain name")?;
    }
    Ok(())
}

/// Written through a proc file system that this process has just made, crossing no mount and following no link
/// (CVE-2025-52881: writes led to other files of /proc).
fn sysctls(job: &Run<'_>, proc: Option<&OwnedFd>) -> Result<(), StartError> {
    if job.sysctls.is_empty() {
        return Ok(());
    }
    let own;
    let proc = if let Some(proc) = proc {
        proc
    } else {
        own = process::own_proc().at(Stage::Sysctl, || "a proc file system")?;
        &own
    };
    let resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
    for (path, value) in &job.sysctls {
        file::openat2(proc.as_fd(), path, libc::O_WRONLY, 0, resolve)
            .and_then(|f| file::write_once(f.as_fd(), value.as_bytes()))
            .at(Stage::Sysctl, || format!("sysctl {path:?} = {value:?}"))?;
    }
    Ok(())
}

/// What a masked or read-only path leads to; None where there is nothing to protect.
fn protected(root: BorrowedFd<'_>, path: &CStr) -> Result<Option<OwnedFd>> {
    match file::openat2(root, path, libc::O_PATH, 0, IN_ROOT) {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(e.errno(), libc::ENOENT | libc::ENOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

fn make_readonly(root: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    let Some(place) = protected(root, path)? else { return Ok(()) };
    let tree = sys::open_tree(Some(place.as_fd()), c"", sys::OPEN_TREE_CLONE | sys::AT_RECURSIVE)?;
    sys::mount_setattr(tree.as_fd(), true, &MountAttr { set: attr::RDONLY, ..MountAttr::default() })?;
    sys::move_mount(tree.as_fd(), place.as_fd())
}

/// Hides files behind the host's null device and directories behind an empty one. The first of each kind is the tree
/// itself, the others are copies of it, as a tree that is not attached cannot be copied before Linux 6.15.
fn mask(root: BorrowedFd<'_>, job: &Run<'_>, null: Option<OwnedFd>) -> Result<(), StartError> {
    let mut null = null.map(|tree| (tree, false));
    let mut empty: Option<(OwnedFd, bool)> = None;
    for path in &job.masked {
        let at = || format!("masking {path:?}");
        let Some(place) = protected(root, path).at(Stage::Mount, at)? else { continue };
        let stat = file::fstatat(place.as_fd(), c"").at(Stage::Mount, at)?;
        let cover = if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            if empty.is_none() {
                empty = Some((job.empty.make().at(Stage::Mount, at)?, false));
            }
            empty.as_mut()
        } else {
            null.as_mut()
        };
        let Some((tree, used)) = cover else { continue };
        if *used {
            let copy = sys::open_tree(Some(tree.as_fd()), c"", sys::OPEN_TREE_CLONE).at(Stage::Mount, at)?;
            sys::move_mount(copy.as_fd(), place.as_fd()).at(Stage::Mount, at)?;
        } else {
            sys::move_mount(tree.as_fd(), place.as_fd()).at(Stage::Mount, at)?;
            *used = true;
        }
    }
    Ok(())
}
