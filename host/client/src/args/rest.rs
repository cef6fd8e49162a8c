//! The flags of `run` and `create` that few need.

use clap::Args;

#[derive(Debug, Default, Args)]
pub(crate) struct RestArgs {
    /// Annotation for the runtime (key=value)
    #[arg(long)]
    pub(crate) annotation: Vec<String>,
    /// Block IO weight, 10 to 1000
    #[arg(long)]
    pub(crate) blkio_weight: Option<u16>,
    /// Block IO weight of a device (path:weight)
    #[arg(long)]
    pub(crate) blkio_weight_device: Vec<String>,
    /// Cgroup namespace: host or private
    #[arg(long)]
    pub(crate) cgroupns: Option<String>,
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
    /// Memory nodes to use (0-3,5)
    #[arg(long)]
    pub(crate) cpuset_mems: Option<String>,
    /// Rule for the device cgroup (c 42:* rmw)
    #[arg(long)]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// Bytes per second read from a device (path:rate)
    #[arg(long)]
    pub(crate) device_read_bps: Vec<String>,
    /// Reads per second from a device (path:rate)
    #[arg(long)]
    pub(crate) device_read_iops: Vec<String>,
    /// Bytes per second written to a device (path:rate)
    #[arg(long)]
    pub(crate) device_write_bps: Vec<String>,
    /// Writes per second to a device (path:rate)
    #[arg(long)]
    pub(crate) device_write_iops: Vec<String>,
    /// DNS options
    #[arg(long, visible_alias = "dns-opt")]
    pub(crate) dns_option: Vec<String>,
    /// Domain name of the container
    #[arg(long)]
    pub(crate) domainname: Option<String>,
    /// GPUs (all, a number, or device=…)
    #[arg(long)]
    pub(crate) gpus: Option<String>,
    /// Command that checks the container's health
    #[arg(long)]
    pub(crate) health_cmd: Option<String>,
    /// Time between checks (5s, 1m)
    #[arg(long)]
    pub(crate) health_interval: Option<String>,
    /// Failures until the container is unhealthy
    #[arg(long)]
    pub(crate) health_retries: Option<i64>,
    /// Time between checks in the start period
    #[arg(long)]
    pub(crate) health_start_interval: Option<String>,
    /// Time in which failures do not count
    #[arg(long)]
    pub(crate) health_start_period: Option<String>,
    /// Longest time of one check
    #[arg(long)]
    pub(crate) health_timeout: Option<String>,
    /// No check of health, whatever the image says
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
    /// IPv6 address
    #[arg(long)]
    pub(crate) ip6: Option<String>,
    /// Isolation technology: default
    #[arg(long)]
    pub(crate) isolation: Option<String>,
    /// Read labels from a file
    #[arg(long)]
    pub(crate) label_file: Vec<String>,
    /// Link to another container (name[:alias])
    #[arg(long)]
    pub(crate) link: Vec<String>,
    /// Link-local address
    #[arg(long)]
    pub(crate) link_local_ip: Vec<String>,
    /// Swappiness, 0 to 100
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) memory_swappiness: Option<i64>,
    /// Do not kill on out-of-memory
    #[arg(long)]
    pub(crate) oom_kill_disable: bool,
    /// Preference of the out-of-memory killer, -1000 to 1000
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) oom_score_adj: Option<i64>,
    /// Runtime of this container
    #[arg(long)]
    pub(crate) runtime: Option<String>,
    /// Option of the storage driver (size=1G)
    #[arg(long)]
    pub(crate) storage_opt: Vec<String>,
    /// User namespace: host, or auto[:size=N] for ids of its own
    #[arg(long)]
    pub(crate) userns: Option<String>,
    /// Volume driver of the container's volumes
    #[arg(long)]
    pub(crate) volume_driver: Option<String>,
}
