//! Signatures of an image with their content, for policies: these have no way to a registry of their own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wharf_registry::{Descriptor, Document, Selector, Session};

/// Largest manifest of a signature, and largest blob of one, in bytes.
const LARGEST: u64 = 64 << 10;
/// So many of what refers to an image are looked at, and so many blobs of each.
const MOST: usize = 16;
/// Bytes of all of them.
const TOTAL: usize = 1 << 20;

/// What refers to an image and is small: `{artifactType, digest, annotations, layers: [{mediaType, digest, annotations,
/// data}]}` with the data in base64, or instead of layers an `error` if it could not be fetched. Larger things, such as lists
/// of what is in an image, have layers without data. Everything is what its digest says.
pub(super) async fn contents(session: &Session, referrers: &[Descriptor]) -> Vec<Value> {
    let mut left = TOTAL;
    let mut all = Vec::new();
    for referrer in referrers.iter().filter(|r| r.size <= LARGEST).take(MOST) {
        let mut one = json!({
            "artifactType": referrer.artifact_type, "digest": referrer.digest, "annotations": referrer.annotations,
        });
        let (key, value) = match layers(session, referrer, &mut left).await {
            Ok(layers) => ("layers", Value::Array(layers)),
            Err(error) => ("error", error.to_string().into()),
        };
        if let Some(map) = one.as_object_mut() {
            map.insert(key.into(), value);
        }
        all.push(one);
    }
    all
}

async fn layers(
    session: &Session,
    referrer: &Descriptor,
    left: &mut usize,
) -> wharf_registry::Result<Vec<Value>> {
    let found = session.manifest(&Selector::Digest(referrer.digest.clone()), None).await?;
    let Document::Image(signature) = found.document else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    for layer in signature.layers.iter().take(MOST) {
        let mut one =
            json!({"mediaType": layer.media_type, "digest": layer.digest, "annotations": layer.annotations});
        let size = usize::try_from(layer.size).unwrap_or(usize::MAX);
        if layer.size <= LARGEST && size <= *left {
            *left -= size;
            let data = session.small(layer, LARGEST).await?;
            if let Some(map) = one.as_object_mut() {
                map.insert("data".into(), STANDARD.encode(data).into());
            }
        }
        all.push(one);
    }
    Ok(all)
}
