//! What clients and containers leave behind. One test, because it counts what the whole process has.
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
use std::sync::Arc;

use common::{collect, process, spec, start, streams, take};
use wharf_io::{AttachQuery, ContainerIo, ExecSpec, LogQuery, StreamSpec};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left() {
    idle_containers_are_cheap().await;
    a_thousand_dead_followers_leave_nothing().await;
    ten_thousand_execs_leave_nothing().await;
}

async fn idle_containers_are_cheap() {
    const CONTAINERS: u64 = 2000;
    let dir = tempfile::tempdir().unwrap();
    let streams = streams();
    let shared = spec(dir.path());
    let hold = |n: u64| {
        let io = streams.container(StreamSpec { id: format!("{n:064}"), ..shared.clone() });
        let p = start(&io);
        (io, p)
    };
    let warm = hold(0);
    let (files, threads, before) = (open_files(), threads(), resident());
    let kept: Vec<_> = (0..CONTAINERS).map(hold).collect();
    let each = (resident() - before) / CONTAINERS / 2;
    println!("{each} bytes of memory for an idle stream");
    // With the spec's own strings, which the engine has in any case.
    assert!(each < 1024, "{each} bytes");
    // Two pipes with two ends each, and the two duplicates for the keeper.
    assert_eq!(open_files() - files, usize::try_from(CONTAINERS).unwrap() * 6);
    assert_eq!(threads, self::threads());
    drop(kept);
    drop(warm);
    while open_files() > files {
        tokio::task::yield_now().await;
    }
}

async fn a_thousand_dead_followers_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(spec(dir.path()));
    let mut p = start(&io);
    let mut attached =
        io.attach(AttachQuery { stream: true, stdout: true, ..AttachQuery::default() }).await.unwrap().output;
    writeln!(p.out, "line").unwrap();
    take(&mut attached, 5).await;
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let mut tasks = Vec::new();
    for _ in 0..1000 {
        let io: Arc<ContainerIo> = io.clone();
        tasks.push(tokio::spawn(async move {
            let mut output =
                io.logs(LogQuery { follow: true, stdout: true, ..LogQuery::default() }).await.unwrap();
            output.next().await.unwrap().unwrap();
            // Waits for a second line that never comes.
            output.next().await
        }));
    }
    // Each got its line, then its client goes.
    for task in &tasks {
        while !task.is_finished() && io.readers() < 1001 {
            tokio::task::yield_now().await;
        }
    }
    for task in &tasks {
        task.abort();
    }
    for task in tasks {
        assert!(task.await.unwrap_err().is_cancelled());
    }
    // The attached client, and the log driver.
    assert!(io.readers() <= 2, "{}", io.readers());
    assert!(open() <= before + 8, "{} then {}", before, open());
    drop(p);
}

async fn ten_thousand_execs_leave_nothing() {
    let streams = streams();
    let (files, memory) = (open_files(), resident());
    let mut after_some = 0;
    for n in 0..10_000 {
        let io = streams.exec(exec(false)).unwrap();
        let mut p = process(io.start().unwrap());
        let (mut output, _) = io.started(None).unwrap();
        p.out.write_all(b"line\n").unwrap();
        drop(p);
        // Every other client goes before it read.
        if n % 2 == 0 {
            assert_eq!(collect(&mut output).await.len(), 13);
        }
        io.exited();
        if n == 1000 {
            after_some = resident();
        }
    }
    // What clients left is thrown away by the pump; ask it with one more that it has to serve after all others.
    while open_files() > files + 4 {
        tokio::task::yield_now().await;
    }
    let grown = resident().saturating_sub(after_some);
    assert!(grown < 2 << 20, "{memory} then {after_some}, then {grown} more");
}

fn exec(stdin: bool) -> ExecSpec {
    ExecSpec { stdin, stdout: true, stderr: true, ..ExecSpec::default() }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Bytes of memory in use.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
