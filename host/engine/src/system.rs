//! Operations on the engine as a whole.

use serde_json::Value;

use crate::models::{SystemInfo, SystemVersion};
use crate::{Engine, Error, Result};

impl Engine {
    /// `GET /info`.
    pub async fn info(&self) -> Result<SystemInfo> {
        Err(Error::unsupported("info"))
    }

    /// `GET /version`; the caller fills in which API versions it speaks.
    pub fn version(&self) -> SystemVersion {
        SystemVersion { version: Some(crate::VERSION.into()), ..SystemVersion::default() }
    }

    /// `GET /system/df`: the older flat shape together with the newer usage objects.
    pub async fn system_df(&self, kinds: &[String], verbose: bool) -> Result<Value> {
        let _ = (kinds, verbose);
        Err(Error::unsupported("system df"))
    }

    /// `GET /plugins` of the engine itself: name, version, kinds, state, counters.
    pub async fn plugin_list(&self) -> Result<Value> {
        Err(Error::unsupported("plugin list"))
    }
}
