//! The one object that a policy or an authorizer looks into, held by the host.

use std::sync::Arc;

use serde_json::Value;
use wasmtime::component::Resource;

/// A parsed JSON object, shared, never copied into a plugin as a whole unless the plugin asks for it.
#[derive(Debug, Clone, Default)]
pub struct Document(pub(crate) Arc<Value>);

impl Document {
    /// Wraps a value.
    pub fn new(value: Value) -> Self {
        Self(Arc::new(value))
    }

    /// The value again.
    pub fn value(&self) -> &Value {
        &self.0
    }
}

impl From<Value> for Document {
    fn from(value: Value) -> Self {
        Self::new(value)
    }
}

/// How the document crosses: as a handle that ends with the call.
pub(crate) type Borrowed = Resource<Document>;

/// A call has one document, so one number is enough to name it.
pub(crate) fn borrowed() -> Borrowed {
    Resource::new_borrow(0)
}
