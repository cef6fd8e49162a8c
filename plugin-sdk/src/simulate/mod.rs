//! What plans would do: a model file system and a model network, for tests of planners.

pub mod files;
pub mod net;
