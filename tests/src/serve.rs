//! `wharf registry serve` beside a test's daemon, with images in it.

use std::process::{Child, Stdio};

use crate::registry::connect;
use crate::{Daemon, eventually, image};

/// A registry that is no part of the daemon; ends with this value.
pub struct Serve {
    child: Child,
    /// `127.0.0.1:port`.
    pub address: String,
}

impl Serve {
    /// Starts one in the daemon's network namespace, with an image `name:1` for each of the names: busybox and
    /// [`image::own_layer`]. The daemon keeps none of them.
    #[track_caller]
    pub fn start(d: &Daemon, port: u16, names: &[&str]) -> Self {
        let address = format!("127.0.0.1:{port}");
        let child = d
            .in_namespace(crate::bin_dir().join("wharf"))
            .args(["registry", "serve", "--address", &address, "--root"])
            .arg(d.path("registry"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("wharf registry serve");
        let serve = Self { child, address };
        eventually("the registry's port", || connect(d, serve.address.parse().expect("address")).ok());
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
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
