//! The daemon's options, in one table: name on the command line, name in the configuration file, kind, what they do.

/// What an option holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--x`, `--x=false`; true or false in the file.
    Bool,
    /// One text.
    Text,
    /// A whole number.
    Number,
    /// May be given many times; a list in the file.
    List,
    /// `key=value`, many times; an object of texts in the file.
    Map,
    /// Only in the file: any object.
    Object,
    /// `name=soft[:hard]`, many times; an object of limits in the file.
    Ulimits,
    /// `base=10.0.0.0/8,size=24`, many times; a list of objects in the file.
    Pools,
    /// `driver=key=value`, many times; an object of objects in the file.
    Nested,
    /// `key=bool`, many times; an object of bools in the file.
    Switches,
    /// `name=path`, many times; an object of objects in the file.
    Runtimes,
    /// A number of bytes, or a text such as `64m`.
    Size,
}

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It does what it says.
    Works,
    /// Accepted because much that starts a dockerd says it; there is nothing here that it could change. A word why.
    NoEffect(&'static str),
    /// Only this value is what the engine does anyway; others are refused with the reason.
    Only(&'static str, &'static str),
    /// Known and refused, with the reason.
    Refused(&'static str),
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opt {
    pub(crate) flag: &'static str,
    pub(crate) short: Option<char>,
    /// Name in the configuration file.
    pub(crate) key: &'static str,
    pub(crate) kind: Kind,
    pub(crate) role: Role,
    pub(crate) help: &'static str,
}

const fn opt(flag: &'static str, key: &'static str, kind: Kind, role: Role, help: &'static str) -> Opt {
    Opt { flag, short: None, key, kind, role, help }
}

const fn short(letter: char, option: Opt) -> Opt {
    Opt { short: Some(letter), ..option }
}

use Kind::{Bool, List, Map, Nested, Number, Object, Pools, Runtimes, Size, Switches, Text, Ulimits};
use Role::{NoEffect, Only, Refused, Works};

const NO_SWARM: Role = NoEffect("there is no swarm mode yet");
const NO_CONTAINERD: Role = NoEffect("no containerd is used");

/// All of them. What is not here is refused by its name.
#[rustfmt::skip]
pub(crate) const OPTIONS: &[Opt] = &[
    // The daemon itself.
    short('H', opt("host", "hosts", List, Works, "Address to listen on: unix:///path, tcp://address:port or fd://")),
    opt("data-root", "data-root", Text, Works, "Directory of all that is kept over a reboot"),
    opt("exec-root", "exec-root", Text, Works, "Directory of what is not kept over a reboot"),
    short('p', opt("pidfile", "pidfile", Text, Works, "File for the daemon's process id")),
    short('D', opt("debug", "debug", Bool, Works, "Log more")),
    short('l', opt("log-level", "log-level", Text, Works, "debug, info, warn, error or fatal")),
    opt("log-format", "log-format", Text, Works, "Format of the daemon's log: text or json"),
    opt("raw-logs", "raw-logs", Bool, NoEffect("the daemon's log has no colours"), "Log without colours"),
    short('G', opt("group", "group", Text, Works, "Group that may use unix sockets; docker if it exists")),
    opt("label", "labels", List, Works, "Label of this daemon, key=value"),
    opt("plugin-dir", "plugin-dirs", List, Works, "Directory with plugins, before the usual ones"),
    opt("", "plugins", Object, Works, "Configuration of plugins by their name"),
    opt("authorization-plugin", "authorization-plugins", List, Works, "Authorization plugin that must be there"),
    opt("live-restore", "live-restore", Bool, Works, "Leave containers running when the daemon ends"),
    opt("shutdown-timeout", "shutdown-timeout", Number, Works, "Seconds that containers get to end when the daemon ends"),
    opt("metrics-addr", "metrics-addr", Text, Works, "Address to serve metrics on, address:port"),
    opt("feature", "features", Switches, Works, "Switch a feature: cdi=false"),
    opt("experimental", "experimental", Bool, Works, "Experimental features: checkpoints"),
    opt("oom-score-adjust", "oom-score-adjust", Number, Works, "OOM score of the daemon"),
    opt("rootless", "rootless", Bool, Only("false", "rootless mode is not supported yet"), "Rootless mode"),
    // Who may come in.
    opt("allow-insecure-tcp", "allow-insecure-tcp", Bool, Works,
        "Listen on TCP without client certificates where others can reach it"),
    opt("tls", "tls", Bool, Works, "Use TLS on TCP; implied by --tlsverify"),
    opt("tlsverify", "tlsverify", Bool, Works, "Use TLS and ask clients for a certificate"),
    opt("tlscacert", "tlscacert", Text, Works, "Trust client certificates of this CA only"),
    opt("tlscert", "tlscert", Text, Works, "Path of the TLS certificate"),
    opt("tlskey", "tlskey", Text, Works, "Path of the TLS key"),
    // Storage and logs.
    short('s', opt("storage-driver", "storage-driver", Text, Works, "Storage driver")),
    opt("storage-opt", "storage-opts", List, Works, "Option of the storage driver, key=value"),
    opt("log-driver", "log-driver", Text, Works, "Log driver of containers that name none"),
    opt("log-opt", "log-opts", Map, Works, "Option of that log driver, key=value"),
    // The default network.
    short('b', opt("bridge", "bridge", Text, Works, "Name of the default network's bridge")),
    opt("bip", "bip", Text, Works, "Address of the default network's bridge with its prefix, 172.17.0.1/16"),
    opt("bip6", "bip6", Text, Refused("say --fixed-cidr-v6 and --default-gateway-v6"), "IPv6 address of the bridge"),
    opt("mtu", "mtu", Number, Works, "MTU of the default network"),
    opt("fixed-cidr", "fixed-cidr", Text, Works, "Addresses of the default network are given from here"),
    opt("fixed-cidr-v6", "fixed-cidr-v6", Text, Works, "IPv6 subnet of the default network"),
    opt("default-gateway", "default-gateway", Text, Works, "Gateway of the default network"),
    opt("default-gateway-v6", "default-gateway-v6", Text, Works, "IPv6 gateway of the default network"),
    opt("ipv6", "ipv6", Bool, Works, "IPv6 in the default network"),
    opt("icc", "icc", Bool, Works, "Containers of the default network reach each other"),
    opt("ip", "ip", Text, Works, "Address that ports of the default network are published on"),
    opt("ip-masq", "ip-masq", Bool, Works, "Masquerading in the default network"),
    opt("default-network-opt", "default-network-opts", Nested, Works, "Option of new networks, driver=key=value"),
    opt("default-address-pool", "default-address-pools", Pools, Works, "Networks to choose from: base=10.0.0.0/8,size=24"),
    opt("host-gateway-ip", "host-gateway-ips", List, Works, "What host-gateway of --add-host stands for"),
    opt("dns", "dns", List, Works, "DNS server of containers that name none"),
    opt("dns-search", "dns-search", List, Works, "DNS search domain of containers that name none"),
    opt("dns-opt", "dns-opts", List, Works, "DNS option of containers that name none"),
    opt("iptables", "iptables", Bool, Only("true", "the engine's nftables rules are what isolates networks"), "Firewall rules"),
    opt("ip6tables", "ip6tables", Bool, Only("true", "the engine's nftables rules are what isolates networks"), "Firewall rules"),
    opt("ip-forward", "ip-forward", Bool, Only("true", "networks need it; it is switched on for containers alone"), "Switch on forwarding"),
    opt("ip-forward-no-drop", "ip-forward-no-drop", Bool, Only("false", "a host that was no router shall not become one"), "Forward for others too"),
    opt("allow-direct-routing", "allow-direct-routing", Bool, Only("false", "say it at network create"), "Published ports by the container's own address"),
    opt("bridge-accept-fwmark", "bridge-accept-fwmark", Text, Only("", "the engine's rules know no marks"), "Mark of packets to accept"),
    opt("firewall-backend", "firewall-backend", Text, Only("nftables", "there is no other"), "Firewall backend"),
    opt("userland-proxy", "userland-proxy", Bool, Works, "Carry published ports on from addresses of IPv6 from which the kernel cannot"),
    opt("userland-proxy-path", "userland-proxy-path", Text, NoEffect("the engine brings its own"), "Program for that"),
    opt("network-control-plane-mtu", "network-control-plane-mtu", Number, NO_SWARM, "MTU of the cluster's own traffic"),
    opt("network-diagnostic-port", "network-diagnostic-port", Number, NO_SWARM, "Port to diagnose the cluster's network"),
    // Containers.
    opt("init", "init", Bool, Works, "Run an init in every container"),
    opt("init-path", "init-path", Text, Refused("the engine brings its own init"), "Program for --init"),
    opt("no-new-privileges", "no-new-privileges", Bool, Works, "Set no_new_privs for every container"),
    opt("default-ulimit", "default-ulimits", Ulimits, Works, "Process limit of containers that do not set it, name=soft:hard"),
    opt("default-shm-size", "default-shm-size", Size, Works, "Size of /dev/shm"),
    opt("default-ipc-mode", "default-ipc-mode", Text, Works, "private or shareable"),
    opt("default-cgroupns-mode", "default-cgroupns-mode", Text, Works, "private or host"),
    opt("cgroup-parent", "cgroup-parent", Text, Works, "Parent of all containers' cgroups"),
    opt("exec-opt", "exec-opts", List, Works, "native.cgroupdriver=cgroupfs or systemd"),
    opt("cpu-rt-period", "cpu-rt-period", Number, Works, "Real-time period of the cgroups above containers, in microseconds"),
    opt("cpu-rt-runtime", "cpu-rt-runtime", Number, Works, "Real-time budget of the cgroups above containers, in microseconds of each period"),
    opt("userns-remap", "userns-remap", Text, Works, "User namespace of containers: default, user[:group], or auto for a range each"),
    opt("seccomp-profile", "seccomp-profile", Text, Works, "Seccomp rules: builtin, unconfined or a file"),
    opt("selinux-enabled", "selinux-enabled", Bool, Works, "Label containers for SELinux"),
    opt("criu", "criu", Text, Works, "Program that makes and restores checkpoints; by default criu, where it is installed"),
    opt("add-runtime", "runtimes", Runtimes, Works, "Further runtime, name=path"),
    opt("default-runtime", "default-runtime", Text, Works, "Runtime of containers that name none"),
    opt("cdi-spec-dir", "cdi-spec-dirs", List, Works, "Directory with descriptions of CDI devices"),
    // Registries.
    opt("insecure-registry", "insecure-registries", List, Works, "Registry to reach without verified TLS"),
    opt("registry-config-dir", "registry-config-dirs", List, Works, "Directory with hosts.toml and certificates per registry"),
    opt("registry-stall-timeout", "registry-stall-timeout", Number, Works, "Seconds in which a transfer has to bring something"),
    opt("", "registry-serve", Object, Works, "A registry of this engine's images"),
    opt("registry-push-compression", "registry-push-compression", Text, Works, "How layers are sent: gzip, zstd or uncompressed"),
    opt("registry-push-compression-level", "registry-push-compression-level", Number, Works, "Level of that compression"),
    opt("registry-mirror", "registry-mirrors", List, Works, "Mirror of the Docker Hub"),
    opt("max-concurrent-downloads", "max-concurrent-downloads", Number, Works, "Downloads at a time"),
    opt("max-concurrent-uploads", "max-concurrent-uploads", Number, Works, "Uploads at a time"),
    opt("max-download-attempts", "max-download-attempts", Number, Works, "Attempts of a download"),
    opt("http-proxy", "http-proxy", Text, Works, "Proxy for plain HTTP to registries"),
    opt("https-proxy", "https-proxy", Text, Works, "Proxy for HTTPS to registries"),
    opt("no-proxy", "no-proxy", Text, Works, "Hosts that are reached without a proxy"),
    opt("", "proxies", Map, Works, "The three above, in one object"),
    opt("", "builder", Object, NoEffect("there is no builder yet"), "Builder"),
    opt("", "image-gc", Object, Works, "Policies by which images that nothing uses are removed"),
    // What others have.
    opt("containerd", "containerd", Text, NO_CONTAINERD, "Socket of containerd"),
    opt("containerd-namespace", "containerd-namespace", Text, NO_CONTAINERD, "Namespace there"),
    opt("containerd-plugins-namespace", "containerd-plugins-namespace", Text, NO_CONTAINERD, "Namespace there"),
    opt("cri-containerd", "cri-containerd", Bool, NO_CONTAINERD, "Start containerd with CRI"),
    opt("swarm-default-advertise-addr", "swarm-default-advertise-addr", Text, NO_SWARM, "Address for the swarm"),
    opt("node-generic-resource", "node-generic-resources", List, NO_SWARM, "Resources for the swarm"),
];
