//! The one place that takes compiled code for granted.

use std::fs::File;
use std::os::fd::AsRawFd;

use wasmtime::Engine;
use wasmtime::component::Component;

/// Maps a compiled form.
///
/// The caller has made sure that the file is one that this host's own compiler wrote: it lies in a directory that
/// nobody else can write to, is owned by this user, and has the digest that was recorded when it was written.
pub(crate) fn load(engine: &Engine, verified: &File) -> wasmtime::Result<Component> {
    // The descriptor and not the name, so that what was verified is what is mapped.
    let path = format!("/proc/self/fd/{}", verified.as_raw_fd());
    // SAFETY: the function requires that the file holds what `Engine::precompile_component` wrote and that it does not
    // change while mapped. The caller has verified both as far as anyone but this user is concerned; wasmtime itself
    // checks that its version, settings and the processor's features are the ones it was compiled for.
    #[allow(unsafe_code, reason = "loading machine code cannot be checked by the compiler; see SAFETY")]
    unsafe {
        Component::deserialize_file(engine, path)
    }
}
