//! What the child will need, made before the fork: afterwards it only calls the kernel.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{BorrowedFd, OwnedFd};

use wharf_plan::run::{
    ExecPlan, Ids, MountSource, Namespace, Process as ProcessPlan, RunPlan, Stage, StartError, TimeNamespace,
};

use super::{At, Host, Target, fd};
use crate::caps;
use crate::cgroup::{Hierarchy, Version};
use crate::error::{Error, Result};
use crate::mount::{Flags, MountAttr, Prepared as Filesystem, propagation};
use crate::sys::file::cstring;
use crate::sys::process::CStrings;

/// Where programs without a slash are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) struct Process<'a> {
    pub(super) plan: &'a ProcessPlan,
    pub(super) args: CStrings,
    pub(super) env: CStrings,
    /// Paths to try, in order; one where the name has a slash.
    pub(super) candidates: Vec<CString>,
    pub(super) cwd: CString,
    pub(super) rlimits: Vec<(u32, u64, u64)>,
    pub(super) oom_score_adj: Option<String>,
    pub(super) apparmor: Option<Vec<u8>>,
    pub(super) stdio: [Option<BorrowedFd<'a>>; 3],
    pub(super) gate: Option<BorrowedFd<'a>>,
    pub(super) more_fds: Vec<BorrowedFd<'a>>,
    /// Capabilities that this machine lets anybody have.
    pub(super) available: u64,
}

impl<'a> Process<'a> {
    fn new(host: &Host, plan: &'a ProcessPlan, fds: &'a [OwnedFd]) -> Result<Self, StartError> {
        let text = |s: &String| cstring(s.as_str());
        let Some(name) = plan.args.first() else {
            return Err(request("no command specified", libc::EINVAL));
        };
        let args: Vec<CString> =
            plan.args.iter().map(text).collect::<Result<_>>().at(Stage::Request, || "args")?;
        let env: Vec<CString> =
            plan.env.iter().map(text).collect::<Result<_>>().at(Stage::Request, || "env")?;
        let cwd = if plan.cwd.is_empty() { "/" } else { &plan.cwd };
        if !cwd.starts_with('/') {
            return Err(request(&format!("the working directory {cwd:?} is not absolute"), libc::EINVAL));
        }
        // The plan's own come last and so win.
        let inherited = host.open_files.map(|(soft, hard)| Ok((libc::RLIMIT_NOFILE, soft, hard)));
        let rlimits = inherited
            .into_iter()
            .chain(plan.rlimits.iter().map(|limit| Ok((rlimit(&limit.kind)?, limit.soft, limit.hard))))
            .collect::<Result<_>>()
            .at(Stage::Credentials, || "resource limits")?;
        if plan.capabilities.ambient & !plan.capabilities.inheritable != 0 {
            return Err(request("ambient capabilities must be inheritable too", libc::EINVAL));
        }
        let mut stdio = [None; 3];
        for (slot, number) in stdio.iter_mut().zip(plan.stdio) {
            *slot = number.map(|n| fd(fds, n)).transpose()?;
        }
        let name = plan.program.as_ref().unwrap_or(name);
        Ok(Self {
            available: caps::available_once(),
            candidates: candidates(name, &plan.env).at(Stage::Request, || "PATH")?,
            args: CStrings::new(args),
            env: CStrings::new(env),
            cwd: cstring(cwd).at(Stage::Request, || "working directory")?,
            rlimits,
            oom_score_adj: plan.oom_score_adj.map(|score| score.to_string()),
            apparmor: plan.apparmor.as_ref().map(|profile| format!("exec {profile}").into_bytes()),
            stdio,
            gate: plan.gate.map(|number| fd(fds, number)).transpose()?,
            more_fds: plan.more_fds.iter().map(|number| fd(fds, *number)).collect::<Result<_, _>>()?,
            plan,
        })
    }

