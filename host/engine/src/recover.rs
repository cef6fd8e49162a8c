//! After a start: what an earlier daemon left is adopted, finished, or undone.
//!
//! The store says what was meant, the keeper what is. Whatever has no record is swept away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use wharf_keeper::Entry;
use wharf_kernel::net::{NameSockets, Record};
use wharf_plan::policy::Origin;
use wharf_plan::run::ExitStatus;
use wharf_store::Transaction;

use crate::error::{Context, Result};
use crate::exit::{policy, wants_restart};
use crate::models::RestartPolicyNameEnum;
use crate::networks;
use crate::planner::run;
use crate::record::{
    CONTAINERS, Definition, NAMES, NETWORKS, Network, STATES, State, Status, VOLUMES, Volume, now as clock,
    put,
};
use crate::registry::{Container, Now};
use crate::{Caller, Engine};

/// How long starts by other runtimes may hold up the first answer.
const RUNTIMES: Duration = Duration::from_secs(10);
/// Exit code of a container whose end nobody saw.
const UNKNOWN_END: i32 = 255;

impl Engine {
    pub(crate) async fn recover(&self) -> Result<()> {
        self.load_networks().await?;
        self.load_volumes()?;
        // Subscribed before the list is asked for, so that no exit falls between the two; taken only when every container is
        // known, as the exit of an unknown one is dropped.
        let exits = self.inner.keeper.exits();
        let entries: BTreeMap<String, Entry> =
            self.settled_entries().await?.into_iter().map(|e| (e.id.clone(), e)).collect();
        let mut restart = Vec::new();
        let containers = self.load_containers()?;
        for container in &containers {
            self.inner.registry.insert(container);
        }
        let mut sockets = BTreeMap::new();
        for container in &containers {
            if let Some(wanted) = self.settle(container, entries.get(&*container.id), &mut sockets).await? {
                restart.push((Arc::clone(container), wanted));
            }
        }
        // When all names are known: until then what is asked waits.
        for container in &containers {
            self.adopt_names(container, sockets.remove(&container.id)).await;
        }
        self.watch_exits(exits);
        for (id, entry) in &entries {
            if self.inner.registry.get(id).is_none() {
                self.drop_stray(id, entry).await;
            }
        }
        self.restore_networks().await?;
        self.make_predefined().await?;
        self.sweep().await;
        self.inner.recovered.send_replace(true);
        for (container, later) in restart {
            self.restart_after_recovery(container, later);
        }
        self.follow_keeper();
        Ok(())
    }

    /// Waits until [`recover`](Self::recover) is through.
    pub(crate) async fn recovered(&self) {
        // The sender lives as long as the engine.
        let _ = self.inner.recovered.subscribe().wait_for(|done| *done).await;
    }

