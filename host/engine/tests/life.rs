//! The life of containers over the real kernel, keeper and plugins.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on shall fail")]

mod rig;

use rig::{Rig, run};
use serde_json::json;
use wharf_engine::Kind;

#[test]
fn runs_prints_and_ends() {
    run(|| async {
        let rig = Rig::new().await;
        let none = json!({"NetworkMode": "none"});
        let (code, text) = rig.sh("echo hello; id; exit 7", none).await;
        assert_eq!((code, text.as_str()), (7, "hello\nuid=0(root) gid=0(root) groups=0(root),10(wheel)\n"));
        rig.finish().await;
    });
}

#[test]
fn refusals_have_dockers_words_and_leave_nothing() {
    run(|| async {
        let rig = Rig::new().await;
        let e = rig.create("x1", json!({"Image": "nosuch", "Cmd": ["true"]})).await.unwrap_err();
        assert_eq!((e.kind, e.message.as_str()), (Kind::NotFound, "No such image: nosuch:latest"));
        let id = rig.create("taken", json!({"Cmd": ["true"]})).await.unwrap();
        let e = rig.create("taken", json!({"Cmd": ["true"]})).await.unwrap_err();
        assert_eq!(e.kind, Kind::Conflict);
        assert_eq!(
            e.message,
            format!(
                "Conflict. The container name \"/taken\" is already in use by container \"{id}\". You have to remove (or \
                 rename) that container to be able to reuse that name."
            )
        );
        let e = rig
            .create(
                "m1",
                json!({"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/x"}]}}),
            )
            .await
            .unwrap_err();
        assert_eq!(
            e.message,
            "invalid mount config for type \"bind\": bind source path does not exist: /no/such"
        );
        for (program, text, code) in [
            ("nosuch", "executable file not found in $PATH", 127),
            ("/etc/passwd", "permission denied", 126),
            ("/no/such", "no such file or directory", 127),
        ] {
            let id = rig
                .create("", json!({"Cmd": [program], "HostConfig": {"NetworkMode": "none"}}))
                .await
                .unwrap();
            let e = rig.start(&id).await.unwrap_err();
            assert!(e.kind == Kind::Invalid && e.message.contains(text), "{e}");
            let state = rig.inspect(&id).await["State"].clone();
            assert_eq!((&state["Status"], &state["ExitCode"]), (&json!("created"), &json!(code)));
        }
        let id =
            rig.create("", json!({"User": "nosuch", "HostConfig": {"NetworkMode": "none"}})).await.unwrap();
        let e = rig.start(&id).await.unwrap_err();
        assert_eq!(e.message, "unable to find user nosuch: no matching entries in passwd file");
        rig.finish().await;
    });
}

#[test]
fn confinement_as_seen_from_inside() {
    run(|| async {
        let rig = Rig::new().await;
        let host = |more: serde_json::Value| {
            let mut base = json!({"NetworkMode": "none"});
            base.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            base
        };
        let (_, text) =
            rig.sh("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status", host(json!({}))).await;
        assert!(text.contains("CapInh:\t0000000000000000"), "{text}");
        assert!(text.contains("CapBnd:\t00000000a80425fb"), "{text}");
        assert!(text.contains("Seccomp:\t2"), "{text}");
        let (_, text) = rig.sh("grep CapBnd /proc/self/status", host(json!({"CapDrop": ["ALL"]}))).await;
        assert_eq!(text, "CapBnd:\t0000000000000000\n");
        let (code, _) = rig.sh("touch /x", host(json!({"ReadonlyRootfs": true}))).await;
        assert_ne!(code, 0);
        let (_, text) = rig
            .sh("touch /run/x && mount | grep ' /run '", host(json!({"Tmpfs": {"/run": "size=1m"}})))
            .await;
        assert!(text.contains("tmpfs") && text.contains("noexec"), "{text}");
        let (code, text) =
            rig.sh("ls /proc/self/fd | head -20; mount -t tmpfs x /tmp", host(json!({}))).await;
        assert_ne!(code, 0, "{text}");
        // 0, 1, 2 and that of ls itself.
        assert!(text.lines().filter(|l| l.parse::<u32>().is_ok()).count() <= 4, "{text}");
        rig.finish().await;
    });
}

