// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM's rules for memslots in the simplest form: a list that each call
//! searches from start to end. It panics where KVM would refuse.

use std::collections::{BTreeMap, BTreeSet};

use kvm_slots::{Op, Slot, SlotAccess, SlotBacking, SlotId, SlotRange};

use super::PAGE;

/// A slot that can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DumbSlot {
    id: SlotId,
    range: SlotRange,
}

impl DumbSlot {
    fn new(slot: &Slot) -> Self {
        Self {
            id: slot.id(),
            range: as_range(slot),
        }
    }

    fn last(&self) -> u64 {
        self.range.gpa() + (self.range.size() - 1)
    }
}

/// The slots of a VM.
#[derive(Clone, Debug, Default)]
pub struct DumbSlots {
    slots: Vec<DumbSlot>,
    /// The numbers of the private pages.
    pub private: BTreeSet<u64>,
}

impl DumbSlots {
    /// Makes an operation.
    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Delete(slot) => drop(self.take(slot)),
            Op::Create(slot) => self.put(DumbSlot::new(slot)),
            Op::Move { from, to } => {
                assert_ne!(from.gpa(), to.gpa(), "{op}: it does not move");
                self.change(from, to, |range| {
                    let moved = SlotRange::new(to.gpa(), range.access(), range.backing().clone());
                    let moved = moved.expect("the slot does not wrap");
                    moved.with_log_dirty(to.log_dirty())
                });
            }
            Op::SetFlags { from, to } => {
                assert_ne!(from.log_dirty(), to.log_dirty(), "{op}: nothing changes");
                self.change(from, to, |range| range.with_log_dirty(to.log_dirty()));
            }
            Op::SetPrivate { pages, private } => {
                for page in pages.start() / PAGE..(pages.start() + pages.size()) / PAGE {
                    let changes = match private {
                        true => self.private.insert(page),
                        false => self.private.remove(&page),
                    };
                    assert!(changes, "{op}: nothing changes at page {page:#x}");
                }
            }
            unknown => panic!("{unknown}: the oracle does not know it"),
        }
    }

    /// Changes a slot in one of the ways that KVM allows for a plain slot.
    fn change(&mut self, from: &Slot, to: &Slot, change: impl FnOnce(SlotRange) -> SlotRange) {
        assert!(
            matches!(from.backing(), SlotBacking::Host(_)),
            "{from:?} is immutable"
        );
        let mut slot = self.take(from);
        slot.range = change(slot.range);
        assert_eq!(slot, DumbSlot::new(to), "more changes than can");
        self.put(slot);
    }

    fn take(&mut self, slot: &Slot) -> DumbSlot {
        let slot = DumbSlot::new(slot);
        let at = self.slots.iter().position(|had| *had == slot);
        self.slots
            .remove(at.unwrap_or_else(|| panic!("{slot:?} is not there")))
    }

    fn put(&mut self, slot: DumbSlot) {
        let range = &slot.range;
        assert!(range.size() > 0 && range.size() % PAGE == 0 && range.gpa() % PAGE == 0);
        for other in &self.slots {
            assert_ne!(other.id, slot.id, "number in use");
            let apart = other.last() < range.gpa() || slot.last() < other.range.gpa();
            assert!(apart, "{slot:?} overlaps {other:?}");
        }
        self.slots.push(slot);
    }

    /// All slots by address, as the ranges that would produce them.
    pub fn ranges(&self) -> Vec<SlotRange> {
        let mut ranges: Vec<SlotRange> = self.slots.iter().map(|s| s.range.clone()).collect();
        ranges.sort_by_key(|range| range.gpa());
        ranges
    }

    /// What the guest reaches: the bytes of each page, and how.
    pub fn bytes(&self) -> BTreeMap<u64, Page> {
        let pages = self.slots.iter().flat_map(|slot| {
            let range = &slot.range;
            let pages = (0..range.size() / PAGE).map(|page| page * PAGE);
            pages.map(|offset| {
                let host = range.backing().host().map(|host| host.address() + offset);
                let file = range.backing().file();
                let file = file.map(|file| (file.fd(), file.offset() + offset));
                (range.gpa() + offset, (host, file, range.access()))
            })
        });
        pages.collect()
    }
}

/// The bytes of a page, by host address and by descriptor and offset, and how
/// the guest reaches them.
pub type Page = (Option<u64>, Option<(i32, u64)>, SlotAccess);

/// The range that would produce a slot.
pub fn as_range(slot: &Slot) -> SlotRange {
    let range = SlotRange::new(slot.gpa(), slot.access(), slot.backing().clone());
    let range = range.expect("a slot does not wrap");
    range.with_log_dirty(slot.log_dirty())
}

/// The numbers of the pages of whole-page ranges.
pub fn pages(ranges: &[SlotRange]) -> BTreeSet<u64> {
    let pages = ranges
        .iter()
        .map(|r| r.gpa() / PAGE..(r.gpa() + r.size()) / PAGE);
    pages.flatten().collect()
}
