//! The log format `json-file`: byte for byte what Docker writes.
//!
//! `{"log":"text\n","stream":"stdout","attrs":{…},"time":"2024-01-02T03:04:05.000000006Z"}` and a newline per record.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod attributes;
mod decode;
mod escape;
mod time;

use wharf_plugin_sdk::codec::{Chunk, Codec, Decoded, Format, Source};
use wharf_plugin_sdk::logs::marks;
use wharf_plugin_sdk::types::Cookie;
use wharf_plugin_sdk::{Error, Host, Result};

use time::Clock;

/// The codec.
#[derive(Debug, Default)]
pub struct JsonFile;

impl Codec for JsonFile {
    fn open(&self, _host: &dyn Host, source: &Source) -> Result<Format> {
        // The cookie is what stands between the stream and the time in every record.
        let attributes = attributes::of(source)?;
        Ok(Format { extension: "json".to_owned(), cookie: attributes.into_bytes(), max_record: 0 })
    }

    fn encode(&self, _host: &dyn Host, chunks: &[Chunk]) -> Result<Vec<Vec<u8>>> {
        chunks.iter().map(encode).collect()
    }

    fn decode(&self, _host: &dyn Host, cookie: &Cookie, data: &[u8]) -> Result<Decoded> {
        Ok(decode::decode(cookie, data))
    }
}

/// Bytes of a record besides its text and attributes.
const FRAME: usize = 80;

fn encode(chunk: &Chunk) -> Result<Vec<u8>> {
    let count = chunk.ends.len();
    if chunk.times.len() != count || chunk.marks.len() != count {
        return Err(Error::invalid("json-file: the columns of a chunk differ in length"));
    }
    let middle = |stream: &str| {
        let mut text = format!(r#","stream":"{stream}""#).into_bytes();
        if !chunk.cookie.is_empty() {
            text.extend_from_slice(br#","attrs":"#);
            text.extend_from_slice(&chunk.cookie);
        }
        text.extend_from_slice(br#","time":""#);
        text
    };
    let (out, err) = (middle("stdout"), middle("stderr"));
    let per_record = FRAME + chunk.cookie.len();
    let mut file = Vec::with_capacity(chunk.data.len() + chunk.data.len() / 16 + count * per_record);
    let mut clock = Clock::default();
    let mut start = 0;
    for ((end, time), mark) in chunk.ends.iter().zip(&chunk.times).zip(&chunk.marks) {
        let end = usize::try_from(*end).unwrap_or(usize::MAX);
        let Some(record) = chunk.data.get(start..end) else {
            return Err(Error::invalid("json-file: a record lies outside of its chunk"));
        };
        start = end;
        file.extend_from_slice(br#"{"log":""#);
        escape::append(&mut file, record);
        let ends_line = mark & marks::PARTIAL == 0 || mark & marks::LAST_PARTIAL != 0;
        file.extend_from_slice(if ends_line { br#"\n""# } else { br#"""# });
        file.extend_from_slice(if mark & marks::STDERR == 0 { &out } else { &err });
        clock.append(&mut file, *time);
        file.extend_from_slice(b"\"}\n");
    }
    Ok(file)
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(codec: JsonFile);
