//! Registries behind things: proxies, token servers, limits of rate, networks called insecure, certificates of clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use wharf_tests::proxy::Proxy;
use wharf_tests::registry::{Registry, Setup, connect};
use wharf_tests::server::{Reply, Request, Server};
use wharf_tests::{Daemon, Options, eventually, image};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn with(config: Value) -> Daemon {
    Daemon::with(Options { config: Some(config.to_string()), ..Options::default() })
}

/// Puts an image of one small layer into a registry with skopeo, by its address.
fn seed(d: &Daemon, registry: &Registry, name: &str) {
    let mut layer = Vec::new();
    image::entry(&mut layer, "hello.txt", b'0', 0o644, "", name.as_bytes());
    image::finish(&mut layer);
    let archive = image::save(&d.path("seed.tar"), &image::docker_archive("seed:1", &[layer]));
    let target = format!("docker://{}/{name}", registry.address);
    registry
        .skopeo(d, &["copy", "--dest-tls-verify=false", &format!("docker-archive:{archive}"), &target])
        .ok();
}

#[test]
fn proxies_for_https_and_plain_http() {
    let certs = tempfile::tempdir().unwrap();
    let d = with(json!({
        "proxies": {
            "http-proxy": "http://who:secret@127.0.0.1:3128", "https-proxy": "http://who:secret@127.0.0.1:3128",
            "no-proxy": "192.0.2.0/24,other.test",
        },
        "insecure-registries": ["plain.test:5000", "192.0.2.1:5002"],
        "registry-config-dirs": [certs.path()],
    }));
    let proxy = Proxy::start(&d, 3128);
    // Names that only the proxy can find: through a tunnel, with the certificate of that name.
    let secure = Registry::start(&d, 5443, Setup { tls: true, ..Setup::default() });
    seed(&d, &secure, "team/app:1");
    let directory = certs.path().join("secure.test:5443");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(secure.authority(), directory.join("ca.crt")).unwrap();
    d.docker(&["pull", "secure.test:5443/team/app:1"]).ok();
    let asked = proxy.asked();
    assert!(!asked.is_empty() && asked.iter().all(|a| a.line == "CONNECT secure.test:5443"), "{asked:?}");
    // base64 of who:secret
    assert!(asked.iter().all(|a| a.authorization.as_deref() == Some("Basic d2hvOnNlY3JldA==")), "{asked:?}");
    // Without TLS: whole addresses, and pushes as well as pulls.
    let plain = Registry::start(&d, 5000, Setup::default());
    seed(&d, &plain, "team/app:2");
    d.docker(&["pull", "plain.test:5000/team/app:2"]).ok();
    d.docker(&["tag", "plain.test:5000/team/app:2", "plain.test:5000/team/new:3"]).ok();
    d.docker(&["push", "plain.test:5000/team/new:3"]).ok();
    let seen = |text: &str| proxy.asked().iter().any(|a| a.line.starts_with(text));
    assert!(seen("GET http://plain.test:5000/v2/team/app/manifests/"), "{:?}", proxy.asked());
    assert!(seen("PUT http://plain.test:5000/v2/team/new/manifests/3"), "{:?}", proxy.asked());
    // Where no proxy shall be asked, none is: a network, a name, and this machine.
    let before = proxy.asked().len();
    let near = Registry::start(&d, 5002, Setup { host: Some("192.0.2.1"), ..Setup::default() });
    seed(&d, &near, "team/app:3");
    d.docker(&["pull", "192.0.2.1:5002/team/app:3"]).ok();
    d.docker(&["pull", "127.0.0.1:5000/team/app:2"]).ok();
    d.docker(&["pull", "other.test:5000/team/app:2"]).fails(1, "other.test");
    assert_eq!(proxy.asked().len(), before, "{:?}", proxy.asked());
    // A proxy that is not there is named.
    drop(proxy);
    d.docker(&["pull", "gone.test:5443/team/app:2"]).fails(1, "127.0.0.1:3128");
}

#[test]
fn proxies_of_the_environment() {
    let proxied = |env: &[(&str, &str)]| {
        let d = Daemon::with(Options {
            env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            config: Some(json!({"insecure-registries": ["plain.test:5000"]}).to_string()),
            ..Options::default()
        });
        let proxy = Proxy::start(&d, 3128);
        let registry = Registry::start(&d, 5000, Setup::default());
        seed(&d, &registry, "team/app:1");
        let code = d.docker(&["pull", "plain.test:5000/team/app:1"]).code;
        (code, proxy.asked().len())
    };
    let both = [("HTTP_PROXY", "http://127.0.0.1:3128"), ("HTTPS_PROXY", "http://127.0.0.1:3128")];
    let (code, asked) = proxied(&both);
    assert!(code == 0 && asked > 0, "{code} {asked}");
    let (code, asked) = proxied(&[both[0], both[1], ("NO_PROXY", ".test")]);
    assert!(code != 0 && asked == 0, "{code} {asked}");
}

