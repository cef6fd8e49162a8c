//! Making an EROFS image of a layer's tar, without a file of the layer ever being made.
//!
//! The same rules as in [`unpack`](super::unpack), with overlay's whiteouts; the tree is the image's own, in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use wharf_erofs::{Kind as NodeKind, Meta, NodeId, Special, Writer};
use wharf_kernel::files::tree::{self, Tree, split};

use super::tar::{Header, Kind, Reader};
use super::unpack::{
    Budget, MEMORY, OPAQUE, OVERHEAD, Outcome, Rules, Whiteouts, blame, invalid, meta, normal, show, too_much,
};

/// Symbolic links followed on one path, as the kernel does.
const MAX_LINKS: u32 = 40;

struct Convert<'b> {
    writer: Writer,
    budget: &'b Budget,
    size: u64,
    entries: u64,
    /// Directories that had no entry of their own.
    implied: BTreeSet<Vec<u8>>,
    /// Hard links to files that may be in a lower layer: new name, target.
    dangling: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whiteouts made here.
    gone: BTreeSet<Vec<u8>>,
    /// Content records of the recipe: number and bytes.
    recorded: HashMap<NodeId, (u64, u64)>,
    /// The directory used last, by the name that the archive has for it.
    last: Option<(Vec<u8>, Dir)>,
    /// Bytes that all of these may still take.
    memory: usize,
    now: i64,
}

/// A directory, and its path without links.
#[derive(Debug, Clone)]
struct Dir {
    id: NodeId,
    path: Vec<u8>,
}

/// The content of an entry, which costs what it takes.
struct Spending<'a, 'r, R> {
    reader: &'a mut Reader<'r, R>,
    budget: &'a Budget,
}

impl<R: Read> Read for Spending<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.budget.spend(n as u64)?;
        Ok(n)
    }
}

/// Makes an image of everything in `reader`. Its directories are written when it is finished, so that it can be told
/// before how those look that the layer only implies ([`fill_in`]).
pub(crate) fn convert<R: Read>(
    reader: &mut Reader<'_, R>,
    file: File,
    budget: &Budget,
) -> io::Result<(Writer, Outcome)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut convert = Convert {
        writer: Writer::new(file)?,
        budget,
        size: 0,
        entries: 0,
        implied: BTreeSet::new(),
        dangling: BTreeMap::new(),
        gone: BTreeSet::new(),
        recorded: HashMap::new(),
        last: None,
        memory: MEMORY,
        now: i64::try_from(now).unwrap_or(0),
    };
    while let Some(header) = reader.next_entry()? {
        convert.entries += 1;
        budget.count(convert.entries)?;
        convert
            .entry(reader, &header)
            .map_err(|e| io::Error::new(blame(&e), format!("{}: {e}", show(&header.path))))?;
    }
    let outcome = Outcome {
        size: convert.size,
        entries: convert.entries,
        implied: convert.implied.into_iter().collect(),
        dangling: convert.dangling.into_iter().collect(),
    };
    Ok((convert.writer, outcome))
}

/// The attributes of an archive's entry, as the image wants them.
fn look(header: &Header) -> io::Result<Meta> {
    meta(header, &Rules::layer(Whiteouts::Overlay)).map(of_tree)
}

