//! Further processes in a container. The stream part is in `io`.

use crate::models::{ExecConfig, ExecInspectResponse, IdResponse};
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

    /// `POST /exec/{id}/resize`.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let _ = (id, rows, columns);
        Err(Error::unsupported("exec"))
    }
}
