//! `docker pull`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_images::image_index::{Document as IndexText, ImageIndex, IncomingIndex, Statement};
use wharf_images::pull::{Incoming, Pull, Stage};
use wharf_images::reference::Reference;
use wharf_images::{Blob, Manifest};
use wharf_plan::platform::Platform;
use wharf_registry::manifest::MAX_CONFIG;
use wharf_registry::{Access, Credential, Descriptor, Document, Fetched, Piece, Resolved, Selector, Session};

use super::progress::{Lines, Meter};
use super::{credential, explain, short, signatures};
use crate::error::{Error, Result};
use crate::images::Progress;
use crate::policy::Subject;
use crate::{Caller, Engine};

/// What cosign calls its signatures.
const COSIGN: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// Bytes of all statements about one image that are kept.
const STATEMENT_BYTES: u64 = 16 << 20;
/// Statements about images that are looked at in one index.
const STATEMENTS: usize = 200;
/// Pieces on their way from the network to the disk.
const QUEUE: usize = 16;

/// Of `POST /images/create?fromImage=`.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Name, with a tag or a digest; without both all tags are meant.
    pub reference: String,
    /// `os[/arch[/variant]]`, or `all`: every platform of the index that could run on this operating system.
    pub platform: Option<String>,
    /// Headers that begin with `x-registry-`.
    pub headers: HashMap<String, String>,
}

/// Which images of an index are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// The one that does best there.
    One(Platform),
    /// All that this operating system could run.
    All,
}

impl Wanted {
    fn parse(text: &str) -> Result<Self> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        let platform = Platform::parse(text)?;
        if platform.os != "linux" {
            return Err(Error::invalid(format!("operating system is not supported: {}", platform.os)));
        }
        Ok(Self::One(platform))
    }

    fn text(&self) -> String {
        match self {
            Self::One(platform) => platform.text(),
            Self::All => "all".into(),
        }
    }

    /// Whether all of it that an index has is here.
    fn is_here(&self, index: &ImageIndex) -> bool {
        match self {
            Self::One(platform) => {
                index.best(platform).is_some_and(|entry| index.present.contains_key(&entry.digest))
            }
            Self::All => {
                let mut wanted = index.images().filter(|entry| is_ours(entry.platform.as_ref()));
                wanted.all(|entry| index.present.contains_key(&entry.digest))
            }
        }
    }
}

/// Whether this operating system could run it, as far as an index says.
fn is_ours(platform: Option<&Platform>) -> bool {
    platform.is_none_or(|platform| platform.os == "linux")
}

/// What the caller shows to the registry that was meant, and to no other.
#[derive(Clone)]
pub(super) struct Own {
    /// The registry.
    pub(super) domain: String,
    /// What is shown to it.
    pub(super) credential: Credential,
}

impl Own {
    /// What is shown to this registry.
    fn at(&self, domain: &str) -> Credential {
        if self.domain == domain { self.credential.clone() } else { Credential::Anonymous }
    }
}

/// One tag or digest to pull.
struct One<'a> {
    reference: &'a Reference,
    wanted: &'a Wanted,
    /// The content that a resolver plugin says the name has to have.
    pinned: Option<&'a str>,
    caller: &'a Caller,
}

impl Engine {
    /// `POST /images/create?fromImage=`.
    pub async fn image_pull(&self, options: PullOptions, caller: &Caller, progress: Progress) -> Result<()> {
        let (lines, pass) = Lines::new(progress);
        let work = self.pull_all(options, caller, lines);
        // The lines end with the work, and the work waits for the last line to be passed on.
        let (result, ()) = tokio::join!(work, pass);
        result
    }

