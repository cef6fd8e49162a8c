//! Debian's `docker-registry`, in a test daemon's network namespace.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::{Daemon, Ran, eventually, http, in_network};

/// How a registry is set up.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent properties of a server")]
pub struct Setup {
    /// With a certificate of an authority of its own.
    pub tls: bool,
    /// With the user `me` and the password `secret`.
    pub password: bool,
    /// Manifests and blobs may be deleted.
    pub delete: bool,
    /// Only for clients with a certificate of the same authority.
    pub clients: bool,
    /// Address in place of 127.0.0.1; given to the loopback interface.
    pub host: Option<&'static str>,
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
pub const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A TCP connection made inside the daemon's network namespace.
pub fn connect(daemon: &Daemon, address: SocketAddr) -> std::io::Result<TcpStream> {
    in_network(&daemon.namespace(), || TcpStream::connect(address))
}

/// Runs skopeo in the daemon's network namespace.
#[track_caller]
pub fn skopeo(daemon: &Daemon, args: &[&str]) -> Ran {
    let mut command = daemon.in_namespace("skopeo");
    command.arg("--tmpdir").arg(daemon.path("")).args(args);
    daemon.run_with_input(command, b"")
}

/// One request to a registry by hand.
#[track_caller]
pub fn ask(
    daemon: &Daemon,
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> http::Response {
    let mut stream = connect(daemon, address.parse().expect("address")).expect("a connection");
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).expect("request");
    // An answer may come before all of it was read.
    let _ = stream.write_all(body);
    let mut reader = BufReader::new(stream);
    assert!(!reader.fill_buf().expect("an answer").is_empty());
    http::read_response(&mut reader, method == "HEAD").expect("an answer")
}

impl Registry {
    /// Starts one on this port of the daemon's loopback.
    pub fn start(daemon: &Daemon, port: u16, setup: Setup) -> Self {
        let host = setup.host.unwrap_or("127.0.0.1");
        if let Some(host) = setup.host {
            let mut command = daemon.in_namespace("ip");
            command.args(["addr", "replace", &format!("{host}/32"), "dev", "lo"]);
            daemon.run_with_input(command, b"").ok();
        }
        let root = daemon.path(&format!("registry-{port}"));
        fs::create_dir_all(root.join("data")).expect("registry");
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {0}/data}}\n  delete: {{enabled: {1}}}\n\
             http:\n  addr: {host}:{port}\n  secret: test\n",
            root.display(),
            setup.delete
        );
        if setup.tls {
            certificate(&root);
            config.push_str(&format!(
                "  tls:\n    certificate: {0}/server.crt\n    key: {0}/server.key\n",
                root.display()
            ));
            if setup.clients {
                config.push_str(&format!("    clientcas: [{}/ca.crt]\n", root.display()));
            }
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
        let mut registry = Self { child, address: format!("{host}:{port}"), root, setup };
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

    /// A certificate of its authority, and its key: it serves as a client's too.
    pub fn certificate(&self) -> (PathBuf, PathBuf) {
        (self.root.join("server.crt"), self.root.join("server.key"))
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

    /// Runs [`skopeo`] with the password where there is one.
    #[track_caller]
    pub fn skopeo(&self, daemon: &Daemon, args: &[&str]) -> Ran {
        let mut args = args.to_vec();
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
            args.extend([flag, "me:secret"]);
        }
        skopeo(daemon, &args)
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

/// An authority (`ca.crt`) and a certificate of it (`server.crt`, `server.key`) for loopback, `secure.test` and two of documentation's addresses.
pub fn certificate(dir: &std::path::Path) {
    let ca = "-x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=test-ca -days 30";
    openssl(dir, &std::iter::once("req").chain(ca.split(' ')).collect::<Vec<_>>());
    let server = "-newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=localhost";
    openssl(dir, &std::iter::once("req").chain(server.split(' ')).collect::<Vec<_>>());
    fs::write(
        dir.join("ext"),
        "subjectAltName=DNS:localhost,DNS:secure.test,IP:127.0.0.1,IP:192.0.2.1,IP:198.51.100.7\n",
    )
    .expect("ext");
    let sign =
        "-req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 30 -extfile ext";
    openssl(dir, &std::iter::once("x509").chain(sign.split(' ')).collect::<Vec<_>>());
}
