//! A container's configuration: what was asked for on top of what its image says.

use std::collections::HashMap;

use wharf_images::ImageConfig;

use crate::error::{Error, Result};
use crate::models::{ContainerConfig, ContainerCreateBody, HealthConfig, HostConfig, NetworkingConfig};
use crate::planner::{names, signals, user};

/// At most so many bytes of arguments and environment: the kernel refuses more with a text nobody understands.
const ARGUMENTS_LIMIT: usize = 1 << 21;
/// At most so many entries of a list of a request.
pub const LIST_LIMIT: usize = 10_000;

/// The three parts of a create request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// What the process is.
    pub config: ContainerConfig,
    /// How the host runs it.
    pub host: HostConfig,
    /// What networks it joins.
    pub networking: NetworkingConfig,
}

impl From<ContainerCreateBody> for Request {
    fn from(b: ContainerCreateBody) -> Self {
        let config = ContainerConfig {
            hostname: b.hostname,
            domainname: b.domainname,
            user: b.user,
            attach_stdin: b.attach_stdin,
            attach_stdout: b.attach_stdout,
            attach_stderr: b.attach_stderr,
            exposed_ports: b.exposed_ports,
            tty: b.tty,
            open_stdin: b.open_stdin,
            stdin_once: b.stdin_once,
            env: b.env,
            cmd: b.cmd,
            healthcheck: b.healthcheck,
            args_escaped: b.args_escaped,
            image: b.image,
            volumes: b.volumes,
            working_dir: b.working_dir,
            entrypoint: b.entrypoint,
            network_disabled: b.network_disabled,
            on_build: b.on_build,
            labels: b.labels,
            stop_signal: b.stop_signal,
            stop_timeout: b.stop_timeout,
            shell: b.shell,
        };
        Self {
            config,
            host: b.host_config.unwrap_or_default(),
            networking: b.networking_config.unwrap_or_default(),
        }
    }
}

/// Name of an environment entry.
fn env_name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// `base` with `over` on top; names keep their first place.
pub fn merge_env(base: &[String], over: &[String]) -> Vec<String> {
    let mut all: Vec<String> = over.to_vec();
    let named: std::collections::HashSet<&str> = over.iter().map(|e| env_name(e)).collect();
    // Docker puts the image's own entries behind the request's.
    all.extend(base.iter().filter(|e| !named.contains(env_name(e))).cloned());
    all
}

