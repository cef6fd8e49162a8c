//! From a bundle's configuration to a plan. No input or output: what must be opened is listed ([`Open`]), in the order of the
//! numbers that the plan has for it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities as Names, LinuxDeviceType, LinuxNamespaceType, LinuxResources, Process as OciProcess, Spec,
};
use wharf_kernel::caps;
use wharf_plan::run::{
    BlockKind, BlockLimit, Capabilities, Cgroup, Device, DeviceRule, Fd, Ids, Mount, MountSource, Namespace,
    Namespaces, Process, Resources, Rlimit, RunPlan, TimeNamespace, User, base_devices, slice_path,
};

use crate::attributes::{self, Attributes};
use crate::user::{self, User as UserNs};
use crate::{Doing, Error, Result};

/// Something that the plan refers to by a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Open {
    /// The bundle's root file system as a detached tree.
    Rootfs(PathBuf),
    /// A path of the host as a detached tree.
    Bind {
        source: PathBuf,
        recursive: bool,
        restrict: Restrict,
        /// Ids to translate, also those of the mounts below.
        ids: Option<(Ids, bool)>,
    },
    /// A file system of a type that is not made inside the container.
    Other { fstype: String, source: String, options: Vec<String>, restrict: Restrict },
    /// A namespace.
    Namespace(PathBuf),
    /// A user namespace with these ranges, to translate a mount's ids by.
    Ids(Ids),
}

/// What a tree does not allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Restrict {
    pub(crate) read_only: bool,
    pub(crate) no_suid: bool,
    pub(crate) no_dev: bool,
    pub(crate) no_exec: bool,
    /// Further attributes of it.
    pub(crate) own: Attributes,
    /// Anything was said of the mount's own attributes.
    pub(crate) said: bool,
    /// Attributes of it and of all mounts below.
    pub(crate) all: Attributes,
}

impl Restrict {
    /// All that concerns the mount alone.
    pub(crate) fn flags(self) -> Attributes {
        let mut all = self.own;
        for (on, word) in [
            (self.read_only, "ro"),
            (self.no_suid, "nosuid"),
            (self.no_dev, "nodev"),
            (self.no_exec, "noexec"),
        ] {
            if let (true, Some(change)) = (on, attributes::of(word)) {
                all.add(change);
            }
        }
        all
    }
}

/// A plan and what it refers to.
#[derive(Debug)]
pub(crate) struct Converted {
    pub(crate) plan: RunPlan,
    pub(crate) open: Vec<Open>,
    /// Its user namespace.
    pub(crate) user: UserNs,
    /// The process is in a pid namespace of its own.
    pub(crate) own_pids: bool,
}

/// File systems that are made inside the container's namespaces.
const INSIDE: [&str; 8] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs"];

fn refuse<T>(what: impl Into<String>) -> Result<T> {
    Err(Error(what.into()))
}

/// Capability sets as masks.
fn mask(names: Option<&Names>) -> u64 {
    names.into_iter().flatten().fold(0, |mask, name| mask | capability(&name.to_string()))
}

/// A capability by its name in any of its forms.
pub(crate) fn capability(name: &str) -> u64 {
    let bare = name.to_ascii_uppercase();
    let bare = bare.strip_prefix("CAP_").unwrap_or(&bare);
    let found = caps::NAMES.iter().position(|known| *known == bare);
    found.and_then(|n| u32::try_from(n).ok()).map_or(0, caps::bit)
}

