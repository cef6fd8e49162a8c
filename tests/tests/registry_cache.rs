//! The daemon's registry as a cache of others, for any platform, byte for byte; and what it keeps of what is pushed to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use p256::pkcs8::{EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};
use wharf_tests::platforms::{Layout, digest, gzip, here, packed_layout, publish, raw};
use wharf_tests::registry::{Registry, Setup, ask, skopeo};
use wharf_tests::server::{Body, Reply, Server};
use wharf_tests::{Daemon, Options, Ran, bytes_beneath, eventually, image};

const ADDRESS: &str = "127.0.0.1:5000";
const HUB: u16 = 5005;
const THREE: [&str; 3] = ["linux/s390x", "linux/amd64", "linux/arm64"];

/// A daemon that is a cache of the Docker Hub, which is at a port of its own here.
fn daemon(mut more: Value, plugins: Value) -> Daemon {
    let mut serve = json!({"address": ADDRESS, "pull-through": true});
    serve.as_object_mut().unwrap().append(more.as_object_mut().unwrap());
    let hub = format!("127.0.0.1:{HUB}");
    let config = json!({
        "registry-serve": serve, "registry-mirrors": [format!("http://{hub}")], "insecure-registries": [hub],
        "plugins": plugins, "max-download-attempts": 2, "registry-stall-timeout": 5,
    });
    Daemon::with(Options { config: Some(config.to_string()), ..Options::default() })
}

/// Copies all of an index, by a client that refuses to change a digest.
fn copy_all(d: &Daemon, name: &str, to: &str) -> Ran {
    let (source, target) = (format!("docker://{ADDRESS}/{name}"), format!("dir:{}", d.path(to).display()));
    skopeo(d, &["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &source, &target])
}

fn blob(d: &Daemon, method: &str, repository: &str, digest: &str) -> wharf_tests::http::Response {
    ask(d, ADDRESS, method, &format!("/v2/{repository}/blobs/{digest}"), &[], b"")
}

/// Digests of the blobs in the registry's directory.
fn kept(d: &Daemon) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(d.path("data/registry/blobs/sha256")) else { return Vec::new() };
    let mut all: Vec<String> =
        entries.map(|e| format!("sha256:{}", e.unwrap().file_name().to_string_lossy())).collect();
    all.sort();
    all
}

fn seed(d: &Daemon, hub: &Registry, content: &str) -> Layout {
    let made = packed_layout(content, &THREE, true, gzip);
    publish(d, hub, "library/tool:1", &made);
    made
}

#[test]
fn any_platform_is_served_as_it_is_elsewhere_and_fetched_when_asked_for() {
    let d = daemon(json!({}), json!({}));
    let hub = Registry::start(&d, HUB, Setup::default());
    let made = seed(&d, &hub, "made.example/tool:1");
    assert_eq!(raw(&d, ADDRESS, "tool", "1"), made.index);
    assert_eq!(kept(&d), std::slice::from_ref(&made.digest), "nothing that nobody asked for");
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "", "what others ask for is no image here");
    // One platform: its documents, then one of its layers, as far as they are asked for.
    let member = &made.members[0];
    assert_eq!(digest(raw(&d, ADDRESS, "tool", &member.manifest).as_bytes()), member.manifest);
    let head = blob(&d, "HEAD", "tool", &member.layers[1]);
    assert_eq!(head.status, 200);
    assert!(!kept(&d).contains(&member.layers[1]), "its size alone needs no transfer");
    let layer = blob(&d, "GET", "tool", &member.layers[1]);
    assert_eq!(digest(&layer.body), member.layers[1]);
    assert_eq!(head.header("content-length"), layer.header("content-length"));
    eventually("the layer to be kept", || kept(&d).contains(&member.layers[1]).then_some(()));
    let path = format!("/v2/tool/blobs/{}", member.layers[0]);
    let part = ask(&d, ADDRESS, "GET", &path, &[("Range", "bytes=2-5")], b"");
    assert_eq!((part.status, part.body.len()), (206, 4), "of one that is still on its way");
    // What no manifest names that was let through is nobody's to ask for.
    let other = &made.members[1].layers[1];
    assert_eq!(blob(&d, "GET", "tool", other).status, 404);
    assert_eq!(blob(&d, "GET", "other", &member.layers[1]).status, 404);
    // All of it, to a client that looks at every byte; and by the stock CLI, which becomes the daemon's image.
    copy_all(&d, "tool:1", "first").ok();
    assert_eq!(d.docker(&["run", "--rm", "tool:1"]).ok(), format!("{} of made.example/tool:1", here()));
    assert_eq!(raw(&d, ADDRESS, "tool", "1"), made.index, "an image of the daemon's changes nothing");
    // Nobody to ask any more: what is here is served, and nothing else.
    drop(hub);
    copy_all(&d, "tool:1", "second").ok();
    assert_eq!(ask(&d, ADDRESS, "GET", "/v2/tool/manifests/2", &[], b"").status, 502);
}

