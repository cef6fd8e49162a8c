//! What the host does for a plugin, as a trait, so that the same driver runs inside the sandbox and in a native test.

use serde::de::DeserializeOwned;

use crate::Result;
use crate::bindings::host::wharf::plugin;

pub use plugin::call::Context;
pub use plugin::http::{Header, Request, Response, Value};
pub use plugin::kv::{Entry, Page};
pub use plugin::log::Level;

/// The services that every plugin has without asking.
///
/// In a component this is the real host; in a native test it is [`crate::mock::MockHost`]. What needs a grant
/// (secrets, http, alarms, metrics, the engine's view) is a function of [`crate::services`], so that a plugin imports
/// only what it calls.
pub trait Host {
    /// Facts about this call. The time is frozen for the whole of it.
    fn context(&self) -> Context;
    /// This instance's configuration as JSON text, checked against the manifest's schema.
    fn config(&self) -> String;
    /// Whether anybody keeps messages of this level.
    fn log_enabled(&self, level: Level) -> bool;
    /// Lands in the plugin's own log and in the call's span.
    fn log(&self, level: Level, message: &str, fields: &[(&str, &str)]);
    /// Reads one key: as it was at the start of the call, plus own writes.
    fn kv_get(&self, key: &str) -> Result<Option<Entry>>;
    /// Reads many keys at once.
    fn kv_get_many(&self, keys: &[String]) -> Result<Vec<Option<Entry>>>;
    /// Stages a write; it commits with the plan that this call returns, or never.
    fn kv_set(&self, key: &str, value: &[u8]) -> Result<()>;
    /// Stages a removal.
    fn kv_remove(&self, key: &str) -> Result<()>;
    /// Keys that start with `prefix`, in order, after `after`.
    fn kv_scan(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page>;
    /// Services that need a grant. Native only: a component calls the imports directly.
    #[cfg(not(target_arch = "wasm32"))]
    fn services(&self) -> &dyn crate::services::Services;
}

/// Reads this instance's configuration. No configuration at all is the default one.
pub fn config<T: DeserializeOwned + Default>(host: &dyn Host) -> Result<T> {
    parse_config(&host.config())
}

/// Reads a configuration text, as `check-config` gets it.
pub fn parse_config<T: DeserializeOwned + Default>(text: &str) -> Result<T> {
    if matches!(text.trim(), "" | "null" | "{}") {
        return Ok(T::default());
    }
    serde_json::from_str(text).map_err(|error| crate::Error::invalid(format!("configuration: {error}")))
}

/// An object that the host holds and the plugin asks by JSON pointer.
pub trait Document {
    /// The text at this pointer, if it is a string.
    fn text(&self, pointer: &str) -> Option<String>;
    /// The number at this pointer.
    fn number(&self, pointer: &str) -> Option<f64>;
    /// The truth value at this pointer.
    fn flag(&self, pointer: &str) -> Option<bool>;
    /// Member names or array indices; empty when there is nothing.
    fn keys(&self, pointer: &str) -> Vec<String>;
    /// The JSON text at this pointer.
    fn get(&self, pointer: &str) -> Option<String>;
    /// The whole document: costs a copy.
    fn json(&self) -> String;
}

impl Document for plugin::documents::Document {
    fn text(&self, pointer: &str) -> Option<String> {
        plugin::documents::Document::text(self, pointer)
    }
    fn number(&self, pointer: &str) -> Option<f64> {
        plugin::documents::Document::number(self, pointer)
    }
    fn flag(&self, pointer: &str) -> Option<bool> {
        plugin::documents::Document::flag(self, pointer)
    }
    fn keys(&self, pointer: &str) -> Vec<String> {
        plugin::documents::Document::keys(self, pointer)
    }
    fn get(&self, pointer: &str) -> Option<String> {
        plugin::documents::Document::get(self, pointer)
    }
    fn json(&self) -> String {
        plugin::documents::Document::json(self)
    }
}

/// The host of a component: every function is an import.
#[cfg(target_arch = "wasm32")]
#[derive(Debug, Clone, Copy, Default)]
pub struct Imported;

#[cfg(target_arch = "wasm32")]
impl Host for Imported {
    fn context(&self) -> Context {
        plugin::call::get()
    }
    fn config(&self) -> String {
        plugin::config::get()
    }
    fn log_enabled(&self, level: Level) -> bool {
        plugin::log::enabled(level)
    }
    fn log(&self, level: Level, message: &str, fields: &[(&str, &str)]) {
        let fields: Vec<(String, String)> =
            fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        plugin::log::emit(level, message, &fields);
    }
    fn kv_get(&self, key: &str) -> Result<Option<Entry>> {
        plugin::kv::get(key)
    }
    fn kv_get_many(&self, keys: &[String]) -> Result<Vec<Option<Entry>>> {
        plugin::kv::get_many(keys)
    }
    fn kv_set(&self, key: &str, value: &[u8]) -> Result<()> {
        plugin::kv::set(key, value)
    }
    fn kv_remove(&self, key: &str) -> Result<()> {
        plugin::kv::remove(key)
    }
    fn kv_scan(&self, prefix: &str, after: Option<&str>, limit: u32) -> Result<Page> {
        plugin::kv::scan(prefix, after, limit)
    }
}

/// Start of every exported function: a panic shall say where it came from before the sandbox traps.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub fn enter() -> &'static dyn Host {
    use std::sync::Once;
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            plugin::log::emit(Level::Error, &info.to_string(), &[]);
        }));
    });
    &Imported
}

/// Natively nothing calls through the exported functions; drivers are called directly with a mock host.
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub fn enter() -> &'static dyn Host {
    unreachable!("exported functions exist in components only")
}
