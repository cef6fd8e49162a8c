//! Bytes of the format.

use std::io;

use crate::{BLOCK, Meta};

/// Where the superblock begins in block 0.
pub(crate) const SUPER: usize = 1024;
/// Where the root's inode is: right behind the superblock, as its number has 16 bits only.
pub(crate) const ROOT: usize = SUPER + 128;
/// Inodes lie at multiples of this.
pub(crate) const SLOT: usize = 32;
/// Bytes of an extended inode.
pub(crate) const INODE: usize = 64;
/// Where an inode's count of links is.
pub(crate) const NLINK_AT: u64 = 44;
/// Blocks that 32 bits can number.
pub(crate) const MAX_BLOCKS: u64 = u32::MAX as u64 - 1;

const MAGIC: u32 = 0xe0f5_e1e2;
/// The superblock has a checksum; times are those of the last change of content.
const COMPAT: u32 = 1 | 2;
/// Some files are in chunks.
const INCOMPAT_CHUNKED: u32 = 4;

/// How an inode says where its data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// In whole blocks from this one on.
    Plain(u32),
    /// As `Plain`, the last part behind the inode.
    Inline(u32),
    /// A list of chunks of `BLOCK << bits` bytes behind the inode.
    Chunks(u16),
    /// None; a device's number.
    Device(u32),
}

/// An extended inode without what follows it.
pub(crate) struct Inode<'a> {
    pub(crate) meta: &'a Meta,
    /// `S_IFREG` and so on.
    pub(crate) kind: u32,
    pub(crate) size: u64,
    pub(crate) links: u32,
    pub(crate) number: u32,
    pub(crate) data: Data,
}

impl Inode<'_> {
    /// The inode and its attributes.
    pub(crate) fn encode(&self, xattrs: &[u8]) -> Vec<u8> {
        let (layout, place) = match self.data {
            Data::Plain(block) => (0u16, block),
            Data::Device(number) => (0, number),
            Data::Inline(block) => (2, block),
            Data::Chunks(bits) => (4, u32::from(bits)),
        };
        let mode = u16::try_from(self.kind | (self.meta.mode & 0o7777)).unwrap_or(0);
        let mut out = Vec::with_capacity(INODE + xattrs.len());
        // The lowest bit: extended.
        out.extend_from_slice(&(layout << 1 | 1).to_le_bytes());
        out.extend_from_slice(&xattr_count(xattrs).to_le_bytes());
        out.extend_from_slice(&mode.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&place.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.meta.uid.to_le_bytes());
        out.extend_from_slice(&self.meta.gid.to_le_bytes());
        out.extend_from_slice(&self.meta.mtime.to_le_bytes());
        out.extend_from_slice(&self.meta.mtime_nsec.min(999_999_999).to_le_bytes());
        out.extend_from_slice(&self.links.to_le_bytes());
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(xattrs);
        out
    }
}

/// A device's number as the kernel's `new_encode_dev` writes it.
pub(crate) fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// The header in front of attributes.
const XATTR_HEADER: usize = 12;

/// What an inode says of the size of its attributes: four-byte units, the header counting as one.
fn xattr_count(xattrs: &[u8]) -> u16 {
    match xattrs.len() {
        0 => 0,
        length => u16::try_from(length.saturating_sub(XATTR_HEADER) / 4 + 1).unwrap_or(u16::MAX),
    }
}

fn bad(name: &[u8], what: &str) -> io::Error {
    let name: String = String::from_utf8_lossy(name).chars().take(100).flat_map(char::escape_debug).collect();
    io::Error::new(io::ErrorKind::InvalidInput, format!("extended attribute {name}: {what}"))
}

/// Attributes as they stand behind an inode; empty if there are none. The last of equal names counts.
pub(crate) fn xattrs(list: &[(Vec<u8>, Vec<u8>)]) -> io::Result<Vec<u8>> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let mut out = vec![0; XATTR_HEADER];
    for (at, (name, value)) in list.iter().enumerate() {
        if list.iter().skip(at + 1).any(|(later, _)| later == name) {
            continue;
        }
        let (index, rest) = prefix(name).ok_or_else(|| bad(name, "Operation not supported"))?;
        verify(name, value)?;
        let length = u8::try_from(rest.len()).map_err(|_| bad(name, "the name is too long"))?;
        let size = u16::try_from(value.len()).map_err(|_| bad(name, "the value is too long"))?;
        out.extend_from_slice(&[length, index]);
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(rest);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    if out.len() > XATTR_HEADER + 4 * (usize::from(u16::MAX) - 1) {
        return Err(bad(b"", "all of a file together are too long"));
    }
    Ok(out)
}

/// The number of a name's first part, and the rest of the name.
fn prefix(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    [(1, b"user.".as_slice()), (4, b"trusted."), (6, b"security.")]
        .into_iter()
        .find_map(|(index, start)| name.strip_prefix(start).map(|rest| (index, rest)))
        .filter(|(_, rest)| !rest.is_empty() && !rest.contains(&0))
}

/// What `setxattr` would refuse on a file system that can be written to must not get in here either.
fn verify(name: &[u8], value: &[u8]) -> io::Result<()> {
    let word = |at: usize| {
        value.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(u32::from_le_bytes)
    };
    let sound = match name {
        b"security.capability" => {
            // Revisions 1 to 3 of `struct vfs_cap_data` and their sizes.
            matches!(
                (word(0).map(|magic| magic >> 24), value.len()),
                (Some(1), 12) | (Some(2), 20) | (Some(3), 24)
            )
        }
        b"system.posix_acl_access" | b"system.posix_acl_default" => {
            word(0) == Some(2) && value.len() > 4 && (value.len() - 4).is_multiple_of(8)
        }
        _ => true,
    };
    if sound { Ok(()) } else { Err(bad(name, "Invalid argument")) }
}

