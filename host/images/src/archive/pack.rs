//! Writing files of a directory tree as tar, while someone hostile may be changing them.
//!
//! Nothing is opened by a path that could have become something else: every entry is taken by a reference (`O_PATH`,
//! links not followed), looked at, and only then opened through that reference.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use wharf_kernel::files::tree;
use wharf_plan::idmap;
use wharf_plan::types::{IdKind, IdMap};

use super::tar::{Header, Kind};
use super::write::Writer;

/// An archive in the making, of files of one tree.
pub struct Packer<W> {
    writer: Writer<W>,
    /// How ids of files become those of the archive; empty leaves them.
    ids: Vec<IdMap>,
    /// First names of files that have several, by device and inode.
    seen: HashMap<(u64, u64), Vec<u8>>,
}

/// The bytes before a name in the archive: `dir` and `file` make `dir/file`, nothing and `file` make `file`.
fn join(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    match (prefix, path) {
        (b"", path) => path.to_vec(),
        (prefix, b"") => prefix.to_vec(),
        (prefix, path) if prefix.ends_with(b"/") => [prefix, path].concat(),
        (prefix, path) => [prefix, b"/", path].concat(),
    }
}

/// Attributes that belong into an archive for others: what a program may do, and what users wrote.
fn wanted(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

fn entry(path: Vec<u8>, stat: &Stat, reference: &OwnedFd) -> io::Result<Option<Header>> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::Character,
        FileType::BlockDevice => Kind::Block,
        FileType::Fifo => Kind::Fifo,
        // Sockets mean nothing in an archive.
        _ => return Ok(None),
    };
    let mut path = path;
    if kind == Kind::Directory && !path.ends_with(b"/") {
        path.push(b'/');
    }
    let link = match kind {
        Kind::Symlink => rustix::fs::readlinkat(reference, "", Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    let xattrs = match kind {
        Kind::File | Kind::Directory => {
            let mut all = tree::xattrs(&tree::by_fd(reference))?;
            all.retain(|(name, _)| wanted(name));
            all
        }
        _ => Vec::new(),
    };
    Ok(Some(Header {
        path,
        link,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        mtime: stat.st_mtime,
        mtime_nsec: 0,
        device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        xattrs,
        sparse: None,
    }))
}

impl<W: Write> Packer<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { writer: Writer::new(out), ids: Vec::new(), seen: HashMap::new() }
    }

    /// From now on files are shown with the owners that a container with these ranges sees.
    pub fn seen_from_inside(&mut self, ids: Vec<IdMap>) {
        self.ids = ids;
    }

    /// Adds what a reference (`O_PATH`) leads to, under this name; not what is beneath it.
    pub fn add(&mut self, name: &[u8], reference: &OwnedFd) -> io::Result<()> {
        let stat = rustix::fs::fstat(reference)?;
        let Some(mut header) = entry(name.to_vec(), &stat, reference)? else { return Ok(()) };
        if !self.ids.is_empty() {
            header.uid = idmap::inside(&self.ids, IdKind::Users, header.uid).unwrap_or(idmap::NOBODY);
            header.gid = idmap::inside(&self.ids, IdKind::Groups, header.gid).unwrap_or(idmap::NOBODY);
        }
        if header.kind != Kind::File {
            return self.writer.header(&header);
        }
        if stat.st_nlink > 1 {
            match self.seen.get(&(stat.st_dev, stat.st_ino)) {
                Some(first) => {
                    header.link.clone_from(first);
                    header.kind = Kind::HardLink;
                    header.size = 0;
                    return self.writer.header(&header);
                }
                None => self.seen.insert((stat.st_dev, stat.st_ino), name.to_vec()),
            };
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(tree::by_fd(reference), flags, Mode::empty())?;
        self.writer.header(&header)?;
        self.writer.content(std::fs::File::from(file), header.size)
    }

    /// Adds a name of a directory; one that is gone by now is left out.
    pub fn add_child(&mut self, name: &[u8], dir: BorrowedFd<'_>, child: &[u8]) -> io::Result<()> {
        match tree::open_child(dir, child, OFlags::PATH) {
            Ok(reference) => self.add(name, &reference),
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Adds everything beneath a directory, its names behind `prefix`; `across` also what is mounted there.
    pub fn add_beneath(&mut self, prefix: &[u8], dir: BorrowedFd<'_>, across: bool) -> io::Result<()> {
        let mut visit =
            |found: tree::Entry<'_>| self.add_child(&join(prefix, found.path), found.dir, found.name);
        if across { tree::walk_across(dir, &mut visit) } else { tree::walk(dir, &mut visit) }
    }

    /// Says that something of this name is not there any more, in the way of layers.
    pub fn whiteout(&mut self, path: &[u8], mtime: i64) -> io::Result<()> {
        let (dir, name) = tree::split(path);
        let name = join(dir, &[b".wh.", name].concat());
        self.writer.header(&Header {
            path: name,
            link: Vec::new(),
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime,
            mtime_nsec: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        })
    }

    /// Ends the archive.
    pub fn finish(self) -> io::Result<W> {
        self.writer.finish()
    }
}

/// Opens a directory again for reading its entries.
pub fn readable(reference: impl AsFd) -> io::Result<OwnedFd> {
    Ok(tree::open_child(reference.as_fd(), b".", OFlags::RDONLY | OFlags::DIRECTORY)?)
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn names() {
        for (prefix, path, wanted) in
            [("", "a", "a"), ("a", "", "a"), ("a", "b", "a/b"), ("/", "b", "/b"), (".", "b/c", "./b/c")]
        {
            assert_eq!(join(prefix.as_bytes(), path.as_bytes()), wanted.as_bytes());
        }
    }
}
