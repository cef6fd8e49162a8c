//! Lines of progress, in Docker's words and shape.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::images::Progress;

/// Lines that only say how far something is may wait in this number; beyond that they are left out.
const WAITING: usize = 64;
/// Between two lines about the same layer.
const PACE: Duration = Duration::from_millis(100);

/// Where lines go. Never blocks who writes; lines about how far something is are left out for slow readers.
#[derive(Clone)]
pub(crate) struct Lines {
    to: mpsc::UnboundedSender<Value>,
    waiting: Arc<AtomicUsize>,
}

impl Lines {
    /// Passes lines on to a client. The future ends when all writers are gone and everything is passed on.
    pub(crate) fn new(progress: Progress) -> (Self, impl Future<Output = ()> + Send) {
        let (to, mut from) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        let pass = async move {
            while let Some(line) = from.recv().await {
                left.fetch_sub(1, Ordering::Relaxed);
                if progress.send(line).await.is_err() {
                    return;
                }
            }
        };
        (Self { to, waiting }, pass)
    }

    pub(crate) fn send(&self, line: Value) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // A client that went away ends the operation elsewhere.
        let _ = self.to.send(line);
    }

    /// A line about something with an id.
    pub(crate) fn say(&self, id: &str, status: &str) {
        self.send(json!({"status": status, "progressDetail": {}, "id": id}));
    }

    /// A line of its own.
    pub(crate) fn text(&self, status: impl Into<String>) {
        self.send(json!({"status": status.into()}));
    }
}

/// Bytes of one thing.
pub(crate) struct Meter {
    lines: Lines,
    id: String,
    status: &'static str,
    total: u64,
    last: Mutex<Option<Instant>>,
}

impl Meter {
    pub(crate) fn new(lines: &Lines, id: &str, status: &'static str, total: u64) -> Self {
        Self { lines: lines.clone(), id: id.to_owned(), status, total, last: Mutex::default() }
    }

    /// For what nobody looks at.
    pub(crate) fn nobody() -> Self {
        let (to, _) = mpsc::unbounded_channel();
        let lines = Lines { to, waiting: Arc::new(AtomicUsize::new(0)) };
        // As if it had been full for ever: no line is made.
        lines.waiting.store(WAITING + 1, Ordering::Relaxed);
        Self::new(&lines, "", "", 0)
    }

    /// So many bytes are done.
    pub(crate) fn at(&self, current: u64) {
        {
            let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if last.is_some_and(|t| t.elapsed() < PACE)
                || self.lines.waiting.load(Ordering::Relaxed) > WAITING
            {
                return;
            }
            *last = Some(Instant::now());
        }
        self.lines.send(json!({
            "status": self.status, "id": self.id, "progress": bar(current, self.total),
            "progressDetail": if self.total > 0 { json!({"current": current, "total": self.total}) }
                else { json!({"current": current}) },
        }));
    }
}

/// A size as Docker's bar shows it: four digits and a unit of 1000.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[allow(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        v if v >= 1000.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS.get(unit).unwrap_or(&"B"))
}

/// `[====>    ]  1.2MB/3MB`.
pub(crate) fn bar(current: u64, total: u64) -> String {
    if total == 0 || current > total {
        return format!("{:>8}", size(current));
    }
    let done = usize::try_from(current.saturating_mul(100) / total / 2).unwrap_or(50).min(50);
    format!("[{}>{}] {:>8}/{}", "=".repeat(done), " ".repeat(50 - done), size(current), size(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_as_docker_draws_them() {
        assert_eq!(bar(0, 100), format!("[>{}] {:>8}/100B", " ".repeat(50), "0B"));
        assert_eq!(bar(50, 100), format!("[{}>{}] {:>8}/100B", "=".repeat(25), " ".repeat(25), "50B"));
        assert_eq!(bar(2_814_446, 2_814_446), format!("[{}>] {:>8}/2.814MB", "=".repeat(50), "2.814MB"));
        assert_eq!(bar(1_234_567, 0), " 1.235MB");
        assert_eq!(
            [size(999), size(1000), size(12_340), size(123_456_789)],
            ["999B", "1kB", "12.34kB", "123.5MB"]
        );
    }
}
