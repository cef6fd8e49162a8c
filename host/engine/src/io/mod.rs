//! What containers print and read, and what happened: spool, attach, logs, events.

pub mod events;
pub mod streams;
