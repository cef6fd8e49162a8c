//! A reader of tar streams that trusts nothing in them.
//!
//! Understands what image builders write: old, ustar, GNU (long names, sparse files, large numbers) and pax. Everything
//! that a header may make this process keep in memory is bounded.

use std::io::{self, Read};

use super::recipe::Recipe;

const BLOCK: usize = 512;
/// Bytes of a path or of a link's target.
pub const MAX_PATH: usize = 4095;
/// Bytes of one extended header.
const MAX_EXTENDED: u64 = 1 << 20;
/// Bytes of one extended attribute: the kernel takes no more.
const MAX_XATTR: usize = 65_536;
/// Pieces of one sparse file.
const MAX_PIECES: usize = 65_536;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Another name of an earlier file.
    HardLink,
    /// Symbolic link.
    Symlink,
    /// Character device.
    Character,
    /// Block device.
    Block,
    /// Directory.
    Directory,
    /// Named pipe.
    Fifo,
    /// Anything else; has no effect.
    Other(u8),
}

/// One entry of a tar stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name as it stands there.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content, holes included.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds.
    pub mtime_nsec: u32,
    /// Device numbers.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored bytes of a sparse file belong: offset and length, in order.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// Values of pax headers.
#[derive(Debug, Clone, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_version: Option<(u64, u64)>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_map: Vec<u64>,
}

/// Reads entries one after the other; the content of the current one is read from the reader itself.
pub struct Reader<'a, R> {
    input: R,
    /// Stored bytes of the current entry not yet read, and the padding after them.
    left: u64,
    padding: u64,
    globals: Pax,
    ended: bool,
    /// An archive may end without its end marker, between two entries.
    open_end: bool,
    /// Gets every byte that is not the content of a file, so that the stream can be put together again.
    recipe: Option<&'a mut Recipe>,
    /// The rest of this entry's content belongs to the recipe too.
    literal: bool,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged tar archive: {what}"))
}

fn truncated(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::UnexpectedEof {
        io::Error::new(io::ErrorKind::UnexpectedEof, "tar archive ends in the middle: unexpected EOF")
    } else {
        e
    }
}

