//! `--link` and its kin: names, in /etc/hosts or asked for, that follow what they lead to.

#![cfg(test)]

use serde_json::{Value, json};
use wharf_tests::{Daemon, eventually};

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.import_busybox();
    daemon
}

fn hosts(d: &Daemon, container: &str) -> String {
    d.docker(&["exec", container, "cat", "/etc/hosts"]).ok()
}

/// The address that a name has inside.
fn address(d: &Daemon, container: &str, name: &str) -> Option<String> {
    let text = hosts(d, container);
    let line = text.lines().find(|line| line.split_whitespace().skip(1).any(|word| word == name))?;
    line.split_whitespace().next().map(str::to_owned)
}

/// The address that a name leads to for who asks the container's name server.
fn resolved(d: &Daemon, container: &str, name: &str) -> Option<String> {
    let said = d.docker(&["exec", container, "nslookup", "-type=a", name]).out;
    let mut lines = said.lines().skip_while(|line| !line.starts_with("Name:"));
    lines.find_map(|line| line.strip_prefix("Address: ").map(str::to_owned))
}

fn ip(d: &Daemon, container: &str) -> String {
    d.docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container]).ok()
}

#[test]
fn links_of_the_default_network() {
    let d = daemon();
    d.docker(&["run", "-d", "--name", "db", "-h", "dbhost", "busybox", "sleep", "1000"]).ok();
    d.docker(&[
        "run", "-d", "--name", "web", "--link", "db:mydb", "--link", "db", "busybox", "sleep", "1000",
    ])
    .ok();
    for name in ["mydb", "dbhost", "db"] {
        assert_eq!(address(&d, "web", name), Some(ip(&d, "db")), "{name}");
    }
    d.docker(&["exec", "web", "ping", "-c", "1", "-W", "5", "mydb"]).ok();
    let links: Value =
        serde_json::from_str(&d.docker(&["inspect", "-f", "{{json .HostConfig.Links}}", "web"]).ok())
            .unwrap();
    assert_eq!(links, json!(["/db:/web/mydb", "/db:/web/db"]));
    let names = |id: &str| {
        let list: Value = d.api("GET", "/containers/json", "").json();
        let one =
            list.as_array().unwrap().iter().find(|c| c["Names"].as_array().unwrap().contains(&json!(id)));
        one.unwrap()["Names"].clone()
    };
    assert_eq!(names("/db"), json!(["/web/mydb", "/web/db", "/db"]));
    // Another address, another line.
    d.docker(&["stop", "-t", "0", "db"]).ok();
    d.docker(&["run", "-d", "--name", "between", "busybox", "sleep", "1000"]).ok();
    d.docker(&["start", "db"]).ok();
    eventually("the new address", || (address(&d, "web", "mydb") == Some(ip(&d, "db"))).then_some(()));
    assert_ne!(ip(&d, "between"), ip(&d, "db"));
    // A link follows its container under another name.
    d.docker(&["rename", "db", "base"]).ok();
    let shown = d.docker(&["inspect", "-f", "{{.HostConfig.Links}}", "web"]).ok();
    assert_eq!(shown, "[/base:/web/mydb /base:/web/db]");
    // What `inspect` shows makes the same link again.
    d.docker(&["run", "-d", "--name", "again", "--link", "/base:/web/mydb", "busybox", "sleep", "1000"]).ok();
    assert_eq!(address(&d, "again", "mydb"), Some(ip(&d, "base")));
    d.docker(&["rm", "--link", "/web/mydb"]).ok();
    assert_eq!(address(&d, "web", "mydb"), None);
    assert_eq!(address(&d, "web", "db"), Some(ip(&d, "base")));
    // Parents are in the order of their ids.
    let mut shown: Vec<String> = serde_json::from_value(names("/base")).unwrap();
    shown.sort();
    assert_eq!(shown, ["/again/mydb", "/base", "/web/db"]);
    d.docker(&["rm", "--link", "/web/mydb"]).fails(1, "No such container");
    d.docker(&["rm", "--link", "web"])
        .fails(1, "Conflict, cannot remove the default link name of the container");
    assert_eq!(d.docker(&["ps", "-q"]).ok().lines().count(), 4);
}

#[test]
fn links_that_lead_nowhere() {
    let mut d = daemon();
    let create = |d: &Daemon, links: &[&str], mode: &str| {
        let host = json!({"Links": links, "NetworkMode": mode});
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host}).to_string();
        let answer = d.api("POST", "/containers/create", &body);
        (answer.status, answer.message())
    };
    d.docker(&["run", "-d", "--name", "hosted", "--network", "host", "busybox", "sleep", "1000"]).ok();
    d.docker(&["create", "--name", "idle", "busybox", "sleep", "1000"]).ok();
    for (links, mode, text) in [
        (&["nosuch:x"][..], "bridge", "could not get container for nosuch"),
        (&["a:b:c"], "bridge", "bad format for links: a:b:c"),
        (&["idle:x\n6.6.6.6 evil"], "bridge", "bad format for links"),
        (&["hosted:x"], "bridge", "host type networking can't be used with links"),
        (&["idle:x"], "host", "host type networking can't be used with links"),
        (&["idle:x"], "container:idle", "container type network can't be used with links"),
    ] {
        let (status, said) = create(&d, links, mode);
        assert!(status == 400 && said.contains(text), "{links:?} {mode}: {status} {said}");
    }
    assert_eq!(create(&d, &["idle:x", "hosted:x"], "bridge").0, 400);
    let refused = d.docker(&["run", "--name", "web", "--link", "idle:x", "busybox", "true"]);
    refused.fails(125, "Cannot link to a non running container: /idle AS /web/x");
    // The link is there, and its other end may come later; also to a daemon that was killed.
    d.crash();
    d.restart();
    d.docker(&["start", "idle"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.HostConfig.Links}}", "web"]).ok(), "[/idle:/web/x]");
    d.docker(&["start", "-a", "web"]).ok();
    // Its end gone, a link is no obstacle.
    d.docker(&["rm", "-f", "idle"]).ok();
    d.docker(&["start", "-a", "web"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.HostConfig.Links}}", "web"]).ok(), "[]");
}

#[test]
fn links_of_an_endpoint() {
    let d = daemon();
    d.docker(&["network", "create", "net"]).ok();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "net",
        "--link",
        "later:bar",
        "busybox",
        "sleep",
        "1000",
    ])
    .ok();
    let shown = d.docker(&["inspect", "-f", "{{json .NetworkSettings.Networks.net.Links}}", "web"]).ok();
    assert_eq!(shown, "[\"later:bar\"]");
    assert_eq!(resolved(&d, "web", "bar"), None);
    assert_eq!(address(&d, "web", "bar"), None, "it is a name, not a line");
    d.docker(&["run", "-d", "--name", "later", "--network", "net", "busybox", "sleep", "1000"]).ok();
    assert_eq!(resolved(&d, "web", "bar"), Some(ip(&d, "later")));
    // Not through another network.
    d.docker(&["run", "-d", "--name", "other", "busybox", "sleep", "1000"]).ok();
    d.docker(&["network", "create", "second"]).ok();
    d.docker(&["network", "connect", "--link", "other:baz", "second", "web"]).ok();
    assert_eq!(resolved(&d, "web", "baz"), None);
    d.docker(&["network", "connect", "second", "other"]).ok();
    assert!(resolved(&d, "web", "baz").is_some());
    for name in ["web", "later", "other"] {
        d.docker(&["rm", "-f", name]).ok();
    }
    d.docker(&["network", "rm", "net", "second"]).ok();
}
