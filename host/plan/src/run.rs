//! What one container process shall be: the value that the engine plans and the keeper carries out.
//!
//! Descriptors travel beside the value; [`Fd`] is an index into that list. The words are those of the OCI runtime
//! specification 1.2 wherever it has a word.

use serde::{Deserialize, Serialize};

use crate::idmap;
use crate::types::{IdKind, IdMap};

/// Index into the descriptors that travel with the plan.
pub type Fd = u32;

/// Where a process finds a namespace of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Namespace {
    /// A new one.
    #[default]
    New,
    /// That of the keeper.
    Host,
    /// The one behind this descriptor (a namespace descriptor or a pidfd).
    Join(Fd),
}

/// One choice per kind of namespace. The mount namespace is always new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Namespaces {
    /// Process ids.
    pub pid: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host and domain name.
    pub uts: Namespace,
    /// Network; normally `Join`, as the daemon prepares it.
    pub net: Namespace,
    /// Root of the cgroup file system.
    pub cgroup: Namespace,
}

/// User, group and supplementary groups, as numbers inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups; the list replaces whatever the keeper has.
    pub groups: Vec<u32>,
}

/// Capability sets as bit masks; bit n is capability number n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Capabilities {
    /// What can ever be gained.
    pub bounding: u64,
    /// What counts now.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// Always empty for containers (CVE-2022-24769).
    pub inheritable: u64,
    /// Kept over exec by an unprivileged user.
    pub ambient: u64,
}

/// Where a mount's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// A detached mount tree made by the daemon; its attributes are set already.
    Tree(Fd),
    /// A file system made inside the container's namespaces: `proc`, `sysfs`, `tmpfs`, `devpts`, `mqueue`, `cgroup`, `cgroup2`.
    New {
        /// File system type.
        fstype: String,
        /// `key=value` or `key`, one per entry. A tmpfs with `tmpcopyup` begins with a copy of what it covers.
        options: Vec<String>,
    },
    /// A copy of what an earlier mount of the same container shows.
    Inside {
        /// From the container's root.
        path: String,
        /// With the mounts below.
        recursive: bool,
        /// Attributes to set and to take away, of the mount.
        own: (u64, u64),
        /// The same, of the mounts below as well.
        all: (u64, u64),
        /// A user namespace whose ranges its ids are translated by, and whether those of the mounts below are.
        ids: Option<(Fd, bool)>,
    },
}

/// One mount below the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container; resolved beneath its root, made when missing.
    pub target: String,
    /// Content.
    pub source: MountSource,
    /// Make a file rather than a directory where the target is missing.
    pub file: bool,
    /// `MS_RDONLY`.
    pub read_only: bool,
    /// `MS_NOSUID`.
    pub no_suid: bool,
    /// `MS_NODEV`.
    pub no_dev: bool,
    /// `MS_NOEXEC`.
    pub no_exec: bool,
    /// `private`, `rprivate`, `slave`, `rslave`, `shared`, `rshared`.
    pub propagation: String,
}

/// A device node to make in the container's /dev.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute path inside the container.
    pub path: String,
    /// `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The nodes that every container has, as the runtime specification promises.
pub fn base_devices() -> Vec<Device> {
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
        .into_iter()
        .map(|(name, major, minor)| Device {
            path: format!("/dev/{name}"),
            kind: 'c',
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .collect()
}

/// Names of the process limits that can be set (`RLIMIT_…`).
pub const RLIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// One line of the device cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// `a`, `c` or `b`.
    pub kind: char,
    /// None is any.
    pub major: Option<u32>,
    /// None is any.
    pub minor: Option<u32>,
    /// Of `rwm`.
    pub access: String,
}

/// Resource limits; None leaves the kernel's default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<i64>,
    /// Memory plus swap in bytes; -1 is unlimited.
    pub memory_swap: Option<i64>,
    /// Soft limit in bytes.
    pub memory_reservation: Option<i64>,
    /// 0 to 100.
    pub swappiness: Option<i64>,
    /// Do not kill on out-of-memory (v1 only).
    pub oom_kill_disable: bool,
    /// CPU time per period in microseconds.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<i64>,
    /// Relative weight, 2 to 262144 (v1 scale).
    pub cpu_shares: Option<i64>,
    /// Microseconds of each real-time period that may be used (v1 only).
    pub cpu_rt_runtime: Option<i64>,
    /// Microseconds (v1 only).
    pub cpu_rt_period: Option<i64>,
    /// For example `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// For example `0`.
    pub cpuset_mems: Option<String>,
    /// Processes; -1 is unlimited.
    pub pids: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Limits of single block devices.
    pub block: Vec<BlockLimit>,
    /// Bytes of huge pages by their size as the kernel names it, for example `2MB`.
    pub hugepages: Vec<(String, u64)>,
    /// Microseconds of CPU time that may be saved up.
    pub cpu_burst: Option<u64>,
    /// 1 runs only when nobody else wants to.
    pub cpu_idle: Option<i64>,
    /// Device rules, in order. An empty list sets none (privileged).
    pub devices: Vec<DeviceRule>,
    /// Further files of cgroup v2, by name.
    pub unified: Vec<(String, String)>,
}

