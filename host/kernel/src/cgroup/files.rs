//! Reading and writing beneath a hierarchy's root.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use crate::error::{Error, Result};
use crate::sys::file::{self as sys, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, cstring};

const RESOLVE: u64 = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;

/// The longest control file that is read.
pub(super) const LONGEST: usize = 1 << 20;

/// The root of a hierarchy; paths are relative to it.
#[derive(Clone, Copy)]
pub(super) struct Dir<'a> {
    root: BorrowedFd<'a>,
}

impl<'a> Dir<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root }
    }

    pub(super) fn open(self, path: &str) -> Result<OwnedFd> {
        sys::openat2(self.root, &cstring(path)?, libc::O_RDONLY | libc::O_DIRECTORY, 0, RESOLVE)
    }

    pub(super) fn read(self, path: &str) -> Result<String> {
        let fd = sys::openat2(self.root, &cstring(path)?, libc::O_RDONLY, 0, RESOLVE)?;
        let bytes = crate::fs::read_limited(&File::from(fd), LONGEST)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn open_read(self, path: &str) -> Result<OwnedFd> {
        sys::openat2(self.root, &cstring(path)?, libc::O_RDONLY, 0, RESOLVE)
    }

    pub(super) fn open_write(self, path: &str) -> Result<OwnedFd> {
        sys::openat2(self.root, &cstring(path)?, libc::O_WRONLY, 0, RESOLVE)
    }

    pub(super) fn write(self, path: &str, value: &str) -> Result<()> {
        let fd = self.open_write(path)?;
        sys::write_once(fd.as_fd(), value.as_bytes()).map_err(|e| e.note(path.to_owned()))
    }

    /// As [`write`](Self::write); a file that this kernel does not have is success.
    pub(super) fn write_if_there(self, path: &str, value: &str) -> Result<()> {
        match self.write(path, value) {
            Err(e) if e.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// Makes one directory; the one above must be there.
    pub(super) fn mkdir(self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((above, name)) => {
                let dir =
                    sys::openat2(self.root, &cstring(above)?, libc::O_PATH | libc::O_DIRECTORY, 0, RESOLVE)?;
                sys::mkdirat(dir.as_fd(), &cstring(name)?, 0o755)
            }
            None => sys::mkdirat(self.root, &cstring(path)?, 0o755),
        }
    }

    pub(super) fn children(self, path: &str) -> Result<Vec<String>> {
        let dir = self.open(path)?;
        let stream = nix::dir::Dir::from_fd(dir).map_err(|e| Error::new("fdopendir()", e as i32))?;
        let mut names = Vec::new();
        for entry in stream {
            let entry = entry.map_err(|e| Error::new("getdents64()", e as i32))?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == Some(nix::dir::Type::Directory) && name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()).to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// The cgroup and all below it, deepest last.
    fn tree(self, path: &str) -> Result<Vec<String>> {
        let mut all = vec![path.to_owned()];
        let mut next = 0;
        while let Some(current) = all.get(next).cloned() {
            next += 1;
            match self.children(&current) {
                Ok(names) => all.extend(names.iter().map(|name| format!("{current}/{name}"))),
                // Somebody removed it meanwhile.
                Err(e) if matches!(e.errno(), libc::ENOENT | libc::ENODEV) && next > 1 => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// Removes the cgroup and all below it; nothing there is success.
    pub(super) fn remove_tree(self, path: &str) -> Result<()> {
        // Almost always it is one directory.
        match self.rmdir(path) {
            Err(e) if e.is(libc::EBUSY) => {}
            result => return result,
        }
        let tree = match self.tree(path) {
            Err(e) if e.is_not_found() => return Ok(()),
            result => result?,
        };
        tree.iter().rev().try_for_each(|path| self.rmdir(path))
    }

    fn rmdir(self, path: &str) -> Result<()> {
        let removed = match path.rsplit_once('/') {
            Some((above, name)) => {
                sys::openat2(self.root, &cstring(above)?, libc::O_PATH | libc::O_DIRECTORY, 0, RESOLVE)
                    .and_then(|dir| sys::unlinkat(dir.as_fd(), &cstring(name)?, true))
            }
            None => sys::unlinkat(self.root, &cstring(path)?, true),
        };
        match removed {
            Err(e) if e.is_not_found() => Ok(()),
            result => result,
        }
    }

    pub(super) fn pids(self, path: &str) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for (index, cgroup) in self.tree(path)?.iter().enumerate() {
            match self.read(&format!("{cgroup}/cgroup.procs")) {
                Ok(text) => pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok())),
                // Threaded cgroups of v2 list their processes further up.
                Err(e) if e.is(libc::EOPNOTSUPP) => {}
                Err(e) if matches!(e.errno(), libc::ENOENT | libc::ENODEV) && index > 0 => {}
                Err(e) => return Err(e),
            }
        }
        // 0 stands for a process of a pid namespace that is not below ours.
        pids.retain(|pid| *pid > 0);
        Ok(pids)
    }
}

/// The number after a word at the start of a line.
pub(super) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A limit as control files print it: `max` and negative numbers are none.
pub(super) fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}
