//! Runtimes of others for tests of `--runtime`.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Daemon, bin_dir, eventually};

/// What stands for itself, three that are called, and two that a shim calls.
pub const RUNTIMES: [&str; 6] = ["runc", "debian-runc", "crun", "wharf-oci", "shim-runc", "shim-crun"];

/// `$PATH` with the shim on it, which the tests' preparation has fetched where it is not installed.
pub fn path_with_shim() -> String {
    let fetched = bin_dir().join("../shims");
    let path = format!("{}:{}", fetched.display(), std::env::var("PATH").expect("PATH"));
    let found = path.split(':').any(|dir| Path::new(dir).join("containerd-shim-runc-v2").is_file());
    assert!(found, "containerd-shim-runc-v2 is missing; `cargo xtask test` fetches it");
    path
}

/// `daemon.json` with all of [`RUNTIMES`].
pub fn config() -> Value {
    json!({"runtimes": {
        "debian-runc": {"path": "/usr/sbin/runc"},
        "crun": {"path": "/usr/bin/crun"},
        "wharf-oci": {"path": bin_dir().join("wharf"), "runtimeArgs": ["oci"]},
        "shim-runc": {"runtimeType": "io.containerd.runc.v2", "options": {"BinaryName": "/usr/sbin/runc"}},
        "shim-crun": {"runtimeType": "io.containerd.runc.v2", "options": {"BinaryName": "/usr/bin/crun"}},
    }})
}

/// Nothing of an ended container is left with its runtime.
pub fn no_traces(daemon: &Daemon) {
    let list = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|e| e.path().display().to_string()).collect()
    };
    eventually("runtimes and bundles to be cleared away", || {
        let mut left = list(&daemon.path("exec/oci"));
        for runtime in list(&daemon.path("exec/runtimes")) {
            // Files of the runtime itself are no container.
            left.extend(list(Path::new(&runtime)).into_iter().filter(|p| Path::new(p).is_dir()));
        }
        left.is_empty().then_some(())
    });
}
