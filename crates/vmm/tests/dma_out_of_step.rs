// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Mappings that could not be undone when another listener refused.

mod dma_common;

use std::sync::atomic::Ordering;

use dma_common::{APART, Machine, PAGE, PLAIN, ROM, pages};
use vfio_private::dma::SimIommuKind;
use vmm::dma::DmaPolicy;

const KINDS: [SimIommuKind; 2] = [SimIommuKind::Type1, SimIommuKind::Iommufd];

fn machine(kind: SimIommuKind) -> Machine {
    let policy = DmaPolicy {
        unit: 4 * PAGE,
        ..DmaPolicy::default()
    };
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
