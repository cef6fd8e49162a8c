//! Carrying out file operations, all or none.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags};
use rustix::io::Errno;
use wharf_plan::files::{Op, Owner, Place, Quota, Root};

use super::tree::{self, by_fd};
use super::{Context, Error, Roots, copy, image, quota, show, subvolume, trash};

/// What takes one finished step back.
enum Undo<'a> {
    Remove(&'a Place),
    Rename(&'a Place, &'a Place),
    Owner(&'a Place, u32, u32, u32),
    Xattr(&'a Place, &'a str, Option<Vec<u8>>),
    Untrash(trash::Trashed, &'a Place),
    UntrashImages(trash::Trashed, Place),
    MoveImages(Place, Place),
    Quota(&'a Quota, quota::Before),
}

/// Carries out the operations in order, all or none: when one fails, those before it are undone and the error of the
/// failed one is answered.
///
/// `make-dir` of a directory that exists changes nothing and succeeds, so that a plan can be repeated after a crash;
/// missing parents are made for root alone. `remove-tree` of something absent succeeds.
pub fn apply(roots: &Roots, ops: &[Op]) -> Result<(), Error> {
    let mut done = Vec::with_capacity(ops.len());
    for op in ops {
        if let Err(error) = one(roots, op, &mut done) {
            for step in done.into_iter().rev() {
                if let Err(error) = back(roots, step) {
                    tracing::error!(%error, "could not undo a step of a failed file plan");
                }
            }
            return Err(error);
        }
    }
    for step in done {
        if let Undo::Untrash(trashed, _) | Undo::UntrashImages(trashed, _) = step {
            trash::bury(trashed);
        }
    }
    Ok(())
}

/// Takes back what a plan did or began, given the operations that undo it: whatever is not there is fine, and one that
/// fails does not keep the others. Answers the first failure.
pub fn take_back(roots: &Roots, ops: &[Op]) -> Result<(), Error> {
    let mut result = Ok(());
    for op in ops {
        match apply(roots, std::slice::from_ref(op)) {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::NOENT.raw_os_error()) => {}
            Err(error) => {
                tracing::warn!(%error, "a step of undoing failed");
                if result.is_ok() {
                    result = Err(error);
                }
            }
        }
    }
    result
}

/// Whether there is something at a place.
pub fn exists(roots: &Roots, place: &Place) -> bool {
    roots.open(place, OFlags::PATH | OFlags::NOFOLLOW).is_ok()
}

fn one<'a>(roots: &Roots, op: &'a Op, done: &mut Vec<Undo<'a>>) -> Result<(), Error> {
    let what = |place: &Place| format!("{} {}", op.kind(), show(place));
    match op {
        Op::MakeDir(o) => {
            let (dir, name) = roots.parent(&o.at, true)?;
            match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    return roots.open(&o.at, super::DIR).map(drop);
                }
                Err(e) => return Err(e).context(|| what(&o.at)),
            }
            done.push(Undo::Remove(&o.at));
            let made = open_child(&dir, name, OFlags::RDONLY | OFlags::DIRECTORY).context(|| what(&o.at))?;
            own(&made, o.uid, o.gid, o.mode).context(|| what(&o.at))
        }
        Op::WriteFile(f) => {
            let (dir, name) = roots.parent(&f.at, true)?;
            write_file(roots, &dir, name, f, done).context(|| what(&f.at))
        }
        Op::MakeSparse(s) => {
            let (dir, name) = roots.parent(&s.at, true)?;
            let file = create(&dir, name, Mode::RUSR | Mode::WUSR).context(|| what(&s.at))?;
            done.push(Undo::Remove(&s.at));
            rustix::fs::ftruncate(&file, s.size).context(|| what(&s.at))
        }
        Op::CopyTree(c) => {
            let source = roots.open(&c.source, OFlags::PATH | OFlags::NOFOLLOW)?;
            let (dir, name) = roots.parent(&c.target, true)?;
            if rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                return Err(Errno::EXIST).context(|| what(&c.target));
            }
            done.push(Undo::Remove(&c.target));
            copy::copy(source.as_fd(), dir.as_fd(), name.as_bytes(), c.reflink).context(|| what(&c.target))
        }
        Op::Rename((from, to)) => {
            // Images first: after a crash between the two the plan is undone, and finds them where they went.
            let images = image::move_along(roots, from, to)?;
            let moved = images.is_some();
            done.extend(images.map(|(from, to)| Undo::MoveImages(to, from)));
            match rename(roots, from, to, true) {
                Ok(()) => done.push(Undo::Rename(to, from)),
                // An image alone.
                Err(error) if moved && error.errno() == Some(Errno::NOENT.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        }
        Op::SetOwner(Owner { at, uid, gid, mode }) => {
            let file = roots.open(at, OFlags::PATH | OFlags::NOFOLLOW)?;
            let old = rustix::fs::fstat(&file).context(|| what(at))?;
            done.push(Undo::Owner(at, old.st_uid, old.st_gid, old.st_mode & 0o7777));
            own_path(&file, *uid, *gid, *mode).context(|| what(at))
        }
        Op::SetXattr(x) => {
            let file = roots.open(&x.at, OFlags::PATH | OFlags::NOFOLLOW)?;
            let old = tree::get_xattr(&by_fd(&file), x.name.as_bytes()).context(|| what(&x.at))?;
            rustix::fs::setxattr(by_fd(&file), x.name.as_str(), &x.value, XattrFlags::empty())
                .context(|| format!("{} {}", what(&x.at), x.name))?;
            done.push(Undo::Xattr(&x.at, &x.name, old));
            Ok(())
        }
        Op::RemoveTree(at) => {
            throw_images_away(roots, at, done)?;
            if let Some(trashed) = trash::throw_away(roots, at)? {
                done.push(Undo::Untrash(trashed, at));
            }
            Ok(())
        }
        Op::SetQuota(q) => {
            if let Some(before) = quota::set(roots, q)? {
                done.push(Undo::Quota(q, before));
            }
            Ok(())
        }
        Op::SubvolumeCreate(at) => {
            // As with `make-dir`, so that a plan can be repeated after a crash.
            if exists(roots, at) {
                return subvolume::check_removable(roots, at).map(drop);
            }
            done.push(Undo::Remove(at));
            subvolume::create(roots, at).map(drop)
        }
        Op::SubvolumeClone(c) => {
            if exists(roots, &c.target) {
                return Err(Errno::EXIST).context(|| what(&c.target));
            }
            done.push(Undo::Remove(&c.target));
            subvolume::snapshot(roots, &c.source, &c.target, c.read_only)
        }
        Op::SubvolumeRemove(at) => {
            throw_images_away(roots, at, done)?;
            if subvolume::check_removable(roots, at)?
                && let Some(trashed) = trash::throw_away(roots, at)?
            {
                done.push(Undo::Untrash(trashed, at));
            }
            Ok(())
        }
        Op::DatasetCreate(_)
        | Op::DatasetSnapshot(_)
        | Op::DatasetRemove(_)
        | Op::OpenDevice(_)
        | Op::Format(_)
        | Op::Other(_) => Err(Error::Unsupported(format!("operation {}", op.kind()), "by this host".into())),
    }
}

