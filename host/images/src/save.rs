//! Writing images as archives: at once a `docker save` archive and an OCI layout.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use wharf_plan::platform::Platform;

use crate::archive::blocks::{BLOCK, fill};
use crate::digest::{self, Beside};
use crate::distribution::manifest_of;
use crate::error::{Error, Result};
use crate::image_index::{Document, Entry, ImageIndex, layer_digests, platform_of, statement_blobs};
use crate::import::header;
use crate::inner::{Inner, Pin};
use crate::model::Image;
use crate::oci::{FORMER, FORMER_MANIFEST};
use crate::record::Index;
use crate::reference::{AnyReference, Reference};
use crate::remove::{Found, find, no_such, not_provided};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Blocks on their way to the client.
const QUEUE: usize = 4;

/// An archive as it is being written. It ends early, and so is no archive, if writing fails.
#[derive(Debug)]
pub struct Saving {
    from: mpsc::Receiver<Bytes>,
    block: Bytes,
}

impl AsyncRead for Saving {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.block.is_empty() {
            match ready!(this.from.poll_recv(cx)) {
                Some(block) => this.block = block,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = this.block.len().min(buffer.remaining());
        buffer.put_slice(this.block.get(..n).unwrap_or_default());
        this.block.advance(n);
        Poll::Ready(Ok(()))
    }
}

/// Collects what is written into blocks.
struct Out {
    to: mpsc::Sender<Bytes>,
    block: Vec<u8>,
}

impl Out {
    /// Sends what has been collected; answers it.
    fn pass(&mut self) -> io::Result<Bytes> {
        if self.block.is_empty() {
            return Ok(Bytes::new());
        }
        let block = Bytes::from(std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK)));
        self.to.blocking_send(block.clone()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(block)
    }

    /// Writes all that `from` has; answers its bytes and their hash.
    fn all_of(&mut self, from: &mut impl Read) -> io::Result<(u64, String)> {
        let mut total = 0;
        let hash = Beside::begin()?;
        loop {
            let start = self.block.len();
            self.block.resize(BLOCK.max(start), 0);
            let n = fill(from, self.block.get_mut(start..).unwrap_or_default())?;
            self.block.truncate(start + n);
            total += n as u64;
            if self.block.len() < BLOCK {
                hash.update(Bytes::copy_from_slice(self.block.get(start..).unwrap_or_default()))?;
                return Ok((total, hash.finish()?));
            }
            hash.update(self.pass()?.slice(start..))?;
        }
    }
}

impl Write for Out {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = data.len().min(BLOCK - self.block.len().min(BLOCK));
        self.block.extend_from_slice(data.get(..n).unwrap_or_default());
        if self.block.len() >= BLOCK {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass().map(drop)
    }
}

/// What of an image goes into an archive.
#[derive(Debug, Clone, Default)]
pub struct SaveOptions {
    /// Only these platforms; empty: all that are here.
    pub platforms: Vec<Platform>,
}

/// One or several platforms of an image with the names they are saved under.
struct Saved {
    /// First the one that is meant where no platform is asked for. Never empty.
    images: Vec<Member>,
    /// The index that they are of.
    index: Option<Arc<ImageIndex>>,
    names: BTreeSet<Reference>,
}

/// One platform.
struct Member {
    image: Arc<Image>,
    platform: Platform,
    /// The manifest that an index names it by.
    manifest: Option<Document>,
}

/// The platforms of what was found that are to be saved.
fn platforms(index: &Index, text: &str, found: &Found, options: &SaveOptions) -> Result<Vec<Member>> {
    let mut chosen: Vec<Member> = Vec::new();
    let Some(of) = &found.index else {
        let image = found.image.clone().ok_or_else(|| no_such(text))?;
        let platform = platform_of(&image);
        return Ok(vec![Member { image, platform, manifest: None }]);
    };
    for wanted in &options.platforms {
        if of.present_for(wanted).is_none() {
            return Err(not_provided(text, wanted));
        }
    }
    let primary = of.primary().map(|(entry, _)| entry.digest.clone());
    for (entry, present) in of.here() {
        let fits = |wanted: &Platform| of.present_for(wanted).is_some_and(|(e, _)| e.digest == entry.digest);
        if !options.platforms.is_empty() && !options.platforms.iter().any(fits) {
            continue;
        }
        let Some(image) = index.images.get(&present.image) else { continue };
        let one = Member {
            image: Arc::clone(image),
            platform: present.platform.clone(),
            manifest: Some(present.manifest.clone()),
        };
        if primary.as_ref() == Some(&entry.digest) {
            chosen.insert(0, one);
        } else {
            chosen.push(one);
        }
    }
    if chosen.is_empty() {
        return Err(no_such(text));
    }
    Ok(chosen)
}

