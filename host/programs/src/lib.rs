//! The two programs that Wharf brings into containers, compiled for the host's architecture by `build.rs`.
//!
//! They use no library, not even libc, as they run in a root file system that may be empty. Their source is in
//! `inside/`; it talks to the kernel in assembler and is the only unsafe code outside `wharf-kernel`.
#![forbid(unsafe_code)]

/// Process 1 of containers with `--init`: starts the real program, forwards signals to it, reaps every orphan, and
/// ends with its exit code. Called as `init PROGRAM ARGV0 ARGV1 …`; `PROGRAM` is a path that has been looked up.
pub static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// The only file of the embedded `hello` image: prints a friendly text.
pub static HELLO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));

#[cfg(test)]
mod tests;
