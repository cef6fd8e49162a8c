//! `cargo xtask run`: everything from source to the output of a container.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::daemon::Daemon;
use crate::plugins::Profile;
use crate::shell::ask;

/// Builds, starts a daemon, runs the hello image or `arguments` as a command line, and cleans up. Returns the exit code.
pub(crate) fn run(profile: Profile, arguments: &[String]) -> Result<i32> {
    let started = Instant::now();
    let bin = build::everything(profile)?;
    let built = started.elapsed();
    let daemon = Daemon::start(&bin)?;
    let code = if arguments.is_empty() {
        hello(&daemon, built)
    } else {
        busybox(&daemon).and_then(|()| {
            let status = daemon.wharf().args(arguments).status();
            status.map(|status| status.code().unwrap_or(1)).context("cannot start wharf")
        })
    };
    let stopped = daemon.stop();
    let code = code?;
    stopped?;
    Ok(code)
}

fn hello(daemon: &Daemon, built: Duration) -> Result<i32> {
    let begun = Instant::now();
    import(daemon, "hello", "CMD [\"/hello\"]", &tar("hello", wharf_programs::HELLO, &[]))?;
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

fn import(daemon: &Daemon, image: &str, change: &str, archive: &[u8]) -> Result<()> {
    let mut import = daemon
        .wharf()
        .args(["import", "--change", change, "-", image])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start wharf")?;
    if let Some(mut stdin) = import.stdin.take() {
        stdin.write_all(archive)?;
    }
    if !import.wait()?.success() {
        bail!("the image {image} could not be imported");
    }
    Ok(())
}

/// The image `busybox`, from Debian's busybox-static if that is installed: something to run a shell in.
fn busybox(daemon: &Daemon) -> Result<()> {
    let program = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| std::fs::read(path).ok());
    // A dynamic one would miss its libraries.
    let is_static = |program: &Vec<u8>| !program.windows(10).any(|part| part == b"/ld-linux-");
    let Some(program) = program.filter(is_static) else { return Ok(()) };
    let applets = ask(Command::new("busybox").arg("--list")).unwrap_or_default();
    let links: Vec<String> = applets
        .split_whitespace()
        .filter(|name| *name != "busybox")
        .map(|name| format!("bin/{name}"))
        .collect();
    import(daemon, "busybox", "CMD [\"sh\"]", &tar("bin/busybox", &program, &links))
}

/// An archive: names with their content, and links to the first of them.
fn tar(name: &str, content: &[u8], links: &[String]) -> Vec<u8> {
    let mut archive = Vec::new();
    entry(&mut archive, name, b"0", "", content);
    let target = name.rsplit('/').next().unwrap_or(name);
    for link in links {
        entry(&mut archive, link, b"2", target, b"");
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, kind: &[u8], link: &str, content: &[u8]) {
    let mut header = [0_u8; 512];
    let fields: [(usize, String); 8] = [
        (0, name.to_owned()),
        (100, format!("{:07o}", 0o755)),
        (108, format!("{:07o}", 0)),
        (116, format!("{:07o}", 0)),
        (124, format!("{:011o}", content.len())),
        (136, format!("{:011o}", 0)),
        (148, " ".repeat(8)),
        (157, link.to_owned()),
    ];
    for (start, text) in &fields {
        put(&mut header, *start, text.as_bytes());
    }
    put(&mut header, 156, kind);
    put(&mut header, 257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
    archive.extend_from_slice(&header);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn put(header: &mut [u8; 512], start: usize, bytes: &[u8]) {
    for (slot, byte) in header.iter_mut().skip(start).zip(bytes) {
        *slot = *byte;
    }
}
