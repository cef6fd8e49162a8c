//! What a registry gives back by itself: uploads that nobody goes on with, what it fetched from others, what nothing needs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use wharf_tests::platforms::{Layout, digest, gzip, here, packed_layout, publish, raw};
use wharf_tests::registry::{HTPASSWD, Registry, Setup, ask, connect, skopeo};
use wharf_tests::serve::Serve;
use wharf_tests::{Daemon, Options, bytes_beneath, eventually, http, image};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
/// `me` and `you`, both with the password `secret`.
const ME: (&str, &str) = ("Authorization", "Basic bWU6c2VjcmV0");
const YOU: (&str, &str) = ("Authorization", "Basic eW91OnNlY3JldA==");

fn begin(d: &Daemon, address: &str, as_whom: &[(&str, &str)]) -> http::Response {
    ask(d, address, "POST", "/v2/a/blobs/uploads/", as_whom, b"")
}

fn location(begun: &http::Response) -> String {
    assert_eq!(begun.status, 202, "{}", begun.text());
    begun.header("location").unwrap().to_owned()
}

#[test]
fn who_begins_uploads_without_end_keeps_nobody_from_pushing() {
    let d = Daemon::start();
    let users = HTPASSWD.to_owned() + &HTPASSWD.replacen("me:", "you:", 1);
    let users = image::save(&d.path("users"), users.as_bytes());
    let serve = Serve::with(&d, 5000, &["--htpasswd", &users]);
    let ask = |method: &str, path: &str, who: (&str, &str), body: &[u8]| {
        ask(&d, &serve.address, method, path, &[who], body)
    };
    // Somebody is in the middle of a push, and another one floods.
    let (honest, first) =
        (location(&begin(&d, &serve.address, &[YOU])), location(&begin(&d, &serve.address, &[ME])));
    assert_eq!(ask("PATCH", &honest, YOU, b"half").status, 202);
    let mut last = String::new();
    for _ in 0..1100 {
        last = location(&begin(&d, &serve.address, &[ME]));
    }
    assert_eq!(ask("GET", &first, ME, b"").status, 404, "the oldest of the same client went");
    assert_eq!(ask("GET", &last, ME, b"").status, 204);
    let end = ask("PUT", &format!("{honest}?digest={}", digest(b"half of it")), YOU, b" of it");
    assert_eq!(end.status, 201, "{}", end.text());
    let uploads = std::fs::read_dir(serve.root.join("uploads")).unwrap().count();
    assert!((100..1000).contains(&uploads), "{uploads}");
    // Also all together, once there are as many as there may be.
    for _ in 0..600 {
        location(&begin(&d, &serve.address, &[YOU]));
    }
    assert_eq!(std::fs::read_dir(serve.root.join("uploads")).unwrap().count(), 1000);
    d.import_busybox();
    let name = format!("{}/bb:1", serve.address);
    d.docker(&["tag", "busybox", &name]).ok();
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &serve.address], b"secret").ok();
    d.docker(&["push", &name]).ok();
}

