//! Attach, exec, logs, events, wait.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

use crate::stub::serve;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\n";

fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![1, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()];
    frame.extend(text.bytes());
    frame
}

#[tokio::test]
async fn attach_upgraded_streams_both_ways_and_half_closes() {
    let server = serve();
    let mut client = server.connect().await;
    client
        .send(format!(
            "POST /v1.44/containers/c/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n{UPGRADE}\r\n"
        ))
        .await;
    let head = client.head().await;
    assert_eq!(head.line, "HTTP/1.1 101 UPGRADED");
    assert_eq!(head.header("connection"), Some("Upgrade"));
    assert_eq!(head.header("upgrade"), Some("tcp"));
    assert_eq!(head.header("content-type"), Some("application/vnd.docker.multiplexed-stream"));
    assert_eq!(head.header("api-version"), Some("1.55"));
    server.stub.print(&frame("hello"));
    assert_eq!(client.take(13).await, frame("hello"));
    client.send("typed").await;
    client.socket.shutdown().await.unwrap();
    // The process sees the end of its input, prints more, ends; then the connection ends.
    assert_eq!(client.rest().await, b"after eof");
    assert_eq!(server.stub.input(), b"typed");
    assert_eq!(server.stub.input.lock().unwrap().last(), Some(&None));
    server.quiet().await;
}