    /// What the keeper has, once other runtimes are done with the starts that an earlier daemon asked for: only then there
    /// is a process to know.
    async fn settled_entries(&self) -> Result<Vec<Entry>> {
        let end = tokio::time::Instant::now() + RUNTIMES;
        loop {
            let entries = self.inner.keeper.list().await?;
            let making = entries.iter().any(|e| e.pid == 0 && e.exit.is_none());
            if !making || tokio::time::Instant::now() > end {
                return Ok(entries);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn load_networks(&self) -> Result<()> {
        let mut features: BTreeMap<String, Option<Vec<String>>> = BTreeMap::new();
        for entry in self.inner.store.table(NETWORKS)? {
            let mut record: Network = serde_json::from_slice(&entry.value)
                .doing(format_args!("record of network {}", entry.key))?;
            // It is the driver of now that is asked for everything further: what it can do counts, not what one could when the
            // network was made.
            if !features.contains_key(&record.driver) {
                features.insert(record.driver.clone(), self.network_features(&record.driver).await);
            }
            if let Some(Some(now)) = features.get(&record.driver) {
                record.features.clone_from(now);
            }
            self.inner.networks.insert(&networks::Object::new(record));
        }
        Ok(())
    }

    /// What a network driver can do; None where it is not there or does not say.
    async fn network_features(&self, driver: &str) -> Option<Vec<String>> {
        let driver = self.inner.plugins.network(driver).ok()?;
        let call = wharf_plugins::Call::new(crate::planner::names::id());
        driver.capabilities(&call).await.ok().map(|answer| answer.value.features)
    }

    fn load_volumes(&self) -> Result<()> {
        for entry in self.inner.store.table(VOLUMES)? {
            let record: Volume =
                serde_json::from_slice(&entry.value).doing(format_args!("record of volume {}", entry.key))?;
            self.inner.volumes.insert(record);
        }
        Ok(())
    }

    /// Reads the containers. One whose record cannot be used is reported and left alone.
    fn load_containers(&self) -> Result<Vec<Arc<Container>>> {
        let mut states: BTreeMap<String, State> = BTreeMap::new();
        for entry in self.inner.store.table(STATES)? {
            match serde_json::from_slice(&entry.value) {
                Ok(state) => {
                    states.insert(entry.key, state);
                }
                Err(error) => tracing::error!(%error, id = entry.key, "state of a container cannot be read"),
            }
        }
        let mut all = Vec::new();
        for entry in self.inner.store.table(CONTAINERS)? {
            let def: Definition = match serde_json::from_slice(&entry.value) {
                Ok(def) => def,
                Err(error) => {
                    tracing::error!(%error, id = entry.key, "record of a container cannot be read");
                    continue;
                }
            };
            let blueprint = match run::blueprint(&def.config, &def.host, &self.inner.facts()) {
                Ok(blueprint) => blueprint,
                Err(error) => {
                    tracing::error!(%error, id = def.id, "this container cannot be used on this machine any more");
                    continue;
                }
            };
            if let Err(error) = self.inner.registry.reserve(&def.name, &def.id) {
                tracing::error!(%error, id = def.id, "two records have one name");
                continue;
            }
            let state = states.remove(&def.id).unwrap_or_default();
            let now = Now { def: Arc::new(def), state: Arc::new(state), blueprint: Arc::new(blueprint) };
            all.push(self.new_container(now));
        }
        Ok(all)
    }

    /// Brings one container's record and the keeper's knowledge together. Answers whether it is to be started again:
    /// after how many milliseconds, and by how many restarts so far.
    async fn settle(
        &self,
        container: &Arc<Container>,
        entry: Option<&Entry>,
        sockets: &mut BTreeMap<Arc<str>, NameSockets>,
    ) -> Result<Option<Restart>> {
        let mut held = container.lock.lock().await;
        let now = container.now();
        let expected = matches!(now.state.status, Status::Starting | Status::Running | Status::Paused);
        match entry {
            Some(entry) if expected => {
                let mut fds = self.inner.keeper.fetch(&container.id).await.unwrap_or_default();
                if let Some(names) = Self::held_names(&mut fds) {
                    sockets.insert(Arc::clone(&container.id), names);
                }
                let mut state = (*now.state).clone();
                state.pid = entry.pid;
                state.started_at = entry.started_at;
                if state.status == Status::Starting {
                    state.status = Status::Running;
                }
                self.inner.registry.update(container, Now { state: Arc::new(state), ..(*now).clone() });
                container.change_life(|life| life.alive = true);
                container.io.adopt(
                    fds.into_iter()
                        .filter(|(name, _)| matches!(name.as_str(), "stdin" | "stdout" | "stderr" | "pty"))
                        .collect(),
                );
                if let Some(status) = entry.exit {
                    self.record_exit(container, &mut held, status).await;
                } else {
                    self.watch_oom(container);
                    self.watch_health(container, true);
                    self.watch_stdin(container);
                }
                Ok(None)
            }
            Some(_) => {
                // Its end is on record; the keeper was only not told to forget it.
                let _ = self.inner.keeper.forget(&container.id).await;
                Ok(Self::settled(&now))
            }
            None if expected => {
                let rebooted = now.state.boot != self.inner.host.boot;
                let never = now.state.status == Status::Starting && now.state.started_at == 0 && !rebooted;
                self.lost(container, &now, never).await?;
                Ok(Self::settled(&container.now()))
            }
            None => Ok(Self::settled(&now)),
        }
    }

    /// What becomes of a container without a process.
    fn settled(now: &Now) -> Option<Restart> {
        let (name, most) = policy(now);
        let state = &now.state;
        let again = match state.status {
            Status::Restarting => true,
            Status::Exited => match name {
                // As with Docker: `always` means also after the daemon comes back.
                RestartPolicyNameEnum::ALWAYS => state.run > 0,
                RestartPolicyNameEnum::UNLESS_STOPPED => state.run > 0 && !state.stopped_by_user,
                RestartPolicyNameEnum::ON_FAILURE => {
                    state.run > 0 && wants_restart(name, most, state, state.exit_code, state.stopped_by_user)
                }
                RestartPolicyNameEnum::NO | RestartPolicyNameEnum::EMPTY => false,
            },
            _ => false,
        };
        if again {
            return Some(Restart::Start);
        }
        let ended = matches!(state.status, Status::Exited | Status::Removing | Status::Dead);
        let remove = state.status == Status::Removing
            || (ended && state.run > 0 && now.def.host.auto_remove == Some(true));
        remove.then_some(Restart::Remove)
    }

    /// A process that is gone and left no status, or a start that never came to one.
    async fn lost(&self, container: &Container, now: &Now, never: bool) -> Result<()> {
        let mut state = (*now.state).clone();
        let ended = std::mem::take(&mut state.endpoints);
        state.pid = 0;
        if never && state.run <= 1 && state.finished_at == 0 {
            state.status = Status::Created;
            state.run = 0;
        } else {
            state.status = Status::Exited;
            if !never {
                state.exit_code = UNKNOWN_END;
                state.finished_at = clock();
            }
        }
        let (mut tx, turns) = self.release_addresses(ended.values()).await;
        put(&mut tx, STATES, &now.def.id, &state)?;
        self.inner.store.commit(tx).await?;
        drop(turns);
        let code = state.exit_code;
        self.inner.registry.update(container, Now { state: Arc::new(state), ..now.clone() });
        container.change_life(|life| life.exit_code = code);
        Ok(())
    }

    /// A process of the keeper's that no record knows: a container whose removal was under way, or an old exec.
    async fn drop_stray(&self, id: &str, entry: &Entry) {
        if entry.exit.is_none() && entry.container.is_none() {
            tracing::warn!(id, "ending a process without a record");
            let _ = self.inner.keeper.signal(id, 9).await;
            // Its exit arrives like any other and is forgotten there.
            return;
        }
        if entry.exit.is_some() {
            if entry.container.is_none() {
                self.clear_stray_cgroup(id).await;
            }
            let _ = self.inner.keeper.forget(id).await;
        }
        // A running exec is left to itself; its exit is forgotten when it comes.
    }

    async fn restore_networks(&self) -> Result<()> {
        let networks: Vec<_> = self.inner.networks.all().iter().map(|n| n.record()).collect();
        let endpoints: Vec<_> = self
            .inner
            .registry
            .all()
            .iter()
            .flat_map(|c| c.now().state.endpoints.values().cloned().collect::<Vec<_>>())
            .collect();
        let net = self.inner.net.clone();
        let swept = self
            .inner
            .pool
            .run(move || {
                let networks: Vec<Record<'_>> = networks
                    .iter()
                    .filter_map(|n| {
                        n.desired.as_ref().map(|desired| Record { id: &n.id, desired, publishes: &[] })
                    })
                    .collect();
                let endpoints: Vec<Record<'_>> = endpoints
                    .iter()
                    .map(|e| Record { id: &e.id, desired: &e.desired, publishes: &e.publishes })
                    .collect();
                net.restore(&networks, &endpoints)
            })
            .await?;
        match swept {
            Ok(swept) if swept != wharf_kernel::net::Swept::default() => {
                tracing::info!(links = ?swept.links, elements = swept.elements, "swept from the network");
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "networks are not restored"),
        }
        self.restore_forwards().await
    }

    /// What a forwarder carries is made what is on record.
    async fn restore_forwards(&self) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for container in self.inner.registry.all() {
            let now = container.now();
            if !now.state.status.is_alive() {
                continue;
            }
            for endpoint in now.state.endpoints.values() {
                let forwards = wharf_plan::net::forwards(&endpoint.publishes);
                wanted.extend(forwards.into_iter().map(|forward| (endpoint.id.clone(), forward)));
            }
        }
        if !self.inner.settings().userland_proxy {
            // Only what has no other way: it was published when the configuration was another.
            wanted.retain(|(_, forward)| forward.container.is_ipv4());
        }
        let forwarder = self.inner.forwarder.clone();
        let missing = self.inner.pool.run(move || forwarder.adopt(wanted)).await?;
        if !missing.is_empty() {
            tracing::error!(count = missing.len(), "published ports are not reached by IPv6");
        }
        Ok(())
    }

    /// Removes what has no record. Nothing here can make the start fail.
    async fn sweep(&self) {
        let live: BTreeSet<String> = self.inner.registry.all().iter().map(|c| c.id.to_string()).collect();
        match self.inner.images.snapshots().sweep(&live).await {
            Ok(gone) if !gone.is_empty() => tracing::info!(count = gone.len(), "swept file systems"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "file systems are not swept"),
        }
        let busy: BTreeSet<String> = self
            .inner
            .registry
            .all()
            .iter()
            .filter(|c| c.now().state.status.is_alive())
            .map(|c| c.id.to_string())
            .collect();
        let parents = self.cgroup_parents();
        let (cgroups, dirs) = (self.inner.cgroups.clone(), self.inner.dirs.clone());
        let swept = self
            .inner
            .pool
            .run(move || {
                for base in parents {
                    for name in cgroups.list(&base).unwrap_or_default() {
                        // Only ids are ours; another engine's may be there too.
                        let id = crate::planner::cgroup::id_of(&name);
                        let ours = id.len() == 64 && (dirs.container(id).exists() || live.contains(id));
                        if !ours || busy.contains(id) {
                            continue;
                        }
                        if let Err(error) = cgroups.clear(&format!("{base}/{name}"), Duration::from_secs(1)) {
                            tracing::warn!(%error, name, "cgroup not swept");
                        }
                    }
                }
                for id in dirs.container_ids().unwrap_or_default() {
                    if !live.contains(&id)
                        && let Err(error) = dirs.remove_container(&id)
                    {
                        tracing::warn!(%error, id, "directory not swept");
                    }
                }
            })
            .await;
        if let Err(error) = swept {
            tracing::warn!(%error, "sweep");
        }
        let engine = self.clone();
        if let Err(error) = self.inner.pool.run(move || engine.sweep_bundles()).await {
            tracing::warn!(%error, "bundles are not swept");
        }
        self.sweep_names().await;
        self.reconcile_addresses().await;
    }

    /// The cgroups below which containers are, each with a leading slash.
    pub(crate) fn cgroup_parents(&self) -> BTreeSet<String> {
        let facts = self.inner.facts();
        let mut bases = BTreeSet::from(["/wharf".to_owned(), crate::planner::cgroup::base(&facts, None)]);
        for container in self.inner.registry.all() {
            let now = container.now();
            let own = now.def.host.cgroup_parent.as_deref().filter(|p| !p.is_empty());
            bases.insert(crate::planner::cgroup::base(&facts, own));
        }
        bases
    }

    /// Names whose containers are gone.
    async fn sweep_names(&self) {
        let mut tx = Transaction::new();
        for entry in self.inner.store.table(NAMES).unwrap_or_default() {
            let id = String::from_utf8_lossy(&entry.value);
            if self.inner.registry.get(&id).is_none_or(|c| c.now().def.name != entry.key) {
                tx.delete(NAMES, &entry.key);
            }
        }
        if let Err(error) = self.inner.store.commit(tx).await {
            tracing::warn!(%error, "names are not swept");
        }
    }

    /// Tells the address managers which leases are alive; they drop the others.
    async fn reconcile_addresses(&self) {
        for object in self.inner.networks.all() {
            let record = object.record();
            let Ok(ipam) = self.inner.plugins.ipam(&record.ipam_driver) else { continue };
            let _turn = object.turn.lock().await;
            for p in &record.pools {
                let mut live: Vec<_> = p.gateway.iter().cloned().collect();
                live.extend(p.reserved.iter().map(|(_, lease)| lease.clone()));
                for container in self.inner.registry.all() {
                    for endpoint in container.now().state.endpoints.values() {
                        live.extend(
                            endpoint
                                .leases
                                .iter()
                                .filter(|(pool, _)| pool.id == p.pool.id)
                                .map(|(_, l)| l.clone()),
                        );
                    }
                }
                let call = wharf_plugins::Call::new(crate::planner::names::id()).about(record.id.as_str());
                match ipam.reconcile(&call, &p.pool, &live).await {
                    Ok(answer) => {
                        if !answer.value.is_empty() {
                            tracing::info!(network = record.name, addresses = ?answer.value, "released stray addresses");
                        }
                        if let Err(error) = self.inner.store.commit(answer.kv).await {
                            tracing::warn!(%error, "stray addresses are not released");
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, network = record.name, "addresses are not reconciled");
                    }
                }
            }
        }
    }

    fn restart_after_recovery(&self, container: Arc<Container>, what: Restart) {
        let engine = self.clone();
        tokio::spawn(async move {
            let mut held = container.lock.lock().await;
            // A client may have been faster: it has started or removed the container, or said that it is to stay as it is.
            if held.removing || Engine::settled(&container.now()) != Some(what) {
                return;
            }
            match what {
                Restart::Start => {
                    let caller = Caller { identity: None, origin: Origin::Boot };
                    if let Err(error) = engine.start_locked(&container, &mut held, &caller, 0).await {
                        tracing::warn!(%error, id = %container.id, "not started again");
                    }
                }
                Restart::Remove => {
                    let options = crate::RemoveOptions { volumes: true, ..crate::RemoveOptions::default() };
                    if let Err(error) = engine.remove_locked(&container, &mut held, options).await {
                        tracing::warn!(%error, id = %container.id, "--rm did not remove the container");
                    }
                }
            }
        });
    }

    /// When the keeper itself was started anew, what it held must be given to it again: the exits it saw are in its
    /// list, and containers that ended unseen are lost.
    fn follow_keeper(&self) {
        let mut restarts = self.inner.keeper.restarts();
        let weak = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while restarts.changed().await.is_ok() {
                let Some(inner) = weak.upgrade() else { return };
                let engine = Engine { inner };
                let known: BTreeMap<String, Entry> = match engine.inner.keeper.list().await {
                    Ok(list) => list.into_iter().map(|e| (e.id.clone(), e)).collect(),
                    Err(error) => {
                        tracing::warn!(%error, "the new keeper does not answer");
                        continue;
                    }
                };
                for container in engine.inner.registry.all() {
                    let mut held = container.lock.lock().await;
                    let now = container.now();
                    if now.state.status.is_alive() && !known.contains_key(&*container.id) {
                        // It may have been started after the keeper was asked. One that has gone away again is followed anew.
                        let known = engine.inner.keeper.list().await;
                        if known.map_or(true, |list| list.iter().any(|e| *e.id == *container.id)) {
                            continue;
                        }
                        let status =
                            ExitStatus { code: UNKNOWN_END, signal: None, oom_killed: false, at: clock() };
                        engine.record_exit(&container, &mut held, status).await;
                    }
                }
            }
        });
    }