    /// With a filter but without `no_new_privs`, installing the filter needs `CAP_SYS_ADMIN`.
    pub(super) fn needs_admin_for_seccomp(&self) -> bool {
        !self.plan.seccomp.is_empty()
            && !self.plan.no_new_privs
            && self.plan.capabilities.effective & caps::bit(caps::SYS_ADMIN) == 0
    }
}

fn request(what: &str, errno: i32) -> StartError {
    StartError { stage: Stage::Request, errno, what: what.into() }
}

fn candidates(name: &str, env: &[String]) -> Result<Vec<CString>> {
    if name.contains('/') {
        return Ok(vec![cstring(name)?]);
    }
    if name.is_empty() {
        return Ok(Vec::new());
    }
    // As the program itself will see it: the last one of several.
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    // A relative entry would mean the working directory, which an image or volume controls.
    path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| cstring(format!("{dir}/{name}"))).collect()
}

fn rlimit(kind: &str) -> Result<u32> {
    let bare = kind.strip_prefix("RLIMIT_").unwrap_or(kind).to_ascii_uppercase();
    Ok(match bare.as_str() {
        "CPU" => libc::RLIMIT_CPU,
        "FSIZE" => libc::RLIMIT_FSIZE,
        "DATA" => libc::RLIMIT_DATA,
        "STACK" => libc::RLIMIT_STACK,
        "CORE" => libc::RLIMIT_CORE,
        "RSS" => libc::RLIMIT_RSS,
        "NPROC" => libc::RLIMIT_NPROC,
        "NOFILE" => libc::RLIMIT_NOFILE,
        "MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "AS" => libc::RLIMIT_AS,
        "LOCKS" => libc::RLIMIT_LOCKS,
        "SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "NICE" => libc::RLIMIT_NICE,
        "RTPRIO" => libc::RLIMIT_RTPRIO,
        "RTTIME" => libc::RLIMIT_RTTIME,
        _ => return Err(Error::refused(format!("rlimit {kind:?}"), libc::EINVAL, "unknown")),
    } as u32)
}

/// What comes onto a mount's target.
pub(super) enum Source<'a> {
    Tree(BorrowedFd<'a>),
    New(Filesystem),
    /// The v1 hierarchies below one tmpfs.
    Hierarchies(Filesystem),
    /// What an earlier mount shows.
    Inside(Inside<'a>),
}

/// A mount of what an earlier one shows.
pub(super) struct Inside<'a> {
    pub(super) path: CString,
    pub(super) recursive: bool,
    /// What to change of it, with whether mounts below are changed too.
    pub(super) changes: Vec<(MountAttr, bool)>,
    /// The user namespace of the ids, open as long as this is needed.
    pub(super) ids: Option<(BorrowedFd<'a>, bool)>,
}

pub(super) struct Mount<'a> {
    /// For messages.
    pub(super) name: &'a str,
    /// Without the leading slash.
    pub(super) target: CString,
    pub(super) source: Source<'a>,
    pub(super) file: bool,
    pub(super) flags: Flags,
    /// None leaves it as it is.
    pub(super) propagation: Option<(u64, bool)>,
    /// No link may be on the way: proc and sysfs, whose place later steps trust.
    pub(super) strict: bool,
    /// A tmpfs with no mode said has that of the directory which it covers, where that one was there.
    pub(super) inherits_mode: bool,
    /// Is to be read-only, but later steps have things to put into it.
    pub(super) read_only_at_last: bool,
    /// A tmpfs that begins with a copy of the directory which it covers.
    pub(super) copies_up: bool,
    /// Lies on `/proc` or below, where only few may.
    pub(super) below_proc: Option<String>,
}

pub(super) struct Device<'a> {
    pub(super) name: &'a str,
    pub(super) dir: CString,
    pub(super) file: CString,
    pub(super) mode: u32,
    pub(super) number: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A v1 hierarchy as the child sees it.
pub(super) struct Joined<'a> {
    pub(super) hierarchy: &'a Hierarchy,
    /// `wharf/<id>/tasks`.
    pub(super) tasks: CString,
    /// `wharf/<id>`.
    pub(super) dir: CString,
}

