//! Runs the health checks of running containers, one task for each.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Engine;
use crate::error::{Error, Result};
use crate::exec::Exec;
use crate::models::{ExecConfig, ExecStartConfig};
use crate::planner::health::{Health, OUTPUT, Plan, Probe, output};
use crate::record::{Status, now as clock, rfc3339};
use crate::registry::{Container, Now};

/// How long a killed probe may take to be gone.
const KILLED: Duration = Duration::from_secs(5);

/// For how long a container has run, whatever becomes of the clock.
struct Age {
    before: Duration,
    since: std::time::Instant,
}

impl Age {
    /// Of one that was started at this time, in nanoseconds since 1970.
    fn of(started: u64) -> Self {
        Self {
            before: Duration::from_nanos(clock().saturating_sub(started)),
            since: std::time::Instant::now(),
        }
    }

    fn now(&self) -> Duration {
        self.before + self.since.elapsed()
    }
}

/// `State.Health` of inspect.
pub(crate) fn inspect(health: &Health) -> Value {
    let log: Vec<Value> = health
        .log
        .iter()
        .map(|p| {
            json!({
                "Start": rfc3339(p.start), "End": rfc3339(p.end), "ExitCode": p.exit_code, "Output": p.output,
            })
        })
        .collect();
    json!({"Status": health.status.word(), "FailingStreak": health.failing_streak, "Log": log})
}

/// Docker's word for a container's health; `none` where nothing is checked.
pub(crate) fn word(now: &Now) -> &'static str {
    now.state.health.as_ref().map_or("none", |h| h.status.word())
}

/// Takes the headers out of a stream of frames and keeps the beginning of what is left.
#[derive(Default)]
struct Collect {
    kept: Vec<u8>,
    truncated: bool,
    header: Vec<u8>,
    left: usize,
}

impl Collect {
    fn take(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.left == 0 {
                let (head, rest) = data.split_at((8 - self.header.len()).min(data.len()));
                self.header.extend_from_slice(head);
                data = rest;
                if let [_, _, _, _, a, b, c, d] = *self.header.as_slice() {
                    self.left = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                    self.header.clear();
                }
                continue;
            }
            let (part, rest) = data.split_at(self.left.min(data.len()));
            self.left -= part.len();
            data = rest;
            let room = OUTPUT - self.kept.len().min(OUTPUT);
            self.truncated |= part.len() > room;
            self.kept.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
        }
    }
}

