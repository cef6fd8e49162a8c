//! What is written down of a container's shim, in its bundle: for who calls it later, and for who clears up after it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bootstrap::Started;
use crate::family::Member;

/// File of the bundle. It is there from the start of the shim until its orderly end.
const FILE: &str = "shim.json";
/// There once the shim or the kernel told of a lack of memory.
const OOM: &str = "oom";
const LONGEST: usize = 256 << 10;

/// A running shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) started: Started,
    /// Processes of the shim: to be ended should nobody be left who stands in for the container.
    pub(crate) family: Vec<Member>,
    /// The container's process shares the shim's view of files: the container is elsewhere, in a virtual machine.
    pub(crate) elsewhere: bool,
}

impl Record {
    /// None where there is none, or none that can be read.
    pub(crate) fn read(bundle: &Path) -> Option<Self> {
        let file = std::fs::File::open(bundle.join(FILE)).ok()?;
        serde_json::from_slice(&wharf_kernel::fs::read_limited(&file, LONGEST).ok()?).ok()
    }

    /// Whole or not at all: the daemon may read it any time.
    pub(crate) fn write(&self, bundle: &Path) -> std::io::Result<()> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let new = bundle.join("shim.json.new");
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        options.open(&new)?.write_all(&serde_json::to_vec(self)?)?;
        std::fs::rename(new, bundle.join(FILE))
    }

    pub(crate) fn remove(bundle: &Path) {
        // Of a start that failed early there is none.
        let _ = std::fs::remove_file(bundle.join(FILE));
    }
}

/// Where the container's files are to be found through one of its processes: None where they are what the process has as its own
/// root, as with every container that is processes of this host.
pub fn files_elsewhere(bundle: &Path) -> Option<std::path::PathBuf> {
    Record::read(bundle).filter(|r| r.elsewhere).map(|_| bundle.join(wharf_plan::run::ROOTFS_PLACE))
}

/// Whether the container was told to have lacked memory.
pub fn lacked_memory(bundle: &Path) -> bool {
    bundle.join(OOM).exists()
}

pub(crate) fn mark_lack_of_memory(bundle: &Path) {
    // Without room for an empty file the end is told without its cause.
    let _ = std::fs::write(bundle.join(OOM), b"");
}
