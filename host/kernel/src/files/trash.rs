//! Removal: the name goes at once, the files later and elsewhere.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError, mpsc};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use wharf_plan::files::{Place, TRASH};

use super::apply::has_trash;
use super::{Context, DIR, Error, Roots, image, quota, show, subvolume};

/// Something that was moved out of sight but still exists.
pub(super) struct Trashed {
    trash: OwnedFd,
    name: String,
}

impl Trashed {
    /// Moves it back.
    pub(super) fn restore(self, dir: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
        rustix::fs::renameat_with(&self.trash, self.name.as_str(), dir, name, RenameFlags::NOREPLACE)
    }
}

/// A name that nothing else in this boot uses.
pub(super) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    format!("{:x}-{:x}-{:x}-{n:x}", rustix::process::getpid().as_raw_nonzero(), now.tv_sec, now.tv_nsec)
}

fn trash_of(root: BorrowedFd<'_>, make: bool) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(root, TRASH, DIR | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::NOENT) if make => {
            match rustix::fs::mkdirat(root, TRASH, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            rustix::fs::openat(root, TRASH, DIR | OFlags::NOFOLLOW, Mode::empty())
        }
        other => other,
    }
}

/// Takes the thing at `place` out of sight. None if there is nothing, or if it is gone for good already.
pub(super) fn throw_away(roots: &Roots, place: &Place) -> Result<Option<Trashed>, Error> {
    let (dir, name) = match roots.parent(place, false) {
        Err(Error::System { error: Errno::NOENT, .. }) => return Ok(None),
        other => other?,
    };
    if has_trash(&place.root) {
        let trash = trash_of(roots.root(&place.root, &[])?, true).context(|| show(place))?;
        let unique = unique();
        match rustix::fs::renameat(&dir, name, &trash, unique.as_str()) {
            Ok(()) => return Ok(Some(Trashed { trash, name: unique })),
            Err(Errno::NOENT) => return Ok(None),
            // Another file system beneath the root.
            Err(Errno::XDEV) => {}
            // A read-only subvolume: moving it changes what is its `..`.
            Err(Errno::ROFS) => {
                let opened = roots.open_dir(place)?;
                subvolume::make_writable(&opened);
                return match rustix::fs::renameat(&dir, name, &trash, unique.as_str()) {
                    Ok(()) => Ok(Some(Trashed { trash, name: unique })),
                    Err(e) => Err(e).context(|| format!("remove {}", show(place))),
                };
            }
            Err(e) => return Err(e).context(|| format!("remove {}", show(place))),
        }
    }
    match remove_tree(dir.as_fd(), name) {
        Ok(()) | Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e).context(|| format!("remove {}", show(place))),
    }
}

/// Deletes what was thrown away, in the background.
pub(super) fn bury(trashed: Trashed) {
    later(Work::Delete(trashed));
}

/// Closes the last descriptor of a mount in the background: overlay flushes the file system beneath it when it ends,
/// which takes milliseconds. What is removed afterwards is deleted after that.
pub fn close_later(mount: OwnedFd) {
    later(Work::Close(mount));
}

/// Jobs that may wait; who adds more than that does them by himself, so that the queue cannot grow for ever.
const BACKLOG: u64 = 512;

fn later(work: Work) {
    let reaper = reaper();
    let crowded = {
        let mut waiting = lock(&reaper.waiting);
        *waiting += 1;
        *waiting > BACKLOG
    };
    if crowded {
        work.carry_out();
        finished(reaper);
    } else if let Err(mpsc::SendError(work)) = reaper.queue.send(work) {
        work.carry_out();
        finished(reaper);
    }
}

enum Work {
    Delete(Trashed),
    Close(OwnedFd),
}

impl Work {
    fn carry_out(self) {
        match self {
            Self::Close(mount) => drop(mount),
            Self::Delete(trashed) => {
                let dir = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let projects = rustix::fs::openat(&trashed.trash, trashed.name.as_str(), dir, Mode::empty())
                    .map(|dir| quota::projects_of(&dir))
                    .unwrap_or_default();
                match remove_tree(trashed.trash.as_fd(), &trashed.name) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => {
                        tracing::warn!(name = trashed.name, %error, "could not delete a removed tree");
                    }
                }
                for project in projects {
                    quota::forget(&trashed.trash, project);
                }
                image::let_deleted_go();
            }
        }
    }
}

