//! The engine's images as a registry offers them to others.
//!
//! A repository of the registry is the name that a user of this engine would write: `busybox`, `team/app`,
//! `quay.io/org/app`. So other engines can also take the registry as their mirror of the Docker Hub.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_distribution::{
    Answered, Elsewhere, Fetched, Image, Images, Index, Layer, Pushed, PushedIndex, Trouble, Why,
};
use wharf_images::image_index::{Document, IncomingIndex, Present, Statement, Target};
use wharf_images::pull::{Incoming, Pull};
use wharf_images::reference::Reference;
use wharf_images::{Blob, Manifest};
use wharf_plan::policy::Origin;
use wharf_plan::types::Identity;

use crate::error::{Error, Kind};
use crate::policy::Subject;
use crate::{Caller, Engine};

/// Pieces of a layer on their way from its file to the unpacking thread.
const QUEUE: usize = 16;
const PIECE: usize = 256 << 10;

/// An engine as the other side of a registry.
pub struct Shelf {
    engine: Engine,
    fetches: bool,
}

impl Shelf {
    /// `fetches`: names that are not here are pulled from where they mean elsewhere.
    pub fn new(engine: Engine, fetches: bool) -> Self {
        Self { engine, fetches }
    }

    pub(crate) fn shown(&self, image: &wharf_images::Image) -> Option<Image> {
        let images = &self.engine.inner.images;
        let layer = |l: &wharf_images::LayerRef| {
            Some(Layer { diff_id: l.diff_id.clone(), size: images.tar_size(&l.chain_id)? })
        };
        let layers = image.layers.iter().map(layer).collect::<Option<_>>()?;
        Some(Image { id: image.id.clone(), config: Arc::clone(&image.raw_config), layers })
    }
}

impl Shelf {
    /// Where the names of a repository lead.
    fn targets(&self, repository: &str) -> Vec<Target> {
        let Ok(wanted) = Reference::parse(repository) else { return Vec::new() };
        let names = self.engine.inner.images.names().into_iter();
        names.filter(|(name, _)| name.name() == wanted.name()).map(|(_, target)| target).collect()
    }

    fn shown_index(&self, digest: &str) -> Option<Index> {
        let index = self.engine.inner.images.index(digest)?;
        let member = |(_, present): (_, &Present)| {
            Some((self.image(&present.image)?, serde_json::to_value(&present.platform).ok()?))
        };
        let members: Vec<_> = index.here().filter_map(member).collect();
        (!members.is_empty()).then(|| Index { digest: digest.to_owned(), members })
    }
}

impl From<Error> for Trouble {
    fn from(e: Error) -> Self {
        let why = match e.kind {
            Kind::NotFound => Why::Absent,
            Kind::Invalid | Kind::Unsupported => Why::Invalid,
            Kind::Forbidden | Kind::Unauthorized => Why::Denied,
            Kind::Conflict => Why::Conflict,
            Kind::NotModified | Kind::Unavailable | Kind::Internal => Why::Failed,
        };
        Self { why, text: e.message }
    }
}

fn caller(user: Option<&str>) -> Caller {
    let identity = user.map(|name| Identity {
        subject: name.to_owned(),
        method: "htpasswd".into(),
        groups: Vec::new(),
        claims: Vec::new(),
    });
    Caller { identity, origin: Origin::Api }
}

/// A name of a registry's repository, with a tag or a digest.
fn reference(repository: &str, last: &str) -> Result<Reference, Error> {
    let separator = if last.contains(':') { '@' } else { ':' };
    Ok(Reference::parse(&format!("{repository}{separator}{last}"))?)
}

/// The names of an image that are tags.
fn tags(image: &wharf_images::Image) -> impl Iterator<Item = Reference> {
    image.repo_tags.iter().filter_map(|t| Reference::parse(t).ok())
}

