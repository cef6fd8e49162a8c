//! Names and the end of images, with Docker's rules and words.

use std::collections::HashMap;
use std::sync::Arc;

use wharf_plan::platform::Platform;
use wharf_store::Transaction;

use crate::error::{Error, Result};
use crate::gc::{self, Doomed, GcPolicy, has_label};
use crate::image_index::{ImageIndex, Target};
use crate::inner::Inner;
use crate::model::{Deleted, Image, PruneOptions, Pruned, RemoveOptions, Use};
use crate::record::{IMAGES, ImageRecord, Index, encode};
use crate::reference::{AnyReference, Reference};

fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

pub(crate) fn no_such(reference: &str) -> Error {
    Error::not_found(format!("No such image: {reference}"))
}

/// What a name or an id leads to.
#[derive(Debug, Clone)]
pub struct Found {
    /// The image that is meant where no platform is asked for; none if nothing of the index is here.
    pub image: Option<Arc<Image>>,
    /// The index, if it is one.
    pub index: Option<Arc<ImageIndex>>,
}

impl Found {
    fn target(&self) -> Target {
        match (&self.index, &self.image) {
            (Some(index), _) => Target::index(index),
            (None, Some(image)) => Target::image(&image.id),
            (None, None) => Target { image: String::new(), index: None },
        }
    }
}

/// Finds an image as Docker does: by full id, by name, then by the start of an id.
pub(crate) fn resolve(index: &Index, text: &str) -> Result<Arc<Image>> {
    find(index, text)?.image.ok_or_else(|| no_such(text))
}

/// The same, with the index that the name leads to.
pub(crate) fn find(index: &Index, text: &str) -> Result<Found> {
    let by_id =
        |image: Arc<Image>| Found { index: index.index_of_image(&image.id).cloned(), image: Some(image) };
    let named = match AnyReference::parse(text)? {
        AnyReference::Id(id) => {
            return index.images.get(&id).cloned().map(by_id).ok_or_else(|| no_such(&id));
        }
        AnyReference::Named(named) => named.or_latest(),
    };
    // With a digest the tag says nothing.
    let mut exact = named.clone();
    if exact.digest.is_some() {
        exact.tag = None;
    }
    if let Some(target) = index.names.get(&exact.full()) {
        let found = Found {
            image: index.images.get(&target.image).cloned(),
            index: target.index.as_ref().and_then(|digest| index.indexes.get(digest)).cloned(),
        };
        if found.image.is_some() || found.index.is_some() {
            return Ok(found);
        }
    }
    if let Some(image) = by_prefix(index, text) {
        return Ok(by_id(image));
    }
    Err(no_such(&named.familiar()))
}

/// An index has no such platform here, in Docker's words.
pub fn not_provided(text: &str, platform: &Platform) -> Error {
    Error::not_found(format!(
        "image with reference {text} was found but does not provide the specified platform ({})",
        platform.text()
    ))
}

/// The only image whose id starts so.
fn by_prefix(index: &Index, text: &str) -> Option<Arc<Image>> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    let prefix = format!("sha256:{hex}");
    let mut found = index.images.range(prefix.clone()..).take_while(|(id, _)| id.starts_with(&prefix));
    match (found.next(), found.next()) {
        (Some((_, image)), None) => Some(Arc::clone(image)),
        // Docker calls an ambiguous id unknown.
        _ => None,
    }
}

/// Whether the user meant the image itself rather than one of its names.
fn is_id_prefix(id: &str, text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    id.strip_prefix("sha256:").is_some_and(|full| full.starts_with(hex))
}

/// At most one tag, and no digest of another repository.
fn is_single(names: &[Reference]) -> bool {
    if names.len() <= 1 {
        return true;
    }
    let mut tags = names.iter().filter(|n| n.digest.is_none());
    let tag = tags.next();
    if tags.next().is_some() {
        return false;
    }
    let mut repositories: Vec<String> =
        names.iter().filter(|n| n.digest.is_some()).map(Reference::name).collect();
    repositories.sort();
    repositories.dedup();
    match tag {
        None => repositories.len() == 1,
        Some(tag) => repositories == [tag.name()],
    }
}

