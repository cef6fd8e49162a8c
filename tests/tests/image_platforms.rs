//! Images of several platforms: a name leads to an index, of which one, some or all platforms are here.

use serde_json::{Value, json};
use wharf_tests::platforms::{self, Layout, digest, here, layout, packed_layout, raw};
use wharf_tests::registry::{Registry, Setup, ask, skopeo};
use wharf_tests::{Daemon, Options, fsck, image};

const THREE: [&str; 3] = ["linux/s390x", "linux/amd64", "linux/arm64"];

/// A platform as the docker CLI writes it into a query.
fn query(platform: &str) -> String {
    let (os, architecture) = platform.split_once('/').unwrap();
    format!("%7B%22os%22%3A%22{os}%22%2C%22architecture%22%3A%22{architecture}%22%7D")
}

/// Puts a layout into a registry, byte for byte.
fn publish(d: &Daemon, registry: &Registry, name: &str, platforms: &[&str], attested: bool) -> Layout {
    publish_as(d, registry, name, &format!("made.example/{name}"), platforms, attested)
}

/// The same, with other content.
fn publish_as(
    d: &Daemon,
    registry: &Registry,
    name: &str,
    content: &str,
    platforms: &[&str],
    attested: bool,
) -> Layout {
    let made = layout(content, platforms, attested);
    platforms::publish(d, registry, name, &made);
    let (repository, tag) = name.rsplit_once(':').unwrap();
    assert_eq!(raw(d, &registry.address, repository, tag), made.index);
    made
}

/// Manifests of an image: kind, platform's architecture or what it is about, and whether it is here.
fn manifests(d: &Daemon, name: &str) -> Vec<(String, String, bool)> {
    let image = d.api("GET", &format!("/v1.55/images/{name}/json?manifests=1"), "").json();
    let listed = d.api("GET", "/v1.55/images/json?manifests=1", "").json();
    let entry = listed.as_array().unwrap().iter().find(|i| i["Id"] == image["Id"]).unwrap();
    let ids = |value: &Value| -> Vec<Value> {
        value["Manifests"].as_array().unwrap().iter().map(|m| json!([m["ID"], m["Available"]])).collect()
    };
    assert_eq!(ids(&image), ids(entry), "list and inspect tell the same");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = image["Manifests"].as_array().unwrap().iter();
    all.map(|m| {
        let about = match m["Kind"].as_str().unwrap() {
            "attestation" => text(&m["AttestationData"]["For"]),
            _ => text(&m["ImageData"]["Platform"]["architecture"]),
        };
        (text(&m["Kind"]), about, m["Available"].as_bool().unwrap())
    })
    .collect()
}

fn names(d: &Daemon, format: &str) -> Vec<String> {
    let mut all: Vec<String> =
        d.docker(&["images", "--no-trunc", "--format", format]).ok().lines().map(str::to_owned).collect();
    all.sort();
    all
}