#[test]
fn what_the_daemon_pulled_for_itself_is_served_whole() {
    let d = daemon(json!({}), json!({}));
    let hub = Registry::start(&d, HUB, Setup::default());
    let made = seed(&d, &hub, "made.example/tool:1");
    d.docker(&["pull", "-q", "tool:1"]).ok();
    assert_eq!(raw(&d, ADDRESS, "tool", "1"), made.index);
    copy_all(&d, "tool:1", "copy").ok();
    // It was moved here: then that counts.
    d.import_busybox();
    d.docker(&["tag", "busybox", "tool:1"]).ok();
    assert_ne!(raw(&d, ADDRESS, "tool", "1"), made.index);
}

#[test]
fn a_tag_that_moves_elsewhere_moves_here_and_what_nobody_asks_for_goes() {
    let d = daemon(json!({"pull-through-keep": "2s"}), json!({}));
    let hub = Registry::start(&d, HUB, Setup::default());
    let first = seed(&d, &hub, "made.example/tool:1");
    copy_all(&d, "tool:1", "first").ok();
    let second = seed(&d, &hub, "made.example/tool:2");
    assert_eq!(raw(&d, ADDRESS, "tool", "1"), second.index);
    assert_ne!(first.digest, second.digest);
    // A sweep follows an image that goes.
    let swept = || {
        d.docker_with_input(&["import", "-", "gone:1"], &image::own_layer("gone")).ok();
        d.docker(&["rmi", "gone:1"]).ok();
        kept(&d).is_empty().then_some(())
    };
    eventually("the cache to be empty", swept);
    let tags = ask(&d, ADDRESS, "GET", "/v2/tool/tags/list", &[], b"").json();
    assert_eq!(tags, json!({"name": "tool", "tags": []}));
    // And comes again.
    copy_all(&d, "tool:1", "second").ok();
    let bad = json!({"registry-serve": {"address": ADDRESS, "pull-through-keep": "soon"}}).to_string();
    let bad = image::save(&d.path("bad.json"), bad.as_bytes());
    let mut command = d.in_namespace(wharf_tests::bin_dir().join("wharf"));
    command.args(["daemon", "--validate", "--config-file", &bad]);
    let checked = d.run_with_input(command, b"");
    assert!(checked.code != 0 && checked.err.contains("pull-through-keep"), "{checked:?}");
}