    async fn pull_all(&self, options: PullOptions, caller: &Caller, lines: Lines) -> Result<()> {
        let mut reference = Reference::parse(&options.reference)?;
        let explicit = options.platform.as_deref().is_some_and(|p| !p.is_empty());
        let mut wanted = match options.platform.as_deref() {
            Some(text) if explicit => Wanted::parse(text)?,
            _ => Wanted::One(Platform::host()),
        };
        let own = Own { domain: reference.domain.clone(), credential: credential(&options.headers)? };
        let (session, pinned) = self.source(caller, &mut reference, &mut wanted, &own).await?;
        let tags = if reference.tag.is_none() && reference.digest.is_none() {
            session.tags().await.map_err(|e| explain(e, &reference))?
        } else {
            vec![String::new()]
        };
        for tag in tags {
            let mut one = reference.clone();
            if !tag.is_empty() {
                // What a registry calls a tag need not be one.
                one = Reference::parse(&format!("{}:{tag}", reference.name()))?;
            }
            let one = One { reference: &one, wanted: &wanted, pinned: pinned.as_deref(), caller };
            self.pull_one(&session, &one, &lines).await?;
        }
        Ok(())
    }

    /// Begins to read where a reference leads: policies may refuse or change it, plugins say of other places to ask and
    /// which content is meant.
    async fn source(
        &self,
        caller: &Caller,
        reference: &mut Reference,
        wanted: &mut Wanted,
        own: &Own,
    ) -> Result<(Session, Option<String>)> {
        self.resolve_hook(caller, reference, wanted).await?;
        let (mirrors, pinned) = self.places(reference, &wanted.text()).await?;
        let session = self.remote(reference, Access::Pull, own.at(&reference.domain)).await?;
        Ok((if mirrors.is_empty() { session } else { session.through(mirrors) }, pinned))
    }

    /// A conversation about what was pulled from a repository before, as a pull of it would begin one.
    pub(super) async fn source_again(
        &self,
        caller: &Caller,
        reference: &Reference,
        platform: &Platform,
        own: &Own,
    ) -> Result<Session> {
        let (mut reference, mut wanted) = (reference.clone(), Wanted::One(platform.clone()));
        Ok(self.source(caller, &mut reference, &mut wanted, own).await?.0)
    }

    /// Begins to read on behalf of others where a reference leads; answers the content that a plugin says it has to have.
    pub(super) async fn elsewhere(&self, reference: &Reference) -> Result<(Session, Option<String>)> {
        let (mut reference, mut wanted) = (reference.clone(), Wanted::All);
        let own = Own { domain: String::new(), credential: Credential::Anonymous };
        let (session, pinned) = self.source(&Caller::default(), &mut reference, &mut wanted, &own).await?;
        // Whoever asks names the registry.
        Ok((session.for_strangers(), pinned))
    }

    /// Policies see an image before others get it.
    pub(super) async fn admit_for_others(
        &self,
        session: &Session,
        reference: &Reference,
        manifest: Fetched,
        root: Descriptor,
        platform: Option<Platform>,
    ) -> Result<()> {
        let Document::Image(image) = manifest.document.clone() else { return Ok(()) };
        if self.inner.plugins.policies("image-admit").is_empty() {
            return Ok(());
        }
        let config = session.small(&image.config, MAX_CONFIG).await?;
        let found = Resolved { root, indexes: Vec::new(), platform, manifest, image: *image, config };
        let caller = Caller::default();
        let one = One { reference, wanted: &Wanted::All, pinned: None, caller: &caller };
        self.admit(session, &one, &found).await
    }

    /// Policies may refuse a reference before any registry is asked, or name another one.
    async fn resolve_hook(
        &self,
        caller: &Caller,
        reference: &mut Reference,
        wanted: &mut Wanted,
    ) -> Result<()> {
        let target = reference.full();
        let subject = Subject { point: "image-resolve", target: &target, labels: Vec::new(), dry_run: false };
        let object = || json!({"reference": reference.full(), "platform": wanted.text()});
        let reviewed = self.review(caller, subject, object).await?;
        if let Some(edited) = reviewed.object {
            let text = |key: &str| edited.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            *reference = Reference::parse(&text("reference"))?;
            *wanted = Wanted::parse(&text("platform"))?;
        }
        Ok(())
    }

