//! `wharf registry serve` against the rules of the distribution specification, with stock clients.

use serde_json::{Value, json};
use wharf_tests::platforms::digest;
use wharf_tests::registry::{HTPASSWD, ask, certificate, skopeo};
use wharf_tests::serve::Serve;
use wharf_tests::{Daemon, Options, eventually, http, image};

#[test]
fn stock_clients_push_and_pull() {
    let d = Daemon::start();
    let mut serve = Serve::with(&d, 5000, &[]);
    d.import_busybox();
    let name = format!("{}/team/bb:1", serve.address);
    d.docker(&["tag", "busybox", &name]).ok();
    let pushed = d.docker(&["push", &name]).ok();
    assert!(pushed.contains(": Pushed"), "{pushed}");
    let other = format!("{}/other/bb:1", serve.address);
    d.docker(&["tag", "busybox", &other]).ok();
    assert!(d.docker(&["push", &other]).ok().contains("Mounted from team/bb"));
    // It survives its own end, whole.
    serve.stop();
    let serve = Serve::with(&d, 5000, &[]);
    d.docker(&["rmi", "-f", "busybox", &name, &other]).ok();
    d.docker(&["pull", &name]).ok();
    assert_eq!(d.docker(&["run", "--rm", &name, "echo", "ran"]).ok(), "ran");
    let mut skopeo = d.in_namespace("skopeo");
    skopeo.args(["list-tags", "--tls-verify=false", &format!("docker://{}/team/bb", serve.address)]);
    let tags: Value = serde_json::from_str(&d.run_with_input(skopeo, b"").ok()).unwrap();
    assert_eq!(tags["Tags"], json!(["1"]));
    // A second one, which has only what was asked of it, and goes on when the first is gone.
    let cache = Serve::with(&d, 5001, &["--upstream", &serve.address]);
    let cached = format!("{}/team/bb:1", cache.address);
    d.docker(&["rmi", "-f", &name]).ok();
    d.docker(&["pull", &cached]).ok();
    drop(serve);
    d.docker(&["rmi", "-f", &cached]).ok();
    d.docker(&["pull", &cached]).ok();
    assert_eq!(d.docker(&["run", "--rm", &cached, "echo", "cached"]).ok(), "cached");
}

#[test]
fn rules_of_the_specification() {
    let d = Daemon::start();
    let serve = Serve::with(&d, 5000, &[]);
    rules(&d, &serve.address);
}

#[test]
fn rules_of_the_specification_beside_an_engine() {
    let config = json!({"registry-serve": {"address": "127.0.0.1:5000"}}).to_string();
    let d = Daemon::with(Options { config: Some(config), ..Options::default() });
    rules(&d, "127.0.0.1:5000");
}