/// What the references mean: an id is saved without names, a repository with all of its tags.
fn select(index: &Index, references: &[String], options: &SaveOptions) -> Result<Vec<Saved>> {
    let mut chosen: Vec<(Vec<String>, Saved)> = Vec::new();
    let mut add = |text: &str, found: &Found, name: Option<Reference>| -> Result<()> {
        let images = platforms(index, text, found, options)?;
        let of = found.index.iter().map(|index| index.digest.clone());
        let ids: Vec<String> = images.iter().map(|one| one.image.id.clone()).chain(of).collect();
        if let Some((_, saved)) = chosen.iter_mut().find(|(known, _)| *known == ids) {
            saved.names.extend(name);
        } else {
            let (index, names) = (found.index.clone(), name.into_iter().collect());
            chosen.push((ids, Saved { images, index, names }));
        }
        Ok(())
    };
    for text in references {
        let parsed = AnyReference::parse(text)?;
        let AnyReference::Named(named) = parsed else {
            add(text, &find(index, text)?, None)?;
            continue;
        };
        if named.tag.is_none() && named.digest.is_none() {
            let repository = named.name();
            let mut any = false;
            for name in index.names.keys() {
                let Ok(name) = Reference::parse(name) else { continue };
                if name.digest.is_none() && name.name() == repository {
                    let full = name.full();
                    add(&full, &find(index, &full)?, Some(name))?;
                    any = true;
                }
            }
            if any {
                continue;
            }
        }
        let found = find(index, text)?;
        // An id can look like a name.
        let known = index.names.contains_key(&named.full());
        add(text, &found, Some(named).filter(|n| known && n.digest.is_none()))?;
    }
    Ok(chosen.into_iter().map(|(_, saved)| saved).collect())
}

impl Inner {
    /// The archive as a stream. What is wrong with the request is said at once; a failure while writing ends the
    /// stream early, so that it is no archive.
    pub(crate) fn save(self: &Arc<Self>, references: &[String], options: &SaveOptions) -> Result<Saving> {
        let saved = select(&self.index.load(), references, options)?;
        if saved.is_empty() {
            return Err(Error::invalid("no image to save was given"));
        }
        let images = saved.iter().flat_map(|s| s.images.iter());
        let pins: Vec<Pin> =
            images.filter_map(|one| one.image.chain_id()).map(|chain| self.pin(chain)).collect();
        let (to, from) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Handle::current();
        let inner = Arc::clone(self);
        let working = self.working.token();
        tokio::task::spawn_blocking(move || {
            let (_working, _pins) = (working, pins);
            let mut out = Out { to, block: Vec::with_capacity(BLOCK) };
            match write(&inner, &runtime, &saved, &mut out) {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "an archive could not be written to its end"),
            }
        });
        Ok(Saving { from, block: Bytes::new() })
    }
}