/// The process of a configuration or of an exec.
pub(crate) fn process(spec: &OciProcess) -> Result<Process> {
    let args = spec.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return refuse("args must not be empty");
    }
    let cwd = spec.cwd().display().to_string();
    if !cwd.starts_with('/') {
        return refuse(format!("Cwd property must be an absolute path, not {cwd:?}"));
    }
    if spec.selinux_label().as_ref().is_some_and(|l| !l.is_empty()) {
        return refuse("selinux label is specified, but SELinux is not supported");
    }
    let sets = spec.capabilities().as_ref();
    let capabilities = sets.map_or(Capabilities::default(), |sets| Capabilities {
        bounding: mask(sets.bounding().as_ref()),
        effective: mask(sets.effective().as_ref()),
        permitted: mask(sets.permitted().as_ref()),
        inheritable: mask(sets.inheritable().as_ref()),
        ambient: mask(sets.ambient().as_ref()),
    });
    // What is raised must be permitted and inheritable; runc drops the rest with a warning.
    let ambient = capabilities.ambient & capabilities.inheritable & capabilities.permitted;
    for (number, name) in (0..).zip(caps::NAMES) {
        if (capabilities.ambient & !ambient) & caps::bit(number) != 0 {
            crate::log::warn(format!(
                "can't raise ambient capability CAP_{name}: it is not both inheritable and permitted"
            ));
        }
    }
    let user = spec.user();
    let size = spec
        .console_size()
        .and_then(|b| Some((u16::try_from(b.height()).ok()?, u16::try_from(b.width()).ok()?)));
    Ok(Process {
        args,
        env: spec.env().clone().unwrap_or_default(),
        cwd,
        user: User {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
        },
        capabilities: Capabilities { ambient, ..capabilities },
        no_new_privs: spec.no_new_privileges().unwrap_or(false),
        apparmor: spec.apparmor_profile().clone().filter(|p| !p.is_empty() && p != "unconfined"),
        rlimits: spec
            .rlimits()
            .iter()
            .flatten()
            .map(|l| Rlimit { kind: l.typ().to_string(), soft: l.soft(), hard: l.hard() })
            .collect(),
        oom_score_adj: spec.oom_score_adj(),
        tty: spec.terminal().unwrap_or(false),
        console_size: size.filter(|(rows, columns)| *rows > 0 && *columns > 0),
        umask: user.umask(),
        ..Process::default()
    })
}

fn namespaces(spec: &Spec, open: &mut Vec<Open>) -> Result<(Namespaces, TimeNamespace, UserNs)> {
    let mut all = Namespaces {
        pid: Namespace::Host,
        ipc: Namespace::Host,
        uts: Namespace::Host,
        net: Namespace::Host,
        cgroup: Namespace::Host,
    };
    let mut time = TimeNamespace::Host;
    let mut mount = false;
    let mut users = UserNs::Host;
    user::check_unused(spec)?;
    let linux = spec.linux().as_ref();
    for namespace in linux.and_then(|l| l.namespaces().as_ref()).into_iter().flatten() {
        let path = namespace.path().clone().filter(|p| !p.as_os_str().is_empty());
        let found = match path {
            Some(path) if !path.is_absolute() => {
                return refuse(format!("the namespace path {} is not absolute", path.display()));
            }
            Some(path) => Namespace::Join(add(open, Open::Namespace(path))),
            None => Namespace::New,
        };
        match namespace.typ() {
            LinuxNamespaceType::Pid => all.pid = found,
            LinuxNamespaceType::Ipc => all.ipc = found,
            LinuxNamespaceType::Uts => all.uts = found,
            LinuxNamespaceType::Network => all.net = found,
            LinuxNamespaceType::Cgroup => all.cgroup = found,
            LinuxNamespaceType::Mount if found == Namespace::New => mount = true,
            LinuxNamespaceType::Mount => return refuse("joining a mount namespace is not supported"),
            LinuxNamespaceType::User => users = user::user(spec, found)?,
            LinuxNamespaceType::Time => {
                time = match found {
                    Namespace::Join(fd) => TimeNamespace::Join(fd),
                    _ => TimeNamespace::New(clocks(spec)),
                };
            }
        }
    }
    if !mount {
        return refuse("a container without a mount namespace of its own is not supported");
    }
    Ok((all, time, users))
}

fn clocks(spec: &Spec) -> Vec<(String, i64, u32)> {
    let offsets = spec.linux().as_ref().and_then(|l| l.time_offsets().clone()).unwrap_or_default();
    let mut all: Vec<_> = offsets
        .into_iter()
        .map(|(clock, o)| (clock, o.secs().unwrap_or(0), o.nanosecs().unwrap_or(0)))
        .collect();
    all.sort();
    all
}

fn add(open: &mut Vec<Open>, what: Open) -> Fd {
    open.push(what);
    Fd::try_from(open.len() - 1).unwrap_or(Fd::MAX)
}

