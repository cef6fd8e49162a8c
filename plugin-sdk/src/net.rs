//! The vocabulary of plans about the network, and short ways to write them.

use std::net::IpAddr;

pub use crate::bindings::host::wharf::plan::net::*;

impl Desired {
    /// Nothing at all.
    pub fn empty() -> Self {
        Self {
            links: Vec::new(),
            addresses: Vec::new(),
            dynamic: Vec::new(),
            routes: Vec::new(),
            neighbors: Vec::new(),
            fdb: Vec::new(),
            publishes: Vec::new(),
            masquerades: Vec::new(),
            rules: Vec::new(),
            shapes: Vec::new(),
            dns: Vec::new(),
            resolver: None,
        }
    }

    /// Adds a link and returns its index.
    pub fn link(&mut self, link: Link) -> LinkIndex {
        let index = u32::try_from(self.links.len()).unwrap_or(u32::MAX);
        self.links.push(link);
        index
    }

    /// Adds a pair of links; the second is where the first's packets come out.
    pub fn veth(&mut self, near: Link, far: Link) -> (LinkIndex, LinkIndex) {
        (self.link(near), self.link(far))
    }

    /// Gives a link an address.
    pub fn address(&mut self, link: LinkIndex, cidr: impl Into<String>) {
        self.addresses.push(Address { link, cidr: cidr.into(), no_dad: true });
    }

    /// A way out of the container, by the family of `via`.
    pub fn default_route(&mut self, site: Site, via: IpAddr, link: LinkIndex) {
        self.routes.push(Route {
            site,
            destination: if via.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.to_owned(),
            via: Some(via.to_string()),
            link: Some(link),
            metric: None,
            table: None,
            source: None,
        });
    }
}

impl Link {
    /// A link that shall be up.
    pub fn new(kind: LinkKind, name: Name, site: Site) -> Self {
        Self {
            kind,
            name,
            site,
            up: true,
            mtu: None,
            mac: None,
            controller: None,
            port: Vec::new(),
            sysctls: Vec::new(),
        }
    }

    /// A bridge on the host.
    pub fn bridge(name: impl Into<String>) -> Self {
        let kind = LinkKind::Bridge(Bridge { vlan_filtering: false, stp: false, multicast_snooping: true });
        Self::new(kind, Name::Exact(name.into()), Site::Host)
    }

    /// A link that is there already, under this name on the host.
    pub fn granted(name: impl Into<String>) -> Self {
        let name = name.into();
        Self::new(LinkKind::Granted(name.clone()), Name::Exact(name), Site::Host)
    }

    /// Sets the largest packet.
    #[must_use]
    pub fn mtu(mut self, mtu: Option<u32>) -> Self {
        self.mtu = mtu;
        self
    }

    /// Sets the hardware address.
    #[must_use]
    pub fn mac(mut self, mac: Option<String>) -> Self {
        self.mac = mac;
        self
    }

    /// Makes it a port of another link.
    #[must_use]
    pub fn controlled_by(mut self, controller: LinkIndex) -> Self {
        self.controller = Some(controller);
        self
    }

    /// Sets an option of the port.
    #[must_use]
    pub fn port(mut self, key: &str, value: &str) -> Self {
        self.port.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Sets a sysctl of the link, as `ipv4.NAME` or `ipv6.NAME`.
    #[must_use]
    pub fn sysctl(mut self, key: &str, value: &str) -> Self {
        self.sysctls.push((key.to_owned(), value.to_owned()));
        self
    }
}

impl Rule {
    /// A rule for forwarded packets; those of the lowest priority of all networks are looked at first.
    pub fn forward(priority: i32, action: Action, comment: &str) -> Self {
        Self {
            hook: Hook::Forward,
            priority,
            action,
            protocol: None,
            source: None,
            destination: None,
            in_link: None,
            out_link: None,
            ports: Vec::new(),
            established_only: false,
            comment: comment.to_owned(),
        }
    }

    /// Only packets that come in by this link.
    #[must_use]
    pub fn from(mut self, link: LinkIndex) -> Self {
        self.in_link = Some(link);
        self
    }

    /// Only packets that go out by this link.
    #[must_use]
    pub fn to(mut self, link: LinkIndex) -> Self {
        self.out_link = Some(link);
        self
    }

    /// Only packets of connections that are established already.
    #[must_use]
    pub fn established(mut self) -> Self {
        self.established_only = true;
        self
    }
}
