//! The daemon's side. It knows what is to be carried; a forwarder that dies is replaced, and given everything again.
//!
//! All functions block, for a few seconds at most: they belong on threads meant for such work.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wharf_kernel::sys::{process as sys, socket};
use wharf_plan::net::{Forward, ForwardChange, OwnedForward};

use crate::wire::{self, Answer, Counts, MOST, PACKET, Request};

/// How long a forwarder may take to answer. One that takes longer is ended and replaced.
const PATIENCE: Duration = Duration::from_secs(5);
/// Listeners of which the daemon keeps copies, so that nothing is lost should the forwarder die: what comes meanwhile waits
/// in them. What is beyond is listened on anew.
const COPIES: usize = 1024;
/// Pause before a forwarder that died at once is started again, doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Makes a listener for a forward; the error is for the log.
pub type Listen = Box<dyn Fn(&Forward) -> std::result::Result<OwnedFd, String> + Send + Sync>;

/// Why something is not carried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program does not start, or cannot be spoken to.
    #[error("the forwarder cannot be reached: {0}")]
    Unreachable(String),
    /// It said no.
    #[error("the forwarder refused: {0}")]
    Refused(String),
}

type Result<T> = std::result::Result<T, Error>;

/// A connection.
#[derive(Debug)]
struct Connection {
    socket: Arc<OwnedFd>,
    process: OwnedFd,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Whoever watches its end has a hold on it too.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

#[derive(Default)]
struct State {
    /// What is to be carried, with copies of some listeners.
    wanted: BTreeMap<OwnedForward, Option<OwnedFd>>,
    copies: usize,
    connection: Option<Connection>,
}

impl State {
    /// The forwarder has these; of very many the daemon keeps no copies.
    fn forget_copies(&mut self, of: &[OwnedForward]) {
        for one in of {
            if self.copies <= COPIES {
                return;
            }
            if self.wanted.get_mut(one).and_then(Option::take).is_some() {
                self.copies -= 1;
            }
        }
    }
}

struct Shared {
    exec_root: PathBuf,
    program: PathBuf,
    listen: Listen,
    state: Mutex<State>,
}

/// Handle on the forwarder of an exec root; clones share it. It is started when there is something for it to do.
#[derive(Clone)]
pub struct Forwarder {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").field("exec_root", &self.shared.exec_root).finish_non_exhaustive()
    }
}

