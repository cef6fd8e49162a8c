//! The text of the default profile, of what Docker documents as its effect: everything that a container's other walls allow,
//! but no mount, no write to what of /proc and /sys is the whole machine's, and signals and tracing within containers only.
//!
//! The language has no "all but", and a rule that denies cannot be taken back; so what shall stay allowed is spared by
//! patterns that differ from it at its first letter, at its second, and so on ([`all_but`]).

use std::fmt::Write;

use super::DEFAULT;

/// Of /proc only processes' own directories, which begin with a digit, and the limits of shared memory are written to.
const PROC: (&str, &str) = ("/proc/", "sys/kernel/shm");
/// Of /sys only cgroups, where the container has a view of its own.
const SYS: (&str, &str) = ("/sys/", "fs/cgroup/");

/// What is not even read: memory of the machine, its firmware, how much power it draws (PLATYPUS, CVE-2020-8694), other
/// security modules.
const HIDDEN: [&str; 5] = [
    "/proc/kcore",
    "/proc/sysrq-trigger",
    "/sys/firmware/**",
    "/sys/devices/virtual/powercap/**",
    "/sys/kernel/security/**",
];

/// Profiles that distributions put on other runtimes, which send containers' signals.
const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// Patterns for all that is below `root` but does not begin with `kept`; `beside` are further first letters that are kept.
fn all_but(root: &str, kept: &str, beside: &str) -> Vec<String> {
    let mut patterns = Vec::new();
    for (at, letter) in kept.char_indices() {
        let same = kept.get(..at).unwrap_or_default();
        let beside = if at == 0 { beside } else { "" };
        patterns.push(format!("{root}{same}[^{beside}{letter}]**"));
        // What ends before it differs.
        if !same.is_empty() && !same.ends_with('/') {
            patterns.push(format!("{root}{same}"));
        }
    }
    patterns
}

/// The profile. `daemon` is the one that this engine is confined by, which must be able to signal its containers.
pub fn text(daemon: Option<&str>) -> String {
    let mut text = format!("profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{\n");
    let mut rule = |rule: &str| {
        // To a string nothing fails.
        let _ = writeln!(text, "  {rule},");
    };
    for allowed in ["network", "capability", "file", "umount"] {
        rule(allowed);
    }
    rule("deny mount");
    rule(&format!("ptrace (trace, read, tracedby, readby) peer={DEFAULT}"));
    rule(&format!("signal (send, receive) peer={DEFAULT}"));
    rule("signal (receive) peer=unconfined");
    for runtime in RUNTIMES {
        rule(&format!("signal (receive) peer={runtime}"));
    }
    // A name that would need quoting inside of quotes is nobody's.
    if let Some(daemon) = daemon.filter(|name| !name.contains(['"', '\\', '\n'])) {
        rule(&format!("signal (receive) peer=\"{daemon}\""));
        rule(&format!("ptrace (tracedby, readby) peer=\"{daemon}\""));
    }
    for pattern in all_but(PROC.0, PROC.1, "1-9") {
        rule(&format!("deny {pattern} w"));
    }
    for pattern in all_but(SYS.0, SYS.1, "") {
        rule(&format!("deny {pattern} wklx"));
    }
    for hidden in HIDDEN {
        rule(&format!("deny {hidden} rwklx"));
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the language means by a pattern, as far as this profile uses it.
    fn matches(pattern: &str, path: &str) -> bool {
        let Some(first) = pattern.chars().next() else { return path.is_empty() };
        if let Some(rest) = pattern.strip_prefix("**") {
            return (0..=path.len()).any(|at| matches(rest, &path[at..]));
        }
        if let Some(class) = pattern.strip_prefix("[^") {
            let (class, rest) = class.split_once(']').unwrap();
            let Some(letter) = path.chars().next() else { return false };
            let not = class.strip_prefix("1-9");
            let hit = class.trim_start_matches("1-9").contains(letter)
                || not.is_some() && ('1'..='9').contains(&letter);
            return !hit && matches(rest, &path[1..]);
        }
        path.starts_with(first) && matches(&pattern[1..], &path[1..])
    }

    fn denies(path: &str, access: char) -> bool {
        text(None).lines().any(|line| {
            let Some(rule) = line.trim().strip_prefix("deny /") else { return false };
            let (pattern, perms) = rule.trim_end_matches(',').split_once(' ').unwrap();
            perms.contains(access) && matches(&format!("/{pattern}"), path)
        })
    }

    #[test]
    fn what_of_proc_and_sys_may_be_written_to() {
        for open in [
            "/proc/1/oom_score_adj",
            "/proc/4711/attr/current",
            "/proc/sys/kernel/shmmax",
            "/sys/fs/cgroup/pids.max",
            "/sys/fs/cgroup/a/cgroup.procs",
            "/tmp/x",
            "/system/x",
        ] {
            assert!(!denies(open, 'w'), "{open}");
        }
        for closed in [
            "/proc/sysrq-trigger",
            "/proc/kcore",
            "/proc/acpi/x",
            "/proc/scsi/scsi",
            "/proc/sys/fs/binfmt_misc/register",
            "/proc/sys/net/ipv4/ip_forward",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/sysrq",
            "/proc/sys/kernel/sh",
            "/proc/sys2",
            "/sys/power/state",
            "/sys/kernel/uevent_helper",
            "/sys/fs/bpf/x",
            "/sys/fs/cgroup2/x",
            "/sys/firmware/efi/x",
        ] {
            assert!(denies(closed, 'w'), "{closed}");
        }
        for hidden in ["/proc/kcore", "/sys/firmware/acpi/x", "/sys/kernel/security/x"] {
            assert!(denies(hidden, 'r'), "{hidden}");
        }
        for shown in ["/proc/meminfo", "/proc/sys/kernel/hostname", "/sys/class/net/eth0"] {
            assert!(!denies(shown, 'r'), "{shown}");
        }
    }

    #[test]
    fn the_daemons_own_profile_may_signal() {
        assert!(!text(None).contains("\"\""));
        assert!(text(Some("my daemon")).contains("signal (receive) peer=\"my daemon\","));
        // Nothing comes into the text by a name.
        assert_eq!(text(Some("x\"\n  mount")), text(None));
    }

    /// Where the parser is, it understands the text; no kernel with the module is needed for that.
    #[test]
    fn the_parser_understands_it() {
        let Some(parser) = crate::program::find("apparmor_parser") else {
            eprintln!("skipped: there is no apparmor_parser");
            return;
        };
        let arguments = ["--skip-kernel-load", "--skip-cache", "--skip-read-cache"];
        let patience = std::time::Duration::from_mins(1);
        crate::program::call(&parser, &arguments, text(Some("a daemon")).as_bytes(), patience).unwrap();
    }
}
