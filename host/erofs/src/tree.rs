//! The names of an image that is being made.

use std::collections::BTreeMap;
use std::io;

use crate::Meta;

/// Something in the image: a file may have several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A device, pipe or socket.
    Special,
}

#[derive(Debug)]
pub(crate) struct Node {
    /// Where its inode is; 0 until a directory is placed.
    pub(crate) at: u64,
    /// Names that it has.
    pub(crate) links: u32,
    /// The kind as directory entries tell it.
    pub(crate) file_type: u8,
    pub(crate) more: More,
}

#[derive(Debug)]
pub(crate) enum More {
    Directory(Box<Directory>),
    /// First block, bytes, and where the last part is that fills no block.
    File {
        start: u32,
        size: u64,
        tail: u64,
    },
    /// A file with holes; its content is not read back.
    Sparse,
    Symlink(Box<[u8]>),
    Special,
}

#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) meta: Meta,
    pub(crate) parent: NodeId,
    pub(crate) entries: BTreeMap<Box<[u8]>, NodeId>,
}

/// All nodes; the first is the root.
#[derive(Debug)]
pub(crate) struct Nodes(Vec<Node>);

fn no_directory() -> io::Error {
    io::Error::from(io::ErrorKind::NotADirectory)
}

impl Nodes {
    pub(crate) const ROOT: NodeId = NodeId(0);

    pub(crate) fn new() -> Self {
        let root = Directory {
            meta: Meta { mode: 0o755, ..Meta::default() },
            parent: Self::ROOT,
            entries: BTreeMap::new(),
        };
        Self(vec![Node { at: 0, links: 1, file_type: 2, more: More::Directory(Box::new(root)) }])
    }

    pub(crate) fn get(&self, id: NodeId) -> io::Result<&Node> {
        self.0.get(id.0 as usize).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> io::Result<&mut Node> {
        self.0.get_mut(id.0 as usize).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The number that the next node gets.
    pub(crate) fn next(&self) -> io::Result<NodeId> {
        u32::try_from(self.0.len())
            .map(NodeId)
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "too many files for one image"))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Node> {
        self.0.iter()
    }

    pub(crate) fn directory(&self, id: NodeId) -> io::Result<&Directory> {
        match &self.get(id)?.more {
            More::Directory(directory) => Ok(directory),
            _ => Err(no_directory()),
        }
    }

    pub(crate) fn directory_mut(&mut self, id: NodeId) -> io::Result<&mut Directory> {
        match &mut self.get_mut(id)?.more {
            More::Directory(directory) => Ok(directory),
            _ => Err(no_directory()),
        }
    }

    /// Whether `name` may be given in `dir`: it is a name, and free.
    pub(crate) fn check_free(&self, dir: NodeId, name: &[u8]) -> io::Result<()> {
        if name.len() > 255 {
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, "File name too long"));
        }
        if name.is_empty() || name == b"." || name == b".." || name.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file name"));
        }
        if self.directory(dir)?.entries.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, dir: NodeId, name: &[u8], node: Node) -> io::Result<NodeId> {
        self.check_free(dir, name)?;
        let id = self.next()?;
        self.0.push(node);
        self.directory_mut(dir)?.entries.insert(name.into(), id);
        Ok(id)
    }

    pub(crate) fn link(&mut self, dir: NodeId, name: &[u8], id: NodeId) -> io::Result<()> {
        self.check_free(dir, name)?;
        let node = self.get_mut(id)?;
        if matches!(node.more, More::Directory(_)) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        node.links = node.links.checked_add(1).ok_or(io::ErrorKind::TooManyLinks)?;
        self.directory_mut(dir)?.entries.insert(name.into(), id);
        Ok(())
    }

    /// Takes a name away with everything beneath. Answers what of it was no directory.
    pub(crate) fn remove(&mut self, dir: NodeId, name: &[u8]) -> io::Result<Vec<NodeId>> {
        let Some(top) = self.directory_mut(dir)?.entries.remove(name) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut gone = Vec::new();
        let mut todo = vec![top];
        while let Some(id) = todo.pop() {
            let node = self.get_mut(id)?;
            node.links = node.links.saturating_sub(1);
            match &mut node.more {
                More::Directory(directory) => {
                    todo.extend(std::mem::take(&mut directory.entries).into_values());
                }
                _ => gone.push(id),
            }
        }
        Ok(gone)
    }
}
