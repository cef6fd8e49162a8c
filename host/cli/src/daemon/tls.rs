//! Which certificates the daemon uses.

use std::path::PathBuf;

use wharf_api::{Tls, TlsFiles};

use super::config::Config;

/// TLS as dockerd decides about it: `--tlsverify`, or a variable of that name, implies `--tls`, and so does naming a file;
/// files that are not named are in `DOCKER_CERT_PATH` or in `~/.docker`.
pub(crate) fn tls(config: &Config) -> Result<Option<Tls>, String> {
    let variable = std::env::var("DOCKER_TLS_VERIFY").is_ok_and(|v| !v.is_empty());
    let verify = config.tlsverify.unwrap_or(variable && config.tls != Some(false));
    let named = config.tlscacert.is_some() || config.tlscert.is_some() || config.tlskey.is_some();
    if !verify && !config.tls.unwrap_or(named) {
        return Ok(None);
    }
    let dir = match std::env::var_os("DOCKER_CERT_PATH").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".docker"),
    };
    let file = |own: &Option<PathBuf>, name: &str| own.clone().unwrap_or_else(|| dir.join(name));
    let files = TlsFiles {
        certificate: file(&config.tlscert, "cert.pem"),
        key: file(&config.tlskey, "key.pem"),
        clients: verify.then(|| file(&config.tlscacert, "ca.pem")),
    };
    Tls::load(files).map(Some)
}
