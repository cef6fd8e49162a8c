//! `AppArmor`: what the kernel knows of it, and the default profile of containers.

mod profile;

use std::path::Path;
use std::time::Duration;

use crate::program;

pub use profile::text;

/// Name of the profile that containers get which ask for none: Docker's, so that one which an administrator loaded is used.
pub const DEFAULT: &str = "docker-default";

const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// Translates profiles and loads them. The kernel takes them in translated form only.
const PARSER: &str = "apparmor_parser";

/// The profile is small.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the kernel confines by profiles.
pub fn enabled() -> bool {
    std::fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// Whether the kernel has a profile of this name.
///
/// # Errors
/// securityfs is not mounted, or may not be read.
pub fn is_loaded(name: &str) -> std::io::Result<bool> {
    Ok(lists(&std::fs::read_to_string(LOADED)?, name))
}

/// A line is a name and, in brackets, what is done with who breaks the rules. Names may have spaces.
fn lists(loaded: &str, name: &str) -> bool {
    loaded.lines().any(|line| line.rsplit_once(" (").map_or(line, |(name, _)| name) == name)
}

/// The profile that this process is confined by; None if by none.
pub fn own() -> Option<String> {
    let text = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())?;
    let label = text.trim_end_matches(['\n', '\0']);
    let label = label.rsplit_once(" (").map_or(label, |(name, _)| name);
    (!label.is_empty() && label != "unconfined").then(|| label.to_owned())
}

/// Loads the default profile, in place of one of that name that may be there.
///
/// # Errors
/// A text that says why not: no `apparmor_parser` on this machine, or what it said.
pub fn load_default() -> Result<(), String> {
    let Some(parser) = program::find(PARSER) else {
        return Err(format!("there is no {PARSER} in {} (Debian package apparmor)", program::PATH));
    };
    load(&parser, &text(own().as_deref()))
}

fn load(parser: &Path, profile: &str) -> Result<(), String> {
    // Replace what is there, and leave no translation in a cache that others use.
    program::call(parser, &["--replace", "--skip-cache"], profile.as_bytes(), PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaded_profiles_by_name() {
        let loaded = "a b (complain)\ndocker-default (enforce)\n/usr/bin/man (enforce)\nodd\n";
        for name in ["a b", "docker-default", "/usr/bin/man", "odd"] {
            assert!(lists(loaded, name), "{name}");
        }
        for name in ["a", "docker", "docker-default (enforce)", ""] {
            assert!(!lists(loaded, name), "{name}");
        }
    }

    #[test]
    fn the_parsers_words_are_the_error() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let parser = dir.path().join("parser");
        std::fs::write(
            &parser,
            "#!/bin/sh\ngrep -q 'profile docker-default' || exit 9\necho \"no: $*\" >&2\nexit 1\n",
        )
        .unwrap();
        std::fs::set_permissions(&parser, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(load(&parser, &text(None)).unwrap_err(), "no: --replace --skip-cache");
    }
}
