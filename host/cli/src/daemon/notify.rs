//! What the service manager is told, and what it hands over.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use wharf_kernel::sys::process as sys;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// Tells the service manager, if there is one that wants to know.
pub(crate) fn tell(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = (|| {
        let socket = UnixDatagram::unbound()?;
        let address = match path.as_encoded_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state.as_bytes(), &address)
    })();
    if let Err(e) = sent {
        tracing::warn!("the service manager cannot be told {state:?}: {e}");
    }
}

/// `RELOADING=1` with the time by which the manager tells old news from new.
pub(crate) fn reloading() {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| i128::from(t.tv_sec()) * 1_000_000 + i128::from(t.tv_nsec()) / 1000);
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
}

/// How often the manager wants to hear of us; half of what it waits.
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|n| *n > 1).map(|n| Duration::from_micros(n / 2))
}

/// Sockets that were handed over, with their names. To be called once, before anything else opens descriptors.
pub(crate) fn sockets() -> io::Result<Vec<(String, OwnedFd)>> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, 1024);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    (FIRST..FIRST + count)
        .map(|fd| {
            let name = names.next().unwrap_or_default().to_owned();
            Ok((name, sys::inherited(fd)?))
        })
        .collect()
}