impl Images for Shelf {
    fn repositories(&self) -> Vec<String> {
        let images = self.engine.inner.images.list();
        let mut names: Vec<String> =
            images.iter().flat_map(|i| tags(i)).map(|name| name.familiar_name()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn tags(&self, repository: &str) -> Vec<String> {
        let Ok(wanted) = Reference::parse(repository) else { return Vec::new() };
        let images = self.engine.inner.images.list();
        let own = images.iter().flat_map(|i| tags(i)).filter(|name| name.name() == wanted.name());
        own.filter_map(|name| name.tag).collect()
    }

    fn tagged(&self, repository: &str, tag: &str) -> Option<Image> {
        let wanted = reference(repository, tag).ok()?.familiar();
        let image = self.engine.inner.images.resolve(&wanted).ok()?;
        // A name could be taken for the start of an id.
        if image.repo_tags.contains(&wanted) { self.shown(&image) } else { None }
    }

    fn of_repository(&self, repository: &str) -> Vec<Image> {
        let mut ids: BTreeSet<String> = BTreeSet::new();
        for target in self.targets(repository) {
            ids.insert(target.image);
            let index = target.index.and_then(|digest| self.engine.inner.images.index(&digest));
            ids.extend(index.iter().flat_map(|index| index.present.values()).map(|p| p.image.clone()));
        }
        ids.iter().filter_map(|id| self.image(id)).collect()
    }

    fn tagged_index(&self, repository: &str, tag: &str) -> Option<Index> {
        let wanted = reference(repository, tag).ok()?;
        let names = self.engine.inner.images.names();
        let target = names.into_iter().find(|(name, _)| *name == wanted).map(|(_, target)| target)?;
        self.shown_index(&target.index?)
    }

    fn is_pulled(&self, repository: &str, digest: &str) -> bool {
        let Ok(wanted) = Reference::parse(repository) else { return false };
        let images = &self.engine.inner.images;
        let Some(index) = images.index(digest) else { return false };
        let source = wanted.name();
        index.present.values().any(|present| {
            let known = images.manifests(&present.image).unwrap_or_default();
            known.iter().any(|m| m.root == digest && m.source == source && !m.made)
        })
    }

    fn indexes(&self, repository: &str) -> Vec<Index> {
        let digests: BTreeSet<String> =
            self.targets(repository).into_iter().filter_map(|target| target.index).collect();
        digests.iter().filter_map(|digest| self.shown_index(digest)).collect()
    }

    fn image(&self, id: &str) -> Option<Image> {
        let image = self.engine.inner.images.resolve(id).ok().filter(|image| image.id == id)?;
        self.shown(&image)
    }

    fn layer_size(&self, digest: &str) -> Option<u64> {
        let images = &self.engine.inner.images;
        match images.layer_of(digest) {
            Some(chain) => images.tar_size(&chain),
            None => self.engine.packed_size(digest),
        }
    }

    fn layer<'a>(&'a self, digest: &'a str) -> Answered<'a, Result<Box<dyn Read + Send>, Trouble>> {
        Box::pin(async move {
            let images = &self.engine.inner.images;
            let Some(chain) = images.layer_of(digest) else {
                return Ok(self.engine.packed_layer(digest).await?);
            };
            let (stream, _) = images.layer_stream(&chain).await.map_err(Error::from)?;
            Ok(stream)
        })
    }

    fn remakes<'a>(&'a self, digest: &'a str, diff_id: &'a str, file: &'a Path) -> Answered<'a, bool> {
        Box::pin(async move {
            let made = self.engine.remakes(digest, diff_id, file).await;
            made.unwrap_or_else(|error| {
                tracing::warn!(%error, digest, "it could not be found out whether a layer is made again");
                false
            })
        })
    }

    fn take(&self, pushed: Pushed) -> Answered<'_, Result<String, Trouble>> {
        Box::pin(async move { Ok(self.engine.take_in(pushed).await?) })
    }

    fn take_index(&self, pushed: PushedIndex) -> Answered<'_, Result<(), Trouble>> {
        Box::pin(async move {
            let digest = wharf_registry::digest::of(pushed.index.content.as_bytes());
            let mut names = vec![reference(&pushed.repository, &digest)?];
            let tag = pushed.tag.as_ref().map(|tag| reference(&pushed.repository, tag)).transpose()?;
            names.extend(tag.clone());
            let text = |text: wharf_distribution::Text| Document {
                media_type: text.media_type,
                content: text.content,
            };
            let statements = pushed.statements.into_iter();
            let incoming = IncomingIndex {
                document: text(pushed.index),
                nested: Vec::new(),
                statements: statements.map(|(m, blobs)| Statement { manifest: text(m), blobs }).collect(),
            };
            let members: Vec<_> = pushed.members.into_iter().map(|(id, m)| (id, text(m))).collect();
            // An index's images come before it, one by one, and have names by their own digests until then.
            let digests = members.iter().map(|(_, m)| wharf_registry::digest::of(m.content.as_bytes()));
            let alone: Vec<Reference> =
                digests.map(|digest| reference(&pushed.repository, &digest)).collect::<Result<_, _>>()?;
            let images = &self.engine.inner.images;
            images.name_index(&names, &alone, incoming, &members).await.map_err(Error::from)?;
            if let (Some(tag), Some((image, _))) = (tag, members.first()) {
                self.engine.image_event("tag", image, &tag.familiar());
            }
            Ok(())
        })
    }

