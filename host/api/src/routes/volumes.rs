//! Volumes.

use hyper::StatusCode;
use serde_json::{Value, json};
use wharf_engine::models::VolumeCreateRequest;

use crate::error::Failure;
use crate::gate::Call;
use crate::http::reply::{self, Outcome};
use crate::version::Version;

pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.query().filters(&["dangling", "driver", "label", "name"])?;
    let engine = call.grant().await?;
    let list = engine.volume_list(&filters).await?;
    let mut value = serde_json::to_value(&list)
        .map_err(|e| Failure::internal(format!("the volumes cannot be written: {e}")))?;
    if let Some(map) = value.as_object_mut() {
        map.entry("Volumes").or_insert_with(|| json!([]));
        map.entry("Warnings").or_insert(Value::Null);
    }
    reply::ok(&value)
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    let engine = call.grant().await?;
    reply::ok(&engine.volume_inspect(call.name()).await?)
}

pub(crate) async fn create(mut call: Call) -> Outcome {
    let (body, engine) = call.grant_json::<VolumeCreateRequest>().await?;
    reply::json(StatusCode::CREATED, &engine.volume_create(body).await?)
}

pub(crate) async fn remove(call: Call) -> Outcome {
    let engine = call.grant().await?;
    engine.volume_remove(call.name(), call.query().flag("force")).await?;
    Ok(reply::done())
}

pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = call.query().filters(&["all", "label", "label!"])?;
    let engine = call.grant().await?;
    // Before 1.42 named volumes were pruned too.
    let pruned = engine.volume_prune(&filters, call.version() < Version(42)).await?;
    let mut value = serde_json::to_value(&pruned)
        .map_err(|e| Failure::internal(format!("the pruned volumes cannot be written: {e}")))?;
    if let Some(map) = value.as_object_mut() {
        map.entry("VolumesDeleted").or_insert_with(|| json!([]));
        map.entry("SpaceReclaimed").or_insert_with(|| json!(0));
    }
    reply::ok(&value)
}
