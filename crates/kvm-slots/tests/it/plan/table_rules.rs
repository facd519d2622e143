// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A VMM's rules for its table: reserved numbers and the maximum slot size.

use crate::common;

use common::{ABI, HOST, PAGE, able, device, follow, guest_memfd, logged, ram, table, texts};
use kvm_slots::plan::plan;
use kvm_slots::{Op, Plan, PlanError, SlotRange, SlotRules, SlotTable};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// `KVM_MEM_MAX_NR_PAGES`.
const MAX_PAGES: u64 = (1 << 31) - 1;

fn bars(count: u64) -> Vec<SlotRange> {
    let bars = (0..count).map(|n| ram(n * 2 * PAGE, PAGE, HOST + n * PAGE));
    bars.collect()
}

fn planned(rules: SlotRules, old: &[SlotRange], new: &[SlotRange]) -> Plan {
    let mut table = SlotTable::with_rules(rules);
    let first = plan(&table, old, &able(), ABI).unwrap();
    follow(&mut table, &first);
    plan(&table, new, &able(), ABI).unwrap()
}

/// Where each new slot starts, and its size.
fn places(plan: &Plan) -> Vec<(u64, u64)> {
    let places = plan.ops().iter().map(|op| match op {
        Op::Create(slot) => (slot.gpa(), slot.size()),
        other => panic!("{other}"),
    });
    places.collect()
}

#[test]
fn reserved_numbers_are_never_given_out() {
    let rules = SlotRules::new()
        .reserving(0..=1)
        .reserving(3..=3)
        .reserving(5..=u16::MAX);
    let reserving = |rules: &SlotRules, count| {
        plan(
            &SlotTable::with_rules(rules.clone()),
            &bars(count),
            &able(),
            ABI,
        )
    };
    assert_eq!(
        texts(&reserving(&rules, 2).unwrap()),
        [
            "CREATE slot 2 at 0x0, 0x1000 bytes",
            "CREATE slot 4 at 0x2000, 0x1000 bytes",
        ]
    );
    // The kernel's limit minus the reserved numbers below it.
    let refused = PlanError::TooManySlots {
        needed: 3,
        limit: 32764,
        reserved: 32762,
    };
    assert_eq!(reserving(&rules, 3), Err(refused));
}

#[test]
fn reservations_may_overlap_and_be_above_the_limit() {
    let four = {
        let mut able = able();
        able.nr_memslots = 4;
        able
    };
    let rules = SlotRules::new()
        .reserving(1..=2)
        .reserving(2..=2)
        .reserving(3..=9)
        .reserving(8..=8);
    let table = SlotTable::with_rules(rules);
    assert_eq!(plan(&table, &bars(1), &four, ABI).unwrap().ops().len(), 1);
    let refused = PlanError::TooManySlots {
        needed: 2,
        limit: 4,
        reserved: 3,
    };
    assert_eq!(plan(&table, &bars(2), &four, ABI), Err(refused));
}

#[test]
fn an_empty_reservation_reserves_nothing() {
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
    let rules = SlotRules::new().reserving(5..=4);
    assert_eq!(rules, SlotRules::new());
}

#[test]
fn all_numbers_that_the_kernel_has_are_used_and_no_more() {
    let table = table(&[&bars(32764)]);
    assert_eq!(table.slots().map(|slot| slot.id()).max(), Some(32763));
    let refused = PlanError::TooManySlots {
        needed: 32765,
        limit: 32764,
        reserved: 0,
    };
    assert_eq!(plan(&table, &bars(32765), &able(), ABI), Err(refused));
}

#[test]
fn a_range_larger_than_kvm_allows_is_cut_into_slots_of_four_tebibytes() {
    let plan = planned(SlotRules::new(), &[], &[ram(0, 9 * TIB, HOST)]);
    assert_eq!(
        places(&plan),
        [(0, 4 * TIB), (4 * TIB, 4 * TIB), (8 * TIB, TIB)]
    );
    let Some(Op::Create(third)) = plan.ops().last() else {
        panic!("{plan:?}");
    };
    assert_eq!(third.backing(), ram(0, TIB, HOST + 8 * TIB).backing());

    // A range that fits is one slot at any address.
    let plan = planned(SlotRules::new(), &[], &[ram(PAGE, 4 * TIB, HOST + PAGE)]);
    assert_eq!(places(&plan), [(PAGE, 4 * TIB)]);
}

