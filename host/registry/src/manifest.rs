//! Manifests and indexes, and which image of an index is meant.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_plan::platform::Platform;
use wharf_plan::statement;

use crate::digest;
use crate::error::{Error, Kind, Result};

/// Largest manifest or index.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Largest image configuration.
pub const MAX_CONFIG: u64 = 8 << 20;
/// Indexes inside indexes.
pub const MAX_DEPTH: usize = 4;
/// Layers of one image.
pub const MAX_LAYERS: usize = 1000;
/// Entries of one index.
pub const MAX_ENTRIES: usize = 2000;

/// An OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// An OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// An OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's compressed layer.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// An OCI layer under gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer in Docker's words, not compressed.
pub const DOCKER_LAYER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// A layer in OCI's words, not compressed.
pub const OCI_LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer compressed with zstd; Docker has no word of its own.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
];

/// What is accepted where a manifest is wanted.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, */*";

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// Other places where it may be fetched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free text.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    /// What it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What sort of artifact.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
}

fn nullable<'de, D: serde::Deserializer<'de>>(
    d: D,
) -> std::result::Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl Descriptor {
    fn check(&self) -> Result<()> {
        digest::check(&self.digest)?;
        if i64::try_from(self.size).is_err() {
            return Err(Error::broken(format!("impossible size of {}", self.digest)));
        }
        Ok(())
    }

    /// A statement about an image rather than an image.
    pub fn is_statement(&self) -> bool {
        statement::is_statement(&self.annotations, self.platform.as_ref())
    }

    /// Digest of the manifest that a statement is about.
    pub fn about(&self) -> Option<&str> {
        statement::about(&self.annotations)
    }
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What it is a statement about.
    pub subject: Option<Descriptor>,
    /// Sort of artifact, if it is none that runs.
    pub artifact_type: String,
}

impl Image {
    /// Its configuration and its layers, lowest first.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// A document of a registry, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there are few of them, each for a moment")]
pub enum Document {
    /// Of one image.
    Image(Box<Image>),
    /// Of several.
    Index(Vec<Descriptor>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    fs_layers: Option<Value>,
}

/// Whether this is the media type of an index or a manifest list.
pub fn is_index(media: &str) -> bool {
    media == OCI_INDEX || media == DOCKER_LIST
}

fn is_manifest(media: &str) -> bool {
    media == OCI_MANIFEST || media == DOCKER_MANIFEST
}

impl Document {
    /// Understands a document. `content_type` is what the server said it is. Answers its media type too.
    ///
    /// A document that two programs could read differently is refused (CVE-2021-41190).
    pub fn parse(bytes: &[u8], content_type: &str) -> Result<(Self, String)> {
        let stated = content_type.split(';').next().unwrap_or_default().trim();
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|e| Error::broken(format!("the registry sent a manifest that cannot be read: {e}")))?;
        if SCHEMA1.contains(&stated)
            || SCHEMA1.contains(&raw.media_type.as_str())
            || raw.schema_version == Some(1)
            || raw.fs_layers.is_some()
        {
            return Err(Error::new(
                Kind::Unsupported,
                "Docker Image Format v1 and Docker Image manifest version 2, schema 1 are not supported: suggest the author \
                 of the image to upgrade it to the OCI Format or Docker Image manifest v2, schema 2. More information at \
                 https://docs.docker.com/go/deprecated-image-specs/",
            ));
        }
        if raw.schema_version.is_some_and(|v| v != 2) {
            return Err(Error::new(Kind::Unsupported, "unsupported manifest schema version"));
        }
        let known = |m: &str| is_index(m) || is_manifest(m);
        let own = raw.media_type.as_str();
        let (has_list, has_image) = (raw.manifests.is_some(), raw.config.is_some() || raw.layers.is_some());
        if known(own) && known(stated) && own != stated {
            return Err(Error::broken(format!(
                "the registry calls a manifest {stated} that calls itself {own}"
            )));
        }
        if has_list && has_image {
            return Err(Error::broken("the registry sent a manifest that is also an index"));
        }
        let media = [own, stated].into_iter().find(|m| known(m)).unwrap_or_default();
        if (has_list && is_manifest(media)) || (has_image && is_index(media)) {
            return Err(Error::broken(format!(
                "the registry sent a document that is not the {media} it is said to be"
            )));
        }
        if let Some(entries) = raw.manifests {
            if entries.len() > MAX_ENTRIES {
                return Err(Error::broken(format!("the index has more than {MAX_ENTRIES} entries")));
            }
            entries.iter().try_for_each(Descriptor::check)?;
            let media = if media.is_empty() { OCI_INDEX } else { media };
            return Ok((Self::Index(entries), media.to_owned()));
        }
        let Some(config) = raw.config else {
            return Err(Error::new(Kind::Unsupported, "the registry sent something that is no image"));
        };
        let layers = raw.layers.unwrap_or_default();
        if layers.len() > MAX_LAYERS {
            return Err(Error::broken(format!("the image has more than {MAX_LAYERS} layers")));
        }
        std::iter::once(&config).chain(&layers).chain(&raw.subject).try_for_each(Descriptor::check)?;
        let media = if media.is_empty() { OCI_MANIFEST } else { media };
        let image = Image { config, layers, subject: raw.subject, artifact_type: raw.artifact_type };
        Ok((Self::Image(Box::new(image)), media.to_owned()))
    }
}

impl Document {
    /// Digest of what a document of either kind is about, if it is about something else.
    pub fn subject(bytes: &[u8]) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct About {
            #[serde(default)]
            subject: Option<Descriptor>,
        }
        let about: About = serde_json::from_slice(bytes)
            .map_err(|e| Error::broken(format!("the manifest cannot be read: {e}")))?;
        about.subject.map(|subject| subject.check().map(|()| subject.digest)).transpose()
    }
}

