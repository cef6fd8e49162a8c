//! Process 1 of containers with `--init`.
#![no_std]
#![no_main]

mod kernel;

use kernel::{call, exit, nr, print};

const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;
const SIGCHLD: isize = 17;
const SIGTTIN: isize = 21;
const SIGTTOU: isize = 22;
const PR_SET_NAME: usize = 15;
const TIOCSPGRP: usize = 0x5410;
const WNOHANG: usize = 1;
const ENOENT: isize = -2;
const EINTR: isize = -4;
const ECHILD: isize = -10;

#[unsafe(no_mangle)]
extern "C" fn entry(stack: *const usize) -> ! {
    // SAFETY: the kernel puts argc, then the argv pointers, a null, and the environment pointers on the stack.
    let (count, arguments, environment) = unsafe {
        let count = *stack;
        let arguments = stack.add(1);
        (count, arguments, arguments.add(count + 1))
    };
    if count < 3 {
        print(2, b"init: called without a program\n");
        exit(125);
    }
    // Run from a memory file, it would have that file's name.
    // SAFETY: the kernel copies up to the end of the string.
    unsafe { call(nr::PRCTL, [PR_SET_NAME, c"wharf-init".as_ptr() as usize, 0, 0, 0]) };
    let all: u64 = !0;
    let mut before: u64 = 0;
    // SAFETY: both masks are 8 bytes and live for the call.
    unsafe { call(nr::SIGPROCMASK, [SIG_BLOCK, (&raw const all) as usize, (&raw mut before) as usize, 8, 0]) };
    // SAFETY: no flags but the exit signal: an ordinary fork.
    let child = unsafe { call(nr::CLONE, [SIGCHLD as usize, 0, 0, 0, 0]) };
    if child == 0 {
        // SAFETY: the pointers are the ones the kernel gave us, moved on by two arguments.
        unsafe { start(*arguments.add(1), arguments.add(2) as usize, environment as usize, &before) }
    }
    if child < 0 {
        print(2, b"init: cannot fork\n");
        exit(125);
    }
    keep(child)
}

/// In the child: a process group of its own, in the terminal's foreground where there is one, then the program.
unsafe fn start(program: usize, arguments: usize, environment: usize, mask: &u64) -> ! {
    // SAFETY: plain numbers; the terminal call reads one int. Whether standard input is a terminal does not matter.
    unsafe {
        call(nr::SETPGID, [0, 0, 0, 0, 0]);
        let own = own_group();
        call(nr::IOCTL, [0, TIOCSPGRP, (&raw const own) as usize, 0, 0]);
        call(nr::SIGPROCMASK, [SIG_SETMASK, core::ptr::from_ref(mask) as usize, 0, 8, 0]);
    }
    // SAFETY: all three come from the kernel's own initial stack.
    let error = unsafe { call(nr::EXECVE, [program, arguments, environment, 0, 0]) };
    print(2, b"init: cannot execute the program\n");
    exit(if error == ENOENT { 127 } else { 126 })
}

/// Process group of the caller.
fn own_group() -> i32 {
    // SAFETY: plain numbers.
    unsafe { call(nr::GETPGID, [0, 0, 0, 0, 0]) as i32 }
}

/// In process 1: forwards signals and reaps until the program has ended.
fn keep(child: isize) -> ! {
    let all: u64 = !0;
    loop {
        // Blocked signals are queued even for process 1, so none is lost between two waits.
        // SAFETY: the mask is 8 bytes; no details and no timeout are asked for.
        let signal = unsafe { call(nr::SIGTIMEDWAIT, [(&raw const all) as usize, 0, 0, 8, 0]) };
        match signal {
            SIGCHLD => reap(child),
            EINTR | SIGTTIN | SIGTTOU => {}
            1.. => {
                // SAFETY: plain numbers.
                unsafe { call(nr::KILL, [child as usize, signal as usize, 0, 0, 0]) };
            }
            _ => reap(child),
        }
    }
}

fn reap(child: isize) {
    loop {
        let mut status: i32 = 0;
        // SAFETY: room for one status; no usage is asked for.
        let pid = unsafe { call(nr::WAIT4, [usize::MAX, (&raw mut status) as usize, WNOHANG, 0, 0]) };
        match pid {
            EINTR => {}
            ECHILD => exit(125),
            pid if pid <= 0 => return,
            pid if pid == child => {
                let signal = status & 0x7f;
                exit(if signal == 0 { (status >> 8 & 0xff) as usize } else { 128 + signal as usize });
            }
            _ => {}
        }
    }
}