#[test]
fn one_platform_after_the_other_comes_under_one_name() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup::default());
    let made = publish(&d, &registry, "team/app:1", &THREE, true);
    let name = format!("{}/team/app:1", registry.address);
    let pulled = d.docker(&["pull", &name]).ok();
    assert!(pulled.contains(&format!("Digest: {}", made.digest)), "{pulled}");
    assert!(pulled.contains("Downloaded newer image"), "{pulled}");
    assert_eq!(d.docker(&["run", "--rm", &name]).ok(), format!("{} of made.example/team/app:1", here()));
    // This host's is here; of the others it is known that there are such, and what the index says about ours came too.
    let ours = here().split_once('/').unwrap().1;
    let about = made.members[0].manifest.clone();
    let told = |s390x: bool, amd64: bool, arm64: bool| {
        let image = |arch: &str, there| ("image".to_owned(), arch.to_owned(), there);
        vec![
            image("s390x", s390x),
            image("amd64", amd64),
            image("arm64", arm64),
            ("attestation".to_owned(), about.clone(), s390x),
        ]
    };
    assert_eq!(manifests(&d, &name), told(false, ours == "amd64", ours == "arm64"));
    // What is not here is said in Docker's words, and is not taken for something else.
    let missing = format!(
        "image with reference {name} was found but does not provide the specified platform (linux/s390x)"
    );
    for (method, path) in [
        ("GET", format!("/images/{name}/json?platform={}", query("linux/s390x"))),
        ("GET", format!("/images/{name}/history?platform={}", query("linux/s390x"))),
        ("GET", format!("/images/{name}/get?platform={}", query("linux/s390x"))),
        ("POST", format!("/images/{name}/push?platform={}", query("linux/s390x"))),
        ("DELETE", format!("/images/{name}?platforms={}", query("linux/s390x"))),
    ] {
        let answer = d.api(method, &format!("/v1.55{path}"), "");
        assert_eq!((answer.status, answer.message()), (404, missing.clone()), "{method} {path}");
    }
    let create =
        d.api("POST", "/v1.55/containers/create?platform=linux/s390x", &json!({"Image": name}).to_string());
    assert_eq!((create.status, create.message()), (404, missing));
    // The second platform is added.
    let pulled = d.docker(&["pull", "--platform", "linux/s390x", &name]).ok();
    assert!(pulled.contains("Downloaded newer image") && pulled.contains(": Already exists"), "{pulled}");
    assert_eq!(manifests(&d, &name), told(true, ours == "amd64", ours == "arm64"));
    assert!(d.docker(&["pull", "--platform", "linux/s390x", &name]).ok().contains("Image is up to date"));
    assert!(d.docker(&["pull", &name]).ok().contains("Image is up to date"));
    assert_eq!(names(&d, "{{.Repository}}:{{.Tag}}").len(), 1, "one name is one line");
    let shown = |platform: &str| d.docker(&["run", "--rm", "--platform", platform, &name]).ok();
    assert_eq!(shown("linux/s390x"), "linux/s390x of made.example/team/app:1");
    assert_eq!(d.docker(&["run", "--rm", &name]).ok(), format!("{} of made.example/team/app:1", here()));
    // One is inspected as what it is.
    let inspect = |platform: &str| {
        d.api("GET", &format!("/v1.55/images/{name}/json?platform={}", query(platform)), "").json()
    };
    let s390x = inspect("linux/s390x");
    assert_eq!(s390x["Id"], made.members[0].config);
    assert_eq!((&s390x["Architecture"], &s390x["RepoTags"]), (&json!("s390x"), &json!([name])));
    assert_eq!(s390x["Descriptor"]["digest"], made.members[0].manifest);
    let digests = json!([format!("{}/team/app@{}", registry.address, made.digest)]);
    assert_eq!(s390x["RepoDigests"], digests);
    let usual = d.api("GET", &format!("/v1.55/images/{name}/json"), "").json();
    assert_eq!((&usual["RepoDigests"], &usual["Descriptor"]["digest"]), (&digests, &json!(made.digest)));
    assert!(d.api("GET", &format!("/v1.47/images/{name}/json"), "").json().get("Descriptor").is_none());
    let history =
        d.docker(&["history", "--platform", "linux/s390x", "--format", "{{.CreatedBy}}", &name]).ok();
    assert_eq!(history, "linux/s390x\nbusybox");
    // All of it, by wharf's own flag and by the word that other clients can say.
    d.wharf(&["pull", "--all-platforms", &name]).ok();
    assert_eq!(manifests(&d, &name), told(true, true, true));
    assert!(d.docker(&["pull", "--platform", "all", &name]).ok().contains("Image is up to date"));
    assert_eq!(shown("linux/arm64"), "linux/arm64 of made.example/team/app:1");
    let tree = d.docker(&["image", "ls", "--tree"]).ok();
    assert!(THREE.iter().all(|platform| tree.contains(platform)), "{tree}");
    // By the index's digest it is the same.
    let by_digest = format!("{}/team/app@{}", registry.address, made.digest);
    assert!(d.docker(&["pull", &by_digest]).ok().contains("Image is up to date"));
    // By a manifest's digest it is that image alone.
    let alone = format!("{}/team/app@{}", registry.address, made.members[0].manifest);
    d.docker(&["pull", "--platform", "linux/s390x", &alone]).ok();
    assert_eq!(
        d.docker(&["run", "--rm", "--platform", "linux/s390x", &alone]).ok(),
        "linux/s390x of made.example/team/app:1"
    );
    fsck::whole(&d, "after pulls");
}

