//! Where reading has to begin, found from the end.

use std::io;
use std::sync::Arc;

use super::Spool;
use super::record::{self, Stream};
use super::segment::Segment;
use crate::sys;

/// Bytes read backwards in one go.
const BLOCK: u64 = 256 << 10;

/// For each stream the position of the first byte to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) streams: [u64; 2],
}

impl Start {
    pub(crate) fn at(position: u64) -> Self {
        Self { streams: [position; 2] }
    }

    pub(crate) fn first(&self) -> u64 {
        self.streams.into_iter().min().unwrap_or(0)
    }
}

/// Looks for the beginnings of lines, from the end to the front.
struct Search {
    want: [bool; 2],
    /// Ends of lines still to find before the first wanted line.
    lines: u64,
    /// Whether an unfinished line at the end of a stream counts.
    unfinished: bool,
    /// Position of the first byte that was looked at.
    lowest: [Option<u64>; 2],
    found: [Option<u64>; 2],
    /// Where the search began.
    end: u64,
}

impl Search {
    fn new(want: [bool; 2], lines: u64, unfinished: bool) -> Self {
        Self { want, lines, unfinished, lowest: [None; 2], found: [None; 2], end: 0 }
    }

    fn wants(&self, slot: usize) -> bool {
        self.want.get(slot) == Some(&true) && self.found.get(slot) == Some(&None)
    }

    fn wants_more_of(&self, segment: &Segment) -> bool {
        (0..2).any(|slot| self.wants(slot) && segment.has(slot))
    }

    /// Takes bytes of one stream, always those before what was taken last. `position` is that of their first byte.
    fn take(&mut self, stream: Stream, position: u64, bytes: &[u8]) {
        let slot = stream.slot();
        let (Some(lowest), Some(found)) = (self.lowest.get_mut(slot), self.found.get_mut(slot)) else {
            return;
        };
        // Not right behind the last newline but where the stream goes on: there may be much of the other in between.
        let goes_on = lowest.unwrap_or(self.end);
        if lowest.is_none() && self.unfinished && bytes.last().is_some_and(|last| *last != b'\n') {
            if self.lines == 0 {
                *found = Some(goes_on);
                return;
            }
            // The unfinished line itself is wanted: its beginning is behind the newline found next.
            self.lines -= 1;
        }
        *lowest = Some(position);
        let mut rest = bytes;
        while let Some(at) = memchr::memrchr(b'\n', rest) {
            if self.lines == 0 {
                *found = Some(if at + 1 == bytes.len() { goes_on } else { position + at as u64 + 1 });
                return;
            }
            self.lines -= 1;
            rest = rest.get(..at).unwrap_or_default();
        }
    }

    /// A stream without a newline is wanted from its first byte on.
    fn start(self) -> Start {
        let Self { want, lowest, found, end, .. } = self;
        let mut streams = [u64::MAX; 2];
        for (slot, ((want, found), lowest)) in streams.iter_mut().zip(want.into_iter().zip(found).zip(lowest))
        {
            if want {
                *slot = found.or(lowest).unwrap_or(end);
            }
        }
        Start { streams }
    }
}

impl Spool {
    /// The beginning of the last `lines` lines of the wanted streams. May wait for the disk.
    pub(crate) fn tail(&self, want: [bool; 2], lines: u64) -> io::Result<Start> {
        let unfinished = !self.running();
        let end = self.end()?;
        if lines == 0 {
            return Ok(Start::at(end));
        }
        self.backwards(Search::new(want, lines, unfinished), end)
    }

    /// The beginning of the lines that the first byte at or after a time belongs to. May wait for the disk.
    pub(crate) fn since(&self, want: [bool; 2], time: u64) -> io::Result<Start> {
        let segments: Vec<Arc<Segment>> = self.loaded()?.segments.iter().cloned().collect();
        let mut end = 0;
        for segment in segments {
            let files = match segment.files(self.dir()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                files => files?,
            };
            let extent = segment.extent();
            end = extent.end;
            let mut at = 0;
            while at < extent.records {
                let records = record::read(&files.index, at, extent.records.min(at + 4096), sys::Wait::Yes)?;
                if records.is_empty() {
                    break;
                }
                if let Some(first) = records.iter().find(|record| record.time >= time) {
                    return self.backwards(Search::new(want, 0, false), first.offset);
                }
                at += records.len() as u64;
            }
        }
        // Nothing yet: what comes may still finish a line that began before.
        self.backwards(Search::new(want, 0, false), end)
    }

    /// Runs a search over everything before `until`.
    fn backwards(&self, mut search: Search, until: u64) -> io::Result<Start> {
        let segments: Vec<Arc<Segment>> = self.loaded()?.segments.iter().rev().cloned().collect();
        search.end = until;
        for segment in segments {
            if segment.base >= until || !search.wants_more_of(&segment) {
                continue;
            }
            match self.segment_backwards(&mut search, &segment, until) {
                // Dropped meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                other => other?,
            }
        }
        Ok(search.start())
    }

