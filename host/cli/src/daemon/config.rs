//! Command line and configuration file, merged as dockerd merges them: what stands in both is refused by name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::options::{Kind, OPTIONS, Opt, Role};
use super::{check, values};

/// A file larger than this is no configuration.
const MAX_FILE: u64 = 1024 * 1024;

/// Why there is no configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Help was asked for, and this is it.
    Help(String),
    /// The command line or the file is wrong.
    Usage(String),
}

/// The options that were given, by their names in the configuration file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Given {
    pub(crate) values: Map<String, Value>,
    pub(crate) config_file: Option<PathBuf>,
    /// Check the configuration and end.
    pub(crate) validate: bool,
}

/// What the daemon shall do, all of it decided.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct Config {
    pub(crate) hosts: Vec<String>,
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) storage_driver: String,
    pub(crate) storage_opts: Vec<String>,
    pub(crate) log_driver: String,
    pub(crate) log_opts: BTreeMap<String, String>,
    pub(crate) debug: bool,
    pub(crate) log_level: String,
    pub(crate) group: Option<String>,
    pub(crate) labels: Vec<String>,
    pub(crate) plugin_dirs: Vec<PathBuf>,
    pub(crate) allow_insecure_tcp: bool,
    pub(crate) bridge: Option<String>,
    pub(crate) bip: Option<String>,
    pub(crate) mtu: i64,
    pub(crate) dns: Vec<String>,
    pub(crate) dns_search: Vec<String>,
    pub(crate) dns_opts: Vec<String>,
    pub(crate) cgroup_parent: String,
    pub(crate) exec_opts: Vec<String>,
    pub(crate) live_restore: bool,
    pub(crate) shutdown_timeout: i64,
    pub(crate) cpu_rt_period: i64,
    pub(crate) cpu_rt_runtime: i64,
    pub(crate) init: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) plugins: BTreeMap<String, Value>,
    pub(crate) log_format: String,
    pub(crate) authorization_plugins: Vec<String>,
    pub(crate) metrics_addr: Option<String>,
    pub(crate) features: BTreeMap<String, bool>,
    pub(crate) oom_score_adjust: i32,
    pub(crate) tls: Option<bool>,
    pub(crate) tlsverify: Option<bool>,
    pub(crate) tlscacert: Option<PathBuf>,
    pub(crate) tlscert: Option<PathBuf>,
    pub(crate) tlskey: Option<PathBuf>,
    pub(crate) fixed_cidr: Option<String>,
    pub(crate) fixed_cidr_v6: Option<String>,
    pub(crate) default_gateway: Option<String>,
    pub(crate) default_gateway_v6: Option<String>,
    pub(crate) ipv6: bool,
    pub(crate) icc: bool,
    pub(crate) userland_proxy: bool,
    pub(crate) ip: String,
    pub(crate) ip_masq: bool,
    pub(crate) default_network_opts: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) default_address_pools: Vec<AddressPool>,
    pub(crate) host_gateway_ips: Vec<String>,
    pub(crate) default_ulimits: BTreeMap<String, Ulimit>,
    pub(crate) default_shm_size: Value,
    pub(crate) default_ipc_mode: String,
    pub(crate) default_cgroupns_mode: String,
    pub(crate) userns_remap: String,
    pub(crate) seccomp_profile: String,
    pub(crate) criu: String,
    pub(crate) selinux_enabled: bool,
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
    pub(crate) insecure_registries: Vec<String>,
    pub(crate) registry_config_dirs: Vec<PathBuf>,
    pub(crate) registry_stall_timeout: Option<i64>,
    pub(crate) registry_serve: Option<RegistryServe>,
    pub(crate) registry_mirrors: Vec<String>,
    pub(crate) image_gc: super::image_gc::Given,
    pub(crate) registry_push_compression: String,
    pub(crate) registry_push_compression_level: Option<i64>,
    pub(crate) max_concurrent_downloads: Option<i64>,
    pub(crate) max_concurrent_uploads: Option<i64>,
    pub(crate) max_download_attempts: Option<i64>,
    pub(crate) http_proxy: String,
    pub(crate) https_proxy: String,
    pub(crate) no_proxy: String,
    pub(crate) proxies: Proxies,
    pub(crate) runtimes: BTreeMap<String, Runtime>,
    pub(crate) default_runtime: String,
    pub(crate) experimental: bool,
    /// Options that were given and change nothing, with the reason.
    #[serde(skip)]
    pub(crate) without_effect: Vec<(String, &'static str)>,
}