/// Puts the request on top of the image's configuration, and checks the result.
pub fn merge(mut config: ContainerConfig, image: &ImageConfig) -> Result<ContainerConfig> {
    if config.user.as_deref().unwrap_or("").is_empty() {
        config.user = Some(image.user.clone());
    }
    let mut ports = config.exposed_ports.take().unwrap_or_default();
    for port in image.exposed_ports.iter().flat_map(|m| m.keys()) {
        if !ports.contains(port) {
            ports.push(port.clone());
        }
    }
    config.exposed_ports = (!ports.is_empty()).then_some(ports);
    let own = config.env.take().unwrap_or_default();
    for entry in &own {
        if env_name(entry).is_empty() || entry.contains('\0') {
            return Err(Error::invalid(format!("invalid environment variable: {entry}")));
        }
    }
    config.env = Some(merge_env(image.env.as_deref().unwrap_or_default(), &own));
    let mut labels: HashMap<String, String> =
        image.labels.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    labels.extend(config.labels.take().unwrap_or_default());
    config.labels = Some(labels);
    let no_entrypoint = config.entrypoint.as_ref().is_none_or(Vec::is_empty);
    let no_cmd = config.cmd.as_ref().is_none_or(Vec::is_empty);
    if no_entrypoint {
        if no_cmd {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // `--entrypoint ""` arrives as one empty string and means none at all.
    if config.entrypoint.as_ref().is_some_and(|e| matches!(e.as_slice(), [only] if only.is_empty())) {
        config.entrypoint = None;
    }
    if config.working_dir.as_deref().unwrap_or("").is_empty() {
        config.working_dir = Some(image.working_dir.clone());
    }
    let mut volumes = config.volumes.take().unwrap_or_default();
    for path in image.volumes.iter().flat_map(|m| m.keys()) {
        if !volumes.contains(path) {
            volumes.push(path.clone());
        }
    }
    config.volumes = (!volumes.is_empty()).then_some(volumes);
    if config.stop_signal.as_deref().unwrap_or("").is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    if config.on_build.is_none() {
        config.on_build.clone_from(&image.on_build);
    }
    if config.shell.is_none() {
        config.shell.clone_from(&image.shell);
    }
    merge_health(&mut config, image);
    check(&config)?;
    Ok(config)
}

fn merge_health(config: &mut ContainerConfig, image: &ImageConfig) {
    let Some(base) = &image.healthcheck else { return };
    let own = config.healthcheck.get_or_insert_default();
    if own.test.as_ref().is_none_or(Vec::is_empty) {
        own.test = Some(base.test.clone());
    }
    let fill = |to: &mut Option<i64>, from: i64| {
        if to.unwrap_or(0) == 0 && from != 0 {
            *to = Some(from);
        }
    };
    fill(&mut own.interval, base.interval);
    fill(&mut own.timeout, base.timeout);
    fill(&mut own.start_period, base.start_period);
    fill(&mut own.start_interval, base.start_interval);
    fill(&mut own.retries, base.retries);
}

fn check_health(health: &HealthConfig) -> Result<()> {
    const MILLISECOND: i64 = 1_000_000;
    for (value, what) in [
        (health.interval, "Interval"),
        (health.timeout, "Timeout"),
        (health.start_period, "StartPeriod"),
        (health.start_interval, "StartInterval"),
    ] {
        if value.is_some_and(|v| v != 0 && v < MILLISECOND) {
            return Err(Error::invalid(format!("{what} in Healthcheck cannot be less than 1ms")));
        }
    }
    if health.retries.is_some_and(|r| r < 0) {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    Ok(())
}

fn check(config: &ContainerConfig) -> Result<()> {
    let size: usize = command(config).iter().chain(config.env.iter().flatten()).map(|s| s.len() + 9).sum();
    if size > ARGUMENTS_LIMIT {
        return Err(Error::invalid(format!(
            "arguments and environment take {size} bytes, at most {ARGUMENTS_LIMIT} are possible"
        )));
    }
    if command(config).iter().any(|a| a.contains('\0')) {
        return Err(Error::invalid("arguments cannot contain a NUL byte"));
    }
    let lists = [
        config.env.as_ref().map_or(0, Vec::len),
        config.exposed_ports.as_ref().map_or(0, Vec::len),
        config.volumes.as_ref().map_or(0, Vec::len),
        config.labels.as_ref().map_or(0, HashMap::len),
    ];
    if lists.iter().any(|n| *n > LIST_LIMIT) {
        return Err(Error::invalid(format!("a list of the request has more than {LIST_LIMIT} entries")));
    }
    if let Some(dir) = config.working_dir.as_deref().filter(|d| !d.is_empty())
        && !dir.starts_with('/')
    {
        return Err(Error::invalid(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        )));
    }
    if config.working_dir.as_deref().is_some_and(|d| d.contains('\0')) {
        return Err(Error::invalid("the working directory is invalid, it contains a NUL byte"));
    }
    if let Some(signal) = config.stop_signal.as_deref().filter(|s| !s.is_empty()) {
        signals::parse(signal)?;
    }
    for (host, what) in [(&config.hostname, "hostname"), (&config.domainname, "domainname")] {
        let Some(host) = host.as_deref().filter(|h| !h.is_empty()) else { continue };
        let good = host.len() <= 64
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            && !host.starts_with(['-', '.']);
        if !good {
            return Err(Error::invalid(format!("invalid {what} format: {host}")));
        }
    }
    user::check(config.user.as_deref().unwrap_or(""))?;
    if let Some(health) = &config.healthcheck {
        check_health(health)?;
    }
    if command(config).is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    Ok(())
}

/// Entrypoint and command together: argv.
pub fn command(config: &ContainerConfig) -> Vec<String> {
    config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten()).cloned().collect()
}

/// What `hostname` says inside: as asked, else the short id.
pub fn hostname(config: &ContainerConfig, id: &str) -> String {
    config.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| names::short(id).to_owned())
}

