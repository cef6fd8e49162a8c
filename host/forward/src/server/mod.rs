//! The program: one thread, which does what the daemon says about ports and carries what comes to them.

mod confine;
mod limits;
pub mod relay;
mod start;
mod tcp;
mod udp;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use wharf_kernel::sys::{carry, socket};
use wharf_plan::net::{OwnedForward, Protocol};

use crate::wire::{self, Answer, Counts, MOST, PACKET, Request};
use limits::Shared;
use relay::Means;
pub use start::{Settings, serve};

/// Descriptors that are kept for everything else.
const RESERVE: usize = 64;
/// UDP clients at most.
const SESSIONS: usize = 4096;
/// How long a forwarder without anything to do waits for its first daemon.
const IDLE: Duration = Duration::from_secs(10);
/// There is a word for every change.
const FOREVER: Duration = Duration::from_hours(24);

/// What all ports share.
struct Common {
    means: Means,
    connections: Rc<Shared>,
    sessions: Rc<Shared>,
    datagram: RefCell<Vec<u8>>,
    /// Descriptors that this process may have.
    descriptors: usize,
}

impl Common {
    fn new(descriptors: usize) -> Rc<Self> {
        let common = Self {
            means: Means::new(relay::PIPES.min(descriptors / 16)),
            connections: Shared::new(0),
            sessions: Shared::new(0),
            datagram: udp::buffer(),
            descriptors,
        };
        common.share(0);
        Rc::new(common)
    }

    /// Distributes the descriptors anew: a listener takes one, a connection two, a UDP client one.
    fn share(&self, listeners: usize) {
        let pipes = 2 * relay::PIPES.min(self.descriptors / 16);
        let left = self.descriptors.saturating_sub(RESERVE + pipes + listeners);
        let sessions = SESSIONS.min(left / 4);
        self.sessions.set_most(sessions);
        self.connections.set_most((left - sessions) / 2);
    }

    /// Listeners at most: half of what there is, so that each is of some use.
    fn most_listeners(&self) -> usize {
        self.descriptors.saturating_sub(RESERVE) / 2
    }
}

/// How long a port is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Until it is said otherwise.
    Further,
    /// Nothing new is taken; what is under way goes on.
    Last,
    /// It ends now, with all that is under way.
    Now,
}

/// Tells a port's task how long to go on.
#[derive(Debug)]
struct Order {
    until: Cell<Until>,
    changed: Notify,
}

impl Order {
    fn give(&self, until: Until) {
        self.until.set(until);
        self.changed.notify_one();
    }

    /// Waits for an order to end.
    async fn end(&self) -> Until {
        while self.until.get() == Until::Further {
            self.changed.notified().await;
        }
        self.until.get()
    }
}

/// One port.
struct Listener {
    task: JoinHandle<()>,
    order: Rc<Order>,
}

/// The process.
struct Server {
    common: Rc<Common>,
    ports: RefCell<BTreeMap<OwnedForward, Listener>>,
    /// A daemon is connected.
    daemon: Cell<bool>,
    had_daemon: Cell<bool>,
    /// It takes nothing new and ends with what it has.
    retired: Cell<bool>,
    changed: Notify,
}

impl Server {
    fn new(descriptors: usize) -> Rc<Self> {
        Rc::new(Self {
            common: Common::new(descriptors),
            ports: RefCell::default(),
            daemon: Cell::new(false),
            had_daemon: Cell::new(false),
            retired: Cell::new(false),
            changed: Notify::new(),
        })
    }

