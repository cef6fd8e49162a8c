//! Networks.

use hyper::StatusCode;
use serde_json::json;
use wharf_engine::models::{NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest};

use crate::error::Failure;
use crate::gate::Call;
use crate::http::reply::{self, Outcome};
use crate::version::Version;

pub(crate) async fn list(call: Call) -> Outcome {
    let filters = call.query().filters(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let engine = call.grant().await?;
    reply::ok(&engine.network_list(&filters).await?)
}

pub(crate) async fn inspect(call: Call) -> Outcome {
    let engine = call.grant().await?;
    let mut network = engine.network_inspect(call.name()).await?;
    if call.version() < Version(52)
        && let Some(map) = network.as_object_mut()
    {
        map.remove("Status");
    }
    reply::ok(&network)
}

pub(crate) async fn create(mut call: Call) -> Outcome {
    let plan = call.query().flag("plan");
    let (body, engine) = call.grant_json::<NetworkCreateRequest>().await?;
    if plan {
        return reply::ok(&engine.network_plan(body).await?);
    }
    let created = engine.network_create(body).await?;
    let mut value = serde_json::to_value(&created)
        .map_err(|e| Failure::internal(format!("the network cannot be written: {e}")))?;
    if let Some(map) = value.as_object_mut() {
        map.entry("Warning").or_insert_with(|| json!(""));
    }
    reply::json(StatusCode::CREATED, &value)
}

pub(crate) async fn remove(call: Call) -> Outcome {
    let engine = call.grant().await?;
    engine.network_remove(call.name()).await?;
    Ok(reply::done())
}

pub(crate) async fn connect(mut call: Call) -> Outcome {
    let (body, engine) = call.grant_json::<NetworkConnectRequest>().await?;
    engine.network_connect(call.name(), body).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn disconnect(mut call: Call) -> Outcome {
    let (body, engine) = call.grant_json::<NetworkDisconnectRequest>().await?;
    engine.network_disconnect(call.name(), body).await?;
    Ok(reply::empty(StatusCode::OK))
}

pub(crate) async fn prune(call: Call) -> Outcome {
    let filters = call.query().filters(&["until", "label", "label!"])?;
    let engine = call.grant().await?;
    let pruned = engine.network_prune(&filters).await?;
    reply::ok(&json!({"NetworksDeleted": pruned.networks_deleted.unwrap_or_default()}))
}
