//! The C library's heap, from which Rust's allocator takes.

/// At most so many arenas. Threads spread over all there are, and each arena keeps what was once needed in it at the same
/// time: with the library's default, eight for a processor, a crowd of clients is remembered for ever. To be called before
/// there are threads.
pub fn limit_arenas(most: usize) {
    #[cfg(target_env = "gnu")]
    {
        let most = libc::c_int::try_from(most.max(1)).unwrap_or(libc::c_int::MAX);
        // SAFETY: a plain number; the call takes the heap's own lock.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, most) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = most;
}

/// Gives whole pages of freed memory back to the system. Takes about a millisecond for a heap of 100 MiB.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a plain number; the call takes the locks of the arenas one after the other.
    unsafe {
        libc::malloc_trim(0);
    }
}
