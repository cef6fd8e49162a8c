//! What is loaded, what is refused, and how one version takes over from another.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use common::{Guest, House, snapshot};
use wharf_plugins::{Call, Document, ErrorKind, Kind, Plugins, State};

fn good() -> Guest {
    Guest::storage("wharf/storage-good").answers("describe", "fine")
}

async fn describe(plugins: &Plugins, driver: &str) -> String {
    plugins.storage(driver).unwrap().describe(&Call::new("op"), &snapshot("s")).await.unwrap().value
}

/// Loads `bytes` as bad.wasm beside a good plugin, which must work; the reason for which the bad one is refused.
async fn refused(bytes: &[u8]) -> String {
    let house = House::new().with(&good());
    std::fs::write(house.plugins().join("bad.wasm"), bytes).unwrap();
    let plugins = house.load().await;
    assert_eq!(describe(&plugins, "good").await, "fine");
    let bad = plugins.list().into_iter().find(|info| info.path.ends_with("bad.wasm")).unwrap();
    let State::Failed(reason) = bad.state else { panic!("{bad:?}") };
    reason
}

#[tokio::test]
async fn damaged_and_foreign_files_are_named_and_the_rest_works() {
    let whole = Guest::storage("bad").build();
    assert_eq!(refused(b"").await, "it is not a WebAssembly component");
    assert_eq!(refused(b"\x7fELF not wasm at all").await, "it is not a WebAssembly component");
    assert_eq!(refused(b"\0asm\x01\0\0\0").await, "it is a core module, not a component");
    assert_eq!(refused(b"\0asm\x0d\0\x01\0").await, "it has no section wharf:manifest");
    assert_eq!(refused(&whole[..whole.len() / 2]).await, "it is truncated");
    let odd = common::with_manifest(
        b"\0asm\x0d\0\x01\0".to_vec(),
        &serde_json::json!({"name": "../x", "version": "1"}),
    );
    assert!(refused(&odd).await.contains("its name"), "{}", refused(&odd).await);
    let twice = common::with_manifest(whole, &serde_json::json!({"name": "other", "version": "1"}));
    assert_eq!(refused(&twice).await, "it has two sections wharf:manifest");
}

/// Wherever the damage is, the damaged file is refused or (if it hit what does not matter) works; the others do.
#[tokio::test]
async fn damage_anywhere_harms_nobody_else() {
    let whole = Guest::storage("bad").build();
    let house = House::new().with(&good());
    let mut count = 0;
    for start in (8..whole.len()).step_by(whole.len() / 50) {
        let mut damaged = whole.clone();
        for byte in damaged.iter_mut().skip(start).take(12) {
            *byte ^= 0x55;
        }
        std::fs::write(house.plugins().join(format!("bad{start:05}.wasm")), damaged).unwrap();
        count += 1;
    }
    let plugins = house.load().await;
    assert_eq!(describe(&plugins, "good").await, "fine");
    let list = plugins.list();
    assert_eq!(list.len(), count + 1);
    let refused = list.iter().filter(|info| matches!(info.state, State::Failed(_))).count();
    assert!(refused > count / 2, "{refused} of {count}");
}

#[tokio::test]
async fn a_failed_plugin_is_named_when_its_driver_is_asked_for() {
    let house = House::new().with(&good());
    std::fs::write(house.plugins().join("storage-bad.wasm"), b"junk").unwrap();
    let plugins = house.load().await;
    let error = plugins.storage("bad").unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Damaged(_)));
    assert!(
        error
            .to_string()
            .starts_with("plugin storage-bad: cannot be used: it is not a WebAssembly component (")
    );
    assert!(error.to_string().contains("storage-bad.wasm"));
    let error = plugins.storage("ugly").unwrap_err();
    assert_eq!(error.to_string(), "plugin \"ugly\" not found (there are: good)");
}

