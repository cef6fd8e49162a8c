//! The process is killed while it loads: what is recorded is whole, what is not is gone after the next start.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use common::*;
use wharf_images::snapshots::SnapshotOptions;

const HOME: &str = "WHARF_TEST_CRASH_HOME";
const COPIES: &str = "WHARF_TEST_CRASH_COPIES";

/// Not a test: the process to be killed. Loads what comes on its standard input, makes containers, then removes all.
#[test]
fn child() {
    let Ok(path) = std::env::var(HOME) else { return };
    let path = std::path::PathBuf::from(path);
    let mut home = Home::new(std::env::var_os(COPIES).is_some());
    home.dir.disable_cleanup(true);
    let settings = home.settings(&path);
    std::fs::remove_dir(home.dir.path()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let images = wharf_images::Images::open(settings).await.unwrap();
        println!("ready");
        let loaded =
            images.load(tokio::io::stdin(), wharf_images::LoadOptions::default(), |_| {}).await.unwrap();
        println!("loaded");
        let image = loaded[0].image.clone();
        for n in 0..20 {
            let id = format!("{n:064x}");
            images.snapshots().prepare(&id, &image, SnapshotOptions::default()).await.unwrap();
        }
        println!("prepared");
        for n in 0..20 {
            images
                .snapshots()
                .remove(&format!("{n:064x}"), wharf_store::Transaction::new())
                .await
                .unwrap()
                .await;
        }
        images.remove("x:1", wharf_images::RemoveOptions::default()).await.unwrap();
        println!("removed");
    });
}

#[test]
fn killed_at_any_point_nothing_half_made_stays() {
    let layers: Vec<Vec<u8>> = (0..4)
        .map(|n| {
            let files: Vec<Entry> = (0..30)
                .map(|f| file(format!("l{n}/d{}/f{f}", f % 5), vec![n; 3000 + usize::from(n) * 100]))
                .collect();
            tar(&files)
        })
        .collect();
    let archive = docker_archive(&[packed(layers.clone(), vec!["x:1"])]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut unloaded, mut complete) = (0, 0);
    for copies in BOTH {
        let home = Home::new(copies);
        for round in 0..30usize {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["child", "--exact", "--nocapture"]).env(HOME, home.dir.path());
            if copies {
                command.env(COPIES, "1");
            }
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
            let mut wait = |word: &str| lines.by_ref().find(|line| line.ends_with(word)).unwrap();
            wait("ready");
            let mut input = child.stdin.take().unwrap();
            // Half of the rounds while it reads; then ever later, in steps of some hundred microseconds of its work.
            if round % 2 == 0 {
                let cut = archive.len() * (round + 1) / 31;
                input.write_all(&archive[..cut]).unwrap();
            } else {
                input.write_all(&archive).unwrap();
                drop(input);
                match round % 6 {
                    1 => {}
                    3 => drop(wait("loaded")),
                    _ => drop(wait("prepared")),
                }
                // A busy loop is the only clock fine enough here; what it measures is not asserted on.
                let until = std::time::Instant::now() + std::time::Duration::from_micros(round as u64 * 150);
                while std::time::Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let left = runtime.block_on(async {
                let images = home.open().await;
                let list = images.list();
                assert!(list.len() <= 1);
                match list.first() {
                    None => unloaded += 1,
                    Some(image) => {
                        complete += 1;
                        assert_eq!(image.repo_tags, ["x:1"]);
                        let view = images.snapshots().view(image).await.unwrap();
                        for n in 0..4u8 {
                            for f in 0..30 {
                                let found =
                                    std::fs::read(at(&view).join(format!("l{n}/d{}/f{f}", f % 5))).unwrap();
                                assert_eq!(found, vec![n; 3000 + usize::from(n) * 100]);
                            }
                        }
                    }
                }
                // Containers that the engine does not know.
                for id in images.snapshots().sweep(&std::collections::BTreeSet::new()).await.unwrap() {
                    assert!(!images.snapshots().exists(&id));
                }
                for image in images.list() {
                    images.remove(&image.id, wharf_images::RemoveOptions::default()).await.unwrap();
                }
                drop(images);
                // Whatever is there now was forgotten by the sweep.
                home.files()
            });
            assert_eq!(left, Vec::<String>::new(), "copies {copies}, round {round}");
        }
    }
    assert!(unloaded > 5 && complete > 5, "the kills were not spread: {unloaded} before, {complete} after");
}
