//! How a keeper comes to be: from the daemon, from itself (sealed), from an older one.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use wharf_kernel::container::Host;
use wharf_kernel::sys::process::{self as sys, CStrings};
use wharf_kernel::sys::{file, socket};
use wharf_kernel::{Error, Result, mount};

use super::state::{self, Handed, Handover};
use super::table::Table;
use super::{DAEMON, Daemon, End, LISTENER, Server, errno};
use crate::wire::{Answer, Assembler, PACKET};

/// How the keeper was called.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    exec_root: PathBuf,
    /// This program's path, for replacing itself.
    program: PathBuf,
    /// What came before the keeper's own arguments (`keeper` for `wharf keeper`).
    before: Vec<OsString>,
    background: bool,
    sealed: bool,
    resume: Option<i32>,
    pub(super) boot: String,
}

impl Settings {
    /// Reads the command line, the program's name first. Everything before the first option is kept as it is.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = args.into_iter();
        let name = args.next().unwrap_or_default();
        let mut settings = Settings { program: PathBuf::from(name), ..Settings::default() };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{} needs a value", arg.display()));
            match arg.to_str().unwrap_or_default() {
                "--exec-root" => settings.exec_root = value()?.into(),
                "--program" => settings.program = value()?.into(),
                "--resume" => {
                    let number = value()?;
                    let number = number.to_str().and_then(|n| n.parse().ok());
                    settings.resume = Some(number.ok_or("--resume needs a descriptor's number")?);
                }
                "--background" => settings.background = true,
                "--sealed" => settings.sealed = true,
                other if other.starts_with('-') => return Err(format!("unknown flag: {other}")),
                _ if settings.exec_root.as_os_str().is_empty() => settings.before.push(arg),
                _ => return Err(format!("unexpected argument: {}", arg.display())),
            }
        }
        if settings.exec_root.is_absolute() {
            Ok(settings)
        } else {
            Err("--exec-root must be given as an absolute path".into())
        }
    }

    pub(super) fn state(&self) -> PathBuf {
        self.exec_root.join("keeper")
    }

    fn socket(&self) -> PathBuf {
        crate::socket_path(&self.exec_root)
    }

    /// The command line of a further instance.
    fn arguments(&self, resume: Option<i32>) -> Result<CStrings> {
        let mut args: Vec<OsString> = vec!["wharf".into()];
        args.extend(self.before.iter().cloned());
        args.extend(["--exec-root".into(), self.exec_root.clone().into(), "--program".into()]);
        args.push(self.program.clone().into());
        args.push("--sealed".into());
        if self.background {
            args.push("--background".into());
        }
        if let Some(fd) = resume {
            args.extend(["--resume".into(), fd.to_string().into()]);
        }
        args.into_iter().map(|a| file::cstring(a.into_vec())).collect::<Result<_>>().map(CStrings::new)
    }
}