#[test]
fn what_was_pushed_keeps_the_layers_that_were_fetched_for_others() {
    let d = daemon(json!({"pull-through-keep": "2s"}), json!({}));
    let hub = Registry::start(&d, HUB, Setup::default());
    let made = seed(&d, &hub, "made.example/tool:1");
    copy_all(&d, "tool:1", "first").ok();
    // A client is told that the layer is there, and sends nothing but a configuration and a manifest.
    let (layer, unused) = (&made.members[0].layers[1], &made.members[1].layers[1]);
    let size = blob(&d, "HEAD", "tool", layer).header("content-length").unwrap().parse::<u64>().unwrap();
    let config = digest(b"{}");
    let sent = ask(&d, ADDRESS, "POST", &format!("/v2/tool/blobs/uploads/?digest={config}"), &[], b"{}");
    assert_eq!(sent.status, 201, "{}", sent.text());
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": oci, "artifactType": "application/x.own",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/x.part", "digest": layer, "size": size}],
    })
    .to_string();
    let sent =
        ask(&d, ADDRESS, "PUT", "/v2/tool/manifests/own", &[("Content-Type", oci)], manifest.as_bytes());
    assert_eq!(sent.status, 201, "{}", sent.text());
    // Asked for later than the layer: when these are gone, it had its turn.
    raw(&d, ADDRESS, "tool", "1");
    assert_eq!(blob(&d, "GET", "tool", unused).status, 200);
    drop(hub);
    let swept = || {
        d.docker_with_input(&["import", "-", "gone:1"], &image::own_layer("gone")).ok();
        d.docker(&["rmi", "gone:1"]).ok();
        let left = kept(&d);
        (!left.contains(unused) && !left.contains(&made.digest)).then_some(left)
    };
    let left = eventually("what nobody asks for to go", swept);
    assert!(left.contains(layer) && left.contains(&config), "{left:?}");
    assert_eq!(raw(&d, ADDRESS, "tool", "own"), manifest);
    assert_eq!(digest(&blob(&d, "GET", "tool", layer).body), *layer);
}

#[test]
fn a_tag_of_the_daemon_is_served_without_asking_elsewhere() {
    let d = daemon(json!({}), json!({}));
    let hub = Registry::start(&d, HUB, Setup::default());
    let made = seed(&d, &hub, "made.example/tool:1");
    assert_eq!(raw(&d, ADDRESS, "tool", "1"), made.index);
    d.docker(&["pull", "-q", "tool:1"]).ok();
    assert_eq!(raw(&d, ADDRESS, "tool", "1"), made.index);
    drop(hub);
    // The one there has lost it, and says so to all who ask.
    let elsewhere = Server::start(&d, HUB, |request| {
        Reply::new(if request.path.ends_with("/v2/") { 200 } else { 404 }, "{}")
    });
    for reference in ["1", made.digest.as_str()] {
        assert_eq!(raw(&d, ADDRESS, "tool", reference), made.index, "{reference}");
    }
    let asked: Vec<String> = elsewhere.seen().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, Vec::<String>::new());
    // What is none of the daemon's is asked for there.
    let absent = ask(&d, ADDRESS, "GET", "/v2/tool/manifests/2", &[("Accept", "*/*")], b"");
    assert_ne!(absent.status, 200, "{}", absent.text());
    assert!(elsewhere.seen().iter().any(|request| request.path.contains("/manifests/2")));
}

#[test]
fn policies_see_what_is_fetched_for_others() {
    let key = p256::ecdsa::SigningKey::from_slice(&[1; 32]).unwrap();
    let key = p256::PublicKey::from(*key.verifying_key()).to_public_key_pem(LineEnding::LF).unwrap();
    let rules = json!({
        "policy-cosign": {"enabled": true, "keys": {"registry.example/library/*": [key]}},
        "policy-images": {"enabled": true, "allow-registries": ["registry.example"]},
    });
    let certs = tempfile::tempdir().unwrap();
    let directory = certs.path().join("registry.example");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("hosts.toml"), format!("server = \"http://127.0.0.1:{HUB}\"\n")).unwrap();
    let config = json!({
        "registry-serve": {"address": ADDRESS, "pull-through": true}, "plugins": rules,
        "registry-config-dirs": [certs.path()],
    });
    let d = Daemon::with(Options { config: Some(config.to_string()), ..Options::default() });
    let repository = "registry.example/library/tool";
    let hub = Registry::start(&d, HUB, Setup::default());
    let made = seed(&d, &hub, "made.example/tool:1");
    // The index is a list; each image of it is looked at when it is asked for.
    assert_eq!(raw(&d, ADDRESS, repository, "1"), made.index);
    for member in &made.members {
        let path = format!("/v2/{repository}/manifests/{}", member.manifest);
        let answer = ask(&d, ADDRESS, "GET", &path, &[("Accept", "*/*")], b"");
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains("no trusted key signed"), "{}", answer.text());
        assert_eq!(blob(&d, "GET", repository, &member.layers[0]).status, 404);
    }
    assert_eq!(kept(&d), [made.digest], "nothing of what was refused");
    let answer = ask(&d, ADDRESS, "GET", "/v2/quay.io/org/app/manifests/1", &[], b"");
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("images may not come from"), "{}", answer.text());
}

