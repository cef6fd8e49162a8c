//! Serves one container: its two sockets, what it sees, and what it may take.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::buffer;
use crate::forward::Outside;
use crate::host::HostServers;
use crate::limits::{Mine, Rate, Shared};
use crate::message::{Decision, Question, Transport, decide};
use crate::upstream::{From, Upstream};
use crate::view::View;

/// Questions that are out at once, of all containers and of one. Each has up to three sockets.
const FORWARDS: (usize, usize) = (2048, 256);
/// Connections of clients, of all containers and of one.
const CONNECTIONS: (usize, usize) = (1024, 32);
/// Datagrams a second of one container; what is more waits in its socket, or is dropped there at its own cost.
const RATE: u32 = 20_000;
/// Datagrams of one container that are taken before others have their turn.
const BATCH: u32 = 32;
/// How long a client may take over a message on a connection.
const SLOW: Duration = Duration::from_secs(10);

/// What all containers share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) outside: Outside,
    pub(crate) host: Arc<HostServers>,
    forwards: Shared,
    connections: Shared,
}

impl Common {
    pub(crate) fn new(outside: Outside, host: Arc<HostServers>) -> Self {
        let shared = |(all, most)| Shared::new(all, most);
        Self { outside, host, forwards: shared(FORWARDS), connections: shared(CONNECTIONS) }
    }
}

/// One container.
#[derive(Debug)]
pub(crate) struct Guest {
    common: Arc<Common>,
    view: Arc<ArcSwap<View>>,
    udp: UdpSocket,
    forwards: Mine,
    connections: Mine,
}

/// Gives back what was taken.
struct Taken<'a>(&'a Shared, &'a Mine);

impl<'a> Taken<'a> {
    fn one(shared: &'a Shared, mine: &'a Mine) -> Option<Self> {
        shared.take(mine).then_some(Self(shared, mine))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.give(self.1);
    }
}

impl Guest {
    pub(crate) fn new(common: Arc<Common>, view: Arc<ArcSwap<View>>, udp: UdpSocket) -> Arc<Self> {
        Arc::new(Self { common, view, udp, forwards: Mine::default(), connections: Mine::default() })
    }

    /// Serves for as long as it is polled; what it began ends with it.
    pub(crate) async fn serve(self: Arc<Self>, tcp: TcpListener) {
        let mut work = JoinSet::new();
        let mut rate = Rate::new(RATE, Instant::now());
        loop {
            tokio::select! {
                ready = self.udp.readable() => {
                    let count = match ready {
                        Ok(()) => self.take_datagrams(&mut work),
                        Err(_) => return,
                    };
                    if let Some(pause) = rate.used(count, Instant::now()) {
                        tokio::time::sleep(pause).await;
                    }
                    // Others first: a container that asks without end has its turn among all.
                    tokio::task::yield_now().await;
                }
                accepted = tcp.accept() => match accepted {
                    Ok((stream, _)) => self.take_connection(stream, &mut work),
                    // Out of descriptors, most likely: the client waits in the queue.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Some(_) = work.join_next(), if !work.is_empty() => {}
            }
        }
    }

    /// Answers datagrams that wait; their number.
    fn take_datagrams(self: &Arc<Self>, work: &mut JoinSet<()>) -> u32 {
        let view = self.view.load();
        for count in 0..BATCH {
            let taken = buffer::with(|buffer| {
                let (length, from) = self.udp.try_recv_from(buffer)?;
                let packet = buffer.get(..length).unwrap_or_default();
                match judge(&view, packet, Transport::Udp) {
                    Decision::Drop => {}
                    Decision::Reply(reply) => self.send(&reply, from),
                    Decision::Forward(question) => return Ok(Some((from, question, packet.to_vec()))),
                }
                Ok::<_, io::Error>(None)
            });
            match taken {
                Ok(Some((from, question, packet))) => self.forward_datagram(question, packet, from, work),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return count,
                // An error is of an earlier answer that nobody wanted.
                Ok(None) | Err(_) => {}
            }
        }
        BATCH
    }

    /// A client that does not take its answers loses them, as on any network.
    fn send(&self, reply: &[u8], to: SocketAddr) {
        if !reply.is_empty()
            && let Err(error) = self.udp.try_send_to(reply, to)
        {
            tracing::trace!(%error, %to, "an answer is lost");
        }
    }

    fn forward_datagram(
        self: &Arc<Self>,
        question: Box<Question>,
        packet: Vec<u8>,
        from: SocketAddr,
        work: &mut JoinSet<()>,
    ) {
        if !self.common.forwards.take(&self.forwards) {
            self.send(&question.failure(), from);
            return;
        }
        let guest = Arc::clone(self);
        work.spawn(async move {
            let _taken = Taken(&guest.common.forwards, &guest.forwards);
            let reply = guest.elsewhere(&question, &packet, Transport::Udp).await;
            guest.send(&reply, from);
        });
    }

    /// Has the container's name servers asked.
    async fn elsewhere(&self, question: &Question, packet: &[u8], transport: Transport) -> Vec<u8> {
        let view = self.view.load_full();
        let (servers, from) = match &view.upstream {
            Upstream::Own(servers) => (servers.clone(), From::Container),
            // The way to the host's servers does not lead through the container's networks: one without a way out would get
            // one here (CVE-2024-29018).
            Upstream::Host if !view.outside => return question.failure(),
            Upstream::Host => (self.common.host.at(self.common.outside.now()), From::Host),
        };
        let beside = self.udp.as_fd();
        let asked = self.common.outside.ask(question, packet, transport, &servers, from, beside);
        match asked.await {
            Some(answer) => question.passed_on(answer),
            None => question.failure(),
        }
    }

    fn take_connection(self: &Arc<Self>, stream: TcpStream, work: &mut JoinSet<()>) {
        // One too many is closed at once.
        if !self.common.connections.take(&self.connections) {
            return;
        }
        let guest = Arc::clone(self);
        work.spawn(async move {
            let _taken = Taken(&guest.common.connections, &guest.connections);
            if let Err(error) = guest.converse(stream).await {
                tracing::trace!(%error, "a client's connection ends");
            }
        });
    }

    /// Question after question, each answered before the next is read.
    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let packet = tokio::time::timeout(SLOW, read_message(&mut stream)).await??;
            let decision = judge(&self.view.load(), &packet, Transport::Tcp);
            let reply = match decision {
                Decision::Drop => return Ok(()),
                Decision::Reply(reply) => reply,
                Decision::Forward(question) => match Taken::one(&self.common.forwards, &self.forwards) {
                    Some(_taken) => self.elsewhere(&question, &packet, Transport::Tcp).await,
                    None => question.failure(),
                },
            };
            let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
            let mut message = length.to_be_bytes().to_vec();
            message.extend(reply);
            tokio::time::timeout(SLOW, stream.write_all(&message)).await??;
        }
    }
}

/// A message of a connection. Memory is taken as bytes come, not as they are announced.
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut packet = Vec::with_capacity(usize::from(length).min(1024));
    (&mut *stream).take(length.into()).read_to_end(&mut packet).await?;
    if packet.len() < usize::from(length) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(packet)
}

/// [`decide`], and should it panic, one question is lost and not the names of a container.
fn judge(view: &View, packet: &[u8], transport: Transport) -> Decision {
    catch_unwind(AssertUnwindSafe(|| decide(view, packet, transport))).unwrap_or(Decision::Drop)
}
