//! Setting aside a plugin that fails again and again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many failures...
const STRIKES: usize = 5;

/// ...within so long are too many; and so long a plugin is then left alone.
const WINDOW: Duration = Duration::from_mins(1);

#[derive(Debug)]
struct Strike {
    at: Instant,
    function: &'static str,
    object: Option<Arc<str>>,
}

#[derive(Debug)]
struct Aside {
    until: Instant,
    /// One poison object sets aside that object, not the plugin.
    only: Option<(&'static str, Arc<str>)>,
}

#[derive(Debug, Default)]
struct Inner {
    strikes: VecDeque<Strike>,
    aside: Vec<Aside>,
}

/// Counts strikes and refuses calls.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<Inner>);

impl Breaker {
    /// How long calls like this one are refused; `None`: go ahead.
    pub(crate) fn refuses(
        &self,
        function: &str,
        object: Option<&Arc<str>>,
        now: Instant,
    ) -> Option<Duration> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.aside.is_empty() {
            return None;
        }
        inner.aside.retain(|aside| aside.until > now);
        inner
            .aside
            .iter()
            .find(|aside| aside.only.as_ref().is_none_or(|(f, o)| *f == function && Some(o) == object))
            .map(|aside| aside.until - now)
    }

    /// Whether all calls are refused.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.aside.iter().any(|aside| aside.until > now && aside.only.is_none())
    }

    /// Counts a failure; whether it was one too many.
    pub(crate) fn strike(&self, function: &'static str, object: Option<Arc<str>>, now: Instant) -> bool {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.strikes.retain(|strike| now.duration_since(strike.at) < WINDOW);
        inner.strikes.push_back(Strike { at: now, function, object });
        if inner.strikes.len() < STRIKES {
            return false;
        }
        let same = |a: &Strike, b: &Strike| a.function == b.function && a.object == b.object;
        let only = inner.strikes.front().and_then(|first| {
            let poison =
                first.object.clone().filter(|_| inner.strikes.iter().all(|strike| same(first, strike)))?;
            Some((first.function, poison))
        });
        inner.strikes.clear();
        inner.aside.push(Aside { until: now + WINDOW, only });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_in_a_minute_set_a_plugin_aside_for_a_minute() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 0..4 {
            assert!(!breaker.strike("prepare", None, at(second)));
        }
        assert_eq!(breaker.refuses("prepare", None, at(4)), None);
        assert!(breaker.strike("prepare", None, at(4)));
        assert_eq!(breaker.refuses("remove", None, at(5)), Some(Duration::from_secs(59)));
        assert!(breaker.is_open(at(5)));
        assert_eq!(breaker.refuses("remove", None, at(64)), None);
        assert!(!breaker.is_open(at(64)));
    }

    #[test]
    fn rare_failures_do_not_add_up() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for minute in 0..20 {
            assert!(!breaker.strike("prepare", None, start + Duration::from_secs(20 * minute)));
        }
    }

    #[test]
    fn one_poison_object_sets_aside_itself_alone() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let (bad, good): (Arc<str>, Arc<str>) = ("bad".into(), "good".into());
        for _ in 0..STRIKES {
            breaker.strike("mounts", Some(bad.clone()), now);
        }
        assert!(breaker.refuses("mounts", Some(&bad), now).is_some());
        assert_eq!(breaker.refuses("mounts", Some(&good), now), None);
        assert_eq!(breaker.refuses("remove", Some(&bad), now), None);
        assert!(!breaker.is_open(now));
    }
}
