//! The command line's shape: docker's nouns, verbs and flags.

use clap::{Args, Parser, Subcommand};

/// Containers, images, networks and volumes of a Wharf (or any Docker-compatible) daemon.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, about, propagate_version = false)]
pub(crate) struct Cli {
    /// Daemon to talk to: `unix:///path` or `tcp://host:port`
    #[arg(short = 'H', long, global = true, value_name = "ADDRESS")]
    pub(crate) host: Option<String>,
    /// Name of the context to use (see `docker context ls`)
    #[arg(short = 'c', long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How a TCP address is spoken to.
#[derive(Debug, Default, Args)]
pub(crate) struct TlsArgs {
    /// Use TLS; implied by --tlsverify
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) tls: Option<bool>,
    /// Use TLS and verify the remote
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) tlsverify: Option<bool>,
    /// Trust certs signed only by this CA
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscacert: Option<std::path::PathBuf>,
    /// Path to TLS certificate file
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscert: Option<std::path::PathBuf>,
    /// Path to TLS key file
    #[arg(long, value_name = "FILE")]
    pub(crate) tlskey: Option<std::path::PathBuf>,
}

/// A shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// bash, zsh or fish
    pub(crate) shell: String,
}

/// Where manual pages go.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write a page for every command into this directory
    pub(crate) directory: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
    #[command(visible_alias = "ls")]
    Ps(PsArgs),
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
    /// Return low-level information on objects
    Inspect(InspectArgs),
    /// List images
    Images(ImagesArgs),
    /// Import a tar archive as an image with one layer
    Import(ImportArgs),
    /// Load images from an archive
    Load(LoadArgs),
    /// Download an image from a registry
    Pull(PullArgs),
    /// Upload an image to a registry
    Push(PushArgs),
    /// Log in to a registry
    Login(LoginArgs),
    /// Log out from a registry
    Logout(LogoutArgs),
    /// Search for images in a registry
    Search(SearchArgs),
    /// Save images to an archive
    Save(SaveArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Remove images
    Rmi(RmiArgs),
    /// Show the history of an image
    History(HistoryArgs),
    /// Show the versions of client and daemon
    Version(FormatArgs),
    /// Display system-wide information
    Info(FormatArgs),
    /// Get real time events from the daemon
    Events(EventsArgs),
    /// Display a live stream of container resource usage statistics
    Stats(StatsArgs),
    /// Proxy standard input and output to the daemon
    #[command(name = "dial-stdio", hide = true)]
    DialStdio,
    /// Print the completion script of a shell
    Completion(CompletionArgs),
    /// Print the manual page, or write all of them into a directory
    Man(ManArgs),
    /// Manage containers
    Container {
        #[command(subcommand)]
        command: ContainerCommand,
    },
    /// Manage images
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Manage the daemon
    System {
        #[command(subcommand)]
        command: SystemCommand,
    },
    /// Manage networks
    Network {
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Manage volumes
    Volume {
        #[command(subcommand)]
        command: VolumeCommand,
    },
}

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
            C::Port(a) => Self::Port(a),
            C::Cp(a) => Self::Cp(a),
            C::Diff(a) => Self::Diff(a),
            C::Export(a) => Self::Export(a),
            C::Commit(a) => Self::Commit(a),
            C::Inspect(a) => Self::Inspect(InspectArgs { kind: Some("container".into()), ..a }),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesArgs),
    /// Import a tar archive as an image with one layer
    Import(ImportArgs),
    /// Load images from an archive
    Load(LoadArgs),
    /// Download an image from a registry
    Pull(PullArgs),
    /// Upload an image to a registry
    Push(PushArgs),
    /// Save images to an archive
    Save(SaveArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Remove images
    Rm(RmiArgs),
    /// Show the history of an image
    History(HistoryArgs),
    /// Display detailed information on images
    Inspect(InspectArgs),
}

