//! An index keeps its digest and its attestations wherever it goes: what others compressed is passed on as it is from where it
//! came from, by whatever registry and whatever becomes of that.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use wharf_tests::platforms::{self, Layout, digest, gzip, here, packed_layout, publish, raw};
use wharf_tests::registry::{Registry, Setup, ask, skopeo};
use wharf_tests::server::{Body, Reply, Request, Server};
use wharf_tests::{Daemon, Options, eventually, fsck, http};

const THREE: [&str; 3] = ["linux/s390x", "linux/amd64", "linux/arm64"];
const AGAIN: &str = "is not sent as it was";

fn foreign(name: &str, attested: bool) -> Layout {
    packed_layout(name, &THREE, attested, gzip)
}

/// Statuses of a push's lines, each once, by the API as a client that has logged in to where it pushes.
fn push(d: &Daemon, name: &str) -> (Vec<String>, String) {
    let (repository, tag) = name.rsplit_once(':').unwrap();
    // base64 of {"username":"me","password":"secret"}
    let auth = ("X-Registry-Auth", "eyJ1c2VybmFtZSI6Im1lIiwicGFzc3dvcmQiOiJzZWNyZXQifQ==");
    let path = format!("/v1.44/images/{repository}/push?tag={tag}");
    let answer = http::request_with(&d.socket(), "POST", &path, &[auth], "").unwrap();
    let text = answer.text();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut statuses: Vec<String> =
        lines.filter_map(|line| line["status"].as_str().map(str::to_owned)).collect();
    statuses.sort();
    statuses.dedup();
    (statuses, text)
}

/// Whether a registry has a blob in a repository.
fn has(d: &Daemon, registry: &Registry, repository: &str, digest: &str) -> bool {
    ask(d, &registry.address, "HEAD", &format!("/v2/{repository}/blobs/{digest}"), &[], b"").status == 200
}

#[test]
fn an_index_keeps_its_digest_and_attestations_at_another_registry() {
    let mut d = Daemon::start();
    let setup = Setup { password: true, ..Setup::default() };
    let (a, b) = (Registry::start(&d, 5000, Setup::default()), Registry::start(&d, 5001, setup));
    let made = foreign("made.example/app:1", true);
    publish(&d, &a, "team/app:1", &made);
    let (name, copy) = (format!("{}/team/app:1", a.address), format!("{}/other/app:2", b.address));
    d.docker(&["pull", "-q", "--platform", "all", &name]).ok();
    d.docker(&["tag", &name, &copy]).ok();
    // The other daemon life knows as well where it came from.
    d.stop();
    d.restart();
    let (statuses, text) = push(&d, &copy);
    for status in &statuses {
        let docker = ["Preparing", "Waiting", "Pushing", "Pushed", "Layer already exists"];
        let whole = [
            format!("The push refers to repository [{}/other/app]", b.address),
            format!("2: digest: {} size: {}", made.digest, made.index.len()),
        ];
        assert!(docker.contains(&status.as_str()) || whole.contains(status), "{text}");
    }
    assert!(text.contains(&format!("2: digest: {}", made.digest)), "{text}");
    // What others compare: every digest in it, by a client that refuses to change one.
    let to = format!("dir:{}", d.path("copied").display());
    let source = format!("docker://{copy}");
    let args = ["copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--src-creds", "me:secret"];
    skopeo(&d, &[&args[..], &[&source, &to]].concat()).ok();
    let index = std::fs::read_to_string(d.path("copied/manifest.json")).unwrap();
    assert_eq!(digest(index.as_bytes()), made.digest);
    let said = std::fs::read_dir(d.path("copied")).unwrap().map(|f| f.unwrap().file_name());
    let said: Vec<String> = said.map(|name| name.to_string_lossy().into_owned()).collect();
    let attestation = made.attestation.as_ref().unwrap().strip_prefix("sha256:").unwrap();
    assert!(said.iter().any(|name| name.contains(attestation)), "{said:?}");
    for member in &made.members {
        for layer in &member.layers {
            assert!(said.contains(&layer[7..].to_owned()), "{layer} of {} in {said:?}", member.platform);
        }
    }
    // Again there is nothing to send, and nothing is asked of the first.
    drop(a);
    let (statuses, text) = push(&d, &copy);
    assert!(!statuses.iter().any(|s| s == "Pushing" || s == "Pushed" || s.contains(AGAIN)), "{text}");
    assert!(text.contains(&made.digest), "{text}");
    // What comes back is what went.
    d.docker(&["rmi", &name, &copy]).ok();
    fsck::whole(&d, "after pushes");
}

