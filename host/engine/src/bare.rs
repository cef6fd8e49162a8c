//! `host` and `none`: networks that no driver makes an endpoint in, but that clients read like any other.

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::Engine;
use crate::inspect::endpoint_settings;
use crate::models::EndpointSettings;
use crate::planner::{modes, names};
use crate::record::Endpoint;
use crate::registry::Now;

/// The network of a container that is in `host` or `none`.
fn network(now: &Now) -> Option<&'static str> {
    match now.blueprint.network {
        modes::NetworkMode::Host => Some("host"),
        modes::NetworkMode::None => Some("none"),
        _ => None,
    }
}

/// A running container's place in the network `host` or `none` of this name. Its id is another with each start.
pub(crate) fn endpoint(now: &Now, name: &str) -> Option<Endpoint> {
    if network(now) != Some(name) || !now.state.status.is_alive() {
        return None;
    }
    let mut hash = Sha256::new();
    for part in [now.def.id.as_bytes(), name.as_bytes(), &now.state.run.to_be_bytes()] {
        hash.update(part);
    }
    Some(Endpoint { id: names::hex(&hash.finalize()), network: name.to_owned(), ..Endpoint::default() })
}

impl Engine {
    /// Tells that a container comes into `host` or `none`, or leaves it, if it is in one of them.
    pub(crate) fn bare_event(&self, now: &Now, action: &str) {
        let Some(Ok(object)) = network(now).map(|name| self.inner.networks.find(name)) else { return };
        self.network_event(&object.record(), action, &[("container", &now.def.id)]);
    }

    /// `NetworkSettings.Networks` of inspect and list.
    pub(crate) fn shown_networks(&self, now: &Now) -> Map<String, Value> {
        let mut networks: Map<String, Value> = now
            .def
            .networks
            .iter()
            .map(|(name, asked)| (name.clone(), endpoint_settings(self, now, name, asked)))
            .collect();
        if let Some(name) = network(now) {
            let mut value = endpoint_settings(self, now, name, &EndpointSettings::default());
            if let (Some(endpoint), Some(map)) = (endpoint(now, name), value.as_object_mut()) {
                map.insert("EndpointID".into(), endpoint.id.into());
            }
            networks.insert(name.to_owned(), value);
        }
        networks
    }
}
