//! Logs as clients and collectors rely on them: complete, in order, through rotation, limits, crashes and broken drivers.

#![cfg(test)]

#[path = "../../host/plugins/tests/common/guest.rs"]
mod guest;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use guest::Guest;
use serde_json::Value;
use wharf_tests::{Daemon, Options, connect, eventually, http};

fn daemon() -> Daemon {
    let d = Daemon::start();
    d.import_busybox();
    d
}

/// Runs a script to its end under some log options; its name is `box`.
fn ran(d: &Daemon, options: &[&str], script: &str) -> String {
    let mut args = vec!["run", "-d", "--name", "box", "--network", "none"];
    args.extend(options.iter().flat_map(|o| ["--log-opt", *o]));
    args.extend(["busybox", "sh", "-c", script]);
    let id = d.docker(&args).ok();
    d.docker(&["wait", "box"]).ok();
    id
}

fn log_path(d: &Daemon, name: &str) -> PathBuf {
    d.docker(&["inspect", "-f", "{{.LogPath}}", name]).ok().into()
}

/// The bytes of a log as a client gets them, frames taken off.
fn logs(d: &Daemon, name: &str, query: &str) -> Vec<u8> {
    let answer = d.api("GET", &format!("/v1.47/containers/{name}/logs?{query}"), "");
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    plain(&answer.body)
}

fn plain(mut rest: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let n = u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
        all.extend(&rest[8..8 + n]);
        rest = &rest[8 + n..];
    }
    all
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// All records of the json-file files, oldest first.
fn records(path: &Path) -> Vec<Value> {
    let mut files = Vec::new();
    for n in (1..10).rev() {
        let plain = PathBuf::from(format!("{}.{n}", path.display()));
        if plain.exists() {
            files.push(fs::read_to_string(plain).unwrap());
        }
    }
    files.push(fs::read_to_string(path).unwrap());
    files
        .concat()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

#[test]
fn a_million_lines_and_an_end_are_all_there() {
    let d = daemon();
    ran(&d, &[], "seq 1 1000000");
    let all = text(logs(&d, "box", "stdout=1&stderr=1"));
    let mut expected = 1;
    for line in all.lines() {
        assert_eq!(line.parse::<u32>().unwrap(), expected);
        expected += 1;
    }
    assert_eq!(expected, 1_000_001);
    assert!(all.ends_with("1000000\n"));
    assert_eq!(text(logs(&d, "box", "stdout=1&tail=2")), "999999\n1000000\n");
    // And for those who read the file.
    let path = log_path(&d, "box");
    eventually("the last line in the file", || {
        fs::read_to_string(&path).unwrap().contains(r#""log":"1000000\n""#).then_some(())
    });
    let records = records(&path);
    assert_eq!(records.len(), 1_000_000);
    assert!(records.iter().enumerate().all(|(i, r)| r["log"] == format!("{}\n", i + 1)));
}

#[test]
fn rotation_under_followers_loses_and_doubles_nothing() {
    let d = daemon();
    let script = "i=0; while [ $i -lt 60000 ]; do echo line $i; i=$((i+1)); done";
    d.docker(&[
        "create",
        "--name",
        "box",
        "--network",
        "none",
        "--log-opt",
        "max-size=20k",
        "--log-opt",
        "max-file=2",
        "busybox",
        "sh",
        "-c",
        script,
    ])
    .ok();
    // One from before, some that come while it writes.
    let follow = |d: &Daemon| {
        let socket = d.socket();
        std::thread::spawn(move || {
            http::request(&socket, "GET", "/containers/box/logs?follow=1&stdout=1&stderr=1", "").unwrap().body
        })
    };
    d.docker(&["start", "box"]).ok();
    let mut followers = Vec::new();
    for _ in 0..8 {
        followers.push(follow(&d));
        std::thread::sleep(Duration::from_millis(30));
    }
    for (n, follower) in followers.into_iter().enumerate() {
        let all = text(plain(&follower.join().unwrap()));
        let numbers: Vec<u32> = all
            .lines()
            .map(|l| l.strip_prefix("line ").unwrap_or_else(|| panic!("{l}")).parse().unwrap())
            .collect();
        assert_eq!(numbers.last(), Some(&59_999), "follower {n}");
        assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "follower {n} missed or doubled a line");
    }
    let path = log_path(&d, "box");
    assert!(PathBuf::from(format!("{}.1", path.display())).exists());
    assert!(!PathBuf::from(format!("{}.2", path.display())).exists());
    eventually("the last line in the file", || {
        fs::read_to_string(&path).unwrap().contains("line 59999").then_some(())
    });
    let numbers: Vec<u32> = records(&path)
        .iter()
        .map(|r| r["log"].as_str().unwrap().trim().strip_prefix("line ").unwrap().parse().unwrap())
        .collect();
    assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "the files follow each other without a gap");
}

