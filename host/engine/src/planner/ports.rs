//! Ports that a container shows and that the host publishes.

use std::collections::BTreeMap;

use wharf_plan::net::{Protocol, Publish};

use crate::error::{Error, Result};
use crate::models::{HostConfig, PortBinding, PortMap};

/// At most so many published ports for one container.
const LIMIT: usize = 65_536;

/// `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Number inside the container.
    pub number: u16,
    /// 0 tcp, 1 udp, 2 sctp: in the order in which Docker sorts.
    protocol: u8,
}

impl Port {
    /// The contract's word.
    pub fn protocol(self) -> Protocol {
        match self.protocol {
            1 => Protocol::Udp,
            2 => Protocol::Sctp,
            _ => Protocol::Tcp,
        }
    }

    /// Of the contract's word.
    pub fn new(number: u16, protocol: Protocol) -> Self {
        let protocol = match protocol {
            Protocol::Tcp => 0,
            Protocol::Udp => 1,
            Protocol::Sctp => 2,
        };
        Self { number, protocol }
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.protocol {
            1 => "udp",
            2 => "sctp",
            _ => "tcp",
        };
        write!(f, "{}/{name}", self.number)
    }
}

fn bad(text: &str) -> Error {
    Error::invalid(format!("invalid port specification: {text:?}"))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let one = |t: &str| t.parse::<u16>().ok().filter(|_| t.bytes().all(|b| b.is_ascii_digit()));
    match text.split_once('-') {
        Some((low, high)) => one(low).zip(one(high)).filter(|(low, high)| low <= high),
        None => one(text).map(|n| (n, n)),
    }
}

/// Reads `80`, `80/udp`, `8000-8010/tcp`.
pub fn expose(text: &str) -> Result<Vec<Port>> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" | "" => 0,
        "udp" => 1,
        "sctp" => 2,
        _ => return Err(Error::invalid(format!("invalid proto: {protocol}"))),
    };
    let (low, high) = range(numbers).ok_or_else(|| bad(numbers))?;
    Ok((low..=high).map(|number| Port { number, protocol }).collect())
}

/// One published port as asked for; host ports may be a range to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Inside.
    pub port: Port,
    /// Address of the host; None is every one.
    pub ip: Option<String>,
    /// First host port to try; 0 lets the host choose.
    pub low: u16,
    /// Last one.
    pub high: u16,
}

/// Reads a request's port bindings.
pub fn bindings(map: &PortMap) -> Result<Vec<Binding>> {
    let mut all = Vec::new();
    for (text, list) in map {
        let ports = expose(text)?;
        let [port] = ports.as_slice() else { return Err(bad(text)) };
        if port.number == 0 {
            return Err(bad(text));
        }
        for one in list.iter().flatten() {
            all.push(binding(*port, one)?);
            if all.len() > LIMIT {
                return Err(Error::invalid("too many published ports"));
            }
        }
    }
    all.sort_by(|a, b| (a.port, &a.ip, a.low).cmp(&(b.port, &b.ip, b.low)));
    Ok(all)
}

fn binding(port: Port, one: &PortBinding) -> Result<Binding> {
    let text = one.host_port.as_deref().unwrap_or("");
    let (low, high) = if text.is_empty() { (0, 0) } else { range(text).ok_or_else(|| bad(text))? };
    let ip = match one.host_ip.as_deref().unwrap_or("") {
        "" => None,
        given => {
            let bare = given.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(given);
            let address: std::net::IpAddr =
                bare.parse().map_err(|_| Error::invalid(format!("invalid IP address: {given}")))?;
            Some(address.to_string())
        }
    };
    Ok(Binding { port, ip, low, high })
}

/// What a driver of networks calls it when it may be asked to publish an IPv6 address of the host for a container's IPv4 address.
pub const ACROSS: &str = "publish-across";

/// What can be published for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Families {
    /// It has an address of IPv4.
    pub v4: bool,
    /// It has one of IPv6.
    pub v6: bool,
    /// A program carries from the host's IPv6 to its IPv4.
    pub across: bool,
    /// The host has IPv6: what is published everywhere is published there too.
    pub host_v6: bool,
}

impl Families {
    /// Whether a binding can be published on an address of the host.
    fn allow(self, b: &Binding, host: std::net::IpAddr) -> bool {
        if host.is_ipv4() {
            return self.v4;
        }
        let across = self.across && self.v4 && b.port.protocol() != Protocol::Sctp;
        (self.v6 || across) && (b.ip.is_some() || self.host_v6)
    }
}

/// The host's addresses that a binding is published on. One without an address is published on both families' unspecified
/// address, as far as host and container have them.
fn hosts(b: &Binding, families: Families) -> Vec<std::net::IpAddr> {
    let all = match &b.ip {
        None => vec![std::net::IpAddr::from([0; 4]), std::net::IpAddr::from([0; 16])],
        Some(ip) => ip.parse().into_iter().collect(),
    };
    all.into_iter().filter(|ip| families.allow(b, *ip)).collect()
}