fn of_tree(meta: tree::Meta) -> Meta {
    let tree::Meta { uid, gid, mode, mtime, mtime_nsec, xattrs } = meta;
    Meta { uid, gid, mode, mtime, mtime_nsec, xattrs }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Takes a path and everything beneath it out.
fn forget(set: &mut BTreeSet<Vec<u8>>, path: &[u8]) {
    set.remove(path);
    let beneath = join(path, b"");
    while let Some(found) = set.range(beneath.clone()..).next().filter(|p| p.starts_with(&beneath)).cloned() {
        set.remove(&found);
    }
}

impl Convert<'_> {
    fn entry<R: Read>(&mut self, reader: &mut Reader<'_, R>, header: &Header) -> io::Result<()> {
        let path = normal(&header.path).ok_or_else(|| invalid("the name leads outside of the archive"))?;
        if matches!(header.kind, Kind::Other(_)) {
            return Ok(());
        }
        if path.is_empty() {
            if header.kind != Kind::Directory {
                return Err(invalid("the root of an archive must be a directory"));
            }
            return self.set_look(self.writer.root(), look(header)?);
        }
        let kept = if header.kind == Kind::Directory { header.xattrs.as_slice() } else { &[] };
        let xattrs: usize = kept.iter().map(|(name, value)| name.len() + value.len() + OVERHEAD).sum();
        self.memory = self
            .memory
            .checked_sub(path.len() + OVERHEAD + xattrs)
            .ok_or_else(|| too_much("has names and attributes without end"))?;
        let (dir, name) = split(&path);
        if let Some(name) = name.strip_prefix(b".wh.") {
            return self.whiteout(dir, name);
        }
        match header.kind {
            Kind::Directory => self.directory(dir, name, look(header)?, reader),
            Kind::File => self.file(dir, name, header, reader),
            Kind::HardLink => self.hard_link(&path, &header.link, reader),
            kind => {
                let dir = self.place(dir, name, reader)?;
                let meta = look(header)?;
                let (major, minor) = header.device;
                match kind {
                    Kind::Symlink => self.writer.symlink(dir.id, name, &meta, &header.link)?,
                    Kind::Fifo => self.writer.special(dir.id, name, &meta, Special::Fifo)?,
                    Kind::Character => {
                        self.writer.special(dir.id, name, &meta, Special::Character(major, minor))?
                    }
                    _ => self.writer.special(dir.id, name, &meta, Special::Block(major, minor))?,
                };
                Ok(())
            }
        }
    }

    /// Gives a directory its looks. What was said of the layers below stays said.
    fn set_look(&mut self, dir: NodeId, mut meta: Meta) -> io::Result<()> {
        let opaque = |meta: &Meta| meta.xattrs.iter().any(|(name, _)| name == OPAQUE.as_bytes());
        if opaque(self.writer.meta(dir)?) && !opaque(&meta) {
            meta.xattrs.push((OPAQUE.into(), b"y".to_vec()));
        }
        self.writer.set_meta(dir, meta)
    }

    /// Hides what the layers below have in a directory.
    fn make_opaque(&mut self, dir: NodeId) -> io::Result<()> {
        let mut meta = self.writer.meta(dir)?.clone();
        meta.xattrs.retain(|(name, _)| name != OPAQUE.as_bytes());
        meta.xattrs.push((OPAQUE.into(), b"y".to_vec()));
        self.writer.set_meta(dir, meta)
    }

    fn fresh_look(&self) -> Meta {
        Meta { mode: 0o755, mtime: self.now, ..Meta::default() }
    }

    /// The directory of a path. Links on the way lead where they lead from the root. With `make`, what is missing is
    /// made, but not where a link leads.
    fn walk(&mut self, path: &[u8], make: bool) -> io::Result<Dir> {
        if let Some((known, dir)) = &self.last
            && known == path
        {
            return Ok(dir.clone());
        }
        let parts = |path: &[u8], by_link: bool| -> Vec<(Vec<u8>, bool)> {
            path.split(|b| *b == b'/').map(|part| (part.to_vec(), by_link)).collect()
        };
        let mut todo: VecDeque<(Vec<u8>, bool)> = parts(path, false).into();
        let mut at = Dir { id: self.writer.root(), path: Vec::new() };
        let mut links = 0;
        while let Some((name, by_link)) = todo.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = Dir { id: self.writer.parent(at.id)?, path: split(&at.path).0.to_vec() };
                    continue;
                }
                _ => {}
            }
            let here = join(&at.path, &name);
            let Some(id) = self.writer.child(at.id, &name)? else {
                if !make {
                    return Err(Errno::NOENT.into());
                }
                if by_link {
                    return Err(Errno::EXIST.into());
                }
                let id = self.writer.directory(at.id, &name, self.fresh_look())?;
                self.implied.insert(here.clone());
                at = Dir { id, path: here };
                continue;
            };
            match self.writer.kind(id)? {
                NodeKind::Directory => at = Dir { id, path: here },
                NodeKind::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = self.writer.link_target(id)?.to_vec();
                    if target.starts_with(b"/") {
                        at = Dir { id: self.writer.root(), path: Vec::new() };
                    }
                    for part in parts(&target, true).into_iter().rev() {
                        todo.push_front(part);
                    }
                }
                // A whiteout of this layer stands where a directory of this layer shall be.
                NodeKind::Special if make && self.gone.remove(&here) => {
                    self.writer.remove(at.id, &name)?;
                    let id = self.writer.directory(at.id, &name, self.fresh_look())?;
                    self.make_opaque(id)?;
                    at = Dir { id, path: here };
                }
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        self.last = Some((path.to_vec(), at.clone()));
        Ok(at)
    }

    fn parent(&mut self, dir: &[u8]) -> io::Result<Dir> {
        self.walk(dir, true).map_err(|e| match Errno::from_io_error(&e) {
            Some(Errno::NOTDIR) => invalid("something that is no directory is in the way"),
            _ => e,
        })
    }

    /// Makes room for something new: its directory.
    fn place<R: Read>(&mut self, dir: &[u8], name: &[u8], reader: &mut Reader<'_, R>) -> io::Result<Dir> {
        let dir = self.parent(dir)?;
        if self.writer.child(dir.id, name)?.is_some() {
            self.clear_away(&dir, name, reader)?;
        }
        Ok(dir)
    }

    /// Removes what an earlier entry left. Content that the recipe relies on is saved.
    fn clear_away<R: Read>(&mut self, dir: &Dir, name: &[u8], reader: &mut Reader<'_, R>) -> io::Result<()> {
        self.last = None;
        let path = join(&dir.path, name);
        for id in self.writer.remove(dir.id, name)? {
            let Some((index, size)) = self.recorded.remove(&id) else { continue };
            if let Some(recipe) = reader.recipe() {
                self.budget.spend(size)?;
                recipe.replaced(index, size, &mut self.writer.content(id)?)?;
            }
        }
        forget(&mut self.implied, &path);
        forget(&mut self.gone, &path);
        let beneath = join(&path, b"");
        self.dangling.remove(&path);
        while let Some(found) = self
            .dangling
            .range(beneath.clone()..)
            .next()
            .map(|(path, _)| path)
            .filter(|p| p.starts_with(&beneath))
            .cloned()
        {
            self.dangling.remove(&found);
        }
        Ok(())
    }

    fn directory<R: Read>(
        &mut self,
        dir: &[u8],
        name: &[u8],
        meta: Meta,
        reader: &mut Reader<'_, R>,
    ) -> io::Result<()> {
        let dir = self.parent(dir)?;
        let path = join(&dir.path, name);
        let hides = match self.writer.child(dir.id, name)? {
            Some(id) if self.writer.kind(id)? == NodeKind::Directory => {
                // Merged with what is there; now it has an entry of its own.
                self.implied.remove(&path);
                return self.set_look(id, meta);
            }
            Some(_) => {
                let hides = self.gone.contains(&path);
                self.clear_away(&dir, name, reader)?;
                hides
            }
            None => false,
        };
        let id = self.writer.directory(dir.id, name, meta)?;
        if hides { self.make_opaque(id) } else { Ok(()) }
    }

    fn file<R: Read>(
        &mut self,
        dir: &[u8],
        name: &[u8],
        header: &Header,
        reader: &mut Reader<'_, R>,
    ) -> io::Result<()> {
        let dir = self.place(dir, name, reader)?;
        let meta = look(header)?;
        let size = header.size;
        if let Some(pieces) = &header.sparse {
            // Holes cost no disk but look like space to whoever copies the file.
            self.budget.spend(size)?;
            self.writer.sparse(dir.id, name, &meta, size, pieces, reader)?;
        } else {
            let mut record = None;
            if size > 0 {
                reader.content_is_at(&join(&dir.path, name))?;
                record = reader.recipe().map(|recipe| recipe.last());
            }
            let mut content = Spending { reader, budget: self.budget };
            let id = self.writer.file(dir.id, name, &meta, size, &mut content)?;
            if let Some(index) = record {
                self.recorded.insert(id, (index, size));
            }
        }
        self.size += size;
        Ok(())
    }

    fn hard_link<R: Read>(
        &mut self,
        path: &[u8],
        target: &[u8],
        reader: &mut Reader<'_, R>,
    ) -> io::Result<()> {
        let target =
            normal(target).ok_or_else(|| invalid("the target of a hard link lies outside of the archive"))?;
        if target.is_empty() {
            return Err(invalid("a hard link to the root"));
        }
        if target == path {
            return Err(invalid("a hard link to itself"));
        }
        let (dir, name) = split(path);
        let dir = self.place(dir, name, reader)?;
        let (target_dir, target_name) = split(&target);
        let found = match self.walk(target_dir, false) {
            Ok(target_dir) => self.writer.child(target_dir.id, target_name)?,
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOENT | Errno::NOTDIR)) => None,
            Err(e) => return Err(e),
        };
        let told = |e: io::Error| io::Error::new(e.kind(), format!("hard link to {}: {e}", show(&target)));
        match found {
            Some(id) if self.writer.kind(id)? == NodeKind::Directory => Err(told(Errno::PERM.into())),
            Some(id) => self.writer.hard_link(dir.id, name, id).map_err(told),
            None => {
                self.dangling.insert(join(&dir.path, name), target);
                Ok(())
            }
        }
    }

    fn whiteout(&mut self, dir: &[u8], name: &[u8]) -> io::Result<()> {
        if name == b".wh..opq" {
            let dir = if dir.is_empty() { self.writer.root() } else { self.walk(dir, true)?.id };
            return self.make_opaque(dir);
        }
        // Notes of aufs, from which this notation comes; they mean nothing elsewhere.
        if name.starts_with(b".wh.") {
            return Ok(());
        }
        if name.is_empty() || name == b"." || name == b".." {
            return Err(invalid("a whiteout of nothing"));
        }
        let dir = self.parent(dir)?;
        match self.writer.child(dir.id, name)? {
            None => {
                let meta = Meta { mode: 0, ..self.fresh_look() };
                self.writer.special(dir.id, name, &meta, Special::Character(0, 0))?;
                self.gone.insert(join(&dir.path, name));
                Ok(())
            }
            Some(id) if self.writer.kind(id)? == NodeKind::Directory => self.make_opaque(id),
            // This layer's own file hides the lower one anyway.
            Some(_) => Ok(()),
        }
    }
}

