//! Whether what is on the disk is what the images need, no more and no less.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{Daemon, image};

/// The chain ids, without `sha256:`, of all layers of all images that the daemon lists, of each platform that is here.
pub fn layers(d: &Daemon) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for listed in d.api("GET", "/v1.55/images/json?all=1&manifests=1", "").json().as_array().expect("a list")
    {
        let id = listed["Id"].as_str().expect("an id");
        let name = listed["RepoTags"].get(0).or(listed["RepoDigests"].get(0)).and_then(Value::as_str);
        for manifest in listed["Manifests"].as_array().expect("manifests") {
            if manifest["Kind"] != "image" || manifest["Available"] != true {
                continue;
            }
            let platform = manifest["ImageData"]["Platform"].to_string();
            let platform = crate::http::encoded(&platform);
            let path = format!("/v1.55/images/{}/json?platform={platform}", name.unwrap_or(id));
            let inspected = d.api("GET", &path, "");
            assert_eq!(inspected.status, 200, "{id} is listed: {}", inspected.text());
            let mut chain = String::new();
            for diff_id in inspected.json()["RootFS"]["Layers"].as_array().into_iter().flatten() {
                let diff_id = diff_id.as_str().expect("a diff id");
                chain = if chain.is_empty() {
                    diff_id.to_owned()
                } else {
                    format!("sha256:{}", image::sha256(format!("{chain} {diff_id}").as_bytes()))
                };
                all.insert(chain.trim_start_matches("sha256:").to_owned());
            }
        }
    }
    all
}

/// How many attestations the daemon says are here.
fn statements(d: &Daemon) -> usize {
    let list = d.api("GET", "/v1.55/images/json?all=1&manifests=1", "").json();
    let manifests = list.as_array().into_iter().flatten().filter_map(|i| i["Manifests"].as_array().cloned());
    manifests.flatten().filter(|m| m["Kind"] == "attestation" && m["Available"] == true).count()
}

/// The driver's name for the directory of a snapshot.
fn directory(id: &str) -> &str {
    id.get(..32).unwrap_or(id)
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name != ".trash")
        .collect()
}

/// Bytes of the regular files beneath a directory.
fn bytes(dir: &Path) -> u64 {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |m| m.len()),
            _ => 0,
        })
        .sum()
}

/// What is wrong between the images and the disk; empty is good. Only for a quiet daemon with the driver `overlay2`.
pub fn look(d: &Daemon) -> Vec<String> {
    let mut problems = Vec::new();
    let layers = layers(d);
    let containers: BTreeSet<String> =
        d.docker(&["ps", "-aq", "--no-trunc"]).ok().lines().map(str::to_owned).collect();
    let storage = d.path("data/storage/wharf/storage-overlay");
    let wanted: BTreeSet<String> = layers.union(&containers).map(|id| directory(id).to_owned()).collect();
    for (what, dir, wanted) in [
        ("snapshot", storage.clone(), &wanted),
        ("recipe", d.path("data/content/recipes"), &layers),
        ("unfinished file", d.path("data/content/ingest"), &BTreeSet::new()),
    ] {
        let there = names(&dir);
        problems.extend(there.difference(wanted).map(|name| format!("{what} that nothing needs: {name}")));
        problems.extend(wanted.difference(&there).map(|name| format!("{what} that is not there: {name}")));
    }
    // Blobs of statements about images: each has its own name, and without a statement there is none.
    let blobs = d.path("data/content/blobs");
    for name in names(&blobs) {
        if image::sha256(&fs::read(blobs.join(&name)).unwrap_or_default()) != name {
            problems.push(format!("blob that is not what its name says: {name}"));
        }
    }
    if (statements(d) == 0) != names(&blobs).is_empty() {
        problems.push(format!("{} statements, and blobs {:?}", statements(d), names(&blobs)));
    }
    let trash = names(&storage.join(".trash"));
    problems.extend(trash.into_iter().map(|name| format!("in the trash: {name}")));
    let stated = d.api("GET", "/system/df?type=image", "").json();
    let stated = ["/LayersSize", "/ImageUsage/TotalSize", "/ImagesDiskUsage/TotalSize"]
        .into_iter()
        .find_map(|place| stated.pointer(place).and_then(Value::as_u64));
    let found: u64 = layers.iter().map(|layer| bytes(&storage.join(directory(layer)))).sum();
    if stated != Some(found) {
        problems.push(format!("the layers are said to have {stated:?} bytes and have {found}"));
    }
    problems
}

/// Waits until nothing is wrong: what is thrown away goes in the background.
#[track_caller]
pub fn whole(d: &Daemon, when: &str) {
    let end = std::time::Instant::now() + crate::PATIENCE;
    loop {
        let problems = look(d);
        if problems.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < end, "{when}: {problems:#?}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
