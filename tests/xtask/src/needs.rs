//! What the tests need besides Rust, in one place.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{is_root, on_path, run_quiet};

/// A program, and the Debian package that has it. Python and Node packages are installed by the tests that use them.
const NEEDS: [(&str, &str); 11] = [
    ("busybox", "busybox-static"),
    ("cc", "build-essential"),
    ("curl", "curl"),
    ("docker", "docker-cli"),
    ("docker-registry", "docker-registry"),
    ("ip", "iproute2"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("nsenter", "util-linux"),
    ("pip3", "python3-pip"),
    ("python3", "python3"),
];

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let missing: Vec<&str> =
        NEEDS.iter().filter(|(program, _)| !present(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() || !on_path("apt-get") {
        bail!("the tests need: {}", missing.join(", "));
    }
    eprintln!("test: installing {}", missing.join(", "));
    run_quiet(Command::new("apt-get").args(["update", "-qq"]))?;
    run_quiet(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&missing),
    )
    .with_context(|| format!("the tests need: {}", missing.join(", ")))
}

fn present(program: &str) -> bool {
    on_path(program) || ["/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).is_file())
}
