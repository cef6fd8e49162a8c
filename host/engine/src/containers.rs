//! Operations on containers.

use bytes::Bytes;
use serde_json::Value;

use crate::models::{
    ContainerCreateBody, ContainerCreateResponse, ContainerPruneResponse, ContainerStatsResponse,
    ContainerTopResponse, ContainerUpdateBody, ContainerUpdateResponse, ContainerWaitResponse,
};
use crate::{
    Caller, CreateOptions, Engine, Error, Filters, ListOptions, RemoveOptions, Result, WaitCondition,
};

/// A registered wait: made before the answer's headers go out, awaited after.
#[derive(Debug)]
pub struct Waiter {
    _private: (),
}

impl Waiter {
    /// Waits for the condition.
    pub async fn wait(self) -> Result<ContainerWaitResponse> {
        Err(Error::unsupported("container wait"))
    }
}

impl Engine {
    /// `GET /containers/json`: the whole JSON answer.
    pub async fn container_list(&self, options: &ListOptions) -> Result<Bytes> {
        let _ = options;
        Err(Error::unsupported("container list"))
    }

    /// `POST /containers/create`. The body comes from [`crate::containers::create_body`].
    pub async fn container_create(
        &self,
        options: CreateOptions,
        body: ContainerCreateBody,
        caller: &Caller,
    ) -> Result<ContainerCreateResponse> {
        let _ = (options, body, caller);
        Err(Error::unsupported("container create"))
    }

    /// `POST /containers/create?plan=1`: what would be done, by whom; nothing is changed.
    pub async fn container_plan(
        &self,
        options: CreateOptions,
        body: ContainerCreateBody,
        caller: &Caller,
    ) -> Result<Value> {
        let _ = (options, body, caller);
        Err(Error::unsupported("container plan"))
    }

    /// `POST /containers/{id}/start?plan=1`.
    pub async fn container_start_plan(&self, reference: &str) -> Result<Value> {
        let _ = reference;
        Err(Error::unsupported("container plan"))
    }

    /// `GET /containers/{id}/json`, in the shape of the newest API version plus the fields that older ones have.
    pub async fn container_inspect(&self, reference: &str, size: bool) -> Result<Value> {
        let _ = (reference, size);
        Err(Error::unsupported("container inspect"))
    }

    /// `POST /containers/{id}/start`; [`crate::Kind::NotModified`] if it runs.
    pub async fn container_start(&self, reference: &str, caller: &Caller) -> Result<()> {
        let _ = (reference, caller);
        Err(Error::unsupported("container start"))
    }

    /// `POST /containers/{id}/stop`; [`crate::Kind::NotModified`] if it does not run.
    pub async fn container_stop(
        &self,
        reference: &str,
        timeout: Option<i64>,
        signal: Option<&str>,
    ) -> Result<()> {
        let _ = (reference, timeout, signal);
        Err(Error::unsupported("container stop"))
    }

    /// `POST /containers/{id}/restart`.
    pub async fn container_restart(
        &self,
        reference: &str,
        timeout: Option<i64>,
        signal: Option<&str>,
        caller: &Caller,
    ) -> Result<()> {
        let _ = (reference, timeout, signal, caller);
        Err(Error::unsupported("container restart"))
    }

    /// `POST /containers/{id}/kill`.
    pub async fn container_kill(&self, reference: &str, signal: Option<&str>) -> Result<()> {
        let _ = (reference, signal);
        Err(Error::unsupported("container kill"))
    }

    /// `POST /containers/{id}/pause`.
    pub async fn container_pause(&self, reference: &str) -> Result<()> {
        let _ = reference;
        Err(Error::unsupported("container pause"))
    }

    /// `POST /containers/{id}/unpause`.
    pub async fn container_unpause(&self, reference: &str) -> Result<()> {
        let _ = reference;
        Err(Error::unsupported("container unpause"))
    }

    /// `POST /containers/{id}/rename`.
    pub async fn container_rename(&self, reference: &str, name: &str) -> Result<()> {
        let _ = (reference, name);
        Err(Error::unsupported("container rename"))
    }

    /// `POST /containers/{id}/update`.
    pub async fn container_update(
        &self,
        reference: &str,
        body: ContainerUpdateBody,
    ) -> Result<ContainerUpdateResponse> {
        let _ = (reference, body);
        Err(Error::unsupported("container update"))
    }

    /// `DELETE /containers/{id}`.
    pub async fn container_remove(&self, reference: &str, options: RemoveOptions) -> Result<()> {
        let _ = (reference, options);
        Err(Error::unsupported("container remove"))
    }

    /// `POST /containers/{id}/wait`, first half: registers, so that no exit after this is missed.
    pub async fn container_wait(&self, reference: &str, condition: WaitCondition) -> Result<Waiter> {
        let _ = (reference, condition);
        Err(Error::unsupported("container wait"))
    }

    /// `GET /containers/{id}/top`.
    pub async fn container_top(&self, reference: &str, ps_args: &str) -> Result<ContainerTopResponse> {
        let _ = (reference, ps_args);
        Err(Error::unsupported("container top"))
    }

    /// One sample of `GET /containers/{id}/stats`; `previous` becomes its `precpu_stats`.
    pub async fn container_stats(
        &self,
        reference: &str,
        previous: Option<&ContainerStatsResponse>,
    ) -> Result<ContainerStatsResponse> {
        let _ = (reference, previous);
        Err(Error::unsupported("container stats"))
    }

    /// `GET /containers/{id}/logs`.
    pub async fn container_logs(
        &self,
        reference: &str,
        query: crate::io::LogQuery,
    ) -> Result<crate::io::Output> {
        let _ = (reference, query);
        Err(Error::unsupported("container logs"))
    }

    /// `POST /containers/{id}/attach`. The container need not run yet.
    pub async fn container_attach(
        &self,
        reference: &str,
        query: crate::io::AttachQuery,
    ) -> Result<crate::io::Attached> {
        let _ = (reference, query);
        Err(Error::unsupported("container attach"))
    }

    /// `POST /containers/{id}/resize`.
    pub async fn container_resize(&self, reference: &str, rows: u16, columns: u16) -> Result<()> {
        let _ = (reference, rows, columns);
        Err(Error::unsupported("container resize"))
    }

    /// `POST /containers/prune`.
    pub async fn container_prune(&self, filters: &Filters) -> Result<ContainerPruneResponse> {
        let _ = filters;
        Err(Error::unsupported("container prune"))
    }
}

/// Reads a create body from JSON whose field names are in Docker's own case: a string where a list of strings may
/// stand, nulls, and Docker's texts for words that are none of an enumeration's.
pub fn create_body(json: Value) -> Result<ContainerCreateBody> {
    serde_json::from_value(json).map_err(|e| Error::invalid(e.to_string()))
}
