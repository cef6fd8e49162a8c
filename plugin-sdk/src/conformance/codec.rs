//! The suite for log formats.

use super::Subject;
use crate::Result;
use crate::codec::{Chunk, Codec, Decoded, Format};
use crate::logs::{Source, marks};
use crate::types::{Code, ContainerRef};

/// Runs the suite. It panics at the first thing that is not as it must be.
pub fn codec(subject: &Subject<dyn Codec>) {
    let suite = Suite { subject };
    let format = suite.open(&[]).expect("open without options");
    let error = suite.open(&[("no-such-option", "1")]).expect_err("an option that the driver does not know");
    assert_eq!(error.code, Code::Invalid, "{error}");
    suite.columns_that_differ(&format);
    if format.extension.is_empty() {
        // A format that keeps nothing.
        let encoded = suite.encode(&[chunk(&format, &[("x", 1, 0)])]).expect("encode");
        assert_eq!(encoded, [Vec::<u8>::new()]);
        return;
    }
    assert!(format.extension.bytes().all(|byte| byte.is_ascii_alphanumeric()), "an extension without a dot");
    suite.comes_back(&format);
    suite.any_part(&format);
    suite.order(&format);
    suite.damage(&format);
    suite.much(&format);
}

/// A log line: text, time, marks.
type Line<'a> = (&'a str, u64, u8);

const LINES: [Line<'_>; 12] = [
    ("hello", 1_704_067_200_000_000_000, 0),
    ("", 1_704_067_200_000_000_001, 0),
    ("on the other side", 1_704_067_200_100_000_000, marks::STDERR),
    ("quotes \" and \\ and <tags> & \u{7f}", 1_704_067_201_000_000_000, 0),
    ("tab\there, nul\0here, bell\u{7}, return\r", 1_704_067_201_000_000_000, 0),
    ("umlauts äöü, 日本語, emoji 🦀, separators \u{2028}\u{2029}", 1_704_067_201_999_999_999, 0),
    ("a piece ", 1_704_067_202_000_000_000, marks::PARTIAL),
    ("another ", 1_704_067_202_000_000_000, marks::PARTIAL),
    ("the end", 1_704_067_202_000_000_000, marks::PARTIAL | marks::LAST_PARTIAL),
    ("{\"log\":\"a json line\",\"stream\":\"stdout\"}", 1_709_164_800_000_000_000, marks::STDERR),
    ("exactly thirty-two bytes of text", 1_735_689_599_999_999_999, 0),
    ("1970", 5, 0),
];

struct Suite<'a> {
    subject: &'a Subject<dyn Codec>,
}