#[test]
fn containers_are_of_the_platform_that_was_asked_for() {
    let d = Daemon::start();
    let made = layout("app:1", &THREE, false);
    d.docker_with_input(&["load"], &made.archive).ok();
    let create = |platform: &str| {
        let body = json!({"Image": "app:1", "Cmd": ["sleep", "60"]}).to_string();
        let answer = d.api("POST", &format!("/v1.55/containers/create?platform={platform}"), &body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()
    };
    let made_of = |id: &str| d.api("GET", &format!("/v1.55/containers/{id}/json"), "").json();
    let other = create("linux/s390x");
    assert_eq!(other["Warnings"], json!([]), "who asks for it knows");
    let other = made_of(other["Id"].as_str().unwrap());
    assert_eq!(other["Image"], made.members[0].config);
    assert_eq!(other["ImageManifestDescriptor"]["digest"], made.members[0].manifest);
    assert_eq!(other["ImageManifestDescriptor"]["platform"]["architecture"], "s390x");
    // Used by a container of another platform than the usual one, it is used.
    let conflict = d.docker(&["rmi", "app:1"]);
    conflict.fails(1, "container");
    assert!(conflict.err.contains("is using its referenced image"), "{}", conflict.err);
    d.docker(&["image", "rm", "--platform", "linux/s390x", "app:1"])
        .fails(1, "image is being used by stopped container");
    let listed = d.docker(&["ps", "-aq", "--no-trunc", "--filter", "ancestor=app:1"]).ok();
    assert_eq!(listed, other["Id"].as_str().unwrap());
    let image = d.api("GET", "/v1.55/images/json?manifests=1", "").json()[0].clone();
    assert_eq!(image["Containers"], 1);
    assert_eq!(image["Manifests"][0]["ImageData"]["Containers"], json!([other["Id"]]));
    assert!(d.docker(&["image", "prune", "-af"]).ok().contains("Total reclaimed space: 0B"));
    // Of a name with one platform that is another: as it is, with a warning.
    d.docker(&["rm", listed.as_str()]).ok();
    d.docker(&["rmi", "app:1"]).ok();
    assert_eq!(names(&d, "{{.ID}}"), Vec::<String>::new());
    d.docker_with_input(&["load", "--platform", "linux/s390x"], &made.archive).ok();
    let warned = create("");
    assert_eq!(
        warned["Warnings"],
        json!([format!(
            "The requested image's platform (linux/s390x) does not match the detected host platform ({}) and no specific \
             platform was requested",
            here()
        )])
    );
    fsck::whole(&d, "with a container of another platform");
}

#[test]
fn platforms_are_removed_one_by_one_or_with_the_name() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup::default());
    let made = publish(&d, &registry, "team/app:1", &THREE, true);
    let name = format!("{}/team/app:1", registry.address);
    d.docker(&["pull", "--platform", "all", &name]).ok();
    let there = |d: &Daemon| manifests(d, &name).iter().map(|m| m.2).collect::<Vec<_>>();
    assert_eq!(there(&d), [true; 4]);
    let size = || d.api("GET", "/v1.44/system/df", "").json()["LayersSize"].as_u64().unwrap();
    let all = size();
    let gone = d.docker(&["image", "rm", "--platform", "linux/s390x", &name]).ok();
    assert!(gone.contains(&format!("Deleted: {}", made.members[0].config)), "{gone}");
    // With it the statement about it.
    assert_eq!(there(&d), [false, true, true, false]);
    assert!(size() < all);
    fsck::whole(&d, "without one platform");
    // The usual one goes: another takes its place.
    d.docker(&["image", "rm", "--platform", here(), &name]).ok();
    let left = if here() == "linux/amd64" { "linux/arm64" } else { "linux/amd64" };
    assert_eq!(d.docker(&["run", "--rm", &name]).out, format!("{left} of made.example/team/app:1\n"));
    // The last one goes: the name stays, and nothing runs.
    d.docker(&["image", "rm", "--platform", left, &name]).ok();
    let listed = d.api("GET", "/v1.55/images/json?manifests=1", "").json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!((&listed[0]["Id"], &listed[0]["RepoTags"]), (&json!(made.digest), &json!([name])));
    assert_eq!(there(&d), [false; 4]);
    assert_eq!(size(), 0);
    let create = d.api("POST", "/v1.55/containers/create", &json!({"Image": name}).to_string());
    assert_eq!(create.status, 404, "{}", create.text());
    assert_eq!(d.docker(&["inspect", "-f", "{{.Size}}", &name]).ok(), "0");
    fsck::whole(&d, "with none of it");
    // It can be tagged and comes back, under each name.
    d.docker(&["tag", &name, "other:1"]).ok();
    d.docker(&["pull", "-q", &name]).ok();
    assert_eq!(d.docker(&["run", "--rm", "other:1"]).ok(), format!("{} of made.example/team/app:1", here()));
    d.docker(&["image", "rm", "--platform", here(), &name]).ok();
    let untagged = d.docker(&["rmi", &name]).ok();
    assert!(untagged.contains(&format!("Untagged: {name}")), "{untagged}");
    d.docker(&["rmi", "other:1"]).ok();
    assert_eq!(names(&d, "{{.ID}}"), Vec::<String>::new());
    // With the name everything goes at once; with a tag that is taken away all becomes one without a name.
    d.docker(&["pull", "-q", "--platform", "all", &name]).ok();
    d.docker(&["rmi", &name]).ok();
    fsck::whole(&d, "after rmi");
    assert_eq!((size(), names(&d, "{{.ID}}").len()), (0, 0));
    d.docker(&["pull", "-q", "--platform", "all", &name]).ok();
    publish_as(&d, &registry, "team/app:1", "new.example/app", &THREE[..2], false);
    d.docker(&["pull", "-q", &name]).ok();
    assert_eq!(names(&d, "{{.Tag}}"), ["1", "<none>"]);
    d.docker(&["image", "prune", "-f"]).ok();
    assert_eq!(names(&d, "{{.Tag}}"), ["1"]);
    fsck::whole(&d, "after prune");
    d.docker(&["image", "prune", "-af"]).ok();
    fsck::whole(&d, "after prune of all");
    assert_eq!((size(), names(&d, "{{.ID}}").len()), (0, 0));
}

