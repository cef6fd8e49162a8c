//! HTTP as clients use it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wharf_api::Listen;

use crate::client::PATIENCE;
use crate::stub::{serve, serve_with};

#[tokio::test]
async fn ping_is_exact() {
    let server = serve();
    let got = server.ask("GET", "/_ping", "").await;
    assert_eq!((got.status, got.text()), (200, "OK"));
    for (name, value) in [
        ("Api-Version", "1.55"),
        ("Ostype", "linux"),
        ("Builder-Version", "1"),
        ("Docker-Experimental", "false"),
        ("Swarm", "inactive"),
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Pragma", "no-cache"),
        ("Content-Length", "2"),
    ] {
        assert_eq!(got.header(name), Some(value), "{name}");
    }
    assert!(got.header("Server").unwrap().starts_with("Docker/"));
    let mut client = server.connect().await;
    let head = client.ask("HEAD", "/_ping", "").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("0")));
    // The connection goes on after it.
    assert_eq!(client.ask("GET", "/v1.41/_ping", "").await.text(), "OK");
}

#[tokio::test]
async fn every_answer_says_what_it_comes_from() {
    let server = serve();
    for (method, path, status) in [
        ("GET", "/nope", 404),
        ("GET", "/v1.2/info", 400),
        ("GET", "/v1.99/info", 400),
        ("PATCH", "/info", 404),
        ("GET", "/containers/missing/json", 404),
        ("POST", "/containers/running/start", 304),
        ("GET", "/swarm", 503),
        ("POST", "/build", 501),
        ("GET", "/containers/json", 200),
        ("GET", "/containers/%zz/json", 400),
        ("OPTIONS", "/containers/json", 200),
    ] {
        let got = server.ask(method, path, "").await;
        assert_eq!(got.status, status, "{method} {path}: {got:?}");
        for name in ["Api-Version", "Ostype", "Server", "Docker-Experimental"] {
            assert!(got.header(name).is_some(), "{method} {path} has no {name}");
        }
        if status >= 400 {
            assert!(!got.message().is_empty());
        }
    }
    assert_eq!(server.ask("GET", "/nope", "").await.message(), "page not found");
    assert_eq!(server.ask("POST", "/containers/running/start", "").await.body, b"");
    assert!(server.ask("GET", "/nodes", "").await.message().starts_with("This node is not a swarm manager."));
}

#[tokio::test]
async fn keep_alive_chunked_bodies_and_expect_continue() {
    let server = serve();
    let mut client = server.connect().await;
    client
        .send("POST /volumes/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{\"Name\r\n6\r\n\":\"v\"}\r\n0\r\n\r\n")
        .await;
    assert_eq!(client.answer().await.json()["Name"], "v");
    client
        .send(
            "POST /volumes/create HTTP/1.1\r\nHost: d\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
    assert_eq!(client.head().await.line, "HTTP/1.1 100 Continue");
    client.send("{\"Name\":\"w\"}").await;
    assert_eq!(client.answer().await.json()["Name"], "w");
    // Two at once.
    client.send("GET /_ping HTTP/1.1\r\nHost: d\r\n\r\nGET /_ping HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert_eq!((client.answer().await.status, client.answer().await.status), (200, 200));
}

#[tokio::test]
async fn http2_with_prior_knowledge() {
    let server = serve();
    let socket = tokio::net::UnixStream::connect(&server.path).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(socket),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    let request = |method: &str, path: &str| {
        hyper::Request::builder()
            .method(method)
            .uri(format!("http://docker{path}"))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap()
    };
    let got = sender.send_request(request("GET", "/v1.44/_ping")).await.unwrap();
    assert_eq!((got.status(), got.version()), (hyper::StatusCode::OK, hyper::Version::HTTP_2));
    assert_eq!(got.headers()["api-version"], "1.55");
    // There is nothing to take over.
    let got = sender.send_request(request("POST", "/containers/c/attach?stream=1")).await.unwrap();
    assert_eq!(got.status(), 400);
    drop(sender);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn loopback_tcp_serves_clients_but_no_web_pages() {
    let server = serve_with(PATIENCE, &[Listen::parse("tcp://127.0.0.1:0", false).unwrap()]);
    let Some(Listen::Tcp(address)) = server.addresses.get(1) else { panic!("no address") };
    assert_ne!(address.port(), 0);
    for (headers, status) in [
        ("Host: localhost:2375", "200"),
        ("Host: 127.0.0.1", "200"),
        ("Host: [::1]:5", "200"),
        ("Host: docker", "200"),
        ("Host: evil.example.com", "403"),
        ("Host: localhost\r\nOrigin: http://evil.example.com", "403"),
        ("Host: localhost\r\nSec-Fetch-Site: cross-site", "403"),
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /_ping HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut got = String::new();
        socket.read_to_string(&mut got).await.unwrap();
        assert_eq!(got.split(' ').nth(1), Some(status), "{headers}");
    }
}

#[tokio::test]
async fn shutdown_lets_answers_end_and_removes_the_socket() {
    let mut server = serve();
    let mut idle = server.connect().await;
    assert_eq!(idle.ask("GET", "/_ping", "").await.status, 200);
    let mut waiting = server.connect().await;
    waiting.send("POST /containers/c/wait HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert_eq!(waiting.head().await.status, 200);
    server.shutdown.cancel();
    assert_eq!(idle.rest().await, b"");
    server.stub.exit.send_replace(Some(3));
    assert_eq!(waiting.chunk().await, b"{\"StatusCode\":3}\n");
    server.served.take().unwrap().await.unwrap();
    assert!(!server.path.exists());
}

#[tokio::test]
async fn a_handler_that_panics_fails_alone() {
    let server = serve();
    let mut client = server.connect().await;
    for path in ["/containers/c/pause", "/containers/c/unpause"] {
        let got = client.ask("POST", path, "").await;
        assert_eq!(got.status, 500);
        assert!(got.message().contains("the engine failed at container"), "{got:?}");
    }
    assert_eq!(client.ask("GET", "/_ping", "").await.status, 200);
}
