//! The registry that the daemon itself serves, of its own images.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use wharf_distribution::{AccessOptions, Images, Options, Server};
use wharf_engine::Engine;
use wharf_engine::remote::Shelf;

use super::config::{Config, RegistryServe};
use super::values;
use crate::registry::{tls, too_open};

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
    let max_upload = match values::size(&serve.max_upload)? {
        0 => None,
        bytes => Some(u64::try_from(bytes).map_err(|_| "registry-serve: max-upload is negative")?),
    };
    let access = serve
        .htpasswd
        .clone()
        .map(|htpasswd| AccessOptions { htpasswd, anonymous_read: serve.anonymous_read });
    if serve.anonymous_read && access.is_none() {
        return Err(
            "registry-serve: anonymous-read needs htpasswd: without it everybody may do everything".into()
        );
    }
    let cache_keep = match &serve.pull_through_keep {
        None => CACHE_KEEP,
        Some(text) => wharf_engine::image_gc::duration(text).ok_or_else(|| {
            format!("registry-serve: invalid pull-through-keep {text:?}: a time such as 72h is needed")
        })?,
    };
    Ok(Options {
        root: config.data_root.join("registry"),
        address,
        upstream: None,
        config_dirs: Vec::new(),
        read_only: serve.read_only,
        tls: tls(serve.tls_cert.as_ref(), serve.tls_key.as_ref())
            .map_err(|e| format!("registry-serve: {e}"))?,
        access,
        max_upload,
        cache_keep,
    })
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
