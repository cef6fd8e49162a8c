//! Capability names and the sets that containers get.

use crate::error::{Error, Result};

/// In the order of their numbers.
const NAMES: &[&str] = &[
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

/// Docker's default set.
const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|n| *n == name)
}

fn mask(names: &[&str]) -> u64 {
    names.iter().filter_map(|n| number(n)).fold(0, |all, bit| all | 1 << bit)
}

/// Every capability.
pub fn all() -> u64 {
    (1 << NAMES.len()) - 1
}

/// Docker's default set as a mask.
pub fn default_set() -> u64 {
    mask(DEFAULT)
}

/// The spelling of capabilities(7): upper case with `CAP_`; `ALL` stays.
pub fn normalize(name: &str) -> Result<String> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if bare == "ALL" {
        return Ok(bare.to_owned());
    }
    match number(bare) {
        Some(_) => Ok(format!("CAP_{bare}")),
        None => Err(Error::invalid(format!("unknown capability: {:?}", format!("CAP_{bare}")))),
    }
}

fn list(names: &[String], field: &str) -> Result<(bool, u64)> {
    let (mut everything, mut bits) = (false, 0);
    for name in names {
        let name = normalize(name).map_err(|e| e.context(format_args!("invalid {field}")))?;
        match name.strip_prefix("CAP_").and_then(number) {
            Some(bit) => bits |= 1 << bit,
            None => everything = true,
        }
    }
    Ok((everything, bits))
}

/// The bounding set that `--cap-add`, `--cap-drop` and `--privileged` mean.
pub fn bounding(add: &[String], drop: &[String], privileged: bool) -> Result<u64> {
    let (add_all, add) = list(add, "CapAdd")?;
    let (drop_all, drop) = list(drop, "CapDrop")?;
    if privileged {
        return Ok(all());
    }
    Ok(match (add_all, drop_all) {
        (true, true) => add & !drop,
        (true, false) => all() & !drop,
        (false, true) => add,
        (false, false) => (default_set() & !drop) | add,
    })
}

/// Names of the bits, for reports.
pub fn names(bits: u64) -> Vec<&'static str> {
    NAMES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, n)| *n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Vec<&'static str> {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        names(bounding(&own(add), &own(drop), false).unwrap())
    }

    #[test]
    fn sets() {
        assert_eq!(default_set().count_ones(), 14);
        assert_eq!(default_set(), 0xa804_25fb);
        assert_eq!(set(&[], &["all"]), Vec::<&str>::new());
        assert_eq!(set(&["net_admin"], &["ALL"]), ["NET_ADMIN"]);
        assert_eq!(set(&["ALL"], &["CAP_SYS_ADMIN"]).len(), 40);
        assert!(!set(&[], &["CHOWN"]).contains(&"CHOWN"));
        assert!(set(&["CAP_SYS_TIME"], &[]).contains(&"SYS_TIME"));
        assert_eq!(bounding(&[], &["ALL".into()], true).unwrap(), all());
    }

    #[test]
    fn unknown_ones_are_named() {
        let e = bounding(&["cap_foo".into()], &[], false).unwrap_err();
        assert_eq!(e.message, "invalid CapAdd: unknown capability: \"CAP_FOO\"");
        let e = bounding(&[], &["bar".into()], true).unwrap_err();
        assert_eq!(e.message, "invalid CapDrop: unknown capability: \"CAP_BAR\"");
    }
}
