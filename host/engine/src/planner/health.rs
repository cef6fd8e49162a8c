//! Health checks: what is run when, and what its results mean. No clock, no process.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::models::{ContainerConfig, HealthConfig};

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Results that are remembered, and bytes of output of each.
const LOG: usize = 5;
/// Bytes of output of one probe that are kept.
pub const OUTPUT: usize = 4096;

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No probe has succeeded yet.
    #[default]
    Starting,
    /// The last ones succeeded.
    Healthy,
    /// Too many in a row failed.
    Unhealthy,
}

impl Status {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// As the list's column has it.
    pub fn column(self) -> &'static str {
        match self {
            Self::Starting => "health: starting",
            other => other.word(),
        }
    }
}

/// One result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// 0 is well; -1 is that there was none.
    pub exit_code: i32,
    /// What it printed, cut off.
    pub output: String,
}

/// How a container has fared since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Now.
    pub status: Status,
    /// Failures in a row that count.
    pub failing_streak: u32,
    /// The last results, oldest first.
    pub log: Vec<Probe>,
}

/// A checked health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What to run.
    pub command: Vec<String>,
    /// For one probe.
    pub timeout: Duration,
    interval: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

fn time(nanoseconds: Option<i64>, default: Duration) -> Duration {
    match nanoseconds.and_then(|n| u64::try_from(n).ok()) {
        None | Some(0) => default,
        Some(n) => Duration::from_nanos(n),
    }
}

impl Plan {
    /// Of a container's configuration; none where nothing is to be run.
    pub fn of(config: &ContainerConfig) -> Option<Self> {
        let health: &HealthConfig = config.healthcheck.as_ref()?;
        let test = health.test.as_deref().unwrap_or_default();
        let (kind, rest) = test.split_first()?;
        let command = match kind.as_str() {
            "CMD" => rest.to_vec(),
            "CMD-SHELL" => {
                let shell = config.shell.clone().filter(|s| !s.is_empty());
                let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                command.extend(rest.iter().cloned());
                command
            }
            // `NONE` takes the image's away; others mean nothing.
            _ => return None,
        };
        Some(Self {
            command,
            timeout: time(health.timeout, TIMEOUT),
            interval: time(health.interval, INTERVAL),
            start_period: time(health.start_period, Duration::ZERO),
            start_interval: time(health.start_interval, START_INTERVAL),
            retries: health.retries.and_then(|r| u32::try_from(r).ok()).filter(|r| *r > 0).unwrap_or(RETRIES),
        })
    }

    /// How long to wait before the next probe of a container that has run for so long. A start interval does not last longer
    /// into the time after the start period than an interval that began there: the default of 5 s would otherwise hold up a
    /// container with a start period of 100 ms and an interval of 500 ms.
    pub fn wait(&self, health: &Health, age: Duration) -> Duration {
        if age < self.start_period && health.status == Status::Starting {
            let after = self.start_period.saturating_sub(age).saturating_add(self.interval);
            self.start_interval.min(after)
        } else {
            self.interval
        }
    }

    /// The same for a daemon that comes upon a container which an earlier one has watched: what has passed since the last
    /// probe counts. Times in nanoseconds since 1970.
    pub fn resume(&self, health: &Health, started: u64, now: u64) -> Duration {
        let last = health.log.last().map_or(started, |p| p.end);
        let passed = Duration::from_nanos(now.saturating_sub(last));
        self.wait(health, Duration::from_nanos(now.saturating_sub(started))).saturating_sub(passed)
    }

    /// Takes in the result of a probe that began when the container had run for so long. Answers the new status where it is another.
    pub fn record(&self, health: &mut Health, age: Duration, probe: Probe) -> Option<Status> {
        let before = health.status;
        if probe.exit_code == 0 {
            health.failing_streak = 0;
            health.status = Status::Healthy;
        } else {
            // Failures while it comes up are forgiven until it was well once.
            if before != Status::Starting || age >= self.start_period {
                health.failing_streak = health.failing_streak.saturating_add(1);
                if health.failing_streak >= self.retries {
                    health.status = Status::Unhealthy;
                }
            }
        }
        health.log.push(probe);
        let surplus = health.log.len().saturating_sub(LOG);
        health.log.drain(..surplus);
        (health.status != before).then_some(health.status)
    }
}

