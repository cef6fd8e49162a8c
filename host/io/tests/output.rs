//! What a container prints, and what `logs` and `attach` show of it.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may fail"
)]
#![allow(clippy::large_stack_arrays, clippy::naive_bytecount, reason = "clearer here")]

mod common;

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use common::{collect, demultiplex, frames, process, spec, start, streams, take, with_options};
use wharf_io::{AttachQuery, ContainerIo, ErrorKind, LogQuery, StreamSpec, Tail};

fn both() -> LogQuery {
    LogQuery { stdout: true, stderr: true, ..LogQuery::default() }
}

fn attach() -> AttachQuery {
    AttachQuery { stream: true, stdout: true, stderr: true, ..AttachQuery::default() }
}

async fn logs(io: &ContainerIo, query: LogQuery) -> Vec<(u8, String)> {
    let bytes = collect(&mut io.logs(query).await.unwrap()).await;
    frames(&bytes).into_iter().map(|(stream, line)| (stream, String::from_utf8(line).unwrap())).collect()
}

fn texts(lines: &[(u8, String)]) -> Vec<&str> {
    lines.iter().map(|(_, line)| line.as_str()).collect()
}

#[tokio::test]
async fn lines_of_both_streams_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(spec(dir.path()));
    let mut attached = io.attach(attach()).await.unwrap().output;
    let mut p = start(&io);
    // Each piece is awaited, so that the order of arrival is known.
    for (stream, text) in [(1, "one\ntwo"), (2, "error\n"), (1, " and a half\nlast")] {
        let file = if stream == 1 { &mut p.out } else { &mut p.err };
        file.write_all(text.as_bytes()).unwrap();
        let got = take(&mut attached, text.len()).await;
        assert_eq!(frames(&got), [(stream, text.as_bytes().to_vec())]);
    }
    // Still running: the unfinished line is none yet.
    let expected = [(1, "one\n"), (2, "error\n"), (1, "two and a half\n")].map(|(s, t)| (s, t.to_owned()));
    assert_eq!(sorted(logs(&io, both()).await), sorted(expected.to_vec()));
    drop((p.out, p.err));
    io.finished().await;
    assert!(attached.next().await.is_none());
    let lines = logs(&io, both()).await;
    assert_eq!(texts(&lines), ["one\n", "error\n", "two and a half\n", "last"]);
    let only = logs(&io, LogQuery { stderr: true, ..LogQuery::default() }).await;
    assert_eq!(only, [(2, "error\n".to_owned())]);
    assert!(io.logs(LogQuery::default()).await.is_err_and(|e| {
        e.kind() == ErrorKind::Invalid && e.message() == "Bad parameters: you must choose at least one stream"
    }));
}

fn sorted(mut lines: Vec<(u8, String)>) -> Vec<(u8, String)> {
    lines.sort();
    lines
}

#[tokio::test]
async fn silence_costs_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(spec(dir.path()));
    let p = start(&io);
    drop(p);
    io.finished().await;
    io.logged().await;
    assert!(logs(&io, both()).await.is_empty());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn tail_counts_lines_of_the_wanted_streams() {
    let dir = tempfile::tempdir().unwrap();
    let streams = streams();
    let io = streams.container(spec(dir.path()));
    let mut attached = io.attach(attach()).await.unwrap().output;
    let mut p = start(&io);
    for n in 0..300 {
        let (file, text) =
            if n % 3 == 0 { (&mut p.err, format!("e{n}\n")) } else { (&mut p.out, format!("o{n}\n")) };
        file.write_all(text.as_bytes()).unwrap();
        take(&mut attached, text.len()).await;
    }
    p.out.write_all(b"unfinished").unwrap();
    drop(p);
    io.finished().await;
    let tail = |lines| LogQuery { tail: Tail::Lines(lines), ..both() };
    assert_eq!(texts(&logs(&io, tail(4)).await), ["e297\n", "o298\n", "o299\n", "unfinished"]);
    assert_eq!(texts(&logs(&io, tail(1)).await), ["unfinished"]);
    assert_eq!(logs(&io, tail(0)).await.len(), 0);
    assert_eq!(logs(&io, tail(300)).await.len(), 300);
    assert_eq!(logs(&io, tail(5000)).await.len(), 301);
    let errors = LogQuery { stderr: true, tail: Tail::Lines(2), ..LogQuery::default() };
    assert_eq!(texts(&logs(&io, errors).await), ["e294\n", "e297\n"]);
    // The same from disk alone.
    let again = streams.container(spec(dir.path()));
    assert_eq!(texts(&logs(&again, tail(2)).await), ["o299\n", "unfinished"]);
}

