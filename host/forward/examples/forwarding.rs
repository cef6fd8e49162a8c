//! What carrying costs: bytes per second, and processor time of the thread that carries, side by side in one run.
//!
//! `cargo run --release -p wharf-forward --example forwarding [MIB] [ROUNDS]`
//!
//! `loop 32 KiB` is the loop of `read` and `write` that simple proxies have; `copied` and `carried` are the forwarder's own code,
//! without and with pipes. Rounds go through all of them in turn, and the median of each is shown.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a measurement"
)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use wharf_forward::relay::{Means, relay};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Loop,
    Copied,
    Carried,
}

const WAYS: [(Way, &str); 3] =
    [(Way::Loop, "loop 32 KiB"), (Way::Copied, "copied"), (Way::Carried, "carried")];

/// Processor time of the calling thread.
fn used() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    Duration::from(nix::time::clock_gettime(clock).unwrap())
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let other = listener.accept().unwrap().0;
    one.set_nodelay(true).unwrap();
    other.set_nodelay(true).unwrap();
    (one, other)
}

fn simple(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Carries between two connections; the processor time that it took.
fn carry(way: Way, one: TcpStream, other: TcpStream) -> Duration {
    if way == Way::Loop {
        let back = {
            let (one, other) = (one.try_clone().unwrap(), other.try_clone().unwrap());
            std::thread::spawn(move || {
                simple(&other, &one);
                used()
            })
        };
        let begin = used();
        simple(&one, &other);
        return used().saturating_sub(begin) + back.join().unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begin = used();
    runtime.block_on(async {
        let means = Means::new(if way == Way::Carried { 64 } else { 0 });
        let open = |stream: TcpStream| {
            stream.set_nonblocking(true).unwrap();
            tokio::net::TcpStream::from_std(stream).unwrap()
        };
        let (one, other) = (open(one), open(other));
        relay(&means, &one, &other).await.unwrap();
    });
    used().saturating_sub(begin)
}

/// Seconds and seconds of processor time for so many MiB one way.
fn bulk(way: Way, mib: usize) -> (f64, f64) {
    let ((mut client, one), (other, mut container)) = (pair(), pair());
    let carrier = std::thread::spawn(move || carry(way, one, other));
    let sink = std::thread::spawn(move || {
        let (mut buffer, mut all) = (vec![0; 256 << 10], 0);
        loop {
            match container.read(&mut buffer).unwrap() {
                0 => return all,
                length => all += length,
            }
        }
    });
    let begin = Instant::now();
    let data = vec![7; 256 << 10];
    for _ in 0..mib * 4 {
        client.write_all(&data).unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(sink.join().unwrap(), mib << 20);
    let elapsed = begin.elapsed();
    drop(client);
    (elapsed.as_secs_f64(), carrier.join().unwrap().as_secs_f64())
}

/// The same for so many questions of 64 bytes, each answered before the next.
fn talk(way: Way, count: usize) -> (f64, f64) {
    let ((mut client, one), (other, mut container)) = (pair(), pair());
    let carrier = std::thread::spawn(move || carry(way, one, other));
    let answers = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while container.read_exact(&mut buffer).is_ok() {
            container.write_all(&buffer).unwrap();
        }
    });
    let begin = Instant::now();
    let mut buffer = [0; 64];
    for _ in 0..count {
        client.write_all(&buffer).unwrap();
        client.read_exact(&mut buffer).unwrap();
    }
    let elapsed = begin.elapsed();
    client.shutdown(Shutdown::Write).unwrap();
    answers.join().unwrap();
    drop(client);
    (elapsed.as_secs_f64(), carrier.join().unwrap().as_secs_f64())
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let (mib, rounds) = (arguments.next().unwrap_or(1024), arguments.next().unwrap_or(5));
    let count = 20_000;
    let mut results = vec![(Vec::new(), Vec::new(), Vec::new()); WAYS.len()];
    for _ in 0..rounds {
        for ((way, _), (rate, cost, question)) in WAYS.iter().zip(&mut results) {
            let (wall, busy) = bulk(*way, mib);
            rate.push(mib as f64 / wall);
            cost.push(busy * 1024.0 / mib as f64);
            question.push(talk(*way, count).1 / count as f64 * 1e6);
        }
    }
    println!("{:<12} {:>9} {:>12} {:>20}", "", "MiB/s", "CPU s/GiB", "CPU µs/question");
    for ((_, name), (rate, cost, question)) in WAYS.iter().zip(results) {
        println!("{name:<12} {:>9.0} {:>12.3} {:>20.2}", median(rate), median(cost), median(question));
    }
}