fn rules(d: &Daemon, address: &str) {
    let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        ask(d, address, method, path, headers, body)
    };
    assert_eq!(ask("GET", "/v2/", &[], b"").status, 200);
    let code = |r: &http::Response| r.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned();

    // Uploads: at once, in chunks, out of order, with a wrong hash, given up.
    let blob = b"some content".to_vec();
    let whole = ask("POST", &format!("/v2/a/b/blobs/uploads/?digest={}", digest(&blob)), &[], &blob);
    assert_eq!(whole.status, 201);
    assert_eq!(whole.header("docker-content-digest"), Some(digest(&blob).as_str()));
    let begun = ask("POST", "/v2/a/b/blobs/uploads/", &[], b"");
    assert_eq!(begun.status, 202);
    let location = begun.header("location").unwrap().to_owned();
    let first = ask("PATCH", &location, &[("Content-Range", "0-4")], b"01234");
    assert_eq!((first.status, first.header("range")), (202, Some("0-4")));
    assert_eq!(ask("PATCH", &location, &[("Content-Range", "9-10")], b"xx").status, 416);
    assert_eq!(ask("GET", &location, &[], b"").header("range"), Some("0-4"));
    assert_eq!(ask("PATCH", &location, &[("Content-Range", "5-9")], b"56789").status, 202);
    let wrong = ask("PUT", &format!("{location}?digest={}", digest(b"other")), &[], b"");
    assert_eq!((wrong.status, code(&wrong)), (400, "DIGEST_INVALID".into()));
    assert_eq!(ask("GET", &location, &[], b"").status, 404);
    let begun = ask("POST", "/v2/a/b/blobs/uploads/", &[], b"");
    let location = begun.header("location").unwrap().to_owned();
    assert_eq!(ask("PATCH", &location, &[], b"0123456789").status, 202);
    let end = ask("PUT", &format!("{location}?digest={}", digest(b"0123456789ab")), &[], b"ab");
    assert_eq!(end.status, 201);
    let begun = ask("POST", "/v2/a/b/blobs/uploads/", &[], b"");
    assert_eq!(ask("DELETE", begun.header("location").unwrap(), &[], b"").status, 204);

    // Reading: whole, parts, what is not there, what is elsewhere.
    let path = format!("/v2/a/b/blobs/{}", digest(b"0123456789ab"));
    assert_eq!(ask("GET", &path, &[], b"").text(), "0123456789ab");
    let part = ask("GET", &path, &[("Range", "bytes=3-5")], b"");
    assert_eq!(
        (part.status, part.text().as_str(), part.header("content-range")),
        (206, "345", Some("bytes 3-5/12"))
    );
    assert_eq!(ask("GET", &path, &[("Range", "bytes=12-")], b"").status, 416);
    assert_eq!(ask("HEAD", &path, &[], b"").header("content-length"), Some("12"));
    assert_eq!(ask("GET", &path.replace("/a/b/", "/c/d/"), &[], b"").status, 404);
    let mounted =
        ask("POST", &format!("/v2/c/d/blobs/uploads/?mount={}&from=a/b", digest(b"0123456789ab")), &[], b"");
    assert_eq!(mounted.status, 201);
    assert_eq!(ask("GET", &path.replace("/a/b/", "/c/d/"), &[], b"").status, 200);
    let nowhere =
        ask("POST", &format!("/v2/c/d/blobs/uploads/?mount={}&from=a/b", digest(b"nothing")), &[], b"");
    assert_eq!(nowhere.status, 202);

    // Manifests: only with all their parts; by tag and by digest; about each other.
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    let kind = [("Content-Type", OCI)];
    let config = b"{}".to_vec();
    let manifest = |subject: Option<&str>, kind: &str| {
        let mut value = json!({"schemaVersion": 2, "mediaType": OCI, "artifactType": kind,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(&config), "size": 2},
            "layers": [{"mediaType": "application/octet-stream", "digest": digest(&blob), "size": blob.len()}]});
        if let Some(subject) = subject {
            value["subject"] = json!({"mediaType": OCI, "digest": subject, "size": 1});
        }
        value.to_string().into_bytes()
    };
    let one = manifest(None, "");
    let lacking = ask("PUT", "/v2/a/b/manifests/v1", &kind, &one);
    assert_eq!((lacking.status, code(&lacking)), (404, "MANIFEST_BLOB_UNKNOWN".into()));
    assert_eq!(
        ask("POST", &format!("/v2/a/b/blobs/uploads/?digest={}", digest(&config)), &[], &config).status,
        201
    );
    for tag in ["v1", "v2", "v3"] {
        let put = ask("PUT", &format!("/v2/a/b/manifests/{tag}"), &kind, &one);
        assert_eq!((put.status, put.header("docker-content-digest")), (201, Some(digest(&one).as_str())));
    }
    assert_eq!(ask("PUT", &format!("/v2/a/b/manifests/{}", digest(b"x")), &kind, &one).status, 400);
    assert_eq!(ask("PUT", "/v2/a/b/manifests/v9", &kind, b"{").status, 400);
    assert_eq!(ask("PUT", "/v2/a/b/manifests/v9", &kind, &vec![b' '; 5 << 20]).status, 413);
    let got = ask("GET", "/v2/a/b/manifests/v1", &[], b"");
    assert_eq!((got.header("content-type"), got.text().into_bytes()), (Some(OCI), one.clone()));
    let head = ask("HEAD", &format!("/v2/a/b/manifests/{}", digest(&one)), &[], b"");
    assert_eq!(head.header("content-length"), Some(one.len().to_string().as_str()));
    let about = manifest(Some(&digest(&one)), "application/signature");
    let put = ask("PUT", &format!("/v2/a/b/manifests/{}", digest(&about)), &kind, &about);
    assert_eq!((put.status, put.header("oci-subject")), (201, Some(digest(&one).as_str())));
    let referrers = format!("/v2/a/b/referrers/{}", digest(&one));
    let found = ask("GET", &referrers, &[], b"").json();
    assert_eq!(found["manifests"][0]["digest"], digest(&about));
    assert_eq!(found["manifests"][0]["artifactType"], "application/signature");
    let filtered = ask("GET", &format!("{referrers}?artifactType=other"), &[], b"");
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.json()["manifests"], json!([]));
    assert_eq!(
        ask("GET", &format!("/v2/a/b/referrers/{}", digest(b"unknown")), &[], b"").json()["manifests"],
        json!([])
    );

    // Lists in pages, deleting, and names that are none.
    assert_eq!(
        ask("GET", "/v2/a/b/tags/list", &[], b"").json(),
        json!({"name": "a/b", "tags": ["v1", "v2", "v3"]})
    );
    let page = ask("GET", "/v2/a/b/tags/list?n=2", &[], b"");
    assert_eq!(page.json()["tags"], json!(["v1", "v2"]));
    assert!(page.header("link").unwrap().contains("last=v2"), "{:?}", page.header("link"));
    assert_eq!(ask("GET", "/v2/a/b/tags/list?n=2&last=v2", &[], b"").json()["tags"], json!(["v3"]));
    assert_eq!(ask("GET", "/v2/_catalog", &[], b"").json()["repositories"], json!(["a/b", "c/d"]));
    assert_eq!(ask("GET", "/v2/no/such/tags/list", &[], b"").status, 404);
    assert_eq!(ask("DELETE", "/v2/a/b/manifests/v3", &[], b"").status, 202);
    assert_eq!(ask("GET", "/v2/a/b/manifests/v3", &[], b"").status, 404);
    assert_eq!(ask("DELETE", &format!("/v2/a/b/manifests/{}", digest(&one)), &[], b"").status, 202);
    assert_eq!(ask("GET", "/v2/a/b/manifests/v1", &[], b"").status, 404);
    assert_eq!(ask("GET", "/v2/a/b/tags/list", &[], b"").json()["tags"], json!([]));
    assert_eq!(ask("DELETE", &path, &[], b"").status, 202);
    assert_eq!(ask("GET", &path, &[], b"").status, 404);
    for bad in [
        "/v2/../etc/manifests/x",
        "/v2/A/manifests/x",
        "/v2/a%2f..%2fb/manifests/x",
        "/v2/_x/manifests/x",
        "/v2/a/b/manifests/..",
        "/v2/a/b/blobs/sha256:short",
        "/v2/a/b/blobs/../../x",
    ] {
        let status = ask("GET", bad, &[], b"").status;
        assert!((400..=404).contains(&status), "{bad}: {status}");
    }
}

