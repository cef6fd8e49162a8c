//! What of the host is built only where the machine has the tools for it.

use std::process::Command;

use crate::shell::{is_root, on_path, run_quiet};

/// What ISA-L is built with: a program, and its Debian package.
const TOOLS: [(&str, &str); 5] = [
    ("nasm", "nasm"),
    ("autoreconf", "autoconf"),
    ("automake", "automake"),
    ("libtoolize", "libtool"),
    ("make", "make"),
];

fn missing() -> Vec<&'static str> {
    TOOLS.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect()
}

/// Arguments for cargo, of `--workspace` and `--package wharf` alike. Installs the tools where that is possible, and says so.
pub(crate) fn arguments() -> &'static [&'static str] {
    const WITH: &[&str] = &["--features", "wharf/isal"];
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))
        || std::env::var_os("WHARF_NO_ISAL").is_some()
    {
        return &[];
    }
    let wanted = missing();
    if wanted.is_empty() {
        return WITH;
    }
    let wanted = wanted.join(" ");
    if is_root() && on_path("apt-get") {
        eprintln!("build: installing {wanted}, for a gzip that is twice as fast");
        let install =
            format!("apt-get update -qq && apt-get install -y -qq --no-install-recommends {wanted}");
        let _ = run_quiet(Command::new("sh").args(["-c", &install]).env("DEBIAN_FRONTEND", "noninteractive"));
        if missing().is_empty() {
            return WITH;
        }
    }
    eprintln!("build: gzip is zlib's; with {wanted} installed, pushes would be compressed twice as fast");
    &[]
}