#[test]
fn an_upload_that_stands_still_is_given_up() {
    let d = Daemon::start();
    let serve = Serve::with(&d, 5000, &["--upload-idle-timeout", "2s"]);
    let uploads = || std::fs::read_dir(serve.root.join("uploads")).unwrap().count();
    let idle = location(&begin(&d, &serve.address, &[]));
    assert_eq!(ask(&d, &serve.address, "PATCH", &idle, &[], &[7; 100_000]).status, 202);
    // One that sends a little now and then goes on.
    let slow = location(&begin(&d, &serve.address, &[]));
    let mut slow_size = 0;
    eventually("the idle one to go", || {
        slow_size += 1;
        assert_eq!(ask(&d, &serve.address, "PATCH", &slow, &[], b"x").status, 202, "it goes on");
        (uploads() == 1).then_some(())
    });
    assert_eq!(ask(&d, &serve.address, "GET", &idle, &[], b"").status, 404);
    let all = vec![b'x'; slow_size];
    let end = ask(&d, &serve.address, "PUT", &format!("{slow}?digest={}", digest(&all)), &[], b"");
    assert_eq!(end.status, 201, "{}", end.text());
    // Whoever holds the line in the middle of a chunk, holding the upload with it.
    let stuck = location(&begin(&d, &serve.address, &[]));
    let mut stream = connect(&d, serve.address.parse().unwrap()).unwrap();
    let head = format!("PATCH {stuck} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc");
    stream.write_all(head.as_bytes()).unwrap();
    // What is said of it meanwhile comes at once, and does not count half a chunk.
    let asked = ask(&d, &serve.address, "GET", &stuck, &[], b"");
    assert_eq!((asked.status, asked.header("range")), (204, Some("0-0")));
    let mut answer = String::new();
    BufReader::new(&mut stream).read_line(&mut answer).unwrap();
    assert!(answer.contains("400"), "{answer}");
    eventually("it to go", || (uploads() == 0).then_some(()));
    let _ = stream.read(&mut [0; 1]);
}

/// A cache of a registry, and that registry with an image.
fn cache(d: &Daemon, args: &[&str]) -> (Serve, Registry, Layout) {
    let upstream = Registry::start(d, 5005, Setup { delete: true, ..Setup::default() });
    let made = packed_layout("made.example/tool:1", &["linux/s390x", here()], false, gzip);
    publish(d, &upstream, "tool:1", &made);
    let serve = Serve::with(d, 5000, &[&["--upstream", &upstream.address], args].concat());
    (serve, upstream, made)
}

fn blob(d: &Daemon, serve: &Serve, method: &str, digest: &str) -> http::Response {
    ask(d, &serve.address, method, &format!("/v2/tool/blobs/{digest}"), &[], b"")
}

fn put(d: &Daemon, address: &str, reference: &str, manifest: &str) -> http::Response {
    let path = format!("/v2/tool/manifests/{reference}");
    ask(d, address, "PUT", &path, &[("Content-Type", OCI)], manifest.as_bytes())
}

