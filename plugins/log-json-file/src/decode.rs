//! Reading a json-file back.

use wharf_plugin_sdk::codec::{Chunk, Decoded};
use wharf_plugin_sdk::logs::marks;
use wharf_plugin_sdk::types::Cookie;

use crate::time;

/// Reads whole lines; an unfinished one at the end stays for the next call. A line that is no record is passed over,
/// as a file may be damaged in one place.
pub(crate) fn decode(cookie: &Cookie, data: &[u8]) -> Decoded {
    let mut chunk = Chunk {
        cookie: cookie.clone(),
        sequence: 0,
        times: Vec::new(),
        ends: Vec::new(),
        marks: Vec::new(),
        data: Vec::new(),
    };
    let mut consumed = 0;
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        let Some(line_text) = line.strip_suffix(b"\n") else { break };
        consumed += line.len();
        record(&mut chunk, line_text);
    }
    Decoded { chunk, consumed: u32::try_from(consumed).unwrap_or(u32::MAX) }
}

fn record(chunk: &mut Chunk, line: &[u8]) {
    let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(line) else { return };
    let text = |key: &str| object.get(key).and_then(serde_json::Value::as_str);
    let Some(time) = text("time").and_then(time::parse) else { return };
    let log = text("log").unwrap_or_default();
    let mut mark = if text("stream") == Some("stderr") { marks::STDERR } else { 0 };
    let whole = log.strip_suffix('\n');
    if whole.is_none() {
        mark |= marks::PARTIAL;
    }
    chunk.data.extend_from_slice(whole.unwrap_or(log).as_bytes());
    chunk.times.push(time);
    chunk.marks.push(mark);
    chunk.ends.push(u32::try_from(chunk.data.len()).unwrap_or(u32::MAX));
}
