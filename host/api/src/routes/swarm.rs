//! Swarm, which this node is not part of.

use hyper::StatusCode;

use crate::error::Failure;
use crate::gate::Call;
use crate::http::reply::Outcome;

const INACTIVE: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect \
                        this node to swarm and try again.";

pub(crate) async fn inactive(call: Call) -> Outcome {
    call.grant().await?;
    Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, INACTIVE))
}

pub(crate) async fn not_built(call: Call) -> Outcome {
    call.grant().await?;
    Err(Failure::unsupported("swarm mode is not supported by this engine yet"))
}
