//! Starting a container: this room says in which order; `prepare` makes its files and networks, `handover` gives all to the keeper.

mod devices;
mod errors;
mod handover;
mod prepare;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wharf_plan::types::Labels;
use wharf_store::Transaction;

use crate::error::{Context, Error, Kind, Result};
use crate::planner::health;
use crate::planner::modes::NetworkMode;
use crate::planner::run::{self, HostDevice};
use crate::policy::Subject;
use crate::record::{Definition, Endpoint, STATES, State, Status, put};
use crate::registry::{Container, Held, Now};
use crate::{Caller, Engine, RemoveOptions, endpoints};

pub(crate) use devices::{block_limits, device};
pub(crate) use errors::{command_failure, start_error};
pub(crate) use handover::Fds;
pub(crate) use prepare::{OWN_FILES, account, bind_tree, own_file};

use devices::host_devices;

/// Under this name the stages of a start are traced, to see where its time goes.
const STAGES: &str = "wharf_engine::start";

impl Engine {
    /// `POST /containers/{id}/start`; [`crate::Kind::NotModified`] if it runs.
    pub async fn container_start(&self, reference: &str, caller: &Caller) -> Result<()> {
        let container = self.inner.registry.find(reference)?;
        let mut held = container.lock.lock().await;
        check_startable(&container, &held)?;
        held.backoff = 0;
        self.start_locked(&container, &mut held, caller, 0).await
    }

    /// Starts it; the lock is held. `restarts` counts the restart policy's doings.
    pub(crate) async fn start_locked(
        &self,
        container: &Arc<Container>,
        held: &mut Held,
        caller: &Caller,
        restarts: u32,
    ) -> Result<()> {
        if self.inner.closing.load(Ordering::Acquire) {
            return Err(Error::unavailable("the daemon is shutting down"));
        }
        let now = container.now();
        self.review(
            caller,
            Subject {
                point: "container-start",
                target: &now.def.id,
                labels: endpoints::labels(now.def.config.labels.iter().flatten()),
                dry_run: false,
            },
            || &now.def.host,
        )
        .await?;
        if let Some(tidying) = held.tidying.take() {
            // The new run has the same names as the last one. A failure was reported where it happened.
            let _ = tidying.await;
        }
        let cgroup = self.cgroup_path(&now);
        let mut state = State {
            status: Status::Starting,
            pid: 0,
            started_at: 0,
            finished_at: now.state.finished_at,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            restarts,
            stopped_by_user: false,
            run: now.state.run + 1,
            endpoints: BTreeMap::new(),
            cgroup: cgroup.clone(),
            boot: self.inner.host.boot.clone(),
            runtime: None,
            restore: held.restore.take().map(|path| path.display().to_string()),
            apparmor: String::new(),
            health: health::Plan::of(&now.def.config).map(|_| health::Health::default()),
        };
        match self.try_start(container, &now, &mut state).await {
            Ok(()) => Ok(()),
            Err(e) => {
                self.start_failed(container, &now, state, &e).await;
                if now.def.host.auto_remove == Some(true) {
                    let options = RemoveOptions { volumes: true, ..RemoveOptions::default() };
                    if let Err(error) = self.remove_locked(container, held, options).await {
                        tracing::warn!(%error, id = now.def.id, "--rm did not remove the container");
                    }
                }
                Err(e)
            }
        }
    }