/// Which obstacles count.
#[derive(Clone, Copy)]
struct Mind {
    references: bool,
    stopped: bool,
}

fn conflict(index: &Index, id: &str, uses: &[Use], mind: Mind) -> Option<(bool, Error)> {
    let refuse = |hard: bool, used: bool, why: String| {
        let how = if hard { "cannot be forced" } else { "must be forced" };
        let text = format!("conflict: unable to delete {} ({how}) - {why}", short(id));
        Some((used, Error::conflict(text)))
    };
    if index.images.values().any(|image| image.parent.as_deref() == Some(id)) {
        return refuse(true, false, "image has dependent child images".into());
    }
    let using = |running: bool| uses.iter().find(|u| u.image == id && u.running == running);
    if let Some(one) = using(true) {
        return refuse(
            true,
            true,
            format!("image is being used by running container {}", short(&one.container)),
        );
    }
    if mind.references && index.names_of(id).len() > 1 {
        return refuse(false, false, "image is referenced in multiple repositories".into());
    }
    if mind.stopped
        && let Some(one) = using(false)
    {
        return refuse(
            false,
            true,
            format!("image is being used by stopped container {}", short(&one.container)),
        );
    }
    None
}

/// A change of the index on its way.
struct Removal<'a> {
    inner: &'a Inner,
    index: Index,
    transaction: Transaction,
    deleted: Vec<Deleted>,
    /// Images of indexes that are gone, to be looked at.
    orphans: Vec<String>,
}

