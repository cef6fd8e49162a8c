//! What happened on this host: a ring of recent events and listeners.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::error::{Error, Result};

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
    pub attributes: HashMap<String, String>,
    /// `local`.
    pub scope: String,
    /// Nanoseconds since 1970.
    pub time: u64,
}

impl Event {
    /// One JSON object and a newline, as of API 1.52; `legacy` adds `status`, `id` and `from` for older clients.
    pub fn json(&self, legacy: bool) -> Bytes {
        let _ = legacy;
        Bytes::new()
    }
}

/// Which events a listener wants: Docker's filters, key to values.
#[derive(Debug, Clone, Default)]
pub struct Filters(pub BTreeMap<String, Vec<String>>);

/// Where every part of the engine says what happened, and clients listen.
#[derive(Debug, Clone, Default)]
pub struct Bus;

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self
    }

    /// Says that something happened, now. Never blocks.
    pub fn publish(&self, kind: &str, action: &str, id: &str, attributes: HashMap<String, String>) {
        let _ = (kind, action, id, attributes);
    }

    /// Listens: first what is remembered since `since` (nothing without it), then what comes until `until`.
    pub fn listen(&self, since: Option<u64>, until: Option<u64>, filters: Filters) -> Result<Listener> {
        let _ = (since, until, filters);
        Err(Error::unsupported("events"))
    }
}

/// One listener; dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Listener {
    _private: (),
}

impl Listener {
    /// The next event; None at `until`, or when this listener was too slow and was dropped.
    pub async fn next(&mut self) -> Option<std::sync::Arc<Event>> {
        None
    }
}
