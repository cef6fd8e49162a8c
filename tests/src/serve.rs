//! `wharf registry serve` beside a test's daemon.

use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::registry::connect;
use crate::{Daemon, eventually, image};

/// A registry that is no part of the daemon; ends with this value.
pub struct Serve {
    child: Child,
    /// `127.0.0.1:port`.
    pub address: String,
    /// Its directory.
    pub root: PathBuf,
}

impl Serve {
    /// Starts one in the daemon's network namespace with these further arguments.
    #[track_caller]
    pub fn with(d: &Daemon, port: u16, args: &[&str]) -> Self {
        let (address, root) = (format!("127.0.0.1:{port}"), d.path(&format!("serve-{port}")));
        let log = std::fs::File::create(d.path(&format!("serve-{port}.log"))).expect("log");
        let child = d
            .in_namespace(crate::bin_dir().join("wharf"))
            .args(["registry", "serve", "--address", &address, "--root"])
            .arg(&root)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("wharf registry serve");
        let mut serve = Self { child, address, root };
        eventually("the registry's port", || {
            assert!(serve.child.try_wait().expect("wait").is_none(), "it ended");
            connect(d, serve.address.parse().expect("address")).ok()
        });
        serve
    }

    /// Starts one with an image `name:1` for each of the names: busybox and [`image::own_layer`]. The daemon keeps none of them.
    #[track_caller]
    pub fn start(d: &Daemon, port: u16, names: &[&str]) -> Self {
        let serve = Self::with(d, port, &[]);
        for name in names {
            let full = serve.name(name);
            let archive = image::docker_archive(&full, &[image::busybox_tar(), image::own_layer(name)]);
            let path = image::save(&d.path("push.tar"), &archive);
            d.docker(&["load", "-q", "-i", &path]).ok();
            d.docker(&["push", "-q", &full]).ok();
            d.docker(&["rmi", &full]).ok();
        }
        serve
    }

    /// The full name of an image there.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}:1", self.address)
    }

    /// Digests of all content that it keeps.
    pub fn kept(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.join("blobs/sha256")).expect("blobs");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("blob").file_name();
        let mut all: Vec<String> =
            entries.map(|entry| format!("sha256:{}", name(entry).to_string_lossy())).collect();
        all.sort();
        all
    }

    /// Kills it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        self.stop();
    }
}
