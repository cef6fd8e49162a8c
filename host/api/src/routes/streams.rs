//! What goes on and on: attach, logs, events, stats, wait.

use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hyper::StatusCode;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use wharf_engine::models::{ContainerStatsResponse, ContainerWaitResponse};
use wharf_engine::{Sample, WaitCondition};
use wharf_io::{AttachQuery, LogQuery, Tail};

use super::websocket;
use crate::error::Failure;
use crate::gate::{Call, Granted};
use crate::hijack::{self, MULTIPLEXED, RAW};
use crate::http::reply::{self, Content, Outcome};
use crate::service::Pending;
use crate::shape;
use crate::version::Version;

const JSON: &str = "application/json";

/// Between two samples of statistics.
const SECOND: Duration = Duration::from_secs(1);

fn attach_query(call: &Call) -> AttachQuery {
    let query = call.query();
    AttachQuery {
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        detach_keys: query.non_empty("detachKeys").map(str::to_owned),
    }
}

pub(crate) async fn attach(mut call: Call) -> Outcome {
    let query = attach_query(&call);
    let engine = call.grant().await?;
    // The body belongs to the request, not to the process's input.
    call.bytes().await?;
    let hijacker = call.hijacker()?;
    let session = engine.container_attach(call.name(), query).await?;
    let multiplexed = session.output.multiplexed && call.version() >= Version(42);
    let head = hijack::head(call.wants_upgrade(), multiplexed);
    match hijacker.take(head, Box::new(|socket, early| Box::pin(hijack::run(socket, early, session)))).await {}
}

pub(crate) async fn attach_ws(mut call: Call) -> Outcome {
    let query = attach_query(&call);
    let engine = call.grant().await?;
    let head = websocket::accept(&call)?;
    let hijacker = call.hijacker()?;
    let session = engine.container_attach(call.name(), query).await?;
    match hijacker
        .take(head, Box::new(|socket, early| Box::pin(websocket::run(socket, early, session))))
        .await {}
}

/// Seconds since 1970 with an optional fraction, or a date and time of RFC 3339, as nanoseconds.
fn timestamp(key: &str, text: &str) -> Result<Option<u64>, Failure> {
    let bad = || Failure::invalid(format!("invalid value for {key:?}: {text:?} is no Unix time"));
    if text.is_empty() {
        return Ok(None);
    }
    if text.contains('T') {
        let time: jiff::Timestamp = text.parse().map_err(|_| bad())?;
        // Before 1970 is from the beginning.
        return Ok(u64::try_from(time.as_nanosecond()).ok());
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if seconds.starts_with('-') {
        // Before 1970 is from the beginning.
        let _: i64 = seconds.parse().map_err(|_| bad())?;
        return Ok(None);
    }
    let seconds: u64 = seconds.parse().map_err(|_| bad())?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u64 = digits.parse().map_err(|_| bad())?;
    Ok(Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanos)))
}

pub(crate) async fn logs(call: Call) -> Outcome {
    let query = call.query();
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Failure::invalid("Bad parameters: you must choose at least one stream"));
    }
    let wanted = LogQuery {
        follow: query.flag("follow"),
        stdout,
        stderr,
        since: timestamp("since", query.text("since"))?.filter(|t| *t > 0),
        until: timestamp("until", query.text("until"))?.filter(|t| *t > 0),
        tail: Tail::parse(query.text("tail")),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    };
    let engine = call.grant().await?;
    let output = engine.container_logs(call.name(), wanted).await?;
    let multiplexed = output.multiplexed;
    let kind = if multiplexed && call.version() >= Version(42) { MULTIPLEXED } else { RAW };
    let bytes = output.bytes.map(move |item| {
        Ok(item.unwrap_or_else(|e| {
            let text = format!("Error grabbing logs: {e}\n");
            if multiplexed { hijack::frame(2, text.as_bytes()) } else { Bytes::from(text) }
        }))
    });
    Ok(reply::stream(kind, bytes))
}

const EVENT_FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// The first of the client's wishes that we can fulfil; `true` is with record separators.
fn event_format(accept: Option<&str>) -> (&'static str, bool) {
    for wish in accept.unwrap_or_default().split(',') {
        match wish.split(';').next().unwrap_or_default().trim() {
            "application/x-ndjson" => return ("application/x-ndjson", false),
            "application/jsonl" => return ("application/jsonl", false),
            "application/json-seq" => return ("application/json-seq", true),
            _ => {}
        }
    }
    (JSON, false)
}

pub(crate) async fn events(call: Call) -> Outcome {
    let query = call.query();
    let filters = query.filters(EVENT_FILTERS)?;
    let since = timestamp("since", query.text("since"))?;
    let until = timestamp("until", query.text("until"))?;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(Failure::invalid("`since` time cannot be after `until` time"));
    }
    let legacy = call.version() < Version(52);
    let (kind, separated) = event_format(call.header(&ACCEPT));
    let engine = call.grant().await?;
    let listener = engine.listen(since, until, &filters)?;
    let lines = listener.map(move |event| {
        let line = event.json(legacy);
        Ok(if separated { [b"\x1e".as_slice(), &line].concat().into() } else { line })
    });
    Ok(reply::stream(kind, lines))
}