#[test]
fn pushes_send_the_index_if_all_of_it_is_here() {
    let config = json!({"registry-push-compression": "uncompressed"}).to_string();
    let d = Daemon::with(Options { config: Some(config), ..Options::default() });
    let (a, b) = (Registry::start(&d, 5000, Setup::default()), Registry::start(&d, 5001, Setup::default()));
    let made = publish(&d, &a, "team/app:1", &THREE, true);
    let name = format!("{}/team/app:1", a.address);
    d.docker(&["pull", "-q", &name]).ok();
    // Not all of it is here: the one that is, and a note.
    let other = format!("{}/copy/app:part", b.address);
    d.docker(&["tag", &name, &other]).ok();
    let pushed = d.docker(&["push", &other]).ok();
    let ours = made.members.iter().find(|m| m.platform == here()).unwrap();
    assert!(pushed.contains(&format!("part: digest: {}", ours.manifest)), "{pushed}");
    assert!(pushed.contains("Not all multiplatform-content is present"), "{pushed}");
    assert!(pushed.contains(&made.digest), "{pushed}");
    assert_eq!(digest(raw(&d, &b.address, "copy/app", "part").as_bytes()), ours.manifest);
    assert_eq!(names(&d, "{{.Repository}}:{{.Tag}}").len(), 2, "no new lines");
    // All of it: the same bytes, in the same registry and in another one.
    d.docker(&["pull", "-q", "--platform", "all", &name]).ok();
    for (registry, repository) in [(&a, "copy/app"), (&b, "team/app")] {
        let copy = format!("{}/{repository}:all", registry.address);
        d.docker(&["tag", &name, &copy]).ok();
        let pushed = d.docker(&["push", &copy]).ok();
        assert!(
            pushed.contains(&format!("all: digest: {} size: {}", made.digest, made.index.len())),
            "{pushed}"
        );
        assert_eq!(raw(&d, &registry.address, repository, "all"), made.index);
        let said = raw(&d, &registry.address, repository, made.attestation.as_ref().unwrap());
        assert!(said.contains("in-toto"), "{said}");
        // Another client takes all of it.
        let (source, target) = (format!("docker://{copy}"), format!("dir:{}", d.path("copied").display()));
        skopeo(&d, &["copy", "--all", "--src-tls-verify=false", &source, &target]).ok();
        let other = ["--override-arch", "s390x", "inspect", "--tls-verify=false", &source];
        let seen: Value = serde_json::from_str(&skopeo(&d, &other).ok()).unwrap();
        assert_eq!(seen["Architecture"], "s390x");
    }
    // One of it, that was asked for.
    let single = format!("{}/team/app:single", b.address);
    d.docker(&["tag", &name, &single]).ok();
    let pushed = d.docker(&["push", "--platform", "linux/s390x", &single]).ok();
    assert!(pushed.contains(&format!("single: digest: {}", made.members[0].manifest)), "{pushed}");
    assert!(!pushed.contains("Not all multiplatform-content"), "{pushed}");
    assert_eq!(digest(raw(&d, &b.address, "team/app", "single").as_bytes()), made.members[0].manifest);
    // Several and not all, and none is this host's.
    d.docker(&["image", "rm", "--platform", here(), &name]).ok();
    let answer = d.docker(&["push", &name]);
    answer.fails(1, "multiple matching manifests found but no specific platform requested");
    fsck::whole(&d, "after pushes");
}

