//! The description of the API that the tests are measured against, where it is to be had.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

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

/// The description as a value. Python reads it: no crate of this workspace's tests knows YAML.
pub fn schema() -> Option<Value> {
    let path = path()?;
    let dir = crate::bin_dir().join("clients/yaml");
    let python = |args: &[&str]| {
        let out = Command::new("python3").env("PYTHONPATH", &dir).args(args).output().expect("python3");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    if !dir.join(".installed").exists() {
        std::fs::create_dir_all(&dir).expect("clients");
        let target = dir.display().to_string();
        python(&[
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            &target,
            "pyyaml",
        ]);
        std::fs::write(dir.join(".installed"), "").expect("clients");
    }
    // Dates in it are texts to JSON.
    let script =
        "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout, default=str)";
    let json = python(&["-c", script, &path.display().to_string()]);
    Some(serde_json::from_slice(&json).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
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