fn write_file<'a>(
    roots: &Roots,
    dir: &OwnedFd,
    name: &str,
    file: &'a wharf_plan::files::File,
    done: &mut Vec<Undo<'a>>,
) -> Result<(), Errno> {
    // A new file takes the old one's place in one step, so no reader sees half of it, and the old one can come back.
    let fresh = format!(".new-{}", trash::unique());
    let out = create(dir, &fresh, Mode::RUSR | Mode::WUSR)?;
    let written = tree::write_all(&out, &file.content)
        .and_then(|()| rustix::fs::fchmod(&out, Mode::from_raw_mode(file.mode & 0o7777)))
        .and_then(|()| match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => match trash::throw_away(roots, &file.at) {
                Ok(Some(old)) => {
                    done.push(Undo::Untrash(old, &file.at));
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(Error::System { error, .. }) => Err(error),
                Err(_) => Err(Errno::INVAL),
            },
            Err(_) => Ok(()),
        })
        .and_then(|()| rustix::fs::renameat_with(dir, fresh.as_str(), dir, name, RenameFlags::NOREPLACE));
    match written {
        Ok(()) => {
            done.push(Undo::Remove(&file.at));
            Ok(())
        }
        Err(e) => {
            // Best effort: the name is unique and the sweep of the directory's owner takes it otherwise.
            let _ = rustix::fs::unlinkat(dir, fresh.as_str(), AtFlags::empty());
            Err(e)
        }
    }
}