/// What is limited of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockKind {
    /// Bytes read per second.
    ReadBytes,
    /// Bytes written per second.
    WriteBytes,
    /// Reads per second.
    ReadOperations,
    /// Writes per second.
    WriteOperations,
    /// Share, 10 to 1000.
    Weight,
}

/// A limit of one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockLimit {
    /// Of what.
    pub kind: BlockKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// How much.
    pub value: u64,
}

/// The cgroup of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Cgroup {
    /// Below each hierarchy's root, for example `/wharf/<id>`.
    pub path: String,
    /// Limits.
    pub resources: Resources,
}

/// One resource limit of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    pub kind: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// What is common to a container's first process and to an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Process {
    /// argv; the first one is looked up in PATH of `env` inside the root unless it has a slash.
    pub args: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Absolute; made when missing.
    pub cwd: String,
    /// Who.
    pub user: User,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Classic BPF programs, installed in this order as the last step before exec; each is an array of `struct sock_filter`.
    pub seccomp: Vec<Vec<u8>>,
    /// `AppArmor` profile for the exec, where the kernel has `AppArmor`.
    pub apparmor: Option<String>,
    /// Limits.
    pub rlimits: Vec<Rlimit>,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// A pseudo terminal, its master handed back; else `stdio`.
    pub tty: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
    /// Descriptors for 0, 1 and 2; None is /dev/null. Not used with `tty`.
    pub stdio: [Option<Fd>; 3],
    /// The program is executed once a byte can be read from here.
    pub gate: Option<Fd>,
    /// Descriptors that stay open in the program, at 3 and up in this order.
    pub more_fds: Vec<Fd>,
    /// Bits that new files do not get; 0o022 unless told.
    pub umask: Option<u32>,
    /// The file to execute, where the first of `args` is only its name for itself.
    pub program: Option<String>,
    /// How the kernel shall treat it, where that is not as everything else.
    pub tuning: Option<Box<Tuning>>,
    /// The last filter of `seccomp` has a listener. Its descriptor is fetched from the process, which waits at its `gate`
    /// meanwhile; without a gate there is no listener.
    pub listener: bool,
}

/// `struct sched_attr` of `sched_setattr(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Scheduler {
    /// `SCHED_OTHER` (0) and so on, as the kernel counts them.
    pub policy: u32,
    /// `SCHED_FLAG_…`.
    pub flags: u64,
    /// -20 to 19, of policies without real time.
    pub nice: i32,
    /// 1 to 99, of `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// Nanoseconds of each period that it may run (`SCHED_DEADLINE`).
    pub runtime: u64,
    /// Nanoseconds from the start of a period by which it has run.
    pub deadline: u64,
    /// Nanoseconds.
    pub period: u64,
}

/// What the kernel does for a process, besides its rights and limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Tuning {
    /// When it runs.
    pub scheduler: Option<Scheduler>,
    /// Class and level of its input and output, as `ioprio_set(2)` has them in one number.
    pub io_priority: Option<u16>,
    /// Its execution domain (`personality(2)`).
    pub personality: Option<u32>,
    /// Of an exec: the processors that it runs on once it is in its cgroup. An empty list leaves those that it has by then, None
    /// gives it all that its cgroup has.
    pub processors: Option<Vec<u32>>,
}