#[tokio::test]
async fn without_upgrade_the_connection_is_taken_over_too() {
    let server = serve();
    let mut client = server.connect().await;
    // On a connection that was used before, with a body that is not input, input that comes early, and an early end.
    let created = client.ask("POST", "/containers/c/exec", r#"{"Cmd":["cat"]}"#).await;
    assert_eq!((created.status, &created.json()["Id"]), (201, &serde_json::json!("e")));
    client
        .send("POST /exec/e/start HTTP/1.1\r\nHost: d\r\nContent-Length: 28\r\n\r\n{\"Detach\":false,\"Tty\":false}early input")
        .await;
    client.socket.shutdown().await.unwrap();
    let head = client.head().await;
    assert_eq!(head.line, "HTTP/1.1 200 OK");
    assert_eq!(head.header("content-type"), Some("application/vnd.docker.raw-stream"));
    assert!(head.header("transfer-encoding").is_none() && head.header("upgrade").is_none());
    assert_eq!(client.rest().await, b"after eof");
    assert_eq!(server.stub.input(), b"early input");
    server.quiet().await;
}

#[tokio::test]
async fn content_types_by_version_and_terminal() {
    for (version, tty, kind) in [
        ("1.41", false, "application/vnd.docker.raw-stream"),
        ("1.42", false, "application/vnd.docker.multiplexed-stream"),
        ("1.42", true, "application/vnd.docker.raw-stream"),
    ] {
        for path in ["attach?stdin=1&stream=1", "logs?stdout=1"] {
            let server = serve();
            server.stub.tty.store(tty, Ordering::Relaxed);
            let mut client = server.connect().await;
            let method = if path.starts_with('a') { "POST" } else { "GET" };
            let upgrade = if path.starts_with('a') { UPGRADE } else { "" };
            client
                .send(format!(
                    "{method} /v{version}/containers/c/{path} HTTP/1.1\r\nHost: d\r\n{upgrade}\r\n"
                ))
                .await;
            assert_eq!(client.head().await.header("content-type"), Some(kind), "{version} {tty} {path}");
        }
    }
}

#[tokio::test]
async fn detaching_ends_the_session_not_the_process() {
    let server = serve();
    let mut client = server.connect().await;
    client
        .send(format!(
            "POST /containers/c/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n{UPGRADE}\r\n"
        ))
        .await;
    client.head().await;
    client.send(b"\x10\x11").await;
    assert_eq!(client.rest().await, b"");
    assert!(!server.stub.input.lock().unwrap().contains(&None));
    server.quiet().await;
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing() {
    let server = serve();
    let mut client = server.connect().await;
    client
        .send(format!("POST /containers/c/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n{UPGRADE}\r\n"))
        .await;
    client.head().await;
    drop(client);
    server.quiet().await;
    for path in ["GET /events", "POST /containers/c/wait"] {
        let mut client = server.connect().await;
        client.send(format!("{path} HTTP/1.1\r\nHost: d\r\n\r\n")).await;
        client.head().await;
        assert_eq!(server.stub.alive.load(Ordering::SeqCst), 1);
        drop(client);
        server.quiet().await;
    }
}

#[tokio::test]
async fn a_client_without_input_may_half_close_and_still_gets_output() {
    let server = serve();
    let mut client = server.connect().await;
    client
        .send(format!("POST /containers/c/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n{UPGRADE}\r\n"))
        .await;
    client.head().await;
    client.socket.shutdown().await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    server.stub.print(b"still here");
    server.stub.end();
    assert_eq!(client.rest().await, b"still here");
}

#[tokio::test]
async fn much_output_is_complete_before_the_end() {
    let server = serve();
    let mut client = server.connect().await;
    client
        .send(format!("POST /containers/c/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n{UPGRADE}\r\n"))
        .await;
    client.head().await;
    let block = vec![b'x'; 64 * 1024];
    for _ in 0..256 {
        server.stub.print(&block);
    }
    server.stub.end();
    assert_eq!(client.rest().await.len(), 256 * block.len());
}

#[tokio::test]
async fn failures_of_exec_before_and_after_the_process() {
    let server = serve();
    for (id, status) in [("missing", 404), ("stopped", 409)] {
        let got = server.ask("POST", &format!("/exec/{id}/start"), "{}").await;
        assert_eq!(got.status, status);
        assert!(!got.message().is_empty());
    }
    let mut client = server.connect().await;
    client
        .send(format!(
            "POST /exec/nofile/start HTTP/1.1\r\nHost: d\r\n{UPGRADE}Content-Length: 2\r\n\r\n{{}}"
        ))
        .await;
    assert_eq!(client.head().await.status, 101);
    let said = client.rest().await;
    assert_eq!(&said[8..], b"OCI runtime exec failed: no such file\r\n");
    assert_eq!(server.ask("POST", "/exec/e/start", r#"{"Detach":true}"#).await.status, 200);
    let sized = server.ask("POST", "/exec/e/start", r#"{"ConsoleSize":[1,2]}"#).await;
    assert_eq!(sized.message(), "console size is only supported when TTY is enabled");
    assert_eq!(server.ask("POST", "/containers/c/exec", "{}").await.message(), "No exec command specified");
}

#[tokio::test]
async fn logs_need_a_stream_and_end_with_an_error_line() {
    let server = serve();
    let got = server.ask("GET", "/containers/c/logs", "").await;
    assert_eq!(
        (got.status, got.message().as_str()),
        (400, "Bad parameters: you must choose at least one stream")
    );
    assert_eq!(server.ask("GET", "/containers/c/logs?stdout=1&since=x", "").await.status, 400);
    server.stub.print(b"line");
    let print = server.stub.print.lock().unwrap().take().unwrap();
    print.send(Err(wharf_engine::Error::internal("disk"))).unwrap();
    drop(print);
    let got = server.ask("GET", "/containers/c/logs?stdout=1&follow=1", "").await;
    assert!(got.text().starts_with("line"));
    assert!(got.text().ends_with("Error grabbing logs: disk\n"), "{got:?}");
}

#[tokio::test]
async fn wait_says_at_once_that_it_waits() {
    let server = serve();
    let mut client = server.connect().await;
    client.send("POST /containers/c/wait?condition=next-exit HTTP/1.1\r\nHost: d\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/json")));
    server.stub.exit.send_replace(Some(42));
    assert_eq!(client.chunk().await, b"{\"StatusCode\":42}\n");
    assert_eq!(client.chunk().await, b"");
    assert_eq!(client.ask("POST", "/containers/c/wait?condition=never", "").await.status, 400);
    assert_eq!(client.ask("POST", "/containers/nope/wait", "").await.status, 404);
}

#[tokio::test]
async fn events_begin_at_once_in_the_form_the_client_wants() {
    let server = serve();
    for (accept, kind, first) in [
        ("*/*", "application/json", "{}\n"),
        ("application/x-ndjson", "application/x-ndjson", "{}\n"),
        ("application/json-seq", "application/json-seq", "\x1e{}\n"),
    ] {
        let mut client = server.connect().await;
        client.send(format!("GET /events HTTP/1.1\r\nHost: d\r\nAccept: {accept}\r\n\r\n")).await;
        let head = client.head().await;
        assert_eq!((head.status, head.header("content-type")), (200, Some(kind)));
        server.stub.events.send(Bytes::from_static(b"{}\n")).unwrap();
        assert_eq!(client.chunk().await, first.as_bytes());
    }
    assert_eq!(server.ask("GET", "/events?since=5&until=4", "").await.status, 400);
    assert_eq!(server.ask("GET", "/events?filters=%7B%22x%22%3A%5B%5D%7D", "").await.status, 400);
}

#[tokio::test]
async fn websocket_attach() {
    let server = serve();
    let socket = tokio::net::UnixStream::connect(&server.path).await.unwrap();
    let url = "ws://docker/containers/c/attach/ws?stream=1&stdin=1&stdout=1";
    let (mut socket, _) = tokio_tungstenite::client_async(url, socket).await.unwrap();
    let printed = [frame("out"), frame("more")].concat();
    server.stub.print(&printed[..9]);
    server.stub.print(&printed[9..]);
    let mut got = Vec::new();
    while got.len() < 7 {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(data) => got.extend_from_slice(&data),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, b"outmore");
    socket.send(Message::Binary(Bytes::from_static(b"stay in"))).await.unwrap();
    socket.send(Message::Text("text".into())).await.unwrap();
    socket.send(Message::Ping(Bytes::new())).await.unwrap();
    assert!(matches!(socket.next().await.unwrap().unwrap(), Message::Pong(_)));
    assert_eq!(server.stub.input(), b"stay intext");
    server.stub.end();
    assert!(matches!(socket.next().await.unwrap().unwrap(), Message::Close(_)));
    let refused = server.ask("GET", "/containers/c/attach/ws", "").await;
    assert_eq!(refused.status, 400);
}
