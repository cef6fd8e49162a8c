//! `version`, `info`, `events`.

use futures_util::StreamExt;
use hyper::Method;
use serde_json::{Value, json};

use crate::args::{EventsArgs, FormatArgs};
use crate::attach::text;
use crate::containers::filters;
use crate::http::{self, Client};
use crate::{Error, format, stats, units};

fn formatted(value: &Value, format: Option<&str>) -> Result<bool, Error> {
    match format {
        None | Some("") => return Ok(false),
        Some("json") => println!("{}", serde_json::to_string(value)?),
        Some(template) => println!("{}", format::Template::parse(template)?.render(value)?),
    }
    Ok(true)
}

pub(crate) async fn version(client: &Client, args: FormatArgs) -> Result<u8, Error> {
    let own = json!({"Version": env!("CARGO_PKG_VERSION"), "Os": std::env::consts::OS, "Arch": std::env::consts::ARCH});
    let server = client.get("/version", &[]).await;
    let both = json!({"Client": own, "Server": server.as_ref().ok()});
    if !formatted(&both, args.format.as_deref())? {
        println!(
            "Client:\n Version:      {}\n OS/Arch:      {}/{}",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH
        );
        if let Ok(server) = &server {
            let get = |key: &str| text(server, key);
            println!(
                "\nServer: {}\n Version:      {}\n API version:  {} (minimum version {})\n Git commit:   {}\n OS/Arch:      {}/{}\n Kernel:       {}",
                get("/Platform/Name"),
                get("/Version"),
                get("/ApiVersion"),
                get("/MinAPIVersion"),
                get("/GitCommit"),
                get("/Os"),
                get("/Arch"),
                get("/KernelVersion"),
            );
        }
    }
    server.map(|_| 0)
}

pub(crate) async fn info(client: &Client, args: FormatArgs) -> Result<u8, Error> {
    let info = client.get("/info", &[]).await?;
    if formatted(&info, args.format.as_deref())? {
        return Ok(0);
    }
    let show = |label: &str, pointer: &str| {
        if let Some(value) = info.pointer(pointer).filter(|v| !v.is_null()) {
            println!("{label}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    };
    for (label, pointer) in [
        ("Containers", "/Containers"),
        (" Running", "/ContainersRunning"),
        (" Paused", "/ContainersPaused"),
        (" Stopped", "/ContainersStopped"),
        ("Images", "/Images"),
        ("Server Version", "/ServerVersion"),
        ("Storage Driver", "/Driver"),
        ("Logging Driver", "/LoggingDriver"),
        ("Cgroup Driver", "/CgroupDriver"),
        ("Cgroup Version", "/CgroupVersion"),
        ("Kernel Version", "/KernelVersion"),
        ("Operating System", "/OperatingSystem"),
        ("OSType", "/OSType"),
        ("Architecture", "/Architecture"),
        ("CPUs", "/NCPU"),
        ("Name", "/Name"),
        ("ID", "/ID"),
        ("Docker Root Dir", "/DockerRootDir"),
    ] {
        show(label, pointer);
    }
    println!("Total Memory: {}", units::human(info.get("MemTotal").and_then(Value::as_i64).unwrap_or(0)));
    if let Some(plugins) = info.get("Plugins").and_then(Value::as_object) {
        println!("Plugins:");
        for (kind, names) in plugins {
            let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            println!(" {kind}: {}", names.join(" "));
        }
    }
    for warning in info.get("Warnings").and_then(Value::as_array).into_iter().flatten() {
        eprintln!("WARNING: {}", warning.as_str().unwrap_or_default());
    }
    Ok(0)
}

fn line(event: &Value) -> String {
    let nanos = event.get("timeNano").and_then(Value::as_i64).unwrap_or(0);
    let time =
        jiff::Timestamp::from_nanosecond(i128::from(nanos)).map(|t| t.to_zoned(jiff::tz::TimeZone::system()));
    let time = time.map(|t| t.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string()).unwrap_or_default();
    let time = time.strip_suffix("+00:00").map(|t| format!("{t}Z")).unwrap_or(time);
    let mut attributes: Vec<String> = event
        .pointer("/Actor/Attributes")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    attributes.sort();
    let attributes =
        if attributes.is_empty() { String::new() } else { format!(" ({})", attributes.join(", ")) };
    format!(
        "{time} {} {} {}{attributes}",
        text(event, "/Type"),
        text(event, "/Action"),
        text(event, "/Actor/ID")
    )
}

/// For somebody who watches: the moment, what, whom, and the rest in grey.
fn readable(event: &Value) -> String {
    let nanos = event.get("timeNano").and_then(Value::as_i64).unwrap_or(0);
    let action = text(event, "/Action");
    let colour = match action.split(':').next().unwrap_or(action) {
        "create" | "start" | "connect" | "mount" | "unpause" | "pull" | "import" | "load" => 32,
        "die" | "kill" | "oom" | "destroy" | "delete" | "disconnect" => 31,
        _ => 33,
    };
    let name = text(event, "/Actor/Attributes/name");
    let id = crate::containers::short(text(event, "/Actor/ID"));
    let mut rest: Vec<String> = event
        .pointer("/Actor/Attributes")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "name")
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    rest.sort();
    format!(
        "\u{1b}[2m{}\u{1b}[0m {:<9} \u{1b}[{colour}m{action:<12}\u{1b}[0m \u{1b}[1m{}\u{1b}[0m \u{1b}[2m{}\u{1b}[0m",
        stats::clock(nanos),
        text(event, "/Type"),
        if name.is_empty() { id } else { name },
        rest.join(" ")
    )
}

pub(crate) async fn events(client: &Client, args: EventsArgs) -> Result<u8, Error> {
    let mut query = Vec::new();
    if let Some(filters) = filters(&args.filter)? {
        query.push(("filters", filters));
    }
    for (key, value) in [("since", args.since), ("until", args.until)] {
        if let Some(value) = value {
            query.push((key, units::moment(&value)?));
        }
    }
    let template = match args.format.as_deref() {
        None | Some("" | "json" | "{{json .}}") => None,
        Some(template) => Some(format::Template::parse(template)?),
    };
    let raw = args.format.as_deref().is_some_and(|f| !f.is_empty());
    let mut lines = http::lines(client.request(Method::GET, "/events", &query, None).await?);
    while let Some(event) = lines.next().await {
        let event = event?;
        match &template {
            Some(template) => println!("{}", template.render(&event)?),
            None if raw => println!("{}", serde_json::to_string(&event)?),
            None if stats::colours() => println!("{}", readable(&event)),
            None => println!("{}", line(&event)),
        }
    }
    Ok(0)
}
