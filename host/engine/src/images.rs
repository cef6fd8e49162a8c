//! Operations on images, as far as containers and events have a say; the store itself is `wharf-images`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use wharf_images::reference::Reference;
use wharf_images::{
    Deleted, Image, ImageIndex, LoadOptions, PruneOptions, Pruned, RemoveOptions, SaveOptions, Use,
};
use wharf_plan::platform::Platform;

use crate::error::{Error, Result};
use crate::models::{ImageDeleteResponseItem, ImageHistoryResponseItem, ImagePruneResponse, ImageSummary};
use crate::policy::Subject;
use crate::record::rfc3339;
use crate::variants::{ImageInspectOptions, ImageListOptions, check_platform, identity};
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

/// How often a download tells how far it is.
const PROGRESS_EVERY: std::time::Duration = std::time::Duration::from_millis(250);

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

/// Whether a shell pattern of `reference=` fits a text; `*` does not cross a slash. The error is a pattern that is none.
fn pattern(pattern: &str, text: &str) -> Result<bool> {
    /// The rest after a class such as `[a-z]`, and whether the character is of it.
    fn class(p: &[u8], c: u8) -> Option<(bool, &[u8])> {
        let (negated, mut p) = match p.split_first() {
            Some((b'^', rest)) => (true, rest),
            _ => (false, p),
        };
        let (mut found, mut first) = (false, true);
        loop {
            let (mut low, mut rest) = p.split_first().map(|(c, rest)| (*c, rest))?;
            if low == b']' && !first {
                return Some((found != negated, rest));
            }
            first = false;
            if low == b'\\' {
                (low, rest) = rest.split_first().map(|(c, rest)| (*c, rest))?;
            }
            let mut high = low;
            if let [b'-', end, after @ ..] = rest
                && *end != b']'
            {
                (high, rest) = (*end, after);
            }
            found |= (low..=high).contains(&c);
            p = rest;
        }
    }
    fn go(p: &[u8], n: &[u8], budget: &mut u32) -> Option<bool> {
        // Bounds what a hostile pattern costs.
        *budget = budget.saturating_sub(1);
        if *budget == 0 {
            return Some(false);
        }
        match (p.split_first(), n.split_first()) {
            (None, rest) => Some(rest.is_none()),
            (Some((b'*', rest)), next) => {
                if go(rest, n, budget)? {
                    return Some(true);
                }
                match next {
                    Some((c, tail)) if *c != b'/' => go(p, tail, budget),
                    _ => Some(false),
                }
            }
            (Some((b'?', rest)), Some((c, tail))) => Some(*c != b'/' && go(rest, tail, budget)?),
            (Some((b'[', rest)), next) => {
                let (fits, rest) = class(rest, next.map_or(0, |(c, _)| *c))?;
                match next {
                    Some((_, tail)) if fits => go(rest, tail, budget),
                    _ => Some(false),
                }
            }
            (Some((b'\\', rest)), next) => {
                let (a, rest) = rest.split_first()?;
                match next {
                    Some((b, tail)) if a == b => go(rest, tail, budget),
                    _ => Some(false),
                }
            }
            (Some((a, rest)), Some((b, tail))) if a == b => go(rest, tail, budget),
            _ => Some(false),
        }
    }
    go(pattern.as_bytes(), text.as_bytes(), &mut 10_000)
        .ok_or_else(|| Error::invalid("syntax error in pattern"))
}