/// The environment of a container's process, in the order in which Docker has it.
pub fn process_env(config: &ContainerConfig, hostname: &str, home: &str) -> Vec<String> {
    let own = config.env.as_deref().unwrap_or_default();
    let mut env = vec![
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        format!("HOSTNAME={hostname}"),
    ];
    if config.tty == Some(true) {
        env.push("TERM=xterm".into());
    }
    for entry in own {
        // A name without a value takes the variable away.
        let name = env_name(entry);
        env.retain(|e| env_name(e) != name);
        if entry.contains('=') {
            env.push(entry.clone());
        }
    }
    if !env.iter().any(|e| env_name(e) == "HOME") {
        env.push(format!("HOME={home}"));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "the models' fields are options")]
    fn s(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|s| (*s).to_owned()).collect())
    }

    fn image() -> ImageConfig {
        ImageConfig {
            user: "app".into(),
            env: s(&["PATH=/bin", "A=1"]),
            entrypoint: s(&["/entry"]),
            cmd: s(&["serve"]),
            working_dir: "/srv".into(),
            stop_signal: Some("SIGINT".into()),
            labels: Some([("l".to_owned(), "image".to_owned())].into()),
            ..ImageConfig::default()
        }
    }

    fn argv(entrypoint: Option<Vec<String>>, cmd: Option<Vec<String>>, image: &ImageConfig) -> Vec<String> {
        let config = ContainerConfig { entrypoint, cmd, ..ContainerConfig::default() };
        command(&merge(config, image).unwrap())
    }

    #[test]
    fn entrypoint_and_command() {
        assert_eq!(argv(None, None, &image()), ["/entry", "serve"]);
        assert_eq!(argv(None, s(&["x"]), &image()), ["/entry", "x"]);
        assert_eq!(argv(s(&["/e"]), None, &image()), ["/e"]);
        assert_eq!(argv(s(&["/e"]), s(&["x"]), &image()), ["/e", "x"]);
        assert_eq!(argv(s(&[""]), s(&["x"]), &image()), ["x"]);
        let e = merge(ContainerConfig::default(), &ImageConfig::default()).unwrap_err();
        assert_eq!(e.message, "no command specified");
    }

    #[test]
    fn image_fills_in() {
        let config = ContainerConfig {
            env: s(&["A=2", "B"]),
            labels: Some([("l".to_owned(), "own".to_owned())].into()),
            ..ContainerConfig::default()
        };
        let merged = merge(config, &image()).unwrap();
        assert_eq!(merged.user.as_deref(), Some("app"));
        assert_eq!(merged.working_dir.as_deref(), Some("/srv"));
        assert_eq!(merged.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(merged.env, s(&["A=2", "B", "PATH=/bin"]));
        assert_eq!(merged.labels.unwrap()["l"], "own");
    }

    #[test]
    fn process_environment() {
        let config = ContainerConfig { env: s(&["A=1", "PATH", "HOSTNAME=h"]), ..ContainerConfig::default() };
        assert_eq!(process_env(&config, "c1", "/root"), ["A=1", "HOSTNAME=h", "HOME=/root"]);
        let tty = ContainerConfig { tty: Some(true), ..ContainerConfig::default() };
        assert!(process_env(&tty, "c1", "/").contains(&"TERM=xterm".to_owned()));
    }

    #[test]
    fn bad_ones() {
        let base = || ContainerConfig { cmd: s(&["x"]), ..ContainerConfig::default() };
        let image = ImageConfig::default();
        let cases: Vec<(ContainerConfig, &str)> = vec![
            (ContainerConfig { env: s(&["=x"]), ..base() }, "invalid environment variable: =x"),
            (ContainerConfig { env: s(&[""]), ..base() }, "invalid environment variable: "),
            (
                ContainerConfig { working_dir: Some("rel".into()), ..base() },
                "the working directory 'rel' is invalid, it needs to be an absolute path",
            ),
            (ContainerConfig { stop_signal: Some("FOO".into()), ..base() }, "invalid signal: FOO"),
            (ContainerConfig { hostname: Some("a b".into()), ..base() }, "invalid hostname format: a b"),
            (
                ContainerConfig { user: Some("4294967296".into()), ..base() },
                "uids and gids must be in range 0-2147483647",
            ),
            (
                ContainerConfig {
                    healthcheck: Some(HealthConfig { interval: Some(5), ..HealthConfig::default() }),
                    ..base()
                },
                "Interval in Healthcheck cannot be less than 1ms",
            ),
        ];
        for (config, text) in cases {
            let e = merge(config, &image).unwrap_err();
            assert_eq!((e.kind, e.message.as_str()), (crate::Kind::Invalid, text));
        }
        let long =
            ContainerConfig { cmd: Some(vec!["x".repeat(ARGUMENTS_LIMIT)]), ..ContainerConfig::default() };
        assert!(merge(long, &image).unwrap_err().message.contains("at most"));
    }
}