#[tokio::test]
async fn imports_beyond_the_contract_are_refused_by_name() {
    let wasi =
        "package t:t; world guest { import wasi:cli/environment@0.2.0; export wharf:storage/driver@0.1.0; }
        package wasi:cli@0.2.0 { interface environment { get-arguments: func() -> list<string>; } }";
    let guest = Guest::storage("bad").world(wasi).import(
        "wasi:cli/environment@0.2.0",
        "get-arguments",
        "args",
        "i32",
        "",
    );
    let reason = refused(&guest.build()).await;
    assert!(
        reason.contains("imports \"wasi:cli/environment@0.2.0\"") && reason.contains("no WASI"),
        "{reason}"
    );

    let later =
        "package t:t; world guest { import wharf:plugin/clock@0.9.0; export wharf:storage/driver@0.1.0; }
        package wharf:plugin@0.9.0 { interface clock { now: func() -> u64; } }";
    let guest = Guest::storage("bad").world(later).import(
        "wharf:plugin/clock@0.9.0",
        "now",
        "now",
        "",
        "(result i64)",
    );
    let reason = refused(&guest.build()).await;
    assert!(
        reason.contains("imports \"wharf:plugin/clock@0.9.0\"") && reason.contains("another version"),
        "{reason}"
    );
}

/// A component from a contract of its own, with these core functions.
fn foreign(contract: &str, functions: &str) -> Vec<u8> {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("foreign.wit", contract).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut module = wat::parse_str(format!("(module {functions})")).unwrap();
    wit_component::embed_component_metadata(
        &mut module,
        &resolve,
        world,
        wit_component::StringEncoding::UTF8,
    )
    .unwrap();
    let component = wit_component::ComponentEncoder::default().module(&module).unwrap().encode().unwrap();
    common::with_manifest(component, &serde_json::json!({"name": "bad", "version": "1"}))
}

#[tokio::test]
async fn an_interface_of_the_wrong_shape_is_refused_by_name() {
    let unknown = foreign(
        "package x:y@0.1.0; interface driver { f: func(); } world w { export driver; }",
        "(func (export \"x:y/driver@0.1.0#f\"))",
    );
    let reason = refused(&unknown).await;
    assert_eq!(reason, "it exports no kind of plugin that this engine knows (it has: x:y/driver@0.1.0)");

    let lacking = foreign(
        "package wharf:registry@0.1.0; interface credentials { erase: func(); } world w { export credentials; }",
        "(func (export \"wharf:registry/credentials@0.1.0#erase\"))",
    );
    let reason = refused(&lacking).await;
    assert!(reason.contains("wharf:registry/credentials@0.1.0 lacks the function"), "{reason}");

    let mistyped = foreign(
        "package wharf:registry@0.1.0; interface resolver { resolve: func(a: u32) -> u32; } world w { export resolver; }",
        "(func (export \"wharf:registry/resolver@0.1.0#resolve\") (param i32) (result i32) unreachable)",
    );
    let reason = refused(&mistyped).await;
    assert!(reason.contains("the type of its function resolve is not the contract's"), "{reason}");

    // A later patch release of the contract is compatible, a later minor release is not.
    let later = foreign(
        "package wharf:registry@0.2.0; interface resolver { resolve: func(a: u32) -> u32; } world w { export resolver; }",
        "(func (export \"wharf:registry/resolver@0.2.0#resolve\") (param i32) (result i32) unreachable)",
    );
    let reason = refused(&later).await;
    assert!(reason.contains("it has: wharf:registry/resolver@0.2.0"), "{reason}");
    let patch = foreign(
        "package wharf:registry@0.1.7; interface resolver { resolve: func(a: u32) -> u32; } world w { export resolver; }",
        "(func (export \"wharf:registry/resolver@0.1.7#resolve\") (param i32) (result i32) unreachable)",
    );
    let reason = refused(&patch).await;
    assert!(
        reason.contains("the type of its function resolve"),
        "found though of another patch release: {reason}"
    );
}

#[tokio::test]
async fn drivers_answer_to_the_names_of_their_manifest() {
    let named = Guest::storage("wharf/storage-overlay")
        .manifest(|m| m["drivers"] = serde_json::json!(["overlay2", "overlay"]));
    let house = House::new().with(&named.answers("describe", "o")).with(&good());
    let plugins = house.load().await;
    for name in ["overlay2", "overlay", "storage-overlay", "wharf/storage-overlay"] {
        assert_eq!(describe(&plugins, name).await, "o");
    }
    assert_eq!(describe(&plugins, "good").await, "fine");
    assert_eq!(plugins.drivers(Kind::Storage), ["good", "overlay2"]);
    assert!(plugins.volume("overlay2").is_err(), "a name is one kind's");
}

