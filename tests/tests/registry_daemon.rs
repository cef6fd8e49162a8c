//! The registry that the daemon serves of its own images: nothing is on the disk twice, what goes in and out keeps its
//! digest, and what is pushed is an image.

use serde_json::{Value, json};
use wharf_tests::registry::{HTPASSWD, Registry, Setup, ask, skopeo};
use wharf_tests::{Daemon, Options, bytes_beneath, eventually, image};

const ADDRESS: &str = "127.0.0.1:5000";

fn daemon(more: Value) -> Daemon {
    let mut serve = json!({"address": ADDRESS});
    serve.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config = json!({"registry-serve": serve}).to_string();
    Daemon::with(Options { config: Some(config), ..Options::default() })
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", image::sha256(bytes))
}

/// busybox, and a layer that says hello.
fn two_layers() -> Vec<Vec<u8>> {
    let mut second = Vec::new();
    image::entry(&mut second, "hello.txt", b'0', 0o644, "", b"hello\n");
    image::finish(&mut second);
    vec![image::busybox_tar(), second]
}

#[test]
fn images_go_out_without_a_second_copy() {
    let d = daemon(json!({}));
    d.docker_with_input(&["load"], &image::docker_archive("team/two:1", &two_layers())).ok();
    let before = bytes_beneath(&d.path("data/registry"));
    // Another client verifies every byte of it.
    let copy = format!("oci:{}:x", d.path("copy").display());
    let source = format!("docker://{ADDRESS}/team/two:1");
    skopeo(&d, &["copy", "--src-tls-verify=false", &source, &copy]).ok();
    let seen = skopeo(&d, &["inspect", "--tls-verify=false", &source]).ok();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    let layers: Vec<String> = two_layers().iter().map(|l| digest(l)).collect();
    assert_eq!(seen["Layers"], json!(layers), "as they are made again");
    assert!(bytes_beneath(&d.path("data/registry")) - before < 10_000, "no layer was written");
    let tags = ask(&d, ADDRESS, "GET", "/v2/team/two/tags/list", &[], b"").json();
    assert_eq!(tags, json!({"name": "team/two", "tags": ["1"]}));
    // A stock engine takes it from there too: the daemon itself, under another name.
    let name = format!("{ADDRESS}/team/two:1");
    let pulled = d.docker(&["pull", &name]).ok();
    assert_eq!(pulled.matches(": Already exists").count(), 2, "{pulled}");
    let id = |name: &str| d.docker(&["image", "inspect", "-f", "{{.Id}}", name]).ok();
    assert_eq!(id(&name), id("team/two:1"));
    // Parts of a layer, and nothing of a repository that does not have it.
    let path = format!("/v2/team/two/blobs/{}", layers[1]);
    let part = ask(&d, ADDRESS, "GET", &path, &[("Range", "bytes=512-516")], b"");
    assert_eq!((part.status, part.text().as_str()), (206, "hello"));
    let whole = ask(&d, ADDRESS, "GET", &path, &[], b"");
    assert_eq!(whole.body, two_layers()[1]);
    assert_eq!(ask(&d, ADDRESS, "GET", &path.replace("team/two", "team/other"), &[], b"").status, 404);
    assert_eq!(ask(&d, ADDRESS, "HEAD", &path, &[], b"").status, 200);
    // Its names are the daemon's.
    d.docker(&["rmi", "-f", "team/two:1", &name]).ok();
    assert_eq!(ask(&d, ADDRESS, "GET", "/v2/team/two/manifests/1", &[], b"").status, 404);
    assert_eq!(ask(&d, ADDRESS, "GET", &path, &[], b"").status, 404);
    assert_eq!(ask(&d, ADDRESS, "GET", "/v2/_catalog", &[], b"").json()["repositories"], json!([]));
}

