//! An image of no index keeps the digest that registries know it by over `save` and `load`.

use serde_json::{Value, json};
use wharf_tests::platforms::{self, Layout, digest, gzip, here, packed_layout, publish, raw};
use wharf_tests::registry::{Registry, Setup, ask, skopeo};
use wharf_tests::server::{Reply, Server};
use wharf_tests::{Daemon, fsck, http, image};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Puts an image of one platform into a registry under its manifest alone, without an index.
fn publish_plain(d: &Daemon, registry: &Registry, repository: &str, made: &Layout) {
    publish(d, registry, &format!("{repository}:index"), made);
    let text = raw(d, &registry.address, repository, &made.members[0].manifest);
    let path = format!("/v2/{repository}/manifests/1");
    let put = ask(d, &registry.address, "PUT", &path, &[("Content-Type", MANIFEST)], text.as_bytes());
    assert_eq!(put.status, 201, "{}", put.text());
}

fn digests(d: &Daemon, name: &str) -> Vec<String> {
    let text = d.docker(&["image", "inspect", "-f", "{{json .RepoDigests}}", name]).ok();
    serde_json::from_str(&text).unwrap()
}

fn descriptor(d: &Daemon, name: &str) -> String {
    let answer = d.api("GET", &format!("/v1.55/images/{name}/json"), "").json();
    answer["Descriptor"]["digest"].as_str().unwrap().to_owned()
}

fn save(d: &Daemon, names: &[&str], to: &str) -> String {
    let file = d.path(to).display().to_string();
    d.docker(&[&["save", "-o", &file], names].concat()).ok();
    file
}

#[test]
fn an_image_keeps_the_digest_that_its_registry_knows_it_by() {
    let d = Daemon::start();
    let a = Registry::start(&d, 5000, Setup::default());
    let made = packed_layout("made.example/one:1", &[here()], false, gzip);
    publish_plain(&d, &a, "team/one", &made);
    let (member, name) = (&made.members[0], format!("{}/team/one:1", a.address));
    d.docker(&["pull", "-q", &name]).ok();
    let by_digest = format!("{}/team/one@{}", a.address, member.manifest);
    assert_eq!(digests(&d, &name), [by_digest.as_str()]);
    d.docker(&["tag", &name, "other:1"]).ok();
    d.import_busybox();
    let file = save(&d, &[&name, "other:1", "busybox"], "one.tar");

    // Another host, that has never heard of the registry.
    let e = Daemon::start();
    let loaded = e.docker(&["load", "-i", &file]).ok();
    for name in [name.as_str(), "other:1", "busybox:latest"] {
        assert!(loaded.contains(&format!("Loaded image: {name}")), "{loaded}");
    }
    let mut shown = digests(&e, &name);
    shown.sort();
    let mut wanted = vec![by_digest.clone(), format!("other@{}", member.manifest)];
    wanted.sort();
    assert_eq!(shown, wanted);
    assert_eq!(descriptor(&e, &name), member.manifest);
    assert_eq!(digests(&e, "busybox"), Vec::<String>::new(), "what no registry has has no digest");
    assert_eq!(e.docker(&["run", "--rm", &by_digest]).ok(), format!("{} of made.example/one:1", here()));
    // From there it goes on.
    let again = save(&e, &[&name], "again.tar");
    e.docker(&["rmi", &name, "other:1"]).ok();
    fsck::whole(&e, "after rmi");
    e.docker(&["load", "-q", "-i", &again]).ok();
    assert_eq!(digests(&e, &name), [by_digest.as_str()]);

    // To other programs it is the image as ever, in both formats that the archive is in.
    for source in [format!("docker-archive:{file}:{name}"), format!("oci-archive:{file}:1")] {
        let target = format!("dir:{}", d.path("seen").display());
        skopeo(&d, &["copy", &source, &target]).ok();
        let seen: Value =
            serde_json::from_slice(&std::fs::read(d.path("seen/manifest.json")).unwrap()).unwrap();
        assert_eq!(seen["config"]["digest"], member.config, "{source}");
    }
    // The registry is asked whether the tag moved, and nothing is fetched.
    d.docker(&["rmi", "-f", &name, "other:1"]).ok();
    d.docker(&["load", "-q", "-i", &file]).ok();
    let pulled = d.docker(&["pull", &name]).ok();
    assert!(pulled.contains("Image is up to date"), "{pulled}");
    // And a push there sends nothing, as all of it is there.
    let pushed = d.docker(&["push", &name]).ok();
    assert!(!pushed.contains(": Pushed"), "{pushed}");
}

