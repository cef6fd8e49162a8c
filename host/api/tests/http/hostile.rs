//! Clients that mean harm.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

use crate::stub::{serve, serve_with};

#[tokio::test]
async fn a_body_that_is_too_large_is_not_read() {
    let server = serve();
    let mut client = server.connect().await;
    client
        .send(
            "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 99999999999\r\n\r\n{\"Image\":\"",
        )
        .await;
    let got = client.answer().await;
    assert_eq!(got.status, 413);
    assert!(got.message().contains("request body too large"), "{got:?}");
    // Without a length too.
    let mut client = server.connect().await;
    client.send("POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let block = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let feed = async {
        for _ in 0..80 {
            if tokio::io::AsyncWriteExt::write_all(&mut client.socket, block.as_bytes()).await.is_err() {
                break;
            }
        }
    };
    feed.await;
    assert_eq!(client.answer().await.status, 413);
}

#[tokio::test]
async fn a_slow_head_is_cut_off_an_idle_connection_is_not() {
    let server = serve_with(Duration::from_millis(200), &[]);
    let mut idle = server.connect().await;
    let mut used = server.connect().await;
    assert_eq!(used.ask("GET", "/_ping", "").await.status, 200);
    let mut slow = server.connect().await;
    slow.send("GET /_ping HT").await;
    assert_eq!(slow.rest().await, b"");
    let mut slow_later = server.connect().await;
    assert_eq!(slow_later.ask("GET", "/_ping", "").await.status, 200);
    slow_later.send("GET /_ping HTTP/1.1\r\nHost: ").await;
    assert_eq!(slow_later.rest().await, b"");
    let mut preface = server.connect().await;
    preface.send("PRI * HTTP/2.0\r\n").await;
    assert_eq!(preface.rest().await, b"");
    // Two time limits later these two are as good as ever.
    assert_eq!(idle.ask("GET", "/_ping", "").await.status, 200);
    assert_eq!(used.ask("GET", "/_ping", "").await.status, 200);
}

#[tokio::test]
async fn a_request_may_take_longer_than_a_head() {
    let server = serve_with(Duration::from_millis(100), &[]);
    let mut client = server.connect().await;
    client.send("POST /containers/c/wait HTTP/1.1\r\nHost: d\r\n\r\n").await;
    client.head().await;
    let mut slow = server.connect().await;
    slow.send("GET /_ping HT").await;
    slow.rest().await;
    server.stub.exit.send_replace(Some(0));
    assert_eq!(client.chunk().await, b"{\"StatusCode\":0}\n");
}

#[tokio::test]
async fn header_bombs_and_garbage() {
    let server = serve();
    let many = format!("GET /_ping HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(10_000));
    let long = format!("GET /_ping HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(1024 * 1024));
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: d\r\n\r\n", "x".repeat(200_000));
    let nul = "GET /\0 HTTP/1.1\r\nHost: d\r\n\r\n".to_owned();
    for request in [
        many,
        long,
        long_path,
        nul,
        "\0\0\0\0\r\n\r\n".into(),
        "GET\r\n\r\n".into(),
        "GET /_ping HTTP/9.9\r\n\r\n".into(),
        "POST /containers/create HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".into(),
        "POST /containers/create HTTP/1.1\r\nContent-Length: -1\r\n\r\n".into(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n".into(),
    ] {
        let mut client = server.connect().await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.socket, request.as_bytes()).await;
        let got = client.head().await;
        assert!((400..500).contains(&got.status), "{:?}: {got:?}", request.get(..60));
    }
    assert_eq!(server.ask("GET", "/_ping", "").await.status, 200);
}

#[tokio::test]
async fn a_thousand_parameters_are_too_many() {
    let server = serve();
    let got = server.ask("GET", &format!("/info?{}", "a=b&".repeat(2000)), "").await;
    assert_eq!((got.status, got.message().as_str()), (400, "too many query parameters"));
}

/// JSON of any shape, with the field names that matter among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        prop::sample::select(vec![
            "Image",
            "image",
            "HostConfig",
            "NetworkingConfig",
            "EndpointsConfig",
            "PortBindings",
            "Mounts",
            "Type",
            "RestartPolicy",
            "Name",
            "Cmd",
            "Env",
            "Labels",
            "Healthcheck",
            "Tty",
            "Detach",
            "ConsoleSize",
            "IPAM",
            "Config",
            "Driver",
            "Ulimits",
            "LogConfig",
            "Devices",
            "BlkioWeight",
            "Volumes",
            "ExposedPorts",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z]{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(key.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn no_json_on_any_route_breaks_the_engine() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(async { serve() });
    // Streams would wait for a process; the stand-in's own panics are not meant here.
    let skipped = ["/attach", "/start", "/wait", "/pause", "/unpause"];
    let routes: Vec<String> = wharf_api::operations()
        .filter(|op| op.method == "POST" && !skipped.iter().any(|s| op.path.ends_with(s)))
        .map(|op| op.path.replace("{}", "c"))
        .chain(["/exec/missing/start".to_owned(), "/containers/c/start".to_owned()])
        .collect();
    let mut runner = TestRunner::new(Config { cases: 48, ..Config::default() });
    runner
        .run(&any_json(), |body| {
            let text = body.to_string();
            runtime.block_on(async {
                let mut client = server.connect().await;
                for route in &routes {
                    let got = client.ask("POST", route, &text).await;
                    let honest = got.status == 501 || got.status == 503;
                    prop_assert!(got.status < 500 || honest, "{route}: {got:?} for {text}");
                }
                Ok(())
            })
        })
        .unwrap();
}
