//! Plans: values that say what a machine shall look like, and nothing that does it.
//!
//! A plugin returns such values, the host checks them against what the plugin was granted, records them, and hands
//! them to `wharf-kernel`, which acts. Nothing in this crate performs input or output.
//!
//! Most types mirror the contract in `wit/`; with the feature `component` the wasm runtime lifts and lowers them directly.
#![forbid(unsafe_code)]

#[macro_use]
mod flags;

pub mod auth;
pub mod duration;
pub mod files;
pub mod idmap;
pub mod ipam;
pub mod logs;
pub mod net;
pub mod network;
pub mod platform;
pub mod policy;
pub mod registry;
pub mod run;
pub mod statement;
pub mod storage;
pub mod types;
pub mod volume;