/// Options of a mount, taken apart.
#[derive(Debug, Default)]
struct Options {
    restrict: Restrict,
    bind: bool,
    recursive: bool,
    propagation: String,
    /// Words for attributes of the mount, which are in `restrict` too.
    words: Vec<String>,
    rest: Vec<String>,
}

impl Options {
    /// For a file system that is made inside: a mount with none below.
    fn inside(self) -> (Restrict, Vec<String>) {
        let (mut restrict, mut list) = (self.restrict, self.rest);
        list.extend(self.words);
        for (word, set) in self.restrict.all.words() {
            match (word, set) {
                ("ro", set) => restrict.read_only = set,
                ("nosuid", set) => restrict.no_suid = set,
                ("nodev", set) => restrict.no_dev = set,
                ("noexec", set) => restrict.no_exec = set,
                (word, true) => list.push(word.to_owned()),
                (_, false) => {}
            }
        }
        (restrict, list)
    }
}

fn options(list: &[String]) -> Options {
    let mut all = Options::default();
    for option in list {
        let restrict = &mut all.restrict;
        restrict.said |= attributes::of(option).is_some();
        match option.as_str() {
            "bind" => all.bind = true,
            "rbind" => (all.bind, all.recursive) = (true, true),
            "ro" => restrict.read_only = true,
            "rw" => restrict.read_only = false,
            "nosuid" => restrict.no_suid = true,
            "nodev" => restrict.no_dev = true,
            "noexec" => restrict.no_exec = true,
            "suid" => restrict.no_suid = false,
            "dev" => restrict.no_dev = false,
            "exec" => restrict.no_exec = false,
            "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable"
            | "runbindable" => all.propagation.clone_from(option),
            "defaults" | "async" | "idmap" | "ridmap" => {}
            word => match (attributes::of(word), word.strip_prefix('r').and_then(attributes::of)) {
                (Some(change), _) => {
                    // That nothing is said of access times leaves them as they are, and so do the words that only take away.
                    if !attributes::IDLE.contains(&word) {
                        restrict.own.add(change);
                    }
                    all.words.push(option.clone());
                }
                (None, Some(change)) => restrict.all.add(change),
                (None, None) => all.rest.push(option.clone()),
            },
        }
    }
    all
}

/// Where in the container a source is that lies in its root file system (`root`, on the host) and that earlier mounts change.
fn shown_by(earlier: &[Mount], root: &Path, source: &Path) -> Option<String> {
    let inside = Path::new("/").join(source.strip_prefix(root).ok()?);
    let changes = |mount: &Mount| {
        let target = Path::new(&mount.target);
        inside.starts_with(target) || target.starts_with(&inside)
    };
    earlier.iter().any(changes).then(|| inside.display().to_string())
}

fn mounts(spec: &Spec, bundle: &Path, root: &Path, open: &mut Vec<Open>) -> Result<Vec<Mount>> {
    let mut all = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let mut target = mount.destination().display().to_string();
        if !target.starts_with('/') {
            // As runc does, though the specification wants it to be absolute.
            crate::log::warn(format!(
                "mount destination {target} is not absolute: it is taken from the root"
            ));
            target.insert(0, '/');
        }
        // A place that is said from the host's root is meant inside, too.
        if let Ok(rest) = Path::new(&target).strip_prefix(root) {
            target = format!("/{}", rest.display());
        }
        let mut o = options(mount.options().as_deref().unwrap_or_default());
        let propagation = std::mem::take(&mut o.propagation);
        let fstype = mount.typ().clone().unwrap_or_default();
        let bind = o.bind || fstype == "bind" || fstype == "rbind";
        let source = mount.source().clone().unwrap_or_default();
        let content = if bind {
            let source = bundle.join(&source);
            let recursive = o.recursive || fstype == "rbind";
            let ids = user::of_mount(spec, mount)?;
            match shown_by(&all, root, &source) {
                Some(path) => {
                    let ids = ids.map(|(ids, below)| (add(open, Open::Ids(ids)), below));
                    let pair = |a: Attributes| (a.set, a.clear);
                    let (own, below) = (pair(o.restrict.flags()), pair(o.restrict.all));
                    MountSource::Inside { path, recursive, own, all: below, ids }
                }
                None => {
                    MountSource::Tree(add(open, Open::Bind { source, recursive, restrict: o.restrict, ids }))
                }
            }
        } else if INSIDE.contains(&fstype.as_str()) {
            let options;
            (o.restrict, options) = std::mem::take(&mut o).inside();
            MountSource::New { fstype: fstype.clone(), options }
        } else if fstype.is_empty() {
            return refuse(format!("mount {target} has no type"));
        } else {
            let source = source.display().to_string();
            MountSource::Tree(add(
                open,
                Open::Other { fstype: fstype.clone(), source, options: o.rest.clone(), restrict: o.restrict },
            ))
        };
        // What is opened for the plan has its attributes already.
        let inside = matches!(content, MountSource::New { .. });
        all.push(Mount {
            target,
            source: content,
            file: false,
            read_only: inside && o.restrict.read_only,
            no_suid: inside && o.restrict.no_suid,
            no_dev: inside && o.restrict.no_dev,
            no_exec: inside && o.restrict.no_exec,
            propagation,
        });
    }
    Ok(all)
}

