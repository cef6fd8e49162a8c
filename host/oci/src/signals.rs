//! Standing in for a container's process: signals go there, its status becomes ours.

use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use wharf_kernel::sys::process::{self as sys, Ended};

use crate::terminal::Proxy;
use crate::{Error, Result};

/// Signals that are caught from its making on.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks all that can be passed on.
    pub(crate) fn block() -> Result<Self> {
        let mut set = SigSet::all();
        // Faults are this process's own, and so is the end of a terminal's reader.
        for own in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT] {
            set.remove(own);
        }
        set.thread_block()?;
        Ok(Self { fd: SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)? })
    }

    /// Waits for the process, which is a child of this one, and passes signals and its terminal's bytes on.
    pub(crate) fn wait(&self, process: &OwnedFd, master: Option<OwnedFd>) -> Result<u8> {
        let mut proxy = master.map(Proxy::new).transpose()?;
        loop {
            let mut polls = vec![
                PollFd::new(process.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(proxy) = &proxy {
                proxy.polls(&mut polls);
            }
            match poll(&mut polls, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result?,
            };
            let ready: Vec<bool> = polls.iter().map(|p| p.revents().is_some_and(|r| !r.is_empty())).collect();
            drop(polls);
            if let Some(proxy) = &mut proxy {
                proxy.copy(ready.get(2..).unwrap_or_default());
            }
            if ready.get(1) == Some(&true) {
                self.pass_on(process, proxy.as_ref())?;
            }
            if ready.first() == Some(&true)
                && let Some(ended) = sys::wait_child(process.as_fd())?
            {
                if let Some(proxy) = &mut proxy {
                    proxy.drain();
                }
                return Ok(match ended {
                    Ended::Exited(code) => u8::try_from(code & 0xff).unwrap_or(255),
                    Ended::Signaled(signal) => u8::try_from(128 + signal).unwrap_or(255),
                });
            }
        }
    }

    fn pass_on(&self, process: &OwnedFd, proxy: Option<&Proxy>) -> Result<()> {
        while let Some(info) = self.fd.read_signal()? {
            let number = i32::try_from(info.ssi_signo).map_err(|e| Error(e.to_string()))?;
            match Signal::try_from(number) {
                Ok(Signal::SIGCHLD | Signal::SIGPIPE) => {}
                Ok(Signal::SIGWINCH) => {
                    if let Some(proxy) = proxy {
                        proxy.resize();
                    }
                }
                // It may have ended; then its status comes next.
                _ => drop(sys::pidfd_send_signal(process.as_fd(), number)),
            }
        }
        Ok(())
    }
}
