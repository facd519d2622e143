// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM's rules for memslots in the dumbest way: a list, looked through from
//! end to end each time. It panics where KVM would refuse.

use std::collections::{BTreeMap, BTreeSet};

use kvm_slots::{Backing, Op, Slot, SlotAccess, SlotRange};

use super::PAGE;

/// The slots of a VM.
#[derive(Clone, Debug, Default)]
pub struct DumbSlots {
    slots: Vec<Slot>,
    /// The numbers of the private pages.
    pub private: BTreeSet<u64>,
}

impl DumbSlots {
    /// Carries an operation out.
    pub fn step(&mut self, op: &Op) {
        match op {
            Op::Delete(slot) => drop(self.take(slot)),
            Op::Create(slot) => self.put(slot),
            Op::Move { from, to } => {
                assert_ne!(from.gpa, to.gpa, "{op}: it does not move");
                self.change(from, to, |slot| {
                    (slot.gpa, slot.log_dirty) = (to.gpa, to.log_dirty)
                });
            }
            Op::SetFlags { from, to } => {
                assert_ne!(from.log_dirty, to.log_dirty, "{op}: nothing changes");
                self.change(from, to, |slot| slot.log_dirty = to.log_dirty);
            }
            Op::SetPrivate { pages, private } => {
                for page in pages.gpa / PAGE..(pages.gpa + pages.size) / PAGE {
                    let changes = match private {
                        true => self.private.insert(page),
                        false => self.private.remove(&page),
                    };
                    assert!(changes, "{op}: nothing changes at page {page:#x}");
                }
            }
        }
    }

    /// Changes a slot in the only ways in which a plain one can change.
    fn change(&mut self, from: &Slot, to: &Slot, change: impl FnOnce(&mut Slot)) {
        assert!(
            matches!(from.backing, Backing::Host(_)),
            "{from:?} is immutable"
        );
        let mut slot = self.take(from);
        change(&mut slot);
        assert_eq!(&slot, to, "more changes than can");
        self.put(&slot);
    }

    fn take(&mut self, slot: &Slot) -> Slot {
        let at = self.slots.iter().position(|had| had == slot);
        self.slots
            .remove(at.unwrap_or_else(|| panic!("{slot:?} is not there")))
    }

    fn put(&mut self, slot: &Slot) {
        assert!(slot.size > 0 && slot.size % PAGE == 0 && slot.gpa % PAGE == 0);
        for other in &self.slots {
            assert_ne!(other.id, slot.id, "number in use");
            let apart = other.last() < slot.gpa || slot.last() < other.gpa;
            assert!(apart, "{slot:?} overlaps {other:?}");
        }
        self.slots.push(slot.clone());
    }

    /// All slots by address, as the ranges that would ask for them.
    pub fn ranges(&self) -> Vec<SlotRange> {
        let mut ranges: Vec<SlotRange> = self.slots.iter().map(as_range).collect();
        ranges.sort_by_key(|range| range.gpa);
        ranges
    }

    /// What the guest reaches: which bytes at which page, and how.
    pub fn bytes(&self) -> BTreeMap<u64, Page> {
        let pages = self.slots.iter().flat_map(|slot| {
            let pages = (0..slot.size / PAGE).map(|page| page * PAGE);
            pages.map(|offset| {
                let host = slot.backing.host().map(|host| host.address() + offset);
                let file = slot.backing.file();
                let file = file.map(|file| (file.fd(), file.offset() + offset));
                (slot.gpa + offset, (host, file, slot.access))
            })
        });
        pages.collect()
    }
}

/// The bytes of a page, by host address and by descriptor and offset, and how
/// the guest reaches them.
pub type Page = (Option<u64>, Option<(i32, u64)>, SlotAccess);

/// The range that would ask for a slot.
pub fn as_range(slot: &Slot) -> SlotRange {
    SlotRange {
        gpa: slot.gpa,
        size: slot.size,
        access: slot.access,
        backing: slot.backing.clone(),
        log_dirty: slot.log_dirty,
    }
}

/// The numbers of the pages of whole-page ranges.
pub fn pages(ranges: &[SlotRange]) -> BTreeSet<u64> {
    let pages = ranges.iter().map(|r| r.gpa / PAGE..(r.gpa + r.size) / PAGE);
    pages.flatten().collect()
}
