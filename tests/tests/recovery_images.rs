//! The daemon dies with -9 while images come and go; afterwards every image that is listed is whole, and the disk holds what
//! the images need, no more and no less.

use std::process::{Child, Stdio};

use wharf_tests::registry::connect;
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

/// A registry that is no part of the daemon, with these images in it.
struct Serve(Child);

impl Serve {
    fn start(d: &Daemon, names: &[&str]) -> Self {
        let child = d
            .in_namespace(wharf_tests::bin_dir().join("wharf"))
            .args(["registry", "serve", "--address", "127.0.0.1:5000", "--root"])
            .arg(d.path("registry"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let serve = Self(child);
        eventually("the registry's port", || connect(d, "127.0.0.1:5000".parse().unwrap()).ok());
        for name in names {
            let full = format!("127.0.0.1:5000/{name}:1");
            let archive = image::docker_archive(&full, &[image::busybox_tar(), image::own_layer(name)]);
            let path = image::save(&d.path("push.tar"), &archive);
            d.docker(&["load", "-q", "-i", &path]).ok();
            d.docker(&["push", "-q", &full]).ok();
            d.docker(&["rmi", &full]).ok();
        }
        serve
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Every image that is listed runs, and its files are those that were put into it.
#[track_caller]
fn all_run(d: &Daemon, when: &str) -> usize {
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

#[track_caller]
fn whole(d: &Daemon, when: &str) {
    let mut last = Vec::new();
    let end = std::time::Instant::now() + wharf_tests::PATIENCE;
    while std::time::Instant::now() < end {
        last = fsck::look(d);
        if last.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{when}: {last:#?}");
}

#[test]
fn killed_at_random_points_images_are_whole_or_gone() {
    let mut d = Daemon::start();
    let seed: u64 = std::env::var("WHARF_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| std::process::id().into());
    eprintln!("seed {seed} (WHARF_TEST_SEED repeats it)");
    let mut random = Random(seed);
    let _registry = Serve::start(&d, &["a", "b"]);
    let save = |d: &Daemon, name: &str| {
        let archive = image::docker_archive(&format!("{name}:1"), &[image::busybox_tar(), image::own_layer(name)]);
        image::save(&d.path(&format!("{name}.tar")), &archive)
    };
    let (c, e) = (save(&d, "c"), save(&d, "e"));
    let root = image::save(&d.path("root.tar"), &image::busybox_tar());
    d.import_busybox();
    d.docker(&["run", "-d", "--name", "source", "--network", "none", "busybox", "sleep", "3600"]).ok();
    d.docker(&["exec", "source", "sh", "-c", "seq 1 200000 >/written"]).ok();
    let lines: [&[&str]; 9] = [
        &["pull", "-q", "127.0.0.1:5000/a:1"],
        &["pull", "-q", "127.0.0.1:5000/b:1"],
        &["load", "-q", "-i", &c],
        &["load", "-q", "-i", &e],
        &["import", &root, "imported:1"],
        &["commit", "-p=false", "source", "committed:1"],
        &["rmi", "-f", "127.0.0.1:5000/a:1", "c:1", "imported:1"],
        &["rmi", "-f", "127.0.0.1:5000/b:1", "e:1", "committed:1"],
        &["image", "prune", "-f"],
    ];
    let mut listed = 0;
    for round in 0..12 {
        let mut clients: Vec<Child> = Vec::new();
        // In another order every time; some lines are left out.
        let from = usize::try_from(random.below(9)).unwrap();
        for n in 0..9 {
            if random.below(4) == 0 {
                continue;
            }
            let mut command = d.docker_command(lines[(from + n) % 9]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            clients.push(command.spawn().unwrap());
            std::thread::sleep(std::time::Duration::from_millis(random.below(40)));
        }
        std::thread::sleep(std::time::Duration::from_millis(random.below(700)));
        d.crash();
        for mut client in clients {
            eventually("the client to notice", || client.try_wait().unwrap());
        }
        d.restart();
        let when = format!("seed {seed}, round {round}");
        whole(&d, &when);
        listed += all_run(&d, &when);
    }
    // The container's own image is there in each round.
    assert!(listed > 16, "the kills came too early: {listed} images in 12 rounds");
    d.docker(&["rm", "-f", "source"]).ok();
    d.docker(&["image", "prune", "-af"]).ok();
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
    whole(&d, "at the end");
}