fn letter(kind: LinuxDeviceType) -> char {
    match kind {
        LinuxDeviceType::B => 'b',
        LinuxDeviceType::C | LinuxDeviceType::U => 'c',
        LinuxDeviceType::P => 'p',
        LinuxDeviceType::A => 'a',
    }
}

fn devices(spec: &Spec) -> Result<Vec<Device>> {
    let own = spec.linux().as_ref().and_then(|l| l.devices().clone()).unwrap_or_default();
    let mut all = base_devices();
    for device in own {
        let path = device.path().display().to_string();
        let number = |n: i64| u32::try_from(n).doing(format_args!("device {path}"));
        all.retain(|known| known.path != path);
        all.push(Device {
            kind: letter(device.typ()),
            major: number(device.major())?,
            minor: number(device.minor())?,
            mode: device.file_mode().unwrap_or(0o666),
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            path,
        });
    }
    Ok(all)
}

fn allow(kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> DeviceRule {
    DeviceRule { allow: true, kind, major, minor, access: access.into() }
}

/// The letters of an access that are some; runc leaves others out, too.
fn access(said: Option<&str>) -> Result<String> {
    let said = said.unwrap_or("rwm");
    let known: String = said.chars().filter(|c| "rwm".contains(*c)).collect();
    if known.is_empty() { refuse(format!("invalid access {said:?} of a device rule")) } else { Ok(known) }
}

/// Nothing but what is on the list, then the configuration's own rules, then what every container has.
fn rules(resources: &LinuxResources) -> Result<Vec<DeviceRule>> {
    let mut all =
        vec![DeviceRule { allow: false, kind: 'a', major: None, minor: None, access: "rwm".into() }];
    for rule in resources.devices().iter().flatten() {
        // -1 is any.
        let number = |n: Option<i64>| match n {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n).map(Some).doing("device rule"),
        };
        all.push(DeviceRule {
            allow: rule.allow(),
            kind: rule.typ().map_or('a', letter),
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access: access(rule.access().as_deref())?,
        });
    }
    all.extend([allow('c', None, None, "m"), allow('b', None, None, "m")]);
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)] {
        all.push(allow('c', Some(major), Some(minor), "rwm"));
    }
    all.push(allow('c', Some(136), None, "rwm"));
    Ok(all)
}

