//! Configuration, migration between releases, and what a call knows about itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Guest, House, RESULT, snapshot};
use wharf_plugins::{Call, Plugins, State};

fn grown(version: &str) -> Guest {
    Guest::new("grown", &["wharf:storage/driver@0.1.0", "wharf:plugin/lifecycle@0.1.0"])
        .manifest(|m| m["version"] = version.into())
        .import("wharf:plugin/kv@0.1.0", "set", "set", "i32 i32 i32 i32 i32", "")
        .extra("(data (i32.const 4096) \"from/too bigdo not\")")
        // Refuses every configuration of more than 4 bytes: one issue, "/too big" (at "/too", message "big").
        .body(
            "check-config",
            "(i32.store8 (i32.const 1024) (i32.const 0))
             (if (i32.gt_u (local.get 1) (i32.const 4)) (then
               (i32.store8 (i32.const 1024) (i32.const 1))
               (i32.store (i32.const 1028) (i32.const 1100)) (i32.store (i32.const 1032) (i32.const 1))
               (i32.store (i32.const 1100) (i32.const 4100)) (i32.store (i32.const 1104) (i32.const 4))
               (i32.store (i32.const 1108) (i32.const 4105)) (i32.store (i32.const 1112) (i32.const 3))))
             (i32.const 1024)",
        )
        // Writes the version it comes from.
        .body(
            "migrate",
            &format!(
                "(call $set (i32.const 4096) (i32.const 4) (local.get 0) (local.get 1) (i32.const 2304))
                 (i32.store8 (i32.const {RESULT}) (i32.const 0)) (i32.const {RESULT})"
            ),
        )
        .body("describe", &common::ok_text("(i32.const 4096)", "(i32.const 4)"))
}

/// A release that cannot take over: the error `do not`.
fn unwilling(version: &str) -> Guest {
    grown(version).replace_body(
        "migrate",
        "(call $set (i32.const 4096) (i32.const 4) (local.get 0) (local.get 1) (i32.const 2304))
         (i32.store8 (i32.const 1024) (i32.const 1))
         (i32.store8 (i32.const 1028) (i32.const 3))
         (i32.store (i32.const 1032) (i32.const 4108)) (i32.store (i32.const 1036) (i32.const 6))
         (i32.store (i32.const 1040) (i32.const 0)) (i32.store (i32.const 1044) (i32.const 0))
         (i32.store8 (i32.const 1048) (i32.const 0))
         (i32.const 1024)",
    )
}

fn reason(plugins: &Plugins) -> String {
    match &plugins.list().first().unwrap().state {
        State::Failed(reason) => reason.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_configuration_that_the_plugin_refuses_is_told_with_its_place() {
    let mut house = House::new().with(&grown("1.0.0"));
    house.settings.config.insert("grown".into(), "{\"a\": 1}".into());
    assert_eq!(reason(&house.load().await), "its configuration: /too big");
    house.settings.config.insert("grown".into(), "{}".into());
    assert_eq!(house.load().await.list().first().unwrap().state, State::Ready);
}

#[tokio::test]
async fn a_new_release_takes_over_once_or_not_at_all() {
    let house = House::new().with(&grown("1.0.0"));
    let entry = || house.store.get("plugin-kv/grown", "from").unwrap().map(|entry| entry.value);
    let plugins = house.load().await;
    assert_eq!(entry(), None, "nothing to migrate at first");

    unwilling("2.0.0").install(&house.plugins());
    let error = plugins.reload("grown").await.unwrap_err();
    assert!(error.to_string().contains("cannot take over from version 1.0.0: do not"), "{error}");
    assert_eq!(entry(), None, "its writes went with its refusal");
    let storage = plugins.storage("grown").unwrap();
    assert_eq!(
        storage.describe(&Call::new("op"), &snapshot("s")).await.unwrap().value,
        "from",
        "the old one works"
    );

    grown("2.1.0").install(&house.plugins());
    plugins.reload("grown").await.unwrap();
    assert_eq!(entry().unwrap(), b"1.0.0");
    assert_eq!(plugins.list().first().unwrap().version, "2.1.0");
    grown("2.2.0").install(&house.plugins());
    plugins.reload("grown").await.unwrap();
    assert_eq!(entry().unwrap(), b"2.1.0");
    let version = house.store.get("plugin-kv/grown", "from").unwrap().unwrap().version;
    house.load().await;
    assert_eq!(
        house.store.get("plugin-kv/grown", "from").unwrap().unwrap().version,
        version,
        "not at every start"
    );
}

#[tokio::test]
async fn a_call_knows_its_operation_and_configuration() {
    // The record of `call.get` begins with the operation's text.
    let guest = Guest::storage("curious")
        .import("wharf:plugin/call@0.1.0", "get", "context", "i32", "")
        .import("wharf:plugin/config@0.1.0", "get", "config", "i32", "")
        .body(
            "describe",
            &("(call $context (i32.const 2048))".to_owned()
                + &common::ok_text("(i32.load (i32.const 2048))", "(i32.load (i32.const 2052))")),
        )
        .body(
            "remove",
            // Not a list of operations at all: an error with the configuration as its message.
            "(call $config (i32.const 2048))
             (i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1028) (i32.const 0))
             (i32.store (i32.const 1032) (i32.load (i32.const 2048))) (i32.store (i32.const 1036) (i32.load (i32.const 2052)))
             (i32.store (i32.const 1040) (i32.const 0)) (i32.store (i32.const 1044) (i32.const 0))
             (i32.store8 (i32.const 1048) (i32.const 0)) (i32.const 1024)",
        );
    let mut house = House::new().with(&guest);
    house.settings.config.insert("curious".into(), "{\"x\": 1}".into());
    let plugins = house.load().await;
    let storage = plugins.storage("curious").unwrap();
    let call = Call::new("operation-7");
    assert_eq!(storage.describe(&call, &snapshot("s")).await.unwrap().value, "operation-7");
    let error = storage.remove(&call, &snapshot("s")).await.unwrap_err();
    assert_eq!(error.to_string(), "plugin curious: remove: {\"x\": 1}");
    assert!(!error.is_fault(), "saying no is no fault");
    let counters = plugins.list().first().unwrap().counters;
    assert_eq!((counters.calls, counters.refusals), (2, 1));
}
