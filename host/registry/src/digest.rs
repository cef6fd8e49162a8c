//! Hashes of content.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Kind, Result};

/// `sha256:` and the hash of these bytes.
pub fn of(data: &[u8]) -> String {
    finish(Sha256::new_with_prefix(data))
}

/// The text of a finished hash.
pub fn finish(hasher: Sha256) -> String {
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in hasher.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A digest that this client can verify.
pub fn check(text: &str) -> Result<()> {
    let hex = |hex: &str| hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match text.split_once(':') {
        Some(("sha256", rest)) if rest.len() == 64 && hex(rest) => Ok(()),
        Some(("sha256", rest)) if rest.len() != 64 => Err(Error::invalid("invalid checksum digest length")),
        Some(("sha256", _)) | None => Err(Error::invalid("invalid checksum digest format")),
        Some(_) => Err(Error::new(Kind::Unsupported, "unsupported digest algorithm")),
    }
}

/// Counts and hashes what passes, and compares it with what was promised.
pub(crate) struct Verifier {
    hasher: Sha256,
    seen: u64,
}

impl Verifier {
    pub(crate) fn new() -> Self {
        Self { hasher: Sha256::new(), seen: 0 }
    }

    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.hasher.update(data);
        self.seen += data.len() as u64;
    }

    pub(crate) fn finish(self) -> String {
        finish(self.hasher)
    }
}
