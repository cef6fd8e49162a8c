//! TCP with TLS and client certificates, `dial-stdio`, and `ssh://`.

#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wharf_tests::{Daemon, Options, bin_dir, eventually};

/// A CA and certificates of it, made by openssl.
struct Authority {
    dir: tempfile::TempDir,
}

fn openssl(args: &[&str]) {
    let output = Command::new("openssl").args(args).output().expect("openssl");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = Self { dir };
        let (key, ca) = (made.file("ca-key.pem"), made.file("ca.pem"));
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test authority",
            "-keyout",
            &key,
            "-out",
            &ca,
        ]);
        made
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A directory with `ca.pem`, `cert.pem` and `key.pem`, as docker's clients want it.
    fn issue(&self, name: &str, subject: &str, usage: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| dir.join(name).display().to_string();
        std::fs::copy(self.file("ca.pem"), dir.join("ca.pem")).unwrap();
        let extensions = format!("extendedKeyUsage={usage}\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n");
        std::fs::write(dir.join("ext"), extensions).unwrap();
        openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            subject,
            "-keyout",
            &path("key.pem"),
            "-out",
            &path("csr"),
        ]);
        openssl(&[
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            &path("csr"),
            "-CA",
            &self.file("ca.pem"),
            "-CAkey",
            &self.file("ca-key.pem"),
            "-CAcreateserial",
            "-extfile",
            &path("ext"),
            "-out",
            &path("cert.pem"),
        ]);
        dir
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A daemon on its socket and on TCP with these certificates.
fn serving(server: &Path, more: &[&str]) -> Daemon {
    let mut args: Vec<String> = ["-H", "tcp://127.0.0.1:2376"].map(str::to_owned).to_vec();
    for (flag, name) in [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")] {
        args.extend([flag.to_owned(), text(&server.join(name))]);
    }
    args.extend(more.iter().map(|a| (*a).to_owned()));
    Daemon::with(Options { args, ..Options::default() })
}

/// A client inside the daemon's network namespace, with the certificates of a directory.
fn client(daemon: &Daemon, program: &str, certificates: &Path, args: &[&str]) -> Command {
    let program = if program == "wharf" { bin_dir().join("wharf") } else { program.into() };
    let mut command = daemon.in_namespace(program);
    command.env("DOCKER_CONFIG", daemon.path("docker-config"));
    command.env("DOCKER_CERT_PATH", certificates).env("DOCKER_TLS_VERIFY", "1");
    command.env_remove("DOCKER_HOST").args(["-H", "tcp://127.0.0.1:2376"]).args(args);
    command
}

#[test]
fn clients_with_a_certificate_come_in_and_others_do_not() {
    let authority = Authority::new();
    let server = authority.issue("server", "/CN=server", "serverAuth");
    let alice = authority.issue("alice", "/O=ops/CN=alice", "clientAuth");
    let stranger = Authority::new();
    let mallory = stranger.issue("mallory", "/CN=mallory", "clientAuth");
    std::fs::copy(alice.join("ca.pem"), mallory.join("ca.pem")).unwrap();
    let daemon = serving(&server, &["--tlsverify"]);
    daemon.import_busybox();
    let run = |program: &str, who: &Path, args: &[&str]| {
        daemon.run_with_input(client(&daemon, program, who, args), b"in\n")
    };
    for program in ["docker", "wharf"] {
        assert_eq!(run(program, &alice, &["version", "--format", "{{.Server.Os}}"]).ok(), "linux");
        // A raw stream in both directions, with the end of input passed on.
        let said = run(
            program,
            &alice,
            &["run", "-i", "--rm", "--network", "none", "busybox", "sh", "-c", "cat; echo end; exit 3"],
        );
        said.fails(3, "in\nend");
        // A megabyte through it.
        let long = run(
            program,
            &alice,
            &[
                "run",
                "--rm",
                "--network",
                "none",
                "busybox",
                "sh",
                "-c",
                "head -c 1000000 /dev/zero | tr '\\0' x",
            ],
        );
        assert_eq!(long.ok().len(), 1_000_000);
        let refused = run(program, &mallory, &["version"]);
        assert_ne!(refused.code, 0, "{}", refused.out);
    }
    // Without TLS nothing is said, and without a certificate nothing is answered.
    let mut curl = daemon.in_namespace("curl");
    curl.args(["-sS", "-m", "10", "http://127.0.0.1:2376/_ping"]);
    assert_ne!(daemon.run_with_input(curl, b"").code, 0);
    let mut curl = daemon.in_namespace("curl");
    curl.args(["-sS", "-m", "10", "--cacert"]).arg(alice.join("ca.pem")).arg("https://127.0.0.1:2376/_ping");
    assert_ne!(daemon.run_with_input(curl, b"").code, 0);
    // HTTP/2 over TLS.
    let mut curl = daemon.in_namespace("curl");
    curl.args([
        "-sS",
        "-m",
        "10",
        "--http2",
        "-o",
        "/dev/null",
        "-w",
        "%{http_version} %{http_code}",
        "--cacert",
    ])
    .arg(alice.join("ca.pem"))
    .arg("--cert")
    .arg(alice.join("cert.pem"))
    .arg("--key")
    .arg(alice.join("key.pem"))
    .arg("https://127.0.0.1:2376/_ping");
    assert_eq!(daemon.run_with_input(curl, b"").ok(), "2 200");
}

