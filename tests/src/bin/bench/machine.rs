// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine with any number of mapped BARs.

use std::sync::Arc;

use memory_model::{HostMemory, Memory, MemoryModel, Region, RegionId, SpaceId};

/// Each BAR has 4 KiB, followed by a gap of the same size.
pub const STRIDE: u64 = 0x2000;
const SIZE: u64 = 0x1000;
/// An address that a process could have. It is never accessed.
const HOST: u64 = 0x7e00_0000_0000;

/// A model with the BARs next to each other in a container.
pub struct Bars {
    pub model: MemoryModel,
    pub space: SpaceId,
    /// The container of the BARs.
    pub window: RegionId,
    pub bars: Vec<RegionId>,
}

impl Bars {
    /// BARs of trapped registers.
    pub fn new(count: u64) -> Self {
        let bar = |_| Some(Region::mmio("bar", SIZE.into()));
        build(count, bar).expect("the machine is valid")
    }

    /// BARs of memory at host addresses without a mapping: a memslot each.
    pub fn of_memory(count: u64) -> Self {
        let bar = |number| {
            // SAFETY: no guest or device runs, so nothing accesses the addresses.
            let host = unsafe { HostMemory::new(HOST + number * SIZE, SIZE, Arc::new(())) }?;
            Some(Region::ram("bar", Memory::host_only(host)))
        };
        build(count, bar).expect("the machine is valid")
    }
}

fn build(
    count: u64,
    bar: impl Fn(u64) -> Option<Region>,
) -> Result<Bars, Box<dyn std::error::Error>> {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let memory = t.add(Region::container("memory", 1 << 64))?;
    let window = t.add(Region::container("pci", 1 << 48))?;
    t.place(window, memory, 0, 0)?;
    let mut bars = Vec::new();
    for number in 0..count {
        let bar = t.add(bar(number).ok_or("a BAR that wraps")?)?;
        t.place(bar, window, number * STRIDE, 0)?;
        bars.push(bar);
    }
    t.commit()?;
    let space = model.add_space("memory", memory)?;
    Ok(Bars {
        model,
        space,
        window,
        bars,
    })
}

/// Pseudo-random numbers, always the same (xorshift64*).
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        // The upper bits are more random.
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % end
    }
}
