//! Into a container's user namespace.
//!
//! Until then the child is the host's root and does what nobody inside may do; afterwards it is the namespace's root and
//! owns nothing of the host any more: every path of the image or of a volume is reached with those rights alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use wharf_plan::idmap;
use wharf_plan::run::{Ids, Namespace, Stage, StartError};
use wharf_plan::types::IdKind;

use super::prepare::{Mount, Process, Run, Source};
use super::{At, process};
use crate::error::Result;
use crate::mount::Prepared as Filesystem;
use crate::sys::file;
use crate::sys::process::{self as sys, CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWUTS};

/// What the host's root made for later: detached file systems by the number of their mount, and a proc file system for
/// writes to the process's own attributes.
#[derive(Default)]
pub(super) struct Early {
    mounts: Vec<Option<OwnedFd>>,
    pub(super) proc: Option<OwnedFd>,
    /// The devices are in the /dev that was made.
    pub(super) devices: bool,
}

impl Early {
    /// The file system made for this mount, once.
    pub(super) fn take(&mut self, number: usize) -> Option<OwnedFd> {
        self.mounts.get_mut(number).and_then(Option::take)
    }
}

/// What needs the host's root: limits that only it may raise, the owner of streams, the pid namespace's proc file system, a
/// view of the network namespace's sysfs, device nodes.
pub(super) fn prepare(job: &Run<'_>, ids: &Ids) -> Result<Early, StartError> {
    let mut early = Early::default();
    privileged(&job.process, ids)?;
    for mount in &job.mounts {
        let at = || format!("mount {} for a user namespace", mount.name);
        early.mounts.push(match &mount.source {
            Source::New(fs) if matches!(fs.fstype.to_bytes(), b"proc" | b"sysfs") => {
                Some(fs.make().at(Stage::Mount, at)?)
            }
            Source::New(fs) if is_dev(mount, fs) => {
                let tree = dev(job, ids, fs).at(Stage::Mount, at)?;
                early.devices = true;
                Some(tree)
            }
            Source::New(_) | Source::Tree(_) | Source::Hierarchies(_) | Source::Inside(_) => None,
        });
    }
    if job.process.apparmor.is_some() {
        early.proc = Some(process::own_proc().at(Stage::Security, || "a proc file system")?);
    }
    Ok(early)
}

/// The part of it that an exec needs as well.
pub(super) fn privileged(job: &Process<'_>, ids: &Ids) -> Result<(), StartError> {
    for (resource, _, hard) in &job.rlimits {
        process::raise(*resource, *hard).at(Stage::Credentials, || "raising a resource limit")?;
    }
    let owner = idmap::outside(&ids.uids, IdKind::Users, job.plan.user.uid).unwrap_or(idmap::NOBODY);
    for stream in job.stdio.iter().flatten() {
        process::own(*stream, owner).at(Stage::Stdio, || "owning the standard streams")?;
    }
    Ok(())
}

fn is_dev(mount: &Mount<'_>, fs: &Filesystem) -> bool {
    fs.fstype.to_bytes() == b"tmpfs" && mount.target.to_bytes() == b"dev"
}

/// A user namespace may neither make device nodes nor use those on a file system of its own. So /dev is the host's, with the
/// namespace's root as the owner of everything in it.
fn dev(job: &Run<'_>, ids: &Ids, fs: &Filesystem) -> Result<OwnedFd> {
    let tree = fs.make()?;
    let owner = |uid: u32, gid: u32| {
        let uid = idmap::outside(&ids.uids, IdKind::Users, uid).unwrap_or(idmap::NOBODY);
        (uid, idmap::outside(&ids.gids, IdKind::Groups, gid).unwrap_or(idmap::NOBODY))
    };
    let (uid, gid) = owner(0, 0);
    file::fchownat(tree.as_fd(), c"", uid, gid)?;
    for device in &job.devices {
        let Some(dir) = device.dir.to_bytes().strip_prefix(b"dev") else { continue };
        let dir = match dir {
            b"" => tree.try_clone()?,
            [b'/', rest @ ..] => {
                // Made one by one, so that each gets its owner.
                let mut at = tree.try_clone()?;
                for name in rest.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
                    let name = file::cstring(name)?;
                    match file::mkdirat(at.as_fd(), &name, 0o755) {
                        Ok(()) => file::fchownat(at.as_fd(), &name, uid, gid)?,
                        Err(e) if e.is_exists() => {}
                        Err(e) => return Err(e),
                    }
                    at = file::openat(
                        Some(at.as_fd()),
                        &name,
                        libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW,
                        0,
                    )?;
                }
                at
            }
            _ => continue,
        };
        match file::mknodat(dir.as_fd(), &device.file, device.mode, device.number) {
            Err(e) if e.is_exists() => continue,
            result => result?,
        }
        file::fchmodat(dir.as_fd(), &device.file, device.mode & 0o7777)?;
        let (uid, gid) = owner(device.uid, device.gid);
        file::fchownat(dir.as_fd(), &device.file, uid, gid)?;
    }
    Ok(tree)
}

/// Becomes the namespace's root, with new namespaces that belong to it.
pub(super) fn enter(job: &Run<'_>, namespace: BorrowedFd<'_>) -> Result<(), StartError> {
    sys::setns(namespace, CLONE_NEWUSER).at(Stage::Namespace, || "joining the user namespace")?;
    become_root()?;
    let spaces = job.plan.namespaces;
    let mut flags = CLONE_NEWNS;
    for (wanted, flag) in [(spaces.ipc, CLONE_NEWIPC), (spaces.uts, CLONE_NEWUTS)] {
        if wanted == Namespace::New {
            flags |= flag;
        }
    }
    sys::unshare(flags).at(Stage::Namespace, || "new namespaces in the user namespace")
}

/// Entering leaves the ids as they were, which are nobody's inside.
pub(super) fn become_root() -> Result<(), StartError> {
    let at = || "becoming root of the user namespace, whose id 0 must be mapped";
    sys::setgroups(&[]).at(Stage::Credentials, at)?;
    sys::setresgid(0).at(Stage::Credentials, at)?;
    sys::setresuid(0).at(Stage::Credentials, at)
}