#[test]
fn names_keep_each_its_own_digest() {
    let d = Daemon::start();
    let (mut a, b) =
        (Registry::start(&d, 5000, Setup::default()), Registry::start(&d, 5001, Setup::default()));
    let made = packed_layout("made.example/one:1", &[here()], false, gzip);
    publish_plain(&d, &a, "one", &made);
    let (here, there) = (format!("{}/one:1", a.address), format!("{}/one:1", b.address));
    d.docker(&["pull", "-q", &here]).ok();
    d.docker(&["tag", &here, &there]).ok();
    // Its source is gone, so the other registry has other bytes.
    a.stop();
    d.docker(&["push", "-q", &there]).ok();
    let mut wanted = digests(&d, &here);
    wanted.sort();
    assert_eq!(wanted.len(), 2);
    assert!(
        wanted[0].starts_with(&a.address) && wanted[0].ends_with(&made.members[0].manifest),
        "{wanted:?}"
    );
    assert!(!wanted[1].ends_with(&made.members[0].manifest), "{wanted:?}");
    let file = save(&d, &[&here, &there], "both.tar");
    let e = Daemon::start();
    e.docker(&["load", "-q", "-i", &file]).ok();
    let mut shown = digests(&e, &here);
    shown.sort();
    assert_eq!(shown, wanted);
}

#[test]
fn an_image_of_plain_layers_is_in_its_archive_as_it_is() {
    let d = Daemon::start();
    let a = Registry::start(&d, 5000, Setup::default());
    let made = platforms::layout("made.example/plain:1", &[here()], false);
    publish_plain(&d, &a, "plain", &made);
    let name = format!("{}/plain:1", a.address);
    d.docker(&["pull", "-q", &name]).ok();
    let file = save(&d, &[&name], "plain.tar");
    // So others see the same digest.
    let target = format!("dir:{}", d.path("plain").display());
    skopeo(&d, &["copy", "--preserve-digests", &format!("oci-archive:{file}:1"), &target]).ok();
    let seen = std::fs::read(d.path("plain/manifest.json")).unwrap();
    assert_eq!(digest(&seen), made.members[0].manifest);
    let e = Daemon::start();
    e.docker(&["load", "-q", "-i", &file]).ok();
    assert_eq!(descriptor(&e, &name), made.members[0].manifest);
    assert_eq!(digests(&e, &name).len(), 1);
}

#[test]
fn archives_of_others_bring_a_digest_if_it_is_of_a_registry() {
    let d = Daemon::start();
    let a = Registry::start(&d, 5000, Setup::default());
    let made = packed_layout("made.example/one:1", &[here()], false, gzip);
    publish_plain(&d, &a, "one", &made);
    let name = format!("{}/one:1", a.address);
    // As skopeo, or Docker with containerd's store, writes it: the layers as they are.
    let file = d.path("theirs.tar").display().to_string();
    let source = format!("docker://{name}");
    let target = format!("oci-archive:{file}:{name}");
    skopeo(&d, &["copy", "--preserve-digests", "--src-tls-verify=false", &source, &target]).ok();
    d.docker(&["load", "-q", "-i", &file]).ok();
    assert_eq!(digests(&d, &name), [format!("{}/one@{}", a.address, made.members[0].manifest)]);
    // As `docker save` of the older store writes it: its manifest is of nothing but this archive.
    d.docker(&["rmi", &name]).ok();
    let theirs = image::docker_archive("theirs:1", &[image::busybox_tar()]);
    d.docker_with_input(&["load"], &theirs).ok();
    assert_eq!(digests(&d, "theirs:1"), Vec::<String>::new());
    let own = save(&d, &["theirs:1"], "own.tar");
    d.docker(&["rmi", "theirs:1"]).ok();
    d.docker(&["load", "-q", "-i", &own]).ok();
    assert_eq!(digests(&d, "theirs:1"), Vec::<String>::new());
}

/// An archive of one image whose entry of `index.json` has a note about another manifest.
fn archive(honest: &Layout, name: &str, former: &str, said: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut from = tar::Archive::new(honest.archive.as_slice());
    for entry in from.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        if path.starts_with("blobs/sha256/") && entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            image::entry(&mut archive, &path, b'0', 0o644, "", &bytes);
        }
    }
    let hex = image::sha256(former.as_bytes());
    image::entry(&mut archive, &format!("blobs/sha256/{hex}"), b'0', 0o644, "", former.as_bytes());
    let top = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": MANIFEST, "digest": honest.members[0].manifest, "size": 1,
        "annotations": {"io.containerd.image.name": name, "org.wharf.image.manifest": said}}]});
    image::entry(&mut archive, "index.json", b'0', 0o644, "", top.to_string().as_bytes());
    image::entry(&mut archive, "oci-layout", b'0', 0o644, "", br#"{"imageLayoutVersion":"1.0.0"}"#);
    image::finish(&mut archive);
    archive
}

