//! OCI image layouts inside archives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Deserialize;
use serde_json::Value;
use wharf_plan::platform::Platform;
use wharf_plan::statement;

use crate::Limits;
use crate::distribution::Blob;
use crate::error::{Error, Result};
use crate::image_index::{Document as Text, IncomingIndex, Statement, nullable, statement_blobs};
use crate::load::{Archive, Had, Wanted, none_of};
use crate::model::LoadOptions;
use crate::record::ConfigFile;
use crate::reference::{Reference, check_digest};

pub(crate) const INDEX: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Says which index the images of an entry of `index.json` were of, whose text the archive has too: in the archive the layers
/// are not compressed, and so it has another index over them.
pub(crate) const FORMER: &str = "org.wharf.image.index";
/// The same of an image that was of no index: its manifest as a registry has it.
pub(crate) const FORMER_MANIFEST: &str = "org.wharf.image.manifest";
/// Bytes of such a manifest: registries have none that is larger.
const MOST_MANIFEST: usize = 4 << 20;
/// Entries of such an index.
const MOST_FORMER: usize = 2000;
/// Indexes inside indexes.
const DEPTH: usize = 4;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
    #[serde(default, deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

impl Descriptor {
    /// A statement about an image rather than an image.
    fn is_statement(&self) -> bool {
        statement::is_statement(&self.annotations, self.platform.as_ref())
    }
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

/// What a layout has to give.
#[derive(Default)]
pub(crate) struct Layout {
    /// Images, each once.
    pub images: Vec<Wanted>,
    /// Indexes over them.
    pub indexes: Vec<WantedIndex>,
}

/// An index of a layout, with a name.
pub(crate) struct WantedIndex {
    pub incoming: IncomingIndex,
    /// Its images here: position among the layout's images, and manifest.
    pub members: Vec<(usize, Text)>,
    pub names: Vec<Reference>,
}

/// Whether `index.json` tells what `manifest.json` cannot: of several platforms under one name, or of a manifest that a registry
/// may know the image by.
pub(crate) fn says_more(archive: &Archive) -> bool {
    let document = |name: &str| Document::parse(archive.text(name).ok()?, name).ok();
    let listed = document("index.json").and_then(|index| index.manifests).unwrap_or_default();
    listed.iter().any(|descriptor| {
        if [FORMER, FORMER_MANIFEST].iter().any(|note| descriptor.annotations.contains_key(*note)) {
            return true;
        }
        let name = blob_name(&descriptor.digest).ok();
        let Some(found) = name.and_then(|name| document(&name)) else { return false };
        let config = || archive.text(&blob_name(&found.config.as_ref()?.digest).ok()?).ok();
        let layers = found.layers.as_deref().unwrap_or_default();
        found.manifests.is_some() || config().is_some_and(|config| are_packed(config, layers))
    })
}

/// Whether layers are not the plain streams that the configuration names. Who compressed them meant the manifest for a
/// registry; one over plain layers is what `docker save` makes up, whatever the image came with.
fn are_packed(config: &str, layers: &[Descriptor]) -> bool {
    let diff_ids =
        ConfigFile::parse(config).ok().and_then(|config| config.rootfs.diff_ids).unwrap_or_default();
    layers.iter().zip(&diff_ids).any(|(layer, diff_id)| layer.digest != *diff_id)
}

/// Images that `index.json` lists.
pub(crate) fn images(archive: &Archive, options: &LoadOptions, limits: &Limits) -> Result<Layout> {
    let index = Document::parse(archive.text("index.json")?, "index.json")?;
    let Some(manifests) = index.manifests else {
        return Err(Error::invalid("index.json in the archive lists no images"));
    };
    let mut layout = Layout::default();
    let mut known: Vec<String> = Vec::new();
    let mut indexes: Vec<String> = Vec::new();
    for descriptor in &manifests {
        let name = name_of(descriptor)?;
        let mut found = Vec::new();
        collect(archive, descriptor, DEPTH, limits, &mut BTreeSet::new(), &mut found)?;
        let read = Document::parse(archive.text(&blob_name(&descriptor.digest)?).unwrap_or("{}"), "blob")?;
        let former = former(archive, descriptor, &found)?;
        let several = read.manifests.is_some() || former.is_some();
        // Without a name nothing would lead to it.
        let is_index = several && name.is_some();
        let index = former.as_ref().map_or(descriptor, |former| &former.descriptor);
        if let (Some(at), true) = (indexes.iter().position(|d| *d == index.digest), is_index) {
            if let Some(index) = layout.indexes.get_mut(at) {
                index.names.extend(name);
            }
            continue;
        }
        let mut members = Vec::new();
        for candidate in choose(found, options, several) {
            let config = crate::digest::of(candidate.image.config.as_bytes());
            let had = if is_index { None } else { had(archive, descriptor, &candidate)? };
            let manifest = match &former {
                Some(former) => former.manifests.get(&config).cloned(),
                None => Some(candidate.manifest),
            };
            let at = known.iter().position(|d| *d == candidate.digest).unwrap_or_else(|| {
                known.push(candidate.digest.clone());
                layout.images.push(candidate.image);
                layout.images.len() - 1
            });
            if is_index {
                members.extend(manifest.map(|manifest| (at, manifest)));
            } else if let Some(image) = layout.images.get_mut(at) {
                image.names.extend(name.clone());
                image.manifests.extend(name.clone().zip(had));
            }
        }
        if is_index && !members.is_empty() {
            let incoming = incoming(archive, index, &members)?;
            indexes.push(index.digest.clone());
            layout.indexes.push(WantedIndex { incoming, members, names: name.into_iter().collect() });
        }
        if layout.images.len() > limits.images {
            return Err(Error::too_large(format!("the archive has more than {} images", limits.images)));
        }
    }
    if let (true, Some(platform)) = (layout.images.is_empty(), options.platforms.first()) {
        return Err(none_of(platform));
    }
    Ok(layout)
}

/// The manifest that an image had before it was saved, or has: none if the archive's is made up.
fn had(archive: &Archive, descriptor: &Descriptor, image: &Candidate) -> Result<Option<Had>> {
    let own = Had { manifest: image.manifest.clone(), claimed: false };
    let Some(digest) = descriptor.annotations.get(FORMER_MANIFEST) else {
        return Ok(image.packed.then_some(own));
    };
    if *digest == image.digest {
        return Ok(Some(own));
    }
    let name = blob_name(digest)?;
    if archive.document(&name)?.is_none() {
        return Ok(None);
    }
    let content = archive.text(&name)?;
    if content.len() > MOST_MANIFEST {
        return Ok(None);
    }
    let document = Document::parse(content, &name)?;
    let config = document.config.filter(|_| document.manifests.is_none()).map(|config| config.digest);
    let layers = document.layers.unwrap_or_default().len();
    if config != Some(crate::digest::of(image.image.config.as_bytes())) || layers != image.image.layers.len()
    {
        return Ok(None);
    }
    let media_type = Some(document.media_type).filter(|m| !m.is_empty());
    let media_type = media_type.unwrap_or_else(|| MANIFEST[0].to_owned());
    Ok(Some(Had { manifest: Text { media_type, content: content.to_owned() }, claimed: true }))
}

/// The index that images of an archive were of.
struct Former {
    descriptor: Descriptor,
    /// Its manifests for them, by the digest of the configuration.
    manifests: BTreeMap<String, Text>,
}

/// Finds it, if the archive has its text and it has all of these images.
fn former(archive: &Archive, descriptor: &Descriptor, images: &[Candidate]) -> Result<Option<Former>> {
    let Some(digest) = descriptor.annotations.get(FORMER) else { return Ok(None) };
    let mut manifests = BTreeMap::new();
    // Level by level, so that what is named again further down was looked at where more may be inside of it.
    let mut open = VecDeque::from([(digest.clone(), String::new(), 1)]);
    let mut seen = BTreeSet::from([digest.clone()]);
    while let Some((digest, stated, depth)) = open.pop_front() {
        let name = blob_name(&digest)?;
        if archive.document(&name)?.is_none() {
            continue;
        }
        let content = archive.text(&name)?;
        let document = Document::parse(content, &name)?;
        if let Some(inside) = document.manifests.filter(|_| depth <= DEPTH) {
            let inside = inside.into_iter().filter(|entry| !entry.is_statement());
            let inside = inside.filter(|entry| seen.insert(entry.digest.clone()));
            open.extend(inside.map(|entry| (entry.digest, entry.media_type, depth + 1)));
        } else if let Some(config) = document.config {
            let media_type = [document.media_type, stated].into_iter().find(|m| !m.is_empty());
            let media_type = media_type.unwrap_or_else(|| MANIFEST[0].to_owned());
            manifests.insert(config.digest, Text { media_type, content: content.to_owned() });
        }
        // But for the index itself.
        if seen.len() > MOST_FORMER + 1 {
            return Err(Error::too_large("the archive has an index of too many images"));
        }
    }
    let known = |one: &Candidate| manifests.contains_key(&crate::digest::of(one.image.config.as_bytes()));
    if images.is_empty() || !images.iter().all(known) {
        return Ok(None);
    }
    let descriptor = Descriptor {
        media_type: String::new(),
        digest: digest.clone(),
        size: 0,
        annotations: BTreeMap::new(),
        platform: None,
    };
    Ok(Some(Former { descriptor, manifests }))
}

/// The texts of an index, of those inside of it, and of the statements about its chosen images that the archive has.
fn incoming(archive: &Archive, descriptor: &Descriptor, members: &[(usize, Text)]) -> Result<IncomingIndex> {
    let text = |descriptor: &Descriptor| -> Result<Option<Text>> {
        let name = blob_name(&descriptor.digest)?;
        if archive.document(&name)?.is_none() {
            return Ok(None);
        }
        let content = archive.text(&name)?.to_owned();
        let document = Document::parse(&content, &name)?;
        let stated = [&document.media_type, &descriptor.media_type].into_iter().find(|m| !m.is_empty());
        let usual = if document.manifests.is_some() { INDEX } else { MANIFEST };
        let media_type = stated.cloned().unwrap_or_else(|| usual[0].to_owned());
        Ok(Some(Text { media_type, content }))
    };
    let chosen: Vec<String> = members.iter().map(|(_, m)| crate::digest::of(m.content.as_bytes())).collect();
    let document = text(descriptor)?.ok_or_else(|| Error::invalid("the archive lacks an index"))?;
    let (mut nested, mut statements) = (Vec::new(), Vec::new());
    // Level by level, as above.
    let mut open = VecDeque::from([(document.clone(), 1)]);
    let mut seen = BTreeSet::new();
    while let Some((at, depth)) = open.pop_front() {
        for entry in Document::parse(&at.content, "index")?.manifests.unwrap_or_default() {
            let said = entry.is_statement();
            let about = statement::about(&entry.annotations);
            let wanted = said && about.is_none_or(|about| chosen.iter().any(|digest| digest == about));
            // Once each as what it is here.
            if !seen.insert((entry.digest.clone(), said, wanted)) {
                continue;
            }
            let Some(found) = text(&entry)? else { continue };
            if said {
                if wanted {
                    statements.extend(statement(archive, found)?);
                }
            } else if INDEX.contains(&found.media_type.as_str()) && depth < DEPTH {
                nested.push(found.clone());
                open.push_back((found, depth + 1));
            }
        }
    }
    Ok(IncomingIndex { document, nested, statements })
}

/// A statement, if the archive has all of it.
fn statement(archive: &Archive, manifest: Text) -> Result<Option<Statement>> {
    let mut blobs = Vec::new();
    for digest in statement_blobs(&manifest.content) {
        let Some(bytes) = archive.document(&blob_name(&digest)?)? else { return Ok(None) };
        blobs.push(bytes::Bytes::copy_from_slice(bytes));
    }
    Ok(Some(Statement { manifest, blobs }))
}

/// The name that the layout gives to an image.
fn name_of(descriptor: &Descriptor) -> Result<Option<Reference>> {
    let annotations = &descriptor.annotations;
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
    /// A layer of it is compressed.
    packed: bool,
    platform: Platform,
    manifest: Text,
    image: Wanted,
}

/// Finds the images of an index, or the image. `seen` has the indexes that were read already, by digest, what they were
/// said to be and the depth that was left: an index may name another many times, and that one another.
fn collect(
    archive: &Archive,
    descriptor: &Descriptor,
    depth: usize,
    limits: &Limits,
    seen: &mut BTreeSet<(String, String, usize)>,
    found: &mut Vec<Candidate>,
) -> Result<()> {
    if found.len() > limits.images {
        return Err(Error::too_large(format!("the archive has more than {} images", limits.images)));
    }
    // Statements about images are no images.
    if descriptor.is_statement() {
        return Ok(());
    }
    let name = blob_name(&descriptor.digest)?;
    let key = (descriptor.digest.clone(), descriptor.media_type.clone(), depth);
    if seen.contains(&key) {
        return Ok(());
    }
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
        seen.insert(key);
        return manifests.iter().try_for_each(|d| collect(archive, d, depth - 1, limits, seen, found));
    }
    if stated.iter().any(|m| INDEX.contains(m)) {
        return Err(Error::invalid(format!("{name} in the archive is not the index it should be")));
    }
    let Some(config) = document.config else {
        return Err(Error::invalid(format!("{name} in the archive has no configuration")));
    };
    let text = archive.text(&blob_name(&config.digest)?)?.to_owned();
    let listed = document.layers.unwrap_or_default();
    let packed = are_packed(&text, &listed);
    let (mut layers, mut blobs) = (Vec::new(), Vec::new());
    for layer in listed {
        layers.push(blob_name(&layer.digest)?);
        let Descriptor { digest, size, media_type, .. } = layer;
        blobs.push(Blob { digest, size, media_type, source: String::new() });
    }
    let platform = match &descriptor.platform {
        Some(platform) => platform.clone(),
        None => ConfigFile::parse(&text)?.platform(),
    };
    let media_type = stated.into_iter().find(|m| !m.is_empty()).unwrap_or(MANIFEST[0]).to_owned();
    found.push(Candidate {
        digest: descriptor.digest.clone(),
        packed,
        platform,
        manifest: Text { media_type, content: archive.text(&name)?.to_owned() },
        image: Wanted { config: text, layers, blobs, names: Vec::new(), manifests: Vec::new(), parent: None },
    });
    Ok(())
}

/// Of one name's platforms, those asked for; else all that run here in principle, or of what has no index the one for this
/// host or the only one.
fn choose(found: Vec<Candidate>, options: &LoadOptions, index: bool) -> Vec<Candidate> {
    if !options.platforms.is_empty() {
        let asked = |c: &Candidate| options.platforms.iter().any(|p| p.fit(&c.platform).is_some());
        return found.into_iter().filter(asked).collect();
    }
    if found.len() == 1 {
        return found;
    }
    if index {
        return found.into_iter().filter(|c| c.platform.os == "linux").collect();
    }
    let host = Platform::host();
    let fit = |c: &Candidate| host.fit(&c.platform);
    let best = found.iter().filter_map(fit).min();
    found.into_iter().find(|c| best.is_some() && fit(c) == best).into_iter().collect()
}
