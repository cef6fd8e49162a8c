//! Further processes in a container.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wharf_io::{ExecIo, ExecSpec};
use wharf_kernel::fs::Root;
use wharf_plan::run::ExitStatus;

use crate::error::{Error, Result};
use crate::models::{ExecConfig, ExecInspectResponse, ExecStartConfig, IdResponse, ProcessConfig};
use crate::planner::run::{ExecStart, exec_plan};
use crate::planner::{config, names, user};
use crate::policy::Subject;
use crate::record::Status;
use crate::registry::Now;
use crate::start::{self, Fds};
use crate::{Caller, Engine};

/// At most so many execs are remembered for one container; ended ones go first.
const REMEMBERED: usize = 1000;

/// Where an exec is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Progress {
    started: bool,
    running: bool,
    /// Made for a run that ended before it was started.
    stale: bool,
    pid: i32,
    exit_code: Option<i32>,
}

pub(crate) struct Exec {
    id: String,
    container: String,
    config: ExecConfig,
    io: ExecIo,
    progress: Mutex<Progress>,
    /// Told when the exit code is there.
    ended: tokio::sync::Notify,
}

impl Exec {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.progress().exit_code
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // A plain value; whole after every statement.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All execs. They end with the daemon's record of them: after a restart of the daemon an old exec id is unknown.
#[derive(Default)]
pub(crate) struct Execs {
    by_id: Mutex<BTreeMap<String, Arc<Exec>>>,
}

impl Execs {
    fn map(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Exec>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<Exec>> {
        self.map().get(id).cloned().ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    /// The container's run is over: what was not started cannot be any more.
    pub(crate) fn run_ended(&self, ids: &BTreeSet<String>) {
        let map = self.map();
        for exec in ids.iter().filter_map(|id| map.get(id)) {
            let mut progress = exec.progress();
            progress.stale |= !progress.started;
        }
    }

    pub(crate) fn forget_container(&self, ids: &BTreeSet<String>) {
        let mut map = self.map();
        for id in ids {
            map.remove(id);
        }
    }

    /// Takes the end of a process, if it was an exec.
    pub(crate) async fn exited(&self, engine: &Engine, id: &str, status: ExitStatus) -> bool {
        let Some(exec) = self.map().get(id).cloned() else { return false };
        {
            let mut progress = exec.progress();
            progress.running = false;
            progress.pid = 0;
            progress.exit_code = Some(status.code);
        }
        exec.ended.notify_waiters();
        exec.io.exited();
        if let Some(container) = engine.inner.registry.get(&exec.container) {
            engine.container_event(
                &container.now(),
                "exec_die",
                &[("execID", id), ("exitCode", &status.code.to_string())],
            );
        }
        let _ = engine.inner.keeper.forget(id).await;
        true
    }
}

impl Engine {
    fn exec_target(&self, reference: &str) -> Result<(Arc<crate::registry::Container>, Arc<Now>)> {
        let container = self.inner.registry.find(reference)?;
        let now = container.now();
        match now.state.status {
            Status::Running => Ok((container, now)),
            Status::Paused => Err(Error::conflict(format!(
                "container {} is paused, unpause the container before exec",
                now.def.id
            ))),
            Status::Restarting => Err(Error::conflict(format!(
                "container {} is restarting, wait until the container is running",
                now.def.id
            ))),
            _ => Err(Error::conflict(format!("container {} is not running", now.def.id))),
        }
    }

    /// `POST /containers/{id}/exec`.
    pub async fn exec_create(
        &self,
        container: &str,
        config: ExecConfig,
        caller: &Caller,
    ) -> Result<IdResponse> {
        let (container, now) = self.exec_target(container)?;
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            return Err(Error::invalid("No exec command specified"));
        }
        if config.cmd.iter().chain(&config.env).flatten().any(|t| t.contains('\0')) {
            return Err(Error::invalid("arguments and environment cannot contain a NUL byte"));
        }
        if config.env.iter().flatten().any(|e| e.is_empty() || e.starts_with('=')) {
            return Err(Error::invalid("invalid environment variable: empty name"));
        }
        if config.working_dir.as_deref().is_some_and(|d| !d.is_empty() && !d.starts_with('/')) {
            return Err(Error::invalid("the working directory is invalid, it needs to be an absolute path"));
        }
        user::check(config.user.as_deref().unwrap_or(""))?;
        self.review(
            caller,
            Subject {
                point: "container-exec",
                target: &now.def.id,
                labels: start::plugin_labels(&now),
                dry_run: false,
            },
            || &config,
        )
        .await?;
        let exec = self.add_exec(&container, &now, config)?;
        Ok(IdResponse { id: exec.id.clone() })
    }

    /// Makes an exec of a checked configuration.
    pub(crate) fn add_exec(
        &self,
        container: &crate::registry::Container,
        now: &Now,
        config: ExecConfig,
    ) -> Result<Arc<Exec>> {
        let id = names::id();
        let io = self.inner.streams.exec(ExecSpec {
            tty: config.tty == Some(true),
            stdin: config.attach_stdin == Some(true),
            stdout: config.attach_stdout == Some(true),
            stderr: config.attach_stderr == Some(true),
            detach_keys: config.detach_keys.clone().filter(|k| !k.is_empty()),
        })?;
        let action = format!("exec_create: {}", config.cmd.clone().unwrap_or_default().join(" "));
        let exec = Arc::new(Exec {
            id: id.clone(),
            container: now.def.id.clone(),
            config,
            io,
            progress: Mutex::default(),
            ended: tokio::sync::Notify::new(),
        });
        self.inner.execs.map().insert(id.clone(), Arc::clone(&exec));
        self.remember_exec(container, &id);
        self.container_event(now, &action, &[("execID", &id)]);
        Ok(exec)
    }

    /// Forgets an exec that nobody will ask for.
    pub(crate) fn drop_exec(&self, container: &crate::registry::Container, exec: &Exec) {
        // One that still runs is forgotten with its container, or when there are too many.
        let progress = *exec.progress();
        if progress.exit_code.is_some() || !progress.running {
            container.exec_ids().remove(&exec.id);
            self.inner.execs.map().remove(&exec.id);
        }
    }

    /// Adds it to its container and forgets ended ones when there are too many.
    fn remember_exec(&self, container: &crate::registry::Container, id: &str) {
        let mut ids = container.exec_ids();
        ids.insert(id.to_owned());
        if ids.len() > REMEMBERED {
            let mut map = self.inner.execs.map();
            let ended: Vec<String> = ids
                .iter()
                .filter(|id| map.get(*id).is_none_or(|e| e.progress().exit_code.is_some()))
                .cloned()
                .collect();
            for old in ended {
                ids.remove(&old);
                map.remove(&old);
            }
            // Then those that nobody has started.
            let surplus = ids.len().saturating_sub(REMEMBERED);
            let idle = |old: &&String| *old != id && map.get(*old).is_none_or(|e| !e.progress().started);
            let idle: Vec<String> = ids.iter().filter(idle).take(surplus).cloned().collect();
            for old in idle {
                ids.remove(&old);
                map.remove(&old);
            }
        }
    }

    /// Ids of a container's running execs.
    pub(crate) fn exec_ids(&self, ids: &BTreeSet<String>) -> Option<Vec<String>> {
        let map = self.inner.execs.map();
        let running: Vec<String> = ids
            .iter()
            .filter(|id| {
                map.get(*id).map(|e| *e.progress()).is_some_and(|p| p.exit_code.is_none() && !p.stale)
            })
            .cloned()
            .collect();
        (!running.is_empty()).then_some(running)
    }

    /// The errors of a start that can be told before its streams are opened.
    pub async fn exec_check(&self, id: &str) -> Result<()> {
        let exec = self.inner.execs.find(id)?;
        self.exec_target(&exec.container)?;
        let progress = *exec.progress();
        if progress.stale {
            return Err(Error::not_found(format!("No such exec instance: {id}")));
        }
        if progress.started {
            let what = if progress.running { "is already running" } else { "has already run" };
            return Err(Error::conflict(format!("exec {id} {what}")));
        }
        std::future::ready(Ok(())).await
    }

    /// Returns when an exec's exit code is known. Output may end a moment earlier, and clients ask for the code as soon as it does.
    pub async fn exec_ended(&self, id: &str) {
        let Ok(exec) = self.inner.execs.find(id) else { return };
        loop {
            let told = exec.ended.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if exec.progress().exit_code.is_some() {
                return;
            }
            told.await;
        }
    }

    /// `POST /exec/{id}/start`: both directions of an attached client, nothing for a detached one.
    pub async fn exec_start(
        &self,
        id: &str,
        config: ExecStartConfig,
        caller: &Caller,
    ) -> Result<Option<(wharf_io::Output, Option<wharf_io::Stdin>)>> {
        let _ = caller;
        let exec = self.inner.execs.find(id)?;
        let (container, _) = self.exec_target(&exec.container)?;
        let _making = container.making_execs.read().await;
        // It may have been paused meanwhile.
        let (_, now) = self.exec_target(&exec.container)?;
        {
            let mut progress = exec.progress();
            if progress.stale {
                return Err(Error::not_found(format!("No such exec instance: {id}")));
            }
            if progress.started {
                let what = if progress.running { "is already running" } else { "has already run" };
                return Err(Error::conflict(format!("exec {id} {what}")));
            }
            progress.started = true;
        }
        match self.run_exec(&exec, &now, &config).await {
            Ok(pty) => {
                let action = format!("exec_start: {}", exec.config.cmd.clone().unwrap_or_default().join(" "));
                self.container_event(&now, &action, &[("execID", id)]);
                let streams = exec.io.started(pty)?;
                Ok((config.detach != Some(true)).then_some(streams))
            }
            Err(e) => {
                let mut progress = exec.progress();
                progress.running = false;
                // Docker's default for what has no code of its own.
                let code = crate::start::command_failure(&e.message).unwrap_or(126);
                progress.exit_code = Some(code);
                Err(e)
            }
        }
    }

    async fn run_exec(
        &self,
        exec: &Exec,
        now: &Now,
        start: &ExecStartConfig,
    ) -> Result<Option<std::os::fd::OwnedFd>> {
        let def = &now.def;
        let account = self.exec_account(exec, now).await?;
        let stdio = exec.io.start()?;
        let mut fds = Fds::default();
        let child = stdio.child.map(|fd| fd.map(|fd| fds.add(fd)));
        let asked = start.console_size.as_deref().or(exec.config.console_size.as_deref());
        let console_size = exec.io.size().or(match asked {
            Some([rows, columns]) => {
                u16::try_from(*rows).ok().zip(u16::try_from(*columns).ok()).filter(|(r, c)| *r > 0 && *c > 0)
            }
            _ => None,
        });
        let mut plan = exec_plan(
            &exec.config,
            &def.config,
            &def.host,
            &now.blueprint,
            ExecStart {
                id: exec.id.clone(),
                container: def.id.clone(),
                account,
                seccomp: self.seccomp(&now.blueprint)?,
                apparmor: Self::profile_of(&now.state),
                stdio: child,
                console_size,
                hostname: config::hostname(&def.config, &def.id),
                ids: (!def.id_maps.is_empty()).then(|| wharf_plan::run::Ids::of(&def.id_maps)),
            },
        );
        if let Some(runtime) = &now.state.runtime {
            Self::exec_plan_for(runtime, &mut plan);
        }
        // Before the process exists, so that its end cannot be told too early.
        exec.progress().running = true;
        let args = plan.process.args.clone();
        let cwd = plan.process.cwd.clone();
        let started = self.set_up_exec(plan, fds).await?.map_err(|e| {
            let mut error = start::start_error(&args, &cwd, &e);
            error.message = error.message.replace(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: wharf \
                 create failed",
                "OCI runtime exec failed: exec failed",
            );
            error.message = error.message.replace(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: ",
                "OCI runtime exec failed: ",
            );
            error
        })?;
        let mut progress = exec.progress();
        if progress.exit_code.is_none() {
            progress.pid = started.pid;
        }
        Ok(started.pty)
    }

    /// Who the exec runs as. Accounts are looked up in the container's own root as it is now.
    async fn exec_account(&self, exec: &Exec, now: &Now) -> Result<user::Account> {
        let own = exec.config.user.clone().filter(|u| !u.is_empty());
        let wanted = own.or_else(|| now.def.config.user.clone()).unwrap_or_default();
        let state = Arc::clone(&now.state);
        let def = Arc::clone(&now.def);
        let place = format!("/etc/passwd in container {}", def.id);
        self.inner
            .foreign
            .run(&[&place], move |_| -> Result<user::Account> {
                // The link is the kernel's own and leads to the container's root; below it nothing leads out.
                let root = Root::open(&crate::shims::root_of(&state))?;
                start::account(&root, &wanted, &def.host)
            })
            .await?
    }

    /// `GET /exec/{id}/json`; `ExitCode` is null while it runs.
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecInspectResponse> {
        let exec = self.inner.execs.find(id)?;
        let progress = *exec.progress();
        let c = &exec.config;
        let mut command = c.cmd.clone().unwrap_or_default().into_iter();
        std::future::ready(Ok(ExecInspectResponse {
            can_remove: Some(false),
            detach_keys: Some(c.detach_keys.clone().unwrap_or_default()),
            id: Some(exec.id.clone()),
            running: Some(progress.running),
            exit_code: progress.exit_code.map(i64::from),
            process_config: Some(ProcessConfig {
                privileged: Some(c.privileged == Some(true)),
                user: Some(c.user.clone().unwrap_or_default()),
                tty: Some(c.tty == Some(true)),
                entrypoint: command.next(),
                arguments: Some(command.collect()),
            }),
            open_stdin: Some(c.attach_stdin == Some(true)),
            open_stderr: Some(c.attach_stderr == Some(true)),
            open_stdout: Some(c.attach_stdout == Some(true)),
            container_id: Some(exec.container.clone()),
            pid: Some(i64::from(progress.pid)),
        }))
        .await
    }

    /// A client left an exec by its detach keys.
    pub fn exec_detached(&self, id: &str) {
        let Ok(exec) = self.inner.execs.find(id) else { return };
        if let Some(container) = self.inner.registry.get(&exec.container) {
            self.container_event(&container.now(), "exec_detach", &[("execID", id)]);
        }
    }

    /// Whether an exec has a terminal.
    pub fn exec_tty(&self, id: &str) -> Result<bool> {
        Ok(self.inner.execs.find(id)?.config.tty == Some(true))
    }

    /// `POST /exec/{id}/resize`.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let exec = self.inner.execs.find(id)?;
        exec.io.resize(rows, columns)?;
        std::future::ready(Ok(())).await
    }
}
