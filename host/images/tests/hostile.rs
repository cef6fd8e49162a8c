//! Archives made to do harm: nothing outside of the layer changes, nothing is kept, and the error says what was wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod common;

use std::io::Write;
use std::path::Path;

use common::*;
use wharf_images::{Images, Kind, Limits};

/// A directory of the host that archives try to reach.
struct Victim {
    dir: tempfile::TempDir,
}

impl Victim {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::fs::set_permissions(
            dir.path().join("secret"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
        Self { dir }
    }

    fn path(&self) -> String {
        self.dir.path().to_str().unwrap().to_owned()
    }

    fn check(&self, what: &str) {
        use std::os::unix::fs::MetadataExt;
        let names: Vec<_> =
            std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "{what}");
        let meta = std::fs::metadata(self.dir.path().join("secret")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.nlink()), (0o600, 0, 1), "{what}");
        assert_eq!(std::fs::read(self.dir.path().join("secret")).unwrap(), b"secret", "{what}");
    }
}

/// The view of an image must not show the victim's secret either.
async fn no_leak(images: &Images, image: &wharf_images::Image, what: &str) {
    fn look(dir: &Path, depth: usize, what: &str) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && depth < 10 {
                look(&entry.path(), depth + 1, what);
            } else if kind.is_file() {
                assert_ne!(std::fs::read(entry.path()).unwrap(), b"secret", "{what}");
            }
        }
    }
    let view = images.snapshots().view(image).await.unwrap();
    look(&at(&view), 0, what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leads_out_of_a_layer() {
    let victim = Victim::new();
    let out = victim.path();
    let up = "../".repeat(40);
    let attacks: Vec<(&str, Vec<Entry>)> = vec![
        ("dot-dot", vec![file(format!("{up}{out}/x"), "x")]),
        ("dot-dot inside", vec![file(format!("a/b/{up}{out}/x"), "x")]),
        ("absolute", vec![file(format!("{out}/x"), "x")]),
        ("absolute overwrites", vec![file(format!("{out}/secret"), "x")]),
        ("link, then through it", vec![symlink("l", &out), file("l/x", "x"), file("l/secret", "x")]),
        ("relative link", vec![symlink("l", format!("{up}{out}")), file("l/x", "x")]),
        (
            "chain of links",
            vec![
                symlink("a", "b"),
                symlink("b", "c"),
                symlink("c", &out),
                file("a/x", "x"),
                file("c/secret", "y"),
            ],
        ),
        ("link to itself", vec![symlink("l", "l"), file("l/x", "x")]),
        ("link replaced by name", vec![symlink("l", format!("{out}/secret")), file("l", "x")]),
        ("link as file, twice", vec![symlink("x", format!("{out}/x")), file("x", "1"), file("x", "2")]),
        ("hard link outside", vec![hard_link("h", format!("{up}{out}/secret"))]),
        ("hard link, absolute", vec![hard_link("h", format!("{out}/secret")), file("h", "x")]),
        ("hard link through a link", vec![symlink("l", &out), hard_link("h", "l/secret")]),
        (
            "mode through a link to a link",
            vec![symlink("l", format!("{out}/secret")), hard_link("h", "l").mode(0o777).ids(1, 1)],
        ),
        ("mode of a link", vec![symlink("l", format!("{out}/secret")).mode(0o777).ids(1, 1)]),
        ("directory over a link", vec![symlink("l", &out), directory("l").mode(0o777).ids(1, 1)]),
        ("directory below a link", vec![symlink("l", &out), directory("l/new")]),
        ("device below a link", vec![symlink("l", &out), entry(b'3', "l/null").device(1, 3)]),
        ("link below a link", vec![symlink("l", &out), symlink("l/x", "y")]),
        ("whiteout below a link", vec![symlink("l", &out), file("l/.wh.secret", "")]),
        ("whiteout of dot-dot", vec![file(format!("a/.wh.{}", ".."), "")]),
        ("whiteout with dot-dot", vec![file(format!("{up}{out}/.wh.secret"), "")]),
        ("opaque below a link", vec![symlink("l", &out), file("l/.wh..wh..opq", "")]),
        (
            "opaque through a directory that became a link",
            vec![directory("d"), symlink("d", &out), file("d/.wh..wh..opq", ""), file("d/.wh.secret", "")],
        ),
        (
            "attributes through a link",
            vec![symlink("l", format!("{out}/secret")).pax("SCHILY.xattr.user.x", "y")],
        ),
        ("proc", vec![symlink("l", "/proc/self/root"), file(format!("l{out}/x"), "x")]),
        ("descriptor", vec![symlink("l", "/proc/self/fd/3"), file("l/x", "x"), file("l/../../x", "x")]),
        ("pax path", vec![file("x", "x").pax("path", format!("{up}{out}/x"))]),
        ("pax link", vec![hard_link("x", "y").pax("linkpath", format!("{up}{out}/secret"))]),
        ("root as a link", vec![symlink(".", &out), file("x", "x")]),
        ("root as a file", vec![file("./", "x")]),
    ];
    for copies in BOTH {
        let home = Home::new(copies);
        let images = home.open().await;
        for (what, entries) in &attacks {
            // Alone, and in two layers: what the first prepares the second uses.
            for split in 0..entries.len() {
                let (lower, upper) = entries.split_at(split);
                let mut layers = vec![tar(upper)];
                if split > 0 {
                    layers.insert(0, tar(lower));
                }
                let what = format!("{what}, {split}, copies {copies}");
                match load(&images, docker_archive(&[packed(layers, vec!["x:1"])])).await {
                    Ok(loaded) => no_leak(&images, &loaded[0].image, &what).await,
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Invalid, "{what}: {error}");
                        assert!(!error.to_string().contains(home.dir.path().to_str().unwrap()), "{error}");
                    }
                }
                victim.check(&what);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_and_contradicting_entries_end_as_the_last_one_says() {
    for copies in BOTH {
        let home = Home::new(copies);
        let images = home.open().await;
        let image = import(
            &images,
            "x",
            tar(&[
                file("a", "1"),
                file("a", "22"),
                file("b", "1"),
                directory("b"),
                file("b/c", "2"),
                directory("d"),
                file("d/x", "1"),
                symlink("d", "b"),
                directory("e").mode(0o700),
                file("e/x", "1"),
                directory("e").mode(0o711),
                file(".wh.gone", ""),
                file(".wh..wh.plnk", ""),
                file("gone", "back"),
                file("./f//g", "1"),
                file("f/./g", "2"),
            ]),
        )
        .await
        .unwrap();
        let view = images.snapshots().view(&image).await.unwrap();
        let root = at(&view);
        let read = |p: &str| std::fs::read_to_string(root.join(p)).unwrap();
        assert_eq!(read("a"), "22");
        assert_eq!(read("b/c"), "2");
        assert_eq!(std::fs::read_link(root.join("d")).unwrap().to_str(), Some("b"));
        assert_eq!(read("e/x"), "1");
        assert_eq!(read("gone"), "back");
        assert_eq!(read("f/g"), "2");
        assert!(!root.join(".wh..wh.plnk").exists());
        assert_eq!(
            std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(root.join("e")).unwrap()) & 0o7777,
            0o711
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whiteouts_hide_lower_layers_in_any_order() {
    for copies in BOTH {
        let home = Home::new(copies);
        let images = home.open().await;
        let lower = tar(&[
            file("dir/old", "1"),
            file("dir/kept", "1"),
            file("file", "1"),
            file("whole/a", "1"),
            file("whole/b/c", "1"),
            file("again/a", "1"),
            file("linked", "content"),
        ]);
        let upper = tar(&[
            // The whiteout after the new file of the same directory, and before.
            file("dir/new", "2"),
            file("dir/.wh.old", ""),
            file("dir/.wh.absent", ""),
            file(".wh.file", ""),
            file("whole/new", "2"),
            file("whole/.wh..wh..opq", ""),
            // Gone, then there again: nothing of the old one shows.
            file(".wh.again", ""),
            directory("again"),
            file("again/b", "2"),
            hard_link("copy", "linked"),
        ]);
        let loaded = load(&images, docker_archive(&[packed(vec![lower, upper], vec!["x:1"])])).await.unwrap();
        let view = images.snapshots().view(&loaded[0].image).await.unwrap();
        let root = at(&view);
        let there = |p: &str| root.join(p).exists();
        assert!(there("dir/new") && there("dir/kept") && !there("dir/old"), "copies {copies}");
        assert!(!there("file"));
        assert!(there("whole/new") && !there("whole/a") && !there("whole/b"));
        assert!(there("again/b") && !there("again/a"), "copies {copies}");
        assert_eq!(std::fs::read_to_string(root.join("copy")).unwrap(), "content");
        let names: Vec<String> = std::fs::read_dir(root.join("dir"))
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert!(names.iter().all(|n| !n.starts_with(".wh.")), "{names:?}");
    }
}

/// Has an archive refused, and sees that nothing of it stays.
struct Refusing<'a> {
    home: &'a Home,
    images: Images,
}

impl<'a> Refusing<'a> {
    async fn new(home: &'a Home) -> Self {
        Self { home, images: home.open().await }
    }

    async fn refused(&self, archive: Vec<u8>, imports: bool) -> wharf_images::Error {
        let error = if imports {
            import(&self.images, "x", archive).await.unwrap_err()
        } else {
            load(&self.images, archive).await.unwrap_err()
        };
        assert!(self.images.list().is_empty());
        assert_eq!(self.home.files(), Vec::<String>::new(), "{error}");
        error
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_stop_at_the_limits() {
    let gzip = |data: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(data).unwrap();
        out.finish().unwrap()
    };
    for copies in BOTH {
        let mut home = Home::new(copies);
        home.limits = Limits {
            unpacked: 10 << 20,
            layer_entries: 1000,
            document: 100_000,
            documents: 300_000,
            archive_entries: 500,
            ..Limits::default()
        };
        let door = Refusing::new(&home).await;
        let zeros = tar(&[file("zeros", vec![0u8; 64 << 20])]);
        for packed in [gzip(&zeros), zstd::encode_all(zeros.as_slice(), 19).unwrap(), zeros.clone()] {
            let error = door.refused(packed, true).await;
            assert_eq!(
                (error.kind(), error.to_string().contains("more than is allowed")),
                (Kind::TooLarge, true),
                "{error}"
            );
        }
        // Twice compressed: the outer layer of an archive.
        let archive = gzip(&docker_archive(&[packed(vec![zeros], vec!["x:1"])]));
        assert_eq!(door.refused(archive, false).await.kind(), Kind::TooLarge);
        let many: Vec<Entry> = (0..2000).map(|n| file(format!("f{n}"), "")).collect();
        assert_eq!(door.refused(gzip(&tar(&many)), true).await.kind(), Kind::TooLarge);
        assert_eq!(door.refused(gzip(&tar(&many)), false).await.kind(), Kind::TooLarge);
        let sparse = |size: &str| {
            tar(&[file("s", "")
                .pax("GNU.sparse.major", "1")
                .pax("GNU.sparse.minor", "0")
                .pax("GNU.sparse.name", "s")
                .pax("GNU.sparse.realsize", size)])
        };
        for size in ["9223372036854775807", "18446744073709551615", "1099511627776"] {
            let error = door.refused(sparse(size), true).await;
            assert!(matches!(error.kind(), Kind::TooLarge | Kind::Invalid), "{error}");
        }
        // Claims a size it does not have.
        let lie = tar(&[entry(b'0', "x").pax("size", "9223372036854775807")]);
        let error = door.refused(lie, true).await;
        assert!(matches!(error.kind(), Kind::TooLarge | Kind::Invalid), "{error}");
        let long_header = tar(&[file("x", "").pax("comment", vec![b'x'; 3 << 20])]);
        assert_eq!(door.refused(long_header, true).await.kind(), Kind::Invalid);
        let long_path = tar(&[file(vec![b'x'; 5000], "")]);
        assert_eq!(door.refused(long_path, true).await.kind(), Kind::Invalid);
        let chain: Vec<Entry> = (0..100).map(|_| entry(b'x', "pax")).collect();
        assert_eq!(door.refused(tar(&chain), true).await.kind(), Kind::Invalid);
        // Deep, but within the length of a path: unpacked and removed without trouble.
        let images = &door.images;
        let deep = import(images, "deep", tar(&[file(format!("{}x", "d/".repeat(2000)), "1")])).await;
        if copies {
            drop(deep);
        } else {
            deep.unwrap();
        }
        images.prune(wharf_images::PruneOptions { all: true, ..Default::default() }).await.unwrap();
        assert_eq!(home.files(), Vec::<String>::new());
        // Documents.
        let huge = tar(&[file("manifest.json", format!("[{}]", " ".repeat(200_000)))]);
        assert_eq!(door.refused(huge, false).await.kind(), Kind::Invalid);
        let many: Vec<Entry> = (0..10).map(|n| file(format!("{n}.json"), " ".repeat(50_000))).collect();
        assert_eq!(door.refused(tar(&many), false).await.kind(), Kind::TooLarge);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_archives_are_refused_whole() {
    let layer = tar(&[file("a", vec![1u8; 3000]), directory("b"), file("b/c", vec![2u8; 10_000])]);
    for copies in BOTH {
        let home = Home::new(copies);
        let door = Refusing::new(&home).await;
        // Cut anywhere, within the layer or the archive.
        let archive = docker_archive(&[packed(vec![layer.clone()], vec!["x:1"])]);
        let end = archive.len() - 1024;
        for cut in (0..end).step_by(512).chain([1, 511, 513, 1500, 5000, end - 1, end]) {
            let error = door.refused(archive[..cut].to_vec(), false).await;
            assert_eq!(error.kind(), Kind::Invalid, "{cut}: {error}");
        }
        let end = layer.len() - 1024;
        for cut in (0..=end).step_by(512).chain([1, 100, 700, end - 1]) {
            let error = door.refused(layer[..cut].to_vec(), true).await;
            assert_eq!(error.kind(), Kind::Invalid, "{cut}: {error}");
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&layer).unwrap();
        let gzip = gzip.finish().unwrap();
        for cut in [5, 30, gzip.len() / 2, gzip.len() - 9, gzip.len() - 1] {
            let error = door.refused(gzip[..cut].to_vec(), true).await;
            assert_eq!(error.kind(), Kind::Invalid, "gzip {cut}: {error}");
        }
        let mut wrong = gzip.clone();
        let middle = wrong.len() / 2;
        wrong[middle] ^= 0x55;
        assert_eq!(door.refused(wrong, true).await.kind(), Kind::Invalid);
        let zstd = zstd::encode_all(layer.as_slice(), 3).unwrap();
        assert_eq!(door.refused(zstd[..zstd.len() - 3].to_vec(), true).await.kind(), Kind::Invalid);
        for garbage in [b"".to_vec(), b"not a tar".to_vec(), vec![0xff; 4096], vec![b' '; 4096]] {
            assert_eq!(door.refused(garbage.clone(), true).await.kind(), Kind::Invalid);
            assert_eq!(door.refused(garbage, false).await.kind(), Kind::Invalid);
        }
        // A layer that is not what the configuration says.
        let other = tar(&[file("other", "x")]);
        let lie = Packed {
            config: config(&[other], &serde_json::json!({})),
            layers: vec![layer.clone()],
            tags: vec!["x:1"],
        };
        let error = door.refused(docker_archive(&[lie]), false).await;
        assert!(error.to_string().contains("invalid diffID for layer 0: expected \"sha256:"), "{error}");
        // A blob that is not what its name says.
        let mut archive = docker_archive(&[packed(vec![layer.clone()], vec!["x:1"])]);
        let position = archive.windows(8).rposition(|w| w == [2u8; 8]).unwrap();
        archive[position] = 3;
        assert_eq!(door.refused(archive, false).await.kind(), Kind::Invalid);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_contents_that_lie() {
    let layer = tar(&[file("a", "1")]);
    let layers = [layer.clone()];
    let text = serde_json::to_vec;
    let good = config(&layers, &serde_json::json!({}));
    let name = format!("blobs/sha256/{}", sha256(&layer));
    let base = || vec![file(&name, &layer), file("config.json", &good)];
    let with = |manifest: serde_json::Value| {
        let mut entries = base();
        entries.push(file("manifest.json", text(&manifest).unwrap()));
        tar(&entries)
    };
    let home = Home::new(false);
    let door = Refusing::new(&home).await;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (tar(&base()), "unrecognized image format"),
        (with(serde_json::json!([])), "contains no image"),
        (with(serde_json::json!({})), "invalid manifest.json"),
        (with(serde_json::json!([{"Config": 5}])), "invalid manifest.json"),
        (with(serde_json::json!([{"Config": "absent", "Layers": [&name]}])), "has no \"absent\""),
        (with(serde_json::json!([{"Config": "../../etc/passwd", "Layers": [&name]}])), "outside"),
        (
            with(serde_json::json!([{"Config": "config.json", "Layers": []}])),
            "layers length mismatch: expected 0, got 1",
        ),
        (with(serde_json::json!([{"Config": "config.json", "Layers": ["nope"]}])), "no layer \"nope\""),
        (with(serde_json::json!([{"Config": "config.json", "Layers": ["manifest.json"]}])), "no layer"),
        (
            with(serde_json::json!([{"Config": "config.json", "Layers": [&name], "RepoTags": ["Bad Tag"]}])),
            "invalid tag",
        ),
        (
            with(serde_json::json!([{"Config": "config.json", "Layers": [&name], "RepoTags": ["no-tag"]}])),
            "invalid tag",
        ),
        (with(serde_json::json!([{"Config": &name, "Layers": [&name]}])), "has no \"blobs"),
        (
            tar(&[file("index.json", br#"{"manifests":[{"digest":"sha256:0"}]}"#)]),
            "invalid checksum digest length",
        ),
        (
            tar(&[file("index.json", br#"{"manifests":[{"digest":"sha512:00"}]}"#)]),
            "unsupported digest algorithm",
        ),
        (tar(&[file("index.json", br#"{"manifests":[],"layers":[]}"#)]), "both an index and a manifest"),
        (
            tar(&[file(
                "index.json",
                br#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#,
            )]),
            "both an index and a manifest",
        ),
        (tar(&[file("index.json", b"{}")]), "lists no images"),
        (tar(&[file("manifest.json", "[]"), file("manifest.json", "[]")]), "twice"),
        (tar(&[symlink("manifest.json", "../../../../etc/passwd")]), "unrecognized image format"),
        (tar(&[symlink("manifest.json", "m"), symlink("m", "manifest.json")]), "too many links"),
    ];
    for (archive, expected) in cases {
        let error = door.refused(archive, false).await;
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    let bad_configs = [
        (serde_json::json!({"os": "windows"}), "cannot load windows image on linux"),
        (
            serde_json::json!({"rootfs": {"type": "layers", "diff_ids": ["sha256:xyz"]}}),
            "invalid checksum digest",
        ),
        (serde_json::json!({"rootfs": 5}), "invalid image configuration"),
        (serde_json::json!({"config": {"Env": "no list"}}), "invalid image configuration"),
    ];
    for (extra, expected) in bad_configs {
        let image = Packed { config: config(&layers, &extra), layers: layers.to_vec(), tags: vec!["x:1"] };
        let error = door.refused(docker_archive(&[image]), false).await;
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    // An index in an index in an index...
    let mut inner = br#"{"manifests":[]}"#.to_vec();
    let mut entries = Vec::new();
    for _ in 0..10 {
        let digest = sha256(&inner);
        entries.push(file(format!("blobs/sha256/{digest}"), &inner));
        inner = text(&serde_json::json!({"manifests": [{"digest": format!("sha256:{digest}")}]})).unwrap();
    }
    entries.push(file("index.json", &inner));
    assert_eq!(door.refused(tar(&entries), false).await.kind(), Kind::Invalid);
    // An index that lists itself cannot be written down (its hash would have to be in it), so that is all.
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_image_of_two_leaves_neither() {
    for copies in BOTH {
        let home = Home::new(copies);
        let door = Refusing::new(&home).await;
        let good = packed(vec![tar(&[file("a", "1")])], vec!["good:1"]);
        let mut bad = packed(vec![tar(&[file("b", "1")])], vec!["bad:1"]);
        bad.config = config(&[tar(&[file("c", "1")])], &serde_json::json!({}));
        let error = door.refused(docker_archive(&[good, bad]), false).await;
        assert!(error.to_string().contains("invalid diffID"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_leaves_nothing() {
    let home = Home::new(false);
    let images = home.open().await;
    let archive = docker_archive(&[packed(vec![tar(&[file("a", vec![1u8; 1 << 20])])], vec!["x:1"])]);
    let (mut to, from) = tokio::io::duplex(64 << 10);
    let loading = {
        let images = images.clone();
        tokio::spawn(async move { images.load(from, wharf_images::LoadOptions::default(), |_| {}).await })
    };
    tokio::io::AsyncWriteExt::write_all(&mut to, &archive[..600_000]).await.unwrap();
    assert!(home.dir.path().join("data/storage/double-overlay").read_dir().unwrap().next().is_some());
    loading.abort();
    assert!(loading.await.unwrap_err().is_cancelled());
    drop(to);
    // The work ends by itself; the runtime waits for its threads.
    tokio::task::spawn_blocking(|| {}).await.unwrap();
    images.idle().await;
    drop(images);
    assert_eq!(home.files(), Vec::<String>::new());
}

/// Indexes that name the one below many times each: `depth` of them, the last of which names nothing. The first names an
/// image too. Answers the first one's digest.
fn towers(entries: &mut Vec<Entry>, depth: usize, times: usize, image: &serde_json::Value) -> String {
    let index = "application/vnd.oci.image.index.v1+json";
    let mut named = Vec::new();
    let mut digest = String::new();
    for level in 1..=depth {
        if level == depth {
            named.push(image.clone());
        }
        let text =
            serde_json::json!({"schemaVersion": 2, "mediaType": index, "manifests": named}).to_string();
        digest = format!("sha256:{}", sha256(text.as_bytes()));
        named = vec![serde_json::json!({"mediaType": index, "digest": digest, "size": text.len()}); times];
        entries.push(file(format!("blobs/sha256/{}", &digest[7..]), text));
    }
    digest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_that_name_one_another_many_times_are_read_once() {
    let home = Home::new(false);
    let images = home.open().await;
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let layer = tar(&[file("a", "1")]);
    let config = config(std::slice::from_ref(&layer), &serde_json::json!({}));
    let described = |media: &str, bytes: &[u8]| serde_json::json!({"mediaType": media, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len()});
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": oci,
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string();
    let image = described(oci, manifest.as_bytes());
    let index = "application/vnd.oci.image.index.v1+json";
    // Read one by one, that is a number with eight digits. Once as the index of the archive, once as the one that its image
    // is said to have been of, which nobody has looked into before.
    for (name, former, depth) in [("now:1", false, 4), ("former:1", true, 5)] {
        let mut entries: Vec<Entry> = [layer.as_slice(), &config, manifest.as_bytes()]
            .into_iter()
            .map(|bytes| file(format!("blobs/sha256/{}", sha256(bytes)), bytes))
            .collect();
        let top = towers(&mut entries, depth, 390, &image);
        let mut listed = if former {
            image.clone()
        } else {
            serde_json::json!({"mediaType": index, "digest": top, "size": 1})
        };
        listed["annotations"] = serde_json::json!({"io.containerd.image.name": name});
        if former {
            listed["annotations"]["org.wharf.image.index"] = top.clone().into();
        }
        let list = serde_json::json!({"schemaVersion": 2, "manifests": [listed]});
        entries.push(file("index.json", list.to_string()));
        load(&images, tar(&entries)).await.unwrap();
        let found = images.find(name).unwrap();
        assert_eq!(found.index.map(|index| index.digest.clone()), Some(top), "{name}");
        assert!(found.image.is_some(), "{name}");
    }
}
