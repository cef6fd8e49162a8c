//! The bundled policy for images, at every point where images come, go and end: the docker CLI shows the reason, and
//! nothing has changed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};
use wharf_tests::registry::{Registry, Setup, ask};
use wharf_tests::{Daemon, Options, image};

fn with(rules: Value) -> Daemon {
    with_policy("policy-images", rules)
}

fn with_policy(name: &str, mut rules: Value) -> Daemon {
    rules["enabled"] = true.into();
    let config = json!({"plugins": {name: rules}}).to_string();
    Daemon::with(Options { config: Some(config), ..Options::default() })
}

fn seed(d: &Daemon, registry: &Registry, name: &str) -> String {
    let mut layer = Vec::new();
    image::entry(&mut layer, "hello.txt", b'0', 0o644, "", name.as_bytes());
    image::finish(&mut layer);
    let archive = image::save(&d.path("seed.tar"), &image::docker_archive("seed:1", &[layer]));
    let target = format!("docker://{}/{name}", registry.address);
    registry
        .skopeo(d, &["copy", "--dest-tls-verify=false", &format!("docker-archive:{archive}"), &target])
        .ok();
    format!("{}/{name}", registry.address)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", image::sha256(bytes))
}

fn images(d: &Daemon) -> String {
    // Without how long ago: that changes by itself.
    let format = "{{.Repository}}:{{.Tag}} {{.Digest}} {{.ID}}";
    let list = d.docker(&["images", "-a", "--digests", "--no-trunc", "--format", format]).ok();
    // The CLI shows the names of one image in any order.
    let mut lines: Vec<&str> = list.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Digest of the manifest under the tag 1.
fn subject(d: &Daemon, registry: &Registry, repository: &str) -> String {
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
    let path = format!("/v2/{repository}/manifests/1");
    let head = ask(d, &registry.address, "HEAD", &path, &[("Accept", DOCKER)], b"");
    head.header("docker-content-digest").unwrap().to_owned()
}

/// As cosign does it: a manifest beside the image, under a tag made of its digest.
fn attach_signature(
    d: &Daemon,
    registry: &Registry,
    repository: &str,
    subject: &str,
    content: &[u8],
    layer: &Value,
) {
    let ask = |method: &str, path: &str, kind: &str, body: &[u8]| {
        ask(d, &registry.address, method, path, &[("Content-Type", kind), ("Accept", kind)], body)
    };
    for blob in [b"{}".as_slice(), content] {
        let begun = ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        let location = begun.header("location").unwrap();
        let path = location.split_once("/v2/").map(|(_, rest)| format!("/v2/{rest}")).unwrap();
        let to = format!("{path}{}digest={}", if path.contains('?') { "&" } else { "?" }, digest(blob));
        assert_eq!(ask("PUT", &to, "application/octet-stream", blob).status, 201);
    }
    let signature = json!({"schemaVersion": 2, "mediaType": OCI,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2},
        "layers": [layer]})
    .to_string();
    let tag = format!("/v2/{repository}/manifests/{}.sig", subject.replace(':', "-"));
    assert_eq!(ask("PUT", &tag, OCI, signature.as_bytes()).status, 201);
}

/// Signs an image's digest with a key, as `cosign sign --key` does.
fn sign(d: &Daemon, registry: &Registry, repository: &str, subject: &str, signed: &str, key: &SigningKey) {
    let payload = json!({"critical": {"identity": {"docker-reference": format!("{}/{repository}", registry.address)},
        "image": {"docker-manifest-digest": signed}, "type": "cosign container image signature"}, "optional": null})
    .to_string();
    let signature: Signature = key.sign(payload.as_bytes());
    let layer = json!({"mediaType": SIMPLE, "digest": digest(payload.as_bytes()), "size": payload.len(),
        "annotations": {"dev.cosignproject.cosign/signature": STANDARD.encode(signature.to_der())}});
    attach_signature(d, registry, repository, subject, payload.as_bytes(), &layer);
}

