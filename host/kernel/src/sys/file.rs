//! Files and directories, always relative to a descriptor.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{check, check_fd};
use crate::error::Result;

/// No mount point may be crossed.
pub const RESOLVE_NO_XDEV: u64 = 1;
/// No magic link (`/proc/self/fd/…`) is followed.
pub const RESOLVE_NO_MAGICLINKS: u64 = 2;
/// No symbolic link is followed.
pub const RESOLVE_NO_SYMLINKS: u64 = 4;
/// The path must stay beneath the directory.
pub const RESOLVE_BENEATH: u64 = 8;
/// The directory is the root for `..` and absolute links.
pub const RESOLVE_IN_ROOT: u64 = 16;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `openat2`; `O_CLOEXEC` is always set.
pub fn openat2(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32, resolve: u64) -> Result<OwnedFd> {
    let fd = dir.as_raw_fd();
    #[allow(clippy::cast_sign_loss, reason = "flag bits")]
    let how = OpenHow { flags: u64::from((flags | libc::O_CLOEXEC) as u32), mode: mode.into(), resolve };
    loop {
        // SAFETY: `path` and `how` live for the call and the size is that of `how`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                fd,
                path.as_ptr(),
                std::ptr::from_ref(&how),
                size_of::<OpenHow>(),
            )
        };
        // EAGAIN: a rename or mount ran while `..` was resolved; the kernel asks us to try again.
        if result < 0 && matches!(nix::errno::Errno::last_raw(), libc::EAGAIN | libc::EINTR) {
            continue;
        }
        return check_fd(result, || format!("openat2({fd}, {path:?}, {flags:#x}, {resolve:#x})"));
    }
}

/// `openat` without the protections of [`openat2`], for host paths and single names.
pub fn openat(dir: Option<BorrowedFd<'_>>, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd> {
    let fd = dir.map_or(libc::AT_FDCWD, |d| d.as_raw_fd());
    // SAFETY: `path` lives for the call.
    let result = unsafe { libc::openat(fd, path.as_ptr(), flags | libc::O_CLOEXEC, mode) };
    check_fd(result.into(), || format!("openat({fd}, {path:?}, {flags:#x})"))
}

/// `mkdirat`.
pub fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    let fd = dir.as_raw_fd();
    // SAFETY: `name` lives for the call.
    let result = unsafe { libc::mkdirat(fd, name.as_ptr(), mode) };
    check(result.into(), || format!("mkdirat({fd}, {name:?}, {mode:#o})")).map(drop)
}

/// `mknodat`.
pub fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32, device: u64) -> Result<()> {
    let fd = dir.as_raw_fd();
    // SAFETY: `name` lives for the call.
    let result = unsafe { libc::mknodat(fd, name.as_ptr(), mode, device) };
    check(result.into(), || format!("mknodat({fd}, {name:?}, {mode:#o}, {device:#x})")).map(drop)
}

/// `symlinkat`.
pub fn symlinkat(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let fd = dir.as_raw_fd();
    // SAFETY: both strings live for the call.
    let result = unsafe { libc::symlinkat(target.as_ptr(), fd, name.as_ptr()) };
    check(result.into(), || format!("symlinkat({target:?}, {fd}, {name:?})")).map(drop)
}

/// `unlinkat`; `directory` removes an empty directory.
pub fn unlinkat(dir: BorrowedFd<'_>, name: &CStr, directory: bool) -> Result<()> {
    let fd = dir.as_raw_fd();
    let flags = if directory { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: `name` lives for the call.
    let result = unsafe { libc::unlinkat(fd, name.as_ptr(), flags) };
    check(result.into(), || format!("unlinkat({fd}, {name:?}, {flags:#x})")).map(drop)
}

/// `renameat2`.
pub fn renameat2(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    new: &CStr,
    flags: u32,
) -> Result<()> {
    let (a, b) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: both strings live for the call.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, a, name.as_ptr(), b, new.as_ptr(), flags) };
    check(result, || format!("renameat2({a}, {name:?}, {b}, {new:?}, {flags:#x})")).map(drop)
}

