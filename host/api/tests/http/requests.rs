//! Parameters, bodies, shapes.

use serde_json::json;

use crate::stub::serve;

#[tokio::test]
async fn create_reads_bodies_as_docker_does() {
    let server = serve();
    for (path, body, status, said) in [
        ("/containers/create", r#"{"image":"a","HOSTCONFIG":{"memory":5},"Zzz":1,"Cmd":"ls"}"#, 201, ""),
        ("/containers/create?name=taken", r#"{"Image":"a"}"#, 409, "Conflict. The container name"),
        ("/containers/create", "{}", 400, "config cannot be empty in order to create a container"),
        ("/containers/create", r#"{"HostConfig":{"Memory":1}}"#, 400, "config cannot be empty"),
        (
            "/containers/create",
            "not json",
            400,
            "invalid JSON: invalid character 'o' in literal null (expecting 'u')",
        ),
        ("/containers/create", r#"{"Image":"a""#, 400, "invalid JSON: unexpected EOF"),
        ("/containers/create", r#"{"Image":"a"} {}"#, 400, "unexpected content after JSON"),
        (
            "/containers/create",
            r#"{"Image":5}"#,
            400,
            "cannot unmarshal number 5 into field Image of type string",
        ),
        ("/containers/create", r#"{"Image":"a","Image":"b"}"#, 400, "duplicate key"),
        (
            "/containers/create",
            r#"{"Image":"a","HostConfig":{"RestartPolicy":{"Name":"x"}}}"#,
            400,
            "invalid restart policy: unknown policy 'x'",
        ),
        ("/containers/create?plan=1", r#"{"Image":"a"}"#, 200, ""),
    ] {
        let got = server.ask("POST", path, body).await;
        assert_eq!(got.status, status, "{body}: {got:?}");
        if !said.is_empty() {
            assert!(got.message().contains(said), "{body}: {}", got.message());
        }
    }
    let mut client = server.connect().await;
    client.send("POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.message(), "invalid JSON: got EOF while reading request body");
    let created = server.stub.created.lock().unwrap();
    assert_eq!(created.len(), 1);
    assert_eq!(created[0].cmd.as_deref(), Some(["ls".to_owned()].as_slice()));
    assert_eq!(created[0].host_config.as_ref().unwrap().memory, Some(5));
}

#[tokio::test]
async fn bodies_need_no_content_type_and_may_be_empty() {
    let server = serve();
    let mut client = server.connect().await;
    client
        .send("POST /volumes/create HTTP/1.1\r\nHost: d\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\n{\"Name\":\"v\"}")
        .await;
    assert_eq!(client.answer().await.status, 201);
    assert_eq!(client.ask("POST", "/volumes/create", "").await.status, 201);
    assert_eq!(client.ask("POST", "/containers/c/start", "").await.status, 204);
    assert_eq!(client.ask("POST", "/containers/c/start", "{}").await.status, 204);
    let got = client.ask("POST", "/containers/c/start", r#"{"Binds":[]}"#).await;
    assert!(got.message().starts_with("starting container with non-empty request body"), "{got:?}");
}

#[tokio::test]
async fn list_parameters() {
    let server = serve();
    let filters = "%7B%22label%22%3A%7B%22a%3Db%22%3Atrue%7D%7D";
    let got =
        server.ask("GET", &format!("/containers/json?all=1&limit=-1&size=0&filters={filters}"), "").await;
    assert_eq!((got.status, got.text()), (200, "[]\n"));
    let listed = server.stub.listed.lock().unwrap().pop().unwrap();
    assert!(listed.all && !listed.size && listed.limit.is_none());
    assert_eq!(listed.filters.get("label"), ["a=b"]);
    for (query, said) in [
        ("filters=%7B%22x%22%3A%5B%5D%7D", "invalid filter 'x'"),
        ("filters=nonsense", "invalid filter"),
        ("limit=many", "limit"),
    ] {
        let got = server.ask("GET", &format!("/containers/json?{query}"), "").await;
        assert_eq!(got.status, 400);
        assert!(got.message().contains(said), "{got:?}");
    }
}

#[tokio::test]
async fn image_names_raw_and_encoded() {
    let server = serve();
    for (path, name) in [
        ("/images/reg:5000/a/b:c/json", "reg:5000/a/b:c"),
        ("/images/reg%3A5000%2Fa%2Fb:c/json", "reg:5000/a/b:c"),
        ("/images/sha256:00/json", "sha256:00"),
    ] {
        assert_eq!(server.ask("GET", path, "").await.json()["Id"], name);
    }
    assert_eq!(server.ask("GET", "/v1.40/images/a/json", "").await.json()["VirtualSize"], 1);
    assert!(server.ask("GET", "/v1.44/images/a/json", "").await.json().get("VirtualSize").is_none());
}

#[tokio::test]
async fn inspect_has_the_shape_of_its_version() {
    let server = serve();
    let old = server.ask("GET", "/v1.41/containers/c/json", "").await.json();
    assert_eq!(old["NetworkSettings"]["IPAddress"], "10.0.0.2");
    let new = server.ask("GET", "/v1.52/containers/c/json", "").await.json();
    assert!(new["NetworkSettings"].get("IPAddress").is_none());
    let missing = server.ask("GET", "/containers/nope/json", "").await;
    assert_eq!((missing.status, missing.message().as_str()), (404, "No such container: nope"));
}

#[tokio::test]
async fn version_has_details_for_templates() {
    let server = serve();
    let version = server.ask("GET", "/version", "").await.json();
    assert_eq!((&version["ApiVersion"], &version["MinAPIVersion"]), (&json!("1.55"), &json!("1.24")));
    assert_eq!(version["Components"][0]["Name"], "Engine");
    assert_eq!(version["Components"][0]["Details"]["ApiVersion"], "1.55");
    assert!(
        server.ask("GET", "/info", "").await.json().get("Warnings").is_some_and(serde_json::Value::is_null)
    );
}

#[tokio::test]
async fn progress_and_failures_of_long_bodies() {
    let server = serve();
    let good = server.ask("POST", "/images/load", "12345").await;
    assert_eq!((good.status, good.text()), (200, "{\"stream\":\"read 5\\n\"}\r\n"));
    let bad = server.ask("POST", "/images/load", "bad").await;
    let told = "{\"error\":\"not a tar\",\"errorDetail\":{\"message\":\"not a tar\"}}\r\n";
    assert_eq!((bad.status, bad.text()), (200, told));
    let late = server.ask("POST", "/images/load", "late").await;
    assert_eq!(late.status, 200);
    let last: serde_json::Value = serde_json::from_str(late.text().trim().lines().last().unwrap()).unwrap();
    assert_eq!(last, json!({"error": "late failure", "errorDetail": {"message": "late failure"}}));
    let pull = server.ask("POST", "/images/create?fromImage=nope&tag=1", "").await;
    assert_eq!((pull.status, pull.message().as_str()), (404, "pull access denied for nope:1"));
    assert_eq!(server.ask("POST", "/images/create?fromSrc=http://x", "").await.status, 501);
    assert_eq!(server.ask("POST", "/images/create", "").await.status, 400);
    let asked = server.stub.asked.lock().unwrap();
    assert!(asked.iter().filter(|a| a.operation.verb == "load").all(|a| a.streaming && a.body.is_none()));
}

#[tokio::test]
async fn stats_with_one_or_two_samples() {
    let server = serve();
    let once = server.ask("GET", "/containers/c/stats?stream=0&one-shot=1", "").await;
    assert_eq!(once.json()["name"], "first");
    assert_eq!(once.json()["os_type"], "linux");
    assert!(
        server
            .ask("GET", "/v1.51/containers/c/stats?stream=0&one-shot=1", "")
            .await
            .json()
            .get("os_type")
            .is_none()
    );
    assert_eq!(server.ask("GET", "/containers/c/stats?stream=false", "").await.json()["name"], "second");
    assert_eq!(server.ask("GET", "/containers/c/stats?one-shot=1", "").await.status, 400);
    assert_eq!(server.ask("GET", "/containers/x/stats", "").await.status, 404);
}
