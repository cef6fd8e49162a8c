//! Capabilities: names, Docker's default set, and what the kernel knows.

use crate::sys::process;

/// Names by number, without the `CAP_` in front.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// `CAP_SYS_ADMIN`.
pub const SYS_ADMIN: u32 = 21;

/// What a container has unless told otherwise, as in Docker.
pub const DOCKER_DEFAULT: u64 = bit(0)
    | bit(1)
    | bit(3)
    | bit(4)
    | bit(5)
    | bit(6)
    | bit(7)
    | bit(8)
    | bit(10)
    | bit(13)
    | bit(18)
    | bit(27)
    | bit(29)
    | bit(31);

/// The mask of one capability.
pub const fn bit(number: u32) -> u64 {
    1 << number
}

/// Number of a name, with or without `CAP_`, in any case.
pub fn parse(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == bare).and_then(|n| u32::try_from(n).ok())
}

/// Name with `CAP_` in front.
pub fn name(number: u32) -> Option<String> {
    let index = usize::try_from(number).ok()?;
    NAMES.get(index).map(|n| format!("CAP_{n}"))
}

/// Names of a set, with `CAP_` in front, by number.
pub fn names(set: u64) -> Vec<String> {
    (0..64).filter(|n| set & bit(*n) != 0).filter_map(name).collect()
}

/// [`available`], asked of the kernel once: a process does not get back what it dropped.
pub fn available_once() -> u64 {
    static SET: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *SET.get_or_init(available)
}

/// What this process's bounding set has: nothing beyond it can be given to a container.
pub fn available() -> u64 {
    let mut set = 0;
    for number in 0..64 {
        match process::has_bounding(number) {
            Ok(true) => set |= bit(number),
            Ok(false) => {}
            // The kernel knows no capability from here on.
            Err(_) => break,
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(parse("cap_net_admin"), Some(12));
        assert_eq!(parse("SYS_ADMIN"), Some(SYS_ADMIN));
        assert_eq!(parse("NOPE"), None);
        assert_eq!(name(40).unwrap(), "CAP_CHECKPOINT_RESTORE");
        assert_eq!(DOCKER_DEFAULT, 0xa804_25fb);
        assert_eq!(names(DOCKER_DEFAULT).len(), 14);
    }
}
