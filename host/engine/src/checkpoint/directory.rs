//! Directories of checkpoints. One may be anywhere (`--checkpoint-dir`), also where somebody else may write: whoever does
//! could lay a link in the place of a directory that was looked at a moment ago. So everything is done from descriptors.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_kernel::fs::{Kind, Root, stat_of};
use wharf_kernel::sys::file;

use crate::criu::Outside;
use crate::error::{Error, Result};

/// A description that is larger than this is none.
const LARGEST: usize = 64 << 10;
/// The file that makes a directory a checkpoint.
const DESCRIPTION: &str = "config.json";

/// What is kept about a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Description {
    pub(super) created: String,
    pub(super) name: String,
    pub(super) exit: bool,
    /// Of a container of this engine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) outside: Option<Outside>,
}

/// What the checkpoint in this directory does not have itself.
pub(crate) fn outside(image: &Path) -> Result<Outside> {
    let description = Root::open(image).map_err(Error::from).and_then(|root| described(&root))?;
    description.outside.ok_or_else(|| {
        Error::invalid(format!("the checkpoint {} was made by another runtime", description.name))
    })
}

fn described(image: &Root) -> Result<Description> {
    Ok(serde_json::from_slice(&image.read_limited(DESCRIPTION, LARGEST)?)?)
}

