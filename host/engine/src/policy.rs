//! Admission: policies change or refuse what is about to happen.

use serde::Serialize;
use serde_json::Value;
use wharf_plan::policy::{Authorship, Edit, EditKind, Review};
use wharf_plan::types::Labels;
use wharf_plugins::{Call, Document};

use crate::error::{Error, Result};
use crate::planner::names;
use crate::{Caller, Engine};

/// What a review came to besides being allowed.
#[derive(Debug, Default)]
pub(crate) struct Reviewed {
    /// The object after all edits; None if nobody edited it.
    pub(crate) object: Option<Value>,
    pub(crate) warnings: Vec<String>,
    /// Who said something.
    pub(crate) plugins: Vec<String>,
}

/// One thing to review.
pub(crate) struct Subject<'a> {
    pub(crate) point: &'static str,
    pub(crate) target: &'a str,
    pub(crate) labels: Labels,
    pub(crate) dry_run: bool,
}

impl Engine {
    /// Runs the policies of a point: all edits first, then all verdicts. The object is made only if somebody looks.
    pub(crate) async fn review<T: Serialize>(
        &self,
        caller: &Caller,
        subject: Subject<'_>,
        object: impl FnOnce() -> T,
    ) -> Result<Reviewed> {
        let policies = self.inner.plugins.policies(subject.point);
        if policies.is_empty() {
            return Ok(Reviewed::default());
        }
        let mut value = serde_json::to_value(object())?;
        // Conditions of the manifests are looked at natively: a policy about something else costs no call.
        let policies: Vec<_> = {
            let document = Document::new(value.clone());
            policies.into_iter().filter(|p| p.applies(&document)).collect()
        };
        if policies.is_empty() {
            return Ok(Reviewed::default());
        }
        let review = Review {
            point: subject.point.to_owned(),
            identity: caller.identity.clone(),
            origin: caller.origin,
            target: subject.target.to_owned(),
            labels: subject.labels,
            dry_run: subject.dry_run,
            audit: false,
        };
        let call = Call::new(names::id()).dry_run(subject.dry_run);
        let mut authors: Vec<Authorship> = Vec::new();
        let mut edited = false;
        for policy in &policies {
            let document = Document::new(value.clone());
            let answer = policy.mutate(&call, &review, &document).await?;
            for edit in answer.value {
                apply(&mut value, &edit).map_err(|e| {
                    Error::internal(format!("plugin {}: edit of {}: {e}", answer.plugin, edit.pointer))
                })?;
                if edit.kind != EditKind::Test {
                    edited = true;
                    authors.push(Authorship { pointer: edit.pointer, plugin: answer.plugin.to_string() });
                }
            }
        }
        let mut all = Reviewed::default();
        let document = Document::new(value.clone());
        for policy in &policies {
            let answer = policy.validate(&call, &review, &document, &authors).await?;
            if let Some(denial) = answer.value.denials.into_iter().next() {
                let remedy = denial.remedy.map(|r| format!(" ({r})")).unwrap_or_default();
                return Err(Error::forbidden(format!(
                    "{} denied by policy {}: {}{remedy}",
                    subject.point, answer.plugin, denial.message
                )));
            }
            all.warnings.extend(answer.value.warnings);
            all.plugins.push(answer.plugin.to_string());
        }
        all.object = edited.then_some(value);
        Ok(all)
    }
}

/// One edit in the manner of JSON Patch.
fn apply(object: &mut Value, edit: &Edit) -> Result<(), String> {
    let parse = || -> Result<Value, String> {
        serde_json::from_str(edit.value.as_deref().unwrap_or("null")).map_err(|e| e.to_string())
    };
    if edit.kind == EditKind::Test {
        let found = object.pointer(&edit.pointer).unwrap_or(&Value::Null);
        return if *found == parse()? { Ok(()) } else { Err("the value is another one".into()) };
    }
    let (parent, last) = edit.pointer.rsplit_once('/').ok_or("not a JSON pointer")?;
    let last = last.replace("~1", "/").replace("~0", "~");
    let mut at = object;
    for step in parent.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        at = match at {
            Value::Array(list) => {
                step.parse::<usize>().ok().and_then(|i| list.get_mut(i)).ok_or("no such element")?
            }
            Value::Null => {
                *at = Value::Object(serde_json::Map::new());
                at.as_object_mut().ok_or("not an object")?.entry(step).or_insert(Value::Null)
            }
            Value::Object(map) => map.entry(step).or_insert(Value::Null),
            _ => return Err("not an object".into()),
        };
    }
    if at.is_null() {
        *at = Value::Object(serde_json::Map::new());
    }
    match (at, edit.kind) {
        (Value::Object(map), EditKind::Remove) => {
            map.remove(&last);
        }
        (Value::Object(map), _) => {
            map.insert(last, parse()?);
        }
        (Value::Array(list), EditKind::Add) if last == "-" => list.push(parse()?),
        (Value::Array(list), kind) => {
            let index: usize = last.parse().map_err(|_| "not an index")?;
            if index >= list.len() && !(kind == EditKind::Add && index == list.len()) {
                return Err("no such element".into());
            }
            match kind {
                EditKind::Add => list.insert(index, parse()?),
                EditKind::Remove => {
                    list.remove(index);
                }
                EditKind::Replace | EditKind::Test => {
                    if let Some(slot) = list.get_mut(index) {
                        *slot = parse()?;
                    }
                }
            }
        }
        _ => return Err("not an object".into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn edit(kind: EditKind, pointer: &str, value: &str) -> Edit {
        Edit { kind, pointer: pointer.into(), value: Some(value.into()), why: String::new() }
    }

    #[test]
    fn edits() {
        let mut v = json!({"HostConfig": {"Memory": 0, "Binds": ["a"]}, "Labels": null});
        apply(&mut v, &edit(EditKind::Replace, "/HostConfig/Memory", "5")).unwrap();
        apply(&mut v, &edit(EditKind::Add, "/Labels/a~1b", "\"x\"")).unwrap();
        apply(&mut v, &edit(EditKind::Add, "/HostConfig/Binds/-", "\"b\"")).unwrap();
        apply(&mut v, &edit(EditKind::Remove, "/HostConfig/Binds/0", "")).unwrap();
        assert_eq!(v, json!({"HostConfig": {"Memory": 5, "Binds": ["b"]}, "Labels": {"a/b": "x"}}));
        apply(&mut v, &edit(EditKind::Test, "/HostConfig/Memory", "5")).unwrap();
        for bad in [
            edit(EditKind::Test, "/HostConfig/Memory", "6"),
            edit(EditKind::Add, "/HostConfig/Memory/x", "6"),
            edit(EditKind::Replace, "/HostConfig/Binds/9", "1"),
            edit(EditKind::Replace, "nopointer", "1"),
            edit(EditKind::Replace, "/HostConfig/Memory", "{"),
        ] {
            assert!(apply(&mut v, &bad).is_err(), "{bad:?}");
        }
    }
}
