//! Registries that lie, stall, flood and fish: the daemon stays well, nothing is kept, and credentials stay at home.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use wharf_tests::server::{Body, Reply, Request, Server};
use wharf_tests::{Daemon, Options, eventually, image};

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", image::sha256(bytes))
}

fn layer() -> Vec<u8> {
    let mut tar = Vec::new();
    image::entry(&mut tar, "hello.txt", b'0', 0o644, "", &b"hello\n".repeat(50_000));
    image::finish(&mut tar);
    tar
}

/// A good image of one layer: manifest, configuration, layer.
struct Good {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Good {
    fn new(change: impl FnOnce(&mut Value)) -> Self {
        let layer = layer();
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({"architecture": arch, "os": "linux", "config": {"Cmd": ["/x"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}})
        .to_string()
        .into_bytes();
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": config.len(), "digest": digest(&config)},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": layer.len(), "digest": digest(&layer)}]});
        change(&mut manifest);
        Self { manifest: manifest.to_string().into_bytes(), config, layer }
    }

    /// Answers as a good registry would.
    fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        match path.rsplit('/').next().unwrap() {
            "" => Reply::new(200, "{}"),
            _ if path.contains("/manifests/") => Reply::new(200, self.manifest.clone())
                .with("Content-Type", MANIFEST)
                .with("Docker-Content-Digest", &digest(&self.manifest)),
            name if name == digest(&self.config) => Reply::new(200, self.config.clone()),
            name if name == digest(&self.layer) => {
                let from: usize = request
                    .header("range")
                    .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
                    .unwrap_or(0);
                let total = self.layer.len();
                let reply = Reply::new(if from > 0 { 206 } else { 200 }, &self.layer[from..]);
                if from > 0 {
                    reply.with("Content-Range", &format!("bytes {from}-{}/{total}", total - 1))
                } else {
                    reply
                }
            }
            _ => Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#),
        }
    }

    fn is_layer(&self, request: &Request) -> bool {
        request.path.ends_with(&digest(&self.layer))
    }
}

/// A daemon that gives up soon.
fn daemon() -> Daemon {
    Daemon::with(Options {
        config: Some(json!({"max-download-attempts": 2, "registry-stall-timeout": 1}).to_string()),
        ..Options::default()
    })
}

/// What is on the disk below the data root, but for what the daemon writes anyway.
fn files(d: &Daemon) -> Vec<String> {
    let out = std::process::Command::new("find")
        .args([d.path("data/storage"), d.path("data/content")])
        .args(["-mindepth", "2"])
        .output()
        .unwrap();
    let mut all: Vec<String> = String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter(|l| !l.contains("/.trash"))
        .map(str::to_owned)
        .collect();
    all.sort();
    all
}

/// Pulls, which must fail with this text, and leave nothing.
#[track_caller]
fn refused(d: &Daemon, name: &str, said: &str) {
    let before = files(d);
    d.docker(&["pull", name]).fails(1, said);
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
    eventually("the disk as it was", || (files(d) == before).then_some(()));
    d.docker(&["version"]).ok();
}

#[test]
fn a_good_one_works_and_is_resumed_where_it_broke_off() {
    let d = daemon();
    let good = Good::new(|_| ());
    let cuts = AtomicU32::new(0);
    let server = Server::start(&d, 5000, move |request| {
        if good.is_layer(request)
            && request.header("range").is_none()
            && cuts.fetch_add(1, Ordering::SeqCst) == 0
        {
            return Reply::new(200, "")
                .body(Body::Cut(good.layer.len() as u64, good.layer[..100_000].to_vec()));
        }
        good.answer(request)
    });
    let name = format!("{}/a/b:c", server.address);
    let out = d.docker(&["pull", &name]).ok();
    assert!(out.contains("Retrying in") && out.contains("Downloaded newer image"), "{out}");
    let ranges: Vec<String> =
        server.seen().iter().filter_map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges.len(), 1, "{ranges:?}");
    assert_ne!(ranges[0], "bytes=0-");
    // Two pulls at once fetch each layer once.
    d.docker(&["rmi", &name]).ok();
}