#[test]
fn an_index_whose_layers_are_compressed_again_is_rewritten() {
    let d = Daemon::start();
    let (mut a, b) =
        (Registry::start(&d, 5000, Setup::default()), Registry::start(&d, 5001, Setup::default()));
    let made = packed_layout("made.example/app:1", &THREE, true, platforms::gzip);
    platforms::publish(&d, &a, "team/app:1", &made);
    let (name, copy) = (format!("{}/team/app:1", a.address), format!("{}/team/app:1", b.address));
    d.docker(&["pull", "-q", "--platform", "all", &name]).ok();
    d.docker(&["tag", &name, &copy]).ok();
    // Where the layers came from nobody answers any more.
    a.stop();
    let pushed = d.docker(&["push", &copy]).ok();
    assert!(pushed.contains("compressed again") && pushed.contains("without attestations"), "{pushed}");
    let now = raw(&d, &b.address, "team/app", "1");
    let index: Value = serde_json::from_str(&now).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 3, "{index}");
    assert!(pushed.contains(&format!("1: digest: {}", digest(now.as_bytes()))), "{pushed}");
    assert_ne!(digest(now.as_bytes()), made.digest);
    let arches: Vec<&Value> = entries.iter().map(|e| &e["platform"]["architecture"]).collect();
    assert_eq!(json!(arches), json!(["s390x", "amd64", "arm64"]));
    // The same again is the same.
    assert!(d.docker(&["push", &copy]).ok().contains(&digest(now.as_bytes())));
    // And what comes back is the same images.
    let ids = |name: &str| {
        THREE.map(|platform| {
            let path = format!("/v1.55/images/{name}/json?platform={}", query(platform));
            d.api("GET", &path, "").json()["Id"].as_str().unwrap().to_owned()
        })
    };
    let before = ids(&name);
    d.docker(&["rmi", &copy, &name]).ok();
    d.docker(&["pull", "-q", "--platform", "all", &copy]).ok();
    assert_eq!(ids(&copy), before);
    fsck::whole(&d, "after pushes");
}