impl Engine {
    /// Checks a container's health for as long as this run of it lasts.
    pub(crate) fn watch_health(&self, container: &Arc<Container>, resumed: bool) {
        let now = container.now();
        let Some(plan) = Plan::of(&now.def.config) else { return };
        let Some(health) = &now.state.health else { return };
        let (run, started) = (now.state.run, now.state.started_at);
        let age = Age::of(started);
        let mut wait =
            if resumed { plan.resume(health, started, clock()) } else { plan.wait(health, age.now()) };
        let (weak, container) = (Arc::downgrade(&self.inner), Arc::clone(container));
        tokio::spawn(async move {
            let mut life = container.watch();
            loop {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = life.wait_for(|l| !l.alive || l.removed) => return,
                }
                let Some(inner) = weak.upgrade() else { return };
                let engine = Self { inner };
                let now = container.now();
                if now.state.run != run || !now.state.status.is_alive() {
                    return;
                }
                if now.state.status == Status::Running {
                    let begun = age.now();
                    let exec = engine.add_exec(&container, &now, probe_config(&plan));
                    let probe = match exec {
                        Ok(exec) => {
                            let probe = tokio::select! {
                                probe = engine.probe(&exec, &plan) => Some(probe),
                                _ = life.wait_for(|l| !l.alive || l.removed) => None,
                            };
                            engine.drop_exec(&container, &exec);
                            probe
                        }
                        Err(e) => Some(failed(clock(), &e)),
                    };
                    let Some(probe) = probe else { return };
                    engine.take_probe(&container, &plan, run, begun, probe).await;
                }
                let state = Arc::clone(&container.now().state);
                wait = plan.wait(state.health.as_ref().unwrap_or(&Health::default()), age.now());
            }
        });
    }

    /// Runs one probe to its end or its timeout.
    async fn probe(&self, exec: &Arc<Exec>, plan: &Plan) -> Probe {
        let start = clock();
        let mut collected = Collect::default();
        let run = async {
            let config = ExecStartConfig::default();
            let caller = crate::Caller::default();
            let Some((mut output, _)) = self.exec_start(exec.id(), config, &caller).await? else {
                return Err(Error::internal("a probe without output"));
            };
            while let Some(bytes) = output.next().await {
                collected.take(&bytes?);
            }
            drop(output);
            self.exec_ended(exec.id()).await;
            Ok::<_, Error>(exec.exit_code().unwrap_or(-1))
        };
        let ended = tokio::time::timeout(plan.timeout, run).await;
        let text = output(&collected.kept, collected.truncated);
        match ended {
            Ok(Ok(exit_code)) => Probe { start, end: clock(), exit_code, output: text },
            Ok(Err(e)) => failed(start, &e),
            Err(_) => {
                let _ = self.inner.keeper.signal(exec.id(), crate::planner::signals::KILL).await;
                // So that its end is told before the next one begins.
                let _ = tokio::time::timeout(KILLED, self.exec_ended(exec.id())).await;
                let mut said = format!("Health check exceeded timeout ({})", go_duration(plan.timeout));
                if !text.is_empty() {
                    said = format!("{said}: {text}");
                }
                Probe { start, end: clock(), exit_code: -1, output: said }
            }
        }
    }

    async fn take_probe(
        &self,
        container: &Arc<Container>,
        plan: &Plan,
        run: u64,
        begun: Duration,
        probe: Probe,
    ) {
        let _held = container.lock.lock().await;
        let now = container.now();
        if now.state.run != run || !now.state.status.is_alive() {
            return;
        }
        let mut changed = None;
        let written: Result<Now> = self
            .set_state(container, |state| {
                let health = state.health.get_or_insert_default();
                changed = plan.record(health, begun, probe);
            })
            .await;
        match (written, changed) {
            (Ok(new), Some(status)) => {
                self.container_event(&new, &format!("health_status: {}", status.word()), &[]);
            }
            (Ok(_), None) => {}
            (Err(error), _) => tracing::error!(%error, id = %container.id, "a health check is not recorded"),
        }
    }
}

fn probe_config(plan: &Plan) -> ExecConfig {
    ExecConfig {
        cmd: Some(plan.command.clone()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..ExecConfig::default()
    }
}

fn failed(start: u64, e: &Error) -> Probe {
    Probe { start, end: clock(), exit_code: -1, output: output(e.message.as_bytes(), false) }
}

/// As Go writes a length of time: `1.5s`, `1m30s`, `200ms`.
fn go_duration(time: Duration) -> String {
    let trim = |value: f64, unit: &str| format!("{}{unit}", (value * 1e9).round() / 1e9);
    let seconds = time.as_secs();
    if seconds == 0 {
        return trim(time.as_secs_f64() * 1e3, "ms");
    }
    let rest = trim(time.as_secs_f64() % 60.0, "s");
    match (seconds / 3600, seconds / 60 % 60) {
        (0, 0) => rest,
        (0, minutes) => format!("{minutes}m{rest}"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_go_writes_them() {
        for (milliseconds, text) in [
            (200, "200ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (60_000, "1m0s"),
            (90_500, "1m30.5s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn frames_in_pieces() {
        let mut all = Vec::new();
        for (stream, text) in [(1_u8, "out "), (2, "err "), (1, "end")] {
            all.extend_from_slice(&[stream, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()]);
            all.extend_from_slice(text.as_bytes());
        }
        for size in [1, 3, 8, 100] {
            let mut collect = Collect::default();
            all.chunks(size).for_each(|piece| collect.take(piece));
            assert_eq!((collect.kept.as_slice(), collect.truncated), (&b"out err end"[..], false));
        }
        let mut collect = Collect::default();
        collect.take(&[1, 0, 0, 0, 0, 0, 0x20, 0]);
        collect.take(&[b'x'; 0x2000]);
        assert_eq!((collect.kept.len(), collect.truncated, collect.left), (OUTPUT, true, 0));
    }
}