#[test]
fn wrong_bytes_wrong_sizes_and_wrong_types_are_refused() {
    let d = daemon();
    let flip = |layer: &[u8]| {
        let mut bad = layer.to_vec();
        bad[2000] ^= 1;
        bad
    };
    let cases: Vec<(&str, Box<dyn Fn(&Good, &Request) -> Option<Reply> + Send + Sync>, &str)> = vec![
        (
            "flipped byte",
            Box::new(move |g, r| g.is_layer(r).then(|| Reply::new(200, flip(&g.layer)))),
            "filesystem layer verification failed",
        ),
        (
            "more than said",
            Box::new(|g, r| {
                g.is_layer(r).then(|| {
                    let more = [g.layer.clone(), vec![0; 4096]].concat();
                    Reply::new(200, more)
                })
            }),
            "instead of",
        ),
        (
            "less than said",
            Box::new(|g, r| g.is_layer(r).then(|| Reply::new(200, &g.layer[..4096]))),
            "instead of",
        ),
        (
            "without an end",
            Box::new(|g, r| {
                g.is_layer(r).then(|| Reply::new(200, "").body(Body::Endless(1 << 40, vec![0; 65536])))
            }),
            "instead of",
        ),
        (
            "stuck",
            Box::new(|g, r| {
                g.is_layer(r).then(|| {
                    Reply::new(200, "").body(Body::Stuck(g.layer.len() as u64, g.layer[..10].to_vec()))
                })
            }),
            "stands still",
        ),
        (
            "another manifest than its digest",
            Box::new(|g, r| {
                r.path.contains("/manifests/").then(|| {
                    Reply::new(200, g.manifest.clone())
                        .with("Content-Type", MANIFEST)
                        .with("Docker-Content-Digest", &digest(b"other"))
                })
            }),
            "manifest verification failed",
        ),
        (
            "a huge manifest",
            Box::new(|_, r| {
                r.path
                    .contains("/manifests/")
                    .then(|| Reply::new(200, "").body(Body::Endless(1 << 30, vec![b' '; 65536])))
            }),
            "larger than",
        ),
        (
            "no manifest at all",
            Box::new(|_, r| r.path.contains("/manifests/").then(|| Reply::new(200, "<html>"))),
            "cannot be read",
        ),
        (
            "an index and a manifest",
            Box::new(|g, r| {
                r.path.contains("/manifests/").then(|| {
                    let mut both: Value = serde_json::from_slice(&g.manifest).unwrap();
                    both["manifests"] = json!([]);
                    Reply::new(200, both.to_string())
                })
            }),
            "also an index",
        ),
        (
            "the first schema",
            Box::new(|_, r| {
                r.path.contains("/manifests/").then(|| {
                    Reply::new(200, r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#)
                        .with("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
                })
            }),
            "schema 1 are not supported",
        ),
        (
            "a configuration of another image",
            Box::new(|g, r| {
                r.path.ends_with(&digest(&g.config)).then(|| Reply::new(200, vec![b' '; g.config.len()]))
            }),
            "verification failed",
        ),
        (
            "too many requests",
            Box::new(|_, _| {
                Some(
                    Reply::new(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#)
                        .with("Retry-After", "0"),
                )
            }),
            "toomanyrequests",
        ),
    ];
    for (port, (what, lie, said)) in (5000u16..).zip(cases) {
        let good = Good::new(|_| ());
        let server = Server::start(&d, port, move |r| lie(&good, r).unwrap_or_else(|| good.answer(r)));
        eprintln!("case: {what}");
        refused(&d, &format!("{}/a/b:c", server.address), said);
    }
}

#[test]
fn layers_that_are_not_those_of_the_configuration_are_refused() {
    let d = daemon();
    let good = Good::new(|m| m["layers"] = json!([]));
    let server = Server::start(&d, 5000, move |r| good.answer(r));
    refused(&d, &format!("{}/a/b:c", server.address), "layers from manifest don't match image configuration");
    let other = Good::new(|_| ());
    let config =
        String::from_utf8(other.config.clone()).unwrap().replace(&digest(&other.layer), &digest(b"x"));
    let mut lying = Good::new(|m| {
        m["config"]["digest"] = json!(digest(config.as_bytes()));
        m["config"]["size"] = json!(config.len());
    });
    lying.config = config.into_bytes();
    let server = Server::start(&d, 5001, move |r| lying.answer(r));
    refused(&d, &format!("{}/a/b:c", server.address), "layers from manifest don't match image configuration");
}

#[test]
fn indexes_without_end_and_redirects_in_circles_end() {
    let d = daemon();
    // Every index names another one; each is made from its parent's name so that digests fit.
    let chain: Arc<Vec<Vec<u8>>> = Arc::new({
        let mut made: Vec<Vec<u8>> = vec![Good::new(|_| ()).manifest];
        for _ in 0..12 {
            let below = made.last().unwrap();
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
                {"mediaType": INDEX, "digest": digest(below), "size": below.len()}]});
            made.push(index.to_string().into_bytes());
        }
        made
    });
    let all = Arc::clone(&chain);
    let server = Server::start(&d, 5000, move |r| {
        let wanted = r.path.rsplit('/').next().unwrap();
        let found = all.iter().find(|m| digest(m) == wanted).unwrap_or_else(|| all.last().unwrap());
        Reply::new(200, found.clone()).with("Content-Type", INDEX)
    });
    refused(&d, &format!("{}/a/b:c", server.address), "indexes inside of each other");
    assert!(server.seen().len() < 30, "{}", server.seen().len());
    let loops = Server::start(&d, 5001, |r| Reply::new(307, "").with("Location", &format!("{}x", r.path)));
    refused(&d, &format!("{}/a/b:c", loops.address), "redirects");
    assert!(loops.seen().len() < 100, "{}", loops.seen().len());
}

