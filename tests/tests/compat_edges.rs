//! What a sceptical user tries: inputs that are over before anything runs, ends that nobody waited for, many hands at one
//! container, archives from elsewhere.

#![cfg(test)]

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};

use serde_json::{Value, json};
use wharf_tests::server::{Body, Reply, Server};
use wharf_tests::{Daemon, connect, eventually, http, image};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

fn create(d: &Daemon, name: &str, script: &str, more: Value) {
    let mut body =
        json!({"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    let made = d.api("POST", &format!("/v1.47/containers/create?name={name}"), &body.to_string());
    assert_eq!(made.status, 201, "{}", made.text());
}

#[test]
fn input_that_is_over_before_the_start_is_the_end_of_the_processs_input() {
    let mut d = daemon();
    let run = ["run", "--rm", "-i", "--network", "none", "busybox", "cat"];
    assert_eq!(d.docker_with_input(&run, b"").ok(), "");
    assert_eq!(d.docker_with_input(&run, b"words").ok(), "words");
    // In later runs as in the first.
    d.docker(&["create", "-i", "--name", "again", "--network", "none", "busybox", "cat"]).ok();
    for text in ["", "one", "", "two"] {
        assert_eq!(d.docker_with_input(&["start", "-ai", "again"], text.as_bytes()).ok(), text);
    }
    // And where the daemon that started it is another by now: what is left of the input is for the next client.
    d.docker(&["start", "again"]).ok();
    d.crash();
    d.restart();
    assert_eq!(d.docker_with_input(&["attach", "again"], b"after").ok(), "after");
    eventually("the end", || {
        (d.docker(&["inspect", "-f", "{{.State.Status}}", "again"]).ok() == "exited").then_some(())
    });
}

/// A process that ends does not break the connection of a client that still sends.
#[test]
fn a_client_that_still_sends_reads_the_end_of_the_stream() {
    let d = daemon();
    create(&d, "box", "sleep 600", json!({}));
    assert_eq!(d.api("POST", "/containers/box/start", "").status, 204);
    for round in 0..20 {
        let exec =
            r#"{"Cmd": ["sh", "-c", "head -c 1; echo done"], "AttachStdin": true, "AttachStdout": true}"#;
        let exec = d.api("POST", "/containers/box/exec", exec).json()["Id"].as_str().unwrap().to_owned();
        let mut s = connect(&d.socket());
        write!(s, "POST /v1.40/exec/{exec}/start HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
        let mut reader = BufReader::new(s.try_clone().unwrap());
        assert_eq!(http::read_head(&mut reader).unwrap().0, 101);
        let sender = std::thread::spawn(move || {
            // Until nobody takes any more.
            while s.write_all(&[b'y'; 8192]).is_ok() {}
        });
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let mut text: Vec<u8> = Vec::new();
        let mut rest = all.as_slice();
        while let Some((head, behind)) = rest.split_at_checked(8) {
            let (frame, behind) = behind.split_at(u32::from_be_bytes(head[4..].try_into().unwrap()) as usize);
            text.extend(frame);
            rest = behind;
        }
        assert_eq!(text, b"ydone\n", "round {round}");
        drop(reader);
        sender.join().unwrap();
    }
}

#[test]
fn a_kill_that_comes_when_it_has_just_ended_is_no_fault() {
    let d = daemon();
    let mut told = BTreeMap::new();
    for round in 0..40 {
        let name = format!("short{round}");
        create(&d, &name, "true", json!({}));
        assert_eq!(d.api("POST", &format!("/containers/{name}/start"), "").status, 204);
        std::thread::sleep(std::time::Duration::from_millis(round % 10));
        let killed = d.api("POST", &format!("/containers/{name}/kill"), "");
        match killed.status {
            204 => {}
            409 => assert!(killed.message().ends_with("is not running"), "{}", killed.text()),
            _ => panic!("{}: {}", killed.status, killed.text()),
        }
        *told.entry(killed.status).or_insert(0) += 1;
    }
    assert!(told.contains_key(&409), "{told:?}");
}

/// Containers that end, or are killed, while others are being made: each start is answered.
#[test]
fn no_start_is_forgotten_among_many_short_lives() {
    let d = daemon();
    std::thread::scope(|scope| {
        for worker in 0..10 {
            let d = &d;
            scope.spawn(move || {
                for round in 0..15 {
                    let name = format!("short-{worker}-{round}");
                    create(d, &name, "exit 0", json!({}));
                    let path = format!("/containers/{name}");
                    std::thread::scope(|inner| {
                        if round % 2 == 0 {
                            inner.spawn(|| d.api("POST", &format!("{path}/kill"), ""));
                        }
                        let started = d.api("POST", &format!("{path}/start"), "");
                        assert!(matches!(started.status, 204 | 304), "{}", started.text());
                    });
                    let removed = d.api("DELETE", &format!("{path}?force=1"), "");
                    assert!(matches!(removed.status, 204 | 404), "{}", removed.text());
                }
            });
        }
    });
    assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
    assert!(!d.log().contains("hangs"), "{}", d.log());
}

#[test]
fn restarts_by_many_at_once_all_come_to_their_end() {
    let d = daemon();
    create(&d, "box", "trap 'exit 0' TERM; while :; do sleep 0.05; done", json!({}));
    assert_eq!(d.api("POST", "/containers/box/start", "").status, 204);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let answer = d.api("POST", "/containers/box/restart?t=0", "");
                    assert_eq!(answer.status, 204, "{}", answer.text());
                }
            });
        }
    });
    let state = d.api("GET", "/containers/box/json", "").json()["State"]["Status"].clone();
    assert_eq!(state, "running");
    // Its last run may be as short as it likes: with `--rm` it is gone then, restarted or not.
    let script = "if [ -e /once ]; then exit 0; fi; touch /once; exec sleep 600";
    for round in 0..5 {
        let name = format!("auto{round}");
        create(&d, &name, script, json!({"HostConfig": {"NetworkMode": "none", "AutoRemove": true}}));
        assert_eq!(d.api("POST", &format!("/containers/{name}/start"), "").status, 204);
        eventually("its mark", || {
            (d.api("HEAD", &format!("/containers/{name}/archive?path=/once"), "").status == 200).then_some(())
        });
        assert_eq!(d.api("POST", &format!("/containers/{name}/restart?t=0"), "").status, 204);
        eventually("the removal", || {
            (d.api("GET", &format!("/containers/{name}/json"), "").status == 404).then_some(())
        });
    }
}

