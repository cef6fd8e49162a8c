//! A writer of tar streams: plain headers where they suffice, pax headers for what does not fit.

use std::io::{self, Read, Write};

use super::tar::{Header, Kind};

const BLOCK: u64 = 512;
/// Largest owner in octal, and the size from which octal does not suffice.
const LARGEST_ID: u32 = 0o7_777_777;
const LARGEST_SIZE: u64 = 0o77_777_777_777;

/// Writes one entry after the other.
pub struct Writer<W> {
    out: W,
    buffer: Vec<u8>,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("cannot be written as tar: {what}"))
}

/// One record of a pax header; its length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A header block; what does not fit is cut off, as a pax header has it in full.
fn block(entry: &Header, flag: u8, size: u64) -> io::Result<[u8; 512]> {
    let mut block = [0u8; 512];
    let mut put = |at: usize, most: usize, text: &[u8]| -> io::Result<()> {
        let text = text.get(..most.min(text.len())).unwrap_or_default();
        block.get_mut(at..at + text.len()).ok_or_else(|| bad("a header overflows"))?.copy_from_slice(text);
        Ok(())
    };
    put(0, 100, &entry.path)?;
    put(100, 8, format!("{:07o}", entry.mode & 0o7777).as_bytes())?;
    put(108, 8, format!("{:07o}", entry.uid.min(LARGEST_ID)).as_bytes())?;
    put(116, 8, format!("{:07o}", entry.gid.min(LARGEST_ID)).as_bytes())?;
    put(124, 12, format!("{:011o}", size.min(LARGEST_SIZE)).as_bytes())?;
    let time = u64::try_from(entry.mtime).unwrap_or(0).min(LARGEST_SIZE);
    put(136, 12, format!("{time:011o}").as_bytes())?;
    put(148, 8, b"        ")?;
    put(156, 1, &[flag])?;
    put(157, 100, &entry.link)?;
    put(257, 8, b"ustar\x0000")?;
    let device = matches!(entry.kind, Kind::Character | Kind::Block);
    let (major, minor) = if device { entry.device } else { (0, 0) };
    put(329, 8, format!("{:07o}", major.min(LARGEST_ID)).as_bytes())?;
    put(337, 8, format!("{:07o}", minor.min(LARGEST_ID)).as_bytes())?;
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    if let Some(field) = block.get_mut(148..156) {
        field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    Ok(block)
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out, buffer: vec![0; 256 << 10] }
    }

    /// Writes an entry's header. A file's content must follow, exactly as long as its size says.
    pub fn header(&mut self, entry: &Header) -> io::Result<()> {
        let (flag, size) = match entry.kind {
            Kind::File => (b'0', entry.size),
            Kind::HardLink => (b'1', 0),
            Kind::Symlink => (b'2', 0),
            Kind::Character => (b'3', 0),
            Kind::Block => (b'4', 0),
            Kind::Directory => (b'5', 0),
            Kind::Fifo => (b'6', 0),
            Kind::Other(_) => return Err(bad("an entry of no known kind")),
        };
        let mut pax = Vec::new();
        let plain = |text: &[u8]| text.len() <= 100 && text.is_ascii();
        if !plain(&entry.path) {
            record(&mut pax, b"path", &entry.path);
        }
        if !plain(&entry.link) {
            record(&mut pax, b"linkpath", &entry.link);
        }
        if size > LARGEST_SIZE {
            record(&mut pax, b"size", size.to_string().as_bytes());
        }
        for (key, id) in [(b"uid", entry.uid), (b"gid", entry.gid)] {
            if id > LARGEST_ID {
                record(&mut pax, key, id.to_string().as_bytes());
            }
        }
        if entry.mtime < 0 || u64::try_from(entry.mtime).is_ok_and(|t| t > LARGEST_SIZE) {
            record(&mut pax, b"mtime", entry.mtime.to_string().as_bytes());
        }
        for (name, value) in &entry.xattrs {
            record(&mut pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !pax.is_empty() {
            let length = pax.len() as u64;
            let extended = Header {
                path: b"PaxHeaders.0/entry".to_vec(),
                link: Vec::new(),
                kind: Kind::File,
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: 0,
                ..entry.clone()
            };
            self.out.write_all(&block(&extended, b'x', length)?)?;
            self.out.write_all(&pax)?;
            self.pad(length)?;
        }
        self.out.write_all(&block(entry, flag, size)?)
    }

    /// Writes a file's content of `size` bytes. What a file lost since its size was looked at is written as zeros: its
    /// header is out already.
    pub fn content(&mut self, mut input: impl Read, size: u64) -> io::Result<()> {
        let mut left = size;
        let mut ended = false;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let part = self.buffer.get_mut(..want).unwrap_or_default();
            let n = if ended {
                part.fill(0);
                part.len()
            } else {
                match input.read(part) {
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(e),
                }
            };
            ended |= n == 0;
            self.out.write_all(self.buffer.get(..n).unwrap_or_default())?;
            left -= n as u64;
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0);
        self.out.write_all([0; 512].get(..padding).unwrap_or_default())
    }

    /// Ends the archive and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 1024])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tar::Reader;

    fn entry(path: &[u8], kind: Kind) -> Header {
        Header {
            path: path.to_vec(),
            link: Vec::new(),
            kind,
            mode: 0o4755,
            uid: 5,
            gid: 6,
            size: 0,
            mtime: 1_700_000_000,
            mtime_nsec: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = vec![b'n'; 300];
        let entries = [
            entry(b"dir/", Kind::Directory),
            Header { size: 3, ..entry(b"dir/file", Kind::File) },
            Header { size: 600, uid: 3_000_000_000, mtime: -5, ..entry(&long, Kind::File) },
            Header { link: long.clone(), ..entry(b"link", Kind::Symlink) },
            Header { link: b"dir/file".to_vec(), ..entry("\u{fc}".as_bytes(), Kind::HardLink) },
            Header { device: (1, 3), ..entry(b"null", Kind::Character) },
            Header { xattrs: vec![(b"user.a".to_vec(), b"b=\nc".to_vec())], ..entry(b"fifo", Kind::Fifo) },
        ];
        let mut writer = Writer::new(Vec::new());
        for e in &entries {
            writer.header(e).unwrap();
            if e.kind == Kind::File {
                // The second one has lost its end.
                writer.content(&b"abc"[..], e.size).unwrap();
            }
        }
        let bytes = writer.finish().unwrap();
        let mut reader = Reader::new(bytes.as_slice());
        for e in &entries {
            let found = reader.next_entry().unwrap().unwrap();
            assert_eq!(&found, e);
            if e.kind == Kind::File {
                let mut data = Vec::new();
                reader.read_to_end(&mut data).unwrap();
                assert_eq!((&data[..3], data.len() as u64), (&b"abc"[..], e.size));
                assert!(data[3..].iter().all(|b| *b == 0));
            }
        }
        assert!(reader.next_entry().unwrap().is_none());
        assert!(Writer::new(Vec::new()).header(&entry(b"x", Kind::Other(b'Z'))).is_err());
    }

    #[test]
    fn lengths_of_records_count_themselves() {
        for n in [1, 80, 90, 95, 96, 97, 98, 990, 995, 9990] {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'x'; n]);
            let text = String::from_utf8(out.clone()).unwrap();
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, out.len());
        }
    }
}
