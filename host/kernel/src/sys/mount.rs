//! The file-descriptor based mount interface (Linux 5.2, `mount_setattr` 5.12).

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{check, check_fd};
use crate::error::Result;

/// `OPEN_TREE_CLONE`: copy the mount, detached.
pub const OPEN_TREE_CLONE: u32 = 1;
/// `AT_RECURSIVE`.
pub const AT_RECURSIVE: u32 = 0x8000;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MountAttr {
    /// Flags to set.
    pub set: u64,
    /// Flags to clear.
    pub clear: u64,
    /// `MS_PRIVATE` and so on; 0 leaves it.
    pub propagation: u64,
    /// User namespace of an idmapped mount.
    pub userns_fd: u64,
}

/// The flags of `mount_attr` and `fsmount`.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 1;
    /// No set-user-id.
    pub const NOSUID: u64 = 2;
    /// No devices.
    pub const NODEV: u64 = 4;
    /// No programs.
    pub const NOEXEC: u64 = 8;
    /// The bits that say how access times are kept.
    pub const ATIME_MASK: u64 = 0x70;
    /// Never.
    pub const NOATIME: u64 = 0x10;
    /// Always.
    pub const STRICTATIME: u64 = 0x20;
    /// Not for directories.
    pub const NODIRATIME: u64 = 0x80;
    /// Map ids.
    pub const IDMAP: u64 = 0x0010_0000;
    /// Follow no symbolic link on it.
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// `open_tree(dir, path, flags)`; an empty path means `dir` itself.
pub fn open_tree(dir: Option<BorrowedFd<'_>>, path: &CStr, flags: u32) -> Result<OwnedFd> {
    let fd = dir.map_or(libc::AT_FDCWD, |d| d.as_raw_fd());
    let flags = flags | OPEN_TREE_CLOEXEC | if path.is_empty() { AT_EMPTY_PATH } else { 0 };
    // SAFETY: `path` is a C string that lives for the call.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, fd, path.as_ptr(), flags) };
    check_fd(result, || format!("open_tree({fd}, {path:?}, {flags:#x})"))
}

/// Puts the mount `from` on the place that `to` refers to (an `O_PATH` descriptor).
pub fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are constant C strings.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) };
    check(result, || format!("move_mount({from}, \"\", {to}, \"\", {flags:#x})")).map(drop)
}

/// `fsopen(type)`.
pub fn fsopen(fstype: &CStr) -> Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    // SAFETY: `fstype` is a C string that lives for the call.
    let result = unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), FSOPEN_CLOEXEC) };
    check_fd(result, || format!("fsopen({fstype:?})"))
}

fn fsconfig(
    fs: BorrowedFd<'_>,
    command: u32,
    key: Option<&CStr>,
    value: Option<&CStr>,
    aux: i32,
) -> Result<()> {
    let fd = fs.as_raw_fd();
    let key_ptr = key.map_or(std::ptr::null(), CStr::as_ptr);
    let value_ptr = value.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: both strings live for the call or are null, as the command allows.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, key_ptr, value_ptr, aux) };
    check(result, || {
        let mut call = format!("fsconfig({fd}, {command}, {key:?}, {value:?}, {aux})");
        let log = fs_log(fs);
        if !log.is_empty() {
            call.push_str(" [");
            call.push_str(&log);
            call.push(']');
        }
        call
    })
    .map(drop)
}

/// What the kernel wrote into the context's message log.
fn fs_log(fs: BorrowedFd<'_>) -> String {
    let errno = nix::errno::Errno::last();
    let mut text = String::new();
    let mut buffer = [0u8; 512];
    while let Ok(length @ 1..) = nix::unistd::read(fs, &mut buffer) {
        let line = buffer.get(..length).unwrap_or_default();
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(String::from_utf8_lossy(line).trim());
        if text.len() > 2048 {
            break;
        }
    }
    errno.set();
    text
}

/// A flag without a value.
pub fn fsconfig_flag(fs: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    fsconfig(fs, 0, Some(key), None, 0)
}

/// `key=value`.
pub fn fsconfig_string(fs: BorrowedFd<'_>, key: &CStr, value: &CStr) -> Result<()> {
    fsconfig(fs, 1, Some(key), Some(value), 0)
}

/// A value that is an open file (overlay layers since 6.13).
pub fn fsconfig_fd(fs: BorrowedFd<'_>, key: &CStr, value: BorrowedFd<'_>) -> Result<()> {
    fsconfig(fs, 5, Some(key), None, value.as_raw_fd())
}

/// Makes the superblock.
pub fn fsconfig_create(fs: BorrowedFd<'_>) -> Result<()> {
    fsconfig(fs, 6, None, None, 0)
}

/// A detached mount of the file system made.
pub fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd> {
    const FSMOUNT_CLOEXEC: u32 = 1;
    let fd = fs.as_raw_fd();
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes) };
    check_fd(result, || format!("fsmount({fd}, FSMOUNT_CLOEXEC, {attributes:#x})"))
}

/// `mount_setattr(mount, "", AT_EMPTY_PATH | flags, attributes)`.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attributes: &MountAttr) -> Result<()> {
    let fd = mount.as_raw_fd();
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the structure is valid for its own size, the path is a constant C string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    check(result, || format!("mount_setattr({fd}, \"\", {flags:#x}, {attributes:?})")).map(drop)
}

/// Sets the propagation of everything from `/` down, in this mount namespace.
pub fn set_root_propagation(flags: libc::c_ulong) -> Result<()> {
    // SAFETY: constant strings; a propagation change takes no data.
    let result = unsafe {
        libc::mount(c"".as_ptr(), c"/".as_ptr(), std::ptr::null(), libc::MS_REC | flags, std::ptr::null())
    };
    check(result.into(), || format!("mount(\"\", \"/\", NULL, MS_REC|{flags:#x}, NULL)")).map(drop)
}

/// Makes the working directory the root and takes the old root off.
pub fn pivot_to_cwd() -> Result<()> {
    // SAFETY: constant strings.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    check(result, || "pivot_root(\".\", \".\")".into())?;
    // The old root now lies on top of the new one; what goes is the topmost.
    // SAFETY: constant string.
    let result = unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) };
    check(result.into(), || "umount2(\".\", MNT_DETACH)".into())?;
    // SAFETY: constant string.
    let result = unsafe { libc::chdir(c"/".as_ptr()) };
    check(result.into(), || "chdir(\"/\")".into()).map(drop)
}

/// For a host whose root is its initial ramdisk, which cannot be pivoted away: moves the working directory's mount
/// over the root and changes into it, so that no path leads to what lies beneath.
pub fn chroot_to_cwd(root: BorrowedFd<'_>) -> Result<()> {
    let host = super::file::openat(None, c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    let (from, to) = (root.as_raw_fd(), host.as_raw_fd());
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are constant C strings.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) };
    check(result, || format!("move_mount({from}, \"\", {to}, \"\", {flags:#x})"))?;
    // SAFETY: constant string.
    let result = unsafe { libc::chroot(c".".as_ptr()) };
    check(result.into(), || "chroot(\".\")".into())?;
    // SAFETY: constant string.
    let result = unsafe { libc::chdir(c"/".as_ptr()) };
    check(result.into(), || "chdir(\"/\")".into()).map(drop)
}