#[test]
fn an_image_alone_keeps_its_digest_too_and_what_is_made_here_is_packed_here() {
    let d = Daemon::start();
    let ends = [5000, 5001, 5002].map(|port| Registry::start(&d, port, Setup::default()));
    let [mut a, b, c] = ends;
    let made = packed_layout("made.example/one:1", &[here()], false, gzip);
    publish(&d, &a, "team/one:1", &made);
    let member = &made.members[0];
    let name = format!("{}/team/one@{}", a.address, member.manifest);
    d.docker(&["pull", "-q", &name]).ok();
    let at = |registry: &Registry, what: &str| format!("{}/{what}", registry.address);
    d.docker(&["tag", &name, &at(&b, "one:1")]).ok();
    let (_, text) = push(&d, &at(&b, "one:1"));
    assert!(text.contains(&format!("1: digest: {}", member.manifest)), "{text}");
    assert_eq!(digest(raw(&d, &b.address, "one", "1").as_bytes()), member.manifest);
    // From where it went it goes on, when where it came from is gone.
    a.stop();
    d.docker(&["tag", &name, &at(&c, "one:1")]).ok();
    let (_, text) = push(&d, &at(&c, "one:1"));
    assert!(text.contains(&format!("1: digest: {}", member.manifest)), "{text}");
    // On top of it something is made here, and its manifest too: the same at both, and only the packer's work.
    let container = d.docker(&["create", &at(&c, "one:1"), "true"]).ok();
    let digests: Vec<String> = [&b, &c]
        .iter()
        .map(|registry| {
            let name = at(registry, "own:1");
            d.docker(&["commit", &container, &name]).ok();
            push(&d, &name);
            digest(raw(&d, &registry.address, "own", "1").as_bytes())
        })
        .collect();
    d.docker(&["tag", &at(&b, "own:1"), &at(&c, "third/own:1")]).ok();
    let (statuses, text) = push(&d, &at(&c, "third/own:1"));
    assert!(text.contains(&digests[0]), "{digests:?}: {text}");
    assert!(!statuses.iter().any(|s| s.contains(AGAIN)), "{text}");
}

#[test]
fn where_the_source_is_gone_layers_are_compressed_again_and_that_is_said() {
    let d = Daemon::start();
    let (mut a, b) =
        (Registry::start(&d, 5000, Setup::default()), Registry::start(&d, 5001, Setup::default()));
    let made = foreign("made.example/app:1", true);
    publish(&d, &a, "team/app:1", &made);
    let (name, copy) = (format!("{}/team/app:1", a.address), format!("{}/team/app:1", b.address));
    d.docker(&["pull", "-q", "--platform", "all", &name]).ok();
    d.docker(&["tag", &name, &copy]).ok();
    a.stop();
    let pushed = d.docker(&["push", &copy]).ok();
    assert!(
        pushed.contains(&format!("{AGAIN}, because {}/team/app does not give it", a.address)),
        "{pushed}"
    );
    assert!(pushed.contains("connection refused"), "{pushed}");
    assert!(pushed.contains(&made.digest) && pushed.contains("without attestations"), "{pushed}");
    let now = raw(&d, &b.address, "team/app", "1");
    assert_ne!(digest(now.as_bytes()), made.digest);
    assert!(pushed.contains(&format!("1: digest: {}", digest(now.as_bytes()))), "{pushed}");
    // What was packed here is known: the next registry gets the same without a word.
    let c = Registry::start(&d, 5002, Setup::default());
    let third = format!("{}/team/app:1", c.address);
    d.docker(&["rmi", &name]).ok();
    d.docker(&["tag", &copy, &third]).ok();
    d.docker(&["push", &third]).ok();
    fsck::whole(&d, "after pushes");
}

