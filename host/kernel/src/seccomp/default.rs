//! Docker's default profile: what nearly every program needs and nothing that reaches beyond a container.

use super::{Action, Arch, Filter, Rule, Test};
use crate::caps;

/// Allowed to everybody.
const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
    clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
    epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
    execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir
    fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork
    fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid
    getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
    get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid getuid32
    getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen
    listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall
    mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
    name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe
    pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
    process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2
    read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages
    removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64
    send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address
    setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4
    sigpending sigprocmask sigreturn sigsuspend socketcall socketpair splice stat stat64 statfs statfs64 statmount
    statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname
    unlink unlinkat uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write
    writev
";

/// What only some instruction sets have.
const X86: &str = "arch_prctl modify_ldt";
const ARM: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";

/// Allowed with a capability, by its number.
const WITH: [(u32, &str); 14] = [
    (2, "open_by_handle_at"),
    (
        caps::SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
         open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount
         umount2 unshare",
    ),
    (22, "reboot"),
    (18, "chroot"),
    (16, "delete_module init_module finit_module"),
    (20, "acct"),
    (19, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (17, "iopl ioperm"),
    (25, "settimeofday stime clock_settime clock_settime64"),
    (26, "vhangup"),
    (23, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (34, "syslog"),
    (39, "bpf"),
    (38, "perf_event_open"),
];

/// All flags of `clone` that make a namespace.
const NAMESPACES: u64 = 0x7e02_0000;

/// Kinds of execution domain that are harmless: Linux, with 32-bit `uname`, without address randomisation for the
/// 16-bit emulators, and the question which one it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Talks to the hypervisor's side of a virtual machine, past every namespace.
const AF_VSOCK: u64 = 40;

pub(super) fn filter(capabilities: u64, native: Arch) -> Filter {
    let mut filter = Filter {
        architectures: match native {
            Arch::X86_64 | Arch::I386 => vec![Arch::X86_64, Arch::I386],
            Arch::Aarch64 | Arch::Arm => vec![Arch::Aarch64, Arch::Arm],
        },
        default: Action::errno(1),
        rules: Vec::with_capacity(512),
        named: Vec::new(),
    };
    let mut add = |names: &str, tests: Vec<(u8, Test)>, action: Action| {
        for name in names.split_whitespace() {
            filter.rules.push((name.to_owned(), Rule { tests: tests.clone(), action }));
        }
    };
    add(ALWAYS, Vec::new(), Action::ALLOW);
    add(
        match native {
            Arch::X86_64 | Arch::I386 => X86,
            Arch::Aarch64 | Arch::Arm => ARM,
        },
        Vec::new(),
        Action::ALLOW,
    );
    add("socket", vec![(0, Test::NotEqual(AF_VSOCK))], Action::ALLOW);
    for kind in PERSONALITIES {
        add("personality", vec![(0, Test::Equal(kind))], Action::ALLOW);
    }
    for (capability, names) in WITH {
        if capabilities & caps::bit(capability) != 0 {
            add(names, Vec::new(), Action::ALLOW);
        }
    }
    if capabilities & caps::bit(caps::SYS_ADMIN) == 0 {
        add("clone", vec![(0, Test::Masked(NAMESPACES, 0))], Action::ALLOW);
        // Its flags are behind a pointer, which a filter cannot read. C libraries go back to clone at this answer.
        add("clone3", Vec::new(), Action::errno(38));
    }
    filter
}