/// Limits, with device rules where `devices`.
pub(crate) fn resources(given: &LinuxResources, with_devices: bool) -> Result<Resources> {
    let mut all = Resources::default();
    if let Some(memory) = given.memory() {
        all.memory = memory.limit().filter(|v| *v != 0);
        all.memory_swap = memory.swap().filter(|v| *v != 0);
        all.memory_reservation = memory.reservation().filter(|v| *v != 0);
        all.swappiness = memory.swappiness().and_then(|v| i64::try_from(v).ok());
        all.oom_kill_disable = memory.disable_oom_killer().unwrap_or(false);
    }
    if let Some(cpu) = given.cpu() {
        let number = |v: Option<u64>| v.filter(|v| *v != 0).and_then(|v| i64::try_from(v).ok());
        all.cpu_shares = number(cpu.shares());
        all.cpu_quota = cpu.quota().filter(|v| *v != 0);
        all.cpu_period = number(cpu.period());
        all.cpu_rt_period = number(cpu.realtime_period());
        all.cpu_rt_runtime = cpu.realtime_runtime().filter(|v| *v != 0);
        all.cpu_burst = cpu.burst();
        all.cpu_idle = cpu.idle();
        all.cpuset_cpus = cpu.cpus().clone().filter(|c| !c.is_empty());
        all.cpuset_mems = cpu.mems().clone().filter(|m| !m.is_empty());
    }
    all.pids = given.pids().as_ref().map(oci_spec::runtime::LinuxPids::limit).filter(|v| *v != 0);
    if let Some(block) = given.block_io() {
        all.blkio_weight = block.weight().filter(|w| *w != 0);
        let mut push = |kind, major: i64, minor: i64, value: u64| -> Result<()> {
            let number = |n: i64| u32::try_from(n).doing("block device");
            all.block.push(BlockLimit { kind, major: number(major)?, minor: number(minor)?, value });
            Ok(())
        };
        for d in block.weight_device().iter().flatten() {
            push(BlockKind::Weight, d.major(), d.minor(), d.weight().unwrap_or(0).into())?;
        }
        for (kind, list) in [
            (BlockKind::ReadBytes, block.throttle_read_bps_device()),
            (BlockKind::WriteBytes, block.throttle_write_bps_device()),
            (BlockKind::ReadOperations, block.throttle_read_iops_device()),
            (BlockKind::WriteOperations, block.throttle_write_iops_device()),
        ] {
            for d in list.iter().flatten() {
                push(kind, d.major(), d.minor(), d.rate())?;
            }
        }
    }
    for limit in given.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        if !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return refuse(format!("invalid size of huge pages {size:?}"));
        }
        all.hugepages.push((size.clone(), u64::try_from(limit.limit()).unwrap_or(u64::MAX)));
    }
    all.unified = given.unified().clone().unwrap_or_default().into_iter().collect();
    all.unified.sort();
    if with_devices {
        all.devices = rules(given)?;
    }
    Ok(all)
}

/// Where the cgroup is: as said, in systemd's three parts, or by the container's name.
fn cgroup_path(spec: &Spec, id: &str, systemd: bool) -> Result<String> {
    let said =
        spec.linux().as_ref().and_then(|l| l.cgroups_path().clone()).filter(|p| !p.as_os_str().is_empty());
    let said = said.map(|p| p.display().to_string());
    if !systemd {
        return Ok(match said {
            Some(path) if path.starts_with('/') => path,
            Some(path) => format!("/{path}"),
            None => format!("/{id}"),
        });
    }
    let said = said.unwrap_or_else(|| format!("system.slice:wharf:{id}"));
    let parts: Vec<&str> = said.split(':').collect();
    let [slice, prefix, name] = parts.as_slice() else {
        return refuse(format!(
            "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {said:?} instead"
        ));
    };
    let slice = slice_path(if slice.is_empty() { "system.slice" } else { slice });
    // systemd's names are case-sensitive.
    if name.strip_suffix(".slice").is_some() {
        return Ok(format!("/{slice}/{name}"));
    }
    let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}-") };
    Ok(format!("/{slice}/{prefix}{name}.scope"))
}

