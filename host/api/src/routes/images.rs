//! Images.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;
use wharf_engine::images::ImportOptions;
use wharf_engine::remote::{PullOptions, PushOptions};
use wharf_engine::variants::{ImageInspectOptions, ImageListOptions};
use wharf_engine::{Error, Result as EngineResult};

use crate::error::Failure;
use crate::gate::Call;
use crate::http::reply::{self, Outcome};
use crate::shape;
use crate::version::Version;

/// Lines of progress that may wait for a slow client.
const PROGRESS: usize = 64;

fn value<T: serde::Serialize>(model: &T) -> Result<Value, Failure> {
    serde_json::to_value(model).map_err(|e| Failure::internal(format!("the answer cannot be written: {e}")))
}

pub(crate) async fn list(call: Call) -> Outcome {
    let query = call.query();
    let mut filters = query.filters(&["before", "dangling", "label", "reference", "since", "until"])?;
    if let Some(name) = query.non_empty("filter") {
        filters.0.entry("reference".into()).or_default().push(name.to_owned());
    }
    let engine = call.grant().await?;
    let options = ImageListOptions {
        all: query.flag("all"),
        shared_size: query.flag("shared-size"),
        manifests: query.flag("manifests") && call.version() >= Version(47),
        identity: query.flag("identity"),
    };
    let mut list = value(&engine.image_list(options, &filters).await?)?;
    shape::images(&mut list, call.version());
    reply::ok(&list)
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    let platform = if call.version() >= Version(49) { one_platform(&call)? } else { None };
    let options = ImageInspectOptions {
        platform,
        manifests: call.query().flag("manifests") && call.version() >= Version(48),
    };
    let engine = call.grant().await?;
    let mut image = engine.image_inspect(call.name(), options).await?;
    shape::image(&mut image, call.version());
    reply::ok(&image)
}

pub(crate) async fn history(call: Call) -> Outcome {
    let platform = one_platform(&call)?;
    let engine = call.grant().await?;
    let mut list = value(&engine.image_history(call.name(), platform.as_deref()).await?)?;
    for entry in list.as_array_mut().into_iter().flatten() {
        if let Some(entry) = entry.as_object_mut() {
            entry.entry("Tags").or_insert(Value::Null);
        }
    }
    reply::ok(&list)
}

pub(crate) async fn tag(call: Call) -> Outcome {
    let engine = call.grant().await?;
    engine.image_tag(call.name(), call.query().text("repo"), call.query().text("tag")).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

pub(crate) async fn remove(call: Call) -> Outcome {
    let platforms = platforms(&call, "platforms")?;
    let query = call.query();
    let engine = call.grant().await?;
    let (force, noprune) = (query.flag("force"), query.flag("noprune"));
    reply::ok(&engine.image_remove(call.name(), force, noprune, &platforms, &engine.caller).await?)
}

pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = call.query().filters(&["dangling", "label", "label!", "until"])?;
    let (plan, policy) = (call.query().flag("plan"), call.query().flag("policy"));
    let engine = call.grant().await?;
    let pruned = if policy {
        engine.image_gc(plan).await?
    } else {
        engine.image_prune(&filters, plan, &engine.caller).await?
    };
    reply::ok(&json!({
        "ImagesDeleted": value(&pruned.images_deleted.unwrap_or_default())?,
        "SpaceReclaimed": pruned.space_reclaimed.unwrap_or_default(),
    }))
}

pub(crate) async fn create(mut call: Call) -> Outcome {
    let query = call.query();
    let text = |key| query.non_empty(key).map(str::to_owned);
    if let Some(image) = text("fromImage") {
        let reference = reference(&image, query.text("tag"));
        let options = PullOptions { reference, platform: text("platform"), headers: registry_headers(&call) };
        let engine = call.grant().await?;
        let (sender, lines) = mpsc::channel(PROGRESS);
        let work = async move { engine.image_pull(options, &engine.caller, sender).await };
        return progress(Box::pin(work), lines).await;
    }
    let Some(source) = text("fromSrc") else {
        return Err(Failure::invalid("either fromImage or fromSrc must be given"));
    };
    let options = ImportOptions {
        repo: text("repo"),
        tag: text("tag"),
        message: text("message").or_else(|| Some(format!("Imported from {source}"))),
        changes: query.all("changes").map(str::to_owned).collect(),
        platform: text("platform"),
    };
    let (sender, lines) = mpsc::channel(PROGRESS);
    if source != "-" {
        let engine = call.grant().await?;
        let work = async move {
            let id = engine.image_import_from(&source, options, sender.clone()).await?;
            import_done(&sender, id).await
        };
        return progress(Box::pin(work), lines).await;
    }
    let (body, engine) = call.grant_stream().await?;
    let work = async move {
        let id = engine.image_import(body, options).await?;
        import_done(&sender, id).await
    };
    progress(Box::pin(work), lines).await
}

