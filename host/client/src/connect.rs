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
use crate::transport::{Ssh, TlsFiles};

/// Wharf's own socket, and the one where other clients look.
const SOCKETS: [&str; 2] = ["/run/wharf/wharf.sock", "/var/run/docker.sock"];

/// Finds the daemon; with `start`, starts one where none is named and none answers.
pub(crate) async fn connect(cli: &Cli, start: bool) -> Result<Client, Error> {
    if let Some(named) = named(cli)? {
        let tls = tls(cli, &named);
        return Ok(Client::new(parse(&named.address, tls)?));
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

/// A daemon that the user named.
struct Named {
    address: String,
    /// Directory with the certificates of the context that it is from, and whether servers are verified.
    context: Option<(PathBuf, bool)>,
}

impl Named {
    fn plain(address: String) -> Self {
        Self { address, context: None }
    }
}

fn docker_directory() -> Option<PathBuf> {
    variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|h| Path::new(&h).join(".docker")))
}

/// TLS as docker decides about it: flags, then `DOCKER_TLS`, `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH`, or the context's own.
fn tls(cli: &Cli, named: &Named) -> Option<TlsFiles> {
    if let Some((directory, verify)) = &named.context {
        let file = |name: &str| directory.join(name);
        return file("ca.pem").exists().then(|| TlsFiles {
            ca: file("ca.pem"),
            certificate: file("cert.pem"),
            key: file("key.pem"),
            verify: *verify,
        });
    }
    let flags = &cli.tls;
    let verify = flags.tlsverify.unwrap_or(variable("DOCKER_TLS_VERIFY").is_some());
    let named = flags.tlscacert.is_some() || flags.tlscert.is_some() || flags.tlskey.is_some();
    let wanted = verify || flags.tls.unwrap_or(variable("DOCKER_TLS").is_some() || named);
    let directory = variable("DOCKER_CERT_PATH").map(PathBuf::from).or_else(docker_directory)?;
    let file = |own: &Option<PathBuf>, name: &str| own.clone().unwrap_or_else(|| directory.join(name));
    wanted.then(|| TlsFiles {
        ca: file(&flags.tlscacert, "ca.pem"),
        certificate: file(&flags.tlscert, "cert.pem"),
        key: file(&flags.tlskey, "key.pem"),
        verify,
    })
}

/// The address that the user named, if any.
fn named(cli: &Cli) -> Result<Option<Named>, Error> {
    if let Some(host) = &cli.host {
        return Ok(Some(Named::plain(host.clone())));
    }
    if cli.context.is_none()
        && let Some(host) = variable("WHARF_HOST").or_else(|| variable("DOCKER_HOST"))
    {
        return Ok(Some(Named::plain(host)));
    }
    let Some(directory) = docker_directory() else { return Ok(None) };
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
fn context(directory: &Path, name: &str) -> Result<Named, Error> {
    let digest = Sha256::digest(name.as_bytes());
    let folder = hex(&digest);
    let path = directory.join("contexts/meta").join(folder).join("meta.json");
    let unknown =
        |why: String| Error::Usage(format!("context \"{name}\": {why} (`docker context ls` lists them)"));
    let text = std::fs::read(&path).map_err(|e| unknown(format!("{}: {e}", path.display())))?;
    let meta: Value = serde_json::from_slice(&text).map_err(|e| unknown(e.to_string()))?;
    let host = meta.pointer("/Endpoints/docker/Host").and_then(Value::as_str);
    let address = host.map(str::to_owned).ok_or_else(|| unknown("has no docker endpoint".into()))?;
    let skip = meta.pointer("/Endpoints/docker/SkipTLSVerify").and_then(Value::as_bool).unwrap_or(false);
    let folder = hex(&digest);
    Ok(Named { address, context: Some((directory.join("contexts/tls").join(folder).join("docker"), !skip)) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse(address: &str, tls: Option<TlsFiles>) -> Result<Address, Error> {
    if let Some(path) = address.strip_prefix("unix://") {
        return Ok(Address::Unix(path.into()));
    }
    let tcp = ["tcp://", "http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    if let Some(rest) = tcp {
        let rest = rest.trim_end_matches('/');
        if address.starts_with("https://") && tls.is_none() {
            return Err(Error::Usage(format!("'{address}' needs --tls or --tlsverify")));
        }
        let port = rest.rsplit_once(':').is_some_and(|(_, p)| !p.contains(']'));
        let usual = if tls.is_some() { 2376 } else { 2375 };
        let place = if port { rest.to_owned() } else { format!("{rest}:{usual}") };
        return Ok(match tls {
            Some(files) => Address::Tls(place, files),
            None => Address::Tcp(place),
        });
    }
    if let Some(rest) = address.strip_prefix("ssh://") {
        return Ssh::parse(rest).map(Address::Ssh);
    }
    if address.starts_with('/') {
        return Ok(Address::Unix(address.into()));
    }
    Err(Error::Usage(format!(
        "unsupported daemon address '{address}': use unix:///path, tcp://host:port or ssh://user@host"
    )))
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
        assert_eq!(parse("unix:///run/x.sock", None).unwrap(), Address::Unix("/run/x.sock".into()));
        assert_eq!(parse("tcp://[::1]", None).unwrap(), Address::Tcp("[::1]:2375".into()));
        assert_eq!(parse("tcp://h:1/", None).unwrap(), Address::Tcp("h:1".into()));
        assert!(parse("gopher://h", None).is_err());
        assert!(parse("https://h", None).is_err());
        assert_eq!(parse("ssh://u@h", None).unwrap().to_string(), "ssh://u@h");
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
        assert_eq!(context(&dir, "remote").unwrap().address, "tcp://far:2375");
        assert!(context(&dir, "other").is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
