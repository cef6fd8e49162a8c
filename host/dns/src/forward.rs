//! Asks name servers on behalf of containers.
//!
//! Every question goes out from a socket of its own, whose port the kernel picked by chance, under a number picked by chance; and
//! only what comes from the server's address to that port, with that number and the same question, is an answer.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context as Wake, Poll};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use wharf_kernel::netns::Visitor;

use crate::message::{Question, Said, Transport, renumber};
use crate::upstream::{From, PATIENCE, Server, Servers};

/// Datagrams that are no answer, of one socket, before it is given up: somebody guesses.
const STRANGE: u32 = 64;

/// What all questions share.
#[derive(Debug)]
pub(crate) struct Outside {
    visitor: Visitor,
    start: Instant,
}

impl Outside {
    /// On the thread that asks.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { visitor: Visitor::new().map_err(io::Error::other)?, start: Instant::now() })
    }

    /// Milliseconds since this was made.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Makes a socket in the network from which a server is asked; `beside` is one of the container's.
    fn make<T>(
        &self,
        from: From,
        beside: BorrowedFd<'_>,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match from {
            From::Host => make(),
            From::Container => self.visitor.beside(beside, make).map_err(io::Error::other)?,
        }
    }

    /// Asks the servers in turn. None: nobody gave an answer in time; `Some` may also be a server's refusal.
    pub(crate) async fn ask(
        &self,
        question: &Question,
        packet: &[u8],
        transport: Transport,
        servers: &Servers,
        from: From,
        beside: BorrowedFd<'_>,
    ) -> Option<Vec<u8>> {
        let asking = Asking { outside: self, question, packet, from, beside };
        let mut failure = None;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let answer = tokio::time::timeout_at(deadline, async {
            match transport {
                Transport::Udp => asking.by_datagram(servers, &mut failure).await,
                Transport::Tcp => asking.by_connection(servers, &mut failure).await,
            }
        });
        answer.await.ok().flatten().or(failure)
    }
}

/// One question on its way.
struct Asking<'a> {
    outside: &'a Outside,
    question: &'a Question,
    packet: &'a [u8],
    from: From,
    beside: BorrowedFd<'a>,
}

/// A datagram that was sent.
struct Sent {
    socket: UdpSocket,
    id: u16,
    server: Arc<Server>,
    strange: u32,
}

