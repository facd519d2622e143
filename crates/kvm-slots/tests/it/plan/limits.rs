// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes that the planner cuts off, and the ranges that it refuses.

use crate::common;

use common::{
    ABI, HOST, PAGE, able, device, file, guest_memfd, host, logged, planned, ram, range, readonly,
    table, texts,
};
use guest_ranges::AddrRange;
use kvm_slots::plan::{UnsupportedRange, plan};
use kvm_slots::{
    AbiProfile, Op, PageSize, PlanError, RangeError, SlotAccess, SlotBacking, SlotRange,
    Unsupported,
};

const NONE: [&str; 0] = [];
/// Two more host addresses.
const B: u64 = HOST + 0x1000_0000;
const C: u64 = HOST + 0x2000_0000;

fn remainder(gpa: u64, size: u64) -> AddrRange {
    AddrRange::new(gpa, size.into()).unwrap()
}

#[test]
fn remainders_of_pages_at_both_ends_trap() {
    let plan = planned(&[], &[ram(0x1800, 0x2c00, HOST + 0x800)]);
    assert_eq!(
        plan.trapped(),
        [remainder(0x1800, 0x800), remainder(0x4000, 0x400)]
    );
    let [Op::Create(slot)] = plan.ops() else {
        panic!("{plan:?}");
    };
    assert_eq!((slot.gpa(), slot.size()), (0x2000, 0x2000));
    // The backing starts where the first whole page does.
    assert_eq!(slot.backing(), ram(0, 0x2000, HOST + 0x1000).backing());

    let plan = planned(&[], &[device(0x1800, 0x2c00, 7, 0x800)]);
    let [Op::Create(slot)] = plan.ops() else {
        panic!("{plan:?}");
    };
    assert_eq!(slot.backing(), device(0, 0x2000, 7, 0x1000).backing());
}

#[test]
fn a_range_inside_one_page_or_across_one_border_traps_whole() {
    for (gpa, size) in [
        (0x1100, 0x200),
        (0x1000, 0xfff),
        (0x1001, 0xfff),
        (0x1fff, 2),
    ] {
        let plan = planned(&[], &[ram(gpa, size, HOST + gpa)]);
        assert_eq!(texts(&plan), NONE);
        assert_eq!(plan.trapped(), [remainder(gpa, size)]);
    }
}

#[test]
fn two_ranges_may_share_a_page_that_then_traps() {
    let plan = planned(
        &[],
        &[ram(0x1000, 0x1800, HOST), ram(0x2800, 0x1800, B + 0x800)],
    );
    assert_eq!(
        plan.trapped(),
        [remainder(0x2000, 0x800), remainder(0x2800, 0x800)]
    );
    assert_eq!(plan.ops().len(), 2);
}

#[test]
fn a_range_may_end_at_the_last_address() {
    let plan = planned(&[], &[ram(u64::MAX - 0x17ff, 0x1800, HOST + 0x800)]);
    let [Op::Create(slot)] = plan.ops() else {
        panic!("{plan:?}");
    };
    assert_eq!((slot.gpa(), slot.last()), (u64::MAX - 0xfff, u64::MAX));
    assert_eq!(plan.trapped(), [remainder(u64::MAX - 0x17ff, 0x800)]);
}

#[test]
fn the_limit_is_the_kernels_and_is_checked_before_anything() {
    let four = {
        let mut able = able();
        able.nr_memslots = 4;
        able
    };
    let bars = |count: u64| -> Vec<SlotRange> {
        (0..count)
            .map(|n| ram(n * PAGE, PAGE, HOST + n * PAGE))
            .collect()
    };
    let current = table(&[&bars(4)]);
    assert_eq!(plan(&current, &bars(4), &four, ABI).unwrap().ops(), []);
    let refused = PlanError::TooManySlots {
        needed: 5,
        limit: 4,
        reserved: 0,
    };
    assert_eq!(plan(&current, &bars(5), &four, ABI), Err(refused));

    // Four others fit, because the old ones go first.
    let others: Vec<SlotRange> = (0..4)
        .map(|n| device(n * PAGE, PAGE, 7, n * PAGE))
        .collect();
    assert_eq!(plan(&current, &others, &four, ABI).unwrap().ops().len(), 8);
}

