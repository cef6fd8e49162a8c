//! The disk is full: a clear error, the space given back, the daemon well, and all usable once there is room again.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde_json::json;
use wharf_tests::server::{Body, Reply, Server};
use wharf_tests::{Daemon, Options, eventually, fsck, image};

const MIB: u64 = 1 << 20;
/// Room for the daemon, a small image, and not much more.
const SIZE: u64 = 160 * MIB;

fn daemon() -> Daemon {
    let config = json!({"max-download-attempts": 1, "registry-stall-timeout": 5}).to_string();
    let d = Daemon::with(Options { data_size: Some(SIZE), config: Some(config), ..Options::default() });
    d.import_busybox();
    d
}

/// Free bytes of the data root's file system.
fn free(d: &Daemon) -> u64 {
    let stat = nix::sys::statvfs::statvfs(&d.path("data")).unwrap();
    stat.blocks_available() * stat.fragment_size()
}

/// The space is given back, but for what a log or the database may have grown by.
#[track_caller]
fn given_back(d: &Daemon, before: u64, what: &str) {
    eventually(&format!("the space of {what}"), || (free(d) + 2 * MIB > before).then_some(()));
    fsck::whole(d, what);
    d.docker(&["run", "--rm", "--network", "none", "busybox", "true"]).ok();
}

/// A tar of one file that is larger than the disk, as a file beside it. Not of zeros, of which an unpacker keeps nothing.
fn huge(d: &Daemon) -> PathBuf {
    let path = d.path("huge.tar");
    let mut tar = Vec::new();
    image::entry(&mut tar, "huge", b'0', 0o644, "", b"");
    let size = free(d) + 24 * MIB;
    tar[124..136].copy_from_slice(format!("{size:011o} ").as_bytes());
    tar[148..156].copy_from_slice(b"        ");
    let sum: u32 = tar[..512].iter().map(|b| u32::from(*b)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&tar).unwrap();
    std::io::copy(&mut std::io::repeat(b'x').take(size), &mut file).unwrap();
    file.write_all(&[0; 1024]).unwrap();
    path
}

#[test]
fn imports_loads_and_pulls_that_do_not_fit_leave_nothing() {
    let d = daemon();
    let before = free(&d);
    let tar = huge(&d);
    let said = "no space left on device";
    let ran = d.docker(&["import", tar.to_str().unwrap(), "huge:1"]);
    assert!(ran.code == 1 && ran.err.to_lowercase().contains(said), "{ran:?}");
    given_back(&d, before, "an import");
    // An archive around it, by a program that makes no copy of it in memory.
    std::fs::create_dir(d.path("archive")).unwrap();
    std::fs::rename(&tar, d.path("archive/layer.tar")).unwrap();
    let config = json!({"os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))]}});
    std::fs::write(d.path("archive/config.json"), config.to_string()).unwrap();
    let table = json!([{"Config": "config.json", "RepoTags": ["huge:1"], "Layers": ["layer.tar"]}]);
    std::fs::write(d.path("archive/manifest.json"), table.to_string()).unwrap();
    let mut pack = std::process::Command::new("tar");
    pack.arg("-C").arg(d.path("archive")).arg("-cf").arg(d.path("archive.tar")).args([
        "config.json",
        "layer.tar",
        "manifest.json",
    ]);
    assert!(pack.status().unwrap().success());
    let ran = d.docker(&["load", "-q", "-i", d.path("archive.tar").to_str().unwrap()]);
    assert!(ran.code == 1 && ran.err.to_lowercase().contains(said), "{ran:?}");
    given_back(&d, before, "a load");
    // A registry with a layer that has no end.
    let start = std::fs::read(d.path("archive/layer.tar")).map(|all| all[..512].to_vec()).unwrap();
    let piece = [start, vec![b'x'; 1 << 20]].concat();
    let config = json!({"os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "1".repeat(64))]}})
    .to_string();
    let config_digest = format!("sha256:{}", image::sha256(config.as_bytes()));
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": config.len(), "digest": config_digest},
        "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": 3 * SIZE,
            "digest": format!("sha256:{}", "1".repeat(64))}]})
    .to_string();
    let server = Server::start(&d, 5000, move |request| {
        if request.path.contains("/manifests/") {
            return Reply::new(200, manifest.clone())
                .with("Content-Type", "application/vnd.docker.distribution.manifest.v2+json");
        }
        if request.path.ends_with(&config_digest) {
            return Reply::new(200, config.clone());
        }
        if request.path.contains("/blobs/") {
            return Reply::new(200, "").body(Body::Endless(3 * SIZE, piece.clone()));
        }
        Reply::new(200, "{}")
    });
    let ran = d.docker(&["pull", &format!("{}/huge:1", server.address)]);
    assert!(ran.code == 1 && format!("{}{}", ran.out, ran.err).to_lowercase().contains(said), "{ran:?}");
    given_back(&d, before, "a pull");
}

