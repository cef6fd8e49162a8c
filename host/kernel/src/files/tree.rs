//! A directory tree that someone hostile describes: everything stays beneath its root.
//!
//! Paths are bytes. Links on the way are followed as if the tree's root were `/` (`RESOLVE_IN_ROOT`), the last
//! component never is.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::{DIR, open_resolved, trash};

const INSIDE: ResolveFlags =
    ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// Name of a descriptor for calls that want a path; it leads to exactly the opened thing.
pub fn by_fd(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Writes everything.
pub(crate) fn write_all(file: impl AsFd, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::write(&file, data) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => data = data.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What `stat` calls a file system, for error messages.
pub fn filesystem_name(magic: u64) -> String {
    match magic {
        0xef53 => "ext4".into(),
        0x5846_5342 => "xfs".into(),
        0x9123_683e => "btrfs".into(),
        0x0102_1994 => "tmpfs".into(),
        0x794c_7630 => "overlayfs".into(),
        0x2fc1_2fc1 => "zfs".into(),
        0xf2f5_2010 => "f2fs".into(),
        0x6969 => "nfs".into(),
        other => format!("file system {other:#x}"),
    }
}

/// An extended attribute; none if there is none or the file system has no such thing.
pub fn get_xattr(path: &str, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut buffer = vec![0u8; 256];
    loop {
        match rustix::fs::getxattr(path, name, buffer.as_mut_slice()) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(Some(buffer));
            }
            Err(Errno::RANGE) if buffer.len() < 65_536 => buffer = vec![0u8; 65_536],
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
}

/// Names and values of extended attributes.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// All extended attributes of the thing that `path` (see [`by_fd`]) leads to.
pub fn xattrs(path: &str) -> Result<Xattrs, Errno> {
    let mut names = vec![0u8; 1024];
    let n = loop {
        match rustix::fs::listxattr(path, names.as_mut_slice()) {
            Ok(n) => break n,
            Err(Errno::RANGE) if names.len() < 65_536 => names = vec![0u8; 65_536],
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
    };
    let mut found = Vec::new();
    for name in names.get(..n).unwrap_or_default().split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if let Some(value) = get_xattr(path, name)? {
            found.push((name.to_vec(), value));
        }
    }
    Ok(found)
}

/// Owner, permissions, time and extended attributes of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, with set-id and sticky.
    pub mode: u32,
    /// Seconds since 1970 of the last change.
    pub mtime: i64,
    /// Nanoseconds of it.
    pub mtime_nsec: u32,
    /// Names and values.
    pub xattrs: Xattrs,
}

impl Meta {
    /// Reads it from a file.
    pub fn of(file: impl AsFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&file)?;
        let mut meta = Self::of_stat(&stat);
        meta.xattrs = xattrs(&by_fd(&file.as_fd()))?;
        Ok(meta)
    }

    /// What `stat` says, without extended attributes.
    pub fn of_stat(stat: &Stat) -> Self {
        Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            mtime: stat.st_mtime,
            mtime_nsec: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            xattrs: Vec::new(),
        }
    }

    fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.mtime, tv_nsec: self.mtime_nsec.min(999_999_999).into() };
        Timestamps { last_access: time, last_modification: time }
    }

    /// Gives it to an open file or directory (not `O_PATH`). The order matters: a change of owner clears set-id bits
    /// and file capabilities.
    pub fn set_open(&self, file: impl AsFd) -> Result<(), Errno> {
        rustix::fs::fchown(&file, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode & 0o7777))?;
        for (name, value) in &self.xattrs {
            rustix::fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty())?;
        }
        rustix::fs::futimens(&file, &self.times())
    }

    /// Gives it to a name that may be anything; links are not followed.
    pub fn set_at(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let file =
            rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let empty = AtFlags::EMPTY_PATH;
        rustix::fs::chownat(&file, "", Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)), empty)?;
        let path = by_fd(&file);
        if !FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode).is_symlink() {
            rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(self.mode & 0o7777))?;
        }
        for (name, value) in &self.xattrs {
            rustix::fs::setxattr(path.as_str(), name.as_slice(), value, XattrFlags::empty())?;
        }
        rustix::fs::utimensat(dir, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// A tree that is being written or read.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    resolve: ResolveFlags,
    /// The directory used last: archives list the files of one directory together.
    last: Option<(Vec<u8>, Arc<OwnedFd>)>,
}

