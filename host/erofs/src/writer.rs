//! Adding files to an image.

use std::fs::File;
use std::io::{self, Read};

use crate::layout::{self, Data, INODE, Inode, MAX_BLOCKS, SLOT};
use crate::out::Out;
use crate::tree::{Kind, More, Node, NodeId, Nodes};
use crate::{BLOCK, Meta};

/// Blocks with inodes that are not full yet; with several, the last parts of files find room more often.
const OPEN: usize = 8;
/// Bytes of content moved at once.
const PIECE: usize = 256 << 10;
/// Chunks that one file with holes is divided into at most.
const MAX_CHUNKS: u64 = 16_384;
/// A chunk that is a hole.
const HOLE: u32 = u32::MAX;

pub(crate) const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFSOCK: u32 = 0o140_000;

/// A file that has no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Character device: major, minor. 0, 0 is overlay's mark that a name of the layers below is gone.
    Character(u32, u32),
    /// Block device: major, minor.
    Block(u32, u32),
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

/// What [`Writer::finish`] made.
#[derive(Debug)]
pub struct Written {
    /// The image, complete.
    pub file: File,
    /// Bytes from its first to its last.
    pub size: u64,
    /// Files and directories in it.
    pub inodes: u64,
}

/// A file's content, read from the image.
#[derive(Debug)]
pub struct Content<'a> {
    out: &'a mut Out,
    start: u64,
    size: u64,
    tail: u64,
    done: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let whole = self.size - self.size % BLOCK as u64;
        let (at, left) = if self.done < whole {
            (self.start + self.done, whole - self.done)
        } else {
            (self.tail + self.done - whole, self.size - self.done)
        };
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let Some(part) = buffer.get_mut(..want).filter(|part| !part.is_empty()) else { return Ok(0) };
        self.out.read(at, part)?;
        self.done += want as u64;
        Ok(want)
    }
}

/// A block with inodes that has room left.
#[derive(Debug)]
struct Shelf {
    at: u64,
    bytes: Vec<u8>,
}

/// An image in the making. After an error the file is of no use.
#[derive(Debug)]
pub struct Writer {
    pub(crate) out: Out,
    pub(crate) nodes: Nodes,
    shelves: Vec<Shelf>,
    pub(crate) chunked: bool,
    piece: Vec<u8>,
}

impl Writer {
    /// Begins an image in a file that is empty and can be read and written.
    pub fn new(file: File) -> io::Result<Self> {
        let mut out = Out::new(file);
        // Block 0 is written at the end.
        out.append(&[0; BLOCK])?;
        Ok(Self { out, nodes: Nodes::new(), shelves: Vec::new(), chunked: false, piece: Vec::new() })
    }

    /// The root directory: mode 0755, root's, until told otherwise.
    pub fn root(&self) -> NodeId {
        Nodes::ROOT
    }

    /// What a node is.
    pub fn kind(&self, id: NodeId) -> io::Result<Kind> {
        Ok(match self.nodes.get(id)?.more {
            More::Directory(_) => Kind::Directory,
            More::File { .. } | More::Sparse => Kind::File,
            More::Symlink(_) => Kind::Symlink,
            More::Special => Kind::Special,
        })
    }

    /// The node of a name in a directory.
    pub fn child(&self, dir: NodeId, name: &[u8]) -> io::Result<Option<NodeId>> {
        Ok(self.nodes.directory(dir)?.entries.get(name).copied())
    }

    /// The directory that a directory is in; the root is in itself.
    pub fn parent(&self, dir: NodeId) -> io::Result<NodeId> {
        Ok(self.nodes.directory(dir)?.parent)
    }

