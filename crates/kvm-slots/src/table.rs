// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which memslots a VM has.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::Op;
use crate::slot::{Slot, SlotId};

/// The memslots that KVM has, by number. It changes only as operations succeed,
/// so that it is true also after a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotTable {
    slots: BTreeMap<SlotId, Slot>,
}

impl SlotTable {
    /// The table of a VM that has no memslots yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// All slots, by number.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = &Slot> {
        self.slots.values()
    }

    /// The slot of that number.
    pub fn get(&self, id: SlotId) -> Option<&Slot> {
        self.slots.get(&id)
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The numbers that no slot has once those in `gone` are gone, the lowest
    /// first.
    pub(crate) fn free_ids(&self, gone: &BTreeSet<SlotId>) -> impl Iterator<Item = SlotId> {
        let used = |id: &SlotId| self.slots.contains_key(id) && !gone.contains(id);
        (0..=SlotId::MAX).filter(move |id| !used(id))
    }

    /// Follows an operation that KVM has carried out.
    pub(crate) fn follow(&mut self, op: &Op) {
        match op {
            Op::Delete(slot) => {
                self.slots.remove(&slot.id);
            }
            Op::Create(slot) | Op::Move { to: slot, .. } | Op::SetFlags { to: slot, .. } => {
                self.slots.insert(slot.id, slot.clone());
            }
        }
    }
}