/// Another runtime, as the file has it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Runtime {
    pub(crate) path: String,
    #[serde(rename = "runtimeArgs")]
    pub(crate) args: Vec<String>,
    #[serde(rename = "runtimeType")]
    pub(crate) kind: String,
    pub(crate) options: Map<String, Value>,
}

/// Networks to choose from.
#[derive(Debug, Clone, PartialEq, Deserialize, serde::Serialize)]
pub(crate) struct AddressPool {
    pub(crate) base: String,
    pub(crate) size: u8,
}

/// A process limit as the file has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Ulimit {
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) soft: i64,
    pub(crate) hard: i64,
}

/// Proxies as newer files have them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
#[allow(clippy::struct_field_names, reason = "the names of the file")]
pub(crate) struct Proxies {
    pub(crate) http_proxy: String,
    pub(crate) https_proxy: String,
    pub(crate) no_proxy: String,
}

/// A registry of the engine's own images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub(crate) struct RegistryServe {
    /// `host:port` to listen on.
    pub(crate) address: String,
    /// Certificate and key for TLS.
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    /// Users and their bcrypt hashes.
    pub(crate) htpasswd: Option<PathBuf>,
    pub(crate) anonymous_read: bool,
    pub(crate) read_only: bool,
    pub(crate) allow_insecure: bool,
    /// Bytes of one blob at most.
    pub(crate) max_upload: Value,
    /// Fetch what is not here from where its name means elsewhere.
    pub(crate) pull_through: bool,
    /// How long that stays after it was last asked for.
    pub(crate) pull_through_keep: Option<String>,
    /// Bytes of it at most.
    pub(crate) pull_through_size: Value,
    /// How long an upload may stand still before it is given up.
    pub(crate) upload_idle_timeout: Option<String>,
}

impl RegistryServe {
    /// Without what a running registry takes over: what is left needs a restart to change.
    pub(crate) fn fixed(&self) -> Self {
        Self {
            max_upload: Value::Null,
            pull_through_keep: None,
            pull_through_size: Value::Null,
            upload_idle_timeout: None,
            ..self.clone()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            data_root: "/var/lib/wharf".into(),
            exec_root: "/run/wharf".into(),
            pidfile: None,
            storage_driver: "overlay2".into(),
            storage_opts: Vec::new(),
            log_driver: "json-file".into(),
            log_opts: BTreeMap::new(),
            debug: false,
            log_level: "info".into(),
            group: None,
            labels: Vec::new(),
            plugin_dirs: Vec::new(),
            allow_insecure_tcp: false,
            bridge: None,
            bip: None,
            mtu: 0,
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_opts: Vec::new(),
            cgroup_parent: String::new(),
            exec_opts: Vec::new(),
            live_restore: false,
            criu: String::new(),
            shutdown_timeout: 15,
            cpu_rt_period: 0,
            cpu_rt_runtime: 0,
            init: false,
            no_new_privileges: false,
            plugins: BTreeMap::new(),
            log_format: "text".into(),
            authorization_plugins: Vec::new(),
            metrics_addr: None,
            features: BTreeMap::new(),
            oom_score_adjust: 0,
            tls: None,
            tlsverify: None,
            tlscacert: None,
            tlscert: None,
            tlskey: None,
            fixed_cidr: None,
            fixed_cidr_v6: None,
            default_gateway: None,
            default_gateway_v6: None,
            ipv6: false,
            icc: true,
            userland_proxy: true,
            ip: "0.0.0.0".into(),
            ip_masq: true,
            default_network_opts: BTreeMap::new(),
            default_address_pools: Vec::new(),
            host_gateway_ips: Vec::new(),
            default_ulimits: BTreeMap::new(),
            default_shm_size: Value::Null,
            default_ipc_mode: "private".into(),
            default_cgroupns_mode: String::new(),
            userns_remap: String::new(),
            seccomp_profile: String::new(),
            selinux_enabled: false,
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            insecure_registries: Vec::new(),
            registry_config_dirs: Vec::new(),
            registry_stall_timeout: None,
            registry_serve: None,
            registry_mirrors: Vec::new(),
            image_gc: super::image_gc::Given::default(),
            registry_push_compression: String::new(),
            registry_push_compression_level: None,
            max_concurrent_downloads: None,
            max_concurrent_uploads: None,
            max_download_attempts: None,
            http_proxy: String::new(),
            https_proxy: String::new(),
            no_proxy: String::new(),
            proxies: Proxies::default(),
            runtimes: BTreeMap::new(),
            default_runtime: "runc".into(),
            experimental: false,
            without_effect: Vec::new(),
        }
    }
}

