//! Registry credentials.

use wharf_engine::remote::Login;

use crate::gate::Call;
use crate::http::reply::{self, Outcome};

pub(crate) async fn login(mut call: Call) -> Outcome {
    let (config, engine) = call.grant_json::<Login>().await?;
    reply::ok(&engine.registry_login(config).await?)
}
