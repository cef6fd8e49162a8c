//! `GET /containers/json`: the most asked question. It takes no container's lock; entries are serialised once per
//! change and the whole plain list once per change and second.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::inspect::mount_points;
use crate::planner::ports;
use crate::record::{Status, now as clock};
use crate::registry::{Container, Fragment, Listing, Now};
use crate::{Engine, Filters, ListOptions};

/// Docker's words for a length of time.
pub(crate) fn human_duration(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// The `Status` column at a time.
pub(crate) fn status_text(now: &Now, at: u64) -> String {
    let s = &now.state;
    let since = |then: u64| human_duration(at.saturating_sub(then) / 1_000_000_000);
    match s.status {
        Status::Created | Status::Starting => "Created".into(),
        Status::Running => match &s.health {
            Some(health) => format!("Up {} ({})", since(s.started_at), health.status.column()),
            None => format!("Up {}", since(s.started_at)),
        },
        Status::Paused => format!("Up {} (Paused)", since(s.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", s.exit_code, since(s.finished_at)),
        Status::Removing => "Removal In Progress".into(),
        Status::Exited if s.finished_at == 0 => "Created".into(),
        Status::Exited => format!("Exited ({}) {} ago", s.exit_code, since(s.finished_at)),
        Status::Dead => "Dead".into(),
    }
}

/// The command column: argv with the quotes that a shell needs.
fn command_text(args: &[String]) -> String {
    args.iter()
        .map(|a| if a.contains(' ') { format!("'{a}'") } else { a.clone() })
        .collect::<Vec<_>>()
        .join(" ")
}

fn port_list(now: &Now) -> Vec<Value> {
    if !now.state.status.is_alive() {
        return Vec::new();
    }
    let published: Vec<_> = now.state.endpoints.values().flat_map(|e| e.publishes.clone()).collect();
    let exposed = now.def.config.exposed_ports.clone().unwrap_or_default();
    let mut all: Vec<(u16, String, u16, String)> = Vec::new();
    for (port, bindings) in ports::port_map(&exposed, &published) {
        let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
        let number = number.parse().unwrap_or(0);
        match bindings {
            None => all.push((number, protocol.to_owned(), 0, String::new())),
            Some(list) => {
                for b in list {
                    let public = b.host_port.and_then(|p| p.parse().ok()).unwrap_or(0);
                    all.push((number, protocol.to_owned(), public, b.host_ip.unwrap_or_default()));
                }
            }
        }
    }
    all.sort();
    all.into_iter()
        .map(|(private, protocol, public, ip)| {
            if public == 0 {
                json!({"PrivatePort": private, "Type": protocol})
            } else {
                json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": protocol})
            }
        })
        .collect()
}

impl Engine {
    fn summary(&self, now: &Now, status: &str, sizes: Option<(u64, u64)>) -> Value {
        let def = &now.def;
        let networks = self.shown_networks(now);
        let mut host = json!({"NetworkMode": def.host.network_mode});
        if let (Some(notes), Some(map)) = (&def.host.annotations, host.as_object_mut())
            && !notes.is_empty()
        {
            map.insert("Annotations".into(), json!(notes));
        }
        let mut value = json!({
            "Id": def.id,
            "Names": self.all_names(def),
            "Image": def.image_name,
            "ImageID": def.image,
            "Command": command_text(&now.blueprint.args),
            "Created": def.created / 1_000_000_000,
            "Ports": port_list(now),
            "Labels": def.config.labels.clone().unwrap_or_default(),
            "State": now.state.status.word(),
            "Status": status,
            "HostConfig": host,
            "NetworkSettings": {"Networks": networks},
            "Mounts": mount_points(self, def),
            "Health": {
                "Status": crate::health::word(now),
                "FailingStreak": now.state.health.as_ref().map_or(0, |h| h.failing_streak),
            },
        });
        if let (Some((rw, root)), Some(map)) = (sizes, value.as_object_mut()) {
            map.insert("SizeRw".into(), json!(rw));
            map.insert("SizeRootFs".into(), json!(root));
        }
        value
    }

    /// The entry of one container with and without its health, from its cache if its text is still right.
    fn fragment(&self, container: &Container, at: u64) -> [Bytes; 2] {
        let now = container.now();
        let status = status_text(&now, at);
        if let Some(fragment) = container.fragment.load().as_ref()
            && fragment.status == status
        {
            return [fragment.json.clone(), fragment.plain.clone()];
        }
        let mut value = self.summary(&now, &status, None);
        let text = |value: &Value| Bytes::from(serde_json::to_vec(value).unwrap_or_default());
        let json = text(&value);
        without_health(&mut value);
        let plain = text(&value);
        let both = [json.clone(), plain.clone()];
        container.fragment.store(Arc::new(Some(Fragment { json, plain, status })));
        both
    }

    /// `GET /containers/json`: the whole JSON answer.
    pub async fn container_list(&self, options: &ListOptions) -> Result<Bytes> {
        if options.filters.0.is_empty() && options.limit.is_none() && !options.size {
            return Ok(self.plain_list(options.all, options.without_health));
        }
        let at = clock();
        let filter = Filter::new(self, &options.filters)?;
        let mut chosen = Vec::new();
        // Asking for states or for the newest few implies all.
        let all = options.all || options.limit.is_some() || filter.wants_all();
        for container in self.newest_first() {
            let now = container.now();
            if (!all && !now.state.status.is_alive() && now.state.status != Status::Restarting)
                || !filter.matches(self, &now)
            {
                continue;
            }
            chosen.push((container, now));
            if options.limit.is_some_and(|l| chosen.len() >= l) {
                break;
            }
        }
        let mut parts = Vec::with_capacity(chosen.len());
        for (container, now) in chosen {
            if options.size {
                let sizes = self.sizes(&now).await;
                let mut value = self.summary(&now, &status_text(&now, at), Some(sizes));
                if options.without_health {
                    without_health(&mut value);
                }
                parts.push(Bytes::from(serde_json::to_vec(&value)?));
            } else {
                let [json, plain] = self.fragment(&container, at);
                parts.push(if options.without_health { plain } else { json });
            }
        }
        Ok(join(&parts))
    }

    /// Bytes written by a container, and with its image's.
    pub(crate) async fn sizes(&self, now: &Now) -> (u64, u64) {
        let rw = self.inner.images.snapshots().size(&now.def.id).await.unwrap_or(0);
        let image = self.inner.images.resolve(&now.def.image).map_or(0, |i| i.size);
        (rw, rw + image)
    }

    fn newest_first(&self) -> Vec<Arc<Container>> {
        let mut all = self.inner.registry.all();
        all.sort_by_cached_key(|c| std::cmp::Reverse(c.now().def.created));
        all
    }

    fn plain_list(&self, all: bool, without_health: bool) -> Bytes {
        let pick = |l: &Listing| {
            let [json, plain] = if all { &l.all } else { &l.running };
            if without_health { plain.clone() } else { json.clone() }
        };
        let at = clock();
        // Before reading: a change meanwhile makes the result old at once, never wrong for long.
        let generation = self.inner.registry.generation();
        let second = at / 1_000_000_000;
        if let Some(listing) = self.inner.registry.listing.load().as_ref()
            && listing.generation == generation
            && listing.second == second
        {
            return pick(listing);
        }
        let (mut every, mut running) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for container in self.newest_first() {
            let both = self.fragment(&container, at);
            let status = container.now().state.status;
            let alive = status.is_alive() || status == Status::Restarting;
            for ((all, running), json) in every.iter_mut().zip(&mut running).zip(both) {
                if alive {
                    running.push(json.clone());
                }
                all.push(json);
            }
        }
        let listing = Listing {
            generation,
            second,
            all: every.map(|parts| join(&parts)),
            running: running.map(|parts| join(&parts)),
        };
        let answer = pick(&listing);
        self.inner.registry.listing.store(Arc::new(Some(listing)));
        answer
    }
}

fn without_health(summary: &mut Value) {
    if let Some(map) = summary.as_object_mut() {
        map.remove("Health");
    }
}

fn join(parts: &[Bytes]) -> Bytes {
    let mut body = BytesMut::with_capacity(parts.iter().map(|p| p.len() + 1).sum::<usize>() + 3);
    body.put_u8(b'[');
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            body.put_u8(b',');
        }
        body.put_slice(part);
    }
    body.put_slice(b"]\n");
    body.freeze()
}

/// Reads `until` of prune filters: a duration back from now, or a time; the answer is in nanoseconds.
pub(crate) fn until(filters: &Filters) -> Result<Option<u64>> {
    let Some(text) = filters.get("until").first() else { return Ok(None) };
    let bad = || Error::invalid(format!("invalid filter 'until={text}'"));
    if let Ok(seconds) = text.parse::<f64>() {
        if !(0.0..=1e11).contains(&seconds) {
            return Err(bad());
        }
        let nanoseconds = std::time::Duration::from_secs_f64(seconds).as_nanos();
        return Ok(Some(u64::try_from(nanoseconds).map_err(|_| bad())?));
    }
    if let Some(seconds) = go_duration(text) {
        let back = std::time::Duration::from_secs_f64(seconds).as_nanos();
        return Ok(Some(clock().saturating_sub(u64::try_from(back).unwrap_or(u64::MAX))));
    }
    let time = text
        .parse::<jiff::Timestamp>()
        .ok()
        .or_else(|| format!("{text}Z").parse().ok())
        .or_else(|| format!("{text}T00:00:00Z").parse().ok())
        .ok_or_else(bad)?;
    Ok(Some(u64::try_from(time.as_nanosecond()).map_err(|_| bad())?))
}

/// Seconds of Go's `1h30m`.
pub(crate) fn go_duration(text: &str) -> Option<f64> {
    let total = wharf_plan::duration::nanoseconds(text)? / 1e9;
    (0.0..1e11).contains(&total).then_some(total)
}

const KEYS: &[&str] = &[
    "ancestor",
    "annotation",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// Filters of a container list, worked out.
struct Filter<'a> {
    filters: &'a Filters,
    exited: Vec<i32>,
    before: Option<u64>,
    since: Option<u64>,
    images: Option<BTreeSet<String>>,
    names: Vec<Pattern>,
}

/// A name filter: a regular expression that may match anywhere, or, where it is none, the name itself.
pub(crate) enum Pattern {
    Expression(regex_lite::Regex),
    Name(String),
}

impl Pattern {
    /// All patterns of a `name` filter.
    pub(crate) fn all(texts: &[String]) -> Vec<Self> {
        texts.iter().map(|text| Self::new(text)).collect()
    }

    fn new(text: &str) -> Self {
        // Bounds what a hostile expression costs; it takes time in proportion to its size and the name's.
        match regex_lite::RegexBuilder::new(text).size_limit(1 << 16).nest_limit(50).build() {
            Ok(expression) => Self::Expression(expression),
            Err(_) => Self::Name(text.to_owned()),
        }
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Expression(expression) => expression.is_match(name),
            Self::Name(own) => own == name,
        }
    }
}

