//! Runtimes of others for tests of `--runtime`.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Daemon, Ran, bin_dir, eventually};

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

/// Containers of one runtime.
#[derive(Debug, Clone, Copy)]
pub struct Using<'a> {
    /// Who makes them.
    pub daemon: &'a Daemon,
    /// One of [`RUNTIMES`], or another that the daemon was told.
    pub runtime: &'a str,
}

impl Using<'_> {
    /// `docker run` with it; what came of it is printed.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Ran {
        let ran = self.daemon.docker(&[&["run", "--runtime", self.runtime], args].concat());
        eprintln!("{}: {:?} {:?} {}", self.runtime, ran.out, ran.err, ran.code);
        ran
    }

    /// What one without networks says that does well and does not stay.
    #[track_caller]
    pub fn once(&self, args: &[&str]) -> String {
        self.run(&[&["--rm", "--network", "none"], args].concat()).ok()
    }

    /// The same of a script.
    #[track_caller]
    pub fn sh(&self, args: &[&str], script: &str) -> String {
        self.once(&[args, &["busybox", "sh", "-c", script]].concat())
    }

    /// The id of one that goes on.
    #[track_caller]
    pub fn stay(&self, args: &[&str]) -> String {
        self.run(&[&["-d"], args, &["busybox", "sleep", "1000"]].concat()).ok()
    }

    /// Its first process, as the host numbers it.
    #[track_caller]
    pub fn pid(&self, id: &str) -> String {
        self.daemon.docker(&["inspect", "-f", "{{.State.Pid}}", id]).ok()
    }
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