#[test]
fn credentials_are_for_the_registry_and_for_nobody_it_points_at() {
    let d = daemon();
    let good = Arc::new(Good::new(|_| ()));
    let thief = Server::start(&d, 6000, {
        let good = Arc::clone(&good);
        move |r| {
            // Asks for credentials first, and for them again.
            if r.header("authorization").is_some() {
                return good.answer(r);
            }
            Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"give\"")
        }
    });
    let registry = Server::start(&d, 5000, {
        let (good, thief) = (Arc::clone(&good), thief.address.clone());
        move |r| {
            if r.header("authorization") != Some("Basic bWU6c2VjcmV0") {
                return Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"home\"");
            }
            if r.path.contains("/blobs/") {
                return Reply::new(307, "").with("Location", &format!("http://{thief}{}", r.path));
            }
            good.answer(r)
        }
    });
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &registry.address], b"secret").ok();
    d.docker(&["pull", &format!("{}/a/b:c", registry.address)]).fails(1, "");
    assert!(!thief.seen().is_empty());
    for request in thief.seen() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
    // Without its own challenge the other host is fine: blobs often lie elsewhere.
    let store = Server::start(&d, 6001, {
        let good = Arc::clone(&good);
        move |r| good.answer(r)
    });
    let honest = Server::start(&d, 5001, {
        let (good, store) = (Arc::clone(&good), store.address.clone());
        move |r| {
            if r.header("authorization") != Some("Basic bWU6c2VjcmV0") {
                return Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"home\"");
            }
            if r.path.contains("/blobs/") {
                return Reply::new(307, "").with("Location", &format!("http://{store}{}", r.path));
            }
            good.answer(r)
        }
    });
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &honest.address], b"secret").ok();
    d.docker(&["pull", &format!("{}/a/b:c", honest.address)]).ok();
    for request in store.seen() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
}

#[test]
fn a_crash_in_the_middle_of_a_pull_leaves_nothing() {
    let mut d = Daemon::start();
    let good = Arc::new(Good::new(|_| ()));
    let server = Server::start(&d, 5000, {
        let good = Arc::clone(&good);
        move |r| {
            if good.is_layer(r) {
                let half = good.layer[..good.layer.len() / 2].to_vec();
                return Reply::new(200, "").body(Body::Stuck(good.layer.len() as u64, half));
            }
            good.answer(r)
        }
    });
    let before = files(&d);
    let name = format!("{}/a/b:c", server.address);
    let mut client = d.docker_command(&["pull", &name]).stdout(std::process::Stdio::null()).spawn().unwrap();
    eventually("half a layer on the disk", || {
        files(&d).iter().any(|f| f.ends_with("hello.txt")).then_some(())
    });
    d.crash();
    client.wait().unwrap();
    d.restart();
    eventually("the disk as it was", || (files(&d) == before).then_some(()));
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
}

#[test]
fn who_goes_away_ends_the_pull() {
    let d = Daemon::start();
    let good = Arc::new(Good::new(|_| ()));
    let server = Server::start(&d, 5000, {
        let good = Arc::clone(&good);
        move |r| {
            if good.is_layer(r) {
                let half = good.layer[..good.layer.len() / 2].to_vec();
                return Reply::new(200, "").body(Body::Stuck(good.layer.len() as u64, half));
            }
            good.answer(r)
        }
    });
    let before = files(&d);
    let name = format!("{}/a/b:c", server.address);
    let mut client = d.docker_command(&["pull", &name]).stdout(std::process::Stdio::null()).spawn().unwrap();
    eventually("half a layer on the disk", || {
        files(&d).iter().any(|f| f.ends_with("hello.txt")).then_some(())
    });
    client.kill().unwrap();
    client.wait().unwrap();
    eventually("the disk as it was", || (files(&d) == before).then_some(()));
}
