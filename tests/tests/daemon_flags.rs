//! The daemon as a drop-in: flags, configuration file, reload, service manager, metrics.

#![cfg(test)]

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use wharf_tests::{Daemon, Options, bin_dir, eventually, http};

fn with(args: &[&str]) -> Daemon {
    Daemon::with(Options { args: args.iter().map(|a| (*a).to_owned()).collect(), ..Options::default() })
}

fn info(daemon: &Daemon) -> Value {
    daemon.api("GET", "/info", "").json()
}

/// What `wharf daemon` says to a command line that it refuses or only checks.
fn said(args: &[&str]) -> (i32, String) {
    let output = Command::new(bin_dir().join("wharf")).arg("daemon").args(args).output().expect("wharf");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_configuration_can_be_checked_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("d.json");
    let path = file.to_str().unwrap();
    std::fs::write(
        &file,
        r#"{"debug": true, "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 9, "Soft": 8}}}"#,
    )
    .unwrap();
    let (code, text) = said(&["--validate", "--config-file", path]);
    assert_eq!((code, text.trim()), (0, "configuration OK"));
    for (content, wanted) in [
        (r#"{"nonsense": 1}"#, "the following directives don't match any configuration option: nonsense"),
        (r#"{"debug": "x"}"#, "debug must be true or false"),
        (r#"{"default-address-pools": [{"base": "10.0.0.0/8", "size": 4}]}"#, "invalid address pool"),
        (r#"{"seccomp-profile": "/nonexistent.json"}"#, "opening seccomp profile (/nonexistent.json) failed"),
        (r#"{"userns-remap": "no-such-user"}"#, "error during uid lookup for \"no-such-user\""),
        (r#"{"registry-mirrors": ["https://a/b"]}"#, "invalid mirror: path is not allowed"),
    ] {
        std::fs::write(&file, content).unwrap();
        let (code, text) = said(&["--validate", "--config-file", path]);
        assert!(code != 0 && text.contains(wanted), "{content}: {code} {text}");
    }
    std::fs::write(&file, r#"{"debug": true, "labels": ["a=b"]}"#).unwrap();
    let (code, text) = said(&["--validate", "--config-file", path, "-D=false", "--label", "c=d"]);
    assert_ne!(code, 0);
    assert!(
        text.contains(
            "the following directives are specified both as a flag and in the configuration file: \
             debug: (from flag: false, from file: true), labels: (from flag: [c=d], from file: [a=b])"
        ),
        "{text}"
    );
    let (code, text) = said(&["--no-such-flag"]);
    assert!(code == 125 && text.contains("unknown flag: --no-such-flag"), "{text}");
    let (_, text) = said(&["-H", "tcp://0.0.0.0:0", "--data-root", "/nonexistent/x"]);
    assert!(text.contains("refusing to listen on tcp://0.0.0.0:0"), "{text}");
}

#[test]
fn defaults_of_containers_come_from_the_daemon() {
    let daemon = with(&[
        "--default-ulimit",
        "nofile=555:666",
        "--default-ulimit",
        "core=0",
        "--default-shm-size",
        "32m",
        "--default-ipc-mode",
        "shareable",
        "--init",
        "--no-new-privileges",
        "--dns",
        "192.0.2.53",
        "--dns-search",
        "example.test",
        "--log-opt",
        "max-size=1m",
        "--label",
        "place=here",
    ]);
    daemon.import_busybox();
    let run = |args: &[&str]| daemon.docker(&[&["run", "--rm", "--network", "none"], args].concat()).ok();
    assert_eq!(run(&["busybox", "sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c"]), "555\n666\n0");
    assert_eq!(
        run(&["--ulimit", "nofile=100:200", "busybox", "sh", "-c", "ulimit -Sn; ulimit -c"]),
        "100\n0"
    );
    assert!(run(&["busybox", "df", "-k", "/dev/shm"]).contains("32768"));
    assert!(run(&["busybox", "grep", "NoNewPrivs", "/proc/self/status"]).ends_with('1'));
    assert!(
        run(&["busybox", "cat", "/etc/resolv.conf"]).contains("nameserver 192.0.2.53\nsearch example.test")
    );
    assert!(run(&["busybox", "cat", "/proc/1/comm"]).contains("init"));
    daemon.docker(&["create", "--name", "one", "busybox", "true"]).ok();
    let c: Value = daemon.api("GET", "/containers/one/json", "").json();
    assert_eq!(c["HostConfig"]["IpcMode"], "shareable");
    assert_eq!(c["HostConfig"]["ShmSize"], 32 << 20);
    assert_eq!(c["HostConfig"]["LogConfig"]["Config"]["max-size"], "1m");
    let i = info(&daemon);
    assert_eq!(i["Labels"], serde_json::json!(["place=here"]));
    assert!(i["SecurityOptions"].to_string().contains("name=no-new-privileges"), "{}", i["SecurityOptions"]);
}

#[test]
fn the_default_network_is_shaped_by_flags_and_follows_them_at_the_next_start() {
    let mut daemon = with(&[
        "--bip",
        "10.77.0.1/24",
        "--fixed-cidr",
        "10.77.0.128/25",
        "--mtu",
        "1400",
        "--icc=false",
        "--default-address-pool",
        "base=10.88.0.0/16,size=24",
        "--default-network-opt",
        "bridge=com.docker.network.driver.mtu=1300",
    ]);
    daemon.import_busybox();
    let bridge: Value = daemon.api("GET", "/networks/bridge", "").json();
    assert_eq!(bridge["IPAM"]["Config"][0]["Subnet"], "10.77.0.0/24");
    assert_eq!(bridge["IPAM"]["Config"][0]["IPRange"], "10.77.0.128/25");
    assert_eq!(bridge["IPAM"]["Config"][0]["Gateway"], "10.77.0.1");
    assert_eq!(bridge["Options"]["com.docker.network.bridge.enable_icc"], "false");
    let shown = daemon.docker(&["run", "--rm", "busybox", "ip", "addr", "show", "eth0"]).ok();
    let last: u8 = shown
        .split("inet 10.77.0.")
        .nth(1)
        .and_then(|rest| rest.split('/').next())
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("no address: {shown}"));
    assert!(last >= 128 && shown.contains("mtu 1400"), "{shown}");
    daemon.docker(&["network", "create", "n"]).ok();
    let n: Value = daemon.api("GET", "/networks/n", "").json();
    assert_eq!(n["IPAM"]["Config"][0]["Subnet"], "10.88.0.0/24");
    assert_eq!(n["Options"]["com.docker.network.driver.mtu"], "1300");
    assert_eq!(
        info(&daemon)["DefaultAddressPools"],
        serde_json::json!([{"Base": "10.88.0.0/16", "Size": 24}])
    );
    daemon.docker(&["network", "rm", "n"]).ok();
    daemon.stop();
    daemon.set_args(&["--bip", "10.78.0.1/24"]);
    daemon.restart();
    let bridge: Value = daemon.api("GET", "/networks/bridge", "").json();
    assert_eq!(bridge["IPAM"]["Config"][0]["Subnet"], "10.78.0.0/24");
    let shown = daemon.docker(&["run", "--rm", "busybox", "ip", "addr", "show", "eth0"]).ok();
    assert!(shown.contains("inet 10.78.0."), "{shown}");
}

#[test]
fn sighup_changes_what_can_change_and_says_so() {
    let config = |text: &str| Options { config: Some(text.to_owned()), ..Options::default() };
    let daemon = Daemon::with(config(r#"{"labels": ["a=1"], "mtu": 1400}"#));
    daemon.import_busybox();
    let reload = |text: &str| {
        std::fs::write(daemon.path("daemon.json"), text).unwrap();
        kill(Pid::from_raw(daemon.pid()), Signal::SIGHUP).unwrap();
    };
    reload(
        r#"{"labels": ["a=2"], "mtu": 1300, "debug": true, "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 77, "Hard": 88}},
            "insecure-registries": ["r.test:5000", "10.0.0.0/8"], "registry-mirrors": ["https://m.test"],
            "max-concurrent-downloads": 7, "shutdown-timeout": 3, "dns": ["192.0.2.1"], "features": {"cdi": false},
            "no-new-privileges": true, "live-restore": true, "http-proxy": "http://user:secret@p.test:1",
            "cpu-rt-period": 1000000, "cpu-rt-runtime": 50000}"#,
    );
    eventually("the new labels", || (info(&daemon)["Labels"] == serde_json::json!(["a=2"])).then_some(()));
    let i = info(&daemon);
    assert_eq!((&i["Debug"], &i["LiveRestoreEnabled"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(i["RegistryConfig"]["Mirrors"], serde_json::json!(["https://m.test/"]));
    assert_eq!(i["RegistryConfig"]["IndexConfigs"]["r.test:5000"]["Secure"], false);
    assert!(i["RegistryConfig"]["InsecureRegistryCIDRs"].to_string().contains("10.0.0.0/8"));
    assert_eq!(i["CDISpecDirs"], serde_json::json!([]));
    let said = daemon
        .docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "ulimit -Hn; cat /etc/resolv.conf",
        ])
        .ok();
    assert!(said.starts_with("88\n") && said.contains("192.0.2.1"), "{said}");
    assert!(
        daemon.log().contains(
            "these changes of the configuration need a restart: mtu, cpu-rt-period, cpu-rt-runtime"
        ),
        "{}",
        daemon.log()
    );
    // A file that is wrong changes nothing.
    reload(r#"{"labels": ["a=3"], "nonsense": 1}"#);
    eventually("the refusal", || daemon.log().contains("the configuration was not reloaded").then_some(()));
    assert_eq!(info(&daemon)["Labels"], serde_json::json!(["a=2"]));
    reload(r#"{"labels": ["a=4"]}"#);
    eventually("the third configuration", || {
        (info(&daemon)["Labels"] == serde_json::json!(["a=4"])).then_some(())
    });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let told = daemon
        .api("GET", &format!("/events?since=1&until={now}&filters=%7B%22type%22%3A%5B%22daemon%22%5D%7D"), "")
        .text();
    let line = told.lines().next().unwrap_or_default();
    assert_eq!(told.lines().count(), 2, "{told}");
    let event: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&event["Type"], &event["Action"]), (&Value::from("daemon"), &Value::from("reload")));
    let attributes = &event["Actor"]["Attributes"];
    assert_eq!(attributes["labels"], "[\"a=2\"]");
    assert_eq!(attributes["max-concurrent-downloads"], "7");
    assert_eq!(attributes["registry-mirrors"], "[\"https://m.test\"]");
    assert!(!line.contains("secret"), "{line}");
}

#[test]
fn a_default_seccomp_profile_holds_for_all_and_can_be_left() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("p.json");
    std::fs::write(
        &profile,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#,
    )
    .unwrap();
    let daemon = with(&["--seccomp-profile", profile.to_str().unwrap()]);
    daemon.import_busybox();
    let run = |args: &[&str]| daemon.docker(&[&["run", "--rm", "--network", "none"], args].concat());
    run(&["busybox", "mkdir", "/x"]).fails(1, "mkdir");
    run(&["--security-opt", "seccomp=unconfined", "busybox", "mkdir", "/x"]).ok();
    run(&["--security-opt", "seccomp=builtin", "busybox", "mkdir", "/x"]).ok();
    assert!(info(&daemon)["SecurityOptions"].to_string().contains("p.json"));
}

#[test]
fn metrics_are_served_where_asked() {
    let daemon = with(&["--metrics-addr", "127.0.0.1:9323"]);
    let get = || {
        let mut command = daemon.in_namespace("curl");
        command.args(["-sS", "http://127.0.0.1:9323/metrics"]);
        daemon.run_with_input(command, b"").ok()
    };
    let text = get();
    assert!(text.contains("engine_daemon_container_states_containers{state=\"running\"} 0"), "{text}");
    assert!(text.contains("engine_daemon_engine_info{"), "{text}");
    assert!(text.contains("wharf_plugin_calls_total{plugin=\"wharf/auth-peer\"}"), "{text}");
}

#[test]
fn the_layout_of_systemd() {
    let daemon = with(&["--exec-opt", "native.cgroupdriver=systemd"]);
    daemon.import_busybox();
    assert_eq!(info(&daemon)["CgroupDriver"], "systemd");
    let id = daemon
        .docker(&[
            "run",
            "-d",
            "--network",
            "none",
            "--cgroup-parent",
            "wharf-test.slice",
            "busybox",
            "sleep",
            "100",
        ])
        .ok();
    let pid = daemon.docker(&["inspect", "-f", "{{.State.Pid}}", &id]).ok();
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroups.contains(&format!("/wharf.slice/wharf-test.slice/wharf-{id}.scope")), "{cgroups}");
    daemon.docker(&["rm", "-f", &id]).ok();
    daemon
        .docker(&["run", "--rm", "--cgroup-parent", "/x", "busybox", "true"])
        .fails(125, "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"");
    drop(daemon);
    // The slice was asked for by name, so it is not the daemon's to remove; the one above may be in use.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let slice = hierarchy.path().join("wharf.slice/wharf-test.slice");
        if slice.exists() {
            std::fs::remove_dir(&slice).unwrap();
            let _ = std::fs::remove_dir(hierarchy.path().join("wharf.slice"));
        }
    }
}

#[test]
fn authorization_plugins_that_are_named_must_be_there() {
    drop(with(&["--authorization-plugin", "auth-peer"]));
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let output = Command::new("unshare")
        .args(["--net", "--"])
        .arg(bin_dir().join("wharf"))
        .args(["daemon", "--authorization-plugin", "missing", "-H", &format!("unix://{}", path("s"))])
        .args(["--data-root", &path("data"), "--exec-root", &path("exec")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("authorization plugin missing is not there"), "{text}");
    wharf_tests::leftovers::force(dir.path());
}

/// A daemon that is started as a service manager does it: sockets handed over, and told what becomes of it.
#[test]
fn sockets_are_taken_over_and_the_service_manager_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let listener = UnixListener::bind(path("api.sock")).unwrap();
    let notify = UnixDatagram::bind(path("notify")).unwrap();
    notify.set_read_timeout(Some(wharf_tests::PATIENCE)).unwrap();
    // The shell puts the socket at 3 and its own id, which stays the daemon's, into the variable.
    let fd: OwnedFd = listener.into();
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let script = format!(
        "ip link set lo up; exec 3<&{}; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=api WATCHDOG_PID=$$ WATCHDOG_USEC=200000; \
         exec \"$@\"",
        fd.as_raw_fd()
    );
    let config = path("daemon.json");
    std::fs::write(&config, "{}").unwrap();
    let mut child = Command::new("unshare")
        .args(["--net", "bash", "-c", &script, "bash"])
        .arg(bin_dir().join("wharf"))
        .args(["daemon", "-H", "fd://api", "--data-root"])
        .arg(path("data"))
        .arg("--exec-root")
        .arg(path("exec"))
        .arg("--config-file")
        .arg(&config)
        .env("NOTIFY_SOCKET", path("notify"))
        .stderr(std::fs::File::create(path("daemon.log")).unwrap())
        .spawn()
        .unwrap();
    drop(fd);
    let next = |wanted: &str| loop {
        let mut buffer = [0; 512];
        let count = notify.recv(&mut buffer).unwrap_or_else(|e| {
            panic!("no {wanted}: {e}\n{}", std::fs::read_to_string(path("daemon.log")).unwrap_or_default())
        });
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        if text.starts_with(wanted) {
            break text;
        }
        assert!(text.starts_with("WATCHDOG=1"), "{text} instead of {wanted}");
    };
    next("READY=1");
    next("WATCHDOG=1");
    assert_eq!(http::get(&path("api.sock"), "/_ping").unwrap().status, 200);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    let text = next("RELOADING=1");
    let stamp = text.split("MONOTONIC_USEC=").nth(1).and_then(|n| n.trim().parse::<u64>().ok());
    assert!(stamp.is_some_and(|n| n > 0), "{text}");
    next("READY=1");
    kill(pid, Signal::SIGTERM).unwrap();
    next("STOPPING=1");
    assert!(child.wait().unwrap().success());
    // The socket is the service manager's, not the daemon's to remove.
    assert!(path("api.sock").exists());
    wharf_tests::leftovers::force(dir.path());
}

#[test]
fn the_files_for_systemd_are_what_systemd_takes() {
    let dist = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/cli/dist");
    let service = std::fs::read_to_string(dist.join("wharf.service")).unwrap();
    let socket = std::fs::read_to_string(dist.join("wharf.socket")).unwrap();
    for needed in [
        "Type=notify-reload",
        "ExecStart=/usr/bin/wharf daemon --host fd://",
        "KillMode=process",
        "Delegate=yes",
    ] {
        assert!(service.lines().any(|line| line == needed), "{needed}");
    }
    assert!(socket.contains("ListenStream=/run/wharf/wharf.sock"));
    // Its command line is one that the daemon accepts.
    let line = service.lines().find_map(|l| l.strip_prefix("ExecStart=/usr/bin/wharf daemon ")).unwrap();
    let args: Vec<&str> = line.split(' ').chain(["--validate"]).collect();
    assert_eq!(said(&args).0, 0);
}

#[test]
fn logs_as_json() {
    let daemon = with(&["--log-format", "json", "-D"]);
    let log = eventually("a line", || Some(daemon.log()).filter(|l| l.contains("API listen on")));
    for line in log.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value["level"].is_string());
    }
}

#[test]
fn a_client_that_closes_half_of_its_connection_still_gets_its_answer() {
    let daemon = Daemon::start();
    let mut stream = wharf_tests::connect(&daemon.socket());
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("OK"), "{text}");
}
