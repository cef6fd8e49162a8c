//! Programs that the distribution has too old for this machine's kernel: unpacked from a newer release, beside the build.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{ask, is_root, on_path, run_quiet, target_dir};

/// The release of Debian that has a CRIU for the newest kernels, and where it is.
const RELEASE: &str = "forky";
const MIRROR: &str = "http://deb.debian.org/debian";

fn works(program: impl AsRef<std::ffi::OsStr>) -> bool {
    ask(Command::new(program).arg("check")).is_some()
}

/// Sees to a CRIU that works, if it can; the tests that need one say that they are skipped.
pub(crate) fn criu() {
    let place = target_dir().join("tools");
    if !is_root() || works("/usr/sbin/criu") || works(place.join("criu")) || !on_path("mmdebstrap") {
        return;
    }
    eprintln!("test: criu does not work on this kernel, taking that of Debian {RELEASE}");
    if let Err(error) = unpack(&place) {
        eprintln!("test: tests of checkpoints will be skipped: {error:#}");
    }
}

/// The program with all its libraries, and a script that calls it by its own loader.
fn unpack(place: &Path) -> Result<()> {
    let root = place.join("criu-root");
    fs::create_dir_all(place).with_context(|| place.display().to_string())?;
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    run_quiet(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=extract", "--include=criu"])
            // A release that is not out yet may be older than a machine's clock likes.
            .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
            .arg(RELEASE)
            .arg(&root)
            .arg(MIRROR),
    )?;
    let script = format!(
        "#!/bin/sh\nroot={root}\nlib=$root/usr/lib/{arch}-linux-gnu\n\
         exec \"$lib\"/ld-linux-*.so.* --library-path \"$lib\" \"$root/usr/sbin/criu\" \"$@\"\n",
        root = root.display(),
        arch = std::env::consts::ARCH,
    );
    let program = place.join("criu");
    fs::write(&program, script)
        .and_then(|()| fs::set_permissions(&program, fs::Permissions::from_mode(0o755)))?;
    Ok(())
}
