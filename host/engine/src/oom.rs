//! Processes that the kernel kills for lack of memory while their container goes on.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use wharf_kernel::cgroup::OomWatch;

use crate::Engine;
use crate::registry::Container;

/// The kernel tells before it has counted; it is asked so often, with this pause.
const LOOKS: (u32, Duration) = (20, Duration::from_millis(10));

/// Whether a run's lack of memory was told ([`Container::oom`](crate::registry::Container)).
pub(crate) const UNTOLD: u8 = 0;
const TOLD: u8 = 1;
/// The run has ended.
const OVER: u8 = 2;

#[expect(
    deprecated,
    reason = "the replacement is unsafe for any `T`; an `OwnedFd` keeps its number while it lives, which is all it asks for"
)]
fn waiting(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

/// A counter starts again at nothing, and a file counts as seen.
fn drain(mut file: &File) {
    let mut buffer = [0; 512];
    if file.read_at(&mut buffer, 0).is_err() {
        // Not to be read at a place: the counter. Where it is at nothing already, there is nothing to do.
        let _ = file.read(&mut buffer);
    }
}

impl Engine {
    /// Tells of kills in a container with a limit until its run ends. Without a limit it is the whole machine that lacks memory.
    pub(crate) fn watch_oom(&self, container: &Arc<Container>) {
        let now = container.now();
        container.oom.store(UNTOLD, Ordering::SeqCst);
        if now.def.host.memory.unwrap_or(0) <= 0 {
            return;
        }
        let (weak, container) = (Arc::downgrade(&self.inner), Arc::clone(container));
        let (cgroups, pool, path) =
            (self.inner.cgroups.clone(), self.inner.pool.clone(), now.state.cgroup.clone());
        tokio::spawn(async move {
            let mut life = container.watch();
            let exits = life.borrow().exits;
            let of = (cgroups.clone(), path.clone());
            let Ok(Ok(watch)) = pool.run(move || of.0.watch_oom(&of.1)).await else { return };
            let (fd, interest) = match watch {
                OomWatch::Counter(fd) => (fd, Interest::READABLE),
                OomWatch::File(fd) => (fd, Interest::PRIORITY),
            };
            let Ok(file) = fd.try_clone().map(File::from) else { return };
            drain(&file);
            let Ok(watch) = waiting(fd, interest) else { return };
            let mut seen = cgroups.oom_kills(&path).unwrap_or(0);
            loop {
                tokio::select! {
                    _ = life.wait_for(|l| l.exits > exits || l.removed || !l.alive) => return,
                    ready = watch.ready(interest) => match ready {
                        Ok(mut ready) => ready.clear_ready(),
                        Err(_) => return,
                    },
                }
                drain(&file);
                for _ in 0..LOOKS.0 {
                    // Gone with its container.
                    let Ok(kills) = cgroups.oom_kills(&path) else { return };
                    let Some(inner) = weak.upgrade() else { return };
                    if kills > seen {
                        seen = kills;
                        if container.oom.compare_exchange(UNTOLD, TOLD, Ordering::SeqCst, Ordering::SeqCst)
                            == Err(OVER)
                        {
                            return;
                        }
                        Engine { inner }.container_event(&container.now(), "oom", &[]);
                        break;
                    }
                    tokio::time::sleep(LOOKS.1).await;
                }
            }
        });
    }

    /// The run ends: whether a lack of memory is still to be told.
    pub(crate) fn oom_is_untold(container: &Container) -> bool {
        container.oom.swap(OVER, Ordering::SeqCst) == UNTOLD
    }
}
