//! Statements about images (attestations) in an index, as `BuildKit` writes them: entries like those of images, for no
//! platform, with annotations that tell what they are and which of the others they are about.

use std::collections::BTreeMap;

use crate::platform::Platform;

/// Says of an entry what it is instead of an image.
pub const TYPE: &str = "vnd.docker.reference.type";
/// The digest of the manifest that an entry is about.
pub const ABOUT: &str = "vnd.docker.reference.digest";

/// Whether an entry with these annotations, for this platform, is a statement rather than an image.
pub fn is_statement(annotations: &BTreeMap<String, String>, platform: Option<&Platform>) -> bool {
    annotations.contains_key(TYPE)
        || platform.is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
}

/// Digest of the manifest that a statement is about.
pub fn about(annotations: &BTreeMap<String, String>) -> Option<&str> {
    annotations.get(ABOUT).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_statement() {
        let platform = |text: &str| Platform::parse(text).unwrap();
        let unknown =
            Platform { os: "unknown".into(), architecture: "unknown".into(), ..Platform::default() };
        let none = BTreeMap::new();
        assert!(!is_statement(&none, None));
        assert!(!is_statement(&none, Some(&platform("linux/amd64"))));
        assert!(is_statement(&none, Some(&unknown)));
        let notes = BTreeMap::from([(TYPE.to_owned(), "attestation-manifest".to_owned())]);
        assert!(is_statement(&notes, Some(&platform("linux/amd64"))));
        assert_eq!(about(&notes), None);
        assert_eq!(about(&BTreeMap::from([(ABOUT.to_owned(), "sha256:1".to_owned())])), Some("sha256:1"));
    }
}
