//! Checkpoints: the state of a container's processes in files, made and read by CRIU. For a container of another runtime it is
//! the runtime that calls CRIU, as with Docker; for the engine's own ones see `criu`.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wharf_kernel::fs::Root;
use wharf_kernel::runtime;

use crate::criu::Outside;
use crate::error::{Context, Error, Result};
use crate::record::{Status, now as clock, rfc3339};
use crate::registry::Now;
use crate::{Caller, Engine};

/// Writing the memory of a large container takes its time.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_mins(10);
/// A description that is larger than this is none.
const LARGEST: usize = 64 << 10;
/// The file that makes a directory a checkpoint.
const DESCRIPTION: &str = "config.json";

/// Body of `POST /containers/{id}/checkpoints`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckpointCreate {
    /// Its name.
    #[serde(rename = "CheckpointID")]
    pub checkpoint_id: String,
    /// Where checkpoints are kept; empty is the container's own directory.
    pub checkpoint_dir: String,
    /// The container ends with it.
    pub exit: bool,
}

/// What is kept about a checkpoint.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    created: String,
    name: String,
    exit: bool,
    /// Of a container of this engine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outside: Option<Outside>,
}

/// What the checkpoint in this directory does not have itself.
pub(crate) fn outside(image: &Path) -> Result<Outside> {
    let text = Root::open(image).and_then(|root| root.read_limited(Path::new(DESCRIPTION), LARGEST))?;
    let description: Description = serde_json::from_slice(&text)?;
    description.outside.ok_or_else(|| {
        Error::invalid(format!("the checkpoint {} was made by another runtime", description.name))
    })
}

