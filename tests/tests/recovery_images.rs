//! The daemon dies with -9 while images come and go; afterwards every image that is listed is whole, and the disk holds what
//! the images need, no more and no less.

use std::process::{Child, Stdio};

use wharf_tests::platforms::layout;
use wharf_tests::serve::Serve;
use wharf_tests::{Daemon, eventually, fsck, image};

/// A cheap, seeded generator: a failure can be repeated with the printed seed.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Every platform that is said to be here of what is listed under a name runs, and is that platform.
#[track_caller]
fn all_platforms_run(d: &Daemon, when: &str) {
    let list = d.api("GET", "/v1.55/images/json?manifests=1", "").json();
    for image in list.as_array().unwrap() {
        let Some(name) = image["RepoTags"].get(0).and_then(serde_json::Value::as_str) else { continue };
        for manifest in image["Manifests"].as_array().unwrap() {
            if manifest["Available"] != true || !name.contains("multi") {
                continue;
            }
            if manifest["Kind"] == "attestation" {
                continue;
            }
            let of = &manifest["ImageData"]["Platform"];
            let platform = format!("{}/{}", of["os"].as_str().unwrap(), of["architecture"].as_str().unwrap());
            let ran = d.docker(&["run", "--rm", "--network", "none", "--platform", &platform, name]);
            assert!(
                ran.code == 0 && ran.out.starts_with(&platform),
                "{when}: {platform} of {name}: {}{}",
                ran.out,
                ran.err
            );
        }
    }
}

/// Every image that is listed runs, and its files are those that were put into it.
#[track_caller]
fn all_run(d: &Daemon, when: &str) -> usize {
    all_platforms_run(d, when);
    let ids = d.docker(&["images", "-aq", "--no-trunc"]).ok();
    let mut ids: Vec<&str> = ids.lines().collect();
    ids.sort_unstable();
    ids.dedup();
    for id in &ids {
        let check = "cd / && { [ ! -e sums ] || sha256sum -s -c sums; }";
        let ran = d.docker(&["run", "--rm", "--network", "none", id, "/bin/sh", "-c", check]);
        assert_eq!(ran.code, 0, "{when}: {id} is listed and does not run: {}{}", ran.out, ran.err);
    }
    ids.len()
}

#[test]
fn killed_at_random_points_images_are_whole_or_gone() {
    let mut d = Daemon::start();
    let seed: u64 = std::env::var("WHARF_TEST_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| std::process::id().into());
    eprintln!("seed {seed} (WHARF_TEST_SEED repeats it)");
    let mut random = Random(seed);
    let _registry = Serve::start(&d, 5000, &["a", "b"]);
    let save = |d: &Daemon, name: &str| {
        let archive =
            image::docker_archive(&format!("{name}:1"), &[image::busybox_tar(), image::own_layer(name)]);
        image::save(&d.path(&format!("{name}.tar")), &archive)
    };
    let (c, e) = (save(&d, "c"), save(&d, "e"));
    let platforms = ["linux/amd64", "linux/s390x", "linux/arm64"];
    let multi = image::save(&d.path("multi.tar"), &layout("multi:1", &platforms, true).archive);
    let root = image::save(&d.path("root.tar"), &image::busybox_tar());
    d.import_busybox();
    d.docker(&["run", "-d", "--name", "source", "--network", "none", "busybox", "sleep", "3600"]).ok();
    d.docker(&["exec", "source", "sh", "-c", "seq 1 200000 >/written"]).ok();
    let lines: [&[&str]; 14] = [
        &["pull", "-q", "127.0.0.1:5000/a:1"],
        &["pull", "-q", "127.0.0.1:5000/b:1"],
        &["load", "-q", "-i", &c],
        &["load", "-q", "-i", &e],
        &["load", "-q", "-i", &multi],
        &["load", "-q", "--platform", "linux/s390x", "-i", &multi],
        &["tag", "multi:1", "multi-too:1"],
        &["import", &root, "imported:1"],
        &["commit", "-p=false", "source", "committed:1"],
        &["rmi", "-f", "127.0.0.1:5000/a:1", "c:1", "imported:1"],
        &["rmi", "-f", "127.0.0.1:5000/b:1", "e:1", "committed:1"],
        &["image", "rm", "-f", "--platform", "linux/arm64", "multi:1"],
        &["rmi", "-f", "multi:1", "multi-too:1"],
        &["image", "prune", "-f"],
    ];
    let mut listed = 0;
    for round in 0..12 {
        let mut clients: Vec<Child> = Vec::new();
        // In another order every time; some lines are left out.
        let from = usize::try_from(random.below(14)).unwrap();
        for n in 0..14 {
            if random.below(4) == 0 {
                continue;
            }
            let mut command = d.docker_command(lines[(from + n) % 14]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            clients.push(command.spawn().unwrap());
            std::thread::sleep(std::time::Duration::from_millis(random.below(40)));
        }
        // As soon as so many are done, whatever the machine's speed, and then some moment.
        let enough = usize::try_from(random.below(12)).unwrap().min(clients.len().saturating_sub(1));
        eventually("some of the clients to end", || {
            let done = clients.iter_mut().filter_map(|c| c.try_wait().unwrap()).count();
            (done >= enough).then_some(())
        });
        std::thread::sleep(std::time::Duration::from_millis(random.below(150)));
        d.crash();
        for mut client in clients {
            eventually("the client to notice", || client.try_wait().unwrap());
        }
        d.restart();
        let when = format!("seed {seed}, round {round}");
        fsck::whole(&d, &when);
        listed += all_run(&d, &when);
    }
    // The container's own image is there in each round.
    assert!(listed > 16, "the kills came too early: {listed} images in 12 rounds");
    d.docker(&["rm", "-f", "source"]).ok();
    d.docker(&["image", "prune", "-af"]).ok();
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
    fsck::whole(&d, "at the end");
}
