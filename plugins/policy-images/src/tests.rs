use wharf_plugin_sdk::mock::{MockDocument, MockHost};
use wharf_plugin_sdk::policy::Origin;

use super::*;

const RULES: &str = r#"{"enabled": true, "allow-registries": ["docker.io", "reg:5000/team"],
    "require-signature": ["reg:5000/team/*"], "deny-push": ["docker.io"], "keep-label": "keep"}"#;

fn denied(config: &str, point: &str, target: &str, labels: &[(&str, &str)], object: &str) -> Vec<String> {
    let review = Review {
        point: point.into(),
        identity: None,
        origin: Origin::Api,
        target: target.into(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        dry_run: false,
        audit: false,
    };
    let host = MockHost::with_config(config);
    let verdict =
        host.call(|host| ImageRules.validate(host, &review, &MockDocument::new(object), &[])).unwrap();
    verdict.denials.into_iter().map(|denial| denial.rule).collect()
}

#[test]
fn registries() {
    for (target, fine) in [
        ("docker.io/library/a:1", true),
        ("reg:5000/team/a:1", true),
        ("reg:5000/teams/a:1", false),
        ("docker.io.evil.example/a:1", false),
        ("quay.io/a:1", false),
    ] {
        assert_eq!(denied(RULES, "image-resolve", target, &[], "{}").is_empty(), fine, "{target}");
        assert!(denied("{}", "image-resolve", target, &[], "{}").is_empty());
    }
    assert_eq!(denied(RULES, "image-push", "docker.io/me/a:1", &[], "{}"), ["deny-push"]);
    assert!(denied(RULES, "image-push", "reg:5000/team/a:1", &[], "{}").is_empty());
}

#[test]
fn signatures() {
    let signed =
        format!(r#"{{"referrers": [{{"artifactType": "other"}}, {{"artifactType": {:?}}}]}}"#, SIGNATURES[3]);
    let target = "reg:5000/team/a:1";
    assert!(denied(RULES, "image-admit", target, &[], &signed).is_empty());
    assert!(denied(RULES, "image-admit", "docker.io/a/a:1", &[], "{}").is_empty());
    for object in
        ["{}", r#"{"referrers": []}"#, r#"{"referrers": [{"artifactType": "application/spdx+json"}]}"#]
    {
        assert_eq!(denied(RULES, "image-admit", target, &[], object), ["require-signature"], "{object}");
    }
    let own = r#"{"require-signature": ["*"], "signature-types": ["mine"]}"#;
    assert!(
        denied(own, "image-admit", target, &[], r#"{"referrers": [{"artifactType": "mine"}]}"#).is_empty()
    );
    assert_eq!(denied(own, "image-admit", target, &[], &signed), ["require-signature"]);
}

#[test]
fn labels() {
    assert_eq!(denied(RULES, "image-remove", "a", &[("x", ""), ("keep", "1")], "{}"), ["keep-label"]);
    assert!(denied(RULES, "image-remove", "a", &[("keeper", "1")], "{}").is_empty());
}
