//! The option `tmpcopyup`: a tmpfs that begins with what it covers.
//!
//! The directory is the image's, and somebody may change it meanwhile. So every step goes from an open directory to one name in
//! it and follows no link: a link is copied as a link, and what became one since it was looked at is an error. What the copy
//! takes is bounded by the tmpfs's size and the container's memory, which this process has joined.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Error, Result};
use crate::sys::file;

/// Deeper directories are an error: each level takes descriptors.
const DEEPEST: usize = 200;

const DIRECTORY: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;

/// Copies what is in the directory `from` into `to`, which gets its owner and mode as well. Content, owners, modes, times, links
/// and nodes are kept; extended attributes and hard links are not, and sockets are left out.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    // Both may be references only.
    let from = file::openat(Some(from), c".", DIRECTORY, 0)?;
    let to = file::openat(Some(to), c".", DIRECTORY, 0)?;
    level(&from, &to, 0)
}

fn level(from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::refused("tmpcopyup", libc::ELOOP, "directories are nested more than 200 deep"));
    }
    for name in names(from)? {
        entry(from, to, &name, depth)?;
    }
    let stat = file::fstatat(from.as_fd(), c"")?;
    file::fchownat(to.as_fd(), c"", stat.st_uid, stat.st_gid)?;
    failed(nix::sys::stat::fchmod(to, mode(&stat)), "fchmod")?;
    times(to, &stat)
}

fn mode(stat: &libc::stat) -> nix::sys::stat::Mode {
    nix::sys::stat::Mode::from_bits_truncate(stat.st_mode & 0o7777)
}

fn failed<T>(result: nix::Result<T>, call: &'static str) -> Result<T> {
    result.map_err(|e| Error::new(call, e as i32))
}

fn names(dir: &OwnedFd) -> Result<Vec<CString>> {
    let again = file::openat(Some(dir.as_fd()), c".", DIRECTORY, 0)?;
    let stream = failed(nix::dir::Dir::from_fd(again), "fdopendir()")?;
    let mut all = Vec::new();
    for entry in stream {
        let entry = failed(entry, "getdents64()")?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            all.push(entry.file_name().to_owned());
        }
    }
    Ok(all)
}

fn entry(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: usize) -> Result<()> {
    let stat = file::fstatat(from.as_fd(), name)?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            let below = file::openat(Some(from.as_fd()), name, DIRECTORY, 0)?;
            file::mkdirat(to.as_fd(), name, 0o700)?;
            let made = file::openat(Some(to.as_fd()), name, DIRECTORY, 0)?;
            level(&below, &made, depth + 1)
        }
        libc::S_IFREG => content(from, to, name),
        libc::S_IFLNK => {
            let target = file::cstring(file::readlinkat(from.as_fd(), name)?)?;
            file::symlinkat(&target, to.as_fd(), name)?;
            file::fchownat(to.as_fd(), name, stat.st_uid, stat.st_gid)
        }
        kind @ (libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO) => {
            file::mknodat(to.as_fd(), name, kind | 0o600, stat.st_rdev)?;
            file::fchownat(to.as_fd(), name, stat.st_uid, stat.st_gid)?;
            // It was just made in a tree that nobody else sees yet.
            file::fchmodat(to.as_fd(), name, stat.st_mode & 0o7777)
        }
        // A socket without whom it belongs to.
        _ => Ok(()),
    }
}

fn content(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<()> {
    // It may have become something else: that is neither waited for nor copied.
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let source = file::openat(Some(from.as_fd()), name, flags, 0)?;
    let stat = file::fstatat(source.as_fd(), c"")?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Error::refused(
            format!("tmpcopyup of {name:?}"),
            libc::EAGAIN,
            "it was replaced meanwhile",
        ));
    }
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let made = file::openat(Some(to.as_fd()), name, flags, 0o600)?;
    let (mut input, mut output) = (std::fs::File::from(source), std::fs::File::from(made));
    std::io::copy(&mut input, &mut output)
        .map_err(|e| Error::new(format!("copying {name:?}"), e.raw_os_error().unwrap_or(libc::EIO)))?;
    file::fchownat(output.as_fd(), c"", stat.st_uid, stat.st_gid)?;
    failed(nix::sys::stat::fchmod(&output, mode(&stat)), "fchmod")?;
    times(&output, &stat)
}

fn times(of: impl AsFd, stat: &libc::stat) -> Result<()> {
    use nix::sys::time::TimeSpec;
    let accessed = TimeSpec::new(stat.st_atime, stat.st_atime_nsec);
    let changed = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    failed(nix::sys::stat::futimens(of, &accessed, &changed), "futimens")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    #[test]
    fn content_modes_links_and_nodes_but_nothing_from_outside() {
        let (from, to, outside) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("secret"), "s").unwrap();
        std::fs::create_dir(from.path().join("deep")).unwrap();
        std::fs::set_permissions(from.path().join("deep"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        std::fs::write(from.path().join("deep/file"), "x".repeat(100_000)).unwrap();
        symlink(outside.path(), from.path().join("out")).unwrap();
        symlink(outside.path().join("secret"), from.path().join("deep/leak")).unwrap();
        nix::unistd::mkfifo(&from.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.path().join("socket")).unwrap();
        std::fs::set_permissions(from.path(), std::fs::Permissions::from_mode(0o750)).unwrap();

        copy(open(from.path()).as_fd(), open(to.path()).as_fd()).unwrap();
        let of = |name: &str| to.path().join(name);
        assert_eq!(std::fs::metadata(to.path()).unwrap().mode() & 0o7777, 0o750);
        assert_eq!(std::fs::metadata(of("deep")).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(std::fs::read_to_string(of("deep/file")).unwrap().len(), 100_000);
        assert_eq!(std::fs::read_link(of("out")).unwrap(), outside.path());
        assert!(std::fs::symlink_metadata(of("deep/leak")).unwrap().is_symlink());
        assert!(of("pipe").exists() && !of("socket").exists());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn depth_is_bounded() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(from.path().join("d/".repeat(DEEPEST + 2))).unwrap();
        let error = copy(open(from.path()).as_fd(), open(to.path()).as_fd()).unwrap_err();
        assert!(error.is(libc::ELOOP), "{error}");
    }
}
