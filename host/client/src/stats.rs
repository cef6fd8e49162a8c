//! `stats`, and `top` without a container: figures that are redrawn in place, with a little history.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use futures_util::StreamExt;
use hyper::Method;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::args::StatsArgs;
use crate::attach::text;
use crate::containers::short;
use crate::http::{self, Client};
use crate::{Error, format, terminal, units};

/// How often the table is drawn.
const TICK: Duration = Duration::from_millis(500);
/// Values that a history holds.
const HISTORY: usize = 20;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What is shown of one container.
#[derive(Debug, Default, Clone)]
struct Shown {
    name: String,
    latest: Option<Value>,
    history: VecDeque<f64>,
    /// The reader of its figures, which ends with this.
    _reader: Option<Task>,
}

/// A reader that ends with its owner.
#[derive(Debug, Clone)]
struct Task(std::sync::Arc<tokio::task::JoinHandle<()>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0)
}

/// Use of processors in percent of one, from two readings as the daemon sends them together.
fn cpu(stats: &Value) -> f64 {
    let used = number(stats, "/cpu_stats/cpu_usage/total_usage")
        - number(stats, "/precpu_stats/cpu_usage/total_usage");
    let passed =
        number(stats, "/cpu_stats/system_cpu_usage") - number(stats, "/precpu_stats/system_cpu_usage");
    let before = number(stats, "/precpu_stats/system_cpu_usage");
    let online = number(stats, "/cpu_stats/online_cpus").max(1.0);
    if used > 0.0 && passed > 0.0 && before > 0.0 { used / passed * online * 100.0 } else { 0.0 }
}

/// Memory without what the kernel can take back at once, and the limit.
fn memory(stats: &Value) -> (f64, f64) {
    let usage = number(stats, "/memory_stats/usage");
    let cache = ["total_inactive_file", "inactive_file"]
        .iter()
        .map(|key| number(stats, &format!("/memory_stats/stats/{key}")))
        .find(|cache| *cache > 0.0)
        .unwrap_or(0.0);
    (if cache < usage { usage - cache } else { usage }, number(stats, "/memory_stats/limit"))
}

fn network(stats: &Value) -> (f64, f64) {
    let links = stats.get("networks").and_then(Value::as_object).into_iter().flatten();
    links.fold((0.0, 0.0), |(received, sent), (_, link)| {
        (received + number(link, "/rx_bytes"), sent + number(link, "/tx_bytes"))
    })
}

fn blocks(stats: &Value) -> (f64, f64) {
    let entries = stats.pointer("/blkio_stats/io_service_bytes_recursive").and_then(Value::as_array);
    entries.into_iter().flatten().fold((0.0, 0.0), |(read, written), entry| {
        let value = number(entry, "/value");
        match text(entry, "/op").to_ascii_lowercase().as_str() {
            "read" => (read + value, written),
            "write" => (read, written + value),
            _ => (read, written),
        }
    })
}

fn scaled(bytes: f64, base: f64, names: &[&str]) -> String {
    let (mut value, mut at) = (bytes, 0);
    while value >= base && at + 1 < names.len() {
        value /= base;
        at += 1;
    }
    let digits = if value == 0.0 || value.fract() == 0.0 && at == 0 { 0 } else { 3 };
    let mut out = String::new();
    let name = names.get(at).copied().unwrap_or("B");
    // Four digits that count, as docker shows them.
    let _ = if digits == 0 {
        write!(out, "{value:.0}{name}")
    } else if value >= 100.0 {
        write!(out, "{value:.1}{name}")
    } else if value >= 10.0 {
        write!(out, "{value:.2}{name}")
    } else {
        write!(out, "{value:.3}{name}")
    };
    out
}

fn binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

fn decimal(bytes: f64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// The history as bars; the highest of all that is shown is full.
fn plot(history: &VecDeque<f64>) -> String {
    let most = history.iter().copied().fold(1.0, f64::max);
    history
        .iter()
        .map(|value| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 7")]
            let at = (value / most * 7.0).clamp(0.0, 7.0) as usize;
            BARS.get(at).copied().unwrap_or(' ')
        })
        .collect()
}

