//! Components that attack their host: each attack fails its own call with a clear error, and nothing else.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Guest, House, RESULT, snapshot};
use wharf_plan::storage::{Kind as SnapshotKind, PrepareRequest, Purpose};
use wharf_plan::types::Code;
use wharf_plugins::{Call, ErrorKind, Grant, PluginError, Plugins, State};

/// Runs `describe` of the plugin.
async fn describe(plugins: &Plugins, plugin: &str) -> Result<String, PluginError> {
    let call = Call::new("op");
    plugins.storage(plugin).unwrap().describe(&call, &snapshot("s")).await.map(|planned| planned.value)
}

fn attacker(body: &str) -> Guest {
    Guest::storage("attacker").body("describe", body)
}

async fn attack(body: &str) -> (Plugins, PluginError, House) {
    let good = Guest::storage("good").answers("describe", "\"fine\"");
    let house = House::new().with(&attacker(body)).with(&good);
    let plugins = house.load().await;
    let error = describe(&plugins, "attacker").await.unwrap_err();
    assert_eq!((&*error.plugin, error.function), ("attacker", "describe"));
    assert!(error.is_fault());
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(describe(&plugins, "good").await.unwrap(), "\"fine\"", "another plugin works");
    (plugins, error, house)
}

#[tokio::test]
async fn a_crash() {
    let (_, error, _house) = attack("unreachable").await;
    assert_eq!(error.to_string(), "plugin attacker: describe: crashed: it gave up (panic or abort)");
    let (_, error, _house) = attack("(i32.load (i32.const -4))").await;
    assert!(error.to_string().contains("crashed: wasm trap: out of bounds memory access"), "{error}");
    let (_, error, _house) = attack("(i32.div_s (i32.const 1) (i32.const 0))").await;
    assert!(error.to_string().contains("divide by zero"), "{error}");
}

#[tokio::test]
async fn the_last_words_of_a_crash_are_told() {
    let guest = Guest::storage("attacker")
        .import("wharf:plugin/log@0.1.0", "emit", "emit", "i32 i32 i32 i32 i32", "")
        .extra("(data (i32.const 4096) \"panicked:\\n no disk\")")
        .body(
            "describe",
            "(call $emit (i32.const 4) (i32.const 4096) (i32.const 18) (i32.const 0) (i32.const 0)) unreachable",
        );
    let house = House::new().with(&guest);
    let plugins = house.load().await;
    let error = describe(&plugins, "attacker").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "plugin attacker: describe: crashed: it gave up (panic or abort): panicked:  no disk"
    );
    let log = plugins.logs("attacker");
    assert_eq!((log[0].level, &*log[0].message, &*log[0].operation), ("error", "panicked:  no disk", "op"));
}

#[tokio::test]
async fn an_endless_loop() {
    let started = Instant::now();
    let (plugins, error, _house) = attack("(loop $l (br $l)) unreachable").await;
    assert!(
        matches!(error.kind, ErrorKind::Deadline(limit) if limit == Duration::from_millis(100)),
        "{error}"
    );
    assert_eq!(error.to_string(), "plugin attacker: describe: did not answer within 100 ms");
    assert!(started.elapsed() < Duration::from_secs(20));
    let info = plugins.list().into_iter().find(|info| &*info.name == "attacker").unwrap();
    assert_eq!((info.counters.calls, info.counters.timeouts, info.counters.traps), (1, 1, 0));
}

