//! Names, removal with Docker's rules and words, saving.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod common;

use common::*;
use tokio::io::AsyncReadExt;
use wharf_images::{Deleted, Images, Kind, RemoveOptions, Use};

async fn save(images: &Images, references: &[&str]) -> Vec<u8> {
    let references: Vec<String> = references.iter().map(|r| (*r).to_owned()).collect();
    let mut data = Vec::new();
    images
        .save(&references, &wharf_images::SaveOptions::default())
        .unwrap()
        .read_to_end(&mut data)
        .await
        .unwrap();
    data
}

fn using(image: &str, container: char, running: bool) -> Use {
    Use { container: container.to_string().repeat(64), image: image.to_owned(), running }
}

fn options(force: bool, uses: Vec<Use>) -> RemoveOptions {
    RemoveOptions { force, no_prune: false, uses }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_refuses_in_dockers_words() {
    let home = Home::new(false);
    let images = home.open().await;
    let image = import(&images, "app:1", tar(&[file("a", "1")])).await.unwrap();
    let (id, short) = (image.id.as_str(), &image.id[7..19]);
    let text = |r: wharf_images::Result<Vec<Deleted>>| {
        let error = r.unwrap_err();
        (error.kind(), error.to_string())
    };
    let stopped = vec![using(id, 'b', false)];
    let running = vec![using(id, 'b', true)];
    let b = "b".repeat(12);
    assert_eq!(
        text(images.remove("app:1", options(false, stopped.clone())).await),
        (
            Kind::Conflict,
            format!(
                "conflict: unable to remove repository reference \"app:1\" (must force) - container {b} is using its \
                 referenced image {short}"
            )
        )
    );
    assert_eq!(
        text(images.remove(id, options(false, stopped.clone())).await),
        (
            Kind::Conflict,
            format!(
                "conflict: unable to delete {short} (must be forced) - image is being used by stopped container {b}"
            )
        )
    );
    for force in [false, true] {
        assert_eq!(
            text(images.remove(short, options(force, running.clone())).await),
            (
                Kind::Conflict,
                format!(
                    "conflict: unable to delete {short} (cannot be forced) - image is being used by running container {b}"
                )
            )
        );
    }
    images.tag("app:1", "other/app").await.unwrap();
    assert_eq!(
        text(images.remove(short, options(false, vec![])).await),
        (
            Kind::Conflict,
            format!(
                "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
            )
        )
    );
    assert_eq!(
        text(images.remove("nope", options(true, vec![])).await),
        (Kind::NotFound, "No such image: nope:latest".into())
    );
    // With a second name a used image may lose one.
    let untagged = images.remove("other/app", options(false, running.clone())).await.unwrap();
    assert_eq!(untagged, [Deleted::Untagged { name: "other/app:latest".into(), image: id.to_owned() }]);
    // Forced away from a running container the name goes, the image stays without one.
    let untagged = images.remove("app:1", options(true, running)).await.unwrap();
    assert_eq!(untagged.len(), 1);
    assert!(images.resolve(id).unwrap().is_dangling());
    let gone = images.remove(id, options(true, stopped)).await.unwrap();
    assert_eq!(gone, [Deleted::Image(id.to_owned()), Deleted::Layer(image.layers[0].chain_id.clone())]);
    drop(images);
    assert_eq!(home.files(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_found_by_unique_beginnings() {
    let home = Home::new(false);
    let images = home.open().await;
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(import(&images, "", tar(&[file("a", n.to_string())])).await.unwrap().id.clone());
    }
    for id in &ids {
        let hex = id.strip_prefix("sha256:").unwrap();
        for text in [id.as_str(), hex, &hex[..12], &format!("sha256:{}", &hex[..20])] {
            assert_eq!(&images.resolve(text).unwrap().id, id, "{text}");
        }
        let first = &hex[..1];
        let alone = ids.iter().filter(|i| i.starts_with(&format!("sha256:{first}"))).count() == 1;
        assert_eq!(images.resolve(first).is_ok(), alone, "{first}");
    }
    // A name that looks like an id wins over the id.
    let short = ids[0][7..13].to_owned();
    images.tag(&ids[1], &short).await.unwrap();
    assert_eq!(images.resolve(&short).unwrap().id, ids[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_saved_is_what_was_loaded() {
    for copies in BOTH {
        let home = Home::new(copies);
        let images = home.open().await;
        let lower = tar(&[
            directory("etc").mode(0o711),
            file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
            file("twice", "first"),
            file("twice", "second one"),
            file("big", vec![9u8; 300_000]),
            file("gone-soon/x", "will be a link"),
            symlink("gone-soon", "etc"),
            hard_link("again", "big"),
            file(b"\xff\xfe", "x").pax("SCHILY.xattr.user.a", "b").pax("mtime", "1.5"),
        ]);
        let upper = tar(&[file(".wh.twice", ""), file("new", "n"), entry(b'3', "null").device(1, 3)]);
        let one = packed(vec![lower.clone(), upper], vec!["one:1", "one:2", "me/other:x"]);
        let two = packed(vec![lower], vec!["two:1"]);
        load(&images, docker_archive(&[one, two])).await.unwrap();
        let all = save(&images, &["one:1", "two"]).await;
        let repository = save(&images, &["one"]).await;
        let id = images.resolve("one:1").unwrap().id.clone();
        let nameless = save(&images, &[&id]).await;
        let missing =
            images.save(&["one:1".into(), "nope".into()], &wharf_images::SaveOptions::default()).unwrap_err();
        assert_eq!(missing.to_string(), "No such image: nope:latest");
        assert!(images.save(&[], &wharf_images::SaveOptions::default()).is_err());

        let other = Home::new(!copies);
        let others = other.open().await;
        let loaded = load(&others, all.clone()).await.unwrap();
        assert_eq!(
            loaded.iter().map(|l| l.names.clone()).collect::<Vec<_>>(),
            [vec!["one:1"], vec!["two:1"]]
        );
        assert_eq!(loaded[0].image.id, id);
        assert_eq!(loaded[0].image.layers, images.resolve("one:1").unwrap().layers);
        let loaded = load(&others, repository).await.unwrap();
        assert_eq!(loaded[0].names, ["one:1", "one:2"]);
        let loaded = load(&others, nameless).await.unwrap();
        assert!(loaded[0].names.is_empty());
        // As an OCI layout it means the same.
        let mut entries = Vec::new();
        let mut reader = ::tar::Archive::new(all.as_slice());
        for entry in reader.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut data = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
            if entry.header().entry_type().is_file() && path != "manifest.json" {
                entries.push(file(path, data));
            }
        }
        let third = Home::new(copies);
        let thirds = third.open().await;
        let loaded = load(&thirds, tar(&entries)).await.unwrap();
        assert_eq!(
            loaded.iter().map(|l| l.names.clone()).collect::<Vec<_>>(),
            [vec!["one:1"], vec!["two:1"]]
        );
        assert_eq!(loaded[0].image.id, id);

        // Files that changed on the disk are not saved as what they were.
        drop(images);
        let storage = home.dir.path().join("data/storage");
        let mut changed = false;
        wharf_kernel::files::tree::walk::<rustix::io::Errno>(
            std::os::fd::AsFd::as_fd(&wharf_kernel::files::tree::open_host_dir(&storage).unwrap()),
            &mut |entry| {
                if entry.name == b"passwd" {
                    std::fs::write(
                        storage.join(std::str::from_utf8(entry.path).unwrap()),
                        "root::0:0::/:/bin/sh\n\n",
                    )
                    .unwrap();
                    changed = true;
                }
                Ok(())
            },
        )
        .unwrap();
        assert!(changed);
        let images = home.open().await;
        let broken = save(&images, &["one:1"]).await;
        assert!(load(&others, broken).await.is_err());
    }
}
