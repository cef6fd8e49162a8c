//! Plans about links, addresses, routes and rules.
//!
//! Values of `wit/deps/plan.wit`; the words there are the specification.

use serde::{Deserialize, Serialize};
#[cfg(feature = "component")]
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::types::Labels;

mod check;
mod diff;
mod forward;
mod prefix;
mod show;
mod state;
#[cfg(test)]
mod tests;

pub use check::{NetGrants, Refused, Scope, parse_mac, validate};
pub use diff::{Change, diff};
pub use forward::{Carrier, Change as ForwardChange, Forward, Owned as OwnedForward, carrier, forwards};
pub use prefix::{NotAPrefix, Prefix};
pub use state::{Item, Kind, LinkName, LinkRef, LinkState, RouteState, items};

/// `10.1.2.3/24`, `fd00::1/64`; canonical text form.
pub type Cidr = String;

/// `ip` of the contract.
pub type Ip = String;

/// Index into `links` of the same plan.
pub type LinkIndex = u32;

/// Which network namespace a link ends up in. `hub` is a private namespace per
/// network that only this plugin's plans reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Site {
    /// `host`.
    #[cfg_attr(feature = "component", component(name = "host"))]
    Host,
    /// `hub`.
    #[cfg_attr(feature = "component", component(name = "hub"))]
    Hub,
    /// `container`.
    #[cfg_attr(feature = "component", component(name = "container"))]
    Container,
}

/// `name` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// `exact`.
    #[cfg_attr(feature = "component", component(name = "exact"))]
    Exact(String),
    /// `generated`.
    #[cfg_attr(feature = "component", component(name = "generated"))]
    Generated(String),
}

/// `bridge` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Bridge {
    /// `vlan-filtering`.
    #[cfg_attr(feature = "component", component(name = "vlan-filtering"))]
    pub vlan_filtering: bool,
    /// `stp`.
    pub stp: bool,
    /// `multicast-snooping`.
    #[cfg_attr(feature = "component", component(name = "multicast-snooping"))]
    pub multicast_snooping: bool,
}

/// `vlan` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Vlan {
    /// `parent`.
    pub parent: LinkIndex,
    /// `id`.
    pub id: u16,
}

/// `child` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Child {
    /// `parent`.
    pub parent: LinkIndex,
    /// `mode`.
    pub mode: String,
}

/// `vxlan` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Vxlan {
    /// `vni`.
    pub vni: u32,
    /// `port`.
    pub port: u16,
    /// `local`.
    pub local: Option<Ip>,
    /// `learning`.
    pub learning: bool,
}

/// `wireguard` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Wireguard {
    /// `private-key-secret`.
    #[cfg_attr(feature = "component", component(name = "private-key-secret"))]
    pub private_key_secret: String,
    /// `port`.
    pub port: u16,
    /// `peers`.
    pub peers: Vec<WgPeer>,
}

/// `wg-peer` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct WgPeer {
    /// `public-key`.
    #[cfg_attr(feature = "component", component(name = "public-key"))]
    pub public_key: String,
    /// `endpoint`.
    pub endpoint: Option<String>,
    /// `allowed`.
    pub allowed: Vec<Cidr>,
}

