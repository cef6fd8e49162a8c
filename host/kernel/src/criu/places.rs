//! Where the places of a plan really are in a running container.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::error::Result;
use crate::sys::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};
use crate::sys::mount::{self, OPEN_TREE_CLONE};
use crate::sys::process as sys;

/// The number of the mount that a descriptor is in, as in `mountinfo`.
pub fn mount_of(descriptor: &OwnedFd) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// The plan's paths that are somewhere inside the container whose first process this is, with the numbers of the mounts
/// they lead to. The container's root is the root of every link.
pub fn leads_to<'a>(pid: i32, given: &[&'a str]) -> Result<Vec<(&'a str, u64)>> {
    let root = file::openat(None, &file::cstring(format!("/proc/{pid}/root"))?, libc::O_PATH, 0)?;
    let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    let mut found = Vec::new();
    for path in given {
        let inside = file::cstring(path.trim_start_matches('/'))?;
        // What has no such path any more is found out by whoever asks for its mount.
        let place = file::openat2(root.as_fd(), &inside, libc::O_PATH, 0, resolve).ok();
        if let Some(id) = place.as_ref().and_then(mount_of) {
            found.push((*path, id));
        }
    }
    Ok(found)
}

/// A detached copy of the mount at a path of another process's mount namespace; no link is followed. Kernels before 6.15 make
/// copies of mounts of the caller's own namespace only, so that a thread of its own goes there.
///
/// # Errors
/// That process has ended, or has no such path.
pub fn bind_in(process: &OwnedFd, path: &str) -> Result<OwnedFd> {
    let inside = file::cstring(path.trim_start_matches('/'))?;
    let work = || -> Result<OwnedFd> {
        sys::unshare(sys::CLONE_FS)?;
        sys::setns(process.as_fd(), sys::CLONE_NEWNS)?;
        let root = file::openat(None, c"/", libc::O_PATH, 0)?;
        let resolve = file::RESOLVE_BENEATH | file::RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
        let place = file::openat2(root.as_fd(), &inside, libc::O_PATH, 0, resolve)?;
        mount::open_tree(Some(place.as_fd()), c"", OPEN_TREE_CLONE)
    };
    crate::runtime::apart(work).unwrap_or_else(|| {
        Err(crate::Error::refused(path.to_owned(), libc::EAGAIN, "no thread to enter a mount namespace from"))
    })
}
