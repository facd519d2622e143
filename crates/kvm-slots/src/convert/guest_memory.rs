// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest memory of devices follows conversions.

use guest_ranges::PageState;
use memory_model::SharedMemoryListener;
use vm_memory::VolatileMemory;

use super::listener::{Conversion, ConversionListener, ConversionListenerError};
use super::sides::Sides;

/// Devices in the VMM reach shared pages only. A page that turns private is out of reach
/// before the guest loses it. Slices that a device holds already still reach its bytes.
impl<M, H> ConversionListener for SharedMemoryListener<M, H>
where
    M: VolatileMemory + Send + Sync,
    H: Send + Sync,
{
    fn name(&self) -> &str {
        "guest memory of devices"
    }

    fn prepare(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        set(self, change, change.to)
    }

    fn abort(&self, change: &Conversion<'_>) -> Result<(), ConversionListenerError> {
        set(self, change, change.to.other())
    }
}

fn set<M: VolatileMemory, H>(
    listener: &SharedMemoryListener<M, H>,
    change: &Conversion<'_>,
    state: PageState,
) -> Result<(), ConversionListenerError> {
    // Accepted registers have no state here: devices never reach them.
    let memory = change
        .stretches
        .iter()
        .filter(|s| s.sides != Sides::PrivateMmio);
    let memory = memory.map(|stretch| stretch.range);
    for range in memory.chain(change.unbacked.iter().copied()) {
        listener.set_page_state(range.into(), state)?;
    }
    Ok(())
}
