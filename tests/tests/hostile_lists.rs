//! Registries that lie in lists, in where uploads go on, and in names that strangers choose.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use wharf_tests::platforms::digest;
use wharf_tests::registry::ask;
use wharf_tests::server::{Reply, Server};
use wharf_tests::{Daemon, Options, fsck};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A daemon that gives up soon.
fn daemon() -> Daemon {
    let config = json!({"max-download-attempts": 2, "registry-stall-timeout": 2});
    Daemon::with(Options { config: Some(config.to_string()), ..Options::default() })
}

fn tags(names: &[&str]) -> Reply {
    Reply::new(200, json!({"name": "a/b", "tags": names}).to_string())
}

#[test]
fn lists_of_tags_without_end_end() {
    let d = daemon();
    // The same page again and again; two that lead to each other; pages without end that bring nothing.
    for (port, way) in [(5000, "same"), (5001, "circle"), (5002, "empty")] {
        let server = Server::start(&d, port, move |r| {
            let path = r.path.as_str();
            if path.ends_with("/v2/") {
                return Reply::new(200, "{}");
            }
            let next = |to: String| format!("<{to}>; rel=\"next\"");
            match way {
                _ if !path.contains("/tags/list") => Reply::new(404, "{}"),
                "same" => tags(&["one"]).with("Link", &next(path.to_owned())),
                "circle" if path.contains("page=2") => {
                    tags(&["two"]).with("Link", &next("/v2/a/b/tags/list".into()))
                }
                "circle" => tags(&["one"]).with("Link", &next("/v2/a/b/tags/list?page=2".into())),
                _ => tags(&[]).with("Link", &next(format!("{path}x?"))),
            }
        });
        let pulled = d.docker(&["pull", "-a", &format!("{}/a/b", server.address)]);
        assert!(way == "empty" || pulled.code != 0, "{way}: {pulled:?}");
        let lists = server.seen().iter().filter(|r| r.path.contains("/tags/list")).count();
        assert!((1..10).contains(&lists), "{way}: {lists}");
    }
    // To another host no page leads, whatever the list says.
    let thief = Server::start(&d, 5009, |_| Reply::new(200, "{}"));
    let to = format!("<http://{}/v2/a/b/tags/list>; rel=\"next\"", thief.address);
    let server = Server::start(&d, 5003, move |r| {
        if r.path.contains("/tags/list") { tags(&["one"]).with("Link", &to) } else { Reply::new(404, "{}") }
    });
    d.docker(&["pull", "-a", &format!("{}/a/b", server.address)]).fails(1, "another host");
    assert!(thief.seen().is_empty());
    fsck::whole(&d, "after lists");
}

#[test]
fn uploads_go_on_nowhere_else() {
    let d = daemon();
    d.import_busybox();
    let thief = Server::start(&d, 5009, |_| Reply::new(202, "").with("Location", "/v2/x"));
    let away = format!("http://{}/v2/a/b/blobs/uploads/1", thief.address);
    for (port, lies_at, to) in [
        (5000, "POST", away.clone()),
        (5001, "PATCH", away.clone()),
        (5002, "POST", "file:///etc/passwd".to_owned()),
        (5003, "POST", String::new()),
        (5004, "PATCH", "http://169.254.169.254/latest".to_owned()),
        (5005, "PATCH", "//127.0.0.1:5009/v2/x".to_owned()),
    ] {
        let lie = to.clone();
        let server = Server::start(&d, port, move |r| {
            if r.header("authorization").is_none() {
                return Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"home\"");
            }
            let own = "/v2/a/b/blobs/uploads/1";
            match r.method.as_str() {
                "HEAD" => Reply::new(404, ""),
                "GET" if r.path.ends_with("/v2/") => Reply::new(200, "{}"),
                method if method == lies_at => Reply::new(202, "").with("Location", &lie),
                "POST" | "PATCH" => Reply::new(202, "").with("Location", own),
                "DELETE" => Reply::new(204, ""),
                _ => Reply::new(404, "{}"),
            }
        });
        d.docker_with_input(&["login", "-u", "me", "--password-stdin", &server.address], b"secret").ok();
        let name = format!("{}/a/b:c", server.address);
        d.docker(&["tag", "busybox", &name]).ok();
        d.docker(&["push", &name]).fails(1, "wants an upload sent to");
        assert!(server.seen().iter().any(|r| r.method == lies_at), "{lies_at} {to}");
    }
    assert!(thief.seen().is_empty(), "{:?}", thief.seen());
    // Nor does a redirect carry what is sent.
    let to = away.clone();
    let server = Server::start(&d, 5006, move |r| match r.method.as_str() {
        "HEAD" => Reply::new(404, ""),
        "POST" | "PUT" | "PATCH" => Reply::new(307, "").with("Location", &to),
        _ => Reply::new(200, "{}"),
    });
    let name = format!("{}/a/b:c", server.address);
    d.docker(&["tag", "busybox", &name]).ok();
    d.docker(&["push", &name]).fails(1, "redirects a POST");
    assert!(thief.seen().is_empty(), "{:?}", thief.seen());
}

