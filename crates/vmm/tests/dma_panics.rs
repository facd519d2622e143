// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An IOMMU that panics while devices follow a transaction or a conversion.

mod dma_common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use dma_common::{APART, Machine, PAGE, PLAIN, ROM, When, pages};
use vfio_private::dma::SimIommuKind;
use vmm::dma::DmaPolicy;

const KINDS: [SimIommuKind; 2] = [SimIommuKind::Type1, SimIommuKind::Iommufd];

/// Visible memory, some of it private, in units of four pages.
fn machine(kind: SimIommuKind) -> Machine {
    let policy = DmaPolicy {
        unit: 4 * PAGE,
        ..DmaPolicy::default()
    };
    let mut m = Machine::new(kind, policy, None);
    m.place(PLAIN, 0, 0).unwrap();
    m.place(APART, 16 * PAGE, 0).unwrap();
    convert(&mut m, 21, 2, true);
    m.check();
    m
}

fn convert(m: &mut Machine, start: u64, count: u64, private: bool) {
    let converted = m.convert(pages(start, count), private).unwrap();
    assert!(converted.not_discarded.is_empty());
}

/// Makes a change in which a call on the IOMMU panics: once for each call, before
/// and after the call. Then settles the uncertain mappings.
fn each_panic(
    change: impl Fn(&mut Machine),
    settle: impl Fn(&mut Machine),
    check: impl Fn(&Machine),
) {
    for kind in KINDS {
        for when in [When::Before, When::After] {
            for call in 0.. {
                let mut m = machine(kind);
                m.iommu.panics(call, when);
                let changed = catch_unwind(AssertUnwindSafe(|| change(&mut m)));
                m.refuser.0.store(false, Ordering::Relaxed);
                if m.iommu.panics_no_more() {
                    assert!(call > 0, "no call panicked");
                    changed.unwrap();
                    break;
                }
                assert!(changed.is_err());
                assert!(m.dma.needs_resync(), "call {call}, {when:?}");
                check(&m);
                settle(&mut m);
                assert!(!m.dma.needs_resync(), "call {call}, {when:?}");
                m.check();
            }
        }
    }
}

/// No transaction has changed the view; another one resyncs.
fn transaction(m: &mut Machine) {
    m.place(ROM, 50 * PAGE, 0).unwrap();
}

#[test]
fn a_panic_in_a_transaction_is_settled_by_the_next() {
    // Memory moves to the place of other memory, and back.
    let moves = |m: &mut Machine| m.place(APART, 8 * PAGE, 1).unwrap();
    each_panic(moves, transaction, |m| {
        let view = m.model.view(m.space);
        assert!(view.find(28 * PAGE).is_some(), "the view is as it was");
    });
    let goes = |m: &mut Machine| {
        let mut t = m.model.transaction();
        t.set_enabled(m.regions[APART], false).unwrap();
        t.set_enabled(m.regions[PLAIN], false).unwrap();
        t.commit().unwrap();
    };
    each_panic(goes, transaction, |_| {});
}

#[test]
fn a_panic_while_a_transaction_is_undone_is_settled_by_the_next() {
    let refused = |m: &mut Machine| {
        m.refuser.0.store(true, Ordering::Relaxed);
        m.place(APART, 8 * PAGE, 1).unwrap_err();
    };
    each_panic(refused, transaction, |_| {});
}

#[test]
fn a_panic_in_a_conversion_is_settled_by_looking_at_everything() {
    let all = |m: &mut Machine| {
        let view = m.model.view(m.space);
        m.dma.resync(&view, m.model.private(m.space)).unwrap();
    };
    for private in [true, false] {
        let change = |m: &mut Machine| convert(m, 17, 6, private);
        each_panic(change, all, |_| {});
        each_panic(change, transaction, |_| {});
    }
}

#[test]
fn pages_that_turn_private_after_a_panic_are_out_of_devices_reach() {
    // A conversion settles what it touches, and leaves the rest to a transaction.
    let change = |m: &mut Machine| convert(m, 17, 6, true);
    let settle = |m: &mut Machine| {
        convert(m, 16, 4, true);
        for page in 16..20 {
            assert_eq!(m.reached(page), None);
        }
        assert!(m.dma.needs_resync());
        transaction(m);
    };
    each_panic(change, settle, |_| {});
}
