//! The streams of one process: named pipes for the shim, and what becomes of them here.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use wharf_kernel::container::Conductor;
use wharf_kernel::sys::tty;
use wharf_plan::run::Process;

use crate::flows::{Flow, Named, Step};
use crate::task::Streams;

/// Directory in the bundle for the named pipes.
const PLACE: &str = "io";

/// All streams of a process.
pub(crate) struct Io {
    pub(crate) named: Streams,
    outputs: Vec<Flow>,
    /// With what keeps its pipe from ending before all has gone in.
    input: Option<(Flow, OwnedFd)>,
    /// The end of a terminal that is the container's in the eyes of the keeper.
    terminal: Option<OwnedFd>,
    size: Option<(u16, u16)>,
    /// Keep the pipes open until the shim is done with them.
    open: Vec<OwnedFd>,
    paths: Vec<PathBuf>,
}

fn text(what: &str) -> impl Fn(nix::errno::Errno) -> String + '_ {
    move |e| format!("{what}: {e}")
}

/// A terminal whose own end passes bytes as they are: the container's real one is the shim's, and does the work.
fn raw_terminal(size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd), String> {
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open("/dev/ptmx", flags, Mode::empty()).map_err(text("/dev/ptmx"))?;
    tty::unlock(master.as_fd()).map_err(|e| e.to_string())?;
    let own = tty::peer(master.as_fd()).map_err(|e| e.to_string())?;
    let mut modes = tcgetattr(&own).map_err(text("a terminal"))?;
    cfmakeraw(&mut modes);
    tcsetattr(&own, SetArg::TCSANOW, &modes).map_err(text("a terminal"))?;
    if let Some((rows, columns)) = size {
        tty::set_size(own.as_fd(), rows, columns).map_err(|e| e.to_string())?;
    }
    // Changes of its size are told to whom it is the controlling terminal of.
    tty::make_controlling(own.as_fd()).map_err(|e| e.to_string())?;
    nonblocking(own.as_fd())?;
    Ok((master, own))
}

fn nonblocking(fd: BorrowedFd<'_>) -> Result<(), String> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(text("F_GETFL"))?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags)).map(drop).map_err(text("F_SETFL"))
}

impl Io {
    /// Makes the pipes, named after `name`. `stdio` are the process's standard streams of the plan.
    pub(crate) fn new(
        bundle: &Path,
        name: &str,
        process: &Process,
        stdio: [Option<BorrowedFd<'_>>; 3],
        conductor: Conductor<'_>,
    ) -> Result<Self, String> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = bundle.join(PLACE);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        let mut io = Self {
            named: Streams { terminal: process.tty, ..Streams::default() },
            outputs: Vec::new(),
            input: None,
            terminal: None,
            size: process.console_size,
            open: Vec::new(),
            paths: Vec::new(),
        };
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|e| format!("standard streams: {e}"));
        let ends: [Option<OwnedFd>; 3] = if process.tty {
            let (master, own) = raw_terminal(process.console_size)?;
            conductor.terminal(master.as_fd()).map_err(|e| e.to_string())?;
            let ends = [Some(copy(own.as_fd())?), Some(copy(own.as_fd())?), None];
            io.terminal = Some(own);
            ends
        } else {
            let [stdin, stdout, stderr] = stdio.map(|fd| fd.map(copy).transpose());
            [stdin?, stdout?, stderr?]
        };
        for (index, end) in ends.into_iter().enumerate() {
            let Some(end) = end else { continue };
            let pipe = Named::new(&dir, &format!("{name}-{index}"), index == 0)
                .map_err(|e| format!("a named pipe in {}: {e}", dir.display()))?;
            if let Some(path) = io.named.paths.get_mut(index) {
                *path = pipe.path.display().to_string();
            }
            if index == 0 {
                nonblocking(end.as_fd())?;
                io.input = Some((Flow::new(end, pipe.end, !process.tty), pipe.other));
            } else {
                nonblocking(end.as_fd())?;
                io.outputs.push(Flow::new(pipe.end, end, !process.tty));
                io.open.push(pipe.other);
            }
            io.paths.push(pipe.path);
        }
        Ok(io)
    }

    /// The size to begin with.
    pub(crate) fn first_size(&self) -> Option<(u16, u16)> {
        self.terminal.as_ref().and(self.size)
    }

    /// The terminal's size, where it has changed since it was last asked.
    pub(crate) fn new_size(&mut self) -> Option<(u16, u16)> {
        let size = self.terminal.as_ref().and_then(|own| tty::size(own.as_fd()));
        if size == self.size {
            return None;
        }
        self.size = size;
        size
    }

    /// What to wait for, with the number that [`step`](Self::step) takes.
    pub(crate) fn waits(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>, nix::poll::PollFlags)> {
        let all = self.input.iter().map(|(flow, _)| (0, flow));
        all.chain(self.outputs.iter().enumerate().map(|(n, flow)| (n + 1, flow)))
            .filter_map(|(n, flow)| flow.waits().map(|(fd, flags)| (n, fd, flags)))
    }

    /// Moves one stream on. True: that was the end of the input, of which the shim is to be told.
    pub(crate) fn step(&mut self, number: usize) -> bool {
        if number == 0 {
            let ended = self.input.as_mut().is_some_and(|(flow, _)| flow.step() == Step::Ended);
            if ended {
                // The pipe's ends here close with it.
                self.input = None;
            }
            return ended;
        }
        if let Some(flow) = self.outputs.get_mut(number - 1) {
            let _ = flow.step();
        }
        false
    }

    /// The shim is done: from now on the pipes end when they are empty.
    pub(crate) fn close(&mut self) {
        self.open.clear();
        self.input = None;
    }

    /// Whether all output has arrived.
    pub(crate) fn is_drained(&self) -> bool {
        self.outputs.iter().all(|flow| flow.waits().is_none())
    }

    /// Takes the names away.
    pub(crate) fn remove(&self) {
        for path in &self.paths {
            // The bundle may be gone already.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The descriptors of a plan's standard streams.
pub(crate) fn standard<'a>(process: &Process, fds: &'a [OwnedFd]) -> [Option<BorrowedFd<'a>>; 3] {
    process.stdio.map(|number| {
        let index = usize::try_from(number?).ok()?;
        fds.get(index).map(AsFd::as_fd)
    })
}

/// Their numbers.
pub(crate) fn numbers(stdio: &[Option<BorrowedFd<'_>>; 3]) -> Vec<i32> {
    stdio.iter().flatten().map(AsRawFd::as_raw_fd).collect()
}
