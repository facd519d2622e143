// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What undoes one step of a transaction.
//!
//! # Why the model keeps the steps
//!
//! [`core::mem::forget`] is safe, and skips the drop that undoes a transaction. If the
//! transaction kept its steps, the tree would then differ from every view for good.
//! The model keeps them, and its next change undoes them first.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;

use guest_ranges::AddrRange;

use crate::attachments::{EventFd, IoEventKey};
use crate::ids::RegionId;
use crate::logging::DirtyClients;
use crate::region::{Region, Switches};
use crate::tree::Tree;
use crate::tree::node::{Node, Place};

/// Undoes a step, on the tree as the step left it.
#[derive(Debug)]
pub(crate) enum Undo<H> {
    Add(RegionId),
    Remove(RegionId, Box<Node<H>>),
    Place(RegionId),
    Unplace(RegionId, Place, u64),
    Move(RegionId, Place, u64),
    Switch(RegionId, Switches),
    Memory(RegionId, Arc<Region<H>>),
    Logging(RegionId, DirtyClients),
    GlobalLogging(DirtyClients),
    IoEventFd(RegionId, IoEventKey, Option<EventFd>),
    Coalesced(RegionId, AddrRange, bool),
}

impl<H> Undo<H> {
    /// Whether some steps together change nothing: each only sets a value, and all
    /// values are as they were before the first step.
    ///
    /// With other kinds of steps among them, equal values prove nothing: a region that
    /// was off meanwhile did not show their changes.
    #[inline]
    pub(crate) fn is_nothing(steps: &[Self], tree: &Tree<H>) -> bool {
        let only_sets = |step: &Self| {
            matches!(
                step,
                Self::Switch(..) | Self::Logging(..) | Self::GlobalLogging(_)
            )
        };
        steps.iter().all(only_sets) && Self::is_as_before(steps, tree)
    }

    #[inline(never)]
    fn is_as_before(steps: &[Self], tree: &Tree<H>) -> bool {
        // The first step that set a value has the value before.
        let (mut switched, mut logged, mut all_logged) = (BTreeSet::new(), BTreeSet::new(), false);
        steps.iter().all(|step| match *step {
            Self::Switch(id, before) => {
                !switched.insert(id) || tree.switches(id).is_ok_and(|now| now == before)
            }
            Self::Logging(id, before) => {
                !logged.insert(id) || tree.dirty_logging(id).is_ok_and(|now| now == before)
            }
            Self::GlobalLogging(before) => {
                core::mem::replace(&mut all_logged, true) || tree.global_logging() == before
            }
            _ => false,
        })
    }

