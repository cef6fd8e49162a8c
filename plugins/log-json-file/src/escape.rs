//! JSON strings as Go's encoder of log lines writes them, fast for text that needs no escape.

const HEX: &[u8; 16] = b"0123456789abcdef";

/// How many bytes are looked at in one step: two vector registers.
const STEP: usize = 32;

/// Appends `text` with everything escaped that Docker escapes.
pub(crate) fn append(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    loop {
        let plain = plain_prefix(rest);
        let (head, tail) = rest.split_at(plain);
        out.extend_from_slice(head);
        let Some(first) = tail.first() else { return };
        let used = if *first < 0x80 { escape(out, *first) } else { character(out, tail) };
        rest = tail.get(used..).unwrap_or_default();
    }
}

/// Zero for a byte that can stand for itself: printable ASCII but for the five that Go escapes.
fn special(byte: u8) -> u8 {
    // As a signed number everything from 0x80 is negative, so that one comparison does for both ends.
    u8::from(byte.cast_signed() < 0x20)
        | u8::from(byte == b'"')
        | u8::from(byte == b'\\')
        | u8::from(byte == b'<')
        | u8::from(byte == b'>')
        | u8::from(byte == b'&')
}

/// Length of the longest prefix of plain bytes. Without branches inside a step, so that it becomes vector code.
fn plain_prefix(text: &[u8]) -> usize {
    let (steps, _) = text.as_chunks::<STEP>();
    let mut plain = 0;
    for step in steps {
        if step.iter().fold(0, |any, byte| any | special(*byte)) != 0 {
            break;
        }
        plain += STEP;
    }
    let rest = text.get(plain..).unwrap_or_default();
    plain + rest.iter().position(|byte| special(*byte) != 0).unwrap_or(rest.len())
}

fn escape(out: &mut Vec<u8>, byte: u8) -> usize {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        _ => {
            let digit = |four: u8| HEX.get(usize::from(four)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    1
}

/// One character of more than one byte, or one bad byte.
fn character(out: &mut Vec<u8>, text: &[u8]) -> usize {
    let length = match text.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 0,
    };
    match text.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok()) {
        // JavaScript takes these two for line ends.
        Some("\u{2028}") => out.extend_from_slice(b"\\u2028"),
        Some("\u{2029}") => out.extend_from_slice(b"\\u2029"),
        Some(good) if length > 0 => out.extend_from_slice(good.as_bytes()),
        _ => {
            out.extend_from_slice(b"\\ufffd");
            return 1;
        }
    }
    length
}
