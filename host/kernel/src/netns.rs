//! Network namespaces, held by descriptor and made ahead of need.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::sys::{file, net_device, process};

/// Namespace of the calling thread.
pub fn current() -> Result<OwnedFd> {
    file::openat(None, c"/proc/thread-self/ns/net", libc::O_RDONLY, 0)
}

/// A new network namespace with its loopback up.
///
/// Runs on a thread of its own, as entering a namespace must not touch a thread that others use.
pub fn create() -> Result<OwnedFd> {
    within(|| make(None))
}

/// Runs `work` on a fresh thread, which may change its namespaces at will.
pub fn within<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .stack_size(64 * 1024)
            .spawn_scoped(scope, work)
            .map_err(Error::from)?;
        thread.join().map_err(|_| Error::refused("netns", libc::EIO, "the thread panicked"))?
    })
}

/// A thread that visits other network namespaces and always comes back to the one it was made in.
#[derive(Debug)]
pub struct Visitor {
    home: OwnedFd,
}

impl Visitor {
    /// For the calling thread.
    pub fn new() -> Result<Self> {
        Ok(Self { home: current()? })
    }

    /// Runs `work`, which must be short and must not wait, in the namespace that `socket` belongs to. To be called on the
    /// thread that this was made on.
    pub fn beside<T>(&self, socket: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T> {
        let namespace = crate::sys::socket::network_namespace(socket)?;
        process::setns(namespace.as_fd(), process::CLONE_NEWNET)?;
        let result = work();
        if let Err(error) = process::setns(self.home.as_fd(), process::CLONE_NEWNET) {
            // As in `net::links`: does not happen, and nothing may be done in the wrong place.
            tracing::error!(%error, "a thread cannot leave a container's network namespace and stops here");
            loop {
                std::thread::park();
            }
        }
        Ok(result)
    }
}

/// On the calling thread: makes one and goes back home, so that the thread keeps no namespace alive.
fn make(home: Option<&OwnedFd>) -> Result<OwnedFd> {
    process::unshare(process::CLONE_NEWNET)?;
    let made = net_device::loopback_up().and_then(|()| current());
    if let Some(home) = home {
        process::setns(home.as_fd(), process::CLONE_NEWNET)?;
    }
    made
}

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    failed: Option<Error>,
    closing: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    taken: Condvar,
    size: usize,
    make: Box<dyn Fn() -> Result<T> + Send + Sync>,
}

impl<T> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("size", &self.size).finish_non_exhaustive()
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // The state is valid after every statement, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ready namespaces, made by a background thread. Making one costs 0.6 ms and sometimes 5; taking one nothing.
#[derive(Debug)]
pub struct Pool<T = OwnedFd> {
    shared: Arc<Shared<T>>,
}

impl Pool {
    /// Keeps `size` network namespaces ready. They belong to the network of the thread that calls this.
    pub fn new(size: usize) -> Result<Self> {
        let home = current()?;
        Self::with(size, create, move || make(Some(&home)))
    }
}

impl<T: Send + 'static> Pool<T> {
    /// Keeps `size` of whatever `make` makes ready.
    pub fn of(size: usize, make: impl Fn() -> Result<T> + Send + Sync + Clone + 'static) -> Result<Self> {
        Self::with(size, make.clone(), make)
    }

    /// `make` is for who finds the pool empty, `ahead` for the pool's own thread, whose namespace it may change.
    fn with(
        size: usize,
        make: impl Fn() -> Result<T> + Send + Sync + 'static,
        ahead: impl Fn() -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { ready: VecDeque::new(), failed: None, closing: false }),
            taken: Condvar::new(),
            size: size.max(1),
            make: Box::new(make),
        });
        let filler = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("netns-pool".into())
            .stack_size(128 * 1024)
            .spawn(move || fill(&filler, ahead))
            .map_err(Error::from)?;
        Ok(Self { shared })
    }

    /// One that is ready, or a new one where the pool is empty. Blocks for the time of making one at most.
    pub fn take(&self) -> Result<T> {
        let ready = self.shared.lock().ready.pop_front();
        self.shared.taken.notify_one();
        match ready {
            Some(namespace) => Ok(namespace),
            None => (self.shared.make)(),
        }
    }

    /// Gives back a namespace that was taken and never used.
    pub fn give_back(&self, namespace: T) {
        self.shared.lock().ready.push_back(namespace);
    }

    /// How many are ready now.
    pub fn ready(&self) -> usize {
        self.shared.lock().ready.len()
    }

    /// Why the last one could not be made, if it could not.
    pub fn last_failure(&self) -> Option<Error> {
        self.shared.lock().failed.clone()
    }
}

impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.taken.notify_one();
    }
}

fn fill<T>(shared: &Shared<T>, ahead: impl Fn() -> Result<T>) {
    loop {
        {
            let mut state = shared.lock();
            // After a failure wait for the next taker rather than spin.
            while !state.closing && (state.ready.len() >= shared.size || state.failed.is_some()) {
                state = shared.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.failed = None;
            }
            if state.closing {
                return;
            }
        }
        let made = ahead();
        let mut state = shared.lock();
        match made {
            Ok(namespace) => state.ready.push_back(namespace),
            Err(error) => {
                tracing::warn!(%error, "no network namespace could be made ahead");
                state.failed = Some(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file::fstatat;

    #[test]
    fn pool_hands_out_distinct_ones() {
        let pool = Pool::new(2).unwrap();
        let all: Vec<_> = (0..6).map(|_| pool.take().unwrap()).collect();
        let mut inodes: Vec<_> = all.iter().map(|n| fstatat(n.as_fd(), c"").unwrap().st_ino).collect();
        inodes.push(fstatat(current().unwrap().as_fd(), c"").unwrap().st_ino);
        inodes.sort_unstable();
        inodes.dedup();
        assert_eq!(inodes.len(), 7);
    }

    #[test]
    fn loopback_is_up() {
        let namespace = create().unwrap();
        let flags = within(|| {
            process::setns(namespace.as_fd(), process::CLONE_NEWNET)?;
            // This thread's own view of sysfs is of its network namespace only with a new mount; ask by socket.
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            let client = std::net::TcpStream::connect(listener.local_addr()?)?;
            Ok(client.peer_addr().is_ok())
        });
        assert!(flags.unwrap());
    }
}
