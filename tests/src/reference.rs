//! The description of the API that the tests are measured against, where it is to be had.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The description's file: `WHARF_SCHEMA`, or where it stands beside a checkout; None where it is not to be had.
pub fn path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("WHARF_SCHEMA") {
        return Some(path.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let path = root.parent()?.join("shared/reference/docker-engine-api-v1.55.yaml");
    path.is_file().then_some(path)
}

/// The description as a value.
pub fn schema() -> Option<Value> {
    let path = path()?;
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// Names of a definition's fields, with those of the definitions that it builds on.
pub fn fields(schema: &Value, definition: &str) -> BTreeSet<String> {
    fn collect(schema: &Value, of: &Value, all: &mut BTreeSet<String>) {
        if let Some(name) = of["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
            collect(schema, &schema["definitions"][name], all);
        }
        for part in of["allOf"].as_array().into_iter().flatten() {
            collect(schema, part, all);
        }
        all.extend(of["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
    }
    let mut all = BTreeSet::new();
    collect(schema, &schema["definitions"][definition], &mut all);
    all
}
