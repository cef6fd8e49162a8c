//! Stock clients other than the docker CLI: bollard (Rust), docker-py, dockerode. Each does the same small story.

use std::path::{Path, PathBuf};
use std::process::Command;

use futures_util::StreamExt;
use wharf_tests::{Daemon, bin_dir};

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// A directory for a client's packages, filled once by `install`.
fn packages(name: &str, install: impl FnOnce(&Path) -> Command) -> PathBuf {
    let dir = bin_dir().join("clients").join(name);
    let done = dir.join(".installed");
    if !done.exists() {
        std::fs::create_dir_all(&dir).unwrap();
        let out = install(&dir).output().unwrap();
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        std::fs::write(done, "").unwrap();
    }
    dir
}

#[test]
fn docker_py() {
    let dir = packages("python", |dir| {
        let mut c = Command::new("python3");
        c.args(["-m", "pip", "install", "--quiet", "--target"]).arg(dir).args([
            "docker==7.0.0",
            "requests==2.31.0",
            "urllib3<3",
        ]);
        c
    });
    let d = Daemon::start();
    d.import_busybox();
    let mut c = Command::new("python3");
    c.env("PYTHONPATH", dir).env("DOCKER_HOST", d.host()).arg(sources().join("story.py"));
    assert_eq!(d.run_with_input(c, b"").ok().lines().last(), Some("story told"));
}

#[test]
fn dockerode() {
    let dir = packages("node", |dir| {
        let mut c = Command::new("npm");
        c.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(dir).arg("dockerode@4");
        c
    });
    let d = Daemon::start();
    d.import_busybox();
    let mut c = Command::new("node");
    c.env("NODE_PATH", dir.join("node_modules")).env("SOCKET", d.socket()).arg(sources().join("story.js"));
    assert_eq!(d.run_with_input(c, b"").ok().lines().last(), Some("story told"));
}

#[tokio::test]
async fn bollard() {
    use bollard::query_parameters as q;
    let d = Daemon::start();
    d.import_busybox();
    let docker =
        bollard::Docker::connect_with_unix(d.socket().to_str().unwrap(), 60, bollard::API_DEFAULT_VERSION)
            .unwrap();
    let version = docker.version().await.unwrap();
    assert_eq!(version.os.as_deref(), Some("linux"));
    let docker = docker.negotiate_version().await.unwrap();
    let body = bollard::models::ContainerCreateBody {
        image: Some("busybox".into()),
        cmd: Some(vec!["sh".into(), "-c".into(), "echo out; echo err >&2; exit 4".into()]),
        ..Default::default()
    };
    let options = q::CreateContainerOptionsBuilder::default().name("story").build();
    let id = docker.create_container(Some(options), body).await.unwrap().id;
    let attach = q::AttachContainerOptionsBuilder::default().stdout(true).stderr(true).stream(true).build();
    let attached = docker.attach_container(&id, Some(attach)).await.unwrap();
    docker.start_container(&id, None::<q::StartContainerOptions>).await.unwrap();
    let output: Vec<String> = attached.output.map(|o| format!("{:?}", o.unwrap())).collect().await;
    assert!(
        output.iter().any(|o| o.contains("StdOut")) && output.iter().any(|o| o.contains("StdErr")),
        "{output:?}"
    );
    let mut wait = docker.wait_container(&id, None::<q::WaitContainerOptions>);
    match wait.next().await.unwrap() {
        Err(bollard::errors::Error::DockerContainerWaitError { code, .. }) => assert_eq!(code, 4),
        other => panic!("{other:?}"),
    }
    let inspected = docker.inspect_container(&id, None::<q::InspectContainerOptions>).await.unwrap();
    assert_eq!(inspected.state.unwrap().exit_code, Some(4));
    let listed = docker
        .list_containers(Some(q::ListContainersOptionsBuilder::default().all(true).build()))
        .await
        .unwrap();
    assert_eq!(listed.len(), 1);
    let logs = q::LogsOptionsBuilder::default().stdout(true).stderr(true).tail("all").build();
    let lines: Vec<_> = docker.logs(&id, Some(logs)).collect().await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    let filters = std::collections::HashMap::from([("container".to_owned(), vec![id.clone()])]);
    let events = q::EventsOptionsBuilder::default()
        .since("0")
        .until(&format!("{}", wharf_now() + 1))
        .filters(&filters)
        .build();
    let actions: Vec<String> =
        docker.events(Some(events)).map(|e| e.unwrap().action.unwrap_or_default()).collect().await;
    assert!(actions.iter().any(|a| a == "die"), "{actions:?}");
    // What inspect shows makes the same container again.
    let again = bollard::models::ContainerCreateBody {
        image: inspected.config.as_ref().unwrap().image.clone(),
        cmd: inspected.config.as_ref().unwrap().cmd.clone(),
        env: inspected.config.unwrap().env,
        host_config: inspected.host_config,
        ..Default::default()
    };
    let twin = docker.create_container(None::<q::CreateContainerOptions>, again).await.unwrap().id;
    for id in [id, twin] {
        docker.remove_container(&id, None::<q::RemoveContainerOptions>).await.unwrap();
    }
    tokio::task::spawn_blocking(move || drop(d)).await.unwrap();
}

fn wharf_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
