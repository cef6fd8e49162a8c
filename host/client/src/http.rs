//! Requests to the daemon: one connection each, over a unix socket or TCP.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::Error;
use crate::transport::{self, Ssh, TlsFiles};

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
    /// The same with TLS.
    Tls(String, TlsFiles),
    /// A command on another machine.
    Ssh(Ssh),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) | Self::Tls(address, _) => write!(f, "tcp://{address}"),
            Self::Ssh(ssh) => ssh.fmt(f),
        }
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

/// Speaks to one daemon.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    address: Address,
}

/// Query parameters, in order.
pub(crate) type Query<'a> = &'a [(&'a str, String)];

/// A connection.
pub(crate) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection that became a stream of bytes in both directions.
#[derive(Debug)]
pub(crate) struct Hijacked {
    /// The stream.
    pub(crate) io: TokioIo<hyper::upgrade::Upgraded>,
    /// Whether output comes in frames that tell stdout from stderr.
    pub(crate) multiplexed: Option<bool>,
}

impl Client {
    pub(crate) fn new(address: Address) -> Self {
        Self { address }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// A new connection, on which nothing was said yet.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Socket>, Error> {
        let failed = |e: std::io::Error| Error::Connect {
            address: self.address.to_string(),
            cause: crate::error::without_number(&e),
        };
        Ok(match &self.address {
            Address::Unix(path) => Box::new(tokio::net::UnixStream::connect(path).await.map_err(failed)?),
            Address::Tcp(address) => {
                let stream = tokio::net::TcpStream::connect(address).await.map_err(failed)?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Address::Tls(address, files) => {
                let stream = tokio::net::TcpStream::connect(address).await.map_err(failed)?;
                stream.set_nodelay(true)?;
                Box::new(transport::tls(stream, address, files).await?)
            }
            Address::Ssh(ssh) => Box::new(ssh.connect()?),
        })
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let socket = self.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        // Ends by itself with the connection; its error also reaches the request.
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender.send_request(request).await?)
    }

    fn build(
        method: Method,
        path: &str,
        query: Query<'_>,
        body: Option<&Value>,
    ) -> Result<Request<Body>, Error> {
        let bytes = match body {
            Some(value) => serde_json::to_vec(value)?,
            None => Vec::new(),
        };
        let body = Full::new(Bytes::from(bytes)).map_err(|e| match e {}).boxed();
        Self::build_with(method, path, query, "application/json", body)
    }

    fn build_with(
        method: Method,
        path: &str,
        query: Query<'_>,
        kind: &str,
        body: Body,
    ) -> Result<Request<Body>, Error> {
        let uri = target(path, query);
        Request::builder()
            .method(method)
            .uri(uri)
            .header("Host", "wharf")
            .header("User-Agent", concat!("wharf/", env!("CARGO_PKG_VERSION")))
            .header("Content-Type", kind)
            .body(body)
            .map_err(|e| Error::Usage(format!("{path}: {e}")))
    }

    /// Sends and turns an error status into an error.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        query: Query<'_>,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, Error> {
        check(self.send(Self::build(method, path, query, body)?).await?).await
    }

    /// As `request`, with further headers.
    pub(crate) async fn request_with(
        &self,
        method: Method,
        path: &str,
        query: Query<'_>,
        body: Option<&Value>,
        headers: &[(&'static str, &str)],
    ) -> Result<Response<Incoming>, Error> {
        let mut request = Self::build(method, path, query, body)?;
        for (name, value) in headers {
            let value = value.parse().map_err(|_| Error::Usage(format!("{name} cannot be sent")))?;
            request.headers_mut().insert(*name, value);
        }
        check(self.send(request).await?).await
    }

    /// `GET` with a JSON answer.
    pub(crate) async fn get(&self, path: &str, query: Query<'_>) -> Result<Value, Error> {
        json(self.request(Method::GET, path, query, None).await?).await
    }

    /// `POST` with a JSON answer, null where it is empty.
    pub(crate) async fn post(
        &self,
        path: &str,
        query: Query<'_>,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        json(self.request(Method::POST, path, query, body).await?).await
    }

    /// `DELETE` with a JSON answer, null where it is empty.
    pub(crate) async fn delete(&self, path: &str, query: Query<'_>) -> Result<Value, Error> {
        json(self.request(Method::DELETE, path, query, None).await?).await
    }

    /// `POST` of a stream of bytes (a tar archive).
    pub(crate) async fn upload(
        &self,
        path: &str,
        query: Query<'_>,
        content: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    ) -> Result<Response<Incoming>, Error> {
        self.upload_with(Method::POST, path, query, content).await
    }

    /// The same by another method.
    pub(crate) async fn upload_with(
        &self,
        method: Method,
        path: &str,
        query: Query<'_>,
        content: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    ) -> Result<Response<Incoming>, Error> {
        let body = BodyExt::boxed(StreamBody::new(content.map_ok(Frame::data)));
        check(self.send(Self::build_with(method, path, query, "application/x-tar", body)?).await?).await
    }

    /// `POST` that becomes a stream in both directions.
    pub(crate) async fn hijack(
        &self,
        path: &str,
        query: Query<'_>,
        body: Option<&Value>,
    ) -> Result<Hijacked, Error> {
        let mut request = Self::build(Method::POST, path, query, body)?;
        let headers = request.headers_mut();
        headers.insert("Connection", hyper::header::HeaderValue::from_static("Upgrade"));
        headers.insert("Upgrade", hyper::header::HeaderValue::from_static("tcp"));
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            check(response).await?;
            return Err(Error::Protocol(format!("{path} did not become a stream")));
        }
        let kind = response.headers().get("Content-Type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let multiplexed = match kind {
            "application/vnd.docker.multiplexed-stream" => Some(true),
            _ => None,
        };
        let upgraded = hyper::upgrade::on(response).await?;
        Ok(Hijacked { io: TokioIo::new(upgraded), multiplexed })
    }
}

/// Path and query with everything escaped that must be; slashes and colons of references stay.
fn target(path: &str, query: Query<'_>) -> String {
    fn escape(out: &mut String, text: &str, keep: &[u8]) {
        use std::fmt::Write;
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.contains(&byte) {
                out.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    let mut out = String::new();
    escape(&mut out, path, b"/:@");
    for (i, (key, value)) in query.iter().enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        escape(&mut out, key, b"");
        out.push('=');
        escape(&mut out, value, b"/:");
    }
    out
}

async fn check(response: Response<Incoming>) -> Result<Response<Incoming>, Error> {
    let status = response.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    let bytes = response.into_body().collect().await?.to_bytes();
    let message = match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) => value.get("message").and_then(Value::as_str).map(str::to_owned),
        Err(_) => None,
    };
    let message = message.unwrap_or_else(|| String::from_utf8_lossy(&bytes).trim().to_owned());
    Err(Error::Daemon { status: status.as_u16(), message })
}

/// The whole body as JSON; null where there is none.
pub(crate) async fn json(response: Response<Incoming>) -> Result<Value, Error> {
    let bytes = response.into_body().collect().await?.to_bytes();
    if bytes.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&bytes)?) }
}

