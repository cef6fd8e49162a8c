//! Fetching a blob: resumed where it broke off, verified as it passes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use hyper::{Method, StatusCode};
use url::Url;

use crate::digest::Verifier;
use crate::error::{Error, Kind, Result};
use crate::hosts::{Tls, is_loopback};
use crate::manifest::Descriptor;
use crate::request::{Ask, pause, reason};
use crate::session::Session;

/// A transfer that brings less than this in the time of `Settings::stall` stands still.
const LEAST: u64 = 16 << 10;

/// What comes next.
#[derive(Debug)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// The transfer broke off and will be taken up again after so long.
    Retry(Duration),
}

/// A blob on its way. The last bytes are only handed out when all of it turned out to be what was wanted.
pub struct Blob {
    session: Session,
    descriptor: Descriptor,
    verifier: Option<Verifier>,
    body: Option<Incoming>,
    attempt: u32,
    /// Bytes at the time of the last failure: an attempt that gets on does not count.
    at_failure: u64,
    /// Time and bytes at the beginning of the current window.
    window: (Instant, u64),
    /// Since when the caller has had its last piece: what it takes its time with is not the registry's delay.
    handed: Option<Instant>,
    pending: Option<Error>,
    /// Came together with bytes that were there already.
    rest: Option<Bytes>,
}

impl Session {
    /// How large a blob is at the registry; None if it is not there.
    pub async fn blob_size(&self, digest: &str) -> Result<Option<u64>> {
        crate::digest::check(digest)?;
        let rest = format!("blobs/{digest}");
        let asked = self
            .ask(self.attempts(), |e| e.pull, |at| Ok(Ask::new(Method::HEAD, self.url(at, &rest)?)))
            .await;
        match asked {
            Ok((_, answer)) => Ok(answer.header("content-length").and_then(|v| v.parse().ok())),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins to fetch a blob.
    pub fn blob(&self, descriptor: Descriptor) -> Result<Blob> {
        crate::digest::check(&descriptor.digest)?;
        Ok(Blob {
            session: self.clone(),
            descriptor,
            verifier: Some(Verifier::new()),
            body: None,
            attempt: 0,
            at_failure: 0,
            window: (Instant::now(), 0),
            handed: None,
            pending: None,
            rest: None,
        })
    }
}

impl Blob {
    fn seen(&self) -> u64 {
        self.verifier.as_ref().map_or(self.descriptor.size, Verifier::seen)
    }

    /// The next piece; None at the end.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        if let Some(handed) = self.handed.take() {
            self.window.0 += handed.elapsed();
        }
        let piece = self.piece().await;
        self.handed = Some(Instant::now());
        piece
    }

