//! Pulling and pushing with the stock docker CLI, skopeo as a second client, and Debian's registry as the other side.

use serde_json::Value;
use wharf_tests::registry::{Registry, Setup};
use wharf_tests::{Daemon, Options, image};

/// Puts busybox into a registry with skopeo.
fn seed(d: &Daemon, registry: &Registry, name: &str) -> String {
    let archive = image::save(&d.path("seed.tar"), &image::docker_archive("seed:1", &[image::busybox_tar()]));
    let target = format!("docker://{}/{name}", registry.address);
    registry
        .skopeo(d, &["copy", "--dest-tls-verify=false", &format!("docker-archive:{archive}"), &target])
        .ok();
    format!("{}/{name}", registry.address)
}

#[test]
fn pull_run_and_pull_again() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup::default());
    let name = seed(&d, &registry, "team/app:1");
    let out = d.docker(&["pull", &name]).ok();
    assert!(out.contains("1: Pulling from team/app"), "{out}");
    assert!(out.contains(": Pulling fs layer") && out.contains(": Pull complete"), "{out}");
    assert!(out.contains(&format!("Status: Downloaded newer image for {name}")), "{out}");
    assert!(out.ends_with(&name), "{out}");
    let digest = out.lines().find_map(|l| l.strip_prefix("Digest: ")).expect("a digest").to_owned();
    assert_eq!(d.docker(&["run", "--rm", &name, "echo", "ran"]).ok(), "ran");
    let again = d.docker(&["pull", &name]).ok();
    assert!(again.contains(&format!("Status: Image is up to date for {name}")), "{again}");
    let inspect = d.docker(&["image", "inspect", &name]).ok();
    let inspect: Value = serde_json::from_str(&inspect).unwrap();
    let repository = name.rsplit_once(':').unwrap().0;
    assert_eq!(inspect[0]["RepoDigests"][0], format!("{repository}@{digest}"));
    // By digest, after all of it is gone; and by running what is not there.
    d.docker(&["rmi", &name]).ok();
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
    let by_digest = format!("{repository}@{digest}");
    d.docker(&["pull", "-q", &by_digest]).ok();
    assert_eq!(d.docker(&["run", "--rm", &by_digest, "echo", "digest"]).ok(), "digest");
    d.docker(&["rmi", &by_digest]).ok();
    let ran = d.docker(&["run", "--rm", &name, "echo", "pulled"]);
    assert_eq!(ran.ok(), "pulled");
    assert!(ran.err.contains(&format!("Unable to find image '{name}' locally")), "{}", ran.err);
}

#[test]
fn what_is_not_there_is_said_as_docker_says_it() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup::default());
    let name = seed(&d, &registry, "team/app:1");
    let missing = name.replace(":1", ":2");
    d.docker(&["pull", &missing]).fails(1, &format!("manifest for {missing} not found: manifest unknown"));
    let answer = d.api(
        "POST",
        &format!("/v1.44/images/create?fromImage={}&tag=1", registry.address.clone() + "/no/such"),
        "",
    );
    assert_eq!(answer.status, 404, "{}", answer.text());
    d.docker(&["pull", "127.0.0.1:5999/a:b"]).fails(1, "connection refused");
    d.docker(&["pull", "UPPER:a"]).fails(1, "must be lowercase");
}

