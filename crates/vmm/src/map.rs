// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a machine's memory looks like.

use kvm_slots::Vm;
use memory_map::{Map, SlotRow};

use crate::board::Board;
use crate::handle::Handle;

impl<V: Vm + Clone + Send + Sync + 'static> Board<V> {
    /// The memory of the board as it is now, of the machine called `machine`.
    pub fn map(&self, machine: &str) -> Map {
        let map = Map::of(&self.model, self.space, machine, |region| {
            note(region.handle())
        });
        map.with_slots(self.slots.table().slots().map(SlotRow::from))
    }
}

/// Why this kernel cannot have a region, or why a piece of a BAR is what it is.
fn note(handle: &Handle) -> String {
    handle
        .refused
        .map_or_else(|| handle.note.clone(), |why| why.to_string())
}
