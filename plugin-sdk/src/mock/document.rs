//! A document over JSON, as the host holds it.

use serde_json::Value;

use crate::Document;

/// A document in a native test.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MockDocument(pub Value);

impl MockDocument {
    /// Reads JSON text; text that is none is `null`, as is the body of a request that has none.
    pub fn new(json: &str) -> Self {
        Self(serde_json::from_str(json).unwrap_or_default())
    }
}

impl Document for MockDocument {
    fn text(&self, pointer: &str) -> Option<String> {
        self.0.pointer(pointer).and_then(Value::as_str).map(str::to_owned)
    }
    fn number(&self, pointer: &str) -> Option<f64> {
        self.0.pointer(pointer).and_then(Value::as_f64)
    }
    fn flag(&self, pointer: &str) -> Option<bool> {
        self.0.pointer(pointer).and_then(Value::as_bool)
    }
    fn keys(&self, pointer: &str) -> Vec<String> {
        match self.0.pointer(pointer) {
            Some(Value::Object(members)) => members.keys().cloned().collect(),
            Some(Value::Array(items)) => (0..items.len()).map(|index| index.to_string()).collect(),
            _ => Vec::new(),
        }
    }
    fn get(&self, pointer: &str) -> Option<String> {
        self.0.pointer(pointer).map(Value::to_string)
    }
    fn json(&self) -> String {
        self.0.to_string()
    }
}