    async fn pull_one(&self, session: &Session, one: &One<'_>, lines: &Lines) -> Result<()> {
        let reference = one.reference;
        let selector = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => Selector::Digest(digest.clone()),
            (None, _) if one.pinned.is_some() => Selector::Digest(one.pinned.unwrap_or_default().to_owned()),
            (None, tag) => Selector::Tag(tag.clone().unwrap_or_else(|| "latest".into())),
        };
        // An answer to HEAD cannot say what is wrong; the one to GET does, and GET is tried again where that may help.
        let head = session.head(&selector).await.unwrap_or_default();
        let named =
            reference.digest.clone().or_else(|| reference.tag.clone()).unwrap_or_else(|| "latest".into());
        if let Some(root) = &head
            && self.is_here(one, &root.digest)
        {
            begin(lines, session, &named);
            return self.done(one, &root.digest, true, lines);
        }
        // By digest where the registry has said it: a tag that moves meanwhile changes nothing.
        let by_digest = head.map_or(selector, |root| Selector::Digest(root.digest));
        let found = match one.wanted {
            Wanted::One(platform) => session.resolve(&by_digest, platform).await.map(|found| vec![found]),
            Wanted::All => session.resolve_every(&by_digest, is_ours).await,
        };
        let found = found.map_err(|e| explain(e, reference))?;
        let Some(first) = found.first() else {
            return Err(Error::not_found("no matching manifest for linux in the manifest list entries"));
        };
        for image in &found {
            self.admit(session, one, image).await?;
        }
        begin(lines, session, &named);
        let mut newer = false;
        for image in &found {
            newer |= self.take(session, one, image, lines).await?;
        }
        self.done(one, &first.root.digest, !newer, lines)
    }

    /// Whether the name leads to this content already, with the platforms that are wanted.
    fn is_here(&self, one: &One<'_>, root: &str) -> bool {
        let images = &self.inner.images;
        let by_digest = images.find(&format!("{}@{root}", one.reference.name()));
        let by_name = images.find(&one.reference.full());
        let (Ok(a), Ok(b)) = (by_digest, by_name) else { return false };
        match (&a.index, &b.index, &a.image, &b.image) {
            (Some(a), Some(b), ..) => a.digest == b.digest && one.wanted.is_here(a),
            (None, None, Some(a), Some(b)) => {
                // Older versions kept no index.
                let lacks_index = |m: &Manifest| m.root == root && m.root != m.digest;
                let known = images.manifests(&a.id).unwrap_or_default();
                let fits = match one.wanted {
                    Wanted::One(platform) => platform.fit(&crate::variants::platform(a)).is_some(),
                    Wanted::All => true,
                };
                a.id == b.id && fits && !known.iter().any(lacks_index)
            }
            _ => false,
        }
    }

    /// Policies see the manifest and what was said about it before anything is fetched.
    async fn admit(&self, session: &Session, one: &One<'_>, found: &Resolved) -> Result<()> {
        if self.inner.plugins.policies("image-admit").is_empty() {
            return Ok(());
        }
        let mut referrers = session.referrers(&found.manifest.digest, None).await?;
        if found.root.digest != found.manifest.digest {
            referrers.extend(session.referrers(&found.root.digest, None).await?);
        }
        // Where cosign puts signatures in registries that know no referrers: beside the image, under a tag.
        for digest in [&found.root.digest, &found.manifest.digest] {
            let tag = format!("{}.sig", digest.replacen(':', "-", 1));
            if let Ok(Some(signature)) = session.head(&Selector::Tag(tag)).await {
                referrers.push(Descriptor { artifact_type: COSIGN.into(), ..signature });
                break;
            }
        }
        let signatures = signatures::contents(session, &referrers).await;
        let target = one.reference.full();
        let subject = Subject { point: "image-admit", target: &target, labels: Vec::new(), dry_run: false };
        let object = || {
            let parsed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
            json!({
                "reference": target, "digest": found.root.digest,
                "platform": match (one.wanted, &found.platform) {
                    (Wanted::All, Some(platform)) => platform.text(),
                    (wanted, _) => wanted.text(),
                },
                "descriptor": found.manifest.descriptor(), "manifest": parsed(&found.manifest.bytes),
                "config": parsed(&found.config), "referrers": referrers, "signatures": signatures,
            })
        };
        let reviewed = self.review(one.caller, subject, object).await?;
        if reviewed.object.is_some() {
            return Err(Error::internal("a policy wants to change an image, which its digest forbids"));
        }
        Ok(())
    }

    /// Fetches and unpacks. True if the name leads to something new.
    async fn take(&self, session: &Session, one: &One<'_>, found: &Resolved, lines: &Lines) -> Result<bool> {
        let images = &self.inner.images;
        let reference = one.reference;
        let config = String::from_utf8(found.config.to_vec())
            .map_err(|_| Error::invalid("invalid image configuration: it is not text"))?;
        let layers = &found.image.layers;
        let have = images.have_layers(&config, layers.len())?;
        for (layer, have) in layers.iter().zip(&have) {
            lines.say(short(&layer.digest), if *have { "Already exists" } else { "Pulling fs layer" });
        }
        let source = reference.name();
        let by_digest = Reference { tag: None, digest: Some(found.root.digest.clone()), ..reference.clone() };
        let mut names = vec![by_digest];
        if reference.digest.is_none() {
            names.push(reference.clone().or_latest());
        }
        let blob = |layer: &Descriptor| Blob {
            digest: layer.digest.clone(),
            size: layer.size,
            media_type: layer.media_type.clone(),
            source: source.clone(),
        };
        let stop = CancellationToken::new();
        let pull = Pull {
            index: self.incoming(session, found).await?,
            config,
            layers: layers.iter().map(blob).collect(),
            names,
            manifest: Some(Manifest {
                source: source.clone(),
                digest: found.manifest.digest.clone(),
                media_type: found.manifest.media_type.clone(),
                content: String::from_utf8_lossy(&found.manifest.bytes).into_owned(),
                root: found.root.digest.clone(),
                root_type: found.root.media_type.clone(),
                root_size: found.root.size,
                made: false,
                claimed: false,
            }),
            parallel: self.inner.settings().registry.concurrent_downloads,
            stop: stop.clone(),
        };
        let fetch = {
            let (session, layers, lines) = (session.clone(), layers.clone(), lines.clone());
            Arc::new(move |number: usize| fetch(&session, layers.get(number), &lines, stop.clone()))
        };
        let on_stage = {
            let (lines, layers, have) = (lines.clone(), layers.clone(), have.clone());
            Arc::new(move |number: usize, stage: Stage| {
                let Some(layer) = layers.get(number) else { return };
                let id = short(&layer.digest);
                match stage {
                    Stage::Exists if have.get(number).copied().unwrap_or_default() => {}
                    Stage::Exists => lines.say(id, "Already exists"),
                    Stage::Waiting => lines.say(id, "Waiting"),
                    Stage::Extracting => Meter::new(&lines, id, "Extracting", layer.size).at(layer.size),
                    Stage::Complete => lines.say(id, "Pull complete"),
                }
            })
        };
        let pulled = images.pull(pull, fetch, on_stage).await?;
        Ok(!pulled.up_to_date)
    }

    /// The index that an image was found in, with what it says about the image beside its manifest.
    async fn incoming(&self, session: &Session, found: &Resolved) -> Result<Option<IncomingIndex>> {
        let mut documents = Vec::new();
        for index in &found.indexes {
            documents.push(document(index)?);
        }
        if documents.is_empty() {
            return Ok(None);
        }
        let nested = documents.split_off(1);
        let Some(root) = documents.pop() else { return Ok(None) };
        let known = self.inner.images.index(&found.root.digest);
        let mut statements = Vec::new();
        let mut left = STATEMENT_BYTES;
        for entry in found
            .indexes
            .iter()
            .flat_map(statements_of)
            .filter(|e| e.about() == Some(found.manifest.digest.as_str()))
        {
            if known.as_ref().is_some_and(|index| index.statements.contains_key(&entry.digest)) {
                continue;
            }
            match statement(session, entry, &mut left).await {
                Ok(statement) => statements.extend(statement),
                // What is said about an image is not needed to run it.
                Err(error) => {
                    tracing::warn!(%error, digest = entry.digest, "a statement about an image is left out");
                }
            }
        }
        Ok(Some(IncomingIndex { document: root, nested, statements }))
    }

    fn done(&self, one: &One<'_>, digest: &str, up_to_date: bool, lines: &Lines) -> Result<()> {
        let name = one.reference.familiar();
        lines.text(format!("Digest: {digest}"));
        lines.text(if up_to_date {
            format!("Status: Image is up to date for {name}")
        } else {
            format!("Status: Downloaded newer image for {name}")
        });
        let image = self.inner.images.resolve(&format!("{}@{digest}", one.reference.name()))?;
        let labels = image.config.labels.clone().unwrap_or_default();
        let attributes = labels.into_iter().chain([("name".to_owned(), one.reference.familiar_name())]);
        self.inner.events.publish("image", "pull", &name, attributes);
        Ok(())
    }
}

