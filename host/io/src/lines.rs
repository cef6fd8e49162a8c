//! Bytes of streams into lines, as Docker's log drivers see them.

use std::ops::ControlFlow;

use crate::spool::Stream;

/// A line longer than this is given in parts of this size.
pub(crate) const PART: usize = 16 << 10;

/// A line, or a part of a long one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) stream: Stream,
    /// When it was complete; all parts of a line have the time of the first part.
    pub(crate) time: u64,
    /// Without the newline.
    pub(crate) bytes: &'a [u8],
    /// The first or only part.
    pub(crate) first: bool,
    /// Ends with a newline.
    pub(crate) ended: bool,
    /// Position of the byte after it.
    pub(crate) end: u64,
}

#[derive(Debug, Default, Clone)]
struct Pending {
    /// Bytes of an unfinished line, fewer than `PART`.
    bytes: Vec<u8>,
    /// Time of the first part, if one was given already.
    time: Option<u64>,
    /// Time of the last bytes.
    last: u64,
    /// Position of the byte after the pending ones.
    end: u64,
}

/// Both streams' unfinished lines.
#[derive(Debug, Default, Clone)]
pub(crate) struct Splitter {
    pending: [Pending; 2],
}

impl Splitter {
    /// Gives the lines that are complete with these bytes. `position` is the first byte's.
    pub(crate) fn feed(
        &mut self,
        stream: Stream,
        time: u64,
        position: u64,
        bytes: &[u8],
        mut line: impl FnMut(Line<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(pending) = self.pending.get_mut(stream.slot()) else { return ControlFlow::Continue(()) };
        let mut rest = bytes;
        let end_of_all = position + bytes.len() as u64;
        let end = |rest: &[u8]| end_of_all - rest.len() as u64;
        while !rest.is_empty() {
            let room = PART - pending.bytes.len();
            let (head, tail) = rest.split_at(room.min(rest.len()));
            let (part, ended, after) = match memchr::memchr(b'\n', head) {
                Some(at) => {
                    let (part, after) = rest.split_at(at);
                    (part, true, after.get(1..).unwrap_or_default())
                }
                None if head.len() == room => (head, false, tail),
                None => {
                    pending.bytes.extend_from_slice(head);
                    pending.last = time;
                    pending.end = end_of_all;
                    break;
                }
            };
            let first = pending.time.is_none();
            let at = pending.time.unwrap_or(time);
            rest = after;
            let whole = if pending.bytes.is_empty() {
                part
            } else {
                pending.bytes.extend_from_slice(part);
                &pending.bytes
            };
            let flow = line(Line { stream, time: at, bytes: whole, first, ended, end: end(rest) });
            pending.bytes.clear();
            pending.time = if ended { None } else { Some(at) };
            if pending.bytes.capacity() > 256 && rest.len() > PART {
                pending.bytes = Vec::new();
            }
            flow?;
        }
        ControlFlow::Continue(())
    }

    /// At the end of the streams: what is left of lines without newline.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(Line<'_>)) {
        for (pending, stream) in self.pending.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            if !pending.bytes.is_empty() {
                line(Line {
                    stream,
                    time: pending.time.unwrap_or(pending.last),
                    bytes: &pending.bytes,
                    first: pending.time.is_none(),
                    ended: false,
                    end: pending.end,
                });
            }
            *pending = Pending::default();
        }
    }

    /// Whether the stream is in the middle of a line of which a part was given, and the line's time.
    pub(crate) fn long(&self, stream: Stream) -> Option<u64> {
        self.pending.get(stream.slot()).and_then(|pending| pending.time)
    }

    /// Goes on in the middle of a long line.
    pub(crate) fn resume(&mut self, stream: Stream, time: Option<u64>) {
        if let Some(pending) = self.pending.get_mut(stream.slot()) {
            pending.time = time;
        }
    }

    /// Forgets unfinished lines: bytes between are lost.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.iter().any(|pending| !pending.bytes.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn collect(chunks: &[(Stream, &[u8])]) -> Vec<(Stream, Vec<u8>, bool, bool, u64)> {
        let (mut out, mut position) = (Vec::new(), 0);
        let mut splitter = Splitter::default();
        for (time, (stream, bytes)) in chunks.iter().enumerate() {
            let _ = splitter.feed(*stream, time as u64, position, bytes, |line| {
                out.push((line.stream, line.bytes.to_vec(), line.first, line.ended, line.time));
                ControlFlow::Continue(())
            });
            position += bytes.len() as u64;
        }
        splitter
            .finish(|line| out.push((line.stream, line.bytes.to_vec(), line.first, line.ended, line.time)));
        out
    }

    #[test]
    fn lines_of_two_streams_do_not_mix() {
        use Stream::{Stderr, Stdout};
        let lines = collect(&[(Stdout, b"a"), (Stderr, b"x\ny"), (Stdout, b"b\n\nc"), (Stderr, b"\n")]);
        let expected = [
            (Stderr, b"x".to_vec(), true, true, 1),
            (Stdout, b"ab".to_vec(), true, true, 2),
            (Stdout, b"".to_vec(), true, true, 2),
            (Stderr, b"y".to_vec(), true, true, 3),
            (Stdout, b"c".to_vec(), true, false, 2),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn long_lines_come_in_parts_with_the_first_parts_time() {
        let long = vec![b'l'; PART + 5];
        let lines = collect(&[(Stream::Stdout, &long), (Stream::Stdout, b"\nz\n")]);
        let shape: Vec<_> = lines.iter().map(|l| (l.1.len(), l.2, l.3, l.4)).collect();
        assert_eq!(shape, [(PART, true, false, 0), (5, false, true, 0), (1, true, true, 1)]);
        let exact = vec![b'l'; PART];
        let lines = collect(&[(Stream::Stdout, &exact), (Stream::Stdout, b"\n")]);
        let shape: Vec<_> = lines.iter().map(|l| (l.1.len(), l.2, l.3)).collect();
        assert_eq!(shape, [(PART, true, false), (0, false, true)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_it_is_cut(text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40_000),
                                             cuts in proptest::collection::vec(0usize..40_000, 0..20)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<_> = cuts.windows(2).map(|w| (Stream::Stderr, &text[w[0]..w[1]])).collect();
            let mut joined = Vec::new();
            for (_, bytes, _, ended, _) in collect(&chunks) {
                prop_assert!(bytes.len() <= PART);
                joined.extend_from_slice(&bytes);
                if ended { joined.push(b'\n'); }
            }
            prop_assert_eq!(joined, text);
        }
    }
}
