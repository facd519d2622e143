// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that change between private and shared as memory moves.

use crate::common;

use std::collections::BTreeSet;

use common::dumb::DumbSlots;
use common::{ABI, HOST, PAGE, able, guest_memfd, ram, table, texts};
use kvm_slots::convert::PageRange;
use kvm_slots::plan::{UnsupportedRange, plan_change};
use kvm_slots::uapi::MEMORY_ATTRIBUTE_PRIVATE;
use kvm_slots::{Capabilities, Change, PageSize, Plan, PlanError, SlotTable, Unsupported};
use proptest::prelude::*;

fn confidential() -> Capabilities {
    let mut able = able();
    able.memory_attributes = MEMORY_ATTRIBUTE_PRIVATE;
    able
}

fn run(gpa: u64, size: u64) -> PageRange {
    PageRange::new(gpa, size).unwrap()
}

fn attributes(was: &[PageRange], is: &[PageRange]) -> Result<Plan, PlanError> {
    let change = Change::new(&[], &[]).with_private_pages(was, is);
    plan_change(&SlotTable::new(), &change, &confidential(), ABI)
}

#[test]
fn private_pages_follow_memory_that_moves() {
    let old = guest_memfd(0x1000, 0x4000, 7, 0);
    let new = guest_memfd(0x9000, 0x4000, 7, 0);
    let current = table(&[std::slice::from_ref(&old)]);
    let removed = [old];
    let added = [new];
    let was = [run(0x1000, 0x1000), run(0x3000, 0x2000)];
    let is = [run(0x9000, 0x1000), run(0xb000, 0x2000)];
    let change = Change::new(&removed, &added).with_private_pages(&was, &is);
    let plan = plan_change(&current, &change, &confidential(), ABI).unwrap();
    assert_eq!(
        texts(&plan),
        [
            "DELETE slot 0 at 0x1000",
            "ATTRIBUTES at 0x1000, 0x1000 bytes: shared",
            "ATTRIBUTES at 0x3000, 0x2000 bytes: shared",
            "ATTRIBUTES at 0x9000, 0x1000 bytes: private",
            "ATTRIBUTES at 0xb000, 0x2000 bytes: private",
            "CREATE slot 0 at 0x9000, 0x4000 bytes",
        ]
    );
    assert!(plan.holds_vcpus());
}

#[test]
fn a_slot_that_is_recreated_in_place_keeps_its_private_pages() {
    let old = guest_memfd(0x1000, 0x4000, 7, 0);
    let new = guest_memfd(0x1000, 0x5000, 7, 0);
    let current = table(&[std::slice::from_ref(&old)]);
    let private = [run(0x1000, 0x1000), run(0x3000, 0x2000)];
    let removed = [old];
    let added = [new];
    let change = Change::new(&removed, &added).with_private_pages(&private, &private);
    let plan = plan_change(&current, &change, &confidential(), ABI).unwrap();
    assert_eq!(
        texts(&plan),
        [
            "DELETE slot 0 at 0x1000",
            "CREATE slot 0 at 0x1000, 0x5000 bytes"
        ]
    );
    assert!(plan.holds_vcpus());
}

#[test]
fn memory_is_added_only_after_the_pages_there_are_shared() {
    let private = guest_memfd(0x1000, PAGE, 7, 0);
    let bar = |gpa| ram(gpa, PAGE, HOST);
    let current = table(&[&[private.clone(), bar(0x8000)]]);
    let removed = [private, bar(0x8000)];
    let added = [bar(0x1000), guest_memfd(0x8000, PAGE, 7, 0)];
    let was = [run(0x1000, PAGE)];
    let is = [run(0x8000, PAGE)];
    let change = Change::new(&removed, &added).with_private_pages(&was, &is);
    let plan = plan_change(&current, &change, &confidential(), ABI).unwrap();
    assert_eq!(
        texts(&plan),
        [
            "DELETE slot 0 at 0x1000",
            "ATTRIBUTES at 0x1000, 0x1000 bytes: shared",
            "MOVE slot 1 from 0x8000 to 0x1000",
            "ATTRIBUTES at 0x8000, 0x1000 bytes: private",
            "CREATE slot 0 at 0x8000, 0x1000 bytes",
        ]
    );
}

