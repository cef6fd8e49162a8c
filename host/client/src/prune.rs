//! `prune` of all kinds: asks, removes, and says what went.

use std::io::{BufRead, Write};

use serde_json::Value;

use crate::args::{ImagePruneArgs, PruneAllArgs, PruneArgs, Pruning, SystemPruneArgs};
use crate::containers::filters;
use crate::http::Client;
use crate::{Error, units};

/// Asks on the terminal; anything but yes is no.
fn sure(warning: &str) -> Result<bool, Error> {
    print!("{warning}\nAre you sure you want to continue? [y/N] ");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// What one request removed: its lines, and the bytes that came free.
struct Removed {
    heading: &'static str,
    lines: Vec<String>,
    bytes: i64,
}

impl Removed {
    fn print(&self) {
        if !self.lines.is_empty() {
            println!("{}:", self.heading);
            for line in &self.lines {
                println!("{line}");
            }
            println!();
        }
    }
}

async fn post(
    client: &Client,
    kind: &str,
    list: &[String],
    heading: &'static str,
    key: &str,
    switches: &[&'static str],
) -> Result<Removed, Error> {
    let mut query: Vec<_> = switches.iter().map(|name| (*name, "1".to_owned())).collect();
    query.extend(filters(list)?.map(|f| ("filters", f)));
    let answer = client.post(&format!("/{kind}/prune"), &query, None).await?;
    let line = |item: &Value| match item {
        Value::Object(map) => {
            let say = |(what, name): (&String, &Value)| {
                format!("{}: {}", what.to_lowercase(), name.as_str().unwrap_or_default())
            };
            map.iter().map(say).collect::<Vec<_>>().join("\n")
        }
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    Ok(Removed {
        heading,
        lines: answer.get(key).and_then(Value::as_array).into_iter().flatten().map(line).collect(),
        bytes: answer.get("SpaceReclaimed").and_then(Value::as_i64).unwrap_or(0),
    })
}

async fn containers(client: &Client, args: &PruneArgs) -> Result<Removed, Error> {
    post(client, "containers", &args.filter, "Deleted Containers", "ContainersDeleted", &[]).await
}

async fn networks(client: &Client, args: &PruneArgs) -> Result<Removed, Error> {
    post(client, "networks", &args.filter, "Deleted Networks", "NetworksDeleted", &[]).await
}

async fn volumes(client: &Client, args: &PruneAllArgs) -> Result<Removed, Error> {
    let mut list = args.common.filter.clone();
    if args.all {
        list.push("all=true".into());
    }
    post(client, "volumes", &list, "Deleted Volumes", "VolumesDeleted", &[]).await
}

async fn images(client: &Client, args: &PruneAllArgs) -> Result<Removed, Error> {
    let mut list = args.common.filter.clone();
    list.push(format!("dangling={}", !args.all));
    post(client, "images", &list, "Deleted Images", "ImagesDeleted", &[]).await
}

/// `image prune`: also by the daemon's policies, and only to see what would go.
async fn chosen_images(client: &Client, args: &ImagePruneArgs) -> Result<Removed, Error> {
    let mut list = args.which.common.filter.clone();
    if !args.policy {
        list.push(format!("dangling={}", !args.which.all));
    }
    let switches: Vec<_> = [("plan", args.plan), ("policy", args.policy)]
        .iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| *name)
        .collect();
    let heading = if args.plan { "Images that would be deleted" } else { "Deleted Images" };
    post(client, "images", &list, heading, "ImagesDeleted", &switches).await
}

/// The warning before everything is pruned.
fn system_warning(args: &SystemPruneArgs) -> String {
    let mut lines = vec![
        "WARNING! This will remove:",
        "  - all stopped containers",
        "  - all networks not used by at least one container",
    ];
    if args.volumes {
        lines.push("  - all anonymous volumes not used by at least one container");
    }
    lines.push(if args.images.all {
        "  - all images without at least one container associated to them"
    } else {
        "  - all dangling images"
    });
    format!("{}\n", lines.join("\n"))
}

pub(crate) async fn prune(client: &Client, what: Pruning) -> Result<u8, Error> {
    let (warning, force) = match &what {
        Pruning::Containers(a) => ("WARNING! This will remove all stopped containers.".to_owned(), a.force),
        Pruning::Networks(a) => (
            "WARNING! This will remove all custom networks not used by at least one container.".to_owned(),
            a.force,
        ),
        Pruning::Volumes(a) => {
            let which = if a.all { "all" } else { "anonymous" };
            (
                format!(
                    "WARNING! This will remove {which} local volumes not used by at least one container."
                ),
                a.common.force,
            )
        }
        Pruning::Images(a) => {
            let which = match (a.policy, a.which.all) {
                (true, _) => "the images that the daemon's policies name",
                (_, true) => "all images without at least one container associated to them",
                _ => "all dangling images",
            };
            (format!("WARNING! This will remove {which}."), a.plan || a.which.common.force)
        }
        Pruning::System(a) => (system_warning(a), a.images.common.force),
    };
    if !force && !sure(&warning)? {
        // As docker ends: it was asked not to, and did not.
        return Ok(0);
    }
    let mut total = 0;
    match &what {
        Pruning::Networks(a) => {
            // Networks take no space.
            networks(client, a).await?.print();
            return Ok(0);
        }
        Pruning::Containers(a) => total += show(&containers(client, a).await?),
        Pruning::Volumes(a) => total += show(&volumes(client, a).await?),
        Pruning::Images(a) => {
            total += show(&chosen_images(client, a).await?);
            if a.plan {
                println!("Total space that would be reclaimed: {}", units::human(total));
                return Ok(0);
            }
        }
        Pruning::System(a) => {
            let common = &a.images.common;
            total += show(&containers(client, common).await?);
            total += show(&networks(client, common).await?);
            if a.volumes {
                let own = PruneAllArgs {
                    all: false,
                    common: PruneArgs {
                        force: true,
                        // Volumes have no age to be asked for.
                        filter: common.filter.iter().filter(|f| !f.starts_with("until")).cloned().collect(),
                    },
                };
                total += show(&volumes(client, &own).await?);
            }
            total += show(&images(client, &a.images).await?);
        }
    }
    println!("Total reclaimed space: {}", units::human_exact(total));
    Ok(0)
}

fn show(removed: &Removed) -> i64 {
    removed.print();
    removed.bytes
}