#[test]
fn push_and_what_others_get_of_it() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup::default());
    d.docker_with_input(&["load"], &image::docker_archive("two:layers", &two_layers())).ok();
    let name = format!("{}/team/two:1", registry.address);
    d.docker(&["tag", "two:layers", &name]).ok();
    let out = d.docker(&["push", &name]).ok();
    assert!(out.contains(&format!("The push refers to repository [{}/team/two]", registry.address)), "{out}");
    assert_eq!(out.matches(": Pushed").count(), 2, "{out}");
    let digest = out
        .lines()
        .find_map(|l| l.strip_prefix("1: digest: ")?.split(' ').next().map(str::to_owned))
        .unwrap_or_else(|| panic!("{out}"));
    // What another client sees of it, whole and with every layer verified.
    let source = format!("docker://{name}");
    let seen = registry.skopeo(&d, &["inspect", "--tls-verify=false", &source]).ok();
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(seen["Digest"], digest);
    assert_eq!(seen["Layers"].as_array().unwrap().len(), 2);
    let copy = format!("oci:{}:x", d.path("copy").display());
    registry.skopeo(&d, &["copy", "--src-tls-verify=false", &source, &copy]).ok();
    // Again: nothing is sent. Under another name: nothing is sent either.
    let again = d.docker(&["push", &name]).ok();
    assert_eq!(again.matches(": Layer already exists").count(), 2, "{again}");
    assert!(again.contains(&digest), "{again}");
    let other = format!("{}/other/two:2", registry.address);
    d.docker(&["tag", "two:layers", &other]).ok();
    let mounted = d.docker(&["push", &other]).ok();
    assert_eq!(mounted.matches(": Mounted from team/two").count(), 2, "{mounted}");
    assert!(mounted.contains(&digest), "{mounted}");
    // The last message is for programs.
    let answer = d.api("POST", &format!("/v1.44/images/{}/other/two/push?tag=2", registry.address), "");
    let last = answer.text().lines().rfind(|l| !l.trim().is_empty()).unwrap().to_owned();
    let last: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(
        (&last["aux"]["Tag"], &last["aux"]["Digest"]),
        (&Value::from("2"), &Value::from(digest.as_str()))
    );
    assert!(last["aux"]["Size"].as_u64().unwrap() > 0);
    // And back again: the same image, under the same digest.
    let id = d.docker(&["image", "inspect", "-f", "{{.Id}}", "two:layers"]).ok();
    d.docker(&["rmi", "-f", &id]).ok();
    let pulled = d.docker(&["pull", &name]).ok();
    assert!(pulled.contains(&format!("Digest: {digest}")), "{pulled}");
    assert_eq!(d.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok(), id);
    assert_eq!(d.docker(&["run", "--rm", &name]).ok(), "hello");
    // What was pulled is pushed as it was, elsewhere too.
    let third = format!("{}/third:3", registry.address);
    d.docker(&["tag", &name, &third]).ok();
    assert!(d.docker(&["push", &third]).ok().contains(&digest));
    d.docker(&["push", &format!("{}/not/here:1", registry.address)])
        .fails(1, "An image does not exist locally with the tag");
}

/// busybox, and a layer that says hello.
fn two_layers() -> Vec<Vec<u8>> {
    let mut second = Vec::new();
    image::entry(&mut second, "etc/.wh.group", b'0', 0o644, "", b"");
    image::entry(&mut second, "hello.txt", b'0', 0o644, "", b"hello\n");
    image::finish(&mut second);
    vec![image::busybox_tar(), second]
}

#[test]
fn passwords() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup { password: true, ..Setup::default() });
    let name = seed(&d, &registry, "team/app:1");
    d.docker(&["pull", &name]).fails(1, "no basic auth credentials");
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &registry.address], b"wrong")
        .fails(1, "unauthorized: authentication required");
    d.docker(&["pull", &name]).fails(1, "no basic auth credentials");
    let out = d.docker_with_input(&["login", "-u", "me", "--password-stdin", &registry.address], b"secret");
    assert!(out.ok().contains("Login Succeeded"), "{out:?}");
    d.docker(&["pull", &name]).ok();
    let target = name.replace(":1", ":2");
    d.docker(&["tag", &name, &target]).ok();
    d.docker(&["push", &target]).ok();
    d.docker(&["logout", &registry.address]).ok();
    d.docker(&["push", &target]).fails(1, "no basic auth credentials");
}

#[test]
fn certificates() {
    let d = Daemon::with(Options {
        config: Some(r#"{"registry-config-dirs": ["/nowhere"]}"#.into()),
        ..Options::default()
    });
    let registry = Registry::start(&d, 5443, Setup { tls: true, password: true, ..Setup::default() });
    let name = seed(&d, &registry, "team/app:1");
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &registry.address], b"secret").ok();
    // Loopback needs no certificate that is known.
    d.docker(&["pull", &name]).ok();
    drop(registry);
    drop(d);
    // With an authority given for it the certificate has to be of that authority.
    let certs = tempfile::tempdir().unwrap();
    let config = serde_json::json!({"registry-config-dirs": [certs.path()]}).to_string();
    let d = Daemon::with(Options { config: Some(config), ..Options::default() });
    let registry = Registry::start(&d, 5443, Setup { tls: true, ..Setup::default() });
    let name = seed(&d, &registry, "team/app:1");
    let directory = certs.path().join(&registry.address);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(registry.authority(), directory.join("ca.crt")).unwrap();
    d.docker(&["pull", &name]).ok();
    d.docker(&["rmi", &name]).ok();
    let stranger = Registry::start(&d, 5444, Setup { tls: true, ..Setup::default() });
    let theirs = seed(&d, &stranger, "team/app:1");
    let directory = certs.path().join(&stranger.address);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(registry.authority(), directory.join("ca.crt")).unwrap();
    d.docker(&["pull", &theirs]).fails(1, "certificate");
    assert_eq!(d.docker(&["images", "-q"]).ok(), "");
}

