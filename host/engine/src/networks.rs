//! Operations on networks.

use serde_json::Value;

use crate::models::{
    NetworkConnectRequest, NetworkCreateRequest, NetworkCreateResponse, NetworkDisconnectRequest,
    NetworkPruneResponse,
};
use crate::{Engine, Error, Filters, Result};

impl Engine {
    /// `GET /networks`.
    pub async fn network_list(&self, filters: &Filters) -> Result<Vec<Value>> {
        let _ = filters;
        Err(Error::unsupported("network list"))
    }

    /// `GET /networks/{id}`.
    pub async fn network_inspect(&self, reference: &str) -> Result<Value> {
        let _ = reference;
        Err(Error::unsupported("network inspect"))
    }

    /// `POST /networks/create`.
    pub async fn network_create(&self, body: NetworkCreateRequest) -> Result<NetworkCreateResponse> {
        let _ = body;
        Err(Error::unsupported("network create"))
    }

    /// `POST /networks/create?plan=1`.
    pub async fn network_plan(&self, body: NetworkCreateRequest) -> Result<Value> {
        let _ = body;
        Err(Error::unsupported("network plan"))
    }

    /// `DELETE /networks/{id}`.
    pub async fn network_remove(&self, reference: &str) -> Result<()> {
        let _ = reference;
        Err(Error::unsupported("network remove"))
    }

    /// `POST /networks/{id}/connect`.
    pub async fn network_connect(&self, reference: &str, body: NetworkConnectRequest) -> Result<()> {
        let _ = (reference, body);
        Err(Error::unsupported("network connect"))
    }

    /// `POST /networks/{id}/disconnect`.
    pub async fn network_disconnect(&self, reference: &str, body: NetworkDisconnectRequest) -> Result<()> {
        let _ = (reference, body);
        Err(Error::unsupported("network disconnect"))
    }

    /// `POST /networks/prune`.
    pub async fn network_prune(&self, filters: &Filters) -> Result<NetworkPruneResponse> {
        let _ = filters;
        Err(Error::unsupported("network prune"))
    }
}
