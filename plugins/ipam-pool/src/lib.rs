//! The address manager `default`: networks from default pools, addresses from bitmaps.
//!
//! In kv: `pool/<id>` for every pool that is taken, `bits/<id>/<block>` with one bit per address in blocks of 4096
//! (absent: all free), `keys/<id>#<place>` with the addresses that named containers had last. A request for an address
//! reads one block and writes one; the name goes into the lease's cookie and is remembered when the lease ends.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

mod blocks;
mod pools;

use std::net::IpAddr;

use wharf_plugin_sdk::cidr::Cidr;
use wharf_plugin_sdk::ipam::{
    AddressRequest, Driver, Family, Lease, Pool, PoolRequest, Purpose, Spaces, Usage,
};
use wharf_plugin_sdk::net::Ip;
use wharf_plugin_sdk::types::Cookie;
use wharf_plugin_sdk::{Error, Host, Result};

use blocks::{Blocks, Keys};
use pools::{GLOBAL, LOCAL};

/// The driver.
#[derive(Debug, Default)]
pub struct PoolDriver;

impl Driver for PoolDriver {
    fn address_spaces(&self, _host: &dyn Host) -> Result<Spaces> {
        Ok(Spaces { local: LOCAL.to_owned(), cluster: GLOBAL.to_owned() })
    }

    fn request_pool(&self, host: &dyn Host, request: &PoolRequest) -> Result<Pool> {
        let taken = pools::taken(host, &request.space)?;
        let (cidr, range) = match &request.pool {
            Some(wanted) => pools::wanted(wanted, request, &taken)?,
            None if request.sub_pool.is_some() => {
                return Err(Error::invalid("an address range needs a subnet that it is part of"));
            }
            None => (pools::free(host, request, &taken)?, None),
        };
        let id = pools::id(&request.space, &cidr, range.as_ref());
        host.kv_set(&format!("pool/{id}"), &[])?;
        let cookie = range.map(|range| range.to_string().into_bytes()).unwrap_or_default();
        Ok(Pool { id, cidr: cidr.to_string(), gateway: None, facts: Vec::new(), cookie })
    }

    fn release_pool(&self, host: &dyn Host, pool: &Pool) -> Result<()> {
        Blocks::forget(host, &pool.id)?;
        Keys::forget(host, &pool.id)?;
        host.kv_remove(&format!("pool/{}", pool.id))
    }

    fn request_addresses(&self, host: &dyn Host, requests: &[AddressRequest]) -> Result<Vec<Lease>> {
        // Many requests of one pool, as when a stack starts, share its blocks.
        let mut open: Vec<Open> = Vec::new();
        let mut leases = Vec::with_capacity(requests.len());
        for request in requests {
            let known = open.iter().position(|pool| pool.blocks.pool() == request.pool.id);
            let index = known.unwrap_or(open.len());
            if known.is_none() {
                open.push(Open::new(&request.pool)?);
            }
            let Some(pool) = open.get_mut(index) else { return Err(Error::internal("a pool was lost")) };
            let address = pool.take(host, request)?;
            leases.push(Lease {
                address: format!("{address}/{}", pool.cidr.length()),
                facts: Vec::new(),
                cookie: name(request).map(Cookie::from).unwrap_or_default(),
            });
        }
        for pool in open {
            pool.blocks.write(host)?;
        }
        Ok(leases)
    }

    fn release_addresses(&self, host: &dyn Host, pool: &Pool, leases: &[Lease]) -> Result<()> {
        let mut open = Open::new(pool)?;
        for lease in leases {
            if let Some(offset) = open.offset(&lease.address)? {
                open.blocks.clear(host, offset)?;
                if let Some(name) = lease.cookie.first_chunk::<8>() {
                    Keys::set(host, &pool.id, *name, offset)?;
                }
            }
        }
        open.blocks.write(host)
    }

    fn usage(&self, host: &dyn Host, pool: &Pool) -> Result<Usage> {
        let open = Open::new(pool)?;
        let last = open.range.unwrap_or(open.cidr).last_offset();
        let total = u64::try_from(last.saturating_add(1)).unwrap_or(u64::MAX);
        Ok(Usage { total, used: Blocks::count(host, &pool.id)? })
    }