pub(super) struct Run<'a> {
    pub(super) plan: &'a RunPlan,
    pub(super) process: Process<'a>,
    pub(super) rootfs: BorrowedFd<'a>,
    pub(super) root_propagation: (u64, bool),
    /// The user namespace to enter, with its ranges.
    pub(super) user: Option<(BorrowedFd<'a>, &'a Ids)>,
    /// Namespaces to join in the child, with their kind.
    pub(super) joins: Vec<(BorrowedFd<'a>, u64)>,
    pub(super) pause: Option<BorrowedFd<'a>>,
    /// The program of process 1, where it is in a tree of the plan.
    pub(super) init: Option<BorrowedFd<'a>>,
    /// For `/proc/self/timens_offsets` of a new time namespace.
    pub(super) clocks: Option<String>,
    pub(super) cgroups: Vec<Joined<'a>>,
    pub(super) mounts: Vec<Mount<'a>>,
    pub(super) devices: Vec<Device<'a>>,
    pub(super) links: Vec<(CString, CString, CString)>,
    pub(super) masked: Vec<CString>,
    pub(super) readonly: Vec<CString>,
    /// Path below /proc, value.
    pub(super) sysctls: Vec<(CString, &'a str)>,
    /// An empty read-only directory for masked paths.
    pub(super) empty: Filesystem,
}

impl<'a> Run<'a> {
    pub(super) fn new(host: &'a Host, plan: &'a RunPlan, fds: &'a [OwnedFd]) -> Result<Self, StartError> {
        use crate::sys::process::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWTIME, CLONE_NEWUTS};
        let mut joins = Vec::new();
        for (namespace, kind) in [
            (plan.namespaces.net, CLONE_NEWNET),
            (plan.namespaces.ipc, CLONE_NEWIPC),
            (plan.namespaces.uts, CLONE_NEWUTS),
            (plan.namespaces.cgroup, CLONE_NEWCGROUP),
        ] {
            if let Namespace::Join(number) = namespace {
                joins.push((fd(fds, number)?, kind));
            }
        }
        let user = match &plan.user {
            Some(user) => Some((fd(fds, user.namespace)?, &user.ids)),
            None => None,
        };
        if user.is_some() && plan.namespaces.net == Namespace::New {
            return Err(request("a new network namespace without its user namespace", libc::EINVAL));
        }
        if let TimeNamespace::Join(number) = plan.time {
            joins.push((fd(fds, number)?, CLONE_NEWTIME));
        }
        let clocks = match &plan.time {
            TimeNamespace::New(clocks) => Some(offsets(clocks).at(Stage::Request, || "clocks")?),
            TimeNamespace::Host | TimeNamespace::Join(_) => None,
        };
        let paths = |list: &'a [String]| -> Result<Vec<CString>, StartError> {
            list.iter()
                .map(|p| inside(p))
                .collect::<Result<_>>()
                .at(Stage::Request, || "masked and read-only paths")
        };
        let links = plan
            .links
            .iter()
            .map(|(link, target)| {
                let (dir, name) = split(link)?;
                Ok((dir, name, cstring(target.as_str())?))
            })
            .collect::<Result<_>>()
            .at(Stage::Request, || "links")?;
        let sysctls = plan
            .sysctls
            .iter()
            .map(|(key, value)| Ok((sysctl(key)?, value.as_str())))
            .collect::<Result<_>>()
            .at(Stage::Sysctl, || "sysctls")?;
        for (what, name) in [("host", &plan.hostname), ("domain", &plan.domainname)] {
            if name.as_ref().is_some_and(|n| n.len() > 64) {
                return Err(request(&format!("the {what} name is longer than 64 bytes"), libc::ENAMETOOLONG));
            }
        }
        Ok(Self {
            process: Process::new(host, &plan.process, fds)?,
            rootfs: fd(fds, plan.rootfs)?,
            root_propagation: propagation(&plan.rootfs_propagation).at(Stage::Request, || "root")?,
            user,
            joins,
            pause: plan.pause.map(|number| fd(fds, number)).transpose()?,
            init: plan.init_tree.map(|number| fd(fds, number)).transpose()?,
            clocks,
            cgroups: joined(host, plan.cgroup.as_ref().map(|c| c.path.as_str()))?,
            mounts: plan.mounts.iter().map(|m| Mount::new(host, m, fds)).collect::<Result<_, _>>()?,
            devices: plan.devices.iter().map(Device::new).collect::<Result<_, _>>()?,
            links,
            masked: paths(&plan.masked_paths)?,
            readonly: paths(&plan.readonly_paths)?,
            sysctls,
            empty: Filesystem::new(
                "tmpfs",
                &["size=0k".into(), "nr_inodes=2".into(), "mode=755".into()],
                Flags { read_only: true, no_suid: true, no_dev: true, no_exec: true },
            )
            .at(Stage::Mount, || "masked paths")?,
            plan,
        })
    }

    /// Whether the v1 hierarchies are shown as they are on the host, so that the container's part is bound.
    pub(super) fn binds_hierarchies(&self) -> bool {
        self.plan.namespaces.cgroup != Namespace::New
            && self.mounts.iter().any(|m| matches!(m.source, Source::Hierarchies(_)))
    }
}