/// A hub of one image of one platform, whose layer is served by a closure.
fn hub(d: &Daemon, made: &Layout, layer: impl Fn(&[u8]) -> Reply + Send + Sync + 'static) -> Server {
    let mut archive = tar::Archive::new(made.archive.as_slice());
    let mut blobs: Vec<(String, Vec<u8>)> = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry.unwrap(), &mut bytes).unwrap();
        blobs.push((digest(&bytes), bytes));
    }
    let member = made.members[0].clone();
    Server::start(d, HUB, move |request| {
        let path = request.path.split('?').next().unwrap();
        let last = path.rsplit('/').next().unwrap();
        let last = if last == "1" { member.manifest.as_str() } else { last };
        let Some((_, bytes)) = blobs.iter().find(|(digest, _)| digest == last) else {
            return Reply::new(if path.ends_with("/v2/") { 200 } else { 404 }, "{}");
        };
        if last == member.layers[0] && request.method == "GET" {
            return layer(bytes);
        }
        let reply = Reply::new(200, bytes.clone());
        if path.contains("/manifests/") {
            let reply = reply.with("Content-Type", "application/vnd.oci.image.manifest.v1+json");
            return reply.with("Docker-Content-Digest", last);
        }
        reply
    })
}

#[test]
fn a_hostile_upstream_leaves_nothing_and_one_transfer_serves_all() {
    let d = daemon(json!({}), json!({}));
    let made = packed_layout("made.example/one:1", &[here()], false, gzip);
    let wanted = made.members[0].layers[0].clone();
    for (what, bad) in [
        (
            "flipped",
            Box::new(|bytes: &[u8]| {
                let mut bad = bytes.to_vec();
                let at = bad.len() - 1;
                bad[at] ^= 1;
                Reply::new(200, bad)
            }) as Box<dyn Fn(&[u8]) -> Reply + Send + Sync>,
        ),
        (
            "cut",
            Box::new(|bytes: &[u8]| {
                Reply::new(200, "").body(Body::Cut(bytes.len() as u64, bytes[..bytes.len() / 2].to_vec()))
            }),
        ),
        ("absent", Box::new(|_: &[u8]| Reply::new(404, "{}"))),
        ("more", Box::new(|bytes: &[u8]| Reply::new(200, [bytes, bytes].concat()))),
    ] {
        let server = hub(&d, &made, bad);
        raw(&d, ADDRESS, "one", "1");
        let path = format!("docker://{ADDRESS}/one:1");
        let target = format!("dir:{}", d.path(what).display());
        let args = ["copy", "--retry-times", "0", "--src-tls-verify=false", &path, &target];
        assert_ne!(skopeo(&d, &args).code, 0, "{what}");
        assert!(!kept(&d).contains(&wanted), "{what}");
        let uploads = || std::fs::read_dir(d.path("data/registry/uploads")).unwrap().count();
        eventually("half a blob to go", || (uploads() == 0).then_some(()));
        d.docker(&["version"]).ok();
        drop(server);
    }
    // Four at once, and one transfer: the hub answers when it has been asked by one, and waits for the others.
    let (gets, go) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, wait) = (Arc::clone(&gets), Arc::clone(&go));
    let _server = hub(&d, &made, move |bytes| {
        count.fetch_add(1, Ordering::SeqCst);
        eventually("the word to go on", || wait.load(Ordering::SeqCst).then_some(()));
        Reply::new(200, bytes.to_vec())
    });
    let answers: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| blob(&d, "GET", "one", &wanted))).collect();
        eventually("the transfer to begin", || (gets.load(Ordering::SeqCst) > 0).then_some(()));
        go.store(true, Ordering::SeqCst);
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|a| a.status == 200 && digest(&a.body) == wanted));
    assert_eq!(gets.load(Ordering::SeqCst), 1);
}

