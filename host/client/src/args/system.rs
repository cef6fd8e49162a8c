//! Commands about the daemon as a whole.

use clap::{Args, Subcommand};

use super::Command;

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Display system-wide information
    Info(FormatArgs),
    /// Get real time events from the daemon
    Events(EventsArgs),
    /// Show disk usage
    Df(DfArgs),
    /// Remove unused data
    Prune(SystemPruneArgs),
    /// Proxy standard input and output to the daemon
    #[command(name = "dial-stdio")]
    DialStdio,
}

impl From<SystemCommand> for Command {
    fn from(command: SystemCommand) -> Self {
        match command {
            SystemCommand::Info(a) => Self::Info(a),
            SystemCommand::Events(a) => Self::Events(a),
            SystemCommand::Df(a) => Self::Df(a),
            SystemCommand::Prune(a) => Self::Prune(Pruning::System(a)),
            SystemCommand::DialStdio => Self::DialStdio,
        }
    }
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

#[derive(Debug, Args)]
pub(crate) struct DfArgs {
    /// Show detailed information on space usage
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Format with a Go template, `json` or `table`
    #[arg(long)]
    pub(crate) format: Option<String>,
}

/// What `prune` commands have in common.
#[derive(Debug, Default, Args)]
pub(crate) struct PruneArgs {
    /// Do not prompt for confirmation
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Filter (until=…, label=…)
    #[arg(long)]
    pub(crate) filter: Vec<String>,
}

/// The same, with a choice between unnamed and all.
#[derive(Debug, Default, Args)]
pub(crate) struct PruneAllArgs {
    /// Remove all unused ones, not just those without a name
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) common: PruneArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SystemPruneArgs {
    /// Prune anonymous volumes
    #[arg(long)]
    pub(crate) volumes: bool,
    #[command(flatten)]
    pub(crate) images: PruneAllArgs,
}

/// What is pruned.
#[derive(Debug)]
pub(crate) enum Pruning {
    /// Stopped containers.
    Containers(PruneArgs),
    /// Unused images.
    Images(super::image::ImagePruneArgs),
    /// Unused networks.
    Networks(PruneArgs),
    /// Unused volumes.
    Volumes(PruneAllArgs),
    /// All of them.
    System(SystemPruneArgs),
}