/// `fchownat`; an empty name means the descriptor itself, a link is not followed.
pub fn fchownat(dir: BorrowedFd<'_>, name: &CStr, uid: u32, gid: u32) -> Result<()> {
    let fd = dir.as_raw_fd();
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: `name` lives for the call.
    let result = unsafe { libc::fchownat(fd, name.as_ptr(), uid, gid, flags) };
    check(result.into(), || format!("fchownat({fd}, {name:?}, {uid}, {gid}, {flags:#x})")).map(drop)
}

/// `fchmodat` of a name that the caller has just made itself (the call follows links).
pub fn fchmodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    let fd = dir.as_raw_fd();
    // SAFETY: `name` lives for the call.
    let result = unsafe { libc::fchmodat(fd, name.as_ptr(), mode, 0) };
    check(result.into(), || format!("fchmodat({fd}, {name:?}, {mode:#o})")).map(drop)
}

/// `fstatat`; an empty name means the descriptor itself, a link is not followed.
pub fn fstatat(dir: BorrowedFd<'_>, name: &CStr) -> Result<libc::stat> {
    let fd = dir.as_raw_fd();
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `name` lives for the call and `stat` has room for the result.
    let result = unsafe { libc::fstatat(fd, name.as_ptr(), stat.as_mut_ptr(), flags) };
    check(result.into(), || format!("fstatat({fd}, {name:?}, {flags:#x})"))?;
    // SAFETY: the call succeeded, so the kernel filled it.
    Ok(unsafe { stat.assume_init() })
}

/// `fstatfs`.
pub fn fstatfs(file: BorrowedFd<'_>) -> Result<libc::statfs> {
    let fd = file.as_raw_fd();
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `stat` has room for the result.
    let result = unsafe { libc::fstatfs(fd, stat.as_mut_ptr()) };
    check(result.into(), || format!("fstatfs({fd})"))?;
    // SAFETY: the call succeeded, so the kernel filled it.
    Ok(unsafe { stat.assume_init() })
}

/// `readlinkat`; an empty name reads the link that the descriptor is.
pub fn readlinkat(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>> {
    let fd = dir.as_raw_fd();
    let mut buffer = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is as long as said.
    let result = unsafe { libc::readlinkat(fd, name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    #[allow(clippy::unnecessary_cast, reason = "isize and c_long differ on other targets")]
    let length = check(result as libc::c_long, || format!("readlinkat({fd}, {name:?})"))?;
    buffer.truncate(usize::try_from(length).unwrap_or(0));
    Ok(buffer)
}

/// One `write`; short writes are an error here, as the files meant (cgroup, proc) take a value in one piece.
pub fn write_once(file: BorrowedFd<'_>, data: &[u8]) -> Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: the slice is valid for its length.
    let result = unsafe { libc::write(fd, data.as_ptr().cast(), data.len()) };
    #[allow(clippy::unnecessary_cast, reason = "isize and c_long differ on other targets")]
    let written = check(result as libc::c_long, || {
        format!("write({fd}, {:?}, {})", String::from_utf8_lossy(data), data.len())
    })?;
    if usize::try_from(written) == Ok(data.len()) {
        Ok(())
    } else {
        Err(crate::error::Error::new(format!("write({fd}, …, {}) wrote {written}", data.len()), libc::EIO))
    }
}

/// A memory file; `sealed` contents can never change again.
pub fn memfd(name: &CStr, contents: &[u8], executable: bool) -> Result<OwnedFd> {
    const MFD_NOEXEC_SEAL: u32 = 8;
    const MFD_EXEC: u32 = 0x10;
    let base = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let extra = if executable { MFD_EXEC } else { MFD_NOEXEC_SEAL };
    // SAFETY: `name` lives for the call.
    let mut result = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), base | extra) };
    if result < 0 && nix::errno::Errno::last_raw() == libc::EINVAL {
        // Before Linux 6.3 neither flag exists and every memory file is executable.
        // SAFETY: as above.
        result = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), base) };
    }
    let file =
        std::fs::File::from(check_fd(result, || format!("memfd_create({name:?}, {:#x})", base | extra))?);
    std::io::Write::write_all(&mut &file, contents)?;
    std::io::Seek::rewind(&mut &file)?;
    let fd = OwnedFd::from(file);
    let raw = fd.as_raw_fd();
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: plain numbers.
    let result = unsafe { libc::fcntl(raw, libc::F_ADD_SEALS, seals) };
    check(result.into(), || format!("fcntl({raw}, F_ADD_SEALS, {seals:#x})"))?;
    Ok(fd)
}

