//! Images as loop devices, for kernels that mount none out of files.
//!
//! A device is read-only and clears itself: when the last mount of it and the last descriptor are gone, so is it, however
//! those who had them ended. All mounts of one device share its superblock, also those of an earlier process, whose
//! device is found again.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::tree::by_fd;
use super::{Context, Error};
use crate::sys::loopdev as sys;

/// Block devices of this major number are loop devices (`LOOP_MAJOR`).
const MAJOR: u32 = 7;
/// Times that somebody else may take the free device.
const ATTEMPTS: u32 = 64;
const WANTED: u32 = sys::READ_ONLY | sys::AUTOCLEAR;

/// A device that shows an image, which an open name (`O_PATH`) leads to: the one there is, or a new one.
pub(super) fn device_of(image: &OwnedFd) -> Result<OwnedFd, Error> {
    // Two at once would make a device each.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let what = || "open an image for a loop device".to_owned();
    let stat = rustix::fs::fstat(image).context(what)?;
    if let Some(found) = existing((stat.st_dev, stat.st_ino)) {
        return Ok(found);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(by_fd(image), flags, Mode::empty()).context(what)?;
    let control = rustix::fs::open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open /dev/loop-control (this kernel mounts images by loop devices only)".to_owned())?;
    for _ in 0..ATTEMPTS {
        let number = sys::free(control.as_fd())?;
        let device = match open(number) {
            // A device that is new has no name until someone gives it one.
            Err(Errno::NOENT | Errno::NXIO) => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "udev tells nobody here; this is a thread for kernel work"
                )]
                std::thread::sleep(std::time::Duration::from_millis(2));
                continue;
            }
            other => other.context(|| format!("open /dev/loop{number}"))?,
        };
        match sys::configure(device.as_fd(), file.as_fd(), WANTED | sys::DIRECT_IO) {
            Ok(()) => return Ok(device),
            Err(error) if error.is(libc::EBUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Invalid("no loop device is free: others take each".into()))
}

fn open(number: u32) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let device = rustix::fs::open(format!("/dev/loop{number}"), flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&device)?;
    let right = FileType::from_raw_mode(stat.st_mode).is_block_device()
        && rustix::fs::major(stat.st_rdev) == MAJOR
        && rustix::fs::minor(stat.st_rdev) == number;
    if right { Ok(device) } else { Err(Errno::NODEV) }
}

/// A device that shows all of this file, and only shows it.
fn existing((device, inode): (u64, u64)) -> Option<OwnedFd> {
    let list = std::fs::read_dir("/sys/block").ok()?;
    for entry in list.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok()) else {
            continue;
        };
        // Only of one that shows something; opening the others would keep them from their users.
        if !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        let Ok(found) = open(number) else { continue };
        // Asked of the open one: it stays what it is until it is closed.
        if let Ok(status) = sys::status(found.as_fd())
            && (status.device, status.inode, status.offset, status.size_limit) == (device, inode, 0, 0)
            && status.flags & WANTED == WANTED
        {
            return Some(found);
        }
    }
    None
}
