//! What `?plan=1` answers: what would be done, and which plugin said so.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wharf_images::snapshots::SnapshotPlan;
use wharf_plan::run::{MountSource, Namespace, RunPlan};

use crate::planner::caps;
use crate::record::{Definition, Endpoint};

fn namespace(n: Namespace) -> &'static str {
    match n {
        Namespace::New => "new",
        Namespace::Host => "host",
        Namespace::Join(_) => "joined",
    }
}

/// The report as JSON.
pub(crate) fn report(
    def: &Definition,
    plan: &RunPlan,
    endpoints: &BTreeMap<String, Endpoint>,
    snapshot: Option<&SnapshotPlan>,
    said: &[(String, String)],
    warnings: &[String],
) -> Value {
    let sources: BTreeMap<&str, &str> = def
        .mounts
        .iter()
        .map(|m| (m.destination.as_str(), m.source.as_str()))
        .chain([("/etc/hosts", "hosts"), ("/etc/hostname", "hostname"), ("/etc/resolv.conf", "resolv.conf")])
        .collect();
    let mounts: Vec<Value> = plan
        .mounts
        .iter()
        .map(|m| {
            let (kind, options, source) = match &m.source {
                MountSource::New { fstype, options } => (fstype.clone(), options.clone(), String::new()),
                MountSource::Tree(_) | MountSource::Inside { .. } => {
                    let source = sources.get(m.target.as_str()).copied().unwrap_or("");
                    ("bind".to_owned(), Vec::new(), source.to_owned())
                }
            };
            let mut flags: Vec<&str> = Vec::new();
            for (on, name) in
                [(m.read_only, "ro"), (m.no_suid, "nosuid"), (m.no_dev, "nodev"), (m.no_exec, "noexec")]
            {
                if on {
                    flags.push(name);
                }
            }
            json!({"Target": m.target, "Type": kind, "Source": source, "Options": options, "Flags": flags})
        })
        .collect();
    let networks: BTreeMap<&String, Value> = endpoints
        .iter()
        .map(|(name, e)| {
            let value = json!({
                "Plugin": e.plugin, "Addresses": e.addresses, "MacAddress": e.mac,
                "Gateway": e.gateway_v4, "IPv6Gateway": e.gateway_v6,
                "Links": e.desired.links, "Routes": e.desired.routes, "Rules": e.desired.rules,
                "Publishes": e.desired.publishes, "Masquerades": e.desired.masquerades,
            });
            (name, value)
        })
        .collect();
    let decisions: Vec<Value> =
        said.iter().map(|(what, plugin)| json!({"What": what, "Plugin": plugin})).collect();
    let n = &plan.namespaces;
    json!({
        "Id": def.id,
        "Name": def.name,
        "Image": def.image,
        "RootFilesystem": snapshot.map(|s| json!({"Plugin": s.plugin, "Operations": s.ops, "Mounts": s.mounts})),
        "ReadonlyRootfs": plan.rootfs_read_only,
        "Mounts": mounts,
        "Networks": networks,
        "NetworkMode": def.host.network_mode,
        "Cgroup": plan.cgroup.as_ref().map(|c| json!({"Path": c.path, "Resources": c.resources})),
        "Process": {
            "Args": plan.process.args, "Env": plan.process.env, "Cwd": plan.process.cwd,
            "User": def.config.user, "Capabilities": caps::names(plan.process.capabilities.bounding),
            "NoNewPrivileges": plan.process.no_new_privs, "Terminal": plan.process.tty,
        },
        "Namespaces": {
            "pid": namespace(n.pid), "ipc": namespace(n.ipc), "uts": namespace(n.uts), "net": namespace(n.net),
            "cgroup": namespace(n.cgroup), "mnt": "new",
        },
        "Devices": plan.devices.iter().map(|d| &d.path).collect::<Vec<_>>(),
        "MaskedPaths": plan.masked_paths,
        "ReadonlyPaths": plan.readonly_paths,
        "Sysctls": plan.sysctls.iter().cloned().collect::<BTreeMap<_, _>>(),
        "Decisions": decisions,
        "Warnings": warnings,
    })
}
