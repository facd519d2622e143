// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A machine with as many mapped BARs as one likes.

use memory_model::{MemoryModel, Region, RegionId, SpaceId};

/// Each BAR has 4 KiB, and as much free behind it.
pub const STRIDE: u64 = 0x2000;
const SIZE: u128 = 0x1000;

/// A model in which the BARs lie side by side in a container.
pub struct Bars {
    pub model: MemoryModel,
    pub space: SpaceId,
    pub bars: Vec<RegionId>,
}

impl Bars {
    pub fn new(count: u64) -> Self {
        build(count).expect("the machine is valid")
    }
}

fn build(count: u64) -> Result<Bars, Box<dyn std::error::Error>> {
    let mut model = MemoryModel::new();
    let mut t = model.transaction();
    let memory = t.add(Region::container("memory", 1 << 64))?;
    let window = t.add(Region::container("pci", 1 << 48))?;
    t.place(window, memory, 0, 0)?;
    let mut bars = Vec::new();
    for number in 0..count {
        let bar = t.add(Region::mmio("bar", SIZE))?;
        t.place(bar, window, number * STRIDE, 0)?;
        bars.push(bar);
    }
    t.commit()?;
    let space = model.add_space("memory", memory)?;
    Ok(Bars { model, space, bars })
}
