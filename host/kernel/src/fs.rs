//! Files beneath a directory that somebody else may control: an image, a container, a volume.
//!
//! Every path is resolved by the kernel with the directory as its root (`openat2`, `RESOLVE_IN_ROOT`), so `..` and
//! absolute symbolic links stay inside, and no magic link of a proc file system is followed.

mod place;

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::sys::file::{self as sys, RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};

pub(crate) use place::make_place;

/// So many directories [`Root::remove_all`] has open at most.
const DEEPEST: usize = 128;

/// A directory as the root of all paths given to its methods. Paths may be absolute or relative.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    resolve: u64,
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Link,
    /// Device, pipe or socket.
    Other,
}

impl Root {
    /// A directory of the host.
    pub fn open(path: &Path) -> Result<Self> {
        let path = sys::cstring(path.as_os_str().as_bytes())?;
        sys::openat(None, &path, libc::O_PATH | libc::O_DIRECTORY, 0).map(Self::new)
    }

    /// A directory by descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS }
    }

    /// As [`new`](Self::new), but a path or link that would leave the directory is an error (EXDEV), not clamped.
    pub fn strict(fd: OwnedFd) -> Self {
        Self { fd, resolve: RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS }
    }

    /// The directory itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Gives the descriptor back.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    fn path(&self, path: &Path) -> Result<CString> {
        let mut bytes = path.as_os_str().as_bytes();
        if self.resolve & RESOLVE_BENEATH != 0 {
            // Beneath refuses absolute paths; ours are relative to the root by definition.
            while let [b'/', rest @ ..] = bytes {
                bytes = rest;
            }
        }
        sys::cstring(if bytes.is_empty() { b"." } else { bytes })
    }

    /// `openat2` with these flags (`O_CLOEXEC` is added).
    pub fn open_fd(&self, path: impl AsRef<Path>, flags: i32, mode: u32) -> Result<OwnedFd> {
        sys::openat2(self.fd.as_fd(), &self.path(path.as_ref())?, flags, mode, self.resolve)
    }

    /// A reference (`O_PATH`) to whatever the path leads to.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.open_fd(path, libc::O_PATH, 0)
    }

    /// As [`resolve`](Self::resolve), but a link at the end is not followed.
    pub fn resolve_link(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.open_fd(path, libc::O_PATH | libc::O_NOFOLLOW, 0)
    }

    /// A root of its own for a directory inside.
    pub fn sub(&self, path: impl AsRef<Path>) -> Result<Root> {
        let fd = self.open_fd(path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
        Ok(Self { fd, resolve: self.resolve })
    }

    /// Opens a regular file for reading; never waits on a pipe or device.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        let fd = self.open_fd(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0)?;
        let stat = sys::fstatat(fd.as_fd(), c"")?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(Error::refused(
                format!("open({})", path.display()),
                libc::EINVAL,
                "not a regular file",
            ));
        }
        Ok(File::from(fd))
    }

    /// The whole of a regular file; EFBIG where it is longer than `max` bytes.
    pub fn read_limited(&self, path: impl AsRef<Path>, max: usize) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let file = self.open_file(path)?;
        read_limited(&file, max).map_err(|e| e.note(path.display().to_string()))
    }

    /// Creates or replaces the content of a regular file.
    pub fn write(&self, path: impl AsRef<Path>, data: &[u8], mode: u32) -> Result<()> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut file = File::from(self.open_fd(path, flags, mode)?);
        Ok(file.write_all(data)?)
    }

    /// Puts a new file in the place of whatever has the name, at once for every reader.
    pub fn replace(&self, path: impl AsRef<Path>, data: &[u8], mode: u32) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        let mut temporary = b".".to_vec();
        temporary.extend_from_slice(name.as_bytes());
        temporary.extend_from_slice(format!(".{}.new", sys_counter()).as_bytes());
        let temporary = sys::cstring(temporary)?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let mut file = File::from(sys::openat(Some(dir.as_fd()), &temporary, flags, mode)?);
        let result = file
            .write_all(data)
            .map_err(Error::from)
            .and_then(|()| sys::renameat2(dir.as_fd(), &temporary, dir.as_fd(), &name, 0));
        if result.is_err() {
            // The first error is the one to report.
            let _ = sys::unlinkat(dir.as_fd(), &temporary, false);
        }
        result
    }

    /// Makes the directory and what is missing above it; returns the last one.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
        mkdir_all(self.fd.as_fd(), &self.path(path.as_ref())?, mode, self.resolve)
    }

    /// Directory that holds the last component, and that component, which is not resolved.
    pub fn parent(&self, path: impl AsRef<Path>) -> Result<(OwnedFd, CString)> {
        let path = path.as_ref();
        let Some(name) = path.file_name() else {
            return Err(Error::refused(
                format!("parent({})", path.display()),
                libc::EINVAL,
                "the path has no last name",
            ));
        };
        let above = path.parent().unwrap_or(Path::new("."));
        let dir = self.open_fd(above, libc::O_PATH | libc::O_DIRECTORY, 0)?;
        Ok((dir, sys::cstring(name.as_bytes())?))
    }

    /// What the path leads to.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<libc::stat> {
        sys::fstatat(self.resolve(path)?.as_fd(), c"")
    }

    /// As [`stat`](Self::stat), but a link at the end is not followed.
    pub fn lstat(&self, path: impl AsRef<Path>) -> Result<libc::stat> {
        sys::fstatat(self.resolve_link(path)?.as_fd(), c"")
    }

    /// Whether there is something.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.resolve_link(path).is_ok()
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<OsString> {
        let link = self.resolve_link(path)?;
        sys::readlinkat(link.as_fd(), c"").map(OsString::from_vec)
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, target: impl AsRef<OsStr>, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        sys::symlinkat(&sys::cstring(target.as_ref().as_bytes())?, dir.as_fd(), &name)
    }

    /// Removes a file or link.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        sys::unlinkat(dir.as_fd(), &name, false)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = self.parent(path)?;
        sys::unlinkat(dir.as_fd(), &name, true)
    }

    /// Removes a file or a whole tree without following any link; nothing there is success.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<()> {
        let (dir, name) = match self.parent(path) {
            Ok(found) => found,
            Err(e) if e.is_not_found() => return Ok(()),
            Err(e) => return Err(e),
        };
        remove_tree(dir, name)
    }

    /// Moves within this root; replaces a file at `to`.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        sys::renameat2(from_dir.as_fd(), &from_name, to_dir.as_fd(), &to_name, 0)
    }

    /// Names and kinds in a directory, in no order.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<(OsString, Kind)>> {
        list(self.open_fd(path, libc::O_RDONLY | libc::O_DIRECTORY, 0)?)
    }
}

