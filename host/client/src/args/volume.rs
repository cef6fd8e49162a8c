//! Commands about volumes.

use clap::{Args, Subcommand};

use super::{InspectArgs, ListArgs, NamesArgs, PruneAllArgs};

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
    /// Remove unused local volumes
    Prune(PruneAllArgs),
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