/// An artifact of these blobs, whose empty configuration is sent.
fn artifact(d: &Daemon, address: &str, layers: &[(&str, usize)]) -> String {
    let config = digest(b"{}");
    let path = format!("/v2/tool/blobs/uploads/?digest={config}");
    assert_eq!(ask(d, address, "POST", &path, &[], b"{}").status, 201);
    let layer = |(digest, size): &(&str, usize)| json!({"mediaType": "application/x.part", "digest": digest, "size": size});
    json!({
        "schemaVersion": 2, "mediaType": OCI, "artifactType": "application/x.own",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
    .to_string()
}

#[test]
fn a_cache_forgets_what_nobody_asks_for_and_keeps_what_was_pushed() {
    let d = Daemon::start();
    let (serve, upstream, made) = cache(&d, &["--cache-keep", "3s"]);
    let copy = |to: &str| {
        let (source, target) =
            (format!("docker://{}/tool:1", serve.address), format!("dir:{}", d.path(to).display()));
        skopeo(&d, &["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &source, &target])
    };
    copy("first").ok();
    // Something of one's own, which needs a blob that came from there, and one that did not come yet.
    let (here_already, not_yet) = (&made.members[0].layers[1], &made.members[1].layers[1]);
    let size = |digest: &str| {
        let head = blob(&d, &serve, "HEAD", digest);
        assert_eq!(head.status, 200);
        head.header("content-length").unwrap().parse::<usize>().unwrap()
    };
    let manifest = artifact(&d, &serve.address, &[(here_already, size(here_already))]);
    let sent = put(&d, &serve.address, "own", &manifest);
    assert_eq!(sent.status, 201, "{}", sent.text());
    let own = [digest(b"{}"), digest(manifest.as_bytes()), here_already.clone()];
    eventually("the rest to go", || (serve.kept().len() == 3).then_some(()));
    let mut wanted = own.to_vec();
    wanted.sort();
    assert_eq!(serve.kept(), wanted);
    // A client is told that what the other registry has is there; so it does not send it, and a push comes to its end all the same.
    let (length, manifest) = (size(not_yet), raw(&d, &serve.address, "tool", "1"));
    assert_eq!(manifest, made.index);
    let second = artifact(&d, &serve.address, &[(not_yet, length)]);
    assert!(!serve.kept().contains(not_yet));
    let sent = put(&d, &serve.address, "second", &second);
    assert_eq!(sent.status, 201, "{}", sent.text());
    assert!(serve.kept().contains(not_yet), "from now on it does not depend on the other registry");
    let absent = artifact(&d, &serve.address, &[(&digest(b"nowhere"), 7)]);
    let refused = put(&d, &serve.address, "third", &absent);
    assert_eq!(
        (refused.status, refused.json()["errors"][0]["code"].clone()),
        (404, "MANIFEST_BLOB_UNKNOWN".into())
    );
    // An index of one's own over images of the other registry holds them.
    let entries: Vec<_> = made
        .members
        .iter()
        .map(|member| {
            let size = raw(&d, &upstream.address, "tool", &member.manifest).len();
            json!({"mediaType": OCI, "digest": member.manifest, "size": size})
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries});
    let kind = [("Content-Type", "application/vnd.oci.image.index.v1+json")];
    let sent = ask(&d, &serve.address, "PUT", "/v2/tool/manifests/both", &kind, index.to_string().as_bytes());
    assert_eq!(sent.status, 201, "{}", sent.text());
    eventually("what is not held to go", || (!serve.kept().contains(&made.digest)).then_some(()));
    drop(upstream);
    for member in &made.members {
        assert_eq!(digest(raw(&d, &serve.address, "tool", &member.manifest).as_bytes()), member.manifest);
    }
    assert_eq!(raw(&d, &serve.address, "tool", "both"), index.to_string());
    assert_eq!(digest(&blob(&d, &serve, "GET", not_yet).body), *not_yet);
}

#[test]
fn a_tag_that_is_fetched_makes_nothing_that_was_pushed_the_others() {
    let d = Daemon::start();
    let (serve, mut upstream, made) = cache(&d, &["--cache-keep", "2s"]);
    // The same image is pushed here and there, under the same tag and others.
    let manifest = raw(&d, &upstream.address, "tool", &made.members[1].manifest);
    assert_eq!(put(&d, &upstream.address, "same", &manifest).status, 201);
    assert_eq!(put(&d, &upstream.address, "theirs", &manifest).status, 201);
    for tag in ["same", "ours"] {
        let sent = put(&d, &serve.address, tag, &manifest);
        assert_eq!(sent.status, 201, "{}", sent.text());
    }
    // A tag of one's own that only this registry has, and one that leads there to something else by now.
    assert_eq!(raw(&d, &serve.address, "tool", "ours"), manifest);
    let other = raw(&d, &upstream.address, "tool", &made.members[0].manifest);
    assert_eq!(put(&d, &upstream.address, "same", &other).status, 201);
    assert_eq!(raw(&d, &serve.address, "tool", "same"), manifest);
    // Theirs is fetched: it is the same content.
    assert_eq!(raw(&d, &serve.address, "tool", "theirs"), manifest);
    assert_eq!(raw(&d, &serve.address, "tool", "1"), made.index);
    eventually("what is only theirs to go", || (!serve.kept().contains(&made.digest)).then_some(()));
    // It follows them where they go.
    assert_eq!(put(&d, &upstream.address, "theirs", &other).status, 201);
    assert_eq!(raw(&d, &serve.address, "tool", "theirs"), other);
    upstream.stop();
    for tag in ["ours", "same"] {
        assert_eq!(raw(&d, &serve.address, "tool", tag), manifest, "{tag}");
    }
    for layer in &made.members[1].layers {
        assert_eq!(digest(&blob(&d, &serve, "GET", layer).body), *layer);
    }
}

#[test]
fn a_cache_that_is_full_forgets_what_was_not_asked_for_longest() {
    let d = Daemon::start();
    let upstream = Registry::start(&d, 5005, Setup::default());
    // Ten images of a layer of 200 kB each.
    let images: Vec<(String, String)> = (0..10u8)
        .map(|n| {
            let layer: Vec<u8> = (0..200_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ n).collect();
            let config = digest(b"{}");
            for bytes in [&layer[..], b"{}"] {
                let begun = ask(&d, &upstream.address, "POST", "/v2/tool/blobs/uploads/", &[], b"");
                let to = begun.header("location").unwrap().to_owned();
                let to = to.split_once("/v2/").map(|(_, rest)| format!("/v2/{rest}&digest={}", digest(bytes))).unwrap();
                assert_eq!(ask(&d, &upstream.address, "PUT", &to, &[], bytes).status, 201);
            }
            let manifest = json!({"schemaVersion": 2, "mediaType": OCI,
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len()}]});
            assert_eq!(put(&d, &upstream.address, &n.to_string(), &manifest.to_string()).status, 201);
            (n.to_string(), digest(&layer))
        })
        .collect();
    let serve = Serve::with(&d, 5000, &["--upstream", &upstream.address, "--cache-size", "1m"]);
    let pull = |n: usize| {
        raw(&d, &serve.address, "tool", &images[n].0);
        assert_eq!(digest(&blob(&d, &serve, "GET", &images[n].1).body), images[n].1);
    };
    let blobs = serve.root.join("blobs");
    pull(0);
    for n in 1..10 {
        pull(n);
        // The first is asked for again and again.
        pull(0);
    }
    eventually("it to have room again", || (bytes_beneath(&blobs) <= 1 << 20).then_some(()));
    let kept = serve.kept();
    assert!(kept.contains(&images[0].1), "it was asked for last");
    assert!(kept.contains(&images[9].1), "so was this");
    assert!(!kept.contains(&images[1].1), "this was not asked for longest");
    // And it comes again while it is needed.
    pull(1);
    drop(serve);
    // One whose bound is smaller than what it has begins with what fits.
    let small = Serve::with(&d, 5000, &["--upstream", &upstream.address, "--cache-size", "300k"]);
    assert!(bytes_beneath(&blobs) <= 300 << 10, "{}", bytes_beneath(&blobs));
    drop(small);
    let refused = |args: &[&str], text: &str| {
        let mut command = d.in_namespace(wharf_tests::bin_dir().join("wharf"));
        command
            .args(["registry", "serve", "--address", "127.0.0.1:5009", "--root"])
            .arg(d.path("none"))
            .args(args);
        d.run_with_input(command, b"").fails(125, text);
    };
    refused(&["--cache-size", "1m"], "--upstream");
    refused(&["--upstream", "x", "--cache-size", "much"], "invalid size: 'much'");
    refused(&["--upstream", "x", "--cache-keep", "soon"], "a time such as 72h is needed");
    refused(&["--upload-idle-timeout", "0s"], "a time such as 72h is needed");
}

#[test]
fn the_daemons_cache_has_a_bound_that_can_be_changed_while_it_runs() {
    let hub = "127.0.0.1:5005";
    let config = |more: serde_json::Value| {
        let mut serve = json!({"address": "127.0.0.1:5000", "pull-through": true});
        serve.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"registry-serve": serve, "registry-mirrors": [format!("http://{hub}")], "insecure-registries": [hub]})
            .to_string()
    };
    let d = Daemon::with(Options { config: Some(config(json!({}))), ..Options::default() });
    let upstream = Registry::start(&d, 5005, Setup::default());
    let made = packed_layout("made.example/tool:1", &["linux/s390x", here()], false, gzip);
    publish(&d, &upstream, "library/tool:1", &made);
    let copy = |to: &str| {
        let (source, target) = ("docker://127.0.0.1:5000/tool:1", format!("dir:{}", d.path(to).display()));
        skopeo(&d, &["copy", "--all", "--preserve-digests", "--src-tls-verify=false", source, &target]).ok();
    };
    copy("first");
    let blobs = d.path("data/registry/blobs");
    let all = bytes_beneath(&blobs);
    let reload = |d: &Daemon, more: serde_json::Value| {
        std::fs::write(d.path("daemon.json"), config(more)).unwrap();
        kill(Pid::from_raw(d.pid()), Signal::SIGHUP).unwrap();
    };
    let before = d.log().matches("need a restart").count();
    reload(&d, json!({"pull-through-size": all / 2}));
    eventually("what has no room to go", || (bytes_beneath(&blobs) <= all / 2).then_some(()));
    copy("second");
    eventually("it to go again", || (bytes_beneath(&blobs) <= all / 2).then_some(()));
    reload(&d, json!({"pull-through-keep": "1s"}));
    eventually("all of it to go", || (bytes_beneath(&blobs) == 0).then_some(()));
    // An upload that stands still goes too.
    let begun = location(&begin(&d, "127.0.0.1:5000", &[]));
    reload(&d, json!({"upload-idle-timeout": "1s"}));
    eventually("it to be given up", || {
        let uploads = std::fs::read_dir(d.path("data/registry/uploads")).unwrap().count();
        (uploads == 0).then_some(())
    });
    assert_eq!(ask(&d, "127.0.0.1:5000", "GET", &begun, &[], b"").status, 404);
    assert_eq!(d.log().matches("need a restart").count(), before, "{}", d.log());
    // What is wrong changes nothing, and what needs a restart is said.
    reload(&d, json!({"pull-through-size": "much"}));
    eventually("it to be refused", || d.log().contains("pull-through-size: invalid size").then_some(()));
    reload(&d, json!({"read-only": true}));
    eventually("it to be said", || d.log().contains("need a restart: registry-serve").then_some(()));
}