pub(crate) async fn wait(call: Call) -> Outcome {
    // Conditions came with 1.30.
    let condition = if call.version() < Version(30) { "" } else { call.query().text("condition") };
    let condition = WaitCondition::parse(condition)?;
    let engine = call.grant().await?;
    let waiting = engine.container_wait(call.name(), condition).await?;
    // The head goes out now: clients start the container when they have it.
    let body = stream::once(async move { Ok(wait_line(waiting).await) });
    let mut answer = reply::with(StatusCode::OK, Content::Stream(Box::pin(body)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    Ok(answer)
}

async fn wait_line(waiting: Pending<'static, ContainerWaitResponse>) -> Bytes {
    let mut bytes = match waiting.await {
        Ok(response) => serde_json::to_vec(&response).unwrap_or_default(),
        Err(e) => json!({"StatusCode": 0, "Error": {"Message": e.message}}).to_string().into_bytes(),
    };
    bytes.push(b'\n');
    bytes.into()
}

/// All streams of statistics look in the same moment of each second, so that what is the same for all is looked at once.
static PHASE: LazyLock<Instant> = LazyLock::new(Instant::now);

struct Samples {
    engine: Granted,
    name: String,
    version: Version,
    ticks: Interval,
    previous: Option<Sample>,
}

pub(crate) async fn stats(call: Call) -> Outcome {
    let query = call.query();
    let streaming = query.flag_or("stream", true);
    let one_shot = query.flag("one-shot") && call.version() >= Version(41);
    if streaming && one_shot {
        return Err(Failure::invalid("cannot have stream=true and one-shot=true"));
    }
    let engine = call.grant().await?;
    let mut first = engine.container_stats(call.name(), None).await?;
    shape::stats(&mut first.stats, call.version());
    if one_shot {
        return sample(&first.stats).map(|bytes| reply::text(StatusCode::OK, bytes));
    }
    if !streaming {
        tokio::time::sleep(SECOND).await;
        let mut second = engine.container_stats(call.name(), Some(first)).await?;
        shape::stats(&mut second.stats, call.version());
        return sample(&second.stats).map(|bytes| reply::text(StatusCode::OK, bytes));
    }
    let line = sample(&first.stats)?;
    // The next moment that is not so near that it would tell nothing.
    let passed = (PHASE.elapsed() + SECOND / 2).as_secs() + 1;
    let mut ticks = interval_at(*PHASE + Duration::from_secs(passed), SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let samples = Samples {
        engine,
        name: call.name().to_owned(),
        version: call.version(),
        ticks,
        previous: Some(first),
    };
    Ok(reply::stream(JSON, stream::once(async move { Ok(line) }).chain(more(samples))))
}

fn sample(stats: &ContainerStatsResponse) -> Result<Bytes, Failure> {
    let failed = |e: serde_json::Error| Failure::internal(format!("the statistics cannot be written: {e}"));
    let mut bytes = serde_json::to_vec(stats).map_err(failed)?;
    bytes.push(b'\n');
    Ok(bytes.into())
}

/// One sample a second until the container is gone.
fn more(samples: Samples) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(samples, |mut state| async move {
        state.ticks.tick().await;
        let mut next = state.engine.container_stats(&state.name, state.previous.take()).await.ok()?;
        shape::stats(&mut next.stats, state.version);
        let line = sample(&next.stats).ok()?;
        state.previous = Some(next);
        Some((Ok(line), state))
    })
}

#[cfg(test)]
mod tests {
    use super::{event_format, timestamp};

    #[test]
    fn times() {
        for (text, wanted) in [
            ("", None),
            ("0", Some(0)),
            ("1700000000", Some(1_700_000_000_000_000_000)),
            ("1.5", Some(1_500_000_000)),
            ("1.000000001", Some(1_000_000_001)),
            ("1.0000000019", Some(1_000_000_001)),
            ("-5", None),
            ("1970-01-01T00:00:01.5Z", Some(1_500_000_000)),
            ("1970-01-01T01:00:01+01:00", Some(1_000_000_000)),
            ("1969-01-01T00:00:00Z", None),
            ("99999999999999999999", None),
        ] {
            match timestamp("since", text) {
                Ok(found) => assert_eq!(found, wanted, "{text}"),
                Err(_) => assert_eq!(text.len(), 20, "{text}"),
            }
        }
        for bad in ["x", "1.x", "1.-1", "1h", "--1", "1970-01-01T", "T"] {
            assert!(timestamp("since", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn formats_of_events() {
        for (accept, wanted) in [
            (None, ("application/json", false)),
            (Some("*/*"), ("application/json", false)),
            (Some("application/json-seq, application/x-ndjson"), ("application/json-seq", true)),
            (Some("text/html, application/x-ndjson;q=0.5"), ("application/x-ndjson", false)),
            (Some("application/jsonl"), ("application/jsonl", false)),
        ] {
            assert_eq!(event_format(accept), wanted, "{accept:?}");
        }
    }
}
