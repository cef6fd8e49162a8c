//! Checkpoints: the state of a container's processes in files, made and read by CRIU. For a container of another runtime it is
//! the runtime that calls CRIU, as with Docker; for the engine's own ones see `criu`.

mod directory;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wharf_kernel::runtime;

use directory::{Description, Image, check_name, existing};
pub(crate) use directory::{outside, sweep};

use crate::error::{Context, Error, Result};
use crate::record::{Status, now as clock, rfc3339};
use crate::registry::Now;
use crate::{Caller, Engine};

/// Writing the memory of a large container takes its time.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_mins(10);

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
        let names = self.inner.pool.run(move || directory::list(&dir));
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
        let image = {
            let (name, id) = (name.clone(), now.def.id.clone());
            let made = self.inner.pool.run(move || Image::reserve(&dir, &name, &id)).await?;
            made.doing(&failed)?
        };
        let path = image.path();
        // An end that was asked for: no policy starts it again.
        if asked.exit
            && let Err(error) = self.set_state(&container, |s| s.stopped_by_user = true).await
        {
            self.inner.pool.run(move || image.discard()).await?;
            return Err(error);
        }
        let done = match now.state.runtime.clone() {
            None => self.criu_dump(&now, path, !asked.exit).await.map(|done| done.map(Some)),
            Some(runtime) => {
                let done = self.runtime_dump(runtime, &now.def.id, path, !asked.exit).await;
                done.map(|done| done.map(|()| None))
            }
        };
        // Neither way leaves what was reserved.
        let done = done.unwrap_or_else(|error| Err(error.to_string()));
        let description =
            |outside| Description { created: rfc3339(clock()), name, exit: asked.exit, outside };
        // Half a checkpoint is none.
        let done = done.map(description);
        let done = self.inner.pool.run(move || match done {
            Ok(description) => image.describe(&description),
            Err(why) => {
                image.discard();
                Err(why)
            }
        });
        if let Err(why) = done.await? {
            if asked.exit {
                self.set_state(&container, |s| s.stopped_by_user = now.state.stopped_by_user).await?;
            }
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
        let removed = self.inner.pool.run(move || directory::remove(&dir, &name, &id));
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
