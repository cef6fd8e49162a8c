//! Real-time budgets (`--cpu-rt-runtime`, `--cpu-rt-period`), where the kernel has them, and Docker's refusals where it has not.

#![cfg(test)]

use std::path::Path;
use std::process::Command;

use serde_json::json;
use wharf_tests::leftovers::remove_cgroup_parent;
use wharf_tests::runtimes::{RUNTIMES, Using, config, no_traces, path_with_shim};
use wharf_tests::{Daemon, Options, bin_dir};

fn supported() -> bool {
    ["cpu", "cpu,cpuacct"]
        .iter()
        .any(|name| Path::new("/sys/fs/cgroup").join(name).join("cpu.rt_runtime_us").exists())
}

fn daemon(args: &[&str]) -> Daemon {
    let daemon = Daemon::with(Options {
        args: args.iter().map(|a| (*a).to_owned()).collect(),
        config: Some(config().to_string()),
        env: vec![("PATH".into(), path_with_shim())],
        ..Options::default()
    });
    daemon.import_busybox();
    daemon
}

#[test]
fn budgets_are_given_and_shared() {
    if !supported() {
        return without_support();
    }
    let parent = format!("wharf-rt-{}", std::process::id());
    let slash = format!("/{parent}");
    let mut d = daemon(&["--cgroup-parent", &slash, "--cpu-rt-runtime", "50000"]);
    for runtime in RUNTIMES {
        let u = Using { daemon: &d, runtime };
        let show = "cat /sys/fs/cgroup/cpu/cpu.rt_runtime_us /sys/fs/cgroup/cpu/cpu.rt_period_us";
        let budget = ["--cpu-rt-runtime", "1000", "--cpu-rt-period", "500000"];
        assert_eq!(u.sh(&budget, show), "1000\n500000");
        // Not more than those above have.
        let most = ["--rm", "--network", "none", "--cpu-rt-runtime", "60000", "--cpu-rt-period", "1000000"];
        let most = u.run(&[&most[..], &["busybox", "sh", "-c", show]].concat());
        assert_ne!(most.code, 0);
        assert!(most.err.to_lowercase().contains("invalid argument"), "{}", most.err);
        // Live.
        let id = u.stay(&[&["--network", "none"][..], &budget].concat());
        d.docker(&["update", "--cpu-rt-runtime", "2000", &id]).ok();
        assert!(d.docker(&["exec", &id, "sh", "-c", show]).ok().starts_with("2000\n"), "{runtime}");
        d.docker(&["rm", "-f", &id]).ok();
    }
    no_traces(&d);
    // Both of them without a budget above: what is missing is said.
    d.stop();
    remove_cgroup_parent(&parent);
    d.set_args(&["--cgroup-parent", &slash]);
    d.restart();
    let args = ["run", "--rm", "--network", "none", "--cpu-rt-runtime", "1000", "busybox", "true"];
    d.docker(&args).fails(125, "give them one with the daemon's --cpu-rt-runtime");
    let args = ["create", "--cpu-rt-runtime", "2000", "--cpu-rt-period", "1000", "busybox", "true"];
    d.docker(&args).fails(1, "cpu real-time runtime cannot be higher than cpu real-time period");
    d.stop();
    remove_cgroup_parent(&parent);
}

fn without_support() {
    let d = Daemon::start();
    d.import_busybox();
    for host in [json!({"CpuRealtimeRuntime": 1000}), json!({"CpuRealtimePeriod": 1000})] {
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host});
        let refused = d.api("POST", "/containers/create", &body.to_string());
        assert_eq!(
            (refused.status, refused.message().as_str()),
            (400, "kernel does not support CPU real-time scheduler")
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(bin_dir().join("wharf"));
    command
        .args(["daemon", "--cpu-rt-runtime", "1000", "--host"])
        .arg(format!("unix://{}/s", dir.path().display()));
    for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
        command.arg(flag).arg(dir.path().join(name));
    }
    let ended = d.run_with_input(command, b"");
    assert_ne!(ended.code, 0);
    assert!(
        ended.err.contains("cpu-rt-period and cpu-rt-runtime are not supported by the kernel"),
        "{}",
        ended.err
    );
}