/// The working directory as the kernel prints it; not absolute when it lies outside the root.
pub fn getcwd() -> Result<Vec<u8>> {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is as long as said. The raw call, as libc's wrapper hides `(unreachable)`.
    let result = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    let length = check(result, || "getcwd()".into())?;
    let length = usize::try_from(length).unwrap_or(0).saturating_sub(1);
    Ok(buffer.get(..length).unwrap_or_default().to_vec())
}

/// Begins to write dirty pages of a part of a file to the disk and does not wait for them: `sync_file_range` with
/// `SYNC_FILE_RANGE_WRITE`. No promise of durability, which only a flush gives.
pub fn start_writeback(file: BorrowedFd<'_>, offset: u64, length: u64) -> Result<()> {
    let fd = file.as_raw_fd();
    let (offset, length) = (offset.cast_signed(), length.cast_signed());
    // SAFETY: plain numbers.
    let result = unsafe { libc::sync_file_range(fd, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    check(result.into(), || format!("sync_file_range({fd}, {offset}, {length})")).map(drop)
}

/// `fchdir`.
pub fn fchdir(dir: BorrowedFd<'_>) -> Result<()> {
    let fd = dir.as_raw_fd();
    // SAFETY: plain number.
    let result = unsafe { libc::fchdir(fd) };
    check(result.into(), || format!("fchdir({fd})")).map(drop)
}

/// Whether the caller, with its effective ids, may do `mode` (`X_OK` …).
pub fn eaccess(dir: Option<BorrowedFd<'_>>, path: &CStr, mode: i32) -> Result<()> {
    let fd = dir.map_or(libc::AT_FDCWD, |d| d.as_raw_fd());
    // SAFETY: `path` lives for the call. The raw call: libc emulates the flag on old kernels by looking at modes only.
    let result = unsafe { libc::syscall(libc::SYS_faccessat2, fd, path.as_ptr(), mode, libc::AT_EACCESS) };
    check(result, || format!("faccessat2({fd}, {path:?}, {mode})")).map(drop)
}

/// A C string of bytes that a caller outside gave; a NUL inside is EINVAL.
pub fn cstring(bytes: impl Into<Vec<u8>>) -> Result<CString> {
    CString::new(bytes).map_err(|e| {
        crate::error::Error::refused(
            format!("{:?}", String::from_utf8_lossy(&e.into_vec())),
            libc::EINVAL,
            "contains a NUL byte",
        )
    })
}

/// A standard stream of this process: 0, 1, or 2 for anything else.
pub fn standard(number: u8) -> BorrowedFd<'static> {
    // SAFETY: the three numbers are the process's for its whole life; a closed one gives EBADF, no other file.
    unsafe { BorrowedFd::borrow_raw(i32::from(number.min(2))) }
}

/// The number of the mount that an open file is in, as in `mountinfo`. `fdinfo` is the path of its `proc_pid_fdinfo(5)`.
pub fn mount_of(fdinfo: &str) -> Option<u64> {
    let info = std::fs::read_to_string(fdinfo).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}
