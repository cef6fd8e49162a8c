//! How often a plugin was called and how that went.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::ErrorKind;

/// Sums since the daemon began or the plugin was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls made.
    pub calls: u64,
    /// Of those, answered with an error of the plugin's own.
    pub refusals: u64,
    /// Crashes.
    pub traps: u64,
    /// Calls that ran out of time.
    pub timeouts: u64,
    /// Calls that ran out of memory.
    pub memory: u64,
    /// Plans or acts that were not granted, answers out of bounds.
    pub denied: u64,
    /// Wall time of all calls, in nanoseconds.
    pub nanoseconds: u64,
    /// Calls that took up to 16, 64, 256 µs, 1, 4, 16, 64 ms, and more.
    pub histogram: [u64; 8],
}

#[derive(Debug, Default)]
pub(crate) struct Sums {
    calls: AtomicU64,
    refusals: AtomicU64,
    traps: AtomicU64,
    timeouts: AtomicU64,
    memory: AtomicU64,
    denied: AtomicU64,
    nanoseconds: AtomicU64,
    histogram: [AtomicU64; 8],
}

impl Sums {
    pub(crate) fn count(&self, took: Duration, error: Option<&ErrorKind>) {
        self.calls.fetch_add(1, Relaxed);
        let sum = match error {
            None => None,
            Some(ErrorKind::Plugin(_)) => Some(&self.refusals),
            Some(ErrorKind::Deadline(_)) => Some(&self.timeouts),
            Some(ErrorKind::Memory(_)) => Some(&self.memory),
            Some(ErrorKind::Denied(_) | ErrorKind::TooLarge(_)) => Some(&self.denied),
            Some(_) => Some(&self.traps),
        };
        if let Some(sum) = sum {
            sum.fetch_add(1, Relaxed);
        }
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        let mut bound = 16;
        for bucket in &self.histogram[..7] {
            if took.as_micros() <= bound {
                bucket.fetch_add(1, Relaxed);
                return;
            }
            bound *= 4;
        }
        self.histogram[7].fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> Counters {
        Counters {
            calls: self.calls.load(Relaxed),
            refusals: self.refusals.load(Relaxed),
            traps: self.traps.load(Relaxed),
            timeouts: self.timeouts.load(Relaxed),
            memory: self.memory.load(Relaxed),
            denied: self.denied.load(Relaxed),
            nanoseconds: self.nanoseconds.load(Relaxed),
            histogram: std::array::from_fn(|i| self.histogram.get(i).map_or(0, |sum| sum.load(Relaxed))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_is_in_one_bucket() {
        let sums = Sums::default();
        for micros in [1, 16, 17, 64, 1_000, 1_024, 65_536, 65_537, 10_000_000] {
            sums.count(Duration::from_micros(micros), None);
        }
        let counters = sums.read();
        assert_eq!(counters.histogram, [2, 2, 0, 2, 0, 0, 1, 2]);
        assert_eq!(counters.calls, 9);
    }
}
