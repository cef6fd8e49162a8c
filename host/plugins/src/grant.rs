//! What the administrator lets plugins do.
//!
//! The bundled plugins' grants are a file like any other ([`bundled`]); nothing is granted in code.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use wharf_plan::files::FileGrants;
use wharf_plan::net::NetGrants;

/// What one plugin may do. Whatever is absent is refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Grant {
    /// In plans about files and mounts.
    pub files: FileGrants,
    /// In plans about networks.
    pub net: NetGrants,
    /// As a policy.
    pub policy: PolicyGrant,
    /// Origins (`https://host:port`) it may send requests to.
    pub http: BTreeSet<String>,
    /// Names of secrets it may use.
    pub secrets: BTreeSet<String>,
    /// Kinds of engine objects it may look at.
    pub engine: BTreeSet<String>,
}

/// What a policy may do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PolicyGrant {
    /// Hook points at which it is asked.
    pub points: BTreeSet<String>,
    /// Pointers it may change; `*` stands for one member: `/Labels/*`.
    pub mutate: BTreeSet<String>,
}

/// The grants of the bundled plugins.
const BUNDLED: &str = include_str!("bundled-grants.toml");

/// Reads a file of grants: one table per plugin name.
pub fn parse_grants(text: &str) -> Result<BTreeMap<String, Grant>, String> {
    toml::from_str(text).map_err(|e| e.to_string())
}

/// What the bundled plugins are granted unless the administrator says otherwise.
pub fn bundled_grants() -> BTreeMap<String, Grant> {
    // A test holds this file to be valid.
    parse_grants(BUNDLED).unwrap_or_default()
}

impl PolicyGrant {
    /// Whether the pointer may be changed.
    pub(crate) fn may_mutate(&self, pointer: &str) -> bool {
        self.mutate.iter().any(|pattern| {
            let mut wanted = pattern.split('/');
            let mut found = pointer.split('/');
            loop {
                match (wanted.next(), found.next()) {
                    (None, None) => return true,
                    (Some("*"), Some(part)) if !part.is_empty() => {}
                    (Some(wanted), Some(found)) if wanted == found => {}
                    _ => return false,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_file_is_valid() {
        let grants = parse_grants(BUNDLED).unwrap();
        assert!(grants["wharf/storage-overlay"].files.filesystems.contains("overlay"));
        assert!(grants["wharf/network-none"].net.links.is_empty());
        assert!(parse_grants("[x]\nall = true").is_err(), "an unknown right is not ignored");
    }

    #[test]
    fn a_pointer_is_changed_only_where_granted() {
        let grant = PolicyGrant {
            mutate: ["/HostConfig/Memory", "/Labels/*"].map(String::from).into(),
            ..PolicyGrant::default()
        };
        for (pointer, fine) in [
            ("/HostConfig/Memory", true),
            ("/Labels/team", true),
            ("/Labels", false),
            ("/Labels/", false),
            ("/Labels/a/b", false),
            ("/HostConfig", false),
            ("/HostConfig/Memory/x", false),
            ("", false),
        ] {
            assert_eq!(grant.may_mutate(pointer), fine, "{pointer}");
        }
    }
}
