//! Roles: whose they are, and what they forbid.

use std::fmt;

use serde::Deserialize;
use wharf_plugin_sdk::Document;
use wharf_plugin_sdk::authz::Operation;
use wharf_plugin_sdk::types::{Identity, label};

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Admin,
    Operator,
    Viewer,
    None,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Admin => "admin",
            Role::Operator => "operator",
            Role::Viewer => "viewer",
            Role::None => "without a role",
        })
    }
}

/// The plugin's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// For the host.
    #[allow(dead_code, reason = "not ours to look at")]
    enabled: Option<bool>,
    roles: Vec<Grant>,
    /// Of those whom no entry names. Absent: `admin` as long as there are no entries, `none` once there are.
    default: Option<Role>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    role: Role,
    #[serde(default)]
    uids: Vec<u32>,
    #[serde(default)]
    gids: Vec<u32>,
    /// Subjects as any authenticator names them.
    #[serde(default)]
    users: Vec<String>,
    /// Groups as any authenticator names them.
    #[serde(default)]
    groups: Vec<String>,
}

impl Config {
    pub(crate) fn role(&self, identity: Option<&Identity>) -> Role {
        let default = self.default.unwrap_or(if self.roles.is_empty() { Role::Admin } else { Role::None });
        let Some(identity) = identity else { return default };
        // The numbers are believed only from the kernel.
        let unix = identity.method == "unix";
        let uid = label(&identity.claims, "uid").filter(|_| unix).and_then(|uid| uid.parse::<u32>().ok());
        if uid == Some(0) {
            return Role::Admin;
        }
        let gids: Vec<u32> = if unix {
            identity.groups.iter().filter_map(|gid| gid.parse().ok()).collect()
        } else {
            Vec::new()
        };
        let named = self.roles.iter().find(|grant| {
            uid.is_some_and(|uid| grant.uids.contains(&uid))
                || gids.iter().any(|gid| grant.gids.contains(gid))
                || grant.users.contains(&identity.subject)
                || identity.groups.iter().any(|group| grant.groups.contains(group))
        });
        named.map_or(default, |grant| grant.role)
    }
}

/// Nouns that an operator works with.
const WORK: [&str; 7] = ["container", "exec", "image", "network", "volume", "build", "distribution"];

/// Verbs that write, whatever `mutates` says, and streams into a container.
const TOUCHING: [&str; 4] = ["attach", "exec", "archive", "session"];

impl Role {
    /// What of the operation is not allowed, as words after "may not"; nothing if all is.
    pub(crate) fn refusal(
        self,
        operation: &Operation,
        streaming: bool,
        body: &dyn Document,
    ) -> Option<String> {
        let plain = format!("{} {}", operation.verb, operation.noun);
        let writes = operation.mutates
            || operation.upgrades
            || streaming
            || operation.noun == "exec" && operation.verb != "inspect"
            || TOUCHING.contains(&operation.verb.as_str());
        match self {
            Role::Admin => None,
            Role::None => Some(plain),
            Role::Viewer => writes.then_some(plain),
            Role::Operator if !writes => None,
            Role::Operator if !WORK.contains(&operation.noun.as_str()) => Some(plain),
            Role::Operator => ways_out(operation, body).map(|what| format!("{plain} {what}")),
        }
    }
}

/// Settings through which a container is not contained.
fn ways_out(operation: &Operation, body: &dyn Document) -> Option<&'static str> {
    let some = |pointer: &str| !body.keys(pointer).is_empty();
    let text = |pointer: &str| body.text(pointer).unwrap_or_default();
    match (operation.noun.as_str(), operation.verb.as_str()) {
        ("exec", _) | ("container", "exec") if body.flag("/Privileged") == Some(true) => {
            Some("with privileges")
        }
        ("volume", "create") if text("/DriverOpts/device").starts_with('/') => {
            Some("over a directory of the host")
        }
        ("network", "create") if matches!(text("/Driver").as_str(), "macvlan" | "ipvlan" | "host") => {
            Some("on a link of the host")
        }
        ("container", "create" | "update") => {
            let host = |name: &str| text(&format!("/HostConfig/{name}")) == "host";
            let bind = |entry: &String| entry.starts_with(['/', '.', '~']);
            let binds = body.keys("/HostConfig/Binds").iter().any(|index| {
                body.text(&format!("/HostConfig/Binds/{index}")).is_some_and(|entry| bind(&entry))
            });
            let mounts = body.keys("/HostConfig/Mounts").iter().any(|index| {
                let mount = |field: &str| text(&format!("/HostConfig/Mounts/{index}/{field}"));
                mount("Type") == "bind"
                    || text(&format!("/HostConfig/Mounts/{index}/VolumeOptions/DriverConfig/Options/device"))
                        .starts_with('/')
            });
            let ways = [
                (body.flag("/HostConfig/Privileged") == Some(true), "with privileges"),
                (some("/HostConfig/CapAdd"), "with added capabilities"),
                (some("/HostConfig/Devices") || some("/HostConfig/DeviceRequests"), "with devices"),
                (some("/HostConfig/DeviceCgroupRules"), "with devices"),
                (some("/HostConfig/SecurityOpt"), "with security options"),
                (some("/HostConfig/Sysctls"), "with sysctls"),
                (host("PidMode") || host("IpcMode") || host("UTSMode"), "in a namespace of the host"),
                (
                    host("UsernsMode") || host("CgroupnsMode") || host("NetworkMode"),
                    "in a namespace of the host",
                ),
                (!text("/HostConfig/CgroupParent").is_empty(), "in a cgroup of its choice"),
                (!text("/HostConfig/Runtime").is_empty(), "with a runtime of its choice"),
                (
                    body.get("/HostConfig/MaskedPaths").is_some_and(|paths| paths.trim() == "[]"),
                    "with unmasked paths",
                ),
                (binds || mounts, "with a directory of the host"),
            ];
            ways.into_iter().find(|(found, _)| *found).map(|(_, what)| what)
        }
        _ => None,
    }
}
