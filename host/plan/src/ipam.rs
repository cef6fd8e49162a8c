//! Address pools.
//!
//! Values of `wit/deps/network.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::net::{Cidr, Ip};
use crate::types::{ContainerRef, Cookie, Labels};
/// `family` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// `ipv4`.
    #[cfg_attr(feature = "component", component(name = "ipv4"))]
    Ipv4,
    /// `ipv6`.
    #[cfg_attr(feature = "component", component(name = "ipv6"))]
    Ipv6,
}

/// `spaces` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Spaces {
    /// `local`.
    pub local: String,
    /// `cluster`.
    pub cluster: String,
}

/// `pool-request` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct PoolRequest {
    /// `space`.
    pub space: String,
    /// `family`.
    pub family: Family,
    /// `pool`.
    pub pool: Option<Cidr>,
    /// `sub-pool`.
    #[cfg_attr(feature = "component", component(name = "sub-pool"))]
    pub sub_pool: Option<Cidr>,
    /// Prefixes in use on this host, sorted.
    pub exclude: Vec<Cidr>,
    /// `options`.
    pub options: Labels,
    /// `network-name`.
    #[cfg_attr(feature = "component", component(name = "network-name"))]
    pub network_name: String,
}

/// `pool` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Pool {
    /// `id`.
    pub id: String,
    /// `cidr`.
    pub cidr: Cidr,
    /// `gateway`.
    pub gateway: Option<Cidr>,
    /// `facts`.
    pub facts: Labels,
    /// `cookie`.
    pub cookie: Cookie,
}

/// `purpose` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// `gateway`.
    #[cfg_attr(feature = "component", component(name = "gateway"))]
    Gateway,
    /// `endpoint`.
    #[cfg_attr(feature = "component", component(name = "endpoint"))]
    Endpoint,
    /// `reserved`.
    #[cfg_attr(feature = "component", component(name = "reserved"))]
    Reserved,
}

/// `address-request` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct AddressRequest {
    /// `pool`.
    pub pool: Pool,
    /// `purpose`.
    pub purpose: Purpose,
    /// `wanted`.
    pub wanted: Option<Ip>,
    /// `mac`.
    pub mac: Option<String>,
    /// `container`.
    pub container: Option<ContainerRef>,
    /// Equal keys should get equal addresses across recreate.
    #[cfg_attr(feature = "component", component(name = "sticky-key"))]
    pub sticky_key: Option<String>,
    /// `options`.
    pub options: Labels,
}

/// `lease` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Lease {
    /// `address`.
    pub address: Cidr,
    /// `facts`.
    pub facts: Labels,
    /// `cookie`.
    pub cookie: Cookie,
}

/// `usage` of the contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Usage {
    /// `total`.
    pub total: u64,
    /// `used`.
    pub used: u64,
}
