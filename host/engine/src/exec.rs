//! Further processes in a container. The stream part is in `io`.

use crate::models::{ExecConfig, ExecInspectResponse, ExecStartConfig, IdResponse};
use crate::{Caller, Engine, Error, Result};

impl Engine {
    /// `POST /containers/{id}/exec`.
    pub async fn exec_create(
        &self,
        container: &str,
        config: ExecConfig,
        caller: &Caller,
    ) -> Result<IdResponse> {
        let _ = (container, config, caller);
        Err(Error::unsupported("exec"))
    }

    /// `GET /exec/{id}/json`; `ExitCode` is null while it runs.
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecInspectResponse> {
        let _ = id;
        Err(Error::unsupported("exec"))
    }

    /// `POST /exec/{id}/start`: both directions of an attached client, nothing for a detached one.
    pub async fn exec_start(
        &self,
        id: &str,
        config: ExecStartConfig,
        caller: &Caller,
    ) -> Result<Option<(crate::io::Output, Option<crate::io::Stdin>)>> {
        let _ = (id, config, caller);
        Err(Error::unsupported("exec"))
    }

    /// `POST /exec/{id}/resize`.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let _ = (id, rows, columns);
        Err(Error::unsupported("exec"))
    }
}
