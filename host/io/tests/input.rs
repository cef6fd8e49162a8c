//! What clients write: pipes and terminals.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may fail"
)]
#![allow(clippy::large_stack_arrays, clippy::naive_bytecount, reason = "clearer here")]

mod common;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use common::{collect, demultiplex, process, spec, streams};
use rustix::pty::OpenptFlags;
use wharf_io::{AttachQuery, ExecSpec, StdinEnd, StreamSpec, Written};

fn attach() -> AttachQuery {
    AttachQuery { stream: true, stdin: true, stdout: true, stderr: true, ..AttachQuery::default() }
}

/// Master and slave of a new terminal that neither echoes nor translates.
fn terminal() -> (OwnedFd, std::fs::File) {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    let mut mode = rustix::termios::tcgetattr(&slave).unwrap();
    mode.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &mode).unwrap();
    (master, slave.into())
}

#[tokio::test]
async fn half_close_reaches_the_process_and_output_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(StreamSpec { open_stdin: true, stdin_once: true, ..spec(dir.path()) });
    // Attached before the start, and written before the start: the first byte is not lost.
    let mut client = io.attach(attach()).await.unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let writing = tokio::spawn(async move {
        assert_eq!(stdin.write(&[b'z'; 200_000]).await.unwrap(), Written::All);
        stdin.close().await
    });
    let stdio = io.start().unwrap();
    let mut p = process(stdio);
    io.started(None);
    // The keeper's duplicate has to go too before the process can see the end.
    let held = p.hold.iter().position(|(name, _)| name == "stdin").unwrap();
    let held = p.hold.remove(held);
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        p.stdin.take().unwrap().read_to_end(&mut all).unwrap();
        write!(p.out, "got {}", all.len()).unwrap();
    });
    io.stdin_closed().await;
    drop(held);
    assert_eq!(writing.await.unwrap(), StdinEnd::Closed);
    reading.join().unwrap();
    io.finished().await;
    assert_eq!(demultiplex(&collect(&mut client.output).await)[0], b"got 200000");
}

#[tokio::test]
async fn input_that_is_kept_open_takes_many_clients() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(StreamSpec { open_stdin: true, ..spec(dir.path()) });
    let mut p = process(io.start().unwrap());
    io.started(None);
    for text in ["one", "two"] {
        let mut stdin = io.attach(attach()).await.unwrap().stdin.unwrap();
        stdin.write(text.as_bytes()).await.unwrap();
        assert_eq!(stdin.close().await, StdinEnd::SessionEnds);
    }
    // A client that just goes changes nothing either.
    drop(io.attach(attach()).await.unwrap());
    let mut stdin = p.stdin.take().unwrap();
    let mut got = [0; 6];
    stdin.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"onetwo");
    // A process that closes its input does not fail the client.
    drop(stdin);
    let mut client = io.attach(attach()).await.unwrap().stdin.unwrap();
    assert_eq!(client.write(b"into the void").await.unwrap(), Written::All);
}

#[tokio::test]
async fn a_client_that_goes_ends_the_input_once() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(StreamSpec { open_stdin: true, stdin_once: true, ..spec(dir.path()) });
    let mut p = process(io.start().unwrap());
    io.started(None);
    p.hold.clear();
    drop(io.attach(attach()).await.unwrap());
    let mut rest = Vec::new();
    p.stdin.take().unwrap().read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    // And the next run has a new one.
    drop(p);
    io.finished().await;
    let mut p = process(io.start().unwrap());
    io.started(None);
    io.attach(attach()).await.unwrap().stdin.unwrap().write(b"x").await.unwrap();
    let mut got = [0];
    p.stdin.as_mut().unwrap().read_exact(&mut got).unwrap();
    assert_eq!(&got, b"x");
}