/// The lines of `timens_offsets`.
fn offsets(clocks: &[(String, i64, u32)]) -> Result<String> {
    let mut text = String::new();
    for (clock, seconds, nanoseconds) in clocks {
        if !matches!(clock.as_str(), "monotonic" | "boottime") || *nanoseconds >= 1_000_000_000 {
            return Err(Error::refused(
                format!("clock {clock:?}"),
                libc::EINVAL,
                "no clock of a time namespace",
            ));
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{clock} {seconds} {nanoseconds}");
    }
    Ok(text)
}

/// The v1 hierarchies that the process joins by itself; none on v2, where `clone3` does it.
pub(super) fn joined<'a>(host: &'a Host, path: Option<&str>) -> Result<Vec<Joined<'a>>, StartError> {
    joined_below(host, path, None)
}

/// A cgroup, or one below it where that is said for a controller that `is` it.
pub(super) fn below(path: &str, said: Option<&[(String, String)]>, is: impl Fn(&str) -> bool) -> String {
    match said.into_iter().flatten().find(|(controller, _)| is(controller)) {
        Some((_, below)) if !below.is_empty() => format!("{path}/{below}"),
        _ => path.to_owned(),
    }
}

/// [`joined`] of a process that goes below that cgroup, by controller.
fn joined_below<'a>(
    host: &'a Host,
    path: Option<&str>,
    said: Option<&[(String, String)]>,
) -> Result<Vec<Joined<'a>>, StartError> {
    let (Some(path), Some(cgroups)) = (path, host.cgroups()) else { return Ok(Vec::new()) };
    if cgroups.version() == Version::V2 {
        return Ok(Vec::new());
    }
    cgroups
        .hierarchies()
        .iter()
        .map(|hierarchy| {
            let is = |controller: &str| controller.is_empty() || hierarchy.has(controller);
            let relative = crate::cgroup::relative(&below(path, said, is))?;
            Ok(Joined {
                hierarchy,
                tasks: cstring(format!("{relative}/tasks"))?,
                dir: cstring(relative.as_str())?,
            })
        })
        .collect::<Result<_>>()
        .at(Stage::Cgroup, || "cgroup")
}

/// A path as given to openat2 with the root's descriptor: without leading slashes, never empty.
fn inside(path: &str) -> Result<CString> {
    let relative = path.trim_start_matches('/');
    cstring(if relative.is_empty() { "." } else { relative })
}