#[test]
fn only_what_a_trusted_key_signed_is_admitted() {
    let [ours, strange] = [1, 2].map(|seed| SigningKey::from_slice(&[seed; 32]).unwrap());
    let pem = p256::PublicKey::from(*ours.verifying_key()).to_public_key_pem(LineEnding::LF).unwrap();
    let d = with_policy("policy-cosign", json!({"keys": {"127.0.0.1:5000/prod/*": [pem]}}));
    let registry = Registry::start(&d, 5000, Setup::default());
    let names = ["prod/app", "prod/other"].map(|name| (name, seed(&d, &registry, &format!("{name}:1"))));
    let [app, other] = names.each_ref().map(|(name, _)| subject(&d, &registry, name));
    assert_ne!(app, other);
    let before = images(&d);
    let refused = |why: &str| {
        let text = format!("denied by policy wharf/policy-cosign: no trusted key signed {}", names[0].1);
        let answer = d.docker(&["pull", &names[0].1]);
        answer.fails(1, &text);
        answer.fails(1, "cosign sign --key");
        assert_eq!(images(&d), before, "{why}");
    };
    refused("not signed");
    sign(&d, &registry, "prod/app", &app, &app, &strange);
    refused("signed by a stranger");
    sign(&d, &registry, "prod/app", &app, &other, &ours);
    refused("our signature of something else");
    // Whatever the registry says the payload is: its digest has to fit.
    sign(&d, &registry, "prod/app", &app, &app, &ours);
    d.docker(&["pull", &names[0].1]).ok();
    let unsigned = d.docker(&["pull", &names[1].1]);
    unsigned.fails(1, "no trusted key signed");
    // Where the policy has nothing to say.
    d.docker(&["pull", &seed(&d, &registry, "test/app:1")]).ok();
}

#[test]
fn only_signed_images_are_admitted() {
    let d = with(json!({"require-signature": ["127.0.0.1:5000/prod"]}));
    let registry = Registry::start(&d, 5000, Setup::default());
    let name = seed(&d, &registry, "prod/app:1");
    let before = (images(&d), d.api("GET", "/v1.44/system/df", "").text());
    let refused = d.docker(&["pull", &name]);
    refused.fails(1, &format!("denied by policy wharf/policy-images: no signature refers to {name}"));
    refused.fails(1, "sign the image where it is");
    assert_eq!((images(&d), d.api("GET", "/v1.44/system/df", "").text()), before);
    // `run` pulls too.
    d.docker(&["run", "--rm", &name, "x"]).fails(125, "no signature refers to");
    // What needs none comes.
    let other = seed(&d, &registry, "test/app:1");
    d.docker(&["pull", &other]).ok();

    // As cosign does it: a manifest beside the image, under a tag made of its digest.
    let layer = json!({"mediaType": SIMPLE, "digest": digest(b"a signature"), "size": 11});
    attach_signature(&d, &registry, "prod/app", &subject(&d, &registry, "prod/app"), b"a signature", &layer);
    d.docker(&["pull", &name]).ok();
}