#[tokio::test]
async fn judges_are_asked_in_the_order_of_the_administrator() {
    let mut house = House::new();
    for name in ["a", "b", "c", "d"] {
        Guest::new(name, &["wharf:auth/authz@0.1.0", "wharf:auth/authn@0.1.0"]).install(&house.plugins());
    }
    house.settings.order = vec!["c".into(), "missing".into(), "b".into()];
    let plugins = house.load().await;
    let names: Vec<String> = plugins.authorizers().iter().map(|p| p.plugin().to_string()).collect();
    assert_eq!(names, ["c", "b", "a", "d"]);
    let names: Vec<String> = plugins.authenticators().iter().map(|p| p.plugin().to_string()).collect();
    assert_eq!(names, ["c", "b", "a", "d"]);
}

#[tokio::test]
async fn two_files_of_one_name() {
    let house = House::new().with(&good());
    std::fs::write(house.plugins().join("zz.wasm"), good().answers("remove", "x").build()).unwrap();
    let plugins = house.load().await;
    let states: Vec<State> = plugins.list().into_iter().map(|info| info.state).collect();
    assert_eq!(states[0], State::Ready);
    assert!(matches!(&states[1], State::Failed(reason) if reason.contains("taken by")), "{states:?}");
}

#[tokio::test]
async fn policies_are_asked_where_they_want_and_are_granted() {
    let policy = Guest::new("guard", &["wharf:policy/hooks@0.1.0"]).manifest(|m| {
        m["want"] = serde_json::json!({"policy": {"points": ["container-create", "image-push"],
            "match": [{"pointer": "/HostConfig/Privileged", "equals": true}]}});
    });
    let mut grant = wharf_plugins::Grant::default();
    grant.policy.points = ["container-create".to_owned(), "volume-create".to_owned()].into();
    let mut house = House::new().with(&policy).grant("guard", grant);
    assert!(house.load().await.policies("container-create").is_empty(), "not switched on");
    house.settings.config.insert("guard".into(), r#"{"enabled": true}"#.into());
    let plugins = house.load().await;
    assert_eq!(plugins.policies("container-create").len(), 1);
    assert!(plugins.policies("image-push").is_empty(), "wanted but not granted");
    assert!(plugins.policies("volume-create").is_empty(), "granted but not wanted");
    let policy = &plugins.policies("container-create")[0];
    assert!(policy.applies(&Document::new(serde_json::json!({"HostConfig": {"Privileged": true}}))));
    assert!(!policy.applies(&Document::new(serde_json::json!({"HostConfig": {"Privileged": false}}))));
    assert!(!policy.applies(&Document::new(serde_json::json!({}))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_takes_over_under_load() {
    let house = House::new().with(&good());
    let plugins = house.load().await;
    let held = plugins.storage("good").unwrap();
    let load = {
        let held = held.clone();
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while seen.last().is_none_or(|text: &String| text != "better") {
                let text = held.describe(&Call::new("op"), &snapshot("s")).await.unwrap().value;
                if seen.last() != Some(&text) {
                    seen.push(text);
                }
            }
            seen
        })
    };
    // A bad file changes nothing.
    std::fs::write(house.plugins().join("wharf-storage-good.wasm"), b"junk").unwrap();
    let error = plugins.reload("wharf/storage-good").await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Damaged(_)), "{error}");
    assert_eq!(describe(&plugins, "good").await, "fine");
    Guest::storage("wharf/storage-good").answers("describe", "better").install(&house.plugins());
    plugins.reload("wharf/storage-good").await.unwrap();
    assert_eq!(load.await.unwrap(), ["fine", "better"]);
}

#[tokio::test]
async fn files_that_come_and_go_are_followed() {
    let house = House::new();
    let plugins = house.load().await;
    assert!(plugins.list().is_empty());
    let path = good().install(&house.plugins());
    plugins.rescan().await;
    assert_eq!(describe(&plugins, "good").await, "fine");
    assert_eq!(plugins.list()[0].counters.calls, 1);
    plugins.rescan().await;
    assert_eq!(plugins.list()[0].counters.calls, 1, "what did not change is kept");
    std::fs::remove_file(path).unwrap();
    plugins.rescan().await;
    assert!(plugins.storage("good").is_err());
}

