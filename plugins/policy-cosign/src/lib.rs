//! A policy: images are admitted only with a signature by a key that is trusted for them, as cosign makes it.
//!
//! `{"keys": {"registry.example/prod/*": ["-----BEGIN PUBLIC KEY-----…"]}}` admits what the pattern fits only if one of those
//! keys (ECDSA on P-256, `cosign generate-key-pair`) signed its digest; what no pattern fits is none of this policy's business.
//! Both forms are known: the older one, a "simple signing" document beside its signature
//! (<https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>), and a Sigstore bundle with a DSSE envelope around an
//! in-toto statement. Certificates and transparency logs are not looked at: the key alone decides.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod signature;

use std::collections::BTreeMap;

use p256::ecdsa::VerifyingKey;
use serde::Deserialize;
use signature::Claims;
use wharf_plugin_sdk::host::config;
use wharf_plugin_sdk::policy::{Authorship, Denial, Policy, Review, Verdict, fits};
use wharf_plugin_sdk::{Document, Error, Host, Result};

/// The policy.
#[derive(Debug, Default)]
pub struct Cosign;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    /// For the host, which asks no policy that is not enabled.
    #[serde(rename = "enabled")]
    _enabled: Option<bool>,
    /// By pattern: public keys in PEM.
    keys: BTreeMap<String, Vec<String>>,
}

/// Most signatures whose mathematics is done: a hostile registry may offer any number.
const TRIES: usize = 8;

/// The keys that are trusted for a reference; none if no pattern fits it.
fn trusted(config: &Config, reference: &str) -> Result<Option<Vec<VerifyingKey>>> {
    let fitting: Vec<_> = config.keys.iter().filter(|(pattern, _)| fits(pattern, reference)).collect();
    if fitting.is_empty() {
        return Ok(None);
    }
    let parse = |pattern: &str, pem: &String| {
        pem.trim().parse::<VerifyingKey>().map_err(|e| {
            Error::invalid(format!(
                "the setting keys[{pattern:?}] is no ECDSA P-256 public key in PEM, as cosign generate-key-pair writes it: {e}"
            ))
        })
    };
    let keys = fitting.iter().flat_map(|(pattern, pems)| pems.iter().map(move |pem| parse(pattern, pem)));
    keys.collect::<Result<_>>().map(Some)
}

/// Whether one of the keys signed one of the digests.
fn is_signed(keys: &[VerifyingKey], digests: &[String], object: &dyn Document) -> bool {
    let mut tries = 0;
    for number in object.keys("/signatures") {
        let layers = format!("/signatures/{number}/layers");
        for layer in object.keys(&layers) {
            let at = |name: &str| object.text(&format!("{layers}/{layer}/{name}"));
            let signature = at("annotations/dev.cosignproject.cosign~1signature");
            let (Some(kind), Some(data)) = (at("mediaType"), at("data")) else { continue };
            let Some(claims) = Claims::read(&kind, &data, signature.as_deref()) else { continue };
            // Cheap first: what speaks of something else is not worth a try.
            if !digests.iter().any(|digest| claims.digests.contains(digest)) {
                continue;
            }
            for key in keys {
                tries += 1;
                if tries > TRIES {
                    return false;
                }
                if claims.signed_by(key) {
                    return true;
                }
            }
        }
    }
    false
}

impl Policy for Cosign {
    fn validate(
        &self,
        host: &dyn Host,
        review: &Review,
        object: &dyn Document,
        _authors: &[Authorship],
    ) -> Result<Verdict> {
        let config: Config = config(host)?;
        let mut verdict = Verdict::pass();
        if review.point != "image-admit" {
            return Ok(verdict);
        }
        let target = review.target.as_str();
        let Some(keys) = trusted(&config, target)? else { return Ok(verdict) };
        let digests: Vec<String> =
            ["/digest", "/descriptor/digest"].iter().filter_map(|pointer| object.text(pointer)).collect();
        if !is_signed(&keys, &digests, object) {
            verdict.denials.push(Denial {
                message: format!("no trusted key signed {target}"),
                rule: "keys".to_owned(),
                pointer: Some("/signatures".to_owned()),
                remedy: Some(
                    "sign the image where it is with a key that this host trusts for it (cosign sign --key), then pull it again"
                        .to_owned(),
                ),
            });
        }
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(policy: Cosign);
