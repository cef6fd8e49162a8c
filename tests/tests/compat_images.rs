//! What real clients rely on where images are concerned, answer by answer: streams of progress, shapes, texts, filters.

use serde_json::{Value, json};
use wharf_tests::registry::{Registry, Setup};
use wharf_tests::server::{Reply, Server};
use wharf_tests::{Daemon, http, image};

/// The lines of a progress answer.
#[track_caller]
fn lines(answer: &http::Response) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    assert!(text.lines().all(|l| !l.is_empty()) && text.ends_with("\r\n"), "{text:?}");
    text.lines().map(|l| serde_json::from_str(l.trim_end()).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

fn layer(text: &str) -> Vec<u8> {
    let mut layer = Vec::new();
    image::entry(&mut layer, "hello.txt", b'0', 0o644, "", text.as_bytes());
    image::finish(&mut layer);
    layer
}

fn seed(d: &Daemon, registry: &Registry, name: &str, layers: &[Vec<u8>]) -> String {
    let archive = image::save(&d.path("seed.tar"), &image::docker_archive("seed:1", layers));
    let target = format!("docker://{}/{name}", registry.address);
    registry
        .skopeo(d, &["copy", "--dest-tls-verify=false", &format!("docker-archive:{archive}"), &target])
        .ok();
    format!("{}/{name}", registry.address)
}

/// What the lines say about one thing, without how far it is.
fn statuses(lines: &[Value], id: &str) -> Vec<String> {
    let mut found: Vec<String> =
        lines.iter().filter(|l| l["id"] == id).map(|l| l["status"].as_str().unwrap().to_owned()).collect();
    found.dedup();
    found
}

fn pull(d: &Daemon, name: &str) -> http::Response {
    let (repository, tag) = name.rsplit_once(':').unwrap();
    d.api("POST", &format!("/v1.44/images/create?fromImage={repository}&tag={tag}"), "")
}

#[test]
fn a_pull_line_by_line() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup::default());
    let name = seed(&d, &registry, "team/app:1", &[image::busybox_tar(), layer("x")]);
    let got = lines(&pull(&d, &name));
    assert_eq!(got[0], json!({"status": "Pulling from team/app", "id": "1"}));
    let fresh: Vec<&Value> = got.iter().filter(|l| l["status"] == "Pulling fs layer").collect();
    assert_eq!(fresh.len(), 2);
    for line in &fresh {
        let id = line["id"].as_str().unwrap();
        assert_eq!(id.len(), 12);
        assert_eq!(**line, json!({"status": "Pulling fs layer", "progressDetail": {}, "id": id}));
        let mut order = statuses(&got, id);
        order.retain(|s| s != "Waiting");
        let wanted = [
            "Pulling fs layer",
            "Downloading",
            "Verifying Checksum",
            "Download complete",
            "Extracting",
            "Pull complete",
        ];
        assert_eq!(order, wanted, "{id}");
    }
    for line in got.iter().filter(|l| l["status"] == "Downloading" || l["status"] == "Extracting") {
        let detail = &line["progressDetail"];
        assert!(detail["current"].as_u64() <= detail["total"].as_u64() && detail["total"].is_u64(), "{line}");
        assert!(line["progress"].as_str().unwrap().contains(['>', 'B']), "{line}");
    }
    let n = got.len();
    let digest = got[n - 2]["status"].as_str().unwrap().strip_prefix("Digest: sha256:").unwrap();
    assert_eq!(digest.len(), 64);
    assert_eq!(got[n - 1], json!({"status": format!("Status: Downloaded newer image for {name}")}));
    // Again, and what shares a layer.
    let again = lines(&pull(&d, &name));
    assert_eq!(again.len(), 3, "{again:?}");
    assert_eq!(again[2]["status"], format!("Status: Image is up to date for {name}"));
    let other = seed(&d, &registry, "team/app:2", &[image::busybox_tar(), layer("y")]);
    let got = lines(&pull(&d, &other));
    assert_eq!(got.iter().filter(|l| l["status"] == "Already exists").count(), 1, "{got:?}");
    assert_eq!(got.iter().filter(|l| l["status"] == "Pull complete").count(), 1, "{got:?}");
}

