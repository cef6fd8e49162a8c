//! Docker's client configuration file, as far as registries are concerned: `config.json` and the helper programs that
//! it names. The file is shared with docker's own command line.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use crate::Error;
use crate::attach::text;

/// Docker's name for its own registry where credentials are concerned.
const HUB: &str = "https://index.docker.io/v1/";
/// Largest configuration file, and largest answer of a helper.
const MAX: u64 = 1 << 20;

/// What is known for one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
    /// A token that stands for both.
    pub(crate) token: String,
}

/// The configuration file.
#[derive(Debug)]
pub(crate) struct Config {
    path: PathBuf,
    value: Value,
}

/// The registry that an image's name leads to, under its name in the file.
pub(crate) fn registry_of(image: &str) -> String {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => key(first),
        _ => HUB.to_owned(),
    }
}

/// A server as it is named in the file.
pub(crate) fn key(server: &str) -> String {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or_default();
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

impl Config {
    /// Reads the file; one that is not there is empty.
    pub(crate) fn read() -> Result<Self, Error> {
        let directory = std::env::var_os("DOCKER_CONFIG")
            .filter(|d| !d.is_empty())
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|h| Path::new(&h).join(".docker")))
            .ok_or_else(|| Error::Usage("neither DOCKER_CONFIG nor HOME says where config.json is".into()))?;
        let path = directory.join("config.json");
        let value = match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > MAX => {
                return Err(Error::Usage(format!("{}: too large", path.display())));
            }
            Ok(_) => serde_json::from_slice(&std::fs::read(&path)?)
                .map_err(|e| Error::Usage(format!("{}: {e}", path.display())))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => json!({}),
            Err(e) => return Err(e.into()),
        };
        Ok(Self { path, value })
    }

    /// The program that keeps a registry's credentials.
    fn helper(&self, key: &str) -> Option<String> {
        let own = self.value.pointer(&format!("/credHelpers/{}", key.replace('~', "~0").replace('/', "~1")));
        own.or_else(|| self.value.get("credsStore"))
            .and_then(Value::as_str)
            .filter(|h| !h.is_empty() && !h.contains('/'))
            .map(|h| format!("docker-credential-{h}"))
    }

    /// What is kept for a registry.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Login>, Error> {
        if let Some(helper) = self.helper(key) {
            let Some(found) = run(&helper, "get", key).await? else { return Ok(None) };
            let found: Value = serde_json::from_slice(&found)?;
            let (user, secret) = (text(&found, "/Username").to_owned(), text(&found, "/Secret").to_owned());
            return Ok(Some(if user == "<token>" {
                Login { token: secret, ..Login::default() }
            } else {
                Login { user, password: secret, token: String::new() }
            }));
        }
        let Some(auths) = self.value.get("auths").and_then(Value::as_object) else { return Ok(None) };
        let found =
            auths.get(key).or_else(|| auths.iter().find(|(k, _)| self::key(k) == key).map(|(_, v)| v));
        let Some(found) = found else { return Ok(None) };
        let decoded = STANDARD.decode(text(found, "/auth")).ok().and_then(|b| String::from_utf8(b).ok());
        let (user, password) = decoded.as_deref().and_then(|p| p.split_once(':')).unwrap_or_default();
        Ok(Some(Login {
            user: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
            token: text(found, "/identitytoken").to_owned(),
        }))
    }

    /// `X-Registry-Auth` for an image.
    pub(crate) async fn header(&self, image: &str) -> Result<String, Error> {
        let key = registry_of(image);
        let login = self.get(&key).await?.unwrap_or_default();
        let value = json!({
            "username": login.user, "password": login.password, "serveraddress": key, "identitytoken": login.token,
        });
        Ok(URL_SAFE.encode(value.to_string()))
    }

    /// Keeps a login.
    pub(crate) async fn put(&mut self, key: &str, login: &Login) -> Result<(), Error> {
        if let Some(helper) = self.helper(key) {
            let (user, secret) = match login.token.as_str() {
                "" => (login.user.as_str(), login.password.as_str()),
                token => ("<token>", token),
            };
            let value = json!({"ServerURL": key, "Username": user, "Secret": secret});
            run(&helper, "store", &value.to_string()).await?;
            return Ok(());
        }
        let mut entry = json!({"auth": STANDARD.encode(format!("{}:{}", login.user, login.password))});
        if !login.token.is_empty() {
            entry =
                json!({"auth": STANDARD.encode(format!("{}:", login.user)), "identitytoken": login.token});
        }
        self.auths()?.insert(key.to_owned(), entry);
        self.write()
    }

    /// Forgets a login. False if there was none.
    pub(crate) async fn remove(&mut self, key: &str) -> Result<bool, Error> {
        if let Some(helper) = self.helper(key) {
            return Ok(run(&helper, "erase", key).await?.is_some());
        }
        let had = self.auths()?.remove(key).is_some();
        if had {
            self.write()?;
        }
        Ok(had)
    }

    fn auths(&mut self) -> Result<&mut Map<String, Value>, Error> {
        let wrong = || Error::Usage("config.json does not hold an object of logins".into());
        let map = self.value.as_object_mut().ok_or_else(wrong)?;
        map.entry("auths").or_insert_with(|| json!({})).as_object_mut().ok_or_else(wrong)
    }

    /// Readable for its owner alone, and whole at every moment.
    fn write(&self) -> Result<(), Error> {
        if let Some(directory) = self.path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let new = self.path.with_extension(format!("new-{}", std::process::id()));
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        let written = file.write_all(&serde_json::to_vec_pretty(&self.value)?).and_then(|()| file.sync_all());
        if let Err(e) = written.and_then(|()| std::fs::rename(&new, &self.path)) {
            let _ = std::fs::remove_file(&new);
            return Err(e.into());
        }
        Ok(())
    }
}

/// Runs a helper program; None if it has nothing for the registry.
async fn run(helper: &str, verb: &str, input: &str) -> Result<Option<Vec<u8>>, Error> {
    let failed = |e: std::io::Error| Error::Usage(format!("error getting credentials: {helper}: {e}"));
    let mut child = tokio::process::Command::new(helper)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.map_err(failed)?;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(Some(output.stdout));
    }
    let said =
        String::from_utf8_lossy(if output.stdout.is_empty() { &output.stderr } else { &output.stdout });
    if said.contains("credentials not found") {
        return Ok(None);
    }
    Err(Error::Usage(format!("error getting credentials: {helper}: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_registries() {
        assert_eq!(registry_of("busybox"), HUB);
        assert_eq!(registry_of("me/app:1"), HUB);
        assert_eq!(registry_of("docker.io/me/app"), HUB);
        assert_eq!(registry_of("localhost:5000/a"), "localhost:5000");
        assert_eq!(registry_of("quay.io/a/b@sha256:0"), "quay.io");
        assert_eq!(key("https://reg.example/v2/"), "reg.example");
    }

    #[tokio::test]
    async fn logins_are_kept_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub").join("config.json");
        let mut config = Config { path: path.clone(), value: json!({"currentContext": "x"}) };
        let login = Login { user: "me".into(), password: "a:b".into(), token: String::new() };
        config.put("reg:5", &login).await.unwrap();
        assert_eq!(config.get("reg:5").await.unwrap(), Some(login));
        let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(kept["currentContext"], "x");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        assert!(config.remove("reg:5").await.unwrap());
        assert!(!config.remove("reg:5").await.unwrap());
        assert_eq!(config.get("reg:5").await.unwrap(), None);
    }
}
