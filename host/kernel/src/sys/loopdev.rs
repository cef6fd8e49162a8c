//! Loop devices (`linux/loop.h`): a file as a block device.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;
use crate::error::Result;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const CONFIGURE: u64 = 0x4C0A;
const GET_STATUS: u64 = 0x4C05;
const GET_FREE: u64 = 0x4C82;

/// `LO_FLAGS_READ_ONLY`.
pub const READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR`: the device is free again when nobody has it open and nothing of it is mounted.
pub const AUTOCLEAR: u32 = 4;
/// `LO_FLAGS_DIRECT_IO`; where the file system cannot, the kernel leaves it off.
pub const DIRECT_IO: u32 = 16;

const NOTHING: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// What a loop device shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Device of the file system that the file is on, as `stat` has it.
    pub device: u64,
    /// Number of the file there.
    pub inode: u64,
    /// Where in the file the device begins.
    pub offset: u64,
    /// Bytes of the file that it shows; 0 is all.
    pub size_limit: u64,
    /// Flags of this module.
    pub flags: u32,
}

/// The number of a device that is free, made if there is none; another process may be faster. `control` is
/// `/dev/loop-control`.
pub fn free(control: BorrowedFd<'_>) -> Result<u32> {
    let fd = control.as_raw_fd();
    // SAFETY: the request takes no argument.
    let number = unsafe { libc::ioctl(fd, GET_FREE as _) };
    let number = check(number.into(), || format!("ioctl({fd}, LOOP_CTL_GET_FREE)"))?;
    Ok(u32::try_from(number).unwrap_or(0))
}

/// Makes a device show all of a file. EBUSY: it is not free.
pub fn configure(device: BorrowedFd<'_>, file: BorrowedFd<'_>, flags: u32) -> Result<()> {
    let (fd, backing) = (device.as_raw_fd(), file.as_raw_fd());
    let config = Config {
        file: backing.unsigned_abs(),
        block_size: 0,
        info: Info { flags, ..NOTHING },
        reserved: [0; 8],
    };
    // SAFETY: the structure is the kernel's and lives for the call, which only reads it.
    let result = unsafe { libc::ioctl(fd, CONFIGURE as _, std::ptr::from_ref(&config)) };
    check(result.into(), || format!("ioctl({fd}, LOOP_CONFIGURE, {backing}, {flags:#x})")).map(drop)
}

/// What a device shows. ENXIO: nothing.
pub fn status(device: BorrowedFd<'_>) -> Result<Status> {
    let fd = device.as_raw_fd();
    let mut info = NOTHING;
    // SAFETY: the structure is the kernel's and lives for the call.
    let result = unsafe { libc::ioctl(fd, GET_STATUS as _, std::ptr::from_mut(&mut info)) };
    check(result.into(), || format!("ioctl({fd}, LOOP_GET_STATUS64)"))?;
    let Info { device, inode, offset, size_limit, flags, .. } = info;
    Ok(Status { device, inode, offset, size_limit, flags })
}
