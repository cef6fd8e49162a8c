use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest(text: &str) -> String {
    wharf_registry::digest::of(text.as_bytes())
}

/// An index of these platforms, of which those that are marked are here; with a statement about the first.
fn index(platforms: &[(&str, bool)], statement: Option<bool>) -> ImageIndex {
    let mut present = BTreeMap::new();
    let mut entries: Vec<Value> = Vec::new();
    for (platform, here) in platforms {
        let parsed = Platform::parse(platform).unwrap();
        let text = format!("manifest of {platform}");
        entries.push(json!({
            "mediaType": MANIFEST, "digest": digest(&text), "size": text.len(), "platform": parsed,
        }));
        if *here {
            let manifest = Document { media_type: MANIFEST.into(), content: text.clone() };
            present.insert(digest(&text), Present { image: digest(platform), manifest, platform: parsed });
        }
    }
    let mut statements = BTreeMap::new();
    if let (Some(here), Some(first)) = (statement, entries.first().cloned()) {
        entries.push(json!({
            "mediaType": MANIFEST, "digest": digest("statement"), "size": 9,
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": first["digest"]},
        }));
        if here {
            let manifest = Document { media_type: MANIFEST.into(), content: "statement".into() };
            statements.insert(digest("statement"), manifest);
        }
    }
    let parsed = entries.iter().map(|raw| {
        let entry: Entry = serde_json::from_value(raw.clone()).unwrap();
        Entry { raw: raw.clone(), ..entry }
    });
    let parsed = Arc::new(parsed.collect());
    let content = serde_json::to_string_pretty(&json!({"schemaVersion": 2, "manifests": entries})).unwrap();
    ImageIndex {
        digest: digest(&content),
        document: Document { media_type: INDEX.into(), content },
        nested: BTreeMap::new(),
        entries: parsed,
        present,
        statements,
    }
}

fn chosen(
    platforms: &[(&str, bool)],
    statement: Option<bool>,
    wanted: Option<&str>,
) -> Result<Chosen, String> {
    let wanted = wanted.map(|text| Platform::parse(text).unwrap());
    choose(&index(platforms, statement), wanted.as_ref(), "a:1").map_err(|e| e.message)
}

#[allow(clippy::unnecessary_wraps, reason = "to be compared with what was chosen")]
fn one(platform: &str) -> Result<Chosen, String> {
    Ok(Chosen::Image(digest(&format!("manifest of {platform}"))))
}

#[test]
fn what_is_pushed_is_what_docker_pushes() {
    let host = Platform::host().text();
    let host = host.as_str();
    // The whole, if it is whole.
    assert_eq!(chosen(&[(host, true), ("linux/s390x", true)], None, None), Ok(Chosen::Index));
    assert_eq!(chosen(&[(host, true)], Some(true), None), Ok(Chosen::Index));
    assert_eq!(chosen(&[("linux/s390x", true)], None, None), Ok(Chosen::Index));
    // Otherwise the one that is here, or this host's.
    assert_eq!(chosen(&[(host, false), ("linux/s390x", true)], None, None), one("linux/s390x"));
    assert_eq!(chosen(&[(host, true)], Some(false), None), one(host));
    let some = [(host, true), ("linux/s390x", true), ("linux/ppc64le", false)];
    assert_eq!(chosen(&some, None, None), one(host));
    let foreign = [(host, false), ("linux/s390x", true), ("linux/ppc64le", true)];
    let text = chosen(&foreign, None, None).unwrap_err();
    assert_eq!(text, "multiple matching manifests found but no specific platform requested");
    // One that is asked for, never the index.
    assert_eq!(chosen(&some, None, Some("linux/s390x")), one("linux/s390x"));
    assert_eq!(chosen(&[(host, true)], None, Some(host)), one(host));
    let text = chosen(&some, None, Some("linux/ppc64le")).unwrap_err();
    assert_eq!(
        text,
        "image with reference a:1 was found but does not provide the specified platform (linux/ppc64le)"
    );
    let text = chosen(&[("linux/s390x", false)], None, None).unwrap_err();
    assert_eq!(text, "image with reference a:1 was found but does not provide any platform");
}

