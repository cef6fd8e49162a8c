//! The index: one fixed-size record per run of bytes of one stream.

use std::fs::File;
use std::io;

use crate::sys;

/// Bytes of a record on disk.
pub(crate) const SIZE: u64 = 32;

/// Which stream bytes belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output; a terminal's output too.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Number in stdcopy headers, and on disk.
    pub const fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }

    pub(crate) const fn slot(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// Says that from `offset` on the bytes belong to `stream`. The length is not written: a record ends where the next
/// begins, the last one where the data file ends. So a record written *before* its bytes are moved is the intent,
/// and whatever part of them arrived before a crash is attributed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Position in all output of the container.
    pub offset: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Bytes that could not be kept right before this record.
    pub lost: u64,
    /// Whose bytes.
    pub stream: Stream,
}

/// Last word of a record: says that it is one, of this version.
const MARK: u64 = 0x5748_5350_0100_0000;

impl Record {
    pub(crate) fn encode(&self) -> [u8; 32] {
        let mut out = [0; 32];
        let words = [self.offset, self.time, self.lost, MARK | u64::from(self.stream.number())];
        for (slot, word) in out.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// None for bytes that are no record.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let mark = word(24)?;
        let stream = match mark ^ MARK {
            1 => Stream::Stdout,
            2 => Stream::Stderr,
            _ => return None,
        };
        Some(Self { offset: word(0)?, time: word(8)?, lost: word(16)?, stream })
    }
}

/// Reads records `from..to` of an index file; ends early at what is no record or goes backwards.
pub(crate) fn read(file: &File, from: u64, to: u64, wait: sys::Wait) -> io::Result<Vec<Record>> {
    let bytes = usize::try_from(to.saturating_sub(from) * SIZE).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut buffer = vec![0; bytes];
    let n = sys::read_at(file, &mut buffer, from * SIZE, wait)?;
    let mut records: Vec<Record> = Vec::with_capacity(n / 32);
    for bytes in buffer.get(..n).unwrap_or_default().chunks_exact(32) {
        match Record::decode(bytes) {
            Some(record) if records.last().is_none_or(|last| last.offset <= record.offset) => {
                records.push(record);
            }
            _ => break,
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_garbage_is_refused() {
        let record = Record { offset: u64::MAX - 3, time: 17, lost: 5, stream: Stream::Stderr };
        assert_eq!(Record::decode(&record.encode()), Some(record));
        let mut broken = record.encode();
        broken[31] ^= 1;
        assert_eq!(Record::decode(&broken), None);
        assert_eq!(Record::decode(&[0; 32]), None);
        assert_eq!(Record::decode(&record.encode()[..31]), None);
    }
}
