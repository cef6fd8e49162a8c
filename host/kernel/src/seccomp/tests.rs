use super::*;

/// The kernel's interpreter in small: runs a program on one call.
fn ask(program: &[u8], arch: Arch, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend_from_slice(&number.to_ne_bytes());
    data.extend_from_slice(&arch.audit().to_ne_bytes());
    data.extend_from_slice(&0u64.to_ne_bytes());
    for arg in args {
        data.extend_from_slice(&arg.to_ne_bytes());
    }
    let (mut at, mut a) = (0usize, 0u32);
    loop {
        let i = &program[at * 8..at * 8 + 8];
        let code = u16::from_ne_bytes([i[0], i[1]]);
        let k = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
        at += 1;
        let mut branch = |yes: bool| at += usize::from(if yes { i[2] } else { i[3] });
        match code {
            0x20 => a = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            0x54 => a &= k,
            0x06 => return k,
            0x05 => at += k as usize,
            0x15 => branch(a == k),
            0x25 => branch(a > k),
            0x35 => branch(a >= k),
            other => panic!("{other:#x}"),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

fn call(program: &[u8], name: &str, first: u64) -> u32 {
    let number = Arch::X86_64.number(name).unwrap_or_else(|| panic!("{name}"));
    ask(program, Arch::X86_64, number, [first, 0, 0, 0, 0, 0])
}

#[test]
fn the_table_is_sorted_and_right() {
    assert!(numbers::NUMBERS.is_sorted_by(|a, b| a.0 < b.0));
    for (name, number) in [
        ("read", libc::SYS_read),
        ("clone3", libc::SYS_clone3),
        ("openat2", libc::SYS_openat2),
        ("mount_setattr", libc::SYS_mount_setattr),
    ] {
        assert_eq!(profile::ARCHITECTURE.number(name).map(i64::from), Some(number), "{name}");
    }
    assert_eq!(Arch::I386.number("socketcall"), Some(102));
    assert_eq!(Arch::Aarch64.number("open"), None);
}

/// Every number that the program is asked about gets the answer that a plain walk over the rules gives.
#[test]
fn search_agrees_with_a_walk() {
    for capabilities in [0, caps_default(), u64::MAX] {
        let filter = default::filter(capabilities, Arch::X86_64);
        let program = compile::program(&filter);
        assert!(compile::check_length(&program).is_ok());
        for arch in [Arch::X86_64, Arch::I386] {
            let newest = filter.rules.iter().filter_map(|(n, _)| arch.number(n)).max().unwrap();
            for number in (0..700).chain([X32_READ, u32::MAX]) {
                let rules: Vec<_> = filter
                    .rules
                    .iter()
                    .filter(|(n, _)| arch.number(n) == Some(number))
                    .map(|(_, r)| r)
                    .collect();
                if rules.iter().any(|r| !r.tests.is_empty()) {
                    continue;
                }
                // Newer than the profile: no such call. The numbers of x32 are no newer ones.
                let none =
                    if number > newest && (number < X32_READ || arch == Arch::I386) { ENOSYS } else { EPERM };
                let wanted = rules.first().map_or(none, |r| r.action.0);
                assert_eq!(ask(&program, arch, number, [0; 6]), wanted, "{arch:?} {number} {capabilities:x}");
            }
        }
    }
}

const X32_READ: u32 = 0x4000_0000;

fn caps_default() -> u64 {
    crate::caps::DOCKER_DEFAULT
}

#[test]
fn docker_default_in_words() {
    let program = docker_default(caps_default()).remove(0);
    for allowed in
        ["read", "execve", "openat", "ptrace", "chroot", "fork", "setuid", "landlock_create_ruleset"]
    {
        assert_eq!(call(&program, allowed, 0), ALLOW, "{allowed}");
    }
    for denied in [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "reboot",
        "kexec_load",
        "init_module",
        "io_uring_setup",
        "userfaultfd",
        "perf_event_open",
        "pivot_root",
        "open_by_handle_at",
        "swapon",
        "acct",
        "settimeofday",
        "iopl",
        "quotactl",
        "fsopen",
        "open_tree",
        "move_mount",
        "syslog",
        "mbind",
        "kcmp",
        "pidfd_getfd",
        "vhangup",
        "sethostname",
    ] {
        assert_eq!(call(&program, denied, 0), EPERM, "{denied}");
    }
    assert_eq!(call(&program, "clone3", 0), ENOSYS);
    assert_eq!(call(&program, "clone", 17), ALLOW);
    for namespace in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(call(&program, "clone", 0x11 | namespace), EPERM, "{namespace:#x}");
    }
    assert_eq!(call(&program, "socket", 2), ALLOW);
    assert_eq!(call(&program, "socket", 40), EPERM, "vsock");
    assert_eq!(call(&program, "personality", 0x2_0008), ALLOW);
    assert_eq!(call(&program, "personality", 0x40_0000), EPERM);
    // The other instruction sets: 32-bit has its own numbers, x32 is not offered, ARM is nonsense here.
    assert_eq!(ask(&program, Arch::I386, 21, [0; 6]), EPERM, "mount on i386");
    assert_eq!(ask(&program, Arch::I386, 3, [0; 6]), ALLOW, "read on i386");
    assert_eq!(ask(&program, Arch::X86_64, X32_READ, [0; 6]), EPERM);
    assert_eq!(ask(&program, Arch::Aarch64, 63, [0; 6]), 0x8000_0000);
    let admin = docker_default(u64::MAX).remove(0);
    for allowed in ["mount", "clone3", "unshare", "bpf", "reboot", "init_module"] {
        assert_eq!(call(&admin, allowed, 0x7e02_0000), ALLOW, "{allowed}");
    }
    assert_eq!(call(&admin, "io_uring_setup", 0), EPERM);
}

#[test]
fn comparisons_of_64_bits() {
    type Check = fn(u64, u64) -> bool;
    let edge = 0x1_0000_0005u64;
    let values = [0, 4, 5, 6, u64::from(u32::MAX), edge - 1, edge, edge + 1, 0x2_0000_0000, u64::MAX];
    let tests: [(Test, Check); 7] = [
        (Test::Equal(edge), |a, b| a == b),
        (Test::NotEqual(edge), |a, b| a != b),
        (Test::Less(edge), |a, b| a < b),
        (Test::LessEqual(edge), |a, b| a <= b),
        (Test::Greater(edge), |a, b| a > b),
        (Test::GreaterEqual(edge), |a, b| a >= b),
        (Test::Masked(0x1_0000_0001, 0x1_0000_0001), |a, _| a & 0x1_0000_0001 == 0x1_0000_0001),
    ];
    for (test, check) in tests {
        for second in [false, true] {
            let mut tests = vec![(0, test)];
            if second {
                tests.push((5, Test::Equal(9)));
            }
            let filter = Filter {
                architectures: vec![Arch::X86_64],
                default: Action::errno(1),
                rules: vec![("read".into(), Rule { tests, action: Action::ALLOW })],
                named: Vec::new(),
            };
            let program = compile::program(&filter);
            for value in values {
                for last in [8, 9] {
                    let wanted = check(value, edge) && (!second || last == 9);
                    let got = ask(&program, Arch::X86_64, 0, [value, 0, 0, 0, 0, last]) == ALLOW;
                    assert_eq!(got, wanted, "{test:?} {value:#x} {second} {last}");
                }
            }
        }
    }
}

#[test]
fn profiles() {
    let json = r#"{
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
        "syscalls": [
            {"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"name": "chmod", "action": "SCMP_ACT_ERRNO", "args": null},
            {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS",
             "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 15, "op": "SCMP_CMP_EQ"}]},
            {"names": ["chown"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["s390x"]}},
            {"names": ["link"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
            {"names": ["unlink"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "4.8"}}
        ]}"#;
    let program = from_profile(json, 0).unwrap().remove(0);
    if profile::ARCHITECTURE == Arch::X86_64 {
        assert_eq!(call(&program, "mkdir", 0), 0x0005_000d);
        assert_eq!(call(&program, "chmod", 0), EPERM);
        assert_eq!(call(&program, "chown", 0), EPERM);
        assert_eq!(call(&from_profile(json, 1).unwrap()[0], "chown", 0), ALLOW);
        assert_eq!(call(&program, "rmdir", 0), ALLOW);
        assert_eq!(call(&program, "link", 0), ALLOW);
        assert_eq!(call(&program, "unlink", 0), EPERM);
        for (signal, wanted) in [(9, 0x8000_0000), (15, 0x8000_0000), (1, ALLOW)] {
            assert_eq!(ask(&program, Arch::X86_64, 62, [1, signal, 0, 0, 0, 0]), wanted);
        }
    }
    for (bad, why) in [
        ("{", "decoding"),
        (r#"{"defaultAction": "SCMP_ACT_NOPE"}"#, "unknown action"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}"#, "notifications"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
            "six arguments",
        ),
    ] {
        let error = from_profile(bad, 0).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// What a profile names, whatever it says of it, is not new to it; what comes after that is refused as a call that is not there,
/// unless the profile lets calls pass.
#[test]
fn calls_that_are_newer_than_a_profile() {
    let newer = |action: &str, rule: &str| {
        let json = format!(
            r#"{{"defaultAction": "{action}", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ALLOW"}}, {{"names": ["close_range"], "action": "{rule}"}}]}}"#
        );
        let program = from_profile(&json, 0).unwrap().remove(0);
        [5, 436, 437, 1000].map(|number| ask(&program, Arch::X86_64, number, [0; 6]))
    };
    for rule in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL"] {
        let close_range = if rule == "SCMP_ACT_KILL" { 0 } else { EPERM };
        assert_eq!(newer("SCMP_ACT_ERRNO", rule), [EPERM, close_range, ENOSYS, ENOSYS]);
    }
    assert_eq!(
        newer("SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_PROCESS"),
        [0x8000_0000, 0x8000_0000, ENOSYS, ENOSYS]
    );
    for passing in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"] {
        let all = newer(passing, passing);
        assert!(all.iter().all(|answer| *answer == all[0]), "{all:x?}");
    }
}

#[test]
fn cut_off_programs_are_not_installed() {
    let program = docker_default(0).remove(0);
    assert!(
        crate::sys::process::install_seccomp(&program[..program.len() - 3]).unwrap_err().is(libc::EINVAL)
    );
    assert!(crate::sys::process::install_seccomp(&[]).unwrap_err().is(libc::EINVAL));
}
