//! Commands about networks.

use clap::{Args, Subcommand};

use super::{InspectArgs, ListArgs, NamesArgs, PruneArgs};

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
    /// Remove all unused networks
    Prune(PruneArgs),
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
