//! Compressing a layer on its way to a registry, on several threads, into the same bytes every time.
//!
//! A layer's stream is cut at fixed places and each part compressed by itself: with gzip into blocks that end at a byte
//! (RFC 1951, 3.2.4), joined to one member (RFC 1952) with the combined checksum; with zstd into frames of their own, as
//! RFC 8878 allows. What comes out depends on the bytes and the level alone, not on the number of threads.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use flate2::{Compress, Crc, FlushCompress};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wharf_registry::manifest::{DOCKER_LAYER, DOCKER_LAYER_TAR, OCI_LAYER_ZSTD};

use super::progress::Meter;

/// Bytes of a part, of the layer's stream.
const PART: usize = 1 << 20;
/// Threads for one layer; several layers go at a time.
const MOST_THREADS: usize = 4;
/// gzip: ten bytes of head: deflate, no flags, no time, fastest, unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
/// An empty last block.
const LAST: [u8; 2] = [3, 0];

/// How layers are sent; the words are buildx's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    /// As they are.
    Uncompressed,
    /// `gzip`, which everybody understands, made by ISA-L: fast, and small for that. Not every build has it.
    Igzip,
    /// `gzip` made by zlib-rs with this level (0 to 9).
    Gzip(u32),
    /// `zstd`, with this level (1 to 22): smaller, and faster to unpack; Docker understands it since 23.0.
    Zstd(i32),
}

impl Default for Packing {
    /// Fast rather than small: the other side is usually near, and the disk is cheap.
    fn default() -> Self {
        if cfg!(feature = "isal") { Self::Igzip } else { Self::Gzip(1) }
    }
}

impl Packing {
    /// Reads the daemon's configuration: the word (empty for the usual one) and the level, if there is one.
    pub fn parse(word: &str, level: Option<i64>) -> Result<Self, String> {
        let wrong = |range: &str| {
            format!("invalid registry push compression level: {} ({word} takes {range})", level.unwrap_or(0))
        };
        match (word, level) {
            ("" | "gzip", None) => Ok(Self::default()),
            ("" | "gzip", Some(n)) => match u32::try_from(n) {
                Ok(n @ 0..=9) => Ok(Self::Gzip(n)),
                _ => Err(wrong("0 to 9")),
            },
            ("zstd", None) => Ok(Self::Zstd(3)),
            ("zstd", Some(n)) => match i32::try_from(n) {
                Ok(n @ 1..=22) => Ok(Self::Zstd(n)),
                _ => Err(wrong("1 to 22")),
            },
            ("uncompressed", None) => Ok(Self::Uncompressed),
            ("uncompressed", Some(_)) => Err(wrong("none")),
            _ => Err(format!(
                "invalid registry push compression: {word:?} (must be gzip, zstd or uncompressed)"
            )),
        }
    }

    /// What other hosts of this kind are likely to have packed with, the likeliest first.
    pub(super) fn usual() -> impl Iterator<Item = Self> {
        [Self::default(), Self::Gzip(1), Self::Gzip(6), Self::Zstd(3)].into_iter()
    }

    fn is_gzip(self) -> bool {
        matches!(self, Self::Igzip | Self::Gzip(_))
    }

    /// The media type of what comes out.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Uncompressed => DOCKER_LAYER_TAR,
            Self::Igzip | Self::Gzip(_) => DOCKER_LAYER,
            Self::Zstd(_) => OCI_LAYER_ZSTD,
        }
    }

    /// What is to be kept in order to make the same bytes again: the word, the level, and what this program's compressor
    /// makes of a sample, as another version of it may make other bytes.
    pub(super) fn recipe(self) -> io::Result<String> {
        // The same for as long as this program runs.
        static KNOWN: Mutex<BTreeMap<Packing, String>> = Mutex::new(BTreeMap::new());
        let word = match self {
            Self::Uncompressed => "uncompressed".to_owned(),
            Self::Igzip => "igzip-1".to_owned(),
            Self::Gzip(level) => format!("gzip-{level}"),
            Self::Zstd(level) => format!("zstd-{level}"),
        };
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(recipe) = known.get(&self) {
            return Ok(recipe.clone());
        }
        let found = wharf_registry::digest::of(&Packer::new(self)?.pack(sample())?.bytes);
        let recipe = format!("{word}/{}", super::short(&found));
        known.insert(self, recipe.clone());
        Ok(recipe)
    }

    /// The packing of a recipe; none if this program would make other bytes than the one that wrote it.
    pub(super) fn of_recipe(recipe: &str) -> Option<Self> {
        let (word, _) = recipe.split_once('/')?;
        let packing = match word.split_once('-') {
            None if word == "uncompressed" => Self::Uncompressed,
            Some(("igzip", "1")) => Self::Igzip,
            Some(("gzip", level)) => Self::Gzip(level.parse().ok().filter(|n| *n <= 9)?),
            Some(("zstd", level)) => Self::Zstd(level.parse().ok().filter(|n| (1..=22).contains(n))?),
            _ => return None,
        };
        (packing.recipe().ok()? == recipe).then_some(packing)
    }
}

