//! The engine as a whole.

use std::collections::HashMap;

use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, PRAGMA};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use wharf_engine::models::{SystemVersion, SystemVersionComponents};

use crate::error::Failure;
use crate::gate::Call;
use crate::http::reply::{self, Content, Outcome};
use crate::shape;
use crate::version::{NEWEST_TEXT, OLDEST_TEXT, Version};

/// Clients choose API version and builder from these headers. Builder 1 is the one that needs no `BuildKit`.
pub(crate) async fn ping(call: Call) -> Outcome {
    let experimental = call.grant().await?.experimental();
    let head_only = call.op().method == Method::HEAD;
    let content = if head_only { Content::Empty } else { Content::Whole("OK".into()) };
    let mut answer = reply::with(StatusCode::OK, content);
    let headers = answer.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (PRAGMA, "no-cache"),
        (HeaderName::from_static("builder-version"), "1"),
        (HeaderName::from_static("swarm"), "inactive"),
        (HeaderName::from_static("docker-experimental"), if experimental { "true" } else { "false" }),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if head_only {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(answer)
}

pub(crate) async fn options(call: Call) -> Outcome {
    call.grant().await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn version(call: Call) -> Outcome {
    let engine = call.grant().await?;
    let mut version = engine.version();
    version.api_version = Some(NEWEST_TEXT.into());
    version.min_api_version = Some(OLDEST_TEXT.into());
    // Clients' templates read the engine's details, not the fields beside them.
    let details = details(&version);
    let number = version.version.clone().unwrap_or_default();
    let components = version.components.get_or_insert_default();
    match components.iter_mut().find(|c| c.name == "Engine") {
        Some(engine) => engine.details.get_or_insert_default().extend(details),
        None => components.insert(
            0,
            SystemVersionComponents { name: "Engine".into(), version: number, details: Some(details) },
        ),
    }
    reply::ok(&version)
}

fn details(version: &SystemVersion) -> HashMap<String, String> {
    [
        ("ApiVersion", &version.api_version),
        ("MinAPIVersion", &version.min_api_version),
        ("Os", &version.os),
        ("Arch", &version.arch),
        ("KernelVersion", &version.kernel_version),
        ("GitCommit", &version.git_commit),
        ("GoVersion", &version.go_version),
        ("BuildTime", &version.build_time),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.clone().unwrap_or_default()))
    .chain([("Experimental".to_owned(), version.experimental.unwrap_or_default().to_string())])
    .collect()
}

pub(crate) async fn info(call: Call) -> Outcome {
    let engine = call.grant().await?;
    let info = engine.info().await?;
    let mut value = serde_json::to_value(&info)
        .map_err(|e| Failure::internal(format!("the description of the engine cannot be written: {e}")))?;
    shape::info(&mut value, call.version());
    reply::ok(&value)
}

pub(crate) async fn df(call: Call) -> Outcome {
    let (query, version) = (call.query(), call.version());
    let mut kinds: Vec<String> = query.all("type").map(str::to_owned).collect();
    if version < Version(42) {
        kinds.clear();
    }
    let known = ["container", "image", "volume", "build-cache"];
    if let Some(kind) = kinds.iter().find(|k| !known.contains(&k.as_str())) {
        return Err(Failure::invalid(format!("unknown object type: {kind}")));
    }
    let verbose = match query.non_empty("verbose").filter(|_| version >= Version(52)) {
        None => None,
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Some(true),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Some(false),
        Some(other) => return Err(Failure::invalid(format!("invalid value for verbose: {other}"))),
    };
    let engine = call.grant().await?;
    let mut usage = engine.system_df(&kinds, verbose == Some(true)).await?;
    shape::disk_usage(&mut usage, version, verbose);
    reply::ok(&usage)
}

/// In the shape that `docker plugin ls` knows.
pub(crate) async fn plugins(call: Call) -> Outcome {
    call.query().filters(&["capability", "enable"])?;
    let engine = call.grant().await?;
    let list = engine.plugin_list().await?;
    let text =
        |plugin: &Value, key: &str| plugin.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let shown: Vec<Value> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|plugin| {
            json!({
                "Id": text(plugin, "Digest").trim_start_matches("sha256:"),
                "Name": format!("{}:{}", text(plugin, "Name"), text(plugin, "Version")),
                "Enabled": text(plugin, "State") == "ready",
                "PluginReference": format!("{}:{}", text(plugin, "Name"), text(plugin, "Version")),
                "Settings": {"Mounts": [], "Env": [], "Args": [], "Devices": []},
                "Config": {"Description": "", "Documentation": ""},
            })
        })
        .collect();
    reply::ok(&shown)
}

/// Everything that is known of plugins, counters included.
pub(crate) async fn wharf_plugins(call: Call) -> Outcome {
    let engine = call.grant().await?;
    reply::ok(&engine.plugin_list().await?)
}
