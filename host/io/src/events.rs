//! What happened on this host: a ring of recent events, and listeners.
//!
//! Publishing never waits. A listener that falls a whole ring behind ends (the client connects again and asks
//! `since`), and one whose client went away leaves nothing behind.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::sys;

/// Events that are remembered for `since`, and how far a listener may fall behind.
const RING: usize = 2048;

/// A clock that is so many nanoseconds behind the last event was set back; less is that events come in the same moment.
const SET_BACK: u64 = 1_000_000_000;

/// One event, serialised once for all listeners.
#[derive(Debug)]
pub struct Event {
    /// `container`, `image`, `network`, `volume`, `daemon`, ...
    pub kind: String,
    /// `start`, `die`, `health_status: healthy`, ...
    pub action: String,
    /// Id or name of the object.
    pub id: String,
    /// Labels, name, image and so on.
    pub attributes: BTreeMap<String, String>,
    /// `local` or `swarm`.
    pub scope: String,
    /// Nanoseconds since 1970.
    pub time: u64,
    json: [OnceLock<Bytes>; 2],
}

#[derive(Serialize)]
struct Json<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(rename = "Type")]
    kind: &'a str,
    #[serde(rename = "Action")]
    action: &'a str,
    #[serde(rename = "Actor")]
    actor: Actor<'a>,
    scope: &'a str,
    time: u64,
    #[serde(rename = "timeNano")]
    time_nano: u64,
}

#[derive(Serialize)]
struct Actor<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Attributes")]
    attributes: &'a BTreeMap<String, String>,
}

impl Event {
    /// One JSON object and a newline, as of API 1.52; `legacy` adds `status`, `id` and `from` for older clients.
    pub fn json(&self, legacy: bool) -> Bytes {
        let [new, old] = &self.json;
        if legacy { old } else { new }.get_or_init(|| self.write(legacy)).clone()
    }

    fn write(&self, legacy: bool) -> Bytes {
        // Docker fills them for these two only.
        let legacy = legacy && matches!(self.kind.as_str(), "container" | "image");
        let from = self.attributes.get("image").map(String::as_str).filter(|_| self.kind == "container");
        let json = Json {
            status: legacy.then_some(&self.action),
            id: legacy.then_some(self.id.as_str()).filter(|id| !id.is_empty()),
            from: from.filter(|from| legacy && !from.is_empty()),
            kind: &self.kind,
            action: &self.action,
            actor: Actor { id: &self.id, attributes: &self.attributes },
            scope: &self.scope,
            time: self.time / 1_000_000_000,
            time_nano: self.time,
        };
        let mut bytes = serde_json::to_vec(&json).unwrap_or_default();
        bytes.push(b'\n');
        bytes.into()
    }
}

/// Which events a listener wants: Docker's filters, key to values. Values of a key are alternatives (labels all have to
/// match), keys have to match all; keys that Docker does not know select nothing out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(pub BTreeMap<String, Vec<String>>);

/// Kinds of objects that can be named in a filter.
const KINDS: [&str; 9] =
    ["container", "daemon", "plugin", "volume", "network", "node", "service", "secret", "config"];

impl Filters {
    fn values(&self, key: &str) -> Option<&[String]> {
        self.0.get(key).map(Vec::as_slice).filter(|values| !values.is_empty())
    }

    fn exact(&self, key: &str, text: &str) -> bool {
        self.values(key).is_none_or(|values| values.iter().any(|value| value == text))
    }

    fn prefix(&self, key: &str, text: &str) -> bool {
        self.values(key).is_none_or(|values| values.iter().any(|value| text.starts_with(value.as_str())))
    }

    /// Whether an event is wanted.
    pub fn matches(&self, event: &Event) -> bool {
        let attribute = |key: &str| event.attributes.get(key).map_or("", String::as_str);
        let action = match self.values("event") {
            // These actions go on after a colon.
            Some(values)
                if values
                    .iter()
                    .any(|v| matches!(v.as_str(), "health_status" | "exec_create" | "exec_start")) =>
            {
                self.prefix("event", &event.action)
            }
            _ => self.exact("event", &event.action),
        };
        action
            && self.exact("type", &event.kind)
            && self.exact("scope", &event.scope)
            && KINDS.iter().all(|kind| {
                self.values(kind).is_none()
                    || self.prefix(kind, &event.id)
                    || self.prefix(kind, attribute("name"))
            })
            && self.image(event)
            && self.labels(event)
    }

    /// Images match with and without their tag, in image events and in those of their containers.
    fn image(&self, event: &Event) -> bool {
        let key = if event.kind == "image" { "name" } else { "image" };
        let name = event.attributes.get(key).map_or("", String::as_str);
        [event.id.as_str(), name]
            .iter()
            .any(|image| self.exact("image", image) || self.exact("image", untagged(image)))
    }

    fn labels(&self, event: &Event) -> bool {
        let Some(labels) = self.values("label") else { return true };
        labels.iter().all(|label| match label.split_once('=') {
            Some((key, value)) => event.attributes.get(key).is_some_and(|has| has == value),
            None => event.attributes.contains_key(label),
        })
    }
}

