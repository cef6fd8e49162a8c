//! Starting a container.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wharf_kernel::fs::Root;
use wharf_kernel::{mount, seccomp};
use wharf_plan::idmap;
use wharf_plan::run::{Device, Fd, Ids, Namespace, Namespaces, Stage, StartError, UserNamespace};
use wharf_plan::types::{IdMap, Labels};
use wharf_store::Transaction;

use crate::error::{Context, Error, Kind, Result};
use crate::planner::modes::{Ipc, Mode, NetworkMode};
use crate::planner::mounts::{Kind as MountKind, MountSpec};
use crate::planner::run::{self, HostDevice, Start};
use crate::planner::security::Seccomp;
use crate::planner::{config, health, security, user, userns};
use crate::policy::Subject;
use crate::record::{Definition, Endpoint, STATES, State, Status, put};
use crate::registry::{Container, Held, Now};
use crate::{Caller, Engine, RemoveOptions, endpoints, filesystem};

/// The files that every container has of its own: where they are inside, and their names in its directory.
pub(crate) const OWN_FILES: [(&str, &str); 3] =
    [("/etc/resolv.conf", "resolv.conf"), ("/etc/hostname", "hostname"), ("/etc/hosts", "hosts")];

/// How long the making of a container's process may take, from the fork to its program.
const SETUP_PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

/// Under this name the stages of a start are traced, to see where its time goes.
const STAGES: &str = "wharf_engine::start";

/// Descriptors on their way to the keeper, numbered as they are added.
#[derive(Default)]
pub(crate) struct Fds(pub(crate) Vec<OwnedFd>);

impl Fds {
    pub(crate) fn add(&mut self, fd: OwnedFd) -> Fd {
        self.0.push(fd);
        Fd::try_from(self.0.len() - 1).unwrap_or(Fd::MAX)
    }
}

/// What a kernel thread prepares of the file system.
struct Files {
    account: user::Account,
    rootfs: OwnedFd,
    own: Vec<(&'static str, OwnedFd)>,
    trees: Vec<Option<(OwnedFd, bool)>>,
    devices: Vec<HostDevice>,
    shm: Option<OwnedFd>,
    /// What CDI devices add: mounts (with target, read-only, file), variables and groups.
    more: Vec<(OwnedFd, String, bool, bool)>,
    env: Vec<String>,
    groups: Vec<u32>,
    /// Path of the program, where an init that another runtime starts has to be told it.
    program: Option<String>,
}

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
        let cgroup = self.inner.pool.start(move || {
            let made = if foreign { Ok(()) } else { cgroups.create(&path, &resources) };
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
                self.hand_over(container, now, state, prepared.files, spaces, prepared.holders).await
            }
            Err(e) => Err(e),
        };
        if result.is_err() {
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
        let net = self.inner.net.clone();
        let undone = move || endpoints.values().for_each(|endpoint| endpoints::undo(&net, endpoint));
        if let Err(error) = self.inner.pool.run(undone).await {
            tracing::warn!(%error, "endpoints not removed; the next sweep will");
        }
    }

    /// Plans, records, and makes everything that the process needs but its cgroup. On failure nothing of it is left.
    async fn prepare(&self, now: &Now, state: &mut State, joined: Option<Arc<OwnedFd>>) -> Result<Prepared> {
        let source = self.network_source(now).await?;
        let planned = self.plan_endpoints(now, false).await?;
        state.endpoints = planned.endpoints;
        // The record comes before the deed, and is written while the deed is prepared.
        let mut tx = planned.kv;
        put(&mut tx, STATES, &now.def.id, &*state)?;
        let turns = planned.turns;
        let store = self.inner.store.clone();
        let recording = async move {
            let result = store.commit(tx).await;
            drop(turns);
            result
        };
        let snapshots = self.inner.images.snapshots();
        let mounting = snapshots.mount(&now.def.id);
        let own = matches!(now.blueprint.network, NetworkMode::Network(_));
        let networking = self.prepare_network(now, state.endpoints.clone(), own, joined);
        let volumes = self.volume_trees(now);
        tracing::trace!(target: STAGES, id = now.def.id, "planned");
        let (recorded, network, root, volumes) = tokio::join!(recording, networking, mounting, volumes);
        tracing::trace!(target: STAGES, id = now.def.id, "recorded and mounted");
        let made = network?;
        state.endpoints = made.endpoints;
        let files = async {
            recorded?;
            self.prepare_files(now, root?, volumes?, !state.endpoints.is_empty(), state).await
        }
        .await;
        match files {
            Ok(files) => Ok(Prepared { files, namespace: made.namespace.or(source), holders: made.holders }),
            Err(e) => {
                self.undo_endpoints(state.endpoints.clone()).await;
                Err(e)
            }
        }
    }