#[test]
fn mirrors_of_a_hosts_file() {
    let certs = tempfile::tempdir().unwrap();
    let config = serde_json::json!({"registry-config-dirs": [certs.path()]}).to_string();
    let d = Daemon::with(Options { config: Some(config), ..Options::default() });
    let mirror = Registry::start(&d, 5000, Setup::default());
    seed(&d, &mirror, "library/tool:1");
    let directory = certs.path().join("registry.example");
    std::fs::create_dir_all(&directory).unwrap();
    let hosts = format!("server = \"http://127.0.0.1:5999\"\n[host.\"http://{}\"]\n", mirror.address);
    std::fs::write(directory.join("hosts.toml"), hosts).unwrap();
    d.docker(&["pull", "registry.example/library/tool:1"]).ok();
    assert_eq!(
        d.docker(&["run", "--rm", "registry.example/library/tool:1", "echo", "mirrored"]).ok(),
        "mirrored"
    );
    std::fs::write(directory.join("hosts.toml"), "server = 3").unwrap();
    d.docker(&["pull", "registry.example/library/tool:2"]).fails(1, "hosts.toml");
}

#[test]
fn platforms_of_an_index_and_all_tags() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup::default());
    let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let mut entries = Vec::new();
    for arch in [here, "s390x"] {
        let mut layer = Vec::new();
        image::entry(&mut layer, "arch.txt", b'0', 0o644, "", arch.as_bytes());
        image::finish(&mut layer);
        let archive = image::docker_archive("x:1", &[layer]);
        let text = String::from_utf8_lossy(&archive).into_owned();
        assert!(text.contains(here));
        let file = image::save(&d.path(&format!("{arch}.tar")), &archive);
        let target = format!("docker://{}/multi:{arch}", registry.address);
        registry
            .skopeo(&d, &["copy", "--dest-tls-verify=false", &format!("docker-archive:{file}"), &target])
            .ok();
        let raw = registry.skopeo(&d, &["inspect", "--raw", "--tls-verify=false", &target]).out;
        entries.push(serde_json::json!({
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "digest": format!("sha256:{}", image::sha256(raw.as_bytes())), "size": raw.len(),
            "platform": {"os": "linux", "architecture": arch},
        }));
    }
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": entries,
    })
    .to_string();
    put(
        &d,
        &registry,
        "/v2/multi/manifests/all",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        &index,
    );
    let name = format!("{}/multi:all", registry.address);
    let out = d.docker(&["pull", &name]).ok();
    assert!(out.contains(&format!("Digest: sha256:{}", image::sha256(index.as_bytes()))), "{out}");
    let content = |d: &Daemon| d.docker(&["image", "inspect", "-f", "{{.RootFS.Layers}}", &name]).ok();
    let ours = content(&d);
    d.docker(&["pull", "--platform", "linux/s390x", &name]).ok();
    assert_eq!(d.docker(&["pull", "--platform", "linux/ppc64le", &name]).code, 1);
    d.docker(&["pull", "--platform", "linux/ppc64le", &name])
        .fails(1, "no matching manifest for linux/ppc64le in the manifest list entries");
    d.docker(&["pull", &name]).ok();
    assert!(!ours.is_empty());
    let answer = d.api("GET", &format!("/v1.44/distribution/{name}/json"), "");
    let answer = answer.json();
    assert_eq!(answer["Platforms"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(answer["Descriptor"]["digest"], format!("sha256:{}", image::sha256(index.as_bytes())));
    let single =
        d.api("GET", &format!("/v1.44/distribution/{}/multi:{here}/json", registry.address), "").json();
    assert_eq!(single["Platforms"][0]["architecture"], here, "{single}");
    d.docker(&["pull", "-a", &format!("{}/multi", registry.address)]).ok();
    let tags = d.docker(&["images", "--format", "{{.Tag}}"]).ok();
    assert!(tags.contains("s390x") && tags.contains(here) && tags.contains("all"), "{tags}");
    let found = d.docker(&["search", &format!("{}/mul", registry.address)]).ok();
    assert!(found.contains("multi"), "{found}");
}

/// One request to the registry by hand.
fn put(d: &Daemon, registry: &Registry, path: &str, kind: &str, body: &str) {
    use std::io::{Read, Write};
    let mut stream = wharf_tests::registry::connect(d, registry.address.parse().unwrap()).unwrap();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[test]
fn zstd_and_plain_layers_come_in_and_save_goes_out() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup::default());
    let archive = image::save(&d.path("seed.tar"), &image::docker_archive("seed:1", &two_layers()));
    for (tag, format) in [("zstd", "zstd"), ("gzip", "gzip")] {
        let target = format!("docker://{}/packed:{tag}", registry.address);
        registry
            .skopeo(
                &d,
                &[
                    "copy",
                    "--dest-tls-verify=false",
                    "--format",
                    "oci",
                    "--dest-compress-format",
                    format,
                    &format!("docker-archive:{archive}"),
                    &target,
                ],
            )
            .ok();
        let name = format!("{}/packed:{tag}", registry.address);
        d.docker(&["pull", &name]).ok();
        assert_eq!(d.docker(&["run", "--rm", &name]).ok(), "hello");
        d.docker(&["rmi", &name]).ok();
    }
    let name = format!("{}/packed:zstd", registry.address);
    d.docker(&["pull", &name]).ok();
    let saved = d.path("saved.tar").display().to_string();
    d.docker(&["save", "-o", &saved, &name]).ok();
    // skopeo reads both forms that are in the one archive.
    let target = format!("docker://{}/saved:1", registry.address);
    registry
        .skopeo(&d, &["copy", "--dest-tls-verify=false", &format!("docker-archive:{saved}"), &target])
        .ok();
    d.docker(&["rmi", &name]).ok();
    assert!(d.docker(&["load", "-i", &saved]).ok().contains(&format!("Loaded image: {name}")));
    assert_eq!(d.docker(&["run", "--rm", &name]).ok(), "hello");
}