fn command(name: &'static str) -> Command {
    let mut command = Command::new(name)
        .about("Runs the container engine")
        .version(wharf_engine::VERSION)
        .arg(Arg::new("config-file").long("config-file").help("Configuration file"))
        .arg(
            Arg::new("validate")
                .long("validate")
                .action(ArgAction::SetTrue)
                .help("Check the configuration and end"),
        );
    for option in OPTIONS.iter().filter(|o| !o.flag.is_empty()) {
        let mut arg = Arg::new(option.flag).long(option.flag).help(option.help);
        if let Some(letter) = option.short {
            arg = arg.short(letter);
        }
        arg = match option.kind {
            Kind::Bool => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(["true", "false", "1", "0", "t", "f", "True", "False", "TRUE", "FALSE"])
                .hide_possible_values(true)
                .action(ArgAction::Set),
            Kind::List
            | Kind::Map
            | Kind::Object
            | Kind::Ulimits
            | Kind::Pools
            | Kind::Nested
            | Kind::Switches
            | Kind::Runtimes => arg.action(ArgAction::Append),
            Kind::Number => arg.allow_negative_numbers(true).action(ArgAction::Set),
            Kind::Text | Kind::Size => arg.action(ArgAction::Set),
        };
        if option.role != Role::Works {
            arg = arg.hide(true);
        }
        command = command.arg(arg);
    }
    command
}

/// Reads a command line without the program's name.
pub(crate) fn parse(
    name: &'static str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Given, Stop> {
    let program = std::iter::once(OsString::from(name));
    let matches = command(name).try_get_matches_from(program.chain(arguments)).map_err(|e| {
        use clap::error::{ContextKind, ErrorKind};
        let what = e.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
        match e.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Help(e.to_string()),
            ErrorKind::UnknownArgument if what.starts_with('-') => {
                Stop::Usage(format!("unknown flag: {what}\nSee '{name} --help'."))
            }
            ErrorKind::UnknownArgument => Stop::Usage(format!(
                "{name} takes no arguments, but {what:?} was given\nSee '{name} --help'."
            )),
            _ => Stop::Usage(e.to_string().trim_start_matches("error: ").trim_end().to_owned()),
        }
    })?;
    let mut given = Given {
        config_file: matches.get_one::<String>("config-file").map(PathBuf::from),
        validate: matches.get_flag("validate"),
        ..Given::default()
    };
    for option in OPTIONS.iter().filter(|o| !o.flag.is_empty()) {
        if let Some(value) = from_flag(option, &matches)? {
            given.values.insert(option.key.to_owned(), value);
        }
    }
    Ok(given)
}

fn from_flag(option: &Opt, matches: &ArgMatches) -> Result<Option<Value>, Stop> {
    let Some(values) = matches.get_many::<String>(option.flag) else {
        return Ok(None);
    };
    let values: Vec<&String> = values.collect();
    let one = || values.last().map(|v| v.as_str()).unwrap_or_default();
    let flag = option.flag;
    let wrong = |text: &str, why: &str| {
        Stop::Usage(format!("invalid argument {text:?} for \"--{flag}\" flag: {why}"))
    };
    let value = match option.kind {
        Kind::Bool => Value::Bool(truth(one())),
        Kind::Text | Kind::Size => Value::String(one().to_owned()),
        Kind::Number => {
            one().parse::<i64>().map(Value::from).map_err(|_| wrong(one(), "a whole number is needed"))?
        }
        Kind::List => values.iter().map(|v| Value::String((*v).clone())).collect(),
        Kind::Pools => values
            .iter()
            .map(|text| values::pool(text).map_err(|why| wrong(text, &why)))
            .collect::<Result<Value, Stop>>()?,
        Kind::Map | Kind::Object | Kind::Ulimits | Kind::Nested | Kind::Switches | Kind::Runtimes => {
            let mut map = Map::new();
            for text in values {
                let (key, value) = text.split_once('=').ok_or_else(|| wrong(text, "key=value is needed"))?;
                let value = match option.kind {
                    Kind::Ulimits => values::ulimit(key, value).map_err(|why| wrong(text, &why))?,
                    Kind::Switches => Value::Bool(truth(value)),
                    Kind::Runtimes => {
                        if map.contains_key(key) {
                            return Err(wrong(text, &format!("runtime '{key}' was already defined")));
                        }
                        serde_json::json!({"path": value})
                    }
                    Kind::Nested => {
                        let (name, value) =
                            value.split_once('=').ok_or_else(|| wrong(text, "driver=key=value is needed"))?;
                        if let Some(Value::Object(inner)) = map.get_mut(key) {
                            inner.insert(name.to_owned(), Value::String(value.to_owned()));
                            continue;
                        }
                        serde_json::json!({name: value})
                    }
                    _ => Value::String(value.to_owned()),
                };
                map.insert(key.to_owned(), value);
            }
            Value::Object(map)
        }
    };
    Ok(Some(value))
}

