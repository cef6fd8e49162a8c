//! Directories and the superblock, written when all names are known.

use std::io;

use crate::layout::{self, Data, Entry, INODE, Inode, NLINK_AT, ROOT, SLOT, Super};
use crate::tree::{Directory, NodeId, Nodes};
use crate::writer::{S_IFDIR, Writer, Written};
use crate::{BLOCK, Meta};

/// Where a directory goes.
struct Placed {
    id: NodeId,
    at: u64,
    /// First block of the entries that are not behind the inode.
    start: u32,
    /// Bytes of all entries.
    size: u64,
    inline: bool,
    subdirectories: u32,
}

impl Placed {
    /// Entries that are behind the inode.
    fn tail(&self) -> usize {
        if self.inline { usize::try_from(self.size % BLOCK as u64).unwrap_or(0) } else { 0 }
    }

    /// Bytes in blocks.
    fn in_blocks(&self) -> u64 {
        (self.size - self.tail() as u64).next_multiple_of(BLOCK as u64)
    }
}

impl Writer {
    /// Writes the directories and the superblock. `built` is the time of the image, in seconds since 1970.
    pub fn finish(mut self, built: u64) -> io::Result<Written> {
        self.put_away(0)?;
        self.correct_links()?;
        let base = self.out.end();
        let (mut placed, region) = self.place_directories(base)?;
        let mut block = (base + region) / BLOCK as u64;
        for directory in &mut placed {
            let blocks = directory.in_blocks() / BLOCK as u64;
            directory.start = u32::try_from(block).unwrap_or(0);
            block += blocks;
        }
        if block > layout::MAX_BLOCKS {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large for one image"));
        }
        let mut front = [0u8; BLOCK];
        for directory in &placed {
            let record = self.record(directory)?;
            if directory.id == Nodes::ROOT {
                front
                    .get_mut(ROOT..ROOT + record.len())
                    .ok_or_else(|| io::Error::other("the root directory does not fit"))?
                    .copy_from_slice(&record);
                continue;
            }
            let gap = usize::try_from(directory.at - self.out.end()).unwrap_or(0);
            self.out.append(&vec![0; gap])?;
            self.out.append(&record)?;
        }
        self.out.pad()?;
        for directory in placed.iter().filter(|directory| directory.in_blocks() > 0) {
            let mut entries = self.entries(directory.id)?;
            entries.truncate(entries.len() - directory.tail());
            self.out.append(&entries)?;
            self.out.pad()?;
        }
        let size = self.out.end();
        let files = self.nodes.all().filter(|node| node.links > 0 && node.file_type != 2).count();
        let inodes = (placed.len() + files) as u64;
        let blocks = u32::try_from(size / BLOCK as u64).unwrap_or(u32::MAX);
        Super { inodes, blocks, chunked: self.chunked, built }.encode(&mut front);
        self.out.patch(0, &front)?;
        Ok(Written { file: self.out.finish()?, size, inodes })
    }

    /// Files were written with one name each.
    fn correct_links(&mut self) -> io::Result<()> {
        let several: Vec<(u64, u32)> = self
            .nodes
            .all()
            .filter(|node| node.links > 1)
            .map(|node| (node.at + NLINK_AT, node.links))
            .collect();
        several.into_iter().try_for_each(|(at, links)| self.out.patch(at, &links.to_le_bytes()))
    }

    /// Gives every directory that can be reached its place, the root's first. Answers also the bytes that their inodes
    /// take from `base` on.
    fn place_directories(&mut self, base: u64) -> io::Result<(Vec<Placed>, u64)> {
        let mut placed = Vec::new();
        let mut next = base;
        let mut todo = vec![Nodes::ROOT];
        while let Some(id) = todo.pop() {
            let directory = self.nodes.directory(id)?;
            let fixed = INODE + layout::xattrs(&directory.meta.xattrs)?.len();
            let size = layout::directory_size(names(directory).into_iter().map(<[u8]>::len));
            let tail = usize::try_from(size % BLOCK as u64).unwrap_or(0);
            let room = if id == Nodes::ROOT { BLOCK - ROOT } else { BLOCK };
            if id == Nodes::ROOT && fixed > room {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the extended attributes of the root directory are too long",
                ));
            }
            let inline = tail > 0 && fixed + tail <= room;
            let length = fixed + if inline { tail } else { 0 };
            let children: Vec<NodeId> = directory.entries.values().copied().collect();
            let at = if id == Nodes::ROOT {
                ROOT as u64
            } else {
                let mut at = next.next_multiple_of(SLOT as u64);
                if at / BLOCK as u64 != (at + length as u64 - 1) / BLOCK as u64 {
                    at = at.next_multiple_of(BLOCK as u64);
                }
                next = at + length as u64;
                at
            };
            self.nodes.get_mut(id)?.at = at;
            let mut subdirectories = 0;
            for child in children {
                if self.nodes.directory(child).is_ok() {
                    subdirectories += 1;
                    todo.push(child);
                }
            }
            placed.push(Placed { id, at, start: 0, size, inline, subdirectories });
        }
        Ok((placed, next.next_multiple_of(BLOCK as u64) - base))
    }

    /// A directory's inode with what belongs to it.
    fn record(&self, placed: &Placed) -> io::Result<Vec<u8>> {
        let meta: &Meta = &self.nodes.directory(placed.id)?.meta;
        let data = if placed.inline { Data::Inline(placed.start) } else { Data::Plain(placed.start) };
        let inode = Inode {
            meta,
            kind: S_IFDIR,
            size: placed.size,
            links: placed.subdirectories.saturating_add(2),
            number: placed.id.0 + 1,
            data,
        };
        let mut record = inode.encode(&layout::xattrs(&meta.xattrs)?);
        if placed.inline {
            let entries = self.entries(placed.id)?;
            record.extend_from_slice(entries.get(entries.len() - placed.tail()..).unwrap_or_default());
        }
        Ok(record)
    }

    fn entries(&self, id: NodeId) -> io::Result<Vec<u8>> {
        let directory = self.nodes.directory(id)?;
        let number = |id: NodeId| -> io::Result<u64> { Ok(self.nodes.get(id)?.at / SLOT as u64) };
        let mut entries = Vec::with_capacity(directory.entries.len() + 2);
        for name in names(directory) {
            let child = match name {
                b"." => id,
                b".." => directory.parent,
                name => *directory.entries.get(name).ok_or(io::ErrorKind::NotFound)?,
            };
            entries.push(Entry { name, nid: number(child)?, kind: self.nodes.get(child)?.file_type });
        }
        Ok(layout::directory(&entries))
    }
}

/// The names of a directory as they are listed: sorted by their bytes, with the two that every directory has.
fn names(directory: &Directory) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> = directory.entries.keys().map(AsRef::as_ref).collect();
    names.extend([b".".as_slice(), b".."]);
    names.sort_unstable();
    names
}
