//! Network drivers.

use crate::Result;
use crate::bindings::network::exports::wharf::network::driver::Guest;
use crate::host::{Host, enter};
use crate::types::{Cookie, Labels};

pub use crate::bindings::host::wharf::network::types::{Network, Peer, PoolBinding};
pub use crate::bindings::network::exports::wharf::network::driver::{
    Capabilities, Endpoint, EndpointPlan, GatewayNeed, NetworkPlan, Scope,
};

/// A network driver: says which links, addresses and rules there shall be.
pub trait Driver {
    /// What it can do and which options it understands.
    fn capabilities(&self, host: &dyn Host) -> Result<Capabilities>;
    /// Which gateway addresses to reserve, before any address is asked for.
    fn gateways(&self, _host: &dyn Host, _options: &Labels) -> Result<GatewayNeed> {
        Ok(GatewayNeed { ipv4: false, ipv6: false })
    }
    /// Facts that hold on every node of a cluster.
    fn allocate(&self, _host: &dyn Host, _network: &Network) -> Result<Cookie> {
        Ok(Cookie::new())
    }
    /// Gives those facts back.
    fn release(&self, _host: &dyn Host, _network: &Network) -> Result<()> {
        Ok(())
    }
    /// The whole of what this node needs for the network. Pure.
    fn plan_network(&self, host: &dyn Host, network: &Network, peers: &[Peer]) -> Result<NetworkPlan>;
    /// The whole of what one endpoint needs. Pure.
    fn plan_endpoint(
        &self,
        host: &dyn Host,
        network: &Network,
        endpoint: &Endpoint,
        peers: &[Peer],
    ) -> Result<EndpointPlan>;
    /// The host has removed the endpoint.
    fn endpoint_gone(&self, _host: &dyn Host, _network: &Network, _endpoint: &Endpoint) -> Result<()> {
        Ok(())
    }
    /// The host has removed the network.
    fn network_gone(&self, _host: &dyn Host, _network: &Network) -> Result<()> {
        Ok(())
    }
}

/// A driver as an exported interface; [`crate::export!`] makes it.
#[derive(Debug)]
pub struct Component<D>(std::marker::PhantomData<D>);

impl<D: Driver + Default> Guest for Component<D> {
    fn get_capabilities() -> Result<Capabilities> {
        D::default().capabilities(enter())
    }
    fn gateways(options: Labels) -> Result<GatewayNeed> {
        D::default().gateways(enter(), &options)
    }
    fn allocate(network: Network) -> Result<Cookie> {
        D::default().allocate(enter(), &network)
    }
    fn release(network: Network) -> Result<()> {
        D::default().release(enter(), &network)
    }
    fn plan_network(network: Network, peers: Vec<Peer>) -> Result<NetworkPlan> {
        D::default().plan_network(enter(), &network, &peers)
    }
    fn plan_endpoint(network: Network, endpoint: Endpoint, peers: Vec<Peer>) -> Result<EndpointPlan> {
        D::default().plan_endpoint(enter(), &network, &endpoint, &peers)
    }
    fn endpoint_gone(network: Network, endpoint: Endpoint) -> Result<()> {
        D::default().endpoint_gone(enter(), &network, &endpoint)
    }
    fn network_gone(network: Network) -> Result<()> {
        D::default().network_gone(enter(), &network)
    }
}
