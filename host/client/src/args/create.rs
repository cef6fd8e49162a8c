//! What makes a container.

use clap::Args;

use super::RestArgs;

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArgs {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    pub(crate) detach: bool,
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
    /// Connect to a network (NAME, or name=NAME,alias=…,ip=…,gw-priority=…); may be repeated
    #[arg(long, visible_alias = "net")]
    pub(crate) network: Vec<String>,
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
    /// Do not show the progress of a pull
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Remove the container when it exits
    #[arg(long = "rm")]
    pub(crate) remove: bool,
    #[command(flatten)]
    pub(crate) rest: RestArgs,
    /// Image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND]")]
    pub(crate) command: Vec<String>,
}
