//! Commands about containers that exist.

use std::io::Write;

use futures_util::StreamExt;
use hyper::Method;
use serde_json::{Map, Value, json};

use crate::args::{
    Containers, KillArgs, LogsArgs, PortArgs, PsArgs, RenameArgs, RmArgs, StartArgs, StopArgs, TopArgs,
};
use crate::attach::{self, Ended, Streams, text};
use crate::http::{self, Client};
use crate::{Error, checkpoint, format, units};

/// `key=value` filters in the form of the API.
pub(crate) fn filters(list: &[String]) -> Result<Option<String>, Error> {
    let mut all: Map<String, Value> = Map::new();
    for item in list {
        let Some((key, value)) = item.split_once('=') else {
            return Err(Error::Usage(format!("invalid filter '{item}': use key=value")));
        };
        if let Value::Array(values) = all.entry(key.to_owned()).or_insert_with(|| json!([])) {
            values.push(value.into());
        }
    }
    Ok((!all.is_empty()).then(|| Value::Object(all).to_string()))
}

/// Does something to each of several objects; failures are printed, the rest goes on.
pub(crate) async fn for_each<F, T>(names: &[String], action: F) -> Result<u8, Error>
where
    F: Fn(String) -> T,
    T: Future<Output = Result<Option<String>, Error>>,
{
    let mut code = 0;
    for name in names {
        match action(name.clone()).await {
            Ok(Some(line)) => println!("{line}"),
            Ok(None) => {}
            Err(error @ Error::Connect { .. }) => return Err(error),
            Err(error) => {
                eprintln!("{error}");
                code = 1;
            }
        }
    }
    Ok(code)
}

pub(crate) async fn each(client: &Client, names: &[String], verb: &str) -> Result<u8, Error> {
    for_each(names, async |name: String| {
        client.post(&format!("/containers/{name}/{verb}"), &[], None).await?;
        Ok(Some(name))
    })
    .await
}

pub(crate) async fn start(client: &Client, args: StartArgs) -> Result<u8, Error> {
    if let Some(name) = &args.checkpoint {
        return checkpoint::start(client, &args, name).await;
    }
    if !args.attach && !args.interactive {
        return each(client, &args.containers, "start").await;
    }
    let [name] = args.containers.as_slice() else {
        return Err(Error::Usage("you cannot start and attach multiple containers at once".into()));
    };
    let container = client.get(&format!("/containers/{name}/json"), &[]).await?;
    let id = text(&container, "/Id").to_owned();
    let flag = |pointer: &str| container.pointer(pointer).and_then(Value::as_bool).unwrap_or(false);
    let (tty, stdin) = (flag("/Config/Tty"), args.interactive && flag("/Config/OpenStdin"));
    let path = format!("/containers/{id}");
    let mut query = vec![("stream", "1".to_owned()), ("stdout", "1".into()), ("stderr", "1".into())];
    if stdin {
        query.push(("stdin", "1".into()));
    }
    let keys = args.detach_keys;
    if let Some(keys) = &keys {
        query.push(("detachKeys", keys.clone()));
    }
    let hijacked = client.hijack(&format!("{path}/attach"), &query, None).await?;
    let condition = if flag("/HostConfig/AutoRemove") { "removed" } else { "next-exit" };
    let waiting = client
        .request(Method::POST, &format!("{path}/wait"), &[("condition", condition.into())], None)
        .await?;
    client.post(&format!("{path}/start"), &[], None).await?;
    let proxy = (!tty).then(|| attach::proxy_signals(client, &id));
    let streams = Streams { stdin, tty, resize: &path, keys: keys.as_deref() };
    let code = match attach::copy(client, hijacked, &streams).await? {
        Ended::Detached => Ok(0),
        Ended::Output => attach::exit_code(waiting).await,
    };
    if let Some(task) = proxy {
        task.abort();
    }
    code
}

pub(crate) async fn stop(client: &Client, args: StopArgs, verb: &str) -> Result<u8, Error> {
    let mut query = Vec::new();
    if let Some(seconds) = args.timeout {
        query.push(("t", seconds.to_string()));
    }
    if let Some(signal) = args.signal {
        query.push(("signal", signal));
    }
    for_each(&args.containers, async |name: String| {
        client.post(&format!("/containers/{name}/{verb}"), &query, None).await?;
        Ok(Some(name))
    })
    .await
}

