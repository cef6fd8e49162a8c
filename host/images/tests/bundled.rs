//! The bundled storage drivers, as components, through the plugin host: from an archive to a container to nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod common;

use std::path::{Path, PathBuf};

use common::component::files;
use common::*;
use wharf_images::RemoveOptions;
use wharf_images::snapshots::SnapshotOptions;

async fn open(home: &Home, driver: &str) -> wharf_images::Images {
    component::open(home, driver).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_an_archive_to_nothing() {
    for driver in ["overlay2", "vfs", "erofs"] {
        let home = Home::new(false);
        let images = open(&home, driver).await;
        assert_eq!(images.driver(), driver);
        let layers = vec![
            tar(&[
                directory("etc").mode(0o711).ids(1, 2),
                file("etc/passwd", "root"),
                file("etc/old", "x"),
                file("d/a", "1"),
            ]),
            tar(&[
                file("etc/.wh.old", ""),
                file("etc/new", "n"),
                file("d/.wh..wh..opq", ""),
                file("d/b", "2"),
            ]),
            tar(&[hard_link("passwd", "etc/passwd"), file("etc/third", "3")]),
        ];
        let loaded = load(&images, docker_archive(&[packed(layers, vec!["x:1"])])).await.unwrap();
        let image = loaded[0].image.clone();
        let container = "f0".repeat(32);
        let snapshots = images.snapshots();
        let plan = snapshots.prepare(&container, &image, SnapshotOptions::default()).await.unwrap();
        assert!(plan.plugin.starts_with("wharf/storage-"), "{}", plan.plugin);
        let look = |root: &Path| {
            use std::os::unix::fs::MetadataExt;
            assert_eq!(std::fs::read_to_string(root.join("passwd")).unwrap(), "root", "{driver}");
            let etc = std::fs::metadata(root.join("etc")).unwrap();
            assert_eq!((etc.uid(), etc.gid(), etc.mode() & 0o7777), (1, 2, 0o711), "{driver}");
            assert!(root.join("etc/new").exists() && !root.join("etc/old").exists(), "{driver}");
            assert!(root.join("d/b").exists() && !root.join("d/a").exists(), "{driver}");
        };
        {
            let root = snapshots.mount(&container).await.unwrap();
            look(&at(&root));
            std::fs::write(at(&root).join("etc/new"), "changed").unwrap();
            std::fs::write(at(&root).join("written"), vec![0; 4096]).unwrap();
        }
        {
            let view = snapshots.view(&image).await.unwrap();
            look(&at(&view));
            assert_eq!(std::fs::read_to_string(at(&view).join("etc/new")).unwrap(), "n");
            assert!(std::fs::write(at(&view).join("x"), "x").is_err());
        }
        assert_eq!(snapshots.size(&container).await.unwrap(), 4096 + 7, "{driver}");
        assert_eq!(images.resolve("x:1").unwrap().size, image.size);
        drop((snapshots, images));

        let images = open(&home, driver).await;
        let snapshots = images.snapshots();
        {
            let root = snapshots.mount(&container).await.unwrap();
            assert_eq!(std::fs::read_to_string(at(&root).join("etc/new")).unwrap(), "changed");
        }
        // Files that belong to nothing go at the next start, with the containers that nobody knows.
        let stray = files(&home)[0].with_file_name("ab".repeat(16));
        std::fs::create_dir_all(stray.join("diff")).unwrap();
        drop((snapshots, images));
        let images = open(&home, driver).await;
        wharf_kernel::files::drain();
        assert!(!stray.exists(), "{driver}");
        let gone = images.snapshots().sweep(&std::collections::BTreeSet::new()).await.unwrap();
        assert_eq!(gone, [container]);
        images.remove("x:1", RemoveOptions::default()).await.unwrap();
        assert_eq!(files(&home), Vec::<PathBuf>::new(), "{driver}");
    }
}
