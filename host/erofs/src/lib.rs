//! A writer of EROFS images: a layer's files as one immutable, uncompressed file system in one file.
//!
//! The content of files goes straight through to the image as it arrives; the tree of names is kept in memory and
//! written by [`Writer::finish`], so until then names can be added, replaced and removed. Nothing is read back but
//! content that is asked for with [`Writer::content`].
//!
//! Format: `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h` of Linux. Of it: 4 KiB blocks, extended
//! inodes, inline extended attributes, the flat layouts (the last part of a file next to its inode where it fits), and
//! chunks for files with holes. Every kernel since 5.15 reads that.
#![forbid(unsafe_code)]

mod finish;
mod layout;
mod out;
mod tree;
mod writer;

pub use tree::{Kind, NodeId};
pub use writer::{Special, Writer, Written};

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// Owner, permissions, time and extended attributes.
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
    /// Names (`user.…`, `trusted.…`, `security.…`, `system.posix_acl_…`) and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}
