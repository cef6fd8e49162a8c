//! What a call of each kind may use.

use std::time::Duration;

use crate::Kind;

/// Bounds of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Linear memory, in bytes.
    pub memory: usize,
    /// Processor time.
    pub cpu: Duration,
    /// Time altogether; larger, because a busy machine is not the plugin's fault.
    pub wall: Duration,
    /// What one exchange with the host may carry, in bytes.
    pub answer: usize,
    /// Whether instances stay for the next call.
    pub resident: bool,
}

const MIB: usize = 1 << 20;

/// Bounds of the kind `kind`.
pub(crate) const fn of(kind: Kind) -> Limits {
    let (memory, cpu, wall, answer, resident) = match kind {
        Kind::Authn | Kind::Authz => (16 * MIB, 10, 500, MIB, true),
        Kind::Policy => (16 * MIB, 50, 1_000, 4 * MIB, false),
        Kind::Storage | Kind::Volume | Kind::Network | Kind::Ipam => (16 * MIB, 100, 2_000, 4 * MIB, false),
        Kind::Codec | Kind::Filter => (64 * MIB, 200, 4_000, 32 * MIB, true),
        Kind::Sink => (64 * MIB, 200, 30_000, 4 * MIB, true),
        Kind::Credentials | Kind::Resolver => (16 * MIB, 50, 10_000, MIB, false),
    };
    Limits { memory, cpu: Duration::from_millis(cpu), wall: Duration::from_millis(wall), answer, resident }
}

/// Largest memory of any kind: the size of the pool's slots.
pub(crate) const MAX_MEMORY: usize = 64 * MIB;

/// Calls running at once, over all plugins.
pub(crate) const MAX_CALLS: u32 = 128;

/// Calls of one plugin running at once.
pub(crate) const MAX_CALLS_PER_PLUGIN: usize = 48;

/// A resident instance is replaced after this many calls, so that no slow leak of its own grows for ever.
pub(crate) const RESIDENT_CALLS: u32 = 10_000;

/// A resident instance that has grown beyond this is not kept.
pub(crate) const RESIDENT_MEMORY: usize = 8 * MIB;

/// Bytes that one call may stage in its own store.
pub(crate) const KV_CALL_BYTES: usize = MIB;

/// Bytes of values that one call may read of its own store.
pub(crate) const KV_CALL_READS: usize = 16 * MIB;

/// Entries that one call may stage or read.
pub(crate) const KV_CALL_ENTRIES: usize = 4_096;

/// Bytes of one value.
pub(crate) const KV_VALUE_BYTES: usize = 256 << 10;

/// Bytes of one key.
pub(crate) const KV_KEY_BYTES: usize = 512;

/// Bytes that one plugin may keep altogether.
pub(crate) const KV_PLUGIN_BYTES: usize = 64 * MIB;

/// Log lines of one call; further ones are counted only.
pub(crate) const LOG_LINES: u32 = 100;

/// Bytes of one log line.
pub(crate) const LOG_LINE_BYTES: usize = 4 << 10;

/// Log lines kept per plugin.
pub(crate) const LOG_RING: usize = 256;

/// Host functions that one call may use.
pub(crate) const HOST_CALLS: u32 = 100_000;
