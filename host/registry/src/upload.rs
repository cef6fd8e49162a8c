//! Sending content: only what the registry does not have, in pieces that can be sent again.

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use hyper::{Method, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use crate::digest::{self, Verifier};
use crate::error::{Error, Kind, Result};
use crate::manifest::Descriptor;
use crate::name::Selector;
use crate::request::{Answer, Ask, pause, retrying};
use crate::session::Session;

/// Bytes sent in one request.
const CHUNK: usize = 8 << 20;

/// Where the bytes of an upload come from; the sender's end is the content's end unless it sent an error.
pub type Source = mpsc::Receiver<std::io::Result<Bytes>>;

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// `sha256:…` of what was sent.
    pub digest: String,
    /// Bytes sent.
    pub size: u64,
}

/// The content of an upload, cut into what goes in one request.
struct Chunks<'a> {
    source: &'a mut Source,
    /// What the last chunk had no room for.
    rest: Bytes,
    verifier: Verifier,
}

impl Chunks<'_> {
    /// The next [`CHUNK`] bytes, or fewer at the end, or none after it.
    async fn next(&mut self) -> Result<Bytes> {
        let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
        while chunk.len() < CHUNK {
            if self.rest.is_empty() {
                let Some(piece) = self.source.recv().await else { break };
                self.rest = piece.map_err(|e| Error::new(Kind::Local, e.to_string()))?;
                self.verifier.update(&self.rest);
            }
            let room = CHUNK - chunk.len();
            chunk.extend_from_slice(&self.rest.split_to(room.min(self.rest.len())));
        }
        Ok(chunk.freeze())
    }
}

impl Session {
    /// The endpoint to write to: one that answers. Asking it also brings the right to write.
    async fn writer(&self) -> Result<usize> {
        if let Some(at) = self.known_writer() {
            return Ok(at);
        }
        let path = self.repository().path.clone();
        let probe = digest::of(path.as_bytes());
        match self
            .ask(
                self.attempts(),
                |e| e.push && e.own,
                |at| Ok(Ask::new(Method::HEAD, self.url(at, &format!("blobs/{probe}"))?)),
            )
            .await
        {
            Ok((at, _)) => Ok(at),
            Err(error) if error.kind() == Kind::NotFound => self.reached(),
            Err(error) => Err(error),
        }
    }

