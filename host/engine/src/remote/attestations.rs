//! Statements about an image (attestations): from what is kept of its index, or else from its registry.

use std::collections::HashMap;

use serde_json::{Value, json};
use wharf_images::image_index::Entry;
use wharf_images::reference::Reference;
use wharf_images::{ImageIndex, Manifest, not_provided};
use wharf_plan::platform::Platform;
use wharf_registry::manifest::{MAX_CONFIG, MAX_DEPTH};
use wharf_registry::{Access, Descriptor, Document, Selector, Session};

use super::credential;
use crate::Engine;
use crate::error::Result;

/// Statements that are shown of one image, and layers of each.
const MOST: usize = 100;

/// What is asked for.
struct Asked<'a> {
    kinds: &'a [String],
    /// With the statements themselves.
    statements: bool,
}

impl Asked<'_> {
    /// What is shown of a statement's layer; none if another kind is asked for.
    fn shown(&self, layer: &Descriptor, artifact_type: &str) -> Option<Value> {
        let kind = layer.annotations.get("in-toto.io/predicate-type").cloned().unwrap_or_else(|| {
            if artifact_type.is_empty() { layer.media_type.clone() } else { artifact_type.to_owned() }
        });
        if !self.kinds.is_empty() && !self.kinds.contains(&kind) {
            return None;
        }
        Some(json!({
            "Descriptor": {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size,
                "annotations": layer.annotations},
            "PredicateType": kind,
        }))
    }
}

fn with_statement(mut shown: Value, text: &[u8]) -> Value {
    if let Some(map) = shown.as_object_mut() {
        map.insert("Statement".into(), serde_json::from_slice(text).unwrap_or_default());
    }
    shown
}

impl Engine {
    /// `GET /images/{}/attestations`: what is said about an image of a platform (this host's if none is given). What is
    /// kept with the image's index is read from there; only where something is not, its registry is asked.
    pub async fn image_attestations(
        &self,
        name: &str,
        platform: Option<&str>,
        kinds: &[String],
        statements: bool,
        headers: &HashMap<String, String>,
    ) -> Result<Value> {
        let found = self.inner.images.find(name)?;
        let wanted = platform.map(Platform::parse).transpose()?;
        let asked = Asked { kinds, statements };
        // The index says that there is nothing in it.
        let mut silent = false;
        if let Some(index) = &found.index {
            let entry = match &wanted {
                Some(wanted) => Some(index.best(wanted).ok_or_else(|| not_provided(name, wanted))?),
                None => index.best(&Platform::host()).or_else(|| index.primary().map(|(entry, _)| entry)),
            };
            if let Some(entry) = entry {
                let about = Some(entry.digest.as_str());
                let said: Vec<&Entry> =
                    index.entries.iter().filter(|e| e.is_statement() && e.about() == about).collect();
                silent = said.is_empty();
                if !silent && let Some(shown) = self.kept_attestations(index, &said, &asked)? {
                    return Ok(Value::Array(shown));
                }
            }
        }
        let Some(image) = found.image else { return Ok(json!([])) };
        let known = self.inner.images.manifests(&image.id)?.into_iter().find(|m| !m.source.is_empty());
        let Some(known) = known else { return Ok(json!([])) };
        let session =
            self.remote(&Reference::parse(&known.source)?, Access::Pull, credential(headers)?).await?;
        let wanted = wanted.unwrap_or_else(Platform::host);
        match of_registry(&session, &known, &wanted, &asked).await {
            Ok(shown) => Ok(Value::Array(shown)),
            // Only what refers to the image from elsewhere is not known.
            Err(error) if silent => {
                tracing::warn!(%error, name, "the registry could not be asked for attestations");
                Ok(json!([]))
            }
            Err(error) => Err(error),
        }
    }

    /// Statements of an index, if all of them are here.
    fn kept_attestations(
        &self,
        index: &ImageIndex,
        said: &[&Entry],
        asked: &Asked<'_>,
    ) -> Result<Option<Vec<Value>>> {
        let mut shown = Vec::new();
        for entry in said.iter().take(MOST) {
            let Some(manifest) = index.statements.get(&entry.digest) else { return Ok(None) };
            let parsed = Document::parse(manifest.content.as_bytes(), &manifest.media_type)?;
            let Document::Image(statement) = parsed.0 else { continue };
            for layer in statement.layers.iter().take(MOST) {
                let Some(one) = asked.shown(layer, &statement.artifact_type) else { continue };
                shown.push(if asked.statements {
                    with_statement(one, &self.inner.images.statement_blob(&layer.digest)?)
                } else {
                    one
                });
            }
        }
        Ok(Some(shown))
    }
}

/// What the registry has: in the index, where `BuildKit` keeps statements, and what refers to the manifest.
async fn of_registry(
    session: &Session,
    known: &Manifest,
    wanted: &Platform,
    asked: &Asked<'_>,
) -> Result<Vec<Value>> {
    let mut about = known.digest.clone();
    let mut found = Vec::new();
    let root = session.manifest(&Selector::Digest(known.root.clone()), None).await?;
    if let Document::Index(entries) = &root.document {
        about = session.descend(root.clone(), wanted, MAX_DEPTH).await?.digest;
        let said = entries.iter().filter(|e| e.is_statement());
        found.extend(said.filter(|e| e.about().is_none_or(|digest| digest == about)).cloned());
    }
    found.extend(session.referrers(&about, None).await?);
    let mut shown = Vec::new();
    for descriptor in found.into_iter().take(MOST) {
        let manifest =
            session.manifest(&Selector::Digest(descriptor.digest.clone()), Some(descriptor.size)).await?;
        let Document::Image(statement) = &manifest.document else { continue };
        for layer in statement.layers.iter().take(MOST) {
            let Some(one) = asked.shown(layer, &descriptor.artifact_type) else { continue };
            shown.push(if asked.statements {
                with_statement(one, &session.small(layer, MAX_CONFIG).await?)
            } else {
                one
            });
        }
    }
    Ok(shown)
}
