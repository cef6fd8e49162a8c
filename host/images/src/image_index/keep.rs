//! Keeping image indexes: which there are, what names lead to them, what of them is here.

use std::collections::BTreeSet;
use std::sync::Arc;

use wharf_store::Transaction;

use super::{Document, ImageIndex, IncomingIndex, Present, Statement, Target, platform_of, statement_blobs};
use crate::digest;
use crate::error::Result;
use crate::inner::Inner;
use crate::model::Image;
use crate::record::{Index, NAMES, NameRecord, encode};
use crate::reference::{Reference, check_digest};

pub(crate) const INDEXES: &str = "image-indexes";

impl Index {
    /// Indexes that have an image among those here.
    pub(crate) fn indexes_of(&self, image: &str) -> Vec<String> {
        let having = self.indexes.values().filter(|x| x.present.values().any(|p| p.image == image));
        having.map(|x| x.digest.clone()).collect()
    }

    /// The names that lead to an index.
    pub(crate) fn names_of_index(&self, digest: &str) -> Vec<Reference> {
        self.names
            .iter()
            .filter(|(_, target)| target.index.as_deref() == Some(digest))
            .filter_map(|(name, _)| Reference::parse(name).ok())
            .collect()
    }

    /// The index that is meant by an image's id: one that the image stands for under one of its names.
    pub(crate) fn index_of_image(&self, image: &str) -> Option<&Arc<ImageIndex>> {
        let mut named = self.names.values().filter(|target| target.image == image);
        named.find_map(|target| self.indexes.get(target.index.as_ref()?))
    }

    /// Images that are here for the sake of an image's names: itself, and the other platforms of its indexes.
    pub(crate) fn companions(&self, image: &str) -> BTreeSet<String> {
        let indexes = self.names.values().filter(|target| target.image == image);
        let indexes: BTreeSet<&String> = indexes.filter_map(|target| target.index.as_ref()).collect();
        let indexes = indexes.into_iter().filter_map(|digest| self.indexes.get(digest));
        let mut all: BTreeSet<String> =
            indexes.flat_map(|x| x.present.values()).map(|p| p.image.clone()).collect();
        all.insert(image.to_owned());
        all
    }

    /// Layers of an image and of the other platforms that its names lead to, each once.
    pub(crate) fn layers_of(&self, image: &Image) -> Vec<crate::LayerRef> {
        let mut layers = image.layers.as_ref().clone();
        if image.indexes.is_empty() {
            return layers;
        }
        for id in self.companions(&image.id) {
            let Some(other) = self.images.get(&id).filter(|other| other.is_companion()) else { continue };
            layers.extend(other.layers.iter().cloned());
        }
        layers.sort_by(|a, b| a.chain_id.cmp(&b.chain_id));
        layers.dedup_by(|a, b| a.chain_id == b.chain_id);
        layers
    }

    /// Lets a name lead somewhere; answers where it led before. An index that loses its last name by this goes.
    pub(crate) fn point(
        &mut self,
        inner: &Inner,
        transaction: &mut Transaction,
        name: &Reference,
        target: &Target,
    ) -> Result<Option<Target>> {
        let record = NameRecord { image: target.image.clone(), index: target.index.clone() };
        transaction.put(NAMES, &inner.key(&name.full()), encode(&record)?);
        let old = self.names.insert(name.full(), target.clone()).filter(|old| old != target);
        if let Some(old) = &old {
            self.rename(&old.image);
            if old.index != target.index {
                self.settle_index(inner, transaction, old.index.as_deref());
            }
        }
        self.rename(&target.image);
        Ok(old)
    }

    /// Takes a name away; answers the images of an index that is gone with it.
    pub(crate) fn unpoint(
        &mut self,
        inner: &Inner,
        transaction: &mut Transaction,
        name: &Reference,
    ) -> Vec<String> {
        transaction.delete(NAMES, &inner.key(&name.full()));
        let Some(old) = self.names.remove(&name.full()) else { return Vec::new() };
        self.rename(&old.image);
        self.settle_index(inner, transaction, old.index.as_deref())
    }

    /// Drops an index that no name leads to; answers the images that it had.
    fn settle_index(
        &mut self,
        inner: &Inner,
        transaction: &mut Transaction,
        digest: Option<&str>,
    ) -> Vec<String> {
        let Some(digest) = digest else { return Vec::new() };
        if !self.names_of_index(digest).is_empty() {
            return Vec::new();
        }
        transaction.delete(INDEXES, &inner.key(digest));
        let gone = self.indexes.remove(digest);
        let images: Vec<String> =
            gone.iter().flat_map(|x| x.present.values()).map(|p| p.image.clone()).collect();
        for image in &images {
            self.rename(image);
        }
        images
    }