/// Whether one of them has a range of host ports to choose from.
pub fn has_ranges(list: &[Binding]) -> bool {
    list.iter().any(|b| b.low < b.high)
}

/// Each range becomes the first port of it that `free` gives for the protocol, the addresses, the range and what this
/// container has otherwise. Where there is none, the first one stands: applying it says what is wrong.
pub fn choose(
    list: &[Binding],
    families: Families,
    mut free: impl FnMut(Protocol, &[std::net::IpAddr], std::ops::RangeInclusive<u16>, &[u16]) -> Option<u16>,
) -> Vec<Binding> {
    let mut chosen: Vec<Binding> = Vec::with_capacity(list.len());
    for b in list {
        let mut b = b.clone();
        if b.low < b.high {
            let same = |other: &&Binding| other.port.protocol == b.port.protocol;
            let others = list.iter().filter(|other| other.low == other.high).chain(&chosen).filter(same);
            let taken: Vec<u16> = others.map(|other| other.low).collect();
            let hosts = hosts(&b, families);
            b.low = free(b.port.protocol(), &hosts, b.low..=b.high, &taken).unwrap_or(b.low);
            b.high = b.low;
        }
        chosen.push(b);
    }
    chosen
}

/// What to publish for a container with these addresses, once ports are chosen: on each address of the host for the container's
/// address of that family, else, where that can be carried, on one of IPv6 for its address of IPv4.
pub fn publishes(
    list: &[Binding],
    families: Families,
    ipv4: Option<&str>,
    ipv6: Option<&str>,
) -> Vec<Publish> {
    let mut all = Vec::new();
    for b in list {
        for host in hosts(b, families) {
            let Some(container) = (if host.is_ipv4() { ipv4 } else { ipv6.or(ipv4) }) else { continue };
            all.push(Publish {
                protocol: b.port.protocol(),
                host_ip: Some(host.to_string()),
                host_port: b.low,
                count: 1,
                container_ip: container.to_owned(),
                container_port: b.port.number,
            });
        }
    }
    all
}

/// Ports to publish of a container: the bindings, and with `-P` every exposed port that has none.
pub fn wanted(host: &HostConfig, exposed: &[String]) -> Result<Vec<Binding>> {
    let mut all = match &host.port_bindings {
        Some(map) => bindings(map)?,
        None => Vec::new(),
    };
    if host.publish_all_ports == Some(true) {
        for port in exposed.iter().map(|e| expose(e)).collect::<Result<Vec<_>>>()?.into_iter().flatten() {
            if !all.iter().any(|b| b.port == port) {
                all.push(Binding { port, ip: None, low: 0, high: 0 });
            }
        }
    }
    Ok(all)
}