#[test]
fn networks_called_insecure() {
    let d = with(json!({"insecure-registries": ["198.51.100.0/24"]}));
    let inside = Registry::start(&d, 5000, Setup { host: Some("198.51.100.7"), ..Setup::default() });
    seed(&d, &inside, "team/app:1");
    d.docker(&["pull", "198.51.100.7:5000/team/app:1"]).ok();
    // With TLS, but of an authority that nobody knows.
    let secure =
        Registry::start(&d, 5443, Setup { host: Some("198.51.100.7"), tls: true, ..Setup::default() });
    seed(&d, &secure, "team/app:2");
    d.docker(&["pull", "198.51.100.7:5443/team/app:2"]).ok();
    // Another network is not.
    let outside = Registry::start(&d, 5001, Setup { host: Some("192.0.2.1"), ..Setup::default() });
    seed(&d, &outside, "team/app:3");
    d.docker(&["pull", "192.0.2.1:5001/team/app:3"]).fails(1, "192.0.2.1:5001");
    assert!(!d.docker(&["images"]).ok().contains("192.0.2.1"));
}

#[test]
fn certificates_of_clients() {
    let certs = tempfile::tempdir().unwrap();
    let d = with(json!({"registry-config-dirs": [certs.path()]}));
    let open = Registry::start(&d, 5443, Setup { tls: true, ..Setup::default() });
    seed(&d, &open, "team/app:1");
    drop(open);
    let registry = Registry::start(&d, 5443, Setup { tls: true, clients: true, ..Setup::default() });
    let directory = certs.path().join(&registry.address);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(registry.authority(), directory.join("ca.crt")).unwrap();
    let name = format!("{}/team/app:1", registry.address);
    d.docker(&["pull", &name]).fails(1, "ertificate");
    let (certificate, key) = registry.certificate();
    std::fs::copy(&certificate, directory.join("client.cert")).unwrap();
    // A certificate without its key is a mistake, and told as one.
    d.docker(&["pull", &name]).fails(1, "client.key");
    std::fs::copy(&key, directory.join("client.key")).unwrap();
    d.docker(&["pull", &name]).ok();
}

/// A registry of one image, and its token server, which gives tokens that last.
struct Tokens {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
    /// The lasting token is good no more.
    expired: Arc<AtomicBool>,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", image::sha256(bytes))
}