#[test]
fn hashes_that_nobody_here_can_verify_are_refused() {
    let d = daemon();
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
            .to_string();
    for (port, bad) in [
        (5000, format!("sha512:{}", "a".repeat(128))),
        (5001, "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned()),
        (5002, format!("sha256:{}", "A".repeat(64))),
        (5003, "sha256:../../../../etc/passwd".to_owned()),
        (5004, String::new()),
    ] {
        let (text, wrong) = (config.clone(), bad.clone());
        let server = Server::start(&d, port, move |r| {
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(text.as_bytes()), "size": text.len()},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": wrong, "size": 5}]});
            if r.path.contains("/manifests/") {
                // The header too, which is only what the registry says.
                let reply = Reply::new(200, manifest.to_string()).with("Content-Type", MANIFEST);
                return reply.with("Docker-Content-Digest", &wrong);
            }
            if r.path.contains("/blobs/") { Reply::new(200, text.clone()) } else { Reply::new(200, "{}") }
        });
        let pulled = d.docker(&["pull", &format!("{}/a/b:c", server.address)]);
        assert_ne!(pulled.code, 0, "{bad}: {pulled:?}");
        let fetched = server
            .seen()
            .iter()
            .filter(|r| r.path.contains("/blobs/") && !bad.is_empty() && r.path.ends_with(&bad))
            .count();
        assert_eq!(fetched, 0, "{bad}");
    }
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
    fsck::whole(&d, "after strange hashes");
}

#[test]
fn lists_of_referrers_are_read_to_a_bound() {
    let d = daemon();
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
            .to_string();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config.as_bytes()), "size": config.len()}})
    .to_string();
    let server = Server::start(&d, 5000, move |r| {
        let path = r.path.as_str();
        if path.contains("/referrers/") {
            // Something new on each page, for ever.
            let n = asked.fetch_add(1, Ordering::SeqCst);
            let entries: Vec<Value> = (0..500)
                .map(|at| json!({"mediaType": MANIFEST, "digest": digest(format!("{n}-{at}").as_bytes()), "size": 1}))
                .collect();
            let index = json!({"schemaVersion": 2, "manifests": entries});
            let next = format!("<{}?n={n}>; rel=\"next\"", path.split('?').next().unwrap());
            return Reply::new(200, index.to_string()).with("Link", &next);
        }
        let last = path.rsplit('/').next().unwrap();
        if path.contains("/manifests/") && (last == "c" || last == digest(manifest.as_bytes())) {
            let reply = Reply::new(200, manifest.clone()).with("Content-Type", MANIFEST);
            return reply.with("Docker-Content-Digest", &digest(manifest.as_bytes()));
        }
        if last == digest(config.as_bytes()) {
            return Reply::new(200, config.clone());
        }
        Reply::new(if path.ends_with("/v2/") { 200 } else { 404 }, "{}")
    });
    let name = format!("{}/a/b:c", server.address);
    d.docker(&["pull", "-q", &name]).ok();
    let answer = d.api("GET", &format!("/v1.55/images/{name}/attestations"), "");
    assert!(answer.status >= 400, "{}", answer.text());
    assert!((2..10).contains(&count.load(Ordering::SeqCst)), "{count:?}");
}

#[test]
fn strangers_do_not_reach_this_machine_through_a_cache() {
    let serve = json!({"address": "127.0.0.1:5000", "pull-through": true});
    let config = json!({"registry-serve": serve, "max-download-attempts": 1, "registry-stall-timeout": 2});
    let d = Daemon::with(Options { config: Some(config.to_string()), ..Options::default() });
    // Something that only this machine is to reach, where HTTP is at home and elsewhere.
    let inner =
        Server::start(&d, 80, |_| Reply::new(404, r#"{"errors":[{"code":"X","message":"a secret"}]}"#));
    for name in ["127.0.0.1/x", "localhost/x", "127.1.2.3/team/x", "x.localhost/y", "169.254.169.254/latest"]
    {
        let answer = ask(&d, "127.0.0.1:5000", "GET", &format!("/v2/{name}/manifests/1"), &[], b"");
        assert!(answer.status >= 400, "{name}: {}", answer.status);
        assert!(!answer.text().contains("a secret"), "{name}: {}", answer.text());
        let path = format!("/v2/{name}/blobs/{}", digest(b"x"));
        assert_eq!(ask(&d, "127.0.0.1:5000", "GET", &path, &[], b"").status, 404, "{name}");
    }
    assert!(inner.seen().is_empty(), "{:?}", inner.seen());
    // Who may use the daemon itself may name it.
    let pulled = d.docker(&["pull", "127.0.0.1/x:1"]);
    assert_ne!(pulled.code, 0);
    assert!(!inner.seen().is_empty());
}
