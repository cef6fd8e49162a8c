//! The command line's shape: docker's nouns, verbs and flags.

mod container;
mod create;
mod image;
mod network;
mod rest;
mod system;
mod volume;

use clap::{Args, Parser, Subcommand};

pub(crate) use container::*;
pub(crate) use create::*;
pub(crate) use image::*;
pub(crate) use network::*;
pub(crate) use rest::*;
pub(crate) use system::*;
pub(crate) use volume::*;

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
    /// Update the limits and the restart policy of containers
    Update(UpdateArgs),
    #[command(skip)]
    Prune(Pruning),
    #[command(skip)]
    Df(DfArgs),
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
pub(crate) struct InspectArgs {
    /// Format with a Go template or `json`
    #[arg(short, long)]
    pub(crate) format: Option<String>,
    /// Kind of object: container, image, network or volume
    #[arg(long = "type")]
    pub(crate) kind: Option<String>,
    /// Platform of an image: os/architecture[/variant]
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Show sizes
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Names or ids
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}
