//! Subvolumes of btrfs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use wharf_plan::files::Place;

use super::{Error, Roots, show, tree};
use crate::sys::btrfs;
use crate::sys::file::cstring;

const MAGIC: u64 = 0x9123_683e;

/// Whether an open directory is on btrfs.
fn on_btrfs(dir: impl AsFd) -> bool {
    #[allow(clippy::cast_sign_loss, reason = "a magic number")]
    rustix::fs::fstatfs(dir).is_ok_and(|fs| fs.f_type as u64 == MAGIC)
}

/// Whether an open directory is the root of a subvolume.
pub(super) fn is_subvolume(dir: impl AsFd) -> bool {
    rustix::fs::fstat(&dir).is_ok_and(|stat| stat.st_ino == btrfs::ROOT_INODE) && on_btrfs(dir)
}

fn told(op: &str, place: &Place, error: crate::Error) -> Error {
    if error.is(libc::ENOTTY) {
        return Error::Unsupported(
            format!("operation {op}"),
            format!("for {}: it is not on btrfs", show(place)),
        );
    }
    Error::Call(error.note(format!("{op} {}", show(place))))
}

/// A new, empty subvolume of root's with mode 0755, or one that is there.
pub(super) fn create(roots: &Roots, place: &Place) -> Result<OwnedFd, Error> {
    let op = "subvolume-create";
    let (dir, name) = roots.parent(place, true)?;
    btrfs::create(real(&dir)?.as_fd(), &cstring(name)?).map_err(|e| told(op, place, e))?;
    let made = roots.open_dir(place)?;
    rustix::fs::fchmod(&made, rustix::fs::Mode::from_raw_mode(0o755))
        .map_err(|e| Error::system(format!("{op} {}", show(place)), e))?;
    Ok(made)
}

/// A snapshot of one subvolume as another.
pub(super) fn snapshot(roots: &Roots, source: &Place, target: &Place, read_only: bool) -> Result<(), Error> {
    let from = roots.open_dir(source)?;
    if !is_subvolume(&from) {
        return Err(Error::Invalid(format!("{} is no subvolume", show(source))));
    }
    let (dir, name) = roots.parent(target, true)?;
    btrfs::snapshot(from.as_fd(), real(&dir)?.as_fd(), &cstring(name)?, read_only)
        .map_err(|e| told("subvolume-clone", target, e))
}

/// Whether there is a subvolume at a place that can be removed; nothing there is no error.
pub(super) fn check_removable(roots: &Roots, place: &Place) -> Result<bool, Error> {
    match roots.open_dir(place) {
        Ok(dir) if is_subvolume(&dir) => Ok(true),
        Ok(_) => Err(Error::Invalid(format!("{} is no subvolume", show(place)))),
        Err(Error::System { error: Errno::NOENT, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The requests want a descriptor that can be used, not one that only names.
fn real(dir: &OwnedFd) -> Result<OwnedFd, Error> {
    tree::open_child(dir.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|e| Error::system("open a directory", e))
}

/// Lets a subvolume be moved and emptied; one that is read-only can be neither.
pub(super) fn make_writable(subvolume: impl AsFd) {
    let subvolume = subvolume.as_fd();
    if btrfs::is_read_only(subvolume).unwrap_or(false)
        && let Err(error) = btrfs::set_read_only(subvolume, false)
    {
        tracing::warn!(%error, "a read-only subvolume stays so");
    }
}

/// Removes the subvolume `name` of `dir`, open as `opened`, at once; the kernel frees its space later. False if it is
/// none, or if others are inside, which must go first.
pub(super) fn destroy(dir: BorrowedFd<'_>, name: &[u8], opened: &OwnedFd) -> bool {
    if !is_subvolume(opened) {
        return false;
    }
    make_writable(opened);
    let (Ok(c_name), Ok(parent)) =
        (cstring(name), tree::open_child(dir, b".", OFlags::RDONLY | OFlags::DIRECTORY))
    else {
        return false;
    };
    let id = btrfs::id(opened.as_fd());
    if btrfs::destroy(parent.as_fd(), &c_name).is_err() {
        return false;
    }
    // Where nothing is counted there is nothing to forget; newer kernels forget by themselves.
    if let Ok(id) = id {
        let _ = btrfs::forget_quota(parent.as_fd(), id);
    }
    true
}
