// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that swaps places, and the slots that must be recreated for it.

use crate::common;

use common::dumb::DumbSlots;
use common::{HOST, PAGE, planned, ram};
use kvm_slots::{Op, Plan, SlotRange};

/// `size` pages of the memory with this number, at a page.
fn at(page: u64, memory: u64, size: u64) -> SlotRange {
    ram(page * PAGE, size * PAGE, HOST + memory * 0x100_0000)
}

/// The numbers of deletes, moves and creates.
fn counts(plan: &Plan) -> [usize; 3] {
    let count = |is: fn(&Op) -> bool| plan.ops().iter().filter(|op| is(op)).count();
    [
        count(|op| matches!(op, Op::Delete(_))),
        count(|op| matches!(op, Op::Move { .. })),
        count(|op| matches!(op, Op::Create(_))),
    ]
}

#[test]
fn a_slot_that_swaps_places_with_many_smaller_ones_is_recreated() {
    let count = 200;
    let small = |first: u64| (0..count).map(move |n| at(first + n, n + 1, 1));
    let mut old: Vec<SlotRange> = small(count).collect();
    old.push(at(0, 0, count));
    let mut new: Vec<SlotRange> = small(0).collect();
    new.push(at(count, 0, count));
    assert_eq!(counts(&planned(&old, &new)), [1, 200, 1]);
    assert_eq!(counts(&planned(&new, &old)), [1, 200, 1]);
}

#[test]
fn memory_at_two_addresses_moves_so_that_two_cycles_become_one() {
    let old = [at(0, 0, 1), at(1, 0, 1), at(2, 1, 1), at(3, 2, 1)];
    let new = [at(2, 0, 1), at(3, 0, 1), at(0, 1, 1), at(1, 2, 1)];
    assert_eq!(counts(&planned(&old, &new)), [1, 3, 1]);
}

#[test]
fn of_memory_at_too_many_addresses_the_blocking_slot_is_deleted() {
    let old = [at(0, 0, 1), at(1, 0, 1), at(2, 1, 1)];
    let new = [at(2, 0, 1), at(0, 1, 1)];
    assert_eq!(counts(&planned(&old, &new)), [1, 2, 0]);
    // In the other direction, the added range has to wait.
    assert_eq!(counts(&planned(&new, &old)), [0, 2, 1]);
}

#[test]
fn thousands_that_change_places_in_pairs_are_planned_at_once() {
    let pairs = 5_000;
    let all = |swap: u64| -> Vec<SlotRange> {
        let bars = (0..2 * pairs).map(|n| at(n ^ swap, n, 1));
        bars.collect()
    };
    assert_eq!(counts(&planned(&all(0), &all(1))), [5_000, 5_000, 5_000]);
}

#[test]
fn a_change_too_tangled_to_search_through_still_has_a_plan_that_works() {
    // Sizes in three orders (xorshift64*, always the same).
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: u64| {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        random.wrapping_mul(0x2545_f491_4f6c_dd1d) % below
    };
    let mut bars: Vec<(u64, u64)> = (0..300).map(|n| (n, 1 + n % 7)).collect();
    let mut layouts = Vec::new();
    for _ in 0..3 {
        for index in (1..bars.len()).rev() {
            let other = usize::try_from(next(index as u64 + 1)).unwrap();
            bars.swap(index, other);
        }
        let mut page = 0;
        let layout = bars.iter().map(|&(memory, size)| {
            page += size;
            at(page - size, memory, size)
        });
        layouts.push(layout.collect::<Vec<SlotRange>>());
    }
    for new in &layouts[1..] {
        let plan = planned(&layouts[0], new);
        let mut kvm = DumbSlots::default();
        for op in planned(&[], &layouts[0]).ops().iter().chain(plan.ops()) {
            kvm.step(op);
        }
        assert_eq!(&kvm.ranges(), new);
        let [deletes, moves, creates] = counts(&plan);
        assert_eq!(deletes, creates);
        assert!(moves > 2 * deletes, "{deletes} and {moves}");
    }
}

#[test]
fn memory_at_many_addresses_that_all_change_still_has_a_plan() {
    // More ways to pair than could be tried.
    let old: Vec<SlotRange> = (0..60).map(|n| at(n, n % 3, 1)).collect();
    let new: Vec<SlotRange> = (0..60).map(|n| at(n, (n + 1) % 3, 1)).collect();
    let plan = planned(&old, &new);
    let mut kvm = DumbSlots::default();
    for op in planned(&[], &old).ops().iter().chain(plan.ops()) {
        kvm.step(op);
    }
    assert_eq!(kvm.ranges(), new);
}
