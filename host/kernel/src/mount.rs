//! Detached mount trees: mounts that no name reaches until a container puts them into its own namespace.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::fs::Root;
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

/// Attaches a tree to a path of the calling thread's mount namespace, which is to be its own and nobody else's: nothing of it
/// reaches others.
pub fn attach_alone(tree: BorrowedFd<'_>, place: &Path) -> Result<()> {
    sys::set_root_propagation(libc::MS_PRIVATE)?;
    let path = file::cstring(place.as_os_str().as_bytes())?;
    let place = file::openat(None, &path, libc::O_PATH | libc::O_DIRECTORY, 0)?;
    sys::move_mount(tree, place.as_fd())
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

/// Sets and takes away attributes of a detached tree; `recursive` of every mount in it, all or none.
pub fn change_attr(tree: BorrowedFd<'_>, change: &MountAttr, recursive: bool) -> Result<()> {
    sys::mount_setattr(tree, recursive, change)
}

/// Sets the propagation: one of the words of [`plan`](wharf_plan::run::Mount::propagation), empty for `private`.
pub fn set_propagation(tree: BorrowedFd<'_>, word: &str) -> Result<()> {
    let (propagation, recursive) = propagation(word)?;
    sys::mount_setattr(tree, recursive, &MountAttr { propagation, ..MountAttr::default() })
}

/// Where the mount lies that a path is on, and whether it is shared and whether it is somebody's slave.
pub fn propagation_of(path: &Path) -> Result<(std::path::PathBuf, bool, bool)> {
    let text = file::cstring(path.as_os_str().as_bytes())?;
    let reference = file::openat(None, &text, libc::O_PATH, 0)?;
    let unknown = || Error::refused(path.display().to_string(), libc::EINVAL, "its mount is in no table");
    let id = file::mount_of(&format!("/proc/self/fdinfo/{}", reference.as_raw_fd())).ok_or_else(unknown)?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let line = table
        .lines()
        .find(|l| l.split(' ').next().and_then(|n| n.parse().ok()) == Some(id))
        .ok_or_else(unknown)?;
    let mut fields = line.split(' ');
    let place = unescaped(fields.nth(4).ok_or_else(unknown)?);
    // Behind the options of the mount, up to a dash, are what it is tied to.
    let ties: Vec<&str> = fields.skip(1).take_while(|f| *f != "-").collect();
    let tied = |word: &str| ties.iter().any(|t| t.starts_with(word));
    Ok((place, tied("shared:"), tied("master:")))
}

/// A path of mountinfo, where blanks and backslashes are octal.
pub(crate) fn unescaped(field: &str) -> std::path::PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match (first, octal) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
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

/// A detached tree and the place where it belongs in another one.
#[derive(Debug)]
pub struct Part {
    /// Path from the other tree's root.
    pub place: std::path::PathBuf,
    /// The tree.
    pub tree: OwnedFd,
    /// It is a file, not a directory.
    pub file: bool,
}

/// Puts detached trees onto their places in another one, in this order, and answers the whole as one detached tree. Every
/// place is resolved beneath the root. It is made where it is missing; a part is left out where that is not possible.
pub fn assemble(root: OwnedFd, parts: &[Part]) -> Result<OwnedFd> {
    let Some((first, rest)) = parts.split_first() else { return Ok(root) };
    let top = Root::new(root.try_clone()?);
    match attach(&top, first) {
        Ok(()) => {
            rest.iter().try_for_each(|part| attach(&top, part))?;
            Ok(root)
        }
        // Before Linux 6.15 a detached tree takes no mounts, but a mount namespace of one's own does.
        Err(e) if e.is(libc::EINVAL) => assemble_elsewhere(root.as_fd(), parts),
        Err(e) => Err(e),
    }
}

fn attach(root: &Root, part: &Part) -> Result<()> {
    let place = match root.resolve(&part.place) {
        Ok(place) => place,
        Err(e) if e.is_not_found() => match make_place(root, part) {
            Ok(place) => place,
            Err(e) if [libc::EROFS, libc::ENOTDIR, libc::EEXIST].iter().any(|n| e.is(*n)) => return Ok(()),
            Err(e) => return Err(e),
        },
        Err(e) => return Err(e),
    };
    match sys::move_mount(part.tree.as_fd(), place.as_fd()) {
        // A file where a directory should be, or the other way round.
        Err(e) if e.is(libc::ENOTDIR) => Ok(()),
        other => other,
    }
}

fn make_place(root: &Root, part: &Part) -> Result<OwnedFd> {
    if !part.file {
        return root.mkdir_all(&part.place, 0o755);
    }
    if let Some(above) = part.place.parent() {
        root.mkdir_all(above, 0o755)?;
    }
    root.write(&part.place, b"", 0o755)?;
    root.resolve(&part.place)
}

fn assemble_elsewhere(root: BorrowedFd<'_>, parts: &[Part]) -> Result<OwnedFd> {
    let job = move || -> Result<OwnedFd> {
        crate::sys::process::unshare(crate::sys::process::CLONE_NEWNS)?;
        // Nothing done here may reach the host's own mount table.
        sys::set_root_propagation(libc::MS_PRIVATE)?;
        // Any directory that is certainly there.
        let point = || file::openat(None, c"/proc", libc::O_PATH | libc::O_DIRECTORY, 0);
        sys::move_mount(root, point()?.as_fd())?;
        let top = Root::new(point()?);
        parts.iter().try_for_each(|part| attach(&top, part))?;
        sys::open_tree(Some(top.as_fd()), c"", clone_flags(true))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".into()).spawn_scoped(scope, job);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            _ => Err(Error::refused("mount", libc::EAGAIN, "the thread that mounts could not run")),
        }
    })
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
    source: CString,
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
                "rw" => attributes &= !attr::RDONLY,
                "suid" => attributes &= !attr::NOSUID,
                "dev" => attributes &= !attr::NODEV,
                "exec" => attributes &= !attr::NOEXEC,
                "nodiratime" => attributes |= attr::NODIRATIME,
                "relatime" | "diratime" | "atime" | "norelatime" | "nostrictatime" | "symfollow"
                | "rprivate" | "private" => {}
                _ => list.push(match option.split_once('=') {
                    Some((key, value)) => (file::cstring(key)?, Some(file::cstring(value)?)),
                    None => (file::cstring(option)?, None),
                }),
            }
        }
        let fstype = file::cstring(fstype)?;
        Ok(Self { source: fstype.clone(), fstype, options: list, attributes })
    }

    /// Says what `mount` and `df` show as its source; its type where nothing is said.
    pub(crate) fn shown_as(mut self, source: &CStr) -> Self {
        source.clone_into(&mut self.source);
        self
    }

    /// Whether an option of this name is given.
    pub(crate) fn has(&self, option: &CStr) -> bool {
        self.options.iter().any(|(key, _)| key.as_c_str() == option)
    }

    /// Takes an option without a value out, which is not the file system's own; whether it was there.
    pub(crate) fn take(&mut self, option: &CStr) -> bool {
        let before = self.options.len();
        self.options.retain(|(key, value)| key.as_c_str() != option || value.is_some());
        self.options.len() < before
    }

    /// Makes it, detached, in the caller's namespaces.
    pub(crate) fn make(&self) -> Result<OwnedFd> {
        self.make_with(&[])
    }

    /// The same with these options as well.
    pub(crate) fn make_with(&self, more: &[(&CStr, &CStr)]) -> Result<OwnedFd> {
        let context = sys::fsopen(&self.fstype)?;
        sys::fsconfig_string(context.as_fd(), c"source", &self.source)?;
        for (key, value) in &self.options {
            match value {
                Some(value) => sys::fsconfig_string(context.as_fd(), key, value)?,
                None => sys::fsconfig_flag(context.as_fd(), key)?,
            }
        }
        for (key, value) in more {
            sys::fsconfig_string(context.as_fd(), key, value)?;
        }
        sys::fsconfig_create(context.as_fd())?;
        sys::fsmount(context.as_fd(), self.attributes)
    }
}
