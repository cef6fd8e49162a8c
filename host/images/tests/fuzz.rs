//! Layers, archives and names by chance: half well-formed, half damaged. `PROPTEST_CASES` sets how many of each; a case that
//! fails is made small and printed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use wharf_images::archive::tar::Reader;
use wharf_images::archive::unpack::{Budget, Outcome, Whiteouts, unpack};
use wharf_images::reference::{AnyReference, Reference};
use wharf_images::{Kind, RemoveOptions};

/// Few by default, as each makes files.
fn runner(cases: u32) -> TestRunner {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    TestRunner::new(Config { cases: asked.unwrap_or(cases), failure_persistence: None, ..Config::default() })
}

/// Names that mean something to somebody, and pieces to make others of.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "l", "d", "etc", "x"]).prop_map(|s| s.as_bytes().to_vec()),
        2 => prop::sample::select(vec!["..", ".", "", ".wh.a", ".wh.l", ".wh..wh..opq", ".wh.", ".wh..", ".wh...", "secret"])
            .prop_map(|s| s.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..6),
    ];
    (any::<bool>(), vec(part, 1..5)).prop_map(|(rooted, parts)| {
        let joined = parts.join(&b'/');
        let joined = if rooted { [b"/".as_slice(), &joined].concat() } else { joined };
        // What no header can hold.
        joined.into_iter().map(|b| if b == 0 { b'0' } else { b }).collect()
    })
}

/// `OUT` in targets stands for a directory beside the one that is unpacked into.
fn target() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        name(),
        Just(b"OUT".to_vec()),
        Just(b"../OUT".to_vec()),
        Just(b"../../../../../../OUT/secret".to_vec()),
        Just(b"/proc/self/root".to_vec()),
        Just(b"/proc/self/cwd".to_vec()),
    ]
}

fn one() -> impl Strategy<Value = Entry> {
    let kind = prop::sample::select(b"00005551122223467xLg".to_vec());
    let pax = prop_oneof![
        6 => Just(None),
        1 => Just(Some(("SCHILY.xattr.user.x".to_owned(), b"y".to_vec()))),
        1 => Just(Some(("SCHILY.xattr.trusted.overlay.opaque".to_owned(), b"y".to_vec()))),
        1 => name().prop_map(|n| Some(("path".to_owned(), n))),
        1 => name().prop_map(|n| Some(("linkpath".to_owned(), n))),
        1 => any::<u64>().prop_map(|n| Some(("size".to_owned(), n.to_string().into_bytes()))),
        1 => any::<u32>().prop_map(|n| Some(("GNU.sparse.realsize".to_owned(), n.to_string().into_bytes()))),
    ];
    (kind, name(), target(), vec(any::<u8>(), 0..40), 0..0o10000u32, pax).prop_map(
        |(kind, path, link, content, mode, pax)| {
            let mut made = entry(kind, path).mode(mode);
            made.link = link;
            if matches!(kind, b'0' | b'7' | b'x' | b'L' | b'g') {
                made.content = content;
            }
            if let Some((key, value)) = pax {
                made = made.pax(&key, value);
            }
            made
        },
    )
}

/// Damage to bytes: what to do, where, with what.
fn damage() -> impl Strategy<Value = Vec<(u8, prop::sample::Index, u8)>> {
    prop_oneof![2 => Just(Vec::new()), 1 => vec((0u8..6, any::<prop::sample::Index>(), any::<u8>()), 1..6)]
}

fn damaged(mut bytes: Vec<u8>, damage: &[(u8, prop::sample::Index, u8)]) -> Vec<u8> {
    for (what, at, with) in damage {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match what {
            0 => bytes[at] ^= with | 1,
            1 => bytes.truncate(at),
            2 => bytes.insert(at, *with),
            3 => drop(bytes.remove(at)),
            4 => {
                let part = bytes[at..(at + usize::from(*with) * 16).min(bytes.len())].to_vec();
                bytes.extend(part);
            }
            _ => {
                let end = (at + usize::from(*with)).min(bytes.len());
                bytes[at..end].fill(*with);
            }
        }
    }
    bytes
}

