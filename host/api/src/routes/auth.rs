//! Registry credentials.

use bollard_stubs::models::AuthConfig;

use crate::error::Failure;
use crate::gate::Call;
use crate::http::reply::Outcome;

pub(crate) async fn login(mut call: Call) -> Outcome {
    let (config, _) = call.grant_json::<AuthConfig>().await?;
    let server = config.serveraddress.filter(|s| !s.is_empty());
    Err(Failure::unsupported(format!(
        "cannot log in to {}: this engine has no registry client yet",
        server.as_deref().unwrap_or("https://index.docker.io/v1/")
    )))
}
