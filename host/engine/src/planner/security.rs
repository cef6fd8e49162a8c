//! `--security-opt`, masked paths, devices.

use wharf_plan::run::DeviceRule;

use crate::error::{Error, Result};

/// What `--security-opt` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Where seccomp rules come from.
    pub seccomp: Seccomp,
    /// `AppArmor` profile; None is the default one.
    pub apparmor: Option<String>,
    /// `no_new_privs`, if it says.
    pub no_new_privileges: Option<bool>,
    /// Nothing of /proc and /sys is hidden.
    pub unconfined_paths: bool,
    /// The container may change its own cgroup.
    pub writable_cgroups: bool,
}

/// Where seccomp rules come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Seccomp {
    /// What the engine is told to use, Docker's allow-list if nothing else.
    #[default]
    Default,
    /// Docker's default allow-list.
    Builtin,
    /// None.
    Unconfined,
    /// A profile as JSON.
    Profile(String),
}

/// At most so many bytes of a seccomp profile.
const PROFILE_LIMIT: usize = 1 << 20;

/// Reads them all.
pub fn options(list: &[String]) -> Result<Options> {
    let mut all = Options::default();
    for text in list {
        if text == "no-new-privileges" {
            all.no_new_privileges = Some(true);
            continue;
        }
        if text == "disable" {
            continue;
        }
        let Some((key, value)) = text.split_once('=').or_else(|| text.split_once(':')) else {
            return Err(Error::invalid(format!("invalid --security-opt 1: {text:?}")));
        };
        match key {
            // SELinux labels mean nothing where there is none.
            "label" => {}
            "apparmor" => all.apparmor = Some(value.to_owned()),
            "seccomp" => {
                all.seccomp = match value {
                    "unconfined" => Seccomp::Unconfined,
                    "builtin" => Seccomp::Builtin,
                    "" => Seccomp::Default,
                    profile if profile.len() > PROFILE_LIMIT => {
                        return Err(Error::invalid("the seccomp profile is larger than 1 MiB"));
                    }
                    profile => {
                        serde_json::from_str::<serde_json::Value>(profile)
                            .map_err(|e| Error::invalid(format!("Decoding seccomp profile failed: {e}")))?;
                        Seccomp::Profile(profile.to_owned())
                    }
                }
            }
            "no-new-privileges" => {
                all.no_new_privileges = Some(
                    value
                        .parse()
                        .map_err(|_| Error::invalid(format!("invalid --security-opt 2: {text:?}")))?,
                );
            }
            "systempaths" if value == "unconfined" => all.unconfined_paths = true,
            "writable-cgroups" => {
                all.writable_cgroups = value
                    .parse()
                    .map_err(|_| Error::invalid(format!("invalid --security-opt 2: {text:?}")))?;
            }
            _ => return Err(Error::invalid(format!("invalid --security-opt 2: {text:?}"))),
        }
    }
    Ok(all)
}

/// Hidden by default.
pub const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only by default.
pub const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn allow(kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
    DeviceRule { allow: true, kind, major, minor, access: access.to_owned() }
}

/// Nothing but what is on the list: an allow-list, never a deny-list.
pub fn base_rules() -> Vec<DeviceRule> {
    let mut rules =
        vec![DeviceRule { allow: false, kind: 'a', major: None, minor: None, access: "rwm".into() }];
    rules.push(allow('c', None, None, "m"));
    rules.push(allow('b', None, None, "m"));
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        rules.push(allow('c', Some(major), Some(minor), "rwm"));
    }
    rules.push(allow('c', Some(136), None, "rwm"));
    rules
}

/// Everything, for `--privileged`.
pub fn all_rules() -> Vec<DeviceRule> {
    vec![allow('a', None, None, "rwm")]
}

