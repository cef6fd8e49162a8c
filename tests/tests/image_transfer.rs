//! Images of more than a handful of bytes on their way to and from registries and archives: compressed on several threads,
//! taken apart while they arrive.

use serde_json::{Value, json};
use wharf_tests::registry::{Registry, Setup};
use wharf_tests::{Daemon, Options, image};

/// Bytes that do not repeat, so that a part that is lost, doubled or swapped shows.
fn content(length: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 60).unwrap()
    };
    (0..length).map(|_| next()).collect()
}

/// busybox, and a layer of some megabytes: larger than one part of what is compressed at a time.
fn layers() -> Vec<Vec<u8>> {
    let mut large = Vec::new();
    image::entry(&mut large, "large", b'0', 0o644, "", &content(9 << 20));
    image::entry(&mut large, "small", b'0', 0o600, "", b"little\n");
    image::finish(&mut large);
    vec![image::busybox_tar(), large]
}

fn sum(d: &Daemon, name: &str) -> String {
    d.docker(&["run", "--rm", name, "sha256sum", "/large", "/small"]).ok()
}

fn expected() -> String {
    format!("{}  /large\n{}  /small", image::sha256(&content(9 << 20)), image::sha256(b"little\n"))
}

/// Pushes, looks at the manifest with another client, pulls it back; answers the manifest.
fn there_and_back(packing: Option<&str>) -> Value {
    let config = packing.map(|word| json!({"registry-push-compression": word}).to_string());
    let d = Daemon::with(Options { config, ..Options::default() });
    let registry = Registry::start(&d, 5000, Setup::default());
    d.docker_with_input(&["load"], &image::docker_archive("big:1", &layers())).ok();
    let id = d.docker(&["image", "inspect", "-f", "{{.Id}}", "big:1"]).ok();
    assert_eq!(sum(&d, "big:1"), expected());
    let name = format!("{}/team/big:1", registry.address);
    d.docker(&["tag", "big:1", &name]).ok();
    d.docker(&["push", &name]).ok();
    let source = format!("docker://{name}");
    let raw = registry.skopeo(&d, &["inspect", "--raw", "--tls-verify=false", &source]).ok();
    // The other client takes every layer apart and compares it with the image's configuration. It writes no zstd into
    // Docker's archives.
    let archive = d.path("copy.tar").display().to_string();
    let zstd = packing == Some("zstd");
    let copy =
        if zstd { format!("oci-archive:{archive}") } else { format!("docker-archive:{archive}:copy:1") };
    registry.skopeo(&d, &["copy", "--src-tls-verify=false", &source, &copy]).ok();
    d.docker(&["rmi", "-f", &id]).ok();
    d.docker(&["pull", &name]).ok();
    assert_eq!(d.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok(), id);
    assert_eq!(sum(&d, &name), expected());
    // What the other client wrote is the same image too.
    d.docker(&["rmi", "-f", &id]).ok();
    d.docker(&["load", "-i", &archive]).ok();
    if zstd {
        d.docker(&["tag", &id, "copy:1"]).ok();
    }
    assert_eq!(sum(&d, "copy:1"), expected());
    serde_json::from_str(&raw).unwrap()
}

fn types(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|l| l["mediaType"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn gzip_unless_told() {
    let manifest = there_and_back(None);
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    assert_eq!(types(&manifest), ["application/vnd.docker.image.rootfs.diff.tar.gzip"; 2]);
    let size = manifest["layers"][1]["size"].as_u64().unwrap();
    assert!(size < 9 << 20, "{size}");
}

#[test]
fn zstd_where_the_configuration_says_so() {
    let manifest = there_and_back(Some("zstd"));
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(types(&manifest), ["application/vnd.oci.image.layer.v1.tar+zstd"; 2]);
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
}

#[test]
fn uncompressed_where_the_configuration_says_so() {
    let manifest = there_and_back(Some("uncompressed"));
    assert_eq!(types(&manifest), ["application/vnd.docker.image.rootfs.diff.tar"; 2]);
    assert!(manifest["layers"][1]["size"].as_u64().unwrap() > 9 << 20);
}

#[test]
fn the_same_layer_is_the_same_blob_every_time() {
    let d = Daemon::start();
    let registries = [5000, 5001].map(|port| Registry::start(&d, port, Setup::default()));
    d.docker_with_input(&["load"], &image::docker_archive("big:1", &layers())).ok();
    let manifests = registries.each_ref().map(|registry| {
        let name = format!("{}/big:1", registry.address);
        d.docker(&["tag", "big:1", &name]).ok();
        d.docker(&["push", &name]).ok();
        registry.skopeo(&d, &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]).ok()
    });
    assert_eq!(manifests[0], manifests[1]);
}

#[test]
fn save_and_load_bring_back_every_byte() {
    let d = Daemon::start();
    d.docker_with_input(&["load"], &image::docker_archive("big:1", &layers())).ok();
    let archive = d.path("saved.tar").display().to_string();
    d.docker(&["save", "-o", &archive, "big:1"]).ok();
    let id = d.docker(&["image", "inspect", "-f", "{{.Id}}", "big:1"]).ok();
    d.docker(&["rmi", "big:1"]).ok();
    // One byte of the large file's blob in the archive is another: nothing of it is taken.
    let good = std::fs::read(&archive).unwrap();
    let large = content(9 << 20);
    let inside = &large[5 << 20..][..64];
    let at = good.windows(64).position(|w| w == inside).unwrap();
    let mut damaged = good.clone();
    damaged[at] ^= 1;
    d.docker_with_input(&["load"], &damaged).fails(1, "is damaged");
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
    d.docker_with_input(&["load"], &good).ok();
    assert_eq!(d.docker(&["image", "inspect", "-f", "{{.Id}}", "big:1"]).ok(), id);
    assert_eq!(sum(&d, "big:1"), expected());
}