/// Directory and last name of a path.
fn split(path: &str) -> Result<(CString, CString)> {
    let clean = path.trim_end_matches('/');
    let (dir, name) = clean.rsplit_once('/').unwrap_or(("", clean));
    if matches!(name, "" | "." | "..") {
        return Err(Error::refused(format!("{path:?}"), libc::EINVAL, "the path has no last name"));
    }
    Ok((inside(dir)?, cstring(name)?))
}

/// `net.ipv4.ip_forward` as `sys/net/ipv4/ip_forward`; a name with slashes is taken as it is.
fn sysctl(key: &str) -> Result<CString> {
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(Error::refused(
            format!("sysctl {key:?}"),
            libc::EINVAL,
            "not a name of a kernel parameter",
        ));
    }
    cstring(format!("sys/{path}"))
}

impl<'a> Mount<'a> {
    fn new(host: &Host, plan: &'a wharf_plan::run::Mount, fds: &'a [OwnedFd]) -> Result<Self, StartError> {
        let flags = Flags {
            read_only: plan.read_only,
            no_suid: plan.no_suid,
            no_dev: plan.no_dev,
            no_exec: plan.no_exec,
        };
        let what = || format!("mount on {}", plan.target);
        let (mut strict, mut inherits_mode, mut read_only_at_last) = (false, false, false);
        let mut copies_up = false;
        let source = match &plan.source {
            MountSource::Tree(number) => Source::Tree(fd(fds, *number)?),
            MountSource::Inside { path, recursive, own, all, ids } => Source::Inside(Inside {
                path: inside(path).at(Stage::Mount, what)?,
                recursive: *recursive,
                changes: [(own, false), (all, true)]
                    .into_iter()
                    .filter(|(change, _)| **change != (0, 0))
                    .map(|((set, clear), below)| {
                        (MountAttr { set: *set, clear: *clear, ..MountAttr::default() }, below)
                    })
                    .collect(),
                ids: ids.map(|(number, below)| Ok((fd(fds, number)?, below))).transpose()?,
            }),
            MountSource::New { fstype, options } => {
                strict = matches!(fstype.as_str(), "proc" | "sysfs");
                let v1 = host.cgroups().is_none_or(|c| c.version() == Version::V1);
                match fstype.as_str() {
                    "cgroup" if v1 => Source::Hierarchies(
                        // The directories are made before it becomes read-only.
                        Filesystem::new("tmpfs", &["mode=755".into()], Flags { read_only: false, ..flags })
                            .at(Stage::Mount, what)?,
                    ),
                    "cgroup" => Source::New(Filesystem::new("cgroup2", &[], flags).at(Stage::Mount, what)?),
                    "tmpfs" => {
                        let writable = Flags { read_only: false, ..flags };
                        let mut fs = Filesystem::new(fstype, options, writable).at(Stage::Mount, what)?;
                        copies_up = fs.take(c"tmpcopyup");
                        inherits_mode = !fs.has(c"mode");
                        read_only_at_last = plan.read_only;
                        // The name that Docker's has.
                        Source::New(if plan.target == "/dev/shm" { fs.shown_as(c"shm") } else { fs })
                    }
                    "proc" | "sysfs" | "devpts" | "mqueue" | "cgroup2" | "ramfs" => {
                        Source::New(Filesystem::new(fstype, options, flags).at(Stage::Mount, what)?)
                    }
                    other => {
                        return Err(request(&format!("mounting {other:?} inside a container"), libc::EPERM));
                    }
                }
            }
        };
        if !plan.target.starts_with('/') {
            return Err(request(
                &format!("the mount target {:?} is not absolute", plan.target),
                libc::EINVAL,
            ));
        }
        Ok(Self {
            name: &plan.target,
            target: inside(&plan.target).at(Stage::Mount, what)?,
            source,
            file: plan.file,
            flags,
            // What is made new is private already. A tree that was copied from a shared mount is shared still, and would
            // hand mounts below it on to the host.
            propagation: match (plan.propagation.as_str(), &plan.source) {
                ("", MountSource::New { .. }) => None,
                ("", MountSource::Tree(_) | MountSource::Inside { .. }) => Some((libc::MS_PRIVATE, true)),
                (word, _) => Some(propagation(word).at(Stage::Mount, what)?),
            },
            strict,
            inherits_mode,
            read_only_at_last,
            copies_up,
            below_proc: below_proc(&plan.target),
        })
    }
}

