//! Schemathesis makes requests from the reference's own description; the daemon must answer all of them.
//!
//! Runs where the description is to be had (see `wharf_tests::reference`). The program is installed beside the tests'
//! others, unless `WHARF_SCHEMATHESIS` has its path.

#![cfg(test)]

use std::process::Command;

use serde_json::Value;
use wharf_tests::{Daemon, Options, bin_dir, leftovers, reference};

/// Where clusters begin: without one, 503 is Docker's own answer.
const CLUSTER: &str = "^/(swarm|nodes|services|tasks|secrets|configs)";
/// Streams without an end, and connections that become something else.
const STREAMS: &str = "^/(events|session|containers/[^/]*/(attach|wait|stats|logs).*)$";

/// Answers of 500 and more. 501 says plainly that something is not built, and what asks the Docker Hub cannot reach it here.
fn faults(said: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        if !line.starts_with("[5") || line.starts_with("[501]") {
            continue;
        }
        let body = lines.find(|l| !l.trim().is_empty()).unwrap_or_default();
        if !["registry-1.docker.io", "index.docker.io", "failed to lookup address"]
            .iter()
            .any(|w| body.contains(w))
        {
            found.push(format!("{line} {body}"));
        }
    }
    found
}

/// The program, ready to run.
fn program(daemon: &Daemon) -> Command {
    if let Some(own) = std::env::var_os("WHARF_SCHEMATHESIS") {
        return daemon.in_namespace(own);
    }
    let dir = bin_dir().join("clients/schemathesis");
    if !dir.join(".installed").exists() {
        std::fs::create_dir_all(&dir).unwrap();
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"]);
        let out = pip.arg(&dir).arg("schemathesis>=4,<5").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        std::fs::write(dir.join(".installed"), "").unwrap();
    }
    let mut command = daemon.in_namespace("python3");
    command.env("PYTHONPATH", &dir).arg(dir.join("bin/schemathesis"));
    command
}

#[test]
fn no_request_that_the_description_allows_breaks_the_daemon() {
    let Some(schema) = reference::path() else { return };
    let daemon = Daemon::with(Options {
        args: ["-H", "tcp://127.0.0.1:2375"].map(str::to_owned).to_vec(),
        ..Options::default()
    });
    daemon.import_busybox();
    let before = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let report = daemon.path("report.json");
    let mut command = program(&daemon);
    command.current_dir(daemon.path("."));
    command.arg("run").arg(&schema).args([
        "--url",
        "http://127.0.0.1:2375/v1.55",
        "-c",
        "not_a_server_error",
        "-n",
        "5",
        "--phases",
        "fuzzing",
        "--request-timeout",
        "5",
        "--seed",
        "7",
        "--no-shrink",
        "--generation-database",
        "none",
        "--warnings",
        "off",
        "--exclude-path-regex",
        &format!("{CLUSTER}|{STREAMS}"),
        "--suppress-health-check",
        "all",
        "--continue-on-failure",
        "--max-time",
        "240",
        "--no-color",
        "--report",
        "json",
        "--report-json-path",
    ]);
    command.arg(&report);
    // Longer than any step of other tests may take, so its own end is what limits it.
    let out = command.output().expect("schemathesis");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let faults = faults(&said);
    assert!(faults.is_empty(), "{faults:#?}\n{said}");
    let tested = said.lines().find_map(|l| l.trim().strip_prefix("Tested: ")?.trim().parse::<u32>().ok());
    let err = String::from_utf8_lossy(&out.stderr);
    // How far it comes in its time is the machine's affair; on an idle one it is all of them.
    assert!(tested.is_some_and(|n| n >= 10), "{said}{err}");
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    // It answers as before, and nothing is left open.
    let info: Value = daemon.api("GET", "/info", "").json();
    assert!(info["ServerVersion"].is_string());
    let after = wharf_tests::eventually("descriptors to be closed", || {
        let now = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).ok()?.count();
        (now <= before + 20).then_some(now)
    });
    assert!(after <= before + 20);
    assert!(leftovers::mounts(&daemon.path(".")).is_empty());
}