/// On one thread: the loop gives way, so that others are answered while it still runs.
#[tokio::test(flavor = "current_thread")]
async fn others_are_served_during_an_endless_loop() {
    let good = Guest::storage("good").answers("describe", "\"fine\"");
    let house = House::new().with(&attacker("(loop $l (br $l)) unreachable")).with(&good);
    let plugins = house.load().await;
    let (theirs, done) = (plugins.clone(), Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let flag = done.clone();
    let spinning = tokio::spawn(async move {
        let result = describe(&theirs, "attacker").await;
        flag.store(true, std::sync::atomic::Ordering::SeqCst);
        result
    });
    let mut served = 0;
    while !done.load(std::sync::atomic::Ordering::SeqCst) {
        describe(&plugins, "good").await.unwrap();
        served += 1;
        tokio::task::yield_now().await;
    }
    assert!(matches!(spinning.await.unwrap().unwrap_err().kind, ErrorKind::Deadline(_)));
    assert!(served > 10, "only {served} calls got through");
}

#[tokio::test]
async fn a_loop_before_the_first_call_is_found_at_loading() {
    let guest = Guest::storage("attacker").extra("(func $s (loop $l (br $l))) (start $s)");
    let house = House::new().with(&guest);
    let plugins = house.load().await;
    let State::Failed(reason) = &plugins.list()[0].state else { panic!() };
    assert!(reason.contains("does not start"), "{reason}");
    let error = plugins.storage("attacker").unwrap_err();
    assert!(
        error.to_string().contains("does not start") && error.to_string().contains("attacker.wasm"),
        "{error}"
    );
}

#[tokio::test]
async fn a_memory_bomb() {
    let (plugins, error, _house) =
        attack("(loop $l (drop (memory.grow (i32.const 16))) (memory.fill (i32.const 32768) (i32.const 7) (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 32768))) (br $l)) unreachable").await;
    assert!(matches!(error.kind, ErrorKind::Memory(limit) if limit == 16 << 20), "{error}");
    assert_eq!(error.to_string(), "plugin attacker: describe: needs more than its 16 MiB of memory");
    let info = plugins.list().into_iter().find(|info| &*info.name == "attacker").unwrap();
    assert_eq!(info.counters.memory, 1);
}

#[tokio::test]
async fn a_component_that_begins_too_large_does_not_start() {
    let guest = Guest::storage("attacker").memory("(memory (export \"memory\") 512)");
    let house = House::new().with(&guest);
    let State::Failed(reason) = house.load().await.list()[0].state.clone() else { panic!() };
    assert!(reason.contains("does not start"), "{reason}");
}

#[tokio::test]
async fn deep_recursion() {
    let guest = attacker("(call $deep) unreachable").extra("(func $deep (call $deep) (call $deep))");
    let house = House::new().with(&guest);
    let error = describe(&house.load().await, "attacker").await.unwrap_err();
    assert!(error.to_string().contains("crashed: stack overflow"), "{error}");
}

#[tokio::test]
async fn a_huge_text_and_a_huge_list() {
    // 12 MiB of text.
    let big = "(drop (memory.grow (i32.const 200)))".to_owned()
        + &common::ok_text("(i32.const 0)", "(i32.const 12582912)");
    let (_, error, _house) = attack(&big).await;
    assert!(matches!(error.kind, ErrorKind::TooLarge(_)), "{error}");
    assert!(error.to_string().contains("answer too large"), "{error}");
    // `remove`: a list said to have 2^28 operations.
    let list = common::ok_text("(i32.const 0)", "(i32.const 268435456)");
    let house = House::new().with(&Guest::storage("attacker").body("remove", &list));
    let plugins = house.load().await;
    let storage = plugins.storage("attacker").unwrap();
    let error = storage.remove(&Call::new("op"), &snapshot("s")).await.unwrap_err();
    assert!(error.is_fault(), "{error}");
}

#[tokio::test]
async fn an_answer_outside_of_memory_or_not_text() {
    let (_, error, _house) = attack(&common::ok_text("(i32.const -16)", "(i32.const 64)")).await;
    assert!(matches!(error.kind, ErrorKind::Trap(_)), "{error}");
    let (_, error, _house) = attack(&format!(
        "(i32.store8 (i32.const 2000) (i32.const 255)) {}",
        common::ok_text("(i32.const 2000)", "(i32.const 1)")
    ))
    .await;
    assert!(error.to_string().contains("utf-8"), "{error}");
    // A result that is neither ok nor error.
    let (_, error, _house) =
        attack(&format!("(i32.store8 (i32.const {RESULT}) (i32.const 9)) (i32.const {RESULT})")).await;
    assert!(matches!(error.kind, ErrorKind::Trap(_)), "{error}");
}

#[tokio::test]
async fn endless_host_calls_and_log_floods() {
    let guest = attacker(
        "(loop $l (call $emit (i32.const 2) (i32.const 0) (i32.const 8) (i32.const 0) (i32.const 0)) (br $l)) unreachable",
    )
    .import("wharf:plugin/log@0.1.0", "emit", "emit", "i32 i32 i32 i32 i32", "");
    let house = House::new().with(&guest);
    let plugins = house.load().await;
    let error = describe(&plugins, "attacker").await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Trap(_) | ErrorKind::Deadline(_)), "{error}");
    assert_eq!(plugins.logs("attacker").len(), 100, "one call's lines are bounded");
}