/// What `docker run -i` does with an empty input, and `docker start -ai` with one that is there at once: all of it may
/// come before the start, in any run.
#[tokio::test]
async fn what_comes_before_a_start_is_of_that_run_the_end_included() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(StreamSpec { open_stdin: true, stdin_once: true, ..spec(dir.path()) });
    for run in 0..3 {
        let mut stdin = io.attach(attach()).await.unwrap().stdin.unwrap();
        let writing = tokio::spawn(async move {
            if run > 0 {
                stdin.write(b"early").await.unwrap();
            }
            stdin.close().await
        });
        tokio::task::yield_now().await;
        let mut p = process(io.start().unwrap());
        io.started(None);
        p.hold.clear();
        assert_eq!(writing.await.unwrap(), StdinEnd::Closed);
        assert!(io.stdin_closed().await);
        let mut all = String::new();
        p.stdin.take().unwrap().read_to_string(&mut all).unwrap();
        assert_eq!(all, if run > 0 { "early" } else { "" });
        drop(p);
        // A client that stays longer than its run says nothing to the next.
        let late = io.attach(attach()).await.unwrap().stdin.unwrap();
        io.finished().await;
        let mut of_next = io.attach(attach()).await.unwrap().stdin.unwrap();
        assert_eq!(late.close().await, StdinEnd::Closed);
        assert!(!io.stdin_closed().await, "no run, no input");
        let mut p = process(io.start().unwrap());
        io.started(None);
        of_next.write(b"x").await.unwrap();
        let mut got = [0];
        p.stdin.as_mut().unwrap().read_exact(&mut got).unwrap();
        assert_eq!(&got, b"x");
        drop(p);
        io.finished().await;
        assert_eq!(of_next.write(b"too late").await.unwrap(), Written::All);
    }
    // A start that fails: its clients wait for nothing, and the next run is a new one.
    let mut failed = io.attach(attach()).await.unwrap().stdin.unwrap();
    io.start().unwrap();
    io.abandoned();
    assert_eq!(failed.write(b"nowhere").await.unwrap(), Written::All);
    drop(failed);
    let mut next = io.attach(attach()).await.unwrap().stdin.unwrap();
    let mut p = process(io.start().unwrap());
    io.started(None);
    next.write(b"y").await.unwrap();
    let mut got = [0];
    p.stdin.as_mut().unwrap().read_exact(&mut got).unwrap();
    assert_eq!(&got, b"y");
}

#[tokio::test]
async fn terminal_both_ways_resize_and_detach() {
    let dir = tempfile::tempdir().unwrap();
    let io =
        streams().container(StreamSpec { tty: true, open_stdin: true, stdin_once: true, ..spec(dir.path()) });
    io.resize(40, 132).unwrap();
    assert_eq!(io.size(), Some((40, 132)));
    let mut client = io.attach(attach()).await.unwrap();
    assert!(!client.output.multiplexed());
    let stdio = io.start().unwrap();
    assert!(stdio.child.iter().all(Option::is_none) && stdio.hold.is_empty());
    let (master, mut slave) = terminal();
    io.started(Some(master));
    let size = |slave: &std::fs::File| {
        let size = rustix::termios::tcgetwinsize(slave).unwrap();
        (size.ws_row, size.ws_col)
    };
    assert_eq!(size(&slave), (40, 132));
    io.resize(24, 80).unwrap();
    assert_eq!(size(&slave), (24, 80));
    slave.write_all(b"prompt> ").unwrap();
    let mut got = Vec::new();
    while got.len() < 8 {
        got.extend_from_slice(&client.output.next().await.unwrap().unwrap());
    }
    assert_eq!(got, b"prompt> ");
    let mut stdin = client.stdin.take().unwrap();
    // ctrl-p alone is typed, with ctrl-q it detaches.
    assert_eq!(stdin.write(b"ls\x10").await.unwrap(), Written::All);
    assert_eq!(stdin.write(b"x\x10").await.unwrap(), Written::All);
    assert_eq!(stdin.write(b"\x11after").await.unwrap(), Written::Detached);
    let mut typed = [0; 4];
    slave.read_exact(&mut typed).unwrap();
    assert_eq!(&typed, b"ls\x10x");
    // The process runs on, and other keys can be chosen.
    let query = AttachQuery { detach_keys: Some("a,b".into()), ..attach() };
    assert_eq!(io.attach(query).await.unwrap().stdin.unwrap().write(b"ab").await.unwrap(), Written::Detached);
    let query = AttachQuery { detach_keys: Some("ctrl-%".into()), ..attach() };
    assert_eq!(io.attach(query).await.unwrap_err().message(), "Invalid detach keys (ctrl-%) provided");
    slave.write_all(b"bye").unwrap();
    drop(slave);
    io.finished().await;
    assert_eq!(collect(&mut client.output).await, b"bye");
}