    fn remove<'a>(
        &'a self,
        repository: &'a str,
        name: &'a str,
        user: Option<&'a str>,
    ) -> Answered<'a, Result<(), Trouble>> {
        Box::pin(async move {
            let name = reference(repository, name)?.familiar();
            self.engine.image_remove(&name, false, false, &[], &caller(user)).await?;
            Ok(())
        })
    }

    fn elsewhere<'a>(
        &'a self,
        repository: &'a str,
        name: &'a str,
    ) -> Answered<'a, Result<Option<Elsewhere>, Trouble>> {
        Box::pin(async move {
            if !self.fetches {
                return Ok(None);
            }
            let (session, pinned) = self.engine.elsewhere(&reference(repository, name)?).await?;
            Ok(Some(Elsewhere { session, pinned }))
        })
    }

    fn admit<'a>(&'a self, fetched: Fetched<'a>) -> Answered<'a, Result<(), Trouble>> {
        Box::pin(async move {
            let name = reference(fetched.repository, fetched.reference)?;
            let (session, manifest) = (fetched.session, fetched.manifest.clone());
            Ok(self.engine.admit_for_others(session, &name, manifest, fetched.root, fetched.platform).await?)
        })
    }

    fn gone(&self) -> Answered<'_, ()> {
        let wanted = [("type", "image"), ("event", "delete")];
        let filters = wanted.into_iter().map(|(k, v)| (k.to_owned(), vec![v.to_owned()])).collect();
        let mut listener = self.engine.inner.events.listen(None, None, crate::io::events::Filters(filters));
        Box::pin(async move { drop(listener.next().await) })
    }
}

impl Engine {
    /// Makes what was pushed an image, if the policies admit it; answers its id.
    async fn take_in(&self, pushed: Pushed) -> Result<String, Error> {
        let target = match &pushed.tag {
            Some(tag) => reference(&pushed.repository, tag)?,
            None => reference(&pushed.repository, &pushed.digest)?,
        };
        let by_digest = reference(&pushed.repository, &pushed.digest)?;
        let full = target.full();
        let subject = Subject { point: "image-admit", target: &full, labels: Vec::new(), dry_run: false };
        let object = || {
            let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
            json!({
                "reference": full, "digest": pushed.digest, "platform": "",
                "descriptor": {
                    "mediaType": pushed.media_type, "digest": pushed.digest, "size": pushed.manifest.len(),
                },
                "manifest": parsed(&pushed.manifest), "config": parsed(&pushed.config), "referrers": [],
            })
        };
        if self.review(&caller(pushed.user.as_deref()), subject, object).await?.object.is_some() {
            return Err(Error::internal("a policy wants to change an image, which its digest forbids"));
        }
        let files: Vec<Option<PathBuf>> = pushed.layers.iter().map(|l| l.file.clone()).collect();
        // From no other registry: nobody is to be asked for it.
        let blob = |l: &wharf_distribution::Sent| Blob {
            digest: l.digest.clone(),
            size: l.size,
            media_type: l.media_type.clone(),
            source: String::new(),
        };
        let mut names = vec![by_digest];
        if pushed.tag.is_some() {
            names.push(target.clone());
        }
        let pull = Pull {
            config: pushed.config.clone(),
            layers: pushed.layers.iter().map(blob).collect(),
            names,
            manifest: Some(Manifest {
                source: String::new(),
                digest: pushed.digest.clone(),
                media_type: pushed.media_type.clone(),
                content: pushed.manifest.clone(),
                root: pushed.digest.clone(),
                root_type: pushed.media_type.clone(),
                root_size: pushed.manifest.len() as u64,
                made: false,
                claimed: false,
            }),
            index: None,
            parallel: self.inner.settings().registry.concurrent_downloads,
            stop: CancellationToken::new(),
        };
        let fetch = Arc::new(move |number: usize| read(files.get(number).cloned().flatten()));
        let pulled = self.inner.images.pull(pull, fetch, Arc::new(|_, _| {})).await?;
        self.image_event("load", &pulled.image.id, &target.familiar());
        Ok(pulled.image.id.clone())
    }
}

/// A file's bytes, from a thread of their own.
fn read(file: Option<PathBuf>) -> Incoming {
    let (to, from) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let result = file
            .ok_or_else(|| io::Error::other("a layer that was there is gone; push again"))
            .and_then(std::fs::File::open)
            .and_then(|mut file| pass(&mut file, &to));
        // Nobody listens any more where this fails too.
        let _ = to.blocking_send(result.map(|()| Bytes::new()));
    });
    from
}

fn pass(file: &mut std::fs::File, to: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    loop {
        let mut piece = Vec::new();
        if file.take(PIECE as u64).read_to_end(&mut piece)? == 0 {
            return Ok(());
        }
        to.blocking_send(Ok(piece.into())).map_err(|_| io::Error::other("nobody wants it any more"))?;
    }
}
