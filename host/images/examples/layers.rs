//! What images cost on this machine: container file systems, start-up, loading beside the bare disk.
//!
//! `cargo run --release -p wharf-images --example layers [MEGABYTES]`, as root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::wildcard_imports,
    reason = "a measuring program"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::Write;
use std::time::{Duration, Instant};

use common::*;
use wharf_images::snapshots::SnapshotOptions;

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |p: usize| times[(times.len() - 1) * p / 100];
    println!("{what:<40} p50 {:>10.1?}  p90 {:>10.1?}  p99 {:>10.1?}", at(50), at(90), at(99));
}

async fn containers() {
    let home = Home::new(false);
    let images = home.open().await;
    let layers: Vec<Vec<u8>> = (0..5).map(|n| tar(&[file(format!("f{n}"), "x")])).collect();
    let loaded = load(&images, docker_archive(&[packed(layers, vec!["x:1"])])).await.unwrap();
    let image = loaded[0].image.clone();
    let (mut prepare, mut mount, mut end, mut remove) = (vec![], vec![], vec![], vec![]);
    for n in 0..500 {
        let id = format!("{n:064x}");
        let start = Instant::now();
        images.snapshots().prepare(&id, &image, SnapshotOptions::default()).await.unwrap();
        prepare.push(start.elapsed());
        let start = Instant::now();
        let root = images.snapshots().mount(&id).await.unwrap();
        mount.push(start.elapsed());
        let start = Instant::now();
        drop(root);
        end.push(start.elapsed());
        let start = Instant::now();
        images.snapshots().remove(&id, wharf_store::Transaction::new()).await.unwrap().await;
        remove.push(start.elapsed());
    }
    show("prepare (5 layers)", prepare);
    show("mount", mount);
    show("last descriptor closed", end);
    show("remove", remove);
}

async fn start_up() {
    for count in [10, 500] {
        let home = Home::new(false);
        let images = home.open().await;
        for n in 0..count {
            import(&images, &format!("image-{n}"), tar(&[file("a", format!("{n}"))])).await.unwrap();
        }
        drop(images);
        let mut times = vec![];
        for _ in 0..10 {
            let settings = home.settings(home.dir.path());
            let start = Instant::now();
            let images = wharf_images::Images::open(settings).await.unwrap();
            times.push(start.elapsed());
            assert_eq!(images.list().len(), count);
        }
        show(&format!("open with {count} images"), times);
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect()
}

/// Four layers: half of the bytes in files of 8 KiB, half in files of 8 MiB; half of them compressible.
fn big(megabytes: usize) -> Vec<Vec<u8>> {
    (0..4u64)
        .map(|layer| {
            let mut entries = Vec::new();
            let random = noise(layer + 7, 8 << 20);
            let text: Vec<u8> = b"the quick brown fox ".iter().copied().cycle().take(8 << 20).collect();
            let each = megabytes / 8;
            for n in 0..each * 128 {
                let source = if n % 2 == 0 { &random } else { &text };
                let from = n * 977 % (7 << 20);
                entries.push(file(format!("small{layer}/{}/{n}", n / 200), &source[from..from + 8192]));
            }
            for n in 0..each / 8 {
                entries.push(file(format!("large{layer}/{n}"), if n % 2 == 0 { &random } else { &text }));
            }
            tar(&entries)
        })
        .collect()
}

async fn loading(megabytes: usize) {
    let layers = big(megabytes);
    let total: usize = layers.iter().map(Vec::len).sum();
    let mb = total as f64 / 1e6;
    let raw = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let mut out = std::fs::File::create(raw.path().join("raw")).unwrap();
    for layer in &layers {
        for chunk in layer.chunks(256 << 10) {
            out.write_all(chunk).unwrap();
        }
    }
    let written = start.elapsed();
    rustix::fs::syncfs(&out).unwrap();
    let synced = start.elapsed();
    drop((out, raw));
    println!(
        "bare disk, {mb:.0} MB: {:.0} MB/s to the cache, {:.0} MB/s to the disk",
        mb / written.as_secs_f64(),
        mb / synced.as_secs_f64()
    );
    for layer in layers.iter().take(1) {
        let home = Home::new(false);
        let start = Instant::now();
        ::tar::Archive::new(layer.as_slice()).unpack(home.dir.path()).unwrap();
        println!(
            "{:<40} {:.0} MB/s",
            "one layer by the crate tar",
            layer.len() as f64 / 1e6 / start.elapsed().as_secs_f64()
        );
    }
    let gzip = |data: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(data).unwrap();
        out.finish().unwrap()
    };
    let image = packed(layers, vec!["big:1"]);
    let media = "application/vnd.oci.image.layer.v1.tar";
    let plain = docker_archive(std::slice::from_ref(&image));
    let zipped = oci_archive(&image, &format!("{media}+gzip"), gzip);
    let zst = oci_archive(&image, &format!("{media}+zstd"), |d| zstd::encode_all(d, 1).unwrap());
    for (name, archive, durable) in [
        ("plain", &plain, false),
        ("plain, flushed", &plain, true),
        ("gzip", &zipped, false),
        ("zstd", &zst, false),
    ] {
        let home = Home::new(false);
        let mut settings = home.settings(home.dir.path());
        settings.durable = durable;
        let images = wharf_images::Images::open(settings).await.unwrap();
        let archive = archive.clone();
        let start = Instant::now();
        load(&images, archive).await.unwrap();
        let took = start.elapsed();
        println!("load, {name:<34} {:.0} MB/s ({took:.1?})", mb / took.as_secs_f64());
    }
    let home = Home::new(true);
    let images = home.open().await;
    let start = Instant::now();
    load(&images, plain.clone()).await.unwrap();
    println!("load, plain, copying driver {:>19.0} MB/s", mb / start.elapsed().as_secs_f64());
    let home = Home::new(false);
    let images = home.open().await;
    load(&images, plain).await.unwrap();
    let start = Instant::now();
    let mut stream = images.save(&["big:1".to_owned()], &wharf_images::SaveOptions::default()).unwrap();
    let n = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
    println!("save {:>42.0} MB/s", n as f64 / 1e6 / start.elapsed().as_secs_f64());
}

#[tokio::main]
async fn main() {
    let megabytes = std::env::args().nth(1).map_or(500, |a| a.parse().unwrap());
    containers().await;
    start_up().await;
    loading(megabytes).await;
}
