//! The keeper's side: one thread, one epoll, and a table.

mod foreign;
mod start;
mod state;
mod table;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use wharf_kernel::container::Host;
use wharf_kernel::sys::socket;
use wharf_kernel::{Error, Result};

use crate::wire::{self, Answer, Assembler, Packet, Received, Request};
use table::Table;

pub use start::{Settings, serve};

const LISTENER: u64 = 0;
const DAEMON: u64 = 1;
const CHILDREN: u64 = 2;

/// A daemon that does not read for so many packets is cut off; it asks anew when it comes back.
const QUEUE: usize = 4096;

/// How long a keeper without containers waits for its first daemon.
const IDLE: Duration = Duration::from_secs(10);

/// The connected daemon.
struct Daemon {
    socket: OwnedFd,
    assembler: Assembler,
    queue: VecDeque<Packet>,
}

/// What the loop ends with.
enum End {
    Shutdown,
    /// Replace this process by the program.
    Reload {
        program: String,
        sequence: u64,
    },
}

struct Server {
    settings: Settings,
    host: Host,
    epoll: Epoll,
    listener: OwnedFd,
    /// Held, not used: one keeper per directory.
    lock: OwnedFd,
    daemon: Option<Daemon>,
    table: Table,
    /// Set once another runtime was used: what it leaves behind becomes ours to reap.
    children: Option<nix::sys::signalfd::SignalFd>,
    buffer: Vec<u8>,
    alone_since: Option<Instant>,
    had_daemon: bool,
}

fn errno(call: &'static str) -> impl Fn(nix::errno::Errno) -> Error {
    move |e| Error::new(call, e as i32)
}

impl Server {
    fn watch(&self, fd: &OwnedFd, token: u64, flags: EpollFlags) -> Result<()> {
        self.epoll.add(fd, EpollEvent::new(flags, token)).map_err(errno("epoll_ctl(EPOLL_CTL_ADD)"))
    }

    /// Runs until there is a reason to end.
    fn run(&mut self) -> Result<End> {
        self.alone_since = self.daemon.is_none().then(Instant::now);
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let timeout = match self.alone_since {
                Some(since) if self.table.is_empty() => {
                    let stay = if self.had_daemon { Duration::ZERO } else { IDLE };
                    let left = stay.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        return Ok(End::Shutdown);
                    }
                    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO)
                }
                _ => EpollTimeout::NONE,
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result.map_err(errno("epoll_wait()"))?,
            };
            for event in events.iter().take(count) {
                let end = match event.data() {
                    LISTENER => self.accept().map(|()| None)?,
                    DAEMON => self.daemon_event(event.events()),
                    CHILDREN => {
                        self.children_event();
                        None
                    }
                    token => {
                        self.process_event(token, event.events());
                        None
                    }
                };
                if let Some(end) = end {
                    return Ok(end);
                }
            }
        }
    }

    /// One daemon at a time. A second one is told so and may come again when the first has died.
    fn accept(&mut self) -> Result<()> {
        let socket = match socket::accept(self.listener.as_fd()) {
            // It went away again, or there are no descriptors left for it.
            Err(e)
                if matches!(e.errno(), libc::EAGAIN | libc::ECONNABORTED | libc::EMFILE | libc::ENFILE) =>
            {
                return Ok(());
            }
            result => result?,
        };
        let own = nix::unistd::geteuid().as_raw();
        if !socket::peer(socket.as_fd()).is_ok_and(|peer| peer.uid == own) {
            return Ok(());
        }
        if self.daemon.as_ref().is_some_and(|daemon| hung_up(&daemon.socket)) {
            self.lose_daemon();
        }
        if self.daemon.is_some() {
            for packet in wire::encode(0, &Answer::Busy, Vec::new())? {
                // Whoever does not wait for the answer needs none.
                let _ = packet.send(socket.as_fd());
            }
            return Ok(());
        }
        self.watch(&socket, DAEMON, EpollFlags::EPOLLIN)?;
        self.daemon = Some(Daemon { socket, assembler: Assembler::default(), queue: VecDeque::new() });
        self.alone_since = None;
        self.answer(0, &Answer::Hello(wire::VERSION), Vec::new());
        Ok(())
    }

    /// The daemon died or does not follow the protocol. Everything is kept for the next one.
    fn lose_daemon(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            // Closing it takes it out of the epoll set as well, unless a child being set up has a copy.
            let _ = self.epoll.delete(&daemon.socket);
            self.table.forget_waiting();
            // It may have been told of these ends and not have come to write them down: should this process die too, the next
            // keeper still knows.
            for (_, process) in self.table.iter().filter(|(_, process)| process.exit.is_some()) {
                state::write(&self.settings, process);
            }
            self.had_daemon = true;
            self.alone_since = Some(Instant::now());
        }
    }

    fn daemon_event(&mut self, flags: EpollFlags) -> Option<End> {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.flush();
        }
        // A bounded number at a time, so that exits are seen while a daemon keeps asking.
        for _ in 0..16 {
            let Some(daemon) = &mut self.daemon else { return None };
            match daemon.assembler.receive::<Request>(daemon.socket.as_fd(), &mut self.buffer) {
                Ok(Received::Message(message)) => {
                    if let Some(end) = self.handle(message.sequence, message.body, message.fds) {
                        return Some(end);
                    }
                }
                Ok(Received::Part) => {}
                Ok(Received::Nothing) => return None,
                Ok(Received::End) | Err(_) => {
                    self.lose_daemon();
                    return None;
                }
            }
        }
        None
    }

    /// Sends, or queues where the daemon is slow.
    fn answer(&mut self, sequence: u64, answer: &Answer, fds: Vec<OwnedFd>) {
        let Some(daemon) = &mut self.daemon else { return };
        match wire::encode(sequence, answer, fds) {
            Ok(packets) => daemon.queue.extend(packets),
            // It cannot be said; then the connection is no use.
            Err(_) => return self.lose_daemon(),
        }
        self.flush();
    }

    fn flush(&mut self) {
        let Some(daemon) = &mut self.daemon else { return };
        while let Some(packet) = daemon.queue.front() {
            match packet.send(daemon.socket.as_fd()) {
                Ok(()) => {
                    daemon.queue.pop_front();
                }
                Err(e) if e.is(libc::EAGAIN) => break,
                Err(_) => return self.lose_daemon(),
            }
        }
        if daemon.queue.len() > QUEUE {
            return self.lose_daemon();
        }
        let mut flags = EpollFlags::EPOLLIN;
        if !daemon.queue.is_empty() {
            flags |= EpollFlags::EPOLLOUT;
        }
        let mut event = EpollEvent::new(flags, DAEMON);
        if self.epoll.modify(&daemon.socket, &mut event).is_err() {
            self.lose_daemon();
        }
    }
}

fn hung_up(socket: &OwnedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, poll};
    let mut polls = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut polls, 0u8).is_ok();
    ready
        && polls
            .iter()
            .any(|p| p.revents().is_some_and(|r| r.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)))
}
