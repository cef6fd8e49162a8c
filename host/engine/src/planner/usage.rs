//! How full a subnet is.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// First address, size minus one, and whether it is IPv4; None where the text is no subnet.
fn span(cidr: &str) -> Option<(u128, u128, bool)> {
    let (ip, length) = cidr.split_once('/')?;
    let length: u32 = length.parse().ok()?;
    let (number, bits, v4) = match ip.parse().ok()? {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32, true),
        IpAddr::V6(ip) => (u128::from(ip), 128, false),
    };
    let host = bits - length.min(bits);
    let rest = if host == 128 { u128::MAX } else { (1 << host) - 1 };
    Some((number & !rest, rest, v4))
}

fn number(address: &str) -> Option<u128> {
    Some(match address.split('/').next()?.parse().ok()? {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    })
}

/// Addresses of a subnet that cannot be given any more, and those of its range that still can; both stop at 2^64 - 1. The
/// subnet's own address is reserved, and the broadcast address of IPv4.
pub fn subnet<'a>(
    cidr: &str,
    range: Option<&str>,
    used: impl IntoIterator<Item = &'a str>,
) -> Option<(u64, u64)> {
    let (first, rest, v4) = span(cidr)?;
    let last = first.checked_add(rest)?;
    let mut taken: BTreeSet<u128> =
        used.into_iter().filter_map(number).filter(|n| (first..=last).contains(n)).collect();
    // Two addresses or one are all hosts'.
    if rest > 1 {
        taken.insert(first);
        if v4 {
            taken.insert(last);
        }
    }
    let (low, size, _) = range.and_then(span).unwrap_or((first, rest, v4));
    let high = low.checked_add(size)?;
    let gone = taken.range(low..=high).count() as u128;
    let cut = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
    Some((cut(taken.len() as u128), cut(size.saturating_add(1).saturating_sub(gone))))
}

#[cfg(test)]
mod tests {
    use super::subnet;

    #[test]
    fn as_the_reference_counts() {
        for (cidr, range, used, wanted) in [
            ("172.16.0.0/16", None, vec!["172.16.0.1/16"], (3, 65_533)),
            ("10.0.0.0/24", None, vec![], (2, 254)),
            ("10.0.0.0/24", Some("10.0.0.128/25"), vec!["10.0.0.1", "10.0.0.130", "10.9.9.9"], (4, 126)),
            ("10.0.0.0/31", None, vec!["10.0.0.0"], (1, 1)),
            ("10.0.0.4/32", None, vec!["10.0.0.4"], (1, 0)),
            ("2001:db8::/96", None, vec!["2001:db8::1", "2001:db8::2"], (3, 4_294_967_293)),
            ("::/0", None, vec![], (1, u64::MAX)),
        ] {
            assert_eq!(subnet(cidr, range, used), Some(wanted), "{cidr}");
        }
        assert_eq!(subnet("nonsense", None, vec![]), None);
        assert_eq!(subnet("10.0.0.0/99", None, vec![]), Some((0, 1)));
    }
}