    /// The namespace of another container or the host, for those modes.
    async fn network_source(&self, now: &Now) -> Result<Option<NetNamespace>> {
        match &now.blueprint.network {
            NetworkMode::Host => {
                // It is the driver that says so, by its capability; without one there is no such mode.
                let host = self.inner.networks.find("host")?.record();
                if host.features.iter().any(|f| f == "host-namespace") {
                    Ok(Some(NetNamespace::Host))
                } else {
                    Err(Error::unavailable(
                        "the driver of the network \"host\" does not share the host's namespace",
                    ))
                }
            }
            NetworkMode::Container(other) => {
                let other = self.inner.registry.find(other)?;
                let their = other.now();
                if !their.state.status.is_alive() {
                    return Err(Error::conflict(format!(
                        "cannot join network of a non running container: {}",
                        their.def.id
                    )));
                }
                if their.blueprint.network == NetworkMode::Host {
                    return Ok(Some(NetNamespace::Host));
                }
                Ok(Some(NetNamespace::Fd(self.container_netns(&their.def.id).await?)))
            }
            NetworkMode::None | NetworkMode::Network(_) => Ok(None),
        }
    }

    async fn prepare_network(
        &self,
        now: &Now,
        mut endpoints: BTreeMap<String, Endpoint>,
        own: bool,
        joined: Option<Arc<OwnedFd>>,
    ) -> Result<MadeNetwork> {
        if !own {
            return Ok(MadeNetwork { endpoints, namespace: None, holders: Vec::new() });
        }
        let (source, net) = (self.inner.namespaces.clone(), self.inner.net.clone());
        let def = Arc::clone(&now.def);
        let made = self
            .inner
            .pool
            .run(move || -> Result<_, (String, wharf_kernel::net::Error)> {
                let namespace = source
                    .take(&def.id_maps, joined.as_deref())
                    .map_err(|e| (String::new(), wharf_kernel::net::Error::Missing(e.to_string())))?;
                let holders = match namespace.net() {
                    Some(fd) => endpoints::apply(&net, &mut endpoints, fd)?,
                    None => Vec::new(),
                };
                Ok((endpoints, namespace, holders))
            })
            .await?;
        let (endpoints, namespace, holders) =
            made.map_err(|(id, e)| endpoints::failure(&now.def.name, &id, &e))?;
        Ok(MadeNetwork { endpoints, namespace: Some(namespace), holders })
    }

