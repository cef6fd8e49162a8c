//! Images of one layer: from a tar stream, or from files given as bytes.

use std::io::Read;
use std::sync::Arc;

use serde_json::{Value, json};
use wharf_store::Transaction;

use crate::archive::unpack::Budget;
use crate::changes::apply_changes;
use crate::digest;
use crate::error::{Error, Result};
use crate::image_index::Target;
use crate::inner::Inner;
use crate::layers::Unpacked;
use crate::model::{EmbeddedFile, Image, ImageConfig, ImportOptions};
use crate::record::{IMAGES, ImageRecord, encode};
use crate::reference::Reference;

/// The name that an import asks for.
pub(crate) fn name(options: &ImportOptions) -> Result<Option<Reference>> {
    if options.repository.is_empty() {
        return Ok(None);
    }
    let mut reference = Reference::parse(&options.repository)?;
    if reference.digest.is_some() {
        return Err(Error::invalid("cannot import digest reference"));
    }
    if !options.tag.is_empty() {
        reference = Reference::parse(&format!("{}:{}", reference.name(), options.tag))?;
    }
    Ok(Some(reference.or_latest()))
}

/// `linux/arm64/v8` taken apart; empty means this host.
fn platform(text: &str) -> Result<(String, String, String)> {
    let mut parts = text.split('/');
    let os = parts.next().filter(|p| !p.is_empty()).unwrap_or("linux");
    let architecture = parts.next().filter(|p| !p.is_empty()).unwrap_or(crate::host_architecture());
    let variant = parts.next().unwrap_or_default();
    let word =
        |t: &str| t.len() <= 32 && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if parts.next().is_some() || ![os, architecture, variant].into_iter().all(word) {
        return Err(Error::invalid(format!("\"{text}\" is an invalid component of a platform")));
    }
    if os != "linux" {
        return Err(Error::invalid(format!("operating system is not supported: {os}")));
    }
    Ok((os.into(), architecture.into(), variant.into()))
}

/// The configuration of an image of one layer.
pub(crate) fn configuration(
    config: &ImageConfig,
    options: &ImportOptions,
    created: &str,
    diff_id: &str,
) -> Result<String> {
    let (os, architecture, variant) = platform(&options.platform)?;
    let mut history = json!({ "created": created });
    if !options.message.is_empty() {
        set(&mut history, "comment", json!(options.message));
    }
    let mut file = json!({
        "architecture": architecture,
        "config": config,
        "created": created,
        "history": [history],
        "os": os,
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    if !options.message.is_empty() {
        set(&mut file, "comment", json!(options.message));
    }
    if !variant.is_empty() {
        set(&mut file, "variant", json!(variant));
    }
    serde_json::to_string(&file).map_err(|e| Error::internal(e.to_string()))
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value);
    }
}

impl Inner {
    /// Unpacks one layer that lies on nothing.
    pub(crate) async fn unpack_base(
        self: &Arc<Self>,
        input: impl Read + Send + 'static,
        budget: Arc<Budget>,
    ) -> Result<Unpacked> {
        let target = self.layer_target(None).await?;
        let runtime = tokio::runtime::Handle::current();
        let inner = Arc::clone(self);
        crate::inner::blocking(move || inner.unpack(&runtime, target, input, &budget)).await
    }

    /// Records an image made of one unpacked layer.
    pub(crate) async fn record_single(
        self: &Arc<Self>,
        unpacked: Unpacked,
        name: Option<Reference>,
        config: String,
    ) -> Result<Arc<Image>> {
        let _changing = self.changing.lock().await;
        let mut index = self.index.load().as_ref().clone();
        self.commit_layer(&mut index, None, unpacked).await?;
        let made = self.record_image(&mut index, name, config, None).await;
        if made.is_err() {
            index.images.clone_from(&self.index.load().images);
            index.forget_names(&self.index.load());
            self.collect_layers(&mut index).await?;
        }
        self.index.store(Arc::new(index));
        made
    }

    /// Records an image whose layers exist, under a name if there is one. The caller holds `changing`.
    pub(crate) async fn record_image(
        &self,
        index: &mut crate::record::Index,
        name: Option<Reference>,
        config: String,
        parent: Option<String>,
    ) -> Result<Arc<Image>> {
        let id = digest::of(config.as_bytes());
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let record = ImageRecord { config, parent, last_tag_time: if name.is_some() { now } else { 0 } };
        let mut transaction = Transaction::new();
        transaction.put(IMAGES, &self.key(&id), encode(&record)?);
        index.insert(&id, &record)?;
        if let Some(name) = name {
            index.point(self, &mut transaction, &name, &Target::image(&id))?;
        }
        self.make_durable().await?;
        self.commit_lasting(transaction).await?;
        self.sweep_blobs(index);
        index.images.get(&id).cloned().ok_or_else(|| Error::internal("a lost image"))
    }

    pub(crate) fn budget(&self) -> Arc<Budget> {
        let limits = &self.settings.limits;
        Arc::new(Budget::new(limits.unpacked, limits.layer_entries))
    }

    pub(crate) async fn import(
        self: &Arc<Self>,
        input: impl Read + Send + 'static,
        options: ImportOptions,
        budget: Arc<Budget>,
    ) -> Result<Arc<Image>> {
        // What is wrong with the request is said before the stream is read.
        let name = name(&options)?;
        let mut config = ImageConfig::default();
        apply_changes(&mut config, &options.changes)?;
        let created = jiff::Timestamp::now().to_string();
        configuration(&config, &options, &created, "")?;
        let unpacked = self.unpack_base(input, budget).await?;
        let text = configuration(&config, &options, &created, &unpacked.diff_id)?;
        self.record_single(unpacked, name, text).await
    }
}

/// A tar stream of some files, the same for the same files.
pub(crate) fn archive(files: &[EmbeddedFile]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut dirs: std::collections::BTreeSet<&str> = std::collections::BTreeSet::new();
    for file in files {
        for (at, _) in file.path.match_indices('/') {
            if let Some(dir) = file.path.get(..at)
                && dirs.insert(dir)
            {
                out.extend(header(dir, b'5', 0o755, 0)?);
            }
        }
        out.extend(header(&file.path, b'0', file.mode, file.content.len() as u64)?);
        out.extend_from_slice(&file.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    Ok(out)
}

/// A ustar header owned by root, at the beginning of time.
pub(crate) fn header(path: &str, kind: u8, mode: u32, size: u64) -> Result<[u8; 512]> {
    let mut block = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| -> Result<()> {
        block
            .get_mut(at..at + text.len())
            .ok_or_else(|| Error::internal("a tar header overflows"))?
            .copy_from_slice(text);
        Ok(())
    };
    if path.is_empty() || path.len() > 99 {
        return Err(Error::invalid(format!("{path:?} does not fit into a tar header")));
    }
    put(0, path.as_bytes())?;
    put(100, format!("{:07o}", mode & 0o7777).as_bytes())?;
    put(108, b"0000000")?;
    put(116, b"0000000")?;
    if size < 1 << 33 {
        put(124, format!("{size:011o}").as_bytes())?;
    } else {
        // Base 256, for what octal cannot say.
        put(124, &[0x80])?;
        put(128, &size.to_be_bytes())?;
    }
    put(136, b"00000000000")?;
    put(148, b"        ")?;
    put(156, &[kind])?;
    put(257, b"ustar\x0000")?;
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    let sum = format!("{sum:06o}\0 ");
    if let Some(field) = block.get_mut(148..156) {
        field.copy_from_slice(sum.as_bytes());
    }
    Ok(block)
}