#[test]
fn failures_before_and_after_the_first_line() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup::default());
    let name = seed(&d, &registry, "team/app:1", &[layer("x")]);
    // Before: a status and one message.
    let answer = pull(&d, &name.replace(":1", ":no"));
    assert_eq!(answer.status, 404);
    let wanted = format!("manifest for {} not found: manifest unknown", name.replace(":1", ":no"));
    assert!(answer.message().starts_with(&wanted), "{}", answer.message());
    assert_eq!(pull(&d, &name.replace("team", "TEAM")).status, 400);
    assert_eq!(d.api("POST", "/v1.44/images/create", "").status, 400);
    // After: 200, and the failure as the last line.
    let blobs = registry.data().join("docker/registry/v2/blobs/sha256");
    let mut broken = 0;
    for directory in std::fs::read_dir(&blobs).unwrap().flatten() {
        for blob in std::fs::read_dir(directory.path()).unwrap().flatten() {
            let file = blob.path().join("data");
            let bytes = std::fs::read(&file).unwrap();
            if bytes.starts_with(&[0x1f, 0x8b]) {
                std::fs::write(&file, vec![0x1f; bytes.len()]).unwrap();
                broken += 1;
            }
        }
    }
    assert_eq!(broken, 1);
    let got = lines(&pull(&d, &name));
    let last = got.last().unwrap();
    let text = last["error"].as_str().unwrap();
    assert_eq!(*last, json!({"errorDetail": {"message": text}, "error": text}));
    assert!(!got.iter().any(|l| l["status"].as_str().is_some_and(|s| s.starts_with("Status:"))), "{got:?}");
    assert_eq!(d.api("GET", "/v1.44/images/json?all=1", "").json(), json!([]));
}

#[test]
fn a_push_line_by_line() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup::default());
    let name = format!("{}/team/app", registry.address);
    d.docker_with_input(
        &["load"],
        &image::docker_archive(&format!("{name}:1"), &[image::busybox_tar(), layer("x")]),
    )
    .ok();
    let push = |tag: &str| d.api("POST", &format!("/v1.44/images/{name}/push?tag={tag}"), "");
    let got = lines(&push("1"));
    assert_eq!(got[0], json!({"status": format!("The push refers to repository [{name}]")}));
    let ids: Vec<String> = got
        .iter()
        .filter(|l| l["status"] == "Preparing")
        .map(|l| l["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 2);
    for id in &ids {
        let mut order = statuses(&got, id);
        order.retain(|s| s != "Waiting");
        assert_eq!(order, ["Preparing", "Pushing", "Pushed"], "{id}");
    }
    let n = got.len();
    let (digest, size) = (&got[n - 1]["aux"]["Digest"], &got[n - 1]["aux"]["Size"]);
    assert_eq!(
        got[n - 1],
        json!({"progressDetail": {}, "aux": {"Tag": "1", "Digest": digest, "Size": size}})
    );
    assert_eq!(
        got[n - 2],
        json!({"status": format!("1: digest: {} size: {size}", digest.as_str().unwrap())})
    );
    // What is not there, and a platform that it is not of.
    let missing = push("none");
    assert_eq!(missing.status, 404);
    assert_eq!(missing.message(), format!("An image does not exist locally with the tag: {name}"));
    let platform = "platform=%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22s390x%22%7D";
    let wrong = d.api("POST", &format!("/v1.46/images/{name}/push?tag=1&{platform}"), "");
    assert_eq!(wrong.status, 404);
    assert!(
        wrong.message().contains("does not match the specified platform (linux/s390x)"),
        "{}",
        wrong.message()
    );
}

#[test]
fn names_short_and_long() {
    let d = Daemon::start();
    let id = d.import_busybox();
    assert!(id.starts_with("sha256:"));
    for (given, shown) in [
        ("docker.io/library/short:1", "short:1"),
        ("docker.io/me/app", "me/app:latest"),
        ("index.docker.io/library/other:2", "other:2"),
        ("localhost/a:1", "localhost/a:1"),
        ("reg.example:5000/deep/er:x", "reg.example:5000/deep/er:x"),
    ] {
        d.docker(&["tag", "busybox", given]).ok();
        let tags = d.api("GET", &format!("/v1.44/images/{given}/json"), "").json()["RepoTags"].clone();
        assert!(tags.as_array().unwrap().contains(&json!(shown)), "{given}: {tags}");
        assert_eq!(d.docker(&["image", "inspect", "-f", "{{.Id}}", shown]).ok(), id);
    }
    let history = d.api("GET", "/v1.44/images/busybox/history", "").json();
    assert_eq!(history[0]["Id"], id.as_str());
    assert_eq!(d.api("GET", "/v1.44/images/nothing/json", "").message(), "No such image: nothing:latest");
    let bad = d.api("POST", "/v1.44/images/busybox/tag?repo=UPPER&tag=1", "");
    assert_eq!(bad.status, 400);
    assert!(bad.message().contains("must be lowercase"), "{}", bad.message());
}

fn encoded(filters: &Value) -> String {
    wharf_tests::http::encoded(&filters.to_string())
}

/// Names of the images that a filter leaves, `<none>` for those without.
fn listed(d: &Daemon, filters: &Value) -> Vec<String> {
    let answer = d.api("GET", &format!("/v1.44/images/json?filters={}", encoded(filters)), "");
    assert_eq!(answer.status, 200, "{filters}: {}", answer.text());
    let mut names: Vec<String> = answer
        .json()
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|i| match i["RepoTags"].as_array().unwrap().as_slice() {
            [] => vec!["<none>".to_owned()],
            tags => tags.iter().map(|t| t.as_str().unwrap().to_owned()).collect(),
        })
        .collect();
    names.sort();
    names
}

