//! What clients read: ready-made bytes in large batches.

use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::task::JoinHandle;

use crate::error::{Error, Result};
use crate::exec::ExecReader;
use crate::frame::{self, Stamps};
use crate::lines::{Line, Splitter};
use crate::spool::{Cursor, Fill, Run, Spool, Start, Stream};
use crate::sys::{self, Wait};

/// Bytes of output in one batch.
const BATCH: usize = 256 << 10;
/// The same when each line may grow by a time stamp.
const BATCH_STAMPED: usize = 64 << 10;
/// Bytes in one frame of an attached client; what Docker sends at most.
const FRAME: usize = 32 << 10;

/// Output on its way to one client. Multiplexed (8-byte headers as of Docker's stdcopy, one frame per line for `logs`)
/// unless the container has a terminal.
#[derive(Debug)]
pub struct Output {
    source: Source,
    multiplexed: bool,
}

#[derive(Debug)]
enum Source {
    Spool(Box<SpoolReader>),
    Exec(Box<ExecReader>),
    Empty,
}

/// How output is written down for the client.
#[derive(Debug)]
enum Form {
    /// As it came.
    Raw,
    /// In lines.
    Lines(Box<Lines>),
}

#[derive(Debug, Default)]
struct Lines {
    splitter: Splitter,
    stamps: Option<Stamps>,
    details: Option<Bytes>,
    since: u64,
    until: Option<u64>,
}

/// What a reader of a spool shall give.
#[derive(Debug)]
pub(crate) struct View {
    /// Where to begin.
    pub(crate) start: Start,
    /// Where one that does not follow ends.
    pub(crate) end: u64,
    /// Which streams.
    pub(crate) want: [bool; 2],
    /// The run whose end is the end; None: what is there now.
    pub(crate) follow: Option<u32>,
    /// Frames with headers.
    pub(crate) multiplexed: bool,
    /// Holds the container back rather than losing bytes.
    pub(crate) attached: bool,
    /// Lines, not raw bytes.
    pub(crate) lines: Option<LineView>,
}

/// What lines look like and which are shown.
#[derive(Debug, Default)]
pub(crate) struct LineView {
    pub(crate) timestamps: bool,
    pub(crate) details: Option<Bytes>,
    pub(crate) since: Option<u64>,
    pub(crate) until: Option<u64>,
}

#[derive(Debug)]
struct SpoolReader {
    spool: Arc<Spool>,
    /// The run whose end is the end.
    follow: Option<u32>,
    /// None while another thread reads with it.
    reading: Option<Box<Reading>>,
    /// That thread, which waits for the disk. It is left to itself if the client goes.
    away: Option<JoinHandle<io::Result<Back>>>,
}

/// What a thread that was waited for brings back: the reader, and what it found.
type Back = (Box<Reading>, io::Result<Step>);

/// What reads.
#[derive(Debug)]
struct Reading {
    cursor: Cursor,
    start: Start,
    want: [bool; 2],
    /// It ends where the spool does now.
    bounded: bool,
    /// Where a reader that does not follow ends.
    end: u64,
    multiplexed: bool,
    form: Form,
    data: Vec<u8>,
    runs: Vec<Run>,
    done: bool,
}

/// What one look at the spool gave.
#[derive(Debug)]
enum Step {
    Bytes(Bytes),
    /// Read, but nothing of it is shown.
    Again,
    Nothing,
}

impl Output {
    /// A reader of a spool.
    pub(crate) fn spool(spool: &Arc<Spool>, view: View) -> Self {
        let form = match view.lines {
            None => Form::Raw,
            Some(lines) => Form::Lines(Box::new(Lines {
                splitter: Splitter::default(),
                stamps: lines.timestamps.then(Stamps::default),
                details: lines.details,
                since: lines.since.unwrap_or(0),
                until: lines.until,
            })),
        };
        let reading = Reading {
            cursor: Cursor::new(spool.clone(), view.start.first(), view.attached),
            start: view.start,
            want: view.want,
            bounded: view.follow.is_none(),
            end: view.end,
            multiplexed: view.multiplexed,
            form,
            data: Vec::new(),
            runs: Vec::new(),
            done: false,
        };
        let reader = SpoolReader {
            spool: spool.clone(),
            follow: view.follow,
            reading: Some(Box::new(reading)),
            away: None,
        };
        Self { source: Source::Spool(Box::new(reader)), multiplexed: view.multiplexed }
    }

