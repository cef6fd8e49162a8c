//! Where a registry is to be found: mirrors, certificates, insecure registries. Plans; reads no file.
//!
//! Files are those that containerd and Docker use: `<dir>/<registry>/hosts.toml`, or `ca.crt`, `*.cert` and `*.key`
//! beside each other in that directory; `<dir>/_default/hosts.toml` for registries that have no directory.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indexmap::IndexMap;
use serde::Deserialize;
use url::Url;

use crate::error::{Error, Result};

/// Largest `hosts.toml`.
pub(crate) const MAX_FILE: u64 = 1 << 20;

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Mirrors of the Docker Hub, asked first.
    pub mirrors: Vec<String>,
    /// Registries without verified TLS: `host`, `host:port` or a range of addresses.
    pub insecure: Vec<String>,
    /// Directories with one directory per registry, the first that has one counts.
    pub directories: Vec<PathBuf>,
    /// Proxies.
    pub proxy: Proxy,
    /// How often a transfer is tried.
    pub attempts: u32,
    /// How long a transfer may bring next to nothing.
    pub stall: Duration,
    /// Who we are.
    pub user_agent: String,
}

/// Proxies, as in the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxy {
    /// For `http` addresses.
    pub http: String,
    /// For `https` addresses.
    pub https: String,
    /// For neither.
    pub none: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            insecure: Vec::new(),
            directories: Vec::new(),
            proxy: Proxy::default(),
            attempts: 5,
            stall: Duration::from_mins(1),
            user_agent: "wharf".into(),
        }
    }
}

/// What the server's certificate has to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Any certificate will do.
    pub skip_verify: bool,
    /// Authorities besides the system's.
    pub authorities: Vec<PathBuf>,
    /// Certificate and key to show.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host and port; the path is that of the API: `/v2/`.
    pub base: Url,
    /// Certificates.
    pub tls: Tls,
    /// Sent with every request to it.
    pub headers: Vec<(String, String)>,
    /// Tags may be resolved here.
    pub resolve: bool,
    /// Content may be fetched here.
    pub pull: bool,
    /// Content may be sent here.
    pub push: bool,
    /// The registry itself, which its credentials are for; others are mirrors.
    pub own: bool,
    /// The registry that a mirror stands for, told to it.
    pub namespace: Option<String>,
    /// Name of the repository there, if it is another one.
    pub repository: Option<String>,
    /// The administrator or a plugin named this address; else only the registry's name did.
    pub named: bool,
}

/// What was found in the directory of a registry.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Text of `hosts.toml`.
    pub text: Option<String>,
    /// Its directory: paths in the text are relative to it.
    pub directory: PathBuf,
    /// Certificates beside each other, as Docker has them.
    pub tls: Tls,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    server: Option<String>,
    host: IndexMap<String, Host>,
    #[serde(flatten)]
    root: Host,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<toml::Value>,
    skip_verify: bool,
    header: IndexMap<String, OneOrMany>,
    override_path: bool,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn list(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Many(many) => many.clone(),
        }
    }
}

/// Where a registry really is.
fn server(registry: &str) -> &str {
    if registry == "docker.io" { "registry-1.docker.io" } else { registry }
}

/// Host and port of `host:port`, `[v6]:port`.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
    .trim_matches(['[', ']'])
}