    /// Everything about files that needs the root file system: one visit to a kernel thread.
    async fn prepare_files(
        &self,
        now: &Now,
        rootfs: OwnedFd,
        volumes: Vec<Option<OwnedFd>>,
        rewrite_hosts: bool,
        state: &State,
    ) -> Result<Files> {
        let def = Arc::clone(&now.def);
        let dir = match &now.blueprint.network {
            // Names are resolved as in the container whose network it is.
            NetworkMode::Container(other) => self.inner.dirs.container(&self.inner.registry.find(other)?.id),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Network(_) => {
                self.inner.dirs.container(&def.id)
            }
        };
        let hosts = rewrite_hosts.then(|| {
            let view = Now { state: Arc::new(state.clone()), ..now.clone() };
            self.hosts_file(&view)
        });
        let privileged = now.blueprint.privileged;
        let searched = (state.runtime.is_some() && now.blueprint.init).then(|| now.blueprint.args.clone());
        let edits = self.cdi_edits(&def.host)?;
        let shared_shm = match &now.blueprint.ipc {
            Ipc::Host => true,
            Ipc::Container(_) | Ipc::None | Ipc::Private { .. } => false,
        };
        // With binds, devices or files that other file systems may hold, on threads that may hang.
        let places: Vec<String> = def
            .mounts
            .iter()
            .filter(|m| m.kind == MountKind::Bind)
            .map(|m| m.source.clone())
            .chain(def.host.devices.iter().flatten().filter_map(|d| d.path_on_host.clone()))
            .chain(edits.mounts.iter().map(|(source, ..)| source.display().to_string()))
            .collect();
        let work = move |at: Option<&crate::foreign::At>| -> Result<Files> {
            if let Some(text) = hosts {
                filesystem::write_public(&dir.join("hosts"), &text)?;
            }
            let root = Root::new(rootfs);
            let account = account(&root, def.config.user.as_deref().unwrap_or(""), &def.host)?;
            let program = match searched.as_ref().and_then(|args| args.first()) {
                Some(name) => Some(find_program(&root, name, &def.config)?),
                None => None,
            };
            let mut own = Vec::new();
            for (target, name) in OWN_FILES {
                own.push((target, own_file(&dir.join(name), &def.id_maps)?));
            }
            userns::check_user(&def.id_maps, &account.user)?;
            let mut trees = Vec::with_capacity(def.mounts.len());
            for (spec, volume) in def.mounts.iter().zip(volumes) {
                trees.push(match (spec.kind, volume) {
                    (MountKind::Tmpfs, _) => None,
                    (_, Some(tree)) => Some((tree, false)),
                    (_, None) => {
                        if let Some(at) = at {
                            at.place(&spec.source);
                        }
                        Some(bind_tree(spec, &def.id_maps)?)
                    }
                });
            }
            let shm = if shared_shm { Some(mount::bind_path(Path::new("/dev/shm"), true)?) } else { None };
            let mut devices = host_devices(&def.host, privileged)?;
            devices.extend(edits.devices);
            let mut more = Vec::new();
            for (source, target, read_only) in edits.mounts {
                if let Some(at) = at {
                    at.place(&source.display().to_string());
                }
                let is_file = !source.is_dir();
                let tree = mount::bind_path(&source, true)
                    .doing(format_args!("CDI device injection failed: cannot mount {}", source.display()))?;
                more.push((tree, target, read_only, is_file));
            }
            Ok(Files {
                more,
                env: edits.env,
                groups: edits.groups,
                account,
                rootfs: root.into_fd(),
                own,
                trees,
                devices,
                shm,
                program,
            })
        };
        if places.is_empty() {
            return self.inner.pool.run(move || work(None)).await?;
        }
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        self.inner.foreign.run(&places, move |at| work(Some(at))).await?
    }

