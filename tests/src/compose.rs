//! Docker Compose itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Daemon, Ran, bin_dir};

/// Debian's Docker Compose, taken out of its package without installing it.
pub fn compose(d: &Daemon) -> Option<PathBuf> {
    let beside = bin_dir().join("clients/compose");
    let program = "usr/libexec/docker/cli-plugins/docker-compose";
    let places = [
        beside.join(program),
        PathBuf::from("/").join(program),
        "/usr/lib/docker/cli-plugins/docker-compose".into(),
    ];
    if let Some(found) = places.iter().find(|p| p.is_file()) {
        return Some(found.clone());
    }
    // From the next release of Debian where this one has only the old program; nothing of the system's own changes.
    let state = beside.join("apt");
    std::fs::create_dir_all(state.join("lists/partial")).ok()?;
    std::fs::create_dir_all(state.join("cache/archives/partial")).ok()?;
    std::fs::write(state.join("sources.list"), "deb http://deb.debian.org/debian trixie main\n").ok()?;
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        for (key, value) in [
            ("Dir::Etc::sourcelist", state.join("sources.list").display().to_string()),
            ("Dir::Etc::sourceparts", "-".into()),
            ("Dir::State::lists", state.join("lists").display().to_string()),
            ("Dir::Cache", state.join("cache").display().to_string()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command.args(args).current_dir(&state).status().is_ok_and(|s| s.success())
    };
    if !apt(&["-qq", "update"]) || !apt(&["-qq", "download", "docker-compose"]) {
        eprintln!("no Docker Compose can be had from here: {}", d.host());
        return None;
    }
    let package = std::fs::read_dir(&state)
        .ok()?
        .flatten()
        .find(|e| e.path().extension().is_some_and(|x| x == "deb"))?;
    let done = Command::new("dpkg-deb")
        .arg("-x")
        .arg(package.path())
        .arg(&beside)
        .status()
        .is_ok_and(|s| s.success());
    done.then(|| places[0].clone())
}

/// Runs it in a directory; alone or as a plugin, it takes the same words. HOME keeps its state out of the user's.
#[track_caller]
pub fn run(d: &Daemon, program: &Path, dir: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(program);
    command
        .current_dir(dir)
        .env("DOCKER_HOST", d.host())
        .env("DOCKER_CONFIG", d.path("docker-config"))
        .env("HOME", d.path("."));
    command.args(["--ansi", "never"]).args(args);
    d.run_with_input(command, b"")
}
