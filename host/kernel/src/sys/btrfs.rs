//! Subvolumes and their quota on btrfs (`linux/btrfs.h`).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;
use crate::error::{Error, Result};

/// `_IOC(direction, 0x94, number, size)`; direction 1 is write, 2 is read.
const fn request(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | 0x94 << 8 | number
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InoLookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaCtl {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
struct QgroupCreate {
    create: u64,
    group: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct QgroupLimit {
    group: u64,
    flags: u64,
    referenced: u64,
    exclusive: u64,
    reserved: [u64; 2],
}

const SUBVOL_CREATE_V2: u64 = request(1, 24, size_of::<VolArgsV2>());
const SNAP_CREATE_V2: u64 = request(1, 23, size_of::<VolArgsV2>());
const SNAP_DESTROY: u64 = request(1, 15, size_of::<VolArgs>());
const SUBVOL_GETFLAGS: u64 = request(2, 25, size_of::<u64>());
const SUBVOL_SETFLAGS: u64 = request(1, 26, size_of::<u64>());
const INO_LOOKUP: u64 = request(3, 18, size_of::<InoLookup>());
const QUOTA_CTL: u64 = request(3, 40, size_of::<QuotaCtl>());
const QGROUP_CREATE: u64 = request(1, 42, size_of::<QgroupCreate>());
const QGROUP_LIMIT: u64 = request(2, 43, size_of::<QgroupLimit>());

const READ_ONLY: u64 = 1 << 1;
/// Number of a subvolume's own root directory.
pub const ROOT_INODE: u64 = 256;

fn ioctl<T>(
    file: BorrowedFd<'_>,
    request: u64,
    argument: &mut T,
    call: impl FnOnce() -> String,
) -> Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: every caller in this file passes the structure that the request's number was made of the size of; it
    // lives for the call, and holds no pointer.
    let result = unsafe { libc::ioctl(fd, request as _, std::ptr::from_mut(argument)) };
    check(result.into(), || format!("ioctl({fd}, {})", call())).map(drop)
}

/// A name with its NUL at the start of a field.
fn field<const N: usize>(name: &CStr) -> Result<[u8; N]> {
    let bytes = name.to_bytes_with_nul();
    let mut field = [0; N];
    field
        .get_mut(..bytes.len())
        .ok_or_else(|| Error::refused(format!("{name:?}"), libc::ENAMETOOLONG, "a name of a subvolume"))?
        .copy_from_slice(bytes);
    Ok(field)
}

/// A new, empty subvolume of this name in a directory.
pub fn create(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let mut args = VolArgsV2 { fd: 0, transid: 0, flags: 0, unused: [0; 4], name: field(name)? };
    ioctl(dir, SUBVOL_CREATE_V2, &mut args, || format!("BTRFS_IOC_SUBVOL_CREATE_V2, {name:?}"))
}

/// A snapshot of `source` (opened for reading) of this name in a directory.
pub fn snapshot(source: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr, read_only: bool) -> Result<()> {
    let fd = source.as_raw_fd();
    let flags = if read_only { READ_ONLY } else { 0 };
    let mut args = VolArgsV2 { fd: fd.into(), transid: 0, flags, unused: [0; 4], name: field(name)? };
    ioctl(dir, SNAP_CREATE_V2, &mut args, || format!("BTRFS_IOC_SNAP_CREATE_V2, {fd}, {name:?}, {flags:#x}"))
}

/// Removes a subvolume; the kernel frees its space in the background. ENOTEMPTY if there is another one inside.
pub fn destroy(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let mut args = VolArgs { fd: 0, name: field(name)? };
    ioctl(dir, SNAP_DESTROY, &mut args, || format!("BTRFS_IOC_SNAP_DESTROY, {name:?}"))
}

/// Whether a subvolume is read-only.
pub fn is_read_only(subvolume: BorrowedFd<'_>) -> Result<bool> {
    let mut flags = 0u64;
    ioctl(subvolume, SUBVOL_GETFLAGS, &mut flags, || "BTRFS_IOC_SUBVOL_GETFLAGS".into())?;
    Ok(flags & READ_ONLY != 0)
}

/// Makes a subvolume read-only, or no longer.
pub fn set_read_only(subvolume: BorrowedFd<'_>, read_only: bool) -> Result<()> {
    let mut flags = if read_only { READ_ONLY } else { 0 };
    ioctl(subvolume, SUBVOL_SETFLAGS, &mut flags, || "BTRFS_IOC_SUBVOL_SETFLAGS".into())
}

/// The number of the subvolume that a directory is in.
pub fn id(dir: BorrowedFd<'_>) -> Result<u64> {
    let mut args = InoLookup { tree: 0, object: ROOT_INODE, name: [0; 4080] };
    ioctl(dir, INO_LOOKUP, &mut args, || "BTRFS_IOC_INO_LOOKUP".into())?;
    Ok(args.tree)
}

/// Switches accounting on for the whole file system. It may be on.
pub fn enable_quota(file: BorrowedFd<'_>) -> Result<()> {
    let mut args = QuotaCtl { command: 1, status: 0 };
    ioctl(file, QUOTA_CTL, &mut args, || "BTRFS_IOC_QUOTA_CTL, BTRFS_QUOTA_CTL_ENABLE".into())
}

/// Limits the bytes that a subvolume refers to, shared ones included; none lifts the limit.
pub fn limit(subvolume: BorrowedFd<'_>, bytes: Option<u64>) -> Result<()> {
    const MAX_REFERENCED: u64 = 1;
    // All ones lift a limit.
    let referenced = bytes.unwrap_or(u64::MAX);
    let mut args =
        QgroupLimit { group: 0, flags: MAX_REFERENCED, referenced, exclusive: 0, reserved: [0; 2] };
    ioctl(subvolume, QGROUP_LIMIT, &mut args, || format!("BTRFS_IOC_QGROUP_LIMIT, {referenced}"))
}

/// Removes the accounting of a subvolume that is gone.
pub fn forget_quota(file: BorrowedFd<'_>, id: u64) -> Result<()> {
    let mut args = QgroupCreate { create: 0, group: id };
    ioctl(file, QGROUP_CREATE, &mut args, || format!("BTRFS_IOC_QGROUP_CREATE, 0, {id}"))
}
