//! Images of several platforms, as OCI layouts made by hand.
//!
//! Whatever platform an image says it is of, its program is this machine's, so that all of them run here: which one does is
//! shown by its file `/platform`.

use serde_json::{Value, json};

use crate::image;

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

/// A layout of one image with these platforms: a layer of busybox for all, a small one for each. With `attested` there is
/// a statement about the first, as `BuildKit` makes them.
pub fn layout(name: &str, platforms: &[&str], attested: bool) -> Layout {
    let mut blobs = Blobs(Vec::new(), Vec::new());
    let busybox = image::busybox_tar();
    let (mut entries, mut members): (Vec<Value>, Vec<Member>) = (Vec::new(), Vec::new());
    for platform in platforms {
        let mut parts = platform.split('/');
        let (os, architecture) = (parts.next().expect("os"), parts.next().expect("architecture"));
        let mut layer = Vec::new();
        image::entry(&mut layer, "platform", b'0', 0o644, "", format!("{platform} of {name}\n").as_bytes());
        image::finish(&mut layer);
        let layers: Vec<Value> = [&busybox, &layer]
            .into_iter()
            .map(|bytes| {
                let (digest, size) = blobs.add(bytes);
                json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size})
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
            "type": "layers", "diff_ids": layers.iter().map(|l| l["digest"].clone()).collect::<Vec<_>>(),
        });
        config["history"] = json!([{"created_by": "busybox"}, {"created_by": platform}]);
        let (config, size) = blobs.add(config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": size},
        });
        let (manifest, size) = blobs.add(manifest.to_string().as_bytes());
        entries.push(json!({"mediaType": MANIFEST, "digest": manifest, "size": size, "platform": shown}));
        members.push(Member { platform: (*platform).to_owned(), manifest, config });
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
