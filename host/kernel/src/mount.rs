//! Detached mount trees: mounts that no name reaches until a container puts them into its own namespace.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Result};
pub use crate::sys::mount::{MountAttr, attr};
use crate::sys::{file, mount as sys};

/// A copy of what lies at `source` (a directory or a file that the caller opened), detached.
///
/// `recursive` takes the mounts below along. On kernels before 6.15 the source must lie in a mount of the caller's own
/// namespace, not in another detached tree.
pub fn bind(source: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    sys::open_tree(Some(source), c"", clone_flags(recursive))
}

/// As [`bind`], of a path of the host; links on the way are followed.
pub fn bind_path(source: &Path, recursive: bool) -> Result<OwnedFd> {
    let path = file::cstring(source.as_os_str().as_bytes())?;
    sys::open_tree(None, &path, clone_flags(recursive))
}

fn clone_flags(recursive: bool) -> u32 {
    sys::OPEN_TREE_CLONE | if recursive { sys::AT_RECURSIVE } else { 0 }
}

/// What a mount allows. True sets the restriction, false leaves it as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// Read-only.
    pub read_only: bool,
    /// No set-user-id.
    pub no_suid: bool,
    /// No devices.
    pub no_dev: bool,
    /// No programs.
    pub no_exec: bool,
}

impl Flags {
    /// As the kernel's attribute bits.
    pub fn bits(self) -> u64 {
        let mut bits = 0;
        for (on, bit) in [
            (self.read_only, attr::RDONLY),
            (self.no_suid, attr::NOSUID),
            (self.no_dev, attr::NODEV),
            (self.no_exec, attr::NOEXEC),
        ] {
            if on {
                bits |= bit;
            }
        }
        bits
    }
}

/// Adds restrictions to a detached tree; `recursive` to every mount in it, all or none.
pub fn set_attr(tree: BorrowedFd<'_>, flags: Flags, recursive: bool) -> Result<()> {
    if flags == Flags::default() {
        return Ok(());
    }
    sys::mount_setattr(tree, recursive, &MountAttr { set: flags.bits(), ..MountAttr::default() })
}

/// Sets the propagation: one of the words of [`plan`](wharf_plan::run::Mount::propagation), empty for `private`.
pub fn set_propagation(tree: BorrowedFd<'_>, word: &str) -> Result<()> {
    let (propagation, recursive) = propagation(word)?;
    sys::mount_setattr(tree, recursive, &MountAttr { propagation, ..MountAttr::default() })
}

/// `rslave` and so on as the kernel's bit and whether it goes down the tree.
pub fn propagation(word: &str) -> Result<(u64, bool)> {
    let (kind, recursive) = match word.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (word, false),
    };
    let bit = match kind {
        "private" | "" => libc::MS_PRIVATE,
        "slave" => libc::MS_SLAVE,
        "shared" => libc::MS_SHARED,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return Err(Error::refused(format!("propagation {word:?}"), libc::EINVAL, "unknown word")),
    };
    Ok((bit, recursive))
}

/// A value for [`filesystem`].
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// A key alone.
    Flag,
    /// `key=value`.
    Text(&'a str),
    /// An open file or directory.
    Fd(BorrowedFd<'a>),
}

/// A new file system as a detached mount.
pub fn filesystem(fstype: &str, options: &[(&str, Value<'_>)], flags: Flags) -> Result<OwnedFd> {
    let context = sys::fsopen(&file::cstring(fstype)?)?;
    for (key, value) in options {
        let key = file::cstring(*key)?;
        match value {
            Value::Flag => sys::fsconfig_flag(context.as_fd(), &key)?,
            Value::Text(text) => sys::fsconfig_string(context.as_fd(), &key, &file::cstring(*text)?)?,
            Value::Fd(fd) => sys::fsconfig_fd(context.as_fd(), &key, *fd)?,
        }
    }
    sys::fsconfig_create(context.as_fd()).map_err(|e| e.note(format!("making a {fstype} file system")))?;
    sys::fsmount(context.as_fd(), flags.bits())
}

/// A tmpfs; options as in `mount -o` (`size=64m`, `mode=1777`).
pub fn tmpfs(options: &[&str], flags: Flags) -> Result<OwnedFd> {
    let options: Vec<_> = options.iter().map(|o| split_option(o)).collect();
    filesystem("tmpfs", &options, flags)
}

/// `key=value` or `key` as [`filesystem`] takes it.
pub fn split_option(option: &str) -> (&str, Value<'_>) {
    match option.split_once('=') {
        Some((key, value)) => (key, Value::Text(value)),
        None => (option, Value::Flag),
    }
}

/// Options prepared before a fork: nothing is allocated when the file system is made.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) fstype: CString,
    pub(crate) options: Vec<(CString, Option<CString>)>,
    pub(crate) attributes: u64,
}

impl Prepared {
    /// Takes the options that are attributes of the mount (`nosuid`, `ro` …) out of the list.
    pub(crate) fn new(fstype: &str, options: &[String], flags: Flags) -> Result<Self> {
        let mut attributes = flags.bits();
        let mut list = Vec::with_capacity(options.len());
        for option in options.iter().flat_map(|o| o.split(',')).filter(|o| !o.is_empty()) {
            match option {
                "ro" => attributes |= attr::RDONLY,
                "nosuid" => attributes |= attr::NOSUID,
                "nodev" => attributes |= attr::NODEV,
                "noexec" => attributes |= attr::NOEXEC,
                "nosymfollow" => attributes |= attr::NOSYMFOLLOW,
                "noatime" => attributes = (attributes & !attr::ATIME_MASK) | attr::NOATIME,
                "strictatime" => attributes = (attributes & !attr::ATIME_MASK) | attr::STRICTATIME,
                "nodiratime" => attributes |= attr::NODIRATIME,
                "rw" => attributes &= !attr::RDONLY,
                "suid" => attributes &= !attr::NOSUID,
                "dev" => attributes &= !attr::NODEV,
                "exec" => attributes &= !attr::NOEXEC,
                "relatime" | "diratime" | "atime" | "norelatime" | "rprivate" | "private" => {}
                _ => list.push(match option.split_once('=') {
                    Some((key, value)) => (file::cstring(key)?, Some(file::cstring(value)?)),
                    None => (file::cstring(option)?, None),
                }),
            }
        }
        Ok(Self { fstype: file::cstring(fstype)?, options: list, attributes })
    }

    /// Makes it, detached, in the caller's namespaces.
    pub(crate) fn make(&self) -> Result<OwnedFd> {
        let context = sys::fsopen(&self.fstype)?;
        for (key, value) in &self.options {
            match value {
                Some(value) => sys::fsconfig_string(context.as_fd(), key, value)?,
                None => sys::fsconfig_flag(context.as_fd(), key)?,
            }
        }
        sys::fsconfig_create(context.as_fd())?;
        sys::fsmount(context.as_fd(), self.attributes)
    }
}