/// `link-kind` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(variant))]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// `bridge`.
    #[cfg_attr(feature = "component", component(name = "bridge"))]
    Bridge(Bridge),
    /// The peer is the next link in the list.
    #[cfg_attr(feature = "component", component(name = "veth"))]
    Veth,
    /// `veth-peer`.
    #[cfg_attr(feature = "component", component(name = "veth-peer"))]
    VethPeer,
    /// `macvlan`.
    #[cfg_attr(feature = "component", component(name = "macvlan"))]
    Macvlan(Child),
    /// `ipvlan`.
    #[cfg_attr(feature = "component", component(name = "ipvlan"))]
    Ipvlan(Child),
    /// `vlan`.
    #[cfg_attr(feature = "component", component(name = "vlan"))]
    Vlan(Vlan),
    /// `vxlan`.
    #[cfg_attr(feature = "component", component(name = "vxlan"))]
    Vxlan(Vxlan),
    /// `wireguard`.
    #[cfg_attr(feature = "component", component(name = "wireguard"))]
    Wireguard(Wireguard),
    /// `dummy`.
    #[cfg_attr(feature = "component", component(name = "dummy"))]
    Dummy,
    /// `tap`.
    #[cfg_attr(feature = "component", component(name = "tap"))]
    Tap,
    /// `vrf`.
    #[cfg_attr(feature = "component", component(name = "vrf"))]
    Vrf(u32),
    /// A host link granted under this name: used, never removed.
    #[cfg_attr(feature = "component", component(name = "granted"))]
    Granted(String),
    /// A granted device moved into the container and back afterwards.
    #[cfg_attr(feature = "component", component(name = "moved"))]
    Moved(String),
    /// Kind newer than this package: netlink kind name and attributes.
    #[cfg_attr(feature = "component", component(name = "other"))]
    Other((String, Labels)),
}

/// `link` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Link {
    /// `kind`.
    pub kind: LinkKind,
    /// `name`.
    pub name: Name,
    /// `site`.
    pub site: Site,
    /// `up`.
    pub up: bool,
    /// `mtu`.
    pub mtu: Option<u32>,
    /// `mac`.
    pub mac: Option<String>,
    /// `controller`.
    pub controller: Option<LinkIndex>,
    /// Port options when enslaved: isolated, hairpin, vlan ids.
    pub port: Labels,
    /// `sysctls`.
    pub sysctls: Labels,
}

/// `address` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Address {
    /// `link`.
    pub link: LinkIndex,
    /// `cidr`.
    pub cidr: Cidr,
    /// `no-dad`.
    #[cfg_attr(feature = "component", component(name = "no-dad"))]
    pub no_dad: bool,
}

/// The host runs the DHCP or SLAAC client, renews, and reports changes through
/// a new `plan-endpoint` call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Dynamic {
    /// `link`.
    pub link: LinkIndex,
    /// `ipv4`.
    pub ipv4: bool,
    /// `ipv6`.
    pub ipv6: bool,
    /// `client-id`.
    #[cfg_attr(feature = "component", component(name = "client-id"))]
    pub client_id: Option<String>,
}

/// `route` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Route {
    /// `site`.
    pub site: Site,
    /// `destination`.
    pub destination: Cidr,
    /// `via`.
    pub via: Option<Ip>,
    /// `link`.
    pub link: Option<LinkIndex>,
    /// `metric`.
    pub metric: Option<u32>,
    /// `table`.
    pub table: Option<u32>,
    /// `source`.
    pub source: Option<Ip>,
}

/// `neighbor` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Neighbor {
    /// `link`.
    pub link: LinkIndex,
    /// `ip`.
    pub ip: Ip,
    /// `mac`.
    pub mac: String,
}

/// `fdb` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Fdb {
    /// `link`.
    pub link: LinkIndex,
    /// `mac`.
    pub mac: String,
    /// `destination`.
    pub destination: Ip,
}

/// `protocol` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// `tcp`.
    #[cfg_attr(feature = "component", component(name = "tcp"))]
    Tcp,
    /// `udp`.
    #[cfg_attr(feature = "component", component(name = "udp"))]
    Udp,
    /// `sctp`.
    #[cfg_attr(feature = "component", component(name = "sctp"))]
    Sctp,
}

/// `publish` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Publish {
    /// `protocol`.
    pub protocol: Protocol,
    /// Empty means every address of that family the grant allows.
    #[cfg_attr(feature = "component", component(name = "host-ip"))]
    pub host_ip: Option<Ip>,
    /// 0 = host picks a free one and reports it.
    #[cfg_attr(feature = "component", component(name = "host-port"))]
    pub host_port: u16,
    /// `count`.
    pub count: u16,
    /// `container-ip`.
    #[cfg_attr(feature = "component", component(name = "container-ip"))]
    pub container_ip: Ip,
    /// `container-port`.
    #[cfg_attr(feature = "component", component(name = "container-port"))]
    pub container_port: u16,
}

