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
    Disconnect(DisconnectArgs),
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
    /// Address that is not given to containers (name=address)
    #[arg(long)]
    pub(crate) aux_address: Vec<String>,
    /// Driver that gives out addresses
    #[arg(long, default_value = "default")]
    pub(crate) ipam_driver: String,
    /// Option of that driver (key=value)
    #[arg(long)]
    pub(crate) ipam_opt: Vec<String>,
    /// Containers may be connected by hand
    #[arg(long)]
    pub(crate) attachable: bool,
    /// Scope of the network
    #[arg(long)]
    pub(crate) scope: Option<String>,
    /// Turn IPv4 on or off
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) ipv4: Option<bool>,
    /// Turn IPv6 on or off
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) ipv6: Option<bool>,
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
    /// IPv6 address
    #[arg(long)]
    pub(crate) ip6: Option<String>,
    /// Link-local address
    #[arg(long)]
    pub(crate) link_local_ip: Vec<String>,
    /// Link to another container (name[:alias])
    #[arg(long)]
    pub(crate) link: Vec<String>,
    /// Option of the driver (key=value)
    #[arg(long)]
    pub(crate) driver_opt: Vec<String>,
    /// The network of the highest number is the default route
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(crate) gw_priority: i64,
}

#[derive(Debug, Args)]
pub(crate) struct DisconnectArgs {
    /// Network
    pub(crate) network: String,
    /// Container
    pub(crate) container: String,
    /// Disconnect even where the container is broken
    #[arg(short, long)]
    pub(crate) force: bool,
}
