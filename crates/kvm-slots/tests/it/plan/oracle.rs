// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans of random changes, replayed on a list of slots that has only KVM's rules.

use crate::common;

use std::collections::BTreeMap;

use common::dumb::{DumbSlots, Page};
use common::random::{NO_FDS, picks, ranges};
use common::{ABI, PAGE, able, follow, ram};
use kvm_slots::plan::plan;
use kvm_slots::{Op, SlotTable};
use proptest::prelude::*;

/// Whether all pages of `old` are in `now`, with the same bytes.
fn is_within(old: &BTreeMap<u64, Page>, now: &BTreeMap<u64, Page>) -> bool {
    old.iter().all(|(gpa, page)| now.get(gpa) == Some(page))
}

/// Whether a slot moves by less than its size: it is absent during the move.
fn moves_onto_itself(op: &Op) -> bool {
    let Op::Move { from, to } = op else {
        return false;
    };
    from.gpa().abs_diff(to.gpa()) < from.size()
}

/// Whether the VMM could not answer an exit just before or after.
fn is_without_host(op: &Op) -> bool {
    matches!(op, Op::Create(slot) | Op::Delete(slot) if slot.backing().host().is_none())
}

proptest! {
    #[test]
    fn every_plan_keeps_kvms_rules_and_reaches_its_target(
        sets in prop::collection::vec(picks(), 1..6)
    ) {
        let (mut table, mut kvm) = (SlotTable::new(), DumbSlots::default());
        for set in sets {
            let target = ranges(&set, NO_FDS);
            let before = kvm.ranges();
            let plan = plan(&table, &target, &able(), ABI).unwrap();
            // The guest keeps its old memory until the last operation, which
            // keeps all memory that the guest has both before and after.
            let old = kvm.bytes();
            let mut gap = false;
            for (n, op) in plan.ops().iter().enumerate() {
                gap |= n > 0 && !is_within(&old, &kvm.bytes());
                gap |= moves_onto_itself(op) || is_without_host(op);
                kvm.step(op);
            }
            prop_assert_eq!(&kvm.ranges(), &target);

            // Never worse than starting over, and nothing for nothing.
            prop_assert!(plan.ops().len() <= before.len() + target.len());
            prop_assert_eq!(plan.ops().is_empty(), before == target);

            prop_assert_eq!(plan.holds_vcpus(), gap);

            follow(&mut table, &plan);
            let again = common::plan_again(&table, &target);
            prop_assert_eq!(again.ops(), []);
        }
    }

    #[test]
    fn the_inverse_operations_in_reverse_lead_back(old in picks(), new in picks()) {
        let (old, new) = (ranges(&old, NO_FDS), ranges(&new, NO_FDS));
        let plan = common::planned(&old, &new);
        let mut kvm = DumbSlots::default();
        for op in common::planned(&[], &old).ops() {
            kvm.step(op);
        }
        for op in plan.ops() {
            kvm.step(op);
        }
        for op in plan.ops().iter().rev().map(Op::inverse) {
            kvm.step(&op);
        }
        prop_assert_eq!(kvm.ranges(), old);
    }

    #[test]
    fn slots_and_remainders_tile_every_range(
        gpa in prop_oneof![0..0x6000_u64, (u64::MAX - 0x6000)..=u64::MAX],
        size in 1..0x6000_u64,
    ) {
        let size = size.min(u64::MAX - gpa);
        prop_assume!(size > 0);
        let plan = common::planned(&[], &[ram(gpa, size, common::HOST + gpa % PAGE)]);
        let slots = plan.ops().iter().map(|op| match op {
            Op::Create(slot) => (slot.gpa(), slot.size()),
            other => panic!("{other}"),
        });
        let trapped = plan.trapped().iter().map(|part| (part.start(), part.last() - part.start() + 1));
        let mut parts: Vec<(u64, u64)> = slots.chain(trapped).collect();
        parts.sort_unstable();
        let mut at = gpa;
        for (start, size) in parts {
            prop_assert_eq!(start, at);
            at += size;
        }
        prop_assert_eq!(at, gpa + size);
        prop_assert!(plan.trapped().iter().all(|part| part.size() < u128::from(2 * PAGE)));
    }
}
