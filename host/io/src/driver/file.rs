//! The driver's file: appended to, rotated, compressed, and in step with what was read from the spool.
//!
//! A small cursor file says up to where the spool was encoded and how long the log file was then. It is written after the bytes, so
//! a crash in between leaves a log file that is too long; the next start cuts it and encodes the same bytes
//! again. No line is lost or doubled.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::options::LogOptions;
use crate::sys;

/// Where a driver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Number of the next record.
    pub(crate) sequence: u64,
    /// For each stream the first byte of the spool that is not in the file.
    pub(crate) positions: [u64; 2],
    /// For each stream that is in the middle of a long line the line's time, otherwise 0.
    pub(crate) times: [u64; 2],
    /// Which file, and how long it is with all that is before the positions.
    inode: u64,
    length: u64,
}

const MARK: u64 = 0x5748_4c4f_4743_0001;
const WORDS: usize = 9;

impl Mark {
    /// The first mark of a spool that begins there.
    pub(crate) fn at(position: u64) -> Self {
        Self { positions: [position; 2], ..Self::default() }
    }

    fn words(&self) -> [u64; WORDS - 1] {
        let ([a, b], [c, d]) = (self.positions, self.times);
        [MARK, self.sequence, a, b, c, d, self.inode, self.length]
    }

    fn encode(&self) -> Vec<u8> {
        let words = self.words();
        words.iter().chain([&check(&words)]).flat_map(|word| word.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)))
            .collect();
        let [mark, sequence, a, b, c, d, inode, length, sum] = words.try_into().ok()?;
        let this = Self { sequence, positions: [a, b], times: [c, d], inode, length };
        (mark == MARK && sum == check(&this.words())).then_some(this)
    }
}

/// Tells a torn or foreign file from a cursor.
fn check(words: &[u64]) -> u64 {
    words
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, word| (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23))
}

/// A driver's file on disk. Nothing is held open between batches: idle containers cost no descriptors.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    cursor: PathBuf,
    options: LogOptions,
    mark: Mark,
}

/// What a rotation left to do.
#[derive(Debug)]
pub(crate) struct Compress {
    plain: PathBuf,
}

impl LogFile {
    /// Opens what a daemon before this one left, and repairs it. None: there is no cursor, begin at the spool's begin.
    pub(crate) fn open(path: &Path, cursor: &Path, options: LogOptions) -> io::Result<(Self, Option<Mark>)> {
        let known = match fs::read(cursor) {
            Ok(bytes) => Mark::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut mark = known.unwrap_or_default();
        match OpenOptions::new().write(true).open(path) {
            Ok(file) => {
                let metadata = file.metadata()?;
                let wanted = if metadata.ino() == mark.inode { mark.length } else { 0 };
                if metadata.len() > wanted {
                    file.set_len(wanted)?;
                }
                (mark.inode, mark.length) = (metadata.ino(), metadata.len().min(wanted));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (mark.inode, mark.length) = (0, 0),
            Err(error) => return Err(error),
        }
        let file = Self { path: path.to_owned(), cursor: cursor.to_owned(), options, mark };
        Ok((file, known))
    }

    /// Appends encoded records and remembers how far they reach.
    pub(crate) fn append(&mut self, bytes: &[u8], mut to: Mark) -> io::Result<Option<Compress>> {
        let mut compress = None;
        let mut file = self.current()?;
        // As Docker: a file is full when it has reached the size, and then it is done with.
        if self.mark.length >= self.options.max_size {
            drop(file);
            compress = self.rotate()?;
            file = self.current()?;
            self.save()?;
        } else if self.mark.inode != file.metadata()?.ino() {
            // A new file: known before it has bytes.
            self.save()?;
        }
        sys::write_at(&file, bytes, self.mark.length)?;
        to.inode = file.metadata()?.ino();
        to.length = self.mark.length + bytes.len() as u64;
        self.mark = to;
        self.save()?;
        Ok(compress)
    }

    /// The current file as it is: an administrator may have truncated or moved it.
    fn current(&mut self) -> io::Result<File> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).open(&self.path)?;
        let metadata = file.metadata()?;
        (self.mark.inode, self.mark.length) = (metadata.ino(), metadata.len());
        Ok(file)
    }