/// 64 KiB that are neither all alike nor all different.
fn sample() -> Vec<u8> {
    let mut state = 1u32;
    let mut bytes = Vec::with_capacity(64 << 10);
    while bytes.len() < 64 << 10 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Runs of different lengths of few different words.
        let [a, b, ..] = state.to_be_bytes();
        bytes.extend(std::iter::repeat_n(a % 23, usize::from(b % 7)));
    }
    bytes
}

/// What became of a part.
struct Packed {
    bytes: Vec<u8>,
    /// Bytes of the part itself.
    length: u64,
    /// Its checksum, with gzip.
    crc: Crc,
}

/// A compressor that is used again for each part.
enum Packer {
    None,
    Gzip(Box<Compress>),
    #[cfg(feature = "isal")]
    Igzip(Box<wharf_kernel::sys::igzip::Igzip>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Packer {
    fn new(packing: Packing) -> io::Result<Self> {
        Ok(match packing {
            Packing::Uncompressed => Self::None,
            #[cfg(feature = "isal")]
            Packing::Igzip => Self::Igzip(Box::default()),
            #[cfg(not(feature = "isal"))]
            Packing::Igzip => return Err(io::Error::other("this build was made without ISA-L")),
            Packing::Gzip(level) => {
                Self::Gzip(Box::new(Compress::new(flate2::Compression::new(level), false)))
            }
            Packing::Zstd(level) => Self::Zstd(zstd::bulk::Compressor::new(level)?),
        })
    }

    fn pack(&mut self, part: Vec<u8>) -> io::Result<Packed> {
        let (length, mut crc) = (part.len() as u64, Crc::new());
        let bytes = match self {
            Self::None => part,
            Self::Zstd(zstd) => zstd.compress(&part)?,
            #[cfg(feature = "isal")]
            Self::Igzip(igzip) => {
                crc.update(&part);
                igzip.pack(&part).map_err(io::Error::other)?
            }
            Self::Gzip(deflate) => {
                crc.update(&part);
                deflate.reset();
                let mut out = Vec::with_capacity(part.len() / 2 + 1024);
                let mut rest = part.as_slice();
                loop {
                    let before = deflate.total_in();
                    deflate.compress_vec(rest, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
                    let taken = usize::try_from(deflate.total_in() - before).unwrap_or(usize::MAX);
                    rest = rest.get(taken..).unwrap_or_default();
                    // Room that is left says that the flush came to its end.
                    if rest.is_empty() && out.len() < out.capacity() {
                        break;
                    }
                    out.reserve(out.capacity().max(4096));
                }
                out
            }
        };
        Ok(Packed { bytes, length, crc })
    }
}

/// Where the parts go, in order.
struct Output<'a> {
    to: &'a mpsc::Sender<io::Result<Bytes>>,
    gzip: bool,
    crc: Crc,
}

impl<'a> Output<'a> {
    fn new(packing: Packing, to: &'a mpsc::Sender<io::Result<Bytes>>) -> io::Result<Self> {
        let output = Self { to, gzip: packing.is_gzip(), crc: Crc::new() };
        if output.gzip {
            output.send(HEAD.to_vec())?;
        }
        Ok(output)
    }

    fn send(&self, bytes: Vec<u8>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.to.blocking_send(Ok(bytes.into())).map_err(|_| io::Error::other("the upload was given up"))
    }

    fn part(&mut self, packed: Packed) -> io::Result<()> {
        self.crc.combine(&packed.crc);
        self.send(packed.bytes)
    }

    fn end(self) -> io::Result<()> {
        if !self.gzip {
            return Ok(());
        }
        let mut tail = LAST.to_vec();
        tail.extend_from_slice(&self.crc.sum().to_le_bytes());
        tail.extend_from_slice(&self.crc.amount().to_le_bytes());
        self.send(tail)
    }
}

/// One part of the stream; empty at its end.
fn part(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut part = Vec::with_capacity(PART);
    stream.by_ref().take(PART as u64).read_to_end(&mut part)?;
    Ok(part)
}

/// The first of some packings of which a blob begins as it would if the stream were packed so.
pub(super) fn begins(
    mut stream: impl Read,
    blob: &mut impl Read,
    packings: &[Packing],
) -> io::Result<Option<Packing>> {
    let first = part(&mut stream)?;
    let mut start = Vec::new();
    // No packer makes much more than there was.
    blob.take(2 * PART as u64).read_to_end(&mut start)?;
    for packing in packings {
        let rest = match packing {
            Packing::Igzip | Packing::Gzip(_) => start.strip_prefix(&HEAD),
            Packing::Zstd(_) => Some(start.as_slice()),
            Packing::Uncompressed => None,
        };
        let Some(rest) = rest else { continue };
        if rest.starts_with(&Packer::new(*packing)?.pack(first.clone())?.bytes) {
            return Ok(Some(*packing));
        }
    }
    Ok(None)
}

/// A thread's door: parts go in, what became of them comes out, in the same order.
struct Worker {
    parts: SyncSender<Vec<u8>>,
    packed: Receiver<io::Result<Packed>>,
}

fn worker<'scope>(scope: &'scope std::thread::Scope<'scope, '_>, packing: Packing) -> io::Result<Worker> {
    let (parts, take) = sync_channel::<Vec<u8>>(1);
    let (give, packed) = sync_channel(1);
    std::thread::Builder::new().name("compress".into()).spawn_scoped(scope, move || {
        let mut packer = match Packer::new(packing) {
            Ok(packer) => packer,
            Err(e) => return drop(give.send(Err(e))),
        };
        while let Ok(part) = take.recv() {
            if give.send(packer.pack(part)).is_err() {
                return;
            }
        }
    })?;
    Ok(Worker { parts, packed })
}

/// Compresses a layer's stream and sends it. Blocks. On error nobody was told of it.
fn pack(
    mut stream: impl Read + Send,
    packing: Packing,
    meter: &Meter,
    to: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut output = Output::new(packing, to)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let first = part(&mut stream)?;
    if first.len() < PART || threads == 1 || packing == Packing::Uncompressed {
        return alone(stream, first, packing, meter, output);
    }
    std::thread::scope(|scope| {
        let workers = (0..threads).map(|_| worker(scope, packing)).collect::<io::Result<Vec<_>>>()?;
        let (parts, packed): (Vec<_>, Vec<_>) = workers.into_iter().map(|w| (w.parts, w.packed)).unzip();
        let reading =
            std::thread::Builder::new().name("read layer".into()).spawn_scoped(scope, move || {
                let mut next = first;
                // In turn, so that the order is known without being told.
                for parts in parts.iter().cycle() {
                    let length = next.len() as u64;
                    if length == 0 || parts.send(next).is_err() {
                        break;
                    }
                    next = part(&mut stream)?;
                }
                Ok::<_, io::Error>(())
            })?;
        let mut seen = 0;
        for packed in packed.iter().cycle() {
            // A worker ends when the reader does.
            let Ok(packed) = packed.recv() else { break };
            let packed = packed?;
            seen += packed.length;
            output.part(packed)?;
            meter.at(seen);
        }
        drop(packed);
        reading.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reads a layer ended")))?;
        output.end()
    })
}

/// Compresses a layer's stream in the background. What comes out, or why nothing more does, comes out of the channel, where
/// at most `queue` pieces wait; the task ends when all of it is sent.
pub(super) fn packing(
    stream: impl Read + Send + 'static,
    how: Packing,
    meter: Meter,
    queue: usize,
) -> (mpsc::Receiver<io::Result<Bytes>>, JoinHandle<()>) {
    let (to, from) = mpsc::channel(queue);
    let task = tokio::task::spawn_blocking(move || {
        if let Err(error) = pack(stream, how, &meter, &to) {
            // The other end says what went wrong, unless it is what went wrong.
            let _ = to.blocking_send(Err(error));
        }
    });
    (from, task)
}

/// The same on this thread.
fn alone(
    mut stream: impl Read,
    first: Vec<u8>,
    packing: Packing,
    meter: &Meter,
    mut output: Output<'_>,
) -> io::Result<()> {
    let mut packer = Packer::new(packing)?;
    let (mut next, mut seen) = (first, 0);
    // Once at least: nothing, compressed, is not nothing.
    loop {
        seen += next.len() as u64;
        output.part(packer.pack(next)?)?;
        meter.at(seen);
        next = part(&mut stream)?;
        if next.is_empty() {
            return output.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::remote::progress::Lines;

    /// Bytes that compress a little and differ everywhere.
    fn bytes(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let next = |state: &mut u32| {
            *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u8::try_from(*state >> 28).unwrap_or_default()
        };
        (0..length).map(|_| next(&mut state)).collect()
    }

    fn meter() -> Meter {
        let (to, _) = mpsc::channel(1);
        Meter::new(&Lines::new(to).0, "layer", "Pushing", 0)
    }

    fn collect(
        work: impl FnOnce(&mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> + Send + 'static,
    ) -> (Vec<u8>, io::Result<()>) {
        let (to, mut from) = mpsc::channel(2);
        let thread = std::thread::spawn(move || work(&to));
        let mut all = Vec::new();
        while let Some(piece) = from.blocking_recv() {
            all.extend_from_slice(&piece.unwrap());
        }
        (all, thread.join().unwrap())
    }

    fn packed(data: &[u8], packing: Packing) -> Vec<u8> {
        let data = data.to_vec();
        let (all, result) = collect(move |to| pack(data.as_slice(), packing, &meter(), to));
        result.unwrap();
        all
    }

    #[test]
    fn what_goes_in_comes_out_whatever_its_length() {
        for length in [0, 1, PART - 1, PART, PART + 1, 5 * PART, 7 * PART + 17] {
            let data = bytes(length);
            let gzips = [Packing::default(), Packing::Gzip(1)].map(|packing| packed(&data, packing));
            for gzip in &gzips {
                let mut plain = Vec::new();
                // One member, and nothing after it.
                let mut decoder = flate2::bufread::GzDecoder::new(gzip.as_slice());
                decoder.read_to_end(&mut plain).unwrap();
                assert!(plain == data, "gzip of {length}");
                assert!(decoder.into_inner().is_empty(), "gzip of {length}");
                assert!(length < PART || gzip.len() < length);
            }
            let zstd = packed(&data, Packing::Zstd(3));
            assert!(zstd::decode_all(zstd.as_slice()).unwrap() == data, "zstd of {length}");
            assert!(packed(&data, Packing::Uncompressed) == data);
            assert!(length < PART || zstd.len() < length);
        }
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        for packing in [Packing::default(), Packing::Gzip(1), Packing::Gzip(6), Packing::Zstd(1)] {
            let data = bytes(6 * PART + 9);
            let many = packed(&data, packing);
            let (one, result) = collect(move |to| {
                let mut stream = data.as_slice();
                let first = part(&mut stream)?;
                alone(stream, first, packing, &meter(), Output::new(packing, to)?)
            });
            result.unwrap();
            assert!(one == many, "{packing:?}");
        }
    }

    /// Fails after so many bytes.
    struct Failing(u64);

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("the disk is gone"));
            }
            let n = buffer.len().min(usize::try_from(self.0).unwrap());
            buffer[..n].fill(7);
            self.0 -= n as u64;
            Ok(n)
        }
    }