fn sent(digest: &str) -> Sent {
    Sent { digest: digest.into(), size: 7, media_type: MANIFEST.into() }
}

#[test]
fn an_index_inside_of_an_index_is_rewritten_with_it() {
    let inner = index(&[("linux/s390x", true)], None);
    let content = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": INDEX, "digest": inner.digest, "size": inner.document.content.len()}]})
    .to_string();
    let outer = ImageIndex {
        digest: digest(&content),
        document: Document { media_type: INDEX.into(), content: content.clone() },
        nested: [(inner.digest.clone(), inner.document.clone())].into(),
        ..inner.clone()
    };
    let manifest = digest("manifest of linux/s390x");
    let (root, nested) = rewrite(&outer, &[(manifest.clone(), sent(&manifest))].into()).unwrap();
    assert_eq!((root.content, nested), (content, vec![inner.document]));
    let (root, nested) = rewrite(&outer, &[(manifest, sent(&digest("other")))].into()).unwrap();
    let root: Value = serde_json::from_str(&root.content).unwrap();
    assert_eq!(root["manifests"][0]["digest"], digest(&nested[0].content));
    assert_eq!(root["manifests"][0]["size"], nested[0].content.len());
    let inside: Value = serde_json::from_str(&nested[0].content).unwrap();
    assert_eq!(inside["manifests"][0]["digest"], digest("other"));
}

proptest! {
    /// Whatever is here and whatever changed: what did not change is byte for byte the same, what changed is named by its new
    /// digest in its old place, and nothing speaks about what is not there.
    #[test]
    fn a_rewritten_index_names_what_was_sent(
        here in prop::collection::vec(any::<(bool, bool)>(), 1..6),
        statement in any::<Option<bool>>(),
    ) {
        let platforms = ["linux/amd64", "linux/arm64", "linux/s390x", "linux/ppc64le", "linux/riscv64"];
        let all: Vec<(&str, bool)> =
            platforms.iter().zip(&here).map(|(platform, (here, _))| (*platform, *here)).collect();
        let index = index(&all, statement);
        let mut now = BTreeMap::new();
        for (platform, (here, changed)) in platforms.iter().zip(&here) {
            let before = digest(&format!("manifest of {platform}"));
            if *here {
                let after = if *changed { digest(&format!("new {platform}")) } else { before.clone() };
                now.insert(before, sent(&after));
            }
        }
        let changed = now.iter().any(|(before, after)| *before != after.digest);
        let (root, nested) = rewrite(&index, &now).unwrap();
        prop_assert!(nested.is_empty());
        prop_assert_eq!(root.content == index.document.content, !changed);
        let value: Value = serde_json::from_str(&root.content).unwrap();
        let listed: Vec<&str> =
            value["manifests"].as_array().unwrap().iter().map(|e| e["digest"].as_str().unwrap()).collect();
        let mut wanted: Vec<String> = all
            .iter()
            .map(|(platform, _)| digest(&format!("manifest of {platform}")))
            .map(|before| now.get(&before).map_or(before.clone(), |after| after.digest.clone()))
            .collect();
        let first = digest("manifest of linux/amd64");
        let spoken = now.get(&first).is_none_or(|after| after.digest == first);
        if statement.is_some() && spoken {
            wanted.push(digest("statement"));
        }
        prop_assert_eq!(listed, wanted);
    }

    /// A platform that is asked for is the one that is sent, or nothing is.
    #[test]
    fn what_was_asked_for_is_sent_or_nothing(here in prop::collection::vec(any::<bool>(), 5), asked in 0..5usize) {
        let platforms = ["linux/amd64", "linux/arm64", "linux/s390x", "linux/ppc64le", "linux/riscv64"];
        let all: Vec<(&str, bool)> = platforms.iter().copied().zip(here.iter().copied()).collect();
        match chosen(&all, None, Some(platforms[asked])) {
            Ok(Chosen::Image(found)) => {
                prop_assert!(here[asked]);
                prop_assert_eq!(found, digest(&format!("manifest of {}", platforms[asked])));
            }
            Ok(Chosen::Index) => prop_assert!(false, "the index was not asked for"),
            Err(_) => prop_assert!(!here[asked]),
        }
    }
}