    async fn hand_over(
        &self,
        container: &Arc<Container>,
        now: &Now,
        state: &mut State,
        files: Files,
        spaces: Spaces,
        holders: Vec<OwnedFd>,
    ) -> Result<()> {
        let def = &now.def;
        let b = &now.blueprint;
        let stdio = container.io.start()?;
        let mut fds = Fds::default();
        let mut hold: Vec<(String, Fd)> = Vec::new();
        let rootfs = fds.add(files.rootfs);
        let own = files.own.into_iter().map(|(target, fd)| (target, fds.add(fd))).collect();
        let is_file: Vec<bool> =
            files.trees.iter().map(|t| t.as_ref().is_some_and(|(_, file)| *file)).collect();
        let trees = files.trees.into_iter().map(|t| t.map(|(fd, _)| fds.add(fd))).collect();
        let mut shm = files.shm.map(|fd| fds.add(fd));
        let mut namespaces = Namespaces {
            cgroup: if b.host_cgroupns { Namespace::Host } else { Namespace::New },
            uts: if b.uts == Mode::Host { Namespace::Host } else { Namespace::New },
            ..Namespaces::default()
        };
        let mut user = spaces.joined.map(|fd| fd.try_clone()).transpose()?;
        let net = match spaces.net {
            Some(NetNamespace::Pair(pair)) => {
                user = Some(pair.user);
                Some(NetNamespace::Fd(pair.net))
            }
            other => other,
        };
        namespaces.net = match net {
            Some(NetNamespace::Fd(fd)) => {
                let fd = fds.add(fd);
                hold.push(("netns".into(), fd));
                Namespace::Join(fd)
            }
            Some(NetNamespace::Host) => Namespace::Host,
            // Matched above.
            Some(NetNamespace::Pair(_)) | None => Namespace::New,
        };
        let user = match user {
            _ if def.id_maps.is_empty() => None,
            Some(fd) => Some(UserNamespace { namespace: fds.add(fd), ids: Ids::both(def.id_maps.clone()) }),
            None => {
                return Err(Error::conflict(
                    "the container whose namespaces are joined does not run, so there is no user namespace to join",
                ));
            }
        };
        self.join_others(b, &mut namespaces, &mut fds, &mut shm).await?;
        if b.ipc == (Ipc::Private { shareable: true }) {
            let size = format!("size={}", b.shm_size);
            let flags = mount::Flags { no_suid: true, no_dev: true, no_exec: true, read_only: false };
            let root = idmap::outside(&def.id_maps, 0).unwrap_or(0);
            let (uid, gid) = (format!("uid={root}"), format!("gid={root}"));
            let tree = mount::tmpfs(&["mode=1777", &size, &uid, &gid], flags)?;
            hold.push(("shm".into(), fds.add(mount::bind(tree.as_fd(), false)?)));
            shm = Some(fds.add(tree));
        }
        for (n, fd) in holders.into_iter().enumerate() {
            hold.push((format!("port-{n}"), fds.add(fd)));
        }
        for (name, fd) in stdio.hold {
            hold.push((name, fds.add(fd)));
        }
        let child = stdio.child.map(|fd| fd.map(|fd| fds.add(fd)));
        let specs: Vec<(MountSpec, bool)> = def.mounts.iter().cloned().zip(is_file).collect();
        let hostname = match &b.network {
            NetworkMode::Container(other) => {
                let other = self.inner.registry.find(other)?.now();
                config::hostname(&other.def.config, &other.def.id)
            }
            NetworkMode::None | NetworkMode::Host | NetworkMode::Network(_) => {
                config::hostname(&def.config, &def.id)
            }
        };
        let mut plan = run::plan(
            &def.id,
            &def.config,
            &def.host,
            b,
            &self.inner.facts(),
            &specs,
            Start {
                account: files.account,
                rootfs,
                files: own,
                trees,
                namespaces,
                shm,
                devices: files.devices,
                seccomp: self.seccomp(b)?,
                apparmor: self.apparmor(b),
                stdio: child,
                console_size: container.io.size().or_else(|| console_size(&def.host)),
                cgroup_path: state.cgroup.clone(),
                hold,
                hostname: &hostname,
                user,
            },
        );
        plan.process.env.extend(files.env);
        plan.process.user.groups.extend(files.groups);
        for (tree, target, read_only, file) in files.more {
            plan.mounts.push(run::tree_mount(&target, fds.add(tree), file, read_only, "rprivate"));
        }
        if let Some(runtime) = &state.runtime {
            if let Some(program) = files.program {
                plan.process.args.splice(..1, [program]);
            }
            Self::plan_for(runtime, &mut plan, b)?;
            if let Some(foreign) = &mut plan.foreign {
                foreign.restore.clone_from(&state.restore);
            }
        }
        tracing::trace!(target: STAGES, id = def.id, "handed over");
        let started = self
            .set_up(container, plan, fds)
            .await?
            .map_err(|e| start_error(&b.args, def.config.working_dir.as_deref().unwrap_or(""), &e))?;
        tracing::trace!(target: STAGES, id = def.id, "runs");
        state.status = Status::Running;
        state.pid = started.pid;
        state.started_at = started.started_at;
        container.io.started(started.pty);
        let state = Arc::new(state.clone());
        let new = Now { state, ..now.clone() };
        container.change_life(|life| life.alive = true);
        self.inner.registry.update(container, new.clone());
        self.after_start(container, &new).await;
        Ok(())
    }

