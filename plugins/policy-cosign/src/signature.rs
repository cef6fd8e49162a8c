//! The two forms of cosign's signatures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use serde::Deserialize;

/// The older form: a document whose signature is an annotation of the layer that it is.
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The newer one: a bundle with everything in it; the number is its version.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.";
/// What such a bundle's envelope holds.
const STATEMENT: &str = "application/vnd.in-toto+json";
/// The statement that an image is signed; others of the same key, such as lists of what is in it, vouch for nothing.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// What somebody says of images, and what is said to be his signature.
pub(crate) struct Claims {
    /// The images' digests.
    pub(crate) digests: Vec<String>,
    signed: Vec<u8>,
    signatures: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct Simple {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: SimpleImage,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct SimpleImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: std::collections::BTreeMap<String, String>,
}

impl Claims {
    /// Reads the content of a layer, in base64, and the signature beside it. None if it is not of a known form.
    pub(crate) fn read(media_type: &str, data: &str, signature: Option<&str>) -> Option<Self> {
        let data = STANDARD.decode(data).ok()?;
        if media_type == SIMPLE {
            let said: Simple = serde_json::from_slice(&data).ok()?;
            if said.critical.kind != "cosign container image signature" {
                return None;
            }
            let signature = STANDARD.decode(signature?).ok()?;
            return Some(Self {
                digests: vec![said.critical.image.digest],
                signed: data,
                signatures: vec![signature],
            });
        }
        if !media_type.starts_with(BUNDLE) {
            return None;
        }
        let Envelope { payload, payload_type, signatures } =
            serde_json::from_slice::<Bundle>(&data).ok()?.dsse_envelope;
        if payload_type != STATEMENT {
            return None;
        }
        let payload = STANDARD.decode(payload).ok()?;
        let statement: Statement = serde_json::from_slice(&payload).ok()?;
        if statement.predicate_type != SIGNED {
            return None;
        }
        let of = |subject: &Subject| subject.digest.get("sha256").map(|hex| format!("sha256:{hex}"));
        Some(Self {
            digests: statement.subject.iter().filter_map(of).collect(),
            signed: envelope(&payload_type, &payload),
            signatures: signatures.iter().filter_map(|s| STANDARD.decode(&s.sig).ok()).collect(),
        })
    }

    /// Whether this key made one of the signatures.
    pub(crate) fn signed_by(&self, key: &VerifyingKey) -> bool {
        // The envelope of one signer has one.
        let found = self.signatures.first().and_then(|bytes| Signature::from_der(bytes).ok());
        found.is_some_and(|signature| key.verify(&self.signed, &signature).is_ok())
    }
}

/// What DSSE signs: type and content with their lengths
/// (<https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>, "PAE").
pub(crate) fn envelope(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}
