//! Namespace modes: network, ipc, pid, uts, cgroup, user.

use crate::error::{Error, Result};

/// Where a container's network namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// A new one with the loopback only.
    None,
    /// The host's.
    Host,
    /// Another container's, by name or id.
    Container(String),
    /// A new one attached to this network (`bridge` for the default).
    Network(String),
}

/// Where another namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// A new one.
    Private,
    /// The host's.
    Host,
    /// Another container's.
    Container(String),
}

/// Reads `HostConfig.NetworkMode`.
pub fn network(text: &str) -> Result<NetworkMode> {
    Ok(match text {
        "" | "default" | "bridge" => NetworkMode::Network("bridge".into()),
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        other => match other.strip_prefix("container:") {
            Some("") => {
                return Err(Error::invalid(
                    "Invalid network mode: invalid container format container:<name|id>",
                ));
            }
            Some(container) => NetworkMode::Container(container.to_owned()),
            None => NetworkMode::Network(other.to_owned()),
        },
    })
}

/// IPC also says whether others may join, which needs no namespace of another kind here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ipc {
    /// A new one; `shareable` lets others join.
    Private {
        /// Others may join.
        shareable: bool,
    },
    /// As private, but without /dev/shm.
    None,
    /// The host's.
    Host,
    /// Another container's.
    Container(String),
}

/// Reads `HostConfig.IpcMode`.
pub fn ipc(text: &str) -> Result<Ipc> {
    Ok(match text {
        "" | "private" => Ipc::Private { shareable: false },
        "shareable" => Ipc::Private { shareable: true },
        "none" => Ipc::None,
        "host" => Ipc::Host,
        other => match other.strip_prefix("container:") {
            Some(container) if !container.is_empty() => Ipc::Container(container.to_owned()),
            _ => return Err(Error::invalid(format!("invalid IPC mode: {text}"))),
        },
    })
}

/// Reads `HostConfig.PidMode`.
pub fn pid(text: &str) -> Result<Mode> {
    Ok(match text {
        "" => Mode::Private,
        "host" => Mode::Host,
        other => match other.strip_prefix("container:") {
            Some(container) if !container.is_empty() => Mode::Container(container.to_owned()),
            _ => return Err(Error::invalid(format!("invalid PID mode: {text}"))),
        },
    })
}

/// Reads `HostConfig.UTSMode`.
pub fn uts(text: &str) -> Result<Mode> {
    match text {
        "" => Ok(Mode::Private),
        "host" => Ok(Mode::Host),
        _ => Err(Error::invalid(format!("invalid UTS mode: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(network("").unwrap(), NetworkMode::Network("bridge".into()));
        assert_eq!(network("default").unwrap(), NetworkMode::Network("bridge".into()));
        assert_eq!(network("container:a").unwrap(), NetworkMode::Container("a".into()));
        assert_eq!(network("web").unwrap(), NetworkMode::Network("web".into()));
        assert!(network("container:").is_err());
        assert_eq!(ipc("shareable").unwrap(), Ipc::Private { shareable: true });
        assert_eq!(ipc("bogus").unwrap_err().message, "invalid IPC mode: bogus");
        assert_eq!(ipc("container:").unwrap_err().message, "invalid IPC mode: container:");
        assert_eq!(pid("host").unwrap(), Mode::Host);
        assert_eq!(pid("private").unwrap_err().message, "invalid PID mode: private");
        assert_eq!(uts("container:x").unwrap_err().message, "invalid UTS mode: container:x");
    }
}
