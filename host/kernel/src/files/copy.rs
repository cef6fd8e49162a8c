//! Copies of whole trees that keep everything `stat` and `getxattr` can tell.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::tree::{self, Meta, Tree};

/// Copies `source` (an `O_PATH` descriptor) to a new name in `dir`. With `reflink` files share their blocks where the
/// file system can; without it, and elsewhere, holes stay holes. Hard links within the tree stay hard links.
pub(super) fn copy(
    source: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &[u8],
    reflink: bool,
) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(source)?;
    if !FileType::from_raw_mode(stat.st_mode).is_dir() {
        let from = tree::by_fd(&source);
        let file = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Some(rustix::fs::open(
                from.as_str(),
                OFlags::RDONLY | OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )?),
            _ => None,
        };
        let link = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => Some(rustix::fs::readlinkat(source, "", Vec::new())?.into_bytes()),
            _ => None,
        };
        let meta = Meta { xattrs: attributes(&from)?, ..Meta::of_stat(&stat) };
        return leaf(file.as_ref(), link.as_deref(), &stat, &meta, dir, name, &mut { reflink });
    }
    let from = tree::open_child(source, b".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let made = tree::make_dir(dir, name)?;
    let mut target = Tree::new(rustix::io::fcntl_dupfd_cloexec(&made, 0)?);
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    // Times of directories change while they fill, so they are set last.
    let mut dirs: Vec<(Vec<u8>, Meta)> = Vec::new();
    let mut clone = reflink;
    tree::walk::<Errno>(from.as_fd(), &mut |entry| {
        let (parent, _) = tree::split(entry.path);
        let to = target.dir(parent)?;
        let kind = FileType::from_raw_mode(entry.stat.st_mode);
        if kind.is_dir() {
            let opened = tree::open_child(entry.dir, entry.name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            tree::make_dir(to.as_fd(), entry.name)?;
            dirs.push((entry.path.to_vec(), Meta::of(&opened)?));
            return Ok(());
        }
        if entry.stat.st_nlink > 1 {
            let key = (entry.stat.st_dev, entry.stat.st_ino);
            if let Some(first) = links.get(&key) {
                let (first_dir, first_name) = tree::split(first);
                let first_dir = target.open(first_dir, super::DIR)?;
                return tree::hard_link(first_dir.as_fd(), first_name, to.as_fd(), entry.name);
            }
            links.insert(key, entry.path.to_vec());
        }
        let handle = tree::open_child(entry.dir, entry.name, OFlags::PATH)?;
        let meta = Meta { xattrs: attributes(&tree::by_fd(&handle))?, ..Meta::of_stat(&entry.stat) };
        let file = if kind.is_file() {
            Some(tree::open_child(entry.dir, entry.name, OFlags::RDONLY)?)
        } else {
            None
        };
        let link = if kind.is_symlink() { Some(tree::read_link(entry.dir, entry.name)?) } else { None };
        leaf(file.as_ref(), link.as_deref(), &entry.stat, &meta, to.as_fd(), entry.name, &mut clone)
    })?;
    for (path, meta) in dirs.iter().rev() {
        meta.set_open(target.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
    }
    Meta::of(&from)?.set_open(&made)
}

/// What a copy gets: the marks that this host gives its own files stay where they are.
fn attributes(path: &str) -> Result<tree::Xattrs, Errno> {
    let mut found = tree::xattrs(path)?;
    found.retain(|(name, _)| !name.starts_with(super::OWN_XATTRS.as_bytes()));
    Ok(found)
}

fn leaf(
    file: Option<&OwnedFd>,
    link: Option<&[u8]>,
    stat: &Stat,
    meta: &Meta,
    dir: BorrowedFd<'_>,
    name: &[u8],
    clone: &mut bool,
) -> Result<(), Errno> {
    if let Some(file) = file {
        let out = tree::create_file(dir, name)?;
        content(file, out.as_fd(), u64::try_from(stat.st_size).unwrap_or(0), clone)?;
        return meta.set_open(&out);
    }
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match (FileType::from_raw_mode(stat.st_mode), link) {
        (_, Some(target)) => tree::symlink(target, dir, name)?,
        (FileType::CharacterDevice, _) => tree::node(dir, name, tree::Node::Character(major, minor))?,
        (FileType::BlockDevice, _) => tree::node(dir, name, tree::Node::Block(major, minor))?,
        (FileType::Fifo, _) => tree::node(dir, name, tree::Node::Fifo)?,
        (FileType::Socket, _) => tree::node(dir, name, tree::Node::Socket)?,
        _ => return Err(Errno::INVAL),
    }
    meta.set_at(dir, name)
}

/// Copies a file's bytes: shared blocks, else in the kernel, else by hand; only where there is data.
fn content(from: &OwnedFd, to: BorrowedFd<'_>, size: u64, clone: &mut bool) -> Result<(), Errno> {
    if size == 0 {
        return Ok(());
    }
    if *clone {
        match rustix::fs::ioctl_ficlone(to, from) {
            Ok(()) => return Ok(()),
            // Not on this file system; do not ask for every file.
            Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL) => *clone = false,
            Err(e) => return Err(e),
        }
    }
    rustix::fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole from here on.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        range(from, to, start, end)?;
        at = end.max(start + 1);
    }
    Ok(())
}

fn range(from: &OwnedFd, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<(), Errno> {
    let (mut input, mut output) = (start, start);
    while input < end {
        let want = usize::try_from(end - input).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut input), to, Some(&mut output), want) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => break,
            Err(e) => return Err(e),
        }
    }
    let mut buffer = vec![0u8; 128 << 10];
    while input < end {
        let want = usize::try_from(end - input).unwrap_or(usize::MAX).min(buffer.len());
        let chunk = buffer.get_mut(..want).ok_or(Errno::INVAL)?;
        let n = rustix::io::pread(from, chunk, input)?;
        if n == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < n {
            let more = rustix::io::pwrite(to, buffer.get(written..n).unwrap_or_default(), output)?;
            written += more;
            output += more as u64;
        }
        input += n as u64;
    }
    Ok(())
}