#[tokio::test]
async fn tail_in_large_and_long_lines() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(spec(dir.path()));
    let mut p = start(&io);
    let long = "x".repeat(700_000);
    let writer = std::thread::spawn({
        let long = long.clone();
        move || {
            for n in 0..5 {
                writeln!(p.out, "{n}{long}").unwrap();
            }
            writeln!(p.out, "end").unwrap();
        }
    });
    writer.join().unwrap();
    io.finished().await;
    let bytes =
        collect(&mut io.logs(LogQuery { tail: Tail::Lines(2), timestamps: true, ..both() }).await.unwrap())
            .await;
    let [out, _] = demultiplex(&bytes);
    let out = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    // A long line is one line, with one time.
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0].split_once(' ').unwrap().1, format!("4{long}"));
    assert!(frames(&bytes).iter().all(|(_, part)| part.len() <= 16_384 + 31));
}

#[tokio::test]
async fn since_until_timestamps_details() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(with_options(dir.path(), &[("labels", "team")]));
    let mut follower = {
        let mut p = start(&io);
        let follower = io.logs(LogQuery { follow: true, ..both() }).await.unwrap();
        for text in ["first\n", "begun "] {
            p.out.write_all(text.as_bytes()).unwrap();
        }
        p.err.write_all(b"x\n").unwrap();
        drop(p);
        follower
    };
    io.finished().await;
    collect(&mut follower).await;
    let stamped = logs(&io, LogQuery { timestamps: true, ..both() }).await;
    let time = |line: &str| {
        let stamp: std::time::Duration = humantime(line.split_once(' ').unwrap().0);
        u64::try_from(stamp.as_nanos()).unwrap()
    };
    assert_eq!(stamped.len(), 3);
    let first = time(&stamped[0].1);
    let all = LogQuery { since: Some(first), ..both() };
    assert_eq!(logs(&io, all).await.len(), 3);
    let last = stamped.iter().map(|line| time(&line.1)).max().unwrap();
    assert_eq!(logs(&io, LogQuery { since: Some(last + 1), ..both() }).await.len(), 0);
    assert_eq!(logs(&io, LogQuery { until: Some(first - 1), ..both() }).await.len(), 0);
    assert_eq!(logs(&io, LogQuery { until: Some(last), ..both() }).await.len(), 3);
    let details =
        logs(&io, LogQuery { details: true, tail: Tail::Lines(1), stderr: true, ..LogQuery::default() })
            .await;
    assert_eq!(texts(&details), ["team=blue x\n"]);
}

/// A time stamp of the fixed form back to a duration since 1970.
fn humantime(stamp: &str) -> std::time::Duration {
    let number = |from: usize, to: usize| stamp[from..to].parse::<i64>().unwrap();
    assert_eq!((stamp.len(), &stamp[10..11], &stamp[29..]), (30, "T", "Z"));
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let mut days: i64 = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum();
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    days += lengths[..usize::try_from(month - 1).unwrap()].iter().sum::<i64>() + day - 1;
    let seconds = ((days * 24 + number(11, 13)) * 60 + number(14, 16)) * 60 + number(17, 19);
    std::time::Duration::new(seconds.try_into().unwrap(), number(20, 29).try_into().unwrap())
}