pub(crate) async fn kill(client: &Client, args: KillArgs) -> Result<u8, Error> {
    let query: Vec<_> = args.signal.into_iter().map(|s| ("signal", s)).collect();
    for_each(&args.containers, async |name: String| {
        client.post(&format!("/containers/{name}/kill"), &query, None).await?;
        Ok(Some(name))
    })
    .await
}

pub(crate) async fn wait(client: &Client, args: Containers) -> Result<u8, Error> {
    for_each(&args.containers, async |name: String| {
        let answer = client.post(&format!("/containers/{name}/wait"), &[], None).await?;
        Ok(Some(answer.get("StatusCode").and_then(Value::as_i64).unwrap_or(0).to_string()))
    })
    .await
}

pub(crate) async fn remove(client: &Client, args: RmArgs) -> Result<u8, Error> {
    let query =
        [("force", args.force.to_string()), ("v", args.volumes.to_string()), ("link", args.link.to_string())];
    for_each(&args.containers, async |name: String| {
        match client.delete(&format!("/containers/{name}"), &query).await {
            Err(Error::Daemon { status: 404, .. }) if args.force => Ok(None),
            other => other.map(|_| Some(name)),
        }
    })
    .await
}

pub(crate) async fn rename(client: &Client, args: RenameArgs) -> Result<u8, Error> {
    client.post(&format!("/containers/{}/rename", args.container), &[("name", args.name)], None).await?;
    Ok(0)
}

/// One port of a summary, in the order in which lists show them.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port<'a> {
    private: u64,
    ip: &'a str,
    public: u64,
    protocol: &'a str,
}

/// The ports in the short form of lists: runs of equal kind together, then those that go to another port of the host.
fn ports(summary: &Value) -> String {
    let number = |p: &Value, key: &str| p.get(key).and_then(Value::as_u64).unwrap_or(0);
    let mut all: Vec<Port<'_>> = summary
        .get("Ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|p| Port {
            private: number(p, "PrivatePort"),
            ip: text(p, "/IP"),
            public: number(p, "PublicPort"),
            protocol: text(p, "/Type"),
        })
        .collect();
    all.sort();
    let at = |ip: &str, port: &str| {
        if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
    };
    let run = |ip: &str, protocol: &str, first: u64, last: u64| {
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        if ip.is_empty() {
            format!("{range}/{protocol}")
        } else {
            format!("{}->{range}/{protocol}", at(ip, &range))
        }
    };
    let (mut shown, mut moved) = (Vec::new(), Vec::new());
    // Kinds in the order in which they came, with the run that is open.
    let mut open: Vec<(&str, &str, u64, u64)> = Vec::new();
    for port in &all {
        if !port.ip.is_empty() && port.public != port.private {
            let outside = at(port.ip, &port.public.to_string());
            moved.push(format!("{outside}->{}/{}", port.private, port.protocol));
            continue;
        }
        match open.iter_mut().find(|(ip, protocol, ..)| (*ip, *protocol) == (port.ip, port.protocol)) {
            None => open.push((port.ip, port.protocol, port.private, port.private)),
            Some((.., last)) if *last + 1 == port.private => *last = port.private,
            Some((ip, protocol, first, last)) => {
                shown.push(run(ip, protocol, *first, *last));
                (*first, *last) = (port.private, port.private);
            }
        }
    }
    shown.extend(open.into_iter().map(|(ip, protocol, first, last)| run(ip, protocol, first, last)));
    shown.extend(moved);
    shown.join(", ")
}

fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars().take(limit - 1).chain(std::iter::once('…')).collect()
}

/// The first twelve digits of an id.
pub(crate) fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

