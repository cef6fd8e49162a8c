//! From a plan back to the documents of the runtime specification, for other runtimes to read. No input or output: paths are
//! those of a bundle, in the places that `wharf_plan::run` names.

use serde_json::{Map, Value, json};
use wharf_kernel::caps;
use wharf_plan::run::{
    BlockKind, INIT_PLACE, MountSource, Namespace, Process, ROOTFS_PLACE, Resources, RunPlan, TimeNamespace,
    base_devices, namespace_place, tree_place,
};
use wharf_plan::types::IdMap;

/// What a plan does not say.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Absolute path of the bundle.
    pub bundle: String,
    /// `linux.seccomp`; None is no filter. A plan has compiled programs only, which no document can carry.
    pub seccomp: Option<Value>,
    /// Capabilities that this machine lets anybody have; runtimes fail where they are told of more.
    pub available: u64,
}

/// `config.json` of a container.
pub fn container(plan: &RunPlan, given: &Given) -> Value {
    let place = |name: &str| format!("{}/{name}", given.bundle);
    let mut process = process(&plan.process, given.available);
    let mut mounts: Vec<Value> = plan.mounts.iter().map(|mount| self::mount(mount, &place)).collect();
    if plan.init {
        let (file, target) = INIT_PLACE;
        // Its first argument is the program's path, and those behind it are the program's.
        let mut args = vec![target.to_owned()];
        args.extend(plan.process.args.first().cloned());
        args.extend(plan.process.args.iter().cloned());
        set(&mut process, "args", json!(args));
        mounts.push(
            json!({"destination": target, "type": "bind", "source": place(file), "options": ["bind", "ro"]}),
        );
    }
    let mut linux = json!({
        "namespaces": namespaces(plan, &place),
        "maskedPaths": plan.masked_paths,
        "readonlyPaths": plan.readonly_paths,
        "rootfsPropagation": root_propagation(plan),
    });
    if let Some(user) = &plan.user {
        set(&mut linux, "uidMappings", ranges(&user.ids.uids));
        set(&mut linux, "gidMappings", ranges(&user.ids.gids));
    }
    if !plan.sysctls.is_empty() {
        let all: Map<String, Value> =
            plan.sysctls.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect();
        set(&mut linux, "sysctl", Value::Object(all));
    }
    let usual = base_devices();
    let devices: Vec<Value> = plan
        .devices
        .iter()
        .filter(|device| !usual.contains(device))
        .map(|d| {
            json!({
                "path": d.path, "type": d.kind.to_string(), "major": d.major, "minor": d.minor,
                "fileMode": d.mode, "uid": d.uid, "gid": d.gid,
            })
        })
        .collect();
    if !devices.is_empty() {
        set(&mut linux, "devices", Value::Array(devices));
    }
    if let Some(cgroup) = &plan.cgroup {
        set(&mut linux, "cgroupsPath", json!(cgroup.path));
        set(&mut linux, "resources", with_devices(&cgroup.resources));
    }
    if let Some(seccomp) = &given.seccomp {
        set(&mut linux, "seccomp", seccomp.clone());
    }
    if let TimeNamespace::New(offsets) = &plan.time {
        let all: Map<String, Value> = offsets
            .iter()
            .map(|(clock, secs, nanosecs)| (clock.clone(), json!({"secs": secs, "nanosecs": nanosecs})))
            .collect();
        set(&mut linux, "timeOffsets", Value::Object(all));
    }
    let mut config = json!({
        // What all of them know; nothing newer is said.
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": ROOTFS_PLACE, "readonly": plan.rootfs_read_only},
        "mounts": mounts,
        "linux": linux,
    });
    for (key, name) in [("hostname", &plan.hostname), ("domainname", &plan.domainname)] {
        if let Some(name) = name {
            set(&mut config, key, json!(name));
        }
    }
    config
}

/// Ranges of a user namespace. Mounts are told of none: the trees of a plan are translated already.
fn ranges(maps: &[IdMap]) -> Value {
    let one = |m: &IdMap| json!({"containerID": m.inside, "hostID": m.outside, "size": m.size});
    maps.iter().map(one).collect()
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(map) = object {
        map.insert(key.to_owned(), value);
    }
}

