//! System calls and the entry point, for programs without a library.

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

// The kernel starts a program with the stack pointer at argc; hand that address to Rust as the first argument.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call entry", "ud2");
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "mov x0, sp", "bl entry", "brk #1");

/// Numbers of the calls used.
#[cfg(target_arch = "x86_64")]
#[allow(dead_code)]
pub mod nr {
    pub const WRITE: usize = 1;
    pub const SIGPROCMASK: usize = 14;
    pub const IOCTL: usize = 16;
    pub const CLONE: usize = 56;
    pub const EXECVE: usize = 59;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const SETPGID: usize = 109;
    pub const GETPGID: usize = 121;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const PRCTL: usize = 157;
    pub const EXIT_GROUP: usize = 231;
}
/// Numbers of the calls used.
#[cfg(target_arch = "aarch64")]
#[allow(dead_code)]
pub mod nr {
    pub const WRITE: usize = 64;
    pub const SIGPROCMASK: usize = 135;
    pub const IOCTL: usize = 29;
    pub const CLONE: usize = 220;
    pub const EXECVE: usize = 221;
    pub const WAIT4: usize = 260;
    pub const KILL: usize = 129;
    pub const SETPGID: usize = 154;
    pub const GETPGID: usize = 155;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const PRCTL: usize = 167;
    pub const EXIT_GROUP: usize = 94;
}

/// A system call with up to five arguments; negative results are error numbers.
///
/// # Safety
/// The arguments must be what the call with this number expects.
pub unsafe fn call(number: usize, a: [usize; 5]) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel changes only the registers named here; the caller answers for the arguments.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a[0] => result, in("x1") a[1], in("x2") a[2],
            in("x3") a[3], in("x4") a[4], options(nostack));
    }
    result
}

/// Ends the process.
pub fn exit(code: usize) -> ! {
    loop {
        // SAFETY: plain number; does not return.
        unsafe { call(nr::EXIT_GROUP, [code, 0, 0, 0, 0]) };
    }
}

/// Writes all of it to a descriptor, or gives up.
pub fn print(fd: usize, mut text: &[u8]) -> bool {
    while !text.is_empty() {
        // SAFETY: the slice is valid for its length.
        let written = unsafe { call(nr::WRITE, [fd, text.as_ptr() as usize, text.len(), 0, 0]) };
        if written == -4 {
            continue;
        }
        let Some(rest) = usize::try_from(written).ok().filter(|n| *n > 0).and_then(|n| text.get(n..)) else {
            return false;
        };
        text = rest;
    }
    true
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(125)
}
