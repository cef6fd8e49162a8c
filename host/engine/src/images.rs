//! Operations on images, as far as containers and events have a say; the store itself is `wharf-images`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use wharf_images::{Deleted, Image, LoadOptions, PruneOptions, Pruned, RemoveOptions, Use};

use crate::error::Result;
use crate::models::{ImageDeleteResponseItem, ImageHistoryResponseItem, ImagePruneResponse, ImageSummary};
use crate::policy::Subject;
use crate::record::rfc3339;
use crate::{Caller, Engine, Filters};

/// Of `POST /images/create?fromSrc=-`.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Name for the new image.
    pub repo: Option<String>,
    /// Its tag.
    pub tag: Option<String>,
    /// Text for its history.
    pub message: Option<String>,
    /// Dockerfile instructions to apply.
    pub changes: Vec<String>,
    /// `os[/arch[/variant]]`.
    pub platform: Option<String>,
}

/// Lines of a progress answer, each a JSON object.
pub type Progress = mpsc::Sender<Value>;

/// A body that the caller streams in.
pub type Body = Box<dyn AsyncRead + Send + Unpin>;

/// `name` or `name=value` of a label filter.
fn label_pairs(filters: &Filters, key: &str) -> Vec<(String, Option<String>)> {
    filters
        .get(key)
        .iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text.clone(), None),
        })
        .collect()
}

/// Whether a shell pattern of `reference=` fits a name; `*` does not cross a slash.
fn pattern(pattern: &str, name: &str) -> bool {
    fn go(p: &[u8], n: &[u8], budget: &mut u32) -> bool {
        // Bounds what a hostile pattern costs.
        *budget = budget.saturating_sub(1);
        if *budget == 0 {
            return false;
        }
        match (p.split_first(), n.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                go(rest, n, budget)
                    || n.split_first().is_some_and(|(c, tail)| *c != b'/' && go(p, tail, budget))
            }
            (Some((b'?', rest)), Some((c, tail))) => *c != b'/' && go(rest, tail, budget),
            (Some((a, rest)), Some((b, tail))) => a == b && go(rest, tail, budget),
            _ => false,
        }
    }
    let fits = |name: &str| go(pattern.as_bytes(), name.as_bytes(), &mut 10_000);
    // Without a tag in the pattern any tag fits; without a path the last part of the name is enough.
    let bare = name.rsplit_once(':').map_or(name, |(repo, _)| repo);
    fits(name) || fits(bare)
}

impl Engine {
    pub(crate) fn uses(&self) -> Vec<Use> {
        self.inner
            .registry
            .all()
            .iter()
            .map(|c| c.now())
            .map(|now| Use {
                container: now.def.id.clone(),
                image: now.def.image.clone(),
                running: now.state.status.is_alive(),
            })
            .collect()
    }

    pub(crate) fn image_event(&self, action: &str, id: &str, name: &str) {
        self.inner.events.publish("image", action, id, [("name".to_owned(), name.to_owned())]);
    }

    /// `GET /images/json`.
    pub async fn image_list(&self, all: bool, filters: &Filters) -> Result<Vec<ImageSummary>> {
        let _ = all;
        filters.only(&["before", "dangling", "label", "reference", "since", "until"])?;
        let dangling = filters.flag("dangling")?;
        let until =
            crate::list::until(filters)?.map(|n| i64::try_from(n / 1_000_000_000).unwrap_or(i64::MAX));
        let created = |key: &str| -> Result<Option<i64>> {
            filters.get(key).first().map(|r| Ok(self.inner.images.resolve(r)?.created_unix)).transpose()
        };
        let (before, since) = (created("before")?, created("since")?);
        let mut counts: HashMap<String, i64> = HashMap::new();
        for u in self.uses() {
            *counts.entry(u.image).or_default() += 1;
        }
        let wanted = |image: &Image| {
            let labels = image.config.labels.as_ref();
            dangling.is_none_or(|d| d == image.is_dangling())
                && filters.labels("label", |k| labels.and_then(|l| l.get(k)).map(String::as_str))
                && before.is_none_or(|b| image.created_unix < b)
                && since.is_none_or(|s| image.created_unix > s)
                && until.is_none_or(|u| image.created_unix < u)
                && (filters.get("reference").is_empty()
                    || filters.get("reference").iter().any(|p| image.repo_tags.iter().any(|t| pattern(p, t))))
        };
        let list = self
            .inner
            .images
            .list()
            .into_iter()
            .filter(|i| wanted(i))
            .map(|i| ImageSummary {
                id: i.id.clone(),
                parent_id: i.parent.clone().unwrap_or_default(),
                repo_tags: i.repo_tags.clone(),
                repo_digests: i.repo_digests.clone(),
                created: i.created_unix,
                size: i64::try_from(i.size).unwrap_or(i64::MAX),
                shared_size: -1,
                labels: i.config.labels.clone().unwrap_or_default().into_iter().collect(),
                containers: counts.get(&i.id).copied().unwrap_or(0),
                ..ImageSummary::default()
            })
            .collect();
        std::future::ready(Ok(list)).await
    }

