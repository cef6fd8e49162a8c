//! Content of /etc/hosts, /etc/hostname and /etc/resolv.conf.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::error::{Error, Result};

/// What host name resolution inside is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// The `search` line.
    pub search: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// Reads a resolv.conf; unknown lines do not count.
pub fn parse_resolv(text: &str) -> Resolver {
    let mut all = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => all.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => all.search = words.map(str::to_owned).collect(),
            Some("options") => all.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    all
}

fn loopback(server: &str) -> bool {
    let bare = server.split('%').next().unwrap_or(server);
    bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Of each line the first of these that says something.
pub fn first(of: &[&Resolver]) -> Resolver {
    let pick = |f: fn(&Resolver) -> &Vec<String>| {
        of.iter().map(|r| f(r)).find(|l| !l.is_empty()).cloned().unwrap_or_default()
    };
    Resolver { servers: pick(|r| &r.servers), search: pick(|r| &r.search), options: pick(|r| &r.options) }
}

/// The resolver of a container with a network of its own that asks name servers itself: as given, else the host's. The
/// host's loopback servers cannot be reached from there, nor those of a family that the container does not have; Docker's
/// public ones stand in when nothing else is left.
pub fn resolver(given: &Resolver, host: &Resolver, ipv6: bool) -> Resolver {
    let mut all = first(&[given, host]);
    if given.servers.is_empty() {
        all.servers.retain(|s| !loopback(s) && (ipv6 || !s.contains(':')));
        if all.servers.is_empty() {
            all.servers = vec!["8.8.8.8".into(), "8.8.4.4".into()];
        }
    }
    without_root(all)
}

/// `--dns-search .` is how no search domain is asked for.
pub fn without_root(mut all: Resolver) -> Resolver {
    all.search.retain(|s| s != ".");
    all
}

/// The value of the last `ndots` option that has one.
pub fn ndots(options: &[String]) -> Option<u32> {
    options.iter().rev().find_map(|option| option.strip_prefix("ndots:")?.parse().ok())
}

/// The resolv.conf of a container that asks the engine for names, which asks the servers of `given`, else the host's, for
/// others. Names of one word are to reach it as they are.
pub fn internal_conf(given: &Resolver, host: &Resolver) -> String {
    let mut all = without_root(first(&[given, host]));
    let behind = all
        .servers
        .iter()
        .map(|server| if given.servers.is_empty() { format!("host({server})") } else { server.clone() });
    let behind = behind.collect::<Vec<_>>().join(" ");
    all.servers = vec![wharf_kernel::net::NAME_SERVER.to_string()];
    if ndots(&all.options).is_none() {
        all.options.retain(|option| !option.starts_with("ndots:"));
        all.options.push("ndots:0".into());
    }
    // Docker's note, which people look for.
    format!("{}\n# ExtServers: [{behind}]\n", resolv_conf(&all))
}

/// A resolv.conf.
pub fn resolv_conf(r: &Resolver) -> String {
    let mut text = String::new();
    for server in &r.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !r.search.is_empty() {
        let _ = writeln!(text, "search {}", r.search.join(" "));
    }
    if !r.options.is_empty() {
        let _ = writeln!(text, "options {}", r.options.join(" "));
    }
    text
}

/// Checks one of `--dns`.
pub fn check_dns(server: &str) -> Result<()> {
    server
        .parse::<IpAddr>()
        .map(|_| ())
        .map_err(|_| Error::invalid(format!("invalid DNS server address: {server:?} is not an ip address")))
}

/// Checks words that go into resolv.conf.
pub fn check_words(words: &[String], what: &str) -> Result<()> {
    match words.iter().find(|w| w.is_empty() || w.chars().any(|c| c.is_whitespace() || c.is_control())) {
        Some(bad) => Err(Error::invalid(format!("invalid {what}: {bad:?}"))),
        None => Ok(()),
    }
}

/// Reads one of `--add-host`: `name:address`; `host-gateway` stands for the host.
pub fn extra_host(text: &str) -> Result<(&str, &str)> {
    let (name, address) = match text.split_once([':', '=']) {
        Some((name, address)) if !name.is_empty() => (name, address),
        _ => return Err(Error::invalid(format!("bad format for add-host: {text:?}"))),
    };
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid(format!("bad format for add-host: {text:?}")));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(Error::invalid(format!("invalid IP address in add-host: {address:?}")));
    }
    Ok((name, bare))
}

