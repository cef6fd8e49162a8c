//! The way to a standard library for wasm32-unknown-unknown on this machine.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::shell::{self, ask, cargo, is_root, on_path};

/// The target of every component: no WASI, so nothing to import but the contract.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's compiler and library source of one version; rustup's compilers cannot build that source.
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-19"];

/// How components are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The compiler we run under has the target.
    Installed,
    /// `rustup target add` fetched it.
    Added,
    /// The distribution's compiler builds the standard library along.
    Distribution,
}

impl Way {
    /// One line for the user.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Way::Installed => "the installed target wasm32-unknown-unknown",
            Way::Added => "the target wasm32-unknown-unknown, just added with rustup",
            Way::Distribution => "Debian's rustc-web, building the standard library from rust-web-src",
        }
    }

    /// `cargo rustc` for one package, ready for further arguments.
    pub(crate) fn cargo_rustc(self, target_dir: &Path) -> Command {
        let mut command = match self {
            Way::Installed | Way::Added => cargo(),
            Way::Distribution => {
                let mut command = Command::new("/usr/bin/cargo");
                command
                    .current_dir(shell::root())
                    .env("RUSTC", "/usr/bin/rustc")
                    // build-std is behind the nightly gate; this compiler is a release one.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld-19");
                for name in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "CARGO"] {
                    command.env_remove(name);
                }
                command
            }
        };
        command
            .env_remove("RUSTFLAGS")
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", "-Ctarget-feature=+simd128")
            .arg("rustc");
        if self == Way::Distribution {
            command.arg("-Zbuild-std=std,panic_abort");
        }
        command.args(["--target", TARGET, "--target-dir"]).arg(target_dir);
        command
    }
}

/// Finds the way, installing what is missing where that is possible. `WHARF_WASM_TOOLCHAIN=distribution` skips rustup.
pub(crate) fn find() -> Result<Way> {
    let forced = std::env::var("WHARF_WASM_TOOLCHAIN").unwrap_or_default();
    if forced != "distribution" {
        if has_target() {
            return Ok(Way::Installed);
        }
        if add_with_rustup() && has_target() {
            return Ok(Way::Added);
        }
    }
    if has_distribution() {
        return Ok(Way::Distribution);
    }
    if on_path("apt-get") && is_root() {
        eprintln!("plugins: installing {}", PACKAGES.join(", "));
        let mut update = Command::new("apt-get");
        let mut install = Command::new("apt-get");
        let installed = shell::run_quiet(update.args(["update", "-qq"])).and_then(|()| {
            shell::run_quiet(
                install
                    .env("DEBIAN_FRONTEND", "noninteractive")
                    .args(["install", "-y", "-qq", "--no-install-recommends"])
                    .args(PACKAGES),
            )
        });
        if let Err(error) = installed {
            eprintln!("plugins: {error:#}");
        }
        if has_distribution() {
            return Ok(Way::Distribution);
        }
    }
    bail!(
        "plugins need a standard library for {TARGET}: run `rustup target add {TARGET}`, or on Debian, as root, \
         `apt-get install {}`",
        PACKAGES.join(" ")
    )
}

fn has_target() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    ask(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET])).is_some_and(|dir| {
        std::fs::read_dir(dir).is_ok_and(|files| {
            files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
        })
    })
}

fn has_distribution() -> bool {
    ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/bin/wasm-ld-19", "/usr/lib/rustlib/src/rust/library/std"]
        .iter()
        .all(|path| Path::new(path).exists())
        && ask(Command::new("/usr/bin/rustc").arg("--version")).is_some_and(|text| {
            // The workspace's `rust-version`.
            text.split('.')
                .nth(1)
                .and_then(|minor| minor.parse::<u32>().ok())
                .is_some_and(|minor| minor >= 95)
        })
}

/// Offline, rustup retries for minutes; half a minute without progress means there is no way.
fn add_with_rustup() -> bool {
    if !on_path("rustup") {
        return false;
    }
    let Ok(mut child) = Command::new("rustup")
        .args(["target", "add", TARGET])
        .env("RUSTUP_MAX_RETRIES", "1")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
    else {
        return false;
    };
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let limit = Duration::from_mins(1);
    let started = Instant::now();
    let pid = child.id();
    // A watcher that ends the child, so that waiting for it needs no polling.
    let watcher = std::thread::spawn(move || {
        if ended.recv_timeout(limit).is_err() {
            let _ = Command::new("kill").arg(pid.to_string()).status();
        }
    });
    let ok = child.wait().is_ok_and(|status| status.success());
    let _ = done.send(());
    let _ = watcher.join();
    if !ok {
        eprintln!("plugins: rustup cannot add {TARGET} ({:.0} s)", started.elapsed().as_secs_f32());
    }
    ok
}
