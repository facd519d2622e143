// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The steps of conversions, their order, and that there are no others.

use crate::common;

use common::PAGE;
use common::layout::{COUNT, Layout};
use kvm_slots::Unsupported;
use kvm_slots::convert::{ConvertError, MemoryError, PageRange, Refusal, Request, RequestError};
use kvm_slots::sim::{KernelVersion, SimConfig};

const PRIVATE: u64 = 1 << 4;
const SHARED: u64 = 0;

fn convert(layout: &Layout, first: u64, count: u64, attributes: u64) -> u64 {
    let converted = layout.converter.hypercall(first * PAGE, count, attributes);
    converted.unwrap().bytes / PAGE
}

fn refused(layout: &Layout, request: Request) -> Refusal {
    let error = layout.converter.convert(request).unwrap_err();
    assert_eq!(error.hypercall_return(), -22);
    assert!(layout.log().is_empty(), "nothing was touched");
    match error {
        ConvertError::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn devices_are_unmapped_before_the_guest_loses_pages_and_mapped_after_it_has_them() {
    let layout = Layout::new();
    assert_eq!(convert(&layout, 0, 2, PRIVATE), 2);
    assert_eq!(
        layout.log(),
        [
            "one prepare 0,1",
            "two prepare 0,1",
            "private 0-1",
            "release 2"
        ]
    );
    assert_eq!(convert(&layout, 0, 2, SHARED), 2);
    assert_eq!(
        layout.log(),
        [
            "shared 0-1",
            "one prepare 0,1",
            "two prepare 0,1",
            "punch 2"
        ]
    );
}

#[test]
fn a_removed_listener_follows_no_more_conversions() {
    let mut layout = Layout::new();
    let [one, two] = layout.mappers.clone();
    assert!(layout.converter.remove_listener(&one));
    assert!(
        !layout.converter.remove_listener(&one),
        "it was none any more"
    );
    assert_eq!(convert(&layout, 0, 1, PRIVATE), 1);
    assert_eq!(layout.log(), ["two prepare 0", "private 0-0", "release 1"]);
    assert!(layout.converter.remove_listener(&two));
    assert_eq!(convert(&layout, 1, 1, PRIVATE), 1);
    assert_eq!(layout.log(), ["private 1-1", "release 1"]);
}

#[test]
fn pages_in_the_requested_state_cost_nothing() {
    let layout = Layout::new();
    convert(&layout, 2, 4, PRIVATE);
    layout.log();
    assert_eq!(convert(&layout, 2, 4, PRIVATE), 0);
    assert_eq!(convert(&layout, 3, 1, PRIVATE), 0);
    // Holes and ordinary memory are shared from the start.
    assert_eq!(convert(&layout, 12, 8, SHARED), 0);
    assert_eq!(layout.log(), [""; 0]);
}

#[test]
fn only_pages_that_change_are_reported_and_discarded() {
    let layout = Layout::new();
    for page in [1, 3, 4] {
        convert(&layout, page, 1, PRIVATE);
    }
    layout.log();
    // One ioctl from the first page that changes to the last, and one discard for
    // each run of adjacent pages. The shared side of other private pages keeps the
    // host's bytes.
    assert_eq!(convert(&layout, 0, 12, PRIVATE), 9);
    assert_eq!(
        layout.log(),
        [
            "one prepare 0,2,5,6,7,8,9,10,11",
            "two prepare 0,2,5,6,7,8,9,10,11",
            "private 0-11",
            "release 1",
            "release 1",
            "release 3",
            "release 4",
        ]
    );
}

#[test]
fn private_mmio_is_accepted_by_its_attributes_alone() {
    let layout = Layout::new();
    assert_eq!(convert(&layout, 20, 4, PRIVATE), 4);
    let notified = ["one prepare 20,21,22,23", "two prepare 20,21,22,23"];
    assert_eq!(layout.log(), [&notified[..], &["private 20-23"]].concat());
    let changed = layout.converter.with_pages(|pages| pages.set_ranges(None));
    let pages = PageRange::new(20 * PAGE, 4 * PAGE).unwrap();
    assert_eq!(changed.unwrap(), Err(MemoryError::Accepted { pages }));
    // The guest gives it back, and then it can go.
    assert_eq!(convert(&layout, 20, 4, SHARED), 4);
    assert_eq!(layout.log(), [&["shared 20-23"], &notified[..]].concat());
    let changed = layout.converter.with_pages(|pages| pages.set_ranges(None));
    assert_eq!(changed.unwrap(), Ok(()));
}

#[test]
fn memory_in_place_and_memory_without_a_shared_side_have_nothing_to_release() {
    let layout = Layout::new();
    assert_eq!(convert(&layout, 24, 8, PRIVATE), 8);
    assert_eq!(layout.log()[2..], ["private 24-31"]);
    assert_eq!(convert(&layout, 28, 4, SHARED), 4);
    assert_eq!(layout.log()[0], "shared 28-31");
}

#[test]
fn one_page_that_cannot_be_private_refuses_the_whole_request() {
    let layout = Layout::new();
    for (first, count, at) in [
        (8, 5, 12),
        (12, 1, 12),
        (15, 2, 15),
        (16, 4, 16),
        (19, 2, 19),
    ] {
        let request = Request::hypercall(first * PAGE, count, PRIVATE).unwrap();
        let (range, at) = (request.range(), at * PAGE);
        assert_eq!(
            refused(&layout, request),
            Refusal::NoPrivateSide { range, at }
        );
    }
    let request = Request::hypercall(23 * PAGE, 3, SHARED).unwrap();
    let (range, at) = (request.range(), 24 * PAGE);
    assert_eq!(
        refused(&layout, request),
        Refusal::NoSharedSide { range, at }
    );
    let request = Request::accept(20 * PAGE, 5 * PAGE).unwrap();
    let (range, at) = (request.range(), 24 * PAGE);
    assert_eq!(
        refused(&layout, request),
        Refusal::NotPrivateMmio { range, at }
    );
    let request = Request::accept(20 * PAGE, 4 * PAGE).unwrap();
    assert_eq!(layout.converter.convert(request).unwrap().bytes, 4 * PAGE);
}

#[test]
fn a_private_page_whose_memory_was_removed_can_still_become_shared() {
    let layout = Layout::new();
    convert(&layout, 0, 4, PRIVATE);
    layout.log();
    layout
        .converter
        .with_pages(|p| p.set_ranges(None))
        .unwrap()
        .unwrap();
    assert_eq!(convert(&layout, 0, COUNT, SHARED), 4);
    // There are no bytes to discard. A listener may map other memory there.
    let notified = ["shared 0-3", "one prepare 0,1,2,3", "two prepare 0,1,2,3"];
    assert_eq!(layout.log(), notified);
}

#[test]
fn a_vm_without_private_pages_can_accept_private_mmio_and_no_more() {
    let abi = common::ABI;
    let layout = Layout::on(SimConfig {
        abi,
        ..SimConfig::released(KernelVersion::V7_3)
    });
    let error = layout.converter.hypercall(0, 1, PRIVATE).unwrap_err();
    assert_eq!(error.hypercall_return(), -95);
    assert!(matches!(
        error,
        ConvertError::Unsupported(Unsupported::NoPrivatePages)
    ));
    assert_eq!(convert(&layout, 20, 4, PRIVATE), 4);
    assert_eq!(layout.log().len(), 2, "listeners are told, and KVM is not");
    assert_eq!(convert(&layout, 0, 24, SHARED), 4);
}

#[test]
fn an_invalid_request_of_a_guest_is_an_error_with_its_reason() {
    let top = 0_u64.wrapping_sub(PAGE);
    let hypercall = Request::hypercall;
    assert_eq!(hypercall(0, 0, 0), Err(RequestError::Empty { gpa: 0 }));
    assert_eq!(
        hypercall(1, 1, 0),
        Err(RequestError::Unaligned { gpa: 1, size: PAGE })
    );
    assert_eq!(
        hypercall(top, 1, 0),
        Err(RequestError::Wraps {
            gpa: top,
            size: PAGE
        })
    );
    let size = u64::MAX;
    assert_eq!(
        hypercall(0, 1 << 52, 0),
        Err(RequestError::Wraps { gpa: 0, size })
    );
    assert!(hypercall(0, (1 << 52) - 1, 0).is_ok());
    for bit in 0..64 {
        let attributes = 1 << bit;
        let expected = bit <= 4;
        assert_eq!(hypercall(0, 1, attributes).is_ok(), expected, "bit {bit}");
        let fault = Request::memory_fault(attributes, 0, PAGE);
        assert_eq!(fault.is_ok(), bit == 3, "bit {bit}");
    }
    let half = Request::memory_fault(8, 0, PAGE / 2);
    assert_eq!(
        half,
        Err(RequestError::Unaligned {
            gpa: 0,
            size: PAGE / 2
        })
    );
}