    #[test]
    fn a_layer_that_cannot_be_read_is_no_end_of_it() {
        for length in [10, 5 * PART as u64 + 3] {
            let (all, result) = collect(move |to| pack(Failing(length), Packing::Gzip(1), &meter(), to));
            assert_eq!(result.unwrap_err().to_string(), "the disk is gone");
            let mut plain = Vec::new();
            assert!(flate2::read::GzDecoder::new(all.as_slice()).read_to_end(&mut plain).is_err());
        }
    }

    #[test]
    fn an_upload_that_is_given_up_ends_the_work() {
        let (to, from) = mpsc::channel(1);
        drop(from);
        let error = pack(Failing(1 << 40), Packing::Gzip(1), &meter(), &to).unwrap_err();
        assert_eq!(error.to_string(), "the upload was given up");
    }

    #[test]
    fn a_recipe_is_only_followed_where_it_leads_to_the_same_bytes() {
        for packing in Packing::usual().chain([Packing::Uncompressed, Packing::Gzip(9)]) {
            let recipe = packing.recipe().unwrap();
            assert_eq!(Packing::of_recipe(&recipe), Some(packing), "{recipe}");
            let (word, _) = recipe.split_once('/').unwrap();
            assert_eq!(Packing::of_recipe(&format!("{word}/0123456789ab")), None);
            assert_eq!(Packing::of_recipe(word), None);
        }
        let made: BTreeSet<String> = Packing::usual().map(|p| p.recipe().unwrap()[7..].to_owned()).collect();
        assert_eq!(made.len(), Packing::usual().collect::<BTreeSet<_>>().len(), "all make other bytes");
        for wrong in ["", "/", "igzip-1/x", "igzip-2/x", "gzip-10/x", "gzip-/x", "zstd-0/x", "lz4-1/x"] {
            assert_eq!(Packing::of_recipe(wrong), None, "{wrong}");
        }
    }

