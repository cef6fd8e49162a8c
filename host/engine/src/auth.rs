//! Who is asking, and may they.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use wharf_plan::auth::{Connection, Decision, Operation, Outcome, Request, Target};
use wharf_plan::types::{Identity, Labels};
use wharf_plugins::{Call, Document};

use crate::Engine;
use crate::error::{Error, Kind, Result};
use crate::planner::names;

/// At most so many answers are remembered.
const REMEMBERED: usize = 4096;
/// No answer is used for longer than this, whatever a plugin says.
const LONGEST: Duration = Duration::from_mins(1);

/// What an authorizer allowed.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// The same question needs not be asked again for so long.
    pub cache_ms: u32,
}

/// Answers of authorizers that they allowed to be used again. Denials are always asked anew.
#[derive(Default)]
pub(crate) struct Decisions {
    known: Mutex<HashMap<String, Instant>>,
}

impl Decisions {
    fn fresh(&self, key: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).is_some_and(|until| Instant::now() < *until)
    }

    fn remember(&self, key: String, milliseconds: u32) {
        let length = Duration::from_millis(milliseconds.into()).min(LONGEST);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            let now = Instant::now();
            known.retain(|_, until| now < *until);
            if known.len() >= REMEMBERED {
                known.clear();
            }
        }
        known.insert(key, Instant::now() + length);
    }
}

/// Everything that a decision depends on; None where it cannot be said in a key.
fn key(request: &Request, body: Option<&Value>) -> Option<String> {
    // A body's content is part of the question, and hashing it costs as much as asking.
    if body.is_some() || request.streaming_body {
        return None;
    }
    serde_json::to_string(request).ok()
}

impl Engine {
    /// Asks the authentication plugins in order; the first that knows the caller decides. Call once per connection
    /// (or per request where the evidence is in headers).
    pub async fn authenticate(&self, connection: &Connection) -> Result<Identity> {
        let call = Call::new(names::id());
        let mut challenge = None;
        for plugin in self.inner.plugins.authenticators() {
            // A plugin that fails closes the door, naming itself.
            let answer = plugin.authenticate(&call, connection).await.map_err(|e| {
                Error::new(Kind::Unavailable, format!("authentication is not available: {e}"))
            })?;
            match answer.value {
                Outcome::Identified(found) => return Ok(found.identity),
                Outcome::Rejected(why) => return Err(Error::new(Kind::Unauthorized, why)),
                Outcome::Challenge(text) => challenge = Some(text),
                Outcome::Abstain => {}
            }
        }
        let text = challenge.map_or_else(
            || "authentication required: no authentication plugin knows this caller".to_owned(),
            |c| format!("authentication required: {c}"),
        );
        Err(Error::new(Kind::Unauthorized, text))
    }

    /// Asks the authorizers: a denial wins, then an allowance, nothing at all is a denial. `body` is the whole,
    /// normalized request object, or None for streams and operations without one.
    pub async fn authorize(
        &self,
        identity: &Identity,
        operation: &Operation,
        targets: &[Target],
        query: &Labels,
        body: Option<&Value>,
        streaming_body: bool,
    ) -> Result<Allowed> {
        let request = Request {
            identity: Some(identity.clone()),
            operation: operation.clone(),
            targets: targets.to_vec(),
            query: query.clone(),
            streaming_body,
        };
        let key = key(&request, body);
        if let Some(key) = &key
            && self.inner.decisions.fresh(key)
        {
            return Ok(Allowed { cache_ms: 1 });
        }
        let document = Document::new(body.cloned().unwrap_or(Value::Null));
        let call = Call::new(names::id());
        let mut allowed: Option<u32> = None;
        for plugin in self.inner.plugins.authorizers() {
            let answer = plugin
                .authorize(&call, &request, &document)
                .await
                .map_err(|e| Error::new(Kind::Unavailable, format!("authorization is not available: {e}")))?;
            match answer.value {
                Decision::Deny(denial) => {
                    tracing::info!(
                        subject = identity.subject,
                        noun = operation.noun,
                        verb = operation.verb,
                        reason = denial.reason,
                        "denied"
                    );
                    return Err(Error::forbidden(format!(
                        "authorization denied by plugin {}: {}",
                        answer.plugin, denial.message
                    )));
                }
                Decision::Allow(a) => {
                    allowed = Some(allowed.map_or(a.cache_ms, |least| least.min(a.cache_ms)));
                }
                // Its next answer may be another one.
                Decision::Abstain => allowed = allowed.map(|_| 0),
            }
        }
        match allowed {
            Some(cache_ms) => {
                if let Some(key) = key.filter(|_| cache_ms > 0) {
                    self.inner.decisions.remember(key, cache_ms);
                }
                Ok(Allowed { cache_ms })
            }
            None => Err(Error::forbidden(format!(
                "authorization denied: no authorization plugin allows {} to {} {}",
                identity.subject, operation.verb, operation.noun
            ))),
        }
    }

    /// The objects that a request names, as authorizers see them; unknown ones by what was given.
    pub fn targets(&self, noun: &str, references: &[&str]) -> Vec<Target> {
        references
            .iter()
            .map(|reference| {
                let plain = |id: String, name: String, labels| Target { id, name, labels, owner: None };
                match noun {
                    "container" | "exec" => match self.linked(reference) {
                        Ok(found) => {
                            let now = found.now();
                            plain(now.def.id.clone(), now.def.name.clone(), crate::start::plugin_labels(&now))
                        }
                        Err(_) => plain(String::new(), (*reference).to_owned(), Vec::new()),
                    },
                    "network" => match self.inner.networks.find(reference) {
                        Ok(found) => {
                            let record = found.record();
                            plain(
                                record.id.clone(),
                                record.name.clone(),
                                crate::endpoints::labels(&record.labels),
                            )
                        }
                        Err(_) => plain(String::new(), (*reference).to_owned(), Vec::new()),
                    },
                    "volume" => match self.inner.volumes.get(reference) {
                        Some(found) => plain(
                            found.name.clone(),
                            found.name.clone(),
                            crate::endpoints::labels(&found.labels),
                        ),
                        None => plain(String::new(), (*reference).to_owned(), Vec::new()),
                    },
                    "image" => match self.inner.images.resolve(reference) {
                        Ok(found) => plain(found.id.clone(), (*reference).to_owned(), Vec::new()),
                        Err(_) => plain(String::new(), (*reference).to_owned(), Vec::new()),
                    },
                    _ => plain(String::new(), (*reference).to_owned(), Vec::new()),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_used_again_only_for_the_same_question() {
        let decisions = Decisions::default();
        decisions.remember("a".into(), 10_000);
        decisions.remember("b".into(), 0);
        assert!(decisions.fresh("a"));
        assert!(!decisions.fresh("b"));
        assert!(!decisions.fresh("c"));
        for n in 0..REMEMBERED * 2 {
            decisions.remember(n.to_string(), 10_000);
        }
        assert!(decisions.known.lock().unwrap().len() <= REMEMBERED);
    }

    #[test]
    fn bodies_are_always_asked_about() {
        let request = Request {
            identity: None,
            operation: Operation {
                noun: "container".into(),
                verb: "create".into(),
                api_version: "1.48".into(),
                mutates: true,
                upgrades: false,
            },
            targets: Vec::new(),
            query: Vec::new(),
            streaming_body: false,
        };
        assert!(key(&request, None).is_some());
        assert!(key(&request, Some(&Value::Null)).is_none());
        assert!(key(&Request { streaming_body: true, ..request }, None).is_none());
    }
}