impl Removal<'_> {
    fn untag(&mut self, name: &Reference, image: &str) {
        let orphans = self.index.unpoint(self.inner, &mut self.transaction, name);
        self.orphans.extend(orphans);
        self.deleted.push(Deleted::Untagged { name: name.familiar(), image: image.to_owned() });
    }

    /// Removes an image, its names, and parents that have no name. `quiet`: leave it if something is in the way.
    fn image(&mut self, id: &str, options: &RemoveOptions, force: bool, mut quiet: bool) -> Result<()> {
        let mut at = Some(id.to_owned());
        let mut force = force;
        while let Some(id) = at {
            let mind = Mind { references: !force, stopped: !force };
            if let Some((used, error)) = conflict(&self.index, &id, &options.uses, mind) {
                let dangling = self.index.names_of(&id).is_empty();
                if quiet && (!dangling || used) {
                    return Ok(());
                }
                return Err(error);
            }
            for name in self.index.names_of(&id) {
                self.untag(&name, &id);
            }
            self.index.departed(self.inner, &mut self.transaction, &id)?;
            let gone = self.index.images.remove(&id);
            self.transaction.delete(IMAGES, &self.inner.key(&id));
            self.transaction.delete(crate::distribution::MANIFESTS, &self.inner.key(&id));
            self.deleted.push(Deleted::Image(id));
            at = gone.and_then(|image| image.parent.clone()).filter(|_| !options.no_prune);
            at = at.filter(|parent| self.index.images.contains_key(parent));
            // A parent goes only if nothing else wants it.
            if let Some(parent) = &at
                && !self.index.names_of(parent).is_empty()
            {
                return Ok(());
            }
            (force, quiet) = (false, true);
        }
        Ok(())
    }

    /// With its last tag a repository's digests go too. `left` are the names that are still there.
    fn last_digests(&mut self, gone: &Reference, left: &[Reference], image: &str) {
        let same = |n: &Reference| n.name() == gone.name();
        if gone.digest.is_none() && !left.iter().any(|n| n.digest.is_none() && same(n)) {
            for name in left.iter().filter(|n| n.digest.is_some() && same(n)) {
                self.untag(name, image);
            }
        }
    }

    /// The same for an index of which nothing is here.
    fn last_tag(&mut self, gone: &Reference, digest: &str) {
        let left = self.index.names_of_index(digest);
        self.last_digests(gone, &left, digest);
    }

    /// Takes away names of indexes of which nothing is here: those without a tag, or all.
    fn empty(&mut self, all: bool) {
        let empty: Vec<String> = self
            .index
            .indexes
            .values()
            .filter(|index| index.present.is_empty())
            .map(|index| index.digest.clone())
            .collect();
        for digest in empty {
            let names = self.index.names_of_index(&digest);
            if all || names.iter().all(|n| n.digest.is_some()) {
                for name in &names {
                    self.untag(name, &digest);
                }
            }
        }
    }

    /// An image and the other platforms that are here only for its sake.
    fn group(&self, id: &str) -> Vec<String> {
        let companions = self.index.companions(id).into_iter();
        companions
            .filter(|one| one == id || self.index.images.get(one).is_some_and(|image| image.is_companion()))
            .collect()
    }

    /// Other platforms of what was removed go with it, but for those that something else wants.
    fn settle(&mut self, options: &RemoveOptions, force: bool) -> Result<()> {
        while let Some(id) = self.orphans.pop() {
            if self.index.images.get(&id).is_some_and(|image| image.is_dangling()) {
                self.image(&id, options, force, true)?;
            }
        }
        Ok(())
    }

    /// What [`finish`](Self::finish) would answer.
    fn foresee(mut self) -> Pruned {
        let mut reclaimed = 0;
        if self.deleted.iter().any(|d| matches!(d, Deleted::Image(_))) {
            let needed = self.inner.needed(&self.index);
            let free = self.index.layers.values().filter(|layer| !needed.contains(&layer.chain_id));
            for layer in free {
                reclaimed += layer.size;
                self.deleted.push(Deleted::Layer(layer.chain_id.clone()));
            }
        }
        Pruned { deleted: self.deleted, reclaimed }
    }

    /// Writes the decision, then frees the layers.
    async fn finish(mut self) -> Result<Vec<Deleted>> {
        // An image that comes back with a power cut, when its layers do not, would be one that does not run.
        self.inner.commit_lasting(std::mem::take(&mut self.transaction)).await?;
        // From here on the images are gone for everyone, whatever becomes of the layers.
        self.inner.index.store(Arc::new(self.index.clone()));
        if self.deleted.iter().any(|d| matches!(d, Deleted::Image(_))) {
            let layers = self.inner.collect_layers(&mut self.index).await;
            self.inner.index.store(Arc::new(self.index));
            self.deleted.extend(layers?);
        }
        self.inner.sweep_blobs(&self.inner.index.load());
        Ok(self.deleted)
    }
}

/// What the policies say of the images there are.
pub(crate) fn plan_garbage(index: &Index, policies: &[GcPolicy], uses: &[Use], now: i64) -> Vec<Doomed> {
    // The platforms of an index stay or go as one: under the image that its names stand for, with the layers of all.
    let mut stands: HashMap<String, String> = HashMap::new();
    let mut images: Vec<Arc<Image>> = Vec::new();
    for image in index.images.values().filter(|image| !image.is_companion()) {
        for id in index.companions(&image.id) {
            let Some(other) = index.images.get(&id).filter(|other| other.is_companion()) else { continue };
            stands.insert(other.id.clone(), image.id.clone());
        }
        let mut whole = Arc::clone(image);
        if !image.indexes.is_empty() {
            Arc::make_mut(&mut whole).layers = Arc::new(index.layers_of(image));
        }
        images.push(whole);
    }
    let uses: Vec<Use> = uses
        .iter()
        .map(|u| Use { image: stands.get(&u.image).unwrap_or(&u.image).clone(), ..u.clone() })
        .collect();
    let uses = uses.as_slice();
    let layers: HashMap<String, u64> =
        index.layers.values().map(|layer| (layer.chain_id.clone(), layer.size)).collect();
    gc::plan(&images, &layers, uses, policies, now)
}

