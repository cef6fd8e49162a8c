//! How quick a daemon answers while something in it hangs.

use std::time::{Duration, Instant};

use crate::Daemon;

/// What the 99th percentile of other calls must stay below; a build without optimisation on a busy machine gets more.
pub const LIMIT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 400 } else { 50 });

/// Durations of a mix of calls that have nothing to do with what hangs, sorted. `other` is a running container with a terminal.
fn others(daemon: &Daemon, other: &str) -> Vec<Duration> {
    let mut all = Vec::new();
    let mut own = String::new();
    for n in 0..204 {
        let (method, path, body) = match n % 12 {
            0 => ("GET", "/containers/json?all=1".to_owned(), ""),
            1 => ("GET", format!("/containers/{other}/json"), ""),
            2 => ("GET", "/_ping".to_owned(), ""),
            3 => ("GET", "/info".to_owned(), ""),
            4 => ("GET", format!("/containers/{other}/top"), ""),
            5 => ("POST", format!("/containers/{other}/resize?h=10&w={}", 10 + n), ""),
            6 => ("GET", format!("/containers/{other}/stats?stream=0&one-shot=1"), ""),
            7 => ("GET", "/events?since=1&until=2".to_owned(), ""),
            8 => (
                "POST",
                "/containers/create".to_owned(),
                r#"{"Image": "busybox", "Cmd": ["sleep", "100"], "HostConfig": {"NetworkMode": "none"}}"#,
            ),
            9 => ("POST", format!("/containers/{own}/start"), ""),
            10 => ("POST", format!("/containers/{own}/stop?t=0"), ""),
            _ => ("DELETE", format!("/containers/{own}?force=1"), ""),
        };
        let since = Instant::now();
        let response = daemon.api(method, &path, body);
        all.push(since.elapsed());
        assert!(response.status < 400, "{method} {path}: {} {}", response.status, response.text());
        if path == "/containers/create" {
            response.json()["Id"].as_str().expect("id").clone_into(&mut own);
        }
    }
    all.sort();
    all
}

/// Fails the test where other calls are slow while something hangs at this stage.
#[track_caller]
pub fn check(daemon: &Daemon, other: &str, stage: &str) {
    let all = others(daemon, other);
    let (median, p99) = (all[all.len() / 2], all[all.len() * 99 / 100]);
    println!("{stage}: median {median:?}, p99 {p99:?}");
    assert!(
        p99 <= LIMIT,
        "while one container is wedged ({stage}), p99 of other calls is {p99:?}; median {median:?}"
    );
    // And a whole life of another one.
    let ran = daemon.docker(&["run", "--rm", "--network", "none", "busybox", "echo", "through"]);
    assert_eq!(ran.ok(), "through", "{stage}");
}

/// Fails the test where something takes longer than this many seconds.
#[track_caller]
pub fn within<T>(seconds: u64, what: &str, work: impl FnOnce() -> T) -> T {
    let since = Instant::now();
    let result = work();
    assert!(since.elapsed() < Duration::from_secs(seconds), "{what} took {:?}", since.elapsed());
    result
}