    /// Has the keeper make the process. A set-up that hangs is killed after a while, or by who wants the container's end.
    async fn set_up(
        &self,
        container: &Container,
        plan: wharf_plan::run::RunPlan,
        fds: Fds,
    ) -> Result<Result<wharf_keeper::Started, StartError>> {
        /// Also where the request is dropped.
        struct Marked<'a>(&'a Container);
        impl Drop for Marked<'_> {
            fn drop(&mut self) {
                self.0.setting_up.store(false, Ordering::SeqCst);
            }
        }
        container.setting_up.store(true, Ordering::SeqCst);
        let _marked = Marked(container);
        let running = self.inner.keeper.run(plan, fds.0);
        tokio::pin!(running);
        if let Ok(started) = tokio::time::timeout(SETUP_PATIENCE, &mut running).await {
            return Ok(started);
        }
        tracing::warn!(id = %container.id, "the set-up of a container hangs and is killed");
        // Where it has just ended there is nothing to kill.
        let _ = self.inner.keeper.signal(&container.id, crate::planner::signals::KILL).await;
        match tokio::time::timeout(crate::stop::KILL_PATIENCE, &mut running).await {
            Ok(Ok(started)) => {
                // Killed before its program ran, or just as it did: either way its end is on its way.
                drop(started);
                Err(hangs(&container.id))
            }
            Ok(Err(_)) | Err(_) => Err(hangs(&container.id)),
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
        self.tell_linked(now).await;
        self.container_event(now, "start", &[]);
        self.watch_oom(container);
        self.watch_health(container, false);
        if now.def.config.stdin_once == Some(true) {
            let (keeper, io, id) = (self.inner.keeper.clone(), Arc::clone(&container.io), now.def.id.clone());
            tokio::spawn(async move {
                io.stdin_closed().await;
                // An ended container has no stdin to release.
                let _ = keeper.release(&id, vec!["stdin".into()]).await;
            });
        }
    }

    async fn join_others(
        &self,
        b: &run::Blueprint,
        namespaces: &mut Namespaces,
        fds: &mut Fds,
        shm: &mut Option<Fd>,
    ) -> Result<()> {
        let fetch = async |reference: &str, name: &str| -> Result<Option<OwnedFd>> {
            let other = self.inner.registry.find(reference)?;
            if !other.now().state.status.is_alive() {
                return Err(Error::conflict(format!(
                    "cannot join {name} of a non running container: {}",
                    other.id
                )));
            }
            let held = self.inner.keeper.fetch(&other.id).await?;
            Ok(held.into_iter().find(|(held, _)| held == name).map(|(_, fd)| fd))
        };
        match &b.pid {
            Mode::Private => {}
            Mode::Host => namespaces.pid = Namespace::Host,
            Mode::Container(other) => {
                let pidfd =
                    fetch(other, "pidfd").await?.ok_or_else(|| Error::internal("no pidfd is held"))?;
                namespaces.pid = Namespace::Join(fds.add(pidfd));
            }
        }
        match &b.ipc {
            Ipc::Private { .. } | Ipc::None => {}
            Ipc::Host => namespaces.ipc = Namespace::Host,
            Ipc::Container(other) => {
                let their = self.inner.registry.find(other)?.now();
                if their.blueprint.ipc != (Ipc::Private { shareable: true }) {
                    return Err(Error::invalid(format!(
                        "cannot join IPC of a container {}: non-shareable IPC (hint: use IpcMode:shareable for the \
                         donor container)",
                        their.def.id
                    )));
                }
                let pidfd =
                    fetch(other, "pidfd").await?.ok_or_else(|| Error::internal("no pidfd is held"))?;
                namespaces.ipc = Namespace::Join(fds.add(pidfd));
                if let Some(tree) = fetch(other, "shm").await? {
                    *shm = Some(fds.add(mount::bind(tree.as_fd(), false)?));
                }
            }
        }
        Ok(())
    }

    /// What the CDI devices that a container asks for add to it.
    fn cdi_edits(&self, host: &crate::models::HostConfig) -> Result<crate::cdi::Edits> {
        crate::cdi::edits(&self.inner.settings().cdi_dirs, &crate::cdi::wanted(host))
    }

    /// Programs of the container's seccomp rules; those of the default profile are made once per capability set.
    pub(crate) fn seccomp(&self, b: &run::Blueprint) -> Result<Vec<Vec<u8>>> {
        match run::seccomp(b) {
            Seccomp::Unconfined => Ok(Vec::new()),
            Seccomp::Builtin | Seccomp::Default => {
                let mut known = self.inner.seccomp.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if known.len() > 256 {
                    known.clear();
                }
                Ok(known
                    .entry(b.capabilities)
                    .or_insert_with(|| seccomp::docker_default(b.capabilities))
                    .clone())
            }
            Seccomp::Profile(json) => seccomp::from_profile(json, b.capabilities)
                .map_err(|e| Error::invalid(format!("Decoding seccomp profile failed: {e}"))),
        }
    }

    pub(crate) fn apparmor(&self, b: &run::Blueprint) -> Option<String> {
        // No default profile is loaded by this engine yet, so only a named one applies.
        if !self.inner.facts().apparmor || b.privileged {
            return None;
        }
        b.security.apparmor.clone().filter(|p| p != "unconfined" && p != "docker-default")
    }
}

