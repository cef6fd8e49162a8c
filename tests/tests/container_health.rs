//! Health checks through the stock docker CLI.

use serde_json::Value;
use wharf_tests::{Daemon, eventually};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn health(d: &Daemon, name: &str) -> Value {
    let text = d.docker(&["inspect", "-f", "{{json .State.Health}}", name]).ok();
    serde_json::from_str(&text).unwrap()
}

fn until_status(d: &Daemon, name: &str, wanted: &str) -> Value {
    eventually(&format!("{name} to be {wanted}"), || {
        let health = health(d, name);
        (health["Status"] == wanted).then_some(health)
    })
}

/// Runs a container with a health check of these flags.
fn checked(d: &Daemon, name: &str, flags: &[&str]) {
    let head = ["run", "-d", "--name", name, "--network", "none"];
    d.docker(&[&head[..], flags, &["busybox", "sleep", "600"]].concat()).ok();
}

fn names(d: &Daemon, filter: &str) -> String {
    d.docker(&["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]).ok()
}

#[test]
fn from_starting_to_healthy_to_unhealthy_and_back() {
    let d = daemon();
    checked(
        &d,
        "seen",
        &[
            "--health-cmd",
            "cat /ok",
            "--health-interval",
            "300ms",
            "--health-retries",
            "2",
            "--health-start-period",
            "1h",
            "--health-start-interval",
            "300ms",
            "--label",
            "team=blue",
        ],
    );
    d.docker(&["create", "--name", "unchecked", "--network", "none", "busybox", "true"]).ok();
    let first = health(&d, "seen");
    assert_eq!((&first["Status"], &first["FailingStreak"]), (&"starting".into(), &0.into()));
    assert!(d.docker(&["ps", "--format", "{{.Status}}"]).ok().ends_with("(health: starting)"));
    assert_eq!(names(&d, "health=starting"), "seen");
    assert_eq!(names(&d, "health=none"), "unchecked");
    // Failures in the start period are logged and do not count.
    let log = eventually("two failures", || {
        let health = health(&d, "seen");
        assert_eq!((&health["Status"], &health["FailingStreak"]), (&"starting".into(), &0.into()));
        (health["Log"].as_array()?.len() >= 2).then(|| health["Log"].clone())
    });
    assert_eq!(log[0]["ExitCode"], 1);
    assert!(log[0]["Output"].as_str().unwrap().contains("/ok"), "{log}");
    assert!(log[0]["Start"].as_str().unwrap() < log[0]["End"].as_str().unwrap());
    d.docker(&["exec", "seen", "sh", "-c", "echo fine > /ok"]).ok();
    let healthy = until_status(&d, "seen", "healthy");
    let last = healthy["Log"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["ExitCode"], &last["Output"]), (&0.into(), &"fine\n".into()));
    assert!(d.docker(&["ps", "--format", "{{.Status}}"]).ok().ends_with("(healthy)"));
    assert_eq!(names(&d, "health=healthy"), "seen");
    let list = d.api("GET", "/v1.52/containers/json", "").json();
    assert_eq!(list[0]["Health"], serde_json::json!({"Status": "healthy", "FailingStreak": 0}));
    d.docker(&["exec", "seen", "rm", "/ok"]).ok();
    let unhealthy = until_status(&d, "seen", "unhealthy");
    assert!(unhealthy["FailingStreak"].as_i64().unwrap() >= 2);
    assert!(d.docker(&["ps", "--format", "{{.Status}}"]).ok().ends_with("(unhealthy)"));
    d.docker(&["exec", "seen", "touch", "/ok"]).ok();
    until_status(&d, "seen", "healthy");
    eventually("five results and no more", || {
        let n = health(&d, "seen")["Log"].as_array()?.len();
        assert!(n <= 5);
        (n == 5).then_some(())
    });
    let told = eventually("the events", || {
        let args = ["events", "--since", "1h", "--until", "0s", "--filter", "event=health_status"];
        let text =
            d.docker(&[&args[..], &["--format", "{{.Action}} {{.Actor.Attributes.team}}"]].concat()).ok();
        (text.lines().count() == 3).then_some(text)
    });
    assert_eq!(
        told,
        "health_status: healthy blue\nhealth_status: unhealthy blue\nhealth_status: healthy blue"
    );
    let args =
        ["events", "--since", "1h", "--until", "0s", "--filter", "container=seen", "--format", "{{.Action}}"];
    let all = d.docker(&args).ok();
    assert!(
        all.contains("exec_create: /bin/sh -c cat /ok\nexec_start: /bin/sh -c cat /ok\nexec_die"),
        "{all}"
    );
    // No probe is left in the container's list.
    eventually("no probe in ExecIDs", || {
        (d.docker(&["inspect", "-f", "{{.ExecIDs}}", "seen"]).ok() == "[]").then_some(())
    });
    // The last word stays after the end, and a new start begins anew.
    d.docker(&["stop", "-t", "0", "seen"]).ok();
    assert_eq!(health(&d, "seen")["Status"], "healthy");
    assert!(
        d.docker(&["ps", "-a", "--filter", "name=seen", "--format", "{{.Status}}"])
            .ok()
            .starts_with("Exited")
    );
    d.docker(&["start", "seen"]).ok();
    assert!(health(&d, "seen")["Log"].as_array().unwrap().len() < 5);
}

#[test]
fn timeouts_long_outputs_and_programs_that_are_not_there() {
    let d = daemon();
    let fast = ["--health-interval", "200ms", "--health-retries", "1"];
    checked(
        &d,
        "slow",
        &[&["--health-cmd", "echo begun; sleep 600", "--health-timeout", "700ms"][..], &fast].concat(),
    );
    let health_of = |name: &str| until_status(&d, name, "unhealthy")["Log"][0].clone();
    let slow = health_of("slow");
    assert_eq!(slow["ExitCode"], -1);
    assert_eq!(slow["Output"], "Health check exceeded timeout (700ms): begun\n");
    checked(&d, "loud", &[&["--health-cmd", "yes x | head -c 100000; exit 3"][..], &fast].concat());
    let loud = health_of("loud");
    assert_eq!(loud["ExitCode"], 3);
    let text = loud["Output"].as_str().unwrap();
    assert_eq!((text.len(), &text[4094..]), (4099, "x\n..."));
    // In exec form, through the API.
    let body = serde_json::json!({
        "Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"},
        "Healthcheck": {"Test": ["CMD", "nosuch", "a"], "Interval": 200_000_000, "Retries": 1},
    });
    assert_eq!(d.api("POST", "/containers/create?name=nosuch", &body.to_string()).status, 201);
    d.docker(&["start", "nosuch"]).ok();
    let nosuch = health_of("nosuch");
    assert!(nosuch["Output"].as_str().unwrap().contains("executable file not found"), "{nosuch}");
}

