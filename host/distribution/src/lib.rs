//! A registry of one's own: the OCI distribution API over a directory.
//!
//! Content is kept once, by its hash; repositories are links to it. Whatever has its final name is whole and was
//! verified. With an upstream, what is not here is fetched from there, kept and handed on.
#![forbid(unsafe_code)]

mod answer;
mod blobs;
mod manifests;
mod route;
mod store;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;

use store::Store;
use upstream::Upstream;

/// What to serve, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory that everything is kept in; made if absent.
    pub root: PathBuf,
    /// Address to listen on.
    pub address: SocketAddr,
    /// Registry to fetch from what is not here.
    pub upstream: Option<String>,
    /// Where that registry's `hosts.toml` and certificates are.
    pub config_dirs: Vec<PathBuf>,
    /// Refuse everything that changes something.
    pub read_only: bool,
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) upstream: Option<Upstream>,
    pub(crate) read_only: bool,
}

/// A registry that listens.
pub struct Server {
    listener: TcpListener,
    shared: Arc<Shared>,
}

impl Server {
    /// Opens the directory, removes what nothing refers to, and listens.
    pub async fn bind(options: Options) -> std::io::Result<Self> {
        let root = options.root.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&root))
            .await
            .map_err(std::io::Error::other)??;
        let listener = TcpListener::bind(options.address).await?;
        let upstream = options.upstream.map(|name| Upstream::new(name, options.config_dirs));
        Ok(Self { listener, shared: Arc::new(Shared { store, upstream, read_only: options.read_only }) })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped.
    pub async fn run(self) -> std::io::Result<()> {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, std::convert::Infallible>(route::serve(&shared, request).await) }
                });
                let mut builder = Builder::new(TokioExecutor::new());
                builder
                    .http1()
                    .timer(TokioTimer::new())
                    .header_read_timeout(std::time::Duration::from_secs(30))
                    .max_buf_size(64 << 10);
                if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
        }
    }
}