    fn save(&self) -> io::Result<()> {
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.cursor)?;
        sys::write_at(&file, &self.mark.encode(), 0)
    }

    fn numbered(&self, number: u32, compressed: bool) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        if compressed {
            name.push(".gz");
        }
        name.into()
    }

    /// Moves each file to the next number; the last one goes. A crash on the way leaves a free number, which the next
    /// rotation fills.
    fn rotate(&mut self) -> io::Result<Option<Compress>> {
        let last = self.options.max_file - 1;
        if last == 0 {
            fs::remove_file(&self.path)?;
            return Ok(None);
        }
        let exists =
            |number| [true, false].map(|gz| self.numbered(number, gz)).into_iter().any(|path| path.exists());
        let free = (1..=last).find(|number| !exists(*number)).unwrap_or(last);
        for compressed in [true, false] {
            remove(&self.numbered(last, compressed))?;
            for number in (1..free).rev() {
                match fs::rename(self.numbered(number, compressed), self.numbered(number + 1, compressed)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        let plain = self.numbered(1, false);
        fs::rename(&self.path, &plain)?;
        Ok(self.options.compress.then_some(Compress { plain }))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Compress {
    /// Compresses the rotated file; a crash on the way leaves the plain one. `allowed` gives what has to be held while
    /// files are made or moved, or None when none may be any more. It is not held while the bytes are compressed, which takes
    /// a while.
    pub(crate) fn run<G>(&self, allowed: impl Fn() -> Option<G>) -> io::Result<()> {
        let suffixed = |suffix: &str| {
            let mut name = self.plain.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let part = suffixed(".gz.tmp");
        let Some(guard) = allowed() else { return Ok(()) };
        let mut from = File::open(&self.plain)?;
        let to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&part)?;
        drop(guard);
        let mut encoder = flate2::write::GzEncoder::new(to, flate2::Compression::default());
        let done = io::copy(&mut from, &mut encoder).and_then(|_| encoder.finish());
        let Some(_guard) = allowed() else { return Ok(()) };
        match done {
            Ok(_) => {
                fs::rename(&part, suffixed(".gz"))?;
                fs::remove_file(&self.plain)
            }
            Err(error) => {
                let _ = fs::remove_file(&part);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(max_size: u64, max_file: u32, compress: bool) -> LogOptions {
        LogOptions { max_size, max_file, compress, buffer: None }
    }

    #[test]
    fn mark_is_checked() {
        let mark = Mark { sequence: 3, positions: [9, 8], times: [0, 7], inode: 5, length: 4 };
        let mut bytes = mark.encode();
        assert_eq!(Mark::decode(&bytes), Some(mark));
        bytes[20] ^= 1;
        assert_eq!(Mark::decode(&bytes), None);
        assert_eq!(Mark::decode(&[]), None);
    }

    #[test]
    fn rotation_keeps_the_newest_and_compresses() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cursor) = (dir.path().join("x-json.log"), dir.path().join("cursor"));
        let (mut file, mark) = LogFile::open(&path, &cursor, options(4, 3, true)).unwrap();
        assert_eq!(mark, None);
        for n in 0..6u8 {
            if let Some(compress) = file.append(&[b'a' + n; 4], Mark::default()).unwrap() {
                compress.run(|| Some(())).unwrap();
            }
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["cursor", "x-json.log", "x-json.log.1.gz", "x-json.log.2.gz"]);
        assert_eq!(fs::read(&path).unwrap(), b"ffff");
        let mut text = String::new();
        let gz = File::open(dir.path().join("x-json.log.2.gz")).unwrap();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(gz), &mut text).unwrap();
        assert_eq!(text, "dddd");
    }

    #[test]
    fn one_file_starts_over() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cursor) = (dir.path().join("log"), dir.path().join("cursor"));
        let (mut file, _) = LogFile::open(&path, &cursor, options(2, 1, false)).unwrap();
        for bytes in [b"aa", b"bb", b"cc"] {
            file.append(bytes, Mark::default()).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"cc");
        assert!(!dir.path().join("log.1").exists());
    }

    #[test]
    fn bytes_without_cursor_are_cut_and_a_truncated_file_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cursor) = (dir.path().join("log"), dir.path().join("cursor"));
        let (mut file, _) = LogFile::open(&path, &cursor, options(100, 2, false)).unwrap();
        let to = Mark { sequence: 1, positions: [3, 3], ..Mark::default() };
        file.append(b"one", to).unwrap();
        // A crash between bytes and cursor.
        fs::write(&path, b"onetwo").unwrap();
        let (mut file, mark) = LogFile::open(&path, &cursor, options(100, 2, false)).unwrap();
        assert_eq!(mark.map(|mark| (mark.sequence, mark.positions)), Some((1, [3, 3])));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        // An administrator empties the file under us.
        fs::write(&path, b"").unwrap();
        file.append(b"two", to).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        // A crash right after a rotation's rename: the file is missing and nothing of it comes again.
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        let (mut file, mark) = LogFile::open(&path, &cursor, options(100, 2, false)).unwrap();
        assert_eq!(mark.map(|mark| mark.sequence), Some(1));
        file.append(b"three", to).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read(dir.path().join("log.1")).unwrap(), b"two");
    }
}