fn compiled(house: &House) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in std::fs::read_dir(&house.settings.cache).unwrap() {
        found.extend(std::fs::read_dir(dir.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    found
}

#[tokio::test]
async fn a_compiled_form_is_made_once_and_kept_private() {
    let mut house = House::new().with(&good());
    house.load().await;
    let files = compiled(&house);
    assert_eq!(files.len(), 1);
    assert_eq!(std::fs::metadata(&files[0]).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&house.settings.cache).unwrap().mode() & 0o777, 0o700);
    // From now on no compiler is needed.
    house.settings.compiler = "/nonexistent".into();
    assert_eq!(describe(&house.load().await, "good").await, "fine");
    std::fs::remove_file(house.plugins().join("wharf-storage-good.wasm")).unwrap();
    house.load().await;
    assert!(compiled(&house).is_empty(), "what nobody needs is removed");
}

#[tokio::test]
async fn a_compiled_form_that_was_changed_or_is_a_link_is_made_again() {
    let house = House::new().with(&good());
    house.load().await;
    let file = compiled(&house).remove(0);
    let original = std::fs::read(&file).unwrap();
    // Changed content, whole size.
    let mut changed = original.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    std::fs::write(&file, &changed).unwrap();
    assert_eq!(describe(&house.load().await, "good").await, "fine");
    assert_eq!(std::fs::read(&file).unwrap(), original);
    // Writable by others.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(describe(&house.load().await, "good").await, "fine");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    // A link, though to the very same content.
    let elsewhere = house.dir.path().join("elsewhere");
    std::fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert_eq!(describe(&house.load().await, "good").await, "fine");
    assert!(std::fs::symlink_metadata(&file).unwrap().is_file());
}

#[tokio::test]
async fn a_form_of_another_engine_is_made_again() {
    let house = House::new().with(&good());
    house.load().await;
    let file = compiled(&house).remove(0);
    let digest = file.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().to_owned();
    // Content that has the digest in its name but is no compiled form.
    let junk = b"not an object file".to_vec();
    let sum: String = {
        use sha2::Digest;
        sha2::Sha256::digest(&junk).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    };
    std::fs::remove_file(&file).unwrap();
    let foreign = file.with_file_name(format!("{digest}-{sum}"));
    std::fs::write(&foreign, junk).unwrap();
    std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(describe(&house.load().await, "good").await, "fine");
}

#[tokio::test]
async fn a_cache_that_others_can_write_to_is_refused() {
    let house = House::new().with(&good());
    std::fs::create_dir(&house.settings.cache).unwrap();
    std::fs::set_permissions(&house.settings.cache, std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = Plugins::load(house.settings.clone()).await.unwrap_err();
    assert!(error.to_string().contains("must be 0700"), "{error}");
    std::fs::remove_dir(&house.settings.cache).unwrap();
    let elsewhere = house.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &house.settings.cache).unwrap();
    let error = Plugins::load(house.settings.clone()).await.unwrap_err();
    assert!(error.to_string().contains("is not a directory"), "{error}");
}

#[tokio::test]
async fn without_a_compiler_the_plugin_fails_and_says_so() {
    let mut house = House::new().with(&good());
    house.settings.compiler = "/nonexistent/wharf-compile".into();
    let State::Failed(reason) = house.load().await.list()[0].state.clone() else { panic!() };
    assert!(reason.contains("the compiler /nonexistent/wharf-compile"), "{reason}");
}

#[tokio::test]
async fn a_configuration_that_is_not_json_is_refused() {
    let mut house = House::new().with(&good());
    house.settings.config.insert("wharf/storage-good".into(), "{".into());
    let State::Failed(reason) = house.load().await.list()[0].state.clone() else { panic!() };
    assert!(reason.contains("configuration is not JSON"), "{reason}");
}

/// The compiler is a program of its own; cargo's united features are the way by which it could slip in.
#[test]
fn the_daemon_contains_no_compiler() {
    let tree = |package: &str| {
        let output = std::process::Command::new(env!("CARGO"))
            .args(["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "-p", package])
            .arg("--manifest-path")
            .arg(common::root().join("Cargo.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let daemon = tree("wharf");
    assert!(daemon.contains("wasmtime v"));
    assert!(!daemon.contains("cranelift-codegen"), "{daemon}");
    assert!(tree("wharf-compile").contains("cranelift-codegen"));
}