#[test]
fn archives_hold_all_platforms_or_some() {
    let d = Daemon::start();
    let made = layout("app:1", &THREE, true);
    let loaded = d.docker_with_input(&["load"], &made.archive).ok();
    assert_eq!(loaded, "Loaded image: app:1");
    let digests = d.docker(&["image", "inspect", "-f", "{{json .RepoDigests}}", "app:1"]).ok();
    assert_eq!(digests, json!([format!("app@{}", made.digest)]).to_string());
    assert!(manifests(&d, "app:1").iter().all(|m| m.2), "{:?}", manifests(&d, "app:1"));
    let ids = |name: &str| {
        let image = d.api("GET", &format!("/v1.55/images/{name}/json?manifests=1"), "").json();
        let all = image["Manifests"].as_array().unwrap().iter();
        all.filter(|m| m["Available"] == true && m["Kind"] == "image").count()
    };
    let save = |args: &[&str], file: &str| {
        let file = d.path(file).display().to_string();
        d.docker(&[&["save", "-o", &file], args].concat()).ok();
        file
    };
    let all = save(&["app:1"], "all.tar");
    let one = save(&["--platform", "linux/s390x", "app:1"], "one.tar");
    let two = d.path("two.tar").display().to_string();
    d.wharf(&["save", "--platform", "linux/s390x,linux/arm64", "-o", &two, "app:1"]).ok();
    // Another client reads them, platform by platform; the docker archive in it has this host's.
    let target = d.path("seen").display().to_string();
    for (arch, wanted) in [("s390x", "s390x"), ("arm64", "arm64")] {
        let source = format!("oci-archive:{all}");
        let args = ["--override-arch", arch, "inspect", "--config", &source];
        let seen: Value = serde_json::from_str(&skopeo(&d, &args).ok()).unwrap();
        assert_eq!(seen["architecture"], wanted);
    }
    skopeo(&d, &["copy", "--all", &format!("oci-archive:{all}"), &format!("oci:{target}:x")]).ok();
    let seen = skopeo(&d, &["inspect", "--config", &format!("docker-archive:{all}")]).ok();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["architecture"], here().split_once('/').unwrap().1);
    d.docker(&["rmi", "app:1"]).ok();
    fsck::whole(&d, "after rmi");
    for (file, count) in [(&all, 3), (&two, 2)] {
        assert_eq!(d.docker(&["load", "-q", "-i", file]).ok(), "Loaded image: app:1");
        assert_eq!(ids("app:1"), count, "{file}");
        assert_eq!(
            d.docker(&["run", "--rm", "--platform", "linux/s390x", "app:1"]).ok(),
            "linux/s390x of app:1"
        );
        d.docker(&["rmi", "app:1"]).ok();
    }
    // One platform of several, at saving and at loading.
    d.docker(&["load", "-q", "-i", &one]).ok();
    assert_eq!(d.docker(&["run", "--rm", "app:1"]).out, "linux/s390x of app:1\n");
    d.docker(&["rmi", "app:1"]).ok();
    d.docker(&["load", "-q", "--platform", "linux/arm64", "-i", &all]).ok();
    assert_eq!(ids("app:1"), 1);
    d.wharf(&["load", "-q", "--platform", "linux/s390x", "-i", &all]).ok();
    assert_eq!(ids("app:1"), 2, "the other one is added to the same index");
    d.docker(&["load", "--platform", "linux/riscv64", "-i", &all])
        .fails(1, "no images providing the requested platform linux/riscv64 found");
    d.docker(&["save", "--platform", "linux/riscv64", "-o", &two, "app:1"])
        .fails(1, "does not provide the specified platform (linux/riscv64)");
    // skopeo's copy of all, as an archive.
    let archive = d.path("skopeo.tar").display().to_string();
    skopeo(&d, &["copy", "--all", &format!("oci-archive:{all}"), &format!("oci-archive:{archive}:copied:2")])
        .ok();
    d.docker(&["load", "-i", &archive]).ok();
    assert_eq!(ids("copied:2"), 3);
    d.docker(&["rmi", "app:1", "copied:2"]).ok();
    fsck::whole(&d, "at the end");
}