/// Runs the keeper until it is told to end, or holds nothing and no daemon is there.
///
/// Call it first thing in `main`, before any thread or runtime exists: it forks children that go on without exec.
pub fn serve(settings: Settings) -> Result<(), String> {
    let mut settings = settings;
    if !settings.sealed {
        return Err(seal(&settings).to_string());
    }
    if !runs_read_only().map_err(|e| e.to_string())? {
        return Err("the keeper's program file must not be writable through /proc".into());
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().clone_into(&mut settings.boot);
    let ready = if settings.background && settings.resume.is_none() {
        Some(sys::daemonize().map_err(|e| e.to_string())?)
    } else {
        None
    };
    let made = Server::new(settings);
    if let Some(ready) = ready {
        let failure = made.as_ref().err().filter(|e| !e.is(libc::EALREADY));
        let text = failure.map(Error::to_string).unwrap_or_default();
        sys::daemon_ready(&ready, &text);
        drop(ready);
    }
    let mut server = match made {
        Ok(server) => server,
        // Another keeper serves the directory: then that is the one to talk to.
        Err(e) if e.is(libc::EALREADY) => return Ok(()),
        Err(e) => return Err(e.to_string()),
    };
    loop {
        match server.run().map_err(|e| e.to_string())? {
            End::Shutdown => {
                server.clean();
                return Ok(());
            }
            End::Reload { program, sequence } => {
                let error = server.replace(Path::new(&program), sequence);
                server.epoll_again().map_err(|e| e.to_string())?;
                server.answer(sequence, &Answer::Refused(error.to_string()), Vec::new());
            }
        }
    }
}

/// Executes this program again from a read-only mount of its own file that has no name. A container that sees it as
/// `/proc/<pid>/exe` while a process joins cannot write to it (CVE-2019-5736). Returns only on failure.
fn seal(settings: &Settings) -> Error {
    let attempt = || -> Result<(OwnedFd, CStrings)> {
        let program = read_only_copy(Path::new("/proc/self/exe"))?;
        let args = settings.arguments(settings.resume)?;
        if settings.resume.is_none() {
            sys::close_on_exec_from(3)?;
        }
        Ok((program, args))
    };
    match attempt() {
        Ok((program, args)) => sys::execveat(program.as_fd(), &args, &environment()),
        Err(error) => error,
    }
}

fn read_only_copy(program: &Path) -> Result<OwnedFd> {
    let tree = mount::bind_path(program, false)?;
    mount::set_attr(tree.as_fd(), mount::Flags { read_only: true, ..mount::Flags::default() }, false)?;
    Ok(tree)
}

/// Nothing of the daemon's environment is needed.
fn environment() -> CStrings {
    CStrings::new(vec![c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()])
}

fn runs_read_only() -> Result<bool> {
    let program = file::openat(None, c"/proc/self/exe", libc::O_PATH, 0)?;
    let stat = nix::sys::statvfs::fstatvfs(&program).map_err(errno("fstatfs(/proc/self/exe)"))?;
    Ok(stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY))
}

impl Server {
    fn new(settings: Settings) -> Result<Self> {
        sys::null_stdio(&[0, 1, 2])?;
        sys::umask(0o022);
        // A process that joins a container must not be looked into from there.
        sys::set_dumpable(false)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(errno("epoll_create1()"))?;
        let handover = settings.resume.map(state::decode).transpose()?;
        let nofile = match &handover {
            Some(handover) => handover.nofile,
            None => getrlimit(Resource::RLIMIT_NOFILE).map_err(errno("getrlimit(RLIMIT_NOFILE)"))?,
        };
        // Thousands of containers are tens of thousands of descriptors. Containers get the limit from before.
        setrlimit(Resource::RLIMIT_NOFILE, nofile.1, nofile.1).map_err(errno("setrlimit(RLIMIT_NOFILE)"))?;
        let mut host = Host::new(wharf_programs::INIT)?;
        host.set_open_files(nofile.0, nofile.1);
        host.lend_descriptors();
        let mut reloaded = None;
        let (listener, lock, daemon, table) = if let Some(handover) = handover {
            reloaded = Some(handover.sequence);
            let mut table = Table::default();
            for process in handover.processes {
                table.insert(process.take()?);
            }
            let daemon = handover.daemon.map(sys::inherited).transpose()?;
            (sys::inherited(handover.listener)?, sys::inherited(handover.lock)?, daemon, table)
        } else {
            make_dir(&settings.exec_root)?;
            let lock = lock(&settings.exec_root)?;
            make_dir(&settings.state())?;
            let path = settings.socket();
            // Left by a keeper that died: its lock is ours now.
            let _ = std::fs::remove_file(&path);
            let listener = socket::listen(&path)?;
            (listener, lock, None, state::adopt(&settings)?)
        };
        let daemon = daemon.map(|socket| Daemon {
            socket,
            assembler: Assembler::default(),
            queue: VecDeque::default(),
        });
        let mut server = Self {
            settings,
            host,
            epoll,
            listener,
            lock,
            daemon,
            table,
            children: None,
            buffer: vec![0; PACKET],
            alone_since: None,
            had_daemon: false,
        };
        server.watch_all()?;
        if server.table.iter().any(|(_, process)| process.foreign.is_some()) {
            server.take_children()?;
        }
        if let Some(sequence) = reloaded {
            server.answer(sequence, &Answer::Done, Vec::new());
        }
        Ok(server)
    }

