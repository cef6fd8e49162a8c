//! HTTP itself: listeners, connections, requests and answers. Knows nothing of containers.

pub(crate) mod conn;
pub(crate) mod listen;
pub(crate) mod reply;
pub(crate) mod server;
pub(crate) mod wire;