/// A reference without tag and digest.
fn untagged(reference: &str) -> &str {
    let reference = reference.split_once('@').map_or(reference, |(name, _)| name);
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => reference,
    }
}

/// Time of an event at `now`: later than the last one's, unless the clock was set back. Then it is the clock's, as `since` and
/// `until` are.
fn stamp(now: u64, last: Option<u64>) -> u64 {
    match last {
        Some(last) if last >= now && last - now < SET_BACK => last + 1,
        _ => now,
    }
}

/// Where every part of the engine says what happened, and clients listen.
#[derive(Debug, Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ring: Mutex<VecDeque<Arc<Event>>>,
    sender: broadcast::Sender<Arc<Event>>,
}

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        let sender = broadcast::Sender::new(RING);
        Self { inner: Arc::new(Inner { ring: Mutex::default(), sender }) }
    }

    fn ring(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        self.inner.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that something happened, now. Never blocks.
    pub fn publish<A>(&self, kind: &str, action: impl Into<String>, id: impl Into<String>, attributes: A)
    where
        A: IntoIterator<Item = (String, String)>,
    {
        let mut event = Event {
            kind: kind.to_owned(),
            action: action.into(),
            id: id.into(),
            attributes: attributes.into_iter().collect(),
            scope: "local".to_owned(),
            time: 0,
            json: [OnceLock::new(), OnceLock::new()],
        };
        let mut ring = self.ring();
        // Under the lock, and later than the one before: order and times agree, and `since` of the last one misses none.
        event.time = stamp(sys::now(), ring.back().map(|last| last.time));
        let event = Arc::new(event);
        if ring.len() == RING {
            ring.pop_front();
        }
        ring.push_back(event.clone());
        // Without listeners it fails, which is no matter.
        let _ = self.inner.sender.send(event);
    }

    /// Listens: first what is remembered since `since` (nothing without it), then what comes until `until`.
    pub fn listen(&self, since: Option<u64>, until: Option<u64>, filters: Filters) -> Listener {
        let ring = self.ring();
        // Both under the lock: no event is missed or seen twice.
        let receiver = self.inner.sender.subscribe();
        let wanted = |event: &&Arc<Event>| {
            since.is_some_and(|since| event.time >= since)
                && until.is_none_or(|until| event.time <= until)
                && filters.matches(event)
        };
        let replay = ring.iter().filter(wanted).cloned().collect();
        drop(ring);
        Listener { replay, receiver, until, filters, ended: false }
    }

    /// How many listen now.
    pub fn listeners(&self) -> usize {
        self.inner.sender.receiver_count()
    }
}

/// One listener; dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Listener {
    replay: VecDeque<Arc<Event>>,
    receiver: broadcast::Receiver<Arc<Event>>,
    until: Option<u64>,
    filters: Filters,
    ended: bool,
}

