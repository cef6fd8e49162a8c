//! Handlers: each reads its parameters, gets the engine from the gate, and writes the answer.

pub(crate) mod archive;
pub(crate) mod auth;
pub(crate) mod checkpoints;
pub(crate) mod containers;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod networks;
pub(crate) mod streams;
pub(crate) mod swarm;
pub(crate) mod system;
pub(crate) mod volumes;
pub(crate) mod websocket;
