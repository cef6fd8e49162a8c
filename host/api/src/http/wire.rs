//! The byte stream below HTTP: what tells a slow head from an idle connection, and a client's half-close from its end.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

/// How long a request's head may take from its first to its last byte.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a client that has ended its input is looked at: nothing tells when the rest of it ends too.
const LOOK: Duration = Duration::from_millis(100);

/// How long a TCP client that has ended its input may wait for its answer: it looks like one that is gone.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// Bytes of a raw stream that are read at a time.
const CHUNK: usize = 16 * 1024;

/// A connected client.
pub(crate) enum Socket {
    Unix(UnixStream),
    /// The flag: everyone is let in.
    Tcp(TcpStream, bool),
    /// The lock is held for one poll at a time: both directions of a raw stream share the connection.
    Tls(Mutex<Box<TlsStream<TcpStream>>>, bool),
}

/// The TLS connection within its lock, which no panic leaves in a state of its own.
fn unlocked(tls: &Mutex<Box<TlsStream<TcpStream>>>) -> MutexGuard<'_, Box<TlsStream<TcpStream>>> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same for who has it alone.
fn whole(tls: &mut Mutex<Box<TlsStream<TcpStream>>>) -> Pin<&mut TlsStream<TcpStream>> {
    Pin::new(tls.get_mut().unwrap_or_else(PoisonError::into_inner))
}

impl Socket {
    /// The other end is gone altogether, rather than only done with writing.
    pub(crate) fn gone(&self) -> bool {
        let ask = |fd: BorrowedFd<'_>| {
            let mut polls = [PollFd::new(fd, PollFlags::empty())];
            let asked = nix::poll::poll(&mut polls, PollTimeout::ZERO);
            let ended = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
            asked.is_err() || polls.iter().any(|p| p.revents().is_some_and(|r| r.intersects(ended)))
        };
        match self {
            Self::Unix(s) => ask(s.as_fd()),
            Self::Tcp(s, _) => ask(s.as_fd()),
            Self::Tls(tls, _) => ask(unlocked(tls).get_ref().0.as_fd()),
        }
    }

    /// Reads what there is, waiting for the first byte; 0 is the end. Shares the socket with [`Self::send`].
    pub(crate) async fn receive(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            buffer.reserve(CHUNK);
            let result = match self {
                Self::Unix(s) => {
                    s.readable().await?;
                    s.try_read_buf(buffer)
                }
                Self::Tcp(s, _) => {
                    s.readable().await?;
                    s.try_read_buf(buffer)
                }
                Self::Tls(tls, _) => {
                    poll_fn(|cx| {
                        // Here rather than outside: it would make every future of a connection so large.
                        let mut chunk = [0_u8; CHUNK];
                        let mut buf = ReadBuf::new(&mut chunk);
                        let mut tls = unlocked(tls);
                        let polled = Pin::new(&mut **tls).poll_read(cx, &mut buf);
                        buffer.extend_from_slice(buf.filled());
                        polled.map(|result| result.map(|()| buf.filled().len()))
                    })
                    .await
                }
            };
            match result {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    /// Waits a moment until the other end has read what was sent so far; of a TCP socket's other end nothing is known.
    pub(crate) async fn taken(&self, patience: Duration) {
        let Self::Unix(socket) = self else { return };
        let end = tokio::time::Instant::now() + patience;
        let mut looks = 0;
        while !wharf_kernel::sys::socket::taken(socket.as_fd()).unwrap_or(true)
            && tokio::time::Instant::now() < end
        {
            // Mostly it is a matter of microseconds.
            looks += 1;
            if looks < 20 {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Writes all of it.
    pub(crate) async fn send(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let result = match self {
                Self::Unix(s) => {
                    s.writable().await?;
                    s.try_write(data)
                }
                Self::Tcp(s, _) => {
                    s.writable().await?;
                    s.try_write(data)
                }
                Self::Tls(tls, _) => {
                    poll_fn(|cx| {
                        let mut tls = unlocked(tls);
                        match Pin::new(&mut **tls).poll_write(cx, data) {
                            // What was encrypted must also leave: nobody may write for a long time.
                            Poll::Ready(Ok(n)) => {
                                let _ = Pin::new(&mut **tls).poll_flush(cx);
                                Poll::Ready(Ok(n))
                            }
                            other => other,
                        }
                    })
                    .await
                }
            };
            match result {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
                Ok(n) => data = data.get(n..).unwrap_or_default(),
            }
        }
        if let Self::Tls(tls, _) = self {
            poll_fn(|cx| Pin::new(&mut **unlocked(tls)).poll_flush(cx)).await?;
        }
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tcp(s, _) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s, _) => whole(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_write(cx, data),
            Self::Tcp(s, _) => Pin::new(s).poll_write(cx, data),
            Self::Tls(s, _) => whole(s).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_write_vectored(cx, data),
            Self::Tcp(s, _) => Pin::new(s).poll_write_vectored(cx, data),
            Self::Tls(s, _) => whole(s).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(_) | Self::Tcp(..) => Poll::Ready(Ok(())),
            Self::Tls(s, _) => whole(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tcp(s, _) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s, _) => whole(s).poll_shutdown(cx),
        }
    }
}

/// What the HTTP side tells the byte side. Counts requests: odd while one is being answered.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    turn: AtomicU64,
    /// The turn in which the end of the client's bytes is not the end of the client.
    half_close: AtomicU64,
}

impl Phase {
    /// A request's head is complete.
    pub(crate) fn begin(self: &Arc<Self>) -> BusyGuard {
        self.turn.fetch_add(1, Ordering::AcqRel);
        BusyGuard(Arc::clone(self))
    }

    /// The request that is being answered becomes a raw stream, so that its end of input is data, not an abort.
    pub(crate) fn keep_half_closed(&self) {
        self.half_close.store(self.turn.load(Ordering::Acquire), Ordering::Release);
    }
}

/// Its end is the end of an answer.
#[derive(Debug)]
pub(crate) struct BusyGuard(Arc<Phase>);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.turn.fetch_add(1, Ordering::AcqRel);
    }
}

