//! `cargo xtask run`: everything from source to the output of a container.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::daemon::Daemon;
use crate::plugins::Profile;

/// Builds, starts a daemon, runs the hello image or `arguments` as a command line, and cleans up. Returns the exit code.
pub(crate) fn run(profile: Profile, arguments: &[String]) -> Result<i32> {
    let started = Instant::now();
    let bin = build::everything(profile)?;
    let built = started.elapsed();
    let daemon = Daemon::start(&bin)?;
    let code = if arguments.is_empty() {
        hello(&daemon, built)
    } else {
        let status = daemon.wharf().args(arguments).status();
        status.map(|status| status.code().unwrap_or(1)).context("cannot start wharf")
    };
    let stopped = daemon.stop();
    let code = code?;
    stopped?;
    Ok(code)
}

fn hello(daemon: &Daemon, built: Duration) -> Result<i32> {
    let begun = Instant::now();
    let mut import = daemon
        .wharf()
        .args(["import", "--change", "CMD [\"/hello\"]", "-", "hello"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start wharf")?;
    if let Some(mut stdin) = import.stdin.take() {
        stdin.write_all(&tar("hello", wharf_programs::HELLO))?;
    }
    if !import.wait()?.success() {
        bail!("the hello image could not be imported");
    }
    let imported = begun.elapsed();
    let begun = Instant::now();
    let status = daemon.wharf().args(["run", "--rm", "hello"]).status().context("cannot start wharf")?;
    let ran = begun.elapsed();
    println!(
        "built in {:.1} s; daemon ready after {} ms, image made in {} ms, container run in {} ms",
        built.as_secs_f32(),
        daemon.ready.as_millis(),
        imported.as_millis(),
        ran.as_millis()
    );
    Ok(status.code().unwrap_or(1))
}

/// An archive of one executable file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let fields: [(usize, String); 7] = [
        (0, name.to_owned()),
        (100, format!("{:07o}", 0o755)),
        (108, format!("{:07o}", 0)),
        (116, format!("{:07o}", 0)),
        (124, format!("{:011o}", content.len())),
        (136, format!("{:011o}", 0)),
        (148, " ".repeat(8)),
    ];
    for (start, text) in &fields {
        put(&mut header, *start, text.as_bytes());
    }
    put(&mut header, 156, b"0");
    put(&mut header, 257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

fn put(header: &mut [u8; 512], start: usize, bytes: &[u8]) {
    for (slot, byte) in header.iter_mut().skip(start).zip(bytes) {
        *slot = *byte;
    }
}
