//! `docker system df` says what the disk says, and prune gives all of it back.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::{Value, json};
use wharf_tests::platforms::{gzip, here, packed_layout, publish};
use wharf_tests::registry::{Registry, Setup, skopeo};
use wharf_tests::{Daemon, Options, bytes_beneath, eventually, fsck, image};

const HUB: &str = "127.0.0.1:5005";

/// Bytes that a tree takes on the disk, as `du` counts, and its entries.
fn du(path: &Path) -> (u64, u64) {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return (0, 0) };
    let own = (meta.blocks() * 512, 1);
    if !meta.is_dir() {
        return own;
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| du(&entry.path())).fold(own, |a, b| (a.0 + b.0, a.1 + b.1))
}

/// In the older shape and the newer one.
fn df(d: &Daemon) -> Value {
    let mut all = d.api("GET", "/v1.44/system/df", "").json();
    let newer = d.api("GET", "/v1.55/system/df", "").json();
    all.as_object_mut().unwrap().extend(newer.as_object().unwrap().clone());
    all
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

#[test]
fn what_is_shown_is_what_the_disk_says_and_prune_gives_it_back() {
    let config = json!({"registry-serve": {"address": "127.0.0.1:5000", "pull-through": true},
        "registry-mirrors": [format!("http://{HUB}")], "insecure-registries": [HUB]});
    let d = Daemon::with(Options { config: Some(config.to_string()), ..Options::default() });
    let hub = Registry::start(&d, 5005, Setup::default());
    let storage = d.path("data/storage");
    let registry = d.path("data/registry");
    let empty = du(&storage).0;
    assert_eq!(df(&d)["BuildCache"], json!([]));

    // Images that came in all the ways there are, some of them twice, and what is fetched for others.
    let made = packed_layout("made.example/tool:1", &["linux/s390x", here()], true, gzip);
    publish(&d, &hub, "library/tool:1", &made);
    d.docker(&["pull", "-q", "--platform", "all", "tool:1"]).ok();
    let plain = packed_layout("made.example/one:1", &[here()], false, gzip);
    publish(&d, &hub, "library/one:1", &plain);
    d.docker(&["pull", "-q", &format!("one@{}", plain.members[0].manifest)]).ok();
    d.docker(&["tag", &format!("one@{}", plain.members[0].manifest), "one:2"]).ok();
    let mut big = Vec::new();
    let noise: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    image::entry(&mut big, "big", b'0', 0o644, "", &noise);
    image::finish(&mut big);
    d.docker_with_input(&["load"], &image::docker_archive("big:1", &[image::busybox_tar(), big])).ok();
    let file = d.path("all.tar").display().to_string();
    d.docker(&["save", "-o", &file, "tool:1", "one:2", "big:1"]).ok();
    d.docker(&["rmi", "-f", "one:2"]).ok();
    d.docker(&["load", "-q", "-i", &file]).ok();
    let (source, to) = ("docker://127.0.0.1:5000/other/tool:1", "docker://127.0.0.1:5000/tool:1");
    let file = image::save(&d.path("made.tar"), &made.archive);
    let target = "docker://127.0.0.1:5000/other/tool:1";
    let args = ["copy", "--all", "--preserve-digests", "--dest-tls-verify=false"];
    skopeo(&d, &[&args[..], &[&format!("oci-archive:{file}"), target]].concat()).ok();
    let dir = |name: &str| format!("dir:{}", d.path(name).display());
    let args = ["copy", "--all", "--preserve-digests", "--src-tls-verify=false"];
    skopeo(&d, &[&args[..], &[source, &dir("pushed")]].concat()).ok();
    // From elsewhere, for others: all platforms of another name.
    publish(
        &d,
        &hub,
        "library/cached:1",
        &packed_layout("made.example/cached:1", &["linux/s390x", here()], false, gzip),
    );
    skopeo(&d, &[&args[..], &["docker://127.0.0.1:5000/cached:1", &dir("cached")]].concat()).ok();
    skopeo(&d, &[&args[..], &[to, &dir("tool")]].concat()).ok();
    d.docker(&[
        "run",
        "--name",
        "writer",
        "big:1",
        "sh",
        "-c",
        "head -c 1000000 /dev/zero | tr '\\0' x > /file",
    ])
    .ok();
    d.docker(&["volume", "create", "vol"]).ok();

    // Layers: each file to whole blocks, and the directories that make a snapshot.
    let (shown, (taken, entries)) = (df(&d), du(&storage));
    let said = number(&shown, "/LayersSize") + number(&shown, "/ContainerUsage/TotalSize");
    let slack = (taken - empty).saturating_sub(said);
    assert!(said <= taken, "{said} of {taken}: {shown}");
    assert!(slack <= entries * 8192, "{said} of {taken} in {entries} entries");
    // The registry's content, to the byte.
    let records = shown["BuildCache"].as_array().unwrap();
    let sum: u64 = records.iter().map(|r| number(r, "/Size")).sum();
    let content = bytes_beneath(&registry.join("blobs")) + bytes_beneath(&registry.join("uploads"));
    assert_eq!(sum, content, "{records:?}");
    assert_eq!(records.len(), 2, "{records:?}");
    assert_eq!(number(&shown, "/BuildCacheUsage/TotalSize"), sum);
    let cached = number(records.iter().find(|r| r["InUse"] == false).unwrap(), "/Size");
    assert_eq!(number(&shown, "/BuildCacheUsage/Reclaimable"), cached);
    let line = d.docker(&["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]).ok();
    assert!(line.contains("Build Cache 2 1"), "{line}");

    // What is young stays; then all that others had goes, and what was pushed stays.
    let young = d.docker(&["builder", "prune", "-f", "--filter", "until=24h"]).ok();
    assert!(young.contains("0B"), "{young}");
    let wrong = d.api("POST", "/v1.44/build/prune?filters=%7B%22until%22%3A%5B%22soon%22%5D%7D", "");
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    let pruned = d.api("POST", "/v1.44/build/prune", "").json();
    assert_eq!(number(&pruned, "/SpaceReclaimed"), content - bytes_beneath(&registry.join("blobs")));
    assert_eq!(number(&pruned, "/SpaceReclaimed"), cached);
    let left = df(&d)["BuildCache"].as_array().unwrap().clone();
    assert_eq!((left.len(), &left[0]["InUse"]), (1, &json!(true)), "{left:?}");
    skopeo(&d, &[&args[..], &[source, &dir("again")]].concat()).ok();

    // All of it.
    d.docker(&["system", "prune", "-a", "-f", "--volumes"]).ok();
    d.docker(&["volume", "prune", "-a", "-f"]).ok();
    let shown = df(&d);
    for pointer in ["/LayersSize", "/ContainerUsage/TotalSize", "/VolumeUsage/TotalSize"] {
        assert_eq!(number(&shown, pointer), 0, "{pointer}");
    }
    eventually("the registry to have nothing", || (df(&d)["BuildCache"] == json!([])).then_some(()));
    eventually("the disk to be as it was", || (du(&storage).0 <= empty + 65_536).then_some(()));
    assert_eq!(bytes_beneath(&registry.join("blobs")) + bytes_beneath(&d.path("data/content")), 0);
    fsck::whole(&d, "after all of it");
}