/// The last line of an import: the image's id, for whoever still listens.
async fn import_done(lines: &mpsc::Sender<Value>, id: String) -> wharf_engine::Result<()> {
    let _ = lines.send(json!({"status": id})).await;
    Ok(())
}

/// What a client says to registries through us.
fn registry_headers(call: &Call) -> HashMap<String, String> {
    call.headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-registry-"))
        .filter_map(|(name, v)| Some((name.as_str().to_owned(), v.to_str().ok()?.to_owned())))
        .collect()
}

/// `tag` may be a digest.
fn reference(image: &str, tag: &str) -> String {
    match tag {
        "" => image.to_owned(),
        digest if digest.contains(':') => format!("{image}@{digest}"),
        tag => format!("{image}:{tag}"),
    }
}

pub(crate) async fn load(mut call: Call) -> Outcome {
    let quiet = call.query().flag("quiet");
    let platforms = platforms(&call, "platform")?;
    let (body, engine) = call.grant_stream().await?;
    let (sender, lines) = mpsc::channel(PROGRESS);
    let work = async move { engine.image_load(body, quiet, platforms, sender).await };
    // Unlike pulls and pushes: whatever becomes of the archive is told in the stream.
    Ok(reply::stream("application/json", progress_lines(Box::pin(work), None, None, lines)))
}

type Work = Pin<Box<dyn Future<Output = EngineResult<()>> + Send>>;

/// Lines of progress while work is done. What fails before the first line has a status, what fails later a last line.
async fn progress(mut work: Work, mut lines: mpsc::Receiver<Value>) -> Outcome {
    let mut done = None;
    let first = tokio::select! {
        biased;
        line = lines.recv() => line,
        result = &mut work => {
            done = Some(result);
            lines.recv().await
        }
    };
    if let (None, Some(Err(e))) = (&first, &done) {
        return Err(e.clone().into());
    }
    Ok(reply::stream("application/json", progress_lines(work, done, first, lines)))
}