fn row(id: &str, shown: &Shown, full: bool) -> Value {
    let id = if full { id } else { short(id) };
    let Some(stats) = &shown.latest else {
        return json!({
            "ID": id, "Container": id, "Name": shown.name, "CPUPerc": "--", "MemUsage": "-- / --", "MemPerc": "--",
            "NetIO": "--", "BlockIO": "--", "PIDs": "--", "History": "",
        });
    };
    let (used, limit) = memory(stats);
    let (received, sent) = network(stats);
    let (read, written) = blocks(stats);
    let percent = if limit > 0.0 { used / limit * 100.0 } else { 0.0 };
    json!({
        "ID": id, "Container": id, "Name": shown.name, "CPUPerc": format!("{:.2}%", cpu(stats)),
        "MemUsage": format!("{} / {}", binary(used), binary(limit)), "MemPerc": format!("{percent:.2}%"),
        "NetIO": format!("{} / {}", decimal(received), decimal(sent)),
        "BlockIO": format!("{} / {}", decimal(read), decimal(written)),
        "PIDs": format!("{:.0}", number(stats, "/pids_stats/current")), "History": plot(&shown.history),
    })
}

/// The containers that shall be shown now: those named, or all that run.
async fn wanted(client: &Client, args: &StatsArgs) -> Result<Vec<(String, String)>, Error> {
    if args.containers.is_empty() {
        let list = client.get("/containers/json", &[("all", args.all.to_string())]).await?;
        let list = list.as_array().into_iter().flatten();
        return Ok(list
            .map(|c| (text(c, "/Id").to_owned(), text(c, "/Names/0").trim_start_matches('/').to_owned()))
            .collect());
    }
    let mut all = Vec::new();
    for name in &args.containers {
        let found = client.get(&format!("/containers/{name}/json"), &[]).await?;
        all.push((text(&found, "/Id").to_owned(), text(&found, "/Name").trim_start_matches('/').to_owned()));
    }
    Ok(all)
}

type Readings = mpsc::Sender<(String, Value)>;

async fn read(client: Client, id: String, readings: Readings) {
    let path = format!("/containers/{id}/stats");
    let Ok(answer) = client.request(Method::GET, &path, &[("stream", "true".into())], None).await else {
        return;
    };
    let mut lines = http::lines(answer);
    while let Some(Ok(value)) = lines.next().await {
        if readings.send((id.clone(), value)).await.is_err() {
            return;
        }
    }
}

/// Once, without a stream.
async fn once(client: &Client, args: &StatsArgs) -> Result<u8, Error> {
    let mut reading = tokio::task::JoinSet::new();
    let order = wanted(client, args).await?;
    for (id, name) in order.clone() {
        let client = client.clone();
        reading.spawn(async move {
            let path = format!("/containers/{id}/stats");
            let latest = client.get(&path, &[("stream", "false".into())]).await.ok();
            (id, Shown { name, latest, ..Shown::default() })
        });
    }
    let mut all = BTreeMap::new();
    while let Some(Ok((id, shown))) = reading.join_next().await {
        all.insert(id, shown);
    }
    print!("{}", drawn(&order, &all, args, false)?);
    Ok(0)
}

fn drawn(
    order: &[(String, String)],
    all: &BTreeMap<String, Shown>,
    args: &StatsArgs,
    live: bool,
) -> Result<String, Error> {
    let rows: Vec<Value> =
        order.iter().filter_map(|(id, _)| all.get(id).map(|shown| row(id, shown, args.no_trunc))).collect();
    let mut columns = vec![
        ("CONTAINER ID", "ID"),
        ("NAME", "Name"),
        ("CPU %", "CPUPerc"),
        ("MEM USAGE / LIMIT", "MemUsage"),
        ("MEM %", "MemPerc"),
        ("NET I/O", "NetIO"),
        ("BLOCK I/O", "BlockIO"),
        ("PIDS", "PIDs"),
    ];
    if live && args.format.is_none() {
        columns.push(("CPU HISTORY", "History"));
    }
    format::list_text(&rows, &columns, args.format.as_deref())
}

