// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Plans from changes are the same as plans from all memory.

use crate::common;

use std::collections::BTreeSet;

use common::random::{NO_FDS, picks, ranges};
use common::{ABI, HOST, PAGE, able, device, follow, logged, ram, table, texts};
use guest_ranges::AddrRange;
use kvm_slots::plan::{plan, plan_change};
use kvm_slots::{Change, Plan, PlanError, SlotRange, SlotRules, SlotTable};
use proptest::prelude::*;

const B: u64 = HOST + 0x1000_0000;

fn change(
    table: &SlotTable,
    removed: &[SlotRange],
    added: &[SlotRange],
) -> Result<Plan, PlanError> {
    let change = Change::new(removed, added);
    plan_change(table, &change, &able(), ABI)
}

/// The ranges in `a` but not in `b`.
fn without(a: &[SlotRange], b: &[SlotRange]) -> Vec<SlotRange> {
    a.iter()
        .filter(|range| !b.contains(range))
        .cloned()
        .collect()
}

fn remainders(plan: &Plan) -> BTreeSet<AddrRange> {
    plan.trapped().iter().copied().collect()
}

/// Ranges side by side with ends anywhere: a gap, a size, a piece of memory
/// and whether it is logged. The host address is aligned like the guest's.
fn unaligned() -> impl Strategy<Value = Vec<SlotRange>> {
    let unit = 0x400_u64;
    let piece = (
        prop_oneof![2 => Just(0), 1 => 0..9_u64],
        1..20_u64,
        0..3_u64,
        0..4_u8,
    );
    prop::collection::vec(piece, 0..8).prop_map(move |pieces| {
        let mut at = 0;
        let place = |(gap, size, memory, log): (u64, u64, u64, u8)| {
            let gpa = at + gap * unit;
            at = gpa + size * unit;
            let range = ram(gpa, size * unit, HOST + memory * 0x10_0000 + gpa % PAGE);
            if log == 0 { logged(range) } else { range }
        };
        pieces.into_iter().map(place).collect()
    })
}

fn any_ranges() -> impl Strategy<Value = Vec<SlotRange>> {
    prop_oneof![
        unaligned(),
        picks().prop_map(|picks| ranges(&picks, NO_FDS))
    ]
}

proptest! {
    #[test]
    fn a_plan_from_changes_is_the_plan_from_everything(
        sets in prop::collection::vec(any_ranges(), 1..6),
        max in prop::option::of(1..4_u64),
        reserved in prop::option::of(0..4_u16),
    ) {
        let mut rules = SlotRules::new();
        if let Some(pages) = max {
            rules = rules.with_max_slot_size(pages * PAGE);
        }
        if let Some(first) = reserved {
            rules = rules.reserving(first..=first + 2);
        }
        let mut table = SlotTable::with_rules(rules);
        let (mut current, mut trapped) = (Vec::new(), BTreeSet::new());
        for target in sets {
            let (removed, added) = (without(&current, &target), without(&target, &current));
            let all = plan(&table, &target, &able(), ABI).unwrap();
            let only = change(&table, &removed, &added).unwrap();
            prop_assert_eq!(&only.ops(), &all.ops());
            prop_assert_eq!(only.holds_vcpus(), all.holds_vcpus());

            // The trapped bytes follow from the changes, too.
            let none = SlotTable::new();
            let no_more = remainders(&plan(&none, &removed, &able(), ABI).unwrap());
            trapped.retain(|part| !no_more.contains(part));
            trapped.extend(remainders(&only));
            prop_assert_eq!(&trapped, &remainders(&all));

            follow(&mut table, &only);
            current = target;
        }
    }
}

#[test]
fn a_range_stays_when_only_the_neighbour_in_its_last_page_changes() {
    let low = ram(0x1000, 0x1800, HOST);
    let high = ram(0x2800, 0x1800, B + 0x800);
    let other = ram(0x2c00, 0x400, B);
    let current = table(&[&[low.clone(), high.clone()]]);

    let plan = change(&current, std::slice::from_ref(&high), &[other]).unwrap();
    assert_eq!(texts(&plan), ["DELETE slot 1 at 0x3000"]);
    assert_eq!(
        remainders(&plan),
        AddrRange::new(0x2c00, 0x400).into_iter().collect()
    );

    // And it does not grow into the page that it then has for itself.
    let plan = change(&current, &[high], &[]).unwrap();
    assert_eq!(texts(&plan), ["DELETE slot 1 at 0x3000"]);
    let longer = change(&current, &[low], &[ram(0x1000, 0x1000, HOST)]).unwrap();
    assert_eq!(texts(&longer), [""; 0]);
}

#[test]
fn a_removed_range_must_have_its_slots() {
    let current = table(&[&[ram(0x1000, 0x2000, HOST)]]);
    let before = current.clone();
    for other in [
        ram(0x1000, 0x1000, HOST),
        ram(0x2000, 0x1000, HOST + PAGE),
        ram(0x1000, 0x2000, B),
        logged(ram(0x1000, 0x2000, HOST)),
        ram(0x8000, 0x2000, HOST),
        device(0, 1 << 63, 7, 0),
    ] {
        let (gpa, size) = (other.gpa(), other.size());
        let refused = change(&current, &[other], &[]);
        assert_eq!(refused, Err(PlanError::NotThere { gpa, size }));
    }
    assert_eq!(current, before);
}

#[test]
fn an_added_range_must_not_overlap_one_that_stays() {
    let stays = ram(0x1000, 0x2000, HOST);
    let goes = ram(0x4000, 0x2000, B);
    let current = table(&[&[stays.clone(), goes.clone()]]);
    for added in [stays, ram(0x2000, 0x1000, B), ram(0, 0x8000, B)] {
        let (gpa, size) = (added.gpa(), added.size());
        let refused = change(&current, std::slice::from_ref(&goes), &[added]);
        let overlap = PlanError::Overlap {
            gpa,
            size,
            other_gpa: 0x1000,
            other_size: 0x2000,
        };
        assert_eq!(refused, Err(overlap));
    }
    // A removed range leaves room for an added one.
    assert!(change(&current, &[goes], &[ram(0x3000, 0x8000, B)]).is_ok());
}

#[test]
fn a_table_finds_its_slots_by_address_and_number() {
    let current = table(&[&[ram(0x1000, 0x2000, HOST), ram(0x4000, 0x1000, B)]]);
    for (gpa, id) in [
        (0xfff, None),
        (0x1000, Some(0)),
        (0x2fff, Some(0)),
        (0x3000, None),
        (0x4000, Some(1)),
        (u64::MAX, None),
    ] {
        assert_eq!(current.find(gpa).map(|slot| slot.id()), id, "{gpa:#x}");
    }
    let ids = |first, last| {
        current
            .intersecting(first, last)
            .map(|slot| slot.id())
            .collect()
    };
    let found: [Vec<u16>; 4] = [
        ids(0, u64::MAX),
        ids(0x2fff, 0x4000),
        ids(0x3000, 0x3fff),
        ids(0x2000, 0x2000),
    ];
    assert_eq!(found, [vec![0, 1], vec![0, 1], vec![], vec![0]]);
    assert_eq!(current.get(1).map(|slot| slot.gpa()), Some(0x4000));
    assert_eq!(current.get(2), None);
}