#[test]
fn passwords_over_tls() {
    let certs = tempfile::tempdir().unwrap();
    certificate(certs.path());
    let users = image::save(&certs.path().join("users"), HTPASSWD.as_bytes());
    let config = json!({"registry-config-dirs": [certs.path().join("d")]}).to_string();
    let d = Daemon::with(Options { config: Some(config), ..Options::default() });
    let (cert, key) = (certs.path().join("server.crt"), certs.path().join("server.key"));
    let tls =
        ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap(), "--htpasswd", &users];
    let serve = Serve::with(&d, 5000, &tls);
    for name in [&serve.address, "127.0.0.1:5001"] {
        let directory = certs.path().join("d").join(name);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::copy(certs.path().join("ca.crt"), directory.join("ca.crt")).unwrap();
    }
    d.import_busybox();
    let name = format!("{}/team/bb:1", serve.address);
    d.docker(&["tag", "busybox", &name]).ok();
    d.docker(&["push", &name]).fails(1, "no basic auth credentials");
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &serve.address], b"wrong")
        .fails(1, "unauthorized: authentication required");
    let login = d.docker_with_input(&["login", "-u", "me", "--password-stdin", &serve.address], b"secret");
    assert!(login.ok().contains("Login Succeeded"), "{login:?}");
    d.docker(&["push", &name]).ok();
    d.docker(&["logout", &serve.address]).ok();
    d.docker(&["pull", &name]).fails(1, "no basic auth credentials");

    // Everybody reads, and only who has a password writes: through tokens.
    let open = Serve::with(&d, 5001, &[&tls[..], &["--anonymous-read"]].concat());
    let theirs = format!("{}/team/bb:1", open.address);
    let source = format!("docker://{theirs}");
    d.docker(&["tag", "busybox", &theirs]).ok();
    d.docker(&["push", &theirs]).fails(1, "denied");
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &open.address], b"wrong")
        .fails(1, "unauthorized");
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &open.address], b"secret").ok();
    d.docker(&["push", &theirs]).ok();
    // A mount asks for a token that also reads the other repository.
    let other = format!("{}/other/bb:1", open.address);
    d.docker(&["tag", "busybox", &other]).ok();
    assert!(d.docker(&["push", &other]).ok().contains("Mounted from team/bb"));
    d.docker(&["logout", &open.address]).ok();
    d.docker(&["rmi", "-f", &theirs, &other]).ok();
    d.docker(&["pull", &theirs]).ok();
    assert_eq!(d.docker(&["run", "--rm", &theirs, "echo", "read"]).ok(), "read");
    let ca = certs.path().join("d").join(&open.address);
    let ca = ca.to_str().unwrap();
    skopeo(&d, &["inspect", "--cert-dir", ca, &source]).ok();
    let copy = ["copy", "--src-cert-dir", ca, "--dest-cert-dir", ca, &source];
    let target = format!("docker://{}/copy/bb:1", open.address);
    assert_ne!(skopeo(&d, &[&copy[..], &[&target]].concat()).code, 0);
    skopeo(&d, &[&copy[..], &["--dest-creds", "me:secret", &target]].concat()).ok();
    // Out of reach of others without a password only if somebody says so; a user file has to be one.
    let wharf = |args: &[&str]| {
        let mut command = d.in_namespace(wharf_tests::bin_dir().join("wharf"));
        command.args(["registry", "serve", "--root"]).arg(d.path("none")).args(args);
        d.run_with_input(command, b"")
    };
    wharf(&["--address", "0.0.0.0:5009"]).fails(125, "there is no password");
    wharf(&["--address", "127.0.0.1:5009", "--tls-cert", cert.to_str().unwrap()]).fails(125, "go together");
    wharf(&["--address", "127.0.0.1:5009", "--htpasswd", cert.to_str().unwrap()]).fails(1, "htpasswd -B");
}

