//! Who is asking, and may they.

use serde_json::Value;
use wharf_plan::auth::{Connection, Operation, Target};
use wharf_plan::types::{Identity, Labels};

use crate::{Engine, Error, Result};

/// What an authorizer allowed.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// The same question needs not be asked again for so long.
    pub cache_ms: u32,
}

impl Engine {
    /// Asks the authentication plugins in order; the first that knows the caller decides. Call once per connection
    /// (or per request where the evidence is in headers).
    pub async fn authenticate(&self, connection: &Connection) -> Result<Identity> {
        let _ = connection;
        Err(Error::unsupported("authentication"))
    }

    /// Asks the authorizers: a denial wins, then an allowance, nothing at all is a denial. `body` is the whole,
    /// normalized request object, or None for streams and operations without one.
    pub async fn authorize(
        &self,
        identity: &Identity,
        operation: &Operation,
        targets: &[Target],
        query: &Labels,
        body: Option<&Value>,
        streaming_body: bool,
    ) -> Result<Allowed> {
        let _ = (identity, operation, targets, query, body, streaming_body);
        Err(Error::unsupported("authorization"))
    }
}