#[tokio::test]
async fn follow_until_ends_at_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(spec(dir.path()));
    let mut p = start(&io);
    writeln!(p.out, "line").unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let until = u64::try_from(now.as_nanos()).unwrap() + 200_000_000;
    let mut output = io.logs(LogQuery { follow: true, until: Some(until), ..both() }).await.unwrap();
    assert_eq!(demultiplex(&collect(&mut output).await)[0], b"line\n");
    drop(p);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_under_follow_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let streams = streams();
    // Segments of 20 kB; the whole output is 30 times the limit.
    let io = streams.container(with_options(dir.path(), &[("max-size", "50k"), ("max-file", "2")]));
    let mut p = start(&io);
    let mut follower = io.logs(LogQuery { follow: true, stdout: true, ..LogQuery::default() }).await.unwrap();
    let mut attached = io.attach(attach()).await.unwrap().output;
    let expected: Vec<u8> = (0..200_000).flat_map(|n| format!("{n:06} line\n").into_bytes()).collect();
    let writer = std::thread::spawn({
        let expected = expected.clone();
        move || p.out.write_all(&expected)
    });
    // The attached client reads all the time, the container waits for it if need be.
    let attached = tokio::spawn(async move { collect(&mut attached).await });
    let mut followed = Vec::new();
    while followed.iter().filter(|b| **b == b'\n').count() < 200_000 {
        let Some(bytes) = follower.next().await else { break };
        let [out, err] = demultiplex(&bytes.unwrap());
        followed.extend(out);
        if !err.is_empty() {
            // A follower may lose lines, but is told.
            assert!(String::from_utf8(err).unwrap().contains("bytes of output are missing here"));
            break;
        }
    }
    drop(follower);
    writer.join().unwrap().unwrap();
    io.finished().await;
    let [out, err] = demultiplex(&attached.await.unwrap());
    assert!(err.is_empty(), "{}", String::from_utf8_lossy(&err));
    assert!(out == expected, "{} of {} bytes", out.len(), expected.len());
    let end = followed.len();
    assert!(followed == expected[..end]);
    // With nobody reading, the limit holds again.
    let size: u64 = std::fs::read_dir(dir.path().join("spool"))
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size <= 200_000, "{size}");
    // What is left are the last lines, whole ones from where the cut is.
    let [left, _] = demultiplex(
        &collect(&mut io.logs(LogQuery { stdout: true, ..LogQuery::default() }).await.unwrap()).await,
    );
    assert!(expected.ends_with(&left) && !left.is_empty());
}

#[tokio::test]
async fn attach_replays_then_follows_without_seam() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(spec(dir.path()));
    let mut p = start(&io);
    let mut first = io.attach(attach()).await.unwrap().output;
    p.out.write_all(b"before ").unwrap();
    take(&mut first, 7).await;
    let mut replay = io.attach(AttachQuery { logs: true, ..attach() }).await.unwrap().output;
    let mut now = io.attach(attach()).await.unwrap().output;
    let mut only = io.attach(AttachQuery { logs: true, stream: false, ..attach() }).await.unwrap().output;
    p.out.write_all(b"after").unwrap();
    drop(p);
    io.finished().await;
    assert_eq!(demultiplex(&collect(&mut replay).await)[0], b"before after");
    assert_eq!(demultiplex(&collect(&mut now).await)[0], b"after");
    assert_eq!(demultiplex(&collect(&mut only).await)[0], b"before ");
}

#[tokio::test]
async fn runs_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(spec(dir.path()));
    for n in 0..3 {
        // Attached before the start: from the first byte to the end of this run.
        let mut attached = io.attach(attach()).await.unwrap().output;
        let mut p = start(&io);
        write!(p.out, "run {n}").unwrap();
        drop(p);
        io.finished().await;
        assert_eq!(demultiplex(&collect(&mut attached).await)[0], format!("run {n}").as_bytes());
    }
    // A start that failed ends what waited for it.
    let mut attached = io.attach(attach()).await.unwrap().output;
    drop(io.start().unwrap());
    io.abandoned();
    assert!(attached.next().await.is_none());
}