#[test]
fn no_capability_makes_more_slots_than_there_are_numbers() {
    let boastful = {
        let mut able = able();
        able.nr_memslots = u32::MAX;
        able
    };
    let bars = |count: u64| -> Vec<SlotRange> {
        (0..count)
            .map(|n| ram(n * PAGE, PAGE, HOST + n * PAGE))
            .collect()
    };
    let none = table(&[]);
    assert_eq!(
        plan(&none, &bars(65536), &boastful, ABI)
            .unwrap()
            .ops()
            .len(),
        65536
    );
    assert!(matches!(
        plan(&none, &bars(65537), &boastful, ABI),
        Err(PlanError::TooManySlots { limit: 65536, .. })
    ));
}

#[test]
fn every_unsupported_range_is_named_with_its_reason() {
    let old_kernel = {
        let mut able = able();
        able.user_memory2 = false;
        able.readonly_mem = false;
        able.guest_memfd = false;
        able
    };
    let ranges = [
        ram(0x0000, PAGE, HOST),
        readonly(ram(0x2000, PAGE, B)),
        guest_memfd(0x4000, PAGE, 7, 0),
        device(0x6000, PAGE, 8, 0),
        ram(0x8000, PAGE, C + 0x10),
    ];
    let because = |gpa, why| UnsupportedRange {
        gpa,
        size: PAGE,
        why,
    };
    let error = plan(&table(&[]), &ranges, &old_kernel, AbiProfile::None).unwrap_err();
    assert_eq!(
        error,
        PlanError::Unsupported(vec![
            because(0x2000, Unsupported::NoReadOnly),
            because(0x4000, Unsupported::NoGuestMemfd),
            because(0x6000, Unsupported::NoHostAddress),
            because(0x8000, Unsupported::Misaligned),
        ])
    );
    assert_eq!(error.to_string().matches("0x1000 bytes at").count(), 4);
}

#[test]
fn slots_on_files_are_neither_read_only_nor_logged() {
    for kind in [guest_memfd, device] {
        let cases = [
            (readonly(kind(0, PAGE, 7, 0)), Unsupported::ReadOnlyFile),
            (logged(kind(0, PAGE, 7, 0)), Unsupported::UnloggableFile),
            (kind(0, PAGE, 7, 0x10), Unsupported::Misaligned),
        ];
        for (range, why) in cases {
            let refused = UnsupportedRange {
                gpa: 0,
                size: PAGE,
                why,
            };
            let planned = plan(&table(&[]), &[range], &able(), ABI);
            assert_eq!(planned, Err(PlanError::Unsupported(vec![refused])));
        }
    }
}

#[test]
fn a_host_address_out_of_step_with_the_guests_is_misaligned() {
    let misaligned = |range: SlotRange| {
        let planned = plan(&table(&[]), &[range], &able(), ABI);
        let Err(PlanError::Unsupported(why)) = planned else {
            panic!("{planned:?}");
        };
        assert!(matches!(
            why[..],
            [UnsupportedRange {
                why: Unsupported::Misaligned,
                ..
            }]
        ));
    };
    misaligned(ram(0x1000, PAGE, HOST + 0x800));
    misaligned(ram(0x1800, 0x1800, HOST));
    let both = |at| SlotBacking::GuestMemfd {
        file: common::file(7, 0),
        host: Some(common::host(at)),
    };
    misaligned(range(0x1000, PAGE, both(HOST + 1)));
    // If both are aligned, both ends are cut in the same way.
    assert!(
        plan(
            &table(&[]),
            &[ram(0x1800, 0x1800, HOST + 0x800)],
            &able(),
            ABI
        )
        .is_ok()
    );
}

#[test]
fn larger_pages_leave_larger_remainders() {
    let large = {
        let mut able = able();
        able.page_size = PageSize::Size64K;
        able
    };
    let plan = plan(
        &table(&[]),
        &[ram(0x1000, 0x2_0000, HOST + 0x1000)],
        &large,
        ABI,
    )
    .unwrap();
    assert_eq!(
        plan.trapped(),
        [remainder(0x1000, 0xf000), remainder(0x2_0000, 0x1000)]
    );
}