    pub(crate) fn undo(self, tree: &mut Tree<H>) {
        // Each of these undoes a step that succeeded on this tree.
        match self {
            Self::Add(id) => tree.undo_add(id),
            Self::Remove(id, node) => tree.restore(id, *node),
            Self::Place(id) => drop(tree.unplace(id)),
            Self::Unplace(id, place, placing) => tree.put(id, place, placing),
            Self::Move(id, place, placing) => drop(tree.put_again(id, place, placing)),
            Self::Switch(id, before) => drop(tree.switch(id, before)),
            Self::Memory(id, before) => drop(tree.describe(id, before)),
            Self::Logging(id, before) => drop(tree.set_logging(id, before)),
            Self::GlobalLogging(before) => drop(tree.set_global_logging(before)),
            Self::IoEventFd(id, key, before) => drop(tree.set_ioeventfd(id, key, before)),
            Self::Coalesced(id, range, before) => drop(tree.set_coalesced(id, range, before)),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use guest_ranges::HostMemory;
    use proptest::prelude::*;

    use super::*;
    use crate::backing::Memory;
    use crate::model::MemoryModel;
    use crate::region::Region;
    use crate::transaction::Transaction;

    fn space() -> (MemoryModel, [RegionId; 2]) {
        let mut model = MemoryModel::new();
        let mut t = model.transaction();
        let root = t.add(Region::container("root", 1 << 64)).unwrap();
        let leaf = t.add(Region::mmio("leaf", 16)).unwrap();
        t.place(leaf, root, 0, 0).unwrap();
        t.commit().unwrap();
        model.add_space("space", root).unwrap();
        (model, [root, leaf])
    }

    fn is_nothing(t: &Transaction<'_, ()>) -> bool {
        Undo::is_nothing(&t.model.undo, t.tree())
    }

    #[test]
    fn switches_that_end_as_they_began_are_nothing_to_commit() {
        let (mut model, [root, leaf]) = space();
        let mut t = model.transaction();
        t.set_enabled(root, false).unwrap();
        assert!(!is_nothing(&t));
        t.set_readonly(leaf, true).unwrap();
        t.set_enabled(root, true).unwrap();
        assert!(!is_nothing(&t), "another is not as it was");
        t.set_readonly(leaf, false).unwrap();
        assert!(is_nothing(&t));
        t.set_readonly(root, true).unwrap();
        t.set_global_dirty_logging(DirtyClients::VGA);
        t.set_readonly(root, false).unwrap();
        assert!(!is_nothing(&t));
        t.set_global_dirty_logging(DirtyClients::NONE);
        assert!(is_nothing(&t));
        t.commit().unwrap();
    }

    #[test]
    fn logging_that_ends_as_it_began_is_nothing_to_commit() {
        let (mut model, _) = space();
        let mut t = model.transaction();
        let memory = Memory::host_only(HostMemory::placeholder(0x1000).unwrap());
        let ram = t.add(Region::ram("ram", memory)).unwrap();
        t.commit().unwrap();
        let mut t = model.transaction();
        t.set_dirty_logging(ram, DirtyClients::VGA).unwrap();
        t.set_dirty_logging(ram, DirtyClients::MIGRATION).unwrap();
        assert!(!is_nothing(&t));
        t.set_dirty_logging(ram, DirtyClients::NONE).unwrap();
        assert!(is_nothing(&t));
        t.set_global_dirty_logging(DirtyClients::VGA);
        t.set_global_dirty_logging(DirtyClients::MIGRATION);
        assert!(!is_nothing(&t));
        t.set_global_dirty_logging(DirtyClients::NONE);
        assert!(is_nothing(&t));
    }

    #[test]
    fn what_happened_while_a_region_was_off_is_something() {
        let (mut model, [root, leaf]) = space();
        let mut t = model.transaction();
        t.set_enabled(root, false).unwrap();
        t.move_to(leaf, 0x1000).unwrap();
        t.set_enabled(root, true).unwrap();
        assert!(!is_nothing(&t));
        t.commit().unwrap();
        let (space, ..) = model.spaces().next().unwrap();
        assert!(model.view(space).find(0x1000).is_some());
    }

    proptest! {
        #[test]
        fn after_regions_are_added_removed_and_restored_each_has_its_own_entry(
            steps in prop::collection::vec(any::<(bool, prop::sample::Index)>(), 1..60),
            parts in prop::collection::vec(1_usize..12, 1..10),
            kept in 1_usize..20,
        ) {
            let mut model = MemoryModel::new();
            let mut t = model.transaction();
            let add = |t: &mut Transaction<'_, u32>, handle| {
                t.add(Region::mmio("region", 1).with_handle(handle)).unwrap()
            };
            let kept: Vec<RegionId> = (0..20).map(|handle| add(&mut t, handle)).take(kept).collect();
            t.commit().unwrap();
            let mut t = model.transaction();
            let mut steps = steps.into_iter();
            for part in parts {
                // Every second part is undone at once, all others at the end.
                let mut nested = t.nested();
                let mut there: Vec<_> =
                    kept.iter().copied().filter(|id| nested.tree().region(*id).is_ok()).collect();
                for (adds, which) in steps.by_ref().take(part) {
                    if adds {
                        let new = add(&mut nested, 99);
                        there.push(new);
                    } else if !there.is_empty() {
                        nested.remove(there.swap_remove(which.index(there.len()))).unwrap();
                    }
                }
                if part % 2 == 0 {
                    nested.commit();
                }
            }
            drop(t);
            let mut t = model.transaction();
            let new: Vec<_> = (100..200).map(|handle| (add(&mut t, handle), handle)).collect();
            let all = kept.iter().copied().zip(0..).chain(new);
            for (id, handle) in all {
                prop_assert_eq!(t.tree().region(id).map(|r| *r.handle()), Ok(handle));
            }
        }
    }
}
