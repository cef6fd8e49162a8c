//! A file of any web server, for `docker import URL`: with this client's proxies, limits and idea of where redirects may lead.

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::BodyExt;
use hyper::Method;
use url::Url;

use crate::credential::Credential;
use crate::error::{Error, Result};
use crate::hosts::{Endpoint, Tls, plain};
use crate::name::Repository;
use crate::request::{Ask, reason, shown};
use crate::session::{Access, Registry};

/// A file on its way.
pub struct Download {
    /// Its address in messages.
    pub address: String,
    /// Its size in bytes, where the server says it.
    pub size: Option<u64>,
    /// Its bytes; a server that stops sending is an error after the time that registries have.
    pub bytes: std::pin::Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>,
}

impl Registry {
    /// Begins to fetch what is at an `http` or `https` address; one without a scheme is `http`, as Docker reads it.
    ///
    /// # Errors
    /// The address is none, nobody answers there, or with an error.
    pub async fn download(&self, address: &str) -> Result<Download> {
        let url = parse(address)?;
        // The address itself, with nothing of a registry's beneath it.
        let endpoint = Endpoint { base: url.clone(), ..plain(url.clone(), Tls::default(), false) };
        let registry = url.host_str().unwrap_or_default().to_owned();
        let server = self.converse(
            Repository { registry, path: String::new() },
            Access::Pull,
            Credential::default(),
            None,
            vec![endpoint],
            Vec::new(),
        );
        let answer = server.send(0, Ask::new(Method::GET, url.clone()), &[]).await?;
        let size = answer.header("content-length").and_then(|v| v.parse().ok());
        let (what, stall) = (shown(&url), self.inner.settings.stall);
        let bytes = futures_util::stream::unfold(Some(answer.body), move |body| {
            let what = what.clone();
            async move {
                let mut body = body?;
                let failed = |text: String| std::io::Error::other(format!("Get \"{what}\": {text}"));
                loop {
                    return match tokio::time::timeout(stall, body.frame()).await {
                        Ok(None) => None,
                        Ok(Some(Ok(frame))) => match frame.into_data() {
                            Ok(data) => Some((Ok(data), Some(body))),
                            // Trailers.
                            Err(_) => continue,
                        },
                        Ok(Some(Err(e))) => Some((Err(failed(reason(&e))), None)),
                        Err(_) => Some((Err(failed(format!("no more data in {stall:?}"))), None)),
                    };
                }
            }
        });
        Ok(Download { address: shown(&url), size, bytes: Box::pin(bytes) })
    }
}

fn parse(address: &str) -> Result<Url> {
    let bad =
        || Error::invalid(format!("invalid source {address:?}: it is \"-\" or an http or https address"));
    let whole = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let url = Url::parse(&whole).map_err(|_| bad())?;
    // `http:///x` would be the host `x`.
    let authority = whole.split_once("://").is_some_and(|(_, rest)| !rest.starts_with('/'));
    let plain = authority && url.username().is_empty() && url.password().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) || !plain {
        return Err(bad());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn addresses() {
        for (text, wanted) in [
            ("http://a.test/x.tar", "http://a.test/x.tar"),
            ("https://a.test:8443/x?y=z", "https://a.test:8443/x?y=z"),
            ("a.test/x.tgz", "http://a.test/x.tgz"),
            ("127.0.0.1:5000/x", "http://127.0.0.1:5000/x"),
        ] {
            assert_eq!(parse(text).unwrap().as_str(), wanted);
        }
        for bad in ["file:///etc/passwd", "ftp://a/b", "http://", "", "/etc/passwd", "http://u:p@a/b", "a b"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