impl<'a> Filter<'a> {
    fn new(engine: &Engine, filters: &'a Filters) -> Result<Self> {
        filters.only(KEYS)?;
        let exited = filters
            .get("exited")
            .iter()
            .map(|t| t.parse().map_err(|_| Error::invalid(format!("invalid filter 'exited={t}'"))))
            .collect::<Result<_>>()?;
        for status in filters.get("status") {
            if !matches!(
                status.as_str(),
                "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead"
            ) {
                return Err(Error::invalid(format!("invalid filter 'status={status}'")));
            }
        }
        for health in filters.get("health") {
            if !matches!(health.as_str(), "starting" | "healthy" | "unhealthy" | "none") {
                return Err(Error::invalid(format!("invalid filter 'health={health}'")));
            }
        }
        let created = |key: &str| -> Result<Option<u64>> {
            filters.get(key).first().map(|r| Ok(engine.inner.registry.find(r)?.now().def.created)).transpose()
        };
        let ancestors = filters.get("ancestor");
        let images = (!ancestors.is_empty()).then(|| {
            let mut ids = BTreeSet::new();
            for reference in ancestors {
                let Ok(image) = engine.inner.images.resolve(reference) else { continue };
                let top = image.chain_id().map(str::to_owned);
                // A name means all its platforms.
                ids.extend(engine.inner.images.companions(&image.id));
                ids.insert(image.id.clone());
                // Everything built on it has its layers.
                for other in engine.inner.images.list() {
                    if top.is_some() && other.layers.iter().any(|l| Some(&l.chain_id) == top.as_ref()) {
                        ids.insert(other.id.clone());
                    }
                }
            }
            ids
        });
        Ok(Self {
            exited,
            before: created("before")?,
            since: created("since")?,
            images,
            names: Pattern::all(filters.get("name")),
            filters,
        })
    }

