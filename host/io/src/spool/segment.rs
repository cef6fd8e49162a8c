//! One piece of a spool: a data file and its index.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::record::{self, Record};
use crate::sys;

/// The open files of a segment; closed when nobody holds them.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) data: File,
    pub(crate) index: File,
}

/// Both counters only grow. A writer publishes a record first and the bytes it covers after, so whoever loads the
/// length first and the count after sees the record of every byte.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Position of the first byte in all output.
    pub(crate) base: u64,
    length: AtomicU64,
    records: AtomicU64,
    files: Mutex<Weak<Files>>,
}

/// How much of a segment there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) end: u64,
    pub(crate) records: u64,
}

fn paths(dir: &Path, base: u64) -> (PathBuf, PathBuf) {
    (dir.join(format!("{base:016x}.data")), dir.join(format!("{base:016x}.index")))
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

impl Segment {
    /// A new, empty one. The index is made first: data without index cannot be.
    pub(crate) fn create(dir: &Path, base: u64) -> io::Result<(Arc<Self>, Arc<Files>)> {
        let (data, index) = paths(dir, base);
        let index = open(&index, true)?;
        let data = open(&data, true)?;
        let files = Arc::new(Files { data, index });
        let weak = Mutex::new(Arc::downgrade(&files));
        Ok((Arc::new(Self { base, length: 0.into(), records: 0.into(), files: weak }), files))
    }

    /// What a daemon before this one left, as it is: the last record reaches to the end of the data. Records that point
    /// past the data (a machine that went down, not a daemon) are dropped; data without any record is stdout's.
    pub(crate) fn recover(dir: &Path, base: u64) -> io::Result<(Self, Option<Record>)> {
        let (data, index) = paths(dir, base);
        let index = open(&index, true)?;
        let data = open(&data, true)?;
        let length = data.metadata()?.len();
        let mut records = record::read(&index, 0, index.metadata()?.len() / record::SIZE, sys::Wait::Yes)?;
        records.retain(|record| record.offset >= base && record.offset < base + length);
        if records.first().is_none_or(|first| first.offset > base) && length > 0 {
            let time = records.first().map_or_else(sys::now, |first| first.time);
            let first = Record { offset: base, time, lost: 0, stream: record::Stream::Stdout };
            records.insert(0, first);
            let bytes: Vec<u8> = records.iter().flat_map(Record::encode).collect();
            sys::write_at(&index, &bytes, 0)?;
        }
        let count = records.len() as u64;
        index.set_len(count * record::SIZE)?;
        let segment =
            Self { base, length: length.into(), records: count.into(), files: Mutex::new(Weak::new()) };
        Ok((segment, records.last().copied()))
    }

    /// Positions of the segments in a directory, in order.
    pub(crate) fn list(dir: &Path) -> io::Result<Vec<u64>> {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut bases = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let base = name
                .to_str()
                .and_then(|name| name.strip_suffix(".index"))
                .filter(|hex| hex.len() == 16)
                .and_then(|hex| u64::from_str_radix(hex, 16).ok());
            bases.extend(base);
        }
        bases.sort_unstable();
        Ok(bases)
    }

    pub(crate) fn files(&self, dir: &Path) -> io::Result<Arc<Files>> {
        let mut slot = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = slot.upgrade() {
            return Ok(files);
        }
        let (data, index) = paths(dir, self.base);
        let files = Arc::new(Files { data: open(&data, false)?, index: open(&index, false)? });
        *slot = Arc::downgrade(&files);
        Ok(files)
    }

    /// Readers that have the files open read on.
    pub(crate) fn unlink(&self, dir: &Path) {
        let (data, index) = paths(dir, self.base);
        // The data first: an index alone is an empty segment.
        for path in [data, index] {
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "spool segment was not removed");
            }
        }
    }

    pub(crate) fn extent(&self) -> Extent {
        let length = self.length.load(Ordering::Acquire);
        Extent { end: self.base + length, records: self.records.load(Ordering::Acquire) }
    }

    /// Bytes on disk.
    pub(crate) fn size(&self) -> u64 {
        self.length.load(Ordering::Relaxed) + self.records.load(Ordering::Relaxed) * record::SIZE
    }

    pub(crate) fn publish(&self, records: u64, end: u64) {
        self.records.store(records, Ordering::Release);
        self.length.store(end - self.base, Ordering::Release);
    }
}
