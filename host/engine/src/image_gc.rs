//! Garbage collection of images by policy: what `image-gc` of the configuration says, carried out in the background.

use std::sync::Arc;
use std::time::Duration;

use wharf_images::gc::GcPolicy;
use wharf_images::{Deleted, Pruned};

use crate::Engine;
use crate::error::Result;
use crate::models::ImagePruneResponse;

/// Between two runs unless told.
pub const INTERVAL: Duration = Duration::from_mins(5);
/// An image that got a name more lately than this stays where a policy does not say `until`: who pulled it is about to use
/// it.
pub const MIN_AGE: Duration = Duration::from_mins(2);

/// `image-gc` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageGc {
    /// Between two runs.
    pub interval: Duration,
    /// In order; none: nothing is collected.
    pub policies: Vec<GcPolicy>,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self { interval: INTERVAL, policies: Vec::new() }
    }
}

/// Reads one policy: the bytes to keep, if it says so, and filters as `docker image prune` takes them: `until=24h`,
/// `label=a`, `label=a=b`, `label!=a`, `dangling=true`. The error names the filter.
pub fn policy(keep_storage: Option<u64>, filters: &[String]) -> Result<GcPolicy, String> {
    let mut policy = GcPolicy { keep_storage, min_age: MIN_AGE.as_secs(), ..GcPolicy::default() };
    let label = |text: &str| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.to_owned(), None),
    };
    for filter in filters {
        let bad = |why: &str| format!("invalid filter {filter:?}: {why}");
        if let Some(rest) = filter.strip_prefix("label!=") {
            policy.not_labels.push(label(rest));
        } else if let Some(rest) = filter.strip_prefix("label=") {
            policy.labels.push(label(rest));
        } else if let Some(age) = filter.strip_prefix("until=") {
            let age = duration(age).ok_or_else(|| bad("an age such as 24h or 90m is needed"))?;
            policy.min_age = age.as_secs();
        } else if let Some(flag) = filter.strip_prefix("dangling=") {
            policy.dangling = flag.parse().map_err(|_| bad("true or false is needed"))?;
        } else {
            return Err(bad("until=, label=, label!= and dangling= are known"));
        }
    }
    Ok(policy)
}

/// Go's `1h30m`.
pub fn duration(text: &str) -> Option<Duration> {
    crate::list::go_duration(text).map(Duration::from_secs_f64)
}

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl Engine {
    /// Collects garbage by the policies of the configuration, or only says what would go.
    pub async fn image_gc(&self, dry_run: bool) -> Result<ImagePruneResponse> {
        let policies = self.inner.settings().image_gc.policies.clone();
        if dry_run {
            let doomed = self.inner.images.plan_garbage(&policies, &self.uses(), now());
            let mut planned = Pruned::default();
            for one in doomed {
                let names = self.inner.images.resolve(&one.image)?.repo_tags.clone();
                let untag = |name| Deleted::Untagged { name, image: one.image.clone() };
                planned.deleted.extend(names.into_iter().map(untag));
                planned.reclaimed += one.frees;
                planned.deleted.push(Deleted::Image(one.image));
            }
            return Ok(Self::foreseen(planned));
        }
        let pruned = self.inner.images.collect_garbage(&policies, || self.uses(), now()).await?;
        Ok(self.pruned(pruned))
    }

    /// Collects garbage from time to time, as long as there is an engine and it has policies.
    pub(crate) fn watch_images(&self) {
        let weak = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                let Some(interval) = weak.upgrade().map(|inner| inner.settings().image_gc.interval) else {
                    return;
                };
                tokio::time::sleep(interval).await;
                let Some(inner) = weak.upgrade() else { return };
                if inner.settings().image_gc.policies.is_empty() {
                    continue;
                }
                match (Self { inner }).image_gc(false).await {
                    Ok(done) => {
                        let removed = done.images_deleted.unwrap_or_default();
                        let images = removed.iter().filter(|item| item.deleted.is_some()).count();
                        if images > 0 {
                            let bytes = done.space_reclaimed.unwrap_or_default();
                            tracing::info!(bytes, removed = images, "garbage collection of images");
                        }
                    }
                    Err(error) => tracing::error!(%error, "garbage collection of images"),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_named() {
        let all = ["until=24h", "label=a", "label=b=c", "label!=keep", "dangling=true"].map(str::to_owned);
        assert_eq!(
            policy(Some(5), &all),
            Ok(GcPolicy {
                keep_storage: Some(5),
                min_age: 24 * 3600,
                dangling: true,
                labels: vec![("a".into(), None), ("b".into(), Some("c".into()))],
                not_labels: vec![("keep".into(), None)],
            })
        );
        assert_eq!(policy(None, &[]).unwrap().min_age, 120);
        for bad in ["until=tomorrow", "until=", "dangling=maybe", "unused-for=2h", "label", ""] {
            let said = policy(None, &[bad.to_owned()]).unwrap_err();
            assert!(said.contains(&format!("{bad:?}")), "{said}");
        }
    }
}
