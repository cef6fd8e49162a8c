//! Taking a layer's tar apart beneath a directory descriptor.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use wharf_kernel::files::tree::{self, Meta, Tree, split};
use wharf_plan::idmap;
use wharf_plan::types::{IdKind, IdMap};

use super::blocks::fill;
use super::tar::{Header, Kind, Reader};

/// Bytes that one layer's names and attributes may take up in memory until it is unpacked: some million ordinary files.
pub(super) const MEMORY: usize = 256 << 20;
/// What an entry takes up beside its name and attributes, about.
pub(super) const OVERHEAD: usize = 64;

/// How "this file of a lower layer is gone" is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whiteouts {
    /// In overlay's way; the directory is one layer by itself.
    Overlay,
    /// By deleting; the directory holds the lower layers' files too.
    Delete,
    /// Not at all: a name that starts with `.wh.` is just a name.
    Plain,
}

/// What is left of the disk space and time that an archive may take; shared by its layers.
#[derive(Debug)]
pub struct Budget {
    bytes: AtomicU64,
    entries: u64,
    cancelled: AtomicBool,
}

impl Budget {
    /// So many bytes altogether and so many entries per layer.
    pub fn new(bytes: u64, entries: u64) -> Self {
        Self { bytes: AtomicU64::new(bytes), entries, cancelled: AtomicBool::new(false) }
    }

    /// Makes whoever works on it stop soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> io::Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(io::Error::other("cancelled")) } else { Ok(()) }
    }

    /// Whether a layer may have so many entries.
    pub(crate) fn count(&self, entries: u64) -> io::Result<()> {
        if entries > self.entries {
            return Err(too_much(&format!("has a layer with more than {} entries", self.entries)));
        }
        self.check()
    }

    pub(crate) fn spend(&self, bytes: u64) -> io::Result<()> {
        self.check()?;
        self.bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .map(drop)
            .map_err(|_| too_much("unpacks to more than is allowed"))
    }
}

pub(super) fn too_much(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("the archive {what}"))
}

/// What was made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes of file content.
    pub size: u64,
    /// Entries.
    pub entries: u64,
    /// Directories that had no entry of their own; those of a lower layer should look as they do there.
    pub implied: Vec<Vec<u8>>,
    /// Hard links to files that are not here but may be in a lower layer: new name, target.
    pub dangling: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How entries of an archive become files.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// What names that start with `.wh.` mean.
    pub whiteouts: Whiteouts,
    /// Who owns everything, whatever the archive says.
    pub owner: Option<(u32, u32)>,
    /// How ids of the archive (and of `owner`) become those of files; empty leaves them.
    pub ids: &'a [IdMap],
    /// A directory never takes the place of something else, nor something else that of a directory.
    pub keep_kinds: bool,
    /// An entry for the root of the archive says how the directory looks that it is unpacked into.
    pub root_meta: bool,
}

impl Rules<'_> {
    /// Those of a layer.
    pub fn layer(whiteouts: Whiteouts) -> Self {
        Self { whiteouts, owner: None, ids: &[], keep_kinds: false, root_meta: true }
    }
}

struct Unpack<'b> {
    tree: Tree,
    /// Where in the tree everything goes.
    at: &'b [u8],
    rules: Rules<'b>,
    whiteouts: Whiteouts,
    budget: &'b Budget,
    outcome: Outcome,
    /// Times of directories change while they fill, so they are set last.
    dirs: BTreeMap<Vec<u8>, Meta>,
    /// Content records of the recipe by path.
    recorded: BTreeMap<Vec<u8>, (u64, u64)>,
    /// Overlay whiteouts made here.
    gone: HashSet<Vec<u8>>,
    /// With `Delete`: what this layer brought, which its whiteouts do not touch.
    own: HashSet<Vec<u8>>,
    /// Bytes that all of these may still take.
    memory: usize,
    buffer: Vec<u8>,
}

