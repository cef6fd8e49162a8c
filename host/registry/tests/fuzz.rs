//! What registries and clients send, by chance: half well-formed, half damaged. `PROPTEST_CASES` sets how many of each; a
//! case that fails is made small and printed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests may panic"
)]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use wharf_registry::hosts::{self, Found};
use wharf_registry::{Credential, Document, Platform, Settings, challenge, digest, manifest};

fn runner(cases: u32) -> TestRunner {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    TestRunner::new(Config { cases: asked.unwrap_or(cases), failure_persistence: None, ..Config::default() })
}

/// Damage to a text: what to do, where, with what.
fn damage() -> impl Strategy<Value = Vec<(u8, prop::sample::Index, String)>> {
    let with = prop_oneof![
        "\\PC{0,3}",
        prop::sample::select(vec![
            "\"", "\\", ",", "=", "{", "[", "]", "}", "\n", "\0", " ", "://", "-1", "1e999"
        ])
        .prop_map(str::to_owned)
    ];
    prop_oneof![1 => Just(Vec::new()), 3 => vec((0u8..4, any::<prop::sample::Index>(), with), 1..6)]
}

fn damaged(text: &str, damage: &[(u8, prop::sample::Index, String)]) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for (what, at, with) in damage {
        if letters.is_empty() {
            break;
        }
        let at = at.index(letters.len());
        match what {
            0 => letters.truncate(at),
            1 => drop(letters.remove(at)),
            2 => letters.splice(at..at, with.chars()).for_each(drop),
            _ => {
                let part = letters[at..(at + 20).min(letters.len())].to_vec();
                letters.splice(at..at, part).for_each(drop);
            }
        }
    }
    letters.into_iter().collect()
}

#[test]
fn challenges() {
    let seeds = [
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#,
        r#"Basic realm="Registry \"of\" mine""#,
        r#"Basic realm=x, Bearer realm="y",scope="a b",error=insufficient_scope"#,
        "Negotiate abc==, Bearer realm=https://x/y?z=1",
    ];
    let strategy = (prop::sample::select(seeds.to_vec()), damage());
    runner(4000)
        .run(&strategy, |(seed, damage)| {
            let header = damaged(seed, &damage);
            let found = challenge::parse(&header);
            prop_assert!(found.len() <= 8);
            let mut bytes = 0;
            for one in &found {
                prop_assert!(!one.scheme.is_empty());
                prop_assert_eq!(one.scheme.to_ascii_lowercase(), one.scheme.clone());
                bytes += one.scheme.len();
                for (name, value) in &one.parameters {
                    prop_assert_eq!(&name.to_ascii_lowercase(), name);
                    bytes += name.len() + value.len();
                }
            }
            // Nothing is there that was not sent: what is believed is at most as long as the header.
            prop_assert!(bytes <= header.len() * 3, "{} bytes of {:?}", bytes, header);
            Ok(())
        })
        .unwrap();
    assert!(challenge::parse(&"Bearer a=\"b\",".repeat(100_000)).len() <= 8);
}

#[test]
fn registry_auth_headers() {
    let seeds = [
        r#"{"username":"me","password":"secret","serveraddress":"x"}"#,
        r#"{"auth":"bWU6c2VjcmV0"}"#,
        r#"{"identitytoken":"secret"}"#,
        r#"{"registrytoken":"secret"}"#,
        r#"{"username":null,"password":5}"#,
    ];
    let strategy = (prop::sample::select(seeds.to_vec()), damage(), damage());
    runner(4000)
        .run(&strategy, |(seed, inside, outside)| {
            let header = damaged(&URL_SAFE.encode(damaged(seed, &inside)), &outside);
            match Credential::of_header(&header) {
                Ok(_) => {}
                Err(error) => {
                    // An error is shown to users and written to logs: it says nothing of the secret.
                    let text = error.to_string();
                    prop_assert!(
                        text.starts_with("invalid X-Registry-Auth header: ") && text.len() < 200,
                        "{}",
                        text
                    );
                    prop_assert!(!text.contains("secret") && !text.contains("bWU6"), "{}", text);
                }
            }
            Ok(())
        })
        .unwrap();
    assert!(Credential::of_header(&"A".repeat(10 << 20)).is_err());
}

