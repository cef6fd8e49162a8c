//! Containers that a shim makes: what is asked of the shim besides making processes, which is the keeper's.

use std::path::{Path, PathBuf};

use wharf_kernel::cgroup;
use wharf_plan::idmap;
use wharf_plan::run::{Runtime, Shim};
use wharf_plan::types::{IdKind, IdMap};
use wharf_shim::{Failure, Task};

use crate::Engine;
use crate::error::{Error, Kind, Result};
use crate::record::State;
use crate::registry::Now;

/// The program of a shim, by the name of the runtime or its absolute path, in containerd's words where there is none. Looked for
/// at each start, so that one that is installed later is found.
fn program(name: &str) -> Result<String> {
    let missing = |program: &str| {
        Error::internal(format!(
            "failed to create task for container: failed to start shim: failed to resolve runtime path: runtime {name:?} binary \
             not installed {program:?}: file does not exist"
        ))
    };
    if name.starts_with('/') {
        return if Path::new(name).is_file() { Ok(name.to_owned()) } else { Err(missing(name)) };
    }
    let program = wharf_shim::program_name(name).ok_or_else(|| crate::runtimes::unknown(name))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let places =
        path.split(':').chain(wharf_kernel::program::PATH.split(':')).filter(|dir| dir.starts_with('/'));
    let found = places.map(|dir| Path::new(dir).join(&program)).find(|candidate| candidate.is_file());
    found.map(|path| path.display().to_string()).ok_or_else(|| missing(&program))
}

/// Whether a name that is not configured may be that of a shim. Unlike the configuration, a request cannot name a program by its
/// path, or whoever may use the API could have any file executed.
pub(crate) fn is_shim(name: &str) -> bool {
    !name.contains('/') && wharf_shim::program_name(name).is_some()
}

/// A runtime that is a shim of this type, for a container with these ranges.
pub(crate) fn runtime(
    name: &str,
    kind: &str,
    options: Option<&wharf_plan::run::ShimOptions>,
    bundle: &Path,
    maps: &[IdMap],
) -> Result<Runtime> {
    let root = |of| idmap::outside(maps, of, 0);
    let options = match root(IdKind::Users).zip(root(IdKind::Groups)) {
        Some((uid, gid)) if !maps.is_empty() => {
            wharf_shim::options_with_owner(kind, options.cloned(), uid, gid)
        }
        _ => options.cloned(),
    };
    Ok(Runtime {
        name: name.to_owned(),
        program: program(kind)?,
        args: Vec::new(),
        root: String::new(),
        bundle: bundle.display().to_string(),
        shim: Some(Shim { options }),
    })
}

/// Where the files of a running container are to be found. A process of a container that is a virtual machine has the host's
/// files before it, not the container's.
pub(crate) fn root_of(state: &State) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", state.pid));
    match state.shim().and_then(|runtime| wharf_shim::files_elsewhere(Path::new(&runtime.bundle))) {
        Some(inside) => root.join(inside.strip_prefix("/").unwrap_or(&inside)),
        None => root,
    }
}

/// A shim's failure as Docker's users see it.
fn failed(id: &str, what: &str, failure: &Failure) -> Error {
    if failure.is_unimplemented() {
        return Error::new(
            Kind::Unsupported,
            format!("{what}: the runtime of container {id} does not implement it"),
        );
    }
    match failure {
        Failure::Status(_, words) => {
            Error::internal(format!("{what}: {}", words.trim_end_matches(": unknown")))
        }
        other => Error::internal(format!(
            "{what}: container {id}: {other}; `docker kill` ends the container without its shim"
        )),
    }
}

/// Numbers that a shim told, in the form of those that the kernel tells.
fn counters(told: &wharf_shim::Metrics) -> cgroup::Stats {
    let limit = |value: u64| (value > 0 && value < 1 << 62).then_some(value);
    let mut stats = cgroup::Stats::default();
    (stats.cpu.total, stats.cpu.user, stats.cpu.system) = told.cpu;
    stats.memory.usage = told.memory.0;
    stats.memory.limit = limit(told.memory.1);
    stats.memory.max_usage = told.memory_most;
    stats.pids_current = told.pids.0;
    stats.pids_limit = limit(told.pids.1);
    stats.blkio.bytes = told
        .io
        .iter()
        .map(|(major, minor, operation, value)| cgroup::BlkioEntry {
            major: *major,
            minor: *minor,
            operation: operation.clone(),
            value: *value,
        })
        .collect();
    stats
}

