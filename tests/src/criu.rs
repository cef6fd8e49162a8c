//! A CRIU that works on this machine's kernel: Debian's own, or the newer one that `cargo xtask test` has put aside.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// A script that counts into `/data/n` and to standard output, and ends with 7 when it is told to.
pub const COUNTER: &str =
    "trap 'exit 7' TERM; i=0; while :; do i=$((i+1)); echo $i >/data/n; echo count $i; sleep 0.05; done";

/// One that says of itself that it works here. Without one, says that the test is skipped.
pub fn criu() -> Option<&'static PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let aside = crate::bin_dir().join("../tools/criu");
        let places = ["/usr/sbin/criu".into(), aside.canonicalize().unwrap_or(aside)];
        places.into_iter().find(|program| {
            let check = Command::new(program).arg("check").output();
            check.is_ok_and(|output| output.status.success())
        })
    });
    if found.is_none() {
        eprintln!("skipped: no CRIU works on this kernel");
    }
    found.as_ref()
}
