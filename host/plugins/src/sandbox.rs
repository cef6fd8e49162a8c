//! The wasm engine of this host: pool, clock, host functions.

use tokio::sync::Semaphore;
use wasmtime::component::Linker;
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::limits::{MAX_CALLS, MAX_MEMORY};
use crate::state::HostState;
use crate::ticker::Ticker;

/// What all plugins share.
pub(crate) struct Sandbox {
    pub engine: Engine,
    pub linker: Linker<HostState>,
    pub ticker: Ticker,
    /// Calls that may run at once, so that the pool never runs dry.
    pub calls: Semaphore,
}

/// Calls, and resident instances waiting for one.
const INSTANCES: u32 = 2 * MAX_CALLS;

impl Sandbox {
    pub(crate) fn new() -> wasmtime::Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        // A component of one Rust module is three core instances: the module, and two that join it to the host.
        pool.total_component_instances(INSTANCES)
            .total_core_instances(INSTANCES * 4)
            .total_memories(INSTANCES)
            .total_tables(INSTANCES * 2)
            .total_stacks(INSTANCES)
            .max_core_instances_per_component(16)
            .max_memories_per_component(2)
            .max_tables_per_component(8)
            .max_memory_size(MAX_MEMORY)
            .table_elements(20_000)
            .max_unused_warm_slots(32)
            // Pages that a call has touched are zeroed and kept instead of given back: the next call faults no page in.
            .linear_memory_keep_resident(256 << 10)
            .table_keep_resident(16 << 10)
            .pagemap_scan(Enabled::Auto);
        let mut config = wharf_wasm::config();
        config.async_stack_size(wharf_wasm::HOST_STACK);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let mut linker = Linker::new(&engine);
        crate::imports::add(&mut linker)?;
        let ticker = Ticker::start(engine.clone())?;
        Ok(Self { engine, linker, ticker, calls: Semaphore::new(usize::try_from(MAX_CALLS).unwrap_or(1)) })
    }
}
