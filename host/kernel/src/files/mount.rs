//! Mount plans as detached trees.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{OFlags, StatVfsMountFlags};
use wharf_plan::files::{Mount, MountAttributes, OptionValue, Place, Source};
use wharf_plan::types::IdMap;

use super::tree::by_fd;
use super::{Context, DIR, Error, Roots, quota};
use crate::sys::file::cstring;
use crate::sys::mount::{
    self as sys, AT_RECURSIVE, MountAttr, OPEN_TREE_CLONE, attr, fsconfig_create, fsconfig_fd, fsconfig_flag,
    fsconfig_string, fsmount, fsopen, open_tree,
};
use crate::userns;

/// How this kernel takes overlay's directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverlayMode {
    /// As descriptors, lower ones one by one (Linux 6.13).
    Descriptors,
    /// As paths, lower ones one by one (6.5). The paths lead through `/proc/self/fd`.
    OneByOne,
    /// As one page of text to `mount(2)`, in a mount namespace made for it (older).
    Page,
}

impl From<crate::Error> for Error {
    fn from(e: crate::Error) -> Self {
        Self::Call(e)
    }
}

/// Builds the mounts as detached trees and answers the last one. Nothing appears in any mount namespace, and
/// everything is gone when the last descriptor of it is.
pub fn mount(roots: &Roots, mounts: &[Mount]) -> Result<OwnedFd, Error> {
    mount_with(roots, mounts, overlay_mode())
}

/// All trees of a plan, in its order.
pub fn mount_all(roots: &Roots, mounts: &[Mount]) -> Result<Vec<OwnedFd>, Error> {
    all(roots, mounts, overlay_mode())
}

/// As [`mount`], with a mode of older kernels.
pub fn mount_with(roots: &Roots, mounts: &[Mount], mode: OverlayMode) -> Result<OwnedFd, Error> {
    all(roots, mounts, mode)?.pop().ok_or_else(|| Error::Invalid("a plan without a mount".into()))
}

fn all(roots: &Roots, mounts: &[Mount], mode: OverlayMode) -> Result<Vec<OwnedFd>, Error> {
    let mut made: Vec<OwnedFd> = Vec::with_capacity(mounts.len());
    for mount in mounts {
        let one = match mount.fstype.as_str() {
            "bind" | "none" => bind(roots, &made, mount)?,
            "erofs" => super::image::mount(roots, mount)?,
            // Overlay makes whiteouts as whoever mounted it, which a mapped layer must have a place for.
            "overlay" => {
                let attempt =
                    || userns::as_root(layer_maps(mounts), || overlay_of(roots, &made, mount, mode))?;
                let one = attempt()?;
                match full_scratch(roots, &made, mount, &one) {
                    Some(work) => {
                        drop(one);
                        quota::with_more_room(&work, attempt)?
                    }
                    None => one,
                }
            }
            _ => filesystem(roots, &made, mount)?,
        };
        userns::map_mount(one.as_fd(), &mount.id_maps, false)?;
        made.push(one);
    }
    Ok(made)
}

/// The scratch directory of an overlay that became read-only though it was to be written: it could not make a directory
/// there, as one that has reached its limit cannot.
fn full_scratch(roots: &Roots, made: &[OwnedFd], mount: &Mount, mounted: &OwnedFd) -> Option<OwnedFd> {
    let place = mount.options.iter().find_map(|(name, value)| match value {
        OptionValue::Place(place) if name == "workdir" => Some(place),
        _ => None,
    })?;
    let read_only = rustix::fs::fstatvfs(mounted).ok()?.f_flag.contains(StatVfsMountFlags::RDONLY);
    if !read_only || mount.attributes.has(MountAttributes::READ_ONLY) {
        return None;
    }
    roots.open_in(place, made, OFlags::RDONLY | OFlags::DIRECTORY).ok()
}

/// How the layers of a plan are mapped: all alike, as they belong to one container.
fn layer_maps(mounts: &[Mount]) -> &[IdMap] {
    mounts.iter().map(|m| m.id_maps.as_slice()).find(|maps| !maps.is_empty()).unwrap_or_default()
}

pub(super) fn attributes(flags: MountAttributes) -> u64 {
    let mut bits = 0;
    for (flag, bit) in [
        (MountAttributes::READ_ONLY, attr::RDONLY),
        (MountAttributes::NO_SUID, attr::NOSUID),
        (MountAttributes::NO_DEV, attr::NODEV),
        (MountAttributes::NO_EXEC, attr::NOEXEC),
        (MountAttributes::NO_ATIME, attr::NOATIME),
    ] {
        if flags.has(flag) {
            bits |= bit;
        }
    }
    bits
}