#[test]
fn a_container_that_fills_the_disk_can_be_removed_and_not_committed() {
    let d = daemon();
    let before = free(&d);
    d.docker(&["run", "-d", "--name", "full", "--network", "none", "busybox", "sleep", "3600"]).ok();
    // More than half: a second copy does not fit.
    let most = (before / MIB) * 6 / 10;
    d.docker(&["exec", "full", "dd", "if=/dev/urandom", "of=/most", "bs=1M", &format!("count={most}")]).ok();
    let left = free(&d);
    let ran = d.docker(&["commit", "-p=false", "full", "committed:1"]);
    assert!(ran.code == 1 && ran.err.to_lowercase().contains("no space left on device"), "{ran:?}");
    eventually("the space of a commit", || (free(&d) + 2 * MIB > left).then_some(()));
    let written = d.docker(&["exec", "full", "dd", "if=/dev/zero", "of=/rest", "bs=64k"]);
    assert!(written.code != 0 && written.err.contains("No space left on device"), "{written:?}");
    // Lists and inspects need no space.
    assert_eq!(d.docker(&["ps", "-q"]).ok().lines().count(), 1);
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", "full"]).ok(), "running");
    d.docker(&["exec", "full", "rm", "/rest", "/most"]).ok();
    d.docker(&["rm", "-f", "full"]).ok();
    given_back(&d, before, "a container");
}

#[test]
fn a_database_without_space_is_an_error_and_not_the_end() {
    let mut d = daemon();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "ends",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "while [ ! -e /go ]; do sleep 0.1; done; exit 5",
    ])
    .ok();
    d.docker(&["run", "-d", "--name", "stays", "--network", "none", "busybox", "sleep", "3600"]).ok();
    let before = free(&d);
    let pid: i32 = d.docker(&["inspect", "-f", "{{.State.Pid}}", "ends"]).ok().parse().unwrap();
    // Room for one file of the container, taken away last.
    std::fs::write(format!("/proc/{pid}/root/g"), "").unwrap();
    let filler = d.path("data/filler");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&filler)
        .unwrap();
    for piece in [1 << 20, 4096] {
        while file.write_all(&vec![b'x'; piece]).is_ok() {}
    }
    drop(file);
    assert_eq!(free(&d), 0);
    let daemon = d.pid();
    // What needs a record fails and says why; the rest works.
    for line in [
        &["create", "--name", "new", "--network", "none", "busybox", "true"][..],
        &["tag", "busybox", "other:1"],
        &["volume", "create", "vv"],
    ] {
        let ran = d.docker(line);
        let text = ran.err.to_lowercase();
        assert!(
            ran.code != 0 && (text.contains("no space left") || text.contains("disk is full")),
            "{ran:?}"
        );
    }
    for line in [
        &["ps", "-a"][..],
        &["images"],
        &["inspect", "stays"],
        &["logs", "stays"],
        &["version"],
        &["info"],
        &["system", "df"],
    ] {
        d.docker(line).ok();
    }
    std::fs::rename(format!("/proc/{pid}/root/g"), format!("/proc/{pid}/root/go")).unwrap();
    assert_eq!(d.docker(&["wait", "ends"]).ok(), "5");
    assert_eq!(d.pid(), daemon);
    assert_eq!(d.api("GET", "/_ping", "").status, 200, "the daemon is there");
    // It dies and comes back with the disk still full.
    d.crash();
    d.restart();
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", "stays"]).ok(), "running");
    std::fs::remove_file(&filler).unwrap();
    let state = ["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "ends"];
    eventually("the exit to be recorded", || (d.docker(&state).ok() == "exited 5").then_some(()));
    d.crash();
    d.restart();
    assert_eq!(d.docker(&state).ok(), "exited 5");
    d.docker(&["create", "--name", "new", "--network", "none", "busybox", "true"]).ok();
    d.docker(&["start", "-a", "new"]).ok();
    d.docker(&["rm", "-f", "new", "ends", "stays"]).ok();
    given_back(&d, before, "everything");
}