#[test]
fn what_the_image_says_and_what_takes_it_away() {
    let d = daemon();
    let tar = wharf_tests::image::busybox_tar();
    d.docker_with_input(
        &["import", "-c", "HEALTHCHECK --interval=200ms --retries=1 CMD test -e /ok", "-", "checked:1"],
        &tar,
    )
    .ok();
    let run = |name: &str, flags: &[&str]| {
        let head = ["run", "-d", "--name", name, "--network", "none"];
        d.docker(&[&head[..], flags, &["checked:1", "sleep", "600"]].concat()).ok();
    };
    run("image", &[]);
    until_status(&d, "image", "unhealthy");
    run("none", &["--no-healthcheck"]);
    assert_eq!(health(&d, "none"), Value::Null);
    run("other", &["--health-cmd", "true"]);
    until_status(&d, "other", "healthy");
    // An empty object is no health check of its own.
    let body = r#"{"Image": "checked:1", "Cmd": ["sleep", "600"], "Healthcheck": {}, "HostConfig": {"NetworkMode": "none"}}"#;
    assert_eq!(d.api("POST", "/containers/create?name=empty", body).status, 201);
    d.docker(&["start", "empty"]).ok();
    until_status(&d, "empty", "unhealthy");
}

#[test]
fn it_is_kept_over_kill_9_of_the_daemon_and_goes_on() {
    let mut d = daemon();
    checked(
        &d,
        "kept",
        &["--health-cmd", "test -e /ok", "--health-interval", "400ms", "--health-retries", "1000000"],
    );
    d.docker(&["exec", "kept", "touch", "/ok"]).ok();
    until_status(&d, "kept", "healthy");
    d.docker(&["exec", "kept", "rm", "/ok"]).ok();
    let streak = |d: &Daemon| health(d, "kept")["FailingStreak"].as_i64().unwrap();
    let before = eventually("a streak", || Some(streak(&d)).filter(|n| *n >= 3));
    d.crash();
    d.restart();
    assert_eq!(health(&d, "kept")["Status"], "healthy");
    assert!(streak(&d) >= before);
    eventually("the streak to grow", || (streak(&d) > before + 2).then_some(()));
    d.docker(&["exec", "kept", "touch", "/ok"]).ok();
    eventually("success after the restart", || (streak(&d) == 0).then_some(()));
}

#[test]
fn a_paused_container_is_not_probed() {
    let d = daemon();
    checked(&d, "still", &["--health-cmd", "echo p >> /probes", "--health-interval", "200ms"]);
    until_status(&d, "still", "healthy");
    d.docker(&["pause", "still"]).ok();
    let count = || health(&d, "still")["Log"].as_array().unwrap().last().unwrap()["Start"].clone();
    // The one that was under way may end yet; after that there is none for many intervals.
    let mut last = count();
    let mut same = 0;
    eventually("many looks at the same result", || {
        let now = count();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same > 60).then_some(())
    });
    assert!(d.docker(&["ps", "--format", "{{.Status}}"]).ok().ends_with("(Paused)"));
    d.docker(&["unpause", "still"]).ok();
    eventually("a probe after the pause", || (count() != last).then_some(()));
}
