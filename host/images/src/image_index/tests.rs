use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::record::NameRecord;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const PLATFORMS: [&str; 5] = ["linux/arm/v7", "linux/amd64", "linux/arm64", "linux/s390x", "linux/arm/v6"];

fn of(text: &str) -> String {
    digest::of(text.as_bytes())
}

fn document(entries: &[Value]) -> Document {
    let content = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    Document { media_type: INDEX.into(), content }
}

fn entry(platform: &str) -> Value {
    json!({"mediaType": MANIFEST, "digest": of(platform), "size": 5, "platform": Platform::parse(platform).unwrap()})
}

fn present(platform: &str) -> Present {
    let manifest = Document { media_type: MANIFEST.into(), content: platform.into() };
    Present {
        image: of(&format!("image {platform}")),
        manifest,
        platform: Platform::parse(platform).unwrap(),
    }
}

fn index(here: &[bool]) -> ImageIndex {
    let entries: Vec<Value> = PLATFORMS.iter().map(|p| entry(p)).collect();
    let mut index = ImageIndex::new(document(&entries), []).unwrap();
    for (platform, _) in PLATFORMS.iter().zip(here).filter(|(_, here)| **here) {
        index.present.insert(of(platform), present(platform));
    }
    index
}

fn wants(platform: &str) -> Platform {
    Platform::parse(platform).unwrap()
}

#[test]
fn the_best_platform_is_meant_and_only_what_runs_there() {
    let all = index(&[true; 5]);
    let found =
        |index: &ImageIndex, text: &str| index.present_for(&wants(text)).map(|(e, _)| e.digest.clone());
    assert_eq!(found(&all, "linux/arm/v7"), Some(of("linux/arm/v7")));
    assert_eq!(found(&all, "linux/arm/v6"), Some(of("linux/arm/v6")));
    assert_eq!(found(&all, "linux/amd64/v3"), Some(of("linux/amd64")));
    assert_eq!(found(&all, "linux/ppc64le"), None);
    // Another that runs there too, if the best is not here; and it is known that there is a better one.
    let some = index(&[false, false, false, false, true]);
    assert_eq!(found(&some, "linux/arm/v7"), Some(of("linux/arm/v6")));
    assert_eq!(some.best(&wants("linux/arm/v7")).unwrap().digest, of("linux/arm/v7"));
    assert_eq!(found(&some, "linux/amd64"), None);
    // Without a wish this host's, else the first.
    assert_eq!(some.primary().unwrap().0.digest, of("linux/arm/v6"));
    assert!(Target::index(&index(&[false; 5])).image.is_empty());
}

#[test]
fn an_index_is_complete_with_its_statements() {
    let statement = json!({
        "mediaType": MANIFEST, "digest": of("statement"), "size": 9,
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": of("linux/amd64")},
    });
    let mut index = ImageIndex::new(document(&[entry("linux/amd64"), statement]), []).unwrap();
    assert_eq!(index.images().count(), 1, "a statement is no image");
    index.present.insert(of("linux/amd64"), present("linux/amd64"));
    assert!(!index.is_complete());
    let blobs = json!({"config": {"digest": of("c")}, "layers": [{"digest": of("l")}]}).to_string();
    index.statements.insert(of("statement"), Document { media_type: MANIFEST.into(), content: blobs });
    assert!(index.is_complete());
    assert_eq!(index.blobs(), [of("c"), of("l")].into());
    // What is about an image that goes, goes.
    index.forget(&present("linux/amd64").image);
    assert!(index.statements.is_empty() && index.present.is_empty() && index.blobs().is_empty());
}

#[test]
fn indexes_inside_of_indexes_are_one_list() {
    let inner = document(&[entry("linux/s390x"), entry("linux/amd64")]);
    let inside = json!({"mediaType": INDEX, "digest": of(&inner.content), "size": inner.content.len()});
    let outer = document(&[entry("linux/arm64"), inside, entry("linux/amd64")]);
    let index = ImageIndex::new(outer.clone(), [inner]).unwrap();
    let digests: Vec<&str> = index.entries.iter().map(|e| e.digest.as_str()).collect();
    assert_eq!(digests, [of("linux/arm64"), of("linux/s390x"), of("linux/amd64")]);
    // One that did not come is something that is not here.
    let index = ImageIndex::new(outer, []).unwrap();
    assert_eq!((index.entries.len(), index.images().count()), (3, 2));
}

#[test]
fn hostile_indexes_are_refused_or_bounded() {
    for content in ["", "[]", "{}", r#"{"manifests": 3}"#, r#"{"manifests": [{"digest": "sha256:../x"}]}"#] {
        let document = Document { media_type: INDEX.into(), content: content.into() };
        assert!(ImageIndex::new(document, []).is_err(), "{content}");
    }
    let many: Vec<Value> = (0..=MOST_ENTRIES)
        .map(|n| json!({"mediaType": MANIFEST, "digest": of(&n.to_string()), "size": 1}))
        .collect();
    assert!(ImageIndex::new(document(&many), []).is_err());
    // Each level names the next one twice and ten times over: what is listed does not multiply.
    let mut inner = document(&[entry("linux/amd64")]);
    let mut nested = vec![inner.clone()];
    for _ in 0..20 {
        let inside = json!({"mediaType": INDEX, "digest": of(&inner.content), "size": 1});
        inner = document(&vec![inside; 10]);
        nested.push(inner.clone());
    }
    match ImageIndex::new(inner, nested) {
        Ok(index) => assert!(index.entries.len() <= MOST_ENTRIES),
        Err(error) => assert!(error.to_string().contains("entries"), "{error}"),
    }
    // Nor is what lists nothing read a hundred million times.
    let mut inner = document(&[]);
    let mut nested = Vec::new();
    for _ in 0..4 {
        let inside = json!({"mediaType": INDEX, "digest": of(&inner.content), "size": 1});
        nested.push(inner);
        inner = document(&vec![inside; 450]);
    }
    let index = ImageIndex::new(inner, nested).unwrap();
    // What is deeper than an index may be is an entry.
    assert_eq!(index.entries.len(), 1);
}

#[test]
fn records_of_older_versions_are_read() {
    let old: NameRecord = serde_json::from_str(r#"{"image":"sha256:1"}"#).unwrap();
    assert_eq!(Target::from(old), Target { image: "sha256:1".into(), index: None });
    let new = NameRecord { image: "sha256:1".into(), index: None };
    assert_eq!(serde_json::to_string(&new).unwrap(), r#"{"image":"sha256:1"}"#, "and can be read by them");
}

proptest! {
    /// What is recorded is what is read, whatever is here.
    #[test]
    fn a_record_brings_everything_back(here in prop::collection::vec(any::<bool>(), 5)) {
        let index = index(&here);
        let text = serde_json::to_vec(&index.record()).unwrap();
        let record: IndexRecord = serde_json::from_slice(&text).unwrap();
        prop_assert_eq!(ImageIndex::read(record).unwrap(), index);
    }

    /// The platform that is chosen is here, runs where it is wanted, and nothing that is here would do better.
    #[test]
    fn nothing_here_does_better(here in prop::collection::vec(any::<bool>(), 5), wanted in 0..5usize) {
        let index = index(&here);
        let wanted = wants(PLATFORMS[wanted]);
        let fits: Vec<u8> = index.here().filter_map(|(_, p)| wanted.fit(&p.platform)).collect();
        let found = index.present_for(&wanted).and_then(|(_, p)| wanted.fit(&p.platform));
        prop_assert_eq!(found, fits.into_iter().min());
        prop_assert_eq!(index.primary().is_some(), here.iter().any(|h| *h));
    }
}
