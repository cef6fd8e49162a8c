//! Time used by one call.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Counts processor time once a call turns out to be a long one: short calls, which are nearly all, pay nothing.
///
/// Processor time and not wall time is what a plugin answers for, as the machine may be busy with something else.
#[derive(Debug)]
pub(crate) struct Meter {
    started: Instant,
    cpu_limit: Duration,
    wall_limit: Duration,
    /// Whether the first tick has passed.
    long: AtomicBool,
    used: AtomicU64,
    slice_start: AtomicU64,
    expired: AtomicBool,
}

fn thread_time() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

impl Meter {
    pub(crate) fn new(cpu_limit: Duration, wall_limit: Duration) -> Self {
        Self {
            started: Instant::now(),
            cpu_limit,
            wall_limit,
            long: AtomicBool::new(false),
            used: AtomicU64::new(0),
            slice_start: AtomicU64::new(0),
            expired: AtomicBool::new(false),
        }
    }

    /// Called by the running guest at every tick; whether it may go on.
    pub(crate) fn may_continue(&self) -> bool {
        let now = thread_time();
        let used = if self.long.swap(true, Relaxed) {
            self.used.fetch_add(now.saturating_sub(self.slice_start.load(Relaxed)), Relaxed);
            self.used.load(Relaxed)
        } else {
            let first = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            // The first slice is at most some ticks; more than that was somebody else's time.
            let first = first.min(2_000_000);
            self.used.store(first, Relaxed);
            first
        };
        self.slice_start.store(now, Relaxed);
        let used = Duration::from_nanos(used);
        // Time that passed while the machine did something else, or slept, is no reason to end a call that has done
        // little: nothing a plugin can call waits.
        let late = self.started.elapsed() >= self.wall_limit && used >= self.cpu_limit / 10;
        let fine = used < self.cpu_limit && !late;
        if !fine {
            self.expired.store(true, Relaxed);
        }
        fine
    }

    /// Called when the call gets onto a thread.
    pub(crate) fn resumes(&self) {
        if self.long.load(Relaxed) {
            self.slice_start.store(thread_time(), Relaxed);
        }
    }

    pub(crate) fn expired(&self) -> bool {
        self.expired.load(Relaxed)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The limit that was hit.
    pub(crate) fn limit(&self) -> Duration {
        if self.elapsed() >= self.wall_limit { self.wall_limit } else { self.cpu_limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burn(time: Duration) {
        let until = thread_time() + u64::try_from(time.as_nanos()).unwrap();
        while thread_time() < until {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn only_own_time_counts() {
        let long_ago = Instant::now().checked_sub(Duration::from_mins(1)).unwrap();
        let mut meter = Meter::new(Duration::from_millis(50), Duration::from_secs(1));
        // A minute has passed, of which the call had nothing: it may go on.
        meter.started = long_ago;
        assert!(meter.may_continue());
        assert!(meter.may_continue());
        burn(Duration::from_millis(6));
        assert!(!meter.may_continue(), "it has had its share, and is late");
        assert!(meter.expired());
        assert_eq!(meter.limit(), Duration::from_secs(1));
    }

    #[test]
    fn time_between_slices_does_not_count() {
        let meter = Meter::new(Duration::from_millis(20), Duration::from_mins(1));
        assert!(meter.may_continue());
        // Others on this thread.
        burn(Duration::from_millis(30));
        meter.resumes();
        assert!(meter.may_continue());
        burn(Duration::from_millis(21));
        assert!(!meter.may_continue());
        assert_eq!(meter.limit(), Duration::from_millis(20));
    }
}
