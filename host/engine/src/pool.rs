//! Threads for work that blocks: mounts, cgroups, netlink.
//!
//! Not the runtime's own blocking pool: that one grows and shrinks, and its hand-over was measured slower. Idle
//! threads here wait on one condition variable; the most recently idle one is woken, so that its caches are warm.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    more: Condvar,
    most: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No job runs while the lock is held, so the state is whole after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bounded set of threads that are started as needed and stay.
#[derive(Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    _close: Arc<Close>,
}

/// Ends the threads with the last handle.
struct Close(Arc<Shared>);

impl Drop for Close {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.more.notify_all();
    }
}

impl Pool {
    /// At most `most` threads.
    pub(crate) fn new(most: usize) -> Self {
        let shared =
            Arc::new(Shared { state: Mutex::new(State::default()), more: Condvar::new(), most: most.max(1) });
        Self { _close: Arc::new(Close(Arc::clone(&shared))), shared }
    }

    /// Begins the work at once; the answer may be awaited later or never, the work is done either way.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T>> + Send + 'static {
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            let _ = done.send(work());
        });
        let grow = {
            let mut state = self.shared.lock();
            state.jobs.push_back(job);
            let grow = state.jobs.len() > state.idle && state.threads < self.shared.most;
            if grow {
                state.threads += 1;
            }
            grow
        };
        if grow {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new()
                .name("kernel".into())
                .stack_size(512 << 10)
                .spawn(move || work_on(&shared));
            if started.is_err() {
                self.shared.lock().threads -= 1;
            }
        }
        self.shared.more.notify_one();
        async move { answer.await.map_err(|_| Error::internal("a kernel thread failed; see the daemon's log")) }
    }

    /// Does the work and waits for it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.start(work).await
    }
}

/// Work that many tasks ask for at the same moment, as at a tick of their clock: it is done in one visit to a kernel thread
/// instead of one for each. For work that is short and blocks on nothing.
#[derive(Clone)]
pub(crate) struct Batch {
    pool: Pool,
    waiting: Arc<Mutex<Vec<Job>>>,
}

impl Batch {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, waiting: Arc::default() }
    }

    /// Does the work, together with what others ask before the runtime has gone round once, and waits for it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (done, answer) = oneshot::channel();
        let first = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(Box::new(move || {
                let _ = done.send(work());
            }));
            waiting.len() == 1
        };
        if first {
            let (pool, waiting) = (self.pool.clone(), Arc::clone(&self.waiting));
            // In a task of its own: who asked first may go away.
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                let jobs = std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
                // Each tells whom it concerns.
                let _ = pool.run(move || jobs.into_iter().for_each(do_one)).await;
            });
        }
        answer.await.map_err(|_| Error::internal("a kernel thread failed; see the daemon's log"))
    }
}

fn do_one(job: Job) {
    if std::panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
        tracing::error!("a kernel thread panicked; the operation failed");
    }
}

fn work_on(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            do_one(job);
            state = shared.lock();
            continue;
        }
        if state.closed {
            return;
        }
        state.idle += 1;
        state = shared.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn runs_and_survives_panics() {
        let pool = Pool::new(2);
        assert_eq!(pool.run(|| 1 + 1).await.unwrap(), 2);
        let bad = pool.run(|| -> u8 { panic!("on purpose") }).await;
        assert_eq!(bad.unwrap_err().kind, crate::Kind::Internal);
        let many: Vec<_> = (0..50).map(|i| pool.start(move || i)).collect();
        for (i, answer) in many.into_iter().enumerate() {
            assert_eq!(answer.await.unwrap(), i);
        }
        assert!(pool.shared.lock().threads <= 2);
    }
    #[tokio::test]
    async fn together() {
        let batch = Batch::new(Pool::new(4));
        let ask = |batch: Batch| tokio::spawn(async move { batch.run(|| std::thread::current().id()).await });
        let first = ask(batch.clone());
        let bad = tokio::spawn({
            let batch = batch.clone();
            async move { batch.run(|| -> u8 { panic!("on purpose") }).await }
        });
        let others: Vec<_> = (0..20).map(|_| ask(batch.clone())).collect();
        let first = first.await.unwrap().unwrap();
        assert_eq!(bad.await.unwrap().unwrap_err().kind, crate::Kind::Internal);
        for other in others {
            assert_eq!(other.await.unwrap().unwrap(), first, "one thread did it all");
        }
        // Who begins a round may go away.
        let gone = ask(batch.clone());
        let stays = ask(batch.clone());
        tokio::task::yield_now().await;
        gone.abort();
        assert!(stays.await.unwrap().is_ok());
    }
}