impl From<ImageCommand> for Command {
    fn from(command: ImageCommand) -> Self {
        use ImageCommand as C;
        match command {
            C::Ls(a) => Self::Images(a),
            C::Import(a) => Self::Import(a),
            C::Load(a) => Self::Load(a),
            C::Pull(a) => Self::Pull(a),
            C::Push(a) => Self::Push(a),
            C::Save(a) => Self::Save(a),
            C::Tag(a) => Self::Tag(a),
            C::Rm(a) => Self::Rmi(a),
            C::History(a) => Self::History(a),
            C::Inspect(a) => Self::Inspect(InspectArgs { kind: Some("image".into()), ..a }),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Display system-wide information
    Info(FormatArgs),
    /// Get real time events from the daemon
    Events(EventsArgs),
    /// Proxy standard input and output to the daemon
    #[command(name = "dial-stdio")]
    DialStdio,
}

impl From<SystemCommand> for Command {
    fn from(command: SystemCommand) -> Self {
        match command {
            SystemCommand::Info(a) => Self::Info(a),
            SystemCommand::Events(a) => Self::Events(a),
            SystemCommand::DialStdio => Self::DialStdio,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Create a network
    Create(NetworkCreateArgs),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(NamesArgs),
    /// Display detailed information on networks
    Inspect(InspectArgs),
    /// Connect a container to a network
    Connect(ConnectArgs),
    /// Disconnect a container from a network
    Disconnect(ConnectArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Create a volume
    Create(VolumeCreateArgs),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(NamesArgs),
    /// Display detailed information on volumes
    Inspect(InspectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Filter the list (key=value)
    #[arg(short, long)]
    pub(crate) filter: Vec<String>,
    /// Format with a Go template, `json` or `table`
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Only print names or ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    pub(crate) no_trunc: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// Names or ids
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    /// Do not complain of missing ones
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NetworkCreateArgs {
    /// Driver of the network
    #[arg(short, long, default_value = "bridge")]
    pub(crate) driver: String,
    /// Subnet in CIDR form
    #[arg(long)]
    pub(crate) subnet: Vec<String>,
    /// Gateway of the subnet at the same position
    #[arg(long)]
    pub(crate) gateway: Vec<String>,
    /// Allocate from this part of the subnet
    #[arg(long)]
    pub(crate) ip_range: Vec<String>,
    /// No access to the outside
    #[arg(long)]
    pub(crate) internal: bool,
    /// Turn IPv6 on
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// Option of the driver (key=value)
    #[arg(short, long)]
    pub(crate) opt: Vec<String>,
    /// Label (key=value)
    #[arg(long)]
    pub(crate) label: Vec<String>,
    /// Name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// Network
    pub(crate) network: String,
    /// Container
    pub(crate) container: String,
    /// Further name of the container in this network
    #[arg(long)]
    pub(crate) alias: Vec<String>,
    /// IPv4 address
    #[arg(long)]
    pub(crate) ip: Option<String>,
    /// Disconnect even where the container is broken
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VolumeCreateArgs {
    /// Driver of the volume
    #[arg(short, long, default_value = "local")]
    pub(crate) driver: String,
    /// Option of the driver (key=value)
    #[arg(short, long)]
    pub(crate) opt: Vec<String>,
    /// Label (key=value)
    #[arg(long)]
    pub(crate) label: Vec<String>,
    /// Name; one is made up without
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArgs {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Remove the container when it exits
    #[arg(long = "rm")]
    pub(crate) remove: bool,
    /// Print what would be done, and by which plugin; change nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// Key sequence for detaching
    #[arg(long)]
    pub(crate) detach_keys: Option<String>,
    /// Pass signals on to the process
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) sig_proxy: bool,
    #[command(flatten)]
    pub(crate) create: CreateArgs,
}

/// Everything that makes a container; shared by `create` and `run`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct CreateArgs {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    pub(crate) help: Option<bool>,
    /// Name of the container
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Attach to stdin, stdout or stderr
    #[arg(short, long)]
    pub(crate) attach: Vec<String>,
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
    /// Working directory inside the container
    #[arg(short, long)]
    pub(crate) workdir: Option<String>,
    /// User name or id (name|uid[:group|gid])
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Additional groups
    #[arg(long)]
    pub(crate) group_add: Vec<String>,
    /// Bind mount or volume (source:target[:options])
    #[arg(short, long)]
    pub(crate) volume: Vec<String>,
    /// Mount in long form (type=bind,source=…,target=…)
    #[arg(long)]
    pub(crate) mount: Vec<String>,
    /// Mount all volumes of other containers
    #[arg(long)]
    pub(crate) volumes_from: Vec<String>,
    /// Mount a tmpfs (path[:options])
    #[arg(long)]
    pub(crate) tmpfs: Vec<String>,
    /// Publish ports ([ip:][host:]container[/protocol])
    #[arg(short, long)]
    pub(crate) publish: Vec<String>,
    /// Publish all exposed ports
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Expose ports
    #[arg(long)]
    pub(crate) expose: Vec<String>,
    /// Connect to a network
    #[arg(long, visible_alias = "net")]
    pub(crate) network: Option<String>,
    /// Further name in the network
    #[arg(long)]
    pub(crate) network_alias: Vec<String>,
    /// IPv4 address
    #[arg(long)]
    pub(crate) ip: Option<String>,
    /// MAC address
    #[arg(long)]
    pub(crate) mac_address: Option<String>,
    /// DNS servers
    #[arg(long)]
    pub(crate) dns: Vec<String>,
    /// DNS search domains
    #[arg(long)]
    pub(crate) dns_search: Vec<String>,
    /// Line for /etc/hosts (name:ip)
    #[arg(long)]
    pub(crate) add_host: Vec<String>,
    /// Host name of the container
    #[arg(short = 'h', long)]
    pub(crate) hostname: Option<String>,
    /// Memory limit
    #[arg(short, long)]
    pub(crate) memory: Option<String>,
    /// Memory plus swap, -1 for unlimited
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<String>,
    /// Soft memory limit
    #[arg(long)]
    pub(crate) memory_reservation: Option<String>,
    /// Number of CPUs
    #[arg(long)]
    pub(crate) cpus: Option<f64>,
    /// Relative weight
    #[arg(short = 'c', long)]
    pub(crate) cpu_shares: Option<i64>,
    /// CPUs to run on (0-3,5)
    #[arg(long)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Limit on processes, -1 for unlimited
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) pids_limit: Option<i64>,
    /// Resource limit (name=soft[:hard])
    #[arg(long)]
    pub(crate) ulimit: Vec<String>,
    /// Size of /dev/shm
    #[arg(long)]
    pub(crate) shm_size: Option<String>,
    /// Add capabilities
    #[arg(long)]
    pub(crate) cap_add: Vec<String>,
    /// Drop capabilities
    #[arg(long)]
    pub(crate) cap_drop: Vec<String>,
    /// All capabilities and devices, no confinement
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Security option
    #[arg(long)]
    pub(crate) security_opt: Vec<String>,
    /// Add a host device (host[:container[:permissions]])
    #[arg(long)]
    pub(crate) device: Vec<String>,
    /// Read-only root file system
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Run an init that reaps processes and forwards signals
    #[arg(long)]
    pub(crate) init: bool,
    /// Replace the image's entrypoint
    #[arg(long)]
    pub(crate) entrypoint: Option<String>,
    /// Restart policy (no, always, unless-stopped, on-failure[:n])
    #[arg(long)]
    pub(crate) restart: Option<String>,
    /// Signal that stops the container
    #[arg(long)]
    pub(crate) stop_signal: Option<String>,
    /// Seconds to wait before killing
    #[arg(long)]
    pub(crate) stop_timeout: Option<i64>,
    /// Label (key=value)
    #[arg(short, long)]
    pub(crate) label: Vec<String>,
    /// Kernel parameter (key=value)
    #[arg(long)]
    pub(crate) sysctl: Vec<String>,
    /// Log driver
    #[arg(long)]
    pub(crate) log_driver: Option<String>,
    /// Log driver option (key=value)
    #[arg(long)]
    pub(crate) log_opt: Vec<String>,
    /// Process ids: host or container:NAME
    #[arg(long)]
    pub(crate) pid: Option<String>,
    /// IPC: host, private, shareable or container:NAME
    #[arg(long)]
    pub(crate) ipc: Option<String>,
    /// Host name namespace: host
    #[arg(long)]
    pub(crate) uts: Option<String>,
    /// User namespace: host, or auto[:size=N] for ids of its own
    #[arg(long)]
    pub(crate) userns: Option<String>,
    /// Parent cgroup
    #[arg(long)]
    pub(crate) cgroup_parent: Option<String>,
    /// Write the container's id to this file
    #[arg(long)]
    pub(crate) cidfile: Option<std::path::PathBuf>,
    /// When to pull: missing, always or never
    #[arg(long, default_value = "missing")]
    pub(crate) pull: String,
    /// Platform (os/architecture)
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND]")]
    pub(crate) command: Vec<String>,
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
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_name = "CONTAINER COMMAND")]
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
    /// Remove their anonymous volumes
    #[arg(short, long)]
    pub(crate) volumes: bool,
    /// Containers
    #[arg(required = true)]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Show also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Filter (key=value)
    #[arg(short, long)]
    pub(crate) filter: Vec<String>,
    /// Format with a Go template, `json` or `table`
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Show the last n
    #[arg(short = 'n', long)]
    pub(crate) last: Option<i64>,
    /// Show the latest
    #[arg(short, long)]
    pub(crate) latest: bool,
    /// Do not shorten
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
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
pub(crate) struct InspectArgs {
    /// Format with a Go template or `json`
    #[arg(short, long)]
    pub(crate) format: Option<String>,
    /// Kind of object: container, image, network or volume
    #[arg(long = "type")]
    pub(crate) kind: Option<String>,
    /// Show sizes
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Names or ids
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesArgs {
    /// Show also intermediate ones
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Show digests
    #[arg(long)]
    pub(crate) digests: bool,
    /// Filter (key=value)
    #[arg(short, long)]
    pub(crate) filter: Vec<String>,
    /// Format with a Go template, `json` or `table`
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Do not shorten
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Only images of this name
    pub(crate) reference: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Dockerfile instruction to apply
    #[arg(short, long)]
    pub(crate) change: Vec<String>,
    /// Commit message
    #[arg(short, long)]
    pub(crate) message: Option<String>,
    /// Platform (os/architecture)
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// File, or - for standard input
    pub(crate) file: String,
    /// Name of the new image
    pub(crate) reference: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Read from this file instead of standard input
    #[arg(short, long)]
    pub(crate) input: Option<std::path::PathBuf>,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Download all tags of the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Platform of the image: os/architecture[/variant]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Image
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Upload all tags of the repository
    #[arg(short, long)]
    pub(crate) all_tags: bool,
    /// Print no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Image
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// User name
    #[arg(short, long)]
    pub(crate) username: Option<String>,
    /// Password
    #[arg(short, long)]
    pub(crate) password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Registry; the Docker Hub if not given
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// Registry; the Docker Hub if not given
    pub(crate) server: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// Only what fits: is-official=true, stars=3
    #[arg(short, long)]
    pub(crate) filter: Vec<String>,
    /// Template or "json" or "table"
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// At most this many
    #[arg(long)]
    pub(crate) limit: Option<u32>,
    /// Do not shorten descriptions
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// What to look for, after a registry's name and a slash if it is not the Docker Hub
    pub(crate) term: String,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// File to write to instead of standard output
    #[arg(short, long)]
    pub(crate) output: Option<std::path::PathBuf>,
    /// Images
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Image
    pub(crate) source: String,
    /// New name
    pub(crate) target: String,
}

#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Remove even where it is used
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Keep untagged parents
    #[arg(long)]
    pub(crate) no_prune: bool,
    /// Images
    #[arg(required = true)]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Format with a Go template, `json` or `table`
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Do not shorten
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Image
    pub(crate) image: String,
}

#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// Format with a Go template or `json`
    #[arg(short, long)]
    pub(crate) format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Filter (key=value)
    #[arg(short, long)]
    pub(crate) filter: Vec<String>,
    /// Format with a Go template or `json`
    #[arg(long)]
    pub(crate) format: Option<String>,
    /// Replay since this time or duration ago
    #[arg(long)]
    pub(crate) since: Option<String>,
    /// Stop at this time
    #[arg(long)]
    pub(crate) until: Option<String>,
}
