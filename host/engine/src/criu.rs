//! Checkpoints of containers that this engine itself runs, made and restored by CRIU; what is left to it is said in
//! `wharf_kernel::criu`.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wharf_kernel::sys::process;
use wharf_kernel::{criu, program};
use wharf_plan::run::Restore;

use crate::Engine;
use crate::checkpoint::{self, PATIENCE};
use crate::error::{Error, Kind, Result};
use crate::planner::modes::{Ipc, Mode, NetworkMode};
use crate::planner::mounts;
use crate::planner::run::Blueprint;
use crate::record::Definition;
use crate::registry::Now;
use crate::start::OWN_FILES;

/// What a checkpoint has not itself, but finds in the container that is restored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Outside {
    /// Paths inside where mounts from outside were.
    mounts: Vec<String>,
    /// Inodes of the pipes that the standard streams were.
    pipes: [Option<u64>; 3],
    /// A network namespace, other than the host's.
    net: bool,
}

fn not_possible(why: &str) -> Error {
    Error::new(Kind::Unsupported, format!("checkpoints of such a container are not possible: {why}"))
}

/// Refuses containers with a user namespace, whatever their runtime: CRIU would make them a new one.
pub(crate) fn check_user(def: &Definition) -> Result<()> {
    if def.id_maps.is_empty() { Ok(()) } else { Err(not_possible("it has a user namespace")) }
}

/// Refuses containers that share with others what a checkpoint would have to take apart.
fn check_whole(def: &Definition, b: &Blueprint) -> Result<()> {
    check_user(def)?;
    let why = if b.pid != Mode::Private {
        "it shares its pid namespace (--pid)"
    } else if matches!(b.ipc, Ipc::Container(_) | Ipc::Private { shareable: true }) {
        "it shares its IPC namespace with other containers (--ipc)"
    } else if b.init {
        // CRIU finds a program again by its path.
        "its first process is the engine's own init, which is in no file system (--init)"
    } else {
        return Ok(());
    };
    Err(not_possible(why))
}

/// The paths at which trees from outside are mounted.
fn given<'a>(def: &'a Definition, b: &Blueprint) -> Vec<&'a str> {
    let trees = def.mounts.iter().filter(|spec| spec.kind != mounts::Kind::Tmpfs);
    let mut given: Vec<&str> = trees.map(|spec| spec.destination.as_str()).collect();
    given.extend(OWN_FILES.map(|(target, _)| target));
    if b.ipc == Ipc::Host {
        given.push("/dev/shm");
    }
    given
}

/// Looks at the process, and has its state written. Blocks.
fn dump(
    program: &Path,
    image: &Path,
    held: &[(String, OwnedFd)],
    now: &Now,
    leave_running: bool,
) -> std::result::Result<Outside, String> {
    let pid = now.state.pid;
    let find = |name: &str| held.iter().find(|(held, _)| held == name).map(|(_, fd)| fd);
    let mountinfo =
        std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).map_err(|e| format!("its mounts: {e}"))?;
    let mounts = criu::external(&mountinfo, &given(&now.def, &now.blueprint))?;
    let net = match now.blueprint.network {
        NetworkMode::Host => None,
        _ => {
            let namespace = std::fs::metadata(format!("/proc/{pid}/ns/net"));
            Some(namespace.map_err(|e| format!("its network namespace: {e}"))?.ino())
        }
    };
    let inode =
        |name: &str| find(name).and_then(|fd| std::fs::File::from(fd.try_clone().ok()?).metadata().ok());
    let pipes = ["stdin", "stdout", "stderr"].map(|name| inode(name).map(|meta| meta.ino()));
    let work = image.join("criu.work");
    std::fs::create_dir(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    if find("pidfd").and_then(|pidfd| process::pid_of(pidfd.as_fd())) != Some(pid) {
        return Err("its first process has ended".into());
    }
    let asked =
        criu::Dump { program, images: image, work: &work, pid, external: &mounts, net, leave_running };
    criu::dump(&asked, PATIENCE).map_err(|why| match criu::check(program) {
        Ok(()) => format!("criu failed: {why}"),
        Err(check) => format!("criu does not work on this machine (criu check: {check}): {why}"),
    })?;
    Ok(Outside { mounts, pipes, net: net.is_some() })
}

impl Engine {
    /// CRIU, or Docker's text of a program that is not there.
    fn criu_program(&self) -> Result<PathBuf> {
        let name = self.inner.settings().criu.clone();
        program::find(&name).ok_or_else(|| {
            Error::internal(format!(
                "exec: {name:?}: executable file not found in $PATH: checkpoints need CRIU (Debian package criu, or --criu with \
                 its path)"
            ))
        })
    }

    /// Whether a container of this engine can have checkpoints here.
    pub(crate) fn check_criu(&self, now: &Now) -> Result<()> {
        check_whole(&now.def, &now.blueprint)?;
        self.criu_program().map(drop)
    }

    /// Writes the state of a running container's processes into the directory, which is empty. The error is a text.
    pub(crate) async fn criu_dump(
        &self,
        now: &Now,
        image: PathBuf,
        leave_running: bool,
    ) -> Result<std::result::Result<Outside, String>> {
        let program = self.criu_program()?;
        let held = self.inner.keeper.fetch(&now.def.id).await?;
        let now = now.clone();
        self.inner.pool.run(move || dump(&program, &image, &held, &now, leave_running)).await
    }

    /// Directory for what a restore mounts.
    fn restores(&self) -> PathBuf {
        self.inner.settings().exec_root.join("restore")
    }

    /// What the keeper is told of the checkpoint in `image`.
    pub(crate) async fn restore_plan(&self, id: &str, image: &Path) -> Result<Restore> {
        let program = self.criu_program()?;
        let (dir, work) = (image.to_owned(), self.restores().join(id));
        let old = work.clone();
        let outside = self.inner.pool.run(move || {
            // Of a restore during which the daemon died: CRIU writes to no file that is there.
            let _ = std::fs::remove_dir_all(old);
            checkpoint::outside(&dir)
        });
        let outside = outside.await??;
        Ok(Restore {
            program: program.display().to_string(),
            images: image.display().to_string(),
            work: work.display().to_string(),
            external: outside.mounts,
            pipes: outside.pipes,
            net: outside.net,
        })
    }

    /// Removes what is left of restores and of checkpoints that were not made to their end.
    pub(crate) fn sweep_checkpoints(&self, busy: &BTreeSet<String>) {
        let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries(&self.restores()) {
            if !entry.file_name().to_str().is_some_and(|id| busy.contains(id)) {
                // Mounts were only ever seen by who made them.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        for container in self.inner.registry.all() {
            checkpoint::sweep(&self.inner.dirs.container(&container.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_without_what_is_outside_are_others() {
        let outside: Outside =
            serde_json::from_str(r#"{"mounts": ["/data"], "pipes": [null, 7, 8]}"#).unwrap();
        assert_eq!(outside.pipes, [None, Some(7), Some(8)]);
        assert!(!outside.net);
    }
}
