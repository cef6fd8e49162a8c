//! The log that `qemu`'s driver `blklogwrites` keeps of a disk: every write and every flush, in order. With it a disk can be
//! made as a loss of power would leave it, whose cache of writes is lost too.
//!
//! The format is that of Linux's `dm-log-writes` (`Documentation/admin-guide/device-mapper/log-writes.rst`).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One entry.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where it was written, in bytes.
    to: u64,
    /// How much, in bytes.
    length: u64,
    flags: u64,
    /// Where its data is in the log.
    at: u64,
}

/// A log, complete.
#[derive(Debug)]
pub struct BlockLog {
    file: File,
    entries: Vec<Entry>,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// How many entries a log that is being written has by now.
pub fn count(log: &Path) -> u64 {
    let mut head = [0; 32];
    File::open(log).and_then(|file| file.read_exact_at(&mut head, 0)).expect("log of the disk");
    number(&head, 16)
}

impl BlockLog {
    /// Reads what is in a log.
    pub fn read(path: &Path) -> Self {
        let file = File::open(path).expect("log of the disk");
        let mut head = [0; 32];
        file.read_exact_at(&mut head, 0).expect("head of the log");
        assert_eq!(number(&head, 0), MAGIC, "no log of a disk: {head:x?}");
        let unit = u64::from(u32::from_le_bytes(head[24..28].try_into().expect("four bytes")));
        let mut at = unit;
        let mut entries = Vec::new();
        for _ in 0..number(&head, 16) {
            let mut entry = [0; 32];
            file.read_exact_at(&mut entry, at).expect("entry of the log");
            let (sector, count, flags) = (number(&entry, 0), number(&entry, 8), number(&entry, 16));
            at += unit;
            assert_eq!(flags & DISCARD, 0, "the disk was said to take no discards");
            entries.push(Entry { to: sector * unit, length: count * unit, flags, at });
            at += count * unit;
        }
        Self { file, entries }
    }

    /// Its entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes after the last flush before this entry: what a cut there may lose.
    pub fn unflushed(&self, cut: usize) -> usize {
        self.entries[..cut].iter().rev().take_while(|e| e.flags & FLUSH == 0).filter(|e| e.length > 0).count()
    }

    /// A disk as it was `before`, with all that was flushed before the entry `cut`, and of what came later those writes
    /// that `kept` says, by their numbers: they may have reached the disk, in any order.
    pub fn cut(
        &self,
        before: &Path,
        cut: usize,
        mut kept: impl FnMut(usize) -> bool,
        to: PathBuf,
    ) -> PathBuf {
        let copied = std::process::Command::new("cp").arg("--sparse=always").args([before, &to]).status();
        assert!(copied.expect("cp").success());
        let disk = fs::OpenOptions::new().write(true).open(&to).expect("disk");
        let flushed = self.entries[..cut].iter().rposition(|e| e.flags & FLUSH != 0).unwrap_or(0);
        let mut buffer = Vec::new();
        for (n, entry) in self.entries[..cut].iter().enumerate() {
            if entry.length == 0 || (n > flushed && entry.flags & FUA == 0 && !kept(n)) {
                continue;
            }
            buffer.resize(usize::try_from(entry.length).expect("length"), 0);
            self.file.read_exact_at(&mut buffer, entry.at).expect("data of the log");
            disk.write_all_at(&buffer, entry.to).expect("disk");
        }
        to
    }
}