impl Forwarder {
    /// Nothing is started yet. `program` is called as `program forward …`; `listen` makes listeners where they are lost.
    pub fn new(exec_root: &Path, program: &Path, listen: Listen) -> Self {
        let shared = Shared {
            exec_root: exec_root.to_owned(),
            program: program.to_owned(),
            listen,
            state: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is wanted is written down before the forwarder is asked for it, so it holds after a panic too.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has these carried for an endpoint from now on. On failure none of them is.
    pub fn add(&self, endpoint: &str, listeners: Vec<(Forward, OwnedFd)>) -> Result<()> {
        if listeners.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let list: Vec<OwnedForward> =
            listeners.iter().map(|(forward, _)| (endpoint.to_owned(), *forward)).collect();
        // First what others want: should one of these be refused, it is not to take any of theirs with it.
        let ensured = self.ensure(&mut state);
        for ((_, socket), one) in listeners.into_iter().zip(&list) {
            state.copies += 1;
            state.wanted.insert(one.clone(), Some(socket));
        }
        let mut result = ensured.and_then(|()| Self::put(&mut state, &list));
        if matches!(result, Err(Error::Unreachable(_))) {
            // It died, or hung and was ended: with the next one this is nobody's trouble.
            result = self.ensure(&mut state).and_then(|()| Self::put(&mut state, &list));
        }
        if let Err(error) = result {
            Self::forget(&mut state, &list);
            return Err(error);
        }
        state.forget_copies(&list);
        Ok(())
    }

    /// Ends what is carried for an endpoint. When this is done its ports are free.
    pub fn remove(&self, endpoint: &str) {
        let mut state = self.lock();
        let list: Vec<OwnedForward> = state
            .wanted
            .range((endpoint.to_owned(), FIRST)..)
            .map(|(one, _)| one)
            .take_while(|(owner, _)| owner == endpoint)
            .cloned()
            .collect();
        if !list.is_empty() {
            Self::forget(&mut state, &list);
        }
    }

    /// After a start of the daemon: exactly these are to be carried. What is carried already goes on, what is not begins, the
    /// rest ends. What cannot be carried is named in the log and in the result.
    pub fn adopt(&self, wanted: BTreeSet<OwnedForward>) -> Vec<Forward> {
        let mut state = self.lock();
        state.wanted = wanted.into_iter().map(|one| (one, None)).collect();
        state.copies = 0;
        if state.wanted.is_empty() {
            // Whatever is there has nothing left to do; if nobody is there, that is well too.
            let known = self.connect(&mut state).and_then(|()| Self::list(&mut state));
            if let Ok(have) = known {
                self.reconcile(&mut state, &have);
            }
            return Vec::new();
        }
        let missing = self.establish(&mut state);
        if state.connection.is_none() {
            Shared::again(&self.shared, PAUSE);
        }
        missing
    }

    /// What it has under way; nothing where none runs.
    pub fn counts(&self) -> Result<Counts> {
        let mut state = self.lock();
        if state.connection.is_none() {
            return Ok(Counts::default());
        }
        match Self::ask(&mut state, &Request::Count, &[])? {
            Answer::Counts(counts) => Ok(counts),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes forwards out of what is wanted and ends them.
    fn forget(state: &mut State, list: &[OwnedForward]) {
        for one in list {
            if state.wanted.remove(one).flatten().is_some() {
                state.copies -= 1;
            }
        }
        if state.connection.is_none() {
            return;
        }
        for part in list.chunks(MOST) {
            if let Err(error) = Self::ask(state, &Request::Remove(part.to_vec()), &[]) {
                // It was ended then, and has no ports any more; whoever watches it starts the next one.
                tracing::warn!(%error, "ports are given up with their forwarder");
                return;
            }
        }
    }

    /// Connected, and if that is new, with everything that was wanted before.
    fn ensure(&self, state: &mut State) -> Result<()> {
        if state.connection.is_some() {
            return Ok(());
        }
        self.start(state)?;
        let have = Self::list(state)?;
        self.reconcile(state, &have);
        Ok(())
    }

    fn establish(&self, state: &mut State) -> Vec<Forward> {
        let all = |state: &State| state.wanted.keys().map(|(_, forward)| *forward).collect();
        match self.start(state).and_then(|()| Self::list(state)) {
            Ok(have) => self.reconcile(state, &have),
            Err(error) => {
                tracing::error!(%error, "published ports of IPv6 are not carried");
                all(state)
            }
        }
    }

    /// Makes what a forwarder has what is wanted; those that cannot be had are the result.
    fn reconcile(&self, state: &mut State, have: &BTreeSet<OwnedForward>) -> Vec<Forward> {
        let want: BTreeSet<OwnedForward> = state.wanted.keys().cloned().collect();
        let change = ForwardChange::plan(have, &want);
        for part in change.remove.chunks(MOST) {
            if let Err(error) = Self::ask(state, &Request::Remove(part.to_vec()), &[]) {
                tracing::warn!(%error, "ports without a container");
                return want.difference(have).map(|(_, forward)| *forward).collect();
            }
        }
        let mut missing = Vec::new();
        // A part at a time, so that there are never many more copies than are kept.
        for (number, part) in change.add.chunks(MOST).enumerate() {
            let mut list = Vec::with_capacity(part.len());
            for one in part {
                if state.wanted.get(one).is_some_and(Option::is_some) {
                    list.push(one.clone());
                    continue;
                }
                match (self.shared.listen)(&one.1) {
                    Ok(socket) => {
                        state.copies += 1;
                        state.wanted.insert(one.clone(), Some(socket));
                        list.push(one.clone());
                    }
                    Err(error) => {
                        tracing::error!(%error, forward = %one.1, "a published port is not carried");
                        missing.push(one.1);
                    }
                }
            }
            match Self::put(state, &list) {
                Ok(()) => state.forget_copies(&list),
                Err(error) => {
                    tracing::error!(%error, "published ports of IPv6 are not carried");
                    missing.extend(list.into_iter().map(|(_, forward)| forward));
                }
            }
            if state.connection.is_none() {
                // Whoever begins again gives it all of them.
                let rest = change.add.iter().skip((number + 1) * MOST);
                missing.extend(rest.map(|(_, forward)| *forward));
                break;
            }
        }
        missing
    }

    /// Gives it forwards of which there are copies.
    fn put(state: &mut State, list: &[OwnedForward]) -> Result<()> {
        for part in list.chunks(MOST) {
            let (mut given, mut sockets) = (Vec::new(), Vec::new());
            for one in part {
                if let Some(Some(socket)) = state.wanted.get(one) {
                    let copy = socket.try_clone().map_err(|e| Error::Unreachable(e.to_string()))?;
                    given.push(one.clone());
                    sockets.push(copy);
                }
            }
            match Self::ask(state, &Request::Add(given), &sockets)? {
                Answer::Done => {}
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    fn list(state: &mut State) -> Result<BTreeSet<OwnedForward>> {
        let mut all = BTreeSet::new();
        loop {
            let skip = u32::try_from(all.len()).unwrap_or(u32::MAX);
            match Self::ask(state, &Request::List(skip), &[])? {
                Answer::List(page) if page.is_empty() => return Ok(all),
                Answer::List(page) => all.extend(page),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// One question and its answer. A forwarder that does not answer is ended.
    fn ask(state: &mut State, request: &Request, fds: &[OwnedFd]) -> Result<Answer> {
        let Some(connection) = &state.connection else {
            return Err(Error::Unreachable("it has ended".into()));
        };
        let result = wire::send(connection.socket.as_fd(), request, fds)
            .map_err(|e| Error::Unreachable(e.to_string()))
            .and_then(|()| next(&connection.socket));
        match result {
            Ok(Answer::Refused(why)) => Err(Error::Refused(why)),
            Ok(answer) => Ok(answer),
            Err(error) => {
                // What is there cannot be relied on. It has ended by itself where this fails.
                let _ = sys::pidfd_send_signal(connection.process.as_fd(), libc::SIGKILL);
                ended(&connection.process, PATIENCE);
                state.connection = None;
                Err(error)
            }
        }
    }

    fn connect(&self, state: &mut State) -> Result<()> {
        let unreachable = |e: wharf_kernel::Error| Error::Unreachable(e.to_string());
        let path = crate::socket_path(&self.shared.exec_root);
        let socket = socket::connect(&path).map_err(unreachable)?;
        let peer = socket::peer(socket.as_fd()).map_err(unreachable)?;
        let process = sys::pidfd_open(peer.pid).map_err(unreachable)?;
        let socket = Arc::new(socket);
        let connection = Connection { socket: Arc::clone(&socket), process };
        match next(&socket) {
            Ok(Answer::Hello(wire::VERSION)) => {}
            Ok(Answer::Hello(version)) => {
                // An older daemon's: it keeps its connections, and makes way.
                let _ = wire::send(socket.as_fd(), &Request::Retire, &[]);
                let _ = next(&socket);
                return Err(Error::Unreachable(format!("it is of version {version}")));
            }
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => {
                let _ = sys::pidfd_send_signal(connection.process.as_fd(), libc::SIGKILL);
                ended(&connection.process, PATIENCE);
                return Err(error);
            }
        }
        self.shared.watch(&socket);
        state.connection = Some(connection);
        Ok(())
    }

    /// Connects, to a new forwarder where there is none.
    fn start(&self, state: &mut State) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let Err(error) = self.connect(state) else { return Ok(()) };
            tracing::debug!(%error, "starting a forwarder");
            self.launch()?;
            let Err(error) = self.connect(state) else { return Ok(()) };
            // One that is just ending has the place for another moment.
            if Instant::now() > end {
                return Err(error);
            }
            #[allow(clippy::disallowed_methods, reason = "a thread that may block")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs `program forward --background …`, which ends when the forwarder serves.
    fn launch(&self) -> Result<()> {
        let Shared { program, exec_root, .. } = &*self.shared;
        let mut command = std::process::Command::new(program);
        // Whatever the file is called: under the name `dockerd` it would take other arguments.
        std::os::unix::process::CommandExt::arg0(&mut command, "wharf");
        command.arg("forward").arg("--exec-root").arg(exec_root).arg("--background");
        command.stdin(std::process::Stdio::null()).current_dir("/").env_clear();
        let failed =
            |e: String| Error::Unreachable(format!("{} forward does not start: {e}", program.display()));
        let output = command.output().map_err(|e| failed(e.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(failed(if text.is_empty() { output.status.to_string() } else { text }))
    }
}

/// Less than every forward of an endpoint.
const FIRST: Forward = Forward {
    protocol: wharf_plan::net::Protocol::Tcp,
    host: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
    container: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
};

fn unexpected(answer: &Answer) -> Error {
    Error::Refused(format!("an answer to another question: {answer:?}"))
}

/// Waits for a descriptor; false when it takes too long.
fn ready(fd: &OwnedFd, flags: PollFlags, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), flags)], left) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(count) => return count > 0,
            Err(_) => return false,
        }
    }
}

fn ended(process: &OwnedFd, patience: Duration) {
    if !ready(process, PollFlags::POLLIN, patience) {
        tracing::error!("the forwarder does not end");
    }
}

fn next(socket: &OwnedFd) -> Result<Answer> {
    if !ready(socket, PollFlags::POLLIN, PATIENCE) {
        return Err(Error::Unreachable(format!("it did not answer within {} seconds", PATIENCE.as_secs())));
    }
    match wire::receive::<Answer>(socket.as_fd(), &mut vec![0; PACKET]) {
        Ok(Some((answer, _))) => Ok(answer),
        Ok(None) => Err(Error::Unreachable("it has ended".into())),
        Err(error) => Err(Error::Unreachable(error.to_string())),
    }
}

impl Shared {
    /// Notices the end of a connection, and has everything begin again.
    fn watch(self: &Arc<Self>, socket: &Arc<OwnedFd>) {
        let (weak, socket) = (Arc::downgrade(self), Arc::clone(socket));
        let work = move || {
            // Only its end is waited for, at which the kernel says so unasked.
            while !ready(&socket, PollFlags::empty(), Duration::from_hours(1)) {
                if weak.strong_count() == 0 {
                    return;
                }
            }
            let Some(shared) = weak.upgrade() else { return };
            let forwarder = Forwarder { shared };
            {
                let mut state = forwarder.lock();
                // Another one may be in its place already. Where there is none, it was ended for not answering.
                if state.connection.as_ref().is_some_and(|c| !Arc::ptr_eq(&c.socket, &socket)) {
                    return;
                }
                state.connection = None;
                if state.wanted.is_empty() {
                    return;
                }
            }
            tracing::warn!("the forwarder has gone away; starting it again");
            forwarder.shared.restore(PAUSE);
        };
        spawn(work);
    }

    /// Begins again on another thread.
    fn again(shared: &Arc<Self>, pause: Duration) {
        let weak: Weak<Self> = Arc::downgrade(shared);
        spawn(move || {
            if let Some(shared) = weak.upgrade() {
                shared.restore(pause);
            }
        });
    }

    /// Gives a new forwarder what is wanted, until that succeeds or nothing is wanted any more.
    fn restore(self: &Arc<Self>, pause: Duration) {
        let forwarder = Forwarder { shared: Arc::clone(self) };
        let mut pause = pause;
        loop {
            {
                let mut state = forwarder.lock();
                if state.wanted.is_empty() || state.connection.is_some() {
                    return;
                }
                forwarder.establish(&mut state);
                if state.connection.is_some() {
                    return;
                }
            }
            #[allow(clippy::disallowed_methods, reason = "a thread of its own")]
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) {
    let started = std::thread::Builder::new().name("forwarder".into()).stack_size(256 << 10).spawn(work);
    if let Err(error) = started {
        tracing::error!(%error, "the forwarder is not watched");
    }
}