    /// The failed start's traces go; the container shows the reason.
    async fn start_failed(&self, container: &Container, now: &Now, mut state: State, error: &Error) {
        container.io.abandoned();
        let code = match error.kind {
            Kind::Invalid => command_failure(&error.message).unwrap_or(128),
            _ => 128,
        };
        let (cgroups, path) = (self.inner.cgroups.clone(), state.cgroup.clone());
        let (runtime, id) = (state.runtime.take(), now.def.id.clone());
        let removed = self.inner.pool.start(move || {
            if let Some(runtime) = runtime {
                crate::runtimes::dispose(&runtime, &id);
            }
            cgroups.clear(&path, std::time::Duration::from_secs(2))
        });
        let endpoints = std::mem::take(&mut state.endpoints);
        let (mut tx, turns) = self.release_addresses(endpoints.values()).await;
        state.status = if now.state.status == Status::Created { Status::Created } else { Status::Exited };
        state.exit_code = code;
        state.error.clone_from(&error.message);
        state.started_at = now.state.started_at;
        if let Err(e) = put(&mut tx, STATES, &now.def.id, &state) {
            tracing::error!(error = %e, "state not written");
        }
        if let Err(e) = self.inner.store.commit(tx).await {
            tracing::error!(error = %e, id = now.def.id, "the failed start is not recorded");
        }
        drop(turns);
        if let Ok(Err(e)) = removed.await {
            tracing::warn!(error = %e, id = now.def.id, "cgroup of a failed start not removed");
        }
        let state = Arc::new(state);
        // Not an exit: who waits for the next one learns of the failure from the start itself.
        container.change_life(|life| life.exit_code = code);
        self.inner.registry.update(container, Now { state, ..now.clone() });
    }

    async fn try_start(&self, container: &Arc<Container>, now: &Now, state: &mut State) -> Result<()> {
        let def = &now.def;
        tracing::trace!(target: STAGES, id = def.id, "begins");
        self.check_links(now)?;
        state.runtime = self.runtime_of(def)?;
        let b = &now.blueprint;
        state.apparmor = self.choose_profile(b).await?;
        // The cgroup needs nothing else, so it is made beside everything.
        let resources = {
            let mut devices = self.devices_of(def, b.privileged).await?;
            devices.extend(self.cdi_edits(&def.host)?.devices);
            let mut resources = run::resources(b, &self.inner.facts(), &devices);
            resources.block = block_limits(&def.host)?;
            resources
        };
        let (cgroups, path) = (self.inner.cgroups.clone(), state.cgroup.clone());
        // Another runtime makes the cgroup itself.
        let foreign = state.runtime.is_some();
        let joined = self.joined_user(now).await?.map(Arc::new);
        // A container without networks needs nothing but an empty namespace: no visit of its own to a kernel thread.
        let namespaces = (b.network == NetworkMode::None)
            .then(|| (self.inner.namespaces.clone(), Arc::clone(def), joined.clone()));
        let settings = self.inner.settings();
        let budget = [settings.cpu_rt_period, settings.cpu_rt_runtime].map(|n| Some(n).filter(|n| *n != 0));
        let cgroup = self.inner.pool.start(move || {
            let above = match budget {
                [None, None] => Ok(()),
                [period, runtime] => cgroups.realtime_above(&path, period, runtime),
            };
            let made = above.and_then(|()| if foreign { Ok(()) } else { cgroups.create(&path, &resources) });
            let taken = namespaces.map(|(source, def, joined)| source.take(&def.id_maps, joined.as_deref()));
            (made, taken)
        });
        let prepared = self.prepare(now, state, joined.clone()).await;
        tracing::trace!(target: STAGES, id = def.id, "prepared");
        // Whatever became of the rest: the cgroup is there or not when this goes on.
        let cgroup = cgroup.await.and_then(|(made, namespace)| {
            made.doing("cannot make the cgroup")?;
            Ok(namespace.transpose()?)
        });
        let prepared = prepared?;
        tracing::trace!(target: STAGES, id = def.id, "cgroup made");
        let result = match cgroup {
            Ok(namespace) => {
                let namespace = prepared.namespace.or(namespace);
                let spaces = Spaces { net: namespace, joined };
                self.hand_over(container, now, state, prepared.files, spaces, prepared.network).await
            }
            Err(e) => Err(e),
        };
        if result.is_err() {
            self.inner.names.withdraw(&def.id);
            self.undo_endpoints(state.endpoints.clone()).await;
        }
        result
    }

    /// Devices of the host; a path that was asked for may lie anywhere.
    async fn devices_of(&self, def: &Arc<Definition>, privileged: bool) -> Result<Vec<HostDevice>> {
        let asked: Vec<String> =
            def.host.devices.iter().flatten().filter_map(|d| d.path_on_host.clone()).collect();
        let places: Vec<&str> = asked.iter().map(String::as_str).collect();
        if places.is_empty() {
            return host_devices(&def.host, privileged);
        }
        let def = Arc::clone(def);
        self.inner.foreign.run(&places, move |_| host_devices(&def.host, privileged)).await?
    }