    fn segment_backwards(&self, search: &mut Search, segment: &Segment, until: u64) -> io::Result<()> {
        let files = segment.files(self.dir())?;
        let extent = segment.extent();
        let mut last = extent.records;
        let mut end = extent.end.min(until);
        let mut block: Vec<u8> = Vec::new();
        let mut block_at = u64::MAX;
        // Batches of records from the end, so that a large index needs no large memory.
        while last > 0 && search.wants_more_of(segment) {
            let first = last.saturating_sub(4096);
            let records = record::read(&files.index, first, last, sys::Wait::Yes)?;
            for record in records.iter().rev() {
                if record.offset >= end {
                    continue;
                }
                while search.wants(record.stream.slot()) && end > record.offset {
                    if block_at >= end || block_at == u64::MAX {
                        let from = end.saturating_sub(BLOCK).max(segment.base);
                        block.resize(usize::try_from(end - from).unwrap_or(0), 0);
                        let n = sys::read_at(&files.data, &mut block, from - segment.base, sys::Wait::Yes)?;
                        if n < block.len() {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                        block_at = from;
                    }
                    let from = record.offset.max(block_at);
                    let range = slice(&block, from - block_at, end - block_at);
                    search.take(record.stream, from, range);
                    end = from;
                }
                end = end.min(record.offset);
                if !search.wants_more_of(segment) {
                    return Ok(());
                }
            }
            last = first;
        }
        Ok(())
    }

    fn dir(&self) -> &std::path::Path {
        &self.dir
    }
}

fn slice(block: &[u8], from: u64, to: u64) -> &[u8] {
    let index = |at| usize::try_from(at).unwrap_or(usize::MAX);
    block.get(index(from)..index(to)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reader::{LineView, Output, View};
    use crate::spool::{Limits, Source};

    type Lines = Vec<(u64, Vec<u8>)>;

    /// Lines with the position of their last byte, whole and unfinished ones.
    fn lines(chunks: &[(bool, Vec<u8>)], want: [bool; 2]) -> Lines {
        let (mut out, mut pending, mut position) = (Lines::new(), [(0, Vec::new()), (0, Vec::new())], 0);
        for (err, bytes) in chunks {
            for byte in bytes {
                let slot = usize::from(*err);
                position += 1;
                pending[slot].0 = position;
                pending[slot].1.push(*byte);
                if *byte == b'\n' {
                    let line = std::mem::take(&mut pending[slot]);
                    out.extend(want[slot].then_some(line));
                }
            }
        }
        let rest = pending.into_iter().zip(want).filter(|(line, want)| *want && !line.1.is_empty());
        out.extend(rest.map(|(line, _)| line));
        out.sort();
        out
    }

    fn read(spool: &Arc<Spool>, start: Start, want: [bool; 2]) -> Vec<Vec<u8>> {
        let lines = Some(LineView::default());
        let end = spool.end().unwrap();
        let view = View { start, end, want, follow: None, multiplexed: true, attached: false, lines };
        let mut output = Output::spool(spool, view);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut out = Vec::new();
        while let Some(bytes) = runtime.block_on(output.next()) {
            let bytes = bytes.unwrap();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let end = 8 + u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
                out.push(rest[8..end].to_vec());
                rest = &rest[end..];
            }
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn tail_is_the_end_of_all_lines(
            chunks in proptest::collection::vec((any::<bool>(), proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), Just(b'b')], 1..12)), 0..80),
            want in prop_oneof![Just([true, true]), Just([true, false]), Just([false, true])],
            reopen in any::<bool>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let limits = Limits { segment: 300, total: 1 << 20, follower: 2 << 20, attached: 1 << 20 };
            let mut spool = Arc::new(Spool::new(dir.path().join("s"), limits));
            for (err, bytes) in &chunks {
                let stream = if *err { Stream::Stderr } else { Stream::Stdout };
                spool.append(stream, Source::Bytes(bytes), bytes.len()).unwrap();
            }
            if reopen {
                spool = Arc::new(Spool::new(dir.path().join("s"), limits));
            }
            let all = lines(&chunks, want);
            for count in 0..all.len() + 2 {
                let mut expected: Vec<_> = all[all.len().saturating_sub(count)..].iter().map(|l| l.1.clone()).collect();
                let start = spool.tail(want, count as u64).unwrap();
                let mut got = read(&spool, start, want);
                expected.sort();
                got.sort();
                prop_assert_eq!(got, expected, "tail {} from {:?}", count, start);
            }
        }
    }
}