/// Where a process finds its time namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum TimeNamespace {
    /// That of the keeper.
    #[default]
    Host,
    /// A new one whose clocks are ahead by so many seconds and nanoseconds (`monotonic`, `boottime`).
    New(Vec<(String, i64, u32)>),
    /// The one behind this descriptor.
    Join(Fd),
}

/// The ranges of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Ids {
    /// Of users.
    pub uids: Vec<IdMap>,
    /// Of groups.
    pub gids: Vec<IdMap>,
}

impl Ids {
    /// Those of users and those of groups of one list.
    pub fn of(maps: &[IdMap]) -> Self {
        Self { uids: idmap::only(maps, IdKind::Users), gids: idmap::only(maps, IdKind::Groups) }
    }
}

/// The user namespace of a container. All others that it has of its own belong to it, but for the pid namespace: that one is
/// the keeper's child, so that its parent sees every process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// The namespace, or a pidfd of a process in it. Its id 0 is mapped.
    pub namespace: Fd,
    /// Its ranges.
    pub ids: Ids,
}

/// A program that runs containers in place of the keeper's own code: one with runc's command line, or a shim of containerd's
/// kind. Only the administrator names such a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Runtime {
    /// Name in the configuration, as `HostConfig.Runtime` has it.
    pub name: String,
    /// Absolute path.
    pub program: String,
    /// Arguments before everything else.
    pub args: Vec<String>,
    /// Directory for what it keeps about containers (`--root`).
    pub root: String,
    /// Directory of this container's bundle.
    pub bundle: String,
    /// Set where the program is a shim (containerd's runtime v2) and not called as runc is.
    #[serde(default)]
    pub shim: Option<Shim>,
}

/// What a shim is told besides the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Shim {
    /// The options of its configuration.
    pub options: Option<ShimOptions>,
}

/// A message of the shim's own kind (`google.protobuf.Any`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ShimOptions {
    /// Name of the message's type.
    pub type_url: String,
    /// The message.
    pub value: Vec<u8>,
}

/// A process that another runtime makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Foreign {
    /// The runtime.
    pub runtime: Runtime,
    /// JSON of the OCI runtime specification: a configuration for a container, a process for an exec.
    pub document: String,
    /// Directory of a checkpoint that the container is restored from.
    pub restore: Option<String>,
}

/// A checkpoint of CRIU's that a container goes on from, instead of executing a program. Mounts, cgroup, network and streams
/// are those of the plan; what the plan says of the process is in the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Restore {
    /// Absolute path of the CRIU program.
    pub program: String,
    /// Directory with the images. Whoever can write to it decides what runs as root of the host.
    pub images: String,
    /// Directory for mounts and the log, of this restore alone; made when missing.
    pub work: String,
    /// Paths inside whose mounts are not in the images but the plan's, or the host's null device, or the container's cgroups.
    pub external: Vec<String>,
    /// Where mounts among them really are, and the plan's path, which leads there through a link: (place, path).
    pub links: Vec<(String, String)>,
    /// Paths of all mounts inside; none of them may lead through a link by now.
    pub places: Vec<String>,
    /// CRIU's names of what the three standard streams were, for example `pipe:[7]`; None for a stream that is not replaced.
    pub streams: [Option<String>; 3],
    /// The network namespace is not in the images but the plan's.
    pub net: bool,
    /// Further options of CRIU's command line.
    pub options: Vec<String>,
}

