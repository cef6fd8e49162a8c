//! Names of containers: the name server that each container of a user's network finds at 127.0.0.11.
//!
//! [`Names`] holds which container has which names in which network, and a single thread that answers on the sockets of all of
//! them. What a container sees follows from its networks alone; everything else is asked of other name servers on its behalf.
//! What one container can take of the common means is bounded (`limits`).
#![forbid(unsafe_code)]

mod buffer;
mod forward;
mod host;
mod limits;
pub mod message;
mod names;
mod serve;
mod upstream;
mod view;
mod zone;

#[cfg(test)]
mod tests;

pub use host::{HostServers, Look};
pub use names::{Names, Place, Presence};
pub use upstream::{From, Servers, Upstream};
pub use view::{Found, Member, View};
pub use zone::{Called, Record, Target, Zone, key};
