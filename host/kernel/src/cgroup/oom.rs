//! Being told when the kernel kills for lack of memory.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Cgroups, Hierarchy, Version, relative};
use crate::error::{Error, Result};

/// What to wait for.
#[derive(Debug)]
pub enum OomWatch {
    /// With cgroup v1, an event counter: readable after a kill (or when the cgroup is gone). To be read empty each time.
    Counter(OwnedFd),
    /// With v2, a file with exceptional data (`POLLPRI`) after every change. To be read from its beginning each time.
    File(OwnedFd),
}

impl Cgroups {
    /// Watches a cgroup. What is told is only that [`oom_kills`](Self::oom_kills) may have grown, at once or a moment later.
    ///
    /// Fails with ENOENT on a host that does not account memory.
    pub fn watch_oom(&self, path: &str) -> Result<OomWatch> {
        let path = relative(path)?;
        let memory = match self.version() {
            Version::V1 => self.hierarchies().iter().find(|h| h.has("memory")),
            Version::V2 => self.hierarchies().first(),
        };
        let dir = memory.map(Hierarchy::dir).ok_or_else(|| Error::new("memory cgroup", libc::ENOENT))?;
        if self.version() == Version::V2 {
            return dir.open_read(&format!("{path}/memory.events")).map(OomWatch::File);
        }
        let counter = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Error::new("eventfd()", e as i32))?;
        let counter = OwnedFd::from(counter);
        // Needed for the registration only; the counter stays registered until it is closed or the cgroup is removed.
        let control = dir.open_read(&format!("{path}/memory.oom_control"))?;
        let pair = format!("{} {}", counter.as_raw_fd(), control.as_raw_fd());
        dir.write(&format!("{path}/cgroup.event_control"), &pair)?;
        Ok(OomWatch::Counter(counter))
    }
}
