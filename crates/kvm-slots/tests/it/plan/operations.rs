// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The operations of a change of ranges, case by case.

use crate::common;

use common::{
    ABI, HOST, PAGE, able, device, guest_memfd, logged, planned, ram, readonly, table, texts,
};
use kvm_slots::plan::plan;
use kvm_slots::{AddressBits, Op, PlanError, SlotRange, SlotTable};

const NONE: [&str; 0] = [];
/// Two more host addresses.
const B: u64 = HOST + 0x1000_0000;
const C: u64 = HOST + 0x2000_0000;

#[test]
fn unchanged_ranges_cost_nothing() {
    let all = [
        ram(0, PAGE, HOST),
        readonly(ram(0x2000, PAGE, B)),
        logged(ram(0x4000, PAGE, C)),
        guest_memfd(0x6000, PAGE, 7, 0),
        device(0x8000, PAGE, 8, 0),
    ];
    let plan = planned(&all, &all);
    assert_eq!(texts(&plan), NONE);
    assert!(!plan.holds_vcpus());
}

#[test]
fn a_moved_ram_bar_is_one_move() {
    let plan = planned(
        &[ram(0xe000_0000, 0x4000, HOST)],
        &[ram(0xf000_0000, 0x4000, HOST)],
    );
    assert_eq!(texts(&plan), ["MOVE slot 0 from 0xe0000000 to 0xf0000000"]);
    assert!(!plan.holds_vcpus());
}

#[test]
fn a_move_by_less_than_its_size_is_one_move_too_and_holds_vcpus() {
    let bar = |gpa| [ram(gpa, 0x4000, HOST)];
    for to in [0, 0x2000, 0x4000] {
        let plan = planned(&bar(0x1000), &bar(to));
        let text = format!("MOVE slot 0 from 0x1000 to {to:#x}");
        assert_eq!(texts(&plan), [text]);
        // Most of it is in a slot before and after, but in none during the move.
        assert!(plan.holds_vcpus());
    }
    // This does not apply if the old and the new place only touch.
    assert!(!planned(&bar(0x1000), &bar(0x5000)).holds_vcpus());
}

#[test]
fn a_move_holds_vcpus_where_it_is_not_known_how_far_it_can_go() {
    let with = |width| {
        let mut able = able();
        able.address_bits = width;
        able
    };
    let bar = |gpa| [ram(gpa, PAGE, HOST)];
    let to = |gpa, width| plan(&table(&[&bar(0x1000)]), &bar(gpa), &with(width), ABI);
    let bound = Some(AddressBits::AtMost(52));
    for (width, holds) in [
        (None, true),
        (bound, true),
        (Some(AddressBits::Exact(52)), false),
    ] {
        for gpa in [0x8000, 1 << 50] {
            let plan = to(gpa, width).unwrap();
            assert_eq!(plan.holds_vcpus(), holds, "{width:?}, {gpa:#x}");
        }
    }
    // A new slot that KVM refuses takes nothing from the guest.
    let empty = SlotTable::new();
    let created = plan(&empty, &bar(1 << 50), &with(bound), ABI).unwrap();
    assert!(!created.holds_vcpus());
    // Beyond the bound, there is no plan.
    let refused = PlanError::BeyondAddresses {
        gpa: 1 << 52,
        size: PAGE,
        bits: 52,
    };
    assert_eq!(to(1 << 52, bound), Err(refused));
}

#[test]
fn a_move_can_start_the_dirty_log_as_well() {
    let plan = planned(
        &[ram(0x1000, PAGE, HOST)],
        &[logged(ram(0x8000, PAGE, HOST))],
    );
    let [Op::Move { from, to }] = plan.ops() else {
        panic!("{plan:?}");
    };
    assert!(!from.log_dirty() && to.log_dirty());
}

#[test]
fn a_toggle_of_the_dirty_log_is_one_flags_operation() {
    let (off, on) = (ram(0x1000, PAGE, HOST), logged(ram(0x1000, PAGE, HOST)));
    let (off, on) = ([off], [on]);
    let starts = planned(&off, &on);
    assert_eq!(texts(&starts), ["FLAGS slot 0 at 0x1000: dirty log starts"]);
    let stops = planned(&on, &off);
    assert_eq!(texts(&stops), ["FLAGS slot 0 at 0x1000: dirty log stops"]);
    assert!(!starts.holds_vcpus() && !stops.holds_vcpus());
}