/// What an open file or a reference (`O_PATH`) leads to.
pub fn stat_of(file: BorrowedFd<'_>) -> Result<libc::stat> {
    sys::fstatat(file, c"")
}

/// The rest of an open file; EFBIG where there are more than `max` bytes.
pub fn read_limited(file: &File, max: usize) -> Result<Vec<u8>> {
    let mut data = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut data)?;
    if data.len() > max {
        return Err(Error::refused(
            format!("read({})", file.as_raw_fd()),
            libc::EFBIG,
            format!("over {max} bytes"),
        ));
    }
    Ok(data)
}

/// Makes what is missing of `path` below `dir`, each step resolved by the kernel, so that no link leads out.
pub(crate) fn mkdir_all(dir: BorrowedFd<'_>, path: &CString, mode: u32, resolve: u64) -> Result<OwnedFd> {
    const FLAGS: i32 = libc::O_PATH | libc::O_DIRECTORY;
    match sys::openat2(dir, path, FLAGS, 0, resolve) {
        Err(e) if e.is_not_found() => {}
        result => return result,
    }
    // From the longest prefix that is there, make one name after the other.
    let bytes = path.as_bytes();
    let mut done = 0;
    let mut current: Option<OwnedFd> = None;
    for end in (0..bytes.len()).filter(|i| bytes.get(*i) == Some(&b'/')).chain([bytes.len()]) {
        let name = bytes.get(done..end).unwrap_or_default();
        if name.is_empty() || name == b"." {
            done = end + 1;
            continue;
        }
        let prefix = sys::cstring(bytes.get(..end).unwrap_or_default())?;
        match sys::openat2(dir, &prefix, FLAGS, 0, resolve) {
            Ok(found) => current = Some(found),
            Err(e) if e.is_not_found() => {
                let above = current.as_ref().map_or(dir, |c| c.as_fd());
                match sys::mkdirat(above, &sys::cstring(name)?, mode) {
                    Ok(()) => {}
                    // Another one was faster, or it is a link to nothing: the next open tells.
                    Err(e) if e.is_exists() => {}
                    Err(e) => return Err(e),
                }
                current = Some(sys::openat2(dir, &prefix, FLAGS, 0, resolve)?);
            }
            Err(e) => return Err(e),
        }
        done = end + 1;
    }
    match current {
        Some(found) => Ok(found),
        None => sys::openat2(dir, path, FLAGS, 0, resolve),
    }
}