fn begin(lines: &Lines, session: &Session, named: &str) {
    lines.send(json!({"status": format!("Pulling from {}", session.repository().path), "id": named}));
}

/// The exact text of what was fetched.
fn document(fetched: &Fetched) -> Result<IndexText> {
    let content = String::from_utf8(fetched.bytes.to_vec())
        .map_err(|_| Error::invalid(format!("manifest {} is not text", fetched.digest)))?;
    Ok(IndexText { media_type: fetched.media_type.clone(), content })
}

fn statements_of(index: &Fetched) -> impl Iterator<Item = &Descriptor> {
    let entries = match &index.document {
        Document::Index(entries) => entries.as_slice(),
        Document::Image(_) => &[],
    };
    entries.iter().filter(|entry| entry.is_statement()).take(STATEMENTS)
}

/// Fetches a statement with all it names, if it is not too large.
async fn statement(session: &Session, entry: &Descriptor, left: &mut u64) -> Result<Option<Statement>> {
    let manifest = session.manifest(&Selector::Digest(entry.digest.clone()), Some(entry.size)).await?;
    let Document::Image(image) = &manifest.document else { return Ok(None) };
    let named: Vec<&Descriptor> = image.blobs().collect();
    let size = named.iter().fold(0u64, |sum, blob| sum.saturating_add(blob.size));
    if size > *left {
        return Err(Error::invalid(format!("it has {size} bytes, and {left} may still be kept")));
    }
    *left -= size;
    let mut blobs = Vec::new();
    for blob in named {
        blobs.push(session.small(blob, STATEMENT_BYTES).await?);
    }
    Ok(Some(Statement { manifest: document(&manifest)?, blobs }))
}

