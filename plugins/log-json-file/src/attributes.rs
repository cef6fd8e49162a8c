//! What the options `labels`, `labels-regex`, `env`, `env-regex` and `tag` add to every record.

use std::collections::BTreeMap;

use regex_lite::Regex;
use wharf_plugin_sdk::codec::Source;
use wharf_plugin_sdk::types::label;
use wharf_plugin_sdk::{Error, Result};

use crate::escape;

/// Options that are this driver's or the host's own business in logging.
const KNOWN: [&str; 10] = [
    "max-file",
    "max-size",
    "compress",
    "labels",
    "labels-regex",
    "env",
    "env-regex",
    "tag",
    "mode",
    "max-buffer-size",
];

/// The JSON object of the attributes, keys in order; empty if there are none.
pub(crate) fn of(source: &Source) -> Result<String> {
    if let Some((name, _)) = source.options.iter().find(|(name, _)| !KNOWN.contains(&name.as_str())) {
        return Err(Error::invalid(format!("unknown log opt '{name}' for json-file log driver")));
    }
    let option = |key: &str| label(&source.options, key).filter(|value| !value.is_empty());
    let mut attributes: BTreeMap<&str, String> = BTreeMap::new();
    if let Some(names) = option("labels") {
        for name in names.split(',') {
            if let Some(value) = label(&source.container.labels, name) {
                attributes.insert(name, value.to_owned());
            }
        }
    }
    if let Some(pattern) = option("labels-regex") {
        let pattern = Regex::new(pattern).map_err(|error| {
            Error::invalid(format!("log opt labels-regex: {}", first_line(&error.to_string())))
        })?;
        for (name, value) in &source.container.labels {
            if pattern.is_match(name) {
                attributes.insert(name, value.clone());
            }
        }
    }
    // The host gives those variables alone that `env` and `env-regex` select.
    for (name, value) in &source.environment {
        attributes.insert(name, value.clone());
    }
    if let Some(template) = option("tag") {
        attributes.insert("tag", tag(template, source)?);
    }
    if attributes.is_empty() {
        return Ok(String::new());
    }
    let mut json = String::from("{");
    for (index, (key, value)) in attributes.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        json.push_str(&quoted(key));
        json.push(':');
        json.push_str(&quoted(value));
    }
    json.push('}');
    Ok(json)
}

/// Go's template language as far as tags use it: the fields of the container.
fn tag(template: &str, source: &Source) -> Result<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((field, after)) = after.split_once("}}") else {
            return Err(Error::invalid(format!("log opt tag: unclosed action in {template:?}")));
        };
        out.push_str(&value(field.trim(), source)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn value(field: &str, source: &Source) -> Result<String> {
    let container = &source.container;
    let short = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect::<String>();
    let image_id = container.image_digest.as_deref().unwrap_or_default();
    Ok(match field {
        ".ID" => short(&container.id),
        ".FullID" => container.id.clone(),
        ".Name" => container.name.trim_start_matches('/').to_owned(),
        ".ImageID" => short(image_id),
        ".ImageFullID" => image_id.to_owned(),
        ".ImageName" => container.image.clone(),
        ".DaemonName" => source.daemon.clone(),
        ".Hostname" => container.hostname.clone(),
        ".Command" => source.command.join(" "),
        other => {
            return Err(Error::invalid(format!(
                "log opt tag: {other:?} is none of .ID, .FullID, .Name, .ImageID, .ImageFullID, .ImageName, \
                 .DaemonName, .Hostname, .Command"
            )));
        }
    })
}

fn quoted(text: &str) -> String {
    let mut out = vec![b'"'];
    escape::append(&mut out, text.as_bytes());
    out.push(b'"');
    String::from_utf8_lossy(&out).into_owned()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