#[test]
fn pages_that_are_no_pages_cannot_be_written() {
    let top = PAGE.wrapping_neg();
    for (gpa, size) in [(0, 0), (1, PAGE), (0, PAGE + 1), (top, PAGE), (0, u64::MAX)] {
        assert!(PageRange::new(gpa, size).is_err());
    }
}

#[test]
fn pages_that_are_smaller_than_the_hosts_are_refused() {
    let mut large = confidential();
    large.page_size = PageSize::Size16K;
    let whole = run(0, 4 * PAGE);
    for bad in [run(0, PAGE), run(PAGE, 4 * PAGE)] {
        let refused = PlanError::PagesUnaligned {
            pages: bad,
            page_size: PageSize::Size16K,
        };
        for (was, is) in [(bad, whole), (whole, bad)] {
            let (was, is) = ([was], [is]);
            let change = Change::new(&[], &[]).with_private_pages(&was, &is);
            let planned = plan_change(&SlotTable::new(), &change, &large, ABI);
            assert_eq!(planned, Err(refused.clone()));
        }
    }
}

#[test]
fn private_pages_that_overlap_are_refused_and_named() {
    let overlapping = [run(0x4000, PAGE), run(0, 0x2000), run(0x1000, PAGE)];
    let refused = PlanError::PagesOverlap {
        pages: run(0x1000, PAGE),
        other: run(0, 0x2000),
    };
    assert_eq!(attributes(&overlapping, &[]), Err(refused.clone()));
    assert_eq!(attributes(&[], &overlapping), Err(refused));
}

#[test]
fn a_kernel_without_private_pages_refuses_changes_of_them() {
    let pages = [run(0x1000, PAGE)];
    let change = Change::new(&[], &[]).with_private_pages(&[], &pages);
    let refused = UnsupportedRange {
        gpa: 0x1000,
        size: PAGE,
        why: Unsupported::NoPrivatePages,
    };
    assert_eq!(
        plan_change(&SlotTable::new(), &change, &able(), ABI),
        Err(PlanError::Unsupported(vec![refused]))
    );
    // Nothing changes, so the kernel needs no capability.
    let same = change.with_private_pages(&pages, &pages);
    let plan = plan_change(&SlotTable::new(), &same, &able(), ABI).unwrap();
    assert_eq!(plan.ops(), []);
}

/// A set of pages as some runs, which may touch.
fn some_runs() -> impl Strategy<Value = Vec<PageRange>> {
    prop::collection::vec((0..3_u64, 1..4_u64), 0..8).prop_map(|pieces| {
        let mut at = 0;
        let place = |(gap, pages): (u64, u64)| {
            let gpa = at + gap * PAGE;
            at = gpa + pages * PAGE;
            run(gpa, pages * PAGE)
        };
        pieces.into_iter().map(place).collect()
    })
}

fn pages(runs: &[PageRange]) -> BTreeSet<u64> {
    let pages = runs.iter().map(|run| run.start() / PAGE..run.end() / PAGE);
    pages.flatten().collect()
}

proptest! {
    #[test]
    fn exactly_the_pages_that_differ_change_in_as_few_calls_as_there_are_runs(
        was in some_runs(),
        is in some_runs().prop_map(|mut runs| { runs.reverse(); runs }),
    ) {
        let plan = attributes(&was, &is).unwrap();
        let mut kvm = DumbSlots::default();
        kvm.private = pages(&was);
        for op in plan.ops() {
            kvm.step(op);
        }
        prop_assert_eq!(&kvm.private, &pages(&is));

        // A call for each page that differs from before and has another kind
        // of change, or none, in front of it.
        let (was, is) = (pages(&was), pages(&is));
        let kind = |page: u64| (was.contains(&page), is.contains(&page));
        let starts = (0..60).filter(|&page| {
            let (before, after) = kind(page);
            before != after && (page == 0 || kind(page - 1) != (before, after))
        });
        prop_assert_eq!(plan.ops().len(), starts.count());

        for op in plan.ops().iter().rev().map(kvm_slots::Op::inverse) {
            kvm.step(&op);
        }
        prop_assert_eq!(&kvm.private, &was);
    }
}
