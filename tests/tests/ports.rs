//! Published ports, with the docker CLI.

#![cfg(test)]

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wharf_tests::{Daemon, in_network};

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.import_busybox();
    daemon
}

fn ports(d: &Daemon, container: &str) -> Value {
    let text = d.docker(&["inspect", "-f", "{{json .NetworkSettings.Ports}}", container]).ok();
    serde_json::from_str(&text).unwrap()
}

fn run(d: &Daemon, name: &str, publish: &[&str]) -> wharf_tests::Ran {
    let line = [&["run", "-d", "--name", name], publish, &["busybox", "sleep", "100000"]].concat();
    d.docker(&line)
}

#[test]
fn the_first_free_port_of_a_range_is_taken() {
    let d = daemon();
    // A process of the host has the first one.
    let held = in_network(&d.namespace(), || std::net::TcpListener::bind("0.0.0.0:8000").unwrap());
    for (name, port) in [("a", "8001"), ("b", "8002")] {
        let name = format!("first-{name}");
        run(&d, &name, &["-p", "8000-8002:80"]).ok();
        let both = json!([{"HostIp": "0.0.0.0", "HostPort": port}, {"HostIp": "::", "HostPort": port}]);
        assert_eq!(ports(&d, &name)["80/tcp"], both);
    }
    // None is left: it is said, and nothing of it stays.
    run(&d, "none", &["-p", "8000-8002:80"]).fails(125, "8000");
    drop(held);
    d.docker(&["start", "none"]).ok();
    assert_eq!(ports(&d, "none")["80/tcp"][0]["HostPort"], "8000");
    // The other protocol has ports of its own, and what is asked for by its number goes first.
    run(&d, "udp", &["-p", "8000-8002:80/udp", "-p", "8000:81/udp"]).ok();
    assert_eq!(ports(&d, "udp")["80/udp"][0]["HostPort"], "8001");
    assert_eq!(ports(&d, "udp")["81/udp"][0]["HostPort"], "8000");
    // What was given back is free again.
    d.docker(&["rm", "-f", "first-a"]).ok();
    run(&d, "next", &["-p", "8000-8002:80"]).ok();
    assert_eq!(ports(&d, "next")["80/tcp"][0]["HostPort"], "8001");
    // Ranges of equal length go side by side.
    run(&d, "pairs", &["-p", "9000-9002:80-82"]).ok();
    for n in 0..3 {
        assert_eq!(ports(&d, "pairs")[format!("{}/tcp", 80 + n)][0]["HostPort"], (9000 + n).to_string());
    }
}

/// A network may be left and another one entered while a container runs: what leads out of it is then that one, with its ports.
#[test]
fn networks_come_and_go() {
    let d = daemon();
    for network in ["one", "two", "three"] {
        d.docker(&["network", "create", network]).ok();
    }
    run(&d, "web", &["--network", "one", "-p", "8000:80"]).ok();
    d.docker(&["network", "connect", "two", "web"]).ok();
    d.docker(&["network", "disconnect", "one", "web"]).ok();
    d.docker(&["network", "connect", "three", "web"]).ok();
    let links = d.docker(&["exec", "web", "ls", "/sys/class/net"]).ok();
    assert_eq!(links.split_whitespace().collect::<Vec<_>>(), ["eth0", "eth1", "lo"]);
    let route = d.docker(&["exec", "web", "ip", "route", "show", "default"]).ok();
    let gateway = d.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "three"]).ok();
    assert!(route.contains(&format!("via {gateway} ")), "{route}, not {gateway}");
    assert_eq!(ports(&d, "web")["80/tcp"][0]["HostPort"], "8000");
    for network in ["two", "three"] {
        d.docker(&["network", "disconnect", network, "web"]).ok();
    }
    assert_eq!(d.docker(&["exec", "web", "ls", "/sys/class/net"]).ok(), "lo");
    d.docker(&["network", "connect", "one", "web"]).ok();
    assert_eq!(ports(&d, "web")["80/tcp"][0]["HostPort"], "8000");
    d.docker(&["rm", "-f", "web"]).ok();
}

#[test]
fn many_starts_share_a_range() {
    let d = daemon();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let d = &d;
            scope.spawn(move || run(d, &format!("many{n}"), &["-p", "8100-8107:80"]).ok());
        }
    });
    let all: BTreeSet<String> =
        (0..8).map(|n| ports(&d, &format!("many{n}"))["80/tcp"][0]["HostPort"].to_string()).collect();
    assert_eq!(all.len(), 8, "{all:?}");
}

#[test]
fn both_families_of_a_network_are_published() {
    let d = daemon();
    d.docker(&["network", "create", "--ipv6", "--subnet", "fd00:77::/64", "dual"]).ok();
    run(&d, "web", &["--network", "dual", "-p", "80"]).ok();
    let found = ports(&d, "web")["80/tcp"].as_array().unwrap().clone();
    let hosts: BTreeSet<&str> = found.iter().map(|b| b["HostIp"].as_str().unwrap()).collect();
    assert_eq!(hosts, BTreeSet::from(["0.0.0.0", "::"]));
    assert_eq!(found[0]["HostPort"], found[1]["HostPort"], "one number for both");
    let shown = d.docker(&["port", "web", "80"]).ok();
    assert!(shown.contains("0.0.0.0:") && shown.contains("[::]:"), "{shown}");
    run(&d, "six", &["--network", "dual", "-p", "[::1]:8080:80"]).ok();
    assert_eq!(ports(&d, "six")["80/tcp"], json!([{"HostIp": "::1", "HostPort": "8080"}]));
    run(&d, "range", &["--network", "dual", "-p", "8080-8090:80"]).ok();
    let port = ports(&d, "range")["80/tcp"][0]["HostPort"].clone();
    assert_eq!(port, "8081", "8080 is taken in one family");
}