/// Everything that a process needs but its cgroup.
struct Prepared {
    files: Files,
    namespace: Option<NetNamespace>,
    holders: Vec<OwnedFd>,
}

struct MadeNetwork {
    endpoints: BTreeMap<String, Endpoint>,
    namespace: Option<NetNamespace>,
    holders: Vec<OwnedFd>,
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

fn console_size(host: &crate::models::HostConfig) -> Option<(u16, u16)> {
    match host.console_size.as_deref() {
        Some([rows, columns]) if *rows > 0 && *columns > 0 => {
            Some((u16::try_from(*rows).ok()?, u16::try_from(*columns).ok()?))
        }
        _ => None,
    }
}

/// Reads the account files beneath a root, bounded; absent ones are empty.
pub(crate) fn account(root: &Root, wanted: &str, host: &crate::models::HostConfig) -> Result<user::Account> {
    let read = |path: &str| match root.open_file(path) {
        Ok(file) => {
            use std::io::Read;
            let mut data = Vec::new();
            let limit = u64::try_from(user::FILE_LIMIT).unwrap_or(u64::MAX);
            // What lies behind the limit is not looked at; a hostile file costs no more than that.
            file.take(limit).read_to_end(&mut data).map(|_| data).unwrap_or_default()
        }
        Err(_) => Vec::new(),
    };
    user::resolve(
        wanted,
        host.group_add.as_deref().unwrap_or_default(),
        &read("/etc/passwd"),
        &read("/etc/group"),
    )
}

/// Where a program is in a root file system: as named, or in the path that its environment will have.
fn find_program(root: &Root, name: &str, config: &crate::models::ContainerConfig) -> Result<String> {
    if name.contains('/') {
        return Ok(name.to_owned());
    }
    let path = config.env.iter().flatten().rev().find_map(|e| e.strip_prefix("PATH="));
    let path = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for dir in path.split(':').filter(|dir| dir.starts_with('/')) {
        let candidate = format!("{}/{name}", dir.trim_end_matches('/'));
        let meta = root.resolve(&candidate).map(std::fs::File::from).and_then(|file| Ok(file.metadata()?));
        if meta.is_ok_and(|m| m.is_file() && std::os::unix::fs::MetadataExt::mode(&m) & 0o111 != 0) {
            return Ok(candidate);
        }
    }
    let missing = StartError { stage: Stage::Exec, errno: libc::ENOENT, what: String::new() };
    Err(start_error(&[name.to_owned()], "", &missing))
}

/// The exit code that Docker gives a command which could not be started, by the words of the error.
fn command_failure(message: &str) -> Option<i32> {
    let text = message.to_ascii_lowercase();
    let says = |words: &str| text.contains(words);
    if says("executable file not found") || says("no such file or directory") {
        Some(127)
    } else if says("permission denied") {
        Some(126)
    } else if says("not a directory") {
        Some(127)
    } else {
        None
    }
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

fn hangs(id: &str) -> Error {
    Error::internal(format!(
        "failed to create task for container: {id} was not set up within {} seconds and was killed: a file system or device that \
         it uses hangs",
        SETUP_PATIENCE.as_secs()
    ))
}

/// One of the files that the engine writes for a container, as the container's root's.
pub(crate) fn own_file(path: &Path, maps: &[IdMap]) -> Result<OwnedFd> {
    let tree = mount::bind_path(path, false)?;
    wharf_kernel::userns::map_mount(tree.as_fd(), maps, false)?;
    Ok(tree)
}

/// A bind's tree; `-v` makes the directory where it is missing. Its ids are translated only where that is asked for.
pub(crate) fn bind_tree(spec: &MountSpec, maps: &[IdMap]) -> Result<(OwnedFd, bool)> {
    let path = PathBuf::from(&spec.source);
    if spec.create_source && !path.exists() {
        std::fs::create_dir_all(&path).map_err(|e| {
            Error::internal(format!("error while creating mount source path '{}': {e}", spec.source))
        })?;
    }
    let (tree, file) = filesystem::tree(&path, spec)?;
    if spec.id_mapped {
        wharf_kernel::userns::map_mount(tree.as_fd(), maps, spec.recursive)
            .map_err(|e| Error::internal(format!("cannot map the ids of {}: {e}", spec.source)))?;
    }
    Ok((tree, file))
}

/// Devices of the host that a container gets: those asked for, or with `--privileged` all.
fn host_devices(host: &crate::models::HostConfig, privileged: bool) -> Result<Vec<HostDevice>> {
    let mut all = Vec::new();
    if privileged {
        walk_devices(Path::new("/dev"), 0, &mut all);
    }
    for asked in host.devices.iter().flatten() {
        let path = asked.path_on_host.clone().unwrap_or_default();
        let inside =
            asked.path_in_container.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| path.clone());
        let access = security::device_access(asked.cgroup_permissions.as_deref().unwrap_or(""))?;
        match device(Path::new(&path), &inside) {
            Ok(Some(node)) => all.push(HostDevice { node, access: access.to_owned() }),
            Ok(None) if Path::new(&path).is_dir() => {
                let mut below = Vec::new();
                walk_devices(Path::new(&path), 0, &mut below);
                for mut found in below {
                    if let Some(rest) = found.node.path.strip_prefix(&path) {
                        found.node.path = format!("{inside}{rest}");
                    }
                    access.clone_into(&mut found.access);
                    all.push(found);
                }
            }
            Ok(None) => {
                return Err(Error::internal(format!(
                    "error gathering device information while adding custom device {path:?}: not a device node"
                )));
            }
            Err(e) => {
                let text = if e.kind() == std::io::ErrorKind::NotFound {
                    "no such file or directory".to_owned()
                } else {
                    e.to_string()
                };
                return Err(Error::internal(format!(
                    "error gathering device information while adding custom device {path:?}: {text}"
                )));
            }
        }
    }
    Ok(all)
}

/// Limits of single block devices, with the devices' numbers.
pub(crate) fn block_limits(host: &crate::models::HostConfig) -> Result<Vec<wharf_plan::run::BlockLimit>> {
    use wharf_plan::run::{BlockKind, BlockLimit};
    let mut all = Vec::new();
    let mut add = |kind, path: Option<&str>, value: u64| {
        let path = path.unwrap_or("");
        match device(Path::new(path), path) {
            Ok(Some(found)) if found.kind == 'b' => {
                all.push(BlockLimit { kind, major: found.major, minor: found.minor, value });
                Ok(())
            }
            Ok(_) => Err(Error::invalid(format!("{path} is not a block device"))),
            Err(e) => Err(Error::invalid(format!("stat {path}: {e}"))),
        }
    };
    for weight in host.blkio_weight_device.iter().flatten() {
        add(
            BlockKind::Weight,
            weight.path.as_deref(),
            weight.weight.and_then(|w| w.try_into().ok()).unwrap_or(0),
        )?;
    }
    for (kind, list) in [
        (BlockKind::ReadBytes, &host.blkio_device_read_bps),
        (BlockKind::WriteBytes, &host.blkio_device_write_bps),
        (BlockKind::ReadOperations, &host.blkio_device_read_iops),
        (BlockKind::WriteOperations, &host.blkio_device_write_iops),
    ] {
        for limit in list.iter().flatten() {
            add(kind, limit.path.as_deref(), limit.rate.and_then(|r| u64::try_from(r).ok()).unwrap_or(0))?;
        }
    }
    Ok(all)
}

pub(crate) fn device(path: &Path, inside: &str) -> std::io::Result<Option<Device>> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::metadata(path)?;
    let kind = if meta.file_type().is_char_device() {
        'c'
    } else if meta.file_type().is_block_device() {
        'b'
    } else {
        return Ok(None);
    };
    let rdev = meta.rdev();
    // The kernel's encoding of device numbers (include/linux/kdev_t.h, new_decode_dev and its 64-bit form).
    let major = ((rdev >> 8) & 0xfff) | ((rdev >> 32) & !0xfff);
    let minor = (rdev & 0xff) | ((rdev >> 12) & !0xff);
    Ok(Some(Device {
        path: inside.to_owned(),
        kind,
        major: u32::try_from(major & 0xffff_ffff).unwrap_or(0),
        minor: u32::try_from(minor & 0xffff_ffff).unwrap_or(0),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
    }))
}

