use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};
use wharf_plugin_sdk::mock::{MockDocument, MockHost};
use wharf_plugin_sdk::policy::Origin;

use super::*;

const TARGET: &str = "reg:5000/prod/app:1";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

fn pem(key: &SigningKey) -> String {
    p256::PublicKey::from(*key.verifying_key()).to_public_key_pem(LineEnding::LF).unwrap()
}

fn digest(letter: char) -> String {
    format!("sha256:{}", letter.to_string().repeat(64))
}

fn sign(key: &SigningKey, data: &[u8]) -> String {
    let signature: Signature = key.sign(data);
    STANDARD.encode(signature.to_der())
}

fn simple(key: &SigningKey, digest: &str, kind: &str) -> Value {
    let payload = json!({"critical": {"identity": {"docker-reference": "reg:5000/prod/app"},
        "image": {"docker-manifest-digest": digest}, "type": kind}, "optional": null})
    .to_string();
    json!({"layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "data": STANDARD.encode(&payload), "annotations": {"dev.cosignproject.cosign/signature": sign(key, payload.as_bytes())}}]})
}

fn good(key: &SigningKey, digest: &str) -> Value {
    simple(key, digest, "cosign container image signature")
}

fn bundle(key: &SigningKey, digest: &str, predicate: &str) -> Value {
    const TYPE: &str = "application/vnd.in-toto+json";
    let (_, hex) = digest.split_once(':').unwrap();
    let statement = json!({"_type": "https://in-toto.io/Statement/v1", "predicateType": predicate,
        "subject": [{"digest": {"sha256": hex}}], "predicate": {}})
    .to_string();
    let signed = signature::envelope(TYPE, statement.as_bytes());
    let bundle = json!({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial": {"publicKey": {"hint": "x"}},
        "dsseEnvelope": {"payload": STANDARD.encode(&statement), "payloadType": TYPE, "signatures": [{"sig": sign(key, &signed)}]}})
    .to_string();
    json!({"layers": [{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "data": STANDARD.encode(bundle)}]})
}

fn review(target: &str) -> Review {
    Review {
        point: "image-admit".into(),
        identity: None,
        origin: Origin::Api,
        target: target.into(),
        labels: Vec::new(),
        dry_run: false,
        audit: false,
    }
}

fn ask(config: &str, target: &str, signatures: &[Value]) -> Result<Verdict> {
    let object =
        json!({"digest": digest('a'), "descriptor": {"digest": digest('b')}, "signatures": signatures});
    let (host, object) = (MockHost::with_config(config), MockDocument::new(&object.to_string()));
    host.call(|host| Cosign.validate(host, &review(target), &object, &[]))
}

fn admits(signatures: &[Value]) -> bool {
    let config =
        json!({"enabled": true, "keys": {"reg:5000/prod/*": [pem(&key(1)), pem(&key(2))]}}).to_string();
    ask(&config, TARGET, signatures).unwrap().denials.is_empty()
}

#[test]
fn a_trusted_key_admits() {
    assert!(!admits(&[]));
    for signer in [1, 2] {
        assert!(admits(&[good(&key(signer), &digest('a'))]), "of the index");
        assert!(admits(&[good(&key(signer), &digest('b'))]), "of the platform's manifest");
        assert!(admits(&[bundle(&key(signer), &digest('a'), "https://sigstore.dev/cosign/sign/v1")]));
    }
    assert!(admits(&[json!({}), good(&key(7), &digest('a')), good(&key(1), &digest('a'))]));
}

#[test]
fn what_else_is_offered_does_not() {
    assert!(!admits(&[good(&key(3), &digest('a'))]), "a stranger's key");
    assert!(!admits(&[good(&key(1), &digest('c'))]), "another image's signature");
    assert!(!admits(&[simple(&key(1), &digest('a'), "a list of what is in it")]));
    assert!(!admits(&[bundle(&key(1), &digest('a'), "https://spdx.dev/Document")]), "no signature, a list");
    let mut moved = good(&key(1), &digest('c'));
    let payload = good(&key(3), &digest('a'))["layers"][0]["data"].clone();
    moved["layers"][0]["data"] = payload;
    assert!(!admits(&[moved]), "somebody's signature beside other words");
    for broken in [
        json!({"layers": [{}]}),
        json!({"layers": {"0": 1}}),
        json!({"layers": [{"mediaType": 1, "data": "%"}]}),
    ] {
        assert!(!admits(&[broken]));
    }
}

#[test]
fn a_flood_of_signatures_is_not_tried() {
    let mut many: Vec<Value> = (0..20).map(|_| good(&key(9), &digest('a'))).collect();
    many.push(good(&key(1), &digest('a')));
    assert!(!admits(&many));
    // What speaks of other images costs nothing and counts for nothing.
    let mut others: Vec<Value> = (0..20).map(|_| good(&key(9), &digest('f'))).collect();
    others.push(good(&key(1), &digest('a')));
    assert!(admits(&others));
}

#[test]
fn patterns_and_settings() {
    let config = json!({"keys": {"reg:5000/prod/*": [pem(&key(1))]}}).to_string();
    assert!(ask(&config, "reg:5000/test/app:1", &[]).unwrap().denials.is_empty());
    let denied = ask(&config, TARGET, &[]).unwrap().denials;
    assert!(
        denied.iter().any(|d| d.message == format!("no trusted key signed {TARGET}") && d.remedy.is_some())
    );
    let none = json!({"keys": {"reg:5000/prod/*": []}}).to_string();
    assert_eq!(ask(&none, TARGET, &[good(&key(1), &digest('a'))]).unwrap().denials.len(), 1);
    for bad in [json!({"keys": {"*": ["no key"]}}), json!({"kyes": {}})] {
        assert!(ask(&bad.to_string(), TARGET, &[]).is_err(), "{bad}");
    }
}
