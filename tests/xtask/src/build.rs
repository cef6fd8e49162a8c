//! `cargo xtask build`: the host's programs, then the plugins.

use std::path::PathBuf;

use anyhow::Result;

use crate::features;
use crate::plugins::{self, Profile};
use crate::shell::{cargo, run};

/// Builds everything and returns the directory that holds it.
pub(crate) fn everything(profile: Profile) -> Result<PathBuf> {
    // One after the other: built together, cargo would give both the features of either, and so bring the
    // compiler into the daemon.
    for (package, features) in [("wharf", features::arguments()), ("wharf-compile", &[])] {
        let build = ["build", "--locked", "--profile", profile.name(), "--package", package];
        run(cargo().args(build).args(features))?;
    }
    plugins::build_bundled(profile)?;
    Ok(profile.dir())
}
