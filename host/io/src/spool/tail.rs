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
    seen: [bool; 2],
    found: [Option<u64>; 2],
}

impl Search {
    fn done(&self) -> bool {
        self.want.iter().zip(self.found).all(|(want, found)| !want || found.is_some())
    }

    /// Takes the bytes of one stream that end where the search is. `position` is that of their first byte.
    fn take(&mut self, stream: Stream, position: u64, bytes: &[u8]) {
        let slot = stream.slot();
        let (Some(true), Some(None)) = (self.want.get(slot), self.found.get(slot)) else { return };
        let mut rest = bytes;
        if let Some(seen) = self.seen.get_mut(slot)
            && !std::mem::replace(seen, true)
            && rest.last().is_some_and(|last| *last != b'\n')
            && self.unfinished
        {
            if self.lines == 0 {
                if let Some(found) = self.found.get_mut(slot) {
                    *found = Some(position + rest.len() as u64);
                }
                return;
            }
            // The unfinished line itself is wanted: its beginning is behind the newline found next.
            self.lines -= 1;
        }
        while let Some(at) = memchr::memrchr(b'\n', rest) {
            if self.lines == 0 {
                if let Some(found) = self.found.get_mut(slot) {
                    *found = Some(position + at as u64 + 1);
                }
                return;
            }
            self.lines -= 1;
            rest = rest.get(..at).unwrap_or_default();
        }
    }
}

impl Spool {
    /// The beginning of the last `lines` lines of the wanted streams. May wait for the disk.
    pub(crate) fn tail(&self, want: [bool; 2], lines: u64) -> io::Result<Start> {
        if lines == 0 {
            return Ok(Start::at(self.end()?));
        }
        let search = Search { want, lines, unfinished: !self.running(), seen: [false; 2], found: [None; 2] };
        self.backwards(search, u64::MAX)
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
                    let search =
                        Search { want, lines: 0, unfinished: false, seen: [false; 2], found: [None; 2] };
                    return self.backwards(search, first.offset);
                }
                at += records.len() as u64;
            }
        }
        // Nothing yet: what comes may still finish a line that began before.
        let search = Search { want, lines: 0, unfinished: false, seen: [false; 2], found: [None; 2] };
        self.backwards(search, end)
    }

    /// Runs a search over everything before `until`.
    fn backwards(&self, mut search: Search, until: u64) -> io::Result<Start> {
        let segments: Vec<Arc<Segment>> = self.loaded()?.segments.iter().rev().cloned().collect();
        let begin = segments.last().map_or(0, |segment| segment.base);
        for segment in segments {
            if search.done() {
                break;
            }
            if segment.base >= until {
                continue;
            }
            match self.segment_backwards(&mut search, &segment, until) {
                // Dropped meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                other => other?,
            }
        }
        let mut streams = search.found.map(|found| found.unwrap_or(begin));
        for (slot, want) in streams.iter_mut().zip(search.want) {
            if !want {
                *slot = u64::MAX;
            }
        }
        Ok(Start { streams })
    }

    fn segment_backwards(&self, search: &mut Search, segment: &Segment, until: u64) -> io::Result<()> {
        let files = segment.files(self.dir())?;
        let extent = segment.extent();
        let mut last = extent.records;
        let mut end = extent.end.min(until);
        let mut block: Vec<u8> = Vec::new();
        let mut block_at = u64::MAX;
        // Batches of records from the end, so that a large index needs no large memory.
        while last > 0 && !search.done() {
            let first = last.saturating_sub(4096);
            let records = record::read(&files.index, first, last, sys::Wait::Yes)?;
            for record in records.iter().rev() {
                if record.offset >= end {
                    continue;
                }
                let wanted = search.want.get(record.stream.slot()).copied().unwrap_or(false)
                    && search.found.get(record.stream.slot()).is_some_and(Option::is_none);
                while wanted && end > record.offset && !search.done() {
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
                if search.done() {
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
