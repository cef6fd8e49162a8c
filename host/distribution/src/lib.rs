//! A registry of one's own: the OCI distribution API over a directory.
//!
//! Content is kept once, by its hash; repositories are links to it. Whatever has its final name is whole and was
//! verified. With an upstream, what is not here is fetched from there, kept and handed on. With an engine ([`Images`]) the
//! images are the engine's, and the directory keeps what is no image.
#![forbid(unsafe_code)]

mod access;
mod answer;
mod blobs;
mod cache;
mod content;
mod images;
mod manifests;
mod route;
mod store;
mod sweep;
mod taking;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use wharf_tls::Tls;

use access::Access;
pub use access::AccessOptions;
pub use images::{
    Answered, Elsewhere, Fetched, Image, Images, Index, Layer, Pushed, PushedIndex, Sent, Text, Trouble, Why,
};
use store::Store;
use upstream::Upstream;

/// How long a client may take to agree on TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

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
    /// Speak TLS.
    pub tls: Option<Tls>,
    /// Ask for passwords.
    pub access: Option<AccessOptions>,
    /// Bytes of one blob at most.
    pub max_upload: Option<u64>,
    /// How long what an engine fetched for others stays after it was last asked for.
    pub cache_keep: Duration,
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) upstream: Option<Upstream>,
    pub(crate) read_only: bool,
    pub(crate) access: Option<Access>,
    pub(crate) max_upload: u64,
    pub(crate) images: Option<Arc<dyn Images>>,
    pub(crate) cache_keep: Duration,
    pub(crate) flights: cache::Flights,
    /// Held while it is found out whether the engine makes a pushed layer again.
    pub(crate) remaking: tokio::sync::Mutex<()>,
}

/// A registry that listens.
pub struct Server {
    listener: TcpListener,
    tls: Option<Tls>,
    shared: Arc<Shared>,
}

impl Server {
    /// Opens the directory, removes what nothing refers to, and listens. With `images` it serves those.
    pub async fn bind(options: Options, images: Option<Arc<dyn Images>>) -> std::io::Result<Self> {
        let (root, keep) = (options.root.clone(), options.cache_keep);
        let (access, secure, engine) = (options.access, options.tls.is_some(), images.clone());
        let (store, access) = tokio::task::spawn_blocking(move || {
            let access = access.map(|access| Access::open(access, secure)).transpose()?;
            let store = Store::open(&root)?;
            if let Some(images) = &engine {
                sweep::sweep(&store, images.as_ref(), Duration::ZERO, keep)?;
            }
            Ok::<_, std::io::Error>((store, access))
        })
        .await
        .map_err(std::io::Error::other)??;
        let listener = TcpListener::bind(options.address).await?;
        let upstream = options.upstream.map(|name| Upstream::new(name, options.config_dirs));
        let shared = Shared {
            store,
            upstream,
            read_only: options.read_only,
            access,
            max_upload: options.max_upload.unwrap_or(u64::MAX),
            images,
            cache_keep: options.cache_keep,
            flights: cache::Flights::default(),
            remaking: tokio::sync::Mutex::default(),
        };
        Ok(Self { listener, tls: options.tls, shared: Arc::new(shared) })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the future is dropped.
    pub async fn run(self) -> std::io::Result<()> {
        // Ends with this future.
        let mut helpers = tokio::task::JoinSet::new();
        if self.shared.images.is_some() {
            helpers.spawn(sweep::run(Arc::clone(&self.shared)));
        }
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
            tokio::spawn(async move {
                let Some(tls) = tls else { return serve(shared, TokioIo::new(stream)).await };
                let acceptor = TlsAcceptor::from(tls.config());
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => serve(shared, TokioIo::new(stream)).await,
                    Ok(Err(error)) => tracing::debug!(%error, "no TLS came about"),
                    Err(_) => tracing::debug!("a client does not come to TLS"),
                }
            });
        }
    }
}

/// One connection.
async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(shared: Arc<Shared>, stream: TokioIo<S>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, std::convert::Infallible>(route::serve(&shared, request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30))
        .max_buf_size(64 << 10);
    if let Err(error) = builder.serve_connection(stream, service).await {
        tracing::debug!(%error, "a connection ended");
    }
}