/// Everything about the files in a directory but their times.
fn picture(dir: &Path) -> BTreeMap<Vec<u8>, (u32, u32, u64, Vec<u8>)> {
    use std::os::unix::ffi::OsStrExt;
    let mut all = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                std::fs::read(&path).unwrap()
            } else if meta.is_symlink() {
                std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                vec![]
            };
            if meta.is_dir() {
                dirs.push(path.clone());
            }
            let name = path.strip_prefix(dir).unwrap().as_os_str().as_bytes().to_vec();
            all.insert(name, (meta.mode(), meta.uid(), meta.nlink(), content));
        }
    }
    all
}

const BYTES: u64 = 100_000;
const ENTRIES: u64 = 12;

fn unpacked(stream: &[u8], root: &Path, whiteouts: Whiteouts) -> std::io::Result<Outcome> {
    std::fs::create_dir(root).unwrap();
    // A lower layer's files, where they are copied.
    if whiteouts == Whiteouts::Delete {
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/a"), "lower").unwrap();
    }
    let mut input = stream;
    let mut reader = Reader::new(&mut input);
    unpack(&mut reader, std::fs::File::open(root).unwrap().into(), whiteouts, &Budget::new(BYTES, ENTRIES))
}

#[test]
fn layers() {
    let strategy = (vec(one(), 0..16), damage());
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("OUT");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("secret"), "secret").unwrap();
    std::fs::write(out.join("a"), "a").unwrap();
    let before = picture(&out);
    runner(300)
        .run(&strategy, |(entries, damage)| {
            let text = out.to_str().unwrap();
            let entries: Vec<Entry> = entries
                .into_iter()
                .map(|mut e| {
                    let link = String::from_utf8_lossy(&e.link).into_owned();
                    if link.contains("OUT") {
                        e.link = link.replace("OUT", text.trim_start_matches('/')).into_bytes();
                        if !link.starts_with('.') {
                            e.link.insert(0, b'/');
                        }
                    }
                    e
                })
                .collect();
            let stream = damaged(tar(&entries), &damage);
            for whiteouts in [Whiteouts::Overlay, Whiteouts::Delete, Whiteouts::Plain] {
                let (first, second) = (home.path().join("first"), home.path().join("second"));
                let one = unpacked(&stream, &first, whiteouts);
                let two = unpacked(&stream, &second, whiteouts);
                // The same stream makes the same files, or fails in the same way.
                match (&one, &two) {
                    (Ok(one), Ok(two)) => {
                        prop_assert_eq!(one, two);
                        prop_assert_eq!(picture(&first), picture(&second));
                        prop_assert!(one.size <= BYTES && one.entries <= ENTRIES);
                    }
                    (Err(one), Err(two)) => prop_assert_eq!(one.to_string(), two.to_string()),
                    _ => prop_assert!(false, "{:?} and {:?}", one, two),
                }
                // Nothing outside has changed, and nothing of it has come in.
                prop_assert_eq!(&picture(&out), &before);
                for (_, _, _, content) in picture(&first).into_values() {
                    prop_assert_ne!(content, b"secret".to_vec());
                }
                let there = std::fs::read_dir(home.path()).unwrap().count();
                prop_assert_eq!(there, 3);
                std::fs::remove_dir_all(&first).unwrap();
                std::fs::remove_dir_all(&second).unwrap();
            }
            Ok(())
        })
        .unwrap();
}

/// Manifests that say more, less, or other than they should.
fn document() -> impl Strategy<Value = String> {
    let text = prop::sample::select(vec![
        "config.json",
        "layer.tar",
        "other.tar",
        "absent",
        "../x",
        "x:1",
        "Bad Name",
        "",
        "blobs/sha256/x",
        "manifest.json",
    ]);
    let list = vec(text.clone(), 0..3);
    (text, prop::option::of(list.clone()), prop::option::of(list), 0..3usize).prop_map(
        |(config, layers, tags, times)| {
            let one = serde_json::json!({"Config": config, "Layers": layers, "RepoTags": tags});
            serde_json::json!(vec![one; times.max(1)]).to_string()
        },
    )
}

