//! Images from archives to containers, with real mounts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod common;

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use common::*;
use wharf_images::snapshots::SnapshotOptions;
use wharf_images::{Deleted, EmbeddedFile, ImageConfig, ImportOptions, Kind, RemoveOptions};

fn mount_table() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_from_load_to_a_container_and_back_to_nothing() {
    for copies in BOTH {
        let before = mount_table();
        let home = Home::new(copies);
        let images = home.open().await;
        let lower = tar(&[
            directory("etc").mode(0o700).ids(5, 6),
            file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
            file("etc/old", "old"),
            directory("var"),
            file("var/a", "1"),
            directory("var/deep"),
            file("var/deep/b", "2"),
        ]);
        // No entry for `etc` itself: it must look as below.
        let upper = tar(&[
            file("etc/new", "new"),
            file("etc/.wh.old", ""),
            directory("var"),
            file("var/.wh..wh..opq", ""),
            file("var/c", "3"),
        ]);
        let loaded = load(&images, docker_archive(&[packed(vec![lower, upper], vec!["app:1", "me/app:x"])]))
            .await
            .unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].names, ["app:1", "me/app:x"]);
        let image = images.resolve("app:1").unwrap();
        assert_eq!(image.repo_tags, ["app:1", "me/app:x"]);
        assert_eq!(image.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
        assert_eq!(image.created_unix, 1_714_979_289);
        assert_eq!(image.layers.len(), 2);
        assert_eq!(image.size, 22 + 3 + 1 + 1 + 3 + 1);

        let snapshots = images.snapshots();
        let id = "c".repeat(64);
        let files_before = home.files();
        let plan = snapshots.plan(&id, &image, SnapshotOptions::default()).await.unwrap();
        assert!(!plan.ops.is_empty() && !plan.mounts.is_empty());
        assert!(!snapshots.exists(&id));
        assert_eq!(home.files(), files_before, "a dry run changes nothing");

        let real = snapshots.prepare(&id, &image, SnapshotOptions::default()).await.unwrap();
        assert_eq!(real, plan);
        assert!(snapshots.exists(&id));
        let again = snapshots.prepare(&id, &image, SnapshotOptions::default()).await.unwrap_err();
        assert_eq!(again.kind(), Kind::Conflict);
        {
            let root = snapshots.mount(&id).await.unwrap();
            let root = at(&root);
            assert_eq!(std::fs::read_to_string(root.join("etc/new")).unwrap(), "new");
            assert_eq!(std::fs::read_to_string(root.join("etc/passwd")).unwrap(), "root:x:0:0::/:/bin/sh\n");
            assert!(!root.join("etc/old").exists());
            assert!(!root.join("var/a").exists() && !root.join("var/deep").exists());
            assert_eq!(std::fs::read_to_string(root.join("var/c")).unwrap(), "3");
            let etc = std::fs::metadata(root.join("etc")).unwrap();
            assert_eq!((etc.uid(), etc.gid(), etc.mode() & 0o7777), (5, 6, 0o700));
            std::fs::write(root.join("written"), vec![1; 5000]).unwrap();
        }
        assert_eq!(mount_table(), before, "nothing appears in the mount table of the host");
        {
            // Asked twice it is the same file system, also while the first is still in use.
            let (one, two) = (snapshots.mount(&id).await.unwrap(), snapshots.mount(&id).await.unwrap());
            std::fs::write(at(&one).join("both"), "x").unwrap();
            assert_eq!(std::fs::read_to_string(at(&two).join("both")).unwrap(), "x");
            let dev = |fd| std::fs::metadata(at(fd)).unwrap().dev();
            assert_eq!(dev(&one), dev(&two));
            std::fs::remove_file(at(&two).join("both")).unwrap();
            snapshots.release(&id);
            snapshots.release(&id);
        }
        if !copies {
            assert_eq!(snapshots.size(&id).await.unwrap(), 5000);
        }
        assert_eq!(snapshots.describe(&id).await.unwrap(), [("UpperDir".to_owned(), id.clone())]);
        {
            let view = snapshots.view(&image).await.unwrap();
            let root = at(&view);
            assert!(!root.join("written").exists());
            assert!(std::fs::write(root.join("x"), "x").is_err(), "an image's files cannot be written");
        }

        // A new process finds everything again.
        drop((snapshots, images));
        let images = home.open().await;
        let snapshots = images.snapshots();
        let image = images.resolve(&image.id).unwrap();
        assert_eq!(image.repo_tags, ["app:1", "me/app:x"]);
        {
            let root = snapshots.mount(&id).await.unwrap();
            assert!(at(&root).join("written").exists());
        }
        let deleted = images.remove("app:1", RemoveOptions::default()).await.unwrap();
        assert_eq!(deleted, [Deleted::Untagged { name: "app:1".into(), image: image.id.clone() }]);
        // A container's layers outlive the image.
        let force = RemoveOptions { force: true, ..RemoveOptions::default() };
        let deleted = images.remove("me/app:x", force).await.unwrap();
        assert_eq!(
            deleted,
            [
                Deleted::Untagged { name: "me/app:x".into(), image: image.id.clone() },
                Deleted::Image(image.id.clone())
            ]
        );
        {
            let root = snapshots.mount(&id).await.unwrap();
            assert!(at(&root).join("etc/passwd").exists());
        }
        snapshots.remove(&id, wharf_store::Transaction::new()).await.unwrap().await;
        snapshots.remove(&id, wharf_store::Transaction::new()).await.unwrap().await;
        assert!(!snapshots.exists(&id));
        drop((snapshots, images));
        let images = home.open().await;
        assert!(images.list().is_empty());
        assert_eq!(home.files(), Vec::<String>::new(), "nothing is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_a_layer_can_hold_arrives() {
    for copies in BOTH {
        let home = Home::new(copies);
        let images = home.open().await;
        let long = format!("{}/{}", "d".repeat(120), "n".repeat(200));
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let layer = tar(&[
            file("bin/ping", "ping").mode(0o4755).pax("SCHILY.xattr.security.capability", capability),
            file("sgid", "x").mode(0o2711).ids(1000, 70_000),
            hard_link("bin/ping2", "bin/ping"),
            symlink("absolute", "/bin/ping"),
            symlink("outside", "../../../../etc/passwd"),
            entry(b'3', "null").device(1, 3).mode(0o666),
            entry(b'4', "disk").device(7, 0).mode(0o660),
            entry(b'6', "pipe").mode(0o600),
            file(b"not-\xff\xfe-utf8", "bytes"),
            file(&long, "long"),
            file("big-owner", "x").pax("uid", "4294967294").pax("gid", "3000000000"),
            file("times", "x").pax("mtime", "1350244992.023960108"),
            file("attribute", "x").pax("SCHILY.xattr.user.note", b"a\0b"),
            file("steered", "x").pax("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
            file("empty", ""),
            directory("sticky").mode(0o1777),
            entry(b'g', "global"),
        ]);
        let image = import(&images, "all", layer).await.unwrap();
        let view = images.snapshots().view(&image).await.unwrap();
        let root = at(&view);
        let stat = |p: &str| std::fs::symlink_metadata(root.join(p)).unwrap();
        assert_eq!(stat("bin/ping").mode() & 0o7777, 0o4755);
        assert_eq!(stat("bin/ping").ino(), stat("bin/ping2").ino());
        let xattr = |p: &str, n: &str| {
            wharf_kernel::files::tree::xattrs(root.join(p).to_str().unwrap())
                .unwrap()
                .into_iter()
                .find(|(name, _)| name == n.as_bytes())
                .map(|(_, v)| v)
        };
        assert_eq!(xattr("bin/ping", "security.capability").unwrap(), capability);
        assert_eq!(xattr("attribute", "user.note").unwrap(), b"a\0b");
        assert_eq!(xattr("steered", "trusted.overlay.redirect"), None);
        assert_eq!(
            (stat("sgid").uid(), stat("sgid").gid(), stat("sgid").mode() & 0o7777),
            (1000, 70_000, 0o2711)
        );
        assert_eq!(std::fs::read_link(root.join("absolute")).unwrap().to_str(), Some("/bin/ping"));
        assert_eq!(
            std::fs::read_link(root.join("outside")).unwrap().to_str(),
            Some("../../../../etc/passwd")
        );
        assert!(stat("null").file_type().is_char_device() && stat("null").rdev() == 0x103);
        assert!(stat("disk").file_type().is_block_device());
        assert!(stat("pipe").file_type().is_fifo());
        assert_eq!(stat("null").permissions().mode() & 0o7777, 0o666);
        assert_eq!(stat(&long).size(), 4);
        assert_eq!((stat("big-owner").uid(), stat("big-owner").gid()), (4_294_967_294, 3_000_000_000));
        assert_eq!((stat("times").mtime(), stat("times").mtime_nsec()), (1_350_244_992, 23_960_108));
        assert_eq!(stat("bin/ping").mtime(), 1_000_000_000);
        assert_eq!(stat("sticky").mode() & 0o7777, 0o1777);
        assert!(root.join(std::ffi::OsStr::from_bytes(b"not-\xff\xfe-utf8")).exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_of_all_kinds_and_compressions() {
    let layer = tar(&[file("a", vec![7u8; 100_000])]);
    let gzip = |data: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(data).unwrap();
        out.finish().unwrap()
    };
    let zstd = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
    for copies in BOTH {
        let home = Home::new(copies);
        let images = home.open().await;
        let image = |tag| packed(vec![layer.clone()], vec![tag]);
        let oci = "application/vnd.oci.image.layer.v1.tar";
        let mut ids = Vec::new();
        for archive in [
            docker_archive(&[image("one:1")]),
            oci_archive(&image("docker.io/library/two:2"), oci, <[u8]>::to_vec),
            oci_archive(&image("three:3"), &format!("{oci}+gzip"), gzip),
            oci_archive(&image("four:4"), &format!("{oci}+zstd"), zstd),
            gzip(&docker_archive(&[image("five:5")])),
            zstd(&oci_archive(&image("six:6"), &format!("{oci}+gzip"), gzip)),
        ] {
            let loaded = load(&images, archive).await.unwrap();
            ids.push(loaded[0].image.id.clone());
        }
        ids.dedup();
        assert_eq!(ids.len(), 1, "the same image however it is packed");
        let image = images.resolve("six:6").unwrap();
        assert_eq!(image.repo_tags, ["five:5", "four:4", "one:1", "six:6", "three:3", "two:2"]);
        assert_eq!(home.files().iter().filter(|f| f.contains("storage")).count(), 1, "{:?}", home.files());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xz_and_bzip2_streams_are_imported() {
    use std::process::{Command, Stdio};
    let layer = tar(&[file("a", "x")]);
    for program in ["xz", "bzip2"] {
        let Ok(mut child) =
            Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            continue;
        };
        child.stdin.take().unwrap().write_all(&layer).unwrap();
        let packed = child.wait_with_output().unwrap().stdout;
        let home = Home::new(false);
        let images = home.open().await;
        let image = import(&images, "", packed).await.unwrap();
        assert!(image.is_dangling());
        assert_eq!(image.layers[0].diff_id, format!("sha256:{}", sha256(&layer)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_archives_with_links_between_layers() {
    let home = Home::new(false);
    let images = home.open().await;
    let base = tar(&[file("a", "a")]);
    let layers = vec![base.clone(), base.clone()];
    let config = config(&layers, &serde_json::json!({}));
    let name = format!("{}.json", sha256(&config));
    let archive = tar(&[
        directory("one"),
        file("one/VERSION", "1.0"),
        file("one/layer.tar", &base),
        directory("two"),
        symlink("two/layer.tar", "../one/layer.tar"),
        file(&name, &config),
        file(
            "manifest.json",
            serde_json::to_vec(&serde_json::json!([
                {"Config": name, "RepoTags": null, "Layers": ["one/layer.tar", "two/layer.tar"]}
            ]))
            .unwrap(),
        ),
        file("repositories", "{}"),
    ]);
    let loaded = load(&images, archive).await.unwrap();
    assert!(loaded[0].names.is_empty());
    let image = &loaded[0].image;
    assert_eq!(image.layers.len(), 2);
    assert_ne!(image.layers[0].chain_id, image.layers[1].chain_id);
    assert_eq!(image.layers[0].diff_id, image.layers[1].diff_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tags_move_and_images_become_dangling() {
    let home = Home::new(false);
    let images = home.open().await;
    let one = import(&images, "app", tar(&[file("a", "1")])).await.unwrap();
    let two = import(&images, "app", tar(&[file("a", "2")])).await.unwrap();
    assert_eq!(images.resolve("app").unwrap().id, two.id);
    assert!(images.resolve(&one.id).unwrap().is_dangling());
    assert_eq!(
        images.tag(&one.id[7..20], "app:latest").await.unwrap(),
        ("app:latest".into(), Some(two.id.clone()))
    );
    assert_eq!(images.resolve("docker.io/library/app:latest").unwrap().id, one.id);
    let text = |r: wharf_images::Result<_>| {
        r.map(|_: std::sync::Arc<wharf_images::Image>| ()).unwrap_err().to_string()
    };
    assert_eq!(text(images.resolve("nope")), "No such image: nope:latest");
    assert_eq!(text(images.resolve("localhost:5000/nope:1")), "No such image: localhost:5000/nope:1");
    assert_eq!(
        text(images.resolve("Bad")),
        "invalid reference format: repository name (Bad) must be lowercase"
    );
    assert_eq!(text(images.resolve("sha256:")), "invalid reference format");
    let tagged = images.tag("app", "x@sha256:".to_owned().as_str()).await.unwrap_err();
    assert_eq!((tagged.kind(), tagged.to_string()), (Kind::Invalid, "invalid reference format".into()));

    // Both images are imports of one layer; loading an archive that takes a name tells who had it.
    let loaded = load(&images, docker_archive(&[packed(vec![tar(&[file("b", "3")])], vec!["app:latest"])]))
        .await
        .unwrap();
    assert_eq!(loaded[0].moved, [("app:latest".to_owned(), one.id.clone())]);
    let pruned = images.prune(wharf_images::PruneOptions::default()).await.unwrap();
    let mut gone: Vec<String> = pruned
        .deleted
        .iter()
        .filter_map(|d| if let Deleted::Image(id) = d { Some(id.clone()) } else { None })
        .collect();
    gone.sort();
    let mut expected = vec![one.id.clone(), two.id.clone()];
    expected.sort();
    assert_eq!(gone, expected);
    assert_eq!(pruned.reclaimed, 2);
    assert_eq!(images.list().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_layers_are_counted_once() {
    let home = Home::new(false);
    let images = home.open().await;
    let base = tar(&[file("base", vec![0u8; 1000])]);
    let one = packed(vec![base.clone(), tar(&[file("one", vec![0u8; 10])])], vec!["one:1"]);
    let two = packed(vec![base, tar(&[file("two", vec![0u8; 20])])], vec!["two:1"]);
    let loaded = load(&images, docker_archive(&[one, two])).await.unwrap();
    let usage = images.usage();
    assert_eq!(usage.layers_size, 1030);
    let first = usage.images[&loaded[0].image.id];
    assert_eq!((first.size, first.shared, first.unique), (1010, 1000, 10));
    let deleted = images.remove("one:1", RemoveOptions::default()).await.unwrap();
    assert_eq!(deleted.iter().filter(|d| matches!(d, Deleted::Layer(_))).count(), 1, "{deleted:?}");
    assert_eq!(images.usage().layers_size, 1020);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_images_are_made_once() {
    let home = Home::new(false);
    let images = home.open().await;
    let files = [EmbeddedFile { path: "hello".into(), content: b"\x7fELF".to_vec(), mode: 0o755 }];
    let config = ImageConfig { cmd: Some(vec!["/hello".into()]), ..ImageConfig::default() };
    let one = images.create_embedded("hello", &files, config.clone()).await.unwrap();
    let two = images.create_embedded("hello", &files, config).await.unwrap();
    assert_eq!(one.id, two.id);
    assert_eq!(one.repo_tags, ["hello:latest"]);
    assert_eq!(images.list().len(), 1);
    let view = images.snapshots().view(&one).await.unwrap();
    assert_eq!(std::fs::metadata(at(&view).join("hello")).unwrap().mode() & 0o7777, 0o755);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn import_applies_instructions() {
    let home = Home::new(false);
    let images = home.open().await;
    let options = |changes: &[&str]| ImportOptions {
        repository: "me/app".into(),
        tag: "v1".into(),
        message: "made".into(),
        changes: changes.iter().map(|c| (*c).to_owned()).collect(),
        platform: "linux/arm64/v8".into(),
    };
    let changes = [
        "CMD [\"a\", \"b c\"]",
        "ENV A=1 B=\"two words\"",
        "ENV C $A-${B:-x}",
        "EXPOSE 80 53/udp 8000-8001",
        "WORKDIR /srv",
        "workdir app",
        "USER 1000:1000",
        "LABEL x=y \"q r\"='s t'",
        "VOLUME [\"/data\"]",
        "STOPSIGNAL SIGQUIT",
        "ENTRYPOINT run it",
        "HEALTHCHECK --interval=1m30s --retries=2 CMD curl localhost",
        "ONBUILD RUN x",
    ];
    let layer = tar(&[file("a", "1")]);
    let image = images.import(std::io::Cursor::new(layer.clone()), options(&changes)).await.unwrap();
    let config = &image.config;
    assert_eq!(config.cmd.as_deref().unwrap(), ["a", "b c"]);
    assert_eq!(config.env.as_deref().unwrap(), ["A=1", "B=two words", "C=1-two words"]);
    assert_eq!(
        config.exposed_ports.as_ref().unwrap().keys().collect::<Vec<_>>(),
        ["53/udp", "80/tcp", "8000/tcp", "8001/tcp"]
    );
    assert_eq!(config.working_dir, "/srv/app");
    assert_eq!(config.user, "1000:1000");
    assert_eq!(config.labels.as_ref().unwrap()["q r"], "s t");
    assert_eq!(config.entrypoint.as_deref().unwrap(), ["/bin/sh", "-c", "run it"]);
    let health = config.healthcheck.as_ref().unwrap();
    assert_eq!((health.test[0].as_str(), health.interval, health.retries), ("CMD-SHELL", 90_000_000_000, 2));
    assert_eq!((image.architecture.as_str(), image.variant.as_str()), ("arm64", "v8"));
    assert_eq!((image.comment.as_str(), image.history[0].comment.as_deref()), ("made", Some("made")));
    assert_eq!(image.repo_tags, ["me/app:v1"]);
    for bad in ["RUN x", "NONSENSE 1", "EXPOSE 99999", "ENV", "HEALTHCHECK --interval=soon CMD x", "LABEL a"]
    {
        let error = images.import(std::io::Cursor::new(layer.clone()), options(&[bad])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{bad}: {error}");
    }
}
