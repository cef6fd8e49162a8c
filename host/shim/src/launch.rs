//! Calling the shim's program: `start`, which leaves the shim behind, and `delete`, which clears up after one that died.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use nix::mount::{MsFlags, mount};
use nix::poll::PollFlags;
use wharf_kernel::sys::{file, process as sys};
use wharf_plan::run::Runtime;

use crate::bootstrap::{self, LONGEST, STATE, STATE_PLACE, Started};
use crate::wire::{Failure, Until};

/// containerd's namespace, by which shims tell users of theirs apart.
const NAMESPACE: &str = "wharf";
/// Where the stand-in takes events, as the shim sees it.
pub(crate) const EVENTS: &str = "/run/containerd/containerd.sock.ttrpc";
const GRPC: &str = "/run/containerd/containerd.sock";
/// A call that prints more than this is ended.
const MOST_OUTPUT: u64 = 1 << 20;
/// So often the output of a call is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// For clearing up.
const DELETE: Duration = Duration::from_secs(10);

/// Gives this mount namespace a state directory of the bundle's in the place of containerd's, which the host need not have.
pub(crate) fn own_state(bundle: &Path) -> Result<(), String> {
    let make = |path: &Path| {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(path)
            .map_err(|e| format!("cannot make {}: {e}", path.display()))
    };
    let own = bundle.join(STATE_PLACE);
    make(&own)?;
    wharf_kernel::runtime::with_directory(Path::new(STATE))?;
    let nothing: Option<&str> = None;
    mount(Some(&own), STATE, nothing, MsFlags::MS_BIND, nothing)
        .map_err(|e| format!("a directory of the bundle on {STATE}: {e}"))
}

/// A file that only its descriptor leads to.
fn nameless(bundle: &Path) -> Result<File, String> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
    let text = |e: std::io::Error| format!("a file in {}: {e}", bundle.display());
    options
        .open(bundle)
        .or_else(|_| {
            let path = bundle.join(format!("call-{}", sys::own_pid()));
            let mut options = std::fs::OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            let file = options.open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        })
        .map_err(text)
}

fn beginning(file: &mut File) -> Vec<u8> {
    let mut text = Vec::new();
    let limit = u64::try_from(LONGEST).unwrap_or(u64::MAX);
    // What cannot be read was not said.
    let _ = file.rewind().and_then(|()| file.take(limit).read_to_end(&mut text));
    text
}

/// Runs the shim's program in its bundle, which is where the caller is. Files, not pipes, take what it prints: the shim that it
/// leaves behind may have them open for ever.
fn call(
    runtime: &Runtime,
    arguments: &[&str],
    input: &[u8],
    patience: Duration,
    stop: Option<BorrowedFd<'_>>,
) -> Result<Vec<u8>, String> {
    let bundle = Path::new(&runtime.bundle);
    let (mut output, mut errors) = (nameless(bundle)?, nameless(bundle)?);
    let share = |file: &File| file.try_clone().map(Stdio::from).map_err(|e| e.to_string());
    let input = file::memfd(c"wharf-shim-options", input, false).map_err(|e| e.to_string())?;
    let mut child = Command::new(&runtime.program)
        .args(["-namespace", NAMESPACE, "-address", GRPC, "-publish-binary", "/bin/true"])
        .args(arguments)
        .env_clear()
        .env("PATH", wharf_kernel::program::PATH)
        .env("NAMESPACE", NAMESPACE)
        .env("GRPC_ADDRESS", GRPC)
        .env("TTRPC_ADDRESS", EVENTS)
        .env("MAX_SHIM_VERSION", "3")
        .env("GOMAXPROCS", "4")
        .current_dir(bundle)
        .stdin(Stdio::from(input))
        .stdout(share(&output)?)
        .stderr(share(&errors)?)
        .spawn()
        .map_err(|e| format!("{}: {e}", runtime.program))?;
    let until = Until::after(patience, stop);
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let pidfd = sys::pidfd_open(pid).map_err(|e| e.to_string())?;
    let reason = loop {
        let look = Until { end: until.end.min(std::time::Instant::now() + LOOK), stop };
        let length = |file: &File| file.metadata().map_or(0, |m| m.len());
        match look.ready(pidfd.as_fd(), PollFlags::POLLIN, "call") {
            Ok(()) => break None,
            _ if length(&output) + length(&errors) > MOST_OUTPUT => {
                break Some(format!("{} printed without end", runtime.program));
            }
            Err(Failure::Late(_)) if std::time::Instant::now() < until.end => {}
            Err(Failure::Late(_)) => {
                break Some(format!("{} did not end within {} seconds", runtime.program, patience.as_secs()));
            }
            Err(other) => break Some(other.to_string()),
        }
    };
    if let Some(reason) = reason {
        // It may have ended just now.
        let _ = child.kill();
        let _ = child.wait();
        return Err(reason);
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let printed = beginning(&mut output);
    if status.success() {
        return Ok(printed);
    }
    let said = String::from_utf8_lossy(&[beginning(&mut errors), printed].concat()).trim().to_owned();
    if said.is_empty() {
        return Err(format!("{} failed ({status}) and did not say why", runtime.program));
    }
    Err(said)
}

/// Starts the shim of a container. Where this fails, processes may be left.
pub(crate) fn start(
    runtime: &Runtime,
    id: &str,
    patience: Duration,
    stop: BorrowedFd<'_>,
) -> Result<Started, String> {
    let options = runtime.shim.as_ref().and_then(|shim| shim.options.as_ref());
    let input = options.map_or_else(Vec::new, |o| {
        let any = Any { type_url: o.type_url.clone(), value: o.value.clone(), ..Any::default() };
        any.write_to_bytes().unwrap_or_default()
    });
    let printed = call(runtime, &["-id", id, "start"], &input, patience, Some(stop))?;
    bootstrap::parse(&printed)
}

/// Has the shim's program clear up after a shim that is gone. In a mount namespace with the bundle's state directory.
pub(crate) fn delete(runtime: &Runtime, id: &str) -> Result<(), String> {
    let arguments = ["-id", id, "-bundle", &runtime.bundle, "delete"];
    call(runtime, &arguments, &[], DELETE, None).map(drop)
}
