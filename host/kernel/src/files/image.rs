//! EROFS images that this host wrote: made, sealed, and mounted read-only.
//!
//! A file system's code in the kernel trusts what is on its disk more than it should, so no image from outside is ever
//! mounted: an image carries a mark that only this host can set (a `trusted` attribute that neither archives nor plans
//! can bring in), and what has no mark is refused. And it lies apart, in [`IMAGES`] of the plugin's data, at the path that
//! its place has: what plans name, mount and hand to containers never reaches it, so that nobody writes what is mounted
//! later. Renaming and removing what is at a place does the same with the images of it.
//!
//! A layer's image is mounted once and that mount is held; every container gets a copy of the mount. So all containers
//! of a layer share one superblock and with it the pages of its files.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use wharf_plan::files::{IMAGES, Mount, Place, Root, Source, TRASH};

use super::apply::{exists, rename};
use super::mount::{attributes, detached};
use super::tree::{self, by_fd};
use super::{Context, DIR, Error, Roots, show};
use crate::sys::file::cstring;
use crate::sys::mount::{
    MountAttr, attr, fsconfig_create, fsconfig_fd, fsconfig_string, fsmount, fsopen, mount_setattr,
};

/// Attributes whose names begin so are this host's own: archives do not bring them and plans do not set them.
pub use wharf_plan::files::OWN_XATTRS;

/// The mark of an image that this host wrote.
const MARK: &str = "trusted.wharf.erofs";

/// Mounts held, where files may be opened without thrift; beyond that some are let go and made again when needed.
const HELD: usize = 256;

/// As [`HELD`], of this process: each takes two descriptors.
fn may_hold() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(HELD, |limit| usize::try_from(limit / 16).unwrap_or(HELD).clamp(8, HELD))
}

/// Where the images of a place are: itself, or what is beneath. None where there cannot be any.
pub(super) fn room(place: &Place) -> Option<Place> {
    (place.root == Root::Data && !place.path.is_empty())
        .then(|| Place { root: Root::Data, path: format!("{IMAGES}/{}", place.path) })
}

/// Renames the images of a place as what is there is renamed. Answers from where to where, if there are any.
pub(super) fn move_along(roots: &Roots, from: &Place, to: &Place) -> Result<Option<(Place, Place)>, Error> {
    let Some(from_room) = room(from).filter(|room| exists(roots, room)) else { return Ok(None) };
    let to_room = room(to).ok_or_else(|| {
        Error::Invalid(format!("rename {} to {}: images stay in the plugin's own data", show(from), show(to)))
    })?;
    rename(roots, &from_room, &to_room, true)?;
    Ok(Some((from_room, to_room)))
}

/// The names in a plugin's data, of files and of images, without the host's own.
pub fn entries(roots: &Roots) -> Result<Vec<String>, Error> {
    let what = || "read the data directory".to_owned();
    let mut all: BTreeSet<String> = tree::names(&roots.data).context(what)?.into_iter().collect();
    match tree::open_child(roots.data.as_fd(), IMAGES.as_bytes(), DIR) {
        Ok(images) => all.extend(tree::names(images).context(what)?),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error).context(what),
    }
    all.retain(|name| name != TRASH && name != IMAGES);
    Ok(all.into_iter().collect())
}

/// Makes a new file for the image of a place, for reading and writing.
pub fn create_image(roots: &Roots, place: &Place) -> Result<File, Error> {
    let room = room(place).ok_or_else(|| elsewhere(place))?;
    let (dir, name) = roots.parent(&room, true)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .context(|| format!("make image {}", show(place)))
}

/// Says of a complete image that this host wrote it, so that it may be mounted.
pub fn seal_image(image: &File) -> Result<(), Error> {
    rustix::fs::fchmod(image, Mode::RUSR).context(|| "seal image".into())?;
    rustix::fs::fsetxattr(image, MARK, b"1", XattrFlags::empty()).context(|| "seal image".into())
}

