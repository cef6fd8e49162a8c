//! How fast output goes in and comes out, and what it costs.
//!
//! `cargo run --release -p wharf-io --example logs [directory [size of a write]]` prints MB/s and the CPU seconds of this process for
//! each GiB. The writer is a process of its own, as a container is; the directory decides which disk is measured.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wharf_io::{
    AttachQuery, Codec, CodecFuture, Codecs, ContainerIo, LogQuery, Output, StreamSpec, Streams, Tail,
};
use wharf_plan::logs::{Chunk, Format, Source};
use wharf_plan::types::ContainerRef;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const GIB: u64 = 1 << 30;
const WRITER: &str = "WHARF_IO_WRITER";

/// The cheapest codec: what is measured is the way to it and back.
struct Copy;

impl Codec for Copy {
    fn open(&self, _: Source) -> CodecFuture<'_, Format> {
        Box::pin(async { Ok(Format { extension: String::new(), cookie: Vec::new(), max_record: 0 }) })
    }
    fn encode(&self, chunks: Vec<Chunk>) -> CodecFuture<'_, Vec<Vec<u8>>> {
        Box::pin(async { Ok(chunks.into_iter().map(|chunk| chunk.data).collect()) })
    }
}

impl Codecs for Copy {
    fn codec(&self, _: &str) -> std::result::Result<Arc<dyn Codec>, String> {
        Ok(Arc::new(Copy))
    }
}

fn main() -> Result<()> {
    if let Ok(form) = std::env::var(WRITER) {
        return write(&form);
    }
    let base = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let sizes = match std::env::args().nth(2) {
        Some(size) => vec![size.parse()?],
        None => vec![65_536, 4096, 100],
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(measure(Path::new(&base), &sizes))
}

/// What the container does: a GiB in pieces of one size.
fn write(form: &str) -> Result<()> {
    let size: usize = form.parse()?;
    let piece = if size > 4096 {
        b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n".repeat(size / 64)
    } else {
        let mut line = vec![b'x'; size - 1];
        line.push(b'\n');
        line
    };
    let mut out = std::io::stdout().lock();
    let mut left = usize::try_from(GIB)?;
    while left > 0 {
        let n = piece.len().min(left);
        out.write_all(piece.get(..n).unwrap_or_default())?;
        out.flush()?;
        left -= n;
    }
    Ok(())
}

fn spec(dir: &Path, driver: &str) -> StreamSpec {
    let text = String::new;
    let container = ContainerRef {
        id: "bench".to_owned(),
        name: text(),
        hostname: text(),
        image: text(),
        image_digest: None,
        labels: Vec::new(),
        group: None,
    };
    let source = Source {
        container,
        options: Vec::new(),
        command: Vec::new(),
        environment: Vec::new(),
        created: 0,
        daemon: text(),
    };
    // Everything is kept, so that it can be read back.
    let log_options = BTreeMap::from([("max-size".to_owned(), "4g".to_owned())]);
    StreamSpec {
        id: "bench".to_owned(),
        dir: dir.to_owned(),
        tty: false,
        open_stdin: false,
        stdin_once: false,
        log_driver: driver.to_owned(),
        log_options,
        source: Arc::new(source),
    }
}

/// CPU time of this process, its ended children not counted.
fn cpu() -> Duration {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(clock.tv_sec).unwrap_or(0), u32::try_from(clock.tv_nsec).unwrap_or(0))
}

struct Meter(Instant, Duration);

impl Meter {
    fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn print(&self, what: &str, bytes: u64) {
        let (wall, used) = (self.0.elapsed().as_secs_f64(), cpu().saturating_sub(self.1).as_secs_f64());
        let gib = bytes as f64 / GIB as f64;
        println!("{what:<44} {:>7.0} MB/s {:>6.2} CPU s per GiB", bytes as f64 / 1e6 / wall, used / gib);
    }
}

/// A run whose process writes a GiB in pieces.
fn run(io: &ContainerIo, size: usize) -> Result<std::process::Child> {
    let [_, out, err] = io.start()?.child;
    let null = || File::options().write(true).open("/dev/null");
    let child = Command::new(std::env::current_exe()?)
        .env(WRITER, size.to_string())
        .stdout(out.map_or(null().map(Stdio::from), |fd| Ok(Stdio::from(fd)))?)
        .stderr(err.map_or(null().map(Stdio::from), |fd| Ok(Stdio::from(fd)))?)
        .spawn()?;
    io.started(None);
    Ok(child)
}

async fn drain(mut output: Output) -> Result<u64> {
    let mut bytes = 0;
    while let Some(batch) = output.next().await {
        bytes += batch?.len() as u64;
    }
    Ok(bytes)
}

async fn measure(base: &Path, sizes: &[usize]) -> Result<()> {
    let streams = Streams::open(Arc::new(Copy))?;
    let attach = AttachQuery { stream: true, stdout: true, stderr: true, ..AttachQuery::default() };
    for &size in sizes {
        for (attached, driver) in [(false, "none"), (true, "none"), (false, "json-file"), (true, "json-file")]
        {
            let dir = base.join(format!("wharf-io-bench-{}", std::process::id()));
            std::fs::create_dir(&dir)?;
            let io = streams.container(spec(&dir, driver));
            let reader = if attached {
                Some(tokio::spawn(drain_here(io.attach(attach.clone()).await?.output)))
            } else {
                None
            };
            let meter = Meter::start();
            let mut child = run(&io, size)?;
            tokio::task::spawn_blocking(move || child.wait()).await??;
            io.finished().await;
            if let Some(reader) = reader {
                reader.await??;
            }
            let what = format!("in by {size}, {driver}{}", if attached { ", attached" } else { "" });
            meter.print(&what, GIB);
            if driver == "json-file" {
                io.logged().await;
                meter.print("  until it is in the driver's file", GIB);
            }
            if driver == "json-file" && !attached {
                read_back(&io).await?;
            }
            io.removed();
            std::fs::remove_dir_all(&dir)?;
        }
    }
    Ok(())
}

async fn drain_here(output: Output) -> std::result::Result<u64, std::io::Error> {
    drain(output).await.map_err(|error| std::io::Error::other(error.to_string()))
}

async fn read_back(io: &ContainerIo) -> Result<()> {
    let query = LogQuery { stdout: true, stderr: true, ..LogQuery::default() };
    let meter = Meter::start();
    drain(io.logs(query.clone()).await?).await?;
    meter.print("  logs", GIB);
    let meter = Meter::start();
    drain(io.logs(LogQuery { timestamps: true, ..query.clone() }).await?).await?;
    meter.print("  logs with timestamps", GIB);
    let meter = Meter::start();
    let replay = AttachQuery { logs: true, stdout: true, stderr: true, ..AttachQuery::default() };
    drain(io.attach(replay).await?.output).await?;
    meter.print("  attach replay", GIB);
    let (begin, used) = (Instant::now(), cpu());
    let bytes = drain(io.logs(LogQuery { tail: Tail::Lines(100), ..query }).await?).await?;
    println!("  tail 100: {bytes} bytes in {:?}, CPU {:?}", begin.elapsed(), cpu().saturating_sub(used));
    Ok(())
}