    /// Records an index as it is now; its names lead to its best image from then on.
    pub(crate) fn put_index(
        &mut self,
        inner: &Inner,
        transaction: &mut Transaction,
        index: &ImageIndex,
    ) -> Result<()> {
        transaction.put(INDEXES, &inner.key(&index.digest), encode(&index.record())?);
        let target = Target::index(index);
        let before = self.indexes.insert(index.digest.clone(), Arc::new(index.clone()));
        for name in self.names_of_index(&index.digest) {
            self.point(inner, transaction, &name, &target)?;
        }
        let before = before.iter().flat_map(|x| x.present.values());
        let touched: BTreeSet<&str> =
            before.chain(index.present.values()).map(|p| p.image.as_str()).collect();
        for image in touched {
            self.rename(image);
        }
        Ok(())
    }

    /// An image is here under this manifest: every index that names the manifest has it from now on.
    pub(crate) fn arrived(
        &mut self,
        inner: &Inner,
        transaction: &mut Transaction,
        image: &str,
        manifest: &Document,
    ) -> Result<()> {
        let digest = digest::of(manifest.content.as_bytes());
        let lacking: Vec<Arc<ImageIndex>> = self
            .indexes
            .values()
            .filter(|x| x.entry(&digest).is_some_and(|e| !e.is_statement()))
            .filter(|x| x.present.get(&digest).is_none_or(|p| p.image != image))
            .cloned()
            .collect();
        for index in lacking {
            let mut index = index.as_ref().clone();
            if let Some(present) = self.present(&index, &digest, image, manifest) {
                index.present.insert(digest.clone(), present);
                self.put_index(inner, transaction, &index)?;
            }
        }
        Ok(())
    }

    /// Takes in an index, or what arrives with it if it is known; answers its digest. Images that were here before under
    /// one of its manifests are found too. Blobs of statements are on the disk when this returns. The caller has to give
    /// the index a name before it commits.
    pub(crate) fn take_index(
        &mut self,
        inner: &Inner,
        transaction: &mut Transaction,
        incoming: IncomingIndex,
        images: &[(String, Document)],
    ) -> Result<String> {
        let IncomingIndex { document, nested, statements } = incoming;
        let digest = digest::of(document.content.as_bytes());
        let mut index = match self.indexes.get(&digest) {
            Some(known) => {
                let before = known.nested.values().cloned();
                let known = known.as_ref().clone();
                let all = ImageIndex::new(document, before.chain(nested))?;
                ImageIndex { present: known.present, statements: known.statements, ..all }
            }
            None => {
                let mut new = ImageIndex::new(document, nested)?;
                self.adopt(inner, &mut new)?;
                new
            }
        };
        for (image, manifest) in images {
            let manifest_digest = digest::of(manifest.content.as_bytes());
            if let Some(present) = self.present(&index, &manifest_digest, image, manifest) {
                index.present.insert(manifest_digest, present);
            }
        }
        for Statement { manifest, blobs } in statements {
            let digest = digest::of(manifest.content.as_bytes());
            if index.entry(&digest).is_none_or(|entry| !entry.is_statement()) {
                continue;
            }
            let named: BTreeSet<String> = statement_blobs(&manifest.content).into_iter().collect();
            let found: BTreeSet<String> = blobs.iter().map(|b| digest::of(b)).collect();
            if !named.is_subset(&found) {
                continue;
            }
            for blob in &blobs {
                inner.content.write_blob(&digest::of(blob), blob)?;
            }
            index.statements.insert(digest, manifest);
        }
        self.put_index(inner, transaction, &index)?;
        Ok(digest)
    }

    /// Images that came on their own, under a manifest that a new index names.
    fn adopt(&self, inner: &Inner, index: &mut ImageIndex) -> Result<()> {
        let known = crate::record::load::<Vec<crate::Manifest>>(
            &inner.settings.store,
            crate::distribution::MANIFESTS,
            &inner.plugin,
        )?;
        for (image, manifests) in known {
            for one in manifests {
                if digest::of(one.content.as_bytes()) != one.digest {
                    continue;
                }
                let manifest = Document { media_type: one.media_type, content: one.content };
                if let Some(present) = self.present(index, &one.digest, &image, &manifest) {
                    index.present.insert(one.digest, present);
                }
            }
        }
        Ok(())
    }