fn truth(text: &str) -> bool {
    matches!(text, "true" | "1" | "t" | "True" | "TRUE" | "")
}

/// Reads a configuration file. One that was not asked for by name may be absent.
pub(crate) fn read_file(path: &Path, asked: bool) -> Result<Map<String, Value>, Stop> {
    let wrong = |why: String| {
        Stop::Usage(format!("unable to configure the daemon with file {}: {why}", path.display()))
    };
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !asked => return Ok(Map::new()),
        Err(e) => return Err(wrong(e.to_string())),
    };
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Err(wrong("it is no file of at most 1 MiB".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let value: Value = serde_json::from_str(&text).map_err(|e| wrong(format!("invalid JSON: {e}")))?;
    let Value::Object(map) = value else {
        return Err(wrong("it must hold a JSON object".into()));
    };
    let unknown: Vec<&str> =
        map.keys().map(String::as_str).filter(|key| OPTIONS.iter().all(|o| o.key != *key)).collect();
    if !unknown.is_empty() {
        return Err(wrong(format!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        )));
    }
    for option in OPTIONS {
        if let Some(value) = map.get(option.key)
            && !fits(option.kind, value)
        {
            return Err(wrong(format!("{} must be {}", option.key, described(option.kind))));
        }
    }
    Ok(map)
}

fn fits(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Bool => value.is_boolean(),
        Kind::Text => value.is_string(),
        Kind::Number => value.is_i64() || value.is_u64(),
        Kind::List => value.is_array(),
        Kind::Map => value.as_object().is_some_and(|m| m.values().all(Value::is_string)),
        Kind::Object | Kind::Runtimes | Kind::Ulimits => value.is_object(),
        Kind::Pools => value.as_array().is_some_and(|l| l.iter().all(Value::is_object)),
        Kind::Nested => value.as_object().is_some_and(|m| m.values().all(Value::is_object)),
        Kind::Switches => value.as_object().is_some_and(|m| m.values().all(Value::is_boolean)),
        Kind::Size => value.is_string() || value.is_u64(),
    }
}

fn described(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Text => "a text",
        Kind::Number => "a whole number",
        Kind::List => "a list",
        Kind::Map => "an object of texts",
        Kind::Object | Kind::Runtimes | Kind::Ulimits => "an object",
        Kind::Pools => "a list of objects",
        Kind::Nested => "an object of objects",
        Kind::Switches => "an object of true or false",
        Kind::Size => "a number of bytes or a text such as \"64m\"",
    }
}

