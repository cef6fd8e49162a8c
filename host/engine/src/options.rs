//! What operations take besides their body.

use std::collections::BTreeMap;

use serde_json::Value;
use wharf_plan::policy::Origin;
use wharf_plan::types::Identity;

use crate::error::{Error, Result};

/// Who asks, as far as policies want to know.
#[derive(Debug, Clone)]
pub struct Caller {
    /// None before authentication exists (tests) or for the engine's own doings.
    pub identity: Option<Identity>,
    /// Whence the operation comes.
    pub origin: Origin,
}

impl Default for Caller {
    fn default() -> Self {
        Self { identity: None, origin: Origin::Api }
    }
}

/// The `filters` parameter: key to values, all of which were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(pub BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads Docker's two forms: `{"label":["a=b"]}` and the old `{"label":{"a=b":true}}`.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bad = || Error::invalid(format!("invalid filter: {text:?}"));
        let Ok(Value::Object(map)) = serde_json::from_str::<Value>(text) else {
            return Err(bad());
        };
        let mut all = BTreeMap::new();
        for (key, values) in map {
            let values = match values {
                Value::Array(list) => list
                    .into_iter()
                    .map(|v| match v {
                        Value::String(s) => Ok(s),
                        _ => Err(bad()),
                    })
                    .collect::<Result<Vec<_>>>()?,
                Value::Object(map) => map
                    .into_iter()
                    .filter(|(_, on)| on.as_bool() != Some(false))
                    .map(|(value, _)| value)
                    .collect(),
                _ => return Err(bad()),
            };
            all.insert(key, values);
        }
        Ok(Self(all))
    }

    /// The values of a key; none given is an empty list.
    pub fn get(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Refuses keys that the operation does not know.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|k| !known.contains(&k.as_str())) {
            Some(key) => Err(Error::invalid(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    /// A yes-or-no filter.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            [] => Ok(None),
            [one] => match one.as_str() {
                "1" | "true" | "True" | "TRUE" | "t" => Ok(Some(true)),
                "0" | "false" | "False" | "FALSE" | "f" => Ok(Some(false)),
                _ => Err(Error::invalid(format!("invalid filter '{key}={one}'"))),
            },
            many => Err(Error::invalid(format!("invalid filter '{key}={}'", many.join(",")))),
        }
    }

    /// Whether labels satisfy the key's values, each `name` or `name=value`.
    pub fn labels<'a>(&self, key: &str, find: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.get(key).iter().all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => find(name) == Some(value),
            None => find(wanted).is_some(),
        })
    }
}

/// Of `GET /containers/json`.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// The newest so many, running or not.
    pub limit: Option<usize>,
    /// With sizes.
    pub size: bool,
    /// Without `Health`, as it was before API 1.52.
    pub without_health: bool,
    /// Filters.
    pub filters: Filters,
}

/// Of `POST /containers/create`.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// Wanted name.
    pub name: Option<String>,
    /// Wanted platform.
    pub platform: Option<String>,
    /// A client from before cgroup namespaces: without a word about them it means the host's, on cgroup v1.
    pub cgroupns_host: bool,
}

/// Of `DELETE /containers/{id}`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it first.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
    /// Remove a link rather than a container.
    pub link: bool,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// Return at once if it does not run.
    #[default]
    NotRunning,
    /// The next exit after now.
    NextExit,
    /// Its removal.
    Removed,
}

impl WaitCondition {
    /// Reads the query parameter.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "" | "not-running" => Ok(Self::NotRunning),
            "next-exit" => Ok(Self::NextExit),
            "removed" => Ok(Self::Removed),
            _ => Err(Error::invalid(format!("invalid condition: {text:?}"))),
        }
    }
}
