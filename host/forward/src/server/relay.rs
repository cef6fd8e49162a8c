//! Carries bytes between two connections, each direction to its own end.
//!
//! Short messages are copied through one buffer that all connections share; who has much to say gets a pipe, through which the
//! kernel moves pages without copying them. Pipes are few and lent for as long as a direction is busy, so their number
//! does not grow with that of the connections; where there is none left, bytes are copied.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use wharf_kernel::sys::carry;

/// Bytes copied at a time.
const BUFFER: usize = 64 << 10;
/// The same while much waits for slow receivers.
const SMALL: usize = 2 << 10;
/// Bytes that wait in this process for slow receivers before [`SMALL`] is the rule.
const WAITING: usize = 16 << 20;
/// Pipes at most, each two descriptors.
pub(crate) const PIPES: usize = 64;
/// Bytes that a pipe is to hold.
const PIPE: usize = 1 << 20;
/// A direction that moved so many full buffers in a row is busy enough for a pipe.
const BUSY: u32 = 2;
/// So long a connection may stand still of which one direction has ended.
const HALF: Duration = Duration::from_mins(5);

/// What all connections of a thread share.
#[derive(Debug)]
pub struct Means {
    buffer: RefCell<Vec<u8>>,
    pipes: RefCell<Vec<Pipe>>,
    lent: Cell<usize>,
    most: usize,
    /// Bytes that were read and could not be written yet.
    waiting: Cell<usize>,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe on loan. One that still holds something when this is dropped is closed.
struct Lent<'a> {
    means: &'a Means,
    pipe: Option<Pipe>,
    holds: usize,
}

impl Means {
    /// With at most `pipes` pipes; 0: everything is copied.
    pub fn new(pipes: usize) -> Self {
        Self {
            buffer: RefCell::new(vec![0; BUFFER]),
            pipes: RefCell::default(),
            lent: Cell::new(0),
            most: pipes,
            waiting: Cell::new(0),
        }
    }

    fn lend(&self) -> Option<Lent<'_>> {
        if self.lent.get() >= self.most {
            return None;
        }
        let idle = self.pipes.borrow_mut().pop();
        let pipe = match idle {
            Some(pipe) => pipe,
            None => {
                let (read, write) = carry::pipe(PIPE).ok()?;
                Pipe { read, write }
            }
        };
        self.lent.set(self.lent.get() + 1);
        Some(Lent { means: self, pipe: Some(pipe), holds: 0 })
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.means.lent.set(self.means.lent.get().saturating_sub(1));
        if self.holds == 0
            && let Some(pipe) = self.pipe.take()
        {
            self.means.pipes.borrow_mut().push(pipe);
        }
    }
}

/// How far the two directions are.
#[derive(Default)]
struct Progress {
    moved: Cell<u64>,
    half: tokio::sync::Notify,
}

impl Progress {
    fn add(&self, bytes: usize) {
        self.moved.set(self.moved.get().wrapping_add(u64::try_from(bytes).unwrap_or(0)));
    }
}

/// Carries until both directions have ended, or one breaks, or nothing moves after one has ended.
pub async fn relay(means: &Means, one: &TcpStream, other: &TcpStream) -> io::Result<()> {
    let progress = Progress::default();
    let [one_over, other_over] = [(); 2].map(|()| tokio::sync::Notify::new());
    let directions = async {
        tokio::try_join!(
            direction(means, one, other, &progress, &one_over),
            direction(means, other, one, &progress, &other_over)
        )
        .map(drop)
    };
    let result = tokio::select! {
        biased;
        result = directions => result,
        () = stands_still(&progress) => Err(io::ErrorKind::TimedOut.into()),
        () = gone(one, &one_over) => Err(io::ErrorKind::ConnectionReset.into()),
        () = gone(other, &other_over) => Err(io::ErrorKind::ConnectionReset.into()),
    };
    if result.is_err() {
        // Whoever is left learns that the other end broke off, and does not take it for the end.
        for stream in [one, other] {
            let _ = carry::reset_at_close(stream.as_fd());
        }
    }
    result
}