/// `masquerade` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Masquerade {
    /// `from-cidr`.
    #[cfg_attr(feature = "component", component(name = "from-cidr"))]
    pub from_cidr: Cidr,
    /// `out`.
    pub out: Option<LinkIndex>,
    /// `to-source`.
    #[cfg_attr(feature = "component", component(name = "to-source"))]
    pub to_source: Option<Ip>,
}

/// `action` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// `accept`.
    #[cfg_attr(feature = "component", component(name = "accept"))]
    Accept,
    /// `drop`.
    #[cfg_attr(feature = "component", component(name = "drop"))]
    Drop,
    /// `reject`.
    #[cfg_attr(feature = "component", component(name = "reject"))]
    Reject,
}

/// `hook` of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(enum))]
#[cfg_attr(feature = "component", repr(u8))]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// `input`.
    #[cfg_attr(feature = "component", component(name = "input"))]
    Input,
    /// `forward`.
    #[cfg_attr(feature = "component", component(name = "forward"))]
    Forward,
    /// `output`.
    #[cfg_attr(feature = "component", component(name = "output"))]
    Output,
}

/// `rule` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Rule {
    /// `hook`.
    pub hook: Hook,
    /// `priority`.
    pub priority: i32,
    /// `action`.
    pub action: Action,
    /// `protocol`.
    pub protocol: Option<Protocol>,
    /// `source`.
    pub source: Option<Cidr>,
    /// `destination`.
    pub destination: Option<Cidr>,
    /// `in-link`.
    #[cfg_attr(feature = "component", component(name = "in-link"))]
    pub in_link: Option<LinkIndex>,
    /// `out-link`.
    #[cfg_attr(feature = "component", component(name = "out-link"))]
    pub out_link: Option<LinkIndex>,
    /// `ports`.
    pub ports: Vec<(u16, u16)>,
    /// `established-only`.
    #[cfg_attr(feature = "component", component(name = "established-only"))]
    pub established_only: bool,
    /// `comment`.
    pub comment: String,
}

/// `shape` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Shape {
    /// `link`.
    pub link: LinkIndex,
    /// `rate-bps`.
    #[cfg_attr(feature = "component", component(name = "rate-bps"))]
    pub rate_bps: u64,
    /// `burst`.
    pub burst: u64,
    /// `ceil-bps`.
    #[cfg_attr(feature = "component", component(name = "ceil-bps"))]
    pub ceil_bps: Option<u64>,
}

/// `dns-record` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct DnsRecord {
    /// `name`.
    pub name: String,
    /// `addresses`.
    pub addresses: Vec<Ip>,
    /// `ttl`.
    pub ttl: u32,
    /// `aliases`.
    pub aliases: Vec<String>,
}

/// `resolver` of the contract.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Resolver {
    /// `servers`.
    pub servers: Vec<Ip>,
    /// `search`.
    pub search: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

/// Desired state of one scope (a network on this node, or one endpoint): the
/// whole of it, not a delta. The host diffs it with what it applied last, and
/// with the kernel after a crash, and makes the fewest netlink and nftables
/// changes in one batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "component", derive(ComponentType, Lift, Lower), component(record))]
pub struct Desired {
    /// `links`.
    pub links: Vec<Link>,
    /// `addresses`.
    pub addresses: Vec<Address>,
    /// `dynamic`.
    pub dynamic: Vec<Dynamic>,
    /// `routes`.
    pub routes: Vec<Route>,
    /// `neighbors`.
    pub neighbors: Vec<Neighbor>,
    /// `fdb`.
    pub fdb: Vec<Fdb>,
    /// `publishes`.
    pub publishes: Vec<Publish>,
    /// `masquerades`.
    pub masquerades: Vec<Masquerade>,
    /// `rules`.
    pub rules: Vec<Rule>,
    /// `shapes`.
    pub shapes: Vec<Shape>,
    /// `dns`.
    pub dns: Vec<DnsRecord>,
    /// `resolver`.
    pub resolver: Option<Resolver>,
}
