//! `POST /commit`: a container as an image.

use std::collections::BTreeMap;

use serde_json::json;
use wharf_images::{Healthcheck, ImageConfig};

use crate::error::{Error, Result};
use crate::models::{ContainerConfig, HealthConfig};
use crate::planner::config::merge;
use crate::record::Status;
use crate::{Engine, Kind};

/// Of `POST /commit`.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The container.
    pub container: String,
    /// Name of the image, empty for none.
    pub repo: String,
    /// Its tag.
    pub tag: String,
    /// Who.
    pub author: String,
    /// Why.
    pub comment: String,
    /// Keep its processes still meanwhile.
    pub pause: bool,
    /// Dockerfile instructions to apply.
    pub changes: Vec<String>,
}

fn health(h: &HealthConfig) -> Healthcheck {
    Healthcheck {
        test: h.test.clone().unwrap_or_default(),
        interval: h.interval.unwrap_or(0),
        timeout: h.timeout.unwrap_or(0),
        start_period: h.start_period.unwrap_or(0),
        start_interval: h.start_interval.unwrap_or(0),
        retries: h.retries.unwrap_or(0),
    }
}

/// A container's configuration as an image has it.
fn image_config(c: &ContainerConfig) -> ImageConfig {
    let set = |list: &Option<Vec<String>>| {
        list.as_ref()
            .filter(|l| !l.is_empty())
            .map(|l| l.iter().map(|k| (k.clone(), json!({}))).collect::<BTreeMap<_, _>>())
    };
    ImageConfig {
        user: c.user.clone().unwrap_or_default(),
        exposed_ports: set(&c.exposed_ports),
        env: c.env.clone(),
        entrypoint: c.entrypoint.clone(),
        cmd: c.cmd.clone(),
        volumes: set(&c.volumes),
        working_dir: c.working_dir.clone().unwrap_or_default(),
        labels: c.labels.clone().map(|l| l.into_iter().collect()),
        stop_signal: c.stop_signal.clone().filter(|s| !s.is_empty()),
        stop_timeout: c.stop_timeout,
        shell: c.shell.clone(),
        on_build: c.on_build.clone(),
        healthcheck: c.healthcheck.as_ref().map(health),
        ..ImageConfig::default()
    }
}

impl Engine {
    /// Makes an image of a container; `config` lies on top of the container's own. Answers the image's id.
    pub async fn container_commit(&self, options: CommitOptions, config: ContainerConfig) -> Result<String> {
        // To its end whoever goes away meanwhile: a paused container must go on.
        let engine = self.clone();
        tokio::spawn(async move { engine.commit(options, config).await })
            .await
            .map_err(|e| Error::internal(format!("the commit ended: {e}")))?
    }

    async fn commit(&self, options: CommitOptions, config: ContainerConfig) -> Result<String> {
        let container = self.inner.registry.find(&options.container)?;
        let now = container.now();
        if matches!(now.state.status, Status::Removing | Status::Dead) {
            return Err(Error::conflict(format!(
                "You cannot commit container {} which is {}",
                now.def.id,
                now.state.status.word()
            )));
        }
        let config = image_config(&merge(config, &image_config(&now.def.config))?);
        let wanted = wharf_images::CommitOptions {
            repository: options.repo,
            tag: options.tag,
            author: options.author,
            comment: options.comment.clone(),
            created_by: now.def.config.cmd.clone().unwrap_or_default().join(" "),
            config,
            changes: options.changes,
            parent: now.def.image.clone(),
            container: now.def.id.clone(),
            container_config: serde_json::to_value(&now.def.config)?,
        };
        let paused = if options.pause && now.state.status == Status::Running {
            match self.container_pause(&now.def.id).await {
                Ok(()) => true,
                // Ended or paused by someone else at this moment.
                Err(e) if e.kind == Kind::Conflict => false,
                Err(e) => return Err(e),
            }
        } else {
            false
        };
        let made = self.inner.images.commit(&now.def.id, wanted).await;
        if paused {
            match self.container_unpause(&now.def.id).await {
                Ok(()) => {}
                Err(e) if e.kind == Kind::Conflict || e.kind == Kind::NotFound => {}
                Err(error) => tracing::error!(%error, id = now.def.id, "still paused after a commit"),
            }
        }
        let image = made?;
        let name = image.repo_tags.first().cloned().unwrap_or_default();
        self.image_event("create", &image.id, if name.is_empty() { &image.id } else { &name });
        self.container_event(
            &now,
            "commit",
            &[("comment", &options.comment), ("imageID", &image.id), ("imageRef", &name)],
        );
        Ok(image.id.clone())
    }
}