#[test]
fn a_container_between_two_runs() {
    let d = daemon();
    let again =
        ["run", "-d", "--restart", "always", "--network", "none", "--name", "again", "busybox", "false"];
    let id = d.docker(&again).ok();
    let pending = || {
        eventually("a pause between runs", || {
            (d.docker(&["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "again"]).ok()
                == "restarting 4")
                .then_some(())
        });
    };
    pending();
    let restarting = format!("container {id} is restarting, wait until the container is running");
    for args in [&["exec", "again", "true"][..], &["top", "again"], &["pause", "again"]] {
        d.docker(args).fails(1, &restarting);
    }
    d.docker(&["rm", "again"])
        .fails(1, "container is restarting: stop the container before removing or force remove");
    // A kill ends what was to come, as a stop does.
    assert_eq!(d.docker(&["kill", "again"]).ok(), "again");
    assert_eq!(d.docker(&["inspect", "-f", "{{.State.Status}}", "again"]).ok(), "exited");
    d.docker(&["rm", "again"]).ok();
    // What is removed at its end has no policy for afterwards, also not later.
    let id = d
        .docker(&["run", "-d", "--rm", "--network", "none", "--name", "gone", "busybox", "sleep", "600"])
        .ok();
    let text = format!(
        "Cannot update container {id}: Restart policy cannot be updated because AutoRemove is enabled for the container"
    );
    let refused = d.api("POST", "/containers/gone/update", r#"{"RestartPolicy": {"Name": "always"}}"#);
    assert_eq!((refused.status, refused.message()), (409, text));
    assert_eq!(
        d.api("POST", "/containers/gone/update", r#"{"RestartPolicy": {"Name": "no"}, "PidsLimit": 20}"#)
            .status,
        200
    );
}

#[test]
fn exit_codes_of_what_did_not_start() {
    let d = daemon();
    d.docker(&["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "600"]).ok();
    for (args, code, text) in [
        (&["exec", "box", "nosuch"][..], 127, "executable file not found in $PATH"),
        (&["exec", "box", "/bin"], 126, "permission denied"),
        (&["exec", "-w", "/nope", "box", "true"], 127, "no such file or directory"),
        (&["exec", "-u", "nobody-here", "box", "true"], 126, "unable to find user nobody-here"),
        (&["exec", "-d", "box", "nosuch"], 1, "executable file not found in $PATH"),
        (
            &["run", "--rm", "--device-read-bps", "/dev/nope:1mb", "busybox", "true"],
            127,
            "stat /dev/nope: no such file or directory",
        ),
        (
            &["run", "--rm", "--mount", "type=volume,src=vol,dst=/x,volume-subpath=nope", "busybox", "true"],
            127,
            "no such file or directory",
        ),
        (
            &["run", "--rm", "--network", "host", "--ip", "1.2.3.4", "busybox", "true"],
            125,
            "invalid config for network host: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only",
        ),
        (
            &["run", "--rm", "--network", "none", "--ip", "1.2.3.4", "busybox", "true"],
            125,
            "user specified IP address is supported on user defined networks only",
        ),
    ] {
        let ran = d.docker(args);
        ran.fails(code, text);
        assert!(!ran.err.contains("(os error"), "{}", ran.err);
    }
    assert_eq!(d.docker(&["ps", "-aq"]).ok().lines().count(), 1);
}

#[test]
fn archives_are_imported_from_web_servers() {
    let d = Daemon::start();
    let tar = image::busybox_tar();
    let served = tar.clone();
    let server = Server::start(&d, 5080, move |request| match request.path.as_str() {
        "/root.tar" => Reply::new(200, served.clone()),
        "/moved" => Reply::new(302, "").with("Location", "/root.tar"),
        "/away" => Reply::new(302, "").with("Location", "file:///etc/passwd"),
        "/cut" => Reply::new(200, "").body(Body::Cut(served.len() as u64, served[..5000].to_vec())),
        "/text" => Reply::new(200, "no archive at all"),
        _ => Reply::new(404, "nothing here"),
    });
    let url = |path: &str| format!("http://{}{path}", server.address);
    let said = d.docker(&["import", "-c", "CMD [\"true\"]", &url("/root.tar"), "got:1"]).ok();
    assert!(said.contains(&format!("Downloading from {}", url("/root.tar"))), "{said}");
    assert_eq!(d.docker(&["run", "--rm", "--network", "none", "got:1", "echo", "ran"]).ok(), "ran");
    assert_eq!(
        d.docker(&["history", "--format", "{{.Comment}}", "got:1"]).ok(),
        format!("Imported from {}", url("/root.tar"))
    );
    // By a redirect; `wharf` as well.
    d.docker(&["import", &url("/moved"), "got:2"]).ok();
    d.wharf(&["import", &url("/root.tar"), "got:3"]).ok();
    d.docker_with_input(&["import", "-", "got:4"], &tar).ok();
    assert_eq!(d.docker(&["history", "--format", "{{.Comment}}", "got:4"]).ok(), "Imported from -");
    for name in ["got:2", "got:3"] {
        assert_eq!(d.docker(&["run", "--rm", "--network", "none", name, "echo", "ran"]).ok(), "ran");
    }
    let before = d.docker(&["images", "-aq", "--no-trunc"]).ok();
    for (source, text) in [
        (url("/none"), "404"),
        (url("/away"), "redirect"),
        (url("/cut"), "/cut"),
        (url("/text"), "archive"),
        ("http://127.0.0.1:1/x".to_owned(), "connection refused"),
        ("file:///etc/passwd".to_owned(), "invalid source"),
        ("ftp://127.0.0.1/x".to_owned(), "invalid source"),
    ] {
        let path = wharf_tests::http::encoded(&source);
        let answer = d.api("POST", &format!("/images/create?fromSrc={path}&repo=bad&tag=1"), "");
        let text_of = answer.text();
        assert!(answer.status >= 400 || text_of.contains("errorDetail"), "{source}: {text_of}");
        assert!(text_of.contains(text), "{source}: should say {text:?}: {text_of}");
    }
    assert_eq!(d.docker(&["images", "-aq", "--no-trunc"]).ok(), before, "nothing has become an image");
}

/// Flags of docker that `wharf` leaves out: of Windows, of swarm, of what Docker itself has given up or only tries.
const LEFT_OUT: &[&str] = &[
    "--cpu-count",
    "--cpu-percent",
    "--io-maxbandwidth",
    "--io-maxiops",
    "--kernel-memory",
    "--disable-content-trust",
    "--use-api-socket",
    "--ingress",
    "--config-only",
    "--config-from",
    "--cluster",
    "--availability",
    "--group",
    "--limit-bytes",
    "--required-bytes",
    "--sharing",
    "--secret",
    "--topology-preferred",
    "--topology-required",
];

#[test]
fn wharf_has_dockers_flags() {
    let d = Daemon::start();
    let flags = |help: &str| -> std::collections::BTreeSet<String> {
        help.lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")))
            .map(|flag| flag.split(['=', '[']).next().unwrap_or(flag).to_owned())
            .collect()
    };
    let mut lacking = Vec::new();
    for (commands, before) in [
        (
            "attach commit cp create diff events exec export history images import info inspect kill load login logout logs pause port ps pull push rename restart rm rmi run save search start stats stop tag top unpause update version wait",
            "",
        ),
        (
            "attach commit cp create diff exec export inspect kill logs ls pause port prune rename restart rm run start stats stop top unpause update wait",
            "container",
        ),
        ("history import inspect load ls prune pull push rm save tag", "image"),
        ("df events info prune", "system"),
        ("connect create disconnect inspect ls prune rm", "network"),
        ("create inspect ls prune rm", "volume"),
        ("create ls rm", "checkpoint"),
    ] {
        for command in commands.split(' ') {
            let line: Vec<&str> = [before, command, "--help"].into_iter().filter(|w| !w.is_empty()).collect();
            let (docker, wharf) = (d.docker(&line), d.wharf(&line));
            let (docker, wharf) = (docker.ok(), format!("{}{}", wharf.out, wharf.err));
            // Swarm's `--type` and `--scope` of volumes are not those of others, nor its `--verbose` of networks.
            let swarms = |flag: &str| {
                matches!(
                    (before, command, flag),
                    ("volume", "create", "--type" | "--scope") | ("network", "inspect", "--verbose")
                )
            };
            let missing: Vec<String> = flags(&docker)
                .difference(&flags(&wharf))
                .filter(|f| !LEFT_OUT.contains(&f.as_str()) && !swarms(f))
                .cloned()
                .collect();
            if !missing.is_empty() {
                lacking.push(format!("{}: {missing:?}", line.join(" ")));
            }
        }
    }
    assert!(lacking.is_empty(), "{lacking:#?}");
}

#[test]
fn flags_of_wharf_do_what_dockers_do() {
    let d = daemon();
    for name in ["one", "two"] {
        d.docker(&["network", "create", name]).ok();
    }
    // Several networks, in words; what inspect shows is what docker makes of the same flags.
    let flags =
        ["--network", "name=one,alias=web,mac-address=02:42:ac:77:00:01,gw-priority=5", "--network", "two"];
    let seen = |run: &dyn Fn(&[&str]) -> wharf_tests::Ran, name: &str| {
        let mut line = vec!["run", "-d", "--name", name];
        line.extend(flags);
        line.extend(["busybox", "sleep", "600"]);
        run(&line).ok();
        let networks = d.api("GET", &format!("/v1.51/containers/{name}/json"), "").json()["NetworkSettings"]
            ["Networks"]
            .clone();
        let part = |network: &str| {
            let n = &networks[network];
            json!([n["Aliases"], n["GwPriority"], n["MacAddress"].as_str().unwrap().len(), n["DriverOpts"]])
        };
        d.docker(&["rm", "-f", name]).ok();
        (part("one"), part("two"))
    };
    assert_eq!(seen(&|a| d.docker(a), "by-docker"), seen(&|a| d.wharf(a), "by-wharf"));
    for (args, text) in [
        (&["run", "--network", "one", "--network", "one", "busybox", "true"][..], "specified multiple times"),
        (&["run", "--network", "one", "--network", "host", "busybox", "true"], "cannot attach both"),
        (&["run", "--pull", "sometimes", "busybox", "true"], "invalid pull option: 'sometimes'"),
        (&["run", "-it", "busybox", "true"], "the input device is not a TTY"),
        (&["exec", "--env-file", "/nope", "box", "true"], "/nope"),
        (
            &["run", "--network", "name=one,ip6=fd00::6", "--ip6", "fd00::5", "busybox", "true"],
            "cannot specify both --ip6 and per-network IPv6 address",
        ),
        (
            &[
                "run",
                "--network",
                "name=one,link-local-ip=169.254.1.2",
                "--link-local-ip",
                "169.254.1.1",
                "busybox",
            ],
            "cannot specify both --link-local-ip and per-network link-local IP addresses",
        ),
        (
            &["run", "--network", "name=one,ip=10.0.0.3", "--ip", "10.0.0.2", "busybox", "true"],
            "cannot specify both --ip and per-network IPv4 address",
        ),
        (
            &[
                "create",
                "--network",
                "name=one,mac-address=02:42:ac:77:00:01",
                "--mac-address",
                "02:42:ac:77:00:02",
                "busybox",
            ],
            "cannot specify both --mac-address and per-network MAC address",
        ),
        (
            &["run", "--network", "name=one,alias=x", "--network-alias", "y", "busybox", "true"],
            "cannot specify both --network-alias and per-network alias",
        ),
        (
            &["network", "create", "--subnet", "10.78.0.0/24", "--aux-address", "other=10.79.0.9", "aux"],
            "no matching subnet for aux-address 10.79.0.9",
        ),
        (
            &["network", "create", "--aux-address", "other=10.79.0.9", "aux"],
            "no matching subnet for aux-address 10.79.0.9",
        ),
    ] {
        let (docker, wharf) = (d.docker(args), d.wharf(args));
        assert!(wharf.code != 0 && wharf.err.contains(text), "{args:?}: {wharf:?}");
        assert!(docker.code != 0 && docker.err.contains(text), "{args:?}: {docker:?}");
    }
    assert_eq!(d.api("GET", "/networks/aux", "").status, 404);
    // Only who joins the terminal needs one.
    for args in [&["create", "-it"][..], &["run", "-d", "-it"]] {
        let made = d.wharf(&[args, &["--network", "none", "busybox", "true"]].concat()).ok();
        assert_eq!(d.docker(&["inspect", "-f", "{{.Config.Tty}}", &made]).ok(), "true", "{args:?}");
        d.docker(&["rm", "-f", &made]).ok();
    }
    // The file with the id is there before the container, and gone with it.
    let file = d.path("cid");
    let cid =
        ["create", "--cidfile", file.to_str().unwrap(), "--network", "none", "--rm", "-q", "busybox", "true"];
    let id = d.wharf(&cid).ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), id);
    assert_eq!(d.docker(&["inspect", "-f", "{{.HostConfig.AutoRemove}}", &id]).ok(), "true");
    d.wharf(&cid).fails(125, "container ID file found");
    std::fs::remove_file(&file).unwrap();
    let mut bad = cid;
    bad[7] = "busybox:none";
    assert_ne!(d.wharf(&[&bad[..6], &["--pull", "never"], &bad[7..]].concat()).code, 0);
    assert!(!file.exists(), "no container, no file");
    assert_eq!(d.docker(&["ps", "-aq"]).ok().lines().count(), 1);
    // What begins with a dot is meant from here, as docker does it.
    std::fs::write(d.path("here"), "from here").unwrap();
    let mut command = std::process::Command::new(wharf_tests::bin_dir().join("wharf"));
    command.current_dir(d.path("data").parent().unwrap()).env("WHARF_HOST", d.host());
    command.args(["run", "--rm", "--network", "none", "-v", "./here:/there:ro", "busybox", "cat", "/there"]);
    assert_eq!(d.run_with_input(command, b"").ok(), "from here");
    // Variables of files; a pause that is not wanted; links of one's own.
    d.wharf(&["run", "-d", "--name", "box", "--network", "one", "busybox", "sleep", "600"]).ok();
    std::fs::write(d.path("env"), "A=1\n# no\nB=two words\n").unwrap();
    let env = d.path("env").display().to_string();
    assert_eq!(
        d.wharf(&["exec", "--env-file", &env, "-e", "A=2", "box", "sh", "-c", "echo $A $B"]).ok(),
        "2 two words"
    );
    d.wharf(&["commit", "--pause=false", "box", "made:1"]).ok();
    d.wharf(&[
        "network",
        "connect",
        "--driver-opt",
        "com.docker.network.endpoint.ifname=lan7",
        "--gw-priority",
        "7",
        "two",
        "box",
    ])
    .ok();
    assert_eq!(d.docker(&["exec", "box", "cat", "/sys/class/net/lan7/operstate"]).ok(), "up");
    d.wharf(&[
        "network",
        "create",
        "--subnet",
        "10.78.0.0/24",
        "--aux-address",
        "other=10.78.0.9",
        "--ipv6=false",
        "aux",
    ])
    .ok();
    let made = d.api("GET", "/networks/aux", "").json();
    assert_eq!(made["IPAM"]["Config"][0]["AuxiliaryAddresses"], json!({"other": "10.78.0.9"}));
    assert_eq!(made["EnableIPv6"], false);
    assert_eq!(d.wharf(&["container", "stats", "--no-stream", "--format", "{{.Name}}"]).ok(), "box");
    assert_eq!(
        d.wharf(&["history", "--human=false", "--format", "{{.Size}}", "busybox"]).ok(),
        d.docker(&["history", "--human=false", "--format", "{{.Size}}", "busybox"]).ok()
    );
}
