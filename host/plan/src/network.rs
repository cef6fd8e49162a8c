//! Networks and endpoints.
//!
//! Values of `wit/deps/network.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::net::{Cidr, Desired, Ip, Publish};
use crate::types::{ContainerRef, Cookie, Json, Labels};
/// `pool-binding` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct PoolBinding {
    /// `pool`.
    pub pool: Cidr,
    /// `gateway`.
    pub gateway: Option<Ip>,
    /// `reserved`.
    pub reserved: Vec<(String, Ip)>,
}

/// `network` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Network {
    /// `id`.
    pub id: String,
    /// `name`.
    pub name: String,
    /// `options`.
    pub options: Labels,
    /// `labels`.
    pub labels: Labels,
    /// `internal`.
    pub internal: bool,
    /// `ipv4`.
    pub ipv4: bool,
    /// `ipv6`.
    pub ipv6: bool,
    /// `pools`.
    pub pools: Vec<PoolBinding>,
    /// `cookie`.
    pub cookie: Cookie,
}

/// This node's member of a cluster network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Peer {
    /// `node`.
    pub node: String,
    /// `address`.
    pub address: Ip,
    /// `labels`.
    pub labels: Labels,
    /// `cookie`.
    pub cookie: Cookie,
}

/// `scope` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// `local`.
    #[cfg_attr(feature = "component", component(name = "local"))]
    Local,
    /// `cluster`.
    #[cfg_attr(feature = "component", component(name = "cluster"))]
    Cluster,
}

/// `capabilities` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Capabilities {
    /// `data-scope`.
    #[cfg_attr(feature = "component", component(name = "data-scope"))]
    pub data_scope: Scope,
    /// `connectivity-scope`.
    #[cfg_attr(feature = "component", component(name = "connectivity-scope"))]
    pub connectivity_scope: Scope,
    /// Option keys it understands; the host rejects others at create.
    #[cfg_attr(feature = "component", component(name = "option-schema"))]
    pub option_schema: Json,
    /// Keeps working when asked to enforce isolation, port publishing, ...
    pub features: Vec<String>,
}

/// `gateway-need` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct GatewayNeed {
    /// `ipv4`.
    pub ipv4: bool,
    /// `ipv6`.
    pub ipv6: bool,
}

/// `network-plan` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct NetworkPlan {
    /// `state`.
    pub state: Desired,
    /// `cookie`.
    pub cookie: Cookie,
}

/// `endpoint` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Endpoint {
    /// `id`.
    pub id: String,
    /// `container`.
    pub container: ContainerRef,
    /// Chosen by IPAM; empty if this driver does its own addressing.
    pub addresses: Vec<Cidr>,
    /// `mac`.
    pub mac: Option<String>,
    /// `interface-name`.
    #[cfg_attr(feature = "component", component(name = "interface-name"))]
    pub interface_name: Option<String>,
    /// `aliases`.
    pub aliases: Vec<String>,
    /// `options`.
    pub options: Labels,
    /// `publishes`.
    pub publishes: Vec<Publish>,
    /// Whether it is the container's way out, per family; changes while running.
    #[cfg_attr(feature = "component", component(name = "gateway-v4"))]
    pub gateway_v4: bool,
    /// `gateway-v6`.
    #[cfg_attr(feature = "component", component(name = "gateway-v6"))]
    pub gateway_v6: bool,
    /// `cookie`.
    pub cookie: Cookie,
}

/// `endpoint-plan` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct EndpointPlan {
    /// `state`.
    pub state: Desired,
    /// Reported by `inspect`.
    pub addresses: Vec<Cidr>,
    /// `mac`.
    pub mac: Option<String>,
    /// `gateway-v4`.
    #[cfg_attr(feature = "component", component(name = "gateway-v4"))]
    pub gateway_v4: Option<Ip>,
    /// `gateway-v6`.
    #[cfg_attr(feature = "component", component(name = "gateway-v6"))]
    pub gateway_v6: Option<Ip>,
    /// `facts`.
    pub facts: Labels,
    /// `cookie`.
    pub cookie: Cookie,
}
