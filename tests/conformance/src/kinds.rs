//! One adapter per kind.

use std::sync::Arc;

use wharf_plan::{ipam as plan_ipam, logs as plan_logs, network as plan_network, storage as plan_storage};
use wharf_plugin_sdk::types::{Cookie, Labels};
use wharf_plugin_sdk::{Host, Result, codec, files, ipam, net, network, storage};

use crate::{Sandbox, convert};

macro_rules! adapter {
    ($(#[$doc:meta])* $name:ident: $method:ident -> $handle:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            sandbox: Sandbox,
            handle: $handle,
        }

        impl $name {
            /// The plugin that answers to this driver name.
            pub fn new(sandbox: &Sandbox, driver: &str) -> Self {
                let handle = sandbox.plugins().$method(driver).unwrap_or_else(|error| panic!("{error}"));
                Self { sandbox: sandbox.clone(), handle }
            }
        }
    };
}

adapter! {
    /// A storage driver.
    Storage: storage -> wharf_plugins::Storage
}
adapter! {
    /// A network driver.
    Network: network -> wharf_plugins::Network
}
adapter! {
    /// An address manager.
    Ipam: ipam -> wharf_plugins::Ipam
}
adapter! {
    /// A log format.
    Codec: codec -> wharf_plugins::Codec
}

impl storage::Driver for Storage {
    fn probe(
        &self,
        host: &dyn Host,
        facts: &storage::HostFacts,
        options: &Labels,
    ) -> Result<storage::Capabilities> {
        let facts: plan_storage::HostFacts = convert(facts);
        self.sandbox.call(host, async |call| self.handle.probe(call, &facts, options).await)
    }

    fn prepare(&self, host: &dyn Host, request: &storage::PrepareRequest) -> Result<storage::Prepared> {
        let request: plan_storage::PrepareRequest = convert(request);
        self.sandbox.call(host, async |call| self.handle.prepare(call, &request).await)
    }

    fn mounts(
        &self,
        host: &dyn Host,
        snapshot: &storage::Snapshot,
        lineage: &[storage::Snapshot],
        purpose: storage::Purpose,
    ) -> Result<storage::Stack> {
        let snapshot: plan_storage::Snapshot = convert(snapshot);
        let lineage: Vec<plan_storage::Snapshot> = convert(lineage);
        let purpose: plan_storage::Purpose = convert(&purpose);
        self.sandbox.call(host, async |call| self.handle.mounts(call, &snapshot, &lineage, purpose).await)
    }

    fn commit(
        &self,
        host: &dyn Host,
        active: &storage::Snapshot,
        name: &str,
        lineage: &[storage::Snapshot],
    ) -> Result<storage::Prepared> {
        let active: plan_storage::Snapshot = convert(active);
        let lineage: Vec<plan_storage::Snapshot> = convert(lineage);
        self.sandbox.call(host, async |call| self.handle.commit(call, &active, name, &lineage).await)
    }

    fn remove(&self, host: &dyn Host, snapshot: &storage::Snapshot) -> Result<Vec<files::Op>> {
        let snapshot: plan_storage::Snapshot = convert(snapshot);
        self.sandbox.call(host, async |call| self.handle.remove(call, &snapshot).await)
    }

    fn claim_layer(
        &self,
        host: &dyn Host,
        layer: &storage::Layer,
        lineage: &[storage::Snapshot],
    ) -> Result<storage::Claim> {
        let layer: plan_storage::Layer = convert(layer);
        let lineage: Vec<plan_storage::Snapshot> = convert(lineage);
        self.sandbox.call(host, async |call| self.handle.claim_layer(call, &layer, &lineage).await)
    }

    fn collect(&self, host: &dyn Host, live: &[String], found: &[String]) -> Result<Vec<files::Op>> {
        self.sandbox.call(host, async |call| self.handle.collect(call, live, found).await)
    }

    fn describe(&self, host: &dyn Host, snapshot: &storage::Snapshot) -> Result<String> {
        let snapshot: plan_storage::Snapshot = convert(snapshot);
        self.sandbox.call(host, async |call| self.handle.describe(call, &snapshot).await)
    }
}

impl network::Driver for Network {
    fn capabilities(&self, host: &dyn Host) -> Result<network::Capabilities> {
        self.sandbox.call(host, async |call| self.handle.capabilities(call).await)
    }