impl<'a, R: Read> Reader<'a, R> {
    /// Starts reading.
    pub fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
            globals: Pax::default(),
            ended: false,
            open_end: false,
            recipe: None,
            literal: true,
        }
    }

    pub(crate) fn with_recipe(input: R, recipe: Option<&'a mut Recipe>) -> Self {
        Self { recipe, ..Self::new(input) }
    }

    /// Also takes an archive that ends without its end marker, as many programs write them.
    pub fn with_open_end(input: R) -> Self {
        Self { open_end: true, ..Self::new(input) }
    }

    fn note(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.recipe {
            Some(recipe) => recipe.literal(bytes),
            None => Ok(()),
        }
    }

    /// The recipe being written, if any.
    pub(crate) fn recipe(&mut self) -> Option<&mut Recipe> {
        self.recipe.as_deref_mut()
    }

    /// Leaves the current entry's content out of the recipe: it can be read back from `path`.
    pub(crate) fn content_is_at(&mut self, path: &[u8]) -> io::Result<()> {
        if let Some(recipe) = &mut self.recipe {
            recipe.content(path, self.left)?;
            self.literal = false;
        }
        Ok(())
    }

    fn block(&mut self) -> io::Result<[u8; BLOCK]> {
        let mut block = [0u8; BLOCK];
        self.input.read_exact(&mut block).map_err(truncated)?;
        self.note(&block)?;
        Ok(block)
    }

    /// Skips what is left of the current entry.
    fn skip(&mut self) -> io::Result<()> {
        let mut buffer = [0u8; 8192];
        while self.left > 0 {
            if self.read(&mut buffer)? == 0 {
                return Err(truncated(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let padding = usize::try_from(self.padding).unwrap_or(0);
        self.padding = 0;
        if let Some(pad) = buffer.get_mut(..padding) {
            self.input.read_exact(pad).map_err(truncated)?;
            if let Some(recipe) = &mut self.recipe {
                recipe.literal(pad)?;
            }
        }
        self.literal = true;
        Ok(())
    }

    fn content(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// All of the current entry's content, as it is needed to understand the next header.
    fn extended(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENDED {
            return Err(damaged("an extended header is too long"));
        }
        self.content(size);
        let mut data = Vec::new();
        self.by_ref().take(size).read_to_end(&mut data)?;
        if data.len() as u64 != size {
            return Err(truncated(io::ErrorKind::UnexpectedEof.into()));
        }
        self.skip()?;
        Ok(data)
    }

    /// The next entry; none at the end of the archive.
    pub fn next_entry(&mut self) -> io::Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        self.skip()?;
        let mut local = Pax::default();
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        // Extended headers in a row describe one entry; a chain of them is no reason to go on for ever.
        for n in 0..16 {
            let block = match self.block() {
                // Less than a block that nothing came before: there is no further entry.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && self.open_end && n == 0 => {
                    self.ended = true;
                    return Ok(None);
                }
                other => other?,
            };
            if block.iter().all(|b| *b == 0) {
                self.ended = true;
                return Ok(None);
            }
            check(&block)?;
            let raw = |from: usize, len: usize| block.get(from..from + len).unwrap_or_default();
            // Others read a negative size as they like; what means two things is refused.
            if raw(124, 1).first().is_some_and(|first| first & 0xc0 == 0xc0) {
                return Err(damaged("a negative size"));
            }
            let size = number(raw(124, 12))?;
            match raw(156, 1) {
                b"L" => long_name = Some(cut(&self.extended(size)?)),
                b"K" => long_link = Some(cut(&self.extended(size)?)),
                b"x" => {
                    let data = self.extended(size)?;
                    local = pax(&data)?;
                }
                b"g" => {
                    let data = self.extended(size)?;
                    self.globals = pax(&data)?;
                }
                kind => {
                    let kind = kind.first().copied().unwrap_or(0);
                    return self.entry(&block, kind, size, &local, long_name, long_link).map(Some);
                }
            }
        }
        Err(damaged("too many extended headers in a row"))
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        flag: u8,
        size: u64,
        local: &Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Header> {
        let raw = |from: usize, len: usize| block.get(from..from + len).unwrap_or_default();
        let globals = self.globals.clone();
        let size = local.size.or(globals.size).unwrap_or(size);
        let mut path = cut(raw(0, 100));
        if raw(257, 6) == b"ustar\0" && !cut(raw(345, 155)).is_empty() {
            let mut full = cut(raw(345, 155));
            full.push(b'/');
            full.append(&mut path);
            path = full;
        }
        let path = local.path.clone().or(long_name).or(globals.path).unwrap_or(path);
        let link = local.link.clone().or(long_link).or(globals.link).unwrap_or_else(|| cut(raw(157, 100)));
        let mut kind = match flag {
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        // Before there was a type for directories, a slash at the end was one.
        if flag == 0 && path.ends_with(b"/") {
            kind = Kind::Directory;
        }
        let id = |text: &[u8], pax: Option<u64>| -> io::Result<u32> {
            u32::try_from(pax.map_or_else(|| number(text), Ok)?)
                .map_err(|_| damaged("an owner is out of range"))
        };
        let (mtime, mtime_nsec) = match local.mtime.or(globals.mtime) {
            Some(time) => time,
            None => (i64::try_from(number(raw(136, 12))?).unwrap_or(0), 0),
        };
        let device = match kind {
            Kind::Character | Kind::Block => (device(raw(329, 8))?, device(raw(337, 8))?),
            _ => (0, 0),
        };
        let mut header = Header {
            path,
            link,
            kind,
            mode: u32::try_from(number(raw(100, 8))? & 0o7777).unwrap_or(0),
            uid: id(raw(108, 8), local.uid.or(globals.uid))?,
            gid: id(raw(116, 8), local.gid.or(globals.gid))?,
            size,
            mtime,
            mtime_nsec,
            device,
            xattrs: if local.xattrs.is_empty() { globals.xattrs } else { local.xattrs.clone() },
            sparse: None,
        };
        // Links and such have no content, whatever the size says (old archives repeat the file's there).
        let stored = if matches!(kind, Kind::File | Kind::Other(_)) { size } else { 0 };
        self.content(stored);
        if flag == b'S' {
            self.old_sparse(block, &mut header)?;
        } else if kind == Kind::File && (local.sparse_version.is_some() || !local.sparse_map.is_empty()) {
            self.pax_sparse(local, &mut header)?;
        }
        if let Some(name) = &local.sparse_name
            && header.sparse.is_some()
        {
            header.path.clone_from(name);
        }
        if header.path.len() > MAX_PATH || header.link.len() > MAX_PATH {
            return Err(damaged("a path is too long"));
        }
        if header.path.contains(&0) || header.link.contains(&0) {
            return Err(damaged("a path contains a NUL"));
        }
        if let Some(pieces) = &header.sparse {
            check_pieces(pieces, header.size, self.left)?;
        } else {
            header.size = if kind == Kind::File { size } else { 0 };
        }
        Ok(header)
    }

    /// GNU's own way: four pieces in the header, more in blocks after it.
    fn old_sparse(&mut self, block: &[u8; BLOCK], header: &mut Header) -> io::Result<()> {
        let stored = self.left;
        let mut pieces = Vec::new();
        take_pieces(block.get(386..482).unwrap_or_default(), &mut pieces)?;
        let mut more = block.get(482).copied().unwrap_or(0) != 0;
        while more {
            let block = self.block()?;
            take_pieces(block.get(..504).unwrap_or_default(), &mut pieces)?;
            more = block.get(504).copied().unwrap_or(0) != 0;
            if pieces.len() > MAX_PIECES {
                return Err(damaged("too many pieces of a sparse file"));
            }
        }
        header.size = number(block.get(483..495).unwrap_or_default())?;
        header.sparse = Some(pieces);
        self.content(stored);
        Ok(())
    }

    fn pax_sparse(&mut self, pax: &Pax, header: &mut Header) -> io::Result<()> {
        let mut pieces = Vec::new();
        if pax.sparse_version == Some((1, 0)) {
            // The map stands in front of the content: a count, then offset and length, each on a line of its own.
            let mut blocks = Vec::new();
            let mut numbers: Vec<u64> = Vec::new();
            let mut parsed = 0;
            let mut want = 1usize;
            while numbers.len() < want {
                let mut block = [0u8; BLOCK];
                self.read_exact(&mut block).map_err(truncated)?;
                blocks.extend_from_slice(&block);
                while let Some(end) =
                    blocks.get(parsed..).and_then(|rest| rest.iter().position(|b| *b == b'\n'))
                {
                    if numbers.len() == want {
                        break;
                    }
                    let line = blocks.get(parsed..parsed + end).unwrap_or_default();
                    numbers.push(decimal(line).ok_or_else(|| damaged("bad map of a sparse file"))?);
                    parsed += end + 1;
                    if let ([count], 1) = (numbers.as_slice(), want) {
                        let count = usize::try_from(*count).unwrap_or(usize::MAX);
                        if count > MAX_PIECES {
                            return Err(damaged("too many pieces of a sparse file"));
                        }
                        want = 1 + 2 * count;
                    }
                }
            }
            pieces.extend(numbers.get(1..).unwrap_or_default().chunks_exact(2).filter_map(|c| match c {
                [offset, length] => Some((*offset, *length)),
                _ => None,
            }));
        } else {
            pieces.extend(pax.sparse_map.chunks_exact(2).filter_map(|c| match c {
                [offset, length] => Some((*offset, *length)),
                _ => None,
            }));
        }
        header.size = pax.sparse_size.ok_or_else(|| damaged("a sparse file without its size"))?;
        header.sparse = Some(pieces);
        Ok(())
    }

    /// Reads what follows the end marker, so that a hash over the input covers all of it. Answers the bytes.
    pub fn drain(&mut self, limit: u64) -> io::Result<u64> {
        let mut buffer = [0u8; 8192];
        let mut total = 0;
        loop {
            let n = self.input.read(&mut buffer)?;
            if n == 0 {
                return Ok(total);
            }
            total += n as u64;
            if total > limit {
                return Err(damaged("too much after its end"));
            }
            let chunk = buffer.get(..n).unwrap_or_default();
            if let Some(recipe) = &mut self.recipe {
                recipe.literal(chunk)?;
            }
        }
    }

    /// Stored bytes of the current entry that are left to read.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl<R: Read> Read for Reader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(part) = buffer.get_mut(..want) else { return Ok(0) };
        if part.is_empty() {
            return Ok(0);
        }
        let n = self.input.read(part)?;
        if n == 0 {
            return Err(truncated(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= n as u64;
        if self.literal {
            let done = part.get(..n).unwrap_or_default();
            if let Some(recipe) = &mut self.recipe {
                recipe.literal(done)?;
            }
        }
        Ok(n)
    }
}

/// Up to the first NUL.
fn cut(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

/// Verifies the header's checksum; old programs summed signed bytes.
fn check(block: &[u8; BLOCK]) -> io::Result<()> {
    let stated = number(block.get(148..156).unwrap_or_default())?;
    let mut unsigned = 0u64;
    let mut signed = 0i64;
    for (index, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { *byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if stated == unsigned || i64::try_from(stated) == Ok(signed) {
        Ok(())
    } else {
        Err(damaged("invalid tar header"))
    }
}

/// Whether a block looks like the start of a tar stream: a header, or the end marker of an empty one.
pub(crate) fn is_start(block: &[u8]) -> bool {
    match <&[u8; BLOCK]>::try_from(block) {
        Ok(block) => block.iter().all(|b| *b == 0) || check(block).is_ok(),
        Err(_) => false,
    }
}

/// Octal text, or base 256 for what octal cannot say. Negative numbers become 0, as only times may be.
fn number(field: &[u8]) -> io::Result<u64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            if first & 0x40 != 0 {
                return Ok(0);
            }
            let mut value = u64::from(first & 0x3f);
            for byte in field.get(1..).unwrap_or_default() {
                if value >> 56 != 0 {
                    return Err(damaged("a number is out of range"));
                }
                value = value << 8 | u64::from(*byte);
            }
            Ok(value)
        }
        _ => {
            let mut value = 0u64;
            let mut seen = false;
            for byte in field {
                match byte {
                    b'0'..=b'7' => {
                        if value >> 60 != 0 {
                            return Err(damaged("a number is out of range"));
                        }
                        value = value << 3 | u64::from(byte - b'0');
                        seen = true;
                    }
                    b' ' | 0 if seen => break,
                    b' ' | 0 => {}
                    _ => return Err(damaged("bad number in a header")),
                }
            }
            Ok(value)
        }
    }
}

fn device(field: &[u8]) -> io::Result<u32> {
    u32::try_from(number(field)?).map_err(|_| damaged("a device number is out of range"))
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// `1350244992.023960108`, maybe negative.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let mut nanoseconds = 0u32;
    for position in 0..9 {
        let digit =
            fraction.as_bytes().get(position).map_or(Some(0), |b| b.is_ascii_digit().then(|| b - b'0'))?;
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

/// Records of `length key=value\n`.
fn pax(mut data: &[u8]) -> io::Result<Pax> {
    let bad = || damaged("bad pax header");
    let mut pax = Pax::default();
    while !data.is_empty() && data.first() != Some(&0) {
        let space = data.iter().take(20).position(|b| *b == b' ').ok_or_else(bad)?;
        let length = data.get(..space).and_then(decimal).ok_or_else(bad)?;
        let length = usize::try_from(length).map_err(|_| bad())?;
        let record = data.get(space + 1..length).ok_or_else(bad)?;
        let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
        data = data.get(length..).unwrap_or_default();
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let key = record.get(..equals).unwrap_or_default();
        let value = record.get(equals + 1..).unwrap_or_default();
        match key {
            b"path" => pax.path = Some(value.to_vec()),
            b"linkpath" => pax.link = Some(value.to_vec()),
            b"size" => pax.size = Some(decimal(value).ok_or_else(bad)?),
            b"uid" => pax.uid = Some(decimal(value).ok_or_else(bad)?),
            b"gid" => pax.gid = Some(decimal(value).ok_or_else(bad)?),
            b"mtime" => pax.mtime = Some(time(value).ok_or_else(bad)?),
            b"GNU.sparse.major" => {
                pax.sparse_version =
                    Some((decimal(value).ok_or_else(bad)?, pax.sparse_version.map_or(0, |v| v.1)));
            }
            b"GNU.sparse.minor" => {
                pax.sparse_version =
                    Some((pax.sparse_version.map_or(0, |v| v.0), decimal(value).ok_or_else(bad)?));
            }
            b"GNU.sparse.name" => pax.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                pax.sparse_size = Some(decimal(value).ok_or_else(bad)?);
            }
            b"GNU.sparse.map" => {
                for number in value.split(|b| *b == b',').filter(|n| !n.is_empty()) {
                    pax.sparse_map.push(decimal(number).ok_or_else(bad)?);
                }
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                pax.sparse_map.push(decimal(value).ok_or_else(bad)?);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) || name.len() > 255 {
                        return Err(bad());
                    }
                    if value.len() > MAX_XATTR {
                        return Err(damaged("an extended attribute is too long"));
                    }
                    pax.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        if pax.sparse_map.len() > 2 * MAX_PIECES {
            return Err(damaged("too many pieces of a sparse file"));
        }
    }
    Ok(pax)
}

fn take_pieces(field: &[u8], pieces: &mut Vec<(u64, u64)>) -> io::Result<()> {
    for piece in field.chunks_exact(24) {
        let (offset, length) = piece.split_at(12);
        if offset.first() == Some(&0) {
            break;
        }
        pieces.push((number(offset)?, number(length)?));
    }
    Ok(())
}

/// Pieces must come in order, stay inside the file, and be exactly what is stored.
fn check_pieces(pieces: &[(u64, u64)], size: u64, stored: u64) -> io::Result<()> {
    let bad = || damaged("the pieces of a sparse file do not fit");
    let (mut end, mut sum) = (0u64, 0u64);
    for (offset, length) in pieces {
        if *offset < end {
            return Err(bad());
        }
        end = offset.checked_add(*length).ok_or_else(bad)?;
        sum = sum.checked_add(*length).ok_or_else(bad)?;
    }
    if end > size || sum != stored { Err(bad()) } else { Ok(()) }
}
