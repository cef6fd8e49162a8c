//! runc's command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Runs containers from OCI bundles, with runc's command line
#[derive(Debug, Parser)]
#[command(name = "wharf oci", version, disable_help_subcommand = true, disable_version_flag = true)]
pub(crate) struct Cli {
    /// Print version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Directory for what is known about containers
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) root: Option<PathBuf>,
    /// File for the last error
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// text or json
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub(crate) log_format: String,
    /// Read cgroup paths as slice:prefix:name
    #[arg(long)]
    pub(crate) systemd_cgroup: bool,
    /// Say what is being done, in the log or on standard error
    #[arg(long)]
    pub(crate) debug: bool,
    /// Taken for the sake of callers
    #[arg(long, hide = true, value_name = "BOOL")]
    pub(crate) rootless: Option<String>,
    /// The program that makes and restores checkpoints
    #[arg(long, default_value = "criu", value_name = "PATH")]
    pub(crate) criu: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a container; its process waits to be started
    Create(CreateArgs),
    /// Execute the process of a created container
    Start(Id),
    /// Create and start a container, and wait for it
    Run(CreateArgs),
    /// Print the state of a container as JSON
    State(Id),
    /// Send a signal to a container's first process
    Kill(KillArgs),
    /// Delete what a container has
    Delete(DeleteArgs),
    /// List the processes of a container
    Ps(PsArgs),
    /// Suspend all processes of a container
    Pause(Id),
    /// Let them go on
    Resume(Id),
    /// Change the limits of a container
    Update(UpdateArgs),
    /// List containers
    List(ListArgs),
    /// Print figures of a container at intervals, and kills for lack of memory
    Events(EventsArgs),
    /// Run a further process in a container
    Exec(ExecArgs),
    /// Write the state of a container's processes into files, and end it
    Checkpoint(CheckpointArgs),
    /// Make a container that goes on from a checkpoint
    Restore(RestoreArgs),
    /// Write a specification to begin with
    Spec(SpecArgs),
    /// Print what this runtime can do as JSON
    Features,
}

#[derive(Debug, Args)]
pub(crate) struct Id {
    /// Container
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Container
    pub(crate) id: String,
    /// Directory with config.json; the working directory if not said
    #[arg(short, long, value_name = "DIRECTORY")]
    pub(crate) bundle: Option<PathBuf>,
    /// Socket that the terminal is sent to
    #[arg(long, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Socket that a descriptor of the process is sent to
    #[arg(long, value_name = "PATH")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// File for the process id
    #[arg(long, value_name = "PATH")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep the container after its end
    #[arg(long)]
    pub(crate) keep: bool,
    /// Descriptors from 3 on that the process keeps
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub(crate) preserve_fds: u32,
    /// Taken for the sake of callers: the root is always pivoted to where that is possible
    #[arg(long, hide = true)]
    pub(crate) no_pivot: bool,
    /// Taken for the sake of callers
    #[arg(long, hide = true)]
    pub(crate) no_new_keyring: bool,
    /// Taken for the sake of callers
    #[arg(long, hide = true)]
    pub(crate) no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Container
    pub(crate) id: String,
    /// Name or number
    #[arg(default_value = "TERM")]
    pub(crate) signal: String,
    /// Every process of the container
    #[arg(short, long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Container
    pub(crate) id: String,
    /// Kill it if it runs
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Container
    pub(crate) id: String,
    /// table or json
    #[arg(short, long, default_value = "table")]
    pub(crate) format: String,
    /// Options of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// table or json
    #[arg(short, long, default_value = "table")]
    pub(crate) format: String,
    /// Ids only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Container
    pub(crate) id: String,
    /// File with resources as JSON; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) resources: Option<PathBuf>,
    /// Memory in bytes
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) memory: Option<String>,
    /// Soft limit of memory in bytes
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) memory_reservation: Option<String>,
    /// Memory and swap in bytes
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) memory_swap: Option<String>,
    /// CPU period in microseconds
    #[arg(long)]
    pub(crate) cpu_period: Option<u64>,
    /// CPU time per period in microseconds
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// CPU time in microseconds that may be saved up
    #[arg(long)]
    pub(crate) cpu_burst: Option<u64>,
    /// 1 runs only when nobody else wants to
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) cpu_idle: Option<i64>,
    /// Real-time period in microseconds
    #[arg(long)]
    pub(crate) cpu_rt_period: Option<u64>,
    /// Real-time budget per period in microseconds
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// Taken for the sake of callers
    #[arg(long, hide = true)]
    pub(crate) kernel_memory: Option<String>,
    /// Taken for the sake of callers
    #[arg(long, hide = true)]
    pub(crate) kernel_memory_tcp: Option<String>,
    /// CPU share
    #[arg(long, alias = "cpu-share")]
    pub(crate) cpu_shares: Option<u64>,
    /// Processors
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Processes
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Share of block devices
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Socket that the terminal is sent to
    #[arg(long, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// Socket that a descriptor of the process is sent to
    #[arg(long, value_name = "PATH")]
    pub(crate) pidfd_socket: Option<PathBuf>,
    /// Working directory
    #[arg(long)]
    pub(crate) cwd: Option<String>,
    /// Variable, key=value
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// With a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// uid[:gid]
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Further groups
    #[arg(short = 'g', long)]
    pub(crate) additional_gids: Vec<u32>,
    /// File with the process as JSON
    #[arg(short, long, value_name = "FILE")]
    pub(crate) process: Option<PathBuf>,
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// File for the process id
    #[arg(long, value_name = "PATH")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Further capability
    #[arg(short, long)]
    pub(crate) cap: Vec<String>,
    /// Forbid to gain privileges
    #[arg(long)]
    pub(crate) no_new_privs: bool,
    /// `AppArmor` profile
    #[arg(long)]
    pub(crate) apparmor: Option<String>,
    /// Descriptors from 3 on that the process keeps
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub(crate) preserve_fds: u32,
    /// Taken for the sake of callers
    #[arg(long, hide = true)]
    pub(crate) no_subreaper: bool,
    /// Also in a container that is paused
    #[arg(long)]
    pub(crate) ignore_paused: bool,
    /// Cgroup below the container's
    #[arg(long, value_name = "[CONTROLLER[,…]:]PATH")]
    pub(crate) cgroup: Vec<String>,
    /// Container
    pub(crate) id: String,
    /// Program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Time between the figures
    #[arg(long, default_value = "5s", value_name = "DURATION")]
    pub(crate) interval: String,
    /// Print the figures once
    #[arg(long)]
    pub(crate) stats: bool,
    /// Container
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct SpecArgs {
    /// Directory to write config.json into; the working directory if not said
    #[arg(short, long, value_name = "DIRECTORY")]
    pub(crate) bundle: Option<PathBuf>,
}