fn walk_devices(dir: &Path, depth: u32, all: &mut Vec<HostDevice>) {
    if depth > 4 || all.len() > 10_000 {
        return;
    }
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(text) = path.to_str() else { continue };
        // What a container has of its own.
        if matches!(
            text,
            "/dev/pts" | "/dev/shm" | "/dev/fd" | "/dev/mqueue" | "/dev/console" | "/dev/ptmx" | "/dev/.lxc"
        ) {
            continue;
        }
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() {
            continue;
        }
        if kind.is_dir() {
            walk_devices(&path, depth + 1, all);
        } else if let Ok(Some(node)) = device(&path, text) {
            all.push(HostDevice { node, access: "rwm".into() });
        }
    }
}

/// Docker's words for a process that did not start: clients look for them to tell 126 and 127 apart.
pub(crate) fn start_error(args: &[String], cwd: &str, e: &StartError) -> Error {
    const HEAD: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
                        wharf create failed: unable to start container process";
    const ENOENT: i32 = 2;
    const EACCES: i32 = 13;
    let program = args.first().map_or("", String::as_str);
    match (e.stage, e.errno) {
        (Stage::Exec, ENOENT) if !program.contains('/') => {
            Error::invalid(format!("{HEAD}: exec: {program:?}: executable file not found in $PATH"))
        }
        (Stage::Exec, ENOENT) => {
            Error::invalid(format!("{HEAD}: exec: {program:?}: stat {program}: no such file or directory"))
        }
        (Stage::Exec, EACCES) => Error::invalid(format!("{HEAD}: exec: {program:?}: permission denied")),
        (Stage::Exec, errno) => Error::invalid(format!("{HEAD}: exec {program}: {}", errno_text(errno))),
        (Stage::Cwd, errno) => Error::invalid(format!(
            "{HEAD}: error during container init: chdir to cwd ({cwd:?}) set in config.json failed: {}",
            errno_text(errno)
        )),
        // In the words of a runtime that is not this engine's; Docker tells the user's faults from its own by them.
        (Stage::Runtime, _) => {
            let text = format!(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: {}",
                // C's words for an error begin with a capital, which clients do not look for.
                e.what
                    .replace(": No such file or directory", ": no such file or directory")
                    .replace(": Permission denied", ": permission denied")
            );
            if command_failure(&text).is_some() { Error::invalid(text) } else { Error::internal(text) }
        }
        _ => Error::internal(format!("{HEAD}: error during container init: {e}")),
    }
}

