//! Stopping, killing, pausing, renaming, updating, waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use wharf_plan::run::BlockLimit;
use wharf_store::Transaction;

use crate::containers::Waiter;
use crate::error::{Context, Error, Result};
use crate::exit::policy;
use crate::models::{ContainerUpdateBody, ContainerUpdateResponse, HostConfig, RestartPolicyNameEnum};
use crate::planner::{limits, names, run, signals};
use crate::record::{CONTAINERS, NAMES, STATES, State, Status, put};
use crate::registry::{Container, Life, Now};
use crate::{Caller, Engine, WaitCondition};

/// How long a killed process may take to be gone before the daemon says so.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// After so long a killed process is thawed: somebody else may have frozen its cgroup, and then it cannot even die.
const FROZEN: Duration = Duration::from_millis(250);
/// A pause waits so long for execs that are being made.
const EXEC_MADE: Duration = Duration::from_secs(2);
/// How long the end of a process that cannot be signalled may take to be on record.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// Seconds that `stop` gives when nobody says otherwise.
const STOP_SECONDS: i64 = 10;

fn not_running(id: &str) -> Error {
    Error::conflict(format!("container {id} is not running"))
}

/// Waits until the container has ended once more than `exits` times.
async fn ended(life: &mut watch::Receiver<Life>, exits: u64) {
    // The sender lives as long as the container that the caller holds.
    let _ = life.wait_for(|l| l.exits > exits || l.removed || !l.alive).await;
}

impl Engine {
    /// Changes only the state; the lock is held.
    pub(crate) async fn set_state(
        &self,
        container: &Container,
        change: impl FnOnce(&mut State),
    ) -> Result<Now> {
        let now = container.now();
        let mut state = (*now.state).clone();
        change(&mut state);
        let mut tx = Transaction::new();
        put(&mut tx, STATES, &now.def.id, &state)?;
        self.inner.store.commit(tx).await?;
        let new = Now { state: Arc::new(state), ..(*now).clone() };
        self.inner.registry.update(container, new.clone());
        Ok(new)
    }

    async fn signal(&self, now: &Now, signal: i32) -> Result<()> {
        self.send_signal(now, signal).await?;
        if now.state.status == Status::Paused && signal == signals::KILL {
            // A frozen process dies only once it is thawed, which a killed one's runtime may refuse to do.
            self.thaw(now).await?;
        }
        Ok(())
    }

    /// Lets a container go on without its runtime. One that has ended meanwhile, and its cgroup with it, needs no thaw.
    async fn thaw(&self, now: &Now) -> Result<()> {
        let (cgroups, path) = (self.inner.cgroups.clone(), now.state.cgroup.clone());
        match self.inner.pool.run(move || cgroups.thaw(&path)).await? {
            Err(error) if error.is_not_found() => Ok(()),
            result => result.doing("cannot thaw"),
        }
    }

