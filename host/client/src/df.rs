//! `system df`.

use serde_json::{Value, json};

use crate::args::DfArgs;
use crate::attach::text;
use crate::containers::short;
use crate::http::Client;
use crate::{Error, format, units};

fn list<'a>(usage: &'a Value, key: &str) -> Vec<&'a Value> {
    usage.get(key).and_then(Value::as_array).into_iter().flatten().collect()
}

fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// One line: what, how many, how many in use, bytes, bytes that pruning would free.
fn row(kind: &str, total: usize, active: usize, size: i64, free: i64) -> Value {
    let free = free.max(0);
    let share = if size > 0 { format!(" ({}%)", free.saturating_mul(100) / size) } else { String::new() };
    json!({"Type": kind, "TotalCount": total.to_string(), "Active": active.to_string(), "Size": units::human_exact(size),
        "Reclaimable": format!("{}{share}", units::human_exact(free))})
}

/// The four lines, from the flat lists that daemons of every version give.
fn rows(usage: &Value) -> Vec<Value> {
    let images = list(usage, "Images");
    let used = |image: &&&Value| number(image, "/Containers") > 0;
    let layers = number(usage, "/LayersSize");
    let bound: i64 = images
        .iter()
        .filter(used)
        // Of some it is not known.
        .filter(|i| number(i, "/Size") >= 0 && number(i, "/SharedSize") >= 0)
        .map(|i| (number(i, "/Size") - number(i, "/SharedSize")).max(0))
        .sum();
    let containers = list(usage, "Containers");
    let alive = |c: &&&Value| matches!(text(c, "/State"), "running" | "paused" | "restarting");
    let written: i64 = containers.iter().map(|c| number(c, "/SizeRw")).sum();
    let kept: i64 = containers.iter().filter(alive).map(|c| number(c, "/SizeRw")).sum();
    let volumes = list(usage, "Volumes");
    let mounted = |v: &&&Value| number(v, "/UsageData/RefCount") > 0;
    let stored: i64 = volumes.iter().map(|v| number(v, "/UsageData/Size").max(0)).sum();
    let held: i64 = volumes.iter().filter(mounted).map(|v| number(v, "/UsageData/Size").max(0)).sum();
    let cache = list(usage, "BuildCache");
    let cached: i64 = cache.iter().map(|c| number(c, "/Size")).sum();
    vec![
        row("Images", images.len(), images.iter().filter(used).count(), layers, layers - bound),
        row("Containers", containers.len(), containers.iter().filter(alive).count(), written, written - kept),
        row("Local Volumes", volumes.len(), volumes.iter().filter(mounted).count(), stored, stored - held),
        row("Build Cache", cache.len(), 0, cached, cached),
    ]
}

fn verbose(usage: &Value) -> Result<(), Error> {
    let ago = |seconds: i64| format!("{} ago", units::ago(units::now() - seconds));
    println!("Images space usage:\n");
    let images: Vec<Value> = list(usage, "Images")
        .into_iter()
        .map(|i| {
            let name = i.pointer("/RepoTags/0").and_then(Value::as_str).unwrap_or("<none>:<none>");
            let (repository, tag) = crate::images::split_reference(name);
            let (size, shared) = (number(i, "/Size"), number(i, "/SharedSize").max(0));
            json!({"Repository": repository, "Tag": tag, "ID": short(text(i, "/Id")), "Created": ago(number(i, "/Created")),
                "Size": units::human_exact(size), "Shared": units::human(shared), "Unique": units::human(size - shared),
                "Containers": number(i, "/Containers").max(0).to_string()})
        })
        .collect();
    format::print_list(
        &images,
        &[
            ("REPOSITORY", "Repository"),
            ("TAG", "Tag"),
            ("IMAGE ID", "ID"),
            ("CREATED", "Created"),
            ("SIZE", "Size"),
            ("SHARED SIZE", "Shared"),
            ("UNIQUE SIZE", "Unique"),
            ("CONTAINERS", "Containers"),
        ],
        None,
    )?;
    println!("\nContainers space usage:\n");
    let containers: Vec<Value> = list(usage, "Containers")
        .into_iter()
        .map(|c| {
            let volumes = list(c, "Mounts").iter().filter(|m| text(m, "/Type") == "volume").count();
            json!({"ID": short(text(c, "/Id")), "Image": text(c, "/Image"), "Command": format!("\"{}\"", text(c, "/Command")),
                "Volumes": volumes.to_string(), "Size": units::human(number(c, "/SizeRw")), "Created": ago(number(c, "/Created")),
                "Status": text(c, "/Status"), "Names": text(c, "/Names/0").trim_start_matches('/')})
        })
        .collect();
    format::print_list(
        &containers,
        &[
            ("CONTAINER ID", "ID"),
            ("IMAGE", "Image"),
            ("COMMAND", "Command"),
            ("LOCAL VOLUMES", "Volumes"),
            ("SIZE", "Size"),
            ("CREATED", "Created"),
            ("STATUS", "Status"),
            ("NAMES", "Names"),
        ],
        None,
    )?;
    println!("\nLocal Volumes space usage:\n");
    let volumes: Vec<Value> = list(usage, "Volumes")
        .into_iter()
        .map(|v| {
            json!({"Name": text(v, "/Name"), "Links": number(v, "/UsageData/RefCount").to_string(),
                "Size": units::human(number(v, "/UsageData/Size").max(0))})
        })
        .collect();
    format::print_list(&volumes, &[("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size")], None)
}

pub(crate) async fn df(client: &Client, args: DfArgs) -> Result<u8, Error> {
    // The version whose answer has flat lists, which every daemon can give.
    let usage = client.get("/v1.47/system/df", &[]).await?;
    if args.verbose && args.format.is_none() {
        verbose(&usage)?;
        return Ok(0);
    }
    let columns = [
        ("TYPE", "Type"),
        ("TOTAL", "TotalCount"),
        ("ACTIVE", "Active"),
        ("SIZE", "Size"),
        ("RECLAIMABLE", "Reclaimable"),
    ];
    format::print_list(&rows(&usage), &columns, args.format.as_deref())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_as_lines() {
        let usage = json!({
            "LayersSize": 3000, "Images": [{"Size": 1000, "Containers": 1, "SharedSize": 0}, {"Size": 2000, "Containers": 0}],
            "Containers": [{"State": "running", "SizeRw": 10}, {"State": "exited", "SizeRw": 30}],
            "Volumes": [{"UsageData": {"Size": 5, "RefCount": 1}}, {"UsageData": {"Size": -1, "RefCount": 0}}],
        });
        let lines: Vec<String> = rows(&usage)
            .iter()
            .map(|r| {
                ["Type", "TotalCount", "Active", "Size", "Reclaimable"]
                    .map(|k| r[k].as_str().unwrap())
                    .join("|")
            })
            .collect();
        assert_eq!(
            lines,
            [
                "Images|2|1|3kB|2kB (66%)",
                "Containers|2|1|40B|30B (75%)",
                "Local Volumes|2|1|5B|0B (0%)",
                "Build Cache|0|0|0B|0B"
            ]
        );
    }
}
