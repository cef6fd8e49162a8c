use super::*;
use crate::Document;

#[test]
fn a_call_is_a_transaction() {
    let host = MockHost::new();
    host.call(|host| {
        host.kv_set("a", b"1")?;
        assert_eq!(host.kv_get("a")?.map(|entry| entry.value), Some(b"1".to_vec()));
        Ok(())
    })
    .unwrap();
    let _ = host.call_in_vain(|host| host.kv_set("a", b"2"));
    let _ = host.dry_run(|host| host.kv_remove("a"));
    assert_eq!(host.kv(), BTreeMap::from([("a".to_owned(), b"1".to_vec())]));
    host.call(|host| {
        assert_eq!(host.kv_get("a")?.map(|entry| entry.version), Some(1));
        host.kv_set("a", b"3")
    })
    .unwrap();
    host.call(|host| {
        assert_eq!(host.kv_get("a")?.map(|entry| entry.version), Some(2));
        host.kv_remove("a")
    })
    .unwrap();
    assert!(host.kv().is_empty());
}

#[test]
fn scans_see_own_writes_and_pages() {
    let host = MockHost::new();
    host.call(|host| (0..5).try_for_each(|n| host.kv_set(&format!("k/{n}"), b""))).unwrap();
    host.call(|host| {
        host.kv_remove("k/1")?;
        host.kv_set("k/9", b"")?;
        host.kv_set("other", b"")?;
        let first = host.kv_scan("k/", None, 3)?;
        let keys = |page: &Page| page.entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&first), ["k/0", "k/2", "k/3"]);
        let second = host.kv_scan("k/", first.next.as_deref(), 3)?;
        assert_eq!(keys(&second), ["k/4", "k/9"]);
        assert_eq!(second.next, None);
        Ok(())
    })
    .unwrap();
}

#[test]
fn the_store_fails_on_demand() {
    let host = MockHost::new();
    host.fail_kv(1, 1);
    let errors: Vec<bool> = (0..3).map(|_| host.call(|host| host.kv_get("a")).is_err()).collect();
    assert_eq!(errors, [false, true, false]);
    assert!(host.call(|host| host.kv_set("", b"")).is_err());
    assert!(host.call(|host| host.kv_set("big", &vec![0; 300 << 10])).is_err());
}

#[test]
fn http_follows_a_script() {
    let host = MockHost::new();
    let request = Request {
        method: "GET".into(),
        url: "https://one.example/".into(),
        headers: Vec::new(),
        body: Vec::new(),
        timeout_ms: 1000,
        max_response_bytes: 1000,
    };
    assert!(crate::services::http(&host, &request).is_err());
    let answer = Response { status: 204, headers: Vec::new(), body: Vec::new() };
    host.expect_http(|request| request.url.starts_with("https://one"), Ok(answer));
    assert_eq!(crate::services::http(&host, &request).map(|answer| answer.status), Ok(204));
    assert_eq!(host.http_left(), 0);
}

#[test]
fn documents_answer_by_pointer() {
    let document = MockDocument::new(r#"{"a":{"b":[1,"x",true]},"c/d":null}"#);
    assert_eq!(document.text("/a/b/1").as_deref(), Some("x"));
    assert_eq!(document.number("/a/b/0"), Some(1.0));
    assert_eq!(document.flag("/a/b/2"), Some(true));
    assert_eq!(document.keys("/a/b"), ["0", "1", "2"]);
    assert_eq!(document.get("/c~1d").as_deref(), Some("null"));
    assert_eq!(document.text("/nothing"), None);
}
