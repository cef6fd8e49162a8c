//! Detach keys: their notation, and finding them in what a client types.

use crate::error::{Error, Result};

/// Docker's default: ctrl-p, ctrl-q.
pub const DEFAULT: [u8; 2] = [16, 17];

/// Keys as bytes, in Docker's notation: `ctrl-` and a letter or one of `@[\]^_`, `DEL`, or a single character, separated
/// by commas. The error is the part that is none of these.
pub fn parse(text: &str) -> std::result::Result<Vec<u8>, String> {
    text.split(',')
        .map(|key| match key.as_bytes() {
            [byte] => Ok(*byte),
            b"DEL" => Ok(127),
            [
                b'c',
                b't',
                b'r',
                b'l',
                b'-',
                letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_'),
            ] => Ok(letter.to_ascii_uppercase() - b'@'),
            _ => Err(key.to_owned()),
        })
        .collect()
}

/// The keys of a request; Docker's text when they are wrong. None and the empty text are the default.
pub fn of(text: Option<&str>) -> Result<Vec<u8>> {
    match text {
        None | Some("") => Ok(DEFAULT.to_vec()),
        Some(text) => {
            parse(text).map_err(|_| Error::invalid(format!("Invalid detach keys ({text}) provided")))
        }
    }
}

/// Finds a key sequence in a stream of bytes. Bytes that may be its beginning are held back until it is clear; what
/// was held back and was not the sequence goes on unchanged.
#[derive(Debug, Clone)]
pub struct Scanner {
    keys: Box<[u8]>,
    /// For each matched length the next shorter one that may still match.
    fallback: Box<[usize]>,
    matched: usize,
}

impl Scanner {
    /// For a sequence; an empty one is never found.
    pub fn new(keys: &[u8]) -> Self {
        let mut fallback = vec![0];
        let mut length = 0;
        for byte in keys.iter().skip(1) {
            while length > 0 && keys.get(length) != Some(byte) {
                length = fallback.get(length - 1).copied().unwrap_or(0);
            }
            length += usize::from(keys.get(length) == Some(byte));
            fallback.push(length);
        }
        Self { keys: keys.into(), fallback: fallback.into(), matched: 0 }
    }

    /// Appends what goes to the process. True: the keys were typed; what came after them is not for the process.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(input);
            return false;
        }
        for byte in input {
            while self.matched > 0 && self.keys.get(self.matched) != Some(byte) {
                let shorter = self.fallback.get(self.matched - 1).copied().unwrap_or(0);
                out.extend_from_slice(self.keys.get(..self.matched - shorter).unwrap_or_default());
                self.matched = shorter;
            }
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return true;
                }
            } else {
                out.push(*byte);
            }
        }
        false
    }

    /// The input ended: what is held back.
    pub fn finish(&mut self) -> &[u8] {
        let held = std::mem::take(&mut self.matched);
        self.keys.get(..held).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn notation() {
        assert_eq!(parse("ctrl-p,ctrl-q").unwrap(), DEFAULT);
        assert_eq!(
            parse("a,DEL,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_,Z").unwrap(),
            [b'a', 127, 0, 27, 28, 29, 30, 31, b'Z']
        );
        for bad in ["ctrl-", "ctrl-A", "ctrl-1", "aa", "a,,b", "ctrl-pp", "é", "del"] {
            assert!(parse(bad).is_err(), "{bad}");
            let error = of(Some(bad)).unwrap_err();
            assert_eq!(error.to_string(), format!("Invalid detach keys ({bad}) provided"));
        }
        assert_eq!(of(None).unwrap(), DEFAULT);
        assert_eq!(of(Some("")).unwrap(), DEFAULT);
    }

    proptest! {
        // A small alphabet, so that beginnings, overlaps and whole sequences are common.
        #[test]
        fn scanner_is_a_search(keys in proptest::collection::vec(0u8..3, 0..5),
                               input in proptest::collection::vec(0u8..3, 0..60),
                               cuts in proptest::collection::vec(0usize..60, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let (mut scanner, mut out, mut found) = (Scanner::new(&keys), Vec::new(), false);
            for pair in cuts.windows(2) {
                found = scanner.feed(&input[pair[0]..pair[1]], &mut out);
                if found { break; }
            }
            if !found {
                let held = scanner.finish().to_vec();
                prop_assert!(held.len() < keys.len().max(1));
                out.extend(held);
            }
            let at = (!keys.is_empty()).then(|| input.windows(keys.len()).position(|w| w == keys)).flatten();
            prop_assert_eq!(found, at.is_some());
            prop_assert_eq!(&out[..], &input[..at.unwrap_or(input.len())]);
        }
    }
}
