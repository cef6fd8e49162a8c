//! Connections: names, proxies, TLS; and the pool of them.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::{Error, Kind, Result};
use crate::hosts::{Proxy, Settings, Tls, is_loopback};

const CONNECT: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(30);
/// Largest certificate or key file.
const MAX_PEM: u64 = 4 << 20;

/// A connection of any kind.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(crate) struct Stream {
    io: TokioIo<Box<dyn Io>>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[derive(Clone)]
pub(crate) struct Connector {
    tls: Arc<ClientConfig>,
    proxies: Arc<Matcher>,
    /// Not to this machine, nor to where clouds keep their secrets: the address came from a registry elsewhere.
    guarded: bool,
}

/// Addresses that only something on this machine or beside it should be asked at.
fn is_inner(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_loopback() || a.is_link_local() || a.is_unspecified(),
        IpAddr::V6(a) => {
            a.is_loopback()
                || a.is_unspecified()
                || a.is_unicast_link_local()
                || a.to_ipv4_mapped().is_some_and(|a| is_inner(IpAddr::V4(a)))
        }
    }
}

async fn dial(host: &str, port: u16, guarded: bool) -> io::Result<TcpStream> {
    let host = host.trim_matches(['[', ']']);
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("dial tcp: lookup {host}: {e}")))?
        .collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("dial tcp: lookup {host}: no such host"));
    for address in addresses {
        if guarded && is_inner(address.ip()) {
            let text = format!("dial tcp {address}: a registry elsewhere must not lead to this machine");
            last = io::Error::new(io::ErrorKind::PermissionDenied, text);
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => {
                let text = match e.kind() {
                    io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                    _ => e.to_string(),
                };
                last = io::Error::new(e.kind(), format!("dial tcp {address}: connect: {text}"));
            }
        }
    }
    Err(last)
}

/// Asks a proxy for a connection to somewhere else.
async fn tunnel(io: &mut (dyn Io + '_), host: &str, port: u16, auth: Option<&HeaderValue>) -> io::Result<()> {
    let mut ask = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
    if let Some(auth) = auth {
        ask.extend_from_slice(b"Proxy-Authorization: ");
        ask.extend_from_slice(auth.as_bytes());
        ask.extend_from_slice(b"\r\n");
    }
    ask.extend_from_slice(b"\r\n");
    io.write_all(&ask).await?;
    let mut answer = Vec::new();
    // Byte by byte: what comes after the head belongs to the other side.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() > 8 << 10 {
            return Err(io::Error::other("the proxy's answer is too long"));
        }
        answer.push(io.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    if line.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    Err(io::Error::other(format!("proxy refused {host}:{port}: {line:?}")))
}

impl Connector {
    async fn tls(&self, io: Box<dyn Io>, host: &str) -> io::Result<Box<dyn Io>> {
        let name =
            ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, io)
            .await
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("tls: {e}")))?;
        Ok(Box::new(stream))
    }

    async fn connect(self, target: Uri) -> io::Result<Stream> {
        let host = target.host().ok_or_else(|| io::Error::other("an address without a host"))?;
        let secure = target.scheme_str() == Some("https");
        let port = target.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let via = if is_loopback(host) { None } else { self.proxies.intercept(&target) };
        let Some(via) = via else {
            let stream: Box<dyn Io> = Box::new(dial(host, port, self.guarded).await?);
            let stream = if secure { self.tls(stream, host).await? } else { stream };
            return Ok(Stream { io: TokioIo::new(stream), proxied: false });
        };
        let proxy = via.uri();
        let proxy_host = proxy.host().unwrap_or_default();
        let tls_proxy = proxy.scheme_str() == Some("https");
        let proxy_port = proxy.port_u16().unwrap_or(if tls_proxy { 443 } else { 80 });
        let mut stream: Box<dyn Io> = Box::new(dial(proxy_host, proxy_port, false).await?);
        if tls_proxy {
            stream = self.tls(stream, proxy_host).await?;
        }
        if secure {
            tunnel(&mut *stream, host, port, via.basic_auth()).await?;
            stream = self.tls(stream, host).await?;
        }
        Ok(Stream { io: TokioIo::new(stream), proxied: !secure })
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT, connector.connect(target)).await {
                Ok(result) => result,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "dial tcp: i/o timeout")),
            }
        })
    }
}

/// A pool of connections with the same idea of trust.
#[derive(Clone)]
pub(crate) struct Client {
    pool: Pool<Connector, Full<Bytes>>,
    proxies: Arc<Matcher>,
}

impl Client {
    pub(crate) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> std::result::Result<Response<hyper::body::Incoming>, PoolError> {
        // Plain requests through a proxy show it who is asking by themselves; tunnels have done so before.
        if request.uri().scheme_str() == Some("http")
            && !is_loopback(request.uri().host().unwrap_or_default())
            && let Some(auth) =
                self.proxies.intercept(request.uri()).and_then(|via| via.basic_auth().cloned())
        {
            request.headers_mut().insert(hyper::header::PROXY_AUTHORIZATION, auth);
        }
        self.pool.request(request).await
    }
}