impl Tree {
    /// A tree whose root is this directory.
    pub fn new(root: OwnedFd) -> Self {
        Self { root, resolve: INSIDE, last: None }
    }

    /// As [`new`](Self::new), where other file systems are mounted inside that belong to it.
    pub fn across(root: OwnedFd) -> Self {
        Self { root, resolve: INSIDE.difference(ResolveFlags::NO_XDEV), last: None }
    }

    /// Its root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens anything beneath the root; a link in last place is opened itself with `NOFOLLOW`.
    pub fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        open_resolved(self.root.as_fd(), path, flags | OFlags::CLOEXEC, self.resolve)
    }

    /// Opens a directory; an empty path is the root.
    pub fn dir(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>, Errno> {
        if let Some((last, fd)) = &self.last
            && last == path
        {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(self.open(path, DIR)?);
        self.last = Some((path.to_vec(), Arc::clone(&fd)));
        Ok(fd)
    }

    /// As [`Tree::dir`], making what is missing for root with mode 0755 and telling its paths.
    pub fn dir_or_make(&mut self, path: &[u8], made: &mut dyn FnMut(&[u8])) -> Result<Arc<OwnedFd>, Errno> {
        match self.dir(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut end = 0;
        while end < path.len() {
            end = path.iter().skip(end + 1).position(|b| *b == b'/').map_or(path.len(), |n| end + 1 + n);
            let part = path.get(..end).unwrap_or(path);
            match self.open(part, DIR) {
                Ok(_) => continue,
                Err(Errno::NOENT) => {}
                Err(e) => return Err(e),
            }
            let (parent, name) = split(part);
            let parent = self.open(parent, DIR)?;
            // A dangling link has this name; the directory must not be made where it points.
            rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
            let fresh = open_child(parent.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rustix::fs::fchown(&fresh, Some(Uid::ROOT), Some(Gid::ROOT))?;
            rustix::fs::fchmod(&fresh, Mode::from_raw_mode(0o755))?;
            made(part);
        }
        self.dir(path)
    }

    /// Forgets what it knows of directories; to be called after a directory was removed or replaced.
    pub fn forget(&mut self) {
        self.last = None;
    }

    /// What is at `path`, links not followed.
    pub fn stat(&mut self, path: &[u8]) -> Result<Stat, Errno> {
        let (dir, name) = split(path);
        if name.is_empty() {
            return rustix::fs::fstat(&self.root);
        }
        let dir = self.dir(dir)?;
        rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Removes whatever is at `path`, with everything beneath.
    pub fn remove(&mut self, path: &[u8]) -> Result<(), Errno> {
        let (dir, name) = split(path);
        if name.is_empty() {
            return Err(Errno::BUSY);
        }
        let dir = self.dir(dir)?;
        self.forget();
        trash::remove_tree_bytes(dir.as_fd(), name)
    }

    /// Removes everything in a directory.
    pub fn clear(&mut self, path: &[u8]) -> Result<(), Errno> {
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.forget();
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                trash::remove_tree_bytes(dir.as_fd(), name)?;
            }
        }
        Ok(())
    }
}

/// Directory and name of a path; both empty for the root.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

/// Opens a name in a directory, which must not be a link.
pub fn open_child(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Makes a new file for writing; fails if there is anything of that name.
pub fn create_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<std::fs::File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map(std::fs::File::from)
}

/// Makes a directory, private until it gets its [`Meta`].
pub fn make_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(dir, name, Mode::RWXU)?;
    open_child(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Makes a symbolic link.
pub fn symlink(target: &[u8], dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::symlinkat(target, dir, name)
}

/// Makes a second name; links are not followed.
pub fn hard_link(
    from: BorrowedFd<'_>,
    name: &[u8],
    dir: BorrowedFd<'_>,
    new_name: &[u8],
) -> Result<(), Errno> {
    rustix::fs::linkat(from, name, dir, new_name, AtFlags::empty())
}

/// What [`node`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// Character device: major, minor.
    Character(u32, u32),
    /// Block device: major, minor.
    Block(u32, u32),
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// Makes a device, pipe or socket without permissions.
pub fn node(dir: BorrowedFd<'_>, name: &[u8], node: Node) -> Result<(), Errno> {
    let (kind, device) = match node {
        Node::Character(major, minor) => (FileType::CharacterDevice, rustix::fs::makedev(major, minor)),
        Node::Block(major, minor) => (FileType::BlockDevice, rustix::fs::makedev(major, minor)),
        Node::Fifo => (FileType::Fifo, 0),
        Node::Socket => (FileType::Socket, 0),
    };
    rustix::fs::mknodat(dir, name, kind, Mode::empty(), device)
}

/// The target of a link.
pub fn read_link(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

/// Replaces or makes a name in one step.
pub fn rename(dir: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, new_name: &[u8]) -> Result<(), Errno> {
    rustix::fs::renameat_with(dir, name, to, new_name, RenameFlags::empty())
}

/// Sets one extended attribute of an open file or directory.
pub fn set_xattr(file: impl AsFd, name: &str, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::fsetxattr(file, name, value, XattrFlags::empty())
}

/// One entry of a [`walk`].
#[derive(Debug)]
pub struct Entry<'a> {
    /// Path from the root of the walk.
    pub path: &'a [u8],
    /// Its directory.
    pub dir: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a [u8],
    /// What it is.
    pub stat: Stat,
}

/// Visits everything beneath a directory, parents first, the entries of one directory in the order of their names.
/// Follows no links, enters no other file system. Only one directory is open at a time.
pub fn walk<E: From<Errno>>(
    root: BorrowedFd<'_>,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    walk_tree(root, false, visit)
}

/// As [`walk`], also through what is mounted inside.
pub fn walk_across<E: From<Errno>>(
    root: BorrowedFd<'_>,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    walk_tree(root, true, visit)
}

fn walk_tree<E: From<Errno>>(
    root: BorrowedFd<'_>,
    across: bool,
    visit: &mut dyn FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let home = rustix::fs::fstat(root)?.st_dev;
    let mut todo: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let at: &[u8] = if path.is_empty() { b"." } else { &path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let dir = match open_resolved(root, at, flags, beneath) {
            // Someone removed or replaced it meanwhile.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !path.is_empty() => continue,
            other => other?,
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        let mut below = Vec::new();
        for name in &names {
            let stat = match rustix::fs::statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                // Someone removed it meanwhile.
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            let mut child = path.clone();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(name);
            let enter = FileType::from_raw_mode(stat.st_mode).is_dir() && (across || stat.st_dev == home);
            visit(Entry { path: &child, dir: dir.as_fd(), name, stat })?;
            if enter {
                below.push(child);
            }
        }
        todo.extend(below.into_iter().rev());
    }
    Ok(())
}

/// Bytes that a tree takes, files with several names counted once.
pub fn usage(root: BorrowedFd<'_>) -> Result<u64, Errno> {
    sum(root, |_, _| true)
}

/// Bytes of those files of a tree that are not in `below` with the same size, time and owner.
pub fn usage_beyond(root: BorrowedFd<'_>, below: BorrowedFd<'_>) -> Result<u64, Errno> {
    let below = Tree::new(open_child(below, b".", DIR)?);
    sum(root, |path, stat| {
        let same = |found: OwnedFd| {
            rustix::fs::fstat(&found).is_ok_and(|old| {
                old.st_size == stat.st_size
                    && (old.st_mtime, old.st_mtime_nsec) == (stat.st_mtime, stat.st_mtime_nsec)
                    && (old.st_uid, old.st_gid, old.st_mode) == (stat.st_uid, stat.st_gid, stat.st_mode)
            })
        };
        !below.open(path, OFlags::PATH | OFlags::NOFOLLOW).is_ok_and(same)
    })
}

fn sum(root: BorrowedFd<'_>, counts: impl Fn(&[u8], &Stat) -> bool) -> Result<u64, Errno> {
    let mut seen = std::collections::HashSet::new();
    let mut total = 0u64;
    walk::<Errno>(root, &mut |entry| {
        let stat = entry.stat;
        if FileType::from_raw_mode(stat.st_mode).is_file()
            && (stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)))
            && counts(entry.path, &stat)
        {
            total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        }
        Ok(())
    })?;
    Ok(total)
}

/// Names in a directory, sorted; those that are no text are left out.
pub fn names(dir: impl AsFd) -> Result<Vec<String>, Errno> {
    let list = rustix::fs::openat(
        dir.as_fd(),
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut names = Vec::new();
    for entry in Dir::new(list)? {
        if let Ok(name) = entry?.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens a host directory by path; for roots only.
pub fn open_host_dir(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path.as_os_str().as_bytes(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Flushes the file system that holds `file`.
pub fn sync_filesystem(file: impl AsFd) -> Result<(), Errno> {
    rustix::fs::syncfs(file)
}
