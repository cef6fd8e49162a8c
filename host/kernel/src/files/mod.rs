//! Applies file plans beneath root descriptors, and builds detached mount trees from mount plans.
//!
//! Nothing here resolves a path by string from the host's root: every place is opened beneath its root descriptor
//! (`openat2`), and what is mounted exists only as a descriptor until a container's mount namespace takes it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use wharf_plan::files::{Place, Root};

mod apply;
mod copy;
mod image;
mod loopdev;
mod mount;
mod quota;
mod subvolume;
mod trash;
pub mod tree;

pub use apply::{apply, exists, take_back};
pub use image::{OWN_XATTRS, create_image, entries, has_filesystem, images_work, seal_image};
pub use mount::{OverlayMode, detached, mount, mount_all, mount_with};
pub use quota::has_projects;
pub use trash::{close_later, drain, empty_trash, remove_tree};

/// The directories that a plan's places start from.
#[derive(Debug)]
pub struct Roots {
    /// The plugin's own directory on persistent storage.
    pub data: OwnedFd,
    /// The plugin's own directory that a reboot may take.
    pub run: OwnedFd,
    /// Directories that the administrator granted, by name.
    pub granted: BTreeMap<String, OwnedFd>,
    /// Directories of other objects of the plugin, by host id.
    pub objects: BTreeMap<String, OwnedFd>,
}

/// Why a plan was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// This host or file system cannot do that.
    #[error("{0} is not supported {1}")]
    Unsupported(String, String),
    /// A system call failed.
    #[error("{what}: {error}")]
    System {
        /// Operation and place.
        what: String,
        /// The kernel's answer.
        error: Errno,
    },
    /// A system call failed, told as strace does.
    #[error(transparent)]
    Call(crate::Error),
    /// The plan makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    pub(crate) fn system(what: impl Into<String>, error: Errno) -> Self {
        Self::System { what: what.into(), error }
    }

    /// The kernel's error number, if it was a system call that failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { error, .. } => Some(error.raw_os_error()),
            Self::Call(error) => Some(error.errno()),
            _ => None,
        }
    }
}

/// Puts a description in front of a system call's error.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::system(what(), error))
    }
}

/// No link of any kind, nothing outside: names in plans mean exactly what they say.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A handle on a directory that allows `..at` calls only.
pub(crate) const DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Roots {
    fn root<'a>(&'a self, root: &Root, mounts: &'a [OwnedFd]) -> Result<BorrowedFd<'a>, Error> {
        match root {
            Root::Data => Some(&self.data),
            Root::Run => Some(&self.run),
            Root::Granted(name) => self.granted.get(name),
            Root::Object(id) => self.objects.get(id),
            Root::Mount(n) => usize::try_from(*n).ok().and_then(|n| mounts.get(n)),
        }
        .map(AsFd::as_fd)
        .ok_or_else(|| Error::Invalid(format!("there is no {}", show_root(root))))
    }

    /// Opens the thing at a place.
    pub fn open(&self, place: &Place, flags: OFlags) -> Result<OwnedFd, Error> {
        self.open_in(place, &[], flags)
    }

    /// Opens a place for reading and walking, which must be a directory.
    pub fn open_dir(&self, place: &Place) -> Result<OwnedFd, Error> {
        self.open(place, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    pub(crate) fn open_in(&self, place: &Place, mounts: &[OwnedFd], flags: OFlags) -> Result<OwnedFd, Error> {
        beneath(self.root(&place.root, mounts)?, &place.path, flags).context(|| show(place))
    }

    /// The directory that holds a place, made if absent, and the place's name in it.
    fn parent<'p>(&self, place: &'p Place, make: bool) -> Result<(OwnedFd, &'p str), Error> {
        let root = self.root(&place.root, &[])?;
        let (dir, name) = place.path.rsplit_once('/').unwrap_or(("", &place.path));
        if name.is_empty() || name == "." || name == ".." {
            return Err(Error::Invalid(format!("{} has no name", show(place))));
        }
        let opened = match beneath(root, dir, DIR) {
            Err(Errno::NOENT) if make => make_all(root, dir),
            other => other,
        };
        Ok((opened.context(|| show(place))?, name))
    }
}

fn beneath(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    open_resolved(root, path, flags | OFlags::CLOEXEC, BENEATH)
}

/// `openat2` that tries again when the kernel says that something moved meanwhile.
pub(crate) fn open_resolved<P: rustix::path::Arg + Copy>(
    root: BorrowedFd<'_>,
    path: P,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Makes the missing directories of `path`, for root alone.
fn make_all(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let mut at = rustix::fs::openat(root, ".", DIR, Mode::empty())?;
    for name in path.split('/') {
        let next = match beneath(at.as_fd(), name, DIR) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&at, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e),
                }
                beneath(at.as_fd(), name, DIR)?
            }
            other => other?,
        };
        at = next;
    }
    Ok(at)
}

fn show_root(root: &Root) -> String {
    match root {
        Root::Data => "data directory".into(),
        Root::Run => "run directory".into(),
        Root::Granted(name) => format!("granted directory '{name}'"),
        Root::Object(id) => format!("object '{id}'"),
        Root::Mount(n) => format!("mount {n}"),
    }
}

/// A place for people: `data:snapshots/1`.
pub(crate) fn show(place: &Place) -> String {
    let root = match &place.root {
        Root::Data => "data".into(),
        Root::Run => "run".into(),
        Root::Granted(name) => format!("granted({name})"),
        Root::Object(id) => format!("object({id})"),
        Root::Mount(n) => format!("mount({n})"),
    };
    format!("{root}:{}", place.path)
}
