//! Random layers through two drivers: the image of EROFS that the host writes shows the same tree as the files that it
//! makes of the same archives, and refuses the same archives. As root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use common::component::open;
use common::*;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use wharf_images::snapshots::SnapshotOptions;
use wharf_images::{Images, RemoveOptions};
use wharf_kernel::files::tree;

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[abc]", "[abc]/[abc]", "[abc]/[abc]/[de]", "link/[ab]"]
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let ids = (0u32..3, 0u32..3);
    prop_oneof![
        4 => (name(), 0usize..9000, 0u32..0o1000, ids.clone()).prop_map(|(path, size, mode, (uid, gid))| {
            let content: Vec<u8> = (0..size).map(|n| n.to_le_bytes()[0] ^ mode.to_le_bytes()[0]).collect();
            file(path, content).mode(mode).ids(uid, gid)
        }),
        3 => (name(), 0u32..0o1000).prop_map(|(path, mode)| directory(path).mode(mode)),
        2 => (name(), prop_oneof![name(), Just("/a".to_owned()), Just("..".to_owned())])
            .prop_map(|(path, to)| symlink(path, to)),
        1 => prop_oneof![Just("a"), Just("b"), Just("/c"), Just("a/b")].prop_map(|to| symlink("link", to)),
        2 => (name(), name()).prop_map(|(path, to)| hard_link(path, to)),
        1 => (name(), 1u32..9).prop_map(|(path, minor)| entry(b'3', path).device(1, minor)),
        1 => name().prop_map(|path| entry(b'6', path)),
        3 => name().prop_map(|path| {
            let (dir, leaf) = path.rsplit_once('/').map_or((String::new(), path.as_str()), |(d, l)| (format!("{d}/"), l));
            file(format!("{dir}.wh.{leaf}"), "")
        }),
        1 => name().prop_map(|path| file(format!("{path}/.wh..wh..opq"), "")),
        1 => (name(), "[a-z]{1,5}").prop_map(|(path, value)| file(path, "x").pax("SCHILY.xattr.user.v", value)),
    ]
}

/// Everything that can be told of a tree, but for the times of directories that no entry describes.
fn tree_of(root: &OwnedFd) -> BTreeMap<String, String> {
    let mut inodes: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let mut found = BTreeMap::new();
    let opened = tree::open_child(root.as_fd(), b".", rustix::fs::OFlags::RDONLY).unwrap();
    tree::walk::<rustix::io::Errno>(opened.as_fd(), &mut |entry| {
        let path = String::from_utf8_lossy(entry.path).into_owned();
        let stat = entry.stat;
        let first = inodes.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.clone()).clone();
        let mut told = format!("{:o} {}:{} {:x}", stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        if !kind.is_dir() {
            write!(told, " {} {} first={first}", stat.st_nlink, stat.st_mtime).unwrap();
        }
        if kind.is_file() {
            let content = std::fs::read(at(root).join(&path)).unwrap();
            let handle = tree::open_child(entry.dir, entry.name, rustix::fs::OFlags::RDONLY)?;
            write!(told, " {} {:?}", sha256(&content), tree::xattrs(&tree::by_fd(&handle))?).unwrap();
        }
        if kind.is_symlink() {
            write!(told, " -> {}", String::from_utf8_lossy(&tree::read_link(entry.dir, entry.name)?))
                .unwrap();
        }
        found.insert(path, told);
        Ok(())
    })
    .unwrap();
    found
}

async fn taken_in(images: &Images, archive: Vec<u8>) -> Result<BTreeMap<String, String>, String> {
    let loaded = load(images, archive).await.map_err(|e| e.to_string())?;
    let image = loaded[0].image.clone();
    let id = "d1".repeat(32);
    images.snapshots().prepare(&id, &image, SnapshotOptions::default()).await.unwrap();
    let root = images.snapshots().mount(&id).await.unwrap();
    let found = tree_of(&root);
    drop(root);
    images.snapshots().remove(&id, wharf_store::Transaction::new()).await.unwrap().await;
    images.remove(&image.id, RemoveOptions { force: true, ..RemoveOptions::default() }).await.unwrap();
    Ok(found)
}

fn same() -> TestRng {
    TestRng::deterministic_rng(RngAlgorithm::ChaCha)
}

#[test]
fn an_image_shows_what_files_would() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (homes, both) = runtime.block_on(async {
        let homes = [Home::within(Path::new("/var/tmp")), Home::within(Path::new("/var/tmp"))];
        let both = [open(&homes[0], "overlay2").await.unwrap(), open(&homes[1], "erofs").await.unwrap()];
        (homes, both)
    });
    // The same layers every time; others, and more of them, where `PROPTEST_CASES` says how many.
    let more = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig::default();
    let config = if more { config } else { ProptestConfig { cases: 150, ..config } };
    let mut runner = if more { TestRunner::new(config) } else { TestRunner::new_with_rng(config, same()) };
    let layers = prop::collection::vec(prop::collection::vec(any_entry(), 1..14), 1..4);
    let (mut good, mut bad) = (0, 0);
    runner
        .run(&layers, |layers| {
            let layers: Vec<Vec<u8>> = layers.iter().map(|entries| tar(entries)).collect();
            let archive = docker_archive(&[packed(layers, vec!["x:1"])]);
            let (files, image) = runtime.block_on(async {
                (taken_in(&both[0], archive.clone()).await, taken_in(&both[1], archive).await)
            });
            match (files, image) {
                (Ok(files), Ok(image)) => prop_assert_eq!(files, image),
                (Err(_), Err(_)) => {}
                (files, image) => prop_assert!(false, "files: {:?}\nimage: {:?}", files, image),
            }
            Ok(())
        })
        .unwrap();
    // The generator must not make nothing but nonsense; of plain layers one is certain.
    let plain = docker_archive(&[packed(vec![tar(&[file("a/b", "x")])], vec!["x:1"])]);
    runtime.block_on(async {
        for images in &both {
            if taken_in(images, plain.clone()).await.is_ok() { good += 1 } else { bad += 1 }
        }
    });
    assert_eq!((good, bad), (2, 0));
    drop(homes);
}