/// A registry of one image of one platform, good until it is told to be something else.
struct Source {
    server: Server,
    mode: Arc<AtomicU32>,
    made: Layout,
}

const GOOD: u32 = 0;
const FLIPPED: u32 = 1;
const MORE: u32 = 2;
const CUT: u32 = 3;
const STUCK: u32 = 4;
const ABSENT: u32 = 5;
const LOGIN: u32 = 6;
const AWAY: u32 = 7;
const TOKEN: u32 = 8;
const BROKEN: u32 = 9;

fn source(d: &Daemon, port: u16) -> Source {
    let made = packed_layout("made.example/one:1", &[here()], false, gzip);
    let mode = Arc::new(AtomicU32::new(GOOD));
    let (blobs, told) = (blobs(&made), Arc::clone(&mode));
    let manifest = made.members[0].manifest.clone();
    let layers = made.members[0].layers.clone();
    let server = Server::start(d, port, move |request| {
        answer(request, &blobs, &layers, &manifest, told.load(Ordering::SeqCst))
    });
    Source { server, mode, made }
}

/// All files of an archive's `blobs/sha256`.
fn blobs(made: &Layout) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(made.archive.as_slice());
    let mut all = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        all.push((digest(&bytes), bytes));
    }
    all
}

fn answer(
    request: &Request,
    blobs: &[(String, Vec<u8>)],
    layers: &[String],
    manifest: &str,
    mode: u32,
) -> Reply {
    let path = request.path.split('?').next().unwrap();
    let mut last = path.rsplit('/').next().unwrap();
    if path.contains("/manifests/") && last == "1" {
        last = manifest;
    }
    let unknown = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#;
    let Some((_, bytes)) = blobs.iter().find(|(digest, _)| digest == last) else {
        return if path.ends_with("/v2/") { Reply::new(200, "{}") } else { Reply::new(404, unknown) };
    };
    let bytes = if request.method == "HEAD" && mode != ABSENT && mode != LOGIN && mode != TOKEN {
        // The server sends no body to HEAD.
        bytes.clone()
    } else {
        match mode {
            _ if !layers.iter().any(|layer| layer == last) => bytes.clone(),
            FLIPPED => {
                let mut bad = bytes.clone();
                let at = bad.len() - 1;
                bad[at] ^= 1;
                bad
            }
            MORE => [bytes.clone(), vec![0; 4096]].concat(),
            CUT => {
                let half = bytes[..bytes.len() / 2].to_vec();
                return Reply::new(200, "").body(Body::Cut(bytes.len() as u64, half));
            }
            STUCK => {
                let half = bytes[..bytes.len() / 2].to_vec();
                return Reply::new(200, "").body(Body::Stuck(bytes.len() as u64, half));
            }
            BROKEN => {
                let from = request
                    .header("range")
                    .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
                let Some(from) = from.filter(|from: &usize| *from < bytes.len()) else {
                    let half = bytes[..bytes.len() / 2].to_vec();
                    return Reply::new(200, "").body(Body::Cut(bytes.len() as u64, half));
                };
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                return Reply::new(206, &bytes[from..]).with("Content-Range", &range);
            }
            ABSENT => return Reply::new(404, unknown),
            LOGIN => return Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"give\""),
            AWAY => return Reply::new(307, "").with("Location", "http://127.0.0.1:5009/v2/steal/blobs/x"),
            TOKEN => {
                let to = "Bearer realm=\"http://127.0.0.1:5009/token\",service=\"x\"";
                return Reply::new(401, "").with("WWW-Authenticate", to);
            }
            _ => bytes.clone(),
        }
    };
    let reply = Reply::new(200, bytes);
    if path.contains("/manifests/") {
        let reply = reply.with("Content-Type", "application/vnd.oci.image.manifest.v1+json");
        return reply.with("Docker-Content-Digest", last);
    }
    reply
}