    /// Whether the registry has a blob in this repository; its size then.
    pub async fn has_blob(&self, digest: &str) -> Result<Option<u64>> {
        digest::check(digest)?;
        let rest = format!("blobs/{digest}");
        let asked = self
            .ask(self.attempts(), |e| e.push, |at| Ok(Ask::new(Method::HEAD, self.url(at, &rest)?)))
            .await;
        match asked {
            Ok((_, answer)) => {
                Ok(Some(answer.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0)))
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks the registry to take a blob from another of its repositories. False: it has to be sent.
    pub async fn mount(&self, digest: &str, from: &str) -> Result<bool> {
        digest::check(digest)?;
        let at = self.writer().await?;
        let mut url = self.url(at, "blobs/uploads/")?;
        url.query_pairs_mut().append_pair("mount", digest).append_pair("from", from);
        let ask = Ask::new(Method::POST, url).header(CONTENT_LENGTH, "0")?;
        let answer = match self.send(at, ask, &[]).await {
            Ok(answer) => answer,
            // A source that we may not read is no source.
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Denied | Kind::Unauthorized) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if answer.status == StatusCode::CREATED {
            return Ok(true);
        }
        // It began an upload instead, which nobody will go on with.
        if let Ok(url) = self.location(at, &answer) {
            let _ = self.send(at, Ask::new(Method::DELETE, url), &[]).await;
        }
        Ok(false)
    }

    /// Where to go on, which must be at the same host.
    fn location(&self, at: usize, answer: &Answer) -> Result<Url> {
        let to = answer.headers.get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut url =
            answer.url.join(to).map_err(|_| Error::broken("the registry wants an upload sent to nowhere"))?;
        let base = &self.endpoint(at)?.base;
        // Registries behind a proxy that ends TLS often call themselves http.
        if url.scheme() == "http" && base.scheme() == "https" && url.host_str() == base.host_str() {
            let _ = url.set_scheme("https");
            let _ = url.set_port(base.port());
        }
        if to.is_empty() || url.origin() != base.origin() {
            return Err(Error::broken("the registry wants an upload sent to another host"));
        }
        Ok(url)
    }

    /// Sends a blob of known content in one piece.
    pub async fn upload_bytes(&self, content: Bytes) -> Result<Upload> {
        let (sender, source) = mpsc::channel(1);
        let sent = sender.send(Ok(content)).await;
        drop(sender);
        sent.map_err(|_| Error::new(Kind::Local, "nobody takes the upload"))?;
        self.upload(source, |_| ()).await
    }

    /// Sends a blob whose digest shows as it passes, in chunks. `progress` is told the bytes that have arrived.
    pub async fn upload(&self, mut source: Source, mut progress: impl FnMut(u64) + Send) -> Result<Upload> {
        let at = self.writer().await?;
        let start = self.url(at, "blobs/uploads/")?;
        let begin = || async {
            let ask = Ask::new(Method::POST, start.clone()).header(CONTENT_LENGTH, "0")?;
            self.send(at, ask, &[]).await
        };
        let answer = retrying(self.attempts(), begin).await?;
        let mut url = self.location(at, &answer)?;
        let sent = self.stream(at, &mut url, &mut source, &mut progress).await;
        if sent.is_err() {
            // So that the registry need not keep half a blob.
            let _ = self.send(at, Ask::new(Method::DELETE, url), &[]).await;
        }
        sent
    }

    async fn stream(
        &self,
        at: usize,
        url: &mut Url,
        source: &mut Source,
        progress: &mut (impl FnMut(u64) + Send),
    ) -> Result<Upload> {
        let mut chunks = Chunks { source, rest: Bytes::new(), verifier: Verifier::new() };
        let mut offset = 0;
        let mut part = chunks.next().await?;
        while !part.is_empty() {
            let length = part.len() as u64;
            // What makes the bytes goes on working while the registry takes the last ones.
            let (moved, next) = tokio::try_join!(self.patch(at, url, offset, part), chunks.next())?;
            *url = moved;
            offset += length;
            progress(offset);
            part = next;
        }
        let digest = chunks.verifier.finish();
        let mut end = url.clone();
        end.query_pairs_mut().append_pair("digest", &digest);
        let finish = || async {
            let ask = Ask::new(Method::PUT, end.clone()).header(CONTENT_LENGTH, "0")?;
            self.send(at, ask, &[]).await
        };
        if let Err(error) = retrying(self.attempts(), finish).await
            // An answer that got lost: the blob may be there.
            && self.has_blob(&digest).await.ok().flatten().is_none()
        {
            return Err(error);
        }
        Ok(Upload { digest, size: offset })
    }

    /// Sends one chunk; after a failure the registry is asked how much of it arrived.
    async fn patch(&self, at: usize, url: &Url, offset: u64, mut part: Bytes) -> Result<Url> {
        let mut url = url.clone();
        let (mut start, end) = (offset, offset + part.len() as u64);
        let mut attempt = 0;
        loop {
            let ask = Ask { body: part.clone(), ..Ask::new(Method::PATCH, url.clone()) }
                .header(CONTENT_TYPE, "application/octet-stream")?
                .header(CONTENT_RANGE, &format!("{start}-{}", end.saturating_sub(1)))?;
            let error = match self.send(at, ask, &[]).await {
                Ok(answer) => return self.location(at, &answer),
                Err(error) => error,
            };
            attempt += 1;
            if !error.is_temporary() || attempt >= self.attempts().max(1) {
                return Err(error);
            }
            tokio::time::sleep(pause(attempt - 1, &error)).await;
            let status = self.send(at, Ask::new(Method::GET, url.clone()), &[]).await?;
            let arrived = status
                .headers
                .get(RANGE)
                .and_then(|v| v.to_str().ok())
                .and_then(|v| v.trim_start_matches("bytes=").split_once('-'))
                .and_then(|(_, last)| last.parse::<u64>().ok());
            // "0-0" is said of nothing and of one byte; less is safe to claim than more.
            let arrived = arrived.map_or(0, |last| if last == 0 { 0 } else { last + 1 });
            url = self.location(at, &status)?;
            if arrived < offset || arrived > end {
                return Err(error.at("the registry lost a part of the upload"));
            }
            if arrived == end {
                return Ok(url);
            }
            let skip = usize::try_from(arrived - start.min(arrived)).unwrap_or(0).min(part.len());
            part = part.slice(skip..);
            start = arrived;
        }
    }

    /// Sends a manifest under a tag or its digest; answers the reference to it.
    pub async fn put_manifest(
        &self,
        selector: &Selector,
        media_type: &str,
        content: Bytes,
    ) -> Result<Descriptor> {
        let at = self.writer().await?;
        let url = self.url(at, &format!("manifests/{}", selector.check()?))?;
        let put = || async {
            let ask = Ask { body: content.clone(), ..Ask::new(Method::PUT, url.clone()) }
                .header(CONTENT_TYPE, media_type)?;
            self.send(at, ask, &[]).await
        };
        let answer = retrying(self.attempts(), put).await?;
        let digest = digest::of(&content);
        if let Some(said) = answer.header("docker-content-digest")
            && digest::check(said).is_ok()
            && said != digest
        {
            return Err(Error::broken(format!("the registry stored {said} instead of {digest}")));
        }
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size: content.len() as u64,
            ..Descriptor::default()
        })
    }
}