/// Whether one of the patterns fits a familiar name: with its tag or digest, or the name alone.
pub(crate) fn referenced(patterns: &[String], name: &str) -> Result<bool> {
    let bare = Reference::parse(name).map_or_else(|_| name.to_owned(), |r| r.familiar_name());
    for one in patterns {
        if pattern(one, name)? || pattern(one, &bare)? {
            return Ok(true);
        }
    }
    Ok(false)
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

    /// Containers by the image that they are made of.
    fn users(&self) -> BTreeMap<String, Vec<String>> {
        let mut users: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for u in self.uses() {
            users.entry(u.image).or_default().push(u.container);
        }
        users
    }

    /// `GET /images/json`.
    pub async fn image_list(&self, options: ImageListOptions, filters: &Filters) -> Result<Vec<Value>> {
        filters.only(&["before", "dangling", "label", "reference", "since", "until"])?;
        let dangling = filters.flag("dangling")?;
        let until =
            crate::list::until(filters)?.map(|n| i64::try_from(n / 1_000_000_000).unwrap_or(i64::MAX));
        let created = |key: &str| -> Result<Option<i64>> {
            filters.get(key).first().map(|r| Ok(self.inner.images.resolve(r)?.created_unix)).transpose()
        };
        let (before, since) = (created("before")?, created("since")?);
        let users = self.users();
        let images = self.inner.images.list();
        let parents: HashSet<&str> = images.iter().filter_map(|i| i.parent.as_deref()).collect();
        let usage = options.shared_size.then(|| self.inner.images.usage());
        let patterns = filters.get("reference");
        let mut list = Vec::new();
        for i in images.iter().filter(|i| !i.is_companion()) {
            let labels = i.config.labels.as_ref();
            let wanted = filters.labels("label", |k| labels.and_then(|l| l.get(k)).map(String::as_str))
                && before.is_none_or(|b| i.created_unix < b)
                && since.is_none_or(|s| i.created_unix > s)
                && until.is_none_or(|u| i.created_unix < u)
                && match dangling {
                    None => true,
                    Some(true) => i.repo_tags.is_empty(),
                    Some(false) => !i.is_dangling(),
                };
            // What only others are made of is not shown, unless all is.
            if !wanted || (i.is_dangling() && !options.all && parents.contains(i.id.as_str())) {
                continue;
            }
            let (mut tags, mut digests) = (i.repo_tags.clone(), i.repo_digests.clone());
            if !patterns.is_empty() {
                let fitting = |names: &[String]| -> Result<Vec<String>> {
                    let mut fitting = Vec::new();
                    for name in names {
                        if referenced(patterns, name)? {
                            fitting.push(name.clone());
                        }
                    }
                    Ok(fitting)
                };
                (tags, digests) = (fitting(&tags)?, fitting(&digests)?);
                if tags.is_empty() && digests.is_empty() {
                    continue;
                }
            }
            let shared = usage.as_ref().map(|u| u.images.get(&i.id).map_or(0, |image| image.shared));
            let group = self.inner.images.companions(&i.id);
            let containers: usize = group.iter().filter_map(|id| users.get(id)).map(Vec::len).sum();
            let summary = ImageSummary {
                id: i.id.clone(),
                parent_id: i.parent.clone().unwrap_or_default(),
                repo_tags: tags,
                repo_digests: digests,
                created: i.created_unix,
                size: i64::try_from(self.inner.images.size_of(i)).unwrap_or(i64::MAX),
                shared_size: shared.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX)),
                labels: labels.cloned().unwrap_or_default().into_iter().collect(),
                containers: i64::try_from(containers).unwrap_or(i64::MAX),
                ..ImageSummary::default()
            };
            let mut summary = serde_json::to_value(summary)?;
            if let Some(map) = summary.as_object_mut() {
                let indexes = self.indexes_of(&i.id);
                if let Some(descriptor) = self.target_descriptor(i, indexes.first()) {
                    map.insert("Descriptor".into(), descriptor);
                }
                if options.manifests {
                    let manifests = self.image_manifests(i, &indexes, options.identity, &users)?;
                    map.insert("Manifests".into(), manifests.into());
                }
            }
            list.push(summary);
        }
        if filters.0.keys().all(|key| key == "reference" || key == "dangling") && dangling != Some(true) {
            self.list_empty(&mut list, patterns, options)?;
        }
        std::future::ready(Ok(list)).await
    }

    /// `GET /images/{name}/json`, with the fields of older API versions too.
    pub async fn image_inspect(&self, reference: &str, options: ImageInspectOptions) -> Result<Value> {
        if options.manifests && options.platform.is_some() {
            return Err(Error::invalid(
                "conflicting options: manifests and platform options cannot both be set",
            ));
        }
        let found = self.inner.images.find(reference)?;
        if let (None, None, Some(index)) = (&found.image, &options.platform, &found.index) {
            return self.inspect_empty(index, options.manifests);
        }
        let i = self.image_for(reference, options.platform.as_deref())?;
        let (tags, digests) = self.names_shown(&i, found.index.as_deref());
        let known = self.inner.images.manifests(&i.id)?;
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
            "Id": i.id, "RepoTags": tags, "RepoDigests": digests,
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
            if let Some(identity) = identity(&known) {
                map.insert("Identity".into(), identity);
            }
            let descriptor = match &options.platform {
                None => self.target_descriptor(&i, found.index.as_ref()),
                Some(_) => self.manifest_descriptor(&i),
            };
            if let Some(descriptor) = descriptor {
                map.insert("Descriptor".into(), descriptor);
            }
            if options.manifests {
                let indexes: Vec<Arc<ImageIndex>> = found.index.into_iter().collect();
                map.insert(
                    "Manifests".into(),
                    self.image_manifests(&i, &indexes, true, &self.users())?.into(),
                );
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
    pub async fn image_history(
        &self,
        reference: &str,
        platform: Option<&str>,
    ) -> Result<Vec<ImageHistoryResponseItem>> {
        let i = self.image_for(reference, platform)?;
        let index = self.inner.images.find(reference)?.index;
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
            top.tags = self.names_shown(&i, index.as_deref()).0;
        }
        std::future::ready(Ok(items)).await
    }

    /// `POST /images/{name}/tag`.
    pub async fn image_tag(&self, reference: &str, repo: &str, tag: &str) -> Result<()> {
        let target = if tag.is_empty() { repo.to_owned() } else { format!("{repo}:{tag}") };
        let found = self.inner.images.find(reference)?;
        let id = found.image.map(|image| image.id.clone()).or(found.index.map(|index| index.digest.clone()));
        let id = id.unwrap_or_default();
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
        platforms: &[String],
        caller: &Caller,
    ) -> Result<Vec<ImageDeleteResponseItem>> {
        let found = self.inner.images.find(reference)?;
        let wanted =
            platforms.iter().map(|p| Platform::parse(p)).collect::<std::result::Result<Vec<_>, _>>()?;
        // Whatever goes, the policies see it.
        let mut doomed: Vec<Arc<Image>> = Vec::new();
        for platform in platforms {
            doomed.push(self.image_for(reference, Some(platform))?);
        }
        if doomed.is_empty() {
            doomed.extend(found.image.clone());
        }
        for image in &doomed {
            let labels = image.config.labels.clone().unwrap_or_default().into_iter().collect();
            let subject = Subject { point: "image-remove", target: reference, labels, dry_run: false };
            let object = || json!({"reference": reference, "image": image.id, "names": image.repo_tags, "force": force});
            self.review(caller, subject, object).await?;
        }
        let options = RemoveOptions { force, no_prune: noprune, uses: self.uses() };
        let list = if wanted.is_empty() || found.index.is_none() {
            self.inner.images.remove(reference, options).await?
        } else {
            self.inner.images.remove_platforms(reference, &wanted, options).await?
        };
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

    /// `POST /images/create?fromSrc=URL`: the new image's id, of an archive that this host fetches.
    ///
    /// # Errors
    /// The address is none or nobody gives anything there ([`Error`] of the server's answer); or as for any import.
    pub async fn image_import_from(
        &self,
        source: &str,
        options: ImportOptions,
        progress: Progress,
    ) -> Result<String> {
        let file = self.inner.registries.load().download(source).await?;
        let said = format!("Downloading from {}", file.address);
        let _ = progress.send(serde_json::json!({"status": said})).await;
        let body = tokio_util::io::StreamReader::new(report(file, progress));
        self.image_import(Box::new(body), options).await
    }

    /// `POST /images/load`; lines such as `{"stream":"Loaded image: x:y\n"}` go to `progress`.
    pub async fn image_load(
        &self,
        body: Body,
        quiet: bool,
        platforms: Vec<String>,
        progress: Progress,
    ) -> Result<()> {
        let lines = progress.clone();
        let platforms =
            platforms.iter().map(|p| Platform::parse(p)).collect::<std::result::Result<Vec<_>, _>>()?;
        let options = LoadOptions { platforms };
        let loaded = self
            .inner
            .images
            .load(body, options, move |step| {
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
    pub async fn image_save(&self, names: &[String], platforms: &[String]) -> Result<Body> {
        for name in names {
            // A whole repository has no one platform.
            let Ok(found) = self.inner.images.find(name) else { continue };
            if let (Some(image), None) = (&found.image, &found.index) {
                platforms.iter().try_for_each(|platform| check_platform(image, name, Some(platform)))?;
            }
        }
        let platforms =
            platforms.iter().map(|p| Platform::parse(p)).collect::<std::result::Result<Vec<_>, _>>()?;
        let stream = self.inner.images.save(names, &SaveOptions { platforms })?;
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

    /// Ids of images that no policy lets go.
    async fn kept_by_policy(&self, caller: &Caller) -> Result<Vec<String>> {
        let mut kept = Vec::new();
        if self.inner.plugins.policies("image-remove").is_empty() {
            return Ok(kept);
        }
        for image in self.inner.images.list() {
            let labels = image.config.labels.clone().unwrap_or_default().into_iter().collect();
            let subject = Subject { point: "image-remove", target: &image.id, labels, dry_run: false };
            let object = || json!({"reference": image.id, "image": image.id, "names": image.repo_tags, "force": false});
            match self.review(caller, subject, object).await {
                Ok(_) => {}
                Err(e) if e.kind == crate::Kind::Forbidden => kept.push(image.id.clone()),
                Err(e) => return Err(e),
            }
        }
        Ok(kept)
    }

    /// `POST /images/prune`; with `dry_run` (`?plan=1`) only what would go.
    pub async fn image_prune(
        &self,
        filters: &Filters,
        dry_run: bool,
        caller: &Caller,
    ) -> Result<ImagePruneResponse> {
        filters.only(&["dangling", "label", "label!", "until"])?;
        let until =
            crate::list::until(filters)?.map(|n| i64::try_from(n / 1_000_000_000).unwrap_or(i64::MAX));
        let keep = self.kept_by_policy(caller).await?;
        let pruned = self
            .inner
            .images
            .prune(PruneOptions {
                all: !filters.flag("dangling")?.unwrap_or(true),
                until,
                labels: label_pairs(filters, "label"),
                not_labels: label_pairs(filters, "label!"),
                keep,
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

/// The bytes of a file, telling how far they are as Docker does.
fn report(
    file: wharf_registry::Download,
    progress: Progress,
) -> impl futures_util::Stream<Item = std::io::Result<bytes::Bytes>> + Send + Unpin {
    use futures_util::StreamExt;
    let (total, mut seen, mut told) = (file.size, 0_u64, std::time::Instant::now());
    file.bytes.inspect(move |piece| {
        seen += piece.as_ref().map_or(0, |p| p.len() as u64);
        if told.elapsed() > PROGRESS_EVERY {
            told = std::time::Instant::now();
            // A client that does not read misses this line.
            let _ = progress.try_send(serde_json::json!({
                "status": "Importing",
                "progressDetail": {"current": seen, "total": total},
            }));
        }
    })
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
            ("[a-c]x", "bx:1", true),
            ("[^a-c]x", "bx:1", false),
            ("\\ax", "ax:1", true),
            ("reg:5000/a", "reg:5000/a:1", true),
        ] {
            assert_eq!(referenced(&[p.to_owned()], name).unwrap(), fits, "{p} {name}");
        }
        for bad in ["[", "[a", "a\\", "[a-"] {
            assert!(pattern(bad, "abc").is_err(), "{bad}");
        }
        assert!(!pattern(&"*".repeat(200), &"a".repeat(200).replace("aa", "a/")).unwrap());
    }
}
