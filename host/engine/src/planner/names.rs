//! Names and ids.

use std::fmt::Write as _;

use rand::Rng as _;

use crate::error::{Error, Result};

const LEFT: &[&str] = &[
    "able", "amber", "ample", "bold", "brave", "bright", "brisk", "calm", "candid", "clever", "cosy",
    "crisp", "dapper", "deft", "eager", "early", "fair", "fleet", "fond", "frank", "fresh", "gentle", "glad",
    "golden", "grand", "hardy", "honest", "jolly", "keen", "kind", "light", "lively", "loyal", "lucid",
    "mellow", "merry", "mild", "neat", "nimble", "noble", "patient", "placid", "plucky", "polite", "proud",
    "quick", "quiet", "ready", "robust", "serene", "sharp", "silent", "smooth", "snug", "solid", "spry",
    "stable", "steady", "stout", "sunny", "swift", "tidy", "trusty", "upbeat", "vivid", "warm", "witty",
    "zesty",
];

const RIGHT: &[&str] = &[
    "anchor", "barge", "bay", "beacon", "berth", "bight", "boat", "bollard", "bosun", "bow", "breeze",
    "brig", "buoy", "cape", "captain", "cargo", "chart", "clipper", "coast", "compass", "cove", "crane",
    "current", "cutter", "deck", "delta", "dinghy", "dock", "ebb", "ferry", "fjord", "fleet", "galley",
    "gull", "harbor", "haven", "helm", "hold", "hull", "island", "jetty", "keel", "ketch", "knot", "lagoon",
    "lantern", "lighter", "lock", "mast", "mooring", "oar", "pier", "pilot", "port", "quay", "reef",
    "rigging", "rudder", "sail", "schooner", "shoal", "skiff", "sloop", "strait", "tern", "tide", "tiller",
    "trawler", "tug", "wave", "whale", "yawl",
];

fn name_like(text: &str, least: usize) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && text.len() >= least
}

/// Checks a container's name; the answer has no leading slash.
pub fn container(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    // Longer ones could not be written into /etc/hosts or a file name.
    if name_like(bare, 2) && bare.len() <= 255 {
        Ok(bare)
    } else {
        Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

/// Checks a volume's name.
pub fn volume(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(Error::invalid(
            "volume name is too short, names should be at least two alphanumeric characters",
        ));
    }
    if name_like(name, 2) && name.len() <= 255 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name:?} includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are \
         allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// Checks a network's name.
pub fn network(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(Error::invalid("invalid network name: name is empty"));
    }
    // Blanks too, as Docker has it, but not where nobody would see them.
    if name_like(&name.replace(' ', "-"), 1) && name.trim() == name && name.len() <= 255 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid network name {name:?}: only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed"
    )))
}

/// 64 hexadecimal digits. Not all of the first twelve are decimal, so that a short id never looks like a number.
pub fn id() -> String {
    loop {
        let mut bytes = [0_u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let text = hex(&bytes);
        if text.get(..12).is_some_and(|s| s.bytes().any(|b| b.is_ascii_alphabetic())) {
            return text;
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        let _ = write!(text, "{b:02x}");
    }
    text
}

/// A name for a container that was given none. `attempt` above zero appends a digit, as collisions get likelier.
pub fn random(attempt: u32) -> String {
    let pick = |list: &[&'static str]| -> &'static str {
        let at = usize::try_from(rand::rng().next_u32()).unwrap_or(0) % list.len().max(1);
        list.get(at).copied().unwrap_or("wharf")
    };
    let mut name = format!("{}_{}", pick(LEFT), pick(RIGHT));
    if attempt > 0 {
        let _ = write!(name, "{}", rand::rng().next_u32() % 10_u32.saturating_pow(attempt.min(9)));
    }
    name
}

/// First twelve characters of an id.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_names() {
        for good in ["ab", "/web", "a.b_c-d", "0a", "A1"] {
            assert!(container(good).is_ok(), "{good}");
        }
        assert_eq!(container("/web").unwrap(), "web");
        for bad in
            ["", "/", "a", "-a", ".a", "_a", "a b", "a/b", "//web", "ä1", "a\n", "a\0b", &"x".repeat(256)]
        {
            let e = container(bad).unwrap_err();
            assert_eq!(e.kind, crate::Kind::Invalid);
            assert_eq!(
                e.message,
                format!("Invalid container name ({bad}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
            );
        }
    }

    #[test]
    fn volume_and_network_names() {
        assert!(volume("data-1").is_ok());
        assert!(volume("../etc").unwrap_err().message.contains("use absolute path"));
        assert!(volume("x").unwrap_err().message.contains("too short"));
        assert!(volume("").is_err());
        assert!(network("n").is_ok() && network("test 01").is_ok());
        for bad in ["", " ", "a/b", " a", "a ", "a\tb"] {
            assert!(network(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_are_hex_and_distinct() {
        let (a, b) = (id(), id());
        assert_eq!(a.len(), 64);
        assert!(a.bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a, b);
        assert_eq!(short(&a).len(), 12);
    }

    #[test]
    fn random_names_are_valid() {
        for attempt in 0..4 {
            assert!(container(&random(attempt)).is_ok());
        }
    }
}
