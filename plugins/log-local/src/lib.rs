//! The log format `local`: compact binary records.
//!
//! A record is: one byte of marks, the length of the text and the time as LEB128 numbers, the text, and one byte that
//! is the exclusive or of all bytes before it. The time is in nanoseconds since 2020, which saves a byte for ever.
//! Every record stands alone, so that a file can be read from any record on.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::codec::{Chunk, Codec, Decoded, Format, Source};
use wharf_plugin_sdk::logs::marks;
use wharf_plugin_sdk::types::Cookie;
use wharf_plugin_sdk::{Error, Host, Result};

/// 2020-01-01T00:00:00Z. Earlier times wrap around and come back right.
const EPOCH: u64 = 1_577_836_800_000_000_000;

/// Marks that exist; any other bit means damage.
const KNOWN_MARKS: u8 = marks::STDERR | marks::PARTIAL | marks::LAST_PARTIAL | marks::TRUNCATED;

const KNOWN: [&str; 5] = ["max-file", "max-size", "compress", "mode", "max-buffer-size"];

/// The codec.
#[derive(Debug, Default)]
pub struct Local;

impl Codec for Local {
    fn open(&self, _host: &dyn Host, source: &Source) -> Result<Format> {
        if let Some((name, _)) = source.options.iter().find(|(name, _)| !KNOWN.contains(&name.as_str())) {
            return Err(Error::invalid(format!("unknown log opt '{name}' for local log driver")));
        }
        Ok(Format { extension: "log".to_owned(), cookie: Cookie::new(), max_record: 0 })
    }

    fn encode(&self, _host: &dyn Host, chunks: &[Chunk]) -> Result<Vec<Vec<u8>>> {
        chunks.iter().map(encode).collect()
    }

    fn decode(&self, _host: &dyn Host, cookie: &Cookie, data: &[u8]) -> Result<Decoded> {
        let mut chunk = Chunk {
            cookie: cookie.clone(),
            sequence: 0,
            times: Vec::new(),
            ends: Vec::new(),
            marks: Vec::new(),
            data: Vec::with_capacity(data.len()),
        };
        let mut rest = data;
        while let Some(record) = read(rest)? {
            chunk.data.extend_from_slice(record.text);
            chunk.ends.push(u32::try_from(chunk.data.len()).unwrap_or(u32::MAX));
            chunk.times.push(record.time);
            chunk.marks.push(record.mark);
            rest = record.rest;
        }
        let consumed = data.len() - rest.len();
        Ok(Decoded { chunk, consumed: u32::try_from(consumed).unwrap_or(u32::MAX) })
    }
}

fn encode(chunk: &Chunk) -> Result<Vec<u8>> {
    let count = chunk.ends.len();
    if chunk.times.len() != count || chunk.marks.len() != count {
        return Err(Error::invalid("local: the columns of a chunk differ in length"));
    }
    let mut file = Vec::with_capacity(chunk.data.len() + count * 16);
    let mut start = 0;
    for ((end, time), mark) in chunk.ends.iter().zip(&chunk.times).zip(&chunk.marks) {
        let end = usize::try_from(*end).unwrap_or(usize::MAX);
        let Some(text) = chunk.data.get(start..end) else {
            return Err(Error::invalid("local: a record lies outside of its chunk"));
        };
        start = end;
        let head = file.len();
        file.push(mark & KNOWN_MARKS);
        number(&mut file, u64::try_from(text.len()).unwrap_or(u64::MAX));
        number(&mut file, time.wrapping_sub(EPOCH));
        file.extend_from_slice(text);
        let sum = checksum(file.get(head..).unwrap_or_default());
        file.push(sum);
    }
    Ok(file)
}

struct Record<'a> {
    mark: u8,
    time: u64,
    text: &'a [u8],
    rest: &'a [u8],
}

/// The next record, if all of it is there.
fn read(data: &[u8]) -> Result<Option<Record<'_>>> {
    let damaged = || Error::internal("local: the log file is damaged");
    let Some((mark, rest)) = data.split_first() else { return Ok(None) };
    if mark & !KNOWN_MARKS != 0 {
        return Err(damaged());
    }
    let Some((length, rest)) = take_number(rest).map_err(|()| damaged())? else { return Ok(None) };
    let Some((time, rest)) = take_number(rest).map_err(|()| damaged())? else { return Ok(None) };
    let length = usize::try_from(length).map_err(|_| damaged())?;
    let Some((text, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let Some((sum, rest)) = rest.split_first() else { return Ok(None) };
    let whole = data.get(..data.len() - rest.len() - 1).unwrap_or_default();
    if checksum(whole) != *sum {
        return Err(damaged());
    }
    Ok(Some(Record { mark: *mark, time: time.wrapping_add(EPOCH), text, rest }))
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0x5a, |sum, byte| sum ^ byte)
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// A number and what follows; nothing if it is not all there, an error if it is none.
fn take_number(bytes: &[u8]) -> std::result::Result<Option<(u64, &[u8])>, ()> {
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        let part = u64::from(byte & 0x7f);
        let shift = u32::try_from(index).unwrap_or(0) * 7;
        if shift == 63 && part > 1 {
            return Err(());
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(Some((value, bytes.get(index + 1..).unwrap_or_default())));
        }
    }
    if bytes.len() >= 10 { Err(()) } else { Ok(None) }
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(codec: Local);