/// Fetches a layer in the background; its bytes come out of the channel, its progress goes to the client.
fn fetch(session: &Session, layer: Option<&Descriptor>, lines: &Lines, stop: CancellationToken) -> Incoming {
    let (to, from) = mpsc::channel(QUEUE);
    let Some(layer) = layer.cloned() else { return from };
    let (session, lines) = (session.clone(), lines.clone());
    tokio::spawn(async move {
        let id = short(&layer.digest).to_owned();
        let meter = Meter::new(&lines, &id, "Downloading", layer.size);
        let mut blob = match session.blob(layer) {
            Ok(blob) => blob,
            Err(error) => return drop(to.send(Err(io::Error::other(error.to_string()))).await),
        };
        let mut seen = 0;
        loop {
            let piece = tokio::select! {
                piece = blob.next() => piece,
                // Nobody wants it any more.
                () = to.closed() => return,
                () = stop.cancelled() => return,
            };
            match piece {
                Ok(Some(Piece::Data(data))) => {
                    seen += data.len() as u64;
                    meter.at(seen);
                    if to.send(Ok(data)).await.is_err() {
                        return;
                    }
                }
                Ok(Some(Piece::Retry(wait))) => {
                    let seconds = wait.as_secs().max(1);
                    let unit = if seconds == 1 { "second" } else { "seconds" };
                    lines.say(&id, &format!("Retrying in {seconds} {unit}"));
                }
                Ok(None) => {
                    lines.say(&id, "Verifying Checksum");
                    lines.say(&id, "Download complete");
                    return drop(to.send(Ok(Bytes::new())).await);
                }
                Err(error) => {
                    let kind = match error.kind() {
                        wharf_registry::Kind::Broken => io::ErrorKind::InvalidData,
                        _ => io::ErrorKind::Other,
                    };
                    return drop(to.send(Err(io::Error::new(kind, error.to_string()))).await);
                }
            }
        }
    });
    from
}