/// Reads `--device-cgroup-rule`'s `c 1:3 rwm`.
pub fn rule(text: &str) -> Result<DeviceRule> {
    let bad = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let parts: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, access] = parts.as_slice() else { return Err(bad()) };
    let kind = match *kind {
        "a" => 'a',
        "b" => 'b',
        "c" => 'c',
        _ => return Err(bad()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |t: &str| if t == "*" { Ok(None) } else { t.parse::<u32>().map(Some).map_err(|_| bad()) };
    if access.is_empty() || access.len() > 3 || !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(bad());
    }
    Ok(allow(kind, number(major)?, number(minor)?, access))
}

/// Checks `--device`'s access letters.
pub fn device_access(text: &str) -> Result<&str> {
    let text = if text.is_empty() { "rwm" } else { text };
    if text.len() <= 3 && text.bytes().all(|b| b"rwm".contains(&b)) {
        Ok(text)
    } else {
        Err(Error::invalid(format!("invalid device mode: {text}")))
    }
}

/// Sysctls that belong to a namespace of the container's own.
pub fn sysctl(key: &str, value: &str, own_ipc: bool, own_net: bool, own_uts: bool) -> Result<()> {
    const IPC: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let clean = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)) && !key.contains("..");
    if !clean || value.contains('\0') || value.len() > 4096 {
        return Err(Error::invalid(format!("invalid sysctl {key:?}")));
    }
    let (known, own) = if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        (true, own_ipc)
    } else if key.starts_with("net.") {
        (true, own_net)
    } else if key == "kernel.domainname" || key == "kernel.hostname" {
        (true, own_uts)
    } else {
        (false, false)
    };
    if known && own {
        Ok(())
    } else if known {
        Err(Error::invalid(format!(
            "sysctl {key:?} not allowed as the container shares the namespace of the host"
        )))
    } else {
        Err(Error::invalid(format!("sysctl {key:?} is not in a separate kernel namespace")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_options() {
        let own = |l: &[&str]| options(&l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let o = own(&["no-new-privileges", "seccomp=unconfined", "apparmor=x", "label:disable"]).unwrap();
        assert_eq!(o.no_new_privileges, Some(true));
        assert_eq!(o.seccomp, Seccomp::Unconfined);
        assert_eq!(own(&["no-new-privileges=false"]).unwrap().no_new_privileges, Some(false));
        assert_eq!(own(&["foo"]).unwrap_err().message, "invalid --security-opt 1: \"foo\"");
        assert_eq!(own(&["foo=bar"]).unwrap_err().message, "invalid --security-opt 2: \"foo=bar\"");
        assert!(own(&["seccomp={"]).unwrap_err().message.starts_with("Decoding seccomp profile failed"));
        assert!(own(&["systempaths=unconfined"]).unwrap().unconfined_paths);
    }

    #[test]
    fn device_rules_are_an_allow_list() {
        let rules = base_rules();
        assert!(!rules[0].allow && rules[0].kind == 'a');
        assert!(rules.iter().skip(1).all(|r| r.allow && (r.major.is_some() || r.access == "m")));
        assert_eq!(rule("c 10:* rw").unwrap().minor, None);
        for bad in ["", "c", "c 1:3", "x 1:3 r", "c 1 r", "c 1:3 x", "c 1:3 rwmm", "c a:1 r", "c 1:3  r"] {
            assert_eq!(rule(bad).unwrap_err().message, format!("invalid device cgroup rule format: '{bad}'"));
        }
    }

    #[test]
    fn sysctls() {
        assert!(sysctl("net.ipv4.ip_forward", "1", true, true, true).is_ok());
        assert!(sysctl("net.ipv4.ip_forward", "1", true, false, true).is_err());
        assert!(sysctl("kernel.shmmax", "1", false, true, true).is_err());
        for bad in [
            "kernel.core_pattern",
            "vm.swappiness",
            "net/../kernel/core_pattern",
            "net.ipv4\0",
            "kernel.sysrq",
        ] {
            assert!(sysctl(bad, "1", true, true, true).is_err(), "{bad}");
        }
    }
}
