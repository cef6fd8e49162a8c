//! A UDP port: a socket towards the container for each client, for as long as they speak to each other.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use wharf_kernel::sys::carry::{self, Local};

use super::limits::{Mine, Taken};
use super::{Common, Order};

/// A client that was answered is remembered for so long after the last datagram; Docker's own proxy does the same.
const IDLE: Duration = Duration::from_secs(90);
/// One that the container never answered.
const UNANSWERED: Duration = Duration::from_secs(30);
/// Datagrams in a row that one port takes before others have their turn.
const BATCH: usize = 32;
/// No datagram is longer.
const LONGEST: usize = 65_536;

/// A client, and which address of this host it spoke to.
type Key = (SocketAddrV6, Option<Local>);

/// One client.
struct Session {
    socket: Rc<UdpSocket>,
    used: Rc<Cell<Instant>>,
    answered: Rc<Cell<bool>>,
    end: AbortHandle,
    _taken: Taken,
}

type Sessions = Rc<RefCell<HashMap<Key, Session>>>;

/// Serves until it is told otherwise; its clients are forgotten then.
pub(super) async fn serve(common: Rc<Common>, socket: UdpSocket, container: SocketAddr, order: Rc<Order>) {
    let socket = Rc::new(socket);
    let (mine, sessions) = (Rc::new(Mine::default()), Sessions::default());
    let mut answers: JoinSet<()> = JoinSet::new();
    loop {
        tokio::select! {
            _ = order.end() => break,
            ready = socket.readable() => {
                if ready.is_err() {
                    break;
                }
                for _ in 0..BATCH {
                    let mut buffer = common.datagram.borrow_mut();
                    let taken = socket.try_io(Interest::READABLE, || {
                        Ok(carry::receive_from(socket.as_fd(), &mut buffer)?)
                    });
                    let (length, from, local) = match taken {
                        Ok(taken) => taken,
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                        // Of an earlier answer that nobody wanted.
                        Err(_) => continue,
                    };
                    let data = buffer.get(..length).unwrap_or_default();
                    let key = (from, local);
                    let inside = to_container(&sessions, key).or_else(|| {
                        begin(&common, &mine, &sessions, &socket, key, container, &mut answers)
                    });
                    if let Some(inside) = inside {
                        pass_in(&inside, data);
                    }
                }
                tokio::task::yield_now().await;
            }
            Some(_) = answers.join_next(), if !answers.is_empty() => {}
        }
    }
    answers.shutdown().await;
    sessions.borrow_mut().clear();
}

/// A container that does not read loses datagrams, as on any network.
fn pass_in(inside: &UdpSocket, data: &[u8]) {
    use nix::sys::socket::{MsgFlags, send};
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    // What is said first may be of an earlier datagram, that nobody wanted; then this one is not sent yet.
    if send(inside.as_raw_fd(), data, flags) == Err(nix::errno::Errno::ECONNREFUSED) {
        let _ = send(inside.as_raw_fd(), data, flags);
    }
}

/// The socket of a client that is known.
fn to_container(sessions: &Sessions, key: Key) -> Option<Rc<UdpSocket>> {
    let sessions = sessions.borrow();
    let session = sessions.get(&key)?;
    session.used.set(Instant::now());
    Some(Rc::clone(&session.socket))
}

/// A client that is new. Where there are too many, the one that has waited longest for a first answer makes room.
fn begin(
    common: &Rc<Common>,
    mine: &Rc<Mine>,
    sessions: &Sessions,
    outside: &Rc<UdpSocket>,
    key: Key,
    container: SocketAddr,
    answers: &mut JoinSet<()>,
) -> Option<Rc<UdpSocket>> {
    let from = IpAddr::V6(*key.0.ip());
    let taken = common.sessions.take(mine, from).or_else(|| {
        let oldest = {
            let sessions = sessions.borrow();
            let waiting = sessions.iter().filter(|(_, session)| !session.answered.get());
            waiting.min_by_key(|(_, session)| session.used.get()).map(|(key, _)| *key)
        };
        let session = sessions.borrow_mut().remove(&oldest?)?;
        session.end.abort();
        drop(session);
        common.sessions.take(mine, from)
    })?;
    let socket = Rc::new(connected(container).ok()?);
    let (used, answered) = (Rc::new(Cell::new(Instant::now())), Rc::new(Cell::new(false)));
    let end = {
        let (common, sessions, outside) = (Rc::clone(common), Rc::clone(sessions), Rc::clone(outside));
        let (socket, used, answered) = (Rc::clone(&socket), Rc::clone(&used), Rc::clone(&answered));
        answers.spawn_local(async move {
            answer(&common, &socket, &outside, key, &used, &answered).await;
            sessions.borrow_mut().remove(&key);
        })
    };
    let session = Session { socket: Rc::clone(&socket), used, answered, end, _taken: taken };
    sessions.borrow_mut().insert(key, session);
    Some(socket)
}

fn connected(container: SocketAddr) -> io::Result<UdpSocket> {
    let any = match container {
        SocketAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        SocketAddr::V6(_) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    // From now on the kernel drops what others send.
    socket.connect(container)?;
    UdpSocket::from_std(socket)
}

/// Passes on what the container says to one client, from the address that the client spoke to, until neither speaks any more.
async fn answer(
    common: &Common,
    inside: &UdpSocket,
    outside: &UdpSocket,
    (client, local): Key,
    used: &Cell<Instant>,
    answered: &Cell<bool>,
) {
    loop {
        let patience = if answered.get() { IDLE } else { UNANSWERED };
        match tokio::time::timeout_at(used.get() + patience, inside.readable()).await {
            Err(_) if used.get().elapsed() >= patience => return,
            // Spoken to meanwhile.
            Err(_) => continue,
            Ok(Err(_)) => return,
            Ok(Ok(())) => {}
        }
        for _ in 0..BATCH {
            let mut buffer = common.datagram.borrow_mut();
            let length = match inside.try_recv(&mut buffer) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // Nobody listens there at this moment; somebody may before the client gives up.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => break,
                Err(_) => return,
            };
            used.set(Instant::now());
            answered.set(true);
            let data = buffer.get(..length).unwrap_or_default();
            // A client that does not read, or is gone, loses its answers.
            let _ = carry::send_to(outside.as_fd(), data, client, local);
        }
        tokio::task::yield_now().await;
    }
}

/// A buffer for any datagram.
pub(super) fn buffer() -> RefCell<Vec<u8>> {
    RefCell::new(vec![0; LONGEST])
}
