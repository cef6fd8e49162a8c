//! Pushing an index: its images and the statements about them, each by its digest, then the index under the tag.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use wharf_images::image_index::{Document, IncomingIndex, Present, Statement, statement_blobs};
use wharf_images::reference::Reference;
use wharf_images::{Image, ImageIndex};
use wharf_registry::{Descriptor, Selector};

use super::choose::{Sent, rewrite};
use super::push::Push;
use crate::error::Result;

impl Push<'_> {
    /// Sends an index of which all is here. Answers its descriptor at the registry.
    pub(super) async fn index(
        &self,
        index: &ImageIndex,
        images: &[(Arc<Image>, Present)],
        tag: &str,
    ) -> Result<Descriptor> {
        let mut sent: BTreeMap<String, Sent> = BTreeMap::new();
        let mut manifests: Vec<(String, Document)> = Vec::new();
        for (image, present) in images {
            let (now, document) = self.image(image, Some(&present.manifest), None).await?;
            let before = wharf_registry::digest::of(present.manifest.content.as_bytes());
            let now = Sent { digest: now.digest, size: now.size, media_type: now.media_type };
            sent.insert(before, now);
            manifests.push((image.id.clone(), document));
        }
        let (root, nested) = rewrite(index, &sent)?;
        let digest = wharf_registry::digest::of(root.content.as_bytes());
        if digest == index.digest {
            self.statements(index).await?;
        } else {
            self.lines.text(format!(
                "The registry does not have the layers as they were compressed elsewhere, so they are sent compressed again: \
                 the index {} is pushed as {digest}, without attestations, as those are about the former",
                index.digest
            ));
            // Those about what has not changed are in the new index too.
            self.statements_of(index, &root, &nested).await?;
        }
        for inside in &nested {
            let selector = Selector::Digest(wharf_registry::digest::of(inside.content.as_bytes()));
            self.session.put_manifest(&selector, &inside.media_type, inside.content.clone().into()).await?;
        }
        let selector = Selector::Tag(tag.to_owned());
        let now = self.session.put_manifest(&selector, &root.media_type, root.content.clone().into()).await?;
        let statements = self.kept_statements(index)?;
        let incoming = IncomingIndex { document: root, nested, statements };
        let name = Reference { tag: None, digest: Some(digest), ..self.name.clone() };
        self.engine.inner.images.name_index(&[name], &[], incoming, &manifests).await?;
        Ok(now)
    }

    async fn statements(&self, index: &ImageIndex) -> Result<()> {
        for (digest, manifest) in &index.statements {
            self.statement(digest, manifest).await?;
        }
        Ok(())
    }

    async fn statements_of(&self, index: &ImageIndex, root: &Document, nested: &[Document]) -> Result<()> {
        for (digest, manifest) in &index.statements {
            if std::iter::once(root).chain(nested).any(|d| d.content.contains(digest.as_str())) {
                self.statement(digest, manifest).await?;
            }
        }
        Ok(())
    }

    async fn statement(&self, digest: &str, manifest: &Document) -> Result<()> {
        for blob in statement_blobs(&manifest.content) {
            if self.session.has_blob(&blob).await?.is_none() {
                let bytes = self.engine.inner.images.statement_blob(&blob)?;
                self.session.upload_bytes(bytes.into()).await?;
            }
        }
        let selector = Selector::Digest(digest.to_owned());
        self.session.put_manifest(&selector, &manifest.media_type, manifest.content.clone().into()).await?;
        Ok(())
    }

    /// The statements of an index as they arrived, for the index that is made of it.
    fn kept_statements(&self, index: &ImageIndex) -> Result<Vec<Statement>> {
        let mut all = Vec::new();
        for manifest in index.statements.values() {
            let blobs = statement_blobs(&manifest.content)
                .iter()
                .map(|digest| Ok(self.engine.inner.images.statement_blob(digest)?.into()))
                .collect::<Result<Vec<_>>>()?;
            all.push(Statement { manifest: manifest.clone(), blobs });
        }
        Ok(all)
    }

    /// Says that one image was sent where an index was meant.
    pub(super) fn tell_instead(&self, index: &ImageIndex, sent: &Descriptor) {
        self.lines.send(json!({"progressDetail": {}, "aux": {
            "manifestPushedInsteadOfIndex": true,
            "originalIndex": {
                "mediaType": index.document.media_type, "digest": index.digest, "size": index.document.content.len(),
            },
            "selectedManifest": {"mediaType": sent.media_type, "digest": sent.digest, "size": sent.size},
        }}));
    }
}
