//! A reader's place in a spool.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::record::{self, Record, Stream};
use super::segment::{Files, Segment};
use super::{Claim, Spool, milliseconds};
use crate::sys;

/// Records looked at in one go.
const BATCH: u64 = 256;
/// Bytes of an unwanted stream that are read along rather than jumped over.
const READ_ALONG: u64 = 16 << 10;

/// Bytes of one stream with one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) stream: Stream,
    pub(crate) time: u64,
    /// Position of the first byte in all output.
    pub(crate) position: u64,
    /// Where in the buffer.
    pub(crate) range: Range<usize>,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Buffer and runs hold something.
    Data,
    /// So many bytes are gone: the disk was full, or the reader too slow.
    Gap(u64),
    /// Nothing more now.
    Nothing,
}

#[derive(Debug)]
struct Place {
    segment: Arc<Segment>,
    files: Arc<Files>,
    /// The record that `position` is in.
    record: u64,
}

/// A reader's place. Holds a claim while it lives.
#[derive(Debug)]
pub(crate) struct Cursor {
    spool: Arc<Spool>,
    key: usize,
    claim: Arc<Claim>,
    position: u64,
    place: Option<Place>,
    /// Position whose loss was told.
    told: Option<u64>,
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.leave();
        self.spool.unclaim(self.key);
    }
}

impl Cursor {
    pub(crate) fn new(spool: Arc<Spool>, position: u64, attached: bool) -> Self {
        let (key, claim) = spool.claim(position, attached);
        Self { spool, key, claim, position, place: None, told: None }
    }

    pub(crate) fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Closes the files if the writer closed them, so that an idle reader holds no descriptors.
    pub(crate) fn rest(&mut self) {
        if self.place.as_ref().is_some_and(|place| Arc::strong_count(&place.files) == 1) {
            self.leave();
        }
    }

    /// Goes from the segment. To close files may take as long as to read them.
    fn leave(&mut self) {
        if let Some(place) = self.place.take()
            && Arc::strong_count(&place.files) == 1
        {
            self.spool.later(move |_| drop(place));
        }
    }