impl Suite<'_> {
    fn open(&self, options: &[(&str, &str)]) -> Result<Format> {
        let source = Source {
            container: ContainerRef {
                id: "0123456789abcdef".to_owned(),
                name: "name".to_owned(),
                hostname: "host".to_owned(),
                image: "busybox".to_owned(),
                image_digest: None,
                labels: Vec::new(),
                group: None,
            },
            options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            command: vec!["true".to_owned()],
            environment: Vec::new(),
            created: 1_704_067_200_000_000_000,
            daemon: "wharf".to_owned(),
        };
        self.subject.plan(|codec, host| codec.open(host, &source))
    }

    fn encode(&self, chunks: &[Chunk]) -> Result<Vec<Vec<u8>>> {
        self.subject.plan(|codec, host| codec.encode(host, chunks))
    }

    fn decode(&self, format: &Format, data: &[u8]) -> Result<Decoded> {
        self.subject.plan(|codec, host| codec.decode(host, &format.cookie, data))
    }

    fn comes_back(&self, format: &Format) {
        let file = self.encode(&[chunk(format, &LINES)]).expect("encode").concat();
        let decoded = self.decode(format, &file).expect("decode");
        assert_eq!(decoded.consumed as usize, file.len(), "all of a whole file is consumed");
        assert_eq!(texts(&decoded.chunk), texts(&chunk(format, &LINES)), "text comes back");
        assert_eq!(decoded.chunk.times, LINES.map(|line| line.1), "times come back");
        let ends = |marks: u8| marks & marks::PARTIAL == 0 || marks & marks::LAST_PARTIAL != 0;
        for (mark, line) in decoded.chunk.marks.iter().zip(LINES) {
            assert_eq!(mark & marks::STDERR, line.2 & marks::STDERR, "the stream of {:?}", line.0);
            assert_eq!(ends(*mark), ends(line.2), "the line end of {:?}", line.0);
        }
        // What is not text is kept as far as the format can, and never stops it.
        let mut binary = chunk(format, &[("", 7, 0)]);
        binary.data = (0..=255).collect();
        binary.ends = vec![256];
        let file = self.encode(&[binary]).expect("encode of any bytes").concat();
        let decoded = self.decode(format, &file).expect("decode");
        assert_eq!((decoded.chunk.ends.len(), decoded.consumed as usize), (1, file.len()));
        let empty = self.decode(format, &[]).expect("decode of nothing");
        assert_eq!((empty.chunk.ends.len(), empty.consumed), (0, 0));
    }

    /// However a file is cut up, what is consumed are whole records, and going on there loses nothing.
    fn any_part(&self, format: &Format) {
        let file = self.encode(&[chunk(format, &LINES)]).expect("encode").concat();
        for cut in 0..file.len() {
            let first = self.decode(format, &file[..cut]).expect("decode of a part");
            let at = first.consumed as usize;
            assert!(at <= cut, "more consumed than given");
            if cut % 7 != 0 {
                continue;
            }
            let second = self.decode(format, &file[at..]).expect("decode of the rest");
            assert_eq!(at + second.consumed as usize, file.len());
            let mut all = texts(&first.chunk);
            all.extend(texts(&second.chunk));
            assert_eq!(all, texts(&chunk(format, &LINES)), "cut at {cut}");
        }
    }

    fn order(&self, format: &Format) {
        let chunks: Vec<Chunk> = LINES.iter().map(|line| chunk(format, &[*line])).collect();
        let one_by_one = self.encode(&chunks).expect("encode");
        assert_eq!(one_by_one.len(), chunks.len(), "one buffer per chunk");
        let at_once = self.encode(&[chunk(format, &LINES)]).expect("encode");
        assert_eq!(one_by_one.concat(), at_once.concat(), "a file does not show how it was batched");
        assert_eq!(self.encode(&[]).expect("encode of nothing").len(), 0);
    }

    fn columns_that_differ(&self, format: &Format) {
        if format.extension.is_empty() {
            return;
        }
        let good = chunk(format, &LINES);
        let changes: [&dyn Fn(&mut Chunk); 4] = [
            &|chunk| chunk.times.truncate(3),
            &|chunk| chunk.marks.truncate(3),
            &|chunk| chunk.data.truncate(3),
            &|chunk| chunk.ends[1] = 1,
        ];
        for change in changes {
            let mut bad = good.clone();
            change(&mut bad);
            let error = self.encode(&[bad]).expect_err("columns that do not fit");
            assert_eq!(error.code, Code::Invalid, "{error}");
        }
    }

    fn damage(&self, format: &Format) {
        let file = self.encode(&[chunk(format, &LINES)]).expect("encode").concat();
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 0x81;
            // It may say so or pass over it; it must come to an end.
            if let Ok(decoded) = self.decode(format, &bad) {
                assert!(decoded.consumed as usize <= bad.len());
                assert!(decoded.chunk.ends.len() <= LINES.len() + 1, "damage makes records");
            }
        }
    }

    fn much(&self, format: &Format) {
        let line = "x".repeat(100);
        let lines: Vec<Line<'_>> = (0..2000).map(|n| (line.as_str(), n, 0)).collect();
        let file = self.encode(&[chunk(format, &lines)]).expect("encode").concat();
        let decoded = self.decode(format, &file).expect("decode");
        assert_eq!(decoded.chunk.ends.len(), 2000);
        let long = "y".repeat(1 << 20);
        let file = self.encode(&[chunk(format, &[(&long, 1, 0)])]).expect("encode of a long line").concat();
        let decoded = self.decode(format, &file).expect("decode of a long line");
        assert_eq!(texts(&decoded.chunk), [long.into_bytes()]);
    }
}

fn chunk(format: &Format, lines: &[Line<'_>]) -> Chunk {
    let mut chunk = Chunk {
        cookie: format.cookie.clone(),
        sequence: 0,
        times: Vec::new(),
        ends: Vec::new(),
        marks: Vec::new(),
        data: Vec::new(),
    };
    for (text, time, mark) in lines {
        chunk.data.extend_from_slice(text.as_bytes());
        chunk.ends.push(u32::try_from(chunk.data.len()).expect("a small chunk"));
        chunk.times.push(*time);
        chunk.marks.push(*mark);
    }
    chunk
}

fn texts(chunk: &Chunk) -> Vec<Vec<u8>> {
    let starts = std::iter::once(0).chain(chunk.ends.iter().copied());
    starts.zip(&chunk.ends).map(|(start, end)| chunk.data[start as usize..*end as usize].to_vec()).collect()
}
