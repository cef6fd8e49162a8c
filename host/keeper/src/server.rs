//! The keeper's main loop.

use std::path::PathBuf;

/// How the keeper was called.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory of the socket `keeper.sock` and of the state.
    pub exec_root: PathBuf,
    /// This program, for replacing itself.
    pub program: PathBuf,
    /// Arguments before the keeper's own (`["keeper"]` for `wharf keeper`).
    pub arguments: Vec<String>,
    /// Go into the background once the socket is there.
    pub background: bool,
    /// Descriptor with the state of the instance that this one replaces.
    pub resume: Option<i32>,
}

/// Runs the keeper until it is told to end, or holds nothing and no daemon is there. Call it first thing in `main`,
/// before any thread or runtime exists.
pub fn serve(settings: Settings) -> Result<(), String> {
    Err(format!("keeper in {} is not supported yet", settings.exec_root.display()))
}
