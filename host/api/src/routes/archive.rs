//! Files in and out of containers, and containers as images.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::{Value, json};
use wharf_engine::commit::CommitOptions;
use wharf_engine::copy::{ArchiveStream, ExtractOptions, PathStat};
use wharf_engine::models::ContainerConfig;

use crate::error::Failure;
use crate::gate::Call;
use crate::http::reply::{self, Outcome, Reply};

/// Docker's header with a file's facts.
const STAT: &str = "x-docker-container-path-stat";

fn with_stat(mut reply: Reply, stat: &PathStat) -> Outcome {
    let json = serde_json::to_vec(stat)
        .map_err(|e| Failure::internal(format!("the file's facts cannot be written: {e}")))?;
    let value = HeaderValue::try_from(STANDARD.encode(json))
        .map_err(|e| Failure::internal(format!("the file's facts cannot be sent: {e}")))?;
    reply.headers_mut().insert(STAT, value);
    Ok(reply)
}

fn body(content_type: &'static str, mut archive: ArchiveStream) -> Reply {
    reply::stream(content_type, stream::poll_fn(move |cx| archive.poll_recv(cx)))
}

pub(crate) async fn stat(call: Call) -> Outcome {
    let engine = call.grant().await?;
    let stat = engine.archive_stat(call.name(), call.query().text("path")).await?;
    with_stat(reply::empty(StatusCode::OK), &stat)
}

pub(crate) async fn get(call: Call) -> Outcome {
    let engine = call.grant().await?;
    let (stat, archive) = engine.archive_get(call.name(), call.query().text("path")).await?;
    with_stat(body("application/x-tar", archive), &stat)
}

pub(crate) async fn put(mut call: Call) -> Outcome {
    let query = call.query();
    let options = ExtractOptions {
        path: query.text("path").to_owned(),
        keep_kinds: query.flag("noOverwriteDirNonDir"),
        own: query.flag("copyUIDGID"),
    };
    let (input, engine) = call.grant_stream().await?;
    engine.archive_put(call.name(), options, input).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn export(call: Call) -> Outcome {
    let engine = call.grant().await?;
    Ok(body("application/octet-stream", engine.container_export(call.name()).await?))
}

pub(crate) async fn changes(call: Call) -> Outcome {
    let engine = call.grant().await?;
    let changes = engine.container_changes(call.name()).await?;
    // Docker has null for none.
    let none = changes.as_array().is_some_and(Vec::is_empty);
    reply::ok(if none { &Value::Null } else { &changes })
}

pub(crate) async fn commit(mut call: Call) -> Outcome {
    let query = call.query();
    let text = |key: &str| query.text(key).to_owned();
    let options = CommitOptions {
        container: text("container"),
        repo: text("repo"),
        tag: text("tag"),
        author: text("author"),
        comment: text("comment"),
        pause: query.flag_or("pause", true),
        changes: query.all("changes").filter(|c| !c.is_empty()).map(str::to_owned).collect(),
    };
    let (config, engine) = call.grant_json::<ContainerConfig>().await?;
    let id = engine.container_commit(options, config).await?;
    reply::json(StatusCode::CREATED, &json!({"Id": id}))
}
