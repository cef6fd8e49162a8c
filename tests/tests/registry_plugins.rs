//! Plugins of others that keep credentials and redirect references, installed as anybody's are: what they are for, with
//! Debian's registry and its passwords as the other side; and what hostile ones cannot do.

#[path = "../../host/plugins/tests/common/guest.rs"]
mod guest;

use std::fmt::Write;

use guest::Guest;
use serde_json::json;
use wharf_tests::registry::{Registry, Setup};
use wharf_tests::server::{Reply, Server};
use wharf_tests::{Daemon, Options, image};

const CREDENTIALS: &str = "wharf:registry/credentials@0.1.0";
const RESOLVER: &str = "wharf:registry/resolver@0.1.0";
/// Where an answer is put, and where texts are.
const ANSWER: usize = 1024;
const TEXTS: usize = 8192;

/// Texts in a guest's memory.
#[derive(Default)]
struct Texts {
    wat: String,
    length: usize,
}

impl Texts {
    /// Puts one there; answers instructions that store its place and length at `at`.
    fn put(&mut self, text: &str, at: usize) -> String {
        let place = TEXTS + self.length;
        let escaped: String = text.bytes().fold(String::new(), |mut all, b| {
            let _ = write!(all, "\\{b:02x}");
            all
        });
        let _ = write!(self.wat, "(data (i32.const {place}) \"{escaped}\")");
        self.length += text.len();
        store(at, place) + &store(at + 4, text.len())
    }
}

fn store(at: usize, value: usize) -> String {
    format!("(i32.store (i32.const {at}) (i32.const {value}))")
}

/// A comparison of the text that a function was given (`$p`, `$n`) with the one at a place.
const SAME: &str =
    "(func $same (param $p i32) (param $n i32) (param $q i32) (param $m i32) (result i32) (local $i i32)
    (if (i32.ne (local.get $n) (local.get $m)) (then (return (i32.const 0))))
    (block $end (loop $next
      (br_if $end (i32.ge_u (local.get $i) (local.get $n)))
      (if (i32.ne (i32.load8_u (i32.add (local.get $p) (local.get $i)))
                  (i32.load8_u (i32.add (local.get $q) (local.get $i)))) (then (return (i32.const 0))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next)))
    (i32.const 1))";

/// A helper that has a password for one registry; with none, for every one.
fn helper(name: &str, registry: Option<&str>, user: &str, password: &str) -> Guest {
    let mut texts = Texts::default();
    let mut body = String::new();
    // result: ok at 0; option at 8; the secret's case at 16 and its texts from 20 on; no end at 40.
    if let Some(registry) = registry {
        let _ = texts.put(registry, 0);
        let _ = write!(
            body,
            "(if (i32.eqz (call $same (local.get 0) (local.get 1) (i32.const {TEXTS}) (i32.const {})))
               (then (i64.store (i32.const {ANSWER}) (i64.const 0)) (i64.store (i32.const {}) (i64.const 0))
                 (return (i32.const {ANSWER}))))",
            registry.len(),
            ANSWER + 8
        );
    }
    body += &(store(ANSWER, 0) + &store(ANSWER + 8, 1) + &store(ANSWER + 16, 0) + &store(ANSWER + 40, 0));
    body += &texts.put(user, ANSWER + 20);
    body += &texts.put(password, ANSWER + 28);
    let _ = write!(body, "(i32.const {ANSWER})");
    Guest::new(name, &[CREDENTIALS]).extra(SAME).extra(&texts.wat).body("get", &body)
}

/// A resolver that sends every reference to this address, with this header.
fn resolver(name: &str, url: &str, header: Option<(&str, &str)>, pinned: Option<&str>) -> Guest {
    let mut texts = Texts::default();
    // One endpoint at 2048: url, no rewrite, headers (at 3072), no push.
    let (endpoint, headers) = (2048, 3072);
    let mut body =
        store(ANSWER, 0) + &store(ANSWER + 4, 1) + &store(ANSWER + 8, endpoint) + &store(ANSWER + 12, 1);
    match pinned {
        None => body += &store(ANSWER + 16, 0),
        Some(digest) => body += &(store(ANSWER + 16, 1) + &texts.put(digest, ANSWER + 20)),
    }
    body += &(texts.put(url, endpoint) + &store(endpoint + 8, 0));
    body += &(store(endpoint + 20, headers) + &store(endpoint + 24, usize::from(header.is_some())));
    body += &store(endpoint + 28, 0);
    if let Some((key, value)) = header {
        body += &(texts.put(key, headers) + &texts.put(value, headers + 8));
    }
    let _ = write!(body, "(i32.const {ANSWER})");
    Guest::new(name, &[RESOLVER]).extra(&texts.wat).body("resolve", &body)
}