impl Image {
    /// Fails for artifacts that are no images.
    pub fn runs(&self) -> Result<()> {
        let media = self.config.media_type.as_str();
        if matches!(media, DOCKER_CONFIG | OCI_CONFIG | "") || media == "application/octet-stream" {
            return Ok(());
        }
        Err(Error::new(Kind::Unsupported, format!("Encountered remote {media:?}(unknown) when fetching")))
    }
}

/// The images of an index that fit, best first.
pub fn choose<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Vec<&'a Descriptor> {
    let mut fitting: Vec<(u8, &Descriptor)> = entries
        .iter()
        .filter(|entry| !entry.is_statement())
        .filter_map(|entry| match &entry.platform {
            Some(platform) => Some((wanted.fit(platform)?, entry)),
            // One that does not say may be anything: after all that do.
            None => Some((u8::MAX, entry)),
        })
        .collect();
    fitting.sort_by_key(|(fit, _)| *fit);
    fitting.into_iter().map(|(_, entry)| entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> String {
        digest::of(&[n])
    }

    fn image() -> Value {
        serde_json::json!({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": DOCKER_CONFIG, "digest": digest(1), "size": 10},
            "layers": [{"mediaType": DOCKER_LAYER, "digest": digest(2), "size": 20, "annotations": null}]})
    }

    fn parse(value: &Value, content_type: &str) -> Result<(Document, String)> {
        Document::parse(value.to_string().as_bytes(), content_type)
    }

    #[test]
    fn reads_what_registries_send() {
        let (document, media) = parse(&image(), DOCKER_MANIFEST).unwrap();
        assert_eq!(media, DOCKER_MANIFEST);
        assert!(matches!(document, Document::Image(i) if i.layers.len() == 1 && i.runs().is_ok()));
        // A server that does not know the type, or says more than the type.
        assert!(parse(&image(), "application/octet-stream").is_ok());
        assert!(parse(&image(), &format!("{DOCKER_MANIFEST}; charset=utf-8")).is_ok());
        let index = serde_json::json!({"schemaVersion": 2, "manifests": []});
        assert_eq!(parse(&index, OCI_INDEX).unwrap(), (Document::Index(Vec::new()), OCI_INDEX.into()));
    }

    #[test]
    fn refuses_what_could_mean_two_things() {
        let mut both = image();
        both["manifests"] = serde_json::json!([]);
        let mut schema1 = image();
        schema1["schemaVersion"] = 1.into();
        let mut other = image();
        other["mediaType"] = OCI_INDEX.into();
        let mut sha512 = image();
        sha512["layers"][0]["digest"] = format!("sha512:{}", "a".repeat(128)).into();
        let mut huge = image();
        huge["layers"][0]["size"] = u64::MAX.into();
        let mut negative = image();
        negative["layers"][0]["size"] = (-1).into();
        for (what, value, media) in [
            ("both", &both, ""),
            ("schema 1", &schema1, ""),
            ("an index by name", &other, ""),
            ("two types", &image(), OCI_MANIFEST),
            ("another index", &image(), OCI_INDEX),
            ("another hash", &sha512, ""),
            ("huge", &huge, ""),
            ("negative", &negative, ""),
            ("nothing", &serde_json::json!({}), ""),
            ("an array", &serde_json::json!([]), ""),
        ] {
            assert!(parse(value, media).is_err(), "{what}");
        }
        let text = parse(&schema1, "").unwrap_err().to_string();
        assert!(text.contains("schema 1 are not supported"), "{text}");
        let chart = serde_json::json!({"schemaVersion": 2, "layers": [],
            "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest(1), "size": 2}});
        let Document::Image(chart) = parse(&chart, OCI_MANIFEST).unwrap().0 else { panic!("an image") };
        assert!(chart.runs().is_err());
    }

    #[test]
    fn an_index_gives_the_best_platform_and_no_statements() {
        let entry = |n: u8, platform: &str| Descriptor {
            digest: digest(n),
            platform: Some(Platform::parse(platform).unwrap()),
            ..Descriptor::default()
        };
        let mut statement = entry(9, "linux/amd64");
        statement.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        let entries = [
            statement,
            entry(1, "linux/arm/v6"),
            entry(2, "linux/arm/v7"),
            entry(3, "linux/amd64"),
            entry(4, "windows/amd64"),
        ];
        let found = |platform: &str| -> Vec<String> {
            choose(&entries, &Platform::parse(platform).unwrap())
                .into_iter()
                .map(|d| d.digest.clone())
                .collect()
        };
        assert_eq!(found("linux/amd64"), [digest(3)]);
        assert_eq!(found("linux/arm/v7"), [digest(2), digest(1)]);
        assert_eq!(found("linux/s390x"), [] as [String; 0]);
    }

    proptest::proptest! {
        #[test]
        fn broken_documents_never_panic(at in 0usize..300, byte: u8, cut in 0usize..300) {
            let mut bytes = image().to_string().into_bytes();
            let n = bytes.len();
            bytes[at % n] = byte;
            let _ = Document::parse(&bytes, OCI_MANIFEST);
            bytes.truncate(cut % n);
            let _ = Document::parse(&bytes, "");
        }
    }
}
