//! A directory of the host with a further entry that the host does not have.

use std::fs::{DirBuilder, FileType};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::about;
use super::bundle::{attach_to, document};
use crate::mount::{self, Flags};

/// What lies in the directory.
enum Entry {
    Link(PathBuf),
    Directory(OwnedFd),
    /// A file of any kind.
    File(OwnedFd),
}

fn entry(path: &Path, kind: FileType) -> Result<Entry, String> {
    if kind.is_symlink() {
        return std::fs::read_link(path).map(Entry::Link).map_err(|e| format!("{}: {e}", path.display()));
    }
    let tree = mount::bind_path(path, kind.is_dir()).map_err(about(path.display()))?;
    Ok(if kind.is_dir() { Entry::Directory(tree) } else { Entry::File(tree) })
}

/// Makes the directory `missing` where its parent lacks it: in this mount namespace alone, by another parent over the one that
/// is there, which shows all that it has. What the host adds to the parent itself later is not seen, what it adds further below
/// is. To be called in a mount namespace of one's own.
pub fn with_directory(missing: &Path) -> Result<(), String> {
    let Some(parent) = missing.parent().filter(|_| !missing.is_dir()) else { return Ok(()) };
    let text = |e: std::io::Error| format!("{}: {e}", parent.display());
    let mut all = Vec::new();
    for found in std::fs::read_dir(parent).map_err(text)? {
        let found = found.map_err(text)?;
        match found.file_type().map_err(|e| e.to_string()).and_then(|kind| entry(&found.path(), kind)) {
            Ok(entry) => all.push((found.path(), entry)),
            // Gone since it was listed, or nothing that can be shown.
            Err(error) => tracing::debug!(error, path = %found.path().display(), "not shown"),
        }
    }
    let flags = Flags { no_suid: true, no_dev: true, ..Flags::default() };
    let other = mount::tmpfs(&["mode=755", "size=1m"], flags).map_err(about("another directory"))?;
    attach_to(other.as_fd(), parent)?;
    let directory = |path: &Path, mode| {
        DirBuilder::new().mode(mode).create(path).map_err(|e| format!("cannot make {}: {e}", path.display()))
    };
    for (path, entry) in all {
        match entry {
            Entry::Link(target) => std::os::unix::fs::symlink(target, &path)
                .map_err(|e| format!("cannot make {}: {e}", path.display()))?,
            Entry::Directory(tree) => {
                directory(&path, 0o755)?;
                attach_to(tree.as_fd(), &path)?;
            }
            Entry::File(tree) => {
                document(&path, b"", 0o600)?;
                attach_to(tree.as_fd(), &path)?;
            }
        }
    }
    directory(missing, 0o711)
}

#[cfg(test)]
mod tests {
    use super::super::{apart, private_mounts};
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// Needs root.
    #[test]
    fn the_host_does_not_see_what_is_added() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("sub/deep")).unwrap();
        std::fs::write(at("file"), "f").unwrap();
        std::os::unix::fs::symlink("sub", at("link")).unwrap();
        let socket = UnixListener::bind(at("socket")).unwrap();
        let missing = at("added");
        apart(|| {
            private_mounts().unwrap();
            with_directory(&missing).unwrap();
            std::fs::write(missing.join("own"), "x").unwrap();
            assert_eq!(std::fs::read_to_string(at("file")).unwrap(), "f");
            assert!(at("link/deep").is_dir());
            UnixStream::connect(at("socket")).unwrap();
            // Both ways: what is written further below is the host's.
            std::fs::write(at("sub/new"), "n").unwrap();
            // A second time there is nothing to do.
            with_directory(&missing).unwrap();
            assert!(missing.join("own").exists());
        })
        .unwrap();
        drop(socket);
        assert!(!missing.exists());
        assert_eq!(std::fs::read_to_string(at("sub/new")).unwrap(), "n");
        let mut names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        names.sort();
        assert_eq!(names, ["file", "link", "socket", "sub"]);
    }
}