    fn wants_all(&self) -> bool {
        !self.filters.get("status").is_empty()
            || !self.exited.is_empty()
            || self.before.is_some()
            || self.since.is_some()
    }

    fn matches(&self, engine: &Engine, now: &Now) -> bool {
        let any = |key: &str, test: &dyn Fn(&str) -> bool| {
            self.filters.get(key).is_empty() || self.filters.get(key).iter().any(|v| test(v))
        };
        let def = &now.def;
        let port = |text: &str, public: bool| {
            ports::expose(text).is_ok_and(|wanted| {
                let published = now.state.endpoints.values().flat_map(|e| &e.publishes);
                let exposed = def
                    .config
                    .exposed_ports
                    .iter()
                    .flatten()
                    .flat_map(|e| ports::expose(e).unwrap_or_default());
                wanted.iter().any(|w| {
                    if public {
                        published.clone().any(|p| ports::Port::new(p.host_port, p.protocol) == *w)
                    } else {
                        exposed.clone().any(|e| e == *w)
                    }
                })
            })
        };
        self.filters
            .labels("label", |key| def.config.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str))
            && any("id", &|id| def.id.starts_with(id))
            && (self.names.is_empty()
                || self.names.iter().any(|p| p.matches(&def.name) || p.matches(&format!("/{}", def.name))))
            && any("status", &|s| now.state.status.word() == s)
            && (self.exited.is_empty()
                || (now.state.status == Status::Exited && self.exited.contains(&now.state.exit_code)))
            && self.before.is_none_or(|b| def.created < b)
            && self.since.is_none_or(|s| def.created > s)
            && self.images.as_ref().is_none_or(|ids| ids.contains(&def.image))
            && any("network", &|n| {
                def.networks.contains_key(n)
                    || (matches!(n, "none" | "host") && def.host.network_mode.as_deref() == Some(n))
                    || engine
                        .inner
                        .networks
                        .find(n)
                        .is_ok_and(|o| def.networks.contains_key(&o.record().name))
            })
            && any("volume", &|v| def.mounts.iter().any(|m| m.source == v || m.destination == v))
            && any("publish", &|p| port(p, true))
            && any("expose", &|p| port(p, false))
            && any("health", &|h| h == crate::health::word(now))
            && any("is-task", &|t| matches!(t, "false" | "0"))
            && any("isolation", &|i| matches!(i, "" | "default"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 2, "2 days"),
            (86_400 * 15, "2 weeks"),
            (86_400 * 70, "2 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn name_patterns() {
        for (pattern, name, found) in [
            ("web", "my-web-1", true),
            ("^web", "my-web", false),
            ("^web$", "web", true),
            ("^web$", "web2", false),
            ("^/web$", "/web", true),
            ("a.*c", "abc", true),
            ("a.*c$", "abcd", false),
            ("web$", "a-web", true),
            ("", "x", true),
            ("(web|db)-[0-9]+$", "db-12", true),
            ("(web|db)-[0-9]+$", "db-x", false),
            ("a(", "a(", true),
            ("a(", "ba(", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), found, "{pattern} {name}");
        }
    }

    #[test]
    fn go_durations() {
        assert_eq!(go_duration("1h30m"), Some(5400.0));
        assert_eq!(go_duration("10s"), Some(10.0));
        for bad in ["", "h", "5", "5x", "1h5"] {
            assert_eq!(go_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn commands() {
        assert_eq!(command_text(&["sh".into(), "-c".into(), "echo hi".into()]), "sh -c 'echo hi'");
    }
}
