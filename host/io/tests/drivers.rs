//! Log drivers: the file has every line once, whatever happens.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may fail"
)]
#![allow(clippy::large_stack_arrays, clippy::naive_bytecount, reason = "clearer here")]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{Known, Plain, collect, demultiplex, spec, start, take, with_options};
use wharf_io::{AttachQuery, LogQuery, Streams};

fn attach() -> AttachQuery {
    AttachQuery { stream: true, stdout: true, stderr: true, ..AttachQuery::default() }
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("c1-json.log")).unwrap_or_default()
}

#[tokio::test]
async fn records_are_numbered_and_marked() {
    let dir = tempfile::tempdir().unwrap();
    let codec = Arc::new(Plain::default());
    let streams = Streams::open(Arc::new(Known(codec.clone()))).unwrap();
    let io = streams.container(spec(dir.path()));
    let mut seen = io.attach(attach()).await.unwrap().output;
    let mut p = start(&io);
    let long = "y".repeat(20_000);
    for (stream, text) in [(1, "a\nb"), (2, "e\n"), (1, "c\n"), (2, &format!("{long}\n")), (1, "rest")] {
        let file = if stream == 1 { &mut p.out } else { &mut p.err };
        file.write_all(text.as_bytes()).unwrap();
        take(&mut seen, text.len()).await;
    }
    drop(p);
    io.finished().await;
    io.logged().await;
    let (head, tail) = long.split_at(16_384);
    let expected = format!("0 out a\n1 err e\n2 out bc\n3 err+ {head}\n4 err. {tail}\n5 out+ rest\n");
    // Marks: `+` partial, `.` the last part.
    assert_eq!(log(dir.path()).replace("err? ", "err+ "), expected);
    assert_eq!(io.log_path(), dir.path().join("c1-json.log").to_str().unwrap());
    // The next run goes on with the numbers.
    let mut p = start(&io);
    writeln!(p.out, "again").unwrap();
    drop(p);
    io.finished().await;
    io.logged().await;
    assert!(log(dir.path()).ends_with("5 out+ rest\n6 out again\n"));
    assert_eq!(codec.opened.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_trap_is_retried_and_then_rests_while_logs_work() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let codec = Arc::new(Plain::default());
    let streams = Streams::open(Arc::new(Known(codec.clone()))).unwrap();
    let io = streams.container(spec(dir.path()));
    // Once: nobody notices.
    codec.failures.store(1, Ordering::SeqCst);
    let mut p = start(&io);
    writeln!(p.out, "one").unwrap();
    drop(p);
    io.finished().await;
    io.logged().await;
    assert_eq!(log(dir.path()), "0 out one\n");
    // For ever: the container and its log do not care, and neither does a container with a codec that works.
    codec.failures.store(2, Ordering::SeqCst);
    let mut p = start(&io);
    writeln!(p.out, "two").unwrap();
    drop(p);
    io.finished().await;
    io.logged().await;
    assert_eq!(log(dir.path()), "0 out one\n");
    let query = LogQuery { stdout: true, ..LogQuery::default() };
    assert_eq!(demultiplex(&collect(&mut io.logs(query).await.unwrap()).await)[0], b"one\ntwo\n");
    let well = streams.container(spec(other.path()));
    let mut p = start(&well);
    writeln!(p.err, "fine").unwrap();
    drop(p);
    well.finished().await;
    well.logged().await;
    assert_eq!(log(other.path()), "0 err fine\n");
    // A new daemon begins where the file ends.
    drop(io);
    let io = streams.container(spec(dir.path()));
    io.adopt(Vec::new());
    io.finished().await;
    io.logged().await;
    assert_eq!(log(dir.path()), "0 out one\n1 out two\n");
}

#[tokio::test]
async fn files_rotate_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let streams = Streams::open(Arc::new(Known(Arc::default()))).unwrap();
    let options = [("max-size", "4k"), ("max-file", "3"), ("compress", "true")];
    let io = streams.container(with_options(dir.path(), &options));
    let mut p = start(&io);
    for n in 0..2000 {
        writeln!(p.out, "line number {n}").unwrap();
    }
    drop(p);
    io.finished().await;
    io.logged().await;
    let mut sizes = BTreeMap::new();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        sizes.insert(entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len());
    }
    sizes.remove("spool");
    let names: Vec<&str> = sizes.keys().map(String::as_str).collect();
    assert_eq!(names, ["c1-json.log", "c1-json.log.1.gz", "c1-json.log.2.gz", "log.cursor"]);
    assert!(sizes["c1-json.log"] < 6000, "{sizes:?}");
    assert!(log(dir.path()).ends_with("1999 out line number 1999\n"));
}

#[tokio::test]
async fn an_unknown_driver_and_bad_options_are_refused() {
    let streams = common::streams();
    let none = BTreeMap::new();
    for known in ["json-file", "local", "none"] {
        streams.check(known, &none).unwrap();
    }
    let error = streams.check("splunk", &none).unwrap_err();
    assert_eq!(error.message(), "logger: no log driver named 'splunk' is registered");
    let bad = BTreeMap::from([("max-sizes".to_owned(), "1m".to_owned())]);
    assert_eq!(
        streams.check("json-file", &bad).unwrap_err().message(),
        "unknown log opt 'max-sizes' for json-file log driver"
    );
}

#[tokio::test]
async fn nothing_is_made_in_a_removed_directory() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("c1");
    let streams = common::streams();
    for _ in 0..50 {
        std::fs::create_dir(&home).unwrap();
        let io = streams.container(spec(&home));
        let mut p = start(&io);
        p.out.write_all(&b"some line\n".repeat(3000)).unwrap();
        drop(p);
        io.finished().await;
        // At once, while the driver is at work.
        io.removed();
        std::fs::remove_dir_all(&home).unwrap();
        io.logged().await;
        assert!(!home.exists());
    }
}
