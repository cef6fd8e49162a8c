//! What a plugin sees of the object it judges.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Guest, House};
use serde_json::json;
use wharf_plan::auth::{Decision, Operation, Request};
use wharf_plugins::{Call, Document, ErrorKind, Planned, PluginError, Plugins};

const AUTHZ: &str = "wharf:auth/authz@0.1.0";

/// Denies with what `instructions` leave at 2048: an option of a text.
fn judge(instructions: &str) -> Guest {
    let handle = common::parameter(AUTHZ, "authorize", 1);
    let body = format!(
        "(local.set $a (i32.load (i32.add (local.get 0) (i32.const {handle}))))
         {instructions}
         (i32.store8 (i32.const 1024) (i32.const 0))
         (i32.store8 (i32.const 1028) (i32.const 1))
         (if (i32.load8_u (i32.const 2048)) (then
           (i32.store (i32.const 1032) (i32.load (i32.const 2052)))
           (i32.store (i32.const 1036) (i32.load (i32.const 2056)))))
         (i32.const 1024)"
    );
    let documents = "wharf:plugin/documents@0.1.0";
    Guest::new("judge", &[AUTHZ])
        .import(documents, "[method]document.text", "text", "i32 i32 i32 i32", "")
        .import(documents, "[method]document.get", "get", "i32 i32 i32 i32", "")
        .import(documents, "[resource-drop]document", "drop", "i32", "")
        .extra("(data (i32.const 4096) \"/HostConfig/NetworkMode\")")
        .body("authorize", &body)
}

async fn ask(plugins: &Plugins, object: serde_json::Value) -> Result<Planned<Decision>, PluginError> {
    let request = Request {
        identity: None,
        operation: Operation {
            noun: "container".into(),
            verb: "create".into(),
            api_version: "1.55".into(),
            mutates: true,
            upgrades: false,
        },
        targets: Vec::new(),
        query: Vec::new(),
        streaming_body: false,
    };
    let authorizers = plugins.authorizers();
    authorizers.first().unwrap().authorize(&Call::new("op"), &request, &Document::new(object)).await
}

async fn message(plugins: &Plugins, object: serde_json::Value) -> String {
    match ask(plugins, object).await.unwrap().value {
        Decision::Deny(denial) => denial.message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn parts_are_read_by_pointer_and_each_call_sees_its_own_object() {
    let text = "(call $text (local.get $a) (i32.const 4096) (i32.const 23) (i32.const 2048)) (call $drop (local.get $a))";
    let house = House::new().with(&judge(text));
    let plugins = house.load().await;
    assert_eq!(message(&plugins, json!({"HostConfig": {"NetworkMode": 7}})).await, "", "it is no text");
    // The instance is kept, the object is not.
    assert_eq!(message(&plugins, json!({"HostConfig": {"NetworkMode": "host"}})).await, "host");
    assert_eq!(message(&plugins, json!({"HostConfig": {"NetworkMode": "none"}})).await, "none");
    let get = text.replace("$text", "$get").replace("(i32.const 23)", "(i32.const 11)");
    let house = House::new().with(&judge(&get));
    let plugins = house.load().await;
    assert_eq!(message(&plugins, json!({"HostConfig": {"a": [1, null]}})).await, "{\"a\":[1,null]}");
}

#[tokio::test]
async fn a_handle_that_is_kept_or_made_up_ends_the_call() {
    for instructions in [
        // Kept beyond the call.
        "(call $text (local.get $a) (i32.const 4096) (i32.const 23) (i32.const 2048))",
        // Never given.
        "(call $text (i32.const 77) (i32.const 4096) (i32.const 23) (i32.const 2048))",
        // Given back twice.
        "(call $drop (local.get $a)) (call $drop (local.get $a))",
    ] {
        let house = House::new().with(&judge(instructions));
        let plugins = house.load().await;
        for _ in 0..2 {
            let error = ask(&plugins, json!({})).await.unwrap_err();
            assert!(matches!(error.kind, ErrorKind::Trap(_)), "{error}");
        }
    }
}
