//! Services that the administrator must grant. A function that is not called is not imported.

use crate::Result;
use crate::host::{Host, Request, Response};
use crate::types::Json;

#[cfg(target_arch = "wasm32")]
use crate::bindings::host::wharf::plugin;

/// The native form of the granted services; [`crate::mock::MockHost`] implements it.
#[cfg(not(target_arch = "wasm32"))]
pub trait Services {
    /// See [`secret`].
    fn secret(&self, name: &str) -> Result<Vec<u8>>;
    /// See [`http`].
    fn http(&self, request: &Request) -> Result<Response>;
    /// See [`set_alarm`].
    fn set_alarm(&self, token: &str, after_ms: u64) -> Result<()>;
    /// See [`cancel_alarm`].
    fn cancel_alarm(&self, token: &str) -> Result<()>;
    /// See [`count`].
    fn count(&self, instrument: u32, value: u64, attributes: &[String]);
    /// See [`observe`].
    fn observe(&self, instrument: u32, value: f64, attributes: &[String]);
    /// See [`engine_get`].
    fn engine_get(&self, kind: &str, id: &str) -> Result<Option<Json>>;
    /// See [`engine_find`].
    fn engine_find(&self, kind: &str, selector: &str, after: Option<&str>, limit: u32) -> Result<Vec<Json>>;
}

macro_rules! service {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) $(-> $answer:ty)?, $($import:ident)::+) => {
        $(#[$doc])*
        pub fn $name(host: &dyn Host, $($argument: $type),*) $(-> $answer)? {
            #[cfg(target_arch = "wasm32")]
            {
                let _ = host;
                plugin::$($import)::+($($argument),*)
            }
            #[cfg(not(target_arch = "wasm32"))]
            host.services().$name($($argument),*)
        }
    };
}

service! {
    /// The bytes of a secret. Needs the `reveal` grant; prefer passing the name inside a header or a plan.
    secret(name: &str) -> Result<Vec<u8>>, secrets::reveal
}
service! {
    /// Blocking HTTP to a granted origin.
    http(request: &Request) -> Result<Response>, http::send
}
service! {
    /// A durable wake-up of `lifecycle.alarm`, staged like a write.
    set_alarm(token: &str, after_ms: u64) -> Result<()>, alarms::set
}
service! {
    /// Takes a wake-up back.
    cancel_alarm(token: &str) -> Result<()>, alarms::cancel
}
service! {
    /// Adds to a counter of the manifest.
    count(instrument: u32, value: u64, attributes: &[String]), metrics::add
}
service! {
    /// Observes a value for an instrument of the manifest.
    observe(instrument: u32, value: f64, attributes: &[String]), metrics::observe
}
service! {
    /// One object of the engine, as it was at the start of the call.
    engine_get(kind: &str, id: &str) -> Result<Option<Json>>, engine::get
}
service! {
    /// Objects of the engine that match the selector and the grant.
    engine_find(kind: &str, selector: &str, after: Option<&str>, limit: u32) -> Result<Vec<Json>>, engine::find
}