/// Three images: `old:1` of 2001, `mid:1` and `other/mid:2` of 2002, and one of 2003 without a name, with a label.
fn three(d: &Daemon) {
    for (year, name, label) in [(2001, "old:1", "a=1"), (2002, "mid:1", "a=2"), (2003, "new:1", "b=")] {
        let (key, value) = label.split_once('=').unwrap();
        let layers = [image::busybox_tar(), layer(name)];
        let mut config = json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux", "created": format!("{year}-01-01T00:00:00Z"), "config": {"Labels": {key: value}},
            "rootfs": {"type": "layers", "diff_ids": []}});
        let mut tar = Vec::new();
        let mut files = Vec::new();
        for layer in &layers {
            let hex = image::sha256(layer);
            config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(json!(format!("sha256:{hex}")));
            image::entry(&mut tar, &format!("{hex}.tar"), b'0', 0o644, "", layer);
            files.push(format!("{hex}.tar"));
        }
        image::entry(&mut tar, "config.json", b'0', 0o644, "", config.to_string().as_bytes());
        let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": files}]).to_string();
        image::entry(&mut tar, "manifest.json", b'0', 0o644, "", manifest.as_bytes());
        image::finish(&mut tar);
        d.docker_with_input(&["load"], &tar).ok();
    }
    d.docker(&["tag", "mid:1", "other/mid:2"]).ok();
    // Its name goes to another.
    d.docker(&["tag", "old:1", "new:1"]).ok();
    d.docker(&["rmi", "new:1"]).ok();
}