#[tokio::test]
async fn a_plan_beyond_its_grants() {
    // One operation: remove-tree (case 8) of the place data/"x".
    let plan = "(i32.store8 (i32.const 2000) (i32.const 8)) (i32.store8 (i32.const 3900) (i32.const 120))
        (i32.store8 (i32.const 2008) (i32.const 0)) (i32.store (i32.const 2020) (i32.const 3900)) (i32.store (i32.const 2024) (i32.const 1))"
        .to_owned()
        + &common::ok_text("(i32.const 2000)", "(i32.const 1)");
    let guest = Guest::storage("attacker").body("remove", &plan);
    let house = House::new().with(&guest);
    let plugins = house.load().await;
    let storage = plugins.storage("attacker").unwrap();
    let error = storage.remove(&Call::new("op"), &snapshot("s")).await.unwrap_err();
    assert_eq!(error.code(), Code::Denied, "{error}");
    assert!(error.to_string().contains("remove-tree"), "{error}");
    for _ in 0..10 {
        let again = storage.remove(&Call::new("op"), &snapshot("s")).await.unwrap_err();
        assert_eq!(
            again.code(),
            Code::Denied,
            "who asks for the impossible does not have the plugin set aside"
        );
    }
    assert_eq!(plugins.list()[0].counters.denied, 11);

    let mut grant = Grant::default();
    grant.files.ops.insert("remove-tree".into());
    let house = House::new().with(&guest).grant("attacker", grant);
    let plugins = house.load().await;
    let ops =
        plugins.storage("attacker").unwrap().remove(&Call::new("op"), &snapshot("s")).await.unwrap().value;
    assert!(matches!(&*ops, [wharf_plan::files::Op::RemoveTree(place)] if place.path == "x"), "{ops:?}");
}

#[tokio::test]
async fn ungranted_services_answer_denied() {
    // secrets.reveal("k"): the error's message becomes the answer.
    let guest = attacker(&format!(
        "(call $reveal (i32.const 4096) (i32.const 1) (i32.const 2048)) {}",
        common::ok_text("(i32.load (i32.const 2056))", "(i32.load (i32.const 2060))")
    ))
    .import("wharf:plugin/secrets@0.1.0", "reveal", "reveal", "i32 i32 i32", "")
    .extra("(data (i32.const 4096) \"k\")");
    let house = House::new().with(&guest);
    assert_eq!(describe(&house.load().await, "attacker").await.unwrap(), "secret \"k\" is not granted");
}

#[tokio::test]
async fn five_failures_set_it_aside_and_a_new_version_is_tried_again() {
    let house = House::new().with(&attacker("unreachable"));
    let plugins = house.load().await;
    for _ in 0..5 {
        assert!(matches!(describe(&plugins, "attacker").await.unwrap_err().kind, ErrorKind::Trap(_)));
    }
    let error = describe(&plugins, "attacker").await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Quarantined(_)), "{error}");
    assert_eq!(plugins.list()[0].state, State::Quarantined);
    Guest::storage("attacker").answers("describe", "better").install(&house.plugins());
    plugins.reload("attacker").await.unwrap();
    assert_eq!(describe(&plugins, "attacker").await.unwrap(), "better");
    assert_eq!(plugins.list()[0].state, State::Ready);
}

