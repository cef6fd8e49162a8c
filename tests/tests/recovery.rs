//! The daemon dies with -9 at any moment; afterwards everything is as if it had not.

use std::process::Stdio;

use wharf_tests::{Daemon, eventually, leftovers};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

#[test]
fn running_containers_survive_and_keep_every_line() {
    let mut d = daemon();
    let count = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo line $i; [ $((i%100)) = 0 ] && sleep 0.05; done; echo last";
    for i in 0..4 {
        d.docker(&[
            "run",
            "-d",
            "--name",
            &format!("c{i}"),
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            count,
        ])
        .ok();
    }
    d.docker(&["run", "-d", "--name", "bridge", "-p", "8090:80", "busybox", "sleep", "600"]).ok();
    let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", "bridge"]).ok();
    let address =
        d.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "bridge"]).ok();
    for _ in 0..5 {
        d.crash();
        d.restart();
    }
    for i in 0..4 {
        let name = format!("c{i}");
        assert_eq!(d.docker(&["wait", &name]).ok(), "0");
        let out = d.docker(&["logs", &name]).out;
        let expected: String = (1..=4000).map(|n| format!("line {n}\n")).chain(["last\n".into()]).collect();
        assert_eq!(out.len(), expected.len(), "{name}");
        assert!(out == expected, "{name}");
    }
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Pid}}", "bridge"]).ok(), pid);
    assert_eq!(
        d.docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "bridge"]).ok(),
        address
    );
    d.docker(&["exec", "bridge", "true"]).ok();
    // The port is still ours.
    d.docker(&["run", "--rm", "-p", "8090:80", "busybox", "true"]).fails(125, "port is already allocated");
}

#[test]
fn what_ended_meanwhile_has_its_exit_code_and_last_line() {
    let mut d = daemon();
    let go = d.path("go");
    std::fs::create_dir(&go).unwrap();
    let bind = format!("{}:/go", go.display());
    let script = "while [ ! -e /go/now ]; do sleep 0.02; done; echo the last line; exit 23";
    for (name, more) in [("plain", &[][..]), ("gone", &["--rm"]), ("again", &["--restart", "always"])] {
        let args = [
            &["run", "-d", "--name", name, "--network", "none", "-v", &bind],
            more,
            &["busybox", "sh", "-c", script],
        ]
        .concat();
        d.docker(&args).ok();
    }
    let pid: i32 = d.docker(&["inspect", "-f", "{{.State.Pid}}", "plain"]).ok().parse().unwrap();
    d.crash();
    std::fs::write(go.join("now"), "").unwrap();
    eventually("the containers to end", || {
        (!std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists()).then_some(())
    });
    d.restart();
    assert_eq!(
        d.docker(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "plain"]).ok(),
        "exited 23"
    );
    assert_eq!(d.docker(&["logs", "plain"]).out, "the last line\n");
    eventually("--rm to be carried out", || (d.docker(&["inspect", "gone"]).code != 0).then_some(()));
    eventually("the restart", || (d.docker(&["logs", "again"]).out.lines().count() >= 2).then_some(()));
}

#[test]
fn killed_at_random_points_under_load_nothing_is_left() {
    let mut d = daemon();
    // A cheap, seeded generator: a failure can be repeated with the printed seed.
    let mut seed: u64 = std::process::id().into();
    eprintln!("seed {seed}");
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for round in 0..8 {
        let mut clients = Vec::new();
        for i in 0..6 {
            let name = format!("r{round}n{i}");
            let net = if i % 2 == 0 { "none" } else { "bridge" };
            let rm = if i % 3 == 0 { "--rm" } else { "--init" };
            let mut c = d.docker_command(&[
                "run",
                rm,
                "--name",
                &name,
                "--network",
                net,
                "busybox",
                "sh",
                "-c",
                "echo $HOSTNAME; sleep 0.05",
            ]);
            clients.push(c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(random(400)));
        d.crash();
        for mut c in clients {
            eventually("the client to notice", || c.try_wait().unwrap());
        }
        d.restart();
    }
    // Everything that is listed can be used and removed, and then nothing is left.
    let ids = d.docker(&["ps", "-aq", "--no-trunc"]).ok();
    for id in ids.split_whitespace() {
        let state = d.docker(&["inspect", "-f", "{{.State.Status}}", id]).ok();
        assert!(["created", "running", "exited"].contains(&state.as_str()), "{id} is {state}");
        d.docker(&["rm", "-f", id]).ok();
    }
    assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
    eventually("the container directories to be gone", || {
        let left = std::fs::read_dir(d.path("data/containers")).map_or(0, Iterator::count);
        (left == 0).then_some(())
    });
    let data = d.path("data");
    eventually("mounts and cgroups to be gone", || {
        leftovers::cgroups(data.parent().unwrap()).is_empty().then_some(())
    });
    let links = {
        let mut c = d.in_namespace("ip");
        c.args(["-o", "link"]);
        d.run_with_input(c, b"").ok()
    };
    eventually("the links to be gone", || {
        let mut c = d.in_namespace("ip");
        c.args(["-o", "link"]);
        (!d.run_with_input(c, b"").ok().contains("veth")).then_some(())
    });
    assert!(links.contains("docker0"));
}

#[test]
fn keeper_killed_containers_run_on() {
    let mut d = daemon();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "cc",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 7' TERM; while :; do sleep 0.05; done",
    ])
    .ok();
    let pid = d.docker(&["inspect", "-f", "{{.State.Pid}}", "cc"]).ok();
    let keeper =
        leftovers::processes(d.path("").as_path()).into_iter().find(|(_, line)| line.contains(" keeper "));
    let (keeper, _) = keeper.expect("a keeper process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), nix::sys::signal::Signal::SIGKILL).unwrap();
    d.crash();
    d.restart();
    assert_eq!(
        d.docker(&["inspect", "-f", "{{.State.Running}} {{.State.Pid}}", "cc"]).ok(),
        format!("true {pid}")
    );
    d.docker(&["stop", "cc"]).ok();
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", "cc"]).ok(), "exited");
}

#[test]
fn an_orderly_end_stops_containers_and_the_policy_brings_them_back() {
    let mut d = daemon();
    for (name, policy) in
        [("no", "no"), ("always", "always"), ("unless", "unless-stopped"), ("stopped", "unless-stopped")]
    {
        d.docker(&[
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            policy,
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "trap 'exit 0' TERM; while :; do sleep 0.05; done",
        ])
        .ok();
    }
    d.docker(&["stop", "stopped"]).ok();
    d.stop();
    d.restart();
    let state = |name: &str| d.docker(&["inspect", "-f", "{{.State.Running}}", name]).ok();
    for name in ["always", "unless"] {
        eventually(name, || (state(name) == "true").then_some(()));
    }
    assert_eq!((state("no").as_str(), state("stopped").as_str()), ("false", "false"));
}
