//! The registry that the daemon itself serves, of its own images.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use wharf_distribution::{AccessOptions, Handle, Images, Limits, Options, Server};
use wharf_engine::Engine;
use wharf_engine::remote::Shelf;
use wharf_engine::remote::cache::{Cache, CacheUsage};

use super::config::{Config, RegistryServe};
use super::values;
use crate::registry::{duration, tls, too_open};

/// How long what was fetched for others stays after it was last asked for.
const CACHE_KEEP: Duration = Duration::from_hours(7 * 24);

/// What to serve, and whether names are fetched from elsewhere, if the configuration wants a registry.
pub(crate) fn options(config: &Config) -> Result<Option<(Options, bool)>, String> {
    let Some(serve) = &config.registry_serve else { return Ok(None) };
    Ok(Some((checked(config, serve)?, serve.pull_through)))
}

fn checked(config: &Config, serve: &RegistryServe) -> Result<Options, String> {
    let address: SocketAddr = serve
        .address
        .parse()
        .map_err(|e| format!("registry-serve: the address {:?} is not IP:PORT: {e}", serve.address))?;
    if let Some(why) = too_open(address, serve.htpasswd.is_some(), serve.allow_insecure) {
        return Err(format!("registry-serve: {why}: say \"htpasswd\", or \"allow-insecure\": true"));
    }
    let access = serve
        .htpasswd
        .clone()
        .map(|htpasswd| AccessOptions { htpasswd, anonymous_read: serve.anonymous_read });
    if serve.anonymous_read && access.is_none() {
        return Err(
            "registry-serve: anonymous-read needs htpasswd: without it everybody may do everything".into()
        );
    }
    Ok(Options {
        root: config.data_root.join("registry"),
        address,
        upstream: None,
        config_dirs: Vec::new(),
        read_only: serve.read_only,
        tls: tls(serve.tls_cert.as_ref(), serve.tls_key.as_ref())
            .map_err(|e| format!("registry-serve: {e}"))?,
        access,
        limits: limits(serve)?,
    })
}

/// The bounds that a running registry takes over when the configuration is read again.
pub(crate) fn limits(serve: &RegistryServe) -> Result<Limits, String> {
    let size = |key: &str, value: &Value| match values::size(value) {
        Ok(0) => Ok(None),
        Ok(bytes) => Ok(u64::try_from(bytes).ok()),
        Err(e) => Err(format!("registry-serve: {key}: {e}")),
    };
    let time = |key: &str, text: &Option<String>, usual: Duration| match text {
        None => Ok(usual),
        Some(text) => duration(text).map_err(|e| format!("registry-serve: {key}: {e}")),
    };
    Ok(Limits {
        max_upload: size("max-upload", &serve.max_upload)?,
        upload_idle: time("upload-idle-timeout", &serve.upload_idle_timeout, Limits::default().upload_idle)?,
        cache_keep: time("pull-through-keep", &serve.pull_through_keep, CACHE_KEEP)?,
        cache_size: size("pull-through-size", &serve.pull_through_size)?,
    })
}

/// The content of the registry, as the engine looks at it.
pub(crate) struct Kept(pub(crate) Handle);

impl Cache for Kept {
    fn usage(&self) -> std::io::Result<CacheUsage> {
        let usage = self.0.usage()?;
        Ok(CacheUsage { cached: usage.cached, kept: usage.all.saturating_sub(usage.cached) })
    }

    fn forget(&self, unused_for: Option<Duration>) -> std::io::Result<u64> {
        self.0.forget(unused_for)
    }
}

/// Listens.
pub(crate) async fn bind((options, fetches): (Options, bool), engine: &Engine) -> Result<Server, String> {
    let address = options.address;
    let images: Arc<dyn Images> = Arc::new(Shelf::new(engine.clone(), fetches));
    let server = Server::bind(options, Some(images))
        .await
        .map_err(|e| format!("registry-serve: cannot serve at {address}: {e}"))?;
    tracing::info!(%address, "registry of this engine's images");
    Ok(server)
}