    fn reconcile(&self, host: &dyn Host, pool: &Pool, live: &[Lease]) -> Result<Vec<Ip>> {
        let open = Open::new(pool)?;
        let mut keep = Vec::with_capacity(live.len());
        for lease in live {
            keep.extend(open.offset(&lease.address)?);
        }
        let dropped = Blocks::replace(host, &pool.id, &keep)?;
        Ok(dropped.into_iter().filter_map(|offset| open.cidr.at(offset)).map(|ip| ip.to_string()).collect())
    }
}

/// One pool while a call works on it.
struct Open {
    cidr: Cidr,
    /// Where addresses are picked from, if that is only a part.
    range: Option<Cidr>,
    blocks: Blocks,
}

impl Open {
    fn new(pool: &Pool) -> Result<Self> {
        let range = match std::str::from_utf8(&pool.cookie) {
            Ok("") => None,
            Ok(text) => Some(Cidr::parse(text)?.network()),
            Err(_) => return Err(Error::internal("the pool's cookie is damaged")),
        };
        let cidr = Cidr::parse(&pool.cidr)?.network();
        Ok(Self { cidr, range, blocks: Blocks::new(&pool.id) })
    }

    /// Offset of a lease's address, if it is of this pool.
    fn offset(&self, address: &str) -> Result<Option<u128>> {
        let bare = address.split_once('/').map_or(address, |(bare, _)| bare);
        let ip: IpAddr =
            bare.parse().map_err(|_| Error::invalid(format!("invalid IP address {address:?}")))?;
        Ok(self.cidr.offset(ip))
    }

    fn take(&mut self, host: &dyn Host, request: &AddressRequest) -> Result<IpAddr> {
        let offset = match request.wanted.as_deref().filter(|text| !text.is_empty()) {
            Some(wanted) => self.take_wanted(host, wanted, request.purpose)?,
            None => self.take_any(host, request)?,
        };
        self.cidr.at(offset).ok_or_else(|| Error::internal("an address outside of the pool"))
    }

    fn take_wanted(&mut self, host: &dyn Host, wanted: &str, purpose: Purpose) -> Result<u128> {
        let offset = self.offset(wanted)?.ok_or_else(|| {
            Error::invalid(format!(
                "Invalid address {wanted}: It does not belong to any of this network's subnets"
            ))
        })?;
        // A gateway or reserved address may be one that no container gets.
        if purpose == Purpose::Endpoint && !self.usable(offset) {
            return Err(Error::invalid(format!("requested address {wanted} is the network's own")));
        }
        if self.blocks.take(host, offset)? {
            return Ok(offset);
        }
        Err(Error::conflict("Address already in use").with("address", wanted))
    }

    fn take_any(&mut self, host: &dyn Host, request: &AddressRequest) -> Result<u128> {
        let (first, last) = self.bounds();
        if let Some(name) = name(request)
            && let Some(before) = Keys::get(host, self.blocks.pool(), name)?
            && (first..=last).contains(&before)
            && self.blocks.take(host, before)?
        {
            return Ok(before);
        }
        self.lowest(host, first, last)
    }

    fn lowest(&mut self, host: &dyn Host, first: u128, last: u128) -> Result<u128> {
        self.blocks
            .take_lowest(host, first, last)?
            .ok_or_else(|| Error::exhausted("no available addresses on this pool").with("pool", self.cidr))
    }

    /// What addresses are picked from: neither the network's own address nor its broadcast address.
    fn bounds(&self) -> (u128, u128) {
        let (low, high) = self.usable_bounds();
        let Some(range) = self.range else { return (low, high) };
        let start = self.cidr.offset(range.address()).unwrap_or(0);
        let end = start.saturating_add(range.last_offset());
        (start.max(low), end.min(high))
    }

    fn usable(&self, offset: u128) -> bool {
        let (low, high) = self.usable_bounds();
        (low..=high).contains(&offset)
    }

    fn usable_bounds(&self) -> (u128, u128) {
        let last = self.cidr.last_offset();
        match (self.cidr.is_ipv4(), last) {
            // Point to point (RFC 3021) and single addresses have no others to spare.
            (_, 0) | (true, 1) => (0, last),
            (true, _) => (1, last - 1),
            // The first is the subnet-router anycast address.
            (false, _) => (1, last),
        }
    }
}

fn name(request: &AddressRequest) -> Option<[u8; 8]> {
    request.sticky_key.as_deref().filter(|key| !key.is_empty()).map(Keys::digest)
}

fn family(cidr: &Cidr) -> Family {
    if cidr.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(ipam: PoolDriver);