fn bind(roots: &Roots, made: &[OwnedFd], mount: &Mount) -> Result<OwnedFd, Error> {
    let Source::Place(place) = &mount.source else {
        return Err(Error::Invalid("a bind mount needs a place as its source".into()));
    };
    if let Some((name, _)) = mount.options.first() {
        return Err(Error::Invalid(format!("a bind mount has no option {name}")));
    }
    let source = roots.open_in(place, made, OFlags::PATH | OFlags::NOFOLLOW)?;
    let recursive = mount.attributes.has(MountAttributes::RECURSIVE_BIND);
    let flags = OPEN_TREE_CLONE | if recursive { AT_RECURSIVE } else { 0 };
    let tree = open_tree(Some(source.as_fd()), c"", flags)?;
    let set = attributes(mount.attributes);
    if set != 0 {
        let clear = if set & attr::NOATIME == 0 { 0 } else { attr::ATIME_MASK };
        sys::mount_setattr(tree.as_fd(), recursive, &MountAttr { set, clear, ..MountAttr::default() })?;
    }
    Ok(tree)
}

fn filesystem(roots: &Roots, made: &[OwnedFd], mount: &Mount) -> Result<OwnedFd, Error> {
    let context = fsopen(&cstring(mount.fstype.as_str())?)?;
    match &mount.source {
        Source::None => {}
        Source::Place(place) => {
            let source = roots.open_in(place, made, OFlags::PATH | OFlags::NOFOLLOW)?;
            fsconfig_string(context.as_fd(), c"source", &cstring(by_fd(&source))?)?;
        }
        Source::Device(n) => return Err(Error::Unsupported(format!("device {n}"), "by this host".into())),
        Source::Remote(name) => fsconfig_string(context.as_fd(), c"source", &cstring(name.as_str())?)?,
    }
    for (name, value) in &mount.options {
        let key = cstring(name.as_str())?;
        match value {
            OptionValue::Flag => fsconfig_flag(context.as_fd(), &key)?,
            OptionValue::Text(text) => fsconfig_string(context.as_fd(), &key, &cstring(text.as_str())?)?,
            OptionValue::Place(place) => {
                let dir = roots.open_in(place, made, DIR)?;
                fsconfig_string(context.as_fd(), &key, &cstring(by_fd(&dir))?)?;
            }
            OptionValue::Places(_) | OptionValue::Secret(_) => {
                return Err(Error::Unsupported(
                    format!("this kind of value for option {name}"),
                    format!("with {}", mount.fstype),
                ));
            }
        }
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), attributes(mount.attributes))?)
}

/// How this kernel takes overlay's directories; found out once.
fn overlay_mode() -> OverlayMode {
    static MODE: OnceLock<OverlayMode> = OnceLock::new();
    *MODE.get_or_init(|| {
        let probe = || -> Result<OverlayMode, Error> {
            let root = super::tree::open_host_dir(std::path::Path::new("/"))
                .map_err(|e| Error::system("open /", e))?;
            let context = fsopen(c"overlay")?;
            if fsconfig_fd(context.as_fd(), c"lowerdir+", root.as_fd()).is_ok() {
                return Ok(OverlayMode::Descriptors);
            }
            // Before 6.5 overlay takes whatever it is told here, and says at the mount only that it does not know it.
            let context = fsopen(c"overlay")?;
            if fsconfig_string(context.as_fd(), c"wharf-no-such-option", c"/").is_ok() {
                return Ok(OverlayMode::Page);
            }
            let context = fsopen(c"overlay")?;
            if fsconfig_string(context.as_fd(), c"lowerdir+", c"/").is_ok() {
                return Ok(OverlayMode::OneByOne);
            }
            Ok(OverlayMode::Page)
        };
        // Where not even the file system is known, the mount itself will say so.
        probe().unwrap_or(OverlayMode::Page)
    })
}

/// The directories of an overlay, opened, and its other options.
struct Layers<'a> {
    lower: Vec<OwnedFd>,
    /// `upperdir` and `workdir`.
    named: Vec<(&'a str, OwnedFd)>,
    rest: Vec<(&'a str, Option<&'a str>)>,
}