/// The part of a path after `/proc`, if that is where it leads by its letters.
fn below_proc(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    match parts.split_first() {
        Some((&"proc", rest)) => Some(rest.join("/")),
        _ => None,
    }
}

impl<'a> Device<'a> {
    fn new(plan: &'a wharf_plan::run::Device) -> Result<Self, StartError> {
        let kind = match plan.kind {
            'c' | 'u' => libc::S_IFCHR,
            'b' => libc::S_IFBLK,
            'p' => libc::S_IFIFO,
            other => return Err(request(&format!("device {} of type {other:?}", plan.path), libc::EINVAL)),
        };
        let (dir, file) = split(&plan.path).at(Stage::Request, || "device")?;
        Ok(Self {
            name: &plan.path,
            dir,
            file,
            mode: kind | plan.mode & 0o7777,
            number: libc::makedev(plan.major, plan.minor),
            uid: plan.uid,
            gid: plan.gid,
        })
    }
}

pub(super) struct Exec<'a> {
    pub(super) ids: Option<&'a Ids>,
    pub(super) process: Process<'a>,
    pub(super) target: Target<'a>,
    pub(super) cgroups: Vec<Joined<'a>>,
    /// The container has a time namespace of its own.
    pub(super) own_clocks: bool,
}

impl<'a> Exec<'a> {
    pub(super) fn new(
        host: &'a Host,
        plan: &'a ExecPlan,
        fds: &'a [OwnedFd],
        target: Target<'a>,
    ) -> Result<Self, StartError> {
        Ok(Self {
            ids: plan.ids.as_ref(),
            process: Process::new(host, &plan.process, fds)?,
            target,
            cgroups: joined_below(host, target.cgroup, target.below)?,
            own_clocks: own_clocks(target.pid),
        })
    }
}

/// Whether a process has another time namespace than this one. Kernels without them show none.
fn own_clocks(pid: i32) -> bool {
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/time"));
    matches!((namespace("self"), namespace(&pid.to_string())), (Ok(ours), Ok(theirs)) if ours != theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_like_a_shell_would() {
        let list = |name: &str, env: &[&str]| -> Vec<String> {
            let env: Vec<String> = env.iter().map(|e| (*e).to_owned()).collect();
            candidates(name, &env).unwrap().into_iter().map(|c| c.into_string().unwrap()).collect()
        };
        assert_eq!(list("/bin/x", &["PATH=/a"]), ["/bin/x"]);
        assert_eq!(list("./x", &[]), ["./x"]);
        assert_eq!(list("x", &["PATH=/a::relative:/b"]), ["/a/x", "/b/x"]);
        assert_eq!(list("x", &["PATH=/a", "PATH=/c"]), ["/c/x"]);
        assert_eq!(list("x", &[]).len(), 6);
        assert!(list("", &["PATH=/a"]).is_empty());
    }

    #[test]
    fn sysctl_names() {
        assert_eq!(sysctl("net.ipv4.ip_forward").unwrap().to_str().unwrap(), "sys/net/ipv4/ip_forward");
        assert_eq!(sysctl("net/ipv4/conf/eth0.1/x").unwrap().to_str().unwrap(), "sys/net/ipv4/conf/eth0.1/x");
        for bad in ["", "a..b", "/etc/passwd", "net/../../x", "."] {
            assert!(sysctl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn proc_by_its_letters() {
        assert_eq!(below_proc("/proc").unwrap(), "");
        assert_eq!(below_proc("//x/../proc/./sys/").unwrap(), "sys");
        assert_eq!(below_proc("/proc2"), None);
        assert_eq!(below_proc("/proc/.."), None);
    }
}
