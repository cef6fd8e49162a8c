//! EROFS images that this host wrote: made, sealed, and mounted read-only.
//!
//! A file system's code in the kernel trusts what is on its disk more than it should, so no image from outside is ever
//! mounted: an image carries a mark that only this host can set (a `trusted` attribute that neither archives nor plans
//! can bring in), and what has no mark is refused. And it lies apart, in [`IMAGES`] of the plugin's data, at the path that
//! its place has: what plans name, mount and hand to containers never reaches it, so that nobody writes what is mounted
//! later. Renaming and removing what is at a place does the same with the images of it.
//!
//! A layer's image is mounted once and that mount is held; every container gets a copy of the mount. So all containers
//! of a layer share one superblock and with it the pages of its files. Where the kernel does not mount out of files, or does
//! not copy such mounts (before Linux 6.15), the image becomes a loop device and is mounted from that.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use wharf_plan::files::{IMAGES, Mount, Place, Root, Source, TRASH};

use super::apply::{exists, rename};
use super::mount::{attributes, detached, stack, takes_detached};
use super::tree::{self, by_fd};
use super::{Context, DIR, Error, Roots, loopdev, show};
use crate::sys::file::cstring;
use crate::sys::mount::{
    MountAttr, attr, fsconfig_create, fsconfig_flag, fsconfig_string, fsmount, fsopen, mount_setattr,
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

/// Whether this kernel can mount images of a directory and stack them: tried with two that have no name. It mounts them
/// out of files, or as loop devices.
pub fn images_work(data: &OwnedFd, lower: &File, upper: &File) -> Result<(), Error> {
    let open = |image: &File| -> Result<OwnedFd, Error> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::open(by_fd(image), flags, Mode::empty()).context(|| "open an image".into())
    };
    let layers = [Mounted::new(&open(lower)?)?.again()?, Mounted::new(&open(upper)?)?.again()?];
    stack(data, &layers).map(drop)
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

/// An image's mount, and its device where the kernel wants one.
struct Mounted {
    mount: OwnedFd,
    device: Option<OwnedFd>,
}

impl Mounted {
    fn new(image: &OwnedFd) -> Result<Self, Error> {
        // Of a mount that is nowhere only newer kernels make a copy, without which files would not be shared.
        if takes_detached() && !loop_wanted() {
            match from(image) {
                // It takes block devices only.
                Err(error) if error.errno() == Some(libc::ENOTBLK) => {}
                other => return Ok(Self { mount: other?, device: None }),
            }
        }
        let device = loopdev::device_of(image)?;
        Ok(Self { mount: from(&device)?, device: Some(device) })
    }

    /// One more mount of the same superblock.
    fn again(&self) -> Result<OwnedFd, Error> {
        match &self.device {
            Some(device) => from(device),
            None => detached(self.mount.as_fd()),
        }
    }
}

/// Whether loop devices are to be used though the kernel can do without (`WHARF_EROFS_LOOP=1`).
fn loop_wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| std::env::var_os("WHARF_EROFS_LOOP").is_some_and(|value| value == "1"))
}

/// A mount of the file system that is in a file or on a device.
fn from(source: &impl AsRawFd) -> Result<OwnedFd, Error> {
    let context = fsopen(c"erofs")?;
    fsconfig_string(context.as_fd(), c"source", &cstring(by_fd(source))?)?;
    // Or the kernel wants to write to the device.
    fsconfig_flag(context.as_fd(), c"ro")?;
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), attr::RDONLY)?)
}

/// A mounted image, with the name held for its number to stay its own.
struct Held {
    image: OwnedFd,
    mounted: Mounted,
}

type Key = (u64, u64);

fn held() -> MutexGuard<'static, HashMap<Key, Held>> {
    static HELD: OnceLock<Mutex<HashMap<Key, Held>>> = OnceLock::new();
    HELD.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// A mount of the image that shares the superblock of earlier ones.
fn shared(image: OwnedFd, key: Key) -> Result<OwnedFd, Error> {
    if let Some(found) = held().get(&key)
        && let Ok(copy) = found.mounted.again()
    {
        return Ok(copy);
    }
    let mounted = Mounted::new(&image)?;
    let copy = mounted.again()?;
    let mut held = held();
    let let_go = if held.len() >= may_hold() {
        let any = held.keys().next().copied();
        any.and_then(|any| held.remove(&any))
    } else {
        None
    };
    let before = held.insert(key, Held { image, mounted });
    drop(held);
    // Outside of the lock: the end of a mount takes its time.
    drop((let_go, before));
    Ok(copy)
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