fn write(inner: &Arc<Inner>, runtime: &tokio::runtime::Handle, saved: &[Saved], out: &mut Out) -> Result<()> {
    directory(out, "blobs")?;
    directory(out, "blobs/sha256")?;
    let mut written: BTreeSet<String> = BTreeSet::new();
    let (mut manifests, mut items) = (Vec::new(), Vec::new());
    for Saved { images, index, names } in saved {
        let exact = index.as_ref().filter(|index| is_exact(index, images));
        let had = match (index, images.first()) {
            (None, Some(one)) => known_as(inner, &one.image, names)?,
            _ => BTreeMap::new(),
        };
        let mut descriptors = Vec::new();
        for (number, Member { image, platform, manifest }) in images.iter().enumerate() {
            let same = match index {
                Some(_) => manifest.as_ref().filter(|_| exact.is_some()),
                None => had.values().find(|manifest| is_plain(image, manifest)),
            };
            let (descriptor, sources) = write_image(inner, runtime, image, same, &mut written, out)?;
            // What knows `manifest.json` alone knows one platform of a name.
            if number == 0 {
                let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
                items.push(json!({
                    "Config": path(&image.id),
                    "RepoTags": if tags.is_empty() { Value::Null } else { json!(tags) },
                    "Layers": image.layers.iter().map(|l| path(&l.diff_id)).collect::<Vec<_>>(),
                    "LayerSources": sources,
                }));
            }
            descriptors.push(with(&descriptor, "platform", json!(platform)));
        }
        if let Some(index) = index {
            write_former(inner, index, images, &mut written, out)?;
        }
        for manifest in had.values() {
            once(manifest.content.as_bytes(), &mut written, out)?;
        }
        let descriptor = if let Some(index) = exact {
            json!({"mediaType": index.document.media_type, "digest": index.digest,
                "size": index.document.content.len()})
        } else if let [one] = descriptors.as_slice() {
            let mut plain = one.clone();
            plain.as_object_mut().map(|map| map.remove("platform"));
            plain
        } else {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors});
            let index = text(&index)?;
            let digest = digest::of(&index);
            if written.insert(digest.clone()) {
                blob(out, &digest, index.len() as u64, &mut index.as_slice())?;
            }
            json!({"mediaType": INDEX, "digest": digest, "size": index.len()})
        };
        if names.is_empty() {
            manifests.push(descriptor.clone());
        }
        for name in names {
            let mut notes = json!({
                "io.containerd.image.name": name.full(), "org.opencontainers.image.ref.name": name.tag,
            });
            if let (Some(index), None, Some(map)) = (index, exact, notes.as_object_mut()) {
                map.insert(FORMER.into(), json!(index.digest));
            }
            if let (Some(manifest), Some(map)) = (had.get(name), notes.as_object_mut()) {
                map.insert(FORMER_MANIFEST.into(), json!(digest::of(manifest.content.as_bytes())));
            }
            manifests.push(with(&descriptor, "annotations", notes));
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    document(out, "index.json", &text(&index)?)?;
    document(out, "manifest.json", &text(&json!(items))?)?;
    document(out, "oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)?;
    out.write_all(&[0; 1024])?;
    out.flush()?;
    Ok(())
}

/// Whether an archive of these images is the index as it is: all of it is among them, and their layers are kept as the
/// manifests name them, which are those that are not compressed.
fn is_exact(index: &ImageIndex, images: &[Member]) -> bool {
    let plain = |one: &Member| one.manifest.as_ref().is_some_and(|manifest| is_plain(&one.image, manifest));
    index.is_complete() && images.len() == index.here().count() && images.iter().all(plain)
}

/// Whether a manifest names an image's layers as they are kept: not compressed.
fn is_plain(image: &Image, manifest: &Document) -> bool {
    let layers = layer_digests(&manifest.content);
    layers.iter().eq(image.layers.iter().map(|layer| &layer.diff_id))
}

/// The manifests that an image, which is of no index, is known by under its names.
///
/// Where their layers are compressed the archive has another manifest over the plain ones, as compressing them would take longer
/// than all the rest; its text goes beside that, so that whoever loads the archive here has the image under its digest. To
/// other programs that text is a blob that nothing refers to.
fn known_as(
    inner: &Inner,
    image: &Image,
    names: &BTreeSet<Reference>,
) -> Result<BTreeMap<Reference, Document>> {
    let index = inner.index.load();
    let mut all = BTreeMap::new();
    for name in names {
        if let Some(manifest) = manifest_of(inner, &index, &image.id, name)? {
            all.insert(name.clone(), manifest);
        }
    }
    Ok(all)
}

/// Writes a document, unless it is written.
fn once(bytes: &[u8], written: &mut BTreeSet<String>, out: &mut Out) -> Result<()> {
    let digest = digest::of(bytes);
    if written.insert(digest.clone()) {
        blob(out, &digest, bytes.len() as u64, &mut { bytes })?;
    }
    Ok(())
}

/// Writes the texts of an index, of its manifests for these images and of the statements about them, with the blobs of the
/// latter: whoever loads the archive has the index under its digest, whatever the layers are compressed as in it.
fn write_former(
    inner: &Inner,
    index: &ImageIndex,
    images: &[Member],
    written: &mut BTreeSet<String>,
    out: &mut Out,
) -> Result<()> {
    let mut once = |bytes: &[u8]| once(bytes, written, out);
    let manifests: BTreeSet<String> = images
        .iter()
        .filter_map(|one| one.manifest.as_ref())
        .map(|m| digest::of(m.content.as_bytes()))
        .collect();
    for document in images.iter().filter_map(|one| one.manifest.as_ref()).chain(index.nested.values()) {
        once(document.content.as_bytes())?;
    }
    for (digest, statement) in &index.statements {
        let about = index.entry(digest).and_then(Entry::about);
        if about.is_some_and(|about| !manifests.contains(about)) {
            continue;
        }
        for digest in statement_blobs(&statement.content) {
            once(&inner.content.read_blob(&digest)?)?;
        }
        once(statement.content.as_bytes())?;
    }
    once(index.document.content.as_bytes())
}

/// Writes an image's layers, configuration and manifest (`same`, or one that is made of them), as far as they are not written yet. Answers the manifest's
/// descriptor and those of the layers.
fn write_image(
    inner: &Arc<Inner>,
    runtime: &tokio::runtime::Handle,
    image: &Image,
    same: Option<&Document>,
    written: &mut BTreeSet<String>,
    out: &mut Out,
) -> Result<(Value, serde_json::Map<String, Value>)> {
    let mut layers = Vec::new();
    let mut sources = serde_json::Map::new();
    for layer in image.layers.iter() {
        let size = Inner::layer(&inner.index.load(), &layer.chain_id)?.tar_size;
        if written.insert(layer.diff_id.clone()) {
            let mut stream = runtime.block_on(inner.export_layer(&layer.chain_id))?;
            blob(out, &layer.diff_id, size, &mut stream)?;
        }
        let descriptor = json!({"mediaType": LAYER, "digest": layer.diff_id, "size": size});
        sources.insert(layer.diff_id.clone(), descriptor.clone());
        layers.push(descriptor);
    }
    let config = image.raw_config.as_bytes();
    if written.insert(image.id.clone()) {
        blob(out, &image.id, config.len() as u64, &mut { config })?;
    }
    let media_type = same.map_or(MANIFEST, |same| same.media_type.as_str());
    let made = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": image.id, "size": config.len()},
        "layers": layers,
    });
    let manifest = match same {
        Some(same) => same.content.clone().into_bytes(),
        None => text(&made)?,
    };
    let digest = digest::of(&manifest);
    if written.insert(digest.clone()) {
        blob(out, &digest, manifest.len() as u64, &mut manifest.as_slice())?;
    }
    Ok((json!({"mediaType": media_type, "digest": digest, "size": manifest.len()}), sources))
}

