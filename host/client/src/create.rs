//! From the flags of `run` and `create` to the body of `POST /containers/create`.

use serde_json::{Map, Value, json};

use crate::args::CreateArgs;
use crate::{Error, error, network_flag, rest, units};

/// `key=value` pairs as an object; a key alone has an empty value.
pub(crate) fn pairs(list: &[String]) -> Value {
    list.iter()
        .map(|item| item.split_once('=').unwrap_or((item, "")))
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect::<Map<_, _>>()
        .into()
}

fn usage<T>(text: String) -> Result<T, Error> {
    Err(Error::Usage(text))
}

/// Variables without a value take this process's own; unset ones are left out.
pub(crate) fn environment(list: &[String]) -> Vec<String> {
    list.iter()
        .filter_map(|item| {
            if item.contains('=') {
                return Some(item.clone());
            }
            std::env::var(item).ok().map(|value| format!("{item}={value}"))
        })
        .collect()
}

/// The lines of files of `--env-file` and `--label-file` that say something.
pub(crate) fn lines(files: &[String]) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for file in files {
        let content =
            std::fs::read_to_string(file).map_err(|e| Error::Usage(error::doing("open", file, &e)))?;
        let lines = content.lines().map(str::trim_start).filter(|l| !l.is_empty() && !l.starts_with('#'));
        all.extend(lines.map(str::to_owned));
    }
    Ok(all)
}

/// The variables of `--env-file`.
pub(crate) fn env_files(files: &[String]) -> Result<Vec<String>, Error> {
    Ok(environment(&lines(files)?))
}

/// One `--publish`: `[ip:][host[-end]:]container[-end][/protocol]`.
struct Published {
    ip: String,
    host: Option<(u16, u16)>,
    container: (u16, u16),
    protocol: String,
}

fn range(text: &str, whole: &str) -> Result<(u16, u16), Error> {
    let port = |t: &str| match t.parse::<u16>() {
        Ok(port) => Ok(port),
        Err(_) => usage(format!("invalid publish '{whole}': invalid port '{t}' (use 1 to 65535)")),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        return usage(format!("invalid publish '{whole}': the range {text} runs backwards"));
    }
    Ok((first, last))
}

fn published(text: &str) -> Result<Published, Error> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !["tcp", "udp", "sctp"].contains(&protocol) {
        return usage(format!("invalid publish '{text}': invalid proto '{protocol}' (use tcp, udp or sctp)"));
    }
    let (rest, container) = rest.rsplit_once(':').map_or(("", rest), |(a, b)| (a, b));
    let (ip, host) = match rest.rsplit_once(':') {
        // An address in brackets, or with one host port behind it.
        Some((ip, host)) if !host.contains(']') => (ip, host),
        _ if rest.contains(['.', ']']) => (rest, ""),
        _ => ("", rest),
    };
    let container = range(container, text)?;
    let host = if host.is_empty() { None } else { Some(range(host, text)?) };
    if let Some((first, last)) = host
        && container.1 != container.0
        && last - first != container.1 - container.0
    {
        return usage(format!("invalid publish '{text}': the ranges differ in length"));
    }
    Ok(Published { ip: ip.trim_matches(['[', ']']).into(), host, container, protocol: protocol.into() })
}

/// `PortBindings` and `ExposedPorts`.
fn ports(args: &CreateArgs) -> Result<(Value, Value), Error> {
    let mut bindings: Map<String, Value> = Map::new();
    let mut exposed = Map::new();
    for text in &args.publish {
        let p = published(text)?;
        for (i, port) in (p.container.0..=p.container.1).enumerate() {
            let host = match p.host {
                None => String::new(),
                Some((first, last)) if p.container.0 == p.container.1 && first != last => {
                    format!("{first}-{last}")
                }
                Some((first, _)) => (usize::from(first) + i).to_string(),
            };
            let key = format!("{port}/{}", p.protocol);
            exposed.insert(key.clone(), json!({}));
            let list = bindings.entry(key).or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.push(json!({"HostIp": p.ip, "HostPort": host}));
            }
        }
    }
    for text in &args.expose {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range(ports, text)?;
        for port in first..=last {
            exposed.insert(format!("{port}/{protocol}"), json!({}));
        }
    }
    Ok((bindings.into(), exposed.into()))
}

