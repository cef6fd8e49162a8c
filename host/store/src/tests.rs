use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    (dir, store)
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let (_dir, store) = store();
    store
        .commit({
            let mut t = Transaction::new();
            t.put("a", "k", "1");
            t
        })
        .await
        .unwrap();
    let mut t = Transaction::new();
    t.put("a", "other", "x").expect("a", "k", 7);
    assert!(matches!(store.commit(t).await, Err(Error::Conflict { .. })));
    assert_eq!(store.get("a", "other").unwrap(), None);
    let mut t = Transaction::new();
    t.expect("a", "k", 1).put("a", "k", "2").delete("a", "absent");
    store.commit(t).await.unwrap();
    assert_eq!(store.get("a", "k").unwrap().map(|e| (e.value, e.version)), Some((b"2".to_vec(), 2)));
}

#[tokio::test]
async fn scans_are_ordered_paged_and_kept_to_the_prefix() {
    let (_dir, store) = store();
    let mut t = Transaction::new();
    for key in ["p/1", "p/2", "p/3", "q/1", "p%", "P/1"] {
        t.put("kv", key, key);
    }
    store.commit(t).await.unwrap();
    let keys = |v: Vec<Entry>| v.into_iter().map(|e| e.key).collect::<Vec<_>>();
    assert_eq!(keys(store.scan("kv", "p/", None, 2).unwrap()), ["p/1", "p/2"]);
    assert_eq!(keys(store.scan("kv", "p/", Some("p/2"), 2).unwrap()), ["p/3"]);
    assert_eq!(store.table("kv").unwrap().len(), 6);
    assert!(store.table("none").unwrap().is_empty());
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let (dir, store) = store();
    store
        .commit({
            let mut t = Transaction::new();
            t.put("a", "k", vec![0, 255]);
            t
        })
        .await
        .unwrap();
    // No orderly close: the handle is leaked as a killed process would leave it.
    std::mem::forget(store);
    let again = Store::open(&dir.path().join("db")).unwrap();
    assert_eq!(again.get("a", "k").unwrap().unwrap().value, vec![0, 255]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_conflict_does_not_undo_its_neighbours() {
    let (_dir, store) = store();
    let mut tasks = Vec::new();
    for i in 0..200u32 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let mut t = Transaction::new();
            if i % 2 == 1 {
                t.expect("t", "never", 9);
            }
            t.put("t", &i.to_string(), "x");
            store.commit(t).await.is_ok()
        }));
    }
    let mut good = 0;
    for task in tasks {
        good += usize::from(task.await.unwrap());
    }
    assert_eq!(good, 100);
    assert_eq!(store.table("t").unwrap().len(), 100);
}

#[tokio::test]
async fn expectations_speak_of_the_state_before_the_transaction() {
    let (_dir, store) = store();
    let mut t = Transaction::new();
    t.put("a", "k", "1");
    store.commit(t).await.unwrap();
    let mut first = Transaction::new();
    first.expect("a", "k", 1).put("a", "k", "2");
    let mut second = Transaction::new();
    second.expect("a", "k", 1).put("a", "other", "x");
    first.merge(second);
    assert_eq!(first.staged("a", "k"), Some(Some(&b"2"[..])));
    assert_eq!(first.staged("a", "none"), None);
    assert_eq!(first.touched("a").collect::<Vec<_>>(), ["k", "other"]);
    store.commit(first).await.unwrap();
    assert_eq!(store.get("a", "k").unwrap().unwrap().version, 2);
}

#[tokio::test]
async fn a_key_made_anew_does_not_repeat_a_version() {
    let (_dir, store) = store();
    for value in ["1", "2"] {
        let mut t = Transaction::new();
        t.put("a", "k", value);
        store.commit(t).await.unwrap();
    }
    let mut t = Transaction::new();
    t.delete("a", "k");
    assert_eq!(t.staged("a", "k"), Some(None));
    store.commit(t).await.unwrap();
    let mut t = Transaction::new();
    t.put("a", "k", "3").put("b", "k", "1");
    store.commit(t).await.unwrap();
    assert_eq!(store.get("a", "k").unwrap().unwrap().version, 3);
    assert_eq!(store.get("b", "k").unwrap().unwrap().version, 1);
    let mut t = Transaction::new();
    t.expect("a", "k", 1).put("a", "k", "4");
    assert!(matches!(store.commit(t).await, Err(Error::Conflict { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_all_land_and_the_log_stays_short() {
    let (dir, store) = store();
    let page = vec![7; 4096];
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (store, page) = (store.clone(), page.clone());
            tokio::spawn(async move {
                for n in 0..250 {
                    let mut t = Transaction::new();
                    t.put("busy", &format!("{writer}"), page.clone()).put(
                        "count",
                        &format!("{writer}/{n}"),
                        "",
                    );
                    store.commit(t).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(store.table("count").unwrap().len(), 8 * 250);
    assert!(store.table("busy").unwrap().iter().all(|e| e.version == 250));
    // All of it was some 40 MiB of log.
    let log = std::fs::metadata(dir.path().join("db-wal")).unwrap().len();
    assert!(log < 16 << 20, "{log}");
}