/// The body's data as it comes.
pub(crate) fn data(response: Response<Incoming>) -> impl Stream<Item = Result<Bytes, Error>> + Unpin {
    BodyStream::new(response.into_body()).filter_map(|frame| {
        std::future::ready(match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(e) => Some(Err(e.into())),
        })
    })
}

/// The JSON values of a body, each as soon as it is complete (lines).
pub(crate) fn lines(response: Response<Incoming>) -> impl Stream<Item = Result<Value, Error>> + Unpin {
    let state = (data(response), Vec::<u8>::new());
    Box::pin(futures_util::stream::unfold(state, |(mut input, mut buffer)| async move {
        loop {
            if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Some((serde_json::from_slice(&line).map_err(Error::from), (input, buffer)));
            }
            match input.next().await {
                Some(Ok(bytes)) => buffer.extend_from_slice(&bytes),
                Some(Err(e)) => return Some((Err(e), (input, Vec::new()))),
                None if buffer.iter().all(u8::is_ascii_whitespace) => return None,
                None => buffer.push(b'\n'),
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_escaped() {
        let query = [("fromImage", "a/b:c d".to_owned()), ("filters", "{\"x\"}".to_owned())];
        assert_eq!(
            target("/images/a/b:c?#/json", &query),
            "/images/a/b:c%3F%23/json?fromImage=a/b:c%20d&filters=%7B%22x%22%7D"
        );
    }
}