    /// The lock, for an operation that ends the container: a start that is still making the process is cut short, after this
    /// time.
    pub(crate) async fn lock_to_end<'a>(
        &self,
        container: &'a Container,
        after: Duration,
    ) -> Result<tokio::sync::MutexGuard<'a, crate::registry::Held>> {
        if let Ok(held) = tokio::time::timeout(after, container.lock.lock()).await {
            return Ok(held);
        }
        if container.setting_up.load(Ordering::SeqCst) {
            // Where it has just come about, the caller goes on as with any that runs.
            let _ = self.inner.keeper.signal(&container.id, signals::KILL).await;
        }
        tokio::time::timeout(KILL_PATIENCE, container.lock.lock()).await.map_err(|_| {
            let what = if container.setting_up.load(Ordering::SeqCst) {
                "it is being set up and does not even react to SIGKILL: a file system or device that it uses hangs"
            } else {
                "another operation on it does not come to its end"
            };
            Error::internal(format!("cannot stop container: {}: {what}", container.id))
        })
    }

    /// The lock, for an operation that writes down something of the container. One that was removed meanwhile is there no more:
    /// what is written of it would be found by the next daemon as a container without a file system.
    pub(crate) async fn lock_present<'a>(
        &self,
        container: &'a Container,
        reference: &str,
    ) -> Result<tokio::sync::MutexGuard<'a, crate::registry::Held>> {
        let held = container.lock.lock().await;
        if held.removing {
            return Err(Error::no_container(reference));
        }
        Ok(held)
    }

    /// Marks a stop by the user and ends a pending restart. Answers whether there is a process to end.
    async fn begin_stop(&self, container: &Arc<Container>, patience: Duration) -> Result<Option<Now>> {
        let held = self.lock_to_end(container, patience).await?;
        if held.removing {
            return Err(Error::not_modified());
        }
        let now = container.now();
        let result = match now.state.status {
            Status::Restarting => {
                self.set_state(container, |s| {
                    s.status = Status::Exited;
                    s.stopped_by_user = true;
                })
                .await?;
                None
            }
            Status::Running | Status::Paused => {
                // Only a restart policy asks for the mark; without one there is nothing to remember.
                if policy(&now).0 == RestartPolicyNameEnum::NO {
                    Some((*now).clone())
                } else {
                    Some(self.set_state(container, |s| s.stopped_by_user = true).await?)
                }
            }
            _ => return Err(Error::not_modified()),
        };
        drop(held);
        Ok(result)
    }

    /// `POST /containers/{id}/stop`; [`crate::Kind::NotModified`] if it does not run.
    pub async fn container_stop(
        &self,
        reference: &str,
        timeout: Option<i64>,
        signal: Option<&str>,
    ) -> Result<()> {
        let container = self.inner.registry.find(reference)?;
        let signal = signal.filter(|s| !s.is_empty()).map(signals::parse).transpose()?;
        self.stop(&container, timeout, signal).await
    }

    pub(crate) async fn stop(
        &self,
        container: &Arc<Container>,
        timeout: Option<i64>,
        signal: Option<i32>,
    ) -> Result<()> {
        let mut life = container.watch();
        let exits = life.borrow().exits;
        let seconds = timeout.or(container.now().def.config.stop_timeout).unwrap_or(STOP_SECONDS);
        // Without end is for processes that run; a set-up has its own limit.
        let patience = Duration::from_secs(u64::try_from(seconds).unwrap_or(60));
        let Some(now) = self.begin_stop(container, patience).await? else { return Ok(()) };
        let config = &now.def.config;
        let own = config.stop_signal.as_deref().filter(|s| !s.is_empty()).map(signals::parse).transpose()?;
        let signal = signal.or(own).unwrap_or(signals::TERM);
        if now.state.status == Status::Paused
            && let Err(error) = self.freeze(&now, false).await
            && !self.just_ended(container, &mut life, exits).await
        {
            // Its runtime does not let it go on, which is no reason for it to stay.
            tracing::warn!(%error, id = now.def.id, "a paused container is thawed past its runtime to be stopped");
            self.thaw(&now).await?;
        }
        // It may have ended by itself just now.
        let _ = self.send_signal(&now, signal).await;
        self.container_event(&now, "kill", &[("signal", &signal.to_string())]);
        let gone = if let Ok(seconds) = u64::try_from(seconds) {
            tokio::time::timeout(Duration::from_secs(seconds), ended(&mut life, exits)).await.is_ok()
        } else {
            // A negative time is without end.
            ended(&mut life, exits).await;
            true
        };
        if !gone {
            self.kill_and_wait(&now, &mut life, exits).await?;
        }
        self.container_event(&container.now(), "stop", &[]);
        Ok(())
    }

    async fn kill_and_wait(&self, now: &Now, life: &mut watch::Receiver<Life>, exits: u64) -> Result<()> {
        if !life.borrow().alive || life.borrow().exits > exits {
            return Ok(());
        }
        self.container_event(now, "kill", &[("signal", "9")]);
        let _ = self.signal(now, signals::KILL).await;
        if !self.dies(now, life, exits).await {
            return Err(Error::internal(format!(
                "cannot stop container: {}: tried to kill container, but did not receive an exit event",
                now.def.id
            )));
        }
        Ok(())
    }

    /// Waits for the end of a killed container; false if it does not come.
    async fn dies(&self, now: &Now, life: &mut watch::Receiver<Life>, exits: u64) -> bool {
        if tokio::time::timeout(FROZEN, ended(life, exits)).await.is_ok() {
            return true;
        }
        let (cgroups, path) = (self.inner.cgroups.clone(), now.state.cgroup.clone());
        // A cgroup that is gone, or none that can be frozen: then nothing stood in the way.
        drop(self.inner.pool.start(move || cgroups.thaw(&path)));
        if tokio::time::timeout(KILL_PATIENCE, ended(life, exits)).await.is_ok() {
            return true;
        }
        if now.state.shim().is_none() {
            return false;
        }
        // Its shim said that it was killed, and does not say that it has ended.
        let _ = self.end_by_force(now).await;
        tokio::time::timeout(KILL_PATIENCE, ended(life, exits)).await.is_ok()
    }

    /// Kills it for a removal; it is gone when this returns.
    pub(crate) async fn kill_for_removal(&self, container: &Arc<Container>) -> Result<()> {
        let mut life = container.watch();
        let exits = life.borrow().exits;
        match self.begin_stop(container, Duration::ZERO).await {
            Ok(Some(now)) => self.kill_and_wait(&now, &mut life, exits).await,
            Ok(None) => Ok(()),
            Err(e) if e.kind == crate::Kind::NotModified => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// `POST /containers/{id}/restart`.
    pub async fn container_restart(
        &self,
        reference: &str,
        timeout: Option<i64>,
        signal: Option<&str>,
        caller: &Caller,
    ) -> Result<()> {
        let container = self.inner.registry.find(reference)?;
        let signal = signal.filter(|s| !s.is_empty()).map(signals::parse).transpose()?;
        // Its end would remove it. What is started then may, however soon it ends.
        let mark = container.begin_restart();
        let mut stopped = self.stop(&container, timeout, signal).await;
        if stopped.as_ref().is_err_and(|e| e.kind == crate::Kind::NotModified) {
            stopped = Ok(());
        }
        let cannot = |e: Error| e.context(format_args!("Cannot restart container {}", container.id));
        if let Err(error) = stopped {
            drop(mark);
            self.remove_if_over(&container).await;
            return Err(cannot(error));
        }
        let mut held = self.lock_present(&container, reference).await.map_err(cannot)?;
        drop(mark);
        // Somebody else may have started it meanwhile: then it was restarted.
        if !container.now().state.status.is_alive() {
            held.backoff = 0;
            self.start_locked(&container, &mut held, caller, 0).await?;
        }
        self.container_event(&container.now(), "restart", &[]);
        Ok(())
    }

    /// `POST /containers/{id}/kill`.
    pub async fn container_kill(&self, reference: &str, signal: Option<&str>) -> Result<()> {
        let signal = match signal.filter(|s| !s.is_empty()) {
            Some(text) => signals::parse(text)?,
            None => signals::KILL,
        };
        let container = self.inner.registry.find(reference)?;
        let mut life = container.watch();
        let exits = life.borrow().exits;
        if signal == signals::KILL && container.setting_up.load(Ordering::SeqCst) {
            // Its process is there and can be killed, though its program does not run yet.
            drop(self.lock_to_end(&container, Duration::ZERO).await?);
        }
        if container.now().state.status == Status::Restarting
            && !matches!(self.begin_stop(&container, KILL_PATIENCE).await, Ok(Some(_)))
        {
            // There is no process to signal: what was to be started is not.
            let now = container.now();
            self.container_event(&now, "kill", &[("signal", &signal.to_string())]);
            return Ok(());
        }
        let now = container.now();
        if !now.state.status.is_alive() {
            return Err(not_running(&now.def.id).context(format_args!("cannot kill container: {reference}")));
        }
        let stopping = signal == signals::KILL
            || now
                .def
                .config
                .stop_signal
                .as_deref()
                .filter(|s| !s.is_empty())
                .map_or(signal == signals::TERM, |s| signals::parse(s).is_ok_and(|s| s == signal));
        if stopping && policy(&now).0 != RestartPolicyNameEnum::NO {
            match self.begin_stop(&container, KILL_PATIENCE).await {
                Err(e) if e.kind != crate::Kind::NotModified => return Err(e),
                _ => {}
            }
        }
        if let Err(e) = self.signal(&now, signal).await
            && !self.just_ended(&container, &mut life, exits).await
        {
            return Err(e.context(format_args!("cannot kill container: {reference}")));
        }
        self.container_event(&now, "kill", &[("signal", &signal.to_string())]);
        if signal == signals::KILL {
            // As with Docker, a kill has happened when it is answered.
            let _ = self.dies(&now, &mut life, exits).await;
        }
        Ok(())
    }

    /// Whether a container that could not be signalled has ended meanwhile, as some do by themselves.
    async fn just_ended(&self, container: &Container, life: &mut watch::Receiver<Life>, exits: u64) -> bool {
        // The keeper knows of an end before this daemon has recorded it.
        let _ = tokio::time::timeout(END_PATIENCE, ended(life, exits)).await;
        let life = life.borrow();
        life.exits > exits || life.removed || !container.now().state.status.is_alive()
    }

    /// `POST /containers/{id}/pause`.
    pub async fn container_pause(&self, reference: &str) -> Result<()> {
        let container = self.inner.registry.find(reference)?;
        let mut life = container.watch();
        let exits = life.borrow().exits;
        let held = container.lock.lock().await;
        let now = container.now();
        match now.state.status {
            Status::Running => {}
            Status::Paused => {
                return Err(Error::conflict(format!("container {} is already paused", now.def.id)));
            }
            Status::Restarting => {
                return Err(Error::conflict(format!(
                    "container {} is restarting, wait until the container is running",
                    now.def.id
                )));
            }
            _ => return Err(not_running(&now.def.id)),
        }
        // One that does not come to its end is no reason not to pause.
        let made = tokio::time::timeout(EXEC_MADE, container.making_execs.write()).await;
        if let Err(e) = self.freeze(&now, true).await {
            // Its end is recorded under the lock.
            drop((held, made));
            let ended = self.just_ended(&container, &mut life, exits).await;
            return Err(if ended { not_running(&now.def.id) } else { e.context("cannot pause container") });
        }
        let new = self.set_state(&container, |s| s.status = Status::Paused).await?;
        self.container_event(&new, "pause", &[]);
        Ok(())
    }

    /// `POST /containers/{id}/unpause`.
    pub async fn container_unpause(&self, reference: &str) -> Result<()> {
        let container = self.inner.registry.find(reference)?;
        let _held = container.lock.lock().await;
        let now = container.now();
        if now.state.status != Status::Paused {
            return Err(Error::conflict(format!("container {} is not paused", now.def.id)));
        }
        self.freeze(&now, false).await.doing("cannot unpause container")?;
        let new = self.set_state(&container, |s| s.status = Status::Running).await?;
        self.container_event(&new, "unpause", &[]);
        Ok(())
    }

    /// `POST /containers/{id}/rename`.
    pub async fn container_rename(&self, reference: &str, name: &str) -> Result<()> {
        let container = self.inner.registry.find(reference)?;
        if name.is_empty() || name == "/" {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let _held = self.lock_present(&container, reference).await?;
        let now = container.now();
        let name = names::container(name)?;
        if now.def.name == name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        // Given back however this ends, but for success.
        let reserved = self.inner.registry.hold(name, &now.def.id)?;
        let old = now.def.name.clone();
        let mut def = (*now.def).clone();
        name.clone_into(&mut def.name);
        let mut tx = Transaction::new();
        tx.delete(NAMES, &old).expect(NAMES, name, 0).put(NAMES, name, def.id.as_bytes());
        let mut new = Now { def: Arc::new(def), ..(*now).clone() };
        let state = self.renamed(&new).await?;
        let written = put(&mut tx, CONTAINERS, &new.def.id, &*new.def)
            .and_then(|()| state.as_ref().map_or(Ok(()), |state| put(&mut tx, STATES, &new.def.id, state)));
        written?;
        self.inner.store.commit(tx).await?;
        reserved.keep();
        self.inner.registry.release(&old, &now.def.id);
        if let Some(state) = state {
            new.state = Arc::new(state);
        }
        self.inner.registry.update(&container, new.clone());
        self.container_event(&new, "rename", &[("oldName", &format!("/{old}"))]);
        Ok(())
    }

    /// `POST /containers/{id}/update`.
    pub async fn container_update(
        &self,
        reference: &str,
        body: ContainerUpdateBody,
    ) -> Result<ContainerUpdateResponse> {
        let container = self.inner.registry.find(reference)?;
        let _held = self.lock_present(&container, reference).await?;
        let now = container.now();
        let mut def = (*now.def).clone();
        def.host = limits::updated(&now.def.host, &body);
        let refused =
            |why: &str| Err(Error::conflict(format!("Cannot update container {}: {why}", now.def.id)));
        let policy = body.restart_policy.as_ref().and_then(|p| p.name);
        let restarts =
            policy.is_some_and(|p| !matches!(p, RestartPolicyNameEnum::NO | RestartPolicyNameEnum::EMPTY));
        if now.def.host.auto_remove == Some(true) && restarts {
            return refused(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            );
        }
        if body.memory.is_some_and(|m| m > 0) && body.memory_swap.unwrap_or(0) == 0 {
            let (memory, swap) = (def.host.memory.unwrap_or(0), now.def.host.memory_swap.unwrap_or(0));
            if swap > 0 && swap < memory {
                return refused(
                    "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the \
                     same time",
                );
            }
        }
        let blueprint = run::blueprint(&def.config, &def.host, &self.inner.facts())?;
        let warnings = limits::check(&blueprint.limits, &self.inner.facts(), true)?;
        let block = block_changes(&now.def.host, &def.host)?;
        if now.state.status.is_alive() && (blueprint.limits != now.blueprint.limits || !block.is_empty()) {
            let mut resources = limits::resources(&blueprint.limits, &self.inner.facts(), Vec::new());
            resources.block = block;
            self.update_limits(&now, resources)
                .await
                .doing(format_args!("Cannot update container {}", now.def.id))?;
        }
        let mut tx = Transaction::new();
        put(&mut tx, CONTAINERS, &def.id, &def)?;
        self.inner.store.commit(tx).await?;
        let new = Now { def: Arc::new(def), blueprint: Arc::new(blueprint), state: Arc::clone(&now.state) };
        self.inner.registry.update(&container, new.clone());
        self.container_event(&new, "update", &[]);
        Ok(ContainerUpdateResponse { warnings: Some(warnings) })
    }

    /// `POST /containers/{id}/wait`, first half: registers, so that no exit after this is missed.
    pub async fn container_wait(&self, reference: &str, condition: WaitCondition) -> Result<Waiter> {
        let container = self.inner.registry.find(reference)?;
        let life = container.watch();
        let exits = life.borrow().exits;
        std::future::ready(Ok(Waiter { life, exits, condition, container })).await
    }
}

/// What an update changes of single block devices: the new limits, and none for those that went.
fn block_changes(old: &HostConfig, new: &HostConfig) -> Result<Vec<BlockLimit>> {
    let wanted = crate::start::block_limits(new)?;
    // A device that is gone has no limit that could be lifted.
    let lifted = crate::start::block_limits(old).unwrap_or_default().into_iter().filter(|limit| {
        !wanted.iter().any(|w| (w.kind, w.major, w.minor) == (limit.kind, limit.major, limit.minor))
    });
    let lifted: Vec<BlockLimit> = lifted.map(|limit| BlockLimit { value: 0, ..limit }).collect();
    Ok(wanted.into_iter().chain(lifted).collect())
}