#[test]
fn lists_and_their_filters() {
    let d = Daemon::start();
    three(&d);
    let all = ["<none>", "mid:1", "old:1", "other/mid:2"];
    for (filters, wanted) in [
        (json!({}), all.as_slice()),
        (json!({"dangling": ["true"]}), &["<none>"]),
        (json!({"dangling": ["false"]}), &["mid:1", "old:1", "other/mid:2"]),
        (json!({"dangling": {"true": true}}), &["<none>"]),
        (json!({"label": ["a"]}), &["mid:1", "old:1", "other/mid:2"]),
        (json!({"label": ["a=2"]}), &["mid:1", "other/mid:2"]),
        (json!({"label": ["a", "b"]}), &[]),
        (json!({"before": ["mid:1"]}), &["old:1"]),
        (json!({"since": ["mid:1"]}), &["<none>"]),
        (json!({"since": ["old:1"], "label": ["a"]}), &["mid:1", "other/mid:2"]),
        (json!({"until": ["2002-06-01T00:00:00Z"]}), &["mid:1", "old:1", "other/mid:2"]),
        (json!({"reference": ["mid"]}), &["mid:1"]),
        (json!({"reference": ["*/mid", "old:[0-9]"]}), &["old:1", "other/mid:2"]),
        (json!({"reference": ["m?d:*"]}), &["mid:1"]),
    ] {
        assert_eq!(listed(&d, &filters), wanted, "{filters}");
    }
    for (filters, text) in [
        (json!({"before": ["nothing"]}), "No such image: nothing:latest"),
        (json!({"dangling": ["perhaps"]}), "dangling"),
        (json!({"colour": ["red"]}), "colour"),
        (json!({"reference": ["[a"]}), "syntax error in pattern"),
    ] {
        let answer = d.api("GET", &format!("/v1.44/images/json?filters={}", encoded(&filters)), "");
        assert!((400..=404).contains(&answer.status), "{filters}: {}", answer.status);
        assert!(answer.message().contains(text), "{filters}: {}", answer.message());
    }
    d.docker(&["create", "--name", "user", "mid:1", "sh"]).ok();
    let list = d.api("GET", "/v1.55/images/json?shared-size=1&manifests=1&identity=1", "").json();
    let mid = list.as_array().unwrap().iter().find(|i| i["RepoTags"][0] == "mid:1").unwrap();
    assert_eq!((&mid["Containers"], &mid["ParentId"]), (&json!(1), &json!("")));
    let (size, shared) = (mid["Size"].as_u64().unwrap(), mid["SharedSize"].as_u64().unwrap());
    assert!(shared > 0 && shared < size, "{mid}");
    let manifest = &mid["Manifests"][0];
    assert_eq!((&manifest["Kind"], &manifest["Available"]), (&json!("image"), &json!(true)));
    assert_eq!(manifest["ID"], manifest["Descriptor"]["digest"]);
    assert_eq!(manifest["ImageData"]["Size"]["Unpacked"], size);
    assert_eq!(manifest["ImageData"]["Containers"].as_array().unwrap().len(), 1);
    assert_eq!(manifest["ImageData"]["Platform"]["os"], "linux");
    // Without being asked for, none of it.
    let plain = d.api("GET", "/v1.55/images/json", "").json();
    assert!(plain.as_array().unwrap().iter().all(|i| i["SharedSize"] == -1 && i.get("Manifests").is_none()));
    assert!(d.docker(&["image", "ls", "--tree"]).ok().contains("linux/"));
    d.docker(&["rm", "user"]).ok();
}

#[test]
fn platforms_have_to_be_the_images() {
    let d = Daemon::start();
    d.import_busybox();
    let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let platform = |arch: &str| format!("%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22{arch}%22%7D");
    for path in ["json", "history", "get"] {
        let ask = |arch: &str| {
            d.api("GET", &format!("/v1.55/images/busybox/{path}?platform={}", platform(arch)), "")
        };
        assert_eq!(ask(here).status, 200, "{path}");
        let wrong = ask("s390x");
        assert_eq!(wrong.status, 404, "{path}");
        let wanted = format!(
            "image with reference busybox was found but its platform (linux/{here}) does not match the specified platform (linux/s390x)"
        );
        assert_eq!(wrong.message(), wanted, "{path}");
    }
    let both =
        d.api("GET", &format!("/v1.55/images/busybox/json?manifests=1&platform={}", platform(here)), "");
    assert_eq!(both.status, 400);
    let inspect = d.api("GET", "/v1.55/images/busybox/json?manifests=1", "").json();
    assert_eq!(inspect["Manifests"][0]["Kind"], "image");
    let bad = d.api("GET", "/v1.55/images/busybox/json?platform=%7Bnonsense", "");
    assert_eq!(bad.status, 400);
    let wrong = d.api("DELETE", &format!("/v1.55/images/busybox?platforms={}", platform("s390x")), "");
    assert_eq!(wrong.status, 404, "{}", wrong.text());
    let gone = d.api("DELETE", &format!("/v1.55/images/busybox?platforms={}", platform(here)), "");
    assert_eq!(gone.status, 200, "{}", gone.text());
}

