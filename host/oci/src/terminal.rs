//! A container's terminal: sent to who asked for it, or joined to this process's own.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags};
use nix::sys::termios::{self, OutputFlags, SetArg, Termios};
use nix::unistd::{read, write};
use wharf_kernel::sys::tty;

use crate::{Result, handover};

/// Sends the master over the socket at `path`, as runc does.
pub(crate) fn send(path: &Path, master: &OwnedFd) -> Result<()> {
    handover::send(path, b"/dev/ptmx", master.as_fd(), "console socket")
}

/// What the container writes comes as it is; only where it ends at a terminal, that one adds what a terminal needs. To be called
/// before the program runs, which may write at once.
pub(crate) fn plain(master: &OwnedFd) -> Result<()> {
    if let Ok(mut settings) = termios::tcgetattr(master) {
        settings.output_flags.remove(OutputFlags::ONLCR);
        termios::tcsetattr(master, SetArg::TCSANOW, &settings)?;
    }
    Ok(())
}

/// Stands between the container's terminal and this process's standard streams.
#[derive(Debug)]
pub(crate) struct Proxy {
    master: OwnedFd,
    input: bool,
    before: Option<Termios>,
}

impl Proxy {
    pub(crate) fn new(master: OwnedFd) -> Result<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            termios::cfmakeraw(&mut raw);
            raw.output_flags.insert(OutputFlags::OPOST);
            termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        }
        let proxy = Self { master, input: true, before };
        proxy.resize();
        Ok(proxy)
    }

    /// Gives the container's terminal the size of this one.
    pub(crate) fn resize(&self) {
        if let Some((rows, columns)) = tty::size(std::io::stdin().as_fd()) {
            // A terminal that is gone needs no size.
            let _ = tty::set_size(self.master.as_fd(), rows, columns);
        }
    }

    pub(crate) fn polls<'a>(&'a self, polls: &mut Vec<PollFd<'a>>) {
        polls.push(PollFd::new(self.master.as_fd(), PollFlags::POLLIN));
        if self.input {
            // The standard streams live as long as the process.
            polls.push(PollFd::new(STDIN.as_fd(), PollFlags::POLLIN));
        }
    }

    /// Copies what there is, by what is ready of [`polls`](Self::polls).
    pub(crate) fn copy(&mut self, ready: &[bool]) {
        let mut buffer = [0_u8; 16 * 1024];
        if ready.first() == Some(&true) {
            self.output(&mut buffer);
        }
        if ready.get(1) == Some(&true) {
            match read(STDIN, &mut buffer) {
                Ok(count) if count > 0 => {
                    all(self.master.as_fd(), buffer.get(..count).unwrap_or_default());
                }
                // End of input; a terminal's own end is a byte, which is the user's to type.
                _ => {
                    all(self.master.as_fd(), &[4]);
                    self.input = false;
                }
            }
        }
    }

    fn output(&self, buffer: &mut [u8]) -> bool {
        match read(&self.master, buffer) {
            Ok(count) if count > 0 => {
                all(STDOUT.as_fd(), buffer.get(..count).unwrap_or_default());
                true
            }
            _ => false,
        }
    }

    /// The rest of the output, once the process has ended.
    pub(crate) fn drain(&mut self) {
        let mut buffer = [0_u8; 16 * 1024];
        loop {
            let mut polls = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let some = nix::poll::poll(&mut polls, 0_u8).is_ok_and(|n| n > 0);
            if !some || !self.output(&mut buffer) {
                return;
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // The terminal may be gone.
            let _ = termios::tcsetattr(STDIN, SetArg::TCSANOW, before);
        }
    }
}

fn all(to: std::os::fd::BorrowedFd<'_>, mut data: &[u8]) {
    while !data.is_empty() {
        match write(to, data) {
            Ok(count) => data = data.get(count..).unwrap_or_default(),
            Err(nix::errno::Errno::EINTR) => {}
            // Nobody is there any more.
            Err(_) => return,
        }
    }
}

/// A standard stream of this process, without the buffer of the standard library.
#[derive(Debug, Clone, Copy)]
struct Standard(u8);

const STDIN: Standard = Standard(0);
const STDOUT: Standard = Standard(1);

impl AsFd for Standard {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        wharf_kernel::sys::file::standard(self.0)
    }
}