#[tokio::test]
async fn a_terminal_that_was_closed_may_be_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let io = streams().container(StreamSpec { tty: true, ..spec(dir.path()) });
    let mut client =
        io.attach(AttachQuery { stream: true, stdout: true, ..AttachQuery::default() }).await.unwrap();
    io.start().unwrap();
    let (master, slave) = terminal();
    let again = master.try_clone().unwrap();
    io.started(Some(master));
    let mut first = Some(slave);
    for _ in 0..3 {
        let mut slave = if let Some(slave) = first.take() {
            slave
        } else {
            rustix::pty::ioctl_tiocgptpeer(&again, OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap().into()
        };
        slave.write_all(b"#").unwrap();
        assert_eq!(client.output.next().await.unwrap().unwrap(), "#");
    }
    // Closed, it costs nothing: a thread that is told of it again and again would use all of this time.
    let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let before = cpu();
    let pause = std::time::Duration::from_millis(300);
    tokio::time::sleep(pause).await;
    let used = std::time::Duration::try_from(cpu() - before).unwrap();
    assert!(used < pause / 3, "{used:?}");
    drop(again);
    io.finished().await;
    assert!(client.output.next().await.is_none());
}

fn exec(stdin: bool) -> ExecSpec {
    ExecSpec { stdin, stdout: true, stderr: true, ..ExecSpec::default() }
}

#[tokio::test]
async fn exec_streams() {
    let streams = streams();
    let io = streams.exec(exec(true)).unwrap();
    let mut p = process(io.start().unwrap());
    let (mut output, stdin) = io.started(None).unwrap();
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        p.stdin.take().unwrap().read_to_end(&mut all).unwrap();
        p.out.write_all(&all).unwrap();
        p.err.write_all(b"error").unwrap();
    });
    let mut stdin = stdin.unwrap();
    stdin.write(b"echo").await.unwrap();
    assert_eq!(stdin.close().await, StdinEnd::Closed);
    assert_eq!(demultiplex(&collect(&mut output).await), [b"echo".to_vec(), b"error".to_vec()]);
    reading.join().unwrap();
    let bad = ExecSpec { detach_keys: Some("nope".into()), ..exec(false) };
    assert!(streams.exec(bad).is_err());
}

#[tokio::test]
async fn exec_without_reader_waits_in_the_pipe_and_a_gone_client_frees_it() {
    let streams = streams();
    let io = streams.exec(exec(false)).unwrap();
    let mut p = process(io.start().unwrap());
    let (output, _) = io.started(None).unwrap();
    // Full pipe, full stop: nothing is collected anywhere.
    rustix::io::ioctl_fionbio(&p.out, true).unwrap();
    let mut written = 0;
    while let Ok(n) = p.out.write(&[b'x'; 4096]) {
        written += n;
    }
    assert!(written <= 1 << 20, "{written}");
    rustix::io::ioctl_fionbio(&p.out, false).unwrap();
    // The client goes: the rest is thrown away, and the process can go on.
    drop(output);
    for _ in 0..64 {
        p.out.write_all(&[b'x'; 1 << 20]).unwrap();
    }
    io.exited();
}

#[tokio::test]
async fn exec_ends_with_its_process_even_if_another_holds_the_pipe() {
    let streams = streams();
    let io = streams.exec(exec(false)).unwrap();
    let mut p = process(io.start().unwrap());
    let (mut output, _) = io.started(None).unwrap();
    let orphan = p.out.try_clone().unwrap();
    p.out.write_all(b"last words").unwrap();
    drop(p);
    io.exited();
    assert_eq!(demultiplex(&collect(&mut output).await)[0], b"last words");
    drop(orphan);
}

#[tokio::test]
async fn exec_on_a_terminal() {
    let streams = streams();
    let io = streams.exec(ExecSpec { tty: true, ..exec(true) }).unwrap();
    io.resize(10, 20).unwrap();
    io.start().unwrap();
    let (master, mut slave) = terminal();
    let (mut output, stdin) = io.started(Some(master)).unwrap();
    assert!(!output.multiplexed());
    let mut stdin = stdin.unwrap();
    stdin.write(b"in").await.unwrap();
    let mut got = [0; 2];
    slave.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"in");
    slave.write_all(b"out").unwrap();
    drop(slave);
    assert_eq!(collect(&mut output).await, b"out");
    assert_eq!(stdin.close().await, StdinEnd::SessionEnds);
}