    /// `GET /images/{name}/json`, with the fields of older API versions too.
    pub async fn image_inspect(&self, reference: &str) -> Result<Value> {
        let i = self.inner.images.resolve(reference)?;
        let layers: Vec<&String> = i.layers.iter().map(|l| &l.diff_id).collect();
        let mut config = serde_json::to_value(&*i.config)?;
        if let Some(map) = config.as_object_mut() {
            map.remove("ArgsEscaped");
            for key in ["Env", "Cmd", "Entrypoint", "Labels", "OnBuild", "Volumes"] {
                map.entry(key).or_insert(Value::Null);
            }
        }
        let tagged = u64::try_from(i.last_tag_time).unwrap_or(0);
        let answer = json!({
            "Id": i.id, "RepoTags": i.repo_tags, "RepoDigests": i.repo_digests,
            "Parent": i.parent.clone().unwrap_or_default(), "Comment": i.comment,
            "Created": i.created.clone().unwrap_or_else(|| rfc3339(0)), "DockerVersion": "", "Author": i.author,
            "Config": config, "Architecture": i.architecture, "Variant": i.variant, "Os": i.os,
            "OsVersion": i.os_version, "Size": i.size, "VirtualSize": i.size,
            "GraphDriver": {"Name": self.inner.images.driver(), "Data": null},
            "RootFS": {"Type": "layers", "Layers": layers},
            "Metadata": {"LastTagTime": rfc3339(tagged)},
        });
        let mut answer = answer;
        if let Some(map) = answer.as_object_mut() {
            // Of images made of containers.
            let raw: Value = serde_json::from_str(&i.raw_config).unwrap_or_default();
            for (key, name) in [("container", "Container"), ("container_config", "ContainerConfig")] {
                if let Some(value) = raw.get(key).filter(|v| !v.is_null()) {
                    map.insert(name.into(), value.clone());
                }
            }
            for key in ["Variant", "OsVersion"] {
                if map.get(key).and_then(Value::as_str) == Some("") {
                    map.remove(key);
                }
            }
        }
        std::future::ready(Ok(answer)).await
    }

    /// `GET /images/{name}/history`.
    pub async fn image_history(&self, reference: &str) -> Result<Vec<ImageHistoryResponseItem>> {
        let i = self.inner.images.resolve(reference)?;
        let mut sizes = i.layers.iter().map(|l| i64::try_from(l.size).unwrap_or(0));
        let mut items: Vec<ImageHistoryResponseItem> = i
            .history
            .iter()
            .map(|h| ImageHistoryResponseItem {
                id: "<missing>".into(),
                created: h
                    .created
                    .as_deref()
                    .and_then(|t| t.parse::<jiff::Timestamp>().ok())
                    .map_or(0, jiff::Timestamp::as_second),
                created_by: h.created_by.clone().unwrap_or_default(),
                tags: Vec::new(),
                size: if h.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
                comment: h.comment.clone().unwrap_or_default(),
            })
            .collect();
        items.reverse();
        if let Some(top) = items.first_mut() {
            top.id.clone_from(&i.id);
            top.tags.clone_from(&i.repo_tags);
        }
        std::future::ready(Ok(items)).await
    }