    async fn piece(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(error) = self.pending.take() {
                tokio::time::sleep(pause(self.attempt.saturating_sub(1), &error)).await;
            }
            if self.verifier.is_none() {
                return Ok(None);
            }
            match self.step().await {
                Ok(Some(data)) => return Ok(Some(Piece::Data(data))),
                Ok(None) => {
                    if self.verifier.is_none() {
                        return Ok(None);
                    }
                }
                Err(error) if error.is_temporary() => {
                    self.body = None;
                    self.rest = None;
                    let seen = self.seen();
                    if seen > self.at_failure + LEAST {
                        self.attempt = 0;
                    }
                    self.at_failure = seen;
                    self.attempt += 1;
                    if self.attempt >= self.session.registry.inner.settings.attempts.max(1) {
                        return Err(error);
                    }
                    let wait = pause(self.attempt - 1, &error);
                    tracing::debug!(%error, digest = self.descriptor.digest, seen, "a transfer broke off");
                    self.pending = Some(error);
                    return Ok(Some(Piece::Retry(wait)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn step(&mut self) -> Result<Option<Bytes>> {
        let size = self.descriptor.size;
        if self.seen() == size {
            return self.end();
        }
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open().await?,
        };
        let stall = self.session.registry.inner.settings.stall;
        let digest = self.descriptor.digest.clone();
        loop {
            let (since, bytes) = self.window;
            if since.elapsed() >= stall {
                if self.seen() - bytes < LEAST {
                    return Err(Error::unavailable(format!("{digest}: the transfer stands still")));
                }
                self.window = (Instant::now(), self.seen());
            }
            let left = stall.saturating_sub(self.window.0.elapsed());
            let data = match self.rest.take() {
                Some(rest) => rest,
                None => match tokio::time::timeout(left, body.frame()).await {
                    Err(_) => continue,
                    Ok(None) => {
                        return Err(Error::unavailable(format!(
                            "{digest}: the transfer ended after {} of {size} bytes",
                            self.seen()
                        )));
                    }
                    Ok(Some(Err(e))) => return Err(Error::unavailable(format!("{digest}: {}", reason(&e)))),
                    Ok(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => data,
                        Err(_) => continue,
                    },
                },
            };
            if data.is_empty() {
                continue;
            }
            let Some(verifier) = &mut self.verifier else { return Ok(None) };
            if verifier.seen() + data.len() as u64 > size {
                return Err(Error::broken(format!(
                    "{digest}: the registry sends more than the {size} bytes it said"
                )));
            }
            verifier.update(&data);
            if verifier.seen() == size {
                self.end()?;
            } else {
                self.body = Some(body);
            }
            return Ok(Some(data));
        }
    }

    /// All bytes are there: are they the right ones.
    fn end(&mut self) -> Result<Option<Bytes>> {
        if let Some(verifier) = self.verifier.take()
            && verifier.finish() != self.descriptor.digest
        {
            return Err(Error::broken(format!(
                "filesystem layer verification failed for digest {}",
                self.descriptor.digest
            )));
        }
        Ok(None)
    }

    async fn open(&mut self) -> Result<Incoming> {
        self.window = (Instant::now(), self.seen());
        let rest = format!("blobs/{}", self.descriptor.digest);
        let session = self.session.clone();
        let seen = self.seen();
        let found = session.ask_blob(&rest, seen).await;
        let answer = match found {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::NotFound && !self.descriptor.urls.is_empty() => {
                return self.foreign(error).await;
            }
            Err(error) => return Err(error),
        };
        let (status, headers, body) = (answer.status, answer.headers, answer.body);
        let length =
            headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
        let expected = self.descriptor.size - if status == StatusCode::PARTIAL_CONTENT { seen } else { 0 };
        if let Some(length) = length.filter(|l| *l != expected) {
            return Err(Error::broken(format!(
                "{}: the registry has {length} bytes of it instead of {expected}",
                self.descriptor.digest
            )));
        }
        self.skip(status, &headers, body).await
    }

    /// Brings an answer to the byte that is wanted next.
    async fn skip(
        &mut self,
        status: StatusCode,
        headers: &hyper::HeaderMap,
        mut body: Incoming,
    ) -> Result<Incoming> {
        let seen = self.seen();
        if seen == 0 {
            return Ok(body);
        }
        if status == StatusCode::PARTIAL_CONTENT {
            let range = headers.get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            let start =
                range.strip_prefix("bytes ").and_then(|r| r.split('-').next()).and_then(|n| n.parse().ok());
            return if start == Some(seen) {
                Ok(body)
            } else {
                Err(Error::broken(format!(
                    "{}: the registry sends another part than asked",
                    self.descriptor.digest
                )))
            };
        }
        // A server that does not know ranges sends it all again. What we have is read and dropped; the hash is over what
        // was handed out and what follows, so two transfers of different content do not pass for one.
        let mut left = seen;
        let stall = self.session.registry.inner.settings.stall;
        while left > 0 {
            let mut data = match tokio::time::timeout(stall, body.frame()).await {
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                _ => return Err(Error::unavailable(format!("{}: broke off again", self.descriptor.digest))),
            };
            let dropped = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            bytes::Buf::advance(&mut data, dropped);
            left -= dropped as u64;
            self.window = (Instant::now(), seen);
            if !data.is_empty() {
                self.rest = Some(data);
            }
        }
        Ok(body)
    }

    /// A layer that its maker does not let registries keep: fetched from where it says, without credentials.
    async fn foreign(&mut self, missing: Error) -> Result<Incoming> {
        let registry = self.session.registry.clone();
        let home = self.session.endpoint(self.session.reached()?)?.base.clone();
        // To where the registry itself could not be: not less safe than it, and to this machine only from this machine.
        let (plain, guarded) = (home.scheme() == "http", !is_loopback(home.host_str().unwrap_or_default()));
        let mut last = missing;
        for url in self.descriptor.urls.clone().iter().take(8) {
            let Ok(url) = Url::parse(url) else { continue };
            if url.scheme() != "https" && !(plain && url.scheme() == "http") {
                continue;
            }
            let client = registry.inner.transport.client(&Tls::default(), guarded).await?;
            let mut request = hyper::Request::new(http_body_util::Full::new(Bytes::new()));
            let Ok(uri) = url.as_str().parse() else { continue };
            *request.uri_mut() = uri;
            match tokio::time::timeout(registry.inner.settings.stall, client.send(request)).await {
                Ok(Ok(response)) if response.status() == StatusCode::OK && self.seen() == 0 => {
                    return Ok(response.into_body());
                }
                Ok(Ok(response)) => last = Error::of_answer(response.status().as_u16(), b""),
                Ok(Err(e)) => last = Error::unavailable(reason(&e)),
                Err(_) => last = Error::unavailable("no answer"),
            }
        }
        Err(last)
    }
}

impl Session {
    async fn ask_blob(&self, rest: &str, from: u64) -> Result<crate::request::Answer> {
        let (_, answer) = self
            .ask(
                1,
                |e| e.pull,
                |at| {
                    let mut ask =
                        Ask::new(Method::GET, self.url(at, rest)?).header(ACCEPT_ENCODING, "identity")?;
                    if from > 0 {
                        ask = ask.header(RANGE, &format!("bytes={from}-"))?;
                    }
                    Ok(ask)
                },
            )
            .await?;
        Ok(answer)
    }
}
