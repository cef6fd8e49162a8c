//! The bundle: a directory of the host for the documents, with mounts in it that only the runtime sees.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use wharf_plan::run::{
    Foreign, INIT_PLACE, MountSource, Namespace, ROOTFS_PLACE, RunPlan, TimeNamespace, namespace_place,
    tree_place,
};

use super::{RECORD, about};
use crate::mount::{self, Flags};
use crate::sys::{file, mount as sys, process};

/// Nothing of a bundle is anybody else's to see.
pub(crate) fn directory(path: &Path) -> Result<(), String> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| format!("cannot make {}: {e}", path.display()))
}

/// A new file for root alone; one that is there already is replaced.
pub(crate) fn document(path: &Path, content: &[u8], mode: u32) -> Result<(), String> {
    use std::io::Write;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        file.write_all(content)
    };
    write().map_err(|e| format!("cannot write {}: {e}", path.display()))
}

pub(crate) fn descriptor(fds: &[OwnedFd], number: u32) -> Result<BorrowedFd<'_>, String> {
    let found = usize::try_from(number).ok().and_then(|n| fds.get(n));
    found.map(AsFd::as_fd).ok_or_else(|| format!("the plan names descriptor {number}, which did not come"))
}

/// Puts a detached tree onto a path of the bundle.
pub(crate) fn attach(tree: BorrowedFd<'_>, place: &Path) -> Result<(), String> {
    let stat = file::fstatat(tree, c"").map_err(about("a tree"))?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
        directory(place)?;
    } else {
        document(place, b"", 0o600)?;
    }
    attach_to(tree, place)
}

/// Puts a detached tree onto a path that is there.
pub(super) fn attach_to(tree: BorrowedFd<'_>, place: &Path) -> Result<(), String> {
    let target = open(place)?;
    sys::move_mount(tree, target.as_fd()).map_err(about(format_args!("mounting {}", place.display())))
}

fn open(path: &Path) -> Result<OwnedFd, String> {
    use std::os::unix::ffi::OsStrExt;
    let name = file::cstring(path.as_os_str().as_bytes()).map_err(about(path.display()))?;
    file::openat(None, &name, libc::O_PATH | libc::O_NOFOLLOW, 0).map_err(about(path.display()))
}

/// Binds the namespace behind a descriptor, which is of the namespace itself or of a process in it.
fn bind_namespace(fd: BorrowedFd<'_>, kind: &str, place: &Path) -> Result<(), String> {
    document(place, b"", 0o600)?;
    let number = fd.as_raw_fd();
    let pid = process::pid_of(fd);
    let source = match pid {
        Some(pid) if pid > 0 => PathBuf::from(format!("/proc/{pid}/ns/{kind}")),
        Some(_) => return Err(format!("the process whose {kind} namespace is to be joined has ended")),
        None => PathBuf::from(format!("/proc/self/fd/{number}")),
    };
    let nothing: Option<&str> = None;
    nix::mount::mount(Some(&source), place, nothing, nix::mount::MsFlags::MS_BIND, nothing)
        .map_err(|e| format!("binding the {kind} namespace: {e}"))?;
    // The number could have become another process's before it was looked up, but not while the one that is meant lives.
    if pid.is_some() {
        process::pidfd_send_signal(fd, 0)
            .map_err(|_| format!("the process whose {kind} namespace is to be joined has ended"))?;
    }
    Ok(())
}

/// Writes the documents and mounts everything; to be called in a mount namespace of one's own.
pub(super) fn make(plan: &RunPlan, foreign: &Foreign, fds: &[OwnedFd]) -> Result<(), String> {
    let bundle = Path::new(&foreign.runtime.bundle);
    for name in ["", "trees", "namespaces"] {
        directory(&bundle.join(name))?;
    }
    // First of all: by this file the bundle is cleared away should nobody come back to it.
    let record = serde_json::to_vec(&foreign.runtime).map_err(|e| e.to_string())?;
    document(&bundle.join(RECORD), &record, 0o600)?;
    document(&bundle.join("config.json"), foreign.document.as_bytes(), 0o600)?;
    if let Some(user) = &plan.user {
        super::mapped::open_way(&foreign.runtime)?;
        super::mapped::own_streams(&plan.process, &user.ids, fds)?;
    }
    attach(descriptor(fds, plan.rootfs)?, &bundle.join(ROOTFS_PLACE))?;
    trees(plan, fds, bundle)?;
    let spaces = plan.namespaces;
    let time = match plan.time {
        TimeNamespace::Join(fd) => Namespace::Join(fd),
        _ => Namespace::Host,
    };
    let user = plan.user.as_ref().map_or(Namespace::Host, |user| Namespace::Join(user.namespace));
    for (namespace, kind) in [
        (user, "user"),
        (spaces.pid, "pid"),
        (spaces.ipc, "ipc"),
        (spaces.uts, "uts"),
        (spaces.net, "net"),
        (spaces.cgroup, "cgroup"),
        (time, "time"),
    ] {
        if let Namespace::Join(number) = namespace {
            bind_namespace(descriptor(fds, number)?, kind, &bundle.join(namespace_place(kind)))?;
        }
    }
    Ok(())
}

/// Mounts the plan's trees below `dir`, each where [`tree_place`] says.
pub(crate) fn trees(plan: &RunPlan, fds: &[OwnedFd], dir: &Path) -> Result<(), String> {
    for planned in &plan.mounts {
        let MountSource::Tree(number) = planned.source else { continue };
        let tree = descriptor(fds, number)?;
        let flags = Flags {
            read_only: planned.read_only,
            no_suid: planned.no_suid,
            no_dev: planned.no_dev,
            no_exec: planned.no_exec,
        };
        mount::set_attr(tree, flags, false).map_err(about(&planned.target))?;
        attach(tree, &dir.join(tree_place(number)))?;
    }
    Ok(())
}

/// Puts the init of `--init` into the bundle; whoever the container's root is, it may read it.
pub(super) fn init(program: BorrowedFd<'_>, bundle: &Path) -> Result<(), String> {
    let content = std::fs::read(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .map_err(|e| format!("reading the init program: {e}"))?;
    document(&bundle.join(INIT_PLACE.0), &content, 0o755)
}
