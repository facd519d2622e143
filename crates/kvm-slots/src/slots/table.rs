// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of a VM's memslots.

use std::collections::BTreeMap;

use crate::plan::op::Op;
use crate::slots::ids::FreeIds;
use crate::slots::rules::SlotRules;
use crate::slots::slot::{Slot, SlotId};

/// The memslots that KVM has, by number and by address. The table changes only when
/// an operation succeeds, so it stays true after a failure.
///
/// If the [`Vm`](crate::Vm) panics within an operation, it is unknown whether KVM
/// carried it out. The table records the operation. The next operation, of a plan
/// or of a rollback, first brings KVM back to the state in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotTable {
    rules: SlotRules,
    slots: BTreeMap<SlotId, Slot>,
    /// The number of each slot by its first address.
    by_gpa: BTreeMap<u64, SlotId>,
    /// The numbers that are neither used nor reserved.
    free: FreeIds,
    /// An operation that panicked: KVM may or may not have carried it out.
    unsettled: Option<Box<Op>>,
}

impl Default for SlotTable {
    fn default() -> Self {
        Self::new()
    }
}

impl SlotTable {
    /// The table of a VM without memslots.
    pub fn new() -> Self {
        Self::with_rules(SlotRules::new())
    }

    /// The table of a VM without memslots, except for slots with reserved numbers,
    /// which are not in the table.
    pub fn with_rules(rules: SlotRules) -> Self {
        let mut table = Self {
            rules: SlotRules::new(),
            slots: BTreeMap::new(),
            by_gpa: BTreeMap::new(),
            free: FreeIds::all(),
            unsettled: None,
        };
        table.set_rules(rules);
        table
    }

    /// Sets the rules of later plans. Existing slots stay.
    pub(crate) fn set_rules(&mut self, rules: SlotRules) {
        let mut free = FreeIds::all();
        for ids in rules.reserved() {
            free.take(ids);
        }
        for &id in self.slots.keys() {
            free.take(id..=id);
        }
        (self.rules, self.free) = (rules, free);
    }

    /// The VMM's rules for its slots.
    pub fn rules(&self) -> &SlotRules {
        &self.rules
    }

    /// All slots, by number.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = &Slot> {
        self.slots.values()
    }

    /// The number of slots.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no slots.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slot with this number.
    pub fn get(&self, id: SlotId) -> Option<&Slot> {
        self.slots.get(&id)
    }

    /// The slot that contains the guest-physical address `gpa`.
    pub fn find(&self, gpa: u64) -> Option<&Slot> {
        self.intersecting_downwards(gpa, gpa).next()
    }

    /// The slots that contain some address from `first` to `last` (inclusive), the
    /// lowest first. The cost is two searches and one step for each slot.
    pub fn intersecting(&self, first: u64, last: u64) -> impl Iterator<Item = &Slot> {
        // Only the nearest slot at or below `first` can reach `first`.
        let below = self.by_gpa.range(..=first).next_back();
        let from = below.map_or(first, |(gpa, _)| *gpa).min(last);
        let slots = self.by_gpa.range(from..=last);
        let slots = slots.filter_map(|(_, id)| self.slots.get(id));
        slots.skip_while(move |slot| slot.last() < first)
    }

    /// The same slots, the highest first, with one search.
    pub(crate) fn intersecting_downwards(
        &self,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = &Slot> {
        let below = self.by_gpa.range(..=last).rev();
        let slots = below.filter_map(|(_, id)| self.slots.get(id));
        // Slots do not overlap, so from high to low their ends decrease too.
        slots.take_while(move |slot| first <= slot.last())
    }

    /// The slot that starts at `gpa`.
    pub(crate) fn starting_at(&self, gpa: u64) -> Option<&Slot> {
        self.slots.get(self.by_gpa.get(&gpa)?)
    }

    /// The numbers that are neither used nor reserved.
    pub(crate) fn free_ids(&self) -> &FreeIds {
        &self.free
    }

    /// All slots, and the unsettled operation.
    pub(crate) fn into_slots(self) -> (impl Iterator<Item = Slot>, Option<Op>) {
        (self.slots.into_values(), self.unsettled.map(|op| *op))
    }

    /// The operation that may or may not have been carried out.
    pub(crate) fn unsettled(&self) -> Option<&Op> {
        self.unsettled.as_deref()
    }

    /// Records or clears the operation whose outcome is unknown.
    pub(crate) fn set_unsettled(&mut self, op: Option<Op>) {
        self.unsettled = op.map(Box::new);
    }

    /// Records an operation that KVM has carried out.
    pub(crate) fn follow_op(&mut self, op: &Op) {
        match op {
            Op::Delete(slot) => self.remove(slot.id),
            Op::Create(slot) | Op::Move { to: slot, .. } | Op::SetFlags { to: slot, .. } => {
                match self.slots.insert(slot.id, slot.clone()) {
                    Some(old) => drop(self.by_gpa.remove(&old.gpa())),
                    None => self.free.take(slot.id..=slot.id),
                }
                self.by_gpa.insert(slot.gpa(), slot.id);
            }
            Op::SetPrivate { .. } => {}
        }
    }

    pub(crate) fn remove(&mut self, id: SlotId) {
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        self.by_gpa.remove(&slot.gpa());
        if !self.rules.is_reserved(id) {
            self.free.put_back(id);
        }
    }
}