    fn watch_all(&self) -> Result<()> {
        self.watch(&self.listener, LISTENER, EpollFlags::EPOLLIN)?;
        if let Some(daemon) = &self.daemon {
            self.watch(&daemon.socket, DAEMON, EpollFlags::EPOLLIN)?;
        }
        self.watch_children()?;
        let slots: Vec<u64> = self.table.iter().map(|(slot, _)| *slot).collect();
        slots.into_iter().try_for_each(|slot| self.watch_process(slot))
    }

    fn epoll_again(&mut self) -> Result<()> {
        self.epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(errno("epoll_create1()"))?;
        self.watch_all()
    }

    /// Removes what has a name, as far as it is no longer needed.
    fn clean(&self) {
        // A container that still runs is adopted by the next keeper from its file, so the directory may stay.
        let _ = std::fs::remove_file(self.settings.socket());
        if std::fs::remove_dir(self.settings.state()).is_ok() {
            let _ = std::fs::remove_file(self.settings.exec_root.join("keeper.lock"));
        }
    }

    /// Becomes `program`, keeping children and descriptors. Returns only on failure, with everything as before.
    fn replace(&mut self, program: &Path, sequence: u64) -> Error {
        let attempt = |server: &Self| -> Result<Error> {
            let program_file = read_only_copy(program)?;
            let handover = Handover {
                version: state::HANDOVER,
                listener: server.listener.as_raw_fd(),
                lock: server.lock.as_raw_fd(),
                daemon: server.daemon.as_ref().map(|d| d.socket.as_raw_fd()),
                nofile: server.host.open_files(),
                sequence,
                processes: server.table.iter().map(|(_, p)| Handed::of(p)).collect(),
            };
            let memory = state::encode(&handover)?;
            let settings = Settings { program: program.into(), ..server.settings.clone() };
            let args = settings.arguments(Some(memory.as_raw_fd()))?;
            state::keep_open(server.kept().chain([&memory]), true)?;
            let error = sys::execveat(program_file.as_fd(), &args, &environment());
            state::keep_open(server.kept(), false)?;
            Ok(error)
        };
        self.flush();
        if self.daemon.as_ref().is_some_and(|daemon| !daemon.queue.is_empty()) {
            return Error::refused("reload", libc::EBUSY, "the daemon has not read everything yet");
        }
        match attempt(self) {
            Ok(error) | Err(error) => error,
        }
    }

    fn kept(&self) -> impl Iterator<Item = &OwnedFd> {
        let processes = self.table.iter().flat_map(|(_, p)| {
            let behind = p.behind.iter().filter_map(|b| b.pidfd.as_ref());
            p.pidfd.iter().chain(p.report.iter()).chain(behind).chain(p.held.iter().map(|(_, fd)| fd))
        });
        [&self.listener, &self.lock].into_iter().chain(self.daemon.iter().map(|d| &d.socket)).chain(processes)
    }
}

fn make_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    Ok(())
}

/// One keeper per directory. A record lock belongs to the process: no child that is being set up has it, and it stays
/// over an exec.
fn lock(exec_root: &Path) -> Result<OwnedFd> {
    let path = file::cstring(exec_root.join("keeper.lock").as_os_str().as_bytes())?;
    let fd = file::openat(None, &path, libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW, 0o600)?;
    if sys::lock_file(fd.as_fd())? {
        Ok(fd)
    } else {
        Err(Error::refused(format!("lock({path:?})"), libc::EALREADY, "another keeper serves this directory"))
    }
}