/// A point in time as docker's lists show it.
pub(crate) fn local_time(seconds: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_second(seconds) else { return String::new() };
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

fn row(summary: &Value, full: bool) -> Value {
    let id = text(summary, "/Id");
    let created = summary.get("Created").and_then(Value::as_i64).unwrap_or(0);
    let names: Vec<&str> = summary
        .get("Names")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|n| n.trim_start_matches('/'))
        .collect();
    let list = |pointer: &str| -> String {
        let labels = summary.pointer(pointer).and_then(Value::as_object);
        labels
            .into_iter()
            .flatten()
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(",")
    };
    let networks = summary.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
    let networks: Vec<&str> = networks.into_iter().flatten().map(|(k, _)| k.as_str()).collect();
    let mounts = summary.get("Mounts").and_then(Value::as_array).into_iter().flatten();
    let mounts: Vec<&str> = mounts
        .map(|m| if text(m, "/Name").is_empty() { text(m, "/Source") } else { text(m, "/Name") })
        .collect();
    let volumes = summary
        .get("Mounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|m| text(m, "/Driver") == "local")
        .count();
    let command = text(summary, "/Command");
    let size = |key: &str| summary.get(key).and_then(Value::as_i64).unwrap_or(0);
    let mut sizes = units::human(size("SizeRw"));
    if size("SizeRootFs") > 0 {
        sizes = format!("{sizes} (virtual {})", units::human(size("SizeRootFs")));
    }
    json!({
        "ID": if full { id } else { short(id) },
        "Image": text(summary, "/Image"),
        "Command": format!("\"{}\"", if full { command.to_owned() } else { shorten(command, 20) }),
        "CreatedAt": local_time(created),
        "RunningFor": format!("{} ago", units::ago(units::now() - created)),
        "Ports": ports(summary), "State": text(summary, "/State"), "Status": text(summary, "/Status"),
        "Size": sizes,
        "Names": names.join(","), "Labels": list("/Labels"), "Mounts": mounts.join(","), "Networks": networks.join(","),
        "LocalVolumes": volumes.to_string(), "Platform": null,
    })
}

pub(crate) async fn list(client: &Client, args: PsArgs) -> Result<u8, Error> {
    let last = if args.latest { Some(1) } else { args.last };
    let mut query = vec![("all", args.all.to_string()), ("size", args.size.to_string())];
    if let Some(last) = last {
        query.push(("limit", last.to_string()));
    }
    if let Some(filters) = filters(&args.list.filter)? {
        query.push(("filters", filters));
    }
    let answer = client.get("/containers/json", &query).await?;
    let rows: Vec<Value> =
        answer.as_array().into_iter().flatten().map(|s| row(s, args.list.no_trunc)).collect();
    if args.list.quiet {
        for row in rows {
            println!("{}", text(&row, "/ID"));
        }
        return Ok(0);
    }
    let mut columns = vec![
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
        ("NAMES", "Names"),
    ];
    if args.size {
        columns.push(("SIZE", "Size"));
    }
    format::print_list(&rows, &columns, args.list.format.as_deref())?;
    Ok(0)
}

pub(crate) async fn logs(client: &Client, args: LogsArgs) -> Result<u8, Error> {
    let container = client.get(&format!("/containers/{}/json", args.container), &[]).await?;
    let tty = container.pointer("/Config/Tty").and_then(Value::as_bool).unwrap_or(false);
    let mut query = vec![
        ("stdout", "1".to_owned()),
        ("stderr", "1".into()),
        ("follow", args.follow.to_string()),
        ("timestamps", args.timestamps.to_string()),
        ("details", args.details.to_string()),
        ("tail", args.tail),
    ];
    for (key, value) in [("since", args.since), ("until", args.until)] {
        if let Some(value) = value {
            query.push((key, units::moment(&value)?));
        }
    }
    let response = client
        .request(Method::GET, &format!("/containers/{}/logs", text(&container, "/Id")), &query, None)
        .await?;
    let mut data = http::data(response);
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    let mut frames = Frames::default();
    while let Some(bytes) = data.next().await {
        let bytes = bytes?;
        if tty {
            out.write_all(&bytes)?;
            out.flush()?;
        } else {
            frames
                .feed(&bytes, |error, part| if error { err.write_all(part) } else { out.write_all(part) })?;
            out.flush()?;
        }
    }
    Ok(0)
}

/// Takes apart a multiplexed stream that arrives in pieces of any size.
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    error: bool,
    left: usize,
}