#[test]
fn manifests() {
    let d = |n: char| format!("sha256:{}", n.to_string().repeat(64));
    let image = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": d('a'), "size": 5},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": d('b'), "size": 7, "urls": ["https://x/y"]}]})
    .to_string();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": d('c'), "size": 9,
         "platform": {"architecture": "arm64", "os": "linux", "variant": "v8"}},
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": d('d'), "size": 9,
         "platform": {"architecture": "unknown", "os": "unknown"}, "annotations": {"vnd.docker.reference.type": "x"}}]})
    .to_string();
    let types = prop::sample::select(vec![
        "",
        "application/json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "text/html; x",
    ]);
    let strategy = (prop::sample::select(vec![image, index]), damage(), types);
    let host = Platform::host();
    runner(4000)
        .run(&strategy, |(seed, damage, stated)| {
            let text = damaged(&seed, &damage);
            let Ok((document, media)) = Document::parse(text.as_bytes(), stated) else { return Ok(()) };
            // Both of nothing: what is an image has no list, and the other way round, also for a reader that knows no
            // types.
            let plain: serde_json::Value = serde_json::from_str(&text).unwrap();
            let descriptors = match &document {
                Document::Image(image) => {
                    prop_assert!(plain.get("manifests").is_none_or(serde_json::Value::is_null), "{}", text);
                    prop_assert!(!media.contains("index") && !media.contains("list"));
                    std::iter::once(&image.config)
                        .chain(&image.layers)
                        .chain(&image.subject)
                        .collect::<Vec<_>>()
                }
                Document::Index(entries) => {
                    prop_assert!(plain.get("layers").is_none_or(serde_json::Value::is_null), "{}", text);
                    prop_assert!(media.contains("index") || media.contains("list"));
                    for chosen in manifest::choose(entries, &host) {
                        prop_assert!(entries.contains(chosen));
                    }
                    entries.iter().collect()
                }
            };
            for one in descriptors {
                prop_assert!(digest::check(&one.digest).is_ok());
                prop_assert!(i64::try_from(one.size).is_ok());
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn hosts_files() {
    let seeds = [
        "server = \"https://registry.example\"\n[host.\"https://mirror.example:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\nskip_verify = true\n",
        "[host.\"http://10.0.0.1\"]\nca = [\"a.crt\", \"/etc/b.crt\"]\nclient = [[\"c.cert\", \"c.key\"]]\noverride_path = true\n[host.\"http://10.0.0.1\".header]\nx-y = [\"z\"]\n",
        "ca = \"x\"\n[host]\n",
    ];
    let strategy = (
        prop::sample::select(seeds.to_vec()),
        damage(),
        prop::sample::select(vec!["docker.io", "localhost:5000", "example.org", "[::1]:80"]),
    );
    runner(2000)
        .run(&strategy, |(seed, damage, registry)| {
            let text = damaged(seed, &damage);
            let found = Found { text: Some(text.clone()), directory: "/certs".into(), ..Found::default() };
            match hosts::plan(registry, &Settings::default(), &found) {
                Err(error) => prop_assert!(!error.to_string().is_empty()),
                Ok(endpoints) => {
                    for one in &endpoints {
                        prop_assert!(matches!(one.base.scheme(), "http" | "https"), "{}", one.base);
                        prop_assert!(one.base.has_host() && one.base.username().is_empty(), "{}", one.base);
                        // The registry's credentials go to the registry alone.
                        if one.own && !text.contains("server") {
                            let wanted =
                                if registry == "docker.io" { "registry-1.docker.io" } else { registry };
                            let port = one.base.port_or_known_default();
                            let address =
                                url::Url::parse(&format!("{}://{wanted}", one.base.scheme())).unwrap();
                            prop_assert_eq!(one.base.host(), address.host(), "{}", text);
                            prop_assert_eq!(port, address.port_or_known_default(), "{}", text);
                        }
                        for path in
                            one.tls.authorities.iter().chain(one.tls.client.iter().flat_map(|(a, b)| [a, b]))
                        {
                            prop_assert!(path.is_absolute(), "{:?}", path);
                        }
                    }
                }
            }
            Ok(())
        })
        .unwrap();
}