/// A daemon that gives up soon.
fn hasty() -> Daemon {
    let config = serde_json::json!({"max-download-attempts": 2, "registry-stall-timeout": 1});
    Daemon::with(Options { config: Some(config.to_string()), ..Options::default() })
}

#[test]
fn a_hostile_source_costs_the_digest_and_nothing_else() {
    let d = hasty();
    let setup = Setup { password: true, ..Setup::default() };
    let b = Registry::start(&d, 5001, setup);
    let one = source(&d, 5000);
    let thief =
        Server::start(&d, 5009, |_| Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\""));
    let (member, name) = (&one.made.members[0], format!("{}/team/one:1", one.server.address));
    d.docker(&["pull", "-q", &name]).ok();
    let id = d.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok();
    for (mode, what, said) in [
        (FLIPPED, "flipped", "verification failed"),
        (MORE, "more", "instead of"),
        (CUT, "cut", "end of file before"),
        (STUCK, "stuck", "stands still"),
        (ABSENT, "absent", "unknown"),
        (LOGIN, "login", "no basic auth credentials"),
        (AWAY, "away", ""),
        (TOKEN, "token", ""),
    ] {
        one.mode.store(mode, Ordering::SeqCst);
        let repository = format!("copy/{what}");
        let copy = format!("{}/{repository}:1", b.address);
        d.docker(&["tag", &name, &copy]).ok();
        let (_, text) = push(&d, &copy);
        assert!(text.contains(AGAIN) && text.contains(said), "{what}: {text}");
        assert!(!text.contains("errorDetail"), "{what}: {text}");
        let creds = ("Authorization", "Basic bWU6c2VjcmV0");
        let path = format!("/v2/{repository}/manifests/1");
        let accept = ("Accept", "*/*");
        let now = ask(&d, &b.address, "GET", &path, &[creds, accept], b"");
        assert_eq!(now.status, 200, "{what}: {}", now.text());
        assert_ne!(digest(&now.body), member.manifest, "{what}");
        // Nothing wrong is there under a name, nor is half of anything.
        for layer in &member.layers {
            let path = format!("/v2/{repository}/blobs/{layer}");
            assert_eq!(ask(&d, &b.address, "HEAD", &path, &[creds], b"").status, 404, "{what}");
        }
        let source = format!("docker://{copy}");
        let target = format!("dir:{}", d.path(what).display());
        skopeo(&d, &["copy", "--src-tls-verify=false", "--src-creds", "me:secret", &source, &target]).ok();
        assert_eq!(d.docker(&["image", "inspect", "-f", "{{.Id}}", &copy]).ok(), id, "{what}");
        d.docker(&["rmi", &copy]).ok();
    }
    // What the caller shows to one registry it shows to no other.
    for request in one.server.seen().iter().chain(&thief.seen()) {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
    assert!(!thief.seen().is_empty(), "it was asked, and told nothing");
    // One that breaks off in the middle goes on where it was; when the source is well again, so is the digest.
    for (mode, what) in [(BROKEN, "broken"), (GOOD, "good")] {
        one.mode.store(mode, Ordering::SeqCst);
        let copy = format!("{}/copy/{what}:1", b.address);
        d.docker(&["tag", &name, &copy]).ok();
        let (_, text) = push(&d, &copy);
        assert!(text.contains(&format!("1: digest: {}", member.manifest)), "{what}: {text}");
        // From now on the registry would mount them.
        let ranges = one.server.seen().iter().filter(|r| r.header("range").is_some()).count();
        assert!(ranges >= member.layers.len(), "{ranges} of {what}");
    }
    fsck::whole(&d, "after hostile sources");
}

