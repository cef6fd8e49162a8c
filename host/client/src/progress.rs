//! Progress of pulls, pushes and loads: bars on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use futures_util::StreamExt;
use hyper::Response;
use hyper::body::Incoming;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::attach::text;
use crate::{Error, http};

/// Bars by the id of what they show.
struct Bars {
    all: MultiProgress,
    bars: HashMap<String, ProgressBar>,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

impl Bars {
    fn show(&mut self, id: &str, status: &str, line: &Value) {
        let bar = self.bars.entry(id.to_owned()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(0));
            bar.set_prefix(id.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        let number = |key: &str| line.pointer(&format!("/progressDetail/{key}")).and_then(Value::as_u64);
        match (number("current"), number("total")) {
            (Some(current), Some(total)) if total > 0 => {
                bar.set_style(style(
                    "{prefix}: {msg:<18} {bar:30.cyan/blue} {bytes:>10}/{total_bytes} {bytes_per_sec:>12}",
                ));
                bar.set_length(total);
                bar.set_position(current);
            }
            (Some(current), _) => {
                bar.set_style(style("{prefix}: {msg:<18} {bytes:>10} {bytes_per_sec:>12}"));
                bar.set_position(current);
            }
            _ => bar.set_style(style("{prefix}: {msg}")),
        }
        bar.set_message(status.to_owned());
        if is_last(status) {
            bar.abandon();
        }
    }
}

/// After which nothing more is said of a layer.
fn is_last(status: &str) -> bool {
    ["Pull complete", "Already exists", "Pushed", "Layer already exists"].contains(&status)
        || status.starts_with("Mounted from")
}

/// Shows the messages of the daemon; the stream's own errors end it.
pub(crate) async fn show(response: Response<Incoming>, quiet: bool) -> Result<(), Error> {
    let mut bars =
        std::io::stdout().is_terminal().then(|| Bars { all: MultiProgress::new(), bars: HashMap::new() });
    let mut lines = http::lines(response);
    while let Some(line) = lines.next().await {
        let line = line?;
        if let Some(message) =
            line.pointer("/errorDetail/message").or(line.get("error")).and_then(Value::as_str)
        {
            return Err(Error::Daemon { status: 500, message: message.to_owned() });
        }
        if let Some(stream) = line.get("stream").and_then(Value::as_str) {
            print!("{stream}");
            continue;
        }
        let (id, status) = (text(&line, "/id"), text(&line, "/status"));
        if quiet || status.is_empty() {
            continue;
        }
        let moving = line.get("progressDetail").and_then(Value::as_object);
        match &mut bars {
            Some(bars) if moving.is_some() && !id.is_empty() => bars.show(id, status, &line),
            Some(bars) if !bars.bars.is_empty() => {
                let text = if id.is_empty() { status.to_owned() } else { format!("{id}: {status}") };
                bars.all.println(text)?;
            }
            // Without a terminal a bar would be a flood of lines.
            None if moving.is_some_and(|d| !d.is_empty()) => {}
            _ if id.is_empty() => println!("{status}"),
            _ => println!("{id}: {status}"),
        }
    }
    Ok(())
}
