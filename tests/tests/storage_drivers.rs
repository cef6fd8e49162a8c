//! Every bundled storage driver through the stock docker CLI, on a file system that suits it: images in and out, containers
//! that change them, what they changed, and an empty store in the end.

use std::path::Path;

use wharf_tests::{Daemon, Options, bin_dir, image};

/// A daemon with this driver, its data root on a file system of its own.
fn start(driver: &str, env: &[(&str, &str)]) -> Daemon {
    let mkfs = match driver {
        "btrfs" => ["mkfs.btrfs", "-q"].as_slice(),
        _ => &["mkfs.ext4", "-q"],
    };
    Daemon::with(Options {
        args: vec!["--storage-driver".into(), driver.into()],
        data_mkfs: mkfs.iter().map(|word| (*word).to_owned()).collect(),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Options::default()
    })
}

/// What `docker info` shows beside the driver's name.
fn status(driver: &str) -> &'static [&'static str] {
    match driver {
        "overlay2" => &["Backing Filesystem: extfs", "Supports d_type: true", "Native Overlay Diff: true"],
        "erofs" => &["Backing Filesystem: extfs", "Layers: EROFS images", "Native Overlay Diff: true"],
        "btrfs" => &["Btrfs:"],
        _ => &[],
    }
}

fn life(driver: &str, env: &[(&str, &str)]) {
    let mut d = start(driver, env);
    let info = d.docker(&["info"]).ok();
    assert!(info.contains(&format!("Storage Driver: {driver}\n")), "{info}");
    for line in status(driver) {
        assert!(info.contains(line), "{line} in {info}");
    }

    d.import_busybox();
    assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "imported"]).ok(), "imported");
    // Layers of one's own over busybox: what a layer takes away stays away.
    let mut above = Vec::new();
    image::entry(&mut above, "hello.txt", b'0', 0o644, "", b"hello from above");
    image::entry(&mut above, "etc/.wh.group", b'0', 0o644, "", b"");
    image::finish(&mut above);
    let archive = image::docker_archive("loaded:1", &[image::busybox_tar(), image::own_layer("own"), above]);
    let path = image::save(&d.path("image.tar"), &archive);
    assert!(d.docker(&["load", "-i", &path]).ok().contains("Loaded image: loaded:1"));
    assert_eq!(d.docker(&["run", "--rm", "loaded:1"]).ok(), "hello from above");
    d.docker(&["run", "--rm", "loaded:1", "cat", "/etc/group"]).fails(1, "No such file");
    d.docker(&["run", "--rm", "loaded:1", "sha256sum", "-c", "-s", "/sums"]).ok();

    // A container changes files, and the changes are told.
    let script = "echo changed > /hello.txt && rm /sums && mkdir /made && echo new > /made/file && chmod 700 /home && ln /made/file /made/link";
    d.docker(&["run", "--name", "changing", "loaded:1", "sh", "-c", script]).ok();
    let diff = d.docker(&["diff", "changing"]).ok();
    let mut lines: Vec<&str> = diff.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A /made", "A /made/file", "A /made/link", "C /hello.txt", "C /home", "D /sums"]);
    let graph = d.docker(&["inspect", "-f", "{{.GraphDriver.Name}}", "changing"]).ok();
    assert_eq!(graph, driver);

    // Files go in and out, also while it is stopped.
    let input = image::save(&d.path("in.txt"), b"copied in");
    d.docker(&["cp", &input, "changing:/made/in.txt"]).ok();
    let output = d.path("out.txt");
    d.docker(&["cp", "changing:/made/in.txt", output.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(&output).unwrap(), b"copied in");

    // A new image of it has all of that and nothing else.
    d.docker(&["commit", "changing", "committed:1"]).ok();
    let look = "cat /hello.txt /made/in.txt; ls / | grep -c sums; stat -c %h /made/link; stat -c %a /home";
    let seen = d.docker(&["run", "--rm", "committed:1", "sh", "-c", look]).ok();
    assert_eq!(seen, "changed\ncopied in0\n2\n700");
    let layers = d.docker(&["inspect", "-f", "{{len .RootFS.Layers}}", "committed:1"]).ok();
    assert_eq!(layers, "4");

    // The store outlives the daemon.
    d.crash();
    d.restart();
    d.docker(&["start", "-a", "changing"]).fails(1, "rm: can't remove '/sums'");
    assert_eq!(d.docker(&["run", "--rm", "committed:1", "cat", "/hello.txt"]).ok(), "changed");

    // What was saved is an image again after all others are gone.
    let saved = d.path("saved.tar");
    d.docker(&["save", "-o", saved.to_str().unwrap(), "committed:1"]).ok();
    d.docker(&["rm", "changing"]).ok();
    for name in ["committed:1", "loaded:1", "busybox"] {
        d.docker(&["rmi", name]).ok();
    }
    d.docker(&["load", "-i", saved.to_str().unwrap()]).ok();
    assert_eq!(d.docker(&["run", "--rm", "committed:1", "cat", "/made/file"]).ok(), "new");
    d.docker(&["rmi", "committed:1"]).ok();
    assert_eq!(d.docker(&["images", "-q", "-a"]).ok(), "");
    d.stop();
    assert_eq!(left(&d.path("data/storage/wharf").join(plugin(driver))), Vec::<String>::new());
    d.restart();
}

