//! One suite for every bundled storage driver, as a component, on the real kernel: what layers may contain comes out as it
//! went in, containers change it and nothing else, and everything goes again. As root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::component::{Disk, files, open};
use common::*;
use rustix::fs::{AtFlags, Timespec, Timestamps, XattrFlags, makedev};
use wharf_images::snapshots::SnapshotOptions;
use wharf_images::{Change, CommitOptions, Image, Images, RemoveOptions};
use wharf_kernel::files::tree::{Xattrs, xattrs};
use wharf_plan::types::IdMap;

fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// A home for the driver, which lives on a file system that suits it.
fn home_for(driver: &str) -> (Option<Disk>, Home) {
    let disk = (driver == "btrfs").then(|| Disk::new(&["mkfs.btrfs", "-q"], ""));
    let mut home = match &disk {
        Some(disk) => Home::within(&disk.path()),
        None => Home::within(Path::new("/var/tmp")),
    };
    home.limits.layers = 200;
    (disk, home)
}

/// One test per driver, with the images of a home of its own. All is gone afterwards.
macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod overlay2 { $(#[test] fn $test() { super::on("overlay2", |i| Box::pin(super::$test(i))); })* }
        mod vfs { $(#[test] fn $test() { super::on("vfs", |i| Box::pin(super::$test(i))); })* }
        mod btrfs { $(#[test] fn $test() { super::on("btrfs", |i| Box::pin(super::$test(i))); })* }
        mod erofs { $(#[test] fn $test() { super::on("erofs", |i| Box::pin(super::$test(i))); })* }
    };
}

suite!(
    everything_in_layers,
    whiteouts_of_every_kind,
    very_many_layers,
    exact_changes,
    mapped_users,
    sizes,
    bad_layers_leave_nothing,
    the_stream_comes_back,
    containers_side_by_side,
);

type Testing = std::pin::Pin<Box<dyn Future<Output = ()>>>;

fn on(driver: &str, test: impl FnOnce(Images) -> Testing) {
    let (_disk, home) = home_for(driver);
    run(async {
        let images = open(&home, driver).await.unwrap();
        test(images.clone()).await;
        images.snapshots().sweep(&std::collections::BTreeSet::new()).await.unwrap();
        for image in images.list() {
            let force = RemoveOptions { force: true, ..RemoveOptions::default() };
            images.remove(&image.id, force).await.unwrap();
        }
        // What a stream that has just ended still held goes at the next start.
        drop(images);
        drop(open(&home, driver).await.unwrap());
        assert_eq!(files(&home), Vec::<PathBuf>::new());
    });
}

async fn make(images: &Images, name: &'static str, layers: Vec<Vec<u8>>) -> Arc<Image> {
    load(images, docker_archive(&[packed(layers, vec![name])])).await.unwrap()[0].image.clone()
}

async fn container(images: &Images, id: &str, image: &Image) -> OwnedFd {
    let id = id.repeat(64 / id.len());
    images.snapshots().prepare(&id, image, SnapshotOptions::default()).await.unwrap();
    images.snapshots().mount(&id).await.unwrap()
}

fn attributes(path: &Path) -> Xattrs {
    let file = File::open(path).unwrap();
    let mut found = xattrs(&wharf_kernel::files::tree::by_fd(&file)).unwrap();
    found.sort();
    found
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A sparse file as GNU tar writes it.
fn sparse(path: &str, size: u64, pieces: &[(u64, &str)]) -> Entry {
    let mut content = format!("{}\n", pieces.len()).into_bytes();
    for (offset, data) in pieces {
        content.extend(format!("{offset}\n{}\n", data.len()).bytes());
    }
    content.resize(content.len().next_multiple_of(512), 0);
    for (_, data) in pieces {
        content.extend_from_slice(data.as_bytes());
    }
    file(path, content)
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", path)
        .pax("GNU.sparse.realsize", size.to_string())
}

const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

async fn everything_in_layers(images: Images) {
    let long = "n".repeat(255);
    let deep = ["d"; 100].join("/");
    let big: Vec<u8> = (0..5_000_000u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
    let first = tar(&[
        directory("").mode(0o711).ids(3, 4),
        directory("etc").mode(0o2755),
        file("etc/passwd", "root:x:0:0").mode(0o640),
        file("bin/su", "#!").mode(0o4755),
        file("bin/ping", "#!").pax("SCHILY.xattr.security.capability", CAPABILITY),
        file("attributes", "x")
            .pax("SCHILY.xattr.user.color", "blue")
            .pax("SCHILY.xattr.user.zero", [0, 1, 0])
            .pax("SCHILY.xattr.trusted.mine", "yes")
            .pax("SCHILY.xattr.trusted.wharf.erofs", "1")
            .pax("SCHILY.xattr.trusted.overlay.opaque", "y"),
        entry(b'3', "dev/null").device(1, 3).mode(0o666),
        entry(b'4', "dev/disk").device(259, 70_000).mode(0o660).ids(0, 6),
        entry(b'6', "pipe").mode(0o600),
        symlink("link", "etc/passwd"),
        symlink("dangling", "/no/such/thing").ids(5, 6),
        file(b"not \xff\xfe utf-8".as_slice(), "ok"),
        file(&long, "long"),
        file(format!("{deep}/bottom"), "deep"),
        file("owned", "").pax("uid", "4294967294").pax("gid", "3000000000"),
        file("big", &big),
        file("empty", ""),
        sparse("huge", 1 << 36, &[(4096, "start"), ((1 << 36) - 3, "end")]),
        file("one", "shared"),
        hard_link("two", "one"),
        hard_link("bin/three", "two"),
    ]);
    // The second layer links to a file of the first, and says nothing of the directory that it adds to.
    let second = tar(&[hard_link("etc/link-below", "etc/passwd"), file("etc/more", "more")]);
    let image = make(&images, "everything:1", vec![first, second]).await;
    let mounted = container(&images, "e", &image).await;
    let view = images.snapshots().view(&image).await.unwrap();
    for root in [at(&mounted), at(&view)] {
        let stat = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
        let look = |name: &str| (stat(name).uid(), stat(name).gid(), stat(name).mode() & 0o7777);
        // With overlay the root is the upper directory's own, as with Docker.
        if matches!(images.driver(), "vfs" | "btrfs") {
            assert_eq!(look("."), (3, 4, 0o711));
        }
        assert_eq!(look("etc"), (0, 0, 0o2755), "what a layer only implies looks as below");
        assert_eq!(look("etc/passwd"), (0, 0, 0o640));
        assert_eq!(stat("etc/passwd").mtime(), 1_000_000_000);
        assert_eq!(look("bin/su"), (0, 0, 0o4755));
        assert_eq!(
            attributes(&root.join("bin/ping")),
            [(b"security.capability".to_vec(), CAPABILITY.to_vec())]
        );
        assert_eq!(
            attributes(&root.join("attributes")),
            [
                (b"trusted.mine".to_vec(), b"yes".to_vec()),
                (b"user.color".to_vec(), b"blue".to_vec()),
                (b"user.zero".to_vec(), vec![0, 1, 0])
            ],
            "marks of the host and of overlay are not an archive's to set"
        );
        assert!(stat("dev/null").file_type().is_char_device() && stat("dev/null").rdev() == makedev(1, 3));
        assert!(
            stat("dev/disk").file_type().is_block_device() && stat("dev/disk").rdev() == makedev(259, 70_000)
        );
        assert_eq!(look("dev/disk"), (0, 6, 0o660));
        assert!(stat("pipe").file_type().is_fifo());
        assert_eq!(std::fs::read_link(root.join("link")).unwrap(), Path::new("etc/passwd"));
        assert_eq!((stat("dangling").uid(), stat("dangling").gid()), (5, 6));
        assert_eq!(std::fs::read(root.join(OsStr::from_bytes(b"not \xff\xfe utf-8"))).unwrap(), b"ok");
        assert_eq!(std::fs::read_to_string(root.join(&long)).unwrap(), "long");
        assert_eq!(std::fs::read_to_string(root.join(&deep).join("bottom")).unwrap(), "deep");
        assert_eq!(look("owned"), (4_294_967_294, 3_000_000_000, 0o644));
        assert!(std::fs::read(root.join("big")).unwrap() == big);
        assert_eq!(stat("empty").len(), 0);
        let huge = File::open(root.join("huge")).unwrap();
        assert_eq!(huge.metadata().unwrap().len(), 1 << 36);
        let mut piece = [0; 7];
        huge.read_exact_at(&mut piece, 4095).unwrap();
        assert_eq!(&piece, b"\0start\0");
        huge.read_exact_at(&mut piece, (1 << 36) - 7).unwrap();
        assert_eq!(&piece, b"\0\0\0\0end");
        let data = rustix::fs::seek(&huge, rustix::fs::SeekFrom::Data(1 << 30)).unwrap();
        assert!(data > 1 << 35, "holes are seen as holes: {data}");
        assert_eq!(stat("one").nlink(), 3);
        assert_eq!((stat("one").ino(), stat("one").ino()), (stat("two").ino(), stat("bin/three").ino()));
        assert_eq!(std::fs::read_to_string(root.join("etc/link-below")).unwrap(), "root:x:0:0");
        assert_eq!(look("etc/link-below"), (0, 0, 0o640));
    }
    assert!(std::fs::write(at(&view).join("x"), "x").is_err(), "a view is read-only");
    // A container may change any of it.
    let root = at(&mounted);
    std::fs::write(root.join("two"), "changed").unwrap();
    std::fs::remove_file(root.join("huge")).unwrap();
    std::fs::remove_dir_all(root.join("d")).unwrap();
    File::options().write(true).open(root.join("big")).unwrap().write_all_at(b"!", 4_999_999).unwrap();
    assert_eq!(names(&at(&view)).len(), 16, "{:?}", names(&at(&view)));
    assert!(std::fs::read(at(&view).join("big")).unwrap() == big);
}

async fn whiteouts_of_every_kind(images: Images) {
    let layers = vec![
        tar(&[
            file("gone", "1"),
            file("dir/a", "1"),
            file("dir/sub/b", "1"),
            file("opaque/old", "1"),
            file("opaque/kept-dir/x", "1"),
            file("becomes-dir", "1"),
            file("becomes-file/x", "1"),
            file("back", "1"),
            file("tree/x", "1"),
            file("late/low", "1"),
        ]),
        tar(&[
            file(".wh.gone", ""),
            file(".wh.dir", ""),
            directory("opaque"),
            file("opaque/.wh..wh..opq", ""),
            file("opaque/new", "2"),
            directory("becomes-dir").mode(0o700),
            file("becomes-dir/x", "2"),
            file("becomes-file", "2"),
            file(".wh.back", ""),
            file(".wh.never-was", ""),
            // Gone, and made anew in the same layer: nothing old shows.
            file(".wh.tree", ""),
            directory("tree"),
            file("tree/y", "2"),
            // The mark may come after what it does not touch.
            file("late/high", "2"),
            file("late/.wh..wh..opq", ""),
            // Twice the same name: the later one counts.
            file("double", "first"),
            file("double", "second!"),
        ]),
        tar(&[file("back", "3"), file("dir/c", "3"), file("opaque/.wh.new", "")]),
    ];
    let image = make(&images, "whiteouts:1", layers).await;
    let mounted = container(&images, "w", &image).await;
    let root = at(&mounted);
    assert_eq!(
        names(&root),
        ["back", "becomes-dir", "becomes-file", "dir", "double", "late", "opaque", "tree"]
    );
    assert_eq!(names(&root.join("dir")), ["c"]);
    assert_eq!(names(&root.join("opaque")), Vec::<String>::new());
    assert_eq!(names(&root.join("becomes-dir")), ["x"]);
    assert_eq!(names(&root.join("tree")), ["y"]);
    assert_eq!(names(&root.join("late")), ["high"]);
    for (name, content) in
        [("back", "3"), ("becomes-file", "2"), ("becomes-dir/x", "2"), ("double", "second!")]
    {
        assert_eq!(std::fs::read_to_string(root.join(name)).unwrap(), content, "{name}");
    }
    // Removing and making anew works on all of it.
    std::fs::remove_dir_all(root.join("tree")).unwrap();
    std::fs::create_dir(root.join("tree")).unwrap();
    assert_eq!(names(&root.join("tree")), Vec::<String>::new());
    std::fs::rename(root.join("late"), root.join("moved")).map_or_else(
        // Overlay moves no directory of a layer, and says so; programs copy then.
        |e| assert_eq!(e.raw_os_error(), Some(rustix::io::Errno::XDEV.raw_os_error())),
        |()| assert_eq!(names(&root.join("moved")), ["high"]),
    );
}

async fn very_many_layers(images: Images) {
    let layers: Vec<Vec<u8>> = (0..150)
        .map(|n| {
            let mut entries = vec![file("n", n.to_string()), file(format!("f{n}"), "x")];
            if n % 2 == 1 {
                entries.push(file(format!(".wh.f{}", n - 1), ""));
            }
            tar(&entries)
        })
        .collect();
    let image = make(&images, "tall:1", layers).await;
    let mounted = container(&images, "7a", &image).await;
    assert_eq!(std::fs::read_to_string(at(&mounted).join("n")).unwrap(), "149");
    assert_eq!(names(&at(&mounted)).len(), 76);
    std::fs::write(at(&mounted).join("f1"), "written").unwrap();
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

async fn exact_changes(images: Images) {
    let file_names = [
        "content",
        "mode",
        "owner",
        "attribute",
        "touched",
        "kept",
        "deleted",
        "replaced",
        "to-dir",
        "linked",
    ];
    let mut entries = vec![
        directory("dir"),
        directory("dir/deep"),
        directory("quiet"),
        directory("looks"),
        directory("swap"),
    ];
    entries.extend(file_names.map(|name| file(name, "same size")));
    entries.extend([
        file("dir/deep/x", "1"),
        file("dir/deep/y", "1"),
        file("quiet/z", "1"),
        file("swap/old", "1"),
    ]);
    entries.push(symlink("symlink", "content"));
    let image = make(&images, "changes:1", vec![tar(&entries)]).await;
    let id = "c".repeat(64);
    let mounted = container(&images, "c", &image).await;
    assert_eq!(images.changes(&id).await.unwrap(), BTreeMap::new(), "nothing was done");
    let root = at(&mounted);
    // Looking changes nothing.
    std::fs::read(root.join("kept")).unwrap();
    names(&root.join("quiet"));
    std::fs::write(root.join("content"), "SAME SIZE").unwrap();
    std::fs::set_permissions(root.join("mode"), Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(root.join("owner"), Some(7), Some(8)).unwrap();
    rustix::fs::setxattr(root.join("attribute"), "user.new", b"x", XattrFlags::empty()).unwrap();
    set_time(&root.join("touched"), 5);
    std::fs::remove_file(root.join("deleted")).unwrap();
    std::fs::remove_file(root.join("replaced")).unwrap();
    std::os::unix::fs::symlink("kept", root.join("replaced")).unwrap();
    std::fs::remove_file(root.join("to-dir")).unwrap();
    std::fs::create_dir(root.join("to-dir")).unwrap();
    std::fs::write(root.join("to-dir/inside"), "new").unwrap();
    std::fs::write(root.join("dir/deep/x"), "22").unwrap();
    std::fs::remove_file(root.join("dir/deep/y")).unwrap();
    std::fs::set_permissions(root.join("looks"), Permissions::from_mode(0o711)).unwrap();
    std::fs::remove_dir_all(root.join("swap")).unwrap();
    std::fs::create_dir(root.join("swap")).unwrap();
    std::fs::write(root.join("swap/new"), "1").unwrap();
    std::fs::create_dir_all(root.join("new/tree")).unwrap();
    std::fs::write(root.join("new/tree/file"), "x").unwrap();
    rustix::fs::setxattr(root.join("new/tree"), "user.on-dir", b"d", XattrFlags::empty()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("new/device"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o600),
        makedev(5, 1),
    )
    .unwrap();
    let found: BTreeMap<String, Change> = images
        .changes(&id)
        .await
        .unwrap()
        .into_iter()
        .map(|(path, change)| (String::from_utf8(path).unwrap(), change))
        .collect();
    let expected: BTreeMap<String, Change> = [
        ("content", Change::Modified),
        ("mode", Change::Modified),
        ("owner", Change::Modified),
        ("attribute", Change::Modified),
        ("touched", Change::Modified),
        ("deleted", Change::Deleted),
        ("replaced", Change::Modified),
        ("to-dir", Change::Modified),
        ("to-dir/inside", Change::Added),
        ("dir", Change::Modified),
        ("dir/deep", Change::Modified),
        ("dir/deep/x", Change::Modified),
        ("dir/deep/y", Change::Deleted),
        ("looks", Change::Modified),
        ("swap", Change::Modified),
        ("swap/old", Change::Deleted),
        ("swap/new", Change::Added),
        ("new", Change::Added),
        ("new/tree", Change::Added),
        ("new/tree/file", Change::Added),
        ("new/device", Change::Added),
    ]
    .map(|(path, change)| (path.to_owned(), change))
    .into();
    assert_eq!(found, expected);

    // Committed, these changes are what the new layer is: a container of it is as the old one.
    let options = CommitOptions {
        repository: "changes".into(),
        tag: "2".into(),
        parent: image.id.clone(),
        ..CommitOptions::default()
    };
    let committed = images.commit(&id, options).await.unwrap();
    assert_eq!(committed.layers.len(), 2);
    let again = container(&images, "d", &committed).await;
    assert_eq!(images.changes(&"d".repeat(64)).await.unwrap(), BTreeMap::new());
    let fresh = at(&again);
    assert_eq!(names(&fresh), names(&root));
    assert_eq!(names(&fresh.join("swap")), ["new"]);
    assert_eq!(names(&fresh.join("dir/deep")), ["x"]);
    assert_eq!(std::fs::read_to_string(fresh.join("content")).unwrap(), "SAME SIZE");
    assert_eq!(std::fs::metadata(fresh.join("mode")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(fresh.join("looks")).unwrap().mode() & 0o7777, 0o711);
    let owner = std::fs::metadata(fresh.join("owner")).unwrap();
    assert_eq!((owner.uid(), owner.gid()), (7, 8));
    assert_eq!(attributes(&fresh.join("attribute")), [(b"user.new".to_vec(), b"x".to_vec())]);
    assert_eq!(attributes(&fresh.join("new/tree")), [(b"user.on-dir".to_vec(), b"d".to_vec())]);
    assert_eq!(std::fs::metadata(fresh.join("touched")).unwrap().mtime(), 5);
    assert_eq!(std::fs::read_link(fresh.join("replaced")).unwrap(), Path::new("kept"));
    assert!(std::fs::metadata(fresh.join("new/device")).unwrap().rdev() == makedev(5, 1));
    assert_eq!(std::fs::read_to_string(fresh.join("kept")).unwrap(), "same size");
}

async fn mapped_users(images: Images) {
    let layers = vec![
        tar(&[
            file("root-owned", "x"),
            file("user-owned", "x").ids(1000, 1000),
            directory("dir").ids(10, 10),
        ]),
        tar(&[file("second", "x").ids(5, 5), file(".wh.root-owned", "")]),
    ];
    let image = make(&images, "mapped:1", layers).await;
    let maps =
        vec![IdMap { inside: 0, outside: 200_000, size: 65_536, kind: wharf_plan::types::IdKind::Both }];
    let id = "1d".repeat(32);
    let options = SnapshotOptions { id_maps: maps.clone(), ..SnapshotOptions::default() };
    images.snapshots().prepare(&id, &image, options).await.unwrap();
    {
        let mounted = images.snapshots().mount(&id).await.unwrap();
        let owner = |name: &str| std::fs::metadata(at(&mounted).join(name)).unwrap().uid();
        assert_eq!((owner("user-owned"), owner("dir"), owner("second")), (201_000, 200_010, 200_005));
        assert!(!at(&mounted).join("root-owned").exists());
        let view = images.snapshots().view_mapped(&image, &maps).await.unwrap();
        assert_eq!(std::fs::metadata(at(&view).join("second")).unwrap().uid(), 200_005);
    }
    // What is on the disk belongs to whom the image says.
    let plain = container(&images, "2e", &image).await;
    assert_eq!(std::fs::metadata(at(&plain).join("user-owned")).unwrap().uid(), 1000);
}

async fn sizes(images: Images) {
    let image = make(&images, "sizes:1", vec![tar(&[file("x", "x")])]).await;
    let id = "5".repeat(64);
    let options = || SnapshotOptions { size_limit: Some(64 << 20), ..SnapshotOptions::default() };
    if images.driver() != "btrfs" {
        // Here nothing counts what directories take.
        let error = images.snapshots().prepare(&id, &image, options()).await.unwrap_err();
        let text = match images.driver() {
            "vfs" => "Filesystem does not support, or has not enabled quotas",
            "erofs" => "--storage-opt is supported only for erofs over xfs with 'pquota' mount option",
            _ => "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        };
        assert_eq!(error.to_string(), text);
        assert!(!images.snapshots().exists(&id));
        return;
    }
    images.snapshots().prepare(&id, &image, options()).await.unwrap();
    let limited = images.snapshots().mount(&id).await.unwrap();
    let free = container(&images, "6", &image).await;
    let write = |root: &OwnedFd, bytes: usize| {
        let mut noise = vec![0u8; bytes];
        File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
        let file = File::create(at(root).join("big"))?;
        file.write_all_at(&noise, 0).and_then(|()| file.sync_all())
    };
    write(&limited, 16 << 20).unwrap();
    let error = write(&limited, 128 << 20).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded, "{error}");
    write(&free, 128 << 20).unwrap();
}

async fn bad_layers_leave_nothing(images: Images) {
    let bad: Vec<(Vec<u8>, &str)> = vec![
        (tar(&[file("../out", "x")]), "outside"),
        (
            tar(&[
                symlink("a", "/etc"),
                file("a/b/c", "x"),
                file("ok", "x"),
                hard_link("x", "../../etc/passwd"),
            ]),
            "",
        ),
        (tar(&[file("f", "x"), file("f/g", "x")]), "in the way"),
        (tar(&[hard_link("x", "nowhere")]), "nowhere"),
        (tar(&[directory("d"), hard_link("x", "d")]), "not permitted"),
        (tar(&[symlink("s", "missing"), file("s/x", "x")]), ""),
        (tar(&[symlink("l", "l"), file("l/x", "x")]), ""),
        (tar(&[file("x", "x").pax("SCHILY.xattr.security.capability", "junk")]), ""),
        (tar(&[file("x".repeat(256), "x")]), ""),
        (tar(&[file("half", vec![1; 9000])])[..4000].to_vec(), ""),
    ];
    for (layer, text) in bad {
        let error = import(&images, "bad", layer).await.unwrap_err();
        assert!(error.to_string().to_lowercase().contains(text), "{error}");
    }
    assert_eq!(images.list().len(), 0);
    // A link that leads inside is followed inside.
    let fine = tar(&[
        directory("real"),
        symlink("a", "/real"),
        symlink("b", "a/../a"),
        file("b/c", "x"),
        symlink("up", "../../.."),
        file("up/top", "x"),
    ]);
    let image = import(&images, "fine", fine).await.unwrap();
    let mounted = container(&images, "f", &image).await;
    assert_eq!(std::fs::read_to_string(at(&mounted).join("real/c")).unwrap(), "x");
    assert_eq!(std::fs::read_to_string(at(&mounted).join("top")).unwrap(), "x");
}

/// What is saved is what was loaded, byte for byte, also where an entry was replaced by a later one of its layer.
async fn the_stream_comes_back(images: Images) {
    let noise: Vec<u8> =
        (0..300_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
    let layers = vec![
        tar(&[
            file("small", "s"),
            file("large", &noise),
            file("large", "replaced"),
            file("dir/x", &noise[..5000]),
            file("dir/y", "y"),
            // A file where the directory was.
            file("dir", "a file now"),
            hard_link("again", "small"),
            sparse("holes", 1 << 30, &[(5, "five"), (1 << 29, "middle")]),
        ]),
        tar(&[
            file("small", "two"),
            file(".wh.large", ""),
            hard_link("below", "dir"),
            symlink("s", "dir"),
            file("z/z", "z"),
        ]),
    ];
    make(&images, "stream:1", layers.clone()).await;
    let mut saved = images.save(&["stream:1".to_owned()], &wharf_images::SaveOptions::default()).unwrap();
    let mut bytes = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut saved, &mut bytes).await.unwrap();
    let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        blobs.insert(name, content);
    }
    for layer in layers {
        let name = format!("blobs/sha256/{}", sha256(&layer));
        assert!(blobs.get(&name).is_some_and(|blob| *blob == layer), "{name} of {:?}", blobs.keys());
    }
}

async fn containers_side_by_side(images: Images) {
    let layers = vec![tar(&[file("data", "image")]), tar(&[file("more", "image")])];
    let image = make(&images, "side:1", layers).await;
    let roots: Vec<OwnedFd> = {
        let mut roots = Vec::new();
        for n in 0..8 {
            roots.push(container(&images, &n.to_string(), &image).await);
        }
        roots
    };
    for (n, root) in roots.iter().enumerate() {
        std::fs::write(at(root).join("data"), n.to_string()).unwrap();
    }
    for (n, root) in roots.iter().enumerate() {
        assert_eq!(std::fs::read_to_string(at(root).join("data")).unwrap(), n.to_string());
        assert_eq!(std::fs::read_to_string(at(root).join("more")).unwrap(), "image");
    }
    images.snapshots().remove(&"0".repeat(64), wharf_store::Transaction::new()).await.unwrap().await;
    assert_eq!(std::fs::read_to_string(at(&roots[1]).join("data")).unwrap(), "1");
    // An image in use cannot be lost; its layers stay until the last container is gone.
    let view = images.snapshots().view(&image).await.unwrap();
    assert_eq!(std::fs::read_to_string(at(&view).join("data")).unwrap(), "image");
}
