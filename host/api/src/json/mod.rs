//! Request bodies, read as Docker reads them: field names in any case, unknown fields ignored, null for "not given".

mod decode;
#[cfg(test)]
mod fuzz;
mod value;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Failure;

/// A body of which nothing more is read.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Nothing {}

/// Reads a body into a model. An empty body is an empty object, as Docker's server has it.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let value = if body.is_empty() {
        Value::Null
    } else {
        value::parse(body).map_err(|why| {
            if why == "unexpected content after JSON" {
                Failure::invalid(why)
            } else {
                Failure::invalid(format!("invalid JSON: {why}"))
            }
        })?
    };
    decode::decode(value).map_err(|e| Failure::invalid(e.to_string()))
}

/// What will be executed, in the one form that authorizers and policies see.
pub(crate) fn document<T: Serialize>(model: &T) -> Result<Value, Failure> {
    serde_json::to_value(model)
        .map_err(|e| Failure::invalid(format!("the request's body cannot be used: {e}")))
}