#[test]
fn uploads_are_no_larger_than_allowed() {
    let d = Daemon::start();
    let serve = Serve::with(&d, 5000, &["--max-upload", "100000"]);
    d.import_busybox();
    let name = format!("{}/team/bb:1", serve.address);
    d.docker(&["tag", "busybox", &name]).ok();
    d.docker(&["push", &name]).fails(1, "larger than the 100000 bytes");
    let ask = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        ask(&d, &serve.address, method, path, headers, body)
    };
    let large = vec![0; 60_000];
    let location = ask("POST", "/v2/a/blobs/uploads/", &[], b"").header("location").unwrap().to_owned();
    assert_eq!(ask("PATCH", &location, &[], &large).status, 202);
    assert_eq!(ask("PATCH", &location, &[], &large).status, 413);
    assert_eq!(ask("GET", &location, &[], b"").status, 404, "it is given up");
    let root = d.path("serve-5000");
    let left = |dir: &str| std::fs::read_dir(root.join(dir)).unwrap().count();
    eventually("uploads to go", || (left("uploads") == 0).then_some(()));
    let small = b"small".to_vec();
    assert_eq!(
        ask("POST", &format!("/v2/a/blobs/uploads/?digest={}", digest(&small)), &[], &small).status,
        201
    );
}