#[test]
fn an_archive_that_lies_about_a_manifest_gains_nothing() {
    let d = Daemon::start();
    let b = Registry::start(&d, 5001, Setup::default());
    let honest = platforms::layout("x:1", &[here()], false);
    let other = platforms::layout("y:1", &[here()], false);
    let name = format!("{}/team/app:1", b.address);
    let config = |config: &str, layers: Value| {
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 1}})
        .to_string()
    };
    let layer = |digest: &str| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 1});
    let own = &honest.members[0].config;
    let two = json!([layer(&digest(b"1")), layer(&digest(b"2"))]);
    let both = {
        let mut both: Value = serde_json::from_str(&config(own, two.clone())).unwrap();
        both["manifests"] = json!([]);
        both.to_string()
    };
    let huge = format!("{}{}", config(own, two.clone()), " ".repeat(5 << 20));
    for (what, former) in [
        ("of another image", config(&other.members[0].config, two.clone())),
        ("with other layers", config(own, json!([layer(&digest(b"1"))]))),
        ("an index", json!({"schemaVersion": 2, "manifests": []}).to_string()),
        ("larger than registries have", huge),
    ] {
        d.docker_with_input(&["load"], &archive(&honest, &name, &former, &digest(former.as_bytes()))).ok();
        assert_eq!(digests(&d, &name), Vec::<String>::new(), "{what}");
        d.docker(&["rmi", &name]).ok();
    }
    let absent = archive(&honest, &name, "{}", &digest(b"nothing"));
    d.docker_with_input(&["load"], &absent).ok();
    assert_eq!(digests(&d, &name), Vec::<String>::new());
    d.docker(&["rmi", &name]).ok();
    let refused = |former: &str, said: &str| {
        let archive = archive(&honest, &name, former, said);
        assert_ne!(d.docker_with_input(&["load"], &archive).code, 0, "{said}");
    };
    refused(&both, &digest(both.as_bytes()));
    refused("{}", "sha256:../../etc/passwd");
    fsck::whole(&d, "after refusals");

    // A manifest of this image over layers that are somebody else's, which the registry has: they are not the image's.
    let evil = gzip(b"what nobody wants");
    let path = format!("/v2/team/app/blobs/uploads/?digest={}", digest(&evil));
    let begun = ask(&d, &b.address, "POST", &path, &[], &evil);
    let location = begun.header("location").unwrap().to_owned();
    if begun.status == 202 {
        let path = location.split_once("/v2/").map(|(_, rest)| format!("/v2/{rest}")).unwrap();
        let kind = [("Content-Type", "application/octet-stream")];
        let put = ask(&d, &b.address, "PUT", &format!("{path}&digest={}", digest(&evil)), &kind, &evil);
        assert_eq!(put.status, 201);
    }
    let former = config(own, json!([layer(&digest(&evil)), layer(&digest(&evil))]));
    let listed = digest(former.as_bytes());
    d.docker_with_input(&["load"], &archive(&honest, &name, &former, &listed)).ok();
    assert!(digests(&d, &name)[0].ends_with(&listed));
    let pushed = d.docker(&["push", &name]).ok();
    assert!(pushed.contains(&format!("and not as {listed}")), "{pushed}");
    let now = raw(&d, &b.address, "team/app", "1");
    assert!(!now.contains(&digest(&evil)), "{now}");
    d.docker(&["rmi", "-f", &name]).ok();
    d.docker(&["pull", "-q", &name]).ok();
    assert_eq!(d.docker(&["run", "--rm", &name]).ok(), format!("{} of x:1", here()));

    // Nobody is asked for what an archive says of other places.
    let thief = Server::start(&d, 5009, |_| Reply::new(200, "{}"));
    let theirs = format!("{}/team/app:1", thief.address);
    d.docker_with_input(&["load"], &archive(&honest, &theirs, &former, &listed)).ok();
    let asked =
        http::request(&d.socket(), "GET", &format!("/v1.55/images/{theirs}/json"), "").unwrap().json();
    assert_eq!(asked.get("Identity").filter(|i| i.to_string().contains("5009")), None, "{asked}");
    d.docker(&["tag", &theirs, &name]).ok();
    d.docker(&["push", "-q", &name]).ok();
    assert!(thief.seen().is_empty(), "{:?}", thief.seen());
}
