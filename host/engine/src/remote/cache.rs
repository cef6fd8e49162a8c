//! What the registry beside the engine keeps on the disk: shown and pruned as the build cache is in Docker, whose word for what is
//! there only to save time it is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::record::rfc3339;
use crate::{Engine, Filters};

/// Bytes that the registry takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Of other registries: it comes again when it is asked for.
    pub cached: u64,
    /// What was pushed, as far as the images do not have it: it goes with them.
    pub kept: u64,
}

/// The content of the registry beside the engine.
pub trait Cache: Send + Sync {
    /// What it takes. Blocks.
    fn usage(&self) -> io::Result<CacheUsage>;
    /// Forgets what is of other registries and was not asked for in this time, or all of it; answers the bytes given back.
    /// Blocks.
    fn forget(&self, unused_for: Option<Duration>) -> io::Result<u64>;
}

/// Names of what is shown.
const CACHED: &str = "registry-pull-through";
const KEPT: &str = "registry-pushed";

fn blocking_failed(e: &tokio::task::JoinError) -> Error {
    Error::internal(format!("a worker ended: {e}"))
}

impl Engine {
    /// Says that a registry keeps content beside the engine. Once.
    pub fn set_cache(&self, cache: Arc<dyn Cache>) {
        let _ = self.inner.cache.set(cache);
    }

    /// Records of `GET /system/df` in the form of a build cache's; none where nothing is kept.
    pub(crate) async fn cache_records(&self) -> Result<Vec<Value>> {
        let Some(cache) = self.inner.cache.get().cloned() else { return Ok(Vec::new()) };
        let usage = tokio::task::spawn_blocking(move || cache.usage()).await;
        let usage = usage.map_err(|e| blocking_failed(&e))?;
        let usage =
            usage.map_err(|e| Error::internal(format!("the registry's content cannot be read: {e}")))?;
        let record = |id: &str, what: &str, in_use: bool, size: u64| {
            json!({
                "ID": id, "Type": "regular", "Description": what, "InUse": in_use, "Shared": false, "Size": size,
                "CreatedAt": rfc3339(0), "LastUsedAt": Value::Null, "UsageCount": 0, "Parents": Value::Null,
            })
        };
        let mut all = Vec::new();
        if usage.cached > 0 {
            all.push(record(
                CACHED,
                "content of other registries that was fetched for others",
                false,
                usage.cached,
            ));
        }
        if usage.kept > 0 {
            all.push(record(
                KEPT,
                "content that was pushed to the registry, beside the images",
                true,
                usage.kept,
            ));
        }
        Ok(all)
    }

    /// `POST /build/prune`: forgets what the registry fetched for others. `until` spares what was asked for since.
    ///
    /// # Errors
    /// A filter is unknown or cannot be read; the content cannot be removed.
    pub async fn build_prune(&self, filters: &Filters) -> Result<Value> {
        // Filters by what there is in a real build cache fit nothing here.
        let narrow = ["id", "parent", "type", "description", "inuse", "shared", "private"];
        filters.only(&[&["until", "unused-for"], &narrow[..]].concat())?;
        let narrow = narrow.iter().any(|key| !filters.get(key).is_empty());
        let times = ["until", "unused-for"].map(|key| filters.get(key).first().cloned());
        let unused_for = match times.into_iter().flatten().next() {
            None => None,
            Some(text) => Some(
                crate::image_gc::duration(&text)
                    .ok_or_else(|| Error::invalid(format!("invalid filter 'until={text}'")))?,
            ),
        };
        let Some(cache) = self.inner.cache.get().cloned().filter(|_| !narrow) else {
            return Ok(json!({"CachesDeleted": [], "SpaceReclaimed": 0}));
        };
        let forgotten = tokio::task::spawn_blocking(move || cache.forget(unused_for)).await;
        let forgotten = forgotten.map_err(|e| blocking_failed(&e))?;
        let bytes = forgotten
            .map_err(|e| Error::internal(format!("the registry's content cannot be removed: {e}")))?;
        let deleted = if bytes > 0 { vec![CACHED] } else { Vec::new() };
        Ok(json!({"CachesDeleted": deleted, "SpaceReclaimed": bytes}))
    }
}
