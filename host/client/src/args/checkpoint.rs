//! Arguments of `checkpoint`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum CheckpointCommand {
    /// Create a checkpoint from a running container
    Create(CheckpointCreateArgs),
    /// List checkpoints of a container
    #[command(visible_alias = "list")]
    Ls(CheckpointListArgs),
    /// Remove a checkpoint
    #[command(visible_alias = "remove")]
    Rm(CheckpointRemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckpointCreateArgs {
    /// Leave the container running
    #[arg(long)]
    pub(crate) leave_running: bool,
    /// Directory of the daemon's host for the checkpoint
    #[arg(long, default_value = "")]
    pub(crate) checkpoint_dir: String,
    /// Container
    pub(crate) container: String,
    /// Name of the checkpoint
    pub(crate) checkpoint: String,
}

#[derive(Debug, Args)]
pub(crate) struct CheckpointListArgs {
    /// Directory of the daemon's host with checkpoints
    #[arg(long, default_value = "")]
    pub(crate) checkpoint_dir: String,
    /// Container
    pub(crate) container: String,
}

#[derive(Debug, Args)]
pub(crate) struct CheckpointRemoveArgs {
    /// Directory of the daemon's host with checkpoints
    #[arg(long, default_value = "")]
    pub(crate) checkpoint_dir: String,
    /// Container
    pub(crate) container: String,
    /// Name of the checkpoint
    pub(crate) checkpoint: String,
}
