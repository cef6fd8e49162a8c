//! How a forwarder comes to be: by the daemon, once for an exec root.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use wharf_kernel::sys::process as sys;
use wharf_kernel::sys::{file, heap, socket};

use super::{Server, confine};

/// How the forwarder was called.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    exec_root: PathBuf,
    background: bool,
}

impl Settings {
    /// Reads the command line after the program's name and the word for this mode.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = args.into_iter();
        let mut settings = Settings::default();
        while let Some(arg) = args.next() {
            match arg.to_str().unwrap_or_default() {
                "--exec-root" => {
                    settings.exec_root = args.next().ok_or("--exec-root needs a value")?.into();
                }
                "--background" => settings.background = true,
                _ => return Err(format!("unexpected argument: {}", arg.display())),
            }
        }
        if settings.exec_root.is_absolute() {
            Ok(settings)
        } else {
            Err("--exec-root must be given as an absolute path".into())
        }
    }
}

/// Runs the forwarder until it has neither ports nor connections nor a daemon.
///
/// Call it first thing in `main`, before any thread or runtime exists.
pub fn serve(settings: &Settings) -> Result<(), String> {
    let ready = if settings.background { Some(sys::daemonize().map_err(|e| e.to_string())?) } else { None };
    let made = prepare(settings, ready.as_ref().map(AsRawFd::as_raw_fd));
    if let Some(ready) = ready {
        // One that serves already is as good as this one.
        let text = match &made {
            Err(text) => text.as_str(),
            Ok(_) => "",
        };
        sys::daemon_ready(&ready, text);
    }
    let Some((runtime, listener, lock, descriptors, uid)) = made? else { return Ok(()) };
    let failed = |e: std::io::Error| format!("cannot serve: {e}");
    let local = tokio::task::LocalSet::new();
    let served = local.block_on(&runtime, async {
        let server = Server::new(descriptors);
        server.run(listener, lock, uid).await
    });
    served.map_err(failed)
}

type Prepared = (tokio::runtime::Runtime, OwnedFd, OwnedFd, usize, u32);

/// Takes its place, and gives up all rights. None: another forwarder has the place.
fn prepare(settings: &Settings, ready: Option<RawFd>) -> Result<Option<Prepared>, String> {
    let text = |e: wharf_kernel::Error| e.to_string();
    let uid = nix::unistd::geteuid().as_raw();
    sys::null_stdio(&[0, 1, 2]).map_err(text)?;
    // What the daemon had open without a mark is none of this program's.
    let kept: Vec<i32> = [0, 1, 2].into_iter().chain(ready).collect();
    sys::close_all_but(&kept).map_err(text)?;
    heap::limit_arenas(1);
    let path = settings.exec_root.join("forward.lock");
    let path = file::cstring(path.as_os_str().as_bytes()).map_err(text)?;
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW;
    let lock = file::openat(None, &path, flags, 0o600).map_err(text)?;
    if !sys::lock_file(lock.as_fd()).map_err(text)? {
        return Ok(None);
    }
    let place = crate::socket_path(&settings.exec_root);
    // Left by one that died: its lock is ours now.
    let _ = std::fs::remove_file(&place);
    let listener = socket::listen(&place).map_err(text)?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| format!("limit of open files: {e}"))?;
    // A table of more is of no use, and where there is no limit this is one.
    let most = most.min(1 << 20);
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|e| format!("limit of open files: {e}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("cannot serve: {e}"))?;
    confine::confine()?;
    Ok(Some((runtime, listener, lock, usize::try_from(most).unwrap_or(0), uid)))
}