#[test]
fn deleting_says_what_went_or_what_is_in_the_way() {
    let d = Daemon::start();
    let id = d.import_busybox();
    let short = &id[7..19];
    let delete = |name: &str| d.api("DELETE", &format!("/v1.44/images/{name}"), "");
    d.docker(&["tag", "busybox", "second:1"]).ok();
    assert_eq!(delete("second:1").json(), json!([{"Untagged": "second:1"}]));
    d.docker(&["tag", "busybox", "second:1"]).ok();
    let many = delete(short);
    assert_eq!(many.status, 409);
    let text = format!(
        "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
    );
    assert_eq!(many.message(), text);
    d.docker(&["rmi", "second:1"]).ok();
    let user = d.docker(&["create", "--name", "user", "busybox", "sh"]).ok();
    let used = delete("busybox");
    assert_eq!(used.status, 409);
    let text = format!(
        "conflict: unable to remove repository reference \"busybox\" (must force) - container {} is using its referenced \
         image {short}",
        &user[..12]
    );
    assert_eq!(used.message(), text);
    let text = format!(
        "conflict: unable to delete {short} (must be forced) - image is being used by stopped container {}",
        &user[..12]
    );
    assert_eq!(delete(short).message(), text);
    d.docker(&["rm", "user"]).ok();
    let all = delete("busybox?force=1&noprune=1").json();
    assert_eq!(all[0], json!({"Untagged": "busybox:latest"}));
    assert_eq!(all[1], json!({"Deleted": id}));
    assert!(all[2]["Deleted"].as_str().unwrap().starts_with("sha256:"), "{all}");
    let none = delete("busybox");
    assert_eq!((none.status, none.message().as_str()), (404, "No such image: busybox:latest"));
}

#[test]
fn save_and_load_of_several() {
    let d = Daemon::start();
    three(&d);
    let saved = d.api("GET", "/v1.44/images/get?names=old:1&names=mid:1", "");
    assert_eq!((saved.status, saved.header("content-type")), (200, Some("application/x-tar")));
    let missing = d.api("GET", "/v1.44/images/get?names=old:1&names=nothing", "");
    assert_eq!((missing.status, missing.message().as_str()), (404, "No such image: nothing:latest"));
    d.docker(&["rmi", "-f", "old:1", "mid:1", "other/mid:2"]).ok();
    let file = d.path("saved.tar");
    std::fs::write(&file, &saved.body).unwrap();
    // Both forms in one.
    let names = d.run_with_input(
        {
            let mut tar = std::process::Command::new("tar");
            tar.arg("-tf").arg(&file);
            tar
        },
        b"",
    );
    for part in ["manifest.json", "index.json", "oci-layout", "blobs/sha256/"] {
        assert!(names.ok().lines().any(|l| l == part), "{part}");
    }
    let loaded = d.docker(&["load", "-i", file.to_str().unwrap()]).ok();
    assert!(loaded.contains("Loaded image: old:1") && loaded.contains("Loaded image: mid:1"), "{loaded}");
    let quiet = d.docker(&["load", "-q", "-i", file.to_str().unwrap()]).ok();
    assert_eq!(quiet.lines().count(), 2, "{quiet}");
    let bad = d.docker_with_input(&["load"], b"nothing like it");
    assert_ne!(bad.code, 0);
}