#[test]
fn garbage_collection_takes_an_index_as_one() {
    let config = json!({"image-gc": {"policy": [{"filter": ["until=0s"]}]}}).to_string();
    let d = Daemon::with(Options { config: Some(config), ..Options::default() });
    d.docker_with_input(&["load"], &layout("app:1", &THREE, true).archive).ok();
    d.docker_with_input(&["load"], &layout("other:1", &THREE, false).archive).ok();
    let df = d.api("GET", "/v1.44/system/df", "").json();
    assert_eq!(df["Images"].as_array().unwrap().len(), 2, "{df}");
    let shared = df["Images"][0]["SharedSize"].as_i64().unwrap();
    assert!(shared > 1000, "busybox is of both: {df}");
    let busy = d.docker(&["create", "--platform", "linux/s390x", "other:1", "true"]).ok();
    let plan = d.wharf(&["image", "prune", "--policy", "--plan", "-f"]).ok();
    assert!(plan.contains("app:1") && !plan.contains("other:1"), "{plan}");
    d.wharf(&["image", "prune", "--policy", "-f"]).ok();
    assert_eq!(names(&d, "{{.Repository}}"), ["other"]);
    assert_eq!(manifests(&d, "other:1").iter().filter(|m| m.2).count(), 3);
    fsck::whole(&d, "after gc");
    d.docker(&["rm", &busy]).ok();
    d.wharf(&["image", "prune", "--policy", "-f"]).ok();
    assert_eq!(names(&d, "{{.ID}}").len(), 0);
    fsck::whole(&d, "after the last");
}

#[test]
fn the_daemons_registry_serves_and_takes_indexes() {
    let config = json!({"registry-serve": {"address": "127.0.0.1:5000"}}).to_string();
    let mut d = Daemon::with(Options { config: Some(config), ..Options::default() });
    let made = layout("pushed.example/app:1", &THREE, true);
    let file = image::save(&d.path("layout.tar"), &made.archive);
    let target = "docker://127.0.0.1:5000/team/app:1";
    let source = format!("oci-archive:{file}");
    skopeo(&d, &["copy", "--all", "--preserve-digests", "--dest-tls-verify=false", &source, target]).ok();
    // What was pushed is an image with all its platforms, and is served as it came.
    assert!(manifests(&d, "team/app:1").iter().all(|m| m.2), "{:?}", manifests(&d, "team/app:1"));
    assert_eq!(names(&d, "{{.Repository}}:{{.Tag}}"), ["team/app:1"]);
    assert_eq!(
        d.docker(&["run", "--rm", "--platform", "linux/s390x", "team/app:1"]).ok(),
        "linux/s390x of pushed.example/app:1"
    );
    assert_eq!(raw(&d, "127.0.0.1:5000", "team/app", "1"), made.index);
    let digests = d.docker(&["image", "inspect", "-f", "{{json .RepoDigests}}", "team/app:1"]).ok();
    assert_eq!(digests, json!([format!("team/app@{}", made.digest)]).to_string());
    // What was loaded is served as an index over the images as they are made again.
    d.docker_with_input(&["load"], &layout("loaded:1", &THREE, false).archive).ok();
    let index: Value = serde_json::from_str(&raw(&d, "127.0.0.1:5000", "loaded", "1")).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 3, "{index}");
    d.stop();
    d.restart();
    for name in ["team/app", "loaded"] {
        let source = format!("docker://127.0.0.1:5000/{name}:1");
        let copy = format!("dir:{}", d.path("copy").display());
        skopeo(&d, &["copy", "--all", "--src-tls-verify=false", &source, &copy]).ok();
        for arch in ["s390x", "arm64", "amd64"] {
            let args = ["--override-arch", arch, "inspect", "--tls-verify=false", &source];
            let seen: Value = serde_json::from_str(&skopeo(&d, &args).ok()).unwrap();
            assert_eq!(seen["Architecture"], arch, "{name}");
        }
    }
    // A platform that goes here goes there.
    d.docker(&["image", "rm", "--platform", "linux/s390x", "loaded:1"]).ok();
    let index: Value = serde_json::from_str(&raw(&d, "127.0.0.1:5000", "loaded", "1")).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2, "{index}");
    d.docker(&["rmi", "loaded:1", "team/app:1"]).ok();
    assert_eq!(ask(&d, "127.0.0.1:5000", "GET", "/v2/team/app/manifests/1", &[], b"").status, 404);
    fsck::whole(&d, "after rmi");
}
