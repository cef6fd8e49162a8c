//! All that Wharf asks of the kernel: mounts, cgroups, namespaces, seccomp, capabilities, processes.
//!
//! This crate acts on values of `wharf-plan` and knows no HTTP, no image and no plugin. What is owned is held by a
//! descriptor: mounts are detached trees, namespaces and processes are descriptors, files are reached beneath a root
//! descriptor. All `unsafe` is in [`sys`].
#![deny(unsafe_code)]

pub mod apparmor;
pub mod caps;
pub mod cgroup;
pub mod container;
pub mod criu;
pub mod error;
pub mod files;
pub mod fs;
pub mod mount;
pub mod net;
pub mod netns;
pub mod program;
pub mod runtime;
pub mod seccomp;
#[allow(unsafe_code, reason = "the one module of system calls")]
pub mod sys;
pub mod userns;

pub use error::{Error, Result};
