//! Which networks there are to give.

use std::net::Ipv6Addr;

use serde::Deserialize;
use wharf_plugin_sdk::cidr::Cidr;
use wharf_plugin_sdk::files::fnv;
use wharf_plugin_sdk::host::config;
use wharf_plugin_sdk::ipam::{Family, PoolRequest};
use wharf_plugin_sdk::{Error, Host, Result};

use crate::family;

/// Address space of networks on one node.
pub(crate) const LOCAL: &str = "LocalDefault";
/// Address space of a cluster's networks.
pub(crate) const GLOBAL: &str = "GlobalDefault";

/// Docker's own, in its order.
const LOCAL_POOLS: [(&str, u8); 7] = [
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
];
const GLOBAL_POOLS: [(&str, u8); 1] = [("10.0.0.0/8", 24)];

/// Nobody has more networks on one node than this; it bounds the search.
const MOST_PARTS: usize = 1 << 16;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Config {
    default_address_pools: Vec<Base>,
}

#[derive(Debug, Deserialize)]
struct Base {
    base: String,
    size: u8,
}

/// Name of a pool: its space, its network, and its range if it has one.
pub(crate) fn id(space: &str, cidr: &Cidr, range: Option<&Cidr>) -> String {
    match range {
        Some(range) => format!("{space}/{cidr}/{range}"),
        None => format!("{space}/{cidr}"),
    }
}

/// The networks of all pools of a space.
pub(crate) fn taken(host: &dyn Host, space: &str) -> Result<Vec<Cidr>> {
    let prefix = format!("pool/{space}/");
    let mut taken = Vec::new();
    let mut after = None;
    loop {
        let page = host.kv_scan(&prefix, after.as_deref(), 256)?;
        for entry in &page.entries {
            let name = entry.key.get(prefix.len()..).unwrap_or_default();
            let network: Vec<&str> = name.splitn(3, '/').take(2).collect();
            taken.push(Cidr::parse(&network.join("/"))?);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(taken),
        }
    }
}

/// A network that the user chose, with the range in it.
pub(crate) fn wanted(text: &str, request: &PoolRequest, taken: &[Cidr]) -> Result<(Cidr, Option<Cidr>)> {
    let cidr = Cidr::parse(text)?.network();
    if family(&cidr) != request.family {
        return Err(Error::invalid(format!("subnet {cidr} is not of the address family asked for")));
    }
    let range = match &request.sub_pool {
        None => None,
        Some(text) => {
            let range = Cidr::parse(text)?.network();
            if !cidr.covers(&range) {
                return Err(Error::invalid(format!("no matching subnet for range {range}")));
            }
            Some(range)
        }
    };
    if taken.iter().any(|other| other.overlaps(&cidr)) {
        return Err(Error::conflict(
            "invalid pool request: Pool overlaps with other one on this address space",
        )
        .with("pool", cidr));
    }
    Ok((cidr, range))
}

/// The first default network that overlaps with nothing.
pub(crate) fn free(host: &dyn Host, request: &PoolRequest, taken: &[Cidr]) -> Result<Cidr> {
    let mut used: Vec<Cidr> =
        request.exclude.iter().filter_map(|text| Cidr::parse(text).ok()).map(|cidr| cidr.network()).collect();
    used.extend_from_slice(taken);
    // The whole of an address family (a default route) says nothing about what is in use.
    used.retain(|cidr| cidr.length() > 0);
    for (base, size) in bases(host, request)? {
        let mut parts = base.parts(size).take(MOST_PARTS);
        if let Some(free) = parts.find(|part| !used.iter().any(|other| other.overlaps(part))) {
            return Ok(free);
        }
    }
    Err(Error::exhausted("all predefined address pools have been fully subnetted"))
}

fn bases(host: &dyn Host, request: &PoolRequest) -> Result<Vec<(Cidr, u8)>> {
    let config: Config = config(host)?;
    let mut bases = Vec::new();
    for base in &config.default_address_pools {
        let cidr = Cidr::parse(&base.base)?.network();
        let width = if cidr.is_ipv4() { 32 } else { 128 };
        if base.size < cidr.length() || base.size > width {
            return Err(Error::invalid(format!(
                "default-address-pools: size {} does not fit into {cidr}",
                base.size
            )));
        }
        bases.push((cidr, base.size));
    }
    bases.retain(|(cidr, _)| family(cidr) == request.family);
    if bases.is_empty() {
        let defaults: &[(&str, u8)] = match (request.family, request.space.as_str()) {
            (Family::Ipv6, _) => return Ok(vec![(unique_local(&host.context().node)?, 64)]),
            (Family::Ipv4, GLOBAL) => &GLOBAL_POOLS,
            (Family::Ipv4, _) => &LOCAL_POOLS,
        };
        for (base, size) in defaults {
            bases.push((Cidr::parse(base)?, *size));
        }
    }
    Ok(bases)
}

/// This node's /48 of unique local addresses (RFC 4193): its bits follow from the node's name.
fn unique_local(node: &str) -> Result<Cidr> {
    let global = fnv(node.as_bytes()) & 0xff_ffff_ffff;
    let address = Ipv6Addr::from((0xfd << 120) | (global << 80));
    Cidr::parse(&format!("{address}/48"))
}
