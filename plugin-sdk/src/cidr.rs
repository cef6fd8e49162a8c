//! Addresses with a prefix length, and arithmetic over them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Error, Result};

/// An address in a network: `172.17.0.2/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// An address in a network whose prefix has `length` bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= bits(address)).then_some(Self { address, length })
    }

    /// Reads `ADDRESS/LENGTH`.
    pub fn parse(text: &str) -> Result<Self> {
        let read = || {
            let (address, length) = text.split_once('/')?;
            // `parse` takes a sign, which is no part of a prefix.
            let length = Some(length).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
            Self::new(address.parse().ok()?, length.parse().ok()?)
        };
        read().ok_or_else(|| Error::invalid(format!("invalid CIDR address: {text}")))
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits of the prefix.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The network: the address with all host bits cleared.
    #[must_use]
    pub fn network(&self) -> Self {
        Self { address: self.from_number(self.first()), length: self.length }
    }

    /// This address alone.
    #[must_use]
    pub fn host(&self) -> Self {
        Self { address: self.address, length: bits(self.address) }
    }

    /// How many addresses there are, less one: the last one's offset.
    pub fn last_offset(&self) -> u128 {
        let host_bits = u32::from(bits(self.address) - self.length);
        if host_bits >= 128 { u128::MAX } else { (1 << host_bits) - 1 }
    }

    /// The address at this offset from the network's first.
    pub fn at(&self, offset: u128) -> Option<IpAddr> {
        (offset <= self.last_offset()).then(|| self.from_number(self.first() | offset))
    }

    /// The offset of an address in this network.
    pub fn offset(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| number(address) & self.last_offset())
    }

    /// Whether the address is in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && number(address) & !self.last_offset() == self.first()
    }

    /// Whether all of the other network is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        other.length >= self.length && self.contains(other.address)
    }

    /// Whether they share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The parts of this network that have a prefix of `length` bits, in order.
    pub fn parts(&self, length: u8) -> impl Iterator<Item = Self> + use<> {
        let whole = self.network();
        let width = bits(self.address);
        let possible = length >= whole.length && length <= width;
        // More than this nobody iterates over; it also keeps the shift in range.
        let count = if possible { 1_u128 << u32::from(length - whole.length).min(64) } else { 0 };
        let step = u32::from(width - length.min(width));
        (0..count)
            .map(move |index| Self { address: whole.from_number(whole.first() | (index << step)), length })
    }

    fn first(&self) -> u128 {
        number(self.address) & !self.last_offset() & all(self.address)
    }

    #[allow(clippy::wrong_self_convention, reason = "the family comes from self")]
    fn from_number(&self, number: u128) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number & 0xffff_ffff).unwrap_or(0))),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn all(address: IpAddr) -> u128 {
    if address.is_ipv4() { 0xffff_ffff } else { u128::MAX }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        Cidr::parse(text).unwrap()
    }

    #[test]
    fn reads_and_refuses() {
        for good in ["10.0.0.1/8", "::/0", "fd00::1/64", "1.2.3.4/32", "0.0.0.0/0"] {
            assert_eq!(cidr(good).to_string(), good);
        }
        for bad in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "::/129",
            "a/8",
            "10.0.0.0/8/8",
        ] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts() {
        let net = cidr("172.17.5.9/16");
        assert_eq!(net.network().to_string(), "172.17.0.0/16");
        assert_eq!(net.last_offset(), 65535);
        assert_eq!(net.at(2), Some("172.17.0.2".parse().unwrap()));
        assert_eq!(net.at(65536), None);
        assert_eq!(net.offset("172.17.1.0".parse().unwrap()), Some(256));
        assert_eq!(net.offset("172.18.0.0".parse().unwrap()), None);
        assert_eq!(net.offset("::1".parse().unwrap()), None);
        assert_eq!(cidr("::/0").last_offset(), u128::MAX);
        assert!(cidr("::/0").contains("ff::1".parse().unwrap()));
        assert!(cidr("0.0.0.0/0").contains("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn splits() {
        let parts: Vec<String> = cidr("172.20.0.0/14").parts(16).map(|part| part.to_string()).collect();
        assert_eq!(parts, ["172.20.0.0/16", "172.21.0.0/16", "172.22.0.0/16", "172.23.0.0/16"]);
        assert_eq!(cidr("10.0.0.0/8").parts(7).count(), 0);
        assert_eq!(cidr("10.0.0.0/8").parts(33).count(), 0);
        assert_eq!(cidr("10.0.0.0/32").parts(32).count(), 1);
        assert_eq!(cidr("fd00::/48").parts(64).nth(2).unwrap().to_string(), "fd00:0:0:2::/64");
    }

    #[test]
    fn overlaps() {
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.1.0.0/16")));
        assert!(cidr("10.1.0.0/16").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.1.0.0/16").overlaps(&cidr("10.2.0.0/16")));
        assert!(!cidr("0.0.0.0/0").overlaps(&cidr("::/0")));
    }
}
