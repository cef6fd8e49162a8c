//! Detach keys.

use crate::error::{Error, Result};

/// Docker's default.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Keys as bytes, Docker's words: `ctrl-X`, `DEL`, single characters, separated by commas.
pub fn parse(text: &str) -> Result<Vec<u8>> {
    let _ = text;
    Err(Error::unsupported("detach keys"))
}