/// One `--mount`: comma separated `key=value`.
fn mount(text: &str) -> Result<Value, Error> {
    let mut out = Map::new();
    out.insert("Type".into(), "volume".into());
    let mut options = Map::new();
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        let on = ["true", "1", "yes"].contains(&value);
        match key {
            "type" => drop(out.insert("Type".into(), value.into())),
            "source" | "src" => drop(out.insert("Source".into(), value.into())),
            "target" | "dst" | "destination" => drop(out.insert("Target".into(), value.into())),
            "readonly" | "ro" => drop(out.insert("ReadOnly".into(), on.into())),
            "bind-propagation" => drop(options.insert("Propagation".into(), value.into())),
            "bind-recursive" => drop(options.insert("NonRecursive".into(), (value == "disabled").into())),
            "volume-nocopy" => drop(options.insert("NoCopy".into(), on.into())),
            "volume-subpath" | "image-subpath" => drop(options.insert("Subpath".into(), value.into())),
            "volume-driver" => drop(options.insert("DriverConfig".into(), json!({"Name": value}))),
            "tmpfs-size" => drop(options.insert("SizeBytes".into(), units::bytes(value)?.into())),
            "tmpfs-mode" => {
                let Ok(mode) = u32::from_str_radix(value, 8) else {
                    return usage(format!("invalid mount '{text}': tmpfs-mode '{value}' is not octal"));
                };
                options.insert("Mode".into(), mode.into());
            }
            _ => return usage(format!("invalid mount '{text}': unexpected key '{key}'")),
        }
    }
    if !out.contains_key("Target") {
        return usage(format!("invalid mount '{text}': target is required"));
    }
    let name = match out.get("Type").and_then(Value::as_str) {
        Some("bind") => "BindOptions",
        Some("tmpfs") => "TmpfsOptions",
        Some("image") => "ImageOptions",
        _ => "VolumeOptions",
    };
    if !options.is_empty() {
        out.insert(name.into(), options.into());
    }
    Ok(out.into())
}

