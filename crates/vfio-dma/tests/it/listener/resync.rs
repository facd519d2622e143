// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mappings that could not be undone when another listener refused, and an IOMMU
//! that panics: the next transaction resyncs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use kvm_slots::convert::ConvertError;
use vfio_dma::SimIommuKind;
use vfio_dma::listener::DmaPolicy;

use super::{KINDS, converted};
use crate::support::machine::{APART, IN_PLACE, Machine, PLAIN, ROM};
use crate::support::{PAGE, When, pages};

/// Visible memory, in units of four pages.
fn machine(kind: SimIommuKind) -> Machine {
    let policy = DmaPolicy::default().with_unit(4 * PAGE);
    let mut m = Machine::new(kind, policy, None);
    m.place(PLAIN, 0, 0).unwrap();
    m.place(APART, 16 * PAGE, 0).unwrap();
    m.check();
    m
}

fn refuse(m: &Machine, refuse: bool) {
    m.refuser.0.store(refuse, Ordering::Relaxed);
}

/// The next transaction resyncs.
fn is_settled(m: &mut Machine) {
    m.iommu.fail_no_more();
    refuse(m, false);
    m.place(ROM, 50 * PAGE, 0).unwrap();
    assert!(!m.dma.needs_resync());
    m.check();
}

#[test]
fn a_conversion_that_is_refused_and_not_undone_is_settled_by_the_next_transaction() {
    for kind in KINDS {
        let mut m = machine(kind);
        refuse(&m, true);
        // The first operation unmaps; the one that maps again fails.
        m.iommu.fail(1, 12);
        assert!(m.convert(pages(16, 4), true).is_err());
        assert!(m.dma.needs_resync());
        assert_eq!(m.reached(16), None);
        is_settled(&mut m);
        assert!(m.reached(16).is_some());
    }
}

#[test]
fn a_conversion_that_is_refused_and_undone_leaves_nothing_to_settle() {
    for kind in KINDS {
        let mut m = machine(kind);
        refuse(&m, true);
        assert!(m.convert(pages(16, 4), true).is_err());
        assert!(!m.dma.needs_resync());
        m.check();
    }
}

#[test]
fn pages_that_cannot_be_unmapped_again_stay_shared() {
    for kind in KINDS {
        let mut m = machine(kind);
        converted(&mut m, 16, 4, true);
        refuse(&m, true);
        // One operation maps the pages; the one that unmaps them again fails.
        m.iommu.fail(1, 5);
        let Err(ConvertError::Failed(failure)) = m.convert(pages(16, 4), false) else {
            panic!("it was converted");
        };
        assert_eq!(failure.not_undone.pages.bytes, 4 * PAGE);
        assert!(m.reached(16).is_some());
        assert!(m.model.private(m.space).is_empty());
        is_settled(&mut m);
    }
}

/// A machine whose memory from page 64 on is also mapped at page 48, because a move there
/// was refused and not undone. Transactions are still refused.
fn with_leftovers(kind: SimIommuKind) -> Machine {
    let mut m = machine(kind);
    m.place(IN_PLACE, 64 * PAGE, 0).unwrap();
    refuse(&m, true);
    // Two units are unmapped together and mapped elsewhere. There they stay.
    m.iommu.fail(3, 5);
    m.iommu.fail(4, 5);
    assert!(m.place(IN_PLACE, 48 * PAGE, 0).is_err());
    assert!(m.reached(49).is_some() && m.dma.needs_resync());
    m.iommu.fail_no_more();
    m
}

#[test]
fn pages_become_private_at_the_addresses_that_a_failed_rollback_has_left() {
    for (kind, page) in KINDS
        .into_iter()
        .flat_map(|kind| (64..68).map(move |page| (kind, page)))
    {
        let mut m = with_leftovers(kind);
        refuse(&m, false);
        converted(&mut m, page, 1, true);
        assert_eq!((m.reached(page), m.reached(page - 16)), (None, None));
        is_settled(&mut m);
    }
}

#[test]
fn several_stretches_become_private_where_a_failed_rollback_has_left_them() {
    for kind in KINDS {
        let mut m = with_leftovers(kind);
        refuse(&m, false);
        for (page, count) in [(65, 1), (70, 1), (64, 8)] {
            converted(&mut m, page, count, true);
            let private = |page| m.model.private(m.space).contains(page * PAGE);
            for page in (64..72).filter(|page| private(*page)) {
                assert_eq!((m.reached(page), m.reached(page - 16)), (None, None));
            }
        }
        is_settled(&mut m);
    }
}

#[test]
fn a_resync_that_is_undone_does_not_map_leftovers_again() {
    for kind in KINDS {
        let mut m = with_leftovers(kind);
        // The next transaction resyncs, and is refused as well. In its memslots, the memory
        // of the leftovers can be private by now.
        assert!(m.place(ROM, 56 * PAGE, 0).is_err());
        assert_eq!(m.reached(49), None);
        assert!(m.dma.needs_resync());
        is_settled(&mut m);
        assert!(m.reached(65).is_some());
    }
}

#[test]
fn a_transaction_that_is_refused_and_not_undone_is_settled_by_the_next() {
    for kind in KINDS {
        let mut m = machine(kind);
        refuse(&m, true);
        // One operation unmaps, one maps elsewhere. The second fails in the
        // rollback.
        m.iommu.fail(3, 12);
        assert!(m.place(PLAIN, 56 * PAGE, 0).is_err());
        assert!(m.dma.needs_resync());
        assert_eq!(m.reached(0), None);
        // Another refused transaction does not change that.
        m.iommu.fail_no_more();
        assert!(m.place(ROM, 50 * PAGE, 0).is_err());
        assert!(m.dma.needs_resync());
        is_settled(&mut m);
        assert!(m.reached(0).is_some());
    }
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
                converted(&mut m, 21, 2, true);
                m.check();
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
        let change = |m: &mut Machine| converted(m, 17, 6, private);
        each_panic(change, all, |_| {});
        each_panic(change, transaction, |_| {});
    }
}

#[test]
fn pages_that_turn_private_after_a_panic_are_out_of_devices_reach() {
    // A conversion settles what it touches, and leaves the rest to a transaction.
    let change = |m: &mut Machine| converted(m, 17, 6, true);
    let settle = |m: &mut Machine| {
        converted(m, 16, 4, true);
        for page in 16..20 {
            assert_eq!(m.reached(page), None);
        }
        assert!(m.dma.needs_resync());
        transaction(m);
    };
    each_panic(change, settle, |_| {});
}
