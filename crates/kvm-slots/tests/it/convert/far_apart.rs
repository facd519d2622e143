// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests whose pages are far apart: KVM stores an attribute for every page of a call, so
//! no call covers what lies between.

use crate::common;

use std::collections::BTreeSet;

use common::PAGE;
use common::layout::{Noting, SharedSteps, lock, pages_of, start};
use common::region::private_vm;
use kvm_slots::convert::{
    Converter, ConvertibleMemory, ConvertibleRange, GuestMemfdSides, GuestPages, Home, PageRange,
    PageState, Request,
};
use kvm_slots::sim::{KernelVersion, SimVm};
use kvm_slots::{Errno, SlotBacking};
use proptest::prelude::*;

type Machine = Converter<Noting, ConvertibleMemory>;

/// The pages that one call may cover between two changes.
const BETWEEN: u64 = 64;

/// Memory at these ranges of pages.
fn memory(ranges: &[(u64, u64)]) -> Vec<ConvertibleRange> {
    let of = |&(first, pages): &(u64, u64)| {
        let file = common::file(-1, 0);
        let backing = SlotBacking::GuestMemfd { file, host: None };
        let range = common::range(first * PAGE, pages * PAGE, backing);
        ConvertibleRange::new(&range, GuestMemfdSides::Both).unwrap()
    };
    ranges.iter().map(of).collect()
}

fn machine(steps: &SharedSteps, ranges: &[(u64, u64)]) -> Machine {
    let mut pages = ConvertibleMemory::new();
    pages.set_ranges(memory(ranges)).unwrap();
    let vm = Noting::new(SimVm::new(private_vm(KernelVersion::V7_3)), steps);
    Converter::new(vm, Home::VmAttributes, pages)
}

fn private(machine: &Machine) -> BTreeSet<u64> {
    let all = PageRange::new(0, 1 << 46).unwrap();
    let pages = machine.with_pages(|pages| pages.private(all).flat_map(pages_of).collect());
    pages.unwrap()
}

/// The pages of the calls since `start`.
fn called(steps: &SharedSteps) -> Vec<(u64, u64)> {
    let of = |line: &String| {
        let pages = line.split(' ').nth(1)?.trim_end_matches(':');
        let (first, last) = pages.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    lock(steps).log.iter().filter_map(of).collect()
}

#[test]
fn two_pages_at_the_ends_of_the_address_space_are_two_calls_of_one_page() {
    let steps = SharedSteps::default();
    let high = 1 << 33;
    let machine = machine(&steps, &[(0, 1), (high, 1)]);
    for page in [0, high] {
        let _ = machine.hypercall(page * PAGE, 1, 1 << 4).unwrap();
    }
    start(&steps, []);
    let all = Request::new(0, (high + 1) * PAGE, PageState::Shared).unwrap();
    assert_eq!(machine.convert(all).unwrap().bytes, 2 * PAGE);
    assert_eq!(called(&steps), [(0, 0), (high, high)]);
    assert!(private(&machine).is_empty() && machine.vm().private().is_empty());
}

#[test]
fn pages_whose_memory_is_away_are_counted_where_they_lie() {
    // The second page loses its memory, and the third call fails: all three that lie
    // between others have changed by then, and change back.
    let (steps, step) = (SharedSteps::default(), BETWEEN + 2);
    let ranges: Vec<(u64, u64)> = (0..5).map(|n| (n * step, 1)).collect();
    let machine = machine(&steps, &ranges);
    for &(page, _) in &ranges {
        let _ = machine.hypercall(page * PAGE, 1, 1 << 4).unwrap();
    }
    let rest = [ranges[0], ranges[2], ranges[4]];
    let set = machine.with_pages(|pages| pages.set_ranges(memory(&rest)));
    set.unwrap().unwrap();
    let before = private(&machine);
    let all = Request::new(0, 5 * step * PAGE, PageState::Shared).unwrap();
    for fails in 0..5 {
        start(&steps, [(fails, Errno::ENOMEM)]);
        machine.convert(all).unwrap_err();
        assert_eq!(private(&machine), before, "call {fails}");
        assert_eq!(machine.vm().private(), before, "call {fails}");
    }
    start(&steps, []);
    assert_eq!(machine.convert(all).unwrap().bytes, 5 * PAGE);
    assert_eq!(called(&steps).len(), 5);
    assert!(machine.vm().private().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn calls_cover_what_changes_and_little_between(
        // The distance to the page before, and whether the page keeps its memory.
        pages in prop::collection::vec((1..3 * BETWEEN, any::<bool>()), 1..40),
        fails in 0..40_usize,
    ) {
        let steps = SharedSteps::default();
        let mut end = 0;
        let pages: Vec<(u64, bool)> = pages.iter().map(|&(distance, stays)| {
            end += distance;
            (end - 1, stays)
        }).collect();
        let all: Vec<(u64, u64)> = pages.iter().map(|&(page, _)| (page, 1)).collect();
        let rest = pages.iter().filter(|(_, stays)| *stays);
        let rest: Vec<(u64, u64)> = rest.map(|&(page, _)| (page, 1)).collect();
        let machine = machine(&steps, &all);
        for &(page, _) in &pages {
            let _ = machine.hypercall(page * PAGE, 1, 1 << 4).unwrap();
        }
        machine.with_pages(|pages| pages.set_ranges(memory(&rest))).unwrap().unwrap();
        let before = private(&machine);
        let request = Request::new(0, end * PAGE, PageState::Shared).unwrap();
        start(&steps, [(fails, Errno::ENOMEM)]);
        if machine.convert(request).is_err() {
            prop_assert_eq!(private(&machine), before.clone());
            prop_assert_eq!(machine.vm().private(), before.clone());
            start(&steps, []);
            let _ = machine.convert(request).unwrap();
        }
        prop_assert!(machine.vm().private().is_empty() && private(&machine).is_empty());
        let calls = called(&steps);
        let covered = |page: &u64| calls.iter().any(|(first, last)| (first..=last).contains(&page));
        prop_assert!(before.iter().all(covered));
        let gaps = all.windows(2).map(|two| two[1].0 - two[0].0 - 1);
        let calls_needed = 1 + gaps.filter(|&gap| gap > BETWEEN).count();
        prop_assert_eq!(calls.len(), calls_needed);
        let ends = |&(first, last): &(u64, u64)| before.contains(&first) && before.contains(&last);
        prop_assert!(calls.iter().all(ends));
    }
}