/// Removes the checkpoints of a container that were not made to their end: a daemon died meanwhile.
pub(crate) fn sweep(container: &Path) {
    for entry in std::fs::read_dir(container.join("checkpoints")).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && !entry.path().join(DESCRIPTION).exists() {
            // What cannot be removed now is not listed, and goes with the container.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Docker's rule for names, which leaves no way out of the directory.
pub(super) fn check_name(name: &str) -> Result<()> {
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if first && name.len() >= 2 && name.len() <= 255 && name.chars().all(good) {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "Invalid checkpoint ID ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

/// Names of the checkpoints in a directory.
pub(super) fn list(dir: &Path) -> Result<Vec<String>> {
    let root = match Root::open(dir) {
        Err(e) if e.is_not_found() => return Ok(Vec::new()),
        result => result?,
    };
    let mut names: Vec<String> = Vec::new();
    for (name, kind) in root.list(".")? {
        let Some(name) = name.to_str().filter(|n| check_name(n).is_ok()) else { continue };
        if kind == Kind::Directory && root.sub(name).is_ok_and(|image| described(&image).is_ok()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn missing(name: &str, container: &str) -> Error {
    Error::not_found(format!("checkpoint {name} does not exist for container {container}"))
}

/// The directory of one checkpoint, which must be there, in one where root alone writes.
pub(super) fn existing(dir: &Path, name: &str, container: &str) -> Result<PathBuf> {
    open(dir, name, container).map(|_| dir.join(name))
}

/// A directory that may be a checkpoint, with that which it is in.
fn open(dir: &Path, name: &str, container: &str) -> Result<(Root, OwnedFd)> {
    check_name(name)?;
    let root = match Root::open(dir) {
        Err(e) if e.is_not_found() => return Err(missing(name, container)),
        result => result?,
    };
    match inside(&root, name) {
        Ok(image) => Ok((root, image)),
        Err(e) if e.is_not_found() => Err(missing(name, container)),
        Err(_) => Err(Error::invalid(format!("{} exists and is not a directory", dir.join(name).display()))),
    }
}

/// A directory inside, not through a link.
fn inside(root: &Root, name: &str) -> wharf_kernel::Result<OwnedFd> {
    use libc::{O_DIRECTORY, O_NOFOLLOW, O_RDONLY};
    root.open_fd(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0)
}

/// Removes a checkpoint, and nothing that is none: the directory may be one that holds other things too.
pub(super) fn remove(dir: &Path, name: &str, container: &str) -> Result<()> {
    let (root, image) = open(dir, name, container)?;
    // The very directory that was looked at is emptied, whatever has its name by now.
    let image = Root::strict(image);
    if described(&image).is_err() {
        return Err(missing(name, container));
    }
    for (entry, _) in image.list(".")? {
        image.remove_all(&entry)?;
    }
    Ok(root.remove_dir(name)?)
}

/// A checkpoint that is being made.
pub(super) struct Image {
    parent: Root,
    name: String,
    held: OwnedFd,
}

impl Image {
    /// A new directory for one; only root sees the memory of a container.
    pub(super) fn reserve(dir: &Path, name: &str, container: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |e: &dyn std::fmt::Display| {
            Error::internal(format!("cannot make {}: {e}", dir.join(name).display()))
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| failed(&e))?;
        let parent = Root::open(dir).map_err(|e| failed(&e))?;
        let made = file::cstring(name).and_then(|text| file::mkdirat(parent.as_fd(), &text, 0o700));
        made.map_err(|e| {
            if e.is_exists() {
                Error::conflict(format!(
                    "checkpoint with name {name} already exists for container {container}"
                ))
            } else {
                failed(&e)
            }
        })?;
        let image = inside(&parent, name).map_err(|e| failed(&e))?;
        let stat = stat_of(image.as_fd())?;
        if stat.st_uid != 0 || stat.st_mode & 0o077 != 0 {
            return Err(failed(&"somebody else put another directory into its place"));
        }
        Ok(Self { parent, name: name.to_owned(), held: image })
    }

    /// A path for other programs, which leads there whatever has been moved meanwhile. It is good while this lives.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.held.as_raw_fd()).into()
    }

    /// The last step: what has a description is a checkpoint. Where that fails there is none.
    pub(super) fn describe(self, description: &Description) -> Result<(), String> {
        let write = || -> Result<()> {
            let text = serde_json::to_vec(description)?;
            Ok(Root::strict(self.held.try_clone()?).replace(DESCRIPTION, &text, 0o600)?)
        };
        write().map_err(|e| {
            self.discard();
            e.to_string()
        })
    }

    /// Removes what was made.
    pub(super) fn discard(self) {
        let image = Root::strict(self.held);
        for (entry, _) in image.list(".").into_iter().flatten() {
            // What cannot be removed is not listed, as it has no description.
            let _ = image.remove_all(&entry);
        }
        let _ = self.parent.remove_dir(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::error::Kind;

    fn description() -> Description {
        Description { created: String::new(), name: "cp1".into(), exit: false, outside: None }
    }

    #[test]
    fn names_lead_nowhere_else() {
        for good in ["cp", "a1", "A_b.c-d"] {
            check_name(good).unwrap();
        }
        for bad in ["", "a", "..", ".x", "-x", "a/b", "../x", "a b", "ä1", "a\0b", &"x".repeat(256)] {
            let e = check_name(bad).unwrap_err();
            assert_eq!(e.kind, Kind::Invalid);
            assert!(e.message.starts_with("Invalid checkpoint ID ("), "{}", e.message);
        }
    }

    #[test]
    fn a_checkpoint_is_a_directory_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("new");
        let image = Image::reserve(&place, "cp1", "c").unwrap();
        assert_eq!(existing(&place, "cp1", "c").unwrap(), place.join("cp1"));
        let twice = Image::reserve(&place, "cp1", "c").err().unwrap();
        assert_eq!(twice.message, "checkpoint with name cp1 already exists for container c");
        let missing = existing(dir.path(), "cp2", "c").unwrap_err();
        assert_eq!(missing.message, "checkpoint cp2 does not exist for container c");
        // Without a description it is none.
        assert!(list(&place).unwrap().is_empty());
        assert_eq!(remove(&place, "cp1", "c").unwrap_err().kind, Kind::NotFound);
        std::fs::write(image.path().join("pages"), "memory").unwrap();
        image.describe(&description()).unwrap();
        assert_eq!(list(&place).unwrap(), ["cp1"]);
        remove(&place, "cp1", "c").unwrap();
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
        // What failed leaves nothing.
        let image = Image::reserve(&place, "cp1", "c").unwrap();
        std::fs::create_dir(image.path().join("criu.work")).unwrap();
        image.discard();
        assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
    }

    /// Whoever may write where checkpoints are made moves them away and lays links in their places.
    #[test]
    fn what_others_lay_there_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (place, victim) = (dir.path().join("place"), dir.path().join("victim"));
        std::fs::create_dir_all(victim.join("sub")).unwrap();
        std::fs::write(victim.join(DESCRIPTION), r#"{"created":"","name":"x","exit":false}"#).unwrap();
        std::fs::write(victim.join("sub/precious"), "x").unwrap();
        // A link is not followed: what it leads to is somebody else's.
        std::fs::create_dir(&place).unwrap();
        symlink(&victim, place.join("link")).unwrap();
        assert!(existing(&place, "link", "c").unwrap_err().message.contains("is not a directory"));
        assert!(remove(&place, "link", "c").unwrap_err().message.contains("is not a directory"));
        assert!(list(&place).unwrap().is_empty());
        let error = Image::reserve(&place, "link", "c").err().unwrap();
        assert_eq!(error.kind, Kind::Conflict);
        // Neither a pipe, which would never answer, nor a large file is a description.
        for (name, size) in [("pipe", None), ("large", Some(1 << 40))] {
            std::fs::create_dir(place.join(name)).unwrap();
            let file = place.join(name).join(DESCRIPTION);
            match size {
                None => nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                Some(size) => std::fs::File::create(&file).unwrap().set_len(size).unwrap(),
            }
            assert_eq!(remove(&place, name, "c").unwrap_err().kind, Kind::NotFound, "{name}");
        }
        assert!(list(&place).unwrap().is_empty());
        // In the middle of the work.
        for fails in [false, true] {
            let image = Image::reserve(&place, "cp1", "c").unwrap();
            let moved = place.join(format!("moved-{fails}"));
            std::fs::rename(place.join("cp1"), &moved).unwrap();
            symlink(&victim, place.join("cp1")).unwrap();
            std::fs::write(image.path().join("pages"), "memory").unwrap();
            assert!(moved.join("pages").exists());
            if fails {
                image.discard();
                assert_eq!(std::fs::read_dir(&moved).unwrap().count(), 0);
            } else {
                image.describe(&description()).unwrap();
                assert!(moved.join(DESCRIPTION).exists());
            }
            std::fs::remove_file(place.join("cp1")).unwrap();
        }
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 2);
        assert!(std::fs::read_to_string(victim.join(DESCRIPTION)).unwrap().contains("\"x\""));
        assert!(victim.join("sub/precious").exists());
    }
}
