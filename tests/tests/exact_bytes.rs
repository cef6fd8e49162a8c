//! An index keeps its digest and its attestations wherever it goes: what others compressed is passed on as it is from where it
//! came from, by whatever registry and whatever becomes of that.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use wharf_tests::platforms::{Layout, digest, gzip, here, packed_layout, publish, raw};
use wharf_tests::registry::{Registry, Setup, ask};
use wharf_tests::server::{Body, Reply, Request, Server};
use wharf_tests::{Daemon, Options, Ran, eventually, fsck, http};

const THREE: [&str; 3] = ["linux/s390x", "linux/amd64", "linux/arm64"];
const AGAIN: &str = "is compressed again";

fn foreign(name: &str, attested: bool) -> Layout {
    packed_layout(name, &THREE, attested, gzip)
}

fn skopeo(d: &Daemon, args: &[&str]) -> Ran {
    let mut command = d.in_namespace("skopeo");
    command.arg("--tmpdir").arg(d.path("")).args(args);
    d.run_with_input(command, b"")
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
    assert!(pushed.contains(&format!("{AGAIN}, as {}/team/app does not give it", a.address)), "{pushed}");
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
        (CUT, "cut", "ended after"),
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
    // When the source is well again, so is the digest.
    one.mode.store(GOOD, Ordering::SeqCst);
    let copy = format!("{}/copy/good:1", b.address);
    d.docker(&["tag", &name, &copy]).ok();
    let (_, text) = push(&d, &copy);
    assert!(text.contains(&format!("1: digest: {}", member.manifest)), "{text}");
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
