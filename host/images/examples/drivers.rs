//! What the bundled storage drivers cost, side by side: taking in a layer of many small files, and a container's file
//! system made, mounted and removed.
//!
//! `cargo xtask build --profile release`, then `WHARF_BIN_DIR=target/release cargo run --release -p wharf-images --example
//! drivers [FILES]`, as root.
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

use std::path::Path;
use std::time::{Duration, Instant};

use common::component::{Disk, open};
use common::*;
use wharf_images::RemoveOptions;
use wharf_images::snapshots::SnapshotOptions;

/// User and system time of this process, its children aside.
fn cpu() -> (Duration, Duration) {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |n: usize| Duration::from_millis(10 * fields[n].parse::<u64>().unwrap());
    (ticks(11), ticks(12))
}

struct Cost {
    wall: Duration,
    user: Duration,
    system: Duration,
}

fn since(start: Instant, before: (Duration, Duration)) -> Cost {
    let now = cpu();
    Cost {
        wall: start.elapsed(),
        user: now.0.checked_sub(before.0).unwrap(),
        system: now.1.checked_sub(before.1).unwrap(),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn layer(files: usize, round: usize) -> Vec<u8> {
    let mut entries = Vec::new();
    for n in 0..files {
        if n % 100 == 0 {
            entries.push(directory(format!("dir-{}", n / 100)));
        }
        let content: Vec<u8> = (0..(n * 37) % 6000).map(|at| (at + n + round).to_le_bytes()[0]).collect();
        entries.push(file(format!("dir-{}/file-{n}", n / 100), content));
    }
    tar(&entries)
}

fn main() {
    let files: usize = std::env::args().nth(1).map_or(10_000, |n| n.parse().unwrap());
    let disk = Disk::new(&["mkfs.btrfs", "-q"], "");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let drivers = ["overlay2", "erofs", "vfs", "btrfs"];
        let mut homes = Vec::new();
        for driver in drivers {
            let home =
                if driver == "btrfs" { Home::within(&disk.path()) } else { Home::within(Path::new("/var/tmp")) };
            let images = open(&home, driver).await.unwrap();
            homes.push((driver, home, images));
        }
        println!("a layer of {files} files, one driver after the other, 5 rounds (medians)");
        let mut costs: Vec<Vec<Cost>> = drivers.map(|_| Vec::new()).into();
        for round in 0..5 {
            let archive = layer(files, round);
            for (index, (_, _, images)) in homes.iter().enumerate() {
                let (start, before) = (Instant::now(), cpu());
                import(images, &format!("many-{round}"), archive.clone()).await.unwrap();
                costs[index].push(since(start, before));
            }
        }
        let base = median(costs[0].iter().map(|c| c.user + c.system).collect());
        for (index, driver) in drivers.iter().enumerate() {
            let of = |get: fn(&Cost) -> Duration| median(costs[index].iter().map(get).collect());
            let both = of(|c| c.user + c.system);
            println!(
                "{driver:<10} wall {:>8.1?}  user {:>8.1?}  system {:>8.1?}  CPU beside overlay2 {:.2}",
                of(|c| c.wall),
                of(|c| c.user),
                of(|c| c.system),
                both.as_secs_f64() / base.as_secs_f64(),
            );
        }
        println!("a container of it: prepare, mount, remove; 100 rounds (medians)");
        let rounds = 100;
        for (driver, _, images) in &homes {
            // A full copy of so many files takes as long as it takes.
            let rounds = if *driver == "vfs" { 5 } else { rounds };
            let image = images.resolve("many-0").unwrap();
            let snapshots = images.snapshots();
            let (mut prepare, mut mount, mut remove) = (vec![], vec![], vec![]);
            let before = cpu();
            for n in 0..rounds {
                let id = format!("{n:064x}");
                let start = Instant::now();
                snapshots.prepare(&id, &image, SnapshotOptions::default()).await.unwrap();
                prepare.push(start.elapsed());
                let start = Instant::now();
                drop(snapshots.mount(&id).await.unwrap());
                mount.push(start.elapsed());
                let start = Instant::now();
                snapshots.remove(&id, wharf_store::Transaction::new()).await.unwrap().await;
                remove.push(start.elapsed());
            }
            wharf_kernel::files::drain();
            let after = cpu();
            let each = ((after.0 + after.1).checked_sub(before.0 + before.1).unwrap()) / rounds;
            println!(
                "{driver:<10} prepare {:>8.1?}  mount {:>8.1?}  remove {:>8.1?}  CPU of all three {each:>8.1?}",
                median(prepare),
                median(mount),
                median(remove),
            );
        }
        for (_, _, images) in &homes {
            for image in images.list() {
                images.remove(&image.id, RemoveOptions { force: true, ..RemoveOptions::default() }).await.unwrap();
            }
        }
        wharf_kernel::files::drain();
    });
}
