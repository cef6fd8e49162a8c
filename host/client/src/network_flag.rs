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

impl Networks {
    /// Adds to the main network's endpoint what the flags beside `--network` say.
    ///
    /// # Errors
    /// A flag that says what a word of `--network` says already.
    pub(crate) fn add_main(&mut self, flags: &EndpointFlags<'_>) -> Result<(), Error> {
        let said = flags.endpoint();
        if said.is_empty() {
            return Ok(());
        }
        let endpoint = self.endpoints.entry(key(&self.mode).to_owned()).or_insert_with(|| json!({}));
        let flagged = Value::from(said.clone());
        for (flag, place, word) in [
            ("--network-alias", "/Aliases", "alias"),
            ("--ip", "/IPAMConfig/IPv4Address", "IPv4 address"),
            ("--ip6", "/IPAMConfig/IPv6Address", "IPv6 address"),
            ("--mac-address", "/MacAddress", "MAC address"),
            ("--link-local-ip", "/IPAMConfig/LinkLocalIPs", "link-local IP addresses"),
        ] {
            if flagged.pointer(place).is_some() && endpoint.pointer(place).is_some() {
                let text = format!("conflicting options: cannot specify both {flag} and per-network {word}");
                return Err(Error::Usage(text));
            }
        }
        if let Value::Object(endpoint) = endpoint {
            for (key, value) in said {
                match (endpoint.get_mut(&key), value) {
                    (Some(Value::Object(there)), Value::Object(more)) => there.extend(more),
                    (_, value) => drop(endpoint.insert(key, value)),
                }
            }
        }
        Ok(())
    }
}

/// The flags of one endpoint, of whichever command.
#[derive(Debug, Default)]
pub(crate) struct EndpointFlags<'a> {
    /// Further names of the container.
    pub(crate) aliases: &'a [String],
    /// MAC address.
    pub(crate) mac: Option<&'a str>,
    /// IPv4 address.
    pub(crate) ip: Option<&'a str>,
    /// IPv6 address.
    pub(crate) ip6: Option<&'a str>,
    /// Link-local addresses.
    pub(crate) link_local: &'a [String],
}

impl EndpointFlags<'_> {
    /// `EndpointSettings` with nothing in it that no flag says.
    pub(crate) fn endpoint(&self) -> Map<String, Value> {
        let text = |value: Option<&str>| value.map(Value::from);
        let list = |list: &[String]| (!list.is_empty()).then(|| json!(list));
        let said = |all: Vec<(&str, Option<Value>)>| -> Map<String, Value> {
            all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
        };
        let config = said(vec![
            ("IPv4Address", text(self.ip)),
            ("IPv6Address", text(self.ip6)),
            ("LinkLocalIPs", list(self.link_local)),
        ]);
        said(vec![
            ("Aliases", list(self.aliases)),
            ("MacAddress", text(self.mac)),
            ("IPAMConfig", (!config.is_empty()).then(|| config.into())),
        ])
    }
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
    let mut all: Vec<(String, Map<String, Value>)> = Vec::new();
    for flag in flags {
        let (name, endpoint) = one(flag)?;
        if all.iter().any(|(other, _)| *other == name) {
            return Err(Error::Usage(format!("network \"{name}\" is specified multiple times")));
        }
        all.push((name, endpoint));
    }
    let several = all.len() > 1;
    let own = |name: &str| {
        !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:")
    };
    if several && !all.iter().all(|(name, _)| own(name)) {
        let text = "conflicting options: cannot attach both user-defined and non-user-defined network-modes";
        return Err(Error::Usage(text.into()));
    }
    let mode = all.first().map_or("default", |(name, _)| name).to_owned();
    // Of several Docker makes an endpoint of each.
    let said = all.into_iter().filter(|(_, endpoint)| several || !endpoint.is_empty());
    let endpoints = said.map(|(name, endpoint)| (key(&name).to_owned(), endpoint.into())).collect();
    Ok(Networks { mode, endpoints })
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

    #[test]
    fn flags_beside_the_words() {
        let (names, locals) = (["x".to_owned()], ["169.254.1.1".to_owned()]);
        let flags = EndpointFlags {
            aliases: &names,
            mac: Some("02:00:00:00:00:01"),
            ip: Some("10.0.0.2"),
            ip6: Some("fd00::5"),
            link_local: &locals,
        };
        let all = json!({"Aliases": ["x"], "MacAddress": "02:00:00:00:00:01", "IPAMConfig": {
            "IPv4Address": "10.0.0.2", "IPv6Address": "fd00::5", "LinkLocalIPs": ["169.254.1.1"]}});
        let with = |network: &[&str], flags: &EndpointFlags<'_>| {
            let mut networks = of(network).unwrap();
            networks.add_main(flags).map(|()| Value::from(networks.endpoints))
        };
        assert_eq!(with(&["one"], &flags).unwrap(), json!({"one": all}));
        assert_eq!(with(&[], &flags).unwrap(), json!({"bridge": all}));
        assert_eq!(with(&["one", "two"], &flags).unwrap(), json!({"one": all, "two": {}}));
        assert_eq!(with(&["one"], &EndpointFlags::default()).unwrap(), json!({}));
        // What the words leave open is added to them; what they say is not said again.
        let ip6 = EndpointFlags { ip6: Some("fd00::5"), ..EndpointFlags::default() };
        assert_eq!(
            with(&["name=one,ip=10.0.0.3,alias=y"], &ip6).unwrap(),
            json!({"one": {"Aliases": ["y"], "IPAMConfig": {"IPv4Address": "10.0.0.3", "IPv6Address": "fd00::5"}}})
        );
        for word in [
            "alias=y",
            "ip=10.0.0.3",
            "ip6=fd00::6",
            "mac-address=02:00:00:00:00:02",
            "link-local-ip=169.254.1.2",
        ] {
            let refused = with(&[&format!("name=one,{word}")], &flags).unwrap_err().to_string();
            assert!(refused.starts_with("conflicting options: cannot specify both --"), "{word}: {refused}");
        }
    }
}