#[test]
fn users() {
    run(|| async {
        let rig = Rig::new().await;
        for (user, expected) in
            [("app", "uid=101(app) gid=102(app)"), ("1000", "uid=1000 gid=0(root)"), ("7:8", "uid=7 gid=8")]
        {
            let id = rig
                .create("", json!({"Cmd": ["id"], "User": user, "HostConfig": {"NetworkMode": "none"}}))
                .await
                .unwrap();
            rig.start(&id).await.unwrap();
            assert_eq!(rig.wait(&id).await, 0);
            assert_eq!(rig.logs(&id).await.split(" groups=").next().unwrap().trim(), expected, "{user}");
        }
        rig.finish().await;
    });
}

#[test]
fn stop_kill_pause_and_their_refusals() {
    run(|| async {
        let rig = Rig::new().await;
        let id = rig
            .create("s1", json!({"Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}))
            .await
            .unwrap();
        let e = rig.engine.container_kill("s1", None).await.unwrap_err();
        assert_eq!(e.message, format!("cannot kill container: s1: container {id} is not running"));
        assert_eq!(rig.engine.container_stop("s1", None, None).await.unwrap_err().kind, Kind::NotModified);
        rig.start("s1").await.unwrap();
        assert_eq!(rig.start("s1").await.unwrap_err().kind, Kind::NotModified);
        let e = rig.engine.container_remove("s1", wharf_engine::RemoveOptions::default()).await.unwrap_err();
        assert_eq!(
            e.message,
            "cannot remove container \"s1\": container is running: stop the container before removing or force remove"
        );
        rig.engine.container_pause("s1").await.unwrap();
        assert_eq!(rig.inspect("s1").await["State"]["Status"], "paused");
        assert_eq!(rig.engine.container_pause("s1").await.unwrap_err().kind, Kind::Conflict);
        rig.engine.container_unpause("s1").await.unwrap();
        assert_eq!(
            rig.engine.container_kill("s1", Some("NOPE")).await.unwrap_err().message,
            "invalid signal: NOPE"
        );
        rig.engine.container_stop("s1", Some(0), None).await.unwrap();
        let state = rig.inspect("s1").await["State"].clone();
        assert_eq!((&state["Status"], &state["ExitCode"]), (&json!("exited"), &json!(137)));
        rig.start("s1").await.unwrap();
        rig.engine.container_kill("s1", None).await.unwrap();
        assert_eq!(rig.wait("s1").await, 137);
        rig.finish().await;
    });
}

#[test]
fn waits_never_miss_a_fast_exit() {
    run(|| async {
        use wharf_engine::WaitCondition;
        let rig = Rig::new().await;
        for _ in 0..20 {
            let id = rig
                .create(
                    "",
                    json!({"Cmd": ["false"], "HostConfig": {"NetworkMode": "none", "AutoRemove": true}}),
                )
                .await
                .unwrap();
            let next = rig.engine.container_wait(&id, WaitCondition::NextExit).await.unwrap();
            let removed = rig.engine.container_wait(&id, WaitCondition::Removed).await.unwrap();
            rig.start(&id).await.unwrap();
            assert_eq!(next.wait().await.unwrap().status_code, 1);
            assert_eq!(removed.wait().await.unwrap().status_code, 1);
            assert_eq!(rig.engine.container_inspect(&id, false).await.unwrap_err().kind, Kind::NotFound);
        }
        rig.finish().await;
    });
}

#[test]
fn restart_policies() {
    run(|| async {
        let rig = Rig::new().await;
        let id = rig
            .create(
                "r1",
                json!({"Cmd": ["false"], "HostConfig": {
                    "NetworkMode": "none", "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}}),
            )
            .await
            .unwrap();
        let mut events = rig.engine.events().listen(None, None, wharf_engine::io::events::Filters::default());
        rig.start(&id).await.unwrap();
        let mut deaths = 0;
        while deaths < 3 {
            let event = events.next().await.unwrap();
            if event.action == "die" {
                deaths += 1;
            }
        }
        let value = rig.inspect(&id).await;
        assert_eq!((&value["State"]["Status"], &value["RestartCount"]), (&json!("exited"), &json!(2)));
        rig.finish().await;
    });
}

#[test]
fn volumes_are_filled_kept_and_removed() {
    run(|| async {
        let rig = Rig::new().await;
        let host = json!({"NetworkMode": "none", "Binds": ["data:/seed", "/anon"]});
        let id = rig
            .create(
                "",
                json!({"Cmd": ["sh", "-c", "cat /seed/file; echo more > /seed/new"], "HostConfig": host}),
            )
            .await
            .unwrap();
        let mounts = rig.inspect(&id).await["Mounts"].clone();
        assert_eq!(mounts.as_array().unwrap().len(), 2);
        rig.start(&id).await.unwrap();
        assert_eq!(rig.wait(&id).await, 0);
        assert_eq!(rig.logs(&id).await, "from the image\n");
        let e = rig.engine.volume_remove("data", false).await.unwrap_err();
        assert_eq!(e.message, format!("remove data: volume is in use - [{id}]"));
        rig.remove(&id).await.unwrap();
        let names = |list: wharf_engine::models::VolumeListResponse| -> Vec<String> {
            list.volumes.unwrap().into_iter().map(|v| v.name).collect()
        };
        let filters = wharf_engine::Filters::default();
        // The anonymous one went with its container, the named one stays with its content.
        assert_eq!(names(rig.engine.volume_list(&filters).await.unwrap()), ["data"]);
        let (_, text) =
            rig.sh("cat /v/new; touch /v/x", json!({"NetworkMode": "none", "Binds": ["data:/v:ro"]})).await;
        assert!(text.starts_with("more\n") && text.contains("Read-only"), "{text}");
        rig.engine.volume_remove("data", false).await.unwrap();
        assert_eq!(rig.engine.volume_inspect("data").await.unwrap_err().message, "get data: no such volume");
        rig.finish().await;
    });
}

#[test]
fn bridge_network_with_a_published_port() {
    run(|| async {
        let rig = Rig::new().await;
        let id = rig
            .create(
                "web",
                json!({"Cmd": ["sleep", "1000"], "ExposedPorts": {"81/tcp": {}}, "HostConfig": {
                    "PortBindings": {"80/tcp": [{"HostPort": ""}]}}}),
            )
            .await
            .unwrap();
        rig.start(&id).await.unwrap();
        let settings = rig.inspect(&id).await["NetworkSettings"].clone();
        let bridge = &settings["Networks"]["bridge"];
        assert_eq!((&bridge["IPAddress"], &bridge["Gateway"]), (&json!("172.17.0.2"), &json!("172.17.0.1")));
        let port: u16 = settings["Ports"]["80/tcp"][0]["HostPort"].as_str().unwrap().parse().unwrap();
        assert!(port >= 1024 && settings["Ports"]["81/tcp"].is_null());
        let clash = rig
            .create("", json!({"Cmd": ["true"], "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": port.to_string()}]}}}))
            .await
            .unwrap();
        let e = rig.start(&clash).await.unwrap_err();
        assert_eq!(e.kind, Kind::Internal);
        assert!(e.message.contains("port is already allocated"), "{e}");
        let shared = rig
            .create("", json!({"Cmd": ["ip", "addr"], "HostConfig": {"NetworkMode": "container:web"}}))
            .await
            .unwrap();
        rig.start(&shared).await.unwrap();
        rig.wait(&shared).await;
        assert!(rig.logs(&shared).await.contains("172.17.0.2/16"));
        let network = rig.engine.network_inspect("bridge").await.unwrap();
        assert_eq!(network["Containers"][&id]["IPv4Address"], "172.17.0.2/16");
        rig.engine.container_stop(&id, Some(0), None).await.unwrap();
        // The address is free again.
        let (_, text) = rig.sh("ip addr; cat /etc/hosts", json!({})).await;
        assert!(text.contains("172.17.0.2/16"), "{text}");
        rig.finish().await;
    });
}

#[test]
fn plan_changes_nothing() {
    run(|| async {
        use wharf_engine::{Caller, CreateOptions, containers::create_body};
        let rig = Rig::new().await;
        let body = json!({"Image": "box", "HostConfig": {"Memory": 64 << 20, "PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}});
        let plan = rig
            .engine
            .container_plan(
                CreateOptions { name: Some("p1".into()), ..CreateOptions::default() },
                create_body(body).unwrap(),
                &Caller::default(),
            )
            .await
            .unwrap();
        assert_eq!(plan["Cgroup"]["Resources"]["memory"], 64 << 20);
        assert_eq!(plan["Networks"]["bridge"]["Publishes"][0]["host_port"], 8080);
        let said = plan["Decisions"].to_string();
        for plugin in ["storage-overlay", "ipam-pool", "network-bridge"] {
            assert!(said.contains(plugin), "{said}");
        }
        assert_eq!(rig.engine.container_inspect("p1", false).await.unwrap_err().kind, Kind::NotFound);
        // Nor did it use up the address.
        let (_, text) = rig.sh("ip addr", json!({})).await;
        assert!(text.contains("172.17.0.2/16"), "{text}");
        rig.finish().await;
    });
}

#[test]
fn exec_joins_and_reports() {
    run(|| async {
        use wharf_engine::Caller;
        use wharf_engine::models::{ExecConfig, ExecStartConfig};
        let rig = Rig::new().await;
        let id = rig
            .create("e1", json!({"Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}))
            .await
            .unwrap();
        let config = || ExecConfig {
            cmd: Some(vec!["sh".into(), "-c".into(), "hostname; exit 3".into()]),
            attach_stdout: Some(true),
            ..ExecConfig::default()
        };
        let e = rig.engine.exec_create("e1", config(), &Caller::default()).await.unwrap_err();
        assert_eq!((e.kind, e.message), (Kind::Conflict, format!("container {id} is not running")));
        rig.start("e1").await.unwrap();
        let mut events = rig.engine.events().listen(None, None, wharf_engine::io::events::Filters::default());
        let exec = rig.engine.exec_create("e1", config(), &Caller::default()).await.unwrap().id;
        assert_eq!(rig.engine.exec_inspect(&exec).await.unwrap().exit_code, None);
        let (mut output, _) = rig
            .engine
            .exec_start(&exec, ExecStartConfig::default(), &Caller::default())
            .await
            .unwrap()
            .unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = output.next().await {
            all.extend_from_slice(&bytes.unwrap());
        }
        assert!(String::from_utf8_lossy(&all).contains(&id[..12]));
        while events.next().await.unwrap().action != "exec_die" {}
        assert_eq!(rig.engine.exec_inspect(&exec).await.unwrap().exit_code, Some(3));
        let again = rig.engine.exec_start(&exec, ExecStartConfig::default(), &Caller::default()).await;
        assert_eq!(again.unwrap_err().kind, Kind::Conflict);
        assert_eq!(
            rig.engine.exec_inspect("nosuch").await.unwrap_err().message,
            "No such exec instance: nosuch"
        );
        rig.finish().await;
    });
}

#[test]
fn a_second_engine_adopts_what_runs() {
    run(|| async {
        let rig = Rig::new().await;
        let long = rig
            .create("long", json!({"Cmd": ["sh", "-c", "echo one; cat /wait; echo two; exit 5"], "OpenStdin": true, "HostConfig": {"Binds": ["/dev/null:/unused"]}}))
            .await
            .unwrap();
        let sleeper =
            rig.create("sleeper", json!({"Cmd": ["sleep", "1000"], "HostConfig": {}})).await.unwrap();
        rig.start(&sleeper).await.unwrap();
        rig.start(&long).await.unwrap();
        assert_eq!(rig.wait(&long).await, 5);
        let before = rig.inspect(&sleeper).await;
        let rig = rig.reopen().await;
        let after = rig.inspect(&sleeper).await;
        assert_eq!(before["State"], after["State"]);
        assert_eq!(before["NetworkSettings"], after["NetworkSettings"]);
        assert_eq!(rig.inspect(&long).await["State"]["ExitCode"], 5);
        rig.engine.container_stop(&sleeper, Some(0), None).await.unwrap();
        assert_eq!(rig.wait(&sleeper).await, 137);
        rig.finish().await;
    });
}