/// The process of a container or an exec.
pub fn process(process: &Process, available: u64) -> Value {
    let sets = process.capabilities;
    let names = |set: u64| caps::names(set & available);
    let limits: Vec<Value> = process
        .rlimits
        .iter()
        .map(|limit| {
            let bare = limit.kind.strip_prefix("RLIMIT_").unwrap_or(&limit.kind).to_ascii_uppercase();
            json!({"type": format!("RLIMIT_{bare}"), "soft": limit.soft, "hard": limit.hard})
        })
        .collect();
    let mut user = json!({
        "uid": process.user.uid, "gid": process.user.gid, "additionalGids": process.user.groups,
    });
    if let Some(umask) = process.umask {
        set(&mut user, "umask", json!(umask));
    }
    let mut all = json!({
        "terminal": process.tty,
        "user": user,
        "args": process.args,
        "env": process.env,
        "cwd": if process.cwd.is_empty() { "/" } else { process.cwd.as_str() },
        "capabilities": {
            "bounding": names(sets.bounding), "effective": names(sets.effective),
            "permitted": names(sets.permitted), "inheritable": names(sets.inheritable),
            "ambient": names(sets.ambient),
        },
        "rlimits": limits,
        "noNewPrivileges": process.no_new_privs,
    });
    if let Some((rows, columns)) = process.console_size.filter(|_| process.tty) {
        set(&mut all, "consoleSize", json!({"height": rows, "width": columns}));
    }
    if let Some(profile) = &process.apparmor {
        set(&mut all, "apparmorProfile", json!(profile));
    }
    if let Some(score) = process.oom_score_adj {
        set(&mut all, "oomScoreAdj", json!(score));
    }
    all
}

fn mount(mount: &wharf_plan::run::Mount, place: &impl Fn(&str) -> String) -> Value {
    let (kind, source, mut options) = match &mount.source {
        MountSource::Tree(number) => ("bind", place(&tree_place(*number)), vec!["rbind".to_owned()]),
        MountSource::New { fstype, options } => (fstype.as_str(), fstype.clone(), options.clone()),
        // Only bundles have these; no plan of the engine's, which documents are made of.
        MountSource::Inside { path, recursive, .. } => {
            let word = if *recursive { "rbind" } else { "bind" };
            ("bind", place(&format!("{ROOTFS_PLACE}{path}")), vec![word.to_owned()])
        }
    };
    for (on, word) in [
        (mount.read_only, "ro"),
        (mount.no_suid, "nosuid"),
        (mount.no_dev, "nodev"),
        (mount.no_exec, "noexec"),
    ] {
        if on {
            options.push(word.to_owned());
        }
    }
    if !mount.propagation.is_empty() {
        options.push(mount.propagation.clone());
    }
    json!({"destination": mount.target, "type": kind, "source": source, "options": options})
}

/// A mount that is tied to the host's tree is so only if the root is, too.
fn root_propagation(plan: &RunPlan) -> &str {
    let any = |words: [&str; 2]| plan.mounts.iter().any(|m| words.contains(&m.propagation.as_str()));
    if any(["shared", "rshared"]) {
        "shared"
    } else if any(["slave", "rslave"]) {
        "rslave"
    } else {
        &plan.rootfs_propagation
    }
}

fn namespaces(plan: &RunPlan, place: &impl Fn(&str) -> String) -> Vec<Value> {
    let spaces = plan.namespaces;
    let time = match plan.time {
        TimeNamespace::Host => Namespace::Host,
        TimeNamespace::New(_) => Namespace::New,
        TimeNamespace::Join(fd) => Namespace::Join(fd),
    };
    let user = plan.user.as_ref().map_or(Namespace::Host, |user| Namespace::Join(user.namespace));
    let mut all = vec![json!({"type": "mount"})];
    for (namespace, word, kind) in [
        (user, "user", "user"),
        (spaces.pid, "pid", "pid"),
        (spaces.ipc, "ipc", "ipc"),
        (spaces.uts, "uts", "uts"),
        (spaces.net, "network", "net"),
        (spaces.cgroup, "cgroup", "cgroup"),
        (time, "time", "time"),
    ] {
        match namespace {
            Namespace::Host => {}
            Namespace::New => all.push(json!({"type": word})),
            Namespace::Join(_) => all.push(json!({"type": word, "path": place(&namespace_place(kind))})),
        }
    }
    all
}

