//! What happens when a process ends: the record, the waiting clients, the tidying up, the restart policy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use wharf_plan::policy::Origin;
use wharf_plan::run::ExitStatus;

use crate::error::Error;
use crate::models::RestartPolicyNameEnum;
use crate::record::{STATES, State, Status, now as clock, put};
use crate::registry::{Container, Held, Now};
use crate::{Caller, Engine, RemoveOptions, endpoints};

/// First pause before a restart, and the longest.
const BACKOFF: (u64, u64) = (100, 60_000);
/// Between attempts to remove what `--rm` could not, the first time and at most.
const REMOVE_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Between attempts to record an end for which there was no room.
const RECORD_AGAIN: Duration = Duration::from_secs(1);
/// A run of this length makes the next pause short again.
const STEADY: Duration = Duration::from_secs(10);

/// Whether a restart policy wants another start.
pub(crate) fn wants_restart(
    policy: RestartPolicyNameEnum,
    most: i64,
    state: &State,
    code: i32,
    stopped: bool,
) -> bool {
    if stopped {
        return false;
    }
    match policy {
        RestartPolicyNameEnum::ALWAYS | RestartPolicyNameEnum::UNLESS_STOPPED => true,
        RestartPolicyNameEnum::ON_FAILURE => code != 0 && (most <= 0 || i64::from(state.restarts) < most),
        RestartPolicyNameEnum::NO | RestartPolicyNameEnum::EMPTY => false,
    }
}

/// Pause before the next restart in milliseconds, from the last pause and the length of the run.
pub(crate) fn backoff(last: u64, run: Duration) -> u64 {
    if last == 0 || run >= STEADY { BACKOFF.0 } else { (last * 2).min(BACKOFF.1) }
}

/// Name and limit of a container's policy.
pub(crate) fn policy(now: &Now) -> (RestartPolicyNameEnum, i64) {
    let policy = now.def.host.restart_policy.as_ref();
    (
        policy.and_then(|p| p.name).unwrap_or(RestartPolicyNameEnum::NO),
        policy.and_then(|p| p.maximum_retry_count).unwrap_or(0),
    )
}

