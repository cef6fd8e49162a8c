//! runc's shim of containerd, out of Debian's package but not installed: nothing of containerd is to run on the machine.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::{on_path, run_quiet, target_dir};

const PROGRAM: &str = "containerd-shim-runc-v2";

/// Puts the program where the tests look for it, unless it is on `$PATH` or there already.
pub(crate) fn fetch() -> Result<()> {
    let place = target_dir().join("shims");
    let program = place.join(PROGRAM);
    if on_path(PROGRAM) || program.is_file() {
        return Ok(());
    }
    if !on_path("apt-get") || !on_path("dpkg-deb") {
        bail!("the tests need {PROGRAM}, which is in Debian's package containerd");
    }
    eprintln!("test: fetching {PROGRAM}");
    let scratch = place.join("package");
    std::fs::create_dir_all(&scratch)?;
    run_quiet(Command::new("apt-get").args(["download", "-qq", "containerd"]).current_dir(&scratch))
        .context("the tests need containerd's shim of runc")?;
    let packages = std::fs::read_dir(&scratch)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = packages.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.context("apt-get downloaded no package")?;
    run_quiet(Command::new("dpkg-deb").arg("-x").arg(package).arg(scratch.join("files")))?;
    let found = scratch.join("files/usr/bin").join(PROGRAM);
    move_whole(&found, &program)?;
    std::fs::remove_dir_all(scratch)?;
    Ok(())
}

/// There is never half a program under the name.
fn move_whole(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).with_context(|| format!("no {} in the package", from.display()))
}