#[test]
fn slots_that_kvm_cannot_change_are_deleted_and_recreated() {
    let old = [ram(0x1000, 0x2000, HOST)];
    let others = [
        ram(0x1000, 0x4000, HOST),
        ram(0x1000, 0x1000, HOST),
        ram(0x1000, 0x2000, B),
        readonly(ram(0x1000, 0x2000, HOST)),
    ];
    for new in others {
        let plan = planned(&old, std::slice::from_ref(&new));
        let create = format!("CREATE slot 0 at 0x1000, {:#x} bytes", new.size());
        assert_eq!(texts(&plan), ["DELETE slot 0 at 0x1000", create.as_str()]);
        assert!(plan.holds_vcpus(), "{new:?}");
    }
}

#[test]
fn a_slot_on_a_file_never_moves() {
    // A device's bytes may be in two slots for a moment.
    let plan = planned(&[device(0x1000, PAGE, 7, 0)], &[device(0x8000, PAGE, 7, 0)]);
    assert_eq!(
        texts(&plan),
        [
            "CREATE slot 1 at 0x8000, 0x1000 bytes",
            "DELETE slot 0 at 0x1000"
        ]
    );
    // Only the old memory can answer an exit at the new place from just before.
    assert!(plan.holds_vcpus());

    // The bytes of a guest_memfd may not. If the second operation fails, the
    // slot was absent for a moment.
    let at = |gpa| [guest_memfd(gpa, PAGE, 7, 0)];
    let plan = planned(&at(0x1000), &at(0x8000));
    assert_eq!(
        texts(&plan),
        [
            "DELETE slot 0 at 0x1000",
            "CREATE slot 0 at 0x8000, 0x1000 bytes"
        ]
    );
    assert!(plan.holds_vcpus());
}

#[test]
fn another_offset_of_the_same_file_is_another_slot() {
    for kind in [guest_memfd, device] {
        let plan = planned(&[kind(0x1000, PAGE, 7, 0)], &[kind(0x1000, PAGE, 7, PAGE)]);
        assert_eq!(plan.ops().len(), 2);
        assert!(plan.holds_vcpus());
    }
}

#[test]
fn two_ram_bars_that_swap_cost_one_delete_one_move_and_one_create() {
    let plan = planned(
        &[ram(0x1000, PAGE, HOST), ram(0x2000, PAGE, B)],
        &[ram(0x1000, PAGE, B), ram(0x2000, PAGE, HOST)],
    );
    let [Op::Delete(deleted), Op::Move { from, to }, Op::Create(new)] = plan.ops() else {
        panic!("{plan:?}");
    };
    assert_eq!((from.gpa(), to.gpa()), (new.gpa(), deleted.gpa()));
    assert_eq!(new.backing(), deleted.backing());
    assert!(plan.holds_vcpus());
}

#[test]
fn a_circle_of_three_breaks_one_slot_and_moves_two() {
    let plan = planned(
        &[
            ram(0x1000, PAGE, HOST),
            ram(0x2000, PAGE, B),
            ram(0x3000, PAGE, C),
        ],
        &[
            ram(0x2000, PAGE, HOST),
            ram(0x3000, PAGE, B),
            ram(0x1000, PAGE, C),
        ],
    );
    let [first, second, third, fourth] = plan.ops() else {
        panic!("{plan:?}");
    };
    assert!(matches!(first, Op::Delete(_)));
    assert!(matches!(second, Op::Move { .. }));
    assert!(matches!(third, Op::Move { .. }));
    assert!(matches!(fourth, Op::Create(_)));
    assert!(plan.holds_vcpus());
}

#[test]
fn a_slot_that_only_waits_for_a_circle_is_not_broken() {
    // A waits for B, and B and C wait for each other.
    let plan = planned(
        &[
            ram(0x0000, 0x2000, B),
            ram(0x4000, 0x1000, C),
            ram(0xa000, 0x1000, HOST),
        ],
        &[
            ram(0x0000, 0x1000, HOST),
            ram(0x1000, 0x1000, C),
            ram(0x4000, 0x2000, B),
        ],
    );
    assert_eq!(plan.ops().len(), 4, "{:?}", texts(&plan));
}

#[test]
fn a_chain_of_moves_starts_at_its_free_end() {
    let all = |first: u64| {
        let bar = |n: u64| ram((first + n) * PAGE, PAGE, HOST + n * PAGE);
        [bar(0), bar(1), bar(2)]
    };
    let up = planned(&all(1), &all(2));
    assert_eq!(
        texts(&up),
        [
            "MOVE slot 2 from 0x3000 to 0x4000",
            "MOVE slot 1 from 0x2000 to 0x3000",
            "MOVE slot 0 from 0x1000 to 0x2000",
        ]
    );
    let down = planned(&all(2), &all(1));
    assert_eq!(
        texts(&down),
        [
            "MOVE slot 0 from 0x2000 to 0x1000",
            "MOVE slot 1 from 0x3000 to 0x2000",
            "MOVE slot 2 from 0x4000 to 0x3000",
        ]
    );
    // Between two moves nothing is where something was and will be.
    assert!(up.holds_vcpus() && down.holds_vcpus());
}