#[test]
fn what_is_pushed_is_an_image_and_keeps_its_digest() {
    let mut d = daemon(json!({}));
    let archive = image::save(&d.path("two.tar"), &image::docker_archive("x:1", &two_layers()));
    let target = format!("docker://{ADDRESS}/team/two:1");
    skopeo(&d, &["copy", "--dest-tls-verify=false", &format!("docker-archive:{archive}"), &target]).ok();
    assert_eq!(d.docker(&["run", "--rm", "team/two:1"]).ok(), "hello");
    let raw = skopeo(&d, &["inspect", "--raw", "--tls-verify=false", &target]).out;
    let names = d.docker(&["image", "inspect", "-f", "{{json .RepoDigests}}", "team/two:1"]).ok();
    assert_eq!(names, json!([format!("team/two@{}", digest(raw.as_bytes()))]).to_string());
    // Layers are the daemon's: an import of the same adds nothing, and it survives the daemon.
    let usage = || d.api("GET", "/v1.44/system/df", "").json()["LayersSize"].as_u64().unwrap();
    let before = usage();
    d.docker_with_input(&["load"], &image::docker_archive("again:1", &two_layers())).ok();
    assert_eq!(usage(), before);
    d.stop();
    d.restart();
    let copy = format!("oci:{}:x", d.path("copy").display());
    skopeo(&d, &["copy", "--src-tls-verify=false", &target, &copy]).ok();
    assert_eq!(skopeo(&d, &["inspect", "--raw", "--tls-verify=false", &target]).out, raw);
    // The docker CLI pushes to it what is in it: nothing is sent.
    let name = format!("{ADDRESS}/third/two:3");
    d.docker(&["tag", "team/two:1", &name]).ok();
    let pushed = d.docker(&["push", &name]).ok();
    assert!(!pushed.contains(": Pushing"), "{pushed}");
    assert_eq!(d.docker(&["run", "--rm", "third/two:3"]).ok(), "hello");
    // A tag is moved here and there.
    d.import_busybox();
    d.docker(&["tag", "busybox", "team/two:1"]).ok();
    let moved = skopeo(&d, &["inspect", "--tls-verify=false", &target]).ok();
    assert_eq!(serde_json::from_str::<Value>(&moved).unwrap()["Layers"].as_array().unwrap().len(), 1);
    // With the images all that belonged to them goes.
    let ids = d.docker(&["images", "-q", "--no-trunc"]).ok();
    let mut ids: Vec<&str> = ids.lines().collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        d.docker(&["rmi", "-f", id]).ok();
    }
    let root = d.path("data/registry");
    eventually("the blobs to go", || (bytes_beneath(&root.join("blobs")) == 0).then_some(()));
    assert_eq!(bytes_beneath(&root.join("repositories")), 0);
}

#[test]
fn deleting_is_removing() {
    let d = daemon(json!({}));
    d.import_busybox();
    d.docker(&["tag", "busybox", "team/bb:1"]).ok();
    let delete = |name: &str| ask(&d, ADDRESS, "DELETE", &format!("/v2/{name}"), &[], b"");
    assert_eq!(delete("team/bb/manifests/1").status, 202);
    assert_eq!(d.docker(&["images", "--format", "{{.Repository}}"]).ok(), "busybox");
    assert_eq!(delete("team/bb/manifests/1").status, 404);
    // Not while something uses it; and by digest, as it is offered.
    d.docker(&["create", "--name", "user", "busybox", "sh"]).ok();
    let refused = delete("busybox/manifests/latest");
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("container"), "{}", refused.text());
    d.docker(&["rm", "user"]).ok();
    let head = ask(&d, ADDRESS, "HEAD", "/v2/busybox/manifests/latest", &[], b"");
    let digest = head.header("docker-content-digest").unwrap().to_owned();
    // Under the long name too.
    assert_eq!(ask(&d, ADDRESS, "HEAD", "/v2/library/busybox/manifests/latest", &[], b"").status, 200);
    assert_eq!(delete(&format!("busybox/manifests/{digest}")).status, 202);
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
}

#[test]
fn what_is_not_there_is_fetched_if_it_shall_be() {
    let config = |through: bool| {
        json!({
            "registry-serve": {"address": ADDRESS, "pull-through": through},
            "registry-mirrors": ["http://127.0.0.1:5005"], "insecure-registries": ["127.0.0.1:5005"],
        })
        .to_string()
    };
    let with = |through: bool| {
        let d = Daemon::with(Options { config: Some(config(through)), ..Options::default() });
        let hub = Registry::start(&d, 5005, Setup::default());
        let archive = image::save(&d.path("two.tar"), &image::docker_archive("x:1", &two_layers()));
        let target = format!("docker://{}/library/tool:1", hub.address);
        skopeo(&d, &["copy", "--dest-tls-verify=false", &format!("docker-archive:{archive}"), &target]).ok();
        (d, hub)
    };
    let (d, hub) = with(true);
    let source = format!("docker://{ADDRESS}/tool:1");
    let copy = |d: &Daemon, to: &str| {
        let copy = format!("oci:{}:x", d.path(to).display());
        skopeo(d, &["copy", "--src-tls-verify=false", &source, &copy])
    };
    copy(&d, "first").ok();
    assert_eq!(d.docker(&["run", "--rm", "tool:1"]).ok(), "hello");
    drop(hub);
    copy(&d, "second").ok();
    assert_eq!(ask(&d, ADDRESS, "GET", "/v2/tool/manifests/2", &[], b"").status / 100, 5, "nobody to ask");
    drop(d);
    let (d, _hub) = with(false);
    assert_eq!(ask(&d, ADDRESS, "GET", "/v2/tool/manifests/1", &[], b"").status, 404);
}