    /// `POST /images/{name}/tag`.
    pub async fn image_tag(&self, reference: &str, repo: &str, tag: &str) -> Result<()> {
        let target = if tag.is_empty() { repo.to_owned() } else { format!("{repo}:{tag}") };
        let id = self.inner.images.resolve(reference)?.id.clone();
        let (name, _) = self.inner.images.tag(reference, &target).await?;
        self.image_event("tag", &id, &name);
        Ok(())
    }

    fn deleted(&self, list: Vec<Deleted>) -> Vec<ImageDeleteResponseItem> {
        list.into_iter()
            .map(|d| match d {
                Deleted::Untagged { name, image } => {
                    self.image_event("untag", &image, &image);
                    ImageDeleteResponseItem { untagged: Some(name), deleted: None }
                }
                Deleted::Image(id) => {
                    self.image_event("delete", &id, &id);
                    ImageDeleteResponseItem { untagged: None, deleted: Some(id) }
                }
                Deleted::Layer(id) => ImageDeleteResponseItem { untagged: None, deleted: Some(id) },
            })
            .collect()
    }

    /// `DELETE /images/{name}`.
    pub async fn image_remove(
        &self,
        reference: &str,
        force: bool,
        noprune: bool,
        caller: &Caller,
    ) -> Result<Vec<ImageDeleteResponseItem>> {
        let image = self.inner.images.resolve(reference)?;
        let labels = image.config.labels.clone().unwrap_or_default().into_iter().collect();
        let subject = Subject { point: "image-remove", target: reference, labels, dry_run: false };
        let object =
            || json!({"reference": reference, "image": image.id, "names": image.repo_tags, "force": force});
        self.review(caller, subject, object).await?;
        let options = RemoveOptions { force, no_prune: noprune, uses: self.uses() };
        let list = self.inner.images.remove(reference, options).await?;
        Ok(self.deleted(list))
    }

    /// `POST /images/create?fromSrc=-`: the new image's id.
    pub async fn image_import(&self, body: Body, options: ImportOptions) -> Result<String> {
        let image = self
            .inner
            .images
            .import(
                body,
                wharf_images::ImportOptions {
                    repository: options.repo.unwrap_or_default(),
                    tag: options.tag.unwrap_or_default(),
                    message: options.message.unwrap_or_default(),
                    changes: options.changes,
                    platform: options.platform.unwrap_or_default(),
                },
            )
            .await?;
        self.image_event("import", &image.id, image.repo_tags.first().unwrap_or(&image.id));
        Ok(image.id.clone())
    }

    /// `POST /images/load`; lines such as `{"stream":"Loaded image: x:y\n"}` go to `progress`.
    pub async fn image_load(&self, body: Body, quiet: bool, progress: Progress) -> Result<()> {
        let lines = progress.clone();
        let loaded = self
            .inner
            .images
            .load(body, LoadOptions::default(), move |step| {
                let wharf_images::Progress::Layer { id, current, total } = step;
                if !quiet {
                    // A reader that does not keep up misses steps, nothing else.
                    let _ = lines.try_send(json!({
                        "status": "Loading layer", "id": id,
                        "progressDetail": {"current": current, "total": total},
                        "progress": format!("{current}B/{total}B"),
                    }));
                }
            })
            .await?;
        for one in loaded {
            for (name, old) in &one.moved {
                let text = format!(
                    "The image {name} already exists, renaming the old one with ID {old} to empty string\n"
                );
                let _ = progress.send(json!({"stream": text})).await;
            }
            if one.names.is_empty() {
                let text = format!("Loaded image ID: {}\n", one.image.id);
                let _ = progress.send(json!({"stream": text})).await;
            }
            for name in &one.names {
                let _ = progress.send(json!({"stream": format!("Loaded image: {name}\n")})).await;
            }
            self.image_event("load", &one.image.id, one.names.first().unwrap_or(&one.image.id));
        }
        Ok(())
    }

