//! Operations on volumes.

use crate::models::{Volume, VolumeCreateRequest, VolumeListResponse, VolumePruneResponse};
use crate::{Engine, Error, Filters, Result};

impl Engine {
    /// `GET /volumes`.
    pub async fn volume_list(&self, filters: &Filters) -> Result<VolumeListResponse> {
        let _ = filters;
        Err(Error::unsupported("volume list"))
    }

    /// `GET /volumes/{name}`.
    pub async fn volume_inspect(&self, name: &str) -> Result<Volume> {
        let _ = name;
        Err(Error::unsupported("volume inspect"))
    }

    /// `POST /volumes/create`; answers the one there is when name and driver are the same.
    pub async fn volume_create(&self, body: VolumeCreateRequest) -> Result<Volume> {
        let _ = body;
        Err(Error::unsupported("volume create"))
    }

    /// `DELETE /volumes/{name}`.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let _ = (name, force);
        Err(Error::unsupported("volume remove"))
    }

    /// `POST /volumes/prune`; `all` is what API versions before 1.42 mean.
    pub async fn volume_prune(&self, filters: &Filters, all: bool) -> Result<VolumePruneResponse> {
        let _ = (filters, all);
        Err(Error::unsupported("volume prune"))
    }
}