#[test]
fn killed_in_the_middle_of_a_transfer_nothing_half_is_served() {
    let mut d = daemon(json!({}), json!({}));
    let made = packed_layout("made.example/one:1", &[here()], false, gzip);
    let wanted = made.members[0].layers[0].clone();
    let stuck = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&stuck);
    let _server = hub(&d, &made, move |bytes| {
        if told.load(Ordering::SeqCst) {
            Reply::new(200, "").body(Body::Stuck(bytes.len() as u64, bytes[..bytes.len() / 2].to_vec()))
        } else {
            Reply::new(200, bytes.to_vec())
        }
    });
    raw(&d, ADDRESS, "one", "1");
    // A client gets what has come, before all of it has.
    let path = format!("/v2/one/blobs/{wanted}");
    let part = ask(&d, ADDRESS, "GET", &path, &[("Range", "bytes=0-999")], b"");
    assert_eq!((part.status, part.body.len()), (206, 1000));
    assert!(!kept(&d).contains(&wanted));
    d.crash();
    stuck.store(false, Ordering::SeqCst);
    d.restart();
    assert_eq!(std::fs::read_dir(d.path("data/registry/uploads")).unwrap().count(), 0);
    assert_eq!(digest(&blob(&d, "GET", "one", &wanted).body), wanted);
}

#[test]
fn compressed_layers_that_wharf_packed_are_not_kept_twice() {
    let mut d = daemon(json!({}), json!({}));
    // Large enough for several parts of the packer.
    let mut big = Vec::new();
    let words: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
    image::entry(&mut big, "big", b'0', 0o644, "", &words);
    image::finish(&mut big);
    let layers = [image::busybox_tar(), image::own_layer("own"), big];
    d.docker_with_input(&["load"], &image::docker_archive("x:1", &layers)).ok();
    let name = format!("{ADDRESS}/team/own:1");
    d.docker(&["tag", "x:1", &name]).ok();
    d.docker(&["push", "-q", &name]).ok();
    let text = raw(&d, ADDRESS, "team/own", "1");
    let manifest: Value = serde_json::from_str(&text).unwrap();
    assert!(manifest["layers"][0]["mediaType"].as_str().unwrap().ends_with("gzip"), "{manifest}");
    let blobs = d.path("data/registry/blobs");
    eventually("the layers' files to go", || (bytes_beneath(&blobs) < 10_000).then_some(()));
    // Every byte of it is there nevertheless, over a daemon that dies too; and parts are.
    d.crash();
    d.restart();
    let source = format!("docker://{ADDRESS}/team/own:1");
    let target = format!("dir:{}", d.path("copy").display());
    skopeo(&d, &["copy", "--preserve-digests", "--src-tls-verify=false", &source, &target]).ok();
    let last = manifest["layers"][2]["digest"].as_str().unwrap();
    let whole = blob(&d, "GET", "team/own", last);
    assert_eq!(digest(&whole.body), last);
    let path = format!("/v2/team/own/blobs/{last}");
    let part = ask(&d, ADDRESS, "GET", &path, &[("Range", "bytes=100-299")], b"");
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[100..300]));
    assert_eq!(blob(&d, "GET", "team/other", last).status, 404);
    // What others packed is kept as it is, because nobody could make it again.
    let made = packed_layout("made.example/one:1", &[here()], false, gzip);
    let file = image::save(&d.path("one.tar"), &made.archive);
    let (source, target) = (format!("oci-archive:{file}"), format!("docker://{ADDRESS}/team/one:1"));
    skopeo(&d, &["copy", "--all", "--preserve-digests", "--dest-tls-verify=false", &source, &target]).ok();
    let foreign = &made.members[0].layers[0];
    assert!(kept(&d).contains(foreign));
    d.docker(&["rmi", "-f", "team/own:1", "x:1", &name, "team/one:1"]).ok();
    eventually("all of it to go", || (bytes_beneath(&blobs) == 0).then_some(()));
    assert_eq!(blob(&d, "GET", "team/own", last).status, 404);
}