#[test]
fn prune_takes_what_it_is_told() {
    let d = Daemon::start();
    three(&d);
    let prune = |filters: Value| {
        let answer = d.api("POST", &format!("/v1.44/images/prune?filters={}", encoded(&filters)), "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    assert_eq!(prune(json!({"label": ["a"]}))["ImagesDeleted"], json!([]));
    assert_eq!(prune(json!({"until": ["2002-06-01T00:00:00Z"]}))["SpaceReclaimed"], 0);
    let gone = prune(json!({}));
    assert!(gone["ImagesDeleted"].as_array().unwrap().iter().any(|g| g["Deleted"].is_string()), "{gone}");
    assert!(gone["SpaceReclaimed"].as_u64().unwrap() > 0, "{gone}");
    assert_eq!(listed(&d, &json!({})), ["mid:1", "old:1", "other/mid:2"]);
    prune(json!({"dangling": ["false"], "label!": ["a=1"]}));
    assert_eq!(listed(&d, &json!({})), ["old:1"]);
    prune(json!({"dangling": ["false"], "until": ["2001-06-01T00:00:00Z"]}));
    assert_eq!(listed(&d, &json!({})), [] as [&str; 0]);
    let bad =
        d.api("POST", &format!("/v1.44/images/prune?filters={}", encoded(&json!({"reference": ["a"]}))), "");
    assert_eq!(bad.status, 400, "{}", bad.text());
}

#[test]
fn logins_right_and_wrong() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup { password: true, tls: true, ..Setup::default() });
    let login = |user: &str, password: &str| {
        let body =
            json!({"username": user, "password": password, "serveraddress": registry.address}).to_string();
        d.api("POST", "/v1.44/auth", &body)
    };
    let good = login("me", "secret");
    assert_eq!((good.status, good.json()), (200, json!({"Status": "Login Succeeded", "IdentityToken": ""})));
    let bad = login("me", "wrong");
    assert_eq!(bad.status, 401);
    assert!(bad.message().contains("unauthorized"), "{}", bad.message());
    assert!(!bad.message().contains("wrong"));
    assert_eq!(login("", "").status, 401);
    // {"username":"me","password":"secret"} as clients write it: padded or not, either alphabet; and nothing.
    let name = seed(&d, &registry, "team/app:1", &[layer("x")]);
    let (repository, tag) = name.rsplit_once(':').unwrap();
    let path = format!("/v1.44/images/create?fromImage={repository}&tag={tag}");
    let pull = |auth: &str| {
        http::request_with(&d.socket(), "POST", &path, &[("X-Registry-Auth", auth)], "").unwrap()
    };
    for auth in ["e30=", "e30"] {
        let answer = pull(auth);
        assert_eq!(answer.status, 500, "{auth}: {}", answer.text());
        assert!(answer.message().contains("no basic auth credentials"), "{auth}: {}", answer.message());
    }
    for auth in [
        "eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJzZWNyZXQifQ==",
        "eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJzZWNyZXQifQ",
    ] {
        lines(&pull(auth));
    }
}

#[test]
fn manifests_of_the_past_are_refused_clearly() {
    let d = Daemon::start();
    const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let body =
        json!({"schemaVersion": 1, "name": "old/app", "tag": "1", "fsLayers": [], "history": []}).to_string();
    let server = Server::start(&d, 5000, move |request| {
        if request.path.contains("/manifests/") {
            let digest = format!("sha256:{}", image::sha256(body.as_bytes()));
            return Reply::new(200, body.clone())
                .with("Content-Type", SCHEMA1)
                .with("Docker-Content-Digest", &digest);
        }
        Reply::new(200, "{}")
    });
    d.docker(&["pull", &format!("{}/old/app:1", server.address)])
        .fails(1, "Docker Image manifest version 2, schema 1 are not supported");
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
}

#[test]
fn a_foreign_layer_comes_from_where_it_is_without_our_password() {
    let d = Daemon::start();
    let digest = |bytes: &[u8]| format!("sha256:{}", image::sha256(bytes));
    let foreign = layer("foreign");
    let config =
        json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest(&foreign)]}})
        .to_string();
    const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": config.len(), "digest": digest(config.as_bytes())},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "size": foreign.len(),
            "digest": digest(&foreign), "urls": ["http://127.0.0.1:5001/away/layer.tar"]}]})
    .to_string();
    let (id, own) = (digest(config.as_bytes()), digest(manifest.as_bytes()));
    let registry = Server::start(&d, 5000, move |request| {
        if request.header("authorization").is_none() {
            return Reply::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        if request.path.contains("/manifests/") {
            return Reply::new(200, manifest.clone())
                .with("Content-Type", MANIFEST)
                .with("Docker-Content-Digest", &own);
        }
        if request.path.ends_with(&id) {
            return Reply::new(200, config.clone());
        }
        if request.path == "/v2/" {
            return Reply::new(200, "{}");
        }
        Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#)
    });
    let away = Server::start(&d, 5001, move |_| Reply::new(200, foreign.clone()));
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &registry.address], b"secret").ok();
    d.docker(&["pull", &format!("{}/win/app:1", registry.address)]).ok();
    let seen = away.seen();
    assert!(!seen.is_empty() && seen.iter().all(|r| r.header("authorization").is_none()), "{seen:?}");
}
