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

use Kind::{Bool, List, Map, Number, Object, Text};
use Role::{NoEffect, Only, Refused, Works};

const NO_REGISTRY: Role = NoEffect("there is no registry client yet");
const NO_TLS: Role = Refused("TLS is not supported yet; listen on a unix socket");
const NO_SWARM: Role = NoEffect("there is no swarm mode yet");
const NO_RULES: Role = NoEffect("publishing works without it");

/// All of them. What is not here is refused by its name.
pub(crate) const OPTIONS: &[Opt] = &[
    short(
        'H',
        opt("host", "hosts", List, Works, "Address to listen on: unix:///path or tcp://127.0.0.1:port"),
    ),
    opt("data-root", "data-root", Text, Works, "Directory of all that is kept over a reboot"),
    opt("exec-root", "exec-root", Text, Works, "Directory of what is not kept over a reboot"),
    short('p', opt("pidfile", "pidfile", Text, Works, "File for the daemon's process id")),
    short('s', opt("storage-driver", "storage-driver", Text, Works, "Storage driver")),
    opt("storage-opt", "storage-opts", List, Works, "Option of the storage driver, key=value"),
    opt("log-driver", "log-driver", Text, Works, "Log driver of containers that name none"),
    opt("log-opt", "log-opts", Map, Works, "Option of that log driver, key=value"),
    short('D', opt("debug", "debug", Bool, Works, "Log more")),
    short('l', opt("log-level", "log-level", Text, Works, "debug, info, warn, error or fatal")),
    opt(
        "log-format",
        "log-format",
        Text,
        Only("text", "the daemon logs lines of text"),
        "Format of the daemon's log",
    ),
    short('G', opt("group", "group", Text, Works, "Group that may use unix sockets; docker if it exists")),
    opt("label", "labels", List, Works, "Label of this daemon, key=value"),
    opt("plugin-dir", "plugin-dirs", List, Works, "Directory with plugins, before the usual ones"),
    opt(
        "allow-insecure-tcp",
        "allow-insecure-tcp",
        Bool,
        Works,
        "Listen on TCP without TLS where others can reach it",
    ),
    short('b', opt("bridge", "bridge", Text, Works, "Name of the default network's bridge")),
    opt("bip", "bip", Text, Works, "Address of the default network's bridge with its prefix, 172.17.0.1/16"),
    opt("mtu", "mtu", Number, Works, "MTU of the default network"),
    opt("dns", "dns", List, Works, "DNS server of containers that name none"),
    opt("dns-search", "dns-search", List, Works, "DNS search domain of containers that name none"),
    opt("dns-opt", "dns-opts", List, Works, "DNS option of containers that name none"),
    opt("cgroup-parent", "cgroup-parent", Text, Works, "Parent of all containers' cgroups"),
    opt("exec-opt", "exec-opts", List, Works, "native.cgroupdriver=cgroupfs"),
    opt("live-restore", "live-restore", Bool, Works, "Leave containers running when the daemon ends"),
    opt(
        "shutdown-timeout",
        "shutdown-timeout",
        Number,
        Works,
        "Seconds that containers get to end when the daemon ends",
    ),
    opt("init", "init", Bool, Works, "Run an init in every container"),
    opt("no-new-privileges", "no-new-privileges", Bool, Works, "Set no_new_privs for every container"),
    opt("", "plugins", Object, Works, "Configuration of plugins by their name"),
    opt("", "features", Object, NoEffect("no feature can be switched"), "Features"),
    opt("", "runtimes", Object, Refused("there is one runtime, the engine itself"), "Runtimes"),
    opt("", "builder", Object, NoEffect("there is no builder yet"), "Builder"),
    opt("", "proxies", Object, NO_REGISTRY, "Proxies"),
    opt(
        "",
        "default-network-opts",
        Object,
        Refused("say the options at network create"),
        "Default network options",
    ),
    opt("containerd", "containerd", Text, NoEffect("no containerd is used"), "Socket of containerd"),
    opt(
        "containerd-namespace",
        "containerd-namespace",
        Text,
        NoEffect("no containerd is used"),
        "Namespace there",
    ),
    opt(
        "containerd-plugins-namespace",
        "containerd-plugins-namespace",
        Text,
        NoEffect("no containerd is used"),
        "Namespace there",
    ),
    opt(
        "insecure-registry",
        "insecure-registries",
        List,
        NO_REGISTRY,
        "Registry to reach without verified TLS",
    ),
    opt("registry-mirror", "registry-mirrors", List, NO_REGISTRY, "Mirror of the Docker Hub"),
    opt(
        "allow-nondistributable-artifacts",
        "allow-nondistributable-artifacts",
        List,
        NO_REGISTRY,
        "Registries that may get such artifacts",
    ),
    opt("max-concurrent-downloads", "max-concurrent-downloads", Number, NO_REGISTRY, "Downloads at a time"),
    opt("max-concurrent-uploads", "max-concurrent-uploads", Number, NO_REGISTRY, "Uploads at a time"),
    opt("max-download-attempts", "max-download-attempts", Number, NO_REGISTRY, "Attempts of a download"),
    opt("http-proxy", "http-proxy", Text, NO_REGISTRY, "Proxy"),
    opt("https-proxy", "https-proxy", Text, NO_REGISTRY, "Proxy"),
    opt("no-proxy", "no-proxy", Text, NO_REGISTRY, "Hosts without proxy"),
    opt(
        "swarm-default-advertise-addr",
        "swarm-default-advertise-addr",
        Text,
        NO_SWARM,
        "Address for the swarm",
    ),
    opt("node-generic-resource", "node-generic-resources", List, NO_SWARM, "Resources for the swarm"),
    opt(
        "experimental",
        "experimental",
        Bool,
        NoEffect("nothing is hidden behind it"),
        "Experimental features",
    ),
    opt("raw-logs", "raw-logs", Bool, NoEffect("the daemon's log has no colours"), "Log without colours"),
    opt("userland-proxy", "userland-proxy", Bool, NO_RULES, "Proxy for published ports"),
    opt("userland-proxy-path", "userland-proxy-path", Text, NO_RULES, "Program for that"),
    opt(
        "oom-score-adjust",
        "oom-score-adjust",
        Number,
        NoEffect("the keeper holds containers, not the daemon"),
        "OOM score of the daemon",
    ),
    opt(
        "metrics-addr",
        "metrics-addr",
        Text,
        Refused("there is no metrics listener yet"),
        "Address for metrics",
    ),
    opt(
        "iptables",
        "iptables",
        Bool,
        Only("true", "the engine's nftables rules are what isolates networks"),
        "Firewall rules",
    ),
    opt(
        "ip6tables",
        "ip6tables",
        Bool,
        Only("true", "the engine's nftables rules are what isolates networks"),
        "Firewall rules",
    ),
    opt("ip-forward", "ip-forward", Bool, Only("true", "networks need it"), "Switch on forwarding"),
    opt("ip-masq", "ip-masq", Bool, Only("true", "say it at network create"), "Masquerading"),
    opt("icc", "icc", Bool, Only("true", "say it at network create"), "Containers reach each other"),
    opt(
        "firewall-backend",
        "firewall-backend",
        Text,
        Only("nftables", "there is no other"),
        "Firewall backend",
    ),
    opt(
        "ip",
        "ip",
        Text,
        Only("0.0.0.0", "say the address with each published port"),
        "Default address of published ports",
    ),
    opt("ipv6", "ipv6", Bool, Only("false", "say it at network create"), "IPv6 in the default network"),
    opt(
        "selinux-enabled",
        "selinux-enabled",
        Bool,
        Only("false", "SELinux labels are not supported yet"),
        "SELinux",
    ),
    opt("rootless", "rootless", Bool, Only("false", "rootless mode is not supported yet"), "Rootless mode"),
    opt(
        "default-runtime",
        "default-runtime",
        Text,
        Only("runc", "there is one runtime, the engine itself"),
        "Default runtime",
    ),
    opt(
        "default-ipc-mode",
        "default-ipc-mode",
        Text,
        Only("private", "say --ipc for each container"),
        "Default IPC mode",
    ),
    opt(
        "default-cgroupns-mode",
        "default-cgroupns-mode",
        Text,
        Only("private", "say --cgroupns for each container"),
        "Default cgroup namespace mode",
    ),
    opt(
        "userns-remap",
        "userns-remap",
        Text,
        Only("", "user namespaces are not supported yet"),
        "User namespaces",
    ),
    opt(
        "seccomp-profile",
        "seccomp-profile",
        Text,
        Only("builtin", "say --security-opt seccomp=FILE for each container"),
        "Default seccomp profile",
    ),
    opt(
        "default-shm-size",
        "default-shm-size",
        Text,
        Refused("say --shm-size for each container"),
        "Default size of /dev/shm",
    ),
    opt(
        "default-ulimit",
        "default-ulimits",
        Object,
        Refused("say --ulimit for each container"),
        "Default resource limits",
    ),
    opt(
        "default-address-pool",
        "default-address-pools",
        List,
        Refused("configure the plugin ipam-pool instead, under \"plugins\""),
        "Address pools",
    ),
    opt(
        "fixed-cidr",
        "fixed-cidr",
        Text,
        Refused("say --ip-range at network create"),
        "Address range of the default network",
    ),
    opt(
        "fixed-cidr-v6",
        "fixed-cidr-v6",
        Text,
        Refused("say --ip-range at network create"),
        "Address range of the default network",
    ),
    opt(
        "default-gateway",
        "default-gateway",
        Text,
        Refused("say --gateway at network create"),
        "Gateway of the default network",
    ),
    opt(
        "default-gateway-v6",
        "default-gateway-v6",
        Text,
        Refused("say --gateway at network create"),
        "Gateway of the default network",
    ),
    opt(
        "authorization-plugin",
        "authorization-plugins",
        List,
        Refused("authorizers are components in a plugin directory"),
        "Authorization plugins",
    ),
    opt("init-path", "init-path", Text, Refused("the engine brings its own init"), "Program for --init"),
    opt("tls", "tls", Bool, Only("false", "TLS is not supported yet; listen on a unix socket"), "TLS"),
    opt(
        "tlsverify",
        "tlsverify",
        Bool,
        Only("false", "TLS is not supported yet; listen on a unix socket"),
        "TLS with client certificates",
    ),
    opt("tlscacert", "tlscacert", Text, NO_TLS, "Certificates that are trusted"),
    opt("tlscert", "tlscert", Text, NO_TLS, "Certificate"),
    opt("tlskey", "tlskey", Text, NO_TLS, "Key"),
];