#[test]
fn a_registry_gives_back_what_no_manifest_needs() {
    let d = Daemon::start();
    let mut serve = Serve::start(&d, 5000, &["one", "two"]);
    let before = serve.kept().len();
    let manifest = raw(&d, &serve.address, "one", "1");
    let path = format!("/v2/one/manifests/{}", digest(manifest.as_bytes()));
    assert_eq!(ask(&d, &serve.address, "DELETE", &path, &[], b"").status, 202);
    let value: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let (shared, own) =
        (value["layers"][0]["digest"].as_str().unwrap(), value["layers"][1]["digest"].as_str().unwrap());
    // A blob that was just pushed, for which a manifest may still come.
    let path = format!("/v2/one/blobs/uploads/?digest={}", digest(b"new"));
    assert_eq!(ask(&d, &serve.address, "POST", &path, &[], b"new").status, 201);
    serve.stop();
    // As if all else had been there for two hours.
    let old = std::time::SystemTime::now() - std::time::Duration::from_hours(2);
    let layers = serve.root.join("repositories/one/_layers");
    let age = |layers: &std::path::Path, all: bool| {
        for link in std::fs::read_dir(layers).unwrap() {
            let link = link.unwrap().path();
            if all || !link.ends_with(&digest(b"new")[7..]) {
                std::fs::File::open(link).unwrap().set_modified(old).unwrap();
            }
        }
    };
    age(&layers, false);
    let mut serve = Serve::with(&d, 5000, &[]);
    assert!(serve.kept().contains(&own.to_owned()), "a push to this repository seems to be under way");
    serve.stop();
    age(&layers, true);
    let serve = Serve::with(&d, 5000, &[]);
    let kept = serve.kept();
    assert!(!kept.contains(&own.to_owned()) && !kept.contains(&digest(b"new")), "{kept:?}");
    assert!(kept.contains(&shared.to_owned()), "the other image has it too");
    // Manifest, configuration and layer of the one.
    assert_eq!(kept.len(), before - 3);
    let name = serve.name("two");
    d.docker(&["pull", "-q", &name]).ok();
}
