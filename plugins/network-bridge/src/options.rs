//! Options of a network and of an endpoint, as Docker names them.

use std::net::{IpAddr, Ipv4Addr};

use wharf_plugin_sdk::types::{Labels, label};
use wharf_plugin_sdk::{Error, Result};

/// JSON schema of the options. Unknown ones are let through, as Docker does: labels of other drivers live there too.
pub(crate) const SCHEMA: &str = r#"{"type":"object","properties":{
"com.docker.network.bridge.name":{"type":"string"},
"com.docker.network.bridge.enable_icc":{"type":"string"},
"com.docker.network.bridge.enable_ip_masquerade":{"type":"string"},
"com.docker.network.bridge.host_binding_ipv4":{"type":"string"},
"com.docker.network.bridge.default_bridge":{"type":"string"},
"com.docker.network.bridge.inhibit_ipv4":{"type":"string"},
"com.docker.network.bridge.gateway_mode_ipv4":{"enum":["nat","nat-unprotected","routed","isolated"]},
"com.docker.network.bridge.gateway_mode_ipv6":{"enum":["nat","nat-unprotected","routed","isolated"]},
"com.docker.network.container_iface_prefix":{"type":"string"},
"com.docker.network.driver.mtu":{"type":"string"},
"com.docker.network.host_ipv4":{"type":"string"},
"com.docker.network.host_ipv6":{"type":"string"}}}"#;

/// What happens between a network and the rest of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GatewayMode {
    /// Translated; only published ports can be reached.
    Nat,
    /// Translated on the way out; every port can be reached directly.
    NatUnprotected,
    /// Not translated; only published ports can be reached.
    Routed,
    /// The host has no address in the network.
    Isolated,
}

/// Options of a network.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) bridge: String,
    pub(crate) icc: bool,
    pub(crate) masquerade: bool,
    pub(crate) host_binding: Option<Ipv4Addr>,
    pub(crate) default_bridge: bool,
    pub(crate) inhibit_ipv4: bool,
    pub(crate) mode_v4: GatewayMode,
    pub(crate) mode_v6: GatewayMode,
    pub(crate) interface_prefix: String,
    pub(crate) mtu: Option<u32>,
    pub(crate) source_v4: Option<IpAddr>,
    pub(crate) source_v6: Option<IpAddr>,
}

impl Options {
    pub(crate) fn read(id: &str, options: &Labels, internal: bool) -> Result<Self> {
        let text = |key: &str| label(options, key).filter(|value| !value.is_empty());
        let bridge = match text("com.docker.network.bridge.name") {
            Some(name) => name.to_owned(),
            None => format!("br-{}", id.chars().take(12).collect::<String>()),
        };
        if bridge.len() > 15 || !bridge.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            return Err(Error::invalid(format!(
                "invalid bridge name {bridge:?}: at most 15 letters, digits, '-', '_' and '.'"
            )));
        }
        let mtu = match text("com.docker.network.driver.mtu") {
            None | Some("0") => None,
            Some(value) => Some(
                value
                    .parse()
                    .ok()
                    .filter(|mtu| (68..=65535).contains(mtu))
                    .ok_or_else(|| Error::invalid(format!("invalid MTU {value:?}: 68 to 65535")))?,
            ),
        };
        let mode = |key: &str| match text(key) {
            None | Some("nat") => Ok(GatewayMode::Nat),
            Some("nat-unprotected") => Ok(GatewayMode::NatUnprotected),
            Some("routed") => Ok(GatewayMode::Routed),
            Some("isolated") if internal => Ok(GatewayMode::Isolated),
            Some("isolated") => {
                Err(Error::invalid("gateway mode 'isolated' can only be used for an internal network"))
            }
            Some(other) => Err(Error::invalid(format!("unknown gateway mode {other}"))),
        };
        let address = |key: &str, v4: bool| match text(key) {
            None => Ok(None),
            Some(value) => value
                .parse::<IpAddr>()
                .ok()
                .filter(|ip| ip.is_ipv4() == v4)
                .map(Some)
                .ok_or_else(|| Error::invalid(format!("invalid address {value:?} for option {key}"))),
        };
        let flag = |key: &str, default: bool| match text(key) {
            None => Ok(default),
            Some(value) => boolean(value).ok_or_else(|| {
                Error::invalid(format!("invalid value {value:?} for option {key}: true or false"))
            }),
        };
        let host_binding = match address("com.docker.network.bridge.host_binding_ipv4", true)? {
            Some(IpAddr::V4(ip)) if !ip.is_unspecified() => Some(ip),
            _ => None,
        };
        Ok(Self {
            bridge,
            icc: flag("com.docker.network.bridge.enable_icc", true)?,
            masquerade: flag("com.docker.network.bridge.enable_ip_masquerade", true)?,
            host_binding,
            default_bridge: flag("com.docker.network.bridge.default_bridge", false)?,
            inhibit_ipv4: flag("com.docker.network.bridge.inhibit_ipv4", false)?,
            mode_v4: mode("com.docker.network.bridge.gateway_mode_ipv4")?,
            mode_v6: mode("com.docker.network.bridge.gateway_mode_ipv6")?,
            interface_prefix: text("com.docker.network.container_iface_prefix").unwrap_or("eth").to_owned(),
            mtu,
            source_v4: address("com.docker.network.host_ipv4", true)?,
            source_v6: address("com.docker.network.host_ipv6", false)?,
        })
    }

    pub(crate) fn mode(&self, v4: bool) -> GatewayMode {
        if v4 { self.mode_v4 } else { self.mode_v6 }
    }

    pub(crate) fn source(&self, v4: bool) -> Option<IpAddr> {
        if v4 { self.source_v4 } else { self.source_v6 }
    }

    /// Whether the host has an address in the network.
    pub(crate) fn host_address(&self, v4: bool) -> bool {
        self.mode(v4) != GatewayMode::Isolated && !(v4 && self.inhibit_ipv4)
    }
}

/// The words that Go's `strconv.ParseBool` takes.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
