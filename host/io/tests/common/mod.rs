//! A container without a container: pipes, and a codec without a plugin.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use wharf_io::{
    ChildStdio, Codec, CodecError, CodecFuture, Codecs, ContainerIo, Output, StreamSpec, Streams,
};
use wharf_plan::logs::{Chunk, Format, Source};
use wharf_plan::types::ContainerRef;

/// Writes `stream time text` lines; fails when told to.
#[derive(Default)]
pub struct Plain {
    /// Encodings that shall still fail.
    pub failures: AtomicU32,
    pub opened: AtomicU32,
}

impl Codec for Plain {
    fn open(&self, _: Source) -> CodecFuture<'_, Format> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(Format { extension: "log".into(), cookie: b"c".to_vec(), max_record: 0 }) })
    }

    fn encode(&self, chunks: Vec<Chunk>) -> CodecFuture<'_, Vec<Vec<u8>>> {
        Box::pin(async move {
            let failing =
                self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if failing.is_ok() {
                return Err(CodecError("wasm trap: unreachable".into()));
            }
            Ok(chunks.iter().map(encode).collect())
        })
    }
}

fn encode(chunk: &Chunk) -> Vec<u8> {
    assert_eq!(chunk.cookie, b"c");
    assert!(chunk.times.len() == chunk.ends.len() && chunk.ends.len() == chunk.marks.len());
    let (mut out, mut from) = (Vec::new(), 0);
    for (i, end) in chunk.ends.iter().enumerate() {
        let stream = if chunk.marks[i] & 1 == 0 { "out" } else { "err" };
        let shape = ["", "+", "?", "."][usize::from(chunk.marks[i] >> 1 & 3)];
        out.extend_from_slice(format!("{} {stream}{shape} ", chunk.sequence + i as u64).as_bytes());
        out.extend_from_slice(&chunk.data[from..*end as usize]);
        out.push(b'\n');
        from = *end as usize;
    }
    out
}

pub struct Known(pub Arc<Plain>);

impl Codecs for Known {
    fn codec(&self, driver: &str) -> Result<Arc<dyn Codec>, String> {
        match driver {
            "json-file" | "local" => Ok(self.0.clone()),
            other => Err(format!("no log driver {other}; there are json-file, local")),
        }
    }
}

pub fn streams() -> Streams {
    Streams::open(Arc::new(Known(Arc::default()))).unwrap()
}

pub fn spec(dir: &Path) -> StreamSpec {
    let container = ContainerRef {
        id: "c1".into(),
        name: "web".into(),
        hostname: "web".into(),
        image: "busybox".into(),
        image_digest: None,
        labels: vec![("team".into(), "blue".into())],
        group: None,
    };
    let source = Source {
        container,
        options: Vec::new(),
        command: Vec::new(),
        environment: Vec::new(),
        created: 0,
        daemon: "test".into(),
    };
    StreamSpec {
        id: "c1".into(),
        dir: dir.to_owned(),
        tty: false,
        open_stdin: false,
        stdin_once: false,
        log_driver: "json-file".into(),
        log_options: BTreeMap::new(),
        source: Arc::new(source),
    }
}

pub fn with_options(dir: &Path, options: &[(&str, &str)]) -> StreamSpec {
    let log_options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    StreamSpec { log_options, ..spec(dir) }
}

/// The container's side of a run.
pub struct Process {
    pub stdin: Option<File>,
    pub out: File,
    pub err: File,
    /// What the keeper holds.
    pub hold: Vec<(String, OwnedFd)>,
}

pub fn process(stdio: ChildStdio) -> Process {
    let [stdin, out, err] = stdio.child;
    Process {
        stdin: stdin.map(File::from),
        out: out.unwrap().into(),
        err: err.unwrap().into(),
        hold: stdio.hold,
    }
}

/// Starts a run without stdin.
pub fn start(io: &ContainerIo) -> Process {
    let process = process(io.start().unwrap());
    io.started(None);
    process
}

/// Everything until the end.
pub async fn collect(output: &mut Output) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(bytes) = output.next().await {
        all.extend_from_slice(&bytes.unwrap());
    }
    all
}

/// Frames of a multiplexed stream.
pub fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(&bytes[1..4], [0, 0, 0]);
        let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        frames.push((bytes[0], bytes[8..8 + length].to_vec()));
        bytes = &bytes[8 + length..];
    }
    frames
}

/// Both streams' bytes of a multiplexed stream.
pub fn demultiplex(bytes: &[u8]) -> [Vec<u8>; 2] {
    let mut streams = [Vec::new(), Vec::new()];
    for (stream, bytes) in frames(bytes) {
        streams[usize::from(stream) - 1].extend(bytes);
    }
    streams
}

/// Reads until so many payload bytes came.
pub async fn take(output: &mut Output, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while frames(&all).iter().map(|(_, b)| b.len()).sum::<usize>() < bytes {
        all.extend_from_slice(&output.next().await.unwrap().unwrap());
    }
    all
}
