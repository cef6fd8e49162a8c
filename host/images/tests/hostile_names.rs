//! Names, attributes, sizes and documents made to exhaust or to mislead: refused with a reason, and nothing stays.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod common;

use common::*;
use wharf_images::{Error, Images, Kind};

/// Peak of this process's memory in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

/// Imports what must be refused, and sees that nothing of it stays.
async fn refused(home: &Home, images: &Images, tar: Vec<u8>, what: &str) -> Error {
    let error = import(images, "x", tar).await.expect_err(what);
    assert!(images.list().is_empty(), "{what}");
    assert_eq!(home.files(), Vec::<String>::new(), "{what}: {error}");
    assert!(!error.to_string().contains(home.dir.path().to_str().unwrap()), "{what}: {error}");
    error
}

/// A header of the given type with its size field as it is given, and then these bytes.
fn raw(kind: u8, name: &str, size: &[u8], data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    entry(kind, name).write(&mut out);
    out[124..136].fill(0);
    out[124..124 + size.len()].copy_from_slice(size);
    out[148..156].copy_from_slice(b"        ");
    let sum: u32 = out[..512].iter().map(|b| u32::from(*b)).sum();
    out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn ended(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = parts.concat();
    out.resize(out.len() + 1024, 0);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_of_a_global_header_do_not_fill_the_memory() {
    for copies in BOTH {
        let home = Home::new(copies);
        let images = home.open().await;
        // One header of a megabyte, taken over by each of thousands of directories.
        let mut global = Vec::new();
        let mut attributes = entry(b'0', "unused");
        for n in 0..15 {
            attributes = attributes.pax(&format!("SCHILY.xattr.user.{n}"), vec![b'x'; 65_000]);
        }
        attributes.write(&mut global);
        // The helper writes a local header and the entry; of these only the header is wanted, as a global one.
        global.truncate(global.len() - 512);
        global[156] = b'g';
        global[148..156].copy_from_slice(b"        ");
        let sum: u32 = global[..512].iter().map(|b| u32::from(*b)).sum();
        global[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut parts = vec![global];
        for n in 0..3000 {
            let mut one = Vec::new();
            directory(format!("d{n}")).write(&mut one);
            parts.push(one);
        }
        let error = refused(&home, &images, ended(&parts), "a global header").await;
        assert!(
            matches!(error.kind(), Kind::TooLarge | Kind::Invalid) && !error.to_string().is_empty(),
            "{error}"
        );
        assert!(peak() < 700 << 20, "{} MiB", peak() >> 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_kilobytes_without_end_do_not_fill_the_memory() {
    let home = Home::new(false);
    let images = home.open().await;
    let deep = format!("{}/", "n".repeat(250)).repeat(15);
    let mut parts = Vec::new();
    for n in 0..90_000 {
        let mut one = Vec::new();
        // The same few directories again and again: making a hundred thousand takes long, and counts the same.
        directory(format!("{deep}{}", n % 50)).write(&mut one);
        parts.push(one);
    }
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    for part in &parts {
        std::io::Write::write_all(&mut zstd, part).unwrap();
    }
    drop(parts);
    let packed = zstd.finish().unwrap();
    assert!(packed.len() < 20 << 20);
    let before = peak();
    let error = refused(&home, &images, packed, "long names").await;
    assert_eq!(
        (error.kind(), error.to_string().contains("names and attributes without end")),
        (Kind::TooLarge, true),
        "{error}"
    );
    assert!(peak() - before < 600 << 20, "{} MiB", (peak() - before) >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_lie_about_sizes_and_names_are_refused() {
    let long = |kind: u8, length: usize| {
        let size = format!("{length:011o}");
        ended(&[raw(kind, "././@LongLink", size.as_bytes(), &vec![b'n'; length]), raw(b'0', "x", b"0", b"")])
    };
    let negative = [0xffu8; 12];
    let mut huge = [0u8; 12];
    huge[0] = 0x80;
    huge[4] = 0x7f;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a name of 10^5 bytes", long(b'L', 100_000), "too long"),
        ("a target of 10^5 bytes", long(b'K', 100_000), "too long"),
        ("a name of 2 MiB", long(b'L', 2 << 20), "too long"),
        ("a name of 10^5 bytes in pax", tar(&[file(vec![b'n'; 100_000], "")]), "too long"),
        ("10^4 directories deep", tar(&[file(format!("{}x", "d/".repeat(10_000)), "")]), "too long"),
        ("a component of 300 bytes", tar(&[file("n".repeat(300), "")]), "name too long"),
        ("a negative size", ended(&[raw(b'0', "x", &negative, b"")]), "negative size"),
        ("a negative size of a directory", ended(&[raw(b'5', "x", &negative, b"")]), "negative size"),
        ("a negative size of a long name", ended(&[raw(b'L', "x", &negative, b"")]), "negative size"),
        ("a size of 2^63", ended(&[raw(b'0', "x", &huge, b"data")]), ""),
        ("a size that is no number", ended(&[raw(b'0', "x", b"12x", b"")]), "bad number"),
        ("a pax size below zero", tar(&[file("x", "").pax("size", "-1")]), "bad pax header"),
        ("a pax owner below zero", tar(&[file("x", "").pax("uid", "-1")]), "bad pax header"),
        ("an owner of 2^32", tar(&[file("x", "").pax("uid", "4294967296")]), "out of range"),
        (
            "a pax record longer than the header",
            tar(&[entry(b'x', "p"), file("x", "")]).tap_record("999 a=b\n"),
            "bad pax header",
        ),
        (
            "a pax record of length 0",
            tar(&[entry(b'x', "p"), file("x", "")]).tap_record("0 a=b\n"),
            "bad pax header",
        ),
        ("an attribute without a name", tar(&[file("x", "").pax("SCHILY.xattr.", "y")]), "bad pax header"),
        (
            "an attribute's name of 300 bytes",
            tar(&[file("x", "").pax(&format!("SCHILY.xattr.user.{}", "n".repeat(300)), "y")]),
            "bad pax header",
        ),
        (
            "an attribute of 70000 bytes",
            tar(&[file("x", "").pax("SCHILY.xattr.user.x", vec![b'y'; 70_000])]),
            "too long",
        ),
        ("a NUL in a name", tar(&[file("x", "").pax("path", b"a\0b")]), "NUL"),
        (
            "a sparse map that overlaps",
            tar(&[file("s", "abc").pax("GNU.sparse.size", "10").pax("GNU.sparse.map", "0,2,1,1")]),
            "do not fit",
        ),
        (
            "a sparse map beyond the end",
            tar(&[file("s", "abc").pax("GNU.sparse.size", "10").pax("GNU.sparse.map", "9,3")]),
            "do not fit",
        ),
        ("a whiteout of nothing", tar(&[file("a/.wh.", "")]), "whiteout of nothing"),
        ("a whiteout of itself", tar(&[file("a/.wh..", "")]), "whiteout of nothing"),
        ("a whiteout of what is above", tar(&[file("a/.wh...", "")]), "whiteout of nothing"),
        ("a hard link to the root", tar(&[hard_link("x", "/")]), "hard link to the root"),
        ("a hard link to itself", tar(&[hard_link("x", "./x")]), "hard link to itself"),
    ];
    for copies in BOTH {
        let home = Home::new(copies);
        let images = home.open().await;
        for (what, archive, said) in &cases {
            let error = refused(&home, &images, archive.clone(), what).await;
            assert!(matches!(error.kind(), Kind::Invalid | Kind::TooLarge), "{what}: {error}");
            assert!(error.to_string().to_lowercase().contains(&said.to_lowercase()), "{what}: {error}");
        }
    }
}

trait TapRecord {
    fn tap_record(self, record: &str) -> Self;
}

impl TapRecord for Vec<u8> {
    /// Makes the first header's content this record.
    fn tap_record(self, record: &str) -> Self {
        let first = raw(b'x', "p", format!("{:011o}", record.len()).as_bytes(), record.as_bytes());
        [first, self[512..].to_vec()].concat()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_steers_overlay_is_not_taken_from_an_archive() {
    for copies in BOTH {
        let home = Home::new(copies);
        let images = home.open().await;
        let names = [
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "trusted.overlay.metacopy",
            "trusted.overlay.origin",
            "trusted.overlay.overlay.opaque",
            "user.overlay.opaque",
            "user.overlay.redirect",
            "security.selinux",
            "security.ima",
        ];
        let smuggled = |mut entry: Entry| {
            for name in names {
                entry = entry.pax(&format!("SCHILY.xattr.{name}"), "y");
            }
            entry.pax("SCHILY.xattr.user.mine", "kept")
        };
        let lower = tar(&[file("dir/secret", "lower"), file("other/x", "other")]);
        let upper = tar(&[smuggled(directory("dir")), smuggled(file("file", "1"))]);
        let loaded = load(&images, docker_archive(&[packed(vec![lower, upper], vec!["x:1"])])).await.unwrap();
        let view = images.snapshots().view(&loaded[0].image).await.unwrap();
        let root = at(&view);
        assert_eq!(std::fs::read_to_string(root.join("dir/secret")).unwrap(), "lower", "copies {copies}");
        assert!(!root.join("dir/x").exists());
        // On the disk itself, where overlay would not hide them.
        let mut looked = 0;
        let mut dirs = vec![home.dir.path().join("data/storage")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_symlink() {
                    continue;
                }
                let found = wharf_kernel::files::tree::xattrs(path.to_str().unwrap()).unwrap_or_default();
                for (name, value) in &found {
                    let name = String::from_utf8_lossy(name);
                    assert!(!name.starts_with("user.overlay."), "{path:?} {name}");
                    // The kernel and the engine write their own; none has the archive's value but opaque, which
                    // this layer gives no reason for.
                    assert!(!name.starts_with("trusted.overlay.") || value != b"y", "{path:?} {name}");
                    assert!(!names.contains(&&*name) || value != b"y", "{path:?} {name}");
                    looked += usize::from(name == "user.mine");
                }
                if path.is_dir() {
                    dirs.push(path);
                }
            }
        }
        assert!(looked >= 2, "what may be set is set: {looked}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_reaches_what_a_layer_brought() {
    use std::os::unix::fs::PermissionsExt;
    for copies in BOTH {
        let home = Home::new(copies);
        let images = home.open().await;
        // A program that would run as root for whoever can reach it (CVE-2021-41091), and a device.
        import(
            &images,
            "x",
            tar(&[file("su", "#!/bin/sh").mode(0o4755), entry(b'4', "disk").device(8, 0).mode(0o666)]),
        )
        .await
        .unwrap();
        for dir in ["data/storage", "data/content"] {
            let mut at = home.dir.path().join(dir);
            let mut closed = false;
            // Some directory on the way lets nobody else in.
            while at.starts_with(home.dir.path().join("data")) {
                closed |= std::fs::metadata(&at).unwrap().permissions().mode().trailing_zeros() >= 3;
                at.pop();
            }
            assert!(closed, "{dir}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_that_nest_or_repeat_without_end_are_refused() {
    let layer = tar(&[file("a", "1")]);
    let name = format!("blobs/sha256/{}", sha256(&layer));
    let good = String::from_utf8(config(std::slice::from_ref(&layer), &serde_json::json!({}))).unwrap();
    let manifest = serde_json::json!([{"Config": "config.json", "Layers": [&name], "RepoTags": ["x:1"]}]);
    let nest = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let within = |extra: &str| good.replacen('{', &format!("{{{extra},"), 1);
    let configs = [
        good.replacen("\"Env\"", &format!("\"Deep\":{},\"Env\"", nest(100_000)), 1),
        within("\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}"),
        within("\"os\":\"windows\""),
        within("\"history\":5"),
        nest(100_000),
        "null".into(),
        format!("{good}{good}"),
    ];
    let home = Home::new(false);
    let images = home.open().await;
    let load_with = |config: &str, manifest: &str| {
        tar(&[file(&name, &layer), file("config.json", config), file("manifest.json", manifest)])
    };
    for config in &configs {
        let shown: String = config.chars().take(60).collect();
        let error = load(&images, load_with(config, &manifest.to_string())).await.expect_err(&shown);
        assert_eq!(error.kind(), Kind::Invalid, "{shown}: {error}");
        assert!(error.to_string().len() < 1000, "{shown}");
    }
    for manifest in
        [nest(100_000), format!("[{{\"Config\":{}}}]", nest(100_000)), format!("{{\"a\":{}}}", nest(50_000))]
    {
        let error = load(&images, load_with(&good, &manifest)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
    for index in [nest(100_000), format!("{{\"manifests\":{}}}", nest(100_000))] {
        let error = load(&images, tar(&[file("index.json", index)])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
    }
    assert!(images.list().is_empty());
    assert_eq!(home.files(), Vec::<String>::new());
}