fn list(dir: OwnedFd) -> Result<Vec<(OsString, Kind)>> {
    let mut found = Vec::new();
    let stream = nix::dir::Dir::from_fd(dir).map_err(|e| Error::new("fdopendir()", e as i32))?;
    for entry in stream {
        let entry = entry.map_err(|e| Error::new("getdents64()", e as i32))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            Some(nix::dir::Type::File) => Kind::File,
            Some(nix::dir::Type::Directory) => Kind::Directory,
            Some(nix::dir::Type::Symlink) => Kind::Link,
            _ => Kind::Other,
        };
        found.push((OsString::from_vec(name.to_vec()), kind));
    }
    Ok(found)
}

/// Something to remove: the directory that has it, its name, and how deep that is below the tree's top.
type Doomed = (Rc<OwnedFd>, CString, usize);

/// Removes a tree with a stack of its own, as a hostile one may be deeper than ours. Open descriptors are bounded too:
/// what lies very deep is first moved up to the tree's top.
fn remove_tree(parent: OwnedFd, name: CString) -> Result<()> {
    let mut stack: Vec<Doomed> = vec![(Rc::new(parent), name, 0)];
    let mut top: Option<Rc<OwnedFd>> = None;
    let mut refilled = 0u32;
    while let Some((dir, name, depth)) = stack.last().cloned() {
        if removed(dir.as_fd(), &name)? {
            stack.pop();
            continue;
        }
        let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let inner = Rc::new(sys::openat(Some(dir.as_fd()), &name, flags, 0)?);
        let top = Rc::clone(top.get_or_insert_with(|| Rc::clone(&inner)));
        let before = stack.len();
        for (child, kind) in list(inner.try_clone()?)? {
            let child = sys::cstring(child.into_vec())?;
            if kind != Kind::Directory && removed(inner.as_fd(), &child)? {
                continue;
            }
            if depth < DEEPEST {
                stack.push((Rc::clone(&inner), child, depth + 1));
            } else {
                let new = sys::cstring(format!(".removing-{}-{}", std::process::id(), sys_counter()))?;
                sys::renameat2(inner.as_fd(), &child, top.as_fd(), &new, 0)?;
                // Its turn comes when this branch is gone, and with it the descriptors of the way here.
                stack.insert(1, (Rc::clone(&top), new, 1));
            }
        }
        if stack.len() == before {
            // Empty by now. Somebody who keeps filling it must not keep us here.
            refilled += 1;
            if refilled > 1000 {
                return Err(Error::refused("remove_all", libc::ENOTEMPTY, "the tree is being filled again"));
            }
        }
    }
    Ok(())
}

/// Removes a file or an empty directory; false where it is a directory with something in it.
fn removed(dir: BorrowedFd<'_>, name: &CString) -> Result<bool> {
    match sys::unlinkat(dir, name, false) {
        Ok(()) => return Ok(true),
        Err(e) if e.is_not_found() => return Ok(true),
        Err(e) if e.is(libc::EISDIR) || e.is(libc::EPERM) => {}
        Err(e) => return Err(e),
    }
    match sys::unlinkat(dir, name, true) {
        Ok(()) => Ok(true),
        Err(e) if e.is_not_found() => Ok(true),
        Err(e) if e.is(libc::ENOTEMPTY) || e.is(libc::EEXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

fn sys_counter() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[cfg(test)]
mod tests;
