//! Dockerfile instructions that change an image's configuration (`docker import --change`, `docker commit --change`).

use std::collections::BTreeMap;

use serde_json::json;

use crate::error::{Error, Result};
use crate::model::{Healthcheck, ImageConfig};

/// Bytes of one instruction.
const MAX: usize = 64 << 10;

/// Applies instructions in order.
pub fn apply_changes(config: &mut ImageConfig, changes: &[String]) -> Result<()> {
    for change in changes {
        for line in change.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            instruction(config, line)?;
        }
    }
    Ok(())
}

fn instruction(config: &mut ImageConfig, line: &str) -> Result<()> {
    if line.len() > MAX {
        return Err(Error::invalid("an instruction is too long"));
    }
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let name = word.to_ascii_uppercase();
    if rest.is_empty() && !matches!(name.as_str(), "CMD" | "ENTRYPOINT") {
        return Err(Error::invalid(format!("{name} requires at least one argument")));
    }
    let environment = config.env.clone().unwrap_or_default();
    let expand = |text: &str| expand(text, &environment);
    match name.as_str() {
        "CMD" => {
            config.cmd = Some(command(rest));
            config.args_escaped = false;
        }
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest));
        }
        "ENV" => {
            for (key, value) in pairs("ENV", rest, &environment)? {
                let list = config.env.get_or_insert_default();
                let entry = format!("{key}={value}");
                match list.iter_mut().find(|e| e.split_once('=').is_some_and(|(k, _)| k == key)) {
                    Some(old) => *old = entry,
                    None => list.push(entry),
                }
            }
        }
        "LABEL" => {
            let labels = config.labels.get_or_insert_default();
            labels.extend(pairs("LABEL", rest, &environment)?);
        }
        "EXPOSE" => {
            for word in expand(rest).split_whitespace() {
                for port in ports(word)? {
                    config.exposed_ports.get_or_insert_default().insert(port, json!({}));
                }
            }
        }
        "VOLUME" => {
            let paths = match json_list(rest) {
                Some(list) => list,
                None => expand(rest).split_whitespace().map(str::to_owned).collect(),
            };
            for path in paths {
                if path.trim().is_empty() {
                    return Err(Error::invalid("VOLUME specified can not be an empty string"));
                }
                config.volumes.get_or_insert_default().insert(path, json!({}));
            }
        }
        "USER" => config.user = expand(rest),
        "WORKDIR" => config.working_dir = join(&config.working_dir, &expand(rest)),
        "STOPSIGNAL" => config.stop_signal = Some(expand(rest)),
        "SHELL" => {
            config.shell = Some(
                json_list(rest)
                    .filter(|l| !l.is_empty())
                    .ok_or_else(|| Error::invalid("SHELL requires the arguments to be in JSON form"))?,
            );
        }
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            match trigger.as_str() {
                "ONBUILD" => {
                    return Err(Error::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"));
                }
                "MAINTAINER" | "FROM" => {
                    return Err(Error::invalid(format!("{trigger} isn't allowed as an ONBUILD trigger")));
                }
                _ => config.on_build.get_or_insert_default().push(rest.to_owned()),
            }
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        "FROM" | "RUN" | "COPY" | "ADD" | "ARG" | "MAINTAINER" => {
            return Err(Error::invalid(format!("{} is not a valid change command", name.to_lowercase())));
        }
        _ => {
            return Err(Error::invalid(format!(
                "dockerfile parse error on line 1: unknown instruction: {word}"
            )));
        }
    }
    Ok(())
}

/// `["a", "b"]`; anything else is no list.
fn json_list(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// A list, or words for the shell.
fn command(text: &str) -> Vec<String> {
    match json_list(text) {
        Some(list) => list,
        None if text.is_empty() => Vec::new(),
        None => vec!["/bin/sh".into(), "-c".into(), text.into()],
    }
}

/// `a=b c="d e"`, or the old form `a b c`.
fn pairs(name: &str, text: &str, environment: &[String]) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let words = words(text);
    let first = words.first().map_or("", String::as_str);
    if !first.contains('=') {
        let Some((key, value)) = text.split_once(char::is_whitespace) else {
            return Err(Error::invalid(format!("{name} must have two arguments")));
        };
        found.insert(unquote(key, environment), expand(value.trim(), environment));
        return Ok(found);
    }
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            return Err(Error::invalid(format!(
                "Syntax error - can't find = in \"{word}\". Must be of the form: name=value"
            )));
        };
        let key = unquote(key, environment);
        if key.is_empty() {
            return Err(Error::invalid(format!("{name} names can not be blank")));
        }
        found.insert(key, unquote(value, environment));
    }
    Ok(found)
}