fn pushing(d: &Daemon, name: &str) -> Child {
    let mut command = d.docker_command(&["push", name]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn killed_in_the_middle_of_passing_on_it_leaves_nothing_and_can_be_done_again() {
    let mut d = Daemon::start();
    let b = Registry::start(&d, 5001, Setup::default());
    let one = source(&d, 5000);
    let (member, name) = (&one.made.members[0], format!("{}/team/one:1", one.server.address));
    d.docker(&["pull", "-q", &name]).ok();
    let copy = format!("{}/copy/one:1", b.address);
    d.docker(&["tag", &name, &copy]).ok();
    one.mode.store(STUCK, Ordering::SeqCst);
    let before = one.server.seen().len();
    let mut client = pushing(&d, &copy);
    eventually("the source to be read", || {
        let seen = one.server.seen();
        let read = |r: &&Request| r.method == "GET" && r.path.ends_with(member.layers[0].as_str());
        (seen[before..].iter().filter(read).count() > 0).then_some(())
    });
    d.crash();
    let _ = client.wait();
    assert!(member.layers.iter().all(|layer| !has(&d, &b, "copy/one", layer)));
    one.mode.store(GOOD, Ordering::SeqCst);
    d.restart();
    fsck::whole(&d, "after kill -9");
    let (_, text) = push(&d, &copy);
    assert!(text.contains(&format!("1: digest: {}", member.manifest)), "{text}");
    assert!(member.layers.iter().all(|layer| has(&d, &b, "copy/one", layer)));
    fsck::whole(&d, "after the push");
}

#[test]
fn policies_see_where_a_push_reads_from() {
    let config = serde_json::json!({"plugins": {"policy-images": {
        "enabled": true, "allow-registries": ["127.0.0.1:5000"]}}});
    let mut d = Daemon::with(Options { config: Some(config.to_string()), ..Options::default() });
    let (a, b) = (Registry::start(&d, 5000, Setup::default()), Registry::start(&d, 5001, Setup::default()));
    let made = foreign("made.example/app:1", true);
    publish(&d, &a, "team/app:1", &made);
    let (name, copy) = (format!("{}/team/app:1", a.address), format!("{}/team/app:1", b.address));
    d.docker(&["pull", "-q", "--platform", "all", &name]).ok();
    d.docker(&["tag", &name, &copy]).ok();
    // Since then nothing may come from there any more: nor through a push to elsewhere.
    d.stop();
    d.configure(&config.to_string().replace("127.0.0.1:5000", "127.0.0.1:5001"));
    d.restart();
    let pushed = d.docker(&["push", &copy]).ok();
    assert!(pushed.contains(AGAIN) && pushed.contains("denied by policy wharf/policy-images"), "{pushed}");
    assert!(!has(&d, &b, "team/app", &made.members[0].layers[0]));
}

/// What the daemon says of the attestations about a platform, with the statements.
fn attestations(d: &Daemon, name: &str, platform: &str) -> http::Response {
    let (os, architecture) = platform.split_once('/').unwrap();
    let platform = format!("%7B%22os%22%3A%22{os}%22%2C%22architecture%22%3A%22{architecture}%22%7D");
    d.api("GET", &format!("/v1.55/images/{name}/attestations?statement=1&platform={platform}"), "")
}

#[test]
fn attestations_are_read_from_what_is_here() {
    let d = Daemon::start();
    let mut a = Registry::start(&d, 5000, Setup::default());
    let made = foreign("made.example/app:1", true);
    publish(&d, &a, "team/app:1", &made);
    let name = format!("{}/team/app:1", a.address);
    // Only the one that nothing is said about is here: what is said about another, its registry knows.
    d.docker(&["pull", "-q", "--platform", "linux/arm64", &name]).ok();
    let said = |answer: http::Response| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let said = answer.json();
        let subject =
            format!("sha256:{}", said[0]["Statement"]["subject"][0]["digest"]["sha256"].as_str().unwrap());
        assert_eq!(subject, made.members[0].manifest, "{said}");
        assert_eq!(said[0]["PredicateType"], "https://spdx.dev/Document");
        said
    };
    let remote = said(attestations(&d, &name, "linux/s390x"));
    assert_eq!(attestations(&d, &name, "linux/arm64").json(), serde_json::json!([]));
    d.docker(&["pull", "-q", "--platform", "all", &name]).ok();
    a.stop();
    assert_eq!(said(attestations(&d, &name, "linux/s390x")), remote, "the same from here");
    assert_eq!(attestations(&d, &name, "linux/arm64").json(), serde_json::json!([]));
    let path = format!("/v1.55/images/{name}/attestations?type=other&platform=linux/s390x");
    assert_eq!(d.api("GET", &path, "").json(), serde_json::json!([]), "of another kind there is none");
    let absent = attestations(&d, &name, "linux/riscv64");
    assert_eq!(absent.status, 404, "{}", absent.text());
    assert!(absent.message().contains("does not provide the specified platform (linux/riscv64)"));
    // And where nothing of it is here, nobody knows: that is an error and not an answer.
    let statement = "linux/s390x";
    d.docker(&["image", "rm", "--platform", statement, &name]).ok();
    assert_eq!(attestations(&d, &name, statement).status, 500);
}

/// Digest of the index that a name leads to, and platforms and attestations of it that are here.
fn here_of(d: &Daemon, name: &str) -> (String, Vec<String>) {
    let image = d.api("GET", &format!("/v1.55/images/{name}/json?manifests=1"), "").json();
    let digest = image["Descriptor"]["digest"].as_str().unwrap().to_owned();
    let all = image["Manifests"].as_array().unwrap().iter().filter(|m| m["Available"] == true);
    let text = |m: &Value| match m["Kind"].as_str().unwrap() {
        "attestation" => "attestation".to_owned(),
        _ => m["ImageData"]["Platform"]["architecture"].as_str().unwrap().to_owned(),
    };
    (digest, all.map(text).collect())
}

#[test]
fn an_archive_brings_back_the_index_that_was_saved() {
    let d = Daemon::start();
    let a = Registry::start(&d, 5000, Setup::default());
    let made = foreign("made.example/app:1", true);
    publish(&d, &a, "team/app:1", &made);
    let name = format!("{}/team/app:1", a.address);
    let archive = |args: &[&str], to: &str| {
        let file = d.path(to).display().to_string();
        d.docker(&[&["save", "-o", &file], args].concat()).ok();
        file
    };
    // Of one platform first, then of all; each time under two names.
    d.docker(&["pull", "-q", "--platform", "linux/s390x", &name]).ok();
    d.docker(&["tag", &name, "other:1"]).ok();
    let part = archive(&[&name, "other:1"], "part.tar");
    d.docker(&["pull", "-q", "--platform", "all", &name]).ok();
    let all = archive(&[&name, "other:1"], "all.tar");
    let arm = archive(&["--platform", "linux/arm64", &name], "arm.tar");
    drop(a);
    let one = vec!["s390x".to_owned(), "attestation".to_owned()];
    let every = ["s390x", "amd64", "arm64", "attestation"].map(str::to_owned).to_vec();
    // Another host, that has never heard of the registry.
    let e = Daemon::start();
    for (file, names, wanted) in [
        (&part, &[name.as_str(), "other:1"][..], one),
        (&all, &[name.as_str(), "other:1"], every),
        (&arm, &[name.as_str()], vec!["arm64".to_owned()]),
    ] {
        e.docker(&["load", "-q", "-i", file]).ok();
        for name in names {
            assert_eq!(here_of(&e, name), (made.digest.clone(), wanted.clone()), "{file}: {name}");
        }
        let digests = e.docker(&["image", "inspect", "-f", "{{json .RepoDigests}}", names[0]]).ok();
        assert!(digests.contains(&format!("team/app@{}", made.digest)), "{digests}");
        if wanted.contains(&"s390x".to_owned()) {
            let ran = e.docker(&["run", "--rm", "--platform", "linux/s390x", names[0]]).out;
            assert_eq!(ran, "linux/s390x of made.example/app:1\n");
            // What it says about its images came along.
            assert_eq!(
                attestations(&e, names[0], "linux/s390x").json()[0]["PredicateType"],
                "https://spdx.dev/Document"
            );
        }
        e.docker(&[&["rmi"], names].concat()).ok();
        fsck::whole(&e, "after rmi");
    }
    // To others the same archive is a good layout of all platforms.
    let source = format!("oci-archive:{all}:1");
    let seen = format!("dir:{}", d.path("seen").display());
    skopeo(&d, &["copy", "--all", &source, &seen]).ok();
    // Where nobody has the bytes any more, a push says so.
    let b = Registry::start(&e, 5001, Setup::default());
    e.docker(&["load", "-q", "-i", &all]).ok();
    let copy = format!("{}/copy/app:1", b.address);
    e.docker(&["tag", &name, &copy]).ok();
    let pushed = e.docker(&["push", &copy]).ok();
    assert!(pushed.contains("compressed again") && pushed.contains(&made.digest), "{pushed}");
    // An index whose layers are not compressed is the index itself in the archive, for everybody.
    let plain = platforms::layout("plain:1", &THREE, true);
    d.docker_with_input(&["load"], &plain.archive).ok();
    let exact = archive(&["plain:1"], "plain.tar");
    let copied = d.path("plain").display().to_string();
    let source = format!("oci-archive:{exact}:1");
    skopeo(&d, &["copy", "--all", "--preserve-digests", &source, &format!("dir:{copied}")]).ok();
    let index = std::fs::read_to_string(d.path("plain/manifest.json")).unwrap();
    assert_eq!(index, plain.index);
    d.docker(&["rmi", "plain:1"]).ok();
    d.docker(&["load", "-q", "-i", &exact]).ok();
    assert_eq!(here_of(&d, "plain:1").0, plain.digest);
    assert_eq!(here_of(&d, "plain:1").1.len(), 4);
}

#[test]
fn an_index_without_a_name_loads_all_that_it_has() {
    let d = Daemon::start();
    let made = foreign("named:1", true);
    let file = wharf_tests::image::save(&d.path("named.tar"), &made.archive);
    let bare = d.path("bare.tar").display().to_string();
    let args = [
        "copy",
        "--all",
        "--preserve-digests",
        &format!("oci-archive:{file}"),
        &format!("oci-archive:{bare}"),
    ];
    skopeo(&d, &args).ok();
    let loaded = d.docker(&["load", "-i", &bare]).ok();
    for member in &made.members {
        assert!(loaded.contains(&format!("Loaded image ID: {}", member.config)), "{loaded}");
    }
    let ids = d.docker(&["images", "-aq", "--no-trunc"]).ok();
    let mut ids: Vec<&str> = ids.lines().collect();
    ids.sort_unstable();
    let mut wanted: Vec<&str> = made.members.iter().map(|m| m.config.as_str()).collect();
    wanted.sort_unstable();
    assert_eq!(ids, wanted);
    fsck::whole(&d, "with images without a name");
    d.docker(&["image", "prune", "-f"]).ok();
    d.docker(&["load", "-q", "--platform", "linux/s390x", "-i", &bare]).ok();
    assert_eq!(d.docker(&["images", "-aq", "--no-trunc"]).ok(), made.members[0].config);
}

#[test]
fn an_archive_that_lies_about_a_former_index_moves_no_strange_bytes() {
    let d = Daemon::start();
    let b = Registry::start(&d, 5001, Setup::default());
    // The registry has a layer that the archive says is the image's.
    let evil = gzip(b"what nobody wants");
    let evil_digest = digest(&evil);
    let upload = ask(&d, &b.address, "POST", "/v2/team/app/blobs/uploads/", &[], b"");
    let location = upload.header("location").unwrap();
    let path = location.split_once("/v2/").map(|(_, rest)| format!("/v2/{rest}")).unwrap();
    let path = format!("{path}&digest={evil_digest}");
    let kind = [("Content-Type", "application/octet-stream")];
    assert_eq!(ask(&d, &b.address, "PUT", &path, &kind, &evil).status, 201);
    let honest = platforms::layout("x:1", &[here()], false);
    let name = format!("{}/team/app:1", b.address);
    let mut archive = Vec::new();
    let mut add = |bytes: &[u8]| {
        let hex = wharf_tests::image::sha256(bytes);
        wharf_tests::image::entry(&mut archive, &format!("blobs/sha256/{hex}"), b'0', 0o644, "", bytes);
        format!("sha256:{hex}")
    };
    let of = blobs(&honest);
    let find = |wanted: &str| {
        of.iter().find(|(digest, _)| digest == wanted).map(|(_, bytes)| bytes.clone()).unwrap()
    };
    let member = &honest.members[0];
    for part in member.layers.iter().chain([&member.config, &member.manifest]) {
        add(&find(part));
    }
    let mut manifest: Value = serde_json::from_slice(&find(&member.manifest)).unwrap();
    let size = manifest.to_string().len();
    manifest["layers"][1] = serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": evil_digest, "size": evil.len()});
    let manifest = manifest.to_string();
    let listed = add(manifest.as_bytes());
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": listed,
            "size": manifest.len(), "platform": {"os": "linux", "architecture": here().split_once('/').unwrap().1}}]});
    let former = add(index.to_string().as_bytes());
    let top = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": member.manifest, "size": size,
        "annotations": {"io.containerd.image.name": name, "org.wharf.image.index": former}}]});
    wharf_tests::image::entry(&mut archive, "index.json", b'0', 0o644, "", top.to_string().as_bytes());
    wharf_tests::image::entry(
        &mut archive,
        "oci-layout",
        b'0',
        0o644,
        "",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    );
    wharf_tests::image::finish(&mut archive);
    d.docker_with_input(&["load"], &archive).ok();
    assert_eq!(here_of(&d, &name).0, former);
    let (_, text) = push(&d, &name);
    assert!(!text.contains("errorDetail"), "{text}");
    let pushed = raw(&d, &b.address, "team/app", "1");
    assert!(!pushed.contains(&listed), "{pushed}");
    let index: Value = serde_json::from_str(&pushed).unwrap();
    let sent = index["manifests"][0]["digest"].as_str().unwrap();
    assert!(!raw(&d, &b.address, "team/app", sent).contains(&evil_digest));
    d.docker(&["rmi", &name]).ok();
    d.docker(&["pull", "-q", &name]).ok();
    assert_eq!(d.docker(&["run", "--rm", &name]).ok(), format!("{} of x:1", here()));
}