/// The kernel's words without Rust's addition of the number.
fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or("").to_owned()
}

/// Labels of a container for plugins.
pub(crate) fn plugin_labels(now: &Now) -> Labels {
    endpoints::labels(now.def.config.labels.iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_clients_look_for() {
        let e = |stage, errno| StartError { stage, errno, what: "x".into() };
        let args = |p: &str| vec![p.to_owned()];
        let not_found = start_error(&args("nosuch"), "", &e(Stage::Exec, 2));
        assert!(not_found.message.contains("exec: \"nosuch\": executable file not found in $PATH"));
        assert_eq!(not_found.kind, Kind::Invalid);
        assert!(
            start_error(&args("/x"), "", &e(Stage::Exec, 2)).message.contains("no such file or directory")
        );
        assert!(start_error(&args("/x"), "", &e(Stage::Exec, 13)).message.contains("permission denied"));
        assert!(start_error(&args("/x"), "", &e(Stage::Exec, 8)).message.contains("exec format error"));
        assert!(start_error(&args("/x"), "/w", &e(Stage::Cwd, 20)).message.contains("not a directory"));
        assert_eq!(start_error(&args("/x"), "", &e(Stage::Mount, 1)).kind, Kind::Internal);
        let quoted = |what: &str| {
            let error =
                start_error(&[], "", &StartError { stage: Stage::Runtime, errno: 0, what: what.into() });
            (error.kind, command_failure(&error.message))
        };
        assert_eq!(quoted("exec: \"x\": executable file not found in $PATH"), (Kind::Invalid, Some(127)));
        assert_eq!(quoted("open executable: Permission denied"), (Kind::Invalid, Some(126)));
        assert_eq!(quoted("the moon is wrong"), (Kind::Internal, None));
    }

    #[test]
    fn device_numbers() {
        let null = device(Path::new("/dev/null"), "/dev/n").unwrap().unwrap();
        assert_eq!((null.kind, null.major, null.minor, null.path.as_str()), ('c', 1, 3, "/dev/n"));
        assert!(device(Path::new("/dev"), "/dev").unwrap().is_none());
    }
}
