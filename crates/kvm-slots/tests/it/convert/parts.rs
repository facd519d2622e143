// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests over so many alternating pages that they are carried out in parts.

use crate::common;

use std::collections::BTreeSet;

use common::PAGE;
use common::layout::{Noting, SharedSteps, lock, pages_of, start};
use common::region::private_vm;
use kvm_slots::convert::{
    ConvertError, Converter, ConvertibleMemory, ConvertibleRange, FailedStep, GuestMemfdSides,
    GuestPages, Home, PageRange, PageState, Request, plan_conversion,
};
use kvm_slots::sim::{KernelVersion, SimVm};
use kvm_slots::{Errno, SlotBacking};

/// 96 MiB, of which no byte is touched.
const PAGES: u64 = 3 * 8192;

type Large = Converter<Noting, ConvertibleMemory>;

/// Memory with both sides in one file, and every other page private.
fn alternating(steps: &SharedSteps) -> Large {
    let file = common::file(-1, 0);
    let backing = SlotBacking::GuestMemfd { file, host: None };
    let range = common::range(0, PAGES * PAGE, backing);
    let mut memory = ConvertibleMemory::new();
    let range = ConvertibleRange::new(&range, GuestMemfdSides::Both);
    memory.set_ranges(range).unwrap();
    let vm = Noting::new(SimVm::new(private_vm(KernelVersion::V7_3)), steps);
    let large = Converter::new(vm, Home::VmAttributes, memory);
    for page in (0..PAGES).step_by(2) {
        let _ = large.hypercall(page * PAGE, 1, 1 << 4).unwrap();
    }
    large
}

fn all(to: PageState) -> Request {
    Request::new(0, PAGES * PAGE, to).unwrap()
}

fn private(large: &Large) -> BTreeSet<u64> {
    let range = PageRange::new(0, PAGES * PAGE).unwrap();
    let pages = large.with_pages(|p| p.private(range).flat_map(pages_of).collect());
    pages.unwrap()
}

#[test]
fn a_plan_has_at_most_4096_stretches_and_the_rest_of_the_request() {
    let large = alternating(&SharedSteps::default());
    let request = all(PageState::Private);
    let plan = large.with_pages(|pages| plan_conversion(pages, request));
    let plan = plan.unwrap().unwrap();
    assert_eq!(plan.stretches.len(), 4096);
    assert_eq!(plan.stale.len(), 4096);
    assert_eq!(plan.changes().last().unwrap().end(), 8192 * PAGE);
    assert_eq!(plan.rest.unwrap().start(), 8193 * PAGE);
}

/// Between private pages that become shared, there are shared pages. No one can have
/// written their private side.
#[test]
fn stale_bytes_to_shared_are_one_stretch() {
    let large = alternating(&SharedSteps::default());
    let request = all(PageState::Shared);
    let plan = large.with_pages(|pages| plan_conversion(pages, request));
    let plan = plan.unwrap().unwrap();
    assert_eq!((plan.stretches.len(), plan.stale.len()), (4096, 1));
}

#[test]
fn all_parts_together_are_the_request() {
    for to in [PageState::Private, PageState::Shared] {
        let steps = SharedSteps::default();
        let large = alternating(&steps);
        start(&steps, []);
        assert_eq!(large.convert(all(to)).unwrap().bytes, PAGES / 2 * PAGE);
        assert_eq!(lock(&steps).log.len(), 3, "one ioctl for each part");
        let expected = match to {
            PageState::Private => (0..PAGES).collect(),
            PageState::Shared => BTreeSet::new(),
        };
        assert_eq!(private(&large), expected);
        assert_eq!(large.vm().private(), expected);
    }
}

#[test]
fn a_part_that_fails_takes_the_parts_before_it_back() {
    for to in [PageState::Private, PageState::Shared] {
        let steps = SharedSteps::default();
        let large = alternating(&steps);
        let before = private(&large);
        start(&steps, [(2, Errno::ENOMEM)]);
        let error = large.convert(all(to)).unwrap_err();
        let ConvertError::Failed(failure) = error else {
            panic!("{error}");
        };
        assert!(failure.not_undone.is_empty());
        assert!(matches!(failure.cause, FailedStep::State { .. }));
        assert_eq!(private(&large), before);
        assert_eq!(large.vm().private(), before);
        // And then all of it.
        start(&steps, []);
        assert_eq!(large.convert(all(to)).unwrap().bytes, PAGES / 2 * PAGE);
    }
}

#[test]
fn a_part_that_cannot_be_fully_undone_is_counted_and_recorded() {
    let steps = SharedSteps::default();
    let large = alternating(&steps);
    let before = private(&large);
    // The third part fails, and then every tenth step back.
    let refused = (1..=800).map(|n| (2 + n * 10, Errno::EIO));
    start(&steps, refused.chain([(2, Errno::ENOMEM)]));
    let Err(ConvertError::Failed(failure)) = large.convert(all(PageState::Private)) else {
        panic!("it fails");
    };
    assert_eq!(failure.not_undone.pages.bytes, 800 * PAGE);
    let after = private(&large);
    assert_eq!(after.difference(&before).count(), 800);
    assert_eq!(large.vm().private(), after);
}

#[test]
fn memory_that_touches_on_both_sides_is_one_stretch_wherever_it_is() {
    let ranges = [5_u64, 8].map(|page| {
        // The file has what the pages would be from address 0 on.
        let file = common::file(-1, page * PAGE).slice(0, 3 * PAGE).unwrap();
        let backing = SlotBacking::GuestMemfd { file, host: None };
        let range = common::range(page * PAGE, 3 * PAGE, backing);
        ConvertibleRange::new(&range, GuestMemfdSides::Both).unwrap()
    });
    let mut memory = ConvertibleMemory::new();
    memory.set_ranges(ranges).unwrap();
    assert_eq!(memory.heap_bytes(), 0);
    let request = Request::new(5 * PAGE, 6 * PAGE, PageState::Private).unwrap();
    let plan = plan_conversion(&memory, request).unwrap();
    assert_eq!(plan.stretches.len(), 1);
    memory.record(request.range(), PageState::Private);
    let private = memory.heap_bytes();
    memory.accept(request.range());
    assert_eq!(memory.heap_bytes(), 2 * private);
    assert!(private > 0);
}
