//! A policy: where images come from, which of them need a signature beside them, where they may go, and which stay.
//!
//! `{"allow-registries": ["registry.example"]}` refuses to pull from any other registry; `{"require-signature":
//! ["registry.example/prod/*"]}` admits only images that something of a signature's type refers to (whether the signature is
//! good is what `policy-cosign` looks at); `{"deny-push": ["docker.io"]}` refuses to push there; `{"keep-label":
//! "keep"}` refuses to remove images with that label.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use serde::Deserialize;
use wharf_plugin_sdk::host::config;
use wharf_plugin_sdk::policy::{Authorship, Denial, Policy, Review, Verdict, fits};
use wharf_plugin_sdk::{Document, Host, Result};

/// The policy.
#[derive(Debug, Default)]
pub struct ImageRules;

/// What cosign and notation call their signatures.
const SIGNATURES: [&str; 4] = [
    "application/vnd.dev.cosign.artifact.sig.v1+json",
    "application/vnd.dev.cosign.simplesigning.v1+json",
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.cncf.notary.signature",
];

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    /// For the host, which asks no policy that is not enabled.
    #[serde(rename = "enabled")]
    _enabled: Option<bool>,
    allow_registries: Option<Vec<String>>,
    require_signature: Vec<String>,
    signature_types: Option<Vec<String>>,
    deny_push: Vec<String>,
    keep_label: Option<String>,
}

fn any(patterns: &[String], reference: &str) -> bool {
    patterns.iter().any(|pattern| fits(pattern, reference))
}

fn is_signed(config: &Config, object: &dyn Document) -> bool {
    let known = |kind: &str| match &config.signature_types {
        Some(types) => types.iter().any(|t| t == kind),
        None => SIGNATURES.contains(&kind),
    };
    object
        .keys("/referrers")
        .iter()
        .filter_map(|index| object.text(&format!("/referrers/{index}/artifactType")))
        .any(|kind| known(&kind))
}

impl Policy for ImageRules {
    fn validate(
        &self,
        host: &dyn Host,
        review: &Review,
        object: &dyn Document,
        _authors: &[Authorship],
    ) -> Result<Verdict> {
        let config: Config = config(host)?;
        let mut verdict = Verdict::pass();
        let mut deny = |rule: &str, message: String, remedy: &str| {
            verdict.denials.push(Denial {
                message,
                rule: rule.to_owned(),
                pointer: Some("/reference".to_owned()),
                remedy: Some(remedy.to_owned()),
            });
        };
        let target = review.target.as_str();
        match review.point.as_str() {
            "image-resolve"
                if config.allow_registries.as_ref().is_some_and(|allowed| !any(allowed, target)) =>
            {
                deny(
                    "allow-registries",
                    format!("images may not come from where {target} is"),
                    "use a registry that this host allows, or have it allowed",
                );
            }
            "image-admit" if any(&config.require_signature, target) && !is_signed(&config, object) => deny(
                "require-signature",
                format!("no signature refers to {target}"),
                "sign the image where it is, then pull it again",
            ),
            "image-push" if any(&config.deny_push, target) => deny(
                "deny-push",
                format!("{target} is where images may not be pushed to"),
                "push to a registry that this host allows",
            ),
            "image-remove" => {
                if let Some(label) =
                    config.keep_label.filter(|label| review.labels.iter().any(|(k, _)| k == label))
                {
                    deny(
                        "keep-label",
                        format!("{target} has the label {label:?} and may not be removed"),
                        "have the rule changed",
                    );
                }
            }
            _ => {}
        }
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(policy: ImageRules);