/// A descriptor with one more member.
fn with(descriptor: &Value, key: &str, value: Value) -> Value {
    let mut descriptor = descriptor.clone();
    if let Some(map) = descriptor.as_object_mut() {
        map.insert(key.into(), value);
    }
    descriptor
}

fn text(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal(e.to_string()))
}

fn path(digest: &str) -> String {
    format!("blobs/sha256/{}", digest::hex(digest))
}

fn directory(out: &mut impl Write, name: &str) -> Result<()> {
    Ok(out.write_all(&header(&format!("{name}/"), b'5', 0o755, 0)?)?)
}

fn document(out: &mut impl Write, name: &str, data: &[u8]) -> Result<()> {
    out.write_all(&header(name, b'0', 0o644, data.len() as u64)?)?;
    out.write_all(data)?;
    pad(out, data.len() as u64)
}

fn pad(out: &mut impl Write, size: u64) -> Result<()> {
    let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
    Ok(out.write_all([0; 512].get(..padding).unwrap_or_default())?)
}

/// Writes a blob and makes sure that it is what its name says.
fn blob(out: &mut Out, digest: &str, size: u64, input: &mut impl Read) -> Result<()> {
    out.write_all(&header(&path(digest), b'0', 0o644, size)?)?;
    let (length, found) = out.all_of(&mut input.take(size))?;
    if length != size || found != digest {
        return Err(Error::internal(format!("the files of blob {digest} have changed on the disk")));
    }
    pad(out, size)
}
