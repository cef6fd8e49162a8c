//! How the wasm engine is set up: the one thing on which the compiler and the loader must agree.
//!
//! Both programs build their engine from [`config`], so that what the one writes the other can run; neither depends on
//! the other. What matters only at run time (pooling, stacks) the loader adds itself.
#![forbid(unsafe_code)]

use wasmtime::Config;

/// Names everything that decides what compiled code looks like. Compiled forms are kept under it; a change of
/// [`config`] that changes code without a new release of wasmtime must raise the number.
pub const FINGERPRINT: &str = concat!("wasmtime-48.0.8-1-", env!("CARGO_PKG_VERSION"));

/// Largest component that is read, in bytes.
pub const MAX_COMPONENT: u64 = 32 << 20;

/// Largest compiled form that is read, in bytes.
pub const MAX_COMPILED: u64 = 256 << 20;

/// Stack of a plugin's own code. Host functions have the rest of [`HOST_STACK`].
pub const WASM_STACK: usize = 256 << 10;

/// Whole stack of a call, host functions included.
pub const HOST_STACK: usize = 1 << 20;

/// The settings that both sides share.
pub fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        // Calls are ended by the clock (epochs), which costs a tenth; counting instructions would double the time.
        .epoch_interruption(true)
        .consume_fuel(false)
        // A plan must not depend on the machine it was made on.
        .relaxed_simd_deterministic(true)
        .wasm_simd(true)
        // One linear memory of 32 bits per module is all that plugins need; less surface to attack.
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_tail_call(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false)
        .max_wasm_stack(WASM_STACK)
        .memory_may_move(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16));
    config
}
