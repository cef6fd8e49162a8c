//! Other OCI runtimes: which there are, and what is asked of them besides making processes, which is the keeper's.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wharf_kernel::{caps, runtime, seccomp};
use wharf_oci::document;
use wharf_plan::run::{ExecPlan, Foreign, RunPlan, Runtime, Stage, StartError};

use crate::Engine;
use crate::error::{Error, Result};
use crate::models;
use crate::planner::modes::Mode;
use crate::planner::run::{Blueprint, NATIVE, is_native};
use crate::planner::security::Seccomp;
use crate::record::{Definition, State};
use crate::registry::Now;

/// For a call that makes no process.
const PATIENCE: Duration = Duration::from_secs(30);
/// For the question what a runtime can do.
const FEATURES: Duration = Duration::from_secs(5);

/// Directory of all bundles.
fn bundles(exec_root: &Path) -> PathBuf {
    exec_root.join("oci")
}

/// Takes away what a runtime has of a container that has ended, and its bundle.
pub(crate) fn dispose(runtime: &Runtime, id: &str) {
    let deleted = match runtime.shim {
        Some(_) => wharf_shim::dispose(runtime, id),
        None => runtime::invoke(runtime, &["delete", "--force", id], PATIENCE),
    };
    if let Err(error) = deleted {
        // One that never came to be has nothing to delete.
        tracing::debug!(error, id, runtime = runtime.name, "runtime delete");
    }
    match std::fs::remove_dir_all(&runtime.bundle) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, id, "bundle not removed; the next sweep will");
        }
        _ => {}
    }
}

impl Engine {
    /// The runtime of a container's next start; None is this engine's own.
    pub(crate) fn runtime_of(&self, def: &Definition) -> Result<Option<Runtime>> {
        let settings = self.inner.settings();
        let name = def.host.runtime.as_deref().unwrap_or("");
        let name = if name.is_empty() { settings.default_runtime.as_str() } else { name };
        if is_native(name) {
            return Ok(None);
        }
        let bundle = bundles(&settings.exec_root).join(&def.id);
        let found = match settings.runtimes.get(name) {
            Some(found) => found,
            None if crate::shims::is_shim(name) => {
                return crate::shims::runtime(name, name, None, &bundle, &def.id_maps).map(Some);
            }
            None => return Err(unknown(name)),
        };
        if let Some(shim) = &found.shim {
            match crate::shims::runtime(name, &shim.kind, shim.options.as_ref(), &bundle, &def.id_maps) {
                Err(_) if !found.path.is_empty() => {}
                result => return result.map(Some),
            }
        }
        Ok(Some(Runtime {
            name: name.to_owned(),
            program: found.path.clone(),
            args: found.arguments.clone(),
            root: settings.exec_root.join("runtimes").join(name).display().to_string(),
            bundle: bundle.display().to_string(),
            shim: None,
        }))
    }

    /// Turns the plan of a container into one for another runtime.
    pub(crate) fn plan_for(runtime: &Runtime, plan: &mut RunPlan, b: &Blueprint) -> Result<()> {
        let seccomp = match crate::planner::run::seccomp(b) {
            Seccomp::Unconfined => None,
            Seccomp::Builtin | Seccomp::Default => Some(seccomp::docker_default_document(b.capabilities)),
            Seccomp::Profile(json) => Some(
                seccomp::profile_document(json, b.capabilities)
                    .map_err(|e| Error::invalid(format!("Decoding seccomp profile failed: {e}")))?,
            ),
        };
        let given =
            document::Given { bundle: runtime.bundle.clone(), seccomp, available: caps::available_once() };
        let document = document::container(plan, &given).to_string();
        plan.process.seccomp = Vec::new();
        plan.foreign = Some(Box::new(Foreign { runtime: runtime.clone(), document, restore: None }));
        Ok(())
    }