    /// Where a symbolic link leads.
    pub fn link_target(&self, id: NodeId) -> io::Result<&[u8]> {
        match &self.nodes.get(id)?.more {
            More::Symlink(target) => Ok(target),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// How a directory looks.
    pub fn meta(&self, dir: NodeId) -> io::Result<&Meta> {
        Ok(&self.nodes.directory(dir)?.meta)
    }

    /// Makes a directory look otherwise.
    pub fn set_meta(&mut self, dir: NodeId, meta: Meta) -> io::Result<()> {
        // What cannot be written must not be found out at the end, when nobody knows which name it was.
        layout::xattrs(&meta.xattrs)?;
        self.nodes.directory_mut(dir)?.meta = meta;
        Ok(())
    }

    /// Makes a directory.
    pub fn directory(&mut self, dir: NodeId, name: &[u8], meta: Meta) -> io::Result<NodeId> {
        layout::xattrs(&meta.xattrs)?;
        let directory =
            crate::tree::Directory { meta, parent: dir, entries: std::collections::BTreeMap::new() };
        let more = More::Directory(Box::new(directory));
        self.nodes.add(dir, name, Node { at: 0, links: 1, file_type: 2, more })
    }

    /// Makes a file of `size` bytes of content, which must be there.
    pub fn file(
        &mut self,
        dir: NodeId,
        name: &[u8],
        meta: &Meta,
        size: u64,
        content: &mut impl Read,
    ) -> io::Result<NodeId> {
        self.nodes.check_free(dir, name)?;
        let xattrs = layout::xattrs(&meta.xattrs)?;
        let start = self.room(size)?;
        let tail = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        let mut left = size - tail as u64;
        let mut piece = std::mem::take(&mut self.piece);
        piece.resize(PIECE, 0);
        while left > 0 {
            let want = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
            let part = piece.get_mut(..want).unwrap_or_default();
            content.read_exact(part)?;
            self.out.append(part)?;
            left -= want as u64;
        }
        let rest = piece.get_mut(..tail).unwrap_or_default();
        content.read_exact(rest)?;
        let inline = tail > 0 && INODE + xattrs.len() + tail <= BLOCK;
        let data = if inline { Data::Inline(start) } else { Data::Plain(start) };
        let mut record = self.inode(meta, S_IFREG, size, data)?.encode(&xattrs);
        let mut tail_at = (u64::from(start) + size / BLOCK as u64) * BLOCK as u64;
        if inline {
            record.extend_from_slice(rest);
        } else if tail > 0 {
            self.out.append(rest)?;
            self.out.pad()?;
        }
        let at = self.place(&record)?;
        if inline {
            tail_at = at + (record.len() - tail) as u64;
        }
        self.piece = piece;
        let more = More::File { start, size, tail: tail_at };
        self.nodes.add(dir, name, Node { at, links: 1, file_type: 1, more })
    }

    /// Makes a file of `size` bytes with holes. `pieces` are offset and length of what is in `content`, in order and
    /// within the file.
    pub fn sparse(
        &mut self,
        dir: NodeId,
        name: &[u8],
        meta: &Meta,
        size: u64,
        pieces: &[(u64, u64)],
        content: &mut impl Read,
    ) -> io::Result<NodeId> {
        self.nodes.check_free(dir, name)?;
        let xattrs = layout::xattrs(&meta.xattrs)?;
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "File too large");
        let bits = (0..=31u16)
            .find(|bits| size.div_ceil((BLOCK as u64) << bits) <= MAX_CHUNKS)
            .filter(|_| i64::try_from(size).is_ok())
            .ok_or_else(too_large)?;
        let chunk = (BLOCK as u64) << bits;
        let count = usize::try_from(size.div_ceil(chunk)).unwrap_or(0);
        let mut map = vec![HOLE; count];
        let mut piece = std::mem::take(&mut self.piece);
        piece.resize(PIECE, 0);
        let mut end = 0;
        for (offset, length) in pieces {
            if *offset < end || offset.checked_add(*length).is_none_or(|end| end > size) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "bad map of a sparse file"));
            }
            end = offset + length;
            let mut at = *offset;
            while at < end {
                let index = at / chunk;
                let within = at - index * chunk;
                let want = PIECE
                    .min(usize::try_from(end - at).unwrap_or(PIECE))
                    .min(usize::try_from(chunk - within).unwrap_or(PIECE));
                let slot =
                    usize::try_from(index).ok().and_then(|index| map.get_mut(index)).ok_or_else(too_large)?;
                if *slot == HOLE {
                    // As much of the chunk as the file has; what is not written to takes no disk.
                    let bytes = chunk.min(size - index * chunk).next_multiple_of(BLOCK as u64);
                    self.out.pad()?;
                    *slot = self.room(bytes)?;
                    self.out.skip(bytes)?;
                }
                let base = u64::from(*slot) * BLOCK as u64;
                let part = piece.get_mut(..want).unwrap_or_default();
                content.read_exact(part)?;
                self.out.patch(base + within, part)?;
                at += want as u64;
            }
        }
        self.piece = piece;
        self.chunked = true;
        let mut record = self.inode(meta, S_IFREG, size, Data::Chunks(bits))?.encode(&xattrs);
        record.extend(map.iter().flat_map(|block| block.to_le_bytes()));
        let at = self.place(&record)?;
        self.nodes.add(dir, name, Node { at, links: 1, file_type: 1, more: More::Sparse })
    }

    /// Makes a symbolic link.
    pub fn symlink(&mut self, dir: NodeId, name: &[u8], meta: &Meta, target: &[u8]) -> io::Result<NodeId> {
        self.nodes.check_free(dir, name)?;
        if target.is_empty() || target.len() >= BLOCK || target.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "bad target of a symbolic link"));
        }
        let xattrs = layout::xattrs(&meta.xattrs)?;
        let inline = INODE + xattrs.len() + target.len() <= BLOCK;
        let start = self.room(BLOCK as u64)?;
        let data = if inline { Data::Inline(start) } else { Data::Plain(start) };
        // The permissions of a link are always all.
        let meta = Meta { mode: 0o777, ..meta.clone() };
        let mut record = self.inode(&meta, S_IFLNK, target.len() as u64, data)?.encode(&xattrs);
        if inline {
            record.extend_from_slice(target);
        } else {
            self.out.append(target)?;
            self.out.pad()?;
        }
        let at = self.place(&record)?;
        self.nodes.add(dir, name, Node { at, links: 1, file_type: 7, more: More::Symlink(target.into()) })
    }

    /// Makes a device, pipe or socket.
    pub fn special(&mut self, dir: NodeId, name: &[u8], meta: &Meta, special: Special) -> io::Result<NodeId> {
        self.nodes.check_free(dir, name)?;
        let xattrs = layout::xattrs(&meta.xattrs)?;
        let (kind, file_type, device) = match special {
            Special::Character(major, minor) => (S_IFCHR, 3, layout::device(major, minor)),
            Special::Block(major, minor) => (S_IFBLK, 4, layout::device(major, minor)),
            Special::Fifo => (S_IFIFO, 5, 0),
            Special::Socket => (S_IFSOCK, 6, 0),
        };
        let record = self.inode(meta, kind, 0, Data::Device(device))?.encode(&xattrs);
        let at = self.place(&record)?;
        self.nodes.add(dir, name, Node { at, links: 1, file_type, more: More::Special })
    }

    /// Gives a node that is no directory one more name.
    pub fn hard_link(&mut self, dir: NodeId, name: &[u8], id: NodeId) -> io::Result<()> {
        self.nodes.link(dir, name, id)
    }

    /// Takes a name away with everything beneath. Answers which nodes lost a name by that, directories aside; their
    /// content can still be read.
    pub fn remove(&mut self, dir: NodeId, name: &[u8]) -> io::Result<Vec<NodeId>> {
        self.nodes.remove(dir, name)
    }

    /// A file's content, to read it again; also of one that has lost all its names. Not of a file with holes.
    pub fn content(&mut self, id: NodeId) -> io::Result<Content<'_>> {
        let More::File { start, size, tail } = self.nodes.get(id)?.more else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // The last part may be in a block that is still open.
        self.put_away(0)?;
        Ok(Content { out: &mut self.out, start: u64::from(start) * BLOCK as u64, size, tail, done: 0 })
    }

    fn inode<'m>(&self, meta: &'m Meta, kind: u32, size: u64, data: Data) -> io::Result<Inode<'m>> {
        Ok(Inode { meta, kind, size, links: 1, number: self.nodes.next()?.0 + 1, data })
    }

    /// The block at the end, if so many bytes can follow.
    pub(crate) fn room(&self, bytes: u64) -> io::Result<u32> {
        let block = self.out.end() / BLOCK as u64;
        if block.saturating_add(bytes / BLOCK as u64).saturating_add(2) > MAX_BLOCKS {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large for one image"));
        }
        Ok(u32::try_from(block).unwrap_or(0))
    }

    /// Writes an inode with what belongs to it where there is room. What is longer than a block gets blocks of its own.
    fn place(&mut self, record: &[u8]) -> io::Result<u64> {
        if record.len() > BLOCK {
            self.room(record.len() as u64)?;
            let at = self.out.end();
            self.out.append(record)?;
            self.out.pad()?;
            return Ok(at);
        }
        let fits = |shelf: &&mut Shelf| shelf.bytes.len().next_multiple_of(SLOT) + record.len() <= BLOCK;
        if let Some(shelf) = self.shelves.iter_mut().find(fits) {
            let from = shelf.bytes.len().next_multiple_of(SLOT);
            shelf.bytes.resize(from, 0);
            shelf.bytes.extend_from_slice(record);
            return Ok(shelf.at + from as u64);
        }
        self.room(BLOCK as u64)?;
        self.put_away(OPEN - 1)?;
        let at = self.out.end();
        self.out.append(&[0; BLOCK])?;
        self.shelves.push(Shelf { at, bytes: record.to_vec() });
        Ok(at)
    }

    /// Writes the fullest open blocks until so many are left.
    pub(crate) fn put_away(&mut self, left: usize) -> io::Result<()> {
        while self.shelves.len() > left {
            let fullest = self.shelves.iter().enumerate().max_by_key(|(_, shelf)| shelf.bytes.len());
            let Some((index, _)) = fullest else { break };
            let shelf = self.shelves.swap_remove(index);
            self.out.patch(shelf.at, &shelf.bytes)?;
        }
        Ok(())
    }
}