/// What a pool is kept for: trust, how old its files are, and whether the address came from a registry elsewhere.
type Key = (Tls, Vec<Option<SystemTime>>, bool);

/// All pools.
pub(crate) struct Transport {
    proxies: Arc<Matcher>,
    clients: Mutex<HashMap<Key, Client>>,
    roots: Arc<OnceLock<RootCertStore>>,
}

fn matcher(proxy: &Proxy) -> Matcher {
    Matcher::builder().http(proxy.http.clone()).https(proxy.https.clone()).no(proxy.none.clone()).build()
}

impl Transport {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { proxies: Arc::new(matcher(&settings.proxy)), clients: Mutex::default(), roots: Arc::default() }
    }

    /// A pool for this trust, made if there is none.
    pub(crate) async fn client(&self, tls: &Tls, guarded: bool) -> Result<Client> {
        let client_files = tls.client.iter().flat_map(|(cert, key)| [cert, key]);
        let ages: Vec<Option<SystemTime>> = tls
            .authorities
            .iter()
            .chain(client_files)
            .map(|file| std::fs::metadata(file).and_then(|m| m.modified()).ok())
            .collect();
        let key = (tls.clone(), ages, guarded);
        if let Some(client) = self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(client.clone());
        }
        let (roots, wanted) = (Arc::clone(&self.roots), tls.clone());
        let config = tokio::task::spawn_blocking(move || configure(&roots, &wanted))
            .await
            .map_err(|e| Error::new(Kind::Local, format!("a worker ended: {e}")))??;
        let connector = Connector { tls: Arc::new(config), proxies: Arc::clone(&self.proxies), guarded };
        let pool = Pool::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(8)
            .pool_timer(TokioTimer::new())
            .http1_max_headers(100)
            .http1_max_buf_size(256 << 10)
            .build(connector);
        let client = Client { pool, proxies: Arc::clone(&self.proxies) };
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).insert(key, client.clone());
        Ok(client)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let fail = |e: io::Error| Error::new(Kind::Local, format!("{}: {e}", path.display()));
    let mut data = Vec::new();
    std::fs::File::open(path).map_err(fail)?.take(MAX_PEM).read_to_end(&mut data).map_err(fail)?;
    Ok(data)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |e: rustls::pki_types::pem::Error| {
        Error::new(Kind::Local, format!("{}: no certificate: {e}", path.display()))
    };
    CertificateDer::pem_slice_iter(&read(path)?).collect::<std::result::Result<Vec<_>, _>>().map_err(wrong)
}

fn configure(system: &OnceLock<RootCertStore>, tls: &Tls) -> Result<ClientConfig> {
    let local = |e: rustls::Error| Error::new(Kind::Local, format!("TLS: {e}"));
    let provider = wharf_tls::provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(local)?;
    let builder = if tls.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(wharf_tls::any_server(provider))
    } else {
        let mut roots = system
            .get_or_init(|| {
                let mut roots = RootCertStore::empty();
                let found = rustls_native_certs::load_native_certs();
                for error in &found.errors {
                    tracing::debug!(%error, "a certificate of the system cannot be read");
                }
                roots.add_parsable_certificates(found.certs);
                roots
            })
            .clone();
        for file in &tls.authorities {
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .map_err(|e| Error::new(Kind::Local, format!("{}: {e}", file.display())))?;
            }
        }
        builder.with_root_certificates(roots)
    };
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let wrong = |e: rustls::pki_types::pem::Error| {
                Error::new(Kind::Local, format!("{}: no key: {e}", key.display()))
            };
            let secret = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(wrong)?;
            builder.with_client_auth_cert(certificates(certificate)?, secret).map_err(local)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Certificates beside each other in a registry's directory, as Docker has them; and what is wrong with half a pair, in
/// Docker's words.
pub(crate) fn beside(directory: &Path) -> (Tls, Option<Error>) {
    let (mut tls, mut wrong) = (Tls::default(), None);
    let Ok(entries) = std::fs::read_dir(directory) else { return (tls, wrong) };
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for file in files {
        let (certificate, key) = (file.with_extension("cert"), file.with_extension("key"));
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.authorities.push(file),
            Some("cert") if key.exists() => {
                tls.client.get_or_insert((file, key));
            }
            Some("cert") => {
                let text = format!(
                    "missing key {} for client certificate {}. CA certificates must use the extension .crt",
                    name(&key),
                    name(&file)
                );
                wrong.get_or_insert(Error::new(Kind::Local, text));
            }
            Some("key") if !certificate.exists() => {
                let text =
                    format!("missing client certificate {} for key {}", name(&certificate), name(&file));
                wrong.get_or_insert(Error::new(Kind::Local, text));
            }
            _ => {}
        }
    }
    (tls, wrong)
}