    /// Reads up to about `max` bytes of the wanted streams. `data` and `runs` are overwritten.
    pub(crate) fn fill(
        &mut self,
        want: [bool; 2],
        data: &mut Vec<u8>,
        runs: &mut Vec<Run>,
        max: usize,
        wait: sys::Wait,
    ) -> io::Result<Fill> {
        data.clear();
        runs.clear();
        loop {
            let Some(place) = &self.place else {
                match self.find(wait)? {
                    Some(Fill::Gap(gap)) => return Ok(Fill::Gap(gap)),
                    Some(_) => continue,
                    None => return Ok(Fill::Nothing),
                }
            };
            let extent = place.segment.extent();
            if self.position >= extent.end {
                if !self.newer(place.segment.base, wait)? {
                    return Ok(Fill::Nothing);
                }
                // A newer segment means that this one does not grow any more; it may have since it was looked at.
                if place.segment.extent().end <= self.position {
                    self.leave();
                }
                continue;
            }
            let to = extent.records.min(place.record + BATCH);
            let mut records = record::read(&place.files.index, place.record, to, wait)?;
            if records.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the spool's index is damaged"));
            }
            let known = (place.record + records.len() as u64 == extent.records).then_some(extent.end);
            let past = passed(&records, self.position);
            records.drain(..past);
            let (base, from_record) = (place.segment.base, place.record + past as u64);
            if let Some(first) = records.first()
                && first.lost > 0
                && first.offset == self.position
                && self.told != Some(self.position)
            {
                self.told = Some(self.position);
                return Ok(Fill::Gap(first.lost));
            }
            let (from, until) = self.plan(&records, known, extent.end, want, max, runs);
            let until = if runs.is_empty() {
                if until == self.position {
                    // A record whose end is in a page that is not in memory.
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                until
            } else {
                data.resize(usize::try_from(until - from).unwrap_or(usize::MAX), 0);
                let n = sys::read_at(&place.files.data, data, from - base, wait)?;
                if n == 0 {
                    let text = "the spool's data is shorter than its index says";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                data.truncate(n);
                runs.retain_mut(|run| {
                    run.range.end = run.range.end.min(n);
                    run.range.start < run.range.end
                });
                from + n as u64
            };
            let record = from_record + passed(&records, until) as u64;
            self.advance(until, record);
            if !runs.is_empty() {
                return Ok(Fill::Data);
            }
        }
    }

    /// Which bytes to read. Stops before a record that tells of a loss.
    fn plan(
        &self,
        records: &[Record],
        known: Option<u64>,
        end: u64,
        want: [bool; 2],
        max: usize,
        runs: &mut Vec<Run>,
    ) -> (u64, u64) {
        let (mut from, mut until) = (self.position, self.position);
        for (i, record) in records.iter().enumerate() {
            let stop = match records.get(i + 1) {
                Some(next) => next.offset.min(end),
                None => match known {
                    Some(end) => end,
                    None => break,
                },
            };
            let start = record.offset.max(self.position);
            if record.lost > 0 && i > 0 {
                break;
            }
            if start >= stop {
                continue;
            }
            let wanted = want.get(record.stream.slot()).copied().unwrap_or(false);
            if !wanted {
                if runs.is_empty() {
                    (from, until) = (stop, stop);
                } else if stop - start > READ_ALONG {
                    break;
                }
                continue;
            }
            if runs.is_empty() {
                from = start;
            }
            let room = (max as u64).saturating_sub(start - from);
            if room == 0 {
                break;
            }
            let stop = stop.min(start + room);
            let at = |position: u64| usize::try_from(position - from).unwrap_or(usize::MAX);
            let range = at(start)..at(stop);
            match runs.last_mut() {
                Some(last)
                    if last.stream == record.stream
                        && last.time == record.time
                        && last.range.end == range.start =>
                {
                    last.range.end = range.end;
                }
                _ => runs.push(Run { stream: record.stream, time: record.time, position: start, range }),
            }
            until = stop;
        }
        (from, until)
    }

    fn advance(&mut self, position: u64, record: u64) {
        self.position = self.position.max(position);
        if let Some(place) = &mut self.place {
            place.record = record;
        }
        self.claim.progress.store(milliseconds(), Ordering::Relaxed);
        self.claim.position.store(self.position, Ordering::SeqCst);
    }

    /// Whether there is a segment after the one that began at `base`.
    fn newer(&self, base: u64, wait: sys::Wait) -> io::Result<bool> {
        Ok(self.spool.loaded_if(wait)?.segments.back().is_some_and(|last| last.base > base))
    }

    /// Opens the segment of the position. `None`: there is none yet.
    fn find(&mut self, wait: sys::Wait) -> io::Result<Option<Fill>> {
        let spool = self.spool.clone();
        let state = spool.loaded_if(wait)?;
        let Some(first) = state.segments.front() else { return Ok(None) };
        if self.position < first.base {
            let gap = first.base - self.position;
            drop(state);
            self.advance(self.position + gap, 0);
            return Ok(Some(Fill::Gap(gap)));
        }
        let segment = state
            .segments
            .iter()
            .rev()
            .find(|segment| segment.base <= self.position)
            .cloned()
            .ok_or(io::ErrorKind::NotFound)?;
        let extent = segment.extent();
        if self.position >= extent.end {
            // At the end of all, or (somebody deleted a file) in a hole.
            let Some(next) = state.segments.iter().find(|next| next.base > self.position) else {
                return Ok(None);
            };
            let gap = next.base - self.position;
            drop(state);
            self.advance(self.position + gap, 0);
            return Ok(Some(Fill::Gap(gap)));
        }
        let files = match wait {
            sys::Wait::Yes => segment.files(&spool.dir)?,
            sys::Wait::No => segment.open_files()?,
        };
        drop(state);
        let record = if self.position == segment.base {
            0
        } else {
            search(&files, extent.records, self.position, wait)?
        };
        self.place = Some(Place { segment, files, record });
        self.claim.position.store(self.position, Ordering::SeqCst);
        spool.moved_on();
        Ok(Some(Fill::Data))
    }
}

/// How many records end at or before a position.
fn passed(records: &[Record], position: u64) -> usize {
    records.iter().skip(1).take_while(|record| record.offset <= position).count()
}

/// The last record that begins at or before a position.
fn search(files: &Files, count: u64, position: u64, wait: sys::Wait) -> io::Result<u64> {
    let (mut low, mut high) = (0, count);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        match record::read(&files.index, middle, middle + 1, wait)?.first() {
            Some(record) if record.offset <= position => low = middle,
            _ => high = middle,
        }
    }
    Ok(low)
}
