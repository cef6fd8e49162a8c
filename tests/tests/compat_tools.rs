//! What programs that manage containers found wanting when they ran against Wharf: Ansible, testcontainers, Prometheus.
//! Each is told here in the requests that matter.

use serde_json::{Value, json};
use wharf_tests::Daemon;

fn get(d: &Daemon, path: &str) -> Value {
    let answer = d.api("GET", path, "");
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn run(d: &Daemon, args: &[&str]) -> String {
    d.docker(&[&["run", "-d"], args, &["busybox", "sleep", "100"]].concat()).ok()
}

/// Prometheus and Traefik find containers of the host's network by its entry in the list.
#[test]
fn host_and_none_are_networks_of_their_containers() {
    let d = Daemon::start();
    d.import_busybox();
    for mode in ["host", "none"] {
        let id = run(&d, &["--name", mode, "--network", mode]);
        let network = get(&d, &format!("/networks/{mode}"));
        let inspected = get(&d, &format!("/containers/{mode}/json"));
        let own = &inspected["NetworkSettings"]["Networks"][mode];
        assert_eq!(own["NetworkID"], network["Id"], "{mode}");
        assert_eq!(own["DNSNames"], Value::Null);
        let endpoint = own["EndpointID"].as_str().unwrap();
        assert_eq!(endpoint.len(), 64, "{mode}: {endpoint}");
        let all = get(&d, "/containers/json");
        let listed = all.as_array().unwrap().iter().find(|c| c["Id"] == json!(id)).unwrap();
        assert_eq!(listed["NetworkSettings"]["Networks"][mode], *own);
        let member = &network["Containers"][&id];
        assert_eq!((&member["Name"], &member["EndpointID"]), (&json!(mode), &json!(endpoint)));
        assert_eq!(member["IPv4Address"], "");
        let place = inspected["NetworkSettings"]["SandboxKey"].as_str().unwrap();
        let same = |path: String| std::fs::read_link(path).unwrap();
        assert_eq!(same(place.to_owned()), same(format!("/proc/{}/ns/net", inspected["State"]["Pid"])));
        d.docker(&["stop", "-t", "0", mode]).ok();
        let stopped = get(&d, &format!("/containers/{mode}/json"));
        assert_eq!(stopped["NetworkSettings"]["Networks"][mode]["EndpointID"], "");
        assert_eq!(stopped["NetworkSettings"]["SandboxKey"], "");
        assert_eq!(get(&d, &format!("/networks/{mode}"))["Containers"], json!({}));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let filters = "%7B%22type%22:%5B%22network%22%5D%7D";
        let told = d.api("GET", &format!("/events?since=0&until={now:.9}&filters={filters}"), "");
        let told: Vec<String> = (told.text().lines().map(|l| serde_json::from_str::<Value>(l).unwrap()))
            .filter(|e| e["Actor"]["Attributes"]["container"] == json!(id))
            .map(|e| {
                format!(
                    "{} {}",
                    e["Action"].as_str().unwrap(),
                    e["Actor"]["Attributes"]["name"].as_str().unwrap()
                )
            })
            .collect();
        assert_eq!(told, [format!("connect {mode}"), format!("disconnect {mode}")]);
    }
}

/// Docker keeps the id of a container whose namespaces another shares; who renames it breaks nothing.
#[test]
fn a_shared_namespace_outlives_the_name_of_its_container() {
    let d = Daemon::start();
    d.import_busybox();
    let first = run(&d, &["--name", "first", "--ipc", "shareable"]);
    let shared = ["--network", "container:first", "--pid", "container:first", "--ipc", "container:first"];
    run(&d, &[&["--name", "second"], shared.as_slice()].concat());
    let host = &get(&d, "/containers/second/json")["HostConfig"];
    for mode in ["NetworkMode", "PidMode", "IpcMode"] {
        assert_eq!(host[mode], json!(format!("container:{first}")), "{mode}");
    }
    d.docker(&["rename", "first", "renamed"]).ok();
    d.docker(&["restart", "-t", "0", "second"]).ok();
    assert_eq!(get(&d, "/containers/second/json")["State"]["Running"], true);
    // One that is not there is the start's error and stays as it was written.
    d.docker(&["create", "--name", "third", "--network", "container:nobody", "busybox", "true"]).ok();
    assert_eq!(get(&d, "/containers/third/json")["HostConfig"]["NetworkMode"], "container:nobody");
    d.docker(&["start", "third"]).fails(1, "No such container: nobody");
}

/// A user may choose any name for a bridge; what belongs to somebody else is left alone.
#[test]
fn a_bridge_has_the_name_that_its_user_chose() {
    let d = Daemon::start();
    d.import_busybox();
    let ip = |args: &[&str]| {
        let mut command = d.in_namespace("ip");
        command.args(args);
        d.run_with_input(command, b"")
    };
    let option = |name: &str| format!("com.docker.network.bridge.name={name}");
    d.docker(&["network", "create", "-o", &option("lan0"), "lan"]).ok();
    assert!(ip(&["-d", "link", "show", "lan0"]).ok().contains(" bridge "));
    let pinged = [
        "run",
        "--rm",
        "--network",
        "lan",
        "busybox",
        "sh",
        "-c",
        "ping -c 1 $(ip r | grep default | cut -d' ' -f3)",
    ];
    d.docker(&pinged).ok();
    d.docker(&["network", "rm", "lan"]).ok();
    assert_ne!(ip(&["link", "show", "lan0"]).code, 0);
    ip(&["link", "add", "other0", "type", "bridge"]).ok();
    for taken in ["other0", "lo", "docker0"] {
        let refused = d.docker(&["network", "create", "-o", &option(taken), "lan"]);
        assert_ne!(refused.code, 0, "{taken}: {refused:?}");
        assert!(ip(&["link", "show", taken]).ok().contains(taken));
    }
    ip(&["link", "del", "other0"]).ok();
    assert_eq!(d.docker(&["network", "ls", "-q", "--filter", "name=lan"]).ok(), "");
}

/// Programs call an image by its first name: Docker's registry comes before others.
#[test]
fn names_of_an_image_are_in_the_order_of_their_full_names() {
    let d = Daemon::start();
    d.import_busybox();
    for name in ["quay.io/a/b:1", "zoo:1", "team/app:1"] {
        d.docker(&["tag", "busybox", name]).ok();
    }
    let order = json!(["busybox:latest", "zoo:1", "team/app:1", "quay.io/a/b:1"]);
    assert_eq!(get(&d, "/images/zoo:1/json")["RepoTags"], order);
    assert_eq!(get(&d, "/images/json")[0]["RepoTags"], order);
    run(&d, &["--name", "box"]);
    let stats = get(&d, "/containers/box/stats?stream=false&one-shot=true");
    assert_eq!(stats["storage_stats"], json!({}));
}

/// A start period of less than a health check's interval does not make the first probe wait for the start interval.
#[test]
fn a_short_start_period_holds_nothing_up() {
    let d = Daemon::start();
    d.import_busybox();
    let health = ["--health-cmd", "true", "--health-interval", "500ms", "--health-start-period", "100ms"];
    run(&d, &[&["--name", "box"], health.as_slice()].concat());
    wharf_tests::eventually("health", || {
        (get(&d, "/containers/box/json")["State"]["Health"]["Status"] == "healthy").then_some(())
    });
    let shown = get(&d, "/containers/box/json");
    let time = |text: &Value| text.as_str().unwrap()[17..26].parse::<f64>().unwrap();
    let waited = (time(&shown["State"]["Health"]["Log"][0]["Start"]) - time(&shown["State"]["StartedAt"]))
        .rem_euclid(60.0);
    assert!((0.5..5.0).contains(&waited), "{waited} s");
}

/// `rm -f` ends the process, whose `--rm` removes the container too: whoever is faster, it is gone and nobody complains.
#[test]
fn a_forced_removal_gets_along_with_rm() {
    let d = Daemon::start();
    d.import_busybox();
    for _ in 0..20 {
        let id = run(&d, &["--rm", "--network", "none"]);
        let answer = d.api("DELETE", &format!("/containers/{id}?force=1&v=1"), "");
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(d.api("GET", &format!("/containers/{id}/json"), "").status, 404);
    }
}
