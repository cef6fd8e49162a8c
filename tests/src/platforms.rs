//! Images of several platforms, as OCI layouts made by hand.
//!
//! Whatever platform an image says it is of, its program is this machine's, so that all of them run here: which one does is
//! shown by its file `/platform`.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::registry::{Registry, ask};
use crate::{Daemon, image};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// One platform of an image.
#[derive(Debug, Clone)]
pub struct Member {
    /// `linux/amd64`.
    pub platform: String,
    /// Digest of its manifest.
    pub manifest: String,
    /// Digest of its configuration.
    pub config: String,
    /// Digests of its layers' blobs.
    pub layers: Vec<String>,
}

/// An image of several platforms in an OCI layout.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Digest of the index.
    pub digest: String,
    /// Text of the index.
    pub index: String,
    /// Its images, in order.
    pub members: Vec<Member>,
    /// Digest of the attestation about the first of them, if there is one.
    pub attestation: Option<String>,
    /// The archive that `docker load` and skopeo's `oci-archive:` read.
    pub archive: Vec<u8>,
}

/// This machine's platform.
pub fn here() -> &'static str {
    if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" }
}

/// `sha256:…` of these bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", image::sha256(bytes))
}

/// Puts a layout into a registry, byte for byte, under `repository:tag`.
#[track_caller]
pub fn publish(d: &Daemon, registry: &Registry, name: &str, made: &Layout) {
    let file = image::save(&d.path("layout.tar"), &made.archive);
    let (source, target) = (format!("oci-archive:{file}"), format!("docker://{}/{name}", registry.address));
    let args = ["copy", "--all", "--preserve-digests", "--dest-tls-verify=false", &source, &target];
    registry.skopeo(d, &args).ok();
}

/// What a tag or a digest is at a registry.
#[track_caller]
pub fn raw(d: &Daemon, address: &str, repository: &str, reference: &str) -> String {
    let accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                  application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
    let path = format!("/v2/{repository}/manifests/{reference}");
    let answer = ask(d, address, "GET", &path, &[("Accept", accept)], b"");
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.text()
}

struct Blobs(Vec<u8>, Vec<String>);

impl Blobs {
    fn add(&mut self, bytes: &[u8]) -> (String, usize) {
        let hex = image::sha256(bytes);
        if !self.1.contains(&hex) {
            image::entry(&mut self.0, &format!("blobs/sha256/{hex}"), b'0', 0o644, "", bytes);
            self.1.push(hex.clone());
        }
        (format!("sha256:{hex}"), bytes.len())
    }
}

/// As gzip(1) compresses, which nobody here does.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut command =
        Command::new("gzip").args(["-9", "-n"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let child = command.as_mut().expect("gzip");
    let (mut input, bytes) = (child.stdin.take().expect("a pipe"), bytes.to_vec());
    let writing = std::thread::spawn(move || input.write_all(&bytes));
    let mut packed = Vec::new();
    child.stdout.take().expect("a pipe").read_to_end(&mut packed).expect("gzip");
    assert!(child.wait().expect("gzip").success());
    writing.join().expect("a thread").expect("gzip");
    packed
}

/// A layout of one image with these platforms: a layer of busybox for all, a small one for each. With `attested` there is
/// a statement about the first, as `BuildKit` makes them.
pub fn layout(name: &str, platforms: &[&str], attested: bool) -> Layout {
    packed_layout(name, platforms, attested, <[u8]>::to_vec)
}

/// The same with compressed layers.
pub fn packed_layout(
    name: &str,
    platforms: &[&str],
    attested: bool,
    pack: impl Fn(&[u8]) -> Vec<u8>,
) -> Layout {
    let mut blobs = Blobs(Vec::new(), Vec::new());
    let busybox = image::busybox_tar();
    let busybox = (pack(&busybox), digest(&busybox));
    let (mut entries, mut members): (Vec<Value>, Vec<Member>) = (Vec::new(), Vec::new());
    for platform in platforms {
        let mut parts = platform.split('/');
        let (os, architecture) = (parts.next().expect("os"), parts.next().expect("architecture"));
        let mut layer = Vec::new();
        image::entry(&mut layer, "platform", b'0', 0o644, "", format!("{platform} of {name}\n").as_bytes());
        image::finish(&mut layer);
        let layer = (pack(&layer), digest(&layer));
        let layers: Vec<Value> = [&busybox, &layer]
            .into_iter()
            .map(|(bytes, diff_id)| {
                let (digest, size) = blobs.add(bytes);
                let packed = if digest == *diff_id { "" } else { "+gzip" };
                let media_type = format!("application/vnd.oci.image.layer.v1.tar{packed}");
                json!({"mediaType": media_type, "digest": digest, "size": size})
            })
            .collect();
        let mut shown = json!({"os": os, "architecture": architecture});
        if let Some(variant) = parts.next() {
            shown["variant"] = variant.into();
        }
        let mut config = shown.clone();
        config["created"] = "2024-05-01T10:00:00Z".into();
        config["config"] =
            json!({"Cmd": ["cat", "/platform"], "Env": ["PATH=/bin"], "Labels": {"p": platform}});
        config["rootfs"] = json!({
            "type": "layers", "diff_ids": [busybox.1, layer.1],
        });
        config["history"] = json!([{"created_by": "busybox"}, {"created_by": platform}]);
        let (config, size) = blobs.add(config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size},
        });
        let (manifest, size) = blobs.add(manifest.to_string().as_bytes());
        entries.push(json!({"mediaType": MANIFEST, "digest": manifest, "size": size, "platform": shown}));
        let layers = layers.iter().map(|l| l["digest"].as_str().expect("a digest").to_owned()).collect();
        members.push(Member { platform: (*platform).to_owned(), manifest, config, layers });
    }
    let attestation = attested.then(|| {
        let statement = json!({"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
            "subject": [{"name": name, "digest": {"sha256": &members[0].manifest[7..]}}]});
        let (layer, layer_size) = blobs.add(statement.to_string().as_bytes());
        let config = json!({"architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer]}});
        let (config, size) = blobs.add(config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size},
            "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": layer, "size": layer_size,
                "annotations": {"in-toto.io/predicate-type": "https://spdx.dev/Document"}}],
        });
        let (digest, size) = blobs.add(manifest.to_string().as_bytes());
        entries.push(json!({
            "mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": members[0].manifest},
        }));
        digest
    });
    // Not as this program would write it: only who keeps the bytes keeps the digest.
    let index =
        serde_json::to_string_pretty(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
            .expect("an index");
    let (digest, size) = blobs.add(index.as_bytes());
    let top = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": INDEX, "digest": digest, "size": size,
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
    }]});
    let mut archive = blobs.0;
    image::entry(&mut archive, "index.json", b'0', 0o644, "", top.to_string().as_bytes());
    image::entry(&mut archive, "oci-layout", b'0', 0o644, "", br#"{"imageLayoutVersion":"1.0.0"}"#);
    image::finish(&mut archive);
    Layout { digest, index, members, attestation, archive }
}
