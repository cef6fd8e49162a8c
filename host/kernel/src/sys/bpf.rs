//! The few parts of `bpf(2)` that device rules of cgroup v2 need.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;
use crate::error::Result;

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_DETACH: i32 = 9;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_PROG_QUERY: i32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// One eBPF instruction, `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Destination in the low four bits, source in the high ones.
    pub regs: u8,
    /// Jump or memory offset.
    pub off: i16,
    /// Immediate.
    pub imm: i32,
}

#[repr(C, align(8))]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C, align(8))]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C, align(8))]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

#[repr(C, align(8))]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next: u32,
    open_flags: u32,
    /// No padding: the kernel refuses what it does not know unless it is zero.
    pad: u32,
}

fn bpf<T>(command: i32, attr: &mut T, name: &'static str) -> Result<libc::c_long> {
    // SAFETY: each caller passes the attribute structure of its command; the kernel reads at most its size.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    check(result, || format!("bpf({name})"))
}

fn owned(fd: libc::c_long) -> OwnedFd {
    #[allow(clippy::cast_possible_truncation, reason = "the kernel returns descriptors as int")]
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe {
        OwnedFd::from_raw_fd(fd as i32)
    }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// Loads a program that decides about devices.
pub fn load_device_program(program: &[Insn]) -> Result<OwnedFd> {
    let license: &CStr = c"Apache-2.0";
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttr::default()
    };
    bpf(BPF_PROG_LOAD, &mut attr, "BPF_PROG_LOAD, cgroup device").map(owned)
}

/// Attaches it to a cgroup directory, next to those that are there already.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &mut attr, "BPF_PROG_ATTACH, BPF_CGROUP_DEVICE").map(drop)
}

/// Takes it off.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: BPF_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    bpf(BPF_PROG_DETACH, &mut attr, "BPF_PROG_DETACH, BPF_CGROUP_DEVICE").map(drop)
}

/// The device programs attached to this very cgroup.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut ids = [0u32; 64];
    let mut attr = QueryAttr {
        target_fd: number(cgroup),
        attach_type: BPF_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: 64,
        ..QueryAttr::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr, "BPF_PROG_QUERY, BPF_CGROUP_DEVICE")?;
    let count = usize::try_from(attr.prog_cnt).unwrap_or(0);
    let mut programs = Vec::with_capacity(count);
    for id in ids.iter().take(count) {
        let mut attr = IdAttr { id: *id, ..IdAttr::default() };
        programs.push(owned(bpf(BPF_PROG_GET_FD_BY_ID, &mut attr, "BPF_PROG_GET_FD_BY_ID")?));
    }
    Ok(programs)
}
