//! What a container asks of one network: its endpoint's settings.

use std::net::IpAddr;

use wharf_plan::types::Labels;

use crate::error::{Error, Result};
use crate::models::EndpointSettings;

/// Docker's option with kernel parameters of an endpoint's interface, whose name nobody knows before: `IFNAME` stands for it.
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// Docker's option with the name of an endpoint's interface.
const NAME: &str = "com.docker.network.endpoint.ifname";

/// The name that the endpoint's interface is to have inside the container, where one is asked for.
pub fn interface(settings: &EndpointSettings) -> Result<Option<&str>> {
    let Some(name) = settings.driver_opts.as_ref().and_then(|o| o.get(NAME)).filter(|n| !n.is_empty()) else {
        return Ok(None);
    };
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%');
    if name.len() > 15 || matches!(name.as_str(), "." | ".." | "lo") || !name.bytes().all(plain) {
        return Err(Error::invalid(format!(
            "invalid config for network: invalid endpoint settings:\ninvalid interface name: {name:?}"
        )));
    }
    Ok(Some(name))
}

/// Kernel parameters of the endpoint's interface in the form that plans have: `ipv4.NAME` and `ipv6.NAME`.
pub fn sysctls(settings: &EndpointSettings) -> Result<Labels> {
    let Some(text) = settings.driver_opts.as_ref().and_then(|o| o.get(SYSCTLS)) else {
        return Ok(Vec::new());
    };
    text.split(',')
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let bad = |why: &str| {
                Error::invalid(format!(
                    "invalid config for network: invalid endpoint settings:\nsysctl {entry}: {why}"
                ))
            };
            let (key, value) = entry.split_once('=').ok_or_else(|| bad("expected key=value"))?;
            let parts: Vec<&str> = key.split('.').collect();
            let [net, family, kind, interface, name] = parts.as_slice() else {
                return Err(bad("expected net.FAMILY.conf.IFNAME.NAME"));
            };
            if *net != "net" || *interface != "IFNAME" {
                return Err(bad("it must be of the network and name its interface IFNAME"));
            }
            if !matches!(*family, "ipv4" | "ipv6") || *kind != "conf" {
                return Err(bad("only those of net.ipv4.conf and net.ipv6.conf can be set"));
            }
            let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !plain || value.is_empty() || value.bytes().any(|b| b.is_ascii_control()) {
                return Err(bad("name and value must be plain"));
            }
            Ok((format!("{family}.{name}"), value.to_owned()))
        })
        .collect()
}

/// Checks what does not depend on the network.
pub fn check(settings: &EndpointSettings) -> Result<()> {
    sysctls(settings)?;
    interface(settings)?;
    let addresses = settings.ipam_config.iter().flat_map(|c| &c.link_local_ips).flatten();
    for address in addresses {
        let link_local = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => ip.is_link_local(),
            Ok(IpAddr::V6(ip)) => ip.is_unicast_link_local(),
            Err(_) => false,
        };
        if !link_local {
            return Err(Error::invalid(format!(
                "invalid config for network: invalid endpoint settings:\ninvalid link-local IP address: {address}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> EndpointSettings {
        EndpointSettings {
            driver_opts: Some([(SYSCTLS.to_owned(), text.to_owned())].into()),
            ..EndpointSettings::default()
        }
    }

    #[test]
    fn kernel_parameters() {
        let two = "net.ipv4.conf.IFNAME.forwarding=1,net.ipv6.conf.IFNAME.accept_ra=0";
        let wanted =
            [("ipv4.forwarding", "1"), ("ipv6.accept_ra", "0")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(sysctls(&with(two)).unwrap(), wanted);
        assert_eq!(sysctls(&EndpointSettings::default()).unwrap(), []);
        for bad in [
            "x",
            "net.ipv4.conf.eth0.forwarding=1",
            "net.ipv4.conf.IFNAME./../all=1",
            "net.ipv4.conf.IFNAME.a/b=1",
            "net.ipv4.neigh.IFNAME.x=1",
            "kernel.ipv4.conf.IFNAME.x=1",
            "net.ipv4.conf.IFNAME.x=",
            "net.ipv4.conf.IFNAME.x=1\n2",
        ] {
            assert_eq!(sysctls(&with(bad)).unwrap_err().kind, crate::Kind::Invalid, "{bad}");
        }
    }

    #[test]
    fn interface_names() {
        let with = |name: &str| EndpointSettings {
            driver_opts: Some([(NAME.to_owned(), name.to_owned())].into()),
            ..EndpointSettings::default()
        };
        assert_eq!(interface(&with("lan0")).unwrap(), Some("lan0"));
        assert_eq!(interface(&with("")).unwrap(), None);
        for bad in ["lo", "..", "a/b", "a b", "a-name-that-is-too-long", "a:0", "n%d"] {
            assert!(check(&with(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn link_local_addresses() {
        let one = |ip: &str| EndpointSettings {
            ipam_config: Some(crate::models::EndpointIpamConfig {
                link_local_ips: Some(vec![ip.to_owned()]),
                ..Default::default()
            }),
            ..EndpointSettings::default()
        };
        assert!(check(&one("169.254.3.4")).is_ok() && check(&one("fe80::5")).is_ok());
        for bad in ["10.0.0.1", "::1", "x", ""] {
            assert!(check(&one(bad)).is_err(), "{bad}");
        }
    }
}
