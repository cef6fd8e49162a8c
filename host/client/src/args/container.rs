//! Commands about containers that exist.

use clap::{Args, Subcommand};

use super::{Command, CreateArgs, InspectArgs, ListArgs, PruneArgs, Pruning, RunArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    /// Create and run a new container from an image
    Run(Box<RunArgs>),
    /// Create a new container
    Create(Box<CreateArgs>),
    /// Execute a command in a running container
    Exec(ExecArgs),
    /// Attach this terminal's input and output to a running container
    Attach(AttachArgs),
    /// Start stopped containers
    Start(StartArgs),
    /// Stop running containers
    Stop(StopArgs),
    /// Restart containers
    Restart(StopArgs),
    /// Kill running containers
    Kill(KillArgs),
    /// Block until containers stop, then print their exit codes
    Wait(Containers),
    /// Remove containers
    Rm(RmArgs),
    /// List containers
    #[command(visible_aliases = ["ps", "list"])]
    Ls(PsArgs),
    /// Fetch the logs of a container
    Logs(LogsArgs),
    /// Pause all processes within containers
    Pause(Containers),
    /// Unpause all processes within containers
    Unpause(Containers),
    /// Rename a container
    Rename(RenameArgs),
    /// Display the running processes of a container
    Top(TopArgs),
    /// Display a live stream of container resource usage statistics
    Stats(StatsArgs),
    /// List port mappings of a container
    Port(PortArgs),
    /// Copy files and folders between a container and the local filesystem
    Cp(CpArgs),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(DiffArgs),
    /// Export a container's filesystem as a tar archive
    Export(ExportArgs),
    /// Create a new image from a container's changes
    Commit(CommitArgs),
    /// Display detailed information on containers
    Inspect(InspectArgs),
    /// Update the limits and the restart policy of containers
    Update(UpdateArgs),
    /// Remove all stopped containers
    Prune(PruneArgs),
}