/// Removes the checkpoints of a container that were not made to their end: a daemon died meanwhile.
pub(crate) fn sweep(container: &Path) {
    for entry in std::fs::read_dir(container.join("checkpoints")).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && !entry.path().join(DESCRIPTION).exists() {
            // What cannot be removed now is not listed, and goes with the container.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Docker's rule for names, which leaves no way out of the directory.
fn check_name(name: &str) -> Result<()> {
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if first && name.len() >= 2 && name.len() <= 255 && name.chars().all(good) {
        Ok(())
    } else {
        Err(Error::invalid(format!(
            "Invalid checkpoint ID ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

/// The directory of one checkpoint, which must be there.
fn existing(dir: &Path, name: &str, container: &str) -> Result<PathBuf> {
    check_name(name)?;
    let path = dir.join(name);
    match std::fs::symlink_metadata(&path) {
        Err(_) => {
            Err(Error::not_found(format!("checkpoint {name} does not exist for container {container}")))
        }
        Ok(meta) if !meta.is_dir() => {
            Err(Error::invalid(format!("{} exists and is not a directory", path.display())))
        }
        Ok(_) => Ok(path),
    }
}

/// A new directory for one; only root sees the memory of a container.
fn reserve(dir: &Path, name: &str, container: &str) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let path = dir.join(name);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| {
        if e.kind() == std::io::ErrorKind::AlreadyExists {
            Error::conflict(format!("checkpoint with name {name} already exists for container {container}"))
        } else {
            Error::internal(format!("cannot make {}: {e}", path.display()))
        }
    })?;
    Ok(path)
}

/// The last step: what has a description is a checkpoint.
fn describe(image: &Path, description: &Description) -> Result<(), String> {
    let text = serde_json::to_vec(description).map_err(|e| e.to_string())?;
    let written = std::fs::write(image.join(DESCRIPTION), text);
    written.map_err(|e| format!("{}: {e}", image.display()))
}

impl Engine {
    /// Where a container's checkpoints are.
    fn checkpoint_dir(&self, id: &str, asked: &str) -> Result<PathBuf> {
        if asked.is_empty() {
            return Ok(self.inner.dirs.container(id).join("checkpoints"));
        }
        let dir = PathBuf::from(asked);
        if dir.is_absolute() && !asked.contains('\0') && asked.split('/').all(|part| part != "..") {
            Ok(dir)
        } else {
            Err(Error::invalid(format!(
                "invalid checkpoint directory {asked:?}: it must be an absolute path"
            )))
        }
    }

    /// `GET /containers/{id}/checkpoints`.
    pub async fn checkpoint_list(&self, reference: &str, dir: &str) -> Result<Value> {
        let id = self.inner.registry.find(reference)?.id.to_string();
        let dir = self.checkpoint_dir(&id, dir)?;
        let names = self.inner.pool.run(move || -> Result<Vec<String>> {
            let root = match Root::open(&dir) {
                Err(e) if e.is_not_found() => return Ok(Vec::new()),
                result => result?,
            };
            let mut names: Vec<String> = Vec::new();
            for (name, _) in root.list(".")? {
                let Some(name) = name.to_str().filter(|n| check_name(n).is_ok()) else { continue };
                let described = root.read_limited(Path::new(name).join(DESCRIPTION), LARGEST).ok();
                if described.is_some_and(|text| serde_json::from_slice::<Description>(&text).is_ok()) {
                    names.push(name.to_owned());
                }
            }
            names.sort();
            Ok(names)
        });
        let names = names.await??;
        Ok(names.into_iter().map(|name| json!({"Name": name})).collect())
    }

    /// `POST /containers/{id}/checkpoints`.
    pub async fn checkpoint_create(&self, reference: &str, asked: CheckpointCreate) -> Result<()> {
        let container = self.inner.registry.find(reference)?;
        let _held = container.lock.lock().await;
        let now = container.now();
        if now.state.status != Status::Running {
            return Err(Error::conflict(format!("Container {reference} not running")));
        }
        if now.def.config.tty == Some(true) {
            return Err(Error::invalid("checkpoint not support on containers with tty"));
        }
        let name = asked.checkpoint_id;
        check_name(&name)?;
        let failed = format!("Cannot checkpoint container {reference}");
        let possible = match &now.state.runtime {
            None => self.check_criu(&now),
            Some(_) => crate::criu::check_user(&now.def),
        };
        possible.map_err(|e| Error { message: format!("{failed}: {e}"), ..e })?;
        let dir = self.checkpoint_dir(&now.def.id, &asked.checkpoint_dir)?;
        let path = {
            let (name, id) = (name.clone(), now.def.id.clone());
            let made = self.inner.pool.run(move || reserve(&dir, &name, &id)).await?;
            made.doing(&failed)?
        };
        if asked.exit {
            // An end that was asked for: no policy starts it again.
            self.set_state(&container, |s| s.stopped_by_user = true).await?;
        }
        let done = match now.state.runtime.clone() {
            None => self.criu_dump(&now, path.clone(), !asked.exit).await?.map(Some),
            Some(runtime) => {
                self.runtime_dump(runtime, &now.def.id, path.clone(), !asked.exit).await?.map(|()| None)
            }
        };
        let description =
            |outside| Description { created: rfc3339(clock()), name, exit: asked.exit, outside };
        let done = match done.map(description) {
            Ok(description) => {
                let path = path.clone();
                self.inner.pool.run(move || describe(&path, &description)).await?
            }
            Err(why) => Err(why),
        };
        if let Err(why) = done {
            if asked.exit {
                self.set_state(&container, |s| s.stopped_by_user = now.state.stopped_by_user).await?;
            }
            // Half a checkpoint is none.
            let _ = self.inner.pool.run(move || std::fs::remove_dir_all(&path)).await?;
            return Err(Error::internal(format!("{failed}: {why}")));
        }
        self.container_event(&now, "checkpoint", &[]);
        Ok(())
    }

    /// Has another runtime write the state of its container into the directory, which is empty. The error is a text.
    async fn runtime_dump(
        &self,
        runtime: wharf_plan::run::Runtime,
        id: &str,
        image: PathBuf,
        leave_running: bool,
    ) -> Result<std::result::Result<(), String>> {
        let id = id.to_owned();
        let done = self.inner.pool.run(move || {
            let (image, work) = (image.display().to_string(), format!("{}/criu.work", image.display()));
            std::fs::create_dir(&work).map_err(|e| format!("{work}: {e}"))?;
            let mut arguments = vec!["checkpoint", "--image-path", &image, "--work-path", &work];
            if leave_running {
                arguments.push("--leave-running");
            }
            arguments.push(&id);
            if runtime.shim.is_some() {
                let task = wharf_shim::Task::at(Path::new(&runtime.bundle), &id);
                return task
                    .and_then(|mut task| task.checkpoint(&image, &work, !leave_running, PATIENCE))
                    .map_err(|failure| failure.to_string());
            }
            runtime::invoke(&runtime, &arguments, PATIENCE)
        });
        done.await
    }

    /// `DELETE /containers/{id}/checkpoints/{name}`.
    pub async fn checkpoint_delete(&self, reference: &str, name: &str, dir: &str) -> Result<()> {
        let container = self.inner.registry.find(reference)?;
        let dir = self.checkpoint_dir(&container.id, dir)?;
        let _held = container.lock.lock().await;
        let (name, id) = (name.to_owned(), container.id.to_string());
        let removed = self.inner.pool.run(move || -> Result<()> {
            let path = existing(&dir, &name, &id)?;
            // Only what is a checkpoint: the directory may be one that holds other things too.
            if !path.join(DESCRIPTION).is_file() {
                return Err(Error::not_found(format!("checkpoint {name} does not exist for container {id}")));
            }
            Ok(std::fs::remove_dir_all(&path)?)
        });
        removed.await?
    }

    /// `POST /containers/{id}/start?checkpoint=`.
    pub async fn container_restore(
        &self,
        reference: &str,
        name: &str,
        dir: &str,
        caller: &Caller,
    ) -> Result<()> {
        if !dir.is_empty() {
            // As with Docker: who may start a container shall not thereby choose what its processes' memory is.
            return Err(Error::forbidden("custom checkpointdir is not supported"));
        }
        let container = self.inner.registry.find(reference)?;
        let path = existing(&self.checkpoint_dir(&container.id, dir)?, name, &container.id)?;
        let now: std::sync::Arc<Now> = container.now();
        if now.def.config.tty == Some(true) {
            return Err(Error::invalid("checkpoint not support on containers with tty"));
        }
        match self.runtime_of(&now.def)? {
            None => self.check_criu(&now)?,
            Some(_) => crate::criu::check_user(&now.def)?,
        }
        let mut held = container.lock.lock().await;
        crate::start::check_startable(&container, &held)?;
        held.backoff = 0;
        held.restore = Some(path);
        let result = self.start_locked(&container, &mut held, caller, 0).await;
        // Also where the start did not come to the point of using it.
        held.restore = None;
        result
    }

    /// Whether checkpoints are to be had at all.
    pub fn experimental(&self) -> bool {
        self.inner.experimental.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn names_lead_nowhere_else() {
        for good in ["cp", "a1", "A_b.c-d"] {
            check_name(good).unwrap();
        }
        for bad in ["", "a", "..", ".x", "-x", "a/b", "../x", "a b", "ä1", &"x".repeat(256)] {
            let e = check_name(bad).unwrap_err();
            assert_eq!(e.kind, Kind::Invalid);
            assert!(e.message.starts_with("Invalid checkpoint ID ("), "{}", e.message);
        }
    }

    #[test]
    fn a_checkpoint_is_a_directory_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = reserve(&dir.path().join("new"), "cp1", "c").unwrap();
        assert_eq!(existing(&dir.path().join("new"), "cp1", "c").unwrap(), path);
        let twice = reserve(&dir.path().join("new"), "cp1", "c").unwrap_err();
        assert_eq!(twice.message, "checkpoint with name cp1 already exists for container c");
        let missing = existing(dir.path(), "cp2", "c").unwrap_err();
        assert_eq!(missing.message, "checkpoint cp2 does not exist for container c");
        // A link is not followed: what it leads to is somebody else's.
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        assert!(existing(dir.path(), "link", "c").unwrap_err().message.contains("is not a directory"));
    }
}
