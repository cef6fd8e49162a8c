//! The clock by which calls are ended: one thread that counts milliseconds while calls are in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// Length of a tick.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// The thread sleeps after this many ticks without a call; waking it costs a caller some microseconds.
const IDLE_TICKS: u32 = 20;

#[derive(Debug, Default)]
struct Shared {
    active: AtomicUsize,
    asleep: AtomicBool,
    stop: AtomicBool,
}

/// Ends its thread when dropped.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    join: Option<JoinHandle<()>>,
}

impl Ticker {
    pub(crate) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let join = std::thread::Builder::new()
            .name("plugin-clock".into())
            .stack_size(64 << 10)
            .spawn(move || tick(&engine, &theirs))?;
        Ok(Self { shared, thread: join.thread().clone(), join: Some(join) })
    }

    /// The clock runs while the guard lives.
    pub(crate) fn enter(&self) -> Running<'_> {
        self.shared.active.fetch_add(1, SeqCst);
        if self.shared.asleep.swap(false, SeqCst) {
            self.thread.unpark();
        }
        Running(&self.shared)
    }
}

/// See [`Ticker::enter`].
pub(crate) struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.thread.unpark();
        if let Some(join) = self.join.take() {
            // The thread cannot panic: it only counts.
            let _ = join.join();
        }
    }
}

fn tick(engine: &Engine, shared: &Shared) {
    let mut idle = 0;
    while !shared.stop.load(SeqCst) {
        if shared.active.load(SeqCst) > 0 {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle > IDLE_TICKS {
            shared.asleep.store(true, SeqCst);
            // A call that began since is seen here; one that begins later sees `asleep` and wakes us.
            if shared.active.load(SeqCst) == 0 && !shared.stop.load(SeqCst) {
                std::thread::park();
            }
            shared.asleep.store(false, SeqCst);
            idle = 0;
            continue;
        }
        std::thread::park_timeout(TICK);
        engine.increment_epoch();
    }
}
