//! `--network` of `run` and `create`: a name, or words `name=…,alias=…`; the first is the container's network mode.

use serde_json::{Map, Value, json};

use crate::Error;

/// What the flags ask for: the network mode and the endpoints that say more than a name.
#[derive(Debug, PartialEq)]
pub(crate) struct Networks {
    /// `NetworkMode`.
    pub(crate) mode: String,
    /// `EndpointsConfig`.
    pub(crate) endpoints: Map<String, Value>,
}

/// The key of an endpoint in `EndpointsConfig`.
pub(crate) fn key(mode: &str) -> &str {
    if mode == "default" { "bridge" } else { mode }
}

/// Reads all flags.
///
/// # Errors
/// A word that is none, a name twice, or kinds of networks that exclude each other.
pub(crate) fn parse(flags: &[String]) -> Result<Networks, Error> {
    let mut all = Networks { mode: "default".into(), endpoints: Map::new() };
    let mut names: Vec<String> = Vec::new();
    for flag in flags {
        let (name, endpoint) = one(flag)?;
        if names.contains(&name) {
            return Err(Error::Usage(format!("network \"{name}\" is specified multiple times")));
        }
        if names.is_empty() {
            all.mode.clone_from(&name);
        }
        if !endpoint.is_empty() || !names.is_empty() {
            all.endpoints.insert(key(&name).to_owned(), endpoint.into());
        }
        names.push(name);
    }
    if names.len() > 1 {
        // Docker makes an endpoint of each then.
        all.endpoints.entry(key(&all.mode).to_owned()).or_insert_with(|| json!({}));
        let own = |name: &String| {
            !matches!(name.as_str(), "default" | "bridge" | "host" | "none")
                && !name.starts_with("container:")
        };
        if !names.iter().all(own) {
            let text =
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes";
            return Err(Error::Usage(text.into()));
        }
    }
    Ok(all)
}

/// Name and endpoint of one flag.
fn one(flag: &str) -> Result<(String, Map<String, Value>), Error> {
    if !flag.contains('=') {
        let name = flag.trim();
        if name.is_empty() {
            return Err(Error::Usage("no name set for network".into()));
        }
        return Ok((name.to_owned(), Map::new()));
    }
    let (mut name, mut endpoint, mut config) = (String::new(), Map::new(), Map::new());
    let push = |map: &mut Map<String, Value>, key: &str, value: &str| {
        if let Value::Array(list) = map.entry(key.to_owned()).or_insert_with(|| json!([])) {
            list.push(value.into());
        }
    };
    for word in flag.split(',') {
        let Some((key, value)) = word.split_once('=') else {
            return Err(Error::Usage(format!("invalid field {word} in --network '{flag}': use key=value")));
        };
        let value = value.trim();
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => value.clone_into(&mut name),
            "alias" => push(&mut endpoint, "Aliases", value),
            "ip" => drop(config.insert("IPv4Address".into(), value.into())),
            "ip6" => drop(config.insert("IPv6Address".into(), value.into())),
            "link-local-ip" => push(&mut config, "LinkLocalIPs", value),
            "mac-address" => drop(endpoint.insert("MacAddress".into(), value.into())),
            "gw-priority" => match value.parse::<i64>() {
                Ok(number) => drop(endpoint.insert("GwPriority".into(), number.into())),
                Err(_) => return Err(Error::Usage(format!("invalid gw-priority: {value} is no number"))),
            },
            "driver-opt" => {
                let Some((option, value)) = value.split_once('=') else {
                    return Err(Error::Usage("invalid key value pair format in driver options".into()));
                };
                let options = endpoint.entry("DriverOpts").or_insert_with(|| json!({}));
                if let Value::Object(options) = options {
                    options.insert(option.to_owned(), value.into());
                }
            }
            other => return Err(Error::Usage(format!("invalid field key {other}"))),
        }
    }
    if name.is_empty() {
        return Err(Error::Usage("network mode syntax requires a name: use name=NETWORK".into()));
    }
    if !config.is_empty() {
        endpoint.insert("IPAMConfig".into(), config.into());
    }
    Ok((name, endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(flags: &[&str]) -> Result<Networks, Error> {
        parse(&flags.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn names_and_words() {
        let mode = |flags: &[&str]| of(flags).map(|n| (n.mode, Value::from(n.endpoints))).unwrap();
        assert_eq!(mode(&[]), ("default".into(), json!({})));
        assert_eq!(mode(&["host"]), ("host".into(), json!({})));
        assert_eq!(mode(&["one", "two"]), ("one".into(), json!({"one": {}, "two": {}})));
        assert_eq!(
            mode(&[
                "name=one,alias=a,alias=b,ip=10.0.0.2,driver-opt=k=v,gw-priority=3,mac-address=02:00:00:00:00:01"
            ]),
            (
                "one".into(),
                json!({"one": {"Aliases": ["a", "b"], "IPAMConfig": {"IPv4Address": "10.0.0.2"}, "DriverOpts": {"k": "v"},
                    "GwPriority": 3, "MacAddress": "02:00:00:00:00:01"}})
            )
        );
        for bad in [
            &["one", "one"][..],
            &["one", "host"],
            &["bridge", "one"],
            &[""],
            &["name="],
            &["alias=a"],
            &["name=a,foo=b"],
            &["name=a,gw-priority=x"],
            &["name=a,driver-opt=x"],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