#[test]
fn times_and_numbers_of_lines() {
    let d = daemon();
    ran(&d, &[], "echo one; sleep 1.1; echo two; sleep 1.1; echo three >&2; sleep 0.3; printf four");
    let all = text(logs(&d, "box", "stdout=1&stderr=1&timestamps=1"));
    let lines: Vec<(&str, &str)> = all.lines().map(|l| l.split_once(' ').unwrap()).collect();
    assert_eq!(lines.iter().map(|l| l.1).collect::<Vec<_>>(), ["one", "two", "three", "four"]);
    for (time, _) in &lines {
        assert!(time.len() == 30 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{time}");
    }
    let show = |query: &str| {
        text(logs(&d, "box", &format!("stdout=1&stderr=1&{query}"))).lines().collect::<Vec<_>>().join(" ")
    };
    // As a Unix time with a fraction, as the CLI sends it.
    let unix = |time: &str| {
        let out = d.run_with_input(
            {
                let mut command = std::process::Command::new("date");
                command.args(["-u", "-d", time, "+%s.%N"]);
                command
            },
            b"",
        );
        out.ok()
    };
    let (one, two, three) = (unix(lines[0].0), unix(lines[1].0), unix(lines[2].0));
    assert_eq!(show(&format!("since={two}")), "two three four");
    assert_eq!(show(&format!("until={two}")), "one two");
    assert_eq!(show(&format!("since={two}&until={three}")), "two three");
    assert_eq!(show(&format!("since={one}&tail=2")), "three four");
    assert_eq!(
        show(&format!("since={three}&tail=3")),
        "three four",
        "tail does not bring back what is too old"
    );
    // As RFC 3339, over the API and through the CLI, which also knows durations.
    assert_eq!(show(&format!("since={}", lines[1].0)), "two three four");
    assert_eq!(d.docker(&["logs", "--since", lines[2].0, "box"]).ok(), "four");
    assert_eq!(d.docker(&["logs", "--until", lines[0].0, "box"]).ok(), "one");
    assert_eq!(d.docker(&["logs", "--since", "10m", "--tail", "1", "box"]).ok(), "four");
    assert_eq!(show("since=0&until=0"), "one two three four");
    assert_eq!(d.api("GET", "/containers/box/logs?stdout=1&since=yesterday", "").status, 400);
    assert_eq!(show("tail=nonsense"), "one two three four");
}

#[test]
fn details_are_what_the_options_select() {
    let d = daemon();
    d.docker(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "none",
        "--label",
        "team=blue",
        "--label",
        "other=x",
        "-e",
        "STAGE=test",
        "-e",
        "SECRET=s",
        "--log-opt",
        "labels=team",
        "--log-opt",
        "env=STAGE",
        "busybox",
        "echo",
        "hi",
    ])
    .ok();
    d.docker(&["wait", "box"]).ok();
    assert_eq!(d.docker(&["logs", "--details", "box"]).ok(), "STAGE=test,team=blue hi");
    let path = log_path(&d, "box");
    eventually("the line in the file", || (!fs::read(&path).unwrap_or_default().is_empty()).then_some(()));
    let line = fs::read_to_string(&path).unwrap();
    let record: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["attrs"], serde_json::json!({"STAGE": "test", "team": "blue"}), "{line}");
    assert!(!line.contains("SECRET"), "{line}");
}

#[test]
fn the_file_is_dockers_and_long_lines_come_in_pieces() {
    let d = daemon();
    ran(
        &d,
        &[],
        r#"head -c 40000 /dev/zero | tr '\0' x; echo; printf 'q"\\ \001 \342\202\254 \377\n'; printf '\t<&>\n' >&2; printf last"#,
    );
    let path = log_path(&d, "box");
    let id = d.docker(&["inspect", "-f", "{{.Id}}", "box"]).ok();
    assert!(path.ends_with(format!("{id}/{id}-json.log")), "{}", path.display());
    let raw = eventually("the last line in the file", || {
        fs::read_to_string(&path).ok().filter(|t| t.contains("last"))
    });
    let all = records(&path);
    let texts: Vec<&str> = all.iter().map(|r| r["log"].as_str().unwrap()).collect();
    // Docker's pieces: 16 KiB without a newline, the last one with it.
    let by_length: Vec<usize> = texts.iter().take(3).map(|t| t.len()).collect();
    assert_eq!(by_length, [16384, 16384, 7233]);
    assert!(!texts[0].ends_with('\n') && texts[2].ends_with("x\n"));
    assert!(
        texts.contains(&"q\"\\ \u{1} € \u{fffd}\n") && texts.contains(&"\t<&>\n") && texts.contains(&"last")
    );
    for record in &all {
        let keys: Vec<&String> = record.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 3, "{record}");
        assert!(record["time"].as_str().unwrap().ends_with('Z'));
    }
    assert_eq!(all.iter().filter(|r| r["stream"] == "stderr").count(), 1);
    // The members' order is what line-based collectors have patterns for.
    for line in raw.lines() {
        assert!(
            line.starts_with(r#"{"log":""#) && line.contains(r#"","stream":"std"#) && line.ends_with("Z\"}"),
            "{line}"
        );
    }
    // Read back, the pieces are one line again, byte for byte.
    let whole = logs(&d, "box", "stdout=1");
    let mut expected = vec![b'x'; 40000];
    expected.extend(b"\nq\"\\ \x01 \xe2\x82\xac \xff\nlast");
    assert!(whole == expected, "{} bytes", whole.len());
    assert!(logs(&d, "box", "stdout=1&tail=3") == whole, "a long line is one line for tail");
    assert_eq!(logs(&d, "box", "stdout=1&tail=1"), b"last");
}