fn line(value: &Value) -> Bytes {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

fn failed(e: &Error) -> Bytes {
    line(&json!({"errorDetail": {"message": e.message}, "error": e.message}))
}

struct Progressing {
    work: Option<Work>,
    result: Option<EngineResult<()>>,
    first: Option<Value>,
    lines: mpsc::Receiver<Value>,
}

fn progress_lines(
    work: Work,
    result: Option<EngineResult<()>>,
    first: Option<Value>,
    lines: mpsc::Receiver<Value>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let work = result.is_none().then_some(work);
    stream::unfold(Progressing { work, result, first, lines }, |mut state| async move {
        if let Some(first) = state.first.take() {
            return Some((Ok(line(&first)), state));
        }
        loop {
            if let Some(work) = &mut state.work {
                tokio::select! {
                    biased;
                    Some(value) = state.lines.recv() => return Some((Ok(line(&value)), state)),
                    result = work => {
                        state.work = None;
                        state.result = Some(result);
                    }
                }
            } else if let Some(value) = state.lines.recv().await {
                return Some((Ok(line(&value)), state));
            } else {
                return match state.result.take() {
                    Some(Err(e)) => Some((Ok(failed(&e)), state)),
                    _ => None,
                };
            }
        }
    })
}

pub(crate) async fn search(call: Call) -> Outcome {
    let query = call.query();
    let filters = query.filters(&["is-automated", "is-official", "stars"])?;
    let limit = query
        .non_empty("limit")
        .map(|n| n.parse::<i64>().map_err(|_| Failure::invalid(format!("invalid limit specified: {n:?}"))))
        .transpose()?;
    let engine = call.grant().await?;
    reply::ok(&engine.image_search(query.text("term"), limit, &filters, &registry_headers(&call)).await?)
}

pub(crate) async fn push(call: Call) -> Outcome {
    let options = PushOptions {
        name: call.name().to_owned(),
        tag: call.query().non_empty("tag").map(str::to_owned),
        platform: one_platform(&call)?,
        headers: registry_headers(&call),
    };
    let engine = call.grant().await?;
    let (sender, lines) = mpsc::channel(PROGRESS);
    let work = async move { engine.image_push(options, &engine.caller, sender).await };
    progress(Box::pin(work), lines).await
}

pub(crate) async fn distribution(call: Call) -> Outcome {
    let engine = call.grant().await?;
    reply::ok(&engine.distribution_inspect(call.name(), &registry_headers(&call)).await?)
}

pub(crate) async fn attestations(call: Call) -> Outcome {
    let query = call.query();
    let kinds: Vec<String> = query.all("type").map(str::to_owned).collect();
    let platform = query.non_empty("platform").map(platform_text).transpose()?;
    let engine = call.grant().await?;
    let found = engine
        .image_attestations(
            call.name(),
            platform.as_deref(),
            &kinds,
            query.flag("statement"),
            &registry_headers(&call),
        )
        .await?;
    reply::ok(&found)
}

/// A platform as newer clients write it: an object as JSON, or `os/architecture`.
fn platform_text(text: &str) -> Result<String, Failure> {
    if !text.starts_with('{') {
        return Ok(text.to_owned());
    }
    let value: Value =
        serde_json::from_str(text).map_err(|e| Failure::invalid(format!("failed to parse platform: {e}")))?;
    let part = |key: &str| value.get(key).and_then(Value::as_str).filter(|p| !p.is_empty());
    let parts: Vec<&str> = ["os", "architecture", "variant"].into_iter().filter_map(part).collect();
    Ok(parts.join("/"))
}

/// The platforms of a parameter that may be given many times.
fn platforms(call: &Call, key: &str) -> Result<Vec<String>, Failure> {
    call.query().all(key).filter(|p| !p.is_empty()).map(platform_text).collect()
}

fn one_platform(call: &Call) -> Result<Option<String>, Failure> {
    call.query().non_empty("platform").map(platform_text).transpose()
}

pub(crate) async fn save(call: Call) -> Outcome {
    let mut names: Vec<String> = call.query().all("names").map(str::to_owned).collect();
    if !call.name().is_empty() {
        names = vec![call.name().to_owned()];
    }
    // Old clients join names with commas.
    let names: Vec<String> = names.iter().flat_map(|n| n.split(',')).map(str::to_owned).collect();
    let platforms = platforms(&call, "platform")?;
    let engine = call.grant().await?;
    let archive = engine.image_save(&names, &platforms).await?;
    Ok(reply::stream("application/x-tar", ReaderStream::with_capacity(archive, 256 << 10)))
}

pub(crate) async fn build(call: Call) -> Outcome {
    call.grant().await?;
    Err(Failure::unsupported("building images is not supported by this engine yet"))
}

/// There is no build cache but what the engine's registry fetched for others.
pub(crate) async fn build_prune(call: Call) -> Outcome {
    let filters = call.query().filters(&[
        "until",
        "unused-for",
        "id",
        "parent",
        "type",
        "description",
        "inuse",
        "shared",
        "private",
    ])?;
    let engine = call.grant().await?;
    reply::ok(&engine.build_prune(&filters).await?)
}

pub(crate) async fn buildkit(call: Call) -> Outcome {
    call.grant().await?;
    Err(Failure::unsupported("building images is not supported by this engine yet; there is no BuildKit"))
}

#[cfg(test)]
mod tests {
    use super::reference;

    #[test]
    fn references_from_two_parameters() {
        for (image, tag, wanted) in
            [("a", "", "a"), ("a", "b", "a:b"), ("r:5/a", "1", "r:5/a:1"), ("a", "sha256:00", "a@sha256:00")]
        {
            assert_eq!(reference(image, tag), wanted);
        }
    }
}