impl Engine {
    /// Asks a container's shim something, on a thread of its own: a shim that does not answer costs no more than that.
    pub(crate) async fn ask_shim<T: Send + 'static>(
        &self,
        now: &Now,
        runtime: &Runtime,
        ask: impl FnOnce(&mut Task) -> std::result::Result<T, Failure> + Send + 'static,
    ) -> Result<std::result::Result<T, Failure>> {
        let (bundle, id) = (PathBuf::from(&runtime.bundle), now.def.id.clone());
        let place = format!("the shim of container {id}");
        self.inner
            .foreign
            .run(&[&place], move |_| Task::at(&bundle, &id).and_then(|mut task| ask(&mut task)))
            .await
    }

    /// The same for what must succeed.
    pub(crate) async fn tell_shim<T: Send + 'static>(
        &self,
        now: &Now,
        runtime: &Runtime,
        what: &str,
        tell: impl FnOnce(&mut Task) -> std::result::Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        let told = self.ask_shim(now, runtime, tell).await?;
        told.map_err(|failure| failed(&now.def.id, what, &failure))
    }

    /// Sends a signal by a container's shim. The last one always arrives: a shim that does not answer ends with its container.
    pub(crate) async fn signal_by_shim(&self, now: &Now, runtime: &Runtime, signal: i32) -> Result<()> {
        let last = signal == crate::planner::signals::KILL;
        let patience = if last { wharf_shim::KILL_PATIENCE } else { wharf_shim::PATIENCE };
        let number = u32::try_from(signal).unwrap_or(0);
        let sent = self.ask_shim(now, runtime, move |task| task.kill(number, patience)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            // It has ended, which its stand-in is about to tell.
            Ok(Err(failure)) if last && failure.is_not_found() => Ok(()),
            Ok(Err(failure)) if last => {
                tracing::warn!(%failure, id = now.def.id, "a shim does not kill its container; both are ended");
                self.end_by_force(now).await
            }
            Err(error) if last => {
                tracing::warn!(%error, id = now.def.id, "a shim cannot be asked; it is ended with its container");
                self.end_by_force(now).await
            }
            Ok(Err(failure)) => Err(failed(&now.def.id, "cannot send the signal", &failure)),
            Err(error) => Err(error),
        }
    }

    /// Has a container's stand-in end it, whatever its shim does.
    pub(crate) async fn end_by_force(&self, now: &Now) -> Result<()> {
        Ok(self.inner.keeper.signal(&now.def.id, crate::planner::signals::KILL).await?)
    }

    /// The counters of a running container: of its cgroup, or where that is none of this host's, what its shim says.
    pub(crate) async fn counters(&self, now: &Now) -> Result<Option<cgroup::Stats>> {
        let Some(runtime) = shim_elsewhere(&now.state) else { return Ok(None) };
        let told = self.tell_shim(now, &runtime, "cannot read the counters", Task::stats).await?;
        Ok(Some(told.as_ref().map(counters).unwrap_or_default()))
    }

    /// The processes of a running container where its cgroup does not tell.
    pub(crate) async fn pids_by_shim(&self, now: &Now) -> Result<Option<Vec<i32>>> {
        let Some(runtime) = shim_elsewhere(&now.state) else { return Ok(None) };
        let told = self.tell_shim(now, &runtime, "cannot list the processes", Task::pids).await?;
        Ok(Some(told.into_iter().filter_map(|pid| i32::try_from(pid).ok()).collect()))
    }
}

/// The shim of a container that is not processes of this host.
fn shim_elsewhere(state: &State) -> Option<Runtime> {
    let runtime = state.shim()?;
    wharf_shim::files_elsewhere(Path::new(&runtime.bundle)).map(|_| runtime.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_names_are_shims() {
        for good in ["io.containerd.kata.v2", "io.containerd.runsc.v1", "a.b"] {
            assert!(is_shim(good), "{good}");
        }
        for bad in ["", "runc2", "/usr/bin/containerd-shim-x-v2", "../x.v2", ".v2", "x/y.v2"] {
            assert!(!is_shim(bad), "{bad}");
        }
    }

    #[test]
    fn failures_in_words() {
        let unimplemented = failed("c1", "cannot pause container", &Failure::Status(12, "x".into()));
        assert_eq!(unimplemented.kind, Kind::Unsupported);
        assert!(unimplemented.message.contains("does not implement"), "{}", unimplemented.message);
        let own = failed("c1", "cannot pause container", &Failure::Status(2, "it is late: unknown".into()));
        assert_eq!(own.message, "cannot pause container: it is late");
        let hung = failed("c1", "cannot pause container", &Failure::Late("Pause"));
        assert!(hung.message.contains("does not answer") && hung.message.contains("docker kill"));
        let missing = program("io.containerd.nosuch-thing.v2").unwrap_err();
        assert!(missing.message.contains("binary not installed \"containerd-shim-nosuch-thing-v2\""));
    }

    #[test]
    fn limits_that_are_none() {
        let told = wharf_shim::Metrics { memory: (5, u64::MAX), pids: (1, 0), ..Default::default() };
        let stats = counters(&told);
        assert_eq!((stats.memory.usage, stats.memory.limit, stats.pids_limit), (5, None, None));
    }
}
