//! Operations on containers that only look or pass streams through; the others are beside this file.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::models::{ContainerCreateBody, ContainerWaitResponse};
use crate::registry::{Container, Life};
use crate::{Engine, WaitCondition, io};

/// A registered wait: made before the answer's headers go out, awaited after.
#[derive(Debug)]
pub struct Waiter {
    pub(crate) life: watch::Receiver<Life>,
    pub(crate) exits: u64,
    pub(crate) condition: WaitCondition,
    /// Keeps the sending side alive.
    pub(crate) container: Arc<Container>,
}

impl Waiter {
    /// Waits for the condition.
    pub async fn wait(mut self) -> Result<ContainerWaitResponse> {
        let exits = self.exits;
        let condition = self.condition;
        let done = self
            .life
            .wait_for(|l| match condition {
                WaitCondition::NotRunning => !l.alive || l.exits > exits || l.removed,
                WaitCondition::NextExit => l.exits > exits || l.removed,
                WaitCondition::Removed => l.removed,
            })
            .await
            .map_err(|_| Error::unavailable("the daemon is shutting down"))?;
        let code = match condition {
            WaitCondition::NotRunning | WaitCondition::NextExit => done.code_after(exits),
            WaitCondition::Removed => done.exit_code,
        };
        let answer = ContainerWaitResponse { status_code: code.into(), error: None };
        drop(done);
        drop(self.container);
        Ok(answer)
    }
}

impl Engine {
    /// `GET /containers/{id}/logs`.
    pub async fn container_logs(&self, reference: &str, query: io::LogQuery) -> Result<io::Output> {
        let container = self.inner.registry.find(reference)?;
        if !query.stdout && !query.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        Ok(container.io.logs(query).await?)
    }

    /// `POST /containers/{id}/attach`. The container need not run yet.
    pub async fn container_attach(&self, reference: &str, query: io::AttachQuery) -> Result<io::Attached> {
        let container = self.inner.registry.find(reference)?;
        let now = container.now();
        if now.state.status == crate::record::Status::Paused {
            return Err(Error::conflict(format!(
                "container {} is paused, unpause the container before attach",
                now.def.id
            )));
        }
        if now.state.status == crate::record::Status::Restarting {
            return Err(Error::conflict(format!(
                "container {} is restarting, wait until the container is running",
                now.def.id
            )));
        }
        let attached = container.io.attach(query).await?;
        self.container_event(&now, "attach", &[]);
        Ok(attached)
    }

    /// A client left a container by its detach keys.
    pub fn container_detached(&self, reference: &str) {
        if let Ok(container) = self.inner.registry.find(reference) {
            self.container_event(&container.now(), "detach", &[]);
        }
    }

    /// `POST /containers/{id}/resize`.
    pub async fn container_resize(&self, reference: &str, rows: u16, columns: u16) -> Result<()> {
        let container = self.inner.registry.find(reference)?;
        container.io.resize(rows, columns)?;
        let now = container.now();
        self.container_event(
            &now,
            "resize",
            &[("height", &rows.to_string()), ("width", &columns.to_string())],
        );
        std::future::ready(Ok(())).await
    }

    /// Whether a container has a terminal; decides the content type of its streams.
    pub fn container_tty(&self, reference: &str) -> Result<bool> {
        Ok(self.inner.registry.find(reference)?.now().def.config.tty == Some(true))
    }
}

/// Reads a create body from JSON whose field names are in Docker's own case: a string where a list of strings may
/// stand, nulls, and Docker's texts for words that are none of an enumeration's.
pub fn create_body(mut json: Value) -> Result<ContainerCreateBody> {
    if let Value::Object(map) = &mut json {
        for key in ["Cmd", "Entrypoint", "Shell"] {
            if let Some(value @ Value::String(_)) = map.get_mut(key) {
                *value = Value::Array(vec![value.take()]);
            }
        }
        // Objects that are only sets of names.
        if let Some(Value::Object(host)) = map.get_mut("HostConfig") {
            words(host)?;
        }
    }
    serde_json::from_value(json).map_err(|e| Error::invalid(format!("invalid JSON: {e}")))
}

fn words(host: &mut serde_json::Map<String, Value>) -> Result<()> {
    if let Some(name) = host.get("RestartPolicy").and_then(|p| p.get("Name")).and_then(Value::as_str)
        && !matches!(name, "" | "no" | "always" | "on-failure" | "unless-stopped")
    {
        return Err(Error::invalid(format!(
            "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or \
             'unless-stopped'"
        )));
    }
    if let Some(mode) = host.get("CgroupnsMode").and_then(Value::as_str)
        && !matches!(mode, "" | "private" | "host")
    {
        return Err(Error::invalid(format!("invalid cgroup namespace mode: {mode}")));
    }
    if let Some(isolation) = host.get("Isolation").and_then(Value::as_str)
        && !matches!(isolation, "" | "default")
    {
        return Err(Error::invalid(format!(
            "invalid isolation ({isolation}): only 'default' is supported on linux"
        )));
    }
    for mount in host.get("Mounts").and_then(Value::as_array).into_iter().flatten() {
        if let Some(kind) = mount.get("Type").and_then(Value::as_str)
            && !matches!(kind, "bind" | "volume" | "tmpfs" | "image" | "npipe" | "cluster")
        {
            return Err(Error::invalid(format!("mount type unknown: {kind:?}")));
        }
        if let Some(word) =
            mount.get("BindOptions").and_then(|b| b.get("Propagation")).and_then(Value::as_str)
            && !matches!(word, "" | "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave")
        {
            return Err(Error::invalid(format!(
                "invalid mount config for type \"bind\": invalid propagation mode: {word}"
            )));
        }
    }
    // Some clients send an empty list where Go has an empty map.
    for key in ["PortBindings", "Tmpfs", "Sysctls", "StorageOpt"] {
        if host.get(key).is_some_and(Value::is_array) {
            host.remove(key);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies() {
        let body = create_body(
            json!({"Image": "x", "Cmd": "ls", "Entrypoint": null, "HostConfig": {"Binds": null}}),
        )
        .unwrap();
        assert_eq!(body.cmd, Some(vec!["ls".to_owned()]));
        for (bad, text) in [
            (
                json!({"HostConfig": {"RestartPolicy": {"Name": "x"}}}),
                "invalid restart policy: unknown policy 'x'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
            ),
            (json!({"HostConfig": {"CgroupnsMode": "x"}}), "invalid cgroup namespace mode: x"),
            (json!({"HostConfig": {"Mounts": [{"Type": "x"}]}}), "mount type unknown: \"x\""),
        ] {
            assert_eq!(create_body(bad).unwrap_err().message, text);
        }
        assert_eq!(create_body(json!({"Image": 5})).unwrap_err().kind, crate::Kind::Invalid);
        assert_eq!(create_body(json!([])).unwrap_err().kind, crate::Kind::Invalid);
    }
}
