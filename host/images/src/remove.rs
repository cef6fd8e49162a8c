//! Names and the end of images, with Docker's rules and words.

use std::collections::HashMap;
use std::sync::Arc;

use wharf_store::Transaction;

use crate::error::{Error, Result};
use crate::gc::{self, Doomed, GcPolicy, has_label};
use crate::inner::Inner;
use crate::model::{Deleted, Image, PruneOptions, Pruned, RemoveOptions, Use};
use crate::record::{IMAGES, ImageRecord, Index, NAMES, NameRecord, encode};
use crate::reference::{AnyReference, Reference};

fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

fn no_such(reference: &str) -> Error {
    Error::not_found(format!("No such image: {reference}"))
}

/// Finds an image as Docker does: by full id, by name, then by the start of an id.
pub(crate) fn resolve(index: &Index, text: &str) -> Result<Arc<Image>> {
    let named = match AnyReference::parse(text)? {
        AnyReference::Id(id) => {
            return index.images.get(&id).cloned().ok_or_else(|| no_such(&id));
        }
        AnyReference::Named(named) => named.or_latest(),
    };
    // With a digest the tag says nothing.
    let mut exact = named.clone();
    if exact.digest.is_some() {
        exact.tag = None;
    }
    if let Some(image) = index.names.get(&exact.full()).and_then(|id| index.images.get(id)) {
        return Ok(Arc::clone(image));
    }
    if let Some(image) = by_prefix(index, text) {
        return Ok(image);
    }
    Err(no_such(&named.familiar()))
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
}

impl Removal<'_> {
    fn untag(&mut self, name: &Reference, image: &str) {
        self.index.names.remove(&name.full());
        self.index.rename(image);
        self.transaction.delete(NAMES, &self.inner.key(&name.full()));
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
        Ok(self.deleted)
    }
}

/// What the policies say of the images there are.
pub(crate) fn plan_garbage(index: &Index, policies: &[GcPolicy], uses: &[Use], now: i64) -> Vec<Doomed> {
    let images: Vec<Arc<Image>> = index.images.values().cloned().collect();
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
        }
    }

    pub(crate) async fn remove(&self, text: &str, options: &RemoveOptions) -> Result<Vec<Deleted>> {
        let _changing = self.changing.lock().await;
        let mut removal = self.removal();
        let image = resolve(&removal.index, text)?;
        let id = image.id.as_str();
        let names = removal.index.names_of(id);
        let mut quiet = false;
        if is_id_prefix(id, text) {
            if is_single(&names) {
                let mind = Mind { references: false, stopped: !options.force };
                if let Some((_, error)) = conflict(&removal.index, id, &options.uses, mind) {
                    return Err(error);
                }
                for name in &names {
                    removal.untag(name, id);
                }
            }
        } else {
            let using = options.uses.iter().find(|u| u.image == id);
            if let (false, true, Some(using)) = (options.force, is_single(&names), using) {
                return Err(Error::conflict(format!(
                    "conflict: unable to remove repository reference {text:?} (must force) - container {} is using \
                     its referenced image {}",
                    short(&using.container),
                    short(id)
                )));
            }
            let mut named = Reference::parse(text)?.or_latest();
            if named.digest.is_some() {
                named.tag = None;
            }
            removal.untag(&named, id);
            let left = removal.index.names_of(id);
            let same = |n: &Reference| n.name() == named.name();
            if named.digest.is_none() && !left.iter().any(|n| n.digest.is_none() && same(n)) {
                // With its last tag a repository's digests go too.
                for name in left.iter().filter(|n| n.digest.is_some() && same(n)) {
                    removal.untag(name, id);
                }
            }
            if !removal.index.names_of(id).is_empty() {
                return removal.finish().await;
            }
            quiet = true;
        }
        removal.image(id, options, options.force, quiet)?;
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
        let image = resolve(&index, text)?;
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let record = ImageRecord {
            config: image.raw_config.to_string(),
            parent: image.parent.clone(),
            last_tag_time: now,
        };
        let mut transaction = Transaction::new();
        transaction.put(NAMES, &self.key(&target.full()), encode(&NameRecord { image: image.id.clone() })?);
        transaction.put(IMAGES, &self.key(&image.id), encode(&record)?);
        self.commit_lasting(transaction).await?;
        let old = index.names.insert(target.full(), image.id.clone()).filter(|old| *old != image.id);
        if let Some(old) = &old {
            index.rename(old);
        }
        index.rename(&image.id);
        if let Some(image) = index.images.get_mut(&image.id) {
            Arc::make_mut(image).last_tag_time = now.into();
        }
        self.index.store(Arc::new(index));
        Ok((target.familiar(), old))
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
        let used = |id: &str| options.uses.iter().any(|u| u.image == id);
        let doomed: Vec<Arc<Image>> = removal
            .index
            .images
            .values()
            .filter(|image| options.all || image.repo_tags.is_empty())
            .filter(|image| !used(&image.id))
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
                }
            }
            // A parent can go once its child has.
            if removal.deleted.len() == before {
                break;
            }
        }
        if options.dry_run {
            return Ok(removal.foresee());
        }
        let deleted = removal.finish().await?;
        let after: u64 = self.index.load().layers.values().map(|layer| layer.size).sum();
        Ok(Pruned { deleted, reclaimed: before.saturating_sub(after) })
    }
}