/// A whole container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct RunPlan {
    /// Container id; names the keeper's entry.
    pub id: String,
    /// Its first process.
    pub process: Process,
    /// Detached mount tree of the root file system.
    pub rootfs: Fd,
    /// Remount the root read-only after everything is in place.
    pub rootfs_read_only: bool,
    /// Propagation of the root.
    pub rootfs_propagation: String,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// None: the keeper's. With one, `namespaces.net` is not `New`: a network namespace is made together with its user
    /// namespace.
    pub user: Option<UserNamespace>,
    /// Time.
    pub time: TimeNamespace,
    /// Once its namespaces are there, it waits for a byte from here before it leaves the host's file system.
    pub pause: Option<Fd>,
    /// Set in a new uts namespace.
    pub hostname: Option<String>,
    /// Set in a new uts namespace.
    pub domainname: Option<String>,
    /// In order; later ones lie on top.
    pub mounts: Vec<Mount>,
    /// Nodes below /dev.
    pub devices: Vec<Device>,
    /// Symbolic links to make, (link, target): /dev/fd, /dev/stdin and so on.
    pub links: Vec<(String, String)>,
    /// Hidden behind /dev/null or an empty read-only directory.
    pub masked_paths: Vec<String>,
    /// Made read-only.
    pub readonly_paths: Vec<String>,
    /// `kernel.shm_rmid_forced` and so on, written through a verified procfs.
    pub sysctls: Vec<(String, String)>,
    /// None: stay in the keeper's.
    pub cgroup: Option<Cgroup>,
    /// Run Wharf's init as process 1, which reaps and forwards signals.
    pub init: bool,
    /// Tree with its program; None executes one that is in no file system.
    pub init_tree: Option<Fd>,
    /// Descriptors that the keeper keeps open under a name until the container is forgotten.
    pub hold: Vec<(String, Fd)>,
    /// Another runtime makes the container. Trees and namespaces lie in its bundle where
    /// [`tree_place`] and [`namespace_place`] say.
    pub foreign: Option<Box<Foreign>>,
    /// It goes on from a checkpoint.
    pub restore: Option<Box<Restore>>,
}

/// Where a runtime finds the root file system, in the bundle.
pub const ROOTFS_PLACE: &str = "rootfs";

/// Where a runtime finds the tree of this number, in the bundle.
pub fn tree_place(tree: Fd) -> String {
    format!("trees/{tree}")
}

/// Where a runtime finds a namespace to join, in the bundle; `kind` is the kernel's name of it in `/proc/<pid>/ns`.
pub fn namespace_place(kind: &str) -> String {
    format!("namespaces/{kind}")
}

/// The init of `--init` in a bundle, and in a container.
pub const INIT_PLACE: (&str, &str) = ("init", "/sbin/docker-init");

/// A further process in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct ExecPlan {
    /// Exec id; names the keeper's entry.
    pub id: String,
    /// Container whose namespaces and cgroup it joins.
    pub container: String,
    /// The ranges of the container's user namespace, if it has one of its own.
    pub ids: Option<Ids>,
    /// The process.
    pub process: Process,
    /// Descriptors that the keeper keeps open under a name until the exec is forgotten.
    pub hold: Vec<(String, Fd)>,
    /// The container's runtime, where that is another one.
    pub foreign: Option<Box<Foreign>>,
}

/// The step at which starting a process failed; decides the status and text that a client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The request itself could not be used.
    Request,
    /// Creating or joining namespaces.
    Namespace,
    /// Creating or joining the cgroup.
    Cgroup,
    /// Root, mounts, devices.
    Mount,
    /// Host name, sysctls.
    Sysctl,
    /// The terminal or standard streams.
    Stdio,
    /// Working directory.
    Cwd,
    /// Ids, capabilities, limits.
    Credentials,
    /// Seccomp or a security module.
    Security,
    /// The program is not there (127) or cannot be executed (126); `errno` says which.
    Exec,
    /// Another runtime failed; the text is its own.
    Runtime,
}

/// Why a process did not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}: {}", std::io::Error::from_raw_os_error(*errno))]
pub struct StartError {
    /// Step.
    pub stage: Stage,
    /// Linux error number.
    pub errno: i32,
    /// The call and what it was about, for example `mount proc on /proc`.
    pub what: String,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// 0 to 255, 128 + signal where a signal ended it.
    pub code: i32,
    /// The signal, if one ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of its cgroup for lack of memory.
    pub oom_killed: bool,
    /// Nanoseconds since the Unix epoch.
    pub at: u64,
}

/// Where systemd has a slice: `a-b.slice` lies in `a.slice`, by its rule for their names.
pub fn slice_path(slice: &str) -> String {
    let Some(stem) = slice.strip_suffix(".slice").filter(|stem| !stem.is_empty() && *stem != "-") else {
        return slice.to_owned();
    };
    let mut path = String::new();
    let mut prefix = String::new();
    for part in stem.split('-') {
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(&prefix);
        path.push_str(".slice");
    }
    path
}
