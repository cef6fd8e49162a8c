//! There is no way around authentication and authorization.

use std::sync::atomic::Ordering;

use crate::stub::{serve, serve_with};

/// Parameters with which every route has something to ask about.
const PARAMETERS: &str = "?stdout=1&h=1&w=1&fromImage=a";

/// Every route with a name in it where it takes one.
fn routes() -> Vec<(String, String)> {
    wharf_api::operations().map(|op| (op.method.clone(), op.path.replace("{}", "c"))).collect()
}

#[tokio::test]
async fn no_route_answers_who_is_not_known() {
    let server = serve();
    server.stub.refuse_callers.store(true, Ordering::SeqCst);
    for (method, path) in routes() {
        let got = server.ask(&method, &path, &valid_body(&path)).await;
        assert_eq!(got.status, 401, "{method} {path}: {got:?}");
    }
    assert!(server.stub.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn no_route_answers_who_is_not_allowed() {
    let server = serve();
    server.stub.refuse_all.store(true, Ordering::SeqCst);
    let routes = routes();
    assert!(routes.len() > 80, "only {} routes", routes.len());
    for (method, path) in routes {
        let got = server.ask(&method, &format!("{path}{PARAMETERS}"), &valid_body(&path)).await;
        assert_eq!(got.status, 403, "{method} {path}: {got:?}");
        if method != "HEAD" {
            assert_eq!(got.message(), "authorization denied by plugin stub: not today");
        }
    }
}

/// So that a refusal is for the caller and not for the request.
fn valid_body(path: &str) -> String {
    if path.ends_with("/exec") {
        return r#"{"Cmd":["a"]}"#.into();
    }
    if path == "/containers/create" { r#"{"Image":"a"}"#.into() } else { String::new() }
}

#[tokio::test]
async fn what_is_authorized_is_what_is_executed() {
    let server = serve();
    let body = r#"{"image":"a","hostconfig":{"PRIVILEGED":true},"Other":{"Privileged":false}}"#;
    assert_eq!(server.ask("POST", "/v1.43/containers/create", body).await.status, 201);
    let asked = server.stub.asked.lock().unwrap().pop().unwrap();
    let document = asked.body.unwrap();
    assert_eq!(document.pointer("/HostConfig/Privileged"), Some(&serde_json::json!(true)));
    assert!(document.get("hostconfig").is_none() && document.get("Other").is_none());
    assert_eq!((asked.operation.noun.as_str(), asked.operation.verb.as_str()), ("container", "create"));
    assert!(asked.operation.mutates && !asked.operation.upgrades);
    assert_eq!(asked.operation.api_version, "1.43");
    let created = server.stub.created.lock().unwrap().pop().unwrap();
    assert_eq!(created.host_config.unwrap().privileged, Some(true));
}

#[tokio::test]
async fn a_large_body_is_seen_to_its_last_field() {
    let server = serve();
    let filler = "x".repeat(2 * 1024 * 1024);
    let body = format!(r#"{{"Image":"a","Labels":{{"a":"{filler}"}},"HostConfig":{{"Privileged":true}}}}"#);
    assert_eq!(server.ask("POST", "/containers/create", &body).await.status, 201);
    let asked = server.stub.asked.lock().unwrap().pop().unwrap();
    assert_eq!(asked.body.unwrap().pointer("/HostConfig/Privileged"), Some(&serde_json::json!(true)));
}

#[tokio::test]
async fn targets_and_streams_are_told() {
    let server = serve();
    server.ask("GET", "/containers/%2Fsome%2Fname/json", "").await;
    let asked = server.stub.asked.lock().unwrap().pop().unwrap();
    assert_eq!(asked.target, "/some/name");
    server.ask("POST", "/containers/nope/attach?stream=1", "").await;
    let asked = server.stub.asked.lock().unwrap().pop().unwrap();
    assert!(asked.operation.upgrades && asked.target == "nope");
}

#[tokio::test]
async fn the_kernel_says_who_a_client_is_once_per_connection() {
    let server = serve();
    let mut client = server.connect().await;
    for _ in 0..3 {
        assert_eq!(client.ask("GET", "/info", "").await.status, 200);
    }
    assert_eq!(server.stub.authentications.load(Ordering::SeqCst), 1);
    let connection = server.stub.connections.lock().unwrap().pop().unwrap();
    let wharf_plan::auth::Evidence::Peer(peer) = &connection.evidence[0] else { panic!("{connection:?}") };
    assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
    assert_eq!(peer.pid, std::process::id());
    assert_eq!(peer.groups.len(), nix::unistd::getgroups().unwrap().len());
    // What a request brings itself is looked at each time.
    for token in ["one", "two"] {
        client.send(format!("GET /info HTTP/1.1\r\nHost: d\r\nAuthorization: Bearer {token}\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(server.stub.authentications.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn every_request_is_authorized_anew() {
    let server = serve();
    let mut client = server.connect().await;
    assert_eq!(client.ask("GET", "/containers/c/json", "").await.status, 200);
    server.stub.refuse_all.store(true, Ordering::SeqCst);
    assert_eq!(client.ask("GET", "/containers/c/json", "").await.status, 403);
}

#[tokio::test]
async fn loopback_tcp_is_known_by_its_user() {
    let server =
        serve_with(crate::client::PATIENCE, &[wharf_api::Listen::parse("tcp://127.0.0.1:0", false).unwrap()]);
    let Some(wharf_api::Listen::Tcp(address)) = server.addresses.get(1) else { panic!("no address") };
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut socket, request).await.unwrap();
    tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut Vec::new()).await.unwrap();
    let connection = server.stub.connections.lock().unwrap().pop().unwrap();
    assert_eq!(connection.transport, "tcp");
    let wharf_plan::auth::Evidence::Peer(peer) = &connection.evidence[0] else { panic!("{connection:?}") };
    assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
}