#[test]
fn ranges_that_overlap_are_refused_and_named() {
    let refused = |ranges: &[SlotRange], why| {
        let planned = plan(&table(&[]), ranges, &able(), ABI);
        assert_eq!(planned, Err(why));
    };
    let overlap = |(gpa, size), (other_gpa, other_size)| PlanError::Overlap {
        gpa,
        size,
        other_gpa,
        other_size,
    };
    // In any order, and also within a page.
    let [low, high] = [ram(0, 0x2000, HOST), ram(0x1000, PAGE, B)];
    let both = || overlap((0x1000, PAGE), (0, 0x2000));
    refused(&[low.clone(), high.clone()], both());
    refused(&[high, low], both());
    let within_a_page = [ram(0x10, 0x10, HOST), ram(0x1f, 1, B)];
    refused(&within_a_page, overlap((0x1f, 1), (0x10, 0x10)));
    let to_the_end = [device(0, u64::MAX, 7, 0), ram(u64::MAX - 1, 2, B)];
    refused(&to_the_end, overlap((u64::MAX - 1, 2), (0, u64::MAX)));
    let last = [ram(u64::MAX, 1, HOST), ram(u64::MAX, 1, B)];
    refused(&last, overlap((u64::MAX, 1), (u64::MAX, 1)));
    // Side by side is no overlap.
    assert!(
        plan(
            &table(&[]),
            &[ram(0, PAGE, HOST), ram(PAGE, PAGE, B)],
            &able(),
            ABI
        )
        .is_ok()
    );
}

#[test]
fn a_range_that_wraps_or_differs_from_its_memory_in_size_cannot_be_written() {
    let at = |gpa, backing| SlotRange::new(gpa, SlotAccess::ReadWrite, backing);
    let memory = |size| SlotBacking::Host(host(HOST).slice(0, size).unwrap());
    let (gpa, size) = (u64::MAX, 2);
    assert_eq!(at(gpa, memory(size)), Err(RangeError::Wraps { gpa, size }));
    assert!(at(gpa, memory(1)).is_ok());
    // A range is as large as its memory, which is never empty.
    assert_eq!(at(0, memory(0x5000)).unwrap().size(), 0x5000);
    assert_eq!(memory(0x5000).slice(0x1000, 0x4001), None);
    assert_eq!(memory(0x5000).slice(0, 0), None);
    let sides = |file_size, host_size| SlotBacking::GuestMemfd {
        file: file(7, 0).slice(0, file_size).unwrap(),
        host: host(HOST).slice(0, host_size),
    };
    let differ = RangeError::SizesDiffer {
        gpa: 0,
        file: 0x2000,
        host: 0x1000,
    };
    assert_eq!(at(0, sides(0x2000, 0x1000)), Err(differ));
    assert!(at(0, sides(0x2000, 0x2000)).is_ok());
}

#[test]
fn a_guest_memfd_goes_beside_host_memory_of_its_size() {
    let ram = ram(0x4000, 0x2000, HOST).with_log_dirty(true);
    let file = |size| file(7, 0).slice(0, size).unwrap();
    let both = ram.clone().with_guest_memfd(file(0x2000)).unwrap();
    assert_eq!(
        (both.gpa(), both.size(), both.log_dirty()),
        (0x4000, 0x2000, true)
    );
    assert_eq!(both.backing().host(), ram.backing().host());
    let (gpa, size) = (0x4000, 0x1000);
    let differ = RangeError::SizesDiffer {
        gpa,
        file: size,
        host: 0x2000,
    };
    assert_eq!(ram.with_guest_memfd(file(size)), Err(differ));
    let backing = SlotBacking::GuestMemfd {
        file: file(size),
        host: None,
    };
    let private = SlotRange::new(gpa, SlotAccess::ReadWrite, backing).unwrap();
    let lacks = RangeError::NoHostMemory { gpa };
    assert_eq!(private.with_guest_memfd(file(size)), Err(lacks));
}