    fn gateways(&self, host: &dyn Host, options: &Labels) -> Result<network::GatewayNeed> {
        self.sandbox.call(host, async |call| self.handle.gateways(call, options).await)
    }

    fn plan_network(
        &self,
        host: &dyn Host,
        network: &network::Network,
        peers: &[network::Peer],
    ) -> Result<network::NetworkPlan> {
        let network: plan_network::Network = convert(network);
        let peers: Vec<plan_network::Peer> = convert(peers);
        self.sandbox.call(host, async |call| self.handle.plan_network(call, &network, &peers).await)
    }

    fn plan_endpoint(
        &self,
        host: &dyn Host,
        network: &network::Network,
        endpoint: &network::Endpoint,
        peers: &[network::Peer],
    ) -> Result<network::EndpointPlan> {
        let network: plan_network::Network = convert(network);
        let endpoint: plan_network::Endpoint = convert(endpoint);
        let peers: Vec<plan_network::Peer> = convert(peers);
        self.sandbox.call(host, async |call| {
            // An endpoint's plan is checked against its network's.
            let within = self.handle.plan_network(call, &network, &peers).await?.value.state;
            let call = call.clone().within(Arc::new(within));
            self.handle.plan_endpoint(&call, &network, &endpoint, &peers).await
        })
    }
}

impl ipam::Driver for Ipam {
    fn address_spaces(&self, host: &dyn Host) -> Result<ipam::Spaces> {
        self.sandbox.call(host, async |call| self.handle.address_spaces(call).await)
    }

    fn request_pool(&self, host: &dyn Host, request: &ipam::PoolRequest) -> Result<ipam::Pool> {
        let request: plan_ipam::PoolRequest = convert(request);
        self.sandbox.call(host, async |call| self.handle.request_pool(call, &request).await)
    }

    fn release_pool(&self, host: &dyn Host, pool: &ipam::Pool) -> Result<()> {
        let pool: plan_ipam::Pool = convert(pool);
        self.sandbox.call(host, async |call| self.handle.release_pool(call, &pool).await)
    }

    fn request_addresses(
        &self,
        host: &dyn Host,
        requests: &[ipam::AddressRequest],
    ) -> Result<Vec<ipam::Lease>> {
        let requests: Vec<plan_ipam::AddressRequest> = convert(requests);
        self.sandbox.call(host, async |call| self.handle.request_addresses(call, &requests).await)
    }

    fn release_addresses(&self, host: &dyn Host, pool: &ipam::Pool, leases: &[ipam::Lease]) -> Result<()> {
        let pool: plan_ipam::Pool = convert(pool);
        let leases: Vec<plan_ipam::Lease> = convert(leases);
        self.sandbox.call(host, async |call| self.handle.release_addresses(call, &pool, &leases).await)
    }

    fn usage(&self, host: &dyn Host, pool: &ipam::Pool) -> Result<ipam::Usage> {
        let pool: plan_ipam::Pool = convert(pool);
        self.sandbox.call(host, async |call| self.handle.pool_usage(call, &pool).await)
    }

    fn reconcile(&self, host: &dyn Host, pool: &ipam::Pool, live: &[ipam::Lease]) -> Result<Vec<net::Ip>> {
        let pool: plan_ipam::Pool = convert(pool);
        let live: Vec<plan_ipam::Lease> = convert(live);
        self.sandbox.call(host, async |call| self.handle.reconcile(call, &pool, &live).await)
    }
}

impl codec::Codec for Codec {
    fn open(&self, host: &dyn Host, source: &codec::Source) -> Result<codec::Format> {
        let source: plan_logs::Source = convert(source);
        self.sandbox.call(host, async |call| self.handle.open(call, &source).await)
    }

    fn encode(&self, host: &dyn Host, chunks: &[codec::Chunk]) -> Result<Vec<Vec<u8>>> {
        let chunks: Vec<plan_logs::Chunk> = convert(chunks);
        self.sandbox.call(host, async |call| self.handle.encode(call, &chunks).await)
    }

    fn decode(&self, host: &dyn Host, cookie: &Cookie, data: &[u8]) -> Result<codec::Decoded> {
        self.sandbox.call(host, async |call| self.handle.decode(call, cookie, data).await)
    }
}