/// Whether an address is in a range, `10.0.0.0/8`.
fn in_range(range: &str, address: IpAddr) -> bool {
    let Some((net, bits)) = range.split_once('/') else { return false };
    let (Ok(net), Ok(bits)) = (net.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (net, address) {
        (IpAddr::V4(net), IpAddr::V4(address)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            u32::from(net) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(net), IpAddr::V6(address)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            u128::from(net) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

/// Whether it is this machine.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = host_of(authority);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

/// Whether the user said that a registry has no TLS to rely on.
fn is_insecure(registry: &str, settings: &Settings) -> bool {
    let host = host_of(registry);
    let address = host.parse::<IpAddr>().ok();
    settings.insecure.iter().any(|entry| {
        let entry = entry.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        entry == registry || entry == host || address.is_some_and(|a| in_range(entry, a))
    })
}

fn api(base: &str) -> Result<Url> {
    let url =
        Url::parse(base).map_err(|e| Error::invalid(format!("invalid registry address {base:?}: {e}")))?;
    let fine = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|h| !h.is_empty())
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if fine { Ok(url) } else { Err(Error::invalid(format!("invalid registry address {base:?}"))) }
}

/// With `/v2/` behind the path.
fn with_path(mut url: Url, override_path: bool) -> Url {
    let path = url.path().trim_end_matches('/');
    let path =
        if override_path || path.ends_with("/v2") { format!("{path}/") } else { format!("{path}/v2/") };
    url.set_path(&path);
    url
}

fn absolute(directory: &Path, name: &str) -> PathBuf {
    directory.join(name)
}

fn tls_of(host: &Host, directory: &Path) -> Result<Tls> {
    let client = match &host.client {
        None => None,
        Some(value) => {
            let pair = match value {
                toml::Value::String(one) => Some((one.clone(), one.clone())),
                toml::Value::Array(list) => match list.first() {
                    Some(toml::Value::String(one)) => Some((one.clone(), one.clone())),
                    Some(toml::Value::Array(pair)) => match (pair.first(), pair.get(1)) {
                        (Some(toml::Value::String(cert)), Some(toml::Value::String(key)))
                            if !key.is_empty() =>
                        {
                            Some((cert.clone(), key.clone()))
                        }
                        (Some(toml::Value::String(cert)), _) => Some((cert.clone(), cert.clone())),
                        _ => None,
                    },
                    _ => None,
                },
                _ => None,
            };
            let pair = pair.ok_or_else(|| Error::invalid("\"client\" must be a file or pairs of files"))?;
            Some((absolute(directory, &pair.0), absolute(directory, &pair.1)))
        }
    };
    Ok(Tls {
        skip_verify: host.skip_verify,
        authorities: host.ca.iter().flat_map(OneOrMany::list).map(|f| absolute(directory, &f)).collect(),
        client,
    })
}

fn endpoint(base: Url, host: &Host, directory: &Path) -> Result<Endpoint> {
    let can = |what: &str| host.capabilities.as_ref().is_none_or(|list| list.iter().any(|c| c == what));
    let mut headers = Vec::new();
    for (name, values) in &host.header {
        headers.extend(values.list().into_iter().map(|value| (name.clone(), value)));
    }
    Ok(Endpoint {
        base: with_path(base, host.override_path),
        tls: tls_of(host, directory)?,
        headers,
        resolve: can("resolve"),
        pull: can("pull"),
        push: can("push"),
        own: false,
        namespace: None,
        repository: None,
        named: true,
    })
}

/// A registry's address that may do what it is asked for. `own`: it is the registry itself, and so pushed to.
pub(crate) fn plain(base: Url, tls: Tls, own: bool) -> Endpoint {
    Endpoint {
        base: with_path(base, false),
        tls,
        headers: Vec::new(),
        resolve: true,
        pull: true,
        push: own,
        own,
        namespace: None,
        repository: None,
        named: !own,
    }
}

/// The registry itself, with the ways that its security allows.
fn own(registry: &str, settings: &Settings, tls: &Tls) -> Result<Vec<Endpoint>> {
    let host = server(registry);
    let secure = |tls: Tls| Ok::<_, Error>(plain(api(&format!("https://{host}"))?, tls, true));
    let known = !tls.authorities.is_empty() && !tls.skip_verify;
    let insecure = is_insecure(registry, settings);
    let named = insecure || *tls != Tls::default();
    let named = |endpoint: Endpoint| Endpoint { named, ..endpoint };
    if insecure || (is_loopback(registry) && !known) {
        let open = plain(api(&format!("http://{host}"))?, Tls::default(), true);
        return Ok(vec![named(secure(Tls { skip_verify: true, ..tls.clone() })?), named(open)]);
    }
    Ok(vec![named(secure(tls.clone())?)])
}

/// A place that a plugin says stands for a registry.
pub fn elsewhere(
    address: &str,
    repository: Option<&str>,
    headers: Vec<(String, String)>,
    push: bool,
) -> Result<Endpoint> {
    if let Some(path) = repository {
        crate::Repository::new("mirror", path)?;
    }
    let tls = Tls::default();
    let base = with_path(api(address)?, false);
    let repository = repository.map(str::to_owned);
    Ok(Endpoint {
        base,
        tls,
        headers,
        resolve: true,
        pull: true,
        push,
        own: false,
        namespace: None,
        repository,
        named: true,
    })
}

/// The places to ask for a registry's content, in order.
pub fn plan(registry: &str, settings: &Settings, found: &Found) -> Result<Vec<Endpoint>> {
    let mut endpoints = Vec::new();
    if let Some(text) = &found.text {
        let file: File = toml::from_str(text).map_err(|e| {
            let place = found.directory.join("hosts.toml");
            Error::invalid(format!("{}: {}", place.display(), e.message()))
        })?;
        for (address, host) in &file.host {
            let address =
                if address.contains("://") { address.clone() } else { format!("https://{address}") };
            let mut one = endpoint(api(&address)?, host, &found.directory)?;
            one.own = one.base.scheme() == "https" && one.base.authority() == server(registry);
            if !one.own {
                one.namespace = Some(registry.to_owned());
            }
            endpoints.push(one);
        }
        let tls = tls_of(&file.root, &found.directory)?;
        match &file.server {
            None => endpoints.extend(own(registry, settings, &tls)?),
            Some(address) => {
                let address =
                    if address.contains("://") { address.clone() } else { format!("https://{address}") };
                let mut base = api(&address)?;
                if base.host_str() == Some("docker.io") {
                    base = api("https://registry-1.docker.io")?;
                }
                let mut one = endpoint(base, &file.root, &found.directory)?;
                // The administrator says that this is the registry.
                one.own = true;
                endpoints.push(one);
            }
        }
        return Ok(endpoints);
    }
    if registry == "docker.io" {
        for mirror in &settings.mirrors {
            let base = api(mirror)?;
            let tls = Tls { skip_verify: is_insecure(base.authority(), settings), ..Tls::default() };
            endpoints.push(plain(base, tls, false));
        }
    }
    endpoints.extend(own(registry, settings, &found.tls)?);
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(registry: &str, settings: &Settings, text: Option<&str>) -> Vec<String> {
        let found = Found { text: text.map(str::to_owned), directory: "/d".into(), tls: Tls::default() };
        plan(registry, settings, &found).unwrap().into_iter().map(|e| e.base.to_string()).collect()
    }

    #[test]
    fn without_any_file() {
        let mut settings = Settings::default();
        assert_eq!(bases("docker.io", &settings, None), ["https://registry-1.docker.io/v2/"]);
        assert_eq!(bases("quay.io", &settings, None), ["https://quay.io/v2/"]);
        for local in ["localhost:5000", "127.3.0.1:80", "[::1]:5000"] {
            let found = bases(local, &settings, None);
            assert!(
                found.len() == 2 && found[0].starts_with("https") && found[1].starts_with("http:"),
                "{found:?}"
            );
        }
        assert_eq!(bases("10.1.2.3", &settings, None).len(), 1);
        settings.insecure = vec!["10.0.0.0/8".into(), "reg:5000".into(), "bare".into()];
        settings.mirrors = vec!["https://mirror.example/hub/".into()];
        for (registry, ways) in
            [("10.1.2.3", 2), ("11.1.2.3", 1), ("reg:5000", 2), ("reg:5001", 1), ("bare:1", 2)]
        {
            assert_eq!(bases(registry, &settings, None).len(), ways, "{registry}");
        }
        assert_eq!(
            bases("docker.io", &settings, None),
            ["https://mirror.example/hub/v2/", "https://registry-1.docker.io/v2/"]
        );
        let endpoints = plan("docker.io", &settings, &Found::default()).unwrap();
        assert_eq!(
            endpoints.iter().map(|e| (e.own, e.push)).collect::<Vec<_>>(),
            [(false, false), (true, true)]
        );
    }

    #[test]
    fn addresses_that_only_a_name_says() {
        let settings = Settings {
            insecure: vec!["127.0.0.2".into()],
            mirrors: vec!["http://127.0.0.1".into()],
            ..Settings::default()
        };
        let named = |registry: &str, found: &Found| -> Vec<bool> {
            plan(registry, &settings, found).unwrap().iter().map(|e| e.named).collect()
        };
        assert_eq!(named("localhost:5000", &Found::default()), [false, false]);
        assert_eq!(named("quay.io", &Found::default()), [false]);
        assert_eq!(named("127.0.0.2:5000", &Found::default()), [true, true]);
        assert_eq!(named("docker.io", &Found::default()), [true, false], "a mirror, and the registry itself");
        let text = Some("server = \"http://127.0.0.1:5000\"\n[host.\"http://10.0.0.1\"]\n".to_owned());
        assert_eq!(named("quay.io", &Found { text, ..Found::default() }), [true, true]);
        let tls = Tls { authorities: vec!["/ca".into()], ..Tls::default() };
        assert_eq!(named("localhost", &Found { tls, ..Found::default() }), [true]);
    }

    #[test]
    fn a_known_authority_makes_loopback_secure() {
        let tls = Tls { authorities: vec!["/ca".into()], ..Tls::default() };
        let found = Found { tls, ..Found::default() };
        let endpoints = plan("localhost:5000", &Settings::default(), &found).unwrap();
        assert_eq!(endpoints.len(), 1);
        assert!(!endpoints[0].tls.skip_verify);
    }

    #[test]
    fn hosts_files() {
        let text = r#"
server = "https://registry.example"
ca = "root.pem"
[host."https://z.example"]
capabilities = ["pull"]
client = [["a.cert", "a.key"]]
[host."https://z.example".header]
x-one = "1"
x-two = ["2", "3"]
[host."http://a.example:5000/deep/path"]
override_path = true
skip_verify = true
ca = ["b.pem", "/c.pem"]
"#;
        let found = Found { text: Some(text.into()), directory: "/d".into(), tls: Tls::default() };
        let endpoints = plan("registry.example", &Settings::default(), &found).unwrap();
        let bases: Vec<&str> = endpoints.iter().map(|e| e.base.as_str()).collect();
        assert_eq!(
            bases,
            ["https://z.example/v2/", "http://a.example:5000/deep/path/", "https://registry.example/v2/"]
        );
        let first = &endpoints[0];
        assert_eq!((first.pull, first.resolve, first.push, first.own), (true, false, false, false));
        assert_eq!(first.tls.client, Some(("/d/a.cert".into(), "/d/a.key".into())));
        assert_eq!(first.headers.len(), 3);
        assert_eq!(first.namespace.as_deref(), Some("registry.example"));
        assert_eq!(endpoints[1].tls.authorities, [PathBuf::from("/d/b.pem"), "/c.pem".into()]);
        assert_eq!(endpoints[2].tls.authorities, [PathBuf::from("/d/root.pem")]);
        assert!(endpoints[2].own);
    }

    #[test]
    fn wrong_files_are_told() {
        for text in ["server = 3", "[host.\"ftp://x\"]", "[host.\"https://u:p@x\"]", "= x", "client = 3"] {
            let found = Found { text: Some(text.into()), directory: "/d".into(), tls: Tls::default() };
            assert!(plan("r", &Settings::default(), &found).is_err(), "{text}");
        }
    }
}