    async fn undo_endpoints(&self, endpoints: BTreeMap<String, Endpoint>) {
        if endpoints.is_empty() {
            return;
        }
        let (net, forwarder) = (self.inner.net.clone(), self.inner.forwarder.clone());
        let undone =
            move || endpoints.values().for_each(|endpoint| endpoints::undo(&net, &forwarder, endpoint));
        if let Err(error) = self.inner.pool.run(undone).await {
            tracing::warn!(%error, "endpoints not removed; the next sweep will");
        }
    }

    /// What follows a start and cannot make it fail any more.
    async fn after_start(&self, container: &Arc<Container>, now: &Now) {
        // The recorded plan had no ports that the host chose, nor links' names.
        if now.state.endpoints.values().any(|e| e.publishes != e.desired.publishes) {
            let mut tx = Transaction::new();
            let written = match put(&mut tx, STATES, &now.def.id, &*now.state) {
                Ok(()) => self.inner.store.commit(tx).await.map_err(Error::from),
                Err(e) => Err(e),
            };
            if let Err(error) = written {
                tracing::warn!(%error, id = now.def.id, "chosen ports are not recorded");
            }
        }
        for (name, endpoint) in &now.state.endpoints {
            if let Ok(network) = self.inner.networks.find(&endpoint.network) {
                self.network_event(
                    &network.record(),
                    "connect",
                    &[("container", &now.def.id), ("name", name)],
                );
            }
        }
        self.bare_event(now, "connect");
        self.tell_linked(now).await;
        self.container_event(now, "start", &[]);
        self.watch_oom(container);
        self.watch_health(container, false);
        self.watch_stdin(container);
    }

    /// Once a client has closed the input of a container, the keeper drops its descriptor too: the process sees the end.
    pub(crate) fn watch_stdin(&self, container: &Arc<Container>) {
        let def = Arc::clone(&container.now().def);
        if def.config.stdin_once != Some(true) {
            return;
        }
        let (keeper, io) = (self.inner.keeper.clone(), Arc::clone(&container.io));
        tokio::spawn(async move {
            if io.stdin_closed().await {
                // An ended container has no stdin to release.
                let _ = keeper.release(&def.id, vec!["stdin".into()]).await;
            }
        });
    }

    /// What the CDI devices that a container asks for add to it.
    fn cdi_edits(&self, host: &crate::models::HostConfig) -> Result<crate::cdi::Edits> {
        crate::cdi::edits(&self.inner.settings().cdi_dirs, &crate::cdi::wanted(host))
    }
}

/// Where the network namespace of a start comes from.
pub(crate) enum NetNamespace {
    Host,
    Fd(OwnedFd),
    /// With the user namespace that it belongs to.
    Pair(wharf_kernel::userns::Pair),
}

impl NetNamespace {
    /// The namespace, if it is not the host's.
    fn net(&self) -> Option<&OwnedFd> {
        match self {
            Self::Host => None,
            Self::Fd(fd) => Some(fd),
            Self::Pair(pair) => Some(&pair.net),
        }
    }
}

/// Namespaces of a start that are not made by the keeper.
struct Spaces {
    net: Option<NetNamespace>,
    /// A process in the user namespace to be in.
    joined: Option<Arc<OwnedFd>>,
}

/// Refuses where there is nothing to start.
pub(crate) fn check_startable(container: &Container, held: &Held) -> Result<()> {
    if held.removing {
        return Err(Error::conflict("container is marked for removal and cannot be started"));
    }
    match container.now().state.status {
        Status::Running | Status::Starting => Err(Error::not_modified()),
        Status::Paused => Err(Error::conflict("cannot start a paused container, try unpause instead")),
        Status::Removing | Status::Dead => {
            Err(Error::conflict("container is marked for removal and cannot be started"))
        }
        Status::Created | Status::Exited | Status::Restarting => Ok(()),
    }
}

/// Labels of a container for plugins.
pub(crate) fn plugin_labels(now: &Now) -> Labels {
    endpoints::labels(now.def.config.labels.iter().flatten())
}
