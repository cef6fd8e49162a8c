//! What is written down about containers, networks and volumes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wharf_plan::ipam::{Lease, Pool};
use wharf_plan::net::{Cidr, Desired, Ip, Publish};
use wharf_plan::types::{Cookie, IdMap};
use wharf_store::Transaction;

use crate::error::Result;
use crate::models::{ContainerConfig, EndpointSettings, HostConfig};
use crate::planner::mounts::MountSpec;

/// Table of [`Definition`]s by container id.
pub(crate) const CONTAINERS: &str = "containers";
/// Table of [`State`]s by container id.
pub(crate) const STATES: &str = "states";
/// Table of container ids by name, so that a name is given once.
pub(crate) const NAMES: &str = "names";
/// Table of [`Network`]s by id.
pub(crate) const NETWORKS: &str = "networks";
/// Table of [`Volume`]s by name.
pub(crate) const VOLUMES: &str = "volumes";
/// Table of the engine's own facts.
pub(crate) const ENGINE: &str = "engine";

/// What a container is; changes only by rename and update.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Definition {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
    /// `sha256:…`.
    pub(crate) image: String,
    /// As the request named it.
    pub(crate) image_name: String,
    pub(crate) config: ContainerConfig,
    pub(crate) host: HostConfig,
    pub(crate) mounts: Vec<MountSpec>,
    /// Networks asked for, by the name used.
    pub(crate) networks: BTreeMap<String, EndpointSettings>,
    /// Storage driver.
    pub(crate) driver: String,
    /// Ranges of its user namespace; none is the host's.
    #[serde(default)]
    pub(crate) id_maps: Vec<IdMap>,
    /// Old links.
    #[serde(default)]
    pub(crate) links: Vec<crate::links::Link>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Never started.
    #[default]
    Created,
    /// A start is written down; the keeper knows whether it came to pass.
    Starting,
    Running,
    Paused,
    /// Ended, and to be started again.
    Restarting,
    /// Being removed.
    Removing,
    Exited,
    /// Removal failed half way.
    Dead,
}

impl Status {
    /// Docker's word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            // Between its record and its process a start looks as before.
            Self::Created | Self::Starting => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// There is a process.
    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// One container's place in one network, as applied.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) network: String,
    pub(crate) plugin: String,
    pub(crate) addresses: Vec<Cidr>,
    pub(crate) mac: Option<String>,
    pub(crate) gateway_v4: Option<Ip>,
    pub(crate) gateway_v6: Option<Ip>,
    pub(crate) desired: Desired,
    pub(crate) publishes: Vec<Publish>,
    /// With the pool that each is from.
    pub(crate) leases: Vec<(Pool, Lease)>,
    pub(crate) cookie: Cookie,
    pub(crate) interfaces: Vec<String>,
}

/// How a container fares.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) status: Status,
    pub(crate) pid: i32,
    /// Nanoseconds since 1970; 0 is never.
    pub(crate) started_at: u64,
    pub(crate) finished_at: u64,
    pub(crate) exit_code: i32,
    pub(crate) oom_killed: bool,
    pub(crate) error: String,
    /// Starts by the restart policy since the last one by a user.
    pub(crate) restarts: u32,
    /// A user stopped it: `unless-stopped` keeps it so.
    pub(crate) stopped_by_user: bool,
    /// Counts starts.
    pub(crate) run: u64,
    /// By network name.
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    /// Cgroup of this run.
    pub(crate) cgroup: String,
    /// Boot during which it was started.
    pub(crate) boot: String,
    /// The runtime of this run, where it is another one: it outlives its configuration.
    pub(crate) runtime: Option<wharf_plan::run::Runtime>,
    /// Checkpoint that this run was restored from.
    #[serde(skip)]
    pub(crate) restore: Option<String>,
    /// `AppArmor` profile of this run; empty where there is no `AppArmor`.
    pub(crate) apparmor: String,
    /// Of this run, if it is checked.
    pub(crate) health: Option<crate::planner::health::Health>,
}

impl State {
    /// The runtime, if it is a shim.
    pub(crate) fn shim(&self) -> Option<&wharf_plan::run::Runtime> {
        self.runtime.as_ref().filter(|runtime| runtime.shim.is_some())
    }
}

/// A network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) id: String,
    pub(crate) name: String,
    /// Docker's word for the driver: `bridge`, `host`, `null`.
    pub(crate) driver: String,
    pub(crate) created: u64,
    pub(crate) internal: bool,
    pub(crate) attachable: bool,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    pub(crate) ipam_driver: String,
    pub(crate) ipam_options: BTreeMap<String, String>,
    pub(crate) pools: Vec<NetworkPool>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) predefined: bool,
    /// What the driver can do.
    #[serde(default)]
    pub(crate) features: Vec<String>,
    /// As applied last; None before.
    pub(crate) desired: Option<Desired>,
    pub(crate) cookie: Cookie,
}

/// One address pool of a network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkPool {
    pub(crate) pool: Pool,
    pub(crate) gateway: Option<Lease>,
    pub(crate) reserved: Vec<(String, Lease)>,
    /// `IPRange` as asked for.
    pub(crate) range: Option<String>,
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) driver: String,
    pub(crate) plugin: String,
    pub(crate) created: u64,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) cookie: Cookie,
    /// No container has used it yet: it is to be filled with the image's content.
    pub(crate) fresh: bool,
}

/// Puts a record into a transaction.
pub(crate) fn put<T: Serialize>(tx: &mut Transaction, table: &str, key: &str, value: &T) -> Result<()> {
    tx.put(table, key, serde_json::to_vec(value)?);
    Ok(())
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|d| u64::try_from(d.as_nanos()).ok())
        .unwrap_or(0)
}

/// RFC 3339 with nanoseconds, as Go writes it (no trailing zeros); 0 is Docker's "never".
pub(crate) fn rfc3339(nanoseconds: u64) -> String {
    if nanoseconds == 0 {
        return "0001-01-01T00:00:00Z".into();
    }
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map_or_else(|_| String::new(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(rfc3339(0), "0001-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_700_000_000_120_000_000), "2023-11-14T22:13:20.12Z");
    }
}
