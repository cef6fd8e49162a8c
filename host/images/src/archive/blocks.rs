//! Bytes handed from one thread to another in large blocks whose memory is used again.
//!
//! What takes a layer apart is split over threads with it: one decompresses, one hashes and writes files. Memory is
//! bounded by the number of blocks under way.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 256 << 10;

/// The end that gives.
pub(crate) struct Feeder {
    full: SyncSender<io::Result<Vec<u8>>>,
    empty: Receiver<Vec<u8>>,
}

/// The end that takes: a reader. A feeder that goes away without [`Feeder::end`] is an error, not the end.
pub(crate) struct Blocks {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
    block: Vec<u8>,
    at: usize,
    ended: bool,
}

/// A channel in which so many blocks may wait.
pub(crate) fn channel(depth: usize) -> (Feeder, Blocks) {
    let (full, from) = sync_channel(depth);
    let (back, empty) = sync_channel(depth);
    let blocks = Blocks { full: from, empty: back, block: Vec::new(), at: 0, ended: false };
    (Feeder { full, empty }, blocks)
}

impl Feeder {
    /// Passes on one block of what `from` has; answers its bytes, none at the end of `from`. The second is false if
    /// nobody takes blocks any more.
    pub(crate) fn pass(&self, from: &mut impl Read) -> io::Result<(usize, bool)> {
        let mut block = self.empty.try_recv().unwrap_or_default();
        block.resize(BLOCK, 0);
        let filled = fill(from, &mut block)?;
        block.truncate(filled);
        if filled == 0 {
            return Ok((0, true));
        }
        Ok((filled, self.full.send(Ok(block)).is_ok()))
    }

    /// All was passed on.
    pub(crate) fn end(self) {
        // Who does not listen any more need not know.
        let _ = self.full.send(Ok(Vec::new()));
    }

    /// It ends with an error.
    pub(crate) fn fail(self, error: io::Error) {
        let _ = self.full.send(Err(error));
    }
}

/// Reads until the buffer is full or the input ends; answers the bytes.
pub(crate) fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|r| !r.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

impl Read for Blocks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.block.len() {
            if self.ended {
                return Ok(0);
            }
            let next = self
                .full
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("the stream was given up before its end")));
            let used = std::mem::replace(&mut self.block, next?);
            self.at = 0;
            self.ended = self.block.is_empty();
            // A feeder that has enough of them lets this one go.
            let _ = self.empty.try_send(used);
        }
        let rest = self.block.get(self.at..).unwrap_or_default();
        let n = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn all_bytes_in_order_and_then_the_end() {
        let data: Vec<u8> = (0..5 * BLOCK + 77).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let (feeder, mut blocks) = channel(2);
        let sent = data.clone();
        let thread = std::thread::spawn(move || {
            let mut from = sent.as_slice();
            while feeder.pass(&mut from).unwrap().0 > 0 {}
            feeder.end();
        });
        let mut seen = Vec::new();
        blocks.read_to_end(&mut seen).unwrap();
        thread.join().unwrap();
        assert!(seen == data);
        assert_eq!(blocks.read(&mut [0; 9]).unwrap(), 0);
    }

    #[test]
    fn going_away_is_no_end() {
        let (feeder, mut blocks) = channel(2);
        assert_eq!(feeder.pass(&mut &b"half"[..]).unwrap(), (4, true));
        drop(feeder);
        let mut seen = Vec::new();
        assert!(blocks.read_to_end(&mut seen).unwrap_err().to_string().contains("given up"));
        assert_eq!(seen, b"half");
    }

    #[test]
    fn errors_arrive_as_they_are() {
        let (feeder, mut blocks) = channel(1);
        feeder.fail(io::Error::new(io::ErrorKind::InvalidData, "wrong"));
        let error = blocks.read(&mut [0; 9]).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::InvalidData, "wrong"));
    }

    #[test]
    fn a_feeder_hears_that_nobody_listens() {
        let (feeder, blocks) = channel(1);
        drop(blocks);
        assert_eq!(feeder.pass(&mut &b"more"[..]).unwrap(), (4, false));
    }
}