#[test]
fn wharfs_own_command_line() {
    let d = Daemon::start();
    let registry = Registry::start(&d, 5000, Setup { password: true, ..Setup::default() });
    let name = seed(&d, &registry, "team/app:1");
    d.wharf(&["pull", &name]).fails(1, "no basic auth credentials");
    let login = d.wharf(&["login", "-u", "me", "-p", "secret", &registry.address]);
    assert!(login.ok().contains("Login Succeeded"), "{login:?}");
    let pulled = d.wharf(&["pull", &name]).ok();
    assert!(pulled.contains("Downloaded newer image") && pulled.contains(": Pull complete"), "{pulled}");
    assert!(!pulled.contains(['\u{1b}', '\r']), "plain lines without a terminal: {pulled:?}");
    // With one, a bar for each layer.
    d.wharf(&["rmi", &name]).ok();
    let mut terminal = std::process::Command::new("script");
    let line = format!("{} pull {name}", wharf_tests::bin_dir().join("wharf").display());
    terminal.args(["-q", "-e", "-c", &line, "/dev/null"]);
    terminal.env("WHARF_HOST", d.host()).env("DOCKER_CONFIG", d.path("docker-config")).env("TERM", "xterm");
    let shown = d.run_with_input(terminal, b"").ok();
    assert!(shown.contains('\u{1b}') && shown.contains("Pull complete"), "{shown:?}");
    let other = name.replace("app", "other");
    d.wharf(&["tag", &name, &other]).ok();
    assert!(d.wharf(&["push", &other]).ok().contains("Mounted from team/app"));
    assert!(d.wharf(&["search", &format!("{}/oth", registry.address)]).ok().contains("team/other"));
    let saved = d.path("saved.tar").display().to_string();
    d.wharf(&["save", "-o", &saved, &name]).ok();
    assert!(d.wharf(&["load", "-i", &saved]).ok().contains("Loaded image"));
    d.wharf(&["logout", &registry.address]).ok();
    d.wharf(&["pull", "-q", &other]).fails(1, "no basic auth credentials");
}
