//! Removing containers.

use std::sync::Arc;

use wharf_store::Transaction;

use crate::error::{Error, Result};
use crate::models::ContainerPruneResponse;
use crate::planner::mounts::Kind as MountKind;
use crate::record::{CONTAINERS, NAMES, STATES, Status};
use crate::registry::{Container, Held, Now};
use crate::{Engine, Filters, RemoveOptions};

impl Engine {
    /// `DELETE /containers/{id}`.
    pub async fn container_remove(&self, reference: &str, options: RemoveOptions) -> Result<()> {
        if options.link {
            return self.remove_link(reference).await;
        }
        let container = self.inner.registry.find(reference)?;
        let mut killed = false;
        loop {
            let mut held = if options.force {
                self.lock_to_end(&container, std::time::Duration::from_millis(100)).await?
            } else {
                container.lock.lock().await
            };
            let now = container.now();
            if held.removing {
                if container.watch().borrow().removed {
                    // It was there when this was asked: `--rm` of the process that was just killed was faster.
                    return if killed { Ok(()) } else { Err(Error::no_container(reference)) };
                }
                return Err(Error::conflict(format!(
                    "removal of container {} is already in progress",
                    now.def.id
                )));
            }
            if !now.state.status.is_alive() && (now.state.status != Status::Restarting || options.force) {
                return self.remove_locked(&container, &mut held, options).await;
            }
            if !options.force {
                let why = if now.state.status == Status::Paused {
                    "container is paused and must be unpaused first"
                } else if now.state.status == Status::Restarting {
                    "container is restarting: stop the container before removing or force remove"
                } else {
                    "container is running: stop the container before removing or force remove"
                };
                return Err(Error::conflict(format!("cannot remove container \"{reference}\": {why}")));
            }
            drop(held);
            self.kill_for_removal(&container).await?;
            killed = true;
        }
    }

    /// Removes it; the lock is held and there is no process.
    pub(crate) async fn remove_locked(
        &self,
        container: &Arc<Container>,
        held: &mut Held,
        options: RemoveOptions,
    ) -> Result<()> {
        held.removing = true;
        let now = container.now();
        let id = &now.def.id;
        let (io, place) = (Arc::clone(&container.io), format!("the log of container {id}"));
        if let Err(e) = self.inner.foreign.run(&[&place], move |_| io.removed()).await {
            held.removing = false;
            // What could not be waited for still happens: nothing can be kept of what it would print.
            let _ = self.set_state(container, |s| s.status = Status::Dead).await;
            return Err(e.context(format_args!("unable to remove container {id}")));
        }
        let (dirs, dir_id) = (self.inner.dirs.clone(), id.clone());
        let mut tx = Transaction::new();
        tx.delete(CONTAINERS, id).delete(STATES, id).delete(NAMES, &now.def.name);
        // The record and the file system go together.
        let files = match self.inner.images.snapshots().remove(id, tx).await {
            Ok(files) => files,
            Err(e) => {
                held.removing = false;
                let _ = self.set_state(container, |s| s.status = Status::Dead).await;
                return Err(Error::from(e).context(format_args!("unable to remove filesystem for {id}")));
            }
        };
        let (pool, tidying) = (self.inner.pool.clone(), held.tidying.take());
        self.inner.tidying.spawn(async move {
            files.await;
            if let Some(tidying) = tidying {
                let _ = tidying.await;
            }
            // Last, as by this directory the next start knows that a cgroup of this name is ours.
            let removed = pool.run({
                let id = dir_id.clone();
                move || dirs.remove_container(&id)
            });
            if let Ok(Err(error)) = removed.await {
                tracing::warn!(%error, id = dir_id, "directory not removed; the next sweep will");
            }
        });
        self.inner.registry.remove(id, &now.def.name);
        self.inner.execs.forget_container(&container.exec_ids());
        if options.volumes {
            self.remove_anonymous(&now).await;
        }
        now.def.links.iter().for_each(|link| self.refresh_names(link));
        self.container_event(&now, "destroy", &[]);
        container.change_life(|life| life.removed = true);
        self.expect_range(&now.def.id_maps);
        Ok(())
    }

    async fn remove_anonymous(&self, now: &Now) {
        for spec in now.def.mounts.iter().filter(|m| m.kind == MountKind::Volume && m.anonymous) {
            match self.volume_remove(&spec.source, false).await {
                Ok(()) => {}
                // Another container took it over by --volumes-from.
                Err(e) if e.kind == crate::Kind::Conflict || e.kind == crate::Kind::NotFound => {}
                Err(error) => tracing::warn!(%error, volume = spec.source, "anonymous volume not removed"),
            }
        }
    }

    /// `POST /containers/prune`.
    pub async fn container_prune(&self, filters: &Filters) -> Result<ContainerPruneResponse> {
        filters.only(&["label", "label!", "until"])?;
        let until = crate::list::until(filters)?;
        let mut deleted = Vec::new();
        let mut reclaimed = 0_u64;
        for container in self.inner.registry.all() {
            let now = container.now();
            let find =
                |key: &str| now.def.config.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
            if now.state.status.is_alive()
                || now.state.status == Status::Restarting
                || !filters.labels("label", find)
                || (!filters.get("label!").is_empty() && filters.labels("label!", find))
                || until.is_some_and(|u| now.def.created > u)
            {
                continue;
            }
            let size = self.inner.images.snapshots().size(&now.def.id).await.unwrap_or(0);
            match self.container_remove(&now.def.id, RemoveOptions::default()).await {
                Ok(()) => {
                    deleted.push(now.def.id.clone());
                    reclaimed += size;
                }
                Err(error) => tracing::debug!(%error, id = now.def.id, "not pruned"),
            }
        }
        self.inner.events.publish(
            "container",
            "prune",
            "",
            [("reclaimed".to_owned(), reclaimed.to_string())],
        );
        Ok(ContainerPruneResponse {
            containers_deleted: Some(deleted),
            space_reclaimed: Some(i64::try_from(reclaimed).unwrap_or(i64::MAX)),
        })
    }
}