#[test]
fn roles_know_certificates_by_their_names() {
    let authority = Authority::new();
    let server = authority.issue("server", "/CN=server", "serverAuth");
    let bob = authority.issue("bob", "/O=lookers/CN=bob", "clientAuth");
    let carol = authority.issue("carol", "/CN=carol", "clientAuth");
    let mut options = vec!["-H".to_owned(), "tcp://127.0.0.1:2376".to_owned(), "--tlsverify".to_owned()];
    for (flag, name) in [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")] {
        options.extend([flag.to_owned(), text(&server.join(name))]);
    }
    let daemon = Daemon::with(Options {
        args: options,
        config: Some(
            r#"{"plugins": {"wharf/auth-peer": {"roles": [{"role": "viewer", "groups": ["lookers"]}]}}}"#
                .into(),
        ),
        ..Options::default()
    });
    daemon.run_with_input(client(&daemon, "docker", &bob, &["ps"]), b"").ok();
    daemon
        .run_with_input(client(&daemon, "docker", &bob, &["volume", "create", "v"]), b"")
        .fails(1, "bob (viewer) may not");
    daemon
        .run_with_input(client(&daemon, "docker", &carol, &["ps"]), b"")
        .fails(1, "carol (without a role) may not");
}

#[test]
fn certificates_are_renewed_by_sighup() {
    let authority = Authority::new();
    let server = authority.issue("server", "/CN=first", "serverAuth");
    let alice = authority.issue("alice", "/CN=alice", "clientAuth");
    let daemon = serving(&server, &["--tlsverify"]);
    let shown = || {
        let mut command = daemon.in_namespace("openssl");
        command.args(["s_client", "-connect", "127.0.0.1:2376", "-cert"]).arg(alice.join("cert.pem"));
        command.arg("-key").arg(alice.join("key.pem"));
        daemon.run_with_input(command, b"").out
    };
    assert!(shown().contains("CN = first") || shown().contains("CN=first"));
    let again = authority.issue("again", "/CN=second", "serverAuth");
    for name in ["cert.pem", "key.pem"] {
        std::fs::copy(again.join(name), server.join(name)).unwrap();
    }
    kill(Pid::from_raw(daemon.pid()), Signal::SIGHUP).unwrap();
    eventually("the second certificate", || {
        let shown = shown();
        (shown.contains("CN = second") || shown.contains("CN=second")).then_some(())
    });
    // A key that does not fit is refused, and the daemon goes on with what it has.
    std::fs::copy(alice.join("key.pem"), server.join("key.pem")).unwrap();
    kill(Pid::from_raw(daemon.pid()), Signal::SIGHUP).unwrap();
    eventually("the refusal", || daemon.log().contains("the configuration was not reloaded").then_some(()));
    daemon.run_with_input(client(&daemon, "docker", &alice, &["ps"]), b"").ok();
}

#[test]
fn tls_without_client_certificates_is_for_loopback() {
    let authority = Authority::new();
    let server = authority.issue("server", "/CN=server", "serverAuth");
    let daemon = serving(&server, &["--tls"]);
    let mut curl = daemon.in_namespace("curl");
    curl.args(["-sS", "-m", "10", "--cacert"]).arg(server.join("ca.pem")).arg("https://127.0.0.1:2376/_ping");
    assert_eq!(daemon.run_with_input(curl, b"").ok(), "OK");
    let mut refused = Command::new(bin_dir().join("wharf"));
    refused.args(["daemon", "-H", "tcp://0.0.0.0", "--tls", "--tlscert"]).arg(server.join("cert.pem"));
    refused.arg("--tlskey").arg(server.join("key.pem")).args(["--data-root", "/nonexistent/x"]);
    let ran = daemon.run_with_input(refused, b"");
    ran.fails(1, "refusing to listen on tcp://0.0.0.0:2376: without TLS and client certificates");
}

#[test]
fn plain_tcp_for_everyone_needs_to_be_said() {
    let daemon = Daemon::with(Options {
        args: ["-H", "tcp://0.0.0.0:2375", "--allow-insecure-tcp"].map(str::to_owned).to_vec(),
        ..Options::default()
    });
    // From another namespace, over a pair of links: a caller whom no kernel vouches for.
    let name = format!("wt{}", std::process::id());
    let sh = |script: &str| {
        let mut command = daemon.in_namespace("sh");
        command.args(["-ec", script]);
        daemon.run_with_input(command, b"")
    };
    sh(&format!(
        "ip netns add {name}; trap 'ip netns del {name}' EXIT; ip link add w0 type veth peer name w1 netns {name}; \
         ip addr add 10.99.0.1/24 dev w0; ip link set w0 up; ip -n {name} addr add 10.99.0.2/24 dev w1; \
         ip -n {name} link set w1 up; \
         ip netns exec {name} curl -sS -m 20 --retry 5 --retry-connrefused http://10.99.0.1:2375/version | grep -q ApiVersion; \
         ip netns exec {name} curl -sS -m 20 -o /dev/null -w '%{{http_code}}' -H 'Origin: http://evil.test' http://10.99.0.1:2375/version | grep -q 403"
    ))
    .ok();
}