    /// What an index says of an image that is here.
    pub(crate) fn present(
        &self,
        index: &ImageIndex,
        digest: &str,
        image: &str,
        manifest: &Document,
    ) -> Option<Present> {
        let stated = index.entry(digest)?.platform.clone();
        let found = self.images.get(image)?;
        let platform = stated.unwrap_or_else(|| platform_of(found));
        Some(Present { image: image.to_owned(), manifest: manifest.clone(), platform })
    }

    /// An image goes: no index has it any more.
    pub(crate) fn departed(
        &mut self,
        inner: &Inner,
        transaction: &mut Transaction,
        image: &str,
    ) -> Result<()> {
        for digest in self.indexes_of(image) {
            let Some(index) = self.indexes.get(&digest) else { continue };
            let mut index = index.as_ref().clone();
            index.forget(image);
            self.put_index(inner, transaction, &index)?;
        }
        Ok(())
    }
}

impl Index {
    /// Names and indexes are again what they were: what should have changed them failed.
    pub(crate) fn forget_names(&mut self, before: &Index) {
        self.names.clone_from(&before.names);
        self.indexes.clone_from(&before.indexes);
    }

    /// Mends what only a damaged record can have brought about, in memory.
    pub(crate) fn repair(&mut self) {
        let known: BTreeSet<String> = self.images.keys().cloned().collect();
        for index in self.indexes.values_mut() {
            if index.present.values().any(|p| !known.contains(&p.image)) {
                tracing::error!(digest = index.digest, "an image index names an image that is not there");
                Arc::make_mut(index).present.retain(|_, p| known.contains(&p.image));
            }
        }
        let indexes = &self.indexes;
        self.names.retain(|_, target| {
            match target.index.as_ref().map(|digest| indexes.get(digest)) {
                Some(Some(index)) => *target = Target::index(index),
                Some(None) => target.index = None,
                None => {}
            }
            target.index.is_some() || !target.image.is_empty()
        });
        let named: BTreeSet<String> = self.names.values().filter_map(|t| t.index.clone()).collect();
        self.indexes.retain(|digest, _| named.contains(digest));
        for image in &known {
            self.rename(image);
        }
    }
}

impl Inner {
    /// Removes blobs of statements that no index needs, and at the start records of indexes without a name. The caller holds
    /// `changing`.
    pub(crate) fn sweep_blobs(&self, index: &Index) {
        let needed: BTreeSet<String> = index.indexes.values().flat_map(|x| x.blobs()).collect();
        if let Err(error) = self.content.retain_blobs(|digest| needed.contains(digest)) {
            tracing::error!(%error, "could not remove blobs that nothing needs; the next start will");
        }
    }

    /// Forgets indexes that no name leads to: what an older version of this program leaves behind.
    pub(crate) async fn sweep_indexes(&self, index: &Index) -> Result<()> {
        let mut transaction = Transaction::new();
        let mut any = false;
        let prefix = self.key("");
        for entry in self.settings.store.scan(INDEXES, &prefix, None, usize::MAX)? {
            let digest = entry.key.strip_prefix(&prefix).unwrap_or_default();
            if !index.indexes.contains_key(digest) {
                transaction.delete(INDEXES, &entry.key);
                any = true;
            }
        }
        if any {
            self.settings.store.commit(transaction).await?;
        }
        Ok(())
    }
}

impl crate::Images {
    /// All indexes that have a name.
    pub fn indexes(&self) -> Vec<Arc<ImageIndex>> {
        self.inner.index.load().indexes.values().cloned().collect()
    }

    /// An index by its digest.
    pub fn index(&self, digest: &str) -> Option<Arc<ImageIndex>> {
        self.inner.index.load().indexes.get(digest).cloned()
    }

    /// Where all names lead.
    pub fn names(&self) -> Vec<(Reference, Target)> {
        let index = self.inner.index.load();
        let names = index.names.iter();
        names.filter_map(|(name, target)| Some((Reference::parse(name).ok()?, target.clone()))).collect()
    }

    /// A blob of a statement that is here.
    pub fn statement_blob(&self, digest: &str) -> Result<Vec<u8>> {
        check_digest(digest)?;
        Ok(self.inner.content.read_blob(digest)?)
    }
}
