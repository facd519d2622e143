// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pages that are converted between shared and private.

use kvm_slots::convert::{ConvertError, Converted, GuestPages, PageRange, Refusal};
use own_model::{Refused, Region, What, page_size};

use crate::hosts::{Host, Machine, region, stamped};

const AT: u64 = 0x30_0000;
/// The third argument of the hypercall, and the flags of the exit.
const ENCRYPTED: u64 = 1 << 4;
const PRIVATE: u64 = 1 << 3;

/// The number of converted bytes. No stale bytes may be left.
#[track_caller]
fn bytes(converted: Result<Converted, ConvertError>) -> u64 {
    let converted = converted.expect("a conversion");
    let left = converted.not_discarded;
    assert!(left.is_empty(), "not discarded: {left}");
    converted.bytes
}

pub fn a_converted_page_leaves_no_bytes_behind<V: Host>(mut machine: Machine<V>) {
    let (what, shared) = machine.confidential(4);
    machine.change(|model| model.add(region(1, AT, 4, what)));
    machine.stores(AT + page_size(), 5);
    assert_eq!(shared.get(page_size()), Some(5));

    let converted = machine
        .vmm
        .converter()
        .memory_fault(PRIVATE, AT + page_size(), page_size());
    assert_eq!(bytes(converted), page_size());
    assert_eq!(shared.get(page_size()), Some(0));
    machine.loads(AT + page_size(), 0);
    machine.stores(AT + page_size(), 6);
    assert_eq!(shared.get(page_size()), Some(0));
    // Another vCPU requests the same conversion.
    let again = machine
        .vmm
        .converter()
        .memory_fault(PRIVATE, AT + page_size(), page_size());
    assert_eq!(bytes(again), 0);

    let back = machine
        .vmm
        .converter()
        .memory_fault(0, AT + page_size(), page_size());
    assert_eq!(bytes(back), page_size());
    machine.loads(AT + page_size(), 0);
    let once_more = machine
        .vmm
        .converter()
        .hypercall(AT + page_size(), 1, ENCRYPTED);
    assert_eq!(bytes(once_more), page_size());
    machine.loads(AT + page_size(), 0);
}

pub fn a_hypercall_converts_all_pages_or_none<V: Host>(mut machine: Machine<V>) {
    let (what, shared) = machine.confidential(2);
    machine.change(|model| {
        model.add(region(1, AT, 2, what));
        model.add(region(2, AT + 2 * page_size(), 1, What::Ram(stamped(1))));
    });
    machine.stores(AT, 5);
    let refused = machine.vmm.converter().hypercall(AT, 3, ENCRYPTED);
    let refused = refused.expect_err("plain RAM has no private side");
    assert_eq!(refused.hypercall_return(), -22);
    let at = AT + 2 * page_size();
    assert!(matches!(
        refused,
        ConvertError::Refused(Refusal::NoPrivateSide { at: first, .. }) if first == at
    ));
    machine.loads(AT, 5);
    assert_eq!(shared.get(0), Some(5));
}

pub fn private_pages_follow_memory_that_moves<V: Host>(mut machine: Machine<V>) {
    let (what, shared) = machine.confidential(4);
    machine.change(|model| model.add(region(1, AT, 4, what)));
    let converted = machine
        .vmm
        .converter()
        .hypercall(AT + page_size(), 2, ENCRYPTED);
    assert_eq!(bytes(converted), 2 * page_size());
    for page in 0..4 {
        machine.stores(AT + u64::from(page) * page_size(), page + 1);
    }
    // By one page, so that old and new places overlap.
    machine.change(|model| model.move_to(1, AT + page_size()));
    for page in 0..4 {
        machine.loads(AT + page_size() + u64::from(page) * page_size(), page + 1);
    }
    machine.exits(AT);
    // Of the memory's own pages the first is shared, the next two are private.
    assert_eq!(shared.get(0), Some(1));
    assert_eq!(shared.get(page_size()), Some(0));
    let all = PageRange::new(AT, 8 * page_size()).expect("pages");
    let private = machine.vmm.converter().with_pages(|pages| {
        let runs = pages.private(all);
        runs.collect::<Vec<_>>()
    });
    let both = PageRange::new(AT + 2 * page_size(), 2 * page_size()).expect("pages");
    assert_eq!(private.expect("no panic"), [both]);
}

pub fn private_pages_are_never_hidden<V: Host>(mut machine: Machine<V>) {
    let (what, _shared) = machine.confidential(4);
    machine.change(|model| model.add(region(1, AT, 4, what)));
    let converted = machine
        .vmm
        .converter()
        .hypercall(AT + page_size(), 1, ENCRYPTED);
    assert_eq!(bytes(converted), page_size());
    machine.stores(AT + page_size(), 7);
    let over = |gpa| Region {
        priority: 1,
        ..region(2, gpa, 1, What::Trapped)
    };
    let hidden = machine
        .vmm
        .change(|model| model.add(over(AT + page_size())));
    assert!(matches!(hidden, Err(Refused::HidesPrivate)));
    machine.loads(AT + page_size(), 7);
    // The memory next to the page is cut, and the page is unchanged.
    machine.change(|model| model.add(over(AT + 2 * page_size())));
    machine.loads(AT + page_size(), 7);
    machine.exits(AT + 2 * page_size());
}