#[tokio::test]
async fn removal_lets_readers_finish() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("c");
    std::fs::create_dir(&home).unwrap();
    let io = streams().container(spec(&home));
    let mut p = start(&io);
    let mut attached = io.attach(attach()).await.unwrap().output;
    let waits = io.attach(attach()).await.unwrap().output;
    p.out.write_all(b"all of it").unwrap();
    drop(p);
    io.finished().await;
    io.removed();
    std::fs::remove_dir_all(&home).unwrap();
    assert_eq!(demultiplex(&collect(&mut attached).await)[0], b"all of it");
    drop(waits);
    assert!(!home.exists());
}

#[tokio::test]
async fn a_process_that_keeps_the_pipe_does_not_hold_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(spec(dir.path()));
    let mut p = start(&io);
    let orphan = p.out.try_clone().unwrap();
    p.out.write_all(&[b'x'; 50_000]).unwrap();
    drop(p);
    io.finished().await;
    assert_eq!(demultiplex(&collect(&mut io.logs(both()).await.unwrap()).await)[0].len(), 50_000);
    drop(orphan);
}

/// How many descriptors of this process lead to the same pipe as `fd`.
fn ends_of(fd: &OwnedFd) -> usize {
    let name = |number: &str| std::fs::read_link(format!("/proc/self/fd/{number}")).ok();
    let wanted = name(&fd.as_raw_fd().to_string());
    let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    all.filter(|entry| name(&entry.file_name().to_string_lossy()) == wanted).count()
}

#[tokio::test]
async fn a_new_daemon_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut p, hold);
    {
        let io = streams().container(spec(dir.path()));
        p = start(&io);
        let mut attached = io.attach(attach()).await.unwrap().output;
        p.out.write_all(b"old ").unwrap();
        take(&mut attached, 4).await;
        hold = std::mem::take(&mut p.hold);
        // What the keeper keeps is a duplicate; the daemon's own ends are gone with it.
    }
    // A daemon that died reads no more; here its thread lets go a moment after it.
    let (_, out) = hold.iter().find(|(name, _)| name == "stdout").unwrap();
    for _ in 0..5000 {
        if ends_of(out) == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    p.out.write_all(b"meanwhile ").unwrap();
    let io = streams().container(spec(dir.path()));
    io.adopt(hold);
    let mut attached = io.attach(AttachQuery { logs: true, ..attach() }).await.unwrap().output;
    p.out.write_all(b"new\n").unwrap();
    drop(p);
    io.finished().await;
    assert_eq!(demultiplex(&collect(&mut attached).await)[0], b"old meanwhile new\n");
}

#[tokio::test]
async fn none_keeps_nothing_to_read_but_attaches() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(StreamSpec { log_driver: "none".into(), ..spec(dir.path()) });
    let mut attached = io.attach(attach()).await.unwrap().output;
    let mut p = start(&io);
    p.out.write_all(b"seen").unwrap();
    drop(p);
    io.finished().await;
    assert_eq!(demultiplex(&collect(&mut attached).await)[0], b"seen");
    let error = io.logs(both()).await.unwrap_err();
    assert_eq!(error.message(), "configured logging driver does not support reading");
    assert_eq!(io.log_path(), "");
}

#[tokio::test]
async fn stdio_of_a_container_without_stdin() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(spec(dir.path()));
    let stdio = io.start().unwrap();
    assert_eq!(stdio.hold.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["stdout", "stderr"]);
    let p = process(stdio);
    assert!(p.stdin.is_none());
    io.started(None);
    assert!(io.attach(AttachQuery { stdin: true, ..attach() }).await.unwrap().stdin.is_none());
}