/// `NetworkSettings.Ports`: every exposed port, null where nothing is published.
pub fn port_map(exposed: &[String], published: &[Publish]) -> PortMap {
    let mut map: BTreeMap<String, Option<Vec<PortBinding>>> = BTreeMap::new();
    for text in exposed {
        for port in expose(text).unwrap_or_default() {
            map.insert(port.to_string(), None);
        }
    }
    for p in published {
        let port = Port::new(p.container_port, p.protocol);
        map.entry(port.to_string()).or_default().get_or_insert_default().push(PortBinding {
            host_ip: Some(p.host_ip.clone().unwrap_or_else(|| "0.0.0.0".into())),
            host_port: Some(p.host_port.to_string()),
        });
    }
    map.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(port: &str, ip: &str, host: &str) -> PortMap {
        [(
            port.to_owned(),
            Some(vec![PortBinding { host_ip: Some(ip.into()), host_port: Some(host.into()) }]),
        )]
        .into()
    }

    #[test]
    fn exposed() {
        assert_eq!(expose("80").unwrap()[0].to_string(), "80/tcp");
        assert_eq!(expose("53/UDP").unwrap()[0].to_string(), "53/udp");
        assert_eq!(expose("8000-8002").unwrap().len(), 3);
        for bad in ["", "x", "70000", "-1", "9-8", "80/tcp/udp", "+80", " 80"] {
            assert!(expose(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bound() {
        let four = Families { v4: true, ..Families::default() };
        let both = Families { v6: true, ..four };
        let b = bindings(&map("80/tcp", "", "8080")).unwrap();
        let p = publishes(&b, four, Some("172.17.0.2"), None);
        assert_eq!(
            (p[0].host_ip.as_deref(), p[0].host_port, p[0].container_port),
            (Some("0.0.0.0"), 8080, 80)
        );
        let b = bindings(&map("80/tcp", "::1", "")).unwrap();
        assert!(publishes(&b, four, Some("172.17.0.2"), None).is_empty());
        let p = publishes(&b, both, Some("172.17.0.2"), Some("fd00::2"));
        assert_eq!((p[0].host_ip.as_deref(), p[0].container_ip.as_str()), (Some("::1"), "fd00::2"));
        for (port, ip, host) in [
            ("80/tcp", "", "x"),
            ("x", "", "1"),
            ("80/tcp", "", "99999"),
            ("80/tcp", "1.2.3", "1"),
            ("0/tcp", "", "1"),
        ] {
            assert_eq!(
                bindings(&map(port, ip, host)).unwrap_err().kind,
                crate::Kind::Invalid,
                "{port} {ip} {host}"
            );
        }
        assert_eq!(
            bindings(&map("80/tcp", "", "x")).unwrap_err().message,
            "invalid port specification: \"x\""
        );
    }

    #[test]
    fn ranges() {
        let mut all = bindings(&map("80/tcp", "", "8000-8003")).unwrap();
        all.extend(bindings(&map("81/tcp", "127.0.0.1", "8000-8003")).unwrap());
        all.extend(bindings(&map("82/tcp", "", "8001")).unwrap());
        all.extend(bindings(&map("83/udp", "", "8001-8002")).unwrap());
        assert!(has_ranges(&all) && !has_ranges(&all[2..3]));
        let mut asked = Vec::new();
        let four = Families { v4: true, ..Families::default() };
        let chosen = choose(&all, four, |protocol, hosts, mut range, taken| {
            asked.push((protocol, hosts.len()));
            range.find(|port| !taken.contains(port))
        });
        let ports: Vec<(u16, u16)> = chosen.iter().map(|b| (b.low, b.high)).collect();
        assert_eq!(ports, [(8000, 8000), (8002, 8002), (8001, 8001), (8001, 8001)]);
        assert_eq!(asked.len(), 3);
        assert!(asked.iter().all(|(_, hosts)| *hosts == 1));
        let none = choose(&all[..1], Families { across: true, host_v6: true, ..four }, |_, hosts, _, _| {
            assert_eq!(hosts.len(), 2);
            None
        });
        assert_eq!((none[0].low, none[0].high), (8000, 8000), "applying it says that it is taken");
    }

    #[test]
    fn both_families_of_the_host() {
        let all = |port: &str, ip: &str, families: Families| -> Vec<String> {
            let ipv6 = families.v6.then_some("fd00::2");
            let list = publishes(&bindings(&map(port, ip, "1")).unwrap(), families, Some("10.0.0.2"), ipv6);
            list.iter().map(|p| format!("{}>{}", p.host_ip.as_deref().unwrap(), p.container_ip)).collect()
        };
        let plain = Families { v4: true, host_v6: true, ..Families::default() };
        let across = Families { across: true, ..plain };
        let dual = Families { v6: true, ..across };
        let (four, six) = ("0.0.0.0>10.0.0.2".to_owned(), "::>10.0.0.2".to_owned());
        assert_eq!(all("80/tcp", "", across), [four.clone(), six.clone()]);
        assert_eq!(all("80/udp", "", across), [four.clone(), six.clone()]);
        assert_eq!(all("80/tcp", "", dual), [four.clone(), "::>fd00::2".to_owned()]);
        // No program, no IPv6 on the host, or a protocol that nobody carries: one family.
        assert_eq!(all("80/tcp", "", plain), std::slice::from_ref(&four));
        assert_eq!(all("80/tcp", "", Families { host_v6: false, ..across }), std::slice::from_ref(&four));
        assert_eq!(all("80/tcp", "", Families { host_v6: false, ..dual }), std::slice::from_ref(&four));
        assert_eq!(all("80/sctp", "", across), std::slice::from_ref(&four));
        assert_eq!(all("80/sctp", "", dual).len(), 2, "the kernel does");
        // What is named is published or, where it cannot be, left out.
        assert_eq!(all("80/tcp", "::1", across), ["::1>10.0.0.2"]);
        assert_eq!(all("80/tcp", "::", Families { host_v6: false, ..across }), [six]);
        assert!(all("80/tcp", "::1", plain).is_empty() && all("80/sctp", "::1", across).is_empty());
        assert_eq!(all("80/tcp", "127.0.0.1", across), ["127.0.0.1>10.0.0.2"]);
    }

    #[test]
    fn all_exposed() {
        let host = HostConfig {
            publish_all_ports: Some(true),
            port_bindings: Some(map("80/tcp", "", "1")),
            ..HostConfig::default()
        };
        let all = wanted(&host, &["80/tcp".into(), "53/udp".into()]).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((all[1].port.to_string().as_str(), all[1].low), ("53/udp", 0));
        let four = Families { v4: true, ..Families::default() };
        let published = publishes(&all[..1], four, Some("10.0.0.2"), None);
        let settings = port_map(&["80/tcp".into(), "53/udp".into()], &published);
        assert!(settings["53/udp"].is_none());
        assert_eq!(settings["80/tcp"].as_ref().unwrap()[0].host_port.as_deref(), Some("1"));
    }
}