impl Listener {
    /// The next event; None at `until`, or when this listener was too slow. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.replay.pop_front() {
            return Some(event);
        }
        while !self.ended {
            let received = match self.until {
                None => self.receiver.recv().await,
                Some(until) => {
                    let left = Duration::from_nanos(until.saturating_sub(sys::now()));
                    match tokio::time::timeout(left, self.receiver.recv()).await {
                        Ok(received) => received,
                        Err(_) => break,
                    }
                }
            };
            match received {
                Ok(event) if self.until.is_some_and(|until| event.time > until) => break,
                Ok(event) if self.filters.matches(&event) => return Some(event),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "a listener for events was too slow and is ended");
                    break;
                }
                Err(RecvError::Closed) => break,
            }
        }
        self.ended = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(pairs: &[(&str, &[&str])]) -> Filters {
        Filters(
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.iter().map(|v| (*v).to_owned()).collect()))
                .collect(),
        )
    }

    fn publish(bus: &Bus, kind: &str, action: &str, id: &str, attributes: &[(&str, &str)]) {
        bus.publish(kind, action, id, attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    }

    async fn collect(mut listener: Listener) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(event) = listener.next().await {
            out.push(format!("{} {}", event.action, event.id));
        }
        out
    }

    /// Filters, and the events that they leave.
    type Case<'a> = (&'a [(&'a str, &'a [&'a str])], &'a [&'a str]);

    #[tokio::test]
    async fn filters_as_docker() {
        let bus = Bus::new();
        let web = [("name", "web"), ("image", "repo:5000/nginx:1"), ("team", "blue")];
        publish(&bus, "container", "start", "abc", &web);
        publish(&bus, "container", "health_status: healthy", "abc", &web);
        publish(&bus, "container", "exec_create: ls -l", "abc", &web);
        publish(&bus, "image", "pull", "nginx:1", &[("name", "nginx:1")]);
        publish(&bus, "network", "connect", "net1", &[("name", "bridge"), ("container", "abc")]);
        publish(&bus, "volume", "create", "vol", &[]);
        let cases: [Case<'_>; 12] = [
            (&[("type", &["image", "volume"])], &["pull nginx:1", "create vol"]),
            (&[("event", &["start"])], &["start abc"]),
            (&[("event", &["health_status"])], &["health_status: healthy abc"]),
            (&[("event", &["health_status: healthy"])], &["health_status: healthy abc"]),
            (&[("event", &["exec_create", "pull"])], &["exec_create: ls -l abc", "pull nginx:1"]),
            (&[("container", &["we"]), ("event", &["start"])], &["start abc"]),
            (&[("container", &["ab"]), ("event", &["start"])], &["start abc"]),
            (&[("image", &["nginx"])], &["pull nginx:1"]),
            (&[("image", &["repo:5000/nginx"]), ("event", &["start"])], &["start abc"]),
            (&[("label", &["team=blue", "name"]), ("event", &["start"])], &["start abc"]),
            (&[("label", &["team=red"])], &[]),
            (&[("network", &["bridge"])], &["connect net1"]),
        ];
        for (pairs, expected) in cases {
            let listener = bus.listen(Some(0), Some(sys::now()), filters(pairs));
            assert_eq!(collect(listener).await, expected, "{pairs:?}");
        }
        let everything =
            bus.listen(Some(0), Some(sys::now()), filters(&[("scope", &["local"]), ("volume", &[])]));
        assert_eq!(collect(everything).await.len(), 6);
    }

    #[tokio::test]
    async fn replay_then_live_without_gap_or_double() {
        let bus = Bus::new();
        publish(&bus, "container", "create", "1", &[]);
        let mut all = bus.listen(Some(0), None, Filters::default());
        let mut fresh = bus.listen(None, None, Filters::default());
        publish(&bus, "container", "create", "2", &[]);
        assert_eq!(all.next().await.unwrap().id, "1");
        assert_eq!(all.next().await.unwrap().id, "2");
        let second = fresh.next().await.unwrap();
        assert_eq!(second.id, "2");
        // The time of the last event seen gives it again, and none before.
        let ids = collect(bus.listen(Some(second.time), Some(sys::now()), Filters::default())).await;
        assert_eq!(ids, ["create 2"]);
    }

    #[tokio::test]
    async fn slow_listener_ends_and_dead_ones_leave_nothing() {
        let bus = Bus::new();
        let mut slow = bus.listen(None, None, Filters::default());
        let dead: Vec<Listener> = (0..1000).map(|_| bus.listen(Some(0), None, Filters::default())).collect();
        assert_eq!(bus.listeners(), 1001);
        drop(dead);
        assert_eq!(bus.listeners(), 1);
        for n in 0..=RING {
            publish(&bus, "daemon", "reload", &n.to_string(), &[]);
        }
        assert!(slow.next().await.is_none());
        assert!(slow.next().await.is_none());
        assert_eq!(bus.ring().len(), RING);
    }

    #[tokio::test(start_paused = true)]
    async fn until_ends_a_quiet_listener() {
        let bus = Bus::new();
        let mut listener = bus.listen(None, Some(sys::now() + 3_600_000_000_000), Filters::default());
        assert!(listener.next().await.is_none());
    }

    #[test]
    fn json_has_dockers_fields() {
        let bus = Bus::new();
        publish(&bus, "container", "die", "abc", &[("image", "i:1"), ("exitCode", "0")]);
        publish(&bus, "network", "create", "n", &[]);
        let ring = bus.ring();
        let text = |event: &Event, legacy| String::from_utf8(event.json(legacy).to_vec()).unwrap();
        let (nano, seconds) = (ring[0].time, ring[0].time / 1_000_000_000);
        let tail = format!(
            "\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{{\"ID\":\"abc\",\"Attributes\":{{\"exitCode\":\"0\",\"image\":\"i:1\"}}}},\"scope\":\"local\",\"time\":{seconds},\"timeNano\":{nano}}}\n"
        );
        assert_eq!(text(&ring[0], false), format!("{{{tail}"));
        assert_eq!(
            text(&ring[0], true),
            format!("{{\"status\":\"die\",\"id\":\"abc\",\"from\":\"i:1\",{tail}")
        );
        assert!(!text(&ring[1], true).contains("status"));
    }

    #[test]
    fn times_follow_each_other_until_the_clock_is_set_back() {
        let hour = 3_600 * SET_BACK;
        assert_eq!(stamp(hour, None), hour);
        assert_eq!(stamp(hour, Some(hour)), hour + 1);
        assert_eq!(stamp(hour, Some(hour + 1000)), hour + 1001);
        assert_eq!(stamp(hour, Some(hour - 1)), hour);
        // An event of now is found by whoever asks until now.
        assert_eq!(stamp(hour, Some(3 * hour)), hour);
    }

    #[test]
    fn references_without_tag() {
        for (reference, name) in
            [("a", "a"), ("a:1", "a"), ("r:5000/a", "r:5000/a"), ("r:5000/a:2@sha256:x", "r:5000/a")]
        {
            assert_eq!(untagged(reference), name);
        }
    }
}
