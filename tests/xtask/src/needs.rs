//! What the tests need besides Rust, in one place.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{ask, is_root, on_path, run_quiet};

/// A program, and the Debian packages that may have it, the first that the distribution has is taken. Python and Node packages are installed by the tests that use them.
const NEEDS: &[(&str, &str)] = &[
    ("bats", "bats"),
    ("busybox", "busybox-static"),
    ("cc", "build-essential"),
    ("criu", "criu"),
    ("crun", "crun"),
    ("curl", "curl"),
    ("docker", "docker-cli docker.io"),
    ("docker-registry", "docker-registry"),
    ("gawk", "gawk"),
    ("ip", "iproute2"),
    ("jq", "jq"),
    ("node", "nodejs"),
    ("nginx", "nginx-light nginx"),
    ("npm", "npm"),
    ("fsck.erofs", "erofs-utils"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("openssl", "openssl"),
    ("pip3", "python3-pip"),
    ("podman", "podman"),
    ("python3", "python3"),
    ("runc", "runc"),
    ("skopeo", "skopeo"),
];

/// What only some tests need, which say that they are skipped without it: a file, and its Debian package.
const WISHES: [(&str, &str); 5] = [
    ("/usr/bin/mmdebstrap", "mmdebstrap"),
    ("/sbin/apparmor_parser", "apparmor"),
    ("/usr/bin/qemu-system-x86_64", "qemu-system-x86"),
    ("/sbin/mkfs.ext4", "e2fsprogs"),
    ("/boot/vmlinuz-*-cloud-amd64", "linux-image-cloud-amd64"),
];

/// Whether there is a file of this name; a `*` stands for anything within the last part.
fn is_there(file: &str) -> bool {
    let Some((start, end)) = file.split_once('*') else { return Path::new(file).exists() };
    let (dir, start) = start.rsplit_once('/').unwrap_or((".", start));
    std::fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        entry.file_name().to_str().is_some_and(|name| name.starts_with(start) && name.ends_with(end))
    })
}

/// Installs what some tests can use, where that is possible.
fn install_wishes() {
    let missing: Vec<&str> =
        WISHES.iter().filter(|(file, _)| !is_there(file)).map(|(_, package)| *package).collect();
    if !cfg!(target_arch = "x86_64") || missing.is_empty() || !is_root() || !on_path("apt-get") {
        return;
    }
    eprintln!("test: installing {}", missing.join(", "));
    let installed = run_quiet(Command::new("apt-get").args(["update", "-qq"])).and_then(|()| {
        run_quiet(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "-y", "-qq", "--no-install-recommends"])
                .args(&missing),
        )
    });
    if let Err(error) = installed {
        eprintln!("test: tests in a virtual machine will be skipped: {error:#}");
    }
}

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    install_wishes();
    let mut missing: Vec<&str> =
        NEEDS.iter().filter(|(program, _)| !present(program)).map(|(_, packages)| *packages).collect();
    if missing.is_empty() {
        return crate::shim::fetch();
    }
    if !is_root() || !on_path("apt-get") {
        bail!("the tests need: {}", missing.join(", "));
    }
    eprintln!("test: installing {}", missing.join(", "));
    run_quiet(Command::new("apt-get").args(["update", "-qq"]))?;
    for packages in &mut missing {
        *packages = packages.split(' ').find(|package| available(package)).unwrap_or(packages);
    }
    run_quiet(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&missing),
    )
    .with_context(|| format!("the tests need: {}", missing.join(", ")))?;
    crate::shim::fetch()
}

/// Whether the distribution has this package.
fn available(package: &str) -> bool {
    ask(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
        .is_some_and(|said| !said.is_empty())
}

fn present(program: &str) -> bool {
    on_path(program) || ["/usr/sbin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).is_file())
}