#[test]
fn limits_hold_and_old_files_are_compressed() {
    let d = daemon();
    ran(&d, &["max-size=100k", "max-file=3", "compress=true"], "seq 1 200000");
    let path = log_path(&d, "box");
    let dir = path.parent().unwrap();
    eventually("the last line in the file", || {
        fs::read_to_string(&path).is_ok_and(|t| t.contains(r#""200000\n""#)).then_some(())
    });
    eventually("the files to be compressed", || {
        let names = |n: u32| dir.join(format!("{}.{n}.gz", path.file_name().unwrap().to_str().unwrap()));
        (names(1).exists() && names(2).exists() && !names(3).exists()).then_some(())
    });
    let mut gz = std::process::Command::new("zcat");
    gz.arg(format!("{}.1.gz", path.display()));
    let old = d.run_with_input(gz, b"").ok();
    assert!(old.lines().all(|l| serde_json::from_str::<Value>(l).is_ok()));
    // Nothing of it all is larger than a few times what was asked for, the spool included.
    let total = eventually("the directory to be small", || {
        let mut du = std::process::Command::new("du");
        du.arg("-sk").arg(dir);
        let kib: u64 = d.run_with_input(du, b"").ok().split_whitespace().next().unwrap().parse().unwrap();
        (kib < 2000).then_some(kib)
    });
    assert!(total > 50);
    let left = text(logs(&d, "box", "stdout=1"));
    assert!(left.ends_with("200000\n") && left.len() < 1 << 20, "{}", left.len());
}

#[test]
fn the_default_has_an_end() {
    let d = daemon();
    // 287 MB of output under no option at all.
    ran(&d, &[], "yes $(head -c 4095 /dev/zero | tr '\\0' x) | head -n 70000");
    let path = log_path(&d, "box");
    eventually("the directory to be within the cap", || {
        let mut du = std::process::Command::new("du");
        du.arg("-sm").arg(path.parent().unwrap());
        let mib: u64 = d.run_with_input(du, b"").ok().split_whitespace().next().unwrap().parse().unwrap();
        (mib < 260).then_some(())
    });
    assert_eq!(text(logs(&d, "box", "stdout=1&tail=1")).len(), 4096);
}

#[test]
fn drivers_that_read_and_one_that_does_not() {
    let d = daemon();
    for driver in ["json-file", "local"] {
        let name = format!("box-{driver}");
        d.docker(&[
            "run",
            "--name",
            &name,
            "--log-driver",
            driver,
            "--network",
            "none",
            "busybox",
            "seq",
            "1",
            "3",
        ])
        .ok();
        assert_eq!(d.docker(&["logs", &name]).ok(), "1\n2\n3", "{driver}");
    }
    d.docker(&[
        "run",
        "--name",
        "none",
        "--log-driver",
        "none",
        "--network",
        "none",
        "busybox",
        "echo",
        "hi",
    ])
    .ok();
    let answer = d.api("GET", "/containers/none/logs?stdout=1", "");
    assert_eq!(
        (answer.status, answer.message().as_str()),
        (501, "configured logging driver does not support reading")
    );
    assert_eq!(log_path(&d, "none"), PathBuf::new());
    d.docker(&["create", "--log-driver", "nosuch", "busybox", "true"])
        .fails(1, "logger: no log driver named 'nosuch' is registered");
    for (options, text) in [
        (&["--log-opt", "max-size=x"][..], "invalid size: 'x'"),
        (&["--log-opt", "mode=never"], "logger: logging mode not supported: never"),
        (
            &["--log-opt", "max-buffer-size=1m"],
            "max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        (&["--log-opt", "nonsense=1"], "unknown log opt 'nonsense' for json-file log driver"),
    ] {
        let args: Vec<&str> =
            ["create"].into_iter().chain(options.iter().copied()).chain(["busybox", "true"]).collect();
        d.docker(&args).fails(1, text);
    }
}

#[test]
fn a_driver_that_loops_blocks_no_container_and_no_log() {
    let plugins = tempfile::tempdir().unwrap();
    Guest::new("tarpit", &["wharf:logs/codec@0.1.0"])
        .body("open", &format!("(i32.const {})", guest::RESULT))
        .body("encode", "(loop $l (br $l)) unreachable")
        .install(plugins.path());
    let d = Daemon::with(Options { plugins: Some(plugins.path().into()), ..Options::default() });
    d.import_busybox();
    let other = d.docker(&["run", "-dt", "--network", "none", "busybox", "sleep", "1000"]).ok();
    for (name, options) in [
        ("plain", &[][..]),
        // Large enough that a busy disk makes nothing of it be left out.
        ("ring", &["--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=16m"]),
    ] {
        let since = Instant::now();
        let mut args = vec!["run", "--name", name, "--log-driver", "tarpit", "--network", "none"];
        args.extend(options);
        args.extend(["busybox", "sh", "-c", "seq 1 300000 >/dev/stderr; echo end"]);
        let out = d.docker(&args);
        assert_eq!(out.ok(), "end");
        assert_eq!(out.err.lines().count(), 300_000, "{name}");
        assert!(since.elapsed() < Duration::from_secs(30));
        assert_eq!(d.docker(&["logs", name]).err.lines().count(), 300_000, "{name}");
    }
    // Ten of them write all the time.
    let ids: Vec<String> = (0..10)
        .map(|_| {
            let script = "while :; do echo x; sleep 0.01; done";
            d.docker(&[
                "run",
                "-d",
                "--log-driver",
                "tarpit",
                "--network",
                "none",
                "busybox",
                "sh",
                "-c",
                script,
            ])
            .ok()
        })
        .collect();
    wharf_tests::pace::check(&d, &other, "log drivers that loop");
    // Other drivers' files are written all the same.
    let id = d.docker(&["run", "-d", "--network", "none", "busybox", "echo", "through"]).ok();
    let path = log_path(&d, &id);
    eventually("the line in the other's file", || {
        fs::read_to_string(&path).is_ok_and(|t| t.contains("through")).then_some(())
    });
    assert!(d.log().contains("tarpit"), "the daemon says who it was");
    d.docker(&["logs", "--tail", "1", &ids[0]]).ok();
}

#[test]
fn following_ends_with_the_container_however_late_one_comes() {
    let d = daemon();
    ran(&d, &[], "echo a; echo b >&2");
    let since = Instant::now();
    assert_eq!(logs(&d, "box", "follow=1&stdout=1&stderr=1").len(), 4);
    assert!(since.elapsed() < Duration::from_secs(10));
    // One that was made and never started has an end too; removed under the follower as well.
    d.docker(&["create", "--name", "new", "busybox", "true"]).ok();
    assert_eq!(logs(&d, "new", "follow=1&stdout=1"), b"");
    d.docker(&[
        "run",
        "-d",
        "--name",
        "gone",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "echo x; sleep 600",
    ])
    .ok();
    let mut stream = connect(&d.socket());
    write!(
        stream,
        "GET /containers/gone/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.contains('x') {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    d.docker(&["rm", "-f", "gone"]).ok();
    reader.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_daemon_that_is_killed_under_followers_loses_no_line() {
    let mut d = daemon();
    let script = "i=0; while [ $i -lt 40000 ]; do echo $i; i=$((i+1)); done; sleep 600";
    d.docker(&["run", "-d", "--name", "box", "--network", "none", "busybox", "sh", "-c", script]).ok();
    for _ in 0..2 {
        let mut stream = connect(&d.socket());
        write!(stream, "GET /containers/box/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut some = [0; 4096];
        stream.read_exact(&mut some).unwrap();
        d.crash();
        // The follower is told by the end of its connection.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        d.restart();
    }
    let mut stream = connect(&d.socket());
    write!(stream, "GET /containers/box/logs?follow=1&stdout=1 HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    http::read_head(&mut reader).unwrap();
    let mut expected = 0;
    while expected < 40_000 {
        let mut head = [0; 8];
        reader.read_exact(&mut head).unwrap();
        let mut data = vec![0; u32::from_be_bytes(head[4..].try_into().unwrap()) as usize];
        reader.read_exact(&mut data).unwrap();
        for line in String::from_utf8(data).unwrap().lines() {
            assert_eq!(line.parse::<u32>().unwrap(), expected);
            expected += 1;
        }
    }
    drop(reader);
    let path = log_path(&d, "box");
    eventually("the last line in the file", || {
        fs::read_to_string(&path).unwrap().contains(r#""39999\n""#).then_some(())
    });
    let all = records(&path);
    assert!(
        all.len() == 40_000 && all.iter().enumerate().all(|(i, r)| r["log"] == format!("{i}\n")),
        "{}",
        all.len()
    );
}
