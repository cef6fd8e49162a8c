//! Containers: all that is no stream.

use hyper::StatusCode;
use serde_json::Value;
use wharf_engine::models::{ContainerCreateBody, ContainerUpdateBody};
use wharf_engine::{CreateOptions, ListOptions, RemoveOptions};

use crate::error::Failure;
use crate::gate::Call;
use crate::http::reply::{self, Outcome};
use crate::version::Version;
use crate::{json, old, shape};

const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

pub(crate) async fn list(call: Call) -> Outcome {
    let query = call.query();
    let limit: Option<i64> = query.number("limit")?;
    let options = ListOptions {
        all: query.flag("all"),
        limit: limit.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0),
        size: query.flag("size"),
        without_health: call.version() < Version(52),
        filters: query.filters(FILTERS)?,
    };
    let engine = call.grant().await?;
    let list = engine.container_list(&options).await?;
    Ok(reply::text(StatusCode::OK, shape::containers(list, call.version())?))
}

pub(crate) async fn create(mut call: Call) -> Outcome {
    if call.content_length() == Some(0) {
        return Err(Failure::invalid("invalid JSON: got EOF while reading request body"));
    }
    let query = call.query();
    let plan = query.flag("plan");
    let mut options = CreateOptions {
        name: query.non_empty("name").map(str::to_owned),
        platform: query.non_empty("platform").map(str::to_owned),
        ..CreateOptions::default()
    };
    let (version, mut warnings) = (call.version(), Vec::new());
    let merge = |body: &mut ContainerCreateBody, fields| {
        warnings = old::create(body, fields, &mut options, version)?;
        Ok(())
    };
    let (body, engine) = call.grant_json_with(merge).await?;
    let nothing = ContainerCreateBody {
        host_config: body.host_config.clone(),
        networking_config: body.networking_config.clone(),
        ..json::read(b"{}")?
    };
    if body == nothing {
        return Err(Failure::invalid("config cannot be empty in order to create a container"));
    }
    if plan {
        return reply::ok(&engine.container_plan(options, body, &engine.caller).await?);
    }
    let mut created = engine.container_create(options, body, &engine.caller).await?;
    created.warnings.append(&mut warnings);
    reply::json(StatusCode::CREATED, &created)
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    let engine = call.grant().await?;
    let mut container = engine.container_inspect(call.name(), call.query().flag("size")).await?;
    shape::container(&mut container, call.version());
    reply::ok(&container)
}

pub(crate) async fn start(call: Call) -> Outcome {
    // The smallest object with a field has seven bytes.
    if call.content_length().is_some_and(|n| n > 7) {
        return Err(Failure::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    let engine = call.grant().await?;
    if let Some(checkpoint) = call.query().non_empty("checkpoint") {
        super::checkpoints::check_experimental(&engine)?;
        let dir = call.query().text("checkpoint-dir");
        engine.container_restore(call.name(), checkpoint, dir, &engine.caller).await?;
        return Ok(reply::done());
    }
    if call.query().flag("plan") {
        return reply::ok(&engine.container_start_plan(call.name()).await?);
    }
    engine.container_start(call.name(), &engine.caller).await?;
    Ok(reply::done())
}

/// Since 1.42.
fn stop_signal(call: &Call) -> Option<&str> {
    call.query().non_empty("signal").filter(|_| call.version() >= Version(42))
}

pub(crate) async fn stop(call: Call) -> Outcome {
    let timeout = call.query().number("t")?;
    let engine = call.grant().await?;
    engine.container_stop(call.name(), timeout, stop_signal(&call)).await?;
    Ok(reply::done())
}

pub(crate) async fn restart(call: Call) -> Outcome {
    let timeout = call.query().number("t")?;
    let engine = call.grant().await?;
    engine.container_restart(call.name(), timeout, stop_signal(&call), &engine.caller).await?;
    Ok(reply::done())
}

pub(crate) async fn kill(call: Call) -> Outcome {
    let engine = call.grant().await?;
    engine.container_kill(call.name(), call.query().non_empty("signal")).await?;
    Ok(reply::done())
}

pub(crate) async fn pause(call: Call) -> Outcome {
    call.grant().await?.container_pause(call.name()).await?;
    Ok(reply::done())
}

pub(crate) async fn unpause(call: Call) -> Outcome {
    call.grant().await?.container_unpause(call.name()).await?;
    Ok(reply::done())
}

/// Rows and columns of a terminal.
pub(crate) fn size(call: &Call) -> Result<(u16, u16), Failure> {
    let rows = call.query().number("h")?;
    let columns = call.query().number("w")?;
    match (rows, columns) {
        (Some(rows), Some(columns)) => Ok((rows, columns)),
        (None, _) => Err(Failure::invalid("invalid resize height \"\": a whole number is needed")),
        (_, None) => Err(Failure::invalid("invalid resize width \"\": a whole number is needed")),
    }
}

pub(crate) async fn resize(call: Call) -> Outcome {
    let (rows, columns) = size(&call)?;
    call.grant().await?.container_resize(call.name(), rows, columns).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn rename(call: Call) -> Outcome {
    let engine = call.grant().await?;
    engine.container_rename(call.name(), call.query().text("name")).await?;
    Ok(reply::done())
}

pub(crate) async fn update(mut call: Call) -> Outcome {
    let version = call.version();
    let merge = |body: &mut ContainerUpdateBody, _: json::Nothing| {
        old::update(body, version);
        Ok(())
    };
    let (body, engine) = call.grant_json_with(merge).await?;
    let updated = engine.container_update(call.name(), body).await?;
    let mut value = serde_json::to_value(&updated)
        .map_err(|e| Failure::internal(format!("the answer cannot be written: {e}")))?;
    if let Some(map) = value.as_object_mut() {
        map.entry("Warnings").or_insert(Value::Null);
    }
    reply::ok(&value)
}

pub(crate) async fn remove(call: Call) -> Outcome {
    let query = call.query();
    let options =
        RemoveOptions { force: query.flag("force"), volumes: query.flag("v"), link: query.flag("link") };
    call.grant().await?.container_remove(call.name(), options).await?;
    Ok(reply::done())
}

pub(crate) async fn top(call: Call) -> Outcome {
    let engine = call.grant().await?;
    reply::ok(&engine.container_top(call.name(), call.query().text("ps_args")).await?)
}

pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = call.query().filters(&["until", "label", "label!"])?;
    let engine = call.grant().await?;
    let pruned = engine.container_prune(&filters).await?;
    reply::ok(&serde_json::json!({
        "ContainersDeleted": pruned.containers_deleted.unwrap_or_default(),
        "SpaceReclaimed": pruned.space_reclaimed.unwrap_or_default(),
    }))
}