/// Bytes of a file after which the disk begins to write them, so that the flush at the end finds little to do.
const WRITE_OUT: u64 = 8 << 20;
/// Files of fewer bytes are left to that flush.
const WORTH_IT: u64 = 128 << 10;

/// Whether all of it is zeros. What is not says so in its first bytes nearly always.
fn is_zero(piece: &[u8]) -> bool {
    let (words, rest) = piece.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Begins to write a part of a file to the disk, without waiting. Only makes a later flush shorter, so failures do not
/// matter: the flush will tell of them.
fn writeback(file: &std::fs::File, offset: u64, length: u64) {
    if let Err(error) = wharf_kernel::sys::file::start_writeback(file.as_fd(), offset, length) {
        tracing::trace!(%error, "could not begin to write out");
    }
}

/// Unpacks everything in `reader` into `root`. On error the directory is to be thrown away.
pub fn unpack<R: Read>(
    reader: &mut Reader<'_, R>,
    root: OwnedFd,
    whiteouts: Whiteouts,
    budget: &Budget,
) -> io::Result<Outcome> {
    unpack_at(reader, Tree::new(root), b"", Rules::layer(whiteouts), budget)
}

/// Unpacks everything in `reader` into the directory `at` of a tree. Links on the way lead where they lead from the
/// tree's root.
pub fn unpack_at<R: Read>(
    reader: &mut Reader<'_, R>,
    tree: Tree,
    at: &[u8],
    rules: Rules<'_>,
    budget: &Budget,
) -> io::Result<Outcome> {
    let mut unpack = Unpack {
        tree,
        at,
        rules,
        whiteouts: rules.whiteouts,
        budget,
        outcome: Outcome::default(),
        dirs: BTreeMap::new(),
        recorded: BTreeMap::new(),
        gone: HashSet::new(),
        own: HashSet::new(),
        memory: MEMORY,
        buffer: vec![0; 256 << 10],
    };
    while let Some(header) = reader.next_entry()? {
        unpack.outcome.entries += 1;
        budget.count(unpack.outcome.entries)?;
        let shown = show(&header.path);
        unpack.entry(reader, &header).map_err(|e| match e.kind() {
            // Says of what it is.
            io::ErrorKind::AlreadyExists if e.raw_os_error().is_none() => e,
            _ => io::Error::new(blame(&e), format!("{shown}: {e}")),
        })?;
    }
    unpack.finish()
}

/// Whose fault an error is: the disk's, or (names too long, files where directories should be) the archive's.
pub(crate) fn blame(e: &io::Error) -> io::ErrorKind {
    use io::ErrorKind as Kind;
    match e.kind() {
        Kind::StorageFull
        | Kind::QuotaExceeded
        | Kind::ReadOnlyFilesystem
        | Kind::OutOfMemory
        | Kind::FileTooLarge
        | Kind::UnexpectedEof
        | Kind::Other => e.kind(),
        _ if e.raw_os_error().is_some_and(|n| n == Errno::IO.raw_os_error()) => e.kind(),
        _ => Kind::InvalidData,
    }
}

/// A name from an archive for people.
pub(crate) fn show(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(200).flat_map(char::escape_debug).collect();
    format!("\"{text}\"")
}

/// A name in an archive as a path from the root: no empty, `.` or `..` component. None if it leaves the root.
pub(crate) fn normal(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

pub(super) fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Extended attributes of archives that are kept. Those with which overlay steers itself and with which this
/// host marks its own files are not theirs to set, nor are labels of this host's security modules.
fn kept(name: &[u8]) -> bool {
    let own = wharf_kernel::files::OWN_XATTRS.as_bytes();
    if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") || name.starts_with(own) {
        return false;
    }
    name == b"security.capability"
        || name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name.starts_with(b"system.posix_acl_")
}

pub(super) fn meta(header: &Header, rules: &Rules<'_>) -> io::Result<Meta> {
    let (uid, gid) = rules.owner.unwrap_or((header.uid, header.gid));
    let mapped = |id: u32, kind: IdKind| match rules.ids {
        [] => Ok(id),
        ids => idmap::outside(ids, kind, id)
            .ok_or_else(|| invalid(format!("Container ID {id} cannot be mapped to a host ID"))),
    };
    let (uid, gid) = (mapped(uid, IdKind::Users)?, mapped(gid, IdKind::Groups)?);
    Ok(Meta {
        uid,
        gid,
        mode: header.mode,
        mtime: header.mtime,
        mtime_nsec: header.mtime_nsec,
        xattrs: header.xattrs.iter().filter(|(name, _)| kept(name)).cloned().collect(),
    })
}

/// Sets what can be set: a file system without extended attributes still takes the rest, as with Docker.
fn set(meta: &mut Meta, apply: impl Fn(&Meta) -> Result<(), Errno>) -> Result<(), Errno> {
    match apply(meta) {
        Err(Errno::OPNOTSUPP) if !meta.xattrs.is_empty() => {
            meta.xattrs.clear();
            apply(meta)
        }
        other => other,
    }
}

/// Overlay's mark of a directory that hides what layers below have in it.
pub(super) const OPAQUE: &str = "trusted.overlay.opaque";

impl Unpack<'_> {
    fn entry<R: Read>(&mut self, reader: &mut Reader<'_, R>, header: &Header) -> io::Result<()> {
        let path = normal(&header.path).ok_or_else(|| invalid("the name leads outside of the archive"))?;
        if matches!(header.kind, Kind::Other(_)) {
            return Ok(());
        }
        if path.is_empty() {
            if header.kind != Kind::Directory {
                return Err(invalid("the root of an archive must be a directory"));
            }
            if self.rules.root_meta {
                self.dirs.insert(path, meta(header, &self.rules)?);
            }
            return Ok(());
        }
        let path = self.placed(path);
        // Attributes are kept for directories only, which get theirs when they are full.
        let kept = if header.kind == Kind::Directory { header.xattrs.as_slice() } else { &[] };
        self.remember(&path, kept)?;
        if self.rules.keep_kinds {
            self.check_kind(&path, header.kind == Kind::Directory)?;
        }
        if self.whiteouts != Whiteouts::Plain {
            let (dir, name) = split(&path);
            if let Some(name) = name.strip_prefix(b".wh.") {
                return self.whiteout(dir, name);
            }
        }
        if self.whiteouts == Whiteouts::Delete {
            let mut at: &[u8] = &path;
            while !at.is_empty() && self.own.insert(at.to_vec()) {
                at = split(at).0;
            }
        }
        let mut meta = meta(header, &self.rules)?;
        match header.kind {
            Kind::Directory => self.directory(reader, &path, meta)?,
            Kind::File => self.file(reader, &path, header, &mut meta)?,
            Kind::HardLink => self.hard_link(reader, &path, &header.link)?,
            _ => {
                let (parent, name) = self.place(reader, &path)?;
                let dir = parent.as_fd();
                match header.kind {
                    Kind::Symlink => tree::symlink(&header.link, dir, name)?,
                    Kind::Fifo => tree::node(dir, name, tree::Node::Fifo)?,
                    Kind::Character => {
                        let (major, minor) = header.device;
                        tree::node(dir, name, tree::Node::Character(major, minor))?;
                    }
                    _ => tree::node(dir, name, tree::Node::Block(header.device.0, header.device.1))?,
                }
                set(&mut meta, |m| m.set_at(dir, name))?;
            }
        }
        Ok(())
    }

    /// Counts what is remembered of an entry: one that compresses to nothing may still have a name of kilobytes, and
    /// attributes of a megabyte, which the layer's global header can give to each of a million entries.
    fn remember(&mut self, path: &[u8], xattrs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
        let xattrs: usize = xattrs.iter().map(|(name, value)| name.len() + value.len() + OVERHEAD).sum();
        let more = path.len() + OVERHEAD + xattrs;
        self.memory =
            self.memory.checked_sub(more).ok_or_else(|| too_much("has names and attributes without end"))?;
        Ok(())
    }

    /// A path of the archive as one of the tree.
    fn placed(&self, path: Vec<u8>) -> Vec<u8> {
        if self.at.is_empty() { path } else { [self.at, b"/", &path].concat() }
    }

    fn check_kind(&mut self, path: &[u8], directory: bool) -> io::Result<()> {
        let there = match self.tree.stat(path) {
            Err(Errno::NOENT) => return Ok(()),
            other => FileType::from_raw_mode(other?.st_mode).is_dir(),
        };
        let (from, to) = match (there, directory) {
            (true, false) => ("directory", "non-directory"),
            (false, true) => ("non-directory", "directory"),
            _ => return Ok(()),
        };
        let rooted = |path: &[u8]| show(&[b"/", path].concat());
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("cannot overwrite {from} {} with {to} {}", rooted(path), rooted(self.at)),
        ))
    }

    /// The directory that shall hold `path`, made if absent.
    fn parent(&mut self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        self.dir_or_make(split(path).0)
    }

    /// A directory, made if absent.
    fn dir_or_make(&mut self, dir: &[u8]) -> io::Result<Arc<OwnedFd>> {
        for _ in 0..2 {
            let implied = &mut self.outcome.implied;
            match self.tree.dir_or_make(dir, &mut |made| implied.push(made.to_vec())) {
                // A whiteout of this layer may stand where a directory of this layer shall be.
                Err(Errno::NOTDIR) if self.replace_whiteout_above(dir)? => {}
                Err(Errno::NOTDIR) => return Err(invalid("something that is no directory is in the way")),
                other => return Ok(other?),
            }
        }
        Err(Errno::NOTDIR.into())
    }

    fn replace_whiteout_above(&mut self, dir: &[u8]) -> io::Result<bool> {
        let mut at = dir;
        while !at.is_empty() {
            if self.gone.remove(at) {
                let at = at.to_vec();
                self.tree.remove(&at)?;
                let (parent, name) = split(&at);
                let parent = self.tree.dir(parent)?;
                let made = tree::make_dir(parent.as_fd(), name)?;
                tree::set_xattr(&made, OPAQUE, b"y")?;
                self.dirs.insert(at, Meta { mode: 0o755, ..Meta::default() });
                return Ok(true);
            }
            at = split(at).0;
        }
        Ok(false)
    }

    /// Makes room for something new at `path`: its directory and its name there.
    fn place<'p, R: Read>(
        &mut self,
        reader: &mut Reader<'_, R>,
        path: &'p [u8],
    ) -> io::Result<(Arc<OwnedFd>, &'p [u8])> {
        let parent = self.parent(path)?;
        let (_, name) = split(path);
        match self.tree.stat(path) {
            Err(Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
            Ok(_) => self.clear_away(reader, path)?,
        }
        Ok((parent, name))
    }

    /// Removes what an earlier entry or a lower layer left at `path`. Content that the recipe relies on is saved.
    fn clear_away<R: Read>(&mut self, reader: &mut Reader<'_, R>, path: &[u8]) -> io::Result<()> {
        let mut beneath = path.to_vec();
        beneath.push(b'/');
        let lost: Vec<Vec<u8>> = self
            .recorded
            .range(path.to_vec()..)
            .map(|(known, _)| known)
            .take_while(|known| known.starts_with(path))
            .filter(|known| known.as_slice() == path || known.starts_with(&beneath))
            .cloned()
            .collect();
        for known in lost {
            let Some((index, size)) = self.recorded.remove(&known) else { continue };
            if let Some(recipe) = reader.recipe() {
                self.budget.spend(size)?;
                let file = self.tree.open(&known, OFlags::RDONLY | OFlags::NOFOLLOW)?;
                recipe.replaced(index, size, &mut std::fs::File::from(file))?;
            }
        }
        let stale: Vec<Vec<u8>> = self
            .dirs
            .range(path.to_vec()..)
            .map(|(known, _)| known)
            .take_while(|known| known.starts_with(path))
            .filter(|known| known.as_slice() == path || known.starts_with(&beneath))
            .cloned()
            .collect();
        for known in stale {
            self.dirs.remove(&known);
        }
        self.outcome.implied.retain(|known| known != path && !known.starts_with(&beneath));
        self.outcome.dangling.retain(|(known, _)| known != path && !known.starts_with(&beneath));
        self.gone.retain(|known| known != path && !known.starts_with(&beneath));
        self.tree.remove(path)?;
        Ok(())
    }

    fn directory<R: Read>(&mut self, reader: &mut Reader<'_, R>, path: &[u8], meta: Meta) -> io::Result<()> {
        let parent = self.parent(path)?;
        let (_, name) = split(path);
        match tree::make_dir(parent.as_fd(), name) {
            Ok(_) => {}
            Err(Errno::EXIST) => {
                let stat = self.tree.stat(path)?;
                if FileType::from_raw_mode(stat.st_mode).is_dir() {
                    // Merged with what is there; now it has an entry of its own.
                    self.outcome.implied.retain(|known| known != path);
                } else {
                    let hides = self.gone.contains(path);
                    self.clear_away(reader, path)?;
                    let made = tree::make_dir(parent.as_fd(), name)?;
                    if hides {
                        tree::set_xattr(&made, OPAQUE, b"y")?;
                    }
                }
            }
            Err(e) => return Err(e.into()),
        }
        self.dirs.insert(path.to_vec(), meta);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        reader: &mut Reader<'_, R>,
        path: &[u8],
        header: &Header,
        meta: &mut Meta,
    ) -> io::Result<()> {
        let parent = self.parent(path)?;
        let (_, name) = split(path);
        let file = match tree::create_file(parent.as_fd(), name) {
            Err(Errno::EXIST) => {
                self.clear_away(reader, path)?;
                tree::create_file(parent.as_fd(), name)?
            }
            other => other?,
        };
        match &header.sparse {
            None => {
                if header.size > 0 {
                    reader.content_is_at(path)?;
                    if let Some(recipe) = reader.recipe() {
                        self.recorded.insert(path.to_vec(), (recipe.last(), header.size));
                    }
                }
                let mut file = &file;
                let (mut written, mut begun) = (0u64, 0u64);
                let mut holes = false;
                loop {
                    let n = fill(reader, &mut self.buffer)?;
                    if n == 0 {
                        break;
                    }
                    self.budget.spend(n as u64)?;
                    let piece = self.buffer.get(..n).unwrap_or_default();
                    // What is nothing but zeros needs no disk.
                    holes = is_zero(piece);
                    if holes {
                        io::Seek::seek_relative(&mut file, i64::try_from(n).unwrap_or(i64::MAX))?;
                    } else {
                        io::Write::write_all(&mut file, piece)?;
                    }
                    written += n as u64;
                    if written - begun >= WRITE_OUT || (written == header.size && written >= WORTH_IT) {
                        writeback(file, begun, written - begun);
                        begun = written;
                    }
                }
                if holes {
                    file.set_len(written)?;
                }
            }
            Some(pieces) => {
                // Holes cost no disk but look like space to whoever copies the file.
                self.budget.spend(header.size)?;
                file.set_len(header.size)?;
                for (offset, length) in pieces {
                    let mut at = *offset;
                    let mut left = *length;
                    while left > 0 {
                        let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                        let part = self.buffer.get_mut(..want).unwrap_or_default();
                        reader.read_exact(part)?;
                        file.write_all_at(part, at)?;
                        at += want as u64;
                        left -= want as u64;
                    }
                }
            }
        }
        self.outcome.size += header.size;
        set(meta, |m| m.set_open(&file))?;
        Ok(())
    }

    fn hard_link<R: Read>(
        &mut self,
        reader: &mut Reader<'_, R>,
        path: &[u8],
        target: &[u8],
    ) -> io::Result<()> {
        let target =
            normal(target).ok_or_else(|| invalid("the target of a hard link lies outside of the archive"))?;
        if target.is_empty() {
            return Err(invalid("a hard link to the root"));
        }
        let target = self.placed(target);
        if target == path {
            return Err(invalid("a hard link to itself"));
        }
        let (parent, name) = self.place(reader, path)?;
        let (target_dir, target_name) = split(&target);
        let linked = self
            .tree
            .open(target_dir, OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|dir| tree::hard_link(dir.as_fd(), target_name, parent.as_fd(), name));
        match linked {
            Ok(()) => {
                // An inode of two names must not lose its content to a whiteout of one of them: nothing to record.
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOTDIR) if self.whiteouts == Whiteouts::Overlay => {
                self.outcome.dangling.push((path.to_vec(), target));
                Ok(())
            }
            Err(e) => Err(io::Error::new(
                io::Error::from(e).kind(),
                format!("hard link to {}: {}", show(&target), io::Error::from(e)),
            )),
        }
    }

    fn whiteout(&mut self, dir: &[u8], name: &[u8]) -> io::Result<()> {
        let mut path = dir.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        if name == b".wh..opq" {
            return self.opaque(dir);
        }
        // Notes of aufs, from which this notation comes; they mean nothing elsewhere.
        if name.starts_with(b".wh.") {
            return Ok(());
        }
        if name.is_empty() || name == b"." || name == b".." {
            return Err(invalid("a whiteout of nothing"));
        }
        if self.whiteouts == Whiteouts::Delete {
            // Only what lower layers brought, whatever the order of entries here.
            if self.own.contains(&path) {
                return Ok(());
            }
            return match self.tree.remove(&path) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
                Err(e) => Err(e.into()),
            };
        }
        let parent = self.parent(&path)?;
        match self.tree.stat(&path) {
            Err(Errno::NOENT) => {
                tree::node(parent.as_fd(), name, tree::Node::Character(0, 0))?;
                self.gone.insert(path);
                Ok(())
            }
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_dir() => self.opaque(&path),
            // This layer's own file hides the lower one anyway.
            Ok(_) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn opaque(&mut self, dir: &[u8]) -> io::Result<()> {
        if self.whiteouts == Whiteouts::Delete {
            let Ok(opened) = self.tree.open(dir, OFlags::RDONLY | OFlags::DIRECTORY) else { return Ok(()) };
            let mut lower = Vec::new();
            for entry in rustix::fs::Dir::read_from(&opened)? {
                let name = entry?.file_name().to_bytes().to_vec();
                if name != b"." && name != b".." {
                    lower.push(name);
                }
            }
            for name in lower {
                let mut path = dir.to_vec();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&name);
                if !self.own.contains(&path) {
                    self.tree.remove(&path)?;
                }
            }
            return Ok(());
        }
        if dir.is_empty() {
            let root = self.tree.open(b"", OFlags::RDONLY | OFlags::DIRECTORY)?;
            return Ok(tree::set_xattr(&root, OPAQUE, b"y")?);
        }
        self.dir_or_make(dir)?;
        let opened = self.tree.open(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(tree::set_xattr(&opened, OPAQUE, b"y")?)
    }

    fn finish(mut self) -> io::Result<Outcome> {
        for (path, meta) in std::mem::take(&mut self.dirs).iter_mut().rev() {
            let dir = match self.tree.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                Ok(dir) => dir,
                // Something else took its place later, under another name of the directory above.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            set(meta, |m| m.set_open(&dir)).map_err(|e| {
                let e = io::Error::from(e);
                io::Error::new(e.kind(), format!("{}: {e}", show(path)))
            })?;
        }
        Ok(self.outcome)
    }
}