/// Joins flags and file.
pub(crate) fn merge(given: &Given, path: &Path, file: Map<String, Value>) -> Result<Config, Stop> {
    let both: Vec<String> = given
        .values
        .iter()
        .filter_map(|(key, flag)| {
            let file = file.get(key)?;
            Some(format!("{key}: (from flag: {}, from file: {})", shown(flag), shown(file)))
        })
        .collect();
    if !both.is_empty() {
        return Err(Stop::Usage(format!(
            "unable to configure the daemon with file {}: the following directives are specified both as a flag and \
             in the configuration file: {}",
            path.display(),
            both.join(", ")
        )));
    }
    let mut all = file;
    all.extend(given.values.clone());
    let mut without_effect = Vec::new();
    for option in OPTIONS {
        let Some(value) = all.get(option.key) else { continue };
        let name =
            if option.flag.is_empty() { format!("{:?}", option.key) } else { format!("--{}", option.flag) };
        match option.role {
            Role::Works => continue,
            Role::NoEffect(why) => without_effect.push((name, why)),
            Role::Only(wanted, why) if shown(value) != wanted => {
                return Err(Stop::Usage(format!("{name} {} is not supported: {why}", shown(value))));
            }
            Role::Only(..) => {}
            Role::Refused(why) => return Err(Stop::Usage(format!("{name} is not supported: {why}"))),
        }
        all.remove(option.key);
    }
    let mut config: Config = serde_json::from_value(Value::Object(all))
        .map_err(|e| Stop::Usage(format!("invalid configuration: {e}")))?;
    config.without_effect = without_effect;
    check::all(&config)?;
    Ok(config)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Map, Value, json};

    use super::{Config, Given, OPTIONS, Stop, merge, parse, read_file};

    fn flags(arguments: &[&str]) -> Result<Given, Stop> {
        parse("wharf daemon", arguments.iter().map(Into::into))
    }

    fn config(arguments: &[&str], file: Value) -> Result<Config, String> {
        let Value::Object(file) = file else { panic!("no object") };
        let text = |stop| match stop {
            Stop::Usage(text) | Stop::Help(text) => text,
        };
        merge(&flags(arguments).map_err(text)?, Path::new("/d.json"), file).map_err(text)
    }

    #[test]
    fn the_table_is_sound() {
        for (n, option) in OPTIONS.iter().enumerate() {
            let same = |o: &&super::Opt| o.key == option.key || (!o.flag.is_empty() && o.flag == option.flag);
            assert!(OPTIONS[n + 1..].iter().find(same).is_none(), "{} twice", option.key);
        }
        super::command("x").debug_assert();
    }

    #[test]
    fn flags_as_dockerd_has_them() {
        let c = config(
            &[
                "-H",
                "unix:///a",
                "--host=tcp://127.0.0.1:1",
                "--data-root",
                "/d",
                "--exec-root=/e",
                "-p",
                "/p",
                "-D",
                "-s",
                "vfs",
                "--storage-opt",
                "a=b",
                "--log-opt",
                "max-size=1m",
                "--log-opt",
                "max-file=2",
                "-G",
                "g",
                "--label",
                "x=y",
                "--live-restore",
                "--init=false",
                "--mtu",
                "1400",
                "-l",
                "warn",
                "--containerd=/run/containerd/containerd.sock",
                "--iptables=true",
                "--userland-proxy=false",
            ],
            json!({"plugins": {"policy-no-privileged": {"enabled": true}}}),
        )
        .unwrap();
        assert_eq!(c.hosts, ["unix:///a", "tcp://127.0.0.1:1"]);
        assert_eq!((c.data_root.to_str(), c.exec_root.to_str()), (Some("/d"), Some("/e")));
        assert_eq!((c.debug, c.live_restore, c.init, c.mtu), (true, true, false, 1400));
        assert_eq!(c.log_opts.get("max-file").map(String::as_str), Some("2"));
        assert_eq!(c.plugins["policy-no-privileged"], json!({"enabled": true}));
        let mut said: Vec<&str> = c.without_effect.iter().map(|(name, _)| name.as_str()).collect();
        said.sort_unstable();
        assert_eq!(said, ["--containerd"]);
        assert!(!c.userland_proxy);
    }

    #[test]
    fn what_is_unknown_or_wrong_is_named() {
        for (arguments, said) in [
            (&["--nonsense"][..], "unknown flag: --nonsense\nSee 'wharf daemon --help'."),
            (&["--nonsense=5"], "unknown flag: --nonsense"),
            (&["-Z"], "unknown flag: -Z"),
            (&["start"], "takes no arguments, but \"start\" was given"),
            (&["--mtu", "many"], "invalid argument \"many\" for \"--mtu\" flag"),
            (&["--log-opt", "x"], "invalid argument \"x\" for \"--log-opt\" flag: key=value"),
            (&["--debug=maybe"], "maybe"),
            (&["--data-root"], "data-root"),
            (&["--log-level", "loud"], "invalid logging level: loud"),
            (&["--label", "x"], "bad attribute format: x"),
            (&["--data-root", "d"], "--data-root must be an absolute path"),
            (&["--iptables=false"], "--iptables false is not supported: the engine's nftables rules"),
            (&["--rootless"], "--rootless true is not supported"),
            (&["--init-path", "/x"], "--init-path is not supported: the engine brings its own"),
            (&["--default-ulimit", "nofile"], "key=value is needed"),
            (
                &["--default-ulimit", "nofile=2:1"],
                "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
            ),
            (&["--default-ulimit", "bogus=1"], "invalid ulimit type: bogus"),
            (&["--default-address-pool", "base=10.0.0.0/8"], "a pool is base=10.0.0.0/8,size=24"),
            (&["--default-address-pool", "base=x,size=24"], "invalid base pool \"x\""),
            (&["--default-shm-size", "big"], "invalid size: 'big'"),
            (&["--default-ipc-mode", "host"], "ipc mode \"host\" is not supported as default value"),
            (&["--default-cgroupns-mode", "x"], "cgroup mode \"x\" is not supported"),
            (&["--add-runtime", "x"], "key=value is needed"),
            (&["--add-runtime", "x=/a", "--add-runtime", "x=/b"], "runtime 'x' was already defined"),
            (
                &["--add-runtime", "x=nosuch-program"],
                "runtime x: executable \"nosuch-program\" not found in $PATH",
            ),
            (&["--add-runtime", "x=./rel"], "runtime x: \"./rel\" is not an absolute path"),
            (&["--add-runtime", "runc=/x"], "runtime name 'runc' is reserved"),
            (&["--add-runtime", "../x=/x"], "invalid runtime name: ../x"),
            (&["--default-runtime", "x"], "specified default runtime 'x' does not exist"),
            (&["--bip", "10.0.0.1/8", "-b", "br"], "You specified -b & --bip, mutually exclusive options"),
            (&["--bip", "nonsense"], "invalid CIDR address: nonsense"),
            (&["--mtu", "-1"], "invalid default MTU: -1"),
            (&["--max-concurrent-downloads", "-1"], "invalid max concurrent downloads: -1"),
            (&["--max-download-attempts", "0"], "invalid max download attempts: 0"),
            (&["--registry-mirror", "nonsense"], "invalid mirror"),
            (&["--insecure-registry", "http://x"], "insecure registry http://x should not contain '://'"),
            (&["--seccomp-profile", "/nonexistent"], "/nonexistent"),
            (&["--label", "a=b", "--label", "a=c"], "conflict labels for a=b and a=c"),
            (&["--metrics-addr", "x"], "invalid metrics address \"x\""),
            (&["--metrics-addr", "0.0.0.0:9323"], "refusing to serve metrics on 0.0.0.0:9323"),
            (&["--exec-opt", "native.cgroupdriver=x"], "exec-opt native.cgroupdriver=x"),
            (&["--exec-opt", "x"], "invalid exec-opt"),
            (&["--dns", "x"], "x is not an ip address"),
            (&["--shutdown-timeout", "-2"], "invalid shutdown timeout"),
        ] {
            let text = config(arguments, json!({})).unwrap_err();
            assert!(text.contains(said), "{arguments:?}: {text}");
        }
        assert!(matches!(flags(&["--help"]), Err(Stop::Help(text)) if text.contains("--data-root")));
    }

    #[test]
    fn a_directive_in_both_places_is_refused_by_name() {
        let text =
            config(&["--debug", "--label", "a=b"], json!({"debug": false, "labels": ["c=d"], "mtu": 5}))
                .unwrap_err();
        assert_eq!(
            text,
            "unable to configure the daemon with file /d.json: the following directives are specified both as a flag \
             and in the configuration file: debug: (from flag: true, from file: false), labels: (from flag: [a=b], \
             from file: [c=d])"
        );
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        assert_eq!(read_file(&path, false), Ok(Map::new()));
        assert!(matches!(read_file(&path, true), Err(Stop::Usage(text)) if text.contains("daemon.json")));
        for (content, said) in [
            (r#"{"debug": true, "foo": 1, "bar": 2}"#, "don't match any configuration option: bar, foo"),
            (r#"{"debug": "yes"}"#, "debug must be true or false"),
            (r#"{"hosts": "unix:///a"}"#, "hosts must be a list"),
            (r#"{"log-opts": {"a": 1}}"#, "log-opts must be an object of texts"),
            ("{", "invalid JSON"),
            ("[]", "must hold a JSON object"),
        ] {
            std::fs::write(&path, content).unwrap();
            let Err(Stop::Usage(text)) = read_file(&path, true) else { panic!("{content} was accepted") };
            assert!(text.contains(said) && text.contains("daemon.json"), "{content}: {text}");
        }
        std::fs::write(&path, "  \n").unwrap();
        assert_eq!(read_file(&path, true), Ok(Map::new()));
        assert!(read_file(dir.path(), true).is_err());
    }
}