impl Engine {
    /// Takes exits from the keeper for as long as the engine lives.
    pub(crate) fn watch_exits(&self, mut exits: UnboundedReceiver<(String, ExitStatus)>) {
        let weak = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while let Some((id, status)) = exits.recv().await {
                let Some(inner) = weak.upgrade() else { return };
                let engine = Engine { inner };
                tokio::spawn(async move { engine.exited(&id, status).await });
            }
        });
    }

    async fn exited(&self, id: &str, status: ExitStatus) {
        if self.inner.execs.exited(self, id, status).await {
            return;
        }
        let Some(container) = self.inner.registry.get(id) else {
            // A start that was given up, or one whose record is gone; nobody else will forget it.
            self.clear_stray_cgroup(id).await;
            let _ = self.inner.keeper.forget(id).await;
            return;
        };
        let mut held = container.lock.lock().await;
        // It may be told twice: by the stream of exits and by the list after a reconnection. Then the container may have been
        // started again since, and this end is of an earlier run.
        let state = Arc::clone(&container.now().state);
        if state.status.is_alive() {
            // A clock that was set back makes an exit look early, so the keeper has the last word.
            if status.at >= state.started_at || self.has_ended(id).await {
                self.record_exit(&container, &mut held, status).await;
            }
        } else {
            // Of a start that an earlier daemon did not live to see fail; refused where it is of a running process.
            self.forget_process(id).await;
        }
    }

    /// Writes an exit down and does what follows; the lock is held and the container was alive.
    pub(crate) async fn record_exit(&self, container: &Arc<Container>, held: &mut Held, status: ExitStatus) {
        let before = container.now();
        tracing::trace!(id = before.def.id, "ended");
        let told_of_oom = match before.state.shim().map(|shim| std::path::PathBuf::from(&shim.bundle)) {
            // A file, which is gone with what is disposed of below.
            Some(bundle) => {
                self.inner.pool.run(move || wharf_shim::lacked_memory(&bundle)).await.unwrap_or(false)
            }
            None => false,
        };
        // What is undone needs no record: it dies with its namespace or is found by the sweep.
        let (cgroups, path) = (self.inner.cgroups.clone(), before.state.cgroup.clone());
        let (runtime, id) = (before.state.runtime.clone(), before.def.id.clone());
        let cgroup = self.inner.pool.start(move || {
            if let Some(runtime) = runtime {
                crate::runtimes::dispose(&runtime, &id);
            }
            cgroups.clear(&path, Duration::from_secs(5))
        });
        // Nobody is to find it any more, however long its output takes. Its sockets would also keep its namespace.
        self.inner.names.withdraw(&before.def.id);
        let (net, gone) = (self.inner.net.clone(), before.state.endpoints.clone());
        let forwarder = self.inner.forwarder.clone();
        let network = (!gone.is_empty()).then(|| {
            self.inner
                .pool
                .start(move || gone.values().for_each(|endpoint| endpoints::undo(&net, &forwarder, endpoint)))
        });
        container.io.finished().await;
        tracing::trace!(id = before.def.id, "output complete");
        if let Some(network) = network {
            let _ = network.await;
        }
        let run = Duration::from_nanos(status.at.saturating_sub(before.state.started_at));
        let (name, most) = policy(&before);
        let closing = self.inner.closing.load(Ordering::Acquire);
        let again =
            !closing && wants_restart(name, most, &before.state, status.code, before.state.stopped_by_user);
        let mut state = (*before.state).clone();
        state.status = if again { Status::Restarting } else { Status::Exited };
        state.pid = 0;
        state.exit_code = status.code;
        state.finished_at = if status.at == 0 { clock() } else { status.at };
        state.oom_killed = status.oom_killed || told_of_oom;
        let ended = std::mem::take(&mut state.endpoints);
        let (mut tx, turns) = self.release_addresses(ended.values()).await;
        if let Err(error) = put(&mut tx, STATES, &before.def.id, &state) {
            tracing::error!(%error, "state not written");
        }
        let mut recorded = true;
        if let Err(error) = self.inner.store.commit(tx).await {
            tracing::error!(%error, id = before.def.id, "the exit is not recorded yet");
            // One that starts again makes a record of its own.
            recorded = again;
        }
        drop(turns);
        tracing::trace!(id = before.def.id, "exit recorded");
        // Not before the record: until then only the keeper knows how it ended. But before the end is told, as who waits
        // for it may want the ports next, and the sockets that hold them are the keeper's.
        if !ended.is_empty() && recorded {
            self.forget_process(&before.def.id).await;
        }
        let after = Now { state: Arc::new(state), ..(*before).clone() };
        self.inner.registry.update(container, after.clone());
        if Self::oom_is_untold(container) && after.state.oom_killed {
            self.container_event(&after, "oom", &[]);
        }
        let seconds = run.as_secs().to_string();
        self.container_event(
            &after,
            "die",
            &[("exitCode", &status.code.to_string()), ("execDuration", &seconds)],
        );
        for endpoint in ended.values() {
            if let Ok(network) = self.inner.networks.find(&endpoint.network) {
                self.network_event(&network.record(), "disconnect", &[("container", &after.def.id)]);
            }
        }
        self.bare_event(&after, "disconnect");
        self.volumes_unmounted(&after);
        self.inner.execs.run_ended(&container.exec_ids());
        container.change_life(|life| life.end(status.code));
        if !recorded {
            self.record_exit_later(container, Arc::clone(&after.state));
        }
        // What is not recorded is remembered by the keeper, should this daemon end before it is.
        let (engine, id, forgotten) = (self.clone(), before.def.id.clone(), !ended.is_empty() || !recorded);
        held.tidying = Some(self.inner.tidying.spawn(async move {
            if !forgotten {
                engine.forget_process(&id).await;
            }
            if let Ok(Err(error)) = cgroup.await {
                tracing::warn!(%error, id, "cgroup not removed; the next sweep will");
            }
        }));
        if !again {
            // Its mount and descriptor; the next start makes them anew.
            self.inner.images.snapshots().release(&before.def.id);
        }
        self.after_exit(container, held, again, run).await;
    }

    /// Records an end that could not be recorded when it was told, for example for want of disk space, as soon as it can
    /// be; not if the container has gone on meanwhile.
    fn record_exit_later(&self, container: &Arc<Container>, ended: Arc<State>) {
        let (weak, container) = (Arc::downgrade(&self.inner), Arc::clone(container));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(RECORD_AGAIN).await;
                let Some(inner) = weak.upgrade() else { return };
                let engine = Self { inner };
                let held = container.lock.lock().await;
                let now = container.now();
                if !Arc::ptr_eq(&now.state, &ended) || held.removing {
                    return;
                }
                let mut tx = wharf_store::Transaction::new();
                if put(&mut tx, STATES, &now.def.id, &*ended).is_err() {
                    return;
                }
                if engine.inner.store.commit(tx).await.is_ok() {
                    tracing::info!(id = now.def.id, "the exit is recorded now");
                    engine.forget_process(&now.def.id).await;
                    return;
                }
            }
        });
    }

    /// The cgroup of a container without a record, in every place where one of ours can be.
    pub(crate) async fn clear_stray_cgroup(&self, id: &str) {
        let (cgroups, id) = (self.inner.cgroups.clone(), id.to_owned());
        let parents = self.cgroup_parents();
        let cleared = self.inner.pool.run(move || {
            for place in parents.iter().flat_map(|b| [format!("{b}/{id}"), format!("{b}/wharf-{id}.scope")]) {
                if let Err(error) = cgroups.clear(&place, Duration::from_secs(5)) {
                    tracing::warn!(%error, id, "the cgroup of a process without a record is not removed");
                }
            }
        });
        if let Err(error) = cleared.await {
            tracing::warn!(%error, "cgroups without a record");
        }
    }

    /// Whether the keeper's process of this id is at its end.
    async fn has_ended(&self, id: &str) -> bool {
        let entries = self.inner.keeper.list().await.unwrap_or_default();
        entries.iter().any(|entry| entry.id == id && entry.exit.is_some())
    }

    /// The keeper's entry of an ended process goes, with all that it held.
    async fn forget_process(&self, id: &str) {
        if let Err(error) = self.inner.keeper.forget(id).await {
            tracing::debug!(%error, id, "keeper");
        }
    }

    /// The restart policy or `--rm`.
    pub(crate) async fn after_exit(
        &self,
        container: &Arc<Container>,
        held: &mut Held,
        again: bool,
        run: Duration,
    ) {
        let now = container.now();
        if again {
            held.backoff = backoff(held.backoff, run);
            self.restart_later(container, held.backoff);
        } else if container.ends_with_its_run() && !self.inner.closing.load(Ordering::Acquire) {
            let options = RemoveOptions { volumes: true, ..RemoveOptions::default() };
            if let Err(error) = self.remove_locked(container, held, options).await {
                tracing::warn!(%error, id = now.def.id, "--rm did not remove the container yet");
                self.remove_later(container);
            }
        }
    }

    /// Carries out `--rm` for a container that has ended while it was not to go, and was not started again.
    pub(crate) async fn remove_if_over(&self, container: &Arc<Container>) {
        let mut held = container.lock.lock().await;
        let state = Arc::clone(&container.now().state);
        if !held.removing && state.status == Status::Exited && state.run > 0 {
            self.after_exit(container, &mut held, false, Duration::ZERO).await;
        }
    }

    /// Tries again what `--rm` could not do, until it is done or something else happens to the container.
    fn remove_later(&self, container: &Arc<Container>) {
        let (weak, container) = (Arc::downgrade(&self.inner), Arc::clone(container));
        let run = container.now().state.run;
        tokio::spawn(async move {
            let mut pause = REMOVE_AGAIN.0;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(REMOVE_AGAIN.1);
                let Some(inner) = weak.upgrade() else { return };
                let engine = Self { inner };
                let mut held = container.lock.lock().await;
                let now = container.now();
                if held.removing || now.state.status.is_alive() || now.state.run != run {
                    return;
                }
                let options = RemoveOptions { volumes: true, ..RemoveOptions::default() };
                match engine.remove_locked(&container, &mut held, options).await {
                    Ok(()) => return,
                    Err(error) => tracing::debug!(%error, id = %container.id, "--rm did not remove it yet"),
                }
            }
        });
    }

    /// Starts it again after a pause, unless something else happens to it meanwhile.
    pub(crate) fn restart_later(&self, container: &Arc<Container>, milliseconds: u64) {
        let weak = Arc::downgrade(&self.inner);
        let container = Arc::clone(container);
        let run = container.now().state.run;
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            let Some(inner) = weak.upgrade() else { return };
            let engine = Engine { inner };
            engine.recovered().await;
            let mut held = container.lock.lock().await;
            let state = Arc::clone(&container.now().state);
            if state.status != Status::Restarting || state.run != run || held.removing {
                return;
            }
            let caller = Caller { identity: None, origin: Origin::RestartPolicy };
            if let Err(error) = engine.start_locked(&container, &mut held, &caller, state.restarts + 1).await
            {
                tracing::warn!(%error, id = %container.id, "restart failed");
                engine.retry_failed_start(&container, &mut held).await;
            }
        });
    }

    /// A start by the policy that failed counts as a failed run.
    async fn retry_failed_start(&self, container: &Arc<Container>, held: &mut Held) {
        let now = container.now();
        let (name, most) = policy(&now);
        let code = now.state.exit_code.max(1);
        if self.inner.closing.load(Ordering::Acquire)
            || !wants_restart(name, most, &now.state, code, now.state.stopped_by_user)
        {
            return;
        }
        let mut state = (*now.state).clone();
        state.status = Status::Restarting;
        let mut tx = wharf_store::Transaction::new();
        let recorded = match put(&mut tx, STATES, &now.def.id, &state) {
            Ok(()) => self.inner.store.commit(tx).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = recorded {
            // It may well be why the start failed, and is no reason to give up; the next start makes a record of its own.
            tracing::warn!(%error, id = %container.id, "that a container waits to be started again is not recorded");
        }
        self.inner.registry.update(container, Now { state: Arc::new(state), ..(*now).clone() });
        held.backoff = backoff(held.backoff, Duration::ZERO);
        self.restart_later(container, held.backoff);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RestartPolicyNameEnum as P;

    #[test]
    fn policies() {
        let state = |restarts| State { restarts, ..State::default() };
        let cases = [
            (P::NO, 0, 0, 1, false, false),
            (P::ALWAYS, 0, 0, 0, false, true),
            (P::ALWAYS, 0, 0, 0, true, false),
            (P::UNLESS_STOPPED, 0, 5, 1, false, true),
            (P::ON_FAILURE, 0, 99, 1, false, true),
            (P::ON_FAILURE, 0, 0, 0, false, false),
            (P::ON_FAILURE, 2, 1, 1, false, true),
            (P::ON_FAILURE, 2, 2, 1, false, false),
        ];
        for (policy, most, restarts, code, stopped, wanted) in cases {
            assert_eq!(
                wants_restart(policy, most, &state(restarts), code, stopped),
                wanted,
                "{policy:?} {most} {restarts}"
            );
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let mut last = 0;
        let mut all = Vec::new();
        for _ in 0..12 {
            last = backoff(last, Duration::from_secs(1));
            all.push(last);
        }
        assert_eq!(all[..4], [100, 200, 400, 800]);
        assert_eq!(all[11], 60_000);
        assert_eq!(backoff(60_000, Duration::from_secs(10)), 100);
    }
}
