//! A place that may lie behind links which lead to nothing yet.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Error, Result};
use crate::sys::file as sys;

/// So many links on the way, as the kernel has it.
const LINKS: usize = 40;

/// What a path leads to, made where it is missing: directories on the way, and a directory or an empty file at its end. A link
/// to what is not there yet leads to where that is made.
///
/// `root` is the root of everything: names are taken one by one from an open directory, without following; what a link says is
/// taken so, too; and `..` goes back to the directory that one came from, never above `root`.
pub(crate) fn make_place(root: BorrowedFd<'_>, path: &CStr, file: bool) -> Result<OwnedFd> {
    const REFERENCE: i32 = libc::O_PATH | libc::O_NOFOLLOW;
    let mut left: VecDeque<Vec<u8>> = parts(path.to_bytes()).collect();
    let mut way: Vec<OwnedFd> = Vec::new();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == b".." {
            way.pop();
            continue;
        }
        let at = way.last().map_or(root, AsFd::as_fd);
        let text = sys::cstring(name.as_slice())?;
        let found = match sys::openat(Some(at), &text, REFERENCE, 0) {
            Err(e) if e.is_not_found() => {
                if file && left.is_empty() {
                    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
                    drop(sys::openat(Some(at), &text, flags, 0o644)?);
                } else {
                    sys::mkdirat(at, &text, 0o755)?;
                }
                sys::openat(Some(at), &text, REFERENCE, 0)?
            }
            result => result?,
        };
        match sys::fstatat(found.as_fd(), c"")?.st_mode & libc::S_IFMT {
            libc::S_IFLNK => {
                links += 1;
                if links > LINKS {
                    return Err(Error::refused(format!("{path:?}"), libc::ELOOP, "too many links"));
                }
                let target = sys::readlinkat(found.as_fd(), c"")?;
                if target.first() == Some(&b'/') {
                    way.clear();
                }
                for part in parts(&target).rev() {
                    left.push_front(part);
                }
            }
            libc::S_IFDIR => way.push(found),
            _ if left.is_empty() => way.push(found),
            _ => return Err(Error::new(format!("{path:?}"), libc::ENOTDIR)),
        }
    }
    match way.pop() {
        Some(found) => Ok(found),
        None => sys::openat(Some(root), c".", libc::O_PATH | libc::O_DIRECTORY, 0),
    }
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place(dir: &tempfile::TempDir, path: &CStr, file: bool) -> Result<OwnedFd> {
        let root = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        make_place(root.as_fd(), path, file)
    }

    #[test]
    fn links_to_nothing_lead_inside() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/tmp/foo/bar", dir.path().join("jump")).unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("/jump/baz/hosts", dir.path().join("etc/hosts")).unwrap();
        place(&dir, c"etc/hosts", true).unwrap();
        assert!(dir.path().join("tmp/foo/bar/baz/hosts").is_file());
        symlink("../../../../x/../dir", dir.path().join("etc/up")).unwrap();
        place(&dir, c"etc/up", false).unwrap();
        assert!(dir.path().join("dir").is_dir());
    }

    #[test]
    fn nothing_leads_out() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        place(&dir, c"out/x/y", false).unwrap();
        place(&dir, c"../../../../z", false).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(dir.path().join("z").is_dir());
        assert!(place(&dir, c"loop/x", false).unwrap_err().is(libc::ELOOP));
        assert!(place(&dir, c"file/x", false).unwrap_err().is(libc::ENOTDIR));
        // A link of /proc to elsewhere is only its text here.
        let magic = format!("/proc/{}/root/magic", std::process::id());
        symlink(&magic, dir.path().join("magic")).unwrap();
        place(&dir, c"magic", false).unwrap();
        assert!(dir.path().join(magic.trim_start_matches('/')).is_dir());
    }
}
