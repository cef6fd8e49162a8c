//! OCI image layouts inside archives.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::Limits;
use crate::error::{Error, Result};
use crate::load::{Archive, Wanted};
use crate::model::LoadOptions;
use crate::reference::{Reference, check_digest};

const INDEX: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Indexes inside indexes.
const DEPTH: usize = 4;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: String,
}

/// Any document of the layout; which one it is shows in its members.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    /// Of the long gone first schema.
    #[serde(default)]
    fs_layers: Option<Value>,
}

impl Document {
    fn parse(text: &str, name: &str) -> Result<Self> {
        let document: Self = serde_json::from_str(text)
            .map_err(|e| Error::invalid(format!("invalid {name} in the archive: {e}")))?;
        // A document that can be read as two things is read differently by two programs (CVE-2021-41190).
        let is_index = document.manifests.is_some();
        let is_manifest =
            document.config.is_some() || document.layers.is_some() || document.fs_layers.is_some();
        let media = document.media_type.as_str();
        let other_index = is_manifest || MANIFEST.contains(&media);
        if (is_index && other_index) || (is_manifest && INDEX.contains(&media)) {
            return Err(Error::invalid(format!("{name} in the archive is both an index and a manifest")));
        }
        Ok(document)
    }
}

fn blob_name(digest: &str) -> Result<String> {
    check_digest(digest)?;
    Ok(format!("blobs/sha256/{}", crate::digest::hex(digest)))
}

/// Images that `index.json` lists.
pub(crate) fn images(archive: &Archive, options: &LoadOptions, limits: &Limits) -> Result<Vec<Wanted>> {
    let index = Document::parse(archive.text("index.json")?, "index.json")?;
    let Some(manifests) = index.manifests else {
        return Err(Error::invalid("index.json in the archive lists no images"));
    };
    let mut wanted: Vec<(String, Wanted)> = Vec::new();
    for descriptor in &manifests {
        let name = name_of(descriptor)?;
        let mut found = Vec::new();
        collect(archive, descriptor, DEPTH, limits, &mut found)?;
        for (digest, image) in choose(found, options) {
            match wanted.iter_mut().find(|(known, _)| *known == digest) {
                Some((_, known)) => known.names.extend(name.clone()),
                None => {
                    wanted.push((digest, Wanted { names: name.clone().into_iter().collect(), ..image }));
                }
            }
        }
        if wanted.len() > limits.images {
            return Err(Error::too_large(format!("the archive has more than {} images", limits.images)));
        }
    }
    Ok(wanted.into_iter().map(|(_, image)| image).collect())
}

/// The name that the layout gives to an image.
fn name_of(descriptor: &Descriptor) -> Result<Option<Reference>> {
    let Some(annotations) = &descriptor.annotations else { return Ok(None) };
    let full = annotations.get("io.containerd.image.name");
    // The standard annotation may hold a whole name or just a tag, which names nothing by itself.
    let standard =
        annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':']));
    let Some(name) = full.or(standard) else { return Ok(None) };
    let reference = Reference::parse(name).map_err(|e| e.at(format!("invalid name {name:?}")))?;
    if reference.digest.is_some() {
        return Ok(None);
    }
    Ok(Some(reference.or_latest()))
}

struct Candidate {
    digest: String,
    platform: String,
    image: Wanted,
}

fn collect(
    archive: &Archive,
    descriptor: &Descriptor,
    depth: usize,
    limits: &Limits,
    found: &mut Vec<Candidate>,
) -> Result<()> {
    if found.len() > limits.images {
        return Err(Error::too_large(format!("the archive has more than {} images", limits.images)));
    }
    // Statements about images are no images.
    let statement = |d: &Descriptor| {
        d.annotations.as_ref().is_some_and(|a| a.contains_key("vnd.docker.reference.type"))
            || d.platform.as_ref().is_some_and(|p| p.os == "unknown")
    };
    if statement(descriptor) {
        return Ok(());
    }
    let name = blob_name(&descriptor.digest)?;
    // An archive need not have every platform that its index knows.
    if archive.document(&name)?.is_none() && depth < DEPTH {
        return Ok(());
    }
    let document = Document::parse(archive.text(&name)?, &name)?;
    let stated = [descriptor.media_type.as_str(), document.media_type.as_str()];
    if let Some(manifests) = &document.manifests {
        if stated.iter().any(|m| MANIFEST.contains(m)) || depth == 0 {
            return Err(Error::invalid(format!("{name} in the archive is not the manifest it should be")));
        }
        return manifests.iter().try_for_each(|d| collect(archive, d, depth - 1, limits, found));
    }
    if stated.iter().any(|m| INDEX.contains(m)) {
        return Err(Error::invalid(format!("{name} in the archive is not the index it should be")));
    }
    let Some(config) = document.config else {
        return Err(Error::invalid(format!("{name} in the archive has no configuration")));
    };
    let text = archive.text(&blob_name(&config.digest)?)?.to_owned();
    let mut layers = Vec::new();
    for layer in document.layers.unwrap_or_default() {
        layers.push(blob_name(&layer.digest)?);
    }
    let platform = if let Some(p) = &descriptor.platform {
        platform(&p.os, &p.architecture, &p.variant)
    } else {
        let file = crate::record::ConfigFile::parse(&text)?;
        platform(&file.os, &file.architecture, &file.variant)
    };
    found.push(Candidate {
        digest: descriptor.digest.clone(),
        platform,
        image: Wanted { config: text, layers, names: Vec::new(), parent: None },
    });
    Ok(())
}

fn platform(os: &str, architecture: &str, variant: &str) -> String {
    if variant.is_empty() { format!("{os}/{architecture}") } else { format!("{os}/{architecture}/{variant}") }
}

/// Of one name's platforms, those asked for; else this host's, else the only one.
fn choose(found: Vec<Candidate>, options: &LoadOptions) -> Vec<(String, Wanted)> {
    let fits = |platform: &str, want: &str| platform == want || platform.starts_with(&format!("{want}/"));
    let host = format!("linux/{}", crate::host_architecture());
    let all = found.len();
    let mut chosen: Vec<(String, Wanted)> = Vec::new();
    for candidate in found {
        let take = if options.platforms.is_empty() {
            all == 1 || (chosen.is_empty() && fits(&candidate.platform, &host))
        } else {
            options.platforms.iter().any(|want| fits(&candidate.platform, want))
        };
        if take {
            chosen.push((candidate.digest, candidate.image));
        }
    }
    chosen
}