    pub(crate) fn exec(reader: ExecReader, multiplexed: bool) -> Self {
        Self { source: Source::Exec(Box::new(reader)), multiplexed }
    }

    /// Nothing, at its end.
    pub(crate) fn empty(multiplexed: bool) -> Self {
        Self { source: Source::Empty, multiplexed }
    }

    /// The next bytes; None at the end. Cancelling and calling again loses nothing.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        match &mut self.source {
            Source::Spool(reader) => reader.next().await.transpose(),
            Source::Exec(reader) => reader.next().await.transpose(),
            Source::Empty => None,
        }
    }

    /// False for a terminal: bytes without headers (`application/vnd.docker.raw-stream`).
    pub fn multiplexed(&self) -> bool {
        self.multiplexed
    }

    /// As a stream, for a response body.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Result<Bytes>> + Send + 'static {
        futures_util::stream::unfold(self, |mut output| async move {
            output.next().await.map(|item| (item, output))
        })
    }
}

impl SpoolReader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let spool = self.spool.clone();
        let failed = |error| Error::host("reading container output", error);
        loop {
            if let Some(away) = &mut self.away {
                let back = away.await;
                self.away = None;
                let (reading, step) = back.map_err(|e| failed(io::Error::other(e)))?.map_err(failed)?;
                let reading = self.reading.insert(reading);
                match step {
                    Ok(Step::Bytes(bytes)) => return Ok(Some(bytes)),
                    // Looked at once more before it is waited for.
                    Ok(Step::Again | Step::Nothing) => {}
                    Err(error) => {
                        reading.done = true;
                        return Err(failed(error));
                    }
                }
            }
            // One whose thread failed is at its end.
            let Some(reading) = &mut self.reading else { return Ok(None) };
            if reading.done {
                return Ok(None);
            }
            let mut changed = pin!(spool.changed().notified());
            // Before looking, so that nothing is missed between the look and the wait.
            changed.as_mut().enable();
            let ended = self.follow.is_none_or(|run| spool.ended(run));
            match reading.step(Wait::No) {
                Ok(Step::Bytes(bytes)) => return Ok(Some(bytes)),
                Ok(Step::Again) => {}
                Ok(Step::Nothing) if ended => return Ok(reading.finish()),
                Ok(Step::Nothing) => {
                    reading.rest();
                    match reading.time_left() {
                        None => changed.await,
                        Some(left) => {
                            if tokio::time::timeout(left, changed).await.is_err() {
                                reading.done = true;
                            }
                        }
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported) =>
                {
                    // Not in memory, or somebody who waits for the disk is in the way: another thread waits.
                    self.away = self.reading.take().map(|mut reading| {
                        let spool = spool.clone();
                        tokio::spawn(async move {
                            let read = move |_: &Spool| {
                                let step = reading.step(Wait::Yes);
                                Ok((reading, step))
                            };
                            spool.apart(read).await
                        })
                    });
                }
                Err(error) => {
                    reading.done = true;
                    return Err(failed(error));
                }
            }
        }
    }
}

impl Drop for SpoolReader {
    fn drop(&mut self) {
        // One that waits for its turn need not have it any more.
        if let Some(away) = &self.away {
            away.abort();
        }
    }
}

impl Reading {
    /// Gives up what an idle reader need not have.
    fn rest(&mut self) {
        self.data = Vec::new();
        self.runs = Vec::new();
        self.cursor.rest();
    }

    /// How long a follower with `until` still waits.
    fn time_left(&self) -> Option<Duration> {
        match &self.form {
            Form::Lines(lines) => {
                lines.until.map(|until| Duration::from_nanos(until.saturating_sub(sys::now())))
            }
            Form::Raw => None,
        }
    }