#[test]
fn hostile_pushes_leave_nothing() {
    let d = daemon(json!({}));
    let post = |bytes: &[u8]| {
        let path = format!("/v2/evil/blobs/uploads/?digest={}", digest(bytes));
        assert_eq!(ask(&d, ADDRESS, "POST", &path, &[], bytes).status, 201);
    };
    let mut layer = Vec::new();
    image::entry(&mut layer, "../../escape", b'0', 0o644, "", b"x");
    image::finish(&mut layer);
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let put = |config: &Value, layer: &[u8]| {
        let config = config.to_string().into_bytes();
        post(&config);
        post(layer);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer), "size": layer.len()}]});
        let manifest = manifest.to_string().into_bytes();
        ask(&d, ADDRESS, "PUT", "/v2/evil/manifests/1", &[("Content-Type", MANIFEST)], &manifest)
    };
    let config = |diff_id: &str, os: &str| json!({"architecture": "amd64", "os": os, "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let fine = two_layers().remove(1);
    for (what, config, layer) in [
        ("a path out", config(&digest(&layer), "linux"), layer.as_slice()),
        ("another hash", config(&digest(b"other"), "linux"), &fine),
        ("no hash", json!({"os": "linux", "rootfs": {}}), &fine),
        ("junk", config(&digest(b"junk junk"), "linux"), b"junk junk"),
    ] {
        let answer = put(&config, layer);
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        assert_eq!(answer.json()["errors"][0]["code"], "MANIFEST_INVALID", "{what}");
        assert_eq!(d.docker(&["images", "-aq"]).ok(), "", "{what}");
        assert_eq!(ask(&d, ADDRESS, "GET", "/v2/evil/manifests/1", &[], b"").status, 404, "{what}");
    }
    // What is for another system is kept for it, and is no image here.
    assert_eq!(put(&config(&digest(&fine), "windows"), &fine).status, 201);
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
    assert_eq!(ask(&d, ADDRESS, "GET", "/v2/evil/manifests/1", &[], b"").status, 200);
}

#[test]
fn passwords_of_the_daemons_registry() {
    let dir = tempfile::tempdir().unwrap();
    let users = image::save(&dir.path().join("users"), HTPASSWD.as_bytes());
    // A wrong setting is told before anything starts.
    let d = Daemon::start();
    let check = |serve: Value| {
        let config =
            image::save(&d.path("serve.json"), json!({"registry-serve": serve}).to_string().as_bytes());
        let mut command = d.in_namespace(wharf_tests::bin_dir().join("wharf"));
        command
            .args(["daemon", "--config-file", &config, "--host"])
            .arg(format!("unix://{}", d.path("no.sock").display()));
        for (flag, name) in [("--data-root", "no-data"), ("--exec-root", "no-exec"), ("--pidfile", "no.pid")]
        {
            command.arg(flag).arg(d.path(name));
        }
        d.run_with_input(command, b"")
    };
    check(json!({"address": "0.0.0.0:5000"})).fails(1, "there is no password");
    check(json!({"address": "nonsense"})).fails(1, "is not IP:PORT");
    check(json!({"address": ADDRESS, "anonymous-read": true})).fails(1, "needs htpasswd");
    check(json!({"address": ADDRESS, "colour": 1})).fails(125, "unknown field `colour`");
    drop(d);
    let d = daemon(json!({"htpasswd": users, "max-upload": "100k"}));
    d.import_busybox();
    let source = format!("docker://{ADDRESS}/busybox:latest");
    assert_ne!(skopeo(&d, &["inspect", "--tls-verify=false", &source]).code, 0);
    skopeo(&d, &["inspect", "--tls-verify=false", "--creds", "me:secret", &source]).ok();
    let name = format!("{ADDRESS}/busybox:2");
    d.docker(&["tag", "busybox", &name]).ok();
    d.docker(&["push", &name]).fails(1, "no basic auth credentials");
}
