//! Values of options that are more than a text.

use std::net::IpAddr;

use serde_json::{Value, json};
use wharf_plan::run::RLIMITS;

/// `soft[:hard]` of `--default-ulimit`.
pub(crate) fn ulimit(name: &str, text: &str) -> Result<Value, String> {
    let number = |t: &str| match t {
        "unlimited" => Ok(-1),
        t => t.parse::<i64>().map_err(|_| format!("invalid ulimit argument: {name}={text}")),
    };
    let (soft, hard) = match text.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(text)?, number(text)?),
    };
    check_ulimit(name, soft, hard)?;
    Ok(json!({"Name": name, "Soft": soft, "Hard": hard}))
}

/// What Docker refuses of a process limit, in its words.
pub(crate) fn check_ulimit(name: &str, soft: i64, hard: i64) -> Result<(), String> {
    if !RLIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    if soft < -1 || hard < -1 {
        return Err(format!("invalid ulimit value for {name}: -1 is the only negative one"));
    }
    Ok(())
}

/// `base=…,size=…` of `--default-address-pool`.
pub(crate) fn pool(text: &str) -> Result<Value, String> {
    let shape = || "a pool is base=10.0.0.0/8,size=24".to_owned();
    let (mut base, mut size) = (None, None);
    for part in text.split(',') {
        match part.split_once('=').ok_or_else(shape)? {
            ("base", value) => base = Some(value),
            ("size", value) => size = Some(value.parse::<u8>().map_err(|_| shape())?),
            (other, _) => return Err(format!("unexpected key '{other}' in '{part}'")),
        }
    }
    let (base, size) = (base.ok_or_else(shape)?, size.ok_or_else(shape)?);
    check_pool(base, size)?;
    Ok(json!({"base": base, "size": size}))
}

/// A pool that no network could come from is refused.
pub(crate) fn check_pool(base: &str, size: u8) -> Result<(), String> {
    let (ip, length) =
        cidr(base).map_err(|_| format!("invalid base pool {base:?}: invalid CIDR address: {base}"))?;
    let width = if ip.is_ipv4() { 32 } else { 128 };
    if size < length || size > width {
        return Err(format!(
            "invalid address pool: the size {size} must be between the base's prefix length {length} and {width}"
        ));
    }
    Ok(())
}

/// An address with the length of its prefix.
pub(crate) fn cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let bad = || format!("invalid CIDR address: {text}");
    let (ip, length) = text.split_once('/').ok_or_else(bad)?;
    let ip: IpAddr = ip.parse().map_err(|_| bad())?;
    let length: u8 = length.parse().map_err(|_| bad())?;
    if length > if ip.is_ipv4() { 32 } else { 128 } { Err(bad()) } else { Ok((ip, length)) }
}

/// A number of bytes, or a text with a unit; 0 where nothing is said.
pub(crate) fn size(value: &Value) -> Result<i64, String> {
    let text = match value {
        Value::Null => return Ok(0),
        Value::Number(n) => return n.as_i64().ok_or_else(|| format!("invalid size: '{n}'")),
        Value::String(text) => text.trim().to_ascii_lowercase(),
        other => return Err(format!("invalid size: '{other}'")),
    };
    let bad = || format!("invalid size: '{text}'");
    let bare = text.strip_suffix("ib").or_else(|| text.strip_suffix('b')).unwrap_or(&text);
    let (digits, shift) = match bare.as_bytes().last() {
        Some(b'k') => (bare.trim_end_matches('k'), 10),
        Some(b'm') => (bare.trim_end_matches('m'), 20),
        Some(b'g') => (bare.trim_end_matches('g'), 30),
        Some(b't') => (bare.trim_end_matches('t'), 40),
        _ => (bare, 0),
    };
    digits
        .trim()
        .parse::<i64>()
        .ok()
        .filter(|n| *n >= 0)
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{cidr, pool, size, ulimit};

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("64m", 64 << 20), ("64MiB", 64 << 20), ("1g", 1 << 30), ("5", 5), ("2 kb", 2048)]
        {
            assert_eq!(size(&json!(text)), Ok(bytes), "{text}");
        }
        assert_eq!(size(&json!(7)), Ok(7));
        assert_eq!(size(&Value::Null), Ok(0));
        for bad in ["", "-1m", "m", "9999999999999g", "1x"] {
            assert!(size(&json!(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_and_pools() {
        assert_eq!(ulimit("nofile", "1:2"), Ok(json!({"Name": "nofile", "Soft": 1, "Hard": 2})));
        assert_eq!(ulimit("core", "unlimited"), Ok(json!({"Name": "core", "Soft": -1, "Hard": -1})));
        assert!(ulimit("nofile", "x").is_err());
        assert_eq!(pool("base=10.0.0.0/8,size=24"), Ok(json!({"base": "10.0.0.0/8", "size": 24})));
        for bad in
            ["", "base=10.0.0.0/8", "size=24", "base=10.0.0.0/8,size=4", "base=x,size=24", "a=b,size=1"]
        {
            assert!(pool(bad).is_err(), "{bad}");
        }
        assert!(cidr("10.0.0.1/33").is_err());
        assert_eq!(cidr("fd00::/8").unwrap().1, 8);
    }
}