/// Output of a probe as it is kept.
pub fn output(bytes: &[u8], truncated: bool) -> String {
    let mut text =
        String::from_utf8_lossy(bytes.get(..OUTPUT.min(bytes.len())).unwrap_or_default()).into_owned();
    if truncated || bytes.len() > OUTPUT {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn plan(test: &[&str], change: impl FnOnce(&mut HealthConfig)) -> Option<Plan> {
        let mut health = HealthConfig {
            test: Some(test.iter().map(|t| (*t).to_owned()).collect()),
            ..HealthConfig::default()
        };
        change(&mut health);
        Plan::of(&ContainerConfig { healthcheck: Some(health), ..ContainerConfig::default() })
    }

    fn probe(at: u64, exit_code: i32) -> Probe {
        Probe { start: at * SECOND, end: at * SECOND, exit_code, output: String::new() }
    }

    /// Of a container that was started when the clock began.
    fn record(plan: &Plan, health: &mut Health, probe: Probe) -> Option<Status> {
        plan.record(health, Duration::from_nanos(probe.start), probe)
    }

    #[test]
    fn a_clock_that_is_set_back_or_forth_changes_no_period() {
        let p = plan(&["CMD", "a"], |h| {
            h.retries = Some(1);
            h.start_period = Some(10_000_000_000);
        })
        .unwrap();
        // Whatever the clock says, it is for how long the container has run that counts.
        for clock in [0, 1_000_000] {
            let early = p.record(&mut Health::default(), Duration::from_secs(9), probe(clock, 1));
            let late = p.record(&mut Health::default(), Duration::from_secs(11), probe(clock, 1));
            assert_eq!((early, late), (None, Some(Status::Unhealthy)));
        }
    }

    #[test]
    fn what_is_run() {
        assert_eq!(plan(&["CMD", "a", "b"], |_| {}).unwrap().command, ["a", "b"]);
        assert_eq!(plan(&["CMD-SHELL", "a b"], |_| {}).unwrap().command, ["/bin/sh", "-c", "a b"]);
        for none in [&["NONE"][..], &[], &["FOO", "x"]] {
            assert_eq!(plan(none, |_| {}), None, "{none:?}");
        }
        let config = ContainerConfig {
            shell: Some(vec!["/bin/ash".into(), "-ec".into()]),
            healthcheck: Some(HealthConfig {
                test: Some(vec!["CMD-SHELL".into(), "x".into()]),
                ..HealthConfig::default()
            }),
            ..ContainerConfig::default()
        };
        assert_eq!(Plan::of(&config).unwrap().command, ["/bin/ash", "-ec", "x"]);
        assert_eq!(Plan::of(&ContainerConfig::default()), None);
    }

    #[test]
    fn defaults_are_dockers() {
        let p = plan(&["CMD", "a"], |_| {}).unwrap();
        assert_eq!((p.interval, p.timeout, p.retries), (INTERVAL, TIMEOUT, 3));
        assert_eq!((p.start_period, p.start_interval), (Duration::ZERO, START_INTERVAL));
        assert_eq!(plan(&["CMD", "a"], |h| h.retries = Some(-1)).unwrap().retries, 3);
    }

    #[test]
    fn intervals() {
        let p = plan(&["CMD", "a"], |h| {
            h.interval = Some(10_000_000_000);
            h.start_period = Some(20_000_000_000);
            h.start_interval = Some(1_000_000_000);
        })
        .unwrap();
        let seconds = |health: &Health, age: u64| p.wait(health, Duration::from_secs(age)).as_secs();
        let mut health = Health::default();
        assert_eq!(seconds(&health, 1), 1);
        assert_eq!(seconds(&health, 19), 1);
        assert_eq!(seconds(&health, 20), 10);
        health.status = Status::Healthy;
        assert_eq!(seconds(&health, 1), 10);
        // A short start period under the default start interval.
        let short = plan(&["CMD", "a"], |h| {
            h.interval = Some(500_000_000);
            h.start_period = Some(100_000_000);
        })
        .unwrap();
        let millis = |age| short.wait(&Health::default(), Duration::from_millis(age)).as_millis();
        assert_eq!((millis(0), millis(60), millis(100)), (600, 540, 500));
        // Another daemon goes on where the last one was.
        health.log.push(probe(130, 0));
        let resume = |now: u64| p.resume(&health, 100 * SECOND, now * SECOND).as_secs();
        assert_eq!((resume(133), resume(140), resume(1000)), (7, 0, 0));
    }

    #[test]
    fn from_starting_to_healthy_to_unhealthy_and_back() {
        let p = plan(&["CMD", "a"], |h| h.retries = Some(2)).unwrap();
        let mut health = Health::default();
        assert_eq!(record(&p, &mut health, probe(1, 1)), None);
        assert_eq!((health.status, health.failing_streak), (Status::Starting, 1));
        assert_eq!(record(&p, &mut health, probe(2, 0)), Some(Status::Healthy));
        assert_eq!(health.failing_streak, 0);
        assert_eq!(record(&p, &mut health, probe(3, 0)), None);
        assert_eq!(record(&p, &mut health, probe(4, -1)), None);
        assert_eq!(record(&p, &mut health, probe(5, 7)), Some(Status::Unhealthy));
        assert_eq!(record(&p, &mut health, probe(6, 7)), None);
        assert_eq!(health.failing_streak, 3);
        assert_eq!(record(&p, &mut health, probe(7, 0)), Some(Status::Healthy));
        assert_eq!(health.log.len(), 5);
        assert_eq!((health.log[0].start, health.log[4].start), (3 * SECOND, 7 * SECOND));
    }

    #[test]
    fn failures_within_the_start_period_do_not_count_until_it_was_well_once() {
        let p = plan(&["CMD", "a"], |h| {
            h.retries = Some(1);
            h.start_period = Some(10_000_000_000);
        })
        .unwrap();
        let mut health = Health::default();
        for at in 1..10 {
            assert_eq!(record(&p, &mut health, probe(at, 1)), None);
        }
        assert_eq!(health.failing_streak, 0);
        assert_eq!(record(&p, &mut health.clone(), probe(10, 1)), Some(Status::Unhealthy));
        assert_eq!(record(&p, &mut health, probe(5, 0)), Some(Status::Healthy));
        assert_eq!(record(&p, &mut health, probe(6, 1)), Some(Status::Unhealthy));
    }

    #[test]
    fn output_is_cut() {
        assert_eq!(output(b"well\n", false), "well\n");
        assert_eq!(output(&[b'x'; 4097], false).len(), 4099);
        assert_eq!(output(b"x", true), "x...");
    }
}
