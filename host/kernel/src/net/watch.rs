//! Puts the packet filter right when somebody else has changed it.
//!
//! Firewall managers flush what they did not write (CVE-2025-54388, CVE-2025-54410). The kernel tells of every change;
//! those of our own socket are dropped before they wake anybody.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::filter::Filter;
use super::wire::{Socket, messages};
use super::{Error, Shared, nft};
use crate::sys::netlink;

/// What the kernel says of nftables.
const GROUP: i32 = 7;
/// After a repair nothing is looked at for so long (in ms): two that repair the same table would never end.
const PAUSE: u16 = 200;

/// The watching thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    /// Nothing is ever written: the thread sees it close.
    _open: OwnedFd,
}

impl Watch {
    pub(super) fn start(shared: &Arc<Shared>, own: u32) -> Result<Self, Error> {
        let what = "watch the packet filter";
        let socket = Socket::open(libc::NETLINK_NETFILTER)?;
        let quiet = netlink::ignore_port(socket.fd().as_fd(), own)
            .and_then(|()| netlink::set_buffers(socket.fd().as_fd(), 1 << 20))
            .and_then(|()| netlink::join(socket.fd().as_fd(), GROUP));
        quiet.map_err(|error| super::wire::system(what, &error))?;
        let failed = |source| Error::System { what: what.to_owned(), detail: String::new(), source };
        let (end, open) = std::io::pipe().map_err(failed)?;
        let weak = Arc::downgrade(shared);
        std::thread::Builder::new()
            .name("net-watch".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || watch(&weak, socket, &OwnedFd::from(end)))
            .map_err(failed)?;
        Ok(Self { _open: open.into() })
    }
}

fn watch(shared: &Weak<Shared>, mut socket: Socket, end: &OwnedFd) {
    let mut pause = false;
    loop {
        {
            let mut waiting = vec![PollFd::new(end.as_fd(), PollFlags::empty())];
            if !pause {
                waiting.push(PollFd::new(socket.fd().as_fd(), PollFlags::POLLIN));
            }
            let patience = if pause { PollTimeout::from(PAUSE) } else { PollTimeout::NONE };
            match poll(&mut waiting, patience) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the packet filter is no longer watched");
                    return;
                }
            }
            if waiting.first().and_then(PollFd::any).unwrap_or(true) {
                return;
            }
        }
        pause = false;
        let Some(shared) = shared.upgrade() else { return };
        if changed(&mut socket, &shared.table) {
            pause = true;
            tracing::warn!("somebody changed the packet filter's table; writing it anew");
            if let Err(error) = shared.filter(Filter::rewrite) {
                tracing::error!(%error, "the packet filter cannot be written");
            }
        }
    }
}

/// Whether anything that came is about our table; and if some of it was lost, it may have been.
fn changed(socket: &mut Socket, table: &str) -> bool {
    let mut ours = false;
    loop {
        match socket.receive(false) {
            Ok(Some(bytes)) => {
                ours |= messages(bytes).any(|message| nft::table_of(message.body).as_deref() == Some(table));
            }
            Ok(None) => return ours,
            Err(_) => ours = true,
        }
    }
}
