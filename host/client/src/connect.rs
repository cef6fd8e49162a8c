//! Which daemon: `--host`, `WHARF_HOST`, `DOCKER_HOST`, `--context`, the current context, or the usual sockets.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::args::Cli;
use crate::http::{Address, Client};

/// Wharf's own socket, and the one where other clients look.
const SOCKETS: [&str; 2] = ["/run/wharf/wharf.sock", "/var/run/docker.sock"];

/// Finds the daemon; with `start`, starts one where none is named and none answers.
pub(crate) async fn connect(cli: &Cli, start: bool) -> Result<Client, Error> {
    if let Some(address) = named(cli)? {
        return Ok(Client::new(parse(&address)?));
    }
    for socket in SOCKETS {
        let client = Client::new(Address::Unix(socket.into()));
        if client.request(Method::GET, "/_ping", &[], None).await.is_ok() {
            return Ok(client);
        }
    }
    let client = Client::new(Address::Unix(SOCKETS[0].into()));
    if start {
        start_daemon(&client).await?;
    }
    Ok(client)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// The address that the user named, if any.
fn named(cli: &Cli) -> Result<Option<String>, Error> {
    if let Some(host) = &cli.host {
        return Ok(Some(host.clone()));
    }
    if cli.context.is_none()
        && let Some(host) = variable("WHARF_HOST").or_else(|| variable("DOCKER_HOST"))
    {
        return Ok(Some(host));
    }
    let Some(directory) = variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|h| Path::new(&h).join(".docker")))
    else {
        return Ok(None);
    };
    let name = cli.context.clone().or_else(|| variable("DOCKER_CONTEXT")).or_else(|| {
        let config: Value =
            serde_json::from_slice(&std::fs::read(directory.join("config.json")).ok()?).ok()?;
        config.get("currentContext")?.as_str().map(str::to_owned)
    });
    match name {
        Some(name) if name != "default" && !name.is_empty() => context(&directory, &name).map(Some),
        _ => Ok(None),
    }
}

/// Reads the endpoint of a context as docker stores it: `contexts/meta/<sha256 of the name>/meta.json`.
fn context(directory: &Path, name: &str) -> Result<String, Error> {
    let digest = Sha256::digest(name.as_bytes());
    let folder = hex(&digest);
    let path = directory.join("contexts/meta").join(folder).join("meta.json");
    let unknown =
        |why: String| Error::Usage(format!("context \"{name}\": {why} (`docker context ls` lists them)"));
    let text = std::fs::read(&path).map_err(|e| unknown(format!("{}: {e}", path.display())))?;
    let meta: Value = serde_json::from_slice(&text).map_err(|e| unknown(e.to_string()))?;
    let host = meta.pointer("/Endpoints/docker/Host").and_then(Value::as_str);
    host.map(str::to_owned).ok_or_else(|| unknown("has no docker endpoint".into()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse(address: &str) -> Result<Address, Error> {
    if let Some(path) = address.strip_prefix("unix://") {
        return Ok(Address::Unix(path.into()));
    }
    if let Some(rest) = address.strip_prefix("tcp://").or_else(|| address.strip_prefix("http://")) {
        let rest = rest.trim_end_matches('/');
        let port = rest.rsplit_once(':').is_some_and(|(_, p)| !p.contains(']'));
        return Ok(Address::Tcp(if port { rest.into() } else { format!("{rest}:2375") }));
    }
    if address.starts_with('/') {
        return Ok(Address::Unix(address.into()));
    }
    Err(Error::Usage(format!("unsupported daemon address '{address}': use unix:///path or tcp://host:port")))
}

/// Starts a daemon of one's own in the background and waits until it answers.
async fn start_daemon(client: &Client) -> Result<(), Error> {
    let program = std::env::current_exe()?;
    let address = client.address().to_string();
    let mut child = tokio::process::Command::new(&program)
        .args(["daemon", "--host", &address])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let fails = |cause: String| Error::Connect { address: address.clone(), cause };
    for _ in 0..1000 {
        if client.request(Method::GET, "/_ping", &[], None).await.is_ok() {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            let output = child.wait_with_output().await?;
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(fails(format!("started one, but it ended with {status}: {text}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(fails("started one, but it does not answer".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(parse("unix:///run/x.sock").unwrap(), Address::Unix("/run/x.sock".into()));
        assert_eq!(parse("tcp://[::1]").unwrap(), Address::Tcp("[::1]:2375".into()));
        assert_eq!(parse("tcp://h:1/").unwrap(), Address::Tcp("h:1".into()));
        assert!(parse("gopher://h").is_err());
    }

    #[test]
    fn contexts_are_found_as_docker_stores_them() {
        let dir = std::env::temp_dir().join(format!("wharf-context-{}", std::process::id()));
        // sha256("remote")
        let folder = dir.join("contexts/meta").join(hex(&Sha256::digest(b"remote")));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("meta.json"),
            r#"{"Name":"remote","Endpoints":{"docker":{"Host":"tcp://far:2375"}}}"#,
        )
        .unwrap();
        assert_eq!(context(&dir, "remote").unwrap(), "tcp://far:2375");
        assert!(context(&dir, "other").is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
