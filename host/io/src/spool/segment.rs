//! One piece of a spool: a data file and its index.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::record::{self, Record, Stream};
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
    /// A bit for each stream that may have bytes here.
    streams: AtomicU8,
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
        Ok((
            Arc::new(Self { base, length: 0.into(), records: 0.into(), streams: 0.into(), files: weak }),
            files,
        ))
    }

    /// What a daemon before this one left. The last record reaches to the end of the data; records without data (an
    /// intent that came to nothing, or a machine that went down) are dropped; data without any record is stdout's.
    /// Costs the same however large it is.
    pub(crate) fn recover(dir: &Path, base: u64) -> io::Result<Self> {
        let (data, index) = paths(dir, base);
        let index = open(&index, true)?;
        let data = open(&data, true)?;
        let length = data.metadata()?.len();
        let size = index.metadata()?.len();
        let mut count = size / record::SIZE;
        while count > 0 {
            let last = record::read(&index, count - 1, count, sys::Wait::Yes)?;
            if last.first().is_some_and(|last| (base..base + length).contains(&last.offset)) {
                break;
            }
            count -= 1;
        }
        if count == 0 && length > 0 {
            let record = Record { offset: base, time: sys::now(), lost: 0, stream: Stream::Stdout };
            sys::write_at(&index, &record.encode(), 0)?;
            count = 1;
        }
        if size != count * record::SIZE {
            index.set_len(count * record::SIZE)?;
        }
        // Which streams it has is not known without reading it: both.
        let streams = AtomicU8::new(u8::MAX);
        Ok(Self {
            base,
            length: length.into(),
            records: count.into(),
            streams,
            files: Mutex::new(Weak::new()),
        })
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

    /// The files where somebody has them open; otherwise, and where somebody opens them just now, `WouldBlock`.
    pub(crate) fn open_files(&self) -> io::Result<Arc<Files>> {
        let open = self.files.try_lock().ok().and_then(|slot| slot.upgrade());
        open.ok_or_else(|| io::ErrorKind::WouldBlock.into())
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

    /// Whether a stream may have bytes here.
    pub(crate) fn has(&self, stream: usize) -> bool {
        self.streams.load(Ordering::Relaxed) & (1 << stream) != 0
    }

    /// Before the first bytes of a stream are published.
    pub(crate) fn will_have(&self, stream: Stream) {
        self.streams.fetch_or(1 << stream.slot(), Ordering::Relaxed);
    }

    pub(crate) fn publish(&self, records: u64, end: u64) {
        self.records.store(records, Ordering::Release);
        self.length.store(end - self.base, Ordering::Release);
    }
}