/// An /etc/hosts: `own` are the container's addresses, each with the names it has there.
pub fn hosts(own: &[(String, Vec<String>)], extra: &[(String, String)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    for (address, names) in own {
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(servers: &[&str]) -> Resolver {
        Resolver { servers: servers.iter().map(|s| (*s).to_owned()).collect(), ..Resolver::default() }
    }

    #[test]
    fn resolvers() {
        let host = parse_resolv(
            "# x\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch a b\noptions ndots:2\nfoo\n",
        );
        let none = Resolver::default();
        let own = resolver(&none, &host, false);
        assert_eq!(resolv_conf(&own), "nameserver 10.0.0.1\nsearch a b\noptions ndots:2\n");
        assert_eq!(first(&[&none, &none, &host]).servers, ["127.0.0.53", "10.0.0.1"]);
        assert_eq!(resolver(&none, &r(&["127.0.0.1"]), false).servers, ["8.8.8.8", "8.8.4.4"]);
        assert_eq!(resolver(&none, &r(&["fd00::1", "1.1.1.1"]), false).servers, ["1.1.1.1"]);
        assert_eq!(resolver(&none, &r(&["fd00::1", "1.1.1.1"]), true).servers, ["fd00::1", "1.1.1.1"]);
        assert_eq!(resolver(&r(&["127.0.0.1"]), &host, false).servers, ["127.0.0.1"]);
        let dot = Resolver { search: vec![".".into()], ..Resolver::default() };
        assert!(resolver(&dot, &host, false).search.is_empty());
    }

    #[test]
    fn names_are_asked_of_the_engine() {
        let host = parse_resolv("nameserver 127.0.0.53\nsearch a b\noptions edns0 ndots:x\n");
        let none = Resolver::default();
        assert_eq!(
            internal_conf(&none, &host),
            "nameserver 127.0.0.11\nsearch a b\noptions edns0 ndots:0\n\n# ExtServers: [host(127.0.0.53)]\n"
        );
        let given = Resolver { options: vec!["ndots:3".into()], search: vec![".".into()], ..r(&["1.1.1.1"]) };
        assert_eq!(
            internal_conf(&given, &host),
            "nameserver 127.0.0.11\noptions ndots:3\n\n# ExtServers: [1.1.1.1]\n"
        );
    }

    #[test]
    fn add_host() {
        assert_eq!(extra_host("db:10.0.0.1").unwrap(), ("db", "10.0.0.1"));
        assert_eq!(extra_host("db:[::1]").unwrap(), ("db", "::1"));
        assert_eq!(extra_host("h:host-gateway").unwrap(), ("h", "host-gateway"));
        assert_eq!(extra_host("db").unwrap_err().message, "bad format for add-host: \"db\"");
        assert_eq!(extra_host("db:x").unwrap_err().message, "invalid IP address in add-host: \"x\"");
        assert!(extra_host("a\nb:1.1.1.1").is_err());
        assert!(check_words(&["a\nnameserver 6.6.6.6".into()], "DNS search domain").is_err());
        assert!(check_dns("x").is_err());
    }

    #[test]
    fn hosts_file() {
        let text = hosts(&[("172.17.0.2".into(), vec!["c1".into()])], &[("db".into(), "10.0.0.9".into())]);
        assert!(text.ends_with("10.0.0.9\tdb\n172.17.0.2\tc1\n"));
    }
}
