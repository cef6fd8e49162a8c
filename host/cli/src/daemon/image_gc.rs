//! `image-gc` of the configuration file.

use serde::Deserialize;
use serde_json::Value;
use wharf_engine::image_gc::{self, ImageGc};

use super::values;

/// As it stands in the file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub(crate) struct Given {
    enabled: bool,
    interval: Option<String>,
    policy: Vec<Policy>,
}

/// One policy, with the names of `builder.gc`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
struct Policy {
    keep_storage: Value,
    filter: Vec<String>,
}

impl Default for Given {
    fn default() -> Self {
        Self { enabled: true, interval: None, policy: Vec::new() }
    }
}

impl Given {
    /// What the engine is told.
    pub(crate) fn settings(&self) -> Result<ImageGc, String> {
        let wrong = |why: String| format!("image-gc: {why}");
        let mut gc = ImageGc::default();
        if let Some(text) = &self.interval {
            gc.interval = image_gc::duration(text)
                .filter(|d| d.as_millis() >= 100)
                .ok_or_else(|| wrong(format!("invalid interval {text:?}: a time such as 10m is needed")))?;
        }
        for policy in &self.policy {
            let keep = match &policy.keep_storage {
                Value::Null => None,
                value => Some(values::size(value).map_err(wrong)?.unsigned_abs()),
            };
            gc.policies.push(image_gc::policy(keep, &policy.filter).map_err(wrong)?);
        }
        if !self.enabled {
            gc.policies.clear();
        }
        Ok(gc)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Given;

    fn read(value: Value) -> Result<wharf_engine::image_gc::ImageGc, String> {
        serde_json::from_value::<Given>(value).map_err(|e| e.to_string())?.settings()
    }

    #[test]
    fn policies_are_read_or_named() {
        let gc = read(json!({"interval": "90s", "policy": [
            {"keep-storage": "10GB", "filter": ["until=24h", "label!=keep"]}, {"filter": ["dangling=true"]}]}))
        .unwrap();
        assert_eq!(gc.interval.as_secs(), 90);
        assert_eq!((gc.policies[0].keep_storage, gc.policies[0].min_age), (Some(10 << 30), 86400));
        assert_eq!((gc.policies[1].keep_storage, gc.policies[1].dangling), (None, true));
        assert!(read(json!({"enabled": false, "policy": [{}]})).unwrap().policies.is_empty());
        assert!(read(json!({})).unwrap().policies.is_empty());
        for (bad, said) in [
            (json!({"interval": "soon"}), "invalid interval \"soon\""),
            (json!({"interval": "0s"}), "invalid interval"),
            (json!({"policy": [{"keep-storage": "much"}]}), "invalid size: 'much'"),
            (json!({"policy": [{"filter": ["unused=1h"]}]}), "\"unused=1h\""),
            (json!({"policy": [{"keepStorage": "1GB"}]}), "keepStorage"),
            (json!({"rules": []}), "rules"),
        ] {
            let text = read(bad).unwrap_err();
            assert!(text.contains(said), "{text}");
        }
    }
}
