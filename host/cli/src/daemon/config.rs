//! Command line and configuration file, merged as dockerd merges them: what stands in both is refused by name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::options::{Kind, OPTIONS, Opt, Role};

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
    pub(crate) mtu: u32,
    pub(crate) dns: Vec<String>,
    pub(crate) dns_search: Vec<String>,
    pub(crate) dns_opts: Vec<String>,
    pub(crate) cgroup_parent: String,
    pub(crate) exec_opts: Vec<String>,
    pub(crate) live_restore: bool,
    pub(crate) shutdown_timeout: u64,
    pub(crate) init: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) plugins: BTreeMap<String, Value>,
    /// Options that were given and change nothing, with the reason.
    #[serde(skip)]
    pub(crate) without_effect: Vec<(String, &'static str)>,
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
            shutdown_timeout: 15,
            init: false,
            no_new_privileges: false,
            plugins: BTreeMap::new(),
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
            Kind::List | Kind::Map | Kind::Object => arg.action(ArgAction::Append),
            Kind::Number => arg.allow_negative_numbers(true).action(ArgAction::Set),
            Kind::Text => arg.action(ArgAction::Set),
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
    let value = match option.kind {
        Kind::Bool => Value::Bool(matches!(one(), "true" | "1" | "t" | "True" | "TRUE")),
        Kind::Text => Value::String(one().to_owned()),
        Kind::Number => one().parse::<i64>().map(Value::from).map_err(|_| {
            Stop::Usage(format!(
                "invalid argument {:?} for \"--{flag}\" flag: a whole number is needed",
                one()
            ))
        })?,
        Kind::List => values.iter().map(|v| Value::String((*v).clone())).collect(),
        Kind::Map | Kind::Object => {
            let mut map = Map::new();
            for text in values {
                let (key, value) = text.split_once('=').ok_or_else(|| {
                    Stop::Usage(format!(
                        "invalid argument {text:?} for \"--{flag}\" flag: key=value is needed"
                    ))
                })?;
                map.insert(key.to_owned(), Value::String(value.to_owned()));
            }
            Value::Object(map)
        }
    };
    Ok(Some(value))
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
        Kind::Object => value.is_object(),
    }
}

fn described(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Text => "a text",
        Kind::Number => "a whole number",
        Kind::List => "a list",
        Kind::Map => "an object of texts",
        Kind::Object => "an object",
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
    check(&config)?;
    Ok(config)
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(shown).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}

/// What the types do not say.
fn check(config: &Config) -> Result<(), Stop> {
    if !["debug", "info", "warn", "error", "fatal", "panic", "trace"].contains(&config.log_level.as_str()) {
        return Err(Stop::Usage(format!("invalid logging level: {}", config.log_level)));
    }
    for label in &config.labels {
        if label.split_once('=').is_none_or(|(key, _)| key.is_empty()) {
            return Err(Stop::Usage(format!("bad attribute format: {label}: a label is key=value")));
        }
    }
    for option in &config.storage_opts {
        if !option.contains('=') {
            return Err(Stop::Usage(format!("unable to parse storage-opt {option:?}: key=value is needed")));
        }
    }
    for option in &config.exec_opts {
        match option.split_once('=') {
            Some(("native.cgroupdriver", "cgroupfs")) => {}
            Some(("native.cgroupdriver", other)) => {
                return Err(Stop::Usage(format!(
                    "--exec-opt native.cgroupdriver={other} is not supported: the engine makes cgroups itself (cgroupfs)"
                )));
            }
            _ => return Err(Stop::Usage(format!("invalid exec-opt {option:?}"))),
        }
    }
    for server in &config.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(Stop::Usage(format!("{server} is not an ip address")));
        }
    }
    for (name, path) in [("data-root", &config.data_root), ("exec-root", &config.exec_root)] {
        if !path.is_absolute() {
            return Err(Stop::Usage(format!("--{name} must be an absolute path, not {:?}", path.display())));
        }
    }
    if config.bridge.as_deref() == Some("none") {
        return Err(Stop::Usage(
            "--bridge none is not supported: the default network is always there".into(),
        ));
    }
    Ok(())
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
        let said: Vec<&str> = c.without_effect.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(said, ["--containerd", "--userland-proxy"]);
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
            (&["--tlsverify"], "--tlsverify true is not supported: TLS"),
            (&["--tlscert", "x"], "--tlscert is not supported: TLS"),
            (&["--userns-remap", "default"], "--userns-remap default is not supported"),
            (&["--exec-opt", "native.cgroupdriver=systemd"], "native.cgroupdriver=systemd is not supported"),
            (&["--dns", "x"], "x is not an ip address"),
            (&["--shutdown-timeout", "-1"], "invalid configuration"),
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