/// Whether this kernel can stack two images: it mounts them from files, and out of no mount namespace (Linux 6.15).
pub fn images_work(lower: &File, upper: &File) -> bool {
    let attempt = || -> Result<(), Error> {
        let context = fsopen(c"overlay")?;
        // Of a mount that is nowhere only newer kernels make a copy, which sharing needs.
        let copy = |image| detached(fresh(image)?.as_fd());
        let layers = [copy(upper)?, copy(lower)?];
        for layer in &layers {
            fsconfig_fd(context.as_fd(), c"lowerdir+", layer.as_fd())?;
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), attr::RDONLY)?;
        Ok(())
    };
    attempt().is_ok()
}

/// Whether the kernel has a file system of this name, loading its module if there is one.
pub fn has_filesystem(name: &CStr) -> bool {
    fsopen(name).is_ok()
}

/// The mount of an image out of a plan.
pub(super) fn mount(roots: &Roots, mount: &Mount) -> Result<OwnedFd, Error> {
    let Source::Place(place) = &mount.source else {
        return Err(Error::Invalid("an image needs a place as its source".into()));
    };
    let room = room(place).ok_or_else(|| elsewhere(place))?;
    if let Some((name, _)) = mount.options.first() {
        return Err(Error::Invalid(format!("an image has no option {name}")));
    }
    let none = || Error::Invalid(format!("{} is no image that this host wrote", show(place)));
    let image = match roots.open(&room, OFlags::PATH | OFlags::NOFOLLOW) {
        Err(error) if error.errno() == Some(Errno::NOENT.raw_os_error()) => return Err(none()),
        other => other?,
    };
    let stat = rustix::fs::fstat(&image).context(|| show(place))?;
    let marked = FileType::from_raw_mode(stat.st_mode).is_file()
        && tree::get_xattr(&by_fd(&image), MARK.as_bytes()).context(|| show(place))?.is_some();
    if !marked {
        return Err(none());
    }
    let tree = shared(image, (stat.st_dev, stat.st_ino))?;
    let set = attributes(mount.attributes) & !attr::RDONLY;
    if set != 0 {
        let clear = if set & attr::NOATIME == 0 { 0 } else { attr::ATIME_MASK };
        mount_setattr(tree.as_fd(), false, &MountAttr { set, clear, ..MountAttr::default() })?;
    }
    Ok(tree)
}

fn elsewhere(place: &Place) -> Error {
    Error::Invalid(format!("{}: images are in the plugin's own data only", show(place)))
}

/// An image, the name held for its number to stay its own, and its mount.
struct Held {
    image: OwnedFd,
    mount: OwnedFd,
}

type Key = (u64, u64);

fn held() -> MutexGuard<'static, HashMap<Key, Held>> {
    static HELD: OnceLock<Mutex<HashMap<Key, Held>>> = OnceLock::new();
    HELD.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mount of the image that shares the superblock of earlier ones.
fn shared(image: OwnedFd, key: Key) -> Result<OwnedFd, Error> {
    if let Some(found) = held().get(&key)
        && let Ok(copy) = detached(found.mount.as_fd())
    {
        return Ok(copy);
    }
    let mount = fresh(&image)?;
    let Ok(copy) = detached(mount.as_fd()) else { return Ok(mount) };
    let mut held = held();
    if held.len() >= may_hold()
        && let Some(any) = held.keys().next().copied()
    {
        held.remove(&any);
    }
    held.insert(key, Held { image, mount });
    Ok(copy)
}

fn fresh(image: &impl AsRawFd) -> Result<OwnedFd, Error> {
    let context = fsopen(c"erofs")?;
    fsconfig_string(context.as_fd(), c"source", &cstring(by_fd(image))?)?;
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), attr::RDONLY)?)
}

/// Lets go the mounts of images that have been deleted, so that their space is freed.
pub(super) fn let_deleted_go() {
    let gone: Vec<Held> = {
        let mut held = held();
        let deleted = |one: &Held| rustix::fs::fstat(&one.image).is_ok_and(|stat| stat.st_nlink == 0);
        let keys: Vec<Key> = held.iter().filter(|(_, one)| deleted(one)).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| held.remove(key)).collect()
    };
    // Outside of the lock: the end of a mount takes its time.
    drop(gone);
}
