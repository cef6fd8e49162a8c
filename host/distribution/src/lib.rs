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
mod door;
mod images;
mod manifests;
mod route;
mod store;
mod sweep;
mod taking;
mod uploads;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
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
use door::Door;
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
    /// What may be changed while it serves.
    pub limits: Limits,
}

/// Bounds that may be changed while a registry serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one blob at most.
    pub max_upload: Option<u64>,
    /// How long an upload may stand still before it is given up.
    pub upload_idle: Duration,
    /// How long what was fetched from other registries stays after it was last asked for.
    pub cache_keep: Duration,
    /// Bytes of it at most: what was not asked for longest goes first.
    pub cache_size: Option<u64>,
}

impl Default for Limits {
    /// Uploads may stand still for an hour; all else is without a bound.
    fn default() -> Self {
        let upload_idle = Duration::from_hours(1);
        Self { max_upload: None, upload_idle, cache_keep: Duration::MAX, cache_size: None }
    }
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) upstream: Option<Upstream>,
    pub(crate) read_only: bool,
    pub(crate) access: Option<Access>,
    pub(crate) images: Option<Arc<dyn Images>>,
    limits: RwLock<Limits>,
    /// Bytes of other registries, as the last sweep counted them, and what came since.
    pub(crate) cached: AtomicU64,
    /// Told when a sweep has something to do.
    pub(crate) full: tokio::sync::Notify,
    pub(crate) flights: cache::Flights,
    /// Held while it is found out whether the engine makes a pushed layer again.
    pub(crate) remaking: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(crate) fn limits(&self) -> Limits {
        *self.limits.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of one blob at most.
    pub(crate) fn max_upload(&self) -> u64 {
        self.limits().max_upload.unwrap_or(u64::MAX)
    }

    /// So many bytes of another registry were kept.
    pub(crate) fn cached_more(&self, bytes: u64) {
        let now = self.cached.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if self.limits().cache_size.is_some_and(|most| now > most) {
            self.full.notify_one();
        }
    }
}

impl Shared {
    /// So many bytes of another registry are this one's from now on.
    pub(crate) fn cached_less(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.cached.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// A registry that serves, for whoever looks after it.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// Bytes that a registry takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of its content.
    pub all: u64,
    /// Of it what is of other registries, and comes again when it is asked for.
    pub cached: u64,
}

impl Handle {
    /// Other bounds from now on; what is beyond them goes soon.
    pub fn set(&self, limits: Limits) {
        *self.shared.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        self.shared.store.uploads.set_idle(limits.upload_idle);
        self.shared.full.notify_one();
    }

    /// What it takes on the disk. Blocks.
    ///
    /// # Errors
    /// Its directory cannot be read.
    pub fn usage(&self) -> std::io::Result<Usage> {
        let all = self.shared.store.bytes()?;
        Ok(Usage { all, cached: self.shared.cached.load(Ordering::Relaxed).min(all) })
    }

    /// Forgets what is of other registries and was not asked for in this time, or all of it; answers the bytes that are given
    /// back. Blocks.
    ///
    /// # Errors
    /// Something could not be read or removed; the rest may be gone.
    pub fn forget(&self, unused_for: Option<Duration>) -> std::io::Result<u64> {
        let own = &self.shared;
        let before = own.store.bytes()?;
        let usual = own.limits();
        let limits = match unused_for {
            Some(time) => Limits { cache_keep: usual.cache_keep.min(time), ..usual },
            None => Limits { cache_size: Some(0), ..usual },
        };
        let cached = sweep::sweep(&own.store, own.images.as_deref(), sweep::PATIENCE, &limits)?;
        own.cached.store(cached, Ordering::Relaxed);
        Ok(before.saturating_sub(own.store.bytes()?))
    }
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
        let (root, limits) = (options.root.clone(), options.limits);
        let (access, secure, engine) = (options.access, options.tls.is_some(), images.clone());
        let (store, access, cached) = tokio::task::spawn_blocking(move || {
            let access = access.map(|access| Access::open(access, secure)).transpose()?;
            let store = Store::open(&root)?;
            store.uploads.set_idle(limits.upload_idle);
            // An engine's clients begin anew when it does.
            let patience = if engine.is_some() { Duration::ZERO } else { sweep::PATIENCE };
            let cached = sweep::sweep(&store, engine.as_deref(), patience, &limits)?;
            Ok::<_, std::io::Error>((store, access, cached))
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
            images,
            limits: RwLock::new(limits),
            cached: AtomicU64::new(cached),
            full: tokio::sync::Notify::new(),
            flights: cache::Flights::default(),
            remaking: tokio::sync::Mutex::default(),
        };
        Ok(Self { listener, tls: options.tls, shared: Arc::new(shared) })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What looks after it while it serves.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Serves until the future is dropped.
    pub async fn run(self) -> std::io::Result<()> {
        let door = Door::new();
        // Ends with this future.
        let mut helpers = tokio::task::JoinSet::new();
        helpers.spawn(sweep::run(Arc::clone(&self.shared)));
        helpers.spawn(sweep::uploads(Arc::clone(&self.shared)));
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Whoever has too many already hears nothing, and who has fewer is heard.
            let Some(place) = door.enter(peer) else { continue };
            let _ = stream.set_nodelay(true);
            let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
            tokio::spawn(async move {
                let _place = place;
                let Some(tls) = tls else { return serve(shared, TokioIo::new(stream), peer).await };
                let acceptor = TlsAcceptor::from(tls.config());
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => serve(shared, TokioIo::new(stream), peer).await,
                    Ok(Err(error)) => tracing::debug!(%error, "no TLS came about"),
                    Err(_) => tracing::debug!("a client does not come to TLS"),
                }
            });
        }
    }
}

/// One connection.
async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    shared: Arc<Shared>,
    stream: TokioIo<S>,
    peer: IpAddr,
) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, std::convert::Infallible>(route::serve(&shared, request, peer).await) }
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