    /// Stops a container because the daemon ends: no mark of a user, so that policies apply at the next start.
    pub(crate) async fn stop_for_shutdown(&self, container: &Arc<Container>, seconds: i64) {
        let mark = container.now().state.stopped_by_user;
        if let Err(error) = self.stop(container, Some(seconds), None).await {
            tracing::warn!(%error, id = %container.id, "not stopped");
        }
        if !mark && container.now().state.stopped_by_user {
            let Ok(_held) = self.lock_present(container, &container.id).await else { return };
            if let Err(error) = self.set_state(container, |s| s.stopped_by_user = false).await {
                tracing::warn!(%error, id = %container.id, "state not written");
            }
        }
    }
}

/// What recovery found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    Start,
    Remove,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{ContainerConfig, HostConfig, RestartPolicy};
    use RestartPolicyNameEnum as P;

    fn settled(policy: P, auto_remove: bool, state: State) -> Option<Restart> {
        let config = ContainerConfig { cmd: Some(vec!["true".into()]), ..ContainerConfig::default() };
        let host = HostConfig {
            restart_policy: Some(RestartPolicy { name: Some(policy), maximum_retry_count: Some(0) }),
            auto_remove: Some(auto_remove),
            ..HostConfig::default()
        };
        let blueprint = run::blueprint(&config, &HostConfig::default(), &crate::planner::Facts::default());
        let def = Definition {
            id: "i".into(),
            name: "n".into(),
            created: 1,
            image: String::new(),
            image_name: String::new(),
            config,
            host,
            mounts: Vec::new(),
            networks: BTreeMap::new(),
            id_maps: Vec::new(),
            driver: String::new(),
            links: Vec::new(),
        };
        let now = Now { def: Arc::new(def), state: Arc::new(state), blueprint: Arc::new(blueprint.unwrap()) };
        Engine::settled(&now)
    }

    #[test]
    fn what_becomes_of_containers_without_a_process() {
        let ended = |code, stopped, run| State {
            status: Status::Exited,
            exit_code: code,
            stopped_by_user: stopped,
            run,
            ..State::default()
        };
        let of = |status| State { status, run: 1, ..State::default() };
        let (start, remove) = (Some(Restart::Start), Some(Restart::Remove));
        let cases = [
            (P::NO, false, ended(0, false, 1), None),
            (P::NO, true, ended(0, false, 1), remove),
            // Created with --rm, never started: its owner may still want it.
            (P::NO, true, ended(0, false, 0), None),
            (P::NO, true, State::default(), None),
            (P::ALWAYS, false, ended(0, true, 1), start),
            (P::ALWAYS, false, ended(0, false, 0), None),
            (P::ALWAYS, false, State::default(), None),
            (P::UNLESS_STOPPED, false, ended(1, true, 1), None),
            (P::UNLESS_STOPPED, false, ended(1, false, 1), start),
            (P::ON_FAILURE, false, ended(1, false, 1), start),
            (P::ON_FAILURE, false, ended(0, false, 1), None),
            (P::NO, false, of(Status::Restarting), start),
            (P::NO, false, of(Status::Removing), remove),
            (P::NO, false, of(Status::Running), None),
        ];
        for (policy, auto_remove, state, wanted) in cases {
            assert_eq!(settled(policy, auto_remove, state.clone()), wanted, "{policy:?} {state:?}");
        }
    }
}