#[test]
fn a_slow_or_silent_handshake_holds_up_nobody() {
    let authority = Authority::new();
    let server = authority.issue("server", "/CN=server", "serverAuth");
    let alice = authority.issue("alice", "/CN=alice", "clientAuth");
    let daemon = serving(&server, &["--tlsverify"]);
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut command = daemon.in_namespace("bash");
        command.args([
            "-c",
            "exec 3<>/dev/tcp/127.0.0.1/2376; printf '\\026\\003\\001' >&3; echo open; cat >/dev/null",
        ]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        silent.push(child);
    }
    daemon.run_with_input(client(&daemon, "docker", &alice, &["ps"]), b"").ok();
    for mut child in silent {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

#[test]
fn dial_stdio_is_a_connection() {
    let daemon = Daemon::start();
    let request = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut command = Command::new(bin_dir().join("wharf"));
    command.args(["--host", &daemon.host(), "system", "dial-stdio"]);
    let said = daemon.run_with_input(command, request).ok();
    assert!(said.starts_with("HTTP/1.1 200 OK") && said.ends_with("OK"), "{said}");
}

/// A program `ssh` that runs the command here, and `docker` and `wharf` for it.
fn fake_ssh(daemon: &Daemon) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let bin = daemon.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let script = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\nexec \"$@\"\n";
    std::fs::write(bin.join("ssh"), script).unwrap();
    std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The other side of stock clients is called docker.
    for name in ["docker", "wharf"] {
        std::os::unix::fs::symlink(bin_dir().join("wharf"), bin.join(name)).unwrap();
    }
    bin
}

#[test]
fn ssh_addresses_of_both_clients() {
    let daemon = Daemon::start();
    daemon.import_busybox();
    let bin = fake_ssh(&daemon);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let docker = Command::new("sh").args(["-c", "command -v docker"]).output().unwrap();
    let docker = String::from_utf8(docker.stdout).unwrap().trim().to_owned();
    for program in [docker, bin_dir().join("wharf").display().to_string()] {
        let run = |args: &[&str], input: &[u8]| {
            let mut command = Command::new(&program);
            command.env("PATH", &path).env("WHARF_HOST", daemon.host()).env_remove("DOCKER_HOST");
            command.env("DOCKER_CONFIG", daemon.path("docker-config"));
            command.args(["-H", "ssh://me@far.test"]).args(args);
            daemon.run_with_input(command, input)
        };
        assert_eq!(run(&["version", "--format", "{{.Server.Os}}"], b"").ok(), "linux");
        let said = run(
            &["run", "-i", "--rm", "--network", "none", "busybox", "sh", "-c", "cat; echo end; exit 3"],
            b"through\n",
        );
        said.fails(3, "through\nend");
    }
    // Words that ssh would take for options are refused before it is started.
    let mut command = Command::new(bin_dir().join("wharf"));
    command.env("PATH", &path).args(["-H", "ssh://-oProxyCommand=touch", "ps"]);
    daemon.run_with_input(command, b"").fails(125, "invalid address");
}

#[test]
fn a_raw_stream_over_plain_tcp_ends_without_a_reset() {
    let daemon = Daemon::with(Options {
        args: ["-H", "tcp://127.0.0.1:2375"].map(str::to_owned).to_vec(),
        ..Options::default()
    });
    daemon.import_busybox();
    let mut command = daemon.in_namespace("docker");
    command.env("DOCKER_HOST", "tcp://127.0.0.1:2375").env("DOCKER_CONFIG", daemon.path("docker-config"));
    command.args([
        "run",
        "-i",
        "--rm",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "head -c 3; echo; head -c 300000 /dev/zero | tr '\\0' y",
    ]);
    let said = daemon.run_with_input(command, &vec![b'z'; 100_000]).ok();
    assert_eq!(said.len(), 4 + 300_000);
}

#[test]
fn expect_continue_is_answered_before_the_body_is_sent() {
    let daemon = Daemon::start();
    let mut stream = wharf_tests::connect(&daemon.socket());
    let tar = wharf_tests::image::busybox_tar();
    write!(
        stream,
        "POST /images/create?fromSrc=-&repo=b HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        tar.len()
    )
    .unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
    stream.write_all(&tar).unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("200 OK") && rest.contains("sha256:"), "{rest}");
}
