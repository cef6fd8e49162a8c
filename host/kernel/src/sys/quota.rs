//! Project quota of ext4 and xfs: directories that count together, and what they may take.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;
use crate::error::Result;

/// `struct fsxattr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`.
const GET: u64 = 2 << 30 | (size_of::<FsXattr>() as u64) << 16 | (b'X' as u64) << 8 | 31;
const SET: u64 = 1 << 30 | (size_of::<FsXattr>() as u64) << 16 | (b'X' as u64) << 8 | 32;
/// `FS_XFLAG_PROJINHERIT`: what is made inside belongs to the project too.
const INHERIT: u32 = 0x200;

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    space_hard: u64,
    space_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    space_time: u64,
    inode_time: u64,
    valid: u32,
}

/// Units of block limits (`QIF_DQBLKSIZE`).
const UNIT: u64 = 1024;
const PROJECT: i32 = 2;
const Q_GETQUOTA: i32 = 0x0080_0007;
const Q_SETQUOTA: i32 = 0x0080_0008;
const LIMITS: u32 = 1 | 4;
/// `Q_XGETQSTAT`, of file systems of every kind.
const Q_XGETQSTAT: i32 = 0x5805;
/// `FS_QUOTA_PDQ_ACCT` and `FS_QUOTA_PDQ_ENFD`: projects are counted, and their limits are kept.
const ENFORCED: u16 = 1 << 4 | 1 << 5;

/// `struct fs_quota_stat`, of which the start is of interest.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct State {
    version: i8,
    flags: u16,
    rest: [u64; 15],
}

/// What a project takes and may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    /// Bytes in use.
    pub space: u64,
    /// Files in use.
    pub inodes: u64,
    /// Limit of bytes; 0 is none.
    pub byte_limit: u64,
    /// Limit of files; 0 is none.
    pub inode_limit: u64,
}

fn get(file: BorrowedFd<'_>) -> Result<FsXattr> {
    let fd = file.as_raw_fd();
    let mut found = FsXattr::default();
    // SAFETY: the structure is the one that the request's size was made of, and lives for the call.
    let result = unsafe { libc::ioctl(fd, GET as _, std::ptr::from_mut(&mut found)) };
    check(result.into(), || format!("ioctl({fd}, FS_IOC_FSGETXATTR)"))?;
    Ok(found)
}

/// The project of an open file or directory; 0 is none.
pub fn project(file: BorrowedFd<'_>) -> Result<u32> {
    get(file).map(|found| found.project)
}

/// Puts an open file or directory into a project. With `inherit` what is made inside follows.
pub fn set_project(file: BorrowedFd<'_>, project: u32, inherit: bool) -> Result<()> {
    let fd = file.as_raw_fd();
    let mut wanted = get(file)?;
    wanted.project = project;
    if inherit {
        wanted.flags |= INHERIT;
    }
    // SAFETY: as for `get`; the kernel only reads it.
    let result = unsafe { libc::ioctl(fd, SET as _, std::ptr::from_mut(&mut wanted)) };
    check(result.into(), || format!("ioctl({fd}, FS_IOC_FSSETXATTR, {project})")).map(drop)
}

fn quotactl(file: BorrowedFd<'_>, command: i32, project: u32, block: *mut Block) -> Result<()> {
    let fd = file.as_raw_fd();
    let command = command << 8 | PROJECT;
    // SAFETY: both commands take a `struct if_dqblk`, to which both callers point.
    let result = unsafe { libc::syscall(libc::SYS_quotactl_fd, fd, command, project, block) };
    check(result, || format!("quotactl_fd({fd}, {command:#x}, {project})")).map(drop)
}

/// Use and limits of a project of the file system that `file` is on. ESRCH: project quota is not enabled there.
pub fn usage(file: BorrowedFd<'_>, project: u32) -> Result<Project> {
    let mut block = MaybeUninit::<Block>::zeroed();
    quotactl(file, Q_GETQUOTA, project, block.as_mut_ptr())?;
    // SAFETY: it was zeroed, which is a valid value, and the kernel filled it.
    let block = unsafe { block.assume_init() };
    Ok(Project {
        space: block.space,
        inodes: block.inodes,
        byte_limit: block.space_hard.saturating_mul(UNIT),
        inode_limit: block.inode_hard,
    })
}

/// Whether the file system that `file` is on keeps limits of projects. One that only counts does not.
pub fn enforced(file: BorrowedFd<'_>) -> Result<bool> {
    let fd = file.as_raw_fd();
    let mut state = State::default();
    let command = Q_XGETQSTAT << 8 | PROJECT;
    // SAFETY: the kernel fills a `struct fs_quota_stat`, for which there is more than enough room.
    let result =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, fd, command, 0, std::ptr::from_mut(&mut state)) };
    check(result, || format!("quotactl_fd({fd}, {command:#x}, 0)"))?;
    Ok(state.flags & ENFORCED == ENFORCED)
}

/// Limits a project; 0 lifts a limit.
pub fn limit(file: BorrowedFd<'_>, project: u32, bytes: u64, inodes: u64) -> Result<()> {
    let blocks = bytes.div_ceil(UNIT);
    let mut block = Block {
        space_hard: blocks,
        space_soft: blocks,
        inode_hard: inodes,
        inode_soft: inodes,
        valid: LIMITS,
        ..Block::default()
    };
    quotactl(file, Q_SETQUOTA, project, std::ptr::from_mut(&mut block))
}
