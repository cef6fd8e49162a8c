//! `cargo xtask build`: the host's programs, then the plugins.

use std::path::PathBuf;

use anyhow::Result;

use crate::plugins::{self, Profile};
use crate::shell::{cargo, run};

/// Builds everything and returns the directory that holds it.
pub(crate) fn everything(profile: Profile) -> Result<PathBuf> {
    // One after the other: built together, cargo would give both the features of either, and so bring the
    // compiler into the daemon.
    for package in ["wharf", "wharf-compile"] {
        run(cargo().args(["build", "--locked", "--profile", profile.name(), "--package", package]))?;
    }
    plugins::build_bundled(profile)?;
    Ok(profile.dir())
}
