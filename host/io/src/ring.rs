//! `mode=non-blocking`: output waits in memory, so that a disk that is slow or hangs cannot stop a container.
//!
//! Otherwise the kernel moves bytes from the pipe to the file itself, and while the file's disk does not answer, whoever writes into
//! the pipe waits with it. Here a thread that touches no disk empties the pipe into a queue, and a thread of the container's own,
//! there only while it has work, writes the queue to the spool. What comes while the queue is full is dropped, as Docker does.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::spool::{Source, Spool, Stream};

/// A writing thread without work ends after this time.
const IDLE: Duration = Duration::from_millis(200);
/// Entries of a queue are joined up to this size.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
enum Entry {
    Bytes(Stream, Vec<u8>),
    /// So many bytes found no room here.
    Lost(u64),
    /// A stream is at its end.
    End,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Entry>,
    /// Bytes in the queue, those under way to the disk included.
    bytes: usize,
    /// A thread is there.
    writing: bool,
}

/// The queue of one container.
#[derive(Debug)]
pub(crate) struct Ring {
    spool: Arc<Spool>,
    most: usize,
    state: Mutex<State>,
    more: Condvar,
}

impl Ring {
    /// At most so many bytes wait.
    pub(crate) fn new(spool: Arc<Spool>, most: usize) -> Self {
        Self { spool, most: most.max(1), state: Mutex::default(), more: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes output, or drops it where there is no room. Never waits for a disk.
    pub(crate) fn push(self: &Arc<Self>, stream: Stream, bytes: &[u8]) {
        let mut state = self.lock();
        // As in Docker, one piece that is larger than the whole queue has room in an empty one.
        if state.bytes > 0 && state.bytes + bytes.len() > self.most {
            if let Some(Entry::Lost(lost)) = state.queue.back_mut() {
                *lost += bytes.len() as u64;
                return;
            }
            tracing::warn!("a container prints faster than its log's disk takes it; output is dropped");
            state.queue.push_back(Entry::Lost(bytes.len() as u64));
            return;
        }
        state.bytes += bytes.len();
        match state.queue.back_mut() {
            Some(Entry::Bytes(last, queued)) if *last == stream && queued.len() + bytes.len() <= CHUNK => {
                queued.extend_from_slice(bytes);
            }
            _ => state.queue.push_back(Entry::Bytes(stream, bytes.to_vec())),
        }
        self.write(state);
    }

    /// A stream of the run is at its end.
    pub(crate) fn end(self: &Arc<Self>) {
        let mut state = self.lock();
        state.queue.push_back(Entry::End);
        self.write(state);
    }

    /// Sees to it that somebody writes.
    fn write(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.writing {
            self.more.notify_one();
            return;
        }
        let ring = Arc::clone(self);
        let started = std::thread::Builder::new().name("log".into()).spawn(move || ring.run());
        match started {
            Ok(_) => state.writing = true,
            // The next output tries again.
            Err(error) => tracing::error!(%error, "no thread to write a container's output"),
        }
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let Some(entry) = state.queue.pop_front() else {
                let (next, waited) =
                    self.more.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
                state = next;
                if waited.timed_out() && state.queue.is_empty() {
                    state.writing = false;
                    return;
                }
                continue;
            };
            drop(state);
            let written = match entry {
                Entry::Bytes(stream, bytes) => {
                    if let Err(error) = self.spool.append(stream, Source::Bytes(&bytes), bytes.len()) {
                        tracing::error!(%error, "a container's output cannot be kept");
                    }
                    bytes.len()
                }
                Entry::Lost(lost) => {
                    self.spool.note_lost(lost);
                    0
                }
                Entry::End => {
                    self.spool.stream_ended();
                    0
                }
            };
            state = self.lock();
            state.bytes = state.bytes.saturating_sub(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{Cursor, Fill, Limits};
    use crate::sys::Wait;

    fn ring(dir: &std::path::Path, most: usize) -> (Arc<Spool>, Arc<Ring>) {
        let spool = Arc::new(Spool::new(dir.join("spool"), Limits::of(1 << 20, 2)));
        spool.begin(1);
        (Arc::clone(&spool), Arc::new(Ring::new(spool, most)))
    }

    fn data(dir: &std::path::Path) -> Vec<u8> {
        let mut files: Vec<_> = std::fs::read_dir(dir.join("spool"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "data"))
            .collect();
        files.sort();
        files.into_iter().flat_map(|path| std::fs::read(path).unwrap()).collect()
    }

    fn wait_for_the_end(spool: &Spool) {
        while !spool.ended(1) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_taken_arrives_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, ring) = ring(dir.path(), 1 << 20);
        let mut sent = Vec::new();
        for number in 0..1000 {
            let line = format!("line {number}\n");
            ring.push(Stream::Stdout, line.as_bytes());
            sent.extend_from_slice(line.as_bytes());
        }
        ring.end();
        wait_for_the_end(&spool);
        assert!(data(dir.path()) == sent);
    }

    #[test]
    fn a_disk_that_hangs_costs_output_and_never_time() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, ring) = ring(dir.path(), 1000);
        // Whoever writes to the spool now waits, as for a disk.
        let hangs = spool.hang();
        for _ in 0..100 {
            ring.push(Stream::Stdout, &[b'x'; 100]);
        }
        ring.end();
        assert!(!spool.ended(1));
        assert!(ring.lock().bytes <= 1000);
        drop(hangs);
        wait_for_the_end(&spool);
        assert_eq!(data(dir.path()).len(), 1000);
        // What comes next tells how much is missing before it.
        spool.begin(1);
        ring.push(Stream::Stdout, b"after");
        ring.end();
        while !spool.ended(2) {
            std::thread::yield_now();
        }
        let mut cursor = Cursor::new(Arc::clone(&spool), 0, false);
        let (mut bytes, mut lost, mut buffer, mut runs) = (0, 0, Vec::new(), Vec::new());
        loop {
            match cursor.fill([true; 2], &mut buffer, &mut runs, 64 << 10, Wait::Yes).unwrap() {
                Fill::Data => bytes += buffer.len(),
                Fill::Gap(gap) => lost += gap,
                Fill::Nothing => break,
            }
        }
        assert_eq!((bytes, lost), (1005, 9000));
    }

    #[test]
    fn one_piece_larger_than_the_queue_has_room_in_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, ring) = ring(dir.path(), 10);
        ring.push(Stream::Stderr, &[b'y'; 100]);
        ring.end();
        wait_for_the_end(&spool);
        assert_eq!(data(dir.path()).len(), 100);
    }
}