#[test]
fn a_referrer_is_a_signature_too() {
    let d = with(
        json!({"require-signature": ["127.0.0.1:5000/*"], "signature-types": ["application/signature"]}),
    );
    // A registry that knows referrers: Wharf's own, whose images are this daemon's no more than another's.
    let log = std::fs::File::create(d.path("serve.log")).unwrap();
    let mut serve = d
        .in_namespace(wharf_tests::bin_dir().join("wharf"))
        .args(["registry", "serve", "--address", "127.0.0.1:5000", "--root"])
        .arg(d.path("serve"))
        .stderr(log)
        .spawn()
        .unwrap();
    wharf_tests::eventually("the registry", || {
        wharf_tests::registry::connect(&d, "127.0.0.1:5000".parse().unwrap()).ok()
    });
    let work = || {
        let mut layer = Vec::new();
        image::entry(&mut layer, "hello.txt", b'0', 0o644, "", b"hello");
        image::finish(&mut layer);
        d.docker_with_input(&["load"], &image::docker_archive("127.0.0.1:5000/app:1", &[layer])).ok();
        d.docker(&["push", "127.0.0.1:5000/app:1"]).ok();
        d.docker(&["rmi", "127.0.0.1:5000/app:1"]).ok();
        d.docker(&["pull", "127.0.0.1:5000/app:1"]).fails(1, "no signature refers to");
        let ask = |method: &str, path: &str, body: &[u8]| {
            ask(&d, "127.0.0.1:5000", method, path, &[("Content-Type", OCI)], body)
        };
        let head = ask("HEAD", "/v2/app/manifests/1", b"");
        let subject = head.header("docker-content-digest").unwrap().to_owned();
        assert_eq!(
            ask("POST", &format!("/v2/app/blobs/uploads/?digest={}", digest(b"{}")), b"{}").status,
            201
        );
        let referrer = |kind: &str| {
            let text = json!({"schemaVersion": 2, "mediaType": OCI, "artifactType": kind,
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2},
                "layers": [], "subject": {"mediaType": OCI, "digest": subject, "size": 1}})
            .to_string();
            let path = format!("/v2/app/manifests/{}", digest(text.as_bytes()));
            assert_eq!(ask("PUT", &path, text.as_bytes()).status, 201);
        };
        referrer("application/spdx+json");
        d.docker(&["pull", "127.0.0.1:5000/app:1"]).fails(1, "no signature refers to");
        referrer("application/signature");
        d.docker(&["pull", "127.0.0.1:5000/app:1"]).ok();
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    let _ = serve.kill();
    let _ = serve.wait();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn where_images_may_come_from_and_go_to_and_which_stay() {
    let d = with(json!({
        "allow-registries": ["127.0.0.1:5000"], "deny-push": ["127.0.0.1:5000/public"], "keep-label": "keep",
    }));
    let registry = Registry::start(&d, 5000, Setup::default());
    let name = seed(&d, &registry, "team/app:1");
    d.docker(&["pull", &name]).ok();
    // Refused before anybody is asked.
    d.docker(&["pull", "127.0.0.1:5999/app:1"]).fails(
        1,
        "denied by policy wharf/policy-images: images may not come from where 127.0.0.1:5999/app:1 is",
    );
    let public = name.replace("team", "public");
    d.docker(&["tag", &name, &public]).ok();
    d.docker(&["push", &public]).fails(1, &format!("{public} is where images may not be pushed to"));
    let catalog = ask(&d, &registry.address, "GET", "/v2/_catalog", &[], b"").json();
    assert_eq!(catalog["repositories"], json!(["team/app"]), "nothing of it arrived");
    d.docker(&["push", &name]).ok();
    // One that has to stay, by name, by id, by force.
    let tar = image::busybox_tar();
    let id = d.docker_with_input(&["import", "-c", "LABEL keep=1", "-", "kept:1"], &tar).ok();
    let before = images(&d);
    for args in [["rmi", "kept:1"].as_slice(), &["rmi", "-f", "kept:1"], &["rmi", "-f", &id]] {
        d.docker(args).fails(1, "has the label \"keep\" and may not be removed");
        assert_eq!(images(&d), before, "{args:?}");
    }
    let answer = d.api("DELETE", "/v1.44/images/kept:1", "");
    assert_eq!(answer.status, 403, "{}", answer.text());
    // Nor is it pruned.
    d.docker(&["image", "prune", "-af"]).ok();
    assert!(images(&d).contains(&id), "{}", images(&d));
    d.docker(&["rmi", &name]);
    assert!(!images(&d).contains("team/app"));
}

#[test]
fn one_platform_that_a_policy_refuses_refuses_all_of_them() {
    let key = SigningKey::from_slice(&[1; 32]).unwrap();
    let pem = p256::PublicKey::from(*key.verifying_key()).to_public_key_pem(LineEnding::LF).unwrap();
    let d = with_policy("policy-cosign", json!({"keys": {"127.0.0.1:5000/prod/*": [pem]}}));
    let registry = Registry::start(&d, 5000, Setup::default());
    let platforms = ["linux/s390x", "linux/amd64", "linux/arm64"];
    let made = wharf_tests::platforms::layout("made.example/app:1", &platforms, true);
    wharf_tests::platforms::publish(&d, &registry, "prod/app:1", &made);
    let name = format!("{}/prod/app:1", registry.address);
    let sign = |member: &wharf_tests::platforms::Member| {
        sign(&d, &registry, "prod/app", &member.manifest, &member.manifest, &key);
    };
    sign(&made.members[0]);
    sign(&made.members[2]);
    let before = images(&d);
    let pull = |platform: &str| d.docker(&["pull", "--platform", platform, &name]);
    pull("all").fails(1, "denied by policy wharf/policy-cosign: no trusted key signed");
    assert_eq!(images(&d), before, "not even what is signed");
    wharf_tests::fsck::whole(&d, "after a pull that a policy refused");
    pull("linux/amd64").fails(1, "no trusted key signed");
    pull("linux/s390x").ok();
    // What is here already does not let the other one in.
    pull("all").fails(1, "no trusted key signed");
    let here = || {
        let image = d.api("GET", &format!("/v1.55/images/{name}/json?manifests=1"), "").json();
        let all = image["Manifests"].as_array().unwrap().iter();
        all.filter(|m| m["Available"] == true && m["Kind"] == "image").count()
    };
    assert_eq!(here(), 1);
    sign(&made.members[1]);
    pull("all").ok();
    assert_eq!(here(), 3);
}