fn plugin(driver: &str) -> String {
    format!("storage-{}", driver.trim_end_matches('2'))
}

/// Names in a driver's directory and in that of its images, but for the trash, which is emptied in the background.
fn left(dir: &Path) -> Vec<String> {
    let names = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten();
    let all = names(dir).chain(names(&dir.join(".images")));
    let all = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    all.filter(|name| name != ".trash" && name != ".images").collect()
}

#[test]
fn overlay2() {
    life("overlay2", &[]);
}

#[test]
fn vfs() {
    life("vfs", &[]);
}

#[test]
fn btrfs() {
    life("btrfs", &[]);
}

#[test]
fn erofs() {
    life("erofs", &[]);
}

/// As on kernels that mount no images out of files.
#[test]
fn erofs_by_loop_devices() {
    life("erofs", &[("WHARF_EROFS_LOOP", "1")]);
}

#[test]
fn a_size_is_kept_or_refused_as_docker_does() {
    let d = start("btrfs", &[]);
    d.import_busybox();
    let fill = "dd if=/dev/urandom of=/big bs=1M count=64 conv=fsync";
    let run = |size: &str| d.docker(&["run", "--rm", "--storage-opt", size, "busybox", "sh", "-c", fill]);
    run("size=32m").fails(1, "Disk quota exceeded");
    run("size=256m").ok();
    d.docker(&["run", "--rm", "--storage-opt", "size=much", "busybox", "true"])
        .fails(125, "invalid size: 'much'");
    d.docker(&["run", "--rm", "--storage-opt", "color=red", "busybox", "true"])
        .fails(125, "Unknown option color");
    for (driver, text) in [
        ("overlay2", "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"),
        ("vfs", "Filesystem does not support, or has not enabled quotas"),
    ] {
        let d = start(driver, &[]);
        d.import_busybox();
        d.docker(&["run", "--rm", "--storage-opt", "size=1g", "busybox", "true"]).fails(125, text);
        assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
    }
}

/// A container of btrfs may make subvolumes of its own, even read-only ones; they go with it.
#[test]
fn subvolumes_inside_go_with_the_container() {
    let mut d = start("btrfs", &[]);
    d.import_busybox();
    d.docker(&["create", "--name", "nesting", "busybox", "true"]).ok();
    let home = d.path("data/storage/wharf/storage-btrfs");
    let id = d.docker(&["inspect", "-f", "{{.Id}}", "nesting"]).ok();
    let root = home.join(&id[..32]);
    for (command, path) in [("create", "outer"), ("create", "outer/inner")] {
        let made =
            std::process::Command::new("btrfs").args(["subvolume", command]).arg(root.join(path)).output();
        assert!(made.unwrap().status.success());
    }
    let set = ["property", "set", "-ts"];
    let made =
        std::process::Command::new("btrfs").args(set).arg(root.join("outer")).args(["ro", "true"]).output();
    assert!(made.unwrap().status.success());
    d.docker(&["rm", "nesting"]).ok();
    d.docker(&["rmi", "busybox"]).ok();
    d.stop();
    assert_eq!(left(&home), Vec::<String>::new());
    let list =
        std::process::Command::new("btrfs").args(["subvolume", "list"]).arg(d.path("data")).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    d.restart();
    assert!(!list.contains("outer"), "{list}");
}

#[test]
fn a_driver_that_does_not_fit_says_why() {
    let dir = tempfile::Builder::new().prefix("wharf-test-").tempdir_in("/var/tmp").unwrap();
    for (driver, text) in [
        ("btrfs", "prerequisites for driver not satisfied (wrong filesystem?)"),
        ("no-such-driver", "no-such-driver"),
    ] {
        let mut command = std::process::Command::new(bin_dir().join("wharf"));
        command.args(["daemon", "--storage-driver", driver, "--host"]);
        command.arg(format!("unix://{}", dir.path().join("wharf.sock").display()));
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "wharf.pid")] {
            command.arg(flag).arg(dir.path().join(name));
        }
        let ended = command.output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(!ended.status.success() && said.contains(text), "{driver}: {said}");
    }
}
