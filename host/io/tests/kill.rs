//! `kill -9` of the daemon at any instant: no byte is lost, doubled or given to the wrong stream, and the log file has
//! every line once.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may fail"
)]
#![allow(clippy::large_stack_arrays, clippy::naive_bytecount, reason = "clearer here")]

mod common;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{collect, demultiplex, streams, with_options};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use wharf_io::{AttachQuery, LogQuery, StreamSpec};

/// Set in the process that plays the daemon: the parent's pid and descriptors, and the container's directory.
const DAEMON: &str = "WHARF_IO_TEST_DAEMON";
/// Small segments and log files, but all of them kept.
const OPTIONS: [(&str, &str); 2] = [("max-size", "4m"), ("max-file", "60")];
const BYTES: usize = 16 << 20;
const KILLS: usize = 60;

fn container(dir: &Path) -> StreamSpec {
    with_options(dir, &OPTIONS)
}

/// Not a test of its own: the daemon that [`killed_at_any_instant`] starts and kills.
#[test]
fn daemon() {
    let Ok(text) = std::env::var(DAEMON) else { return };
    let parts: Vec<&str> = text.splitn(4, ' ').collect();
    let open = |fd: &str| OwnedFd::from(File::open(format!("/proc/{}/fd/{fd}", parts[0])).unwrap());
    let held = vec![("stdout".to_owned(), open(parts[1])), ("stderr".to_owned(), open(parts[2]))];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let io = streams().container(container(Path::new(parts[3])));
        let query = AttachQuery { stream: true, stdout: true, ..AttachQuery::default() };
        let mut output = io.attach(query).await.unwrap().output;
        io.adopt(held);
        // Until both pipes are at their end.
        while output.next().await.is_some() {}
        io.logged().await;
    });
}

/// Lines of all lengths, some longer than a part.
fn text(name: char, rng: &mut SmallRng) -> Vec<u8> {
    let mut out = Vec::with_capacity(BYTES + 40_000);
    let mut number = 0;
    while out.len() < BYTES {
        let length =
            if rng.random_bool(0.001) { rng.random_range(0..40_000) } else { rng.random_range(0..200) };
        writeln!(out, "{name}{number} {}", "-".repeat(length)).unwrap();
        number += 1;
    }
    out
}

#[test]
fn killed_at_any_instant() {
    if std::env::var_os(DAEMON).is_some() {
        return;
    }
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let written = Arc::new(AtomicU64::new(0));
    let (mut readers, mut writers, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for name in ['o', 'e'] {
        let (read, write) = std::io::pipe().unwrap();
        readers.push(read);
        let text = text(name, &mut rng);
        expected.push(text.clone());
        let written = written.clone();
        let mut rng = SmallRng::seed_from_u64(rng.random());
        writers.push(std::thread::spawn(move || {
            let (mut write, mut rest) = (write, &text[..]);
            while !rest.is_empty() {
                let n = rng.random_range(1..20_000).min(rest.len());
                write.write_all(&rest[..n]).unwrap();
                written.fetch_add(n as u64, Ordering::SeqCst);
                rest = &rest[n..];
            }
        }));
    }
    let program = std::env::current_exe().unwrap();
    let [out, err] = [readers[0].as_raw_fd(), readers[1].as_raw_fd()];
    let spawn = || {
        Command::new(&program)
            .args(["--exact", "daemon"])
            .env(DAEMON, format!("{} {out} {err} {}", std::process::id(), dir.path().display()))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    for _ in 0..KILLS {
        let mut daemon = spawn();
        // Some die before they have read anything, most in the middle of it.
        let most = (2 * BYTES / KILLS) as u64;
        let until = written.load(Ordering::SeqCst) + rng.random_range(0..2 * most);
        while written.load(Ordering::SeqCst) < until
            && writers.iter().any(|writer| !writer.is_finished())
            && daemon.try_wait().unwrap().is_none()
        {
            std::thread::yield_now();
        }
        daemon.kill().unwrap();
        let status = daemon.wait().unwrap();
        assert!(status.signal() == Some(9) || status.success(), "{status}");
    }
    let last = spawn();
    for writer in writers {
        writer.join().unwrap();
    }
    assert!(last.wait_with_output().unwrap().status.success());

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let io = streams().container(container(dir.path()));
        let query = LogQuery { stdout: true, stderr: true, ..LogQuery::default() };
        let kept = demultiplex(&collect(&mut io.logs(query).await.unwrap()).await);
        for (kept, expected) in kept.iter().zip(&expected) {
            assert_eq!(kept.len(), expected.len());
            assert!(
                kept == expected,
                "first difference at {:?}",
                kept.iter().zip(expected).position(|(a, b)| a != b)
            );
        }
    });
    log_file_is_whole(dir.path(), &expected);
}

/// The driver's files together: numbers without gap, and each stream's bytes.
fn log_file_is_whole(dir: &Path, expected: &[Vec<u8>]) {
    let mut all = Vec::new();
    for number in (0..60).rev() {
        let name = if number == 0 { "c1-json.log".to_owned() } else { format!("c1-json.log.{number}") };
        all.extend(std::fs::read(dir.join(name)).unwrap_or_default());
    }
    let mut streams = [Vec::new(), Vec::new()];
    for (number, line) in all.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').enumerate() {
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let mut part = || String::from_utf8(parts.next().unwrap().to_vec()).unwrap();
        assert_eq!(part(), number.to_string());
        let (kind, bytes) = (part(), part());
        let stream = &mut streams[usize::from(kind.starts_with("err"))];
        stream.extend(bytes.into_bytes());
        if !kind.ends_with('+') {
            stream.push(b'\n');
        }
    }
    for (stream, expected) in streams.iter().zip(expected) {
        if stream != expected {
            let at = stream.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
            let show = |bytes: &[u8]| {
                String::from_utf8_lossy(&bytes[at.saturating_sub(300)..(at + 300).min(bytes.len())])
                    .into_owned()
            };
            panic!(
                "{} of {} bytes, at {at} \n{}\ninstead of\n{}",
                stream.len(),
                expected.len(),
                show(stream),
                show(expected)
            );
        }
    }
}
