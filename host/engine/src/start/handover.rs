//! Handing a prepared start over to the keeper: the plan of the process with its descriptors.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use wharf_kernel::{criu, mount, seccomp};
use wharf_plan::idmap;
use wharf_plan::run::{Fd, INIT_PLACE, Ids, Namespace, Namespaces, StartError, UserNamespace};
use wharf_plan::types::IdKind;

use super::errors::start_error;
use super::prepare::{Files, Sockets};
use super::{NetNamespace, STAGES, Spaces};
use crate::Engine;
use crate::error::{Error, Result};
use crate::planner::config;
use crate::planner::modes::{Ipc, Mode, NetworkMode};
use crate::planner::mounts::MountSpec;
use crate::planner::run::{self, Start};
use crate::planner::security::Seccomp;
use crate::record::{State, Status};
use crate::registry::{Container, Now};

/// How long the making of a container's process may take, from the fork to its program.
const SETUP_PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

/// The same for a further process in a container, of which nothing has to be made.
const EXEC_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// The same for one that goes on from a checkpoint: its memory has to be read. CRIU is given up before.
const RESTORE_PATIENCE: std::time::Duration = std::time::Duration::from_mins(11);

/// Descriptors on their way to the keeper, numbered as they are added.
#[derive(Default)]
pub(crate) struct Fds(pub(crate) Vec<OwnedFd>);

impl Fds {
    pub(crate) fn add(&mut self, fd: OwnedFd) -> Fd {
        self.0.push(fd);
        Fd::try_from(self.0.len() - 1).unwrap_or(Fd::MAX)
    }
}

impl Engine {
    pub(super) async fn hand_over(
        &self,
        container: &Arc<Container>,
        now: &Now,
        state: &mut State,
        files: Files,
        spaces: Spaces,
        network: Sockets,
    ) -> Result<()> {
        let def = &now.def;
        let b = &now.blueprint;
        // Its start says what is the matter where it is not.
        container.io.settled().await;
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
            Some(fd) => Some(UserNamespace { namespace: fds.add(fd), ids: Ids::of(&def.id_maps) }),
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
            let root = |kind| idmap::outside(&def.id_maps, kind, 0).unwrap_or(0);
            let (uid, gid) =
                (format!("uid={}", root(IdKind::Users)), format!("gid={}", root(IdKind::Groups)));
            let tree = mount::tmpfs(&["mode=1777", &size, &uid, &gid], flags)?;
            // Kernels before 6.15 make no copies of what is mounted nowhere; and in a checkpoint is one of its own.
            if state.restore.is_none()
                && let Ok(copy) = mount::bind(tree.as_fd(), false)
            {
                hold.push(("shm".into(), fds.add(copy)));
            }
            shm = Some(fds.add(tree));
        }
        for (n, fd) in network.holders.into_iter().enumerate() {
            hold.push((format!("port-{n}"), fds.add(fd)));
        }
        if let Some(sockets) = network.names {
            // Before the program runs: it finds others, and itself, from its first moment.
            let view = Now { state: Arc::new(state.clone()), ..now.clone() };
            for (name, fd) in self.begin_names(&view, sockets)? {
                hold.push((name, fds.add(fd)));
            }
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
                apparmor: Self::profile_of(state),
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
        if let Some(tree) = files.init {
            let tree = fds.add(tree);
            plan.init_tree = Some(tree);
            plan.mounts.push(run::tree_mount(INIT_PLACE.1, tree, true, true, "rprivate"));
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
        if let (None, Some(path)) = (&state.runtime, &state.restore) {
            plan.restore = Some(Box::new(self.restore_plan(now, state, std::path::Path::new(path)).await?));
        }
        let work = plan.restore.as_ref().map(|restore| std::path::PathBuf::from(&restore.work));
        tracing::trace!(target: STAGES, id = def.id, "handed over");
        let started = self.set_up(container, plan, fds).await;
        if let Some(work) = work {
            // What was mounted there only the keeper's child has seen.
            let _ = self.inner.pool.run(move || std::fs::remove_dir_all(&work)).await?;
        }
        let started = started?
            .map_err(|e| self.explain_join(now, state, e))
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
        let patience = if plan.restore.is_some() { RESTORE_PATIENCE } else { SETUP_PATIENCE };
        let made = self.patiently(&container.id, patience, self.inner.keeper.run(plan, fds.0)).await;
        made.ok_or_else(|| hangs(&container.id))
    }

    /// Has the keeper make a further process in a container, which is killed where that hangs.
    pub(crate) async fn set_up_exec(
        &self,
        plan: wharf_plan::run::ExecPlan,
        fds: Fds,
    ) -> Result<Result<wharf_keeper::Started, StartError>> {
        let (id, container) = (plan.id.clone(), plan.container.clone());
        let made = self.patiently(&id, EXEC_PATIENCE, self.inner.keeper.exec(plan, fds.0)).await;
        made.ok_or_else(|| {
            Error::internal(format!(
                "OCI runtime exec failed: exec failed: its process in container {container} was not set up within {} seconds \
                 and was killed: the container's processes are frozen, or a file system that they use hangs",
                EXEC_PATIENCE.as_secs()
            ))
        })
    }

    /// Waits for a process that the keeper makes; None: it takes too long and is killed.
    async fn patiently(
        &self,
        id: &str,
        patience: std::time::Duration,
        making: impl Future<Output = Result<wharf_keeper::Started, StartError>>,
    ) -> Option<Result<wharf_keeper::Started, StartError>> {
        tokio::pin!(making);
        if let Ok(made) = tokio::time::timeout(patience, &mut making).await {
            return Some(made);
        }
        tracing::warn!(id, "the set-up of a process hangs and is killed");
        // Where it has just ended there is nothing to kill.
        let _ = self.inner.keeper.signal(id, crate::planner::signals::KILL).await;
        // Killed before its program ran, or just as it did: either way its end is on its way.
        drop(tokio::time::timeout(crate::stop::KILL_PATIENCE, &mut making).await);
        None
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
                let tree = match fetch(other, "shm").await? {
                    Some(tree) => mount::bind(tree.as_fd(), false)?,
                    None => {
                        let process = pidfd.try_clone()?;
                        self.inner.pool.run(move || criu::bind_in(&process, "/dev/shm")).await??
                    }
                };
                namespaces.ipc = Namespace::Join(fds.add(pidfd));
                *shm = Some(fds.add(tree));
            }
        }
        Ok(())
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
}

fn console_size(host: &crate::models::HostConfig) -> Option<(u16, u16)> {
    match host.console_size.as_deref() {
        Some([rows, columns]) if *rows > 0 && *columns > 0 => {
            Some((u16::try_from(*rows).ok()?, u16::try_from(*columns).ok()?))
        }
        _ => None,
    }
}

fn hangs(id: &str) -> Error {
    Error::internal(format!(
        "failed to create task for container: {id} was not set up within {} seconds and was killed: a file system or device that \
         it uses hangs",
        SETUP_PATIENCE.as_secs()
    ))
}