    /// Says what may be the reason where a runtime failed to join a pid namespace that this engine's own runtime made: that one
    /// belongs to the host's user namespace, for the keeper to see its processes.
    pub(crate) fn explain_join(&self, now: &Now, state: &State, mut error: StartError) -> StartError {
        let (Some(_), Mode::Container(other)) = (&state.runtime, &now.blueprint.pid) else { return error };
        if error.stage != Stage::Runtime || now.def.id_maps.is_empty() {
            return error;
        }
        let Ok(other) = self.inner.registry.find(other).map(|other| other.now()) else { return error };
        if other.state.runtime.is_none() {
            error.what = format!(
                "{}; from a user namespace, runc before 1.3 cannot join the pid namespace of {}, which the runtime {NATIVE} made: \
                 use runc 1.3 or newer, crun, or the same runtime for both",
                error.what, other.def.name
            );
        }
        error
    }

    /// The same for an exec.
    pub(crate) fn exec_plan_for(runtime: &Runtime, plan: &mut ExecPlan) {
        let document = document::process(&plan.process, caps::available_once()).to_string();
        plan.process.seccomp = Vec::new();
        plan.foreign = Some(Box::new(Foreign { runtime: runtime.clone(), document, restore: None }));
    }

    /// Has a container's runtime do something.
    pub(crate) async fn call_runtime(&self, runtime: &Runtime, arguments: &[&str]) -> Result<()> {
        let runtime = runtime.clone();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let called = self.inner.pool.run(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            runtime::invoke(&runtime, &arguments, PATIENCE)
        });
        called.await?.map_err(|text| Error::internal(format!("OCI runtime: {text}")))
    }

    /// Freezes a container's processes, or lets them go on.
    pub(crate) async fn freeze(&self, now: &Now, frozen: bool) -> Result<()> {
        if let Some(runtime) = now.state.shim() {
            if frozen {
                return self.tell_shim(now, runtime, "pause", wharf_shim::Task::pause).await;
            }
            let (cgroups, path) = (self.inner.cgroups.clone(), now.state.cgroup.clone());
            let past_shim = move |frozen| {
                let changed = if frozen { cgroups.freeze(&path) } else { cgroups.thaw(&path) };
                if let Err(error) = changed {
                    // A container that is no cgroup of this host's has none to thaw.
                    tracing::debug!(%error, path, frozen, "past the shim");
                }
            };
            return self.tell_shim(now, runtime, "resume", move |task| task.resume(&past_shim)).await;
        }
        if let Some(runtime) = &now.state.runtime {
            let verb = if frozen { "pause" } else { "resume" };
            return self.call_runtime(runtime, &[verb, &now.def.id]).await;
        }
        let (cgroups, path) = (self.inner.cgroups.clone(), now.state.cgroup.clone());
        let changed =
            self.inner.pool.run(move || if frozen { cgroups.freeze(&path) } else { cgroups.thaw(&path) });
        Ok(changed.await??)
    }

    /// Sends a signal to a container's first process.
    pub(crate) async fn send_signal(&self, now: &Now, signal: i32) -> Result<()> {
        if let Some(runtime) = now.state.shim() {
            return self.signal_by_shim(now, runtime, signal).await;
        }
        if let Some(runtime) = &now.state.runtime {
            let sent = self.call_runtime(runtime, &["kill", &now.def.id, &signal.to_string()]).await;
            // An end must be possible also where the runtime fails.
            if sent.is_ok() || signal != crate::planner::signals::KILL {
                return sent;
            }
        }
        Ok(self.inner.keeper.signal(&now.def.id, signal).await?)
    }

    /// Changes the limits of a running container that another runtime made.
    pub(crate) async fn update_limits(
        &self,
        now: &Now,
        mut resources: wharf_plan::run::Resources,
    ) -> Result<()> {
        let Some(runtime) = &now.state.runtime else {
            let (cgroups, path) = (self.inner.cgroups.clone(), now.state.cgroup.clone());
            return Ok(self.inner.pool.run(move || cgroups.update(&path, &resources)).await??);
        };
        if runtime.shim.is_some() {
            resources.pids = resources.pids.filter(|limit| *limit > 0);
            let text = document::resources(&resources).to_string();
            return self.tell_shim(now, runtime, "update", move |task| task.update(&text)).await;
        }
        let file = Path::new(&runtime.bundle).join(format!("update-{}.json", crate::planner::names::id()));
        if now.blueprint.limits.pids.is_none_or(|limit| limit <= 0) {
            // Still no limit of processes: older runtimes cannot write that down.
            resources.pids = resources.pids.filter(|limit| *limit > 0);
        }
        let text = document::resources(&resources).to_string();
        let path = file.clone();
        self.inner.pool.run(move || std::fs::write(&path, text)).await??;
        let result = self
            .call_runtime(runtime, &["update", "--resources", &file.display().to_string(), &now.def.id])
            .await;
        // It was read, or never will be.
        let _ = self.inner.pool.run(move || std::fs::remove_file(&file)).await?;
        result
    }

    /// Removes what runtimes have of containers that do not run.
    pub(crate) fn sweep_bundles(&self) {
        let busy: std::collections::BTreeSet<String> = self
            .inner
            .registry
            .all()
            .iter()
            .filter(|c| c.now().state.status.is_alive())
            .map(|c| c.id.to_string())
            .collect();
        self.sweep_checkpoints(&busy);
        let dir = bundles(&self.inner.settings().exec_root);
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(id) = entry.file_name().into_string() else { continue };
            if busy.contains(&id) {
                continue;
            }
            let told = std::fs::read(entry.path().join(runtime::RECORD)).ok();
            match told.and_then(|json| serde_json::from_slice::<Runtime>(&json).ok()) {
                // What it says about its own place is not believed.
                Some(runtime) => {
                    dispose(&Runtime { bundle: entry.path().display().to_string(), ..runtime }, &id);
                }
                None => drop(std::fs::remove_dir_all(entry.path())),
            }
        }
    }

    /// Asks the configured runtimes what they can do, for `info`; not waited for.
    pub(crate) fn ask_runtimes(&self) {
        let settings = self.inner.settings();
        if settings.runtimes.is_empty() {
            self.inner.runtime_features.store(Arc::default());
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            let asked = engine.inner.pool.run(move || {
                let ask =
                    |r: &crate::settings::RuntimeSettings| runtime::features(&r.path, &r.arguments, FEATURES);
                // A shim cannot be asked.
                let all = settings.runtimes.iter().filter(|(_, r)| r.shim.is_none() && !r.path.is_empty());
                all.filter_map(|(n, r)| Some((n.clone(), ask(r)?))).collect()
            });
            match asked.await {
                Ok(features) => engine.inner.runtime_features.store(Arc::new(features)),
                Err(error) => tracing::debug!(%error, "features of runtimes"),
            }
        });
    }

    /// `Runtimes` of `info`.
    pub(crate) fn runtimes_info(&self) -> HashMap<String, models::Runtime> {
        let settings = self.inner.settings();
        let features = self.inner.runtime_features.load();
        let own = models::Runtime { path: Some("wharf".into()), ..models::Runtime::default() };
        let mut all = HashMap::from([(NATIVE.to_owned(), own)]);
        for (name, runtime) in &settings.runtimes {
            let status = features.get(name).map(|json| {
                HashMap::from([("org.opencontainers.runtime-spec.features".to_owned(), json.clone())])
            });
            all.insert(
                name.clone(),
                models::Runtime {
                    // As with dockerd, one that is a shim has none.
                    path: runtime.shim.is_none().then(|| runtime.path.clone()),
                    runtime_args: (!runtime.arguments.is_empty()).then(|| runtime.arguments.clone()),
                    status,
                },
            );
        }
        all
    }
}

/// What runtimes said they can do, by name.
pub(crate) type Features = BTreeMap<String, String>;

/// Docker's words.
pub(crate) fn unknown(name: &str) -> Error {
    Error::invalid(format!("unknown or invalid runtime name: {name}"))
}
