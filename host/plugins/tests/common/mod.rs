//! A host to run small components in.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test file uses its part"
)]

mod guest;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

#[allow(unused_imports, reason = "each test file uses its part")]
pub use guest::{Guest, RESULT, ok_text, parameter, root, with_manifest};
use wharf_plugins::{Grant, Plugins, Settings};
use wharf_store::Store;

/// The real compiler program, built once.
pub fn compiler() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("WHARF_COMPILE") {
            return path.into();
        }
        // `cargo xtask test` has built it.
        if let Some(dir) = std::env::var_os("WHARF_BIN_DIR") {
            return PathBuf::from(dir).join("wharf-compile");
        }
        // Beside the tests' own directory `deps`.
        let profile = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let release = profile.file_name().is_some_and(|name| name == "release");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "-p", "wharf-compile", "--manifest-path"])
            .arg(root().join("Cargo.toml"));
        cargo.arg("--target-dir").arg(profile.parent().unwrap());
        if release {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "wharf-compile does not build");
        profile.join("wharf-compile")
    })
    .clone()
}

/// A host with a directory of plugins, all of it gone when dropped.
pub struct House {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub settings: Settings,
}

impl House {
    pub fn new() -> Self {
        Self::with_compiler(compiler())
    }

    pub fn with_compiler(compiler: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("plugins")).unwrap();
        let store = Store::open(&dir.path().join("db")).unwrap();
        let mut settings = Settings::new(store.clone(), dir.path().join("cache"));
        settings.dirs = vec![dir.path().join("plugins")];
        settings.compiler = compiler;
        settings.node = "here".into();
        Self { dir, store, settings }
    }

    pub fn plugins(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    pub fn with(self, guest: &Guest) -> Self {
        guest.install(&self.plugins());
        self
    }

    pub fn grant(mut self, name: &str, grant: Grant) -> Self {
        self.settings.grants.insert(name.into(), grant);
        self
    }

    pub async fn load(&self) -> Plugins {
        Plugins::load(self.settings.clone()).await.unwrap()
    }
}

pub fn snapshot(id: &str) -> wharf_plan::storage::Snapshot {
    wharf_plan::storage::Snapshot {
        id: id.into(),
        kind: wharf_plan::storage::Kind::Active,
        labels: Vec::new(),
        cookie: Vec::new(),
    }
}