impl Frames {
    fn feed(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(bool, &[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
                sink(self.error, part)?;
                self.left -= part.len();
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at((8 - self.head.len()).min(bytes.len()));
            self.head.extend_from_slice(part);
            bytes = rest;
            if let [stream, _, _, _, a, b, c, d] = *self.head.as_slice() {
                self.error = stream == 2;
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.head.clear();
            }
        }
        Ok(())
    }
}

pub(crate) async fn top(client: &Client, args: TopArgs) -> Result<u8, Error> {
    let Some((container, options)) = args.command.split_first() else {
        return Err(Error::Usage("a container is required".into()));
    };
    let query: Vec<_> = if options.is_empty() { Vec::new() } else { vec![("ps_args", options.join(" "))] };
    let answer = client.get(&format!("/containers/{container}/top"), &query).await?;
    let strings = |v: &Value| {
        v.as_array()
            .into_iter()
            .flatten()
            .map(|s| s.as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let titles = answer.get("Titles").map(strings).unwrap_or_default();
    let columns: Vec<(&str, &str)> = titles.iter().map(|t| (t.as_str(), t.as_str())).collect();
    let rows: Vec<Value> = answer
        .get("Processes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|p| {
            titles.iter().cloned().zip(strings(p).into_iter().map(Value::from)).collect::<Map<_, _>>().into()
        })
        .collect();
    format::print_wide(&rows, &columns);
    Ok(0)
}

pub(crate) async fn port(client: &Client, args: PortArgs) -> Result<u8, Error> {
    let container = client.get(&format!("/containers/{}/json", args.container), &[]).await?;
    let asked = args.port.clone().unwrap_or_default();
    let wanted = args.port.map(|p| if p.contains('/') { p } else { format!("{p}/tcp") });
    let mut found = false;
    for (inside, bindings) in
        container.pointer("/NetworkSettings/Ports").and_then(Value::as_object).into_iter().flatten()
    {
        if wanted.as_ref().is_some_and(|w| w != inside) {
            continue;
        }
        for binding in bindings.as_array().into_iter().flatten() {
            found = true;
            let ip = text(binding, "/HostIp");
            let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            let outside = format!("{ip}:{}", text(binding, "/HostPort"));
            if wanted.is_some() { println!("{outside}") } else { println!("{inside} -> {outside}") }
        }
    }
    match wanted {
        Some(_) if !found => {
            Err(Error::Missing(format!("Error: No public port '{asked}' published for {}", args.container)))
        }
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_apart_whatever_the_pieces() {
        let mut stream = Vec::new();
        for (kind, text) in [(1u8, "out"), (2, "err"), (1, ""), (1, "more")] {
            stream.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()]);
            stream.extend_from_slice(text.as_bytes());
        }
        for size in 1..stream.len() {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let mut frames = Frames::default();
            for piece in stream.chunks(size) {
                frames
                    .feed(piece, |e, part| {
                        if e {
                            err.extend_from_slice(part);
                        } else {
                            out.extend_from_slice(part);
                        }
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!((out.as_slice(), err.as_slice()), (&b"outmore"[..], &b"err"[..]));
        }
    }

    #[test]
    fn ports_are_shown_in_runs() {
        let port = |private: u16, ip: &str, public: u16, protocol: &str| json!({"PrivatePort": private, "IP": ip, "PublicPort": public, "Type": protocol});
        let bare = |private: u16| json!({"PrivatePort": private, "Type": "tcp"});
        for (list, wanted) in [
            (vec![bare(80)], "80/tcp"),
            (vec![bare(82), bare(80), bare(81), bare(90)], "80-82/tcp, 90/tcp"),
            (
                vec![port(80, "0.0.0.0", 8080, "tcp"), port(80, "::", 8080, "tcp"), bare(99)],
                "99/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
            ),
            (
                vec![
                    port(70, "0.0.0.0", 70, "tcp"),
                    port(71, "0.0.0.0", 71, "tcp"),
                    port(53, "::1", 53, "udp"),
                ],
                "[::1]:53->53/udp, 0.0.0.0:70-71->70-71/tcp",
            ),
            (vec![], ""),
        ] {
            assert_eq!(ports(&json!({"Ports": list})), wanted);
        }
    }

    #[test]
    fn filters_collect_by_key() {
        let list = ["label=a=b".to_owned(), "label=c".into(), "status=exited".into()];
        assert_eq!(filters(&list).unwrap().unwrap(), r#"{"label":["a=b","c"],"status":["exited"]}"#);
        assert!(filters(&["x".into()]).is_err());
        assert_eq!(filters(&[]).unwrap(), None);
    }
}