/// `attached` says that layers which are mounts of the plan are attached in this thread's namespace.
fn overlay(
    roots: &Roots,
    made: &[OwnedFd],
    mount: &Mount,
    mode: OverlayMode,
    attached: bool,
) -> Result<OwnedFd, Error> {
    let mut layers = Layers { lower: Vec::new(), named: Vec::new(), rest: Vec::new() };
    let open = |place: &Place| {
        let dir = roots.open_in(place, made, DIR)?;
        // As for `page`: in a namespace of its own only what is opened there will do.
        if attached && !is_mounted(place) { same(&dir) } else { Ok(dir) }
    };
    for (name, value) in &mount.options {
        match (name.as_str(), value) {
            ("lowerdir" | "lowerdir+", OptionValue::Place(place)) => layers.lower.push(open(place)?),
            ("lowerdir" | "lowerdir+", OptionValue::Places(list)) => {
                for place in list {
                    layers.lower.push(open(place)?);
                }
            }
            ("upperdir" | "workdir", OptionValue::Place(place)) => {
                layers.named.push((name.as_str(), open(place)?));
            }
            ("lowerdir" | "lowerdir+" | "upperdir" | "workdir", _) => {
                return Err(Error::Invalid(format!("overlay's {name} must be a place")));
            }
            (name, OptionValue::Flag) => layers.rest.push((name, None)),
            (name, OptionValue::Text(text)) => layers.rest.push((name, Some(text))),
            (name, _) => {
                return Err(Error::Unsupported(
                    format!("this kind of value for option {name}"),
                    "with overlay".into(),
                ));
            }
        }
    }
    let attributes = attributes(mount.attributes);
    match mode {
        OverlayMode::Page if attached => page_here(&layers, attributes),
        OverlayMode::Page => page(&layers, attributes),
        _ => stepwise(&layers, attributes, mode == OverlayMode::Descriptors),
    }
}

/// Whether a place is in another mount of its plan.
fn is_mounted(place: &Place) -> bool {
    matches!(place.root, wharf_plan::files::Root::Mount(_))
}

/// An overlay that may have other mounts of the plan as its layers. Before Linux 6.15 it takes only those that are attached
/// in the mounting thread's namespace, so there a thread gets a namespace of its own to attach them in.
fn overlay_of(roots: &Roots, made: &[OwnedFd], mount: &Mount, mode: OverlayMode) -> Result<OwnedFd, Error> {
    let of_mounts = mount.options.iter().any(|(_, value)| match value {
        OptionValue::Place(place) => is_mounted(place),
        OptionValue::Places(list) => list.iter().any(is_mounted),
        _ => false,
    });
    if !of_mounts || (mode == OverlayMode::Descriptors && takes_detached()) {
        return overlay(roots, made, mount, mode, false);
    }
    private(move || {
        for tree in made {
            // Any directory that is certainly there; each covers the one before, and all stay reachable by descriptor.
            let point = open_tree(None, c"/sys", 0)?;
            sys::move_mount(tree.as_fd(), point.as_fd())?;
        }
        overlay(roots, made, mount, mode, true)
    })
}

/// A read-only overlay of mounts that are nowhere, the lowest first.
pub(super) fn stack(any: &OwnedFd, made: &[OwnedFd]) -> Result<OwnedFd, Error> {
    let dup = || rustix::io::fcntl_dupfd_cloexec(any, 0).context(|| "dup".into());
    // Every place is one of the mounts.
    let roots = Roots { data: dup()?, run: dup()?, granted: BTreeMap::new(), objects: BTreeMap::new() };
    let nth = |n: usize| Place {
        root: wharf_plan::files::Root::Mount(u32::try_from(n).unwrap_or(u32::MAX)),
        path: String::new(),
    };
    let lower = (0..made.len()).rev().map(nth).collect();
    let mount = Mount {
        fstype: "overlay".into(),
        source: Source::None,
        options: vec![("lowerdir".into(), OptionValue::Places(lower))],
        attributes: MountAttributes::READ_ONLY,
        id_maps: Vec::new(),
    };
    overlay_of(&roots, made, &mount, overlay_mode())
}

/// Whether this kernel's overlay takes layers out of detached mounts, and copies these.
pub(super) fn takes_detached() -> bool {
    static TAKES: OnceLock<bool> = OnceLock::new();
    // The same version brought both.
    *TAKES.get_or_init(crate::sys::process::pidfd_tells_exit)
}

