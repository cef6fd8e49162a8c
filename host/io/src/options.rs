//! Log driver options.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Limits and selections that the options of the file based drivers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Bytes after which a file is rotated.
    pub max_size: u64,
    /// How many files there are, the current one included.
    pub max_file: u32,
    /// Compress rotated files.
    pub compress: bool,
}

impl LogOptions {
    /// Parses the options of a driver; Docker's texts.
    pub fn parse(driver: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let _ = (driver, options);
        Err(Error::unsupported("log options"))
    }
}