/// Deletes in the background what an earlier process left in the trash of these roots.
pub fn empty_trash(roots: &Roots) -> Result<(), Error> {
    for root in [&roots.data, &roots.run] {
        let trash = match trash_of(root.as_fd(), false) {
            Ok(trash) => trash,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e).context(|| format!("open {TRASH}")),
        };
        let list = rustix::fs::openat(
            &trash,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .and_then(Dir::new)
        .context(|| format!("read {TRASH}"))?;
        for entry in list {
            let entry = entry.context(|| format!("read {TRASH}"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                let trash = rustix::io::fcntl_dupfd_cloexec(&trash, 0).context(|| "dup".into())?;
                bury(Trashed { trash, name });
            }
        }
    }
    Ok(())
}

/// Waits until everything thrown away so far is deleted.
pub fn drain() {
    let reaper = reaper();
    let mut waiting = lock(&reaper.waiting);
    while *waiting > 0 {
        waiting = reaper.idle.wait(waiting).unwrap_or_else(PoisonError::into_inner);
    }
}

struct Reaper {
    queue: mpsc::Sender<Work>,
    waiting: Mutex<u64>,
    idle: Condvar,
}

fn lock(counter: &Mutex<u64>) -> std::sync::MutexGuard<'_, u64> {
    counter.lock().unwrap_or_else(PoisonError::into_inner)
}

fn finished(reaper: &Reaper) {
    let mut waiting = lock(&reaper.waiting);
    *waiting = waiting.saturating_sub(1);
    if *waiting == 0 {
        reaper.idle.notify_all();
    }
}

fn reaper() -> &'static Reaper {
    static REAPER: OnceLock<Reaper> = OnceLock::new();
    REAPER.get_or_init(|| {
        let (queue, work) = mpsc::channel::<Work>();
        let thread = std::thread::Builder::new().name("files-reaper".into()).spawn(move || {
            for job in work {
                job.carry_out();
                finished(reaper());
            }
        });
        if let Err(error) = thread {
            // The trash stays until the next start.
            tracing::error!(%error, "no thread to delete removed trees");
        }
        Reaper { queue, waiting: Mutex::new(0), idle: Condvar::new() }
    })
}

/// Directories held open at once while deleting.
const DEPTH: usize = 32;

/// Deletes whatever is called `name` in `dir`, with everything beneath. Follows no link and crosses no mount (a mount
/// point cannot be unlinked). Deeper trees than a fixed number of levels are brought up to `dir` and deleted there, so
/// that neither descriptors nor the stack grow with hostile nesting.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    remove_tree_bytes(dir, name.as_bytes())
}

pub(super) fn remove_tree_bytes(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let mut roots = vec![name.to_vec()];
    let mut result = Ok(());
    while let Some(name) = roots.pop() {
        if let Err(e) = remove(dir, &name, DEPTH, dir, &mut roots) {
            result = Err(e);
        }
    }
    result
}

fn remove(
    dir: BorrowedFd<'_>,
    name: &[u8],
    depth: usize,
    top: BorrowedFd<'_>,
    more: &mut Vec<Vec<u8>>,
) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return other,
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        other => return other,
    }
    if depth == 0 {
        let fresh = format!(".deep-{}", unique());
        rustix::fs::renameat(dir, name, top, fresh.as_str())?;
        more.push(fresh.into_bytes());
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    if subvolume::destroy(dir, name, &opened) {
        return Ok(());
    }
    // File systems may skip entries when others go meanwhile, so look again until it is empty or nothing goes.
    let mut passes = 0;
    loop {
        empty(&opened, depth, top, more)?;
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if passes < 16 => passes += 1,
            other => return other,
        }
    }
}

/// Deletes everything in a directory.
fn empty(opened: &OwnedFd, depth: usize, top: BorrowedFd<'_>, more: &mut Vec<Vec<u8>>) -> Result<(), Errno> {
    let mut result = Ok(());
    for entry in Dir::read_from(opened)? {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if child == b"." || child == b".." {
            continue;
        }
        let removed = if entry.file_type() == FileType::Directory {
            remove(opened.as_fd(), child, depth - 1, top, more)
        } else {
            match rustix::fs::unlinkat(opened, child, AtFlags::empty()) {
                Err(Errno::ISDIR) => remove(opened.as_fd(), child, depth - 1, top, more),
                other => other,
            }
        };
        // One stubborn file must not keep the rest.
        if let Err(e) = removed {
            result = Err(e);
        }
    }
    result
}