#[test]
fn a_tree_shows_the_platforms_of_an_index_with_their_sizes() {
    let d = Daemon::start();
    d.docker_with_input(&["load", "--platform", "linux/s390x"], &foreign("app:1", true).archive).ok();
    d.docker(&["create", "--platform", "linux/s390x", "app:1", "true"]).ok();
    let tree = d.wharf(&["images", "--tree"]).ok();
    let lines: Vec<Vec<&str>> = tree.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["IMAGE", "ID", "DISK", "USAGE", "CONTENT", "SIZE", "EXTRA"]);
    assert_eq!(lines.len(), 5, "one for the name and one for each platform: {tree}");
    assert_eq!((lines[1][0], lines[1].last()), ("app:1", Some(&"U")), "{tree}");
    assert_eq!((&lines[2][..2], lines[2].last()), (&["├─", "linux/s390x"][..], Some(&"U")), "{tree}");
    assert!(lines[2][3].ends_with("MB"), "{tree}");
    assert_eq!(&lines[4][..2], ["└─", "linux/arm64"], "{tree}");
    assert_eq!(lines[4][3..], ["0B", "0B"], "what is not here takes nothing: {tree}");
    d.wharf(&["images", "--tree", "-q"]).fails(125, "--quiet is not supported with --tree");
}