/// A socket with what was already read from it, under the rules above.
pub(crate) struct Tap {
    socket: Socket,
    seen: Bytes,
    phase: Arc<Phase>,
    head: Option<(u64, Pin<Box<Sleep>>)>,
    timeout: Duration,
    /// Since when there is no more input, and when to look again.
    ended: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Tap {
    pub(crate) fn new(socket: Socket, seen: Bytes, phase: Arc<Phase>, timeout: Duration) -> Self {
        let mut tap = Self { socket, seen, phase, head: None, timeout, ended: None };
        if !tap.seen.is_empty() {
            tap.started();
        }
        tap
    }

    pub(crate) fn into_socket(self) -> (Socket, Bytes) {
        (self.socket, self.seen)
    }

    /// A byte of a head was seen.
    fn started(&mut self) {
        let turn = self.phase.turn.load(Ordering::Acquire);
        if turn.is_multiple_of(2) && self.head.as_ref().is_none_or(|(t, _)| *t != turn) {
            self.head = Some((turn, Box::pin(tokio::time::sleep(self.timeout))));
        }
    }

    /// Whether a client whose input has ended while it is being answered is gone; if not, looks again later. Where nobody can be
    /// sure, one is gone after some time.
    fn left(&mut self, cx: &mut Context<'_>, unsure: bool) -> bool {
        let (since, look) =
            self.ended.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(LOOK))));
        loop {
            if self.socket.gone() || (unsure && since.elapsed() > HALF_CLOSED) {
                return true;
            }
            if look.as_mut().poll(cx).is_pending() {
                return false;
            }
            look.as_mut().reset(tokio::time::Instant::now() + LOOK);
        }
    }

    /// Whether the head takes too long; forgets the clock of a head that is complete.
    fn late(&mut self, cx: &mut Context<'_>) -> bool {
        let turn = self.phase.turn.load(Ordering::Acquire);
        match &mut self.head {
            Some((t, sleep)) if *t == turn => sleep.as_mut().poll(cx).is_ready(),
            _ => {
                self.head = None;
                false
            }
        }
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seen.is_empty() {
            let n = self.seen.len().min(buf.remaining());
            buf.put_slice(self.seen.get(..n).unwrap_or_default());
            self.seen.advance(n);
            return Poll::Ready(Ok(()));
        }
        if self.late(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.socket).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() == before => {
                let turn = self.phase.turn.load(Ordering::Acquire);
                if turn != 0 && self.phase.half_close.load(Ordering::Acquire) == turn {
                    // Whoever takes the connection over will read the end again. There may be nobody left to take it over for.
                    return if self.left(cx, false) { Poll::Ready(Ok(())) } else { Poll::Pending };
                }
                let unsure = !matches!(self.socket, Socket::Unix(_));
                // A client that has said all and waits for the answer is no client that has left.
                if turn.is_multiple_of(2) || self.left(cx, unsure) {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                }
            }
            Poll::Ready(Ok(())) => {
                self.started();
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
