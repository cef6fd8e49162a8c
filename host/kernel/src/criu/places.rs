//! Where the places of a plan really are in a running container.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::mounts::{external, places, through_links};
use crate::error::Result;
use crate::sys::file::{self, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, mount_of};
use crate::sys::mount::{self, OPEN_TREE_CLONE};
use crate::sys::process as sys;

/// What is mounted in a running container, as far as a checkpoint does not have it.
#[derive(Debug)]
pub struct Found {
    /// Paths whose mounts come from outside, for [`Dump::external`](super::Dump::external).
    pub mounts: Vec<String>,
    /// Paths of the plan that lead through links, with what they lead to, see [`through_links`].
    pub links: Vec<(String, String)>,
    /// All places of mounts, see [`places`](super::mounts::places()).
    pub places: Vec<String>,
}

/// Looks at the container whose first process this is. `given` are the paths at which the engine mounts trees.
///
/// # Errors
/// What cannot be read, and a mount that neither CRIU can make again nor the engine.
pub fn look(pid: i32, given: &[&str]) -> std::result::Result<Found, String> {
    let mountinfo =
        std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).map_err(|e| format!("its mounts: {e}"))?;
    let found = leads_to(pid, given).map_err(|e| format!("its root: {e}"))?;
    let links = through_links(&mountinfo, &found);
    let all: Vec<&str> = given.iter().copied().chain(links.iter().map(|(place, _)| place.as_str())).collect();
    let mounts = external(&mountinfo, &all)?;
    Ok(Found { mounts, places: places(&mountinfo), links })
}

/// The plan's paths that are somewhere inside the container whose first process this is, with the numbers of the mounts
/// they lead to. The container's root is the root of every link.
fn leads_to<'a>(pid: i32, given: &[&'a str]) -> Result<Vec<(&'a str, u64)>> {
    let root = file::openat(None, &file::cstring(format!("/proc/{pid}/root"))?, libc::O_PATH, 0)?;
    let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    let mut found = Vec::new();
    for path in given {
        let inside = file::cstring(path.trim_start_matches('/'))?;
        // What has no such path any more is found out by whoever asks for its mount.
        let place = file::openat2(root.as_fd(), &inside, libc::O_PATH, 0, resolve).ok();
        if let Some(id) =
            place.and_then(|place| mount_of(&format!("/proc/self/fdinfo/{}", place.as_raw_fd())))
        {
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
