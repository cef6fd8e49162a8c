//! Debian's `docker-registry`, in a test daemon's network namespace.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::{Daemon, Ran, eventually};

/// How a registry is set up.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup {
    /// With a certificate of an authority of its own.
    pub tls: bool,
    /// With the user `me` and the password `secret`.
    pub password: bool,
    /// Manifests and blobs may be deleted.
    pub delete: bool,
}

/// A running registry; ends with this value.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    /// `127.0.0.1:5000`.
    pub address: String,
    root: PathBuf,
    setup: Setup,
}

/// The user's password as the registry wants it: bcrypt of `secret`.
const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A TCP connection made inside the daemon's network namespace.
pub fn connect(daemon: &Daemon, address: SocketAddr) -> std::io::Result<TcpStream> {
    let namespace = fs::File::open(daemon.namespace())?;
    std::thread::spawn(move || {
        // Only this thread moves, and it ends here.
        nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
        TcpStream::connect(address)
    })
    .join()
    .expect("connecting thread")
}

impl Registry {
    /// Starts one on this port of the daemon's loopback.
    pub fn start(daemon: &Daemon, port: u16, setup: Setup) -> Self {
        let root = daemon.path(&format!("registry-{port}"));
        fs::create_dir_all(root.join("data")).expect("registry");
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {0}/data}}\n  delete: {{enabled: {1}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n  secret: test\n",
            root.display(),
            setup.delete
        );
        if setup.tls {
            certificate(&root);
            config.push_str(&format!(
                "  tls: {{certificate: {0}/server.crt, key: {0}/server.key}}\n",
                root.display()
            ));
        }
        if setup.password {
            fs::write(root.join("htpasswd"), HTPASSWD).expect("htpasswd");
            config.push_str(&format!(
                "auth:\n  htpasswd: {{realm: test, path: {}/htpasswd}}\n",
                root.display()
            ));
        }
        fs::write(root.join("config.yml"), config).expect("config.yml");
        let log = fs::File::create(root.join("log")).expect("log");
        let child = daemon
            .in_namespace("docker-registry")
            .arg("serve")
            .arg(root.join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("docker-registry (Debian package)");
        let mut registry = Self { child, address: format!("127.0.0.1:{port}"), root, setup };
        eventually("the registry's port", || {
            let ended = registry.child.try_wait().expect("wait");
            assert!(ended.is_none(), "the registry ended: {}", registry.log());
            connect(daemon, registry.address.parse().expect("address")).ok()
        });
        registry
    }

    /// What it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    /// The authority of its certificate.
    pub fn authority(&self) -> PathBuf {
        self.root.join("ca.crt")
    }

    /// Bytes and paths of its storage.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Runs skopeo in the daemon's network namespace, with the password where there is one.
    #[track_caller]
    pub fn skopeo(&self, daemon: &Daemon, args: &[&str]) -> Ran {
        let mut command = daemon.in_namespace("skopeo");
        command.arg("--tmpdir").arg(daemon.path("")).args(args);
        if self.setup.password {
            let flag = if args.first() == Some(&"copy") {
                if args.last().is_some_and(|a| a.starts_with("docker:")) {
                    "--dest-creds"
                } else {
                    "--src-creds"
                }
            } else {
                "--creds"
            };
            command.args([flag, "me:secret"]);
        }
        daemon.run_with_input(command, b"")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

fn openssl(dir: &std::path::Path, args: &[&str]) {
    let output = Command::new("openssl").current_dir(dir).args(args).output().expect("openssl");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority and a certificate of it for loopback.
fn certificate(dir: &std::path::Path) {
    let ca = "-x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=test-ca -days 30";
    openssl(dir, &std::iter::once("req").chain(ca.split(' ')).collect::<Vec<_>>());
    let server = "-newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost";
    openssl(dir, &std::iter::once("req").chain(server.split(' ')).collect::<Vec<_>>());
    fs::write(dir.join("ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("ext");
    let sign =
        "-req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 30 -extfile ext";
    openssl(dir, &std::iter::once("x509").chain(sign.split(' ')).collect::<Vec<_>>());
}