#[test]
fn ten_thousand_bars_that_all_move_up_are_planned_at_once() {
    let count = 10_000;
    let all = |first: u64| -> Vec<SlotRange> {
        let bars = (0..count).map(|n| ram((first + n) * PAGE, PAGE, HOST + n * PAGE));
        bars.collect()
    };
    let plan = planned(&all(0), &all(1));
    assert_eq!(plan.ops().len(), 10_000);
    assert!(plan.ops().iter().all(|op| matches!(op, Op::Move { .. })));
}

#[test]
fn a_place_is_freed_before_it_is_moved_to() {
    let plan = planned(
        &[ram(0x1000, PAGE, HOST), device(0x2000, PAGE, 7, 0)],
        &[ram(0x2000, PAGE, HOST), device(0x1000, PAGE, 7, 0)],
    );
    assert_eq!(
        texts(&plan),
        [
            "DELETE slot 1 at 0x2000",
            "MOVE slot 0 from 0x1000 to 0x2000",
            "CREATE slot 1 at 0x1000, 0x1000 bytes",
        ]
    );
}

#[test]
fn numbers_are_given_lowest_first_and_used_again() {
    let six = |skip: &[u64]| -> Vec<SlotRange> {
        let kept = (0..6).filter(|n| !skip.contains(n));
        kept.map(|n| ram(n * 2 * PAGE, PAGE, HOST + n * 2 * PAGE))
            .collect()
    };
    let with_holes = table(&[&six(&[]), &six(&[1, 4])]);
    let ids: Vec<u16> = with_holes.slots().map(|slot| slot.id()).collect();
    assert_eq!(ids, [0, 2, 3, 5]);

    let mut ranges = six(&[1, 4]);
    ranges.extend([7, 8, 9].map(|n| ram(n * 2 * PAGE, PAGE, B + n * PAGE)));
    let plan = plan(&with_holes, &ranges, &able(), ABI).unwrap();
    assert_eq!(
        texts(&plan),
        [
            "CREATE slot 1 at 0xe000, 0x1000 bytes",
            "CREATE slot 4 at 0x10000, 0x1000 bytes",
            "CREATE slot 6 at 0x12000, 0x1000 bytes",
        ]
    );
}

#[test]
fn vcpus_are_held_while_ram_is_split_and_not_for_one_slot_more_or_less() {
    let whole = [ram(0, 0x10_0000, HOST)];
    let split = [
        ram(0, 0xa_0000, HOST),
        ram(0xc_0000, 0x4_0000, HOST + 0xc_0000),
    ];
    assert!(planned(&whole, &split).holds_vcpus());
    assert!(planned(&split, &whole).holds_vcpus());

    let more = [whole[0].clone(), ram(0xe000_0000, PAGE, B)];
    assert!(!planned(&whole, &more).holds_vcpus());
    assert!(!planned(&more, &whole).holds_vcpus());
    assert!(!planned(&whole, &[]).holds_vcpus());
    // Two slots cannot be deleted at once: if the second delete fails, the guest
    // has seen the first.
    assert!(planned(&more, &[]).holds_vcpus());
    assert!(!planned(&[], &more).holds_vcpus());

    let registers = [whole[0].clone(), device(0xe000_0000, PAGE, 7, 0)];
    assert!(planned(&whole, &registers).holds_vcpus());
    assert!(planned(&registers, &whole).holds_vcpus());
}

#[test]
fn slots_move_in_the_order_of_their_addresses_wherever_the_host_has_them() {
    for [low, high] in [[HOST, HOST + 16 * PAGE], [HOST + 16 * PAGE, HOST]] {
        let both = |gpa| [ram(gpa, PAGE, low), ram(gpa + 2 * PAGE, PAGE, high)];
        let plan = plan(&table(&[&both(0)]), &both(8 * PAGE), &able(), ABI).unwrap();
        assert_eq!(
            texts(&plan),
            [
                "MOVE slot 0 from 0x0 to 0x8000",
                "MOVE slot 1 from 0x2000 to 0xa000"
            ]
        );
    }
}
