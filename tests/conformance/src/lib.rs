//! Drivers as the SDK's suites know them, with a component in the real host behind them.
//!
//! The suites call a trait of the SDK; here every call goes through `wharf-plugins` into the sandbox, with its limits
//! and grants, and what it stages is committed if it succeeds. Values cross between the SDK's types and the host's by
//! a byte format that knows no names, so that a difference in the order of fields shows as well.
#![forbid(unsafe_code)]
#![allow(clippy::panic, clippy::expect_used, clippy::missing_panics_doc, reason = "used by tests alone")]

mod kinds;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use wharf_plugin_sdk::{Error, Host, Result};
use wharf_plugins::{Call, ErrorKind, Planned, PluginError, Plugins, Settings};
use wharf_store::Store;

pub use kinds::{Codec, Ipam, Network, Storage};

/// All plugins of a directory, loaded in the real host.
#[derive(Debug, Clone)]
pub struct Sandbox(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    runtime: Runtime,
    plugins: Plugins,
    store: Store,
    /// Store and compiled forms; removed at the end.
    _dir: tempfile::TempDir,
}

impl Sandbox {
    /// Loads one of the plugins that `cargo xtask plugins` has built beside the running test.
    pub fn bundled(name: &str) -> Self {
        let bin = bin_dir();
        let built = bin.join("plugins").join(format!("{name}.wasm"));
        assert!(built.is_file(), "{} is missing: run `cargo xtask build`", built.display());
        // By itself, so that the others need not be compiled as well.
        let alone = tempfile::tempdir().expect("temporary directory");
        std::fs::copy(&built, alone.path().join("plugin.wasm")).expect("copy");
        Self::load(alone.path(), &bin.join("wharf-compile"))
    }

    /// Loads the plugins of a directory.
    pub fn load(plugins: &Path, compiler: &Path) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(&dir.path().join("store")).expect("store");
        let mut settings = Settings::new(store.clone(), dir.path().join("cache"));
        settings.dirs = vec![plugins.to_owned()];
        settings.compiler = PathBuf::from(compiler);
        settings.node = String::from("conformance");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        let plugins = runtime.block_on(Plugins::load(settings)).expect("plugins");
        for info in plugins.list() {
            assert!(matches!(info.state, wharf_plugins::State::Ready), "{}: {:?}", info.name, info.state);
        }
        Self(Rc::new(Inner { runtime, plugins, store, _dir: dir }))
    }

    /// The plugins.
    pub fn plugins(&self) -> &Plugins {
        &self.0.plugins
    }

    /// One call into the sandbox; what it stages commits if it succeeds and is no dry run.
    fn call<A: Serialize, B: DeserializeOwned>(
        &self,
        host: &dyn Host,
        function: impl AsyncFnOnce(&Call) -> std::result::Result<Planned<A>, PluginError>,
    ) -> Result<B> {
        let context = host.context();
        let call = Call::new(context.operation).dry_run(context.dry_run);
        match self.0.runtime.block_on(function(&call)) {
            Ok(planned) => {
                if !context.dry_run && !planned.kv.is_empty() {
                    self.0.store.commit_blocking(planned.kv).expect("commit");
                }
                Ok(convert(&planned.value))
            }
            Err(PluginError { kind: ErrorKind::Plugin(error), .. }) => Err(convert::<_, Error>(&error)),
            Err(other) => panic!("the host stopped the plugin: {other}"),
        }
    }
}

/// The directory that holds `wharf-compile` and `plugins/`: `WHARF_BIN_DIR`, or where cargo put this test.
fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("WHARF_BIN_DIR") {
        return dir.into();
    }
    let exe = std::env::current_exe().expect("own path");
    exe.parent().and_then(Path::parent).expect("target directory").to_owned()
}

/// From the host's type to the SDK's or back: both are made from the same words in `wit/`.
fn convert<A: Serialize + ?Sized, B: DeserializeOwned>(value: &A) -> B {
    let bytes = postcard::to_stdvec(value).expect("serialize");
    let (value, rest) = postcard::take_from_bytes(&bytes).unwrap_or_else(|error| {
        panic!("{} is not {}: {error}", std::any::type_name::<A>(), std::any::type_name::<B>())
    });
    assert!(rest.is_empty(), "{} is longer than {}", std::any::type_name::<A>(), std::any::type_name::<B>());
    value
}