/// The whole container. `bundle` is absolute; standard streams, gate and seccomp are the caller's.
pub(crate) fn convert(spec: &Spec, id: &str, bundle: &Path, systemd: bool) -> Result<Converted> {
    let major = spec.version().split('.').next().unwrap_or_default();
    if major != "1" {
        return refuse(format!("unsupported version of the specification: {:?}", spec.version()));
    }
    let linux = spec.linux().as_ref().ok_or("the configuration has no \"linux\" part")?;
    let root = spec.root().as_ref().ok_or("Root must be specified")?;
    let described = spec.process().as_ref().ok_or("Process must be specified")?;
    if linux.intel_rdt().is_some() {
        return refuse("intelRdt is not supported");
    }
    if linux.mount_label().as_ref().is_some_and(|l| !l.is_empty()) {
        return refuse("mountLabel needs SELinux, which is not supported");
    }
    let mut open = vec![Open::Rootfs(bundle.join(root.path()))];
    let (spaces, time, users) = namespaces(spec, &mut open)?;
    let own_uts = spaces.uts == Namespace::New;
    for (name, what) in [(spec.hostname(), "hostname"), (spec.domainname(), "domainname")] {
        if name.as_ref().is_some_and(|n| !n.is_empty()) && spaces.uts == Namespace::Host {
            return refuse(format!("unable to set {what} without a private UTS namespace"));
        }
    }
    let sysctls = linux.sysctl().clone().unwrap_or_default();
    check_sysctls(&sysctls, &spaces)?;
    let given = linux.resources().clone().unwrap_or_default();
    let propagation = linux.rootfs_propagation().clone().unwrap_or_default();
    let plan = RunPlan {
        id: id.to_owned(),
        process: process(described)?,
        rootfs: 0,
        rootfs_read_only: root.readonly().unwrap_or(false),
        rootfs_propagation: if propagation.is_empty() { "rslave".into() } else { propagation },
        namespaces: spaces,
        user: None,
        time,
        pause: None,
        hostname: spec.hostname().clone().filter(|h| own_uts && !h.is_empty()),
        domainname: spec.domainname().clone().filter(|d| own_uts && !d.is_empty()),
        mounts: mounts(spec, bundle, &bundle.join(root.path()), &mut open)?,
        devices: devices(spec)?,
        links: [
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
            ("/dev/ptmx", "pts/ptmx"),
        ]
        .into_iter()
        .map(|(link, target)| (link.to_owned(), target.to_owned()))
        .collect(),
        masked_paths: linux.masked_paths().clone().unwrap_or_default(),
        readonly_paths: linux.readonly_paths().clone().unwrap_or_default(),
        sysctls: sysctls.into_iter().collect(),
        cgroup: Some(Cgroup { path: cgroup_path(spec, id, systemd)?, resources: resources(&given, true)? }),
        init: false,
        init_tree: None,
        hold: Vec::new(),
        foreign: None,
        restore: None,
    };
    let own_pids = plan.namespaces.pid == Namespace::New;
    Ok(Converted { plan, open, user: users, own_pids })
}

