//! How much a directory may take: accounting groups of btrfs, project quota of ext4 and xfs.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use wharf_plan::files::Quota;

use super::{Context, Error, Roots, show, subvolume, tree};
use crate::sys::{btrfs, quota};

/// Projects with smaller numbers are the administrator's.
const FIRST: u32 = 1 << 20;
/// Numbers that are tried for a new project.
const ATTEMPTS: u32 = 4096;

/// What brings an earlier limit back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    project: u32,
    bytes: u64,
    inodes: u64,
}

/// Limits a directory. Answers what was before, where that can be told; the limit of a subvolume goes with it.
pub(super) fn set(roots: &Roots, wanted: &Quota) -> Result<Option<Before>, Error> {
    let dir = roots.open_dir(&wanted.at)?;
    if subvolume::is_subvolume(&dir) {
        return subvolume_limit(&dir, wanted).map(|()| None);
    }
    let unsupported = || {
        #[allow(clippy::cast_sign_loss, reason = "a magic number")]
        let name = rustix::fs::fstatfs(&dir).map(|fs| tree::filesystem_name(fs.f_type as u64));
        Error::Unsupported(
            "set-quota".into(),
            format!(
                "on {}: Filesystem does not support, or has not enabled quotas",
                name.unwrap_or_default()
            ),
        )
    };
    if !has_projects(&dir) {
        return Err(unsupported());
    }
    let _choosing = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
    let (bytes, inodes) = (wanted.bytes.unwrap_or(0), wanted.inodes.unwrap_or(0));
    let known = quota::project(dir.as_fd())?;
    if known != 0 {
        let before = quota::usage(dir.as_fd(), known)?;
        quota::limit(dir.as_fd(), known, bytes, inodes)?;
        return Ok(Some(Before { project: known, bytes: before.byte_limit, inodes: before.inode_limit }));
    }
    let project = free_number(&dir)?;
    quota::limit(dir.as_fd(), project, bytes, inodes)?;
    if let Err(error) = mark(&dir, project).context(|| format!("set-quota {}", show(&wanted.at))) {
        quota::limit(dir.as_fd(), project, 0, 0)?;
        return Err(error);
    }
    Ok(Some(Before { project, bytes: 0, inodes: 0 }))
}

/// Brings an earlier limit back.
pub(super) fn restore(roots: &Roots, wanted: &Quota, before: Before) -> Result<(), Error> {
    let dir = roots.open_dir(&wanted.at)?;
    Ok(quota::limit(dir.as_fd(), before.project, before.bytes, before.inodes)?)
}

/// What a full directory gets for as long as [`with_more_room`] takes, in bytes.
const MORE: u64 = 4 << 20;

/// Does something that needs a little room in a directory that has reached its limit.
pub(super) fn with_more_room<T>(dir: &OwnedFd, job: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let limits =
        project_of(dir).and_then(|project| Some((project, quota::usage(dir.as_fd(), project).ok()?)));
    let Some((project, limits)) = limits.filter(|(_, limits)| limits.byte_limit > 0) else { return job() };
    quota::limit(dir.as_fd(), project, limits.byte_limit.saturating_add(MORE), limits.inode_limit)?;
    let done = job();
    quota::limit(dir.as_fd(), project, limits.byte_limit, limits.inode_limit)?;
    done
}

/// Whether directories of this file system can be limited by project.
pub fn has_projects(dir: impl AsFd) -> bool {
    quota::enforced(dir.as_fd()).unwrap_or(false)
}

fn subvolume_limit(dir: &OwnedFd, wanted: &Quota) -> Result<(), Error> {
    if wanted.inodes.is_some() {
        return Err(Error::Unsupported("a limit of the number of files".into(), "on btrfs".into()));
    }
    match btrfs::limit(dir.as_fd(), wanted.bytes) {
        // Nothing is counted on this file system yet.
        Err(error) if error.is(libc::ENOTCONN) || error.is(libc::EINVAL) => {
            btrfs::enable_quota(dir.as_fd())?;
            Ok(btrfs::limit(dir.as_fd(), wanted.bytes)?)
        }
        other => Ok(other?),
    }
}

/// Who looks for a free number must see what another one has just taken.
static CHOOSING: Mutex<()> = Mutex::new(());

/// A project that nothing belongs to.
fn free_number(dir: &OwnedFd) -> Result<u32, Error> {
    let inode = rustix::fs::fstat(dir).map_err(|e| Error::system("stat", e))?.st_ino;
    let start = u32::try_from(inode % u64::from(u32::MAX - FIRST - ATTEMPTS)).unwrap_or(0);
    for attempt in 0..ATTEMPTS {
        let project = FIRST + start + attempt;
        match quota::usage(dir.as_fd(), project) {
            Ok(quota::Project { space: 0, inodes: 0, byte_limit: 0, inode_limit: 0 }) => return Ok(project),
            Ok(_) => {}
            // xfs has no record of a project that was never used.
            Err(error) if error.is(libc::ENOENT) => return Ok(project),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Invalid("no project number is free".into()))
}

/// Puts a directory and all that is in it into a project. Links, pipes and devices cannot be, and take no space.
fn mark(dir: &OwnedFd, project: u32) -> Result<(), Errno> {
    let put = |file: &OwnedFd, inherit| {
        quota::set_project(file.as_fd(), project, inherit).map_err(|e| Errno::from_raw_os_error(e.errno()))
    };
    tree::walk::<Errno>(dir.as_fd(), &mut |entry| {
        let kind = FileType::from_raw_mode(entry.stat.st_mode);
        if kind.is_dir() || kind.is_file() {
            let file = tree::open_child(entry.dir, entry.name, OFlags::RDONLY | OFlags::NONBLOCK)?;
            put(&file, kind.is_dir())?;
        }
        Ok(())
    })?;
    put(dir, true)
}

/// The project of a directory that is about to be deleted; none if it has none of ours.
pub(super) fn project_of(dir: impl AsFd) -> Option<u32> {
    quota::project(dir.as_fd()).ok().filter(|project| *project >= FIRST)
}

/// Directories of one that goes which are looked at for projects of their own.
const PARTS: usize = 64;

/// The projects of a directory that is about to be deleted: its own, or else those of the directories in it, where one may
/// be what is limited (`_data` of a volume).
pub(super) fn projects_of(dir: &OwnedFd) -> Vec<u32> {
    if let Some(own) = project_of(dir) {
        return vec![own];
    }
    if !has_projects(dir) {
        return Vec::new();
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let names = tree::names(dir).unwrap_or_default();
    let parts = names.iter().take(PARTS);
    parts
        .filter_map(|name| tree::open_child(dir.as_fd(), name.as_bytes(), flags).ok())
        .filter_map(project_of)
        .collect()
}

/// Lifts the limit of a project whose files are gone, so that its number is free.
pub(super) fn forget(near: impl AsFd, project: u32) {
    if let Err(error) = quota::limit(near.as_fd(), project, 0, 0) {
        tracing::warn!(%error, project, "a project keeps its limit");
    }
}
