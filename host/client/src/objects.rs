//! `inspect`, networks and volumes.

use serde_json::{Map, Value, json};

use crate::args::{InspectArgs, ListArgs, NetworkCommand, Pruning, VolumeCommand};
use crate::attach::text;
use crate::containers::{filters, for_each, short};
use crate::create::pairs;
use crate::http::Client;
use crate::network_flag::EndpointFlags;
use crate::{Error, format, prune, units};

/// Where objects of a kind are inspected.
fn place(kind: &str, name: &str) -> Result<String, Error> {
    Ok(match kind {
        "container" => format!("/containers/{name}/json"),
        "image" => format!("/images/{name}/json"),
        "network" => format!("/networks/{name}"),
        "volume" => format!("/volumes/{name}"),
        other => {
            return Err(Error::Usage(format!(
                "unknown type: '{other}' (use container, image, network or volume)"
            )));
        }
    })
}

async fn find(client: &Client, args: &InspectArgs, name: &str) -> Result<Value, Error> {
    let mut query: Vec<_> = if args.size { vec![("size", "1".to_owned())] } else { Vec::new() };
    query.extend(args.platform.clone().map(|p| ("platform", p)));
    if let Some(kind) = &args.kind {
        return client.get(&place(kind, name)?, &query).await;
    }
    for kind in ["container", "image", "network", "volume"] {
        match client.get(&place(kind, name)?, &query).await {
            Err(Error::Daemon { status: 404, .. }) => {}
            other => return other,
        }
    }
    Err(Error::Usage(format!("Error: No such object: {name}")))
}

pub(crate) async fn inspect(client: &Client, args: InspectArgs) -> Result<u8, Error> {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in &args.names {
        match find(client, &args, name).await {
            Ok(value) => found.push(value),
            Err(error @ Error::Connect { .. }) => return Err(error),
            Err(error) => failures.push(error.to_string()),
        }
    }
    match args.format.as_deref() {
        None | Some("") => println!("{}", format::pretty(&Value::Array(found))?),
        Some("json") => println!("{}", serde_json::to_string(&found)?),
        Some(template) => {
            let template = format::Template::parse(template)?;
            for value in &found {
                // Docker's own ends its line before it complains.
                println!("{}", template.render(value).inspect_err(|_| println!())?);
            }
        }
    }
    for failure in &failures {
        eprintln!("{failure}");
    }
    Ok(u8::from(!failures.is_empty()))
}

/// A yes or no as lists show it.
fn flag(object: &Value, key: &str) -> String {
    object.get(key).and_then(Value::as_bool).unwrap_or(false).to_string()
}

fn labels(object: &Value) -> String {
    let labels = object.get("Labels").and_then(Value::as_object);
    labels
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",")
}

fn show(rows: &[Value], columns: &[(&str, &str)], key: &str, args: &ListArgs) -> Result<u8, Error> {
    if args.quiet {
        for row in rows {
            println!("{}", row.get(key).and_then(Value::as_str).unwrap_or_default());
        }
        return Ok(0);
    }
    format::print_list(rows, columns, args.format.as_deref())?;
    Ok(0)
}

fn query(args: &ListArgs) -> Result<Vec<(&'static str, String)>, Error> {
    Ok(filters(&args.filter)?.map(|f| ("filters", f)).into_iter().collect())
}

/// Whether an auxiliary address (`name=address`) is of this subnet: the only one, or the one of its family and prefix.
fn belongs(auxiliary: &str, subnet: &str, all: &[String]) -> bool {
    use std::net::IpAddr;
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let parsed = auxiliary.split_once('=').and_then(|(_, ip)| ip.parse::<IpAddr>().ok());
    let net = subnet
        .split_once('/')
        .and_then(|(ip, length)| Some((ip.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?)));
    match (parsed, net) {
        (Some(ip), Some((net, length))) => {
            let ((a, size), (b, other)) = (bits(ip), bits(net));
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
            size == other && a & mask == b & mask
        }
        // What is no address is for the daemon to refuse.
        _ => all.first().is_some_and(|first| first == subnet),
    }
}

