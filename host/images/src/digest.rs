//! Hashes of content.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// `sha256:` and the hash of these bytes.
pub(crate) fn of(data: &[u8]) -> String {
    finish(Sha256::new_with_prefix(data))
}

/// The text of a finished hash.
pub(crate) fn finish(hasher: Sha256) -> String {
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in hasher.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The hexadecimal part of a digest that was checked before.
pub(crate) fn hex(digest: &str) -> &str {
    digest.split_once(':').map_or(digest, |(_, hex)| hex)
}

/// Name of a layer on top of another.
pub(crate) fn chain(parent: Option<&str>, diff_id: &str) -> String {
    match parent {
        None => diff_id.to_owned(),
        Some(parent) => of(format!("{parent} {diff_id}").as_bytes()),
    }
}

/// Hashes and counts what is read through it.
pub(crate) struct HashReader<R> {
    inner: R,
    hasher: Sha256,
    count: u64,
}

impl<R: Read> HashReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new(), count: 0 }
    }

    pub(crate) fn finish(self) -> (String, u64) {
        (finish(self.hasher), self.count)
    }
}

impl<R: Read> Read for HashReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..n).unwrap_or_default());
        self.count += n as u64;
        Ok(n)
    }
}

/// Blocks that wait to be hashed.
const WAITING: usize = 4;

/// Hashes on a thread of its own what another one passes on as well.
pub(crate) struct Beside {
    to: SyncSender<Bytes>,
    thread: JoinHandle<Sha256>,
}

impl Beside {
    pub(crate) fn begin() -> io::Result<Self> {
        let (to, from) = sync_channel::<Bytes>(WAITING);
        let thread = std::thread::Builder::new().name("hash".into()).spawn(move || {
            let mut hasher = Sha256::new();
            for block in from {
                hasher.update(&block);
            }
            hasher
        })?;
        Ok(Self { to, thread })
    }

    /// What comes next; waits if too much does already.
    pub(crate) fn update(&self, block: Bytes) -> io::Result<()> {
        self.to.send(block).map_err(|_| failed())
    }

    /// The hash of all that came.
    pub(crate) fn finish(self) -> io::Result<String> {
        drop(self.to);
        self.thread.join().map(finish).map_err(|_| failed())
    }
}

fn failed() -> io::Error {
    io::Error::other("the thread that hashes has failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashed_beside() {
        let beside = Beside::begin().unwrap();
        for part in ["a", "", "bc"] {
            beside.update(Bytes::from_static(part.as_bytes())).unwrap();
        }
        // FIPS 180-2, appendix B.1.
        let expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(beside.finish().unwrap(), expected);
        assert_eq!(of(b"abc"), expected);
    }
}