    /// Runs until there is nothing left to do. `uid` is whose daemon is listened to.
    async fn run(self: &Rc<Self>, listener: OwnedFd, lock: OwnedFd, uid: u32) -> io::Result<()> {
        #[allow(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd keeps the promise that is asked for"
        )]
        let listener = Rc::new(AsyncFd::new(listener)?);
        let mut lock = Some(lock);
        let accepting = tokio::task::spawn_local(Rc::clone(self).accept(Rc::clone(&listener), uid));
        drop(listener);
        loop {
            if self.retired.get() && lock.take().is_some() {
                // The next one may have place and lock.
                accepting.abort();
            }
            let ports = !self.retired.get() && !self.ports.borrow().is_empty();
            let nothing = !ports && self.common.connections.taken() == 0 && !self.daemon.get();
            let wait = if nothing && (self.had_daemon.get() || self.retired.get()) {
                return Ok(());
            } else if nothing {
                IDLE
            } else if ports || self.daemon.get() {
                FOREVER
            } else {
                // Connections end without a word.
                Duration::from_secs(1)
            };
            let waited = tokio::time::timeout(wait, self.changed.notified()).await;
            if waited.is_err() && nothing && !self.daemon.get() {
                return Ok(());
            }
        }
    }

    /// One daemon at a time; the latest is the one that is alive.
    async fn accept(self: Rc<Self>, listener: Rc<AsyncFd<OwnedFd>>, uid: u32) {
        let mut current: Option<JoinHandle<()>> = None;
        loop {
            let Ok(mut ready) = listener.readable().await else { return };
            let connection = match socket::accept(listener.as_fd()) {
                Ok(connection) => connection,
                Err(e) if e.is(libc::EAGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if !socket::peer(connection.as_fd()).is_ok_and(|peer| peer.uid == uid) {
                continue;
            }
            if let Some(old) = current.take() {
                old.abort();
            }
            self.daemon.set(true);
            self.had_daemon.set(true);
            let server = Rc::clone(&self);
            current = Some(tokio::task::spawn_local(async move {
                // However it ends, the daemon will come again.
                let _ = server.converse(connection).await;
                server.daemon.set(false);
                server.changed.notify_one();
            }));
        }
    }

    async fn converse(&self, connection: OwnedFd) -> io::Result<()> {
        wire::send(connection.as_fd(), &Answer::Hello(wire::VERSION), &[])?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd keeps the promise that is asked for"
        )]
        let connection = AsyncFd::new(connection)?;
        let mut buffer = vec![0; PACKET];
        loop {
            let mut ready = connection.readable().await?;
            let (request, fds) = match wire::receive::<Request>(connection.as_fd(), &mut buffer) {
                Ok(Some(received)) => received,
                Ok(None) => return Ok(()),
                Err(e) if e.is(libc::EAGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            let answer = self.answer(request, fds).await;
            // The daemon asks one thing at a time, so there is room.
            wire::send(connection.as_fd(), &answer, &[])?;
            self.changed.notify_one();
        }
    }

    async fn answer(&self, request: Request, fds: Vec<OwnedFd>) -> Answer {
        match request {
            Request::Retire => {
                self.retired.set(true);
                for port in self.ports.borrow().values() {
                    port.order.give(Until::Last);
                }
                Answer::Done
            }
            Request::List(skip) => {
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                Answer::List(self.ports.borrow().keys().skip(skip).take(MOST).cloned().collect())
            }
            Request::Add(_) if self.retired.get() => Answer::Refused("it is retired".into()),
            Request::Add(list) if list.len() != fds.len() => {
                Answer::Refused("as many ports as sockets are needed".into())
            }
            Request::Add(list) => {
                let mut added: Vec<OwnedForward> = Vec::with_capacity(list.len());
                for (one, fd) in list.into_iter().zip(fds) {
                    match self.add(one.clone(), fd) {
                        Ok(true) => added.push(one),
                        Ok(false) => {}
                        Err(error) => {
                            // All or nothing.
                            self.remove(&added).await;
                            return Answer::Refused(error);
                        }
                    }
                }
                Answer::Done
            }
            Request::Remove(list) => {
                self.remove(&list).await;
                Answer::Done
            }
            Request::Count => Answer::Counts(Counts {
                listeners: self.ports.borrow().len(),
                connections: self.common.connections.taken(),
                sessions: self.common.sessions.taken(),
                refused: self.common.connections.refused() + self.common.sessions.refused(),
            }),
        }
    }

    /// False: it is there already.
    fn add(&self, one: OwnedForward, fd: OwnedFd) -> Result<bool, String> {
        let mut ports = self.ports.borrow_mut();
        if ports.contains_key(&one) {
            // It serves already; its connections are worth more than another socket of the same port.
            return Ok(false);
        }
        let most = self.common.most_listeners();
        if ports.len() >= most {
            return Err(format!(
                "it listens on {most} ports already, which is all that its limit of open files allows"
            ));
        }
        let forward = one.1;
        let failed = |e: &dyn std::fmt::Display| format!("{forward}: {e}");
        let (common, container) = (Rc::clone(&self.common), forward.container);
        let order = Rc::new(Order { until: Cell::new(Until::Further), changed: Notify::new() });
        let given = Rc::clone(&order);
        let task = match forward.protocol {
            Protocol::Tcp => {
                let listener = std::net::TcpListener::from(fd);
                listener.set_nonblocking(true).map_err(|e| failed(&e))?;
                let listener = TcpListener::from_std(listener).map_err(|e| failed(&e))?;
                tokio::task::spawn_local(tcp::serve(common, listener, container, given))
            }
            Protocol::Udp => {
                carry::tell_destinations(fd.as_fd()).map_err(|e| failed(&e))?;
                let socket = std::net::UdpSocket::from(fd);
                socket.set_nonblocking(true).map_err(|e| failed(&e))?;
                let socket = UdpSocket::from_std(socket).map_err(|e| failed(&e))?;
                tokio::task::spawn_local(udp::serve(common, socket, container, given))
            }
            Protocol::Sctp => return Err(failed(&"SCTP is not carried")),
        };
        ports.insert(one, Listener { task, order });
        self.common.share(ports.len());
        Ok(true)
    }

    /// When this is done the sockets are closed.
    async fn remove(&self, list: &[OwnedForward]) {
        let gone: Vec<Listener> = {
            let mut ports = self.ports.borrow_mut();
            list.iter().filter_map(|one| ports.remove(one)).collect()
        };
        for port in &gone {
            port.order.give(Until::Now);
        }
        for port in gone {
            // One that panicked has closed its sockets too.
            let _ = port.task.await;
        }
        self.common.share(self.ports.borrow().len());
    }
}