    /// What was packed is made again only as long as these stay as they are: a library that makes other bytes must not come
    /// in without a way to serve what was packed before.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_compressors_make_what_they_made_before() {
        let made: Vec<String> = [Packing::Gzip(1), Packing::Gzip(6), Packing::Zstd(3)]
            .iter()
            .map(|packing| packing.recipe().unwrap())
            .collect();
        assert_eq!(made, ["gzip-1/cb08e499f574", "gzip-6/e79cd489b872", "zstd-3/7f1c9bc35e65"]);
        if Packing::default() == Packing::Igzip {
            assert_eq!(Packing::Igzip.recipe().unwrap(), "igzip-1/6a5a8a0432b8");
        }
    }

    #[test]
    fn who_packed_a_blob_shows_in_its_beginning() {
        let known = [Packing::Uncompressed, Packing::default(), Packing::Gzip(6), Packing::Zstd(3)];
        for length in [0, 100, PART, 3 * PART + 5] {
            let data = bytes(length);
            let found = |blob: &[u8]| begins(data.as_slice(), &mut { blob }, &known).unwrap();
            for packing in [Packing::default(), Packing::Gzip(6), Packing::Zstd(3)] {
                let found = found(&packed(&data, packing));
                // What is too short for a difference may be anybody's.
                assert!(
                    found == Some(packing) || (length <= 100 && found.is_some()),
                    "{found:?} of {length}"
                );
            }
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            std::io::Write::write_all(&mut encoder, &data).unwrap();
            assert_eq!(found(&encoder.finish().unwrap()), None, "another's, {length}");
            assert_eq!(found(&data), None, "not packed at all");
        }
    }

    #[test]
    fn words_of_the_configuration() {
        assert_eq!(Packing::parse("", None), Ok(Packing::default()));
        assert_eq!(Packing::parse("gzip", Some(1)), Ok(Packing::Gzip(1)));
        assert_eq!(Packing::parse("gzip", Some(9)), Ok(Packing::Gzip(9)));
        assert_eq!(Packing::parse("zstd", None), Ok(Packing::Zstd(3)));
        assert_eq!(Packing::parse("uncompressed", None), Ok(Packing::Uncompressed));
        for (word, level) in [("gzip", 10), ("gzip", -1), ("zstd", 0), ("zstd", 23), ("uncompressed", 1)] {
            let text = Packing::parse(word, Some(level)).unwrap_err();
            assert!(text.contains(&format!("level: {level} ({word} takes")), "{text}");
        }
        assert!(Packing::parse("estargz", None).unwrap_err().contains("\"estargz\" (must be gzip"));
    }
}