/// Draws until it is interrupted, or until none of the named containers is left.
pub(crate) async fn stats(client: &Client, args: StatsArgs) -> Result<u8, Error> {
    if args.no_stream {
        return once(client, &args).await;
    }
    let live = terminal::size().is_some();
    let (send, mut readings) = mpsc::channel(256);
    let mut shown: BTreeMap<String, Shown> = BTreeMap::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tick = tokio::time::interval(TICK);
    let mut order = wanted(client, &args).await?;
    let mut out = std::io::stdout();
    loop {
        for (id, name) in &order {
            shown.entry(id.clone()).or_insert_with(|| {
                let task = tokio::spawn(read(client.clone(), id.clone(), send.clone()));
                let reader = Some(Task(std::sync::Arc::new(task)));
                Shown { name: name.clone(), _reader: reader, ..Shown::default() }
            });
        }
        shown.retain(|id, _| order.iter().any(|(known, _)| known == id));
        tokio::select! {
            Some((id, value)) = readings.recv() => {
                if let Some(one) = shown.get_mut(&id) {
                    one.history.push_back(cpu(&value));
                    if one.history.len() > HISTORY {
                        one.history.pop_front();
                    }
                    one.latest = Some(value);
                }
            }
            _ = tick.tick() => {
                order = match wanted(client, &args).await {
                    Ok(order) => order,
                    // A container that was named is gone: so is the reason to go on.
                    Err(Error::Daemon { status: 404, .. }) => return Ok(0),
                    Err(error) => return Err(error),
                };
                let text = drawn(&order, &shown, &args, live)?;
                // From the top left corner, with what was there before cleared.
                let text = if live { format!("\u{1b}[H\u{1b}[J{text}") } else { text };
                if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
                    return Ok(0);
                }
            }
            _ = interrupt.recv() => return Ok(0),
        }
    }
}

/// Whether colours and the like are wanted on standard output.
pub(crate) fn colours() -> bool {
    terminal::size().is_some() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// The age of an event's moment for a reader.
pub(crate) fn clock(nanoseconds: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds));
    let zoned = time.map(|t| t.to_zoned(jiff::tz::TimeZone::system()));
    zoned.map_or_else(|_| units::now().to_string(), |z| z.strftime("%H:%M:%S.%3f").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let stats = json!({
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 4},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 3_145_728, "limit": 10_485_760, "stats": {"inactive_file": 1_048_576}},
            "networks": {"eth0": {"rx_bytes": 1500, "tx_bytes": 5}, "eth1": {"rx_bytes": 500, "tx_bytes": 5}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 10}, {"op": "write", "value": 20}]},
            "pids_stats": {"current": 3},
        });
        let shown = Shown { name: "web".into(), latest: Some(stats), ..Shown::default() };
        let row = row("0123456789abcdef", &shown, false);
        assert_eq!(row["ID"], "0123456789ab");
        assert_eq!(row["CPUPerc"], "80.00%");
        assert_eq!((&row["MemUsage"], &row["MemPerc"]), (&json!("2.000MiB / 10.00MiB"), &json!("20.00%")));
        assert_eq!(
            (&row["NetIO"], &row["BlockIO"], &row["PIDs"]),
            (&json!("2.000kB / 10B"), &json!("10B / 20B"), &json!("3"))
        );
        let nothing = super::row("x", &Shown::default(), true);
        assert_eq!(nothing["CPUPerc"], "--");
    }

    #[test]
    fn histories_are_bars() {
        assert_eq!(plot(&VecDeque::from([0.0, 50.0, 100.0])), "▁▄█");
        assert_eq!(plot(&VecDeque::from([0.0, 0.5])), "▁▄");
    }
}