/// Ends when one direction has ended and nothing has moved in the other one for a while.
async fn stands_still(progress: &Progress) {
    progress.half.notified().await;
    loop {
        let before = progress.moved.get();
        tokio::time::sleep(HALF).await;
        if progress.moved.get() == before {
            return;
        }
    }
}

/// Ends when an end that has said all breaks off: it is not there any more for what it may still be told, which may never come.
async fn gone(stream: &TcpStream, over: &tokio::sync::Notify) {
    over.notified().await;
    // An error here is one of waiting; then the other direction is all there is.
    if stream.ready(Interest::ERROR).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn direction(
    means: &Means,
    from: &TcpStream,
    to: &TcpStream,
    progress: &Progress,
    over: &tokio::sync::Notify,
) -> io::Result<()> {
    let mut full = 0;
    loop {
        from.readable().await?;
        // Readiness costs no budget, and one that always has something would keep all others waiting.
        tokio::task::consume_budget().await;
        if full >= BUSY
            && let Some(mut lent) = means.lend()
        {
            spliced(&mut lent, from, to, progress).await?;
            full = 0;
            continue;
        }
        match copy(means, from, to).await? {
            None => {}
            Some(0) => break,
            Some(moved) => {
                full = if moved == BUFFER { full.saturating_add(1) } else { 0 };
                progress.add(moved);
            }
        }
    }
    nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(to), nix::sys::socket::Shutdown::Write)?;
    progress.half.notify_one();
    over.notify_one();
    Ok(())
}

/// One buffer's worth. None: there was nothing yet; 0: there will be nothing more.
async fn copy(means: &Means, from: &TcpStream, to: &TcpStream) -> io::Result<Option<usize>> {
    let (read, left) = {
        let mut buffer = means.buffer.borrow_mut();
        let most = if means.waiting.get() > WAITING { SMALL } else { BUFFER };
        let Some(room) = buffer.get_mut(..most) else { return Ok(Some(0)) };
        let read = match from.try_read(room) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            result => result?,
        };
        let data = room.get(..read).unwrap_or_default();
        let written = match to.try_write(data) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            result => result?,
        };
        (read, data.get(written..).unwrap_or_default().to_vec())
    };
    if !left.is_empty() {
        let _waits = Waits::new(means, left.len());
        let mut left = left.as_slice();
        while !left.is_empty() {
            to.writable().await?;
            match to.try_write(left) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => left = left.get(result?..).unwrap_or_default(),
            }
        }
    }
    Ok(Some(read))
}

/// Counts bytes that wait for as long as they do.
struct Waits<'a>(&'a Means, usize);

impl<'a> Waits<'a> {
    fn new(means: &'a Means, bytes: usize) -> Self {
        means.waiting.set(means.waiting.get() + bytes);
        Self(means, bytes)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(self.1));
    }
}

/// Moves what there is through a pipe, until for once there is little.
async fn spliced(
    lent: &mut Lent<'_>,
    from: &TcpStream,
    to: &TcpStream,
    progress: &Progress,
) -> io::Result<()> {
    let Lent { pipe: Some(Pipe { read, write }), holds, .. } = lent else { return Ok(()) };
    loop {
        let moved =
            match from.try_io(Interest::READABLE, || Ok(carry::splice(from.as_fd(), write.as_fd(), PIPE)?)) {
                // What ended the direction is found once more by who copies.
                Ok(0) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                result => result?,
            };
        *holds = moved;
        progress.add(moved);
        while *holds > 0 {
            let rest = *holds;
            match to.try_io(Interest::WRITABLE, || Ok(carry::splice(read.as_fd(), to.as_fd(), rest)?)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(moved) => *holds = rest.saturating_sub(moved),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
                Err(e) => return Err(e),
            }
        }
        if moved < BUFFER / 4 {
            return Ok(());
        }
        from.readable().await?;
        tokio::task::consume_budget().await;
    }
}