impl Tokens {
    fn new() -> Self {
        let mut layer = Vec::new();
        image::entry(&mut layer, "hello.txt", b'0', 0o644, "", b"hello\n");
        image::finish(&mut layer);
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({"architecture": arch, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}})
        .to_string()
        .into_bytes();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": config.len(),
                "digest": digest(&config)},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": layer.len(),
                "digest": digest(&layer)}]})
        .to_string()
        .into_bytes();
        Self { manifest, config, layer, expired: Arc::default() }
    }

    fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        if path == "/token" {
            return self.token(request);
        }
        if request.header("authorization") != Some("Bearer short") {
            let challenge = "Bearer realm=\"http://127.0.0.1:5000/token\",service=\"reg\"";
            return Reply::new(
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
            )
            .with("WWW-Authenticate", challenge);
        }
        match path.rsplit('/').next().unwrap() {
            "" => Reply::new(200, "{}"),
            _ if path.contains("/manifests/") => Reply::new(200, self.manifest.clone())
                .with("Content-Type", MANIFEST)
                .with("Docker-Content-Digest", &digest(&self.manifest)),
            name if name == digest(&self.config) => Reply::new(200, self.config.clone()),
            name if name == digest(&self.layer) => Reply::new(200, self.layer.clone()),
            _ => Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#),
        }
    }

    fn token(&self, request: &Request) -> Reply {
        let form = String::from_utf8_lossy(&request.body).into_owned();
        if request.method == "POST" {
            let good = form.contains("grant_type=refresh_token") && form.contains("refresh_token=lasting");
            return if good && !self.expired.load(Ordering::Acquire) {
                Reply::new(200, r#"{"access_token":"short","expires_in":60}"#)
            } else {
                Reply::new(
                    401,
                    r#"{"errors":[{"code":"UNAUTHORIZED","message":"the refresh token has expired"}]}"#,
                )
            };
        }
        // base64 of me:secret
        if request.header("authorization") != Some("Basic bWU6c2VjcmV0") {
            return Reply::new(
                401,
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#,
            );
        }
        if request.path.contains("offline_token=true") {
            Reply::new(200, r#"{"token":"short","refresh_token":"lasting"}"#)
        } else {
            Reply::new(200, r#"{"token":"short"}"#)
        }
    }
}

#[test]
fn identity_tokens_in_place_of_passwords() {
    let d = Daemon::start();
    let tokens = Tokens::new();
    let expired = Arc::clone(&tokens.expired);
    let server = Server::start(&d, 5000, move |request| tokens.answer(request));
    let name = format!("{}/team/app:1", server.address);
    d.docker(&["pull", &name]).fails(1, "incorrect username or password");
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &server.address], b"wrong")
        .fails(1, "incorrect username or password");
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &server.address], b"secret").ok();
    // The password is kept nowhere; the token is.
    let config = std::fs::read_to_string(d.path("docker-config").join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["auths"][&server.address]["identitytoken"], "lasting", "{config}");
    d.docker(&["pull", &name]).ok();
    let posts = |server: &Server| server.seen().iter().filter(|r| r.method == "POST").count();
    assert!(posts(&server) > 0);
    let asked = server.seen();
    let scope = "scope=repository%3Ateam%2Fapp%3Apull";
    let form = |r: &Request| String::from_utf8_lossy(&r.body).into_owned();
    assert!(
        asked.iter().any(|r| r.method == "POST" && form(r).contains(scope)),
        "the right that is needed, no more"
    );
    assert!(asked.iter().all(|r| !form(r).contains("secret")));
    // As an API client sends it, with and without padding and in both alphabets; and nothing at all.
    let auth = |header: &str| {
        let head = [("X-Registry-Auth", header)];
        let path = format!("/v1.44/distribution/{name}/json");
        wharf_tests::http::request_with(&d.socket(), "GET", &path, &head, "").unwrap().status
    };
    // {"identitytoken":"lasting"} and {"identitytoken":"lasting" }
    for header in [
        "eyJpZGVudGl0eXRva2VuIjoibGFzdGluZyJ9",
        "eyJpZGVudGl0eXRva2VuIjoibGFzdGluZyIgfQ==",
        "eyJpZGVudGl0eXRva2VuIjoibGFzdGluZyIgfQ",
    ] {
        assert_eq!(auth(header), 200, "{header}");
    }
    assert_ne!(auth("e30="), 200);
    assert_eq!(auth("!!!"), 400);
    expired.store(true, Ordering::Release);
    d.docker(&["rmi", &name]).ok();
    // Tokens are remembered by what they were got with: another right needs a new one.
    d.docker(&["tag", &d.import_busybox(), &name]).ok();
    d.docker(&["push", &name]).fails(1, "the refresh token has expired");
}

#[test]
fn limits_of_rate_are_waited_for() {
    let d = with(json!({"max-download-attempts": 5}));
    let registry = Registry::start(&d, 5000, Setup::default());
    seed(&d, &registry, "team/app:1");
    let root = d.path("nginx");
    std::fs::create_dir_all(&root).unwrap();
    let config = format!(
        "daemon off; pid {0}/pid; error_log {0}/error; events {{}}\nhttp {{\n\
         access_log {0}/access; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/f; \
         uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
         limit_req_zone $server_name zone=all:1m rate=2r/s; limit_req_status 429;\n\
         server {{ listen 127.0.0.1:5001; location / {{ limit_req zone=all; proxy_pass http://127.0.0.1:5000; \
         proxy_set_header Host $http_host; error_page 429 @limit; }}\n\
         location @limit {{ add_header Retry-After 1 always; return 429 \
         '{{\"errors\":[{{\"code\":\"TOOMANYREQUESTS\",\"message\":\"You have reached your pull rate limit.\"}}]}}'; }} }} \n\
         server {{ listen 127.0.0.1:5002; location / {{ add_header Retry-After 1 always; return 429 \
         '{{\"errors\":[{{\"code\":\"TOOMANYREQUESTS\",\"message\":\"You have reached your pull rate limit.\"}}]}}'; }} }} }}\n",
        root.display()
    );
    let file = image::save(&root.join("nginx.conf"), config.as_bytes());
    let mut nginx = d.in_namespace("nginx").args(["-e", "stderr", "-c", &file]).spawn().unwrap();
    eventually("nginx", || connect(&d, "127.0.0.1:5001".parse().unwrap()).ok());
    let pulled = d.docker(&["pull", "127.0.0.1:5001/team/app:1"]);
    let never = d.docker(&["pull", "127.0.0.1:5002/team/app:1"]);
    let access = std::fs::read_to_string(root.join("access")).unwrap();
    // nginx is asked to end, so that its workers do too.
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(nginx.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    );
    nginx.wait().unwrap();
    pulled.ok();
    assert!(access.contains("\" 429 "), "the limit was met: {access}");
    never.fails(1, "You have reached your pull rate limit");
}