fn daemon(plugins: &[Guest]) -> (Daemon, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    for plugin in plugins {
        plugin.install(dir.path());
    }
    let config = json!({"max-download-attempts": 1}).to_string();
    let options = Options { plugins: Some(dir.path().into()), config: Some(config), ..Options::default() };
    (Daemon::with(options), dir)
}

/// Puts busybox into a registry.
fn seed(d: &Daemon, registry: &Registry, name: &str) -> String {
    let archive = image::save(&d.path("seed.tar"), &image::docker_archive("seed:1", &[image::busybox_tar()]));
    let target = format!("docker://{}/{name}", registry.address);
    registry
        .skopeo(d, &["copy", "--dest-tls-verify=false", &format!("docker-archive:{archive}"), &target])
        .ok();
    format!("{}/{name}", registry.address)
}

const PASSWORD: Setup = Setup { tls: false, password: true, delete: false, clients: false, host: None };

#[test]
fn a_helper_of_others_opens_its_registry() {
    let (d, _dir) = daemon(&[helper("acme/vault", Some("127.0.0.1:5000"), "me", "secret")]);
    let registry = Registry::start(&d, 5000, PASSWORD);
    let name = seed(&d, &registry, "team/app:1");
    // The client sends nothing: what opens the registry is the plugin's.
    assert!(d.docker(&["pull", &name]).ok().contains("Downloaded newer image"));
    assert_eq!(d.docker(&["run", "--rm", "--network", "none", &name, "echo", "ran"]).ok(), "ran");
    let pushed = name.replace(":1", ":2");
    d.docker(&["tag", &name, &pushed]).ok();
    assert!(d.docker(&["push", &pushed]).ok().contains("2: digest: sha256:"));
    let answer = d.api("GET", &format!("/distribution/{name}/json"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Another registry with the same password gets nothing of it.
    let other = Registry::start(&d, 5001, PASSWORD);
    let foreign = seed(&d, &other, "team/app:1");
    let ran = d.docker(&["pull", &foreign]);
    assert!(ran.code == 1 && ran.err.contains("no basic auth credentials"), "{ran:?}");
}

#[test]
fn a_resolver_of_others_leads_to_a_mirror_and_pins() {
    let (mut d, dir) = daemon(&[
        helper("acme/vault", Some("127.0.0.1:5000"), "me", "secret"),
        resolver("acme/mirror", "http://127.0.0.1:5000", None, None),
    ]);
    let registry = Registry::start(&d, 5000, PASSWORD);
    let name = seed(&d, &registry, "team/app:1");
    // The name's own registry does not exist; the mirror has it, and its credential is asked for by the mirror's name.
    let wanted = name.replace(":5000", ":5999");
    let ran = d.docker(&["pull", &wanted]);
    assert!(ran.code == 0 && ran.out.contains(&wanted), "{ran:?}\n{}", d.log());
    assert_eq!(d.docker(&["images", "--format", "{{.Repository}}"]).ok(), wanted.rsplit_once(':').unwrap().0);
    // What is pinned is what is pulled, or nothing.
    d.docker(&["rmi", &wanted]).ok();
    d.stop();
    let pin = format!("sha256:{}", "1".repeat(64));
    resolver("acme/mirror", "http://127.0.0.1:5000", None, Some(&pin)).install(dir.path());
    d.restart();
    let ran = d.docker(&["pull", &wanted]);
    assert!(ran.code == 1 && ran.err.contains(&pin), "{ran:?}");
    assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
}

/// A registry that writes down what it is shown and lets nobody in.
fn thief(d: &Daemon, port: u16) -> Server {
    Server::start(d, port, |_| {
        Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}"#)
            .with("Www-Authenticate", "Basic realm=\"thief\"")
    })
}

fn shown(server: &Server) -> Vec<String> {
    server.seen().iter().filter_map(|r| r.header("authorization").map(str::to_owned)).collect()
}

#[test]
fn a_resolver_gets_no_credential_of_the_registry_it_leads_away_from() {
    let (d, _dir) = daemon(&[
        helper("acme/vault", Some("127.0.0.1:5000"), "me", "secret"),
        resolver("evil/resolver", "http://127.0.0.1:5001", None, None),
    ]);
    let thief = thief(&d, 5001);
    let registry = Registry::start(&d, 5000, PASSWORD);
    let name = seed(&d, &registry, "team/app:1");
    // Neither what a helper keeps, nor what the client sends along.
    assert!(
        d.docker(&["pull", &name]).ok().contains("Downloaded newer image"),
        "the registry itself is asked then"
    );
    assert!(!thief.seen().is_empty(), "the plugin's place was asked first");
    assert_eq!(shown(&thief), Vec::<String>::new());
    d.docker(&["rmi", &name]).ok();
    d.docker_with_input(&["login", "-u", "me", "--password-stdin", &registry.address], b"secret").ok();
    d.docker(&["pull", &name]).ok();
    assert_eq!(shown(&thief), Vec::<String>::new());
}

#[test]
fn addresses_and_headers_of_a_resolver_are_what_they_say_or_refused() {
    let (mut d, dir) = daemon(&[]);
    let thief = thief(&d, 5001);
    for (url, header) in [
        ("file:///etc/passwd", None),
        ("gopher://127.0.0.1:5001", None),
        ("http://", None),
        ("http://127.0.0.1:5001 x", None),
        ("http://127.0.0.1:5001\r\nX: y", None),
        ("", None),
        ("http://127.0.0.1:5001", Some(("X-One", "a\r\nX-Two: b"))),
        ("http://127.0.0.1:5001", Some(("X-One\r\nX-Two", "a"))),
    ] {
        d.stop();
        resolver("evil/resolver", url, header, None).install(dir.path());
        d.restart();
        let ran = d.docker(&["pull", "127.0.0.1:5999/team/app:1"]);
        assert_eq!(ran.code, 1, "{url:?} {header:?}: {ran:?}");
        assert!(
            thief.seen().iter().all(|r| r.header("x-two").is_none() && r.header("x").is_none()),
            "{url:?}"
        );
        assert_eq!(d.docker(&["images", "-aq"]).ok(), "");
    }
}

/// Every way not to answer: what was asked for goes on without the plugin, or fails by name; the daemon is well.
#[test]
fn helpers_that_fail_keep_nobody_from_public_images() {
    let huge = "(i32.store (i32.const 1024) (i32.const 0)) (i32.store (i32.const 1032) (i32.const 1))
        (i32.store (i32.const 1040) (i32.const 2)) (i32.store (i32.const 1064) (i32.const 0))
        (drop (memory.grow (i32.const 200)))
        (i32.store (i32.const 1044) (i32.const 65536)) (i32.store (i32.const 1048) (i32.const 12000000))
        (i32.const 1024)";
    let outside = huge.replace("12000000", "2000000000");
    let (mut d, dir) = daemon(&[]);
    let open = Registry::start(&d, 5000, Setup::default());
    let closed = Registry::start(&d, 5001, PASSWORD);
    let (public, private) = (seed(&d, &open, "team/app:1"), seed(&d, &closed, "team/app:1"));
    for (what, body) in [
        ("crashes", "unreachable"),
        ("loops", "(loop $l (br $l)) unreachable"),
        ("grows", "(loop $l (drop (memory.grow (i32.const 16))) (br $l)) unreachable"),
        ("answers with twelve megabytes", huge),
        ("answers with what it has not", &outside),
    ] {
        d.stop();
        Guest::new("evil/helper", &[CREDENTIALS]).body("get", body).install(dir.path());
        d.restart();
        assert!(d.docker(&["pull", &public]).ok().contains("Downloaded newer image"), "{what}");
        d.docker(&["rmi", &public]).ok();
        let ran = d.docker(&["pull", &private]);
        assert!(ran.code == 1 && !ran.err.contains("panicked"), "{what}: {ran:?}");
        assert_eq!(d.docker(&["images", "-aq"]).ok(), "", "{what}");
    }
    // Texts that would end a header, or are none, go into no request.
    for (user, password) in [("me\r\nX-Two: b", "x"), ("a:b", "\0"), ("", "")] {
        d.stop();
        helper("evil/helper", None, user, password).install(dir.path());
        d.restart();
        let ran = d.docker(&["pull", &private]);
        assert_eq!(ran.code, 1, "{user:?}: {ran:?}");
        assert_eq!(d.docker(&["version", "-f", "{{.Server.Version}}"]).code, 0);
    }
}

/// What a helper asks the host for and was not granted: it is told so, and nothing is done.
#[test]
fn a_helper_gets_nothing_that_it_was_not_granted() {
    const AT: usize = 2048;
    // What came back is handed out as the password: a secret's bytes at 4 and 8, an error's message at 8 and 12.
    let answer = |texts: &mut Texts| {
        let pass_on = |from: usize| {
            format!(
                "(i32.store (i32.const {}) (i32.load (i32.const {}))) (i32.store (i32.const {}) (i32.load (i32.const {})))",
                ANSWER + 28,
                AT + from,
                ANSWER + 32,
                AT + from + 4
            )
        };
        store(ANSWER, 0)
            + &store(ANSWER + 8, 1)
            + &store(ANSWER + 16, 0)
            + &store(ANSWER + 40, 0)
            + &texts.put("told", ANSWER + 20)
            + &format!(
                "(if (i32.load8_u (i32.const {AT})) (then {}) (else {})) (i32.const {ANSWER})",
                pass_on(8),
                pass_on(4)
            )
    };
    // Texts are at 8192: where their place and length are wanted as arguments.
    let args = |texts: &mut Texts, text: &str| {
        let at = TEXTS + texts.length;
        let _ = texts.put(text, 0);
        format!("(i32.const {at}) (i32.const {})", text.len())
    };
    let (mut d, dir) = daemon(&[]);
    let spy = Server::start(&d, 5002, |_| Reply::new(200, "{}"));
    let thief = thief(&d, 5001);
    let asked = |what: &str| -> Guest {
        let mut texts = Texts::default();
        let (interface, function, params, call) = match what {
            "secrets" => {
                let name = args(&mut texts, "vault");
                ("wharf:plugin/secrets@0.1.0", "reveal", "i32 i32 i32", name)
            }
            "http" => {
                let all: String = ["POST", "http://127.0.0.1:5002/stolen", "", "all that I know"]
                    .iter()
                    .map(|text| args(&mut texts, text))
                    .collect();
                let call = all + "(i32.const 1000) (i32.const 1000)";
                ("wharf:plugin/http@0.1.0", "send", "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32", call)
            }
            _ => {
                let both: String =
                    ["container", "keeper"].iter().map(|text| args(&mut texts, text)).collect();
                ("wharf:plugin/engine@0.1.0", "get", "i32 i32 i32 i32 i32", both)
            }
        };
        let body = format!("(call $ask {call} (i32.const {AT}))") + &answer(&mut texts);
        Guest::new("evil/asker", &[CREDENTIALS])
            .import(interface, function, "ask", params, "")
            .extra(&texts.wat)
            .body("get", &body)
    };
    for (what, told) in [
        ("secrets", "secret \"vault\" is not granted"),
        ("http", "requests to \"http://127.0.0.1:5002\" are not granted"),
        ("engine", "sight of \"container\" objects is not granted"),
    ] {
        d.stop();
        asked(what).install(dir.path());
        d.restart();
        // The password that the plugin hands out is what it was told.
        d.docker(&["pull", &format!("{}/team/app:1", thief.address)]).fails(1, "");
        let wanted = base64::Engine::encode(
            &base64::engine::general_purpose::STANDARD,
            format!("told:{told}").as_bytes(),
        );
        let seen = shown(&thief);
        assert_eq!(seen.last(), Some(&format!("Basic {wanted}")), "{what}: {seen:?}\n{}", d.log());
    }
    assert!(spy.seen().is_empty(), "{:?}", spy.seen());
    // What no plugin can have at all: the component is refused by name, and the daemon goes on without it.
    d.stop();
    Guest::new("evil/asker", &[CREDENTIALS])
        .world(&format!(
            "package t:t; /* t:t/files */ interface files {{ open: func(path: string) -> u32; }} world guest {{ import files; export {CREDENTIALS}; }}"
        ))
        .import("t:t/files", "open", "open", "i32 i32", "(result i32)")
        .body("get", "unreachable")
        .install(dir.path());
    d.restart();
    let open = Registry::start(&d, 5000, Setup::default());
    let public = seed(&d, &open, "team/app:1");
    assert!(d.docker(&["pull", &public]).ok().contains("Downloaded newer image"));
    let listed = d.wharf(&["plugin", "ls"]);
    let refused = format!("{}{}{}", listed.out, listed.err, d.log());
    assert!(refused.contains("t:t/files"), "{refused}");
}
