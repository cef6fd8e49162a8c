//! stub

pub mod files;