    fn step(&mut self, wait: Wait) -> io::Result<Step> {
        let stamped =
            matches!(&self.form, Form::Lines(lines) if lines.stamps.is_some() || lines.details.is_some());
        let room = self.end.saturating_sub(self.cursor.position());
        let max =
            usize::try_from(room).unwrap_or(usize::MAX).min(if stamped { BATCH_STAMPED } else { BATCH });
        if max == 0 {
            return Ok(Step::Nothing);
        }
        match self.cursor.fill(self.want, &mut self.data, &mut self.runs, max, wait)? {
            Fill::Nothing => Ok(Step::Nothing),
            Fill::Gap(bytes) => {
                let text = format!(
                    "wharf: {bytes} bytes of output are missing here: the reader was too slow, or the disk full\n"
                );
                let mut out = BytesMut::with_capacity(text.len() + frame::HEADER);
                if self.multiplexed {
                    out.put_slice(&frame::header(Stream::Stderr, text.len()));
                }
                out.put_slice(text.as_bytes());
                Ok(Step::Bytes(out.freeze()))
            }
            Fill::Data => Ok(self.write()),
        }
    }

    fn write(&mut self) -> Step {
        let mut out = BytesMut::with_capacity(self.data.len() + self.data.len() / 8 + 64);
        for run in &self.runs {
            let mut bytes = self.data.get(run.range.clone()).unwrap_or_default();
            let start = self.start.streams.get(run.stream.slot()).copied().unwrap_or(0);
            let mut position = run.position;
            if position < start {
                let skip = usize::try_from(start - position).unwrap_or(usize::MAX).min(bytes.len());
                bytes = bytes.get(skip..).unwrap_or_default();
                position += skip as u64;
            }
            match &mut self.form {
                Form::Raw => {
                    for piece in bytes.chunks(FRAME) {
                        if self.multiplexed {
                            out.put_slice(&frame::header(run.stream, piece.len()));
                        }
                        out.put_slice(piece);
                    }
                }
                Form::Lines(lines) => {
                    let Lines { splitter, stamps, details, since, until } = &mut **lines;
                    let (since, until, multiplexed) = (*since, *until, self.multiplexed);
                    let flow = splitter.feed(run.stream, run.time, position, bytes, |line| {
                        if until.is_some_and(|until| line.time > until) {
                            return ControlFlow::Break(());
                        }
                        if line.time >= since {
                            put_line(&mut out, line, multiplexed, stamps.as_mut(), details.as_ref());
                        }
                        ControlFlow::Continue(())
                    });
                    if flow.is_break() {
                        self.done = true;
                        break;
                    }
                }
            }
        }
        if out.is_empty() { Step::Again } else { Step::Bytes(out.freeze()) }
    }

    /// The last line may have no newline. While the container runs it is not a line yet.
    fn finish(&mut self) -> Option<Bytes> {
        self.done = true;
        let Form::Lines(lines) = &mut self.form else { return None };
        if self.bounded && self.cursor.spool().running() {
            return None;
        }
        let Lines { splitter, stamps, details, since, until } = &mut **lines;
        let (since, until, multiplexed) = (*since, until.unwrap_or(u64::MAX), self.multiplexed);
        let mut out = BytesMut::new();
        splitter.finish(|line| {
            if (since..=until).contains(&line.time) {
                put_line(&mut out, line, multiplexed, stamps.as_mut(), details.as_ref());
            }
        });
        (!out.is_empty()).then(|| out.freeze())
    }
}

fn put_line(
    out: &mut BytesMut,
    line: Line<'_>,
    multiplexed: bool,
    stamps: Option<&mut Stamps>,
    details: Option<&Bytes>,
) {
    // A part of a long line goes on where the last one ended.
    let stamp = stamps.filter(|_| line.first).map(|stamps| stamps.of(line.time));
    let details = details.filter(|_| line.first);
    let length = line.bytes.len()
        + usize::from(line.ended)
        + stamp.map_or(0, |stamp| stamp.len() + 1)
        + details.map_or(0, |details| details.len() + 1);
    if length == 0 {
        return;
    }
    out.reserve(length + frame::HEADER);
    if multiplexed {
        out.put_slice(&frame::header(line.stream, length));
    }
    if let Some(stamp) = stamp {
        out.put_slice(stamp);
        out.put_u8(b' ');
    }
    if let Some(details) = details {
        out.put_slice(details);
        out.put_u8(b' ');
    }
    out.put_slice(line.bytes);
    if line.ended {
        out.put_u8(b'\n');
    }
}
