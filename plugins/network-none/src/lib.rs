//! The network driver `none`: a container with a loopback interface and nothing else.
//!
//! The loopback interface comes with the network namespace itself, so the plan is empty.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use wharf_plugin_sdk::network::{
    Capabilities, Driver, Endpoint, EndpointPlan, Network, NetworkPlan, Peer, Scope,
};
use wharf_plugin_sdk::{Host, Result, net, types};

/// The driver.
#[derive(Debug, Default)]
pub struct Isolated;

impl Driver for Isolated {
    fn capabilities(&self, _host: &dyn Host) -> Result<Capabilities> {
        Ok(Capabilities {
            data_scope: Scope::Local,
            connectivity_scope: Scope::Local,
            option_schema: r#"{"type":"object","additionalProperties":false}"#.into(),
            features: vec!["isolation".into()],
        })
    }

    fn plan_network(&self, _host: &dyn Host, _network: &Network, _peers: &[Peer]) -> Result<NetworkPlan> {
        Ok(NetworkPlan { state: net::Desired::empty(), cookie: types::Cookie::new() })
    }

    fn plan_endpoint(
        &self,
        _host: &dyn Host,
        _network: &Network,
        _endpoint: &Endpoint,
        _peers: &[Peer],
    ) -> Result<EndpointPlan> {
        Ok(EndpointPlan {
            state: net::Desired::empty(),
            addresses: Vec::new(),
            mac: None,
            gateway_v4: None,
            gateway_v6: None,
            facts: Vec::new(),
            cookie: types::Cookie::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use wharf_plugin_sdk::conformance::{self, Subject};

    use super::*;

    #[test]
    fn conforms() {
        conformance::network(&Subject::<dyn Driver>::new(|| Box::new(Isolated)));
    }
}

wharf_plugin_sdk::export!(network: Isolated);