fn stepwise(layers: &Layers<'_>, attributes: u64, descriptors: bool) -> Result<OwnedFd, Error> {
    let context = fsopen(c"overlay")?;
    let give = |key: &CStr, dir: &OwnedFd| -> Result<(), Error> {
        if descriptors {
            fsconfig_fd(context.as_fd(), key, dir.as_fd())?;
        } else {
            fsconfig_string(context.as_fd(), key, &cstring(by_fd(dir))?)?;
        }
        Ok(())
    };
    for dir in &layers.lower {
        give(c"lowerdir+", dir)?;
    }
    for (name, dir) in &layers.named {
        give(&cstring(*name)?, dir)?;
    }
    for (name, value) in &layers.rest {
        match value {
            None => fsconfig_flag(context.as_fd(), &cstring(*name)?)?,
            Some(value) => fsconfig_string(context.as_fd(), &cstring(*name)?, &cstring(*value)?)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), attributes)?)
}

/// Bytes that `mount(2)` takes as options.
const PAGE: usize = 4095;

/// Before 6.5 a value given to `fsconfig` ends after 255 bytes, which is not enough for many layers; `mount(2)` takes
/// a page. It can only mount on a name, so a thread gets a mount namespace of its own, mounts there, and takes the
/// detached copy out of it.
fn page(layers: &Layers<'_>, attributes: u64) -> Result<OwnedFd, Error> {
    private(move || {
        // Overlay takes directories of the mounting thread's own namespace only, which is a copy: open them again there.
        let rest = layers.rest.clone();
        let lower = layers.lower.iter().map(same).collect::<Result<Vec<_>, _>>()?;
        let mut named = Vec::new();
        for (name, dir) in &layers.named {
            named.push((*name, same(dir)?));
        }
        page_here(&Layers { lower, named, rest }, attributes)
    })
}

/// [`page`] in a namespace where the layers and nothing else are.
fn page_here(layers: &Layers<'_>, attributes: u64) -> Result<OwnedFd, Error> {
    let Layers { lower, named, rest } = layers;
    let mut options = Vec::new();
    if !lower.is_empty() {
        options.push(format!("lowerdir={}", lower.iter().map(by_fd).collect::<Vec<_>>().join(":")));
    }
    options.extend(named.iter().map(|(name, dir)| format!("{name}={}", by_fd(dir))));
    options.extend(rest.iter().map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => (*name).to_owned(),
    }));
    let text = options.join(",");
    if text.len() > PAGE {
        return Err(Error::Unsupported(
            format!("an overlay of {} layers", lower.len()),
            "by this kernel (6.5 and later can)".into(),
        ));
    }
    let data = cstring(text)?;
    // Any directory that is certainly there; `/proc` was needed for the names of the layers already.
    let point = c"/proc";
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount(c"overlay", point, c"overlay", flags, data.as_c_str())
        .map_err(|e| Error::system("mount overlay", e))?;
    let tree = open_tree(None, point, OPEN_TREE_CLONE)?;
    if attributes != 0 {
        sys::mount_setattr(tree.as_fd(), false, &MountAttr { set: attributes, ..MountAttr::default() })?;
    }
    Ok(tree)
}

/// The same directory as this namespace has it.
fn same(dir: &OwnedFd) -> Result<OwnedFd, Error> {
    let what = || "open a layer again".to_owned();
    let path = rustix::fs::readlink(by_fd(dir), Vec::new()).context(what)?;
    let again = rustix::fs::open(path.as_c_str(), DIR, rustix::fs::Mode::empty()).context(what)?;
    let (old, new) = (rustix::fs::fstat(dir).context(what)?, rustix::fs::fstat(&again).context(what)?);
    if (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino) {
        Ok(again)
    } else {
        Err(Error::Unsupported("a layer out of another mount of the plan".into(), "by this kernel".into()))
    }
}

/// Runs something on a thread with a mount namespace of its own, which ends with the thread.
fn private(job: impl FnOnce() -> Result<OwnedFd, Error> + Send) -> Result<OwnedFd, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".into()).spawn_scoped(scope, move || {
            crate::sys::process::unshare(crate::sys::process::CLONE_NEWNS)?;
            // Nothing done here may reach the host's own mount table.
            crate::sys::mount::set_root_propagation(libc::MS_PRIVATE)?;
            job()
        });
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            _ => Err(Error::Invalid("the thread that mounts could not run".into())),
        }
    })
}

/// A detached copy of an open directory.
pub fn detached(dir: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    Ok(open_tree(Some(dir), c"", OPEN_TREE_CLONE)?)
}
