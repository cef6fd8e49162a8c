//! What the host is told at start: where plugins are, what they may do, how they are set up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use wharf_store::Store;

use crate::Grant;

/// Where the host finds what it needs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directories of components (`*.wasm`), the first to name a plugin wins.
    pub dirs: Vec<PathBuf>,
    /// Where compiled forms are kept; made if absent, owned by this user alone.
    pub cache: PathBuf,
    /// The program `wharf-compile`.
    pub compiler: PathBuf,
    /// Where plugins' own entries are kept, one table each.
    pub store: Store,
    /// This node's name, as plugins see it.
    pub node: String,
    /// The engine's version, as plugins see it.
    pub engine_version: String,
    /// Configuration per plugin name, JSON text; absent is `{}`.
    pub config: BTreeMap<String, String>,
    /// What each plugin may do, by its name.
    pub grants: BTreeMap<String, Grant>,
    /// Order of authenticators, authorizers and policies, by plugin name; those not named follow by name.
    pub order: Vec<String>,
}

impl Settings {
    /// Settings with the compiler beside this program, no directories, and the grants of the bundled plugins.
    pub fn new(store: Store, cache: PathBuf) -> Self {
        let compiler =
            std::env::current_exe().map(|me| me.with_file_name("wharf-compile")).unwrap_or_default();
        Self {
            dirs: Vec::new(),
            cache,
            compiler,
            store,
            node: String::new(),
            engine_version: env!("CARGO_PKG_VERSION").into(),
            config: BTreeMap::new(),
            grants: crate::bundled_grants(),
            order: Vec::new(),
        }
    }
}
