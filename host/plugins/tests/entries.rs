//! A plugin's own entries commit with its plan, or never.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::{Guest, House, snapshot};
use wharf_plugins::{Call, ErrorKind, Plugins, is_conflict};

/// `describe` answers with what the key `n` holds (or `none`) and then sets it to the snapshot's id; `collect` crashes
/// after a write.
fn counter() -> Guest {
    Guest::storage("counter")
        .import("wharf:plugin/kv@0.1.0", "get", "get", "i32 i32 i32", "")
        .import("wharf:plugin/kv@0.1.0", "set", "set", "i32 i32 i32 i32 i32", "")
        .extra("(data (i32.const 4096) \"nnone\")")
        .body(
            "describe",
            &("(call $get (i32.const 4096) (i32.const 1) (i32.const 2048))
               (local.set $a (i32.const 4097)) (local.set $b (i32.const 4))
               (if (i32.load8_u (i32.const 2056)) (then
                 (local.set $a (i32.load (i32.const 2072))) (local.set $b (i32.load (i32.const 2076)))))
               (call $set (i32.const 4096) (i32.const 1) (local.get 0) (local.get 1) (i32.const 2304))"
                .to_owned()
                + &common::ok_text("(local.get $a)", "(local.get $b)")),
        )
        .body(
            "collect",
            "(call $set (i32.const 4096) (i32.const 1) (i32.const 4096) (i32.const 1) (i32.const 2304)) unreachable",
        )
}

async fn describe(plugins: &Plugins, call: &Call, id: &str) -> wharf_plugins::Planned<String> {
    plugins.storage("counter").unwrap().describe(call, &snapshot(id)).await.unwrap()
}

#[tokio::test]
async fn an_answer_that_is_dropped_or_a_crash_leaves_nothing() {
    let house = House::new().with(&counter());
    let plugins = house.load().await;
    let call = Call::new("op").dry_run(true);
    assert_eq!(describe(&plugins, &call, "first").await.value, "none");
    assert_eq!(describe(&plugins, &call, "second").await.value, "none");
    let error = plugins.storage("counter").unwrap().collect(&call, &[], &[]).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Trap(_)), "{error}");
    assert!(house.store.table("plugin-kv/counter").unwrap().is_empty());
}

#[tokio::test]
async fn of_two_that_saw_the_same_one_commits_and_the_other_is_asked_again() {
    let house = House::new().with(&counter());
    let plugins = house.load().await;
    let one = describe(&plugins, &Call::new("one"), "one").await;
    let two = describe(&plugins, &Call::new("two"), "two").await;
    assert_eq!((&*one.value, &*two.value), ("none", "none"));
    house.store.commit(one.kv).await.unwrap();
    let error = house.store.commit(two.kv).await.unwrap_err();
    assert!(is_conflict(&error), "{error}");
    let again = describe(&plugins, &Call::new("two"), "two").await;
    assert_eq!(again.value, "one");
    house.store.commit(again.kv).await.unwrap();
    assert_eq!(describe(&plugins, &Call::new("three"), "x").await.value, "two");
}

#[tokio::test]
async fn the_second_call_of_one_operation_sees_what_the_first_staged() {
    let house = House::new().with(&counter());
    let plugins = house.load().await;
    let mut call = Call::new("op");
    let first = describe(&plugins, &call, "first").await;
    call.after(&first);
    let second = describe(&plugins, &call, "second").await;
    assert_eq!(second.value, "first");
    let mut both = first.kv;
    both.merge(second.kv);
    house.store.commit(both).await.unwrap();
    assert_eq!(house.store.get("plugin-kv/counter", "n").unwrap().unwrap().value, b"second");
}

#[tokio::test]
async fn entries_are_private_to_a_plugin() {
    let mut other = counter();
    other = other.manifest(|m| m["name"] = "other".into());
    let house = House::new().with(&counter());
    std::fs::write(house.plugins().join("other.wasm"), other.build()).unwrap();
    let plugins = house.load().await;
    let mine = describe(&plugins, &Call::new("op"), "mine").await;
    house.store.commit(mine.kv).await.unwrap();
    let theirs = plugins.storage("other").unwrap().describe(&Call::new("op"), &snapshot("x")).await.unwrap();
    assert_eq!(theirs.value, "none");
}

#[tokio::test]
async fn one_call_cannot_write_without_end() {
    // Sets key after key of 64 KiB; `set` answers an error beyond the bound, at which the guest stops and tells it.
    let guest = Guest::storage("counter")
        .import("wharf:plugin/kv@0.1.0", "set", "set", "i32 i32 i32 i32 i32", "")
        .memory("(memory (export \"memory\") 4)")
        .body(
            "describe",
            &("(loop $l
                 (local.set $a (i32.add (local.get $a) (i32.const 1)))
                 (i32.store (i32.const 4096) (i32.or (local.get $a) (i32.const 0x20202020)))
                 (i32.store8 (i32.const 4099) (i32.const 32))
                 (i32.store8 (i32.const 4097) (i32.const 32))
                 (i32.store8 (i32.const 4096) (i32.add (i32.const 32) (i32.rem_u (local.get $a) (i32.const 90))))
                 (call $set (i32.const 4096) (i32.const 4) (i32.const 65536) (i32.const 65536) (i32.const 2304))
                 (br_if $l (i32.eqz (i32.load8_u (i32.const 2304)))))"
                .to_owned()
                + &common::ok_text("(i32.load (i32.const 2312))", "(i32.load (i32.const 2316))")),
        );
    let house = House::new().with(&guest);
    let plugins = house.load().await;
    assert_eq!(describe(&plugins, &Call::new("op"), "x").await.value, "one call writes at most 1024 KiB");
}