impl Asking<'_> {
    async fn by_datagram(&self, servers: &Servers, failure: &mut Option<Vec<u8>>) -> Option<Vec<u8>> {
        let start = tokio::time::Instant::now();
        let mut schedule = servers.schedule(self.outside.now()).into_iter().peekable();
        let mut sent: Vec<Sent> = Vec::with_capacity(1);
        loop {
            let next = schedule.peek().map(|(after, _)| start + *after);
            // With nobody left to wait for, the next one is asked at once.
            if sent.is_empty() || next.is_some_and(|next| next <= tokio::time::Instant::now()) {
                let (_, server) = schedule.next()?;
                for silent in &sent {
                    silent.server.silent(self.outside.now());
                }
                match self.send(&server) {
                    Ok(one) => sent.push(one),
                    Err(error) => {
                        tracing::debug!(%error, server = %server.address, "a name server cannot be asked");
                        server.silent(self.outside.now());
                    }
                }
                continue;
            }
            let heard = std::future::poll_fn(|wake| self.hear(&mut sent, wake));
            let heard = match next {
                Some(next) => match tokio::time::timeout_at(next, heard).await {
                    Ok(heard) => heard,
                    Err(_) => continue,
                },
                None => heard.await,
            };
            match heard {
                (at, Some((Said::Answer, packet))) => {
                    if let Some(one) = sent.get(at) {
                        one.server.answered();
                    }
                    return Some(packet);
                }
                (at, Some((Said::Failure, packet))) => {
                    *failure = Some(packet);
                    drop(sent.swap_remove(at));
                }
                (at, None) => {
                    let gone = sent.swap_remove(at);
                    gone.server.silent(self.outside.now());
                }
            }
        }
    }

    fn send(&self, server: &Arc<Server>) -> io::Result<Sent> {
        let any = match server.address {
            SocketAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            SocketAddr::V6(_) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        };
        let socket = self.outside.make(self.from, self.beside, || {
            let socket = std::net::UdpSocket::bind(any)?;
            socket.set_nonblocking(true)?;
            // From now on the kernel drops what others send.
            socket.connect(server.address)?;
            Ok(socket)
        })?;
        let id: u16 = rand::random();
        let mut packet = self.packet.to_vec();
        renumber(&mut packet, id);
        socket.send(&packet)?;
        Ok(Sent { socket: UdpSocket::from_std(socket)?, id, server: Arc::clone(server), strange: 0 })
    }

    /// The first answer to any of the datagrams; without one: this socket is of no more use.
    #[allow(clippy::type_complexity, reason = "used once, above")]
    fn hear(&self, sent: &mut [Sent], wake: &mut Wake<'_>) -> Poll<(usize, Option<(Said, Vec<u8>)>)> {
        for (at, one) in sent.iter_mut().enumerate() {
            loop {
                match one.socket.poll_recv_ready(wake) {
                    Poll::Pending => break,
                    Poll::Ready(Err(_)) => return Poll::Ready((at, None)),
                    Poll::Ready(Ok(())) => {}
                }
                let heard = crate::buffer::with(|buffer| {
                    let length = one.socket.try_recv(buffer)?;
                    let packet = buffer.get(..length).unwrap_or_default();
                    let said = self.question.answered_by(one.id, packet);
                    Ok::<_, io::Error>(said.map(|said| (said, packet.to_vec())))
                });
                match heard {
                    Ok(Some(answer)) => return Poll::Ready((at, Some(answer))),
                    Ok(None) => {
                        one.strange += 1;
                        if one.strange > STRANGE {
                            return Poll::Ready((at, None));
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Nobody listens there, or there is no way.
                    Err(_) => return Poll::Ready((at, None)),
                }
            }
        }
        Poll::Pending
    }

    async fn by_connection(&self, servers: &Servers, failure: &mut Option<Vec<u8>>) -> Option<Vec<u8>> {
        let schedule = servers.schedule(self.outside.now());
        let count = servers.addresses().len();
        let each = PATIENCE / u32::try_from(count.max(1)).unwrap_or(1);
        for (_, server) in schedule.into_iter().take(count) {
            match tokio::time::timeout(each, self.connected(&server)).await {
                Ok(Ok((Said::Answer, packet))) => {
                    server.answered();
                    return Some(packet);
                }
                Ok(Ok((Said::Failure, packet))) => *failure = Some(packet),
                Ok(Err(error)) => {
                    tracing::debug!(%error, server = %server.address, "a name server cannot be asked");
                    server.silent(self.outside.now());
                }
                Err(_) => server.silent(self.outside.now()),
            }
        }
        None
    }

    async fn connected(&self, server: &Server) -> io::Result<(Said, Vec<u8>)> {
        let socket = self.outside.make(self.from, self.beside, || match server.address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        })?;
        let mut stream = socket.connect(server.address).await?;
        let id: u16 = rand::random();
        let length = u16::try_from(self.packet.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(self.packet.len() + 2);
        message.extend(length.to_be_bytes());
        message.extend(id.to_be_bytes());
        message.extend(self.packet.get(2..).unwrap_or_default());
        stream.write_all(&message).await?;
        let length = stream.read_u16().await?;
        let mut packet = vec![0; length.into()];
        stream.read_exact(&mut packet).await?;
        let said = self.question.answered_by(id, &packet);
        said.map(|said| (said, packet)).ok_or_else(|| io::Error::other("it answered something else"))
    }
}