/// One entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    /// Number of the inode.
    pub(crate) nid: u64,
    /// Kind, as in `DT_…` but counted otherwise.
    pub(crate) kind: u8,
}

const DIRENT: usize = 12;

/// A directory's blocks; the last is as short as it can be. Entries must be sorted by the bytes of their names.
pub(crate) fn directory(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let (count, length) = fits(rest.iter().map(|entry| entry.name.len()));
        let (now, later) = rest.split_at(count.min(rest.len()));
        let mut at = now.len() * DIRENT;
        for entry in now {
            out.extend_from_slice(&entry.nid.to_le_bytes());
            out.extend_from_slice(&u16::try_from(at).unwrap_or(0).to_le_bytes());
            out.extend_from_slice(&[entry.kind, 0]);
            at += entry.name.len();
        }
        for entry in now {
            out.extend_from_slice(entry.name);
        }
        if !later.is_empty() {
            out.resize(out.len() + BLOCK - length, 0);
        }
        rest = later;
    }
    out
}

/// Bytes that [`directory`] makes of names of these lengths.
pub(crate) fn directory_size(names: impl Iterator<Item = usize> + Clone) -> u64 {
    let mut size = 0;
    let mut rest = names;
    loop {
        let (count, length) = fits(rest.clone());
        let mut later = rest;
        if let Some(skip) = count.checked_sub(1) {
            later.nth(skip);
        }
        if later.clone().next().is_none() {
            return size + length as u64;
        }
        size += BLOCK as u64;
        rest = later;
    }
}

/// How many entries go into one block, and the bytes that they take.
fn fits(names: impl Iterator<Item = usize>) -> (usize, usize) {
    let (mut count, mut length) = (0, 0);
    for name in names {
        if length + DIRENT + name > BLOCK {
            break;
        }
        count += 1;
        length += DIRENT + name;
    }
    (count, length)
}

/// What the superblock tells.
pub(crate) struct Super {
    pub(crate) inodes: u64,
    pub(crate) blocks: u32,
    pub(crate) chunked: bool,
    pub(crate) built: u64,
}

impl Super {
    /// Writes it into block 0, which must be complete otherwise: the checksum covers what follows in that block.
    pub(crate) fn encode(&self, block: &mut [u8; BLOCK]) {
        let mut fields = [0u8; 128];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(part) = fields.get_mut(at..at + bytes.len()) {
                part.copy_from_slice(bytes);
            }
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &COMPAT.to_le_bytes());
        put(12, &[12]); // 2^12 bytes a block
        put(14, &u16::try_from(ROOT / SLOT).unwrap_or(0).to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(24, &self.built.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        // Inodes are numbered from block 0 on, and no attribute is shared: 40 and 44 stay zero.
        put(80, &(if self.chunked { INCOMPAT_CHUNKED } else { 0 }).to_le_bytes());
        if let Some(part) = block.get_mut(SUPER..SUPER + 128) {
            part.copy_from_slice(&fields);
        }
        let sum = crc32c(block.get(SUPER..).unwrap_or_default());
        if let Some(part) = block.get_mut(SUPER + 4..SUPER + 8) {
            part.copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// CRC-32C without the final inversion, as the kernel counts. Of one block per image: no table is worth it.
fn crc32c(data: &[u8]) -> u32 {
    data.iter().fold(!0, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| {
                if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The check value of the Rocksoft model catalogue, before its final inversion.
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn directories_measure_as_they_are_written() {
        for (count, length) in [(2, 1), (100, 3), (340, 1), (341, 1), (300, 255), (1000, 17)] {
            let name = vec![b'x'; length];
            let entries: Vec<Entry<'_>> = (0..count).map(|nid| Entry { name: &name, nid, kind: 1 }).collect();
            let written = directory(&entries);
            assert_eq!(directory_size(entries.iter().map(|e| e.name.len())), written.len() as u64);
            assert_eq!(written.len().div_ceil(BLOCK), entries.len().div_ceil(BLOCK / (DIRENT + length)));
        }
    }

    #[test]
    fn attributes_that_no_file_system_takes_are_refused() {
        let one = |name: &[u8], value: &[u8]| xattrs(&[(name.to_vec(), value.to_vec())]);
        let huge = vec![0; 65_536];
        for (name, value) in [
            (b"user.".as_slice(), b"x".as_slice()),
            (b"system.nfs4_acl", b"x"),
            (b"nothing", b"x"),
            (b"user.a\0b", b"x"),
            (b"security.capability", b"short"),
            (b"security.capability", &[0; 20]),
            (b"system.posix_acl_access", b"garbage"),
            (b"user.x", huge.as_slice()),
        ] {
            assert!(one(name, value).is_err(), "{}", String::from_utf8_lossy(name));
        }
        assert_eq!(one(b"user.x", b"12345").unwrap().len(), XATTR_HEADER + 4 + 1 + 5 + 2);
        let twice = [(b"user.x".to_vec(), b"1".to_vec()), (b"user.x".to_vec(), b"2".to_vec())];
        assert_eq!(xattrs(&twice).unwrap(), one(b"user.x", b"2").unwrap());
        let many: Vec<_> = (0..40).map(|n| (format!("user.{n}").into_bytes(), vec![0; 60_000])).collect();
        assert!(xattrs(&many).is_err());
    }

    #[test]
    fn devices_are_numbered_as_the_kernel_does() {
        assert_eq!(device(5, 1), 0x501);
        assert_eq!(device(0xfff, 0xf_ffff), 0xffff_ffff);
        assert_eq!(device(8, 0x1234), 0x0120_0834);
    }
}
