//! What one container may take of what all share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Things of which there is a number for all, and so many of them for one: at most `most`, and never more than a quarter of
/// what is still free. Who takes much thus leaves something to who comes next, whatever the number of those who take.
#[derive(Debug)]
pub(crate) struct Shared {
    all: usize,
    most: usize,
    taken: AtomicUsize,
}

/// How many of them one has.
#[derive(Debug, Default)]
pub(crate) struct Mine(AtomicUsize);

impl Shared {
    pub(crate) const fn new(all: usize, most: usize) -> Self {
        Self { all, most, taken: AtomicUsize::new(0) }
    }

    /// Takes one, if it may. Only one thread takes; any may give back.
    pub(crate) fn take(&self, mine: &Mine) -> bool {
        let free = self.all.saturating_sub(self.taken.load(Ordering::Relaxed));
        if mine.0.load(Ordering::Relaxed) >= self.most.min(free.div_ceil(4)) {
            return false;
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        mine.0.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Gives one back.
    pub(crate) fn give(&self, mine: &Mine) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        mine.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// So many a second, with some in store.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: f64,
    stored: f64,
    last: Instant,
}

impl Rate {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second: f64::from(per_second), stored: f64::from(per_second), last: now }
    }

    /// Uses up `count`, which have happened already. If that was too much: how long to pause.
    pub(crate) fn used(&mut self, count: u32, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        self.stored = (self.stored + passed * self.per_second).min(self.per_second) - f64::from(count);
        // A tenth of a second's worth at a time: a pause that is worth waking up from.
        (self.stored < 0.0).then(|| Duration::from_secs_f64(0.1 - self.stored / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_all_leaves_something() {
        let shared = Shared::new(1000, 256);
        let greedy: Vec<Mine> = (0..100).map(|_| Mine::default()).collect();
        for _ in 0..1000 {
            for one in &greedy {
                shared.take(one);
            }
        }
        let modest = Mine::default();
        assert!(shared.take(&modest), "{}", shared.taken.load(Ordering::Relaxed));
        for one in &greedy {
            while one.0.load(Ordering::Relaxed) > 0 {
                shared.give(one);
            }
        }
        shared.give(&modest);
        assert_eq!(shared.taken.load(Ordering::Relaxed), 0);
        let alone = Mine::default();
        assert_eq!((0..1000).filter(|_| shared.take(&alone)).count(), 200);
    }

    #[test]
    fn pauses_keep_to_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(1000, start);
        let (mut now, mut used) = (start, 0_u32);
        while now < start + Duration::from_secs(10) {
            used += 64;
            now += rate.used(64, now).unwrap_or(Duration::from_micros(10));
        }
        // Ten seconds' worth, and what was in store.
        assert!((10_000..=11_100).contains(&used), "{used}");
        assert_eq!(Rate::new(1000, start).used(1, start), None);
    }
}