impl From<ContainerCommand> for Command {
    fn from(command: ContainerCommand) -> Self {
        use ContainerCommand as C;
        match command {
            C::Run(a) => Self::Run(a),
            C::Create(a) => Self::Create(a),
            C::Exec(a) => Self::Exec(a),
            C::Attach(a) => Self::Attach(a),
            C::Start(a) => Self::Start(a),
            C::Stop(a) => Self::Stop(a),
            C::Restart(a) => Self::Restart(a),
            C::Kill(a) => Self::Kill(a),
            C::Wait(a) => Self::Wait(a),
            C::Rm(a) => Self::Rm(a),
            C::Ls(a) => Self::Ps(a),
            C::Logs(a) => Self::Logs(a),
            C::Pause(a) => Self::Pause(a),
            C::Unpause(a) => Self::Unpause(a),
            C::Rename(a) => Self::Rename(a),
            C::Top(a) => Self::Top(a),
            C::Stats(a) => Self::Stats(a),
            C::Port(a) => Self::Port(a),
            C::Cp(a) => Self::Cp(a),
            C::Diff(a) => Self::Diff(a),
            C::Export(a) => Self::Export(a),
            C::Commit(a) => Self::Commit(a),
            C::Inspect(a) => Self::Inspect(InspectArgs { kind: Some("container".into()), ..a }),
            C::Update(a) => Self::Update(a),
            C::Prune(a) => Self::Prune(Pruning::Containers(a)),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Run in the background
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Allocate a pseudo terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set environment variables
    #[arg(short, long)]
    pub(crate) env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long)]
    pub(crate) env_file: Vec<String>,
    /// Working directory
    #[arg(short, long)]
    pub(crate) workdir: Option<String>,
    /// User
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// All capabilities
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Key sequence for detaching
    #[arg(long)]
    pub(crate) detach_keys: Option<String>,
    /// Container, then the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Key sequence for detaching
    #[arg(long)]
    pub(crate) detach_keys: Option<String>,
    /// Do not attach standard input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Pass signals on to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) sig_proxy: bool,
    /// Container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Attach output and forward signals
    #[arg(short, long)]
    pub(crate) attach: bool,
    /// Attach standard input
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Key sequence for detaching
    #[arg(long)]
    pub(crate) detach_keys: Option<String>,
    /// Restore from this checkpoint
    #[arg(long)]
    pub(crate) checkpoint: Option<String>,
    /// Directory of the daemon's host with checkpoints
    #[arg(long)]
    pub(crate) checkpoint_dir: Option<String>,
    /// Containers
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Seconds to wait before killing, -1 for ever
    #[arg(short, long, visible_alias = "time", allow_hyphen_values = true)]
    pub(crate) timeout: Option<i64>,
    /// Signal to send
    #[arg(short, long)]
    pub(crate) signal: Option<String>,
    /// Containers
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Signal to send
    #[arg(short, long)]
    pub(crate) signal: Option<String>,
    /// Containers
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Containers {
    /// Containers
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Remove running ones too
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Remove links instead (container/alias)
    #[arg(short, long)]
    pub(crate) link: bool,
    /// Remove their anonymous volumes
    #[arg(short, long)]
    pub(crate) volumes: bool,
    /// Containers
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    pub(crate) list: ListArgs,
    /// Show also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show the last n
    #[arg(short = 'n', long)]
    pub(crate) last: Option<i64>,
    /// Show the latest
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Show sizes
    #[arg(short, long)]
    pub(crate) size: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Follow
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only since this time or duration ago
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Only until this time or duration ago
    #[arg(long)]
    pub(crate) until: Option<String>,
    /// Number of lines from the end, or all
    #[arg(short = 'n', long, default_value = "all")]
    pub(crate) tail: String,
    /// Show times
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// Show details
    #[arg(long)]
    pub(crate) details: bool,
    /// Container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// Container
    pub(crate) container: String,
    /// New name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Container, then options of ps
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CONTAINER [OPTIONS]")]
    pub(crate) command: Vec<String>,
}

/// What is shown of which containers.
#[derive(Debug, Default, Args)]
pub(crate) struct StatsArgs {
    /// Containers; all that run if none is named
    pub(crate) containers: Vec<String>,
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print the first result and end
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Don't truncate output
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// table, json or a Go template
    #[arg(long)]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// Give what is copied to the container's user
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// Follow a link in the source
    #[arg(short = 'L', long)]
    pub(crate) follow_link: bool,
    /// Say nothing
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// A path, container:path, or - for a tar archive on standard input
    #[arg(allow_hyphen_values = true)]
    pub(crate) source: String,
    /// A path, container:path, or - for a tar archive on standard output
    #[arg(allow_hyphen_values = true)]
    pub(crate) destination: String,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Write to a file instead of standard output
    #[arg(short, long)]
    pub(crate) output: Option<String>,
    /// Container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    /// Author
    #[arg(short, long)]
    pub(crate) author: Option<String>,
    /// Apply a Dockerfile instruction to the image
    #[arg(short, long)]
    pub(crate) change: Vec<String>,
    /// Commit message
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// Pause the container meanwhile
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) pause: bool,
    /// Do not pause the container meanwhile
    #[arg(long)]
    pub(crate) no_pause: bool,
    /// Container
    pub(crate) container: String,
    /// Name of the image (name[:tag])
    pub(crate) reference: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PortArgs {
    /// Container
    pub(crate) container: String,
    /// Port inside the container (80 or 80/udp)
    pub(crate) port: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Block IO weight, 10 to 1000, 0 for none
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    /// Microseconds of a CPU period
    #[arg(long)]
    pub(crate) cpu_period: Option<i64>,
    /// Microseconds of CPU time in a period
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cpu_quota: Option<i64>,
    /// Microseconds of a real-time period
    #[arg(long)]
    pub(crate) cpu_rt_period: Option<i64>,
    /// Microseconds of real-time in a period
    #[arg(long)]
    pub(crate) cpu_rt_runtime: Option<i64>,
    /// Relative weight
    #[arg(short, long)]
    pub(crate) cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long)]
    pub(crate) cpus: Option<f64>,
    /// CPUs to run on (0-3,5)
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes to use (0-3,5)
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Memory limit
    #[arg(short, long)]
    pub(crate) memory: Option<String>,
    /// Soft memory limit
    #[arg(long)]
    pub(crate) memory_reservation: Option<String>,
    /// Memory plus swap, -1 for unlimited
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Limit on processes, -1 for unlimited
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Restart policy (no, always, unless-stopped, on-failure[:n])
    #[arg(long)]
    pub(crate) restart: Option<String>,
    /// Containers
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}