pub(crate) async fn network(client: &Client, command: NetworkCommand) -> Result<u8, Error> {
    match command {
        NetworkCommand::Ls(args) => {
            let answer = client.get("/networks", &query(&args)?).await?;
            let rows: Vec<Value> = answer
                .as_array()
                .into_iter()
                .flatten()
                .map(|n| {
                    let id = text(n, "/Id");
                    json!({"ID": if args.no_trunc { id } else { short(id) }, "Name": text(n, "/Name"), "Driver": text(n, "/Driver"), "Scope": text(n, "/Scope"), "Labels": labels(n),
                        "CreatedAt": units::go_time(text(n, "/Created")), "IPv4": flag(n, "EnableIPv4"), "IPv6": flag(n, "EnableIPv6"), "Internal": flag(n, "Internal")})
                })
                .collect();
            show(
                &rows,
                &[("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope")],
                "ID",
                &args,
            )
        }
        NetworkCommand::Create(args) => {
            let lost = |a: &&String| !args.subnet.iter().any(|subnet| belongs(a, subnet, &args.subnet));
            if let Some(lost) = args.aux_address.iter().find(lost) {
                let address = lost.split_once('=').map_or(lost.as_str(), |(_, address)| address);
                return Err(Error::Missing(format!("no matching subnet for aux-address {address}")));
            }
            let pools: Vec<Value> = args
                .subnet
                .iter()
                .enumerate()
                .map(|(i, subnet)| {
                    let mut pool = Map::from_iter([("Subnet".to_owned(), Value::from(subnet.as_str()))]);
                    for (key, list) in [("Gateway", &args.gateway), ("IPRange", &args.ip_range)] {
                        if let Some(value) = list.get(i) {
                            pool.insert(key.into(), value.as_str().into());
                        }
                    }
                    let own = args.aux_address.iter().filter(|a| belongs(a, subnet, &args.subnet)).cloned();
                    let own: Vec<String> = own.collect();
                    if !own.is_empty() {
                        pool.insert("AuxiliaryAddresses".into(), pairs(&own));
                    }
                    pool.into()
                })
                .collect();
            let mut body = json!({
                "Name": args.name, "Driver": args.driver, "Internal": args.internal, "Attachable": args.attachable,
                "Options": pairs(&args.opt), "Labels": pairs(&args.label),
                "IPAM": {"Driver": args.ipam_driver, "Config": pools, "Options": pairs(&args.ipam_opt)},
            });
            for (key, value) in [("EnableIPv4", args.ipv4), ("EnableIPv6", args.ipv6)] {
                if let (Some(value), Value::Object(body)) = (value, &mut body) {
                    body.insert(key.into(), value.into());
                }
            }
            if let (Some(scope), Value::Object(body)) = (args.scope, &mut body) {
                body.insert("Scope".into(), scope.into());
            }
            let answer = client.post("/networks/create", &[], Some(&body)).await?;
            println!("{}", text(&answer, "/Id"));
            Ok(0)
        }
        NetworkCommand::Rm(args) => {
            for_each(&args.names, async |name: String| {
                match client.delete(&format!("/networks/{name}"), &[]).await {
                    Err(Error::Daemon { status: 404, .. }) if args.force => Ok(None),
                    other => other.map(|_| Some(name)),
                }
            })
            .await
        }
        NetworkCommand::Prune(args) => prune::prune(client, Pruning::Networks(args)).await,
        NetworkCommand::Inspect(args) => {
            inspect(client, InspectArgs { kind: Some("network".into()), ..args }).await
        }
        NetworkCommand::Connect(args) => {
            let flags = EndpointFlags {
                aliases: &args.alias,
                mac: None,
                ip: args.ip.as_deref(),
                ip6: args.ip6.as_deref(),
                link_local: &args.link_local_ip,
            };
            let mut endpoint = flags.endpoint();
            endpoint.insert("Links".into(), json!(args.link));
            endpoint.insert("DriverOpts".into(), pairs(&args.driver_opt));
            endpoint.insert("GwPriority".into(), args.gw_priority.into());
            let body = json!({"Container": args.container, "EndpointConfig": endpoint});
            client.post(&format!("/networks/{}/connect", args.network), &[], Some(&body)).await?;
            Ok(0)
        }
        NetworkCommand::Disconnect(args) => {
            let body = json!({"Container": args.container, "Force": args.force});
            client.post(&format!("/networks/{}/disconnect", args.network), &[], Some(&body)).await?;
            Ok(0)
        }
    }
}

pub(crate) async fn volume(client: &Client, command: VolumeCommand) -> Result<u8, Error> {
    match command {
        VolumeCommand::Ls(args) => {
            let answer = client.get("/volumes", &query(&args)?).await?;
            let rows: Vec<Value> = answer
                .get("Volumes")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|v| json!({"Driver": text(v, "/Driver"), "Name": text(v, "/Name"), "Mountpoint": text(v, "/Mountpoint"), "Scope": text(v, "/Scope"), "Labels": labels(v),
                    "Availability": "N/A", "Group": "N/A", "Links": "N/A", "Size": "N/A", "Status": "N/A"}))
                .collect();
            show(&rows, &[("DRIVER", "Driver"), ("VOLUME NAME", "Name")], "Name", &args)
        }
        VolumeCommand::Create(args) => {
            let body = json!({"Name": args.name.unwrap_or_default(), "Driver": args.driver, "DriverOpts": pairs(&args.opt), "Labels": pairs(&args.label)});
            let answer = client.post("/volumes/create", &[], Some(&body)).await?;
            println!("{}", text(&answer, "/Name"));
            Ok(0)
        }
        VolumeCommand::Rm(args) => {
            let query = [("force", args.force.to_string())];
            for_each(&args.names, async |name: String| {
                client.delete(&format!("/volumes/{name}"), &query).await.map(|_| Some(name))
            })
            .await
        }
        VolumeCommand::Prune(args) => prune::prune(client, Pruning::Volumes(args)).await,
        VolumeCommand::Inspect(args) => {
            inspect(client, InspectArgs { kind: Some("volume".into()), ..args }).await
        }
    }
}