/// Splits at blanks outside of quotes; quotes and backslashes stay.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some('\'')) => word.push(c),
            ('\\', _) => {
                word.push(c);
                word.extend(chars.next());
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.push(c);
            }
            (c, Some(q)) if c == q => {
                quote = None;
                word.push(c);
            }
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (c, _) => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn lookup(name: &str, environment: &[String]) -> String {
    environment
        .iter()
        .find_map(|e| e.split_once('=').filter(|(k, _)| *k == name).map(|(_, v)| v.to_owned()))
        .unwrap_or_default()
}

/// Takes quotes and backslashes away and puts variables in.
fn unquote(text: &str, environment: &[String]) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\'', None) => quote = Some('\''),
            ('"', None) => quote = Some('"'),
            (c, Some(q)) if c == q => quote = None,
            ('\\', None) => out.extend(chars.next()),
            ('\\', Some('"')) => match chars.next() {
                Some(next @ ('"' | '\\' | '$')) => out.push(next),
                Some(next) => out.extend(['\\', next]),
                None => out.push('\\'),
            },
            ('$', None | Some('"')) => {
                let braced = chars.next_if_eq(&'{').is_some();
                let mut name = String::new();
                while let Some(next) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(next);
                }
                if !braced {
                    if name.is_empty() {
                        out.push('$');
                    } else {
                        out.push_str(&lookup(&name, environment));
                    }
                    continue;
                }
                let mut rest = String::new();
                for next in chars.by_ref().take_while(|c| *c != '}') {
                    rest.push(next);
                }
                let value = lookup(&name, environment);
                if let Some(default) = rest.strip_prefix(":-") {
                    out.push_str(if value.is_empty() { default } else { &value });
                } else if let Some(other) = rest.strip_prefix(":+") {
                    out.push_str(if value.is_empty() { "" } else { other });
                } else {
                    out.push_str(&value);
                }
            }
            (c, _) => out.push(c),
        }
    }
    out
}

fn expand(text: &str, environment: &[String]) -> String {
    unquote(text, environment)
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn ports(text: &str) -> Result<Vec<String>> {
    let bad = || Error::invalid(format!("invalid containerPort: {text}"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(Error::invalid(format!("invalid proto: {protocol}")));
    }
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let from: u16 = from.parse().map_err(|_| bad())?;
    let to: u16 = to.parse().map_err(|_| bad())?;
    if from > to || from == 0 {
        return Err(bad());
    }
    Ok((from..=to).map(|port| format!("{port}/{protocol}")).collect())
}

fn join(base: &str, path: &str) -> String {
    let full = if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in full.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn healthcheck(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        rest = after.trim_start();
        let Some((key, value)) = option.split_once('=') else {
            return Err(Error::invalid(format!("Missing a value on flag: {option}")));
        };
        match key {
            "interval" => check.interval = duration(value)?,
            "timeout" => check.timeout = duration(value)?,
            "start-period" => check.start_period = duration(value)?,
            "start-interval" => check.start_interval = duration(value)?,
            "retries" => {
                check.retries =
                    value.parse().ok().filter(|n| *n >= 0).ok_or_else(|| {
                        Error::invalid(format!("--retries must be at least 0 (not {value})"))
                    })?;
            }
            _ => return Err(Error::invalid(format!("unknown flag: {key}"))),
        }
    }
    let (kind, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let arguments = arguments.trim();
    match kind.to_ascii_uppercase().as_str() {
        "NONE" if arguments.is_empty() => check.test = vec!["NONE".into()],
        "NONE" => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" if arguments.is_empty() => {
            return Err(Error::invalid("Missing command after HEALTHCHECK CMD"));
        }
        "CMD" => {
            check.test = match json_list(arguments) {
                Some(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
                None => vec!["CMD-SHELL".into(), arguments.into()],
            };
        }
        other => return Err(Error::invalid(format!("Unknown type \"{other}\" in HEALTHCHECK (try CMD)"))),
    }
    Ok(check)
}

/// Go's notation: `1m30s`, `500ms`.
fn duration(text: &str) -> Result<i64> {
    let bad = || Error::invalid(format!("time: invalid duration \"{text}\""));
    let total = wharf_plan::duration::nanoseconds(text).ok_or_else(bad)?;
    if !(0.0..9.2e18).contains(&total) {
        return Err(bad());
    }
    #[allow(clippy::cast_possible_truncation, reason = "the range was checked")]
    Ok(total as i64)
}
