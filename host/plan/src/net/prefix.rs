//! An address with its prefix length.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// `10.1.2.3/24`, `fd00::1/64`: parsed. Bits after the prefix are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// How many of its first bits name the network.
    pub length: u8,
}

/// Not an address with a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address with a prefix length such as 10.1.2.3/24")]
pub struct NotAPrefix;

impl FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let (address, length) = text.split_once('/').ok_or(NotAPrefix)?;
        let address: IpAddr = address.parse().map_err(|_| NotAPrefix)?;
        // `u8::from_str` takes a sign and leading zeros; the canonical form has neither.
        let canonical = length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
        if !canonical || (length.len() > 1 && length.starts_with('0')) {
            return Err(NotAPrefix);
        }
        let length = length.parse().map_err(|_| NotAPrefix)?;
        if length > bits(address) { Err(NotAPrefix) } else { Ok(Self { address, length }) }
    }
}

impl Prefix {
    /// The network's first address.
    pub fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        }
    }

    /// The network's last address.
    pub fn last(&self) -> IpAddr {
        match self.network() {
            IpAddr::V4(network) => {
                let hosts = u32::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() | hosts))
            }
            IpAddr::V6(network) => {
                let hosts = u128::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() | hosts))
            }
        }
    }

    /// Whether every address of `other`'s network is one of this network.
    pub fn covers(&self, other: &Prefix) -> bool {
        other.length >= self.length
            && self.address.is_ipv4() == other.address.is_ipv4()
            && Prefix { address: other.address, length: self.length }.network() == self.network()
    }

    /// Whether the address is one of this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.covers(&Prefix { address, length: bits(address) })
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}
