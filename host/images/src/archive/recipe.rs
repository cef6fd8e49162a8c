//! What is needed to put a layer's tar stream together again, byte for byte, from the files that were made of it.
//!
//! A recipe lists, in order, literal bytes (headers, padding) and the files whose content goes between them. It is
//! small, so a layer takes its place on the disk once.
//!
//! Records: `0 len bytes` literal; `1 len size path` content of a file; `2 index size bytes` at the end: the content
//! of that file record, where the file was replaced by a later entry of the same archive. Numbers are 64 bit, little
//! endian. The whole is one zstd stream.

use std::fs::File;
use std::io::{self, Read, Write};

/// Writes a recipe.
pub(crate) struct Recipe {
    out: zstd::stream::write::Encoder<'static, File>,
    pending: Vec<u8>,
    next: u64,
}

const PENDING: usize = 64 << 10;

impl Recipe {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        Ok(Self { out: zstd::stream::write::Encoder::new(file, 1)?, pending: Vec::new(), next: 0 })
    }

    pub(crate) fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PENDING {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.out.write_all(&[0])?;
            self.out.write_all(&(self.pending.len() as u64).to_le_bytes())?;
            self.out.write_all(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    /// Content of so many bytes is to be found at `path`.
    pub(crate) fn content(&mut self, path: &[u8], size: u64) -> io::Result<()> {
        self.flush()?;
        self.out.write_all(&[1])?;
        self.out.write_all(&(path.len() as u64).to_le_bytes())?;
        self.out.write_all(&size.to_le_bytes())?;
        self.out.write_all(path)?;
        self.next += 1;
        Ok(())
    }

    /// Number of the content record written last.
    pub(crate) fn last(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// The content of an earlier record is no longer where it was; here it is.
    pub(crate) fn replaced(&mut self, index: u64, size: u64, content: &mut impl Read) -> io::Result<()> {
        self.flush()?;
        self.out.write_all(&[2])?;
        self.out.write_all(&index.to_le_bytes())?;
        self.out.write_all(&size.to_le_bytes())?;
        if io::copy(&mut content.take(size), &mut self.out)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> io::Result<File> {
        self.flush()?;
        self.out.finish()
    }
}

/// Reads the stream that a recipe describes.
pub(crate) struct Replay<F> {
    recipe: zstd::stream::read::Decoder<'static, io::BufReader<File>>,
    open: F,
    index: u64,
    replaced: Replaced,
    now: Now,
}

enum Now {
    Next,
    Literal(u64),
    Content(File, u64),
    /// From the file of replaced contents: position and what is left.
    Saved(u64, u64),
    End,
}

/// Contents that are no longer where they were: for each content record its place in a file.
#[derive(Default)]
struct Replaced {
    file: Option<File>,
    places: std::collections::HashMap<u64, (u64, u64)>,
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "damaged recipe of a layer")
}

fn word(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// The kind of the next record; none at the end.
fn kind(input: &mut impl Read) -> io::Result<Option<u8>> {
    let mut byte = [0u8; 1];
    Ok(if input.read(&mut byte)? == 0 { None } else { byte.first().copied() })
}

fn path(input: &mut impl Read) -> io::Result<(Vec<u8>, u64)> {
    let length = word(input)?;
    let size = word(input)?;
    if length > 1 << 16 {
        return Err(damaged());
    }
    let mut path = Vec::new();
    input.take(length).read_to_end(&mut path)?;
    Ok((path, size))
}

fn skip(input: &mut impl Read, length: u64) -> io::Result<()> {
    if io::copy(&mut input.take(length), &mut io::sink())? == length { Ok(()) } else { Err(damaged()) }
}

impl<F: FnMut(&[u8]) -> io::Result<File>> Replay<F> {
    /// `open` gives the files that the layer's content is in; `scratch` is an empty file for what was replaced.
    pub(crate) fn new(recipe: File, scratch: impl FnOnce() -> io::Result<File>, open: F) -> io::Result<Self> {
        let replaced = Self::scan(recipe.try_clone()?, scratch)?;
        let mut file = recipe;
        io::Seek::rewind(&mut file)?;
        let recipe = zstd::stream::read::Decoder::new(file)?;
        Ok(Self { recipe, open, index: 0, replaced, now: Now::Next })
    }

    /// Replaced contents stand at the end but are needed before.
    fn scan(mut recipe: File, scratch: impl FnOnce() -> io::Result<File>) -> io::Result<Replaced> {
        io::Seek::rewind(&mut recipe)?;
        let mut input = zstd::stream::read::Decoder::new(recipe)?;
        let mut scratch = Some(scratch);
        let mut replaced = Replaced::default();
        let mut at = 0;
        while let Some(kind) = kind(&mut input)? {
            match kind {
                0 => {
                    let length = word(&mut input)?;
                    skip(&mut input, length)?;
                }
                1 => drop(path(&mut input)?),
                2 => {
                    let (index, size) = (word(&mut input)?, word(&mut input)?);
                    if replaced.file.is_none()
                        && let Some(make) = scratch.take()
                    {
                        replaced.file = Some(make()?);
                    }
                    let Some(file) = &mut replaced.file else { return Err(damaged()) };
                    if io::copy(&mut (&mut input).take(size), file)? != size {
                        return Err(damaged());
                    }
                    replaced.places.insert(index, (at, size));
                    at += size;
                }
                _ => return Err(damaged()),
            }
        }
        Ok(replaced)
    }

    fn next(&mut self) -> io::Result<Now> {
        loop {
            match kind(&mut self.recipe)? {
                None => return Ok(Now::End),
                Some(0) => return Ok(Now::Literal(word(&mut self.recipe)?)),
                Some(1) => {
                    let (path, size) = path(&mut self.recipe)?;
                    let index = self.index;
                    self.index += 1;
                    return match self.replaced.places.get(&index) {
                        Some((at, saved)) if *saved == size => Ok(Now::Saved(*at, size)),
                        Some(_) => Err(damaged()),
                        None => Ok(Now::Content((self.open)(&path)?, size)),
                    };
                }
                Some(2) => {
                    let (_, size) = (word(&mut self.recipe)?, word(&mut self.recipe)?);
                    skip(&mut self.recipe, size)?;
                }
                Some(_) => return Err(damaged()),
            }
        }
    }
}

impl<F: FnMut(&[u8]) -> io::Result<File>> Read for Replay<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = match &self.now {
                Now::End => return Ok(0),
                Now::Next => 0,
                Now::Literal(left) | Now::Content(_, left) | Now::Saved(_, left) => *left,
            };
            if left == 0 {
                self.now = self.next()?;
                continue;
            }
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let Some(part) = buffer.get_mut(..want).filter(|p| !p.is_empty()) else { return Ok(0) };
            let n = match &mut self.now {
                Now::Literal(_) => self.recipe.read(part)?,
                Now::Content(file, _) => file.read(part)?,
                Now::Saved(at, _) => {
                    let Some(file) = &self.replaced.file else { return Err(damaged()) };
                    let n = std::os::unix::fs::FileExt::read_at(file, part, *at)?;
                    *at += n as u64;
                    n
                }
                Now::Next | Now::End => 0,
            };
            if n == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "a file of a layer is shorter than it was",
                ));
            }
            match &mut self.now {
                Now::Literal(left) | Now::Content(_, left) | Now::Saved(_, left) => *left -= n as u64,
                Now::Next | Now::End => {}
            }
            return Ok(n);
        }
    }
}