#[test]
fn cuts_are_where_large_pages_of_the_backing_start() {
    // The guest's addresses and the backing's are congruent modulo 1 GiB.
    let skew = 17 * PAGE;
    for range in [
        ram(skew, 5 * TIB, HOST + skew),
        guest_memfd(skew, 5 * TIB, 7, skew),
        device(skew, 5 * TIB, 7, skew),
    ] {
        let plan = planned(SlotRules::new(), &[], &[range]);
        let first = 4 * TIB - skew;
        assert_eq!(places(&plan), [(skew, first), (4 * TIB, TIB + skew)]);
    }
}

#[test]
fn a_maximum_is_kept_whatever_it_is() {
    for pages in [1, 3, 7, 16, MAX_PAGES] {
        let max = pages * PAGE;
        let rules = SlotRules::new().with_max_slot_size(max);
        let (at, size) = (5 * PAGE, 10 * max + PAGE);
        let plan = planned(rules, &[], &[device(at, size, 7, 3 * PAGE)]);
        let mut next = at;
        for (gpa, size) in places(&plan) {
            assert_eq!(gpa, next);
            assert!(0 < size && size <= max);
            next += size;
        }
        assert_eq!(next, at + size);
        assert!(plan.ops().len() <= 12, "{}", plan.ops().len());
    }
}

#[test]
fn a_range_of_several_slots_moves_and_is_logged_slot_by_slot() {
    let rules = || SlotRules::new().with_max_slot_size(GIB);
    let size = 5 * GIB / 2;
    let here = ram(0x1_0000_0000, size, HOST + 0x5000);
    let there = ram(0x40_0000_1000, size, HOST + 0x5000);
    let plan = planned(rules(), std::slice::from_ref(&here), &[there]);
    assert_eq!(plan.ops().len(), 3);
    assert!(plan.ops().iter().all(|op| matches!(op, Op::Move { .. })));
    assert!(plan.holds_vcpus());

    let plan = planned(
        rules(),
        std::slice::from_ref(&here),
        &[logged(here.clone())],
    );
    assert_eq!(plan.ops().len(), 3);
    assert!(
        plan.ops()
            .iter()
            .all(|op| matches!(op, Op::SetFlags { .. }))
    );
}

#[test]
fn a_range_of_several_slots_that_grows_keeps_the_whole_ones() {
    let rules = SlotRules::new().with_max_slot_size(GIB);
    let plan = planned(
        rules,
        &[ram(0, 5 * GIB / 2, HOST)],
        &[ram(0, 7 * GIB / 2, HOST)],
    );
    assert_eq!(
        texts(&plan),
        [
            "CREATE slot 3 at 0xc0000000, 0x20000000 bytes",
            "DELETE slot 2 at 0x80000000",
            "CREATE slot 2 at 0x80000000, 0x40000000 bytes",
        ]
    );
}

#[test]
fn a_maximum_that_is_no_number_of_pages_is_refused() {
    for size in [0, 1, PAGE - 1, PAGE + 1, (MAX_PAGES + 1) * PAGE, u64::MAX] {
        let table = SlotTable::with_rules(SlotRules::new().with_max_slot_size(size));
        let planned = plan(&table, &bars(1), &able(), ABI);
        assert_eq!(planned, Err(PlanError::BadMaximum { size }));
    }
}

#[test]
fn more_pieces_than_memory_could_hold_are_refused_by_their_number() {
    let rules = SlotRules::new().with_max_slot_size(PAGE);
    let table = SlotTable::with_rules(rules);
    let planned = plan(&table, &[device(0, 1 << 63, 7, 0)], &able(), ABI);
    let refused = PlanError::TooManySlots {
        needed: 1 << 51,
        limit: 32764,
        reserved: 0,
    };
    assert_eq!(planned, Err(refused));
}
