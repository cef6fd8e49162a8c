//! Checkpoints, which Docker too has behind its experimental mode alone.

use hyper::StatusCode;
use wharf_engine::checkpoint::CheckpointCreate;

use crate::error::Failure;
use crate::gate::{Call, Granted};
use crate::http::reply::{self, Outcome};

/// Refuses where the mode is off, in Docker's words.
pub(crate) fn check_experimental(engine: &Granted) -> Result<(), Failure> {
    if engine.experimental() {
        return Ok(());
    }
    Err(Failure::unsupported(
        "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to \
         enable it.",
    ))
}

pub(crate) async fn list(call: Call) -> Outcome {
    let engine = call.grant().await?;
    check_experimental(&engine)?;
    reply::ok(&engine.checkpoint_list(call.name(), call.query().text("dir")).await?)
}

pub(crate) async fn create(mut call: Call) -> Outcome {
    let (body, engine) = call.grant_json::<CheckpointCreate>().await?;
    check_experimental(&engine)?;
    engine.checkpoint_create(call.name(), body).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

pub(crate) async fn remove(call: Call) -> Outcome {
    let engine = call.grant().await?;
    check_experimental(&engine)?;
    let (container, checkpoint) = call.op().names(call.name());
    engine.checkpoint_delete(container, checkpoint, call.query().text("dir")).await?;
    Ok(reply::done())
}
