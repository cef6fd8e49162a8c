//! Into the container's root file system.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use wharf_plan::run::{Stage, StartError};

use super::At;
use crate::error::{Error, Result};
use crate::sys::{file, mount};

/// Makes the detached tree `rootfs` the root and drops every mount of the host out of this mount namespace.
pub(super) fn enter(rootfs: BorrowedFd<'_>) -> Result<(), StartError> {
    // Any directory does: it is only where the tree hangs until it is the root itself.
    let place =
        file::openat(None, c"/proc", libc::O_PATH | libc::O_DIRECTORY, 0).at(Stage::Mount, || "/proc")?;
    mount::move_mount(rootfs, place.as_fd()).at(Stage::Mount, || "attaching the root file system")?;
    drop(place);
    file::fchdir(rootfs).at(Stage::Mount, || "entering the root file system")?;
    match mount::pivot_to_cwd() {
        // The host runs from its initial ramdisk, which cannot be pivoted away.
        Err(e) if e.is(libc::EINVAL) => mount::chroot_to_cwd(rootfs).at(Stage::Mount, || "changing the root"),
        result => result.at(Stage::Mount, || "changing the root"),
    }
}

/// The host's /dev/null as a detached tree, to hide files behind: the container has no hand in it.
pub(super) fn null_tree() -> Result<OwnedFd, StartError> {
    let tree = mount::open_tree(None, c"/dev/null", mount::OPEN_TREE_CLONE)
        .at(Stage::Mount, || "the host's /dev/null")?;
    verify_null(tree.as_fd()).at(Stage::Mount, || "the host's /dev/null")?;
    Ok(tree)
}

/// Checks that a descriptor is the null device and nothing that only has its name (CVE-2025-31133).
pub(super) fn verify_null(fd: BorrowedFd<'_>) -> Result<()> {
    let stat = file::fstatat(fd, c"")?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == libc::makedev(1, 3) {
        Ok(())
    } else {
        Err(Error::refused("/dev/null", libc::ENODEV, "not the null device"))
    }
}