    /// `GET /images/get`: an archive that `load` takes, here and in Docker.
    pub async fn image_save(&self, names: &[String]) -> Result<Body> {
        let stream = self.inner.images.save(names)?;
        for name in names {
            let id = self.inner.images.resolve(name).map_or_else(|_| name.clone(), |image| image.id.clone());
            self.image_event("save", &id, name);
        }
        std::future::ready(Ok(Box::new(stream) as Body)).await
    }

    /// What would go, as an answer.
    pub(crate) fn foreseen(pruned: Pruned) -> ImagePruneResponse {
        let item = |one| match one {
            Deleted::Untagged { name, .. } => ImageDeleteResponseItem { untagged: Some(name), deleted: None },
            Deleted::Image(id) | Deleted::Layer(id) => {
                ImageDeleteResponseItem { untagged: None, deleted: Some(id) }
            }
        };
        ImagePruneResponse {
            images_deleted: Some(pruned.deleted.into_iter().map(item).collect()),
            space_reclaimed: Some(i64::try_from(pruned.reclaimed).unwrap_or(i64::MAX)),
        }
    }

    /// Tells the listeners of events what went.
    pub(crate) fn pruned(&self, pruned: Pruned) -> ImagePruneResponse {
        let deleted = self.deleted(pruned.deleted);
        if !deleted.is_empty() {
            self.inner.events.publish(
                "image",
                "prune",
                "",
                [("reclaimed".to_owned(), pruned.reclaimed.to_string())],
            );
        }
        ImagePruneResponse {
            images_deleted: Some(deleted),
            space_reclaimed: Some(i64::try_from(pruned.reclaimed).unwrap_or(i64::MAX)),
        }
    }

    /// `POST /images/prune`; with `dry_run` (`?plan=1`) only what would go.
    pub async fn image_prune(&self, filters: &Filters, dry_run: bool) -> Result<ImagePruneResponse> {
        filters.only(&["dangling", "label", "label!", "until"])?;
        let until =
            crate::list::until(filters)?.map(|n| i64::try_from(n / 1_000_000_000).unwrap_or(i64::MAX));
        let pruned = self
            .inner
            .images
            .prune(PruneOptions {
                all: !filters.flag("dangling")?.unwrap_or(true),
                until,
                labels: label_pairs(filters, "label"),
                not_labels: label_pairs(filters, "label!"),
                uses: self.uses(),
                dry_run,
            })
            .await?;
        if dry_run {
            return Ok(Self::foreseen(pruned));
        }
        let deleted = self.deleted(pruned.deleted);
        self.inner.events.publish(
            "image",
            "prune",
            "",
            [("reclaimed".to_owned(), pruned.reclaimed.to_string())],
        );
        Ok(ImagePruneResponse {
            images_deleted: Some(deleted),
            space_reclaimed: Some(i64::try_from(pruned.reclaimed).unwrap_or(i64::MAX)),
        })
    }

    /// Makes an image of files given as bytes, if it is not there yet; answers its id.
    pub async fn image_embedded(
        &self,
        name: &str,
        files: &[wharf_images::EmbeddedFile],
        command: Vec<String>,
    ) -> Result<String> {
        let config = wharf_images::ImageConfig {
            cmd: Some(command),
            env: Some(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()]),
            labels: Some(BTreeMap::new()),
            ..wharf_images::ImageConfig::default()
        };
        let image: Arc<Image> = self.inner.images.create_embedded(name, files, config).await?;
        Ok(image.id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_patterns() {
        for (p, name, fits) in [
            ("busybox", "busybox:latest", true),
            ("busy*", "busybox:latest", true),
            ("busybox:lat*", "busybox:latest", true),
            ("box", "busybox:latest", false),
            ("*", "a/b:c", false),
            ("*/*", "a/b:c", true),
            ("a?b", "axb:1", true),
        ] {
            assert_eq!(pattern(p, name), fits, "{p} {name}");
        }
        assert!(!pattern(&"*".repeat(200), &"a".repeat(200).replace("aa", "a/")));
    }
}