fn with_devices(given: &Resources) -> Value {
    // A new cgroup has no limit of processes, and older runtimes cannot write down that it shall have none.
    let pids = given.pids.filter(|limit| *limit > 0);
    let mut all = resources(&Resources { pids, ..given.clone() });
    let rules: Vec<Value> = if given.devices.is_empty() {
        vec![json!({"allow": true, "type": "a", "access": "rwm"})]
    } else {
        given
            .devices
            .iter()
            .map(|rule| {
                let mut one =
                    json!({"allow": rule.allow, "type": rule.kind.to_string(), "access": rule.access});
                for (key, number) in [("major", rule.major), ("minor", rule.minor)] {
                    if let Some(number) = number {
                        set(&mut one, key, json!(number));
                    }
                }
                one
            })
            .collect()
    };
    set(&mut all, "devices", Value::Array(rules));
    all
}

/// Limits without device rules, as `update --resources` takes them too. What is not set is left out.
pub fn resources(given: &Resources) -> Value {
    let mut all = Map::new();
    let mut part = |name: &str, fields: Vec<(&str, Option<Value>)>| {
        let fields: Map<String, Value> =
            fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        if !fields.is_empty() {
            all.insert(name.to_owned(), Value::Object(fields));
        }
    };
    part(
        "memory",
        vec![
            ("limit", given.memory.map(Value::from)),
            ("swap", given.memory_swap.map(Value::from)),
            ("reservation", given.memory_reservation.map(Value::from)),
            ("swappiness", given.swappiness.map(Value::from)),
            ("disableOOMKiller", given.oom_kill_disable.then_some(Value::Bool(true))),
        ],
    );
    part(
        "cpu",
        vec![
            ("shares", given.cpu_shares.map(Value::from)),
            ("quota", given.cpu_quota.map(Value::from)),
            ("period", given.cpu_period.map(Value::from)),
            ("realtimePeriod", given.cpu_rt_period.map(Value::from)),
            ("realtimeRuntime", given.cpu_rt_runtime.map(Value::from)),
            ("burst", given.cpu_burst.map(Value::from)),
            ("idle", given.cpu_idle.map(Value::from)),
            ("cpus", given.cpuset_cpus.clone().map(Value::from)),
            ("mems", given.cpuset_mems.clone().map(Value::from)),
        ],
    );
    part("pids", vec![("limit", given.pids.map(Value::from))]);
    let block = |kind: BlockKind, word: &str| {
        let list: Vec<Value> = given
            .block
            .iter()
            .filter(|limit| limit.kind == kind)
            .map(|limit| json!({"major": limit.major, "minor": limit.minor, word: limit.value}))
            .collect();
        (!list.is_empty()).then_some(Value::Array(list))
    };
    part(
        "blockIO",
        vec![
            ("weight", given.blkio_weight.map(Value::from)),
            ("weightDevice", block(BlockKind::Weight, "weight")),
            ("throttleReadBpsDevice", block(BlockKind::ReadBytes, "rate")),
            ("throttleWriteBpsDevice", block(BlockKind::WriteBytes, "rate")),
            ("throttleReadIOPSDevice", block(BlockKind::ReadOperations, "rate")),
            ("throttleWriteIOPSDevice", block(BlockKind::WriteOperations, "rate")),
        ],
    );
    if !given.hugepages.is_empty() {
        let list: Vec<Value> =
            given.hugepages.iter().map(|(size, limit)| json!({"pageSize": size, "limit": limit})).collect();
        all.insert("hugepageLimits".into(), Value::Array(list));
    }
    if !given.unified.is_empty() {
        let map: Map<String, Value> =
            given.unified.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect();
        all.insert("unified".into(), Value::Object(map));
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::convert::{Open, convert};

    fn given() -> Given {
        Given { bundle: "/b".into(), seccomp: None, available: u64::MAX }
    }

    /// What [`convert`] makes of a document, a document is made of again.
    #[test]
    fn there_and_back() {
        let mut value = crate::spec::default_spec();
        value["process"]["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7, 8]});
        value["process"]["oomScoreAdj"] = json!(300);
        value["process"]["consoleSize"] = json!({"height": 24, "width": 80});
        value["process"]["rlimits"] = json!([{"type": "RLIMIT_NPROC", "soft": 5, "hard": 9}]);
        value["hostname"] = json!("h");
        value["domainname"] = json!("d");
        value["linux"]["cgroupsPath"] = json!("/w/c");
        value["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        value["linux"]["devices"] = json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 1, "gid": 2}]);
        value["linux"]["resources"] = json!({
            "memory": {"limit": 1000, "swap": 2000, "reservation": 500, "swappiness": 5, "disableOOMKiller": true},
            "cpu": {"shares": 5, "quota": -1, "period": 100_000, "burst": 7, "realtimePeriod": 9000, "realtimeRuntime": 800, "idle": 1, "cpus": "0", "mems": "0"},
            "pids": {"limit": 9}, "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
            "blockIO": {
                "weight": 11, "weightDevice": [{"major": 8, "minor": 1, "weight": 12}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 8}],
            },
            "unified": {"memory.high": "5"},
            "devices": [{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
        });
        let first = convert(&serde_json::from_value(value).unwrap(), "c", Path::new("/b"), false).unwrap();
        let document = container(&first.plan, &given());
        let again = serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{e}: {document:#}"));
        let second = convert(&again, "c", Path::new("/b"), false).unwrap();
        // The second reading adds the device rules that every container has once more.
        let (mut one, mut two) = (first.plan, second.plan);
        let rules = |plan: &mut RunPlan| std::mem::take(&mut plan.cgroup.as_mut().unwrap().resources.devices);
        let (of_one, of_two) = (rules(&mut one), rules(&mut two));
        assert!(of_one.iter().all(|rule| of_two.contains(rule)));
        let devices = |plan: &mut RunPlan| {
            let mut all = std::mem::take(&mut plan.devices);
            all.sort_by(|a, b| a.path.cmp(&b.path));
            all
        };
        assert_eq!(devices(&mut one), devices(&mut two));
        assert_eq!(one, two);
        assert_eq!(second.open, [Open::Rootfs("/b/rootfs".into())]);
    }

    #[test]
    fn trees_and_namespaces_are_in_the_bundle() {
        let mut value = crate::spec::default_spec();
        value["mounts"] =
            json!([{"destination": "/x", "type": "bind", "source": "s", "options": ["rbind", "rshared"]}]);
        let mut plan =
            convert(&serde_json::from_value(value).unwrap(), "c", Path::new("/o"), false).unwrap().plan;
        plan.namespaces.net = Namespace::Join(3);
        plan.namespaces.ipc = Namespace::Host;
        plan.mounts[0].read_only = true;
        let document = container(&plan, &given());
        assert_eq!(
            document["mounts"][0],
            json!({"destination": "/x", "type": "bind", "source": "/b/trees/1", "options": ["rbind", "ro", "rshared"]})
        );
        assert_eq!(document["linux"]["rootfsPropagation"], "shared");
        let spaces = document["linux"]["namespaces"].as_array().unwrap();
        assert!(spaces.contains(&json!({"type": "network", "path": "/b/namespaces/net"})));
        assert!(spaces.contains(&json!({"type": "pid"})) && !spaces.iter().any(|s| s["type"] == "ipc"));
    }

    #[test]
    fn an_init_comes_before_the_program() {
        let mut plan = RunPlan { init: true, ..RunPlan::default() };
        plan.process.args = vec!["/bin/sh".into(), "-c".into(), "true".into()];
        let document = container(&plan, &given());
        assert_eq!(
            document["process"]["args"],
            json!(["/sbin/docker-init", "/bin/sh", "/bin/sh", "-c", "true"])
        );
        assert_eq!(document["mounts"][0]["source"], "/b/init");
    }

    #[test]
    fn what_the_machine_has_not_is_not_asked_for() {
        let mut one = Process::default();
        one.capabilities.bounding = caps::bit(0) | caps::bit(24);
        let said = process(&one, caps::bit(0));
        assert_eq!(said["capabilities"]["bounding"], json!(["CAP_CHOWN"]));
        // A privileged container has no device rules of its own: everything is allowed.
        let everything = with_devices(&Resources::default());
        assert_eq!(everything["devices"], json!([{"allow": true, "type": "a", "access": "rwm"}]));
        let unlimited = Resources { pids: Some(-1), ..Resources::default() };
        assert!(with_devices(&unlimited).get("pids").is_none());
        assert_eq!(resources(&unlimited)["pids"]["limit"], -1);
    }
}