/// The directory of a path without links in an image that is being made.
fn find(writer: &Writer, path: &[u8]) -> io::Result<NodeId> {
    let mut at = writer.root();
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        at = writer.child(at, name)?.ok_or(io::ErrorKind::NotFound)?;
    }
    Ok(at)
}

/// Gives directories that a layer only implied the looks they have in the layers below, and brings up files that the
/// layer only links to.
pub(crate) fn fill_in(writer: &mut Writer, lower: OwnedFd, outcome: &Outcome) -> io::Result<()> {
    let lower = Tree::new(lower);
    let named = |path: &[u8], e: io::Error| io::Error::new(blame(&e), format!("{}: {e}", show(path)));
    for (name, target) in &outcome.dangling {
        bring_up(writer, &lower, name, target).map_err(|e| named(name, e))?;
    }
    for path in &outcome.implied {
        let Ok(below) = lower.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) else {
            continue;
        };
        let looks = tree::Meta::of(&below).map_err(|e| named(path, e.into()))?;
        let dir = find(writer, path).map_err(|e| named(path, e))?;
        let mut meta = of_tree(looks);
        meta.xattrs.extend(writer.meta(dir)?.xattrs.iter().cloned());
        writer.set_meta(dir, meta).map_err(|e| named(path, e))?;
    }
    Ok(())
}

fn bring_up(writer: &mut Writer, lower: &Tree, name: &[u8], target: &[u8]) -> io::Result<()> {
    let found = lower.open(target, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = rustix::fs::fstat(&found)?;
    let meta =
        of_tree(tree::Meta { xattrs: tree::xattrs(&tree::by_fd(&found))?, ..tree::Meta::of_stat(&stat) });
    let (dir, leaf) = split(name);
    let dir = find(writer, dir)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let mut from = File::from(lower.open(target, OFlags::RDONLY | OFlags::NOFOLLOW)?);
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            writer.file(dir, leaf, &meta, size, &mut from)?;
        }
        FileType::Symlink => {
            let (from, from_leaf) = split(target);
            let from = lower.open(from, OFlags::PATH | OFlags::DIRECTORY)?;
            let target = tree::read_link(from.as_fd(), from_leaf)?;
            writer.symlink(dir, leaf, &meta, &target)?;
        }
        _ => return Err(Errno::PERM.into()),
    }
    Ok(())
}
