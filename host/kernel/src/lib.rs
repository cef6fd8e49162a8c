//! stub

pub mod files;
pub mod net;