/// A parameter of the whole machine is not a container's to set.
fn check_sysctls(sysctls: &std::collections::HashMap<String, String>, spaces: &Namespaces) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    for key in sysctls.keys() {
        let name = key.replace('/', ".");
        let own = if IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
            spaces.ipc != Namespace::Host
        } else if name.starts_with("net.") {
            spaces.net != Namespace::Host
        } else if name == "kernel.domainname" || name == "kernel.hostname" {
            spaces.uts != Namespace::Host
        } else {
            return refuse(format!("sysctl {key:?} is not in a separate kernel namespace"));
        };
        if !own {
            return refuse(format!("sysctl {key:?} not allowed in host namespace"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use wharf_kernel::mount::attr;

    use super::*;

    fn spec(change: impl FnOnce(&mut serde_json::Value)) -> Spec {
        let mut value = crate::spec::default_spec();
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn converted(change: impl FnOnce(&mut serde_json::Value)) -> Result<Converted> {
        convert(&spec(change), "c", Path::new("/b"), false)
    }

    #[test]
    fn the_default_configuration_becomes_a_plan() {
        let c = converted(|_| {}).unwrap();
        assert_eq!(c.open[0], Open::Rootfs("/b/rootfs".into()));
        assert_eq!(c.plan.process.args, ["sh"]);
        assert!(c.plan.process.no_new_privs && c.own_pids && c.plan.rootfs_read_only);
        assert_eq!(c.plan.process.capabilities.bounding, caps::bit(5) | caps::bit(10) | caps::bit(29));
        assert_eq!(c.plan.cgroup.as_ref().unwrap().path, "/c");
        assert!(c.plan.mounts.iter().any(|m| m.target == "/proc"));
        let rules = &c.plan.cgroup.as_ref().unwrap().resources.devices;
        assert!(!rules[0].allow && rules[0].kind == 'a');
    }

    #[test]
    fn mounts_and_limits() {
        let c = converted(|v| {
            v["mounts"] = serde_json::json!([
                {"destination": "/x", "type": "bind", "source": "data", "options": ["rbind", "rro", "nosuid", "rslave"]},
                {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "noexec", "ro"]},
                {"destination": "/o", "type": "overlay", "source": "overlay", "options": ["lowerdir=/l"]},
            ]);
            v["linux"]["resources"] = serde_json::json!({
                "memory": {"limit": 1000, "swap": 2000}, "cpu": {"shares": 5, "quota": -1, "period": 100_000, "cpus": "0"},
                "pids": {"limit": 9}, "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
                "blockIO": {"weight": 11, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]},
                "devices": [{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
            });
        })
        .unwrap();
        let restrict = Restrict {
            no_suid: true,
            said: true,
            all: Attributes { set: attr::RDONLY, clear: 0 },
            ..Restrict::default()
        };
        assert_eq!(c.open[1], Open::Bind { source: "/b/data".into(), recursive: true, restrict, ids: None });
        assert_eq!(c.plan.mounts[0].propagation, "rslave");
        assert!(!c.plan.mounts[0].read_only && c.plan.mounts[1].read_only && c.plan.mounts[1].no_exec);
        assert!(matches!(&c.open[2], Open::Other { fstype, .. } if fstype == "overlay"));
        let r = c.plan.cgroup.unwrap().resources;
        assert_eq!(
            (r.memory, r.memory_swap, r.cpu_shares, r.cpu_quota),
            (Some(1000), Some(2000), Some(5), Some(-1))
        );
        assert_eq!((r.pids, r.hugepages), (Some(9), vec![("2MB".to_owned(), 4096)]));
        assert_eq!((r.block[0].major, r.block[0].value), (8, 7));
        assert!(r.devices.iter().any(|d| d.minor == Some(229) && d.access == "rw"));
    }

    #[test]
    fn refusals_say_why() {
        type Change = fn(&mut serde_json::Value);
        let cases: [(Change, &str); 9] = [
            (|v| v["ociVersion"] = "2.0.0".into(), "unsupported version"),
            (|v| v["process"]["args"] = serde_json::json!([]), "args must not be empty"),
            (|v| v["process"]["cwd"] = "x".into(), "Cwd property must be an absolute path"),
            (
                |v| v["linux"]["sysctl"] = serde_json::json!({"kernel.core_pattern": "|/x"}),
                "not in a separate kernel namespace",
            ),
            (
                |v| {
                    v["linux"]["sysctl"] = serde_json::json!({"net.ipv4.ip_forward": "1"});
                    v["linux"]["namespaces"] = serde_json::json!([{"type": "mount"}]);
                    v["hostname"] = "".into();
                },
                "not allowed in host namespace",
            ),
            (
                |v| v["linux"]["namespaces"] = serde_json::json!([{"type": "mount"}]),
                "without a private UTS namespace",
            ),
            (|v| v["linux"]["namespaces"] = serde_json::json!([]), "hostname"),
            (|v| v["linux"]["namespaces"][0]["path"] = "rel".into(), "is not absolute"),
            (|v| v["process"]["selinuxLabel"] = "x".into(), "SELinux"),
        ];
        for (change, said) in cases {
            let error = converted(change).unwrap_err();
            assert!(error.0.contains(said) || said == "hostname", "{said}: {error}");
        }
    }

    #[test]
    fn cgroups_in_the_words_of_systemd() {
        let path = |said: &str| cgroup_path(&spec(|v| v["linux"]["cgroupsPath"] = said.into()), "c", true);
        assert_eq!(path("machine.slice:libpod:x").unwrap(), "/machine.slice/libpod-x.scope");
        assert_eq!(path("a-b.slice:cri:x").unwrap(), "/a.slice/a-b.slice/cri-x.scope");
        assert_eq!(path("").unwrap(), "/system.slice/wharf-c.scope");
        assert!(path("/x/y").is_err());
    }
}