#[tokio::test]
async fn one_poison_object_does_not_set_the_plugin_aside() {
    // Crashes if the id begins with 'b'.
    let body = format!(
        "(if (i32.eq (i32.load8_u (i32.load (local.get 0))) (i32.const 98)) (then unreachable)) {}",
        common::ok_text("(i32.const 4096)", "(i32.const 2)")
    );
    let guest = attacker(&body.replace("(i32.load (local.get 0))", "(local.get 0)"))
        .extra("(data (i32.const 4096) \"{}\")");
    let house = House::new().with(&guest);
    let plugins = house.load().await;
    let storage = plugins.storage("attacker").unwrap();
    for _ in 0..6 {
        let call = Call::new("op").about("bad");
        assert!(storage.describe(&call, &snapshot("bad")).await.is_err());
    }
    let call = Call::new("op").about("good");
    assert_eq!(storage.describe(&call, &snapshot("good")).await.unwrap().value, "{}");
    assert_eq!(plugins.list()[0].state, State::Ready);
}

#[tokio::test]
async fn a_kept_instance_that_crashes_is_not_used_again() {
    // Log formats are kept between calls: the second call of an instance crashes, so a third one needs a new instance.
    let body = format!(
        "(if (i32.load (i32.const 3000)) (then unreachable)) (i32.store (i32.const 3000) (i32.const 1)) {}",
        common::ok_text("(i32.const 0)", "(i32.const 0)")
    );
    let guest = Guest::new("codec", &["wharf:logs/codec@0.1.0"]).body("encode", &body);
    let house = House::new().with(&guest);
    let plugins = house.load().await;
    let codec = plugins.codec("codec").unwrap();
    let mut results = Vec::new();
    for _ in 0..4 {
        results.push(codec.encode(&Call::new("op"), &[]).await.is_ok());
    }
    assert_eq!(results, [true, false, true, false]);
}

#[tokio::test]
async fn planners_remember_nothing_between_calls() {
    let body = format!(
        "(if (i32.load (i32.const 3000)) (then unreachable)) (i32.store (i32.const 3000) (i32.const 1)) {}",
        common::ok_text("(i32.const 0)", "(i32.const 0)")
    );
    let house = House::new().with(&attacker(&body));
    let plugins = house.load().await;
    for _ in 0..3 {
        assert_eq!(describe(&plugins, "attacker").await.unwrap(), "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_attackers_at_once_leave_the_pool_whole() {
    let good = Guest::storage("good").answers("describe", "\"fine\"");
    let bomb = "(loop $l (drop (memory.grow (i32.const 16))) (br $l)) unreachable";
    let house = House::new().with(&attacker(bomb)).with(&good);
    let plugins = house.load().await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..400 {
        let plugins = plugins.clone();
        tasks.spawn(async move {
            let storage = plugins.storage(if number % 2 == 0 { "attacker" } else { "good" }).unwrap();
            let call = Call::new("op").about(format!("{number}"));
            let request = PrepareRequest {
                id: "x".into(),
                kind: SnapshotKind::Active,
                lineage: Vec::new(),
                labels: Vec::new(),
                options: Vec::new(),
                size_limit: None,
                id_maps: Vec::new(),
                mount_label: None,
            };
            if number % 2 == 0 {
                let _ = storage.describe(&call, &snapshot("s")).await;
                let _ = storage.prepare(&call, &request).await;
                true
            } else {
                storage.mounts(&call, &snapshot("s"), &[], Purpose::RunContainer).await.is_err()
                    & storage
                        .describe(&Call::new("fine"), &snapshot("s"))
                        .await
                        .is_ok_and(|p| p.value == "\"fine\"")
                    | matches!(
                        storage.describe(&Call::new("fine"), &snapshot("s")).await,
                        Err(PluginError { kind: ErrorKind::Quarantined(_), .. })
                    )
            }
        });
    }
    assert!(tasks.join_all().await.into_iter().all(|fine| fine));
}