#[test]
fn archives() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for copies in BOTH {
        let home = Home::new(copies);
        let images = runtime.block_on(home.open());
        let (one, two) =
            (tar(&[file("a", "1"), directory("b")]), tar(&[file("b/c", "2"), file("b/.wh.a", "")]));
        let good = config(&[one.clone(), two.clone()], &serde_json::json!({}));
        let whole = serde_json::json!([{"Config": "config.json", "Layers": ["layer.tar", "other.tar"], "RepoTags": ["x:1"]}]);
        let strategy = (
            prop_oneof![2 => Just(whole.to_string()), 1 => document()],
            damage(),
            damage(),
            damage(),
            vec(one_of_order(), 0..4),
        );
        runner(80)
            .run(&strategy, |(manifest, in_config, in_manifest, in_archive, extra)| {
                let mut entries = vec![
                    file("config.json", damaged(good.clone(), &in_config)),
                    file("layer.tar", &one),
                    file("other.tar", &two),
                    file("manifest.json", damaged(manifest.into_bytes(), &in_manifest)),
                ];
                entries.extend(extra);
                let archive = damaged(tar(&entries), &in_archive);
                let loaded = runtime.block_on(load(&images, archive));
                match loaded {
                    Err(error) => {
                        prop_assert!(error.kind() != Kind::Internal, "{}", error);
                        prop_assert!(images.list().is_empty());
                    }
                    Ok(loaded) => {
                        // What is listed can be read, is what its id says, and goes without a trace.
                        prop_assert!(!loaded.is_empty());
                        for image in images.list() {
                            let id = format!("sha256:{}", sha256(image.raw_config.as_bytes()));
                            prop_assert_eq!(&image.id, &id);
                            if image.chain_id().is_some() {
                                let view = runtime.block_on(images.snapshots().view(&image)).unwrap();
                                let read = std::fs::read_to_string(at(&view).join("a"));
                                prop_assert!(read.is_ok() || image.layers.len() < 2);
                            }
                        }
                        for image in images.list() {
                            let options = RemoveOptions { force: true, ..RemoveOptions::default() };
                            runtime.block_on(images.remove(&image.id, options)).unwrap();
                        }
                    }
                }
                prop_assert_eq!(home.files(), Vec::<String>::new());
                Ok(())
            })
            .unwrap();
    }
}

/// Links and further documents in an archive.
fn one_of_order() -> impl Strategy<Value = Entry> {
    let names = prop::sample::select(vec![
        "config.json",
        "layer.tar",
        "alias",
        "manifest.json",
        "index.json",
        "oci-layout",
        "repositories",
    ]);
    (names.clone(), names, 0..3u8, document()).prop_map(|(name, target, kind, text)| match kind {
        0 => symlink(name, target),
        1 => hard_link(name, target),
        _ => file(name, text),
    })
}

#[test]
fn references() {
    let part = prop_oneof![
        prop::sample::select(vec![
            "a",
            "library",
            "docker.io",
            "index.docker.io",
            "localhost",
            "localhost:5000",
            "[::1]:5000",
            "a.b",
            ":",
            "/",
            "@",
            "..",
            "__",
            "-",
            "sha256:",
            "latest",
            "UPPER",
            "é",
            "%2f",
            " ",
            "\n",
        ])
        .prop_map(str::to_owned),
        Just("a".repeat(64)),
        Just("0123456789abcdef".repeat(4)),
        "\\PC{0,6}",
    ];
    let strategy = vec(part, 1..7).prop_map(|parts| parts.concat());
    runner(5000)
        .run(&strategy, |text| {
            let Ok(named) = Reference::parse(&text) else { return Ok(()) };
            let named = named.or_latest();
            // What is shown, in either form, means the same again.
            for shown in [named.full(), named.familiar()] {
                let again = Reference::parse(&shown);
                prop_assert_eq!(again.as_ref().ok(), Some(&named), "{:?} shown as {:?}", text, shown);
                // A repository called as the algorithm of digests is; no name is ever given in it.
                let ambiguous = named.familiar_name() == "sha256";
                prop_assert!(ambiguous || !matches!(AnyReference::parse(&shown), Ok(AnyReference::Id(_))));
            }
            // No part can leave a path or an address that it becomes part of.
            let full = named.full();
            prop_assert!(full.is_ascii() && full.len() < 600);
            prop_assert!(
                full.bytes().all(|b| b.is_ascii_graphic() && !b"?#%\\\"'<>".contains(&b)),
                "{}",
                full
            );
            prop_assert!(
                named.path.split('/').all(|part| !part.is_empty() && part != "." && part != ".."),
                "{}",
                full
            );
            prop_assert_eq!(named.path.to_lowercase(), named.path.clone());
            Ok(())
        })
        .unwrap();
}