/// `--cpus` in billionths of a processor.
#[allow(clippy::cast_possible_truncation, reason = "billionths of a CPU, far below the limit")]
pub(crate) fn nano_cpus(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

/// `no`, `always`, `unless-stopped`, `on-failure[:n]` as the API has it.
pub(crate) fn restart_policy(text: &str) -> Result<Value, Error> {
    let (name, count) = text.split_once(':').unwrap_or((text, "0"));
    let Ok(count) = count.parse::<i64>() else {
        return usage(format!("invalid restart policy '{text}': maximum retry count must be a number"));
    };
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

fn ulimits(list: &[String]) -> Result<Vec<Value>, Error> {
    list.iter()
        .map(|text| {
            let parsed = text.split_once('=').and_then(|(name, values)| {
                let (soft, hard) = values.split_once(':').unwrap_or((values, values));
                Some(json!({"Name": name, "Soft": soft.parse::<i64>().ok()?, "Hard": hard.parse::<i64>().ok()?}))
            });
            parsed.map_or_else(|| usage(format!("invalid ulimit '{text}': use name=soft[:hard]")), Ok)
        })
        .collect()
}

fn devices(list: &[String]) -> Vec<Value> {
    list.iter()
        .map(|text| {
            let mut parts = text.split(':');
            let host = parts.next().unwrap_or_default();
            let (mut inside, mut access) = (host, "rwm");
            for part in parts {
                if part.starts_with('/') { inside = part } else { access = part }
            }
            json!({"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access})
        })
        .collect()
}

/// A bind whose source begins with a dot is meant from this directory, as the daemon has another.
fn here(bind: &str) -> Result<String, Error> {
    match bind.split_once(':') {
        Some((source, rest))
            if source == "." || source.starts_with("./") || source == ".." || source.starts_with("../") =>
        {
            match std::path::absolute(source) {
                Ok(path) => Ok(format!("{}:{rest}", plain(&path).display())),
                Err(e) => usage(format!("{source}: {e}")),
            }
        }
        _ => Ok(bind.to_owned()),
    }
}

/// A path without `.` and `..`, by its words alone.
fn plain(path: &std::path::Path) -> std::path::PathBuf {
    let mut all = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(all.pop()),
            std::path::Component::CurDir => {}
            part => all.push(part),
        }
    }
    all
}

/// A profile file of `--security-opt seccomp=FILE` is sent by content, as the daemon may be elsewhere.
fn security(list: &[String]) -> Result<Vec<String>, Error> {
    list.iter()
        .map(|item| match item.split_once(['=', ':']) {
            Some(("seccomp", file))
                if !["unconfined", "builtin"].contains(&file) && !file.starts_with('{') =>
            {
                match std::fs::read_to_string(file) {
                    Ok(content) => Ok(format!("seccomp={content}")),
                    Err(e) => usage(format!(
                        "opening seccomp profile ({file}) failed: {}",
                        error::doing("open", file, &e)
                    )),
                }
            }
            _ => Ok(item.clone()),
        })
        .collect()
}

/// The whole request body.
pub(crate) fn body(args: &CreateArgs, attach: Attach) -> Result<Value, Error> {
    let Some((image, command)) = args.command.split_first() else {
        return usage("an image is required".into());
    };
    let (bindings, exposed) = ports(args)?;
    let mut environment_all = env_files(&args.env_file)?;
    environment_all.extend(environment(&args.env));
    let (binds, anonymous): (Vec<&String>, Vec<&String>) = args.volume.iter().partition(|v| v.contains(':'));
    let binds = binds.into_iter().map(|bind| here(bind)).collect::<Result<Vec<_>, _>>()?;
    let volumes: Map<String, Value> = anonymous.into_iter().map(|v| (v.clone(), json!({}))).collect();
    let tmpfs: Map<String, Value> = args
        .tmpfs
        .iter()
        .map(|t| t.split_once(':').unwrap_or((t, "")))
        .map(|(path, options)| (path.to_owned(), options.into()))
        .collect();
    let mounts = args.mount.iter().map(|m| mount(m)).collect::<Result<Vec<_>, _>>()?;
    let size = |text: &Option<String>| text.as_deref().map(units::bytes).transpose();
    let swap = match args.memory_swap.as_deref() {
        Some("-1") => Some(-1),
        Some(text) => Some(units::bytes(text)?),
        None => None,
    };
    let nano = args.cpus.map(nano_cpus);
    let mut networks = network_flag::parse(&args.network)?;
    networks.add_main(&network_flag::EndpointFlags {
        aliases: &args.network_alias,
        mac: args.mac_address.as_deref(),
        ip: args.ip.as_deref(),
        ip6: args.rest.ip6.as_deref(),
        link_local: &args.rest.link_local_ip,
    })?;
    let mut host = json!({
        "Binds": binds, "Mounts": mounts, "Tmpfs": tmpfs, "VolumesFrom": args.volumes_from,
        "NetworkMode": networks.mode, "PortBindings": bindings, "PublishAllPorts": args.publish_all,
        "Dns": args.dns, "DnsSearch": args.dns_search, "ExtraHosts": args.add_host,
        "Memory": size(&args.memory)?.unwrap_or(0), "MemorySwap": swap.unwrap_or(0),
        "MemoryReservation": size(&args.memory_reservation)?.unwrap_or(0), "NanoCpus": nano.unwrap_or(0),
        "CpuShares": args.cpu_shares.unwrap_or(0), "CpusetCpus": args.cpuset_cpus.clone().unwrap_or_default(),
        "Ulimits": ulimits(&args.ulimit)?, "CapAdd": args.cap_add, "CapDrop": args.cap_drop,
        "Privileged": args.privileged, "SecurityOpt": security(&args.security_opt)?, "Devices": devices(&args.device),
        "ReadonlyRootfs": args.read_only, "AutoRemove": args.remove, "GroupAdd": args.group_add,
        "Sysctls": pairs(&args.sysctl), "PidMode": args.pid.clone().unwrap_or_default(),
        "UTSMode": args.uts.clone().unwrap_or_default(), "IpcMode": args.ipc.clone().unwrap_or_default(),
        "CgroupParent": args.cgroup_parent.clone().unwrap_or_default(),
        "LogConfig": {"Type": args.log_driver.clone().unwrap_or_default(), "Config": pairs(&args.log_opt)},
        "RestartPolicy": restart_policy(args.restart.as_deref().unwrap_or("no"))?,
    });
    let mut whole = json!({
        "Image": image, "Env": environment_all, "Labels": pairs(&args.label), "ExposedPorts": exposed, "Volumes": volumes,
        "Hostname": args.hostname.clone().unwrap_or_default(), "User": args.user.clone().unwrap_or_default(),
        "WorkingDir": args.workdir.clone().unwrap_or_default(), "Tty": args.tty, "OpenStdin": args.interactive,
        "StdinOnce": args.interactive && attach.stdin, "AttachStdin": attach.stdin, "AttachStdout": attach.stdout,
        "AttachStderr": attach.stderr, "NetworkingConfig": {"EndpointsConfig": networks.endpoints},
    });
    let set = |target: &mut Value, key: &str, value: Option<Value>| {
        if let (Value::Object(map), Some(value)) = (target, value) {
            map.insert(key.into(), value);
        }
    };
    if let (true, Some((rows, columns))) = (args.tty, crate::terminal::size()) {
        set(&mut host, "ConsoleSize", Some(json!([rows, columns])));
    }
    set(&mut host, "PidsLimit", args.pids_limit.map(Value::from));
    set(&mut host, "ShmSize", size(&args.shm_size)?.map(Value::from));
    set(&mut host, "Init", args.init.then(|| true.into()));
    set(&mut whole, "Cmd", (!command.is_empty()).then(|| json!(command)));
    // An empty entrypoint resets the image's.
    set(&mut whole, "Entrypoint", args.entrypoint.as_ref().map(|e| json!([e])));
    set(&mut whole, "StopSignal", args.stop_signal.clone().map(Value::from));
    set(&mut whole, "StopTimeout", args.stop_timeout.map(Value::from));
    set(&mut whole, "HostConfig", Some(host));
    rest::add(&mut whole, &args.rest)?;
    Ok(whole)
}

/// Which streams `run` joins.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attach {
    /// Standard input.
    pub(crate) stdin: bool,
    /// Standard output.
    pub(crate) stdout: bool,
    /// Standard error.
    pub(crate) stderr: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(line: &[&str]) -> Value {
        let cli = Cli::try_parse_from(["wharf", "create"].iter().chain(line)).unwrap();
        let Command::Create(args) = cli.command else { panic!("create") };
        body(&args, Attach::default()).unwrap()
    }

    #[test]
    fn flags_end_at_the_image() {
        let b = parse(&["-e", "A=1", "busybox", "sh", "-c", "echo -e x", "--rm"]);
        assert_eq!(b["Image"], "busybox");
        assert_eq!(b["Cmd"], json!(["sh", "-c", "echo -e x", "--rm"]));
        assert_eq!(b["Env"], json!(["A=1"]));
        assert_eq!(parse(&["busybox", "-e", "x"])["Cmd"], json!(["-e", "x"]));
        assert!(Cli::try_parse_from(["wharf", "create", "--no-such-flag", "busybox"]).is_err());
    }

    #[test]
    fn publish_forms() {
        let b = parse(&[
            "-p",
            "80",
            "-p",
            "8080:81",
            "-p",
            "127.0.0.1:82:82/udp",
            "-p",
            "[::1]::83",
            "-p",
            "9000-9001:90-91",
            "i",
        ]);
        assert_eq!(
            b["HostConfig"]["PortBindings"],
            json!({
                "80/tcp": [{"HostIp": "", "HostPort": ""}], "81/tcp": [{"HostIp": "", "HostPort": "8080"}],
                "82/udp": [{"HostIp": "127.0.0.1", "HostPort": "82"}], "83/tcp": [{"HostIp": "::1", "HostPort": ""}],
                "90/tcp": [{"HostIp": "", "HostPort": "9000"}], "91/tcp": [{"HostIp": "", "HostPort": "9001"}],
            })
        );
        for wrong in ["x", "99999:80", "80/foo", "5-3:5-3", "1-3:1-2"] {
            assert!(published(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mounts_and_limits() {
        let b = parse(&[
            "--mount",
            "type=bind,src=/a,dst=/b,ro",
            "--memory",
            "64m",
            "--cpus",
            "0.5",
            "--restart",
            "on-failure:3",
            "-v",
            "n:/d",
            "-v",
            "/anon",
            "i",
        ]);
        assert_eq!(
            b["HostConfig"]["Mounts"],
            json!([{"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true}])
        );
        assert_eq!(b["HostConfig"]["Memory"], 64 << 20);
        assert_eq!(b["HostConfig"]["NanoCpus"], 500_000_000);
        assert_eq!(b["HostConfig"]["RestartPolicy"], json!({"Name": "on-failure", "MaximumRetryCount": 3}));
        assert_eq!(b["HostConfig"]["Binds"], json!(["n:/d"]));
        assert_eq!(b["Volumes"], json!({"/anon": {}}));
        assert!(mount("type=bind,src=/a").is_err() && mount("colour=red,dst=/x").is_err());
    }
}
