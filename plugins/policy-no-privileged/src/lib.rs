//! A policy: containers are not privileged.
//!
//! `{"deny-host-namespaces": true}` also refuses the host's pid, ipc, uts, network, user and cgroup namespaces;
//! `{"deny-engine-socket": true}` refuses to hand the engine's own socket into a container, which is as good as root.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

use serde::Deserialize;
use wharf_plugin_sdk::host::config;
use wharf_plugin_sdk::policy::{Authorship, Denial, Policy, Review, Verdict};
use wharf_plugin_sdk::{Document, Host, Result};

/// The policy.
#[derive(Debug, Default)]
pub struct NoPrivileged;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    /// For the host, which asks no policy that is not enabled.
    #[allow(dead_code, reason = "not ours to look at")]
    enabled: Option<bool>,
    deny_host_namespaces: bool,
    deny_engine_socket: bool,
}

/// Where engines listen.
const SOCKETS: [&str; 6] =
    ["docker.sock", "wharf.sock", "containerd.sock", "podman.sock", "crio.sock", "keeper.sock"];

impl Policy for NoPrivileged {
    fn validate(
        &self,
        host: &dyn Host,
        review: &Review,
        object: &dyn Document,
        _authors: &[Authorship],
    ) -> Result<Verdict> {
        let config: Config = config(host)?;
        let mut verdict = Verdict::pass();
        let mut deny = |rule: &str, pointer: String, message: String, remedy: &str| {
            verdict.denials.push(Denial {
                message,
                rule: rule.to_owned(),
                pointer: Some(pointer),
                remedy: Some(remedy.to_owned()),
            });
        };
        match review.point.as_str() {
            "container-exec" if object.flag("/Privileged") == Some(true) => deny(
                "no-privileged",
                "/Privileged".to_owned(),
                "privileged processes are not allowed on this host".to_owned(),
                "leave out --privileged",
            ),
            "container-create" => {
                if object.flag("/HostConfig/Privileged") == Some(true) {
                    deny(
                        "no-privileged",
                        "/HostConfig/Privileged".to_owned(),
                        "privileged containers are not allowed on this host".to_owned(),
                        "leave out --privileged and add what is needed with --cap-add or --device",
                    );
                }
                if config.deny_host_namespaces {
                    for (field, flag) in NAMESPACES {
                        let pointer = format!("/HostConfig/{field}");
                        if object.text(&pointer).as_deref() == Some("host") {
                            deny(
                                "no-host-namespaces",
                                pointer,
                                format!("the host's namespace ({flag}=host) is not allowed on this host"),
                                &format!("leave out {flag}=host"),
                            );
                        }
                    }
                }
                if config.deny_engine_socket {
                    for (pointer, source) in bind_sources(object) {
                        if is_engine_socket(&source) {
                            deny(
                                "no-engine-socket",
                                pointer,
                                format!("{source} would give the container control over this host"),
                                "leave out this mount, or give the container a proxy that allows less",
                            );
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(verdict)
    }
}

const NAMESPACES: [(&str, &str); 6] = [
    ("PidMode", "--pid"),
    ("IpcMode", "--ipc"),
    ("UTSMode", "--uts"),
    ("NetworkMode", "--network"),
    ("UsernsMode", "--userns"),
    ("CgroupnsMode", "--cgroupns"),
];

/// Every source of a bind mount, with where it stands.
fn bind_sources(object: &dyn Document) -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for index in object.keys("/HostConfig/Binds") {
        let pointer = format!("/HostConfig/Binds/{index}");
        if let Some(bind) = object.text(&pointer) {
            let source = bind.split(':').next().unwrap_or_default().to_owned();
            sources.push((pointer, source));
        }
    }
    for index in object.keys("/HostConfig/Mounts") {
        let mount = format!("/HostConfig/Mounts/{index}");
        if object.text(&format!("{mount}/Type")).as_deref() == Some("bind") {
            let pointer = format!("{mount}/Source");
            if let Some(source) = object.text(&pointer) {
                sources.push((pointer, source));
            }
        }
        let device = format!("{mount}/VolumeOptions/DriverConfig/Options/device");
        if let Some(source) = object.text(&device) {
            sources.push((device, source));
        }
    }
    sources
}

/// A socket of an engine, or a directory that holds one.
fn is_engine_socket(source: &str) -> bool {
    let parts: Vec<&str> = source.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !source.starts_with('/') {
        return false;
    }
    match parts.as_slice() {
        [] | ["run" | "var"] | ["var", "run"] => true,
        // What `..` leads to cannot be said without looking, and nobody needs it.
        parts if parts.contains(&"..") => true,
        parts => parts.last().is_some_and(|last| SOCKETS.contains(last)),
    }
}

#[cfg(test)]
mod tests;

wharf_plugin_sdk::export!(policy: NoPrivileged);