impl Inner {
    fn removal(&self) -> Removal<'_> {
        Removal {
            inner: self,
            index: self.index.load().as_ref().clone(),
            transaction: Transaction::new(),
            deleted: Vec::new(),
            orphans: Vec::new(),
        }
    }

    pub(crate) async fn remove(&self, text: &str, options: &RemoveOptions) -> Result<Vec<Deleted>> {
        let _changing = self.changing.lock().await;
        let mut removal = self.removal();
        let found = find(&removal.index, text)?;
        let Some(image) = found.image else { return self.remove_empty(removal, text).await };
        let id = image.id.as_str();
        let names = removal.index.names_of(id);
        let group = removal.group(id);
        let mut quiet = false;
        if is_id_prefix(id, text) {
            if is_single(&names) {
                let mind = Mind { references: false, stopped: !options.force };
                for one in &group {
                    if let Some((_, error)) = conflict(&removal.index, one, &options.uses, mind) {
                        return Err(error);
                    }
                }
                for name in &names {
                    removal.untag(name, id);
                }
            }
        } else {
            let using = options.uses.iter().find(|u| group.contains(&u.image));
            if let (false, true, Some(using)) = (options.force, is_single(&names), using) {
                return Err(Error::conflict(format!(
                    "conflict: unable to remove repository reference {text:?} (must force) - container {} is using \
                     its referenced image {}",
                    short(&using.container),
                    short(&using.image)
                )));
            }
            let mut named = Reference::parse(text)?.or_latest();
            if named.digest.is_some() {
                named.tag = None;
            }
            removal.untag(&named, id);
            let left = removal.index.names_of(id);
            removal.last_digests(&named, &left, id);
            if removal.index.images.get(id).is_some_and(|image| !image.is_dangling()) {
                removal.settle(options, options.force)?;
                return removal.finish().await;
            }
            quiet = true;
        }
        removal.image(id, options, options.force, quiet)?;
        removal.settle(options, options.force)?;
        removal.finish().await
    }

    /// Takes away a name that leads to an index of which nothing is here.
    async fn remove_empty(&self, mut removal: Removal<'_>, text: &str) -> Result<Vec<Deleted>> {
        let mut named = Reference::parse(text)?.or_latest();
        if named.digest.is_some() {
            named.tag = None;
        }
        let target = removal.index.names.get(&named.full()).and_then(|t| t.index.clone());
        let digest = target.ok_or_else(|| no_such(text))?;
        removal.untag(&named, &digest);
        removal.last_tag(&named, &digest);
        removal.finish().await
    }

    /// Removes some platforms of what a name leads to; the name stays.
    pub(crate) async fn remove_platforms(
        &self,
        text: &str,
        platforms: &[Platform],
        options: &RemoveOptions,
    ) -> Result<Vec<Deleted>> {
        let _changing = self.changing.lock().await;
        let mut removal = self.removal();
        let Some(index) = find(&removal.index, text)?.index else {
            return Err(Error::invalid(format!("image with reference {text} is no multi-platform image")));
        };
        let mut left = index.as_ref().clone();
        let mut doomed: Vec<String> = Vec::new();
        for platform in platforms {
            let fitting: Vec<String> = index
                .here()
                .filter(|(_, present)| platform.fit(&present.platform) == Some(0))
                .map(|(_, present)| present.image.clone())
                .collect();
            if fitting.is_empty() {
                return Err(not_provided(text, platform));
            }
            doomed.extend(fitting);
        }
        for image in &doomed {
            left.forget(image);
        }
        removal.index.put_index(self, &mut removal.transaction, &left)?;
        for id in &doomed {
            if removal.index.images.get(id).is_none_or(|image| !image.is_dangling()) {
                continue;
            }
            let mind = Mind { references: false, stopped: !options.force };
            if let Some((_, error)) = conflict(&removal.index, id, &options.uses, mind) {
                return Err(error);
            }
            removal.image(id, options, options.force, false)?;
        }
        removal.finish().await
    }

    pub(crate) async fn tag(&self, text: &str, target: &str) -> Result<(String, Option<String>)> {
        let target = Reference::parse(target)?;
        if target.digest.is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        let target = target.or_latest();
        if target.familiar_name() == "sha256" {
            return Err(Error::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
        }
        let _changing = self.changing.lock().await;
        let mut index = self.index.load().as_ref().clone();
        let found = find(&index, text)?;
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let mut transaction = Transaction::new();
        let old = index.point(self, &mut transaction, &target, &found.target())?;
        if let Some(image) = &found.image {
            let record = ImageRecord {
                config: image.raw_config.to_string(),
                parent: image.parent.clone(),
                last_tag_time: now,
            };
            transaction.put(IMAGES, &self.key(&image.id), encode(&record)?);
            if let Some(image) = index.images.get_mut(&image.id) {
                Arc::make_mut(image).last_tag_time = now.into();
            }
        }
        self.commit_lasting(transaction).await?;
        self.sweep_blobs(&index);
        self.index.store(Arc::new(index));
        let lost = old.map(|old| old.image).filter(|old| found.image.as_ref().is_none_or(|i| i.id != *old));
        Ok((target.familiar(), lost))
    }

    pub(crate) async fn collect_garbage(
        &self,
        policies: &[GcPolicy],
        uses: impl Fn() -> Vec<Use>,
        now: i64,
    ) -> Result<Pruned> {
        let mut all = Pruned::default();
        loop {
            let _changing = self.changing.lock().await;
            let mut removal = self.removal();
            let uses = uses();
            // Planned anew each time: it costs little, and what happened meanwhile counts.
            let Some(first) = plan_garbage(&removal.index, policies, &uses, now).into_iter().next() else {
                return Ok(all);
            };
            let before: u64 = removal.index.layers.values().map(|layer| layer.size).sum();
            let how = RemoveOptions { force: true, no_prune: true, uses };
            removal.image(&first.image, &how, true, true)?;
            removal.settle(&how, true)?;
            if removal.deleted.is_empty() {
                // Something keeps it that the plan does not know; asking again would not end.
                return Ok(all);
            }
            all.deleted.extend(removal.finish().await?);
            let after: u64 = self.index.load().layers.values().map(|layer| layer.size).sum();
            all.reclaimed += before.saturating_sub(after);
        }
    }

    pub(crate) async fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        let _changing = self.changing.lock().await;
        let mut removal = self.removal();
        let before: u64 = removal.index.layers.values().map(|layer| layer.size).sum();
        let index = Arc::clone(&self.index.load());
        // The platforms of an index stay or go as one.
        let used = |image: &Image| {
            let group = index.companions(&image.id);
            options.uses.iter().any(|u| group.contains(&u.image))
                || options.keep.iter().any(|id| group.contains(id))
        };
        let doomed: Vec<Arc<Image>> = removal
            .index
            .images
            .values()
            .filter(|image| options.all || image.repo_tags.is_empty())
            .filter(|image| !image.is_companion() && !used(image))
            .filter(|image| options.until.is_none_or(|until| image.created_unix < until))
            .filter(|image| options.labels.iter().all(|(k, v)| has_label(image, k, v.as_ref())))
            .filter(|image| !options.not_labels.iter().any(|(k, v)| has_label(image, k, v.as_ref())))
            .cloned()
            .collect();
        let how = RemoveOptions { force: true, no_prune: false, uses: options.uses.clone() };
        loop {
            let before = removal.deleted.len();
            for image in &doomed {
                let id = image.id.as_str();
                // Gone already with a child, or kept for the sake of one.
                let has_child = removal.index.images.values().any(|i| i.parent.as_deref() == Some(id));
                if removal.index.images.contains_key(id) && !has_child {
                    removal.image(id, &how, true, true)?;
                    removal.settle(&how, true)?;
                }
            }
            // A parent can go once its child has.
            if removal.deleted.len() == before {
                break;
            }
        }
        if options.until.is_none() && options.labels.is_empty() && options.not_labels.is_empty() {
            removal.empty(options.all);
        }
        if options.dry_run {
            return Ok(removal.foresee());
        }
        let deleted = removal.finish().await?;
        let after: u64 = self.index.load().layers.values().map(|layer| layer.size).sum();
        Ok(Pruned { deleted, reclaimed: before.saturating_sub(after) })
    }
}