/// What checkpoints and restores have in common.
#[derive(Debug, Args)]
pub(crate) struct CriuArgs {
    /// Directory of the images; ./checkpoint if not said
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) image_path: Option<PathBuf>,
    /// Directory for CRIU's log
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) work_path: Option<PathBuf>,
    /// Connections go on
    #[arg(long)]
    pub(crate) tcp_established: bool,
    /// Connections are found closed
    #[arg(long)]
    pub(crate) tcp_close: bool,
    /// Sockets may lead out of the container
    #[arg(long)]
    pub(crate) ext_unix_sk: bool,
    /// The session may belong to a shell outside
    #[arg(long)]
    pub(crate) shell_job: bool,
    /// With locks of files
    #[arg(long)]
    pub(crate) file_locks: bool,
    /// soft or ignore: the cgroup is the configuration's in both
    #[arg(long, value_name = "MODE")]
    pub(crate) manage_cgroups_mode: Option<String>,
    /// Leave the content of these namespaces out (network)
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) empty_ns: Vec<String>,
    /// Images give up what a later one has again
    #[arg(long)]
    pub(crate) auto_dedup: bool,
    /// Not supported
    #[arg(long, hide = true)]
    pub(crate) lazy_pages: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckpointArgs {
    #[command(flatten)]
    pub(crate) criu: CriuArgs,
    /// Images of an earlier dump, from the directory of the images
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) parent_path: Option<PathBuf>,
    /// The processes run on
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// Only memory, for a later dump with this one as its parent; the processes run on
    #[arg(long)]
    pub(crate) pre_dump: bool,
    /// Leave connections out that are being made
    #[arg(long)]
    pub(crate) tcp_skip_in_flight: bool,
    /// Files that were removed while they are open get a name
    #[arg(long)]
    pub(crate) link_remap: bool,
    /// Send memory to a page server
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) page_server: Option<String>,
    /// Not supported
    #[arg(long, hide = true)]
    pub(crate) status_fd: Option<String>,
    /// Container
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) criu: CriuArgs,
    /// Directory with config.json; the working directory if not said
    #[arg(short, long, value_name = "DIRECTORY")]
    pub(crate) bundle: Option<PathBuf>,
    /// Not supported: there are no checkpoints of containers with a terminal
    #[arg(long, hide = true, value_name = "PATH")]
    pub(crate) console_socket: Option<PathBuf>,
    /// File for the process id
    #[arg(long, value_name = "PATH")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// `AppArmor` or `SELinux` profile to go on with, `TYPE:NAME`
    #[arg(long, value_name = "PROFILE")]
    pub(crate) lsm_profile: Option<String>,
    /// Not supported
    #[arg(long, hide = true)]
    pub(crate) lsm_mount_context: Option<String>,
    /// Taken for the sake of callers
    #[arg(long, hide = true)]
    pub(crate) no_subreaper: bool,
    /// Taken for the sake of callers: the root is always pivoted to
    #[arg(long, hide = true)]
    pub(crate) no_pivot: bool,
    /// Container
    pub(crate) id: String,
}