fn back(roots: &Roots, step: Undo<'_>) -> Result<(), Error> {
    match step {
        Undo::Remove(place) => {
            if let Some(trashed) = trash::throw_away(roots, place)? {
                trash::bury(trashed);
            }
            Ok(())
        }
        Undo::Rename(from, to) => rename(roots, from, to, false),
        Undo::MoveImages(from, to) => rename(roots, &from, &to, false),
        Undo::Owner(at, uid, gid, mode) => {
            let file = roots.open(at, OFlags::PATH | OFlags::NOFOLLOW)?;
            own_path(&file, uid, gid, mode).context(|| show(at))
        }
        Undo::Xattr(at, name, old) => {
            let file = roots.open(at, OFlags::PATH | OFlags::NOFOLLOW)?;
            match old {
                Some(value) => rustix::fs::setxattr(by_fd(&file), name, &value, XattrFlags::empty()),
                None => rustix::fs::removexattr(by_fd(&file), name),
            }
            .context(|| show(at))
        }
        Undo::Quota(wanted, before) => quota::restore(roots, wanted, before),
        Undo::Untrash(trashed, at) => {
            let (dir, name) = roots.parent(at, false)?;
            trashed.restore(dir.as_fd(), name).context(|| show(at))
        }
        Undo::UntrashImages(trashed, at) => {
            let (dir, name) = roots.parent(&at, false)?;
            trashed.restore(dir.as_fd(), name).context(|| show(&at))
        }
    }
}

/// Gives what is at one place another one, where nothing may be yet.
pub(super) fn rename(roots: &Roots, from: &Place, to: &Place, make: bool) -> Result<(), Error> {
    let (from_dir, from_name) = roots.parent(from, false)?;
    let (to_dir, to_name) = roots.parent(to, make)?;
    rustix::fs::renameat_with(&from_dir, from_name, &to_dir, to_name, RenameFlags::NOREPLACE)
        .context(|| format!("rename {} to {}", show(from), show(to)))
}

fn throw_images_away(roots: &Roots, at: &Place, done: &mut Vec<Undo<'_>>) -> Result<(), Error> {
    if let Some(images) = image::room(at)
        && let Some(trashed) = trash::throw_away(roots, &images)?
    {
        done.push(Undo::UntrashImages(trashed, images));
    }
    Ok(())
}

fn create(dir: &OwnedFd, name: &str, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, mode)
}

fn open_child(dir: &OwnedFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn own(file: &OwnedFd, uid: u32, gid: u32, mode: u32) -> Result<(), Errno> {
    if uid != 0 || gid != 0 {
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))
}

/// As [`own`] for an `O_PATH` descriptor; the mode of a link cannot be changed and is left.
fn own_path(file: &OwnedFd, uid: u32, gid: u32, mode: u32) -> Result<(), Errno> {
    rustix::fs::chownat(file, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
    if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode).is_symlink() {
        return Ok(());
    }
    rustix::fs::chmod(by_fd(file), Mode::from_raw_mode(mode & 0o7777))
}

/// A plugin's own trees have a trash of their own; foreign directories get no such thing.
pub(super) fn has_trash(root: &Root) -> bool {
    matches!(root, Root::Data | Root::Run)
}
