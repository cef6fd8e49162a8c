//! Compressed streams, always unpacked in this process and within fixed memory.

use std::io::{self, BufReader, Read};

use super::blocks::{self, Feeder};

/// Memory that a compressor may ask of us (zstd and xz let the stream say how much it needs).
const WINDOW_LOG: u32 = 27;
const XZ_MEMORY_KB: u32 = 256 << 10;
/// Blocks that a decompressor may be ahead of who reads.
const AHEAD: usize = 4;
/// Enough to tell all formats apart, and a tar header.
const PEEK: usize = 512;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    /// Looks at the first bytes.
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            // A zstd frame, or the skippable frame that some tools put first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, ..] => Self::Bzip2,
            _ => Self::None,
        }
    }
}

/// A reader whose first bytes can be looked at.
pub(crate) struct Peek<R> {
    start: Vec<u8>,
    at: usize,
    rest: R,
}

impl<R: Read> Peek<R> {
    /// Reads up to a block of the stream to look at.
    pub(crate) fn new(mut rest: R) -> io::Result<Self> {
        let mut start = Vec::with_capacity(PEEK);
        rest.by_ref().take(PEEK as u64).read_to_end(&mut start)?;
        Ok(Self { start, at: 0, rest })
    }

    pub(crate) fn start(&self) -> &[u8] {
        &self.start
    }
}

impl<R: Read> Read for Peek<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.start.get(self.at..).unwrap_or_default();
        if left.is_empty() {
            return self.rest.read(buffer);
        }
        let n = left.len().min(buffer.len());
        let (Some(to), Some(from)) = (buffer.get_mut(..n), left.get(..n)) else { return Ok(0) };
        to.copy_from_slice(from);
        self.at += n;
        Ok(n)
    }
}

/// Unpacks whatever the stream turns out to be; one that is not compressed is passed on.
pub fn decompress<'a, R: Read + Send + 'a>(input: R) -> io::Result<Box<dyn Read + Send + 'a>> {
    let peek = Peek::new(input)?;
    let compression = Compression::of(peek.start());
    decoder(compression, peek)
}

/// As [`decompress`], on a thread of its own that works ahead. What follows the compressed stream is read too: it may
/// still bring the news that the input is not what it should be.
pub(crate) fn decompress_ahead(input: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut peek = Peek::new(input)?;
    let compression = Compression::of(peek.start());
    if compression == Compression::None {
        return Ok(Box::new(peek));
    }
    let (feeder, blocks) = blocks::channel(AHEAD);
    // Not waited for: one whose reader has gone away ends with its next block, or when its input ends.
    std::thread::Builder::new().name("decompress".into()).spawn(move || {
        match feed(&feeder, compression, &mut peek) {
            Ok(()) => feeder.end(),
            Err(e) => feeder.fail(e),
        }
    })?;
    Ok(Box::new(blocks))
}

fn feed(feeder: &Feeder, compression: Compression, mut input: &mut (impl Read + Send)) -> io::Result<()> {
    let mut unpacked = decoder(compression, &mut input)?;
    loop {
        match feeder.pass(&mut unpacked)? {
            (_, false) => return Ok(()),
            (0, _) => break,
            _ => {}
        }
    }
    drop(unpacked);
    io::copy(input, &mut io::sink()).map(drop)
}

fn decoder<'a>(
    compression: Compression,
    input: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    if compression == Compression::None {
        return Ok(Box::new(input));
    }
    let input = BufReader::with_capacity(128 << 10, input);
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KB)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
    })
}
