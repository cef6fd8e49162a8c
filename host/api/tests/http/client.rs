//! A client that shows what is on the wire.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longer than anything here takes; a test that waits for it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An answer, its body put together.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    pub(crate) fn message(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        self.json()["message"].as_str().unwrap().to_owned()
    }
}

/// A connection.
pub(crate) struct Client {
    pub(crate) socket: UnixStream,
    seen: Vec<u8>,
}

impl Client {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self { socket, seen: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.unwrap();
    }

    async fn more(&mut self) -> usize {
        tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.seen))
            .await
            .unwrap_or_else(|_| panic!("no answer; so far: {:?}", String::from_utf8_lossy(&self.seen)))
            .unwrap_or(0)
    }

    /// Reads at least so many bytes, and takes them.
    pub(crate) async fn take(&mut self, n: usize) -> Vec<u8> {
        while self.seen.len() < n {
            assert_ne!(self.more().await, 0, "ended early: {:?}", String::from_utf8_lossy(&self.seen));
        }
        self.seen.drain(..n).collect()
    }

    /// Everything up to the end.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await > 0 {}
        std::mem::take(&mut self.seen)
    }

    /// The head of an answer.
    pub(crate) async fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.seen.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            assert_ne!(self.more().await, 0, "ended early: {:?}", String::from_utf8_lossy(&self.seen));
        };
        let head = String::from_utf8(self.take(end).await).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let line = lines.next().unwrap().to_owned();
        let headers =
            lines.map(|l| l.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned())).unwrap()).collect();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, line, headers, body: Vec::new() }
    }

    /// One chunk of a chunked body; empty is the last.
    pub(crate) async fn chunk(&mut self) -> Vec<u8> {
        let end = loop {
            if let Some(end) = self.seen.windows(2).position(|w| w == b"\r\n") {
                break end + 2;
            }
            assert_ne!(self.more().await, 0);
        };
        let size = String::from_utf8(self.take(end).await).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = self.take(size + 2).await;
        chunk.truncate(size);
        chunk
    }

    /// A whole answer.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk().await;
                if chunk.is_empty() {
                    break;
                }
                answer.body.extend(chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            answer.body = self.take(length).await;
        }
        answer
    }

    /// A request and its answer, on a connection that stays.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: docker\r\n{length}\r\n{body}")).await;
        if method == "HEAD" { self.head().await } else { self.answer().await }
    }
}
